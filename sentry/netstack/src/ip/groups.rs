//! Groups: which ones this host is a member of on which link, and telling routers and switches so (IGMPv3, MLDv2).
//!
//! A change is told at once and once more within a second; a query is answered with all groups of the link, after a
//! random part of the time it allows.
//!
//! Lock: a leaf.

use super::v4::Head4;
use super::v6::Head6;
use super::{ICMPV6, IGMP, Meta};
use crate::env::{MILLI, Nanos, SECOND};
use crate::link::{Head, Out, Port};
use crate::stack::Stack;
use crate::timer::{Due, Key};
use crate::wire::*;
use chitin_abi::Errno;
use chitin_abi::netdevice::{ETH_P_IP, ETH_P_IPV6};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::IntoBytes;

/// What guests may make us hold.
const MAX_GROUPS: usize = 4096;
/// Records in one report.
const MAX_RECORDS: usize = 60;
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const IGMP_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

// Record types.
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;

#[derive(Default)]
struct Inner {
    joined: BTreeMap<(u32, IpAddr), u32>,
    /// Links with a report to come.
    pending: BTreeMap<u32, Key>,
}

#[derive(Default)]
pub(crate) struct Groups(Mutex<Inner>);

impl Groups {
    /// Whether packets to a group are taken in from a link.
    pub fn has(&self, link: u32, group: &IpAddr) -> bool {
        match group {
            IpAddr::V4(a) if *a == ALL_HOSTS => true,
            // All nodes of the interface or link, and whoever asks for a neighbour: which one, NDP sees.
            IpAddr::V6(a) => {
                let bits = a.to_bits();
                *a == ALL_NODES
                    || bits | 0xff_ffff == 0xff02_0000_0000_0000_0000_0001_ffff_ffff
                    || bits == 0xff01 << 112 | 1
                    || self.0.lock().joined.contains_key(&(link, *group))
            }
            _ => self.0.lock().joined.contains_key(&(link, *group)),
        }
    }

    fn of(&self, link: u32, v4: bool) -> Vec<IpAddr> {
        let inner = self.0.lock();
        let from = (link, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mine = inner.joined.range(from..).take_while(|((l, _), _)| *l == link);
        mine.map(|((_, group), _)| *group).filter(|group| group.is_ipv4() == v4).collect()
    }
}

impl Stack {
    /// Joins a group on a link; counted, so each join needs its leave.
    pub fn join(&self, link: u32, group: IpAddr) -> Result<(), Errno> {
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        let port = self.port(link).ok_or(Errno::ENODEV)?;
        {
            let mut inner = self.groups.0.lock();
            let full = inner.joined.len() >= MAX_GROUPS;
            match inner.joined.get_mut(&(link, group)) {
                Some(count) => {
                    *count = count.saturating_add(1);
                    return Ok(());
                }
                None if full => return Err(Errno::ENOBUFS),
                None => inner.joined.insert((link, group), 1),
            };
        }
        self.report(&port, group.is_ipv4(), &[(TO_EXCLUDE, group)]);
        self.report_later(link, SECOND);
        Ok(())
    }

    pub fn leave(&self, link: u32, group: IpAddr) -> Result<(), Errno> {
        {
            let mut inner = self.groups.0.lock();
            let count = inner.joined.get_mut(&(link, group)).ok_or(Errno::EADDRNOTAVAIL)?;
            *count = count.saturating_sub(1);
            if *count > 0 {
                return Ok(());
            }
            inner.joined.remove(&(link, group));
        }
        if let Some(port) = self.port(link) {
            self.report(&port, group.is_ipv4(), &[(TO_INCLUDE, group)]);
        }
        Ok(())
    }

    /// Groups with their links and how often they were joined (/proc/net/igmp).
    pub fn groups(&self) -> Vec<(u32, IpAddr, u32)> {
        self.groups.0.lock().joined.iter().map(|((link, group), count)| (*link, *group, *count)).collect()
    }

    fn report_later(&self, link: u32, within: Nanos) {
        let at = self.now().saturating_add(self.env.random() % within.max(MILLI));
        let mut inner = self.groups.0.lock();
        if inner.pending.get(&link).is_none_or(|(known, _)| *known > at) {
            let key = self.timers.arm(&*self.env, at, Due::Groups(link));
            // Or queries would pile them up.
            if let Some(later) = inner.pending.insert(link, key) {
                self.timers.cancel(later);
            }
        }
    }

