//! bind(2) and connect(2): names, ports, and how two sockets come together.

use super::link::Direct;
use super::seat::{Replace, Seat};
use super::wire::Hear;
use super::{ALL, Core, OUT, Phase, SNDBUF_CONNECTED, Standing, TcpSock};
use crate::SockAddr;
use crate::inet::addr::{Endpoint, link_scoped};
use crate::inet::route::LOOPBACK;
use crate::inet::{check_bind, ports, route};
use chitin_abi::Errno;
use chitin_abi::inet::{TCP_CLOSE, TCP_SYN_RECV, TCP_SYN_SENT};
use chitin_vfs::Context;
use std::net::IpAddr;
use std::sync::Arc;

impl TcpSock {
    pub(super) fn bind_to(&self, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        let at = Endpoint::parse(self.v6, addr)?;
        check_bind(&self.common.ns, &self.ip, self.v6, &at, ctx, false)?;
        let mut core = self.core.lock();
        if !matches!(core.phase, Phase::Close) || core.claim.is_some() {
            return Err(Errno::EINVAL);
        }
        if at.port == 0 && self.ip.bind_no_port() {
            core.local = at;
            core.bound_addr = !at.ip.is_unspecified();
            return Ok(());
        }
        let tables = &self.common.ns.inet;
        tables.connections.expire();
        let claim = tables.tcp_ports.bind(&self.wish(at), self.ip.port_range(&self.common.ns))?;
        core.local = Endpoint { port: claim.port, ..at };
        core.bound_addr = !at.ip.is_unspecified();
        core.bound_port = at.port != 0;
        core.claim = Some(claim);
        Ok(())
    }

    /// inet_stream_connect() of a socket that does not wait: EINPROGRESS even if all is done by now. The next call tells
    /// how it went.
    pub(super) fn connect_to(self: Arc<Self>, addr: &SockAddr) -> Result<(), Errno> {
        if matches!(addr, SockAddr::Unspec) {
            self.disconnect();
            return Ok(());
        }
        let mut core = self.core.lock();
        match core.standing {
            Standing::Connected => Err(Errno::EISCONN),
            Standing::Connecting => match &core.phase {
                Phase::SynSent(_) if core.error.is_none() => Err(Errno::EALREADY),
                Phase::Wire(conn) => {
                    let conn = conn.clone();
                    match conn.state() {
                        TCP_SYN_SENT | TCP_SYN_RECV => return Err(Errno::EALREADY),
                        TCP_CLOSE => {}
                        _ => {
                            core.standing = Standing::Connected;
                            return Ok(());
                        }
                    }
                    drop(core);
                    let error = conn.take_error().unwrap_or(Errno::ECONNABORTED);
                    self.disconnect();
                    self.core.lock().error = None;
                    Err(error)
                }
                Phase::Linked(link, side) => {
                    let (link, side) = (link.clone(), *side);
                    if link.view(side).state != TCP_CLOSE {
                        core.standing = Standing::Connected;
                        return Ok(());
                    }
                    drop(core);
                    let error = link.take_error(side).unwrap_or(Errno::ECONNABORTED);
                    self.disconnect();
                    self.core.lock().error = None;
                    Err(error)
                }
                _ => {
                    let error = core.error.take().unwrap_or(Errno::ECONNABORTED);
                    drop(core);
                    self.disconnect();
                    self.core.lock().error = None;
                    Err(error)
                }
            },
            Standing::Unconnected if !matches!(core.phase, Phase::Close) => Err(Errno::EISCONN),
            Standing::Unconnected => {
                if let Some(remote) = self.start(&mut core, addr)? {
                    let local = core.local;
                    drop(core);
                    self.meet(local, remote);
                    self.mind_the_time();
                }
                Err(Errno::EINPROGRESS)
            }
        }
    }

    /// Chooses the endpoints and takes the place in the table (tcp_v4_connect(), tcp_v6_connect()). Answers the remote
    /// one if it is in this namespace.
    fn start(self: &Arc<Self>, core: &mut Core, addr: &SockAddr) -> Result<Option<Endpoint>, Errno> {
        let mut remote = Endpoint::parse(self.v6, addr)?;
        let ns = &self.common.ns;
        if self.v6 && remote.ip.is_ipv4() && self.ip.v6only() {
            return Err(Errno::ENETUNREACH);
        }
        if self.v6 && core.bound_addr && core.local.ip.is_ipv4() && remote.ip.is_unspecified() {
            remote.ip = Endpoint::any(false).ip;
        }
        if link_scoped(remote.ip) && remote.scope == 0 {
            return Err(Errno::EINVAL);
        }
        if matches!(remote.ip, IpAddr::V4(ip) if ip.is_multicast() || ip.is_broadcast())
            || remote.ip.is_multicast()
        {
            return Err(Errno::ENETUNREACH);
        }
        remote.ip = route::self_if_any(remote.ip);
        let own = (!core.local.ip.is_unspecified()).then_some(core.local.ip);
        let device = if remote.scope != 0 { remote.scope } else { self.common.device_index() };
        let way = route::find(ns, remote.ip, own, device, self.common.mark())?;
        let mut local = core.local;
        if local.ip.is_unspecified() {
            local.ip = way.src;
        }
        local.scope = if link_scoped(local.ip) { way.link } else { 0 };
        if !way.is_local() {
            let (from, to) = (local.socket_addr(), remote.socket_addr());
            if ns.egress().is_some_and(|egress| !egress.may_connect(from, to)) {
                return Err(Errno::ECONNREFUSED);
            }
            return self.start_wire(core, local, remote).map(|()| None);
        }
        let tables = &ns.inet;
        let claim = match &core.claim {
            Some(claim) => claim.clone(),
            None => {
                let range = self.ip.port_range(ns);
                let seed = ports::random();
                let mut free = |port| tables.connections.is_free(&(Endpoint { port, ..local }, remote));
                tables.tcp_ports.connect(&self.wish(local), range, seed, &mut free)?
            }
        };
        local.port = claim.port;
        let seat = tables.connections.add((local, remote), self, claim.clone(), Replace::Old);
        let seat = seat.ok_or(Errno::EADDRNOTAVAIL)?;
        // Without bind(2) the port is the connection's alone.
        core.claim = core.bound_port.then_some(claim);
        core.local = local;
        core.remote = Some(remote);
        core.phase = Phase::SynSent(seat);
        core.give_up = Some(self.connects_until());
        core.standing = Standing::Connecting;
        core.error = None;
        Ok(Some(remote))
    }

