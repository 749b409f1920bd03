//! Who waits for notifications: as few workers as do the job.
//!
//! The host wakes *every* thread that waits in SECCOMP_IOCTL_NOTIF_RECV for each notification, on the notifying CPU; all
//! but one find nothing and have cost two context switches. So one worker sits at each line, receives, handles and sits down
//! again, at the same line if it can, while the others stand by in a futex. `watcher` calls a standby when the sitting worker
//! is held up in a handler. Seats are added while the receivers are busy all the time: now and then each compares its
//! CPU time with the clock. (A queue of notifications says little: the host may run a guest before the thread that answered
//! it, so that its next call waits already.)
//!
//! Neighbours: `line` (has the seats), `sandbox` (its workers sit here), `watcher`.
//!
//! Lock: `standing` is a leaf. `word` and `watched` are sequentially consistent: a worker that leaves its seat sees that
//! nobody watches, or the watcher that goes to sleep sees that a seat was left.

use crate::line::Line;
use crate::sys;
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// One in so many turns looks how busy its worker is.
const LOOK: u64 = 1024;
/// Percent of its time that make another seat, and below which one is taken away.
const BUSY: u64 = 85;
const CALM: u64 = 45;

thread_local! {
    /// CPU time and clock of this worker's last look.
    static LAST: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// The line it sat at last.
    static HOME: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The count of taken seats is in the low bits, the number of times one was left above.
const LEFT: u64 = 1 << 16;

/// The seats of one line.
pub struct Seats {
    word: AtomicU64,
    wanted: AtomicUsize,
    most: usize,
    /// Where a worker left one last.
    cpu: AtomicUsize,
}

impl Default for Seats {
    fn default() -> Self {
        Seats {
            word: AtomicU64::new(0),
            wanted: AtomicUsize::new(1),
            most: std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8),
            cpu: AtomicUsize::new(usize::MAX),
        }
    }
}

/// What a worker is to do.
pub enum Place<'a> {
    Seat(&'a Arc<Line>),
    Poller,
}

/// What the watcher compares: equal if nobody sat down or got up meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(u64);

impl Seen {
    pub fn all_free(self) -> bool {
        self.0 % LEFT == 0
    }
}

impl Seats {
    pub fn seen(&self) -> Seen {
        Seen(self.word.load(Ordering::SeqCst))
    }

    /// Where a worker left one last, if that is known.
    pub fn cpu(&self) -> Option<usize> {
        Some(self.cpu.load(Ordering::Relaxed)).filter(|c| *c < 1 << 16)
    }

    /// The number of the turn, if there is a seat.
    fn try_sit(&self) -> Option<u64> {
        let mut word = self.word.load(Ordering::SeqCst);
        while (word % LEFT) < self.wanted.load(Ordering::Relaxed) as u64 {
            match self.word.compare_exchange_weak(word, word + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(word / LEFT),
                Err(now) => word = now,
            }
        }
        None
    }

    /// Whether there is to be one more seat.
    fn look(&self) -> bool {
        let now = (sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID), sys::clock_ns(libc::CLOCK_MONOTONIC));
        let last = LAST.replace(now);
        let (cpu, wall) = (now.0.saturating_sub(last.0), now.1.saturating_sub(last.1));
        if last.1 == 0 || wall == 0 {
            return false;
        }
        let (busy, wanted) = (cpu.saturating_mul(100) / wall, self.wanted.load(Ordering::Relaxed));
        if busy >= BUSY && wanted < self.most {
            self.wanted.store(wanted + 1, Ordering::Relaxed);
            return true;
        }
        if busy < CALM && wanted > 1 {
            self.wanted.store(wanted - 1, Ordering::Relaxed);
        }
        false
    }
}

