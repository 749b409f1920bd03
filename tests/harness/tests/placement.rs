//! Where a container's processes run, and what becomes its own of the host's: scheduling policy, CPUs of `exec`, memory nodes,
//! network interfaces. Debian's runc and crun are older than these fields, so other engines only say so; what the guest
//! programs do with the same calls is proven on Linux itself (`../../guest/process.c`).

use std::process::Command;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::leftovers::descendants;
use chitin_tests::run::{self, Outcome};
use chitin_tests::steps::{LIMIT, Steps};
use chitin_tests::veth::{Pair, sh};
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

fn busybox(script: &str) -> Bundle {
    Bundle::new("placement", &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
}

fn ours(test: &str) -> bool {
    let ours = Engine::under_test() == Engine::Chitin;
    if !ours {
        skip(test, "Debian's runc and crun do not have the field");
    }
    ours
}

fn run(b: &Bundle) -> Outcome {
    Engine::under_test().run(b, b"", LIMIT)
}

/// Refused in one line that names the field.
fn refused(b: &Bundle, field: &str) {
    let o = run(b);
    assert!(o.code.is_some_and(|c| c != 0) && o.stdout.is_empty(), "{}", o.brief());
    assert!(o.stderr.contains(field), "{field} is not named: {}", o.brief());
}

#[test]
fn the_scheduler_reads_back() {
    if !ours("process.scheduler") {
        return;
    }
    // Field 41 of stat, and the nice value.
    let script = "awk '{ print $41, $19 }' /proc/self/stat";
    for (scheduler, want) in [
        (json!({"policy": "SCHED_OTHER", "nice": 4}), "0 4\n"),
        (json!({"policy": "SCHED_BATCH", "nice": 1}), "3 1\n"),
        (json!({"policy": "SCHED_IDLE"}), "5 0\n"),
        (json!({"policy": "SCHED_BATCH", "flags": ["SCHED_RESET_ON_FORK"]}), "3 0\n"),
    ] {
        let o = run(&busybox(script).set("/process/scheduler", scheduler.clone()));
        assert_eq!(o.text(), want, "{scheduler}: {}", o.brief());
    }
    for (scheduler, field) in [
        (json!({"policy": "SCHED_FIFO", "priority": 10}), "process.scheduler.policy"),
        (json!({"policy": "SCHED_OTHER", "priority": 1}), "process.scheduler.priority"),
        (json!({"policy": "SCHED_OTHER", "runtime": 1000}), "process.scheduler.runtime"),
        (json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice"),
    ] {
        refused(&busybox("echo ran").set("/process/scheduler", scheduler), field);
    }
}

#[test]
fn exec_runs_on_the_named_cpus() {
    if !ours("process.execCPUAffinity") {
        return;
    }
    let b = busybox("while :; do sleep 1; done").set("/process/execCPUAffinity", json!({"final": "0"}));
    let s = Steps::new(b);
    s.launch();
    let mask = |o: Outcome| {
        assert_eq!(o.code, Some(0), "{}", o.brief());
        o.text().split_whitespace().last().unwrap_or_default().to_owned()
    };
    let all = mask(s.exec(&[], &["taskset", "-p", "1"]));
    assert_eq!(mask(s.exec(&[], &["sh", "-c", "taskset -p $$"])), "1", "as config.json says");
    if all == "1" {
        return skip("exec_runs_on_the_named_cpus", "one CPU has no other choice");
    }
    // The process's own counts, and what it starts stays there; init is where it was.
    let process = |affinity: Value| {
        let file = s.root.join("process.json");
        let args = ["sh", "-c", "sh -c 'taskset -p $$'; exit $?"];
        let env = ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"];
        let text = json!({"args": args, "cwd": "/", "env": env, "user": {"uid": 0, "gid": 0}, "execCPUAffinity": affinity});
        std::fs::write(&file, text.to_string()).unwrap();
        s.call(&["exec", "--process", &file.to_string_lossy(), &s.id])
    };
    assert_eq!(mask(process(json!({"initial": "0", "final": "1"}))), "2");
    assert_eq!(mask(process(json!({"initial": "1"}))), "2");
    assert_eq!(mask(s.exec(&[], &["taskset", "-p", "1"])), all);
    for (affinity, why) in
        [(json!({"final": "4000"}), "execCPUAffinity"), (json!({"final": "1-0"}), "execCPUAffinity")]
    {
        let o = process(affinity);
        assert!(o.code == Some(255) && o.stderr.contains(why), "{}", o.brief());
    }
}

#[test]
fn memory_comes_from_the_named_nodes() {
    if !ours("linux.memoryPolicy") {
        return;
    }
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return skip("memory_comes_from_the_named_nodes", "this kernel has no NUMA");
    }
    let s = Steps::new(
        busybox("while :; do sleep 1; done")
            .set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"})),
    );
    s.launch();
    let pid = i32::try_from(s.state()["pid"].as_i64().expect("a pid")).expect("a pid");
    // The guest's memory is that of the sentry's children (on kvm the sentry's own).
    let policy = |pid: i32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap_or_default();
        maps.lines().filter(|l| l.contains(" anon=")).map(|l| l.contains(" bind:0 ")).collect::<Vec<_>>()
    };
    let of_all: Vec<bool> = descendants(pid).into_iter().chain([pid]).flat_map(policy).collect();
    assert!(!of_all.is_empty() && of_all.iter().all(|bound| *bound), "{of_all:?}");
    let with = |policy: Value| busybox("echo ran").set("/linux/memoryPolicy", policy);
    refused(&with(json!({"mode": "MPOL_BIND"})), "linux.memoryPolicy.nodes");
    refused(&with(json!({"mode": "MPOL_BIND", "nodes": "0-"})), "linux.memoryPolicy.nodes");
    refused(&with(json!({"mode": "MPOL_BIND", "nodes": "1023"})), "linux.memoryPolicy");
}

