//! cgroup v2: one hierarchy, whose controllers are enabled from parent to child.

use std::io::ErrorKind;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory};

use super::settings::Dir;
use super::v1::throttles;
use crate::log::warn;
use crate::util::Result;

/// Enables for `dir` what its parent has, as far as the parent allows it.
pub fn enable_controllers(dir: Dir<'_>) -> Result<()> {
    let Some(parent) = dir.0.parent().map(Dir) else { return Ok(()) };
    let available = parent.read("cgroup.controllers").unwrap_or_default();
    let enabled = parent.read("cgroup.subtree_control").unwrap_or_default();
    let missing: Vec<String> = available
        .split_ascii_whitespace()
        .filter(|name| !enabled.split_ascii_whitespace().any(|c| c == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() || parent.write("cgroup.subtree_control", &missing.join(" ")).is_ok() {
        return Ok(());
    }
    // All or nothing: some may be possible one by one. Refused when the parent has processes of its own; a limit that
    // needs the controller then fails by its missing file.
    for one in missing {
        let _ = parent.write("cgroup.subtree_control", &one);
    }
    Ok(())
}

/// A limit where the specification says that zero is "not set" and a negative number "unlimited".
pub fn maximum(limit: i64) -> Option<String> {
    match limit {
        0 => None,
        n if n < 0 => Some("max".into()),
        n => Some(n.to_string()),
    }
}

/// v1's CPU shares (2 to 262144) as a v2 weight (1 to 10000): the formula of runc up to 1.3.
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// v1's block I/O weight (10 to 1000) as a v2 one (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990
}

/// The limit on swap alone from v1's limit on memory and swap together.
pub fn swap_maximum(memory: Option<u64>, both: i64) -> Result<Option<String>> {
    match (memory, u64::try_from(both)) {
        (_, Ok(0)) => Ok(None),
        (_, Err(_)) => Ok(Some("max".into())),
        (Some(memory), Ok(both)) if memory > 0 && both >= memory => Ok(Some((both - memory).to_string())),
        _ => {
            Err("linux.resources.memory.swap: needs a memory limit that is not larger, as it counts both"
                .into())
        }
    }
}

pub fn memory_is_set(memory: &LinuxMemory) -> bool {
    [memory.limit(), memory.reservation(), memory.swap()].iter().flatten().any(|v| *v != 0)
        || memory.disable_oom_killer() == Some(true)
}

pub fn memory(dir: Dir<'_>, memory: &LinuxMemory) -> Result<()> {
    if memory.swappiness().is_some() {
        warn("linux.resources.memory.swappiness: ignored, as cgroups v2 have none");
    }
    if memory.disable_oom_killer() == Some(true) {
        warn("linux.resources.memory.disableOOMKiller: ignored, as cgroups v2 cannot");
    }
    let limit = memory.limit().filter(|v| *v != 0);
    if memory.check_before_update() == Some(true) {
        check_usage(dir, limit, memory.swap())?;
    }
    let mut swap = None;
    if let Some(both) = memory.swap().filter(|v| *v != 0) {
        // An update may name one without the other.
        let memory = match limit {
            Some(limit) => u64::try_from(limit).ok(),
            None => dir.number("memory.max").filter(|n| *n != u64::MAX),
        };
        swap = swap_maximum(memory, both)?;
    }
    // No limit on memory means none on both, unless one is asked for.
    if limit == Some(-1) && swap.is_none() && dir.has("memory.swap.max") {
        swap = Some("max".into());
    }
    // Without swap accounting a limit of zero holds only if nothing is swapped; engines set it by default.
    if let Some(value) = &swap {
        match dir.write("memory.swap.max", value) {
            Err(e) if e.kind() == ErrorKind::NotFound && dir.has("memory.max") => {
                warn("linux.resources.memory.swap: ignored, as the kernel does not account for swap");
            }
            done => done.map_err(|e| dir.failed("memory.swap", "memory.swap.max", value, &e))?,
        }
    }
    dir.set_some("memory.limit", "memory.max", limit.and_then(maximum))?;
    dir.set_some("memory.reservation", "memory.low", memory.reservation().and_then(maximum))
}

/// Linux would kill processes until the new limit holds.
fn check_usage(dir: Dir<'_>, limit: Option<i64>, both: Option<i64>) -> Result<()> {
    let usage = dir.number("memory.current").unwrap_or(0);
    let too_large = |limit: Option<i64>, usage: u64| {
        limit.and_then(|l| u64::try_from(l).ok()).filter(|limit| *limit > 0 && usage > *limit)
    };
    if let Some(limit) = too_large(limit, usage) {
        return Err(format!(
            "linux.resources.memory.limit: rejecting memory limit {limit}: current usage {usage} is larger (see \
             checkBeforeUpdate)"
        ));
    }
    let usage = usage.saturating_add(dir.number("memory.swap.current").unwrap_or(0));
    match too_large(both, usage) {
        Some(both) => Err(format!(
            "linux.resources.memory.swap: rejecting memory+swap limit {both}: current usage {usage} is larger (see \
             checkBeforeUpdate)"
        )),
        None => Ok(()),
    }
}

pub fn cpu_is_set(cpu: &LinuxCpu) -> bool {
    cpu.shares().is_some_and(|v| v != 0)
        || cpu.quota().is_some_and(|v| v != 0)
        || cpu.period().is_some_and(|v| v != 0)
        || cpu.idle().is_some_and(|v| v != 0)
        || cpu.burst().is_some_and(|v| v != 0)
}

pub fn cpu(dir: Dir<'_>, cpu: &LinuxCpu) -> Result<()> {
    if cpu.realtime_period().is_some_and(|v| v != 0) || cpu.realtime_runtime().is_some_and(|v| v != 0) {
        warn("linux.resources.cpu.realtimeRuntime: ignored, as cgroups v2 have none");
    }
    // What engines write by themselves asks for nothing; the file may be missing before Linux 5.15.
    let idle = cpu.idle().filter(|idle| *idle != 0 || dir.has("cpu.idle"));
    dir.set_some("cpu.idle", "cpu.idle", idle)?;
    match cpu.shares().filter(|s| *s != 0) {
        Some(_) if idle == Some(1) => warn("linux.resources.cpu.shares: ignored, as cpu.idle is 1"),
        shares => dir.set_some("cpu.shares", "cpu.weight", shares.map(weight))?,
    }
    let mut burst = cpu.burst().map(|b| b.to_string());
    if let Some(value) = &burst {
        match dir.write("cpu.max.burst", value) {
            Ok(()) => burst = None,
            // Larger than the present quota: after it.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) => return Err(dir.failed("cpu.burst", "cpu.max.burst", value, &e)),
        }
    }
    let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p != 0));
    if quota.is_some() || period.is_some() {
        // An update may name one without the other.
        let present = dir.read("cpu.max").unwrap_or_default();
        let mut present = present.split_ascii_whitespace();
        let (old_quota, old_period) = (present.next().unwrap_or("max"), present.next().unwrap_or("100000"));
        let quota = quota.map_or(old_quota.to_owned(), |q| if q > 0 { q.to_string() } else { "max".into() });
        let period = period.map_or(old_period.to_owned(), |p| p.to_string());
        let field = if cpu.quota().is_some() { "cpu.quota" } else { "cpu.period" };
        dir.set(field, "cpu.max", format!("{quota} {period}"))?;
    }
    dir.set_some("cpu.burst", "cpu.max.burst", burst)
}

