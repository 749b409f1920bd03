//! Copies between the sentry and guest memory. A fault is EFAULT, as `copy_from_user` and `copy_to_user` have it.

use crate::{Mm, UserPtr};
use chitin_abi::Errno;
use chitin_abi::num::to_usize;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes that a string copy reads at a time: within a page, so that a fault beyond the terminator is not met.
const STRING_STEP: u64 = 256;

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
        let mut text = Vec::new();
        let mut at = addr;
        let mut chunk = [0u8; to_usize(STRING_STEP)];
        loop {
            let step = STRING_STEP - at % STRING_STEP;
            let Some(part) = chunk.get_mut(..to_usize(step)) else { return Err(Errno::EFAULT) };
            self.read_bytes(at, part)?;
            match part.iter().position(|&b| b == 0) {
                Some(end) => {
                    text.extend_from_slice(part.get(..end).unwrap_or_default());
                    return Ok((text.len() <= max).then_some(text));
                }
                None => text.extend_from_slice(part),
            }
            if text.len() > max {
                return Ok(None);
            }
            at = at.checked_add(step).ok_or(Errno::EFAULT)?;
        }
    }

    /// Reads a path argument: ENAMETOOLONG past PATH_MAX.
    pub fn read_path(&self, addr: u64) -> Result<Vec<u8>, Errno> {
        self.read_cstr(addr, chitin_abi::limits::PATH_MAX - 1)?.ok_or(Errno::ENAMETOOLONG)
    }
}
