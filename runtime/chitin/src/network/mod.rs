//! Attaching a sandbox to a network: what the runtime does on the host's side.
//!
//! With `--network=sandbox` the sentry lives in the container's network namespace (the one that the configuration names,
//! or a new one, which hooks and engines fill between create and start), where its seccomp list leaves it nothing to do.
//! At the start [`take_over`] enters that namespace, reads what is configured there, opens a packet socket for each
//! interface, and keeps the host's own stack from answering ([`silence`]), until the sandbox is gone. A namespace is one
//! sandbox's at a time ([`claim`]).
//!
//! Without a network namespace of the container's there is a proxy instead ([`outbound`], [`proxy`]). A smaller one leads to
//! Docker's name server ([`names`]).
//!
//! Neighbours: `sandbox::start` calls it and hands descriptors and configuration to the sentry.

mod answers;
pub mod claim;
pub mod devices;
mod dump;
mod names;
mod netlink;
pub mod outbound;
mod packet;
pub mod proxy;
mod relay;
mod silence;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chitin_control::rtnetlink::{can_take, is_loopback};
use chitin_control::{DeviceLink, LaterConfig, NetworkConfig};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;
use crate::sandbox::launch::Child;
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
    /// Reach out through a proxy in the runtime's network namespace.
    Outbound,
}

/// What a sentry is given.
#[derive(Debug)]
pub struct Attached {
    pub config: NetworkConfig,
    pub fds: Vec<OwnedFd>,
    /// The network or name proxy, to be released or ended with the sandbox.
    pub proxy: Option<Child>,
    /// What the host's stack there chose ports from before, if that has changed.
    pub ports: Option<String>,
}

/// What there is in the network namespace of the process `pid`, whose sockets the container `id` uses.
pub fn show(root: &Path, id: &str, pid: i32) -> Result<Attached> {
    let shown = within(namespace_of(pid)?, || {
        // Its addresses answer to whoever has taken them over.
        let Some(_free) = claim::claim()? else { return Ok(None) };
        let config = dump::dump(&mut Netlink::open()?)?;
        Ok(Some(Attached { config, fds: Vec::new(), proxy: None, ports: None }))
    })?;
    shown.ok_or_else(|| claim::refusal(root, id, pid))
}

fn namespace_of(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path).context(|| format!("cannot open {path}"))
}

/// Who else may put something into the network namespace of a sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    /// The configuration names the namespace, so it is somebody's.
    pub named: bool,
    /// Hooks have been told of it.
    pub told: bool,
}

/// Takes over the network namespace of the process `pid`, in which the container `id` is. `root`: where containers are kept.
pub fn take_over(root: &Path, id: &str, pid: i32, others: Others, cgroups: &Cgroups) -> Result<Attached> {
    let taken = take_interfaces(pid, others)?;
    let (attached, names) = taken.ok_or_else(|| claim::refusal(root, id, pid))?;
    if names { names::with_proxy(id, attached, pid, cgroups) } else { Ok(attached) }
}

/// What there is to take over, and whether the engine's name server is there as well, or may come. `None`: it is another
/// sandbox's.
fn take_interfaces(pid: i32, others: Others) -> Result<Option<(Attached, bool)>> {
    within(namespace_of(pid)?, || {
        let Some(claim) = claim::claim()? else { return Ok(None) };
        // Before anything is looked at, so that no change is missed.
        let news = netlink::news()?;
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
        // A packet socket makes the sentry's end wait for the host's kernel, 8 ms or so: not for nothing.
        let follow = others.named || others.told || !config.links.iter().all(is_loopback);
        let served = names::are_served();
        let (names, ports) = match (served, follow && !others.named) {
            (false, false) => (false, None),
            (true, _) => (true, answers::confine_ports()?),
            // It is not needed yet, and may never be.
            (false, true) => match answers::confine_ports() {
                Ok(before) => (true, before),
                Err(e) => {
                    crate::log::warn(&format!("names of networks that are connected later: {e}"));
                    (false, None)
                }
            },
        };
        config.answers = names.then_some((*answers::PORTS.start(), *answers::PORTS.end()));
        let mut fds = Vec::new();
        for link in config.links.iter_mut().filter(|link| !is_loopback(link)) {
            let (fd, offload) = packet::open(link.index, &link.name, names)?;
            let number = u32::try_from(fds.len()).context(|| "descriptors".into())?;
            link.device = Some(DeviceLink { fd: number, offload });
            fds.push(fd);
        }
        let known: Vec<u32> = config.links.iter().map(|link| link.index).collect();
        let rest = follow.then(|| packet::open_rest(&known, names)).transpose()?;
        let mut hand_over = |fd: OwnedFd| -> Result<u32> {
            fds.push(fd);
            u32::try_from(fds.len() - 1).context(|| "descriptors".into())
        };
        if let Some((frames, offload)) = rest {
            let (news, frames) = (hand_over(news)?, hand_over(frames)?);
            config.later = Some(LaterConfig { news, frames, offload });
        }
        config.claim = Some(hand_over(claim)?);
        // Last: from here on nobody answers until the sentry does.
        silence::silence(&mut netlink, names)?;
        Ok(Some((Attached { config, fds, proxy: None, ports }, names)))
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
