//! Scheduling, priorities, resource limits and usage.

use crate::process::process_of;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_NICE, CAP_SYS_RESOURCE};
use chitin_abi::num::{sign_extend, to_usize};
use chitin_abi::resource::*;
use chitin_abi::sched::*;
use chitin_abi::time::Timespec;
use chitin_kernel::fdtable::NR_OPEN;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The host schedules; a thread that yields lets it choose.
pub(crate) fn sched_yield(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::Native
}

fn task_of(task: &Arc<Task>, tid: i32) -> Result<Arc<Task>, Errno> {
    match tid {
        0 => Ok(task.clone()),
        tid if tid < 0 => Err(Errno::EINVAL),
        tid => task.find_task(tid).ok_or(Errno::ESRCH),
    }
}

/// The CPUs the guest has, as a mask of 8-byte words.
fn all_cpus(task: &Task) -> Vec<u8> {
    let cpus = task.process.container.cpus() as usize;
    let mut mask = vec![0u8; cpus.div_ceil(64) * 8];
    for cpu in 0..cpus {
        if let Some(byte) = mask.get_mut(cpu / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    mask
}

pub(crate) fn sched_getaffinity(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let len = args.u64(1);
        let other = task_of(task, args.i32(0))?;
        let cpus = all_cpus(task);
        if len.saturating_mul(8) < u64::from(task.process.container.cpus()) || len % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let mut mask = other.platform().affinity(None).unwrap_or_else(|_| cpus.clone());
        mask.resize(cpus.len(), 0);
        for (byte, allowed) in mask.iter_mut().zip(&cpus) {
            *byte &= allowed;
        }
        let count = mask.len().min(to_usize(len));
        task.mm().write_bytes(args.u64(2), mask.get(..count).unwrap_or_default())?;
        Ok(count as u64)
    };
    done(work())
}

pub(crate) fn sched_setaffinity(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let len = args.u64(1).min(1024) as usize;
        let mask = task.mm().read_vec(args.u64(2), len)?;
        let other = task_of(task, args.i32(0))?;
        let (own, target) = (task.creds(), other.creds());
        if own.euid != target.uid && own.euid != target.euid && !own.capable_in(&target.user_ns, CAP_SYS_NICE)
        {
            return Err(Errno::EPERM);
        }
        let mut wanted = all_cpus(task);
        for (index, byte) in wanted.iter_mut().enumerate() {
            *byte &= mask.get(index).copied().unwrap_or(0);
        }
        if wanted.iter().all(|&byte| byte == 0) {
            return Err(Errno::EINVAL);
        }
        other.platform().affinity(Some(&wanted)).map_err(|_| Errno::EINVAL)?;
        Ok(())
    };
    unit(work())
}

pub(crate) fn sched_getscheduler(task: &Arc<Task>, args: Args) -> Outcome {
    done(task_of(task, args.i32(0)).map(|other| other.policy.load(Ordering::Relaxed).into()))
}

