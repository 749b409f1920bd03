//! Filters of the host's datagram sockets (SO_ATTACH_FILTER). The sentry runs them, so that no program of a guest's gets into
//! the host's kernel: on each datagram as it is received, where Linux does it as it arrives.
//!
//! Locks: `HostSocket::sieve` is held over the host's calls, none of which waits.

use super::{HostSocket, errno, hand_all, options, tell};
use crate::SockAddr;
use crate::inet::addr::Endpoint;
use crate::inet::datagram::{Datagram, filter};
use crate::msg::RecvMsg;
use chitin_abi::Errno;
use chitin_abi::poll::POLLERR;
use chitin_abi::socket::{MSG_PEEK, MSG_TRUNC};
use chitin_host::bounce::Bounce;
use chitin_host::socket as host;

impl HostSocket {
    /// How much the filter keeps of a datagram; `None`: it is lost.
    fn kept(&self, from: &[u8], data: &[u8]) -> Option<usize> {
        let endpoint = |raw: &[u8]| SockAddr::parse(raw).inet().map(|at| Endpoint::new(at.ip(), at.port()));
        let from = endpoint(from)?;
        let to = host::name(self.fd()).ok().and_then(|raw| endpoint(&raw))?;
        let (data, ttl) = (data.into(), 64);
        let mut datagram = Datagram { data, from, to, index: 0, ttl, tos: 0, segment: 0, at: 0 };
        filter(&self.common, &mut datagram).then_some(datagram.data.len())
    }

    /// The next datagram that passes: what the host said of it, and how much of it is kept.
    fn next_kept(&self, room: &mut [u8], peek: bool) -> Result<(host::Incoming, usize), Errno> {
        let flags = if peek { MSG_PEEK } else { 0 };
        loop {
            let got = host::receive(self.fd(), room, flags.cast_signed()).map_err(errno)?;
            let data = room.get(..got.count).unwrap_or_default();
            if let Some(kept) = self.kept(&got.address, data) {
                return Ok((got, kept));
            }
            if peek {
                host::receive(self.fd(), &mut [], 0).map_err(errno)?;
            }
        }
    }

    /// Loses what does not pass, so that what is ready is something to be received.
    pub(super) fn sift(&self, ready: u32) -> u32 {
        let _turn = self.sieve.lock();
        // An error would be told to us.
        if ready & POLLERR == 0 {
            let _ = self.next_kept(&mut Bounce::take(), true);
        }
        chitin_host::epoll::ready(self.fd(), options::POLLED)
    }

    pub(super) fn receive_kept(&self, msg: &mut RecvMsg<'_>, bounce: &mut [u8]) -> Result<usize, Errno> {
        let (got, kept) = {
            let _turn = self.sieve.lock();
            self.next_kept(bounce, msg.flags & MSG_PEEK != 0)?
        };
        let data = bounce.get(..kept).unwrap_or_default();
        if msg.flags & MSG_PEEK == 0 {
            self.guard.received(SockAddr::parse(&got.address).inet(), data);
        }
        let there = kept.min(msg.data.room());
        hand_all(data.get(..there).unwrap_or_default(), msg.data)?;
        tell(msg, &got, there);
        if there < kept {
            msg.out_flags |= MSG_TRUNC;
        }
        Ok(if msg.flags & MSG_TRUNC != 0 { kept } else { there })
    }
}
