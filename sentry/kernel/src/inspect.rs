//! What /proc shows of tasks and processes and nobody else needs.

use crate::kernel::SyscallArgs;
use crate::ns::Stack;
use crate::run::{State, WORK_EXIT, WORK_FREEZE, WORK_SIGNAL, WORK_STOP};
use crate::{FdTable, Process, Task};
use chitin_abi::Errno;
use chitin_vfs::Creds;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a task is doing, as /proc/PID/stat tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Guest code, or a call that is being worked on.
    Running,
    /// A parked call.
    Sleeping,
    /// Stopped by job control.
    Stopped,
    Dead,
}

/// What is left of a thread that has ended.
#[derive(Clone)]
pub struct Epitaph {
    pub name: Vec<u8>,
    pub creds: Arc<Creds>,
}

impl Task {
    pub fn run_state(&self) -> RunState {
        match self.run.lock().state {
            State::Guest | State::Handling | State::Polling { .. } => RunState::Running,
            State::Blocked(_) | State::Frozen => RunState::Sleeping,
            State::Stopped => RunState::Stopped,
            State::Dead => RunState::Dead,
        }
    }

    /// The call that the task is parked in.
    pub fn parked_call(&self) -> Option<SyscallArgs> {
        let run = self.run.lock();
        run.call.filter(|_| matches!(run.state, State::Blocked(_)))
    }
}

/// Where a task stands, for whoever looks for one that hangs.
#[derive(Clone, Debug)]
pub struct Standing {
    pub state: &'static str,
    /// The call it is in.
    pub call: Option<SyscallArgs>,
    /// What it will look at before guest code runs again, and what is on its way to it.
    pub pending: Vec<&'static str>,
    /// The platform's view.
    pub platform: String,
}

impl Task {
    /// Takes no lock that a hanging task may keep.
    pub fn standing(&self) -> Standing {
        let mut standing =
            Standing { state: "locked", call: None, pending: Vec::new(), platform: String::new() };
        if let Some(run) = self.run.try_lock() {
            standing.state = match run.state {
                State::Guest => "in guest code",
                State::Handling => "handled by a thread",
                State::Blocked(_) => "parked",
                State::Polling { .. } => "polled by a thread",
                State::Stopped => "stopped",
                State::Frozen => "frozen",
                State::Dead => "dead",
            };
            standing.call = run.call.filter(|_| !matches!(run.state, State::Guest | State::Dead));
        }
        let work = self.work.load(Ordering::Relaxed);
        for (is, what) in [
            (work & WORK_SIGNAL != 0, "signal"),
            (work & WORK_STOP != 0, "stop"),
            (work & WORK_EXIT != 0, "end"),
            (work & WORK_FREEZE != 0, "freeze"),
            (self.queued.load(Ordering::Relaxed), "on a run queue"),
            (self.in_lane.load(Ordering::Relaxed), "in a lane"),
        ] {
            standing.pending.extend(is.then_some(what));
        }
        if let Some(platform) = self.platform.try_read() {
            standing.platform = platform.describe();
        }
        standing
    }

    /// What is behind a descriptor: the last name of its path, or what /proc says of files without one.
    pub fn file_name(&self, fd: i32) -> Option<Vec<u8>> {
        let file = self.files.try_read()?.get(fd).ok()?;
        Some(file.path().map_or_else(|| file.anon_text(), |path| path.dentry.name().into_vec()))
    }
}

impl Process {
    /// Keeps what a zombie still shows; the leader's data wins over other threads'.
    pub(crate) fn write_epitaph(&self, task: &Task) {
        let mut epitaph = self.epitaph.lock();
        if epitaph.is_none() || task.is_leader() {
            *epitaph = Some(Epitaph { name: task.name(), creds: task.creds() });
        }
    }

    /// Name and credentials of a process without living threads.
    pub fn epitaph(&self) -> Option<Epitaph> {
        self.epitaph.lock().clone()
    }

    pub fn has_execed(&self) -> bool {
        self.has_execed.load(Ordering::Relaxed)
    }
}

impl FdTable {
    /// Slots of the table as Linux would have allocated them (FDSize).
    pub fn capacity(&self) -> usize {
        let used = self.numbers().last().map_or(0, |&last| usize::try_from(last).unwrap_or(0) + 1);
        used.next_power_of_two().max(64)
    }
}

/// What /proc/net shows, from the network stack; `boot` connects the two as an extension of the kernel.
pub trait NetFiles: Send + Sync {
    /// The text of a file ("unix", "tcp", "dev") in a network namespace; `None`: the stack knows no such file.
    fn text(&self, stack: &Stack, name: &str) -> Option<Vec<u8>>;
    /// The interfaces of a namespace, by index.
    fn links(&self, _stack: &Stack) -> Vec<NetLink> {
        Vec::new()
    }
    /// What is in a directory of a namespace's /proc/sys/net (""): names, `true` for directories.
    fn tunables_in(&self, stack: &Stack, dir: &str) -> BTreeMap<String, bool>;
    /// A file there, by its path from /proc/sys/net.
    fn tunable(&self, stack: &Stack, path: &str) -> Option<Tunable>;
    /// Sets the first so many numbers of a file.
    fn tune(&self, stack: &Stack, path: &str, numbers: &[i64]) -> Result<(), Errno>;
    /// Sets a file of words.
    fn tune_words(&self, stack: &Stack, path: &str, words: &str) -> Result<(), Errno>;
}

/// What a file of /proc/sys/net holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunable {
    pub value: TunableValue,
    pub writable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunableValue {
    Numbers { values: Vec<i64>, min: i64, max: i64 },
    Words(String),
}

/// The sandbox's [`NetFiles`].
pub struct ProcNet(pub Box<dyn NetFiles>);

/// A network interface as /sys/class/net shows it.
#[derive(Clone, Debug, Default)]
pub struct NetLink {
    pub name: String,
    pub index: u32,
    /// Its peer's index, or its own.
    pub peer: u32,
    pub mtu: u32,
    /// ARPHRD_*.
    pub kind: u32,
    /// IFF_*.
    pub flags: u32,
    /// IF_OPER_*.
    pub state: u8,
    pub address: [u8; 6],
    pub broadcast: [u8; 6],
    pub tx_queue_len: u32,
    pub group: u32,
    /// Counters that are not always 0, by the names of their files.
    pub counters: Vec<(&'static str, u64)>,
}
