//! A connection as others hold it.

use super::Tuple;
use super::inbox::Buffer;
use super::input::Verdict;
use super::options::TcpOptions;
use super::output::After;
use super::segment::Segment;
use super::seq::Seq;
use super::table::Entry;
use super::tcb::{Cx, Repair, State, Tcb};
use super::time_wait::TimeWait;
use crate::env::Nanos;
use crate::ip::Meta;
use crate::sockets::TcpEvents;
use crate::stack::{Batch, Stack};
use crate::timer::{Due, Key};
use chitin_abi::Errno;
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use parking_lot::{Mutex, MutexGuard};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Whatever a guest sets.
const MAX_ORPHANS: usize = 65_536;
/// So much is copied to a reader at once; more is much.
const LITTLE: usize = 4096;
/// So much of a writer's is copied with the connection unlocked.
const MUCH: usize = 32_768;

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
pub struct TcpConn {
    tuple: Tuple,
    pub(super) stack: Weak<Stack>,
    this: Weak<TcpConn>,
    pub(super) tcb: Mutex<Tcb>,
    /// Who reads: what is copied while `tcb` is not locked stays the first. Before `tcb`.
    reader: Mutex<()>,
    /// Who writes much: it is copied while `tcb` is not locked, and stays in order. Before `tcb`.
    pub(super) writer: Mutex<()>,
    events: Mutex<Option<Arc<dyn TcpEvents>>>,
    /// Who is about to lock `tcb`, and to settle it then.
    senders: AtomicUsize,
    /// Of its settings, for who does not lock it.
    filtered: AtomicBool,
}

impl std::fmt::Debug for TcpConn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TcpConn").field(&self.tuple).finish()
    }
}

impl TcpConn {
    pub(super) fn new(stack: &Stack, tuple: Tuple, tcb: Tcb) -> Arc<TcpConn> {
        Arc::new_cyclic(|this| TcpConn {
            tuple,
            stack: stack.this.clone(),
            this: this.clone(),
            filtered: AtomicBool::new(tcb.opts.filtered),
            tcb: Mutex::new(tcb),
            reader: Mutex::new(()),
            writer: Mutex::new(()),
            events: Mutex::new(None),
            senders: AtomicUsize::new(0),
        })
    }

    /// Sends what may go, sees to timers and to the end, and tells the socket: after whatever has changed the state.
    fn settle(&self, cx: &Cx<'_>, tcb: MutexGuard<'_, Tcb>) {
        self.settle_as(cx, tcb, false);
    }

    /// As [`TcpConn::settle`]; who has more to write may share the sending.
    fn settle_as(&self, cx: &Cx<'_>, mut tcb: MutexGuard<'_, Tcb>, share: bool) {
        let over = matches!(tcb.state, State::Close | State::TimeWait);
        let mut after = After::default();
        // Sending takes long, and who waits for the lock sees to it.
        if over || self.senders.load(Ordering::Relaxed) == 0 {
            after = self.output(cx, &mut tcb, share);
        }
        if matches!(tcb.state, State::Close | State::TimeWait) {
            self.leave(cx, &mut tcb);
        }
        tcb.arm(cx, || Due::Conn(self.this.clone()));
        let events = std::mem::take(&mut tcb.events);
        // Or it is about to be settled anyway.
        let rest = after.rest.filter(|_| !std::mem::replace(&mut tcb.touched, true));
        drop(tcb);
        if events != 0 {
            let sink = self.events.lock().clone();
            if let Some(sink) = sink {
                sink.notify(events);
            }
        }
        if let Some(ack) = after.ack {
            ack.emit(cx.stack);
        }
        if let (Some(port), Some(this)) = (rest, self.this.upgrade()) {
            cx.stack.send_late(this, &*port.device);
        }
    }

    /// Whether somebody copies what is to be queued, and settles afterwards.
    pub(super) fn is_written_to(&self) -> bool {
        self.writer.is_locked()
    }

