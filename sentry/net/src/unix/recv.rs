//! recvmsg(2).

use super::message::Message;
use super::{OUT, Phase, RCV, UnixSock};
use crate::SockAddr;
use crate::msg::RecvMsg;
use chitin_abi::Errno;
use chitin_abi::socket::*;
use chitin_mm::Sink;
use std::sync::atomic::Ordering;

/// Shown for a sender whose credentials nobody noted: the overflow ids.
const NOBODY: Ucred = Ucred { pid: 0, uid: 65534, gid: 65534 };

/// Puts all that fits; short only where the guest's memory ends (EFAULT if that is at once).
fn put(sink: &mut dyn Sink, data: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        if sink.room() == 0 {
            break;
        }
        match sink.put(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

impl UnixSock {
    /// Where SO_PEEK_OFF has MSG_PEEK start; `None`: it is off.
    fn peek_offset(&self, flags: u32) -> Option<usize> {
        if flags & MSG_PEEK == 0 {
            return None;
        }
        usize::try_from(self.common.peek_off.load(Ordering::Relaxed)).ok()
    }

    /// Moves SO_PEEK_OFF, forward by what was peeked or back by what was received.
    fn move_peek_offset(&self, by: isize) {
        let _ = self.common.peek_off.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |off| {
            let moved = i64::from(off).saturating_add(by as i64).max(0);
            if off < 0 { None } else { Some(i32::try_from(moved).unwrap_or(i32::MAX)) }
        });
    }

    pub(super) fn recv_stream(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        // Descriptors are counted out after the lock is gone.
        let mut taken = None;
        let result = {
            let mut state = self.state.lock();
            if state.phase != Phase::Connected {
                return Err(Errno::EINVAL);
            }
            if msg.flags & MSG_OOB != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            if state.queue.is_empty() {
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                if state.shutdown & RCV == 0 {
                    return Err(Errno::EAGAIN);
                }
                msg.done = true;
                return Ok(0);
            }
            if msg.flags & MSG_PEEK != 0 {
                self.peek_stream(state.queue.iter(), msg)
            } else {
                let passing = self.common.passcred();
                let mut copied = 0usize;
                loop {
                    let Some(message) = state.queue.front_mut() else { break Ok(copied) };
                    if !same_sender(message, passing, msg) {
                        break Ok(copied);
                    }
                    let wanted = message.len().min(msg.data.room());
                    let count = match put(msg.data, message.data().get(..wanted).unwrap_or_default()) {
                        Ok(count) => count,
                        Err(error) => {
                            msg.done = true;
                            break if copied > 0 || msg.count > 0 { Ok(copied) } else { Err(error) };
                        }
                    };
                    message.consume(count);
                    copied += count;
                    taken = message.rights.take();
                    if message.len() > 0 {
                        msg.done = true;
                        break Ok(copied);
                    }
                    state.queue.pop_front();
                    if taken.is_some() {
                        msg.done = true;
                        break Ok(copied);
                    }
                    if msg.data.room() == 0 {
                        break Ok(copied);
                    }
                }
            }
        };
        if let Some(rights) = taken {
            msg.control.rights.extend(rights.take());
        }
        let count = result?;
        if msg.flags & MSG_PEEK != 0 {
            self.move_peek_offset(count.cast_signed());
        } else {
            self.move_peek_offset(count.cast_signed().saturating_neg());
        }
        msg.count = msg.count.saturating_add(count);
        Ok(count)
    }

    fn peek_stream<'q>(
        &self,
        queue: impl Iterator<Item = &'q Message>,
        msg: &mut RecvMsg<'_>,
    ) -> Result<usize, Errno> {
        let mut skip = self.peek_offset(msg.flags).unwrap_or(0);
        let passing = self.common.passcred();
        let mut copied = 0usize;
        let mut seen = false;
        for message in queue {
            if skip > 0 && skip >= message.len() {
                skip -= message.len();
                continue;
            }
            seen = true;
            if !same_sender(message, passing, msg) {
                break;
            }
            let count = match put(msg.data, message.data().get(skip..).unwrap_or_default()) {
                Ok(count) => count,
                Err(error) if copied == 0 => return Err(error),
                Err(_) => break,
            };
            copied += count;
            let whole = skip + count == message.len();
            skip = 0;
            if let Some(rights) = &message.rights {
                msg.control.rights.extend(rights.files().iter().cloned());
                break;
            }
            if !whole || msg.data.room() == 0 {
                break;
            }
        }
        if !seen {
            return Err(Errno::EAGAIN);
        }
        msg.done = true;
        Ok(copied)
    }

    pub(super) fn recv_datagram(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        if self.kind() == SOCK_SEQPACKET && self.state.lock().phase != Phase::Connected {
            return Err(Errno::ENOTCONN);
        }
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if msg.flags & MSG_PEEK != 0 {
            let mut skip = self.peek_offset(msg.flags).unwrap_or(0);
            for message in &state.queue {
                if skip > 0 && skip >= message.len() {
                    skip -= message.len();
                    continue;
                }
                if let Some(rights) = &message.rights {
                    msg.control.rights.extend(rights.files().iter().cloned());
                }
                let result = self.deliver(message, skip, msg);
                drop(state);
                if result.is_err() {
                    crate::trash::discard(std::mem::take(&mut msg.control.rights));
                }
                self.move_peek_offset(msg.count.cast_signed());
                return result;
            }
        }
        let was_full = UnixSock::full(&state);
        let message = if msg.flags & MSG_PEEK == 0 { state.queue.pop_front() } else { None };
        let Some(mut message) = message else {
            // A datagram socket that was shut down is at its end only for those who would wait.
            let ended = state.shutdown & RCV != 0;
            let patient = self.kind() == SOCK_SEQPACKET || msg.flags & MSG_DONTWAIT == 0;
            msg.done = ended && patient;
            return if msg.done { Ok(0) } else { Err(Errno::EAGAIN) };
        };
        drop(state);
        if was_full {
            self.room.wake(OUT);
        }
        let result = self.deliver(&message, 0, msg);
        self.move_peek_offset(message.len().cast_signed().saturating_neg());
        if let Some(rights) = message.rights.take()
            && result.is_ok()
        {
            msg.control.rights.extend(rights.take());
        }
        result
    }

    /// Copies a message from byte `skip` on; what does not fit is cut off.
    fn deliver(&self, message: &Message, skip: usize, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        msg.done = true;
        msg.addr = message.sender().map(|name| SockAddr::Unix(name.clone()));
        let data = message.data().get(skip..).unwrap_or_default();
        let wanted = data.len().min(msg.data.room());
        if put(msg.data, data.get(..wanted).unwrap_or_default())? < wanted {
            return Err(Errno::EFAULT);
        }
        msg.count = wanted;
        if wanted < data.len() {
            msg.out_flags |= MSG_TRUNC;
        }
        if self.common.passcred() {
            msg.control.creds = Some(message.creds.unwrap_or(NOBODY));
        }
        Ok(if msg.flags & MSG_TRUNC != 0 { data.len() } else { wanted })
    }
}

/// Notes who sent the first bytes. Whoever wants credentials never gets bytes of two senders in one call.
fn same_sender(message: &Message, passing: bool, msg: &mut RecvMsg<'_>) -> bool {
    if passing {
        match msg.same_creds {
            Some(creds) if creds != message.creds => {
                msg.done = true;
                return false;
            }
            Some(_) => {}
            None => {
                msg.same_creds = Some(message.creds);
                msg.control.creds = Some(message.creds.unwrap_or(NOBODY));
            }
        }
    }
    if msg.addr.is_none() {
        msg.addr = message.sender().map(|name| SockAddr::Unix(name.clone()));
    }
    true
}
