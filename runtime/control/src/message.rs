//! Control messages: each connection carries requests and, in the same order, one response per request.
//!
//! [`Request::Wait`] and [`Request::WaitExec`] are answered when the process ends, so a client that waits uses a
//! connection of its own. Descriptors travel with the message that names them (`SCM_RIGHTS`), in the stated order.

use serde::{Deserialize, Serialize};

use crate::container::{ContainerConfig, ProcessConfig};
use crate::network::NetworkConfig;

/// What the runtime asks of a sentry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The first step of a further container: its zygote, from which its processes will be forked. The runtime moves it
    /// into the container's cgroup before [`Request::Create`]. Answer: [`Response::Prepared`], with one descriptor: a
    /// pidfd of the zygote; with none where guests are no processes of the host (platform `kvm`). Undone by
    /// [`Request::Remove`]; the end of the connection does the same before `Create`, and kills the container after it:
    /// whoever stands for it on the host holds the connection.
    Prepare { container: String },
    /// Makes a prepared container, as the boot makes the first one. Descriptors: the gofer's socket, standard input,
    /// output, error; the numbers in `config` are indices into them. Answer: [`Response::Ok`].
    Create { config: Box<ContainerConfig> },
    /// Attach the sandbox to a network, once, before its first container starts. Descriptors: those that `config` names by
    /// their indices. Answer: [`Response::Ok`].
    Network { config: Box<NetworkConfig> },
    /// The egress policies in force from now on, in place of those before; none: everything is allowed. With `audit`, one
    /// descriptor: where the log goes. Answer: [`Response::Ok`].
    Egress { policies: Vec<String>, audit: bool },
    /// Run the init process of a created container. Answer: [`Response::Ok`].
    Start { container: String },
    /// Send a signal to init (`pid` none), to a process that `Exec` started, or to every process of the container (`all`).
    /// Answer: [`Response::Ok`].
    Signal { container: String, signal: i32, all: bool, pid: Option<i32> },
    /// A signal of the terminal on the host (^C, ^\, ^Z, a new window size, a hang-up) that belongs to init (`pid`
    /// none) or to a process that `Exec` started, for its foreground process group. Answer: [`Response::Ok`].
    Terminal { container: String, signal: i32, pid: Option<i32> },
    /// Answer: [`Response::State`].
    State { container: String },
    /// Answer, once the container has ended: [`Response::Exited`].
    Wait { container: String },
    /// Answer: [`Response::Processes`].
    Processes { container: String },
    /// What every thread of the container does or waits for. Answer: [`Response::Tasks`].
    Tasks { container: String },
    /// Write the packets of the sandbox's links, up to `snaplen` bytes of each, to the one descriptor that comes along, as pcapng,
    /// until the end of this connection. Answer, at the beginning: [`Response::Ok`].
    Capture { snaplen: u32 },
    /// Set the size of the container's terminal. Answer: [`Response::Ok`].
    Resize { container: String, rows: u16, cols: u16 },
    /// Run another process. Descriptors: standard input, output, error and further ones; `process` holds
    /// indices into them.
    /// The end of the connection before the process's end kills the process. Answer: [`Response::Started`].
    Exec { container: String, process: Box<ProcessConfig> },
    /// Answer, once that process has ended: [`Response::Exited`]. Asked on the connection of the `Exec`.
    WaitExec { container: String, pid: i32 },
    /// Stop every process of the container where it stands, invisibly to the guest. Answer: [`Response::Ok`].
    Pause { container: String },
    /// Undo `Pause`. Answer: [`Response::Ok`].
    Resume { container: String },
    /// What the guest sees of its limits. Answer: [`Response::Ok`].
    Update { container: String, limits: Limits },
    /// End a further container's processes and forget it. Answer: [`Response::Ok`].
    Remove { container: String },
    /// Kill everything and end the sentry. Answer: [`Response::Ok`], or the end of the connection.
    Destroy,
}

/// Resources as a container's guest sees them; what is none stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Number of CPUs, at least 1.
    pub cpus: Option<u32>,
    /// Bytes of memory; `u64::MAX` for no limit.
    pub memory: Option<u64>,
    /// Microseconds of CPU time in each period of so many (cpu.max); a quota of `u64::MAX` for no limit.
    #[serde(default)]
    pub quota: Option<(u64, u64)>,
    /// Threads (pids.max); `u64::MAX` for no limit.
    #[serde(default)]
    pub pids: Option<u64>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// It returned or called `exit`.
    Exited(u8),
    /// A signal killed it.
    Signaled(u8),
}

impl ExitStatus {
    /// The exit code that a shell would show: the code itself, or 128 plus the signal's number.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// A container's status, as `state` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One row of `ps`; the ids are those inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessInfo {
    pub pid: i32,
    /// Its stub's pid in the sentry's PID namespace; the runtime finds the host's by `NSpid`.
    pub stub: i32,
    pub ppid: i32,
    pub uid: u32,
    pub threads: u32,
    /// CPU time used, in milliseconds.
    pub cpu_ms: u64,
    /// Seconds since the epoch.
    pub started: u64,
    pub tty: Option<String>,
    pub command: String,
}

/// What a sentry answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "re", rename_all = "lowercase", deny_unknown_fields)]
pub enum Response {
    Ok,
    State {
        status: Status,
        exit: Option<ExitStatus>,
        /// Init's pid inside the sandbox.
        init_pid: i32,
    },
    Exited {
        status: ExitStatus,
    },
    Processes {
        processes: Vec<ProcessInfo>,
    },
    /// A line each, made for people.
    Tasks {
        tasks: Vec<String>,
    },
    Started {
        pid: i32,
    },
    Prepared,
    /// The text names cause and remedy; it is shown to the user as it is.
    Error {
        message: String,
    },
}
