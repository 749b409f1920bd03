//! The network that a sandbox takes over: what the runtime has found in a network namespace, and how it is attached.
//!
//! Everything is the host kernel's own notation (RTN_*, IFA_F_*, IFF_* …), which is the guest's as well.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressConfig {
    pub address: IpAddr,
    pub prefix: u8,
    pub broadcast: Option<IpAddr>,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// IFA_F_*.
    pub flags: u32,
    pub label: Option<String>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    pub index: u32,
    pub name: String,
    /// What made it (`veth`, `macvlan`; empty for hardware).
    pub kind: String,
    /// IFF_*.
    pub flags: u32,
    pub mtu: u32,
    /// ARPHRD_*.
    pub hardware: u16,
    pub address: Vec<u8>,
    pub broadcast: Vec<u8>,
    pub tx_queue_len: u32,
    pub addresses: Vec<AddressConfig>,
    /// How its packets travel. None: not at all (`lo`).
    pub device: Option<DeviceLink>,
}

/// The host's end of a link: a packet socket bound to the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceLink {
    /// Index of a descriptor that came with the message.
    pub fd: u32,
    /// Each packet has a `virtio_net_hdr` before it.
    pub offload: bool,
}

/// How interfaces are taken over that are added later. Descriptors are indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaterConfig {
    /// A netlink socket that hears what changes in the namespace.
    pub news: u32,
    /// A packet socket on all interfaces but those there are now.
    pub frames: u32,
    /// Each packet has a `virtio_net_hdr` before it.
    pub offload: bool,
}

/// The network proxy, or the name proxy, through which sockets reach what the links do not. Descriptors are indices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundConfig {
    /// Where sockets are asked for ([`crate::Open`]).
    pub asked: u32,
    /// What else leads in.
    pub published: Option<PublishedConfig>,
    /// All that is not local goes there; otherwise the resolvers alone.
    pub everything: bool,
    /// Name servers on loopback addresses that are not the sandbox's own.
    pub resolvers: Vec<SocketAddr>,
}

/// Ports of the host that lead into the sandbox. Descriptors are indices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedConfig {
    /// Where connections come from ([`crate::Arrived`]).
    pub brings: u32,
    /// Where datagrams come from and go to ([`crate::Relayed`]).
    pub relays: u32,
    /// The guest's ports to which connections come.
    pub tcp: Vec<u16>,
    /// The same for UDP.
    pub udp: Vec<u16>,
}

/// A next hop of a route with several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextHop {
    pub gateway: Option<IpAddr>,
    pub link: u32,
    pub weight: u8,
    /// RTNH_F_*.
    pub flags: u8,
}

/// A route, other than the kernel's own in the table `local`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    pub destination: IpAddr,
    pub prefix: u8,
    pub table: u32,
    /// RTN_*.
    pub kind: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// RTPROT_*.
    pub protocol: u8,
    pub tos: u8,
    pub metric: u32,
    pub source: Option<IpAddr>,
    pub mtu: Option<u32>,
    /// One, or several of a multipath route; none of an unreachable destination.
    pub hops: Vec<NextHop>,
}

/// A permanent neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighbourConfig {
    pub link: u32,
    pub address: IpAddr,
    pub hardware: Vec<u8>,
    /// NUD_*.
    pub state: u16,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    pub links: Vec<LinkConfig>,
    pub routes: Vec<RouteConfig>,
    pub neighbours: Vec<NeighbourConfig>,
    pub outbound: Option<OutboundConfig>,
    /// The namespace's net.ipv4.tcp_congestion_control.
    #[serde(default)]
    pub congestion: Option<String>,
    #[serde(default)]
    pub later: Option<LaterConfig>,
    /// Answers of name servers by UDP to the ports from the first to the second are for the host's stack as well, and the
    /// sandbox's says nothing to them that it has no socket for.
    #[serde(default)]
    pub answers: Option<(u16, u16)>,
    /// Index of a descriptor to be held as long as the sandbox has the network.
    #[serde(default)]
    pub claim: Option<u32>,
}
