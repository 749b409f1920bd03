//! Whole cgroups over directory trees that look like a cgroup file system's, for what a test machine lacks.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::*;

/// A directory tree that is removed on drop.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    fn new(name: &str) -> Self {
        let top = std::env::temp_dir().join(format!("chitin-cgroup-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(&top).unwrap();
        Self(top)
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn v2(&self) -> Cgroups {
        Cgroups::of(vec![Leaf { kind: Kind::V2, path: self.0.clone() }])
    }

    /// One hierarchy per name, whose directory it is.
    fn v1(&self, controllers: &[&str]) -> Cgroups {
        let leaf = |name: &&str| Leaf {
            kind: Kind::V1(name.split(',').map(str::to_owned).collect()),
            path: self.0.join(name),
        };
        Cgroups::of(controllers.iter().map(leaf).collect())
    }
}

fn resources(json: Value) -> LinuxResources {
    serde_json::from_value(json).unwrap()
}

#[test]
fn only_what_was_made_is_removed() {
    let tree = Tree::new("made");
    fs::create_dir_all(tree.0.join("old")).unwrap();
    let found =
        [Hierarchy { controllers: vec!["pids".into()], mounted_at: tree.0.clone(), own: tree.0.clone() }];
    let request = Request {
        path: Some(Path::new("/old/new/leaf")),
        id: "c",
        systemd: false,
        lenient: false,
        user: false,
        resources: None,
        intel_rdt: None,
    };
    let mut told = String::new();
    let cgroups = Cgroups::create_in(&found, &request, &mut |notes| {
        assert!(!tree.0.join("old/new").exists(), "noted before it is made");
        told.push_str(notes);
        Ok(())
    })
    .unwrap();
    let top = tree.0.display();
    assert_eq!(told, format!("made {top}/old/new\nmade {top}/old/new/leaf\nleaf pids {top}/old/new/leaf\n"));
    // Somebody else's beside, and one below that the container's processes have made.
    fs::create_dir(tree.0.join("old/new/other")).unwrap();
    fs::create_dir(tree.0.join("old/new/leaf/nested")).unwrap();
    let again = Cgroups::open(&told).unwrap();
    assert_eq!((&again.leaves, &again.made), (&cgroups.leaves, &cgroups.made));
    drop(again);
    assert!(tree.0.join("old/new/leaf").exists(), "what is only looked at stays");
    drop(cgroups);
    assert!(tree.0.join("old/new/other").exists(), "somebody else's");
    assert!(!tree.0.join("old/new/leaf").exists());
    assert!(Cgroups::open("leaf pids").is_err());
}

#[test]
fn a_cgroup_in_use_is_refused() {
    let tree = Tree::new("used");
    tree.file("busy/cgroup.procs", "").file("busy/below/cgroup.procs", "1\n2\n0\n");
    let found = [Hierarchy { controllers: vec![], mounted_at: tree.0.clone(), own: tree.0.clone() }];
    let request = |path| Request {
        path: Some(Path::new(path)),
        id: "c",
        systemd: false,
        lenient: false,
        user: false,
        resources: None,
        intel_rdt: None,
    };
    let mut journal = |_: &str| panic!("nothing is to be made");
    let e = Cgroups::create_in(&found, &request("/busy"), &mut journal).unwrap_err();
    assert!(e.starts_with("container's cgroup is not empty: 2 process(es)"), "{e}");
    tree.file("ice/cgroup.procs", "")
        .file("ice/cgroup.freeze", "1\n")
        .file("ice/cgroup.events", "frozen 1\n");
    let e = Cgroups::create_in(&found, &request("/ice"), &mut journal).unwrap_err();
    assert!(e.starts_with("container's cgroup unexpectedly frozen"), "{e}");
}

#[test]
fn every_field_on_v2() {
    let tree = Tree::new("v2");
    for file in [
        "memory.max",
        "memory.low",
        "memory.swap.max",
        "memory.high",
        "cpu.idle",
        "cpu.weight",
        "cpu.max.burst",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "io.weight",
        "io.max",
        "hugetlb.2MB.max",
        "hugetlb.2MB.rsvd.max",
        "hugetlb.1GB.max",
        "rdma.max",
    ] {
        tree.file(file, "old");
    }
    tree.file("cpu.max", "max 100000\n");
    let all = resources(json!({
        "memory": {"limit": 1000, "reservation": 500, "swap": 1500},
        "cpu": {"shares": 1024, "quota": 5000, "burst": 7, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": 9},
        "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 77}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}, {"pageSize": "1GB", "limit": -1},
            {"pageSize": "64KB", "limit": 1}],
        "rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 4}},
        "unified": {"memory.high": "900"},
    }));
    tree.v2().update(&all).unwrap();
    for (file, value) in [
        ("memory.max", "1000"),
        ("memory.low", "500"),
        ("memory.swap.max", "500"),
        ("memory.high", "900"),
        ("cpu.weight", "39"),
        ("cpu.max", "5000 100000"),
        ("cpu.max.burst", "7"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "9"),
        ("io.weight", "4950"),
        ("io.max", "8:0 rbps=77"),
        ("hugetlb.2MB.max", "4096"),
        ("hugetlb.2MB.rsvd.max", "4096"),
        ("hugetlb.1GB.max", "max"),
        ("rdma.max", "mlx5_0 hca_handle=3 hca_object=4"),
        ("cpu.idle", "old"),
    ] {
        assert_eq!(tree.read(file), value, "{file}");
    }
    // What an update leaves out is taken from what is set.
    tree.v2().update(&resources(json!({"cpu": {"period": 50000}, "memory": {"swap": 1200}}))).unwrap();
    assert_eq!((tree.read("cpu.max").as_str(), tree.read("memory.swap.max").as_str()), ("5000 50000", "200"));
    tree.v2().update(&resources(json!({"cpu": {"idle": 1}, "memory": {"limit": -1}}))).unwrap();
    assert_eq!((tree.read("cpu.idle").as_str(), tree.read("memory.swap.max").as_str()), ("1", "max"));
    tree.file("io.bfq.weight", "");
    tree.v2().update(&resources(json!({"blockIO": {"weight": 500}}))).unwrap();
    assert_eq!(tree.read("io.bfq.weight"), "500");
}

#[test]
fn every_field_on_v1() {
    let tree = Tree::new("v1");
    for file in [
        "memory/memory.memsw.limit_in_bytes",
        "memory/memory.soft_limit_in_bytes",
        "memory/memory.oom_control",
        "memory/memory.swappiness",
        "cpu,cpuacct/cpu.shares",
        "cpu,cpuacct/cpu.idle",
        "cpu,cpuacct/cpu.cfs_burst_us",
        "cpu,cpuacct/cpu.cfs_period_us",
        "cpu,cpuacct/cpu.cfs_quota_us",
        "cpu,cpuacct/cpu.rt_period_us",
        "cpu,cpuacct/cpu.rt_runtime_us",
        "cpuset/cpuset.cpus",
        "cpuset/cpuset.mems",
        "pids/pids.max",
        "blkio/blkio.bfq.weight",
        "blkio/blkio.bfq.weight_device",
        "blkio/blkio.throttle.write_iops_device",
        "hugetlb/hugetlb.2MB.limit_in_bytes",
        "net_cls/net_cls.classid",
        "net_prio/net_prio.ifpriomap",
        "devices/devices.allow",
        "devices/devices.deny",
    ] {
        tree.file(file, "old");
    }
    tree.file("memory/memory.limit_in_bytes", "9223372036854771712\n");
    let names =
        ["memory", "cpu,cpuacct", "cpuset", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "devices"];
    let all = resources(json!({
        "memory": {"limit": 1000, "reservation": 500, "swap": 1500, "swappiness": 60, "disableOOMKiller": true},
        "cpu": {"shares": 1024, "quota": 5000, "period": 10000, "burst": 7, "idle": 0, "cpus": "0", "mems": "0",
            "realtimeRuntime": 3, "realtimePeriod": 4},
        "pids": {"limit": -1},
        "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 20}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 77}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
        "devices": [{"allow": false, "access": "rwm"}],
    }));
    tree.v1(&names).update(&all).unwrap();
    for (file, value) in [
        ("memory/memory.limit_in_bytes", "1000"),
        ("memory/memory.memsw.limit_in_bytes", "1500"),
        ("memory/memory.soft_limit_in_bytes", "500"),
        ("memory/memory.oom_control", "1"),
        ("memory/memory.swappiness", "60"),
        ("cpu,cpuacct/cpu.shares", "1024"),
        ("cpu,cpuacct/cpu.idle", "0"),
        ("cpu,cpuacct/cpu.cfs_burst_us", "7"),
        ("cpu,cpuacct/cpu.cfs_period_us", "10000"),
        ("cpu,cpuacct/cpu.cfs_quota_us", "5000"),
        ("cpu,cpuacct/cpu.rt_period_us", "4"),
        ("cpu,cpuacct/cpu.rt_runtime_us", "3"),
        ("cpuset/cpuset.cpus", "0"),
        ("pids/pids.max", "max"),
        ("blkio/blkio.bfq.weight", "500"),
        ("blkio/blkio.bfq.weight_device", "8:0 20"),
        ("blkio/blkio.throttle.write_iops_device", "8:16 77"),
        ("hugetlb/hugetlb.2MB.limit_in_bytes", "4096"),
        ("net_cls/net_cls.classid", "1048577"),
        ("net_prio/net_prio.ifpriomap", "eth0 5"),
        ("devices/devices.deny", "a *:* rwm"),
        ("devices/devices.allow", "c 10:232 rw"),
    ] {
        assert_eq!(tree.read(file), value, "{file}");
    }
}

#[test]
fn failures_name_field_file_and_remedy() {
    let tree = Tree::new("fail");
    let e = tree.v2().update(&resources(json!({"pids": {"limit": 3}}))).unwrap_err();
    let file = tree.0.join("pids.max");
    assert!(e.starts_with("linux.resources.pids.limit: cannot write \"3\" to "), "{e}");
    assert!(
        e.contains(file.to_str().unwrap()) && e.contains("No such file") && e.contains("remove the field"),
        "{e}"
    );
    let v1 = tree.v1(&["memory"]);
    for (json, field) in [
        (json!({"pids": {"limit": 3}}), "linux.resources.pids.limit: "),
        (json!({"cpu": {"cpus": "0"}}), "linux.resources.cpu.cpus: "),
        (json!({"blockIO": {"weight": 10}}), "linux.resources.blockIO: "),
        (json!({"network": {"classID": 7}}), "linux.resources.network.classID: "),
        (json!({"unified": {"memory.high": "1"}}), "linux.resources.unified: this host has cgroups v1"),
        (json!({"memory": {"swappiness": 101}}), "linux.resources.memory.swappiness: 101 is out of range"),
    ] {
        let e = v1.update(&resources(json)).unwrap_err();
        assert!(e.starts_with(field), "{field}: {e}");
    }
    for file in ["cgroup.procs", "a/b.c", "nodot", ".x"] {
        let e = tree.v2().update(&resources(json!({"unified": {file: "1"}}))).unwrap_err();
        assert!(e.contains("not a controller's file"), "{e}");
    }
    let e = Cgroups::default().update(&resources(json!({}))).unwrap_err();
    assert!(e.contains("no cgroup"), "{e}");
    // What engines write by themselves asks for nothing.
    let quiet = json!({"memory": {"swappiness": null}, "cpu": {"shares": 0, "idle": 0}, "blockIO": {}, "network": {},
        "pids": {"limit": 0}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "devices": [{"allow": false}]});
    tree.v2().update(&resources(quiet.clone())).unwrap();
    v1.update(&resources(quiet)).unwrap();
}

#[test]
fn an_update_is_checked_against_the_usage() {
    let tree = Tree::new("check");
    tree.file("memory.current", "500\n").file("memory.swap.current", "100\n");
    tree.file("memory.max", "max\n").file("memory.swap.max", "max\n");
    let update = |json| tree.v2().update(&resources(json!({ "memory": json })));
    let e = update(json!({"limit": 400, "checkBeforeUpdate": true})).unwrap_err();
    assert!(e.contains("current usage 500"), "{e}");
    let e = update(json!({"limit": 550, "swap": 580, "checkBeforeUpdate": true})).unwrap_err();
    assert!(e.contains("current usage 600"), "{e}");
    assert_eq!(tree.read("memory.max"), "max\n", "nothing was written");
    update(json!({"limit": 550, "swap": 700, "checkBeforeUpdate": true})).unwrap();
    update(json!({"limit": 400})).unwrap();
}

#[test]
fn controllers_are_enabled_on_the_way() {
    let tree = Tree::new("enable");
    tree.file("cgroup.controllers", "cpu memory pids\n").file("cgroup.subtree_control", "memory\n");
    fs::create_dir(tree.0.join("child")).unwrap();
    v2::enable_controllers(Dir(&tree.0.join("child"))).unwrap();
    assert_eq!(tree.read("cgroup.subtree_control"), "+cpu +pids");
}

#[test]
fn statistics_in_runcs_form() {
    let tree = Tree::new("stats");
    tree.file(
        "cpu.stat",
        "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
    )
    .file(
        "cpu.pressure",
        "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
    )
    .file("memory.stat", "anon 1\nfile 4096\n")
    .file("memory.current", "8192\n")
    .file("memory.max", "max\n")
    .file("memory.peak", "9000\n")
    .file("memory.events", "low 0\nmax 4\noom_kill 1\n")
    .file("memory.swap.current", "100\n")
    .file("memory.swap.max", "max\n")
    .file("pids.current", "3\n")
    .file("pids.max", "max\n")
    .file("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n")
    .file("hugetlb.2MB.current", "2097152\n")
    .file("hugetlb.2MB.rsvd.current", "0\n")
    .file("hugetlb.2MB.events", "max 6\n");
    let stats = serde_json::to_value(tree.v2().stats().unwrap()).unwrap();
    let calm = json!({"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 3});
    assert_eq!(
        stats,
        json!({
            "cpu": {"usage": {"total": 30000, "kernel": 10000, "user": 20000},
                "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 7000},
                "psi": {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 12}, "full": calm}},
            "cpuset": {"cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
                "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0, "sched_load_balance": 0,
                "sched_relax_domain_level": 0},
            "memory": {"cache": 4096, "usage": {"limit": u64::MAX, "usage": 8192, "max": 9000, "failcnt": 4},
                "swap": {"limit": u64::MAX, "usage": 8292, "failcnt": 0}, "kernel": {"limit": 0, "failcnt": 0},
                "kernelTCP": {"limit": 0, "failcnt": 0}, "raw": {"anon": 1, "file": 4096}},
            "pids": {"current": 3},
            "blkio": {"ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 1},
                    {"major": 8, "op": "Write", "value": 2}],
                "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 3}, {"major": 8, "op": "Write", "value": 4}]},
            "hugetlb": {"2MB": {"usage": 2097152, "failcnt": 6}},
            "intel_rdt": {},
            "network_interfaces": null,
        })
    );
}

#[test]
fn statistics_of_v1() {
    let tree = Tree::new("stats1");
    tree.file("cpuacct/cpuacct.usage", "30\n")
        .file("cpuacct/cpuacct.stat", "user 2\nsystem 1\n")
        .file("cpuacct/cpuacct.usage_percpu", "10 20 \n")
        .file("cpuacct/cpuacct.usage_all", "cpu user system\n0 9 1\n1 15 5\n")
        .file("memory/memory.stat", "cache 7\nrss 8\n")
        .file("memory/memory.usage_in_bytes", "100\n")
        .file("memory/memory.limit_in_bytes", "1000\n")
        .file("memory/memory.max_usage_in_bytes", "200\n")
        .file("memory/memory.failcnt", "5\n")
        .file("cpuset/cpuset.cpus", "0-1,3\n")
        .file("blkio/blkio.throttle.io_serviced_recursive", "8:0 Read 4\n8:0 Total 4\nTotal 4\n")
        .file("blkio/blkio.throttle.io_service_bytes_recursive", "8:0 Read 40\nTotal 40\n");
    let stats = tree.v1(&["cpuacct", "memory", "cpuset", "blkio"]).stats().unwrap();
    let usage = &stats.cpu.usage;
    assert_eq!((usage.total, usage.user, usage.kernel), (30, 20_000_000, 10_000_000));
    assert_eq!(
        (&usage.percpu, &usage.percpu_user, &usage.percpu_kernel),
        (&vec![10, 20], &vec![9, 15], &vec![1, 5])
    );
    assert_eq!((stats.memory.cache, stats.memory.usage.max, stats.memory.usage.failcnt), (7, 200, 5));
    assert_eq!(stats.cpuset.cpus, [0, 1, 3]);
    let ops: Vec<_> = stats.blkio.io_serviced_recursive.iter().map(|e| (e.op.as_str(), e.value)).collect();
    assert_eq!(ops, [("Read", 4), ("Total", 4)]);
    assert_eq!(stats.blkio.io_service_bytes_recursive.len(), 1);
    assert!(Cgroups::default().stats().is_err());
}

/// On the host's own hierarchies, one kind after the other.
#[test]
fn a_real_cgroup_is_frozen_and_killed() {
    let Ok(found) = layout::hierarchies() else {
        eprintln!("SKIPPED: no cgroups here");
        return;
    };
    for kind in ["v1", "v2"] {
        let found: Vec<Hierarchy> = found.iter().filter(|h| h.is_v2() == (kind == "v2")).cloned().collect();
        let path = PathBuf::from(format!("/chitin-unit-{kind}-{}", std::process::id()));
        let request = Request {
            path: Some(&path),
            id: "c",
            systemd: false,
            lenient: false,
            user: false,
            resources: None,
            intel_rdt: None,
        };
        let cgroups = match Cgroups::create_in(&found, &request, &mut |_| Ok(())) {
            Ok(cgroups) if !found.is_empty() => cgroups,
            other => {
                eprintln!("SKIPPED: {kind}: {other:?}");
                continue;
            }
        };
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        cgroups.add(pid).unwrap();
        assert_eq!(cgroups.processes(), Ok(vec![pid]), "{kind}");
        cgroups.freeze().unwrap();
        assert_eq!(cgroups.is_frozen(), Ok(true), "{kind}");
        cgroups.thaw().unwrap();
        assert_eq!(cgroups.is_frozen(), Ok(false), "{kind}");
        // It stays until it is waited for, but is in no cgroup.
        cgroups.kill().unwrap();
        assert_eq!(cgroups.processes(), Ok(vec![]), "{kind}");
        child.wait().unwrap();
        let leaves: Vec<PathBuf> = cgroups.leaves.iter().map(|leaf| leaf.path.clone()).collect();
        assert_eq!(cgroups.remove(), Vec::<PathBuf>::new());
        assert!(leaves.iter().all(|leaf| !leaf.exists()), "{kind}");
    }
}
