//! timerfd_create(2): a timer as a file.
//!
//! As in Linux, a timer that went off is not set again until it is read: the missed periods are worked out then.
//!
//! Lock: `state`, a leaf but for the timers' own; not held while waking.

use crate::Task;
use crate::time::clock::{from_timespec, to_timespec};
use crate::time::ns::shifted;
use crate::time::{Base, Deadline, Expire, Timer, Timers};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_NONBLOCK, O_RDWR};
use chitin_abi::poll::POLLIN;
use chitin_abi::time::*;
use chitin_mm::Sink;
use chitin_vfs::{File, FileOps, PollTable, WaitQueue};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

#[derive(Default)]
struct State {
    /// The next expiry.
    deadline: Option<Deadline>,
    interval: u64,
    /// TFD_TIMER_ABSTIME and the like of the last settime.
    flags: u32,
    /// With TFD_TIMER_CANCEL_ON_SET: how often the clock had been set when it was last looked at.
    clock_sets: Option<u64>,
}

pub struct TimerFd {
    clock: i32,
    base: Base,
    state: Mutex<State>,
    timer: Timer,
    queue: WaitQueue,
}

impl TimerFd {
    /// EINVAL for a clock that timers cannot be on.
    pub fn new(timers: &Arc<Timers>, clock: i32) -> Result<Arc<TimerFd>, Errno> {
        let base = match clock {
            CLOCK_MONOTONIC => Base::Monotonic,
            CLOCK_REALTIME | CLOCK_REALTIME_ALARM => Base::Realtime,
            CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => Base::Boottime,
            _ => return Err(Errno::EINVAL),
        };
        Ok(Arc::new_cyclic(|me: &Weak<TimerFd>| {
            let target: Weak<dyn Expire> = me.clone();
            let timer = Timer::new(timers, target);
            TimerFd { clock, base, state: Mutex::default(), timer, queue: WaitQueue::new() }
        }))
    }

    /// timerfd_create(2): an open file. `task`'s capabilities decide about the alarm clocks.
    pub fn open(task: &Task, clock: i32, flags: u32) -> Result<Arc<File>, Errno> {
        if flags & !(TFD_CLOEXEC | TFD_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let ops = TimerFd::new(task.kernel.reactor.timers(), clock)?;
        let alarm = matches!(clock, CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM);
        if alarm && !task.creds().capable(chitin_abi::capability::CAP_WAKE_ALARM) {
            return Err(Errno::EPERM);
        }
        Ok(File::anon(ops, "[timerfd]", O_RDWR | (flags & O_NONBLOCK)))
    }

    pub fn base(&self) -> Base {
        self.base
    }

    /// timerfd_settime(2): the setting before. `offset`: of the caller's clock to the host's.
    pub fn settime(&self, flags: u32, new: &Itimerspec, offset: i64) -> Result<Itimerspec, Errno> {
        if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
            return Err(Errno::EINVAL);
        }
        let value = from_timespec(&new.it_value)?;
        let interval = from_timespec(&new.it_interval)?;
        let absolute = flags & TFD_TIMER_ABSTIME != 0;
        let cancel = absolute && flags & TFD_TIMER_CANCEL_ON_SET != 0 && self.base == Base::Realtime;
        // A relative timer does not follow steps of the real-time clock.
        let deadline = match (value, self.base) {
            (0, _) => None,
            (_, base) if absolute => Some(Deadline { base, ns: shifted(value, offset.saturating_neg()) }),
            (_, Base::Realtime) => Some(Deadline::after(value)),
            (_, base) => Some(Deadline { base, ns: base.now().saturating_add(value) }),
        };
        let old = {
            let mut state = self.state.lock();
            let old = self.setting(&state);
            let clock_sets = cancel.then(|| self.timer.timers().clock_sets());
            *state = State { deadline, interval, flags, clock_sets };
            self.arm(&state);
            old
        };
        Ok(old)
    }

    /// timerfd_gettime(2).
    pub fn gettime(&self) -> Itimerspec {
        self.setting(&self.state.lock())
    }

    fn setting(&self, state: &State) -> Itimerspec {
        let left = state.deadline.map_or(0, |deadline| {
            let now = deadline.base.now();
            match deadline.ns.checked_sub(now) {
                Some(left) if left > 0 => left,
                // Expired: the time to the next period; 0 for a timer that goes off once.
                _ => (now.saturating_sub(deadline.ns))
                    .checked_rem(state.interval)
                    .map_or(0, |into| state.interval - into),
            }
        });
        Itimerspec { it_interval: to_timespec(state.interval), it_value: to_timespec(left) }
    }

    fn arm(&self, state: &State) {
        match state.deadline {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.disarm(),
        }
    }

    /// Takes the expirations so far; ECANCELED once after each setting of the clock.
    fn take(&self) -> Result<u64, Errno> {
        let mut state = self.state.lock();
        if let Some(seen) = state.clock_sets {
            let sets = self.timer.timers().clock_sets();
            if sets != seen {
                state.clock_sets = Some(sets);
                return Err(Errno::ECANCELED);
            }
        }
        let count = self.expirations(&state);
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        state.deadline = match state.interval {
            0 => None,
            interval => state.deadline.map(|Deadline { base, ns }| {
                let ns = ns.saturating_add(interval.saturating_mul(count));
                Deadline { base, ns }
            }),
        };
        self.arm(&state);
        Ok(count)
    }

