//! Who waits for notifications: as few workers as do the job.
//!
//! The host wakes *every* thread that waits in SECCOMP_IOCTL_NOTIF_RECV for each notification, on the notifying CPU; all
//! but one find nothing and have cost two context switches. So one worker sits, receives, handles and sits down again,
//! while the others stand by in a futex. A watcher, which sleeps while nothing happens, calls a standby when the sitting
//! worker is held up in a handler; when none stands by for some ticks, it asks the kernel for one more. Seats are added while the receivers are busy all the time: now and then each compares its
//! CPU time with the clock. (A queue of notifications says little: the host may run a guest before the thread that answered
//! it, so that its next call waits already.)
//!
//! The watcher stays on the CPU of whoever left a seat last: waking every tick on an idle CPU beside it would slow down a
//! busy one that shares its core, and costs a virtual machine exits.
//!
//! Neighbours: `sandbox` (its workers sit here), `lib` (starts the watcher).
//!
//! Lock: `standing` is a leaf. `word` and `watched` are sequentially consistent: a worker that leaves its seat sees that
//! nobody watches, or the watcher that goes to sleep sees that a seat was left.

use crate::sandbox::Sandbox;
use crate::sys;
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a handler may keep the only seat empty.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without any notification until the watcher sleeps.
const QUIET: u32 = 4;
/// Ticks with nobody to call until there is to be one more worker.
const STARVED: u32 = 3;
/// One in so many turns looks how busy its worker is.
const LOOK: u64 = 1024;
/// Percent of its time that make another seat, and below which one is taken away.
const BUSY: u64 = 85;
const CALM: u64 = 45;

thread_local! {
    /// CPU time and clock of this worker's last look.
    static LAST: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// The count of taken seats is in the low bits, the number of times one was left above.
const LEFT: u64 = 1 << 16;

pub struct Seats {
    word: AtomicU64,
    wanted: AtomicUsize,
    most: usize,
    watched: AtomicBool,
    /// Where a worker left a seat last.
    cpu: AtomicUsize,
    /// How many stand by.
    standing: Mutex<usize>,
    standby: Condvar,
    watcher: Condvar,
    /// Asks for one more worker.
    more: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Default for Seats {
    fn default() -> Self {
        Seats {
            word: AtomicU64::new(0),
            wanted: AtomicUsize::new(1),
            most: std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8),
            watched: AtomicBool::new(false),
            cpu: AtomicUsize::new(usize::MAX),
            standing: Mutex::default(),
            standby: Condvar::new(),
            watcher: Condvar::new(),
            more: OnceLock::new(),
        }
    }
}

fn taken(word: u64) -> usize {
    (word % LEFT) as usize
}

impl Seats {
    /// The number of the turn, if there is a seat.
    fn try_sit(&self) -> Option<u64> {
        let mut word = self.word.load(Ordering::SeqCst);
        while taken(word) < self.wanted.load(Ordering::Relaxed) {
            match self.word.compare_exchange_weak(word, word + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(word / LEFT),
                Err(now) => word = now,
            }
        }
        None
    }

    /// Waits for a free seat. The watcher never sleeps while all are free, so a missed call is made up for.
    pub fn sit(&self) {
        let turn = self.try_sit().unwrap_or_else(|| {
            let mut standing = self.standing.lock();
            loop {
                match self.try_sit() {
                    Some(turn) => break turn,
                    None => {
                        *standing += 1;
                        self.standby.wait(&mut standing);
                        *standing = standing.saturating_sub(1);
                    }
                }
            }
        });
        if turn % LOOK == LOOK - 1 && self.most > 1 {
            self.look();
        }
    }

    fn look(&self) {
        let now = (sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID), sys::clock_ns(libc::CLOCK_MONOTONIC));
        let last = LAST.replace(now);
        let (cpu, wall) = (now.0.saturating_sub(last.0), now.1.saturating_sub(last.1));
        if last.1 == 0 || wall == 0 {
            return;
        }
        let (busy, wanted) = (cpu.saturating_mul(100) / wall, self.wanted.load(Ordering::Relaxed));
        if busy >= BUSY && wanted < self.most {
            self.wanted.store(wanted + 1, Ordering::Relaxed);
            self.call();
        } else if busy < CALM && wanted > 1 {
            self.wanted.store(wanted - 1, Ordering::Relaxed);
        }
    }

    pub fn leave(&self) {
        self.cpu.store(sys::current_cpu().unwrap_or(usize::MAX), Ordering::Relaxed);
        self.word.fetch_add(LEFT - 1, Ordering::SeqCst);
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

    /// Wakes a standby; answers whether there is one.
    fn call(&self) -> bool {
        let standing = self.standing.lock();
        self.standby.notify_one();
        *standing > 0
    }

    /// What to do when all workers are held up.
    pub fn on_starved(&self, more: Box<dyn Fn() + Send + Sync>) {
        let _once = self.more.set(more);
    }
}

/// The watcher's thread.
pub fn run(sb: &Arc<Sandbox>) {
    let seats = &sb.seats;
    let mut here = usize::MAX;
    while !sb.closing.load(Ordering::Relaxed) {
        {
            let mut standing = seats.standing.lock();
            while !seats.watched.load(Ordering::SeqCst) {
                seats.watcher.wait(&mut standing);
            }
        }
        let (mut quiet, mut starved) = (0, 0);
        while quiet < QUIET && !sb.closing.load(Ordering::Relaxed) {
            let cpu = seats.cpu.load(Ordering::Relaxed);
            if cpu != here && cpu < 1 << 16 {
                here = cpu;
                // Unless it may not run there any more.
                let _elsewhere = sys::set_affinity(0, &sys::only_cpu(cpu));
            }
            let before = seats.word.load(Ordering::SeqCst);
            std::thread::sleep(TICK);
            let now = seats.word.load(Ordering::SeqCst);
            // A seat that was taken meanwhile is only between two turns.
            let held_up = taken(now) == 0 && now == before;
            starved = if held_up && !seats.call() { starved + 1 } else { 0 };
            if starved >= STARVED {
                starved = 0;
                if let Some(more) = seats.more.get() {
                    more();
                }
            }
            quiet = if now == before && taken(now) > 0 { quiet + 1 } else { 0 };
        }
        let last = seats.word.load(Ordering::SeqCst);
        seats.watched.swap(false, Ordering::SeqCst);
        let now = seats.word.load(Ordering::SeqCst);
        if now != last || taken(now) == 0 {
            seats.watched.store(true, Ordering::SeqCst);
        }
    }
}