pub fn io_is_set(io: &LinuxBlockIo) -> bool {
    io.weight().is_some_and(|w| w != 0)
        || io.weight_device().as_ref().is_some_and(|d| !d.is_empty())
        || throttles(io).iter().any(|(.., devices)| !devices.is_empty())
}

pub fn io(dir: Dir<'_>, io: &LinuxBlockIo) -> Result<()> {
    if io.leaf_weight().is_some_and(|w| w != 0) {
        warn("linux.resources.blockIO.leafWeight: ignored, as cgroups v2 have none");
    }
    // BFQ's takes v1's range; io.weight has its own.
    let bfq = dir.has("io.bfq.weight");
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        if bfq {
            dir.set("blockIO.weight", "io.bfq.weight", weight)?;
        } else {
            dir.set("blockIO.weight", "io.weight", io_weight(weight))?;
        }
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let Some(weight) = device.weight().filter(|w| *w != 0) else { continue };
        let (file, weight) =
            if bfq { ("io.bfq.weight", u64::from(weight)) } else { ("io.weight", io_weight(weight)) };
        let value = format!("{}:{} {weight}", device.major(), device.minor());
        dir.set(&format!("blockIO.weightDevice[{index}].weight"), file, value)?;
    }
    for (name, key, _, devices) in throttles(io) {
        for (index, device) in devices.iter().enumerate() {
            // Zero removes the limit.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            dir.set(&format!("blockIO.{name}[{index}]"), "io.max", value)?;
        }
    }
    Ok(())
}

/// Files of controllers by their names.
pub fn unified<'a>(dir: Dir<'_>, files: impl Iterator<Item = (&'a String, &'a String)>) -> Result<()> {
    for (file, value) in files {
        let field = format!("unified[{file:?}]");
        let is_a_controllers =
            file.split_once('.').is_some_and(|(controller, _)| !matches!(controller, "" | "cgroup"));
        if file.contains('/') || !is_a_controllers {
            return Err(format!("linux.resources.{field}: not a controller's file (like memory.high)"));
        }
        // Some files take a line per write only.
        for line in value.lines() {
            dir.set(&field, file, line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        assert_eq!((weight(2), weight(1024), weight(262_144), weight(0)), (1, 39, 10_000, 1));
        assert_eq!((io_weight(10), io_weight(500), io_weight(1000)), (1, 4950, 10_000));
        assert_eq!(maximum(0), None);
        assert_eq!(maximum(-1).as_deref(), Some("max"));
        assert_eq!(maximum(5).as_deref(), Some("5"));
        assert_eq!(swap_maximum(Some(10), 15), Ok(Some("5".into())));
        assert_eq!(swap_maximum(Some(10), 10), Ok(Some("0".into())));
        assert_eq!(swap_maximum(None, -1), Ok(Some("max".into())));
        assert!(swap_maximum(None, 5).is_err());
        assert!(swap_maximum(Some(10), 5).is_err());
    }
}
