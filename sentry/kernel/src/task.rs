//! A task: one guest thread.

use crate::ns::NsProxy;
use crate::pid::{Pid, PidNs};
use crate::run::Run;
use crate::seccomp::TaskSeccomp;
use crate::signal::TaskSignals;
use crate::{FdTable, FsState, Kernel, Process, SysResult};
use chitin_abi::Errno;
use chitin_mm::Mm;
use chitin_platform::{CpuTimes, PlatformTask};
use chitin_vfs::{Caller, Context, Creds, File, WaitQueue};
use parking_lot::{Mutex, RwLock};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What a thread has of its own, or shares by clone flags.
pub struct Task {
    pub kernel: Arc<Kernel>,
    /// The thread's identity; changes only when a non-leader executes a program.
    pub(crate) id: RwLock<Arc<Pid>>,
    /// Its kernel id and its number in its own namespace, at hand.
    pub(crate) kid: AtomicI32,
    pub(crate) tid: AtomicI32,
    pub(crate) namespaces: RwLock<Arc<NsProxy>>,
    /// The thread group.
    pub process: Arc<Process>,
    pub(crate) me: Weak<Task>,
    pub(crate) platform: RwLock<Arc<dyn PlatformTask>>,
    pub(crate) mm: RwLock<Arc<Mm>>,
    pub(crate) files: RwLock<Arc<FdTable>>,
    pub(crate) fs: RwLock<Arc<FsState>>,
    pub(crate) creds: RwLock<Arc<Creds>>,
    pub seccomp: TaskSeccomp,
    pub(crate) signals: Mutex<TaskSignals>,
    pub(crate) run: Mutex<Run>,
    /// Bits of `run::WORK_*`: something to look at before guest code runs again.
    pub(crate) work: AtomicU32,
    /// On some thread's run queue.
    pub(crate) queued: AtomicBool,
    /// The lane that its call asks for, and whether it is queued in one.
    pub(crate) hop: AtomicU8,
    pub(crate) in_lane: AtomicBool,
    /// The name (`comm`), 15 bytes at most.
    pub(crate) name: Mutex<Vec<u8>>,
    /// CLONE_CHILD_CLEARTID's address; 0: none.
    pub clear_child_tid: AtomicU64,
    /// set_robust_list's head; 0: none.
    pub robust_list: AtomicU64,
    /// The signal that the parent death raises (PR_SET_PDEATHSIG).
    pub parent_death_signal: AtomicU32,
    /// A vfork parent waits here until this task has its own memory or is gone.
    pub(crate) vfork: VforkDone,
    /// For getrusage, /proc.
    pub started_ns: u64,
    pub counters: TaskCounters,
    /// CPU time at its end, read while its host thread still existed.
    pub(crate) last_times: OnceLock<CpuTimes>,
    /// Nice value (-20..19), for getpriority.
    pub nice: AtomicI32,
    /// `SCHED_OTHER`, `SCHED_BATCH` or `SCHED_IDLE`, with SCHED_RESET_ON_FORK, as it reads back.
    pub policy: AtomicU32,
    /// trapno, err and cr2 of the last fault, as signal frames show them.
    pub(crate) last_fault: Mutex<(u64, u64, u64)>,
    /// The number of the system call being handled or parked; -1 when running guest code.
    pub(crate) in_syscall: AtomicU64,
}

/// Whether the memory borrowed by vfork has been given back.
#[derive(Default)]
pub(crate) struct VforkDone {
    pub(crate) done: AtomicBool,
    pub(crate) queue: WaitQueue,
}

/// Statistics of a thread. Whoever handles it counts: one at a time.
#[derive(Default)]
pub struct TaskCounters {
    pub voluntary_switches: AtomicU64,
    pub read_calls: AtomicU64,
    pub write_calls: AtomicU64,
    pub read_chars: AtomicU64,
    pub write_chars: AtomicU64,
}

