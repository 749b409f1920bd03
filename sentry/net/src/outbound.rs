//! Sockets that reach further than the stack: what is local stays there, what goes elsewhere becomes a socket of the host.
//!
//! For sandboxes without a network of their own (`do`, and containers in their caller's network namespace), and for a name
//! server that only the host's side can reach (Docker's at 127.0.0.11). Nobody in the sandbox may make a host socket; a
//! [`Broker`] does, a separate process that decides where to, and hands over sockets that are connected already. Data
//! then travels without it: one host call per operation, and TCP's behaviour is the host kernel's. (The other way, packets
//! through a second stack in that process, would cost two more copies and a second TCP.)
//!
//! An [`OutboundSocket`] is a socket of the stack until it connects, or sends, to somewhere else. Connections to published
//! ports come from the broker as well and wait beside the listener's own ([`Outbound::arrived`]).
//!
//! Locks: `Outbound::published` → `state`; sockets below are called with neither held.

use crate::guard::Guard;
use crate::host::{HostSocket, Watcher};
use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{Family, PeerCred, SocketOps};
use crate::{NetNs, SockAddr, host};
use chitin_abi::Errno;
use chitin_abi::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM};
use chitin_abi::socket::*;
use chitin_mm::Mm;
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, File, PollTable, WaitQueue};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Host sockets that one datagram socket may use at a time; beyond it the oldest goes.
const MAX_PEERS: usize = 64;
/// Published connections that nobody has accepted yet, per port.
const MAX_WAITING: usize = 128;
/// Options to be repeated on a host socket.
const MAX_OPTIONS: usize = 64;
/// Who has sent to a published UDP port, and may be answered.
const MAX_CALLERS: usize = 1024;
/// The longest datagram.
const MAX_DATAGRAM: usize = 65_507;

/// Makes host sockets.
pub trait Broker: Send + Sync {
    /// One that is connected to `to`, or about to be.
    fn open(&self, kind: u32, protocol: u32, to: SocketAddr) -> Result<OwnedFd, Errno>;
    /// Sends a datagram from a published port to somebody who has sent to it.
    fn reply(&self, port: u16, peer: SocketAddr, data: &[u8]) -> Result<(), Errno>;
}

/// What all such sockets share.
pub struct Outbound {
    pub broker: Arc<dyn Broker>,
    pub watcher: Arc<dyn Watcher>,
    /// Everything that is not local goes out; otherwise only `resolvers` do.
    pub everything: bool,
    /// Name servers on addresses that are local here and meant elsewhere.
    pub resolvers: Vec<SocketAddr>,
    /// What the guest takes for its own address.
    pub own: [Option<IpAddr>; 2],
    /// By the guest's port, see [`Outbound::publish`].
    pub published: Mutex<HashMap<u16, Published>>,
    /// By the guest's port: who has sent datagrams to it, the latest last.
    pub callers: HashMap<u16, Mutex<VecDeque<Sender>>>,
}

/// Who has sent to a published UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// As the guest sees it.
    shown: SocketAddr,
    real: SocketAddr,
}

