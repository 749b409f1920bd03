//! The link layer: a link's device with what is known of it at run time, and how frames get a link header.
//!
//! Locks: a neighbour's state → the device. Taps are told of outgoing frames with the sender's locks held.

mod arp;
mod input;
mod loopback;
mod neigh;
mod proxy;

pub(crate) use loopback::{Backlog, Dummy, Loopback};
pub(crate) use neigh::{Neigh, Neighbours};
pub(crate) use proxy::Proxies;

use crate::config::{Conf, LinkStats};
use crate::device::{Csum, Device, DeviceInfo, Gso, TxFrame};
use crate::sockets::{FrameIn, FrameKind};
use crate::stack::Stack;
use crate::wire::{Eth, len16, len32};
use chitin_abi::netdevice::*;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use zerocopy::IntoBytes;

/// Room for a link header in front of each packet.
pub(crate) const LINK_LEN: usize = size_of::<Eth>();

/// A link at run time.
pub(crate) struct Port {
    pub index: u32,
    pub device: Arc<dyn Device>,
    pub info: DeviceInfo,
    pub stats: Arc<LinkStats>,
    pub conf: Arc<Conf>,
    pub up: AtomicBool,
    pub mtu: AtomicU32,
    /// Nobody there needs to be asked for an address.
    pub noarp: AtomicBool,
    pub neighbours: Neighbours,
}

impl Port {
    pub fn is_ether(&self) -> bool {
        self.info.hw_type == ARPHRD_ETHER
    }
    pub fn is_lo(&self) -> bool {
        self.info.hw_type == ARPHRD_LOOPBACK
    }
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }
    pub fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed) as usize
    }
    fn eth(&self, dst: [u8; 6], proto: u16) -> Eth {
        Eth { dst, src: self.info.hw_addr, proto: proto.into() }
    }
}

/// Headers being written: link header room first.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    buf: [u8; Head::SIZE],
    len: usize,
}

impl Head {
    /// Ethernet, the longest IPv4 header or IPv6 with a fragment header, the longest TCP header.
    const SIZE: usize = LINK_LEN + 60 + 60;

    pub fn new() -> Head {
        Head { buf: [0; Head::SIZE], len: LINK_LEN }
    }
    /// Appends as much as fits; callers keep within the limits of their protocols.
    pub fn push(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.buf.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }
    /// From the IP header on.
    pub fn packet(&self) -> &[u8] {
        self.buf.get(LINK_LEN..self.len).unwrap_or_default()
    }
    fn frame(&self, link: bool) -> &[u8] {
        self.buf.get(if link { 0 } else { LINK_LEN }..self.len).unwrap_or_default()
    }
    fn set_link(&mut self, eth: &Eth) {
        if let Some(room) = self.buf.get_mut(..LINK_LEN) {
            room.copy_from_slice(eth.as_bytes());
        }
    }
}

/// A packet on its way out. Offsets in `csum` and `gso` count from the IP header on.
#[derive(Clone, Copy)]
pub(crate) struct Out<'a> {
    pub head: Head,
    pub body: [&'a [u8]; 2],
    pub csum: Option<Csum>,
    pub gso: Option<Gso>,
}

impl<'a> Out<'a> {
    pub const EMPTY: Out<'static> =
        Out { head: Head { buf: [0; Head::SIZE], len: LINK_LEN }, body: [&[], &[]], csum: None, gso: None };

    pub fn new(head: Head, body: &'a [u8]) -> Out<'a> {
        Out { head, body: [body, &[]], csum: None, gso: None }
    }
}

/// A packet that waits for its neighbour: in one piece, from the IP header on.
pub(crate) struct Flat {
    proto: u16,
    pub packet: Vec<u8>,
    csum: Option<Csum>,
    gso: Option<Gso>,
}

impl Flat {
    fn of(proto: u16, out: &Out<'_>) -> Flat {
        let mut packet = out.head.packet().to_vec();
        out.body.iter().for_each(|piece| packet.extend_from_slice(piece));
        Flat { proto, packet, csum: out.csum, gso: out.gso }
    }
}

/// To whom on a link.
#[derive(Clone)]
pub(crate) enum To {
    /// Links without addresses.
    Nobody,
    Known([u8; 6]),
    Neighbour(Arc<Neigh>),
}

/// Where a packet leaves.
#[derive(Clone)]
pub(crate) struct Hop {
    pub port: Arc<Port>,
    pub to: To,
}

/// How many frames a device gets at a time.
pub(crate) const BATCH: usize = 16;

const EMPTY: TxFrame<'static> = TxFrame { head: &[], body: [&[], &[]], csum: None, gso: None };

impl Stack {
    /// The hop for packets to `next` on a link.
    pub(crate) fn hop(&self, link: u32, next: IpAddr, broadcast: bool) -> Option<Hop> {
        let port = self.port(link)?;
        let to = if !port.is_ether() {
            To::Nobody
        } else if broadcast {
            To::Known([0xff; 6])
        } else if let Some(group) = group_mac(&next) {
            To::Known(group)
        } else if port.noarp.load(Ordering::Relaxed) {
            To::Known(port.info.hw_addr)
        } else {
            To::Neighbour(self.neighbour(&port, next)?)
        };
        Some(Hop { port, to })
    }

