//! `chitin debug`: what every thread of a container does, or waits for; for containers that hang.

use chitin_control::{Request, Response};
use clap::Args;

use super::print;
use crate::container::Directory;
use crate::sandbox::Options;
use crate::sandbox::link::{Link, misfit};
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Debug {
    /// A line per thread: pid/tid and name, its state and system call, what is pending for it, and the platform's view
    #[arg(long, required = true)]
    stacks: bool,
    /// The container's name
    id: String,
}

impl Debug {
    pub fn run(self, options: &Options) -> Result<()> {
        let directory = Directory::find(&options.root, &self.id)?;
        let state = directory.state()?;
        match Link::to(&directory, &state)?.call(&Request::Tasks { container: self.id.clone() })? {
            Response::Tasks { tasks } => {
                print(&tasks.into_iter().map(|line| line + "\n").collect::<String>())
            }
            other => Err(misfit(&other)),
        }
    }
}
