use super::*;
use chitin_abi::rtnetlink::*;
use std::net::Ipv4Addr;
use zerocopy::IntoBytes;

struct Asking {
    ns: Arc<NetNs>,
    socket: Arc<NetlinkSock>,
}

/// Type, flags and body of each message of a packet.
type Messages = Vec<(u16, u16, Vec<u8>)>;

impl Asking {
    fn new(protocol: u32) -> Asking {
        let ns = NetNs::new(true);
        let common = Common::new(&ns, AF_NETLINK, SOCK_RAW, protocol, Ucred::default());
        let socket = Arc::new(NetlinkSock { common, queue: WaitQueue::new(), state: Mutex::default() });
        ns.netlink.lock().push(Arc::downgrade(&socket));
        Asking { ns, socket }
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8], admin: bool) -> Messages {
        let head = NlMsgHdr {
            nlmsg_len: (HEAD + body.len()) as u32,
            nlmsg_type: kind,
            nlmsg_flags: flags | NLM_F_REQUEST,
            nlmsg_seq: 7,
            nlmsg_pid: 0,
        };
        let raw = [head.as_bytes(), body].concat();
        self.socket.handle(&raw, &Asker { port: 42, admin, options: 0 });
        self.received()
    }

    fn received(&self) -> Messages {
        let mut state = self.socket.state.lock();
        let dump = std::mem::take(&mut state.dump);
        let mut out = Vec::new();
        for packet in dump.into_iter().chain(std::mem::take(&mut state.answers)) {
            let mut rest = &packet.bytes[..];
            while let Ok((head, _)) = NlMsgHdr::read_from_prefix(rest) {
                let len = head.nlmsg_len as usize;
                out.push((head.nlmsg_type, head.nlmsg_flags, rest[HEAD..len].to_vec()));
                rest = &rest[align(len)..];
            }
            assert!(rest.is_empty());
        }
        state.queued = 0;
        out
    }

    /// What a change answers.
    fn change(&self, kind: u16, flags: u16, body: Vec<u8>) -> Result<(), i32> {
        let answer = self.ask(kind, flags | NLM_F_ACK, &body, true);
        let (kind, _, body) = answer.last().expect("an acknowledgement");
        assert_eq!(*kind, NLMSG_ERROR);
        match i32::from_ne_bytes(*body.first_chunk().unwrap()) {
            0 => Ok(()),
            code => Err(-code),
        }
    }
}

fn kinds(messages: &Messages) -> Vec<u16> {
    messages.iter().map(|(kind, ..)| *kind).collect()
}

fn has(body: &[u8], what: &[u8]) -> bool {
    body.windows(what.len()).any(|part| part == what)
}

fn body(head: &(impl IntoBytes + zerocopy::Immutable), attrs: impl FnOnce(Message) -> Message) -> Vec<u8> {
    [head.as_bytes(), &Message::part(attrs)].concat()
}

#[test]
fn dumps() {
    let asking = Asking::new(NETLINK_ROUTE);
    let links = asking.ask(RTM_GETLINK, NLM_F_DUMP, &[0; 16], false);
    assert_eq!(kinds(&links), [RTM_NEWLINK, NLMSG_DONE]);
    assert!(has(&links[0].2, b"lo\0") && links[0].1 == NLM_F_MULTI);
    let all = asking.ask(RTM_GETADDR, NLM_F_DUMP, &[0; 8], false);
    assert_eq!(kinds(&all), [RTM_NEWADDR, RTM_NEWADDR, NLMSG_DONE]);
    let v4 = asking.ask(RTM_GETADDR, NLM_F_DUMP, &[2, 0, 0, 0, 0, 0, 0, 0], false);
    assert_eq!(kinds(&v4), [RTM_NEWADDR, NLMSG_DONE]);
    assert!(has(&v4[0].2, &[127, 0, 0, 1]));
    let routes = asking.ask(RTM_GETROUTE, NLM_F_DUMP, &[0; 12], false);
    assert!(routes.len() > 3, "127.0.0.0/8, 127.0.0.1, its broadcast, ::1: {routes:?}");
    let rules = asking.ask(RTM_GETRULE, NLM_F_DUMP, &[0; 12], false);
    assert_eq!(kinds(&rules)[..5], [RTM_NEWRULE; 5]);
    assert_eq!(kinds(&asking.ask(RTM_GETNEIGH, NLM_F_DUMP, &[0; 12], false)), [NLMSG_DONE]);
}

