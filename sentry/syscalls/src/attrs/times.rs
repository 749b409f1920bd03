//! utime, utimes, futimesat, utimensat (fs/utimes.c).

use crate::args::{at_target, fd_file, file_target};
use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::time::*;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::SetTime;
use chitin_vfs::ops::Times;
use std::sync::Arc;

const NOW: Times = Times { atime: Some(SetTime::Now), mtime: Some(SetTime::Now) };

/// One time of utimensat(2): UTIME_NOW, UTIME_OMIT or a time with valid nanoseconds.
fn time(spec: Timespec) -> Result<Option<SetTime>, Errno> {
    match spec.tv_nsec {
        UTIME_NOW => Ok(Some(SetTime::Now)),
        UTIME_OMIT => Ok(None),
        0..NSEC_PER_SEC => Ok(Some(SetTime::At(spec))),
        _ => Err(Errno::EINVAL),
    }
}

/// One time of utimes(2).
fn micro_time(value: Timeval) -> Result<Option<SetTime>, Errno> {
    if !(0..USEC_PER_SEC).contains(&value.tv_usec) {
        return Err(Errno::EINVAL);
    }
    Ok(Some(SetTime::At(Timespec { tv_sec: value.tv_sec, tv_nsec: value.tv_usec * NSEC_PER_USEC })))
}

/// do_utimes(): without a path, `dirfd` itself is meant.
fn set(task: &Task, dirfd: i32, path: Option<u64>, flags: u32, times: Times) -> Result<(), Errno> {
    let ctx = task.context();
    let Some(path) = path else {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        return ctx.set_times(&file_target(&fd_file(task, dirfd)?), times);
    };
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = task.mm().read_path(path)?;
    let (follow, empty) = (flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0);
    ctx.set_times(&at_target(task, &ctx, dirfd, &path, follow, empty)?, times)
}

pub(crate) fn utimensat(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let mut times = NOW;
        if let Some(addr) = args.opt::<[Timespec; 2]>(2) {
            let [atime, mtime] = task.mm().read(addr)?;
            // Nothing to do: nothing is looked at either.
            if atime.tv_nsec == UTIME_OMIT && mtime.tv_nsec == UTIME_OMIT {
                return Ok(());
            }
            times = Times { atime: time(atime)?, mtime: time(mtime)? };
        }
        let path = args.opt::<u8>(1).map(|path| path.addr());
        if path.is_none() && args.i32(0) == AT_FDCWD {
            return Err(Errno::EFAULT);
        }
        set(task, args.i32(0), path, args.u32(3), times)
    })())
}

fn set_micro(task: &Task, dirfd: i32, path: Option<u64>, times: u64) -> Result<(), Errno> {
    let mut new = NOW;
    if times != 0 {
        let [atime, mtime] = task.mm().read::<[Timeval; 2]>(times)?;
        new = Times { atime: micro_time(atime)?, mtime: micro_time(mtime)? };
    }
    set(task, dirfd, path, 0, new)
}

pub(crate) fn utimes(task: &Arc<Task>, args: Args) -> Outcome {
    unit(set_micro(task, AT_FDCWD, Some(args.u64(0)), args.u64(1)))
}

pub(crate) fn futimesat(task: &Arc<Task>, args: Args) -> Outcome {
    let (dirfd, path) = (args.i32(0), args.u64(1));
    let path = (path != 0 || dirfd == AT_FDCWD).then_some(path);
    unit(set_micro(task, dirfd, path, args.u64(2)))
}

pub(crate) fn utime(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let mut times = NOW;
        if let Some(addr) = args.opt::<Utimbuf>(1) {
            let new = task.mm().read(addr)?;
            let at = |tv_sec| Some(SetTime::At(Timespec { tv_sec, tv_nsec: 0 }));
            times = Times { atime: at(new.actime), mtime: at(new.modtime) };
        }
        set(task, AT_FDCWD, Some(args.u64(0)), 0, times)
    })())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let spec = |tv_nsec| Timespec { tv_sec: -5, tv_nsec };
        assert!(matches!(time(spec(UTIME_NOW)), Ok(Some(SetTime::Now))));
        assert!(matches!(time(spec(UTIME_OMIT)), Ok(None)));
        assert!(matches!(time(spec(999_999_999)), Ok(Some(SetTime::At(at))) if at.tv_sec == -5));
        assert!(time(spec(NSEC_PER_SEC)).is_err() && time(spec(-1)).is_err());
        let micro = |tv_usec| micro_time(Timeval { tv_sec: 1, tv_usec });
        assert!(matches!(micro(999_999), Ok(Some(SetTime::At(at))) if at.tv_nsec == 999_999_000));
        assert!(micro(1_000_000).is_err() && micro(-1).is_err());
    }
}