    /// The connection is over; its addresses are free, or wait for a while.
    fn leave(&self, cx: &Cx<'_>, tcb: &mut Tcb) {
        let mine = |entry: &Entry| matches!(entry, Entry::Conn(conn) if std::ptr::eq(&**conn, self));
        let was = cx.stack.tcp.remove(&self.tuple, mine);
        if was.is_some() && tcb.orphan {
            cx.stack.tcp.orphans.fetch_sub(1, Ordering::Relaxed);
        }
        if was.is_some() && tcb.state == State::TimeWait {
            cx.stack.keep_waiting(self.tuple, TimeWait::of(tcb, cx.now));
        }
        if tcb.state == State::TimeWait {
            tcb.die(None);
        }
    }

    /// Locks it; `None` once the stack is gone.
    pub(super) fn with<T>(&self, act: impl FnOnce(&Cx<'_>, &mut Tcb) -> T) -> Option<T> {
        self.with_as(false, act)
    }

    pub(super) fn with_as<T>(&self, share: bool, act: impl FnOnce(&Cx<'_>, &mut Tcb) -> T) -> Option<T> {
        let stack = self.stack.upgrade()?;
        let cx = Cx { stack: &stack, tuple: &self.tuple, now: stack.now() };
        self.senders.fetch_add(1, Ordering::Relaxed);
        let mut tcb = self.tcb.lock();
        self.senders.fetch_sub(1, Ordering::Relaxed);
        let result = act(&cx, &mut tcb);
        self.settle_as(&cx, tcb, share);
        stack.drain();
        Some(result)
    }

    pub(super) fn kick(&self, stack: &Stack, now: Nanos) {
        let cx = Cx { stack, tuple: &self.tuple, now };
        let mut tcb = self.tcb.lock();
        tcb.touched = false;
        self.settle(&cx, tcb);
    }

    pub(super) fn input(&self, cx: &Cx<'_>, batch: &mut Batch, segment: &Segment<'_>) -> Verdict {
        let mut tcb = self.tcb.lock();
        let verdict = tcb.on_segment(cx, segment);
        self.touch(batch, &mut tcb);
        verdict
    }

    /// It has something to do at the end of the batch.
    fn touch(&self, batch: &mut Batch, tcb: &mut Tcb) {
        if !tcb.touched {
            tcb.touched = true;
            batch.touched.extend(self.this.upgrade());
        }
    }

    pub(crate) fn on_timer(&self, stack: &Stack, batch: &mut Batch, key: Key) {
        let cx = Cx { stack, tuple: &self.tuple, now: batch.now };
        let mut tcb = self.tcb.lock();
        if tcb.on_timer(&cx, key) {
            self.touch(batch, &mut tcb);
        }
    }

    pub(super) fn on_error(&self, stack: &Stack, seq: Seq, errno: Errno, mtu: Option<u32>) -> Option<()> {
        let cx = Cx { stack, tuple: &self.tuple, now: stack.now() };
        let mut tcb = self.tcb.lock();
        if seq.lt(tcb.una) || tcb.nxt.lt(seq) || tcb.state == State::Close {
            return None;
        }
        match (tcb.state, mtu) {
            (State::SynSent | State::SynRecv, None) => tcb.die(Some(errno)),
            (_, None) => tcb.soft_error = Some(errno),
            (_, Some(mtu)) => {
                stack.pmtu.learn(self.tuple.1.ip(), mtu, 65_535, cx.now);
                let before = tcb.mss;
                tcb.path = None;
                tcb.find_path(&cx);
                // What was too large goes again, without blaming the path's capacity.
                if tcb.mss < before && tcb.state.synchronized() && tcb.repair == Repair::Open {
                    tcb.board.lose_all(false);
                }
            }
        }
        self.settle(&cx, tcb);
        Some(())
    }

    pub fn local(&self) -> SocketAddr {
        self.tuple.0
    }
    pub fn remote(&self) -> SocketAddr {
        self.tuple.1
    }
    /// Who is told; of accepted connections, to be set in [`TcpListener::established`](crate::TcpListener).
    pub fn set_events(&self, events: Arc<dyn TcpEvents>) {
        *self.events.lock() = Some(events);
    }
    /// How much of a segment is kept, from its header on.
    pub(super) fn admit(&self, meta: &Meta<'_>, now: Nanos) -> Option<usize> {
        if !self.filtered.load(Ordering::Relaxed) {
            return Some(usize::MAX);
        }
        let sink = self.events.lock().clone();
        sink.map_or(Some(usize::MAX), |sink| sink.admit(&meta.raw(now)))
    }
    /// TCP_*.
    pub fn state(&self) -> u32 {
        self.tcb.lock().state.number()
    }

    pub fn readiness(&self) -> Readiness {
        let stack = self.stack.upgrade();
        let mut tcb = self.tcb.lock();
        let readable = tcb.readable();
        let writable = match &stack {
            Some(stack) if tcb.can_send() => tcb.writable(stack),
            _ => 0,
        };
        // Whoever looks and finds no room is told when there is.
        tcb.want_write |= writable == 0 && tcb.can_send();
        let over = tcb.state == State::Close;
        Readiness {
            readable,
            eof: (tcb.fin_rcvd || tcb.shut_rd || over) && readable == 0,
            peer_closed: tcb.fin_rcvd || tcb.shut_rd || over,
            writable,
            send_closed: !tcb.can_send() && !matches!(tcb.state, State::SynSent | State::SynRecv),
            urgent: tcb.urgent_in.is_some() && !tcb.urgent_read,
            error: tcb.error,
            state: tcb.state.number(),
        }
    }

    /// Puts bytes into the send buffer and sends what may go. `fill` is asked for up to `max` bytes in pieces and answers
    /// how many it gave; fewer than asked for end it. For a little it runs with the connection locked, and otherwise with nothing
    /// locked that others than writers wait for. Answers what was taken, EAGAIN if there is no room or no connection yet, the
    /// pending error, or EPIPE if nothing can be sent any more.
    pub fn send_with(
        &self,
        max: usize,
        flags: SendFlags,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if max >= MUCH {
            return self.send_much(max, flags, fill);
        }
        let take_in = |cx: &Cx<'_>, tcb: &mut Tcb| {
            let taken = tcb.take_in(cx, max, flags, fill)?;
            if taken > LITTLE {
                tcb.is_busy_here();
            }
            Ok(taken)
        };
        self.with(take_in).unwrap_or(Err(Errno::EPIPE))
    }

    pub fn send(&self, data: &[u8], flags: SendFlags) -> Result<usize, Errno> {
        let mut rest = data;
        self.send_with(data.len(), flags, &mut |room| {
            let len = room.len().min(rest.len());
            let (now, later) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            if let Some(room) = room.get_mut(..len) {
                room.copy_from_slice(now);
            }
            rest = later;
            Ok(len)
        })
    }

    /// Takes up to `max` bytes from the receive buffer. `take` gets them in pieces and answers how many it took. With
    /// `peek`, they stay, and begin `skip` bytes on. 0: the end; EAGAIN: nothing there. Stops before the urgent mark.
    /// `take` runs with the connection locked for a little, and otherwise with nothing locked that its segments wait for.
    pub fn recv_with(
        &self,
        max: usize,
        peek: Option<usize>,
        take: &mut dyn FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let Some(stack) = self.stack.upgrade() else { return Ok(0) };
        let cx = Cx { stack: &stack, tuple: &self.tuple, now: stack.now() };
        let reader = self.reader.lock();
        let mut tcb = self.tcb.lock();
        let (off, most) = match tcb.next_read(max, peek)? {
            (_, 0) => return Ok(0),
            some => some,
        };
        let taken = if most <= LITTLE {
            tcb.give_out(off, most, take)
        } else {
            let mut done = 0;
            loop {
                let mut pieces = Pieces::default();
                tcb.rcv.share(off + done, most - done, |buffer, range| pieces.hold(buffer, range));
                drop(tcb);
                let (taken, all) = pieces.give_out(take);
                drop(pieces);
                tcb = self.tcb.lock();
                done += taken.unwrap_or(0);
                if !all || done >= most || taken == Ok(0) {
                    break if done == 0 { taken } else { Ok(done) };
                }
            }
        };
        if let (Ok(done), None) = (taken, peek) {
            tcb.rcv.consume(done);
            tcb.on_read(&cx, done);
        }
        if most > LITTLE {
            tcb.is_busy_here();
        }
        drop(reader);
        // Reading rarely has consequences.
        if tcb.ack_now || tcb.trim.is_some() && tcb.key.is_none() {
            self.after_read(&cx, tcb, most > LITTLE);
        }
        taken
    }

    /// Tells of the room that there is now. Who reads much has better things to do: the acknowledgement calls for more data, and
    /// who sends it takes that in on the way.
    fn after_read(&self, cx: &Cx<'_>, mut tcb: MutexGuard<'_, Tcb>, much: bool) {
        let port = tcb.path.as_ref().filter(|_| much).map(|path| path.hop.port.clone());
        let (Some(port), Some(this)) = (port, self.this.upgrade()) else {
            self.settle(cx, tcb);
            cx.stack.drain();
            return;
        };
        // Or it is about to be settled anyway.
        if !std::mem::replace(&mut tcb.touched, true) {
            drop(tcb);
            cx.stack.send_late(this, &*port.device);
        }
    }
    pub fn recv(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let max = buf.len();
        let mut done = 0;
        self.recv_with(max, None, &mut |piece| {
            if let Some(room) = buf.get_mut(done..done + piece.len()) {
                room.copy_from_slice(piece);
            }
            done += piece.len();
            Ok(piece.len())
        })
    }

    /// MSG_OOB: the urgent byte. EINVAL if there is none (or it is in line, or has been read), EAGAIN if it is still to
    /// come.
    pub fn recv_oob(&self, peek: bool) -> Result<u8, Errno> {
        let mut tcb = self.tcb.lock();
        let at = tcb.urgent_in.filter(|_| !tcb.opts.oob_inline && !tcb.urgent_read).ok_or(Errno::EINVAL)?;
        if tcb.rcv_data_end().le(at) {
            return if tcb.fin_rcvd || tcb.state == State::Close { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let off = at.from(tcb.rcv_start());
        let byte = tcb.rcv.byte(off).ok_or(Errno::EINVAL)?;
        tcb.urgent_read |= !peek;
        Ok(byte)
    }
    /// SIOCATMARK.
    pub fn at_mark(&self) -> bool {
        let tcb = self.tcb.lock();
        tcb.urgent_in == Some(tcb.rcv_start())
    }
    /// SO_ERROR: takes the pending error.
    pub fn take_error(&self) -> Option<Errno> {
        self.tcb.lock().error.take()
    }

    /// SHUT_RD, SHUT_WR, SHUT_RDWR. ENOTCONN if it is not connected.
    pub fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let shut = |_: &Cx<'_>, tcb: &mut Tcb| {
            if tcb.state == State::Close {
                return Err(Errno::ENOTCONN);
            }
            if how != SHUT_WR {
                tcb.shut_rd = true;
                tcb.events |= POLLIN | POLLRDHUP;
            }
            if how != SHUT_RD {
                tcb.say_fin();
                tcb.events |= POLLOUT;
            }
            Ok(())
        };
        self.with(shut).unwrap_or(Err(Errno::ENOTCONN))
    }

    /// Nobody holds it any more: FIN after what is queued, or RST if something received has not been read.
    pub fn close(&self) {
        *self.events.lock() = None;
        self.with(|cx, tcb| {
            if tcb.orphan || tcb.state == State::Close {
                tcb.rcv.release();
                return;
            }
            let orphans = cx.stack.tcp.orphans.fetch_add(1, Ordering::Relaxed);
            tcb.orphan = true;
            let unread = tcb.rcv.len() > 0;
            let too_many = orphans >= cx.stack.sysctls.tcp_max_orphans.size().min(MAX_ORPHANS);
            if tcb.state.synchronized() && (unread || too_many) {
                tcb.send_reset(cx);
                tcb.die(None);
                return;
            }
            tcb.say_fin();
            if tcb.state == State::FinWait2 {
                tcb.arm_fin_wait2(cx);
            }
        });
    }

    /// RST, and gone (SO_LINGER with 0 seconds, or connect(2) to AF_UNSPEC).
    pub fn abort(&self) {
        self.with(|cx, tcb| {
            if tcb.state.synchronized() || tcb.state == State::SynRecv {
                tcb.send_reset(cx);
            }
            tcb.die(Some(Errno::ECONNRESET));
            tcb.rcv.release();
        });
    }

    /// SIOCINQ.
    pub fn queued_in(&self) -> usize {
        self.tcb.lock().readable()
    }
    /// SIOCOUTQ: bytes not yet acknowledged.
    pub fn queued_out(&self) -> usize {
        self.tcb.lock().out.len()
    }
    /// SIOCOUTQNSD: bytes not yet sent.
    pub fn unsent(&self) -> usize {
        self.tcb.lock().unsent()
    }
    pub fn options(&self) -> TcpOptions {
        self.tcb.lock().opts.clone()
    }
    /// Changes settings; what follows (a cork taken out, keepalive begun) follows at once.
    pub fn configure(&self, change: &mut dyn FnMut(&mut TcpOptions)) {
        self.with(|cx, tcb| {
            let old = tcb.opts.clone();
            change(&mut tcb.opts);
            let new = &tcb.opts;
            self.filtered.store(new.filtered, Ordering::Relaxed);
            let keep = (old.keepalive, old.keep_idle) != (new.keepalive, new.keep_idle);
            if old.congestion != new.congestion {
                tcb.set_congestion(cx.now);
            }
            if !old.nodelay && tcb.opts.nodelay || old.cork && !tcb.opts.cork {
                tcb.more = false;
                tcb.force = true;
            }
            if old.no_quickack != tcb.opts.no_quickack {
                tcb.pingpong = tcb.opts.no_quickack;
                tcb.ack_now |= !tcb.pingpong && tcb.ack_wanted;
            }
            if tcb.opts.rcvbuf != old.rcvbuf && tcb.opts.rcvbuf != 0 {
                let limit = super::first_window(&cx.stack.sysctls, &tcb.opts);
                tcb.rcv_limit = limit.min(65_535 << tcb.rcv_scale);
            }
            if keep {
                tcb.arm_keep(cx);
            }
            if (old.tos, old.ttl, old.mark, old.device)
                != (tcb.opts.tos, tcb.opts.ttl, tcb.opts.mark, tcb.opts.device)
            {
                tcb.path = None;
            }
        });
    }

    pub(super) fn look<T>(&self, at: impl FnOnce(&Tcb) -> T) -> T {
        at(&self.tcb.lock())
    }
    /// Bytes beside its buffers.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.look(|tcb| size_of::<Tcb>() + tcb.board.held() + (tcb.ooo.len() + tcb.sacks.len()) * 8)
    }
    pub(super) fn stack(&self) -> Option<Arc<Stack>> {
        self.stack.upgrade()
    }
}

