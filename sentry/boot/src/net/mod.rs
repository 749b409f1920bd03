//! Attaching the sandbox's network namespace to the world.
//!
//! The runtime has looked at the host's side and sends what it found ([`NetworkConfig`]) with descriptors, once, before the
//! first container starts ([`Network::attach`]): interfaces with a packet socket each, whose frames go to and from the
//! stack ([`device`]), or sockets to the network proxy, by which sockets of the guest reach further than the stack
//! ([`broker`]). What changes on the host's side afterwards is followed ([`follow`]). With `--network=host` there are
//! sockets of the host from the beginning ([`use_host_sockets`]).

mod answers;
mod apply;
mod aside;
mod broker;
mod capture;
mod clear;
mod clock;
mod device;
mod egress;
mod follow;
mod held;

use chitin_abi::netdevice::{ARPHRD_ETHER, IFF_LOOPBACK};
use chitin_abi::socket::{AF_INET, AF_INET6};
use chitin_control::{DeviceLink, LinkConfig, NetworkConfig, NetworkMode, OutboundConfig};
use chitin_kernel::Kernel;
use chitin_kernel::reactor::Reactor;
use chitin_kernel::time::{Deadline, Timer, monotonic};
use chitin_net::NetNs;
use chitin_net::host::{Alarm, HostFamily, Watch, Watcher};
use chitin_net::inet::InetFamily;
use chitin_net::outbound::{Outbound, OutboundFamily};
use chitin_netstack::Congestion;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub use capture::Capture;

/// The sandbox's network.
pub struct Network {
    ns: Arc<NetNs>,
    reactor: Arc<Reactor>,
    mode: NetworkMode,
    attached: AtomicBool,
    /// What says on the host that the network is this sandbox's.
    claim: OnceLock<OwnedFd>,
    egress: egress::Egress,
}

/// Descriptors that came with a message, to be taken by their index.
struct Sent(Vec<Option<OwnedFd>>);

impl Sent {
    fn take(&mut self, index: u32) -> Result<OwnedFd, String> {
        let slot = usize::try_from(index).ok().and_then(|index| self.0.get_mut(index));
        slot.and_then(Option::take)
            .ok_or_else(|| format!("descriptor {index} of the network did not come along"))
    }
}

impl Network {
    pub fn new(kernel: &Kernel, mode: NetworkMode) -> Result<Network, String> {
        let ns = kernel.extension::<NetNs>().ok_or("the kernel has no network namespace; this is a bug")?;
        let egress = egress::Egress::new(&ns);
        let reactor = kernel.reactor.clone();
        Ok(Network { ns, reactor, mode, attached: AtomicBool::new(false), claim: OnceLock::new(), egress })
    }

    /// Puts egress policies in force. With `audit`, the descriptor is where their log goes.
    pub fn restrict(&self, policies: &[String], audit: bool, fds: Vec<OwnedFd>) -> Result<(), String> {
        let audit = if audit {
            Some(fds.into_iter().next().ok_or("the audit log did not come along")?)
        } else {
            None
        };
        self.egress.set(policies, audit)
    }

    /// Captures packets to a descriptor until what is answered is dropped.
    pub fn capture(&self, snaplen: u32, fds: Vec<OwnedFd>) -> Result<capture::Capture, String> {
        match self.mode {
            NetworkMode::Host => {
                Err("with --network=host the sandbox's packets are the host's; capture there, \
                 in the network namespace of the container's process (nsenter -n -t PID tcpdump)"
                    .into())
            }
            _ => capture::start(
                &self.ns,
                snaplen,
                fds.into_iter().next().ok_or("the pipe did not come along")?,
            ),
        }
    }

    /// The end of the sandbox: what has been held back is sent, and what the log still lacks is written.
    pub fn finish(&self) {
        chitin_platform::later::catch_up();
        self.egress.finish();
    }

    /// Takes over what `config` names; once.
    pub fn attach(&self, config: &NetworkConfig, fds: Vec<OwnedFd>) -> Result<(), String> {
        if self.mode == NetworkMode::None || self.attached.swap(true, Ordering::AcqRel) {
            return Err("the sandbox has no network to attach, or is attached already".into());
        }
        // In host mode the links have no devices here: they, and what is configured on them, are only shown.
        let mut fds = Sent(fds.into_iter().map(Some).collect());
        if let Some(claim) = config.claim {
            // It is attached once.
            let _ = self.claim.set(fds.take(claim)?);
        }
        let answers = config.answers.map(|ports| answers::Answers::new(&self.ns, ports));
        for link in &config.links {
            if link.flags & IFF_LOOPBACK != 0 {
                // It is there, and up.
                apply::loopback(self.ns.stack(), link);
            } else {
                self.attach_link(link, answers.clone(), &mut fds)?;
            }
        }
        // As a namespace of the host has what the host's administrator chose, unless the container's configuration says more.
        if let Some(found) = config.congestion.as_deref().and_then(Congestion::named) {
            self.ns.stack().sysctls.congestion.lock().get_or_insert(found);
        }
        apply::routes(self.ns.stack(), config);
        apply::neighbours(self.ns.stack(), config);
        if let Some(later) = &config.later {
            let (news, frames) = (fds.take(later.news)?, Arc::new(fds.take(later.frames)?));
            follow::start(
                self.ns.stack(),
                config,
                news,
                follow::Frames {
                    fd: frames,
                    offload: later.offload,
                    engine: self.egress.engine().clone(),
                    answers,
                },
            )
            .map_err(|error| format!("cannot start a thread for changes of the network: {error}"))?;
        }
        match &config.outbound {
            Some(outbound) => self.go_out(config, outbound, &mut fds),
            None => Ok(()),
        }
    }

