//! Byte streams between files and guest memory, so that a file's content goes straight to its reader's pages.

use crate::Mm;
use chitin_abi::Errno;
use chitin_abi::num::to_usize;
use chitin_abi::uio::Iovec;
use std::sync::Arc;

/// Where a read puts its bytes.
pub trait Sink {
    /// Bytes that still fit.
    fn room(&self) -> usize;
    /// Takes up to `room` bytes; returns how many. EFAULT only when not one could be taken.
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno>;
}

/// Where a write gets its bytes.
pub trait Source {
    /// Bytes that are left.
    fn left(&self) -> usize;
    /// Fills up to `buf.len()` bytes; returns how many (0: none left). EFAULT only when not one could be had.
    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno>;
    /// Steps back over the last `count` bytes taken, when they could not be used after all.
    fn untake(&mut self, count: usize);
    /// Steps over `count` bytes (at most what is left); user memory is not looked at.
    fn skip(&mut self, count: usize) {
        let mut scrap = [0; 4096];
        let mut left = count;
        while let Some(part) = scrap.get_mut(..left.min(4096)).filter(|part| !part.is_empty()) {
            match self.take(part) {
                Ok(taken) if taken > 0 => left -= taken.min(left),
                _ => break,
            }
        }
    }
}

/// One range without an allocation, or several.
#[derive(Clone)]
enum Ranges {
    One((u64, usize)),
    Many(Vec<(u64, usize)>),
}

impl Ranges {
    fn as_slice(&self) -> &[(u64, usize)] {
        match self {
            Ranges::One(range) => std::slice::from_ref(range),
            Ranges::Many(ranges) => ranges,
        }
    }
}

/// The guest's buffers of one read or write call, in order, with a position.
#[derive(Clone)]
pub struct UserIo {
    mm: Arc<Mm>,
    ranges: Ranges,
    total: usize,
    done: usize,
    /// Where the present step ends: `total`, but for long transfers.
    window: usize,
}

/// The most one call transfers (MAX_RW_COUNT in fs/read_write.c).
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

impl UserIo {
    pub fn single(mm: &Arc<Mm>, addr: u64, len: u64) -> UserIo {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(MAX_RW_COUNT);
        UserIo { mm: mm.clone(), ranges: Ranges::One((addr, len)), total: len, done: 0, window: len }
    }

    /// Reads and checks an iovec array as import_iovec() does: EINVAL for too many or a negative length.
    pub fn vectored(mm: &Arc<Mm>, iov: u64, count: u64) -> Result<UserIo, Errno> {
        if count > chitin_abi::limits::IOV_MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let entries = mm.read_array::<Iovec>(iov, to_usize(count))?;
        let mut ranges = Vec::with_capacity(entries.len());
        let mut total = 0usize;
        for entry in &entries {
            if i64::try_from(entry.iov_len).is_err() {
                return Err(Errno::EINVAL);
            }
            let len = to_usize(entry.iov_len).min(MAX_RW_COUNT - total);
            total += len;
            if len > 0 {
                ranges.push((entry.iov_base, len));
            }
        }
        Ok(UserIo { mm: mm.clone(), ranges: Ranges::Many(ranges), total, done: 0, window: total })
    }

    /// Ranges that the kernel itself has put together.
    pub fn scattered(mm: &Arc<Mm>, ranges: Vec<(u64, usize)>) -> UserIo {
        let total = ranges.iter().map(|range| range.1).sum();
        UserIo { mm: mm.clone(), ranges: Ranges::Many(ranges), total, done: 0, window: total }
    }

    /// Bytes moved so far.
    pub fn done(&self) -> usize {
        self.done
    }

    pub fn total(&self) -> usize {
        self.total
    }

    /// Length of the first range that is not empty.
    pub fn first_len(&self) -> usize {
        self.ranges.as_slice().first().map_or(0, |&(_, len)| len)
    }

