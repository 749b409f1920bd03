//! What guests can make the sentry hold, kind by kind: how much there is and how much there may be.
//!
//! Linux bounds such memory by user and by the memory control group; here one process holds it for the whole sandbox, so
//! every kind has a bound of its own, from the machine's memory where Linux takes it from there ([`configure`]). Whoever
//! keeps a kind takes from its bound before, and gives back after; what a guest is told is the caller's.
//!
//! Counters are atomic. [`PerUser`] has a lock that is a leaf.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A quantity with a limit.
pub struct Bound {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl Bound {
    pub const fn new(limit: usize) -> Bound {
        Bound { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit) }
    }

    /// Takes `count`, if that much is left.
    #[must_use]
    pub fn take(&self, count: usize) -> bool {
        let limit = self.limit();
        let add = |used: usize| used.checked_add(count).filter(|&sum| sum <= limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    /// Takes `count` even beyond the limit; answers whether that is still kept.
    pub fn force(&self, count: usize) -> bool {
        let before = self.used.fetch_add(count, Ordering::AcqRel);
        before.saturating_add(count) <= self.limit()
    }

    pub fn give(&self, count: usize) {
        let less = |used: usize| Some(used.saturating_sub(count));
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }
    pub fn exceeded(&self) -> bool {
        self.used() > self.limit()
    }
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// As [`Bound::take`]; dropping the share gives it back.
    pub fn share(&'static self, count: usize) -> Option<Share> {
        self.take(count).then_some(Share { bound: self, count })
    }
}

/// See [`Bound::share`].
#[derive(Debug)]
pub struct Share {
    bound: &'static Bound,
    count: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bound.give(self.count);
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.used(), self.limit())
    }
}

/// Quantities counted by user id.
#[derive(Default)]
pub struct PerUser {
    used: Mutex<Option<HashMap<u32, usize>>>,
}

impl PerUser {
    pub const fn new() -> PerUser {
        PerUser { used: Mutex::new(None) }
    }

    /// Adds `count`; answers what the user has then.
    pub fn add(&self, user: u32, count: usize) -> usize {
        let mut used = self.used.lock();
        let entry = used.get_or_insert_default().entry(user).or_default();
        *entry = entry.saturating_add(count);
        *entry
    }

    pub fn sub(&self, user: u32, count: usize) {
        if let Some(map) = &mut *self.used.lock()
            && let Some(entry) = map.get_mut(&user)
        {
            *entry = entry.saturating_sub(count);
            if *entry == 0 {
                map.remove(&user);
            }
        }
    }

    pub fn of(&self, user: u32) -> usize {
        self.used.lock().as_ref().and_then(|map| map.get(&user)).copied().unwrap_or(0)
    }
}

