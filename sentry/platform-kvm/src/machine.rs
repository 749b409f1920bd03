//! The scheduler: which worker runs which task on which processor, and what becomes of it when it comes out.
//!
//! The sentry's workers run the guests themselves: a worker that asks for the next event takes a ready task and a free
//! processor, and returns when the task has something to tell. So a system call is handled, and its task goes on, without
//! a switch of threads. There are as many processors as CPUs; a worker that handles an event holds none.
//!
//! A helper thread, which sleeps while no task is ready, takes the processor from tasks that keep others waiting, and
//! tells the kernel when no worker is left to serve those that are ready.
//!
//! Locks: `queue` is a leaf, taken with no task's lock held.

use crate::cpuid::Features;
use crate::cpus;
use crate::host;
use crate::rseq;
use crate::space::{Fault, World};
use crate::task::{Phase, St, Task};
use crate::trap;
use crate::vcpu::{Exit, Handle, Vcpu};
use chitin_platform::{Event, EventKind, Registers};
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a task runs while others wait, and how often the helper looks.
const TICK: Duration = Duration::from_millis(4);
/// Of a mask, at least.
const MASK_BYTES: usize = 8;
/// What a turn costs beside the time in the guest, so that calls count, too.
const TURN_NS: u64 = 2_000;

/// A processor that nobody runs.
struct Seat {
    vcpu: Vcpu,
    /// Whose FPU state it has.
    last: Weak<Task>,
    last_id: u64,
    /// Whose bases it has, if any task's: the same, but only once that one has entered.
    bases_of: u64,
}

struct Running {
    handle: Arc<Handle>,
    space: u64,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Arc<Task>>,
    idle: Vec<Seat>,
    running: Vec<Running>,
    waiting: usize,
    tick: u64,
    starved: u32,
    /// The helper waits for somebody to become ready.
    asleep: bool,
    closing: bool,
}

impl Queue {
    /// The first task that there is a processor for, and the best one: its last one, or this thread's.
    fn take(&mut self, tid: i32) -> Option<(Seat, Arc<Task>)> {
        let Queue { ready, idle, .. } = self;
        if idle.is_empty() {
            return None;
        }
        let (nth, at) = ready.iter().enumerate().find_map(|(nth, task)| {
            let may = |s: &Seat| task.allowed.has(s.vcpu.handle.index);
            let mine = |s: &Seat| s.vcpu.handle.tid.load(Ordering::Relaxed) == tid;
            let find = |wanted: &dyn Fn(&Seat) -> bool| idle.iter().position(|s| may(s) && wanted(s));
            let at = find(&|s| s.last_id == task.id).or_else(|| find(&mine)).or_else(|| find(&|_| true))?;
            Some((nth, at))
        })?;
        let task = ready.remove(nth)?;
        Some((idle.swap_remove(at), task))
    }

    /// Whether there is a processor for somebody.
    fn has_place(&self) -> bool {
        let may = |task: &Arc<Task>| self.idle.iter().any(|s| task.allowed.has(s.vcpu.handle.index));
        self.ready.iter().any(may)
    }
}

type More = Box<dyn Fn() + Send + Sync>;

pub struct Machine {
    pub world: Arc<World>,
    pub features: Features,
    pub mxcsr_mask: u32,
    /// Of the processors, by index.
    pub numbers: Vec<u32>,
    queue: Mutex<Queue>,
    work: Condvar,
    tick: Condvar,
    tasks: AtomicU64,
    more: Mutex<Option<More>>,
}

thread_local! {
    /// The task whose event this thread handles.
    static HANDLES: Cell<u64> = const { Cell::new(0) };
}

/// What a turn on a processor came to.
enum Turn {
    Event(Event),
    /// Others' turn.
    Requeue,
    /// Ended while we had it.
    Dead,
    /// It is nobody's any more.
    Nothing,
}

impl Machine {
    pub fn new(world: Arc<World>, features: Features, mxcsr_mask: u32, vcpus: Vec<Vcpu>) -> Arc<Machine> {
        let numbers = vcpus.iter().map(|vcpu| vcpu.handle.number).collect();
        let idle =
            vcpus.into_iter().map(|vcpu| Seat { vcpu, last: Weak::new(), last_id: 0, bases_of: 0 }).collect();
        Arc::new(Machine {
            world,
            features,
            mxcsr_mask,
            numbers,
            queue: Mutex::new(Queue { idle, ..Queue::default() }),
            work: Condvar::new(),
            tick: Condvar::new(),
            tasks: AtomicU64::new(1),
            more: Mutex::new(None),
        })
    }

