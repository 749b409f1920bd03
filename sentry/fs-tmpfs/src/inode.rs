//! The inodes of a tmpfs.
//!
//! A directory owns its entries' inodes; nothing points upwards, so the tree goes with its root. Dropping it is
//! iterative: a guest may nest directories deeper than our stack reaches.
//!
//! Locks: a directory's `entries` (two of them: by address), then `meta` or `xattrs` of any inode (leaves).

use crate::data::FileData;
use crate::entries::Entries;
use crate::file::TmpFile;
use crate::meta::{Meta, XattrMap};
use crate::space::{INODE_COST, Space};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::limits::PAGE_SIZE;
use chitin_vfs::walk::Caller;
use chitin_vfs::{
    Attr, Directory, FileKind, FileOps, Inode, InodeState, LinkTarget, NewInode, NewKind, SetAttr, Xattrs,
};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all inodes of one file system share.
pub(crate) struct Shared {
    pub(crate) dev: u64,
    pub(crate) space: Arc<Space>,
    next_ino: AtomicU64,
}

impl Shared {
    pub(crate) fn new(dev: u64, space: Arc<Space>) -> Arc<Shared> {
        Arc::new(Shared { dev, space, next_ino: AtomicU64::new(1) })
    }
}

/// Longer link texts take a page (SHORT_SYMLINK_LEN).
const SHORT_SYMLINK: usize = 128;
/// What a directory's size grows by per entry (BOGO_DIRENT_SIZE).
const ENTRY_SIZE: u64 = 20;

pub struct TmpInode {
    pub(crate) shared: Arc<Shared>,
    ino: u64,
    kind: FileKind,
    state: InodeState,
    pub(crate) meta: Mutex<Meta>,
    xattrs: Mutex<XattrMap>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Regular(FileData),
    Directory(RwLock<DirState>),
    Symlink { text: Vec<u8>, pages: u64 },
    Special { rdev: u64 },
}

#[derive(Default)]
pub(crate) struct DirState {
    pub(crate) entries: Entries<Arc<TmpInode>>,
    /// Removed: nothing can be made in it any more.
    pub(crate) dead: bool,
}

impl TmpInode {
    /// A new inode without a name yet; a directory's `nlink` is 2 from the start.
    pub(crate) fn make(
        shared: &Arc<Shared>,
        new: &NewInode,
        nlink: u32,
        seals: u32,
    ) -> Result<Arc<TmpInode>, Errno> {
        let space = &shared.space;
        space.charge_inode(INODE_COST)?;
        let (kind, body) = match &new.kind {
            NewKind::Regular => (FileKind::Regular, Body::Regular(FileData::new(space.clone(), seals))),
            NewKind::Directory => (FileKind::Directory, Body::Directory(RwLock::default())),
            NewKind::Symlink(text) => {
                let pages = if text.len() >= SHORT_SYMLINK { 1 } else { 0 };
                if !space.charge(pages) {
                    space.uncharge_inode(INODE_COST);
                    return Err(Errno::ENOSPC);
                }
                (FileKind::Symlink, Body::Symlink { text: text.clone(), pages })
            }
            NewKind::Fifo => (FileKind::Fifo, Body::Special { rdev: 0 }),
            NewKind::Socket => (FileKind::Socket, Body::Special { rdev: 0 }),
            NewKind::Device { kind, rdev } => (*kind, Body::Special { rdev: *rdev }),
        };
        let mut meta = Meta::new(new, nlink);
        if kind == FileKind::Symlink {
            meta.perm = 0o777;
        }
        Ok(Arc::new(TmpInode {
            shared: shared.clone(),
            ino: shared.next_ino.fetch_add(1, Ordering::Relaxed),
            kind,
            state: InodeState::default(),
            meta: Mutex::new(meta),
            xattrs: Mutex::default(),
            body,
        }))
    }

    /// The content of a regular file.
    pub fn data(&self) -> Option<&FileData> {
        match &self.body {
            Body::Regular(data) => Some(data),
            _ => None,
        }
    }

