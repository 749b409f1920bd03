//! A call's verdict, carried out (__seccomp_filter()).

use super::filter::Filter;
use super::notify;
use crate::kernel::SyscallArgs;
use crate::result::{Blocking, ExitStatus, Outcome};
use crate::sysctl::Sysctls;
use crate::{Task, exit, signal};
use chitin_abi::Errno;
use chitin_abi::nr::{SYS_exit, SYS_read, SYS_rt_sigreturn, SYS_write};
use chitin_abi::num::low32;
use chitin_abi::seccomp::*;
use chitin_abi::siginfo::SigInfo;
use chitin_abi::signal::{SIGKILL, SIGSYS, SYS_SECCOMP};
use std::sync::Arc;

const MAX_ERRNO: u32 = 4095;

/// How a call goes on that may pass.
pub(crate) enum Then {
    /// It begins.
    Dispatch,
    /// It was interrupted, and this is left of it.
    Rest(Blocking),
}

impl Then {
    pub(super) fn go(self, task: &Arc<Task>, call: SyscallArgs) -> Outcome {
        match self {
            Then::Dispatch => task.kernel.dispatch_allowed(task, call),
            Then::Rest(rest) => Outcome::Block(rest),
        }
    }
}

/// Lets a call pass (`then`), or does what the task's filters say instead.
pub(crate) fn enter(task: &Arc<Task>, call: SyscallArgs, then: Then) -> Outcome {
    if task.seccomp.mode() == SECCOMP_MODE_STRICT {
        return strict(task, call, then);
    }
    let Some(filter) = task.seccomp.filter() else { return then.go(task, call) };
    let data = data(call);
    let (answer, by) = filter.verdict(&data);
    let value = answer & SECCOMP_RET_DATA;
    let action = answer & SECCOMP_RET_ACTION_FULL;
    if action != SECCOMP_RET_ALLOW {
        log(task, &data, action, by);
    }
    match action {
        SECCOMP_RET_ALLOW | SECCOMP_RET_LOG => then.go(task, call),
        SECCOMP_RET_ERRNO => Outcome::value(failure(value.min(MAX_ERRNO))),
        SECCOMP_RET_TRAP => {
            signal::force(task, told(&data, value));
            // The handler finds the registers as they were.
            Outcome::value(call.nr)
        }
        // Nobody traces.
        SECCOMP_RET_TRACE => Outcome::error(Errno::ENOSYS),
        SECCOMP_RET_USER_NOTIF => notify::ask(task, by, call, data, then),
        SECCOMP_RET_KILL_THREAD if task.process.threads().len() > 1 => {
            exit::kill_thread(task, ExitStatus::Signaled { signal: SIGSYS, core: false });
            Outcome::Gone
        }
        // What is not known is KILL_PROCESS.
        _ => {
            exit::group_exit(&task.process, ExitStatus::Signaled { signal: SIGSYS, core: false });
            exit::finish_ended(task);
            Outcome::Gone
        }
    }
}

/// SECCOMP_MODE_STRICT: four calls, and SIGKILL for the thread that makes another one.
fn strict(task: &Arc<Task>, call: SyscallArgs, then: Then) -> Outcome {
    const ALLOWED: [u64; 4] = [SYS_read, SYS_write, SYS_exit, SYS_rt_sigreturn];
    if call.arch == AUDIT_ARCH_X86_64 && ALLOWED.contains(&call.nr) {
        return then.go(task, call);
    }
    exit::kill_thread(task, ExitStatus::Signaled { signal: SIGKILL, core: false });
    Outcome::Gone
}

fn data(call: SyscallArgs) -> SeccompData {
    SeccompData {
        nr: low32(call.nr).cast_signed(),
        arch: call.arch,
        instruction_pointer: call.ip,
        args: call.args,
    }
}

/// An errno as the raw value of a call; 0 is a success.
pub(super) fn failure(errno: u32) -> u64 {
    u64::from(errno).wrapping_neg()
}

/// The SIGSYS of SECCOMP_RET_TRAP.
fn told(data: &SeccompData, value: u32) -> SigInfo {
    let mut info = SigInfo::sys(SYS_SECCOMP, data.instruction_pointer, data.nr, data.arch);
    info.si_errno = value.cast_signed();
    info
}

/// The actions' names in /proc/sys/kernel/seccomp, the strictest first.
pub const ACTIONS: [(u32, &str); 8] = [
    (SECCOMP_RET_KILL_PROCESS, "kill_process"),
    (SECCOMP_RET_KILL_THREAD, "kill_thread"),
    (SECCOMP_RET_TRAP, "trap"),
    (SECCOMP_RET_ERRNO, "errno"),
    (SECCOMP_RET_USER_NOTIF, "user_notif"),
    (SECCOMP_RET_TRACE, "trace"),
    (SECCOMP_RET_LOG, "log"),
    (SECCOMP_RET_ALLOW, "allow"),
];
/// The tunable that names those to be logged.
pub const ACTIONS_LOGGED: &str = "kernel.seccomp.actions_logged";

/// seccomp_log(): there is no audit, the sandbox's own log has it.
fn log(task: &Task, data: &SeccompData, action: u32, by: &Filter) {
    let always = matches!(action, SECCOMP_RET_KILL_PROCESS | SECCOMP_RET_KILL_THREAD | SECCOMP_RET_LOG);
    if !(always || by.log) || !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let name = ACTIONS.iter().find(|(known, _)| *known == action).map_or("unknown", |(_, name)| *name);
    let chosen = Sysctls::of(&task.kernel).get(ACTIONS_LOGGED);
    if chosen.is_none_or(|chosen| chosen.split(|byte| *byte == b' ').any(|other| other == name.as_bytes())) {
        let (pid, nr, ip) = (task.pid(), data.nr, data.instruction_pointer);
        tracing::debug!(pid, nr, ip, action = name, "seccomp");
    }
}