    pub fn next_task(&self) -> u64 {
        self.tasks.fetch_add(1, Ordering::Relaxed)
    }

    /// All processors, as a mask.
    pub fn cpus(&self) -> Vec<u8> {
        cpus::mask(self.numbers.iter().copied(), host::affinity().len().max(MASK_BYTES))
    }

    /// Somebody who is ready may run elsewhere now.
    pub fn masks_changed(&self) {
        let q = self.queue.lock();
        if !q.ready.is_empty() {
            self.work.notify_all();
        }
    }

    pub fn on_starved(&self, more: More) {
        *self.more.lock() = Some(more);
    }

    /// Puts a task into the queue: in front if this thread is about to run it, unless it has had its share or `yields`.
    pub fn ready(&self, task: Arc<Task>, yields: bool) {
        let own = HANDLES.get() == task.id;
        if own {
            HANDLES.set(0);
        }
        let had_share = task.slice.load(Ordering::Relaxed) > TICK.as_nanos() as u64;
        let mut q = self.queue.lock();
        if own && !had_share && !yields {
            q.ready.push_front(task);
        } else {
            task.slice.store(0, Ordering::Relaxed);
            q.ready.push_back(task);
            // This thread will be back by itself.
            if !own && q.waiting > 0 && !q.idle.is_empty() {
                self.work.notify_one();
            }
        }
        if q.asleep {
            self.tick.notify_one();
        }
    }

    /// The body of [`chitin_platform::Platform::next_event`].
    pub fn next_event(&self, between: &dyn Fn()) -> Event {
        HANDLES.set(0);
        loop {
            let (mut seat, task) = self.claim();
            let turn = self.turn(&mut seat, &task);
            let requeue = match &turn {
                Turn::Requeue => Some(task.clone()),
                _ => None,
            };
            self.release(seat, requeue);
            match turn {
                Turn::Event(event) => {
                    HANDLES.set(task.id);
                    return event;
                }
                Turn::Requeue | Turn::Nothing => {}
                Turn::Dead => {
                    task.bury();
                    // What its owner held may have woken others.
                    between();
                }
            }
        }
    }

    fn claim(&self) -> (Seat, Arc<Task>) {
        let tid = host::gettid();
        let mut q = self.queue.lock();
        loop {
            if let Some((seat, task)) = q.take(tid) {
                let handle = seat.vcpu.handle.clone();
                handle.tid.store(tid, Ordering::Release);
                handle.since.store(q.tick, Ordering::Relaxed);
                q.running.push(Running { handle, space: task.space.id });
                return (seat, task);
            }
            q.waiting += 1;
            self.work.wait(&mut q);
            q.waiting -= 1;
        }
    }

    fn release(&self, seat: Seat, requeue: Option<Arc<Task>>) {
        let mut q = self.queue.lock();
        q.running.retain(|r| !Arc::ptr_eq(&r.handle, &seat.vcpu.handle));
        q.idle.push(seat);
        if let Some(task) = requeue {
            q.ready.push_back(task);
            if q.asleep {
                self.tick.notify_one();
            }
        }
        if !q.ready.is_empty() && q.waiting > 0 {
            self.work.notify_one();
        }
    }

