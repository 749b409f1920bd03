//! Sending: what is ignored, queued, fatal at once, and which thread looks at it (kernel/signal.c).

use super::{DefaultAction, NSIG, default_action, stop};
use crate::result::ExitStatus;
use crate::run::WORK_SIGNAL;
use crate::{Process, Task, exit};
use chitin_abi::resource::RLIMIT_SIGPENDING;
use chitin_abi::signal::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Sends to a process; any thread that does not block the signal takes it. Answers whether it could be queued.
pub fn send_to_process(process: &Arc<Process>, info: SigInfo) -> bool {
    send(process, None, info, false)
}

/// Sends to one thread.
pub fn send_to_task(task: &Arc<Task>, info: SigInfo) -> bool {
    send(&task.process, Some(task), info, false)
}

/// Sends to every process of a group.
pub fn send_to_group(kernel: &crate::Kernel, pgid: i32, info: SigInfo) {
    for process in kernel.signal_targets(|process| process.pgid() == pgid).iter() {
        send_to_process(process, info);
    }
}

/// A signal the thread cannot escape (faults): if it is blocked or ignored, the default action happens.
pub fn force(task: &Arc<Task>, info: SigInfo) {
    let signal = info.signo();
    let handlers = task.process.handlers();
    let action = handlers.get(signal);
    let blocked = task.signal_mask().contains(signal);
    if blocked || action.sa_handler == SIG_IGN {
        handlers.set(signal, SigAction::default());
        let mut signals = task.signals.lock();
        signals.mask.remove(signal);
    }
    send(&task.process, Some(task), info, true);
}

fn send(process: &Arc<Process>, task: Option<&Arc<Task>>, info: SigInfo, forced: bool) -> bool {
    let signal = info.signo();
    if signal == 0 || signal > NSIG || process.is_zombie() {
        return true;
    }
    if signal == SIGCONT {
        stop::continue_process(process);
    } else if default_action(signal) == DefaultAction::Stop {
        drop_pending(process, SigSet::of(SIGCONT));
    }
    let action = process.handlers().get(signal);
    let threads = process.threads();
    let blocked_by = |task: &Arc<Task>| {
        let signals = task.signals.lock();
        signals.mask.contains(signal) || signals.waiting_for.contains(signal)
    };
    let blocked = match task {
        Some(task) => blocked_by(task),
        None => !threads.is_empty() && threads.iter().all(blocked_by),
    };
    let by_default = action.sa_handler == SIG_DFL;
    let outside = info.pid() == 0 && matches!(signal, SIGKILL | SIGSTOP);
    // Blocked ones wait all the same: init may take them by sigtimedwait, signalfd or a handler to come.
    if by_default && process.is_unkillable() && !outside && !forced && !blocked {
        return true;
    }
    let ignored = action.sa_handler == SIG_IGN
        || (by_default && matches!(default_action(signal), DefaultAction::Ignore | DefaultAction::Continue));
    if ignored && !blocked {
        return true;
    }
    let fatal =
        by_default && matches!(default_action(signal), DefaultAction::Terminate | DefaultAction::Core);
    // A stopped process takes nothing but SIGKILL until it is continued.
    let stopped = process.signals.lock().stop.is_some();
    let at_once = fatal && !blocked && !stopped && default_action(signal) == DefaultAction::Terminate;
    if signal == SIGKILL || at_once {
        exit::group_exit(process, ExitStatus::Signaled { signal, core: false });
        return true;
    }
    let limit = usize::try_from(process.rlimit(RLIMIT_SIGPENDING).rlim_cur).unwrap_or(usize::MAX);
    // Counted to whom it is sent.
    let user = task.or(threads.first()).map_or(0, |task| task.creds().uid);
    let queued = match task {
        Some(task) => task.signals.lock().pending.push(info, user, limit),
        None => process.signals.lock().pending.push(info, user, limit),
    };
    if !queued {
        return false;
    }
    // Whoever reads signals by descriptor or sigtimedwait.
    let shared_queue = process.signals.lock().arrivals.clone();
    shared_queue.wake(0);
    let target = match task {
        Some(task) => Some(task.clone()),
        None => threads
            .iter()
            .find(|task| task.is_leader() && !blocked_by(task))
            .or_else(|| threads.iter().find(|task| !blocked_by(task)))
            .cloned(),
    };
    for thread in &threads {
        let concerned = target.as_ref().is_none_or(|target| Arc::ptr_eq(target, thread));
        if concerned {
            let queue = thread.signals.lock().arrivals.clone();
            queue.wake(0);
        }
    }
    if let Some(target) = target
        && !blocked_by(&target)
    {
        target.work.fetch_or(WORK_SIGNAL, Ordering::AcqRel);
        target.kick();
    }
    true
}

/// Drops pending signals of a process and its threads.
pub(super) fn drop_pending(process: &Arc<Process>, set: SigSet) {
    process.signals.lock().pending.remove(set);
    for task in process.threads() {
        task.signals.lock().pending.remove(set);
    }
}
