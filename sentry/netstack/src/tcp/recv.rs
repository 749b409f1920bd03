//! Data that arrives: in order, out of order, twice; the window that is offered, and when to acknowledge.

use super::segment::Segment;
use super::seq::Seq;
use super::tcb::{Cx, State, Tcb};
use crate::env::{MILLI, Nanos, SECOND};
use crate::wire::{FIN, URG, len32};
use chitin_abi::poll::*;

/// Ranges out of order that are kept; what would make one more is dropped, and comes again.
const MAX_RANGES: usize = 1024;
const DELAYED: Nanos = 40 * MILLI;
/// Memory of an idle connection is kept so long.
pub(super) const TRIM: Nanos = SECOND;

impl Tcb {
    /// A segment's data and FIN. It lies at least partly in the window.
    pub fn on_data(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) {
        if segment.has(URG) {
            self.on_urgent(segment);
        }
        if !segment.data.is_empty() {
            self.ecn_data(segment);
            self.stats.data_in = self.stats.data_in.wrapping_add(segment.count);
            self.last_rcvd = cx.now;
            self.measure(cx, segment);
            self.take(segment);
        }
        if segment.has(FIN) && self.rcv_nxt.le(segment.end()) {
            self.fin_at = Some(segment.seq.plus(segment.data.len()));
        }
        if self.fin_at == Some(self.rcv_nxt) && !self.fin_rcvd {
            self.on_fin(cx);
        }
    }

    fn take(&mut self, segment: &Segment<'_>) {
        let (mut seq, mut data) = (segment.seq, segment.data);
        self.ack_wanted = true;
        let end = seq.plus(data.len());
        if end.le(self.rcv_nxt) {
            self.duplicate(seq, end);
            return;
        }
        if seq.lt(self.rcv_nxt) {
            self.duplicate(seq, self.rcv_nxt);
            data = data.get(self.rcv_nxt.from(seq)..).unwrap_or_default();
            seq = self.rcv_nxt;
        }
        // Never more than has been offered.
        let edge = self.rcv_adv.max(self.rcv_nxt);
        data = data.get(..edge.from(seq)).unwrap_or(data);
        let off = self.rcv.len() + seq.from(self.rcv_nxt);
        data = data.get(..self.rcv.room(off, data.len())).unwrap_or(data);
        if data.is_empty() {
            self.ack_now = true;
            return;
        }
        let end = seq.plus(data.len());
        let full = data.len() / crate::tcp::count(segment.count);
        self.rcv_mss = self.rcv_mss.max(full).min(65_535);
        if seq == self.rcv_nxt {
            if self.rcv.put(off, data, segment.buffer) {
                self.advance(end);
            }
            return;
        }
        if self.ooo.covers(seq, end) {
            self.duplicate(seq, end);
            return;
        }
        if self.ooo.len() >= MAX_RANGES && !self.ooo.iter().any(|(s, e)| s.le(end) && seq.le(*e)) {
            self.ack_now = true;
            return;
        }
        if !self.rcv.put(off, data, segment.buffer) {
            self.ack_now = true;
            return;
        }
        self.stats.ooo = self.stats.ooo.wrapping_add(1);
        let (whole, _) = self.ooo.insert(seq, end);
        self.sacks.retain(|(s, e)| e.lt(whole.0) || whole.1.lt(*s));
        self.sacks.insert(0, whole);
        self.sacks.truncate(4);
        self.ack_now = true;
        self.dup_acks_owed += 1;
    }

    /// Everything before `to` is here now, and perhaps what follows.
    fn advance(&mut self, to: Seq) {
        let mut to = to;
        let filled = !self.ooo.is_empty();
        while let Some(end) = self.ooo.pop_at(to) {
            to = to.max(end);
        }
        let n = to.from(self.rcv_nxt);
        self.rcv.extend(n);
        self.rcv_nxt = to;
        self.stats.bytes_in += u64::from(len32(n));
        if filled {
            self.sacks.retain(|(_, end)| to.lt(*end));
            self.ack_now = true;
        }
        self.events |= POLLIN;
    }

    fn duplicate(&mut self, start: Seq, end: Seq) {
        self.ack_now = true;
        self.quick = self.quick.max(4);
        if self.sack_ok && start.lt(end) {
            self.dsack = Some((start, end));
        }
    }

    fn on_urgent(&mut self, segment: &Segment<'_>) {
        // Linux's reading of the pointer: it points behind the urgent byte.
        let at = segment.seq.plus(usize::from(segment.urgent)).minus(1);
        let old = self.urgent_in.is_some_and(|known| at.le(known));
        if segment.urgent == 0 || at.lt(self.rcv_nxt.minus(len32(self.rcv.len()))) || old {
            return;
        }
        self.urgent_in = Some(at);
        self.urgent_read = false;
        self.events |= POLLPRI;
    }

