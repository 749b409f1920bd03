//! IPv6: packets in with their extension headers, and the header of packets out.

use super::reasm::Fragment;
use super::{FRAGMENT, Meta};
use crate::device::RxFrame;
use crate::link::{Head, Port};
use crate::sockets::Cast;
use crate::stack::{Batch, Stack};
use crate::wire::*;
use chitin_abi::inet::*;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// How many extension headers are looked at.
const MAX_HEADERS: usize = 8;

/// Where the extension headers have led.
struct Walk<'a> {
    proto: u8,
    payload: &'a [u8],
    fragment: Option<(Frag6, &'a [u8])>,
    /// Where the number of what follows stands, for errors.
    at: usize,
}

/// Passes over the extension headers up to the first fragment header. Err: the offset of what is not understood, and
/// the code that tells so, if one is to be told.
fn walk<'a>(
    first: u8,
    packet: &'a [u8],
    mut rest: &'a [u8],
    multicast: bool,
) -> Result<Walk<'a>, Option<(u8, usize)>> {
    let mut proto = first;
    let mut at = 6;
    for _ in 0..MAX_HEADERS {
        let offset = packet.len().saturating_sub(rest.len());
        match u32::from(proto) {
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => {
                let (head, _) = rest.split_first_chunk::<8>().ok_or(None)?;
                let [next, units, kind, left, ..] = *head;
                let len = (usize::from(units) + 1) * 8;
                let (body, after) = rest.split_at_checked(len).ok_or(None)?;
                if u32::from(proto) == IPPROTO_ROUTING {
                    // Nobody routes through hosts: a header that wants on is refused.
                    if left != 0 {
                        let _ = kind;
                        return Err(Some((0, offset + 2)));
                    }
                } else {
                    options(body.get(2..).unwrap_or_default(), offset + 2, multicast)?;
                }
                at = offset;
                proto = next;
                rest = after;
            }
            IPPROTO_FRAGMENT => {
                let (frag, after) = header::<Frag6>(rest).ok_or(None)?;
                // An "atomic fragment" is a whole packet.
                if frag.off.get() & 0xfff9 == 0 {
                    at = offset;
                    proto = frag.next;
                    rest = after;
                    continue;
                }
                return Ok(Walk { proto, payload: rest, fragment: Some((*frag, after)), at });
            }
            _ => return Ok(Walk { proto, payload: rest, fragment: None, at }),
        }
    }
    Err(None)
}

/// Options that are not known say what is to be done (RFC 8200, 4.2).
fn options(mut data: &[u8], mut at: usize, multicast: bool) -> Result<(), Option<(u8, usize)>> {
    while let Some((&kind, rest)) = data.split_first() {
        if kind == 0 {
            data = rest;
            at += 1;
            continue;
        }
        let (&len, rest) = rest.split_first().ok_or(None)?;
        let known = matches!(kind, 1 | 5);
        match kind >> 6 {
            0 => {}
            _ if known => {}
            1 => return Err(None),
            2 => return Err(Some((2, at))),
            _ => return Err((!multicast).then_some((2, at))),
        }
        data = rest.get(usize::from(len)..).ok_or(None)?;
        at += 2 + usize::from(len);
    }
    Ok(())
}

/// The options that are for every router; Err as of [`walk`].
pub(super) fn hop_by_hop(meta: &Meta<'_>) -> Result<(), Option<(u8, usize)>> {
    if u32::from(meta.proto) != IPPROTO_HOPOPTS {
        return Ok(());
    }
    let &[_, units] = meta.payload.first_chunk::<2>().ok_or(None)?;
    let body = meta.payload.get(2..(usize::from(units) + 1) * 8).ok_or(None)?;
    options(body, IPV6_LEN + 2, false)
}

/// The protocol behind the extension headers of a packet for somebody else, what is there, and whether it is all of it.
pub(super) fn upper<'a>(meta: &Meta<'a>) -> (u8, &'a [u8], bool) {
    match walk(meta.proto, meta.packet, meta.payload, false) {
        Ok(Walk { fragment: None, proto, payload, .. }) => (proto, payload, true),
        Ok(Walk { fragment: Some((frag, after)), .. }) if frag.off.get() & !7 == 0 => {
            (frag.next, after, false)
        }
        _ => (meta.proto, meta.payload, false),
    }
}

