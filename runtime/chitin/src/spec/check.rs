//! What a configuration must satisfy. Every complaint begins with the JSON path of its field.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Linux, LinuxNamespaceType, Mount, Process, Spec};

use super::{mappings, placement};
use crate::util::{Result, acts_for_user};

/// File systems that the sentry implements.
const FILE_SYSTEMS: [&str; 9] =
    ["bind", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"];

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    pub fn error(&mut self, path: impl std::fmt::Display, text: impl std::fmt::Display) {
        self.errors.push(format!("{path}: {text}"));
    }

    pub fn warn(&mut self, path: impl std::fmt::Display, text: impl std::fmt::Display) {
        self.warnings.push(format!("{path}: {text}"));
    }

    #[cfg(test)]
    pub fn into_parts(self) -> (Vec<String>, Vec<String>) {
        (self.errors, self.warnings)
    }

    /// The warnings, or all errors in one line.
    fn done(self) -> Result<Vec<String>> {
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(self.errors.join("; ")) }
    }

    fn unsupported(&mut self, path: &str, present: bool) {
        if present {
            self.error(path, "not supported; remove it");
        }
    }
}

/// Checks a configuration against the bundle's files. Returns warnings, or all errors in one line.
pub fn check(spec: &Spec, bundle: &Path) -> Result<Vec<String>> {
    check_in(spec, bundle, None)
}

/// The same for a container that joins a pod, whose sandbox has `pod` as its pid on the host.
pub fn check_in(spec: &Spec, bundle: &Path, pod: Option<i32>) -> Result<Vec<String>> {
    let mut found = Findings::default();
    let f = &mut found;

    let version = spec.version();
    if version.split('.').next() != Some("1") {
        f.error("ociVersion", format!("{version:?} is not supported (this runtime implements 1.x)"));
    }
    match spec.root() {
        None => f.error("root", "must be set"),
        Some(root) if root.path().as_os_str().is_empty() => f.error("root.path", "must not be empty"),
        Some(root) => {
            let path = bundle.join(root.path());
            match std::fs::metadata(&path) {
                Ok(data) if data.is_dir() => {}
                Ok(_) => f.error("root.path", format!("{} is not a directory", path.display())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    f.error("root.path", format!("{} does not exist", path.display()));
                }
                Err(e) => f.error("root.path", format!("{}: {e}", path.display())),
            }
        }
    }
    match spec.process() {
        None => f.error("process", "must be set"),
        Some(process) => check_process(process, f),
    }
    for (name, value, most) in [("hostname", spec.hostname(), 64), ("domainname", spec.domainname(), 64)] {
        if value.as_ref().is_some_and(|v| v.len() > most) {
            f.error(name, format!("must not be longer than {most} bytes"));
        }
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let path = format!("mounts[{index}]");
        check_mount(&path, mount, bundle, f);
        mappings::check_mount(&path, mount, spec.linux().as_ref(), mount_type(mount) == "bind", f);
    }
    if let Some(hooks) = spec.hooks() {
        check_hooks(hooks, f);
    }
    if let Some(linux) = spec.linux() {
        check_linux(linux, pod, f);
    }
    mappings::check(spec, f);
    f.unsupported("solaris", spec.solaris().is_some());
    f.unsupported("windows", spec.windows().is_some());
    f.unsupported("vm", spec.vm().is_some());
    f.unsupported("zos", spec.zos().is_some());

    found.done().map_err(|errors| format!("config.json: {errors}"))
}

/// Checks a process that `exec` adds. Returns all errors in one line.
pub fn process(process: &Process) -> Result<()> {
    let mut found = Findings::default();
    check_process(process, &mut found);
    if found.errors.is_empty() { Ok(()) } else { Err(found.errors.join("; ")) }
}

