//! What the host's namespace has, as far as the sandbox has been told, and how that differs from what it has by now.
//!
//! It is the host's side alone: what a guest has changed in its own namespace is not in it, and so not undone.

use chitin_abi::netlink::{RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE};
use chitin_abi::rtnetlink::{IFA_F_OPTIMISTIC, IFA_F_TENTATIVE, RTNH_F_ONLINK, RTPROT_KERNEL};
use chitin_control::rtnetlink::{self, Message};
use chitin_control::{AddressConfig, LinkConfig, NetworkConfig, RouteConfig};
use std::collections::BTreeMap;

/// Interfaces that are remembered, taken over or not.
const MAX_LINKS: usize = 1024;

/// A change. Links are named by the host's indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    Link(LinkConfig),
    LinkGone(u32),
    Address(u32, AddressConfig),
    AddressGone(u32, AddressConfig),
    Route(RouteConfig),
    RouteGone(RouteConfig),
}

impl News {
    /// None: it is nothing that concerns the sandbox.
    pub fn of(message: &Message<'_>) -> Option<News> {
        let body = message.body;
        // Those of a family (AF_BRIDGE) are about ports of bridges.
        let link = || rtnetlink::link(body).filter(|_| body.first() == Some(&0));
        match message.kind {
            RTM_NEWLINK => link().map(News::Link),
            RTM_DELLINK => link().map(|link| News::LinkGone(link.index)),
            RTM_NEWADDR => rtnetlink::address(body).map(|(link, address)| News::Address(link, address)),
            RTM_DELADDR => rtnetlink::address(body).map(|(link, address)| News::AddressGone(link, address)),
            RTM_NEWROUTE => route(rtnetlink::route(body)?).map(News::Route),
            RTM_DELROUTE => route(rtnetlink::route(body)?).map(News::RouteGone),
            _ => None,
        }
    }
}

/// A route that somebody has made: not what an address brings along by itself.
fn route(mut route: RouteConfig) -> Option<RouteConfig> {
    if route.protocol == RTPROT_KERNEL || rtnetlink::is_derived(&route) || route.hops.is_empty() {
        return None;
    }
    // The others come and go with the link's state.
    route.hops.iter_mut().for_each(|hop| hop.flags &= chitin_abi::num::low8(RTNH_F_ONLINK));
    Some(route)
}

fn same(a: &AddressConfig, b: &AddressConfig) -> bool {
    (a.address, a.prefix, a.peer) == (b.address, b.prefix, b.peer)
}

/// Whether nothing has changed that matters: that nobody else has the address is found out in passing.
fn alike(a: &AddressConfig, b: &AddressConfig) -> bool {
    let settled = |address: &AddressConfig| AddressConfig {
        flags: address.flags & !(IFA_F_TENTATIVE | IFA_F_OPTIMISTIC),
        ..address.clone()
    };
    settled(a) == settled(b)
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// By the host's indices, with their addresses.
    links: BTreeMap<u32, LinkConfig>,
    routes: Vec<RouteConfig>,
}

impl Known {
    /// What the sandbox began with.
    pub fn new(config: &NetworkConfig) -> Known {
        let link = |link: &LinkConfig| (link.index, LinkConfig { device: None, ..link.clone() });
        Known {
            links: config.links.iter().map(link).collect(),
            routes: config.routes.iter().cloned().filter_map(route).collect(),
        }
    }

    pub fn link(&self, host: u32) -> Option<&LinkConfig> {
        self.links.get(&host)
    }

    /// Takes note of a change.
    pub fn note(&mut self, news: &News) {
        match news {
            News::Link(link) => {
                let full = self.links.len() >= MAX_LINKS;
                let addresses = match self.links.get_mut(&link.index) {
                    Some(known) => std::mem::take(&mut known.addresses),
                    None if full => return,
                    None => Vec::new(),
                };
                self.links.insert(link.index, LinkConfig { addresses, ..link.clone() });
            }
            News::LinkGone(host) => {
                self.links.remove(host);
                self.routes.retain(|route| route.hops.iter().all(|hop| hop.link != *host));
            }
            News::Address(host, address) => {
                if let Some(link) = self.links.get_mut(host) {
                    link.addresses.retain(|other| !same(other, address));
                    link.addresses.push(address.clone());
                }
            }
            News::AddressGone(host, address) => {
                if let Some(link) = self.links.get_mut(host) {
                    link.addresses.retain(|other| !same(other, address));
                }
            }
            News::Route(route) => {
                if !self.routes.contains(route) {
                    self.routes.push(route.clone());
                }
            }
            News::RouteGone(route) => self.routes.retain(|other| other != route),
        }
    }

