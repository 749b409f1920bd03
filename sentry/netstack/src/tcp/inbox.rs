//! What a connection has received and nobody has read: pieces in the order of the stream, with gaps where something is missing.
//!
//! A large segment stays in the buffer that it came in, if its device lends that ([`RxFrame::buffer`](crate::RxFrame::buffer)); what is smaller
//! is copied into buffers that several share. Readers hold on to the pieces that they copy from, so that this happens with
//! the connection unlocked. No byte is there twice.
//!
//! Buffers of our own are counted ([`Memory`]), with what it takes to know of a piece; lent ones are their device's.

use super::memory::{ALWAYS, Memory};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Segments from this size on stay where they are.
const LARGE: usize = 16_384;
/// The smallest and the largest buffer that segments are copied into.
const SMALL: usize = 2048;
const MOST: usize = 65_536;
/// What is missing is filled by so many pieces at most; the rest has to come again.
const PIECES: usize = 4096;
/// What a piece takes beside its bytes.
const NOTE: usize = 128;

/// A buffer that several may hold.
pub(crate) type Buffer = Arc<Vec<u8>>;

#[derive(Debug)]
struct Piece {
    /// Where in the stream it begins.
    at: u64,
    buffer: Buffer,
    range: Range<usize>,
    /// What it is counted as; 0 if it is lent.
    counted: usize,
}

impl Piece {
    fn end(&self) -> u64 {
        self.at + self.range.len() as u64
    }
}

#[derive(Debug)]
pub(crate) struct Inbox {
    pieces: VecDeque<Piece>,
    /// Where in the stream the first byte is that has not been read, and how many follow without a gap.
    start: u64,
    len: usize,
    /// An empty buffer of the smallest size, kept for what comes next.
    spare: Option<Vec<u8>>,
    memory: Arc<Memory>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.release();
    }
}

impl Inbox {
    pub fn new(memory: Arc<Memory>) -> Inbox {
        Inbox { pieces: VecDeque::new(), start: 0, len: 0, spare: None, memory }
    }
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether it takes memory though there is nothing in it.
    pub fn keeps(&self) -> bool {
        self.spare.is_some()
    }

    /// How many of `len` bytes may be put `off` bytes from the first one: all, unless memory is tight.
    pub fn room(&self, off: usize, len: usize) -> usize {
        if self.memory.lacks(len.max(SMALL) + NOTE) { ALWAYS.saturating_sub(off).min(len) } else { len }
    }

    /// Puts bytes `off` bytes from the first one; `lent` is the buffer that they may be in. False: there are too many pieces.
    pub fn put(&mut self, off: usize, data: &[u8], lent: Option<&Buffer>) -> bool {
        let (at, end) = (self.start + off as u64, self.start + (off + data.len()) as u64);
        let mut index = self.pieces.partition_point(|piece| piece.end() <= at);
        if off <= self.len {
            self.clear(index, end);
            self.insert(index, at, data, lent, true);
            return true;
        }
        // Out of order: only what is not there.
        let (mut at, mut rest) = (at, data);
        while at < end {
            let next = self.pieces.get(index).map(|piece| (piece.at, piece.end()));
            let (from, to) = next.unwrap_or((end, end));
            let fresh = usize::try_from(from.min(end).saturating_sub(at)).unwrap_or(usize::MAX);
            let Some((now, later)) = rest.split_at_checked(fresh) else { return false };
            if !now.is_empty() {
                if self.pieces.len() >= PIECES {
                    return false;
                }
                index = self.insert(index, at, now, lent, false);
            }
            let passed = usize::try_from(to.saturating_sub(from.max(at))).unwrap_or(usize::MAX);
            rest = later.get(passed..).unwrap_or_default();
            (at, index) = (to.max(from), index + 1);
        }
        true
    }

    /// Makes way for what comes in order, which counts more than what came out of it: for all from `index` on, up to `end`.
    fn clear(&mut self, index: usize, end: u64) {
        while self.pieces.get(index).is_some_and(|piece| piece.end() <= end) {
            if let Some(piece) = self.pieces.remove(index) {
                self.forget(piece);
            }
        }
        if let Some(piece) = self.pieces.get_mut(index).filter(|piece| piece.at < end) {
            piece.range.start += usize::try_from(end - piece.at).unwrap_or(0);
            piece.at = end;
        }
    }

