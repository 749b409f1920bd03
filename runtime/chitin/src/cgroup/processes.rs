//! The processes in a container's cgroups: listing and killing them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cgroups, Kind};
use crate::util::{Context, Result};

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Cgroups {
    /// The host's pids of all processes inside, also of cgroups below.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut found = BTreeSet::new();
        // All are in all hierarchies, so any will do.
        let leaf = self.leaves.iter().find(|leaf| leaf.kind == Kind::V2);
        if let Some(leaf) = leaf.or(self.leaves.first()).filter(|leaf| leaf.kind != Kind::Resctrl) {
            collect(&leaf.path, &mut found)?;
        }
        Ok(found.into_iter().collect())
    }

    /// Sends SIGKILL to every process inside and waits until all are gone.
    pub fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_PATIENCE;
        let at_once =
            self.v2_leaf().is_some_and(|dir| dir.has("cgroup.kill") && dir.write("cgroup.kill", "1").is_ok());
        loop {
            let inside = self.processes()?;
            if inside.is_empty() {
                return Ok(());
            }
            if !at_once {
                // Frozen, nobody forks faster than we kill. If it cannot be frozen, the rounds will do.
                let frozen = self.freeze().is_ok();
                for pid in self.processes()? {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                if frozen {
                    self.thaw()?;
                }
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{} killed process(es) of the container are still there (the first is {}): see its \
                     /proc/PID/stack",
                    inside.len(),
                    inside.first().copied().unwrap_or_default()
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn collect(directory: &Path, found: &mut BTreeSet<i32>) -> Result<()> {
    let file = directory.join("cgroup.procs");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        // Removed by now.
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        // A threaded cgroup, whose processes its parent lists.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        Err(e) => return Err(e).context(|| format!("cannot read {}", file.display())),
    };
    // Zero stands for a process that our PID namespace does not have.
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found)?;
        }
    }
    Ok(())
}
