//! The gofer: the process that gives one container's sentry access to that container's files.
//!
//! The sentry is treated as hostile: a guest that has taken it over gets exactly the donated roots,
//! with the options they were donated with, and nothing else of the host. Two walls see to that: this
//! code, which resolves one name at a time below descriptors it holds ([`resolve`]); and the process's
//! own confinement ([`confine`]): a mount namespace with nothing but the roots in it, few capabilities,
//! a seccomp list.
//!
//! Permissions of guest users are the sentry's matter; the gofer acts with its own.
//!
//! Neighbours: `chitin-gofer-protocol` has the messages; the `chitin` binary calls [`run`] in the
//! process it has created.

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

pub mod confine;
mod error;
mod host;
mod ops;
mod resolve;
mod server;
mod tree;

pub use confine::{GoferConfig, RootConfig, run};
pub use error::Error;
pub use server::{Limits, Root, Server};