#[test]
fn single_links_and_errors() {
    let asking = Asking::new(NETLINK_ROUTE);
    let by_index = |index: i32| {
        asking.ask(RTM_GETLINK, 0, IfInfoMsg { ifi_index: index, ..IfInfoMsg::default() }.as_bytes(), false)
    };
    assert_eq!(kinds(&by_index(1)), [RTM_NEWLINK]);
    let code = |messages: &Messages| i32::from_ne_bytes(*messages[0].2.first_chunk().unwrap());
    assert_eq!(code(&by_index(9)), -Errno::ENODEV.raw());
    let named = body(&IfInfoMsg::default(), |m| m.text(IFLA_IFNAME, "lo"));
    assert_eq!(kinds(&asking.ask(RTM_GETLINK, NLM_F_ACK, &named, false)), [RTM_NEWLINK, NLMSG_ERROR]);
    assert_eq!(code(&asking.ask(RTM_NEWLINK, 0, &[0; 16], false)), -Errno::EPERM.raw());
    assert_eq!(code(&asking.ask(RTM_MAX + 1, 0, &[0; 16], true)), -Errno::EOPNOTSUPP.raw());
    // Lengths that lie are passed over.
    let lie = NlMsgHdr { nlmsg_len: 99, nlmsg_type: RTM_GETLINK, nlmsg_flags: 1, ..NlMsgHdr::default() };
    asking.socket.handle(lie.as_bytes(), &Asker { port: 1, admin: false, options: 0 });
    assert!(asking.received().is_empty());
}

#[test]
fn one_dump_at_a_time() {
    let asking = Asking::new(NETLINK_ROUTE);
    let head = NlMsgHdr {
        nlmsg_len: (HEAD + 16) as u32,
        nlmsg_type: RTM_GETLINK,
        nlmsg_flags: NLM_F_REQUEST | NLM_F_DUMP,
        ..NlMsgHdr::default()
    };
    let raw = [head.as_bytes(), &[0; 16]].concat();
    let asker = Asker { port: 1, admin: false, options: 0 };
    asking.socket.handle(&raw, &asker);
    asking.socket.handle(&raw, &asker);
    let seen = asking.received();
    assert_eq!(kinds(&seen), [RTM_NEWLINK, NLMSG_DONE, NLMSG_ERROR]);
    assert_eq!(i32::from_ne_bytes(*seen[2].2.first_chunk().unwrap()), -Errno::EBUSY.raw());
}

#[test]
fn changes_and_their_events() {
    let asking = Asking::new(NETLINK_ROUTE);
    let listener = {
        let common = Common::new(&asking.ns, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, Ucred::default());
        let socket = Arc::new(NetlinkSock { common, queue: WaitQueue::new(), state: Mutex::default() });
        asking.ns.netlink.lock().push(Arc::downgrade(&socket));
        socket.state.lock().groups =
            [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE].map(group_bit).into_iter().sum();
        Asking { ns: asking.ns.clone(), socket }
    };
    let create = NLM_F_CREATE | NLM_F_EXCL;
    let dummy = body(&IfInfoMsg::default(), |m| {
        m.text(IFLA_IFNAME, "d0").nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, "dummy"))
    });
    assert_eq!(asking.change(RTM_NEWLINK, create, dummy.clone()), Ok(()));
    assert_eq!(asking.change(RTM_NEWLINK, create, dummy), Err(Errno::EEXIST.raw()));
    let index = asking.ns.stack().config.link_by_name("d0").expect("made").index;
    let up =
        IfInfoMsg { ifi_index: index.cast_signed(), ifi_flags: 1, ifi_change: 1, ..IfInfoMsg::default() };
    assert_eq!(asking.change(RTM_NEWLINK, 0, up.as_bytes().to_vec()), Ok(()));
    let info = IfAddrMsg { ifa_family: 2, ifa_prefixlen: 24, ifa_index: index, ..IfAddrMsg::default() };
    let ten = Ipv4Addr::new(10, 1, 2, 3).octets();
    let addr = body(&info, |m| m.attr(IFA_LOCAL, &ten).attr(IFA_ADDRESS, &ten));
    assert_eq!(asking.change(RTM_NEWADDR, create, addr.clone()), Ok(()));
    assert_eq!(asking.change(RTM_NEWADDR, create, addr.clone()), Err(Errno::EEXIST.raw()));
    let told = kinds(&listener.received());
    assert!(
        told.contains(&RTM_NEWLINK) && told.contains(&RTM_NEWADDR) && told.contains(&RTM_NEWROUTE),
        "{told:?}"
    );

    let route = RtMsg {
        rtm_family: 2,
        rtm_table: 254,
        rtm_protocol: RTPROT_BOOT,
        rtm_type: RTN_UNICAST,
        ..RtMsg::default()
    };
    let gateway = Ipv4Addr::new(10, 1, 2, 1).octets();
    let default = body(&route, |m| m.attr(RTA_GATEWAY, &gateway));
    assert_eq!(asking.change(RTM_NEWROUTE, create, default.clone()), Ok(()));
    assert_eq!(asking.change(RTM_NEWROUTE, create, default.clone()), Err(Errno::EEXIST.raw()));
    let get = body(&RtMsg { rtm_family: 2, rtm_dst_len: 32, ..RtMsg::default() }, |m| {
        m.attr(RTA_DST, &[8, 8, 8, 8])
    });
    let found = asking.ask(RTM_GETROUTE, 0, &get, false);
    assert!(has(&found[0].2, &gateway) && has(&found[0].2, &ten), "{found:?}");
    assert_eq!(asking.change(RTM_DELROUTE, 0, default.clone()), Ok(()));
    assert_eq!(asking.change(RTM_DELROUTE, 0, default), Err(Errno::ESRCH.raw()));
    assert_eq!(asking.change(RTM_DELADDR, 0, addr), Ok(()));
    assert_eq!(asking.change(RTM_DELLINK, 0, up.as_bytes().to_vec()), Ok(()));
    let told = kinds(&listener.received());
    assert!(
        told.contains(&RTM_DELLINK) && told.contains(&RTM_DELADDR) && told.contains(&RTM_DELROUTE),
        "{told:?}"
    );
}

