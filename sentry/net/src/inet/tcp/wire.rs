//! Connections over the wire: the protocol engine has them, and here are the sockets around them.

use super::link::View;
use super::{IN, Phase, RCV, SEND, Standing, TcpSock};
use crate::filter::Packet;
use crate::inet::addr::Endpoint;
use crate::msg::{RecvMsg, SendMsg};
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::netdevice::{ETH_P_IP, ETH_P_IPV6};
use chitin_abi::socket::*;
use chitin_netstack::tcp::SendFlags;
use chitin_netstack::{IpPacket, TcpConn, TcpEvents, TcpListener, TcpOptions};
use std::sync::{Arc, Weak};

/// Tells a socket of what happens to its connection.
pub(super) struct Hear(pub Weak<TcpSock>);

impl TcpEvents for Hear {
    fn notify(&self, events: u32) {
        if let Some(sock) = self.0.upgrade() {
            sock.queue.wake(events);
        }
    }
    fn admit(&self, packet: &IpPacket<'_>) -> Option<usize> {
        self.0.upgrade().map_or(Some(usize::MAX), |sock| sock.admits(packet))
    }
}

/// A buffer's size, if somebody has set it.
fn size(set: bool, value: usize) -> u32 {
    if set { u32::try_from(value).unwrap_or(u32::MAX) } else { 0 }
}

impl TcpSock {
    /// The settings as the engine takes them.
    pub(super) fn wire_options(&self) -> TcpOptions {
        let own = self.options.lock().clone();
        let (send, receive) = self.common.buffers_locked();
        let any = Endpoint::any(self.v6).ip;
        let number = |n: i32| u32::try_from(n).unwrap_or(0);
        TcpOptions {
            nodelay: own.nodelay,
            cork: own.cork,
            no_quickack: !own.quickack,
            keepalive: self.common.flag(SO_KEEPALIVE),
            keep_idle: number(own.keep_idle),
            keep_intvl: number(own.keep_interval),
            keep_cnt: number(own.keep_count),
            user_timeout: number(own.user_timeout),
            syn_count: number(own.syn_count),
            linger2: own.linger2,
            defer_accept: number(own.defer_seconds()),
            window_clamp: number(own.window_clamp),
            max_seg: u16::try_from(own.max_segment).unwrap_or(0),
            congestion: own.congestion,
            sndbuf: size(send, self.common.sndbuf()),
            rcvbuf: size(receive, self.common.rcvbuf()),
            notsent_lowat: number(own.notsent_lowat),
            oob_inline: self.inline(),
            tos: self.ip.tos_for(any),
            ttl: self.ip.own_ttl(any).unwrap_or(0),
            mark: self.common.mark(),
            device: self.common.device_index(),
            pmtudisc: self.ip.pmtudisc(self.v6),
            filtered: self.common.filters(),
        }
    }

    /// Settings have changed: so do those of the connection.
    pub(super) fn reconfigure(&self) {
        let conn = match &self.core.lock().phase {
            Phase::Wire(conn) => Some(conn.clone()),
            _ => None,
        };
        let Some(conn) = conn else { return self.mind_the_time() };
        let wanted = self.wire_options();
        conn.configure(&mut |options| *options = wanted.clone());
    }

    /// How much of a segment from the wire the filter keeps, from its header on.
    fn admits(&self, packet: &IpPacket<'_>) -> Option<usize> {
        if !self.common.filters() {
            return Some(usize::MAX);
        }
        self.common.admit(&Packet {
            bytes: packet.packet,
            start: packet.packet.len().saturating_sub(packet.payload.len()),
            net: Some(0),
            protocol: if packet.src.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 },
            index: packet.link,
            ..Packet::default()
        })
    }

    pub(super) fn wire_view(&self, conn: &TcpConn, shutdown: u32, error: bool) -> View {
        let ready = conn.readiness();
        let mut shutdown = shutdown;
        if ready.peer_closed || ready.eof {
            shutdown |= RCV;
        }
        if ready.send_closed {
            shutdown |= SEND;
        }
        if ready.state == TCP_CLOSE {
            shutdown = RCV | SEND;
        }
        View {
            state: ready.state,
            shutdown,
            readable: ready.readable,
            at_mark: conn.at_mark(),
            has_urgent: ready.urgent,
            writable: ready.writable > 0,
            error: error || ready.error.is_some(),
            unsent: conn.queued_out(),
            free: ready.writable,
        }
    }

    pub(super) fn wire_send(&self, conn: &TcpConn, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        let flags = SendFlags { more: msg.flags & MSG_MORE != 0, oob: msg.flags & MSG_OOB != 0 };
        if msg.data.left() == 0 {
            return Ok(0);
        }
        let data = &mut *msg.data;
        conn.send_with(data.left(), flags, &mut |room| data.take(room))
    }

    pub(super) fn wire_recv(&self, conn: &TcpConn, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        let peek = msg.flags & MSG_PEEK != 0;
        if msg.flags & MSG_OOB != 0 {
            return msg.put_urgent(conn.recv_oob(peek)?);
        }
        let discard = msg.flags & MSG_TRUNC != 0;
        let room = msg.data.room();
        let want = if discard { room.saturating_sub(msg.count) } else { room };
        if peek && msg.flags & (MSG_WAITALL | MSG_DONTWAIT) == MSG_WAITALL {
            let ready = conn.readiness();
            if ready.readable < want && !ready.peer_closed && !ready.eof && ready.error.is_none() {
                return Err(Errno::EAGAIN);
            }
        }
        if msg.count > 0 && conn.readiness().readable == 0 && conn.readiness().error.is_some() {
            // What came before the error is told first.
            msg.done = true;
            return Ok(0);
        }
        let data = &mut *msg.data;
        let take = &mut |piece: &[u8]| if discard { Ok(piece.len()) } else { data.put(piece) };
        let count = conn.recv_with(want, peek.then_some(0), take)?;
        msg.count = msg.count.saturating_add(count);
        msg.done |= peek || count == 0;
        Ok(count)
    }
}

impl TcpListener for TcpSock {
    fn options(&self) -> TcpOptions {
        self.wire_options()
    }
    fn room(&self) -> bool {
        match &self.core.lock().phase {
            Phase::Listen(listener) => !listener.full(),
            _ => false,
        }
    }
    fn backlog(&self) -> u32 {
        match &self.core.lock().phase {
            Phase::Listen(listener) => u32::try_from(listener.queued().1).unwrap_or(u32::MAX),
            _ => 0,
        }
    }
    fn admit(&self, packet: &IpPacket<'_>) -> Option<usize> {
        self.admits(packet)
    }
    fn established(&self, conn: Arc<TcpConn>) -> bool {
        let Some(sock) = self.child() else { return false };
        let endpoint = |addr: std::net::SocketAddr| Endpoint::of(addr);
        let (local, remote) = (endpoint(conn.local()), endpoint(conn.remote()));
        let claim = self.common.ns.inet.tcp_ports.inherit(&sock.wish(local));
        conn.set_events(Arc::new(Hear(Arc::downgrade(&sock))));
        {
            let mut core = sock.core.lock();
            (core.local, core.remote) = (local, Some(remote));
            core.standing = Standing::Connected;
            core.claim = Some(claim);
            core.phase = Phase::Wire(conn);
        }
        let taken = {
            let mut core = self.core.lock();
            match &mut core.phase {
                Phase::Listen(listener) => {
                    listener.push(sock.clone());
                    true
                }
                _ => false,
            }
        };
        if taken {
            self.queue.wake(IN);
        } else {
            sock.close(true);
        }
        taken
    }
}
