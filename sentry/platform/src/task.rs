//! A guest thread as the platform sees it.

use crate::{AddressSpace, BoxFuture, Owner, PlatformError, Registers};
use std::sync::Arc;
use std::time::Duration;

/// How long [`PlatformTask::describe`] waits for a lock: a busy task's is free soon.
pub const BRIEFLY: Duration = Duration::from_millis(20);

/// How a stopped task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The system call returns this raw value (a negative errno for failures). With a frame: `rax` is set to it.
    Return(i64),
    /// The platform makes the system call as the guest made it: on host-side platforms the host's kernel does, elsewhere it is
    /// one of those about the thread itself or its memory (after [`crate::Native`], sched_yield, arch_prctl, membarrier,
    /// rseq, getcpu).
    Native,
    /// Go on with the registers as they stand in the frame.
    Frame,
}

/// What kind of task [`PlatformTask::spawn`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spawn {
    /// A thread of the same process (CLONE_VM | CLONE_THREAD).
    Thread,
    /// A process of its own that shares the address space (CLONE_VM without CLONE_THREAD, vfork).
    SharedProcess,
    /// A process with a copy of the address space (fork).
    Fork,
}

/// A new task, stopped, with a frame that copies its maker's registers and FPU state (zeroed for a new space).
pub struct Spawned {
    pub task: Arc<dyn PlatformTask>,
    /// The task's address space: the maker's own one, or the copy.
    pub space: Arc<dyn AddressSpace>,
}

/// User and system time a thread has used, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    pub user_ns: u64,
    pub system_ns: u64,
}

/// A guest thread. Methods that need the task stopped say so; calling them while it runs is an error
/// (`PlatformError::Corrupt`), never undefined.
pub trait PlatformTask: Send + Sync {
    /// Stores the kernel's object that events name; once, before the first resume.
    fn set_owner(&self, owner: Owner);

    /// Lets a stopped task go on. Callable from any thread. A task that has died meanwhile is ignored.
    fn resume(&self, how: Resume);

    /// Asks for an [`crate::EventKind::Interrupted`]; see the crate's invariants.
    fn interrupt(&self);

    /// Whether the stopped task's registers are at hand.
    fn has_frame(&self) -> bool;

    /// Gives a stopped task a frame. The registers are those after the system call instruction; `rax` is undefined.
    fn ensure_frame(&self) -> BoxFuture<Result<(), PlatformError>>;

    /// The registers of a task with a frame.
    fn registers(&self) -> Result<Registers, PlatformError>;

    /// Replaces the registers of a task with a frame. Segment selectors and privileged flag bits stay the platform's.
    fn set_registers(&self, regs: &Registers) -> Result<(), PlatformError>;

    /// Appends the FPU state of a task with a frame, in the host's signal frame format (`struct _fpstate` followed by
    /// the XSAVE area and FP_XSTATE_MAGIC2).
    fn read_fpstate(&self, out: &mut Vec<u8>) -> Result<(), PlatformError>;

    /// Replaces the FPU state of a task with a frame. A malformed image is refused and changes nothing; an empty one
    /// resets to the initial state.
    fn write_fpstate(&self, image: &[u8]) -> Result<(), PlatformError>;

    /// Length in bytes of what [`PlatformTask::read_fpstate`] appends.
    fn fpstate_len(&self) -> usize;

    /// Makes a new task from this stopped one (a frame is made if it has none). Both stay stopped.
    fn spawn(&self, kind: Spawn) -> BoxFuture<Result<Spawned, PlatformError>>;

    /// Ends this stopped thread alone; no event follows.
    fn exit_thread(&self);

    /// Ends the whole process of this task, running or stopped; no event follows for any of its threads.
    fn kill_process(&self);

    /// CPU time used by this thread so far.
    fn cpu_times(&self) -> CpuTimes;
    /// How often its thread lost the CPU although it could have gone on.
    fn preemptions(&self) -> u64 {
        0
    }

    /// The CPUs this thread may run on, as a bit mask of host CPUs; `None` reads, `Some` sets. For sched_setaffinity.
    fn affinity(&self, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError>;

    /// Sets the host nice value (-20..19) of the thread; raising above what the sentry may is an error.
    fn set_nice(&self, nice: i32) -> Result<(), PlatformError>;

    /// A stopped task's call `nr`, answered with `value`, would get this answer again until [`PlatformTask::forget_answers`]:
    /// the platform may give it itself, without an event. Not all platforms do.
    fn may_answer(&self, nr: u64, value: u32) {
        let _ = (nr, value);
    }

    /// From when this returns, every call is an event again. Callable at any time, from any thread.
    fn forget_answers(&self) {}

    /// A stopped task waits, or ends: whoever goes on with its call is perhaps not the thread that got its event.
    fn set_aside(&self) {}

    /// The host thread id, for debug logs only; never shown to the guest.
    fn debug_id(&self) -> u64;

    /// Where it stands and what is outstanding, for whoever looks for a task that hangs. It waits no longer than
    /// [`BRIEFLY`], whatever hangs.
    fn describe(&self) -> String;
}
