//! The process tree: ids and relations. Everything here happens with `Kernel::tree` locked.

use crate::{Process, Task};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Ids go up to this and start over (kernel.pid_max).
pub const PID_MAX: i32 = 32768;
/// Threads of the whole sandbox (kernel.threads-max).
pub const THREADS_MAX: usize = 31768;
/// Ids below this are not given out again after the first round (RESERVED_PIDS).
const RESERVED: i32 = 300;

pub(crate) struct Tree {
    processes: BTreeMap<i32, Arc<Process>>,
    tasks: HashMap<i32, Arc<Task>>,
    last: i32,
}

impl Tree {
    pub(crate) fn new() -> Tree {
        Tree { processes: BTreeMap::new(), tasks: HashMap::new(), last: 0 }
    }

    /// The next free id: `None` when all are in use. Ids of living groups and sessions are not given out.
    pub(crate) fn allocate(&mut self) -> Option<i32> {
        for _ in 0..PID_MAX {
            self.last = if self.last >= PID_MAX - 1 { RESERVED } else { self.last + 1 };
            let id = self.last;
            if !self.processes.contains_key(&id)
                && !self.tasks.contains_key(&id)
                && !self.is_group_or_session(id)
            {
                return Some(id);
            }
        }
        None
    }

    /// Only ids that went round once can clash with a group or session whose leader is gone.
    fn is_group_or_session(&self, id: i32) -> bool {
        self.processes.values().any(|process| {
            let links = process.links.lock();
            links.pgid == id || links.sid == id
        })
    }

    pub(crate) fn last_pid(&self) -> i32 {
        self.last
    }
    pub(crate) fn task_count(&self) -> usize {
        self.tasks.len()
    }
    pub(crate) fn process(&self, pid: i32) -> Option<Arc<Process>> {
        self.processes.get(&pid).cloned()
    }
    pub(crate) fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.tasks.get(&tid).cloned()
    }
    pub(crate) fn processes(&self) -> Vec<Arc<Process>> {
        self.processes.values().cloned().collect()
    }
    pub(crate) fn insert_process(&mut self, process: Arc<Process>) {
        self.processes.insert(process.pid, process);
    }
    pub(crate) fn remove_process(&mut self, pid: i32) {
        self.processes.remove(&pid);
    }
    pub(crate) fn insert_task(&mut self, tid: i32, task: Arc<Task>) {
        self.tasks.insert(tid, task);
    }
    pub(crate) fn remove_task(&mut self, tid: i32, task: &Arc<Task>) {
        if self.tasks.get(&tid).is_some_and(|known| Arc::ptr_eq(known, task)) {
            self.tasks.remove(&tid);
        }
    }
}