fn check_process(process: &Process, f: &mut Findings) {
    match process.args() {
        Some(args) if !args.is_empty() => {
            if args[0].is_empty() {
                f.error("process.args[0]", "must not be empty");
            }
            for (index, arg) in args.iter().enumerate() {
                no_nul(&format!("process.args[{index}]"), arg, f);
            }
        }
        _ => f.error("process.args", "must not be empty"),
    }
    for (index, entry) in process.env().iter().flatten().enumerate() {
        let path = format!("process.env[{index}]");
        if entry.find('=').is_none_or(|at| at == 0) {
            f.error(&path, format!("{entry:?} is not of the form NAME=value"));
        }
        no_nul(&path, entry, f);
    }
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        f.error("process.cwd", format!("{:?} must be an absolute path", cwd.display()));
    }
    no_nul("process.cwd", &cwd.to_string_lossy(), f);
    let mut seen = HashSet::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        if !seen.insert(limit.typ().to_string()) {
            f.error(format!("process.rlimits[{index}].type"), format!("{} is given twice", limit.typ()));
        }
        if limit.soft() > limit.hard() {
            f.error(
                format!("process.rlimits[{index}].soft"),
                format!("{} exceeds the hard limit {}", limit.soft(), limit.hard()),
            );
        }
    }
    if let Some(adj) = process.oom_score_adj()
        && !(-1000..=1000).contains(&adj)
    {
        f.error("process.oomScoreAdj", format!("{adj} is not between -1000 and 1000"));
    }
    // Without a terminal the size is to be ignored.
    if let Some(size) = process.console_size().filter(|_| process.terminal() == Some(true)) {
        for (name, value) in [("height", size.height()), ("width", size.width())] {
            if value > u64::from(u16::MAX) {
                f.error(format!("process.consoleSize.{name}"), format!("{value} is out of range"));
            }
        }
    }
    labels(process, f);
    if let Some(priority) = process.io_priority()
        && !(0..=7).contains(&priority.priority())
    {
        f.error("process.ioPriority.priority", format!("{} is not between 0 and 7", priority.priority()));
    }
    if let Some(scheduler) = process.scheduler() {
        placement::check_scheduler(scheduler, f);
    }
    placement::check_affinity(process, f);
}

/// Labels of host security modules: without the module nobody could apply them, which runc takes for an error.
fn labels(process: &Process, f: &mut Findings) {
    let given = |label: &Option<String>| label.as_ref().is_some_and(|l| !l.is_empty());
    for (field, given, module, enabled) in [
        ("process.apparmorProfile", given(process.apparmor_profile()), "AppArmor", super::lsm::apparmor()),
        ("process.selinuxLabel", given(process.selinux_label()), "SELinux", super::lsm::selinux()),
    ] {
        if given && !enabled {
            f.error(field, format!("{module} is disabled or not supported on this host; remove it"));
        }
    }
}

/// The same for a process that `exec` adds.
pub fn check_labels(process: &Process) -> Result<()> {
    let mut findings = Findings::default();
    labels(process, &mut findings);
    findings.done().map(drop)
}

fn no_nul(path: &str, text: &str, f: &mut Findings) {
    if text.contains('\0') {
        f.error(path, "must not contain NUL bytes");
    }
}

/// The type of a mount, which may follow from its options.
pub fn mount_type(mount: &Mount) -> &str {
    let bind = mount.options().iter().flatten().any(|o| o == "bind" || o == "rbind");
    match mount.typ().as_deref() {
        _ if bind => "bind",
        None | Some("") => "",
        Some(typ) => typ,
    }
}

/// Relative sources are relative to the bundle.
pub fn mount_source(mount: &Mount, bundle: &Path) -> PathBuf {
    bundle.join(mount.source().as_deref().unwrap_or(Path::new("")))
}

fn check_mount(path: &str, mount: &Mount, bundle: &Path, f: &mut Findings) {
    let destination = mount.destination();
    if !destination.is_absolute() {
        // As the specification has it, for old configurations.
        f.warn(
            format!("{path}.destination"),
            format!("{:?} is no absolute path, and taken from /", destination.display()),
        );
    }
    no_nul(&format!("{path}.destination"), &destination.to_string_lossy(), f);
    match mount_type(mount) {
        "" => f.error(format!("{path}.type"), "must be set (or the options must contain bind)"),
        "bind" => {
            if mount.source().is_none() {
                f.error(format!("{path}.source"), "must be set for a bind mount");
            } else {
                let source = mount_source(mount, bundle);
                if let Err(e) = std::fs::metadata(&source) {
                    let what = match e.kind() {
                        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
                        _ => e.to_string(),
                    };
                    f.error(format!("{path}.source"), format!("{} {what}", source.display()));
                }
            }
        }
        typ if FILE_SYSTEMS.contains(&typ) => {}
        typ => f.error(
            format!("{path}.type"),
            format!("{typ:?} is not supported (there are {})", FILE_SYSTEMS.join(", ")),
        ),
    }
}

