//! Links: RTM_*LINK.

use super::Request;
use crate::netlink::message::{Attrs, Message, split};
use chitin_abi::Errno;
use chitin_abi::netdevice::*;
use chitin_abi::netlink::*;
use chitin_netstack::config::{Link, LinkChange, LinkKind, LinkStats};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::IntoBytes;

/// ALTIFNAMSIZ without its zero.
const ALT_NAME: usize = 127;

/// `struct rtnl_link_stats64`, of which this kernel counts some.
fn stats(stats: &LinkStats) -> [u64; 25] {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut all = [0; 25];
    let known = [
        count(&stats.rx_packets),
        count(&stats.tx_packets),
        count(&stats.rx_bytes),
        count(&stats.tx_bytes),
        count(&stats.rx_errors),
        count(&stats.tx_errors),
        count(&stats.rx_dropped),
        count(&stats.tx_dropped),
        count(&stats.rx_multicast),
    ];
    all.iter_mut().zip(known).for_each(|(to, from)| *to = from);
    all
}

pub(super) fn show(head: Message, link: &Link) -> Vec<u8> {
    let info = IfInfoMsg {
        ifi_type: link.hw_type,
        ifi_index: link.index.cast_signed(),
        ifi_flags: link.flags,
        ..IfInfoMsg::default()
    };
    let counters = stats(&link.stats);
    // The older form has the same counters in 32 bits.
    let old: Vec<u32> = counters.iter().take(24).map(|n| chitin_abi::num::low32(*n)).collect();
    let message = head
        .body(&info)
        .text(IFLA_IFNAME, &link.name)
        .u32(IFLA_TXQLEN, link.tx_queue_len)
        .u8(IFLA_OPERSTATE, link.operstate())
        .u8(IFLA_LINKMODE, 0)
        .u32(IFLA_MTU, link.mtu)
        .u32(IFLA_MIN_MTU, link.min_mtu())
        .u32(IFLA_MAX_MTU, link.max_mtu)
        .u32(IFLA_GROUP, link.group)
        .u32(IFLA_PROMISCUITY, u32::from(link.flags & IFF_PROMISC != 0))
        .u32(IFLA_NUM_TX_QUEUES, 1)
        .u32(IFLA_NUM_RX_QUEUES, 1)
        .u8(IFLA_CARRIER, u8::from(link.is_up()))
        .text(IFLA_QDISC, "noqueue")
        .u8(IFLA_PROTO_DOWN, 0)
        .attr(IFLA_MAP, &[0; 32]);
    let message = if matches!(link.kind, LinkKind::Tun) {
        message
    } else {
        message.attr(IFLA_ADDRESS, &link.hw_addr).attr(IFLA_BROADCAST, &link.broadcast)
    };
    message
        .attr(IFLA_STATS64, counters.as_bytes())
        .attr(IFLA_STATS, old.as_bytes())
        .maybe(link.peer, |message, peer| message.u32(IFLA_LINK, peer).u32(IFLA_LINK_NETNSID, 0))
        .maybe(link.kind.name(), |message, name| {
            message.nest(IFLA_LINKINFO, |message| message.text(IFLA_INFO_KIND, name))
        })
        .finish()
}

pub(super) fn dump(request: &Request<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let links = request.ns.stack().config.links();
    Ok(links.iter().map(|link| show(request.message(RTM_NEWLINK, NLM_F_MULTI), link)).collect())
}

/// The link that a request means, by number or by name.
fn find(request: &Request<'_>, info: &IfInfoMsg, attrs: &Attrs<'_>) -> Result<Link, Errno> {
    let config = &request.ns.stack().config;
    if info.ifi_index != 0 {
        let index = u32::try_from(info.ifi_index).map_err(|_| Errno::EINVAL)?;
        return config.link(index).ok_or(Errno::ENODEV);
    }
    let name = match attrs.name(IFLA_IFNAME)? {
        Some(name) => Some(name),
        None => attrs.text(IFLA_ALT_IFNAME, ALT_NAME)?,
    };
    config.link_by_name(&name.ok_or(Errno::EINVAL)?).ok_or(Errno::ENODEV)
}

pub(super) fn get(request: &Request<'_>) -> Result<Vec<u8>, Errno> {
    let (info, attrs) = split::<IfInfoMsg>(request.body)?;
    let link = find(request, &info, &attrs)?;
    Ok(show(request.message(RTM_NEWLINK, 0), &link))
}

