//! Routes: RTM_*ROUTE.

use super::{Request, family, family_of, v4_of};
use crate::netlink::message::{Attrs, Message, align, ip, split};
use chitin_abi::Errno;
use chitin_abi::netlink::*;
use chitin_abi::num::low8;
use chitin_abi::rtnetlink::*;
use chitin_netstack::Prefix;
use chitin_netstack::config::{NextHop, RouteEntry, RouteMode};
use std::net::IpAddr;
use zerocopy::{FromBytes, IntoBytes};

/// A table's number in the head, which has room for small ones.
fn short(table: u32) -> u8 {
    if table < 256 { low8(table) } else { low8(RT_TABLE_COMPAT) }
}

fn metrics(message: Message, route: &RouteEntry) -> Message {
    let all = [(RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss), (RTAX_HOPLIMIT, route.hoplimit)];
    if all.iter().all(|(_, value)| *value == 0) {
        return message;
    }
    message.nest(RTA_METRICS, |message| {
        all.iter().filter(|(_, value)| *value != 0).fold(message, |m, (kind, value)| m.u32(*kind, *value))
    })
}

pub(super) fn show(head: Message, route: &RouteEntry) -> Vec<u8> {
    let one = match route.hops.as_slice() {
        [hop] => Some(hop),
        _ => None,
    };
    let info = RtMsg {
        rtm_family: family_of(&route.dst.addr),
        rtm_dst_len: route.dst.len,
        rtm_tos: route.tos,
        rtm_table: short(route.table),
        rtm_protocol: route.protocol,
        rtm_scope: route.scope,
        rtm_type: route.kind,
        rtm_flags: one.map_or(0, |hop| hop.flags),
        ..RtMsg::default()
    };
    let message = head.body(&info).u32(RTA_TABLE, route.table);
    let message = if route.dst.len > 0 { message.ip(RTA_DST, &route.dst.addr) } else { message };
    let message = message
        .maybe(Some(route.metric).filter(|metric| *metric != 0), |m, metric| m.u32(RTA_PRIORITY, metric))
        .maybe(route.prefsrc, |message, src| message.ip(RTA_PREFSRC, &src));
    let message = metrics(message, route);
    let v4 = route.dst.addr.is_ipv4();
    let message = match one {
        Some(hop) => hop_attrs(message, hop, v4).u32(RTA_OIF, hop.link),
        None if route.hops.is_empty() => message,
        None => {
            let all: Vec<u8> = route.hops.iter().flat_map(|hop| next_hop(hop, v4)).collect();
            message.attr(RTA_MULTIPATH, &all)
        }
    };
    // IPv6 tells these always.
    let message = if v4 { message } else { message.attr(RTA_CACHEINFO, &[0; 32]).u8(RTA_PREF, 0) };
    message.finish()
}

fn hop_attrs(message: Message, hop: &NextHop, v4: bool) -> Message {
    match hop.gateway {
        None => message,
        Some(gateway) if gateway.is_ipv4() == v4 => message.ip(RTA_GATEWAY, &gateway),
        Some(gateway) => {
            let mut raw = u16::from(family_of(&gateway)).to_ne_bytes().to_vec();
            match gateway {
                IpAddr::V4(addr) => raw.extend_from_slice(&addr.octets()),
                IpAddr::V6(addr) => raw.extend_from_slice(&addr.octets()),
            }
            message.attr(RTA_VIA, &raw)
        }
    }
}

fn next_hop(hop: &NextHop, v4: bool) -> Vec<u8> {
    let attrs = Message::part(|message| hop_attrs(message, hop, v4));
    let len = size_of::<RtNextHop>().saturating_add(attrs.len());
    let head = RtNextHop {
        rtnh_len: u16::try_from(len).unwrap_or(0),
        rtnh_flags: low8(hop.flags),
        rtnh_hops: hop.weight,
        rtnh_ifindex: hop.link.cast_signed(),
    };
    [head.as_bytes(), &attrs].concat()
}

