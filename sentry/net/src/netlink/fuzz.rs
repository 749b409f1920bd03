//! Requests that are right but for one thing or another, from several sockets of a namespace.
//!
//! Whatever comes: nothing panics or goes on for ever, every request that wants one has its answer, what is received can be
//! taken apart, what is held is bounded, the tables agree with each other, and who asks beside it is answered well.

use super::message::{HEAD, Message, align};
use super::*;
use chitin_abi::rtnetlink::*;
use chitin_fuzz::{Bytes, Fuzz, Seen, Step};
use std::net::IpAddr;
use std::path::Path;
use zerocopy::IntoBytes;

const KINDS: u8 = 12;
/// A bound for what the tables of one namespace take, more or less.
const TABLES: usize = 4 << 20;

/// Attributes of every kind of message here, and some more.
const ATTRIBUTES: u16 = 64;

struct Asking<'s> {
    ns: Arc<NetNs>,
    sockets: Vec<Arc<NetlinkSock>>,
    diag: Arc<NetlinkSock>,
    kind: u8,
    seen: &'s mut Seen,
}

fn socket(ns: &Arc<NetNs>, protocol: u32) -> Arc<NetlinkSock> {
    let common = Common::new(ns, AF_NETLINK, SOCK_RAW, protocol, Ucred::default());
    let socket = Arc::new(NetlinkSock { common, queue: WaitQueue::new(), state: Mutex::default() });
    ns.netlink.lock().push(Arc::downgrade(&socket));
    socket
}

/// An address from a handful.
fn addr(n: u8, v4: bool) -> Vec<u8> {
    let text = match (n % 9, v4) {
        (0, true) => "10.1.0.1",
        (1, true) => "10.1.0.2",
        (2, true) => "10.2.0.0",
        (3, true) => "127.0.0.1",
        (4, true) => "0.0.0.0",
        (5, true) => "255.255.255.255",
        (6, true) => "224.0.0.1",
        (7, true) => "10.1.0.255",
        (_, true) => "192.168.7.7",
        (0, _) => "fd00::1",
        (1, _) => "fd00::2",
        (2, _) => "fd00:1::",
        (3, _) => "::1",
        (4, _) => "::",
        (5, _) => "fe80::1",
        (6, _) => "ff02::1",
        (7, _) => "::ffff:10.1.0.1",
        _ => "2001:db8::7",
    };
    match text.parse() {
        Ok(IpAddr::V4(a)) => a.octets().to_vec(),
        Ok(IpAddr::V6(a)) => a.octets().to_vec(),
        Err(_) => Vec::new(),
    }
}

fn name(n: u8) -> &'static str {
    ["d0", "lo", "d1", "dummy0", "", "eth0:1", "averyveryverylongname", "."][usize::from(n % 8)]
}

