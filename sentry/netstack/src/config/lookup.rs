//! Finding routes and source addresses.

use super::{Address, Config, LO, Link, NextHop, RouteEntry, Tables};
use crate::addr;
use chitin_abi::Errno;
use chitin_abi::rtnetlink::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where packets of this host come from.
const HERE: &str = "lo";

/// The way to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST or RTN_ANYCAST.
    pub kind: u8,
    /// Where the packet leaves; `lo` for what is local.
    pub link: u32,
    /// The link that has the address, for what is local; else `link`.
    pub owner: u32,
    /// The destination, for whoever needs the next hop.
    pub dst: IpAddr,
    pub gateway: Option<IpAddr>,
    /// What such a packet's source is, if it was not given.
    pub src: IpAddr,
    pub mtu: u32,
    /// The hop limit, if the route has one.
    pub hoplimit: Option<u8>,
    pub advmss: u32,
}

impl Route {
    pub fn is_local(&self) -> bool {
        self.kind == RTN_LOCAL || self.kind == RTN_ANYCAST
    }
    /// To whom a frame goes.
    pub fn next_hop(&self) -> IpAddr {
        self.gateway.unwrap_or(self.dst)
    }
}

impl Config {
    /// The route of a packet that this host sends. `oif`: the link that a socket is bound to, 0 if none.
    pub fn route(&self, dst: IpAddr, src: Option<IpAddr>, oif: u32, mark: u32) -> Result<Route, Errno> {
        let src = src.filter(|src| !src.is_unspecified());
        // A connection to the unspecified address goes to this host.
        let dst = match dst {
            IpAddr::V4(a) if a.is_unspecified() => src.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(a) if a.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        self.tables.read().route(dst, src, HERE, oif, mark)
    }

    /// The route of a packet that came by a link and is for somebody else.
    pub fn route_through(&self, dst: IpAddr, src: IpAddr, link: u32) -> Result<Route, Errno> {
        let tables = self.tables.read();
        let iif = tables.links.get(&link).map(|link| link.name.as_str()).ok_or(Errno::ENODEV)?;
        tables.route(dst, Some(src), iif, 0, 0)
    }

    /// Whether an address is reached directly by a link.
    pub fn is_near(&self, link: u32, addr: &IpAddr) -> bool {
        self.tables.read().addresses.iter().any(|a| a.link == link && a.subnet().contains(addr))
    }

    /// Whether an address is this host's.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.tables.read().is_local(&addr)
    }

    /// What packets to `dst` have for a source unless told otherwise.
    pub fn source_for(&self, dst: IpAddr) -> Result<IpAddr, Errno> {
        self.route(dst, None, 0, 0).map(|route| route.src)
    }

    /// What a packet from a link with this destination is here: RTN_LOCAL, RTN_BROADCAST, or None if it is not for us.
    /// Multicast is not decided here.
    pub fn input_kind(&self, dst: IpAddr, link: u32) -> Option<u8> {
        let tables = self.tables.read();
        if tables.local.contains_key(&dst) {
            return Some(RTN_LOCAL);
        }
        if dst == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Some(RTN_BROADCAST);
        }
        let list = tables.routes.get(&(RT_TABLE_LOCAL, dst.is_ipv4()))?;
        let fits = |r: &&RouteEntry| r.dst.contains(&dst) && (r.kind == RTN_LOCAL || r.uses(link));
        list.iter()
            .find(fits)
            .map(|r| r.kind)
            .filter(|k| matches!(*k, RTN_LOCAL | RTN_BROADCAST | RTN_ANYCAST))
    }

    /// Whether what goes to `dst` may leave by `link`; `None`: there is no way there, or it is here.
    pub fn way_back(&self, dst: IpAddr, link: u32) -> Option<bool> {
        let tables = self.tables.read();
        let rules = tables.rules.iter().filter(|rule| rule.fits(&dst, None, HERE, 0, 0));
        for rule in rules {
            if rule.action != FR_ACT_TO_TBL {
                return None;
            }
            let list = tables.routes.get(&(rule.table, dst.is_ipv4()));
            match list.and_then(|list| list.iter().find(|entry| entry.dst.contains(&dst))) {
                Some(entry) if entry.kind == RTN_THROW => {}
                Some(entry) => return (entry.kind == RTN_UNICAST).then(|| entry.uses(link)),
                None => {}
            }
        }
        None
    }

    /// The address that a link speaks with (ARP, ICMP errors, IGMP).
    pub fn link_addr(&self, link: u32, towards: IpAddr) -> Option<IpAddr> {
        self.tables.read().select(link, &towards, RT_SCOPE_LINK)
    }
}

