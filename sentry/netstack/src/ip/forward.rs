//! Packets for others, which are passed on from one link to another where that is asked for (ip_forward).
//!
//! What is passed on leaves by the device as all frames do, so an egress policy judges it as what guests send themselves.

use super::output::complete;
use super::{Meta, TCP, UDP, cut, ndp, v6};
use crate::config::{LO, Route};
use crate::device::{Csum, Gso, GsoKind};
use crate::env::Nanos;
use crate::link::{Head, Out};
use crate::sockets::Cast;
use crate::stack::Stack;
use crate::wire::*;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::netdevice::{ETH_P_IP, ETH_P_IPV6};
use chitin_abi::num::low8;
use chitin_abi::rtnetlink::RTN_UNICAST;
use std::net::{IpAddr, Ipv4Addr};
use zerocopy::{FromBytes, IntoBytes};

/// What every network takes whole.
const MIN_MTU6: usize = 1280;

/// A packet to be passed on.
struct Passing<'a> {
    meta: &'a Meta<'a>,
    /// Where TCP's or UDP's header is, and its length.
    l4: Option<(usize, usize)>,
}

impl Stack {
    /// ip_forward(). None: the packet is lost.
    pub(super) fn forward4(&self, now: Nanos, meta: &Meta<'_>) -> Option<()> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (meta.src, meta.dst) else { return None };
        let odd = |addr: &Ipv4Addr| addr.is_unspecified() || addr.is_loopback();
        let all = dst.is_multicast() || dst.is_broadcast();
        if meta.cast != Cast::Unicast || !meta.port.conf.forwarding.on() || odd(&src) || odd(&dst) || all {
            return None;
        }
        let (ip, _) = header::<Ipv4>(meta.packet)?;
        let frag = ip.frag.get();
        if self.config.is_local(meta.src) || !plain_options(meta.options) {
            return None;
        }
        // Of fragments only the first is complained of.
        let tell = |kind, code, info| {
            if frag & IP_OFFSET == 0 {
                self.complain4(now, meta, kind, code, info);
            }
        };
        let unreachable = |code, info| tell(low8(ICMP_DEST_UNREACH), code, info);
        let route = match self.config.route_through(meta.dst, meta.src, meta.port.index) {
            Ok(route) => passes(route)?,
            Err(error) => {
                match error {
                    Errno::ENETUNREACH => unreachable(0, 0),
                    Errno::EHOSTUNREACH => unreachable(1, 0),
                    Errno::EACCES => unreachable(13, 0),
                    _ => {}
                }
                return None;
            }
        };
        if meta.ttl <= 1 {
            tell(low8(ICMP_TIME_EXCEEDED), 0, 0);
            return None;
        }
        let mtu = route.mtu as usize;
        let passing = Passing::new(meta, frag & (IP_MF | IP_OFFSET) == 0);
        if passing.unit() > mtu && frag & IP_DF != 0 {
            unreachable(low8(ICMP_FRAG_NEEDED), route.mtu);
            return None;
        }
        let redirects = meta.port.conf.send_redirects.on() || self.config.all.send_redirects.on();
        if redirects && route.link == meta.port.index && self.config.is_near(route.link, &meta.src) {
            if let IpAddr::V4(next) = route.next_hop() {
                tell(ICMP_REDIRECT, 1, next.to_bits());
            }
        }
        let mut packet = meta.packet.to_vec();
        Ipv4::mut_from_prefix(&mut packet).ok()?.0.ttl = meta.ttl.saturating_sub(1);
        cut::sum4(&mut packet)?;
        self.pass_on(&route, mtu, &passing, packet)
    }

    /// ip6_forward(). None: the packet is lost.
    pub(super) fn forward6(&self, now: Nanos, meta: &Meta<'_>) -> Option<()> {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (meta.src, meta.dst) else { return None };
        if meta.cast != Cast::Unicast || !self.config.all.forwarding6.on() || dst.is_multicast() {
            return None;
        }
        let lost =
            src.is_unspecified() || src.is_loopback() || dst.is_loopback() || dst.is_unicast_link_local();
        if lost || self.config.is_local(meta.src) {
            return None;
        }
        match v6::hop_by_hop(meta) {
            Ok(()) => {}
            Err(None) => return None,
            Err(Some((code, at))) => {
                self.parameter_problem(now, meta, code, at);
                return None;
            }
        }
        let (proto, payload, whole) = v6::upper(meta);
        let meta = &Meta { proto, payload, ..*meta };
        let tell = |kind, code, info| self.complain6(now, meta, kind, code, info);
        let route = match self.config.route_through(meta.dst, meta.src, meta.port.index) {
            Ok(route) => passes(route)?,
            Err(error) => {
                match error {
                    Errno::EINVAL => {}
                    Errno::EACCES => tell(ICMPV6_UNREACH, 1, 0),
                    _ => tell(ICMPV6_UNREACH, 0, 0),
                }
                return None;
            }
        };
        if meta.ttl <= 1 {
            tell(ICMPV6_EXCEEDED, 0, 0);
            return None;
        }
        if src.is_unicast_link_local() {
            // What holds on a link alone stays there.
            if route.link != meta.port.index {
                tell(ICMPV6_UNREACH, 2, 0);
            }
            return None;
        }
        if route.link == meta.port.index && self.may_complain(meta.src, now) {
            ndp::redirect(self, meta, route.next_hop());
        }
        let mtu = (route.mtu as usize).max(MIN_MTU6);
        let passing = Passing::new(meta, whole);
        if passing.unit() > mtu {
            tell(ICMPV6_TOO_BIG, 0, len32(mtu));
            return None;
        }
        let mut packet = meta.packet.to_vec();
        Ipv6::mut_from_prefix(&mut packet).ok()?.0.hops = meta.ttl.saturating_sub(1);
        self.pass_on(&route, mtu, &passing, packet)
    }

