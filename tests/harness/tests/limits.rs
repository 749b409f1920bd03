//! `update` and `events` on containers that run: every flag, JSON, statistics, intervals, and the news that memory ran out;
//! each beside runc, with the same files and the same JSON.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::limited::{Container, LIMIT, View, v1_host};
use chitin_tests::paths;
use serde_json::{Value, json};

const WAITS: &str = "while :; do sleep 1; done";

/// runc first: what it does is what is expected.
fn engines() -> Vec<Engine> {
    [Engine::Runc, Engine::Chitin].into_iter().filter(|e| e.available()).collect()
}

fn launch(engine: Engine, script: &str, resources: Value) -> Container {
    let c = Container::new(engine, View::V1, script, resources);
    c.create();
    c.ok(&["start", &c.id]);
    c
}

#[test]
fn every_flag_of_update_reaches_its_file() {
    if !v1_host("update-flags") {
        return;
    }
    let (mb, gb) = (1u64 << 20, 1u64 << 30);
    let size = |n: u64| n.to_string();
    let steps: [(Vec<&str>, Vec<(&str, String)>); 8] = [
        (vec!["--cpu-share", "333"], vec![("cpu/cpu.shares", "333".into())]),
        (
            vec!["--cpu-period", "200000", "--cpu-quota", "150000"],
            vec![("cpu/cpu.cfs_period_us", "200000".into()), ("cpu/cpu.cfs_quota_us", "150000".into())],
        ),
        (vec!["--cpu-quota", "-1"], vec![("cpu/cpu.cfs_quota_us", "-1".into())]),
        (
            vec!["--cpuset-cpus", "0", "--cpuset-mems", "0"],
            vec![("cpuset/cpuset.cpus", "0".into()), ("cpuset/cpuset.mems", "0".into())],
        ),
        (
            vec!["--memory", "512m", "--memory-swap", "1g", "--memory-reservation", "256m"],
            vec![
                ("memory/memory.limit_in_bytes", size(512 * mb)),
                ("memory/memory.memsw.limit_in_bytes", size(gb)),
                ("memory/memory.soft_limit_in_bytes", size(256 * mb)),
            ],
        ),
        // Above the swap that was: both move, in the right order.
        (
            vec!["--memory", "2g", "--memory-swap", "3g"],
            vec![
                ("memory/memory.limit_in_bytes", size(2 * gb)),
                ("memory/memory.memsw.limit_in_bytes", size(3 * gb)),
            ],
        ),
        (vec!["--pids-limit", "123"], vec![("pids/pids.max", "123".into())]),
        (vec!["--pids-limit", "-1"], vec![("pids/pids.max", "max".into())]),
    ];
    for engine in engines() {
        let c = launch(engine, WAITS, json!({"cpu": {"shares": 100}, "pids": {"limit": 500}}));
        for (flags, files) in &steps {
            c.ok(&[&["update"], flags.as_slice(), &[c.id.as_str()]].concat());
            for (file, expected) in files {
                assert_eq!(&c.read(file), expected, "{}: {flags:?}", engine.name());
            }
        }
        // What was not mentioned stays.
        assert_eq!(c.read("cpu/cpu.shares"), "333", "{}", engine.name());
    }
}

