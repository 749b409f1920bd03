//! cgroup v1: one hierarchy per controller (or group of controllers).

use std::io::ErrorKind;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxThrottleDevice};

use super::settings::Dir;
use crate::util::{Context, Result};

/// A new cpuset has no CPUs and takes no process until it is given its parent's.
pub fn inherit_cpuset(dir: Dir<'_>) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if dir.read(file).is_ok_and(|text| text.is_empty())
            && let Some(parent) = dir.0.parent()
        {
            let failed = || format!("cannot hand {} down to {}", file, dir.0.display());
            let inherited = Dir(parent).read(file).context(failed)?;
            dir.write(file, &inherited).context(failed)?;
        }
    }
    Ok(())
}

const LIMIT: &str = "memory.limit_in_bytes";
const SWAP: &str = "memory.memsw.limit_in_bytes";

pub fn memory(dir: Dir<'_>, memory: &LinuxMemory) -> Result<()> {
    let given = |value: Option<i64>| value.filter(|v| *v != 0);
    let limit = given(memory.limit());
    let mut swap = given(memory.swap());
    // No limit on memory means none on both, unless one is asked for.
    if limit == Some(-1) && swap.is_none() && dir.has(SWAP) {
        swap = Some(-1);
    }
    // At no moment may the limit on memory be above that on both.
    let present = dir.number(LIMIT).unwrap_or(u64::MAX);
    let swap_first = swap.is_some_and(|swap| u64::try_from(swap).map_or(true, |swap| present < swap));
    if swap_first && limit.is_some() {
        dir.set_some("memory.swap", SWAP, swap)?;
        set_limit(dir, limit)?;
    } else {
        set_limit(dir, limit)?;
        dir.set_some("memory.swap", SWAP, swap)?;
    }
    dir.set_some("memory.reservation", "memory.soft_limit_in_bytes", given(memory.reservation()))?;
    if memory.disable_oom_killer() == Some(true) {
        dir.set("memory.disableOOMKiller", "memory.oom_control", 1)?;
    }
    match memory.swappiness() {
        Some(n) if n > 100 && n != u64::MAX => {
            Err(format!("linux.resources.memory.swappiness: {n} is out of range (0 to 100)"))
        }
        Some(n) if n <= 100 => dir.set("memory.swappiness", "memory.swappiness", n),
        _ => Ok(()),
    }
}

fn set_limit(dir: Dir<'_>, limit: Option<i64>) -> Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    match dir.write(LIMIT, &limit.to_string()) {
        Ok(()) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(format!(
            "linux.resources.memory.limit: unable to set memory limit to {limit} (current usage: {}, peak usage: {}): choose a \
             larger one",
            dir.number("memory.usage_in_bytes").unwrap_or(0),
            dir.number("memory.max_usage_in_bytes").unwrap_or(0),
        )),
        Err(e) => Err(dir.failed("memory.limit", LIMIT, &limit.to_string(), &e)),
    }
}

