//! Host descriptors of regular files: shared by all who have a file open, and some kept for the next open.
//!
//! Kept descriptors are bounded over all file systems of the process, since they come out of its one table. The oldest
//! are given up first, unless they were used again meanwhile.

use crate::inode::GoferInode;
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_NOATIME, O_RDONLY, O_RDWR, O_WRONLY};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// How many pool entries one call looks at.
const LOOKS: usize = 32;

/// One inode's descriptors.
#[derive(Default)]
pub struct Fds {
    read: Slot,
    write: Slot,
    /// Whether the pool knows this inode.
    pooled: bool,
    /// Opened since the pool looked last.
    used: bool,
}

#[derive(Default)]
struct Slot {
    open: Weak<OwnedFd>,
    kept: Option<Arc<OwnedFd>>,
}

impl Fds {
    /// Any descriptor that is open.
    pub fn any(&self) -> Option<Arc<OwnedFd>> {
        self.read.open.upgrade().or_else(|| self.write.open.upgrade())
    }

    pub fn writable(&self) -> Option<Arc<OwnedFd>> {
        self.write.open.upgrade()
    }

    fn slot(&mut self, write: bool) -> &mut Slot {
        if write { &mut self.write } else { &mut self.read }
    }
}

struct Pool {
    queue: Mutex<VecDeque<Weak<GoferInode>>>,
    kept: AtomicUsize,
}

static POOL: Pool = Pool { queue: Mutex::new(VecDeque::new()), kept: AtomicUsize::new(0) };

fn limit() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let table = usize::try_from(chitin_host::filestore::nofile_limit()).unwrap_or(usize::MAX);
        (table / 8).clamp(16, 1024)
    })
}

impl Pool {
    /// Enters an inode and gives up what is too much.
    fn add(&self, inode: &Arc<GoferInode>) {
        self.queue.lock().push_back(Arc::downgrade(inode));
        self.shrink(limit());
    }

    fn shrink(&self, max: usize) {
        // Inodes may end here, and descriptors: neither under the lock.
        let mut ended = Vec::new();
        for _ in 0..LOOKS {
            let next = {
                let mut queue = self.queue.lock();
                let over = self.kept.load(Ordering::Relaxed) > max || queue.len() > max.saturating_mul(4);
                if over { queue.pop_front() } else { None }
            };
            let Some(weak) = next else { break };
            let Some(inode) = weak.upgrade() else { continue };
            let again = {
                let mut fds = inode.fds.lock();
                let again = std::mem::take(&mut fds.used) && max > 0;
                fds.pooled = again;
                again
            };
            if again {
                self.queue.lock().push_back(weak);
            } else {
                ended.push(inode.release_kept());
            }
        }
        drop(ended);
    }

    /// Gives up everything, when the process's table is full.
    fn clear(&self) {
        let rounds = self.queue.lock().len() / LOOKS;
        for _ in 0..=rounds {
            self.shrink(0);
        }
    }
}

impl GoferInode {
    /// The shared descriptor for reading only, or for both.
    pub(crate) fn descriptor(self: &Arc<Self>, write: bool) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = self.opened(write) {
            return Ok(fd);
        }
        let fd = match self.ask_open(if write { O_RDWR } else { O_RDONLY }) {
            // A file that the gofer itself may only write (network file systems).
            Err(Errno::EACCES) if write => return self.ask_open(O_WRONLY).map(Arc::new),
            other => Arc::new(other?),
        };
        let keep = !self.core.shared() && !self.is_gone();
        Ok(self.enter(fd, write, keep))
    }

    /// Any descriptor that can read.
    pub(crate) fn readable_descriptor(self: &Arc<Self>) -> Result<Arc<OwnedFd>, Errno> {
        match self.opened(false).or_else(|| self.opened(true)) {
            Some(fd) => Ok(fd),
            None => self.descriptor(false),
        }
    }

    /// A descriptor of its own, with flags that change how the host treats it.
    pub(crate) fn private_descriptor(&self, write: bool, flags: u32) -> Result<Arc<OwnedFd>, Errno> {
        let access = if write { O_RDWR } else { O_RDONLY };
        let fd = match self.ask_open(access | flags) {
            // On the host the file may belong to somebody else than in the guest.
            Err(Errno::EPERM) if flags & O_NOATIME != 0 => self.ask_open(access | (flags & !O_NOATIME)),
            other => other,
        };
        fd.map(Arc::new)
    }

    /// The descriptor a creation has brought, for the open that follows.
    pub(crate) fn created_with(self: &Arc<Self>, fd: OwnedFd) {
        drop(self.enter(Arc::new(fd), true, true));
    }

    fn opened(&self, write: bool) -> Option<Arc<OwnedFd>> {
        let shared = self.core.shared();
        let mut fds = self.fds.lock();
        fds.used = true;
        let slot = fds.slot(write);
        let fd = slot.open.upgrade()?;
        if shared && slot.kept.take().is_some() {
            // Of shared trees nothing is kept beyond the open it was meant for.
            POOL.kept.fetch_sub(1, Ordering::Relaxed);
        }
        Some(fd)
    }

    /// Enters a descriptor, unless somebody was faster; answers the one to use.
    fn enter(self: &Arc<Self>, fd: Arc<OwnedFd>, write: bool, keep: bool) -> Arc<OwnedFd> {
        let (fd, surplus, pool) = {
            let mut fds = self.fds.lock();
            fds.used = true;
            let slot = fds.slot(write);
            if let Some(known) = slot.open.upgrade() {
                (known, Some(fd), false)
            } else {
                slot.open = Arc::downgrade(&fd);
                if keep {
                    slot.kept = Some(fd.clone());
                    POOL.kept.fetch_add(1, Ordering::Relaxed);
                }
                let pool = keep && !std::mem::replace(&mut fds.pooled, keep);
                (fd, None, pool)
            }
        };
        drop(surplus);
        if pool {
            POOL.add(self);
        }
        fd
    }

    /// Stops keeping descriptors; who has them open goes on with them.
    pub(crate) fn release_kept(&self) -> [Option<Arc<OwnedFd>>; 2] {
        let mut fds = self.fds.lock();
        let kept = [fds.read.kept.take(), fds.write.kept.take()];
        POOL.kept.fetch_sub(kept.iter().flatten().count(), Ordering::Relaxed);
        kept
    }

    fn ask_open(&self, flags: u32) -> Result<OwnedFd, Errno> {
        let open = || self.with_node(|client, node| client.open(node, flags));
        match open() {
            Err(Errno::ENFILE) => {
                POOL.clear();
                open()
            }
            outcome => outcome,
        }
    }
}

/// Gives up all kept descriptors, when the process's table is full.
pub fn make_room() {
    POOL.clear();
}
