//! Links: network interfaces.

use super::{Address, Change, Conf, Config, LO, MAX_LINKS, RouteEntry, Tables};
use chitin_abi::Errno;
use chitin_abi::netdevice::*;
use chitin_abi::rtnetlink::{RT_SCOPE_HOST, RTN_LOCAL};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What a link is for `ip -d link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Loopback,
    /// One end of a pair whose other end is the host's.
    Veth,
    Tun,
    Dummy,
    /// Anything else the sandbox was given.
    Other,
}

impl LinkKind {
    /// IFLA_INFO_KIND.
    pub fn name(self) -> Option<&'static str> {
        match self {
            LinkKind::Veth => Some("veth"),
            LinkKind::Tun => Some("tun"),
            LinkKind::Dummy => Some("dummy"),
            LinkKind::Loopback | LinkKind::Other => None,
        }
    }
}

/// Counters of a link (/proc/net/dev).
#[derive(Debug, Default)]
pub struct LinkStats {
    pub rx_packets: AtomicU64,
    pub rx_bytes: AtomicU64,
    pub rx_errors: AtomicU64,
    pub rx_dropped: AtomicU64,
    pub rx_multicast: AtomicU64,
    pub tx_packets: AtomicU64,
    pub tx_bytes: AtomicU64,
    pub tx_errors: AtomicU64,
    pub tx_dropped: AtomicU64,
}

/// A network interface.
#[derive(Clone, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: LinkKind,
    /// IFF_*.
    pub flags: u32,
    pub mtu: u32,
    /// The longest packets that its device takes; 0: of any length.
    pub max_mtu: u32,
    /// ARPHRD_*.
    pub hw_type: u16,
    pub hw_addr: [u8; 6],
    pub broadcast: [u8; 6],
    pub tx_queue_len: u32,
    pub group: u32,
    /// IFLA_LINK: for a veth, its peer's index in the other namespace.
    pub peer: Option<u32>,
    pub stats: Arc<LinkStats>,
    /// Its settings; those of a new link are made when it is added.
    pub conf: Arc<Conf>,
}

/// What of a link is to change.
#[derive(Clone, Debug, Default)]
pub struct LinkChange {
    pub name: Option<String>,
    /// IFF_*: which flags, and their values.
    pub flags: (u32, u32),
    pub mtu: Option<u32>,
    pub hw_addr: Option<[u8; 6]>,
    pub tx_queue_len: Option<u32>,
    pub group: Option<u32>,
}

/// Flags that may be set from outside (dev_change_flags()).
const SETTABLE: u32 = IFF_UP
    | IFF_DEBUG
    | IFF_NOTRAILERS
    | IFF_NOARP
    | IFF_DYNAMIC
    | IFF_MULTICAST
    | IFF_PORTSEL
    | IFF_AUTOMEDIA
    | IFF_PROMISC
    | IFF_ALLMULTI;

impl Link {
    /// `lo` as a new namespace has it.
    pub fn loopback() -> Link {
        Link {
            index: LO,
            name: "lo".to_owned(),
            kind: LinkKind::Loopback,
            flags: IFF_LOOPBACK,
            mtu: 65536,
            max_mtu: 0,
            hw_type: ARPHRD_LOOPBACK,
            hw_addr: [0; ETH_ALEN],
            broadcast: [0; ETH_ALEN],
            tx_queue_len: 1000,
            group: 0,
            peer: None,
            stats: Arc::default(),
            conf: Arc::default(),
        }
    }
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }
    /// Whether it exists here alone, so that all of it can be changed.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.kind, LinkKind::Loopback | LinkKind::Dummy) && self.max_mtu == 0
    }
    /// The least MTU that it can be set to.
    pub fn min_mtu(&self) -> u32 {
        if self.is_own() { 0 } else { 68 }
    }
    /// Whether IPv6 works there (IPV6_MIN_MTU, disable_ipv6).
    pub(super) fn has_v6(&self) -> bool {
        self.mtu >= 1280 && !self.conf.disable6.on()
    }
    /// IF_OPER_*.
    pub fn operstate(&self) -> u8 {
        match self.kind {
            _ if !self.is_up() => IF_OPER_DOWN,
            LinkKind::Loopback | LinkKind::Tun | LinkKind::Dummy => IF_OPER_UNKNOWN,
            _ if self.flags & IFF_LOWER_UP != 0 => IF_OPER_UP,
            _ => IF_OPER_DOWN,
        }
    }
}

/// dev_valid_name().
fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < IFNAMSIZ
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace())
}

impl Config {
    /// Adds a link; an index of 0 is chosen. It comes as it is: if it has IFF_UP, it is up.
    pub fn link_add(&self, mut link: Link) -> Result<u32, Errno> {
        self.change(|tables, news| {
            if tables.links.len() >= MAX_LINKS {
                return Err(Errno::ENOBUFS);
            }
            if !valid_name(&link.name) {
                return Err(Errno::EINVAL);
            }
            if tables.links.contains_key(&link.index)
                || tables.links.values().any(|other| other.name == link.name)
            {
                return Err(Errno::EEXIST);
            }
            if link.index == 0 {
                link.index = tables.next_index;
            }
            tables.next_index = tables.next_index.max(link.index.saturating_add(1));
            let index = link.index;
            link.conf = Arc::new(self.default.copy());
            news.push(Change::Link(link.clone(), true));
            let up = link.is_up();
            tables.links.insert(index, link);
            if up {
                tables.went_up(index, news)?;
            }
            Ok(index)
        })
    }

    /// Changes a link: all of it or nothing.
    pub fn link_change(&self, index: u32, wanted: &LinkChange) -> Result<(), Errno> {
        self.change(|tables, news| {
            let taken = |name: &String| tables.links.values().any(|l| l.index != index && l.name == *name);
            match &wanted.name {
                Some(name) if !valid_name(name) => return Err(Errno::EINVAL),
                Some(name) if taken(name) => return Err(Errno::EEXIST),
                _ => {}
            }
            let link = tables.links.get_mut(&index).ok_or(Errno::ENODEV)?;
            let most = if link.max_mtu == 0 { i32::MAX.unsigned_abs() } else { link.max_mtu };
            if wanted.mtu.is_some_and(|mtu| mtu != link.mtu && !(link.min_mtu()..=most).contains(&mtu)) {
                return Err(Errno::EINVAL);
            }
            // What comes in is for the address that the other end knows.
            if wanted.hw_addr.is_some_and(|addr| addr != link.hw_addr) && !link.is_own() {
                return Err(Errno::EOPNOTSUPP);
            }
            if wanted.hw_addr.is_some_and(|addr| addr[0] & 1 != 0 || addr == [0; 6]) {
                return Err(Errno::EADDRNOTAVAIL);
            }
            let (was, had_v6) = (link.is_up(), link.has_v6());
            if let Some(name) = &wanted.name {
                link.name.clone_from(name);
            }
            link.mtu = wanted.mtu.unwrap_or(link.mtu);
            link.hw_addr = wanted.hw_addr.unwrap_or(link.hw_addr);
            link.tx_queue_len = wanted.tx_queue_len.unwrap_or(link.tx_queue_len);
            link.group = wanted.group.unwrap_or(link.group);
            let mask = wanted.flags.0 & SETTABLE;
            link.flags = link.flags & !mask | wanted.flags.1 & mask;
            let up = link.is_up();
            if was != up {
                // There is a carrier wherever there is a link.
                let running = IFF_RUNNING | IFF_LOWER_UP;
                link.flags = if up { link.flags | running } else { link.flags & !running };
            }
            let has_v6 = link.has_v6();
            news.push(Change::Link(link.clone(), true));
            if had_v6 && !has_v6 {
                tables.v6_gone(index, news);
            }
            match (was, up) {
                (false, true) => tables.went_up(index, news)?,
                (true, false) => tables.went_down(index, news),
                (true, true) if has_v6 && !had_v6 && !tables.is_loopback(index) => {
                    tables.v6_began(index, news)
                }
                _ => {}
            }
            Ok(())
        })
    }

    /// Takes a link away, and all that is on it.
    pub fn link_del(&self, index: u32) -> Result<(), Errno> {
        self.change(|tables, news| {
            let link = tables.links.get(&index).ok_or(Errno::ENODEV)?;
            if link.kind == LinkKind::Loopback {
                return Err(Errno::EOPNOTSUPP);
            }
            tables.went_down(index, news);
            tables.routes_gone(news, |route| route.uses(index));
            let (gone, kept): (Vec<_>, Vec<_>) = tables.walk_addresses().partition(|a| a.link == index);
            tables.addresses = kept;
            // Routes of other links that begin at one of its addresses.
            let own: HashSet<_> = gone.iter().map(|a| a.addr).filter(IpAddr::is_ipv4).collect();
            tables.routes_gone(news, |route| route.prefsrc.is_some_and(|src| own.contains(&src)));
            news.extend(gone.into_iter().map(|address| Change::Address(address, false)));
            if let Some(mut link) = tables.links.remove(&index) {
                link.flags &= !(IFF_UP | IFF_RUNNING | IFF_LOWER_UP);
                news.push(Change::Link(link, false));
            }
            Ok(())
        })
    }
}

impl Tables {
    /// Takes all addresses out.
    fn walk_addresses(&mut self) -> impl Iterator<Item = Address> {
        #[cfg(test)]
        super::tests::step(self.addresses.len());
        self.addresses.drain(..)
    }

    /// What appears with a link that comes up: on `lo` its addresses, on others the routes of the addresses they have.
    fn went_up(&mut self, index: u32, news: &mut Vec<Change>) -> Result<(), Errno> {
        if self.is_loopback(index) {
            let v4 = Address::new(index, Ipv4Addr::LOCALHOST.into(), 8).scope(RT_SCOPE_HOST);
            self.own_address(Address { label: Some("lo".to_owned()), ..v4 }, news);
        }
        let mine = self.addresses.iter().filter(|a| a.link == index);
        let routes: Vec<_> = mine.flat_map(|address| self.routes_of(address)).collect();
        self.insert_routes(routes, news);
        self.v6_began(index, news);
        Ok(())
    }

    fn is_loopback(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.kind == LinkKind::Loopback)
    }

    /// Adds an address that nobody asked for, unless it is there.
    fn own_address(&mut self, address: Address, news: &mut Vec<Change>) {
        if !self.addresses.iter().any(|a| a.same(&address)) {
            self.addresses.push(address.clone());
            news.push(Change::Address(address, true));
        }
    }

    /// IPv6 begins on a link that is up, if it works there.
    pub(super) fn v6_began(&mut self, index: u32, news: &mut Vec<Change>) {
        if !self.links.get(&index).is_some_and(|link| link.is_up() && link.has_v6()) {
            return;
        }
        if self.is_loopback(index) {
            let own = Address::new(index, Ipv6Addr::LOCALHOST.into(), 128).scope(RT_SCOPE_HOST);
            self.own_address(own.clone(), news);
            self.address_routes(&own, news);
        } else {
            self.multicast_route(index, news);
        }
    }

    /// What goes with a link that goes down: its routes but for those of its IPv4 addresses themselves, which stay this
    /// host's, and its IPv6 addresses.
    fn went_down(&mut self, index: u32, news: &mut Vec<Change>) {
        let stays = |route: &RouteEntry| route.dst.addr.is_ipv4() && route.kind == RTN_LOCAL;
        self.routes_gone(news, |route| route.uses(index) && !stays(route));
        self.v6_gone(index, news);
    }

    /// IPv6 ends on a link (addrconf_ifdown()).
    pub(super) fn v6_gone(&mut self, index: u32, news: &mut Vec<Change>) {
        self.routes_gone(news, |route| route.uses(index) && route.dst.addr.is_ipv6());
        let (gone, kept) =
            self.walk_addresses().partition::<Vec<_>, _>(|a| a.link == index && a.addr.is_ipv6());
        self.addresses = kept;
        news.extend(gone.into_iter().map(|address| Change::Address(address, false)));
    }
}
