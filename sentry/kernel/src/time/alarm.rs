//! A timer that goes off once or again and again, on any clock: what interval timers and POSIX timers are made of.
//!
//! CPU clocks cannot call back: while one of their alarms is armed, the time used is looked at when it could at the
//! earliest be reached, more seldom as long as it stands still.
//!
//! Lock: `state`, a leaf but for the timers' own.

use super::cpu::CpuClock;
use super::timers::{Base, Deadline, Expire, Timer, Timers};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// No alarm goes off more often than this: shorter intervals are counted as overruns, so that a guest cannot keep the
/// reactor busy.
const MIN_INTERVAL_NS: u64 = 100_000;

/// The resolution of CPU time alarms (a tick), and the longest pause between two looks at an idle clock.
const CPU_CHECK_NS: u64 = 4_000_000;
const CPU_CHECK_MAX_NS: u64 = 50_000_000;

/// The clock of an alarm.
#[derive(Clone)]
pub enum AlarmClock {
    Base(Base),
    Cpu(CpuClock),
}

impl AlarmClock {
    pub fn now(&self) -> Option<u64> {
        match self {
            AlarmClock::Base(base) => Some(base.now()),
            AlarmClock::Cpu(clock) => clock.now(),
        }
    }
}

/// What is left, and the interval; both in nanoseconds. 0 left: not armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    pub left: u64,
    pub interval: u64,
}

#[derive(Default)]
struct State {
    /// On the alarm's clock; `None`: not armed.
    deadline: Option<u64>,
    interval: u64,
    /// On CLOCK_MONOTONIC instead of the alarm's clock.
    steady: bool,
    /// For CPU clocks: what the last look showed, and the pause since.
    seen: u64,
    pause: u64,
}

/// What runs when it goes off, with the number of expirations since the last time (at least 1).
pub type OnExpiry = Box<dyn Fn(u64) + Send + Sync>;

pub struct Alarm {
    clock: AlarmClock,
    state: Mutex<State>,
    timer: Timer,
    /// `None`: nobody is told (SIGEV_NONE).
    on_expiry: Option<OnExpiry>,
}

impl Alarm {
    pub fn new(timers: &Arc<Timers>, clock: AlarmClock, on_expiry: Option<OnExpiry>) -> Arc<Alarm> {
        Arc::new_cyclic(|me: &Weak<Alarm>| {
            let target: Weak<dyn Expire> = me.clone();
            Alarm { clock, state: Mutex::default(), timer: Timer::new(timers, target), on_expiry }
        })
    }

    pub fn clock(&self) -> &AlarmClock {
        &self.clock
    }

    /// Sets it to go off at `deadline` on its clock (`None`: disarms); answers the setting before.
    pub fn set(&self, deadline: Option<u64>, interval: u64) -> Setting {
        self.replace(deadline, interval, false)
    }

    /// As [`Alarm::set`], relative to now. On the real-time clock it then does not follow steps.
    pub fn set_after(&self, after: u64, interval: u64) -> Setting {
        let steady = matches!(self.clock, AlarmClock::Base(Base::Realtime));
        let now = if steady { Some(Base::Monotonic.now()) } else { self.clock.now() };
        let deadline = (after != 0).then(|| now.unwrap_or(0).saturating_add(after));
        self.replace(deadline, interval, steady)
    }

    fn replace(&self, deadline: Option<u64>, interval: u64, steady: bool) -> Setting {
        let mut state = self.state.lock();
        let old = self.setting(&mut state);
        *state = State { deadline, interval, steady, seen: 0, pause: 0 };
        self.schedule(&mut state);
        old
    }

    /// The clock that the present setting is on.
    fn clock_of(&self, state: &State) -> AlarmClock {
        if state.steady { AlarmClock::Base(Base::Monotonic) } else { self.clock.clone() }
    }

    pub fn get(&self) -> Setting {
        self.setting(&mut self.state.lock())
    }

    /// What is left; an interval's periods that passed unnoticed are skipped first.
    fn setting(&self, state: &mut State) -> Setting {
        let interval = state.interval;
        let Some(deadline) = state.deadline else { return Setting { left: 0, interval } };
        let now = self.clock_of(state).now().unwrap_or(0);
        let left = match deadline.checked_sub(now) {
            Some(left) if left > 0 => left,
            // Due, not yet served: the time to the expiry after; one that comes only once is just about to.
            _ => match (now - deadline.min(now)).checked_rem(interval) {
                Some(into) => interval - into,
                None if self.on_expiry.is_none() => 0,
                None => 1,
            },
        };
        Setting { left, interval }
    }

