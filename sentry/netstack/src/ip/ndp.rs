//! Finding IPv6 neighbours (RFC 4861): solicitations and advertisements.

use super::v6::Head6;
use super::{ICMPV6, Meta};
use crate::link::{Head, Out, Port};
use crate::sockets::Cast;
use crate::stack::Stack;
use crate::wire::*;
use chitin_abi::netdevice::ETH_P_IPV6;
use std::net::{IpAddr, Ipv6Addr};
use zerocopy::IntoBytes;

pub(super) const NS: u8 = 135;
pub(super) const NA: u8 = 136;
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const ROUTER: u32 = 1 << 31;
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;

/// ff02::1:ffXX:XXXX of an address.
pub(crate) fn solicited_node(addr: &Ipv6Addr) -> Ipv6Addr {
    let low = addr.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// The Ethernet address of a group.
fn group(addr: &Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = addr.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A link-layer address option of a kind.
fn option(mut data: &[u8], wanted: u8) -> Option<[u8; 6]> {
    loop {
        let (&[kind, units], rest) = data.split_first_chunk::<2>()?;
        // An option without length would never end.
        let len = usize::from(units).checked_sub(1)? * 8 + 6;
        if kind == wanted && units == 1 {
            return rest.first_chunk().copied();
        }
        data = rest.get(len..)?;
    }
}

struct Message {
    kind: u8,
    flags: u32,
    target: Ipv6Addr,
    option: u8,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    mac: [u8; 6],
}

fn send(stack: &Stack, port: &Port, message: &Message) {
    let mut body = Vec::with_capacity(24);
    body.extend_from_slice(&message.target.octets());
    // Who has no address yet must not give its hardware's.
    if !message.src.is_unspecified() {
        body.extend_from_slice(&[message.option, 1]);
        body.extend_from_slice(&port.info.hw_addr);
    }
    let mut icmp = Icmp { kind: message.kind, code: 0, csum: 0.into(), rest: message.flags.into() };
    let len = size_of::<Icmp>() + body.len();
    let (src, dst) = (IpAddr::V6(message.src), IpAddr::V6(message.dst));
    let sum = Sum::default().pseudo(&src, &dst, ICMPV6, len);
    icmp.csum = sum.put(icmp.as_bytes()).put(&body).finish();
    let mut head = Head::new();
    let ip = Head6 { src: message.src, dst: message.dst, next: ICMPV6, tos: 0, flow: 0, hops: 255, len };
    ip.write(&mut head);
    head.push(icmp.as_bytes());
    stack.emit_to(port, Some(message.mac), ETH_P_IPV6, &mut [Out::new(head, &body)]);
}

/// Asks who has an address: all that may, or the one who had it last.
pub(crate) fn solicit(stack: &Stack, port: &Port, addr: IpAddr, last: Option<[u8; 6]>) {
    let IpAddr::V6(target) = addr else { return };
    let src = match stack.config.link_addr(port.index, addr) {
        Some(IpAddr::V6(src)) => src,
        _ => Ipv6Addr::UNSPECIFIED,
    };
    let node = solicited_node(&target);
    let (dst, mac) = last.map_or((node, group(&node)), |mac| (target, mac));
    send(stack, port, &Message { kind: NS, flags: 0, target, option: SOURCE, src, dst, mac });
}

pub(super) fn input(stack: &Stack, meta: &Meta<'_>, kind: u8, rest: &[u8], flags: u32) -> Option<()> {
    // Nobody beyond the link can send such a packet.
    if meta.ttl != 255 || !meta.port.is_ether() {
        return None;
    }
    let (target, options) = rest.split_first_chunk::<16>()?;
    let target = Ipv6Addr::from(*target);
    if target.is_multicast() {
        return None;
    }
    if kind == NA {
        let mac = option(options, TARGET)?;
        let solicited = flags & SOLICITED != 0 && meta.cast == Cast::Unicast;
        stack.learned(meta.port, target.into(), mac, solicited, true, flags & OVERRIDE != 0);
        return Some(());
    }
    if !stack.config.is_local(target.into())
        || stack.config.input_kind(target.into(), meta.port.index).is_none()
    {
        return Some(());
    }
    let IpAddr::V6(src) = meta.src else { return None };
    let port = meta.port;
    let answer = |flags, dst, mac| Message { kind: NA, flags, target, option: TARGET, src: target, dst, mac };
    if src.is_unspecified() {
        // Somebody wants to take the address: it is taken.
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        send(stack, port, &answer(OVERRIDE, all, group(&all)));
        return Some(());
    }
    let mac = option(options, SOURCE);
    if let Some(mac) = mac {
        stack.learned(port, meta.src, mac, false, false, true);
    }
    let known = || stack.neighbour(port, meta.src).and_then(|neigh| stack.resolve(port, &neigh));
    let mac = mac.or_else(known)?;
    let router = if stack.config.all.forwarding6.on() { ROUTER } else { 0 };
    send(stack, port, &answer(SOLICITED | OVERRIDE | router, src, mac));
    Some(())
}
