//! What a running sandbox looks like from the host: privileges, namespaces, roots and descriptors of each of its processes.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::steps::Steps;
use chitin_tests::{leftovers, paths, run, skip};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID and MKNOD: what serving files as their owners needs.
const GOFER_CAPS: u64 = 0x1f | 1 << 27;

fn cmdline(pid: i32) -> String {
    let b = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    b.split(|c| *c == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect::<Vec<_>>().join(" ")
}

fn status(pid: i32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or("(nothing)").trim().to_owned()
}

fn namespace(pid: &str, kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap_or_default()
}

/// Number and target of each open descriptor.
fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let one = |e: std::fs::DirEntry| {
        let number = e.file_name().to_str()?.parse().ok()?;
        Some((number, std::fs::read_link(e.path()).ok()?.to_string_lossy().into_owned()))
    };
    entries.filter_map(one).collect()
}

fn root_names(pid: i32) -> Result<BTreeSet<String>, String> {
    let entries =
        std::fs::read_dir(format!("/proc/{pid}/root/")).map_err(|e| format!("{pid}'s root: {e}"))?;
    Ok(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

/// What must hold for one process of the sandbox; `caps` are all that it may have.
fn check(pid: i32, who: &str, caps: u64, namespaces: &[&str], bad: &mut Vec<String>) {
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let has = u64::from_str_radix(&status(pid, key), 16);
        if !has.as_ref().is_ok_and(|has| has & !caps == 0) {
            bad.push(format!("{who}: {key} is {has:x?}, at most {caps:x} is needed"));
        }
    }
    for (key, want) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let is = status(pid, key);
        if is != want {
            bad.push(format!("{who}: {key} is {is}, not {want}"));
        }
    }
    for kind in namespaces {
        let own = namespace(&pid.to_string(), kind);
        if own.as_os_str().is_empty() || own == namespace("self", kind) {
            bad.push(format!("{who}: its {kind} namespace {own:?} is the host's"));
        }
    }
}

