//! The kernel object: what all tasks share.

use crate::container::{Container, Spaces};
use crate::futex::FutexTable;
use crate::ipc::Ipc;
use crate::process::Process;
use crate::reactor::Reactor;
use crate::result::{ExitStatus, Outcome};
use crate::seccomp::{self, enter::Then};
use crate::tree::Tree;
use crate::{Task, time};
use chitin_abi::seccomp::AUDIT_ARCH_X86_64;
use chitin_platform::Platform;
use chitin_vfs::{Vfs, WaitQueue};
use parking_lot::{Mutex, RwLock};
use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A system call as the guest made it.
#[derive(Clone, Copy, Debug)]
pub struct SyscallArgs {
    /// AUDIT_ARCH_*; calls of other architectures than x86-64 are not there, but filters see them.
    pub arch: u32,
    pub nr: u64,
    pub args: [u64; 6],
    /// The address after the `syscall` instruction.
    pub ip: u64,
}

/// The system call table; implemented by the `syscalls` crate.
pub trait Dispatch: Send + Sync {
    fn call(&self, task: &Arc<Task>, call: SyscallArgs) -> Outcome;
}

/// Names of the machine (uname(2)).
#[derive(Clone, Debug)]
pub struct Uts {
    pub hostname: Vec<u8>,
    pub domainname: Vec<u8>,
}

/// The release the guest sees: a current long-term kernel, whose system calls the table follows.
pub const RELEASE: &str = "6.12.0-chitin";
/// The version text of uname(2).
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Chitin";

/// What the machine looks like to guests.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cpus: u32,
    pub memory_bytes: u64,
}

pub struct Kernel {
    pub platform: Arc<dyn Platform>,
    pub vfs: Arc<Vfs>,
    pub reactor: Arc<Reactor>,
    pub futexes: FutexTable,
    pub ipc: Ipc,
    pub(crate) tree: Mutex<Tree>,
    pub uts: RwLock<Uts>,
    pub machine: Machine,
    /// The first container, which makes the sandbox.
    pub container: Arc<Container>,
    /// Monotonic time at boot, for uptime and start times.
    pub boot_ns: u64,
    dispatch: OnceLock<Box<dyn Dispatch>>,
    /// Objects of crates above that belong to the sandbox (network stack, SysV IPC), by their type.
    extensions: RwLock<Vec<Arc<dyn Any + Send + Sync>>>,
    init_status: Mutex<Option<ExitStatus>>,
    /// Woken at init's end.
    pub init_events: WaitQueue,
    /// Init is a command like any other: it has no protection from signals without a handler.
    pub plain_init: AtomicBool,
}

impl Kernel {
    pub fn new(
        platform: Arc<dyn Platform>,
        reactor: Arc<Reactor>,
        machine: Machine,
        uts: Uts,
    ) -> Arc<Kernel> {
        Arc::new(Kernel {
            platform,
            vfs: Arc::default(),
            reactor,
            futexes: FutexTable::default(),
            ipc: Ipc::default(),
            tree: Mutex::new(Tree::new()),
            uts: RwLock::new(uts),
            machine,
            container: Container::new("", Spaces::Common, machine.cpus, machine.memory_bytes),
            boot_ns: time::monotonic(),
            dispatch: OnceLock::new(),
            extensions: RwLock::default(),
            init_status: Mutex::new(None),
            init_events: WaitQueue::new(),
            plain_init: AtomicBool::new(false),
        })
    }

    /// Installs the system call table; once, before the first task.
    pub fn set_dispatch(&self, dispatch: Box<dyn Dispatch>) {
        let first = self.dispatch.set(dispatch).is_ok();
        debug_assert!(first, "the table is installed once");
    }

    pub(crate) fn dispatch(&self, task: &Arc<Task>, call: SyscallArgs) -> Outcome {
        if task.seccomp.active() {
            return seccomp::enter::enter(task, call, Then::Dispatch);
        }
        self.dispatch_allowed(task, call)
    }

    /// A call that the task's filters let pass.
    pub(crate) fn dispatch_allowed(&self, task: &Arc<Task>, call: SyscallArgs) -> Outcome {
        match self.dispatch.get() {
            Some(table) if call.arch == AUDIT_ARCH_X86_64 => table.call(task, call),
            _ => Outcome::error(chitin_abi::Errno::ENOSYS),
        }
    }

    /// Stores an object for all tasks to find by its type.
    pub fn extend<T: Any + Send + Sync>(&self, object: Arc<T>) {
        self.extensions.write().push(object);
    }

    /// Finds an object of [`Kernel::extend`].
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.extensions.read().iter().find_map(|object| object.clone().downcast::<T>().ok())
    }

    pub(crate) fn init_ended(&self, status: ExitStatus) {
        self.init_status.lock().get_or_insert(status);
        self.init_events.wake(0);
    }

    /// How init ended, once it has.
    pub fn init_status(&self) -> Option<ExitStatus> {
        *self.init_status.lock()
    }

    /// Ends everything (the runtime's `delete --force`, a lost gofer).
    pub fn kill_all(&self, status: ExitStatus) {
        self.kill_where(|_| true, status);
    }

    /// The processes that a signal to many goes to. A fork of one of them that is under way starts over, since its child
    /// is not among them.
    pub fn signal_targets(&self, pick: impl Fn(&Process) -> bool) -> Vec<Arc<Process>> {
        let tree = self.tree.lock();
        let mut found = tree.processes();
        found.retain(|process| !process.is_zombie() && pick(process));
        for process in &found {
            process.group_signals.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    pub fn find_process(&self, pid: i32) -> Option<Arc<Process>> {
        self.tree.lock().process(pid)
    }
    pub fn find_task(&self, tid: i32) -> Option<Arc<Task>> {
        self.tree.lock().task(tid)
    }
    /// All processes, zombies included, by pid.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.tree.lock().processes()
    }
    pub fn processes_in_group(&self, pgid: i32) -> Vec<Arc<Process>> {
        let mut processes = self.processes();
        processes.retain(|process| process.pgid() == pgid && !process.is_zombie());
        processes
    }
    pub fn processes_in_session(&self, sid: i32) -> Vec<Arc<Process>> {
        let mut processes = self.processes();
        processes.retain(|process| process.sid() == sid && !process.is_zombie());
        processes
    }
    pub fn group_exists(&self, pgid: i32) -> bool {
        self.processes().iter().any(|process| process.pgid() == pgid)
    }

    /// The last pid given out (/proc/loadavg).
    pub fn last_pid(&self) -> i32 {
        self.tree.lock().last_pid()
    }

    /// Number of living threads.
    pub fn thread_count(&self) -> usize {
        self.tree.lock().task_count()
    }

    /// Whether nobody outside the group could continue it: no member has a parent in another group of the session.
    pub fn is_orphaned_group(&self, process: &Process) -> bool {
        let (pgid, sid) = (process.pgid(), process.sid());
        self.processes_in_group(pgid).iter().all(|member| match member.parent() {
            Some(parent) => {
                parent.pid == 1 && parent.pgid() != pgid && parent.sid() != sid
                    || parent.pgid() == pgid
                    || parent.sid() != sid
            }
            None => true,
        })
    }
}