    /// Sends a packet on its way: as it came if the device takes that, else cut to segments, and these to fragments.
    fn pass_on(&self, route: &Route, mtu: usize, passing: &Passing<'_>, mut packet: Vec<u8>) -> Option<()> {
        let hop = self.hop(route.link, route.next_hop(), false)?;
        let info = &hop.port.info;
        let v4 = passing.meta.src.is_ipv4();
        let csum = passing.csum(&mut packet);
        let gso = passing.gso().filter(|_| passing.unit() <= mtu);
        let at_once = gso.filter(|gso| if gso.kind == GsoKind::Udp { info.uso } else { info.tso });
        let proto = if v4 { ETH_P_IP } else { ETH_P_IPV6 };
        if at_once.is_some() || packet.len() <= mtu {
            if let Some(csum) = csum.filter(|_| !info.csum) {
                complete(&mut packet, csum);
            }
            let mut out = out_of(&packet, v4)?;
            out.csum = csum.filter(|_| info.csum);
            out.gso = at_once;
            self.emit(&hop, proto, &mut [out]);
            return Some(());
        }
        let size = usize::from(passing.meta.gso_size);
        let pieces = match (passing.l4, csum) {
            (Some(l4), Some(csum)) if size != 0 => cut::segments(passing.meta, &packet, l4, csum)?,
            (_, csum) => {
                if let Some(csum) = csum {
                    complete(&mut packet, csum);
                }
                vec![packet]
            }
        };
        let mut outs = Vec::new();
        for piece in &pieces {
            let out = out_of(piece, v4)?;
            if piece.len() > mtu {
                let [body, _] = out.body;
                outs.append(&mut cut::fragments(out.head.packet(), body, mtu)?);
            } else {
                outs.push(out);
            }
        }
        self.emit(&hop, proto, &mut outs);
        Some(())
    }
}

impl<'a> Passing<'a> {
    /// `whole`: it is no fragment.
    fn new(meta: &'a Meta<'a>, whole: bool) -> Passing<'a> {
        let l4 = || {
            let (least, len) = match meta.proto {
                TCP => (TCP_LEN, usize::from(header::<Tcp>(meta.payload)?.0.off >> 4) * 4),
                UDP => (UDP_LEN, UDP_LEN),
                _ => return None,
            };
            let at = meta.packet.len().checked_sub(meta.payload.len())?;
            (len >= least && len <= meta.payload.len()).then_some((at, len))
        };
        Passing { meta, l4: whole.then(l4).flatten() }
    }

    /// The length of the longest packet that this is on a wire.
    fn unit(&self) -> usize {
        let whole = self.meta.packet.len();
        match (self.l4, usize::from(self.meta.gso_size)) {
            (Some((at, len)), size) if size != 0 => whole.min(at + len + size),
            _ => whole,
        }
    }

    fn gso(&self) -> Option<Gso> {
        let (at, len) = self.l4?;
        let size = usize::from(self.meta.gso_size);
        if size == 0 || self.meta.packet.len() <= at + len + size {
            return None;
        }
        let kind = match (self.meta.proto, self.meta.src) {
            (UDP, _) => GsoKind::Udp,
            (_, IpAddr::V4(_)) => GsoKind::Tcp4,
            _ => GsoKind::Tcp6,
        };
        Some(Gso { kind, size: self.meta.gso_size, header: len16(at + len).get() })
    }

    /// Has a checksum that was not looked at, since the packet had not been on a wire or is several, made anew: it may be
    /// the pseudo header's alone. What came in with one keeps it, right or wrong.
    fn csum(&self, packet: &mut [u8]) -> Option<Csum> {
        // What guests put on `lo` themselves is as they made it.
        let unseen = self.meta.csum_ok && !self.meta.port.is_lo() || self.meta.gso_size != 0;
        let (at, _) = self.l4.filter(|_| unseen)?;
        let offset = if self.meta.proto == TCP { 16 } else { 6 };
        let len = packet.len().checked_sub(at)?;
        let room = packet.get_mut(at + offset..at + offset + 2)?;
        if self.meta.proto == UDP && room == [0, 0] {
            return None;
        }
        let sum = Sum::default().pseudo(&self.meta.src, &self.meta.dst, self.meta.proto, len);
        room.copy_from_slice(sum.partial().as_bytes());
        Some(Csum { start: len16(at).get(), offset: len16(offset).get() })
    }
}

const ICMP_REDIRECT: u8 = 5;
const ICMPV6_UNREACH: u8 = 1;
const ICMPV6_TOO_BIG: u8 = 2;
const ICMPV6_EXCEEDED: u8 = 3;

/// Only what leaves for one host elsewhere.
fn passes(route: Route) -> Option<Route> {
    (route.kind == RTN_UNICAST && route.link != LO).then_some(route)
}

/// Whether options are well formed and no source route (accept_source_route).
fn plain_options(mut options: &[u8]) -> bool {
    while let Some((&kind, rest)) = options.split_first() {
        options = match (kind, rest.first()) {
            (0, _) => return true,
            (1, _) => rest,
            (131 | 137, _) | (_, None | Some(0 | 1)) => return false,
            (_, Some(&len)) => match options.get(usize::from(len)..) {
                Some(rest) => rest,
                None => return false,
            },
        };
    }
    true
}

fn out_of(packet: &[u8], v4: bool) -> Option<Out<'_>> {
    let len = if v4 { usize::from(packet.first()? & 0xf) * 4 } else { IPV6_LEN };
    let (ip, body) = packet.split_at_checked(len)?;
    let mut head = Head::new();
    head.push(ip);
    Some(Out::new(head, body))
}
