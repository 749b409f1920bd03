//! Mounts and mount namespaces.
//!
//! Locks: `MountNs::inner`, then `Mount::point`, both short.

use crate::dentry::SuperBlock;
use crate::{Dentry, FileSystem, Path};
use chitin_abi::Errno;
use chitin_abi::mount::*;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Mount flags that belong to the mount, not to the file system.
pub const PER_MOUNT_FLAGS: u32 = (MS_RDONLY
    | MS_NOSUID
    | MS_NODEV
    | MS_NOEXEC
    | MS_NOATIME
    | MS_NODIRATIME
    | MS_RELATIME
    | MS_STRICTATIME
    | MS_NOSYMFOLLOW) as u32;

/// The most mounts a namespace holds (fs.mount-max).
const MOUNT_MAX: usize = 10_000;

/// A file system (or a part of one) attached to a namespace.
pub struct Mount {
    id: u64,
    root: Arc<Dentry>,
    flags: AtomicU32,
    source: Vec<u8>,
    /// Where it sits: `None` for the namespace's root and for detached mounts.
    point: Mutex<Option<Path>>,
    /// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; shown, and kept over clones.
    propagation: AtomicU32,
}

impl Mount {
    /// A detached mount of a whole file system. `source` is what /proc/mounts shows first.
    pub fn new(fs: Arc<dyn FileSystem>, source: &[u8], flags: u32) -> Arc<Mount> {
        Mount::of(SuperBlock::root_of(fs), source, flags)
    }

    /// A detached mount of a part of a file system (bind).
    pub fn of(root: Arc<Dentry>, source: &[u8], flags: u32) -> Arc<Mount> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Mount {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            root,
            flags: AtomicU32::new(flags & PER_MOUNT_FLAGS),
            source: source.to_vec(),
            point: Mutex::new(None),
            propagation: AtomicU32::new(MS_PRIVATE as u32),
        })
    }

    pub fn id(&self) -> u64 {
        self.id
    }
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        self.root.fs()
    }
    pub fn source(&self) -> &[u8] {
        &self.source
    }
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }
    pub fn set_flags(&self, flags: u32) {
        self.flags.store(flags & PER_MOUNT_FLAGS, Ordering::Relaxed);
    }
    pub fn has(&self, flag: u64) -> bool {
        u64::from(self.flags()) & flag != 0
    }
    pub fn propagation(&self) -> u32 {
        self.propagation.load(Ordering::Relaxed)
    }
    pub fn set_propagation(&self, kind: u32) {
        self.propagation.store(kind, Ordering::Relaxed);
    }
    /// Where it is mounted.
    pub fn mountpoint(&self) -> Option<Path> {
        self.point.lock().clone()
    }
    /// EROFS for a read-only mount.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.has(MS_RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }
}

struct Inner {
    root: Arc<Mount>,
    /// In mount order; the root first.
    list: Vec<Arc<Mount>>,
    /// (mount id, dentry address) → what is mounted there.
    by_point: HashMap<(u64, usize), Arc<Mount>>,
}

/// The mounts a group of processes sees.
pub struct MountNs {
    id: u64,
    inner: RwLock<Inner>,
}

fn key(path: &Path) -> (u64, usize) {
    (path.mount.id, Arc::as_ptr(&path.dentry) as usize)
}

impl MountNs {
    pub fn new(root: Arc<Mount>) -> Arc<MountNs> {
        static NEXT: AtomicU64 = AtomicU64::new(0xf000_0000);
        let inner = Inner { list: vec![root.clone()], root, by_point: HashMap::new() };
        Arc::new(MountNs { id: NEXT.fetch_add(1, Ordering::Relaxed), inner: RwLock::new(inner) })
    }

    /// The number that /proc/PID/ns/mnt shows.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The root directory, through what is mounted over it.
    pub fn root(&self) -> Path {
        let mount = self.inner.read().root.clone();
        let dentry = mount.root.clone();
        self.follow(Path { mount, dentry })
    }

    /// From a mount point to the root of what is mounted there, as often as there is something.
    pub fn follow(&self, mut path: Path) -> Path {
        while path.dentry.mounted.load(Ordering::Acquire) > 0 {
            let Some(mount) = self.inner.read().by_point.get(&key(&path)).cloned() else { break };
            let dentry = mount.root.clone();
            path = Path { mount, dentry };
        }
        path
    }