/// Takes bytes; answers how many.
type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<usize, Errno>;

/// What has been given out, and what went wrong.
#[derive(Default)]
struct Given {
    done: usize,
    error: Option<Errno>,
}

impl Given {
    /// Whether all of it was taken.
    fn add(&mut self, buffer: &Buffer, range: Range<usize>, take: Take<'_>) -> bool {
        let piece = buffer.get(range).unwrap_or_default();
        match take(piece) {
            Ok(n) => {
                self.done += n.min(piece.len());
                n >= piece.len()
            }
            Err(error) => {
                self.error = Some(error);
                false
            }
        }
    }

    fn result(self) -> Result<usize, Errno> {
        match self.error {
            Some(error) if self.done == 0 => Err(error),
            _ => Ok(self.done),
        }
    }
}

/// Pieces of the receive buffer that a reader holds.
#[derive(Default)]
struct Pieces {
    held: [Option<(Buffer, Range<usize>)>; 8],
    count: usize,
}

impl Pieces {
    fn hold(&mut self, buffer: &Buffer, range: Range<usize>) -> bool {
        if let Some(slot) = self.held.get_mut(self.count) {
            *slot = Some((buffer.clone(), range));
            self.count += 1;
        }
        self.count < self.held.len()
    }

    /// Fewer than there are: the taker wants no more.
    fn give_out(&self, take: Take<'_>) -> (Result<usize, Errno>, bool) {
        let mut given = Given::default();
        let all = self.held.iter().flatten().all(|(buffer, range)| given.add(buffer, range.clone(), take));
        (given.result(), all)
    }
}