impl Tables {
    pub(super) fn is_local(&self, addr: &IpAddr) -> bool {
        if self.local.contains_key(addr) {
            return true;
        }
        let list = self.routes.get(&(RT_TABLE_LOCAL, addr.is_ipv4()));
        list.and_then(|list| list.iter().find(|r| r.dst.contains(addr))).is_some_and(|r| r.kind == RTN_LOCAL)
    }

    fn route(
        &self,
        dst: IpAddr,
        src: Option<IpAddr>,
        iif: &str,
        oif: u32,
        mark: u32,
    ) -> Result<Route, Errno> {
        if src.is_some_and(|src| src.is_ipv4() != dst.is_ipv4()) {
            return Err(Errno::EINVAL);
        }
        if oif != 0 {
            let link = self.links.get(&oif).ok_or(Errno::ENODEV)?;
            // What goes to all on a link needs no route.
            let v4_cast = matches!(dst, IpAddr::V4(a) if a.is_broadcast() || a.is_multicast());
            if v4_cast {
                let kind = if dst.is_multicast() { RTN_MULTICAST } else { RTN_BROADCAST };
                return link.is_up().then(|| self.plain(kind, oif, dst, src)).ok_or(Errno::ENETUNREACH);
            }
        }
        if let (IpAddr::V4(a), Some(src)) = (dst, src) {
            // The source of a broadcast or multicast packet says the link.
            if a.is_broadcast() || a.is_multicast() {
                if let Some(owner) = self.addresses.iter().find(|o| o.addr == src).map(|o| o.link) {
                    let kind = if a.is_multicast() { RTN_MULTICAST } else { RTN_BROADCAST };
                    return Ok(self.plain(kind, owner, dst, Some(src)));
                }
            }
        }
        for rule in self.rules.iter().filter(|rule| rule.fits(&dst, src.as_ref(), iif, oif, mark)) {
            match rule.action {
                FR_ACT_TO_TBL => {}
                FR_ACT_UNREACHABLE => return Err(Errno::ENETUNREACH),
                FR_ACT_PROHIBIT => return Err(Errno::EACCES),
                FR_ACT_BLACKHOLE => return Err(Errno::EINVAL),
                _ => continue,
            }
            match self.in_table(rule.table, dst, oif) {
                Some((entry, _)) if entry.kind == RTN_THROW => {}
                Some((entry, hop)) => return self.found(entry, hop, dst, src),
                None => {}
            }
        }
        if let Some(link) = self.links.get(&oif).filter(|link| link.is_up()) {
            // Bound to a link, anything is taken to be near (IPv4), as are all nodes of the link (IPv6).
            if dst.is_ipv4() || dst.is_multicast() || addr::is_link_local(&dst) {
                let kind = if dst.is_multicast() { RTN_MULTICAST } else { RTN_UNICAST };
                return Ok(self.plain(kind, link.index, dst, src));
            }
        }
        // Without any address there is none to choose before the way is asked for (ip6_route_get_saddr()).
        let nobody = dst.is_ipv6() && src.is_none() && !self.addresses.iter().any(|a| a.addr.is_ipv6());
        Err(if nobody { Errno::EADDRNOTAVAIL } else { Errno::ENETUNREACH })
    }

    /// A route that needs no entry.
    fn plain(&self, kind: u8, link: u32, dst: IpAddr, src: Option<IpAddr>) -> Route {
        let chosen = || self.select(link, &dst, RT_SCOPE_LINK).unwrap_or(addr::any(dst.is_ipv4()));
        Route {
            kind,
            link,
            owner: link,
            dst,
            gateway: None,
            src: src.unwrap_or_else(chosen),
            mtu: self.links.get(&link).map_or(1500, |l| l.mtu),
            hoplimit: None,
            advmss: 0,
        }
    }

