//! Another process in a container: asked of its sentry, with a stand-in on the host.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use chitin_control::{ProcessConfig, Request, Response};

use super::console;
use super::extra::Extra;
use super::launch::Child;
use super::link::{Link, misfit};
use super::stand_in::{StandIn, Whom};
use crate::cgroup::Cgroups;
use crate::container::{Directory, State};
use crate::util::{Result, write_atomically};

/// A process to be started.
#[derive(Debug)]
pub struct Execution<'a> {
    pub directory: &'a Directory,
    pub state: &'a State,
    /// Its descriptors are filled in here.
    pub process: ProcessConfig,
    /// The slave of its pty; without it it gets our own standard input, output and error.
    pub terminal: Option<OwnedFd>,
    pub extra: Extra,
    pub cgroups: Cgroups,
    pub pid_file: Option<&'a Path>,
    /// Where a pidfd of the stand-in is to go.
    pub pidfd_socket: Option<&'a Path>,
}

/// Starts it. The result is its stand-in, whose end is the process's.
pub fn exec(execution: Execution<'_>) -> Result<Child> {
    let Execution { directory, state, mut process, terminal, extra, cgroups, .. } = execution;
    let mut link = Link::to(directory, state)?;
    let whom =
        Whom { container: &state.id, sandbox: state.sandbox.as_deref(), beside: state.init(), view: None };
    let stand_in = StandIn::prepare(directory, whom, &link, &cgroups, terminal.as_ref())?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut fds = match &terminal {
        Some(slave) => vec![slave.as_fd(); 3],
        None => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
    };
    fds.extend(extra.as_fds());
    process.stdio = [0, 1, 2];
    process.extra = (3..).take(fds.len() - 3).collect();
    let request = Request::Exec { container: state.id.clone(), process: Box::new(process) };
    let pid = match link.call_with(&request, &fds)? {
        Response::Started { pid } => pid,
        other => return Err(misfit(&other)),
    };
    let host_pid = stand_in.pid();
    let child = stand_in.go(Some(pid))?;
    if let Some(path) = execution.pid_file {
        write_atomically(path, host_pid.to_string().as_bytes())?;
    }
    if let Some(socket) = execution.pidfd_socket {
        console::hand_over(socket, "--pidfd-socket", b"setns", child.pidfd())?;
    }
    Ok(child)
}
