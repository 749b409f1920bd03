//! What ICMP and ICMPv6 have in common: how often errors may be sent, and what errors that come in mean.

use super::{ICMP, ICMPV6, Meta, TCP, UDP};
use crate::env::Nanos;
use crate::link::Port;
use crate::sockets::{Cast, IcmpError};
use crate::stack::{Batch, Stack};
use crate::wire::*;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::num::low8;
use chitin_abi::rtnetlink::RTN_BROADCAST;
use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};

/// Destinations whose errors are counted apart.
const SLOTS: usize = 256;
/// Errors to one destination at once; then one per icmp_ratelimit.
const BURST: u64 = 6;

/// Token buckets: one for all errors, and one per destination (by a hash, so that they are few).
pub(crate) struct Limiter {
    state: Mutex<(u64, Nanos, Vec<(u64, Nanos)>)>,
}

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter { state: Mutex::new((50, 0, vec![(BURST, 0); SLOTS])) }
    }
}

impl Limiter {
    /// Whether one more may be sent. `per_second` and `burst` for all, `every` milliseconds for one.
    fn allow(&self, slot: u64, now: Nanos, per_second: u64, burst: u64, every: u64) -> bool {
        let mut guard = self.state.lock();
        let (all, since, each) = &mut *guard;
        let grown = now.saturating_sub(*since) / 1_000_000 * per_second / 1000;
        if grown > 0 {
            *all = all.saturating_add(grown).min(burst);
            *since = now;
        }
        let Some(one) = each.get_mut(chitin_abi::num::to_usize(slot % SLOTS as u64)) else { return false };
        let grown = now.saturating_sub(one.1) / 1_000_000 / every.max(1);
        if grown > 0 {
            *one = (one.0.saturating_add(grown).min(BURST), now);
        }
        if *all == 0 || one.0 == 0 && every != 0 {
            return false;
        }
        *all -= 1;
        one.0 = one.0.saturating_sub(1);
        true
    }
}

/// An error's meaning for sockets: errno, and whether it ends connections (icmp_err_convert, icmpv6_err_convert()).
fn meaning(v4: bool, kind: u8, code: u8) -> Option<(Errno, bool)> {
    let found = match (v4, kind, code) {
        (true, 3, 0 | 11) => (Errno::ENETUNREACH, false),
        (true, 3, 1 | 12) => (Errno::EHOSTUNREACH, false),
        (true, 3, 2) => (Errno::ENOPROTOOPT, true),
        (true, 3, 3) => (Errno::ECONNREFUSED, true),
        (true, 3, 4) => (Errno::EMSGSIZE, false),
        (true, 3, 5) => (Errno::EOPNOTSUPP, false),
        (true, 3, 6 | 9) => (Errno::ENETUNREACH, true),
        (true, 3, 7) => (Errno::EHOSTDOWN, true),
        (true, 3, 8) => (Errno::ENONET, true),
        (true, 3, 10 | 13 | 14 | 15) => (Errno::EHOSTUNREACH, true),
        (true, 11, _) => (Errno::EHOSTUNREACH, false),
        (true, 12, _) => (Errno::EPROTO, true),
        (false, 1, 0) => (Errno::ENETUNREACH, false),
        (false, 1, 1 | 5 | 6) => (Errno::EACCES, true),
        (false, 1, 2 | 3) => (Errno::EHOSTUNREACH, false),
        (false, 1, 4) => (Errno::ECONNREFUSED, true),
        (false, 2, _) => (Errno::EMSGSIZE, false),
        (false, 3, _) => (Errno::EHOSTUNREACH, false),
        (false, 4, _) => (Errno::EPROTO, true),
        _ => return None,
    };
    Some(found)
}

