//! Process groups and sessions (setpgid(2), setsid(2)), and small per-process settings.

use crate::process::Process;
use crate::{Kernel, Task};
use chitin_abi::Errno;
use chitin_abi::resource::Rusage;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Kernel {
    /// Members of a group, zombies included (for kill(2)'s existence check).
    pub fn group_members(&self, pgid: i32) -> Vec<Arc<Process>> {
        let mut processes = self.processes();
        processes.retain(|process| process.pgid() == pgid);
        processes
    }

    /// setpgid(2).
    pub fn set_group(&self, caller: &Arc<Process>, pid: i32, pgid: i32) -> Result<(), Errno> {
        let pid = if pid == 0 { caller.pid } else { pid };
        let pgid = if pgid == 0 { pid } else { pgid };
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let tree = self.tree.lock();
        let target = tree.process(pid).ok_or(Errno::ESRCH)?;
        if !Arc::ptr_eq(&target, caller) {
            let ours = target.parent().is_some_and(|parent| Arc::ptr_eq(&parent, caller));
            if !ours {
                return Err(Errno::ESRCH);
            }
            if target.sid() != caller.sid() {
                return Err(Errno::EPERM);
            }
            if target.has_execed.load(Ordering::Relaxed) {
                return Err(Errno::EACCES);
            }
        }
        if target.sid() == target.pid {
            return Err(Errno::EPERM);
        }
        if pgid != target.pid {
            let sid = caller.sid();
            let exists =
                tree.processes().iter().any(|process| process.pgid() == pgid && process.sid() == sid);
            if !exists {
                return Err(Errno::EPERM);
            }
        }
        target.links.lock().pgid = pgid;
        Ok(())
    }

    /// setsid(2): the new session's id.
    pub fn new_session(&self, caller: &Arc<Process>) -> Result<i32, Errno> {
        let tree = self.tree.lock();
        let pid = caller.pid;
        if tree.processes().iter().any(|process| process.pgid() == pid) {
            return Err(Errno::EPERM);
        }
        let mut links = caller.links.lock();
        links.sid = pid;
        links.pgid = pid;
        links.tty = None;
        Ok(pid)
    }

    /// Memory that guests use, for sysinfo and /proc/meminfo.
    pub fn memory_used(&self) -> u64 {
        self.processes()
            .iter()
            .filter_map(|process| process.leader())
            .map(|task| task.mm().space().usage().resident)
            .fold(0, u64::saturating_add)
    }
}

impl Process {
    pub fn dumpable(&self) -> i32 {
        self.dumpable.load(Ordering::Relaxed)
    }
    pub fn set_dumpable(&self, value: i32) {
        self.dumpable.store(value, Ordering::Relaxed);
    }
    pub fn is_child_subreaper(&self) -> bool {
        self.child_subreaper.load(Ordering::Relaxed)
    }
    pub fn set_child_subreaper(&self, value: bool) {
        self.child_subreaper.store(value, Ordering::Relaxed);
    }
}

impl Task {
    /// RUSAGE_THREAD.
    pub fn usage(&self) -> Rusage {
        let times = self.platform().cpu_times();
        let timeval = |ns: u64| chitin_abi::time::Timeval {
            tv_sec: (ns / 1_000_000_000).cast_signed(),
            tv_usec: (ns % 1_000_000_000 / 1000).cast_signed(),
        };
        Rusage { ru_utime: timeval(times.user_ns), ru_stime: timeval(times.system_ns), ..Rusage::default() }
    }
}
