//! Guest threads: their registers, and what the kernel may do with them ([`PlatformTask`]).
//!
//! Locks: `Proc::tasks` → `Task::st` → `Task::fpu`; `Task::used` is a leaf; the scheduler's lock is taken with none of them held.

use crate::answers::Answers;
use crate::cpus::Allowed;
use crate::fpu::{self, Fpu};
use crate::machine::Machine;
use crate::ring0::Part;
use crate::rseq::Rseq;
use crate::space::Space;
use crate::vcpu::Handle;
use chitin_platform::{
    AddressSpace, BRIEFLY, BoxFuture, CpuTimes, Owner, PlatformError, PlatformTask, Registers, Resume, Spawn,
    Spawned,
};
use parking_lot::Mutex;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// How long a task has run: a guest that spins is counted, too, before it comes out.
#[derive(Default)]
pub struct Used {
    ns: u64,
    entered: Option<Instant>,
}

impl Used {
    fn ns(&self) -> u64 {
        self.ns.saturating_add(self.entered.map_or(0, |start| start.elapsed().as_nanos() as u64))
    }
    pub fn enter(&mut self) {
        self.entered = Some(Instant::now());
    }
    /// Nanoseconds since it entered.
    pub fn leave(&mut self) -> u64 {
        let ns = self.entered.take().map_or(0, |start| start.elapsed().as_nanos() as u64);
        self.ns = self.ns.saturating_add(ns);
        ns
    }
}

/// Where a task stands.
#[derive(Clone)]
pub enum Phase {
    /// The kernel's.
    Stopped,
    /// Waits for a processor.
    Ready,
    /// A worker has it; its processor is this one.
    Running(Arc<Handle>),
    /// Ended while a worker has it, who will let go of it.
    Dying,
    Dead,
}

pub struct St {
    pub phase: Phase,
    /// An `Interrupted` is owed.
    pub interrupt: bool,
    pub regs: Registers,
    /// The bases are not those that its last processor has.
    pub bases_dirty: bool,
    /// Its last processor.
    pub last: Option<usize>,
    /// Number of the system call it stopped at.
    pub nr: u64,
    pub owner: Option<Owner>,
    affinity: Vec<u8>,
    pub answers: Answers,
    pub rseq: Option<Rseq>,
}

/// What a process is here: tasks that are killed together.
pub struct Proc {
    tasks: Mutex<Vec<Weak<Task>>>,
}

pub struct Task {
    me: Weak<Task>,
    pub id: u64,
    pub machine: Arc<Machine>,
    pub proc: Arc<Proc>,
    pub space: Arc<Space>,
    pub st: Mutex<St>,
    pub fpu: Mutex<Fpu>,
    /// Time in the guest.
    pub used: Mutex<Used>,
    /// Nanoseconds since it was last put at the end of the queue.
    pub slice: AtomicU64,
    pub preempted: AtomicU64,
    pub allowed: Allowed,
}

const GONE: PlatformError = PlatformError::Gone;
const RUNS: PlatformError = PlatformError::Corrupt("the task is not stopped");

impl Task {
    pub fn new(
        machine: &Arc<Machine>,
        proc: Arc<Proc>,
        space: Arc<Space>,
        regs: Registers,
        fpu: Fpu,
        affinity: Vec<u8>,
    ) -> Arc<Task> {
        space.add_task();
        let id = machine.next_task();
        let allowed = Allowed::new(&machine.numbers, &affinity);
        let task = Arc::new_cyclic(|me| Task {
            me: me.clone(),
            id,
            machine: machine.clone(),
            proc: proc.clone(),
            space,
            st: Mutex::new(St {
                phase: Phase::Stopped,
                interrupt: false,
                regs,
                bases_dirty: true,
                last: None,
                nr: u64::MAX,
                owner: None,
                affinity,
                answers: Answers::default(),
                rseq: None,
            }),
            fpu: Mutex::new(fpu),
            used: Mutex::default(),
            slice: AtomicU64::new(0),
            preempted: AtomicU64::new(0),
            allowed,
        });
        let mut tasks = proc.tasks.lock();
        tasks.retain(|t| t.strong_count() > 0);
        tasks.push(Arc::downgrade(&task));
        drop(tasks);
        task
    }

