//! The file system object: limits, statfs, remount.

use crate::inode::{Shared, TmpInode};
use crate::options::Options;
use crate::space::{Space, Storage};
use chitin_abi::Errno;
use chitin_abi::limits::{NAME_MAX, PAGE_SIZE};
use chitin_abi::stat::{Statfs, TMPFS_MAGIC};
use chitin_vfs::{FileSystem, Inode, NewInode, NewKind};
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::sync::Arc;

pub struct TmpFs {
    shared: Arc<Shared>,
    root: Arc<TmpInode>,
    /// The guest's memory, which sizes in per cent refer to.
    memory: u64,
    /// What was given, for show_options; the root's owner and mode as of the mount.
    options: Mutex<Options>,
}

impl TmpFs {
    /// Mounts a tmpfs with the options `data`. `memory` is how much the guest has: without size= the file system may
    /// hold half of it, and as many inodes as there are pages in that.
    pub fn new(storage: Storage, data: &[u8], memory: u64) -> Result<Arc<TmpFs>, Errno> {
        let options = Options::parse(data, memory)?;
        let size = options.size.unwrap_or(memory / 2);
        let inodes = options.nr_inodes.unwrap_or((memory / 2).div_ceil(PAGE_SIZE));
        TmpFs::build(Space::new(storage, size, inodes), options, memory)
    }

    /// A tmpfs in a given space.
    pub fn with_space(space: Arc<Space>, options: &Options) -> Result<Arc<TmpFs>, Errno> {
        TmpFs::build(space, options.clone(), 0)
    }

    fn build(space: Arc<Space>, options: Options, memory: u64) -> Result<Arc<TmpFs>, Errno> {
        let shared = Shared::new(chitin_vfs::inode::anon_dev(), space);
        let new = NewInode {
            kind: NewKind::Directory,
            perm: options.mode.unwrap_or(0o1777),
            uid: options.uid.unwrap_or(0),
            gid: options.gid.unwrap_or(0),
        };
        let root = TmpInode::make(&shared, &new, 2, 0)?;
        Ok(Arc::new(TmpFs { shared, root, memory, options: Mutex::new(options) }))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn space(&self) -> &Arc<Space> {
        &self.shared.space
    }
}

/// statfs of a space; no limits show as zeroes, as tmpfs does.
pub(crate) fn statfs(space: &Space, magic: u64) -> Statfs {
    let pages = space.max_pages().unwrap_or(0);
    let free = pages.saturating_sub(space.used_pages());
    let inodes = space.max_inodes().unwrap_or(0);
    Statfs {
        f_type: magic,
        f_bsize: PAGE_SIZE.cast_signed(),
        f_frsize: PAGE_SIZE.cast_signed(),
        f_blocks: pages,
        f_bfree: free,
        f_bavail: free,
        f_files: inodes,
        f_ffree: inodes.saturating_sub(space.used_inodes()),
        f_namelen: (NAME_MAX as u64).cast_signed(),
        ..Statfs::default()
    }
}

impl FileSystem for TmpFs {
    fn fs_type(&self) -> &'static str {
        "tmpfs"
    }
    fn dev(&self) -> u64 {
        self.shared.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Ok(statfs(&self.shared.space, TMPFS_MAGIC))
    }

    fn show_options(&self) -> String {
        let options = self.options.lock();
        let mut text = String::new();
        // Writing to a string does not fail.
        if options.size.is_some() {
            let pages = self.shared.space.max_pages().unwrap_or(0);
            let _ = write!(text, ",size={}k", pages.saturating_mul(PAGE_SIZE / 1024));
        }
        if options.nr_inodes.is_some() {
            let _ = write!(text, ",nr_inodes={}", self.shared.space.max_inodes().unwrap_or(0));
        }
        if let Some(mode) = options.mode.filter(|mode| *mode != 0o1777) {
            let _ = write!(text, ",mode={mode:03o}");
        }
        if let Some(uid) = options.uid.filter(|uid| *uid != 0) {
            let _ = write!(text, ",uid={uid}");
        }
        if let Some(gid) = options.gid.filter(|gid| *gid != 0) {
            let _ = write!(text, ",gid={gid}");
        }
        text.push_str(",inode64");
        text
    }

    /// Only limits change, and not below what is used, nor from none to some (shmem_reconfigure()).
    fn remount(&self, data: &[u8]) -> Result<(), Errno> {
        let new = Options::parse(data, self.memory)?;
        let space = &self.shared.space;
        let mut options = self.options.lock();
        let size = match new.size {
            Some(size) => {
                let pages = size.div_ceil(PAGE_SIZE);
                if size != 0 && (space.max_pages().is_none() || pages < space.used_pages()) {
                    return Err(Errno::EINVAL);
                }
                size
            }
            None => space.max_pages().unwrap_or(0).saturating_mul(PAGE_SIZE),
        };
        let inodes = match new.nr_inodes {
            Some(inodes) => {
                if inodes != 0 && (space.max_inodes().is_none() || inodes < space.used_inodes()) {
                    return Err(Errno::EINVAL);
                }
                inodes
            }
            None => space.max_inodes().unwrap_or(0),
        };
        space.set_limits(size, inodes);
        options.size = new.size.or(options.size);
        options.nr_inodes = new.nr_inodes.or(options.nr_inodes);
        Ok(())
    }
}
