//! What host-side platforms share: guest memory that lives in host processes, and the host calls on it.
//!
//! Neighbours: `platform-seccomp` and `platform-ptrace` build on it; nobody else names it.
//!
//! `memory` is an address space's memory, `copy` and `maps` what can be done with it; `calls` checks the calls that change
//! it; `fpstate` is the form of FPU images; `layout` says where the platform's own range lies, `image` makes the
//! program that a zygote executes.
//!
//! Locks: [`memory::Memory`]'s are leaves.

#![allow(unsafe_code)]
// Guest data must never panic the sentry; tests may.
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
        clippy::string_slice
    )
)]

pub mod calls;
mod copy;
pub mod detach;
pub mod fpstate;
pub mod group;
pub mod image;
pub mod layout;
pub mod maps;
pub mod memory;
pub mod process;
pub mod reserve;
pub mod sys;
pub mod table;
pub mod thread;

/// Why a platform cannot be used here: cause and remedy in one line.
#[derive(Clone, Debug)]
pub struct SetupError(pub String);

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupError {}
