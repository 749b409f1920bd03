//! Cgroups as engines look at them: the same files and values as with runc and crun, everything inside from the first
//! instruction, statistics, limits that change, limits that hold, and nothing left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::limited::{Container, LIMIT, View, v1_host};
use chitin_tests::skip;
use serde_json::{Value, json};

fn others() -> Vec<Engine> {
    [Engine::Runc, Engine::Crun].into_iter().filter(|e| e.available()).collect()
}

#[test]
fn the_files_are_those_of_runc_and_crun() {
    if !v1_host("files") {
        return;
    }
    let resources = json!({
        "memory": {"limit": 134_217_728, "swap": 268_435_456, "reservation": 67_108_864, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 77},
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
    });
    let expected: BTreeMap<&str, &str> = [
        ("memory/memory.limit_in_bytes", "134217728"),
        ("memory/memory.memsw.limit_in_bytes", "268435456"),
        ("memory/memory.soft_limit_in_bytes", "67108864"),
        ("memory/memory.swappiness", "10"),
        ("cpu/cpu.shares", "512"),
        ("cpu/cpu.cfs_quota_us", "50000"),
        ("cpu/cpu.cfs_period_us", "100000"),
        ("cpuset/cpuset.cpus", "0"),
        ("cpuset/cpuset.mems", "0"),
        ("pids/pids.max", "77"),
    ]
    .into();
    for engine in others().into_iter().chain([Engine::Chitin]) {
        let c = Container::new(engine, View::V1, "sleep 100", resources.clone());
        c.create();
        let found: BTreeMap<&str, String> = expected.keys().map(|file| (*file, c.read(file))).collect();
        let found: BTreeMap<&str, &str> = found.iter().map(|(f, v)| (*f, v.as_str())).collect();
        assert_eq!(found, expected, "{}", engine.name());
        let devices = c.read("devices/devices.list");
        for rule in ["c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 5:0 rwm", "c 136:* rwm"] {
            assert!(devices.lines().any(|l| l == rule), "{}: no {rule} in {devices:?}", engine.name());
        }
        assert!(!devices.contains("a *:*"), "{}: {devices}", engine.name());
        c.ok(&["delete", "--force", &c.id]);
        assert_eq!(c.left(), Vec::<PathBuf>::new(), "{}", engine.name());
    }
}

#[test]
fn v2_has_the_same_files_too() {
    // Of hybrid hosts' v2 tree, often only the controller for huge pages is left.
    let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if !controllers.contains("hugetlb") {
        skip("v2", "no v2 hierarchy with a controller to test with");
        return;
    }
    let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
    for engine in others().into_iter().chain([Engine::Chitin]) {
        let c = Container::new(engine, View::V2, "sleep 100", resources.clone());
        c.create();
        assert_eq!(c.read("unified/hugetlb.2MB.max"), "4194304", "{}", engine.name());
        let pid = c.pid().to_string();
        assert!(c.read("unified/cgroup.procs").lines().any(|l| l == pid), "{}", engine.name());
        c.ok(&["delete", "--force", &c.id]);
        assert_eq!(c.left(), Vec::<PathBuf>::new(), "{}", engine.name());
    }
}

#[test]
fn everything_is_inside_from_the_start() {
    if !v1_host("inside") {
        return;
    }
    let c = Container::new(Engine::Chitin, View::Whole, "sleep 100 & sleep 100", json!({}));
    c.create();
    let inside = || c.read("pids/cgroup.procs").lines().map(str::to_owned).collect::<Vec<_>>();
    // The sentry (or what stands for the container), the gofer and init.
    let created = inside();
    assert!(created.len() >= 2 && created.contains(&c.pid().to_string()), "{created:?}");
    c.ok(&["start", &c.id]);
    settle(LIMIT, || match inside().len() {
        // The shell becomes its last command.
        n if n > created.len() => Ok(()),
        n => Err(format!("{n} processes after {}", created.len())),
    })
    .unwrap();
    for pid in inside() {
        let of = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if !inside().contains(&pid) {
            // Ended meanwhile, as an execve's old process does; the dead are shown in the root.
            continue;
        }
        for line in of.lines() {
            assert!(line.ends_with(&format!(":/{}", c.cgroup)), "{pid}: {line}");
        }
    }
    // What was made below, as a nested manager would.
    fs::create_dir(c.directory("pids").join("nested")).unwrap();
    c.ok(&["delete", "--force", &c.id]);
    assert_eq!(c.left(), Vec::<PathBuf>::new());
}

