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
    let all = host.cpus.max(1);
    Machine {
        cpus: resources.and_then(cpus).map_or(all, |n| n.min(all)),
        memory: resources.and_then(memory).map_or(host.memory, |n| n.min(host.memory)),
    }
}

/// The CPUs that the quota and the list allow, at least one; `None` without either.
pub fn cpus(resources: &LinuxResources) -> Option<u32> {
    let cpu = resources.cpu().as_ref()?;
    let listed = cpu.cpus().as_deref().and_then(cpus_in_list);
    let period = cpu.period().filter(|p| *p != 0).unwrap_or(100_000);
    let quota = cpu.quota().and_then(|q| u64::try_from(q).ok()).filter(|q| *q != 0);
    let paid = quota.and_then(|q| u32::try_from(q.div_ceil(period)).ok());
    listed.into_iter().chain(paid).min()
}

/// The memory limit in bytes, `u64::MAX` for an explicit "none"; `None` if nothing is said.
pub fn memory(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref()?.limit().filter(|limit| *limit != 0)?;
    Some(u64::try_from(limit).unwrap_or(u64::MAX))
}

/// How many CPUs a list like `0-3,7` has; `None` if it is none or has no CPU.
fn cpus_in_list(list: &str) -> Option<u32> {
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
