//! The receiving half of a direct connection.
//!
//! Guest memory is written with nothing locked but the reader's turn.

use super::{Direct, Ends, IN, OUT, RCV};
use crate::msg::RecvMsg;
use chitin_abi::Errno;
use chitin_abi::socket::*;
use chitin_host::clock::now_ns;

const CLOCK_MONOTONIC: i32 = 1;

impl Direct {
    /// Receives up to the end of what there is, or the urgent byte. `Ok(None)`: there is nothing.
    pub fn receive(&self, side: usize, msg: &mut RecvMsg<'_>, inline: bool) -> Result<Option<usize>, Errno> {
        let (peek, discard) = (msg.flags & MSG_PEEK != 0, msg.flags & MSG_TRUNC != 0);
        let [a, b] = &self.turns;
        let _turn = if side == 0 { a.lock() } else { b.lock() };
        let want = if discard { msg.data.room().saturating_sub(msg.count) } else { msg.data.room() };
        if !peek
            && !discard
            && let Some(result) = self.receive_whole(side, msg, want)
        {
            return result.map(Some);
        }
        // How far from the first byte: only peeking keeps what it has seen.
        let (mut copied, mut ahead) = (0usize, 0usize);
        loop {
            let mut ends = self.ends.lock();
            let me = ends.end(side);
            if want == 0 && me.chunks.len() > 0 {
                msg.done = true;
                return Ok(Some(0));
            }
            let mut run = want.saturating_sub(copied);
            if let Some(urgent) = me.urgent {
                let here = me.taken.saturating_add(ahead as u64);
                let distance =
                    urgent.at.checked_sub(here).map(|left| usize::try_from(left).unwrap_or(usize::MAX));
                match distance {
                    Some(0) if copied > 0 => break,
                    Some(0) if !inline && ahead < me.chunks.len() && run > 0 => {
                        if peek {
                            ahead += 1;
                        } else {
                            self.consume(&mut ends, side, 1);
                        }
                    }
                    Some(distance) if distance > 0 => run = run.min(distance),
                    _ => {}
                }
            }
            if run == 0 {
                break;
            }
            let found = ends.end(side).chunks.at(ahead);
            // What was consumed may have made room.
            self.unlock(ends);
            let Some((chunk, at)) = found else { return Ok((copied > 0).then_some(copied)) };
            let data = chunk.data().get(at..).unwrap_or_default();
            let data = data.get(..run.min(data.len())).unwrap_or_default();
            let (count, fault) = if discard { (data.len(), None) } else { put(msg, data) };
            drop(chunk);
            copied += count;
            let mut is_all = false;
            if peek {
                ahead += count;
            } else {
                let mut ends = self.ends.lock();
                self.consume(&mut ends, side, count);
                is_all = ends.end(side).chunks.len() == 0;
                self.unlock(ends);
            }
            if let Some(fault) = fault {
                return if copied > 0 { Ok(Some(copied)) } else { Err(fault) };
            }
            if is_all {
                break;
            }
        }
        Ok((copied > 0).then_some(copied))
    }

    /// All there is, if it lies in one piece, fits and has nothing urgent in it: with one look at the connection. It is taken
    /// before it is copied, and what cannot be stored comes back. The caller has the turn.
    fn receive_whole(&self, side: usize, msg: &mut RecvMsg<'_>, want: usize) -> Option<Result<usize, Errno>> {
        let mut ends = self.ends.lock();
        let me = ends.end(side);
        if me.urgent.is_some() {
            return None;
        }
        let (chunk, at) = me.chunks.take_sole(want)?;
        let data = chunk.data().get(at..).unwrap_or_default();
        self.consumed(&mut ends, side, data.len());
        self.unlock(ends);
        let (count, fault) = put(msg, data);
        if count < data.len() {
            let rest = data.len().saturating_sub(count);
            let mut ends = self.ends.lock();
            let me = ends.end(side);
            if !me.closed {
                me.taken = me.taken.saturating_sub(rest as u64);
                me.chunks.put_back(chunk, at.saturating_add(count));
                ends.wake(side, IN);
            }
            self.unlock(ends);
        }
        match fault {
            Some(fault) if count == 0 => Some(Err(fault)),
            _ => Some(Ok(count)),
        }
    }

    fn consume(&self, ends: &mut Ends, side: usize, count: usize) {
        ends.end(side).chunks.consume(count);
        self.consumed(ends, side, count);
    }

    /// So many bytes have been taken.
    fn consumed(&self, ends: &mut Ends, side: usize, count: usize) {
        let me = ends.end(side);
        me.taken = me.taken.saturating_add(count as u64);
        if me.urgent.is_some_and(|urgent| urgent.at < me.taken) {
            me.urgent = None;
        }
        if me.deserted && !me.done {
            self.desert(ends, side);
        }
        let other = self.other(side);
        if let Some(since) = &mut ends.end(other).stuck {
            *since = now_ns(CLOCK_MONOTONIC);
        }
        if ends.end(other).nospace && self.writable(ends, other) {
            ends.end(other).nospace = false;
            ends.wake(other, OUT);
        }
    }

    /// MSG_OOB (tcp_recv_urg()).
    pub fn receive_urgent(&self, side: usize, msg: &mut RecvMsg<'_>, inline: bool) -> Result<usize, Errno> {
        let byte = {
            let mut ends = self.ends.lock();
            let me = ends.end(side);
            let (done, shut) = (me.done, me.shutdown & RCV != 0);
            let Some(urgent) = me.urgent.as_mut().filter(|_| !inline) else { return Err(Errno::EINVAL) };
            let byte = if msg.flags & MSG_PEEK == 0 { urgent.byte.take() } else { urgent.byte };
            match byte {
                Some(byte) => byte,
                None if done || shut => return Ok(0),
                None => return Err(Errno::EINVAL),
            }
        };
        msg.put_urgent(byte)
    }
}

/// Puts all that fits; what went wrong, if not all could be stored.
fn put(msg: &mut RecvMsg<'_>, data: &[u8]) -> (usize, Option<Errno>) {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match msg.data.put(rest) {
            Ok(0) => return (done, Some(Errno::EFAULT)),
            Ok(count) => done += count,
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}
