//! The run loop: from a platform's event to the task's next guest instruction.
//!
//! A task is in one [`State`] at a time, under `Task::run`. Futures of parked calls are polled by whichever thread woke
//! them: [`Wake`] puts the task on the current thread's run queue, [`drain`] works it off once no locks are held. A call
//! that is cut into steps is parked between them as well, and goes on in a [`crate::lane`].

use crate::kernel::{Kernel, SyscallArgs};
use crate::result::{Blocking, Interrupted, Outcome, Restart, SysError, SysResult};
use crate::seccomp::enter::{Then, enter};
use crate::signal::{self, Next};
use crate::{Task, exit, lane, sigio};
use chitin_abi::Errno;
use chitin_abi::nr::SYS_restart_syscall;
use chitin_platform::{Event, EventKind, Resume};
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A signal may be deliverable.
pub(crate) const WORK_SIGNAL: u32 = 1;
/// The process is stopping.
pub(crate) const WORK_STOP: u32 = 2;
/// The process (or this thread, for execve) is ending.
pub(crate) const WORK_EXIT: u32 = 4;
/// The container is frozen; waits are not interrupted by it.
pub(crate) const WORK_FREEZE: u32 = 8;

/// What a task is doing.
pub(crate) enum State {
    /// Runs guest code, or is about to.
    Guest,
    /// A thread is in its system call or on its way back.
    Handling,
    /// A call is parked.
    Blocked(Blocking),
    /// A thread is polling its call; woken again meanwhile?
    Polling { woken: bool },
    /// Stopped by job control; goes on with `Run::back`.
    Stopped,
    /// Stopped with its container; goes on with `Run::back`.
    Frozen,
    /// Has ended.
    Dead,
}

/// What it goes back to the guest with.
pub(crate) enum Back {
    Syscall(SysResult),
    Frame,
}

pub(crate) struct Run {
    pub(crate) state: State,
    /// Kept while stopped or frozen, and while the platform fetches a frame.
    pub(crate) back: Option<Back>,
    /// The call being handled, for restarts.
    pub(crate) call: Option<SyscallArgs>,
}

impl Default for Run {
    fn default() -> Self {
        // A new task has not run yet: its maker resumes it.
        Run { state: State::Handling, back: None, call: None }
    }
}

thread_local! {
    static QUEUE: RefCell<VecDeque<Arc<Task>>> = const { RefCell::new(VecDeque::new()) };
    /// Whether this thread calls [`drain`]; what others wake (a platform's helper threads) goes to the reactor.
    static DRAINS: Cell<bool> = const { Cell::new(false) };
}

/// Woken by threads that do not drain; worked off by whoever drains next, the reactor at the latest.
static INJECTED: Mutex<VecDeque<Arc<Task>>> = Mutex::new(VecDeque::new());
static ANY_INJECTED: AtomicBool = AtomicBool::new(false);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if DRAINS.get() {
            QUEUE.with_borrow_mut(|queue| queue.push_back(self.clone()));
        } else {
            INJECTED.lock().push_back(self.clone());
            ANY_INJECTED.store(true, Ordering::Release);
            self.kernel.reactor.ring();
        }
    }
}

/// Whether this thread calls [`drain`].
pub(crate) fn drains() -> bool {
    DRAINS.get()
}

/// Works off this thread's run queue. Every kernel thread calls it after each unit of work, holding no lock.
pub fn drain() {
    DRAINS.set(true);
    sigio::flush();
    // Looked at first: only who writes takes the line from other threads.
    if ANY_INJECTED.load(Ordering::Relaxed) && ANY_INJECTED.swap(false, Ordering::AcqRel) {
        let injected = std::mem::take(&mut *INJECTED.lock());
        for task in injected {
            task.queued.store(false, Ordering::Release);
            task.woken();
        }
        sigio::flush();
    }
    while let Some(task) = QUEUE.with_borrow_mut(VecDeque::pop_front) {
        task.queued.store(false, Ordering::Release);
        task.woken();
        sigio::flush();
    }
}

/// Serves the platform's events for ever: the body of a worker thread.
pub fn worker(kernel: &Arc<Kernel>) -> ! {
    drain();
    loop {
        handle(kernel, kernel.platform.next_event(&drain));
        drain();
    }
}

/// Handles one event.
pub fn handle(kernel: &Arc<Kernel>, event: Event) {
    let Ok(task) = event.owner.downcast::<Task>() else { return };
    if let EventKind::Exited { signal } = event.kind {
        exit::host_death(&task, signal);
        return;
    }
    {
        let mut run = task.run.lock();
        if matches!(run.state, State::Dead) {
            return;
        }
        run.state = State::Handling;
        if let EventKind::Syscall { arch, nr, args, ip } = event.kind {
            run.call = Some(SyscallArgs { arch, nr, args, ip });
        }
    }
    match event.kind {
        EventKind::Syscall { arch, nr, args, ip } => {
            let call = SyscallArgs { arch, nr, args, ip };
            task.in_syscall.store(nr, Ordering::Relaxed);
            let outcome = kernel.dispatch(&task, call);
            sigio::flush();
            task.settle(outcome);
        }
        EventKind::Fault { signal, code, addr, trap_no, error_code } => {
            signal::fault(&task, signal, code, addr, trap_no, error_code);
            task.go(Back::Frame);
        }
        EventKind::Interrupted => {
            let back = task.run.lock().back.take().unwrap_or(Back::Frame);
            task.go(back);
        }
        EventKind::Exited { .. } => {}
    }
}