    /// The changes that lead from here to what is `now`, in an order in which they can be made.
    pub fn changes(&self, now: &Known) -> Vec<News> {
        let mut all = Vec::new();
        let gone = self.routes.iter().filter(|route| !now.routes.contains(route));
        all.extend(gone.cloned().map(News::RouteGone));
        let (mut links, mut addresses) = (Vec::new(), Vec::new());
        for (host, old) in &self.links {
            // An index may be another interface's by now.
            match now.links.get(host).filter(|new| (&new.address, &new.kind) == (&old.address, &old.kind)) {
                None => all.push(News::LinkGone(*host)),
                Some(new) => {
                    let gone = old.addresses.iter().filter(|a| !new.addresses.iter().any(|b| same(a, b)));
                    all.extend(gone.cloned().map(|address| News::AddressGone(*host, address)));
                    let come = new.addresses.iter().filter(|a| !old.addresses.iter().any(|b| alike(a, b)));
                    addresses.extend(come.cloned().map(|address| News::Address(*host, address)));
                }
            }
        }
        for (host, new) in &now.links {
            let plain = |link: &LinkConfig| LinkConfig { addresses: Vec::new(), ..link.clone() };
            if self.links.get(host).is_none_or(|old| plain(old) != plain(new)) {
                links.push(News::Link(new.clone()));
            }
        }
        all.extend(links);
        all.extend(addresses);
        // A gateway must be within reach by the time it is named.
        let come = now.routes.iter().filter(|route| !self.routes.contains(route)).cloned();
        let (far, near): (Vec<_>, Vec<_>) =
            come.partition(|route| route.hops.iter().any(|hop| hop.gateway.is_some()));
        all.extend(near.into_iter().chain(far).map(News::Route));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_control::NextHop;

    fn address(text: &str) -> AddressConfig {
        AddressConfig {
            address: text.parse().unwrap(),
            prefix: 24,
            broadcast: None,
            peer: None,
            scope: 0,
            flags: 0x80,
            label: None,
        }
    }

    fn link(index: u32, addresses: &[&str]) -> LinkConfig {
        LinkConfig {
            index,
            name: format!("eth{index}"),
            kind: "veth".into(),
            flags: 1,
            mtu: 1500,
            hardware: 1,
            address: vec![2, 0, 0, 0, 0, index.to_le_bytes()[0]],
            broadcast: vec![0xff; 6],
            tx_queue_len: 1000,
            addresses: addresses.iter().map(|text| address(text)).collect(),
            device: None,
        }
    }

    fn route(destination: &str, gateway: Option<&str>, link: u32) -> RouteConfig {
        RouteConfig {
            destination: destination.parse().unwrap(),
            prefix: 16,
            table: 254,
            kind: 1,
            scope: 0,
            protocol: 3,
            tos: 0,
            metric: 0,
            source: None,
            mtu: None,
            hops: vec![NextHop { gateway: gateway.map(|g| g.parse().unwrap()), link, weight: 1, flags: 0 }],
        }
    }

    fn known(links: &[LinkConfig], routes: &[RouteConfig]) -> Known {
        let links = links.iter().map(|link| (link.index, link.clone())).collect();
        Known { links, routes: routes.to_vec() }
    }

    #[test]
    fn nothing_changed() {
        let one = known(&[link(1, &["10.0.0.1"])], &[route("10.9.0.0", None, 1)]);
        let mut other = one.clone();
        other.links.get_mut(&1).unwrap().addresses[0].flags |= IFA_F_TENTATIVE;
        assert_eq!(one.changes(&other), []);
    }

    #[test]
    fn added_changed_and_removed_in_order() {
        let old = known(
            &[
                link(1, &["127.0.0.1"]),
                link(2, &["10.0.0.1", "10.0.0.2"]),
                link(3, &["10.3.0.1"]),
                link(5, &[]),
            ],
            &[route("10.8.0.0", Some("10.0.0.9"), 2), route("10.9.0.0", None, 3)],
        );
        let mut changed = link(2, &["10.0.0.2", "10.0.0.3"]);
        changed.addresses[0].label = Some("eth2:1".into());
        let other = LinkConfig { address: vec![2; 6], ..link(5, &["10.5.0.1"]) };
        let new = known(
            &[link(1, &["127.0.0.1"]), changed.clone(), link(4, &["10.4.0.1"]), other.clone()],
            &[route("10.7.0.0", Some("10.4.0.9"), 4), route("10.6.0.0", None, 4), route("10.8.0.0", None, 2)],
        );
        let news = old.changes(&new);
        let want = [
            News::RouteGone(route("10.8.0.0", Some("10.0.0.9"), 2)),
            News::RouteGone(route("10.9.0.0", None, 3)),
            News::AddressGone(2, address("10.0.0.1")),
            News::LinkGone(3),
            News::LinkGone(5),
            News::Link(link(4, &["10.4.0.1"])),
            News::Link(other),
            News::Address(2, changed.addresses[0].clone()),
            News::Address(2, changed.addresses[1].clone()),
            News::Route(route("10.6.0.0", None, 4)),
            News::Route(route("10.8.0.0", None, 2)),
            News::Route(route("10.7.0.0", Some("10.4.0.9"), 4)),
        ];
        assert_eq!(news, want);
    }

    /// Whatever was missed: with the changes noted, nothing differs.
    #[test]
    fn changes_lead_there() {
        let mut seed = 7_u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        let mut any = || {
            let mut it = Known::default();
            for index in 1..5 {
                if below(3) > 0 {
                    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
                    let mut link = link(index, &all[..below(4) as usize]);
                    link.flags = below(2) as u32;
                    it.links.insert(index, link);
                }
            }
            for n in 0..4 {
                let link = 1 + below(4) as u32;
                if it.links.contains_key(&link) && below(2) > 0 {
                    it.routes.push(route(
                        &format!("10.{n}.0.0"),
                        [None, Some("10.0.0.9")][below(2) as usize],
                        link,
                    ));
                }
            }
            it
        };
        for _ in 0..2000 {
            let (mut old, new) = (any(), any());
            for change in old.changes(&new) {
                if let News::Link(link) = &change {
                    // Those of a new one come along with it.
                    let addresses = new.links[&link.index].addresses.clone();
                    let fresh = LinkConfig { addresses, ..link.clone() };
                    old.links.entry(link.index).or_insert(fresh);
                }
                old.note(&change);
            }
            old.routes.sort_by_key(|route| route.destination);
            let sorted = |known: &Known| {
                let mut known = known.clone();
                known.links.values_mut().for_each(|link| link.addresses.sort_by_key(|a| a.address));
                known
            };
            assert_eq!(sorted(&old), sorted(&new));
        }
    }
}
