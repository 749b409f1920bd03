//! Segments to the wire: first it is decided what goes, then headers are written around pieces of the send buffer, and a
//! batch of them is handed to the device, with the connection unlocked.

use super::conn::TcpConn;
use super::options::Congestion;
use super::outbox::Piece;
use super::segment::Header;
use super::seq::Seq;
use super::tcb::{Cx, Path, Repair, Rtx, State, Tcb};
use crate::device::{Csum, Gso};
use crate::env::{MICRO, MILLI, Nanos, SECOND};
use crate::link::{BATCH, Head, Hop, Out, Port};
use crate::stack::Stack;
use crate::wire::{ACK, FIN, PSH, RST, SYN, URG, len16, len32};
use chitin_abi::inet::*;
use chitin_abi::netdevice::{ETH_P_IP, ETH_P_IPV6};
use chitin_abi::num::low16;
use parking_lot::MutexGuard;
use std::sync::Arc;

/// Most of a segment that a device cuts.
const MAX_TSO: usize = 65_535 - 40 - 80;
/// A segment that takes longer to send than to have somebody else send it.
const LARGE: usize = 32_768;
/// What is held back goes out after this.
const HELD: Nanos = 200 * MILLI;

/// How far ahead of its turn something may go, so that fast connections need few timers.
const AHEAD: Nanos = 250 * MICRO;

/// A segment that is to go.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    seq: Seq,
    data: usize,
    fin: bool,
    push: bool,
    again: bool,
}

impl Plan {
    fn end(&self) -> Seq {
        self.seq.plus(self.data + usize::from(self.fin))
    }
}

/// An acknowledgement that goes once the connection is unlocked: at the other end of a veth pair the sender's next segments
/// are made in the course of it, and whoever reads here need not wait for that. What else goes in the meantime may pass it: it
/// is old news then. None offers a closed window, which would be believed however old.
pub(crate) struct Ack {
    hop: Hop,
    proto: u16,
    out: Out<'static>,
}

impl Ack {
    pub fn emit(mut self, stack: &Stack) {
        stack.emit(&self.hop, self.proto, std::slice::from_mut(&mut self.out));
    }
}

/// Segments that are on their way to the device, with the connection unlocked: others fill the send buffer meanwhile, and take
/// in what arrives. What is sent is held, and nobody else sends data of this connection until they are gone.
struct Flight {
    hop: Hop,
    proto: u16,
    plans: [Plan; BATCH],
    segments: Vec<Flying>,
}

struct Flying {
    head: Head,
    body: [Piece; 2],
    csum: Option<Csum>,
    gso: Option<Gso>,
}

impl Flight {
    /// How many the device has taken.
    fn emit(&self, stack: &Stack) -> usize {
        let mut outs = [const { Out::EMPTY }; BATCH];
        for (out, segment) in outs.iter_mut().zip(&self.segments) {
            let Flying { head, body, csum, gso } = segment;
            *out = Out { head: *head, body: body.each_ref().map(Piece::bytes), csum: *csum, gso: *gso };
        }
        let outs = outs.get_mut(..self.segments.len()).unwrap_or_default();
        stack.emit(&self.hop, self.proto, outs)
    }
}

/// What is to be done when the connection has been unlocked for good.
#[derive(Default)]
pub(super) struct After {
    pub ack: Option<Ack>,
    /// Whose device's thread is to send the rest.
    pub rest: Option<Arc<Port>>,
}

impl TcpConn {
    /// Sends whatever may go now, but for what it answers; the connection is unlocked meanwhile. Where segments are large who
    /// shares sends only one of them: it has more to copy, and the link's thread may have another CPU.
    pub(super) fn output(&self, cx: &Cx<'_>, tcb: &mut MutexGuard<'_, Tcb>, share: bool) -> After {
        let Some(path) = tcb.way(cx) else { return After::default() };
        let (mut sent, mut rest) = (false, None);
        if tcb.flying {
            // Who sends goes on with it.
            tcb.fly_on = true;
        } else if tcb.state.sends() {
            let large = path.hop.port.info.tso && tcb.burst() >= LARGE;
            let mut now = cx.now;
            loop {
                let cx = Cx { now, ..*cx };
                let most = if large && (share || self.is_written_to()) { 1 } else { BATCH };
                let Some(flight) = tcb.take_off(&cx, &path, most) else { break };
                sent = true;
                (tcb.flying, tcb.fly_on) = (true, false);
                let taken = MutexGuard::unlocked(tcb, || flight.emit(cx.stack));
                tcb.flying = false;
                let more = tcb.fly_on || flight.segments.len() == most;
                if !tcb.landed(&cx, &flight, taken) || !more || !tcb.state.sends() {
                    break;
                }
                if large && share && !tcb.fly_on && tcb.has_more() {
                    rest = Some(path.hop.port.clone());
                    break;
                }
                // Who writes sends what there is then.
                if large && !share && self.is_written_to() {
                    break;
                }
                now = cx.stack.now();
            }
        }
        After { ack: tcb.acknowledge(cx, &path, sent), rest }
    }
}

