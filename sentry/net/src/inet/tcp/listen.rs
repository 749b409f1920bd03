//! listen(2) and accept(2): connections that wait to be accepted, and those that wait for that queue.
//!
//! When the queue is full, a SYN is dropped and comes again later: here who connects is kept in a list, and is the next
//! one as soon as there is room.

use super::link::Direct;
use super::{IN, Phase, Standing, TcpSock};
use crate::inet::addr::Endpoint;
use chitin_abi::Errno;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// A connection that nobody has accepted.
struct Embryo {
    sock: Arc<TcpSock>,
    /// `None`: it is one over the wire.
    link: Option<Arc<Direct>>,
}

/// How many wait at least before it is looked at who still does.
const SWEEP: usize = 64;

/// What a listening socket has.
pub struct Listener {
    backlog: usize,
    pending: VecDeque<Embryo>,
    /// Connections on which there was no data yet (TCP_DEFER_ACCEPT).
    deferred: Vec<Embryo>,
    /// Who connects while the queue is full, and between which endpoints.
    waiting: VecDeque<(Weak<TcpSock>, Endpoint, Endpoint)>,
    /// At this many, those that have given up are swept out.
    sweep_at: usize,
}

impl Listener {
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
    pub fn queued(&self) -> (usize, usize) {
        (self.pending.len(), self.backlog)
    }
    /// A connection over the wire.
    pub fn push(&mut self, sock: Arc<TcpSock>) {
        self.pending.push_back(Embryo { sock, link: None });
    }
    pub fn full(&self) -> bool {
        self.pending.len() > self.backlog
    }

    fn wait(&mut self, client: &Arc<TcpSock>, from: Endpoint, to: Endpoint) {
        if self.waiting.len() >= self.sweep_at {
            let still = |(client, from, to): &(Weak<TcpSock>, Endpoint, Endpoint)| {
                client.upgrade().is_some_and(|client| client.still_connects(*from, *to))
            };
            self.waiting.retain(still);
            self.sweep_at = (2 * self.waiting.len()).max(SWEEP);
        }
        self.waiting.push_back((Arc::downgrade(client), from, to));
    }

    /// The next one that waits, if there is room for it.
    fn next(&mut self) -> Option<(Arc<TcpSock>, Endpoint, Endpoint)> {
        while !self.full() {
            let (client, from, to) = self.waiting.pop_front()?;
            if let Some(client) = client.upgrade().filter(|client| client.still_connects(from, to)) {
                return Some((client, from, to));
            }
        }
        None
    }
}

impl TcpSock {
    pub(super) fn start_listening(&self, backlog: u32) -> Result<(), Errno> {
        let tables = &self.common.ns.inet;
        let mut core = self.core.lock();
        if core.standing != Standing::Unconnected {
            return Err(Errno::EINVAL);
        }
        let backlog = backlog as usize;
        match &mut core.phase {
            Phase::Listen(listener) => {
                listener.backlog = backlog;
                return Ok(());
            }
            Phase::Close => {}
            _ => return Err(Errno::EINVAL),
        }
        let claim = match core.claim.take() {
            Some(claim) => claim,
            None => {
                tables.connections.expire();
                let at = Endpoint { port: 0, ..core.local };
                tables.tcp_ports.bind(&self.wish(at), self.ip.port_range(&self.common.ns))?
            }
        };
        claim.listening.store(true, Ordering::Relaxed);
        if !tables.tcp_ports.may_listen(&claim) {
            claim.listening.store(false, Ordering::Relaxed);
            core.claim = Some(claim);
            return Err(Errno::EADDRINUSE);
        }
        core.local.port = claim.port;
        core.shutdown = 0;
        core.phase = Phase::Listen(Listener {
            backlog,
            pending: VecDeque::new(),
            deferred: Vec::new(),
            waiting: VecDeque::new(),
            sweep_at: SWEEP,
        });
        let port = claim.port;
        core.claim = Some(claim);
        drop(core);
        tables.add_listener(port, &self.me);
        Ok(())
    }

