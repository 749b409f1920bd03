//! The stand-in: a host process that is what engines take for a guest process.
//!
//! Engines know a process by a host pid: they signal it with kill(2), wait for it, and read its exit status. A process
//! that `exec` starts, and a further container of a pod, exist inside the sentry only, so a small process stands for
//! each: `chitin stand-in`, reparented to the engine when the command that made it ends. It holds the connection on
//! which the process was started and waits there for its end, which becomes its own exit code; passes every signal on;
//! and with a terminal leads that terminal's session on the host, so that keys and hang-ups reach it.
//! Nothing can be passed on of SIGKILL: the connection ends, upon which the sentry kills the process.
//!
//! Neighbours: `exec` and `pod` make it. What the sentry says decides nothing but the exit code.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use chitin_control::{Decoder, Request, Response, encode};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use serde::{Deserialize, Serialize};

use super::foreground::Signals;
use super::launch::{self, Child, Role, own_fd};
use super::link::Link;
use super::role;
use crate::cgroup::Cgroups;
use crate::container::Directory;
use crate::util::{Context, Result, dev_null, duplicate};

/// The exit code when the sentry is gone: that of SIGKILL, which is what has become of the process.
const LOST: u8 = 137;

/// Signals that a terminal makes by itself.
const OF_TERMINALS: [i32; 5] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGWINCH, libc::SIGHUP];

/// What a stand-in is told. Descriptors are numbers in its own process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Boot {
    pub container: String,
    /// The sandbox, if the container is not its first one.
    pub sandbox: Option<String>,
    /// The guest's pid; none for the container's init.
    pub pid: Option<i32>,
    /// The connection on which it was started, with no request under way.
    pub connection: RawFd,
    /// The container's state directory.
    pub directory: RawFd,
    /// A pipe: one byte says that from now on no signal is lost.
    pub ready: RawFd,
}

/// A stand-in that waits to be told whom it stands for.
#[derive(Debug)]
pub struct StandIn {
    child: Child,
    config: File,
    boot: Boot,
    ready: std::io::PipeReader,
    // The child's copies are made by the clone, but its descriptors must exist until then.
    _inherited: (OwnedFd, OwnedFd),
}

impl StandIn {
    /// Clones the process, in the container's cgroup. `terminal` becomes its own.
    pub fn prepare(
        directory: &Directory,
        (container, sandbox): (&str, Option<&str>),
        link: &Link,
        cgroups: &Cgroups,
        terminal: Option<&OwnedFd>,
    ) -> Result<Self> {
        let failed = || "cannot prepare the process that stands for the container's".to_owned();
        let exe = launch::executable()?;
        let null = duplicate(dev_null()?)?;
        let connection = duplicate(link.as_fd())?;
        let directory = duplicate(directory.file())?;
        let (ready, ready_write) = std::io::pipe().context(failed)?;
        let ready_write = duplicate(ready_write)?;
        let config = role::empty_memfd()?;
        let boot = Boot {
            container: container.to_owned(),
            sandbox: sandbox.map(str::to_owned),
            pid: None,
            connection: connection.as_raw_fd(),
            directory: directory.as_raw_fd(),
            ready: ready_write.as_raw_fd(),
        };
        let child = launch::spawn(
            exe.as_fd(),
            &Role {
                name: c"stand-in",
                id: container,
                config: config.as_fd(),
                namespaces: 0,
                stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
                inherited: vec![boot.connection, boot.directory, boot.ready],
                terminal: terminal.map(AsFd::as_fd),
                namespace_root: false,
                cgroups: Some(cgroups),
            },
        )?;
        Ok(Self { child, config, boot, ready, _inherited: (connection, directory) })
    }

    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Waits until it is in the container's cgroup.
    pub fn joined(&mut self) {
        self.child.joined();
    }

    /// Lets it stand for the guest's `pid`, or for the container. Returns once it catches signals.
    pub fn go(mut self, pid: Option<i32>) -> Result<Child> {
        self.boot.pid = pid;
        role::fill_memfd(&mut self.config, &self.boot)?;
        self.child.go()?;
        let mut byte = [0u8];
        match self.ready.read(&mut byte) {
            Ok(1) => Ok(self.child),
            _ => {
                self.child.kill();
                let _ = self.child.wait();
                let why = self.child.startup_failure().unwrap_or_else(|| "it has died".into());
                Err(format!("the process that stands for the container's could not be started: {why}"))
            }
        }
    }
}

/// The role.
pub fn run(boot: Boot) -> Result<ExitCode> {
    let failed = || "stand-in".to_owned();
    let connection = UnixStream::from(own_fd(boot.connection).context(failed)?);
    let directory = own_fd(boot.directory).context(failed)?;
    let ready = own_fd(boot.ready).context(failed)?;
    let signals = Signals::catch_all()?;
    nix::unistd::write(&ready, &[1]).context(failed)?;
    drop(ready);
    connection.set_read_timeout(None).context(failed)?;
    let wait = match boot.pid {
        Some(pid) => Request::WaitExec { container: boot.container.clone(), pid },
        None => Request::Wait { container: boot.container.clone() },
    };
    let wait = encode(&wait).context(failed)?;
    if !matches!(send(connection.as_raw_fd(), &wait, MsgFlags::MSG_NOSIGNAL), Ok(n) if n == wait.len()) {
        return Ok(LOST.into());
    }

    let mut post = Post { boot: &boot, directory, link: None };
    let mut decoder = Decoder::new();
    loop {
        let mut fds = [
            PollFd::new(connection.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
        let [answered, signalled] = fds.map(|fd| fd.any().unwrap_or(true));
        while signalled && let Some((signal, from_kernel)) = signals.next() {
            post.pass_on(signal, from_kernel);
        }
        if answered {
            let mut chunk = [0u8; 4096];
            let length = match (&connection).read(&mut chunk) {
                Ok(n) if n > 0 => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                _ => return Ok(LOST.into()),
            };
            let told = decoder.push(chunk.get(..length).unwrap_or_default()).and_then(|()| decoder.next());
            match told {
                Ok(None) => {}
                Ok(Some(Response::Exited { status })) => return Ok(status.code().into()),
                _ => return Ok(LOST.into()),
            }
        }
    }
}

/// Passes signals on, over a connection of its own that is made when it is first needed.
struct Post<'a> {
    boot: &'a Boot,
    directory: OwnedFd,
    link: Option<Link>,
}

impl Post<'_> {
    fn pass_on(&mut self, signal: i32, from_kernel: bool) {
        let (container, pid) = (self.boot.container.clone(), self.boot.pid);
        // What the kernel sends comes from our terminal; what somebody sends by kill(2) is for the process alone.
        let request = match from_kernel && OF_TERMINALS.contains(&signal) {
            true => Request::Terminal { container, signal, pid },
            false => Request::Signal { container, signal, all: false, pid },
        };
        for _ in 0..2 {
            if self.link.is_none() {
                self.link = Link::connect(self.directory.as_raw_fd(), self.boot.sandbox.as_deref()).ok();
            }
            let Some(link) = &mut self.link else { return };
            match link.call(&request) {
                Ok(_) => return,
                // The process may have ended meanwhile. A broken connection is tried once more.
                Err(_) => self.link = None,
            }
        }
    }
}