impl Tcb {
    /// The way to the peer, if what may go is to be looked at.
    fn way(&mut self, cx: &Cx<'_>) -> Option<Path> {
        match self.state {
            State::Close => return None,
            State::SynSent | State::SynRecv => {
                if std::mem::take(&mut self.force) {
                    self.send_syn(cx);
                }
                return None;
            }
            _ => {}
        }
        let path = self.find_path(cx);
        if path.is_none() {
            self.no_way(cx);
        }
        path
    }

    /// What is due after data has been sent, or not.
    fn acknowledge(&mut self, cx: &Cx<'_>, path: &Path, sent_data: bool) -> Option<Ack> {
        if self.state == State::Close {
            return None;
        }
        // Data carries the acknowledgement, but what came out of order is told in one of its own.
        let more_to_say = !sent_data || !self.sacks.is_empty() || self.dsack.is_some();
        let mut late = None;
        if more_to_say && self.ack_due(cx.now) {
            let owed = if self.sack_ok { 0 } else { self.dup_acks_owed.min(64) };
            for _ in 1..owed {
                self.send_ack(cx, path, self.nxt);
            }
            let (out, closed) = self.ack(cx, path, self.nxt);
            let ack = Ack { hop: path.hop.clone(), proto: proto(cx), out };
            if closed {
                ack.emit(cx.stack);
            } else {
                late = Some(ack);
            }
        }
        self.dup_acks_owed = 0;
        // Whatever is under way has a timer, or nothing would ever move again.
        if self.rtx.is_none() && !self.board.is_empty() && (sent_data || self.pace.is_none()) {
            self.arm_rtx(cx.now);
        }
        self.arm_persist(cx);
        late
    }

    /// There is no route: as if it were lost.
    fn no_way(&mut self, cx: &Cx<'_>) {
        self.ack_now = false;
        if self.rtx.is_none() && (!self.board.is_empty() || self.nxt.lt(self.write_end())) {
            self.rtx = Some((cx.now.saturating_add(self.rtt.backed_off(self.backoff)), Rtx::Timeout));
        }
    }

    /// Decides on up to a batch of segments, and notes them as sent.
    fn plan(&mut self, cx: &Cx<'_>, path: &Path, plans: &mut [Plan]) -> usize {
        if self.window.algorithm == Congestion::Bbr && self.bbr.is_none() {
            self.set_congestion(cx.now);
        }
        let tso = path.hop.port.info.tso;
        let most = if tso { self.burst() } else { self.mss };
        if self.board.is_empty() && self.nxt.lt(self.write_end()) {
            let idle = cx.now.saturating_sub(self.last_sent);
            if let Some(bbr) = self.bbr.as_mut().filter(|_| self.delivery.lacks()) {
                bbr.on_restart(&mut self.window.cwnd, cx.now);
            } else if self.bbr.is_none()
                && idle > self.rtt.rto
                && cx.stack.sysctls.tcp_slow_start_after_idle.on()
            {
                self.window.idle(idle, self.rtt.rto);
            }
        }
        let mut n = 0;
        for plan in plans.iter_mut() {
            if self.paced(cx.now) {
                break;
            }
            let Some(next) = self.plan_again(cx, most).or_else(|| self.plan_new(cx, most)) else { break };
            *plan = next;
            n += 1;
            self.spend(next.data, cx.now);
        }
        if n > 0 {
            self.last_sent = cx.now;
        }
        n
    }

