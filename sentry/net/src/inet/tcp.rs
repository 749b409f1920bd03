//! TCP sockets (tcp(7)).
//!
//! A socket is closed, listens, connects, or has a connection: here a [`link::Direct`] one to a socket of the same
//! namespace. Modules: [`alarm`] sees to what takes too long, [`connect`] and [`listen`] make connections, [`link`]
//! moves data and says how a connection stands, [`chunk`] the bytes, [`sift`] what a filter keeps of them, [`seat`] the
//! table of connections, [`options`] setsockopt(2) and TCP_INFO.
//!
//! Locks: `TcpSock::core` of one socket at a time → tables of the namespace, and the link's locks. The listener's core is
//! held while a connection to it is made, that of the connecting socket is not.

mod alarm;
mod chunk;
mod connect;
mod link;
mod listen;
mod options;
pub(super) mod seat;
pub(crate) mod sift;
mod wire;

use super::addr::Endpoint;
use super::ip::IpOptions;
use super::list::Entry;
use super::ports::{Claim, Proto, Wish};
use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{SocketOps, sender_cred};
use crate::{NetNs, SockAddr};
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::ioctl::{SIOCATMARK, SIOCOUTQNSD};
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_mm::Mm;
use chitin_netstack::{AlarmKey, TcpConn};
use chitin_vfs::bounds::{INET_SOCKETS, Share};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, PollTable, WaitQueue};
use link::{Direct, Limits, View};
use listen::Listener;
use options::TcpOptions;
use parking_lot::Mutex;
use seat::Seat;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

const IN: u32 = POLLIN | POLLRDNORM;
const OUT: u32 = POLLOUT | POLLWRNORM;
const ALL: u32 = IN | OUT | POLLRDHUP | POLLHUP | POLLERR;

/// Bits of `shutdown`.
const RCV: u32 = 1;
const SEND: u32 = 2;

/// What SO_SNDBUF grows to as soon as a connection over `lo` is made.
const SNDBUF_CONNECTED: usize = 2_626_560;
/// Bytes that may wait in one direction where nobody has set a size: of those, as many count as received.
const QUEUE: usize = 1 << 20;
const WINDOW: usize = 65_536;

/// A TCP socket.
pub struct TcpSock {
    pub(super) common: Common,
    pub(super) v6: bool,
    pub(super) ip: IpOptions,
    me: Weak<TcpSock>,
    queue: WaitQueue,
    options: Mutex<TcpOptions>,
    /// TCP_USER_TIMEOUT in milliseconds, for whoever sends.
    user_timeout: AtomicU32,
    /// TCP_INQ.
    tells_inq: AtomicBool,
    /// When it is looked at whether something takes too long; a leaf.
    alarm: Mutex<Option<AlarmKey>>,
    core: Mutex<Core>,
    /// The first connection over `lo` that it has had, to be found without a lock; and that it has parted from it, or from what
    /// it had before. Both change with `core` locked.
    first_link: OnceLock<(Arc<Direct>, usize)>,
    parted: AtomicBool,
    _counted: Share,
}

/// Where the socket stands for its owner (`struct socket`'s state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Unconnected,
    Connecting,
    Connected,
}

struct Core {
    standing: Standing,
    phase: Phase,
    local: Endpoint,
    remote: Option<Endpoint>,
    claim: Option<Arc<Claim>>,
    /// bind(2) named an address, a port (SOCK_BINDADDR_LOCK, SOCK_BINDPORT_LOCK).
    bound_addr: bool,
    bound_port: bool,
    shutdown: u32,
    error: Option<Errno>,
    dead: bool,
    /// When a connection that is not answered fails, and one that is deferred is accepted.
    give_up: Option<u64>,
    /// When a SYN that a filter did not let through goes again, and how often it has.
    call_again: Option<u64>,
    calls: u32,
}

enum Phase {
    Close,
    Listen(Listener),
    SynSent(Seat),
    Linked(Arc<Direct>, usize),
    /// Connected over the wire, or about to be.
    Wire(Arc<TcpConn>),
}

impl TcpSock {
    pub fn new(ns: &Arc<NetNs>, v6: bool, creator: &Caller) -> Result<Arc<TcpSock>, Errno> {
        TcpSock::make(ns, v6, sender_cred(creator)).ok_or(Errno::ENFILE)
    }