/// Open file descriptions (fs.file-max): ENFILE.
pub static FILES: Bound = Bound::new(1 << 16);
/// Sockets of AF_UNIX, connections that nobody has accepted included: ENFILE.
pub static UNIX_SOCKETS: Bound = Bound::new(1 << 17);
/// Bytes in queues of AF_UNIX sockets, as Linux's memory for them: beyond it a socket has one small message on its way.
pub static SOCKET_BYTES: Bound = Bound::new(64 << 20);
/// Sockets of AF_INET and AF_INET6, likewise: ENFILE, or a connection that is not answered.
pub static INET_SOCKETS: Bound = Bound::new(1 << 17);
/// Bytes on their way in TCP connections (net.ipv4.tcp_mem): beyond it a connection has one page on its way.
pub static TCP_BYTES: Bound = Bound::new(64 << 20);
/// Bytes of datagrams of AF_INET and AF_INET6 not yet received (net.ipv4.udp_mem): more are lost.
pub static UDP_BYTES: Bound = Bound::new(32 << 20);
/// Bytes of netlink messages not yet received, dumps included: more are lost, dumps ENOBUFS.
pub static NETLINK_BYTES: Bound = Bound::new(16 << 20);
/// Pages that pipes may fill: ENFILE.
pub static PIPE_PAGES: Bound = Bound::new(1 << 14);
/// Items of epoll instances (fs.epoll.max_user_watches): ENOSPC.
pub static EPOLL_ITEMS: Bound = Bound::new(1 << 17);
/// inotify watches (fs.inotify.max_user_watches): ENOSPC.
pub static WATCHES: Bound = Bound::new(1 << 16);
/// Bytes of inotify events not yet read: the queue overflows.
pub static EVENT_BYTES: Bound = Bound::new(32 << 20);
/// Queued signals and POSIX timers of all users: EAGAIN. Each user has RLIMIT_SIGPENDING of them.
pub static SIGNALS: Bound = Bound::new(1 << 17);
/// Signals and timers by user.
pub static USER_SIGNALS: PerUser = PerUser::new();
/// Blocks of 64 descriptors in descriptor tables: ENOMEM.
pub static FD_BLOCKS: Bound = Bound::new(1 << 17);
/// Bytes of inodes, names and extended attributes that live in memory (tmpfs, overlay), of all mounts: ENOSPC.
pub static INODE_BYTES: Bound = Bound::new(1 << 30);
/// Bytes of messages in the queues of System V and POSIX IPC, heads included: ENOMEM.
pub static MESSAGE_BYTES: Bound = Bound::new(64 << 20);
/// Control groups that guests have made: ENOMEM.
pub static CGROUPS: Bound = Bound::new(1 << 13);
/// POSIX message queues, of all IPC namespaces: ENOSPC.
pub static MQUEUES: Bound = Bound::new(1 << 13);
/// What they may come to hold, by user (RLIMIT_MSGQUEUE): EMFILE.
pub static MQUEUE_BYTES: PerUser = PerUser::new();
/// Adjustments of SEM_UNDO: ENOMEM.
pub static UNDO_ENTRIES: Bound = Bound::new(1 << 18);
/// Entries of poll(2) calls that wait: ENOMEM.
pub static POLL_ENTRIES: Bound = Bound::new(1 << 21);

/// Sets the limits that follow the memory the sandbox may use.
pub fn configure(memory: u64) {
    let part = |divisor: u64, low: usize, high: usize| {
        usize::try_from(memory / divisor).unwrap_or(high).clamp(low, high)
    };
    let files = part(16 << 10, 1 << 15, 1 << 18);
    FILES.set_limit(files);
    UNIX_SOCKETS.set_limit(files.saturating_mul(2));
    INET_SOCKETS.set_limit(files.saturating_mul(2));
    SOCKET_BYTES.set_limit(part(32, 16 << 20, 256 << 20));
    UDP_BYTES.set_limit(part(64, 8 << 20, 128 << 20));
    NETLINK_BYTES.set_limit(part(128, 8 << 20, 64 << 20));
    TCP_BYTES.set_limit(part(16, 32 << 20, 512 << 20));
    PIPE_PAGES.set_limit(part(32 * 4096, 1 << 13, 1 << 16));
    // Linux lets them take 4% of the memory.
    EPOLL_ITEMS.set_limit(part(25 * 400, 1 << 16, 1 << 19));
    INODE_BYTES.set_limit(part(4, 128 << 20, usize::MAX));
    EVENT_BYTES.set_limit(part(128, 8 << 20, 64 << 20));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_left() {
        static BOUND: Bound = Bound::new(10);
        let share = BOUND.share(7).unwrap();
        assert!(!BOUND.take(4) && BOUND.take(3) && BOUND.used() == 10);
        assert!(!BOUND.force(1) && BOUND.exceeded());
        drop(share);
        assert_eq!(BOUND.used(), 4);
        BOUND.give(usize::MAX);
        assert_eq!(BOUND.used(), 0);
    }

    #[test]
    fn counts_by_user() {
        static USERS: PerUser = PerUser::new();
        assert_eq!((USERS.add(1, 5), USERS.add(2, 1), USERS.add(1, 1)), (5, 1, 6));
        USERS.sub(1, 6);
        assert_eq!((USERS.of(1), USERS.of(2)), (0, 1));
    }
}
