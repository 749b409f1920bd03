//! A connection between two sockets of the namespace, without packets: what one sends is at once in the other's receive
//! queue. The semantics are TCP's as an application sees them on a loopback interface that loses nothing.
//!
//! Each side is an [`End`]. A FIN or RST takes effect at once, too; the state of a side follows from who has sent a FIN.
//!
//! Locks: `Direct::turns` (who reads) and `Direct::sifts` → `Direct::ends`, a leaf. Guest memory is copied with `ends` free. Wake-ups are
//! collected in `Ends::wakes` and happen once it is unlocked.

mod receive;

use super::chunk::{CHUNK, Chunk, Chunks, SMALL};
use super::seat::Seat;
use super::sift::Late;
use super::{ALL, IN, OUT, RCV, SEND, TcpSock};
use crate::NetNs;
use crate::msg::SendMsg;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_vfs::WaitQueue;
use chitin_vfs::bounds::TCP_BYTES;
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

/// What a side may send while the sandbox's queues hold too much, if nothing of it is on the way.
const SQUEEZED: usize = 4096;

/// The urgent byte of a stream (the last one that was sent as such).
#[derive(Clone, Copy)]
struct Urgent {
    /// Its place in the stream.
    at: u64,
    /// `None`: it was received.
    byte: Option<u8>,
}

/// One side of a connection.
#[derive(Default)]
pub struct End {
    /// What it has to receive.
    chunks: Chunks,
    /// Place in the stream of the first byte not yet received, and of the next one to come.
    pub taken: u64,
    pub received: u64,
    urgent: Option<Urgent>,
    /// Bytes that count as received by the other host, and bytes that may wait at this one to be sent.
    window: usize,
    budget: usize,
    fin_sent: bool,
    /// Its FIN was the first: TIME_WAIT is its.
    first: bool,
    /// Nobody has it open.
    closed: bool,
    /// In state CLOSE: both FINs or a RST were seen.
    done: bool,
    shutdown: u32,
    error: Option<Errno>,
    /// Somebody was told that there is no room.
    nospace: bool,
    /// The listener that wants to see data before it accepts this.
    deferred: Option<Weak<TcpSock>>,
    /// Since when there is something that does not fit into the other's window.
    stuck: Option<u64>,
    /// The other side has given up without telling: it answers what is said next with a RST.
    deserted: bool,
    /// What a filter keeps from it yet.
    pub late: Late,
    /// Its FIN is among what a filter keeps from the other side.
    fin_late: bool,
    /// Segments, more or less: what TCP_INFO counts.
    pub sends: u32,
}

pub(super) struct Ends {
    ends: [End; 2],
    wakes: [u32; 2],
    /// Who has to be told that data has come.
    undeferred: Option<Weak<TcpSock>>,
    /// Both sides are through with each other: their seats may go.
    settle: bool,
}

/// A connection.
pub struct Direct {
    socks: [Weak<TcpSock>; 2],
    queues: [WaitQueue; 2],
    turns: [Mutex<()>; 2],
    seats: Mutex<[Option<Seat>; 2]>,
    /// Connected to itself: there is only side 0.
    looped: bool,
    ends: Mutex<Ends>,
    /// For who sends again what a filter did not let through.
    pub(super) sifts: [Mutex<()>; 2],
    /// One of the sockets has, or has had, a filter.
    pub(super) filters: AtomicBool,
    /// Its packets, had it any, could be marked: it was asked for (tcp_ecn) when the connection was made.
    pub(super) ecn: bool,
    ns: Arc<NetNs>,
    me: Weak<Direct>,
}

/// How a side looks from outside.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub state: u32,
    pub shutdown: u32,
    pub readable: usize,
    pub at_mark: bool,
    pub has_urgent: bool,
    pub writable: bool,
    pub error: bool,
    /// Bytes that the other host has not taken over.
    pub unsent: usize,
    pub free: usize,
}

/// Bytes of a queue and what may be in it, by a side's SO_RCVBUF and SO_SNDBUF.
#[derive(Clone, Copy)]
pub struct Limits {
    pub window: usize,
    pub budget: usize,
}