fn check_hooks(hooks: &Hooks, f: &mut Findings) {
    // Deprecated for whoever writes configurations, not for us.
    #[allow(deprecated)]
    let prestart = hooks.prestart();
    let kinds = [
        ("prestart", prestart),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (name, hooks) in kinds {
        for (index, hook) in hooks.iter().flatten().enumerate() {
            let path = format!("hooks.{name}[{index}]");
            if !hook.path().is_absolute() {
                f.error(
                    format!("{path}.path"),
                    format!("{:?} must be an absolute path", hook.path().display()),
                );
            }
            no_nul(&format!("{path}.path"), &hook.path().to_string_lossy(), f);
            for (at, text) in hook.args().iter().flatten().enumerate() {
                no_nul(&format!("{path}.args[{at}]"), text, f);
            }
            for (at, text) in hook.env().iter().flatten().enumerate() {
                no_nul(&format!("{path}.env[{at}]"), text, f);
            }
            if hook.timeout().is_some_and(|t| t <= 0) {
                f.error(format!("{path}.timeout"), "must be greater than zero");
            }
        }
    }
}

/// Whether a path names a namespace of this process, by its place in /proc or by what it is.
fn is_namespace_of(pid: i32, file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = PathBuf::from(format!("/proc/{pid}/ns"));
    if file.parent() == Some(&own) {
        return true;
    }
    let Ok(named) = std::fs::metadata(file) else { return false };
    let entries = std::fs::read_dir(&own).into_iter().flatten().flatten();
    let mut namespaces = entries.filter_map(|e| std::fs::metadata(e.path()).ok());
    namespaces.any(|n| (n.dev(), n.ino()) == (named.dev(), named.ino()))
}

/// Whether a path names a network namespace.
fn network_namespace(file: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    let opened = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => e.to_string(),
    })?;
    match crate::sandbox::launch::namespace_kind(opened.as_fd()) {
        Some(libc::CLONE_NEWNET) => Ok(()),
        Some(_) => Err("a namespace, but not of the network".into()),
        None => Err("is no network namespace".into()),
    }
}

/// Tunables that Linux has once per namespace; others would be the machine's, and runtimes refuse them.
fn check_sysctls(linux: &Linux, f: &mut Findings) {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let dotted = name.replace('/', ".");
        let path = format!("linux.sysctl[{name:?}]");
        if dotted == "kernel.hostname" {
            f.error(path, "conflicts with hostname; set that");
        } else if !(IPC.contains(&dotted.as_str())
            || dotted == "kernel.domainname"
            || dotted.starts_with("net.")
            || dotted.starts_with("fs.mqueue."))
        {
            f.error(path, "is not in a separate kernel namespace; remove it");
        }
    }
}

fn check_linux(linux: &Linux, pod: Option<i32>, f: &mut Findings) {
    check_sysctls(linux, f);
    let mut seen = HashSet::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let path = format!("linux.namespaces[{index}]");
        let typ = namespace.typ();
        if !seen.insert(typ) {
            f.error(format!("{path}.type"), format!("{typ} is given twice"));
        }
        let Some(file) = namespace.path().as_deref().filter(|p| !p.as_os_str().is_empty()) else { continue };
        match typ {
            // What a pod shares is the sandbox's, by whatever name.
            LinuxNamespaceType::Network if pod.is_some() => {}
            _ if pod.is_some_and(|pid| is_namespace_of(pid, file)) => {}
            LinuxNamespaceType::Network => {
                if let Err(e) = network_namespace(file) {
                    f.error(format!("{path}.path"), format!("{}: {e}", file.display()));
                }
            }
            _ => f.error(
                format!("{path}.path"),
                format!("joining an existing {typ} namespace is not supported, only a network namespace can be given"),
            ),
        }
    }
    if let Some(seccomp) = linux.seccomp()
        && let Err(problems) = super::seccomp::compile(seccomp)
    {
        for (field, text) in problems {
            f.error(format!("linux.seccomp.{field}"), text);
        }
    }
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let path = format!("linux.devices[{index}]");
        if !device.path().is_absolute() {
            f.error(
                format!("{path}.path"),
                format!("{:?} must be an absolute path", device.path().display()),
            );
        }
        if u32::try_from(device.major()).is_err() || u32::try_from(device.minor()).is_err() {
            f.error(
                format!("{path}.major"),
                format!("{}:{} is out of range", device.major(), device.minor()),
            );
        }
        if device.typ() == oci_spec::runtime::LinuxDeviceType::A {
            f.error(format!("{path}.type"), "\"a\" has a meaning in linux.resources.devices only");
        }
    }
    if let Some(cgroup) = linux.cgroups_path()
        && cgroup.components().any(|c| matches!(c, std::path::Component::ParentDir))
    {
        f.error("linux.cgroupsPath", format!("{:?} must not contain ..", cgroup.display()));
    }
    super::resources::check(linux, f);
    if let Some(policy) = linux.memory_policy() {
        match pod {
            None => placement::check_memory(policy, f),
            Some(_) => f.error("linux.memoryPolicy", "is the pod's sandbox's; set it there"),
        }
    }
    if let Some(flags) = linux.personality().as_ref().and_then(|p| p.flags().as_ref())
        && !flags.is_empty()
    {
        f.warn("linux.personality.flags", "ignored, as by runc: there are none yet");
    }
    check_net_devices(linux, pod.is_some(), f);
    if linux.mount_label().as_ref().is_some_and(|l| !l.is_empty()) {
        f.warn("linux.mountLabel", "ignored: the sandbox's file systems have no labels");
    }
}