    /// Limits what is left to `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.total = self.total.min(self.done.saturating_add(count));
        self.window = self.window.min(self.total);
    }

    /// Bytes that are left, also beyond the present step.
    pub fn rest(&self) -> usize {
        self.total.saturating_sub(self.done)
    }

    /// Begins a step: the next `count` bytes are all there is room for, or left, until the next step.
    pub fn step(&mut self, count: usize) {
        self.window = self.total.min(self.done.saturating_add(count));
    }

    /// The step has moved all it could, and there is more.
    pub fn has_next_step(&self) -> bool {
        self.done >= self.window && self.done < self.total
    }

    /// The ranges of the next `want` bytes from the position on.
    fn next_ranges(&self, want: usize) -> Vec<(u64, usize)> {
        let mut skip = self.done;
        let mut want = want.min(self.total - self.done);
        let mut out = Vec::with_capacity(self.ranges.as_slice().len().min(8));
        for &(addr, len) in self.ranges.as_slice() {
            if want == 0 {
                break;
            }
            if skip >= len {
                skip -= len;
                continue;
            }
            let take = (len - skip).min(want);
            out.push((addr.wrapping_add(skip as u64), take));
            want -= take;
            skip = 0;
        }
        out
    }

    /// The only range, when there is just one and nothing was moved yet: the common case without allocation.
    fn sole(&self) -> Option<u64> {
        match self.ranges.as_slice() {
            [(addr, _)] => Some(addr.wrapping_add(self.done as u64)),
            _ => None,
        }
    }

    fn finish(
        &mut self,
        wanted: usize,
        result: Result<(), chitin_platform::CopyFault>,
    ) -> Result<usize, Errno> {
        let moved = match result {
            Ok(()) => wanted,
            Err(fault) => fault.done.min(wanted),
        };
        if moved == 0 && wanted > 0 {
            return Err(Errno::EFAULT);
        }
        self.done += moved;
        Ok(moved)
    }
}

impl Sink for UserIo {
    fn room(&self) -> usize {
        self.window.saturating_sub(self.done)
    }

    fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let data = data.get(..data.len().min(self.room())).unwrap_or_default();
        if data.is_empty() {
            return Ok(0);
        }
        let result = match self.sole() {
            Some(addr) => self.mm.space().write(addr, data),
            None => self.mm.space().write_vectored(&self.next_ranges(data.len()), data),
        };
        self.finish(data.len(), result)
    }
}

impl Source for UserIo {
    fn left(&self) -> usize {
        self.window.saturating_sub(self.done)
    }

    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        let want = buf.len().min(self.left());
        let Some(buf) = buf.get_mut(..want) else { return Ok(0) };
        if want == 0 {
            return Ok(0);
        }
        let result = match self.sole() {
            Some(addr) => self.mm.space().read(addr, buf),
            None => self.mm.space().read_vectored(&self.next_ranges(want), buf),
        };
        self.finish(want, result)
    }

    fn untake(&mut self, count: usize) {
        self.done = self.done.saturating_sub(count);
    }

    fn skip(&mut self, count: usize) {
        self.done = self.done.saturating_add(count).min(self.total);
    }
}

/// Kernel buffers as sinks and sources.
impl Sink for &mut [u8] {
    fn room(&self) -> usize {
        self.len()
    }
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let count = data.len().min(self.len());
        let (head, tail) = std::mem::take(self).split_at_mut(count);
        head.copy_from_slice(data.get(..count).unwrap_or_default());
        *self = tail;
        Ok(count)
    }
}

/// A bounded growing buffer.
pub struct VecSink {
    pub data: Vec<u8>,
    pub limit: usize,
}

impl Sink for VecSink {
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.data.len())
    }
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let data = data.get(..data.len().min(self.room())).unwrap_or_default();
        self.data.extend_from_slice(data);
        Ok(data.len())
    }
}

/// A kernel buffer as a source.
pub struct SliceSource<'a> {
    data: &'a [u8],
    done: usize,
}

impl<'a> SliceSource<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        SliceSource { data, done: 0 }
    }
}

impl Source for SliceSource<'_> {
    fn left(&self) -> usize {
        self.data.len() - self.done
    }
    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        let rest = self.data.get(self.done..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.done += count;
        Ok(count)
    }
    fn untake(&mut self, count: usize) {
        self.done = self.done.saturating_sub(count);
    }
    fn skip(&mut self, count: usize) {
        self.done = self.done.saturating_add(count).min(self.data.len());
    }
}
