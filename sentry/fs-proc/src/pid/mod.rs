//! `/proc/PID` and `/proc/PID/task/TID`: who an entry is about, and the tables of entries.
//!
//! Inodes hold their process weakly and never tell it apart by its number alone, so a reused id shows nothing of its
//! former owner. Numbers of inodes are made of id, start time and entry: the same for the life of the process.

mod access;
mod dirs;
mod fds;
mod ids;
mod links;
mod maps;
mod memory;
mod misc;
mod mounts;
mod net;
mod node;
mod stat;
mod status;
mod table;

use crate::fs::Shared;
use chitin_abi::Errno;
use chitin_kernel::{Process, Task};
use chitin_vfs::{Creds, Inode};
use node::{PidInode, PidNode};
use std::sync::{Arc, Weak};

/// The process or thread that an inode is about.
#[derive(Clone)]
pub(crate) struct Who {
    process: Weak<Process>,
    /// `Some`: an entry of a thread's directory.
    thread: Option<Weak<Task>>,
    /// Kernel ids, and the number that the instance's namespace shows.
    kid: i32,
    tid: i32,
    nr: i32,
    started: u64,
}

/// A process or thread as of now.
pub(crate) struct Subject {
    pub(crate) shared: Arc<Shared>,
    pub(crate) process: Arc<Process>,
    /// The thread, or the process's leader; `None`: it has ended.
    pub(crate) task: Option<Arc<Task>>,
    /// About one thread (/proc/PID/task/TID).
    pub(crate) single: bool,
    /// The number of the process or thread in the instance's namespace.
    pub(crate) id: i32,
}

impl Who {
    pub(crate) fn process(shared: &Shared, process: &Arc<Process>) -> Who {
        Who {
            process: Arc::downgrade(process),
            thread: None,
            kid: process.kid(),
            tid: process.kid(),
            nr: process.pid_in(&shared.ns),
            started: process.started_ns,
        }
    }

    /// `task` is `None` for the leader of a process that has ended.
    pub(crate) fn thread(shared: &Shared, process: &Arc<Process>, task: Option<&Arc<Task>>) -> Who {
        Who {
            process: Arc::downgrade(process),
            thread: Some(task.map_or_else(Weak::new, Arc::downgrade)),
            kid: process.kid(),
            tid: task.map_or(process.kid(), |task| task.kid()),
            nr: task.map_or(process.pid_in(&shared.ns), |task| task.tid_in(&shared.ns)),
            started: task.map_or(process.started_ns, |task| task.started_ns),
        }
    }

    pub(crate) fn is_thread(&self) -> bool {
        self.thread.is_some()
    }

    /// `None`: gone.
    pub(crate) fn subject(&self, shared: &Arc<Shared>) -> Option<Subject> {
        let process = self.process.upgrade()?;
        let known = shared.kernel.process_by_kid(self.kid)?;
        if !Arc::ptr_eq(&process, &known) {
            return None;
        }
        let (task, single) = match &self.thread {
            // A leader that has ended is a zombie, whatever its siblings do.
            None => (process.leader().filter(|task| task.is_leader()), false),
            Some(thread) => {
                let living = process.threads();
                let task =
                    thread.upgrade().filter(|task| living.iter().any(|known| Arc::ptr_eq(known, task)));
                if task.is_none() && (self.tid != self.kid || living.iter().any(|task| task.is_leader())) {
                    return None;
                }
                (task, true)
            }
        };
        Some(Subject { shared: shared.clone(), process, task, single, id: self.nr })
    }

    /// The inode number of entry `kind` with a further number `sub` (a descriptor).
    pub(crate) fn ino(&self, shared: &Shared, kind: u8, sub: u32) -> u64 {
        // Ids come round after 32768 others, which takes longer than a tick of 10 ms.
        let ticks = self.started.saturating_sub(shared.kernel.boot_ns) / 10_000_000;
        let single = u64::from(self.thread.is_some()) << 7;
        let id = u64::from(self.nr.unsigned_abs()) & 0x7fff;
        (ticks & 0x1f_ffff) << 43
            | id << 28
            | (single | u64::from(kind & 0x7f)) << 20
            | u64::from(sub & 0xf_ffff)
    }
}

impl Subject {
    /// What the instance's namespace shows of a kernel id; 0 if nothing.
    pub(crate) fn nr(&self, kid: i32) -> i32 {
        self.shared.kernel.nr_in(kid, &self.shared.ns)
    }
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid_in(&self.shared.ns)
    }
    /// The living thread, or ESRCH.
    pub(crate) fn task(&self) -> Result<&Arc<Task>, Errno> {
        self.task.as_ref().ok_or(Errno::ESRCH)
    }
    pub(crate) fn name(&self) -> Vec<u8> {
        match &self.task {
            Some(task) => task.name(),
            None => self.process.epitaph().map(|epitaph| epitaph.name).unwrap_or_default(),
        }
    }
    pub(crate) fn creds(&self) -> Arc<Creds> {
        match &self.task {
            Some(task) => task.creds(),
            None => self.process.epitaph().map_or_else(|| Arc::new(Creds::root()), |epitaph| epitaph.creds),
        }
    }
    /// The threads that the entry is about: one, or all of the process.
    pub(crate) fn tasks(&self) -> Vec<Arc<Task>> {
        if self.single { self.task.iter().cloned().collect() } else { self.process.threads() }
    }
}

/// The inode number of a process's directory.
pub(crate) fn process_ino(shared: &Shared, process: &Arc<Process>) -> u64 {
    Who::process(shared, process).ino(shared, node::ROOT_KIND, 0)
}

/// /proc/ID: of a process, or of a thread (which no listing shows, as on Linux).
pub(crate) fn lookup(shared: &Arc<Shared>, id: i32) -> Result<Arc<dyn Inode>, Errno> {
    let who = match shared.kernel.find_process(&shared.ns, id) {
        Some(process) => Who::process(shared, &process),
        None => {
            let task = shared.kernel.find_task(&shared.ns, id).ok_or(Errno::ENOENT)?;
            Who::thread(shared, &task.process, Some(&task))
        }
    };
    Ok(PidInode::new(shared, who, PidNode::Root))
}
