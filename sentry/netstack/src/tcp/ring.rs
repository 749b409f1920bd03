//! A ring of bytes that grows as it must: what is queued to be sent.
//!
//! Its memory is counted ([`Memory`]) and given back when it has been empty for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all rings of a stack take.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub used: AtomicUsize,
    /// Beyond it, rings do not grow (tcp_mem).
    pub limit: AtomicUsize,
}

impl Memory {
    pub fn tight(&self) -> bool {
        self.lacks(0)
    }
    /// Whether so many bytes more are too many.
    pub fn lacks(&self, more: usize) -> bool {
        self.used.load(Ordering::Relaxed).saturating_add(more) > self.limit.load(Ordering::Relaxed)
    }
}

/// What a connection may have even if memory is tight, so that all make progress.
pub(crate) const ALWAYS: usize = 4096;

#[derive(Debug)]
pub(crate) struct Ring {
    /// A power of two, or nothing.
    buf: Vec<u8>,
    start: usize,
    len: usize,
    memory: Arc<Memory>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.buf.len(), Ordering::Relaxed);
    }
}

impl Ring {
    pub fn new(memory: Arc<Memory>) -> Ring {
        Ring { buf: Vec::new(), start: 0, len: 0, memory }
    }
    pub fn len(&self) -> usize {
        self.len
    }
    fn wrap(&self, at: usize) -> usize {
        at & self.buf.len().wrapping_sub(1)
    }

    /// Makes room for `total` bytes from the start on. False: memory is tight.
    pub fn reserve(&mut self, total: usize) -> bool {
        if total <= self.buf.len() {
            return true;
        }
        let size = total.max(ALWAYS).next_power_of_two();
        if size > ALWAYS && self.memory.lacks(size - self.buf.len()) {
            return false;
        }
        let mut grown = vec![0; size];
        let (wrapped, first) = self.buf.split_at_checked(self.start).unwrap_or((&[], &[]));
        let rooms = grown.split_at_mut_checked(first.len());
        if let Some((to_first, rest)) = rooms {
            to_first.copy_from_slice(first);
            if let Some(to_wrapped) = rest.get_mut(..wrapped.len()) {
                to_wrapped.copy_from_slice(wrapped);
            }
        }
        self.memory.used.fetch_add(size - self.buf.len(), Ordering::Relaxed);
        self.buf = grown;
        self.start = 0;
        true
    }

    /// Makes room for `total` bytes, or for what one may have in any case; the room there is.
    pub fn grow(&mut self, total: usize) -> usize {
        if !self.reserve(total) {
            self.reserve(ALWAYS);
        }
        self.buf.len()
    }

    /// Bytes from `off` on, in up to two pieces.
    pub fn slices(&self, off: usize, len: usize) -> [&[u8]; 2] {
        let off = off.min(self.len);
        let len = len.min(self.len - off);
        if len == 0 {
            return [&[], &[]];
        }
        let at = self.wrap(self.start + off);
        let first = len.min(self.buf.len() - at);
        let a = self.buf.get(at..at + first).unwrap_or_default();
        let b = self.buf.get(..len - first).unwrap_or_default();
        [a, b]
    }

    /// The first piece of room behind what is there.
    pub fn room(&mut self) -> &mut [u8] {
        if self.len == self.buf.len() {
            return &mut [];
        }
        let at = self.wrap(self.start + self.len);
        let end = if at < self.start { self.start } else { self.buf.len() };
        self.buf.get_mut(at..end).unwrap_or_default()
    }

    /// What has been written behind the end belongs to it now.
    pub fn extend(&mut self, n: usize) {
        self.len = (self.len + n).min(self.buf.len());
    }

    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.start = self.wrap(self.start + n);
        self.len -= n;
    }

    /// Gives its memory back; only for an empty one.
    pub fn release(&mut self) {
        self.memory.used.fetch_sub(self.buf.len(), Ordering::Relaxed);
        self.buf = Vec::new();
        self.start = 0;
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn against_a_deque() {
        let memory = Arc::new(Memory::default());
        memory.limit.store(1 << 20, Ordering::Relaxed);
        let mut rng = crate::testing::Rng::new(3);
        let mut ring = Ring::new(memory.clone());
        let mut model = std::collections::VecDeque::new();
        for n in 0..20_000_u32 {
            let len = rng.below(700) as usize;
            if rng.chance(50.0) && model.len() < 60_000 {
                assert!(ring.reserve(ring.len() + len));
                let data: Vec<u8> = (0..len).map(|i| (n as usize * 31 + i) as u8).collect();
                let mut left = &data[..];
                while !left.is_empty() {
                    let room = ring.room();
                    let now = room.len().min(left.len());
                    room[..now].copy_from_slice(&left[..now]);
                    ring.extend(now);
                    left = &left[now..];
                }
                model.extend(data);
            } else {
                ring.consume(len);
                model.drain(..len.min(model.len()));
            }
            let (off, len) = (rng.below(300) as usize, rng.below(2000) as usize);
            let got = ring.slices(off, len).concat();
            let expected: Vec<u8> = model.iter().skip(off).take(len).copied().collect();
            assert_eq!(got, expected);
            assert_eq!(ring.len(), model.len());
        }
        assert_eq!(memory.used.load(Ordering::Relaxed), ring.buf.len());
        memory.limit.store(0, Ordering::Relaxed);
        assert!(!ring.reserve(1 << 20));
        drop(ring);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        assert!(Ring::new(memory).reserve(100), "a little is always there");
    }
}
