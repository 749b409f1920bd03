//! Routes by ioctl, as route(8) makes them (ip_rt_ioctl(), ipv6_route_ioctl()).

use super::Request;
use super::addr::{ipv4, mask_len};
use chitin_abi::Errno;
use chitin_abi::ioctl::SIOCDELRT;
use chitin_abi::netdevice::*;
use chitin_abi::num::low32;
use chitin_abi::rtnetlink::*;
use chitin_netstack::Prefix;
use chitin_netstack::config::{NextHop, RouteEntry, RouteMode};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address in a `struct sockaddr`, whatever its family says (sk_extract_addr()).
fn extract(raw: &[u8; 16]) -> Ipv4Addr {
    let [_, _, _, _, a, b, c, d, ..] = *raw;
    Ipv4Addr::new(a, b, c, d)
}

/// What a request says of the route; a hop of no link says nothing of it (rtentry_to_fib_config()).
fn route4(request: &Request<'_>, rt: &RtEntry) -> Result<RouteEntry, Errno> {
    let rtf = u32::from(rt.rt_flags);
    let dst = ipv4(&rt.rt_dst).ok_or(Errno::EAFNOSUPPORT)?;
    let mut len = 32;
    if rtf & RTF_HOST == 0 {
        let mask = extract(&rt.rt_genmask);
        let none = rt.rt_genmask.first_chunk() == Some(&[0, 0]) && mask.is_unspecified();
        if ipv4(&rt.rt_genmask).is_none() && !none {
            return Err(Errno::EAFNOSUPPORT);
        }
        len = mask_len(mask).filter(|_| dst.to_bits() & !mask.to_bits() == 0).ok_or(Errno::EINVAL)?;
    }
    let dst = Prefix { addr: dst.into(), len };
    let mut route = RouteEntry::new(dst, 0);
    route.scope = RT_SCOPE_NOWHERE;
    if rt.rt_metric != 0 {
        route.metric = u32::try_from(i32::from(rt.rt_metric).wrapping_sub(1)).unwrap_or(0);
    }
    if rtf & RTF_REJECT != 0 {
        (route.kind, route.scope) = (RTN_UNREACHABLE, RT_SCOPE_HOST);
        return Ok(RouteEntry { hops: Vec::new(), ..route });
    }
    let config = &request.ns.stack.config;
    let mut hop = NextHop { link: 0, gateway: None, weight: 0, flags: 0 };
    if rt.rt_dev != 0 {
        let mut ifr = Ifreq::default();
        if let Some(room) = ifr.ifr_name.get_mut(..IFNAMSIZ - 1) {
            request.mm.read_bytes(rt.rt_dev, room)?;
        }
        let link = request.link(&ifr)?;
        hop.link = link.index;
        let name = super::label(&ifr);
        if name.contains(':') {
            let all = config.addresses();
            let labelled =
                |a: &&chitin_netstack::Address| a.link == link.index && a.label.as_deref() == Some(name);
            route.prefsrc = Some(all.iter().find(labelled).ok_or(Errno::ENODEV)?.addr);
        }
    }
    if let Some(gateway) = ipv4(&rt.rt_gateway).filter(|gateway| !gateway.is_unspecified()) {
        hop.gateway = Some(gateway.into());
        if rtf & RTF_GATEWAY != 0 && !config.is_local(gateway.into()) {
            route.scope = RT_SCOPE_UNIVERSE;
        }
    }
    if rtf & RTF_MTU != 0 {
        route.advmss = low32(rt.rt_mtu).saturating_sub(40);
    }
    route.hops = vec![hop];
    Ok(route)
}

pub(super) fn change4(request: &Request<'_>) -> Result<(), Errno> {
    let rt: RtEntry = request.mm.read(request.arg)?;
    request.administers()?;
    let mut route = route4(request, &rt)?;
    let config = &request.ns.stack.config;
    if request.cmd == SIOCDELRT {
        return config.route_del(RT_TABLE_MAIN, true, |known| {
            known.dst == route.dst
                && known.kind == route.kind
                && (route.scope == RT_SCOPE_NOWHERE || known.scope == route.scope)
                && (route.metric == 0 || known.metric == route.metric)
                && route.prefsrc.is_none_or(|src| known.prefsrc == Some(src))
                && fits(&route.hops, known)
        });
    }
    let gateway = route.hops.iter().any(|hop| hop.gateway.is_some());
    if u32::from(rt.rt_flags) & RTF_GATEWAY != 0 && !gateway && route.kind == RTN_UNICAST {
        return Err(Errno::EINVAL);
    }
    if route.scope == RT_SCOPE_NOWHERE {
        route.scope = RT_SCOPE_LINK;
    }
    config.route_add(route, RouteMode::Prepend)
}

/// Whether a route has the hop that was said, as far as it was.
fn fits(wanted: &[NextHop], known: &RouteEntry) -> bool {
    wanted.iter().all(|hop| {
        let one = |own: &NextHop| {
            (hop.link == 0 || own.link == hop.link)
                && hop.gateway.is_none_or(|gateway| own.gateway == Some(gateway))
        };
        (hop.link == 0 && hop.gateway.is_none()) || known.hops.iter().any(one)
    })
}

pub(super) fn change6(request: &Request<'_>) -> Result<(), Errno> {
    request.administers()?;
    let rt: In6Rtmsg = request.mm.read(request.arg)?;
    let dst = Prefix {
        addr: Ipv6Addr::from(rt.rtmsg_dst).into(),
        len: u8::try_from(rt.rtmsg_dst_len).ok().filter(|len| *len <= 128).ok_or(Errno::EINVAL)?,
    };
    let link = u32::try_from(rt.rtmsg_ifindex).map_err(|_| Errno::ENODEV)?;
    let gateway = Ipv6Addr::from(rt.rtmsg_gateway);
    let gateway = (rt.rtmsg_flags & RTF_GATEWAY != 0).then_some(IpAddr::V6(gateway));
    let mut route = RouteEntry { metric: rt.rtmsg_metric, ..RouteEntry::new(dst, 0) };
    route.hops = vec![NextHop { link, gateway, weight: 0, flags: 0 }];
    if rt.rtmsg_flags & RTF_REJECT != 0 {
        route.kind = RTN_UNREACHABLE;
    }
    let config = &request.ns.stack.config;
    if request.cmd == SIOCDELRT {
        return config.route_del(RT_TABLE_MAIN, false, |known| {
            known.dst == Prefix::of(dst.addr, dst.len)
                && (route.metric == 0 || known.metric == route.metric)
                && fits(&route.hops, known)
        });
    }
    config.route_add(RouteEntry { dst: Prefix::of(dst.addr, dst.len), ..route }, RouteMode::New)
}
