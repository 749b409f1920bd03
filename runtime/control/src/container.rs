//! One container as the sentry sees it: the OCI configuration after validation, without host paths.
//!
//! Texts of the OCI spec (capability names, mount options, rlimit names) stay texts; the sentry gives them meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A resource limit by its OCI name (`RLIMIT_NOFILE`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

/// The five capability sets by their names (`CAP_CHOWN`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    pub bounding: Vec<String>,
    pub effective: Vec<String>,
    pub inheritable: Vec<String>,
    pub permitted: Vec<String>,
    pub ambient: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSize {
    pub rows: u16,
    pub cols: u16,
}

/// A process to be run: the container's init, or one added by `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    pub args: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: Capabilities,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    /// The nice value of the configured scheduler.
    #[serde(default)]
    pub nice: Option<i32>,
    /// Its policy (`SCHED_*`, with SCHED_RESET_ON_FORK) by number.
    #[serde(default)]
    pub scheduler: Option<u32>,
    /// The CPUs that it may run on, in bits from CPU 0 on.
    #[serde(default)]
    pub cpus: Option<Vec<u8>>,
    /// The cgroup that it is put into, below the container's own, in the container's tree.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// It is made in a paused container, too, and waits there for the end of the pause.
    #[serde(default)]
    pub even_paused: bool,
    /// The stdio descriptors are the *slave* of a host pty that the runtime made: the sentry gives the process a
    /// controlling terminal whose termios and window size it proxies to that host pty, and does job control itself.
    /// The runtime holds (or has passed on) the master. For a sandbox's first container that host pty is also the
    /// sentry's own controlling terminal, so that ^C, ^Z, a new window size and a hang-up reach the sentry as host
    /// signals, for it to pass on to the guest's foreground process group.
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    /// Host descriptors of standard input, output and error: regular files, pipes, sockets, ttys or `/dev/null`.
    /// In a [`crate::Request::Exec`] they are indices into the descriptors that came with the message.
    pub stdio: [i32; 3],
    /// Those of descriptor 3 and on, likewise; no directories and no listening sockets.
    #[serde(default)]
    pub extra: Vec<i32>,
}

/// A mount inside the container, in the order of the OCI spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountConfig {
    pub destination: String,
    /// `bind`, `tmpfs`, `proc`, `sysfs`, `devpts`, `mqueue`, `cgroup`, `devtmpfs`.
    pub fstype: String,
    /// Text for `/proc/mounts` only.
    pub source: String,
    /// Options as in the OCI spec (`ro`, `nosuid`, `rbind`, `size=64k`, `mode=1777`, …).
    pub options: Vec<String>,
    /// For bind mounts: index of the root that the container's gofer serves.
    pub gofer_root: Option<u32>,
    /// The bind mount's source is not a directory.
    pub is_file: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// A device node that the container wants to find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    pub path: String,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// One instruction of classic BPF: code, jt, jf, k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompOp(pub u16, pub u8, pub u8, pub u32);

/// A seccomp filter, as `SECCOMP_SET_MODE_FILTER` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompConfig {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    pub program: Vec<SeccompOp>,
}

/// Which namespace of a kind a container is in. All of them are the sentry's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// The one of the sandbox's first container (for that one itself: a new one).
    #[default]
    Sandbox,
    New,
    /// That of another container, by its id.
    Container(String),
}

/// `size` ids from `container` on are, on the host, those from `host` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMapping {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

impl IdMapping {
    /// Whether an id of the container is in it.
    pub fn contains(&self, id: u32) -> bool {
        id.checked_sub(self.container).is_some_and(|at| at < self.size)
    }
}

/// The ids of a user namespace. The gofer lives in a host namespace with the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMappings {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

/// What clocks are ahead of the host's by: seconds, and nanoseconds on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeOffsets {
    pub monotonic: (i64, u32),
    pub boottime: (i64, u32),
}

/// The namespaces of a container that are not its own in any case; networks are one for the whole sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespaces {
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    /// `New`: one with the container's mappings, or none if it has none.
    pub user: Namespace,
}

/// A container of the sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerConfig {
    pub id: String,
    pub process: ProcessConfig,
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Its first process is no init but a command like any other: signals from outside have their default actions.
    pub plain_command: bool,
    /// The socket to this container's gofer. Its end means that the gofer died, which ends the sandbox.
    pub gofer_fd: i32,
    /// The FUSE device (non-blocking, past its INIT) on which the host asks for the container's files.
    #[serde(default)]
    pub view_fd: Option<i32>,
    /// Index of the gofer root that is the root file system.
    pub root_gofer_root: u32,
    pub root_readonly: bool,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: Vec<MountConfig>,
    pub devices: Vec<DeviceConfig>,
    pub sysctl: BTreeMap<String, String>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub annotations: BTreeMap<String, String>,
    /// The filter that all its processes have, those of `Exec` included.
    #[serde(default)]
    pub seccomp: Option<SeccompConfig>,
    /// What personality(2) is to answer in its processes.
    #[serde(default)]
    pub personality: Option<u32>,
    /// What its guest sees of its limits.
    #[serde(default)]
    pub limits: crate::Limits,
    /// Without them ids are those of the host, or all that there are.
    #[serde(default)]
    pub id_mappings: Option<IdMappings>,
    /// Without mappings of its own: those of the user namespace on the host that it shares with its runtime.
    #[serde(default)]
    pub inherited_ids: Option<IdMappings>,
    /// setgroups(2) is not to be had in its user namespace, since the host denies it.
    #[serde(default)]
    pub no_setgroups: bool,
    #[serde(default)]
    pub time_offsets: TimeOffsets,
}