/// The workers without a seat, and how the watcher is woken.
#[derive(Default)]
pub struct Standbys {
    watched: AtomicBool,
    /// Workers that have come so far.
    came: AtomicUsize,
    standing: Mutex<Standing>,
    standby: Condvar,
    watcher: Condvar,
    /// Asks for one more worker.
    more: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct Standing {
    /// How many stand by.
    count: usize,
    /// The lines that want one of them: a bit each.
    called: u32,
    /// One of them is to poll.
    poller: bool,
}

impl Standing {
    fn take_call(&mut self) -> Option<usize> {
        let line = self.called.trailing_zeros();
        self.called &= self.called.wrapping_sub(1);
        (line < u32::BITS).then_some(line as usize)
    }
}

impl Standbys {
    /// Waits for a free seat: where this thread sat before, or where it is called to. (One that took any would find those
    /// free whose workers are just handling something, and drive them from line to line.) The watcher never sleeps while all
    /// of a line are free, so a missed call is made up for.
    pub fn sit<'a>(&self, lines: &'a [Arc<Line>]) -> Place<'a> {
        let home =
            HOME.get().unwrap_or_else(|| self.came.fetch_add(1, Ordering::Relaxed) % lines.len().max(1));
        let try_sit = |at: usize| lines.get(at).and_then(|l| Some((at, l, l.seats.try_sit()?)));
        let (at, line, turn) = match try_sit(home) {
            Some(found) => found,
            None => {
                let (mut at, mut standing) = (home, self.standing.lock());
                loop {
                    if std::mem::take(&mut standing.poller) {
                        return Place::Poller;
                    }
                    at = standing.take_call().unwrap_or(at);
                    if let Some(found) = try_sit(at) {
                        break found;
                    }
                    standing.count += 1;
                    self.standby.wait(&mut standing);
                    standing.count = standing.count.saturating_sub(1);
                }
            }
        };
        HOME.set(Some(at));
        if turn % LOOK == LOOK - 1 && line.seats.most > 1 && line.seats.look() {
            self.call(at);
        }
        Place::Seat(line)
    }

    pub fn leave(&self, line: &Line) {
        line.seats.cpu.store(sys::current_cpu().unwrap_or(usize::MAX), Ordering::Relaxed);
        line.seats.word.fetch_add(LEFT - 1, Ordering::SeqCst);
        self.watch();
    }

    /// There is something to look at.
    pub fn watch(&self) {
        if !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst) {
            let standing = self.standing.lock();
            self.watcher.notify_one();
            drop(standing);
        }
    }

    /// Wakes the watcher for good.
    pub fn close(&self) {
        self.watched.store(true, Ordering::SeqCst);
        let standing = self.standing.lock();
        self.watcher.notify_all();
        drop(standing);
    }

    /// Has a standby go to the line of this number; answers whether there is one.
    pub fn call(&self, line: usize) -> bool {
        let mut standing = self.standing.lock();
        standing.called |= 1u32.checked_shl(line as u32).unwrap_or(0);
        self.standby.notify_one();
        standing.count > 0
    }

    /// Has a standby poll, if there is one.
    pub fn call_poller(&self) -> bool {
        let mut standing = self.standing.lock();
        standing.poller = standing.count > 0;
        self.standby.notify_one();
        standing.poller
    }

    /// What to do when all workers are held up.
    pub fn on_starved(&self, more: Box<dyn Fn() + Send + Sync>) {
        let _once = self.more.set(more);
    }

    /// Has the kernel start one more worker.
    pub fn ask_for_more(&self) {
        if let Some(more) = self.more.get() {
            more();
        }
    }

    /// For the watcher: sleeps until a seat is left.
    pub fn wait_for_work(&self) {
        let mut standing = self.standing.lock();
        while !self.watched.load(Ordering::SeqCst) {
            self.watcher.wait(&mut standing);
        }
    }

    /// For the watcher, before it sleeps: `quiet` says, afterwards, whether it may.
    pub fn stop_watching(&self, quiet: impl Fn() -> bool) {
        self.watched.store(false, Ordering::SeqCst);
        if !quiet() {
            self.watched.store(true, Ordering::SeqCst);
        }
    }
}
