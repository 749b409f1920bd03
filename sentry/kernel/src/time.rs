//! Clocks, sleeps and timers.
//!
//! Neighbours: the [`crate::reactor`] drives [`Timers`]; `timerfd`, `futex` and everything with a timeout builds on
//! [`Timers::sleep_until`], [`with_timeout`] or [`Timer`]. The guest's clocks are the host's, but for the offsets of its
//! time namespace.
//!
//! - [`timers`]: one ordered set of deadlines for the whole sandbox;
//! - [`alarm`]: a repeating timer on any clock, CPU clocks included;
//! - [`itimer`], [`posix`]: setitimer(2), timer_create(2);
//! - [`ns`]: offsets of time namespaces;
//! - [`clock`]: clock ids; [`cpu`]: CPU time used; [`sleep`]: nanosleep(2).
//!
//! Locks: those of this module are leaves; none is held while a callback, a waker or a signal is on its way.

pub mod alarm;
pub mod clock;
pub mod cpu;
pub mod itimer;
pub mod ns;
pub mod posix;
pub mod sleep;
pub mod timers;

pub use clock::{from_timespec, to_timespec};
pub use cpu::{process_cpu_ns, process_cpu_times, thread_cpu_ns};
pub use timers::{Base, Deadline, Expire, Sleep, Timer, Timers, with_timeout};

use alarm::Alarm;
use chitin_abi::signal::SigInfo;
use parking_lot::Mutex;
use std::sync::Arc;

/// Reads a host clock (CLOCK_*) in nanoseconds.
pub fn now(clock: i32) -> u64 {
    chitin_host::clock::now_ns(clock)
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn monotonic() -> u64 {
    now(chitin_abi::time::CLOCK_MONOTONIC)
}

/// Nanoseconds of CLOCK_REALTIME.
pub fn realtime() -> u64 {
    now(chitin_abi::time::CLOCK_REALTIME)
}

/// The timers of a process: those of setitimer, those of timer_create, and RLIMIT_CPU's.
#[derive(Default)]
pub struct ProcessTimers {
    /// By ITIMER_*.
    itimers: Mutex<[Option<Arc<Alarm>>; 3]>,
    posix: Mutex<posix::Table>,
}

impl ProcessTimers {
    /// execve: POSIX timers go, interval timers stay.
    pub fn exec(&self) {
        let old = std::mem::take(&mut *self.posix.lock());
        drop(old);
    }

    /// The end of the process: nothing fires any more.
    pub fn clear(&self) {
        self.exec();
        let old = std::mem::take(&mut *self.itimers.lock());
        drop(old);
    }

    /// A signal has been taken from a queue of this process to be delivered: what timer_getoverrun answers next.
    pub fn delivered(&self, info: &SigInfo) {
        if info.si_code == chitin_abi::signal::SI_TIMER {
            self.posix.lock().delivered(info.timer_id(), info.overrun());
        }
    }
}
