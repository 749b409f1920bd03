//! A host process (thread group) and its guest threads.
//!
//! Invariants: the group's leader outlives the other threads (its own exit is held back), so that the pid stays valid for
//! copies until its end has been seen and marked, which is before anybody reaps it.

use crate::memory::Memory;
use crate::sys;
use crate::thread::process_cpu_times;
use chitin_platform::CpuTimes;
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

/// `S` is the platform's address space, `T` its task.
pub struct Process<S, T> {
    pub pid: i32,
    pub space: Arc<S>,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    tasks: Vec<Weak<T>>,
    /// Tasks the kernel has not ended.
    live: usize,
    /// Its end is wanted: no `Exited` events.
    ending: bool,
    /// It has been sent SIGKILL.
    killed: bool,
    /// Dead for certain; the pid may be gone.
    dead: bool,
    /// It has never had a second thread.
    single: bool,
}

impl<S: AsRef<Memory>, T> Process<S, T> {
    pub fn new(pid: i32, space: Arc<S>) -> Arc<Process<S, T>> {
        (*space).as_ref().add_reader(pid);
        let inner =
            Inner { tasks: Vec::new(), live: 0, ending: false, killed: false, dead: false, single: true };
        Arc::new(Process { pid, space, inner: Mutex::new(inner) })
    }

    pub fn add(&self, t: &Arc<T>) {
        let mut i = self.inner.lock();
        i.single &= i.tasks.is_empty();
        i.tasks.retain(|w| w.strong_count() > 0);
        i.tasks.push(Arc::downgrade(t));
        i.live += 1;
    }

    pub fn tasks(&self) -> Vec<Arc<T>> {
        self.inner.lock().tasks.iter().filter_map(Weak::upgrade).collect()
    }

    /// A task is being ended by the kernel; returns how many are left.
    pub fn one_less(&self) -> usize {
        let mut i = self.inner.lock();
        i.live = i.live.saturating_sub(1);
        if i.live == 0 {
            i.ending = true;
        }
        i.live
    }

    /// Sends SIGKILL unless the process is dead. `ending`: it is wanted.
    pub fn kill(&self, ending: bool) {
        let mut i = self.inner.lock();
        i.ending |= ending;
        if !i.dead && !std::mem::replace(&mut i.killed, true) {
            let _ = sys::kill(self.pid, libc::SIGKILL);
        }
    }

    pub fn ending(&self) -> bool {
        self.inner.lock().ending
    }

    /// CPU time of its only thread by the host's clocks; `None` if it has had several, or is dead.
    pub fn single_cpu_times(&self) -> Option<CpuTimes> {
        let i = self.inner.lock();
        (i.single && !i.dead).then(|| process_cpu_times(self.pid))
    }

    /// A pidfd, unless the process is dead.
    pub fn pidfd(&self) -> Result<OwnedFd, i32> {
        let i = self.inner.lock();
        if i.dead { Err(libc::ESRCH) } else { sys::pidfd_open(self.pid) }
    }

    /// It was found dead, and is about to be reaped; returns whether that was wanted.
    pub fn set_dead(&self) -> bool {
        let mut i = self.inner.lock();
        i.dead = true;
        i.ending
    }
}
