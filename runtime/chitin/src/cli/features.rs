//! `chitin features`: what engines may ask of this runtime, in the form of the OCI specification.

use clap::Args;
use serde_json::json;

use super::print;
use crate::util::{Context, Result};

#[derive(Debug, Args)]
pub struct Features {}

/// Mount options that the sentry gives a meaning.
const MOUNT_OPTIONS: [&str; 26] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "private",
    "rbind",
    "relatime",
    "remount",
    "ro",
    "rw",
    "strictatime",
    "suid",
    "sync",
];

impl Features {
    pub fn run(self) -> Result<()> {
        let features = json!({
            "ociVersionMin": "1.0.0",
            "ociVersionMax": crate::spec::OCI_VERSION,
            "hooks": [],
            "mountOptions": MOUNT_OPTIONS,
            "linux": {
                "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
                "capabilities": crate::spec::ALL_CAPABILITIES,
                "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
                "seccomp": {"enabled": false},
                "apparmor": {"enabled": false},
                "selinux": {"enabled": false},
                "intelRdt": {"enabled": false},
                "mountExtensions": {"idmap": {"enabled": false}},
            },
            "potentiallyUnsafeConfigAnnotations": [],
        });
        let text = serde_json::to_string_pretty(&features).context(|| "cannot encode".into())?;
        print(&format!("{text}\n"))
    }
}
