//! `chitin pause` and `chitin resume`: stop a container where it stands, and let it go on.
//!
//! The sentry stops the guest, so that its clocks and waits know. The host's freezer is only for a sentry that does not:
//! it cannot stop a process that waits in a system call for the sentry's answer. Afterwards nobody need ask the sentry:
//! that it is paused stands in the state file.

use chitin_control::{Request, Status};
use clap::Args;

use crate::container::Directory;
use crate::sandbox::Options;
use crate::sandbox::link::Link;
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Pause {
    /// The container's name
    id: String,
}

impl Pause {
    pub fn run(self, options: &Options) -> Result<()> {
        let directory = Directory::open(&options.root, &self.id)?;
        let mut state = directory.state()?;
        if !matches!(state.status(), Status::Running | Status::Created) {
            return Err("container not running".into());
        }
        let cgroups = directory.cgroups()?;
        let stopped = Link::to(&directory, &state)
            .and_then(|mut link| link.order(&Request::Pause { container: self.id.clone() }));
        if let Err(e) = stopped {
            if cgroups.is_empty() {
                return Err(format!("{e} (and the container has no cgroup with a freezer)"));
            }
            crate::log::debug(&format!("the host's freezer stops the container: {e}"));
            if let Err(e) = cgroups.freeze() {
                let _ = cgroups.thaw();
                return Err(e);
            }
        }
        state.paused = true;
        state.save(directory.path())
    }
}

#[derive(Debug, Args)]
pub struct Resume {
    /// The container's name
    id: String,
}

impl Resume {
    pub fn run(self, options: &Options) -> Result<()> {
        let directory = Directory::open(&options.root, &self.id)?;
        let mut state = directory.state()?;
        if state.status() != Status::Paused {
            return Err("container not paused".into());
        }
        let cgroups = directory.cgroups()?;
        if !cgroups.is_empty() {
            cgroups.thaw()?;
        }
        let resumed = Link::to(&directory, &state)
            .and_then(|mut link| link.order(&Request::Resume { container: self.id }));
        match resumed {
            // The freezer alone had stopped it.
            Err(e) if !cgroups.is_empty() => crate::log::debug(&e),
            other => other?,
        }
        state.paused = false;
        state.save(directory.path())
    }
}
