//! Whole processes: the time of `run /bin/true`, and what a sandbox weighs while its container sleeps.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::{leftovers, paths, run};

use crate::{Column, Results, median};

const RUNS: usize = 20;

fn run_true(engine: Engine) -> Result<f64, String> {
    let root = state_root("true");
    let mut all = Vec::new();
    for n in 0..RUNS + 2 {
        let b =
            Bundle::new("true", &paths::rootfs("busybox"), &["/bin/true"]).set("/root/readonly", true.into());
        b.write();
        let (dir, id) = (b.dir.to_string_lossy().into_owned(), unique_id());
        let mut c = engine.command(&root, None, &["run", "--bundle", &dir, &id]);
        let start = Instant::now();
        let o = c.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        if !o.status.success() {
            return Err(format!(
                "{} run /bin/true: {}",
                engine.name(),
                String::from_utf8_lossy(&o.stderr).trim()
            ));
        }
        if n >= 2 {
            all.push(took); // the first two warm caches
        }
    }
    Ok(median(all))
}

/// The engines other than chitin are started through `unshare` and a shell; what these cost is taken off again.
fn wrapper() -> f64 {
    let script = "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; exec true";
    let one = |_| {
        let start = Instant::now();
        let _ = Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", script]).output();
        start.elapsed().as_secs_f64() * 1e3
    };
    median((0..RUNS).map(one).collect())
}

/// PSS of the processes that a sleeping container needs beside its own program, in MB.
fn idle_pss() -> Result<f64, String> {
    let b = Bundle::new("idle", &paths::rootfs("busybox"), &["/bin/sleep", "20"]);
    b.write();
    let (dir, id, root) = (b.dir.to_string_lossy().into_owned(), unique_id(), state_root("idle"));
    let call = |args: &[&str]| run::quick(Engine::Chitin.command(&root, None, args), Duration::from_secs(20));
    let o = call(&["create", "--bundle", &dir, &id]);
    if o.code != Some(0) {
        return Err(format!("create: {}", o.brief()));
    }
    let o = call(&["start", &id]);
    std::thread::sleep(Duration::from_millis(700));
    let mut total = None;
    for pid in leftovers::processes_with(&["sentry", "gofer"], &id) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kb =
            text.lines().find_map(|l| l.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok());
        total = Some(total.unwrap_or(0.0) + kb.unwrap_or(0.0) / 1024.0);
    }
    let _ = call(&["delete", "--force", &id]);
    if o.code != Some(0) {
        return Err(format!("start: {}", o.brief()));
    }
    total.ok_or_else(|| "no process of the roles sentry and gofer was found".to_owned())
}

/// Adds the rows; true when something failed.
pub fn measure(wanted: &dyn Fn(Column) -> bool, r: &mut Results) -> bool {
    let mut failed = false;
    let cost = wrapper();
    for (column, engine) in
        [(Column::Crun, Engine::Crun), (Column::Runc, Engine::Runc), (Column::Chitin, Engine::Chitin)]
    {
        if !wanted(column) || !engine.available() {
            continue;
        }
        match run_true(engine) {
            Ok(v) => {
                let v = if engine == Engine::Chitin { v } else { (v - cost).max(0.1) };
                r.entry("run_true_ms".into()).or_default().insert(column, v);
            }
            Err(e) => {
                failed = true;
                eprintln!("{e}");
            }
        }
    }
    if wanted(Column::Chitin) {
        match idle_pss() {
            Ok(v) => drop(r.entry("idle_pss_mb".into()).or_default().insert(Column::Chitin, v)),
            Err(e) => {
                failed = true;
                eprintln!("idle memory: {e}");
            }
        }
    }
    failed
}
