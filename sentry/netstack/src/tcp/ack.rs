//! Acknowledgements: what they say has arrived, what must be lost, and how much may be in the network from now on.

use super::bbr::Acked;
use super::board::News;
use super::rate::Rate;
use super::segment::Segment;
use super::seq::Seq;
use super::tcb::{Cx, Repair, Rtx, Tcb, Undo};
use crate::env::{MILLI, Nanos, SECOND};
use crate::link::To;
use crate::wire::len32;
use chitin_abi::poll::POLLOUT;

impl Tcb {
    /// An acknowledgement of something between `una` and `nxt`, or before it.
    pub fn on_ack(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) {
        let ack = segment.ack;
        self.stats.last_ack_in = cx.now;
        let before = self.una;
        let in_flight = self.in_flight();
        let advanced = before.lt(ack);
        let mut news = News::default();
        if advanced {
            self.una = ack;
            self.board.ack(ack, cx.now, &mut news);
            let acked = ack.from(self.base).min(self.out.len());
            self.out.consume(acked);
            self.base = self.base.plus(acked);
            self.stats.bytes_acked += u64::from(len32(acked));
            if self.out.len() == 0 && self.trim.is_none() {
                self.trim = Some(cx.now.saturating_add(super::recv::TRIM));
            }
            self.probes = 0;
            self.soft_error = None;
            self.dupacks = 0;
        }
        let dsack = self.take_sacks(cx, segment, before, &mut news);
        let window_changed = self.update_window(segment);
        if advanced || news.delivered > 0 {
            self.take_rtt(cx, segment, advanced, &news);
            self.confirm(cx);
        }
        self.stats.delivered = self.stats.delivered.wrapping_add(len32(news.delivered / self.mss.max(1)));
        self.reordering |= news.reordered;
        if dsack && self.dsack_round.le(ack) {
            // What was sent again was not lost: be more patient from now on.
            self.reo_steps = (self.reo_steps + 1).min(255);
            self.reordering = true;
            self.dsack_round = self.nxt;
        }
        let plain = segment.data.is_empty() && !segment.has(crate::wire::FIN);
        if !self.sack_ok && !advanced && plain && !window_changed && !self.board.is_empty() && ack == self.una
        {
            self.dupacks += 1;
        }
        let min_rtt = self.rtt.min;
        let rate = self.delivery.take(news.delivered, news.newest, min_rtt, cx.now);
        let lost = self.repair_after(cx, segment, advanced, before, &news);
        self.ecn_ack(segment, news.delivered);
        self.steer(cx, in_flight, rate, lost, &news);
        if advanced {
            self.limited = self.limited.filter(|until| ack.lt(*until));
            self.backoff = 0;
            self.stalled = 0;
            if self.tail.is_some_and(|end| end.le(ack)) {
                self.tail = None;
            }
        }
        if self.board.is_empty() {
            self.rtx = None;
        } else if (advanced || news.delivered > 0) && !matches!(self.rtx, Some((_, Rtx::Reorder))) {
            self.arm_rtx(cx.now);
        }
        if advanced && self.want_write && self.writable(cx.stack) > 0 {
            self.want_write = false;
            self.events |= POLLOUT;
        }
    }

    /// The neighbour gets what is sent to it.
    fn confirm(&self, cx: &Cx<'_>) {
        if let Some(To::Neighbour(neigh)) = self.path.as_ref().map(|path| &path.hop.to) {
            neigh.confirm(cx.now);
        }
    }

    /// Takes in what the peer says it has; whether it told of something twice (RFC 2883).
    fn take_sacks(&mut self, cx: &Cx<'_>, segment: &Segment<'_>, before: Seq, news: &mut News) -> bool {
        if !self.sack_ok {
            return false;
        }
        let mut dsack = false;
        for (n, (start, end)) in segment.sacks().iter().enumerate() {
            if !start.lt(*end) || self.nxt.lt(*end) {
                continue;
            }
            if n == 0 {
                let within = segment.sacks().get(1).is_some_and(|(s, e)| s.le(*start) && end.le(*e));
                if end.le(segment.ack) || within {
                    // Something so old is nobody's business.
                    dsack = before.since(*start) < 1 << 30;
                    self.stats.dsacks += u32::from(dsack);
                    continue;
                }
            }
            if self.una.lt(*start) {
                self.board.sack(*start, *end, cx.now, news);
            }
        }
        dsack
    }

