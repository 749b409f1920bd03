//! Small random syscall programs, on the host's Linux and in the sandbox: values, errnos, bytes and final state agree.
//! `CHITIN_TEST_SEED` picks other programs; a difference names the program, which `interp` replays from its lines.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::rng::{Rng, seed};
use chitin_tests::{paths, run};

const PROGRAMS: u64 = 150;
const STEPS: u64 = 70;

/// Each operation of `interp.c` with a weight; the family starts from files and names, then pipes, maps and signals.
const OPS: [(u64, u64); 45] = {
    let mut t = [(0, 2); 45];
    let mut i = 0;
    while i < 45 {
        t[i].0 = i as u64;
        i += 1;
    }
    t[0].1 = 10; // open
    t[3].1 = 6; // write
    t[2].1 = 5; // read
    t[5].1 = 4; // pwrite
    t[20].1 = 3; // pipe
    t[43].1 = 1; // chdir
    t[44].1 = 1; // fork
    t
};

fn program(id: u64, rng: &mut Rng) -> String {
    let total: u64 = OPS.iter().map(|o| o.1).sum();
    let mut text = format!("program {id}\n");
    for _ in 0..STEPS {
        let mut at = rng.below(total);
        let op = OPS.iter().find(|o| {
            let hit = at < o.1;
            at = at.saturating_sub(o.1);
            hit
        });
        let op = op.expect("weights add up").0;
        // Small numbers meet each other (slots, names); large ones reach sizes and offsets.
        let mut arg = |small: u64| if rng.below(3) == 0 { rng.below(9000) } else { rng.below(small) };
        let _ = writeln!(text, "{op} {} {} {} {}", arg(8), arg(12), arg(600), arg(300));
    }
    text
}

fn split(out: &str) -> Vec<&str> {
    out.split("program ").skip(1).collect()
}

#[test]
fn random_programs_agree() {
    let (seed, mut script) = (seed(), String::new());
    let mut rng = Rng::new(seed);
    for id in 0..PROGRAMS {
        script += &program(id, &mut rng);
    }
    let dir = paths::scratch("differential");
    let host = run::run(
        Command::new(paths::guests().join("interp")),
        script.as_bytes(),
        &dir,
        Duration::from_secs(60),
    );
    assert_eq!(host.code, Some(0), "on the host: {}", host.brief());
    let host_text = host.text();
    let want = split(&host_text);
    assert_eq!(want.len() as u64, PROGRAMS, "the host ran every program");
    let b = Bundle::new("differential", &paths::rootfs("busybox"), &["/guest/interp"]).bind(
        &paths::guests(),
        "/guest",
        &["ro"],
    );
    let got = Engine::under_test().run(&b, script.as_bytes(), Duration::from_secs(300));
    let got_text = got.text();
    let have = split(&got_text);
    let mut bad = Vec::new();
    for (i, w) in want.iter().enumerate() {
        let h = have.get(i).copied().unwrap_or("");
        if let Some((n, (x, y))) = w
            .lines()
            .zip(h.lines().chain(std::iter::repeat("(nothing)")))
            .enumerate()
            .find(|(_, (x, y))| x != y)
        {
            let id = i as u64;
            let source =
                script.split("program ").nth(i + 1).and_then(|p| p.lines().nth(n)).unwrap_or("(end)");
            bad.push(format!("program {id} step {source:?}: host {x:?}, here {y:?}"));
        }
    }
    let n = bad.len();
    bad.truncate(25);
    assert!(
        n == 0,
        "seed {seed}: {n} of {PROGRAMS} programs differ:\n{}\n{}",
        bad.join("\n"),
        if have.len() < want.len() { got.brief() } else { String::new() }
    );
}
