//! The kernel proper: tasks, processes, signals, time, futexes, IPC, terminals.
//!
//! Neighbours: `platform` runs the tasks, `mm` and `vfs` hold their memory and files; `syscalls` calls into this crate
//! and is called back through [`Dispatch`]; `fs-proc`, `fs-sys` and `fs-dev` show what is here.
//!
//! The kernel is asynchronous. A system call either finishes on the spot or returns a future, which is parked in the
//! task; wakers put the task on the *current thread's* run queue ([`run`]), which that thread drains as soon as it holds
//! no locks. So whoever makes a blocked call ready completes it.
//!
//! Lock order (outer first): `Kernel::tree` → `Process::signals` → `Task::signals` → `Task::run` → leaf locks
//! (`Process::{rlimits,…}`, `Task::{mm,files,fs,creds,…}` slots, wait queues). No lock is held across an await.

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

mod answers;
pub mod cgroup;
pub mod clone;
pub mod container;
pub mod exec;
pub mod exit;
pub mod fdtable;
pub mod freeze;
pub mod fsstate;
pub mod futex;
pub mod groups;
pub mod handle;
pub mod hostfile;
pub mod inspect;
pub mod ipc;
pub mod kernel;
pub mod lane;
pub mod loader;
pub mod ns;
pub mod nsfs;
pub mod pid;
pub mod pidfd;
pub mod process;
pub mod reactor;
pub mod result;
pub mod run;
pub mod seccomp;
pub mod sigio;
pub mod signal;
pub mod signalfd;
pub mod sysctl;
pub mod task;
#[cfg(test)]
mod testing;
pub mod time;
pub mod timerfd;
pub mod tree;
pub mod tty;
pub mod wait;

pub use container::Container;
pub use fdtable::{Fd, FdTable};
pub use fsstate::FsState;
pub use handle::ProcessHandle;
pub use kernel::{Dispatch, Kernel, SyscallArgs};
pub use ns::{CgroupNs, NsProxy, UtsNs};
pub use nsfs::Namespace;
pub use pid::{Pid, PidNs};
pub use process::Process;
pub use result::{ExitStatus, Outcome, Restart, SysError, SysResult};
pub use task::Task;