impl Asking<'_> {
    /// The body of a message of a family of messages, right as far as it goes.
    fn body(&self, family: u16, args: &mut Bytes<'_>) -> Vec<u8> {
        let what = args.u8();
        let v4 = what & 1 == 0;
        let af = if what & 2 != 0 && what & 4 != 0 {
            what
        } else if v4 {
            2
        } else {
            10
        };
        let (a, b, c) = (args.u8(), args.u8(), args.u8());
        let link = u32::from(a % 6);
        let len = match c % 8 {
            0..=3 if v4 => [24, 32, 16, 0][usize::from(c % 4)],
            0..=3 => [64, 128, 48, 0][usize::from(c % 4)],
            4 => 33,
            5 => 129,
            6 => 255,
            _ => 8,
        };
        match family {
            RTM_NEWLINK => {
                let info = IfInfoMsg {
                    ifi_index: if what & 8 != 0 { link.cast_signed() } else { 0 },
                    ifi_flags: u32::from(b),
                    ifi_change: u32::from(b) << (c & 1),
                    ..IfInfoMsg::default()
                };
                let attrs = Message::part(|m| {
                    let kind = ["dummy", "veth", "bridge", ""][usize::from(c >> 2 & 3)];
                    let m = m.nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, kind));
                    let m = if what & 16 == 0 { m.text(IFLA_IFNAME, name(a)) } else { m };
                    let m = if c & 64 != 0 { m.u32(IFLA_MTU, u32::from(b) << (c & 31)) } else { m };
                    let m = if c & 32 != 0 { m.attr(IFLA_ADDRESS, &[b, 2, 3, 4, 5, 6]) } else { m };
                    if c & 128 != 0 { m.text(IFLA_ALT_IFNAME, name(b)) } else { m }
                });
                [info.as_bytes(), &attrs].concat()
            }
            RTM_NEWADDR => {
                let info = IfAddrMsg {
                    ifa_family: af,
                    ifa_prefixlen: len,
                    ifa_flags: if what & 8 != 0 { b } else { 0 },
                    ifa_scope: if what & 16 != 0 { c } else { 0 },
                    ifa_index: link,
                };
                let attrs = Message::part(|m| {
                    let m = m.attr(IFA_LOCAL, &addr(b, v4));
                    let m = if what & 32 != 0 { m.attr(IFA_ADDRESS, &addr(b >> 4, v4)) } else { m };
                    let m = if what & 64 != 0 { m.text(IFA_LABEL, name(c)) } else { m };
                    if what & 128 == 0 {
                        return m;
                    }
                    m.attr(IFA_BROADCAST, &addr(c, true))
                        .attr(IFA_CACHEINFO, &[b; 16])
                        .u32(IFA_RT_PRIORITY, c.into())
                });
                [info.as_bytes(), &attrs].concat()
            }
            RTM_NEWROUTE => {
                let info = RtMsg {
                    rtm_family: af,
                    rtm_dst_len: len,
                    rtm_table: if what & 8 != 0 { b } else { [254, 255, 0, 7][usize::from(b & 3)] },
                    rtm_type: if what & 16 != 0 {
                        c % 16
                    } else {
                        [RTN_UNICAST, RTN_LOCAL][usize::from(b >> 2 & 1)]
                    },
                    rtm_scope: if what & 32 != 0 { c } else { 0 },
                    rtm_protocol: b >> 6,
                    rtm_flags: u32::from(b & 8) >> 1,
                    ..RtMsg::default()
                };
                let attrs = Message::part(|m| {
                    let m = m.attr(RTA_DST, &addr(c >> 3, v4)).u32(RTA_OIF, link);
                    let m = if what & 64 != 0 { m.attr(RTA_GATEWAY, &addr(b, v4)) } else { m };
                    let m = if c & 128 != 0 { m.u32(RTA_PRIORITY, b.into()) } else { m };
                    let m = if c & 64 != 0 { m.u32(RTA_TABLE, u32::from(b) << 8) } else { m };
                    let m = if a & 128 != 0 { m.nest(RTA_METRICS, |m| m.u32(RTAX_MTU, b.into())) } else { m };
                    let m = if a & 64 != 0 { m.attr(RTA_PREFSRC, &addr(a, v4)) } else { m };
                    if what & 128 == 0 {
                        return m;
                    }
                    let hop = |n: u8| {
                        let attrs = Message::part(|m| m.attr(RTA_GATEWAY, &addr(n, v4)));
                        let head = RtNextHop {
                            rtnh_len: (8 + attrs.len()) as u16,
                            rtnh_flags: b & 4,
                            rtnh_hops: n,
                            rtnh_ifindex: link.cast_signed(),
                        };
                        [head.as_bytes(), &attrs].concat()
                    };
                    m.attr(RTA_MULTIPATH, &(0..b).flat_map(hop).collect::<Vec<u8>>())
                });
                [info.as_bytes(), &attrs].concat()
            }
            RTM_NEWNEIGH => {
                let info = NdMsg {
                    ndm_family: af,
                    ndm_ifindex: link.cast_signed(),
                    ndm_state: u16::from(b),
                    ndm_flags: c,
                    ..NdMsg::default()
                };
                let attrs =
                    Message::part(|m| m.attr(NDA_DST, &addr(c, v4)).attr(NDA_LLADDR, &[2, 3, 4, 5, 6, b]));
                [info.as_bytes(), &attrs].concat()
            }
            RTM_NEWRULE => {
                let info = FibRuleHdr {
                    family: af,
                    dst_len: len,
                    src_len: if what & 8 != 0 { len } else { 0 },
                    table: a,
                    action: b % 10,
                    flags: u32::from(b >> 4),
                    ..FibRuleHdr::default()
                };
                let attrs = Message::part(|m| {
                    let m = m.attr(FRA_DST, &addr(c, v4));
                    let m = if what & 16 != 0 { m.u32(FRA_PRIORITY, u32::from(c) << (b & 31)) } else { m };
                    let m = if what & 32 != 0 {
                        m.text(FRA_IIFNAME, name(c)).text(FRA_OIFNAME, name(b))
                    } else {
                        m
                    };
                    if what & 64 != 0 { m.u32(FRA_FWMARK, c.into()).u32(FRA_FWMASK, b.into()) } else { m }
                });
                [info.as_bytes(), &attrs].concat()
            }
            _ => vec![af; usize::from(b)],
        }
    }

    /// A request, spoilt as the step's last bytes say.
    fn request(&mut self, args: &mut Bytes<'_>, mut spoil: Bytes<'_>) -> Vec<u8> {
        let which = args.u8();
        let family = args.pick(&[
            RTM_NEWLINK,
            RTM_NEWADDR,
            RTM_NEWROUTE,
            RTM_NEWNEIGH,
            RTM_NEWRULE,
            RTM_GETQDISC & !3,
        ]);
        let flags = match args.u8() {
            n if n < 100 => NLM_F_CREATE,
            n if n < 140 => NLM_F_DUMP,
            n if n < 180 => NLM_F_CREATE | NLM_F_EXCL,
            n => u16::from(n) << 4,
        };
        let mut body = self.body(family, args);
        let (how, at, value) = (spoil.u8(), usize::from(spoil.u8()), spoil.u8());
        if how & 0xc0 == 0xc0 && !body.is_empty() {
            let at = at % body.len();
            match how & 7 {
                0 | 1 => body[at] = value,
                2 => body.truncate(at),
                3 => body.extend(std::iter::repeat_n(value, 600)),
                // More attributes, nested or not, of made-up kinds and lengths.
                4 => body.extend(Message::part(|m| {
                    m.attr(u16::from(value) % ATTRIBUTES, &vec![how; at])
                        .nest(NLA_F_NESTED | u16::from(how) >> 3, |m| {
                            m.attr(u16::from(value) % ATTRIBUTES, &[at as u8; 5])
                        })
                })),
                5 => body.extend([value, how & 1, value % 64, 0, 9]),
                6 => {
                    let again = body[at..].to_vec();
                    body.extend(again);
                }
                _ => {
                    body.remove(at);
                }
            }
        }
        let head = NlMsgHdr {
            nlmsg_len: (HEAD + body.len()) as u32,
            nlmsg_type: if which & 0xf0 == 0xf0 { u16::from(value) } else { family + u16::from(which & 3) },
            nlmsg_flags: NLM_F_REQUEST | NLM_F_ACK | flags,
            nlmsg_seq: u32::from(value) + 1,
            nlmsg_pid: 0,
        };
        let mut raw = [head.as_bytes(), &body].concat();
        raw.resize(align(raw.len()), 0);
        raw
    }

    /// Takes what a socket has; how many messages of each kind.
    fn received(&mut self, socket: &NetlinkSock, most: usize) -> Vec<(u16, i32)> {
        let mut state = socket.state.lock();
        let mut all = Vec::new();
        for _ in 0..most {
            let dumping = !state.dump.is_empty();
            let queue = if dumping { &mut state.dump } else { &mut state.answers };
            let Some(packet) = queue.pop_front() else { break };
            if !dumping {
                state.queued -= packet.bytes.len();
            }
            let mut rest = &packet.bytes[..];
            assert!(rest.len() <= (1 << 17), "a packet of {} bytes", rest.len());
            while let Ok((head, _)) = NlMsgHdr::read_from_prefix(rest) {
                let len = head.nlmsg_len as usize;
                assert!(len >= HEAD && len <= rest.len(), "a message of {len} bytes in {}", rest.len());
                let code = rest[HEAD..len].first_chunk().map_or(0, |raw| i32::from_ne_bytes(*raw));
                all.push((head.nlmsg_type, if head.nlmsg_type == NLMSG_ERROR { code } else { 0 }));
                rest = &rest[align(len).min(rest.len())..];
            }
            assert!(rest.is_empty());
        }
        drop(state);
        for what in &all {
            self.seen.note((self.kind, what));
        }
        all
    }

    fn step(&mut self, step: &Step) {
        self.kind = step[0] % KINDS;
        let (mut args, spoil) = (Bytes(&step[1..13]), Bytes(&step[13..]));
        let which = usize::from(step[12]) % self.sockets.len();
        let asker =
            Asker { port: 9, admin: step[12] & 0xe0 != 0xe0, options: u32::from(step[12] & 16 != 0) << 12 };
        let target = self.sockets[which].clone();
        match self.kind {
            0..=5 => {
                self.received(&target, usize::MAX);
                let raw = self.request(&mut args, spoil);
                target.state.lock().error = None;
                target.handle(&raw, &asker);
                let lost = target.state.lock().error.is_some();
                let told = self.received(&target, usize::MAX);
                let answered = told.iter().any(|(kind, _)| matches!(*kind, NLMSG_ERROR | NLMSG_DONE));
                let known = raw
                    .get(4..6)
                    .is_some_and(|kind| u16::from_ne_bytes([kind[0], kind[1]]) >= NLMSG_MIN_TYPE);
                assert!(answered || lost || !known, "no answer: {told:?}");
            }
            // Several in one, and nobody receives.
            6 => {
                let one = self.request(&mut args, spoil.clone());
                let mut all = one.repeat(1 + usize::from(step[13] % 64));
                if step[14] & 1 != 0 {
                    all.truncate(all.len() * usize::from(step[15]) / 256);
                }
                target.handle(&all, &asker);
            }
            7 => drop(self.received(&target, usize::from(step[1]))),
            8 => target.state.lock().groups = u64::from_le_bytes([step[1]; 8]),
            9 => {
                let dump = NlMsgHdr {
                    nlmsg_len: (HEAD + 72) as u32,
                    nlmsg_type: if step[1] & 7 == 7 { u16::from(step[2]) } else { SOCK_DIAG_BY_FAMILY },
                    nlmsg_flags: NLM_F_REQUEST | NLM_F_ACK | if step[1] & 8 != 0 { NLM_F_DUMP } else { 0 },
                    ..NlMsgHdr::default()
                };
                let mut body = [step[3]; 72];
                body[..4].copy_from_slice(&[
                    args.pick(&[2, 10, 1, 77]),
                    args.pick(&[6, 17, 255, 1, 0]),
                    step[6],
                    0,
                ]);
                let cut = if step[7] & 1 != 0 { usize::from(step[8]) % 72 } else { 72 };
                self.diag.handle(&[dump.as_bytes(), &body[..cut]].concat(), &asker);
                let diag = self.diag.clone();
                self.received(&diag, usize::MAX);
            }
            10 => {
                let noise: Vec<u8> = step.iter().cycle().take(usize::from(step[1]) * 4).copied().collect();
                target.handle(&noise, &asker);
            }
            // An interface's worth of addresses.
            _ => {
                for n in 0..step[1] {
                    let own = [10, step[2], step[3], n];
                    let info = IfAddrMsg {
                        ifa_family: 2,
                        ifa_prefixlen: 24,
                        ifa_index: u32::from(step[4] % 6),
                        ..IfAddrMsg::default()
                    };
                    let body = [info.as_bytes(), &Message::part(|m| m.attr(IFA_LOCAL, &own))].concat();
                    let head = NlMsgHdr {
                        nlmsg_len: (HEAD + body.len()) as u32,
                        nlmsg_type: if step[5] & 1 == 0 { RTM_NEWADDR } else { RTM_DELADDR },
                        nlmsg_flags: NLM_F_REQUEST,
                        ..NlMsgHdr::default()
                    };
                    target.handle(&[head.as_bytes(), &body].concat(), &asker);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let config = &self.ns.stack().config;
        let (routes, addresses, links, rules) =
            (config.routes(), config.addresses(), config.links(), config.rules());
        let hops: usize = routes.iter().map(|route| route.hops.len()).sum();
        let names: usize = addresses.iter().filter_map(|a| a.label.as_ref()).map(String::len).sum();
        let rule_names: usize = rules.iter().filter_map(|r| r.iif.as_ref()).map(String::len).sum();
        let held =
            routes.len() * 128 + hops * 32 + addresses.len() * 128 + names + rules.len() * 128 + rule_names;
        assert!(held < TABLES && links.len() <= 1024, "{held}");
        for socket in &self.sockets {
            let state = socket.state.lock();
            assert!(state.queued <= socket.common.rcvbuf());
            assert_eq!(state.queued, state.answers.iter().map(|packet| packet.bytes.len()).sum::<usize>());
        }
        // What is local is what the local table says.
        let local = |addr: IpAddr| {
            routes.iter().any(|r| {
                r.table == RT_TABLE_LOCAL
                    && r.kind == RTN_LOCAL
                    && r.dst.contains(&addr)
                    && r.dst.addr.is_ipv4() == addr.is_ipv4()
            })
        };
        for n in 0..9 {
            for raw in [addr(n, true), addr(n, false)] {
                let addr: IpAddr = match <[u8; 4]>::try_from(&raw[..]) {
                    Ok(v4) => v4.into(),
                    Err(_) => <[u8; 16]>::try_from(&raw[..]).unwrap().into(),
                };
                assert!(!config.is_local(addr) || local(addr), "{addr} is local for no reason");
                let own = |r: &&chitin_netstack::RouteEntry| r.dst == chitin_netstack::Prefix::host(addr);
                let best = routes.iter().find(|r| r.table == RT_TABLE_LOCAL && own(r));
                assert!(
                    config.is_local(addr) || best.is_none_or(|r| r.kind != RTN_LOCAL),
                    "{addr} is not local"
                );
            }
        }
        // Nothing is on a link that is gone.
        assert!(addresses.iter().all(|a| links.iter().any(|l| l.index == a.link)));
        // One that is down keeps its local routes of IPv4, in whichever table (fib_sync_down_dev() looks at no nexthop of
        // their scope).
        let stays = |r: &chitin_netstack::RouteEntry| r.kind == RTN_LOCAL && r.dst.addr.is_ipv4();
        assert!(routes.iter().all(|r| {
            let is_fine = |l: &chitin_netstack::Link| l.is_up() || stays(r);
            r.hops.iter().all(|hop| links.iter().any(|l| l.index == hop.link && is_fine(l)))
        }));
    }

    /// Somebody else asks for `lo`, and gets it.
    fn beside(&mut self) {
        let other = socket(&self.ns, NETLINK_ROUTE);
        let head = NlMsgHdr {
            nlmsg_len: (HEAD + 16) as u32,
            nlmsg_type: RTM_GETLINK,
            nlmsg_flags: NLM_F_REQUEST | NLM_F_DUMP,
            ..NlMsgHdr::default()
        };
        let asker = Asker { port: 3, admin: false, options: 0 };
        other.handle(&[head.as_bytes(), &[0; 16]].concat(), &asker);
        let told = self.received(&other, usize::MAX);
        let links = self.ns.stack().config.links().len();
        assert_eq!(told.iter().filter(|(kind, _)| *kind == RTM_NEWLINK).count(), links);
        assert_eq!(told.last().map(|last| last.0), Some(NLMSG_DONE));
    }
}

fn ask(steps: &[Step], seen: &mut Seen) {
    let ns = NetNs::new(true);
    let sockets = (0..3).map(|_| socket(&ns, NETLINK_ROUTE)).collect();
    let diag = socket(&ns, NETLINK_SOCK_DIAG);
    let mut asking = Asking { ns, sockets, diag, kind: 0, seen };
    for step in steps {
        asking.step(step);
    }
    asking.beside();
}

#[test]
fn spoilt_requests_do_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    Fuzz { name: "netlink", corpus: &corpus, inputs: 8000, kinds: KINDS }.run(ask);
}
