//! IPC (ipc/): shared memory, semaphores, message queues of System V, and POSIX message queues ([`mq`]); the IPC namespace
//! is the tables of these.
//!
//! [`ids`] has what the first three share: numbers, keys, permissions. Neighbours: `syscalls` translates, `clone`, `exec` and
//! `exit` tell when memory is copied or left ([`Ipc::forked`], [`Ipc::left`]) and when a process is gone
//! ([`Ipc::process_ended`]), `fs-proc` shows the tables ([`Ipc::proc_shm`] and its like).
//!
//! Locks: each table's own, then the state of one object; both are leaves to everything else. Wait queues are woken with
//! an object's state locked, which is allowed: wakers only queue.

mod ids;
pub mod mq;
pub mod msg;
pub mod sem;
pub mod shm;

pub use ids::{Perm, PermChange};

use crate::{Kernel, Task};
use chitin_mm::Mm;
use chitin_vfs::UserNs;
use std::sync::Arc;

/// An IPC namespace. Objects remember processes by kernel id.
pub struct Ipc {
    pub inum: u64,
    pub user_ns: Arc<UserNs>,
    pub shm: shm::Table,
    pub sem: sem::Table,
    pub msg: msg::Table,
    pub mq: mq::Table,
}

impl Default for Ipc {
    fn default() -> Ipc {
        Ipc::new(UserNs::initial())
    }
}

impl Ipc {
    pub fn new(user_ns: &Arc<UserNs>) -> Ipc {
        Ipc {
            inum: crate::ns::new_inum(),
            user_ns: user_ns.clone(),
            shm: Default::default(),
            sem: Default::default(),
            msg: Default::default(),
            mq: Default::default(),
        }
    }
}

/// Seconds, as all times of IPC objects are told.
pub(crate) fn now() -> i64 {
    i64::try_from(crate::time::realtime() / 1_000_000_000).unwrap_or(i64::MAX)
}

impl Ipc {
    /// `new` is a copy of `old` with its attachments.
    pub fn forked(&self, old: &Arc<Mm>, new: &Arc<Mm>) {
        self.shm.forked(old, new);
    }

    /// A task of process `pid` has left `mm`; if it was the last one, its segments are detached.
    pub fn left(&self, kernel: &Kernel, mm: &Arc<Mm>, pid: i32) {
        if !self.shm.used() {
            return;
        }
        let uses = |task: &Arc<Task>| Arc::ptr_eq(&task.mm(), mm);
        if !kernel.processes().iter().any(|process| process.threads().iter().any(uses)) {
            self.shm.ended(mm, pid);
        }
    }

    /// SEM_UNDO is carried out.
    pub fn process_ended(&self, pid: i32) {
        self.sem.undo(pid);
    }

    /// /proc/sysvipc/shm; `nr` makes numbers of the reader's namespace of kernel ids.
    pub fn proc_shm(&self, nr: &dyn Fn(i32) -> i32) -> String {
        self.shm.text(nr)
    }

    /// /proc/sysvipc/sem.
    pub fn proc_sem(&self) -> String {
        self.sem.text()
    }

    /// /proc/sysvipc/msg.
    pub fn proc_msg(&self, nr: &dyn Fn(i32) -> i32) -> String {
        self.msg.text(nr)
    }
}
