//! A connection's timers. All of them share one entry in the stack's: the earliest counts, and one that is put off is
//! found not to be due when it comes.

use super::recv::TRIM;
use super::tcb::{Cx, Repair, Rtx, State, Tcb, Undo};
use crate::env::{MILLI, Nanos, SECOND};
use crate::timer::{Due, Key};
use chitin_abi::Errno;

/// TCP_RTO_MIN doubled so many times, each at most TCP_RTO_MAX: how long `retries` timeouts take (retransmits_timed_out()).
fn patience(retries: u32) -> Nanos {
    let (mut wait, mut total) = (super::rtt::RTO_MIN, 0_u64);
    for _ in 0..=retries.min(100) {
        total = total.saturating_add(wait);
        wait = (wait * 2).min(super::rtt::RTO_MAX);
    }
    total
}

impl Tcb {
    fn next_deadline(&self) -> Option<Nanos> {
        let rtx = self.rtx.map(|(at, _)| at);
        [rtx, self.delack, self.pace, self.keep, self.life, self.trim].into_iter().flatten().min()
    }

    /// Makes sure that the stack's timer comes no later than the first of ours.
    pub fn arm(&mut self, cx: &Cx<'_>, due: impl FnOnce() -> Due) {
        let next = self.next_deadline();
        match (self.key, next) {
            (None, None) => {}
            (Some((at, _)), Some(next)) if at <= next => {}
            (Some(key), None) => {
                // Gone for good, or it would have to be looked at for nothing.
                if matches!(self.state, State::Close | State::TimeWait) {
                    cx.stack.timers.cancel(key);
                    self.key = None;
                }
            }
            (old, Some(next)) => {
                if let Some(key) = old {
                    cx.stack.timers.cancel(key);
                }
                self.key = Some(cx.stack.timers.arm(&*cx.stack.env, next, due()));
            }
        }
    }

    /// Does what is due. False: the key is an old one.
    pub fn on_timer(&mut self, cx: &Cx<'_>, key: Key) -> bool {
        if self.key != Some(key) {
            return false;
        }
        self.key = None;
        let now = cx.now;
        let due = |at: &Option<Nanos>| at.is_some_and(|at| at <= now);
        if self.rtx.is_some_and(|(at, _)| at <= now) {
            if let Some((_, kind)) = self.rtx.take() {
                self.on_rtx(cx, kind);
            }
        }
        if due(&self.delack) {
            self.delack = None;
            self.ack_now = true;
        }
        if due(&self.pace) {
            self.pace = None;
        }
        if due(&self.keep) {
            self.keep = None;
            self.on_keep(cx);
        }
        if due(&self.life) {
            self.life = None;
            self.die(None);
        }
        if due(&self.trim) {
            self.trim = None;
            self.on_trim(now);
        }
        true
    }

    fn on_rtx(&mut self, cx: &Cx<'_>, kind: Rtx) {
        match kind {
            Rtx::Timeout => self.on_timeout(cx),
            Rtx::Tail => self.on_tail(cx),
            Rtx::Reorder => {
                if self.detect(cx) > 0 && self.repair == Repair::Open {
                    self.enter_recovery(cx.now);
                    self.window.cwnd =
                        self.window.cwnd.max(crate::wire::len32(self.in_flight()) + self.window.mss);
                }
                if self.rtx.is_none() && !self.board.is_empty() {
                    self.arm_rtx(cx.now);
                }
            }
            Rtx::Persist if self.wnd > 0 => self.force = true,
            Rtx::Persist => self.on_closed_window(cx),
            Rtx::Device => {
                if !self.board.is_empty() {
                    self.arm_rtx(cx.now);
                }
            }
        }
    }

    fn give_up(&mut self) {
        let error = self.soft_error.unwrap_or(Errno::ETIMEDOUT);
        self.die(Some(error));
    }

    /// Whether it has gone on for too long without an answer.
    fn too_long(&mut self, cx: &Cx<'_>) -> bool {
        if self.stalled == 0 {
            self.stalled = self.board.front().map_or(cx.now, |sent| sent.at);
        }
        let sysctls = &cx.stack.sysctls;
        let waited = cx.now.saturating_sub(self.stalled);
        if self.opts.user_timeout != 0 {
            return waited >= Nanos::from(self.opts.user_timeout) * MILLI;
        }
        let retries = match (self.orphan, sysctls.tcp_orphan_retries.u32()) {
            (false, _) => sysctls.tcp_retries2.u32(),
            (true, 0) => 8,
            (true, set) => set,
        };
        waited >= patience(retries)
    }

    fn on_timeout(&mut self, cx: &Cx<'_>) {
        let sysctls = &cx.stack.sysctls;
        // Perhaps there is another way by now.
        self.path = None;
        if matches!(self.state, State::SynSent | State::SynRecv) {
            let usual = sysctls.tcp_syn_retries.u32();
            let most = if self.opts.syn_count == 0 { usual } else { self.opts.syn_count };
            if self.backoff >= most {
                self.give_up();
                return;
            }
            self.backoff += 1;
            self.force = true;
            return;
        }
        if self.board.is_empty() {
            return;
        }
        if self.too_long(cx) {
            self.give_up();
            return;
        }
        self.stats.rtos = self.stats.rtos.saturating_add(1);
        if self.repair == Repair::Open || matches!(self.repair, Repair::Recovery(_)) && self.backoff == 0 {
            if self.repair == Repair::Open {
                let (cwnd, ssthresh) = (self.window.cwnd, self.window.ssthresh);
                self.undo = Some(Undo { cwnd, ssthresh, clock: self.clock(cx.now) });
                if self.bbr.is_none() {
                    self.window.ssthresh = self.window.reduced();
                }
            }
        }
        if let Some(bbr) = &mut self.bbr {
            bbr.on_timeout(self.window.cwnd);
        }
        // A peer that has dropped what it said it has begins with the first.
        let reneged = self.board.front().is_some_and(|sent| sent.sacked);
        self.board.lose_all(reneged);
        self.window.cwnd = self.window.mss;
        self.repair = Repair::Loss(self.nxt);
        self.ecn_reduced();
        self.backoff += 1;
        self.dupacks = 0;
        self.tail = None;
    }

