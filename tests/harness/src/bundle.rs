//! OCI bundles: a `config.json` made from a root file system, arguments and a few choices.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What Docker gives a container by default; crun and runc accept it on every host the tests run on.
const CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

#[derive(Debug, Clone)]
pub struct Bundle {
    pub dir: PathBuf,
    pub rootfs: PathBuf,
    pub config: Value,
}

fn mount(to: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": to, "type": kind, "source": source, "options": options })
}

impl Bundle {
    /// A bundle in a scratch directory. No `linux.resources`: on hosts with hybrid cgroups crun refuses them.
    pub fn new(name: &str, rootfs: &Path, args: &[&str]) -> Bundle {
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C",
                        "TERM=xterm", "PYTHONDONTWRITEBYTECODE=1"],
                "cwd": "/",
                "capabilities": { "bounding": CAPS, "effective": CAPS, "permitted": CAPS, "inheritable": [], "ambient": [] },
                "noNewPrivileges": false,
            },
            "root": { "path": rootfs, "readonly": false },
            "hostname": "chitin-test",
            "mounts": [
                mount("/proc", "proc", "proc", &[]),
                mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
                mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
                mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
                mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            ],
            "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            },
        });
        Bundle { dir: crate::paths::scratch(name), rootfs: rootfs.to_path_buf(), config }
    }

    pub fn bind(mut self, host: &Path, guest: &str, options: &[&str]) -> Bundle {
        let mut o = vec!["rbind"];
        o.extend_from_slice(options);
        let m = mount(guest, "bind", &host.to_string_lossy(), &o);
        self.mounts().push(m);
        self
    }

    pub fn tmpfs(mut self, guest: &str) -> Bundle {
        let m = mount(guest, "tmpfs", "tmpfs", &["mode=1777"]);
        self.mounts().push(m);
        self
    }

    /// A capability more.
    pub fn capability(mut self, name: &str) -> Bundle {
        for set in ["bounding", "effective", "permitted"] {
            let names = self.config["process"]["capabilities"][set].as_array_mut().expect("set in new");
            names.push(name.into());
        }
        self
    }

    pub fn env(mut self, pair: &str) -> Bundle {
        self.config["process"]["env"].as_array_mut().expect("set in new").push(pair.into());
        self
    }

    pub fn set(mut self, pointer: &str, v: Value) -> Bundle {
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        self.config.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent} in config"))[key] = v;
        self
    }

    fn mounts(&mut self) -> &mut Vec<Value> {
        self.config["mounts"].as_array_mut().expect("set in new")
    }

    pub fn write(&self) {
        let text = serde_json::to_string_pretty(&self.config).expect("JSON values always serialise");
        std::fs::write(self.dir.join("config.json"), text).expect("scratch is writable");
    }
}
