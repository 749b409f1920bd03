//! Makers of what only concrete file systems can make, for those who may not name them.
//!
//! `boot` wraps an implementation in [`Memfds`] and [`FileSystems`] and hands it to the kernel as an extension;
//! `syscalls` looks it up there.

use crate::{Context, File, FileSystem};
use chitin_abi::Errno;
use std::sync::Arc;

/// Makes the files of memfd_create(2).
pub trait MemfdMaker: Send + Sync {
    /// `name` was checked for its length; `flags` are MFD_*, not checked yet (EINVAL); MFD_CLOEXEC is the caller's.
    fn make(&self, name: &[u8], flags: u32, uid: u32, gid: u32) -> Result<Arc<File>, Errno>;
}

/// The sandbox's [`MemfdMaker`].
pub struct Memfds(pub Box<dyn MemfdMaker>);

/// Makes file systems for mount(2).
pub trait FsFactory: Send + Sync {
    /// ENODEV for a type it does not know. `flags` are MS_*; `data` is the option string.
    fn mount(
        &self,
        fstype: &str,
        source: &[u8],
        flags: u64,
        data: &[u8],
        ctx: &Context,
    ) -> Result<Arc<dyn FileSystem>, Errno>;
}

/// The sandbox's [`FsFactory`].
pub struct FileSystems(pub Box<dyn FsFactory>);