    fn attach_link(
        &self,
        link: &LinkConfig,
        answers: Option<answers::Answers>,
        fds: &mut Sent,
    ) -> Result<(), String> {
        let stack = self.ns.stack();
        let failed =
            |error: &dyn std::fmt::Display| format!("cannot attach the interface {}: {error}", link.name);
        let Some(DeviceLink { fd, offload }) = link.device else {
            return apply::link(stack, link, |_| Ok(())).map(drop);
        };
        let fd = Arc::new(fds.take(fd)?);
        let presence = Arc::new(device::Presence::new().map_err(|error| failed(&error))?);
        let hardware = (link.hardware, apply::hardware(&link.address));
        apply::link(stack, link, |index| {
            let engine = self.egress.engine().clone();
            let device = device::HostDevice::new((fd.clone(), None), link.mtu, hardware, offload, engine);
            let device = Arc::new(device.attended(presence.clone()));
            stack.add_device(index, device).map_err(|error| failed(&error))
        })?;
        let rx = device::Rx {
            fd,
            presence,
            offload,
            ether: link.hardware == ARPHRD_ETHER,
            engine: self.egress.engine().clone(),
            answers,
        };
        device::receive(stack, link.index, &link.name, rx).map_err(|error| failed(&error))
    }

    fn go_out(&self, config: &NetworkConfig, out: &OutboundConfig, fds: &mut Sent) -> Result<(), String> {
        let addresses =
            || config.links.iter().filter(|l| l.flags & IFF_LOOPBACK == 0).flat_map(|l| &l.addresses);
        let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let own = [true, false]
            .map(|v4| addresses().map(|a| a.address).find(|ip| ip.is_ipv4() == v4 && !link_local(ip)));
        let published = match &out.published {
            Some(ports) => Some((ports, Arc::new(fds.take(ports.relays)?), fds.take(ports.brings)?)),
            None => None,
        };
        let relays = published.as_ref().map(|(_, relays, _)| relays.clone());
        let ports = out.published.as_ref();
        let shared = Arc::new(Outbound {
            broker: Arc::new(broker::Proxy::new(fds.take(out.asked)?, relays)),
            watcher: Arc::new(Reactors(self.reactor.clone())),
            everything: out.everything,
            resolvers: out.resolvers.clone(),
            own,
            published: Outbound::publish(ports.map_or(&[], |ports| &ports.tcp)),
            callers: Outbound::publish_udp(ports.map_or(&[], |ports| &ports.udp)),
        });
        for (family, v6) in [(AF_INET, false), (AF_INET6, true)] {
            let inner = Arc::new(InetFamily { v6 });
            self.ns.add_family(family, Arc::new(OutboundFamily { inner, shared: shared.clone() }));
        }
        let Some((ports, relays, brings)) = published else { return Ok(()) };
        if !ports.udp.is_empty() {
            broker::relay(relays, self.ns.clone(), shared.clone())
                .map_err(|error| format!("cannot start a thread for published ports: {error}"))?;
        }
        broker::take_in(brings, shared)
            .map_err(|error| format!("cannot start a thread for published ports: {error}"))
    }
}

struct Reactors(Arc<Reactor>);

impl Watcher for Reactors {
    fn watch(&self, fd: Arc<OwnedFd>, on_ready: Box<dyn Fn(u32) + Send + Sync>) -> io::Result<Watch> {
        self.0.watch_with(fd, on_ready).map(|watch| Box::new(watch) as Watch)
    }

    fn alarm(&self, on_due: Box<dyn Fn() + Send + Sync>) -> Box<dyn Alarm> {
        Box::new(Due(Timer::with_fn(self.0.timers(), on_due)))
    }
}

struct Due(Timer);

impl Alarm for Due {
    fn arm(&self, after: u64) {
        self.0.arm(Deadline::monotonic(monotonic().saturating_add(after)));
    }
}

/// Gives the guest the host's TCP/IP (`--network=host`).
pub fn use_host_sockets(ns: &NetNs, reactor: &Arc<Reactor>) {
    let watcher = Arc::new(Reactors(reactor.clone()));
    for family in [AF_INET, AF_INET6] {
        ns.add_family(family, Arc::new(HostFamily::new(family, watcher.clone())));
    }
}

/// Lets the reactor drive the network stack.
pub fn lend_timer(ns: &NetNs, reactor: &Reactor) {
    let clock = clock::Clock::new(ns.stack(), reactor);
    ns.lend_timer(Box::new(move |at| clock.arm(at)));
}
