//! Files of the host, reached through the gofer: the root file system and bind mounts.
//!
//! Names, attributes and changes go to the gofer over [`chitin_gofer_protocol::Client`]; the content of regular files
//! does not: the gofer hands out host descriptors, and reads, writes and mappings use them directly.
//!
//! A tree is *exclusive* (nobody else changes it: attributes, listings and extended attributes are kept until we change
//! them ourselves) or *shared* (the host may change it at any time: everything is asked anew, only identities are kept).
//!
//! Neighbours: `vfs` above, `chitin-gofer-protocol` and `host` below.
//!
//! Invariants: one [`GoferInode`] per host file (device, number, birth time) while somebody holds it; each node a reply
//! carries is either kept by one inode, which gives it back when it goes, or given back at once. Guests see a device
//! number of our own and never the host's.
//!
//! Locks, outer first: an inode's `change` (held over a request to the gofer, so that replies are stored in the order of
//! the changes) and `appending` (held over host writes); then the leaves: `Core::table`, `Core::devices`,
//! `Core::listings`, `Core::dirty`, the pool's queue, and an inode's `nodes`, `fds`, and `cached` (before `listing` or
//! `values`). No leaf is held over a request, nor while an inode's last reference may be dropped.

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

mod attrs;
mod dir;
mod error;
mod fds;
mod file;
mod fs;
mod inode;
mod listing;
mod states;
mod xattrs;

pub use file::GoferFile;
pub use fs::{Cache, GoferFs, GoferOptions};
pub use inode::GoferInode;
