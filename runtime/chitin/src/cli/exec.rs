//! `chitin exec`: another process in a container.

use std::path::PathBuf;
use std::process::ExitCode;

use chitin_control::Status;
use clap::Args;

use super::create::{check_console, console_size};
use crate::container::Directory;
use crate::sandbox::Options;
use crate::sandbox::console::{Pty, own_size};
use crate::sandbox::exec::{Execution, exec};
use crate::sandbox::extra::Extra;
use crate::sandbox::foreground::{Signals, attend};
use crate::spec::{self, ExecFlags};
use crate::util::Result;

/// What runc's `exec` ends with when it fails itself.
const FAILURE: u8 = 255;

#[derive(Debug, Args)]
pub struct Exec {
    /// Send the terminal's master to this unix socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// NAME=VALUE
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// UID[:GID], as numbers
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Further groups, as numbers
    #[arg(short = 'g', long, value_name = "GID", allow_negative_numbers = true, value_delimiter = ',')]
    additional_gids: Vec<i64>,
    /// The process as in config.json's "process"; flags about it are then ignored
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait for the process's end
    #[arg(short, long)]
    detach: bool,
    /// Write the host pid of the process here
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Only where the host has SELinux, and not applied: the process makes no host syscalls that it could confine
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Only where the host has AppArmor, and not applied: the process makes no host syscalls that it could confine
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Forbid the process to gain privileges by execve
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_new_privs: Option<bool>,
    /// A further capability
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Number of further descriptors to pass on (files, pipes, connected sockets, devices)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Run it in a cgroup below the container's (only / is supported)
    #[arg(long, value_name = "CGROUP")]
    cgroup: Vec<String>,
    /// Also in a paused container: the process waits for `resume`
    #[arg(long)]
    ignore_paused: bool,
    /// The container's name
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    args: Vec<String>,
}

impl Exec {
    pub fn preserve_fds(&self) -> u32 {
        self.preserve_fds
    }

    pub fn run(self, options: &Options, extra: Result<Extra>) -> ExitCode {
        extra.and_then(|extra| self.attempt(options, extra)).unwrap_or_else(|e| {
            crate::log::error(&format!("exec failed: {e}"));
            ExitCode::from(FAILURE)
        })
    }

    fn attempt(self, options: &Options, extra: Extra) -> Result<ExitCode> {
        let directory = Directory::find(&options.root, &self.id)?;
        let state = directory.state()?;
        match state.status() {
            Status::Stopped => return Err("cannot exec in a stopped container".into()),
            Status::Paused if !self.ignore_paused => {
                return Err("cannot exec in a paused container (use --ignore-paused to override)".into());
            }
            _ => {}
        }
        for cgroup in &self.cgroup {
            let path = cgroup.split_once(':').map_or(cgroup.as_str(), |(_, path)| path);
            if !path.trim_matches('/').is_empty() && path != "." {
                return Err(format!(
                    "--cgroup {cgroup}: not supported: all of a sandbox's processes are in the container's cgroup"
                ));
            }
        }
        let config = spec::load(directory.path())?;
        let container = config.process().as_ref().ok_or("the container has no process")?;
        let process = match &self.process {
            Some(path) => spec::exec_from_file(container, path)?,
            None => spec::exec_from_flags(container, &self.flags())?,
        };
        spec::check_labels(&process)?;
        let terminal = process.terminal().unwrap_or(false);
        check_console(terminal, self.detach, self.console_socket.as_deref())?;
        // Before the process exists, so that no signal is lost.
        let signals = if self.detach { None } else { Some(Signals::catch()?) };
        let mut master = None;
        let mut slave = None;
        if terminal {
            let pty = Pty::open(console_size(&process).or_else(own_size))?;
            match &self.console_socket {
                Some(socket) => pty.send_master(socket)?,
                None => master = Some(pty.master),
            }
            slave = Some(pty.slave);
        }
        let mut settings = spec::process_config(&process);
        settings.cpus = spec::exec_cpus(&process);
        let mut child = exec(Execution {
            directory: &directory,
            state: &state,
            process: settings,
            terminal: slave,
            extra,
            cgroups: directory.cgroups()?,
            pid_file: self.pid_file.as_deref(),
        })?;
        match signals {
            None => {
                child.release();
                Ok(ExitCode::SUCCESS)
            }
            Some(signals) => attend(&mut child, &signals, master).map(ExitCode::from),
        }
    }

    fn flags(&self) -> ExecFlags {
        ExecFlags {
            args: self.args.clone(),
            tty: self.tty,
            user: self.user.clone(),
            additional_gids: self.additional_gids.clone(),
            cap: self.cap.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            no_new_privs: self.no_new_privs,
            apparmor: self.apparmor.clone(),
            process_label: self.process_label.clone(),
        }
    }
}