/// The packet that an error quotes: addresses, protocol, and what is behind its headers.
fn quoted(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    if packet.first()? >> 4 == 4 {
        let (ip, _) = header::<Ipv4>(packet)?;
        let rest = packet.get(usize::from(ip.vihl & 0xf).max(5) * 4..)?;
        // Only first fragments have ports.
        return (ip.frag.get() & IP_OFFSET == 0).then_some((ip4(ip.src), ip4(ip.dst), ip.proto, rest));
    }
    let (ip, mut rest) = header::<Ipv6>(packet)?;
    let mut proto = ip.next;
    for _ in 0..4 {
        match u32::from(proto) {
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => {
                let [next, units, ..] = *rest.first_chunk::<8>()?;
                rest = rest.get((usize::from(units) + 1) * 8..)?;
                proto = next;
            }
            IPPROTO_FRAGMENT => {
                let (frag, after) = header::<Frag6>(rest)?;
                if frag.off.get() & !7 != 0 {
                    return None;
                }
                proto = frag.next;
                rest = after;
            }
            _ => break,
        }
    }
    Some((ip6(ip.src), ip6(ip.dst), proto, rest))
}

impl Stack {
    /// Whether an error may be sent to `dst` now.
    pub(super) fn may_complain(&self, dst: IpAddr, now: Nanos) -> bool {
        let sysctls = &self.sysctls;
        let every = if dst.is_ipv4() { &sysctls.icmp_ratelimit } else { &sysctls.icmp6_ratelimit };
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let per_second = number(sysctls.icmp_msgs_per_sec.get());
        let burst = number(sysctls.icmp_msgs_burst.get());
        self.limiter.allow(self.hash(&dst), now, per_second, burst, number(every.get()))
    }

    /// Whether a packet may be answered with an error at all (RFC 1122, RFC 4443).
    pub(super) fn complainable(&self, meta: &Meta<'_>) -> bool {
        let error = match (meta.proto, meta.payload.first()) {
            (ICMP, Some(kind)) => !matches!(kind, 0 | 8 | 13 | 14 | 15 | 16 | 17 | 18),
            (ICMPV6, Some(kind)) => *kind < 128,
            _ => false,
        };
        meta.cast == Cast::Unicast && !error && !meta.src.is_unspecified() && self.credible(meta)
    }

    /// Nobody is on that port.
    pub(crate) fn port_unreachable(&self, batch: &Batch, meta: &Meta<'_>) {
        if meta.src.is_ipv4() {
            self.complain4(batch.now, meta, low8(ICMP_DEST_UNREACH), low8(ICMP_PORT_UNREACH), 0);
        } else {
            self.complain6(batch.now, meta, 1, 4, 0);
        }
    }

    pub(super) fn unknown_protocol(&self, meta: &Meta<'_>) {
        let now = self.now();
        if meta.src.is_ipv4() {
            self.complain4(now, meta, low8(ICMP_DEST_UNREACH), low8(ICMP_PROT_UNREACH), 0);
        } else {
            self.complain6(now, meta, 4, 1, 6);
        }
    }

    pub(super) fn parameter_problem(&self, now: Nanos, meta: &Meta<'_>, code: u8, at: usize) {
        self.complain6(now, meta, 4, code, len32(at));
    }

    /// A packet whose fragments did not all come in time; `packet`: its start.
    pub(super) fn reassembly_failed(&self, now: Nanos, link: u32, packet: &[u8]) {
        self.complain_later(now, link, packet, (low8(ICMP_TIME_EXCEEDED), 1), (3, 1));
    }

    /// Sends an error about a packet that is long past its input: kind and code for each family.
    fn complain_later(&self, now: Nanos, link: u32, packet: &[u8], v4: (u8, u8), v6: (u8, u8)) {
        let Some(port) = self.port(link) else { return };
        let Some((src, dst, proto, payload)) = quoted_any(packet) else { return };
        let all = dst.is_multicast() || self.config.input_kind(dst, link) == Some(RTN_BROADCAST);
        let meta = Meta {
            port: &port,
            src,
            dst,
            proto,
            cast: if all { Cast::Broadcast } else { Cast::Unicast },
            ttl: 0,
            tos: 0,
            flow: 0,
            packet,
            payload,
            options: &[],
            csum_ok: true,
            buffer: None,
            gso_size: 0,
        };
        if src.is_ipv4() {
            self.complain4(now, &meta, v4.0, v4.1, 0);
        } else {
            self.complain6(now, &meta, v6.0, v6.1, 0);
        }
    }

