//! Launching a container's gofer.

use std::io::{PipeReader, Read, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use chitin_control::IdMappings;

use super::launch::{self, Child, Role};
use super::{Options, ids, role};
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
    /// The label it takes on.
    pub selinux: Option<&'a str>,
}

impl Gofer {
    /// Clones it, in namespaces of its own and in the container's cgroup. With `maps` its ids are the container's: as root
    /// it moves to a user namespace with them once its mounts are made, rootless it is born there.
    pub fn launch(
        exe: BorrowedFd<'_>,
        options: &Options,
        id: &str,
        (roots, maps): (Vec<GoferRoot>, Option<&IdMappings>),
        streams: Streams<'_>,
        cgroups: Option<&Cgroups>,
    ) -> Result<Self> {
        let failed = || "cannot prepare the sandbox".to_owned();
        let (gofer_socket, socket) = chitin_gofer_protocol::transport::channel()
            .context(|| "cannot make the gofer's socket (is net.core.wmem_max very small?)".into())?;
        let user = if options.rootless { libc::CLONE_NEWUSER } else { 0 };
        let root = nix::unistd::geteuid().is_root();
        let user_ns =
            maps.filter(|_| root).map(|maps| ids::namespace(exe, maps, streams.null)).transpose()?;
        let mut id_mapped = Vec::new();
        let mut trees = Vec::new();
        for tree in roots {
            let namespace =
                tree.id_mapped.as_ref().map(|(maps, _)| mount_ids(exe, &tree, maps, streams.null));
            let namespace = namespace.transpose()?;
            trees.push((tree, namespace.as_ref().map(AsRawFd::as_raw_fd)));
            id_mapped.extend(namespace);
        }
        let (says, says_write) = pipe().context(failed)?;
        let says_write = duplicate(says_write)?;
        let config = role::config_memfd(&role::GoferBoot {
            socket: gofer_socket.as_raw_fd(),
            roots: trees,
            user_ns: user_ns.as_ref().map(AsRawFd::as_raw_fd),
            selinux: streams.selinux.map(str::to_owned),
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
                inherited: [gofer_socket.as_raw_fd()]
                    .into_iter()
                    .chain(user_ns.iter().chain(&id_mapped).map(AsRawFd::as_raw_fd))
                    .collect(),
                terminal: None,
                namespace_root: options.rootless,
                cgroups,
                memory: None,
            },
        )?;
        if options.rootless {
            ids::map(&child, maps.unwrap_or(&ids::own()))?;
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

/// The user namespace of an id-mapped mount.
fn mount_ids(
    exe: BorrowedFd<'_>,
    tree: &GoferRoot,
    maps: &IdMappings,
    null: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    if !nix::unistd::geteuid().is_root() {
        return Err(format!(
            "cannot id-map the mount of {}: that takes root; remove its mappings",
            tree.path.display()
        ));
    }
    ids::namespace(exe, maps, null)
}