    /// The first task of a fresh space.
    pub fn first(machine: &Arc<Machine>, space: Arc<Space>) -> Arc<Task> {
        let proc = Arc::new(Proc { tasks: Mutex::default() });
        let regs = Registers { eflags: crate::vcpu::RESERVED_FLAGS, ..Registers::default() };
        Task::new(machine, proc, space, regs, Fpu::Saved(fpu::initial()), machine.cpus())
    }

    fn stopped<R>(&self, f: impl FnOnce(&mut St) -> Result<R, PlatformError>) -> Result<R, PlatformError> {
        let mut st = self.st.lock();
        match st.phase {
            Phase::Stopped => f(&mut st),
            Phase::Dead | Phase::Dying => Err(GONE),
            _ => Err(RUNS),
        }
    }

    /// Ends it; what its owner was is dropped without the lock.
    fn end(&self) {
        let mut st = self.st.lock();
        let owner = match &st.phase {
            Phase::Dead | Phase::Dying => return,
            Phase::Running(handle) => {
                let handle = handle.clone();
                st.phase = Phase::Dying;
                handle.kick();
                None
            }
            Phase::Stopped | Phase::Ready => {
                st.phase = Phase::Dead;
                Some(st.owner.take())
            }
        };
        drop(st);
        if owner.is_some() {
            self.space.drop_task();
        }
    }

    /// A worker lets go of a task that was ended while it had it.
    pub fn bury(&self) {
        let mut st = self.st.lock();
        st.phase = Phase::Dead;
        let owner = st.owner.take();
        drop(st);
        drop(owner);
        self.space.drop_task();
    }

    pub fn kill(&self) {
        let all: Vec<_> = self.proc.tasks.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|task| task.end());
        self.end();
    }

    fn spawn_now(&self, kind: Spawn) -> Result<Spawned, PlatformError> {
        let (regs, affinity, rseq) = self.stopped(|st| Ok((st.regs, st.affinity.clone(), st.rseq)))?;
        let fpu = self.fpu.lock().copy()?;
        let space = if kind == Spawn::Fork { self.space.fork()? } else { self.space.clone() };
        let proc = match kind {
            Spawn::Thread => self.proc.clone(),
            _ => Arc::new(Proc { tasks: Mutex::default() }),
        };
        let task = Task::new(&self.machine, proc, space.clone(), regs, fpu, affinity);
        if kind == Spawn::Fork {
            task.st.lock().rseq = rseq.map(Rseq::inherited);
        }
        Ok(Spawned { task, space })
    }
}

impl PlatformTask for Task {
    fn set_owner(&self, owner: Owner) {
        let old = self.st.lock().owner.replace(owner);
        drop(old);
    }

    fn resume(&self, how: Resume) {
        let Some(me) = self.me.upgrade() else { return };
        if how == Resume::Native {
            return crate::native::run(&me);
        }
        let mut st = self.st.lock();
        if !matches!(st.phase, Phase::Stopped) {
            return;
        }
        if let Resume::Return(value) = how {
            st.regs.rax = value as u64;
        }
        st.phase = Phase::Ready;
        drop(st);
        self.machine.ready(me, false);
    }

    fn interrupt(&self) {
        let mut st = self.st.lock();
        // One kick does: more of them would only keep its thread in the handler of their signal.
        if !std::mem::replace(&mut st.interrupt, true)
            && let Phase::Running(handle) = &st.phase
        {
            handle.kick();
        }
    }

    fn has_frame(&self) -> bool {
        matches!(self.st.lock().phase, Phase::Stopped)
    }

    fn ensure_frame(&self) -> BoxFuture<Result<(), PlatformError>> {
        Box::pin(ready(self.stopped(|_| Ok(()))))
    }

