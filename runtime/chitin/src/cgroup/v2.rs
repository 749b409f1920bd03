//! cgroup v2: one hierarchy, whose controllers are enabled from parent to child.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::{write, write_if_there};
use crate::util::Result;

/// The controllers that we set something in.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Enables for `directory` what its parent has, as far as the parent allows it.
pub fn enable_controllers(directory: &Path) -> Result<()> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|c| c == name);
    for name in CONTROLLERS {
        if has(&available, name) && !has(&enabled, name) {
            // Refused when the parent has processes of its own: a limit that needs it then fails by its missing file.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{name}"));
        }
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

/// v1's CPU shares (2 to 262144) as a v2 weight (1 to 10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// The limit on swap alone from v1's limit on memory and swap together.
fn swap_maximum(memory: Option<i64>, both: i64) -> Result<Option<String>> {
    match (memory, both) {
        (_, 0) => Ok(None),
        (_, n) if n < 0 => Ok(Some("max".into())),
        (Some(memory), both) if memory > 0 && both >= memory => Ok(Some((both - memory).to_string())),
        _ => Err("config.json: linux.resources.memory.swap: needs a memory limit that is not larger".into()),
    }
}

/// Sets what `resources` says.
pub fn limit(leaf: &Path, resources: &LinuxResources) -> Result<()> {
    let set = |file: &str, value: Option<String>| match value {
        Some(value) => write_if_there(&leaf.join(file), &value),
        None => Ok(()),
    };
    if let Some(memory) = resources.memory() {
        set("memory.max", memory.limit().and_then(maximum))?;
        set("memory.low", memory.reservation().and_then(maximum))?;
        if let Some(both) = memory.swap() {
            set("memory.swap.max", swap_maximum(memory.limit(), both)?)?;
        }
    }
    if let Some(cpu) = resources.cpu() {
        set("cpu.weight", cpu.shares().filter(|v| *v != 0).map(|v| weight(v).to_string()))?;
        if cpu.quota().is_some() || cpu.period().is_some() {
            let quota = cpu.quota().filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
            let period = cpu.period().filter(|p| *p != 0).unwrap_or(100_000);
            set("cpu.max", Some(format!("{quota} {period}")))?;
        }
        set("cpuset.cpus", cpu.cpus().clone().filter(|v| !v.is_empty()))?;
        set("cpuset.mems", cpu.mems().clone().filter(|v| !v.is_empty()))?;
    }
    set("pids.max", resources.pids().as_ref().and_then(|p| maximum(p.limit())))?;
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || file.starts_with("cgroup.") {
            return Err(format!(
                "config.json: linux.resources.unified[{file:?}]: not a file of a controller"
            ));
        }
        write(&leaf.join(file), value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        assert_eq!((weight(2), weight(1024), weight(262_144), weight(0)), (1, 39, 10_000, 1));
        assert_eq!(maximum(0), None);
        assert_eq!(maximum(-1).as_deref(), Some("max"));
        assert_eq!(maximum(5).as_deref(), Some("5"));
        assert_eq!(swap_maximum(Some(10), 15), Ok(Some("5".into())));
        assert_eq!(swap_maximum(None, -1), Ok(Some("max".into())));
        assert!(swap_maximum(None, 5).is_err());
        assert!(swap_maximum(Some(10), 5).is_err());
    }
}
