//! The configuration of a namespace: links, addresses, routes, rules, neighbours; what rtnetlink shows and changes.
//!
//! Mutators check as Linux does and answer its errnos; what follows from a change (routes of an address, what a link
//! takes with it when it goes down) follows here, in the order and with the messages of Linux ([`Change`]).
//!
//! Locks: `tables` is taken for reading by lookups; listeners are called with it released. The *generation* goes up
//! with each change that may concern a route, so that a connection can keep what it found until then.

mod address;
mod conf;
mod link;
mod lookup;
mod route;
mod rule;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use conf::Conf;
pub use link::{Link, LinkChange, LinkKind, LinkStats};
pub use lookup::Route;
pub use route::{NextHop, RouteEntry, RouteMode};
pub use rule::Rule;

use crate::env::Nanos;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The index of `lo`.
pub const LO: u32 = 1;

// What guests may make us hold.
const MAX_LINKS: usize = 1024;
const MAX_ADDRESSES: usize = 4096;
const MAX_ROUTES: usize = 8192;
/// Ways of a route.
const MAX_HOPS: usize = 256;
const MAX_RULES: usize = 1024;

/// What rtnetlink's multicast groups tell. `true`: it is there (new or changed), `false`: it has gone.
#[derive(Clone, Debug)]
pub enum Change {
    Link(Link, bool),
    Address(Address, bool),
    Route(RouteEntry, bool),
    Rule(Rule, bool),
    Neighbour(Neighbour, bool),
}

/// A neighbour as rtnetlink shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub link: u32,
    pub addr: IpAddr,
    /// None while unknown.
    pub hw_addr: Option<[u8; 6]>,
    /// NUD_*.
    pub state: u16,
    /// NTF_*.
    pub flags: u8,
    /// When it was last confirmed, used and changed.
    pub confirmed: Nanos,
    pub used: Nanos,
    pub updated: Nanos,
}

/// A neighbour that this host answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is asked for; 0: on any link.
    pub link: u32,
    pub addr: IpAddr,
    /// NTF_*.
    pub flags: u8,
    /// RTPROT_*.
    pub protocol: u8,
}

#[derive(Default)]
struct Tables {
    links: BTreeMap<u32, Link>,
    addresses: Vec<Address>,
    /// By table and family (`true`: IPv4), best match first.
    routes: BTreeMap<(u32, bool), Vec<RouteEntry>>,
    /// Host routes of the local tables once more: how often each address is there.
    local: HashMap<IpAddr, u32>,
    /// By priority.
    rules: Vec<Rule>,
    next_index: u32,
}

type Listener = Arc<dyn Fn(&Change) + Send + Sync>;

/// See the module.
pub struct Config {
    pub all: Arc<Conf>,
    /// What new links begin with.
    pub default: Arc<Conf>,
    tables: RwLock<Tables>,
    generation: AtomicU64,
    listeners: Mutex<Vec<Listener>>,
}

impl Config {
    /// Nothing but `lo`, which is down. IPv4 settings begin as in `first`, the machine's first namespace
    /// (net.core.devconf_inherit_init_net).
    pub(crate) fn new(first: Option<&Config>) -> Config {
        let begun = |of: fn(&Config) -> &Arc<Conf>| {
            Arc::new(first.map(|first| of(first).copy4()).unwrap_or_default())
        };
        let (all, default) = (begun(|config| &config.all), begun(|config| &config.default));
        let mut tables = Tables { rules: Rule::standard(), next_index: LO + 1, ..Tables::default() };
        tables.links.insert(LO, Link { conf: Arc::new(default.copy()), ..Link::loopback() });
        let (generation, listeners) = (AtomicU64::new(1), Mutex::default());
        Config { all, default, tables: RwLock::new(tables), generation, listeners }
    }

    /// Has all changes told to `listener` from now on.
    pub fn listen(&self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        self.listeners.lock().push(Arc::new(listener));
    }

    pub(crate) fn tell(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let listeners = self.listeners.lock().clone();
        changes.iter().for_each(|change| listeners.iter().for_each(|listener| listener(change)));
    }

    /// Makes a change: all of it under the lock, then its news.
    fn change<T, E>(&self, make: impl FnOnce(&mut Tables, &mut Vec<Change>) -> Result<T, E>) -> Result<T, E> {
        let mut news = Vec::new();
        let result = make(&mut self.tables.write(), &mut news);
        self.generation.fetch_add(1, Ordering::Release);
        self.tell(&news);
        result
    }

    /// Something else changed that concerns routes.
    pub(crate) fn touch(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
    /// Goes up with each change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn links(&self) -> Vec<Link> {
        self.tables.read().links.values().cloned().collect()
    }
    pub fn link(&self, index: u32) -> Option<Link> {
        self.tables.read().links.get(&index).cloned()
    }
    pub fn link_by_name(&self, name: &str) -> Option<Link> {
        self.tables.read().links.values().find(|link| link.name == name).cloned()
    }
    pub fn addresses(&self) -> Vec<Address> {
        self.tables.read().addresses.clone()
    }
    /// Routes of all tables, IPv4's first, in the order of /proc/net/route within a table.
    pub fn routes(&self) -> Vec<RouteEntry> {
        let tables = self.tables.read();
        let of = |v4: bool| {
            let own = tables.routes.iter().filter(|((_, four), _)| *four == v4);
            own.flat_map(|(key, routes)| routes.iter().map(move |route| (key.0, route))).collect::<Vec<_>>()
        };
        let mut four = of(true);
        // A trie is walked along its addresses; of one address, the longest prefix is first.
        four.sort_by_key(|(table, route)| (*table, route.dst.addr));
        four.into_iter().chain(of(false)).map(|(_, route)| route.clone()).collect()
    }
    pub fn rules(&self) -> Vec<Rule> {
        self.tables.read().rules.clone()
    }
}
