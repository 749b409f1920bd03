//! Events as files: inotify, eventfd, timerfd, signalfd.

use crate::args::at_start;
use crate::fd::install;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::eventfd::EFD_CLOEXEC;
use chitin_abi::fcntl::AT_FDCWD;
use chitin_abi::inotify::{IN_CLOEXEC, IN_DONT_FOLLOW, IN_ONLYDIR};
use chitin_abi::num::sign_extend;
use chitin_abi::signal::{SFD_CLOEXEC, SFD_NONBLOCK, SigSet};
use chitin_abi::time::{Itimerspec, TFD_CLOEXEC};
use chitin_kernel::signalfd::SignalFd;
use chitin_kernel::timerfd::{self, TimerFd};
use chitin_kernel::{Outcome, Task};
use chitin_vfs::FileKind;
use chitin_vfs::creds::MAY_READ;
use chitin_vfs::eventfd::EventFd;
use chitin_vfs::notify::Inotify;
use chitin_vfs::walk::Walk;
use std::sync::Arc;

fn new_inotify(task: &Task, flags: u32) -> Result<u64, Errno> {
    install(task, Inotify::open(flags)?, flags & IN_CLOEXEC != 0)
}

pub(crate) fn inotify_init(task: &Arc<Task>, _args: Args) -> Outcome {
    done(new_inotify(task, 0))
}

pub(crate) fn inotify_init1(task: &Arc<Task>, args: Args) -> Outcome {
    done(new_inotify(task, args.u32(0)))
}

pub(crate) fn inotify_add_watch(task: &Arc<Task>, args: Args) -> Outcome {
    let mask = args.u32(2);
    done((|| {
        Inotify::check_mask(mask)?;
        let file = task.io_file(args.i32(0))?;
        let inotify = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
        let path = task.mm().read_path(args.u64(1))?;
        let ctx = task.context();
        let start = at_start(task, &ctx, AT_FDCWD, &path)?;
        let found = ctx.walk_target(&start, &path, Walk::following(mask & IN_DONT_FOLLOW == 0))?;
        let inode = found.inode();
        if mask & IN_ONLYDIR != 0 && inode.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        ctx.may(inode, MAY_READ)?;
        inotify.add_watch(inode, mask).map(sign_extend)
    })())
}

pub(crate) fn inotify_rm_watch(task: &Arc<Task>, args: Args) -> Outcome {
    unit(
        task.files()
            .get_io(args.i32(0))
            .and_then(|file| file.downcast::<Inotify>().ok_or(Errno::EINVAL)?.rm_watch(args.i32(1))),
    )
}

fn new_eventfd(task: &Task, count: u32, flags: u32) -> Result<u64, Errno> {
    install(task, EventFd::open(count, flags)?, flags & EFD_CLOEXEC != 0)
}

pub(crate) fn eventfd(task: &Arc<Task>, args: Args) -> Outcome {
    done(new_eventfd(task, args.u32(0), 0))
}

pub(crate) fn eventfd2(task: &Arc<Task>, args: Args) -> Outcome {
    done(new_eventfd(task, args.u32(0), args.u32(1)))
}

pub(crate) fn timerfd_create(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(1);
    done(
        TimerFd::open(task, args.i32(0), flags)
            .and_then(|file| install(task, file, flags & TFD_CLOEXEC != 0)),
    )
}

pub(crate) fn timerfd_settime(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let mm = task.mm();
        let new = mm.read::<Itimerspec>(args.u64(2))?;
        if !new.it_value.is_valid() || !new.it_interval.is_valid() {
            return Err(Errno::EINVAL);
        }
        let file = task.io_file(args.i32(0))?;
        let old = {
            let timer = timerfd::of_file(&file)?;
            timer.settime(args.u32(1), &new, task.time_offset(timer.base()))?
        };
        match args.opt::<Itimerspec>(3) {
            Some(addr) => mm.write(addr, &old),
            None => Ok(()),
        }
    })())
}

pub(crate) fn timerfd_gettime(task: &Arc<Task>, args: Args) -> Outcome {
    unit(task.io_file(args.i32(0)).and_then(|file| {
        let setting = timerfd::of_file(&file)?.gettime();
        task.mm().write(args.u64(1), &setting)
    }))
}

fn make_signalfd(task: &Arc<Task>, args: Args, flags: u32) -> Result<u64, Errno> {
    let fd = args.i32(0);
    if args.u64(2) != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    let mask = task.mm().read::<SigSet>(args.u64(1))?;
    if fd == -1 {
        return install(task, SignalFd::open(task, mask, flags)?, flags & SFD_CLOEXEC != 0);
    }
    if flags & !(SFD_CLOEXEC | SFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.io_file(fd)?;
    file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
    Ok(sign_extend(fd))
}

pub(crate) fn signalfd(task: &Arc<Task>, args: Args) -> Outcome {
    done(make_signalfd(task, args, 0))
}

pub(crate) fn signalfd4(task: &Arc<Task>, args: Args) -> Outcome {
    done(make_signalfd(task, args, args.u32(3)))
}