/// As runc checks them.
fn check_net_devices(linux: &Linux, in_pod: bool, f: &mut Findings) {
    if linux.net_devices().as_ref().is_none_or(|devices| devices.is_empty()) {
        return;
    }
    let namespaces = linux.namespaces().iter().flatten();
    if in_pod || !namespaces.into_iter().any(|n| n.typ() == LinuxNamespaceType::Network) {
        let why = if in_pod {
            "the network is the pod's sandbox's; set them there"
        } else {
            "need a network namespace"
        };
        f.error("linux.netDevices", why);
    }
    if acts_for_user() {
        f.error("linux.netDevices", "moving interfaces takes root");
    }
    // As the kernel's dev_valid_name().
    let valid = |name: &str| {
        let odd = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0';
        (1..16).contains(&name.len()) && name != "." && name != ".." && !name.chars().any(odd)
    };
    let mut inside = HashSet::new();
    for (from, to) in net_devices(linux) {
        for name in [&from, &to] {
            if !valid(name) {
                f.error(
                    format!("linux.netDevices[{from:?}]"),
                    format!("{name:?} cannot be an interface's name"),
                );
            }
        }
        if !inside.insert(to.clone()) {
            f.error(format!("linux.netDevices[{from:?}]"), format!("the name {to:?} is given twice"));
        }
    }
}

