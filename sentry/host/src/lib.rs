//! Small safe wrappers of host syscalls that `nix` lacks, one file per topic.
//!
//! Neighbours: every sentry crate may use it. Invariants: one operation per `unsafe` block; errors are
//! `std::io::Error` of the host and are mapped by each caller (they are never the guest's errors).
#![allow(unsafe_code)]
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

pub mod auxv;
pub mod bounce;
pub mod caps;
pub mod clock;
pub mod cpuid;
pub mod epoll;
pub mod fdpass;
pub mod filestore;
pub mod hostfile;
pub mod inherit;
pub mod label;
pub mod limits;
pub mod mountfd;
pub mod packet;
pub mod random;
pub mod socket;
pub mod stdio;
