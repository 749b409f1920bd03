//! The bytes of a direct connection on their way: pieces that their sender filled before it locked anything, and that
//! their receiver copies from while nothing is locked either.

use chitin_abi::Errno;
use chitin_mm::Source;
use chitin_vfs::bounds::TCP_BYTES;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// The largest piece.
pub const CHUNK: usize = 65536;
/// The smallest piece: what comes in small writes shares one.
pub const SMALL: usize = 2048;

/// Pieces of [`CHUNK`] bytes kept for the next sender: getting them fresh means mapping and zeroing them.
static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
const POOL_LIMIT: usize = 64;

/// Pieces of [`SMALL`] bytes that a thread keeps, for the same reason. They count as bytes on their way all the time.
#[derive(Default)]
struct SmallPool(Vec<Box<[u8]>>);

const SMALL_POOL_LIMIT: usize = 16;

thread_local! {
    static SMALL_POOL: RefCell<SmallPool> = RefCell::default();
}

impl SmallPool {
    /// Gives the piece back that there is no room for.
    fn keep(&mut self, bytes: Box<[u8]>) -> Option<Box<[u8]>> {
        if self.0.len() >= SMALL_POOL_LIMIT || TCP_BYTES.exceeded() {
            return Some(bytes);
        }
        self.0.push(bytes);
        None
    }
}

impl Drop for SmallPool {
    fn drop(&mut self) {
        TCP_BYTES.give(self.0.len().saturating_mul(SMALL));
    }
}

/// A piece of a stream: `..len` is data.
pub struct Chunk {
    bytes: Box<[u8]>,
    len: usize,
}

impl Chunk {
    fn with_room(room: usize) -> Chunk {
        let size = if room <= SMALL { SMALL } else { room.next_power_of_two().min(CHUNK) };
        if size == SMALL
            && let Some(bytes) = SMALL_POOL.with_borrow_mut(|pool| pool.0.pop())
        {
            return Chunk { bytes, len: 0 };
        }
        let pooled = if size == CHUNK { POOL.lock().pop() } else { None };
        let bytes = pooled.unwrap_or_else(|| vec![0; size].into_boxed_slice());
        TCP_BYTES.force(bytes.len());
        Chunk { bytes, len: 0 }
    }

