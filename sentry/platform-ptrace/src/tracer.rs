//! The tracers: threads of ours that trace a few guest threads each.
//!
//! The host binds a traced thread to the thread that traces it: only that one may look at it and let it go on. So whoever
//! wants something of a stopped task posts a command to its tracer, and tracers do nothing else: they never run the
//! sentry's code, so that no guest waits because a handler is held up elsewhere. A wait looks at all of a tracer's tasks
//! one by one; therefore a tracer gets no more than [`MOST`].
//!
//! Neighbours: `task` says what a stop means and how a command is done; `wait` is the wait; `spawn` assigns tasks.
//!
//! Locks: `inbox` and the pool's list are leaves.

use crate::sys;
use crate::task::Task;
use crate::wait::{self, Seen};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// Tracers that are made before any gets a second task.
const ALONE: usize = 64;
/// Tasks per tracer.
const MOST: usize = 24;
/// How long a tracer whose tasks are all stopped waits for commands alone, which is cheaper than for deaths, too.
const LINGER: Duration = Duration::from_millis(1);
const STACK: usize = 64 << 10;

/// What a tracer is to do with a task of its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Trace it, and have it stop.
    Adopt,
    /// Let it run with the registers as they are kept.
    Go,
    /// Have the host run the system call that the guest made.
    Native,
    /// Fetch its FPU state; then wake who waits for it, or report the interrupt that is owed.
    Fetch { report: bool },
    /// Make the first of its listed calls.
    Calls,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Busy,
    /// Waits for commands only.
    Idle,
    /// Waits for its tasks.
    Waiting,
}

struct Inbox {
    commands: Vec<(Arc<Task>, Command)>,
    state: State,
    closed: bool,
}

pub struct Tracer {
    pid: i32,
    tid: AtomicI32,
    flag: AtomicU32,
    inbox: Mutex<Inbox>,
    bell: Condvar,
    /// Tasks that it has, or is about to get.
    load: AtomicUsize,
}

struct Tracee {
    task: Arc<Task>,
    /// Not known to be stopped.
    runs: bool,
}

impl Tracer {
    fn new() -> Arc<Tracer> {
        Arc::new(Tracer {
            pid: std::process::id() as i32,
            tid: AtomicI32::new(0),
            flag: AtomicU32::new(0),
            inbox: Mutex::new(Inbox { commands: Vec::new(), state: State::Busy, closed: false }),
            bell: Condvar::new(),
            load: AtomicUsize::new(0),
        })
    }

    pub fn post(&self, task: Arc<Task>, command: Command) {
        let mut inbox = self.inbox.lock();
        inbox.commands.push((task, command));
        self.rouse(&mut inbox);
    }

    /// A task that was to come does not.
    pub fn give_back(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    fn rouse(&self, inbox: &mut Inbox) {
        match std::mem::replace(&mut inbox.state, State::Busy) {
            State::Busy => {}
            State::Idle => {
                self.bell.notify_one();
            }
            State::Waiting => {
                self.flag.store(1, Ordering::SeqCst);
                wait::wake(self.pid, self.tid.load(Ordering::Relaxed));
            }
        }
    }

    fn close(&self) {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        self.rouse(&mut inbox);
    }

    /// The thread.
    pub fn run(&self, first: Option<Arc<Task>>) {
        wait::prepare();
        self.tid.store(sys::gettid(), Ordering::Relaxed);
        let mut tasks: HashMap<i32, Tracee> =
            first.into_iter().map(|task| (task.tid, Tracee { task, runs: false })).collect();
        let mut linger = true;
        loop {
            let mut inbox = self.inbox.lock();
            inbox.state = State::Busy;
            if !inbox.commands.is_empty() {
                let commands = std::mem::take(&mut inbox.commands);
                drop(inbox);
                for (task, command) in commands {
                    self.execute(&mut tasks, task, command);
                }
                linger = true;
                continue;
            }
            if tasks.is_empty() {
                if inbox.closed {
                    return;
                }
                inbox.state = State::Idle;
                self.bell.wait(&mut inbox);
                continue;
            }
            if std::mem::take(&mut linger) && !tasks.values().any(|t| t.runs) {
                inbox.state = State::Idle;
                self.bell.wait_for(&mut inbox, LINGER);
                continue;
            }
            self.flag.store(0, Ordering::SeqCst);
            inbox.state = State::Waiting;
            drop(inbox);
            match wait::wait(&self.flag) {
                Seen::Nothing => {}
                Seen::Stopped { tid, status } => {
                    linger = true;
                    if let Some(t) = tasks.get_mut(&tid).filter(|_| sys::take_stop(tid)) {
                        t.runs = t.task.on_stop(status);
                    }
                }
                Seen::Ended { tid, signal } => {
                    // Dead for all others before its number is free.
                    if let Some(t) = tasks.remove(&tid) {
                        t.task.on_end(signal);
                        self.give_back();
                    }
                    sys::reap(tid);
                }
            }
        }
    }

    fn execute(&self, tasks: &mut HashMap<i32, Tracee>, task: Arc<Task>, command: Command) {
        if command == Command::Adopt {
            let tid = task.tid;
            if task.adopt() {
                tasks.insert(tid, Tracee { task, runs: true });
            } else {
                self.give_back();
                sys::reap(tid);
            }
        } else if let Some(t) = tasks.get_mut(&task.tid) {
            t.runs = task.execute(command);
        }
    }
}

/// All tracers.
#[derive(Default)]
pub struct Pool {
    tracers: Mutex<Vec<Arc<Tracer>>>,
}

impl Pool {
    /// The tracer for one more task: an unused one, a new one, or the one with least to do.
    pub fn choose(&self) -> io::Result<Arc<Tracer>> {
        let mut all = self.tracers.lock();
        let least = all.iter().min_by_key(|t| t.load.load(Ordering::Relaxed)).cloned();
        if let Some(least) = least {
            let load = least.load.load(Ordering::Relaxed);
            if load == 0 || (all.len() >= ALONE && load < MOST) {
                least.load.fetch_add(1, Ordering::Relaxed);
                return Ok(least);
            }
        }
        let tracer = Tracer::new();
        tracer.load.store(1, Ordering::Relaxed);
        let thread = tracer.clone();
        std::thread::Builder::new()
            .name("chitin-tracer".into())
            .stack_size(STACK)
            .spawn(move || thread.run(None))?;
        all.push(tracer.clone());
        Ok(tracer)
    }

    /// The tracer that this thread, which has the zygote already, becomes.
    pub fn first(&self) -> Arc<Tracer> {
        let tracer = Tracer::new();
        tracer.load.store(1, Ordering::Relaxed);
        self.tracers.lock().push(tracer.clone());
        tracer
    }

    pub fn close(&self) {
        self.tracers.lock().iter().for_each(|t| t.close());
    }
}
