//! `linux.intelRdt`: shares of the cache and of the memory's bandwidth, by groups below `/sys/fs/resctrl`.
//!
//! A group is a directory like a cgroup's: threads are put into its `tasks`, and their later children follow them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;

use super::settings::Dir;
use crate::util::{Context, Result};

pub const MOUNT_POINT: &str = "/sys/fs/resctrl";

/// The group of a container; one that is shared (`closID`) may be there already and is then as it should be, or an error.
pub fn group(top: &Path, rdt: &LinuxIntelRdt, id: &str) -> Result<PathBuf> {
    if !top.join("schemata").exists() {
        return Err(format!(
            "linux.intelRdt: intelRdt is specified in config, but Intel RDT is not supported or enabled: mount resctrl at \
             {} or remove the field",
            top.display()
        ));
    }
    let name = rdt.clos_id().as_deref().filter(|name| !name.is_empty()).unwrap_or(id);
    if name.contains('/') || matches!(name, "." | ".." | "info" | "mon_groups" | "mon_data") {
        return Err(format!("linux.intelRdt.closID: {name:?} cannot be a group's name"));
    }
    Ok(top.join(name))
}

/// The lines for `schemata`.
fn schemata(rdt: &LinuxIntelRdt) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (text, kinds) in [(rdt.l3_cache_schema(), &["L3"][..]), (rdt.mem_bw_schema(), &["MB"][..])] {
        // Lines of the other kind are not this field's.
        let fits = |line: &&str| kinds.iter().any(|kind| line.trim_start().starts_with(kind));
        lines.extend(text.iter().flat_map(|t| t.lines()).filter(fits).map(str::to_owned));
    }
    lines.extend(rdt.schemata().iter().flatten().cloned());
    lines
}

/// Makes the group if it is not there, and sets its shares. Whether it was made.
pub fn set(group: &Path, rdt: &LinuxIntelRdt) -> Result<bool> {
    let made = match fs::create_dir(group) {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
            return Err(format!(
                "linux.intelRdt: cannot make {}: the processor has no class of service left: share one (closID)",
                group.display()
            ));
        }
        Err(e) => return Err(e).context(|| format!("linux.intelRdt: cannot make {}", group.display())),
    };
    let lines = schemata(rdt);
    if lines.is_empty() && !made {
        return Ok(false);
    }
    for line in lines {
        let written = Dir(group).write("schemata", &format!("{line}\n"));
        written.map_err(|e| {
            let why = group.ancestors().nth(1).and_then(|top| Dir(top).read("info/last_cmd_status").ok());
            format!(
                "linux.intelRdt: cannot write {line:?} to {}/schemata: {e} ({})",
                group.display(),
                why.unwrap_or_default()
            )
        })?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_of_a_group() {
        let top = std::env::temp_dir().join(format!("chitin-resctrl-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(top.join("shared")).unwrap();
        let rdt = |json| serde_json::from_value::<LinuxIntelRdt>(json).unwrap();
        let plain = rdt(json!({"l3CacheSchema": "L3:0=f\nMB:0=1", "memBwSchema": "MB:0=70"}));
        let e = group(&top, &plain, "c").unwrap_err();
        assert!(e.contains("not supported or enabled"), "{e}");
        fs::write(top.join("schemata"), "").unwrap();
        assert_eq!(group(&top, &plain, "c"), Ok(top.join("c")));
        assert_eq!(group(&top, &rdt(json!({"closID": "shared"})), "c"), Ok(top.join("shared")));
        assert!(group(&top, &rdt(json!({"closID": "../x"})), "c").is_err());
        assert_eq!(schemata(&plain), ["L3:0=f", "MB:0=70"]);
        assert_eq!(schemata(&rdt(json!({"schemata": ["L2:0=1"]}))), ["L2:0=1"]);
        fs::write(top.join("shared/schemata"), "").unwrap();
        assert_eq!(set(&top.join("shared"), &rdt(json!({"schemata": ["L2:0=1"]}))), Ok(false));
        assert_eq!(fs::read_to_string(top.join("shared/schemata")).unwrap(), "L2:0=1\n");
        // Not a real one: the kernel would have made the file.
        assert!(set(&top.join("new"), &plain).unwrap_err().contains("schemata"));
        assert_eq!(set(&top.join("monitor"), &rdt(json!({}))), Ok(true));
        fs::remove_dir_all(&top).unwrap();
    }
}
