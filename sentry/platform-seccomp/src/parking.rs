//! Parking: takes long-blocked system calls off the host's list of outstanding notifications, which it searches linearly.
//!
//! Neighbours: `task` and `control` (a parked task is resumed like any other), `stub` (the constant wait).
//!
//! A parked thread has been kicked out of its call by a dummy answer, so it has a frame, and waits in the stub for the kick
//! signal. Invisible to the kernel: the result goes into the frame when it resumes the task.

use crate::restart::Reply;
use crate::sandbox::Sandbox;
use crate::stub::{cmd, ctl};
use crate::task::{After, Phase, St, Task};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Outstanding notifications that are left alone.
const ALLOWED: usize = 48;
const TICK: Duration = Duration::from_millis(2);

#[derive(Default)]
pub struct Parking {
    outstanding: AtomicUsize,
    clock: AtomicU64,
    wanted: Mutex<bool>,
    bell: Condvar,
}

impl Parking {
    /// Wakes the thread for good.
    pub fn close(&self) {
        *self.wanted.lock() = true;
        self.bell.notify_all();
    }

    /// Stopped tasks whose notification waits.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }
}

impl Task {
    /// The task has just stopped.
    pub(crate) fn count(&self, st: &mut St) {
        let p = &self.sb.parking;
        st.since = p.clock.load(Ordering::Relaxed);
        if !st.counted {
            st.counted = true;
            if p.outstanding.fetch_add(1, Ordering::Relaxed) == ALLOWED {
                *p.wanted.lock() = true;
                p.bell.notify_one();
            }
        }
    }

    /// Its notification is about to be answered.
    pub(crate) fn uncount(&self, st: &mut St) {
        if st.counted {
            st.counted = false;
            self.sb.parking.outstanding.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Parks the task if it has been stopped since before `before`.
    fn park(&self, before: u64) {
        let mut st = self.st.lock();
        // A file that waits for a native mmap is about to be resumed; leave it.
        if st.phase != Phase::Stopped || !st.counted || st.since >= before || st.native_fd.is_some() {
            return;
        }
        if st.interrupt || st.newborn {
            return;
        }
        self.uncount(&mut st);
        if st.frame.is_some() {
            st.win.put(ctl::WAKE, 0);
            st.phase = Phase::Parked;
            self.command(&mut st, cmd::PARK);
            return;
        }
        if !st.kicked {
            self.kick(&mut st);
        }
        st.phase = Phase::AwaitFrame;
        st.after = After::Park;
        if self.killable() {
            self.reply(&mut st, Reply::Value(0));
        }
    }
}

/// The parking thread: sleeps while few notifications are outstanding.
pub fn run(sb: &Arc<Sandbox>) {
    let p = &sb.parking;
    loop {
        {
            let mut wanted = p.wanted.lock();
            while !*wanted {
                p.bell.wait(&mut wanted);
            }
            *wanted = false;
        }
        while p.outstanding() > ALLOWED && !sb.closing.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            let now = p.clock.fetch_add(1, Ordering::Relaxed);
            let procs: Vec<_> = sb.procs.lock().values().cloned().collect();
            for proc in procs {
                for t in proc.tasks() {
                    t.park(now);
                }
            }
        }
        if sb.closing.load(Ordering::Relaxed) {
            return;
        }
    }
}