impl Ends {
    fn pair(&mut self, side: usize, looped: bool) -> (&mut End, Option<&mut End>) {
        let [a, b] = &mut self.ends;
        match (side, looped) {
            (0, true) => (a, None),
            (0, false) => (a, Some(b)),
            _ => (b, Some(a)),
        }
    }
    pub(super) fn end(&mut self, side: usize) -> &mut End {
        let [a, b] = &mut self.ends;
        if side == 0 { a } else { b }
    }
    fn wake(&mut self, side: usize, events: u32) {
        let [a, b] = &mut self.wakes;
        *(if side == 0 { a } else { b }) |= events;
    }
}

impl End {
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// tcp_reset()
    fn reset(&mut self, error: Errno) {
        if !self.done {
            self.error = Some(error);
        }
        self.done = true;
        self.shutdown = RCV | SEND;
    }
}

/// How much of a queue may be filled by `end` at the side whose window is given.
fn capacity(end: &End, window: usize) -> usize {
    end.budget.saturating_add(window)
}

impl Direct {
    pub fn new(socks: [&Arc<TcpSock>; 2], looped: bool, limits: [Limits; 2]) -> Arc<Direct> {
        let end = |limits: Limits| End { window: limits.window, budget: limits.budget, ..End::default() };
        let [a, b] = limits;
        let ends = Ends { ends: [end(a), end(b)], wakes: [0; 2], undeferred: None, settle: false };
        let [first, _] = socks;
        Arc::new_cyclic(|me| Direct {
            sifts: Default::default(),
            filters: AtomicBool::new(socks.iter().any(|sock| sock.common.filters())),
            ecn: first.common.ns.stack.sysctls.tcp_ecn.get() == 1,
            ns: first.common.ns.clone(),
            me: me.clone(),
            queues: socks.map(|sock| sock.queue.clone()),
            socks: socks.map(Arc::downgrade),
            turns: Default::default(),
            seats: Mutex::default(),
            looped,
            ends: Mutex::new(ends),
        })
    }

