//! UDP sockets (udp(7)), and those of UDP-Lite (udplite(7)), which do not reach beyond the namespace.
//!
//! A datagram to this namespace goes straight into the queues of the sockets it is for; one that is for nobody comes back
//! as an error, as its ICMP message would. Modules: [`send`].
//!
//! Locks: `UdpSock::core` → tables of the namespace; queues of others are filled with nothing locked.

mod send;

pub(crate) use send::take;

use super::addr::Endpoint;
use super::datagram::{Datagram, Failure, Inbox};
use super::ip::IpOptions;
use super::list::Entry;
use super::ports::{Claim, Proto, Wish};
use super::{check_bind, fit, ports, route};
use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{SocketOps, sender_cred};
use crate::{NetNs, SockAddr};
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_vfs::bounds::{INET_SOCKETS, Share};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, PollTable, WaitQueue};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Weak};

/// Options of UDP-Lite: how much of a datagram its checksum covers.
const UDPLITE_SEND_CSCOV: u32 = 10;
const UDPLITE_RECV_CSCOV: u32 = 11;

/// Bits of `shutdown`.
const RCV: u32 = 1;
const SEND: u32 = 2;

/// A UDP socket.
pub struct UdpSock {
    pub(super) common: Common,
    pub(super) v6: bool,
    pub(super) ip: IpOptions,
    me: Weak<UdpSock>,
    inbox: Inbox,
    /// UDP_SEGMENT, UDP_GRO.
    segment: AtomicU16,
    gro: AtomicBool,
    /// UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV.
    coverage: [AtomicU16; 2],
    core: Mutex<Core>,
    _counted: Share,
}

struct Core {
    local: Endpoint,
    remote: Option<Endpoint>,
    claim: Option<Arc<Claim>>,
    bound_addr: bool,
    bound_port: bool,
    shutdown: u32,
    corked: bool,
    /// What MSG_MORE has collected, and for whom.
    pending: Option<(Endpoint, Vec<u8>)>,
}

impl UdpSock {
    pub fn new(ns: &Arc<NetNs>, v6: bool, lite: bool, creator: &Caller) -> Result<Arc<UdpSock>, Errno> {
        let counted = INET_SOCKETS.share(1).ok_or(Errno::ENFILE)?;
        let family = if v6 { AF_INET6 } else { AF_INET };
        Ok(Arc::new_cyclic(|me| UdpSock {
            common: Common::new(
                ns,
                family,
                SOCK_DGRAM,
                if lite { IPPROTO_UDPLITE } else { IPPROTO_UDP },
                sender_cred(creator),
            ),
            v6,
            ip: IpOptions::new(ns, v6),
            me: me.clone(),
            inbox: Inbox::new(),
            segment: AtomicU16::new(0),
            gro: AtomicBool::new(false),
            coverage: Default::default(),
            core: Mutex::new(Core {
                local: Endpoint::any(v6),
                remote: None,
                claim: None,
                bound_addr: false,
                bound_port: false,
                shutdown: 0,
                corked: false,
                pending: None,
            }),
            _counted: counted,
        }))
    }

    fn lite(&self) -> bool {
        self.common.protocol == IPPROTO_UDPLITE
    }
    fn proto(&self) -> Proto {
        if self.lite() { Proto::UdpLite } else { Proto::Udp }
    }
    fn coverage(&self, name: u32) -> Option<&AtomicU16> {
        let [send, receive] = &self.coverage;
        match name {
            UDPLITE_SEND_CSCOV if self.lite() => Some(send),
            UDPLITE_RECV_CSCOV if self.lite() => Some(receive),
            _ => None,
        }
    }

