//! Routes as they are configured.

use super::{Change, Config, MAX_HOPS, MAX_ROUTES, Tables};
use crate::addr::{self, Prefix};
use chitin_abi::Errno;
use chitin_abi::rtnetlink::*;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

/// One of several ways (RTA_MULTIPATH).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    pub link: u32,
    pub gateway: Option<IpAddr>,
    /// Less one, as rtnetlink has it.
    pub weight: u8,
    /// RTNH_F_*.
    pub flags: u32,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteEntry {
    pub dst: Prefix,
    pub table: u32,
    /// RTN_*.
    pub kind: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// RTPROT_*.
    pub protocol: u8,
    pub tos: u8,
    pub metric: u32,
    pub prefsrc: Option<IpAddr>,
    /// Where to; none for routes that refuse.
    pub hops: Vec<NextHop>,
    /// RTAX_MTU; 0: the link's.
    pub mtu: u32,
    /// RTAX_ADVMSS; 0: by the MTU.
    pub advmss: u32,
    /// RTAX_HOPLIMIT; 0: the default.
    pub hoplimit: u32,
}

impl RouteEntry {
    /// A unicast route of the main table that leaves directly by a link.
    pub fn new(dst: Prefix, link: u32) -> RouteEntry {
        RouteEntry {
            dst,
            table: RT_TABLE_MAIN,
            kind: RTN_UNICAST,
            scope: RT_SCOPE_UNIVERSE,
            protocol: RTPROT_BOOT,
            tos: 0,
            metric: 0,
            prefsrc: None,
            hops: vec![NextHop { link, gateway: None, weight: 0, flags: 0 }],
            mtu: 0,
            advmss: 0,
            hoplimit: 0,
        }
    }
    pub fn via(mut self, gateway: IpAddr) -> RouteEntry {
        self.hops.iter_mut().for_each(|hop| hop.gateway = Some(gateway));
        self
    }
    pub fn uses(&self, link: u32) -> bool {
        self.hops.iter().any(|hop| hop.link == link)
    }
    fn key(&self) -> (u32, bool) {
        (self.table, self.dst.addr.is_ipv4())
    }
    /// Longer prefixes come first, then lower metrics, then the order they came in.
    fn rank(&self) -> (u8, u8, u32) {
        (u8::MAX - self.dst.len, u8::MAX - self.tos, self.metric)
    }
    fn refuses(&self) -> bool {
        matches!(self.kind, RTN_BLACKHOLE | RTN_UNREACHABLE | RTN_PROHIBIT | RTN_THROW)
    }
    /// What an IPv4 route must be whatever there is (fib_create_info()).
    fn is_sound(&self) -> bool {
        let least = match self.kind {
            RTN_UNSPEC => return false,
            RTN_LOCAL => RT_SCOPE_HOST,
            RTN_BROADCAST | RTN_ANYCAST => RT_SCOPE_LINK,
            _ => RT_SCOPE_UNIVERSE,
        };
        let ways = |odd: &dyn Fn(&NextHop) -> bool| self.hops.iter().any(odd);
        if self.refuses() {
            return self.hops.len() < 2 && !ways(&|hop| hop.link != 0 || hop.gateway.is_some());
        }
        let onlink = |hop: &NextHop| hop.flags & RTNH_F_ONLINK != 0;
        let odd = match self.scope {
            RT_SCOPE_HOST => self.hops.len() > 1 || ways(&|hop| hop.gateway.is_some()),
            RT_SCOPE_LINK => ways(&onlink),
            _ => ways(&|hop| onlink(hop) && hop.gateway.is_none()),
        };
        (least..=RT_SCOPE_HOST).contains(&self.scope) && !odd
    }
    /// One and the same for NLM_F_EXCL: IPv4 allows one route per prefix, TOS and metric.
    fn rivals(&self, other: &RouteEntry) -> bool {
        self.dst == other.dst && self.tos == other.tos && self.metric == other.metric
    }
}

/// What rtnetlink's NLM_F_* ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMode {
    /// CREATE|EXCL: EEXIST if there is one like it.
    New,
    /// CREATE|REPLACE.
    Replace,
    /// CREATE|APPEND: behind those like it.
    Append,
    /// CREATE: before those like it.
    Prepend,
    /// REPLACE alone: ENOENT if there is none.
    Change,
}

