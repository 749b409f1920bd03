//! What a sentry is told at its start, and what it reports back once.
//!
//! The document lies in a memfd whose number is the argument of `chitin sentry --config-fd N`. All descriptor
//! numbers in it are numbers in the new sentry process. The answer is one [`BootReport`] line on the ready pipe.

use serde::{Deserialize, Serialize};

use crate::container::ContainerConfig;

/// How guest instructions are run; `Auto` lets the sentry probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlatformChoice {
    #[default]
    Auto,
    Seccomp,
    Ptrace,
    Kvm,
}

/// Whose network the guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The sentry's own TCP/IP stack on the interfaces of the container's network namespace.
    #[default]
    Sandbox,
    /// Sockets are proxied to the host one to one.
    Host,
    /// Loopback only.
    None,
}

/// Which trees get a copy-on-write layer above the host's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayMode {
    /// Writes reach the host.
    None,
    /// The root file system is copy-on-write, bind mounts are not.
    #[default]
    Root,
    /// The root file system and every writable bind mount.
    All,
}

/// Where the overlay keeps what the guest wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// In memory.
    #[default]
    Memory,
    /// In unnamed files (`O_TMPFILE`) of the inherited directory descriptor.
    Dir(i32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayConfig {
    pub mode: OverlayMode,
    pub medium: Medium,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Descriptors of the sandbox as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxFds {
    /// A listening unix stream socket; the sentry accepts control connections on it.
    pub control: i32,
    /// The write end of a pipe: the sentry writes one [`BootReport`] line and closes it. An end without a line
    /// means that the sentry died.
    pub ready: i32,
    /// The read end of a pipe whose write end the command that made the sandbox holds. The end of the stream means
    /// that the command died: the sentry ends the sandbox at once. One byte means that the sandbox shall outlive
    /// the command: the sentry closes the pipe and no longer watches.
    pub lifeline: Option<i32>,
    /// /dev/kvm, open for reading and writing, for the platform that uses it.
    #[serde(default)]
    pub kvm: Option<i32>,
    /// A detached mount of the file system that [`crate::ContainerConfig::view_fd`] serves, for the sentry to show to who
    /// enters its mount namespace.
    #[serde(default)]
    pub view: Option<i32>,
}

/// A label of one of the host's security modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostLabel {
    AppArmor(String),
    Selinux(String),
}

/// Everything a sentry needs to know to boot a sandbox with its first container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    pub sandbox_id: String,
    pub platform: PlatformChoice,
    /// Whether the platform may change guests' code in memory, so that their calls become cheaper.
    pub patch_calls: bool,
    pub network: NetworkMode,
    pub overlay: OverlayConfig,
    /// Where the sentry's log goes; without it the sentry logs nothing.
    pub debug_log_fd: Option<i32>,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    /// Log every guest syscall.
    pub strace: bool,
    /// Name of the UTS namespace; containers may carry their own.
    pub hostname: String,
    pub domainname: String,
    /// Number of CPUs the guest sees (at least 1).
    pub cpus: u32,
    /// What it and its stubs take on once its mounts are made.
    #[serde(default)]
    pub labels: Vec<HostLabel>,
    /// Start the first container at once instead of waiting for [`crate::Request::Start`].
    pub start: bool,
    pub containers: Vec<ContainerConfig>,
    pub fds: SandboxFds,
}

/// The one line a sentry writes to its ready pipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootReport {
    /// The sandbox is confined, its first container is created (and started, when [`BootConfig::start`] is set).
    Ready,
    /// The sandbox could not be made; the text names cause and remedy. The sentry exits after it.
    Error { message: String },
}
