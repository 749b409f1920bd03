//! Keeping the host's own stack quiet in a namespace that is a sandbox's from now on.
//!
//! Interfaces keep their addresses and routes, so that whoever made them finds them again: CNI's CHECK compares them, its DEL
//! reads them to remove masquerading rules (with addresses removed, as gVisor does it, the rules stay behind), `podman` and
//! `docker network disconnect` and the next sandbox use them. What changes is the namespace's routing policy: what comes in
//! by an interface other than `lo` finds a blackhole before any table, whatever address it is for, those that are added later
//! included. It is dropped without an answer, whatever `ip_forward` says, while packet sockets have seen it before; ARP
//! requests and neighbour solicitations are not answered either, as nothing is local. The sandbox answers them, with the
//! same hardware address. What processes on the host's side of the namespace say to each other over `lo` (Docker's name
//! server) goes on, and so do answers to what those ask other name servers ([`answers`]).
//!
//! [`give_back`] restores the policy when the sandbox is gone: the namespace is then what it was.

use std::net::{IpAddr, Ipv6Addr};

use chitin_control::LinkConfig;
use chitin_control::rtnetlink::{
    AF_INET, AF_INET6, RT_TABLE_LOCAL, attributes, push_attribute, u8_at, u32_at,
};

use super::answers;
use super::netlink::Netlink;
use crate::util::{Context, Result};

const RTM_NEWADDR: u16 = 20;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RT_SCOPE_LINK: u8 = 253;
const IFA_F_NODAD: u8 = 2;

// `struct fib_rule_hdr` and its attributes.
const RULE_HEADER: usize = 12;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_BLACKHOLE: u8 = 6;
const FIB_RULE_INVERT: u32 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;

/// A rule of the policy that this is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The table `local` is looked up, with this priority; 0 is where the kernel has it.
    Local(u32),
    /// What does not come from `lo` is dropped, first of all.
    Blackhole,
    /// For answers of name servers by this protocol the table `local` is looked up before that.
    Answers(u8),
}

/// The protocols that name servers answer by.
const ANSWERS: [Rule; 2] = [Rule::Answers(6), Rule::Answers(17)];

impl Rule {
    fn body(self, family: u8) -> Vec<u8> {
        let table = RT_TABLE_LOCAL.to_le_bytes()[0];
        let (table, action, flags, priority) = match self {
            Self::Local(priority) => (table, FR_ACT_TO_TBL, 0, priority),
            Self::Blackhole => (0, FR_ACT_BLACKHOLE, FIB_RULE_INVERT, 0),
            Self::Answers(_) => (table, FR_ACT_TO_TBL, 0, 0),
        };
        let mut body = vec![family, 0, 0, 0, table, 0, 0, action];
        body.extend_from_slice(&flags.to_ne_bytes());
        push_attribute(&mut body, FRA_PRIORITY, &priority.to_ne_bytes());
        match self {
            Self::Local(_) => push_attribute(&mut body, FRA_TABLE, &RT_TABLE_LOCAL.to_ne_bytes()),
            Self::Blackhole => push_attribute(&mut body, FRA_IIFNAME, b"lo\0"),
            Self::Answers(protocol) => {
                push_attribute(&mut body, FRA_TABLE, &RT_TABLE_LOCAL.to_ne_bytes());
                push_attribute(&mut body, FRA_IP_PROTO, &[protocol]);
                push_attribute(&mut body, FRA_SPORT_RANGE, &range(answers::DNS, answers::DNS));
                push_attribute(
                    &mut body,
                    FRA_DPORT_RANGE,
                    &range(*answers::PORTS.start(), *answers::PORTS.end()),
                );
            }
        }
        body
    }

