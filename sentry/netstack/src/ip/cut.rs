//! Packets made smaller on their way: segments of what came in as one, and fragments.

use super::output::complete;
use super::{Meta, TCP};
use crate::device::Csum;
use crate::link::{Head, Out};
use crate::wire::*;
use chitin_abi::num::{low16, low32};
use zerocopy::{FromBytes, IntoBytes};

/// More than anybody puts together.
const MAX_SEGMENTS: usize = 1024;

/// The packets that one was put together from. `l4`: where the header above IP is, and its length.
pub(super) fn segments(
    meta: &Meta<'_>,
    packet: &[u8],
    (at, len): (usize, usize),
    csum: Csum,
) -> Option<Vec<Vec<u8>>> {
    let size = usize::from(meta.gso_size).max(1);
    let (head, data) = packet.split_at_checked(at + len)?;
    let last = data.len().div_ceil(size).saturating_sub(1);
    if last >= MAX_SEGMENTS {
        return None;
    }
    let segment = |(n, piece): (usize, &[u8])| {
        let mut packet = head.to_vec();
        packet.extend_from_slice(piece);
        let own = len + piece.len();
        set_len(&mut packet, at, own, n)?;
        let body = packet.get_mut(at..)?;
        if meta.proto == TCP {
            let (tcp, _) = Tcp::mut_from_prefix(body).ok()?;
            tcp.seq = tcp.seq.get().wrapping_add(low32(u64::try_from(n * size).ok()?)).into();
            if n != last {
                tcp.flags &= !(FIN | PSH);
            }
            if n != 0 {
                tcp.flags &= !CWR;
            }
        } else {
            Udp::mut_from_prefix(body).ok()?.0.len = len16(own);
        }
        let place = usize::from(csum.offset);
        let sum = Sum::default().pseudo(&meta.src, &meta.dst, meta.proto, own).partial();
        body.get_mut(place..place + 2)?.copy_from_slice(sum.as_bytes());
        complete(&mut packet, csum);
        Some(packet)
    };
    data.chunks(size).enumerate().map(segment).collect()
}

/// The lengths and the number in the IP header, whose checksum follows.
fn set_len(packet: &mut [u8], at: usize, len: usize, n: usize) -> Option<()> {
    if packet.first()? >> 4 == 6 {
        Ipv6::mut_from_prefix(packet).ok()?.0.len = len16(at.checked_sub(IPV6_LEN)? + len);
        return Some(());
    }
    let (ip, _) = Ipv4::mut_from_prefix(packet).ok()?;
    ip.len = len16(at + len);
    ip.id = ip.id.get().wrapping_add(low16(u32::try_from(n).ok()?)).into();
    sum4(packet)
}

pub(super) fn sum4(packet: &mut [u8]) -> Option<()> {
    let (ip, _) = Ipv4::mut_from_prefix(packet).ok()?;
    ip.csum = 0.into();
    let head = usize::from(ip.vihl & 0xf) * 4;
    let sum = Sum::default().put(packet.get(..head)?).finish();
    Ipv4::mut_from_prefix(packet).ok()?.0.csum = sum;
    Some(())
}

/// Fragments of an IPv4 packet, which may be one itself (ip_do_fragment()).
pub(super) fn fragments<'a>(head: &[u8], data: &'a [u8], mtu: usize) -> Option<Vec<Out<'a>>> {
    let step = mtu.checked_sub(head.len())? & !7;
    if step == 0 {
        return None;
    }
    let last = data.len().div_ceil(step).saturating_sub(1);
    let mut head = head.to_vec();
    let frag = header::<Ipv4>(&head)?.0.frag.get();
    let fragment = |(n, piece): (usize, &'a [u8])| {
        if n == 1 {
            first_s_own(head.get_mut(IPV4_LEN..)?);
        }
        let len = len16(head.len() + piece.len());
        let (ip, _) = Ipv4::mut_from_prefix(&mut head).ok()?;
        ip.len = len;
        let more = if n == last { frag & IP_MF } else { IP_MF };
        let offset = (frag & IP_OFFSET).checked_add(len16(n * step / 8).get())?;
        // None that would end beyond the longest packet.
        ip.frag = ((offset <= IP_OFFSET).then_some(offset)? | more).into();
        sum4(&mut head)?;
        let mut own = Head::new();
        own.push(&head);
        Some(Out::new(own, piece))
    };
    data.chunks(step).enumerate().map(fragment).collect()
}

/// Options that only the first fragment has give way to nothing (ip_options_fragment()).
fn first_s_own(mut options: &mut [u8]) {
    while let [kind, rest @ ..] = options {
        let len = match (*kind, rest.first()) {
            (0, _) | (_, None) => return,
            (1, _) => 1,
            (_, Some(len)) => usize::from(*len).max(1),
        };
        let copied = *kind & 0x80 != 0;
        let Some((one, after)) = options.split_at_mut_checked(len) else { return };
        if !copied {
            one.fill(1);
        }
        options = after;
    }
}
