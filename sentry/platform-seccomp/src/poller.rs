//! The poller: the worker that looks for requests in the windows of busy threads instead of waiting for notifications.
//!
//! It takes a CPU for itself, so there is one at most, only while requests follow each other closely, and not where somebody
//! else wants the CPU: it rests when it loses it, or when requests wait for it in vain. The threads that it polls for stay on
//! the others. Where they would have used its CPU, too, they must make clearly more calls in all than they did without it.
//!
//! Neighbours: `fast` says who is polled for; `seats` sends a standby here; `sandbox` has workers call [`Sandbox::poll`].

use crate::fast::{PERIOD, Pace, cycles};
use crate::parcel;
use crate::sandbox::Sandbox;
use crate::sites::Seen;
use crate::sys;
use crate::task::Task;
use chitin_platform::{Event, later, set_goes_on};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// All in cycles. Without a request for so long it stops.
const IDLE: u64 = 500_000;
/// A pause of its own that says it was not running.
const LOST: u64 = 250_000;
/// How often it looks for requests before it looks for anything else.
const LOOKS: u32 = 32;
/// After so many requests the time is asked for in any case; and whether it goes on, after so many.
const SOME: u64 = 8;
const MANY: u64 = 64;
/// What has been put off waits for so long while calls follow each other, and until so long after the last one.
const PATIENCE: u64 = 200_000;
const SOON: u64 = 6_000;
/// So few requests were not worth the beginning.
const FEW: u64 = 200;

/// A thread that is polled for.
struct Client {
    task: Arc<Task>,
    /// Its process's call sites, as far as they are known here.
    sites: Vec<Seen>,
}

#[derive(Default)]
struct Poller {
    threads: Vec<Client>,
    /// The state of the list of hot threads that `threads` is from.
    changes: u64,
    /// The CPU that it has for itself, as far as the threads that it polls for go.
    home: Option<usize>,
    /// Whose request it took last, which of `threads`, and the call's site.
    last: Option<(usize, u8)>,
    /// The time, some requests ago at most.
    now: u64,
    /// When it was first seen that something has been put off; 0: nothing has.
    behind: u64,
    /// Requests so far.
    served: u64,
    /// Cycles of this period that it was not running.
    lost: u64,
    /// When this period began, and what had been served, missed and notified by then.
    start: u64,
    served_then: u64,
    missed_then: u64,
    notified_then: u64,
}

thread_local! {
    /// What this thread polls, if it does.
    static POLLER: RefCell<Option<Poller>> = const { RefCell::new(None) };
}

impl Sandbox {
    /// This worker, which has been called to, polls from now on.
    pub fn start_polling(&self) {
        set_goes_on(true);
        later::set_puts_off(true);
        let home = self.leave_cpu(self.fast.busy_cpu.load(Ordering::Relaxed));
        let poller = Poller {
            home,
            changes: u64::MAX,
            start: cycles(),
            missed_then: self.fast.missed.load(Ordering::Relaxed),
            notified_then: self.fast.notified(),
            ..Poller::default()
        };
        POLLER.set(Some(poller));
    }

    /// Goes to another CPU than this one and stays there; answers which it is.
    fn leave_cpu(&self, cpu: usize) -> Option<usize> {
        let here = sys::keep_off(&self.cpus, cpu).then(sys::current_cpu).flatten()?;
        sys::set_affinity(0, &sys::only_cpu(here)).ok()?;
        Some(here)
    }

    /// The next request, if this worker polls and one comes soon.
    pub fn poll(&self) -> Option<Event> {
        POLLER.with_borrow_mut(|slot| {
            let poller = slot.as_mut()?;
            let event = poller.next(self);
            if event.is_none() {
                poller.threads.iter().for_each(|client| client.task.keep_off(None));
                *slot = None;
                self.fast.cool();
                set_goes_on(false);
                later::set_puts_off(false);
                later::catch_up();
                parcel::forget();
                let _anywhere = sys::set_affinity(0, &self.cpus);
            }
            event
        })
    }
}

