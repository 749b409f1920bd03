//! ICMP for IPv4.

use super::{ICMP, Meta, Send};
use crate::env::Nanos;
use crate::sockets::Cast;
use crate::stack::{Batch, Stack};
use crate::wire::*;
use chitin_abi::inet::*;
use zerocopy::IntoBytes;

/// How much of a packet an error may be, its own headers included (RFC 1812).
const MAX_ERROR: usize = 576;

impl Stack {
    pub(super) fn icmp4_input(&self, batch: &mut Batch, meta: &Meta<'_>, told: bool) -> Option<()> {
        if !meta.csum_ok && !Sum::default().put(meta.payload).ok() || !self.credible(meta) {
            return None;
        }
        let (icmp, rest) = header::<Icmp>(meta.payload)?;
        match u32::from(icmp.kind) {
            ICMP_ECHO => self.echo(meta, icmp, rest),
            ICMP_TIMESTAMP => None,
            ICMP_DEST_UNREACH | ICMP_TIME_EXCEEDED | ICMP_PARAMETERPROB => {
                let mtu = icmp.rest.get() & 0xffff;
                self.error_input(meta.port.index, meta.src, icmp.kind, icmp.code, mtu, rest)
            }
            _ => self.reply_input(batch, meta, told),
        }
    }

    fn echo(&self, meta: &Meta<'_>, icmp: &Icmp, data: &[u8]) -> Option<()> {
        let sysctls = &self.sysctls;
        let casts = meta.cast != Cast::Unicast && sysctls.icmp_echo_ignore_broadcasts.on();
        if casts || sysctls.icmp_echo_ignore_all.on() || meta.src.is_unspecified() {
            return Some(());
        }
        let mut reply = Icmp { kind: 0, code: 0, csum: 0.into(), ..*icmp };
        reply.csum = Sum::default().put(reply.as_bytes()).put(data).finish();
        let route = self.config.route(meta.src, None, 0, 0).ok()?;
        let src = if meta.cast == Cast::Unicast { meta.dst } else { route.src };
        let send = Send { tos: meta.tos, ..Send::new(src, meta.src, ICMP, reply.as_bytes(), data) };
        self.ip_output(&route, &send).ok()
    }

    /// Sends an error about a packet.
    pub(super) fn complain4(&self, now: Nanos, meta: &Meta<'_>, kind: u8, code: u8, info: u32) {
        let Ok(route) = self.config.route(meta.src, None, 0, 0) else { return };
        if !self.complainable(meta) || !route.is_local() && !self.may_complain(meta.src, now) {
            return;
        }
        let quote = meta.packet.get(..MAX_ERROR - IPV4_LEN - size_of::<Icmp>()).unwrap_or(meta.packet);
        let mut icmp = Icmp { kind, code, csum: 0.into(), rest: info.into() };
        icmp.csum = Sum::default().put(icmp.as_bytes()).put(quote).finish();
        // Errors have precedence (RFC 1812, 4.3.2.5).
        let tos = meta.tos & 0x1e | 0xc0;
        let own = if self.config.is_local(meta.dst) { meta.dst } else { route.src };
        let send = Send { tos, ..Send::new(own, meta.src, ICMP, icmp.as_bytes(), quote) };
        let _ = self.ip_output(&route, &send);
    }
}