    /// Nothing has come back for two round trips: the last segment goes once more, so that losses before it show; or a
    /// new one does.
    fn on_tail(&mut self, cx: &Cx<'_>) {
        let Some(last) = self.board.last_missing().copied() else { return };
        self.tail = Some(self.nxt);
        let fresh = self.unsent().min(self.mss);
        let wnd = self.una.plus(self.wnd).from(self.nxt);
        if fresh > 0 && wnd >= fresh {
            self.window.cwnd = self.window.cwnd.max(crate::wire::len32(self.in_flight() + self.mss));
            self.force = true;
        } else {
            let from = last.seq.max(last.end.minus(crate::wire::len32(self.mss)));
            self.board.lose_from(from, last.end);
            self.window.cwnd = self.window.cwnd.max(crate::wire::len32(self.in_flight() + self.mss));
        }
        let rto = self.rtt.backed_off(self.backoff);
        self.rtx = Some((cx.now.saturating_add(rto), Rtx::Timeout));
    }

    fn on_closed_window(&mut self, cx: &Cx<'_>) {
        if !self.nxt.lt(self.write_end()) && self.board.is_empty() {
            return;
        }
        // A peer that answers is alive, however long its window stays closed, unless nobody waits for it here.
        let sysctls = &cx.stack.sysctls;
        let most = if self.orphan { 8 } else { sysctls.tcp_retries2.u32() };
        let timed = self.opts.user_timeout != 0
            && self.stalled != 0
            && cx.now.saturating_sub(self.stalled) >= Nanos::from(self.opts.user_timeout) * MILLI;
        if self.probes > most || timed {
            self.give_up();
            return;
        }
        if self.stalled == 0 {
            self.stalled = cx.now;
        }
        self.probes += 1;
        self.backoff = (self.backoff + 1).min(16);
        if let Some(path) = self.find_path(cx) {
            self.send_ack(cx, &path, self.una.minus(1));
        }
    }

    /// Begins to watch whether the peer is still there.
    pub fn arm_keep(&mut self, cx: &Cx<'_>) {
        self.keep = None;
        if self.opts.keepalive && self.state.synchronized() && self.state != State::TimeWait {
            let idle = Nanos::from(self.opts.idle(&cx.stack.sysctls)) * SECOND;
            let heard = self.last_rcvd.max(self.stats.last_ack_in);
            self.keep = Some(heard.saturating_add(idle).max(cx.now.saturating_add(MILLI)));
        }
    }

    fn on_keep(&mut self, cx: &Cx<'_>) {
        if !self.opts.keepalive || !self.state.synchronized() {
            return;
        }
        let sysctls = &cx.stack.sysctls;
        let idle = Nanos::from(self.opts.idle(sysctls)) * SECOND;
        let heard = cx.now.saturating_sub(self.last_rcvd.max(self.stats.last_ack_in));
        // What is under way says the same.
        if !self.board.is_empty() || self.nxt.lt(self.write_end()) {
            self.keep = Some(cx.now.saturating_add(idle));
            return;
        }
        if heard < idle {
            self.keep = Some(cx.now.saturating_add(idle - heard));
            return;
        }
        let limit = Nanos::from(self.opts.user_timeout) * MILLI;
        let over = match limit {
            0 => self.keep_probes >= self.opts.probes(sysctls),
            limit => heard >= limit && self.keep_probes > 0,
        };
        if over {
            self.send_reset(cx);
            self.give_up();
            return;
        }
        self.keep_probes += 1;
        if let Some(path) = self.find_path(cx) {
            self.send_ack(cx, &path, self.una.minus(1));
        }
        let interval = Nanos::from(self.opts.interval(sysctls)) * SECOND;
        self.keep = Some(cx.now.saturating_add(interval));
    }

    /// Nobody holds it, and the peer has not said that it is done.
    pub fn arm_fin_wait2(&mut self, cx: &Cx<'_>) {
        let seconds = match self.opts.linger2 {
            0 => i64::from(cx.stack.sysctls.tcp_fin_timeout.u32()),
            set => i64::from(set),
        };
        match u64::try_from(seconds) {
            Ok(seconds) => self.life = Some(cx.now.saturating_add(seconds.saturating_mul(SECOND))),
            Err(_) => {
                self.send_reset(cx);
                self.die(None);
            }
        }
    }

    fn on_trim(&mut self, now: Nanos) {
        let quiet = now.saturating_sub(self.last_rcvd.max(self.last_sent)) >= TRIM;
        if !quiet {
            self.trim = Some(now.saturating_add(TRIM));
            return;
        }
        if self.rcv.len() == 0 && self.ooo.is_empty() {
            self.rcv.release();
        }
        if self.out.len() == 0 {
            self.out.release();
        }
    }
}
