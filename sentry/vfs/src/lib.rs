//! The virtual file system: what is common to all file systems.
//!
//! A file system implements [`FileSystem`], [`Inode`], [`Directory`] and [`FileOps`]; this crate adds dentries, mounts,
//! mount namespaces, path walking, permission checks, open file descriptions, locks, watches and the wait queues that
//! blocking operations sleep on. File operations never take a task: who calls is a [`Context`] (credentials, root,
//! working directory, ids).
//!
//! Neighbours: `mm` below (user buffers); `fs-*`, `net`, `kernel` and `syscalls` above.
//!
//! Nothing here blocks on another guest: an operation that cannot go on answers EAGAIN and its caller waits with
//! [`wait::ready`] on the file's wait queue.
//!
//! Lock order (outer first): `Vfs::rename_lock` → `Dentry::dir_lock` (parent before child, else by address) →
//! `MountNs::inner` → `Dentry::{children,name}` → a file system's own locks → `InodeState` locks → wait queues.

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

pub mod attr;
pub mod bounds;
pub mod creds;
pub mod dentry;
pub mod device;
pub mod dirfile;
pub mod epoll;
pub mod eventfd;
pub mod factory;
pub mod file;
pub mod inode;
pub mod locks;
pub mod mount;
pub mod notify;
pub mod ops;
pub mod pipe;
pub mod poll;
#[cfg(test)]
mod testing;
pub mod turn;
pub mod userns;
pub mod wait;
pub mod walk;

pub use attr::{Attr, FileKind, SetAttr, SetTime};
pub use creds::{Cap, Caps, Creds};
pub use dentry::{Dentry, Path, path_text};
pub use device::Device;
pub use file::{File, FileOps, Mappable, WriteAt, Written};
pub use inode::{
    AnonInode, DirEntry, DirSink, Directory, FileSystem, Inode, InodeState, LinkTarget, NewInode, NewKind,
    Xattrs,
};
pub use mount::{Mount, MountNs, Propagation};
pub use userns::UserNs;
pub use wait::{PollTable, WaitQueue};
pub use walk::{Caller, Context, Place, Vfs};
