//! Control messages: each connection carries requests and, in the same order, one response per request.
//!
//! [`Request::Wait`] is answered when the container ends, so a client that waits uses a connection of its own.

use serde::{Deserialize, Serialize};

use crate::container::ProcessConfig;

/// What the runtime asks of a sentry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Run the init process of a created container. Answer: [`Response::Ok`].
    Start { container: String },
    /// Send a signal to init, or to every process of the container. Answer: [`Response::Ok`].
    Signal { container: String, signal: i32, all: bool },
    /// Answer: [`Response::State`].
    State { container: String },
    /// Answer, once the container has ended: [`Response::Exited`].
    Wait { container: String },
    /// Answer: [`Response::Processes`].
    Processes { container: String },
    /// Set the size of the container's terminal. Answer: [`Response::Ok`].
    Resize { container: String, rows: u16, cols: u16 },
    /// Run another process; its three stdio descriptors come with the message (`SCM_RIGHTS`), and
    /// `process.stdio` holds indices into them. Answer: [`Response::Started`]; wait with [`Request::WaitExec`].
    Exec { container: String, process: Box<ProcessConfig> },
    /// Answer, once that process has ended: [`Response::Exited`].
    WaitExec { container: String, pid: i32 },
    /// Kill everything and end the sentry. Answer: [`Response::Ok`], or the end of the connection.
    Destroy,
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
    Started {
        pid: i32,
    },
    /// The text names cause and remedy; it is shown to the user as it is.
    Error {
        message: String,
    },
}
