//! `chitin kill`: a signal for the container's init, or for all its processes.

use std::time::Duration;

use chitin_control::{Request, Status};
use clap::Args;

use crate::container::{self, Directory, signal};
use crate::sandbox::link::Link;
use crate::sandbox::{Options, launch};
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Kill {
    /// To every process of the container
    #[arg(short, long)]
    all: bool,
    /// The name is an extended regular expression: all containers that it matches (failures are warnings)
    #[arg(short, long)]
    regex: bool,
    /// The container's name
    id: String,
    /// Name (with or without SIG) or number
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    signal: String,
}

impl Kill {
    pub fn run(self, options: &Options) -> Result<()> {
        let signal = signal::parse(&self.signal)?;
        if !self.regex {
            return self.send(options, &self.id, signal);
        }
        for id in container::matching(&options.root, &self.id)? {
            if let Err(e) = self.send(options, &id, signal) {
                crate::log::warn(&format!("{id}: {e}"));
            }
        }
        Ok(())
    }

    fn send(&self, options: &Options, id: &str, signal: i32) -> Result<()> {
        let directory = Directory::find(&options.root, id)?;
        let state = directory.state()?;
        let request = Request::Signal { container: id.to_owned(), signal, all: self.all, pid: None };
        match state.status() {
            // Nothing is left to be signalled, which is what --all asks for.
            Status::Stopped if self.all => return Ok(()),
            Status::Stopped => return Err("container not running".into()),
            // As kill(2): nothing but the question whether it is there.
            _ if signal == 0 => return Ok(()),
            // A frozen process can be killed, but cannot go before it is thawed; nor can it read what it is told.
            Status::Paused if signal == libc::SIGKILL => {
                let cgroups = directory.cgroups()?;
                if !cgroups.is_empty() {
                    cgroups.thaw()?;
                }
            }
            Status::Paused => return Link::to(&directory, &state)?.post(&request),
            _ => {}
        }
        let sent = Link::to(&directory, &state).and_then(|mut link| link.order(&request));
        match sent {
            Err(e) if signal == libc::SIGKILL => {
                // A sentry that does not listen gets the signal itself.
                crate::log::debug(&format!("killing the sentry: {e}"));
                launch::kill_and_wait(state.init(), Duration::from_secs(10))
            }
            other => other,
        }
    }
}
