//! CPU time used by threads and processes, as the platform counts it.

use crate::{Process, Task};
use chitin_platform::CpuTimes;
use std::sync::{Arc, Weak};

/// Which part of the CPU time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuKind {
    User,
    All,
}

impl CpuKind {
    fn of(self, times: CpuTimes) -> u64 {
        match self {
            CpuKind::User => times.user_ns,
            CpuKind::All => times.user_ns.saturating_add(times.system_ns),
        }
    }
}

/// User and system time of a process: its living threads and those that have ended.
pub fn process_cpu_times(process: &Process) -> CpuTimes {
    if process.is_zombie() {
        let (user_ns, system_ns) = process.links.lock().final_times;
        return CpuTimes { user_ns, system_ns };
    }
    let threads = process.threads();
    let usage = *process.usage.lock();
    let mut total = CpuTimes { user_ns: usage.dead_threads_user_ns, system_ns: usage.dead_threads_system_ns };
    for thread in threads {
        let times = thread.platform().cpu_times();
        total.user_ns = total.user_ns.saturating_add(times.user_ns);
        total.system_ns = total.system_ns.saturating_add(times.system_ns);
    }
    total
}

/// CLOCK_PROCESS_CPUTIME_ID.
pub fn process_cpu_ns(process: &Process) -> u64 {
    CpuKind::All.of(process_cpu_times(process))
}

/// CLOCK_THREAD_CPUTIME_ID.
pub fn thread_cpu_ns(task: &Task) -> u64 {
    CpuKind::All.of(task.platform().cpu_times())
}

/// A clock of CPU time; does not keep what it measures alive.
#[derive(Clone)]
pub enum CpuClock {
    Process(Weak<Process>, CpuKind),
    Thread(Weak<Task>, CpuKind),
}

impl CpuClock {
    /// `None`: the process or thread is gone.
    pub fn now(&self) -> Option<u64> {
        match self {
            CpuClock::Process(process, kind) => Some(kind.of(process_cpu_times(&*process.upgrade()?))),
            CpuClock::Thread(task, kind) => Some(kind.of(task.upgrade()?.platform().cpu_times())),
        }
    }

    /// How many CPUs can drive it at once.
    pub(super) fn width(&self) -> u64 {
        match self {
            CpuClock::Thread(..) => 1,
            CpuClock::Process(process, _) => {
                let threads = process.upgrade().map_or(1, |process| process.threads().len());
                let cpus = std::thread::available_parallelism().map_or(1, usize::from);
                u64::try_from(threads.min(cpus).max(1)).unwrap_or(1)
            }
        }
    }
}

/// For clock ids that name the caller's own.
pub fn own_process(task: &Arc<Task>) -> CpuClock {
    CpuClock::Process(Arc::downgrade(&task.process), CpuKind::All)
}