    fn make(ns: &Arc<NetNs>, v6: bool, creator: Ucred) -> Option<Arc<TcpSock>> {
        let counted = INET_SOCKETS.share(1)?;
        let family = if v6 { AF_INET6 } else { AF_INET };
        let common = Common::new(ns, family, SOCK_STREAM, IPPROTO_TCP, creator);
        let sysctls = &ns.stack.sysctls;
        common.set_buffers(sysctls.tcp_wmem_default.size(), sysctls.tcp_rmem_default.size());
        let cookie = common.cookie();
        let sock = Arc::new_cyclic(|me| TcpSock {
            common,
            v6,
            ip: IpOptions::new(ns, v6),
            me: me.clone(),
            queue: WaitQueue::new(),
            options: Mutex::new(TcpOptions::with(sysctls.congestion())),
            user_timeout: AtomicU32::new(0),
            tells_inq: AtomicBool::new(false),
            alarm: Mutex::default(),
            core: Mutex::new(Core {
                standing: Standing::Unconnected,
                phase: Phase::Close,
                local: Endpoint::any(v6),
                remote: None,
                claim: None,
                bound_addr: false,
                bound_port: false,
                shutdown: 0,
                error: None,
                dead: false,
                give_up: None,
                call_again: None,
                calls: 0,
            }),
            first_link: OnceLock::new(),
            parted: AtomicBool::new(false),
            _counted: counted,
        });
        ns.inet.tcp.lock().insert(cookie, Arc::downgrade(&sock));
        Some(sock)
    }

