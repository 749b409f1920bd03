//! stat and statm (fs/proc/array.c).

use super::Subject;
use super::access::may_inspect;
use crate::format::{escape, put};
use chitin_abi::Errno;
use chitin_abi::limits::PAGE_SIZE;
use chitin_abi::resource::{RLIMIT_RSS, Rusage};
use chitin_abi::sched::SCHED_RESET_ON_FORK;
use chitin_abi::signal::{SIG_DFL, SIG_IGN, SigSet};
use chitin_kernel::inspect::RunState;
use chitin_kernel::result::ExitStatus;
use chitin_kernel::signal::NSIG;
use chitin_kernel::time::ns::shifted;
use chitin_kernel::time::{self, Base};
use chitin_mm::Mm;
use chitin_vfs::Caller;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// State letter, and what status calls it.
pub(super) fn state(subject: &Subject) -> (char, &'static str) {
    match subject.task.as_ref().map(|task| task.run_state()) {
        Some(RunState::Running) => ('R', "running"),
        Some(RunState::Sleeping) => ('S', "sleeping"),
        Some(RunState::Stopped) => ('T', "stopped"),
        Some(RunState::Dead) => ('X', "dead"),
        None => ('Z', "zombie"),
    }
}

/// Ticks of 1/100 s.
fn ticks(ns: u64) -> u64 {
    ns / 10_000_000
}

fn rusage_ticks(usage: &Rusage) -> (u64, u64) {
    let of = |time: &chitin_abi::time::Timeval| {
        let micros = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_usec);
        u64::try_from(micros).unwrap_or(0) / 10_000
    };
    (of(&usage.ru_utime), of(&usage.ru_stime))
}

/// Ignored and caught signals.
pub(super) fn dispositions(subject: &Subject) -> (SigSet, SigSet) {
    let handlers = subject.process.handlers();
    let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
    for signal in 1..=NSIG {
        match handlers.get(signal).sa_handler {
            SIG_DFL => {}
            SIG_IGN => ignored.add(signal),
            _ => caught.add(signal),
        }
    }
    (ignored, caught)
}

/// The wait(2) status word of a process that has ended.
fn exit_code(subject: &Subject) -> u32 {
    match subject.process.exit_status() {
        Some(ExitStatus::Exited(code)) => u32::from(code) << 8,
        Some(ExitStatus::Signaled { signal, core }) => signal | if core { 0x80 } else { 0 },
        None => 0,
    }
}

/// The memory of a subject that still has some.
pub(super) fn memory(subject: &Subject) -> Option<Arc<Mm>> {
    let task = subject.task.as_ref().filter(|task| task.run_state() != RunState::Dead)?;
    Some(task.mm())
}

const PF_FORKNOEXEC: u32 = 0x40;
const PF_EXITING: u32 = 0x4;
const PF_RANDOMIZE: u32 = 0x40_0000;

