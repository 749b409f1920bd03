//! Launching a container's gofer.

use std::io::{PipeReader, Read, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::launch::{self, Child, Role};
use super::{Options, map_to_own, role};
use crate::cgroup::Cgroups;
use crate::spec::GoferRoot;
use crate::util::{Context, Result, duplicate};

/// A gofer that waits to be let go.
#[derive(Debug)]
pub struct Gofer {
    pub child: Child,
    /// The sentry's end of its socket.
    pub socket: OwnedFd,
    /// Its standard output: why it could not start.
    says: PipeReader,
}

/// Where a role's standard streams go.
#[derive(Clone, Copy, Debug)]
pub struct Streams<'a> {
    pub null: BorrowedFd<'a>,
    /// Last words of a process that dies.
    pub last_words: BorrowedFd<'a>,
    /// The last words go to a log.
    pub log: bool,
}

impl Gofer {
    /// Clones it, in namespaces of its own and in the container's cgroup.
    pub fn launch(
        exe: BorrowedFd<'_>,
        options: &Options,
        id: &str,
        roots: Vec<GoferRoot>,
        streams: Streams<'_>,
        cgroups: Option<&Cgroups>,
    ) -> Result<Self> {
        let failed = || "cannot prepare the sandbox".to_owned();
        let (gofer_socket, socket) = chitin_gofer_protocol::transport::channel()
            .context(|| "cannot make the gofer's socket (is net.core.wmem_max very small?)".into())?;
        let user = if options.rootless { libc::CLONE_NEWUSER } else { 0 };
        let (says, says_write) = pipe().context(failed)?;
        let says_write = duplicate(says_write)?;
        let config = role::config_memfd(&role::GoferBoot {
            socket: gofer_socket.as_raw_fd(),
            roots,
            log: streams.log,
            log_format: options.log_format,
        })?;
        let child = launch::spawn(
            exe,
            &Role {
                name: c"gofer",
                id,
                config: config.as_fd(),
                namespaces: super::OWN_NAMESPACES | libc::CLONE_NEWNET | user,
                stdio: [streams.null, says_write.as_fd(), streams.last_words],
                inherited: vec![gofer_socket.as_raw_fd()],
                terminal: None,
                namespace_root: options.rootless,
                cgroups,
            },
        )?;
        if options.rootless {
            map_to_own(&child)?;
        }
        Ok(Self { child, socket, says })
    }

    /// After its end: what it has said of it.
    pub fn last_words(&self) -> Option<String> {
        let mut said = String::new();
        let read = (&self.says).take(65536).read_to_string(&mut said);
        (read.is_ok() && !said.is_empty()).then(|| said.trim_end().to_owned())
    }
}
