//! Networking without a network namespace: the proxy's launch, and the interface that the guest is shown.
//!
//! Neighbours: `proxy` is the process; `sandbox::start` hands the sentry its ends of the sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use chitin_control::{
    AddressConfig, LinkConfig, NetworkConfig, NextHop, OutboundConfig, PublishedConfig, RouteConfig,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use super::netlink::Netlink;
use super::proxy::{Boot, Policy};
use super::{Attached, dump};
use crate::cgroup::Cgroups;
use crate::sandbox::launch::{self, Role};
use crate::sandbox::role;
use crate::util::{Context, Result, dev_null, duplicate};

/// As slirp4netns and passt have it, so that nobody is surprised.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x15);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const LINK: u32 = 2;
const DNS: u16 = 53;
/// Published ports of one sandbox.
const MAX_PUBLISHED: usize = 256;

/// `[ADDRESS:]HOST:GUEST[/udp]`: a port of the host that leads into the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    pub at: SocketAddr,
    pub guest: u16,
    #[serde(default)]
    pub udp: bool,
}

impl Publish {
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            format!(
                "--publish {text}: HOST:GUEST or ADDRESS:HOST:GUEST is needed, with ports from 1 to 65535, and /udp for UDP"
            )
        };
        let udp = text.ends_with("/udp");
        let bare = text.strip_suffix(if udp { "/udp" } else { "/tcp" }).unwrap_or(text);
        let (rest, guest) = bare.rsplit_once(':').ok_or_else(wrong)?;
        let (address, host) = rest.rsplit_once(':').unwrap_or(("0.0.0.0", rest));
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
        let ip: IpAddr = address.parse().map_err(|_| wrong())?;
        Ok(Self { at: SocketAddr::new(ip, port(host)?), guest: port(guest)?, udp })
    }
}

/// Everything that is not the sandbox's own is reached through a proxy in our own network namespace.
pub fn to_everywhere(id: &str, publish: &[Publish], cgroups: &Cgroups) -> Result<Attached> {
    if publish.len() > MAX_PUBLISHED {
        return Err(format!("--publish: more than {MAX_PUBLISHED} ports"));
    }
    let mut ports = Ports::default();
    for port in publish {
        let failed =
            || format!("--publish: cannot listen at {}{}", port.at, if port.udp { "/udp" } else { "" });
        if port.udp {
            let socket = UdpSocket::bind(port.at).context(failed)?;
            socket.set_nonblocking(true).context(failed)?;
            ports.udp.push((duplicate(&socket)?, port.guest));
            continue;
        }
        let listener = TcpListener::bind(port.at);
        let listener = listener.context(failed)?;
        listener.set_nonblocking(true).context(failed)?;
        ports.tcp.push((duplicate(&listener)?, port.guest));
    }
    let policy = Policy { resolvers: loopback_resolvers() };
    let mut config = NetworkConfig::default();
    let has_v6 = Netlink::open().and_then(|mut netlink| dump::all_routes(&mut netlink)).is_ok_and(|routes| {
        routes.iter().any(|route| route.destination.is_ipv6() && route.prefix == 0 && !route.hops.is_empty())
    });
    config.links.push(link(has_v6));
    config.routes.push(default_route(Ipv4Addr::UNSPECIFIED.into(), GATEWAY.into()));
    if has_v6 {
        config.routes.push(default_route(Ipv6Addr::UNSPECIFIED.into(), GATEWAY6.into()));
    }
    let attached = Attached { config, fds: Vec::new(), proxy: None, ports: None };
    with_proxy(id, attached, policy, ports, cgroups)
}

/// Sockets of published ports, each with the guest's port that it stands for.
#[derive(Debug, Default)]
struct Ports {
    tcp: Vec<(OwnedFd, u16)>,
    udp: Vec<(OwnedFd, u16)>,
}