    pub(crate) fn dir_state(&self) -> Result<&RwLock<DirState>, Errno> {
        match &self.body {
            Body::Directory(state) => Ok(state),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// F_GET_SEALS; EINVAL for what is no regular file.
    pub fn seals(&self) -> Result<u32, Errno> {
        Ok(self.data().ok_or(Errno::EINVAL)?.seals())
    }

    /// F_ADD_SEALS (memfd_add_seals()); the caller has checked that the descriptor can write.
    pub fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        let data = self.data().ok_or(Errno::EINVAL)?;
        const ALL: u32 =
            F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC;
        if seals & !ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let mut seals = seals;
        if seals & F_SEAL_EXEC != 0 && self.meta.lock().perm & 0o111 != 0 {
            // What stays executable must not change either.
            seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
        }
        data.add_seals(seals)
    }
}

impl Inode for TmpInode {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let (size, blocks, rdev) = match &self.body {
            Body::Regular(data) => (data.size(), data.blocks(), 0),
            Body::Directory(state) => ((state.read().entries.len() as u64 + 2) * ENTRY_SIZE, 0, 0),
            Body::Symlink { text, pages } => (text.len() as u64, pages * (PAGE_SIZE / 512), 0),
            Body::Special { rdev } => (0, 0, *rdev),
        };
        let attr = self.meta.lock().attr(self.shared.dev, self.ino, self.kind);
        Ok(Attr { size, blocks, rdev, ..attr })
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if let (Some(perm), Some(data)) = (change.perm, self.data())
            && data.seals() & F_SEAL_EXEC != 0
            && (perm ^ self.meta.lock().perm) & 0o111 != 0
        {
            return Err(Errno::EPERM);
        }
        if let Some(size) = change.size {
            match &self.body {
                Body::Regular(data) => data.truncate(size)?,
                Body::Directory(_) => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
        }
        self.meta.lock().apply(change);
        Ok(())
    }

    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        match self.body {
            Body::Directory(_) => Some(self),
            _ => None,
        }
    }
    fn xattrs(&self) -> Option<&dyn Xattrs> {
        Some(self)
    }

    fn link_target(&self, _caller: &Caller) -> Result<LinkTarget, Errno> {
        match &self.body {
            Body::Symlink { text, .. } => {
                self.meta.lock().accessed();
                Ok(LinkTarget::Text(text.clone()))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        match &self.body {
            Body::Regular(_) => Ok(TmpFile::new(self, flags)),
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::Symlink { .. } => Err(Errno::ELOOP),
            Body::Special { .. } => Err(Errno::ENXIO),
        }
    }
}

impl Xattrs for TmpInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattrs.lock().get(name)
    }
    fn list(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.xattrs.lock().list())
    }
    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        self.xattrs.lock().set(&self.shared.space, name, value, flags)?;
        self.meta.lock().touch_inode();
        Ok(())
    }
    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        self.xattrs.lock().remove(&self.shared.space, name)?;
        self.meta.lock().touch_inode();
        Ok(())
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        let space = self.shared.space.clone();
        self.xattrs.get_mut().clear(&space);
        // Names beyond the first that go with the tree were charged like inodes.
        let links = if self.kind == FileKind::Directory { 1 } else { self.meta.get_mut().nlink.max(1) };
        space.uncharge_inode(INODE_COST.saturating_mul(u64::from(links)));
        match &mut self.body {
            Body::Symlink { pages, .. } => space.uncharge(*pages),
            Body::Directory(state) => {
                let mut doomed: Vec<Arc<TmpInode>> = state.get_mut().entries.drain().collect();
                while let Some(inode) = doomed.pop() {
                    // Where this is the last reference the inode goes here, without children of its own.
                    if let Some(mut inode) = Arc::into_inner(inode)
                        && let Body::Directory(state) = &mut inode.body
                    {
                        doomed.extend(state.get_mut().entries.drain());
                    }
                }
            }
            Body::Regular(_) | Body::Special { .. } => {}
        }
    }
}
