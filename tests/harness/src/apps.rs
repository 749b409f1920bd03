//! Whole programs: scripts of tests/apps, run by crun and by the engine under test on the same bundle.

use std::time::Duration;

use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::expect::Gaps;
use crate::run::Outcome;
use crate::{paths, skip};

fn bundle(script: &str) -> Bundle {
    let path = format!("/apps/{script}");
    let with = match script.rsplit_once('.').map(|(_, e)| e) {
        Some("py") => "python3",
        Some("pl") => "perl",
        _ => "bash",
    };
    Bundle::new(script, &paths::rootfs("bookworm"), &[with, &path]).bind(
        &paths::repo().join("tests/apps"),
        "/apps",
        &["ro"],
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

/// Fails unless the script gives the same output and exit code under both; known gaps are in `expect`.
pub fn compare(script: &str, expect: &str) {
    if !Engine::Crun.available() {
        skip(script, "crun is not installed (tests/rootfs/packages installs it)");
        return;
    }
    let want = Engine::Crun.run(&bundle(script), b"", Duration::from_secs(240));
    assert_eq!(want.code, Some(0), "under crun itself: {}", want.brief());
    assert!(!want.stdout.is_empty(), "crun printed nothing: {}", want.brief());
    let engine = Engine::under_test();
    // Where each exit of a nested virtual machine takes a tenth of a millisecond, ten thousand programs take their time.
    let kvm = std::env::var("CHITIN_TEST_PLATFORM").is_ok_and(|p| p == "kvm");
    let got = engine.run(&bundle(script), b"", Duration::from_secs(if kvm { 900 } else { 300 }));
    let gaps = Gaps::load(expect, engine.name());
    if let Some(complaint) = gaps.judge(script, same(&want, &got)) {
        panic!("{complaint}");
    }
    let ratio = got.elapsed.as_secs_f64() / want.elapsed.as_secs_f64();
    println!("{script}: crun {:.2?}, {} {:.2?} ({ratio:.2}x)", want.elapsed, engine.name(), got.elapsed);
}
