//! The system calls: one table, handlers by family.
//!
//! A handler takes the task and the raw arguments and answers an [`Outcome`]: most finish on the spot, those that may
//! wait return a future. Handlers only translate between the guest's registers and the kernel's own interfaces.
//!
//! Neighbours: `kernel`, `vfs`, `mm` and `net` do the work; `boot` installs [`Table`].

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

mod args;
mod attrs;
mod creds;
mod events;
mod fd;
mod futexes;
mod io;
mod ipc;
mod memory;
mod misc;
mod mounts;
mod names;
mod namespaces;
mod open;
mod poll;
mod process;
mod sched;
mod seccomp;
mod signals;
mod socket;
mod splice;
mod stat;
mod strace;
mod table;
mod times;

pub use strace::{Strace, describe};
pub use table::{Entry, Support, Table, entries};

pub(crate) use args::Args;

use chitin_abi::Errno;
use chitin_kernel::{Outcome, SysError, Task};
use std::sync::Arc;

/// The answer of a handler that never waits.
pub(crate) fn done(result: Result<u64, Errno>) -> Outcome {
    Outcome::Done(result.map_err(SysError::Errno))
}

/// The answer of a handler that the host may hold up: it runs where it keeps no worker from others.
pub(crate) fn held_up(
    task: &Arc<Task>,
    work: impl FnOnce(&Arc<Task>) -> Result<(), Errno> + Send + 'static,
) -> Outcome {
    let task = task.clone();
    Outcome::block(async move {
        task.may_wait().await;
        work(&task)?;
        Ok(0)
    })
}

/// The answer of a handler that never waits and returns nothing.
pub(crate) fn unit(result: Result<(), Errno>) -> Outcome {
    done(result.map(|()| 0))
}
