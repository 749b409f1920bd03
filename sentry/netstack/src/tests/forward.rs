//! Packets for others: what is passed on, as what, and what their senders are told instead.

mod proxy;

use crate::config::RouteMode;
use crate::device::Gso;
use crate::ip::{Head4, Head6, ICMP, ICMPV6, TCP, UDP};
use crate::link::Head;
use crate::testing::*;
use crate::wire::*;
use crate::*;
use chitin_abi::netdevice::*;
use chitin_abi::rtnetlink::*;
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;
use zerocopy::IntoBytes;

const LEFT: u32 = 2;
const RIGHT: u32 = 3;
/// Whoever is asked for on a link.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// Keeps what is sent.
struct Kept(u32, DeviceInfo, Arc<Mutex<Vec<(u32, Vec<u8>, Option<Gso>)>>>);

impl Device for Kept {
    fn info(&self) -> DeviceInfo {
        self.1.clone()
    }
    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize {
        for frame in frames {
            let mut data = Vec::new();
            frame.copy_to(&mut data);
            if let Some(csum) = frame.csum {
                crate::ip::complete(&mut data, csum);
            }
            assert!(frame.gso.is_some() || data.len() <= self.1.mtu as usize + 14, "longer than the MTU");
            self.2.lock().push((self.0, data.split_off(14), frame.gso));
        }
        frames.len()
    }
}

/// A router: 10.0.1.1 and fd01::1 on one link, 10.0.2.1 and fd02::1 on the other, whose packets are smaller.
struct Router {
    stack: Arc<Stack>,
    sent: Arc<Mutex<Vec<(u32, Vec<u8>, Option<Gso>)>>>,
    _world: World,
}

fn router(offload: bool) -> Router {
    let world = World::new(1, Faults::default());
    let stack = Stack::new(world.a.env().clone());
    let sent = Arc::default();
    for (index, mtu) in [(LEFT, 1500), (RIGHT, 1300)] {
        let hw_addr = [2, 0, 0, 0, 0, index as u8];
        stack.config.link_add(veth(index, &format!("eth{index}"), mtu, hw_addr)).unwrap();
        let info =
            DeviceInfo { mtu, hw_type: ARPHRD_ETHER, hw_addr, csum: offload, tso: offload, uso: false };
        stack.add_device(index, Arc::new(Kept(index, info, Arc::clone(&sent)))).unwrap();
        let net = index - 1;
        for (addr, prefix) in
            [(format!("10.0.{net}.1"), 24), (format!("fd0{net}::1"), 64), (format!("fe80::{net}"), 64)]
        {
            stack.config.addr_add(Address::new(index, ip(&addr), prefix), false).unwrap();
        }
        for addr in [
            format!("10.0.{net}.2"),
            format!("10.0.{net}.3"),
            format!("fd0{net}::2"),
            format!("fd0{net}::3"),
            "fe80::99".to_owned(),
        ] {
            let known = Neighbour {
                link: index,
                addr: ip(&addr),
                hw_addr: Some(PEER),
                state: NUD_PERMANENT,
                flags: 0,
                confirmed: 0,
                used: 0,
                updated: 0,
            };
            stack.neighbour_set(&known).unwrap();
        }
    }
    stack.tune("ipv4/ip_forward", &[1]).unwrap();
    stack.tune("ipv6/conf/all/forwarding", &[1]).unwrap();
    Router { stack, sent, _world: world }
}

/// A packet with all its headers.
#[derive(Clone)]
struct Packet<'a> {
    src: &'a str,
    dst: &'a str,
    proto: u8,
    ttl: u8,
    frag: u16,
    options: &'a [u8],
    l4: Vec<u8>,
}

fn udp(src: &'static str, dst: &'static str, len: usize) -> Packet<'static> {
    let size = UDP_LEN + len;
    let head = Udp { src: 1.into(), dst: 2.into(), len: len16(size), csum: 0.into() };
    let sum = Sum::default().pseudo(&ip(src), &ip(dst), UDP, size).put(head.as_bytes());
    let body: Vec<u8> = (0..len).map(pattern).collect();
    let head = Udp { csum: sum.put(&body).finish_udp(), ..head };
    let l4 = [head.as_bytes(), &body].concat();
    Packet { src, dst, proto: UDP, ttl: 64, frag: 0, options: &[], l4 }
}

