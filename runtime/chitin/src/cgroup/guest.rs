//! What a guest sees of its limits: as many CPUs as its quota and its cpuset let it use, as much memory as its limit.

use chitin_control::Limits;
use oci_spec::runtime::LinuxResources;

/// What these limits look like from inside; what is not said stays as it is.
pub fn limits(resources: &LinuxResources) -> Limits {
    let cpu = resources.cpu().as_ref();
    let unlimited = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let quota = cpu.and_then(|c| c.quota()).filter(|quota| *quota != 0).map(unlimited);
    let period = cpu.and_then(|c| c.period()).filter(|period| *period != 0).unwrap_or(100_000);
    let listed = cpu.and_then(|c| c.cpus().as_deref()).and_then(cpus_in_list);
    let paid = quota.filter(|quota| *quota != u64::MAX);
    let paid = paid.and_then(|quota| u32::try_from(quota.div_ceil(period)).ok());
    Limits {
        // As many as the quota and the list allow.
        cpus: listed.into_iter().chain(paid).min(),
        memory: resources
            .memory()
            .as_ref()
            .and_then(|m| m.limit())
            .filter(|limit| *limit != 0)
            .map(unlimited),
        quota: quota.map(|quota| (quota, period)),
        pids: resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0).map(unlimited),
    }
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
        let max = u64::MAX;
        let none = Limits::default();
        for (resources, want) in [
            (json!({}), none),
            (
                json!({"cpu": {"quota": 150_000, "period": 100_000}}),
                Limits { cpus: Some(2), quota: Some((150_000, 100_000)), ..none },
            ),
            (
                json!({"cpu": {"quota": 1_000}}),
                Limits { cpus: Some(1), quota: Some((1_000, 100_000)), ..none },
            ),
            (json!({"cpu": {"quota": -1, "period": 5}}), Limits { quota: Some((max, 5)), ..none }),
            (
                json!({"cpu": {"cpus": "0-1,4", "quota": 800_000}}),
                Limits { cpus: Some(3), quota: Some((800_000, 100_000)), ..none },
            ),
            (json!({"cpu": {"cpus": "", "shares": 2}}), none),
            (json!({"memory": {"limit": 4096}}), Limits { memory: Some(4096), ..none }),
            (json!({"memory": {"limit": -1}}), Limits { memory: Some(max), ..none }),
            (json!({"pids": {"limit": 7}}), Limits { pids: Some(7), ..none }),
            (json!({"pids": {"limit": -1}}), Limits { pids: Some(max), ..none }),
        ] {
            let parsed: LinuxResources = serde_json::from_value(resources.clone()).unwrap();
            assert_eq!(limits(&parsed), want, "{resources}");
        }
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