    /// Takes a port and enters the table of those that receive.
    fn take_port(&self, core: &mut Core, at: Endpoint) -> Result<(), Errno> {
        let (common, v6) = (&self.common, self.v6);
        let wish =
            Wish { proto: self.proto(), common, v6, v6only: self.ip.v6only(), uid: common.creator.uid, at };
        let claim = common.ns.inet.ports(self.proto()).bind(&wish, self.ip.port_range(&common.ns))?;
        core.local = Endpoint { port: claim.port, ..at };
        table(&common.ns, self.lite()).lock().entry(claim.port).or_default().push(self.me.clone());
        core.claim = Some(claim);
        Ok(())
    }

    fn leave_port(&self, core: &mut Core) -> Option<Arc<Claim>> {
        let claim = core.claim.take()?;
        let mut table = table(&self.common.ns, self.lite()).lock();
        if let Some(list) = table.get_mut(&claim.port) {
            list.retain(|sock| !Weak::ptr_eq(sock, &self.me));
            if list.is_empty() {
                table.remove(&claim.port);
            }
        }
        Some(claim)
    }

    /// inet_autobind()
    fn autobind(&self, core: &mut Core) -> Result<(), Errno> {
        if core.claim.is_none() {
            let at = Endpoint { port: 0, ..core.local };
            self.take_port(core, at).map_err(|_| Errno::EAGAIN)?;
        }
        Ok(())
    }

    fn disconnect(&self) {
        let mut core = self.core.lock();
        core.remote = None;
        if !core.bound_addr {
            core.local = Endpoint { port: core.local.port, ..Endpoint::any(self.v6) };
        }
        let claim = if core.bound_port { None } else { self.leave_port(&mut core) };
        if claim.is_some() {
            core.local.port = 0;
        }
        drop(core);
        drop(claim);
    }

    /// How well it fits a datagram (compute_score()); `None`: not at all.
    fn score(&self, link: u32, from: &Endpoint, to: &Endpoint) -> Option<u32> {
        let device = self.common.device_index();
        if device != 0 && link != 0 && device != link {
            return None;
        }
        let core = self.core.lock();
        let mut score = fit(self.v6, self.ip.v6only(), core.local.ip, to.ip)?;
        if let Some(remote) = core.remote {
            if remote.ip != from.ip || remote.port != from.port {
                return None;
            }
            score += 8;
        }
        Some(score)
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        let core = self.core.lock();
        core.claim.as_ref()?;
        Some(Entry {
            v6: self.v6,
            protocol: self.common.protocol,
            state: if core.remote.is_some() { TCP_ESTABLISHED } else { TCP_CLOSE },
            local: core.local,
            remote: core.remote.unwrap_or(Endpoint::any(self.v6)),
            send_queue: 0,
            receive_queue: self.inbox.queued().1,
            uid: self.common.creator.uid,
            inode: self.common.ino(),
            cookie: self.common.cookie(),
            timer: None,
        })
    }

    fn receives(&self) -> bool {
        self.core.lock().shutdown & RCV == 0
    }

    /// A datagram for this socket. Several in one (UDP_SEGMENT) stay together if it has asked for that (UDP_GRO).
    fn push(&self, datagram: Datagram) {
        let size = usize::from(datagram.segment);
        if size == 0 || self.gro.load(Ordering::Relaxed) {
            return self.inbox.push(&self.common, datagram);
        }
        for part in datagram.data.chunks(size) {
            let Datagram { from, to, index, ttl, tos, at, .. } = datagram;
            let part = Datagram { data: part.into(), from, to, index, ttl, tos, segment: 0, at };
            self.inbox.push(&self.common, part);
        }
    }
}

/// Sockets by their port.
pub(super) type Table = Mutex<HashMap<u16, Vec<Weak<UdpSock>>>>;

fn table(ns: &NetNs, lite: bool) -> &Table {
    if lite { &ns.inet.lite } else { &ns.inet.udp }
}

