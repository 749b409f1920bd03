//! From what the runtime has found in a network namespace to the stack's configuration.
//!
//! Routes are made to be exactly those found: an address brings its prefix route by itself, which somebody may have removed
//! on purpose (CNI's ptp plugin does). What cannot be carried over is told in the log; the rest works.

use chitin_abi::netdevice::{IFF_LOWER_UP, IFF_RUNNING, IFF_UP};
use chitin_abi::rtnetlink::{
    IFA_F_DADFAILED, IFA_F_OPTIMISTIC, IFA_F_TENTATIVE, RT_TABLE_MAIN, RTPROT_KERNEL,
};
use chitin_control::{AddressConfig, LinkConfig, NetworkConfig, RouteConfig};
use chitin_netstack::config::{NextHop, RouteMode};
use chitin_netstack::{Address, Link, LinkKind, Neighbour, Prefix, RouteEntry, Stack};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub fn hardware(raw: &[u8]) -> [u8; 6] {
    raw.first_chunk().copied().unwrap_or_default()
}

/// A link with its addresses, up; its index. `device` adds its device before there is anything to send.
pub fn link(
    stack: &Stack,
    link: &LinkConfig,
    device: impl FnOnce(u32) -> Result<(), String>,
) -> Result<u32, String> {
    let kind = match link.kind.as_str() {
        "veth" => LinkKind::Veth,
        "tun" => LinkKind::Tun,
        "dummy" => LinkKind::Dummy,
        _ => LinkKind::Other,
    };
    let new = Link {
        index: link.index,
        name: link.name.clone(),
        kind,
        // There is a carrier, noticed by the host already or not.
        flags: link.flags | IFF_UP | IFF_RUNNING | IFF_LOWER_UP,
        mtu: link.mtu,
        max_mtu: link.mtu,
        hw_type: link.hardware,
        hw_addr: hardware(&link.address),
        broadcast: hardware(&link.broadcast),
        tx_queue_len: link.tx_queue_len,
        group: 0,
        peer: None,
        stats: Arc::default(),
        conf: Arc::default(),
    };
    let failed = |error| format!("cannot take over the interface {}: {error}", link.name);
    let index = stack.config.link_add(new).map_err(failed)?;
    device(index)?;
    link.addresses.iter().for_each(|a| address(stack, index, a));
    Ok(index)
}

/// The addresses of `lo`. Of its own, `::1` goes if somebody has put the host's up without: Docker does, for containers
/// without IPv6.
pub fn loopback(stack: &Stack, link: &LinkConfig) {
    let has = |ip: IpAddr| link.addresses.iter().any(|a| a.address == ip);
    if has(Ipv4Addr::LOCALHOST.into()) && !has(Ipv6Addr::LOCALHOST.into()) {
        // A guest has not been there yet.
        let _ = stack.config.addr_del(link.index, Ipv6Addr::LOCALHOST.into(), 128);
    }
    link.addresses.iter().for_each(|a| address(stack, link.index, a));
}

/// Adds an address; those of `lo` are there.
pub fn address(stack: &Stack, link: u32, config: &AddressConfig) {
    let broadcast = match config.broadcast {
        Some(IpAddr::V4(v4)) => Some(v4),
        _ => None,
    };
    let address = Address {
        scope: config.scope,
        flags: config.flags & !(IFA_F_TENTATIVE | IFA_F_OPTIMISTIC | IFA_F_DADFAILED),
        peer: config.peer,
        broadcast,
        label: config.label.clone(),
        ..Address::new(link, config.address, config.prefix)
    };
    if let Err(error) = stack.config.addr_add(address, true) {
        tracing::warn!(address = %config.address, %error, "an address is not taken over");
    }
}

pub fn entry(route: &RouteConfig) -> RouteEntry {
    let hops = route.hops.iter().map(|hop| NextHop {
        link: hop.link,
        gateway: hop.gateway,
        weight: hop.weight.saturating_sub(1),
        flags: hop.flags.into(),
    });
    RouteEntry {
        dst: Prefix::of(route.destination, route.prefix),
        table: route.table,
        kind: route.kind,
        scope: route.scope,
        protocol: route.protocol,
        tos: route.tos,
        metric: route.metric,
        prefsrc: route.source,
        hops: hops.collect(),
        mtu: route.mtu.unwrap_or(0),
        advmss: 0,
        hoplimit: 0,
    }
}

/// Makes the routes those that were found.
pub fn routes(stack: &Stack, config: &NetworkConfig) {
    let wanted: Vec<RouteEntry> = config.routes.iter().map(entry).collect();
    let same = |a: &RouteEntry, b: &RouteEntry| {
        a.dst == b.dst && a.table == b.table && a.metric == b.metric && a.hops.first() == b.hops.first()
    };
    let derived = |r: &RouteEntry| r.table == RT_TABLE_MAIN && r.protocol == RTPROT_KERNEL;
    for there in stack.config.routes().iter().filter(|r| derived(r)) {
        if !wanted.iter().any(|route| same(route, there)) {
            let v4 = there.dst.addr.is_ipv4();
            // It was there a moment ago, and nobody else changes anything yet.
            let _ = stack.config.route_del(there.table, v4, |r| r == there);
        }
    }
    let there = stack.config.routes();
    // A gateway must be within reach by the time it is named.
    let (far, near): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|route| route.hops.iter().any(|hop| hop.gateway.is_some()));
    for route in near.into_iter().chain(far) {
        if there.iter().any(|r| same(r, &route)) {
            continue;
        }
        let text = format!("{}/{}", route.dst.addr, route.dst.len);
        if let Err(error) = stack.config.route_add(route, RouteMode::Append) {
            tracing::warn!(route = text, %error, "a route is not taken over");
        }
    }
}

/// Neighbours that somebody has set for good.
pub fn neighbours(stack: &Stack, config: &NetworkConfig) {
    for neighbour in &config.neighbours {
        let wanted = Neighbour {
            link: neighbour.link,
            addr: neighbour.address,
            hw_addr: neighbour.hardware.first_chunk().copied(),
            state: neighbour.state,
            flags: 0,
            confirmed: 0,
            used: 0,
            updated: 0,
        };
        if let Err(error) = stack.neighbour_set(&wanted) {
            tracing::warn!(address = %neighbour.address, %error, "a neighbour is not taken over");
        }
    }
}
