//! UDP from the wire. (Out: `ip/output`.)

use crate::ip::{Meta, UDP};
use crate::sockets::{Cast, Datagram};
use crate::stack::{Batch, Stack};
use crate::wire::*;
use std::net::SocketAddr;

impl Stack {
    pub(crate) fn udp_input(&self, batch: &mut Batch, meta: &Meta<'_>) -> Option<()> {
        let (udp, _) = header::<Udp>(meta.payload)?;
        let mut len = usize::from(udp.len.get());
        // Packets put together have the length of the first one, or of all.
        if meta.gso_size != 0 {
            len = meta.payload.len();
        }
        let data = meta.payload.get(..len)?;
        let payload = data.get(UDP_LEN..)?;
        if udp.csum.get() == 0 {
            // Only IPv4 may go without.
            if meta.src.is_ipv6() {
                return None;
            }
        } else if !meta.csum_ok {
            let sum = Sum::default().pseudo(&meta.src, &meta.dst, UDP, data.len());
            if !sum.put(data).ok() {
                return None;
            }
        }
        if udp.dst.get() == 0 || meta.cast == Cast::Unicast && !self.credible(meta) {
            return None;
        }
        let taken = self.sockets()?.udp(&Datagram {
            link: meta.port.index,
            src: SocketAddr::new(meta.src, udp.src.get()),
            dst: SocketAddr::new(meta.dst, udp.dst.get()),
            payload,
            cast: meta.cast,
            ttl: meta.ttl,
            tos: meta.tos,
            flow: meta.flow,
            options: meta.options,
            gso_size: if payload.len() > usize::from(meta.gso_size) { meta.gso_size } else { 0 },
            time: batch.now,
        });
        if !taken {
            self.port_unreachable(batch, meta);
        }
        Some(())
    }
}
