//! Addresses, and the routes that each brings.

use super::{Change, Config, LinkKind, MAX_ADDRESSES, RouteEntry, Tables};
use crate::addr::{self, Prefix};
use chitin_abi::Errno;
use chitin_abi::netdevice::{IFF_BROADCAST, IFF_MULTICAST};
use chitin_abi::rtnetlink::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub addr: IpAddr,
    pub prefix: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// IFA_F_*.
    pub flags: u32,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub broadcast: Option<Ipv4Addr>,
    /// IPv4's alone.
    pub label: Option<String>,
    /// Seconds; `u32::MAX`: for ever.
    pub valid: u32,
    pub preferred: u32,
    /// IFA_RT_PRIORITY: the metric of its route; 0: the usual one.
    pub metric: u32,
    /// IFA_PROTO.
    pub proto: u8,
}

impl Address {
    /// A permanent address.
    pub fn new(link: u32, addr: IpAddr, prefix: u8) -> Address {
        Address {
            link,
            addr,
            prefix: prefix.min(addr::max_len(&addr)),
            scope: if addr.is_ipv4() { RT_SCOPE_UNIVERSE } else { addr::scope(&addr) },
            flags: IFA_F_PERMANENT,
            peer: None,
            broadcast: None,
            label: None,
            valid: u32::MAX,
            preferred: u32::MAX,
            metric: 0,
            proto: 0,
        }
    }
    pub fn scope(mut self, scope: u8) -> Address {
        self.scope = scope;
        self
    }
    pub fn flags(mut self, flags: u32) -> Address {
        self.flags = flags;
        self
    }
    /// What is reached directly.
    pub fn subnet(&self) -> Prefix {
        Prefix::of(self.peer.unwrap_or(self.addr), self.prefix)
    }
    /// The same address as far as adding and deleting go.
    pub(super) fn same(&self, other: &Address) -> bool {
        self.link == other.link
            && self.addr == other.addr
            && (self.addr.is_ipv6() || self.prefix == other.prefix && self.peer == other.peer)
    }
}

impl Config {
    /// Adds an address and what follows from it. `replace`: one that is there is changed instead of EEXIST.
    pub fn addr_add(&self, address: Address, replace: bool) -> Result<(), Errno> {
        let unfit = address.prefix > addr::max_len(&address.addr)
            || address.addr.is_multicast()
            || address.addr.is_ipv6() && address.addr.is_unspecified();
        if unfit {
            return Err(Errno::EINVAL);
        }
        self.change(|tables, news| tables.add_address(address, replace, news))
    }

    /// Puts an address in another's place, or takes it away (devinet_ioctl()).
    pub fn addr_change(&self, old: Option<&Address>, new: Option<Address>) -> Result<(), Errno> {
        self.change(|tables, news| {
            if let Some(old) = old {
                tables.delete_address(|known| known == old, news)?;
            }
            new.map_or(Ok(()), |new| tables.add_address(new, false, news))
        })
    }

    /// Deletes an address of a link. A secondary one takes its primary's place, where Linux would delete both: its
    /// promote_secondaries is what distributions set.
    pub fn addr_del(&self, link: u32, addr: IpAddr, prefix: u8) -> Result<(), Errno> {
        self.change(|tables, news| {
            if !tables.links.contains_key(&link) {
                return Err(Errno::ENODEV);
            }
            tables.delete_address(|a| a.link == link && a.addr == addr && a.prefix == prefix, news)
        })
    }
}

impl Tables {
    fn add_address(
        &mut self,
        mut address: Address,
        replace: bool,
        news: &mut Vec<Change>,
    ) -> Result<(), Errno> {
        let link = self.links.get(&address.link).ok_or(Errno::ENODEV)?;
        if address.addr.is_ipv6() && !link.has_v6() {
            return Err(if link.conf.disable6.on() { Errno::EACCES } else { Errno::EINVAL });
        }
        if let Some(at) = self.addresses.iter().position(|a| a.same(&address)) {
            if !replace {
                return Err(Errno::EEXIST);
            }
            let old = self.addresses.remove(at);
            self.address_gone(&old, news);
        }
        if self.addresses.len() >= MAX_ADDRESSES {
            return Err(Errno::ENOBUFS);
        }
        let subnet = address.subnet();
        let primary = |a: &Address| {
            a.link == address.link
                && a.addr.is_ipv4()
                && a.subnet() == subnet
                && a.scope == address.scope
                && a.flags & IFA_F_SECONDARY == 0
        };
        address.flags &= !IFA_F_SECONDARY;
        if address.addr.is_ipv4() && self.addresses.iter().any(primary) {
            address.flags |= IFA_F_SECONDARY;
        }
        self.addresses.push(address.clone());
        news.push(Change::Address(address.clone(), true));
        if self.links.get(&address.link).is_some_and(|link| link.is_up()) {
            self.address_routes(&address, news);
        }
        Ok(())
    }

    fn delete_address(
        &mut self,
        fits: impl Fn(&Address) -> bool,
        news: &mut Vec<Change>,
    ) -> Result<(), Errno> {
        let at = self.addresses.iter().position(fits).ok_or(Errno::EADDRNOTAVAIL)?;
        let gone = self.addresses.remove(at);
        self.address_gone(&gone, news);
        news.push(Change::Address(gone.clone(), false));
        if gone.addr.is_ipv4() && gone.flags & IFA_F_SECONDARY == 0 {
            self.promote(&gone, news);
        }
        // With the last one IPv4 ends on a link (fib_inetaddr_event()).
        let last = !self.addresses.iter().any(|a| a.link == gone.link && a.addr.is_ipv4());
        if gone.addr.is_ipv4() && last {
            self.routes_gone(news, |route| route.dst.addr.is_ipv4() && route.uses(gone.link));
        }
        Ok(())
    }

