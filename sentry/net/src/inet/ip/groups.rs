//! Multicast groups of a socket: joining, leaving, and which packets that lets through (ip_mc_sf_allow()).

use super::{State, int};
use crate::NetNs;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::socket::{AF_INET, AF_INET6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::FromBytes;

/// net.ipv4.igmp_max_memberships, and what is kept of sources (igmp_max_msf).
const MAX_GROUPS: usize = 20;
const MAX_GROUPS6: usize = 1024;
const MAX_SOURCES: usize = 10;

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub group: IpAddr,
    pub index: u32,
    /// Only from `sources` (or from all but those).
    include: bool,
    sources: Vec<IpAddr>,
}

impl super::IpOptions {
    /// Whether a multicast packet that came in on `index` is this socket's.
    pub fn admits(&self, group: IpAddr, source: IpAddr, index: u32) -> bool {
        let state = self.state.lock();
        let found = state.groups.iter().find(|own| own.group == group && own.index == index);
        match found {
            Some(own) => own.include == own.sources.contains(&source),
            None if group.is_ipv4() => self.on(IP_MULTICAST_ALL),
            None => self.on6(IPV6_MULTICAST_ALL),
        }
    }
}

impl super::IpOptions {
    /// Leaves all groups, when the socket is closed.
    pub fn leave_groups(&self, ns: &NetNs) {
        let groups = std::mem::take(&mut self.state.lock().groups);
        for own in groups {
            let _ = ns.stack.leave(own.index, own.group);
        }
    }
}

/// ip_mc_find_dev(): by index, by an address of the interface, by the route to the group.
fn interface(ns: &NetNs, index: i32, addr: Ipv4Addr) -> Result<u32, Errno> {
    let interfaces = ns.interfaces();
    if index != 0 {
        let found = interfaces.iter().find(|iface| iface.index.cast_signed() == index);
        return found.map(|iface| iface.index).ok_or(Errno::ENODEV);
    }
    if !addr.is_unspecified() {
        let has = |iface: &&crate::Interface| iface.addrs.iter().any(|own| own.addr == IpAddr::V4(addr));
        return interfaces.iter().find(has).map(|iface| iface.index).ok_or(Errno::ENODEV);
    }
    // A route to the group: any interface but `lo`.
    let outside = interfaces
        .iter()
        .find(|iface| iface.index != crate::inet::route::LOOPBACK && !iface.addrs.is_empty());
    outside.map(|iface| iface.index).ok_or(Errno::ENODEV)
}

pub(super) fn set_v4(ns: &NetNs, state: &mut State, name: u32, value: &[u8]) -> Result<(), Errno> {
    match name {
        IP_MULTICAST_IF => {
            let mreq = match value.len() {
                12.. => IpMreqn::read_from_prefix(value).map_err(|_| Errno::EINVAL)?.0,
                8.. => short_mreq(value)?,
                4.. => IpMreqn { imr_address: int(value)?.to_ne_bytes(), ..IpMreqn::default() },
                _ => return Err(Errno::EINVAL),
            };
            let addr = Ipv4Addr::from(mreq.imr_address);
            if mreq.imr_ifindex == 0 && addr.is_unspecified() {
                (state.mc_index, state.mc_addr) = (0, addr);
                return Ok(());
            }
            state.mc_index = interface(ns, mreq.imr_ifindex, addr).map_err(|_| Errno::EADDRNOTAVAIL)?;
            state.mc_addr = addr;
            Ok(())
        }
        IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP => {
            let mreq = match value.len() {
                12.. => IpMreqn::read_from_prefix(value).map_err(|_| Errno::EINVAL)?.0,
                _ => short_mreq(value)?,
            };
            let (group, addr) = (Ipv4Addr::from(mreq.imr_multiaddr), Ipv4Addr::from(mreq.imr_address));
            if !group.is_multicast() {
                return Err(if name == IP_ADD_MEMBERSHIP { Errno::EINVAL } else { Errno::EADDRNOTAVAIL });
            }
            let index = interface(ns, mreq.imr_ifindex, addr);
            if name == IP_ADD_MEMBERSHIP {
                return join(ns, state, IpAddr::V4(group), index?, MAX_GROUPS);
            }
            leave(ns, state, IpAddr::V4(group), index.ok())
        }
        MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP => {
            let (index, group) = group_req(value, AF_INET)?;
            let index = interface(ns, index, Ipv4Addr::UNSPECIFIED)?;
            if name == MCAST_JOIN_GROUP {
                join(ns, state, group, index, MAX_GROUPS)
            } else {
                leave(ns, state, group, Some(index))
            }
        }
        _ => set_source(ns, state, name, value),
    }
}

