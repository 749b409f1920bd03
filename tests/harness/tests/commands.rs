//! The other commands of the runtimes' common command line: ps, pause, resume, events, update, features, spec, errors.
//! `CHITIN_TEST_ENGINE=runc` (or crun) proves each test against an established runtime.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chitin_tests::engine::Engine;
use chitin_tests::steps::Steps;
use chitin_tests::{run, skip};
use serde_json::Value;

const WAITS: &str = "while :; do sleep 1; done";

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// What threads wait for: the parked call with its file, the one that spins, and the platform's word about each.
#[test]
fn debug_tells_what_threads_wait_for() {
    let s = Steps::busybox("debug", "mkfifo /tmp/f; cat /tmp/f & (while :; do :; done) & sleep 1000; true");
    if s.engine != Engine::Chitin {
        return;
    }
    s.create();
    let before = s.ok(&["debug", "--stacks", &s.id]).text();
    assert!(before.lines().count() == 1 && before.starts_with("1/1 "), "{before}");
    s.start();
    let mut text = String::new();
    let found = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        text = s.ok(&["debug", "--stacks", &s.id]).text();
        let line = |needle: &[&str]| text.lines().any(|l| needle.iter().all(|n| l.contains(n)));
        line(&["cat: parked in open"])
            && line(&["parked in", "nanosleep(", "platform: "])
            && line(&["in guest code", "platform: Running"])
    });
    assert!(found, "{text}");
    let refused = s.fails(&["debug", &s.id]);
    assert!(refused.stderr.contains("--stacks"), "{}", refused.brief());
}

#[test]
fn ps_lists_host_pids_and_a_table() {
    let s = Steps::busybox("ps", "sleep 1000 & sleep 1000; true");
    s.launch();
    let pids = || json(&s.ok(&["ps", "--format", "json", &s.id]).text());
    chitin_tests::leftovers::settle(std::time::Duration::from_secs(20), || {
        let n = pids().as_array().map_or(0, Vec::len);
        if n == 3 { Ok(()) } else { Err(format!("{n} processes")) }
    })
    .unwrap();
    for pid in pids().as_array().expect("an array") {
        let pid = pid.as_i64().expect("a number");
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "{pid} is no host process");
    }
    if s.engine != Engine::Crun {
        let table = s.ok(&["ps", &s.id]).text();
        assert!(
            table.starts_with("UID") && table.lines().next().is_some_and(|l| l.ends_with("CMD")),
            "{table}"
        );
        assert_eq!(table.lines().count(), 4, "{table}");
        // Options are those of the host's ps, about the same processes.
        let some = s.ok(&["ps", &s.id, "-A", "-o", "pid,comm"]).text();
        let listed: Vec<i64> =
            some.lines().skip(1).filter_map(|l| l.split_whitespace().next()?.parse().ok()).collect();
        let known = pids();
        assert!(listed.len() == 3, "{some}");
        assert!(
            listed.iter().all(|pid| known.as_array().expect("an array").contains(&(*pid).into())),
            "{some}"
        );
        assert!(s.ok(&["ps", "--format", "json", &s.id]).text().ends_with("]\n"));
    }
}

/// With a cgroup of its own, whose freezer stops it.
fn freezable(name: &str, script: &str) -> Steps {
    let mut s = Steps::busybox(name, script);
    s.bundle.config["linux"]["cgroupsPath"] = format!("/{}", s.id).into();
    s.bundle.write();
    s
}

#[test]
fn pause_and_resume() {
    let s = freezable("pause", "i=0; while :; do i=$((i+1)); echo $i > /tmp/n; done");
    s.launch();
    s.ok(&["pause", &s.id]);
    assert_eq!(s.state()["status"], "paused");
    if s.engine != Engine::Crun {
        assert_ne!(s.call(&["pause", &s.id]).code, Some(0), "a second pause");
    }
    assert_ne!(s.exec(&[], &["true"]).code, Some(0), "exec in a paused container");
    assert_ne!(s.call(&["delete", &s.id]).code, Some(0), "delete of a paused container");
    s.ok(&["resume", &s.id]);
    assert_eq!(s.state()["status"], "running");
    if s.engine != Engine::Crun {
        assert_ne!(s.call(&["resume", &s.id]).code, Some(0), "a second resume");
    }
    assert_eq!(s.exec(&[], &["true"]).code, Some(0));
    // A paused one can be removed by force.
    s.ok(&["pause", &s.id]);
    s.ok(&["delete", "--force", &s.id]);
    assert_ne!(s.call(&["state", &s.id]).code, Some(0));
}

