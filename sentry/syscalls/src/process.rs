//! Processes: clone, execve, exit, wait, groups and sessions, pidfds, prctl, unshare.

mod control;

pub(crate) use control::prctl;

use crate::args::{at_start, at_target};
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::limits::PATH_MAX;
use chitin_abi::nr::{SYS_getpid, SYS_gettid};
use chitin_abi::num::{low8, low32, sign_extend, to_usize};
use chitin_abi::resource::Rusage;
use chitin_abi::sched::*;
use chitin_abi::signal::{CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, SIGCHLD, SigInfo};
use chitin_abi::wait::*;
use chitin_kernel::clone::CloneRequest;
use chitin_kernel::exec::ExecRequest;
use chitin_kernel::pidfd::PidFd;
use chitin_kernel::wait::{ChildEvent, ChildState, Which, wait_child};
use chitin_kernel::{ExitStatus, Outcome, Process, Task, clone as kclone, exec, exit as kexit};
use chitin_mm::PageReader;
use chitin_vfs::walk::{Target, Walk};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) fn clone(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u64(0) & 0xffff_ffff;
    let request = CloneRequest {
        flags: flags & !CSIGNAL,
        exit_signal: (flags & CSIGNAL) as u32,
        stack: args.u64(1),
        parent_tid: args.u64(2),
        child_tid: args.u64(3),
        tls: args.u64(4),
        // The old call has no field of its own for the pidfd.
        pidfd: if flags & CLONE_PIDFD != 0 { args.u64(2) } else { 0 },
    };
    if flags & CLONE_PIDFD != 0 && flags & (CLONE_PARENT_SETTID | CLONE_DETACHED) != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    kclone::clone(task, request)
}

pub(crate) fn fork(task: &Arc<Task>, _args: Args) -> Outcome {
    kclone::clone(task, CloneRequest { exit_signal: SIGCHLD, ..CloneRequest::default() })
}

pub(crate) fn vfork(task: &Arc<Task>, _args: Args) -> Outcome {
    let flags = CLONE_VM | CLONE_VFORK;
    kclone::clone(task, CloneRequest { flags, exit_signal: SIGCHLD, ..CloneRequest::default() })
}

/// The size of the first version of `struct clone_args`.
const CLONE_ARGS_SIZE_VER0: u64 = 64;

pub(crate) fn clone3(task: &Arc<Task>, args: Args) -> Outcome {
    let request = match read_clone_args(task, args.u64(0), args.u64(1)) {
        Ok(request) => request,
        Err(errno) => return Outcome::error(errno),
    };
    kclone::clone(task, request)
}

fn read_clone_args(task: &Task, at: u64, size: u64) -> Result<CloneRequest, Errno> {
    let known = size_of::<CloneArgs>() as u64;
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let mm = task.mm();
    let bytes = mm.read_vec(at, to_usize(size))?;
    let (head, tail) = bytes.split_at(bytes.len().min(to_usize(known)));
    if tail.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let mut whole = [0u8; size_of::<CloneArgs>()];
    if let Some(to) = whole.get_mut(..head.len()) {
        to.copy_from_slice(head);
    }
    let given: CloneArgs = zerocopy::transmute!(whole);
    if given.flags & (CLONE_DETACHED | CSIGNAL) != 0 && given.flags & CSIGNAL != 0
        || given.exit_signal > 64
        || (given.flags & (CLONE_THREAD | CLONE_PARENT) != 0 && given.exit_signal != 0)
        || given.set_tid_size != 0
        || given.flags & CLONE_INTO_CGROUP != 0
        || (given.stack == 0) != (given.stack_size == 0)
    {
        return Err(Errno::EINVAL);
    }
    Ok(CloneRequest {
        flags: given.flags,
        exit_signal: low32(given.exit_signal),
        stack: if given.stack == 0 {
            0
        } else {
            given.stack.checked_add(given.stack_size).ok_or(Errno::EINVAL)?
        },
        tls: given.tls,
        parent_tid: given.parent_tid,
        child_tid: given.child_tid,
        pidfd: given.pidfd,
    })
}

