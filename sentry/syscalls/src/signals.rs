//! Signals: sending, masks, actions, waiting for them.

use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_KILL;
use chitin_abi::num::to_usize;
use chitin_abi::signal::*;
use chitin_abi::time::Timespec;
use chitin_kernel::result::{Restart, SysError};
use chitin_kernel::signal::{NSIG, send_to_process, send_to_task, sigreturn};
use chitin_kernel::{Outcome, Process, Task, time};
use chitin_mm::UserPtr;
use chitin_vfs::userns::OVERFLOW_ID;
use std::sync::Arc;

/// Checks a signal number argument (0 is allowed: it only tests).
pub(crate) fn signal_number(signal: i32) -> Result<u32, Errno> {
    u32::try_from(signal).ok().filter(|&signal| signal <= NSIG).ok_or(Errno::EINVAL)
}

/// The caller's user as it knows it itself.
fn own_uid(task: &Task) -> u32 {
    let creds = task.creds();
    creds.user_ns.show_uid(creds.uid)
}

/// What kill(2) sends.
pub(crate) fn kill_info(task: &Task, signal: u32) -> SigInfo {
    SigInfo::kill(signal, SI_USER, task.pid(), own_uid(task))
}

/// Reads the siginfo of rt_sigqueueinfo; codes that pretend to come from the kernel are only allowed to oneself.
pub(crate) fn user_info(
    task: &Task,
    at: UserPtr<SigInfo>,
    signal: u32,
    target: Option<&Arc<Process>>,
) -> Result<SigInfo, Errno> {
    let mut info: SigInfo = task.mm().read(at)?;
    info.set_signo(signal);
    if (info.si_code >= 0 || info.si_code == SI_TKILL)
        && target.is_none_or(|target| !Arc::ptr_eq(target, &task.process))
    {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

/// What the receiver learns of a sender: the user as it knows it; of a process that its namespace does not show nothing,
/// and init cannot ignore it.
fn as_seen(task: &Task, target: &Process, mut info: SigInfo) -> SigInfo {
    let own = task.creds().user_ns.clone();
    if let Some(other) = target.leader().map(|leader| leader.creds().user_ns.clone())
        && own != other
    {
        let uid = own.kuid(info.uid()).map_or(OVERFLOW_ID, |kuid| other.show_uid(kuid));
        info.set_pid_uid(info.pid(), uid);
    }
    if task.process.pid_in(target.pid_ns()) == 0 {
        info.set_pid_uid(0, info.uid());
    }
    info
}

/// check_kill_permission(): EPERM.
pub(crate) fn may_kill(task: &Task, target: &Arc<Process>, signal: u32) -> Result<(), Errno> {
    if Arc::ptr_eq(&task.process, target) {
        return Ok(());
    }
    let Some(other) = target.leader() else { return Ok(()) };
    let (own, other) = (task.creds(), other.creds());
    let same =
        own.euid == other.suid || own.euid == other.uid || own.uid == other.suid || own.uid == other.uid;
    if same
        || own.capable_in(&other.user_ns, CAP_KILL)
        || (signal == SIGCONT && task.process.sid() == target.sid())
    {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// Sends as `task`, unless the number is 0.
pub(crate) fn deliver(task: &Task, process: &Arc<Process>, info: SigInfo) -> Result<(), Errno> {
    if info.signo() == 0 || send_to_process(process, as_seen(task, process, info)) {
        Ok(())
    } else {
        Err(Errno::EAGAIN)
    }
}

pub(crate) fn kill(task: &Arc<Task>, args: Args) -> Outcome {
    unit(kill_pid(task, args.i32(0), args.i32(1)))
}

fn kill_pid(task: &Arc<Task>, pid: i32, signal: i32) -> Result<(), Errno> {
    let signal = signal_number(signal)?;
    let info = kill_info(task, signal);
    if pid > 0 {
        let process = task
            .find_process(pid)
            .or_else(|| task.find_task(pid).map(|task| task.process.clone()))
            .ok_or(Errno::ESRCH)?;
        may_kill(task, &process, signal)?;
        return deliver(task, &process, info);
    }
    if pid == i32::MIN {
        return Err(Errno::ESRCH);
    }
    let own_group = task.process.pgid();
    let group = if pid < -1 { task.kid_of(-pid).ok_or(Errno::ESRCH)? } else { 0 };
    let concerned = |process: &Process| match pid {
        -1 => process.pid_in(task.pid_ns()) > 1 && process.kid() != task.process.kid(),
        0 => process.pgid() == own_group,
        _ => process.pgid() == group,
    };
    let mut answer = Err(Errno::ESRCH);
    // Nobody forks between here and the signal's coming.
    let _forking = (signal != 0).then(|| task.kernel.signal_targets(concerned));
    // Zombies are found too: they can be asked about, and take any signal.
    for process in task.kernel.processes().iter().filter(|process| concerned(process)) {
        if may_kill(task, process, signal).is_ok() {
            answer = Ok(());
            // A full queue of one member is not reported, as in Linux.
            let _ = deliver(task, process, info);
        } else if answer.is_err() {
            answer = Err(Errno::EPERM);
        }
    }
    answer
}

pub(crate) fn tkill(task: &Arc<Task>, args: Args) -> Outcome {
    unit(kill_thread(task, None, args.i32(0), args.i32(1), None))
}

pub(crate) fn tgkill(task: &Arc<Task>, args: Args) -> Outcome {
    if args.i32(0) <= 0 {
        return Outcome::error(Errno::EINVAL);
    }
    unit(kill_thread(task, Some(args.i32(0)), args.i32(1), args.i32(2), None))
}

fn kill_thread(
    task: &Arc<Task>,
    tgid: Option<i32>,
    tid: i32,
    signal: i32,
    info: Option<UserPtr<SigInfo>>,
) -> Result<(), Errno> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let signal = signal_number(signal)?;
    let mut given = match info {
        Some(at) => task.mm().read(at)?,
        None => SigInfo::kill(signal, SI_TKILL, task.pid(), own_uid(task)),
    };
    given.set_signo(signal);
    let pretends = info.is_some() && (given.si_code >= 0 || given.si_code == SI_TKILL);
    if pretends && tgid.is_none_or(|tgid| tgid != task.pid()) {
        return Err(Errno::EPERM);
    }
    let ours = |process: &Process| tgid.is_none_or(|tgid| process.pid_in(task.pid_ns()) == tgid);
    let Some(target) = task.find_task(tid) else {
        // The leader's thread may have ended before its process.
        let zombie = task.find_process(tid).filter(|process| ours(process));
        return if zombie.is_some() { Ok(()) } else { Err(Errno::ESRCH) };
    };
    if !ours(&target.process) {
        return Err(Errno::ESRCH);
    }
    may_kill(task, &target.process, signal)?;
    if signal == 0 || send_to_task(&target, as_seen(task, &target.process, given)) {
        Ok(())
    } else {
        Err(Errno::EAGAIN)
    }
}

pub(crate) fn rt_sigqueueinfo(task: &Arc<Task>, args: Args) -> Outcome {
    let send = || {
        let signal = signal_number(args.i32(1))?;
        let process = task.find_process(args.i32(0)).ok_or(Errno::ESRCH);
        let info = user_info(task, args.ptr(2), signal, process.as_ref().ok())?;
        let process = process?;
        may_kill(task, &process, signal)?;
        deliver(task, &process, info)
    };
    unit(send())
}

pub(crate) fn rt_tgsigqueueinfo(task: &Arc<Task>, args: Args) -> Outcome {
    if args.i32(0) <= 0 {
        return Outcome::error(Errno::EINVAL);
    }
    unit(kill_thread(task, Some(args.i32(0)), args.i32(1), args.i32(2), Some(args.ptr(3))))
}

fn check_size(size: u64) -> Result<(), Errno> {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

pub(crate) fn rt_sigaction(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        check_size(args.u64(3))?;
        let signal = signal_number(args.i32(0))?;
        let mm = task.mm();
        let new = args.opt::<SigAction>(1).map(|at| mm.read(at)).transpose()?;
        if signal == 0 || (new.is_some() && SigSet::UNBLOCKABLE.contains(signal)) {
            return Err(Errno::EINVAL);
        }
        let old = match new {
            Some(mut action) => {
                action.sa_mask = action.sa_mask.difference(SigSet::UNBLOCKABLE);
                // Unknown flags are dropped, so that programs can probe for them.
                action.sa_flags &= SA_NOCLDSTOP
                    | SA_NOCLDWAIT
                    | SA_SIGINFO
                    | SA_ONSTACK
                    | SA_RESTART
                    | SA_NODEFER
                    | SA_RESETHAND
                    | SA_RESTORER
                    | SA_EXPOSE_TAGBITS;
                task.process.set_action(signal, action)
            }
            None => task.process.handlers().get(signal),
        };
        if let Some(at) = args.opt::<SigAction>(2) {
            mm.write(at, &old)?;
        }
        Ok(())
    };
    unit(work())
}

pub(crate) fn rt_sigprocmask(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        check_size(args.u64(3))?;
        let mm = task.mm();
        let old = task.signal_mask();
        if let Some(at) = args.opt::<SigSet>(1) {
            let set: SigSet = mm.read(at)?;
            let new = match args.u32(0) {
                SIG_BLOCK => old.union(set),
                SIG_UNBLOCK => old.difference(set),
                SIG_SETMASK => set,
                _ => return Err(Errno::EINVAL),
            };
            task.set_signal_mask(new);
        }
        if let Some(at) = args.opt::<SigSet>(2) {
            mm.write(at, &old)?;
        }
        Ok(())
    };
    unit(work())
}

pub(crate) fn rt_sigpending(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        if args.u64(1) > 8 {
            return Err(Errno::EINVAL);
        }
        let set = task.pending_signals().intersection(task.signal_mask());
        let bytes = set.0.to_le_bytes();
        task.mm().write_bytes(args.u64(0), bytes.get(..to_usize(args.u64(1))).unwrap_or_default())
    };
    unit(work())
}

/// Waits for ever, until something interrupts.
async fn forever(task: &Arc<Task>) -> SysError {
    let _ = task.interruptible(std::future::pending::<()>()).await;
    SysError::Restart(Restart::NoHand)
}

pub(crate) fn rt_sigsuspend(task: &Arc<Task>, args: Args) -> Outcome {
    let set = match check_size(args.u64(1)).and_then(|()| task.mm().read::<SigSet>(args.u64(0))) {
        Ok(set) => set,
        Err(errno) => return Outcome::error(errno),
    };
    // The old mask comes back when a handler has been set up.
    task.set_temporary_mask(set);
    let task = task.clone();
    Outcome::block(async move { Err(forever(&task).await) })
}

pub(crate) fn pause(task: &Arc<Task>, _args: Args) -> Outcome {
    let task = task.clone();
    Outcome::block(async move { Err(forever(&task).await) })
}

pub(crate) fn rt_sigtimedwait(task: &Arc<Task>, args: Args) -> Outcome {
    let mm = task.mm();
    let read = || {
        check_size(args.u64(3))?;
        let set: SigSet = mm.read(args.u64(0))?;
        let timeout = args.opt::<Timespec>(2).map(|at| mm.read(at)).transpose()?;
        if timeout.as_ref().is_some_and(|timeout: &Timespec| !timeout.is_valid()) {
            return Err(Errno::EINVAL);
        }
        Ok((set.difference(SigSet::UNBLOCKABLE), timeout))
    };
    let (set, timeout) = match read() {
        Ok(read) => read,
        Err(errno) => return Outcome::error(errno),
    };
    let info_at = args.opt::<SigInfo>(1);
    let answer = move |task: &Task, info: SigInfo| {
        if let Some(at) = info_at {
            task.mm().write(at, &info)?;
        }
        Ok(u64::from(info.signo()))
    };
    if let Some(info) = task.take_signal(set) {
        return done(answer(task, info));
    }
    if timeout.is_some_and(|timeout| timeout.tv_sec == 0 && timeout.tv_nsec == 0) {
        return Outcome::error(Errno::EAGAIN);
    }
    let task = task.clone();
    Outcome::block(async move {
        // While waiting, the signals of the set count as unblocked, so that they are sent to this thread.
        task.set_waiting_for(set);
        let (own, shared) = task.signal_arrivals();
        let waiter = task.clone();
        let first = own.wait_until(|| waiter.take_signal(set));
        let either = futures_either(first, shared.wait_until(|| waiter.take_signal(set)));
        let deadline =
            timeout.and_then(|timeout| time::from_timespec(&timeout).ok()).map(time::Deadline::after);
        let limited = time::with_timeout(task.kernel.reactor.timers(), either, deadline);
        let waited = task.interruptible(limited).await;
        task.set_waiting_for(SigSet::default());
        match waited {
            Ok(Some(info)) => Ok(answer(&task, info)?),
            Ok(None) => Err(Errno::EAGAIN.into()),
            Err(_) => match task.take_signal(set) {
                Some(info) => Ok(answer(&task, info)?),
                None => Err(Errno::EINTR.into()),
            },
        }
    })
}

/// Whichever of two futures is ready first.
async fn futures_either<T>(first: impl Future<Output = T>, second: impl Future<Output = T>) -> T {
    let mut first = Box::pin(first);
    let mut second = Box::pin(second);
    std::future::poll_fn(|cx| match first.as_mut().poll(cx) {
        std::task::Poll::Pending => second.as_mut().poll(cx),
        ready => ready,
    })
    .await
}

pub(crate) fn rt_sigreturn(task: &Arc<Task>, _args: Args) -> Outcome {
    sigreturn(task)
}

/// The least size of an alternate stack.
const MINSIGSTKSZ: u64 = 2048;

pub(crate) fn sigaltstack(task: &Arc<Task>, args: Args) -> Outcome {
    let platform = task.platform();
    let (new_at, old_at) = (args.opt::<StackT>(0), args.opt::<StackT>(1));
    if new_at.is_none() || platform.has_frame() {
        return unit(altstack(task, new_at, old_at, None));
    }
    let task = task.clone();
    // Whether the caller runs on the stack is seen from its stack pointer, which takes its frame. Only needed when
    // a stack is set already.
    if task.altstack().ss_flags & SS_DISABLE != 0 {
        return unit(altstack(&task, new_at, old_at, None));
    }
    Outcome::block(async move {
        platform.ensure_frame().await.map_err(|_| SysError::Errno(Errno::EFAULT))?;
        let sp = platform.registers().map_err(|_| SysError::Errno(Errno::EFAULT))?.rsp;
        altstack(&task, new_at, old_at, Some(sp))?;
        Ok(0)
    })
}

fn altstack(
    task: &Arc<Task>,
    new_at: Option<UserPtr<StackT>>,
    old_at: Option<UserPtr<StackT>>,
    sp: Option<u64>,
) -> Result<(), Errno> {
    let mm = task.mm();
    let current = task.altstack();
    let sp = sp.or_else(|| task.platform().registers().ok().map(|regs| regs.rsp));
    let enabled = current.ss_flags & SS_DISABLE == 0;
    let on_stack = enabled && sp.is_some_and(|sp| current.contains(sp));
    if let Some(at) = new_at {
        let new: StackT = mm.read(at)?;
        let mode = new.ss_flags & !SS_AUTODISARM;
        if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
            return Err(Errno::EINVAL);
        }
        if on_stack {
            return Err(Errno::EPERM);
        }
        if mode == SS_DISABLE {
            task.set_altstack(StackT { ss_sp: 0, ss_flags: new.ss_flags, ss_size: 0, ..StackT::default() });
        } else {
            if new.ss_size < MINSIGSTKSZ {
                return Err(Errno::ENOMEM);
            }
            let flags = new.ss_flags & SS_AUTODISARM;
            task.set_altstack(StackT { ss_flags: flags, ..new });
        }
    }
    if let Some(at) = old_at {
        let mut old = current;
        if on_stack {
            old.ss_flags |= SS_ONSTACK;
        }
        mm.write(at, &old)?;
    }
    Ok(())
}

/// Only the vDSO and the kernel's own restarts name it; made by hand it interrupts nothing.
pub(crate) fn restart_syscall(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::EINTR)
}
