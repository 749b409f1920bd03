//! Containers: what processes of one container have in common beside their namespaces.
//!
//! A process is in the container of its parent, for good. Neighbours: `boot` makes containers and keeps the table of
//! them; `exec` takes new address spaces from a container's own family, so that the host's cgroup of a container holds
//! its processes and no others; limits are what guests are told of the machine.
//!
//! Locks: `spaces`, `console` and `told` (leaves).

use crate::cgroup::Cgroup;
use crate::result::ExitStatus;
use crate::signal::send_to_process;
use crate::tty::Tty;
use crate::{Kernel, Process, exit};
use chitin_abi::signal::SigInfo;
use chitin_platform::{BoxFuture, PlatformError, SpaceGroup, Spawned};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Where a container's address spaces come from.
#[derive(Default)]
pub enum Spaces {
    /// The platform's first family.
    #[default]
    Common,
    /// A family of its own.
    Own(Arc<dyn SpaceGroup>),
    /// It has ended.
    Ended,
}

/// A container.
pub struct Container {
    pub id: String,
    spaces: Mutex<Spaces>,
    cpus: AtomicU32,
    memory: AtomicU64,
    console: Mutex<Option<Arc<Tty>>>,
    frozen: AtomicBool,
    /// The root of its control groups.
    pub cgroup: Arc<Cgroup>,
    /// What its guest is told of limits that the host enforces.
    pub told: Mutex<Told>,
    /// Guest processes that the host has killed.
    pub oom_kills: AtomicU64,
}

/// Limits beside CPUs and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// cpu.max: microseconds of CPU time in each period of so many.
    pub quota: Option<(u64, u64)>,
    /// pids.max.
    pub pids: Option<u64>,
}

impl Container {
    /// A container that sees `cpus` CPUs and `memory` bytes.
    pub fn new(id: &str, spaces: Spaces, cpus: u32, memory: u64) -> Arc<Container> {
        let container = Container {
            id: id.to_owned(),
            spaces: Mutex::new(spaces),
            cpus: AtomicU32::new(1),
            memory: AtomicU64::new(memory),
            console: Mutex::new(None),
            frozen: AtomicBool::new(false),
            cgroup: Cgroup::root(),
            told: Mutex::default(),
            oom_kills: AtomicU64::new(0),
        };
        container.set_cpus(cpus);
        Arc::new(container)
    }

    /// The number of CPUs its processes see.
    pub fn cpus(&self) -> u32 {
        self.cpus.load(Ordering::Relaxed)
    }
    pub fn set_cpus(&self, cpus: u32) {
        self.cpus.store(cpus.max(1), Ordering::Relaxed);
    }
    /// The memory they see, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }
    pub fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Whether [`Kernel::freeze`] was asked for and not taken back.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }
    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::SeqCst);
    }
    /// A new address space for one of its processes.
    pub(crate) fn new_space(&self, kernel: &Kernel) -> BoxFuture<Result<Spawned, PlatformError>> {
        match &*self.spaces.lock() {
            Spaces::Common => kernel.platform.new_space(),
            Spaces::Own(group) => group.new_space(),
            Spaces::Ended => Box::pin(std::future::ready(Err(PlatformError::Gone))),
        }
    }

    /// What its /dev/console is.
    pub fn console(&self) -> Option<Arc<Tty>> {
        self.console.lock().clone()
    }
    pub fn set_console(&self, console: Arc<Tty>) {
        *self.console.lock() = Some(console);
    }

    /// It has ended: no console any more, and no address spaces.
    pub fn close(&self) {
        let console = self.console.lock().take();
        drop(console);
        let old = std::mem::replace(&mut *self.spaces.lock(), Spaces::Ended);
        drop(old);
    }

    /// Whether a process is in it.
    pub fn holds(self: &Arc<Container>, process: &Process) -> bool {
        Arc::ptr_eq(self, &process.container)
    }
}

impl Kernel {
    /// The processes of a container, zombies included, by pid.
    pub fn processes_of(&self, container: &Arc<Container>) -> Vec<Arc<Process>> {
        let mut processes = self.processes();
        processes.retain(|process| container.holds(process));
        processes
    }

    /// Takes a zombie that has no parent out of the tree.
    pub fn forget(&self, process: &Process) {
        let mut tree = self.tree.lock();
        if process.is_zombie() && process.parent().is_none() {
            tree.remove_process(process);
        }
    }

    /// Sends a signal to every process of a container.
    pub fn signal_container(&self, container: &Arc<Container>, info: SigInfo) {
        for process in self.signal_targets(|process| container.holds(process)).iter() {
            send_to_process(process, info);
        }
    }

    /// Ends every process of a container, as if by this signal.
    pub fn kill_container(&self, container: &Arc<Container>, signal: u32) {
        self.kill_where(|process| container.holds(process), ExitStatus::Signaled { signal, core: false });
    }

    pub(crate) fn kill_where(&self, pick: impl Fn(&Process) -> bool, status: ExitStatus) {
        loop {
            let targets = self.signal_targets(&pick);
            let mut alive = targets.iter().filter(|process| process.group_exit().is_none()).peekable();
            if alive.peek().is_none() {
                return;
            }
            // Who comes from elsewhere meanwhile is found the next time.
            alive.for_each(|process| exit::group_exit(process, status));
        }
    }
}
