//! A host process (thread group) and its guest threads.
//!
//! Invariants: the group's leader outlives the other threads (its own exit is held back), so that the pid stays valid for
//! copies until the leader's tracer has seen it dead, which is before anybody reaps it.

use crate::space::Space;
use crate::sys;
use crate::task::Task;
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

pub struct Process {
    pub pid: i32,
    pub space: Arc<Space>,
    inner: Mutex<Inner>,
}

struct Inner {
    tasks: Vec<Weak<Task>>,
    /// Tasks the kernel has not ended.
    live: usize,
    /// Its end is wanted: no `Exited` events.
    ending: bool,
    /// Dead for certain; the pid may be gone.
    dead: bool,
}

impl Process {
    pub fn new(pid: i32, space: Arc<Space>) -> Arc<Process> {
        space.mem.add_reader(pid);
        let inner = Inner { tasks: Vec::new(), live: 0, ending: false, dead: false };
        Arc::new(Process { pid, space, inner: Mutex::new(inner) })
    }

    pub fn add(&self, t: &Arc<Task>) {
        let mut i = self.inner.lock();
        i.tasks.retain(|w| w.strong_count() > 0);
        i.tasks.push(Arc::downgrade(t));
        i.live += 1;
    }

    pub fn tasks(&self) -> Vec<Arc<Task>> {
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
        if !i.dead {
            let _ = sys::kill(self.pid, libc::SIGKILL);
        }
    }

    pub fn ending(&self) -> bool {
        self.inner.lock().ending
    }

    /// A pidfd, unless the process is dead.
    pub fn pidfd(&self) -> Result<OwnedFd, i32> {
        let i = self.inner.lock();
        if i.dead { Err(libc::ESRCH) } else { sys::pidfd_open(self.pid) }
    }

    /// Its leader was found dead, and is about to be reaped; returns whether that was wanted.
    pub fn set_dead(&self) -> bool {
        self.space.mem.remove_reader(self.pid);
        let mut i = self.inner.lock();
        i.dead = true;
        i.ending
    }
}