/// Real-time classes are not granted: EPERM, as to a process without CAP_SYS_NICE and with RLIMIT_RTPRIO 0.
fn check_policy(policy: u32, priority: i32) -> Result<(), Errno> {
    match policy & !SCHED_RESET_ON_FORK {
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE if priority == 0 => Ok(()),
        SCHED_FIFO | SCHED_RR if (1..=99).contains(&priority) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// Sets a policy that has been checked, if the caller may.
fn set_policy(task: &Task, other: &Task, policy: u32) -> Result<(), Errno> {
    let (own, target) = (task.creds(), other.creds());
    let old = other.policy.load(Ordering::Relaxed);
    let privileged = own.capable_in(&target.user_ns, CAP_SYS_NICE);
    let owner = own.euid == target.uid || own.euid == target.euid;
    let keeps_reset = old & SCHED_RESET_ON_FORK == 0 || policy & SCHED_RESET_ON_FORK != 0;
    // Leaving SCHED_IDLE raises, as from a nice value of 20.
    let class = |policy: u32| policy & !SCHED_RESET_ON_FORK;
    let raises = class(old) == SCHED_IDLE && class(policy) != SCHED_IDLE;
    if !privileged
        && (!owner || !keeps_reset || raises && !may_nice(other, other.nice.load(Ordering::Relaxed)))
    {
        return Err(Errno::EPERM);
    }
    other.policy.store(policy, Ordering::Relaxed);
    Ok(())
}

/// Whether RLIMIT_NICE lets a task have this nice value.
fn may_nice(other: &Task, nice: i32) -> bool {
    u64::try_from(20 - nice).is_ok_and(|wanted| wanted <= other.process.rlimit(RLIMIT_NICE).rlim_cur)
}

pub(crate) fn sched_setscheduler(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        if args.i32(0) < 0 || args.i32(1) < 0 {
            return Err(Errno::EINVAL);
        }
        let param: SchedParam = task.mm().read(args.u64(2))?;
        let other = task_of(task, args.i32(0))?;
        check_policy(args.u32(1), param.sched_priority)?;
        set_policy(task, &other, args.u32(1))
    };
    unit(work())
}

pub(crate) fn sched_getparam(task: &Arc<Task>, args: Args) -> Outcome {
    let param = task_of(task, args.i32(0)).map(|_| SchedParam::default());
    unit(param.and_then(|param| task.mm().write(args.u64(1), &param)))
}

pub(crate) fn sched_setparam(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let param: SchedParam = task.mm().read(args.u64(1))?;
        let other = task_of(task, args.i32(0))?;
        check_policy(SCHED_OTHER, param.sched_priority)?;
        set_policy(task, &other, other.policy.load(Ordering::Relaxed))
    };
    unit(work())
}

/// The size of the first version of `struct sched_attr`.
const SCHED_ATTR_SIZE_VER0: u32 = 48;

pub(crate) fn sched_getattr(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let size = args.u32(2);
        if !(SCHED_ATTR_SIZE_VER0..=4096).contains(&size) || args.u32(3) != 0 {
            return Err(Errno::EINVAL);
        }
        let other = task_of(task, args.i32(0))?;
        let (nice, policy) = (other.nice.load(Ordering::Relaxed), other.policy.load(Ordering::Relaxed));
        let reset = policy & SCHED_RESET_ON_FORK != 0;
        let attr = SchedAttr {
            size: SCHED_ATTR_SIZE_VER0,
            sched_policy: policy & !SCHED_RESET_ON_FORK,
            sched_flags: if reset { SCHED_FLAG_RESET_ON_FORK } else { 0 },
            sched_nice: nice,
            ..SchedAttr::default()
        };
        let bytes = zerocopy::IntoBytes::as_bytes(&attr);
        task.mm().write_bytes(args.u64(1), bytes.get(..SCHED_ATTR_SIZE_VER0 as usize).unwrap_or_default())
    };
    unit(work())
}

pub(crate) fn sched_setattr(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        if args.u32(2) != 0 {
            return Err(Errno::EINVAL);
        }
        let size: u32 = task.mm().read(args.u64(1))?;
        if size != 0 && size < SCHED_ATTR_SIZE_VER0 {
            return Err(Errno::E2BIG);
        }
        let bytes = task.mm().read_vec(args.u64(1), SCHED_ATTR_SIZE_VER0 as usize)?;
        let word = |at: usize| {
            let part = bytes.get(at..at + 4).and_then(|part| <[u8; 4]>::try_from(part).ok());
            u32::from_le_bytes(part.unwrap_or_default())
        };
        let (policy, nice, priority) = (word(4), word(16).cast_signed(), word(20).cast_signed());
        let flags = u64::from(word(8)) | u64::from(word(12)) << 32;
        if policy.cast_signed() < 0 || policy & SCHED_RESET_ON_FORK != 0 || flags & !SCHED_FLAG_ALL != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & SCHED_FLAG_UTIL_CLAMP != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let other = task_of(task, args.i32(0))?;
        let policy = match flags & SCHED_FLAG_KEEP_POLICY {
            0 => policy,
            _ => other.policy.load(Ordering::Relaxed) & !SCHED_RESET_ON_FORK,
        };
        check_policy(policy, priority)?;
        let reset = if flags & SCHED_FLAG_RESET_ON_FORK != 0 { SCHED_RESET_ON_FORK } else { 0 };
        // Which policy it may have is looked at first, and nothing is set if the nice value is refused.
        let keeps_nice = flags & SCHED_FLAG_KEEP_PARAMS != 0 || policy == SCHED_IDLE;
        let old = other.policy.load(Ordering::Relaxed);
        set_policy(task, &other, policy | reset)?;
        if keeps_nice {
            return Ok(());
        }
        set_nice(task, &other, nice).map_err(|_| {
            other.policy.store(old, Ordering::Relaxed);
            Errno::EPERM
        })
    };
    unit(work())
}

