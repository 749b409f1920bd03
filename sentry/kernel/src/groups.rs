//! Process groups and sessions (setpgid(2), setsid(2)), and small per-process settings.

use crate::process::Process;
use crate::{Kernel, Task};
use chitin_abi::Errno;
use chitin_abi::resource::Rusage;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Kernel {
    /// Members of a group (by its kernel id), zombies included (for kill(2)'s existence check).
    pub fn group_members(&self, pgid: i32) -> Vec<Arc<Process>> {
        let mut processes = self.processes();
        processes.retain(|process| process.pgid() == pgid);
        processes
    }

    /// setpgid(2).
    pub fn set_group(&self, caller: &Arc<Process>, pid: i32, pgid: i32) -> Result<(), Errno> {
        let ns = caller.pid_ns();
        let pid = if pid == 0 { caller.pid() } else { pid };
        let pgid = if pgid == 0 { pid } else { pgid };
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let mut tree = self.tree.lock();
        let target = ns.find(pid).and_then(|pid| tree.process(pid.kid())).ok_or(Errno::ESRCH)?;
        if !Arc::ptr_eq(&target, caller) {
            let ours = target.parent().is_some_and(|parent| Arc::ptr_eq(&parent, caller));
            if !ours {
                return Err(Errno::ESRCH);
            }
            if target.sid() != caller.sid() {
                return Err(Errno::EPERM);
            }
            if target.has_execed.load(Ordering::Acquire) {
                return Err(Errno::EACCES);
            }
        }
        if target.sid() == target.kid() {
            return Err(Errno::EPERM);
        }
        let group = if pgid == target.pid_in(ns) {
            target.id.clone()
        } else {
            let sid = caller.sid();
            let group = ns.find(pgid).ok_or(Errno::EPERM)?;
            let member = |process: &Arc<Process>| process.pgid() == group.kid() && process.sid() == sid;
            if !tree.processes().iter().any(member) {
                return Err(Errno::EPERM);
            }
            group
        };
        tree.regroup(&target, &group, None);
        Ok(())
    }

    /// setsid(2): the new session's id as the caller sees it.
    pub fn new_session(&self, caller: &Arc<Process>) -> Result<i32, Errno> {
        let mut tree = self.tree.lock();
        let kid = caller.kid();
        if tree.processes().iter().any(|process| process.pgid() == kid) {
            return Err(Errno::EPERM);
        }
        tree.regroup(caller, &caller.id, Some(&caller.id));
        caller.links.lock().tty = None;
        Ok(caller.pid())
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
        Rusage {
            ru_utime: timeval(times.user_ns),
            ru_stime: timeval(times.system_ns),
            ru_nvcsw: self.counters.voluntary_switches.load(Ordering::Relaxed).cast_signed(),
            ru_nivcsw: self.platform().preemptions().cast_signed(),
            ..Rusage::default()
        }
    }
}
