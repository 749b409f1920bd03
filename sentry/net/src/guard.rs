//! The egress policy at sockets of the host: who they may talk to, what they say first, how fast they send.
//!
//! Such sockets make no packets here, so the verdict falls at connect(2) and sendto(2). A refusal is what nftables' `reject`
//! makes: ECONNREFUSED for connect(2) of a stream, EPERM for a datagram. A connection that is cut off ends as by a reset.
//!
//! Locks: `Guard::state` is a leaf.

use crate::NetNs;
use crate::host::{Alarm, Watcher};
use chitin_abi::Errno;
use chitin_abi::poll::*;
use chitin_egress::{Engine, Ticket};
use chitin_vfs::WaitQueue;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Destinations of one datagram socket; beyond it the oldest is forgotten, which its log calls closed.
const MAX_TICKETS: usize = 64;
const MILLISECOND: u64 = 1_000_000;

/// What may be sent now.
pub(crate) enum Leave {
    /// There is no policy, or the other end began.
    Free,
    Ticket(Arc<Ticket>),
}

#[derive(Default)]
pub(crate) struct Guard {
    state: Mutex<State>,
    /// A policy has ended the connection.
    cut: AtomicBool,
    alarm: OnceLock<Box<dyn Alarm>>,
}

#[derive(Default)]
struct State {
    /// Where a socket is connected to.
    peer: Option<SocketAddr>,
    tickets: VecDeque<(SocketAddr, Arc<Ticket>)>,
}

/// Where "this host" is meant, loopback is; IPv4 behind IPv6's clothes counts as IPv4.
fn plain(to: SocketAddr) -> SocketAddr {
    let ip = match to.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, to.port())
}

impl Guard {
    /// A stream is about to connect.
    pub fn connect(&self, ns: &NetNs, proto: u8, to: SocketAddr) -> Result<(), Errno> {
        let to = plain(to);
        let old = {
            let mut state = self.state.lock();
            state.peer = Some(to);
            if state.tickets.iter().any(|(at, _)| *at == to) {
                return Ok(());
            }
            std::mem::take(&mut state.tickets)
        };
        drop(old);
        let Some(engine) = ns.egress() else { return Ok(()) };
        let ticket = engine.ticket(proto, to).ok_or(Errno::ECONNREFUSED)?;
        self.state.lock().tickets.push_back((to, Arc::new(ticket)));
        Ok(())
    }

    /// A datagram socket has been connected, or is no longer.
    pub fn connected(&self, to: Option<SocketAddr>) {
        self.state.lock().peer = to.map(plain);
    }

    /// The connection has got an address of its own.
    pub fn named(&self, local: SocketAddr) {
        let state = self.state.lock();
        state.tickets.iter().for_each(|(_, ticket)| ticket.at(local));
    }

    /// A datagram is about to be sent, to whom the socket is connected unless it says so.
    pub fn leave_datagram(&self, ns: &NetNs, proto: u8, to: Option<SocketAddr>) -> Result<Leave, Errno> {
        let Some(engine) = ns.egress() else { return Ok(Leave::Free) };
        let (to, found) = {
            let state = self.state.lock();
            // Without a destination the host has an error for it.
            let Some(to) = to.map(plain).or(state.peer) else { return Ok(Leave::Free) };
            (to, state.tickets.iter().find(|(at, _)| *at == to).map(|(_, ticket)| ticket.clone()))
        };
        let ticket = match found {
            Some(ticket) => ticket,
            None => {
                let ticket = Arc::new(engine.ticket(proto, to).ok_or(Errno::EPERM)?);
                let mut state = self.state.lock();
                state.tickets.push_back((to, ticket.clone()));
                let oldest = if state.tickets.len() > MAX_TICKETS { state.tickets.pop_front() } else { None };
                drop(state);
                drop(oldest);
                ticket
            }
        };
        // By another policy, perhaps.
        if !ticket.sending(&[]) {
            self.state.lock().tickets.retain(|(at, _)| *at != to);
            return Err(Errno::EPERM);
        }
        Ok(Leave::Ticket(ticket))
    }

    /// The same of a stream.
    pub fn leave_stream(&self) -> Result<Leave, Errno> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Errno::ECONNRESET);
        }
        let state = self.state.lock();
        let ticket = state.tickets.front().map(|(_, ticket)| ticket.clone());
        Ok(ticket.map_or(Leave::Free, Leave::Ticket))
    }

    /// A policy has ended it; true the first time.
    pub fn cut(&self) -> bool {
        !self.cut.swap(true, Ordering::AcqRel)
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Bytes that came, from whom the socket is connected to unless the message says so.
    pub fn received(&self, from: Option<SocketAddr>, data: &[u8]) {
        let state = self.state.lock();
        let Some(from) = from.map(plain).or(state.peer) else { return };
        let found = state.tickets.iter().find(|(at, _)| *at == from).map(|(_, ticket)| ticket.clone());
        drop(state);
        if let Some(ticket) = found {
            ticket.received(data);
        }
    }

    /// Bits of readiness that count: nothing can be sent while the rate is used up, and `queue` is woken after that.
    pub fn readiness(&self, ns: &NetNs, ready: u32, watcher: &Arc<dyn Watcher>, queue: &WaitQueue) -> u32 {
        if self.is_cut() {
            return ready | POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP;
        }
        match ns.egress() {
            Some(engine) if self.must_wait(engine, watcher, queue) => {
                ready & !(POLLOUT | POLLWRNORM | POLLWRBAND)
            }
            _ => ready,
        }
    }

    /// Whether the rate is used up; `queue` is woken when it is not any more.
    pub fn must_wait(&self, engine: &Engine, watcher: &Arc<dyn Watcher>, queue: &WaitQueue) -> bool {
        let wait = engine.wait();
        if wait == 0 || self.state.lock().tickets.is_empty() {
            return false;
        }
        let alarm = self.alarm.get_or_init(|| {
            let bell = queue.clone();
            watcher.alarm(Box::new(move || bell.wake(POLLOUT | POLLWRNORM)))
        });
        alarm.arm(wait.max(MILLISECOND));
        true
    }

    /// The socket is closed.
    pub fn end(&self) {
        let tickets = std::mem::take(&mut self.state.lock().tickets);
        drop(tickets);
    }
}
