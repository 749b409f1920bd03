//! Mount namespaces.

use super::Mount;
use super::group::{self, Propagation};
use super::spread;
use super::tree::{Ties, Tree, copy_tree};
use crate::{Creds, DirEntry, DirSink, Path, UserNs, WaitQueue, path_text};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::mount::MS_RDONLY;
use chitin_abi::num::low32;
use chitin_abi::poll::{POLLERR, POLLPRI};
use foldhash::fast::RandomState;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The most mounts a namespace holds (fs.mount-max).
const MOUNT_MAX: usize = 10_000;

struct Inner {
    root: Arc<Mount>,
    /// In mount order; the root first.
    list: Vec<Arc<Mount>>,
    /// (mount id, dentry address) → what is mounted there.
    by_point: HashMap<(u64, usize), Arc<Mount>, RandomState>,
}

/// The mounts a group of processes sees.
pub struct MountNs {
    id: u64,
    me: Weak<MountNs>,
    /// Who has power over its mounts.
    pub user_ns: Arc<UserNs>,
    inner: RwLock<Inner>,
    changes: AtomicU64,
    /// Told of every change, for those who poll /proc/PID/mounts.
    pub changed: WaitQueue,
}

fn key(path: &Path) -> (u64, usize) {
    (path.mount.id, Arc::as_ptr(&path.dentry) as usize)
}

impl MountNs {
    pub fn new(root: Arc<Mount>) -> Arc<MountNs> {
        MountNs::new_in(root, UserNs::initial())
    }

    /// One that `user_ns` has power over.
    pub fn new_in(root: Arc<Mount>, user_ns: &Arc<UserNs>) -> Arc<MountNs> {
        static NEXT: AtomicU64 = AtomicU64::new(0xf000_0000);
        let ns = Arc::new_cyclic(|me: &Weak<MountNs>| MountNs {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            me: me.clone(),
            user_ns: user_ns.clone(),
            inner: RwLock::new(Inner { list: vec![root.clone()], root, by_point: HashMap::default() }),
            changes: AtomicU64::new(0),
            changed: WaitQueue::new(),
        });
        *ns.inner.read().root.ns.lock() = Arc::downgrade(&ns);
        ns
    }