/// Adds to a counter that nobody else changes meanwhile: an atomic addition costs more than all the rest of some calls.
pub fn count(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Task {
    /// The number in its own namespace (gettid(2)).
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }
    /// Its process's number in its own namespace (getpid(2)).
    pub fn pid(&self) -> i32 {
        self.process.id.nr()
    }
    /// The kernel id: unique in the sandbox, never shown to guests.
    pub fn kid(&self) -> i32 {
        self.kid.load(Ordering::Relaxed)
    }
    pub fn id(&self) -> Arc<Pid> {
        self.id.read().clone()
    }
    pub(crate) fn set_id(&self, id: Arc<Pid>) {
        self.kid.store(id.kid(), Ordering::Relaxed);
        self.tid.store(id.nr(), Ordering::Relaxed);
        *self.id.write() = id;
    }
    /// The PID namespace it lives in.
    pub fn pid_ns(&self) -> &Arc<PidNs> {
        self.process.id.ns()
    }
    /// The number as seen from `ns`; 0 if it is not visible there.
    pub fn tid_in(&self, ns: &PidNs) -> i32 {
        self.id.read().nr_in(ns)
    }
    /// The process that a number of this task's namespace names.
    pub fn find_process(&self, nr: i32) -> Option<Arc<Process>> {
        self.kernel.find_process(self.pid_ns(), nr)
    }
    /// The thread that a number of this task's namespace names.
    pub fn find_task(&self, nr: i32) -> Option<Arc<Task>> {
        self.kernel.find_task(self.pid_ns(), nr)
    }
    /// What this task sees of a kernel id that an object remembers; 0 if nothing.
    pub fn nr_of(&self, kid: i32) -> i32 {
        self.kernel.nr_in(kid, self.pid_ns())
    }
    /// The kernel id behind a number of this task's namespace.
    pub fn kid_of(&self, nr: i32) -> Option<i32> {
        self.pid_ns().find(nr).map(|pid| pid.kid())
    }
    #[expect(clippy::unreachable, reason = "made inside an Arc only, and methods are called through it")]
    pub fn arc(&self) -> Arc<Task> {
        self.me.upgrade().unwrap_or_else(|| unreachable!("a method runs on a live task"))
    }
    pub fn is_leader(&self) -> bool {
        self.kid() == self.process.kid()
    }

    pub fn platform(&self) -> Arc<dyn PlatformTask> {
        self.platform.read().clone()
    }
    pub fn mm(&self) -> Arc<Mm> {
        self.mm.read().clone()
    }
    /// Its memory for a copy or a check. Nobody but the task itself replaces it, so it keeps nobody from anything.
    pub fn own_mm(&self) -> impl Deref<Target = Arc<Mm>> + '_ {
        self.mm.read()
    }
    pub fn files(&self) -> Arc<FdTable> {
        self.files.read().clone()
    }
    /// As [`FdTable::get`] of its table.
    pub fn file(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.files.read().get(fd)
    }
    /// As [`FdTable::get_io`] of its table.
    pub fn io_file(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.files.read().get_io(fd)
    }
    /// As [`FdTable::get_io_pair`] of its table.
    pub fn io_files(&self, fds: [i32; 2]) -> Result<[Arc<File>; 2], Errno> {
        self.files.read().get_io_pair(fds)
    }
    /// As [`FdTable::add`] to its table.
    pub fn add_file(&self, file: Arc<File>, cloexec: bool) -> Result<i32, Errno> {
        self.files.read().add(file, cloexec, 0, self.process.nofile())
    }
    pub fn set_files(&self, files: Arc<FdTable>) {
        let old = std::mem::replace(&mut *self.files.write(), files);
        drop(old);
    }
    pub fn fs(&self) -> Arc<FsState> {
        self.fs.read().clone()
    }
    pub fn set_fs(&self, fs: Arc<FsState>) {
        let old = std::mem::replace(&mut *self.fs.write(), fs);
        drop(old);
    }
    pub fn creds(&self) -> Arc<Creds> {
        self.creds.read().clone()
    }
    /// Replaces the credentials. `no_new_privs` never goes away, also if somebody else has set it meanwhile.
    pub fn set_creds(&self, mut creds: Creds) {
        let mut slot = self.creds.write();
        creds.no_new_privs |= slot.no_new_privs;
        *slot = Arc::new(creds);
        drop(slot);
        self.forget_answers();
    }
    /// PR_SET_NO_NEW_PRIVS for a thread that may be doing something else.
    pub(crate) fn forbid_new_privs(&self) {
        let mut slot = self.creds.write();
        Arc::make_mut(&mut slot).no_new_privs = true;
    }
    pub fn name(&self) -> Vec<u8> {
        self.name.lock().clone()
    }
    /// Sets the name; longer ones are cut at 15 bytes.
    pub fn set_name(&self, name: &[u8]) {
        *self.name.lock() = name.get(..name.len().min(15)).unwrap_or_default().to_vec();
    }

    pub(crate) fn last_fault(&self) -> (u64, u64, u64) {
        *self.last_fault.lock()
    }
    pub(crate) fn set_last_fault(&self, trap_no: u64, error_code: u64, addr: u64) {
        *self.last_fault.lock() = (trap_no, error_code, addr);
    }

    /// Who calls, as the VFS needs it; its ids are kernel ids.
    pub fn caller(&self) -> Caller {
        Caller { tgid: self.process.kid(), tid: self.kid(), creds: self.creds() }
    }

    /// Everything a path operation depends on.
    pub fn context(&self) -> Context {
        Context { place: self.fs.read().place(), caller: self.caller() }
    }

    /// Replaces memory and platform task (execve).
    pub(crate) fn replace_memory(
        &self,
        mm: Arc<Mm>,
        platform: Arc<dyn PlatformTask>,
    ) -> Arc<dyn PlatformTask> {
        let old = std::mem::replace(&mut *self.mm.write(), mm);
        drop(old);
        std::mem::replace(&mut *self.platform.write(), platform)
    }
}

/// A value as a system call returns it.
pub fn ok(value: impl TryInto<u64>) -> SysResult {
    value.try_into().map_err(|_| chitin_abi::Errno::EOVERFLOW.into())
}