#[test]
fn statistics_and_updates() {
    if !v1_host("update") {
        return;
    }
    let busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100";
    let c = Container::new(Engine::Chitin, View::Whole, busy, json!({"pids": {"limit": 500}}));
    c.create();
    c.ok(&["start", &c.id]);
    let stats = || {
        let o = c.ok(&["events", "--stats", &c.id]);
        serde_json::from_slice::<Value>(&o.stdout).unwrap_or_else(|e| panic!("{e}: {}", o.text()))
    };
    let number = |event: &Value, at: &str| event.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    settle(LIMIT, || match number(&stats(), "/data/cpu/usage/total") {
        n if n > 1_000_000 => Ok(()),
        n => Err(format!("{n} ns of CPU time")),
    })
    .unwrap();
    let event = stats();
    assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some(c.id.as_str())));
    assert_eq!(number(&event, "/data/pids/limit"), 500);
    assert!(number(&event, "/data/pids/current") >= 3, "{event}");
    assert!(number(&event, "/data/memory/usage/usage") > 1 << 20, "{event}");
    assert!(event.pointer("/data/memory/raw/rss").is_some(), "{event}");

    c.ok(&["update", "--pids-limit", "400", "--memory", "256M", "--cpu-share", "300", &c.id]);
    let files = ["pids/pids.max", "memory/memory.limit_in_bytes", "cpu/cpu.shares"];
    assert_eq!(files.map(|f| c.read(f)), ["400", "268435456", "300"]);
    let o = c.call(&["update", "--cpuset-cpus", "4000", &c.id]);
    assert_ne!(o.code, Some(0));
    assert!(
        o.stderr.contains("linux.resources.cpu.cpus") && o.stderr.contains("cpuset.cpus"),
        "{}",
        o.brief()
    );
}

#[test]
fn what_cannot_be_limited_is_refused() {
    if !v1_host("refused") {
        return;
    }
    let refused = |resources: Value, says: &[&str]| {
        let c = Container::new(Engine::Chitin, View::Whole, "true", resources);
        let o = c.try_create();
        assert_ne!(o.code, Some(0), "{says:?}");
        for text in says {
            assert!(o.stderr.contains(text), "no {text:?} in {}", o.brief());
        }
        assert_eq!(c.left(), Vec::<PathBuf>::new());
    };
    if !Path::new("/sys/fs/cgroup/net_cls").exists() {
        refused(json!({"network": {"classID": 7}}), &["linux.resources.network.classID", "net_cls"]);
    }
    refused(json!({"unified": {"memory.high": "1"}}), &["linux.resources.unified", "v1"]);
    refused(
        json!({"cpu": {"cpus": "4000"}}),
        &["linux.resources.cpu.cpus", "/cpuset.cpus", "kernel takes no such value"],
    );
    refused(json!({"memory": {"swappiness": 101}}), &["linux.resources.memory.swappiness", "0 to 100"]);
    // Somebody else's cgroup.
    let c = Container::new(Engine::Chitin, View::Whole, "true", json!({}));
    let mut other = Command::new("sleep").arg("100").spawn().unwrap();
    for hierarchy in ["pids", "unified"] {
        fs::create_dir_all(c.directory(hierarchy)).unwrap();
        fs::write(c.directory(hierarchy).join("cgroup.procs"), other.id().to_string()).unwrap();
    }
    let o = c.try_create();
    let alive = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    for hierarchy in ["pids", "unified"] {
        settle(LIMIT, || fs::remove_dir(c.directory(hierarchy)).map_err(|e| e.to_string())).unwrap();
    }
    assert!(o.code != Some(0) && o.stderr.contains("container's cgroup is not empty"), "{}", o.brief());
    assert!(alive, "it was nobody's to kill");
}

#[test]
fn without_systemd_its_driver_says_so() {
    if Path::new("/run/systemd/system").is_dir() {
        skip("systemd", "systemd is running here");
        return;
    }
    let mut c = Container::new(Engine::Chitin, View::Whole, "true", json!({}));
    c.bundle = c.bundle.clone().set("/linux/cgroupsPath", json!("system.slice:chitin:x"));
    c.bundle.write();
    let b = c.bundle.dir.to_string_lossy().into_owned();
    let o = c.call(&["--systemd-cgroup", "create", "--bundle", &b, &c.id]);
    assert_ne!(o.code, Some(0));
    assert!(o.stderr.contains("systemd not running on this host"), "{}", o.brief());
}

#[test]
fn the_guest_sees_its_limits() {
    if !v1_host("seen") {
        return;
    }
    let resources = json!({"cpu": {"quota": 50_000, "period": 100_000}, "pids": {"limit": 77},
        "memory": {"limit": 67_108_864}});
    let script = "nproc; cd /sys/fs/cgroup; cat cpu.max pids.max memory.max cgroup.type; cat /proc/self/cgroup; \
        grep MemTotal /proc/meminfo; mkdir x 2>/dev/null || echo read-only";
    let mut c = Container::new(Engine::Chitin, View::Whole, script, resources);
    let mounts = c.bundle.config["mounts"].as_array_mut().expect("mounts");
    mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    c.bundle.write();
    let b = c.bundle.dir.to_string_lossy().into_owned();
    let o = c.ok(&["run", "--bundle", &b, &c.id]);
    let want = "1\n50000 100000\n77\n67108864\ndomain\n0::/\nMemTotal:          65536 kB\nread-only\n";
    assert_eq!(o.text(), want, "{}", o.brief());
}

#[test]
fn out_of_memory_kills_a_process_and_not_the_sandbox() {
    if !v1_host("oom") {
        return;
    }
    // Swap would only delay it.
    let resources = json!({"memory": {"limit": 67_108_864, "swap": 67_108_864}});
    let script = "awk 'BEGIN { x = \"0123456789abcdef\"; while (length(x) < 200000000) x = x x; print length(x) }'; echo survived $?";
    let c = Container::new(Engine::Chitin, View::Whole, script, resources);
    let b = c.bundle.dir.to_string_lossy().into_owned();
    let o = c.call(&["run", "--bundle", &b, &c.id]);
    assert!(o.text().contains("survived 137"), "{}", o.brief());
}
