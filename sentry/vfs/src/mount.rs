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
use crate::{Dentry, FileSystem, Path};
use chitin_abi::Errno;
use chitin_abi::mount::*;
use chitin_abi::num::low32;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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

/// A file system (or a part of one) attached to a namespace.
pub struct Mount {
    id: u64,
    root: Arc<Dentry>,
    flags: AtomicU32,
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
    /// EROFS for a read-only mount.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.has(MS_RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }
}
