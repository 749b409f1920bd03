//! Clocks, sleeps, timers.

use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::num::sign_extend;
use chitin_abi::signal::SigEvent;
use chitin_abi::time::*;
use chitin_kernel::time::{self, clock, itimer, posix, sleep};
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn nanosleep(task: &Arc<Task>, args: Args) -> Outcome {
    match task.mm().read::<Timespec>(args.u64(0)) {
        Ok(request) => sleep::clock_nanosleep(task, CLOCK_MONOTONIC, 0, &request, args.u64(1)),
        Err(errno) => Outcome::error(errno),
    }
}

pub(crate) fn clock_nanosleep(task: &Arc<Task>, args: Args) -> Outcome {
    match task.mm().read::<Timespec>(args.u64(2)) {
        Ok(request) => sleep::clock_nanosleep(task, args.i32(0), args.u32(1), &request, args.u64(3)),
        Err(errno) => Outcome::error(errno),
    }
}

pub(crate) fn clock_gettime(task: &Arc<Task>, args: Args) -> Outcome {
    unit(clock::gettime(task, args.i32(0)).and_then(|now| task.mm().write(args.u64(1), &now)))
}

pub(crate) fn clock_getres(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let resolution = clock::getres(task, args.i32(0))?;
        match args.opt::<Timespec>(1) {
            Some(at) => task.mm().write(at, &resolution),
            None => Ok(()),
        }
    };
    unit(work())
}

/// The host's clocks are not the guest's to set.
pub(crate) fn clock_settime(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let time: Timespec = task.mm().read(args.u64(1))?;
        if !time.is_valid() || args.i32(0) != CLOCK_REALTIME {
            return Err(Errno::EINVAL);
        }
        Err(Errno::EPERM)
    };
    unit(work())
}

pub(crate) fn gettimeofday(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let now = time::realtime();
        if let Some(at) = args.opt::<Timeval>(0) {
            let value = Timeval {
                tv_sec: (now / 1_000_000_000).cast_signed(),
                tv_usec: (now % 1_000_000_000 / 1000).cast_signed(),
            };
            task.mm().write(at, &value)?;
        }
        if let Some(at) = args.opt::<Timezone>(1) {
            task.mm().write(at, &Timezone::default())?;
        }
        Ok(())
    };
    unit(work())
}

pub(crate) fn settimeofday(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::EPERM)
}

pub(crate) fn time(task: &Arc<Task>, args: Args) -> Outcome {
    let now = time::realtime() / 1_000_000_000;
    let written = match args.opt::<i64>(0) {
        Some(at) => task.mm().write(at, &now.cast_signed()),
        None => Ok(()),
    };
    done(written.map(|()| now))
}

pub(crate) fn times(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        if let Some(at) = args.opt::<Tms>(0) {
            let (user, system) = task.process.cpu_ticks();
            let children = task.process.usage_children();
            let ticks = |time: &Timeval| time.tv_sec.saturating_mul(100) + time.tv_usec / 10_000;
            let value = Tms {
                tms_utime: user,
                tms_stime: system,
                tms_cutime: ticks(&children.ru_utime),
                tms_cstime: ticks(&children.ru_stime),
            };
            task.mm().write(at, &value)?;
        }
        Ok(time::monotonic() / 10_000_000)
    };
    done(work())
}

pub(crate) fn alarm(task: &Arc<Task>, args: Args) -> Outcome {
    done(itimer::alarm(&task.process, args.u32(0)))
}

pub(crate) fn setitimer(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let new = match args.opt::<Itimerval>(1) {
            Some(at) => task.mm().read(at)?,
            // As Linux still does, no new value means zero.
            None => Itimerval::default(),
        };
        let old = itimer::setitimer(&task.process, args.u32(0), &new)?;
        match args.opt::<Itimerval>(2) {
            Some(at) => task.mm().write(at, &old),
            None => Ok(()),
        }
    };
    unit(work())
}

pub(crate) fn getitimer(task: &Arc<Task>, args: Args) -> Outcome {
    let value = itimer::getitimer(&task.process, args.u32(0));
    unit(value.and_then(|value| task.mm().write(args.u64(1), &value)))
}

pub(crate) fn timer_create(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let event = args.opt::<SigEvent>(1).map(|at| task.mm().read(at)).transpose()?;
        let id = posix::create(task, args.i32(0), event.as_ref())?;
        task.mm().write(args.u64(2), &id).inspect_err(|_| {
            // The guest never learned the id.
            let _ = posix::delete(&task.process, id);
        })
    };
    unit(work())
}

pub(crate) fn timer_settime(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let new: Itimerspec = task
            .mm()
            .read(args.u64(2))
            .map_err(|errno| if args.u64(2) == 0 { Errno::EINVAL } else { errno })?;
        let old = posix::settime(task, args.i32(0), args.u32(1), &new)?;
        match args.opt::<Itimerspec>(3) {
            Some(at) => task.mm().write(at, &old),
            None => Ok(()),
        }
    };
    unit(work())
}

pub(crate) fn timer_gettime(task: &Arc<Task>, args: Args) -> Outcome {
    let value = posix::gettime(&task.process, args.i32(0));
    unit(value.and_then(|value| task.mm().write(args.u64(1), &value)))
}

pub(crate) fn timer_getoverrun(task: &Arc<Task>, args: Args) -> Outcome {
    done(posix::getoverrun(&task.process, args.i32(0)).map(sign_extend))
}

pub(crate) fn timer_delete(task: &Arc<Task>, args: Args) -> Outcome {
    unit(posix::delete(&task.process, args.i32(0)))
}

pub(crate) fn adjtimex(task: &Arc<Task>, args: Args) -> Outcome {
    done(read_timex(task, args.u64(0)))
}

pub(crate) fn clock_adjtime(task: &Arc<Task>, args: Args) -> Outcome {
    if args.i32(0) != CLOCK_REALTIME {
        return Outcome::error(Errno::EOPNOTSUPP);
    }
    done(read_timex(task, args.u64(1)))
}

/// The clock's state as an unsynchronised one shows it; changing it is refused.
fn read_timex(task: &Task, at: u64) -> Result<u64, Errno> {
    let given: Timex = task.mm().read(at)?;
    if given.modes != 0 {
        return Err(Errno::EPERM);
    }
    let now = time::realtime();
    const TIME_ERROR: u64 = 5;
    const STA_UNSYNC: i32 = 0x40;
    let mut value = Timex { status: STA_UNSYNC, tick: 10_000, ..Timex::default() };
    value.time.tv_sec = (now / 1_000_000_000).cast_signed();
    value.time.tv_usec = (now % 1_000_000_000 / 1000).cast_signed();
    task.mm().write(at, &value)?;
    Ok(TIME_ERROR)
}
