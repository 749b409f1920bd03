//! Whole programs: scripts of tests/apps, run by crun and by the engine under test on the same bundle. Those of networks
//! (`net_lib.sh`) have two sides, and run within one container and across a veth pair.

use std::path::Path;
use std::time::Duration;

use crate::bundle::Bundle;
use crate::engine::{Engine, nested};
use crate::expect::Gaps;
use crate::run::Outcome;
use crate::steps::Steps;
use crate::veth::{FAR, NEAR, Pair};
use crate::{paths, skip};

const LIMIT: Duration = Duration::from_secs(300);

/// The scripts that say so do an nth of their work; all of it by wish.
fn part() -> u32 {
    if nested() && std::env::var_os("CHITIN_TEST_ALL").is_none() { 20 } else { 1 }
}

/// Whether only what depends on the platform is asked for: networks over loopback, and none of Python's own tests.
pub fn brief() -> bool {
    std::env::var_os("CHITIN_TEST_BRIEF").is_some() && std::env::var_os("CHITIN_TEST_ALL").is_none()
}

/// For the engine under test: there, ten thousand programs take their time.
fn patience() -> Duration {
    if nested() { 4 * LIMIT } else { LIMIT }
}

fn bundle(rootfs: &str, script: &str, args: &[&str]) -> Bundle {
    let path = format!("/apps/{script}");
    let with = match script.rsplit_once('.').map(|(_, e)| e) {
        Some("py") => "python3",
        Some("pl") => "perl",
        _ => "bash",
    };
    let program = [&[with, path.as_str()], args].concat();
    Bundle::new(script, &paths::rootfs(rootfs), &program)
        .bind(&paths::repo().join("tests/apps"), "/apps", &["ro"])
        .env(&format!("PART={}", part()))
}

/// With what both sides of a network share.
fn networked(rootfs: &str, script: &str, args: &[&str], shared: &Path) -> Bundle {
    // A rate is the machine's as well, which others use while this runs: the whole of it is asked for by wish.
    let rate = if std::env::var_os("CHITIN_TEST_ALL").is_some() { 50_000 } else { 15_000 };
    bundle(rootfs, script, args).env(&format!("RATE={rate}")).bind(&paths::guests(), "/guest", &["ro"]).bind(
        shared,
        "/shared",
        &["rw"],
    )
}

fn first_difference(a: &str, b: &str) -> String {
    for (n, (x, y)) in a.lines().zip(b.lines()).enumerate() {
        if x != y {
            return format!("line {}: crun {x:?}, here {y:?}", n + 1);
        }
    }
    format!("crun gave {} lines, here {}", a.lines().count(), b.lines().count())
}

fn same(want: &Outcome, got: &Outcome) -> Result<(), String> {
    if want.code != got.code {
        return Err(format!("crun's exit code is {:?}, here: {}", want.code, got.brief()));
    }
    if want.stdout != got.stdout {
        return Err(format!("{}; {}", first_difference(&want.text(), &got.text()), got.stderr.trim()));
    }
    Ok(())
}

fn have_crun(script: &str) -> bool {
    let there = Engine::Crun.available();
    if !there {
        skip(script, "crun is not installed (tests/rootfs/packages installs it)");
    }
    there
}

/// What crun says is the measure.
fn reference(bundle: &Bundle) -> Outcome {
    let want = Engine::Crun.run(bundle, b"", LIMIT);
    assert_eq!(want.code, Some(0), "under crun itself: {}", want.brief());
    assert!(!want.stdout.is_empty(), "crun printed nothing: {}", want.brief());
    want
}

fn judge(expect: &str, test: &str, want: &Outcome, got: &Outcome) {
    let engine = Engine::under_test().name();
    if let Some(complaint) = Gaps::load(expect, engine).judge(test, same(want, got)) {
        panic!("{complaint}");
    }
    let ratio = got.elapsed.as_secs_f64() / want.elapsed.as_secs_f64();
    println!("{test}: crun {:.2?}, {engine} {:.2?} ({ratio:.2}x)", want.elapsed, got.elapsed);
}

/// Fails unless the script gives the same output and exit code under both; known gaps are in `expect`.
pub fn compare(rootfs: &str, script: &str, expect: &str) {
    compare_with(rootfs, script, &[], expect);
}

/// The same with arguments.
pub fn compare_with(rootfs: &str, script: &str, args: &[&str], expect: &str) {
    if have_crun(script) {
        let want = reference(&bundle(rootfs, script, args));
        let got = Engine::under_test().run(&bundle(rootfs, script, args), b"", patience());
        judge(expect, script, &want, &got);
    }
}

/// For a script that takes no end under crun: here it must come to one, and to a good one.
pub fn succeeds(rootfs: &str, script: &str, args: &[&str]) {
    let got = Engine::under_test().run(&bundle(rootfs, script, args), b"", patience());
    assert_eq!(got.code, Some(0), "{}", got.brief());
}

/// [`compare`] for a script with two sides: both in one container; its server under crun at the other end of a veth pair; its
/// clients under crun there.
pub fn compare_networked(rootfs: &str, script: &str, expect: &str) {
    if !have_crun(script) {
        return;
    }
    let shared = paths::scratch("shared");
    let alone = networked(rootfs, script, &[], &shared);
    let mut want = reference(&alone);
    judge(expect, script, &want, &Engine::under_test().run(&alone, b"", patience()));
    if brief() {
        return;
    }
    // What is said over loopback only comes last.
    if let Some(at) = want.text().find("== alone") {
        want.stdout.truncate(at);
    }
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let engine = Engine::under_test();
    let near = (Engine::Crun, pair.near.as_str(), NEAR);
    let far = (engine, pair.far.as_str(), FAR);
    for (way, server, client) in [("in", far, near), ("out", near, far)] {
        let shared = paths::scratch("shared");
        let side =
            |args: &[&str], namespace| pair.inside(networked(rootfs, script, args, &shared), namespace);
        let mut serves = Steps::new(side(&["serve"], server.1));
        serves.engine = server.0;
        serves.launch();
        let got = client.0.run(&side(&["use", server.2], client.1), b"", patience());
        judge(expect, &format!("{script} {way}"), &want, &got);
    }
}
