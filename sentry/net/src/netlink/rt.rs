//! rtnetlink(7): links, addresses, routes, neighbours and rules of a namespace's stack, asked for, changed, and told of
//! when they change.
//!
//! Each kind has a module: how it is shown (`show`), asked for and changed. What is not there answers EOPNOTSUPP, as a
//! kernel without it.

mod addr;
mod link;
mod neigh;
mod route;
mod rule;

use super::message::Message;
use super::{Asker, Reply};
use crate::NetNs;
use chitin_abi::Errno;
use chitin_abi::netlink::*;
use chitin_abi::socket::{AF_INET, AF_INET6, NETLINK_GET_STRICT_CHK, NlMsgHdr};
use chitin_netstack::config::Change;
use std::net::IpAddr;

/// A request with what all answers need.
pub(super) struct Request<'a> {
    pub ns: &'a NetNs,
    pub head: NlMsgHdr,
    pub body: &'a [u8],
    pub asker: &'a Asker,
    /// A dump is being received, and none can begin.
    pub busy: bool,
}

impl Request<'_> {
    /// The head of a message that answers it.
    pub fn message(&self, kind: u16, flags: u16) -> Message {
        Message::new(kind, flags, self.head.nlmsg_seq, self.asker.port)
    }
    pub fn has(&self, flag: u16) -> bool {
        self.head.nlmsg_flags & flag != 0
    }
    /// What a dump asks for is taken at its word.
    pub fn strict(&self) -> bool {
        self.asker.options & 1 << NETLINK_GET_STRICT_CHK != 0
    }
    fn dump(&self) -> bool {
        self.head.nlmsg_flags & NLM_F_DUMP == NLM_F_DUMP
    }
}

fn family_of(addr: &IpAddr) -> u8 {
    family(addr.is_ipv4())
}

fn family(v4: bool) -> u8 {
    chitin_abi::num::low8(if v4 { AF_INET } else { AF_INET6 })
}

/// Whether a family is IPv4; `None`: all are meant. EAFNOSUPPORT for others.
fn v4_of(family: u8) -> Result<Option<bool>, Errno> {
    match u32::from(family) {
        0 => Ok(None),
        AF_INET => Ok(Some(true)),
        AF_INET6 => Ok(Some(false)),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

pub(super) fn answer(request: &Request<'_>) -> Result<Reply, Errno> {
    let kind = request.head.nlmsg_type;
    if kind > RTM_MAX {
        return Err(Errno::EOPNOTSUPP);
    }
    let Some(&family) = request.body.first() else { return Ok(Reply::Nothing) };
    // Types come in fours: new, delete, get, set.
    let get = kind & 3 == 2;
    if !get && !request.asker.admin {
        return Err(Errno::EPERM);
    }
    if get && request.dump() {
        if request.busy {
            return Err(Errno::EBUSY);
        }
        let wanted = v4_of(family);
        let all = match kind {
            RTM_GETLINK => link::dump(request)?,
            RTM_GETADDR => addr::dump(request, wanted.unwrap_or(None))?,
            RTM_GETROUTE => route::dump(request, wanted.unwrap_or(None))?,
            RTM_GETNEIGH => neigh::dump(request, wanted.unwrap_or(None))?,
            RTM_GETRULE => rule::dump(request, wanted.unwrap_or(None)),
            // There are none of these.
            RTM_GETQDISC | RTM_GETNEIGHTBL | RTM_GETADDRLABEL | RTM_GETNETCONF | RTM_GETSTATS => Vec::new(),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        return Ok(Reply::Dump(all));
    }
    match kind {
        RTM_GETLINK => return link::get(request).map(Reply::One),
        RTM_GETADDR => return addr::get(request).map(Reply::One),
        RTM_GETROUTE => return route::get(request).map(Reply::One),
        RTM_GETNEIGH => return neigh::get(request).map(Reply::One),
        RTM_NEWLINK | RTM_SETLINK => link::set(request, kind == RTM_NEWLINK)?,
        RTM_DELLINK => link::del(request)?,
        RTM_NEWADDR => addr::add(request)?,
        RTM_DELADDR => addr::del(request)?,
        RTM_NEWROUTE => route::add(request)?,
        RTM_DELROUTE => route::del(request)?,
        RTM_NEWNEIGH => neigh::set(request)?,
        RTM_DELNEIGH => neigh::del(request)?,
        RTM_NEWRULE => rule::add(request)?,
        RTM_DELRULE => rule::del(request)?,
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(Reply::Nothing)
}

/// What a change is told as, and to which group.
pub(super) fn event(change: &Change) -> (u32, Vec<u8>) {
    let kind = |new: u16, there: bool| if there { new } else { new + 1 };
    let group = |v4: bool, four: u32, six: u32| if v4 { four } else { six };
    let head = |kind: u16| Message::new(kind, 0, 0, 0);
    match change {
        Change::Link(link, there) => (RTNLGRP_LINK, link::show(head(kind(RTM_NEWLINK, *there)), link)),
        Change::Address(address, there) => (
            group(address.addr.is_ipv4(), RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR),
            addr::show(head(kind(RTM_NEWADDR, *there)), address),
        ),
        Change::Route(route, there) => (
            group(route.dst.addr.is_ipv4(), RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE),
            route::show(head(kind(RTM_NEWROUTE, *there)), route),
        ),
        Change::Rule(rule, there) => (
            group(rule.v4, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE),
            rule::show(head(kind(RTM_NEWRULE, *there)), rule),
        ),
        Change::Neighbour(neighbour, there) => {
            (RTNLGRP_NEIGH, neigh::show(head(kind(RTM_NEWNEIGH, *there)), neighbour, 0))
        }
    }
}
