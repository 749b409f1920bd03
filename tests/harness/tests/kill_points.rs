//! SIGKILL to the sentry, the gofer or the CLI at seeded-random points of a run: nothing stays behind, and who survives
//! says what happened. One test, because this process is the subreaper of everything it starts.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::rng::{Rng, seed};
use chitin_tests::{leftovers, paths, run};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const POINTS: u32 = 50;
const SCRIPT: &str = "i=0; while [ $i -lt 40 ]; do echo $i >/tmp/f$i; (cat /tmp/f$i; true) | cat; i=$((i+1)); done; sleep 0.2; echo end";

fn cmdline(pid: i32) -> String {
    let b = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    b.split(|c| *c == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect::<Vec<_>>().join(" ")
}

/// The process of a role among our descendants: roles are hidden subcommands of the same binary.
fn find(role: &str) -> Option<i32> {
    let me = std::process::id().cast_signed();
    let is = |p: &i32| cmdline(*p).split(' ').take(4).any(|a| a == role || a.ends_with(&format!("-{role}")));
    leftovers::descendants(me).into_iter().find(is)
}

/// Reaps what there is to reap; gives the exit code of `of` when it was among it.
fn reap(of: i32, code: &mut Option<i32>) {
    while let Ok(s) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        match s {
            WaitStatus::Exited(p, c) if p.as_raw() == of => *code = Some(c),
            WaitStatus::Signaled(p, sig, _) if p.as_raw() == of => *code = Some(128 + sig as i32),
            WaitStatus::StillAlive => break,
            _ => {}
        }
    }
}

fn one(n: u32, role: &str, delay: Duration) -> Result<(), String> {
    let before = leftovers::mounts();
    let (id, root) = (unique_id(), state_root("kill"));
    let b = Bundle::new("kill", &paths::rootfs("busybox"), &["/bin/sh", "-c", SCRIPT]);
    b.write();
    let dir = b.dir.to_string_lossy().into_owned();
    let (errors, output) = (b.dir.join("stderr"), b.dir.join("stdout"));
    let mut c = Engine::Chitin.command(&root, Some(&b), &["run", "--bundle", &dir, &id]);
    let err = File::create(&errors).map_err(|e| e.to_string())?;
    let out = File::create(&output).map_err(|e| e.to_string())?;
    c.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let cli = c.spawn().map_err(|e| format!("chitin: {e}"))?.id().cast_signed();
    std::thread::sleep(delay);
    let mut code = None;
    reap(cli, &mut code);
    // A role that is not there yet, or no more: the CLI is what can be killed.
    let (victim, role) = match role {
        "cli" => (Some(cli), "cli"),
        r => find(r).map_or((Some(cli), "cli"), |p| (Some(p), r)),
    };
    let alive = code.is_none();
    if let Some(v) = victim.filter(|_| alive) {
        let _ = kill(Pid::from_raw(v), Signal::SIGKILL);
    }
    let at = format!("point {n}: {role} after {delay:?}");
    let me = std::process::id().cast_signed();
    let end = Instant::now() + Duration::from_secs(10);
    let left = loop {
        reap(cli, &mut code);
        let left = leftovers::descendants(me);
        if left.is_empty() || Instant::now() > end {
            break left;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if !left.is_empty() {
        let names: Vec<_> = left.iter().map(|p| format!("{p} {}", cmdline(*p))).collect();
        for p in &left {
            let _ = kill(Pid::from_raw(*p), Signal::SIGKILL); // ours, all: so that the next point starts clean
        }
        std::thread::sleep(Duration::from_millis(200));
        reap(cli, &mut code);
        return Err(format!("{at}: processes left: {names:?}"));
    }
    let said = std::fs::read_to_string(&errors).unwrap_or_default();
    if alive && role != "cli" {
        match code {
            // Unless it did: the kill came while the sandbox was on its way out.
            Some(0) if std::fs::read(&output).is_ok_and(|o| o.ends_with(b"end\n")) => {}
            Some(0) => return Err(format!("{at}: the CLI says all went well")),
            Some(_) if said.trim().is_empty() => return Err(format!("{at}: the CLI fails without a word")),
            _ => {}
        }
    }
    if said.contains("panicked") {
        return Err(format!("{at}: panic: {}", said.trim()));
    }
    let del =
        run::quick(Engine::Chitin.command(&root, None, &["delete", "--force", &id]), Duration::from_secs(20));
    if del.code != Some(0) {
        return Err(format!("{at}: delete --force: {}", del.brief()));
    }
    leftovers::nothing_left(&id, &id, &root, &before).map_err(|e| format!("{at}: {e}"))
}

#[test]
fn fifty_random_kills_leave_nothing() {
    nix::sys::prctl::set_child_subreaper(true).expect("prctl");
    let probe = Bundle::new("probe", &paths::rootfs("busybox"), &["/bin/sh", "-c", SCRIPT]);
    let whole = Engine::Chitin.run(&probe, b"", Duration::from_secs(30));
    assert_eq!(whole.code, Some(0), "undisturbed: {}", whole.brief());
    let (seed, mut bad) = (seed(), Vec::new());
    let mut rng = Rng::new(seed);
    let span = u64::try_from(whole.elapsed.as_micros()).unwrap_or(1).max(1);
    for n in 0..POINTS {
        let role = *rng.pick(&["sentry", "gofer", "cli"]);
        bad.extend(one(n, role, Duration::from_micros(rng.below(span))).err());
    }
    assert!(bad.is_empty(), "seed {seed}, {} of {POINTS} points:\n{}", bad.len(), bad.join("\n"));
}
