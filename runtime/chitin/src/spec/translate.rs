//! From a checked configuration to what the sentry and the gofer are told.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use chitin_control::{
    Capabilities, ConsoleSize, ContainerConfig, DeviceConfig, DeviceKind, IdMappings, MountConfig, Namespace,
    Namespaces, OverlayMode, ProcessConfig, Rlimit,
};
use oci_spec::runtime::{
    Capability, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxPersonality,
    LinuxPersonalityDomain, Process, Spec,
};

use serde::{Deserialize, Serialize};

use super::check::{mount_source, mount_type};
use super::placement::MemoryPolicy;
use super::{mappings, placement};
use crate::cgroup::guest;
use crate::util::{Context, Result};

/// A tree (or file) that the gofer serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoferRoot {
    pub path: PathBuf,
    /// The guest's writes may reach the host.
    pub writable: bool,
    /// What is mounted below belongs to it.
    pub recursive: bool,
    pub noexec: bool,
    /// Ids of its files are translated on the host, those of what is mounted below, too, if the flag says so.
    pub id_mapped: Option<(IdMappings, bool)>,
}

/// Which network namespace a container is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// None is named: that of the runtime.
    Callers,
    New,
    Path(PathBuf),
}

/// A container, ready to be launched. Descriptor numbers in it are filled in by the launcher.
#[derive(Debug)]
pub struct Plan {
    pub container: ContainerConfig,
    pub roots: Vec<GoferRoot>,
    pub rootfs: PathBuf,
    pub network: Network,
    pub cgroup: Option<PathBuf>,
    pub memory_policy: Option<MemoryPolicy>,
}

/// Translates a configuration that has passed [`super::check`].
pub fn translate(id: &str, spec: &Spec, bundle: &Path, overlay: OverlayMode) -> Result<Plan> {
    let missing = |what: &str| format!("config.json: {what}: must be set");
    let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
    let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    let rootfs =
        std::fs::canonicalize(bundle.join(root.path())).context(|| "config.json: root.path".into())?;
    let root_readonly = root.readonly().unwrap_or(false);
    let mut roots = vec![GoferRoot {
        path: rootfs.clone(),
        writable: !root_readonly && overlay == OverlayMode::None,
        recursive: true,
        noexec: false,
        id_mapped: None,
    }];

    let mut mounts = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = mount.options().clone().unwrap_or_default();
        let fstype = mount_type(mount).to_owned();
        let mut served = None;
        let mut is_file = false;
        if fstype == "bind" {
            let source = std::fs::canonicalize(mount_source(mount, bundle))
                .context(|| format!("config.json: mounts[{index}].source"))?;
            is_file = !source.is_dir();
            let readonly = options.iter().any(|o| o == "ro" || o == "rro");
            served = Some(u32::try_from(roots.len()).context(|| format!("config.json: mounts[{index}]"))?);
            roots.push(GoferRoot {
                path: source,
                writable: !readonly && overlay != OverlayMode::All,
                recursive: options.iter().any(|o| o == "rbind"),
                noexec: options.iter().any(|o| o == "noexec"),
                id_mapped: mappings::of_mount(mount, spec.linux().as_ref()),
            });
        }
        mounts.push(MountConfig {
            destination: text(&Path::new("/").join(mount.destination())),
            // Host paths stay on the host.
            source: if fstype == "bind" {
                "bind".into()
            } else {
                mount.source().as_deref().map_or_else(|| fstype.clone(), text)
            },
            fstype,
            options,
            gofer_root: served,
            is_file,
        });
    }

    let linux = spec.linux().as_ref();
    let list = |l: Option<&Vec<String>>| l.cloned().unwrap_or_default();
    let container = ContainerConfig {
        id: id.to_owned(),
        process: process_config(process),
        namespaces: namespaces(spec),
        plain_command: false,
        gofer_fd: -1,
        view_fd: None,
        root_gofer_root: 0,
        root_readonly,
        hostname: spec.hostname().clone(),
        domainname: spec.domainname().clone(),
        mounts,
        devices: devices(spec),
        sysctl: linux.and_then(|l| l.sysctl().clone()).unwrap_or_default().into_iter().collect(),
        masked_paths: list(linux.and_then(|l| l.masked_paths().as_ref())),
        readonly_paths: list(linux.and_then(|l| l.readonly_paths().as_ref())),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        seccomp: linux
            .and_then(|l| l.seccomp().as_ref())
            .map(super::seccomp::compile)
            .transpose()
            .map_err(|_| "config.json: linux.seccomp: was not checked".to_owned())?,
        personality: linux.and_then(|l| l.personality().as_ref()).map(personality),
        limits: linux.and_then(|l| l.resources().as_ref()).map(guest::limits).unwrap_or_default(),
        id_mappings: linux.and_then(mappings::of_container),
        inherited_ids: None,
        no_setgroups: false,
        time_offsets: linux.map(mappings::time_offsets).unwrap_or_default(),
    };
    let cgroup = linux.and_then(|l| l.cgroups_path().clone()).filter(|p| !p.as_os_str().is_empty());
    let memory_policy = linux.and_then(|l| l.memory_policy().as_ref()).map(placement::memory);
    Ok(Plan { container, roots, rootfs, network: network(spec), cgroup, memory_policy })
}