    fn wish(&self, at: Endpoint) -> Wish<'_> {
        let (common, v6) = (&self.common, self.v6);
        Wish { proto: Proto::Tcp, common, v6, v6only: self.ip.v6only(), uid: common.creator.uid, at }
    }

    /// What its side of a connection may hold.
    fn limits(&self) -> Limits {
        let (send, receive) = self.common.buffers_locked();
        // Half of a size that was set is bookkeeping, as Linux has it.
        let window = if receive { self.common.rcvbuf() / 2 } else { WINDOW };
        let budget = if send { self.common.sndbuf() / 2 } else { QUEUE - WINDOW };
        Limits { window, budget }
    }

    /// How closely it is bound to where a SYN goes; `None`: not at all.
    pub(super) fn listens_at(&self, link: u32, to: &Endpoint) -> Option<u32> {
        let device = self.common.device_index();
        if device != 0 && device != link {
            return None;
        }
        let core = self.core.lock();
        match core.phase {
            Phase::Listen(_) => super::fit(self.v6, self.ip.v6only(), core.local.ip, to.ip),
            _ => None,
        }
    }

    /// For listings; sockets without a port are not shown.
    pub(super) fn entry(&self) -> Option<Entry> {
        let view = self.view();
        let (local, remote, queued, has_port) = {
            let core = self.core.lock();
            let queued = match &core.phase {
                Phase::Listen(listener) => Some(listener.queued()),
                _ => None,
            };
            (core.local, core.remote, queued, core.claim.is_some())
        };
        if local.port == 0 || (view.state == TCP_CLOSE && !has_port) {
            return None;
        }
        let (receive_queue, send_queue) = queued.unwrap_or((view.readable, view.unsent));
        Some(Entry {
            v6: self.v6,
            protocol: IPPROTO_TCP,
            state: view.state,
            local,
            remote: remote.unwrap_or(Endpoint::any(self.v6)),
            send_queue,
            receive_queue,
            uid: self.common.creator.uid,
            inode: self.common.ino(),
            cookie: self.common.cookie(),
            timer: None,
        })
    }

    /// The connection over `lo`, if it is at hand: for what is done all the time.
    fn direct(&self) -> Option<(&Direct, usize)> {
        let (link, side) = self.first_link.get()?;
        (!self.parted.load(Ordering::Acquire)).then_some((&**link, *side))
    }

    /// It has got this connection.
    fn set_link(&self, core: &mut Core, link: &Arc<Direct>, side: usize) -> Phase {
        // An error of before is told by who looks closer, and of a later connection nobody looks here.
        if core.error.is_none() {
            let _first = self.first_link.set((link.clone(), side));
        }
        std::mem::replace(&mut core.phase, Phase::Linked(link.clone(), side))
    }

    /// It has no connection any more.
    fn take_phase(&self, core: &mut Core) -> Phase {
        self.parted.store(true, Ordering::Release);
        std::mem::replace(&mut core.phase, Phase::Close)
    }

    /// The connection, if there is one.
    fn link(&self) -> Option<(Arc<Direct>, usize)> {
        match &self.core.lock().phase {
            Phase::Linked(link, side) => Some((link.clone(), *side)),
            _ => None,
        }
    }

    fn wire(&self) -> Option<Arc<TcpConn>> {
        match &self.core.lock().phase {
            Phase::Wire(conn) => Some(conn.clone()),
            _ => None,
        }
    }

    pub(super) fn inline(&self) -> bool {
        self.common.flag(SO_OOBINLINE)
    }

    /// tcp_disconnect()
    fn disconnect(&self) {
        let (old, claim);
        {
            let mut core = self.core.lock();
            old = self.take_phase(&mut core);
            let linked = match &old {
                Phase::Linked(link, side) => link.view(*side).state != TCP_CLOSE,
                Phase::Wire(conn) => conn.state() != TCP_CLOSE,
                _ => false,
            };
            core.standing = Standing::Unconnected;
            core.give_up = None;
            (core.call_again, core.calls) = (None, 0);
            core.remote = None;
            core.shutdown = 0;
            if linked || matches!(old, Phase::SynSent(_)) {
                core.error = Some(Errno::ECONNRESET);
            }
            if !core.bound_addr {
                core.local = Endpoint { port: core.local.port, ..Endpoint::any(self.v6) };
            }
            claim = if core.bound_port { None } else { core.claim.take() };
        }
        match old {
            Phase::Linked(link, side) => link.abort(side),
            Phase::Wire(conn) => conn.abort(),
            Phase::Listen(listener) => self.stop_listening(listener),
            Phase::Close | Phase::SynSent(_) => {}
        }
        drop(claim);
        self.queue.wake(ALL);
    }

    fn send_linked(&self, link: &Direct, side: usize, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        let result = link.send(side, msg, msg.sent > 0);
        if self.user_timeout.load(Ordering::Relaxed) != 0 {
            self.mind_the_time();
        }
        result
    }

    fn recv_linked(&self, link: &Direct, side: usize, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        let inline = self.inline();
        if msg.flags & MSG_OOB != 0 {
            return link.receive_urgent(side, msg, inline);
        }
        let peek = msg.flags & MSG_PEEK != 0;
        // Peeking for all that was asked for: nothing is kept between attempts.
        let patient = msg.flags & MSG_DONTWAIT == 0;
        if peek && msg.flags & MSG_WAITALL != 0 && patient {
            let wanted = msg.data.room();
            if link.view(side).readable < wanted && !link.ended(side, true)? {
                return Err(Errno::EAGAIN);
            }
        }
        if let Some(count) = link.receive(side, msg, inline)? {
            msg.count = msg.count.saturating_add(count);
            msg.done |= peek;
            if self.tells_inq.load(Ordering::Relaxed) {
                let left = i32::try_from(link.input(side, inline)).unwrap_or(i32::MAX);
                msg.control.other.retain(|(level, kind, _)| (*level, *kind) != (SOL_TCP, TCP_CM_INQ));
                msg.control.other.push((SOL_TCP, TCP_CM_INQ, left.to_ne_bytes().to_vec()));
            }
            return Ok(count);
        }
        if link.ended(side, msg.count > 0)? {
            msg.done = true;
            return Ok(0);
        }
        Err(Errno::EAGAIN)
    }

    /// Poll bits of a socket in the states beside LISTEN.
    fn mask(&self, view: &View) -> u32 {
        let mut mask = 0;
        if view.shutdown == RCV | SEND || view.state == TCP_CLOSE {
            mask |= POLLHUP;
        }
        if view.shutdown & RCV != 0 {
            mask |= IN | POLLRDHUP;
        }
        if view.state != TCP_SYN_SENT {
            let extra = usize::from(view.at_mark && !self.inline());
            let target = self.common.recv_target(usize::MAX, false).saturating_add(extra);
            if view.readable >= target {
                mask |= IN;
            }
            if view.shutdown & SEND != 0 || view.writable {
                mask |= OUT;
            }
            if view.has_urgent {
                mask |= POLLPRI;
            }
        }
        if view.error || self.common.completions.pending() {
            mask |= POLLERR;
        }
        mask
    }

    /// TCP_* of the connection, for listings and TCP_INFO.
    pub(super) fn view(&self) -> View {
        let (link, state, shutdown, error) = {
            let core = self.core.lock();
            let (link, state) = match &core.phase {
                Phase::Wire(conn) => {
                    let (conn, shutdown, error) = (conn.clone(), core.shutdown, core.error.is_some());
                    drop(core);
                    return self.wire_view(&conn, shutdown, error);
                }
                Phase::Linked(link, side) => (Some((link.clone(), *side)), 0),
                Phase::Close => (None, TCP_CLOSE),
                Phase::Listen(_) => (None, TCP_LISTEN),
                Phase::SynSent(_) => (None, TCP_SYN_SENT),
            };
            (link, state, core.shutdown, core.error.is_some())
        };
        if let Some((link, side)) = link {
            let mut view = link.view(side);
            view.error |= error;
            return view;
        }
        let free = self.common.sndbuf();
        View {
            state,
            shutdown,
            readable: 0,
            at_mark: false,
            has_urgent: false,
            writable: true,
            error,
            unsent: 0,
            free,
        }
    }
}

