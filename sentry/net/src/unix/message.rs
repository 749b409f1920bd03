//! Messages in a receive queue: their buffers, and what they are charged to: the sender's SO_SNDBUF, and what all queues
//! of the sandbox may hold ([`SOCKET_BYTES`]). While that is exceeded, a socket has one small message on its way at most
//! (*squeezed*), and at twice of it there are none: ENOBUFS.

use super::gc::Rights;
use super::{IN, OUT};
use crate::UnixAddr;
use chitin_abi::Errno;
use chitin_abi::socket::Ucred;
use chitin_mm::Source;
use chitin_vfs::WaitQueue;
use chitin_vfs::bounds::SOCKET_BYTES;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The part of a socket that its messages refer to while they are in somebody else's queue.
pub(super) struct Shared {
    /// Its name: set once, never changed.
    pub addr: OnceLock<UnixAddr>,
    /// Charged to it (sk_wmem_alloc).
    used: AtomicUsize,
    sndbuf: Arc<AtomicUsize>,
    /// Somebody was told that it cannot send although its own budget has room: the next message that goes wakes.
    squeezed: AtomicBool,
    /// Who waits on the socket.
    pub queue: WaitQueue,
}

/// Bytes of a message while the sandbox's queues hold too much.
pub(super) const SMALL: usize = 2048;

impl Shared {
    pub fn new(sndbuf: Arc<AtomicUsize>) -> Shared {
        Shared {
            addr: OnceLock::new(),
            used: AtomicUsize::new(0),
            sndbuf,
            squeezed: AtomicBool::new(false),
            queue: WaitQueue::new(),
        }
    }
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
    fn sndbuf(&self) -> usize {
        self.sndbuf.load(Ordering::Relaxed)
    }
    /// POLLOUT: three quarters are free (unix_writable()).
    pub fn writable(&self) -> bool {
        self.used().saturating_mul(4) <= self.sndbuf() && self.unsqueezed()
    }
    /// Another message may be charged: the last one may overshoot.
    pub fn has_room(&self) -> bool {
        self.used() < self.sndbuf() && self.unsqueezed()
    }
    fn unsqueezed(&self) -> bool {
        if !SOCKET_BYTES.exceeded() || self.used() == 0 {
            return true;
        }
        // First the mark, then the look: what goes in between sees one of them.
        self.squeezed.store(true, Ordering::SeqCst);
        self.used.load(Ordering::SeqCst) == 0
    }
}

/// A share of a socket's send budget; dropping it gives it back.
pub(super) struct Charge {
    pub sender: Arc<Shared>,
    amount: usize,
}

impl Charge {
    /// ENOBUFS when the sandbox's queues hold far too much.
    pub fn new(sender: &Arc<Shared>, amount: usize) -> Result<Charge, Errno> {
        if !SOCKET_BYTES.force(amount) && SOCKET_BYTES.used() / 2 > SOCKET_BYTES.limit() {
            SOCKET_BYTES.give(amount);
            return Err(Errno::ENOBUFS);
        }
        sender.used.fetch_add(amount, Ordering::Relaxed);
        Ok(Charge { sender: sender.clone(), amount })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.sender.used.fetch_sub(self.amount, Ordering::SeqCst);
        SOCKET_BYTES.give(self.amount);
        let limit = self.sender.sndbuf();
        let after = before.saturating_sub(self.amount);
        // Only the edge matters to those who wait for room.
        let squeezed = self.sender.squeezed.swap(false, Ordering::SeqCst);
        if squeezed || (before.saturating_mul(4) > limit && after.saturating_mul(4) <= limit) {
            self.sender.queue.wake(OUT);
        }
    }
}

