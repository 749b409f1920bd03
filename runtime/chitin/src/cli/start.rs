//! `chitin start`: run the process of a created container.

use chitin_control::Status;
use clap::Args;

use crate::container::Directory;
use crate::sandbox::Options;
use crate::sandbox::start::start;
use crate::spec;
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Start {
    /// The container's name
    id: String,
}

impl Start {
    pub fn run(self, options: &Options) -> Result<()> {
        let directory = Directory::open(&options.root, &self.id)?;
        let mut state = directory.state()?;
        match state.status() {
            Status::Stopped => return Err("cannot start a container that has stopped".into()),
            Status::Running | Status::Paused => {
                return Err("cannot start an already running container".into());
            }
            Status::Created | Status::Creating => {}
        }
        let spec = spec::load(directory.path())?;
        start(&directory, &mut state, &spec)
    }
}