/// `struct ip_mreq_source`: group, interface, source.
fn set_source(ns: &NetNs, state: &mut State, name: u32, value: &[u8]) -> Result<(), Errno> {
    let (words, _) = value.as_chunks::<4>();
    let [group, interface_addr, source, ..] = words else { return Err(Errno::EINVAL) };
    let group = Ipv4Addr::from(*group);
    let source = IpAddr::V4(Ipv4Addr::from(*source));
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let index = interface(ns, 0, Ipv4Addr::from(*interface_addr))?;
    let include = matches!(name, IP_ADD_SOURCE_MEMBERSHIP | IP_DROP_SOURCE_MEMBERSHIP);
    let adds = matches!(name, IP_ADD_SOURCE_MEMBERSHIP | IP_BLOCK_SOURCE);
    let at = state.groups.iter().position(|own| own.group == IpAddr::V4(group) && own.index == index);
    let Some(own) = at.and_then(|at| state.groups.get_mut(at)) else {
        if name != IP_ADD_SOURCE_MEMBERSHIP {
            return Err(Errno::EINVAL);
        }
        join(ns, state, IpAddr::V4(group), index, MAX_GROUPS)?;
        if let Some(own) = state.groups.last_mut() {
            (own.include, own.sources) = (true, vec![source]);
        }
        return Ok(());
    };
    if own.include != include {
        if !own.sources.is_empty() || own.include {
            return Err(Errno::EINVAL);
        }
        own.include = include;
    }
    let had = own.sources.iter().position(|known| *known == source);
    match (adds, had) {
        (true, Some(_)) | (false, None) => Err(Errno::EADDRNOTAVAIL),
        (true, None) if own.sources.len() >= MAX_SOURCES => Err(Errno::ENOBUFS),
        (true, None) => {
            own.sources.push(source);
            Ok(())
        }
        (false, Some(which)) => {
            own.sources.swap_remove(which);
            if own.include && own.sources.is_empty() {
                return leave(ns, state, IpAddr::V4(group), Some(index));
            }
            Ok(())
        }
    }
}

/// `struct ip_mreq`
fn short_mreq(value: &[u8]) -> Result<IpMreqn, Errno> {
    let (words, _) = value.as_chunks::<4>();
    let [group, addr, ..] = words else { return Err(Errno::EINVAL) };
    Ok(IpMreqn { imr_multiaddr: *group, imr_address: *addr, imr_ifindex: 0 })
}

/// `struct group_req`: an index and, aligned to 8 bytes, a socket address.
fn group_req(value: &[u8], family: u32) -> Result<(i32, IpAddr), Errno> {
    if value.len() < 136 {
        return Err(Errno::EINVAL);
    }
    let index = int(value)?;
    let addr = crate::SockAddr::parse(value.get(8..).unwrap_or_default());
    let group = match (family, addr) {
        (AF_INET, crate::SockAddr::Inet(addr)) => IpAddr::V4(Ipv4Addr::from(addr.sin_addr)),
        (AF_INET6, crate::SockAddr::Inet6(addr)) => IpAddr::V6(Ipv6Addr::from(addr.sin6_addr)),
        _ => return Err(Errno::EADDRNOTAVAIL),
    };
    if group.is_multicast() { Ok((index, group)) } else { Err(Errno::EINVAL) }
}

pub(super) fn set_v6(ns: &NetNs, state: &mut State, name: u32, value: &[u8]) -> Result<(), Errno> {
    let joins = matches!(name, IPV6_ADD_MEMBERSHIP | MCAST_JOIN_GROUP);
    let (index, group) = if matches!(name, MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP) {
        group_req(value, AF_INET6)?
    } else {
        let (mreq, _) = Ipv6Mreq::read_from_prefix(value).map_err(|_| Errno::EINVAL)?;
        (mreq.ipv6mr_ifindex, IpAddr::V6(Ipv6Addr::from(mreq.ipv6mr_multiaddr)))
    };
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let index = interface(ns, index, Ipv4Addr::UNSPECIFIED);
    if joins { join(ns, state, group, index?, MAX_GROUPS6) } else { leave(ns, state, group, index.ok()) }
}

fn join(ns: &NetNs, state: &mut State, group: IpAddr, index: u32, limit: usize) -> Result<(), Errno> {
    if state.groups.iter().any(|own| own.group == group && own.index == index) {
        return Err(Errno::EADDRINUSE);
    }
    if state.groups.len() >= limit {
        return Err(Errno::ENOBUFS);
    }
    ns.stack.join(index, group)?;
    state.groups.push(Group { group, index, include: false, sources: Vec::new() });
    Ok(())
}

fn leave(ns: &NetNs, state: &mut State, group: IpAddr, index: Option<u32>) -> Result<(), Errno> {
    let matches = |own: &Group| own.group == group && index.is_none_or(|index| own.index == index);
    let at = state.groups.iter().position(matches).ok_or(Errno::EADDRNOTAVAIL)?;
    let own = state.groups.swap_remove(at);
    // The interface may be gone by now.
    let _ = ns.stack.leave(own.index, own.group);
    Ok(())
}