/// Old programs filter by themselves; who asks strictly is given what was asked for.
pub(super) fn dump(request: &Request<'_>, v4: Option<bool>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut routes = request.ns.stack().config.routes();
    routes.retain(|route| v4.is_none_or(|v4| v4 == route.dst.addr.is_ipv4()));
    let mut flags = NLM_F_MULTI;
    if request.body.len() >= size_of::<RtMsg>() {
        let (info, attrs) = split::<RtMsg>(request.body)?;
        // Of a cache of routes, which there is none of.
        if info.rtm_flags & RTM_F_CLONED != 0 {
            return Ok(Vec::new());
        }
        if request.strict() {
            let table = attrs.u32(RTA_TABLE)?.unwrap_or(u32::from(info.rtm_table));
            let oif = attrs.u32(RTA_OIF)?.unwrap_or(0);
            let (protocol, kind) = (info.rtm_protocol, info.rtm_type);
            routes.retain(|route| {
                (table == 0 || route.table == table)
                    && (oif == 0 || route.uses(oif))
                    && (protocol == 0 || route.protocol == protocol)
                    && (kind == 0 || route.kind == kind)
            });
            if (table, oif, protocol, kind) != (0, 0, 0, 0) {
                flags |= NLM_F_DUMP_FILTERED;
            }
        }
    }
    Ok(routes.iter().map(|route| show(request.message(RTM_NEWROUTE, flags), route)).collect())
}

