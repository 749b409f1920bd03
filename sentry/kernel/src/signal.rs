//! Signals: queues and masks (here), sending, delivery, frames, stops.
//!
//! Locks: `Process::signals` before `Task::signals` before `Task::run`; `SigHand::actions` is a leaf.

mod deliver;
mod frame;
mod many;
mod send;
mod stop;

pub(crate) use deliver::{Next, before_return};
pub use deliver::{fault, sigreturn};
pub(crate) use many::GroupSignals;
pub use many::Targets;
pub use send::{force, send_to_group, send_to_process, send_to_task};
pub(crate) use stop::{still_stopped, stopped, tell_if_all_stopped};

use crate::result::ExitStatus;
use crate::run::{WORK_SIGNAL, WORK_STOP};
use crate::{Process, Task};
use chitin_abi::signal::*;
use chitin_vfs::WaitQueue;
use chitin_vfs::bounds::{SIGNALS, USER_SIGNALS};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Signal numbers run from 1 to this.
pub const NSIG: u32 = 64;

/// The dispositions of a process; shared by CLONE_SIGHAND.
pub struct SigHand {
    actions: Mutex<[SigAction; NSIG as usize]>,
}

impl SigHand {
    pub fn new() -> Arc<SigHand> {
        Arc::new(SigHand { actions: Mutex::new([SigAction::default(); NSIG as usize]) })
    }
    /// For fork.
    pub fn copy(&self) -> Arc<SigHand> {
        Arc::new(SigHand { actions: Mutex::new(*self.actions.lock()) })
    }
    /// For execve: handlers go back to the default, ignored signals stay ignored.
    pub fn reset(&self) -> Arc<SigHand> {
        let mut actions = *self.actions.lock();
        for action in &mut actions {
            let ignored = action.sa_handler == SIG_IGN;
            *action = SigAction::default();
            if ignored {
                action.sa_handler = SIG_IGN;
            }
        }
        Arc::new(SigHand { actions: Mutex::new(actions) })
    }
    pub fn get(&self, signal: u32) -> SigAction {
        let index = signal.wrapping_sub(1) as usize;
        self.actions.lock().get(index).copied().unwrap_or_default()
    }
    /// Sets an action and answers the old one.
    pub fn set(&self, signal: u32, action: SigAction) -> SigAction {
        let index = signal.wrapping_sub(1) as usize;
        match self.actions.lock().get_mut(index) {
            Some(slot) => std::mem::replace(slot, action),
            None => SigAction::default(),
        }
    }
}

/// What a signal does by default (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    Terminate,
    Core,
    Ignore,
    Stop,
    Continue,
}

/// The default action of a signal.
pub fn default_action(signal: u32) -> DefaultAction {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH => DefaultAction::Ignore,
        SIGCONT => DefaultAction::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => DefaultAction::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ | SIGSYS => {
            DefaultAction::Core
        }
        _ => DefaultAction::Terminate,
    }
}

/// A queued signal's or POSIX timer's place among those of its user (RLIMIT_SIGPENDING) and of the sandbox.
pub struct Queued {
    user: u32,
}

impl Queued {
    /// `None` when the user has `limit` of them, or the sandbox has too many.
    pub fn new(user: u32, limit: usize) -> Option<Queued> {
        if USER_SIGNALS.add(user, 1) > limit || !SIGNALS.take(1) {
            USER_SIGNALS.sub(user, 1);
            return None;
        }
        Some(Queued { user })
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        USER_SIGNALS.sub(self.user, 1);
        SIGNALS.give(1);
    }
}

/// A set of pending signals with their information.
#[derive(Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<(SigInfo, Option<Queued>)>,
    /// Expirations of timers whose signal is queued, by signal and timer, beyond those in it.
    overruns: BTreeMap<(u32, i32), i32>,
}

