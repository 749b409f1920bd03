//! Clock ids: reading them, their resolution, and CPU clocks of other processes and threads (`~pid << 3 | …`).

use super::cpu::{CpuClock, CpuKind};
use super::ns::shifted;
use super::timers::Base;
use crate::Task;
use chitin_abi::Errno;
use chitin_abi::time::*;
use std::sync::Arc;

const SECOND: u64 = NSEC_PER_SEC as u64;

/// Nanoseconds of a valid time or length of time; EINVAL otherwise. What does not fit is as good as for ever.
pub fn from_timespec(time: &Timespec) -> Result<u64, Errno> {
    if !time.is_valid() {
        return Err(Errno::EINVAL);
    }
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    let rest = u64::try_from(time.tv_nsec).map_err(|_| Errno::EINVAL)?;
    // As KTIME_MAX bounds Linux's.
    Ok(seconds.saturating_mul(SECOND).saturating_add(rest).min(i64::MAX as u64))
}

/// Nanoseconds as the guest reads them.
pub fn to_timespec(ns: u64) -> Timespec {
    let seconds = i64::try_from(ns / SECOND).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: (ns % SECOND).cast_signed() }
}

/// A clock that a guest named.
#[derive(Clone)]
pub enum Clock {
    /// Timers can be on it.
    Base(Base),
    /// Can only be read: the host's CLOCK_*.
    ReadOnly(i32),
    Cpu(CpuClock),
}

impl Clock {
    /// Finds a clock by its id, as `task` means it: EINVAL if there is none.
    pub fn find(task: &Arc<Task>, id: i32) -> Result<Clock, Errno> {
        Ok(match id {
            CLOCK_REALTIME | CLOCK_REALTIME_ALARM => Clock::Base(Base::Realtime),
            CLOCK_MONOTONIC => Clock::Base(Base::Monotonic),
            CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => Clock::Base(Base::Boottime),
            CLOCK_MONOTONIC_RAW | CLOCK_REALTIME_COARSE | CLOCK_MONOTONIC_COARSE | CLOCK_TAI => {
                Clock::ReadOnly(id)
            }
            CLOCK_PROCESS_CPUTIME_ID => {
                Clock::Cpu(CpuClock::Process(Arc::downgrade(&task.process), CpuKind::All))
            }
            CLOCK_THREAD_CPUTIME_ID => Clock::Cpu(CpuClock::Thread(Arc::downgrade(task), CpuKind::All)),
            id if id < 0 => Clock::Cpu(cpu_clock(task, id)?),
            _ => return Err(Errno::EINVAL),
        })
    }

    /// Reads it; EINVAL when what it measures is gone.
    pub fn now(&self) -> Result<u64, Errno> {
        match self {
            Clock::Base(base) => Ok(base.now()),
            Clock::ReadOnly(id) => Ok(super::now(*id)),
            Clock::Cpu(clock) => clock.now().ok_or(Errno::EINVAL),
        }
    }
}

/// Decodes a negative id: bits 0–1 the kind, bit 2 "thread", the rest the complement of the id.
fn cpu_clock(task: &Arc<Task>, id: i32) -> Result<CpuClock, Errno> {
    let kind = match id & CPUCLOCK_CLOCK_MASK {
        CPUCLOCK_PROF => CpuKind::All,
        CPUCLOCK_VIRT => CpuKind::User,
        CPUCLOCK_SCHED => CpuKind::All,
        // CLOCKFD: clocks of devices, which there are none of.
        _ => return Err(Errno::EINVAL),
    };
    let pid = !(id >> 3);
    if id & CPUCLOCK_PERTHREAD_MASK != 0 {
        let target = if pid == 0 { Some(task.clone()) } else { task.find_task(pid) };
        let target = target.filter(|target| Arc::ptr_eq(&target.process, &task.process));
        return target.map(|target| CpuClock::Thread(Arc::downgrade(&target), kind)).ok_or(Errno::EINVAL);
    }
    if pid == 0 || pid == task.tid() {
        return Ok(CpuClock::Process(Arc::downgrade(&task.process), kind));
    }
    let target = task.find_process(pid).ok_or(Errno::EINVAL)?;
    Ok(CpuClock::Process(Arc::downgrade(&target), kind))
}

/// clock_gettime(2).
pub fn gettime(task: &Arc<Task>, id: i32) -> Result<Timespec, Errno> {
    let now = Clock::find(task, id)?.now()?;
    Ok(to_timespec(match id {
        CLOCK_MONOTONIC | CLOCK_MONOTONIC_RAW | CLOCK_MONOTONIC_COARSE => {
            shifted(now, task.time_offset(Base::Monotonic))
        }
        CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => shifted(now, task.time_offset(Base::Boottime)),
        _ => now,
    }))
}

/// clock_getres(2).
pub fn getres(task: &Arc<Task>, id: i32) -> Result<Timespec, Errno> {
    match Clock::find(task, id)? {
        Clock::Cpu(_) => Ok(to_timespec(1)),
        _ => chitin_host::clock::resolution_ns(id).map(to_timespec).ok_or(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        assert_eq!(from_timespec(&Timespec { tv_sec: 1, tv_nsec: 5 }), Ok(1_000_000_005));
        assert_eq!(from_timespec(&Timespec { tv_sec: i64::MAX, tv_nsec: 5 }), Ok(i64::MAX as u64));
        for (tv_sec, tv_nsec) in [(-1, 0), (0, -1), (0, NSEC_PER_SEC), (i64::MIN, i64::MIN)] {
            assert_eq!(from_timespec(&Timespec { tv_sec, tv_nsec }), Err(Errno::EINVAL));
        }
        assert_eq!(to_timespec(2_000_000_003), Timespec { tv_sec: 2, tv_nsec: 3 });
        assert!(to_timespec(u64::MAX).is_valid());
    }
}
