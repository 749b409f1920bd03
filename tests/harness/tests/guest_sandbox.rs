//! The guest programs in the sandbox. Known gaps are in `../expect/guest.toml`, named `program.check`.
//! `CHITIN_TEST_ENGINE=crun` runs the same under crun, which proves bundles and harness.

mod programs;

use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, nested};
use chitin_tests::expect::Gaps;
use chitin_tests::{paths, skip, tap};

fn check(program: &str) {
    let engine = Engine::under_test();
    // Dynamic programs need a C library of their own.
    let root = if program.ends_with(".dyn") { "bookworm" } else { "busybox" };
    let path = format!("/guest/{program}");
    let b = Bundle::new(program, &paths::rootfs(root), &[&path])
        .bind(&paths::guests(), "/guest", &["ro"])
        .tmpfs("/tmp");
    let b = if matches!(program, "mounts" | "ns" | "userns" | "timens" | "seccomp" | "cgroup2" | "mqueue") {
        b.capability("CAP_SYS_ADMIN")
    } else {
        b
    };
    let b = if program == "timens" { b.capability("CAP_SYS_TIME") } else { b };
    // Natively and under crun the hostile program spares what would hurt the host; our own kernel gets everything.
    let b = if engine == Engine::Chitin { b.env("T_ALL=1") } else { b };
    // Ten thousand of anything take their time there.
    let (b, limit) = if nested() { (b.env("T_ALARM=60"), 300) } else { (b, 150) };
    let out = engine.run(&b, b"", Duration::from_secs(limit));
    let gaps = Gaps::load("guest.toml", engine.name());
    let mut bad = Vec::new();
    for (name, r) in
        tap::read(&out.text(), &programs::checks(program), &format!("no result; {}", out.brief()))
    {
        let name = format!("{program}.{name}");
        let r = match r {
            tap::Check::Pass => Ok(()),
            // Natively that depends on who runs it; here the bundle gives what is needed.
            tap::Check::Skip(why) if why == "needs root" => Err("the bundle gives it too little".into()),
            tap::Check::Skip(why) => {
                skip(&format!("{} {name}", engine.name()), &why);
                continue;
            }
            tap::Check::Fail(why) => Err(why),
        };
        bad.extend(gaps.judge(&name, r));
    }
    assert!(bad.is_empty(), "under {}:\n{}", engine.name(), bad.join("\n"));
}

programs::each!(check);