    /// Whether what is next must wait for its turn; then a timer is set.
    fn paced(&mut self, now: Nanos) -> bool {
        let waits = self.bbr.is_some() && self.pace_at > now.saturating_add(AHEAD);
        self.pace = waits.then_some(self.pace_at);
        waits
    }

    /// Something goes: the next one has to wait as long as this one takes (tcp_update_skb_after_send()).
    fn spend(&mut self, bytes: usize, now: Nanos) {
        let Some(bbr) = &self.bbr else { return };
        let time = (bytes as u64).saturating_mul(SECOND) / bbr.pacing.max(1);
        // Who is late catches up with half of it.
        let credit = now.saturating_sub(self.pace_at).min(time / 2);
        self.pace_at = self.pace_at.max(now).saturating_add(time - credit);
    }

    /// How much goes in one piece: a millisecond's worth.
    fn burst(&self) -> usize {
        let most = MAX_TSO / self.mss.max(1) * self.mss;
        if let Some(bbr) = &self.bbr {
            let rate = usize::try_from(bbr.pacing >> 10).unwrap_or(most) / self.mss * self.mss;
            return rate.clamp(2 * self.mss, most.max(2 * self.mss));
        }
        if self.rtt.srtt < 2 * MILLI {
            return most.max(self.mss);
        }
        let rate = u64::from(self.window.cwnd) * MILLI / self.rtt.srtt;
        let rate = usize::try_from(rate).unwrap_or(most) / self.mss * self.mss;
        rate.clamp(2 * self.mss, most.max(2 * self.mss))
    }

    fn plan_again(&mut self, cx: &Cx<'_>, most: usize) -> Option<Plan> {
        let cwnd = self.window.cwnd as usize;
        let pipe = self.in_flight();
        // One may always go.
        if pipe >= cwnd && pipe > 0 {
            return None;
        }
        let lost = self.board.next_lost()?;
        let room = (cwnd.saturating_sub(pipe) / self.mss * self.mss).max(self.mss);
        let end = lost.end.min(lost.seq.plus(most.min(room)));
        let data_end = self.base.plus(self.out.len());
        let data = end.min(data_end).from(lost.seq);
        let fin = data_end.lt(end);
        let reach = data.min(self.out.reach(lost.seq.from(self.base)));
        let (data, fin) = (reach, fin && reach == data);
        let end = lost.seq.plus(data + usize::from(fin));
        if end == lost.seq {
            return None;
        }
        let stamp = self.delivery.stamp(false, cx.now);
        self.board.resent(lost.seq, end, cx.now, stamp);
        self.prr_out += data;
        self.stats.bytes_again += u64::from(len32(data));
        self.stats.again = self.stats.again.wrapping_add(len32(data.div_ceil(self.mss).max(1)));
        Some(Plan { seq: lost.seq, data, fin, push: end == data_end, again: true })
    }

    fn plan_new(&mut self, cx: &Cx<'_>, most: usize) -> Option<Plan> {
        let data_end = self.base.plus(self.out.len());
        let waiting = data_end.from(self.nxt);
        let fin = self.fin && !self.fin_sent;
        if waiting == 0 && !fin {
            return None;
        }
        let pipe = self.in_flight();
        // Repairs go first.
        if self.board.lost_out > self.board.again_out && self.repair != Repair::Open {
            return None;
        }
        let wnd = self.una.plus(self.wnd).from(self.nxt);
        let cwnd = self.window.cwnd as usize;
        let room = cwnd.saturating_sub(pipe);
        if room < self.mss.min(waiting.max(1)) && pipe > 0 {
            self.limited = Some(self.nxt);
            return None;
        }
        let room = if pipe == 0 { room.max(self.mss) } else { room };
        let mut data = waiting.min(room).min(wnd).min(most);
        let whole = data == waiting;
        if !whole && data >= self.mss {
            data = data / self.mss * self.mss;
        }
        let tail = data % self.mss;
        if whole && tail != 0 && !fin && !self.force {
            // Nagle, as Minshall refined it: one small segment at a time.
            let small_out = self.una.lt(self.small);
            let hold = self.opts.cork
                || self.more
                || !self.opts.nodelay && small_out && !self.board.is_empty()
                || self.board.crowded();
            if hold {
                data -= tail;
            }
        }
        if !whole && data < self.mss && !self.board.is_empty() {
            // A sliver of window: wait for more of it.
            return None;
        }
        data = data.min(self.out.reach(self.nxt.from(self.base)));
        let with_fin = fin && data == waiting && (wnd > data || waiting == 0);
        if data == 0 && !with_fin {
            return None;
        }
        let plan =
            Plan { seq: self.nxt, data, fin: with_fin, push: data == waiting || with_fin, again: false };
        let end = plan.end();
        if data % self.mss != 0 {
            self.small = end;
        }
        let stamp = self.delivery.stamp(self.board.is_empty(), cx.now);
        self.board.push(self.nxt, end, cx.now, stamp);
        self.nxt = end;
        self.fin_sent |= with_fin;
        self.force &= data < waiting;
        self.prr_out += data;
        if pipe + data + self.mss > cwnd {
            self.limited = Some(end);
        }
        self.stats.bytes_sent += u64::from(len32(data));
        Some(plan)
    }

