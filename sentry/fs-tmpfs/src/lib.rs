//! tmpfs, memfd_create(2), and [`FileData`]: file content kept by the sentry, which the overlay uses too.
//!
//! Neighbours: `vfs` above calls it, `host` below gives memfds and unnamed files. Small files are heap pages; a file
//! that grows or is mapped becomes a host file with the same offsets.
//!
//! Lock order: a directory's `entries` → inode `meta`/`xattrs`; `FileData::writers` → `FileData::store`. The two chains
//! never nest.

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

mod data;
mod dir;
mod entries;
mod file;
mod fs;
mod host_store;
mod inode;
mod memfd;
mod meta;
#[cfg(test)]
mod model;
mod options;
mod space;
#[cfg(test)]
mod tests;

pub use data::{FileData, MAX_SIZE};
pub use entries::Entries;
pub use file::TmpFile;
pub use fs::TmpFs;
pub use host_store::guest_errno;
pub use inode::TmpInode;
pub use memfd::{add_seals, memfd_file, memfd_inode, seals};
pub use meta::{Meta, XattrMap, now};
pub use options::Options;
pub use space::{INODE_COST, Space, Storage};