/// The route that a packet would take (`ip route get`).
pub(super) fn get(request: &Request<'_>) -> Result<Vec<u8>, Errno> {
    let (info, attrs) = split::<RtMsg>(request.body)?;
    let v4 = v4_of(info.rtm_family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let dst = attrs.ip(RTA_DST, v4)?.unwrap_or(Prefix::any(v4).addr);
    let (src, oif) = (attrs.ip(RTA_SRC, v4)?, attrs.u32(RTA_OIF)?.unwrap_or(0));
    let found = request.ns.stack().config.route(dst, src, oif, attrs.u32(RTA_MARK)?.unwrap_or(0))?;
    let local = found.is_local();
    let answer = RtMsg {
        rtm_family: family(v4),
        rtm_dst_len: Prefix::host(dst).len,
        rtm_table: short(if local { RT_TABLE_LOCAL } else { RT_TABLE_MAIN }),
        rtm_protocol: RTPROT_UNSPEC,
        rtm_type: found.kind,
        rtm_flags: RTM_F_CLONED,
        ..RtMsg::default()
    };
    let table = if local { RT_TABLE_LOCAL } else { RT_TABLE_MAIN };
    let message =
        request.message(RTM_NEWROUTE, 0).body(&answer).u32(RTA_TABLE, table).ip(RTA_DST, &found.dst);
    Ok(message
        .maybe(src, |message, src| message.ip(RTA_SRC, &src))
        .maybe(found.gateway, |message, gateway| message.ip(RTA_GATEWAY, &gateway))
        .u32(RTA_OIF, found.link)
        .ip(RTA_PREFSRC, &src.unwrap_or(found.src))
        .u32(RTA_UID, 0)
        .attr(RTA_CACHEINFO, &[0; 32])
        .finish())
}

fn via(raw: &[u8]) -> Result<IpAddr, Errno> {
    let (family, rest) = raw.split_first_chunk::<2>().ok_or(Errno::EINVAL)?;
    let v4 = v4_of(low8(u32::from(u16::from_ne_bytes(*family))))?.ok_or(Errno::EINVAL)?;
    ip(rest, v4)
}

fn gateway(attrs: &Attrs<'_>, v4: bool) -> Result<Option<IpAddr>, Errno> {
    match attrs.get(RTA_VIA) {
        Some(raw) => via(raw).map(Some),
        None => attrs.ip(RTA_GATEWAY, v4).map(|gateway| gateway.filter(|addr| !addr.is_unspecified())),
    }
}

fn hops(mut raw: &[u8], v4: bool) -> Result<Vec<NextHop>, Errno> {
    let mut all = Vec::new();
    while !raw.is_empty() {
        let (head, _) = RtNextHop::read_from_prefix(raw).map_err(|_| Errno::EINVAL)?;
        let len = usize::from(head.rtnh_len);
        let attrs = raw.get(size_of::<RtNextHop>()..len).ok_or(Errno::EINVAL)?;
        all.push(NextHop {
            link: u32::try_from(head.rtnh_ifindex).map_err(|_| Errno::ENODEV)?,
            gateway: gateway(&Attrs::read(attrs), v4)?,
            weight: head.rtnh_hops,
            flags: u32::from(head.rtnh_flags),
        });
        raw = raw.get(align(len)..).unwrap_or_default();
    }
    Ok(all)
}

/// What a request says of a route.
fn route_of(info: &RtMsg, attrs: &Attrs<'_>, v4: bool) -> Result<RouteEntry, Errno> {
    let dst = Prefix { addr: attrs.ip(RTA_DST, v4)?.unwrap_or(Prefix::any(v4).addr), len: info.rtm_dst_len };
    if dst.len > Prefix::host(dst.addr).len {
        return Err(Errno::EINVAL);
    }
    let mut route = RouteEntry {
        kind: info.rtm_type,
        scope: info.rtm_scope,
        protocol: info.rtm_protocol,
        tos: info.rtm_tos,
        ..RouteEntry::new(dst, attrs.u32(RTA_OIF)?.unwrap_or(0))
    };
    route.table = attrs.u32(RTA_TABLE)?.unwrap_or(u32::from(info.rtm_table));
    route.metric = attrs.u32(RTA_PRIORITY)?.unwrap_or(0);
    route.prefsrc = attrs.ip(RTA_PREFSRC, v4)?.filter(|src| !src.is_unspecified());
    if let Some(hop) = route.hops.first_mut() {
        hop.gateway = gateway(attrs, v4)?;
        hop.flags = info.rtm_flags & RTNH_F_ONLINK;
    }
    if let Some(raw) = attrs.get(RTA_MULTIPATH) {
        route.hops = hops(raw, v4)?;
    }
    if let Some(raw) = attrs.get(RTA_METRICS) {
        let metrics = Attrs::read(raw);
        route.mtu = metrics.u32(RTAX_MTU)?.unwrap_or(0);
        route.advmss = metrics.u32(RTAX_ADVMSS)?.unwrap_or(0);
        route.hoplimit = metrics.u32(RTAX_HOPLIMIT)?.unwrap_or(0);
    }
    Ok(route)
}

pub(super) fn add(request: &Request<'_>) -> Result<(), Errno> {
    let (info, attrs) = split::<RtMsg>(request.body)?;
    let v4 = v4_of(info.rtm_family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let mut route = route_of(&info, &attrs, v4)?;
    if route.kind == RTN_UNSPEC && !v4 {
        route.kind = RTN_UNICAST;
    }
    let has = |flag| request.has(flag);
    let mode = match (has(NLM_F_CREATE), has(NLM_F_REPLACE), has(NLM_F_EXCL), has(NLM_F_APPEND)) {
        (true, true, ..) => RouteMode::Replace,
        (_, _, true, _) => RouteMode::New,
        (true, _, _, true) => RouteMode::Append,
        (true, ..) => RouteMode::Prepend,
        (false, ..) => RouteMode::Change,
    };
    request.ns.stack().config.route_add(route, mode)
}

/// What is not said of the route fits any.
pub(super) fn del(request: &Request<'_>) -> Result<(), Errno> {
    let (info, attrs) = split::<RtMsg>(request.body)?;
    let v4 = v4_of(info.rtm_family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let wanted = route_of(&info, &attrs, v4)?;
    request.ns.stack().config.route_del(wanted.table, v4, |route| {
        route.dst == wanted.dst
            && (wanted.tos == 0 || route.tos == wanted.tos)
            && (wanted.kind == RTN_UNSPEC || route.kind == wanted.kind)
            && (info.rtm_scope == RT_SCOPE_NOWHERE || !v4 || route.scope == info.rtm_scope)
            && (wanted.protocol == RTPROT_UNSPEC || route.protocol == wanted.protocol)
            && (wanted.metric == 0 || route.metric == wanted.metric)
            && wanted.prefsrc.is_none_or(|src| route.prefsrc == Some(src))
            && wanted.hops.iter().all(|hop| {
                let fits = |known: &NextHop| {
                    (hop.link == 0 || known.link == hop.link)
                        && hop.gateway.is_none_or(|gateway| known.gateway == Some(gateway))
                };
                (hop.link == 0 && hop.gateway.is_none()) || route.hops.iter().any(fits)
            })
    })
}
