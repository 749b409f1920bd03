//! What a network namespace has: links, addresses, routes, permanent neighbours.
//!
//! Runs in a thread that has entered the namespace. What the kernel derives in the table `local` is the stack's to derive
//! as well, so it is left out; whatever else stands in any table is kept.

use chitin_control::rtnetlink::{AF_INET, AF_INET6, address, is_derived, link, neighbour, route};
use chitin_control::{LinkConfig, NetworkConfig, RouteConfig};

use super::netlink::Netlink;
use crate::util::{Context, Result};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;

/// The whole configuration, without descriptors.
pub fn dump(netlink: &mut Netlink) -> Result<NetworkConfig> {
    let failed = |what: &'static str| move || format!("cannot list the network namespace's {what}");
    let links = netlink.dump(RTM_GETLINK, &[0; 16]).context(failed("interfaces"))?;
    let mut links: Vec<LinkConfig> = links.iter().filter_map(|body| link(body)).collect();
    for body in netlink.dump(RTM_GETADDR, &[0; 8]).context(failed("addresses"))? {
        if let Some((index, address)) = address(&body)
            && let Some(link) = links.iter_mut().find(|link| link.index == index)
        {
            link.addresses.push(address);
        }
    }
    let routes = all_routes(netlink)?.into_iter().filter(|route| !is_derived(route)).collect();
    let neighbours = netlink.dump(RTM_GETNEIGH, &[0; 12]).context(failed("neighbours"))?;
    let neighbours = neighbours.iter().filter_map(|body| neighbour(body)).collect();
    // It goes by the namespace of whoever reads it.
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").ok();
    let congestion = congestion.map(|name| name.trim().to_owned());
    Ok(NetworkConfig { links, routes, neighbours, congestion, ..NetworkConfig::default() })
}

/// Every route of both families, the kernel's own included.
pub fn all_routes(netlink: &mut Netlink) -> Result<Vec<RouteConfig>> {
    let mut routes = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut head = [0; 12];
        head[0] = family;
        let found = netlink.dump(RTM_GETROUTE, &head);
        // A kernel without IPv6 answers EOPNOTSUPP.
        let found = if family == AF_INET6 {
            found.unwrap_or_default()
        } else {
            found.context(|| "cannot list the network namespace's routes".into())?
        };
        routes.extend(found.iter().filter_map(|body| route(body)));
    }
    Ok(routes)
}
