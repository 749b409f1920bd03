//! `chitin features`: what engines may ask of this runtime, in the form of the OCI specification.

use clap::Args;
use serde_json::{Value, json};

use super::{Format, print};
use crate::util::{Context, Result};

#[derive(Debug, Args)]
pub struct Features {
    /// Show what the sandbox's kernel does of every system call instead
    #[arg(long)]
    syscalls: bool,
    /// How to show the system calls
    #[arg(short, long, value_enum, default_value = "text", requires = "syscalls")]
    format: Format,
}

/// Flags of seccomp(2) that a profile may ask for.
const SECCOMP_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Architectures that a profile may name; the sandbox's own is x86-64.
const SECCOMP_ARCHS: [&str; 18] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

impl Features {
    pub fn run(self) -> Result<()> {
        if self.syscalls {
            return match self.format {
                Format::Text => print(&syscall_table()),
                Format::Json => print_json(&syscall_list()),
            };
        }
        let features = json!({
            "ociVersionMin": "1.0.0",
            "ociVersionMax": crate::spec::OCI_VERSION,
            "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
            "mountOptions": chitin_sentry::mount_options(),
            "linux": {
                "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
                "capabilities": crate::spec::ALL_CAPABILITIES,
                "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
                "seccomp": {
                    "enabled": true,
                    // SCMP_ACT_NOTIFY is missing: no host process could answer for the sandbox's kernel.
                    "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                        "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                    "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                        "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                    "archs": SECCOMP_ARCHS,
                    "knownFlags": SECCOMP_FLAGS,
                    "supportedFlags": SECCOMP_FLAGS,
                },
                "apparmor": {"enabled": true},
                "selinux": {"enabled": true},
                "intelRdt": {"enabled": true},
                "mountExtensions": {"idmap": {"enabled": true}},
                "netDevices": {"enabled": true},
                "memoryPolicy": {
                    "modes": ["MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED",
                        "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"],
                    "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
                },
            },
            "annotations": {"chitin.version": env!("CARGO_PKG_VERSION"), "chitin.checkpoint.enabled": "false"},
            "potentiallyUnsafeConfigAnnotations": [],
        });
        print_json(&features)
    }
}

fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context(|| "cannot encode".into())?;
    print(&format!("{text}\n"))
}

/// One line per system call, then a count.
fn syscall_table() -> String {
    let rows = chitin_sentry::syscalls();
    let mut text = format!("{:>4}  {:<24}  {:<11}  {}\n", "NR", "NAME", "SUPPORT", "NOTE");
    for row in &rows {
        let line = format!("{:>4}  {:<24}  {:<11}  {}", row.nr, row.name, row.support, row.note);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let count = |support: &str| rows.iter().filter(|row| row.support == support).count();
    text + &format!(
        "{} system calls: {} full, {} partial, {} unsupported (ENOSYS)\n",
        rows.len(),
        count("full"),
        count("partial"),
        count("unsupported")
    )
}

fn syscall_list() -> Value {
    let rows = chitin_sentry::syscalls();
    rows.iter()
        .map(|row| json!({"nr": row.nr, "name": row.name, "support": row.support, "note": row.note}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_read() {
        use oci_spec::runtime::{Arch, LinuxSeccompFilterFlag};
        let read = |text: &str| Value::from(text);
        for arch in SECCOMP_ARCHS {
            assert!(serde_json::from_value::<Arch>(read(arch)).is_ok(), "{arch}");
        }
        for flag in SECCOMP_FLAGS {
            assert!(serde_json::from_value::<LinuxSeccompFilterFlag>(read(flag)).is_ok(), "{flag}");
        }
    }

    #[test]
    fn every_call_has_a_line() {
        let rows = chitin_sentry::syscalls();
        assert_eq!(syscall_table().lines().count(), rows.len() + 2);
        let list = syscall_list();
        let read = list.as_array().unwrap().iter().find(|row| row["name"] == "read").unwrap();
        assert_eq!((read["nr"].as_u64(), read["support"].as_str()), (Some(0), Some("full")));
    }
}