/// The host's interfaces that become the container's, with their names there, in the order of names.
pub fn net_devices(linux: &Linux) -> Vec<(String, String)> {
    let all = linux.net_devices().iter().flatten();
    let mut all: Vec<(String, String)> = all
        .map(|(from, to)| {
            let to = to.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(from);
            (from.clone(), to.to_owned())
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn good() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "/"},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}]},
        })
    }

    fn run(config: Value) -> Result<Vec<String>> {
        let spec: Spec = serde_json::from_value(config).unwrap();
        check(&spec, Path::new("/"))
    }

    /// The good configuration with one value changed gives exactly this complaint's path.
    fn complains(pointer: &str, value: Value, path: &str) {
        let mut config = good();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        let error = run(config).unwrap_err();
        assert!(error.starts_with(&format!("config.json: {path}: ")), "{error}");
        assert!(!error.contains("; /"), "{error}");
    }

    #[test]
    fn a_good_one_passes() {
        assert_eq!(run(good()), Ok(vec![]));
    }

    #[test]
    fn complaints_name_the_field() {
        complains("/ociVersion", json!("2.0.0"), "ociVersion");
        complains("/root", json!({"path": "/does/not/exist"}), "root.path");
        complains("/root", json!({"path": "/etc/passwd"}), "root.path");
        complains("/root", Value::Null, "root");
        complains("/process", Value::Null, "process");
        complains("/process/args", json!([]), "process.args");
        complains("/process/args", json!([""]), "process.args[0]");
        complains("/process/args", json!(["a", "b\0"]), "process.args[1]");
        complains("/process/cwd", json!("tmp"), "process.cwd");
        complains("/process/env", json!(["A=1", "B"]), "process.env[1]");
        complains("/process/env", json!(["=1"]), "process.env[0]");
        let nofile = json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1});
        complains("/process/rlimits", json!([nofile, nofile]), "process.rlimits[1].type");
        let upside_down = json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]);
        complains("/process/rlimits", upside_down, "process.rlimits[0].soft");
        complains("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj");
        complains("/mounts", json!([{"destination": "/p\0", "type": "proc"}]), "mounts[0].destination");
        complains("/mounts", json!([{"destination": "/m", "type": "nfs"}]), "mounts[0].type");
        complains("/mounts", json!([{"destination": "/m"}]), "mounts[0].type");
        complains("/mounts", json!([{"destination": "/m", "type": "bind"}]), "mounts[0].source");
        let missing = json!([{"destination": "/m", "source": "/not/there", "options": ["rbind"]}]);
        complains("/mounts", missing, "mounts[0].source");
        complains("/linux/namespaces", json!([{"type": "pid"}, {"type": "pid"}]), "linux.namespaces[1].type");
        let joined = json!([{"type": "ipc", "path": "/proc/self/ns/ipc"}]);
        complains("/linux/namespaces", joined, "linux.namespaces[0].path");
        let lost = json!([{"type": "network", "path": "/proc/self/ns/not"}]);
        complains("/linux/namespaces", lost, "linux.namespaces[0].path");
        let wrong = json!([{"type": "network", "path": "/proc/self/ns/uts"}]);
        complains("/linux/namespaces", wrong, "linux.namespaces[0].path");
        let plain = json!([{"type": "network", "path": "/etc/passwd"}]);
        complains("/linux/namespaces", plain, "linux.namespaces[0].path");
        complains("/linux/sysctl", json!({"kernel.panic": "1"}), "linux.sysctl[\"kernel.panic\"]");
        let shifted = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        complains("/linux/uidMappings", shifted, "linux.gidMappings");
        let mapped = json!([{"containerID": 0, "hostID": 1, "size": 0}]);
        let mount =
            json!([{"destination": "/m", "type": "tmpfs", "uidMappings": mapped, "gidMappings": mapped}]);
        complains("/mounts", mount, "mounts[0].uidMappings[0].size");
        let whole = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
        let mount =
            json!([{"destination": "/m", "type": "tmpfs", "uidMappings": whole, "gidMappings": whole}]);
        complains("/mounts", mount, "mounts[0].options");
        complains("/linux/cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath");
        complains("/hooks", json!({"prestart": [{"path": "bin/true"}]}), "hooks.prestart[0].path");
        let eternal = json!({"poststop": [{"path": "/bin/true"}, {"path": "/bin/true", "timeout": 0}]});
        complains("/hooks", eternal, "hooks.poststop[1].timeout");
    }

    #[test]
    fn what_is_odd_but_has_a_meaning_is_no_complaint() {
        let mut config = good();
        config["mounts"] = json!([{"destination": "proc", "type": "proc"}]);
        let warnings = run(config).unwrap();
        assert!(warnings.len() == 1 && warnings[0].starts_with("mounts[0].destination: "), "{warnings:?}");
        let mut config = good();
        config["process"]["consoleSize"] = json!({"height": 100_000, "width": 1});
        assert_eq!(run(config.clone()), Ok(vec![]));
        config["process"]["terminal"] = json!(true);
        assert!(run(config).unwrap_err().contains("process.consoleSize.height"));
    }

    #[test]
    fn a_pod_shares_the_namespaces_of_its_sandbox() {
        let me = std::process::id().cast_signed();
        let with = |file: &str| {
            let mut config = good();
            config["linux"]["namespaces"] =
                json!([{"type": "ipc", "path": file}, {"type": "network", "path": "/x"}]);
            let spec: Spec = serde_json::from_value(config).unwrap();
            check_in(&spec, Path::new("/"), Some(me))
        };
        assert_eq!(with(&format!("/proc/{me}/ns/ipc")), Ok(vec![]));
        assert_eq!(with("/proc/self/ns/ipc"), Ok(vec![]));
        assert!(with("/proc/7777777/ns/ipc").is_err());
        assert!(with("/etc/passwd").is_err());
    }

    #[test]
    fn all_complaints_come_at_once() {
        let mut config = good();
        config["process"]["args"] = json!([]);
        config["root"]["path"] = json!("/does/not/exist");
        let error = run(config).unwrap_err();
        assert!(
            error.contains("root.path: /does/not/exist does not exist; process.args: must not be empty"),
            "{error}"
        );
    }

    #[test]
    fn labels_need_their_security_module() {
        for (name, enabled) in
            [("apparmorProfile", crate::spec::lsm::apparmor()), ("selinuxLabel", crate::spec::lsm::selinux())]
        {
            let mut config = good();
            config["process"][name] = json!("docker-default");
            match run(config) {
                Ok(warnings) => assert!(enabled && warnings.is_empty(), "{warnings:?}"),
                Err(e) => assert!(!enabled && e.contains(name) && e.contains("disabled"), "{e}"),
            }
        }
    }
}
