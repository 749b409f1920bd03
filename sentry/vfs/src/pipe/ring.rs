//! The bytes of a pipe and how they lie in Linux's page-sized buffers.
//!
//! The bytes themselves are one ring that grows as needed; beside it is a list of *slots*, one for each page that Linux
//! would hold, because when a pipe is full, what merges and where packets end is a matter of pages.

use chitin_abi::Errno;
use chitin_mm::{Sink, Source};
use std::collections::VecDeque;

/// Bytes per slot, and PIPE_BUF.
pub const PAGE: usize = 4096;

/// One page of Linux's ring of pipe buffers.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Bytes not yet read.
    len: usize,
    /// Where in the page the next byte would go.
    end: usize,
    /// A later write may fill the rest of the page.
    merge: bool,
    /// Read as one packet (O_DIRECT).
    packet: bool,
}

/// The content of a pipe.
#[derive(Default)]
pub(super) struct Buffer {
    ring: Vec<u8>,
    head: usize,
    len: usize,
    slots: VecDeque<Slot>,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Buffer::default();
    }

    /// Gives back what is beyond `size` bytes and not in use.
    pub(super) fn fit(&mut self, size: usize) {
        if self.ring.len() > size.max(self.len) {
            self.rebuild(self.len.next_power_of_two().max(PAGE));
        }
    }

    fn rebuild(&mut self, size: usize) {
        let mut ring = vec![0; size];
        let (a, b) = self.filled(0, self.len);
        let (to_a, rest) = ring.split_at_mut(a.len());
        to_a.copy_from_slice(a);
        if let Some(to_b) = rest.get_mut(..b.len()) {
            to_b.copy_from_slice(b);
        }
        self.ring = ring;
        self.head = 0;
    }

    /// Two slices with the `count` bytes that start `skip` bytes after the first.
    fn filled(&self, skip: usize, count: usize) -> (&[u8], &[u8]) {
        let count = count.min(self.len.saturating_sub(skip));
        if count == 0 {
            return (&[], &[]);
        }
        let start = (self.head + skip) % self.ring.len();
        let first = count.min(self.ring.len() - start);
        (
            self.ring.get(start..start + first).unwrap_or_default(),
            self.ring.get(..count - first).unwrap_or_default(),
        )
    }

    /// Makes room for `count` more bytes and answers the two slices they go to.
    fn spare(&mut self, count: usize) -> (&mut [u8], &mut [u8]) {
        if count == 0 {
            return (&mut [], &mut []);
        }
        if count > self.ring.len() - self.len {
            self.rebuild((self.len + count).next_power_of_two().max(PAGE));
        }
        if self.len == 0 {
            self.head = 0;
        }
        let size = self.ring.len();
        let start = (self.head + self.len) % size;
        let first = count.min(size - start);
        let (low, high) = self.ring.split_at_mut(start);
        (high.get_mut(..first).unwrap_or_default(), low.get_mut(..count - first).unwrap_or_default())
    }

    /// Forgets the first `count` bytes, page by page; `whole_packets`: what is left of a packet goes too.
    fn consume(&mut self, count: usize, whole_packets: bool) {
        let mut left = count.min(self.len);
        let mut gone = 0;
        while left > 0 {
            let Some(slot) = self.slots.front_mut() else { break };
            let step = slot.len.min(left);
            left -= step;
            gone += step;
            slot.len -= step;
            if slot.packet && whole_packets {
                gone += slot.len;
                slot.len = 0;
            }
            if slot.len == 0 {
                self.slots.pop_front();
            }
        }
        self.len -= gone.min(self.len);
        if !self.ring.is_empty() {
            self.head = (self.head + gone) % self.ring.len();
        }
    }

    /// read(2): moves what there is, or one packet, to `dst`. A page that could not be stored whole (EFAULT) stays.
    pub(super) fn read(&mut self, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let room = dst.room();
        let mut want = 0;
        for slot in &self.slots {
            if want == room || (slot.packet && want > 0) {
                break;
            }
            want += slot.len.min(room - want);
            if slot.packet {
                break;
            }
        }
        let (a, b) = self.filled(0, want);
        let mut stored = 0;
        let mut fault = None;
        for part in [a, b] {
            if part.is_empty() || fault.is_some() {
                continue;
            }
            match dst.put(part) {
                Ok(count) => {
                    stored += count;
                    if count < part.len() {
                        fault = Some(Errno::EFAULT);
                    }
                }
                Err(error) => fault = Some(error),
            }
        }
        let Some(error) = fault else {
            self.consume(want, true);
            return Ok(want);
        };
        let mut whole = 0;
        for slot in &self.slots {
            let step = slot.len.min(want - whole);
            if step == 0 || whole + step > stored {
                break;
            }
            whole += step;
        }
        self.consume(whole, true);
        if whole == 0 { Err(error) } else { Ok(whole) }
    }

    /// write(2): takes as much as `max_slots` pages hold. `None`: not one byte fits.
    pub(super) fn write(
        &mut self,
        src: &mut dyn Source,
        max_slots: usize,
        packet: bool,
    ) -> Option<Result<usize, Errno>> {
        let total = src.left();
        let odd = total % PAGE;
        let merge = match self.slots.back() {
            Some(last) if odd > 0 && last.merge && last.end + odd <= PAGE => odd,
            _ => 0,
        };
        let free = max_slots.saturating_sub(self.slots.len());
        let fresh = (total - merge).min(free.saturating_mul(PAGE));
        let count = merge + fresh;
        if count == 0 {
            return None;
        }
        let mut got = 0;
        let mut fault = None;
        {
            let (a, b) = self.spare(count);
            'slices: for part in [a, b] {
                let mut at = 0;
                while at < part.len() {
                    let Some(rest) = part.get_mut(at..) else { break };
                    match src.take(rest) {
                        Ok(0) => {
                            fault = Some(Errno::EFAULT);
                            break 'slices;
                        }
                        Ok(n) => at += n,
                        Err(error) => {
                            fault = Some(error);
                            got += at;
                            break 'slices;
                        }
                    }
                }
                got += at;
            }
        }
        if let Some(error) = fault {
            // Linux drops a page that could not be filled whole.
            let keep = if got < merge { 0 } else { merge + (got - merge) / PAGE * PAGE };
            src.untake(got - keep);
            if keep == 0 {
                return Some(Err(error));
            }
            got = keep;
        }
        self.append(got, merge.min(got), packet);
        Some(Ok(got))
    }

    /// Accounts `count` bytes already in the ring: `merge` of them in the last page, the rest in new ones.
    fn append(&mut self, count: usize, merge: usize, packet: bool) {
        self.len += count;
        let mut left = count;
        if merge > 0
            && let Some(last) = self.slots.back_mut()
        {
            last.len += merge;
            last.end += merge;
            left -= merge;
        }
        while left > 0 {
            let step = left.min(PAGE);
            self.slots.push_back(Slot { len: step, end: step, merge: !packet, packet });
            left -= step;
        }
    }

    /// Moves (or for tee(2), copies) up to `max` bytes, page by page, to another pipe's buffer.
    pub(super) fn transfer(&mut self, to: &mut Buffer, to_slots: usize, max: usize, copy: bool) -> usize {
        let mut moved = 0;
        let mut skip = 0;
        let mut index = 0;
        while moved < max && to.slots.len() < to_slots {
            let Some(slot) = self.slots.get(index).copied() else { break };
            let step = slot.len.min(max - moved);
            copy_pairs(self.filled(skip, step), to.spare(step));
            to.len += step;
            // Only whole packets keep their mark.
            let packet = slot.packet && step == slot.len;
            to.slots.push_back(Slot { len: step, end: step, merge: false, packet });
            moved += step;
            if copy {
                skip += step;
                index += 1;
            } else {
                self.consume(step, false);
            }
        }
        moved
    }

    /// The content as a source for a file's write; what was taken is consumed when [`PipeSource::finish`] says so.
    pub(super) fn source(&mut self, max: usize) -> PipeSource<'_> {
        let left = max.min(self.len);
        PipeSource { buffer: self, taken: 0, left }
    }

    /// The free pages as a sink for a file's read.
    pub(super) fn sink(&mut self, max: usize, max_slots: usize) -> PipeSink<'_> {
        let free = max_slots.saturating_sub(self.slots.len()).saturating_mul(PAGE);
        PipeSink { buffer: self, room: max.min(free), first: true, put: 0 }
    }
}

