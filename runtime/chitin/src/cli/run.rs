//! `chitin run`: create and start, then stay until the end (or not, with `--detach`).

use std::process::ExitCode;

use clap::Args;

use super::create::{Bundle, check_console, console_size, create_detached, wants_terminal};
use crate::sandbox::console::{Pty, own_size};
use crate::sandbox::extra::Extra;
use crate::sandbox::foreground::{Signals, Whole, attend};
use crate::sandbox::{Creation, Options, Sandbox, pod};
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    bundle: Bundle,
    /// Do not wait for the container's end
    #[arg(short, long)]
    detach: bool,
    /// Keep the container's state after its end, until `delete`
    #[arg(long)]
    keep: bool,
}

impl Run {
    pub fn preserve_fds(&self) -> u32 {
        self.bundle.preserve_fds
    }

    pub fn run(self, options: &Options, extra: Extra) -> Result<ExitCode> {
        let options = &self.bundle.options(options);
        let (path, spec) = self.bundle.load()?;
        crate::container::valid_id(&self.bundle.id)?;
        crate::container::sweep(&options.root);
        let mut creation = Creation {
            id: &self.bundle.id,
            bundle: &path,
            spec: &spec,
            start: true,
            ephemeral: !self.keep && !self.detach,
            plain_command: false,
            terminal: None,
            pid_file: self.bundle.pid_file.as_deref(),
            pidfd_socket: self.bundle.pidfd_socket.as_deref(),
            extra,
        };
        if self.detach {
            creation.terminal = self.bundle.detached_console(&spec)?.map(|p| p.slave);
            create_detached(options, creation)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(sandbox) = pod::sandbox_of(options, &spec, &self.bundle.id) {
            return Err(format!(
                "a container that joins the sandbox {sandbox} can be run with --detach only"
            ));
        }
        check_console(wants_terminal(&spec), false, self.bundle.console_socket.as_deref())?;
        let signals = Signals::catch()?;
        let mut master = None;
        if wants_terminal(&spec) {
            let pty = Pty::open(spec.process().as_ref().and_then(console_size).or_else(own_size))?;
            creation.terminal = Some(pty.slave);
            master = Some(pty.master);
        }
        let mut sandbox = Sandbox::create(options, creation)?;
        let code = attend(&mut Whole::new(&mut sandbox), &signals, master)?;
        if self.keep {
            sandbox.keep();
        }
        Ok(code.into())
    }
}
