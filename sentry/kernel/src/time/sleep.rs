//! nanosleep(2), clock_nanosleep(2).

use super::clock::{Clock, from_timespec, to_timespec};
use super::cpu::CpuClock;
use super::timers::{Base, Deadline};
use crate::Task;
use crate::result::{Blocking, Outcome, Restart, SysError};
use chitin_abi::Errno;
use chitin_abi::time::*;
use std::sync::Arc;

/// How often a CPU clock is looked at while somebody sleeps on it, at most.
const CPU_CHECK_NS: u64 = 4_000_000;

/// clock_nanosleep(2); nanosleep(2) with CLOCK_MONOTONIC. `rem`: where the rest is written, 0: nowhere.
pub fn clock_nanosleep(task: &Arc<Task>, clock: i32, flags: u32, request: &Timespec, rem: u64) -> Outcome {
    match start(task, clock, flags, request, rem) {
        Ok(outcome) => outcome,
        Err(errno) => Outcome::error(errno),
    }
}

fn start(task: &Arc<Task>, id: i32, flags: u32, request: &Timespec, rem: u64) -> Result<Outcome, Errno> {
    let clock = Clock::find(task, id)?;
    if matches!(clock, Clock::ReadOnly(_)) {
        return Err(Errno::EOPNOTSUPP);
    }
    // A thread cannot wait for its own CPU time to pass.
    if id == CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL);
    }
    let value = from_timespec(request)?;
    let absolute = flags & TIMER_ABSTIME != 0;
    let rem = if absolute { 0 } else { rem };
    let task = task.clone();
    Ok(match clock {
        Clock::Base(base) => {
            // A relative sleep on the real-time clock does not follow its steps.
            let base = if absolute || base != Base::Realtime { base } else { Base::Monotonic };
            let deadline = if absolute {
                task.moment(base, value)
            } else {
                Deadline { base, ns: base.now().saturating_add(value) }
            };
            Outcome::Block(sleep(task, deadline, absolute, rem))
        }
        Clock::Cpu(clock) => {
            if matches!(&clock, CpuClock::Thread(own, _) if own.as_ptr() == Arc::as_ptr(&task)) {
                return Err(Errno::EINVAL);
            }
            let ns = if absolute { value } else { clock.now().ok_or(Errno::EINVAL)?.saturating_add(value) };
            Outcome::Block(cpu_sleep(task, clock, ns, absolute, rem))
        }
        Clock::ReadOnly(_) => return Err(Errno::EOPNOTSUPP),
    })
}

fn sleep(task: Arc<Task>, deadline: Deadline, absolute: bool, rem: u64) -> Blocking {
    Box::pin(async move {
        let timers = task.kernel.reactor.timers().clone();
        match task.interruptible(timers.sleep_until(deadline)).await {
            Ok(()) => Outcome::value(0),
            Err(_) => interrupted(&task, deadline.left(), absolute, rem, |task| {
                sleep(task, deadline, absolute, rem)
            }),
        }
    })
}

fn cpu_sleep(task: Arc<Task>, clock: CpuClock, until: u64, absolute: bool, rem: u64) -> Blocking {
    Box::pin(async move {
        let timers = task.kernel.reactor.timers().clone();
        loop {
            // When the process is gone, the time never comes: as on Linux, the sleep goes on until a signal.
            let left = clock.now().map_or(u64::MAX, |now| until.saturating_sub(now));
            if left == 0 {
                return Outcome::value(0);
            }
            let deadline = match left {
                u64::MAX => Deadline::monotonic(u64::MAX),
                _ => Deadline::after((left / clock.width()).max(CPU_CHECK_NS)),
            };
            if task.interruptible(timers.sleep_until(deadline)).await.is_err() {
                return interrupted(&task, left, absolute, rem, |task| {
                    cpu_sleep(task, clock, until, absolute, rem)
                });
            }
        }
    })
}

/// Absolute sleeps start over; relative ones tell what is left and go on with it unless a handler runs.
fn interrupted(
    task: &Arc<Task>,
    left: u64,
    absolute: bool,
    rem: u64,
    again: impl FnOnce(Arc<Task>) -> Blocking,
) -> Outcome {
    if absolute {
        return Outcome::Done(Err(SysError::Restart(Restart::NoHand)));
    }
    if left == 0 {
        return Outcome::value(0);
    }
    if rem != 0
        && let Err(errno) = task.mm().write(rem, &to_timespec(left))
    {
        return Outcome::error(errno);
    }
    Outcome::Done(Err(SysError::Restart(Restart::Block(again(task.clone())))))
}