impl Packet<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut head = Head::new();
        let (ttl, proto, len) = (self.ttl, self.proto, self.l4.len());
        match (ip(self.src), ip(self.dst)) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (frag, options) = (self.frag, self.options);
                Head4 { src, dst, proto, tos: 0, ttl, id: 7, frag, options, len }.write(&mut head);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                Head6 { src, dst, next: proto, tos: 0, flow: 5, hops: ttl, len }.write(&mut head);
            }
            _ => unreachable!(),
        }
        [head.packet(), &self.l4].concat()
    }
}

impl Router {
    /// What is sent for a packet that comes by a link.
    fn through(&self, link: u32, packet: &[u8], gso_size: u16) -> Vec<(u32, Vec<u8>, Option<Gso>)> {
        self.framed(link, [2, 0, 0, 0, 0, link as u8], packet, gso_size)
    }
    fn framed(
        &self,
        link: u32,
        to: [u8; 6],
        packet: &[u8],
        gso_size: u16,
    ) -> Vec<(u32, Vec<u8>, Option<Gso>)> {
        self.sent.lock().clear();
        let proto = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&to[..], &PEER, &proto, packet].concat();
        let csum_ok = gso_size != 0;
        self.stack.receive(link, &[RxFrame { data: &frame, csum_ok, gso_size, ..RxFrame::default() }]);
        std::mem::take(&mut *self.sent.lock())
    }
    /// Kind, code and number of the error that a packet is answered with, whose quote and sender are right.
    fn error(&self, link: u32, packet: &Packet<'_>) -> Option<(u8, u8, u32)> {
        let bytes = packet.bytes();
        let sent = self.through(link, &bytes, 0);
        let (to, data, _) = sent.first()?;
        assert_eq!((sent.len(), *to), (1, link), "{}", packet.dst);
        let v4 = data[0] >> 4 == 4;
        let (proto, at, src) = if v4 { (data[9], 20, 12) } else { (data[6], 40, 8) };
        assert_eq!(proto, if v4 { ICMP } else { ICMPV6 });
        let own = Router::addr(&data[src..], v4);
        assert!(self.stack.config.is_local(own), "{own}");
        assert_eq!(Router::addr(&data[if v4 { 16 } else { 24 }..], v4), ip(packet.src));
        let (icmp, quote) = header::<Icmp>(&data[at..]).unwrap();
        if (icmp.kind, v4) != (137, false) {
            assert!(bytes.starts_with(quote) && quote.len() >= 28, "the packet as it came");
        }
        Some((icmp.kind, icmp.code, icmp.rest.get()))
    }
    fn addr(data: &[u8], v4: bool) -> IpAddr {
        if v4 { ip4(data[..4].try_into().unwrap()) } else { ip6(data[..16].try_into().unwrap()) }
    }
}

/// Whether the sums of a packet are right.
fn whole(packet: &[u8]) -> bool {
    let v4 = packet[0] >> 4 == 4;
    let (at, proto) = if v4 { (usize::from(packet[0] & 15) * 4, packet[9]) } else { (40, packet[6]) };
    let (src, dst) = if v4 { (12, 16) } else { (8, 24) };
    let (src, dst) = (Router::addr(&packet[src..], v4), Router::addr(&packet[dst..], v4));
    let sum = Sum::default().pseudo(&src, &dst, proto, packet.len() - at).put(&packet[at..]);
    (!v4 || Sum::default().put(&packet[..at]).ok()) && sum.ok()
}

#[test]
fn packets_are_passed_on() {
    for offload in [false, true] {
        let router = router(offload);
        for packet in [udp("10.0.1.2", "10.0.2.2", 100), udp("fd01::2", "fd02::2", 100)] {
            let sent = router.through(LEFT, &packet.bytes(), 0);
            let expected = Packet { ttl: 63, ..packet.clone() }.bytes();
            assert_eq!(sent, [(RIGHT, expected, None)]);
        }
        // Not unless it is asked for, by the link that it comes from or, of IPv6, by all.
        router.stack.tune("ipv4/conf/eth2/forwarding", &[0]).unwrap();
        assert!(router.through(LEFT, &udp("10.0.1.2", "10.0.2.2", 9).bytes(), 0).is_empty());
        assert_eq!(router.through(RIGHT, &udp("10.0.2.2", "10.0.1.2", 9).bytes(), 0).len(), 1);
        router.stack.tune("ipv6/conf/all/forwarding", &[0]).unwrap();
        assert!(router.through(LEFT, &udp("fd01::2", "fd02::2", 9).bytes(), 0).is_empty());
    }
}

