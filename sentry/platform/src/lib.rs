//! What the sentry's kernel asks of a platform: the mechanism that runs guest instructions and hands their
//! system calls over.
//!
//! Neighbours: `platform-seccomp`, `platform-ptrace` and `platform-kvm` implement these traits; `mm` and `kernel`
//! use them; only the boot crate names a concrete platform.
//!
//! Life of a task on a platform: it is *running* guest code until [`Platform::next_event`] reports it; from then on it
//! is *stopped* and belongs to the kernel until [`PlatformTask::resume`]. A stopped task either has a *frame* (its whole
//! register file can be read and edited) or not (a plain system call, the cheap and common case);
//! [`PlatformTask::ensure_frame`] turns the second state into the first.
//!
//! Invariants:
//! - A stopped task is reported by exactly one event and resumed by exactly one `resume`.
//! - [`PlatformTask::interrupt`] is never lost: if the task runs, an [`EventKind::Interrupted`] follows soon; if it is
//!   stopped, it follows right after its next resume, before any guest instruction (several calls may coalesce).
//!   A spurious `Interrupted` is allowed.
//! - Nothing here blocks on the guest: memory copies are fallible, long operations are futures.

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

mod busy;
mod group;
pub mod later;
mod lock;
mod registers;
mod space;
mod task;

pub use busy::{goes_on, set_goes_on};
pub use group::{OnLost, SpaceGroup};
pub use lock::{AsyncGuard, AsyncLock};
pub use registers::Registers;
pub use space::{
    AddressSpace, CopyFault, HostOp, HostVma, HostVmaKind, MapCall, MapFile, Native, SpaceUsage,
};
pub use task::{BRIEFLY, CpuTimes, PlatformTask, Resume, Spawn, Spawned};

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A future that a platform operation returns when it needs several steps of the guest's thread.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// The kernel's own object for a task (`Arc<kernel::Task>`), opaque to the platform.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// Why a platform operation failed.
#[derive(Clone, Debug)]
pub enum PlatformError {
    /// The host thread or process behind the task has died.
    Gone,
    /// A host call failed: which, and its errno.
    Host { op: &'static str, errno: i32 },
    /// The guest tampered with its own stub; the process can only be killed.
    Corrupt(&'static str),
}

impl std::fmt::Display for PlatformError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PlatformError::Gone => write!(f, "the host process of the task has died"),
            PlatformError::Host { op, errno } => write!(f, "host call {op} failed with errno {errno}"),
            PlatformError::Corrupt(what) => write!(f, "the guest damaged its stub: {what}"),
        }
    }
}

impl std::error::Error for PlatformError {}

/// One report of a stopped (or dead) task.
pub struct Event {
    /// What [`PlatformTask::set_owner`] stored.
    pub owner: Owner,
    pub kind: EventKind,
}

/// Why the task stopped.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// A system call instruction. `ip` is the address after the instruction. Whether the task has a frame is told by
    /// [`PlatformTask::has_frame`]. `arch` is an AUDIT_ARCH_* number: a guest can make calls of i386, too.
    Syscall { arch: u32, nr: u64, args: [u64; 6], ip: u64 },
    /// A hardware exception; the task has a frame. Fields as in the siginfo the host made.
    Fault { signal: i32, code: i32, addr: u64, trap_no: u64, error_code: u64 },
    /// The answer to [`PlatformTask::interrupt`]; the task has a frame.
    Interrupted,
    /// The host thread ended without being asked to (the host's OOM killer, a damaged stub); `signal` is what ended it.
    Exited { signal: i32 },
}

/// A mechanism that runs guest code.
pub trait Platform: Send + Sync {
    /// The name users choose it by (`--platform=`).
    fn name(&self) -> &'static str;

    /// Waits for the next stopped task. Any number of worker threads may call it at once. `between` is called, with no
    /// lock held, each time before it waits again after wakers may have run on this thread (a platform operation's
    /// future became ready): the caller works off what they queued.
    fn next_event(&self, between: &dyn Fn()) -> Event;

    /// Makes a fresh address space with its first task in it, stopped, with a zeroed frame, as `execve` wants it.
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>>;

    /// Makes a family of address spaces with an origin of its own; those of `new_space` are another one.
    fn new_group(&self, lost: OnLost) -> BoxFuture<Result<Arc<dyn SpaceGroup>, PlatformError>> {
        drop(lost);
        let unsupported = PlatformError::Host { op: "a further family of address spaces", errno: 95 };
        Box::pin(std::future::ready(Err(unsupported)))
    }

    /// What to call, from a thread of the platform's, when events have waited for some milliseconds because no worker
    /// is in `next_event`. Not all platforms notice.
    fn on_starved(&self, more: Box<dyn Fn() + Send + Sync>) {
        drop(more);
    }

    /// What to call when the origin of the spaces that `new_space` makes is lost, after which it makes no more.
    fn on_lost(&self, lost: OnLost) {
        drop(lost);
    }
}
