//! A connection that makes no frames here: a socket of the host.
//!
//! Whoever holds one tells what is sent and received, in order; its end is told by dropping it.

use crate::audit::Event;
use crate::flow::{Flow, Key, Speech};
use crate::policy::Stage;
use crate::{DNS, Engine, TCP, UDP, dns};
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

pub struct Ticket {
    engine: Arc<Engine>,
    inner: Mutex<(Key, Flow)>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ticket").finish()
    }
}

impl Engine {
    /// A connection to `remote`, or datagrams to it; `None` if that is not allowed, and the log has it.
    pub fn ticket(self: &Arc<Engine>, proto: u8, remote: SocketAddr) -> Option<Ticket> {
        let rules = self.rules();
        let any: IpAddr =
            if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let key = Key::new(proto, SocketAddr::new(any, 0), remote);
        let mut flow = self.begin(&rules, &key, Stage::Opening);
        self.audit(&rules, if flow.lives() { Event::Open } else { Event::Deny }, &key, &flow);
        if !flow.lives() {
            return None;
        }
        if proto == TCP {
            flow.speech = Speech::Begun { next: 0, data: Vec::new() };
            flow.listen(0);
        }
        Some(Ticket { engine: self.clone(), inner: Mutex::new((key, flow)) })
    }
}

impl Ticket {
    /// What the connection's own address turned out to be.
    pub fn at(&self, local: SocketAddr) {
        let mut inner = self.inner.lock();
        inner.0 = Key::new(inner.0.proto, local, inner.0.remote);
    }

    /// The guest is about to send these bytes. False: the connection is cut off, and is to be reset.
    pub fn sending(&self, bytes: &[u8]) -> bool {
        let mut inner = self.inner.lock();
        let (key, flow) = &mut *inner;
        if !self.engine.is_on() || !flow.lives() {
            return flow.lives();
        }
        let rules = self.engine.rules();
        if !self.engine.renew(&rules, key, flow) {
            self.engine.cut(&rules, key, flow);
            return false;
        }
        if !matches!(flow.speech, Speech::Begun { .. }) {
            return true;
        }
        let before = flow.held();
        let said = flow.says_next(bytes);
        let fine = self.engine.heard(&rules, key, flow, said, before);
        if matches!(flow.speech, Speech::Judged { .. }) {
            // The host's kernel says it once.
            self.engine.let_go(flow.held());
            flow.speech = Speech::Over;
        }
        fine
    }

    /// The guest is about to send a datagram. False: it is a question that may not be asked.
    pub fn may_ask(&self, datagram: &[u8]) -> bool {
        let key = self.inner.lock().0;
        !self.engine.is_on() || self.engine.may_ask(&self.engine.rules(), &key, datagram)
    }

    /// So many of them were taken; the others will come again.
    pub fn sent(&self, offered: &[u8], taken: usize) {
        let mut inner = self.inner.lock();
        let flow = &mut inner.1;
        flow.sent = flow.sent.saturating_add(u64::try_from(taken).unwrap_or(0));
        let before = flow.held();
        flow.unsay(offered.len().saturating_sub(taken));
        self.engine.let_go(before.saturating_sub(flow.held()));
    }

    /// Takes so many bytes of the rate; false: nothing may be sent for now ([`Engine::wait`]).
    pub fn spend(&self, bytes: usize) -> bool {
        !self.engine.is_on() || self.engine.spend(&self.engine.rules(), bytes)
    }

    /// Bytes that have arrived.
    pub fn received(&self, bytes: &[u8]) {
        let mut inner = self.inner.lock();
        let (key, flow) = &mut *inner;
        flow.received = flow.received.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        if key.remote.port() != DNS || !self.engine.is_on() {
            return;
        }
        let rules = self.engine.rules();
        let server = key.remote.ip();
        if self.engine.believers(&rules, server) == 0 {
            return;
        }
        let found = match key.proto {
            TCP => flow.answers_next(bytes),
            UDP => dns::answer(bytes).into_iter().collect(),
            _ => return,
        };
        self.engine.learn_all(&rules, server, &found);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (key, flow) = self.inner.get_mut();
        self.engine.closed(&self.engine.rules(), key, flow);
    }
}
