//! Keeps a forking thread and its child on one CPU until the child has announced itself.
//!
//! The host puts a new process where the fewest are runnable, and the worker that has just answered is: the child goes to
//! another CPU, where it waits for its turn or has to wake an idle processor, and worker, maker and child then follow each
//! other from CPU to CPU. That costs more than all the rest of a fork. Where the child runs later is the host's business.
//!
//! Neighbours: `spawn` (forks), `control` (what guests ask for with sched_setaffinity(2) goes through here, too).
//!
//! Invariant: `St::near` says that the host's mask of the thread is ours; what the guest wants is in `St::affinity`.

use crate::sys;
use crate::task::{Phase, St, Task};
use chitin_platform::PlatformError;
use chitin_platform_host::thread;
use std::sync::Arc;

/// A thread that stays on this CPU; gets its own mask back at the end.
pub struct Near(Arc<Task>);

impl Near {
    pub fn new(task: &Arc<Task>) -> Option<Near> {
        let mut st = task.st.lock();
        let cpu = sys::current_cpu()?;
        let own = task.wanted_affinity(&st);
        let bit = |mask: &[u8]| mask.get(cpu / 8).is_some_and(|byte| byte & 1 << (cpu % 8) != 0);
        if st.near || !bit(own) || sys::count_cpus(own) < 2 {
            return None;
        }
        sys::set_affinity(task.tid, &sys::only_cpu(cpu)).ok()?;
        st.near = true;
        Some(Near(task.clone()))
    }

    /// The child, which has inherited all that, may go where its maker may.
    pub fn release_child(&self, child: &Task) {
        let mask = self.0.wanted_affinity(&self.0.st.lock()).to_vec();
        child.give_affinity(&child.st.lock(), &mask);
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let mut st = self.0.st.lock();
        st.near = false;
        self.0.give_affinity(&st, self.0.wanted_affinity(&st));
    }
}

impl Task {
    fn wanted_affinity<'a>(&'a self, st: &'a St) -> &'a [u8] {
        st.affinity.as_deref().unwrap_or(&self.sb.cpus)
    }

    /// Until a thread is marked dead its number is its own.
    fn give_affinity(&self, st: &St, mask: &[u8]) {
        if st.phase != Phase::Dead {
            let _gone = sys::set_affinity(self.tid, mask);
        }
    }

    /// What `PlatformTask::affinity` does.
    pub(crate) fn change_affinity(&self, st: &mut St, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
        if !st.near {
            let now = thread::affinity(self.tid, set)?;
            if let Some(mask) = set {
                st.affinity = Some(mask.into());
            }
            return Ok(now);
        }
        if let Some(mask) = set {
            if !mask.iter().zip(&self.sb.cpus).any(|(want, have)| want & have != 0) {
                return Err(PlatformError::Host { op: "sched_setaffinity", errno: libc::EINVAL });
            }
            st.affinity = Some(mask.into());
        }
        Ok(self.wanted_affinity(st).to_vec())
    }
}
