//! ICMPv6, but for finding neighbours.

use super::{ICMPV6, Meta, Send, ndp};
use crate::env::Nanos;
use crate::sockets::Cast;
use crate::stack::{Batch, Stack};
use crate::wire::*;
use chitin_abi::inet::*;
use zerocopy::IntoBytes;

/// Errors fit the least MTU.
const MAX_ERROR: usize = 1280;

impl Stack {
    pub(super) fn icmp6_input(&self, batch: &mut Batch, meta: &Meta<'_>, told: bool) -> Option<()> {
        if !meta.csum_ok {
            let sum = Sum::default().pseudo(&meta.src, &meta.dst, ICMPV6, meta.payload.len());
            if !sum.put(meta.payload).ok() {
                return None;
            }
        }
        if !self.credible(meta) {
            return None;
        }
        let (icmp, rest) = header::<Icmp>(meta.payload)?;
        match icmp.kind {
            1..=4 => self.error_input(meta.port.index, meta.src, icmp.kind, icmp.code, icmp.rest.get(), rest),
            kind if u32::from(kind) == ICMPV6_ECHO_REQUEST => self.echo6(meta, icmp, rest),
            130 => self.mld_query(meta),
            ndp::NS | ndp::NA => ndp::input(self, meta, icmp.kind, rest, icmp.rest.get()),
            // A host that has been configured by its runtime neither asks nor listens to routers.
            131..=134 | 137 | 143 => Some(()),
            _ => self.reply_input(batch, meta, told),
        }
    }

    fn echo6(&self, meta: &Meta<'_>, icmp: &Icmp, data: &[u8]) -> Option<()> {
        if meta.src.is_unspecified() || self.sysctls.icmp_echo_ignore_all.on() {
            return Some(());
        }
        let oif = if crate::addr::is_link_local(&meta.src) { meta.port.index } else { 0 };
        let route = self.config.route(meta.src, None, oif, 0).ok()?;
        let src = if meta.cast == Cast::Unicast { meta.dst } else { route.src };
        let mut reply = Icmp { kind: 129, code: 0, csum: 0.into(), ..*icmp };
        let sum = Sum::default().pseudo(&src, &meta.src, ICMPV6, size_of::<Icmp>() + data.len());
        reply.csum = sum.put(reply.as_bytes()).put(data).finish();
        let send = Send { tos: meta.tos, ..Send::new(src, meta.src, ICMPV6, reply.as_bytes(), data) };
        self.ip_output(&route, &send).ok()
    }

    /// Sends an error about a packet.
    pub(super) fn complain6(&self, now: Nanos, meta: &Meta<'_>, kind: u8, code: u8, info: u32) {
        let oif = if crate::addr::is_link_local(&meta.src) { meta.port.index } else { 0 };
        let Ok(route) = self.config.route(meta.src, None, oif, 0) else { return };
        // Unknown options may be told of even for packets to groups; so few send those that none is here.
        if !self.complainable(meta) || !route.is_local() && !self.may_complain(meta.src, now) {
            return;
        }
        let quote = meta.packet.get(..MAX_ERROR - IPV6_LEN - size_of::<Icmp>()).unwrap_or(meta.packet);
        let mut icmp = Icmp { kind, code, csum: 0.into(), rest: info.into() };
        let own = if self.config.is_local(meta.dst) { meta.dst } else { route.src };
        let sum = Sum::default().pseudo(&own, &meta.src, ICMPV6, size_of::<Icmp>() + quote.len());
        icmp.csum = sum.put(icmp.as_bytes()).put(quote).finish();
        let _ = self.ip_output(&route, &Send::new(own, meta.src, ICMPV6, icmp.as_bytes(), quote));
    }
}
