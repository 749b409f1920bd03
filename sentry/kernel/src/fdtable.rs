//! Descriptor tables (`files_struct`); shared by CLONE_FILES.
//!
//! Lock: `FdTable::slots`, a leaf; files are dropped outside it, since the last close can do work.

mod slots;

use chitin_abi::Errno;
use chitin_vfs::File;
use chitin_vfs::locks::LockOwner;
use parking_lot::RwLock;
use slots::Slots;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A descriptor: the open file description and FD_CLOEXEC.
#[derive(Clone)]
pub struct Fd {
    pub file: Arc<File>,
    pub cloexec: bool,
}

/// Numbers to open files.
pub struct FdTable {
    slots: RwLock<Slots>,
    /// The owner of POSIX record locks.
    id: u64,
}

/// The highest number RLIMIT_NOFILE can grant (fs.nr_open).
pub const NR_OPEN: u64 = 1 << 20;

impl Default for FdTable {
    fn default() -> Self {
        FdTable { slots: RwLock::default(), id: next_id() }
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl FdTable {
    pub fn new() -> Arc<FdTable> {
        Arc::default()
    }

    /// A copy with the same files (fork, unshare). ENOMEM when there are too many descriptors in the sandbox.
    pub fn copy(&self) -> Result<Arc<FdTable>, Errno> {
        let slots = self.slots.read().copy().ok_or(Errno::ENOMEM)?;
        Ok(Arc::new(FdTable { slots: RwLock::new(slots), id: next_id() }))
    }

    /// As [`FdTable::copy`], for execve(2) past the point where it may fail.
    pub fn copy_in_any_case(&self) -> Arc<FdTable> {
        Arc::new(FdTable { slots: RwLock::new(self.slots.read().copy_in_any_case()), id: next_id() })
    }

    /// Identifies this table as the owner of POSIX locks.
    pub fn lock_owner(&self) -> u64 {
        self.id
    }

    /// The open file description behind a number: EBADF if there is none.
    pub fn get(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.read().get(index).map(|fd| fd.file.clone()).ok_or(Errno::EBADF)
    }

    /// As [`FdTable::get`], but EBADF also for O_PATH descriptors (most calls).
    pub fn get_io(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let file = self.get(fd)?;
        if file.is_path_only() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// As [`FdTable::get_io`] of two numbers at one time: what the first is missing for comes first.
    pub fn get_io_pair(&self, fds: [i32; 2]) -> Result<[Arc<File>; 2], Errno> {
        let slots = self.slots.read();
        let file = |fd: i32| {
            let found = usize::try_from(fd).ok().and_then(|index| slots.get(index)).map(|fd| &fd.file);
            found.filter(|file| !file.is_path_only()).cloned().ok_or(Errno::EBADF)
        };
        let [first, second] = fds;
        Ok([file(first)?, file(second)?])
    }

    pub fn get_fd(&self, fd: i32) -> Result<Fd, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.read().get(index).cloned().ok_or(Errno::EBADF)
    }

    /// Puts a file at the lowest free number from `min` on, below `limit` (RLIMIT_NOFILE): EMFILE if there is none,
    /// ENFILE for a file beyond those the sandbox may have.
    pub fn add(&self, file: Arc<File>, cloexec: bool, min: i32, limit: u64) -> Result<i32, Errno> {
        if file.is_surplus() {
            return Err(Errno::ENFILE);
        }
        let mut slots = self.slots.write();
        let min = usize::try_from(min).map_err(|_| Errno::EINVAL)?;
        let at = slots.free(min.max(slots.first_free));
        if at as u64 >= limit.min(NR_OPEN) {
            return Err(Errno::EMFILE);
        }
        slots.put(at, Fd { file, cloexec })?;
        if min <= slots.first_free {
            slots.first_free = at + 1;
        }
        i32::try_from(at).map_err(|_| Errno::EMFILE)
    }

    /// EMFILE unless a number below `limit` is free: for calls that cannot undo what they do before they install a file.
    pub fn check_room(&self, limit: u64) -> Result<(), Errno> {
        let slots = self.slots.read();
        let limit = usize::try_from(limit.min(NR_OPEN)).unwrap_or(usize::MAX);
        if slots.free(slots.first_free) < limit { Ok(()) } else { Err(Errno::EMFILE) }
    }

    /// Puts a file at `fd`, replacing what was there (dup2): the replaced file is returned, to be closed.
    pub fn set(
        &self,
        fd: i32,
        file: Arc<File>,
        cloexec: bool,
        limit: u64,
    ) -> Result<Option<Arc<File>>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit.min(NR_OPEN) {
            return Err(Errno::EBADF);
        }
        let mut slots = self.slots.write();
        Ok(slots.put(index, Fd { file, cloexec })?.map(|fd| fd.file))
    }

    /// Takes a number out of use; the file is returned, to be closed by [`close_file`].
    pub fn remove(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.write().take(index).map(|fd| fd.file).ok_or(Errno::EBADF)
    }

    pub fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<(), Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.write().get_mut(index).ok_or(Errno::EBADF)?.cloexec = cloexec;
        Ok(())
    }

    /// The numbers in use.
    pub fn numbers(&self) -> Vec<i32> {
        let slots = self.slots.read();
        slots.iter().filter_map(|(index, _)| i32::try_from(index).ok()).collect()
    }

    /// Takes out all that `pick` names; the files are returned, to be closed.
    pub fn take_where(&self, pick: impl Fn(i32, &Fd) -> bool) -> Vec<Arc<File>> {
        let mut slots = self.slots.write();
        let number = |(index, fd): (usize, &Fd)| {
            let picked = i32::try_from(index).is_ok_and(|number| pick(number, fd));
            picked.then_some(index)
        };
        let picked: Vec<usize> = slots.iter().filter_map(number).collect();
        picked.into_iter().filter_map(|index| slots.take(index)).map(|fd| fd.file).collect()
    }

    /// close(2)'s work on a file taken out of this table: POSIX locks of this table's owner on it go, errors are told.
    pub fn close_file(&self, file: Arc<File>) -> Result<(), Errno> {
        chitin_vfs::locks::release_owner(&file, LockOwner(self.id));
        if file.is_path_only() {
            return Ok(());
        }
        crate::ipc::mq::closed(&file, self.id);
        file.ops().flush()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        for (_, fd) in self.slots.get_mut().iter() {
            chitin_vfs::locks::release_owner(&fd.file, LockOwner(self.id));
            crate::ipc::mq::closed(&fd.file, self.id);
        }
    }
}
