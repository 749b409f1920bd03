//! SO_ATTACH_FILTER on the direct path, where there are no segments: what a side sends is shown to the other side's filter
//! under the headers that it would have had on `lo`. What the filter does not keep is sent again, as TCP does after a loss,
//! and keeps what follows waiting. A SYN is shown to the listener's filter, the answer to the caller's. Acknowledgements
//! without data and resets are not shown: the other side has what they say at once.
//!
//! Locks: `Direct::sifts` (who sends again) → `Direct::ends`.

use super::chunk::Chunk;
use super::link::Direct;
use super::{Phase, TcpSock};
use crate::filter::Packet;
use crate::inet::addr::Endpoint;
use crate::options::Common;
use chitin_abi::inet::IPPROTO_TCP;
use chitin_abi::netdevice::{ETH_P_IP, ETH_P_IPV6};
use chitin_abi::num::{low8, low32};
use chitin_mm::SliceSource;
use chitin_netstack::Alarm;
use chitin_netstack::env::{MILLI, SECOND};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// TCP_RTO_MIN and TCP_RTO_MAX.
pub(crate) const SHORTEST: u64 = 200 * MILLI;
pub(crate) const LONGEST: u64 = 120 * SECOND;
/// net.ipv4.tcp_syn_linear_timeouts: SYNs that go again after a second each.
const LINEAR: u32 = 4;

// Flags of a TCP header.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// MSS, SACK-permitted, timestamps, window scale; and timestamps alone.
const SYN_OPTIONS: [u8; 20] = [2, 4, 0xff, 0xd7, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
const OPTIONS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1];

/// What is on its way and did not get through a filter, in order.
#[derive(Default)]
pub struct Late {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// When it goes again, how long that was to wait, and how often it was in vain.
    at: Option<u64>,
    wait: u64,
    tries: u32,
}

enum Piece {
    Data(Chunk, Option<u8>),
    Fin,
}

impl Late {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    pub fn push(&mut self, chunk: Chunk, urgent: Option<u8>) {
        self.bytes = self.bytes.saturating_add(chunk.data().len());
        self.pieces.push_back(Piece::Data(chunk, urgent));
    }
    pub fn push_fin(&mut self) {
        self.pieces.push_back(Piece::Fin);
    }

    fn pop(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front()?;
        if let Piece::Data(chunk, _) = &piece {
            self.bytes = self.bytes.saturating_sub(chunk.data().len());
        }
        Some(piece)
    }
    fn put_back(&mut self, piece: Piece) {
        if let Piece::Data(chunk, _) = &piece {
            self.bytes = self.bytes.saturating_add(chunk.data().len());
        }
        self.pieces.push_front(piece);
    }
}

/// A segment with the headers before it, and where the TCP header is.
fn segment(
    (from, to): (&Endpoint, &Endpoint),
    flags: u8,
    (seq, ack): (u64, u64),
    data: &[u8],
) -> (Vec<u8>, usize) {
    let options: &[u8] = if flags & SYN != 0 { &SYN_OPTIONS } else { &OPTIONS };
    let header = options.len().saturating_add(20);
    let len = header.saturating_add(data.len());
    let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = vec![0; 12];
    match (from.ip, to.ip) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend(ETH_P_IP.to_be_bytes());
            out.extend([0x45, 0]);
            out.extend(short(len.saturating_add(20)));
            out.extend([0, 0, 0x40, 0, 64, low8(IPPROTO_TCP), 0, 0]);
            out.extend(from.octets().iter().chain(&to.octets()));
        }
        (from, to) => {
            let wide = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            out.extend(ETH_P_IPV6.to_be_bytes());
            out.extend([0x60, 0, 0, 0]);
            out.extend(short(len));
            out.extend([low8(IPPROTO_TCP), 64]);
            out.extend(wide(from).iter().chain(&wide(to)));
        }
    }
    let start = out.len();
    out.extend(from.port.to_be_bytes().iter().chain(&to.port.to_be_bytes()));
    out.extend(low32(seq).to_be_bytes().iter().chain(&low32(ack).to_be_bytes()));
    out.extend([low8(u32::try_from(header / 4).unwrap_or(5) << 4), flags]);
    out.extend([0xff, 0xff, 0, 0, 0, 0]);
    out.extend_from_slice(options);
    out.extend_from_slice(data);
    (out, start)
}