    fn on_fin(&mut self, cx: &Cx<'_>) {
        self.fin_rcvd = true;
        self.rcv_nxt = self.rcv_nxt.plus(1);
        self.ack_now = true;
        self.ooo.clear();
        self.sacks.clear();
        self.events |= POLLIN | POLLRDHUP;
        match self.state {
            State::SynRecv | State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.time_wait(cx),
            _ => {}
        }
    }

    /// Round trips as a receiver sees them: by the echo of its own clock.
    fn measure(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) {
        if let Some((_, echo)) = segment.ts.filter(|(_, echo)| self.ts_ok && *echo != 0) {
            let ago = self.clock(cx.now).wrapping_sub(echo);
            if ago < 1 << 16 {
                let rtt = Nanos::from(ago).max(1) * MILLI;
                self.rcv_rtt = if self.rcv_rtt == 0 { rtt } else { self.rcv_rtt.min(rtt).max(MILLI) };
            }
        }
    }

    /// The reader has taken bytes: the buffer grows while a round trip's worth fills it (dynamic right-sizing).
    pub fn on_read(&mut self, cx: &Cx<'_>, n: usize) {
        self.drs_copied += n;
        let rtt = match (self.rcv_rtt, self.rtt.srtt) {
            (0, 0) => 10 * MILLI,
            (0, srtt) => srtt,
            (rtt, _) => rtt,
        };
        let sysctls = &cx.stack.sysctls;
        if cx.now.saturating_sub(self.drs_since) >= rtt {
            let copied = self.drs_copied;
            if copied > self.drs_space && sysctls.tcp_moderate_rcvbuf.on() && self.opts.rcvbuf == 0 {
                let grown = copied - self.drs_space;
                let mut want = copied * 2 + 16 * self.rcv_mss.min(9000);
                want += want.saturating_mul(grown) / self.drs_space.max(1) * 2;
                let most = (sysctls.tcp_rmem_max.size() / 2).min(65_535 << self.rcv_scale);
                if !cx.stack.tcp.memory.tight() {
                    self.rcv_limit = self.rcv_limit.max(want.min(most));
                }
                self.drs_space = copied;
            }
            self.drs_since = cx.now;
            self.drs_copied = 0;
        }
        if self.rcv.len() == 0 && self.rcv.keeps() {
            self.trim = Some(cx.now.saturating_add(TRIM));
        }
        // Tell of much more room at once.
        if self.state.synchronized() && !self.fin_rcvd {
            let now = self.rcv_adv.from(self.rcv_nxt);
            let room = self.rcv_limit.saturating_sub(self.rcv.len());
            if room >= now * 2 && room >= self.rcv_mss.min(self.rcv_limit / 2) {
                self.ack_now = true;
            }
        }
    }

    /// Whether an acknowledgement goes out now; if one is to go later, its timer is set.
    pub fn ack_due(&mut self, now: Nanos) -> bool {
        if self.ack_now {
            return true;
        }
        if !self.ack_wanted {
            return false;
        }
        let pending = self.rcv_nxt.from(self.rcv_wup);
        if pending > self.rcv_mss || self.quick > 0 && !self.pingpong {
            return true;
        }
        if self.delack.is_none() {
            self.delack = Some(now.saturating_add(DELAYED));
        }
        false
    }

    /// An acknowledgement has gone out, alone or with data.
    pub fn ack_sent(&mut self, with_data: bool) {
        self.ack_now = false;
        self.ack_wanted = false;
        self.delack = None;
        self.rcv_wup = self.rcv_nxt;
        if with_data {
            // It answers: acknowledgements can travel with data.
            self.pingpong = true;
        } else {
            self.quick = self.quick.saturating_sub(1);
        }
    }

    /// The window to offer, unscaled, and remembers it.
    pub fn offer(&mut self, syn: bool) -> u16 {
        let room = self.rcv_limit.saturating_sub(self.rcv.len());
        let now = self.rcv_adv.from(self.rcv_nxt);
        // Small steps are not worth it (RFC 1122, 4.2.3.3), and what was offered stays so.
        let step = self.rcv_mss.min(self.rcv_limit / 2);
        let wnd = if room > now && room - now >= step || now > self.rcv_limit { room.max(now) } else { now };
        let scale = if syn { 0 } else { self.rcv_scale };
        let raw = (wnd.saturating_add((1 << scale) - 1) >> scale).min(65_535);
        let edge = self.rcv_nxt.plus(raw << scale);
        self.rcv_adv = if syn { edge } else { self.rcv_adv.max(edge) };
        u16::try_from(raw).unwrap_or(u16::MAX)
    }
}