impl Pending {
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Queues a signal. Standard signals do not queue twice; real-time ones do while their receiver, `user`, has not
    /// `limit` of them (`false` then: EAGAIN for sigqueue).
    pub fn push(&mut self, info: SigInfo, user: u32, limit: usize) -> bool {
        let signal = info.signo();
        let timer = info.si_code == SI_TIMER;
        if timer && self.overrun(&info) {
            return true;
        }
        if !is_realtime(signal) && self.set.contains(signal) {
            return true;
        }
        let limit = match () {
            // These count, and come in any case.
            () if !is_realtime(signal) => usize::MAX,
            // A timer counts already; guests can make such signals without one.
            () if timer => limit.saturating_mul(2),
            () => limit,
        };
        let place = Queued::new(user, limit);
        if place.is_none() && is_realtime(signal) {
            return false;
        }
        if timer {
            self.overruns.insert((signal, info.timer_id()), 0);
        }
        self.set.add(signal);
        self.queue.push_back((info, place));
        true
    }

    /// A POSIX timer that has expired again before its signal was taken: counts, and queues nothing.
    fn overrun(&mut self, info: &SigInfo) -> bool {
        let Some(known) = self.overruns.get_mut(&(info.signo(), info.timer_id())) else { return false };
        *known = known.saturating_add(1).saturating_add(info.overrun());
        true
    }

    /// What is told of a signal that leaves the queue.
    fn leaving(&mut self, mut info: SigInfo) -> SigInfo {
        if info.si_code == SI_TIMER
            && let Some(more) = self.overruns.remove(&(info.signo(), info.timer_id()))
        {
            info.set_overrun(info.overrun().saturating_add(more));
        }
        info
    }

    /// Takes the next signal out of `allowed`: synchronous ones first, then the lowest number.
    pub fn take(&mut self, allowed: SigSet) -> Option<SigInfo> {
        let ready = self.set.intersection(allowed);
        let signal = ready.intersection(SigSet::SYNCHRONOUS).first().or_else(|| ready.first())?;
        let at = self.queue.iter().position(|(info, _)| info.signo() == signal)?;
        let (info, _) = self.queue.remove(at)?;
        let info = self.leaving(info);
        if !self.queue.iter().any(|(other, _)| other.signo() == signal) {
            self.set.remove(signal);
        }
        Some(info)
    }

    /// Puts a signal back before the others.
    pub fn put_back(&mut self, info: SigInfo) {
        self.set.add(info.signo());
        if info.si_code == SI_TIMER {
            self.overruns.entry((info.signo(), info.timer_id())).or_default();
        }
        self.queue.push_front((info, None));
    }

    /// Drops what is pending of `signals`.
    pub fn remove(&mut self, signals: SigSet) {
        self.set = self.set.difference(signals);
        self.queue.retain(|(info, _)| !signals.contains(info.signo()));
        self.overruns.retain(|(signal, _), _| !signals.contains(*signal));
    }

    pub fn clear(&mut self) {
        *self = Pending::default();
    }
}

/// A thread's part.
#[derive(Default)]
pub struct TaskSignals {
    pub(crate) pending: Pending,
    pub(crate) mask: SigSet,
    /// The mask to go back to after a handler of sigsuspend, ppoll and the like has been set up.
    pub(crate) saved_mask: Option<SigSet>,
    pub(crate) altstack: StackT,
    /// signalfd reads and sigtimedwait sleep here.
    pub(crate) arrivals: WaitQueue,
    /// What sigtimedwait waits for: such signals are queued for it even if they are ignored by default.
    pub(crate) waiting_for: SigSet,
}

/// A process's part.
#[derive(Default)]
pub struct SharedSignals {
    pub(crate) pending: Pending,
    pub(crate) group_exit: Option<ExitStatus>,
    /// The signal that stops (or stopped) the process.
    pub(crate) stop: Option<u32>,
    /// All threads have stopped and the parent was told.
    pub(crate) stop_told: bool,
    /// Threads other than this one are being ended for an execve.
    pub(crate) execing: Option<i32>,
    /// signalfd reads of any thread sleep here.
    pub(crate) arrivals: WaitQueue,
}

impl Task {
    pub fn signal_mask(&self) -> SigSet {
        self.signals.lock().mask
    }

    /// Sets the mask (SIGKILL and SIGSTOP stay unblocked); what became deliverable is looked at on the way out.
    pub fn set_signal_mask(self: &Arc<Task>, mask: SigSet) {
        {
            let mut signals = self.signals.lock();
            signals.mask = mask.difference(SigSet::UNBLOCKABLE);
        }
        self.recalc_signals();
    }