/// The runtime in the namespace of the pair's far end, whose interface it is to hand over.
fn run_at_far_end(pair: &Pair, b: &Bundle) -> Outcome {
    b.write();
    let (id, dir) = (unique_id(), b.dir.to_string_lossy().into_owned());
    let inner =
        Engine::under_test().command(&state_root("placement"), Some(b), &["run", "--bundle", &dir, &id]);
    let mut c = Command::new("ip");
    c.args(["netns", "exec", &pair.far]).arg(inner.get_program()).args(inner.get_args());
    c.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    run::quick(c, LIMIT)
}

#[test]
fn interfaces_become_the_containers() {
    if !ours("linux.netDevices") {
        return;
    }
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let bundle = |script: &str, devices: Value| {
        busybox(script).capability("CAP_NET_RAW").set("/linux/netDevices", devices)
    };
    // What is wrong leaves the interface where it is, up and with its addresses.
    for (devices, field) in [
        (json!({"eth7": {}}), "eth7"),
        (json!({"eth0": {"name": "a/b"}}), "eth0"),
        (json!({"eth0": {"name": "lo"}}), "eth0"),
    ] {
        let o = run_at_far_end(&pair, &bundle("echo ran", devices));
        assert!(o.code.is_some_and(|c| c != 0) && o.stdout.is_empty(), "{}", o.brief());
        assert!(o.stderr.contains("linux.netDevices") && o.stderr.contains(field), "{}", o.brief());
    }
    let mut without = bundle("echo ran", json!({"eth0": {}}));
    without.config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|n| n["type"] != "network");
    let o = run_at_far_end(&pair, &without);
    assert!(
        o.code != Some(0) && o.stderr.contains("linux.netDevices: need a network namespace"),
        "{}",
        o.brief()
    );
    let there = sh(&format!("ip -n {} -o addr show dev eth0 up", pair.far)).text();
    assert!(there.contains("10.77.0.2/24"), "{there}");

    let script = "ip -o addr show dev net9; ip link show eth0 2>/dev/null && echo eth0 is there; \
                  ping -c 1 -W 5 10.77.0.1 >/dev/null && echo reached";
    let o = run_at_far_end(&pair, &bundle(script, json!({"eth0": {"name": "net9"}})));
    for want in ["inet 10.77.0.2/24", "inet6 fd77::2/64", "\nreached\n"] {
        assert!(o.text().contains(want), "{want}: {}", o.brief());
    }
    assert!(!o.text().contains("eth0 is there"), "{}", o.brief());
    let left = sh(&format!("ip -n {} -o link", pair.far)).text();
    assert!(!left.contains("eth0"), "it has gone with the container's namespace: {left}");
}