    /// A link's report is due.
    pub(crate) fn groups_due(&self, link: u32, now: Nanos) {
        {
            let mut inner = self.groups.0.lock();
            if inner.pending.get(&link).is_none_or(|(at, _)| *at > now) {
                return;
            }
            inner.pending.remove(&link);
        }
        let Some(port) = self.port(link) else { return };
        for v4 in [true, false] {
            let groups = self.groups.of(link, v4);
            let records: Vec<_> = groups.into_iter().map(|group| (IS_EXCLUDE, group)).collect();
            records.chunks(MAX_RECORDS).for_each(|records| self.report(&port, v4, records));
        }
    }

    pub(super) fn igmp_input(&self, meta: &Meta<'_>) -> Option<()> {
        if !meta.csum_ok && !Sum::default().put(meta.payload).ok() {
            return None;
        }
        let [kind, time, ..] = *meta.payload.first_chunk::<8>()?;
        if kind == 0x11 {
            // In tenths of a second; large ones are floating point in version 3 and do not matter that much.
            let tenths = if time == 0 { 100 } else { u64::from(time.min(100)) };
            self.report_later(meta.port.index, tenths * 100 * MILLI);
        }
        Some(())
    }

    pub(super) fn mld_query(&self, meta: &Meta<'_>) -> Option<()> {
        if meta.ttl != 1 {
            return None;
        }
        let (icmp, _) = header::<Icmp>(meta.payload)?;
        let millis = u64::from(icmp.rest.get() >> 16).clamp(1, 10_000);
        self.report_later(meta.port.index, millis * MILLI);
        Some(())
    }

    /// Reports records of one family.
    fn report(&self, port: &Port, v4: bool, records: &[(u8, IpAddr)]) {
        let told = |group: &IpAddr| match group {
            IpAddr::V4(a) => *a != ALL_HOSTS,
            IpAddr::V6(a) => *a != ALL_NODES && a.octets().get(1).is_some_and(|s| s & 0xf > 1),
        };
        let records: Vec<_> = records.iter().filter(|(_, group)| told(group)).collect();
        if records.is_empty() || !port.is_ether() {
            return;
        }
        let mut body = Vec::new();
        for (kind, group) in &records {
            body.extend_from_slice(&[*kind, 0, 0, 0]);
            match group {
                IpAddr::V4(a) => body.extend_from_slice(&a.octets()),
                IpAddr::V6(a) => body.extend_from_slice(&a.octets()),
            }
        }
        let count = len32(records.len());
        let mut head = Head::new();
        let mut icmp = Icmp { kind: 0x22, code: 0, csum: 0.into(), rest: count.into() };
        let len = size_of::<Icmp>() + body.len();
        if v4 {
            let src = match self.config.link_addr(port.index, IGMP_ROUTERS.into()) {
                Some(IpAddr::V4(src)) => src,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            icmp.csum = Sum::default().put(icmp.as_bytes()).put(&body).finish();
            // Router alert.
            let options = &[0x94, 4, 0, 0];
            let (proto, dst) = (IGMP, IGMP_ROUTERS);
            Head4 { src, dst, proto, tos: 0xc0, ttl: 1, id: 0, frag: IP_DF, options, len }.write(&mut head);
            head.push(icmp.as_bytes());
            let mac = [0x01, 0x00, 0x5e, 0, 0, 22];
            self.emit_to(port, Some(mac), ETH_P_IP, &mut [Out::new(head, &body)]);
            return;
        }
        let src = match self.config.link_addr(port.index, MLD_ROUTERS.into()) {
            Some(IpAddr::V6(src)) if src.is_unicast_link_local() => src,
            _ => Ipv6Addr::UNSPECIFIED,
        };
        icmp.kind = 143;
        let sum = Sum::default().pseudo(&src.into(), &MLD_ROUTERS.into(), ICMPV6, len);
        icmp.csum = sum.put(icmp.as_bytes()).put(&body).finish();
        // Hop-by-hop: router alert for MLD, padded.
        let hop = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
        Head6 { src, dst: MLD_ROUTERS, next: 0, tos: 0, flow: 0, hops: 1, len: len + hop.len() }
            .write(&mut head);
        head.push(&hop);
        head.push(icmp.as_bytes());
        let mac = [0x33, 0x33, 0, 0, 0, 0x16];
        self.emit_to(port, Some(mac), ETH_P_IPV6, &mut [Out::new(head, &body)]);
    }
}
