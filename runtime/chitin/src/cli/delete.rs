//! `chitin delete`: remove what is left of a container.

use chitin_control::Status;
use clap::Args;

use crate::container::{self, Directory, NOT_FOUND, State};
use crate::sandbox::ends;
use crate::sandbox::{Options, clean_up};
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Delete {
    /// Kill the container first, and do not mind if it is not there
    #[arg(short, long)]
    force: bool,
    /// The name is an extended regular expression: all containers that it matches (failures are warnings)
    #[arg(short, long)]
    regex: bool,
    /// The container's name
    id: String,
}

impl Delete {
    pub fn run(self, options: &Options) -> Result<()> {
        if !self.regex {
            return self.delete(options, &self.id);
        }
        for id in container::matching(&options.root, &self.id)? {
            if let Err(e) = self.delete(options, &id) {
                crate::log::warn(&e);
            }
        }
        Ok(())
    }

    fn delete(&self, options: &Options, id: &str) -> Result<()> {
        let directory = match Directory::open(&options.root, id) {
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
                Err(format!("cannot delete container {id} that is not stopped: {}", state.status()))
            }
            _ => clean_up(directory, &state),
        }
    }
}