impl Tcb {
    /// Sequence number of the first byte in the receive buffer, and behind the last.
    fn rcv_start(&self) -> Seq {
        self.rcv_data_end().minus(crate::wire::len32(self.rcv.len()))
    }
    fn rcv_data_end(&self) -> Seq {
        if self.fin_rcvd { self.rcv_nxt.minus(1) } else { self.rcv_nxt }
    }

    /// Where the urgent byte is that reading passes over, from the start of the buffer.
    fn hole(&self) -> Option<usize> {
        let at = self.urgent_in.filter(|_| !self.opts.oob_inline)?;
        let start = self.rcv_start();
        let off = at.from(start);
        (start.le(at) && off < self.rcv.len()).then_some(off)
    }
    fn readable(&self) -> usize {
        self.rcv.len() - usize::from(self.hole().is_some())
    }

    pub(super) fn is_busy_here(&self) {
        if let Some(path) = &self.path {
            path.hop.port.device.is_busy_here();
        }
    }

    /// What a reader of up to `max` bytes gets: from where in the receive buffer, and how much. (_, 0): the end.
    fn next_read(&mut self, max: usize, peek: Option<usize>) -> Result<(usize, usize), Errno> {
        let mut off = peek.unwrap_or(0);
        // The urgent byte is passed over when it is the next; otherwise reading stops before it.
        match self.hole() {
            Some(0) if peek.is_none() => {
                self.rcv.consume(1);
                if self.rcv_start() == self.urgent_in.map_or(self.rcv_start(), |at| at.plus(1))
                    && self.urgent_read
                {
                    self.urgent_in = None;
                }
            }
            Some(0) => off += 1,
            _ => {}
        }
        let mark = self.urgent_in.map(|at| at.from(self.rcv_start())).filter(|mark| *mark > off);
        let have = self.rcv.len().saturating_sub(off);
        let most = max.min(have).min(mark.map_or(usize::MAX, |mark| mark - off));
        if have == 0 && max > 0 {
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            let over = self.fin_rcvd || self.shut_rd || self.state == State::Close;
            return if over { Ok((off, 0)) } else { Err(Errno::EAGAIN) };
        }
        Ok((off, most))
    }

    fn give_out(&self, off: usize, most: usize, take: Take<'_>) -> Result<usize, Errno> {
        let mut given = Given::default();
        self.rcv.share(off, most, |buffer, range| given.add(buffer, range, take));
        given.result()
    }

    /// This side will send no more.
    fn say_fin(&mut self) {
        match self.state {
            State::SynSent => self.die(None),
            State::Established => {
                self.fin = true;
                self.state = State::FinWait1;
            }
            State::SynRecv => self.fin = true,
            State::CloseWait => {
                self.fin = true;
                self.state = State::LastAck;
            }
            _ => {}
        }
    }
}
