//! What a guest sees of its limits: as many CPUs as its quota and its cpuset let it use, as much memory as its limit.

use oci_spec::runtime::LinuxResources;

/// A machine, real or as a guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
}

/// The part of `host` that a container with these limits has.
pub fn machine(resources: Option<&LinuxResources>, host: Machine) -> Machine {
    let mut seen = Machine { cpus: host.cpus.max(1), memory: host.memory };
    let Some(resources) = resources else { return seen };
    if let Some(cpu) = resources.cpu() {
        if let Some(count) = cpu.cpus().as_deref().and_then(cpus_in_list) {
            seen.cpus = seen.cpus.min(count);
        }
        let period = cpu.period().filter(|p| *p != 0).unwrap_or(100_000);
        if let Some(quota) = cpu.quota().and_then(|q| u64::try_from(q).ok()).filter(|q| *q != 0) {
            let count = u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX);
            seen.cpus = seen.cpus.min(count.max(1));
        }
    }
    if let Some(limit) = resources.memory().and_then(|m| m.limit())
        && let Ok(limit) = u64::try_from(limit)
        && limit != 0
    {
        seen.memory = seen.memory.min(limit);
    }
    seen
}

/// How many CPUs a list like `0-3,7` has; `None` if it is none or has no CPU.
pub fn cpus_in_list(list: &str) -> Option<u32> {
    let mut seen: Vec<(u32, u32)> = Vec::new();
    for range in list.trim().split(',').filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last {
            return None;
        }
        seen.push((first, last));
    }
    // Ranges may overlap.
    seen.sort_unstable();
    let (mut count, mut next) = (0_u32, 0_u32);
    for (first, last) in seen {
        let first = first.max(next);
        if last >= first {
            count = count.saturating_add(last - first).saturating_add(1);
            next = last.saturating_add(1);
        }
    }
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_as_a_guest_sees_them() {
        let host = Machine { cpus: 8, memory: 1 << 30 };
        for (resources, cpus, memory) in [
            (json!({}), 8, 1 << 30),
            (json!({"cpu": {"quota": 150_000, "period": 100_000}}), 2, 1 << 30),
            (json!({"cpu": {"quota": 1_000}}), 1, 1 << 30),
            (json!({"cpu": {"quota": -1, "period": 100_000}}), 8, 1 << 30),
            (json!({"cpu": {"quota": 9_000_000}}), 8, 1 << 30),
            (json!({"cpu": {"cpus": "0-1,4", "quota": 800_000}}), 3, 1 << 30),
            (json!({"cpu": {"cpus": "", "shares": 2}}), 8, 1 << 30),
            (json!({"memory": {"limit": 4096}}), 8, 4096),
            (json!({"memory": {"limit": -1}}), 8, 1 << 30),
            (json!({"memory": {"limit": 1_i64 << 40}}), 8, 1 << 30),
        ] {
            let parsed: LinuxResources = serde_json::from_value(resources.clone()).unwrap();
            assert_eq!(machine(Some(&parsed), host), Machine { cpus, memory }, "{resources}");
        }
        assert_eq!(machine(None, host), host);
    }

    #[test]
    fn cpu_lists() {
        for (list, count) in [
            ("0", Some(1)),
            ("0-3,7", Some(5)),
            ("0-3,2-5", Some(6)),
            (" 1 \n", Some(1)),
            ("0-4294967295", Some(u32::MAX)),
        ] {
            assert_eq!(cpus_in_list(list), count, "{list:?}");
        }
        for list in ["", "x", "3-1", "1-", ","] {
            assert_eq!(cpus_in_list(list), None, "{list:?}");
        }
    }
}
