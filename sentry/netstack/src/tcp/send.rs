//! What writers put into the send buffer: a little with the connection locked, much with only other writers kept waiting.
//!
//! Neighbours: `conn` is asked for it, `outbox` has the room, `output` sends.

use super::conn::{SendFlags, TcpConn};
use super::outbox::{BLOCK, Blank};
use super::tcb::{Cx, State, Tcb};
use crate::stack::Stack;
use chitin_abi::Errno;

/// Puts bytes into a place, and answers how many.
type Fill<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<usize, Errno>;

/// What a writer has put into blocks.
#[derive(Default)]
struct Filled {
    done: usize,
    /// There was no more.
    ended: bool,
    error: Option<Errno>,
}

impl Filled {
    /// Whether there is more.
    fn add(&mut self, blank: &mut Blank, size: usize, fill: Fill<'_>) -> bool {
        match fill(blank.room().get_mut(..size).unwrap_or_default()) {
            Ok(n) => {
                self.done += n.min(size);
                self.ended = n < size;
            }
            Err(error) => (self.ended, self.error) = (true, Some(error)),
        }
        !self.ended
    }
}

impl TcpConn {
    /// As [`TcpConn::send_with`], of what takes long to copy.
    pub(super) fn send_much(&self, max: usize, flags: SendFlags, fill: Fill<'_>) -> Result<usize, Errno> {
        let writer = self.writer.lock();
        let Some(stack) = self.stack.upgrade() else { return Err(Errno::EPIPE) };
        let blanks = self.tcb.lock().make_room(&stack, max);
        drop(stack);
        let mut blanks = match blanks {
            Ok(blanks) => blanks,
            Err(error) => {
                // Somebody may have left something to who writes.
                drop(writer);
                self.with(|_, _| ());
                return Err(error);
            }
        };
        let mut filled = Filled::default();
        for (blank, size) in &mut blanks {
            if !filled.add(blank, *size, fill) {
                break;
            }
        }
        let sent = self.with_as(true, |_, tcb| {
            tcb.is_busy_here();
            let sent = tcb.queue(blanks, max, flags, &filled);
            drop(writer);
            sent
        });
        sent.unwrap_or(Err(Errno::EPIPE))
    }
}

impl Tcb {
    /// Whether a writer's data is taken.
    fn may_take_in(&mut self) -> Result<(), Errno> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.state {
            State::SynSent | State::SynRecv => {
                self.want_write = true;
                return Err(Errno::EAGAIN);
            }
            _ if !self.can_send() => return Err(Errno::EPIPE),
            _ => {}
        }
        // tcp_rate_check_app_limited(): until now there was less to send than could be under way.
        let idle = self.unsent() < self.mss && self.board.lost_out <= self.board.again_out;
        if idle && self.in_flight() < self.window.cwnd as usize {
            self.delivery.lack(self.in_flight());
        }
        Ok(())
    }

    /// Blocks for up to `max` bytes and how much is to be put into each.
    fn make_room(&mut self, stack: &Stack, max: usize) -> Result<Vec<(Blank, usize)>, Errno> {
        self.may_take_in()?;
        let mut left = self.send_limit(stack).saturating_sub(self.out.len()).min(max);
        let mut blanks = Vec::with_capacity(left.div_ceil(BLOCK));
        while left > 0 {
            let Some(mut blank) = self.out.blank(left) else { break };
            let size = blank.room().len().min(left);
            blanks.push((blank, size));
            left -= size;
        }
        if blanks.is_empty() {
            self.want_write = true;
            return Err(Errno::EAGAIN);
        }
        Ok(blanks)
    }

    /// Queues what a writer has filled.
    fn queue(
        &mut self,
        blanks: Vec<(Blank, usize)>,
        max: usize,
        flags: SendFlags,
        filled: &Filled,
    ) -> Result<usize, Errno> {
        // Whatever has happened meanwhile.
        let may = self.may_take_in();
        let mut left = if may.is_ok() { filled.done } else { 0 };
        let done = left;
        for (blank, _) in blanks {
            let n = blank.len().min(left);
            if n > 0 {
                self.out.append(blank, n);
            } else {
                self.out.give_back(blank);
            }
            left -= n;
        }
        may?;
        if done == 0 {
            return Err(filled.error.unwrap_or(Errno::EAGAIN));
        }
        self.taken_in(done, max, flags);
        // Less than was asked for, and not for want of data: for want of room.
        self.want_write |= done < max && !filled.ended;
        Ok(done)
    }

    fn taken_in(&mut self, done: usize, max: usize, flags: SendFlags) {
        if flags.oob && done == max {
            self.urgent_out = Some(self.base.plus(self.out.len()));
        }
        self.more = flags.more && done == max;
        self.trim = None;
        if self.pingpong || self.ack_wanted {
            self.pingpong = true;
        }
    }

    pub(super) fn take_in(
        &mut self,
        cx: &Cx<'_>,
        max: usize,
        flags: SendFlags,
        fill: Fill<'_>,
    ) -> Result<usize, Errno> {
        self.may_take_in()?;
        let limit = self.send_limit(cx.stack);
        let mut done = 0;
        let mut result = Ok(());
        while done < max {
            let len = self.out.len();
            let want = limit.saturating_sub(len).min(max - done);
            let room = if want == 0 { &mut [] } else { self.out.room(want) };
            let size = room.len().min(want);
            if size == 0 {
                self.want_write = true;
                break;
            }
            match fill(room.get_mut(..size).unwrap_or_default()) {
                Ok(n) => {
                    let n = n.min(size);
                    self.out.extend(n);
                    done += n;
                    if n < size {
                        break;
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if done > 0 {
            self.taken_in(done, max, flags);
            return Ok(done);
        }
        result.and(if max == 0 { Ok(0) } else { Err(Errno::EAGAIN) })
    }
}
