//! What sockets that receive datagrams have in common: the queue, the error queue, and what is told beside the data.
//!
//! Locks: `Inbox::state` is a leaf but for the wait queue, which is woken with it released.

use super::addr::{Endpoint, as_v6};
use super::ip::IpOptions;
use super::route::LOOPBACK;
use crate::filter::Packet;
use crate::msg::RecvMsg;
use crate::options::Common;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::num::low8;
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_host::clock::now_ns;
use chitin_vfs::WaitQueue;
use chitin_vfs::bounds::UDP_BYTES;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::net::IpAddr;
use zerocopy::IntoBytes;

const CLOCK_REALTIME: i32 = 0;
const UDP_HEADER: usize = 8;
/// Errors kept for MSG_ERRQUEUE.
const MAX_ERRORS: usize = 64;
/// SO_EE_ORIGIN_ICMP and SO_EE_ORIGIN_ICMP6.
pub const ORIGIN_ICMP: u8 = 2;
pub const ORIGIN_ICMP6: u8 = 3;

/// A datagram that was received.
#[derive(Clone)]
pub struct Datagram {
    pub data: Box<[u8]>,
    pub from: Endpoint,
    pub to: Endpoint,
    pub index: u32,
    pub ttl: u8,
    pub tos: u8,
    /// Several of this length in one (UDP_GRO); 0: it is one.
    pub segment: u16,
    /// When it came, in nanoseconds of the real time; 0: nobody asked.
    pub at: u64,
}

/// What became of a datagram that was sent.
#[derive(Clone)]
pub struct Failure {
    pub errno: Errno,
    pub origin: u8,
    pub kind: u8,
    pub code: u8,
    pub info: u32,
    pub offender: IpAddr,
    pub dest: Endpoint,
    pub data: Box<[u8]>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Datagram>,
    bytes: usize,
    failures: VecDeque<Failure>,
    error: Option<Errno>,
    drops: u32,
    closed: bool,
}

/// The receiving half of a datagram socket.
pub struct Inbox {
    pub queue: WaitQueue,
    state: Mutex<State>,
}

/// What a datagram of `len` bytes counts for (skb->truesize).
fn weight(len: usize) -> usize {
    256 + len.saturating_add(28 + 320 + 64).next_power_of_two().max(512)
}

impl Inbox {
    pub fn new() -> Inbox {
        Inbox { queue: WaitQueue::new(), state: Mutex::default() }
    }

    /// Queues a datagram, or loses it where there is no room.
    pub fn push(&self, common: &Common, mut datagram: Datagram) {
        if common.timestamps() {
            datagram.at = now_ns(CLOCK_REALTIME);
        }
        if common.filters() && !filter(common, &mut datagram) {
            return;
        }
        let weight = weight(datagram.data.len());
        {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            if state.bytes > common.rcvbuf() || !UDP_BYTES.take(weight) {
                state.drops = state.drops.wrapping_add(1);
                return;
            }
            state.bytes += weight;
            state.queue.push_back(datagram);
        }
        self.queue.wake(POLLIN | POLLRDNORM);
    }

    /// An error for the next call, and what is known of it where somebody wants to know.
    pub fn fail(&self, error: Errno, failure: Option<Failure>) {
        {
            let mut state = self.state.lock();
            state.error = Some(error);
            if let Some(failure) = failure.filter(|_| state.failures.len() < MAX_ERRORS) {
                state.failures.push_back(failure);
            }
        }
        self.queue.wake(POLLERR | POLLIN | POLLOUT);
    }

    pub fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// Poll bits but those of shutdown(2).
    pub fn mask(&self) -> u32 {
        let state = self.state.lock();
        let mut mask = POLLOUT | POLLWRNORM | POLLWRBAND;
        if state.error.is_some() || !state.failures.is_empty() {
            mask |= POLLERR;
        }
        if !state.queue.is_empty() {
            mask |= POLLIN | POLLRDNORM;
        }
        mask
    }

