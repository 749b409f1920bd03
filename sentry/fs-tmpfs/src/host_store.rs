//! File content in a host file: a memfd or a file without a name.
//!
//! The number of host descriptors is bounded: [`heap_pages`] says how much content stays in the heap, which is more
//! the scarcer descriptors get.

use crate::space::Storage;
use chitin_abi::Errno;
use chitin_abi::limits::PAGE_SIZE;
use chitin_host::filestore;
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Host files that are open now.
static OPEN: AtomicU64 = AtomicU64::new(0);

/// Pages of content that a file keeps in the heap before it gets a host file.
pub fn heap_pages() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    let limit = *LIMIT.get_or_init(filestore::nofile_limit);
    // Half of the descriptors for everything else: sockets, the gofer's files, stubs.
    match OPEN.load(Ordering::Relaxed).saturating_mul(16) / limit.max(1) {
        0..4 => 16,
        4..6 => 256,
        6..8 => 4096,
        _ => u64::MAX,
    }
}

/// The guest's error for one of the host.
pub fn guest_errno(error: io::Error) -> Errno {
    match error.raw_os_error().and_then(Errno::from_raw) {
        // The sentry's table is full, not the guest's.
        Some(Errno::EMFILE) => Errno::ENFILE,
        Some(errno) => errno,
        None => Errno::EIO,
    }
}

pub struct HostStore {
    fd: Arc<OwnedFd>,
    /// A descriptor that cannot write, kept only as long as somebody uses it.
    read_only: Mutex<Weak<OwnedFd>>,
}

impl HostStore {
    pub fn create(storage: &Storage) -> io::Result<HostStore> {
        let fd = match storage {
            Storage::Memory => filestore::memfd(c"tmpfs")?,
            Storage::Dir(dir) => filestore::tmpfile(dir.as_fd())?,
        };
        OPEN.fetch_add(1, Ordering::Relaxed);
        Ok(HostStore { fd: Arc::new(fd), read_only: Mutex::default() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn shared_fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    pub fn read_only_fd(&self) -> Result<Arc<OwnedFd>, Errno> {
        let mut slot = self.read_only.lock();
        if let Some(fd) = slot.upgrade() {
            return Ok(fd);
        }
        let fd = Arc::new(filestore::reopen_read_only(self.fd()).map_err(guest_errno)?);
        *slot = Arc::downgrade(&fd);
        Ok(fd)
    }

    /// Pages that have blocks.
    pub fn pages(&self) -> Result<u64, Errno> {
        let stat = filestore::stat(self.fd()).map_err(guest_errno)?;
        Ok(stat.blocks.div_ceil(PAGE_SIZE / 512))
    }

    /// Pages without blocks in the page range `[from, to)`, which lies inside the file.
    pub fn holes(&self, from: u64, to: u64) -> Result<u64, Errno> {
        let end = to.saturating_mul(PAGE_SIZE);
        let mut pos = from.saturating_mul(PAGE_SIZE);
        let mut count = 0;
        while pos < end {
            let data = filestore::seek_hole(self.fd(), pos, true).map_err(guest_errno)?;
            let data = data.unwrap_or(end).min(end);
            count += data.saturating_sub(pos) / PAGE_SIZE;
            if data >= end {
                break;
            }
            let hole = filestore::seek_hole(self.fd(), data, false).map_err(guest_errno)?;
            pos = hole.unwrap_or(end).div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE).max(data + 1);
        }
        Ok(count)
    }
}

impl Drop for HostStore {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}