#[test]
fn every_process_is_confined() {
    if !nix::unistd::geteuid().is_root() {
        skip("confinement", "other processes' roots and descriptors are root's to see; run as root");
        return;
    }
    let (id, state) = (unique_id(), state_root("confinement"));
    // A file that a careless caller leaves open: it must not get past the CLI.
    let stray = File::create(paths::scratch("stray").join("stray")).expect("scratch is writable");
    fcntl(&stray, FcntlArg::F_SETFD(FdFlag::empty())).expect("F_SETFD");
    let b = Bundle::new("confinement", &paths::rootfs("busybox"), &["/bin/sh", "-c", "sleep 60 & sleep 60"]);
    b.write();
    let dir = b.dir.to_string_lossy().into_owned();
    let mut command = Engine::Chitin.command(&state, Some(&b), &["run", "--bundle", &dir, &id]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut cli = command.spawn().expect("chitin starts");
    let root = cli.id().cast_signed();
    let mut found = (0, 0, Vec::new());
    let mut before = Vec::new();
    let up = leftovers::settle(Duration::from_secs(20), || {
        let all = leftovers::descendants(root);
        let role = |role: &str| all.iter().copied().find(|p| cmdline(*p).split(' ').nth(1) == Some(role));
        let stub = |p: &i32| {
            std::fs::read_to_string(format!("/proc/{p}/comm")).is_ok_and(|c| c.trim() == "chitin-stub")
        };
        let stubs: Vec<i32> = all.iter().copied().filter(stub).collect();
        let settled = std::mem::replace(&mut before, stubs.clone()) == stubs;
        match (role("sentry"), role("gofer")) {
            // The zygote and two sleeps; not one that ends, as a shell's child does when it executes its program.
            (Some(sentry), Some(gofer)) if stubs.len() >= 3 && settled => {
                found = (sentry, gofer, stubs);
                Ok(())
            }
            other => Err(format!("{other:?} and stubs {stubs:?} of {all:?}")),
        }
    });
    let mut bad = Vec::new();
    if let Err(why) = &up {
        bad.push(format!("the sandbox does not come up: {why}"));
    } else {
        let (sentry, gofer, stubs) = found;
        let isolated = ["user", "pid", "mnt", "net", "ipc", "uts"];
        check(sentry, "sentry", 0, &isolated, &mut bad);
        check(gofer, "gofer", GOFER_CAPS, &["pid", "mnt", "net", "ipc", "uts"], &mut bad);
        match root_names(sentry) {
            Ok(names) if names.is_empty() => {}
            other => bad.push(format!("the sentry's root is not empty: {other:?}")),
        }
        match root_names(gofer) {
            Ok(names) if names.iter().all(|n| n == "fd" || n == "roots") => {}
            other => bad.push(format!("the gofer's root holds more than what it serves: {other:?}")),
        }
        let own = ["/dev/null", "/memfd:", "anon_inode:", "socket:", "pipe:"];
        let inside = |target: &str| target == "/" || target.starts_with("/roots/");
        for (fd, target) in descriptors(sentry) {
            if !inside(&target) && !own.iter().any(|o| target.starts_with(o)) {
                bad.push(format!("the sentry holds {fd}: {target}"));
            }
        }
        for (fd, target) in descriptors(gofer) {
            if !inside(&target) && target != "/fd" && !own.iter().any(|o| target.starts_with(o)) {
                bad.push(format!("the gofer holds {fd}: {target}"));
            }
        }
        for stub in stubs {
            let who = format!("stub {stub}");
            check(stub, &who, 0, &isolated, &mut bad);
            match root_names(stub) {
                Ok(names) if names.is_empty() => {}
                other => bad.push(format!("{who}: its root is not empty: {other:?}")),
            }
            for (fd, target) in descriptors(stub) {
                // Its windows, and files of the container that it maps.
                if !target.starts_with("/memfd:") && !target.starts_with("/roots/") {
                    bad.push(format!("{who} holds {fd}: {target}"));
                }
            }
        }
    }
    let end = Engine::Chitin.command(&state, None, &["delete", "--force", &id]);
    let deleted = run::quick(end, Duration::from_secs(20));
    run::kill_tree(&mut cli);
    assert!(bad.is_empty(), "{}\ndelete: {}", bad.join("\n"), deleted.brief());
}

/// What stands on the host for processes that `exec` adds: many, so small, and each with a way into the sandbox, so confined.
#[test]
fn stand_ins_are_small_and_confined() {
    if !nix::unistd::geteuid().is_root() {
        skip("stand-ins", "other processes' roots and descriptors are root's to see; run as root");
        return;
    }
    if Engine::under_test() != Engine::Chitin {
        return;
    }
    let s = Steps::busybox("stand-in", "while :; do sleep 1; done");
    s.launch();
    let file = paths::scratch("stand-in-pid").join("pid");
    let o = s.exec(&["--detach", "--pid-file", &file.to_string_lossy()], &["sleep", "60"]);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    let pid: i32 = std::fs::read_to_string(&file).expect("a pid").parse().expect("a number");
    let bad = small(pid, "stand-in", &["mnt"]);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// What must hold for a freestanding process beside the sandbox.
fn small(pid: i32, who: &str, namespaces: &[&str]) -> Vec<String> {
    let mut bad = Vec::new();
    check(pid, who, 0, namespaces, &mut bad);
    let uids = status(pid, "Uid");
    if uids != "65534\t65534\t65534\t65534" {
        bad.push(format!("its users are {uids}"));
    }
    for (fd, target) in descriptors(pid) {
        if !["/dev/null", "anon_inode:[signalfd]", "socket:"].iter().any(|o| target.starts_with(o)) {
            bad.push(format!("it holds {fd}: {target}"));
        }
    }
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    if cwd.as_os_str() != "/" || root_names(pid).is_ok_and(|names| names.contains("boot")) {
        bad.push(format!("it sees the host: its directory is {}", cwd.display()));
    }
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = memory
        .lines()
        .find_map(|l| l.strip_prefix("Pss:")?.trim().trim_end_matches(" kB").parse::<u32>().ok());
    if pss.is_none_or(|pss| pss >= 256) {
        bad.push(format!("it takes {pss:?} kB"));
    }
    bad
}

/// What waits for Docker's name server, where that may come: hooks have been told of a namespace that the runtime has made.
#[test]
fn name_proxies_are_small_confined_and_end() {
    if !nix::unistd::geteuid().is_root() {
        skip("name proxies", "other processes' roots and descriptors are root's to see; run as root");
        return;
    }
    if Engine::under_test() != Engine::Chitin {
        return;
    }
    let find = |id: &str| {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| {
            let line = cmdline(*pid);
            line.starts_with("chitin name-proxy ") && line.contains(id)
        })
    };
    let hooks = serde_json::json!({"createRuntime": [{"path": "/bin/true"}]});
    for (told, expected) in [(true, true), (false, false)] {
        let b = Bundle::new("name-proxy", &paths::rootfs("busybox"), &["/bin/sleep", "1000"]);
        let s = Steps::new(if told { b.set("/hooks", hooks.clone()) } else { b });
        s.launch();
        let pid = find(&s.id);
        assert_eq!(pid.is_some(), expected, "told: {told}");
        let Some(pid) = pid else { continue };
        let bad = small(pid, "name-proxy", &["mnt", "net"]);
        assert!(bad.is_empty(), "{}", bad.join("\n"));
        s.ok(&["kill", &s.id, "KILL"]);
        leftovers::settle(Duration::from_secs(20), || match find(&s.id) {
            None => Ok(()),
            Some(pid) => Err(format!("{pid} goes on without its sentry")),
        })
        .unwrap();
    }
}
