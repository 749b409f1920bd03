//! ARP, NDP, UDP, ICMP, fragments, groups.

use crate::testing::*;
use crate::*;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::rtnetlink::*;
use std::net::SocketAddr;

fn send(stack: &Stack, src: &str, dst: &str, payload: &[u8], opts: &SendOpts<'_>) -> Result<(), Errno> {
    let (src, dst): (SocketAddr, SocketAddr) = (at(src), at(dst));
    let oif = if dst.ip().is_multicast() { ETH0 } else { 0 };
    let route = stack.config.route(dst.ip(), None, oif, 0)?;
    stack.udp_send(&route, src, dst, payload, opts)
}

#[test]
fn udp_both_families() {
    let world = World::new(1, Faults::default());
    let (a, b) = (told(&world.a, &[1]), told(&world.b, &[9]));
    let pairs = [("10.0.0.1:1", "10.0.0.2:9"), ("[fd00::1]:1", "[fd00::2]:9")];
    for (src, dst) in pairs {
        send(&world.a, src, dst, b"hello", &SendOpts::default()).unwrap();
        world.run(5.0, || b.udp.lock().len() == 1);
        assert_eq!(b.udp.lock().pop(), Some((at(src), at(dst), b"hello".to_vec())));
        send(&world.b, dst, src, b"", &SendOpts::default()).unwrap();
        world.run(5.0, || a.udp.lock().len() == 1);
        assert_eq!(a.udp.lock().pop(), Some((at(dst), at(src), Vec::new())));
    }
    let neighbours = world.a.neighbours();
    assert_eq!(neighbours.len(), 2);
    assert!(neighbours.iter().all(|n| n.hw_addr == Some([2, 0, 0, 0, 0, 2]) && n.state == NUD_REACHABLE));
    // They grow stale, are used at once nevertheless, and are asked again.
    world.idle(40.0);
    let sent = world.wire.sent.load(std::sync::atomic::Ordering::Relaxed);
    send(&world.a, "10.0.0.1:1", "10.0.0.2:9", b"x", &SendOpts::default()).unwrap();
    assert_eq!(world.wire.sent.load(std::sync::atomic::Ordering::Relaxed), sent + 1);
    world.idle(10.0);
    assert!(world.wire.sent.load(std::sync::atomic::Ordering::Relaxed) >= sent + 3);
}

#[test]
fn closed_ports_and_missing_hosts_are_told() {
    let world = World::new(2, Faults::default());
    let (a, _b) = (told(&world.a, &[1]), told(&world.b, &[9]));
    for (src, dst) in [("10.0.0.1:1", "10.0.0.2:10"), ("[fd00::1]:1", "[fd00::2]:10")] {
        send(&world.a, src, dst, b"hello", &SendOpts::default()).unwrap();
        world.run(5.0, || !a.errors.lock().is_empty());
        assert_eq!(a.errors.lock().pop(), Some((at(src), at(dst), Errno::ECONNREFUSED, 0)));
    }
    for (src, dst) in [("10.0.0.1:1", "10.0.0.77:10"), ("[fd00::1]:1", "[fd00::77]:10")] {
        send(&world.a, src, dst, b"hello", &SendOpts::default()).unwrap();
        world.run(5.0, || !a.errors.lock().is_empty());
        assert_eq!(a.errors.lock().pop(), Some((at(src), at(dst), Errno::EHOSTUNREACH, 0)));
    }
    // To this host itself, without a wire.
    send(&world.a, "127.0.0.1:1", "127.0.0.1:10", b"x", &SendOpts::default()).unwrap();
    assert_eq!(a.errors.lock().pop(), Some((at("127.0.0.1:1"), at("127.0.0.1:10"), Errno::ECONNREFUSED, 0)));
    send(&world.a, "[::1]:5", "[::1]:1", b"x", &SendOpts::default()).unwrap();
    assert_eq!(a.udp.lock().pop(), Some((at("[::1]:5"), at("[::1]:1"), b"x".to_vec())));
}

#[test]
fn errors_are_few() {
    let world = World::new(3, Faults::default());
    let (a, _b) = (told(&world.a, &[1]), told(&world.b, &[9]));
    for _ in 0..500 {
        send(&world.a, "10.0.0.1:1", "10.0.0.2:10", b"x", &SendOpts::default()).unwrap();
        world.idle(0.0002);
    }
    world.idle(0.1);
    let got = a.errors.lock().len();
    assert!((1..=10).contains(&got), "{got}");
}