    fn registers(&self) -> Result<Registers, PlatformError> {
        self.stopped(|st| Ok(st.regs))
    }

    fn set_registers(&self, regs: &Registers) -> Result<(), PlatformError> {
        self.stopped(|st| {
            st.bases_dirty |= (regs.fs_base, regs.gs_base) != (st.regs.fs_base, st.regs.gs_base);
            st.regs = *regs;
            Ok(())
        })
    }

    fn read_fpstate(&self, out: &mut Vec<u8>) -> Result<(), PlatformError> {
        self.stopped(|_| {
            fpu::to_image(self.fpu.lock().save()?, &self.machine.features, out);
            Ok(())
        })
    }

    fn write_fpstate(&self, image: &[u8]) -> Result<(), PlatformError> {
        self.stopped(|_| {
            let area = if image.is_empty() {
                fpu::initial()
            } else {
                fpu::from_image(image, &self.machine.features, self.machine.mxcsr_mask)?
            };
            *self.fpu.lock() = Fpu::Saved(area);
            Ok(())
        })
    }

    fn fpstate_len(&self) -> usize {
        fpu::image_len(&self.machine.features)
    }

    fn spawn(&self, kind: Spawn) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(ready(self.spawn_now(kind)))
    }

    fn exit_thread(&self) {
        self.end();
    }

    fn kill_process(&self) {
        self.kill();
    }

    fn cpu_times(&self) -> CpuTimes {
        CpuTimes { user_ns: self.used.lock().ns(), system_ns: 0 }
    }

    fn preemptions(&self) -> u64 {
        self.preempted.load(Ordering::Relaxed)
    }

    fn affinity(&self, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
        let mut st = self.st.lock();
        if let Some(set) = set {
            let all = self.machine.cpus();
            let new: Vec<u8> =
                all.iter().zip(set.iter().chain(std::iter::repeat(&0))).map(|(a, b)| a & b).collect();
            if new.iter().all(|b| *b == 0) {
                return Err(PlatformError::Host { op: "sched_setaffinity", errno: libc::EINVAL });
            }
            self.allowed.set(&self.machine.numbers, &new);
            st.affinity = new;
            if let Phase::Running(handle) = &st.phase {
                // It looks at where it is before it enters again.
                handle.kick();
            }
        }
        let now = st.affinity.clone();
        drop(st);
        if set.is_some() {
            self.machine.masks_changed();
        }
        Ok(now)
    }

    fn set_nice(&self, nice: i32) -> Result<(), PlatformError> {
        if nice < 0 {
            return Err(PlatformError::Host { op: "setpriority", errno: libc::EACCES });
        }
        Ok(())
    }

    fn may_answer(&self, nr: u64, value: u32) {
        let mut st = self.st.lock();
        if matches!(st.phase, Phase::Stopped) {
            st.answers.add(nr, value);
        }
    }

    fn forget_answers(&self) {
        let mut st = self.st.lock();
        let part = match &st.phase {
            Phase::Running(handle) => Some((&*self.machine.world.phys, Part::new(handle.index))),
            _ => None,
        };
        st.answers.forget(part);
    }

    fn debug_id(&self) -> u64 {
        self.id
    }

    fn describe(&self) -> String {
        let Some(st) = self.st.try_lock_for(BRIEFLY) else {
            return "locked by a thread of the sentry".into();
        };
        let phase = match &st.phase {
            Phase::Stopped => "Stopped".into(),
            Phase::Ready => "Ready, waits for a processor or a worker".into(),
            Phase::Running(handle) => format!("Running, {handle}"),
            Phase::Dying => "Dying".into(),
            Phase::Dead => "Dead".into(),
        };
        let owed = if st.interrupt { ", an interrupt is owed" } else { "" };
        format!("{phase}, call {}{owed}; {}", st.nr.cast_signed(), self.machine.describe())
    }
}

/// A spawned pair as the kernel gets it.
pub fn spawned(task: Arc<Task>) -> Spawned {
    let space: Arc<dyn AddressSpace> = task.space.clone();
    Spawned { task, space }
}
