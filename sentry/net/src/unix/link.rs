//! Connections: listen, connect, accept, and what dissolves them.

use super::{ALL, IN, OUT, PeerRoom, Phase, RCV, UnixSock, is_peer, lock_pair};
use crate::msg::WaitOn;
use crate::socket::{PeerCred, sender_cred};
use crate::{SockAddr, UnixAddr};
use chitin_abi::Errno;
use chitin_abi::poll::POLLERR;
use chitin_abi::socket::SOCK_DGRAM;
use chitin_vfs::Context;
use chitin_vfs::walk::Caller;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl UnixSock {
    pub(super) fn start_listening(&self, backlog: u32, caller: &Caller) -> Result<(), Errno> {
        if self.kind() == SOCK_DGRAM {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.addr().is_none() {
            return Err(Errno::EINVAL);
        }
        let grown = {
            let mut state = self.state.lock();
            if state.phase == Phase::Connected {
                return Err(Errno::EINVAL);
            }
            let grown = backlog as usize > state.backlog;
            state.backlog = backlog as usize;
            state.phase = Phase::Listening;
            state.peer_cred = Some(PeerCred::of(caller));
            grown
        };
        if grown {
            self.room.wake(OUT);
        }
        Ok(())
    }

    pub(super) fn connect_stream(
        self: &Arc<Self>,
        ctx: &Context,
        addr: &SockAddr,
        wait_on: &mut WaitOn,
    ) -> Result<(), Errno> {
        if matches!(addr, SockAddr::Unix(UnixAddr::Unnamed)) {
            return Err(Errno::EINVAL);
        }
        if let SockAddr::Unix(_) = addr {
            self.autobind_if_passing()?;
        }
        let other = self.find(ctx, addr)?;
        let new = UnixSock::new(&other.common.ns, self.kind(), sender_cred(&ctx.caller))?;
        let linked = self.link(&other, &new, ctx);
        if linked.is_err() {
            new.close(false);
        }
        if linked == Err(Errno::EAGAIN) {
            *wait_on = Some(Arc::new(PeerRoom(other.clone())));
        }
        linked?;
        other.wake(IN);
        Ok(())
    }

    /// Connects to `other`, which shall accept `new` later.
    fn link(self: &Arc<Self>, other: &Arc<Self>, new: &Arc<Self>, ctx: &Context) -> Result<(), Errno> {
        let (mut mine, mut theirs) = lock_pair(self, other);
        {
            let theirs = theirs.as_deref().unwrap_or(&mine);
            if theirs.phase != Phase::Listening || theirs.shutdown & RCV != 0 {
                return Err(Errno::ECONNREFUSED);
            }
            if UnixSock::full(theirs) {
                return Err(Errno::EAGAIN);
            }
        }
        match mine.phase {
            Phase::Closed => {}
            Phase::Connected => return Err(Errno::EISCONN),
            Phase::Listening => return Err(Errno::EINVAL),
        }
        // Listening and not listening: they are two.
        let Some(theirs) = theirs.as_deref_mut() else { return Err(Errno::EINVAL) };
        if let Some(name) = other.addr() {
            let _ = new.shared.addr.set(name.clone());
        }
        {
            // Nobody else knows the new socket yet.
            let mut state = new.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(self.clone());
            state.peer_cred = Some(PeerCred::of(&ctx.caller));
        }
        mine.phase = Phase::Connected;
        mine.peer = Some(new.clone());
        mine.peer_cred = theirs.peer_cred.clone();
        theirs.pending.push_back(new.clone());
        Ok(())
    }

    pub(super) fn accept_one(&self) -> Result<Arc<UnixSock>, Errno> {
        if self.kind() == SOCK_DGRAM {
            return Err(Errno::EOPNOTSUPP);
        }
        let (new, was_full) = {
            let mut state = self.state.lock();
            if state.phase != Phase::Listening {
                return Err(Errno::EINVAL);
            }
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let was_full = UnixSock::full(&state);
            match state.pending.pop_front() {
                Some(new) => (new, was_full),
                // Only who would have waited learns that it is over.
                None if state.shutdown & RCV != 0 && !self.common.nonblocking.load(Ordering::Relaxed) => {
                    return Err(Errno::EINVAL);
                }
                None => return Err(Errno::EAGAIN),
            }
        };
        if was_full {
            self.room.wake(OUT);
        }
        new.common.passcred.store(self.common.passcred(), Ordering::Relaxed);
        Ok(new)
    }

    pub(super) fn connect_datagram(self: &Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        let old = match addr {
            SockAddr::Unspec => {
                let mut state = self.state.lock();
                state.phase = Phase::Closed;
                state.peer.take()
            }
            SockAddr::Unix(UnixAddr::Unnamed) => return Err(Errno::EINVAL),
            SockAddr::Unix(_) => {
                self.autobind_if_passing()?;
                let other = self.find(ctx, addr)?;
                let (mut mine, theirs) = lock_pair(self, &other);
                let theirs = theirs.as_deref().unwrap_or(&mine);
                if theirs.dead {
                    return Err(Errno::ECONNREFUSED);
                }
                if theirs.peer.is_some() && !is_peer(&theirs.peer, self) {
                    return Err(Errno::EPERM);
                }
                mine.phase = Phase::Connected;
                let old = mine.peer.replace(other.clone());
                old.filter(|old| !Arc::ptr_eq(old, &other))
            }
            _ => return Err(Errno::EINVAL),
        };
        if let Some(old) = old {
            self.disconnected(&old);
        }
        Ok(())
    }

    /// unix_dgram_disconnected(): what `old` had sent is lost, and it hears of it if it was connected to us.
    pub(super) fn disconnected(&self, old: &UnixSock) {
        let lost = std::mem::take(&mut self.state.lock().queue);
        if !lost.is_empty() {
            drop(lost);
            self.room.wake(ALL);
            let told = {
                let mut state = old.state.lock();
                let told = !state.dead && is_peer(&state.peer, self);
                if told {
                    state.error = Some(Errno::ECONNRESET);
                }
                told
            };
            if told {
                old.wake(POLLERR | IN | OUT);
            }
        }
        // What it waited for at the old peer no longer matters.
        self.wake(OUT);
    }
}