impl Stack {
    pub(crate) fn ipv6_input(
        &self,
        batch: &mut Batch,
        port: &Arc<Port>,
        frame: &RxFrame<'_>,
        cast: Cast,
    ) -> Option<()> {
        let (ip, _) = header::<Ipv6>(frame.data)?;
        let vtf = ip.vtf.get();
        if vtf >> 28 != 6 {
            return None;
        }
        let packet = frame.data.get(..IPV6_LEN + usize::from(ip.len.get()))?;
        let (src, dst) = (Ipv6Addr::from(ip.src), Ipv6Addr::from(ip.dst));
        let foreign = !port.is_lo() && (src.is_loopback() || dst.is_loopback());
        let mapped = src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some();
        if foreign || mapped || src.is_multicast() || dst.is_unspecified() {
            return None;
        }
        let (src, dst) = (IpAddr::V6(src), IpAddr::V6(dst));
        let here = self.cast_of(batch, port, dst, cast);
        let rest = packet.get(IPV6_LEN..)?;
        let mut meta = Meta {
            port,
            src,
            dst,
            proto: ip.next,
            cast: here.unwrap_or(cast),
            ttl: ip.hops,
            tos: u8::try_from(vtf >> 20 & 0xff).unwrap_or(0),
            flow: vtf & 0xf_ffff,
            packet,
            payload: rest,
            options: &[],
            csum_ok: frame.csum_ok,
            buffer: frame.buffer,
            gso_size: frame.gso_size,
        };
        if here.is_none() && !self.is_for_proxy(&meta) {
            return self.forward6(batch.now, &meta);
        }
        let walked = self.walked(batch, &meta)?;
        meta.proto = walked.proto;
        meta.payload = walked.payload;
        let Some((frag, body)) = walked.fragment else { return self.deliver6(batch, &meta, walked.at) };
        // What came before the fragment header belongs to the whole packet, whose next header the fragment's names.
        let mut head = packet.get(..packet.len().checked_sub(walked.payload.len())?)?.to_vec();
        *head.get_mut(walked.at)? = frag.next;
        meta.proto = FRAGMENT;
        meta.payload = body;
        let off = frag.off.get();
        let fragment =
            Fragment { id: frag.id.get(), offset: usize::from(off & !7), more: off & 1 != 0, head: &head };
        let whole = self.reassemble(batch.now, &meta, &fragment)?;
        let head = head.len();
        let mut meta =
            Meta { packet: &whole, payload: whole.get(head..)?, csum_ok: false, gso_size: 0, ..meta };
        meta.proto = frag.next;
        let walked = self.walked(batch, &meta)?;
        if walked.fragment.is_some() {
            return None;
        }
        meta.proto = walked.proto;
        meta.payload = walked.payload;
        self.deliver6(batch, &meta, walked.at)
    }

    fn walked<'a>(&self, batch: &Batch, meta: &Meta<'a>) -> Option<Walk<'a>> {
        match walk(meta.proto, meta.packet, meta.payload, meta.cast == Cast::Multicast) {
            Ok(walked) => Some(walked),
            Err(Some((code, at))) => {
                self.parameter_problem(batch.now, meta, code, at);
                None
            }
            Err(None) => None,
        }
    }

    fn deliver6(&self, batch: &mut Batch, meta: &Meta<'_>, at: usize) -> Option<()> {
        if u32::from(meta.proto) == IPPROTO_NONE {
            return Some(());
        }
        batch.next_header = at;
        self.deliver(batch, meta)
    }
}

/// What an IPv6 header is made from.
pub(crate) struct Head6 {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub next: u8,
    pub tos: u8,
    pub flow: u32,
    pub hops: u8,
    /// Bytes behind the header.
    pub len: usize,
}

impl Head6 {
    pub fn write(&self, head: &mut Head) {
        let ip = Ipv6 {
            vtf: (6 << 28 | u32::from(self.tos) << 20 | self.flow & 0xf_ffff).into(),
            len: len16(self.len),
            next: self.next,
            hops: self.hops,
            src: self.src.octets(),
            dst: self.dst.octets(),
        };
        head.push(ip.as_bytes());
    }
}
