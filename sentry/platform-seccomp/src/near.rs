//! On which CPUs the sentry holds a guest's threads for a while, and how they are scheduled there.
//!
//! *Near*: a forking thread and its child stay on one CPU until the child has announced itself. The host puts a new process
//! where the fewest are runnable, and the worker that has just answered is: the child goes to another CPU, where it waits for
//! its turn or has to wake an idle processor, and worker, maker and child then follow each other from CPU to CPU. That costs
//! more than all the rest of a fork. Where the child runs later is the host's business.
//!
//! *Off*: a thread that is polled for stays off the poller's CPU, if it may run on any other. Wherever the host puts it beside
//! the poller, each of the two waits for the end of the other's turn. Meanwhile it is *patient*, too: it does not preempt when it is
//! woken, as who wakes it shares its CPU and has more to say as a rule.
//!
//! Neighbours: `spawn` (forks), `poller`, `control` (what guests ask for with sched_setaffinity(2) goes through here, too).
//!
//! Invariant: `St::held` says what is ours in the host's mask of the thread; what the guest wants is in `St::affinity`.

use crate::sys;
use crate::task::{Phase, St, Task};
use chitin_platform::PlatformError;
use chitin_platform_host::thread;
use std::borrow::Cow;
use std::sync::Arc;

/// What of a thread's CPUs is not as its guest wants it.
#[derive(Debug, Default)]
pub struct Held {
    /// It stays on one.
    near: bool,
    /// It stays off this one.
    off: Option<usize>,
    /// It does not run before others when it is woken.
    patient: bool,
    /// It has been held at any time, so a child may have inherited that.
    ever: bool,
}

impl Held {
    fn now(&self) -> bool {
        self.near || self.off.is_some()
    }
}

/// A thread that stays on this CPU; gets its own mask back at the end.
pub struct Near(Arc<Task>);

impl Near {
    pub fn new(task: &Arc<Task>) -> Option<Near> {
        let mut st = task.st.lock();
        let cpu = sys::current_cpu()?;
        let own = task.allowed_affinity(&st);
        let bit = |mask: &[u8]| mask.get(cpu / 8).is_some_and(|byte| byte & 1 << (cpu % 8) != 0);
        if st.held.near || !bit(&own) || sys::count_cpus(&own) < 2 {
            return None;
        }
        sys::set_affinity(task.tid, &sys::only_cpu(cpu)).ok()?;
        (st.held.near, st.held.ever) = (true, true);
        Some(Near(task.clone()))
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let mut st = self.0.st.lock();
        st.held.near = false;
        self.0.give_affinity(&st, &self.0.allowed_affinity(&st));
    }
}

impl Task {
    fn wanted_affinity<'a>(&'a self, st: &'a St) -> &'a [u8] {
        st.affinity.as_deref().unwrap_or(&self.sb.cpus)
    }

    /// What its guest wants, without the CPU that it is held off.
    fn allowed_affinity<'a>(&'a self, st: &'a St) -> Cow<'a, [u8]> {
        let wanted = self.wanted_affinity(st);
        match st.held.off.and_then(|cpu| sys::without_cpu(wanted, cpu)) {
            Some(mask) => mask.into(),
            None => wanted.into(),
        }
    }

    /// Until a thread is marked dead its number is its own.
    fn give_affinity(&self, st: &St, mask: &[u8]) {
        if st.phase != Phase::Dead {
            let _gone = sys::set_affinity(self.tid, mask);
        }
    }

    /// Keeps the thread off a CPU, or no more.
    pub(crate) fn keep_off(&self, cpu: Option<usize>) {
        let mut st = self.st.lock();
        st.held.ever = true;
        if std::mem::replace(&mut st.held.off, cpu) != cpu && !st.held.near {
            self.give_affinity(&st, &self.allowed_affinity(&st));
        }
        let patient = cpu.is_some();
        if st.held.patient != patient && st.phase != Phase::Dead && sys::set_patient(self.tid, patient) {
            st.held.patient = patient;
        }
    }

    /// A child of this thread, which has inherited what it is held by, may go where its maker may.
    pub(crate) fn release_child(&self, child: &Task) {
        let maker = self.st.lock();
        if maker.held.ever {
            let mask = self.wanted_affinity(&maker).to_vec();
            if maker.held.patient {
                let _other = sys::set_patient(child.tid, false);
            }
            drop(maker);
            child.give_affinity(&child.st.lock(), &mask);
        }
    }

    /// What `PlatformTask::affinity` does.
    pub(crate) fn change_affinity(&self, st: &mut St, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
        if !st.held.now() {
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
            if !st.held.near {
                self.give_affinity(st, &self.allowed_affinity(st));
            }
        }
        Ok(self.wanted_affinity(st).to_vec())
    }
}
