//! How the gofer shuts itself in, and the entry point of the process.
//!
//! The launcher clones the gofer into a new mount namespace (required) and new net, ipc, uts, pid and
//! possibly user namespaces, and passes host paths as they are seen there. It also closes what the gofer
//! must not inherit: descriptors other than 0–2 and the socket. Then, in this order, [`run`]
//! 1. builds a root that holds the donated trees and the process's own descriptor directory only
//!    ([`mounts`]), and pivots into it;
//! 2. opens the roots, prepares the server, and moves to the container's user namespace if it has one;
//! 3. takes on its label, if it has one (SELinux; before it changes its namespace), gives up privileges and becomes undumpable ([`caps`]);
//! 4. installs the seccomp list ([`seccomp`]);
//! 5. serves until the control channel closes.
//!
//! Every step that fails ends the gofer with cause and remedy; nothing is served before all are done.

mod caps;
mod mounts;
mod seccomp;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::error::Error;
use crate::server::{Limits, Server};

/// A tree, or a single file, of the host that the sentry may use.
#[derive(Debug)]
pub struct RootConfig {
    /// Where it is, in the mount namespace the gofer is started in. Followed if it is a symbolic link.
    pub path: PathBuf,
    /// Nothing below can be changed, neither by request nor through descriptors.
    pub readonly: bool,
    /// What is mounted below belongs to it (`rbind`). Otherwise it is not reachable.
    pub recursive: bool,
    /// Files cannot be mapped executable either. Set-id bits and devices are off in any case.
    pub noexec: bool,
    /// Its files' ids are translated by this user namespace; those of what is mounted below, too, if the flag says so.
    pub id_mapped: Option<(OwnedFd, bool)>,
}

/// All that a gofer needs to know.
#[derive(Debug)]
pub struct GoferConfig {
    /// Attached by their position in this list.
    pub roots: Vec<RootConfig>,
    /// The server's end of a [`chitin_gofer_protocol::transport::channel`].
    pub socket: OwnedFd,
    pub limits: Limits,
    /// Where the process serves, as its root: ids are the guest's there. Without it: where it has been started.
    pub user_ns: Option<OwnedFd>,
    /// A file of this thread's attributes, and the label that is to be written to it once the mounts are made.
    pub label: Option<(File, String)>,
}

/// Confines the calling process, which must have one thread, and serves until the sentry hangs up.
pub fn run(config: GoferConfig) -> Result<(), Error> {
    let GoferConfig { roots, socket, limits, user_ns, label } = config;
    raise_nofile()?;
    // Modes are what the client says; its own kernel has applied the guest's umask.
    umask(Mode::empty());
    let roots = mounts::enter(&roots)?;
    let server = Server::new(roots, mounts::OWN_FDS, limits)?;
    // Before credentials change, with which the file was opened.
    if let Some((mut file, label)) = label {
        file.write_all(label.as_bytes()).map_err(|e| {
            Error::new(
                format!("take on the label {label:?}"),
                e,
                "process.selinuxLabel must be one that the host's policy knows",
            )
        })?;
    }
    // Its own root is the host's root's.
    if let Some(namespace) = user_ns {
        become_root_of(&namespace)?;
    }
    caps::drop_privileges()?;
    seccomp::install()?;
    server.serve(socket);
    Ok(())
}

/// Moves to a user namespace, where files have the ids that guests give them and power ends at ids that it does not map.
fn become_root_of(namespace: &OwnedFd) -> Result<(), Error> {
    setns(namespace, CloneFlags::CLONE_NEWUSER)
        .map_err(|e| Error::host("enter the container's user namespace (setns)", "CLONE_NEWUSER", e))?;
    let root = || {
        setgroups(&[])?;
        setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
        setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
    };
    root().map_err(|e| Error::host("become root of the container's user namespace", "(setresuid)", e))
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