#[test]
fn sockets_are_found() {
    let asking = Asking::new(NETLINK_SOCK_DIAG);
    let wanted = InetDiagReqV2 { family: 2, protocol: 6, states: u32::MAX, ..InetDiagReqV2::default() };
    assert_eq!(kinds(&asking.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, wanted.as_bytes(), false)), [NLMSG_DONE]);
    let wanted = UnixDiagReq { family: 1, states: u32::MAX, show: 7, ..UnixDiagReq::default() };
    assert_eq!(kinds(&asking.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, wanted.as_bytes(), false)), [NLMSG_DONE]);
    assert_eq!(kinds(&asking.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &[77, 0], false)), [NLMSG_ERROR]);
}

/// Names are interfaces', so that many long ones cannot be kept.
#[test]
fn names_are_short() {
    let asking = Asking::new(NETLINK_ROUTE);
    let info = FibRuleHdr { family: 2, action: FR_ACT_TO_TBL, table: 254, ..FibRuleHdr::default() };
    let rule = |name: &str| body(&info, |m| m.text(FRA_IIFNAME, name).u32(FRA_PRIORITY, 5));
    assert_eq!(asking.change(RTM_NEWRULE, NLM_F_CREATE, rule(&"x".repeat(16))), Err(Errno::ERANGE.raw()));
    assert_eq!(asking.change(RTM_NEWRULE, NLM_F_CREATE, rule(&"x".repeat(60_000))), Err(Errno::ERANGE.raw()));
    assert_eq!(asking.change(RTM_NEWRULE, NLM_F_CREATE, rule(&"x".repeat(15))), Ok(()));
    let address = IfAddrMsg { ifa_family: 2, ifa_prefixlen: 24, ifa_index: 1, ..IfAddrMsg::default() };
    let labelled =
        |len| body(&address, |m| m.attr(IFA_LOCAL, &[10, 3, 3, 3]).text(IFA_LABEL, &"l".repeat(len)));
    assert_eq!(asking.change(RTM_NEWADDR, NLM_F_CREATE, labelled(16)), Err(Errno::ERANGE.raw()));
    assert_eq!(asking.change(RTM_NEWADDR, NLM_F_CREATE, labelled(15)), Ok(()));
}

/// Whatever a guest sends, nothing panics and nothing grows.
#[test]
fn random_requests() {
    let asking = Asking::new(NETLINK_ROUTE);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..50_000 {
        let len = (next() % 96) as usize;
        let mut body: Vec<u8> =
            (0..len).map(|_| if next() % 3 == 0 { next() as u8 } else { (next() % 8) as u8 }).collect();
        if let Some(first) = body.first_mut() {
            *first = [0, 2, 10, 7][(next() % 4) as usize];
        }
        asking.ask(16 + (next() % 24) as u16, next() as u16, &body, true);
    }
    assert!(
        asking.ns.stack().config.routes().len() <= 8192 && asking.ns.stack().config.links().len() <= 1024
    );
}