    /// Sends packets of one protocol (ETH_P_*) to one hop; how many were taken. Those that wait for a neighbour are.
    pub(crate) fn emit(&self, hop: &Hop, proto: u16, outs: &mut [Out<'_>]) -> usize {
        if !hop.port.is_up() {
            hop.port.stats.tx_dropped.fetch_add(1, Ordering::Relaxed);
            return outs.len();
        }
        let dst = match &hop.to {
            To::Nobody => None,
            To::Known(mac) => Some(*mac),
            To::Neighbour(neigh) => match self.resolve(&hop.port, neigh) {
                Some(mac) => Some(mac),
                None => {
                    let waiting = outs.iter().all(|out| self.enqueue(&hop.port, neigh, proto, out));
                    if !waiting {
                        hop.port.stats.tx_dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    return outs.len();
                }
            },
        };
        self.emit_to(&hop.port, dst, proto, outs)
    }

    /// Sends packets to a hardware address.
    pub(crate) fn emit_to(
        &self,
        port: &Port,
        dst: Option<[u8; 6]>,
        proto: u16,
        outs: &mut [Out<'_>],
    ) -> usize {
        let eth = dst.map(|dst| port.eth(dst, proto));
        if let Some(eth) = &eth {
            outs.iter_mut().for_each(|out| out.head.set_link(eth));
        }
        let shift = if eth.is_some() { LINK_LEN } else { 0 };
        let add = |n: u16| len16(usize::from(n) + shift).get();
        let mut taken = 0;
        for chunk in outs.chunks(BATCH) {
            let mut frames = [EMPTY; BATCH];
            for (frame, out) in frames.iter_mut().zip(chunk) {
                frame.head = out.head.frame(eth.is_some());
                frame.body = out.body;
                frame.csum = out.csum.map(|c| Csum { start: add(c.start), ..c });
                frame.gso = out.gso.map(|g| Gso { header: add(g.header), ..g });
            }
            let frames = frames.get(..chunk.len()).unwrap_or_default();
            let n = self.emit_frames(port, proto, shift, frames);
            taken += n;
            if n < frames.len() {
                break;
            }
        }
        taken
    }

    /// Sends a packet that has waited.
    fn emit_flat(&self, port: &Port, dst: [u8; 6], flat: &Flat) {
        let eth = port.eth(dst, flat.proto);
        let add = |n: u16| len16(usize::from(n) + LINK_LEN).get();
        let frame = TxFrame {
            head: eth.as_bytes(),
            body: [&flat.packet, &[]],
            csum: flat.csum.map(|c| Csum { start: add(c.start), ..c }),
            gso: flat.gso.map(|g| Gso { header: add(g.header), ..g }),
        };
        self.emit_frames(port, flat.proto, LINK_LEN, &[frame]);
    }

    /// Hands frames to the device, with whoever looks on told.
    pub(crate) fn emit_frames(
        &self,
        port: &Port,
        proto: u16,
        header: usize,
        frames: &[TxFrame<'_>],
    ) -> usize {
        if self.frames_wanted() {
            frames.iter().for_each(|frame| self.tap_out(port, frame, proto, header));
        }
        let n = port.device.transmit(frames).min(frames.len());
        let bytes: usize = frames.iter().take(n).map(TxFrame::len).sum();
        port.stats.tx_packets.fetch_add(u64::from(len32(n)), Ordering::Relaxed);
        port.stats.tx_bytes.fetch_add(u64::from(len32(bytes)), Ordering::Relaxed);
        if n < frames.len() {
            port.stats.tx_dropped.fetch_add(u64::from(len32(frames.len() - n)), Ordering::Relaxed);
        }
        n
    }

    fn tap_out(&self, port: &Port, frame: &TxFrame<'_>, proto: u16, header: usize) {
        let Some(sockets) = self.sockets() else { return };
        let [a, b] = frame.body;
        sockets.packet(&FrameIn {
            link: port.index,
            pieces: [frame.head, a, b],
            header,
            protocol: proto,
            kind: FrameKind::Outgoing,
            time: self.now(),
        });
    }
}

/// The Ethernet address of a group.
fn group_mac(addr: &IpAddr) -> Option<[u8; 6]> {
    match addr {
        IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V4(a) if a.is_broadcast() => Some([0xff; 6]),
        IpAddr::V6(a) if a.is_multicast() => {
            let [.., p, q, r, s] = a.octets();
            Some([0x33, 0x33, p, q, r, s])
        }
        _ => None,
    }
}
