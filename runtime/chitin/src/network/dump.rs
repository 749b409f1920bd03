//! What a network namespace has: links, addresses, routes, permanent neighbours.
//!
//! Runs in a thread that has entered the namespace. What the kernel derives in the table `local` is the stack's to derive
//! as well, so it is left out; whatever else stands in any table is kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chitin_control::{AddressConfig, LinkConfig, NeighbourConfig, NetworkConfig, NextHop, RouteConfig};

use super::netlink::{Netlink, attributes, u8_at, u16_at, u32_at};
use crate::util::{Context, Result};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
pub const RT_TABLE_LOCAL: u32 = 255;
const RTM_F_CLONED: u32 = 0x200;
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
const NUD_PERMANENT: u16 = 0x80;

/// The whole configuration, without descriptors.
pub fn dump(netlink: &mut Netlink) -> Result<NetworkConfig> {
    let failed = |what: &'static str| move || format!("cannot list the network namespace's {what}");
    let links = netlink.dump(RTM_GETLINK, &[0; 16]).context(failed("interfaces"))?;
    let mut links: Vec<LinkConfig> = links.iter().filter_map(|body| link(body)).collect();
    for body in netlink.dump(RTM_GETADDR, &[0; 8]).context(failed("addresses"))? {
        if let Some((index, address)) = address(&body)
            && let Some(link) = links.iter_mut().find(|link| link.index == index)
        {
            link.addresses.push(address);
        }
    }
    let routes = all_routes(netlink)?.into_iter().filter(|route| !is_derived(route)).collect();
    let neighbours = netlink.dump(RTM_GETNEIGH, &[0; 12]).context(failed("neighbours"))?;
    let neighbours = neighbours.iter().filter_map(|body| neighbour(body)).collect();
    // It goes by the namespace of whoever reads it.
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").ok();
    let congestion = congestion.map(|name| name.trim().to_owned());
    Ok(NetworkConfig { links, routes, neighbours, outbound: None, congestion })
}

/// Every route of both families, the kernel's own included.
pub fn all_routes(netlink: &mut Netlink) -> Result<Vec<RouteConfig>> {
    let mut routes = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut head = [0; 12];
        head[0] = family;
        let found = netlink.dump(RTM_GETROUTE, &head);
        // A kernel without IPv6 answers EOPNOTSUPP.
        let found = if family == AF_INET6 {
            found.unwrap_or_default()
        } else {
            found.context(|| "cannot list the network namespace's routes".into())?
        };
        routes.extend(found.iter().filter_map(|body| route(body)));
    }
    Ok(routes)
}

/// Whether it is the kernel's consequence of an address: what is the kernel's own in the other tables may have been
/// removed on purpose, so there the list counts.
fn is_derived(route: &RouteConfig) -> bool {
    const RTPROT_KERNEL: u8 = 2;
    route.table == RT_TABLE_LOCAL && route.protocol == RTPROT_KERNEL
}

fn text(value: &[u8]) -> String {
    let bytes = value.split(|&b| b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|raw| Ipv4Addr::from(*raw).into()),
        16 => value.first_chunk::<16>().map(|raw| Ipv6Addr::from(*raw).into()),
        _ => None,
    }
}

/// `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<LinkConfig> {
    let mut link = LinkConfig {
        index: u32_at(body, 4)?,
        name: String::new(),
        kind: String::new(),
        flags: u32_at(body, 8)?,
        mtu: 0,
        hardware: u16_at(body, 2)?,
        address: Vec::new(),
        broadcast: Vec::new(),
        tx_queue_len: 0,
        addresses: Vec::new(),
        device: None,
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            1 => link.address = value.to_vec(),
            2 => link.broadcast = value.to_vec(),
            3 => link.name = text(value),
            4 => link.mtu = u32_at(value, 0)?,
            13 => link.tx_queue_len = u32_at(value, 0)?,
            // IFLA_LINKINFO with IFLA_INFO_KIND in it.
            18 => {
                if let Some((_, name)) = attributes(value).find(|(kind, _)| *kind == 1) {
                    link.kind = text(name);
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// `struct ifaddrmsg` and its attributes, with the interface's index.
fn address(body: &[u8]) -> Option<(u32, AddressConfig)> {
    let (mut local, mut far, mut broadcast, mut label) = (None, None, None, None);
    let mut flags = u32::from(u8_at(body, 2)?);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            1 => far = ip(value),
            2 => local = ip(value),
            3 => label = Some(text(value)),
            4 => broadcast = ip(value),
            8 => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's where there is a peer, else the same.
    let address = local.or(far)?;
    let config = AddressConfig {
        address,
        prefix: u8_at(body, 1)?,
        broadcast,
        peer: far.filter(|far| *far != address),
        scope: u8_at(body, 3)?,
        flags,
        label,
    };
    Some((u32_at(body, 4)?, config))
}

/// `struct rtmsg` and its attributes.
fn route(body: &[u8]) -> Option<RouteConfig> {
    let unspecified: IpAddr = match u8_at(body, 0)? {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    if u32_at(body, 8)? & RTM_F_CLONED != 0 {
        return None;
    }
    let mut route = RouteConfig {
        destination: unspecified,
        prefix: u8_at(body, 1)?,
        table: u8_at(body, 4)?.into(),
        kind: u8_at(body, 7)?,
        scope: u8_at(body, 6)?,
        protocol: u8_at(body, 5)?,
        tos: u8_at(body, 3)?,
        metric: 0,
        source: None,
        mtu: None,
        hops: Vec::new(),
    };
    let mut single = NextHop { gateway: None, link: 0, weight: 1, flags: u8_at(body, 8)? };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            1 => route.destination = ip(value)?,
            4 => single.link = u32_at(value, 0)?,
            5 => single.gateway = ip(value),
            6 => route.metric = u32_at(value, 0)?,
            7 => route.source = ip(value),
            // RTA_METRICS with RTAX_MTU in it.
            8 => route.mtu = attributes(value).find(|(kind, _)| *kind == 2).and_then(|(_, v)| u32_at(v, 0)),
            9 => route.hops = hops(value),
            15 => route.table = u32_at(value, 0)?,
            // RTA_VIA: a gateway of the other family.
            18 => single.gateway = value.get(2..).and_then(ip),
            _ => {}
        }
    }
    if route.hops.is_empty() && single.link != 0 {
        route.hops.push(single);
    }
    Some(route)
}

/// RTA_MULTIPATH: `struct rtnexthop`s, each with attributes.
fn hops(mut bytes: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let (Some(length), Some(flags), Some(weight), Some(link)) =
        (u16_at(bytes, 0), u8_at(bytes, 2), u8_at(bytes, 3), u32_at(bytes, 4))
    {
        let length = usize::from(length);
        let Some(inside) = bytes.get(8..length) else { break };
        let gateway = attributes(inside).find(|(kind, _)| *kind == 5).and_then(|(_, value)| ip(value));
        hops.push(NextHop { gateway, link, weight: weight.saturating_add(1), flags });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// `struct ndmsg` and its attributes; only what somebody has set for good.
fn neighbour(body: &[u8]) -> Option<NeighbourConfig> {
    let state = u16_at(body, 8)?;
    if state & NUD_PERMANENT == 0 || !matches!(u8_at(body, 0)?, AF_INET | AF_INET6) {
        return None;
    }
    let (mut address, mut hardware) = (None, Vec::new());
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            1 => address = ip(value),
            2 => hardware = value.to_vec(),
            _ => {}
        }
    }
    Some(NeighbourConfig { link: u32_at(body, 4)?, address: address?, hardware, state })
}