    /// Answers where the next one would be.
    fn insert(&mut self, index: usize, at: u64, data: &[u8], lent: Option<&Buffer>, in_order: bool) -> usize {
        if in_order && self.append(index, at, data) {
            return index;
        }
        let lent = lent.filter(|_| data.len() >= LARGE);
        let borrowed = lent.and_then(|buffer| borrow(at, data, buffer));
        let piece = borrowed.unwrap_or_else(|| self.copy(at, data, in_order));
        self.pieces.insert(index, piece);
        index + 1
    }

    /// Adds to the piece before `index`, if that ends at `at` and has room.
    fn append(&mut self, index: usize, at: u64, data: &[u8]) -> bool {
        let Some(last) = index.checked_sub(1).and_then(|last| self.pieces.get_mut(last)) else {
            return false;
        };
        if last.end() != at || last.counted == 0 {
            return false;
        }
        let Some(buffer) = Arc::get_mut(&mut last.buffer) else { return false };
        if buffer.len() != last.range.end || buffer.capacity() - buffer.len() < data.len() {
            return false;
        }
        buffer.extend_from_slice(data);
        last.range.end = buffer.len();
        true
    }

    /// `last`: more will be added.
    fn copy(&mut self, at: u64, data: &[u8], last: bool) -> Piece {
        let size =
            if last { data.len().max(self.len.min(MOST)).max(SMALL).next_power_of_two() } else { data.len() };
        let spare = self.spare.take_if(|_| last && size == SMALL);
        let fresh = spare.is_none();
        let mut buffer = spare.unwrap_or_else(|| Vec::with_capacity(size));
        buffer.extend_from_slice(data);
        let counted = size + NOTE;
        if fresh {
            self.memory.used.fetch_add(counted, Ordering::Relaxed);
        }
        Piece { at, buffer: Arc::new(buffer), range: 0..data.len(), counted }
    }

    /// What has been put behind the end belongs to it now.
    pub fn extend(&mut self, n: usize) {
        self.len += n;
    }

    /// Calls for pieces of what begins `off` bytes on, as long as there is something.
    pub fn share(&self, off: usize, len: usize, mut take: impl FnMut(&Buffer, Range<usize>) -> bool) {
        let (mut at, end) =
            (self.start + off as u64, self.start + off.saturating_add(len).min(self.len) as u64);
        let first = self.pieces.partition_point(|piece| piece.end() <= at);
        for piece in self.pieces.range(first..) {
            let skip = usize::try_from(at.saturating_sub(piece.at)).unwrap_or(usize::MAX);
            let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let from = piece.range.start.saturating_add(skip);
            let to = piece.range.end.min(from.saturating_add(left));
            if from >= to || !take(&piece.buffer, from..to) {
                return;
            }
            at = piece.end();
        }
    }

    /// The byte `off` bytes on.
    pub fn byte(&self, off: usize) -> Option<u8> {
        let mut found = None;
        self.share(off, 1, |buffer, range| {
            found = buffer.get(range.start).copied();
            false
        });
        found
    }

    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.start += n as u64;
        self.len -= n;
        while self.pieces.front().is_some_and(|piece| piece.end() <= self.start) {
            if let Some(piece) = self.pieces.pop_front() {
                self.forget(piece);
            }
        }
        if self.pieces.is_empty() && self.pieces.capacity() > 64 {
            self.pieces = VecDeque::new();
        }
    }

    fn forget(&mut self, piece: Piece) {
        if piece.counted == SMALL + NOTE && self.spare.is_none() {
            if let Some(mut buffer) = Arc::into_inner(piece.buffer) {
                buffer.clear();
                self.spare = Some(buffer);
                return;
            }
        }
        self.memory.used.fetch_sub(piece.counted, Ordering::Relaxed);
    }

    /// Gives up what is there, and its memory.
    pub fn release(&mut self) {
        let spare = if self.spare.take().is_some() { SMALL + NOTE } else { 0 };
        let counted = self.pieces.drain(..).map(|piece| piece.counted).sum::<usize>() + spare;
        self.memory.used.fetch_sub(counted, Ordering::Relaxed);
        self.start += self.len as u64;
        self.len = 0;
    }
}

