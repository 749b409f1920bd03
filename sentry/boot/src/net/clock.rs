//! The stack's timer, on the reactor.

use chitin_kernel::reactor::Reactor;
use chitin_kernel::time::{Deadline, Timer, monotonic};
use chitin_netstack::Stack;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock, Weak};

/// One timer, armed for the earliest deadline that was asked for.
pub struct Clock {
    stack: Weak<Stack>,
    timer: OnceLock<Timer>,
    /// When it goes off; `u64::MAX`: not at all. A leaf but for the timers' own lock.
    armed: Mutex<u64>,
}

impl Clock {
    pub fn new(stack: &Arc<Stack>, reactor: &Reactor) -> Arc<Clock> {
        let clock = Arc::new(Clock {
            stack: Arc::downgrade(stack),
            timer: OnceLock::new(),
            armed: Mutex::new(u64::MAX),
        });
        let weak = Arc::downgrade(&clock);
        let timer = Timer::with_fn(reactor.timers(), move || {
            if let Some(clock) = weak.upgrade() {
                clock.expire();
            }
        });
        let first = clock.timer.set(timer).is_ok();
        debug_assert!(first, "the timer is made once");
        clock
    }

    /// Sees to it that the stack is called at `at`, or earlier.
    pub fn arm(&self, at: u64) {
        let mut armed = self.armed.lock();
        if at < *armed {
            *armed = at;
            if let Some(timer) = self.timer.get() {
                timer.arm(Deadline::monotonic(at));
            }
        }
    }

    fn expire(&self) {
        *self.armed.lock() = u64::MAX;
        let next = self.stack.upgrade().and_then(|stack| stack.on_timer(monotonic()));
        if let Some(next) = next {
            self.arm(next);
        }
    }
}
