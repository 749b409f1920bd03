//! AF_PACKET (packet(7)): frames as they are on the links. What goes from socket to socket within the namespace makes no
//! frames and is not seen here.
//!
//! Frames come by an upcall that may hold locks of the stack: it queues them and wakes, no more.
//!
//! Locks: `PacketSock::state` is a leaf but for the wait queue.

use super::route::LOOPBACK;
use super::udp::take;
use crate::filter::Packet;
use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{Family, SocketOps, sender_cred};
use crate::{NetNs, SockAddr};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_NET_RAW;
use chitin_abi::netdevice::ETH_P_ALL;
use chitin_abi::num::{low8, low16};
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_host::clock::now_ns;
use chitin_netstack::{FrameIn, FrameKind};
use chitin_vfs::bounds::{INET_SOCKETS, Share, UDP_BYTES};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, PollTable, WaitQueue};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Options of SOL_PACKET.
const PACKET_ADD_MEMBERSHIP: u32 = 1;
const PACKET_DROP_MEMBERSHIP: u32 = 2;
const PACKET_STATISTICS: u32 = 6;
const PACKET_AUXDATA: u32 = 8;
const PACKET_IGNORE_OUTGOING: u32 = 23;
/// TP_STATUS_USER
const STATUS_USER: u32 = 1;
const CLOCK_REALTIME: i32 = 0;
/// Bytes of a hardware header.
const HEADER: usize = 14;
/// What a frame counts for beside its bytes.
const OVERHEAD: usize = 640;

/// A packet socket.
pub struct PacketSock {
    common: Common,
    queue: WaitQueue,
    auxdata: AtomicBool,
    no_outgoing: AtomicBool,
    /// It sends right now: what goes out is its own.
    sending: AtomicBool,
    state: Mutex<State>,
    _counted: Share,
}

struct State {
    /// EtherType, or ETH_P_ALL; 0: nothing is received.
    protocol: u16,
    /// 0: all links.
    link: u32,
    frames: VecDeque<Frame>,
    bytes: usize,
    packets: u32,
    drops: u32,
    error: Option<Errno>,
}

struct Frame {
    data: Box<[u8]>,
    /// Its length before a filter cut it.
    len: usize,
    header: usize,
    from: SockaddrLl,
    at: u64,
}

/// Makes them.
pub(crate) struct PacketFamily;

impl Family for PacketFamily {
    fn create(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno> {
        if !ns.allows(&caller.creds, CAP_NET_RAW) {
            return Err(Errno::EPERM);
        }
        if !matches!(kind, SOCK_RAW | SOCK_DGRAM) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        let counted = INET_SOCKETS.share(1).ok_or(Errno::ENFILE)?;
        let common = Common::new(ns, AF_PACKET, kind, protocol, sender_cred(caller));
        let cookie = common.cookie();
        let sock = Arc::new(PacketSock {
            common,
            queue: WaitQueue::new(),
            auxdata: AtomicBool::new(false),
            no_outgoing: AtomicBool::new(false),
            sending: AtomicBool::new(false),
            state: Mutex::new(State {
                protocol: u16::from_be(low16(protocol)),
                link: 0,
                frames: VecDeque::new(),
                bytes: 0,
                packets: 0,
                drops: 0,
                error: None,
            }),
            _counted: counted,
        });
        ns.inet.packet.lock().insert(cookie, Arc::downgrade(&sock));
        ns.show_frames();
        Ok(sock)
    }
}

/// Shows a frame to all that want it.
pub(super) fn deliver(ns: &NetNs, frame: &FrameIn<'_>) {
    let socks: Vec<_> = ns.inet.packet.lock().values().filter_map(Weak::upgrade).collect();
    for sock in socks {
        sock.take(frame);
    }
}

impl PacketSock {
    fn take(&self, frame: &FrameIn<'_>) {
        let outgoing = frame.kind == FrameKind::Outgoing;
        if outgoing && (self.sending.load(Ordering::Acquire) || self.no_outgoing.load(Ordering::Relaxed)) {
            return;
        }
        // On `lo` there is a hardware header as well, of zeros.
        let [high, low] = frame.protocol.to_be_bytes();
        let head = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low];
        let head: &[u8] = if frame.link == LOOPBACK { &head } else { &[] };
        let header = frame.header.saturating_add(head.len());
        let whole = || [head, &frame.pieces.concat()].concat();
        let len = frame.pieces.iter().map(|piece| piece.len()).sum::<usize>().saturating_add(head.len());
        let wanted = |state: &State| {
            let all = state.protocol == ETH_P_ALL;
            (all || (state.protocol == frame.protocol && !outgoing))
                && (state.link == 0 || state.link == frame.link)
        };
        if !wanted(&self.state.lock()) {
            return;
        }
        let mut kept = len;
        if self.common.filters() {
            let bytes = whole();
            let start = if self.common.kind == SOCK_DGRAM { header } else { 0 };
            let packet = Packet {
                bytes: &bytes,
                start,
                net: Some(header),
                mac: Some(0),
                protocol: frame.protocol,
                kind: frame.kind as u8,
                index: frame.link,
            };
            let Some(admitted) = self.common.admit(&packet) else { return };
            kept = admitted.saturating_add(start).min(len);
        }
        {
            let mut state = self.state.lock();
            if !wanted(&state) {
                return;
            }
            state.packets = state.packets.wrapping_add(1);
            let weight = kept.saturating_add(OVERHEAD);
            if state.bytes > self.common.rcvbuf() || !UDP_BYTES.take(weight) {
                state.drops = state.drops.wrapping_add(1);
                return;
            }
            state.bytes += weight;
            let mut data = whole();
            data.truncate(kept);
            let data = data.into_boxed_slice();
            let from = source(frame, header, &data);
            let at = if self.common.timestamps() { now_ns(CLOCK_REALTIME) } else { 0 };
            state.frames.push_back(Frame { data, len, header, from, at });
        }
        self.queue.wake(POLLIN | POLLRDNORM);
    }

