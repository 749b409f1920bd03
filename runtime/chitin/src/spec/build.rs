//! Configurations that we write: the template of `chitin spec`, and the one of an ad-hoc `chitin do`.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::OCI_VERSION;
use crate::util::{Context, Result};

/// Every capability there is: they give power over the sandbox's own kernel only.
pub const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What `chitin spec` writes; the same as runc's.
pub fn template(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let mut mounts = base_mounts();
    if let Some(pts) = mounts.iter_mut().find(|m| m["destination"] == "/dev/pts") {
        pts["options"] = match rootless {
            true => json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            false => json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        };
    }
    mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    let mut linux = json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if rootless {
        namespaces.retain(|n| *n != "network");
        namespaces.push("user");
        let mapping = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
        linux["uidMappings"] = mapping(nix::unistd::geteuid().as_raw());
        linux["gidMappings"] = mapping(nix::unistd::getegid().as_raw());
        if let Some(map) = linux.as_object_mut() {
            map.remove("resources");
        }
    }
    linux["namespaces"] = namespaces.iter().map(|n| json!({"type": n})).collect();
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "chitin",
        "mounts": mounts,
        "linux": linux,
    })
}

fn base_mounts() -> Vec<Value> {
    vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]}),
    ]
}

/// A command to be run without a bundle.
#[derive(Clone, Debug)]
pub struct AdHoc {
    pub rootfs: PathBuf,
    /// `HOST:CONTAINER[:ro]` each.
    pub volumes: Vec<String>,
    /// `NAME=value`, or `NAME` for the caller's value.
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub tty: bool,
    /// `UID[:GID]`.
    pub user: Option<String>,
    pub args: Vec<String>,
}

/// Variables that `do` passes on from its own environment.
const INHERITED: [&str; 9] =
    ["PATH", "TERM", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "COLORTERM", "LOGNAME"];

impl AdHoc {
    pub fn spec(&self) -> Result<Spec> {
        let (uid, gid) = parse_user(self.user.as_deref())?;
        let mut mounts = base_mounts();
        for volume in &self.volumes {
            mounts.push(parse_volume(volume)?);
        }
        let value = json!({
            "ociVersion": OCI_VERSION,
            "process": {
                "terminal": self.tty,
                "user": {"uid": uid, "gid": gid},
                "args": self.args,
                "env": self.environment()?,
                "cwd": self.directory()?,
                "capabilities": {
                    "bounding": ALL_CAPABILITIES,
                    "effective": if uid == 0 { ALL_CAPABILITIES } else { &[] },
                    "permitted": if uid == 0 { ALL_CAPABILITIES } else { &[] },
                },
            },
            "root": {"path": self.rootfs},
            "hostname": nix::unistd::gethostname().unwrap_or_default().to_string_lossy(),
            "mounts": mounts,
            "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}]},
        });
        serde_json::from_value(value).context(|| "cannot build the configuration".into())
    }

    /// The caller's directory, if the sandbox has one of that name.
    fn directory(&self) -> Result<PathBuf> {
        if let Some(cwd) = &self.cwd {
            return match cwd.is_absolute() {
                true => Ok(cwd.clone()),
                false => Err(format!("--cwd {}: must be an absolute path", cwd.display())),
            };
        }
        let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let within = here.strip_prefix("/").unwrap_or(&here);
        let exists = self.rootfs.join(within).is_dir();
        Ok(if exists { here } else { "/".into() })
    }

    fn environment(&self) -> Result<Vec<String>> {
        let mut env: Vec<String> = INHERITED
            .iter()
            .filter_map(|name| std::env::var(name).ok().map(|value| format!("{name}={value}")))
            .collect();
        if !env.iter().any(|e| e.starts_with("PATH=")) {
            env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        }
        for given in &self.env {
            let entry = match given.split_once('=') {
                Some(("", _)) => return Err(format!("--env {given}: the name must not be empty")),
                Some(_) => given.clone(),
                None => match std::env::var(given) {
                    Ok(value) => format!("{given}={value}"),
                    Err(_) => continue,
                },
            };
            let name = entry.split('=').next().unwrap_or_default().to_owned();
            env.retain(|e| e.split('=').next() != Some(&name));
            env.push(entry);
        }
        Ok(env)
    }
}

/// `UID[:GID]`; the group defaults to the user's number.
fn parse_user(text: Option<&str>) -> Result<(u32, u32)> {
    let Some(text) = text else { return Ok((0, 0)) };
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err(format!("--user {text}: expected UID or UID:GID, as numbers")),
    }
}

/// `HOST:CONTAINER[:ro|rw]`.
fn parse_volume(text: &str) -> Result<Value> {
    let wrong = || format!("--volume {text}: expected HOST:CONTAINER, optionally followed by :ro");
    let mut parts = text.split(':');
    let (host, container) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(wrong)?);
    let access = match parts.next() {
        None | Some("rw") => "rw",
        Some("ro") => "ro",
        Some(_) => return Err(wrong()),
    };
    if parts.next().is_some() || host.is_empty() || container.is_empty() {
        return Err(wrong());
    }
    if !Path::new(container).is_absolute() {
        return Err(format!("--volume {text}: the place in the container must be an absolute path"));
    }
    let host = std::fs::canonicalize(host).context(|| format!("--volume {text}: {host}"))?;
    Ok(json!({"destination": container, "type": "bind", "source": host, "options": ["rbind", access]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ad_hoc() -> AdHoc {
        AdHoc {
            rootfs: "/".into(),
            volumes: vec![],
            env: vec![],
            cwd: None,
            tty: false,
            user: None,
            args: vec!["true".into()],
        }
    }

    #[test]
    fn users() {
        assert_eq!(parse_user(None), Ok((0, 0)));
        assert_eq!(parse_user(Some("7")), Ok((7, 7)));
        assert_eq!(parse_user(Some("7:8")), Ok((7, 8)));
        for text in ["", "a", "1:", ":1", "-1", "1:2:3"] {
            assert!(parse_user(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn volumes() {
        let mount = parse_volume("/etc:/mnt:ro").unwrap();
        assert_eq!(mount["options"], json!(["rbind", "ro"]));
        assert_eq!(mount["destination"], "/mnt");
        for text in
            ["", "/etc", "/etc:", ":/mnt", "/etc:mnt", "/etc:/mnt:xx", "/etc:/mnt:ro:ro", "/no/such:/mnt"]
        {
            assert!(parse_volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn given_variables_win() {
        let mut run = ad_hoc();
        run.env = vec!["PATH=/x".into(), "A=1=2".into(), "CHITIN_TEST_UNSET".into()];
        let env = run.environment().unwrap();
        assert_eq!(env.iter().filter(|e| e.starts_with("PATH=")).collect::<Vec<_>>(), ["PATH=/x"]);
        assert!(env.contains(&"A=1=2".to_owned()));
        assert!(!env.iter().any(|e| e.starts_with("CHITIN_TEST_UNSET")));
        run.env = vec!["=1".into()];
        assert!(run.environment().is_err());
    }

    #[test]
    fn what_we_write_passes_our_own_checks() {
        let spec = ad_hoc().spec().unwrap();
        assert_eq!(crate::spec::check(&spec, Path::new("/")), Ok(vec![]));
        for rootless in [false, true] {
            let mut value = template(rootless);
            value["root"]["path"] = json!("/");
            let spec: Spec = serde_json::from_value(value).unwrap();
            assert_eq!(crate::spec::check(&spec, Path::new("/")), Ok(vec![]));
        }
    }
}