fn priorities(policy: u32) -> Result<(u64, u64), Errno> {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok((1, 99)),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

pub(crate) fn sched_get_priority_max(_task: &Arc<Task>, args: Args) -> Outcome {
    done(priorities(args.u32(0)).map(|(_, max)| max))
}

pub(crate) fn sched_get_priority_min(_task: &Arc<Task>, args: Args) -> Outcome {
    done(priorities(args.u32(0)).map(|(min, _)| min))
}

pub(crate) fn sched_rr_get_interval(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        task_of(task, args.i32(0))?;
        // The slice of a task in the fair class.
        task.mm().write(args.u64(1), &Timespec { tv_sec: 0, tv_nsec: 4_000_000 })
    };
    unit(work())
}

fn set_nice(task: &Task, other: &Arc<Task>, nice: i32) -> Result<(), Errno> {
    let nice = nice.clamp(-20, 19);
    let old = other.nice.load(Ordering::Relaxed);
    let creds = task.creds();
    if nice < old && !creds.capable(CAP_SYS_NICE) {
        if !may_nice(other, nice) {
            return Err(Errno::EACCES);
        }
    }
    other.nice.store(nice, Ordering::Relaxed);
    // What the host does not grant the sentry (raising) stays a guest's number.
    let _ = other.platform().set_nice(nice);
    Ok(())
}

/// The tasks that (which, who) name.
fn prioritized(task: &Arc<Task>, which: i32, who: i32) -> Result<Vec<Arc<Task>>, Errno> {
    let kernel = &task.kernel;
    let of = |processes: Vec<Arc<chitin_kernel::Process>>| -> Vec<Arc<Task>> {
        processes.iter().flat_map(|process| process.threads()).collect()
    };
    let tasks = match which {
        PRIO_PROCESS => match who {
            0 => vec![task.clone()],
            who => task.find_task(who).into_iter().collect(),
        },
        PRIO_PGRP => of(kernel.processes_in_group(match who {
            0 => task.process.pgid(),
            who => task.kid_of(who).ok_or(Errno::ESRCH)?,
        })),
        PRIO_USER => {
            let creds = task.creds();
            let uid = match who {
                0 => creds.uid,
                who => creds.user_ns.kuid(who.cast_unsigned()).ok_or(Errno::ESRCH)?,
            };
            let mut all = of(kernel.processes());
            let seen = |other: &Task| other.tid_in(task.pid_ns()) != 0;
            all.retain(|other| other.creds().uid == uid && seen(other));
            all
        }
        _ => return Err(Errno::EINVAL),
    };
    if tasks.is_empty() { Err(Errno::ESRCH) } else { Ok(tasks) }
}

pub(crate) fn getpriority(task: &Arc<Task>, args: Args) -> Outcome {
    let tasks = prioritized(task, args.i32(0), args.i32(1));
    let highest = |tasks: Vec<Arc<Task>>| {
        let nice = tasks.iter().map(|task| task.nice.load(Ordering::Relaxed)).min().unwrap_or(0);
        // The raw call answers 20 - nice, so that it is never negative.
        sign_extend(20 - nice)
    };
    done(tasks.map(highest))
}

pub(crate) fn setpriority(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let mut answer = Ok(());
        for other in prioritized(task, args.i32(0), args.i32(1))? {
            let (own, target) = (task.creds(), other.creds());
            if own.euid != target.uid
                && own.euid != target.euid
                && !own.capable_in(&target.user_ns, CAP_SYS_NICE)
            {
                answer = Err(Errno::EPERM);
                continue;
            }
            if let Err(errno) = set_nice(task, &other, args.i32(2)) {
                answer = Err(errno);
            }
        }
        answer
    };
    unit(work())
}