#[test]
fn large_datagrams_are_cut_and_put_together() {
    let world = World::new(4, Faults { reorder: 30.0, ..Faults::default() });
    let (_a, b) = (told(&world.a, &[]), told(&world.b, &[9]));
    for (src, dst) in [("10.0.0.1:1", "10.0.0.2:9"), ("[fd00::1]:1", "[fd00::2]:9")] {
        for len in [1472, 1473, 1474, 3000, 8192, 40_001, 65_507] {
            let payload: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            send(&world.a, src, dst, &payload, &SendOpts::default()).unwrap();
            world.run(5.0, || !b.udp.lock().is_empty());
            assert!(b.udp.lock().pop().unwrap().2 == payload, "{len}");
        }
        let too_large = vec![0; 65_530];
        assert_eq!(send(&world.a, src, dst, &too_large, &SendOpts::default()), Err(Errno::EMSGSIZE));
        let whole = SendOpts { pmtudisc: IP_PMTUDISC_DO, ..SendOpts::default() };
        assert_eq!(send(&world.a, src, dst, &[0; 1473], &whole), Err(Errno::EMSGSIZE));
    }
    assert_eq!(world.b.fragment_bytes(), 0);
    // A piece that never comes: the rest is given up.
    world.wire.faults.lock().loss = 50.0;
    for _ in 0..2000 {
        send(&world.a, "10.0.0.1:1", "10.0.0.2:9", &[7; 60_000], &SendOpts::default()).unwrap();
        world.idle(0.001);
        assert!(world.b.fragment_bytes() <= 5 << 20);
    }
    world.idle(40.0);
    assert_eq!(world.b.fragment_bytes(), 0);
}

#[test]
fn later_fragments_have_the_options_that_are_copied() {
    let world = World::new(6, Faults::default());
    let _told = (told(&world.a, &[1]), told(&world.b, &[9]));
    send(&world.b, "10.0.0.2:9", "10.0.0.1:1", b"who is there?", &SendOpts::default()).unwrap();
    world.idle(1.0);
    *world.wire.tap.lock() = Some(Vec::new());
    // Record route is the first one's, the router alert everybody's.
    let options = [7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0];
    let opts = SendOpts { options: &options, ..SendOpts::default() };
    send(&world.b, "10.0.0.2:9", "10.0.0.1:1", &[7; 4000], &opts).unwrap();
    let sent = world.wire.tap.lock().take().unwrap();
    let shown: Vec<_> = sent.iter().map(|frame| (frame.data[20..22].to_vec(), &frame.data[34..46])).collect();
    let later = [1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 0];
    let at = |offset: u16, more: u16| ((offset / 8) | (more << 13)).to_be_bytes().to_vec();
    assert_eq!(shown, [(at(0, 1), &options[..]), (at(1464, 1), &later), (at(2928, 0), &later)]);
}

#[test]
fn segments_of_one_send() {
    for offload in [false, true] {
        let world = World::with(5, Faults::default(), offload, 1500);
        let (_a, b) = (told(&world.a, &[]), told(&world.b, &[9]));
        let opts = SendOpts { segment: 1000, ..SendOpts::default() };
        send(&world.a, "10.0.0.1:1", "10.0.0.2:9", &[5; 3500], &opts).unwrap();
        world.idle(0.1);
        let lens: Vec<_> = b.udp.lock().iter().map(|d| d.2.len()).collect();
        assert_eq!(lens, if offload { vec![3500] } else { vec![1000, 1000, 1000, 500] });
        let opts = SendOpts { segment: 1480, ..SendOpts::default() };
        assert_eq!(send(&world.a, "10.0.0.1:1", "10.0.0.2:9", &[5; 3500], &opts), Err(Errno::EMSGSIZE));
    }
}

