//! `chitin doctor`: looks at the host and says what will work, what will not, and what to do about it.
//!
//! Neighbours: `chitin_sentry::doctor` starts the platforms; everything else is read here. Nothing is changed.

use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Args;
use serde_json::{Value, json};

use super::print;
use crate::util::Result;
use chitin_sentry::doctor;

#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Enter a user namespace and end
    #[arg(long, hide = true)]
    try_user_namespace: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Works,
    /// Something is slower or missing without it.
    Limited,
    Fails,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Works => "works",
            Status::Limited => "limited",
            Status::Fails => "fails",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    group: &'static str,
    name: String,
    status: Status,
    found: String,
    /// What to do, if there is something to do.
    remedy: Option<String>,
}

impl Check {
    fn new(group: &'static str, name: &str, status: Status, found: impl Into<String>) -> Check {
        Check { group, name: name.to_owned(), status, found: found.into(), remedy: None }
    }

    fn remedy(mut self, text: impl Into<String>) -> Check {
        self.remedy = Some(text.into());
        self
    }
}

impl Doctor {
    pub fn run(self) -> Result<ExitCode> {
        if self.try_user_namespace {
            let entered = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).is_ok();
            return Ok(if entered { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let filtered = doctor::filtered(&read("/proc/self/status"));
        // A process of one thread is needed for this one, so it comes first.
        let mut checks = vec![user_namespaces()];
        let trials = platforms(filtered);
        let works = |name: &str| trials.iter().any(|c| c.name == name && c.status != Status::Fails);
        let (order, why) = doctor::order(filtered);
        let names: Vec<_> = order.into_iter().map(doctor::name).collect();
        let auto = names.iter().find(|name| works(name)).copied();
        let why = match auto {
            Some(first) if names.first() == Some(&first) => why,
            Some(_) => "what comes before it does not work here".into(),
            None => "no platform works here".into(),
        };
        checks.splice(0..0, trials);
        checks.extend(kernel(filtered));
        checks.extend(cgroups(Path::new("/sys/fs/cgroup")));
        checks.extend(engines());
        if self.json {
            let value = report(&checks, auto, &why);
            print(&format!("{}\n", serde_json::to_string_pretty(&value).unwrap_or_default()))?;
        } else {
            print(&text(&checks, auto, &why))?;
        }
        Ok(if auto.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn report(checks: &[Check], auto: Option<&str>, why: &str) -> Value {
    let checks: Vec<Value> = checks
        .iter()
        .map(|c| {
            json!({
                "group": c.group, "name": c.name, "status": c.status.name(), "found": c.found, "remedy": c.remedy,
            })
        })
        .collect();
    json!({ "platform": auto, "why": why, "checks": checks })
}

fn text(checks: &[Check], auto: Option<&str>, why: &str) -> String {
    let mut out = String::new();
    let mut group = "";
    for c in checks {
        if c.group != group {
            group = c.group;
            out.push_str(&format!("{group}:\n"));
        }
        out.push_str(&format!("  {:<8}{:<24}{}\n", c.status.name(), c.name, c.found));
        if let Some(remedy) = &c.remedy {
            out.push_str(&format!("  {:<8}  -> {remedy}\n", ""));
        }
    }
    match auto {
        Some(platform) => out.push_str(&format!("--platform=auto is {platform}: {why}\n")),
        None => out.push_str("no platform works here: no container can be started\n"),
    }
    out
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn platforms(filtered: bool) -> Vec<Check> {
    let mut all: Vec<Check> = doctor::platforms()
        .into_iter()
        .map(|trial| match trial.result {
            Ok(_) if filtered && trial.platform == "seccomp" => Check::new(
                "platforms",
                trial.platform,
                Status::Limited,
                "an outer seccomp filter is in force",
            )
            .remedy(
                "start without one (docker: --security-opt seccomp=unconfined), or use --platform=ptrace",
            ),
            Ok(features) => Check::new("platforms", trial.platform, Status::Works, features),
            Err(error) => {
                let (cause, remedy) = error.rsplit_once("; ").unwrap_or((&error, "see above"));
                Check::new("platforms", trial.platform, Status::Fails, cause).remedy(remedy)
            }
        })
        .collect();
    all.push(kvm_device());
    all
}

/// /dev/kvm, whatever this build can do with it.
fn kvm_device() -> Check {
    let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let modules = |name: &str| Path::new("/sys/module").join(name).exists();
    let nested = read("/proc/cpuinfo").lines().any(|l| l.starts_with("flags") && l.contains(" hypervisor"));
    match open {
        Ok(_) if modules("kvm_pvm") => {
            Check::new("platforms", "/dev/kvm", Status::Limited, "PVM: virtualisation without hardware")
                .remedy("system calls are slow there; --platform=seccomp is faster")
        }
        Ok(_) if nested => {
            Check::new("platforms", "/dev/kvm", Status::Limited, "nested in a virtual machine")
                .remedy("exits are slow there; --platform=seccomp is faster")
        }
        Ok(_) => Check::new("platforms", "/dev/kvm", Status::Works, "hardware virtualisation"),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Check::new("platforms", "/dev/kvm", Status::Fails, e.to_string())
                .remedy("add the user to the group that owns /dev/kvm (often kvm)")
        }
        Err(e) => Check::new("platforms", "/dev/kvm", Status::Fails, e.to_string()).remedy(
            "load kvm_intel or kvm_amd, and allow virtualisation in the firmware or the outer hypervisor",
        ),
    }
}

fn kernel(filtered: bool) -> Vec<Check> {
    let release = nix::sys::utsname::uname()
        .map_or_else(|_| String::from("unknown"), |name| name.release().to_string_lossy().into_owned());
    let has = |name, yes: bool, since: &str, otherwise: &str| {
        if yes {
            Check::new("kernel", name, Status::Works, "there")
        } else {
            Check::new("kernel", name, Status::Limited, otherwise)
                .remedy(format!("use Linux {since} or newer"))
        }
    };
    let mut all = vec![Check::new("kernel", "Linux", Status::Works, release)];
    all.push(if filtered {
        Check::new("kernel", "seccomp", Status::Limited, "this process is under a filter already")
            .remedy("what it forbids is forbidden to guests of --platform=seccomp, too")
    } else {
        Check::new("kernel", "seccomp", Status::Works, "no outer filter")
    });
    all.push(ptrace_scope(read("/proc/sys/kernel/yama/ptrace_scope").trim()));
    all.push(has("pidfd", doctor::has_pidfd(), "5.3", "no pidfd_open"));
    all.push(openat2());
    let query = doctor::has_map_query();
    all.push(has("PROCMAP_QUERY", query, "6.11", "mappings are looked up by reading all of them"));
    all
}

fn openat2() -> Check {
    let how = nix::fcntl::OpenHow::new()
        .flags(nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC)
        .resolve(nix::fcntl::ResolveFlag::RESOLVE_BENEATH);
    let works = std::fs::File::open("/").is_ok_and(|root| nix::fcntl::openat2(&root, "proc", how).is_ok());
    if works {
        Check::new("kernel", "openat2", Status::Works, "there")
    } else {
        Check::new("kernel", "openat2", Status::Fails, "refused; files are opened by it alone")
            .remedy("use Linux 5.6 or newer, and allow openat2(2) in an outer container's seccomp profile")
    }
}

/// What yama's `scope` means for us; empty: no yama.
fn ptrace_scope(scope: &str) -> Check {
    let check = |status, found| Check::new("kernel", "ptrace scope", status, found);
    let remedy = "sysctl kernel.yama.ptrace_scope=1 (after a 3: at the next boot)";
    match scope {
        "" => check(Status::Works, "no yama"),
        "0" | "1" => check(Status::Works, scope),
        "2" => check(
            Status::Fails,
            "2: only with CAP_SYS_PTRACE, which the sentry gives up: it cannot reach its guests' memory",
        )
        .remedy(remedy),
        _ => check(Status::Fails, "3: nobody may trace, nor reach another process's memory").remedy(remedy),
    }
}

fn user_namespaces() -> Check {
    let check = |status, found: &str| Check::new("host", "user namespaces", status, found);
    let entered = std::env::current_exe()
        .and_then(|exe| Command::new(exe).args(["doctor", "--try-user-namespace"]).status())
        .is_ok_and(|status| status.success());
    if entered {
        return check(Status::Works, "can be made");
    }
    let setting = |path: &str| read(path).trim().to_owned();
    if setting("/proc/sys/user/max_user_namespaces") == "0" {
        return check(Status::Fails, "user.max_user_namespaces is 0")
            .remedy("sysctl user.max_user_namespaces=15000");
    }
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        return check(Status::Fails, "AppArmor restricts them")
            .remedy("sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root");
    }
    if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        return check(Status::Fails, "kernel.unprivileged_userns_clone is 0")
            .remedy("sysctl kernel.unprivileged_userns_clone=1, or run as root");
    }
    check(Status::Fails, "refused")
        .remedy("an outer container's seccomp profile forbids unshare(2); allow it there")
}

/// The hierarchies below `root`.
fn cgroups(root: &Path) -> Vec<Check> {
    let controllers = |path: &Path| read(path.join("cgroup.controllers")).trim().to_owned();
    let check = |status, found| Check::new("host", "cgroups", status, found);
    if root.join("cgroup.controllers").exists() {
        let have = controllers(root);
        let missing: Vec<_> =
            ["cpu", "memory", "pids"].into_iter().filter(|c| !have.split(' ').any(|h| h == *c)).collect();
        return vec![if missing.is_empty() {
            check(Status::Works, format!("v2: {have}"))
        } else {
            check(Status::Limited, format!("v2 without {}: {have}", missing.join(", ")))
                .remedy("enable them in the parent's cgroup.subtree_control (systemd: Delegate=yes)")
        }];
    }
    let v1: Vec<String> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().join("cgroup.procs").exists())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "unified" && name != "systemd")
        .collect();
    vec![if v1.is_empty() {
        check(Status::Limited, "none are mounted".into())
            .remedy("mount cgroup2 on /sys/fs/cgroup; limits need it")
    } else if root.join("unified/cgroup.controllers").exists() {
        check(Status::Works, format!("hybrid, v1: {}", v1.join(" ")))
    } else {
        check(Status::Works, format!("v1: {}", v1.join(" ")))
    }]
}

/// Container engines that could use this runtime.
fn engines() -> Vec<Check> {
    const NAMES: [&str; 7] = ["docker", "dockerd", "podman", "containerd", "crio", "nerdctl", "kubelet"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|at| at.is_file());
    NAMES
        .into_iter()
        .filter_map(|name| {
            find(name).map(|at| Check::new("engines", name, Status::Works, at.display().to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yama_has_a_remedy() {
        for (scope, status) in [
            ("", Status::Works),
            ("0", Status::Works),
            ("1", Status::Works),
            ("2", Status::Fails),
            ("3", Status::Fails),
        ] {
            let check = ptrace_scope(scope);
            assert_eq!(check.status, status, "{check:?}");
            assert_eq!(check.remedy.is_some(), status == Status::Fails, "{check:?}");
        }
    }

    #[test]
    fn tells_hierarchies_apart() {
        let dir = std::env::temp_dir().join(format!("chitin-doctor-{}", std::process::id()));
        let make = |file: &str, text: &str| {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let found = || {
            let checks = cgroups(&dir);
            let check = checks.first().unwrap();
            (check.status, check.found.clone())
        };
        assert_eq!(found().0, Status::Limited);
        make("memory/cgroup.procs", "");
        assert_eq!(found(), (Status::Works, "v1: memory".into()));
        make("unified/cgroup.controllers", "pids\n");
        assert_eq!(found(), (Status::Works, "hybrid, v1: memory".into()));
        make("cgroup.controllers", "cpu memory\n");
        assert_eq!(found(), (Status::Limited, "v2 without pids: cpu memory".into()));
        make("cgroup.controllers", "cpuset cpu io memory pids\n");
        assert_eq!(found().0, Status::Works);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn every_failure_has_its_remedy_in_both_forms() {
        let checks = vec![
            Check::new("kernel", "a", Status::Works, "there"),
            ptrace_scope("3"),
            Check::new("platforms", "p", Status::Fails, "cause").remedy("do this"),
        ];
        let shown = text(&checks, None, "no platform works here");
        assert!(shown.contains("-> do this") && shown.contains("no container can be started"), "{shown}");
        let value = report(&checks, Some("ptrace"), "because");
        assert_eq!(value["platform"], "ptrace");
        assert_eq!(value["checks"][2]["remedy"], "do this");
        assert_eq!(value["checks"][0]["status"], "works");
    }
}
