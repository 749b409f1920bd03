//! Benchmarks of one run on one machine: native, crun, runc, runsc (when present) and chitin side by side, as medians and
//! ratios. `cargo run --release -p chitin-benches -- [--json FILE] [--only ENGINE,…] [--passes N]`.
//!
//! Every pass measures all columns one after the other; a cell is the median over the passes (three unless told), a ratio
//! the median of the passes' ratios, so that what else the machine does meanwhile falls on all columns alike.
//!
//! Neighbours: `../guest/micro.c` (what runs inside), `tests/harness` (bundles, engines). Targets are in ARCHITECTURE.md.

mod table;
mod whole;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::{paths, run};

/// Where a number was measured; columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Native,
    Crun,
    Runc,
    Runsc,
    Chitin,
}

pub const COLUMNS: [Column; 5] = [Column::Native, Column::Crun, Column::Runc, Column::Runsc, Column::Chitin];

impl Column {
    pub fn name(self) -> &'static str {
        ["native", "crun", "runc", "runsc", "chitin"][self as usize]
    }
}

/// Row name → column → value.
pub type Results = BTreeMap<String, BTreeMap<Column, f64>>;

pub fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of each cell over the passes.
fn medians(passes: &[Results]) -> Results {
    let mut all: BTreeMap<&String, BTreeMap<Column, Vec<f64>>> = BTreeMap::new();
    for (row, cells) in passes.iter().flatten() {
        for (column, value) in cells {
            all.entry(row).or_default().entry(*column).or_default().push(*value);
        }
    }
    let cells = |cells: BTreeMap<Column, Vec<f64>>| cells.into_iter().map(|(c, v)| (c, median(v))).collect();
    all.into_iter().map(|(row, v)| (row.clone(), cells(v))).collect()
}

fn compile() -> Result<PathBuf, String> {
    let out = paths::cache().join("bench");
    std::fs::create_dir_all(&out).map_err(|e| e.to_string())?;
    let (src, bin) = (paths::repo().join("benches/micro/guest/micro.c"), out.join("micro"));
    let o = Command::new("gcc")
        .args(["-static", "-O2", "-o"])
        .args([&bin, &src])
        .output()
        .map_err(|e| format!("gcc: {e}"))?;
    if o.status.success() { Ok(out) } else { Err(String::from_utf8_lossy(&o.stderr).into_owned()) }
}

fn read(text: &str, column: Column, into: &mut Results) {
    for line in text.lines() {
        if let Some((n, v)) = line.split_once(' ')
            && let Ok(v) = v.parse()
        {
            into.entry(n.to_owned()).or_default().insert(column, v);
        }
    }
}

/// runsc is not part of the test harness: it is called plainly when it is there.
fn runsc(b: &Bundle) -> Option<run::Outcome> {
    if !run::have("runsc") {
        return None;
    }
    b.write();
    let mut c = Command::new("runsc");
    c.args(["--ignore-cgroups", "--network=none", "--root"])
        .arg(b.dir.join("runsc"))
        .arg("run")
        .arg("--bundle")
        .arg(&b.dir);
    c.arg(chitin_tests::engine::unique_id());
    Some(run::quick(c, Duration::from_secs(120)))
}

fn outcome(column: Column, bin: &Path, b: &Bundle) -> Option<run::Outcome> {
    let limit = Duration::from_secs(120);
    let engine = match column {
        Column::Native => {
            // Files on a tmpfs, as in the containers.
            let mut c = Command::new(bin.join("micro"));
            c.arg("/dev/shm");
            return Some(run::quick(c, limit));
        }
        Column::Runsc => return runsc(b),
        Column::Crun => Engine::Crun,
        Column::Runc => Engine::Runc,
        Column::Chitin => Engine::Chitin,
    };
    engine.available().then(|| engine.run(b, b"", limit))
}

/// Measures everything once; the flag says whether something failed.
fn pass(bin: &Path, wanted: &dyn Fn(Column) -> bool) -> (Results, bool) {
    let (mut results, mut failed) = (Results::new(), false);
    for column in COLUMNS.into_iter().filter(|c| wanted(*c)) {
        let b = Bundle::new("bench", &paths::rootfs("busybox"), &["/bench/micro", "/tmp"])
            .bind(bin, "/bench", &["ro"])
            .tmpfs("/tmp");
        if column == Column::Chitin {
            // What chitin's calls are compared with, as close to them in time as can be.
            let mut c = Command::new(bin.join("micro"));
            c.arg("notify");
            read(&run::quick(c, Duration::from_secs(60)).text(), Column::Native, &mut results);
        }
        match outcome(column, bin, &b) {
            None => eprintln!("SKIP: {} is not installed", column.name()),
            Some(o) => {
                read(&o.text(), column, &mut results);
                if o.code != Some(0) {
                    failed = true;
                    eprintln!("{}: {}", column.name(), o.brief());
                }
            }
        }
    }
    failed |= whole::measure(wanted, &mut results);
    (results, failed)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |k: &str| args.iter().position(|a| a == k).and_then(|i| args.get(i + 1));
    let only = value("--only").cloned();
    let wanted = |c: Column| only.as_deref().is_none_or(|o| o.split(',').any(|n| n == c.name()));
    let bin = compile().unwrap_or_else(|e| {
        eprintln!(
            "cannot build the benchmark program: {e}; install gcc and libc6-dev (tests/rootfs/packages does)"
        );
        std::process::exit(1)
    });
    let count = value("--passes").and_then(|n| n.parse().ok()).unwrap_or(3).max(1);
    let mut failed = false;
    let mut passes = Vec::new();
    for _ in 0..count {
        let (results, bad) = pass(&bin, &wanted);
        failed |= bad;
        passes.push(results);
    }
    let results = medians(&passes);
    print!("{}", table::render(&results, &passes));
    if let Some(path) = value("--json") {
        let json: BTreeMap<_, BTreeMap<_, _>> =
            results.iter().map(|(k, v)| (k, v.iter().map(|(c, n)| (c.name(), n)).collect())).collect();
        let text = serde_json::to_string_pretty(&json).unwrap_or_default();
        if let Err(e) = std::fs::write(path, text) {
            eprintln!("{path}: {e}");
            failed = true;
        }
    }
    if failed {
        std::process::exit(1);
    }
}