    /// The number that /proc/PID/ns/mnt shows.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A number that grows with every change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.changed.wake(POLLERR | POLLPRI);
    }

    /// The root directory, through what is mounted over it.
    pub fn root(&self) -> Path {
        let mount = self.inner.read().root.clone();
        let dentry = mount.root.clone();
        self.follow(Path { mount, dentry })
    }

    /// From a mount point to the root of what is mounted there, as often as there is something.
    pub fn follow(&self, mut path: Path) -> Path {
        while path.dentry.is_mountpoint() {
            // A path may lead through another namespace (/proc/PID/root): what is mounted there counts.
            let other = if self.holds(&path.mount) { None } else { path.mount.ns() };
            let inner = &other.as_deref().unwrap_or(self).inner;
            let Some(mount) = inner.read().by_point.get(&key(&path)).cloned() else { break };
            let dentry = mount.root.clone();
            path = Path { mount, dentry };
        }
        path
    }

    /// All mounts in the order they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.inner.read().list.clone()
    }

    fn holds(&self, mount: &Arc<Mount>) -> bool {
        mount.is_in(self)
    }

    /// Attaches `mount` at `point` (a path as walked: already through earlier mounts), and its copies wherever the mount
    /// it sits on is seen.
    pub fn attach(&self, mount: Arc<Mount>, point: Path) -> Result<(), Errno> {
        let _all = group::lock();
        if !self.holds(&point.mount) {
            return Err(Errno::EINVAL);
        }
        self.graft(Tree::of(mount), point)
    }

    /// attach_recursive_mnt()
    fn graft(&self, tree: Tree, point: Path) -> Result<(), Errno> {
        let copies = if point.mount.is_shared() {
            tree.mounts().for_each(|mount| mount.make_shared());
            let copies = spread::copies(&tree, &point);
            // Less privileged ones get them as they are.
            copies.iter().filter(|(ns, ..)| ns.user_ns != self.user_ns).for_each(|(.., copy)| copy.lock());
            copies
        } else {
            Vec::new()
        };
        let room =
            |ns: &MountNs, tree: &Tree| ns.inner.read().list.len().saturating_add(tree.len()) <= MOUNT_MAX;
        if !room(self, &tree) || !copies.iter().all(|(ns, _, copy)| room(ns, copy)) {
            let made = copies.iter().flat_map(|(_, _, copy)| copy.mounts()).chain(tree.mounts());
            made.for_each(|mount| mount.make_private());
            return Err(Errno::ENOSPC);
        }
        self.plant(tree, point);
        for (ns, point, copy) in copies {
            ns.plant(copy, point);
        }
        Ok(())
    }

    /// Enters a tree's mounts. What sits at `point` already comes to sit on top of it.
    fn plant(&self, tree: Tree, point: Path) {
        let mut inner = self.inner.write();
        let mut covered = Path { mount: tree.top.clone(), dentry: tree.top.root.clone() };
        while let Some((mount, _)) = tree.below.iter().find(|(_, at)| at.is(&covered)) {
            covered = Path { mount: mount.clone(), dentry: mount.root.clone() };
        }
        if let Some(above) = inner.by_point.remove(&key(&point)) {
            point.dentry.mounted.fetch_sub(1, Ordering::AcqRel);
            put(&mut inner, &above, covered);
        }
        let place = std::iter::once((tree.top, point)).chain(tree.below);
        for (mount, point) in place {
            *mount.ns.lock() = self.me.clone();
            put(&mut inner, &mount, point);
            inner.list.push(mount);
        }
        drop(inner);
        self.note_change();
    }

    /// Mounts whose mount point lies in `mount`.
    fn children(inner: &Inner, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let sits_on = |child: &&Arc<Mount>| {
            child.point.lock().as_ref().is_some_and(|point| Arc::ptr_eq(&point.mount, mount))
        };
        inner.list.iter().filter(sits_on).cloned().collect()
    }

    /// What is mounted exactly there.
    fn mounted_at(&self, point: &Path) -> Option<Arc<Mount>> {
        self.inner.read().by_point.get(&key(point)).cloned()
    }

    /// umount2(2): EINVAL if it is not a mount's root here, EBUSY while used (without `detach`).
    pub fn detach(&self, path: &Path, detach: bool) -> Result<(), Errno> {
        let _all = group::lock();
        let mount = &path.mount;
        if !path.is_mount_root() || !self.holds(mount) || mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if Arc::ptr_eq(mount, &self.inner.read().root) {
            return Err(Errno::EBUSY);
        }
        let mut doomed = vec![mount.clone()];
        doomed.extend(self.mounts_below(path).into_iter().map(|(mount, _)| mount));
        let elsewhere = Self::seen_of(&doomed);
        if !detach {
            // References: the list, the map, the caller's path and `doomed`; without the path for the copies elsewhere.
            let used = |mount: &Arc<Mount>, by: usize| Arc::strong_count(mount) > by;
            // What sits on a copy's root refers to it, too, but is no obstacle: it takes the copy's place.
            let above =
                |copy: &Arc<Mount>| copy.ns().map_or(0, |ns| Self::children(&ns.inner.read(), copy).len());
            let copy_used = |copy: &Arc<Mount>| used(copy, above(copy).saturating_add(3));
            if doomed.len() > 1 || used(mount, 4) || elsewhere.iter().any(copy_used) {
                return Err(Errno::EBUSY);
            }
        }
        for mount in elsewhere.into_iter().rev().chain(doomed.into_iter().rev()) {
            if let Some(ns) = mount.ns() {
                ns.remove(&mount);
            }
        }
        Ok(())
    }

    /// Copies of doomed mounts at the same places elsewhere, unless something else is mounted inside them.
    fn seen_of(doomed: &[Arc<Mount>]) -> Vec<Arc<Mount>> {
        let mut found: Vec<Arc<Mount>> = Vec::new();
        let known = |list: &[Arc<Mount>], mount: &Arc<Mount>| list.iter().any(|m| Arc::ptr_eq(m, mount));
        for mount in doomed {
            let Some(point) = mount.mountpoint() else { continue };
            for parent in spread::audience(&point.mount) {
                let at = Path { mount: parent, dentry: point.dentry.clone() };
                let copy = at.mount.ns().and_then(|ns| ns.mounted_at(&at));
                if let Some(copy) = copy
                    && !known(doomed, &copy)
                    && !known(&found, &copy)
                {
                    found.push(copy);
                }
            }
        }
        loop {
            let kept: Vec<Arc<Mount>> = found
                .iter()
                .filter(|mount| {
                    let inside = mount.ns().map(|ns| Self::children(&ns.inner.read(), mount));
                    // What sits on its very root moves down to its place.
                    let movable =
                        |child: &Arc<Mount>| child.mountpoint().is_some_and(|point| point.is_mount_root());
                    let goes = |child: &Arc<Mount>| known(&found, child) || known(doomed, child);
                    inside.unwrap_or_default().iter().all(|child| goes(child) || movable(child))
                })
                .cloned()
                .collect();
            if kept.len() == found.len() {
                return found;
            }
            found = kept;
        }
    }

    /// Takes a mount out; what sits on its very root takes its place.
    fn remove(&self, mount: &Arc<Mount>) {
        let mut inner = self.inner.write();
        let point = take(&mut inner, mount);
        inner.list.retain(|known| !Arc::ptr_eq(known, mount));
        let above = Path { mount: mount.clone(), dentry: mount.root.clone() };
        if let Some(above) = inner.by_point.get(&key(&above)).cloned()
            && let Some(point) = point
        {
            take(&mut inner, &above);
            put(&mut inner, &above, point);
        }
        drop(inner);
        *mount.ns.lock() = Weak::new();
        mount.make_private();
        self.note_change();
    }

    /// Moves a mount to another place (MS_MOVE).
    pub fn move_mount(&self, from: &Path, to: Path) -> Result<(), Errno> {
        let _all = group::lock();
        let mount = from.mount.clone();
        let movable = from.is_mount_root() && self.holds(&mount) && !mount.is_locked();
        let Some(old) = mount.mountpoint().filter(|_| movable) else {
            return Err(Errno::EINVAL);
        };
        let below = self.mounts_below(from);
        if old.mount.is_shared()
            || !self.holds(&to.mount)
            || to.mount.is_shared()
                && (mount.is_unbindable() || below.iter().any(|(mount, _)| mount.is_unbindable()))
        {
            return Err(Errno::EINVAL);
        }
        let mut above = Some(to.clone());
        while let Some(path) = above {
            if Arc::ptr_eq(&path.mount, &mount) {
                return Err(Errno::ELOOP);
            }
            above = path.mount.mountpoint();
        }
        let mut inner = self.inner.write();
        let mut tree = Tree::of(mount);
        for (mount, _) in &below {
            take(&mut inner, mount);
            inner.list.retain(|known| !Arc::ptr_eq(known, mount));
        }
        tree.below = below;
        take(&mut inner, &tree.top);
        inner.list.retain(|known| !Arc::ptr_eq(known, &tree.top));
        drop(inner);
        // As many as before, so there is room here; if there is none elsewhere, it goes back.
        let spare = tree.alias();
        let moved = self.graft(tree, to);
        if moved.is_err() {
            self.plant(spare, old);
        }
        moved
    }

    /// A bind mount of `from` at `to`; with `recursive` the mounts below come along.
    pub fn bind(&self, from: &Path, to: Path, recursive: bool) -> Result<(), Errno> {
        let _all = group::lock();
        // Not from or to other namespaces; what is mounted nowhere (nsfs) belongs to all.
        let foreign = from.mount.ns().is_some() && !self.holds(&from.mount);
        if from.mount.is_unbindable() || foreign || !self.holds(&to.mount) {
            return Err(Errno::EINVAL);
        }
        let mut below = self.mounts_below(from);
        if !recursive {
            // What a more privileged namespace has covered must not come to light.
            let direct = |at: &Path| Arc::ptr_eq(&at.mount, &from.mount);
            if below.iter().any(|(mount, at)| mount.is_locked() && direct(at)) {
                return Err(Errno::EINVAL);
            }
            below.clear();
        }
        if below.iter().any(|(mount, _)| mount.is_locked() && mount.is_unbindable()) {
            return Err(Errno::EPERM);
        }
        let tree = copy_tree(&from.mount, from.dentry.clone(), &below, Ties::Same, false);
        tree.top.set_locked(false);
        self.graft(tree, to)
    }

    /// Mounts below a path, outer ones first, and where they sit.
    fn mounts_below(&self, path: &Path) -> Vec<(Arc<Mount>, Path)> {
        // A mount may be younger than what sits in it, so the list's order does not do.
        let inner = self.inner.read();
        let placed = |mount: Arc<Mount>| mount.mountpoint().map(|point| (mount, point));
        let direct = Self::children(&inner, &path.mount).into_iter().filter_map(placed);
        let mut below: Vec<(Arc<Mount>, Path)> =
            direct.filter(|(_, point)| point.dentry.is_within(&path.dentry)).collect();
        let mut at = 0;
        while let Some((mount, _)) = below.get(at).cloned() {
            below.extend(Self::children(&inner, &mount).into_iter().filter_map(placed));
            at += 1;
        }
        below
    }

    /// MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE of a mount, and with `recursive` of all below it.
    pub fn set_propagation(&self, path: &Path, kind: Propagation, recursive: bool) -> Result<(), Errno> {
        let _all = group::lock();
        if !path.is_mount_root() || !self.holds(&path.mount) {
            return Err(Errno::EINVAL);
        }
        path.mount.change(kind);
        if recursive {
            self.mounts_below(path).iter().for_each(|(mount, _)| mount.change(kind));
        }
        self.note_change();
        Ok(())
    }

    /// A copy for a new namespace (CLONE_NEWNS) that `user_ns` has power over, and the copies by old mount id, to translate
    /// roots and directories. With less power than before, what is mounted stays as it is.
    pub fn copy(&self, user_ns: &Arc<UserNs>) -> (Arc<MountNs>, HashMap<u64, Arc<Mount>>) {
        let _all = group::lock();
        let root = self.inner.read().root.clone();
        let below = self.mounts_below(&Path { dentry: root.root.clone(), mount: root.clone() });
        let less = *user_ns != self.user_ns;
        let ties = if less { Ties::Less } else { Ties::Same };
        let tree = copy_tree(&root, root.root.clone(), &below, ties, true);
        if less {
            tree.lock();
        }
        let olds = std::iter::once(&root).chain(below.iter().map(|(mount, _)| mount));
        let copies = olds.zip(tree.mounts()).map(|(old, new)| (old.id, new.clone())).collect();
        let ns = MountNs::new_in(tree.top, user_ns);
        {
            let mut inner = ns.inner.write();
            for (mount, point) in tree.below {
                *mount.ns.lock() = Arc::downgrade(&ns);
                put(&mut inner, &mount, point);
                inner.list.push(mount);
            }
        }
        (ns, copies)
    }

    /// pivot_root(2): `new_root` becomes the root, the old one moves to `put_old`.
    pub fn pivot(&self, new_root: &Path, put_old: &Path) -> Result<(), Errno> {
        let _all = group::lock();
        let old = self.inner.read().root.clone();
        if new_root.mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        let Some(place) = new_root.mount.mountpoint().filter(|_| new_root.is_mount_root()) else {
            return Err(if new_root.is_mount_root() { Errno::EBUSY } else { Errno::EINVAL });
        };
        if place.mount.is_shared() || put_old.mount.is_shared() {
            return Err(Errno::EINVAL);
        }
        let mount = new_root.mount.clone();
        if old.is_locked() {
            mount.set_locked(true);
            old.set_locked(false);
        }
        let mut inner = self.inner.write();
        take(&mut inner, &mount);
        put(&mut inner, &old, put_old.clone());
        inner.list.retain(|known| !Arc::ptr_eq(known, &mount));
        inner.list.insert(0, mount.clone());
        inner.root = mount;
        drop(inner);
        self.note_change();
        Ok(())
    }

    /// Whether a new instance of a file system type would show its mounter more than what the namespace shows already
    /// (mount_too_revealing()): EPERM. What is locked there is locked in the new one.
    pub fn may_reveal(&self, fs_type: &str, mount: &Arc<Mount>) -> Result<(), Errno> {
        if self.user_ns.is_initial() || !matches!(fs_type, "proc" | "sysfs") {
            return Ok(());
        }
        let _all = group::lock();
        let inner = self.inner.read();
        let whole = |known: &&Arc<Mount>| {
            known.fs().fs_type() == fs_type
                && known.root.parent().is_none()
                && known.may_change_flags(mount.flags()).is_ok()
                // Empty directories are made to be covered.
                && Self::children(&inner, known).iter().all(|child| !child.is_locked() || covers_nothing(child))
        };
        let Some(known) = inner.list.iter().find(whole) else { return Err(Errno::EPERM) };
        mount.locked_flags.fetch_or(
            known.locked_flags.load(Ordering::Acquire) & low32(MS_RDONLY | super::LOCK_ATIME),
            Ordering::AcqRel,
        );
        Ok(())
    }

    /// Whether somebody may mount and unmount here (may_mount()).
    pub fn may_mount(&self, creds: &Creds) -> bool {
        creds.capable_in(&self.user_ns, CAP_SYS_ADMIN)
    }

    /// The text of a path as seen from `root`; the flag says whether it is reachable from there.
    pub fn text(&self, root: &Path, path: &Path) -> (Vec<u8>, bool) {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut at = path.clone();
        let reachable = loop {
            if at.is(root) {
                break true;
            }
            if at.is_mount_root() {
                match at.mount.mountpoint() {
                    Some(point) => at = point,
                    None => break root.is_mount_root() && root.mount.mountpoint().is_none() && at.is(root),
                }
                continue;
            }
            let (name, parent) = at.dentry.place();
            let Some(parent) = parent else { break false };
            names.push(name);
            at.dentry = parent;
        };
        let mut text = path_text(&names);
        if path.dentry.is_dead() {
            text.extend_from_slice(b" (deleted)");
        }
        (text, reachable)
    }
}

