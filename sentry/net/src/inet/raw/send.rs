//! sendmsg(2) of raw and ping sockets (raw_sendmsg(), ping_v4_sendmsg()).

use super::{RawSock, SEND, ip_of};
use crate::SockAddr;
use crate::inet::addr::as_v6;
use crate::inet::ancillary::Ancillary;
use crate::inet::route;
use crate::inet::udp::take;
use crate::msg::SendMsg;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::socket::*;
use chitin_netstack::SendOpts;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

/// The Internet checksum of some pieces, each of an even length but the last.
fn checksum(pieces: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for piece in pieces {
        for pair in piece.chunks(2) {
            let word = match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                [high] => u16::from_be_bytes([*high, 0]),
                _ => 0,
            };
            sum = sum.wrapping_add(word.into());
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!chitin_abi::num::low16(sum)).to_be_bytes()
}

impl RawSock {
    pub(super) fn send(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        let len = msg.data.left();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let told = Ancillary::parse(&msg.control.other, self.v6)?;
        let (local, dest) = {
            let mut core = self.core.lock();
            self.identify(&mut core, 0)?;
            let dest = match &msg.dest {
                Some(addr @ (SockAddr::Inet(_) | SockAddr::Inet6(_))) => ip_of(addr, self.v6)?,
                Some(SockAddr::Invalid) => return Err(Errno::EINVAL),
                Some(_) => return Err(Errno::EAFNOSUPPORT),
                None => core.remote.ok_or(Errno::EDESTADDRREQ)?.ip,
            };
            if core.shutdown & SEND != 0 {
                return Err(Errno::EPIPE);
            }
            (core.local, route::self_if_any(dest))
        };
        if let Some(error) = self.inbox.take_error() {
            return Err(error);
        }
        let mut data = take(msg.data, len)?;
        let own = told.source.or((!local.ip.is_unspecified()).then_some(local.ip));
        let link = if told.index != 0 { told.index } else { self.common.device_index() };
        let way = route::find(&self.common.ns, dest, own, link, 0)?;
        let source = own.unwrap_or(way.src);
        let opts = SendOpts {
            ttl: told.ttl.or_else(|| self.ip.own_ttl(dest)),
            tos: told.tos.unwrap_or(self.ip.tos_for(dest)),
            pmtudisc: self.ip.pmtudisc(self.v6),
            multicast_loop: self.ip.multicast_loops(self.v6),
            broadcast: self.common.flag(SO_BROADCAST),
            ..SendOpts::default()
        };
        let stack = &self.common.ns.stack;
        let out = !way.is_local() && way.link != route::LOOPBACK;
        if self.header.load(Ordering::Relaxed) {
            if out && self.common.ns.egress().is_some_and(|egress| !egress.may_send_packet(&data)) {
                return Err(Errno::EPERM);
            }
            stack.packet_send(&way, &data, &opts)?;
            return Ok(len);
        }
        if self.ping {
            self.make_request(&mut data, local.port, source, dest)?;
        } else {
            self.fill_checksum(&mut data, source, dest)?;
        }
        let protocol = u8::try_from(self.common.protocol).map_err(|_| Errno::EINVAL)?;
        let egress = self.common.ns.egress().filter(|_| out);
        if egress.is_some_and(|egress| !egress.may_send_payload(protocol, source, dest, &data)) {
            return Err(Errno::EPERM);
        }
        stack.ip_send(&way, source, protocol, &data, &opts)?;
        Ok(len)
    }

    /// Makes sure that it is an echo request, and that it is ours.
    fn make_request(&self, data: &mut [u8], id: u16, source: IpAddr, dest: IpAddr) -> Result<(), Errno> {
        let request = if self.v6 { ICMPV6_ECHO_REQUEST } else { ICMP_ECHO };
        let [kind, code, sum_high, sum_low, id_high, id_low, _, _, ..] = data else {
            return Err(Errno::EINVAL);
        };
        if u32::from(*kind) != request || *code != 0 {
            return Err(Errno::EINVAL);
        }
        [*id_high, *id_low] = id.to_be_bytes();
        [*sum_high, *sum_low] = [0, 0];
        let sum = if self.v6 { self.sum_v6(data, source, dest) } else { checksum(&[data]) };
        if let Some(place) = data.get_mut(2..4) {
            place.copy_from_slice(&sum);
        }
        Ok(())
    }

    fn sum_v6(&self, data: &[u8], source: IpAddr, dest: IpAddr) -> [u8; 2] {
        let (source, dest) = (as_v6(source).octets(), as_v6(dest).octets());
        let len = u32::try_from(data.len()).unwrap_or(0).to_be_bytes();
        let protocol = self.common.protocol.to_be_bytes();
        checksum(&[&source, &dest, &len, &protocol, data])
    }

    /// IPV6_CHECKSUM: at the offset that was named.
    fn fill_checksum(&self, data: &mut [u8], source: IpAddr, dest: IpAddr) -> Result<(), Errno> {
        let Ok(at) = usize::try_from(*self.checksum.lock()) else { return Ok(()) };
        let place = data.get_mut(at..at.saturating_add(2)).ok_or(Errno::EINVAL)?;
        place.fill(0);
        let sum = self.sum_v6(data, source, dest);
        if let Some(place) = data.get_mut(at..at.saturating_add(2)) {
            place.copy_from_slice(&sum);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums() {
        // The example of RFC 1071.
        assert_eq!(super::checksum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]), [0x22, 0x0d]);
    }
}
