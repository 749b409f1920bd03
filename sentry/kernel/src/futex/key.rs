//! The identity of a futex word.

use chitin_abi::Errno;
use chitin_mm::Mm;
use std::sync::Arc;

/// A word: in private memory by its address, in a shared mapping by the file behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The memory's identity (kept alive by the waiters) and the address.
    Private { mm: usize, addr: u64 },
    /// The host's file and the offset in it.
    Shared { dev: u64, ino: u64, offset: u64 },
}

/// Checks an address: EINVAL if it is not aligned, EFAULT outside user space.
pub(super) fn check(mm: &Mm, addr: u64) -> Result<(), Errno> {
    if !addr.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if !mm.range_ok(addr, 4) {
        return Err(Errno::EFAULT);
    }
    Ok(())
}

impl Key {
    /// The key of a word that only threads of this memory use.
    pub fn private(mm: &Arc<Mm>, addr: u64) -> Key {
        Key::Private { mm: Arc::as_ptr(mm).addr(), addr }
    }

    /// The key of a word that may be shared: asks the platform for the mapping. EFAULT if there is none.
    pub fn find(mm: &Arc<Mm>, addr: u64) -> Result<Key, Errno> {
        let vma = mm.space().mapping_at(addr).map_err(|_| Errno::EFAULT)?.ok_or(Errno::EFAULT)?;
        if !vma.shared {
            return Ok(Key::private(mm, addr));
        }
        let offset = vma.offset.wrapping_add(addr.wrapping_sub(vma.range.start));
        Ok(Key::Shared { dev: vma.dev, ino: vma.ino, offset })
    }

    pub fn is_shared(&self) -> bool {
        matches!(self, Key::Shared { .. })
    }
}