/// See [`Buffer::source`].
pub(super) struct PipeSource<'a> {
    buffer: &'a mut Buffer,
    taken: usize,
    left: usize,
}

impl PipeSource<'_> {
    /// Consumes the first `count` bytes.
    pub(super) fn finish(self, count: usize) {
        self.buffer.consume(count, false);
    }
}

impl Source for PipeSource<'_> {
    fn left(&self) -> usize {
        self.left
    }
    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        let count = buf.len().min(self.left);
        let (a, b) = self.buffer.filled(self.taken, count);
        let (to_a, rest) = buf.split_at_mut(a.len());
        to_a.copy_from_slice(a);
        if let Some(to_b) = rest.get_mut(..b.len()) {
            to_b.copy_from_slice(b);
        }
        self.taken += count;
        self.left -= count;
        Ok(count)
    }
    fn untake(&mut self, count: usize) {
        let count = count.min(self.taken);
        self.taken -= count;
        self.left += count;
    }
}

/// See [`Buffer::sink`].
pub(super) struct PipeSink<'a> {
    buffer: &'a mut Buffer,
    room: usize,
    /// The next byte starts a page of its own.
    first: bool,
    put: usize,
}

impl PipeSink<'_> {
    pub(super) fn put(&self) -> usize {
        self.put
    }
}

impl Sink for PipeSink<'_> {
    fn room(&self) -> usize {
        self.room
    }
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let count = data.len().min(self.room);
        if count == 0 {
            return Ok(0);
        }
        let (a, b) = self.buffer.spare(count);
        let (from_a, rest) = data.split_at(a.len());
        a.copy_from_slice(from_a);
        b.copy_from_slice(rest.get(..b.len()).unwrap_or_default());
        // Fill the page of the previous put before new ones.
        let buffer = &mut *self.buffer;
        let tail = match buffer.slots.back_mut() {
            Some(last) if !self.first => {
                let tail = count.min(PAGE - last.end.min(PAGE));
                last.len += tail;
                last.end += tail;
                tail
            }
            _ => 0,
        };
        buffer.len += tail;
        let before = buffer.slots.len();
        buffer.append(count - tail, 0, false);
        for slot in buffer.slots.iter_mut().skip(before) {
            slot.merge = false;
        }
        self.first = false;
        self.room -= count;
        self.put += count;
        Ok(count)
    }
}

/// Copies between two pairs of slices of the same total length that break at different places.
fn copy_pairs(from: (&[u8], &[u8]), to: (&mut [u8], &mut [u8])) {
    let (mut from, mut from_next) = from;
    let (mut to, mut to_next) = to;
    loop {
        if from.is_empty() {
            from = std::mem::take(&mut from_next);
        }
        if to.is_empty() {
            to = std::mem::take(&mut to_next);
        }
        let count = from.len().min(to.len());
        if count == 0 {
            return;
        }
        let (now, later) = from.split_at(count);
        let (now_to, later_to) = std::mem::take(&mut to).split_at_mut(count);
        now_to.copy_from_slice(now);
        (from, to) = (later, later_to);
    }
}
