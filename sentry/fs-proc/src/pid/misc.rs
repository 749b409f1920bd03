//! The small files of a process.

use super::Subject;
use super::stat::{cpu_ns, memory};
use crate::format::{number, put, trimmed};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_AUDIT_CONTROL, CAP_SYS_RESOURCE};
use chitin_abi::resource::*;
use chitin_kernel::kernel::SyscallArgs;
use chitin_vfs::Caller;
use std::sync::atomic::{AtomicU32, Ordering};

type Shown = Result<(), Errno>;

pub(super) fn limits(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    const NAMES: &[(u32, &str, &str)] = &[
        (RLIMIT_CPU, "Max cpu time", "seconds"),
        (RLIMIT_FSIZE, "Max file size", "bytes"),
        (RLIMIT_DATA, "Max data size", "bytes"),
        (RLIMIT_STACK, "Max stack size", "bytes"),
        (RLIMIT_CORE, "Max core file size", "bytes"),
        (RLIMIT_RSS, "Max resident set", "bytes"),
        (RLIMIT_NPROC, "Max processes", "processes"),
        (RLIMIT_NOFILE, "Max open files", "files"),
        (RLIMIT_MEMLOCK, "Max locked memory", "bytes"),
        (RLIMIT_AS, "Max address space", "bytes"),
        (RLIMIT_LOCKS, "Max file locks", "locks"),
        (RLIMIT_SIGPENDING, "Max pending signals", "signals"),
        (RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"),
        (RLIMIT_NICE, "Max nice priority", ""),
        (RLIMIT_RTPRIO, "Max realtime priority", ""),
        (RLIMIT_RTTIME, "Max realtime timeout", "us"),
    ];
    put!(out, "{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let show = |value: u64| if value == RLIM_INFINITY { "unlimited".into() } else { value.to_string() };
    for &(which, name, unit) in NAMES {
        let limit = subject.process.rlimit(which);
        put!(out, "{name:<25} {:<20} {:<20} ", show(limit.rlim_cur), show(limit.rlim_max));
        if unit.is_empty() {
            out.push(b'\n');
        } else {
            put!(out, "{unit:<10}\n");
        }
    }
    Ok(())
}

pub(super) fn io(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let (mut rchar, mut wchar, mut syscr, mut syscw) = (0u64, 0u64, 0u64, 0u64);
    for task in subject.tasks() {
        let counters = &task.counters;
        rchar = rchar.saturating_add(counters.read_chars.load(Ordering::Relaxed));
        wchar = wchar.saturating_add(counters.write_chars.load(Ordering::Relaxed));
        syscr = syscr.saturating_add(counters.read_calls.load(Ordering::Relaxed));
        syscw = syscw.saturating_add(counters.write_calls.load(Ordering::Relaxed));
    }
    put!(out, "rchar: {rchar}\nwchar: {wchar}\nsyscr: {syscr}\nsyscw: {syscw}\n");
    put!(out, "read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
    Ok(())
}

pub(super) fn comm(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    out.extend_from_slice(&subject.name());
    out.push(b'\n');
    Ok(())
}

pub(super) fn set_comm(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    if opener.tgid != subject.process.kid() {
        return Err(Errno::EINVAL);
    }
    let name = data.split(|&byte| byte == 0).next().unwrap_or_default();
    subject.task()?.set_name(name);
    Ok(())
}

pub(super) fn sched(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let threads = subject.process.threads().len().max(1);
    out.extend_from_slice(&subject.name());
    put!(out, " ({}, #threads: {threads})\n", subject.id);
    put!(out, "-------------------------------------------------------------------\n");
    let cpu = cpu_ns(subject);
    let (nice, switches) = subject.task.as_ref().map_or((0, 0), |task| {
        (task.nice.load(Ordering::Relaxed), task.counters.voluntary_switches.load(Ordering::Relaxed))
    });
    let preempted = subject.task.as_ref().map_or(0, |task| task.platform().preemptions());
    let millis = format!("{}.{:06}", cpu / 1_000_000, cpu % 1_000_000);
    put!(out, "{:<45}:{millis:>21}\n", "se.sum_exec_runtime");
    for (name, value) in [
        ("nr_switches", switches.saturating_add(preempted)),
        ("nr_voluntary_switches", switches),
        ("nr_involuntary_switches", preempted),
        ("policy", 0),
        ("prio", u64::try_from(nice.saturating_add(120)).unwrap_or(0)),
    ] {
        put!(out, "{name:<45}:{value:>21}\n");
    }
    Ok(())
}

pub(super) fn schedstat(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let switches =
        subject.task.as_ref().map_or(0, |task| task.counters.voluntary_switches.load(Ordering::Relaxed));
    put!(out, "{} 0 {switches}\n", cpu_ns(subject));
    Ok(())
}

/// syscall: the parked call with its arguments, stack pointer and program counter.
pub(super) fn syscall(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let task = subject.task()?;
    match task.parked_call() {
        Some(SyscallArgs { nr, args, ip, .. }) => {
            // A call without a frame has left the stack pointer in the guest's thread.
            let sp = task.platform().registers().map_or(0, |registers| registers.rsp);
            put!(out, "{nr}");
            args.iter().for_each(|arg| put!(out, " 0x{arg:x}"));
            put!(out, " 0x{sp:x} 0x{ip:x}\n");
        }
        None => put!(out, "running\n"),
    }
    Ok(())
}

/// wchan: no symbol is known, as where kernel symbols are hidden.
pub(super) fn wchan(_subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    out.push(b'0');
    Ok(())
}

pub(super) fn personality(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    put!(out, "{:08x}\n", subject.process.personality.load(Ordering::Relaxed));
    Ok(())
}

pub(super) fn cpuset(_subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    out.extend_from_slice(b"/\n");
    Ok(())
}

/// One hierarchy; the path is as the reader's cgroup namespace has it.
pub(super) fn cgroup(subject: &Subject, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let cgroup = subject.process.cgroup();
    let reader = subject.shared.kernel.task_by_kid(opener.tid);
    let root = reader.map_or_else(|| cgroup.clone(), |task| task.namespaces().cgroup.root.clone());
    out.extend_from_slice(b"0::");
    out.extend_from_slice(&cgroup.path_from(&root));
    out.push(b'\n');
    Ok(())
}

fn adj(subject: &Subject) -> i64 {
    i64::from(subject.process.oom_score_adj.load(Ordering::Relaxed))
}

pub(super) fn oom_score(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    const MIN: i64 = -1000;
    let adj = adj(subject);
    let score = match memory(subject) {
        Some(mm) if adj != MIN => {
            let total = i64::try_from(subject.shared.container.memory()).unwrap_or(i64::MAX).max(1);
            let used = i64::try_from(mm.space().usage().resident).unwrap_or(i64::MAX);
            let share = i64::try_from(i128::from(used) * 1000 / i128::from(total)).unwrap_or(i64::MAX);
            (1000i64.saturating_add(share).saturating_add(adj)).max(0) * 2 / 3
        }
        _ => 0,
    };
    put!(out, "{score}\n");
    Ok(())
}

pub(super) fn oom_score_adj(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    put!(out, "{}\n", adj(subject));
    Ok(())
}

fn set_adj(subject: &Subject, opener: &Caller, value: i64) -> Shown {
    if value < adj(subject) && !opener.creds.capable(CAP_SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    let value = i32::try_from(value).map_err(|_| Errno::EINVAL)?;
    subject.process.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

pub(super) fn set_oom_score_adj(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    let value = number(trimmed(data)?)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    set_adj(subject, opener, value)
}

pub(super) fn oom_adj(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let adj = adj(subject);
    put!(out, "{}\n", if adj == 1000 { 15 } else { adj * 17 / 1000 });
    Ok(())
}

pub(super) fn set_oom_adj(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    match number(trimmed(data)?)? {
        15 => set_adj(subject, opener, 1000),
        value @ -17..15 => set_adj(subject, opener, value * 1000 / 17),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn loginuid(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    put!(out, "{}", subject.process.loginuid.load(Ordering::Relaxed));
    Ok(())
}

pub(super) fn sessionid(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    put!(out, "{}", subject.process.sessionid.load(Ordering::Relaxed));
    Ok(())
}

/// audit_set_loginuid(): once, or with CAP_AUDIT_CONTROL, and only by the process itself.
pub(super) fn set_loginuid(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    static LAST_SESSION: AtomicU32 = AtomicU32::new(0);
    let process = &subject.process;
    if opener.tgid != process.kid() {
        return Err(Errno::EPERM);
    }
    let value = u32::try_from(number(trimmed(data)?)?).map_err(|_| Errno::EINVAL)?;
    let set = process.loginuid.load(Ordering::Relaxed) != u32::MAX;
    if set && !opener.creds.capable(CAP_AUDIT_CONTROL) {
        return Err(Errno::EPERM);
    }
    let session = if value == u32::MAX {
        u32::MAX
    } else {
        LAST_SESSION.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    };
    process.loginuid.store(value, Ordering::Relaxed);
    process.sessionid.store(session, Ordering::Relaxed);
    Ok(())
}

/// coredump_filter: the default; nobody dumps core.
pub(super) fn coredump_filter(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    if memory(subject).is_some() {
        put!(out, "{:08x}\n", 0x33);
    }
    Ok(())
}

pub(super) fn timerslack(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    subject.task()?;
    put!(out, "50000\n");
    Ok(())
}

/// children: of the whole process, shown with its leader.
pub(super) fn children(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    if subject.id == subject.pid() {
        let ns = &subject.shared.ns;
        let mut pids: Vec<i32> = subject.process.children().iter().map(|child| child.pid_in(ns)).collect();
        pids.sort_unstable();
        pids.iter().for_each(|pid| put!(out, "{pid} "));
    }
    Ok(())
}