    /// Sets a mask for the duration of a call: the old one comes back after the call, or after the handler.
    pub fn set_temporary_mask(self: &Arc<Task>, mask: SigSet) {
        {
            let mut signals = self.signals.lock();
            signals.saved_mask = Some(signals.mask);
            signals.mask = mask.difference(SigSet::UNBLOCKABLE);
        }
        self.recalc_signals();
    }

    /// Ends a temporary mask when the call was not interrupted.
    pub fn restore_mask(self: &Arc<Task>) {
        {
            let mut signals = self.signals.lock();
            if let Some(mask) = signals.saved_mask.take() {
                signals.mask = mask;
            }
        }
        self.recalc_signals();
    }

    /// Signals that this thread is about to take by sigtimedwait.
    pub fn set_waiting_for(&self, set: SigSet) {
        self.signals.lock().waiting_for = set;
    }

    pub fn altstack(&self) -> StackT {
        self.signals.lock().altstack
    }
    pub fn set_altstack(&self, stack: StackT) {
        self.signals.lock().altstack = stack;
    }

    /// All pending signals, of the thread and the process (sigpending).
    pub fn pending_signals(&self) -> SigSet {
        let shared = self.process.signals.lock().pending.set();
        shared.union(self.signals.lock().pending.set())
    }

    /// Pending of the thread, of the process (for /proc).
    pub fn pending_split(&self) -> (SigSet, SigSet) {
        let shared = self.process.signals.lock().pending.set();
        (self.signals.lock().pending.set(), shared)
    }

    /// Sets or clears WORK_SIGNAL by what is pending and not blocked.
    pub(crate) fn recalc_signals(self: &Arc<Task>) {
        let shared = self.process.signals.lock();
        let own = self.signals.lock();
        let ready = shared.pending.set().union(own.pending.set()).difference(own.mask);
        if ready.is_empty() {
            self.work.fetch_and(!WORK_SIGNAL, Ordering::AcqRel);
        } else {
            self.work.fetch_or(WORK_SIGNAL, Ordering::AcqRel);
        }
        if shared.stop.is_none() {
            self.work.fetch_and(!WORK_STOP, Ordering::AcqRel);
        }
    }

    /// Takes a pending signal out of `set` without delivering it (sigtimedwait, signalfd).
    pub fn take_signal(self: &Arc<Task>, set: SigSet) -> Option<SigInfo> {
        let set = set.difference(SigSet::UNBLOCKABLE);
        let taken = {
            let mut shared = self.process.signals.lock();
            let mut own = self.signals.lock();
            own.pending.take(set).or_else(|| shared.pending.take(set))
        };
        if let Some(info) = &taken {
            self.process.timers.delivered(info);
            self.recalc_signals();
        }
        taken
    }

    /// The queue that is woken when a signal arrives for this thread, and the one for its process.
    pub fn signal_arrivals(&self) -> (WaitQueue, WaitQueue) {
        (self.signals.lock().arrivals.clone(), self.process.signals.lock().arrivals.clone())
    }
}

impl Process {
    /// Whether init: signals without a handler do not reach it.
    pub(crate) fn is_unkillable(&self) -> bool {
        self.is_ns_init() && !self.pid_ns().plain_init.load(Ordering::Relaxed)
    }

    pub fn group_exit(&self) -> Option<ExitStatus> {
        self.signals.lock().group_exit
    }

    /// The signal it is stopped by.
    pub fn stopped_by(&self) -> Option<u32> {
        let signals = self.signals.lock();
        signals.stop.filter(|_| signals.stop_told)
    }

    /// rt_sigaction: sets an action, and drops pending signals that it now ignores.
    pub fn set_action(&self, signal: u32, action: SigAction) -> SigAction {
        let old = self.handlers().set(signal, action);
        let ignores = action.sa_handler == SIG_IGN
            || (action.sa_handler == SIG_DFL
                && matches!(default_action(signal), DefaultAction::Ignore | DefaultAction::Continue));
        if ignores {
            let set = SigSet::of(signal);
            let mut shared = self.signals.lock();
            shared.pending.remove(set);
            for task in self.threads.lock().iter() {
                task.signals.lock().pending.remove(set);
            }
        }
        old
    }
}
