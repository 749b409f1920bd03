//! Copies between the sentry and guest memory. A fault is EFAULT, as `copy_from_user` and `copy_to_user` have it.

use crate::pages::PAGE;
use crate::{Mm, UserPtr};
use chitin_abi::Errno;
use chitin_abi::num::to_usize;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a string copy takes at a time, at most: paths and names are shorter.
const STRING_STEP: u64 = 256;

/// Where a string's bytes come from.
pub(crate) trait Pieces {
    /// Some bytes from `addr` on, at least one, and none beyond its page: protections change there, and a fault behind the
    /// terminator must not be met.
    fn piece(&mut self, addr: u64) -> Result<&[u8], Errno>;
}

/// A NUL-terminated string without the NUL. `None` when none ends within `max` bytes (without the NUL).
pub(crate) fn read_cstr(from: &mut impl Pieces, addr: u64, max: usize) -> Result<Option<Vec<u8>>, Errno> {
    let mut text = Vec::new();
    let mut at = addr;
    loop {
        let piece = from.piece(at)?;
        let end = piece.iter().position(|&byte| byte == 0);
        text.extend_from_slice(piece.get(..end.unwrap_or(piece.len())).unwrap_or_default());
        if text.len() > max {
            return Ok(None);
        }
        if end.is_some() {
            return Ok(Some(text));
        }
        at = at.checked_add(piece.len() as u64).ok_or(Errno::EFAULT)?;
    }
}

struct Chunks<'a> {
    mm: &'a Mm,
    chunk: [u8; to_usize(STRING_STEP)],
}

impl Pieces for Chunks<'_> {
    fn piece(&mut self, addr: u64) -> Result<&[u8], Errno> {
        let step = STRING_STEP.min(PAGE - addr % PAGE);
        let part = self.chunk.get_mut(..to_usize(step)).ok_or(Errno::EFAULT)?;
        let len = self.mm.space().read_text(addr, part).map_err(|_| Errno::EFAULT)?;
        part.get(..len).filter(|part| !part.is_empty()).ok_or(Errno::EFAULT)
    }
}

/// The most that a [`Glance`] takes in.
const GLANCE: u64 = 1024;

/// What a call reads here and there, by one copy of all that lies between where that is little: arguments on a stack.
pub struct Glance<'a> {
    mm: &'a Mm,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Glance<'a> {
    /// Null pointers are passed over.
    pub fn new(mm: &'a Mm, ranges: &[(u64, usize)]) -> Glance<'a> {
        let ranges = || ranges.iter().filter(|(addr, len)| *addr != 0 && *len > 0);
        let start = ranges().map(|(addr, _)| *addr).min().unwrap_or(0);
        let end = ranges().map(|(addr, len)| addr.saturating_add(*len as u64)).max().unwrap_or(0);
        let mut bytes = Vec::new();
        if ranges().nth(1).is_some() && end.saturating_sub(start) <= GLANCE {
            bytes = mm.read_vec(start, to_usize(end.saturating_sub(start))).unwrap_or_default();
        }
        Glance { mm, start, bytes }
    }

    /// Copies `buf.len()` bytes in, from what has been seen if they are there.
    pub fn read_bytes(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let seen = addr.checked_sub(self.start).and_then(|off| self.bytes.get(usize::try_from(off).ok()?..));
        match seen.and_then(|seen| seen.get(..buf.len())) {
            Some(seen) => buf.copy_from_slice(seen),
            None => self.mm.read_bytes(addr, buf)?,
        }
        Ok(())
    }

    /// Reads one value.
    pub fn read<T: FromBytes + IntoBytes>(&self, addr: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(addr, value.as_mut_bytes())?;
        Ok(value)
    }
}

impl Mm {
    /// Copies `buf.len()` bytes in.
    pub fn read_bytes(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if buf.is_empty() {
            return Ok(());
        }
        self.space().read(addr, buf).map_err(|_| Errno::EFAULT)
    }

    /// Copies all of `data` out.
    pub fn write_bytes(&self, addr: u64, data: &[u8]) -> Result<(), Errno> {
        if data.is_empty() {
            return Ok(());
        }
        self.space().write(addr, data).map_err(|_| Errno::EFAULT)
    }

    /// Copies `data` out to several ranges, one after the other; how much of it, if not all.
    pub fn write_scattered(&self, ranges: &[(u64, usize)], data: &[u8]) -> Result<(), usize> {
        self.space().write_vectored(ranges, data).map_err(|fault| fault.done)
    }

    /// Reads one value.
    pub fn read<T: FromBytes + IntoBytes>(&self, ptr: impl Into<UserPtr<T>>) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read_bytes(ptr.into().addr(), value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes one value.
    pub fn write<T: IntoBytes + Immutable>(
        &self,
        ptr: impl Into<UserPtr<T>>,
        value: &T,
    ) -> Result<(), Errno> {
        self.write_bytes(ptr.into().addr(), value.as_bytes())
    }

    /// Reads `count` values; the caller bounds `count`.
    pub fn read_array<T: FromBytes + IntoBytes + Clone>(
        &self,
        ptr: impl Into<UserPtr<T>>,
        count: usize,
    ) -> Result<Vec<T>, Errno>
    where
        [T]: IntoBytes + FromBytes,
    {
        let mut values = vec![T::new_zeroed(); count];
        self.read_bytes(ptr.into().addr(), values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Writes a run of values.
    pub fn write_array<T: IntoBytes + Immutable>(
        &self,
        ptr: impl Into<UserPtr<T>>,
        values: &[T],
    ) -> Result<(), Errno> {
        self.write_bytes(ptr.into().addr(), values.as_bytes())
    }

    /// Reads bytes; the caller bounds `len`.
    pub fn read_vec(&self, addr: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut data = vec![0; len];
        self.read_bytes(addr, &mut data)?;
        Ok(data)
    }

    /// Reads a NUL-terminated string without the NUL. `None` when none ends within `max` bytes (without the NUL).
    pub fn read_cstr(&self, addr: u64, max: usize) -> Result<Option<Vec<u8>>, Errno> {
        read_cstr(&mut Chunks { mm: self, chunk: [0; to_usize(STRING_STEP)] }, addr, max)
    }

    /// Reads a path argument: ENAMETOOLONG past PATH_MAX.
    pub fn read_path(&self, addr: u64) -> Result<Vec<u8>, Errno> {
        self.read_cstr(addr, chitin_abi::limits::PATH_MAX - 1)?.ok_or(Errno::ENAMETOOLONG)
    }
}
