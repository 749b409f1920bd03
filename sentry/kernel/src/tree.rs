//! The process tree: ids and relations. Everything here happens with `Kernel::tree` locked.
//!
//! Keys are kernel ids; [`crate::pid`] translates them for guests.

use crate::pid::{self, Pid, PidNs};
use crate::{Process, Task};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Threads of the whole sandbox (kernel.threads-max).
pub const THREADS_MAX: usize = 31768;

pub(crate) struct Tree {
    root: Arc<PidNs>,
    processes: BTreeMap<i32, Arc<Process>>,
    tasks: HashMap<i32, Arc<Task>>,
}

impl Tree {
    pub(crate) fn new(root: Arc<PidNs>) -> Tree {
        Tree { root, processes: BTreeMap::new(), tasks: HashMap::new() }
    }

    pub(crate) fn task_count(&self) -> usize {
        self.tasks.len()
    }
    pub(crate) fn process(&self, kid: i32) -> Option<Arc<Process>> {
        self.processes.get(&kid).cloned()
    }
    pub(crate) fn task(&self, kid: i32) -> Option<Arc<Task>> {
        self.tasks.get(&kid).cloned()
    }
    pub(crate) fn processes(&self) -> Vec<Arc<Process>> {
        self.processes.values().cloned().collect()
    }

    /// Enters a process, whose identity, group and session are in use from now on.
    pub(crate) fn insert_process(&mut self, process: Arc<Process>) {
        {
            let links = process.links.lock();
            [&process.id, &links.pgrp, &links.session].into_iter().for_each(|pid| pid::attach(pid));
        }
        process.id.ns().set_init(&process);
        self.processes.insert(process.kid(), process);
    }

    pub(crate) fn remove_process(&mut self, process: &Process) {
        if self.processes.remove(&process.kid()).is_none() {
            return;
        }
        let (group, session) = {
            let links = process.links.lock();
            (links.pgrp.clone(), links.session.clone())
        };
        [&process.id, &group, &session].into_iter().for_each(|pid| pid::detach(&self.root, pid));
    }

    pub(crate) fn insert_task(&mut self, task: Arc<Task>) {
        pid::attach(&task.id());
        task.process.cgroup.read().came(1);
        self.tasks.insert(task.kid(), task);
    }

    pub(crate) fn remove_task(&mut self, task: &Arc<Task>) {
        if self.tasks.get(&task.kid()).is_some_and(|known| Arc::ptr_eq(known, task)) {
            self.tasks.remove(&task.kid());
            pid::detach(&self.root, &task.id());
            task.process.cgroup.read().left(1);
        }
    }

    /// Moves a process to another group, and with `session` to another session.
    pub(crate) fn regroup(&mut self, process: &Process, group: &Arc<Pid>, session: Option<&Arc<Pid>>) {
        let mut old = Vec::new();
        {
            let mut links = process.links.lock();
            pid::attach(group);
            old.push(std::mem::replace(&mut links.pgrp, group.clone()));
            if let Some(session) = session {
                pid::attach(session);
                old.push(std::mem::replace(&mut links.session, session.clone()));
            }
        }
        old.iter().for_each(|pid| pid::detach(&self.root, pid));
    }
}
