//! What a unit is told of `linux.resources`, so that systemd does not undo on its next reload what we write ourselves.
//!
//! The same limits are written to the cgroup's files afterwards: systemd knows fewer of them, and coarser ones. Devices are
//! not mentioned (see `devices`).

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::super::v2;
use super::wire::Value;
use crate::util::Result;

const DEFAULT_PERIOD: u64 = 100_000;

pub type Properties = Vec<(&'static str, Value)>;

/// The properties for a unit on a host with cgroups v1 or v2. `version` is asked for systemd's, if it matters.
pub fn of(
    resources: &LinuxResources,
    is_v2: bool,
    version: &mut dyn FnMut() -> Result<u32>,
) -> Result<Properties> {
    let mut out = Properties::new();
    // Here -1 is "infinity", all ones.
    let number = |n: i64| Value::U64(n.cast_unsigned());
    if let Some(memory) = resources.memory() {
        let given = |n: Option<i64>| n.filter(|n| *n != 0);
        if let Some(limit) = given(memory.limit()) {
            out.push((if is_v2 { "MemoryMax" } else { "MemoryLimit" }, number(limit)));
        }
        if is_v2 {
            out.extend(given(memory.reservation()).map(|n| ("MemoryLow", number(n))));
            if let Some(both) = given(memory.swap()) {
                let limit = given(memory.limit()).and_then(|n| u64::try_from(n).ok());
                // An update may name one without the other; then the file alone has to do.
                if both < 0 || limit.is_some() {
                    let text = v2::swap_maximum(limit, both)?;
                    out.extend(text.map(|t| ("MemorySwapMax", Value::U64(t.parse().unwrap_or(u64::MAX)))));
                }
            }
        }
    }
    if let Some(cpu) = resources.cpu() {
        of_cpu(cpu, is_v2, version, &mut out)?;
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|w| *w != 0)
        && !is_v2
    {
        out.push(("BlockIOWeight", Value::U64(weight.into())));
    }
    if let Some(limit) = resources.pids().as_ref().map(|p| p.limit()).filter(|l| *l != 0) {
        out.push(("TasksMax", number(limit.max(-1))));
    }
    for (file, value) in resources.unified().iter().flatten() {
        let name = match file.as_str() {
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            // systemd knows no property for it: its file is set, and stays as long as systemd does not know it.
            _ => continue,
        };
        let number = match value.trim() {
            "max" => u64::MAX,
            text => text.parse().map_err(|_| {
                format!("linux.resources.unified[{file:?}]: {text:?} is neither a number nor max")
            })?,
        };
        out.push((name, Value::U64(number)));
    }
    Ok(out)
}

fn of_cpu(
    cpu: &LinuxCpu,
    is_v2: bool,
    version: &mut dyn FnMut() -> Result<u32>,
    out: &mut Properties,
) -> Result<()> {
    let idle = is_v2 && cpu.idle() == Some(1) && version()? >= 252;
    if idle {
        out.push(("CPUWeight", Value::U64(0)));
    } else if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        out.push(if is_v2 {
            ("CPUWeight", Value::U64(v2::weight(shares)))
        } else {
            ("CPUShares", Value::U64(shares))
        });
    }
    let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p != 0));
    if let Some(period) = period
        && version()? >= 242
    {
        out.push(("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota.is_some() || period.is_some() {
        let per_second = match quota.and_then(|q| u64::try_from(q).ok()) {
            // systemd counts in whole percents: rounded up, so that the file's value fits below.
            Some(quota) => {
                (quota.saturating_mul(1_000_000) / period.unwrap_or(DEFAULT_PERIOD)).next_multiple_of(10_000)
            }
            None => u64::MAX,
        };
        out.push(("CPUQuotaPerSecUSec", Value::U64(per_second)));
    }
    let lists = [("AllowedCPUs", "cpu.cpus", cpu.cpus()), ("AllowedMemoryNodes", "cpu.mems", cpu.mems())];
    for (name, field, list) in lists {
        if let Some(list) = list.as_deref().filter(|l| !l.is_empty())
            && version()? >= 244
        {
            let bits = bits(list)
                .ok_or_else(|| format!("linux.resources.{field}: {list:?} is no list like 0-3,7"))?;
            out.push((name, Value::Bytes(bits)));
        }
    }
    Ok(())
}

/// A list like `0-3,7` as a mask, lowest byte first.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut mask: Vec<u8> = Vec::new();
    for range in list.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last {
            return None;
        }
        for bit in first..=last {
            let (byte, bit) = (usize::from(bit / 8), bit % 8);
            if mask.len() <= byte {
                mask.resize(byte + 1, 0);
            }
            *mask.get_mut(byte)? |= 1 << bit;
        }
    }
    (!mask.is_empty()).then_some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn properties(resources: serde_json::Value, is_v2: bool, version: u32) -> Result<Properties> {
        of(&serde_json::from_value(resources).unwrap(), is_v2, &mut || Ok(version))
    }

    #[test]
    fn properties_as_runc_sets_them() {
        let all = json!({
            "memory": {"limit": 1000, "reservation": 500, "swap": 1500}, "pids": {"limit": -1},
            "cpu": {"shares": 1024, "quota": 1234, "period": 10000, "cpus": "0-1,9", "mems": "0"},
            "blockIO": {"weight": 100}, "unified": {"memory.high": "max", "io.max": "8:0 rbps=1"},
        });
        let u64 = Value::U64;
        assert_eq!(
            properties(all.clone(), true, 255).unwrap(),
            [
                ("MemoryMax", u64(1000)),
                ("MemoryLow", u64(500)),
                ("MemorySwapMax", u64(500)),
                ("CPUWeight", u64(39)),
                ("CPUQuotaPeriodUSec", u64(10_000)),
                ("CPUQuotaPerSecUSec", u64(130_000)),
                ("AllowedCPUs", Value::Bytes(vec![3, 2])),
                ("AllowedMemoryNodes", Value::Bytes(vec![1])),
                ("TasksMax", u64(u64::MAX)),
                ("MemoryHigh", u64(u64::MAX)),
            ]
        );
        // Old systemd, old cgroups.
        assert_eq!(
            properties(
                json!({"memory": {"limit": -1}, "cpu": {"shares": 2, "quota": -1, "period": 9, "cpus": "0"},
                "blockIO": {"weight": 100}}),
                false,
                240
            )
            .unwrap(),
            [
                ("MemoryLimit", u64(u64::MAX)),
                ("CPUShares", u64(2)),
                ("CPUQuotaPerSecUSec", u64(u64::MAX)),
                ("BlockIOWeight", u64(100)),
            ]
        );
        assert_eq!(
            properties(json!({"cpu": {"idle": 1, "shares": 5}}), true, 252).unwrap(),
            [("CPUWeight", u64(0))]
        );
        assert!(properties(json!({"cpu": {"cpus": "x"}}), true, 255).unwrap_err().contains("cpu.cpus"));
    }
}