/// The host's loopback is not the guest's: who calls from there is shown as the gateway.
fn shown_as(ns: &NetNs, peer: SocketAddr) -> SocketAddr {
    if !peer.ip().is_loopback() {
        return peer;
    }
    let out: IpAddr =
        if peer.is_ipv4() { [192, 0, 2, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
    let gateway = ns.stack().config.route(out, None, 0, 0).ok().and_then(|route| route.gateway);
    gateway.map_or(peer, |ip| SocketAddr::new(ip, peer.port()))
}

#[derive(Default)]
pub struct Published {
    waiting: VecDeque<(OwnedFd, SocketAddr)>,
    listeners: Vec<Weak<OutboundSocket>>,
}

impl Outbound {
    /// Where a datagram or a connection goes if not to the stack.
    fn goes_out(&self, ns: &NetNs, addr: &SockAddr) -> Option<SocketAddr> {
        let to = addr.inet()?;
        if self.resolvers.contains(&to) {
            return Some(to);
        }
        let ip = to.ip();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        let stays = ip.is_loopback()
            || ip.is_unspecified()
            || ip.is_multicast()
            || broadcast
            || ns.stack().config.is_local(ip);
        (self.everything && !stays).then_some(to)
    }

    /// The table of published ports.
    pub fn publish(ports: &[u16]) -> Mutex<HashMap<u16, Published>> {
        Mutex::new(ports.iter().map(|port| (*port, Published::default())).collect())
    }

    pub fn publish_udp(ports: &[u16]) -> HashMap<u16, Mutex<VecDeque<Sender>>> {
        ports.iter().map(|port| (*port, Mutex::default())).collect()
    }

    /// A datagram to a published port. It goes to the stack, where the guest's socket is.
    pub fn datagram(&self, ns: &NetNs, port: u16, peer: SocketAddr, data: &[u8]) {
        let Some(callers) = self.callers.get(&port) else { return };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let [v4, v6] = self.own;
        let Some(own) = (if peer.is_ipv4() { v4 } else { v6 }) else { return };
        let caller = Sender { shown: shown_as(ns, peer), real: peer };
        {
            let mut callers = callers.lock();
            if callers.back() != Some(&caller) {
                callers.retain(|other| other.shown != caller.shown);
                if callers.len() >= MAX_CALLERS {
                    callers.pop_front();
                }
                callers.push_back(caller);
            }
        }
        crate::inet::deliver_udp(ns, caller.shown, SocketAddr::new(own, port), data);
    }

    /// Whom what goes to `to` from the guest's `port` answers.
    fn answers(&self, port: u16, to: SocketAddr) -> Option<SocketAddr> {
        let callers = self.callers.get(&port)?.lock();
        callers.iter().find(|caller| caller.shown == to).map(|caller| caller.real)
    }

    /// A connection to a published port. Whether somebody listens there.
    pub fn arrived(&self, port: u16, fd: OwnedFd, peer: SocketAddr) -> bool {
        let listeners = {
            let mut published = self.published.lock();
            let Some(entry) = published.get_mut(&port) else { return false };
            entry.listeners.retain(|listener| listener.strong_count() > 0);
            if entry.listeners.is_empty() || entry.waiting.len() >= MAX_WAITING {
                return false;
            }
            entry.waiting.push_back((fd, peer));
            entry.listeners.clone()
        };
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.queue.wake(POLLIN | POLLRDNORM);
        }
        true
    }
}

/// An address in the form of a socket's family.
fn shown(family: u32, at: SocketAddr) -> SockAddr {
    let port = at.port().to_be_bytes();
    match (family, at.ip()) {
        (AF_INET, IpAddr::V4(v4)) => SockAddr::Inet(SockaddrIn {
            sin_family: chitin_abi::num::low16(AF_INET),
            sin_port: port,
            sin_addr: v4.octets(),
            sin_zero: [0; 8],
        }),
        (_, ip) => {
            let v6 = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            SockAddr::Inet6(SockaddrIn6 {
                sin6_family: chitin_abi::num::low16(AF_INET6),
                sin6_port: port,
                sin6_addr: v6.octets(),
                ..SockaddrIn6::default()
            })
        }
    }
}

/// Makes the sockets: those of `inner`, which may go out.
pub struct OutboundFamily {
    pub inner: Arc<dyn Family>,
    pub shared: Arc<Outbound>,
}

impl Family for OutboundFamily {
    fn create(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno> {
        let local = self.inner.create(ns, kind, protocol, caller)?;
        if !matches!(kind, SOCK_STREAM | SOCK_DGRAM) {
            return Ok(local);
        }
        Ok(Arc::new_cyclic(|me| OutboundSocket {
            me: me.clone(),
            queue: local.waiters().cloned().unwrap_or_default(),
            local,
            shared: self.shared.clone(),
            elsewhere: AtomicBool::new(false),
            state: Mutex::default(),
        }))
    }
}

#[derive(Default)]
struct State {
    /// Connected, or about to be, and to what.
    remote: Option<(Arc<HostSocket>, SocketAddr)>,
    /// A stream's connect(2) has told that it is connected.
    known: bool,
    /// A datagram socket's ways to where it has sent to, the oldest first.
    peers: VecDeque<(SocketAddr, Arc<HostSocket>)>,
    options: Vec<(u32, u32, Vec<u8>)>,
    /// A datagram socket at a published port that is connected to somebody who has sent to it.
    answers: Option<(u16, SocketAddr)>,
    /// It listens at this published port of the guest.
    published: Option<u16>,
}

pub struct OutboundSocket {
    me: Weak<OutboundSocket>,
    local: Arc<dyn SocketOps>,
    shared: Arc<Outbound>,
    /// Woken by the host sockets. Where it can be it is the queue of `local`, so that whoever waits stands in one only.
    queue: WaitQueue,
    /// Whether anything but the socket of the stack has ever been in use: all of `state` but the options. Set after that was
    /// changed and before whoever waits is told.
    elsewhere: AtomicBool,
    state: Mutex<State>,
}

impl OutboundSocket {
    fn is_stream(&self) -> bool {
        self.local.common().kind == SOCK_STREAM
    }

    /// It has always been a socket of the stack, and no more.
    fn is_local(&self) -> bool {
        !self.elsewhere.load(Ordering::Acquire)
    }
    fn leave_local(&self) {
        self.elsewhere.store(true, Ordering::Release);
    }

    fn remote(&self) -> Option<Arc<HostSocket>> {
        self.state.lock().remote.as_ref().map(|(socket, _)| socket.clone())
    }

    fn peers(&self) -> Vec<(SocketAddr, Arc<HostSocket>)> {
        self.state.lock().peers.iter().cloned().collect()
    }

    /// A host socket to `to` with the options that were set here.
    fn open(&self, to: SocketAddr) -> Result<Arc<HostSocket>, Errno> {
        let own = self.local.common();
        let guard = Guard::default();
        if self.is_stream() {
            guard.connect(&own.ns, u8::try_from(own.protocol).unwrap_or(0), to)?;
        } else {
            guard.connected(Some(to));
        }
        let fd = self.shared.broker.open(own.kind, own.protocol, to)?;
        let common = Common::new(&own.ns, own.family, own.kind, own.protocol, own.creator);
        let socket = HostSocket::with_guard(common, fd, &self.shared.watcher, self.queue.clone(), guard)?;
        socket.tell_name();
        socket.share_filter(own);
        let options = self.state.lock().options.clone();
        for (level, name, value) in options {
            // Options of IPv6 do not fit a socket of IPv4.
            let _ = socket.set_host_option(level, name, &value);
        }
        Ok(socket)
    }

    fn own_name(&self, socket: &HostSocket) -> Result<SockAddr, Errno> {
        let real = socket.getsockname()?.inet().ok_or(Errno::EINVAL)?;
        let [v4, v6] = self.shared.own;
        let ip = if real.is_ipv4() { v4 } else { v6 };
        Ok(shown(self.local.common().family, SocketAddr::new(ip.unwrap_or(real.ip()), real.port())))
    }

    fn connect_stream(&self, to: SocketAddr) -> Result<(), Errno> {
        if let Some(socket) = self.remote() {
            let ready = socket.poll(None);
            if ready & (POLLOUT | POLLERR | POLLHUP) == 0 {
                return Err(Errno::EALREADY);
            }
            if let Some(error) = socket.take_error() {
                self.forget_remote();
                return Err(error);
            }
            if socket.getpeername().is_ok() {
                // The first call to find it so is told of success.
                let known = std::mem::replace(&mut self.state.lock().known, true);
                return if known { Err(Errno::EISCONN) } else { Ok(()) };
            }
        }
        let socket = self.open(to)?;
        self.forget_remote();
        {
            let mut state = self.state.lock();
            (state.remote, state.known) = (Some((socket, to)), false);
        }
        self.leave_local();
        self.queue.wake(0);
        Err(Errno::EINPROGRESS)
    }

    fn forget_remote(&self) {
        let gone = self.state.lock().remote.take();
        if let Some((socket, _)) = gone {
            socket.release();
        }
    }

    /// A datagram socket's way to `to`.
    fn peer(&self, to: SocketAddr) -> Result<Arc<HostSocket>, Errno> {
        let found = self.state.lock().peers.iter().find(|(at, _)| *at == to).map(|(_, s)| s.clone());
        if let Some(socket) = found {
            return Ok(socket);
        }
        let socket = self.open(to)?;
        let oldest = {
            let mut state = self.state.lock();
            state.peers.push_back((to, socket.clone()));
            if state.peers.len() > MAX_PEERS { state.peers.pop_front() } else { None }
        };
        self.leave_local();
        if let Some((_, oldest)) = oldest {
            oldest.release();
        }
        Ok(socket)
    }

    /// The published port from which a datagram to `to` is an answer, and whom it answers.
    fn answers_from(&self, to: SocketAddr) -> Option<(u16, SocketAddr)> {
        if self.is_stream() || self.shared.callers.is_empty() {
            return None;
        }
        let port = self.local.getsockname().ok()?.inet()?.port();
        Some((port, self.shared.answers(port, to)?))
    }

    fn reply(&self, msg: &mut SendMsg<'_>, port: u16, to: SocketAddr) -> Result<usize, Errno> {
        let len = msg.data.left();
        if len > MAX_DATAGRAM {
            return Err(Errno::EMSGSIZE);
        }
        let data = crate::inet::udp::take(msg.data, len)?;
        self.shared.broker.reply(port, to, &data)?;
        Ok(len)
    }

    fn record(&self, level: u32, name: u32, value: &[u8]) -> Vec<Arc<HostSocket>> {
        let mut state = self.state.lock();
        state.options.retain(|(l, n, _)| (*l, *n) != (level, name));
        if state.options.len() < MAX_OPTIONS {
            state.options.push((level, name, value.to_vec()));
        }
        let remote = state.remote.iter().map(|(socket, _)| socket.clone());
        remote.chain(state.peers.iter().map(|(_, socket)| socket.clone())).collect()
    }

    /// The socket that stands for all of it now.
    fn current(&self) -> Arc<dyn SocketOps> {
        match self.remote() {
            Some(socket) => socket,
            None => self.local.clone(),
        }
    }

    fn take_published(&self) -> Option<(OwnedFd, SocketAddr)> {
        let port = self.state.lock().published?;
        self.shared.published.lock().get_mut(&port)?.waiting.pop_front()
    }

    fn has_published(&self) -> bool {
        let Some(port) = self.state.lock().published else { return false };
        self.shared.published.lock().get(&port).is_some_and(|entry| !entry.waiting.is_empty())
    }
}

impl SocketOps for OutboundSocket {
    fn common(&self) -> &Common {
        self.local.common()
    }

    fn bind(self: Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        self.local.clone().bind(ctx, addr)
    }

    fn connect(self: Arc<Self>, ctx: &Context, addr: &SockAddr, wait_on: &mut WaitOn) -> Result<(), Errno> {
        let to = self.shared.goes_out(&self.common().ns, addr);
        if !self.is_stream() {
            let answers = addr.inet().and_then(|to| self.answers_from(to));
            self.state.lock().answers = answers;
            if answers.is_some() {
                self.leave_local();
                self.forget_remote();
                return self.local.clone().connect(ctx, addr, wait_on);
            }
        }
        match to {
            Some(to) if self.is_stream() => self.connect_stream(to),
            Some(to) => {
                let socket = self.open(to)?;
                self.forget_remote();
                self.state.lock().remote = Some((socket, to));
                self.leave_local();
                self.queue.wake(0);
                Ok(())
            }
            None => {
                if self.is_stream() && self.remote().is_some_and(|socket| socket.getpeername().is_ok()) {
                    return Err(Errno::EISCONN);
                }
                self.forget_remote();
                self.local.clone().connect(ctx, addr, wait_on)
            }
        }
    }

    fn listen(&self, backlog: u32, caller: &Caller) -> Result<(), Errno> {
        self.local.listen(backlog, caller)?;
        let Some(at) = self.local.getsockname()?.inet().filter(|at| !at.ip().is_loopback()) else {
            return Ok(());
        };
        let first = self.state.lock().published != Some(at.port());
        if let Some(entry) = self.shared.published.lock().get_mut(&at.port()).filter(|_| first) {
            entry.listeners.push(self.me.clone());
            self.state.lock().published = Some(at.port());
            self.leave_local();
        }
        Ok(())
    }

    fn accept(&self) -> Result<Arc<dyn SocketOps>, Errno> {
        let Some((fd, peer)) = self.take_published() else { return self.local.accept() };
        let own = self.common();
        let common = Common::new(&own.ns, own.family, own.kind, own.protocol, own.creator);
        let socket = HostSocket::new(common, fd, &self.shared.watcher, WaitQueue::new())?;
        socket.share_filter(own);
        let at = self.local.getsockname()?.inet().map_or(0, |at| at.port());
        let [v4, v6] = self.shared.own;
        let ip = if peer.is_ipv4() { v4 } else { v6 };
        let at = SocketAddr::new(ip.or(v4).unwrap_or(peer.ip()), at);
        socket.show(shown(own.family, at), shown(own.family, peer));
        Ok(socket)
    }

    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        if self.is_local() && (self.is_stream() || msg.dest.is_none()) {
            return self.local.sendmsg(msg);
        }
        let told = msg.dest.as_ref().map(|dest| dest.inet());
        let answers = match told {
            Some(to) => to.and_then(|to| self.answers_from(to)),
            None => self.state.lock().answers,
        };
        if let Some((port, to)) = answers {
            return self.reply(msg, port, to);
        }
        if let Some(dest) = msg.dest.as_ref().filter(|_| !self.is_stream()) {
            return match self.shared.goes_out(&self.common().ns, dest) {
                Some(to) => {
                    let socket = self.peer(to)?;
                    let dest = msg.dest.take();
                    let result = socket.sendmsg(msg);
                    msg.dest = dest;
                    result
                }
                None => self.local.sendmsg(msg),
            };
        }
        self.current().sendmsg(msg)
    }

    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        if self.is_local() {
            return self.local.recvmsg(msg);
        }
        if msg.flags & MSG_ERRQUEUE != 0 && self.common().completions.pending() {
            return self.local.recvmsg(msg);
        }
        if let Some(socket) = self.remote() {
            return socket.recvmsg(msg);
        }
        for (at, socket) in self.peers() {
            match socket.recvmsg(msg) {
                Err(Errno::EAGAIN) => {}
                result => {
                    msg.addr = Some(shown(self.common().family, at));
                    return result;
                }
            }
        }
        self.local.recvmsg(msg)
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        self.current().shutdown(how)
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        match self.remote() {
            Some(socket) => self.own_name(&socket),
            None => self.local.getsockname(),
        }
    }

    fn getpeername(&self) -> Result<SockAddr, Errno> {
        let remote = self.state.lock().remote.as_ref().map(|(socket, to)| (socket.clone(), *to));
        match remote {
            Some((socket, to)) => socket.getpeername().map(|_| shown(self.common().family, to)),
            None => self.local.getpeername(),
        }
    }

    fn accepted_name(&self) -> Result<SockAddr, Errno> {
        self.local.accepted_name()
    }

    fn set_socket_option(&self, name: u32, value: &[u8]) -> Result<(), Errno> {
        self.local.set_socket_option(name, value)?;
        if let Some(value) = host::option_for_host(name, value)? {
            for socket in self.record(SOL_SOCKET, name, value) {
                let _ = socket.set_host_option(SOL_SOCKET, name, value);
            }
        }
        Ok(())
    }

    fn setsockopt(&self, level: u32, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        self.local.setsockopt(level, name, value, caller)?;
        if host::may_set(level, name) {
            for socket in self.record(level, name, value) {
                let _ = socket.set_host_option(level, name, value);
            }
        }
        Ok(())
    }

    fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        match self.remote().filter(|_| level == SOL_TCP) {
            Some(socket) => socket.getsockopt(level, name, room),
            None => self.local.getsockopt(level, name, room),
        }
    }

    fn ioctl(&self, cmd: u32, arg: u64, mm: &Arc<Mm>) -> Option<Result<i64, Errno>> {
        self.current().ioctl(cmd, arg, mm)
    }

    fn input_queued(&self) -> Result<usize, Errno> {
        self.current().input_queued()
    }

    fn output_queued(&self) -> Result<usize, Errno> {
        self.current().output_queued()
    }

    fn poll(&self, mut table: Option<&mut PollTable>) -> u32 {
        if self.local.waiters().is_none()
            && let Some(table) = &mut table
        {
            table.add(&self.queue);
        }
        let mut mask = self.local.poll(table);
        if self.is_local() {
            return mask;
        }
        if let Some(socket) = self.remote() {
            let sent = if self.common().completions.pending() { POLLERR } else { 0 };
            return socket.poll(None) | sent;
        }
        let input = POLLIN | POLLRDNORM;
        if self.peers().iter().any(|(_, socket)| socket.poll(None) & (POLLIN | POLLERR) != 0) {
            mask |= input;
        }
        if self.has_published() {
            mask |= input;
        }
        mask
    }

    fn take_error(&self) -> Option<Errno> {
        self.current().take_error()
    }

    fn listening(&self) -> bool {
        self.local.listening()
    }

    fn peer_cred(&self) -> Option<PeerCred> {
        self.local.peer_cred()
    }

    fn memory(&self) -> (usize, usize) {
        self.local.memory()
    }

    fn buffers_changed(&self) {
        self.local.buffers_changed();
    }

    fn copies(&self) -> bool {
        self.local.copies()
    }

    fn completed(&self) {
        self.local.completed();
        self.queue.wake(POLLERR);
    }

    fn filter_changed(&self) {
        self.local.filter_changed();
        let remote = self.remote();
        for socket in remote.into_iter().chain(self.peers().into_iter().map(|(_, socket)| socket)) {
            socket.share_filter(self.common());
        }
    }

    fn attached(&self, file: &Arc<File>) {
        self.local.attached(file);
    }

    fn release(self: Arc<Self>) {
        let (remote, peers, port) = {
            let mut state = self.state.lock();
            (state.remote.take(), std::mem::take(&mut state.peers), state.published.take())
        };
        let sockets = remote.map(|(socket, _)| socket).into_iter().chain(peers.into_iter().map(|(_, s)| s));
        sockets.for_each(|socket| socket.release());
        if let Some(port) = port {
            let gone = self.shared.published.lock().get_mut(&port).map(|entry| {
                entry.listeners.retain(|other| !std::ptr::eq(other.as_ptr(), &*self));
                if entry.listeners.is_empty() { std::mem::take(&mut entry.waiting) } else { VecDeque::new() }
            });
            drop(gone);
        }
        self.local.clone().release();
    }
}
