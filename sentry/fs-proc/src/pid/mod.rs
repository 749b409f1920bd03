//! `/proc/PID` and `/proc/PID/task/TID`: who an entry is about, and the tables of entries.
//!
//! Inodes hold their process weakly and never tell it apart by its number alone, so a reused id shows nothing of its
//! former owner. Numbers of inodes are made of id, start time and entry: the same for the life of the process.

mod access;
mod dirs;
mod fds;
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
    pub(crate) pid: i32,
    pub(crate) tid: i32,
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
    pub(crate) id: i32,
}

impl Who {
    pub(crate) fn process(process: &Arc<Process>) -> Who {
        Who {
            process: Arc::downgrade(process),
            thread: None,
            pid: process.pid,
            tid: process.pid,
            started: process.started_ns,
        }
    }

    /// `task` is `None` for the leader of a process that has ended.
    pub(crate) fn thread(process: &Arc<Process>, task: Option<&Arc<Task>>) -> Who {
        Who {
            process: Arc::downgrade(process),
            thread: Some(task.map_or_else(Weak::new, Arc::downgrade)),
            pid: process.pid,
            tid: task.map_or(process.pid, |task| task.tid()),
            started: task.map_or(process.started_ns, |task| task.started_ns),
        }
    }

    pub(crate) fn is_thread(&self) -> bool {
        self.thread.is_some()
    }

    /// `None`: gone.
    pub(crate) fn subject(&self, shared: &Arc<Shared>) -> Option<Subject> {
        let process = self.process.upgrade()?;
        let known = shared.kernel.find_process(self.pid)?;
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
                if task.is_none() && (self.tid != self.pid || living.iter().any(|task| task.is_leader())) {
                    return None;
                }
                (task, true)
            }
        };
        Some(Subject { shared: shared.clone(), process, task, single, id: self.tid })
    }

    /// The inode number of entry `kind` with a further number `sub` (a descriptor).
    pub(crate) fn ino(&self, shared: &Shared, kind: u8, sub: u32) -> u64 {
        // Ids come round after 32768 others, which takes longer than a tick of 10 ms.
        let ticks = self.started.saturating_sub(shared.kernel.boot_ns) / 10_000_000;
        let single = u64::from(self.thread.is_some()) << 7;
        let id = u64::from(self.tid.unsigned_abs()) & 0x7fff;
        (ticks & 0x1f_ffff) << 43
            | id << 28
            | (single | u64::from(kind & 0x7f)) << 20
            | u64::from(sub & 0xf_ffff)
    }
}

impl Subject {
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
    Who::process(process).ino(shared, node::ROOT_KIND, 0)
}

/// /proc/ID: of a process, or of a thread (which no listing shows, as on Linux).
pub(crate) fn lookup(shared: &Arc<Shared>, id: i32) -> Result<Arc<dyn Inode>, Errno> {
    let who = match shared.kernel.find_process(id) {
        Some(process) => Who::process(&process),
        None => {
            let task = shared.kernel.find_task(id).ok_or(Errno::ENOENT)?;
            Who::thread(&task.process, Some(&task))
        }
    };
    Ok(PidInode::new(shared, who, PidNode::Root))
}
