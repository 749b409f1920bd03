//! File locks of an inode: POSIX and OFD record locks (fcntl_locking(2)) and flock(2).
//!
//! POSIX locks belong to a file table and go when *any* of its descriptors of the inode is closed
//! ([`release_owner`]); OFD and flock locks belong to the open file description and go with it ([`InodeLocks::release_file`]).
//! Process ids are stored as the caller gives them; translating between pid namespaces is the caller's.
//!
//! Locks: `REGISTRY` → `Table::held`; the deadlock graph is a leaf. None is held while waking.

mod deadlock;
mod ranges;
#[cfg(test)]
mod tests;

pub use ranges::{OFFSET_MAX, Range, RecordLock};

use crate::{File, WaitQueue};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use parking_lot::Mutex;
use ranges::Records;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The most locks in the whole sandbox: then ENOLCK.
const MAX_LOCKS: usize = 1 << 18;
/// The most locks on one inode.
const MAX_PER_INODE: usize = 1 << 14;

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Every table that ever held a lock and still lives, in the order of their making, for /proc/locks.
static REGISTRY: Mutex<BTreeMap<u64, Weak<Table>>> = Mutex::new(BTreeMap::new());

/// Identity of a file table: the owner of POSIX record locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner(pub u64);

/// Who owns a record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Posix(LockOwner),
    /// An open file description, by its id.
    Ofd(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    Read,
    Write,
}

/// A whole-file lock of flock(2).
#[derive(Clone, Copy, Debug)]
struct FlockLock {
    kind: LockKind,
    file: u64,
    pid: i32,
}

#[derive(Default)]
struct Held {
    records: Records,
    flocks: Vec<FlockLock>,
}

struct Table {
    id: u64,
    dev: u64,
    ino: u64,
    held: Mutex<Held>,
    queue: WaitQueue,
}

impl Table {
    /// Changes what is held, keeping the counts; wakes waiters where `change` says that something became free.
    fn change<R>(&self, change: impl FnOnce(&mut Held) -> (R, bool)) -> R {
        let mut held = self.held.lock();
        let before = held.records.len() + held.flocks.len();
        let (result, freed) = change(&mut held);
        let after = held.records.len() + held.flocks.len();
        if after > before {
            COUNT.fetch_add(after - before, Ordering::Relaxed);
        } else {
            COUNT.fetch_sub(before - after, Ordering::Relaxed);
        }
        if freed {
            deadlock::void(self.id);
        }
        drop(held);
        if freed {
            self.queue.wake(0);
        }
        result
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let held = self.held.get_mut();
        COUNT.fetch_sub(held.records.len() + held.flocks.len(), Ordering::Relaxed);
        REGISTRY.lock().remove(&self.id);
    }
}

/// The locks of one inode.
#[derive(Default)]
pub struct InodeLocks {
    table: OnceLock<Arc<Table>>,
}

impl InodeLocks {
    /// Drops what an open file description holds (OFD, flock), as it goes away.
    pub fn release_file(&self, file_id: u64) {
        let Some(table) = self.table.get() else { return };
        table.change(|held| {
            let flocks = held.flocks.len();
            held.flocks.retain(|lock| lock.file != file_id);
            let all = Range { start: 0, end: OFFSET_MAX };
            let records = held.records.remove(Owner::Ofd(file_id), &all);
            ((), records || held.flocks.len() != flocks)
        });
    }

    fn release_posix(&self, owner: LockOwner) {
        let Some(table) = self.table.get() else { return };
        let all = Range { start: 0, end: OFFSET_MAX };
        table.change(|held| ((), held.records.remove(Owner::Posix(owner), &all)));
    }
}

fn table(file: &File) -> &Arc<Table> {
    file.inode().state().extras().locks.table.get_or_init(|| {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (dev, ino) = match file.inode().attr() {
            Ok(attr) => (attr.dev, attr.ino),
            Err(_) => (0, file.inode().ino()),
        };
        let table = Arc::new(Table { id, dev, ino, held: Mutex::default(), queue: WaitQueue::new() });
        REGISTRY.lock().insert(id, Arc::downgrade(&table));
        table
    })
}

/// close(2) of a descriptor of `file` in the table `owner`: its POSIX locks on the inode go.
pub fn release_owner(file: &File, owner: LockOwner) {
    if let Some(extras) = file.inode().state().extras_if_any() {
        extras.locks.release_posix(owner);
    }
}