    /// None: somebody else's.
    fn of(body: &[u8]) -> Option<Self> {
        let (mut priority, mut table, mut iif, mut other) = (0, u32::from(u8_at(body, 4)?), None, false);
        let (mut protocol, mut ports) = (None, [None; 2]);
        for (kind, value) in attributes(body.get(RULE_HEADER..)?) {
            match kind {
                FRA_PRIORITY => priority = u32_at(value, 0)?,
                FRA_TABLE => table = u32_at(value, 0)?,
                FRA_IIFNAME => iif = Some(value),
                FRA_IP_PROTO => protocol = value.first().copied(),
                FRA_SPORT_RANGE => ports[0] = value.first_chunk().copied(),
                FRA_DPORT_RANGE => ports[1] = value.first_chunk().copied(),
                // Addresses, marks and the like.
                1 | 2 | 10 | 16 | 17 | 19 | 20 => other = true,
                _ => {}
            }
        }
        let inverted = u32_at(body, 8)? & FIB_RULE_INVERT != 0;
        let to_answers =
            [range(answers::DNS, answers::DNS), range(*answers::PORTS.start(), *answers::PORTS.end())];
        match (u8_at(body, 7)?, iif) {
            _ if other => None,
            (FR_ACT_TO_TBL, None) if let Some(protocol) = protocol => {
                let ours = table == RT_TABLE_LOCAL && !inverted && priority == 0;
                (ours && ports == to_answers.map(Some)).then_some(Self::Answers(protocol))
            }
            _ if protocol.is_some() || ports != [None; 2] => None,
            (FR_ACT_TO_TBL, None) if table == RT_TABLE_LOCAL && !inverted => Some(Self::Local(priority)),
            (FR_ACT_BLACKHOLE, Some(b"lo\0")) if inverted && priority == 0 => Some(Self::Blackhole),
            _ => None,
        }
    }
}

/// `struct fib_rule_port_range`.
fn range(first: u16, last: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), last.to_ne_bytes());
    [a, b, c, d]
}

/// Those of the namespace; none of a family that the kernel does not have.
fn rules(netlink: &mut Netlink, family: u8) -> Result<Vec<Rule>> {
    let mut head = [0; RULE_HEADER];
    head[0] = family;
    let found = netlink.dump(RTM_GETRULE, &head);
    let found = if family == AF_INET6 {
        found.unwrap_or_default()
    } else {
        found.context(|| "cannot list the network namespace's routing rules".into())?
    };
    Ok(found.iter().filter(|body| u8_at(body, 0) == Some(family)).filter_map(|body| Rule::of(body)).collect())
}

/// The priority of the kernel's own rule while it is not the first.
const SECOND: u32 = 1;

/// Does it. At each moment the table `local` is looked up, or nothing comes in. `answers`: those of name servers are let in.
pub fn silence(netlink: &mut Netlink, answers: bool) -> Result<()> {
    let failed = || "cannot keep the host from answering for the sandbox".to_owned();
    for family in [AF_INET, AF_INET6] {
        let there = rules(netlink, family)?;
        if there.is_empty() {
            continue;
        }
        // Of the same priority the older one comes first.
        let answers = answers && family == AF_INET;
        let late = answers && there.contains(&Rule::Blackhole) && !there.contains(&ANSWERS[0]);
        let first = if answers { &ANSWERS[..] } else { &[] };
        for rule in first.iter().chain(&[Rule::Local(SECOND), Rule::Blackhole]) {
            if !there.contains(rule) || (late && *rule == Rule::Blackhole) {
                netlink.order(RTM_NEWRULE, &rule.body(family)).context(failed)?;
            }
        }
        if late {
            netlink.order(RTM_DELRULE, &Rule::Blackhole.body(family)).context(failed)?;
        }
        if there.contains(&Rule::Local(0)) {
            netlink.order(RTM_DELRULE, &Rule::Local(0).body(family)).context(failed)?;
        }
    }
    Ok(())
}

/// Undoes it, if it was done.
pub fn give_back(netlink: &mut Netlink) -> Result<()> {
    let failed = || "cannot restore the network namespace's routing rules".to_owned();
    for family in [AF_INET, AF_INET6] {
        let there = rules(netlink, family)?;
        if !there.contains(&Rule::Blackhole) {
            continue;
        }
        if !there.contains(&Rule::Local(0)) {
            netlink.order(RTM_NEWRULE, &Rule::Local(0).body(family)).context(failed)?;
        }
        for rule in [Rule::Blackhole, Rule::Local(SECOND), ANSWERS[0], ANSWERS[1]] {
            if there.contains(&rule) {
                netlink.order(RTM_DELRULE, &rule.body(family)).context(failed)?;
            }
        }
    }
    Ok(())
}

