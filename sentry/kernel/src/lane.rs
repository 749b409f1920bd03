//! Lanes: threads for calls that would keep a worker from others.
//!
//! A call that copies much is cut into steps of [`STEP`] bytes; after each it goes to the end of the *copying* lane,
//! whose few threads serve the calls there in turn. A call that the host may hold up (fsync, fallocate, …) goes to the
//! *waiting* lane first, which grows up to [`MOST_WAITING`] threads. So however many such calls there are, the workers
//! stay with the short ones: what a worker does itself is one step at most.
//!
//! A call changes lanes by awaiting a [`Hop`]: it is parked as any other call, and then queued at the lane instead of
//! waiting for a waker ([`crate::run`]). Signals that end the task end it there as well.
//!
//! Lock: a lane's `state` is a leaf.

use crate::Task;
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Bytes that a call moves before others have their turn: well below a millisecond.
pub const STEP: usize = 1 << 20;

/// Threads of the copying lane at most; no more than there are CPUs.
const MOST_COPYING: usize = 4;
/// Threads of the waiting lane at most.
pub const MOST_WAITING: usize = 16;
/// As the workers': futures are on the heap.
const STACK: usize = 512 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Copying,
    Waiting,
}

struct Lane {
    name: &'static str,
    state: Mutex<State>,
    work: Condvar,
    /// Tasks that are queued.
    length: AtomicUsize,
}

struct State {
    queue: VecDeque<Arc<Task>>,
    idle: usize,
    threads: usize,
    most: usize,
}

static COPYING: Lane = Lane::new("copying", MOST_COPYING);
static WAITING: Lane = Lane::new("waiting", MOST_WAITING);

thread_local! {
    /// The lane that this thread serves.
    static HERE: Cell<Option<Which>> = const { Cell::new(None) };
}

impl Which {
    fn lane(self) -> &'static Lane {
        match self {
            Which::Copying => &COPYING,
            Which::Waiting => &WAITING,
        }
    }
}

impl Lane {
    const fn new(name: &'static str, most: usize) -> Lane {
        let state = State { queue: VecDeque::new(), idle: 0, threads: 0, most };
        Lane { name, state: Mutex::new(state), work: Condvar::new(), length: AtomicUsize::new(0) }
    }

    fn add_thread(&'static self, which: Which) -> io::Result<()> {
        std::thread::Builder::new()
            .name(self.name.into())
            .stack_size(STACK)
            .spawn(move || self.serve(which))
            .map(drop)
    }

    fn push(&'static self, which: Which, task: Arc<Task>) {
        let mut state = self.state.lock();
        state.queue.push_back(task);
        self.length.store(state.queue.len(), Ordering::Relaxed);
        let grow = state.idle < state.queue.len() && state.threads < state.most;
        state.threads += usize::from(grow);
        drop(state);
        self.work.notify_one();
        if grow && self.add_thread(which).is_err() {
            // The threads that are there do it, only later.
            self.state.lock().threads -= 1;
        }
    }

    fn pop(&self) -> Arc<Task> {
        let mut state = self.state.lock();
        loop {
            if let Some(task) = state.queue.pop_front() {
                self.length.store(state.queue.len(), Ordering::Relaxed);
                return task;
            }
            state.idle += 1;
            self.work.wait(&mut state);
            state.idle = state.idle.saturating_sub(1);
        }
    }

    fn serve(&self, which: Which) {
        HERE.set(Some(which));
        crate::run::drain();
        loop {
            let task = self.pop();
            task.in_lane.store(false, Ordering::Release);
            task.woken();
            drop(task);
            crate::run::drain();
        }
    }
}

/// Starts the first thread of each lane. Once per process.
pub fn start(cpus: u32) -> io::Result<()> {
    COPYING.state.lock().most = usize::try_from(cpus).unwrap_or(1).clamp(1, MOST_COPYING);
    for which in [Which::Copying, Which::Waiting] {
        which.lane().state.lock().threads += 1;
        which.lane().add_thread(which)?;
    }
    Ok(())
}

/// Where a task's call asks to be taken, in `Task::hop`.
pub(crate) const NOWHERE: u8 = 0;

/// Queues a task whose call was parked by a [`Hop`].
pub(crate) fn take_there(task: &Arc<Task>) -> bool {
    let which = match task.hop.swap(NOWHERE, Ordering::AcqRel) {
        1 => Which::Copying,
        2 => Which::Waiting,
        _ => return false,
    };
    if !task.in_lane.swap(true, Ordering::AcqRel) {
        which.lane().push(which, task.clone());
    }
    true
}

/// Goes on in a lane's thread.
pub struct Hop {
    task: Arc<Task>,
    to: Which,
    asked: bool,
}

impl Task {
    /// Between two steps: after all others that are in the copying lane.
    pub fn next_step(self: &Arc<Task>) -> Hop {
        Hop { task: self.clone(), to: Which::Copying, asked: false }
    }

    /// Before a host call that may take long.
    pub fn may_wait(self: &Arc<Task>) -> Hop {
        Hop { task: self.clone(), to: Which::Waiting, asked: false }
    }
}

impl Future for Hop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let here = HERE.get() == Some(self.to);
        if here && (self.asked || self.to.lane().length.load(Ordering::Relaxed) == 0) {
            return Poll::Ready(());
        }
        self.asked = true;
        let code = match self.to {
            Which::Copying => 1,
            Which::Waiting => 2,
        };
        self.task.hop.store(code, Ordering::Release);
        Poll::Pending
    }
}