/// The network namespace that the configuration asks for.
pub fn network(spec: &Spec) -> Network {
    let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    match list.and_then(|all| all.iter().find(|n| n.typ() == LinuxNamespaceType::Network)) {
        None => Network::Callers,
        Some(n) => match n.path().clone().filter(|p| !p.as_os_str().is_empty()) {
            None => Network::New,
            Some(path) => Network::Path(path),
        },
    }
}

/// New ones where the configuration asks for them. One by path is the pod's, since engines know no other.
fn namespaces(spec: &Spec) -> Namespaces {
    let all = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let of = |kind: LinuxNamespaceType| {
        let found = all.and_then(|all| all.iter().find(|n| n.typ() == kind));
        let by_path = |n: &LinuxNamespace| n.path().as_ref().is_some_and(|p| !p.as_os_str().is_empty());
        if found.is_some_and(|n| !by_path(n)) { Namespace::New } else { Namespace::Sandbox }
    };
    Namespaces {
        pid: of(LinuxNamespaceType::Pid),
        ipc: of(LinuxNamespaceType::Ipc),
        uts: of(LinuxNamespaceType::Uts),
        user: match all.is_some_and(|all| all.iter().any(|n| n.typ() == LinuxNamespaceType::User)) {
            true => of(LinuxNamespaceType::User),
            false => Namespace::New,
        },
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What a process inherits from us where nothing is asked for, unless it is what it would be anyway.
fn own_oom_score_adj() -> Option<i32> {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    own.trim().parse().ok().filter(|adj| *adj != 0)
}

/// A process of the configuration, also of `exec`.
pub fn process_config(process: &Process) -> ProcessConfig {
    let user = process.user();
    let rlimits = process.rlimits().iter().flatten();
    let clamp = |v: u64| u16::try_from(v).unwrap_or(u16::MAX);
    ProcessConfig {
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        cwd: text(process.cwd()),
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capabilities(process),
        rlimits: rlimits
            .map(|l| Rlimit { name: l.typ().to_string(), soft: l.soft(), hard: l.hard() })
            .collect(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: process.oom_score_adj().or_else(own_oom_score_adj),
        nice: process.scheduler().as_ref().and_then(|s| *s.nice()),
        scheduler: placement::policy(process),
        // Of processes that `exec` adds; it sets them.
        cpus: None,
        cgroup: None,
        even_paused: false,
        terminal: process.terminal().unwrap_or(false),
        console_size: process
            .console_size()
            .map(|s| ConsoleSize { rows: clamp(s.height()), cols: clamp(s.width()) })
            .filter(|s| s.rows != 0 && s.cols != 0),
        stdio: [-1; 3],
        extra: Vec::new(),
    }
}

/// The flags have been checked to be none, as in runc.
fn personality(personality: &LinuxPersonality) -> u32 {
    match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

fn capabilities(process: &Process) -> Capabilities {
    let Some(sets) = process.capabilities() else { return Capabilities::default() };
    let names = |set: &Option<HashSet<Capability>>| {
        let mut names: Vec<String> = set.iter().flatten().map(|c| format!("CAP_{c}")).collect();
        names.sort();
        names
    };
    Capabilities {
        bounding: names(sets.bounding()),
        effective: names(sets.effective()),
        inheritable: names(sets.inheritable()),
        permitted: names(sets.permitted()),
        ambient: names(sets.ambient()),
    }
}

fn devices(spec: &Spec) -> Vec<DeviceConfig> {
    let Some(devices) = spec.linux().as_ref().and_then(|l| l.devices().as_ref()) else { return Vec::new() };
    let number = |n: i64| u32::try_from(n).unwrap_or(0);
    devices
        .iter()
        .map(|d| DeviceConfig {
            path: text(d.path()),
            kind: match d.typ() {
                LinuxDeviceType::B => DeviceKind::Block,
                LinuxDeviceType::P => DeviceKind::Fifo,
                LinuxDeviceType::A | LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
            },
            major: number(d.major()),
            minor: number(d.minor()),
            mode: d.file_mode().unwrap_or(0o666) & 0o7777,
            uid: d.uid().unwrap_or(0),
            gid: d.gid().unwrap_or(0),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(overlay: OverlayMode, readonly: bool) -> Plan {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "root": {"path": "usr", "readonly": readonly},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 1, "gid": 2, "umask": 18},
                "capabilities": {"bounding": ["CAP_SYS_ADMIN", "CAP_CHOWN"]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/a", "source": "etc", "options": ["rbind", "ro"]},
                {"destination": "/b", "type": "none", "source": "/etc/passwd", "options": ["bind"]},
            ],
            "linux": {"namespaces": [{"type": "network", "path": "/proc/self/ns/net"}], "cgroupsPath": "/x/y",
                "devices": [{"path": "/dev/q", "type": "c", "major": 1, "minor": 3, "fileMode": 438}]},
        }))
        .unwrap();
        super::super::check(&spec, Path::new("/")).unwrap();
        translate("id", &spec, Path::new("/"), overlay).unwrap()
    }

    #[test]
    fn mounts_become_gofer_roots() {
        let plan = plan(OverlayMode::None, false);
        let paths: Vec<_> =
            plan.roots.iter().map(|r| (r.path.to_str().unwrap(), r.writable, r.recursive)).collect();
        assert_eq!(paths, [("/usr", true, true), ("/etc", false, true), ("/etc/passwd", true, false)]);
        let served: Vec<_> =
            plan.container.mounts.iter().map(|m| (m.fstype.as_str(), m.gofer_root)).collect();
        assert_eq!(served, [("proc", None), ("bind", Some(1)), ("bind", Some(2))]);
        assert!(plan.container.mounts.iter().all(|m| !m.source.contains("etc")), "a host path leaked");
        assert_eq!(plan.network, Network::Path("/proc/self/ns/net".into()));
        assert_eq!(plan.cgroup.as_deref(), Some(Path::new("/x/y")));
    }

    #[test]
    fn overlays_keep_the_host_unwritten() {
        let writable = |p: Plan| p.roots.iter().map(|r| r.writable).collect::<Vec<_>>();
        assert_eq!(writable(plan(OverlayMode::Root, false)), [false, false, true]);
        assert_eq!(writable(plan(OverlayMode::All, false)), [false, false, false]);
        assert_eq!(writable(plan(OverlayMode::None, true)), [false, false, true]);
    }

    #[test]
    fn the_process_is_carried_over() {
        let process = plan(OverlayMode::None, false).container.process;
        assert_eq!((process.uid, process.gid, process.umask), (1, 2, Some(0o22)));
        assert_eq!(process.capabilities.bounding, ["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        assert_eq!(process.rlimits[0].name, "RLIMIT_NOFILE");
    }
}