impl Config {
    pub fn route_add(&self, mut route: RouteEntry, mode: RouteMode) -> Result<(), Errno> {
        if route.table == RT_TABLE_UNSPEC {
            route.table = RT_TABLE_MAIN;
        }
        let v6 = route.dst.addr.is_ipv6();
        if v6 && route.metric == 0 && route.table != RT_TABLE_LOCAL {
            route.metric = 1024;
        }
        if Prefix::of(route.dst.addr, route.dst.len) != route.dst || route.kind > RTN_THROW {
            return Err(Errno::EINVAL);
        }
        self.change(|tables, news| {
            tables.check_route(&mut route)?;
            let total: usize = tables.routes.values().map(Vec::len).sum();
            if total >= MAX_ROUTES {
                return Err(Errno::ENOBUFS);
            }
            if total.saturating_add(tables.hops()) >= MAX_ROUTES * 2 || route.hops.len() > MAX_HOPS {
                return Err(Errno::ENOBUFS);
            }
            let key = (route.table, !v6);
            let list = tables.routes.get(&key).map(Vec::as_slice).unwrap_or_default();
            let same = list.iter().position(|r| r.rivals(&route));
            match (mode, same) {
                (RouteMode::New, Some(_)) => return Err(Errno::EEXIST),
                (RouteMode::Change, None) => return Err(Errno::ENOENT),
                (RouteMode::Append | RouteMode::Prepend, Some(_)) if list.contains(&route) => {
                    return Err(Errno::EEXIST);
                }
                (RouteMode::Replace | RouteMode::Change, Some(at)) => {
                    tables.remove_route(key, at);
                    tables.insert_route(route, news);
                }
                (RouteMode::Prepend, Some(at)) => tables.put_route(at, route, news),
                _ => tables.insert_route(route, news),
            }
            Ok(())
        })
    }

    /// Deletes the first route that `fits` says is meant; ESRCH if there is none.
    pub fn route_del(&self, table: u32, v4: bool, fits: impl Fn(&RouteEntry) -> bool) -> Result<(), Errno> {
        self.change(|tables, news| {
            let table = if table == RT_TABLE_UNSPEC { RT_TABLE_MAIN } else { table };
            let list = tables.routes.get(&(table, v4)).ok_or(Errno::ESRCH)?;
            let at = list.iter().position(fits).ok_or(Errno::ESRCH)?;
            let gone = tables.remove_route((table, v4), at).ok_or(Errno::ESRCH)?;
            news.push(Change::Route(gone, false));
            Ok(())
        })
    }
}

impl Tables {
    /// fib_check_nh(): the links are up, the gateways on them can be reached directly.
    fn check_route(&self, route: &mut RouteEntry) -> Result<(), Errno> {
        if route.dst.addr.is_ipv4() && !route.is_sound() {
            return Err(Errno::EINVAL);
        }
        if route.refuses() {
            route.hops.clear();
            return Ok(());
        }
        if route.hops.is_empty() {
            return Err(Errno::ENODEV);
        }
        if let Some(src) = route.prefsrc {
            if !self.addresses.iter().any(|a| a.addr == src) && !self.is_local(&src) {
                return Err(Errno::EINVAL);
            }
        }
        // A gateway is nearer than what is reached by it, and what is this host's needs no link that is up.
        let (narrow, own) = match route.scope {
            _ if route.dst.addr.is_ipv6() => (false, false),
            scope => (scope == RT_SCOPE_LINK, scope == RT_SCOPE_HOST),
        };
        for hop in &mut route.hops {
            if let Some(gateway) = hop.gateway {
                if narrow {
                    return Err(Errno::ENETUNREACH);
                }
                if gateway.is_ipv4() == route.dst.addr.is_ipv4() && self.is_local(&gateway) {
                    return Err(Errno::EINVAL);
                }
                let on = |a: &super::Address| {
                    (hop.link == 0 || a.link == hop.link)
                        && a.subnet().contains(&gateway)
                        && a.addr != gateway
                };
                let near = self.addresses.iter().find(|a| on(a)).map(|a| a.link);
                let routed = || self.near_link(&gateway, hop.link);
                let free = hop.flags & RTNH_F_ONLINK != 0 || addr::is_link_local(&gateway);
                match near.or_else(routed) {
                    Some(link) => hop.link = link,
                    None if free && hop.link != 0 => {}
                    None if gateway.is_ipv4() => return Err(Errno::ENETUNREACH),
                    None => return Err(Errno::EHOSTUNREACH),
                }
            }
            let link = self.links.get(&hop.link).ok_or(Errno::ENODEV)?;
            if !link.is_up() && !own {
                return Err(Errno::ENETDOWN);
            }
        }
        Ok(())
    }

