//! What places a container and has no effect in a sandbox, and whether that matters: what would not hold is an error, what
//! only asks for more than we give a warning. Limits are set, and refused, by `cgroup`.

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxResources};

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

/// Limits are `cgroup`'s business, which says of each whether this host can hold it. Devices are the sentry's.
fn check_resources(resources: &LinuxResources, f: &mut Findings) {
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        if rule.allow() && !served(rule) {
            f.warn(
                format!("linux.resources.devices[{index}]"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

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
    fn an_unknown_propagation_is_an_error() {
        let (errors, _) = found(json!({"rootfsPropagation": "sideways"}));
        assert!(errors[0].starts_with("linux.rootfsPropagation: "), "{errors:?}");
    }

    #[test]
    fn what_cannot_be_had_is_a_warning() {
        for (linux, path) in [
            (json!({"rootfsPropagation": "rshared"}), "rootfsPropagation"),
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