    /// Takes up to `want` bytes (no more than [`CHUNK`]) from the source. EFAULT when not one could be had.
    pub fn fill(source: &mut dyn Source, want: usize) -> Result<Chunk, Errno> {
        let want = want.min(CHUNK);
        let mut chunk = Chunk::with_room(want);
        while chunk.len < want {
            let rest = chunk.bytes.get_mut(chunk.len..want).unwrap_or_default();
            match source.take(rest) {
                Ok(0) => break,
                Ok(count) => chunk.len += count,
                Err(error) if chunk.len == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(chunk)
    }

    pub fn data(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn append(&mut self, data: &[u8]) -> bool {
        let Some(room) = self.bytes.get_mut(self.len..self.len.saturating_add(data.len())) else {
            return false;
        };
        room.copy_from_slice(data);
        self.len += data.len();
        true
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut bytes = Some(std::mem::take(&mut self.bytes));
        let len = bytes.as_ref().map_or(0, |bytes| bytes.len());
        if len == SMALL {
            // The thread may be at its end.
            let _ended = SMALL_POOL.try_with(|pool| {
                bytes = bytes.take().and_then(|bytes| pool.borrow_mut().keep(bytes));
            });
        }
        let Some(bytes) = bytes else { return };
        TCP_BYTES.give(len);
        if len == CHUNK {
            let mut pool = POOL.lock();
            if pool.len() < POOL_LIMIT {
                pool.push(bytes);
            }
        }
    }
}

/// Bytes in order.
#[derive(Default)]
pub struct Chunks {
    queue: VecDeque<Arc<Chunk>>,
    /// Bytes of the first piece that are gone.
    head: usize,
    len: usize,
}

impl Chunks {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Small pieces join the last one where it has room and nobody is reading it.
    pub fn push(&mut self, chunk: Chunk) {
        let count = chunk.data().len();
        self.len += count;
        if count <= SMALL
            && let Some(last) = self.queue.back_mut().and_then(Arc::get_mut)
            && last.append(chunk.data())
        {
            return;
        }
        self.queue.push_back(Arc::new(chunk));
    }

    /// Takes the only piece out if it is all there is, and no more than `most`; from where on in it.
    pub fn take_sole(&mut self, most: usize) -> Option<(Arc<Chunk>, usize)> {
        if self.queue.len() != 1 || self.len > most {
            return None;
        }
        self.len = 0;
        Some((self.queue.pop_front()?, std::mem::take(&mut self.head)))
    }

    /// Puts back what [`Chunks::take_sole`] took, from `at` on, before what has come since.
    pub fn put_back(&mut self, chunk: Arc<Chunk>, at: usize) {
        self.len = self.len.saturating_add(chunk.len.saturating_sub(at));
        self.head = at;
        self.queue.push_front(chunk);
    }

    /// The piece with the byte `skip` bytes after the first, and where in it that byte is.
    pub fn at(&self, skip: usize) -> Option<(Arc<Chunk>, usize)> {
        let mut offset = self.head.saturating_add(skip);
        for chunk in &self.queue {
            if offset < chunk.len {
                return Some((chunk.clone(), offset));
            }
            offset -= chunk.len;
        }
        None
    }

    /// Takes out the pieces that begin `limit` bytes from the first one or later.
    pub fn keep(&mut self, limit: usize) -> Vec<Arc<Chunk>> {
        let mut gone = Vec::new();
        while let Some(last) = self.queue.back()
            && self.queue.len() > 1
            && self.len.saturating_sub(last.len) >= limit
        {
            self.len -= last.len;
            gone.extend(self.queue.pop_back());
        }
        gone
    }

    /// Forgets the first `count` bytes. Pieces are given back to whoever drops them.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.head += count;
        while let Some(first) = self.queue.front()
            && self.head >= first.len
        {
            self.head -= first.len;
            self.queue.pop_front();
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_mm::SliceSource;

    fn chunk(data: &[u8]) -> Chunk {
        Chunk::fill(&mut SliceSource::new(data), data.len()).unwrap()
    }

    #[test]
    fn keeps_the_order() {
        let mut chunks = Chunks::default();
        chunks.push(chunk(b"abc"));
        chunks.push(chunk(b"def"));
        assert_eq!((chunks.len(), chunks.queue.len()), (6, 1));
        let (held, _) = chunks.at(0).unwrap();
        // Somebody reads the first: the next goes into another.
        chunks.push(chunk(b"ghi"));
        assert_eq!(chunks.queue.len(), 2);
        assert_eq!(held.data(), b"abcdef");
        chunks.consume(4);
        let (piece, at) = chunks.at(2).unwrap();
        assert_eq!(&piece.data()[at..], b"ghi");
        let (piece, at) = chunks.at(1).unwrap();
        assert_eq!(&piece.data()[at..], b"f");
        chunks.consume(5);
        assert!(chunks.at(0).is_none() && chunks.len() == 0);
        chunks.push(chunk(&[7; 100_000]));
        assert_eq!(chunks.len(), CHUNK);
    }

    #[test]
    fn what_was_taken_in_one_piece_comes_back_first() {
        let mut chunks = Chunks::default();
        assert!(chunks.take_sole(9).is_none());
        chunks.push(chunk(b"abcdef"));
        chunks.consume(1);
        assert!(chunks.take_sole(4).is_none());
        let (piece, at) = chunks.take_sole(5).unwrap();
        assert_eq!((&piece.data()[at..], chunks.len()), (&b"bcdef"[..], 0));
        chunks.push(chunk(b"ghi"));
        chunks.put_back(piece, at + 2);
        assert_eq!(chunks.len(), 6);
        let (piece, at) = chunks.at(0).unwrap();
        assert_eq!(&piece.data()[at..], b"def");
        chunks.consume(3);
        let (piece, at) = chunks.take_sole(3).unwrap();
        assert_eq!(&piece.data()[at..], b"ghi");
    }
}
