//! Rules: RTM_*RULE.

use super::{Request, family, v4_of};
use crate::netlink::message::{Attrs, Message, split};
use chitin_abi::Errno;
use chitin_abi::netlink::*;
use chitin_abi::num::low8;
use chitin_abi::rtnetlink::*;
use chitin_netstack::Prefix;
use chitin_netstack::config::Rule;

pub(super) fn show(head: Message, rule: &Rule) -> Vec<u8> {
    let len = |prefix: &Option<Prefix>| prefix.as_ref().map_or(0, |prefix| prefix.len);
    let permanent = if rule.priority == 0 { FIB_RULE_PERMANENT } else { 0 };
    let info = FibRuleHdr {
        family: family(rule.v4),
        dst_len: len(&rule.dst),
        src_len: len(&rule.src),
        table: if rule.table < 256 { low8(rule.table) } else { low8(RT_TABLE_COMPAT) },
        action: rule.action,
        flags: permanent | if rule.invert { FIB_RULE_INVERT } else { 0 },
        ..FibRuleHdr::default()
    };
    head.body(&info)
        .u32(FRA_TABLE, rule.table)
        .u32(FRA_SUPPRESS_PREFIXLEN, u32::MAX)
        .u8(FRA_PROTOCOL, rule.protocol)
        .maybe(Some(rule.priority).filter(|priority| *priority != 0), |m, n| m.u32(FRA_PRIORITY, n))
        .maybe(rule.dst, |message, prefix| message.ip(FRA_DST, &prefix.addr))
        .maybe(rule.src, |message, prefix| message.ip(FRA_SRC, &prefix.addr))
        .maybe(rule.mark, |message, (mark, mask)| message.u32(FRA_FWMARK, mark).u32(FRA_FWMASK, mask))
        .maybe(rule.iif.as_deref(), |message, name| message.text(FRA_IIFNAME, name))
        .maybe(rule.oif.as_ref(), |message, (name, _)| message.text(FRA_OIFNAME, name))
        .finish()
}

pub(super) fn dump(request: &Request<'_>, v4: Option<bool>) -> Vec<Vec<u8>> {
    let mut rules = request.ns.stack().config.rules();
    rules.retain(|rule| v4.is_none_or(|v4| v4 == rule.v4));
    // One family after the other.
    rules.sort_by_key(|rule| (!rule.v4, rule.priority));
    rules.iter().map(|rule| show(request.message(RTM_NEWRULE, NLM_F_MULTI), rule)).collect()
}

fn prefix(attrs: &Attrs<'_>, kind: u16, len: u8, v4: bool) -> Result<Option<Prefix>, Errno> {
    match attrs.ip(kind, v4)? {
        None if len != 0 => Err(Errno::EINVAL),
        None => Ok(None),
        Some(addr) if len > Prefix::host(addr).len => Err(Errno::EINVAL),
        Some(addr) => Ok(Some(Prefix::of(addr, len))),
    }
}

fn wanted(request: &Request<'_>) -> Result<Rule, Errno> {
    let (info, attrs) = split::<FibRuleHdr>(request.body)?;
    let v4 = v4_of(info.family)?.ok_or(Errno::EAFNOSUPPORT)?;
    let config = &request.ns.stack().config;
    let oif = attrs.name(FRA_OIFNAME)?;
    let oif = oif.map(|name| {
        let index = config.link_by_name(&name).map_or(0, |link| link.index);
        (name, index)
    });
    let mark = attrs.u32(FRA_FWMARK)?;
    let mask = attrs.u32(FRA_FWMASK)?;
    Ok(Rule {
        src: prefix(&attrs, FRA_SRC, info.src_len, v4)?,
        dst: prefix(&attrs, FRA_DST, info.dst_len, v4)?,
        mark: mark.map(|mark| (mark, mask.unwrap_or(u32::MAX))),
        iif: attrs.name(FRA_IIFNAME)?,
        oif,
        invert: info.flags & FIB_RULE_INVERT != 0,
        action: info.action,
        protocol: attrs.u8(FRA_PROTOCOL)?.unwrap_or(RTPROT_UNSPEC),
        ..Rule::table(
            v4,
            attrs.u32(FRA_PRIORITY)?.unwrap_or(0),
            attrs.u32(FRA_TABLE)?.unwrap_or(u32::from(info.table)),
        )
    })
}

pub(super) fn add(request: &Request<'_>) -> Result<(), Errno> {
    let mut rule = wanted(request)?;
    if rule.action == FR_ACT_TO_TBL && rule.table == RT_TABLE_UNSPEC {
        return Err(Errno::EINVAL);
    }
    if !matches!(rule.action, FR_ACT_TO_TBL | FR_ACT_BLACKHOLE | FR_ACT_UNREACHABLE | FR_ACT_PROHIBIT) {
        return Err(Errno::EOPNOTSUPP);
    }
    let config = &request.ns.stack().config;
    if rule.priority == 0 {
        // Before the first one that is not the local table's.
        let later = config.rules().into_iter().filter(|r| r.v4 == rule.v4 && r.priority > 0);
        rule.priority = later.map(|r| r.priority).min().map_or(32765, |first| first.saturating_sub(1));
    }
    config.rule_add(rule)
}

pub(super) fn del(request: &Request<'_>) -> Result<(), Errno> {
    let rule = wanted(request)?;
    request.ns.stack().config.rule_del(|known| {
        known.v4 == rule.v4
            && (rule.priority == 0 || known.priority == rule.priority)
            && (rule.action == FR_ACT_UNSPEC || known.action == rule.action)
            && (rule.table == RT_TABLE_UNSPEC || known.table == rule.table)
            && rule.src.is_none_or(|src| known.src == Some(src))
            && rule.dst.is_none_or(|dst| known.dst == Some(dst))
            && rule.mark.is_none_or(|mark| known.mark == Some(mark))
            && rule.iif.as_ref().is_none_or(|name| known.iif.as_ref() == Some(name))
            && rule.oif.as_ref().is_none_or(|name| known.oif.as_ref() == Some(name))
    })
}