/// CPU time that the host has counted for each process in the container's cgroups.
fn used(s: &Steps) -> Vec<(i32, u64)> {
    let mut all = Vec::new();
    for group in chitin_tests::leftovers::cgroups(&s.id) {
        let procs = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|p| p.parse::<i32>().ok()) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
            let ticks = |i: usize| fields.as_ref().and_then(|f| f.get(i)?.parse::<u64>().ok()).unwrap_or(0);
            all.push((pid, ticks(11) + ticks(12)));
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn nothing_goes_on_while_paused() {
    // Loops without system calls, loops of nothing else, forks, timers.
    let script = "awk 'BEGIN { while (1) x++ }' & yes >/dev/null & (while :; do /bin/true; done) & \
        i=0; while :; do i=$((i+1)); echo $i > /dev/shm/n; sleep 0.01; done";
    let s = freezable("pause-all", script);
    s.launch();
    let spent = |all: &[(i32, u64)]| all.iter().map(|(_, ticks)| ticks).sum::<u64>();
    chitin_tests::leftovers::settle(std::time::Duration::from_secs(20), || match used(&s) {
        all if all.len() >= 4 && spent(&all) > 20 => Ok(()),
        all => Err(format!("{all:?}")),
    })
    .unwrap();
    s.ok(&["pause", &s.id]);
    // What was on its way when it returned.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = used(&s);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let after = used(&s);
    let pids = |all: &[(i32, u64)]| all.iter().map(|(pid, _)| *pid).collect::<Vec<_>>();
    assert_eq!(pids(&before), pids(&after), "processes came or went");
    // Three loops would have used 50 to 100 ticks on each CPU; what the runtime itself looks after is next to nothing.
    assert!(spent(&after) - spent(&before) <= 2, "{before:?} then {after:?}");
    s.ok(&["resume", &s.id]);
    chitin_tests::leftovers::settle(std::time::Duration::from_secs(20), || match spent(&used(&s)) {
        now if now > spent(&after) + 20 => Ok(()),
        now => Err(format!("{now} ticks")),
    })
    .unwrap();
}

#[test]
fn signal_zero_only_asks() {
    let s = Steps::busybox("kill-zero", WAITS);
    s.launch();
    s.ok(&["kill", &s.id, "0"]);
    assert_eq!(s.state()["status"], "running");
    s.ok(&["kill", &s.id, "KILL"]);
    s.until("stopped");
    assert_ne!(s.call(&["kill", &s.id, "0"]).code, Some(0), "nobody is there");
}

#[test]
fn a_signal_for_a_paused_container_waits() {
    let s = freezable("pause-kill", "trap 'exit 0' USR1; echo > /tmp/ready; while :; do sleep 0.1; done");
    s.launch();
    let ready = || {
        if s.exec(&[], &["test", "-e", "/tmp/ready"]).code == Some(0) { Ok(()) } else { Err("no".to_owned()) }
    };
    chitin_tests::leftovers::settle(std::time::Duration::from_secs(20), ready).unwrap();
    s.ok(&["pause", &s.id]);
    s.ok(&["kill", &s.id, "USR1"]);
    assert_eq!(s.state()["status"], "paused");
    s.ok(&["resume", &s.id]);
    s.until("stopped");
}

#[test]
fn checkpoint_and_restore_fail_cleanly() {
    if Engine::under_test() != Engine::Chitin {
        return;
    }
    let s = Steps::busybox("checkpoint", WAITS);
    s.launch();
    let o =
        s.call(&["checkpoint", "--image-path", "/tmp/x", "--work-path", "/tmp/x", "--leave-running", &s.id]);
    assert_eq!((o.code, o.stderr.lines().count()), (Some(1), 1), "{}", o.brief());
    assert!(o.stderr.contains("not supported"), "{}", o.brief());
    let o = s.call(&["restore", "--image-path", "/tmp/x", "--bundle", "/tmp", "other"]);
    assert_eq!((o.code, o.stderr.lines().count()), (Some(1), 1), "{}", o.brief());
    assert_eq!(s.state()["status"], "running");
}

#[test]
fn errors_reach_the_log_as_json_and_standard_error() {
    let s = Steps::busybox("log", WAITS);
    let log = s.bundle.dir.join("log.json");
    let log_text = log.to_string_lossy().into_owned();
    let o = s.call(&["--log", &log_text, "--log-format", "json", "state", "no-such-container"]);
    assert_eq!(o.code, Some(1), "{}", o.brief());
    let not_there = |text: &str| text.contains("does not exist") || text.contains("No such file");
    assert!(not_there(&o.stderr), "{}", o.brief());
    let text = std::fs::read_to_string(&log).expect("the log");
    let last = json(text.lines().last().expect("a line"));
    assert_eq!(last["level"], "error", "{last}");
    assert!(last["msg"].as_str().is_some_and(not_there), "{last}");
    let time = last["time"].as_str().expect("a time");
    assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
}

#[test]
fn wrong_command_lines_are_one_line_and_no_success() {
    if Engine::under_test() != Engine::Chitin {
        return;
    }
    let s = Steps::busybox("usage", WAITS);
    for (code, args) in [
        (3, &["frobnicate"][..]),
        (1, &["state"]),
        (1, &["kill", "--what", "x"]),
        (1, &["--log-format", "xml", "list"]),
    ] {
        let o = s.call(args);
        assert_eq!((o.code, o.stderr.lines().count()), (Some(code), 1), "{args:?}: {}", o.brief());
    }
}

#[test]
fn settings_come_from_the_file_then_the_environment_then_flags() {
    if Engine::under_test() != Engine::Chitin {
        return;
    }
    let s = Steps::busybox("config", WAITS);
    s.create();
    let file = s.bundle.dir.join("config.toml");
    let list = |root: Option<&Path>, environment: Option<&Path>| {
        let mut c = std::process::Command::new(chitin_tests::paths::chitin());
        c.arg("--config").arg(&file);
        if let Some(root) = root {
            c.arg("--root").arg(root);
        }
        c.args(["list", "-q"]);
        if let Some(root) = environment {
            c.env("CHITIN_ROOT", root);
        }
        run::quick(c, std::time::Duration::from_secs(20))
    };
    let empty = s.bundle.dir.join("empty");
    std::fs::write(&file, format!("root = {:?}\n", s.root)).unwrap();
    assert_eq!(list(None, None).text().trim(), s.id);
    assert_eq!(list(None, Some(&empty)).text(), "");
    assert_eq!(list(Some(&s.root), Some(&empty)).text().trim(), s.id);
    std::fs::write(&file, "rot = \"/x\"\n").unwrap();
    let o = list(None, None);
    assert_eq!(o.code, Some(1), "{}", o.brief());
    assert!(o.stderr.contains("unknown key") && o.stderr.contains("config.toml"), "{}", o.brief());
}

#[test]
fn features_are_json() {
    let s = Steps::busybox("features", WAITS);
    let o = s.call(&["features"]);
    if o.code != Some(0) {
        return chitin_tests::skip("features_are_json", "this engine has no such command");
    }
    let f = json(&o.text());
    assert!(f["ociVersionMin"].is_string() && f["ociVersionMax"].is_string(), "{f}");
    assert!(f["hooks"].as_array().is_some_and(|h| h.iter().any(|k| k == "createRuntime")), "{f}");
    assert!(f["linux"]["namespaces"].as_array().is_some_and(|n| n.iter().any(|k| k == "mount")), "{f}");
    assert!(f["linux"]["capabilities"].as_array().is_some_and(|c| c.iter().any(|k| k == "CAP_CHOWN")), "{f}");
}

#[test]
fn the_bundle_is_not_needed_after_create() {
    let s = Steps::busybox("moved", WAITS);
    s.launch();
    std::fs::remove_file(s.bundle.dir.join("config.json")).unwrap();
    if s.engine == Engine::Chitin {
        assert_eq!(s.exec(&[], &["true"]).code, Some(0));
    }
    s.ok(&["kill", "--all", &s.id, "KILL"]);
    s.until("stopped");
}

#[test]
fn doctor_says_what_works() {
    if Engine::under_test() != Engine::Chitin {
        return;
    }
    let root = std::env::temp_dir();
    let doctor = |args: &[&str]| {
        let out = Engine::Chitin.command(&root, None, args).output().expect("chitin runs");
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (works, text) = doctor(&["doctor", "--json"]);
    let report = json(&text);
    let checks = report["checks"].as_array().expect("checks");
    let find =
        |name: &str| checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name}: {text}"));
    for name in
        ["seccomp", "ptrace", "/dev/kvm", "pidfd", "openat2", "PROCMAP_QUERY", "user namespaces", "cgroups"]
    {
        find(name);
    }
    for check in checks.iter().filter(|c| c["status"] == "fails") {
        assert!(check["remedy"].as_str().is_some_and(|r| !r.is_empty()), "{check}");
    }
    // Where the tests run at all, some platform works, and that is what it names.
    assert!(works, "{text}");
    let auto = report["platform"].as_str().expect("a platform");
    assert_ne!(find(auto)["status"], "fails");
    let (_, shown) = doctor(&["doctor"]);
    assert!(shown.contains(&format!("--platform=auto is {auto}")), "{shown}");
}

#[test]
fn no_containers_are_null_in_json() {
    let s = Steps::busybox("list-none", "true");
    let o = s.ok(&["list", "--format", "json"]);
    // crun has an empty list.
    if s.engine != Engine::Crun {
        assert_eq!(o.text(), "null\n");
    }
    assert_eq!(s.ok(&["list", "-q"]).text(), "");
}

/// What a label asks for, where the host has no such security module.
#[test]
fn labels_need_a_security_module() {
    for (name, enabled) in [
        ("apparmorProfile", std::path::Path::new("/sys/module/apparmor").exists()),
        ("selinuxLabel", std::path::Path::new("/sys/fs/selinux/enforce").exists()),
    ] {
        if enabled {
            skip("labels", &format!("this host has what {name} needs"));
            continue;
        }
        let s = Steps::busybox("labels", "true");
        s.bundle.clone().set(&format!("/process/{name}"), serde_json::json!("some-label")).write();
        let o = s.try_create();
        // runc finds AppArmor missing in `create`, too: its init has the label before it waits.
        assert!(o.code.is_some_and(|c| c != 0), "{name}: {}", o.brief());
        let _ = s.call(&["delete", "--force", &s.id]);
    }
}

#[test]
fn io_has_the_configured_priority() {
    let s = Steps::busybox("io-priority", "while :; do sleep 1; done");
    if s.engine != Engine::Chitin || !chitin_tests::run::have("ionice") {
        // runc has it since 1.2.
        skip("ioPriority", "no other runtime here knows it, or ionice is missing");
        return;
    }
    s.bundle
        .clone()
        .set("/process/ioPriority", serde_json::json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))
        .write();
    s.launch();
    let text = std::fs::read(s.root.join(&s.id).join("state.json")).expect("state");
    let state: Value = serde_json::from_slice(&text).expect("JSON");
    for who in ["sentry", "gofer"] {
        let pid = state[who]["pid"].as_i64().expect("a pid");
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten() {
            let mut c = Command::new("ionice");
            c.arg("-p").arg(task.file_name());
            let o = chitin_tests::run::quick(c, Duration::from_secs(10));
            assert_eq!(o.text(), "best-effort: prio 6\n", "{who}");
        }
    }
}
