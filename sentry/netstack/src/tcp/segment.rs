//! Segments: parsed ones, and the writing of headers.

use super::Tuple;
use super::inbox::Buffer;
use super::seq::Seq;
use crate::device::{Csum, Gso, GsoKind};
use crate::ip::{Head4, Head6, Meta, TCP};
use crate::link::Head;
use crate::wire::*;
use std::net::{IpAddr, SocketAddr};
use zerocopy::IntoBytes;

const EOL: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WSCALE: u8 = 3;
const SACK_OK: u8 = 4;
const SACK: u8 = 5;
const TS: u8 = 8;

/// A segment that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub data: &'a [u8],
    /// What `data` may be in.
    pub buffer: Option<&'a Buffer>,
    pub mss: Option<u16>,
    pub wscale: Option<u8>,
    pub sack_ok: bool,
    /// Value and echo.
    pub ts: Option<(u32, u32)>,
    pub(super) sacks: [(Seq, Seq); 4],
    pub(super) sack_count: usize,
    /// How many packets it has been put together from.
    pub count: u32,
    /// What routers wrote into the IP header about congestion.
    pub ecn: u8,
}

impl<'a> Segment<'a> {
    /// Checks and takes apart; with the connection's addresses as this host has them.
    pub fn parse(meta: &Meta<'a>) -> Option<(Tuple, Segment<'a>)> {
        let (tcp, _) = header::<Tcp>(meta.payload)?;
        let head = usize::from(tcp.off >> 4) * 4;
        let (head, data) = meta.payload.split_at_checked(head)?;
        let mut options = head.get(TCP_LEN..)?;
        if !meta.csum_ok {
            let sum = Sum::default().pseudo(&meta.src, &meta.dst, TCP, meta.payload.len());
            if !sum.put(meta.payload).ok() {
                return None;
            }
        }
        let count = match usize::from(meta.gso_size) {
            0 => 1,
            size => len32(data.len().div_ceil(size)).max(1),
        };
        let mut segment = Segment {
            seq: Seq(tcp.seq.get()),
            ack: Seq(tcp.ack.get()),
            flags: tcp.flags,
            window: tcp.window.get(),
            urgent: tcp.urgent.get(),
            data,
            buffer: meta.buffer,
            mss: None,
            wscale: None,
            sack_ok: false,
            ts: None,
            sacks: [(Seq(0), Seq(0)); 4],
            sack_count: 0,
            count,
            ecn: meta.tos & super::ecn::MASK,
        };
        while let Some((&kind, rest)) = options.split_first() {
            match kind {
                EOL => break,
                NOP => {
                    options = rest;
                    continue;
                }
                _ => {}
            }
            // A length that is none ends the options, as in Linux.
            let Some(body) = rest.first().and_then(|len| rest.get(1..usize::from(*len).checked_sub(1)?))
            else {
                break;
            };
            segment.option(kind, body);
            options = rest.get(1 + body.len()..).unwrap_or_default();
        }
        let local = SocketAddr::new(meta.dst, tcp.dst.get());
        let remote = SocketAddr::new(meta.src, tcp.src.get());
        Some(((local, remote), segment))
    }

    /// What a filter has left of it: so many bytes from the header on, which stays whole (tcp_filter()).
    pub fn kept(&self, bytes: usize, meta: &Meta<'_>) -> Segment<'a> {
        let header = meta.payload.len().saturating_sub(self.data.len());
        let data = self.data.get(..bytes.saturating_sub(header)).unwrap_or(self.data);
        Segment { data, ..*self }
    }

    fn option(&mut self, kind: u8, body: &[u8]) {
        let word = |bytes: &[u8; 4]| u32::from_be_bytes(*bytes);
        let syn = self.flags & SYN != 0;
        match (kind, body) {
            (MSS, [a, b]) if syn => self.mss = Some(u16::from_be_bytes([*a, *b])),
            (WSCALE, [shift]) if syn => self.wscale = Some((*shift).min(14)),
            (SACK_OK, []) if syn => self.sack_ok = true,
            (TS, [a, b, c, d, e, f, g, h]) => {
                self.ts = Some((word(&[*a, *b, *c, *d]), word(&[*e, *f, *g, *h])));
            }
            (SACK, blocks) if !syn => {
                let (blocks, _) = blocks.as_chunks::<8>();
                for (slot, [a, b, c, d, e, f, g, h]) in self.sacks.iter_mut().zip(blocks) {
                    *slot = (Seq(word(&[*a, *b, *c, *d])), Seq(word(&[*e, *f, *g, *h])));
                    self.sack_count += 1;
                }
            }
            _ => {}
        }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
    pub fn sacks(&self) -> &[(Seq, Seq)] {
        self.sacks.get(..self.sack_count).unwrap_or_default()
    }
    /// What it takes of the sequence space.
    pub fn len(&self) -> usize {
        self.data.len() + usize::from(self.has(SYN)) + usize::from(self.has(FIN))
    }
    pub fn end(&self) -> Seq {
        self.seq.plus(self.len())
    }
}

/// A header to be written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Header<'a> {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub mss: Option<u16>,
    pub wscale: Option<u8>,
    pub sack_ok: bool,
    pub ts: Option<(u32, u32)>,
    pub sacks: &'a [(Seq, Seq)],
    pub tos: u8,
    pub ttl: u8,
    pub flow: u32,
    pub id: u16,
    pub df: bool,
}

/// Options being written.
struct Options {
    buf: [u8; 40],
    len: usize,
}

impl Options {
    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(room) = self.buf.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }
}

