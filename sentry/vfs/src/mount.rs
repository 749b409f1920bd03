//! Mounts and mount namespaces (fs/namespace.c, fs/pnode.c).
//!
//! A [`Mount`] attaches a file system, or a part of one, to a path of a [`MountNs`]. Mounts of one *peer group* (shared
//! mounts) see each other's mounts and unmounts; mounts that are *slaves* of a group see the group's, not the other way
//! round (mount_namespaces(7)).
//!
//! Neighbours: `mount/ns` (a namespace's changes), `mount/group` (peers and slaves), `mount/tree` (copies of mount trees),
//! `mount/spread` (where a change goes besides the place it was made).
//!
//! Locks, outer first: `group::lock` (every change of any namespace or group), `MountNs::inner`, then the leaves
//! `Mount::point`, `Mount::tie`, `Mount::ns`, `Group::inner`. Walks take only `MountNs::inner`, for reading.

mod group;
mod ns;
mod spread;
mod tree;

pub use group::Propagation;
pub use ns::MountNs;

use crate::dentry::SuperBlock;
use crate::{Creds, Dentry, FileSystem, Path, UserNs};
use chitin_abi::Errno;
use chitin_abi::mount::*;
use chitin_abi::num::low32;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Mount flags that belong to the mount, not to the file system.
pub const PER_MOUNT_FLAGS: u32 = low32(
    MS_RDONLY
        | MS_NOSUID
        | MS_NODEV
        | MS_NOEXEC
        | MS_NOATIME
        | MS_NODIRATIME
        | MS_RELATIME
        | MS_STRICTATIME
        | MS_NOSYMFOLLOW,
);

/// How access times are kept.
const ATIME: u64 = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME;
/// Among locked flags: those of access times.
const LOCK_ATIME: u64 = MS_RELATIME;

/// A file system (or a part of one) attached to a namespace.
pub struct Mount {
    id: u64,
    root: Arc<Dentry>,
    flags: AtomicU32,
    /// Flags that its namespace may not take away, since a more privileged one has set them (MNT_LOCK_*).
    locked_flags: AtomicU32,
    /// It may not be taken off what it covers (MNT_LOCKED).
    locked: AtomicBool,
    /// Where the file system was mounted (s_user_ns).
    user_ns: Arc<UserNs>,
    source: Vec<u8>,
    /// Where it sits: `None` for the namespace's root and for detached mounts.
    point: Mutex<Option<Path>>,
    /// The namespace that it is attached to.
    ns: Mutex<Weak<MountNs>>,
    /// Its peers and its master.
    tie: Mutex<group::Tie>,
}

impl Mount {
    /// A detached mount of a whole file system. `source` is what /proc/mounts shows first.
    pub fn new(fs: Arc<dyn FileSystem>, source: &[u8], flags: u32) -> Arc<Mount> {
        Mount::of(SuperBlock::root_of(fs), source, flags, UserNs::initial())
    }

    /// The same by somebody with power over `user_ns` only.
    pub fn new_in(fs: Arc<dyn FileSystem>, source: &[u8], flags: u32, user_ns: &Arc<UserNs>) -> Arc<Mount> {
        Mount::of(SuperBlock::root_of(fs), source, flags, user_ns)
    }

    /// A detached mount of a part of a file system (bind).
    fn of(root: Arc<Dentry>, source: &[u8], flags: u32, user_ns: &Arc<UserNs>) -> Arc<Mount> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Mount {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            root,
            flags: AtomicU32::new(flags & PER_MOUNT_FLAGS),
            locked_flags: AtomicU32::new(0),
            locked: AtomicBool::new(false),
            user_ns: user_ns.clone(),
            source: source.to_vec(),
            point: Mutex::new(None),
            ns: Mutex::default(),
            tie: Mutex::default(),
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
        if let Some(ns) = self.ns() {
            ns.note_change();
        }
    }
    pub fn has(&self, flag: u64) -> bool {
        u64::from(self.flags()) & flag != 0
    }
    /// Where it is mounted.
    pub fn mountpoint(&self) -> Option<Path> {
        self.point.lock().clone()
    }
    /// The namespace that it is attached to.
    fn ns(&self) -> Option<Arc<MountNs>> {
        self.ns.lock().upgrade()
    }
    fn is_in(&self, ns: &MountNs) -> bool {
        std::ptr::eq(self.ns.lock().as_ptr(), ns)
    }
    pub fn user_ns(&self) -> &Arc<UserNs> {
        &self.user_ns
    }
    /// Whether device nodes can be opened: not those that somebody without power over the machine has made up.
    pub fn has_devices(&self) -> bool {
        !self.has(MS_NODEV) && self.user_ns.is_initial()
    }
    /// Whether set-id bits and file capabilities count (mnt_may_suid()).
    pub fn may_suid(&self, creds: &Creds) -> bool {
        !self.has(MS_NOSUID) && creds.user_ns.is_within(&self.user_ns)
    }

    /// Its flags stay as they are at least (lock_mnt_tree()); `covers`: so does it.
    pub(crate) fn lock(&self, covers: bool) {
        let kept = low32(MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC) & self.flags();
        self.locked_flags.fetch_or(kept | low32(LOCK_ATIME), Ordering::AcqRel);
        if covers {
            self.set_locked(true);
        }
    }
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Acquire)
    }
    pub(crate) fn set_locked(&self, locked: bool) {
        self.locked.store(locked, Ordering::Release);
    }
    fn lock_like(&self, other: &Mount) {
        self.locked_flags.store(other.locked_flags.load(Ordering::Acquire), Ordering::Release);
        self.set_locked(other.is_locked());
    }
    /// Whether its flags may become these (can_change_locked_flags()): EPERM.
    pub fn may_change_flags(&self, flags: u32) -> Result<(), Errno> {
        let locked = self.locked_flags.load(Ordering::Acquire);
        let taken = locked & !low32(LOCK_ATIME) & !flags != 0;
        let atime = u64::from(locked) & LOCK_ATIME != 0
            && u64::from(self.flags() ^ flags) & (ATIME & !MS_STRICTATIME) != 0;
        if taken || atime { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// EROFS for a read-only mount.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.has(MS_RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }
}