pub fn cpu(dir: Dir<'_>, cpu: &LinuxCpu) -> Result<()> {
    // The period of real time first, as the runtime must fit into it; the other way round if that was refused.
    let rt_period = cpu.realtime_period().filter(|p| *p != 0).map(|p| p.to_string());
    let rt_runtime = cpu.realtime_runtime().filter(|r| *r != 0).map(|r| r.to_string());
    pair(
        dir,
        ("cpu.realtimePeriod", "cpu.rt_period_us", rt_period.as_deref()),
        ("cpu.realtimeRuntime", "cpu.rt_runtime_us", rt_runtime.as_deref()),
    )?;
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        dir.set("cpu.shares", "cpu.shares", shares)?;
        // Linux clamps silently.
        let (wanted, set) = (shares, dir.number("cpu.shares").unwrap_or(shares));
        if wanted != set {
            let bound = if wanted > set { "maximum" } else { "minimum" };
            return Err(format!("linux.resources.cpu.shares: the {bound} allowed cpu-shares is {set}"));
        }
    }
    dir.set_some("cpu.idle", "cpu.idle", cpu.idle())?;
    let mut burst = cpu.burst().map(|b| b.to_string());
    if let Some(value) = &burst {
        match dir.write("cpu.cfs_burst_us", value) {
            Ok(()) => burst = None,
            // Before Linux 5.14; the quota then holds in every period.
            Err(e) if e.kind() == ErrorKind::NotFound => burst = None,
            // Larger than the present quota: after it.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) => return Err(dir.failed("cpu.burst", "cpu.cfs_burst_us", value, &e)),
        }
    }
    let period = cpu.period().filter(|p| *p != 0).map(|p| p.to_string());
    let quota = cpu.quota().filter(|q| *q != 0).map(|q| q.to_string());
    pair(
        dir,
        ("cpu.period", "cpu.cfs_period_us", period.as_deref()),
        ("cpu.quota", "cpu.cfs_quota_us", quota.as_deref()),
    )?;
    dir.set_some("cpu.burst", "cpu.cfs_burst_us", burst)
}

/// Two files whose values must fit each other: the first may have to wait for the second.
fn pair(dir: Dir<'_>, first: (&str, &str, Option<&str>), second: (&str, &str, Option<&str>)) -> Result<()> {
    let mut late = None;
    if let (field, file, Some(value)) = first {
        match dir.write(file, value) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && second.2.is_some() => late = Some(value),
            done => done.map_err(|e| dir.failed(field, file, value, &e))?,
        }
    }
    dir.set_some(second.0, second.1, second.2)?;
    dir.set_some(first.0, first.1, late)
}

pub fn blkio(dir: Dir<'_>, io: &LinuxBlockIo) -> Result<()> {
    // What CFQ had, or what BFQ has.
    let bfq = !dir.has("blkio.weight");
    let weight = if bfq { "blkio.bfq.weight" } else { "blkio.weight" };
    let weight_device = if bfq { "blkio.bfq.weight_device" } else { "blkio.weight_device" };
    dir.set_some("blockIO.weight", weight, io.weight().filter(|w| *w != 0))?;
    dir.set_some("blockIO.leafWeight", "blkio.leaf_weight", io.leaf_weight().filter(|w| *w != 0))?;
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let value = |weight: u16| format!("{}:{} {weight}", device.major(), device.minor());
        let field = |name: &str| format!("blockIO.weightDevice[{index}].{name}");
        dir.set_some(&field("weight"), weight_device, device.weight().filter(|w| *w != 0).map(value))?;
        let leaf = device.leaf_weight().filter(|w| *w != 0).map(value);
        dir.set_some(&field("leafWeight"), "blkio.leaf_weight_device", leaf)?;
    }
    for (name, _, file, devices) in throttles(io) {
        for (index, device) in devices.iter().enumerate() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            dir.set(&format!("blockIO.{name}[{index}]"), &format!("blkio.throttle.{file}"), value)?;
        }
    }
    Ok(())
}

/// Field, v2's key in `io.max`, v1's file, and what is given.
pub fn throttles(
    io: &LinuxBlockIo,
) -> [(&'static str, &'static str, &'static str, &[LinuxThrottleDevice]); 4] {
    fn list(list: &Option<Vec<LinuxThrottleDevice>>) -> &[LinuxThrottleDevice] {
        list.as_deref().unwrap_or_default()
    }
    [
        ("throttleReadBpsDevice", "rbps", "read_bps_device", list(io.throttle_read_bps_device())),
        ("throttleWriteBpsDevice", "wbps", "write_bps_device", list(io.throttle_write_bps_device())),
        ("throttleReadIOPSDevice", "riops", "read_iops_device", list(io.throttle_read_iops_device())),
        ("throttleWriteIOPSDevice", "wiops", "write_iops_device", list(io.throttle_write_iops_device())),
    ]
}
