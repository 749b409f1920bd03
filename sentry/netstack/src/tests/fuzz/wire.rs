//! Packets, made right and mended.

use super::{EVIL, MAC_B};
use crate::testing::ip;
use crate::wire::*;
use chitin_abi::netdevice::*;
use std::net::IpAddr;
use zerocopy::IntoBytes;

pub fn evil(v6: bool) -> IpAddr {
    ip(if v6 { "fd00::66" } else { "10.0.0.66" })
}
pub fn target(v6: bool) -> IpAddr {
    ip(if v6 { "fd00::2" } else { "10.0.0.2" })
}

pub fn octets(addr: &IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An IP packet with a header that is right.
pub fn packet(
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    ttl: u8,
    (id, frag): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = Ipv4 {
                vihl: 0x45,
                len: len16(IPV4_LEN + payload.len()),
                id: id.into(),
                frag: frag.into(),
                ttl,
                proto,
                src: src.octets(),
                dst: dst.octets(),
                ..Ipv4::default()
            };
            ip.csum = Sum::default().put(ip.as_bytes()).finish();
            [ip.as_bytes(), payload].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6 {
                vtf: (6 << 28).into(),
                len: len16(payload.len()),
                next: proto,
                hops: ttl,
                src: src.octets(),
                dst: dst.octets(),
            };
            [ip.as_bytes(), payload].concat()
        }
        _ => Vec::new(),
    }
}

pub fn frame(dst: [u8; 6], proto: u16, packet: &[u8]) -> Vec<u8> {
    let eth = Eth { dst, src: EVIL, proto: proto.into() };
    [eth.as_bytes(), packet].concat()
}

pub fn ip_frame(packet: &[u8]) -> Vec<u8> {
    frame(MAC_B, if packet.first().is_some_and(|b| b >> 4 == 6) { ETH_P_IPV6 } else { ETH_P_IP }, packet)
}

pub fn sum(src: &IpAddr, dst: &IpAddr, proto: u8, payload: &[u8]) -> Sum {
    let sum = Sum::default();
    let sum = if proto == 1 || proto == 2 { sum } else { sum.pseudo(src, dst, proto, payload.len()) };
    sum.put(payload)
}

/// Where the checksum of a protocol stands.
pub fn csum_at(proto: u8) -> Option<usize> {
    match proto {
        1 | 2 | 58 => Some(2),
        6 => Some(16),
        17 => Some(6),
        _ => None,
    }
}

pub fn mend(src: &IpAddr, dst: &IpAddr, proto: u8, payload: &mut [u8]) {
    let Some(at) = csum_at(proto).filter(|at| at + 2 <= payload.len()) else { return };
    payload[at..at + 2].fill(0);
    let right = sum(src, dst, proto, payload).finish_udp();
    payload[at..at + 2].copy_from_slice(right.as_bytes());
}

/// The parts of an IP packet: addresses, protocol, where its payload begins. Extension headers are passed over.
pub fn parts(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, usize, bool)> {
    if packet.first()? >> 4 == 4 {
        let (ip, _) = header::<Ipv4>(packet)?;
        let fragment = ip.frag.get() & (IP_MF | IP_OFFSET) != 0;
        return Some((ip4(ip.src), ip4(ip.dst), ip.proto, usize::from(ip.vihl & 15) * 4, fragment));
    }
    let (ip, _) = header::<Ipv6>(packet)?;
    let (mut proto, mut at, mut fragment) = (ip.next, IPV6_LEN, false);
    while matches!(proto, 0 | 43 | 44 | 60) {
        let head = packet.get(at..at + 8)?;
        fragment |= proto == 44;
        at += if proto == 44 { 8 } else { (usize::from(head[1]) + 1) * 8 };
        proto = head[0];
    }
    Some((ip6(ip.src), ip6(ip.dst), proto, at, fragment))
}

/// Makes checksums right again after a change.
pub fn mend_packet(packet: &mut [u8]) {
    let Some((src, dst, proto, at, _)) = parts(packet) else { return };
    if src.is_ipv4() && at >= IPV4_LEN && at <= packet.len() {
        packet[10..12].fill(0);
        let right = Sum::default().put(&packet[..at]).finish();
        packet[10..12].copy_from_slice(right.as_bytes());
    }
    let end = if src.is_ipv4() {
        usize::from(u16::from_be_bytes([packet[2], packet[3]]))
    } else {
        IPV6_LEN + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
    };
    if let Some(payload) = packet.get_mut(at..end) {
        mend(&src, &dst, proto, payload);
    }
}
