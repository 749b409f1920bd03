//! Lines: listeners, each with the zygote whose forks notify it and a seat of its own for a worker.
//!
//! One listener carries some 180,000 calls a second and no more, however many CPUs there are: a single worker receives
//! them, since further ones would be woken for every call (`seats`), and the host runs all that takes part on one CPU.
//! So there are several, and a new program goes to the one with the fewest programs. What a program forks, and its
//! threads, stay on its line: the host ties a listener to a filter, and that is inherited.
//!
//! Neighbours: `zygote` makes the lines, `sandbox` receives on them, `seats` says who does, `spawn` counts their programs.
//!
//! Invariant: a notification is answered on the line it came by, since its number means nothing on another.

use crate::seats::Seats;
use crate::sys::Listener;
use crate::task::Task;
use chitin_platform_host::memory::Host;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// More would gain little, and each costs a process.
pub const MOST: usize = 4;

pub struct Line {
    pub listener: Listener,
    pub seats: Seats,
    pub zygote: OnceLock<Arc<Task>>,
    /// Where this line's processes have their vDSO.
    pub host: Arc<Host>,
    /// Those that run, each with what it has forked.
    programs: AtomicUsize,
}

/// How many lines suit the machine.
pub fn suitable() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MOST)
}

impl Line {
    pub fn new(listener: Listener, host: Arc<Host>) -> Arc<Line> {
        Arc::new(Line {
            listener,
            seats: Seats::default(),
            zygote: OnceLock::new(),
            host,
            programs: AtomicUsize::new(0),
        })
    }

    /// How many programs run on it.
    pub fn programs(&self) -> usize {
        self.programs.load(Ordering::Relaxed)
    }

    /// Counts a program as long as the answer lives.
    pub fn count(self: &Arc<Line>) -> Arc<Counted> {
        self.programs.fetch_add(1, Ordering::Relaxed);
        Arc::new(Counted(self.clone()))
    }
}

pub struct Counted(Arc<Line>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.programs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The zygote of the line with the fewest programs. What they fork does not count by itself: most of it is about to execute
/// a program, or is all that is left of one that became a daemon.
pub fn least(lines: &[Arc<Line>]) -> Option<Arc<Task>> {
    lines.iter().min_by_key(|l| l.programs())?.zygote.get().cloned()
}
