//! Whole Debian programs: the same bundle gives the same output and exit code under crun and under chitin.

use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::expect::Gaps;
use chitin_tests::run::Outcome;
use chitin_tests::{paths, skip};

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

fn compare(script: &str) {
    if !Engine::Crun.available() {
        skip(script, "crun is not installed (tests/rootfs/packages installs it)");
        return;
    }
    let want = Engine::Crun.run(&bundle(script), b"", Duration::from_secs(240));
    assert_eq!(want.code, Some(0), "under crun itself: {}", want.brief());
    assert!(!want.stdout.is_empty(), "crun printed nothing: {}", want.brief());
    let engine = Engine::under_test();
    let got = engine.run(&bundle(script), b"", Duration::from_secs(300));
    let gaps = Gaps::load("applications.toml", engine.name());
    if let Some(complaint) = gaps.judge(script, same(&want, &got)) {
        panic!("{complaint}");
    }
    let ratio = got.elapsed.as_secs_f64() / want.elapsed.as_secs_f64();
    println!("{script}: crun {:.2?}, {} {:.2?} ({ratio:.2}x)", want.elapsed, engine.name(), got.elapsed);
}

#[test]
fn find_whole_tree() {
    compare("find_all.sh");
}
#[test]
fn tar_and_xz() {
    compare("tar_xz.sh");
}
#[test]
fn git_200_commits() {
    compare("git.sh");
}
#[test]
fn make_50_files() {
    compare("make.sh");
}
#[test]
fn perl_200_workers() {
    compare("perl.pl");
}
#[test]
fn python_200_workers() {
    compare("python.py");
}
#[test]
fn sqlite_wal() {
    compare("sqlite.sh");
}
#[test]
fn bash_job_control() {
    compare("job_control.py");
}
#[test]
fn ten_thousand_execs() {
    compare("forks.sh");
}
