//! seccomp(2) for guests: filters on the guest's own system calls (kernel/seccomp.c).
//!
//! - [`bpf`]: programs, checked and run;
//! - [`filter`]: chains of filters and what a call's verdict is;
//! - [`enter`]: the verdict carried out, before a call is dispatched;
//! - [`install`]: seccomp(2)'s ways to come by a filter;
//! - [`notify`]: the file by which a supervisor decides (SECCOMP_RET_USER_NOTIF).
//!
//! Every system call passes [`enter::enter`] once the task has a mode: fresh ones, those made again after a signal, and
//! the rest of an interrupted one (as `restart_syscall`). A task without one pays for a single load.
//!
//! Locks: `TaskSeccomp::chain` is a leaf. Whoever changes another thread's chain (TSYNC) holds `Kernel::tree`, under
//! which new threads enter the list with their maker's chain. A listener's state is a leaf too.

pub mod bpf;
pub mod enter;
pub mod filter;
pub mod install;
pub mod notify;
#[cfg(test)]
mod tests;

pub use bpf::Program;
pub use filter::{Filter, TaskSeccomp};
