//! The protocol between the sentry (client) and the gofer (server of one container's files).
//!
//! One `SOCK_SEQPACKET` socketpair is a *channel*: one request packet, one reply packet, in turn. A
//! client that wants parallelism asks for more channels ([`Request::Channel`]). Descriptors travel as
//! `SCM_RIGHTS`, from the gofer to the sentry only. Files are named by *nodes*: numbers that mean
//! something to the gofer's table alone and are never descriptors.
//!
//! Both directions are parsed by [`wire::Reader`]: no allocation before a bound is known, no panic on
//! any input, trailing bytes are an error. The encoding is little endian, fields in order, strings
//! with a length in front; there is no versioning, because both ends are the same executable.
//!
//! Neighbours: `chitin-gofer` serves it, the sentry's `fs-gofer` consumes [`Client`].

// A hostile peer must neither panic us nor have its numbers cut silently; tests may.
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

mod attr;
mod calls;
mod client;
mod error;
mod reply;
mod request;
pub mod transport;
pub mod wire;

pub use attr::{Attr, SetAttr, StatFs, TimeSet, Timestamp};
pub use client::{Client, Forget};
pub use error::{GoferError, Result};
pub use reply::{
    DirEntries, DirEntry, NodeAttr, ReplyHead, Walk, WalkEnd, WalkStep, begin_error, begin_ok, end_tag,
    parse_as_any_reply,
};
pub use request::{Names, Nodes, Request};

/// A file as the gofer knows it. Every node a reply carries counts as one reference, to be given back
/// by one [`Client::close`] (or [`Client::forget`]); the same number may be returned more than once.
pub type NodeId = u64;

/// Longest file name, `NAME_MAX`.
pub const NAME_MAX: usize = 255;
/// Longest symbolic link target or path, `PATH_MAX` without the NUL.
pub const PATH_MAX: usize = 4095;
/// Most components of one [`Request::Walk`].
pub const WALK_MAX: usize = 64;
/// Most nodes of one [`Request::Close`].
pub const CLOSE_MAX: usize = 512;
/// Largest extended attribute value and list, `XATTR_SIZE_MAX`.
pub const XATTR_MAX: usize = 65536;
/// Largest request packet: an extended attribute with its name and the header.
pub const REQUEST_MAX: usize = XATTR_MAX + 1024;
/// Largest reply packet. Together with the kernel's bookkeeping it fits the default send buffer.
pub const REPLY_MAX: usize = 96 * 1024;
/// Most channels one client may hold, the control channel included.
pub const CHANNELS_MAX: usize = 17;
