//! Storms of forks, execs, signals, stops and threads, over and over: none may hang or fail. `CHITIN_TEST_STORMS` says how
//! often (200 before a platform is called done); what a run that hangs waits for is told by `chitin_tests::stuck`.

use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::paths;
use chitin_tests::run::Patience;

#[test]
fn storms_pass() {
    let count = std::env::var("CHITIN_TEST_STORMS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let engine = Engine::under_test();
    let mut bad = Vec::new();
    for run in 0..count {
        for program in ["storm", "threads"] {
            let b = Bundle::new("storms", &paths::rootfs("busybox"), &[&format!("/guest/{program}")])
                .bind(&paths::guests(), "/guest", &["ro"])
                .tmpfs("/tmp")
                .env("T_ALL=1")
                .env("T_ALARM=120");
            // What hangs does so for ever; what is slow, on a machine that is busy, does not count. Each check says that it
            // has passed; one that is about to be ended by its alarm is asked about before.
            let quiet = Some(Duration::from_secs(90));
            let out = engine.run(&b, b"", Patience { limit: Duration::from_secs(900), quiet });
            let text = out.text();
            if out.code != Some(0) || text.lines().any(|l| l.starts_with("not ok")) {
                let failed: Vec<_> = text.lines().filter(|l| l.starts_with("not ok")).collect();
                bad.push(format!("run {run} of {program}: {failed:?}; {}", out.brief()));
            }
        }
    }
    assert!(bad.is_empty(), "{} of {count} rounds:\n{}", bad.len(), bad.join("\n"));
}
