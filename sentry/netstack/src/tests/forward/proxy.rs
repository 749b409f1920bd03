//! Neighbours that a router answers for.

use super::*;
use crate::config::{LinkChange, Proxy};
use chitin_abi::Errno;

/// What the router says to a frame of the left link whose sender is PEER.
fn said(router: &Router, to: [u8; 6], proto: [u8; 2], packet: &[u8]) -> Vec<Vec<u8>> {
    router.sent.lock().clear();
    let frame = [&to[..], &PEER, &proto, packet].concat();
    router.stack.receive(LEFT, &[RxFrame { data: &frame, ..RxFrame::default() }]);
    let sent = std::mem::take(&mut *router.sent.lock());
    sent.into_iter().filter(|(link, ..)| *link == LEFT).map(|(_, packet, _)| packet).collect()
}

/// Whether `src` is told that `dst` is here.
fn arp(router: &Router, src: [u8; 4], dst: [u8; 4]) -> bool {
    let ask = Arp {
        hw: 1.into(),
        proto: ETH_P_IP.into(),
        hw_len: 6,
        proto_len: 4,
        op: ARP_REQUEST.into(),
        src_hw: PEER,
        src,
        dst_hw: [0; 6],
        dst,
    };
    let said = said(router, [0xff; 6], [8, 6], ask.as_bytes());
    if let Some(answer) = said.first() {
        let (arp, _) = header::<Arp>(answer).unwrap();
        assert_eq!((arp.op.get(), arp.src, arp.src_hw), (ARP_REPLY, dst, [2, 0, 0, 0, 0, LEFT as u8]));
        assert_eq!((arp.dst, arp.dst_hw), (src, PEER));
    }
    said.len() == 1
}

/// The flags of the answer to who asks for `target`, and who says it. `to`: a group, or the target itself.
fn ndp(router: &Router, src: &str, to: &str, target: &str) -> Option<(u32, IpAddr)> {
    let IpAddr::V6(asked) = ip(target) else { unreachable!() };
    let mut body = asked.octets().to_vec();
    if src != "::" {
        body.extend_from_slice(&[1, 1]);
        body.extend_from_slice(&PEER);
    }
    let mut icmp = Icmp { kind: 135, code: 0, csum: 0.into(), rest: 0.into() };
    let sum = Sum::default().pseudo(&ip(src), &ip(to), ICMPV6, 8 + body.len());
    icmp.csum = sum.put(icmp.as_bytes()).put(&body).finish();
    let l4 = [icmp.as_bytes(), &body].concat();
    let mut head = Head::new();
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip(src), ip(to)) else { unreachable!() };
    Head6 { src, dst, next: ICMPV6, tos: 0, flow: 0, hops: 255, len: l4.len() }.write(&mut head);
    let mac = if dst.is_multicast() { [0x33, 0x33, 0xff, 0, 0, 2] } else { [2, 0, 0, 0, 0, LEFT as u8] };
    let said = said(router, mac, [0x86, 0xdd], &[head.packet(), &l4].concat());
    let answer = said.first()?;
    assert!(whole(answer));
    let (icmp, rest) = header::<Icmp>(&answer[40..]).unwrap();
    assert_eq!((icmp.kind, &rest[..16]), (136, &asked.octets()[..]));
    Some((icmp.rest.get() >> 29, Router::addr(&answer[8..], false)))
}

fn proxy(addr: &str, link: u32, flags: u8) -> Proxy {
    Proxy { link, addr: ip(addr), flags, protocol: 0 }
}

