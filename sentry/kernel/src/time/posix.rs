//! timer_create(2) and its relatives.
//!
//! An expiry sends a SI_TIMER signal with the expirations since the last one as its overrun; if the timer's last signal
//! is still pending, the signal queue adds to that one's overrun instead of queueing another.

use super::alarm::{Alarm, AlarmClock, OnExpiry, Setting};
use super::clock::{Clock, from_timespec, to_timespec};
use crate::signal::Queued;
use crate::{Process, Task, signal};
use chitin_abi::Errno;
use chitin_abi::resource::RLIMIT_SIGPENDING;
use chitin_abi::signal::*;
use chitin_abi::time::{Itimerspec, TIMER_ABSTIME};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Timers of one process even without a limit on pending signals.
const MAX_TIMERS: usize = 1 << 16;

struct PosixTimer {
    alarm: Arc<Alarm>,
    /// Of the signal delivered last.
    overrun: i32,
    /// Its place among what its user may queue.
    _place: Queued,
}

/// The timers of a process by id.
#[derive(Default)]
pub struct Table {
    timers: BTreeMap<i32, PosixTimer>,
    next_id: i32,
}

impl Table {
    pub(super) fn delivered(&mut self, id: i32, overrun: i32) {
        if let Some(timer) = self.timers.get_mut(&id) {
            timer.overrun = overrun;
        }
    }

    /// Ids count up and are used again only after all others.
    fn free_id(&mut self) -> i32 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(0);
            if !self.timers.contains_key(&id) {
                return id;
            }
        }
    }
}

fn alarm_of(process: &Process, id: i32) -> Result<Arc<Alarm>, Errno> {
    process.timers.posix.lock().timers.get(&id).map(|timer| timer.alarm.clone()).ok_or(Errno::EINVAL)
}

/// Who is signalled.
enum Notify {
    Nobody,
    Process(Weak<Process>),
    Thread(Weak<Task>),
}

fn notify_of(task: &Arc<Task>, event: &SigEvent) -> Result<(Notify, u32), Errno> {
    let kind = u32::try_from(event.sigev_notify).map_err(|_| Errno::EINVAL)?;
    let number = u32::try_from(event.sigev_signo).unwrap_or(0);
    let number = || if (1..=_NSIG).contains(&number) { Ok(number) } else { Err(Errno::EINVAL) };
    let process = || Notify::Process(Arc::downgrade(&task.process));
    match kind {
        SIGEV_NONE => Ok((Notify::Nobody, 0)),
        SIGEV_SIGNAL | SIGEV_THREAD => Ok((process(), number()?)),
        kind if kind & !SIGEV_THREAD == SIGEV_THREAD_ID => {
            let thread = task.find_task(event.sigev_notify_thread_id);
            let thread = thread.filter(|thread| Arc::ptr_eq(&thread.process, &task.process));
            let thread = thread.ok_or(Errno::EINVAL)?;
            Ok((Notify::Thread(Arc::downgrade(&thread)), number()?))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// timer_create(2): the new timer's id. `event`: `None` for a null pointer (SIGALRM with the id as value).
pub fn create(task: &Arc<Task>, clock: i32, event: Option<&SigEvent>) -> Result<i32, Errno> {
    let clock = match Clock::find(task, clock)? {
        Clock::Base(base) => AlarmClock::Base(base),
        Clock::Cpu(clock) => AlarmClock::Cpu(clock),
        Clock::ReadOnly(id) if id == chitin_abi::time::CLOCK_MONOTONIC_RAW => return Err(Errno::EOPNOTSUPP),
        Clock::ReadOnly(_) => return Err(Errno::EOPNOTSUPP),
    };
    let process = &task.process;
    let (notify, number) = match event {
        Some(event) => notify_of(task, event)?,
        None => (Notify::Process(Arc::downgrade(process)), SIGALRM),
    };
    let limit = usize::try_from(process.rlimit(RLIMIT_SIGPENDING).rlim_cur).unwrap_or(usize::MAX);
    let place = Queued::new(task.creds().uid, limit).ok_or(Errno::EAGAIN)?;
    let mut table = process.timers.posix.lock();
    if table.timers.len() >= MAX_TIMERS {
        return Err(Errno::EAGAIN);
    }
    let id = table.free_id();
    // The value's field is a union of an int and a pointer.
    let value = event.map_or_else(|| u64::from(id.cast_unsigned()), |event| event.sigev_value);
    let on_expiry: Option<OnExpiry> = match notify {
        Notify::Nobody => None,
        Notify::Process(process) => Some(Box::new(move |count| {
            if let Some(process) = process.upgrade() {
                signal::send_to_process(&process, info(number, id, count, value));
            }
        })),
        Notify::Thread(thread) => Some(Box::new(move |count| {
            if let Some(thread) = thread.upgrade() {
                signal::send_to_task(&thread, info(number, id, count, value));
            }
        })),
    };
    let alarm = Alarm::new(task.kernel.reactor.timers(), clock, on_expiry);
    table.timers.insert(id, PosixTimer { alarm, overrun: 0, _place: place });
    Ok(id)
}

fn info(number: u32, id: i32, count: u64, value: u64) -> SigInfo {
    let overrun = i32::try_from(count.saturating_sub(1)).unwrap_or(i32::MAX);
    SigInfo::timer(number, id, overrun, value)
}

fn to_itimerspec(setting: Setting) -> Itimerspec {
    Itimerspec { it_interval: to_timespec(setting.interval), it_value: to_timespec(setting.left) }
}

/// timer_settime(2): the setting before.
pub fn settime(task: &Task, id: i32, flags: u32, new: &Itimerspec) -> Result<Itimerspec, Errno> {
    let process = &*task.process;
    let interval = from_timespec(&new.it_interval)?;
    let value = from_timespec(&new.it_value)?;
    let alarm = alarm_of(process, id)?;
    {
        let mut table = process.timers.posix.lock();
        table.delivered(id, 0);
    }
    let old = if value == 0 {
        alarm.set(None, 0)
    } else if flags & TIMER_ABSTIME != 0 {
        let moment = match alarm.clock() {
            AlarmClock::Base(base) => task.moment(*base, value).ns,
            AlarmClock::Cpu(_) => value,
        };
        alarm.set(Some(moment), interval)
    } else {
        alarm.set_after(value, interval)
    };
    Ok(to_itimerspec(old))
}

/// timer_gettime(2).
pub fn gettime(process: &Process, id: i32) -> Result<Itimerspec, Errno> {
    Ok(to_itimerspec(alarm_of(process, id)?.get()))
}

/// timer_getoverrun(2).
pub fn getoverrun(process: &Process, id: i32) -> Result<i32, Errno> {
    process.timers.posix.lock().timers.get(&id).map(|timer| timer.overrun).ok_or(Errno::EINVAL)
}

/// timer_delete(2).
pub fn delete(process: &Process, id: i32) -> Result<(), Errno> {
    let timer = process.timers.posix.lock().timers.remove(&id);
    timer.map(drop).ok_or(Errno::EINVAL)
}

/// The ids in use (/proc/PID/timers).
pub fn ids(process: &Process) -> Vec<i32> {
    process.timers.posix.lock().timers.keys().copied().collect()
}