#[test]
fn a_new_namespace_forwards_nothing() {
    let world = World::new(1, Faults::default());
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/eth0/forwarding"] {
        assert_eq!(world.a.tunable(path).unwrap().values, [0], "{path}");
    }
}

#[test]
fn senders_are_told() {
    let router = router(false);
    let short = |packet: Packet<'static>| Packet { ttl: 1, ..packet };
    let (v4, v6) = (|dst, len| udp("10.0.1.2", dst, len), |dst, len| udp("fd01::2", dst, len));
    let whole = |packet: Packet<'static>| Packet { frag: IP_DF, ..packet };
    for (packet, expected) in [
        (short(v4("10.0.2.2", 9)), Some((11, 0, 0))),
        (short(v6("fd02::2", 9)), Some((3, 0, 0))),
        (v4("10.9.9.9", 9), Some((3, 0, 0))),
        (v6("fd09::9", 9), Some((1, 0, 0))),
        (whole(v4("10.0.2.2", 1400)), Some((3, 4, 1300))),
        (v6("fd02::2", 1400), Some((2, 0, 1300))),
        // What holds on a link alone stays there.
        (udp("fe80::99", "fd02::2", 9), Some((1, 2, 0))),
    ] {
        assert_eq!(router.error(LEFT, &packet), expected, "{} {}", packet.dst, packet.l4.len());
    }
    for (kind, v4_code, v6_code) in [
        (RTN_UNREACHABLE, Some((3, 1, 0)), Some((1, 0, 0))),
        (RTN_PROHIBIT, Some((3, 13, 0)), Some((1, 1, 0))),
    ] {
        for (src, dst, expected) in [("10.0.2.2", "10.7.7.7", v4_code), ("fd02::2", "fd07::7", v6_code)] {
            let entry = RouteEntry { kind, hops: Vec::new(), ..RouteEntry::new(Prefix::host(ip(dst)), 0) };
            router.stack.config.route_add(entry, RouteMode::Replace).unwrap();
            assert_eq!(router.error(RIGHT, &udp(src, dst, 9)), expected, "{dst} {kind}");
        }
    }
    // A neighbour that does not answer.
    let router = self::router(false);
    for (src, dst, expected) in [("10.0.1.2", "10.0.2.77", (3, 1)), ("fd01::2", "fd02::77", (1, 3))] {
        router.through(LEFT, &udp(src, dst, 9).bytes(), 0);
        let mut now = router.stack.now();
        let mut told = Vec::new();
        for _ in 0..10 {
            now += 1_100_000_000;
            router._world.time.store(now, std::sync::atomic::Ordering::Relaxed);
            router.stack.on_timer(now);
            told.extend(
                std::mem::take(&mut *router.sent.lock()).into_iter().filter(|(link, ..)| *link == LEFT),
            );
        }
        let [(_, data, _)] = &told[..] else { panic!("{told:?}") };
        let at = if dst.contains(':') { 40 } else { 20 };
        assert_eq!((data[at], data[at + 1]), expected, "{dst}");
    }
}

