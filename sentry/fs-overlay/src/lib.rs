//! The writable layer that the sentry holds over a read-only lower file system.
//!
//! Not a union of two directories trees: a tree of nodes in memory, each with the lower inode it started from, made as
//! they are looked up. A change of attributes copies up attributes, a write copies up the content (into
//! [`chitin_fs_tmpfs::FileData`]), a removal leaves a whiteout in its directory. A node that moves takes its lower inode
//! along, so that directories of the lower file system can be renamed like any other. The lower one is never written.
//!
//! Neighbours: `vfs` above; any `FileSystem` (the gofer's) below; `fs-tmpfs` for content and attributes.
//!
//! Who holds whom: an unchanged node lives as long as somebody uses it, and holds its parent. A changed one is *pinned*:
//! its parent holds it, the parent is pinned itself, and nothing points upwards. So there is no cycle, and what is kept
//! is what was changed and what is in use.
//!
//! Lock order: `Shared::tree` (every change of the tree, and pinning) → a directory's `Dir` (two of them: by address) →
//! `Shared::index`, and a node's `link`, `meta`, `xattrs` (leaves). A file's `content` is locked while it is copied up,
//! with nothing but `FileData`'s locks inside.

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

mod dir;
mod file;
mod fs;
mod listing;
#[cfg(test)]
#[path = "../../fs-tmpfs/src/model.rs"]
mod model;
mod node;
#[cfg(test)]
mod tests;

pub use fs::{OverlayFs, OverlayOptions};
pub use node::Node;
