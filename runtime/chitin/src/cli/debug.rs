//! `chitin debug`: what every thread of a container does, or waits for; for containers that hang. And the packets of a
//! sandbox, for those that do not hear each other.

use std::path::PathBuf;
use std::time::Duration;

use chitin_control::{Request, Response};
use clap::Args;

use super::{pcap, print};
use crate::container::Directory;
use crate::sandbox::Options;
use crate::sandbox::link::{Link, misfit};
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Debug {
    /// A line per thread: pid/tid and name, its state and system call, what is pending for it, and the platform's view
    #[arg(long, required_unless_present = "pcap")]
    stacks: bool,
    /// Write the packets of the sandbox's interfaces to this file, as pcapng, until interrupted (-: to standard output)
    #[arg(long, value_name = "FILE", conflicts_with = "stacks")]
    pcap: Option<PathBuf>,
    /// End the capture after this time (10s, 1m30s)
    #[arg(long, value_parser = super::events::duration, requires = "pcap")]
    duration: Option<Duration>,
    /// Bytes of each packet to keep
    #[arg(long, value_name = "BYTES", default_value_t = 262_144, requires = "pcap")]
    snaplen: u32,
    /// The container's name
    id: String,
}

impl Debug {
    pub fn run(self, options: &Options) -> Result<()> {
        let directory = Directory::find(&options.root, &self.id)?;
        let state = directory.state()?;
        if let Some(path) = &self.pcap {
            return pcap::capture(Link::to(&directory, &state)?, path, self.snaplen, self.duration);
        }
        match Link::to(&directory, &state)?.call(&Request::Tasks { container: self.id.clone() })? {
            Response::Tasks { tasks } => {
                print(&tasks.into_iter().map(|line| line + "\n").collect::<String>())
            }
            other => Err(misfit(&other)),
        }
    }
}
