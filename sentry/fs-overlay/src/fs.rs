//! The file system object.

use crate::node::{Node, Shared};
use chitin_abi::Errno;
use chitin_abi::limits::{NAME_MAX, PAGE_SIZE};
use chitin_abi::stat::{OVERLAYFS_SUPER_MAGIC, Statfs};
use chitin_fs_tmpfs::{Space, Storage};
use chitin_host::filestore;
use chitin_vfs::{FileSystem, Inode};
use std::os::fd::AsFd;
use std::sync::Arc;

/// What the writable layer may hold. With [`Storage::Memory`] a size should be given: a guest can fill it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverlayOptions {
    /// Bytes of content; 0: no limit.
    pub size: u64,
    /// New files; 0: no limit.
    pub nr_inodes: u64,
}

pub struct OverlayFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

impl OverlayFs {
    /// A fresh layer over `lower`, which must not change any more.
    pub fn new(lower: Arc<dyn FileSystem>, storage: Storage, options: OverlayOptions) -> Arc<OverlayFs> {
        let space = Space::new(storage, options.size, options.nr_inodes);
        let lower_root = lower.root();
        let shared = Shared::new(lower, space);
        let root = Node::root(&shared, lower_root);
        Arc::new(OverlayFs { shared, root })
    }

    pub fn space(&self) -> &Arc<Space> {
        &self.shared.space
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl FileSystem for OverlayFs {
    fn fs_type(&self) -> &'static str {
        "overlay"
    }
    fn dev(&self) -> u64 {
        self.shared.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    /// Of the writable layer where that has a size, else of what is below it.
    fn statfs(&self) -> Result<Statfs, Errno> {
        let space = &self.shared.space;
        let page = PAGE_SIZE.cast_signed();
        let base = Statfs {
            f_type: OVERLAYFS_SUPER_MAGIC,
            f_bsize: page,
            f_frsize: page,
            f_namelen: (NAME_MAX as u64).cast_signed(),
            ..Statfs::default()
        };
        if let Some(pages) = space.max_pages() {
            let free = pages.saturating_sub(space.used_pages());
            let files = space.max_inodes().unwrap_or(pages);
            return Ok(Statfs {
                f_blocks: pages,
                f_bfree: free,
                f_bavail: free,
                f_files: files,
                f_ffree: files.saturating_sub(space.used_inodes()),
                ..base
            });
        }
        if let Storage::Dir(dir) = space.storage() {
            let host = filestore::space(dir.as_fd()).map_err(chitin_fs_tmpfs::guest_errno)?;
            return Ok(Statfs {
                f_blocks: host.total / PAGE_SIZE,
                f_bfree: host.free / PAGE_SIZE,
                f_bavail: host.free / PAGE_SIZE,
                f_files: host.files,
                f_ffree: host.files_free,
                ..base
            });
        }
        let lower = self.shared.lower.statfs()?;
        Ok(Statfs { f_type: OVERLAYFS_SUPER_MAGIC, ..lower })
    }
}

impl Drop for OverlayFs {
    fn drop(&mut self) {
        // The index holds nodes, and nodes hold what the index is in.
        let index = std::mem::take(&mut *self.shared.index.lock());
        drop(index);
    }
}
