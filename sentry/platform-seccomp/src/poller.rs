//! The poller: the worker that looks for requests in the windows of busy threads instead of waiting for notifications.
//!
//! It takes a CPU for itself, so there is one at most, only while requests follow each other closely, and not where somebody
//! else wants the CPU: it rests when it loses it, or when requests wait for it in vain.
//!
//! Neighbours: `fast` says who is polled for; `seats` sends a standby here; `sandbox` has workers call [`Sandbox::poll`].

use crate::arena::Mailbox;
use crate::fast::cycles;
use crate::sandbox::Sandbox;
use crate::sys;
use crate::task::Task;
use chitin_platform::Event;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// All in cycles. Without a request for so long it stops.
const IDLE: u64 = 500_000;
/// It may be in the way of the thread that it polls for, and goes to another CPU.
const MOVE: u64 = 250_000;
/// A pause of its own that says it was not running.
const LOST: u64 = 250_000;
/// So few requests were not worth the beginning.
const FEW: u64 = 200;
/// How often it asks itself whether it is worth while.
const PERIOD: u64 = 12_500_000;

#[derive(Default)]
struct Poller {
    threads: Vec<(Arc<Task>, Mailbox)>,
    /// The state of the list of hot threads that `threads` is from.
    changes: u64,
    /// Whose request it took last.
    last: Option<Arc<Task>>,
    /// Requests so far.
    served: u64,
    /// Cycles of this period that it was not running.
    lost: u64,
    /// When this period began, and what had been served and missed by then.
    start: u64,
    served_then: u64,
    missed_then: u64,
}

thread_local! {
    /// What this thread polls, if it does.
    static POLLER: RefCell<Option<Poller>> = const { RefCell::new(None) };
}

impl Sandbox {
    /// This worker, which has been called to, polls from now on.
    pub fn start_polling(&self) {
        sys::set_goes_on(true);
        self.leave_cpu(self.fast.busy_cpu.load(Ordering::Relaxed));
        let missed_then = self.fast.missed.load(Ordering::Relaxed);
        POLLER.set(Some(Poller { changes: u64::MAX, start: cycles(), missed_then, ..Poller::default() }));
    }

    /// Runs anywhere but on this CPU, where the host has put it beside the thread that it is for.
    fn leave_cpu(&self, cpu: usize) {
        let mut elsewhere = self.cpus.clone();
        if let Some(byte) = elsewhere.get_mut(cpu / 8) {
            *byte &= !(1 << (cpu % 8));
        }
        let _stays = sys::set_affinity(0, &elsewhere);
    }

    /// The next request, if this worker polls and one comes soon.
    pub fn poll(&self) -> Option<Event> {
        POLLER.with_borrow_mut(|slot| {
            let poller = slot.as_mut()?;
            let event = poller.next(self);
            if event.is_none() {
                *slot = None;
                self.fast.cool();
                sys::set_goes_on(false);
                let _anywhere = sys::set_affinity(0, &self.cpus);
            }
            event
        })
    }
}

impl Poller {
    fn next(&mut self, sb: &Sandbox) -> Option<Event> {
        if let Some(task) = self.last.take() {
            task.defer_request();
        }
        let begin = cycles();
        let mut before = begin;
        let mut moved = false;
        loop {
            let changes = sb.fast.changes.load(Ordering::Acquire);
            if changes != self.changes {
                self.threads = sb.fast.hot();
                self.changes = changes;
            }
            for (task, mailbox) in &self.threads {
                if let Some(event) = task.take_request(mailbox) {
                    self.served += 1;
                    self.last = Some(task.clone());
                    return Some(event);
                }
            }
            let now = cycles();
            if now.wrapping_sub(before) > LOST {
                self.lost += now.wrapping_sub(before);
            }
            before = now;
            if now.wrapping_sub(begin) > MOVE && !std::mem::replace(&mut moved, true) {
                sb.leave_cpu(sys::current_cpu().unwrap_or(usize::MAX));
            }
            if now.wrapping_sub(begin) > IDLE || sb.closing.load(Ordering::Relaxed) {
                if self.served < FEW {
                    sb.fast.tire();
                } else {
                    sb.fast.refresh();
                }
                return None;
            }
            if now.wrapping_sub(self.start) > PERIOD && !self.worth_while(sb, now) {
                return None;
            }
            std::hint::spin_loop();
        }
    }

    /// Whether it goes on for another period.
    fn worth_while(&mut self, sb: &Sandbox, now: u64) -> bool {
        let missed = sb.fast.missed.load(Ordering::Relaxed);
        let served = self.served.wrapping_sub(self.served_then);
        let in_vain = missed.wrapping_sub(self.missed_then) > served / 8;
        let unwanted = self.lost > now.wrapping_sub(self.start) / 4;
        tracing::trace!(served, lost = self.lost, in_vain, "polled");
        if in_vain || unwanted || sb.fast.is_crowded(now) {
            sb.fast.tire();
            return false;
        }
        if served > FEW {
            sb.fast.refresh();
        }
        (self.start, self.lost, self.served_then, self.missed_then) = (now, 0, self.served, missed);
        true
    }
}