impl SocketOps for TcpSock {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        self.bind_to(ctx, addr)
    }
    fn connect(self: Arc<Self>, _ctx: &Context, addr: &SockAddr, _: &mut WaitOn) -> Result<(), Errno> {
        self.connect_to(addr)
    }
    fn listen(&self, backlog: u32, _caller: &Caller) -> Result<(), Errno> {
        self.start_listening(backlog)
    }
    fn accept(&self) -> Result<Arc<dyn SocketOps>, Errno> {
        Ok(self.accept_one()?)
    }
    fn accepted_name(&self) -> Result<SockAddr, Errno> {
        let remote = self.core.lock().remote.ok_or(Errno::ENOTCONN)?;
        Ok(remote.encode(self.v6))
    }

    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        if let Some((link, side)) = self.direct() {
            return self.send_linked(link, side, msg);
        }
        let (link, side) = {
            let mut core = self.core.lock();
            match &core.phase {
                Phase::Linked(link, side) => (link.clone(), *side),
                Phase::Wire(conn) => {
                    let conn = conn.clone();
                    drop(core);
                    return self.wire_send(&conn, msg);
                }
                Phase::SynSent(_) if core.error.is_none() => return Err(Errno::EAGAIN),
                _ => return Err(core.error.take().unwrap_or(Errno::EPIPE)),
            }
        };
        self.send_linked(&link, side, msg)
    }

    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        if msg.flags & MSG_ERRQUEUE != 0 {
            return self.common.completions.receive(self.v6, msg);
        }
        if let Some((link, side)) = self.direct() {
            return self.recv_linked(link, side, msg);
        }
        let (link, side) = {
            let mut core = self.core.lock();
            match &core.phase {
                Phase::Linked(link, side) => (link.clone(), *side),
                Phase::Wire(conn) => {
                    let conn = conn.clone();
                    drop(core);
                    return self.wire_recv(&conn, msg);
                }
                Phase::Listen(_) => return Err(Errno::ENOTCONN),
                _ if msg.flags & MSG_OOB != 0 => return Err(Errno::EINVAL),
                _ if core.error.is_some() => return Err(core.error.take().unwrap_or(Errno::ENOTCONN)),
                _ if core.shutdown & RCV != 0 => {
                    msg.done = true;
                    return Ok(0);
                }
                Phase::Close => return Err(Errno::ENOTCONN),
                Phase::SynSent(_) => return Err(Errno::EAGAIN),
            }
        };
        self.recv_linked(&link, side, msg)
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let bits = (how + 1) & (RCV | SEND);
        let link = {
            let mut core = self.core.lock();
            match &core.phase {
                Phase::Linked(link, side) => (link.clone(), *side),
                Phase::Wire(conn) if matches!(conn.state(), TCP_SYN_SENT) => {
                    drop(core);
                    self.disconnect();
                    return Ok(());
                }
                Phase::Wire(conn) => {
                    let conn = conn.clone();
                    core.shutdown |= bits & RCV;
                    drop(core);
                    let result = conn.shutdown(how);
                    self.queue.wake(ALL);
                    return result;
                }
                Phase::Close => {
                    core.shutdown |= bits;
                    drop(core);
                    self.queue.wake(ALL);
                    return Err(Errno::ENOTCONN);
                }
                Phase::Listen(_) if bits & RCV == 0 => return Ok(()),
                Phase::Listen(_) | Phase::SynSent(_) => {
                    drop(core);
                    self.disconnect();
                    return Ok(());
                }
            }
        };
        link.0.shutdown(link.1, bits)
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        Ok(self.core.lock().local.encode(self.v6))
    }
    fn getpeername(&self) -> Result<SockAddr, Errno> {
        if matches!(self.view().state, TCP_CLOSE | TCP_SYN_SENT | TCP_LISTEN) {
            return Err(Errno::ENOTCONN);
        }
        self.accepted_name()
    }

    fn setsockopt(&self, level: u32, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        match level {
            SOL_TCP => self.set_tcp(name, value, caller),
            _ => self.ip.set(self, level, name, value, caller),
        }
    }
    fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        match level {
            SOL_TCP => self.get_tcp(name, room),
            _ => self.ip.get(self, level, name, room),
        }
    }

    fn ioctl(&self, cmd: u32, arg: u64, mm: &Arc<Mm>) -> Option<Result<i64, Errno>> {
        let view = self.view();
        let answer = match cmd {
            SIOCATMARK => i32::from(view.at_mark),
            SIOCOUTQNSD if view.state == TCP_LISTEN => return Some(Err(Errno::EINVAL)),
            SIOCOUTQNSD => i32::try_from(view.unsent).unwrap_or(i32::MAX),
            _ => return None,
        };
        Some(mm.write(arg, &answer).map(|()| 0))
    }

    fn input_queued(&self) -> Result<usize, Errno> {
        if self.view().state == TCP_LISTEN {
            return Err(Errno::EINVAL);
        }
        if let Some(conn) = self.wire() {
            return Ok(conn.queued_in());
        }
        Ok(self.link().map_or(0, |(link, side)| link.input(side, self.inline())))
    }
    fn output_queued(&self) -> Result<usize, Errno> {
        let view = self.view();
        if view.state == TCP_LISTEN { Err(Errno::EINVAL) } else { Ok(view.unsent) }
    }

    fn waiters(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue);
        }
        if let Some((link, side)) = self.direct() {
            return self.mask(&link.view(side));
        }
        let core = self.core.lock();
        let view = match &core.phase {
            Phase::Listen(listener) => return if listener.has_pending() { IN } else { 0 },
            Phase::Linked(link, side) => {
                let mut view = link.view(*side);
                view.error |= core.error.is_some();
                view
            }
            _ => {
                drop(core);
                return self.mask(&self.view());
            }
        };
        drop(core);
        self.mask(&view)
    }

    fn take_error(&self) -> Option<Errno> {
        let own = self.core.lock().error.take();
        let linked = || self.link().and_then(|(link, side)| link.take_error(side));
        own.or_else(linked).or_else(|| self.wire()?.take_error())
    }
    fn listening(&self) -> bool {
        matches!(self.core.lock().phase, Phase::Listen(_))
    }
    fn memory(&self) -> (usize, usize) {
        let view = self.view();
        (view.readable, view.unsent)
    }
    fn copies(&self) -> bool {
        true
    }
    fn completed(&self) {
        self.queue.wake(POLLERR);
    }
    fn buffers_changed(&self) {
        if let Some((link, side)) = self.link() {
            link.set_limits(side, self.limits());
        }
        self.reconfigure();
    }
    fn filter_changed(&self) {
        if let Some((link, _)) = self.link() {
            link.filters.store(true, Ordering::Relaxed);
        }
        self.reconfigure();
    }
    fn release(self: Arc<Self>) {
        self.close(false);
    }
}

impl TcpSock {
    /// The last descriptor is gone, or (`embryo`) it was never accepted.
    fn close(&self, embryo: bool) {
        let (phase, claim);
        {
            let mut core = self.core.lock();
            if core.dead {
                return;
            }
            core.dead = true;
            phase = self.take_phase(&mut core);
            claim = core.claim.take();
        }
        match phase {
            Phase::Linked(link, side) => {
                let abort = embryo || self.common.linger().is_some_and(|time| time.is_zero());
                link.close(side, abort);
            }
            Phase::Wire(conn) => {
                let abort = embryo || self.common.linger().is_some_and(|time| time.is_zero());
                if abort { conn.abort() } else { conn.close() }
            }
            Phase::Listen(listener) => self.stop_listening(listener),
            Phase::Close | Phase::SynSent(_) => {}
        }
        drop(claim);
        self.common.ns.inet.tcp.lock().remove(&self.common.cookie());
        self.queue.wake(ALL);
    }
}
