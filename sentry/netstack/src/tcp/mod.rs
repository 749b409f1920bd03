//! TCP over the wire.
//!
//! - `table`: who has which pair of addresses; `listen`: handshakes and cookies; `time_wait`: what is left of connections.
//! - `conn`: a connection as the sockets layer holds it; `tcb`: its state, with `input`, `ack` and `board` (what is known
//!   of what was sent), `recv`, `send`, `output`, `timers`, `congestion` and `rtt` as its parts; `outbox` and `inbox`: its buffers.
//!
//! A batch of frames is taken in first, connection by connection; what follows from it (acknowledgements, data, news for
//! the socket) goes out once at its end. A connection has one lock. Its data is handed to the device without it, but by one thread
//! at a time, so that segments stay in order: whoever else has something to send leaves it to that one. There is no lock for all.
//!
//! Locks: whoever reads, or writes much → connection → table shard, timers, neighbour, device. Upcalls run with none.

mod ack;
mod bbr;
mod board;
mod congestion;
mod conn;
mod ecn;
mod inbox;
mod info;
mod input;
mod listen;
mod memory;
mod options;
mod outbox;
mod output;
mod rate;
mod recv;
mod rtt;
mod segment;
mod send;
mod seq;
mod table;
mod tcb;
#[cfg(test)]
mod tests;
mod time_wait;
mod timers;

pub use conn::{Readiness, SendFlags, TcpConn};
pub use info::TcpEntry;
pub use options::{Congestion, TcpOptions};
pub(crate) use table::Tcp;

use crate::addr;
use crate::env::{MILLI, Nanos};
use crate::ip::Meta;
use crate::link::Out;
use crate::sockets::{Cast, TcpEvents};
use crate::stack::{Batch, Stack};
use crate::sysctl::Sysctls;
use crate::wire::{ACK, FIN, RST, SYN};
use chitin_abi::Errno;
use chitin_abi::netdevice::{ETH_P_IP, ETH_P_IPV6};
use chitin_abi::num::low32;
use segment::{Header, Segment};
use seq::Seq;
use std::net::SocketAddr;
use std::sync::Arc;
use table::Entry;
use tcb::{State, Tcb};
use time_wait::Late;

/// The addresses of a connection: this host's, the peer's.
pub(crate) type Tuple = (SocketAddr, SocketAddr);

fn millis(now: Nanos) -> u32 {
    low32(now / MILLI)
}

fn count(n: u32) -> usize {
    n.max(1) as usize
}

/// The window scale that lets a buffer of so many bytes be offered.
fn scale_for(most: usize) -> u8 {
    (0..14).find(|scale| most >> scale <= 65_535).unwrap_or(14)
}

/// Bytes of receive window that a connection begins with.
fn first_window(sysctls: &Sysctls, opts: &TcpOptions) -> usize {
    let limit = match opts.rcvbuf {
        0 => sysctls.tcp_rmem_default.size() / 2,
        set => set as usize / 2,
    };
    let clamp = if opts.window_clamp == 0 { usize::MAX } else { opts.window_clamp as usize };
    limit.max(1024).min(clamp)
}

/// The segment size to tell a peer.
fn own_mss(mtu: usize, tuple: &Tuple, max_seg: u16) -> u16 {
    let headers = if tuple.0.is_ipv4() { 40 } else { 60 };
    let mss = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(65_495).max(88);
    if max_seg == 0 { mss } else { mss.min(max_seg) }
}

fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

impl Stack {
    /// RFC 6528: different for each pair, growing with time.
    fn initial_seq(&self, tuple: &Tuple) -> Seq {
        Seq(low32(self.hash(tuple)).wrapping_add(low32(self.now() / 64)))
    }
    fn ts_offset(&self, tuple: &Tuple) -> u32 {
        low32(self.hash(&(tuple.0.ip(), tuple.1.ip(), 3_u8)))
    }

    /// Begins a connection. `local` has been bound by the sockets layer: its port is not 0, its address is given.
    /// [`TcpEvents`] tells the end: [`Readiness::state`] is TCP_ESTABLISHED, or there is an error. EADDRNOTAVAIL if the
    /// pair of addresses is in use.
    pub fn tcp_connect(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        options: TcpOptions,
        events: Arc<dyn TcpEvents>,
    ) -> Result<Arc<TcpConn>, Errno> {
        let remote_ip = remote.ip();
        let broadcast = matches!(remote_ip, std::net::IpAddr::V4(a) if a.is_broadcast());
        if remote_ip.is_multicast() || broadcast || local.port() == 0 || remote.port() == 0 {
            return Err(Errno::ENETUNREACH);
        }
        let tuple = (plain(local), plain(remote));
        self.config.route(remote.ip(), Some(local.ip()), options.device, options.mark)?;
        let now = self.now();
        let mut iss = self.initial_seq(&tuple);
        if let Some(Entry::TimeWait(rest)) = self.tcp.find(&tuple) {
            let least = rest.nxt.plus(65_535 + 2);
            iss = if iss.lt(least) { least } else { iss };
        }
        let mut tcb = Tcb::new(self, options, iss, self.ts_offset(&tuple));
        tcb.state = State::SynSent;
        tcb.force = true;
        let conn = TcpConn::new(self, tuple, tcb);
        conn.set_events(events);
        let reuse = self.sysctls.tcp_tw_reuse.get();
        let may_go = |old: &Entry| {
            let loopback = tuple.1.ip().is_loopback();
            matches!(old, Entry::TimeWait(rest) if (reuse == 1 || reuse == 2 && loopback) && rest.reusable(now))
        };
        if !self.tcp.insert(tuple, Entry::Conn(conn.clone()), may_go) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        conn.kick(self, now);
        self.drain();
        Ok(conn)
    }

