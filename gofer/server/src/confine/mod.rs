//! How the gofer shuts itself in, and the entry point of the process.
//!
//! The launcher clones the gofer into a new mount namespace (required) and new net, ipc, uts, pid and
//! possibly user namespaces, and passes host paths as they are seen there. It also closes what the gofer
//! must not inherit: descriptors other than 0–2 and the socket. Then, in this order, [`run`]
//! 1. builds a root that holds the donated trees and the process's own descriptor directory only
//!    ([`mounts`]), and pivots into it;
//! 2. opens the roots and prepares the server;
//! 3. gives up privileges and becomes undumpable ([`caps`]);
//! 4. installs the seccomp list ([`seccomp`]);
//! 5. serves until the control channel closes.
//!
//! Every step that fails ends the gofer with cause and remedy; nothing is served before all are done.

mod caps;
mod mounts;
mod seccomp;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::error::Error;
use crate::server::{Limits, Server};

/// A tree, or a single file, of the host that the sentry may use.
#[derive(Clone, Debug)]
pub struct RootConfig {
    /// Where it is, in the mount namespace the gofer is started in. Followed if it is a symbolic link.
    pub path: PathBuf,
    /// Nothing below can be changed, neither by request nor through descriptors.
    pub readonly: bool,
    /// What is mounted below belongs to it (`rbind`). Otherwise it is not reachable.
    pub recursive: bool,
    /// Files cannot be mapped executable either. Set-id bits and devices are off in any case.
    pub noexec: bool,
}

/// All that a gofer needs to know.
#[derive(Debug)]
pub struct GoferConfig {
    /// Attached by their position in this list.
    pub roots: Vec<RootConfig>,
    /// The server's end of a [`chitin_gofer_protocol::transport::channel`].
    pub socket: OwnedFd,
    pub limits: Limits,
}

/// Confines the calling process, which must have one thread, and serves until the sentry hangs up.
pub fn run(config: GoferConfig) -> Result<(), Error> {
    let GoferConfig { roots, socket, limits } = config;
    raise_nofile()?;
    // Modes are what the client says; its own kernel has applied the guest's umask.
    umask(Mode::empty());
    let roots = mounts::enter(&roots)?;
    let server = Server::new(roots, mounts::OWN_FDS, limits)?;
    caps::drop_privileges()?;
    seccomp::install()?;
    server.serve(socket);
    Ok(())
}

/// Makes room for descriptors, as far as that needs no privilege.
fn raise_nofile() -> Result<(), Error> {
    let failed = |errno| Error::host("raise the limit of open files", "RLIMIT_NOFILE", errno);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
    }
    Ok(())
}