    fn expirations(&self, state: &State) -> u64 {
        let late = state.deadline.and_then(|deadline| deadline.base.now().checked_sub(deadline.ns));
        late.map_or(0, |late| late.checked_div(state.interval).unwrap_or(0).saturating_add(1))
    }

    /// For /proc/PID/fdinfo: clock id, ticks not yet read, flags of settime, the setting.
    pub fn info(&self) -> (i32, u64, u32, Itimerspec) {
        let state = self.state.lock();
        (self.clock, self.expirations(&state), state.flags, self.setting(&state))
    }
}

impl Expire for TimerFd {
    fn expired(self: Arc<Self>) {
        self.queue.wake(POLLIN);
    }
}

impl FileOps for TimerFd {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.room() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = self.take()?;
        // As on Linux the ticks are gone even if they cannot be stored.
        match dst.put(&count.to_ne_bytes())? {
            8 => Ok(8),
            _ => Err(Errno::EFAULT),
        }
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        let cancellable = self.state.lock().clock_sets.is_some();
        if let Some(table) = table {
            table.add(&self.queue);
            if cancellable {
                table.add(&self.timer.timers().clock_set_queue);
            }
        }
        let state = self.state.lock();
        let cancelled = state.clock_sets.is_some_and(|seen| seen != self.timer.timers().clock_sets());
        if cancelled || self.expirations(&state) > 0 { POLLIN } else { 0 }
    }
}

/// The timer behind a descriptor: EINVAL for other files.
pub fn of_file(file: &File) -> Result<&TimerFd, Errno> {
    file.downcast::<TimerFd>().ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &TimerFd) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        assert_eq!(file.read(0, &mut bytes.as_mut_slice())?, 8);
        Ok(u64::from_ne_bytes(bytes))
    }

    fn spec(value: u64, interval: u64) -> Itimerspec {
        Itimerspec { it_value: to_timespec(value), it_interval: to_timespec(interval) }
    }

    fn new(clock: i32) -> (Arc<Timers>, Arc<TimerFd>) {
        let timers = Timers::new(Box::new(|| {}));
        let file = TimerFd::new(&timers, clock).unwrap();
        (timers, file)
    }

    #[test]
    fn once() {
        let (timers, file) = new(CLOCK_MONOTONIC);
        assert_eq!(read(&file), Err(Errno::EAGAIN));
        assert_eq!(file.settime(0, &spec(1_000_000, 0), 0), Ok(Itimerspec::default()));
        assert_eq!((file.poll(None), timers.pending()), (0, 1));
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(file.poll(None), POLLIN);
        timers.expire();
        assert_eq!(file.gettime(), Itimerspec::default());
        assert_eq!((read(&file), read(&file)), (Ok(1), Err(Errno::EAGAIN)));
        assert_eq!(timers.pending(), 0);
    }

    #[test]
    fn periods_are_counted_at_the_read() {
        let (timers, file) = new(CLOCK_REALTIME);
        let start = Base::Realtime.now() - 10_500_000_000;
        file.settime(TFD_TIMER_ABSTIME, &spec(start, 1_000_000_000), 0).unwrap();
        timers.expire();
        assert_eq!(timers.pending(), 0);
        let left = from_timespec(&file.gettime().it_value).unwrap();
        assert!(left > 0 && left <= 1_000_000_000);
        assert_eq!(read(&file), Ok(11));
        assert_eq!((read(&file), timers.pending()), (Err(Errno::EAGAIN), 1));
        let old = file.settime(0, &spec(0, 5), 0).unwrap();
        assert_eq!(old.it_interval.tv_sec, 1);
        assert_eq!(timers.pending(), 0);
    }

    #[test]
    fn cancelled_when_the_clock_is_set() {
        let (timers, file) = new(CLOCK_REALTIME);
        let far = spec(Base::Realtime.now() + (1 << 50), 0);
        file.settime(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, 0).unwrap();
        assert_eq!(file.poll(None), 0);
        timers.clock_was_set();
        assert_eq!(file.poll(None), POLLIN);
        assert_eq!(read(&file), Err(Errno::ECANCELED));
        assert_eq!((read(&file), file.poll(None)), (Err(Errno::EAGAIN), 0));
        file.settime(TFD_TIMER_ABSTIME, &far, 0).unwrap();
        timers.clock_was_set();
        assert_eq!(read(&file), Err(Errno::EAGAIN));
    }

    #[test]
    fn arguments() {
        let (timers, file) = new(CLOCK_BOOTTIME);
        assert!(TimerFd::new(&timers, CLOCK_TAI).is_err());
        assert_eq!(file.settime(4, &spec(1, 1), 0), Err(Errno::EINVAL));
        let bad = Itimerspec { it_value: Timespec { tv_sec: 0, tv_nsec: -1 }, ..Itimerspec::default() };
        assert_eq!(file.settime(0, &bad, 0), Err(Errno::EINVAL));
        let mut short = [0; 7];
        assert_eq!(file.read(0, &mut short.as_mut_slice()), Err(Errno::EINVAL));
        // Periods without end do not overflow.
        file.settime(TFD_TIMER_ABSTIME, &spec(1, 1), 0).unwrap();
        assert!(read(&file).unwrap() > 1);
        file.settime(0, &spec(u64::MAX, u64::MAX), 0).unwrap();
        assert_eq!(read(&file), Err(Errno::EAGAIN));
    }
}