    /// The best entry of a table, and which of its hops.
    fn in_table(&self, table: u32, dst: IpAddr, oif: u32) -> Option<(&RouteEntry, Option<&NextHop>)> {
        let list = self.routes.get(&(table, dst.is_ipv4()))?;
        for entry in list.iter().filter(|entry| entry.dst.contains(&dst)) {
            if entry.hops.is_empty() {
                return Some((entry, None));
            }
            // What is local is local whatever the socket is bound to, if the address is on that link.
            let fits = |hop: &&NextHop| oif == 0 || hop.link == oif || entry.kind == RTN_LOCAL && oif == LO;
            let mut usable = entry.hops.iter().filter(fits).filter(|hop| hop.flags & RTNH_F_DEAD == 0);
            let count = usable.clone().count();
            if count > 0 {
                // Several ways share destinations among them.
                let pick = if count == 1 { 0 } else { spread(&dst) % count };
                return usable.nth(pick).map(|hop| (entry, Some(hop)));
            }
        }
        None
    }

    fn found(
        &self,
        entry: &RouteEntry,
        hop: Option<&NextHop>,
        dst: IpAddr,
        src: Option<IpAddr>,
    ) -> Result<Route, Errno> {
        match entry.kind {
            RTN_BLACKHOLE => return Err(Errno::EINVAL),
            RTN_PROHIBIT => return Err(Errno::EACCES),
            RTN_UNREACHABLE if dst.is_ipv4() => return Err(Errno::EHOSTUNREACH),
            RTN_UNREACHABLE => return Err(Errno::ENETUNREACH),
            _ => {}
        }
        let hop = hop.ok_or(Errno::ENETUNREACH)?;
        let local = entry.kind == RTN_LOCAL || entry.kind == RTN_ANYCAST;
        let link = if local { LO } else { hop.link };
        // Linux would let what goes that way be lost.
        if local && !self.links.get(&LO).is_some_and(Link::is_up) {
            return Err(Errno::ENETUNREACH);
        }
        let towards = hop.gateway.unwrap_or(dst);
        let chosen = || match entry.prefsrc {
            // An address of this host is spoken to from itself, but for the wider ones of `lo`.
            _ if local && dst.is_ipv6() => Some(dst),
            Some(prefsrc) => Some(prefsrc),
            None if local => Some(dst),
            None => self.select(hop.link, &towards, RT_SCOPE_LINK),
        };
        let kind = if dst.is_multicast() { RTN_MULTICAST } else { entry.kind };
        let mtu = self.links.get(&link).map_or(1500, |l| l.mtu);
        Ok(Route {
            kind,
            link,
            owner: hop.link,
            dst,
            gateway: hop.gateway,
            src: src.or_else(chosen).unwrap_or(addr::any(dst.is_ipv4())),
            mtu: if entry.mtu == 0 { mtu } else { mtu.min(entry.mtu) },
            hoplimit: u8::try_from(entry.hoplimit).ok().filter(|hops| *hops != 0),
            advmss: entry.advmss,
        })
    }

    /// A link's address for packets to `dst`: for IPv4 the first of the same subnet or the first at all, for IPv6 the one
    /// of the same scope that has most in common (RFC 6724 as far as it concerns hosts). Then other links' addresses.
    fn select(&self, link: u32, dst: &IpAddr, nearest: u8) -> Option<IpAddr> {
        let usable = |a: &&Address| {
            a.addr.is_ipv4() == dst.is_ipv4()
                && a.scope <= nearest
                && a.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_DEPRECATED) & !IFA_F_OPTIMISTIC == 0
        };
        let here = || self.addresses.iter().filter(usable).filter(|a| a.link == link);
        let elsewhere = || self.addresses.iter().filter(usable).filter(|a| a.link != link);
        if dst.is_ipv4() {
            let primary = |a: &&Address| a.flags & IFA_F_SECONDARY == 0;
            let near = here().filter(primary).find(|a| a.subnet().contains(dst));
            return near
                .or_else(|| here().find(primary))
                .or_else(|| elsewhere().filter(primary).find(|a| a.scope == RT_SCOPE_UNIVERSE))
                .map(|a| a.addr);
        }
        let scope = addr::scope(dst);
        let rank = |a: &&Address| (a.scope == scope, common(&a.addr, dst));
        let global = || elsewhere().filter(|a| a.scope == RT_SCOPE_UNIVERSE);
        let best = here().filter(|a| a.scope <= scope || scope == RT_SCOPE_LINK).max_by_key(rank);
        best.or_else(|| global().max_by_key(rank)).or_else(|| here().max_by_key(rank)).map(|a| a.addr)
    }
}

/// How many leading bits two IPv6 addresses share.
fn common(a: &IpAddr, b: &IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

/// A number that spreads destinations over equal ways.
fn spread(dst: &IpAddr) -> usize {
    let bytes = match dst {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    usize::try_from((bytes % 65521) * 40503 % 65521).unwrap_or(0)
}