    fn schedule(&self, state: &mut State) {
        let Some(deadline) = state.deadline else { return self.timer.disarm() };
        if self.on_expiry.is_none() {
            return;
        }
        match &self.clock_of(state) {
            AlarmClock::Base(base) => self.timer.arm(Deadline { base: *base, ns: deadline }),
            AlarmClock::Cpu(clock) => {
                let Some(now) = clock.now() else { return self.timer.disarm() };
                let idle = state.pause != 0 && now == state.seen;
                state.pause =
                    if idle { state.pause.saturating_mul(2).min(CPU_CHECK_MAX_NS) } else { CPU_CHECK_NS };
                state.seen = now;
                let earliest = deadline.saturating_sub(now) / clock.width();
                self.timer.arm(Deadline::after(earliest.max(state.pause)));
            }
        }
    }
}

impl Expire for Alarm {
    fn expired(self: Arc<Self>) {
        let count = {
            let mut state = self.state.lock();
            let Some(deadline) = state.deadline else { return };
            let clock = self.clock_of(&state);
            let Some(now) = clock.now() else {
                state.deadline = None;
                return;
            };
            let Some(late) = now.checked_sub(deadline) else {
                // Set anew since, or a CPU clock that is not there yet.
                return self.schedule(&mut state);
            };
            match late.checked_div(state.interval) {
                None => {
                    state.deadline = None;
                    1
                }
                Some(missed) => {
                    let count = missed.saturating_add(1);
                    let next = deadline.saturating_add(state.interval.saturating_mul(count));
                    state.deadline = Some(next);
                    self.schedule(&mut state);
                    if state.interval < MIN_INTERVAL_NS
                        && let AlarmClock::Base(base) = &clock
                    {
                        let ns = now.saturating_add(MIN_INTERVAL_NS);
                        self.timer.arm(Deadline { base: *base, ns });
                    }
                    count
                }
            }
        };
        if let Some(on_expiry) = &self.on_expiry {
            on_expiry(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn alarm() -> (Arc<Timers>, Arc<Alarm>, Arc<AtomicU64>) {
        let timers = Timers::new(Box::new(|| {}));
        let count = Arc::new(AtomicU64::new(0));
        let seen = count.clone();
        let on_expiry: OnExpiry = Box::new(move |n| {
            seen.fetch_add(n, Ordering::SeqCst);
        });
        let alarm = Alarm::new(&timers, AlarmClock::Base(Base::Monotonic), Some(on_expiry));
        (timers, alarm, count)
    }

    #[test]
    fn goes_off_once() {
        let (timers, alarm, count) = alarm();
        assert_eq!(alarm.set_after(1_000_000, 0), Setting::default());
        let Setting { left, interval } = alarm.get();
        assert!(left > 0 && left <= 1_000_000 && interval == 0);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(alarm.get(), Setting { left: 1, interval: 0 });
        timers.expire();
        timers.expire();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(alarm.get(), Setting::default());
    }

    #[test]
    fn counts_missed_periods() {
        let (timers, alarm, count) = alarm();
        let start = Base::Monotonic.now();
        alarm.set(Some(start), 1_000_000_000_000);
        timers.expire();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let left = alarm.get().left;
        assert!(left > 900_000_000_000 && left <= 1_000_000_000_000);
        // A period of a nanosecond: all are counted, and the next call comes later.
        alarm.set(Some(start), 1);
        timers.expire();
        let first = count.load(Ordering::SeqCst);
        assert!(first > 1000);
        timers.expire();
        assert_eq!(count.load(Ordering::SeqCst), first);
        std::thread::sleep(std::time::Duration::from_millis(1));
        timers.expire();
        assert!(count.load(Ordering::SeqCst) > first + 100_000);
        let old = alarm.set(None, 0);
        assert_eq!(old, Setting { left: 1, interval: 1 });
        assert_eq!(timers.pending(), 0);
    }

    #[test]
    fn far_future_and_drop() {
        let (timers, alarm, _) = alarm();
        alarm.set_after(u64::MAX, u64::MAX);
        assert!(alarm.get().left > 1 << 62);
        timers.expire();
        drop(alarm);
        assert_eq!(timers.pending(), 0);
    }
}