    /// The same for a connection that leaves the namespace.
    fn start_wire(
        self: &Arc<Self>,
        core: &mut Core,
        mut local: Endpoint,
        remote: Endpoint,
    ) -> Result<(), Errno> {
        let ns = &self.common.ns;
        let to = remote.socket_addr();
        let claim = match &core.claim {
            Some(claim) => claim.clone(),
            None => {
                let mut free = |port| ns.stack.tcp_port_free(Endpoint { port, ..local }.socket_addr(), to);
                let range = self.ip.port_range(ns);
                ns.inet.tcp_ports.connect(&self.wish(local), range, ports::random(), &mut free)?
            }
        };
        local.port = claim.port;
        let hear = Arc::new(Hear(self.me.clone()));
        let conn = ns.stack.tcp_connect(local.socket_addr(), to, self.wire_options(), hear)?;
        core.claim = Some(claim);
        (core.local, core.remote) = (local, Some(remote));
        core.phase = Phase::Wire(conn);
        core.standing = Standing::Connecting;
        core.error = None;
        Ok(())
    }

    /// What a SYN finds at the other end.
    pub(super) fn meet(self: &Arc<Self>, local: Endpoint, remote: Endpoint) {
        let tables = &self.common.ns.inet;
        if let Some(listener) = tables.find_listener(LOOPBACK, &remote, &local) {
            if !self.calls(&listener, &local, &remote) || listener.offer(self, local, remote) {
                return;
            }
        }
        // Somebody (this very socket, perhaps) connects from there to here: a simultaneous open.
        if let Some(other) = tables.connections.find(&(remote, local))
            && other.meets_halfway(self)
        {
            return;
        }
        self.refused(Errno::ECONNREFUSED);
    }

    fn meets_halfway(self: &Arc<Self>, other: &Arc<TcpSock>) -> bool {
        let looped = Arc::ptr_eq(self, other);
        if !matches!(self.core.lock().phase, Phase::SynSent(_)) {
            return false;
        }
        let link = Direct::new([other, self], looped, [other.limits(), self.limits()]);
        other.establish(&link, 0);
        if !looped {
            self.establish(&link, 1);
        }
        true
    }

    /// A RST came instead of an answer.
    pub(super) fn refused(&self, error: Errno) {
        let seat;
        {
            let mut core = self.core.lock();
            if !matches!(core.phase, Phase::SynSent(_)) {
                return;
            }
            seat = std::mem::replace(&mut core.phase, Phase::Close);
            core.error = Some(error);
            core.shutdown = super::RCV | super::SEND;
        }
        drop(seat);
        self.queue.wake(ALL);
    }

    /// The connection is there; `side` of it is this socket's.
    pub(super) fn establish(&self, link: &Arc<Direct>, side: usize) {
        let seat;
        {
            let mut core = self.core.lock();
            if !matches!(core.phase, Phase::SynSent(_)) {
                drop(core);
                // It was closed or disconnected meanwhile.
                return link.close(side, true);
            }
            seat = self.set_link(&mut core, link, side);
            core.give_up = None;
        }
        if let Phase::SynSent(seat) = seat {
            link.seat(side, seat);
        }
        self.grow();
        self.queue.wake(OUT);
    }

    /// The buffers are as large as those of a connection over `lo` (tcp_init_buffer_space()).
    pub(super) fn grow(&self) {
        if !self.common.buffers_locked().0 {
            self.common.set_buffers(SNDBUF_CONNECTED, self.common.rcvbuf());
        }
    }

    pub(super) fn seat_of(self: &Arc<Self>, local: Endpoint, remote: Endpoint) -> Option<Seat> {
        let tables = &self.common.ns.inet;
        let claim = tables.tcp_ports.inherit(&self.wish(local));
        tables.connections.add((local, remote), self, claim, Replace::Any)
    }
}
