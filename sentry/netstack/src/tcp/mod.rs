//! TCP over the wire.
//!
//! Not filled in yet: connections cannot be made; the types say what the sockets layer will see.

mod options;

pub use options::{Congestion, TcpOptions};

use crate::Stack;
use crate::sockets::TcpEvents;
use chitin_abi::Errno;
use chitin_abi::inet::TcpInfo;
use std::net::SocketAddr;
use std::sync::Arc;

/// What can be done with a connection now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes to be read.
    pub readable: usize,
    /// The peer will send no more, and all has been read.
    pub eof: bool,
    /// The peer has said it will send no more (POLLRDHUP).
    pub peer_closed: bool,
    /// Bytes of room in the send buffer; 0 as well while it is too full for POLLOUT.
    pub writable: usize,
    /// Nothing can be sent any more.
    pub send_closed: bool,
    /// Urgent data waits (POLLPRI).
    pub urgent: bool,
    pub error: Option<Errno>,
    /// TCP_*.
    pub state: u32,
}

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendFlags {
    /// MSG_MORE.
    pub more: bool,
    /// MSG_OOB.
    pub oob: bool,
}

/// A connection. It lives on until its protocol is done, whoever holds it; [`TcpConn::close`] says that nobody will.
#[derive(Debug)]
pub struct TcpConn {
    local: SocketAddr,
    remote: SocketAddr,
}

impl TcpConn {
    pub fn local(&self) -> SocketAddr {
        self.local
    }
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }
    /// Who is told; of accepted connections, to be set in [`TcpListener::established`](crate::TcpListener).
    pub fn set_events(&self, _events: Arc<dyn TcpEvents>) {}
    /// TCP_*.
    pub fn state(&self) -> u32 {
        chitin_abi::inet::TCP_CLOSE
    }
    pub fn readiness(&self) -> Readiness {
        Readiness::default()
    }
    /// Puts bytes into the send buffer and sends what may go. `fill` is asked for up to `max` bytes in pieces and answers
    /// how many it gave; fewer than asked for end it. It runs with the connection locked. Answers what was taken, EAGAIN
    /// if there is no room, the pending error or EPIPE if there will be none.
    pub fn send_with(
        &self,
        _max: usize,
        _flags: SendFlags,
        _fill: &mut dyn FnMut(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    pub fn send(&self, data: &[u8], flags: SendFlags) -> Result<usize, Errno> {
        let mut rest = data;
        self.send_with(data.len(), flags, &mut |room| {
            let len = room.len().min(rest.len());
            let (now, later) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            room.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
            rest = later;
            Ok(len)
        })
    }
    /// Takes up to `max` bytes from the receive buffer. `take` gets them in pieces and answers how many it took. With
    /// `peek`, they stay, and begin `skip` bytes on. 0: the end; EAGAIN: nothing there. Stops before the urgent mark.
    pub fn recv_with(
        &self,
        _max: usize,
        _peek: Option<usize>,
        _take: &mut dyn FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// MSG_OOB: the urgent byte. EINVAL if there is none (or it is in line), EAGAIN if it is still to come.
    pub fn recv_oob(&self, _peek: bool) -> Result<u8, Errno> {
        Err(Errno::EINVAL)
    }
    /// SIOCATMARK.
    pub fn at_mark(&self) -> bool {
        false
    }
    /// SO_ERROR: takes the pending error.
    pub fn take_error(&self) -> Option<Errno> {
        None
    }
    /// SHUT_RD, SHUT_WR, SHUT_RDWR. ENOTCONN if it is not connected.
    pub fn shutdown(&self, _how: u32) -> Result<(), Errno> {
        Err(Errno::ENOTCONN)
    }
    /// Nobody holds it any more: FIN after what is queued, or RST if something received has not been read.
    pub fn close(&self) {}
    /// RST, and gone (SO_LINGER with 0 seconds).
    pub fn abort(&self) {}
    /// SIOCINQ.
    pub fn queued_in(&self) -> usize {
        0
    }
    /// SIOCOUTQ: bytes not yet acknowledged.
    pub fn queued_out(&self) -> usize {
        0
    }
    /// SIOCOUTQNSD: bytes not yet sent.
    pub fn unsent(&self) -> usize {
        0
    }
    pub fn info(&self) -> TcpInfo {
        TcpInfo::default()
    }
    pub fn options(&self) -> TcpOptions {
        TcpOptions::default()
    }
    /// Changes settings; what follows (a cork taken out, keepalive begun) follows at once.
    pub fn configure(&self, _change: &mut dyn FnMut(&mut TcpOptions)) {}
}

impl Stack {
    /// Begins a connection. `local` has been bound by the sockets layer: its port is not 0, its address is given.
    /// [`TcpEvents`] tells the end: [`Readiness::state`] is TCP_ESTABLISHED, or there is an error.
    pub fn tcp_connect(
        &self,
        _local: SocketAddr,
        _remote: SocketAddr,
        _options: TcpOptions,
        _events: Arc<dyn TcpEvents>,
    ) -> Result<Arc<TcpConn>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Whether a port pair is free of connections (TIME_WAIT that may be used again counts as free): for ephemeral ports.
    pub fn tcp_port_free(&self, _local: SocketAddr, _remote: SocketAddr) -> bool {
        true
    }
}

/// The four numbers of a connection.
pub(crate) type Tuple = (SocketAddr, SocketAddr);

pub(crate) struct Tcp;

impl Tcp {
    pub(crate) fn new(_env: &dyn crate::Env) -> Tcp {
        Tcp
    }
}

impl TcpConn {
    pub(crate) fn on_timer(&self, _stack: &Stack, _batch: &mut crate::stack::Batch, _key: crate::timer::Key) {
    }
}

impl Stack {
    pub(crate) fn tcp_input(
        &self,
        _batch: &mut crate::stack::Batch,
        _meta: &crate::ip::Meta<'_>,
    ) -> Option<()> {
        None
    }
    pub(crate) fn tcp_error(
        &self,
        _local: SocketAddr,
        _remote: SocketAddr,
        _seq: u32,
        _errno: Errno,
        _fatal: bool,
        _mtu: Option<u32>,
    ) -> Option<()> {
        None
    }
    pub(crate) fn request_due(&self, _tuple: &Tuple, _key: crate::timer::Key, _now: u64) {}
    pub(crate) fn time_wait_due(&self, _now: u64) {}
    pub(crate) fn finish(&self, _batch: crate::stack::Batch) {}
}
