//! Which process is in which cgroup: moving, removing, freezing, killing, and what they use.

use super::Cgroup;
use crate::result::ExitStatus;
use crate::run::WORK_FREEZE;
use crate::{Kernel, Process};
use chitin_abi::Errno;
use chitin_abi::signal::SIGKILL;
use chitin_platform::CpuTimes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A process may not be moved where that would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    Done,
    /// Its cgroup gives controllers to its children, so it takes no processes (EBUSY).
    Internal,
    /// It was removed (ENODEV).
    Removed,
    /// Of another container (ENOENT).
    Foreign,
}

impl Process {
    /// The cgroup it is in.
    pub fn cgroup(&self) -> Arc<Cgroup> {
        self.cgroup.read().clone()
    }

    /// Whether it is to stand still: its container, or its cgroup, is frozen.
    pub fn is_frozen(&self) -> bool {
        self.container.is_frozen() || self.cgroup.read().is_frozen()
    }
}

impl Kernel {
    /// Puts a whole process into a cgroup of its container.
    pub fn move_to_cgroup(&self, process: &Arc<Process>, to: &Arc<Cgroup>) -> Moved {
        if !process.container.cgroup.holds(to) {
            return Moved::Foreign;
        }
        let old = {
            let _tree = self.tree.lock();
            let mut place = process.cgroup.write();
            {
                let inner = to.inner.read();
                if inner.dead {
                    return Moved::Removed;
                }
                if to.pids_below.load(Ordering::Relaxed) {
                    return Moved::Internal;
                }
            }
            let count = process.threads.lock().len() as u64;
            to.came(count);
            place.left(count);
            std::mem::replace(&mut *place, to.clone())
        };
        drop(old);
        self.refreeze(process);
        Moved::Done
    }

    /// rmdir(2): EBUSY while there is a process in it or a cgroup below it.
    pub fn remove_cgroup(&self, parent: &Arc<Cgroup>, name: &[u8]) -> Result<(), Errno> {
        let gone = {
            let _tree = self.tree.lock();
            let mut inner = parent.inner.write();
            let child = inner.children.get(name).cloned().ok_or(Errno::ENOENT)?;
            let mut below = child.inner.write();
            if !below.children.is_empty() || child.populated() {
                return Err(Errno::EBUSY);
            }
            below.dead = true;
            drop(below);
            // What ended in it is its parent's from now on.
            parent.gone_user_ns.fetch_add(child.gone_user_ns.load(Ordering::Relaxed), Ordering::Relaxed);
            parent.gone_system_ns.fetch_add(child.gone_system_ns.load(Ordering::Relaxed), Ordering::Relaxed);
            inner.children.remove(name)
        };
        drop(gone);
        Ok(())
    }

    /// The living processes of a cgroup itself (`below`: and of those below it), by kernel id.
    pub fn processes_in_cgroup(&self, cgroup: &Arc<Cgroup>, below: bool) -> Vec<Arc<Process>> {
        let mut processes = self.processes();
        processes.retain(|process| {
            let at = process.cgroup();
            !process.is_zombie() && (Arc::ptr_eq(&at, cgroup) || (below && cgroup.holds(&at)))
        });
        processes
    }

    /// cgroup.freeze.
    pub fn freeze_cgroup(&self, cgroup: &Arc<Cgroup>, frozen: bool) {
        cgroup.set_frozen(frozen);
        for process in self.processes_in_cgroup(cgroup, true) {
            self.refreeze(&process);
        }
        cgroup.changed();
    }

    /// Stops a process's tasks, or lets them go on, as its container and its cgroup have it.
    pub(crate) fn refreeze(&self, process: &Arc<Process>) {
        let frozen = process.is_frozen();
        for task in process.threads() {
            if frozen {
                task.add_work(WORK_FREEZE);
            } else if task.work.fetch_and(!WORK_FREEZE, Ordering::AcqRel) & WORK_FREEZE != 0 {
                task.kick();
            }
        }
    }

    /// cgroup.kill.
    pub fn kill_cgroup(&self, cgroup: &Arc<Cgroup>) {
        self.kill_where(
            |process| cgroup.holds(&process.cgroup()),
            ExitStatus::Signaled { signal: SIGKILL, core: false },
        );
    }

    /// Whether no task of a frozen cgroup runs any more.
    pub fn cgroup_has_stopped(&self, cgroup: &Arc<Cgroup>) -> bool {
        self.processes_in_cgroup(cgroup, true).iter().all(|process| process.has_stopped())
    }

    /// Memory that the processes of a cgroup and below use, in bytes.
    pub fn memory_in_cgroup(&self, cgroup: &Arc<Cgroup>) -> u64 {
        let processes = self.processes_in_cgroup(cgroup, true);
        let leaders = processes.iter().filter_map(|process| process.leader());
        leaders.map(|task| task.mm().space().usage().resident).fold(0, u64::saturating_add)
    }

    /// CPU time used in a cgroup and below.
    pub fn cgroup_cpu(&self, cgroup: &Arc<Cgroup>) -> CpuTimes {
        let mut total = gone(cgroup);
        for process in self.processes_in_cgroup(cgroup, true) {
            let times = crate::time::process_cpu_times(&process);
            total.user_ns = total.user_ns.saturating_add(times.user_ns);
            total.system_ns = total.system_ns.saturating_add(times.system_ns);
        }
        total
    }
}

/// CPU time of the processes that have ended in a cgroup and below.
fn gone(cgroup: &Cgroup) -> CpuTimes {
    let mut total = CpuTimes {
        user_ns: cgroup.gone_user_ns.load(Ordering::Relaxed),
        system_ns: cgroup.gone_system_ns.load(Ordering::Relaxed),
    };
    for (_, child) in cgroup.children() {
        let below = gone(&child);
        total.user_ns = total.user_ns.saturating_add(below.user_ns);
        total.system_ns = total.system_ns.saturating_add(below.system_ns);
    }
    total
}

/// A process has ended with this much CPU time.
pub(crate) fn account(process: &Process, times: (u64, u64)) {
    let cgroup = process.cgroup();
    cgroup.gone_user_ns.fetch_add(times.0, Ordering::Relaxed);
    cgroup.gone_system_ns.fetch_add(times.1, Ordering::Relaxed);
}