    /// Bytes of the next datagram (SIOCINQ), and of the memory of all.
    pub fn queued(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.queue.front().map_or(0, |first| first.data.len()), state.bytes)
    }

    /// Forgets what came from others than `keep` says, when the socket is closed or connected.
    pub fn close(&self) {
        let old = {
            let mut state = self.state.lock();
            state.closed = true;
            UDP_BYTES.give(state.bytes);
            state.bytes = 0;
            std::mem::take(&mut state.queue)
        };
        drop(old);
    }

    /// recvmsg(2). `ended`: shut down for receiving.
    pub fn receive(
        &self,
        common: &Common,
        options: &IpOptions,
        msg: &mut RecvMsg<'_>,
        ended: bool,
    ) -> Result<usize, Errno> {
        let v6 = common.family == AF_INET6;
        if msg.flags & MSG_ERRQUEUE != 0 {
            return self.receive_failure(v6, msg);
        }
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let peek = msg.flags & MSG_PEEK != 0;
        let (datagram, drops) = {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let next = if peek { state.queue.front().cloned() } else { state.queue.pop_front() };
            let Some(datagram) = next else {
                msg.done = ended && msg.flags & MSG_DONTWAIT == 0;
                return if msg.done { Ok(0) } else { Err(Errno::EAGAIN) };
            };
            if !peek {
                let weight = weight(datagram.data.len());
                state.bytes = state.bytes.saturating_sub(weight);
                UDP_BYTES.give(weight);
            }
            (datagram, state.drops)
        };
        msg.done = true;
        let len = datagram.data.len();
        let wanted = len.min(msg.data.room());
        store(msg, datagram.data.get(..wanted).unwrap_or_default())?;
        msg.count = wanted;
        msg.addr = Some(datagram.from.encode(v6));
        if wanted < len {
            msg.out_flags |= MSG_TRUNC;
        }
        common.tell_timestamp(datagram.at, &mut msg.control.other);
        if drops > 0 && common.flag(SO_RXQ_OVFL) {
            msg.control.other.push((SOL_SOCKET, SO_RXQ_OVFL, drops.to_ne_bytes().to_vec()));
        }
        if options.tells() {
            tell(v6, options, &datagram, &mut msg.control.other);
        }
        if datagram.segment != 0 {
            msg.control.other.push((SOL_UDP, UDP_GRO, i32::from(datagram.segment).to_ne_bytes().to_vec()));
        }
        Ok(if msg.flags & MSG_TRUNC != 0 { len } else { wanted })
    }

    /// MSG_ERRQUEUE (ip_recv_error()): what was sent, to whom, and what came back.
    fn receive_failure(&self, v6: bool, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        let failure = {
            let mut state = self.state.lock();
            let failure = state.failures.pop_front().ok_or(Errno::EAGAIN)?;
            // The error to be told is that of the next one.
            state.error = state.failures.front().map(|next| next.errno);
            failure
        };
        msg.done = true;
        let wanted = failure.data.len().min(msg.data.room());
        store(msg, failure.data.get(..wanted).unwrap_or_default())?;
        msg.count = wanted;
        if wanted < failure.data.len() {
            msg.out_flags |= MSG_TRUNC;
        }
        msg.out_flags |= MSG_ERRQUEUE;
        msg.addr = Some(failure.dest.encode(v6));
        let mut raw = failure.errno.raw().to_ne_bytes().to_vec();
        raw.extend([failure.origin, failure.kind, failure.code, 0]);
        raw.extend(failure.info.to_ne_bytes());
        raw.extend([0; 4]);
        raw.extend(Endpoint::new(failure.offender, 0).encode(v6).encode());
        let (level, kind) = if v6 { (SOL_IPV6, IPV6_RECVERR) } else { (SOL_IP, IP_RECVERR) };
        msg.control.other.push((level, kind, raw));
        Ok(wanted)
    }
}

/// Shows a datagram to the socket's filter, with the headers that it finds in Linux: UDP's with those of IP before it, of raw IPv4
/// sockets what they receive anyway. Cuts what is not kept. False: it is lost.
pub(crate) fn filter(common: &Common, datagram: &mut Datagram) -> bool {
    let udp = common.kind == SOCK_DGRAM && matches!(common.protocol, IPPROTO_UDP | IPPROTO_UDPLITE);
    let v4 = datagram.to.ip.is_ipv4();
    let mut bytes = Vec::new();
    if udp {
        network_header(datagram, &mut bytes);
        let len = datagram.data.len().saturating_add(UDP_HEADER);
        for field in [datagram.from.port, datagram.to.port, u16::try_from(len).unwrap_or(u16::MAX), 0] {
            bytes.extend(field.to_be_bytes());
        }
    }
    let head = if udp { UDP_HEADER } else { 0 };
    let start = bytes.len() - head;
    bytes.extend_from_slice(&datagram.data);
    let raw = common.kind == SOCK_RAW && v4;
    let packet = Packet {
        bytes: &bytes,
        start,
        net: (udp || raw).then_some(0),
        protocol: if v4 { 0x0800 } else { 0x86dd },
        index: datagram.index,
        ..Packet::default()
    };
    let Some(kept) = common.admit(&packet) else { return false };
    let kept = kept.saturating_sub(head);
    if kept < datagram.data.len() {
        datagram.data = datagram.data.get(..kept).unwrap_or_default().into();
    }
    true
}

