//! A thousand create/start/delete cycles one after the other, and a hundred at once, leave nothing behind: no process, no
//! mount, no cgroup, no state, no descriptor. The medians of full cycles are printed beside crun's (or runc's, where crun
//! is not the one under test) from the same run; no time is asserted, since machines differ.

use std::time::{Duration, Instant};

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::leftovers::{all_processes, cgroups, mounts, processes, settle};
use chitin_tests::{paths, run};

const LIMIT: Duration = Duration::from_secs(60);

fn bundle(name: &str) -> Bundle {
    let b = Bundle::new(name, &paths::rootfs("busybox"), &["/bin/true"]);
    b.write();
    b
}

/// create, start, wait for the end, delete; the time of each step.
fn cycle(engine: Engine, b: &Bundle, root: &std::path::Path) -> Result<[Duration; 3], String> {
    let (id, dir) = (unique_id(), b.dir.to_string_lossy().into_owned());
    let scratch = paths::scratch("cycle");
    let step = |args: &[&str]| {
        let with = (args[0] == "create").then_some(b);
        let start = Instant::now();
        let o = run::run(engine.command(root, with, args), b"", &scratch, LIMIT);
        if o.code == Some(0) { Ok(start.elapsed()) } else { Err(format!("{args:?}: {}", o.brief())) }
    };
    let made = step(&["create", "--bundle", &dir, &id]);
    let rest = made.and_then(|c| {
        let s = step(&["start", &id])?;
        // `true` ends at once; a delete before that is refused and tried again.
        let begin = Instant::now();
        settle(LIMIT, || step(&["delete", &id]).map(drop))?;
        Ok([c, s, begin.elapsed()])
    });
    if rest.is_err() {
        let _ = step(&["delete", "--force", &id]);
    }
    let _ = std::fs::remove_dir_all(&scratch);
    rest
}

fn report(what: &str, engine: Engine, all: &[[Duration; 3]]) {
    let median = |mut v: Vec<Duration>| {
        v.sort();
        v.get(v.len() / 2).copied().unwrap_or_default()
    };
    let of = |i: usize| median(all.iter().map(|c| c[i]).collect());
    let whole = median(all.iter().map(|c| c.iter().sum()).collect());
    eprintln!(
        "CYCLES: {what}: {}: median {whole:.1?} (create {:.1?}, start {:.1?}, end and delete {:.1?}) of {}",
        engine.name(),
        of(0),
        of(1),
        of(2),
        all.len()
    );
}

fn left(
    cookie: &str,
    engine: Engine,
    root: &std::path::Path,
    before: &std::collections::BTreeSet<String>,
) -> Result<(), String> {
    let p = processes(cookie);
    let m = mounts().difference(before).filter(|l| l.contains(cookie)).count();
    let entries: Vec<_> =
        std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    // What an engine keeps for itself (a lock) is no container's.
    let s: Vec<_> = entries.iter().filter(|n| n.to_string_lossy().contains(cookie)).collect();
    let c = if engine == Engine::Crun { Vec::new() } else { cgroups(cookie) };
    if p.is_empty() && m == 0 && s.is_empty() && c.is_empty() {
        return Ok(());
    }
    Err(format!("left: processes {p:?}, {m} mounts, state {s:?}, cgroups {c:?}"))
}

/// Also beside it: what the peer needs in the same run.
fn peer() -> Option<Engine> {
    let e = if Engine::under_test() == Engine::Crun { Engine::Runc } else { Engine::Crun };
    e.available().then_some(e)
}

#[test]
fn a_thousand_cycles_leave_nothing() {
    let (engine, before, b, root) = (Engine::under_test(), mounts(), bundle("cycles"), state_root("cycles"));
    let mine = format!("t-{}-", std::process::id());
    let n = std::env::var("CHITIN_TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let fds = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let (processes_before, fds_before) = (all_processes().len(), fds());
    let mut all = Vec::new();
    let mut theirs = Vec::new();
    let (pb, proot) = (bundle("peer"), state_root("peer"));
    for i in 0..n {
        all.push(cycle(engine, &b, &root).unwrap_or_else(|e| panic!("cycle {i}: {e}")));
        // Interleaved, so that both see the same machine.
        if i % 20 == 0 {
            theirs.extend(peer().and_then(|p| cycle(p, &pb, &proot).ok()));
        }
    }
    report("one after the other", engine, &all);
    if let Some(p) = peer() {
        report("one after the other", p, &theirs);
    }
    settle(Duration::from_secs(20), || left(&mine, engine, &root, &before)).unwrap();
    assert_eq!(fds(), fds_before, "descriptors of this process");
    let now = all_processes().len();
    assert!(now < processes_before + 100, "{processes_before} processes before, {now} after: zombies?");
}

#[test]
fn a_hundred_at_once_leave_nothing() {
    let (engine, before) = (Engine::under_test(), mounts());
    let mine = format!("t-{}-", std::process::id());
    let round = |engine: Engine, root: &std::path::Path| {
        let bundles: Vec<_> = (0..100).map(|_| bundle("hundred")).collect();
        std::thread::scope(|s| {
            let all: Vec<_> = bundles.iter().map(|b| s.spawn(move || cycle(engine, b, root))).collect();
            all.into_iter().map(|t| t.join().expect("no panic")).collect::<Vec<_>>()
        })
    };
    let root = state_root("hundred");
    let results = round(engine, &root);
    let bad: Vec<String> = results.iter().filter_map(|r| r.as_ref().err().cloned()).collect();
    assert!(bad.is_empty(), "{} of 100:\n{}", bad.len(), bad.join("\n"));
    report("a hundred at once", engine, &results.into_iter().flatten().collect::<Vec<_>>());
    settle(Duration::from_secs(20), || left(&mine, engine, &root, &before)).unwrap();
    if let Some(p) = peer() {
        let proot = state_root("hundred-peer");
        report("a hundred at once", p, &round(p, &proot).into_iter().flatten().collect::<Vec<_>>());
    }
}
