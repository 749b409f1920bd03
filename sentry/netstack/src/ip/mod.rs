//! The Internet layer: packets in and out, errors about them, groups, and finding IPv6 neighbours.

mod cut;
mod forward;
mod groups;
mod icmp;
mod icmp4;
mod icmp6;
pub(crate) mod ndp;
mod output;
mod pmtu;
mod reasm;
mod v4;
mod v6;

pub(crate) use groups::Groups;
pub(crate) use icmp::Limiter;
pub(crate) use output::Send;
#[cfg(test)]
pub(crate) use output::complete;
pub(crate) use pmtu::Pmtu;
pub(crate) use reasm::Reassembly;
pub(crate) use v4::Head4;
pub(crate) use v6::Head6;

use crate::link::Port;
use crate::sockets::{Cast, IpPacket};
use crate::stack::{Batch, Stack};
use chitin_abi::inet::*;
use chitin_abi::num::low8;
use chitin_abi::rtnetlink::{RTN_BROADCAST, RTN_LOCAL};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) const TCP: u8 = low8(IPPROTO_TCP);
pub(crate) const UDP: u8 = low8(IPPROTO_UDP);
pub(crate) const ICMP: u8 = low8(IPPROTO_ICMP);
pub(crate) const ICMPV6: u8 = low8(IPPROTO_ICMPV6);
pub(crate) const IGMP: u8 = low8(IPPROTO_IGMP);
pub(crate) const FRAGMENT: u8 = low8(IPPROTO_FRAGMENT);

/// A packet for this host, past the IP header.
#[derive(Clone, Copy)]
pub(crate) struct Meta<'a> {
    pub port: &'a Arc<Port>,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub cast: Cast,
    pub ttl: u8,
    pub tos: u8,
    pub flow: u32,
    /// From the IP header on.
    pub packet: &'a [u8],
    pub payload: &'a [u8],
    /// IPv4's.
    pub options: &'a [u8],
    pub csum_ok: bool,
    /// As [`RxFrame::buffer`](crate::RxFrame::buffer); what is not in it has been put together from fragments.
    pub buffer: Option<&'a std::sync::Arc<Vec<u8>>>,
    pub gso_size: u16,
}

impl<'a> Meta<'a> {
    /// As the sockets layer is shown it.
    pub fn raw(&self, time: u64) -> IpPacket<'a> {
        IpPacket {
            link: self.port.index,
            src: self.src,
            dst: self.dst,
            proto: self.proto,
            packet: self.packet,
            payload: self.payload,
            cast: self.cast,
            ttl: self.ttl,
            tos: self.tos,
            flow: self.flow,
            time,
        }
    }
}

impl Stack {
    /// Hands a packet to its protocol. None: dropped.
    fn deliver(&self, batch: &mut Batch, meta: &Meta<'_>) -> Option<()> {
        let mut taken = false;
        if self.raw_wanted() {
            taken = self.sockets().is_some_and(|sockets| sockets.raw(&meta.raw(batch.now)));
        }
        match meta.proto {
            TCP => self.tcp_input(batch, meta),
            UDP => self.udp_input(batch, meta),
            ICMP if meta.src.is_ipv4() => self.icmp4_input(batch, meta, taken),
            ICMPV6 if meta.src.is_ipv6() => self.icmp6_input(batch, meta, taken),
            IGMP if meta.src.is_ipv4() => self.igmp_input(meta),
            _ if taken => Some(()),
            _ => {
                self.unknown_protocol(meta);
                None
            }
        }
    }

    /// Tells ping and raw sockets of a reply, unless they have been told.
    fn reply_input(&self, batch: &Batch, meta: &Meta<'_>, told: bool) -> Option<()> {
        if !told {
            self.sockets()?.raw(&meta.raw(batch.now));
        }
        Some(())
    }

    /// Whether a packet may come from there at all: not from everybody, nor from this host by a wire.
    pub(crate) fn credible(&self, meta: &Meta<'_>) -> bool {
        let kind = || self.config.input_kind(meta.src, meta.port.index);
        let own = |kind| kind == RTN_LOCAL && !meta.port.is_lo() && meta.cast == Cast::Unicast;
        !meta.src.is_multicast() && kind().is_none_or(|kind| kind != RTN_BROADCAST && !own(kind))
    }
}