    /// An error about a packet that this host is said to have sent. `info`: the MTU, for those about sizes.
    pub(super) fn error_input(
        &self,
        link: u32,
        from: IpAddr,
        kind: u8,
        code: u8,
        info: u32,
        packet: &[u8],
    ) -> Option<()> {
        let v4 = from.is_ipv4();
        let (errno, fatal) = meaning(v4, kind, code)?;
        let (src, dst, proto, rest) = quoted(packet)?;
        // Whoever makes errors up must at least know an address of ours.
        if src.is_ipv4() != v4 || !self.config.is_local(src) || dst.is_multicast() {
            return None;
        }
        let (src_port, dst_port, payload) = match proto {
            TCP | UDP => {
                let (ports, _) = rest.split_first_chunk::<4>()?;
                let [a, b, c, d] = *ports;
                let behind = if proto == TCP { TCP_LEN } else { UDP_LEN };
                (
                    u16::from_be_bytes([a, b]),
                    u16::from_be_bytes([c, d]),
                    rest.get(behind..).unwrap_or_default(),
                )
            }
            ICMP | ICMPV6 => {
                let (icmp, behind) = header::<Icmp>(rest)?;
                let id = icmp.rest.get() >> 16;
                (u16::try_from(id).ok()?, 0, behind)
            }
            _ => (0, 0, rest),
        };
        let (local, remote) = (SocketAddr::new(src, src_port), SocketAddr::new(dst, dst_port));
        let mut info = info;
        let about_size = errno == Errno::EMSGSIZE;
        if about_size {
            // A router that does not say takes the next lower plateau (RFC 1191).
            let quoted_len = header::<Ipv4>(packet).map_or(0, |(ip, _)| u32::from(ip.len.get()));
            if v4 && info == 0 {
                info = [1492, 1006, 552].into_iter().find(|size| *size < quoted_len).unwrap_or(552);
            }
        }
        if proto == TCP {
            let (head, _) = rest.split_first_chunk::<8>()?;
            let [.., a, b, c, d] = *head;
            let seq = u32::from_be_bytes([a, b, c, d]);
            // Its sequence number must be on its way, or the error is a forgery.
            self.tcp_error(local, remote, seq, errno, about_size.then_some(info))?;
        }
        if about_size {
            let now = self.now();
            let mtu = self.config.route(dst, None, 0, 0).map_or(65535, |route| route.mtu);
            self.pmtu.learn(dst, info, mtu, now);
        }
        self.sockets()?.icmp_error(&IcmpError {
            from,
            link,
            icmp_type: kind,
            icmp_code: code,
            info,
            errno,
            fatal,
            proto,
            src: local,
            dst: remote,
            payload,
            packet,
        });
        Some(())
    }

    /// A neighbour did not answer; `packet` waited for it.
    pub(crate) fn unreachable_neighbour(&self, port: &Port, packet: &[u8]) {
        let Some((src, ..)) = quoted(packet) else { return };
        if !self.config.is_local(src) {
            // It was passed on.
            return self.complain_later(self.now(), port.index, packet, (3, 1), (1, 3));
        }
        let (kind, code) = if src.is_ipv4() { (3, 1) } else { (1, 3) };
        self.error_input(port.index, src, kind, code, 0, packet);
    }
}

/// As [`quoted`], also for later fragments.
fn quoted_any(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    if packet.first()? >> 4 == 4 {
        let (ip, _) = header::<Ipv4>(packet)?;
        let rest = packet.get(usize::from(ip.vihl & 0xf).max(5) * 4..)?;
        return Some((ip4(ip.src), ip4(ip.dst), ip.proto, rest));
    }
    quoted(packet)
}