impl Task {
    /// Starts a new task's guest code: its frame is as the platform or execve set it.
    pub(crate) fn start(self: &Arc<Task>) {
        self.go(Back::Frame);
    }

    /// Whether a blocking call should give way: a signal, a stop or the end is pending.
    pub fn signal_pending(&self) -> bool {
        self.work.load(Ordering::Acquire) & !WORK_FREEZE != 0
    }

    /// The task's end was decided. Looked at with `run` locked before the task is handed to anybody: whoever decides marks
    /// first and locks second ([`exit::end_if_idle`]), so one of the two sees the other.
    fn is_ending(&self) -> bool {
        self.work.load(Ordering::Acquire) & WORK_EXIT != 0
    }

    /// Waits for `future` unless something has to be looked at first. A ready future wins over a signal.
    pub fn interruptible<F: Future>(self: &Arc<Task>, future: F) -> Interruptible<F> {
        Interruptible { task: self.clone(), future: Box::pin(future), only_fatal: false }
    }

    /// As [`Task::interruptible`], but only the end of the task interrupts.
    pub fn killable<F: Future>(self: &Arc<Task>, future: F) -> Interruptible<F> {
        Interruptible { task: self.clone(), future: Box::pin(future), only_fatal: true }
    }

    /// Makes the task look at its work bits soon.
    pub(crate) fn kick(self: &Arc<Task>) {
        let run = self.run.lock();
        match run.state {
            State::Guest => self.platform().interrupt(),
            State::Blocked(_) | State::Polling { .. } | State::Stopped | State::Frozen => self.wake_by_ref(),
            State::Handling | State::Dead => {}
        }
    }

    pub(crate) fn add_work(self: &Arc<Task>, bit: u32) {
        self.work.fetch_or(bit, Ordering::AcqRel);
        self.kick();
    }

    /// On the run queue no longer: goes on with whatever it waited for.
    pub(crate) fn woken(self: &Arc<Task>) {
        let mut run = self.run.lock();
        match std::mem::replace(&mut run.state, State::Handling) {
            State::Blocked(call) => {
                drop(run);
                self.poll(call);
            }
            State::Polling { .. } => run.state = State::Polling { woken: true },
            State::Stopped => {
                run.state = State::Stopped;
                // The process's signals come before `run` in the lock order.
                drop(run);
                if signal::still_stopped(self) {
                    return;
                }
                let mut run = self.run.lock();
                if !matches!(run.state, State::Stopped) {
                    return;
                }
                run.state = State::Handling;
                let back = run.back.take().unwrap_or(Back::Frame);
                drop(run);
                self.go(back);
            }
            State::Frozen if self.process.is_frozen() => run.state = State::Frozen,
            State::Frozen => {
                let back = run.back.take().unwrap_or(Back::Frame);
                drop(run);
                self.go(back);
            }
            other => run.state = other,
        }
    }

    /// Stops with its container. Whoever lets the container go on takes the mark off first and looks at the state second.
    fn freeze(self: &Arc<Task>, back: Back) {
        self.platform().set_aside();
        {
            let mut run = self.run.lock();
            if matches!(run.state, State::Dead) {
                return;
            }
            if self.is_ending() {
                drop(run);
                return exit::finish_ended(self);
            }
            run.back = Some(back);
            run.state = State::Frozen;
        }
        if !self.process.is_frozen() {
            self.work.fetch_and(!WORK_FREEZE, Ordering::AcqRel);
            self.wake_by_ref();
        }
    }

    /// Acts on what a handler answered.
    pub(crate) fn settle(self: &Arc<Task>, outcome: Outcome) {
        match outcome {
            Outcome::Done(result) => self.go(Back::Syscall(result)),
            Outcome::Block(call) => self.poll(call),
            Outcome::Frame => self.go(Back::Frame),
            Outcome::Native => {
                let mut run = self.run.lock();
                if matches!(run.state, State::Dead) {
                    return;
                }
                if self.is_ending() {
                    drop(run);
                    return exit::finish_ended(self);
                }
                run.state = State::Guest;
                let platform = self.platform();
                if self.work.load(Ordering::Acquire) != 0 {
                    platform.interrupt();
                }
                drop(run);
                self.in_syscall.store(u64::MAX, Ordering::Relaxed);
                platform.resume(Resume::Native);
            }
            Outcome::Gone => self.platform().set_aside(),
        }
    }

