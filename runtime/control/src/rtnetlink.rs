//! What the host's kernel says of a network namespace by rtnetlink, taken apart: for the runtime, which lists what there is, and
//! the sentry, which follows what changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::network::{AddressConfig, LinkConfig, NeighbourConfig, NextHop, RouteConfig};

/// Bytes of a message's header.
pub const HEADER: usize = 16;
pub const RT_TABLE_LOCAL: u32 = 255;
const RTM_F_CLONED: u32 = 0x200;
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
const NUD_PERMANENT: u16 = 0x80;
// ARPHRD_* and IFF_*.
const ETHER: u16 = 1;
const NONE: u16 = 0xfffe;
const UP: u32 = 1;
const LOOPBACK: u32 = 8;

/// A message of netlink.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    /// NLM_F_*.
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes the first message off.
    pub fn split(rest: &mut &'a [u8]) -> Option<Self> {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let message = rest.get(..length)?;
        let body = message.get(HEADER..)?;
        *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            body,
        })
    }
}

/// The attributes in `bytes`: kinds without flags, and values.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute.
pub fn push_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

pub fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|raw| u16::from_ne_bytes(*raw))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
}

pub fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

pub fn is_loopback(link: &LinkConfig) -> bool {
    link.flags & LOOPBACK != 0
}

/// Interfaces that carry Ethernet frames or bare IP packets, and are up. The tunnels that the kernel puts into every namespace
/// are neither.
pub fn can_take(link: &LinkConfig) -> bool {
    let up = link.flags & UP != 0;
    match link.hardware {
        ETHER => up,
        NONE => up && link.address.is_empty(),
        _ => false,
    }
}

/// Whether it is the kernel's consequence of an address: what is the kernel's own in the other tables may have been
/// removed on purpose, so there the list counts.
pub fn is_derived(route: &RouteConfig) -> bool {
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
pub fn link(body: &[u8]) -> Option<LinkConfig> {
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
pub fn address(body: &[u8]) -> Option<(u32, AddressConfig)> {
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
pub fn route(body: &[u8]) -> Option<RouteConfig> {
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
pub fn neighbour(body: &[u8]) -> Option<NeighbourConfig> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_taken_apart() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 3, b"lo\0");
        push_attribute(&mut bytes, 0x8000 | 4, &7u32.to_ne_bytes());
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [(3, &b"lo\0"[..]), (4, &7u32.to_ne_bytes()[..])]);
        // Lengths that lie end the list.
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[4]).count(), 0);
    }
}
