//! `linux.resources` and what else limits or places a container: what of it is not applied, and whether that matters.
//!
//! A limit that would not hold is an error. One that holds by itself, because the sandbox has nothing that it could
//! limit, is none; one that only asks for more than we give is a warning.

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxResources};
use serde::Serialize;
use serde_json::Value;

use super::check::Findings;

/// Device numbers that the sentry's own drivers serve: memory devices, terminals, pseudo terminals, tun.
const SERVED: [(i64, Option<i64>); 6] =
    [(1, None), (5, None), (136, None), (4, None), (10, Some(200)), (10, Some(229))];

pub fn check(linux: &Linux, f: &mut Findings) {
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate" | "unbindable" | "runbindable") => {}
        Some("shared" | "rshared" | "slave" | "rslave") => f.warn(
            "linux.rootfsPropagation",
            "treated as private: mounts never pass between the host and a sandbox",
        ),
        Some(other) => f.error(
            "linux.rootfsPropagation",
            format!("{other:?} is none of private, shared, slave, unbindable (or with an r before it)"),
        ),
    }
    if let Some(resources) = linux.resources() {
        check_resources(resources, f);
    }
}

fn check_resources(resources: &LinuxResources, f: &mut Findings) {
    let path = |name: &str| format!("linux.resources.{name}");
    for (name, given, why) in [
        ("blockIO", given(resources.block_io()), "limits of block devices are not applied; remove it"),
        ("network", given(resources.network()), "the sandbox's traffic is not marked; remove it"),
    ] {
        if given {
            f.error(path(name), format!("not supported: {why}"));
        }
    }
    if given(resources.rdma()) {
        f.warn(path("rdma"), "ignored: a sandbox has no RDMA devices");
    }
    // All that engines set by themselves is zero, which holds: the guest has no huge pages of the host's pool.
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        if limit.limit() != 0 {
            f.warn(path(&format!("hugepageLimits[{index}]")), "ignored: the guest uses no huge page pool");
        }
    }
    if let Some(cpu) = resources.cpu() {
        if cpu.idle().is_some_and(|idle| idle != 0) {
            f.error(path("cpu.idle"), "not supported; remove it (or set cpu.shares to 2)");
        }
        if cpu.burst().is_some_and(|burst| burst != 0) {
            f.warn(path("cpu.burst"), "ignored: the quota holds in every period");
        }
        if cpu.realtime_runtime().is_some_and(|n| n != 0) || cpu.realtime_period().is_some_and(|n| n != 0) {
            f.warn(
                path("cpu.realtimeRuntime"),
                "ignored: the guest's threads are never real-time on the host",
            );
        }
    }
    if let Some(memory) = resources.memory() {
        if memory.disable_oom_killer() == Some(true) {
            f.error(path("memory.disableOOMKiller"), "not supported; remove it");
        }
        for (name, set) in [
            ("memory.kernel", memory.kernel().is_some_and(|n| n > 0)),
            ("memory.kernelTCP", memory.kernel_tcp().is_some_and(|n| n > 0)),
            ("memory.swappiness", memory.swappiness().is_some()),
        ] {
            if set {
                f.warn(path(name), "ignored: use memory.limit and memory.swap");
            }
        }
    }
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        if rule.allow() && !served(rule) {
            f.warn(
                path(&format!("devices[{index}]")),
                "ignored: a sandbox has no devices of the host, only the sentry's own",
            );
        }
    }
}

/// Whether an allowed device exists in the sandbox (or may be any).
fn served(rule: &LinuxDeviceCgroup) -> bool {
    // Absent and negative both mean "all".
    let number = |n: Option<i64>| n.filter(|n| *n >= 0);
    match (number(rule.major()), number(rule.minor())) {
        (None, _) => true,
        (Some(major), minor) => SERVED.iter().any(|(m, n)| *m == major && (n.is_none() || *n == minor)),
    }
}

/// Whether a structure says anything at all: engines write empty ones.
fn given(value: &Option<impl Serialize>) -> bool {
    fn blank(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Bool(set) => !set,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.values().all(blank),
        }
    }
    value.as_ref().is_some_and(|v| serde_json::to_value(v).is_ok_and(|v| !blank(&v)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(linux: Value) -> (Vec<String>, Vec<String>) {
        let linux: Linux = serde_json::from_value(linux).unwrap();
        let mut f = Findings::default();
        check(&linux, &mut f);
        f.into_parts()
    }

    #[test]
    fn what_engines_write_by_themselves_is_silent() {
        let quiet = json!({"rootfsPropagation": "rprivate", "resources": {
            "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 5},
                {"allow": true, "type": "c", "major": 136}, {"allow": true, "type": "c", "access": "m"}],
            "blockIO": {}, "network": {}, "cpu": {"shares": 1024, "idle": 0}, "memory": {"disableOOMKiller": false},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}});
        assert_eq!(found(quiet), (vec![], vec![]));
    }

    #[test]
    fn limits_that_would_not_hold_are_errors() {
        for (resources, path) in [
            (json!({"blockIO": {"weight": 10}}), "blockIO"),
            (json!({"network": {"classID": 7}}), "network"),
            (json!({"cpu": {"idle": 1}}), "cpu.idle"),
            (json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller"),
        ] {
            let (errors, warnings) = found(json!({"resources": resources}));
            assert!(errors.len() == 1 && warnings.is_empty(), "{errors:?} {warnings:?}");
            assert!(errors[0].starts_with(&format!("linux.resources.{path}: ")), "{errors:?}");
        }
        let (errors, _) = found(json!({"rootfsPropagation": "sideways"}));
        assert!(errors[0].starts_with("linux.rootfsPropagation: "), "{errors:?}");
    }

    #[test]
    fn what_cannot_be_had_is_a_warning() {
        for (linux, path) in [
            (json!({"rootfsPropagation": "rshared"}), "rootfsPropagation"),
            (json!({"resources": {"rdma": {"mlx": {"hcaHandles": 1}}}}), "resources.rdma"),
            (
                json!({"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}}),
                "resources.hugepageLimits[0]",
            ),
            (json!({"resources": {"cpu": {"burst": 5}}}), "resources.cpu.burst"),
            (json!({"resources": {"cpu": {"realtimeRuntime": 5}}}), "resources.cpu.realtimeRuntime"),
            (
                json!({"resources": {"devices": [{"allow": true, "type": "b", "major": 8, "minor": 0}]}}),
                "resources.devices[0]",
            ),
        ] {
            let (errors, warnings) = found(json!(linux));
            assert!(errors.is_empty() && warnings.len() == 1, "{errors:?} {warnings:?}");
            assert!(warnings[0].starts_with(&format!("linux.{path}: ")), "{warnings:?}");
        }
    }
}
