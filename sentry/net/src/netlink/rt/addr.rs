//! Addresses: RTM_*ADDR.

use super::{Request, family_of, v4_of};
use crate::netlink::message::{Attrs, Message, split};
use chitin_abi::Errno;
use chitin_abi::netlink::*;
use chitin_abi::num::low8;
use chitin_abi::rtnetlink::*;
use chitin_netstack::config::Address;
use std::net::IpAddr;

pub(super) fn show(head: Message, address: &Address) -> Vec<u8> {
    let info = IfAddrMsg {
        ifa_family: family_of(&address.addr),
        ifa_prefixlen: address.prefix,
        ifa_flags: low8(address.flags),
        ifa_scope: address.scope,
        ifa_index: address.link,
    };
    let times =
        IfaCacheInfo { ifa_prefered: address.preferred, ifa_valid: address.valid, ..IfaCacheInfo::default() };
    let message = head.body(&info);
    // IPv6 has IFA_LOCAL only where there is another end.
    let message = match (&address.addr, &address.peer) {
        (own, Some(peer)) => message.ip(IFA_ADDRESS, peer).ip(IFA_LOCAL, own),
        (own @ IpAddr::V4(_), None) => message.ip(IFA_ADDRESS, own).ip(IFA_LOCAL, own),
        (own @ IpAddr::V6(_), None) => message.ip(IFA_ADDRESS, own),
    };
    message
        .maybe(address.broadcast, |message, cast| message.attr(IFA_BROADCAST, &cast.octets()))
        .maybe(address.label.as_deref(), |message, label| message.text(IFA_LABEL, label))
        .u32(IFA_FLAGS, address.flags)
        .maybe(Some(address.metric).filter(|metric| *metric != 0), |m, metric| m.u32(IFA_RT_PRIORITY, metric))
        .maybe(Some(address.proto).filter(|proto| *proto != 0), |message, proto| message.u8(IFA_PROTO, proto))
        .bytes(&Message::part(|m| m.attr(IFA_CACHEINFO, zerocopy::IntoBytes::as_bytes(&times))))
        .finish()
}

/// By interface as Linux lists them, IPv4's first.
pub(super) fn dump(request: &Request<'_>, v4: Option<bool>) -> Result<Vec<Vec<u8>>, Errno> {
    let only = match request.strict() {
        true => split::<IfAddrMsg>(request.body)?.0.ifa_index,
        false => 0,
    };
    let mut all = request.ns.stack().config.addresses();
    all.retain(|a| v4.is_none_or(|v4| v4 == a.addr.is_ipv4()) && (only == 0 || only == a.link));
    all.sort_by_key(|a| (a.addr.is_ipv6(), a.link));
    let flags = if only == 0 { NLM_F_MULTI } else { NLM_F_MULTI | NLM_F_DUMP_FILTERED };
    Ok(all.iter().map(|a| show(request.message(RTM_NEWADDR, flags), a)).collect())
}

/// The address of a request: the own one, and the other end.
fn addresses(attrs: &Attrs<'_>, v4: bool) -> Result<(IpAddr, Option<IpAddr>), Errno> {
    let (local, other) = (attrs.ip(IFA_LOCAL, v4)?, attrs.ip(IFA_ADDRESS, v4)?);
    let own = local.or(other).ok_or(Errno::EINVAL)?;
    Ok((own, other.filter(|other| *other != own)))
}

/// IPv6's alone on Linux; here of both.
pub(super) fn get(request: &Request<'_>) -> Result<Vec<u8>, Errno> {
    let (info, attrs) = split::<IfAddrMsg>(request.body)?;
    let v4 = v4_of(info.ifa_family)?.ok_or(Errno::EOPNOTSUPP)?;
    let (own, _) = addresses(&attrs, v4)?;
    let all = request.ns.stack().config.addresses();
    let fits = |a: &&Address| a.addr == own && (info.ifa_index == 0 || a.link == info.ifa_index);
    let found = all.iter().find(fits).ok_or(Errno::EADDRNOTAVAIL)?;
    Ok(show(request.message(RTM_NEWADDR, 0), found))
}

pub(super) fn add(request: &Request<'_>) -> Result<(), Errno> {
    let (info, attrs) = split::<IfAddrMsg>(request.body)?;
    let v4 = v4_of(info.ifa_family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let config = &request.ns.stack().config;
    let link = config.link(info.ifa_index).ok_or(Errno::ENODEV)?;
    let (own, peer) = addresses(&attrs, v4)?;
    let flags = attrs.u32(IFA_FLAGS)?.unwrap_or(u32::from(info.ifa_flags));
    let mut address = Address::new(link.index, own, info.ifa_prefixlen);
    // What is too long is seen by the check.
    address.prefix = info.ifa_prefixlen;
    address.peer = peer;
    address.flags = flags | IFA_F_PERMANENT;
    if v4 {
        address.scope = info.ifa_scope;
        address.label = Some(attrs.name(IFA_LABEL)?.unwrap_or_else(|| link.name.clone()));
        if let Some(IpAddr::V4(cast)) = attrs.ip(IFA_BROADCAST, true)? {
            address.broadcast = Some(cast);
        }
    }
    if let Some(raw) = attrs.get(IFA_CACHEINFO) {
        let (times, _) = split::<IfaCacheInfo>(raw)?;
        if times.ifa_valid == 0 || times.ifa_prefered > times.ifa_valid {
            return Err(Errno::EINVAL);
        }
        (address.valid, address.preferred) = (times.ifa_valid, times.ifa_prefered);
        if times.ifa_valid != u32::MAX {
            address.flags &= !IFA_F_PERMANENT;
        }
    }
    address.metric = attrs.u32(IFA_RT_PRIORITY)?.unwrap_or(0);
    address.proto = attrs.u8(IFA_PROTO)?.unwrap_or(0);
    config.addr_add(address, request.has(NLM_F_REPLACE) && !request.has(NLM_F_EXCL))
}

pub(super) fn del(request: &Request<'_>) -> Result<(), Errno> {
    let (info, attrs) = split::<IfAddrMsg>(request.body)?;
    let v4 = v4_of(info.ifa_family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let (own, _) = addresses(&attrs, v4)?;
    request.ns.stack().config.addr_del(info.ifa_index, own, info.ifa_prefixlen)
}