#[test]
fn what_nobody_should_send_goes_nowhere() {
    let router = router(false);
    let fine = udp("10.0.1.2", "10.0.2.2", 9);
    let lost = [
        // From or to nowhere, here, everybody.
        Packet { src: "0.0.0.0", ..fine.clone() },
        Packet { src: "127.0.0.1", ..fine.clone() },
        Packet { src: "10.0.2.1", ..fine.clone() },
        Packet { src: "10.0.1.1", ..fine.clone() },
        Packet { src: "255.255.255.255", ..fine.clone() },
        Packet { src: "224.0.0.1", ..fine.clone() },
        Packet { dst: "0.0.0.0", ..fine.clone() },
        Packet { dst: "127.0.0.9", ..fine.clone() },
        Packet { dst: "224.0.0.9", ..fine.clone() },
        Packet { dst: "10.0.2.255", ..fine.clone() },
        // Source routes, and options that are none.
        Packet { options: &[131, 7, 4, 10, 0, 2, 3, 0], ..fine.clone() },
        Packet { options: &[7, 60, 4, 0], ..fine.clone() },
        Packet { src: "::", ..udp("fd01::2", "fd02::2", 9) },
        Packet { src: "::1", ..udp("fd01::2", "fd02::2", 9) },
        Packet { src: "fd02::1", ..udp("fd01::2", "fd02::2", 9) },
        Packet { dst: "fe80::99", ..udp("fd01::2", "fd02::2", 9) },
        Packet { dst: "ff0e::99", ..udp("fd01::2", "fd02::2", 9) },
    ];
    for packet in lost {
        let sent = router.through(LEFT, &packet.bytes(), 0);
        assert!(sent.is_empty(), "{} to {}", packet.src, packet.dst);
    }
    // Nor what came to all of a link, nor by a link that answers would not go by.
    assert!(router.framed(LEFT, [0xff; 6], &fine.bytes(), 0).is_empty());
    assert!(router.framed(LEFT, PEER, &fine.bytes(), 0).is_empty());
    router.stack.tune("ipv4/conf/all/rp_filter", &[1]).unwrap();
    assert_eq!(router.through(LEFT, &fine.bytes(), 0).len(), 1);
    assert!(router.through(RIGHT, &fine.bytes(), 0).is_empty());
    // A header of options for every router is looked at.
    let unknown = Packet {
        proto: 0,
        l4: [&[17, 0, 0xc1, 0, 1, 2, 0, 0], &fine.l4[..]].concat(),
        ..udp("fd01::2", "fd02::2", 9)
    };
    assert_eq!(router.error(LEFT, &unknown), Some((4, 2, 42)));
    let known = Packet { l4: [&[17, 0, 5, 2, 0, 0, 1, 0], &fine.l4[..]].concat(), ..unknown };
    assert_eq!(router.through(LEFT, &known.bytes(), 0), [(RIGHT, Packet { ttl: 63, ..known }.bytes(), None)]);
}

#[test]
fn errors_are_not_about_errors() {
    let router = router(false);
    let mut icmp = Icmp { kind: 3, code: 1, csum: 0.into(), rest: 0.into() };
    icmp.csum = Sum::default().put(icmp.as_bytes()).finish();
    let packet =
        Packet { proto: ICMP, ttl: 1, l4: icmp.as_bytes().to_vec(), ..udp("10.0.1.2", "10.0.2.2", 9) };
    assert!(router.through(LEFT, &packet.bytes(), 0).is_empty());
    // Nor about fragments but the first.
    let later = Packet { ttl: 1, frag: 8, ..udp("10.0.1.2", "10.0.2.2", 9) };
    assert!(router.through(LEFT, &later.bytes(), 0).is_empty());
    let first = Packet { frag: IP_MF, ..later };
    assert_eq!(router.error(LEFT, &first), Some((11, 0, 0)));
}