    /// Runs a task until it has something to tell.
    fn turn(&self, seat: &mut Seat, task: &Arc<Task>) -> Turn {
        let handle = seat.vcpu.handle.clone();
        {
            let mut st = task.st.lock();
            match st.phase {
                Phase::Ready => st.phase = Phase::Running(handle.clone()),
                // Ended while it waited; who ended it has let go of it.
                _ => return Turn::Nothing,
            }
        }
        if seat.last_id != task.id {
            if let Some(old) = seat.last.upgrade() {
                if let Err(error) = old.fpu.lock().leave(&handle) {
                    tracing::error!(%error, "saving a task's FPU state failed");
                }
            }
            (seat.last, seat.last_id) = (Arc::downgrade(task), task.id);
        }
        if let Err(error) = task.fpu.lock().load(&handle) {
            return self.broken(task, &error.to_string());
        }
        handle.preempt.store(false, Ordering::SeqCst);
        loop {
            if let Err(rseq::Bad) = enter_sequences(task, handle.number) {
                return self.fault_in_sequence(task);
            }
            let (mut regs, switched) = {
                let mut st = task.st.lock();
                if matches!(st.phase, Phase::Dying) {
                    return Turn::Dead;
                }
                if std::mem::take(&mut st.interrupt) {
                    return stop(&mut st, EventKind::Interrupted);
                }
                if !task.allowed.has(handle.index) {
                    st.phase = Phase::Ready;
                    return Turn::Requeue;
                }
                handle.arm();
                let dirty = std::mem::take(&mut st.bases_dirty);
                let switched = dirty || seat.bases_of != task.id || st.last != Some(handle.index);
                st.last = Some(handle.index);
                seat.vcpu.give_answers(&self.world.phys, task.id, &st.answers);
                (st.regs, switched)
            };
            task.used.lock().enter();
            let exit = if is_canonical(regs.rip) {
                seat.bases_of = task.id;
                seat.vcpu.run(&self.world.phys, &task.space, &mut regs, switched)
            } else {
                seat.bases_of = 0;
                Exit::Trap { vector: 13, error: 0, addr: 0 }
            };
            let ns = task.used.lock().leave();
            task.slice.fetch_add(ns + TURN_NS, Ordering::Relaxed);
            if let Some(turn) = self.came_out(task, &handle, exit, regs) {
                return turn;
            }
        }
    }

    /// `None`: it may go on.
    fn came_out(&self, task: &Arc<Task>, handle: &Handle, exit: Exit, mut regs: Registers) -> Option<Turn> {
        let called = matches!(exit, Exit::Syscall);
        let mut kind = match exit {
            Exit::Syscall => Some(trap::syscall(&regs)),
            Exit::Trap { vector: 14, error, addr } => match task.space.fault(addr, trap::access(error)) {
                Ok(()) => None,
                Err(Fault::NoMemory) => {
                    task.st.lock().regs = regs;
                    return Some(self.out_of_memory(task));
                }
                Err(fault) => Some(trap::page_fault(fault, addr, error)),
            },
            Exit::Trap { vector, error, .. } => Some(trap::exception(task, &mut regs, vector, error)),
            Exit::Kicked | Exit::NotEntered => None,
            Exit::NoPage if task.space.forget_truncated() => None,
            Exit::NoPage => Some(trap::page_fault(Fault::Bus, 0, 4)),
            Exit::Broken(what) => return Some(self.broken(task, &what)),
        };
        // A critical section makes no calls.
        if !called && let Err(rseq::Bad) = leave_sequence(task, &mut regs) {
            kind = Some(trap::FORCED);
        }
        let mut st = task.st.lock();
        st.regs = regs;
        let Some(kind) = kind else {
            if !handle.preempt.swap(false, Ordering::SeqCst)
                || st.interrupt
                || matches!(st.phase, Phase::Dying)
            {
                return None;
            }
            st.phase = Phase::Ready;
            drop(st);
            task.preempted.fetch_add(1, Ordering::Relaxed);
            task.slice.store(0, Ordering::Relaxed);
            return Some(Turn::Requeue);
        };
        if matches!(st.phase, Phase::Dying) {
            return Some(Turn::Dead);
        }
        if let EventKind::Syscall { nr, .. } = kind {
            st.nr = nr;
        }
        Some(stop(&mut st, kind))
    }

    /// Its area cannot be written.
    fn fault_in_sequence(&self, task: &Arc<Task>) -> Turn {
        let mut st = task.st.lock();
        if matches!(st.phase, Phase::Dying) {
            return Turn::Dead;
        }
        stop(&mut st, trap::FORCED)
    }

    /// No memory for a page: as the host's OOM killer would.
    fn out_of_memory(&self, task: &Arc<Task>) -> Turn {
        tracing::warn!(task = task.id, "guest memory is used up; killing a process");
        self.killed(task)
    }

    fn broken(&self, task: &Arc<Task>, what: &str) -> Turn {
        tracing::error!(task = task.id, what, "a processor failed; killing the process");
        self.killed(task)
    }

