//! Control groups inside the sandbox (cgroup v2; Documentation/admin-guide/cgroup-v2.rst): one tree per container.
//!
//! The root of a tree is the container's own cgroup as its guest sees it: what limits it stands on the host and is only
//! told here ([`crate::container::Told`]). Below it a guest may make cgroups: processes are sorted, counted, bounded in
//! number (`pids`), frozen and killed by them. The other controllers cannot be enabled there.
//!
//! Neighbours: `fs-cgroup` makes files of it, `clone` and `exit` count, `freeze` and `run` stop what is frozen.
//!
//! Locks: `Kernel::tree` → `Process::cgroup` → `Cgroup::inner` (parent before child); the counters are atomic. A process is
//! moved, and a thread counted, with `Kernel::tree` locked.

mod place;

pub use place::Moved;
pub(crate) use place::account;

use chitin_abi::Errno;
use chitin_abi::inotify::IN_MODIFY;
use chitin_vfs::bounds::CGROUPS;
use chitin_vfs::{InodeState, WaitQueue};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// How deep a tree may be: its ends are let go one within the other.
const DEPTH_MAX: u32 = 128;

/// Files of a cgroup whose owner or mode was changed, by the number its file system gives them.
pub type Owners = BTreeMap<u32, (u32, u32, u32)>;

/// A cgroup.
pub struct Cgroup {
    /// Unique in the sandbox; inode numbers are made of it.
    pub id: u64,
    parent: Weak<Cgroup>,
    pub(crate) inner: RwLock<Inner>,
    /// Living threads in it, and in it and below.
    own: AtomicU64,
    threads: AtomicU64,
    /// The most threads there were.
    peak: AtomicU64,
    /// pids.max; u64::MAX: any number.
    pub pids_max: AtomicU64,
    /// How often a fork failed because of it.
    pub pids_failures: AtomicU64,
    frozen: AtomicBool,
    /// CPU time of processes that have ended in it or below.
    pub(crate) gone_user_ns: AtomicU64,
    pub(crate) gone_system_ns: AtomicU64,
    /// cgroup.max.depth and cgroup.max.descendants; u32::MAX: any.
    pub max_depth: AtomicU32,
    pub max_descendants: AtomicU32,
    /// Whether its children have the pids controller.
    pub pids_below: AtomicBool,
    pub owners: Mutex<Owners>,
    /// What watches of cgroup.events hang on, and who polls it.
    pub events: InodeState,
    pub changes: WaitQueue,
    /// Changes of cgroup.events.
    pub version: AtomicU64,
}

pub(crate) struct Inner {
    name: Box<[u8]>,
    pub(crate) children: BTreeMap<Box<[u8]>, Arc<Cgroup>>,
    /// Removed: nothing can be made or put into it any more.
    pub(crate) dead: bool,
}