pub(crate) fn ioprio_get(task: &Arc<Task>, args: Args) -> Outcome {
    match args.i32(0) {
        1..=3 => done(task_of(task, args.i32(1)).map(|_| 0)),
        _ => Outcome::error(Errno::EINVAL),
    }
}

pub(crate) fn ioprio_set(task: &Arc<Task>, args: Args) -> Outcome {
    let class = args.u32(2) >> 13;
    match (args.i32(0), class) {
        (1..=3, 1) if !task.creds().capable(CAP_SYS_NICE) => Outcome::error(Errno::EPERM),
        (1..=3, 0..=3) => done(task_of(task, args.i32(1)).map(|_| 0)),
        _ => Outcome::error(Errno::EINVAL),
    }
}

/// Only where the thread runs is it known on which CPU: made there, once the places for the answer are the guest's to
/// have written.
pub(crate) fn getcpu(task: &Arc<Task>, args: Args) -> Outcome {
    for place in [0, 1] {
        let at = args.u64(place);
        if at != 0 && task.mm().range_call(&*task.platform(), at, size_of::<u32>() as u64).is_err() {
            return Outcome::error(Errno::EFAULT);
        }
    }
    Outcome::Native
}

fn set_limit(
    task: &Task,
    process: &chitin_kernel::Process,
    which: u32,
    new: Rlimit,
) -> Result<Rlimit, Errno> {
    if new.rlim_cur > new.rlim_max {
        return Err(Errno::EINVAL);
    }
    if which == RLIMIT_NOFILE && new.rlim_max > NR_OPEN {
        return Err(Errno::EPERM);
    }
    let privileged = task.creds().capable(CAP_SYS_RESOURCE);
    process.edit_rlimit(which, |old| {
        if new.rlim_max > old.rlim_max && !privileged { Err(Errno::EPERM) } else { Ok(new) }
    })
}

pub(crate) fn getrlimit(task: &Arc<Task>, args: Args) -> Outcome {
    if args.u32(0) >= RLIM_NLIMITS {
        return Outcome::error(Errno::EINVAL);
    }
    unit(task.mm().write(args.u64(1), &task.process.rlimit(args.u32(0))))
}

pub(crate) fn setrlimit(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let new: Rlimit = task.mm().read(args.u64(1))?;
        if args.u32(0) >= RLIM_NLIMITS {
            return Err(Errno::EINVAL);
        }
        set_limit(task, &task.process, args.u32(0), new).map(|_| ())
    };
    unit(work())
}

pub(crate) fn prlimit64(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let which = args.u32(1);
        let new = args.opt::<Rlimit>(2).map(|at| task.mm().read(at)).transpose()?;
        if which >= RLIM_NLIMITS {
            return Err(Errno::EINVAL);
        }
        let process = process_of(task, args.i32(0))?;
        if !Arc::ptr_eq(&process, &task.process) {
            let other = process.leader().ok_or(Errno::ESRCH)?.creds();
            let own = task.creds();
            let same = [other.uid, other.euid, other.suid].iter().all(|&uid| uid == own.uid);
            if !same && !own.capable_in(&other.user_ns, CAP_SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
        }
        let old = match new {
            Some(new) => set_limit(task, &process, which, new)?,
            None => process.rlimit(which),
        };
        match args.opt::<Rlimit>(3) {
            Some(at) => task.mm().write(at, &old),
            None => Ok(()),
        }
    };
    unit(work())
}

pub(crate) fn getrusage(task: &Arc<Task>, args: Args) -> Outcome {
    let usage = match args.i32(0) {
        RUSAGE_SELF => task.process.usage_self(),
        RUSAGE_CHILDREN => task.process.usage_children(),
        RUSAGE_THREAD => task.usage(),
        _ => return Outcome::error(Errno::EINVAL),
    };
    unit(task.mm().write(args.u64(1), &usage))
}