    fn killed(&self, task: &Arc<Task>) -> Turn {
        let owner = task.st.lock().owner.clone();
        task.kill();
        task.bury();
        match owner {
            Some(owner) => Turn::Event(Event { owner, kind: EventKind::Exited { signal: libc::SIGKILL } }),
            None => Turn::Nothing,
        }
    }

    /// Waits until every processor that runs (a space's) tasks has been outside the VM once.
    pub fn barrier(&self, space: Option<u64>) {
        let inside: Vec<_> = {
            let q = self.queue.lock();
            let wanted = |r: &&Running| space.is_none_or(|s| r.space == s);
            let turns = |r: &Running| (r.handle.clone(), r.handle.turns.load(Ordering::SeqCst));
            q.running.iter().filter(wanted).map(turns).filter(|(_, turns)| turns % 2 == 1).collect()
        };
        // Armed since before its turn became odd, so no kick is lost.
        inside.iter().for_each(|(handle, _)| handle.kick());
        for (handle, seen) in inside {
            let mut patience = 100;
            while handle.turns.load(Ordering::SeqCst) == seen {
                match patience {
                    0 => std::thread::sleep(Duration::from_micros(50)),
                    _ => {
                        patience -= 1;
                        std::thread::yield_now();
                    }
                }
            }
        }
    }

    /// The helper thread.
    pub fn keep_time(&self) {
        let mut q = self.queue.lock();
        while !q.closing {
            if q.ready.is_empty() {
                q.asleep = true;
                self.tick.wait(&mut q);
                q.asleep = false;
                continue;
            }
            drop(q);
            std::thread::sleep(TICK);
            q = self.queue.lock();
            q.tick += 1;
            let (free, waiting) = (q.has_place(), q.waiting > 0);
            if q.ready.is_empty() || !free || waiting {
                q.starved = 0;
            }
            if q.ready.is_empty() {
                continue;
            }
            if free && waiting {
                self.work.notify_one();
            } else if free {
                q.starved += 1;
                if q.starved >= 3 {
                    q.starved = 0;
                    drop(q);
                    if let Some(more) = &*self.more.lock() {
                        more();
                    }
                    q = self.queue.lock();
                }
            } else {
                for r in &q.running {
                    if r.handle.since.load(Ordering::Relaxed) + 1 < q.tick {
                        r.handle.preempt.store(true, Ordering::SeqCst);
                        r.handle.kick();
                    }
                }
            }
        }
    }

    /// The scheduler's state, for whoever looks for a task that hangs.
    pub fn describe(&self) -> String {
        let Some(q) = self.queue.try_lock() else { return "the queue is locked".into() };
        let (ready, idle, running) = (q.ready.len(), q.idle.len(), q.running.len());
        format!("{ready} ready, {idle} processors idle, {running} running, {} workers waiting", q.waiting)
    }

    pub fn close(&self) {
        self.queue.lock().closing = true;
        self.tick.notify_all();
    }
}

/// Tells a thread with restartable sequences where it is about to run.
fn enter_sequences(task: &Arc<Task>, cpu: u32) -> Result<(), rseq::Bad> {
    let Some(mut rseq) = task.st.lock().rseq else { return Ok(()) };
    rseq.enter(&task.space, cpu)?;
    task.st.lock().rseq = Some(rseq);
    Ok(())
}

/// Every way out but a call may be the end of the thread's time on its processor, or a signal's beginning: to the thread,
/// which cannot tell, it is.
fn leave_sequence(task: &Arc<Task>, regs: &mut Registers) -> Result<(), rseq::Bad> {
    let Some(rseq) = task.st.lock().rseq else { return Ok(()) };
    regs.rip = rseq.leave(&task.space, regs.rip)?;
    Ok(())
}

fn is_canonical(addr: u64) -> bool {
    matches!(addr >> 47, 0 | 0x1_ffff)
}

/// The task is the kernel's now.
fn stop(st: &mut St, kind: EventKind) -> Turn {
    match st.owner.clone() {
        Some(owner) => {
            st.phase = Phase::Stopped;
            Turn::Event(Event { owner, kind })
        }
        None => {
            tracing::error!("an event of a task without owner");
            st.phase = Phase::Dying;
            Turn::Dead
        }
    }
}