/// How many bytes of a segment's data the filter keeps that comes by the interface `index`; `None`: the segment is lost.
pub(crate) fn admitted(
    common: &Common,
    index: u32,
    ends: (&Endpoint, &Endpoint),
    flags: u8,
    at: (u64, u64),
    data: &[u8],
) -> Option<usize> {
    let (bytes, start) = segment(ends, flags, at, data);
    let header = bytes.len().saturating_sub(start).saturating_sub(data.len());
    let v4 = ends.1.ip.is_ipv4();
    let kept = common.admit(&Packet {
        bytes: &bytes,
        start,
        net: Some(14),
        mac: Some(0),
        protocol: if v4 { ETH_P_IP } else { ETH_P_IPV6 },
        index,
        ..Packet::default()
    })?;
    Some(kept.saturating_sub(header))
}

impl TcpSock {
    fn sift(&self, ends: (&Endpoint, &Endpoint), flags: u8, at: (u64, u64), data: &[u8]) -> Option<usize> {
        admitted(&self.common, crate::inet::route::LOOPBACK, ends, flags, at, data)
    }

    /// Whether a SYN of ours gets through to `listener`, and its answer back. If not, it goes again.
    pub(super) fn calls(&self, listener: &TcpSock, local: &Endpoint, remote: &Endpoint) -> bool {
        let there = !listener.common.filters() || listener.sift((local, remote), SYN, (0, 0), &[]).is_some();
        let back = || !self.common.filters() || self.sift((remote, local), SYN | ACK, (0, 1), &[]).is_some();
        if there && back() {
            return true;
        }
        let now = self.common.ns.stack.now();
        let again = {
            let mut core = self.core.lock();
            if !matches!(core.phase, Phase::SynSent(_)) {
                return false;
            }
            let wait = SECOND << core.calls.saturating_sub(LINEAR).min(7);
            core.calls = core.calls.saturating_add(1);
            *core.call_again.insert(now.saturating_add(wait.min(LONGEST)))
        };
        self.wake_at(again);
        false
    }
}

impl Direct {
    /// Whether what this side sends is to be shown to a filter, or has to wait for what did not get through.
    pub(super) fn is_sifted(&self, side: usize) -> bool {
        let other = self.other(side);
        self.filters.load(Ordering::Relaxed)
            && (self.sock(other).is_some_and(|sock| sock.common.filters()) || self.is_late(other))
    }

    /// How much of a piece's data gets through.
    fn admitted(&self, side: usize, piece: &Piece, at: (u64, u64)) -> Option<usize> {
        let sock = self.sock(self.other(side)).filter(|sock| sock.common.filters());
        let Some(sock) = sock else { return Some(usize::MAX) };
        let (to, from) = {
            let core = sock.core.lock();
            (core.local, core.remote.unwrap_or(core.local))
        };
        match piece {
            Piece::Data(chunk, _) => sock.sift((&from, &to), ACK | PSH, at, chunk.data()),
            Piece::Fin => sock.sift((&from, &to), ACK | FIN, at, &[]),
        }
    }