/// The most bytes of arguments and environment that are read; the loader checks the exact limit.
const MAX_STRINGS: usize = 8 << 20;
/// Longest single string (MAX_ARG_STRLEN).
const MAX_STRING: usize = 32 * 4096;

/// Reads a NULL-terminated array of strings.
fn read_strings(task: &Task, mut at: u64, total: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mm = task.mm();
    let (mut pointers, mut texts) = (PageReader::new(&mm), PageReader::new(&mm));
    let mut strings = Vec::new();
    if at == 0 {
        return Ok(strings);
    }
    loop {
        let pointer = pointers.word(at)?;
        if pointer == 0 {
            return Ok(strings);
        }
        let text = texts.cstr(pointer, MAX_STRING - 1)?.ok_or(Errno::E2BIG)?;
        *total = total.saturating_add(text.len() + 9);
        if *total > MAX_STRINGS {
            return Err(Errno::E2BIG);
        }
        strings.push(text);
        at = at.checked_add(8).ok_or(Errno::EFAULT)?;
    }
}

pub(crate) fn execve(task: &Arc<Task>, args: Args) -> Outcome {
    run(task, AT_FDCWD, args.u64(0), args.u64(1), args.u64(2), 0)
}

pub(crate) fn execveat(task: &Arc<Task>, args: Args) -> Outcome {
    run(task, args.i32(0), args.u64(1), args.u64(2), args.u64(3), args.u32(4))
}

fn run(task: &Arc<Task>, dirfd: i32, path: u64, argv: u64, envp: u64, flags: u32) -> Outcome {
    match exec_request(task, dirfd, path, argv, envp, flags) {
        Ok(request) => exec::execve(task, request),
        Err(errno) => Outcome::error(errno),
    }
}

fn exec_request(
    task: &Arc<Task>,
    dirfd: i32,
    path: u64,
    argv: u64,
    envp: u64,
    flags: u32,
) -> Result<ExecRequest, Errno> {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = task.mm().read_path(path)?;
    let ctx = task.context();
    let (file, shown) = if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        let target = at_target(task, &ctx, dirfd, &path, true, true)?;
        let Target::Path(found) = target else { return Err(Errno::EACCES) };
        (ctx.open_exec_path(found)?, format!("/dev/fd/{dirfd}").into_bytes())
    } else {
        let start = at_start(task, &ctx, dirfd, &path)?;
        let walk = Walk::following(flags & AT_SYMLINK_NOFOLLOW == 0);
        let file = ctx.open_exec(&start, &path, walk)?;
        let shown = if dirfd == AT_FDCWD || path.first() == Some(&b'/') {
            path
        } else {
            [format!("/dev/fd/{dirfd}/").as_bytes(), &path].concat()
        };
        (file, shown)
    };
    let mut total = 0;
    let args = read_strings(task, argv, &mut total)?;
    let env = read_strings(task, envp, &mut total)?;
    debug_assert!(shown.len() <= 2 * PATH_MAX, "a path argument is bounded");
    // As Linux does, an empty argument list becomes one empty string.
    let args = if args.is_empty() { vec![Vec::new()] } else { args };
    let by_descriptor = dirfd != AT_FDCWD && shown.starts_with(b"/dev/fd/");
    let inaccessible = by_descriptor && task.files().get_fd(dirfd).is_ok_and(|fd| fd.cloexec);
    Ok(ExecRequest { file, path: shown, args, env, inaccessible })
}

pub(crate) fn exit(task: &Arc<Task>, args: Args) -> Outcome {
    kexit::exit_thread(task, low8(args.u32(0)))
}

pub(crate) fn exit_group(task: &Arc<Task>, args: Args) -> Outcome {
    kexit::exit_group(task, low8(args.u32(0)))
}