    pub(super) fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock()
    }
    pub(super) fn ns(&self) -> &NetNs {
        &self.ns
    }
    pub(super) fn weak(&self) -> Weak<Direct> {
        self.me.clone()
    }
    /// Whether something for this side waits behind a filter.
    pub(super) fn is_late(&self, side: usize) -> bool {
        !self.ends.lock().end(side).late.is_empty()
    }

    pub(super) fn sock(&self, side: usize) -> Option<Arc<TcpSock>> {
        let [a, b] = &self.socks;
        if side == 0 { a.upgrade() } else { b.upgrade() }
    }

    pub(super) fn other(&self, side: usize) -> usize {
        if self.looped { side } else { 1 - side }
    }

    /// Gives a side its place in the tables, for as long as the connection needs it.
    pub fn seat(&self, side: usize, seat: Seat) {
        let [a, b] = &mut *self.seats.lock();
        *(if side == 0 { a } else { b }) = Some(seat);
    }

    /// The data that comes first makes `listener` accept side 1.
    pub fn defer(&self, listener: Weak<TcpSock>) {
        self.ends.lock().end(1).deferred = Some(listener);
    }
    pub fn stop_deferring(&self) {
        self.ends.lock().end(1).deferred = None;
    }

    /// The time is over for which side 1 was to wait for data.
    pub fn accept_silent(&self) {
        let mut ends = self.ends.lock();
        ends.undeferred = ends.end(1).deferred.take();
        self.unlock(ends);
    }

    /// Gives the connection up if what a side has sent has not fitted into the other's window for `limit` nanoseconds
    /// (tcp_probe_timer()). Answers when to look again.
    pub fn give_up_stuck(&self, side: usize, limit: u64, now: u64) -> Option<u64> {
        let mut ends = self.ends.lock();
        let (me, peer) = ends.pair(side, self.looped);
        let peer = peer.filter(|peer| !peer.closed && peer.chunks.len() > peer.window);
        let Some(peer) = peer.filter(|_| !me.done) else {
            me.stuck = None;
            return None;
        };
        let until = me.stuck.get_or_insert(now).saturating_add(limit);
        if until > now {
            return Some(until);
        }
        me.reset(Errno::ETIMEDOUT);
        me.first = false;
        let lost = peer.chunks.keep(peer.window);
        peer.received =
            peer.received.saturating_sub(lost.iter().map(|chunk| chunk.data().len() as u64).sum());
        peer.urgent = peer.urgent.filter(|urgent| urgent.at < peer.received);
        peer.deserted = true;
        ends.wake(side, ALL | POLLERR);
        self.unlock(ends);
        drop(lost);
        None
    }

    /// A RST from who has given up.
    fn desert(&self, ends: &mut Ends, side: usize) {
        ends.end(side).reset(Errno::ECONNRESET);
        ends.wake(side, ALL | POLLERR);
        ends.settle = true;
    }

    pub fn set_limits(&self, side: usize, limits: Limits) {
        let mut ends = self.ends.lock();
        let end = ends.end(side);
        (end.window, end.budget) = (limits.window, limits.budget);
        ends.wake(side, OUT);
        ends.wake(self.other(side), OUT);
        self.unlock(ends);
    }

    /// Unlocks, and does what the change brings with it.
    fn unlock(&self, mut ends: MutexGuard<'_, Ends>) {
        let wakes = std::mem::take(&mut ends.wakes);
        let undeferred = ends.undeferred.take();
        let settle = std::mem::take(&mut ends.settle);
        let firsts = [ends.end(0).first, ends.end(1).first];
        drop(ends);
        for (queue, events) in self.queues.iter().zip(wakes) {
            if events != 0 {
                queue.wake(events);
            }
        }
        if let Some(listener) = undeferred.and_then(|listener| listener.upgrade()) {
            listener.undefer(self);
        }
        if settle {
            let seats = std::mem::take(&mut *self.seats.lock());
            for (seat, first) in seats.into_iter().zip(firsts) {
                if let Some(seat) = seat {
                    seat.leave(first);
                }
            }
        }
    }

    fn room(&self, ends: &mut Ends, side: usize) -> usize {
        let (me, peer) = ends.pair(side, self.looped);
        let (queued, window) = match peer {
            Some(peer) => (peer.chunks.len().saturating_add(peer.late.bytes()), peer.window),
            None => (me.chunks.len().saturating_add(me.late.bytes()), me.window),
        };
        if TCP_BYTES.exceeded() {
            return if queued == 0 { SQUEEZED } else { 0 };
        }
        capacity(me, window).saturating_sub(queued)
    }

    /// sk_stream_is_writeable(): a third is free.
    fn writable(&self, ends: &mut Ends, side: usize) -> bool {
        let (me, peer) = ends.pair(side, self.looped);
        let (queued, window) = match peer {
            Some(peer) => (peer.chunks.len().saturating_add(peer.late.bytes()), peer.window),
            None => (me.chunks.len().saturating_add(me.late.bytes()), me.window),
        };
        if TCP_BYTES.exceeded() && queued > 0 {
            return false;
        }
        capacity(me, window).saturating_sub(queued) >= queued / 2
    }

    fn state(&self, ends: &mut Ends, side: usize) -> u32 {
        let (me, peer) = ends.pair(side, self.looped);
        let theirs = peer.map_or(me.fin_sent, |peer| peer.fin_sent);
        match (me.done, me.fin_sent, theirs) {
            (true, ..) => TCP_CLOSE,
            (_, false, true) if me.fin_late => TCP_LAST_ACK,
            (_, false, false) if me.fin_late => TCP_FIN_WAIT1,
            (_, false, false) => TCP_ESTABLISHED,
            (_, true, false) => TCP_FIN_WAIT2,
            (_, false, true) => TCP_CLOSE_WAIT,
            (_, true, true) => TCP_CLOSE,
        }
    }

    pub fn view(&self, side: usize) -> View {
        let mut ends = self.ends.lock();
        let state = self.state(&mut ends, side);
        let free = self.room(&mut ends, side);
        let writable = self.writable(&mut ends, side);
        let (me, peer) = ends.pair(side, self.looped);
        let unsent = match peer {
            Some(peer) => peer.chunks.len().saturating_sub(peer.window).saturating_add(peer.late.bytes()),
            None => me.late.bytes(),
        };
        // A FIN counts until it has got through.
        let unsent = unsent.saturating_add(usize::from(me.fin_late));
        if !writable {
            me.nospace = true;
        }
        View {
            state,
            shutdown: me.shutdown,
            readable: me.chunks.len(),
            at_mark: me.urgent.is_some_and(|urgent| urgent.at == me.taken),
            has_urgent: me.urgent.is_some_and(|urgent| urgent.byte.is_some()),
            writable,
            error: me.error.is_some(),
            unsent,
            free,
        }
    }

    /// Bytes to receive, up to the urgent one (tcp_inq()).
    pub fn input(&self, side: usize, inline: bool) -> usize {
        let mut ends = self.ends.lock();
        let me = ends.end(side);
        match me.urgent {
            Some(urgent) if !inline && urgent.at >= me.taken && urgent.at < me.received => {
                usize::try_from(urgent.at - me.taken).unwrap_or(usize::MAX)
            }
            _ => me.chunks.len(),
        }
    }

    /// Bytes received and sent over its life, and the segments: for TCP_INFO.
    pub fn counts(&self, side: usize) -> [u64; 4] {
        let mut ends = self.ends.lock();
        let other = self.other(side);
        let (received, in_segments) = (ends.end(side).received, ends.end(other).sends);
        let (sent, out_segments) = (ends.end(other).received, ends.end(side).sends);
        [received, sent, in_segments.into(), out_segments.into()]
    }

    pub fn take_error(&self, side: usize) -> Option<Errno> {
        self.ends.lock().end(side).error.take()
    }

    /// Sends some of a message.
    pub fn send(&self, side: usize, msg: &mut SendMsg<'_>, wrote_before: bool) -> Result<usize, Errno> {
        if let Some(sent) = self.send_small(side, msg) {
            return Ok(sent);
        }
        let mut sent = 0;
        loop {
            let room = {
                let mut ends = self.ends.lock();
                let me = ends.end(side);
                if me.error.is_some() || me.shutdown & SEND != 0 {
                    let error = if sent > 0 || wrote_before { None } else { me.error.take() };
                    return if sent > 0 { Ok(sent) } else { Err(error.unwrap_or(Errno::EPIPE)) };
                }
                let room = self.room(&mut ends, side);
                if room == 0 {
                    ends.end(side).nospace = true;
                }
                room
            };
            let want = msg.data.left().min(room);
            if want == 0 {
                return if sent > 0 || msg.data.left() == 0 { Ok(sent) } else { Err(Errno::EAGAIN) };
            }
            let chunk = match Chunk::fill(msg.data, want.min(CHUNK)) {
                Ok(chunk) => chunk,
                Err(error) => return if sent > 0 { Ok(sent) } else { Err(error) },
            };
            let count = chunk.data().len();
            if count == 0 {
                return Ok(sent);
            }
            let urgent =
                (msg.flags & MSG_OOB != 0 && msg.data.left() == 0).then(|| chunk.data().last().copied());
            self.deliver(side, chunk, urgent.flatten());
            sent += count;
        }
    }

    /// A small message as a whole, if nothing is in its way: with one look at the connection. `None`: it has not been sent.
    fn send_small(&self, side: usize, msg: &mut SendMsg<'_>) -> Option<usize> {
        let len = msg.data.left();
        if len == 0 || len > SMALL || msg.flags & MSG_OOB != 0 || self.is_sifted(side) {
            return None;
        }
        let chunk = Chunk::fill(msg.data, len).ok()?;
        let count = chunk.data().len();
        let mut ends = self.ends.lock();
        let me = ends.end(side);
        if count < len || me.error.is_some() || me.shutdown & SEND != 0 || self.room(&mut ends, side) < len {
            drop(ends);
            msg.data.untake(count);
            return None;
        }
        self.take_in(ends, side, chunk, None, false);
        Some(count)
    }

    /// It is on its way to the other side, whose filter may be in between.
    fn deliver(&self, side: usize, chunk: Chunk, urgent: Option<u8>) {
        if self.is_sifted(side)
            && let Some(me) = self.me.upgrade()
        {
            self.ends.lock().end(self.other(side)).late.push(chunk, urgent);
            return me.send_late(side, false);
        }
        self.arrive(side, chunk, urgent);
    }

    /// The other side has it, or answers with a RST if it is not interested any more.
    pub(super) fn arrive(&self, side: usize, chunk: Chunk, urgent: Option<u8>) {
        let other = self.other(side);
        let inline = urgent.is_some() && self.sock(other).is_some_and(|sock| sock.inline());
        self.take_in(self.ends.lock(), side, chunk, urgent, inline);
    }

    /// As [`Direct::arrive`]; `inline`: the other side has urgent bytes in the stream.
    fn take_in(
        &self,
        mut ends: MutexGuard<'_, Ends>,
        side: usize,
        chunk: Chunk,
        urgent: Option<u8>,
        inline: bool,
    ) {
        let other = self.other(side);
        let count = chunk.data().len();
        ends.end(side).sends = ends.end(side).sends.wrapping_add(1);
        if ends.end(side).done {
            return;
        }
        if ends.end(side).deserted {
            self.desert(&mut ends, side);
            return self.unlock(ends);
        }
        let peer = ends.end(other);
        if peer.closed || (peer.fin_sent && peer.shutdown & RCV != 0) {
            if !peer.closed {
                peer.reset(Errno::ECONNRESET);
                ends.wake(other, ALL);
            }
            ends.end(side).reset(Errno::EPIPE);
            ends.wake(side, ALL);
            ends.settle = true;
            return self.unlock(ends);
        }
        if let Some(byte) = urgent {
            // An urgent byte that nobody took before the next one came is lost.
            let old = peer.urgent.filter(|old| old.at == peer.taken && peer.chunks.len() > 0);
            if old.is_some_and(|old| old.byte.is_some()) && !inline {
                peer.chunks.consume(1);
                peer.taken += 1;
            }
            let at = peer.received.saturating_add(count as u64).saturating_sub(1);
            peer.urgent = Some(Urgent { at, byte: Some(byte) });
        }
        peer.received = peer.received.saturating_add(count as u64);
        peer.chunks.push(chunk);
        ends.undeferred = ends.end(other).deferred.take();
        ends.wake(other, if urgent.is_some() { IN | POLLPRI } else { IN });
        self.unlock(ends);
    }

    /// Whether nothing can come any more: the end of the stream (SOCK_DONE or RCV_SHUTDOWN), with what ended it.
    pub fn ended(&self, side: usize, leave_error: bool) -> Result<bool, Errno> {
        let mut ends = self.ends.lock();
        let (me, peer) = ends.pair(side, self.looped);
        if peer.map_or(me.fin_sent, |peer| peer.fin_sent) {
            return Ok(true);
        }
        if !leave_error && let Some(error) = me.error.take() {
            return Err(error);
        }
        Ok(me.error.is_some() || me.shutdown & RCV != 0 || me.done)
    }

    /// shutdown(2): RCV and SEND bits. ENOTCONN when all is over.
    pub fn shutdown(&self, side: usize, how: u32) -> Result<(), Errno> {
        let sifted = self.is_sifted(side);
        let mut ends = self.ends.lock();
        let over = self.state(&mut ends, side) == TCP_CLOSE;
        ends.end(side).shutdown |= how;
        let late = how & SEND != 0 && !over && self.say_fin(&mut ends, side, sifted);
        ends.wake(side, ALL);
        self.unlock(ends);
        self.send_again_if(late, side);
        if over { Err(Errno::ENOTCONN) } else { Ok(()) }
    }

    /// Says that nothing follows. True: it has to get through the other side's filter.
    fn say_fin(&self, ends: &mut Ends, side: usize, sifted: bool) -> bool {
        let me = ends.end(side);
        if me.fin_sent || me.fin_late {
            return false;
        }
        if sifted {
            me.fin_late = true;
            ends.end(self.other(side)).late.push_fin();
        } else {
            self.send_fin(ends, side);
        }
        sifted
    }

    fn send_again_if(&self, late: bool, side: usize) {
        if late && let Some(me) = self.me.upgrade() {
            me.send_late(side, false);
        }
    }

    /// A FIN has got through.
    pub(super) fn arrive_fin(&self, side: usize) {
        let mut ends = self.ends.lock();
        if !ends.end(side).done {
            ends.end(side).fin_late = false;
            self.send_fin(&mut ends, side);
            ends.wake(side, ALL);
        }
        self.unlock(ends);
    }

    /// Nothing gets through for too long.
    pub(super) fn give_up(&self, side: usize, mut ends: MutexGuard<'_, Ends>) {
        let me = ends.end(side);
        me.reset(Errno::ETIMEDOUT);
        me.first = false;
        ends.end(self.other(side)).deserted = true;
        ends.wake(side, ALL | POLLERR);
        self.unlock(ends);
    }

    fn send_fin(&self, ends: &mut Ends, side: usize) {
        let other = self.other(side);
        if ends.end(side).fin_sent {
            return;
        }
        let first = !ends.end(other).fin_sent;
        let me = ends.end(side);
        me.fin_sent = true;
        me.first = first;
        let peer = ends.end(other);
        peer.shutdown |= RCV;
        let both = peer.fin_sent;
        if peer.deferred.is_some() {
            ends.undeferred = ends.end(other).deferred.take();
        }
        if both {
            for side in [side, other] {
                let end = ends.end(side);
                end.done = true;
                end.shutdown = RCV | SEND;
                ends.wake(side, ALL);
            }
            ends.settle = true;
        } else {
            ends.wake(other, IN | POLLRDHUP);
        }
    }

    /// The last close(2) (__tcp_close()); `abort`: SO_LINGER with no time, or never accepted.
    pub fn close(&self, side: usize, abort: bool) {
        let sifted = self.is_sifted(side);
        let mut ends = self.ends.lock();
        let me = ends.end(side);
        let unread = me.chunks.len() > 0;
        let over = me.done;
        me.closed = true;
        me.shutdown = RCV | SEND;
        let left = std::mem::take(&mut me.chunks);
        let mut late = false;
        if (unread || abort) && !over {
            self.reset_both(&mut ends, side);
        } else if !over {
            late = self.say_fin(&mut ends, side, sifted);
        }
        ends.wake(side, ALL);
        let lonely = !ends.settle && !over;
        self.unlock(ends);
        drop(left);
        if lonely {
            // FIN_WAIT2 without anybody: its place is kept for a while, whether or not the other side ever closes.
            let [a, b] = &mut *self.seats.lock();
            if let Some(seat) = if side == 0 { a } else { b } {
                seat.orphan();
            }
        }
        self.send_again_if(late, side);
    }

    /// tcp_disconnect() of one side: the other gets a RST.
    pub fn abort(&self, side: usize) {
        let mut ends = self.ends.lock();
        if !ends.end(side).done {
            self.reset_both(&mut ends, side);
        }
        ends.end(side).error = None;
        let left = std::mem::take(&mut ends.end(side).chunks);
        self.unlock(ends);
        drop(left);
    }

    fn reset_both(&self, ends: &mut Ends, side: usize) {
        let other = self.other(side);
        let me = ends.end(side);
        let waits = me.fin_sent;
        me.done = true;
        me.first = false;
        me.shutdown = RCV | SEND;
        let peer = ends.end(other);
        peer.first = false;
        if !peer.closed {
            // In CLOSE_WAIT it is the end of a pipe.
            let broken = waits && !peer.fin_sent;
            peer.reset(if broken { Errno::EPIPE } else { Errno::ECONNRESET });
            ends.undeferred = ends.end(other).deferred.take();
            ends.wake(other, ALL | POLLERR);
        } else {
            peer.done = true;
        }
        ends.settle = true;
    }
}
