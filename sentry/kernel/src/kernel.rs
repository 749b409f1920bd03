//! The kernel object: what all tasks share.

use crate::container::{Container, Spaces};
use crate::futex::FutexTable;
use crate::ipc::Ipc;
use crate::ns::{CgroupNs, NetNs, NsProxy, Stack, UtsNs};
use crate::pid::PidNs;
use crate::process::Process;
use crate::reactor::Reactor;
use crate::result::{ExitStatus, Outcome};
use crate::seccomp::{self, enter::Then};
use crate::time::ns::{Offsets, TimeNs};
use crate::tree::Tree;
use crate::{Task, time};
use chitin_abi::seccomp::AUDIT_ARCH_X86_64;
use chitin_platform::Platform;
use chitin_vfs::{UserNs, Vfs};
use parking_lot::{Mutex, RwLock};
use std::any::Any;
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
    /// Whether somebody is shown every call.
    fn shows_calls(&self) -> bool {
        false
    }
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
    pub(crate) tree: Mutex<Tree>,
    pub machine: Machine,
    /// The first container, which makes the sandbox.
    pub container: Arc<Container>,
    /// Monotonic time at boot, for uptime and start times.
    pub boot_ns: u64,
    dispatch: OnceLock<Box<dyn Dispatch>>,
    /// Objects of crates above that belong to the sandbox (network stack, SysV IPC), by their type.
    extensions: RwLock<Vec<Arc<dyn Any + Send + Sync>>>,
    /// Where kernel ids are numbers; no guest is in it.
    pub(crate) root_pid_ns: Arc<PidNs>,
    ipc_namespaces: Mutex<Vec<std::sync::Weak<Ipc>>>,
    /// The network that all containers share.
    net: OnceLock<Arc<NetNs>>,
}