#[test]
fn redirects() {
    let router = router(false);
    let config = &router.stack.config;
    for (net, gateway) in [("10.8.0.0", "10.0.1.3"), ("fd08::", "fe80::99")] {
        let len = if net.contains(':') { 64 } else { 16 };
        let route = RouteEntry::new(Prefix::of(ip(net), len), LEFT).via(ip(gateway));
        config.route_add(route, RouteMode::New).unwrap();
    }
    let packet = udp("10.0.1.2", "10.8.0.1", 9);
    let sent = router.through(LEFT, &packet.bytes(), 0);
    let [(LEFT, told, _), (LEFT, on, _)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(
        (&told[20..22], &told[24..28], &told[28..]),
        (&[5, 1][..], &[10, 0, 1, 3][..], &packet.bytes()[..])
    );
    assert_eq!(*on, Packet { ttl: 63, ..packet.clone() }.bytes());
    router.stack.tune("ipv4/conf/all/send_redirects", &[0]).unwrap();
    router.stack.tune("ipv4/conf/eth2/send_redirects", &[0]).unwrap();
    assert_eq!(router.through(LEFT, &packet.bytes(), 0).len(), 1);
    let packet = udp("fd01::2", "fd08::1", 9);
    let sent = router.through(LEFT, &packet.bytes(), 0);
    let [(LEFT, told, _), (LEFT, _, _)] = &sent[..] else { panic!("{sent:?}") };
    assert!(whole(told));
    assert_eq!((told[7], told[40], ip6(told[8..24].try_into().unwrap())), (255, 137, ip("fe80::1")));
    assert_eq!(ip6(told[48..64].try_into().unwrap()), ip("fe80::99"));
    assert_eq!(ip6(told[64..80].try_into().unwrap()), ip("fd08::1"));
    assert_eq!(told[80..88], [2, 1, 2, 0, 0, 0, 0, 0x99]);
    assert_eq!(told[88..90], [4, 1 + 7]);
}

#[test]
fn large_packets_are_cut() {
    let router = router(false);
    let packet = Packet { options: &[0x82, 4, 1, 1, 7, 4, 4, 0], ..udp("10.0.1.2", "10.0.2.2", 1450) };
    let sent = router.through(LEFT, &packet.bytes(), 0);
    let mut data = Vec::new();
    for (n, (link, piece, _)) in sent.iter().enumerate() {
        let (head, _) = header::<Ipv4>(piece).unwrap();
        assert_eq!(
            (*link, head.ttl, head.id.get(), usize::from(head.len.get())),
            (RIGHT, 63, 7, piece.len())
        );
        assert!(Sum::default().put(&piece[..28]).ok());
        assert_eq!(usize::from(head.frag.get() & IP_OFFSET) * 8, data.len());
        assert_eq!(head.frag.get() & IP_MF != 0, n + 1 < sent.len());
        assert_eq!(
            piece[20..28],
            if n == 0 { [0x82, 4, 1, 1, 7, 4, 4, 0] } else { [0x82, 4, 1, 1, 1, 1, 1, 1] }
        );
        data.extend_from_slice(&piece[28..]);
    }
    assert_eq!((sent.len(), data), (2, packet.l4.clone()));
    // A fragment is cut as well.
    let middle = Packet { frag: IP_MF | 100, options: &[], ..packet };
    let sent = router.through(LEFT, &middle.bytes(), 0);
    let frags: Vec<_> =
        sent.iter().map(|(_, piece, _)| header::<Ipv4>(piece).unwrap().0.frag.get()).collect();
    assert_eq!(frags, [IP_MF | 100, IP_MF | 260]);
}

#[test]
fn segments_that_came_as_one() {
    for (src, dst, v6) in [("10.0.1.2", "10.0.2.2", false), ("fd01::2", "fd02::2", true)] {
        let data: Vec<u8> = (0..5000).map(pattern).collect();
        let tcp = Tcp {
            src: 1.into(),
            dst: 2.into(),
            seq: 0xffff_ff00.into(),
            ack: 9.into(),
            off: 5 << 4,
            flags: ACK | PSH | CWR,
            window: 99.into(),
            csum: 0.into(),
            urgent: 0.into(),
        };
        let l4 = [tcp.as_bytes(), &data].concat();
        let packet =
            Packet { src, dst, proto: TCP, ttl: 64, frag: if v6 { 0 } else { IP_DF }, options: &[], l4 };
        for offload in [false, true] {
            let router = router(offload);
            let sent = router.through(LEFT, &packet.bytes(), 1000);
            if offload {
                let [(RIGHT, one, Some(gso))] = &sent[..] else { panic!("{sent:?}") };
                assert_eq!(
                    (gso.size, gso.header, one.len()),
                    (1000, 14 + if v6 { 60 } else { 40 }, packet.bytes().len())
                );
                assert!(whole(one));
                continue;
            }
            assert_eq!(sent.len(), 5);
            for (n, (_, piece, _)) in sent.iter().enumerate() {
                assert!(whole(piece), "{n}");
                let at = if v6 { 40 } else { 20 };
                let (tcp, body) = header::<Tcp>(&piece[at..]).unwrap();
                assert_eq!(tcp.seq.get(), 0xffff_ff00_u32.wrapping_add(n as u32 * 1000));
                assert_eq!(tcp.flags, ACK | if n == 0 { CWR } else { 0 } | if n == 4 { PSH } else { 0 });
                assert_eq!(body, &data[n * 1000..(n + 1) * 1000]);
            }
            // Segments that are too long are told of.
            assert_eq!(router.through(LEFT, &packet.bytes(), 1440)[0].0, LEFT);
        }
        let router = router(true);
        let sent = router.through(LEFT, &udp(src, dst, 2500).bytes(), 1000);
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|(_, piece, _)| whole(piece)));
    }
}

#[test]
fn rules_ask_where_a_packet_came_from() {
    let router = router(false);
    let rule = Rule { iif: Some("eth2".to_owned()), action: FR_ACT_PROHIBIT, ..Rule::table(true, 100, 0) };
    router.stack.config.rule_add(rule).unwrap();
    assert_eq!(router.error(LEFT, &udp("10.0.1.2", "10.0.2.2", 9)), Some((3, 13, 0)));
    assert_eq!(router.through(RIGHT, &udp("10.0.2.2", "10.0.1.2", 9).bytes(), 0).len(), 1);
}
