//! What a frame is: addresses, protocol, ports, and what of TCP matters.
//!
//! Strict where a guest could hide something: what is not understood is [`Parsed::Odd`], and does not pass a policy.

use crate::{ICMP, ICMP6, TCP, UDP, be16, be32, byte};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame in up to three pieces.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'a>(pub [&'a [u8]; 3]);

/// Headers are looked for in so many bytes.
const HEADERS: usize = 256;
const ETHER: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Loose and strict source routes.
const SOURCE_ROUTES: [u8; 2] = [131, 137];

impl Pieces<'_> {
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Up to `max` bytes from `from` on.
    pub fn gather(&self, from: usize, max: usize) -> Vec<u8> {
        let mut skip = from;
        let mut out = Vec::new();
        for piece in self.0 {
            let rest = piece.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(piece.len());
            let room = max.saturating_sub(out.len());
            out.extend_from_slice(rest.get(..room).unwrap_or(rest));
        }
        out
    }
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
}

/// A piece of a packet: its number, and whether it is the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    pub first: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub proto: u8,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Of ICMP echoes: their identifier, and 0.
    pub src_port: u16,
    pub dst_port: u16,
    pub fragment: Option<Fragment>,
    pub tcp: Option<Segment>,
    /// Type and code.
    pub icmp: Option<(u8, u8)>,
    /// Where the payload is in the frame.
    pub payload: usize,
    pub payload_len: usize,
    /// TTL or hop limit.
    pub hops: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    Arp,
    Ip(Packet),
    /// Neither, or not to be understood: what it is.
    Odd(&'static str),
}

/// `ether`: there is an Ethernet header; otherwise the IP header comes first.
pub fn parse(frame: &Pieces<'_>, ether: bool) -> Parsed {
    let head = frame.gather(0, HEADERS);
    let at = if ether { ETHER } else { 0 };
    let kind = if ether { be16(&head, 12) } else { Some(by_version(&head)) };
    match kind {
        Some(ETHERTYPE_ARP) => Parsed::Arp,
        Some(ETHERTYPE_IPV4) => packet(ipv4(&head, at, frame.len())),
        Some(ETHERTYPE_IPV6) => packet(ipv6(&head, at, frame.len())),
        _ => Parsed::Odd("not ip"),
    }
}

fn by_version(head: &[u8]) -> u16 {
    match head.first().map(|first| first >> 4) {
        Some(4) => ETHERTYPE_IPV4,
        Some(6) => ETHERTYPE_IPV6,
        _ => 0,
    }
}

fn packet(parsed: Result<Packet, Option<&'static str>>) -> Parsed {
    match parsed {
        Ok(packet) => Parsed::Ip(packet),
        Err(why) => Parsed::Odd(why.unwrap_or("malformed")),
    }
}

/// A packet whose headers are a mess.
const MESS: Option<&str> = None;

fn ipv4(head: &[u8], at: usize, len: usize) -> Result<Packet, Option<&'static str>> {
    let ip = head.get(at..).ok_or(MESS)?;
    let first = byte(ip, 0).ok_or(MESS)?;
    let header = usize::from(first & 0xf) * 4;
    let total = usize::from(be16(ip, 2).ok_or(MESS)?);
    if first >> 4 != 4 || header < 20 || total < header || at.saturating_add(total) > len {
        return Err(MESS);
    }
    if has_source_route(ip.get(20..header).ok_or(MESS)?) {
        return Err(Some("source route"));
    }
    let place = be16(ip, 6).ok_or(MESS)?;
    let offset = place & 0x1fff;
    let fragment =
        (place & 0x3fff != 0).then_some(Fragment { id: be16(ip, 4).ok_or(MESS)?.into(), first: offset == 0 });
    let address = |from: usize| be32(ip, from).map(|raw| IpAddr::from(Ipv4Addr::from(raw))).ok_or(MESS);
    let base = Packet {
        proto: byte(ip, 9).ok_or(MESS)?,
        src: address(12)?,
        dst: address(16)?,
        src_port: 0,
        dst_port: 0,
        fragment,
        tcp: None,
        icmp: None,
        payload: at.saturating_add(header),
        payload_len: total.saturating_sub(header),
        hops: byte(ip, 8).ok_or(MESS)?,
    };
    above(head, base)
}

fn has_source_route(mut options: &[u8]) -> bool {
    while let Some(kind) = byte(options, 0).filter(|kind| *kind != 0) {
        if SOURCE_ROUTES.contains(&kind) {
            return true;
        }
        let length = if kind == 1 { 1 } else { usize::from(byte(options, 1).unwrap_or(0)).max(2) };
        options = options.get(length..).unwrap_or_default();
    }
    false
}

