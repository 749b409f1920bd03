//! Coming by a mode or a filter: seccomp(2), and what the runtime's configuration asks for.

use super::bpf::Program;
use super::filter::Filter;
use super::notify::{self, Listener};
use crate::Task;
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::seccomp::*;
use std::sync::Arc;

const KNOWN_FLAGS: u32 = SECCOMP_FILTER_FLAG_TSYNC
    | SECCOMP_FILTER_FLAG_LOG
    | SECCOMP_FILTER_FLAG_SPEC_ALLOW
    | SECCOMP_FILTER_FLAG_NEW_LISTENER
    | SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;

/// SECCOMP_SET_MODE_STRICT.
pub fn set_strict(task: &Task) -> Result<(), Errno> {
    task.seccomp.may_assign(SECCOMP_MODE_STRICT)?;
    task.seccomp.set_strict();
    task.forget_answers();
    Ok(())
}

/// Whether flags of SECCOMP_SET_MODE_FILTER make sense, before the program is looked at.
pub fn check_flags(flags: u32) -> Result<(), Errno> {
    let has = |flag| flags & flag != 0;
    let confused = has(SECCOMP_FILTER_FLAG_TSYNC)
        && has(SECCOMP_FILTER_FLAG_NEW_LISTENER)
        && !has(SECCOMP_FILTER_FLAG_TSYNC_ESRCH);
    let pointless = has(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) && !has(SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if flags & !KNOWN_FLAGS != 0 || confused || pointless { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Whether the task may have a filter at all: one that cannot gain privileges, or an administrator.
pub fn check_privilege(task: &Task) -> Result<(), Errno> {
    let creds = task.creds();
    if creds.no_new_privs || creds.capable_here(CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::EACCES) }
}

/// SECCOMP_SET_MODE_FILTER with checked flags and privilege. The value is the listener's descriptor, the thread that
/// could not be synchronised, or 0.
pub fn set_filter(task: &Arc<Task>, flags: u32, code: Vec<SockFilter>) -> Result<u64, Errno> {
    let program = Program::new(code)?;
    if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return attach(task, flags, program, None);
    }
    let listener = Listener::new()?;
    let file = notify::file(&listener);
    let fd = task.files().add(file, true, 0, task.process.nofile())?;
    match attach(task, flags, program, Some(listener)) {
        Ok(0) => u64::try_from(fd).map_err(|_| Errno::EMFILE),
        other => {
            // Nobody was told its number.
            let _ = task.files().remove(fd);
            other
        }
    }
}

/// What the container's configuration installs, on a process that has not run yet. A filter of the runtime needs no
/// privilege of the process.
pub fn install(task: &Arc<Task>, flags: u32, code: Vec<SockFilter>) -> Result<(), Errno> {
    attach(task, flags & !SECCOMP_FILTER_FLAG_TSYNC, Program::new(code)?, None).map(drop)
}

fn attach(
    task: &Arc<Task>,
    flags: u32,
    program: Program,
    listener: Option<Arc<Listener>>,
) -> Result<u64, Errno> {
    // New threads enter the list under this lock, each with its maker's filters.
    let tree = task.kernel.tree.lock();
    task.seccomp.may_assign(SECCOMP_MODE_FILTER)?;
    let prev = task.seccomp.filter();
    if listener.is_some() && prev.iter().flat_map(Filter::chain).any(|elder| elder.listener.is_some()) {
        return Err(Errno::EBUSY);
    }
    let sync = flags & SECCOMP_FILTER_FLAG_TSYNC != 0;
    let mut others = if sync { task.process.threads() } else { Vec::new() };
    others.retain(|other| !Arc::ptr_eq(other, task));
    // Threads must not lose a filter that the caller does not have.
    let stray = others.iter().find(|other| {
        let own = other.seccomp.filter();
        let elder = |own: &Arc<Filter>| prev.iter().flat_map(Filter::chain).any(|f| Arc::ptr_eq(f, own));
        match other.seccomp.mode() {
            SECCOMP_MODE_DISABLED => false,
            SECCOMP_MODE_FILTER => own.as_ref().is_some_and(|own| !elder(own)),
            _ => true,
        }
    });
    if let Some(stray) = stray {
        return if flags & SECCOMP_FILTER_FLAG_TSYNC_ESRCH != 0 {
            Err(Errno::ESRCH)
        } else {
            u64::try_from(stray.tid()).map_err(|_| Errno::ESRCH)
        };
    }
    let filter = Filter::new(program, prev, flags, listener)?;
    task.seccomp.set_filter(filter.clone());
    task.forget_answers();
    let no_new_privs = task.creds().no_new_privs;
    for other in others {
        other.seccomp.set_filter(filter.clone());
        other.forget_answers();
        if no_new_privs {
            other.forbid_new_privs();
        }
    }
    drop(tree);
    Ok(0)
}