#[test]
fn groups_and_broadcasts() {
    let world = World::new(6, Faults::default());
    let (a, b) = (told(&world.a, &[9]), told(&world.b, &[9]));
    let opts = SendOpts { multicast_loop: true, ..SendOpts::default() };
    for (src, group) in [("10.0.0.1:1", "224.5.5.5:9"), ("[fe80::1]:1", "[ff02::55]:9")] {
        send(&world.a, src, group, b"nobody", &opts).unwrap();
        world.idle(0.1);
        assert!(b.udp.lock().is_empty());
        world.b.join(ETH0, at(group).ip()).unwrap();
        world.a.join(ETH0, at(group).ip()).unwrap();
        send(&world.a, src, group, b"members", &opts).unwrap();
        world.idle(0.1);
        assert_eq!(b.udp.lock().pop(), Some((at(src), at(group), b"members".to_vec())));
        assert_eq!(a.udp.lock().pop(), Some((at(src), at(group), b"members".to_vec())));
        world.b.leave(ETH0, at(group).ip()).unwrap();
        assert_eq!(world.b.leave(ETH0, at(group).ip()), Err(Errno::EADDRNOTAVAIL));
    }
    let denied = send(&world.a, "10.0.0.1:1", "10.0.0.255:9", b"all", &SendOpts::default());
    assert_eq!(denied, Err(Errno::EACCES));
    let opts = SendOpts { broadcast: true, ..SendOpts::default() };
    send(&world.a, "10.0.0.1:1", "10.0.0.255:9", b"all", &opts).unwrap();
    world.idle(0.1);
    assert_eq!(b.udp.lock().len(), 1);
}

fn echo_request(v6: Option<(&str, &str)>) -> Vec<u8> {
    use zerocopy::IntoBytes;
    let kind = if v6.is_some() { 128 } else { 8 };
    let mut icmp = wire::Icmp { kind, code: 0, csum: 0.into(), rest: 0x0001_0002.into() };
    let mut sum = wire::Sum::default();
    if let Some((src, dst)) = v6 {
        sum = sum.pseudo(&ip(src), &ip(dst), 58, 8);
    }
    icmp.csum = sum.put(icmp.as_bytes()).finish();
    icmp.as_bytes().to_vec()
}

#[test]
fn pings_are_answered() {
    let world = World::new(7, Faults::default());
    let (a, _b) = (told(&world.a, &[]), told(&world.b, &[]));
    for (src, dst, proto) in [
        ("10.0.0.1", "10.0.0.2", 1_u8),
        ("fd00::1", "fd00::2", 58),
        ("127.0.0.1", "127.0.0.1", 1),
        ("::1", "::1", 58),
    ] {
        let request = echo_request((proto == 58).then_some((src, dst)));
        let route = world.a.config.route(ip(dst), None, 0, 0).unwrap();
        world.a.ip_send(&route, ip(src), proto, &request, &SendOpts::default()).unwrap();
        world.run(3.0, || !a.raw.lock().is_empty());
        let (from, got, payload) = a.raw.lock().pop().unwrap();
        assert_eq!((from, got, payload[0]), (ip(dst), proto, if proto == 1 { 0 } else { 129 }));
        assert_eq!(payload[4..], request[4..]);
    }
}

#[test]
fn path_mtu_is_learned() {
    let world = World::new(8, Faults::default());
    let (a, b) = (told(&world.a, &[1]), told(&world.b, &[9]));
    send(&world.a, "10.0.0.1:1", "10.0.0.2:9", &[1; 1400], &SendOpts { pmtudisc: 1, ..SendOpts::default() })
        .unwrap();
    world.run(5.0, || b.udp.lock().len() == 1);
    // A router's word about that packet.
    use zerocopy::IntoBytes;
    let mut quoted = Vec::new();
    let inner = wire::Ipv4 {
        vihl: 0x45,
        len: 1428.into(),
        ttl: 64,
        proto: 17,
        src: [10, 0, 0, 1],
        dst: [10, 0, 0, 2],
        ..wire::Ipv4::default()
    };
    quoted.extend_from_slice(inner.as_bytes());
    quoted.extend_from_slice(&[0, 1, 0, 9, 0x05, 0x80, 0, 0]);
    let mut icmp = wire::Icmp { kind: 3, code: 4, csum: 0.into(), rest: 1000.into() };
    icmp.csum = wire::Sum::default().put(icmp.as_bytes()).put(&quoted).finish();
    let mut message = icmp.as_bytes().to_vec();
    message.extend_from_slice(&quoted);
    let route = world.b.config.route(ip("10.0.0.1"), None, 0, 0).unwrap();
    world.b.ip_send(&route, ip("10.0.0.2"), 1, &message, &SendOpts::default()).unwrap();
    world.run(5.0, || !a.errors.lock().is_empty());
    assert_eq!(a.errors.lock().pop(), Some((at("10.0.0.1:1"), at("10.0.0.2:9"), Errno::EMSGSIZE, 1000)));
    let whole = SendOpts { pmtudisc: IP_PMTUDISC_DO, ..SendOpts::default() };
    assert_eq!(send(&world.a, "10.0.0.1:1", "10.0.0.2:9", &[1; 973], &whole), Err(Errno::EMSGSIZE));
    send(&world.a, "10.0.0.1:1", "10.0.0.2:9", &[1; 972], &whole).unwrap();
    send(&world.a, "10.0.0.1:1", "10.0.0.2:9", &[1; 1400], &SendOpts { pmtudisc: 1, ..SendOpts::default() })
        .unwrap();
    world.idle(0.1);
    assert_eq!(b.udp.lock().len(), 3, "cut to the path's size, and put together");
}

