//! cgroup v1: one hierarchy per controller (or group of controllers).

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::{is_v1, is_v2, write, write_if_there};
use crate::util::{Context, Result};

/// The mounted controllers and where they are mounted; `cpu` and `cpuacct` may share a place, which is then listed
/// under each of its names once. The v2 tree of the hybrid layout is listed as `unified`.
pub fn controllers(top: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let entries = fs::read_dir(top).context(|| format!("cannot list {}", top.display()))?;
    for entry in entries.flatten() {
        let Ok(place) = fs::canonicalize(entry.path()) else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_v1(&place) || (name == "unified" && is_v2(&place)) {
            found.push((name, place));
        }
    }
    // Names like "cpu,cpuacct" beside links of the single names.
    found.retain(|(name, _)| !name.contains(','));
    found.sort();
    Ok(found)
}

/// A new cpuset has no CPUs and takes no process until it is given its parent's.
pub fn inherit_cpuset(directory: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(file);
        let is_empty = fs::read_to_string(&own).is_ok_and(|t| t.trim().is_empty());
        if is_empty && let Some(parent) = directory.parent() {
            let inherited = fs::read_to_string(parent.join(file))
                .context(|| format!("cannot read {}", parent.join(file).display()))?;
            write(&own, inherited.trim())?;
        }
    }
    Ok(())
}

/// Sets what `resources` says about one controller.
pub fn limit(controller: &str, leaf: &Path, resources: &LinuxResources) -> Result<()> {
    let set = |file: &str, value: Option<String>| match value {
        Some(value) => write_if_there(&leaf.join(file), &value),
        None => Ok(()),
    };
    match controller {
        "memory" => {
            let Some(memory) = resources.memory() else { return Ok(()) };
            set("memory.limit_in_bytes", memory.limit().map(|v| v.to_string()))?;
            set("memory.soft_limit_in_bytes", memory.reservation().map(|v| v.to_string()))?;
            set("memory.memsw.limit_in_bytes", memory.swap().filter(|v| *v != 0).map(|v| v.to_string()))
        }
        "cpu" => {
            let Some(cpu) = resources.cpu() else { return Ok(()) };
            set("cpu.shares", cpu.shares().filter(|v| *v != 0).map(|v| v.to_string()))?;
            set("cpu.cfs_period_us", cpu.period().filter(|v| *v != 0).map(|v| v.to_string()))?;
            set("cpu.cfs_quota_us", cpu.quota().filter(|v| *v != 0).map(|v| v.to_string()))
        }
        "cpuset" => {
            let Some(cpu) = resources.cpu() else { return Ok(()) };
            set("cpuset.cpus", cpu.cpus().clone().filter(|v| !v.is_empty()))?;
            set("cpuset.mems", cpu.mems().clone().filter(|v| !v.is_empty()))
        }
        "pids" => set("pids.max", resources.pids().as_ref().and_then(|p| super::v2::maximum(p.limit()))),
        _ => Ok(()),
    }
}