/// An error about a datagram that was sent from `from`.
pub(super) fn failed(ns: &NetNs, from: &Endpoint, failure: Failure, fatal: bool) {
    let candidates = ns.inet.udp.lock().get(&from.port).cloned().unwrap_or_default();
    let mut socks = candidates.iter().filter_map(Weak::upgrade);
    let Some(sock) = socks.find(|sock| sock.score(0, &failure.dest, from).is_some()) else { return };
    let v6 = failure.dest.ip.is_ipv6();
    let wants = if v6 { sock.ip.on6(IPV6_RECVERR) } else { sock.ip.on(IP_RECVERR) };
    if wants || (fatal && sock.core.lock().remote.is_some()) {
        sock.inbox.fail(failure.errno, wants.then_some(failure));
    }
}

/// Gives a datagram to those it is for; false: there is nobody.
pub(super) fn deliver(ns: &NetNs, lite: bool, datagram: Datagram) -> bool {
    let candidates = table(ns, lite).lock().get(&datagram.to.port).cloned().unwrap_or_default();
    let (from, to, link) = (datagram.from, datagram.to, datagram.index);
    let many = to.ip.is_multicast()
        || matches!(to.ip, IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[3] == 255 && ip.is_loopback());
    if many {
        for sock in candidates.iter().filter_map(Weak::upgrade) {
            let admits = !to.ip.is_multicast() || sock.ip.admits(to.ip, from.ip, datagram.index);
            if admits && sock.score(link, &from, &to).is_some() {
                sock.push(datagram.clone());
            }
        }
        return true;
    }
    let mut best: Vec<Arc<UdpSock>> = Vec::new();
    let mut score = 0;
    for sock in candidates.iter().filter_map(Weak::upgrade) {
        let Some(own) = sock.score(link, &from, &to) else { continue };
        if own > score {
            (score, best) = (own, vec![sock]);
        } else if own == score {
            best.push(sock);
        }
    }
    let group = best.first().is_some_and(|sock| sock.common.flag(SO_REUSEPORT));
    // Of those that merely share a port, the last one that was bound.
    let which = match best.len() {
        0 => return false,
        count if group => usize::try_from(ports::keyed(&(from, to)) % count as u64).unwrap_or(0),
        count => count - 1,
    };
    if let Some(sock) = best.get(which) {
        sock.push(datagram);
    }
    true
}