impl Header<'_> {
    fn options(&self) -> Options {
        let mut out = Options { buf: [0; 40], len: 0 };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            out.push(&[MSS, 4, a, b]);
        }
        if self.sack_ok {
            out.push(if self.ts.is_some() { &[SACK_OK, 2] } else { &[NOP, NOP, SACK_OK, 2] });
        }
        if let Some((val, echo)) = self.ts {
            out.push(if self.sack_ok { &[TS, 10] } else { &[NOP, NOP, TS, 10] });
            out.push(&val.to_be_bytes());
            out.push(&echo.to_be_bytes());
        }
        if let Some(shift) = self.wscale {
            out.push(&[NOP, WSCALE, 3, shift]);
        }
        let fit = (40 - out.len).saturating_sub(4) / 8;
        let sacks = self.sacks.get(..fit).unwrap_or(self.sacks);
        if !sacks.is_empty() {
            let len = u8::try_from(2 + sacks.len() * 8).unwrap_or(2);
            out.push(&[NOP, NOP, SACK, len]);
            for (start, end) in sacks {
                out.push(&start.0.to_be_bytes());
                out.push(&end.0.to_be_bytes());
            }
        }
        out
    }

    /// Writes IP and TCP headers. `partial`: a device will complete the checksum. `size`: a device will cut it.
    pub fn write(
        &self,
        tuple: &Tuple,
        body: [&[u8]; 2],
        partial: bool,
        size: Option<u16>,
    ) -> (Head, Option<Csum>, Option<Gso>) {
        let options = self.options();
        let options = options.buf.get(..options.len).unwrap_or_default();
        let [a, b] = body;
        let header = TCP_LEN + options.len();
        let len = header + a.len() + b.len();
        let (local, remote) = tuple;
        let mut head = Head::new();
        let ip_len = match (local.ip(), remote.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let frag = if self.df { IP_DF } else { 0 };
                let (tos, ttl, id) = (self.tos, self.ttl, self.id);
                Head4 { src, dst, proto: TCP, tos, ttl, id, frag, options: &[], len }.write(&mut head);
                IPV4_LEN
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (tos, hops, flow) = (self.tos, self.ttl, self.flow);
                Head6 { src, dst, next: TCP, tos, flow, hops, len }.write(&mut head);
                IPV6_LEN
            }
            _ => 0,
        };
        let words = u8::try_from(header / 4).unwrap_or(5);
        let mut tcp = Tcp {
            src: local.port().into(),
            dst: remote.port().into(),
            seq: self.seq.0.into(),
            ack: self.ack.0.into(),
            off: words << 4,
            flags: self.flags,
            window: self.window.into(),
            csum: 0.into(),
            urgent: self.urgent.into(),
        };
        let sum = Sum::default().pseudo(&local.ip(), &remote.ip(), TCP, len);
        let csum = partial.then(|| Csum { start: len16(ip_len).get(), offset: 16 });
        tcp.csum =
            if partial { sum.partial() } else { sum.put(tcp.as_bytes()).put(options).put(a).put(b).finish() };
        head.push(tcp.as_bytes());
        head.push(options);
        let kind = if local.is_ipv4() { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
        let gso = size.map(|size| Gso { kind, size, header: len16(ip_len + header).get() });
        (head, csum, gso)
    }
}
