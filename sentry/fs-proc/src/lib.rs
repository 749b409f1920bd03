//! The proc file system (proc(5)).
//!
//! What every file shows is made by a small function when it is read; static tables of names, modes and functions make
//! up the tree:
//! - [`tree`]: files that belong to no process (`/proc/meminfo`, `/proc/sys`), from tables in [`system`] and [`sysctl`];
//! - [`pid`]: `/proc/PID` and `/proc/PID/task/TID`;
//! - [`text`]: open files, whose content is a snapshot taken when they are read from the start.
//!
//! Neighbours: `kernel` for tasks, `mm` for memory maps, `vfs` for mounts, locks and open files. Nothing here reads the
//! host's /proc, and no number or path of the host is shown.
//!
//! Locks: `TextFile::snapshot` only; generators take the kernel's locks one after the other and hold none together.

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

mod format;
mod fs;
mod netsys;
mod pid;
mod sysctl;
mod system;
mod text;
mod tree;

pub use fs::ProcFs;
