//! Benchmarks of one run on one machine: native, crun, runc, runsc (when present) and chitin side by side, as medians and
//! ratios. `cargo run --release -p chitin-benches -- [--json FILE] [--only ENGINE,…] [--passes N]`.
//!
//! The columns take turns, a round of a benchmark each; a cell is the median over the rounds (five a pass, three passes unless
//! told), a ratio the median of the rounds' ratios, so that what else the machine does meanwhile falls on all columns alike.
//!
//! Neighbours: `../guest/micro.c` (what runs inside), `tests/harness` (bundles, engines). Targets are in ARCHITECTURE.md.

mod table;
mod turns;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use chitin_tests::paths;

/// Rounds of each micro benchmark in a pass.
const ROUNDS: usize = 5;

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

/// The median of each cell over what found it.
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
    let (mut passes, mut failed) = turns::play(&bin, &wanted, ROUNDS * count);
    for _ in 0..count {
        let mut whole = Results::new();
        failed |= whole::measure(&wanted, &mut whole);
        passes.push(whole);
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
