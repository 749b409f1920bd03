//! Finding IPv6 neighbours (RFC 4861): solicitations and advertisements.

use super::v6::Head6;
use super::{ICMPV6, Meta, Send};
use crate::link::{Head, Out, Port};
use crate::sockets::Cast;
use crate::stack::Stack;
use crate::wire::*;
use chitin_abi::netdevice::ETH_P_IPV6;
use chitin_abi::rtnetlink::NTF_ROUTER;
use std::net::{IpAddr, Ipv6Addr};
use zerocopy::IntoBytes;

pub(super) const NS: u8 = 135;
pub(super) const NA: u8 = 136;
const REDIRECT: u8 = 137;
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const REDIRECTED: u8 = 4;
const ROUTER: u32 = 1 << 31;
const SOLICITED: u32 = 1 << 30;
const OVERRIDE: u32 = 1 << 29;
/// What stands for addresses of a link alone.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

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
    let IpAddr::V6(src) = meta.src else { return None };
    let port = meta.port;
    let ours =
        stack.config.is_local(target.into()) && stack.config.input_kind(target.into(), port.index).is_some();
    // What is said for others gives way to what they say themselves.
    let (always, router) = match stack.proxy6(port, target.into()) {
        _ if ours => (OVERRIDE, stack.config.all.forwarding6.on()),
        Some(proxy) => (0, proxy.flags & NTF_ROUTER != 0),
        None => return Some(()),
    };
    let always = if router { always | ROUTER } else { always };
    let answer = |flags, dst: Ipv6Addr, mac| {
        let own = if ours { Some(target.into()) } else { stack.config.link_addr(port.index, dst.into()) };
        if let Some(IpAddr::V6(src)) = own {
            let flags = always | flags;
            send(stack, port, &Message { kind: NA, flags, target, option: TARGET, src, dst, mac });
        }
    };
    if src.is_unspecified() {
        // Somebody wants to take the address: it is taken.
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        answer(0, all, group(&all));
        return Some(());
    }
    let mac = option(options, SOURCE);
    if let Some(mac) = mac {
        stack.learned(port, meta.src, mac, false, false, true);
    }
    let known = || stack.neighbour(port, meta.src).and_then(|neigh| stack.resolve(port, &neigh));
    let mac = mac.or_else(known)?;
    answer(SOLICITED, src, mac);
    Some(())
}

/// Tells the sender of a packet, which leaves by the link it came from, who is nearer (ndisc_send_redirect()).
pub(super) fn redirect(stack: &Stack, meta: &Meta<'_>, next: IpAddr) {
    let (IpAddr::V6(dst), IpAddr::V6(target), port) = (meta.dst, next, meta.port) else { return };
    let Some(IpAddr::V6(own)) = stack.config.link_addr(port.index, LINK_LOCAL.into()) else { return };
    let Ok(route) = stack.config.route(meta.src, Some(own.into()), port.index, 0) else { return };
    // Routers are known by the address that holds on the link, and only neighbours are told.
    let known = target == dst || target.is_unicast_link_local();
    if !known || !own.is_unicast_link_local() || route.gateway.is_some() || route.link != port.index {
        return;
    }
    let mut body = Vec::new();
    body.extend_from_slice(&target.octets());
    body.extend_from_slice(&dst.octets());
    let mac = stack.neighbour(port, next).and_then(|neigh| stack.resolve(port, &neigh));
    if let Some(mac) = mac {
        body.extend_from_slice(&[TARGET, 1]);
        body.extend_from_slice(&mac);
    }
    let room = (1280 - IPV6_LEN - size_of::<Icmp>()).saturating_sub(body.len() + 8);
    let quote = meta.packet.get(..meta.packet.len().min(room) & !7).unwrap_or_default();
    let units = u8::try_from(quote.len() / 8 + 1).unwrap_or(u8::MAX);
    body.extend_from_slice(&[REDIRECTED, units, 0, 0, 0, 0, 0, 0]);
    body.extend_from_slice(quote);
    let mut icmp = Icmp { kind: REDIRECT, code: 0, csum: 0.into(), rest: 0.into() };
    let own = IpAddr::V6(own);
    let sum = Sum::default().pseudo(&own, &meta.src, ICMPV6, size_of::<Icmp>() + body.len());
    icmp.csum = sum.put(icmp.as_bytes()).put(&body).finish();
    let send = Send { ttl: Some(255), ..Send::new(own, meta.src, ICMPV6, icmp.as_bytes(), &body) };
    let _ = stack.ip_output(&route, &send);
}