#[test]
fn resources_come_as_json() {
    if !v1_host("update-json") {
        return;
    }
    let text = json!({"cpu": {"shares": 444, "quota": 60_000, "period": 100_000}, "pids": {"limit": 99},
        "memory": {"limit": 300 << 20, "swap": 400 << 20}})
    .to_string();
    let check = |c: &Container| {
        let files =
            ["cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "pids/pids.max", "memory/memory.limit_in_bytes"];
        assert_eq!(files.map(|f| c.read(f)), ["444", "60000", "99", "314572800"], "{}", c.engine.name());
    };
    for engine in engines() {
        let c = launch(engine, WAITS, json!({"pids": {"limit": 500}}));
        // A flag beside it is ignored.
        let o = c.call_with(&["update", "--resources", "-", "--pids-limit", "7", &c.id], text.as_bytes());
        assert_eq!(o.code, Some(0), "{}: {}", engine.name(), o.brief());
        check(&c);
        let c = launch(engine, WAITS, json!({"pids": {"limit": 500}}));
        let file = c.bundle.dir.join("resources.json");
        fs::write(&file, &text).unwrap();
        c.ok(&["update", "-r", &file.to_string_lossy(), &c.id]);
        check(&c);
        for wrong in ["{", r#"{"cpu": {"shares": "many"}}"#] {
            let o = c.call_with(&["update", "-r", "-", &c.id], wrong.as_bytes());
            assert!(o.code.is_some_and(|code| code != 0), "{}: {wrong}: {}", engine.name(), o.brief());
        }
        check(&c);
        if engine == Engine::Chitin {
            // The guest is told of it.
            let o = c.ok(&["exec", &c.id, "sh", "-c", "nproc; grep MemTotal /proc/meminfo"]);
            let words: Vec<String> = o.text().split_whitespace().map(str::to_owned).collect();
            assert_eq!(words, ["1", "MemTotal:", "307200", "kB"], "{}", o.brief());
        }
    }
}

/// Every path in it, with the kind of value found there.
fn shape(at: &str, value: &Value, into: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Object(map) => {
            for (name, inner) in map {
                // Names of the kernel's counters differ with what is charged, and pages sizes with the host.
                let counters = at.ends_with("/raw") || at.ends_with("/hugetlb");
                shape(&format!("{at}/{}", if counters { "*" } else { name }), inner, into);
            }
            "object"
        }
        Value::Array(_) => "array",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    into.insert(at.to_owned(), kind);
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn statistics_have_the_shape_of_runcs() {
    if !v1_host("stats-shape") {
        return;
    }
    let mut shapes = Vec::new();
    for engine in engines() {
        let c = launch(engine, WAITS, json!({"memory": {"limit": 256 << 20}, "pids": {"limit": 100}}));
        let text = c.ok(&["events", "--stats", &c.id]).text();
        let events = lines(&text);
        assert_eq!(events.len(), 1, "{}: {text}", engine.name());
        let mut found = BTreeMap::new();
        shape("", &events[0], &mut found);
        shapes.push((engine, found));
    }
    let [(_, expected), rest @ ..] = shapes.as_slice() else { return };
    for (engine, found) in rest {
        let missing: Vec<_> = expected.iter().filter(|(at, kind)| found.get(*at) != Some(kind)).collect();
        assert!(missing.is_empty(), "{}: runc has {missing:?} beside {found:?}", engine.name());
    }
}

/// `events` in the background, its output in a file.
fn follow(c: &Container, interval: &str) -> (Child, std::path::PathBuf) {
    let out = paths::scratch("events").join("out");
    let mut command = c.command(&["events", "--interval", interval, &c.id]);
    command.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::null());
    (command.spawn().unwrap(), out)
}

fn finish(mut events: Child) {
    let end = Instant::now() + LIMIT;
    while events.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            events.kill().unwrap();
            events.wait().unwrap();
            panic!("events outlives its container");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn statistics_come_at_intervals_until_the_end() {
    if !v1_host("events-interval") {
        return;
    }
    for engine in engines() {
        let c = launch(engine, WAITS, json!({"pids": {"limit": 100}}));
        let (events, out) = follow(&c, "100ms");
        settle(LIMIT, || {
            let seen = lines(&fs::read_to_string(&out).unwrap());
            let stats = seen.iter().filter(|e| e["type"] == "stats" && e["id"] == c.id.as_str()).count();
            if stats >= 3 { Ok(()) } else { Err(format!("{stats} statistics")) }
        })
        .unwrap();
        c.ok(&["delete", "--force", &c.id]);
        finish(events);
        for wrong in ["0s", "x"] {
            let o = c.call(&["events", "--interval", wrong, &c.id]);
            assert!(o.code.is_some_and(|code| code != 0), "{}: {}", engine.name(), o.brief());
        }
    }
}

#[test]
fn memory_that_runs_out_is_told() {
    if !v1_host("events-oom") {
        return;
    }
    let script = "while ! [ -e /dev/shm/go ]; do sleep 0.1; done; \
        awk 'BEGIN { x = \"0123456789abcdef\"; while (length(x) < 200000000) x = x x; print length(x) }'; sleep 1000";
    for engine in engines() {
        let resources = json!({"memory": {"limit": 67_108_864, "swap": 67_108_864}});
        let c = launch(engine, script, resources);
        let (events, out) = follow(&c, "1h");
        // It must watch before there is something to see.
        std::thread::sleep(Duration::from_millis(500));
        c.ok(&["exec", &c.id, "touch", "/dev/shm/go"]);
        settle(LIMIT, || {
            let text = fs::read_to_string(&out).unwrap();
            let found = lines(&text).iter().any(|e| *e == json!({"type": "oom", "id": c.id}));
            if found { Ok(()) } else { Err(format!("no news: {text:?}")) }
        })
        .unwrap_or_else(|e| panic!("{}: {e}", engine.name()));
        c.ok(&["delete", "--force", &c.id]);
        finish(events);
    }
}

#[test]
fn memory_that_runs_out_again_is_told_again() {
    if !v1_host("events-oom-again") {
        return;
    }
    let hog =
        "awk 'BEGIN { x = \"0123456789abcdef\"; while (length(x) < 200000000) x = x x; print length(x) }'";
    let script = format!(
        "for i in 1 2 3; do while ! [ -e /dev/shm/go$i ]; do sleep 0.1; done; {hog}; echo $? >/dev/shm/end$i; done; sleep 1000"
    );
    for engine in engines() {
        let resources = json!({"memory": {"limit": 67_108_864, "swap": 67_108_864}});
        let c = launch(engine, &script, resources);
        let (events, out) = follow(&c, "1h");
        std::thread::sleep(Duration::from_millis(500));
        let mut before = 0;
        for i in 1..=3 {
            c.ok(&["exec", &c.id, "touch", &format!("/dev/shm/go{i}")]);
            settle(LIMIT, || {
                let o = c.call(&["exec", &c.id, "cat", &format!("/dev/shm/end{i}")]);
                if o.text() == "137\n" { Ok(()) } else { Err(o.brief()) }
            })
            .unwrap_or_else(|e| panic!("{} victim {i}: {e}", engine.name()));
            settle(LIMIT, || {
                let text = fs::read_to_string(&out).unwrap();
                let told = lines(&text).iter().filter(|e| **e == json!({"type": "oom", "id": c.id})).count();
                if told <= before {
                    return Err(format!("no news of {i}: {text:?}"));
                }
                before = told;
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{}: {e}", engine.name()));
        }
        // Whoever was not killed goes on.
        assert_eq!(c.ok(&["exec", &c.id, "echo", "here"]).text(), "here\n", "{}", engine.name());
        c.ok(&["delete", "--force", &c.id]);
        finish(events);
    }
}
