//! The network that a sandbox takes over: what the runtime has found in a network namespace, and how it is attached.
//!
//! Everything is the host kernel's own notation (RTN_*, IFA_F_*, IFF_* …), which is the guest's as well.

use std::net::IpAddr;

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
    /// How its packets travel: index of a descriptor that came with the message. None: not at all (`lo`).
    pub device: Option<DeviceLink>,
}

/// The host's end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "via", rename_all = "lowercase", deny_unknown_fields)]
pub enum DeviceLink {
    /// A packet socket bound to the interface. `offload`: each packet has a `virtio_net_hdr` before it.
    Packet { fd: u32, offload: bool },
    /// A SOCK_SEQPACKET socket to the network proxy, which carries IP packets with a `virtio_net_hdr` each.
    Proxy { fd: u32 },
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
    /// The engine's name server at 127.0.0.11: a descriptor, the socket to the process that reaches it.
    pub resolver: Option<u32>,
}