    /// All mounts in the order they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.inner.read().list.clone()
    }

    /// Attaches `mount` at `point` (a path as walked: already through earlier mounts).
    pub fn attach(&self, mount: Arc<Mount>, point: Path) -> Result<(), Errno> {
        let mut inner = self.inner.write();
        if inner.list.len() >= MOUNT_MAX {
            return Err(Errno::ENOSPC);
        }
        point.dentry.mounted.fetch_add(1, Ordering::AcqRel);
        inner.by_point.insert(key(&point), mount.clone());
        *mount.point.lock() = Some(point);
        inner.list.push(mount);
        Ok(())
    }

    /// Mounts whose mount point lies in `mount`.
    fn children(inner: &Inner, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let sits_on = |child: &&Arc<Mount>| {
            child.point.lock().as_ref().is_some_and(|point| Arc::ptr_eq(&point.mount, mount))
        };
        inner.list.iter().filter(sits_on).cloned().collect()
    }

    fn remove(inner: &mut Inner, mount: &Arc<Mount>) {
        if let Some(point) = mount.point.lock().take() {
            inner.by_point.remove(&key(&point));
            point.dentry.mounted.fetch_sub(1, Ordering::AcqRel);
        }
        inner.list.retain(|known| !Arc::ptr_eq(known, mount));
    }

    /// umount2(2): EINVAL if it is not a mount's root here, EBUSY while used (without `detach`).
    pub fn detach(&self, path: &Path, detach: bool) -> Result<(), Errno> {
        let mut inner = self.inner.write();
        let mount = &path.mount;
        if !path.is_mount_root() || !inner.list.iter().any(|known| Arc::ptr_eq(known, mount)) {
            return Err(Errno::EINVAL);
        }
        if Arc::ptr_eq(mount, &inner.root) {
            return Err(Errno::EBUSY);
        }
        let mut doomed = vec![mount.clone()];
        let mut at = 0;
        while let Some(parent) = doomed.get(at).cloned() {
            doomed.extend(Self::children(&inner, &parent));
            at += 1;
        }
        if !detach {
            // References: the list, the map, the caller's path and `doomed`.
            if doomed.len() > 1 || Arc::strong_count(mount) > 4 {
                return Err(Errno::EBUSY);
            }
        }
        while let Some(mount) = doomed.pop() {
            Self::remove(&mut inner, &mount);
        }
        Ok(())
    }

    /// Moves a mount to another place (MS_MOVE).
    pub fn move_mount(&self, from: &Path, to: Path) -> Result<(), Errno> {
        let mount = from.mount.clone();
        if !from.is_mount_root() || mount.mountpoint().is_none() {
            return Err(Errno::EINVAL);
        }
        let mut above = Some(to.clone());
        while let Some(path) = above {
            if Arc::ptr_eq(&path.mount, &mount) {
                return Err(Errno::ELOOP);
            }
            above = path.mount.mountpoint();
        }
        Self::remove(&mut self.inner.write(), &mount);
        self.attach(mount, to)
    }

    /// A bind mount of `from` at `to`; with `recursive` the mounts below come along.
    pub fn bind(&self, from: &Path, to: Path, recursive: bool) -> Result<(), Errno> {
        let below: Vec<Arc<Mount>> = if recursive { self.mounts_below(from) } else { Vec::new() };
        let top = Mount::of(from.dentry.clone(), from.mount.source(), from.mount.flags());
        self.attach(top.clone(), to)?;
        let mut copies: HashMap<u64, Arc<Mount>> = HashMap::from([(from.mount.id, top)]);
        for mount in below {
            let Some(point) = mount.mountpoint() else { continue };
            let Some(parent) = copies.get(&point.mount.id).cloned() else { continue };
            let copy = Mount::of(mount.root.clone(), mount.source(), mount.flags());
            copies.insert(mount.id, copy.clone());
            self.attach(copy, Path { mount: parent, dentry: point.dentry })?;
        }
        Ok(())
    }

    /// Mounts at or below a path, outer ones first.
    fn mounts_below(&self, path: &Path) -> Vec<Arc<Mount>> {
        let list = self.mounts();
        let mut below: Vec<Arc<Mount>> = Vec::new();
        for mount in list {
            let Some(point) = mount.mountpoint() else { continue };
            let direct = Arc::ptr_eq(&point.mount, &path.mount) && point.dentry.is_within(&path.dentry);
            if direct || below.iter().any(|known| Arc::ptr_eq(known, &point.mount)) {
                below.push(mount);
            }
        }
        below
    }

    /// A copy for a new namespace (CLONE_NEWNS), and the copies by old mount id, to translate roots and directories.
    pub fn copy(&self) -> (Arc<MountNs>, HashMap<u64, Arc<Mount>>) {
        let inner = self.inner.read();
        let mut copies: HashMap<u64, Arc<Mount>> = HashMap::new();
        let copy_of = |mount: &Arc<Mount>| {
            let copy = Mount::of(mount.root.clone(), mount.source(), mount.flags());
            copy.set_propagation(mount.propagation());
            copy
        };
        let root = copy_of(&inner.root);
        copies.insert(inner.root.id, root.clone());
        let ns = MountNs::new(root);
        for mount in inner.list.iter().skip(1) {
            let Some(point) = mount.mountpoint() else { continue };
            let Some(parent) = copies.get(&point.mount.id).cloned() else { continue };
            let copy = copy_of(mount);
            copies.insert(mount.id, copy.clone());
            let attached = ns.attach(copy, Path { mount: parent, dentry: point.dentry });
            debug_assert!(attached.is_ok(), "a copy has no more mounts than its original");
        }
        (ns, copies)
    }

    /// pivot_root(2): `new_root` becomes the root, the old one moves to `put_old`.
    pub fn pivot(&self, new_root: &Path, put_old: &Path) -> Result<(), Errno> {
        let old = self.inner.read().root.clone();
        if !new_root.is_mount_root() || Arc::ptr_eq(&new_root.mount, &old) {
            return Err(if new_root.is_mount_root() { Errno::EBUSY } else { Errno::EINVAL });
        }
        let mount = new_root.mount.clone();
        {
            let mut inner = self.inner.write();
            Self::remove(&mut inner, &mount);
            inner.list.retain(|known| !Arc::ptr_eq(known, &old));
            inner.list.insert(0, mount.clone());
            inner.root = mount;
        }
        self.attach(old, put_old.clone())
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
        let mut text = Vec::new();
        for name in names.iter().rev() {
            text.push(b'/');
            text.extend_from_slice(name);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        if path.dentry.is_dead() {
            text.extend_from_slice(b" (deleted)");
        }
        (text, reachable)
    }
}