    /// RFC 9293: the window of the segment that is latest. Whether it changed.
    pub fn update_window(&mut self, segment: &Segment<'_>) -> bool {
        let later = self.wl1.lt(segment.seq) || self.wl1 == segment.seq && self.wl2.le(segment.ack);
        if !later {
            return false;
        }
        let scale = if segment.has(crate::wire::SYN) { 0 } else { self.snd_scale };
        let wnd = usize::from(segment.window) << scale;
        let changed = wnd != self.wnd;
        self.wnd = wnd;
        self.max_wnd = self.max_wnd.max(wnd);
        self.wl1 = segment.seq;
        self.wl2 = segment.ack;
        if changed && wnd > 0 && matches!(self.rtx, Some((_, Rtx::Persist))) {
            self.rtx = None;
            self.backoff = 0;
            self.probes = 0;
        }
        changed
    }

    fn take_rtt(&mut self, cx: &Cx<'_>, segment: &Segment<'_>, advanced: bool, news: &News) {
        let measured = news.once.filter(|_| !news.retransmitted).map(|at| cx.now.saturating_sub(at));
        let echoed = || {
            let (_, echo) = segment.ts.filter(|(_, echo)| self.ts_ok && advanced && *echo != 0)?;
            let ago = self.clock(cx.now).wrapping_sub(echo);
            // No longer than anything takes, or it is no echo of ours.
            (ago < 1 << 20).then(|| Nanos::from(ago).max(1) * MILLI)
        };
        if let Some(rtt) = measured.or_else(echoed) {
            self.rtt.sample(rtt, cx.now);
            self.board.min_rtt = self.rtt.min;
        }
    }

    /// Tells BBR, where it is in charge.
    fn steer(&mut self, cx: &Cx<'_>, before: usize, rate: Rate, lost: usize, news: &News) {
        let in_flight = self.in_flight();
        let Some(bbr) = &mut self.bbr else { return };
        let acked = Acked {
            now: cx.now,
            rate,
            rtt: news.once.filter(|_| !news.retransmitted).map(|at| cx.now.saturating_sub(at)),
            srtt: self.rtt.srtt,
            acked: news.delivered,
            lost,
            before,
            in_flight,
            total: self.delivery.delivered,
            mending: self.repair != Repair::Open,
            pace_at: self.pace_at,
            mss: len32(self.mss),
            random: u64::from(self.nxt.0),
        };
        bbr.on_ack(&mut self.window.cwnd, &acked);
        if std::mem::take(&mut bbr.lacking) {
            self.delivery.lack(in_flight);
        }
    }

    /// Recovery begins, goes on or ends. Answers how many bytes are lost that were not before.
    fn repair_after(
        &mut self,
        cx: &Cx<'_>,
        segment: &Segment<'_>,
        advanced: bool,
        before: Seq,
        news: &News,
    ) -> usize {
        // Was it all a mistake? Then the echo is older than the first retransmission (RFC 3522).
        if let (Some(undo), Some((_, echo)), true) = (self.undo, segment.ts, advanced && self.ts_ok) {
            if self.repair != Repair::Open && echo.wrapping_sub(undo.clock).cast_signed() < 0 {
                self.window.cwnd = self.window.cwnd.max(undo.cwnd);
                self.window.ssthresh = undo.ssthresh;
                if let Some(bbr) = &mut self.bbr {
                    bbr.on_undo();
                }
                self.board.unlose();
                self.repair = Repair::Open;
                self.reordering = true;
            }
            if echo.wrapping_sub(undo.clock).cast_signed() >= 0 || self.repair == Repair::Open {
                self.undo = None;
            }
        }
        match self.repair {
            Repair::Recovery(high) if high.le(self.una) => {
                if self.bbr.is_none() {
                    self.window.cwnd = self.window.ssthresh.max(2 * self.window.mss);
                }
                self.repair = Repair::Open;
                self.undo = None;
                self.reo_steps = self.reo_steps.saturating_sub(1).max(1);
            }
            Repair::Loss(high) if high.le(self.una) => {
                self.repair = Repair::Open;
                self.undo = None;
            }
            _ => {}
        }
        let lost = if self.sack_ok { self.detect(cx) } else { self.detect_by_count(advanced) };
        if lost > 0 && self.repair == Repair::Open {
            self.enter_recovery(cx.now);
        }
        let acked = self.una.from(before);
        match self.repair {
            _ if self.bbr.is_some() => {}
            Repair::Open | Repair::Loss(_) => {
                if acked > 0
                    && (self.limited.is_some() || self.window.slow_start() && self.repair != Repair::Open)
                {
                    self.window.grow(len32(acked), self.rtt.srtt, cx.now);
                }
            }
            Repair::Recovery(_) => {
                self.reduce(news.delivered.max(if self.sack_ok { 0 } else { acked }), lost > 0)
            }
        }
        lost
    }