/// RTM_SETLINK, and RTM_NEWLINK of a link that is there; a new one can be a dummy.
pub(super) fn set(request: &Request<'_>, new: bool) -> Result<(), Errno> {
    let (info, attrs) = split::<IfInfoMsg>(request.body)?;
    let config = &request.ns.stack().config;
    // Moving links between namespaces.
    if attrs.get(IFLA_NET_NS_PID).is_some() || attrs.get(IFLA_NET_NS_FD).is_some() {
        return Err(Errno::EOPNOTSUPP);
    }
    let hw_addr = match attrs.get(IFLA_ADDRESS) {
        Some(raw) => Some(raw.try_into().map_err(|_| Errno::EINVAL)?),
        None => None,
    };
    let found = match find(request, &info, &attrs) {
        Err(Errno::ENODEV) if new && request.has(NLM_F_CREATE) => None,
        Err(Errno::EINVAL) if new && request.has(NLM_F_CREATE) && info.ifi_index == 0 => None,
        // As ip(8) finds out whether links can be made at all.
        Err(Errno::EINVAL) if new && info.ifi_index == 0 && attrs.get(IFLA_IFNAME).is_none() => {
            return Err(Errno::ENODEV);
        }
        Err(error) => return Err(error),
        Ok(link) if new && request.has(NLM_F_EXCL) => {
            drop(link);
            return Err(Errno::EEXIST);
        }
        Ok(link) => Some(link),
    };
    let mut change = LinkChange {
        // All flags where nothing is said, as old programs have it.
        flags: (if info.ifi_change == 0 { info.ifi_flags } else { info.ifi_change }, info.ifi_flags),
        mtu: attrs.u32(IFLA_MTU)?,
        hw_addr,
        tx_queue_len: attrs.u32(IFLA_TXQLEN)?,
        group: attrs.u32(IFLA_GROUP)?,
        name: None,
    };
    if let Some(link) = found {
        change.name = attrs.name(IFLA_IFNAME)?.filter(|name| *name != link.name);
        return config.link_change(link.index, &change);
    }
    let info_attrs = Attrs::read(attrs.get(IFLA_LINKINFO).unwrap_or_default());
    match info_attrs.text(IFLA_INFO_KIND, usize::MAX)?.as_deref() {
        Some("dummy") => {}
        Some(_) | None => return Err(Errno::EOPNOTSUPP),
    }
    let link = Link {
        index: 0,
        name: attrs.name(IFLA_IFNAME)?.unwrap_or_else(|| free_name(request)),
        kind: LinkKind::Dummy,
        flags: IFF_BROADCAST | IFF_NOARP,
        mtu: change.mtu.unwrap_or(1500),
        max_mtu: 0,
        hw_type: ARPHRD_ETHER,
        hw_addr: hw_addr.unwrap_or_else(|| random_addr(request)),
        broadcast: [0xff; ETH_ALEN],
        tx_queue_len: change.tx_queue_len.unwrap_or(1000),
        group: change.group.unwrap_or(0),
        peer: None,
        stats: Arc::default(),
        conf: Arc::default(),
    };
    let index = config.link_add(link)?;
    let flags = LinkChange { flags: change.flags, ..LinkChange::default() };
    config.link_change(index, &flags)
}

/// The first of dummy0, dummy1 … that is not taken.
fn free_name(request: &Request<'_>) -> String {
    let config = &request.ns.stack().config;
    let mut names = (0u32..).map(|n| format!("dummy{n}"));
    names.find(|name| config.link_by_name(name).is_none()).unwrap_or_default()
}

/// A hardware address that nobody was given.
fn random_addr(request: &Request<'_>) -> [u8; ETH_ALEN] {
    let [first, a, b, c, d, e, ..] = request.ns.stack().env().random().to_ne_bytes();
    [first & 0xfe | 2, a, b, c, d, e]
}

pub(super) fn del(request: &Request<'_>) -> Result<(), Errno> {
    let (info, attrs) = split::<IfInfoMsg>(request.body)?;
    let link = find(request, &info, &attrs)?;
    // What the sandbox was given stays.
    if link.kind != LinkKind::Dummy {
        return Err(Errno::EOPNOTSUPP);
    }
    request.ns.stack().config.link_del(link.index)
}