pub(super) fn stat(subject: &Subject, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let permitted = may_inspect(opener, subject);
    let process = &subject.process;
    let task = subject.task.as_ref();
    put!(out, "{} (", subject.id);
    escape(out, &subject.name(), b"\n\\");
    put!(out, ") {} ", state(subject).0);

    let mut flags = PF_RANDOMIZE;
    if !process.has_execed() {
        flags |= PF_FORKNOEXEC;
    }
    if task.is_none() {
        flags |= PF_EXITING;
    }
    let tty = process.tty();
    let (dev, foreground) = tty.map_or((0, -1), |tty| (tty.dev(), subject.nr(tty.foreground())));
    let ns = &subject.shared.ns;
    let (ppid, pgid, sid) = (process.ppid_in(ns), process.pgrp().nr_in(ns), process.session().nr_in(ns));
    put!(out, "{ppid} {pgid} {sid} {dev} {foreground} {flags} ");
    // Faults: the host counts them for its own accounting only.
    put!(out, "0 0 0 0 ");

    let (user, system) = if subject.single && task.is_some() {
        let times = task.map(|task| task.platform().cpu_times()).unwrap_or_default();
        (times.user_ns, times.system_ns)
    } else {
        process.cpu_ns()
    };
    let (child_user, child_system) = rusage_ticks(&process.usage_children());
    let nice = task.map_or(0, |task| task.nice.load(Ordering::Relaxed));
    let threads = process.threads().len().max(1);
    put!(out, "{} {} {child_user} {child_system} ", ticks(user), ticks(system));
    put!(out, "{} {nice} {threads} 0 {} ", nice.saturating_add(20), started(subject));

    let mm = memory(subject);
    let usage = mm.as_ref().map(|mm| mm.space().usage()).unwrap_or_default();
    let limit = process.rlimit(RLIMIT_RSS).rlim_cur;
    put!(out, "{} {} {limit} ", usage.virt, usage.resident / PAGE_SIZE);
    let layout = mm.as_ref().map(|mm| mm.layout()).unwrap_or_default();
    // Addresses are for who may look; 1 says that there is something.
    let gate = |value: u64| match (&mm, permitted) {
        (None, _) => 0,
        (_, false) => 1,
        (_, true) => value,
    };
    put!(out, "{} {} ", gate(layout.start_code), gate(layout.end_code));
    put!(out, "{} 0 0 ", if permitted { layout.start_stack } else { 0 });

    let (ignored, caught) = dispositions(subject);
    let pending = task.map_or(SigSet::EMPTY, |task| task.pending_split().0);
    let blocked = task.map_or(SigSet::EMPTY, |task| task.signal_mask());
    for set in [pending, blocked, ignored, caught] {
        put!(out, "{} ", set.0 & 0x7fff_ffff);
    }
    let sleeping = u8::from(state(subject).0 == 'S');
    let exit_signal = if subject.single { -1 } else { process.exit_signal.load(Ordering::Relaxed) };
    let policy = task.map_or(0, |task| task.policy.load(Ordering::Relaxed) & !SCHED_RESET_ON_FORK);
    put!(out, "{sleeping} 0 0 {exit_signal} 0 0 {policy} 0 0 0");

    if mm.is_some() && permitted {
        let heap = mm.as_ref().map_or(0, |mm| mm.brk_range().start);
        put!(
            out,
            " {} {} {heap} {} {} {} {}",
            layout.start_data,
            layout.end_data,
            layout.arg.start,
            layout.arg.end,
            layout.env.start,
            layout.env.end
        );
    } else {
        put!(out, " 0 0 0 0 0 0 0");
    }
    put!(out, " {}\n", if permitted { exit_code(subject) } else { 0 });
    Ok(())
}

/// Ticks between boot and the start.
fn started(subject: &Subject) -> u64 {
    let started = match &subject.task {
        Some(task) if subject.single => task.started_ns,
        _ => subject.process.started_ns,
    };
    // As a clock that its readers in the same time namespace see.
    let offset = subject.task.as_ref().map_or(0, |task| task.time_offset(Base::Boottime));
    ticks(shifted(started.saturating_sub(subject.shared.kernel.boot_ns), offset))
}

pub(super) fn statm(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let usage = memory(subject).map(|mm| mm.space().usage()).unwrap_or_default();
    put!(
        out,
        "{} {} {} {} 0 {} 0\n",
        usage.virt / PAGE_SIZE,
        usage.resident / PAGE_SIZE,
        usage.shared / PAGE_SIZE,
        usage.text / PAGE_SIZE,
        usage.data / PAGE_SIZE
    );
    Ok(())
}

/// CPU time in nanoseconds, user and system together.
pub(super) fn cpu_ns(subject: &Subject) -> u64 {
    match &subject.task {
        Some(task) => time::thread_cpu_ns(task),
        None => time::process_cpu_ns(&subject.process),
    }
}
