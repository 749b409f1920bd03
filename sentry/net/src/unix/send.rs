//! sendmsg(2).

use super::gc::Rights;
use super::message::{ARRIVED, Buffer, Charge, Message, SMALL, STREAM_CHUNK, truesize};
use super::{PeerRoom, Phase, RCV, SEND, State, UnixSock, is_peer};
use crate::SockAddr;
use crate::filter::Packet;
use crate::msg::SendMsg;
use crate::socket::sender_cred;
use chitin_abi::Errno;
use chitin_abi::socket::*;
use chitin_vfs::bounds::SOCKET_BYTES;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a message must leave free of the send buffer, beyond its own length.
const DATAGRAM_OVERHEAD: usize = 32;

impl UnixSock {
    /// The credentials that go with a message: those the sender gave, or its own where either end asks for them.
    fn creds_for(&self, msg: &SendMsg<'_>, other: &UnixSock) -> Option<Ucred> {
        if msg.control.creds.is_some() {
            return msg.control.creds;
        }
        // What nobody has accepted yet may want them later.
        let embryo = other.common.ino.load(Ordering::Relaxed) == 0;
        if !self.common.passcred() && !other.common.passcred() && !embryo {
            return None;
        }
        Some(msg.ctx.map_or(self.common.creator, |ctx| sender_cred(&ctx.caller)))
    }

    /// Takes the descriptors of a message, which go with its first bytes.
    fn rights_of(&self, msg: &mut SendMsg<'_>) -> Result<Option<Rights>, Errno> {
        if msg.control.rights.is_empty() {
            return Ok(None);
        }
        let user = msg.ctx.map_or(self.common.creator.uid, |ctx| ctx.caller.creds.uid);
        Rights::register(&mut msg.control.rights, user, msg.rights_limit).map(Some)
    }