#[test]
fn arp_is_answered_for_others() {
    let router = router(false);
    let (stack, me) = (&router.stack, [10, 0, 1, 2]);
    assert!(arp(&router, me, [10, 0, 1, 1]) && !arp(&router, me, [10, 0, 2, 2]));
    stack.proxy_set(proxy("10.0.2.2", LEFT, 0)).unwrap();
    stack.proxy_set(proxy("10.0.1.9", LEFT, 0)).unwrap();
    stack.proxy_set(proxy("10.9.9.9", LEFT, 0)).unwrap();
    stack.proxy_set(proxy("10.0.2.3", RIGHT, 0)).unwrap();
    stack.proxy_set(proxy("10.0.2.4", 0, 0)).unwrap();
    assert!(arp(&router, me, [10, 0, 2, 2]) && arp(&router, me, [10, 0, 2, 4]));
    // Not on the link where they are, without a way there, or for another link; nor who looks whether an address is free.
    for dst in [[10, 0, 1, 9], [10, 9, 9, 9], [10, 0, 2, 3], [10, 0, 2, 5]] {
        assert!(!arp(&router, me, dst), "{dst:?}");
    }
    assert!(!arp(&router, [0; 4], [10, 0, 2, 2]));
    // Only a router does; and who asks comes by the link that he is on.
    stack.tune("ipv4/conf/eth2/rp_filter", &[1]).unwrap();
    assert!(!arp(&router, [10, 0, 2, 9], [10, 0, 2, 2]) && arp(&router, me, [10, 0, 2, 2]));
    stack.tune("ipv4/conf/eth2/forwarding", &[0]).unwrap();
    assert!(!arp(&router, me, [10, 0, 2, 2]));
    stack.tune("ipv4/conf/eth2/forwarding", &[1]).unwrap();
    stack.tune("ipv4/conf/eth2/proxy_arp", &[1]).unwrap();
    assert!(arp(&router, me, [10, 0, 2, 5]) && !arp(&router, me, [10, 0, 1, 9]));
    stack.tune("ipv4/conf/eth2/proxy_arp", &[0]).unwrap();
    assert!(!arp(&router, me, [10, 0, 2, 5]));
    assert_eq!(stack.proxy_del(LEFT, ip("10.0.2.4")), Err(Errno::ENOENT));
    stack.proxy_del(0, ip("10.0.2.4")).unwrap();
    assert!(!arp(&router, me, [10, 0, 2, 4]));
}

#[test]
fn solicitations_are_answered_for_others() {
    const GROUP: &str = "ff02::1:ff00:2";
    let router = router(false);
    let stack = &router.stack;
    let far = "fd02::2";
    stack.proxy_set(proxy(far, LEFT, 0)).unwrap();
    assert_eq!(ndp(&router, "fd01::2", GROUP, far), None);
    // A neighbour who checks whether it is still there is not sent on to it.
    stack.tune("ipv6/conf/eth2/proxy_ndp", &[1]).unwrap();
    assert_eq!(ndp(&router, "fd01::2", GROUP, far), Some((2, ip("fd01::1"))));
    assert_eq!(ndp(&router, "fd01::2", far, far), None);
    stack.tune("ipv6/conf/all/proxy_ndp", &[1]).unwrap();
    assert_eq!(ndp(&router, "fd01::2", far, far), Some((2, ip("fd01::1"))));
    assert_eq!(ndp(&router, "::", GROUP, far), Some((0, ip("fe80::1"))));
    assert_eq!(ndp(&router, "fd01::2", GROUP, "fd02::3"), None);
    stack.proxy_set(proxy(far, LEFT, NTF_ROUTER)).unwrap();
    assert_eq!(ndp(&router, "fd01::2", GROUP, far), Some((6, ip("fd01::1"))));
    // What is this host's stays so.
    assert_eq!(ndp(&router, "fd01::2", "ff02::1:ff00:1", "fd01::1"), Some((7, ip("fd01::1"))));
    // Everything else is passed on.
    let sent = router.through(LEFT, &udp("fd01::2", far, 9).bytes(), 0);
    assert_eq!(sent.iter().map(|(link, ..)| *link).collect::<Vec<_>>(), [RIGHT]);
    stack.tune("ipv6/conf/all/forwarding", &[0]).unwrap();
    assert_eq!(ndp(&router, "fd01::2", GROUP, far), None);
}

#[test]
fn proxies_are_bounded_and_go_with_their_link() {
    let router = router(false);
    for n in 0..3000_u32 {
        let addr = IpAddr::V4((0x0a00_0000 + n).into());
        let added = router.stack.proxy_set(Proxy { link: LEFT, addr, flags: 0, protocol: 0 });
        assert_eq!(added.is_ok(), n < 1024);
    }
    // One that is there can be changed.
    let known = Proxy { protocol: 3, ..proxy("10.0.0.1", LEFT, NTF_ROUTER) };
    router.stack.proxy_set(known.clone()).unwrap();
    router.stack.proxy_set(proxy("10.0.0.1", LEFT, NTF_ROUTER)).unwrap();
    assert_eq!(router.stack.proxy(LEFT, ip("10.0.0.1")), Some(known));
    let down = LinkChange { flags: (IFF_UP, 0), ..LinkChange::default() };
    router.stack.config.link_change(RIGHT, &down).unwrap();
    assert_eq!(router.stack.proxies().len(), 1024);
    router.stack.config.link_change(LEFT, &down).unwrap();
    assert!(router.stack.proxies().is_empty());
}
