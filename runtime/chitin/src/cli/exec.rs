//! `chitin exec`: another process in a container.

use std::path::PathBuf;
use std::process::ExitCode;

use chitin_control::Status;
use clap::Args;

use super::create::{check_console, console_size};
use super::globals::truth;
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
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    tty: Option<bool>,
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
    /// Send a pidfd of the process to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Only where the host has SELinux: the container's own (no other is applied)
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Only where the host has AppArmor: the container's own (no other is applied)
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Forbid the process to gain privileges by execve
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    no_new_privs: Option<bool>,
    /// A further capability
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Number of further descriptors to pass on (files, pipes, connected sockets, devices)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Run it in a cgroup that the container has made below its own
    #[arg(long, value_name = "PATH")]
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
        let cgroup = sub_cgroup(&self.cgroup)?;
        let config = spec::load(directory.path())?;
        let container = config.process().as_ref().ok_or("the container has no process")?;
        let process = match &self.process {
            Some(path) => spec::exec_from_file(container, path)?,
            None => spec::exec_from_flags(container, &self.flags())?,
        };
        spec::check_labels(&process)?;
        spec::warn_of_others(&process, &config);
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
        settings.cgroup = cgroup;
        settings.even_paused = self.ignore_paused;
        let mut child = exec(Execution {
            directory: &directory,
            state: &state,
            process: settings,
            terminal: slave,
            extra,
            cgroups: directory.cgroups()?,
            pid_file: self.pid_file.as_deref(),
            pidfd_socket: self.pidfd_socket.as_deref(),
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
            tty: self.tty.unwrap_or(false),
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

/// The cgroup that `--cgroup` names. A container has one tree of them (v2), with all controllers; the container's own is
/// there under any controller's name.
fn sub_cgroup(flags: &[String]) -> Result<Option<String>> {
    let mut chosen = None;
    for flag in flags {
        let (controllers, path) = flag
            .split_once(':')
            .map_or((None, flag.as_str()), |(controllers, path)| (Some(controllers), path));
        if controllers.is_some_and(|c| c.split(',').any(str::is_empty)) {
            return Err(format!("invalid --cgroup argument: {flag} (empty <controller> prefix)"));
        }
        if controllers.is_none() && flags.len() > 1 {
            return Err(format!("invalid --cgroup argument: {flag} (missing <controller>: prefix)"));
        }
        if path.split('/').all(|name| name.is_empty() || name == ".") {
            continue;
        }
        if controllers.is_some() {
            return Err(format!(
                "--cgroup {flag}: the container has one tree of cgroups (v2): name the path without a controller"
            ));
        }
        chosen = Some(path.to_owned());
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_below_the_containers() {
        let of = |flags: &[&str]| sub_cgroup(&flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["/"]), Ok(None));
        assert_eq!(of(&["cpu,memory:/", "pids:."]), Ok(None));
        assert_eq!(of(&["a/b"]), Ok(Some("a/b".into())));
        for (wrong, why) in [
            (&["cpu:/a"][..], "one tree"),
            (&["cpu,:/"], "empty <controller>"),
            (&["/", "cpu:/"], "missing <controller>"),
        ] {
            assert!(of(wrong).unwrap_err().contains(why), "{wrong:?}");
        }
    }
}
