//! What is queued to be sent: bytes in blocks that those who send hold on to, so that the connection need not be locked
//! meanwhile.
//!
//! A block is written to while nobody else holds it; what comes later goes into another one. Blocks that are free again are
//! filled again, the last one first: it is in the CPU's cache. Their memory is counted ([`Memory`]) and given back when there has been
//! nothing to send for a while.

use super::memory::{ALWAYS, Memory};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The largest block; a device sends two of them at once.
pub(crate) const BLOCK: usize = 65_536;
/// So many of these are kept while they are free.
const SPARE: usize = 16;

type Bytes = Arc<Vec<u8>>;

#[derive(Debug)]
struct Block {
    /// Where it begins, counted from the connection's first byte.
    at: u64,
    /// How much of it is filled.
    len: usize,
    bytes: Bytes,
}

impl Block {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len as u64)
    }
}

/// A part of a block, for who sends it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Piece {
    bytes: Option<Bytes>,
    range: Range<usize>,
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref().and_then(|bytes| bytes.get(self.range.clone())).unwrap_or_default()
    }
}

/// A block that is filled by whoever has it; it is appended or given back.
pub(crate) struct Blank(Vec<u8>);

impl Blank {
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.0
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    blocks: VecDeque<Block>,
    /// Where what is queued begins and ends, as `Block::at`.
    start: u64,
    end: u64,
    spare: Vec<Vec<u8>>,
    /// What of its memory is counted, and how much of that is in blocks that somebody fills.
    counted: usize,
    lent: usize,
    memory: Arc<Memory>,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Outbox {
    pub fn new(memory: Arc<Memory>) -> Outbox {
        Outbox { blocks: VecDeque::new(), start: 0, end: 0, spare: Vec::new(), counted: 0, lent: 0, memory }
    }
    pub fn len(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.start)).unwrap_or(usize::MAX)
    }

    fn count(&mut self, size: usize) {
        self.counted += size;
        self.memory.used.fetch_add(size, Ordering::Relaxed);
    }
    fn uncount(&mut self, size: usize) {
        let size = size.min(self.counted);
        self.counted -= size;
        self.memory.used.fetch_sub(size, Ordering::Relaxed);
    }

    /// A block for `want` bytes, or some of them; `None`: memory is tight.
    pub fn blank(&mut self, want: usize) -> Option<Blank> {
        let size = want.max(ALWAYS).next_power_of_two().min(BLOCK);
        if size == BLOCK
            && let Some(spare) = self.spare.pop()
        {
            self.lent += BLOCK;
            return Some(Blank(spare));
        }
        let size = match self.memory.lacks(size) {
            true if self.counted == 0 => ALWAYS,
            true => return None,
            false => size,
        };
        self.count(size);
        self.lent += size;
        Some(Blank(vec![0; size]))
    }

    /// Nothing was put into it.
    pub fn give_back(&mut self, blank: Blank) {
        let Blank(bytes) = blank;
        self.lent = self.lent.saturating_sub(bytes.len());
        self.free(bytes);
    }

    fn free(&mut self, bytes: Vec<u8>) {
        if bytes.len() == BLOCK && self.spare.len() < SPARE {
            self.spare.push(bytes);
        } else {
            self.uncount(bytes.len());
        }
    }

    /// What has been put into a block is queued.
    pub fn append(&mut self, blank: Blank, len: usize) {
        let Blank(bytes) = blank;
        let len = len.min(bytes.len());
        self.lent = self.lent.saturating_sub(bytes.len());
        self.blocks.push_back(Block { at: self.end, len, bytes: Arc::new(bytes) });
        self.end = self.end.saturating_add(len as u64);
    }

    /// Room for the first of `want` bytes behind what is there; none if memory is tight.
    pub fn room(&mut self, want: usize) -> &mut [u8] {
        let fits =
            |block: &mut Block| block.len < block.bytes.len() && Arc::get_mut(&mut block.bytes).is_some();
        if !self.blocks.back_mut().is_some_and(fits) {
            // The more waits already, the more is to come.
            let Some(blank) = self.blank(want.max(self.len())) else { return &mut [] };
            self.append(blank, 0);
        }
        let last = self.blocks.back_mut();
        let room = last.and_then(|block| Arc::get_mut(&mut block.bytes)?.get_mut(block.len..));
        room.unwrap_or_default()
    }

    /// What has been written into the room is queued.
    pub fn extend(&mut self, n: usize) {
        if let Some(last) = self.blocks.back_mut() {
            last.len = last.len.saturating_add(n).min(last.bytes.len());
            self.end = last.end();
        }
    }

    /// The block that has the byte `off` from the start on.
    fn find(&self, off: usize) -> (usize, u64) {
        let at = self.start.saturating_add(off as u64);
        (self.blocks.partition_point(|block| block.end() <= at), at)
    }

    /// How many bytes from `off` on [`Outbox::pieces`] has room for.
    pub fn reach(&self, off: usize) -> usize {
        let (index, at) = self.find(off);
        let last = self.blocks.get(index.saturating_add(1)).or_else(|| self.blocks.get(index));
        last.map_or(0, |block| usize::try_from(block.end().saturating_sub(at)).unwrap_or(0))
    }

    /// `len` bytes from `off` on, or as many as are in two pieces.
    pub fn pieces(&self, off: usize, len: usize) -> [Piece; 2] {
        let (index, mut at) = self.find(off);
        let mut left = len.min(self.len().saturating_sub(off));
        let mut blocks = self.blocks.range(index.min(self.blocks.len())..);
        [(); 2].map(|()| {
            let Some(block) = blocks.next().filter(|_| left > 0) else { return Piece::default() };
            let from = usize::try_from(at.saturating_sub(block.at)).unwrap_or(0);
            let n = left.min(block.len.saturating_sub(from));
            left -= n;
            at = at.saturating_add(n as u64);
            Piece { bytes: Some(block.bytes.clone()), range: from..from.saturating_add(n) }
        })
    }

    /// The first `n` bytes have arrived.
    pub fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n.min(self.len()) as u64);
        while let Some(first) = self.blocks.front_mut().filter(|first| first.end() <= self.start) {
            // The only one is filled again from its beginning.
            if self.start == self.end && first.end() == self.end && Arc::get_mut(&mut first.bytes).is_some() {
                (first.at, first.len) = (self.end, 0);
                return;
            }
            let Some(Block { bytes, .. }) = self.blocks.pop_front() else { return };
            let size = bytes.len();
            match Arc::try_unwrap(bytes) {
                Ok(bytes) => self.free(bytes),
                Err(_sent) => self.uncount(size),
            }
        }
    }

    /// Gives its memory back; only for an empty one.
    pub fn release(&mut self) {
        self.uncount(self.counted.saturating_sub(self.lent));
        self.blocks = VecDeque::new();
        self.spare = Vec::new();
        self.start = self.end;
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
        let mut outbox = Outbox::new(memory.clone());
        let mut model = std::collections::VecDeque::new();
        let mut sent = VecDeque::new();
        for n in 0..20_000_u32 {
            let len = rng.below(700) as usize;
            let data: Vec<u8> = (0..len).map(|i| (n as usize * 31 + i) as u8).collect();
            if rng.chance(10.0) && model.len() < 60_000 {
                let mut blank = outbox.blank(len).unwrap();
                blank.room()[..len].copy_from_slice(&data);
                outbox.append(blank, len);
                model.extend(data);
            } else if rng.chance(50.0) && model.len() < 60_000 {
                let mut left = &data[..];
                while !left.is_empty() {
                    let room = outbox.room(left.len());
                    let now = room.len().min(left.len());
                    room[..now].copy_from_slice(&left[..now]);
                    outbox.extend(now);
                    left = &left[now..];
                }
                model.extend(data);
            } else {
                outbox.consume(len);
                model.drain(..len.min(model.len()));
            }
            let (off, len) = (rng.below(300) as usize, rng.below(2000) as usize);
            let expected: Vec<u8> = model.iter().skip(off).take(len).copied().collect();
            let pieces = outbox.pieces(off, len);
            let got = pieces.each_ref().map(Piece::bytes).concat();
            assert_eq!(got.len(), outbox.reach(off).min(expected.len()));
            assert_eq!(got, expected[..got.len()]);
            assert_eq!(outbox.len(), model.len());
            assert_eq!(memory.used.load(Ordering::Relaxed), outbox.counted);
            // What is being sent stays what it is.
            sent.push_back((pieces, got));
            if sent.len() > 20 {
                let (pieces, got) = sent.pop_front().unwrap();
                assert_eq!(pieces.each_ref().map(Piece::bytes).concat(), got);
            }
        }
        memory.limit.store(0, Ordering::Relaxed);
        assert!(outbox.blank(1 << 20).is_none());
        drop(outbox);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        let mut fresh = Outbox::new(memory);
        assert_eq!(fresh.room(1 << 20).len(), ALWAYS, "a little is always there");
    }

    #[test]
    fn blocks_are_filled_again() {
        let memory = Arc::new(Memory::default());
        memory.limit.store(1 << 30, Ordering::Relaxed);
        let mut outbox = Outbox::new(memory.clone());
        let used = || memory.used.load(Ordering::Relaxed);
        for _ in 0..1000 {
            outbox.room(100)[..100].fill(1);
            outbox.extend(100);
            outbox.consume(100);
        }
        assert_eq!(used(), ALWAYS);
        outbox.release();
        assert_eq!(used(), 0);
        for _ in 0..40 {
            let blank = outbox.blank(BLOCK).unwrap();
            outbox.append(blank, BLOCK);
        }
        assert_eq!(used(), 40 * BLOCK);
        outbox.consume(39 * BLOCK);
        assert_eq!(used(), (SPARE + 1) * BLOCK);
        let blank = outbox.blank(BLOCK).unwrap();
        outbox.append(blank, 1);
        assert_eq!(used(), (SPARE + 1) * BLOCK);
        // What was queued by small writes is in few pieces all the same.
        outbox.release();
        for _ in 0..1000 {
            let room = outbox.room(1000);
            let n = room.len().min(1000);
            outbox.extend(n);
        }
        assert!(outbox.blocks.len() < 24, "{}", outbox.blocks.len());
    }
}