    /// A SYN from `client`. False: this socket does not listen any more.
    pub(super) fn offer(self: &Arc<Self>, client: &Arc<TcpSock>, from: Endpoint, to: Endpoint) -> bool {
        let link = {
            let mut core = self.core.lock();
            let Phase::Listen(listener) = &mut core.phase else { return false };
            let embryo = if listener.full() { None } else { self.conceive(client, to, from) };
            match embryo {
                None => {
                    listener.wait(client, from, to);
                    return true;
                }
                Some((embryo, link)) => {
                    let patience = self.options.lock().defer_seconds();
                    if patience > 0 {
                        link.defer(self.me.clone());
                        embryo.sock.is_deferred(patience);
                        listener.deferred.push(embryo);
                    } else {
                        listener.pending.push_back(embryo);
                    }
                    link
                }
            }
        };
        client.establish(&link, 0);
        self.queue.wake(IN);
        true
    }

    /// A socket with what connections get of their listener. `None`: there are too many.
    pub(super) fn child(&self) -> Option<Arc<TcpSock>> {
        let sock = TcpSock::make(&self.common.ns, self.v6, self.common.creator)?;
        sock.common.inherit(&self.common);
        sock.ip.inherit(&self.ip);
        *sock.options.lock() = self.options.lock().clone();
        sock.user_timeout.store(self.user_timeout.load(Ordering::Relaxed), Ordering::Relaxed);
        sock.tells_inq.store(self.tells_inq.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(sock)
    }

    /// The socket at this end of a new connection. `None`: there are too many.
    fn conceive(
        &self,
        client: &Arc<TcpSock>,
        local: Endpoint,
        remote: Endpoint,
    ) -> Option<(Embryo, Arc<Direct>)> {
        let sock = self.child()?;
        sock.grow();
        let link = Direct::new([client, &sock], false, [client.limits(), sock.limits()]);
        link.seat(1, sock.seat_of(local, remote)?);
        {
            let mut core = sock.core.lock();
            (core.local, core.remote) = (local, Some(remote));
            core.standing = Standing::Connected;
            sock.set_link(&mut core, &link, 1);
        }
        Some((Embryo { sock, link: Some(link.clone()) }, link))
    }

    /// Data has come on a connection that waited for it.
    pub(super) fn undefer(&self, link: &Direct) {
        {
            let mut core = self.core.lock();
            let Phase::Listen(listener) = &mut core.phase else { return };
            let found = listener
                .deferred
                .iter()
                .position(|embryo| embryo.link.as_ref().is_some_and(|own| std::ptr::eq(&**own, link)));
            let Some(at) = found else { return };
            let embryo = listener.deferred.swap_remove(at);
            listener.pending.push_back(embryo);
        }
        self.queue.wake(IN);
    }

    pub(super) fn accept_one(&self) -> Result<Arc<TcpSock>, Errno> {
        let (sock, next) = {
            let mut core = self.core.lock();
            if let Some(error) = core.error.take() {
                return Err(error);
            }
            let Phase::Listen(listener) = &mut core.phase else { return Err(Errno::EINVAL) };
            let embryo = listener.pending.pop_front().ok_or(Errno::EAGAIN)?;
            (embryo.sock, listener.next())
        };
        if let Some((client, from, to)) = next {
            client.meet(from, to);
        }
        Ok(sock)
    }

    fn still_connects(&self, from: Endpoint, to: Endpoint) -> bool {
        let core = self.core.lock();
        matches!(core.phase, Phase::SynSent(_)) && core.local == from && core.remote == Some(to)
    }

    /// inet_csk_listen_stop()
    pub(super) fn stop_listening(&self, listener: Listener) {
        self.common.ns.inet.remove_listener(&self.me);
        if let Some(claim) = &self.core.lock().claim {
            claim.listening.store(false, Ordering::Relaxed);
        }
        for embryo in listener.pending.into_iter().chain(listener.deferred) {
            if let Some(link) = embryo.link {
                link.stop_deferring();
            }
            embryo.sock.close(true);
        }
        for (client, from, to) in listener.waiting {
            if let Some(client) = client.upgrade().filter(|client| client.still_connects(from, to)) {
                client.meet(from, to);
            }
        }
    }
}