    /// Sends what waits until something does not get through, which goes again later.
    pub(super) fn send_late(self: &Arc<Self>, side: usize, again: bool) {
        let other = self.other(side);
        let [a, b] = &self.sifts;
        let _turn = if side == 0 { a.lock() } else { b.lock() };
        let mut progress = false;
        loop {
            let (piece, at) = {
                let mut ends = self.ends();
                let late = &mut ends.end(other).late;
                // Another has begun to wait for the next time.
                if late.at.is_some() && !again {
                    return;
                }
                let Some(piece) = late.pop() else {
                    *late = Late::default();
                    return;
                };
                let received = ends.end(other).received;
                (piece, (received.saturating_add(1), ends.end(side).received.saturating_add(1)))
            };
            let kept = self.admitted(side, &piece, at);
            let rest = match (piece, kept) {
                (piece, None) => piece,
                (Piece::Fin, Some(_)) => {
                    self.arrive_fin(side);
                    progress = true;
                    continue;
                }
                (Piece::Data(chunk, urgent), Some(kept)) if kept >= chunk.data().len() => {
                    self.arrive(side, chunk, urgent);
                    progress = true;
                    continue;
                }
                (Piece::Data(chunk, urgent), Some(kept)) => {
                    let (head, tail) = chunk.data().split_at_checked(kept).unwrap_or_default();
                    let copy = |data: &[u8]| Chunk::fill(&mut SliceSource::new(data), data.len());
                    // A copy of a slice does not fail.
                    let (Ok(head), Ok(tail)) = (copy(head), copy(tail)) else { return };
                    if !head.data().is_empty() {
                        self.arrive(side, head, None);
                        progress = true;
                    }
                    Piece::Data(tail, urgent)
                }
            };
            return self.wait_again(side, rest, progress);
        }
    }

    /// Keeps what did not get through, for the next time; or gives the connection up.
    fn wait_again(self: &Arc<Self>, side: usize, rest: Piece, progress: bool) {
        let most = self.ns().stack.sysctls.tcp_retries2.u32();
        let now = self.ns().stack.now();
        let mut ends = self.ends();
        if ends.end(side).is_done() {
            ends.end(self.other(side)).late = Late::default();
            return;
        }
        let late = &mut ends.end(self.other(side)).late;
        late.put_back(rest);
        (late.wait, late.tries) = match late.wait {
            0 => (SHORTEST, 0),
            _ if progress => (SHORTEST, 0),
            wait => (wait.saturating_mul(2).min(LONGEST), late.tries.saturating_add(1)),
        };
        if late.tries > most {
            *late = Late::default();
            return self.give_up(side, ends);
        }
        let at = now.saturating_add(late.wait);
        late.at = Some(at);
        drop(ends);
        self.ns().stack.call_at(at, self.weak());
    }
}

impl Alarm for Direct {
    fn ring(self: Arc<Self>, now: u64) {
        for side in [0, 1] {
            let due = {
                let mut ends = self.ends();
                let late = &mut ends.end(self.other(side)).late;
                late.at.take_if(|at| *at <= now).is_some()
            };
            if due {
                self.send_late(side, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_their_headers() {
        let ends = (Endpoint::new([127, 0, 0, 1].into(), 7), Endpoint::new([127, 0, 0, 2].into(), 9));
        let (bytes, start) = segment((&ends.0, &ends.1), ACK | PSH, (5, 6), b"data");
        assert_eq!((start, bytes.len()), (34, 34 + 32 + 4));
        assert_eq!(bytes[12..14], [8, 0]);
        assert_eq!(bytes[26..38], [127, 0, 0, 1, 127, 0, 0, 2, 0, 7, 0, 9]);
        // Its length and flags.
        assert_eq!((bytes[34 + 12] >> 4, bytes[34 + 13]), (8, 0x18));
        assert_eq!(usize::from(u16::from_be_bytes([bytes[16], bytes[17]])), bytes.len() - 14);
        let ends = (Endpoint::any(true), Endpoint::any(true));
        let (bytes, start) = segment((&ends.0, &ends.1), SYN, (0, 0), &[]);
        assert_eq!((start, bytes.len(), bytes[54 + 12] >> 4), (54, 54 + 40, 10));
    }
}