/// A piece of a lent buffer, if the bytes are in it.
fn borrow(at: u64, data: &[u8], buffer: &Buffer) -> Option<Piece> {
    let from = data.as_ptr().addr().checked_sub(buffer.as_ptr().addr())?;
    let range = from..from.checked_add(data.len())?;
    let there = std::ptr::eq(buffer.get(range.clone())?, data);
    there.then(|| Piece { at, buffer: buffer.clone(), range, counted: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    fn memory() -> Arc<Memory> {
        let memory = Arc::new(Memory::default());
        memory.limit.store(1 << 24, Ordering::Relaxed);
        memory
    }

    fn content(inbox: &Inbox, off: usize, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        inbox.share(off, len, |buffer, range| {
            all.extend_from_slice(&buffer[range]);
            true
        });
        all
    }

    #[test]
    fn against_a_stream() {
        let memory = memory();
        let mut rng = Rng::new(5);
        let stream: Vec<u8> =
            (0..4_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (mut inbox, mut read, mut there) = (Inbox::new(memory.clone()), 0, vec![false; stream.len()]);
        let mut held = Vec::new();
        while read < stream.len() - 200_000 {
            // Lost, late, doubled, in pieces of all sizes.
            let off = if rng.chance(60.0) { inbox.len() } else { rng.below(150_000) as usize };
            let most = if rng.chance(20.0) { 50_000 } else { 2000 };
            let len = 1 + rng.below(most) as usize;
            let buffer = Arc::new(stream[read + off..read + off + len].to_vec());
            assert!(inbox.put(off, &buffer, rng.chance(50.0).then_some(&buffer)));
            there[read + off..read + off + len].fill(true);
            let whole = there[read..].iter().take_while(|there| **there).count();
            let before = inbox.len();
            inbox.extend(whole - before);
            let (off, len) = (rng.below(3000) as usize, rng.below(200_000) as usize);
            let want = &stream[read + off.min(whole)..read + (off + len).min(whole)];
            assert_eq!(content(&inbox, off, len), want);
            assert_eq!(inbox.byte(off), (off < whole).then(|| stream[read + off]));
            if rng.chance(30.0) {
                // A reader that is still copying.
                inbox.share(0, usize::MAX, |buffer, _| {
                    held.push(buffer.clone());
                    held.len() % 3 != 0
                });
            }
            let n = rng.below(120_000) as usize;
            inbox.consume(n);
            read += n.min(whole);
            if rng.chance(20.0) {
                held.clear();
            }
        }
        inbox.release();
        assert_eq!((inbox.len(), inbox.keeps(), memory.used.load(Ordering::Relaxed)), (0, false, 0));
    }

    #[test]
    fn what_is_lent_is_not_copied() {
        let memory = memory();
        let mut inbox = Inbox::new(memory.clone());
        let frame = Arc::new(vec![7; 60_000]);
        assert!(inbox.put(0, &frame[60..], Some(&frame)));
        inbox.extend(60_000 - 60);
        assert_eq!((Arc::strong_count(&frame), memory.used.load(Ordering::Relaxed)), (2, 0));
        // Nothing is added to what is somebody else's.
        assert!(inbox.put(60_000 - 60, b"more", None));
        assert_eq!(frame.len(), 60_000);
        inbox.extend(4);
        inbox.consume(60_000);
        assert_eq!((Arc::strong_count(&frame), inbox.len()), (1, 0));
    }

    #[test]
    fn crumbs_are_bounded() {
        let memory = memory();
        let mut inbox = Inbox::new(memory.clone());
        // Backwards, so that nothing can be added to anything.
        let taken = (0..1_000_000).rev().take_while(|off| inbox.put(*off, b"x", None)).count();
        assert_eq!((taken, memory.used.load(Ordering::Relaxed)), (PIECES, PIECES * (NOTE + 1)));
        // What all of it waits for still has its place.
        assert!(inbox.put(0, &[7; 3000], None));
        memory.limit.store(0, Ordering::Relaxed);
        assert_eq!((inbox.room(0, 10_000), inbox.room(4000, 10_000), inbox.room(5000, 1)), (4096, 96, 0));
    }
}
