//! Descriptors: close, dup, flock; [`fcntl`](mod@control) and [`ioctl`](mod@ioctl) have files of their own.

mod control;
mod ioctl;

pub(crate) use control::{fcntl, set_owner_by_sign, signed_owner};
pub(crate) use ioctl::ioctl;

use crate::args::fd_file;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::num::sign_extend;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::{File, locks};
use std::sync::Arc;

/// Puts a new file at the lowest free number.
pub(crate) fn install(task: &Task, file: Arc<File>, cloexec: bool) -> Result<u64, Errno> {
    task.add_file(file, cloexec).map(sign_extend)
}

pub(crate) fn close(task: &Arc<Task>, args: Args) -> Outcome {
    let files = task.files();
    unit(files.remove(args.i32(0)).and_then(|file| files.close_file(file)))
}

pub(crate) fn close_range(task: &Arc<Task>, args: Args) -> Outcome {
    let (first, last, flags) = (args.u32(0), args.u32(1), args.u32(2));
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Outcome::error(Errno::EINVAL);
    }
    let mut files = task.files();
    // Ours and the task's; one more is another task's.
    if flags & CLOSE_RANGE_UNSHARE != 0 && Arc::strong_count(&files) > 2 {
        match files.copy() {
            Ok(own) => task.set_files(own),
            Err(errno) => return Outcome::error(errno),
        }
        files = task.files();
    }
    let within = |fd: i32| u32::try_from(fd).is_ok_and(|fd| (first..=last).contains(&fd));
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        for fd in files.numbers().into_iter().filter(|&fd| within(fd)) {
            // Another thread may have closed it meanwhile.
            let _gone = files.set_cloexec(fd, true);
        }
        return Outcome::value(0);
    }
    for file in files.take_where(|fd, _| within(fd)) {
        // As on Linux, errors of single files are not told.
        let _untold = files.close_file(file);
    }
    Outcome::value(0)
}

pub(crate) fn dup(task: &Arc<Task>, args: Args) -> Outcome {
    done(task.file(args.i32(0)).and_then(|file| install(task, file, false)))
}

/// dup2 and dup3 for different numbers.
fn replace(task: &Task, old: i32, new: i32, cloexec: bool) -> Result<u64, Errno> {
    let files = task.files();
    let limit = task.process.nofile();
    let index = u64::try_from(new).map_err(|_| Errno::EBADF)?;
    if index >= limit {
        return Err(Errno::EBADF);
    }
    let file = files.get(old)?;
    if let Some(replaced) = files.set(new, file, cloexec, limit)? {
        // dup2 closes silently.
        let _untold = files.close_file(replaced);
    }
    Ok(index)
}

pub(crate) fn dup2(task: &Arc<Task>, args: Args) -> Outcome {
    let (old, new) = (args.i32(0), args.i32(1));
    if old == new {
        return done(task.file(old).map(|_| sign_extend(new)));
    }
    done(replace(task, old, new, false))
}

pub(crate) fn dup3(task: &Arc<Task>, args: Args) -> Outcome {
    let (old, new, flags) = (args.i32(0), args.i32(1), args.u32(2));
    if flags & !O_CLOEXEC != 0 || old == new {
        return Outcome::error(Errno::EINVAL);
    }
    done(replace(task, old, new, flags & O_CLOEXEC != 0))
}

pub(crate) fn flock(task: &Arc<Task>, args: Args) -> Outcome {
    let operation = args.u32(1);
    if operation & LOCK_MAND == 0 && !matches!(operation & !LOCK_NB, LOCK_SH | LOCK_EX | LOCK_UN) {
        return Outcome::error(Errno::EINVAL);
    }
    let file = match fd_file(task, args.i32(0)) {
        Ok(file) => file,
        Err(error) => return Outcome::error(error),
    };
    let pid = task.process.kid();
    match locks::flock(&file, operation, pid) {
        Err(Errno::EAGAIN) if operation & LOCK_NB == 0 => {}
        result => return unit(result),
    }
    let task = task.clone();
    Outcome::block(async move {
        task.interruptible(locks::flock_wait(&file, operation, pid)).await??;
        Ok(0)
    })
}
