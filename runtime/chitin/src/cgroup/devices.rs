//! `linux.resources.devices`, for v1's `devices.allow` and `devices.deny`.
//!
//! What a guest calls a device is served by the sentry's own drivers; no host device can be had through it. The gofer's
//! mounts are all `nodev`, its seccomp list knows no `mknod` but that of a whiteout and no `mount`, and the sentry has an
//! empty root. So nothing in the cgroup can open a device at all, and a v2 BPF program, whose making costs a
//! milliseconds-long verification, would guard nothing: it is left out. v1's files cost little and are set, so that the
//! cgroup looks as everybody expects it.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::settings::Dir;
use crate::util::Result;

/// What runc allows every container, plus what a sentry needs for itself.
const ALWAYS: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
    // /dev/kvm, for sentries that use it.
    "c 10:232 rw",
];

/// Sets the rules in their order, if there are any.
pub fn set(dir: Dir<'_>, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    for (index, rule) in rules.iter().enumerate() {
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        dir.set(&format!("devices[{index}]"), file, text(rule))?;
    }
    if !rules.is_empty() {
        for rule in ALWAYS {
            dir.set("devices", "devices.allow", rule)?;
        }
    }
    Ok(())
}

fn text(rule: &LinuxDeviceCgroup) -> String {
    // Absent and negative numbers mean all.
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".to_owned(), |n| n.to_string());
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => "a",
        Some(LinuxDeviceType::B) => "b",
        Some(_) => "c",
    };
    let access = rule.access().as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_as_the_kernel_reads_them() {
        for (rule, expected) in [
            (json!({"allow": false, "access": "rwm"}), "a *:* rwm"),
            (json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}), "c 1:3 rw"),
            (json!({"allow": true, "type": "b", "major": 8, "minor": -1}), "b 8:* rwm"),
        ] {
            let rule: LinuxDeviceCgroup = serde_json::from_value(rule).unwrap();
            assert_eq!(text(&rule), expected);
        }
    }
}
