//! How a new process gets into a container's cgroups without the host's slow way.
//!
//! Writing another process's pid to `cgroup.procs` makes the kernel stop all forks and exits of the host, for which it
//! waits until every CPU has passed a quiet point: some 10 ms, of the 50 that a container costs. A process that is cloned
//! into its v2 cgroup (CLONE_INTO_CGROUP), and a thread that moves itself in v1 (`0` written to `tasks`), need no such
//! wait. The files are opened here, with the rights of the runtime, and written by the clone before it does anything else
//! (`sandbox::launch`).

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::{Cgroups, Kind};

/// Open files of a container's cgroups.
#[derive(Debug, Default)]
pub struct Entrances {
    /// The v2 directory.
    into: Option<File>,
    /// `tasks` of the others.
    tasks: Vec<File>,
}

impl Entrances {
    pub fn v2(&self) -> Option<RawFd> {
        self.into.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub fn tasks(&self) -> Vec<RawFd> {
        self.tasks.iter().map(AsRawFd::as_raw_fd).collect()
    }
}

impl Cgroups {
    /// `None`: processes have to be moved from outside ([`Cgroups::add`]), since systemd does it or a file is missing.
    pub fn entrances(&self) -> Option<&Entrances> {
        let open = || {
            let mut all = Entrances::default();
            for leaf in &self.leaves {
                if leaf.kind == Kind::V2 {
                    let directory =
                        OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&leaf.path);
                    all.into = Some(directory.ok()?);
                } else {
                    all.tasks.push(OpenOptions::new().write(true).open(leaf.path.join("tasks")).ok()?);
                }
            }
            Some(all)
        };
        match self.unit {
            Some(_) => None,
            None => self.entrances.get_or_init(open).as_ref(),
        }
    }

    /// Moves a process in that could not be cloned into the v2 cgroup.
    pub fn add_to_v2(&self, pid: i32) -> crate::util::Result<()> {
        self.leaves.iter().filter(|leaf| leaf.kind == Kind::V2).try_for_each(|leaf| leaf.add(pid))
    }
}
