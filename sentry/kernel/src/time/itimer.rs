//! setitimer(2), getitimer(2), alarm(2).

use super::alarm::{Alarm, AlarmClock, OnExpiry, Setting};
use super::cpu::{CpuClock, CpuKind};
use super::timers::Base;
use crate::{Process, signal};
use chitin_abi::Errno;
use chitin_abi::signal::{SIGALRM, SIGPROF, SIGVTALRM, SigInfo};
use chitin_abi::time::*;
use std::sync::{Arc, Weak};

const SECOND: u64 = NSEC_PER_SEC as u64;

/// Nanoseconds of a valid `struct timeval`.
fn from_timeval(time: &Timeval) -> Result<u64, Errno> {
    if time.tv_sec < 0 || !(0..USEC_PER_SEC).contains(&time.tv_usec) {
        return Err(Errno::EINVAL);
    }
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    let micros = u64::try_from(time.tv_usec).map_err(|_| Errno::EINVAL)?;
    Ok(seconds.saturating_mul(SECOND).saturating_add(micros.saturating_mul(1000)).min(i64::MAX as u64))
}

/// What is left never shows as 0 while the timer is armed.
fn to_timeval(ns: u64) -> Timeval {
    let ns = if ns == 0 { 0 } else { ns.max(1000) };
    let seconds = i64::try_from(ns / SECOND).unwrap_or(i64::MAX);
    Timeval { tv_sec: seconds, tv_usec: (ns % SECOND / 1000).cast_signed() }
}

fn to_itimerval(setting: Setting) -> Itimerval {
    Itimerval { it_interval: to_timeval(setting.interval), it_value: to_timeval(setting.left) }
}

fn make(process: &Arc<Process>, which: u32) -> Result<Arc<Alarm>, Errno> {
    let kernel = process.kernel().ok_or(Errno::ESRCH)?;
    let me: Weak<Process> = Arc::downgrade(process);
    let (clock, sig) = match which {
        ITIMER_REAL => (AlarmClock::Base(Base::Monotonic), SIGALRM),
        ITIMER_VIRTUAL => (AlarmClock::Cpu(CpuClock::Process(me.clone(), CpuKind::User)), SIGVTALRM),
        _ => (AlarmClock::Cpu(CpuClock::Process(me.clone(), CpuKind::All)), SIGPROF),
    };
    let on_expiry: OnExpiry = Box::new(move |_| {
        if let Some(process) = me.upgrade() {
            signal::send_to_process(&process, SigInfo::kernel(sig));
        }
    });
    Ok(Alarm::new(kernel.reactor.timers(), clock, Some(on_expiry)))
}

/// The timer of a process; made at its first use.
fn get_or_make(process: &Arc<Process>, which: u32) -> Result<Arc<Alarm>, Errno> {
    let mut slots = process.timers.itimers.lock();
    let slot = slots.get_mut(which as usize).ok_or(Errno::EINVAL)?;
    match slot {
        Some(alarm) => Ok(alarm.clone()),
        None => {
            let alarm = make(process, which)?;
            *slot = Some(alarm.clone());
            Ok(alarm)
        }
    }
}

/// setitimer(2): the setting before.
pub fn setitimer(process: &Arc<Process>, which: u32, new: &Itimerval) -> Result<Itimerval, Errno> {
    if which > ITIMER_PROF {
        return Err(Errno::EINVAL);
    }
    let value = from_timeval(&new.it_value)?;
    let interval = from_timeval(&new.it_interval)?;
    let alarm = get_or_make(process, which)?;
    // With no value, the interval does not stay either.
    let interval = if value == 0 { 0 } else { interval };
    Ok(to_itimerval(alarm.set_after(value, interval)))
}

/// getitimer(2).
pub fn getitimer(process: &Process, which: u32) -> Result<Itimerval, Errno> {
    let slots = process.timers.itimers.lock();
    let slot = slots.get(which as usize).ok_or(Errno::EINVAL)?.clone();
    drop(slots);
    Ok(slot.map_or_else(Itimerval::default, |alarm| to_itimerval(alarm.get())))
}

/// alarm(2): the seconds that were left, rounded as Linux does.
pub fn alarm(process: &Arc<Process>, seconds: u32) -> Result<u64, Errno> {
    let after = u64::from(seconds).saturating_mul(SECOND);
    let old = to_itimerval(get_or_make(process, ITIMER_REAL)?.set_after(after, 0)).it_value;
    let rounds_up = (old.tv_sec == 0 && old.tv_usec != 0) || old.tv_usec >= USEC_PER_SEC / 2;
    Ok(u64::try_from(old.tv_sec).unwrap_or(0).saturating_add(u64::from(rounds_up)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(from_timeval(&Timeval { tv_sec: 1, tv_usec: 2 }), Ok(1_000_002_000));
        for (tv_sec, tv_usec) in [(-1, 0), (0, -1), (0, 1_000_000), (i64::MIN, 0)] {
            assert_eq!(from_timeval(&Timeval { tv_sec, tv_usec }), Err(Errno::EINVAL));
        }
        assert_eq!(from_timeval(&Timeval { tv_sec: i64::MAX, tv_usec: 0 }), Ok(i64::MAX as u64));
        assert_eq!(to_timeval(1), Timeval { tv_sec: 0, tv_usec: 1 });
        assert_eq!(to_timeval(0), Timeval::default());
        assert_eq!(to_timeval(3_000_005_999), Timeval { tv_sec: 3, tv_usec: 5 });
    }
}