pub(crate) fn wait4(task: &Arc<Task>, args: Args) -> Outcome {
    let (pid, options) = (args.i32(0), args.u32(2));
    let (status, usage) = (args.opt::<i32>(1), args.opt::<Rusage>(3));
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL) != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    let which = match pid {
        i32::MIN => return Outcome::error(Errno::ESRCH),
        -1 => Which::Any,
        0 => Which::Group(task.process.pgid()),
        pid if pid < 0 => Which::Group(id_of(task, -pid)),
        pid => Which::Pid(id_of(task, pid)),
    };
    let task = task.clone();
    Outcome::block(async move {
        let Some(event) = wait_child(task.clone(), which, options | WEXITED).await? else { return Ok(0) };
        let mm = task.mm();
        if let Some(status) = status {
            mm.write(status, &wait_word(&event))?;
        }
        if let Some(usage) = usage {
            mm.write(usage, &event.usage)?;
        }
        Ok(sign_extend(event.pid))
    })
}

/// The kernel id of what is waited for; 0, which nobody has, for a number that names nobody.
fn id_of(task: &Task, nr: i32) -> i32 {
    task.kid_of(nr).unwrap_or(0)
}

fn wait_word(event: &ChildEvent) -> i32 {
    match event.state {
        ChildState::Ended(status) => status.wait_word(),
        ChildState::Stopped(signal) => signal.cast_signed() << 8 | 0x7f,
        ChildState::Continued => 0xffff,
    }
}

pub(crate) fn waitid(task: &Arc<Task>, args: Args) -> Outcome {
    let (kind, id, options) = (args.u32(0), args.i32(1), args.u32(3));
    let (info, usage) = (args.opt::<SigInfo>(2), args.opt::<Rusage>(4));
    let known = WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL;
    if options & !known != 0 || options & (WEXITED | WSTOPPED | WCONTINUED) == 0 {
        return Outcome::error(Errno::EINVAL);
    }
    let mut options = options;
    let which = match kind {
        P_ALL => Which::Any,
        P_PID if id > 0 => Which::Pid(id_of(task, id)),
        P_PGID if id > 0 => Which::Group(id_of(task, id)),
        P_PGID if id == 0 => Which::Group(task.process.pgid()),
        P_PIDFD if id >= 0 => match pidfd_process(task, id) {
            Ok((process, nonblock)) => {
                if nonblock {
                    options |= WNOHANG;
                }
                Which::Pid(process.kid())
            }
            Err(errno) => return Outcome::error(errno),
        },
        _ => return Outcome::error(Errno::EINVAL),
    };
    let eagain = options & WNOHANG != 0 && args.u32(3) & WNOHANG == 0;
    let task = task.clone();
    Outcome::block(async move {
        let event = wait_child(task.clone(), which, options).await?;
        let mm = task.mm();
        if event.is_none() && eagain {
            return Err(Errno::EAGAIN.into());
        }
        if let (Some(usage), Some(event)) = (usage, &event) {
            mm.write(usage, &event.usage)?;
        }
        if let Some(info) = info {
            // Without an event the fields that wait fills in are zero.
            let value = event.as_ref().map_or_else(zerocopy::FromZeros::new_zeroed, child_info);
            mm.write(info, &value)?;
        }
        Ok(0)
    })
}

fn child_info(event: &ChildEvent) -> SigInfo {
    let (code, status) = match event.state {
        ChildState::Ended(ExitStatus::Exited(code)) => (CLD_EXITED, i32::from(code)),
        ChildState::Ended(ExitStatus::Signaled { signal, core }) => {
            (if core { CLD_DUMPED } else { CLD_KILLED }, signal.cast_signed())
        }
        ChildState::Stopped(signal) => (CLD_STOPPED, signal.cast_signed()),
        ChildState::Continued => (CLD_CONTINUED, chitin_abi::signal::SIGCONT.cast_signed()),
    };
    SigInfo::child(code, event.pid, event.uid, status, 0, 0)
}

pub(crate) fn getpid(task: &Arc<Task>, _args: Args) -> Outcome {
    task.lasts(SYS_getpid, task.pid().cast_unsigned());
    Outcome::value(sign_extend(task.pid()))
}

pub(crate) fn gettid(task: &Arc<Task>, _args: Args) -> Outcome {
    task.lasts(SYS_gettid, task.tid().cast_unsigned());
    Outcome::value(sign_extend(task.tid()))
}