impl SocketOps for UdpSock {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        let at = Endpoint::parse(self.v6, addr)?;
        check_bind(&self.common.ns, &self.ip, self.v6, &at, ctx, true)?;
        let mut core = self.core.lock();
        if core.claim.is_some() || core.remote.is_some() {
            return Err(Errno::EINVAL);
        }
        if at.port == 0 && self.ip.bind_no_port() {
            core.local = at;
        } else {
            self.take_port(&mut core, at)?;
        }
        core.bound_addr = !at.ip.is_unspecified();
        core.bound_port = at.port != 0;
        Ok(())
    }

    fn connect(self: Arc<Self>, _ctx: &Context, addr: &SockAddr, _: &mut WaitOn) -> Result<(), Errno> {
        if matches!(addr, SockAddr::Unspec) {
            self.disconnect();
            return Ok(());
        }
        let mut core = self.core.lock();
        self.autobind(&mut core)?;
        let mut remote = self.parse_dest(addr, Errno::EAFNOSUPPORT)?;
        remote.ip = route::self_if_any(remote.ip);
        let way = self.way(&core, remote.ip, None)?;
        if way.broadcast() && !self.common.flag(SO_BROADCAST) {
            return Err(Errno::EACCES);
        }
        if core.local.ip.is_unspecified() {
            core.local.ip = way.source;
        }
        core.remote = Some(remote);
        Ok(())
    }

    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        self.send(msg)
    }
    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        match self.inbox.receive(&self.common, &self.ip, msg, !self.receives()) {
            Err(Errno::EAGAIN) if msg.flags & MSG_ERRQUEUE != 0 => {
                self.common.completions.receive(self.v6, msg)
            }
            result => result,
        }
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let connected = {
            let mut core = self.core.lock();
            core.shutdown |= (how + 1) & (RCV | SEND);
            core.remote.is_some()
        };
        self.inbox.queue.wake(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP | POLLOUT);
        if connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        Ok(self.core.lock().local.encode(self.v6))
    }
    fn getpeername(&self) -> Result<SockAddr, Errno> {
        let remote = self.core.lock().remote.filter(|remote| remote.port != 0);
        Ok(remote.ok_or(Errno::ENOTCONN)?.encode(self.v6))
    }

    fn setsockopt(&self, level: u32, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        if level == SOL_UDPLITE
            && let Some(place) = self.coverage(name)
        {
            // Less than a header is all of one; 0 is all there is.
            let number = value.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)?;
            let number = if number == 0 { 0 } else { number.clamp(8, 0xffff) };
            place.store(u16::try_from(number).unwrap_or(0), Ordering::Relaxed);
            return Ok(());
        }
        if level != SOL_UDP {
            return self.ip.set(self, level, name, value, caller);
        }
        let number = value.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)?;
        match name {
            UDP_CORK => {
                self.core.lock().corked = number != 0;
                if number == 0 { self.push_pending() } else { Ok(()) }
            }
            UDP_SEGMENT => {
                let size = u16::try_from(number).map_err(|_| Errno::EINVAL)?;
                self.segment.store(size, Ordering::Relaxed);
                Ok(())
            }
            UDP_GRO => {
                self.gro.store(number != 0, Ordering::Relaxed);
                Ok(())
            }
            // No checksums are ever computed on the direct path.
            UDP_NO_CHECK6_TX | UDP_NO_CHECK6_RX => Ok(()),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
    fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        if level == SOL_UDPLITE
            && let Some(place) = self.coverage(name)
        {
            let number = i32::from(place.load(Ordering::Relaxed));
            return Ok(OptValue::Value(number.to_ne_bytes().into_iter().take(room).collect()));
        }
        if level != SOL_UDP {
            return self.ip.get(self, level, name, room);
        }
        let number = match name {
            UDP_CORK => i32::from(self.core.lock().corked),
            UDP_SEGMENT => self.segment.load(Ordering::Relaxed).into(),
            UDP_GRO => self.gro.load(Ordering::Relaxed).into(),
            UDP_NO_CHECK6_TX | UDP_NO_CHECK6_RX | UDP_ENCAP => 0,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(OptValue::Value(number.to_ne_bytes().into_iter().take(room).collect()))
    }

    fn input_queued(&self) -> Result<usize, Errno> {
        Ok(self.inbox.queued().0)
    }
    fn output_queued(&self) -> Result<usize, Errno> {
        Ok(0)
    }

    fn waiters(&self) -> Option<&WaitQueue> {
        Some(&self.inbox.queue)
    }
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.inbox.queue);
        }
        let shutdown = self.core.lock().shutdown;
        let mut mask = self.inbox.mask();
        if self.common.completions.pending() {
            mask |= POLLERR;
        }
        if mask & POLLERR != 0 && self.common.flag(SO_SELECT_ERR_QUEUE) {
            mask |= POLLPRI;
        }
        if shutdown & RCV != 0 {
            mask |= POLLRDHUP | POLLIN | POLLRDNORM;
        }
        if shutdown == RCV | SEND {
            mask |= POLLHUP;
        }
        mask
    }

    fn take_error(&self) -> Option<Errno> {
        self.inbox.take_error()
    }
    fn copies(&self) -> bool {
        !self.lite()
    }
    fn completed(&self) {
        self.inbox.queue.wake(POLLERR);
    }
    fn memory(&self) -> (usize, usize) {
        (self.inbox.queued().1, 0)
    }
    fn release(self: Arc<Self>) {
        let claim = self.leave_port(&mut self.core.lock());
        drop(claim);
        self.ip.leave_groups(&self.common.ns);
        self.inbox.close();
    }
}