#[test]
fn raw_protocols_and_frames() {
    let world = World::new(9, Faults::default());
    let (a, b) = (told(&world.a, &[]), told(&world.b, &[]));
    world.b.want_raw(true);
    world.b.want_frames(true);
    let route = world.a.config.route(ip("10.0.0.2"), None, 0, 0).unwrap();
    world.a.ip_send(&route, ip("10.0.0.1"), 200, b"protocol", &SendOpts::default()).unwrap();
    world.run(3.0, || !b.raw.lock().is_empty());
    assert_eq!(b.raw.lock().pop(), Some((ip("10.0.0.1"), 200, b"protocol".to_vec())));
    world.a.ip_send(&route, ip("10.0.0.1"), 201, b"unknown", &SendOpts::default()).unwrap();
    world.run(3.0, || !a.errors.lock().is_empty());
    assert_eq!(a.errors.lock()[0].2, Errno::ENOPROTOOPT);
    let seen: Vec<_> = b.frames.lock().iter().map(|f| f.0).collect();
    assert!(seen.contains(&0x0806) && seen.contains(&0x0800));
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend_from_slice(&[1; 50]);
    world.a.frame_send(ETH0, &frame).unwrap();
    world.idle(0.1);
    assert_eq!(b.frames.lock().last(), Some(&(0x88b5, 64)));
    assert_eq!(world.a.frame_send(ETH0, &[0; 2000]), Err(Errno::EMSGSIZE));
    assert_eq!(world.a.frame_send(7, &frame), Err(Errno::ENXIO));
}

#[test]
fn where_packets_may_come_from_and_go() {
    let world = World::new(1, Faults::default());
    let b = told(&world.b, &[9]);
    let arrives = |from: &str| {
        send(&world.a, from, "10.0.0.2:9", b"x", &SendOpts::default()).unwrap();
        world.idle(2.0);
        b.udp.lock().pop().is_some()
    };
    let filter = |name: &str, mode| world.b.tune(&format!("ipv4/conf/{name}/rp_filter"), &[mode]).unwrap();
    assert!(arrives("192.0.2.7:1") && arrives("10.0.0.1:1"));
    // There is no way to it, and then one that is another.
    filter("eth0", 2);
    assert!(!arrives("192.0.2.7:1") && arrives("10.0.0.1:1"));
    let far = config::Link { index: 0, name: "far".into(), kind: LinkKind::Dummy, ..Link::loopback() };
    let far = world.b.config.link_add(far).unwrap();
    let up = config::LinkChange { flags: (1, 1), ..Default::default() };
    world.b.config.link_change(far, &up).unwrap();
    let route = RouteEntry::new(Prefix::of(ip("192.0.2.0"), 24), far);
    world.b.config.route_add(route, config::RouteMode::New).unwrap();
    assert!(arrives("192.0.2.7:1"));
    filter("all", 1);
    assert!(arrives("192.0.2.7:1"), "the larger one counts");
    filter("eth0", 1);
    assert!(!arrives("192.0.2.7:1") && arrives("10.0.0.1:1"));

    let route = world.a.config.route(ip("10.0.0.2"), None, 0, 0).unwrap();
    let route = Route { dst: ip("127.0.0.1"), gateway: Some(route.dst), ..route };
    let local = || {
        let (from, to) = (at("10.0.0.1:1"), at("127.0.0.1:9"));
        world.a.udp_send(&route, from, to, b"x", &SendOpts::default()).unwrap();
        world.idle(2.0);
        b.udp.lock().pop().is_some()
    };
    assert!(!local());
    world.b.tune("ipv4/conf/eth0/route_localnet", &[1]).unwrap();
    assert!(local());
}
