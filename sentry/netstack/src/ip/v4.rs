//! IPv4: packets in, and the header of packets out.

use super::Meta;
use super::reasm::Fragment;
use crate::device::RxFrame;
use crate::link::{Head, Port};
use crate::sockets::Cast;
use crate::stack::{Batch, Stack};
use crate::wire::*;
use chitin_abi::rtnetlink::RTN_BROADCAST;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use zerocopy::IntoBytes;

impl Stack {
    pub(crate) fn ipv4_input(
        &self,
        batch: &mut Batch,
        port: &Arc<Port>,
        frame: &RxFrame<'_>,
        cast: Cast,
    ) -> Option<()> {
        let (ip, _) = header::<Ipv4>(frame.data)?;
        let head = usize::from(ip.vihl & 0xf) * 4;
        let len = usize::from(ip.len.get());
        if ip.vihl >> 4 != 4 || head < IPV4_LEN || len < head {
            return None;
        }
        // Ethernet pads short packets.
        let packet = frame.data.get(..len)?;
        let (head, payload) = packet.split_at_checked(head)?;
        if !Sum::default().put(head).ok() {
            return None;
        }
        let (src, dst) = (Ipv4Addr::from(ip.src), Ipv4Addr::from(ip.dst));
        let foreign = !port.is_lo() && (src.is_loopback() || dst.is_loopback());
        if foreign && !self.routes_localnet(port) || src.is_multicast() || src.is_broadcast() {
            return None;
        }
        let (src, dst) = (IpAddr::V4(src), IpAddr::V4(dst));
        let here = self.cast_of(batch, port, dst, cast);
        if !self.comes_rightly(port, src) {
            return None;
        }
        let options = head.get(IPV4_LEN..).unwrap_or_default();
        let meta = Meta {
            port,
            src,
            dst,
            proto: ip.proto,
            cast: here.unwrap_or(cast),
            ttl: ip.ttl,
            tos: ip.tos,
            flow: 0,
            packet,
            payload,
            options,
            csum_ok: frame.csum_ok,
            buffer: frame.buffer,
            gso_size: frame.gso_size,
        };
        if here.is_none() {
            return self.forward4(batch.now, &meta);
        }
        let frag = ip.frag.get();
        if frag & (IP_MF | IP_OFFSET) == 0 {
            return self.deliver(batch, &meta);
        }
        let fragment = Fragment {
            id: u32::from(ip.id.get()),
            offset: usize::from(frag & IP_OFFSET) * 8,
            more: frag & IP_MF != 0,
            head,
        };
        let whole = self.reassemble(batch.now, &meta, &fragment)?;
        let (head, payload) = whole.split_at_checked(head.len())?;
        let options = head.get(IPV4_LEN..).unwrap_or_default();
        let meta = Meta { packet: &whole, payload, options, csum_ok: false, gso_size: 0, ..meta };
        self.deliver(batch, &meta)
    }

    /// Whether 127.0.0.0/8 is an address like any other there.
    pub(crate) fn routes_localnet(&self, port: &Port) -> bool {
        port.conf.route_localnet.on() || self.config.all.route_localnet.on()
    }

    /// rp_filter: whether a packet comes by the link that answers would leave by (1), or is from somewhere at all (2).
    pub(crate) fn comes_rightly(&self, port: &Port, src: IpAddr) -> bool {
        let mode = port.conf.rp_filter.get().max(self.config.all.rp_filter.get());
        if mode == 0 || port.is_lo() || src.is_unspecified() {
            return true;
        }
        self.config.way_back(src, port.index).is_some_and(|same| same || mode == 2)
    }

    /// To whom a packet on a link is, if it concerns this host.
    pub(super) fn cast_of(&self, batch: &mut Batch, port: &Port, dst: IpAddr, link: Cast) -> Option<Cast> {
        if dst.is_multicast() {
            return self.groups.has(port.index, &dst).then_some(Cast::Multicast);
        }
        let kind = match batch.last {
            Some((addr, kind)) if addr == dst => kind,
            _ => {
                let kind = self.config.input_kind(dst, port.index)?;
                batch.last = Some((dst, kind));
                kind
            }
        };
        match (kind, link) {
            (RTN_BROADCAST, _) => Some(Cast::Broadcast),
            // Unicast within a broadcast frame: somebody's trick, or a clumsy bridge's.
            (_, Cast::Broadcast | Cast::Multicast) => None,
            _ => Some(Cast::Unicast),
        }
    }
}

/// What an IPv4 header is made from.
pub(crate) struct Head4<'a> {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset.
    pub frag: u16,
    pub options: &'a [u8],
    /// Bytes behind the header.
    pub len: usize,
}

impl Head4<'_> {
    pub fn write(&self, head: &mut Head) {
        let size = IPV4_LEN + self.options.len();
        let words = u8::try_from(size / 4).unwrap_or(5);
        let mut ip = Ipv4 {
            vihl: 0x40 | words,
            tos: self.tos,
            len: len16(size + self.len),
            id: self.id.into(),
            frag: self.frag.into(),
            ttl: self.ttl,
            proto: self.proto,
            csum: 0.into(),
            src: self.src.octets(),
            dst: self.dst.octets(),
        };
        ip.csum = Sum::default().put(ip.as_bytes()).put(self.options).finish();
        head.push(ip.as_bytes());
        head.push(self.options);
    }
}