/// Adds a proxy to what has been attached. It runs in the network namespace of the calling process.
fn with_proxy(
    id: &str,
    mut attached: Attached,
    policy: Policy,
    ports: Ports,
    cgroups: &Cgroups,
) -> Result<Attached> {
    let failed = || "cannot prepare the network proxy".to_owned();
    let pair = || {
        let made = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (a, b) = made.context(failed)?;
        Ok::<_, String>((duplicate(&a)?, duplicate(&b)?))
    };
    let (asks, asked) = pair()?;
    let (taken, brings) = pair()?;
    let (relays, relayed) = pair()?;
    let null = duplicate(dev_null()?)?;
    let numbers = |ports: &[(OwnedFd, u16)]| ports.iter().map(|(fd, port)| (fd.as_raw_fd(), *port)).collect();
    let boot = Boot {
        asked: asked.as_raw_fd(),
        brings: brings.as_raw_fd(),
        relayed: relayed.as_raw_fd(),
        published: numbers(&ports.tcp),
        published_udp: numbers(&ports.udp),
        policy: policy.clone(),
    };
    let config = role::config_memfd(&boot)?;
    let exe = launch::executable()?;
    let inherited = boot.published.iter().chain(&boot.published_udp).map(|(fd, _)| *fd);
    let inherited = inherited.chain([boot.asked, boot.brings, boot.relayed]);
    let mut child = launch::spawn(
        exe.as_fd(),
        &Role {
            name: c"net-proxy",
            id,
            config: config.as_fd(),
            namespaces: libc::CLONE_NEWUSER
                | libc::CLONE_NEWPID
                | libc::CLONE_NEWNS
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUTS,
            stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
            inherited: inherited.collect(),
            terminal: None,
            namespace_root: true,
            cgroups: Some(cgroups),
            memory: None,
        },
    )?;
    crate::sandbox::map_ids(&child)?;
    child.go()?;
    let number = |at: usize| u32::try_from(at).context(failed);
    attached.config.outbound = Some(OutboundConfig {
        asked: number(attached.fds.len())?,
        published: Some(PublishedConfig {
            brings: number(attached.fds.len() + 1)?,
            relays: number(attached.fds.len() + 2)?,
            tcp: ports.tcp.iter().map(|(_, port)| *port).collect(),
            udp: ports.udp.iter().map(|(_, port)| *port).collect(),
        }),
        everything: true,
        resolvers: policy.resolvers,
    });
    attached.fds.extend([asks, taken, relays]);
    attached.proxy = Some(child);
    Ok(attached)
}

/// Name servers that /etc/resolv.conf has on loopback addresses: the host's own forwarders.
fn loopback_resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.filter(IpAddr::is_loopback).take(3).map(|ip| SocketAddr::new(ip, DNS)).collect()
}

fn link(v6: bool) -> LinkConfig {
    let address = |address: IpAddr, prefix| AddressConfig {
        address,
        prefix,
        broadcast: address.is_ipv4().then(|| Ipv4Addr::new(10, 0, 2, 255).into()),
        peer: None,
        scope: 0,
        flags: 0x80,
        label: address.is_ipv4().then(|| "eth0".into()),
    };
    let mut addresses = vec![address(ADDRESS.into(), 24)];
    if v6 {
        addresses.push(address(ADDRESS6.into(), 64));
    }
    let flags =
        libc::IFF_UP | libc::IFF_BROADCAST | libc::IFF_RUNNING | libc::IFF_MULTICAST | libc::IFF_LOWER_UP;
    LinkConfig {
        index: LINK,
        name: "eth0".into(),
        kind: String::new(),
        flags: flags.cast_unsigned(),
        mtu: 65520,
        hardware: libc::ARPHRD_ETHER,
        address: vec![0x02, 0, 0, 0, 2, 0x15],
        broadcast: vec![0xff; 6],
        tx_queue_len: 1000,
        addresses,
        device: None,
    }
}

fn default_route(destination: IpAddr, gateway: IpAddr) -> RouteConfig {
    RouteConfig {
        destination,
        prefix: 0,
        table: 254,
        kind: 1,
        scope: 0,
        protocol: 3,
        tos: 0,
        metric: if destination.is_ipv6() { 1024 } else { 0 },
        source: None,
        mtu: None,
        hops: vec![NextHop { gateway: Some(gateway), link: LINK, weight: 1, flags: 0 }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_to_publish() {
        let is = |text: &str, at: &str, guest| {
            let udp = text.ends_with("/udp");
            assert_eq!(Publish::parse(text), Ok(Publish { at: at.parse().unwrap(), guest, udp }));
        };
        is("127.0.0.1:53:5353/udp", "127.0.0.1:53", 5353);
        is("8080:80", "0.0.0.0:8080", 80);
        is("8080:80/tcp", "0.0.0.0:8080", 80);
        is("127.0.0.1:8080:80", "127.0.0.1:8080", 80);
        is("[::1]:1:65535", "[::1]:1", 65535);
        for wrong in ["", "80", "0:80", "80:0", "a:b", "80:80/udp/tcp", "80:80/x", "x:1:2", "1:65536"] {
            assert!(Publish::parse(wrong).is_err(), "{wrong}");
        }
    }
}