    fn header(&self, path: &Path, seq: Seq, flags: u8, window: u16, now: Nanos) -> Header<'static> {
        Header {
            seq,
            ack: if flags & ACK != 0 { self.rcv_nxt } else { Seq(0) },
            flags,
            window,
            ts: self.ts_ok.then(|| (self.clock(now), self.ts_recent)),
            tos: self.opts.tos & !super::ecn::MASK,
            ttl: path.ttl,
            df: !matches!(self.opts.pmtudisc, IP_PMTUDISC_OMIT),
            ..Header::default()
        }
    }

    /// Decides what goes now, and writes its headers.
    fn take_off(&mut self, cx: &Cx<'_>, path: &Path, most: usize) -> Option<Flight> {
        let mut plans = [Plan::default(); BATCH];
        let n = self.plan(cx, path, plans.get_mut(..most).unwrap_or_default());
        if n == 0 {
            return None;
        }
        let window = self.offer(false);
        self.ack_sent(true);
        let info = &path.hop.port.info;
        let mut segments = Vec::with_capacity(n);
        let mut packets = 0;
        for plan in plans.iter().take(n) {
            let body = self.out.pieces(plan.seq.from(self.base), plan.data);
            let mut flags = ACK;
            flags |= if plan.fin { FIN } else { 0 };
            flags |= if plan.push { PSH } else { 0 };
            let mut header = self.header(path, plan.seq, flags, window, cx.now);
            if let Some(urgent) = self.urgent_out.filter(|urgent| plan.seq.lt(*urgent)) {
                header.flags |= URG;
                header.urgent = u16::try_from(urgent.from(plan.seq)).unwrap_or(u16::MAX);
            }
            self.ecn.mark(&mut header, plan.data > 0 && !plan.again);
            header.id = low16(plan.seq.0);
            let cut = plan.data > self.mss;
            let size = cut.then(|| len16(self.mss).get());
            let (head, csum, gso) =
                header.write(cx.tuple, body.each_ref().map(Piece::bytes), info.csum, size);
            segments.push(Flying { head, body, csum, gso });
            packets += plan.data.div_ceil(self.mss).max(1);
        }
        self.stats.segs_out = self.stats.segs_out.wrapping_add(len32(packets));
        self.stats.data_out = self.stats.data_out.wrapping_add(len32(packets));
        Some(Flight { hop: path.hop.clone(), proto: proto(cx), plans, segments })
    }

    /// Whether more data may go, as far as can be told without deciding on it.
    fn has_more(&self) -> bool {
        self.unsent() > 0
            && self.in_flight() < self.window.cwnd as usize
            && self.nxt.lt(self.una.plus(self.wnd))
    }

    /// So many segments have been taken. False: the device had no room for all.
    fn landed(&mut self, cx: &Cx<'_>, flight: &Flight, taken: usize) -> bool {
        let left = flight.plans.iter().take(flight.segments.len()).skip(taken);
        let all = left.len() == 0;
        if self.state != State::Close {
            for plan in left {
                self.board.lose_from(plan.seq, plan.end());
            }
            if !all {
                self.rtx = Some((cx.now.saturating_add(MILLI), Rtx::Device));
            }
        }
        all
    }

    /// An acknowledgement alone, or a probe (with an older sequence number).
    pub fn send_ack(&mut self, cx: &Cx<'_>, path: &Path, seq: Seq) {
        let (out, _) = self.ack(cx, path, seq);
        cx.stack.emit(&path.hop, proto(cx), &mut [out]);
    }

    /// The acknowledgement, and whether it closes the window.
    fn ack(&mut self, cx: &Cx<'_>, path: &Path, seq: Seq) -> (Out<'static>, bool) {
        let window = self.offer(false);
        let mut blocks = [(Seq(0), Seq(0)); 4];
        let told = self.dsack.take().into_iter().chain(self.sacks.iter().copied());
        let mut n = 0;
        for (slot, block) in blocks.iter_mut().zip(told) {
            *slot = block;
            n += 1;
        }
        let sacks = if self.sack_ok { blocks.get(..n).unwrap_or_default() } else { &[] };
        let mut header = Header { sacks, ..self.header(path, seq, ACK, window, cx.now) };
        self.ecn.mark(&mut header, false);
        self.ack_sent(false);
        (self.alone(cx, path, &header), window == 0)
    }

    fn emit_one(&mut self, cx: &Cx<'_>, path: &Path, header: &Header<'_>) {
        let out = self.alone(cx, path, header);
        cx.stack.emit(&path.hop, proto(cx), &mut [out]);
    }

    /// A segment without data.
    fn alone(&mut self, cx: &Cx<'_>, path: &Path, header: &Header<'_>) -> Out<'static> {
        let (head, csum, gso) = header.write(cx.tuple, [&[], &[]], path.hop.port.info.csum, None);
        self.stats.segs_out = self.stats.segs_out.wrapping_add(1);
        Out { head, body: [&[], &[]], csum, gso }
    }

    /// SYN, or SYN and ACK where both called.
    pub fn send_syn(&mut self, cx: &Cx<'_>) {
        let Some(path) = self.find_path(cx) else { return };
        let sysctls = &cx.stack.sysctls;
        let answer = self.state == State::SynRecv;
        let flags = if answer { SYN | ACK } else { SYN };
        let flags = flags | self.ecn_syn(sysctls.tcp_ecn.get() == 1);
        let window = self.rcv_limit.min(65_535);
        let ts = !answer && sysctls.tcp_timestamps.on() || self.ts_ok;
        let scale = !answer && sysctls.tcp_window_scaling.on() || self.wscale_ok;
        let header = Header {
            mss: Some(self.own_mss(&path, cx)),
            wscale: scale.then_some(self.rcv_scale),
            sack_ok: !answer && sysctls.tcp_sack.on() || self.sack_ok,
            ts: ts.then(|| (self.clock(cx.now), self.ts_recent)),
            ..self.header(&path, self.iss, flags, len16(window).get(), cx.now)
        };
        self.nxt = self.iss.plus(1);
        self.last_sent = cx.now;
        self.emit_one(cx, &path, &header);
        if self.rtx.is_none() {
            self.rtx = Some((cx.now.saturating_add(self.rtt.backed_off(self.backoff)), Rtx::Timeout));
        }
    }

    /// The segment size to tell the peer.
    fn own_mss(&self, path: &Path, cx: &Cx<'_>) -> u16 {
        super::own_mss(path.mtu, cx.tuple, self.opts.max_seg)
    }

    /// A reset: whatever the peer knows must end.
    pub fn send_reset(&mut self, cx: &Cx<'_>) {
        let Some(path) = self.find_path(cx) else { return };
        let header = self.header(&path, self.nxt, RST | ACK, 0, cx.now);
        self.emit_one(cx, &path, &header);
    }

    /// Something waits, and nothing under way will call for it: a timer must.
    fn arm_persist(&mut self, cx: &Cx<'_>) {
        if !self.board.is_empty()
            || self.rtx.is_some()
            || self.pace.is_some()
            || !self.nxt.lt(self.write_end())
        {
            return;
        }
        let held = self.wnd > 0;
        let wait = if held { HELD } else { self.rtt.backed_off(self.backoff) };
        self.rtx = Some((cx.now.saturating_add(wait), Rtx::Persist));
    }
}

pub(super) fn proto(cx: &Cx<'_>) -> u16 {
    if cx.tuple.0.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 }
}