    fn poll(self: &Arc<Task>, mut call: Blocking) {
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        let mut waited = false;
        loop {
            {
                let mut run = self.run.lock();
                if matches!(run.state, State::Dead) {
                    return;
                }
                run.state = State::Polling { woken: false };
            }
            let answer = call.as_mut().poll(&mut cx);
            if answer.is_pending() {
                self.platform().set_aside();
            }
            let mut run = self.run.lock();
            let woken = match run.state {
                State::Polling { woken } => woken,
                // It ended meanwhile; dropping the future below undoes its registrations.
                _ => {
                    drop(run);
                    return;
                }
            };
            match answer {
                Poll::Ready(outcome) => {
                    run.state = State::Handling;
                    drop(run);
                    if waited {
                        self.counters.voluntary_switches.fetch_add(1, Ordering::Relaxed);
                    }
                    return self.settle(outcome);
                }
                // What signals cannot interrupt (the platform's work on it) is given up with the task.
                Poll::Pending if self.is_ending() => {
                    run.state = State::Handling;
                    drop(run);
                    drop(call);
                    return exit::finish_ended(self);
                }
                // What it waits for came about before it was parked: to the guest it has waited all the same.
                Poll::Pending if woken => {
                    run.state = State::Handling;
                    waited = true;
                }
                Poll::Pending => {
                    run.state = State::Blocked(call);
                    drop(run);
                    if !lane::take_there(self) {
                        self.counters.voluntary_switches.fetch_add(1, Ordering::Relaxed);
                    }
                    return;
                }
            }
        }
    }

    /// Back to the guest, through signals and stops.
    pub(crate) fn go(self: &Arc<Task>, mut back: Back) {
        loop {
            {
                let mut run = self.run.lock();
                if matches!(run.state, State::Dead) {
                    return;
                }
                if self.work.load(Ordering::Acquire) == 0
                    && let Some(how) = plain_resume(&back)
                {
                    run.state = State::Guest;
                    // Only the task itself replaces it, in a later call.
                    let platform = self.platform.read();
                    drop(run);
                    self.in_syscall.store(u64::MAX, Ordering::Relaxed);
                    platform.resume(how);
                    return;
                }
            }
            if self.work.load(Ordering::Acquire) & WORK_FREEZE != 0 {
                return self.freeze(back);
            }
            match signal::before_return(self, back) {
                Next::Again(next) => back = next,
                Next::Stop(next) => {
                    self.platform().set_aside();
                    let mut run = self.run.lock();
                    if matches!(run.state, State::Dead) {
                        return;
                    }
                    run.back = Some(next);
                    run.state = State::Stopped;
                    drop(run);
                    signal::stopped(self);
                    return;
                }
                Next::FetchFrame(next) => {
                    let mut run = self.run.lock();
                    if matches!(run.state, State::Dead) {
                        return;
                    }
                    if self.is_ending() {
                        // Its host process is gone already, so no event would come for the frame.
                        drop(run);
                        return exit::finish_ended(self);
                    }
                    run.back = Some(next);
                    run.state = State::Guest;
                    let platform = self.platform();
                    drop(run);
                    platform.interrupt();
                    platform.resume(Resume::Return(-i64::from(Errno::EINTR.raw())));
                    return;
                }
                Next::Redo(None) => {
                    let call = self.run.lock().call;
                    let Some(call) = call else {
                        back = Back::Frame;
                        continue;
                    };
                    let outcome = self.kernel.dispatch(self, call);
                    return self.settle(outcome);
                }
                Next::Redo(Some(rest)) => {
                    let call = self.run.lock().call;
                    return match call.filter(|_| self.seccomp.active()) {
                        // Linux has the guest make another call for the rest, which filters see.
                        Some(call) => {
                            let call = SyscallArgs { nr: SYS_restart_syscall, ..call };
                            self.settle(enter(self, call, Then::Rest(rest)))
                        }
                        None => self.poll(rest),
                    };
                }
                Next::Gone => return self.platform().set_aside(),
            }
        }
    }
}

/// How a task without pending work resumes; `None` for a call that has to be made again.
fn plain_resume(back: &Back) -> Option<Resume> {
    match back {
        Back::Frame => Some(Resume::Frame),
        Back::Syscall(Ok(value)) => Some(Resume::Return((*value).cast_signed())),
        Back::Syscall(Err(SysError::Errno(errno))) => Some(Resume::Return(-i64::from(errno.raw()))),
        Back::Syscall(Err(SysError::Restart(_))) => None,
    }
}

/// The call to be made again for a restart without a handler.
pub(crate) fn redo(restart: Restart) -> Next {
    match restart {
        Restart::Block(call) => Next::Redo(Some(call)),
        Restart::Sys | Restart::NoIntr | Restart::NoHand => Next::Redo(None),
    }
}

/// See [`Task::interruptible`].
pub struct Interruptible<F> {
    task: Arc<Task>,
    future: Pin<Box<F>>,
    only_fatal: bool,
}

impl<F: Future> Future for Interruptible<F> {
    type Output = Result<F::Output, Interrupted>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        let bits = if self.only_fatal { WORK_EXIT } else { !WORK_FREEZE };
        if self.task.work.load(Ordering::Acquire) & bits != 0 {
            return Poll::Ready(Err(Interrupted));
        }
        Poll::Pending
    }
}