/// Enters a mount point.
fn put(inner: &mut Inner, mount: &Arc<Mount>, point: Path) {
    point.dentry.mounted.fetch_add(1, Ordering::AcqRel);
    inner.by_point.insert(key(&point), mount.clone());
    *mount.point.lock() = Some(point);
}

/// Whether a mount sits on a directory that never has anything in it.
fn covers_nothing(mount: &Arc<Mount>) -> bool {
    struct Any(bool);
    impl DirSink for Any {
        fn entry(&mut self, _entry: &DirEntry<'_>) -> bool {
            self.0 = true;
            false
        }
    }
    let Some(point) = mount.mountpoint() else { return true };
    let mut found = Any(false);
    point.inode().dir().is_some_and(|dir| dir.read_dir(0, &mut found).is_ok()) && !found.0
}

/// Takes a mount off its point.
fn take(inner: &mut Inner, mount: &Arc<Mount>) -> Option<Path> {
    let point = mount.point.lock().take()?;
    inner.by_point.remove(&key(&point));
    point.dentry.mounted.fetch_sub(1, Ordering::AcqRel);
    Some(point)
}

impl Drop for MountNs {
    fn drop(&mut self) {
        let _all = group::lock();
        let inner = self.inner.get_mut();
        for mount in std::mem::take(&mut inner.list) {
            take(inner, &mount);
            mount.make_private();
        }
    }
}
