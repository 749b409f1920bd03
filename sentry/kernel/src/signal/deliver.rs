//! Delivery: what happens on a task's way back to guest code (get_signal() and handle_signal()).

use super::{DefaultAction, default_action, force, frame, stop};
use crate::result::{ExitStatus, Outcome, Restart, SysError};
use crate::run::{Back, WORK_EXIT, WORK_SIGNAL, WORK_STOP, redo};
use crate::{Task, exit};
use chitin_abi::signal::*;
use chitin_platform::Registers;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the run loop does next.
pub(crate) enum Next {
    /// Try again to go back, with this.
    Again(Back),
    /// Stop, and go back with this once continued.
    Stop(Back),
    /// The registers are needed first.
    FetchFrame(Back),
    /// Make the call again, or go on with its rest.
    Redo(Option<crate::result::Blocking>),
    /// The task has ended.
    Gone,
}

/// Looks at the task's work bits once.
pub(crate) fn before_return(task: &Arc<Task>, back: Back) -> Next {
    let process = &task.process;
    if task.work.load(Ordering::Acquire) & WORK_EXIT != 0 {
        exit::finish_ended(task);
        return Next::Gone;
    }
    // First the mark, then the look: a stop that begins in between marks again.
    task.work.fetch_and(!WORK_STOP, Ordering::AcqRel);
    if stop::still_stopped(task) {
        return Next::Stop(back);
    }
    let Some((info, shared)) = dequeue(task) else {
        task.recalc_signals();
        task.restore_mask();
        if task.work.load(Ordering::Acquire) & WORK_SIGNAL != 0 {
            return Next::Again(back);
        }
        return match back {
            Back::Syscall(Err(SysError::Restart(restart))) => redo(restart),
            back => Next::Again(back),
        };
    };
    let signal = info.signo();
    let handlers = process.handlers();
    let action = handlers.get(signal);
    if action.sa_handler == SIG_IGN {
        return Next::Again(back);
    }
    if action.sa_handler == SIG_DFL {
        // One that init had blocked when it came. SIGKILL, SIGSTOP and exceptions are real.
        let real = matches!(signal, SIGKILL | SIGSTOP) || info.si_code > 0;
        if process.is_unkillable() && !real {
            return Next::Again(back);
        }
        match default_action(signal) {
            DefaultAction::Ignore | DefaultAction::Continue => {}
            DefaultAction::Stop => {
                let orphaned = signal != SIGSTOP && task.kernel.is_orphaned_group(process);
                if !orphaned {
                    stop::begin(task, signal);
                }
            }
            DefaultAction::Terminate | DefaultAction::Core => {
                // Core files are not written, so the dump flag of the status stays clear.
                exit::group_exit(process, ExitStatus::Signaled { signal, core: false });
                exit::finish_ended(task);
                return Next::Gone;
            }
        }
        return Next::Again(back);
    }
    // A handler: the register file is needed.
    let platform = task.platform();
    if !platform.has_frame() {
        put_back(task, info, shared);
        return Next::FetchFrame(back);
    }
    process.timers.delivered(&info);
    let Ok(mut regs) = platform.registers() else {
        exit::group_exit(process, ExitStatus::Signaled { signal: SIGKILL, core: false });
        exit::finish_ended(task);
        return Next::Gone;
    };
    apply_result(task, &mut regs, back, &action);
    if action.sa_flags & SA_RESETHAND != 0 {
        handlers.set(signal, SigAction::default());
    }
    match frame::push(task, &mut regs, &info, &action) {
        Ok(()) if platform.set_registers(&regs).is_ok() => {}
        _ => {
            // The stack is bad: a SIGSEGV that cannot be caught if it was one already.
            if signal == SIGSEGV {
                handlers.set(SIGSEGV, SigAction::default());
            }
            force(task, SigInfo::kernel(SIGSEGV));
        }
    }
    Next::Again(Back::Frame)
}

/// The next signal that is not blocked, and whether it was the process's.
fn dequeue(task: &Arc<Task>) -> Option<(SigInfo, bool)> {
    let mut shared = task.process.signals.lock();
    let mut own = task.signals.lock();
    let allowed = own.mask.complement();
    if let Some(info) = own.pending.take(allowed) {
        return Some((info, false));
    }
    shared.pending.take(allowed).map(|info| (info, true))
}

fn put_back(task: &Arc<Task>, info: SigInfo, shared: bool) {
    if shared {
        task.process.signals.lock().pending.put_back(info);
    } else {
        task.signals.lock().pending.put_back(info);
    }
    task.work.fetch_or(WORK_SIGNAL, Ordering::AcqRel);
}

/// Puts a call's result into the registers, as a handler with `action` will find it interrupted.
fn apply_result(task: &Task, regs: &mut Registers, back: Back, action: &SigAction) {
    let Back::Syscall(result) = back else { return };
    let eintr = (-i64::from(chitin_abi::Errno::EINTR.raw())).cast_unsigned();
    match result {
        Ok(value) => regs.rax = value,
        Err(SysError::Errno(errno)) => regs.rax = (-i64::from(errno.raw())).cast_unsigned(),
        Err(SysError::Restart(restart)) => {
            let again = match restart {
                Restart::Sys => action.sa_flags & SA_RESTART != 0,
                Restart::NoIntr => true,
                Restart::NoHand | Restart::Block(_) => false,
            };
            let call = task.run.lock().call;
            match call {
                Some(call) if again => {
                    regs.rax = call.nr;
                    // The `syscall` instruction is two bytes long.
                    regs.rip = call.ip.wrapping_sub(2);
                }
                _ => regs.rax = eintr,
            }
        }
    }
}

/// A hardware exception in guest code becomes a signal.
pub fn fault(task: &Arc<Task>, signal: i32, code: i32, addr: u64, trap_no: u64, error_code: u64) {
    let signal = u32::try_from(signal).unwrap_or(SIGSEGV);
    // What the frame shows in trapno, err and cr2.
    task.set_last_fault(trap_no, error_code, addr);
    force(task, SigInfo::fault(signal, code, addr));
}

/// rt_sigreturn(2): back to what the handler interrupted.
pub fn sigreturn(task: &Arc<Task>) -> Outcome {
    let platform = task.platform();
    let restored =
        platform.registers().map_err(|_| ()).and_then(|regs| frame::pop(task, &regs).map_err(|_| ()));
    match restored {
        Ok(regs) if platform.set_registers(&regs).is_ok() => {}
        _ => force(task, SigInfo::kernel(SIGSEGV)),
    }
    Outcome::Frame
}
