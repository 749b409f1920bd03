//! Stopping containers (the freezer cgroup).
//!
//! A frozen task stops before it next runs guest code, and nobody inside sees it: no signal, no wait4 event. Calls that
//! are parked stay so, and a call that gets ready meanwhile waits with its answer. Signals stay queued; what ends a process
//! ends a frozen one too. The run loop does the stopping (`run::WORK_FREEZE`).
//!
//! Locks: none. A container's mark is set before its tasks are marked, and looked at after a task has stopped.

use crate::run::{State, WORK_FREEZE};
use crate::{Container, Kernel, Process};
use std::sync::Arc;

impl Kernel {
    /// Stops all tasks of a container, soon; [`Kernel::has_stopped`] says when.
    pub fn freeze(&self, container: &Arc<Container>) {
        container.set_frozen(true);
        for process in self.processes_of(container) {
            for task in process.threads() {
                task.add_work(WORK_FREEZE);
            }
        }
    }

    /// Lets a frozen container go on.
    pub fn thaw(&self, container: &Arc<Container>) {
        container.set_frozen(false);
        for process in self.processes_of(container) {
            self.refreeze(&process);
        }
    }

    /// Whether no task of a frozen container runs any more.
    pub fn has_stopped(&self, container: &Arc<Container>) -> bool {
        container.is_frozen() && self.processes_of(container).iter().all(|process| process.has_stopped())
    }
}

impl Process {
    /// Whether none of its threads runs.
    pub(crate) fn has_stopped(&self) -> bool {
        self.threads().iter().all(|task| {
            matches!(task.run.lock().state, State::Blocked(_) | State::Stopped | State::Frozen | State::Dead)
        })
    }
}