pub(crate) fn getppid(task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::value(sign_extend(task.ppid()))
}

/// The process that a pid argument names; 0 is the caller's.
pub(crate) fn process_of(task: &Task, pid: i32) -> Result<Arc<Process>, Errno> {
    if pid == 0 {
        return Ok(task.process.clone());
    }
    task.find_process(pid).ok_or(Errno::ESRCH)
}

pub(crate) fn getpgid(task: &Arc<Task>, args: Args) -> Outcome {
    done(process_of(task, args.i32(0)).map(|process| sign_extend(process.pgrp().nr_in(task.pid_ns()))))
}

pub(crate) fn getpgrp(task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::value(sign_extend(task.process.pgrp().nr_in(task.pid_ns())))
}

pub(crate) fn setpgid(task: &Arc<Task>, args: Args) -> Outcome {
    unit(task.kernel.set_group(&task.process, args.i32(0), args.i32(1)))
}

pub(crate) fn getsid(task: &Arc<Task>, args: Args) -> Outcome {
    done(process_of(task, args.i32(0)).map(|process| sign_extend(process.session().nr_in(task.pid_ns()))))
}

pub(crate) fn setsid(task: &Arc<Task>, _args: Args) -> Outcome {
    done(task.kernel.new_session(&task.process).map(sign_extend))
}

pub(crate) fn set_tid_address(task: &Arc<Task>, args: Args) -> Outcome {
    task.clear_child_tid.store(args.u64(0), Ordering::Relaxed);
    Outcome::value(sign_extend(task.tid()))
}

pub(crate) fn pidfd_open(task: &Arc<Task>, args: Args) -> Outcome {
    let (pid, flags) = (args.i32(0), args.u32(1));
    let open = || {
        // PIDFD_NONBLOCK is O_NONBLOCK; PIDFD_THREAD is O_EXCL.
        if flags & !O_NONBLOCK != 0 || pid <= 0 {
            return Err(Errno::EINVAL);
        }
        let process = match task.find_process(pid) {
            Some(process) => process,
            None if task.find_task(pid).is_some() => return Err(Errno::EINVAL),
            None => return Err(Errno::ESRCH),
        };
        let file = chitin_kernel::pidfd::open(&process, flags);
        Ok(sign_extend(task.files().add(file, true, 0, task.process.nofile())?))
    };
    done(open())
}

/// The process behind a pidfd argument, and whether the descriptor is non-blocking.
pub(crate) fn pidfd_process(task: &Task, fd: i32) -> Result<(Arc<Process>, bool), Errno> {
    let file = task.io_file(fd)?;
    let pidfd = file.downcast::<PidFd>().ok_or(Errno::EBADF)?;
    Ok((pidfd.process().clone(), file.nonblocking()))
}

pub(crate) fn pidfd_send_signal(task: &Arc<Task>, args: Args) -> Outcome {
    let send = || {
        if args.u32(3) != 0 {
            return Err(Errno::EINVAL);
        }
        let (process, _) = pidfd_process(task, args.i32(0))?;
        let signal = crate::signals::signal_number(args.i32(1))?;
        let info = match args.opt::<SigInfo>(2) {
            Some(at) => crate::signals::user_info(task, at, signal, Some(&process))?,
            None => crate::signals::kill_info(task, signal),
        };
        if process.is_zombie() {
            return Err(Errno::ESRCH);
        }
        crate::signals::may_kill(task, &process, signal)?;
        crate::signals::deliver(task, &process, info)
    };
    unit(send())
}

pub(crate) fn pidfd_getfd(task: &Arc<Task>, args: Args) -> Outcome {
    let get = || {
        if args.u32(2) != 0 {
            return Err(Errno::EINVAL);
        }
        let (process, _) = pidfd_process(task, args.i32(0))?;
        let other = process.leader().ok_or(Errno::ESRCH)?;
        crate::misc::may_access(task, &other)?;
        let file = other.file(args.i32(1))?;
        Ok(sign_extend(task.files().add(file, true, 0, task.process.nofile())?))
    };
    done(get())
}