fn none(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

impl Cgroup {
    fn make(name: &[u8], parent: Weak<Cgroup>) -> Arc<Cgroup> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Cgroup {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            parent,
            inner: RwLock::new(Inner { name: name.into(), children: BTreeMap::new(), dead: false }),
            own: AtomicU64::new(0),
            threads: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            pids_max: AtomicU64::new(u64::MAX),
            pids_failures: AtomicU64::new(0),
            frozen: AtomicBool::new(false),
            gone_user_ns: AtomicU64::new(0),
            gone_system_ns: AtomicU64::new(0),
            max_depth: AtomicU32::new(u32::MAX),
            max_descendants: AtomicU32::new(u32::MAX),
            pids_below: AtomicBool::new(false),
            owners: Mutex::default(),
            events: InodeState::default(),
            changes: WaitQueue::new(),
            version: AtomicU64::new(0),
        })
    }

    /// The root of a container's tree.
    pub(crate) fn root() -> Arc<Cgroup> {
        Cgroup::make(b"", Weak::new())
    }

    pub fn parent(&self) -> Option<Arc<Cgroup>> {
        self.parent.upgrade()
    }
    pub fn is_root(&self) -> bool {
        self.parent.strong_count() == 0
    }

    /// It and those above it, itself first.
    pub fn lineage(self: &Arc<Self>) -> impl Iterator<Item = Arc<Cgroup>> {
        std::iter::successors(Some(self.clone()), |at| at.parent())
    }

    pub fn child(&self, name: &[u8]) -> Option<Arc<Cgroup>> {
        self.inner.read().children.get(name).cloned()
    }
    /// Names and cgroups, by name.
    pub fn children(&self) -> Vec<(Box<[u8]>, Arc<Cgroup>)> {
        self.inner.read().children.iter().map(|(name, child)| (name.clone(), child.clone())).collect()
    }
    /// How many are below it.
    pub fn descendants(&self) -> usize {
        let children = self.children();
        children.iter().fold(children.len(), |sum, (_, child)| sum.saturating_add(child.descendants()))
    }

    /// mkdir(2). EAGAIN beyond the limits of this cgroup or one above.
    pub fn add(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Cgroup>, Errno> {
        for (depth, above) in (1u32..).zip(self.lineage()) {
            let limit = above.max_descendants.load(Ordering::Relaxed);
            let full = limit != u32::MAX && u32::try_from(above.descendants()).is_ok_and(|n| n >= limit);
            if full || depth > above.max_depth.load(Ordering::Relaxed).min(DEPTH_MAX) {
                return Err(Errno::EAGAIN);
            }
        }
        let mut inner = self.inner.write();
        if inner.dead {
            return Err(Errno::ENODEV);
        }
        if inner.children.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if !CGROUPS.take(1) {
            return Err(Errno::ENOMEM);
        }
        let child = Cgroup::make(name, Arc::downgrade(self));
        inner.children.insert(name.into(), child.clone());
        Ok(child)
    }

    /// Whether processes live in it or below.
    pub fn populated(&self) -> bool {
        self.threads() > 0
    }
    /// Living threads in it and below (pids.current).
    pub fn threads(&self) -> u64 {
        self.threads.load(Ordering::Relaxed)
    }
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
    pub fn pids_limit(&self) -> Option<u64> {
        none(self.pids_max.load(Ordering::Relaxed))
    }
    /// Whether threads live in it rather than below.
    pub fn has_own(&self) -> bool {
        self.own.load(Ordering::Relaxed) > 0
    }

    /// Whether a thread more would be one too many for it or one above; the failure is counted.
    pub(crate) fn is_full(self: &Arc<Self>) -> bool {
        let full = self.lineage().find(|at| at.threads() >= at.pids_max.load(Ordering::Relaxed));
        if let Some(full) = &full {
            full.pids_failures.fetch_add(1, Ordering::Relaxed);
        }
        full.is_some()
    }

    /// `count` threads more. With `Kernel::tree` locked.
    pub(crate) fn came(self: &Arc<Self>, count: u64) {
        self.own.fetch_add(count, Ordering::Relaxed);
        for at in self.lineage() {
            let before = at.threads.fetch_add(count, Ordering::Relaxed);
            at.peak.fetch_max(before.saturating_add(count), Ordering::Relaxed);
            if before == 0 && count > 0 {
                at.changed();
            }
        }
    }

    /// `count` threads fewer. With `Kernel::tree` locked.
    pub(crate) fn left(self: &Arc<Self>, count: u64) {
        let less = |n: u64| Some(n.saturating_sub(count));
        let _ = self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        for at in self.lineage() {
            let before = at.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            if count > 0 && before.is_ok_and(|n| n <= count) {
                at.changed();
            }
        }
    }

    /// cgroup.events reads otherwise now.
    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.changes.wake(0);
        self.events.notify(None, IN_MODIFY);
    }

    /// Whether cgroup.freeze is set on it or one above.
    pub fn is_frozen(self: &Arc<Self>) -> bool {
        self.lineage().any(|at| at.freezes())
    }
    /// Its own cgroup.freeze.
    pub fn freezes(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }
    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::SeqCst);
    }

    /// Whether `other` is it or below it.
    pub fn holds(self: &Arc<Self>, other: &Arc<Cgroup>) -> bool {
        other.lineage().any(|at| Arc::ptr_eq(&at, self))
    }

    /// Where it is, as a process sees it whose cgroup namespace begins at `from`: with `..` for what is above that.
    pub fn path_from(self: &Arc<Self>, from: &Arc<Cgroup>) -> Vec<u8> {
        let mut ups = 0;
        for base in from.lineage() {
            let below: Vec<_> = self.lineage().take_while(|at| !Arc::ptr_eq(at, &base)).collect();
            // The lineage of what is not below the base goes on to the root.
            if base.holds(self) {
                let names: Vec<_> = below.iter().map(|at| at.inner.read().name.clone()).collect();
                let mut text = b"/..".repeat(ups);
                if !names.is_empty() || ups == 0 {
                    text.extend_from_slice(&chitin_vfs::path_text(&names));
                }
                return text;
            }
            ups += 1;
        }
        // Another container's.
        b"/..".repeat(ups)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Roots are not counted: there is one for each container.
        if !self.inner.get_mut().name.is_empty() {
            CGROUPS.give(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_upwards() {
        let root = Cgroup::root();
        let a = root.add(b"a").unwrap();
        let b = a.add(b"b").unwrap();
        b.came(3);
        assert_eq!((root.threads(), a.threads(), b.threads()), (3, 3, 3));
        assert!(b.has_own() && !a.has_own() && a.populated());
        a.pids_max.store(3, Ordering::Relaxed);
        assert!(b.is_full() && !root.is_full());
        assert_eq!(a.pids_failures.load(Ordering::Relaxed), 1);
        b.left(3);
        assert_eq!((root.threads(), b.peak(), b.populated()), (0, 3, false));
    }

    #[test]
    fn paths_between_namespaces() {
        let (root, other) = (Cgroup::root(), Cgroup::root());
        let a = root.add(b"a").unwrap();
        let b = a.add(b"b").unwrap();
        let text = |of: &Arc<Cgroup>, from: &Arc<Cgroup>| String::from_utf8(of.path_from(from)).unwrap();
        assert_eq!(text(&root, &root), "/");
        assert_eq!(text(&b, &root), "/a/b");
        assert_eq!(text(&b, &b), "/");
        assert_eq!(text(&root, &b), "/../..");
        assert_eq!(text(&root.add(b"c").unwrap(), &a), "/../c");
        assert_eq!(text(&other, &root), "/..");
    }

    #[test]
    fn limits_on_the_tree() {
        let root = Cgroup::root();
        root.max_depth.store(1, Ordering::Relaxed);
        let a = root.add(b"a").unwrap();
        assert_eq!(a.add(b"b").err(), Some(Errno::EAGAIN));
        root.max_descendants.store(1, Ordering::Relaxed);
        assert_eq!(root.add(b"c").err(), Some(Errno::EAGAIN));
        assert_eq!(root.add(b"a").err(), Some(Errno::EAGAIN));
    }
}