    pub(super) fn send_stream(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let peer = {
            let mut state = self.state.lock();
            if msg.dest.is_some() {
                let connected = state.phase == Phase::Connected;
                return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
            }
            let peer = state.peer.clone().ok_or(Errno::ENOTCONN)?;
            if state.shutdown & SEND != 0 {
                return Err(Errno::EPIPE);
            }
            if msg.data.left() > 0
                && let Some(error) = state.error.take()
            {
                return Err(error);
            }
            peer
        };
        let mut sent = 0;
        while msg.data.left() > 0 {
            match self.send_chunk(&peer, msg) {
                Ok(count) => sent += count,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    fn send_chunk(&self, peer: &UnixSock, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        if !self.shared.has_room() {
            return Err(Errno::EAGAIN);
        }
        let half = (self.common.sndbuf() / 2).saturating_sub(64).max(1);
        let chunk = if SOCKET_BYTES.exceeded() { SMALL } else { STREAM_CHUNK };
        let len = msg.data.left().min(half).min(chunk);
        let charge = Charge::new(&self.shared, truesize(len, true))?;
        let buffer = Buffer::fill(msg.data, len)?;
        let creds = self.creds_for(msg, peer);
        let rights = self.rights_of(msg).inspect_err(|_| msg.data.untake(len))?;
        let message = Message::new(buffer, creds, rights, charge);
        // The message is dropped after the guard.
        let refused = {
            let mut state = peer.state.lock();
            if state.dead || state.shutdown & RCV != 0 {
                Some(message)
            } else {
                state.queue.push_back(message);
                None
            }
        };
        if refused.is_some() {
            msg.data.untake(len);
            return Err(Errno::EPIPE);
        }
        peer.wake(ARRIVED);
        Ok(len)
    }

    pub(super) fn send_packet(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            if state.phase != Phase::Connected {
                return Err(Errno::ENOTCONN);
            }
        }
        // The address is passed over.
        msg.dest = None;
        self.send_datagram(msg)
    }

    /// Whether a message may go to `other` now. `state` is `other`'s.
    fn admit(&self, other: &UnixSock, state: &State) -> Result<(), Errno> {
        if state.peer.is_some() && !is_peer(&state.peer, self) {
            return Err(Errno::EPERM);
        }
        if state.dead {
            return Err(Errno::ECONNREFUSED);
        }
        if state.shutdown & RCV != 0 {
            return Err(Errno::EPIPE);
        }
        if !std::ptr::eq(other, self) && !is_peer(&state.peer, self) && UnixSock::full(state) {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    pub(super) fn send_datagram(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if msg
            .dest
            .as_ref()
            .is_some_and(|dest| !matches!(dest, SockAddr::Unix(name) if *name != crate::UnixAddr::Unnamed))
        {
            return Err(Errno::EINVAL);
        }
        self.autobind_if_passing()?;
        let len = msg.data.left();
        if len > self.common.sndbuf().saturating_sub(DATAGRAM_OVERHEAD) {
            return Err(Errno::EMSGSIZE);
        }
        let peer = {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            if state.shutdown & SEND != 0 {
                return Err(Errno::EPIPE);
            }
            state.peer.clone()
        };
        if !self.shared.has_room() {
            return Err(Errno::EAGAIN);
        }
        let other = match (&msg.dest, msg.ctx) {
            (None, _) => peer.ok_or(Errno::ENOTCONN)?,
            (Some(dest), Some(ctx)) => self.find(ctx, dest)?,
            (Some(_), None) => return Err(Errno::EINVAL),
        };
        let result = self.post(&other, msg, len);
        match result {
            Err(Errno::EAGAIN) => msg.wait_on = Some(Arc::new(PeerRoom(other))),
            Err(Errno::ECONNREFUSED) => return Err(self.peer_is_dead(&other, msg.dest.is_some())),
            _ => {}
        }
        result
    }

    fn post(&self, other: &UnixSock, msg: &mut SendMsg<'_>, len: usize) -> Result<usize, Errno> {
        self.admit(other, &other.state.lock())?;
        if len > SMALL && SOCKET_BYTES.exceeded() {
            return Err(Errno::ENOBUFS);
        }
        let charge = Charge::new(&self.shared, truesize(len, false))?;
        let mut buffer = Buffer::fill(msg.data, len)?;
        if other.common.filters() {
            // What a filter does not want is lost, and nobody is told.
            match other.common.admit(&Packet { bytes: buffer.data(), ..Packet::default() }) {
                Some(kept) => buffer.truncate(kept),
                None => return Ok(len),
            }
        }
        let creds = self.creds_for(msg, other);
        let rights = self.rights_of(msg).inspect_err(|_| msg.data.untake(len))?;
        let message = Message::new(buffer, creds, rights, charge);
        let refused = {
            let mut state = other.state.lock();
            match self.admit(other, &state) {
                Ok(()) => {
                    state.queue.push_back(message);
                    None
                }
                Err(error) => Some((error, message)),
            }
        };
        if let Some((error, mut message)) = refused {
            msg.data.untake(len);
            // The next attempt wants them again.
            if let Some(rights) = message.rights.take() {
                msg.control.rights = rights.take();
            }
            return Err(error);
        }
        other.wake(ARRIVED);
        Ok(len)
    }

    /// The receiver has gone. Its peer hears of it once and is unconnected then.
    fn peer_is_dead(&self, other: &Arc<UnixSock>, addressed: bool) -> Errno {
        if self.kind() == SOCK_SEQPACKET {
            return Errno::EPIPE;
        }
        let old = {
            let mut state = self.state.lock();
            if is_peer(&state.peer, other) {
                state.phase = Phase::Closed;
                state.peer.take()
            } else {
                None
            }
        };
        match old {
            Some(old) => {
                self.disconnected(&old);
                Errno::ECONNREFUSED
            }
            None if addressed => Errno::ECONNREFUSED,
            None => Errno::ECONNRESET,
        }
    }
}