/// The bytes that a `struct flock` means (flock_to_posix_lock()).
fn range(file: &File, flock: &Flock) -> Result<Range, Errno> {
    let base = match u32::try_from(i32::from(flock.l_whence)) {
        Ok(SEEK_SET) => 0,
        Ok(SEEK_CUR) => i64::try_from(*file.position()).map_err(|_| Errno::EOVERFLOW)?,
        Ok(SEEK_END) => i64::try_from(file.inode().attr()?.size).map_err(|_| Errno::EOVERFLOW)?,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(flock.l_start).ok_or(Errno::EOVERFLOW)?;
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = match flock.l_len {
        0 => (start, i64::MAX),
        len if len > 0 => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        len => {
            let first = start.checked_add(len).filter(|first| *first >= 0).ok_or(Errno::EINVAL)?;
            (first, start - 1)
        }
    };
    Ok(Range { start: start.cast_unsigned(), end: end.cast_unsigned() })
}

/// What F_SETLK asks for.
#[derive(Clone, Copy)]
enum Wanted {
    Lock(RecordLock),
    Unlock(Owner, Range),
}

fn wanted(file: &File, owner: Owner, pid: i32, flock: &Flock) -> Result<Wanted, Errno> {
    if file.is_path_only() {
        return Err(Errno::EBADF);
    }
    let is_ofd = matches!(owner, Owner::Ofd(_));
    let range = range(file, flock)?;
    let kind = match flock.l_type {
        F_RDLCK => LockKind::Read,
        F_WRLCK => LockKind::Write,
        F_UNLCK => LockKind::Read,
        _ => return Err(Errno::EINVAL),
    };
    if is_ofd && flock.l_pid != 0 {
        return Err(Errno::EINVAL);
    }
    if flock.l_type == F_UNLCK {
        return Ok(Wanted::Unlock(owner, range));
    }
    let allowed = if kind == LockKind::Read { file.readable() } else { file.writable() };
    if !allowed {
        return Err(Errno::EBADF);
    }
    Ok(Wanted::Lock(RecordLock { range, kind, owner, pid: if is_ofd { -1 } else { pid } }))
}

/// Tries once. `blocked` hears, under the lock, whose lock is in the way; its answer is then the result.
fn apply<R>(
    table: &Table,
    wanted: &Wanted,
    blocked: impl FnOnce(Owner) -> Result<R, Errno>,
) -> Result<Option<R>, Errno> {
    table.change(|held| match wanted {
        Wanted::Unlock(owner, range) => {
            let freed = held.records.remove(*owner, range);
            (Ok(None), freed)
        }
        Wanted::Lock(lock) => {
            if let Some(other) = held.records.conflict(lock) {
                return (blocked(other.owner).map(Some), false);
            }
            if held.records.len() >= MAX_PER_INODE || COUNT.load(Ordering::Relaxed) >= MAX_LOCKS {
                return (Err(Errno::ENOLCK), false);
            }
            held.records.insert(*lock);
            // A write lock may have become a read lock.
            (Ok(None), lock.kind == LockKind::Read)
        }
    })
}

/// F_SETLK and F_OFD_SETLK: EAGAIN when another owner's lock is in the way.
pub fn set(file: &File, owner: Owner, pid: i32, flock: &Flock) -> Result<(), Errno> {
    let wanted = wanted(file, owner, pid, flock)?;
    apply::<()>(table(file), &wanted, |_| Err(Errno::EAGAIN)).map(|_| ())
}

/// F_SETLKW and F_OFD_SETLKW: waits. EDEADLK where POSIX owners would wait for each other.
pub async fn set_wait(file: &File, owner: Owner, pid: i32, flock: &Flock) -> Result<(), Errno> {
    let wanted = wanted(file, owner, pid, flock)?;
    let table = table(file);
    let mut wait = deadlock::Wait::default();
    let attempt = || {
        let blocked = |holder| match (owner, holder) {
            (Owner::Posix(waiter), Owner::Posix(holder)) if !wait.enter(waiter, holder, table.id) => {
                Err(Errno::EDEADLK)
            }
            _ => Ok(()),
        };
        match apply(table, &wanted, blocked) {
            Ok(None) => Some(Ok(())),
            Ok(Some(())) => None,
            Err(error) => Some(Err(error)),
        }
    };
    table.queue.wait_until(attempt).await
}

/// F_GETLK and F_OFD_GETLK: the lock that stands in the way, or the request with F_UNLCK.
pub fn get(file: &File, owner: Owner, flock: &Flock) -> Result<Flock, Errno> {
    if file.is_path_only() {
        return Err(Errno::EBADF);
    }
    let is_ofd = matches!(owner, Owner::Ofd(_));
    let kind = match flock.l_type {
        F_RDLCK => Some(LockKind::Read),
        F_WRLCK => Some(LockKind::Write),
        // What does this open file description itself hold?
        F_UNLCK if is_ofd => None,
        _ => return Err(Errno::EINVAL),
    };
    let range = range(file, flock)?;
    if is_ofd && flock.l_pid != 0 {
        return Err(Errno::EINVAL);
    }
    let locks = file.inode().state().extras_if_any().and_then(|extras| extras.locks.table.get());
    let found = locks.and_then(|table| {
        let held = table.held.lock();
        match kind {
            Some(kind) => held.records.conflict(&RecordLock { range, kind, owner, pid: 0 }),
            None => {
                let own = |lock: &&RecordLock| lock.owner == owner && lock.range.overlaps(&range);
                held.records.all().iter().filter(own).min_by_key(|lock| lock.range.start).copied()
            }
        }
    });
    let Some(lock) = found else { return Ok(Flock { l_type: F_UNLCK, ..*flock }) };
    let whole = lock.range.end == OFFSET_MAX;
    let len = if whole { 0 } else { lock.range.end - lock.range.start + 1 };
    Ok(Flock {
        l_type: if lock.kind == LockKind::Write { F_WRLCK } else { F_RDLCK },
        l_whence: 0,
        l_start: i64::try_from(lock.range.start).unwrap_or(i64::MAX),
        l_len: i64::try_from(len).unwrap_or(i64::MAX),
        l_pid: lock.pid,
        ..*flock
    })
}

/// The lock that flock(2) asks for; `None`: LOCK_UN. EINVAL, EBADF.
fn flock_kind(file: &File, operation: u32) -> Result<Option<LockKind>, Errno> {
    let kind = match operation & !LOCK_NB {
        LOCK_SH => Some(LockKind::Read),
        LOCK_EX => Some(LockKind::Write),
        LOCK_UN => None,
        _ => return Err(Errno::EINVAL),
    };
    if file.is_path_only() {
        return Err(Errno::EBADF);
    }
    Ok(kind)
}

fn apply_flock(table: &Table, file: &File, pid: i32, kind: Option<LockKind>) -> Result<bool, Errno> {
    table.change(|held| {
        let id = file.id();
        let Some(kind) = kind else {
            let before = held.flocks.len();
            held.flocks.retain(|lock| lock.file != id);
            return (Ok(true), held.flocks.len() != before);
        };
        let old = held.flocks.iter().position(|lock| lock.file == id);
        let mut freed = false;
        if let Some(old) = old {
            if held.flocks.get(old).is_some_and(|lock| lock.kind == kind) {
                return (Ok(true), false);
            }
            // As on Linux the old lock goes first, and is lost when the new one cannot be had.
            held.flocks.swap_remove(old);
            freed = true;
        }
        if held.flocks.iter().any(|lock| lock.kind == LockKind::Write || kind == LockKind::Write) {
            return (Ok(false), freed);
        }
        if held.flocks.len() >= MAX_PER_INODE || COUNT.load(Ordering::Relaxed) >= MAX_LOCKS {
            return (Err(Errno::ENOLCK), freed);
        }
        held.flocks.push(FlockLock { kind, file: id, pid });
        (Ok(true), freed)
    })
}

/// flock(2) without waiting: EAGAIN when another open file description's lock is in the way.
pub fn flock(file: &File, operation: u32, pid: i32) -> Result<(), Errno> {
    if operation & LOCK_MAND != 0 {
        // Mandatory locks are gone from Linux, which accepts and ignores the request.
        return Ok(());
    }
    let kind = flock_kind(file, operation)?;
    match apply_flock(table(file), file, pid, kind)? {
        true => Ok(()),
        false => Err(Errno::EAGAIN),
    }
}

/// flock(2) that waits; with LOCK_NB it does not.
pub async fn flock_wait(file: &File, operation: u32, pid: i32) -> Result<(), Errno> {
    if operation & (LOCK_NB | LOCK_MAND) != 0 {
        return flock(file, operation, pid);
    }
    let kind = flock_kind(file, operation)?;
    let table = table(file);
    let attempt = || match apply_flock(table, file, pid, kind) {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    };
    table.queue.wait_until(attempt).await
}

/// F_SETLEASE: there are no leases, as on a file system without them.
pub fn set_lease() -> Result<(), Errno> {
    Err(Errno::EINVAL)
}

/// A line of /proc/locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockInfo {
    pub class: LockClass,
    pub kind: LockKind,
    pub pid: i32,
    pub dev: u64,
    pub ino: u64,
    pub range: Range,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockClass {
    Posix,
    Ofd,
    Flock,
}

/// Every lock that is held, for /proc/locks.
pub fn all_locks() -> Vec<LockInfo> {
    // Tables are let go only after the lock: their drop takes it.
    let tables: Vec<Arc<Table>> = REGISTRY.lock().values().filter_map(Weak::upgrade).collect();
    let mut infos = Vec::new();
    for table in &tables {
        let (dev, ino) = (table.dev, table.ino);
        let held = table.held.lock();
        for lock in held.records.all() {
            let class = if matches!(lock.owner, Owner::Ofd(_)) { LockClass::Ofd } else { LockClass::Posix };
            infos.push(LockInfo { class, kind: lock.kind, pid: lock.pid, dev, ino, range: lock.range });
        }
        let range = Range { start: 0, end: OFFSET_MAX };
        for lock in &held.flocks {
            let class = LockClass::Flock;
            infos.push(LockInfo { class, kind: lock.kind, pid: lock.pid, dev, ino, range });
        }
    }
    infos
}
