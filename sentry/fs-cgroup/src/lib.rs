//! cgroup2: the control groups of a container as files (kernel/cgroup/cgroup.c).
//!
//! [`files`] is the table of what a cgroup's directory holds, [`core`] and [`controllers`] make and take the texts, [`node`] makes
//! inodes of it. Neighbours: `kernel`'s `cgroup` is the thing itself. The root of a mount is the root of the mounting
//! process's cgroup namespace, whose limits cannot be changed from inside (as with `nsdelegate`).
//!
//! Not as Linux: threads of one process cannot be in different cgroups, and `0` written to cgroup.procs means the process
//! that opened the file.

// Guest data must neither panic the sentry nor be cut silently; tests may.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod controllers;
mod core;
mod files;
mod node;

use chitin_abi::Errno;
use chitin_abi::limits::{NAME_MAX, PAGE_SIZE};
use chitin_abi::stat::{CGROUP2_SUPER_MAGIC, Statfs};
use chitin_kernel::cgroup::Cgroup;
use chitin_kernel::{Container, Kernel};
use chitin_vfs::{FileSystem, Inode};
use node::Node;
use std::sync::Arc;

/// What all nodes of a mount share.
pub(crate) struct Shared {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) container: Arc<Container>,
    pub(crate) root: Arc<Cgroup>,
    dev: u64,
    mounted_ns: u64,
}

/// A mount of cgroup2.
pub struct CgroupFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

impl CgroupFs {
    /// The tree from `root` on, of a container.
    pub fn new(kernel: &Arc<Kernel>, container: &Arc<Container>, root: &Arc<Cgroup>) -> Arc<CgroupFs> {
        let shared = Arc::new(Shared {
            kernel: kernel.clone(),
            container: container.clone(),
            root: root.clone(),
            dev: chitin_vfs::inode::anon_dev(),
            mounted_ns: chitin_kernel::time::realtime(),
        });
        let root = Node::dir(&shared, root.clone());
        Arc::new(CgroupFs { shared, root })
    }
}

impl FileSystem for CgroupFs {
    fn fs_type(&self) -> &'static str {
        "cgroup2"
    }
    fn dev(&self) -> u64 {
        self.shared.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Ok(Statfs {
            f_type: CGROUP2_SUPER_MAGIC,
            f_bsize: PAGE_SIZE.cast_signed(),
            f_frsize: PAGE_SIZE.cast_signed(),
            f_namelen: (NAME_MAX as u64).cast_signed(),
            ..Statfs::default()
        })
    }
    /// Files come and go with controllers, and other mounts show the same.
    fn revalidates(&self) -> bool {
        true
    }
    fn show_options(&self) -> String {
        ",nsdelegate".to_owned()
    }
}
