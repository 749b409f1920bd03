//! Attaching a sandbox to a network: what the runtime does on the host's side.
//!
//! With `--network=sandbox` the sentry lives in the container's network namespace (the one that the configuration names,
//! or a new one, which hooks and engines fill between create and start), where its seccomp list leaves it nothing to do.
//! At the start [`take_over`] enters that namespace, reads what is configured there, opens a packet socket for each
//! interface, and keeps the host's own stack from answering ([`silence`]).
//!
//! Neighbours: `sandbox::start` calls it and hands descriptors and configuration to the sentry.

mod dump;
mod netlink;
mod packet;
mod silence;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chitin_control::{DeviceLink, LinkConfig, NetworkConfig};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::util::{Context, Result};
use netlink::Netlink;

/// The most interfaces that a sandbox takes over.
const MAX_LINKS: usize = 32;

/// What a container's start has to do about the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    /// Nothing: no network, the host's, or that of a pod's first container.
    #[default]
    None,
    /// Take over the interfaces of the namespace that the sentry is in.
    Namespace,
    /// Tell the sentry what is in the namespace, whose sockets it uses.
    Shown,
}

/// What a sentry is given.
#[derive(Debug)]
pub struct Attached {
    pub config: NetworkConfig,
    pub fds: Vec<OwnedFd>,
}

/// What there is in the network namespace of the process `pid`.
pub fn show(pid: i32) -> Result<Attached> {
    within(namespace_of(pid)?, || {
        let config = dump::dump(&mut Netlink::open()?)?;
        Ok(Attached { config, fds: Vec::new() })
    })
}

fn namespace_of(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path).context(|| format!("cannot open {path}"))
}

/// Takes over the network namespace of the process `pid`.
pub fn take_over(pid: i32) -> Result<Attached> {
    within(namespace_of(pid)?, || {
        let mut netlink = Netlink::open()?;
        for link in dump::dump(&mut netlink)?.links.iter().filter(|link| can_take(link)) {
            silence::settle(&mut netlink, link)?;
        }
        let mut config = dump::dump(&mut netlink)?;
        config.links.retain(|link| is_loopback(link) || can_take(link));
        let kept = |index: u32| config.links.iter().any(|link| link.index == index);
        config.routes.retain(|route| route.hops.iter().all(|hop| kept(hop.link)));
        config.neighbours.retain(|neighbour| kept(neighbour.link));
        if config.links.len() > MAX_LINKS {
            return Err(format!("the network namespace has more than {MAX_LINKS} interfaces"));
        }
        let mut fds = Vec::new();
        for link in config.links.iter_mut().filter(|link| !is_loopback(link)) {
            let (fd, offload) = packet::open(link.index, &link.name)?;
            let number = u32::try_from(fds.len()).context(|| "descriptors".into())?;
            link.device = Some(DeviceLink::Packet { fd: number, offload });
            fds.push(fd);
        }
        // Last: from here on nobody answers until the sentry does.
        silence::silence(&mut netlink, &config)?;
        Ok(Attached { config, fds })
    })
}

/// While the process is in another network namespace than its own, for what it clones there.
#[derive(Debug)]
pub struct Elsewhere {
    home: File,
}

impl Elsewhere {
    pub fn enter(path: &Path) -> Result<Self> {
        let failed = || format!("cannot join the network namespace {}", path.display());
        let home = File::open("/proc/self/ns/net").context(failed)?;
        setns(File::open(path).context(failed)?, CloneFlags::CLONE_NEWNET).context(failed)?;
        Ok(Self { home })
    }

    pub fn leave(self) -> Result<()> {
        setns(self.home, CloneFlags::CLONE_NEWNET)
            .context(|| "cannot return to the own network namespace".into())
    }
}

/// Runs `work` in a network namespace, in a thread of its own, so that ours stays where it is.
fn within<T: Send>(namespace: File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let failed = || "cannot enter the container's network namespace".to_owned();
            let own = std::fs::metadata("/proc/self/ns/net").context(failed)?;
            // Into the own one not even its owner may go without privileges.
            if own.ino() != namespace.metadata().context(failed)?.ino() {
                setns(&namespace, CloneFlags::CLONE_NEWNET).context(failed)?;
            }
            work()
        });
        thread.join().unwrap_or_else(|_| Err("looking at the network namespace failed".into()))
    })
}

fn is_loopback(link: &LinkConfig) -> bool {
    link.flags & libc::IFF_LOOPBACK.cast_unsigned() != 0
}

/// Interfaces that carry Ethernet frames or bare IP packets. The tunnels that the kernel puts into every namespace are
/// neither.
fn can_take(link: &LinkConfig) -> bool {
    let up = link.flags & libc::IFF_UP.cast_unsigned() != 0;
    match link.hardware {
        libc::ARPHRD_ETHER => up,
        libc::ARPHRD_NONE => up && link.address.is_empty(),
        _ => false,
    }
}