    /// The link of a route that reaches a gateway directly.
    fn near_link(&self, gateway: &IpAddr, link: u32) -> Option<u32> {
        let main = self.routes.get(&(RT_TABLE_MAIN, gateway.is_ipv4()))?;
        let direct = |r: &&RouteEntry| r.dst.len > 0 && r.dst.contains(gateway) && r.kind == RTN_UNICAST;
        let hop = main.iter().filter(direct).flat_map(|r| &r.hops);
        hop.into_iter().find(|h| h.gateway.is_none() && (link == 0 || h.link == link)).map(|h| h.link)
    }

    /// Puts a route where it belongs, unless it is there.
    pub(super) fn insert_route(&mut self, route: RouteEntry, news: &mut Vec<Change>) {
        #[cfg(test)]
        super::tests::step(self.routes.get(&route.key()).map_or(0, Vec::len));
        let list = self.routes.get(&route.key()).map(Vec::as_slice).unwrap_or_default();
        if list.contains(&route) {
            return;
        }
        let at = list.partition_point(|r| r.rank() <= route.rank());
        self.put_route(at, route, news);
    }

    /// The same for many, at the price of looking at each table once.
    pub(super) fn insert_routes(&mut self, routes: Vec<RouteEntry>, news: &mut Vec<Change>) {
        let mut tables: BTreeMap<_, HashSet<RouteEntry>> = BTreeMap::new();
        for route in routes {
            let known = tables.entry(route.key()).or_insert_with_key(|key| {
                let list = self.routes.get(key).map(Vec::as_slice).unwrap_or_default();
                #[cfg(test)]
                super::tests::step(list.len());
                list.iter().cloned().collect()
            });
            if known.insert(route.clone()) {
                // In its place below: this sort keeps the order of equals.
                self.put_route(usize::MAX, route, news);
            }
        }
        for key in tables.into_keys() {
            if let Some(list) = self.routes.get_mut(&key) {
                list.sort_by_key(RouteEntry::rank);
            }
        }
    }

    /// Puts a route at a place of its table.
    fn put_route(&mut self, at: usize, route: RouteEntry, news: &mut Vec<Change>) {
        let list = self.routes.entry(route.key()).or_default();
        list.insert(at.min(list.len()), route.clone());
        if route.table == RT_TABLE_LOCAL
            && route.kind == RTN_LOCAL
            && route.dst == Prefix::host(route.dst.addr)
        {
            *self.local.entry(route.dst.addr).or_default() += 1;
        }
        news.push(Change::Route(route, true));
    }

    /// Takes a route out, and its table with the last one: there may be as many tables as numbers.
    fn remove_route(&mut self, key: (u32, bool), at: usize) -> Option<RouteEntry> {
        let list = self.routes.get_mut(&key)?;
        let gone = (at < list.len()).then(|| list.remove(at))?;
        if list.is_empty() {
            self.routes.remove(&key);
        }
        self.forget_local(&gone);
        Some(gone)
    }

    /// Ways of routes that have several.
    fn hops(&self) -> usize {
        self.routes.values().flatten().map(|route| route.hops.len().saturating_sub(1)).sum()
    }

    fn forget_local(&mut self, gone: &RouteEntry) {
        if gone.table == RT_TABLE_LOCAL && gone.kind == RTN_LOCAL && gone.dst == Prefix::host(gone.dst.addr) {
            if let Some(count) = self.local.get_mut(&gone.dst.addr) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.local.remove(&gone.dst.addr);
                }
            }
        }
    }

    pub(super) fn routes_gone(&mut self, news: &mut Vec<Change>, gone: impl Fn(&RouteEntry) -> bool) {
        let mut all = Vec::new();
        for list in self.routes.values_mut() {
            #[cfg(test)]
            super::tests::step(list.len());
            let (dead, kept) = list.drain(..).partition::<Vec<_>, _>(|r| gone(r));
            *list = kept;
            all.extend(dead);
        }
        self.routes.retain(|_, list| !list.is_empty());
        all.iter().for_each(|route| self.forget_local(route));
        news.extend(all.into_iter().map(|route| Change::Route(route, false)));
    }
}