    /// Whether a pair of addresses is free of connections (TIME_WAIT that may be used again counts as free).
    pub fn tcp_port_free(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        let now = self.now();
        match self.tcp.find(&(plain(local), plain(remote))) {
            None => true,
            Some(Entry::TimeWait(rest)) => self.sysctls.tcp_tw_reuse.get() == 1 && rest.reusable(now),
            Some(_) => false,
        }
    }

    /// What all connections' buffers may take together, in bytes.
    pub fn tcp_memory_limit(&self, bytes: usize) {
        self.tcp.memory.limit.store(bytes, std::sync::atomic::Ordering::Relaxed);
    }
    /// What they take now.
    pub fn tcp_memory(&self) -> usize {
        self.tcp.memory.used.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn tcp_input(&self, batch: &mut Batch, meta: &Meta<'_>) -> Option<()> {
        if meta.cast != Cast::Unicast {
            return None;
        }
        let (tuple, segment) = Segment::parse(meta)?;
        match self.tcp.find(&tuple) {
            Some(Entry::Conn(conn)) => {
                let segment = segment.kept(conn.admit(meta, batch.now)?, meta);
                return self.to_conn(batch, meta, &tuple, &conn, &segment);
            }
            Some(Entry::Request(request)) => {
                return self.on_request(batch, meta, &tuple, &request, &segment);
            }
            Some(Entry::TimeWait(rest)) => match self.late_segment(&tuple, &rest, &segment) {
                Late::Done => return Some(()),
                Late::New(beyond) => return self.on_syn(meta, tuple, &segment, Some(beyond)),
            },
            None => {}
        }
        if !self.credible(meta) || addr::any(meta.src.is_ipv4()) == meta.src || tuple.1.port() == 0 {
            return None;
        }
        // SYN and FIN at once is nothing that a connection begins with.
        if segment.flags & (SYN | ACK | RST | FIN) == SYN {
            return self.on_syn(meta, tuple, &segment, None);
        }
        self.on_stray(batch, meta, tuple, &segment)
    }

    /// Answers with a reset what belongs to nothing.
    fn refuse(&self, meta: &Meta<'_>, tuple: &Tuple, segment: &Segment<'_>) {
        if segment.has(RST) || meta.cast != Cast::Unicast {
            return;
        }
        let header = if segment.has(ACK) {
            Header { seq: segment.ack, flags: RST, df: true, ..Header::default() }
        } else {
            Header { ack: segment.end(), flags: RST | ACK, df: true, ..Header::default() }
        };
        let device = if addr::is_link_local(&meta.src) { meta.port.index } else { 0 };
        self.send_alone(tuple, &header, device, 0);
    }

    /// Resets a connection, if there is one between these two.
    pub fn tcp_abort(&self, local: SocketAddr, remote: SocketAddr) {
        if let Some(Entry::Conn(conn)) = self.tcp.find(&(plain(local), plain(remote))) {
            conn.abort();
        }
    }

    /// Sends a segment that has no connection.
    fn send_alone(&self, tuple: &Tuple, header: &Header<'_>, device: u32, mark: u32) -> Option<()> {
        let (local, remote) = tuple;
        let route = self.config.route(remote.ip(), Some(local.ip()), device, mark).ok()?;
        let hop = self.hop(route.link, route.next_hop(), false)?;
        let ttl = self.ttl(&route, Some(header.ttl).filter(|ttl| *ttl != 0));
        let header = Header { ttl, ..*header };
        let (head, csum, gso) = header.write(tuple, [&[], &[]], hop.port.info.csum, None);
        let proto = if local.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 };
        self.emit(&hop, proto, &mut [Out { head, body: [&[], &[]], csum, gso }]);
        Some(())
    }

    /// ICMP says something about a segment of ours. None: it cannot be about one.
    pub(crate) fn tcp_error(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        seq: u32,
        errno: Errno,
        mtu: Option<u32>,
    ) -> Option<()> {
        let tuple = (local, remote);
        match self.tcp.find(&tuple)? {
            Entry::Conn(conn) => conn.on_error(self, Seq(seq), errno, mtu),
            Entry::Request(request) => (request.iss == Seq(seq)).then_some(()),
            Entry::TimeWait(_) => None,
        }
    }

    /// All frames of a batch are in: connections send and tell.
    pub(crate) fn finish(&self, batch: Batch) {
        for conn in batch.touched {
            conn.kick(self, batch.now);
        }
    }
}