impl Kernel {
    pub fn new(platform: Arc<dyn Platform>, reactor: Arc<Reactor>, machine: Machine) -> Arc<Kernel> {
        let root_pid_ns = PidNs::root();
        Arc::new(Kernel {
            platform,
            vfs: Arc::default(),
            reactor,
            futexes: FutexTable::default(),
            tree: Mutex::new(Tree::new(root_pid_ns.clone())),
            root_pid_ns,
            ipc_namespaces: Mutex::default(),
            net: OnceLock::new(),
            machine,
            container: Container::new("", Spaces::Common, machine.cpus, machine.memory_bytes),
            boot_ns: time::monotonic(),
            dispatch: OnceLock::new(),
            extensions: RwLock::default(),
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

    pub(crate) fn shows_calls(&self) -> bool {
        self.dispatch.get().is_some_and(|table| table.shows_calls())
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

    /// Ends everything (the runtime's `delete --force`, a lost gofer).
    pub fn kill_all(&self, status: ExitStatus) {
        self.kill_where(|_| true, status);
    }

    /// The process that a number of a namespace names.
    pub fn find_process(&self, ns: &PidNs, nr: i32) -> Option<Arc<Process>> {
        self.process_by_kid(ns.find(nr)?.kid())
    }
    /// The thread that a number of a namespace names.
    pub fn find_task(&self, ns: &PidNs, nr: i32) -> Option<Arc<Task>> {
        self.task_by_kid(ns.find(nr)?.kid())
    }
    /// By kernel id.
    pub fn process_by_kid(&self, kid: i32) -> Option<Arc<Process>> {
        self.tree.lock().process(kid)
    }
    /// By kernel id.
    pub fn task_by_kid(&self, kid: i32) -> Option<Arc<Task>> {
        self.tree.lock().task(kid)
    }
    /// What `ns` sees of a kernel id that an object remembers, also for a while after its end; 0 if nothing.
    pub fn nr_in(&self, kid: i32, ns: &PidNs) -> i32 {
        self.root_pid_ns.remembered(kid).map_or(0, |pid| pid.nr_in(ns))
    }
    /// All processes, zombies included, by kernel id.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.tree.lock().processes()
    }
    /// The processes that a namespace sees, zombies included, by their number there.
    pub fn processes_in(&self, ns: &PidNs) -> Vec<Arc<Process>> {
        let pids = ns.all();
        let tree = self.tree.lock();
        pids.iter().filter_map(|pid| tree.process(pid.kid())).collect()
    }
    /// Living members of a group, by its kernel id.
    pub fn processes_in_group(&self, pgid: i32) -> Vec<Arc<Process>> {
        let mut processes = self.processes();
        processes.retain(|process| process.pgid() == pgid && !process.is_zombie());
        processes
    }
    pub fn group_exists(&self, pgid: i32) -> bool {
        self.processes().iter().any(|process| process.pgid() == pgid)
    }

    /// Processes and threads made so far (/proc/stat).
    pub fn forks(&self) -> u64 {
        self.root_pid_ns.count_given()
    }

    /// Number of living threads.
    pub fn thread_count(&self) -> usize {
        self.tree.lock().task_count()
    }

    /// Whether nobody outside the group could continue it: no member has a parent in another group of the session.
    pub fn is_orphaned_group(&self, process: &Process) -> bool {
        let (pgid, sid) = (process.pgid(), process.sid());
        self.processes_in_group(pgid)
            .iter()
            .all(|member| member.parent().is_none_or(|parent| parent.pgid() == pgid || parent.sid() != sid))
    }

    /// Says what the sandbox's network is, which the first container's `user_ns` has power over; once.
    pub fn set_net(&self, stack: Stack, user_ns: &Arc<UserNs>) {
        let first = self.net.set(NetNs::new(stack, user_ns, None)).is_ok();
        debug_assert!(first, "there is one network");
    }

    /// A PID namespace for a container. Its first process becomes its init.
    pub fn new_pid_ns(&self, user_ns: &Arc<UserNs>) -> Arc<PidNs> {
        // The root's level is far from the deepest.
        self.root_pid_ns.new_child(user_ns).unwrap_or_else(|_| self.root_pid_ns.clone())
    }

    /// A System V IPC namespace.
    pub fn new_ipc_ns(&self, user_ns: &Arc<UserNs>) -> Arc<Ipc> {
        let ipc = Arc::new(Ipc::new(user_ns));
        let mut all = self.ipc_namespaces.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&ipc));
        ipc
    }

    /// All IPC namespaces: memory may be attached, and undo operations noted, in more than the caller's.
    pub(crate) fn ipc_namespaces(&self) -> Vec<Arc<Ipc>> {
        self.ipc_namespaces.lock().iter().filter_map(std::sync::Weak::upgrade).collect()
    }
    pub(crate) fn each_ipc(&self, act: impl Fn(&Ipc)) {
        self.ipc_namespaces().iter().for_each(|ipc| act(ipc));
    }

    /// A task of a process with this kernel id has left `mm`; if it was the last one, its segments are detached.
    pub(crate) fn memory_left(&self, mm: &Arc<chitin_mm::Mm>, kid: i32) {
        self.each_ipc(|ipc| ipc.left(self, mm, kid));
    }

    /// The namespaces of a container with a PID and an IPC namespace of its own and these names, under `user_ns`.
    pub fn new_namespaces(&self, names: Uts, user_ns: &Arc<UserNs>, offsets: Offsets) -> NsProxy {
        let time = TimeNs::new(offsets, user_ns);
        NsProxy {
            pid_for_children: self.new_pid_ns(user_ns),
            uts: UtsNs::new(names, user_ns),
            ipc: self.new_ipc_ns(user_ns),
            cgroup: CgroupNs::new(self.container.cgroup.clone(), user_ns),
            net: self.net.get_or_init(|| NetNs::new(Arc::new(()), user_ns, None)).clone(),
            time_for_children: time.clone(),
            time,
        }
    }
}