    fn forget(state: &mut State) -> VecDeque<Frame> {
        UDP_BYTES.give(state.bytes);
        state.bytes = 0;
        std::mem::take(&mut state.frames)
    }
}

/// Where a frame came from (the link's own type is not looked up with its locks held: it shows in the header).
fn source(frame: &FrameIn<'_>, header: usize, data: &[u8]) -> SockaddrLl {
    let mut addr = SockaddrLl {
        sll_family: low16(AF_PACKET),
        sll_protocol: frame.protocol.to_be_bytes(),
        sll_ifindex: frame.link.cast_signed(),
        sll_hatype: if frame.link == LOOPBACK { 772 } else { 1 },
        sll_pkttype: frame.kind as u8,
        ..SockaddrLl::default()
    };
    if header >= HEADER
        && let Some(mac) = data.get(6..12)
    {
        addr.sll_halen = 6;
        for (to, from) in addr.sll_addr.iter_mut().zip(mac) {
            *to = *from;
        }
    }
    addr
}

impl SocketOps for PacketSock {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, _ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        let SockAddr::Packet(addr) = addr else { return Err(Errno::EINVAL) };
        let link = addr.sll_ifindex.cast_unsigned();
        if link != 0 && self.common.ns.stack.config.link(link).is_none() {
            return Err(Errno::ENODEV);
        }
        let old = {
            let mut state = self.state.lock();
            state.link = link;
            if addr.sll_protocol != [0, 0] {
                state.protocol = u16::from_be_bytes(addr.sll_protocol);
            }
            PacketSock::forget(&mut state)
        };
        drop(old);
        Ok(())
    }

    fn connect(self: Arc<Self>, _: &Context, _: &SockAddr, _: &mut WaitOn) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        let (link, protocol, to) = match &msg.dest {
            Some(SockAddr::Packet(to)) => {
                (to.sll_ifindex.cast_unsigned(), u16::from_be_bytes(to.sll_protocol), Some(*to))
            }
            Some(_) => return Err(Errno::EINVAL),
            None => {
                let state = self.state.lock();
                (state.link, state.protocol, None)
            }
        };
        if link == 0 {
            return Err(Errno::ENXIO);
        }
        let len = msg.data.left();
        if len > 0x1_0000 + 64 {
            return Err(Errno::EMSGSIZE);
        }
        let data = take(msg.data, len)?;
        let stack = &self.common.ns.stack;
        self.sending.store(true, Ordering::Release);
        let sent = match (self.common.kind, to) {
            (SOCK_RAW, _) => stack.frame_send(link, &data),
            (_, Some(to)) => {
                let [a, b, c, d, e, f, ..] = to.sll_addr;
                stack.frame_send_to(link, [a, b, c, d, e, f], protocol, &data)
            }
            _ => stack.frame_send_to(link, [0; 6], protocol, &data),
        };
        self.sending.store(false, Ordering::Release);
        sent.map(|()| len)
    }

    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        const KNOWN: u32 =
            MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC | MSG_ERRQUEUE | MSG_WAITALL;
        if msg.flags & !KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        if msg.flags & MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        let peek = msg.flags & MSG_PEEK != 0;
        let frame = {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let frame = state.frames.pop_front().ok_or(Errno::EAGAIN)?;
            let weight = frame.data.len().saturating_add(OVERHEAD);
            state.bytes = state.bytes.saturating_sub(weight);
            UDP_BYTES.give(weight);
            frame
        };
        msg.done = true;
        let start = if self.common.kind == SOCK_DGRAM { frame.header } else { 0 };
        let data = frame.data.get(start..).unwrap_or_default();
        let len = data.len();
        let wanted = len.min(msg.data.room());
        let mut done = 0;
        while let Some(rest) = data.get(done..wanted).filter(|rest| !rest.is_empty()) {
            match msg.data.put(rest)? {
                0 => return Err(Errno::EFAULT),
                count => done += count,
            }
        }
        msg.count = wanted;
        if wanted < len {
            msg.out_flags |= MSG_TRUNC;
        }
        msg.addr = Some(SockAddr::Packet(frame.from));
        self.common.tell_timestamp(frame.at, &mut msg.control.other);
        if self.auxdata.load(Ordering::Relaxed) {
            let whole = u32::try_from(frame.len - start).unwrap_or(u32::MAX).to_ne_bytes();
            let kept = u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes();
            let net = low16(u32::try_from(frame.header - start).unwrap_or(0)).to_ne_bytes();
            let mut aux = STATUS_USER.to_ne_bytes().to_vec();
            aux.extend(whole.iter().chain(&kept).chain(&[0, 0]).chain(&net).chain(&[0; 4]));
            msg.control.other.push((SOL_PACKET, PACKET_AUXDATA, aux));
        }
        if peek {
            let mut state = self.state.lock();
            let weight = frame.data.len().saturating_add(OVERHEAD);
            UDP_BYTES.force(weight);
            state.bytes += weight;
            state.frames.push_front(frame);
        }
        Ok(if msg.flags & MSG_TRUNC != 0 { len } else { wanted })
    }

    fn shutdown(&self, _how: u32) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        let (link, protocol) = {
            let state = self.state.lock();
            (state.link, state.protocol)
        };
        let mut addr = SockaddrLl {
            sll_family: low16(AF_PACKET),
            sll_protocol: protocol.to_be_bytes(),
            sll_ifindex: link.cast_signed(),
            ..SockaddrLl::default()
        };
        if let Some(link) = self.common.ns.stack.config.link(link) {
            addr.sll_hatype = link.hw_type;
            addr.sll_halen = low8(6);
            for (to, from) in addr.sll_addr.iter_mut().zip(link.hw_addr) {
                *to = from;
            }
        }
        Ok(SockAddr::Packet(addr))
    }
    fn getpeername(&self) -> Result<SockAddr, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn setsockopt(&self, level: u32, name: u32, value: &[u8], _caller: &Caller) -> Result<(), Errno> {
        if level != SOL_PACKET {
            return Err(Errno::ENOPROTOOPT);
        }
        let number = value.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)?;
        match name {
            // All that is on the link is shown as it is.
            PACKET_ADD_MEMBERSHIP | PACKET_DROP_MEMBERSHIP => {
                if value.len() < 16 {
                    return Err(Errno::EINVAL);
                }
                let known = self.common.ns.stack.config.link(number.cast_unsigned()).is_some();
                if known { Ok(()) } else { Err(Errno::ENODEV) }
            }
            PACKET_AUXDATA => {
                self.auxdata.store(number != 0, Ordering::Relaxed);
                Ok(())
            }
            PACKET_IGNORE_OUTGOING if !(0..=1).contains(&number) => Err(Errno::EINVAL),
            PACKET_IGNORE_OUTGOING => {
                self.no_outgoing.store(number != 0, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
    fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        if level != SOL_PACKET {
            return Err(Errno::ENOPROTOOPT);
        }
        let raw = match name {
            PACKET_STATISTICS => {
                let mut state = self.state.lock();
                let (packets, drops) = (std::mem::take(&mut state.packets), std::mem::take(&mut state.drops));
                [packets.to_ne_bytes(), drops.to_ne_bytes()].concat()
            }
            PACKET_AUXDATA => i32::from(self.auxdata.load(Ordering::Relaxed)).to_ne_bytes().to_vec(),
            PACKET_IGNORE_OUTGOING => {
                i32::from(self.no_outgoing.load(Ordering::Relaxed)).to_ne_bytes().to_vec()
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(OptValue::Value(raw.into_iter().take(room).collect()))
    }

    fn input_queued(&self) -> Result<usize, Errno> {
        Ok(self.state.lock().frames.front().map_or(0, |frame| frame.data.len()))
    }
    fn output_queued(&self) -> Result<usize, Errno> {
        Ok(0)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue);
        }
        let state = self.state.lock();
        let mut mask = POLLOUT | POLLWRNORM | POLLWRBAND;
        if !state.frames.is_empty() {
            mask |= POLLIN | POLLRDNORM;
        }
        if state.error.is_some() {
            mask |= POLLERR;
        }
        mask
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }
    fn release(self: Arc<Self>) {
        let ns = &self.common.ns;
        ns.inet.packet.lock().remove(&self.common.cookie());
        ns.show_frames();
        let old = PacketSock::forget(&mut self.state.lock());
        drop(old);
    }
}