/// The header of IP that a datagram came with, as far as it is known.
fn network_header(datagram: &Datagram, out: &mut Vec<u8>) {
    let payload = datagram.data.len().saturating_add(UDP_HEADER);
    let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    match (datagram.from.ip, datagram.to.ip) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend([0x45, datagram.tos]);
            out.extend(short(payload.saturating_add(20)));
            out.extend([0, 0, 0x40, 0, datagram.ttl, low8(IPPROTO_UDP), 0, 0]);
            out.extend(from.octets().iter().chain(&to.octets()));
        }
        (from, to) => {
            out.extend([0x60 | datagram.tos >> 4, datagram.tos << 4, 0, 0]);
            out.extend(short(payload));
            out.extend([low8(IPPROTO_UDP), datagram.ttl]);
            out.extend(as_v6(from).octets().iter().chain(&as_v6(to).octets()));
        }
    }
}

/// All of it, or EFAULT.
fn store(msg: &mut RecvMsg<'_>, data: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match msg.data.put(rest)? {
            0 => return Err(Errno::EFAULT),
            count => done += count,
        }
    }
    Ok(())
}

/// Control messages about a datagram (ip_cmsg_recv_offset(), ip6_datagram_recv_ctl()).
fn tell(v6: bool, options: &IpOptions, datagram: &Datagram, out: &mut Vec<(u32, u32, Vec<u8>)>) {
    let int = |n: u8| i32::from(n).to_ne_bytes().to_vec();
    if v6 && options.on6(IPV6_RECVPKTINFO) {
        let info = In6Pktinfo {
            ipi6_addr: as_v6(datagram.to.ip).octets(),
            ipi6_ifindex: datagram.index.cast_signed(),
        };
        out.push((SOL_IPV6, IPV6_PKTINFO, info.as_bytes().to_vec()));
    }
    match datagram.to.ip {
        IpAddr::V4(to) => {
            if options.on(IP_PKTINFO) {
                // The address that an answer would come from.
                let local =
                    if to.is_multicast() || to.is_broadcast() { datagram.from.ip } else { datagram.to.ip };
                let local = match local {
                    IpAddr::V4(ip) => ip.octets(),
                    IpAddr::V6(_) => [0; 4],
                };
                let info = InPktinfo {
                    ipi_ifindex: datagram.index.cast_signed(),
                    ipi_spec_dst: if datagram.index == LOOPBACK { local } else { to.octets() },
                    ipi_addr: to.octets(),
                };
                out.push((SOL_IP, IP_PKTINFO, info.as_bytes().to_vec()));
            }
            if options.on(IP_RECVTTL) {
                out.push((SOL_IP, IP_TTL, int(datagram.ttl)));
            }
            if options.on(IP_RECVTOS) {
                out.push((SOL_IP, IP_TOS, vec![datagram.tos]));
            }
            if options.on(IP_RECVORIGDSTADDR) {
                out.push((SOL_IP, IP_ORIGDSTADDR, datagram.to.encode(false).encode()));
            }
        }
        IpAddr::V6(_) if v6 => {
            if options.on6(IPV6_RECVHOPLIMIT) {
                out.push((SOL_IPV6, IPV6_HOPLIMIT, int(datagram.ttl)));
            }
            if options.on6(IPV6_RECVTCLASS) {
                out.push((SOL_IPV6, IPV6_TCLASS, int(datagram.tos)));
            }
            if options.on6(IPV6_RECVORIGDSTADDR) {
                out.push((SOL_IPV6, IPV6_ORIGDSTADDR, datagram.to.encode(true).encode()));
            }
        }
        IpAddr::V6(_) => {}
    }
}