    fn promote(&mut self, gone: &Address, news: &mut Vec<Change>) {
        let next = |a: &&mut Address| {
            a.link == gone.link && a.flags & IFA_F_SECONDARY != 0 && a.subnet() == gone.subnet()
        };
        let Some(next) = self.addresses.iter_mut().find(next) else { return };
        next.flags &= !IFA_F_SECONDARY;
        let next = next.clone();
        news.push(Change::Address(next.clone(), true));
        if self.links.get(&next.link).is_some_and(|link| link.is_up()) {
            self.address_routes(&next, news);
        }
    }

    /// Adds the routes that an address on a link that is up brings.
    pub(super) fn address_routes(&mut self, address: &Address, news: &mut Vec<Change>) {
        let routes = self.routes_of(address);
        routes.into_iter().for_each(|route| self.insert_route(route, news));
    }

    /// The routes of an address (fib_add_ifaddr(), addrconf).
    pub(super) fn routes_of(&self, address: &Address) -> Vec<RouteEntry> {
        let Some(link) = self.links.get(&address.link) else { return Vec::new() };
        let loopback = link.kind == LinkKind::Loopback;
        let broadcasts = link.flags & IFF_BROADCAST != 0 || loopback;
        let subnet = address.subnet();
        let own = RouteEntry {
            kind: RTN_LOCAL,
            table: RT_TABLE_LOCAL,
            scope: RT_SCOPE_HOST,
            protocol: RTPROT_KERNEL,
            ..RouteEntry::new(Prefix::host(address.addr), address.link)
        };
        let net = RouteEntry {
            scope: RT_SCOPE_LINK,
            protocol: RTPROT_KERNEL,
            metric: address.metric,
            ..RouteEntry::new(subnet, address.link)
        };
        let mut add = Vec::new();
        if address.addr.is_ipv4() {
            let src = Some(address.addr);
            add.push(RouteEntry { prefsrc: src, ..own.clone() });
            let primary = address.flags & IFA_F_SECONDARY == 0;
            let zero = subnet.addr.is_unspecified();
            if primary && !zero && (address.prefix < 32 || address.peer.is_some()) {
                if loopback {
                    let prefix = RouteEntry { dst: subnet, prefsrc: src, ..own.clone() };
                    add.push(prefix);
                } else if address.flags & IFA_F_NOPREFIXROUTE == 0 {
                    add.push(RouteEntry { prefsrc: src, ..net });
                }
            }
            let last = subnet.broadcast().filter(|_| primary && address.prefix < 31 && !zero);
            let mut casts: Vec<_> = last.into_iter().chain(address.broadcast).collect();
            casts.dedup();
            for cast in casts.into_iter().filter(|_| broadcasts) {
                add.push(RouteEntry {
                    dst: Prefix::host(cast.into()),
                    kind: RTN_BROADCAST,
                    scope: RT_SCOPE_LINK,
                    prefsrc: src,
                    ..own.clone()
                });
            }
        } else {
            add.push(RouteEntry { scope: RT_SCOPE_UNIVERSE, ..own });
            if !loopback && address.flags & IFA_F_NOPREFIXROUTE == 0 {
                let metric = if address.metric == 0 { 256 } else { address.metric };
                add.push(RouteEntry { scope: RT_SCOPE_UNIVERSE, metric, ..net });
            }
        }
        add
    }

    /// `ff00::/8` of a link that comes up.
    pub(super) fn multicast_route(&mut self, index: u32, news: &mut Vec<Change>) {
        if self.links.get(&index).is_none_or(|link| link.flags & IFF_MULTICAST == 0) {
            return;
        }
        let all = Prefix::of(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8);
        let route = RouteEntry {
            kind: RTN_MULTICAST,
            table: RT_TABLE_LOCAL,
            protocol: RTPROT_KERNEL,
            metric: 256,
            ..RouteEntry::new(all, index)
        };
        self.insert_route(route, news);
    }

    /// Routes that were there for an address alone.
    pub(super) fn address_gone(&mut self, gone: &Address, news: &mut Vec<Change>) {
        #[cfg(test)]
        super::tests::step(self.addresses.len());
        let others: Vec<_> = self.addresses.iter().filter(|a| a.link == gone.link).cloned().collect();
        let kept = |dst: &Prefix| {
            others.iter().any(|a| {
                Prefix::host(a.addr) == *dst
                    || a.subnet() == *dst && a.flags & (IFA_F_NOPREFIXROUTE | IFA_F_SECONDARY) == 0
            })
        };
        let subnet = gone.subnet();
        let last = subnet.broadcast().map(|cast| Prefix::host(cast.into()));
        let own = gone.broadcast.map(|cast| Prefix::host(cast.into()));
        let dsts = [Some(Prefix::host(gone.addr)), Some(subnet), last, own];
        self.routes_gone(news, |route| {
            route.protocol == RTPROT_KERNEL
                && route.uses(gone.link)
                && dsts.contains(&Some(route.dst))
                && (route.prefsrc.is_none_or(|src| src == gone.addr) && !kept(&route.dst))
                || route.prefsrc == Some(gone.addr) && route.dst.addr.is_ipv4()
        });
    }
}
