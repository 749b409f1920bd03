//! Frames that arrive: taps, the link header, and whom they are for.

use super::{LINK_LEN, Port};
use crate::device::RxFrame;
use crate::env::Nanos;
use crate::sockets::{Cast, FrameIn, FrameKind};
use crate::stack::{Batch, Stack};
use crate::wire::{Eth, header, len32};
use chitin_abi::netdevice::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Stack {
    /// One frame, whole.
    pub(crate) fn frame_input(&self, batch: &mut Batch, port: &Arc<Port>, frame: &RxFrame<'_>) {
        let stats = &port.stats;
        stats.rx_packets.fetch_add(1, Ordering::Relaxed);
        stats.rx_bytes.fetch_add(u64::from(len32(frame.data.len())), Ordering::Relaxed);
        if self.take_in(batch, port, frame).is_none() {
            stats.rx_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Shows a frame that comes in to whoever wants to see it. `protocol` 0: as the packet says.
    pub(crate) fn show(
        &self,
        port: &Port,
        data: &[u8],
        (header, protocol): (usize, u16),
        kind: FrameKind,
        time: Nanos,
    ) {
        if !self.frames_wanted() {
            return;
        }
        let protocol = match (protocol, data.first()) {
            (0, Some(first)) if first >> 4 == 6 => ETH_P_IPV6,
            (0, _) => ETH_P_IP,
            (known, _) => known,
        };
        if let Some(sockets) = self.sockets() {
            sockets.packet(&FrameIn {
                link: port.index,
                pieces: [data, &[], &[]],
                header,
                protocol,
                kind,
                time,
            });
        }
    }

    fn take_in(&self, batch: &mut Batch, port: &Arc<Port>, frame: &RxFrame<'_>) -> Option<()> {
        let (proto, packet, kind) = if port.is_ether() {
            let (eth, rest) = header::<Eth>(frame.data)?;
            let kind = match eth.dst {
                [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => FrameKind::Broadcast,
                [first, ..] if first & 1 != 0 => FrameKind::Multicast,
                dst if dst == port.info.hw_addr => FrameKind::Host,
                _ => FrameKind::OtherHost,
            };
            (eth.proto.get(), rest, kind)
        } else {
            let proto = match frame.data.first()? >> 4 {
                4 => ETH_P_IP,
                6 => ETH_P_IPV6,
                _ => return None,
            };
            (proto, frame.data, FrameKind::Host)
        };
        let header = if port.is_ether() { LINK_LEN } else { 0 };
        self.show(port, frame.data, (header, proto), kind, batch.now);
        let cast = match kind {
            FrameKind::OtherHost => return Some(()),
            FrameKind::Broadcast => Cast::Broadcast,
            FrameKind::Multicast => Cast::Multicast,
            _ => Cast::Unicast,
        };
        if cast == Cast::Multicast {
            port.stats.rx_multicast.fetch_add(1, Ordering::Relaxed);
        }
        let frame = RxFrame { data: packet, ..*frame };
        match proto {
            ETH_P_IP => self.ipv4_input(batch, port, &frame, cast),
            ETH_P_IPV6 => self.ipv6_input(batch, port, &frame, cast),
            ETH_P_ARP => self.arp_input(port, packet),
            _ => None,
        }
    }
}
