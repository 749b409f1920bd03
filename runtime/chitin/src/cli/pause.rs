//! `chitin pause` and `chitin resume`: stop a container where it stands, and let it go on.
//!
//! The sentry stops the guest first, so that its clocks and waits know; then the host's freezer stops everything,
//! the sentry included. From then on nobody asks the sentry anything: that it is paused stands in the state file.

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
        Link::to(&directory, &state)?.order(&Request::Pause { container: self.id.clone() })?;
        let cgroups = directory.cgroups()?;
        let frozen = if cgroups.is_empty() { Ok(()) } else { cgroups.freeze() };
        if let Err(e) = frozen {
            let _ = cgroups.thaw();
            let _ = Link::to(&directory, &state)?.order(&Request::Resume { container: self.id });
            return Err(e);
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
        Link::to(&directory, &state)?.order(&Request::Resume { container: self.id })?;
        state.paused = false;
        state.save(directory.path())
    }
}