impl Poller {
    fn next(&mut self, sb: &Sandbox) -> Option<Event> {
        if let Some((at, site)) = self.last.take()
            && let Some(client) = self.threads.get_mut(at)
        {
            if client.task.defer_request() {
                later::catch_up();
            }
            if let Some(seen) = client.sites.get_mut(usize::from(site)) {
                seen.wrote = client.task.wrote.load(Ordering::Relaxed);
            }
        }
        if self.served.is_multiple_of(SOME) {
            self.now = cycles();
            if self.served.is_multiple_of(MANY) && self.is_over(sb, self.now) {
                return None;
            }
        }
        self.look_behind(sb);
        // As a rule the next one is there before anybody asks for the time.
        let mut begin = 0;
        let mut before = 0;
        loop {
            let changes = sb.fast.changes.load(Ordering::Acquire);
            if changes != self.changes {
                self.change_to(sb.fast.hot());
                self.changes = changes;
            }
            for _ in 0..LOOKS {
                for (at, Client { task, sites }) in self.threads.iter_mut().enumerate() {
                    if let Some((site, event)) = task.take_request(sites, self.now) {
                        self.served += 1;
                        // Nobody else counts meanwhile.
                        let taken = sb.fast.taken.load(Ordering::Relaxed);
                        sb.fast.taken.store(taken.wrapping_add(1), Ordering::Relaxed);
                        self.last = Some((at, site));
                        return Some(event);
                    }
                }
                std::hint::spin_loop();
            }
            let now = cycles();
            if begin == 0 {
                (begin, before) = (now, now);
            }
            if now.wrapping_sub(before) > LOST {
                self.lost += now.wrapping_sub(before);
            }
            (before, self.now) = (now, now);
            if now.wrapping_sub(begin) > SOON {
                self.catch_up();
            }
            if now.wrapping_sub(begin) > IDLE || sb.closing.load(Ordering::Relaxed) {
                if self.served < FEW {
                    sb.fast.tire();
                } else {
                    sb.fast.refresh();
                }
                return None;
            }
            if self.is_over(sb, now) {
                return None;
            }
        }
    }

    /// Something may have been put off.
    fn look_behind(&mut self, sb: &Sandbox) {
        if later::behind().is_none() {
            self.behind = 0;
        } else if self.behind == 0 {
            self.behind = self.now;
            // Should the next request take long.
            sb.standbys.watch();
        } else if self.now.wrapping_sub(self.behind) > PATIENCE {
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        self.behind = 0;
        later::catch_up();
    }

    /// From now on it polls for these threads.
    fn change_to(&mut self, tasks: Vec<Arc<Task>>) {
        let before = std::mem::take(&mut self.threads);
        let gone = |client: &&Client| !tasks.iter().any(|task| Arc::ptr_eq(task, &client.task));
        before.iter().filter(gone).for_each(|client| client.task.keep_off(None));
        tasks.iter().for_each(|task| task.keep_off(self.home));
        self.threads = tasks.into_iter().map(|task| Client { task, sites: Vec::new() }).collect();
    }

    fn is_over(&mut self, sb: &Sandbox, now: u64) -> bool {
        now.wrapping_sub(self.start) > PERIOD && !self.worth_while(sb, now)
    }

    /// Whether it goes on for another period.
    fn worth_while(&mut self, sb: &Sandbox, now: u64) -> bool {
        let missed = sb.fast.missed.load(Ordering::Relaxed);
        let served = self.served.wrapping_sub(self.served_then);
        let in_vain = missed.wrapping_sub(self.missed_then) > served / 8;
        let period = now.wrapping_sub(self.start);
        let unwanted = self.lost > period / 4;
        let notified = sb.fast.notified();
        let pace = Pace::new(served + notified.wrapping_sub(self.notified_then), period);
        let crowded = sb.fast.is_crowded(now);
        let before = sb.fast.pace(now);
        let dear = crowded && before.is_some_and(|before| !pace.clearly_exceeds(before));
        tracing::trace!(served, lost = self.lost, in_vain, dear, "polled");
        if in_vain || unwanted || dear {
            sb.fast.tire();
            return false;
        }
        if crowded && before.is_none() {
            sb.fast.measure();
            return false;
        }
        if served > FEW {
            sb.fast.refresh();
        }
        (self.start, self.lost, self.served_then) = (now, 0, self.served);
        (self.missed_then, self.notified_then) = (missed, notified);
        true
    }
}
