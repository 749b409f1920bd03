//! `chitin delete`: remove what is left of a container.

use chitin_control::Status;
use clap::Args;

use crate::container::{Directory, NOT_FOUND, State};
use crate::sandbox::ends;
use crate::sandbox::{Options, clean_up};
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Delete {
    /// Kill the container first, and do not mind if it is not there
    #[arg(short, long)]
    force: bool,
    /// The container's name
    id: String,
}

impl Delete {
    pub fn run(self, options: &Options) -> Result<()> {
        let directory = match Directory::open(&options.root, &self.id) {
            Err(e) if self.force && e == NOT_FOUND => return Ok(()),
            other => other?,
        };
        let state = match State::load(directory.path()) {
            Ok(Some(state)) => state,
            // We hold the lock, so nobody is creating it: a leftover, or a damaged file.
            Ok(None) if !self.force => return Err(NOT_FOUND.into()),
            Err(e) if !self.force => return Err(e),
            _ => return directory.remove(),
        };
        match state.status() {
            Status::Running | Status::Paused if !self.force && !ends(&directory, &state) => {
                Err(format!("cannot delete container {} that is not stopped: {}", self.id, state.status()))
            }
            _ => clean_up(directory, &state),
        }
    }
}
