//! The guest programs on the host itself: what fails here says nothing about the sandbox.

mod programs;

use std::process::Command;
use std::time::Duration;

use chitin_tests::{paths, run, skip, tap};

fn check(program: &str) {
    let dir = paths::scratch(program);
    let mut c = Command::new(paths::guests().join(program));
    if program.starts_with("inet") {
        // Ports and settings of a network of its own, as the sandbox has it.
        c = Command::new("unshare");
        c.args(["-n", "sh", "-c", "ip link set lo up && exec \"$0\""]).arg(paths::guests().join(program));
    }
    c.env("T_TMP", &dir);
    let out = run::run(c, b"", &dir, Duration::from_secs(180));
    let results = tap::read(&out.text(), &programs::checks(program), &out.brief());
    let mut bad = Vec::new();
    for (name, r) in results {
        match r {
            tap::Check::Pass => {}
            tap::Check::Skip(why) => skip(&format!("native {program}.{name}"), &why),
            tap::Check::Fail(why) => bad.push(format!("{program}.{name}: {why}")),
        }
    }
    assert!(bad.is_empty(), "on the host itself:\n{}", bad.join("\n"));
}

programs::each!(check);

#[test]
fn every_source_is_listed() {
    let mut missing = Vec::new();
    for e in std::fs::read_dir(paths::repo().join("tests/guest")).expect("guest sources").flatten() {
        let n = e.file_name().to_string_lossy().into_owned();
        if let Some(n) = n.strip_suffix(".c")
            && n != "interp"
            && !programs::ALL.contains(&n)
        {
            missing.push(n.to_owned());
        }
    }
    assert!(missing.is_empty(), "add to tests/programs/mod.rs: {missing:?}");
}