fn ipv6(head: &[u8], at: usize, len: usize) -> Result<Packet, Option<&'static str>> {
    let ip = head.get(at..).ok_or(MESS)?;
    let total = usize::from(be16(ip, 4).ok_or(MESS)?).saturating_add(40);
    if byte(ip, 0).ok_or(MESS)? >> 4 != 6 || at.saturating_add(total) > len {
        return Err(MESS);
    }
    let address = |from: usize| {
        let raw: Option<[u8; 16]> = ip.get(from..).and_then(|rest| rest.first_chunk().copied());
        raw.map(|raw| IpAddr::from(Ipv6Addr::from(raw))).ok_or(MESS)
    };
    let (mut proto, mut pos, mut fragment) = (byte(ip, 6).ok_or(MESS)?, 40usize, None);
    loop {
        let length = match proto {
            HOP_BY_HOP | DESTINATION => {
                usize::from(byte(ip, pos.saturating_add(1)).ok_or(MESS)?).saturating_add(1).saturating_mul(8)
            }
            FRAGMENT => {
                let offset = be16(ip, pos.saturating_add(2)).ok_or(MESS)?;
                let id = be32(ip, pos.saturating_add(4)).ok_or(MESS)?;
                fragment = Some(Fragment { id, first: offset & 0xfff8 == 0 });
                8
            }
            // A routing header leads elsewhere than the destination says; a second authority beside it is none.
            43 => return Err(Some("source route")),
            _ => break,
        };
        proto = byte(ip, pos).ok_or(MESS)?;
        pos = pos.saturating_add(length);
        if fragment.is_some_and(|fragment| !fragment.first) {
            break;
        }
    }
    let base = Packet {
        proto,
        src: address(8)?,
        dst: address(24)?,
        src_port: 0,
        dst_port: 0,
        fragment,
        tcp: None,
        icmp: None,
        payload: at.saturating_add(pos),
        payload_len: total.checked_sub(pos).ok_or(MESS)?,
        hops: byte(ip, 7).ok_or(MESS)?,
    };
    above(head, base)
}

/// What is behind the IP header.
fn above(head: &[u8], mut packet: Packet) -> Result<Packet, Option<&'static str>> {
    if packet.fragment.is_some_and(|fragment| !fragment.first) {
        return Ok(packet);
    }
    let at = packet.payload;
    let data = head.get(at..).ok_or(MESS)?;
    let mut length = 0;
    match packet.proto {
        TCP => {
            length = usize::from(byte(data, 12).ok_or(MESS)? >> 4) * 4;
            if length < 20 {
                return Err(MESS);
            }
            let field = |from| be32(data, from).ok_or(MESS);
            packet.tcp = Some(Segment { flags: byte(data, 13).ok_or(MESS)?, seq: field(4)?, ack: field(8)? });
        }
        UDP => length = 8,
        ICMP | ICMP6 => {
            let kind = byte(data, 0).ok_or(MESS)?;
            packet.icmp = Some((kind, byte(data, 1).ok_or(MESS)?));
            if is_echo(packet.proto, kind) {
                packet.src_port = be16(data, 4).ok_or(MESS)?;
            }
        }
        _ => {}
    }
    if matches!(packet.proto, TCP | UDP) {
        packet.src_port = be16(data, 0).ok_or(MESS)?;
        packet.dst_port = be16(data, 2).ok_or(MESS)?;
    }
    packet.payload = at.saturating_add(length);
    packet.payload_len = packet.payload_len.checked_sub(length).ok_or(MESS)?;
    Ok(packet)
}

fn is_echo(proto: u8, kind: u8) -> bool {
    matches!((proto, kind), (ICMP, 0 | 8) | (ICMP6, 128 | 129))
}

/// Packets without which a link does not work: neighbours, routers, groups. They are not forwarded by anybody.
pub fn is_housekeeping(packet: &Packet) -> bool {
    let group = packet.dst.is_multicast();
    let link = |v6: &Ipv6Addr| v6.is_unicast_link_local() || v6.octets().starts_with(&[0xff, 2]);
    match (packet.proto, packet.icmp, packet.dst) {
        // Receivers refuse them with another hop limit.
        (ICMP6, Some((133..=136, 0)), _) => packet.hops == 255,
        (ICMP6, Some((130..=132 | 143, 0)), IpAddr::V6(dst)) => packet.hops == 1 && group && link(&dst),
        (crate::IGMP, _, IpAddr::V4(dst)) => packet.hops == 1 && dst.octets().starts_with(&[224, 0, 0]),
        _ => false,
    }
}

/// The packet that an ICMP error is about.
pub fn quoted(frame: &Pieces<'_>, packet: &Packet) -> Option<Packet> {
    let (kind, _) = packet.icmp?;
    if !matches!((packet.proto, kind), (ICMP, 3 | 11 | 12) | (ICMP6, 1..=4)) {
        return None;
    }
    let mut inner = frame.gather(packet.payload.checked_add(8)?, HEADERS);
    // It is cut, which its own length does not say.
    let length = inner.len();
    let said = match inner.first()? >> 4 {
        4 => usize::from(be16(&inner, 2)?),
        6 => usize::from(be16(&inner, 4)?).saturating_add(40),
        _ => return None,
    };
    inner.resize(said.max(length).min(128 << 10), 0);
    match parse(&Pieces([&inner, &[], &[]]), false) {
        Parsed::Ip(inner) => Some(inner),
        _ => None,
    }
}
