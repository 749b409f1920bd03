//! sysfs: what of a machine's devices containers look at. Read-only, and built once, but for the interfaces of the network
//! namespace that it was mounted from ([`net`]).
//!
//! [`contents`] says what there is, [`node`] makes inodes of it. Neighbours: `kernel` for the number of CPUs, memory and
//! network interfaces. Nothing is read from the host's /sys.

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

mod contents;
mod net;
mod node;

use chitin_abi::Errno;
use chitin_abi::limits::{NAME_MAX, PAGE_SIZE};
use chitin_abi::stat::{SYSFS_MAGIC, Statfs};
use chitin_kernel::Kernel;
use chitin_kernel::container::Container;
use chitin_kernel::ns::NetNs;
use chitin_vfs::{FileSystem, Inode};
use std::sync::Arc;

/// An instance of sysfs.
pub struct SysFs {
    dev: u64,
    root: Arc<dyn Inode>,
}

impl SysFs {
    /// Shows the machine as far as it is the container's, and the interfaces of a network namespace.
    pub fn new(kernel: &Arc<Kernel>, container: &Arc<Container>, net: &Arc<NetNs>) -> Arc<SysFs> {
        let dev = chitin_vfs::inode::anon_dev();
        let root = node::build(kernel, container, dev, contents::tree(kernel, net::dirs(kernel, net, dev)));
        Arc::new(SysFs { dev, root })
    }
}

impl FileSystem for SysFs {
    fn fs_type(&self) -> &'static str {
        "sysfs"
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    /// Interfaces come and go.
    fn revalidates(&self) -> bool {
        true
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Ok(Statfs {
            f_type: SYSFS_MAGIC,
            f_bsize: PAGE_SIZE.cast_signed(),
            f_frsize: PAGE_SIZE.cast_signed(),
            f_namelen: (NAME_MAX as u64).cast_signed(),
            ..Statfs::default()
        })
    }
}