/// Sets an interface's link-local address if it has none yet: the kernel does so only once it has noticed the carrier, up to a
/// second after the other end came up.
pub fn settle(netlink: &mut Netlink, link: &LinkConfig) -> Result<()> {
    let setting = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{}/{name}", link.name)).unwrap_or_default()
    };
    // A kernel without IPv6 has no such files.
    if setting("disable_ipv6").trim() != "0" || setting("addr_gen_mode").trim() != "0" {
        return Ok(());
    }
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if link.addresses.iter().any(|a| is_link_local(&a.address)) {
        return Ok(());
    }
    let Some(v6) = link_local(&link.address) else { return Ok(()) };
    let made = netlink.order(RTM_NEWADDR, &address_body(link.index, v6, (64, RT_SCOPE_LINK)));
    made.context(|| format!("cannot set the address {v6}"))
}

/// The address that a hardware address makes (RFC 4291, appendix A).
fn link_local(hardware: &[u8]) -> Option<Ipv6Addr> {
    let [a, b, c, d, e, f] = *hardware.first_chunk::<6>()?;
    Some(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
}

/// `struct ifaddrmsg` of an IPv6 address without duplicate detection, with its attributes.
fn address_body(link: u32, address: Ipv6Addr, (prefix, scope): (u8, u8)) -> Vec<u8> {
    let raw = address.octets();
    let mut body = vec![AF_INET6, prefix, IFA_F_NODAD, scope];
    body.extend_from_slice(&link.to_ne_bytes());
    push_attribute(&mut body, 2, &raw);
    push_attribute(&mut body, 1, &raw);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses() {
        let address = link_local(&[0x02, 0xfc, 0, 0, 0, 1]).unwrap();
        assert_eq!(address, "fe80::fc:ff:fe00:1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(link_local(&[]), None);
    }

    #[test]
    fn rules_are_recognised() {
        for rule in [Rule::Local(0), Rule::Local(SECOND), Rule::Blackhole, ANSWERS[0], ANSWERS[1]] {
            assert_eq!(Rule::of(&rule.body(AF_INET)), Some(rule));
        }
        let mut marked = Rule::Local(0).body(AF_INET);
        push_attribute(&mut marked, 10, &[1, 0, 0, 0]);
        assert_eq!(Rule::of(&marked), None);
        assert_eq!(Rule::of(&[2; 5]), None);
        let mut other_ports = Rule::Local(0).body(AF_INET);
        push_attribute(&mut other_ports, FRA_SPORT_RANGE, &range(1, 2));
        assert_eq!(Rule::of(&other_ports), None);
    }

    #[test]
    fn the_kernels_own_rules_are_found() {
        let mut netlink = Netlink::open().unwrap();
        assert!(rules(&mut netlink, AF_INET).unwrap().iter().any(|rule| matches!(rule, Rule::Local(_))));
    }

    #[test]
    fn what_was_before_comes_back() {
        // In a namespace of its own; without the right to make one there is nothing to see.
        std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return;
            }
            let mut netlink = Netlink::open().unwrap();
            let before = rules(&mut netlink, AF_INET).unwrap();
            // The second time as after a sandbox that left it.
            for answers in [false, true, true] {
                silence(&mut netlink, answers).unwrap();
                let mut expected = vec![Rule::Blackhole, Rule::Local(SECOND)];
                if answers {
                    expected.splice(0..0, ANSWERS);
                }
                assert_eq!(rules(&mut netlink, AF_INET).unwrap(), expected);
            }
            give_back(&mut netlink).unwrap();
            assert_eq!(rules(&mut netlink, AF_INET).unwrap(), before);
        })
        .join()
        .unwrap();
    }
}
