//! The printed table: medians, ratios to native, and the targets that are asked of chitin.
//!
//! A ratio is the median of the rounds' ratios, not the ratio of medians: a machine that is slow for a second slows both
//! sides of one round.

use crate::{COLUMNS, Column, Results, median};
use std::fmt::Write;

/// Row, what it is compared with, the highest allowed ratio (or value).
const TARGETS: [(&str, Limit); 9] = [
    ("getppid", Limit::Of(crate::turns::BARE, 1.5)),
    ("fork_exit_wait", Limit::Native(3.0)),
    ("mmap_touch_munmap", Limit::Native(4.0)),
    ("page_fault", Limit::Native(1.1)),
    ("clock_gettime", Limit::Native(1.1)),
    ("run_true_ms", Limit::Value(40.0)),
    ("run_true_ms", Limit::Crun(4.0)),
    ("idle_pss_mb", Limit::Value(10.0)),
    ("pipe_round_trip", Limit::Native(3.0)),
];

enum Limit {
    Native(f64),
    Crun(f64),
    Of(&'static str, f64),
    Value(f64),
}

fn number(v: f64) -> String {
    if v >= 1000.0 { format!("{v:.0}") } else { format!("{v:.1}") }
}

/// What a round (or a pass, of whole processes) found for one row in one column, compared with what it found elsewhere.
fn ratio(passes: &[Results], of: (&str, Column), to: (&str, Column)) -> Option<f64> {
    let get = |p: &Results, (row, column): (&str, Column)| p.get(row)?.get(&column).copied();
    let all: Vec<f64> = passes.iter().filter_map(|p| Some(get(p, of)? / get(p, to)?)).collect();
    (!all.is_empty()).then(|| median(all))
}

/// `r` are the medians of `passes`.
pub fn render(r: &Results, passes: &[Results]) -> String {
    let mut t = String::new();
    let _ = write!(t, "{:<22}", "median (ns, or as named)");
    for c in COLUMNS {
        let _ = write!(t, "{:>12}{:>8}", c.name(), if c == Column::Native { "" } else { "x" });
    }
    t.push('\n');
    for (row, cells) in r {
        let _ = write!(t, "{row:<24}");
        for c in COLUMNS {
            let v = cells.get(&c).map_or("-".to_owned(), |v| number(*v));
            let x = match c {
                Column::Native => None,
                _ => ratio(passes, (row, c), (row, Column::Native)),
            };
            let x = x.map_or_else(String::new, |x| format!("{x:.2}"));
            let _ = write!(t, "{v:>12}{x:>8}");
        }
        t.push('\n');
    }
    t.push_str("\ntargets for chitin\n");
    for (row, limit) in &TARGETS {
        let to = |row: &str, c| ratio(passes, (row, Column::Chitin), (row, c));
        let (have, max, what) = match limit {
            Limit::Native(x) => (to(row, Column::Native), *x, "x native"),
            Limit::Crun(x) => (to(row, Column::Crun), *x, "x crun"),
            Limit::Of(other, x) => {
                let have = ratio(passes, (row, Column::Chitin), (other, Column::Native));
                (have, *x, "x the bare notification")
            }
            Limit::Value(x) => (r.get(*row).and_then(|m| m.get(&Column::Chitin)).copied(), *x, ""),
        };
        let _ = match have {
            Some(v) => writeln!(
                t,
                "  {row:<20} {v:>8.2} {what} (at most {max}) {}",
                if v <= max { "met" } else { "NOT met" }
            ),
            None => writeln!(t, "  {row:<20}        - {what} (at most {max}) not measured"),
        };
    }
    t
}
