//! How much a file system may hold, and where large files' content goes.
//!
//! Counters are atomic; nothing here locks.

use chitin_abi::Errno;
use chitin_abi::limits::PAGE_SIZE;
use chitin_vfs::bounds;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one inode, or one link beyond the first, costs of the inode budget (BOGO_INODE_SIZE in mm/shmem.c).
pub const INODE_COST: u64 = 1024;

/// Where content lives that outgrew the heap.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Memory: one memfd per file.
    Memory,
    /// A host directory: one file without a name per file.
    Dir(Arc<OwnedFd>),
}

/// The space of one file system, in pages, and its inodes.
#[derive(Debug)]
pub struct Space {
    storage: Storage,
    max_pages: AtomicU64,
    used_pages: AtomicU64,
    /// Bytes for inodes and extended attributes.
    max_inode_bytes: AtomicU64,
    used_inode_bytes: AtomicU64,
}

fn take(used: &AtomicU64, max: &AtomicU64, count: u64) -> bool {
    let max = max.load(Ordering::Relaxed);
    used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
        used.checked_add(count).filter(|sum| count == 0 || *sum <= max)
    })
    .is_ok()
}

fn give_back(used: &AtomicU64, count: u64) {
    let _ = used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| Some(used.saturating_sub(count)));
}

impl Space {
    /// Limits in bytes and inodes; 0 is no limit, as in tmpfs' options.
    pub fn new(storage: Storage, max_bytes: u64, max_inodes: u64) -> Arc<Space> {
        let space = Space {
            storage,
            max_pages: AtomicU64::new(u64::MAX),
            used_pages: AtomicU64::new(0),
            max_inode_bytes: AtomicU64::new(u64::MAX),
            used_inode_bytes: AtomicU64::new(0),
        };
        space.set_limits(max_bytes, max_inodes);
        Arc::new(space)
    }

    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    pub fn set_limits(&self, max_bytes: u64, max_inodes: u64) {
        let pages = if max_bytes == 0 { u64::MAX } else { max_bytes.div_ceil(PAGE_SIZE) };
        let inodes = if max_inodes == 0 { u64::MAX } else { max_inodes.saturating_mul(INODE_COST) };
        self.max_pages.store(pages, Ordering::Relaxed);
        self.max_inode_bytes.store(inodes, Ordering::Relaxed);
    }

    /// Pages that may be used; `None`: no limit.
    pub fn max_pages(&self) -> Option<u64> {
        Some(self.max_pages.load(Ordering::Relaxed)).filter(|max| *max != u64::MAX)
    }
    pub fn used_pages(&self) -> u64 {
        self.used_pages.load(Ordering::Relaxed)
    }
    pub fn max_inodes(&self) -> Option<u64> {
        let max = self.max_inode_bytes.load(Ordering::Relaxed);
        (max != u64::MAX).then_some(max / INODE_COST)
    }
    pub fn used_inodes(&self) -> u64 {
        self.used_inode_bytes.load(Ordering::Relaxed).div_ceil(INODE_COST)
    }

    /// Takes `count` pages, if there are as many.
    #[must_use]
    pub fn charge(&self, count: u64) -> bool {
        take(&self.used_pages, &self.max_pages, count)
    }
    pub fn uncharge(&self, count: u64) {
        give_back(&self.used_pages, count);
    }
    /// Moves a charge from `old` to `new` pages, which have come to exist already: a guest's mapping makes pages
    /// without asking.
    pub(crate) fn recharge(&self, old: u64, new: u64) {
        if new > old {
            self.used_pages.fetch_add(new - old, Ordering::AcqRel);
        } else {
            self.uncharge(old - new);
        }
    }

    /// Takes `bytes` of the budget for inodes and extended attributes.
    pub fn charge_inode(&self, bytes: u64) -> Result<(), Errno> {
        // Of what all file systems together may have, too: mounts are many, and may be without a limit.
        let count = usize::try_from(bytes).map_err(|_| Errno::ENOSPC)?;
        if !take(&self.used_inode_bytes, &self.max_inode_bytes, bytes) {
            return Err(Errno::ENOSPC);
        }
        if bytes > 0 && !bounds::INODE_BYTES.take(count) {
            give_back(&self.used_inode_bytes, bytes);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }
    pub fn uncharge_inode(&self, bytes: u64) {
        give_back(&self.used_inode_bytes, bytes);
        bounds::INODE_BYTES.give(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
}
