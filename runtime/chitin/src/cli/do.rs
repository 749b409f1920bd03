//! `chitin do`: a command in a sandbox, without a bundle, an image or a daemon.
//!
//! The root file system is the host's (or a directory), seen through a copy-on-write layer, so that nothing on the
//! host changes, except in volumes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chitin_control::{NetworkMode, OverlayMode};
use clap::Args;

use super::Network;
use crate::network::outbound::Publish;
use crate::sandbox::console::{Pty, own_size};
use crate::sandbox::extra::Extra;
use crate::sandbox::foreground::{Signals, Whole, attend};
use crate::sandbox::{Creation, Options, Sandbox};
use crate::spec::AdHoc;
use crate::util::{Context, Result};

#[derive(Debug, Args)]
pub struct Do {
    /// Root file system instead of the host's
    #[arg(long, value_name = "DIR", default_value = "/")]
    rootfs: PathBuf,
    /// HOST:CONTAINER[:ro]: make a host directory or file visible, and writable unless ro
    #[arg(long, short, value_name = "VOLUME")]
    volume: Vec<String>,
    /// NAME=VALUE, or NAME to pass it on
    #[arg(long, short, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Working directory [default: the current one, if it exists in the sandbox]
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Whose network the command sees (overrides the global flag)
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// What the command may connect to (overrides the global flag)
    #[arg(long, value_name = "POLICY|FILE")]
    egress: Option<String>,
    /// [ADDRESS:]HOST:GUEST[/udp]: have connections (or datagrams) to a port of this machine go to one of the sandbox
    #[arg(long, short, value_name = "PORTS", value_parser = Publish::parse)]
    publish: Vec<Publish>,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// UID[:GID], as numbers
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    args: Vec<String>,
}

impl Do {
    pub fn run(self, mut options: Options) -> Result<ExitCode> {
        if let Some(network) = self.network {
            options.network = network.into();
        }
        options.egress = self.egress.or(options.egress);
        if !self.publish.is_empty() && options.network != NetworkMode::Sandbox {
            return Err("--publish needs --network=sandbox".into());
        }
        options.publish = self.publish;
        if options.overlay == OverlayMode::None {
            // Not silently ignored: `do` on the host's own root must never write to it.
            return Err(
                "--overlay=none is not possible with `do`: use --volume for what may be changed".into()
            );
        }
        let rootfs =
            std::fs::canonicalize(&self.rootfs).context(|| format!("--rootfs {}", self.rootfs.display()))?;
        let spec = AdHoc {
            rootfs,
            volumes: self.volume,
            env: self.env,
            cwd: self.cwd,
            tty: self.tty,
            user: self.user,
            args: self.args,
        }
        .spec()?;
        crate::container::sweep(&options.root);
        let signals = Signals::catch()?;
        let pty = if self.tty { Some(Pty::open(own_size())?) } else { None };
        let (master, terminal) = pty.map(|p| (p.master, p.slave)).unzip();
        // Two of them at once are two processes, and what a killed one left is swept away above.
        let id = format!("do-{}", std::process::id());
        let mut sandbox = Sandbox::create(
            &options,
            Creation {
                extra: Extra::default(),
                id: &id,
                bundle: Path::new("/"),
                spec: &spec,
                start: true,
                ephemeral: true,
                plain_command: true,
                terminal,
                pid_file: None,
                pidfd_socket: None,
            },
        )?;
        attend(&mut Whole::new(&mut sandbox), &signals, master).map(ExitCode::from)
    }
}
