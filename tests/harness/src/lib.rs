//! What the integration tests in `tests/` share: where things are, bundles, engines, bounded runs, known gaps, skips.
//!
//! A test never says anything about `chitin` alone: the same guest program or bundle passes natively or under `crun`
//! first. Neighbours: `../guest` (C programs), `../rootfs` (root file systems), `../apps` (application scripts),
//! `../expect` (known gaps). Invariant: only processes started here are ever killed, by process group.

pub mod apps;
pub mod bundle;
pub mod engine;
pub mod engines;
pub mod expect;
pub mod leftovers;
pub mod limited;
pub mod paths;
pub mod rng;
pub mod run;
pub mod shown;
pub mod steps;
pub mod stuck;
pub mod tap;
pub mod veth;

use std::io::Write;

/// Says loudly that a test could not run here. Goes past libtest's capture, and into the list printed at the end.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIP: {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    let log = paths::cache().join("skips");
    if let Ok(mut f) = std::fs::OpenOptions::new().append(true).create(true).open(log) {
        let _ = f.write_all(line.as_bytes());
    }
}
