//! What the VFS hangs on every inode: record locks, watches, the pipe of a FIFO, a bound socket, write and exec counts.
//!
//! Locks: each field has its own leaf lock.

use crate::{File, Inode, Path};
use chitin_abi::Errno;
use parking_lot::Mutex;
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Per-inode state of the VFS itself; an inode embeds one.
#[derive(Default)]
pub struct InodeState {
    /// Positive: open for writing so often; negative: being executed so often (ETXTBSY).
    writers: AtomicI32,
    /// The file is known to have no capabilities (S_NOSEC): writes need not look.
    pub(crate) no_caps: AtomicBool,
    /// Its last name is gone, and its watches are to be told so when that name's dentry goes.
    doomed: AtomicBool,
    /// For whoever changes the content.
    turn: crate::turn::Turn,
    /// A value some VFS module keeps on the inode, created on first use (lock lists, watches, the FIFO's pipe).
    extras: OnceLock<Box<Extras>>,
}

#[derive(Default)]
pub(crate) struct Extras {
    pub(crate) locks: crate::locks::InodeLocks,
    pub(crate) watches: crate::notify::InodeWatches,
    pub(crate) pipe: OnceLock<Arc<crate::pipe::Pipe>>,
    socket: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
}

impl InodeState {
    pub(crate) fn extras(&self) -> &Extras {
        self.extras.get_or_init(Box::default)
    }

    pub(crate) fn extras_if_any(&self) -> Option<&Extras> {
        self.extras.get().map(|extras| &**extras)
    }

    /// The turn at changing the content (i_rwsem, as far as it is exclusive).
    pub fn turn(&self) -> &crate::turn::Turn {
        &self.turn
    }

    /// The pipe behind a FIFO inode.
    pub fn fifo(&self) -> &Arc<crate::pipe::Pipe> {
        self.extras().pipe.get_or_init(crate::pipe::Pipe::new)
    }

    /// Binds a socket endpoint to this (socket) inode; `net` alone knows its type.
    pub fn bind_socket(&self, endpoint: Weak<dyn Any + Send + Sync>) {
        *self.extras().socket.lock() = Some(endpoint);
    }

    /// The socket bound here, if it still lives.
    pub fn bound_socket(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.extras_if_any()?.socket.lock().as_ref()?.upgrade()
    }

    /// Counts a writer in: ETXTBSY while the file is being executed.
    pub fn start_write(&self) -> Result<(), Errno> {
        let counted = self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            if n < 0 { None } else { n.checked_add(1) }
        });
        counted.map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    pub fn end_write(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts an execution in: ETXTBSY while somebody has the file open for writing.
    pub fn start_exec(&self) -> Result<(), Errno> {
        let counted = self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            if n > 0 { None } else { n.checked_sub(1) }
        });
        counted.map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    pub fn end_exec(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// Tells watches of this inode, and of the directory that `path` lies in, about an IN_* event.
    pub fn notify(&self, path: Option<&Path>, event: u32) {
        crate::notify::inode_event(self, path, event);
    }

    /// The last name of the inode is gone from the file system.
    pub(crate) fn unlinked(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    /// Nobody uses a removed name any more: if it was the last one, so it is with the inode, as far as watches go.
    pub(crate) fn released(&self, inode: &Arc<dyn Inode>) {
        if self.doomed.swap(false, Ordering::AcqRel) {
            crate::notify::self_event(inode, chitin_abi::inotify::IN_DELETE_SELF);
        }
    }

    /// The last descriptor of an open file description is gone.
    pub(crate) fn file_closed(&self, file: &File) {
        if file.writable() && file.inode().kind() == crate::FileKind::Regular && file.path().is_some() {
            self.end_write();
        }
        if let Some(extras) = self.extras_if_any() {
            extras.locks.release_file(file.id());
        }
        use chitin_abi::inotify::{IN_CLOSE_NOWRITE, IN_CLOSE_WRITE};
        if !file.is_path_only() {
            self.notify(file.path(), if file.writable() { IN_CLOSE_WRITE } else { IN_CLOSE_NOWRITE });
        }
    }
}
