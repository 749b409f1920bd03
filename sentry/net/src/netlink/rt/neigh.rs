//! Neighbours: RTM_*NEIGH.

use super::{Request, family_of, v4_of};
use crate::netlink::message::{Message, split};
use chitin_abi::Errno;
use chitin_abi::netlink::*;
use chitin_abi::rtnetlink::*;
use chitin_netstack::config::{Neighbour, Proxy};
use std::net::IpAddr;
use zerocopy::IntoBytes;

/// `now` in the stack's nanoseconds; times are told as hundredths of seconds ago.
pub(super) fn show(head: Message, neighbour: &Neighbour, now: u64) -> Vec<u8> {
    let info = NdMsg {
        ndm_family: family_of(&neighbour.addr),
        ndm_ifindex: neighbour.link.cast_signed(),
        ndm_state: neighbour.state,
        ndm_flags: neighbour.flags,
        ndm_type: RTN_UNICAST,
        ..NdMsg::default()
    };
    let ago = |then: u64| u32::try_from(now.saturating_sub(then) / 10_000_000).unwrap_or(u32::MAX);
    let times = NdaCacheInfo {
        ndm_confirmed: ago(neighbour.confirmed),
        ndm_used: ago(neighbour.used),
        ndm_updated: ago(neighbour.updated),
        ndm_refcnt: 0,
    };
    head.body(&info)
        .ip(NDA_DST, &neighbour.addr)
        .maybe(neighbour.hw_addr, |message, addr| message.attr(NDA_LLADDR, &addr))
        .attr(NDA_CACHEINFO, times.as_bytes())
        .finish()
}

/// pneigh_fill_info()
fn show_proxy(head: Message, proxy: &Proxy) -> Vec<u8> {
    let info = NdMsg {
        ndm_family: family_of(&proxy.addr),
        ndm_ifindex: proxy.link.cast_signed(),
        ndm_flags: proxy.flags | NTF_PROXY,
        ndm_type: RTN_UNICAST,
        ..NdMsg::default()
    };
    let known = Some(proxy.protocol).filter(|protocol| *protocol != 0);
    head.body(&info)
        .ip(NDA_DST, &proxy.addr)
        .maybe(known, |message, protocol| message.u8(NDA_PROTOCOL, protocol))
        .finish()
}

pub(super) fn dump(request: &Request<'_>, v4: Option<bool>) -> Result<Vec<Vec<u8>>, Errno> {
    let stack = request.ns.stack();
    let now = stack.env().now();
    let (mut wanted, mut proxies) = (0, false);
    if request.body.len() >= size_of::<NdMsg>() {
        let (info, _) = split::<NdMsg>(request.body)?;
        wanted = u32::try_from(info.ndm_ifindex).unwrap_or(0);
        proxies = info.ndm_flags == NTF_PROXY;
    }
    let meant = |link: u32, addr: &IpAddr| {
        (wanted == 0 || link == wanted) && v4.is_none_or(|v4| v4 == addr.is_ipv4())
    };
    if proxies {
        let all = stack.proxies().into_iter().filter(|proxy| meant(proxy.link, &proxy.addr));
        return Ok(all.map(|proxy| show_proxy(request.message(RTM_NEWNEIGH, NLM_F_MULTI), &proxy)).collect());
    }
    let mut all = stack.neighbours();
    all.retain(|n| meant(n.link, &n.addr));
    Ok(all.iter().map(|n| show(request.message(RTM_NEWNEIGH, NLM_F_MULTI), n, now)).collect())
}

/// The neighbour that a request means, as it would be made.
fn wanted(request: &Request<'_>) -> Result<Neighbour, Errno> {
    let (info, attrs) = split::<NdMsg>(request.body)?;
    let v4 = v4_of(info.ndm_family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let hw_addr = match attrs.get(NDA_LLADDR) {
        Some(raw) => Some(raw.try_into().map_err(|_| Errno::EINVAL)?),
        None => None,
    };
    Ok(Neighbour {
        link: u32::try_from(info.ndm_ifindex).ok().filter(|index| *index != 0).ok_or(Errno::EINVAL)?,
        addr: attrs.ip(NDA_DST, v4)?.ok_or(Errno::EINVAL)?,
        hw_addr,
        state: info.ndm_state,
        flags: info.ndm_flags,
        confirmed: 0,
        used: 0,
        updated: 0,
    })
}

fn find(request: &Request<'_>, wanted: &Neighbour) -> Option<Neighbour> {
    let mut all = request.ns.stack().neighbours().into_iter();
    all.find(|n| n.link == wanted.link && n.addr == wanted.addr)
}

/// The proxy that a request means, if it means one; the link may be left open.
fn wanted_proxy(request: &Request<'_>) -> Result<Option<Proxy>, Errno> {
    let (info, attrs) = split::<NdMsg>(request.body)?;
    if info.ndm_flags & NTF_PROXY == 0 {
        return Ok(None);
    }
    let v4 = v4_of(info.ndm_family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let link = u32::try_from(info.ndm_ifindex).map_err(|_| Errno::ENODEV)?;
    if link != 0 && request.ns.stack().config.link(link).is_none() {
        return Err(Errno::ENODEV);
    }
    Ok(Some(Proxy {
        link,
        addr: attrs.ip(NDA_DST, v4)?.ok_or(Errno::EINVAL)?,
        flags: info.ndm_flags,
        protocol: attrs.get(NDA_PROTOCOL).and_then(|raw| raw.first().copied()).unwrap_or(0),
    }))
}

pub(super) fn get(request: &Request<'_>) -> Result<Vec<u8>, Errno> {
    if let Some(wanted) = wanted_proxy(request)? {
        let found = request.ns.stack().proxy(wanted.link, wanted.addr).ok_or(Errno::ENOENT)?;
        return Ok(show_proxy(request.message(RTM_NEWNEIGH, 0), &found));
    }
    let found = find(request, &wanted(request)?).ok_or(Errno::ENOENT)?;
    Ok(show(request.message(RTM_NEWNEIGH, 0), &found, request.ns.stack().env().now()))
}

pub(super) fn set(request: &Request<'_>) -> Result<(), Errno> {
    if let Some(wanted) = wanted_proxy(request)? {
        return request.ns.stack().proxy_set(wanted);
    }
    let mut wanted = wanted(request)?;
    match find(request, &wanted) {
        Some(_) if request.has(NLM_F_EXCL) => return Err(Errno::EEXIST),
        None if !request.has(NLM_F_CREATE) => return Err(Errno::ENOENT),
        _ => {}
    }
    if wanted.state == NUD_NONE {
        wanted.state = NUD_PERMANENT;
    }
    request.ns.stack().neighbour_set(&wanted)
}

pub(super) fn del(request: &Request<'_>) -> Result<(), Errno> {
    if let Some(wanted) = wanted_proxy(request)? {
        return request.ns.stack().proxy_del(wanted.link, wanted.addr);
    }
    let wanted = wanted(request)?;
    request.ns.stack().neighbour_del(wanted.link, wanted.addr)
}
