//! Keeping who sends much off the CPU of whom it sends to.
//!
//! At the other end of a veth pair the host wakes the receiver in the course of the send, and on the sender's CPU if it likes: the
//! two then run one after the other beside an idle CPU, for tenths of a second, as each sleeps for so short that nothing is
//! moved. Who has been kept waiting in several of its last sends goes to another CPU.
//!
//! Neighbours: `device`; `clear` does the same for the link's own thread.

use chitin_platform_host::sys;
use std::cell::Cell;

/// So many of so many sends were held up.
const MANY: u32 = 6;
const OF: u32 = 32;
/// In nanoseconds: a pause that says that somebody else has run, and the time between two moves.
const PAUSE: u64 = 6_000;
const STAY: u64 = 1_000_000;

/// A thread's last sends.
#[derive(Clone, Copy)]
struct Last {
    sends: u32,
    held_up: u32,
    /// When it went elsewhere.
    moved: u64,
}

thread_local! {
    static LAST: Cell<Last> = const { Cell::new(Last { sends: 0, held_up: 0, moved: 0 }) };
}

/// Sends much by `send`.
pub fn sending<T>(send: impl FnOnce() -> T) -> T {
    let clocks = || (sys::clock_ns(libc::CLOCK_MONOTONIC), sys::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID));
    let before = clocks();
    let answer = send();
    let after = clocks();
    let ran = after.1.saturating_sub(before.1);
    let pause = after.0.saturating_sub(before.0).saturating_sub(ran);
    let mut last = LAST.get();
    last.sends += 1;
    last.held_up += u32::from(pause > PAUSE);
    if last.held_up >= MANY && after.0.saturating_sub(last.moved) > STAY {
        step_aside();
        last = Last { sends: 0, held_up: 0, moved: after.0 };
    } else if last.sends >= OF {
        last = Last { sends: 0, held_up: 0, ..last };
    }
    LAST.set(last);
    answer
}

/// Goes to another CPU, if there is one; it may come back.
fn step_aside() {
    let (Ok(all), Some(here)) = (sys::get_affinity(0), sys::current_cpu()) else { return };
    if sys::keep_off(&all, here) {
        let _as_before = sys::set_affinity(0, &all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_is_held_up_goes_elsewhere_and_may_come_back() {
        let all = sys::get_affinity(0).unwrap();
        if sys::count_cpus(&all) < 2 {
            return;
        }
        let sends = |n, pause| (0..n).for_each(|_| sending(|| std::thread::sleep(pause)));
        sends(MANY - 1, Duration::from_micros(100));
        assert_eq!((LAST.get().held_up, LAST.get().moved), (MANY - 1, 0));
        sends(1, Duration::from_micros(100));
        assert_ne!(LAST.get().moved, 0);
        assert_eq!(sys::get_affinity(0).unwrap(), all);
        // Not again so soon, and a few among many are none.
        let moved = LAST.get().moved;
        LAST.set(Last { moved: u64::MAX, ..LAST.get() });
        sends(MANY, Duration::from_micros(100));
        assert_eq!(LAST.get().moved, u64::MAX);
        LAST.set(Last { sends: OF - 1, held_up: MANY - 2, moved });
        sending(|| ());
        assert_eq!(LAST.get().held_up, 0);
    }
}
