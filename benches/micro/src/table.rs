//! The printed table: medians, ratios to native, and the targets that are asked of chitin.

use crate::{COLUMNS, Column, Results};
use std::fmt::Write;

/// Row, what it is compared with, the highest allowed ratio (or value).
const TARGETS: [(&str, Limit); 9] = [
    ("getppid", Limit::Of("notify_sync", 1.5)),
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

pub fn render(r: &Results) -> String {
    let mut t = String::new();
    let _ = write!(t, "{:<22}", "median (ns, or as named)");
    for c in COLUMNS {
        let _ = write!(t, "{:>12}{:>8}", c.name(), if c == Column::Native { "" } else { "x" });
    }
    t.push('\n');
    for (row, cells) in r {
        let _ = write!(t, "{row:<24}");
        let native = cells.get(&Column::Native);
        for c in COLUMNS {
            let v = cells.get(&c).map_or("-".to_owned(), |v| number(*v));
            let x = match (c, native, cells.get(&c)) {
                (Column::Native, ..) => String::new(),
                (_, Some(n), Some(v)) => format!("{:.2}", v / n),
                _ => String::new(),
            };
            let _ = write!(t, "{v:>12}{x:>8}");
        }
        t.push('\n');
    }
    t.push_str("\ntargets for chitin\n");
    for (row, limit) in &TARGETS {
        let get = |row: &str, c| r.get(row).and_then(|m| m.get(&c)).copied();
        let mine = get(row, Column::Chitin);
        let (have, max, what) = match limit {
            Limit::Native(x) => (mine.zip(get(row, Column::Native)).map(|(a, b)| a / b), *x, "x native"),
            Limit::Crun(x) => (mine.zip(get(row, Column::Crun)).map(|(a, b)| a / b), *x, "x crun"),
            Limit::Of(other, x) => {
                (mine.zip(get(other, Column::Native)).map(|(a, b)| a / b), *x, "x the bare notification")
            }
            Limit::Value(x) => (mine, *x, ""),
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