    /// RACK (RFC 8985): bytes that are now known to be lost; a timer for those that soon will be.
    pub fn detect(&mut self, cx: &Cx<'_>) -> usize {
        if self.board.sacked.is_empty() && self.repair == Repair::Open && self.board.lost_out == 0 {
            // Everything has arrived in order.
            return 0;
        }
        let patient = self.reordering || self.repair == Repair::Open && self.board.sacked_out < 3 * self.mss;
        let part = self.rtt.min.min(SECOND) / 4;
        let reo = if patient { (part * self.reo_steps).min(self.rtt.srtt) } else { 0 };
        let (lost, wait) = self.board.detect(reo, cx.now);
        match wait {
            Some(wait) => {
                let at = cx.now.saturating_add(wait);
                self.rtx = Some((at, Rtx::Reorder));
            }
            None if matches!(self.rtx, Some((_, Rtx::Reorder))) => self.arm_rtx(cx.now),
            None => {}
        }
        lost
    }

    /// Without SACK: three duplicates, or an acknowledgement of only a part (RFC 6582).
    fn detect_by_count(&mut self, advanced: bool) -> usize {
        let partial = matches!(self.repair, Repair::Recovery(_)) && advanced;
        let third = self.repair == Repair::Open && self.dupacks == 3;
        if !partial && !third || self.board.is_empty() {
            return 0;
        }
        self.board.lose_head(self.mss);
        self.mss
    }

    pub fn enter_recovery(&mut self, now: Nanos) {
        let undo = Undo { cwnd: self.window.cwnd, ssthresh: self.window.ssthresh, clock: self.clock(now) };
        self.undo = Some(undo);
        match &mut self.bbr {
            Some(bbr) => bbr.on_recovery(self.window.cwnd),
            None => self.window.ssthresh = self.window.reduced(),
        }
        self.recover_from = self.board.outstanding().max(self.mss);
        (self.prr_delivered, self.prr_out) = (0, 0);
        self.repair = Repair::Recovery(self.nxt);
        self.ecn_reduced();
        self.tail = None;
    }

    /// Proportional rate reduction (RFC 6937): what may be in the network during recovery.
    fn reduce(&mut self, delivered: usize, lost: bool) {
        self.prr_delivered += delivered;
        let pipe = self.in_flight();
        let target = self.window.ssthresh as usize;
        let may = if pipe > target {
            let share = self.prr_delivered.saturating_mul(target).div_ceil(self.recover_from.max(1));
            share.saturating_sub(self.prr_out)
        } else {
            let mut limit = self.prr_delivered.saturating_sub(self.prr_out).max(delivered);
            if !lost {
                limit += self.mss;
            }
            limit.min(target - pipe)
        };
        // The first retransmission goes out in any case.
        let least = if self.prr_out == 0 { self.mss } else { 0 };
        self.window.cwnd = len32(pipe + may.max(least)).max(self.window.mss);
    }

    /// Bytes in the network; without SACK, each duplicate stands for a segment that has left it.
    pub fn in_flight(&self) -> usize {
        let gone = if self.sack_ok { 0 } else { self.dupacks as usize * self.mss };
        self.board.pipe().saturating_sub(gone)
    }

    /// The timer for what is outstanding: a probe at the tail, or a timeout.
    pub fn arm_rtx(&mut self, now: Nanos) {
        let rto = self.rtt.backed_off(self.backoff);
        // Also during recovery, unlike Linux: where a peer says little, a lost acknowledgement would cost a timeout.
        let mending = matches!(self.repair, Repair::Recovery(_));
        let probing = self.sack_ok
            && (self.repair == Repair::Open && self.board.sacked_out == 0 || mending)
            && self.rtt.srtt != 0
            && self.tail.is_none()
            && self.backoff == 0;
        let probe = if self.board.entries() <= 1 {
            self.rtt.srtt * 2 + RTT_DELAYED
        } else {
            self.rtt.srtt * 2 + 2 * MILLI
        };
        self.rtx = Some(if probing && probe < rto {
            (now.saturating_add(probe), Rtx::Tail)
        } else {
            (now.saturating_add(rto), Rtx::Timeout)
        });
    }
}

/// What a peer may put off the acknowledgement of a single segment (Linux's TCP_RTO_MIN, as tcp_schedule_loss_probe()).
const RTT_DELAYED: Nanos = 200 * MILLI;
