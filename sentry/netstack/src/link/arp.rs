//! ARP, and asking for neighbours of either family.

use super::{Head, Out, Port};
use crate::ip::ndp;
use crate::stack::Stack;
use crate::wire::{ARP_REPLY, ARP_REQUEST, Arp, header, ip4};
use chitin_abi::netdevice::{ARPHRD_ETHER, ETH_P_ARP, ETH_P_IP};
use chitin_abi::rtnetlink::RTN_LOCAL;
use std::net::{IpAddr, Ipv4Addr};
use zerocopy::IntoBytes;

impl Stack {
    /// Asks who has an address: all, or the one who had it last.
    pub(crate) fn solicit(&self, port: &Port, addr: IpAddr, last: Option<[u8; 6]>) {
        let IpAddr::V4(target) = addr else {
            ndp::solicit(self, port, addr, last);
            return;
        };
        let src = match self.config.link_addr(port.index, addr) {
            Some(IpAddr::V4(src)) => src,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let arp = Arp {
            hw: ARPHRD_ETHER.into(),
            proto: ETH_P_IP.into(),
            hw_len: 6,
            proto_len: 4,
            op: ARP_REQUEST.into(),
            src_hw: port.info.hw_addr,
            src: src.octets(),
            dst_hw: [0; 6],
            dst: target.octets(),
        };
        self.send_arp(port, last.unwrap_or([0xff; 6]), &arp);
    }

    fn send_arp(&self, port: &Port, dst: [u8; 6], arp: &Arp) {
        let mut head = Head::new();
        head.push(arp.as_bytes());
        self.emit_to(port, Some(dst), ETH_P_ARP, &mut [Out::new(head, &[])]);
    }

    pub(crate) fn arp_input(&self, port: &Port, packet: &[u8]) -> Option<()> {
        let (arp, _) = header::<Arp>(packet)?;
        let fits = arp.hw.get() == ARPHRD_ETHER
            && arp.proto.get() == ETH_P_IP
            && arp.hw_len == 6
            && arp.proto_len == 4;
        if !fits || !port.is_ether() || arp.src_hw == port.info.hw_addr {
            return None;
        }
        let (src, dst) = (ip4(arp.src), ip4(arp.dst));
        let (src4, dst4) = (Ipv4Addr::from(arp.src), Ipv4Addr::from(arp.dst));
        if dst4.is_loopback() && !self.routes_localnet(port)
            || dst4.is_multicast()
            || src4.is_loopback()
            || src4.is_multicast()
        {
            return None;
        }
        let ours = self.config.input_kind(dst, port.index) == Some(RTN_LOCAL);
        // Nobody else may speak for an address of ours.
        if self.config.is_local(src) {
            return None;
        }
        let reply = arp.op.get() == ARP_REPLY;
        if !reply && arp.op.get() != ARP_REQUEST {
            return None;
        }
        let answers = !reply && (ours || self.proxies4(port, src, dst));
        // Who asks for us will be answered soon; otherwise only what is known already is renewed.
        self.learned(port, src, arp.src_hw, reply && ours, !answers, true);
        if answers {
            let answer = Arp {
                op: ARP_REPLY.into(),
                src_hw: port.info.hw_addr,
                src: arp.dst,
                dst_hw: arp.src_hw,
                dst: arp.src,
                ..*arp
            };
            self.send_arp(port, arp.src_hw, &answer);
        }
        Some(())
    }
}