/// What a stream puts into one message at most (SKB_MAX_HEAD(0) + UNIX_SKB_FRAGS_SZ).
pub(super) const STREAM_CHUNK: usize = 36_544;
/// Bytes of a page that a buffer's head leaves for data.
const HEAD_ROOM: usize = 3776;
/// As much of a datagram goes into its head (SKB_MAX_ALLOC).
const MAX_HEAD: usize = 16_064;
const PAGE: usize = 4096;
/// MAX_SKB_FRAGS pages.
const MAX_PAGED: usize = 17 * PAGE;
/// `struct sk_buff`, and `struct skb_shared_info`.
const SKB: usize = 256;
const SKB_INFO: usize = 320;

/// What Linux's memory for a message of `len` bytes comes to (skb->truesize).
pub(super) fn truesize(len: usize, stream: bool) -> usize {
    let pages = |n: usize| n.div_ceil(PAGE).saturating_mul(PAGE);
    let paged = match stream {
        true => pages(len.saturating_sub(HEAD_ROOM)).min(len),
        false => pages(len.saturating_sub(MAX_HEAD)).min(MAX_PAGED),
    };
    let head = (len - paged).saturating_add(SKB_INFO).next_power_of_two().max(512);
    SKB + head + pages(paged)
}

/// Buffers of [`STREAM_CHUNK`] bytes kept for the next message: getting them fresh means zeroing or mapping them.
static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
const POOL_LIMIT: usize = 64;

/// The bytes of a message. Only `..len` were written by its sender.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// Takes exactly `len` bytes from the source, or EFAULT and leaves it as it was.
    pub fn fill(source: &mut dyn Source, len: usize) -> Result<Buffer, Errno> {
        // A small message must not keep a large buffer.
        let pooled = (STREAM_CHUNK / 2..=STREAM_CHUNK).contains(&len);
        let bytes = match pooled {
            true => POOL.lock().pop().unwrap_or_else(|| vec![0; STREAM_CHUNK].into_boxed_slice()),
            false => vec![0; len].into_boxed_slice(),
        };
        let mut buffer = Buffer { bytes, len };
        let mut done = 0;
        while done < len {
            let rest = buffer.bytes.get_mut(done..len).unwrap_or_default();
            match source.take(rest) {
                Ok(count) if count > 0 => done += count,
                _ => {
                    source.untake(done);
                    return Err(Errno::EFAULT);
                }
            }
        }
        Ok(buffer)
    }

    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
    pub fn data(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == STREAM_CHUNK {
            let mut pool = POOL.lock();
            if pool.len() < POOL_LIMIT {
                pool.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

/// A message, or a piece of a stream.
pub(super) struct Message {
    buffer: Buffer,
    /// Bytes already received.
    start: usize,
    /// Who sent it, where somebody wants to know.
    pub creds: Option<Ucred>,
    pub rights: Option<Rights>,
    pub charge: Charge,
}

impl Message {
    pub fn new(buffer: Buffer, creds: Option<Ucred>, rights: Option<Rights>, charge: Charge) -> Message {
        Message { buffer, start: 0, creds, rights, charge }
    }
    pub fn data(&self) -> &[u8] {
        self.buffer.data().get(self.start..).unwrap_or_default()
    }
    pub fn len(&self) -> usize {
        self.data().len()
    }
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count);
    }
    /// The sender's name, if it has one.
    pub fn sender(&self) -> Option<&UnixAddr> {
        self.charge.sender.addr.get()
    }
}

/// What a new message wakes its receiver for.
pub(super) const ARRIVED: u32 = IN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_what_linux_charges() {
        // Measured with SIOCOUTQ on Linux 6.18.
        let stream =
            [(1, 768), (192, 768), (300, 1280), (704, 1280), (705, 2304), (1000, 2304), (2000, 4352)];
        for (len, size) in stream {
            assert_eq!((truesize(len, true), truesize(len, false)), (size, size), "{len}");
        }
        let long = [(4000, 4864, 8448), (8192, 8960, 16640), (16384, 17152, 20736), (32768, 33536, 37120)];
        for (len, stream, datagram) in long {
            assert_eq!((truesize(len, true), truesize(len, false)), (stream, datagram), "{len}");
        }
    }
}
