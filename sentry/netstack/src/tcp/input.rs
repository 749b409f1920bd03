//! Segments for a connection (RFC 9293 3.10, with RFC 5961's care about resets and RFC 7323's about old segments).

use super::segment::Segment;
use super::tcb::{Cx, State, Tcb};
use crate::env::{MILLI, Nanos, SECOND};
use crate::wire::{ACK, FIN, RST, SYN};
use chitin_abi::Errno;
use chitin_abi::poll::*;

/// What is to be done beside the connection's own affairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// The segment is answered with a reset.
    Reset,
}

/// Timestamps older than this mean nothing (24 days).
const PAWS_LIFE: Nanos = 24 * 86_400 * SECOND;

impl Tcb {
    pub fn on_segment(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) -> Verdict {
        self.stats.segs_in = self.stats.segs_in.wrapping_add(segment.count);
        match self.state {
            State::Close | State::TimeWait => {
                return if segment.has(RST) { Verdict::Fine } else { Verdict::Reset };
            }
            State::SynSent => return self.on_syn_sent(cx, segment),
            _ => {}
        }
        self.keep_probes = 0;
        // Both have called: the peer's SYN comes once more, with its acknowledgement.
        let crossed = self.state == State::SynRecv && segment.has(SYN) && segment.seq == self.irs;
        let again = Segment { seq: segment.seq.plus(1), flags: segment.flags & !SYN, ..*segment };
        let segment = if crossed { &again } else { segment };
        if !self.acceptable(cx, segment) {
            return Verdict::Fine;
        }
        if segment.has(RST) {
            self.on_reset(cx, segment);
            return Verdict::Fine;
        }
        if segment.has(SYN) {
            self.challenge(cx);
            return Verdict::Fine;
        }
        if !segment.has(ACK) {
            return Verdict::Fine;
        }
        if self.nxt.lt(segment.ack) {
            if self.state == State::SynRecv {
                return Verdict::Reset;
            }
            self.challenge(cx);
            return Verdict::Fine;
        }
        if self.state == State::SynRecv {
            if segment.ack.le(self.iss) {
                return Verdict::Reset;
            }
            self.established(cx, segment);
        }
        if segment.ack.lt(self.una) {
            // Too old to be anything but an attack (RFC 5961, 5.2).
            if self.una.from(segment.ack) > self.max_wnd {
                self.challenge(cx);
                return Verdict::Fine;
            }
        } else {
            self.on_ack(cx, segment);
            self.on_fin_acked(cx);
        }
        if matches!(self.state, State::Close | State::TimeWait) {
            return Verdict::Fine;
        }
        if segment.len() > 0 {
            // Nobody will ever read it.
            if self.orphan && !segment.data.is_empty() && self.rcv_nxt.lt(segment.end()) {
                self.die(None);
                return Verdict::Reset;
            }
            if self.fin_rcvd {
                self.ack_now = true;
            } else {
                self.on_data(cx, segment);
            }
        }
        Verdict::Fine
    }

    /// Whether a segment is in the window and not from the past; what is not is answered, but for resets.
    fn acceptable(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) -> bool {
        if let (true, Some((value, _))) = (self.ts_ok, segment.ts) {
            let age = value.wrapping_sub(self.ts_recent).cast_signed();
            let stale = cx.now.saturating_sub(self.ts_recent_at) > PAWS_LIFE;
            if age < 0 && !stale && !segment.has(RST) {
                self.out_of_window(cx, segment);
                return false;
            }
        }
        let end = segment.end();
        let edge = self.rcv_adv.max(self.rcv_nxt);
        let after = edge.lt(segment.seq);
        let before = end.lt(self.rcv_nxt) || end == self.rcv_nxt && segment.len() > 0;
        if after || before {
            if !segment.has(RST) {
                self.out_of_window(cx, segment);
            }
            return false;
        }
        if let (true, Some((value, _))) = (self.ts_ok, segment.ts) {
            if segment.seq.le(self.rcv_wup) {
                self.ts_recent = value;
                self.ts_recent_at = cx.now;
            }
        }
        true
    }

    /// A segment that is refused is answered, so that the peer learns where things stand: always if it had data (the
    /// acknowledgement may have been lost), otherwise now and then.
    fn out_of_window(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) {
        if segment.len() > 0 && !segment.has(SYN) {
            let end = segment.end();
            if end.le(self.rcv_nxt) && self.sack_ok {
                self.dsack = Some((segment.seq, end));
            }
            self.ack_now = true;
            self.quick = self.quick.max(4);
            // Its acknowledgement may still be news to a closed window's other side.
            if segment.has(ACK)
                && segment.ack != self.una
                && segment.ack.within(self.una, self.nxt)
                && self.state != State::SynRecv
            {
                self.on_ack(cx, segment);
                self.on_fin_acked(cx);
            }
        } else if segment.has(SYN) {
            self.challenge(cx);
        } else {
            // A probe of a closed window, or keepalive: these have nothing in them.
            let every = cx.stack.sysctls.tcp_invalid_ratelimit.get().max(0).unsigned_abs() * MILLI;
            if segment.seq == self.rcv_nxt.minus(1) || cx.now.saturating_sub(self.last_challenge) >= every {
                self.last_challenge = cx.now;
                self.ack_now = true;
            }
            if segment.has(ACK) && segment.ack.within(self.una, self.nxt) && self.state.synchronized() {
                self.on_ack(cx, segment);
                self.on_fin_acked(cx);
            }
        }
    }

    /// RFC 5961: an answer that a blind attacker learns nothing from, and that restores a peer that has lost its state.
    fn challenge(&mut self, cx: &Cx<'_>) {
        let every = cx.stack.sysctls.tcp_invalid_ratelimit.get().max(0).unsigned_abs() * MILLI;
        if self.last_challenge == 0 || cx.now.saturating_sub(self.last_challenge) >= every {
            self.last_challenge = cx.now;
            self.ack_now = true;
        }
    }

    fn on_reset(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) {
        // Only the very next number will do; or, after a hole, the end of what has come (as Linux).
        let exact =
            segment.seq == self.rcv_nxt || self.sacks.first().is_some_and(|(_, end)| *end == segment.seq);
        if !exact {
            self.challenge(cx);
            return;
        }
        let error = match self.state {
            State::CloseWait => Some(Errno::EPIPE),
            _ => Some(Errno::ECONNRESET),
        };
        self.die(error);
    }

    fn on_syn_sent(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) -> Verdict {
        if segment.has(ACK) {
            let good = self.iss.lt(segment.ack) && segment.ack.le(self.nxt);
            let echo = segment.ts.is_none_or(|(_, echo)| {
                !self.ts_ok || self.clock(cx.now).wrapping_sub(echo).cast_signed() >= 0
            });
            if !good || !echo {
                return if segment.has(RST) { Verdict::Fine } else { Verdict::Reset };
            }
            if segment.has(RST) {
                self.die(Some(Errno::ECONNREFUSED));
                return Verdict::Fine;
            }
        }
        if segment.has(RST) || !segment.has(SYN) {
            return Verdict::Fine;
        }
        self.negotiate(cx, segment);
        if segment.has(ACK) {
            let rtt = cx.now.saturating_sub(self.last_sent);
            self.una = segment.ack;
            if self.backoff == 0 {
                self.rtt.sample(rtt, cx.now);
            }
            self.ack_now = true;
            self.established(cx, segment);
            if segment.has(FIN) || !segment.data.is_empty() {
                // Data of the SYN's own packet follows the SYN.
                let rest = Segment { seq: segment.seq.plus(1), flags: segment.flags & !SYN, ..*segment };
                self.on_data(cx, &rest);
            }
        } else {
            // Both have called each other.
            self.state = State::SynRecv;
            self.force = true;
            self.rtx = Some((cx.now.saturating_add(self.rtt.rto), super::tcb::Rtx::Timeout));
        }
        Verdict::Fine
    }

    /// What the peer's SYN says.
    pub fn negotiate(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) {
        self.irs = segment.seq;
        self.rcv_nxt = segment.seq.plus(1);
        self.rcv_wup = self.rcv_nxt;
        // The window that our SYN offered.
        self.rcv_adv = self.rcv_nxt.plus(self.rcv_limit.min(65_535));
        let sysctls = &cx.stack.sysctls;
        self.sack_ok = segment.sack_ok && sysctls.tcp_sack.on();
        self.ecn_negotiate(segment, sysctls.tcp_ecn.get());
        self.ts_ok = segment.ts.is_some() && sysctls.tcp_timestamps.on();
        if let (true, Some((value, _))) = (self.ts_ok, segment.ts) {
            self.ts_recent = value;
            self.ts_recent_at = cx.now;
        }
        match segment.wscale {
            Some(scale) if sysctls.tcp_window_scaling.on() => {
                self.wscale_ok = true;
                self.snd_scale = scale;
            }
            _ => {
                self.snd_scale = 0;
                self.rcv_scale = 0;
                self.rcv_limit = self.rcv_limit.min(65_535);
            }
        }
        self.peer_mss = usize::from(segment.mss.unwrap_or(536)).max(64);
        self.wl1 = segment.seq;
        self.wl2 = segment.ack;
        self.wnd = usize::from(segment.window);
        self.max_wnd = self.wnd;
        self.path = None;
        self.find_path(cx);
        self.rcv_mss = self.mss.min(1448);
    }

    /// The handshake is done.
    pub fn established(&mut self, cx: &Cx<'_>, segment: &Segment<'_>) {
        self.state = if self.fin { State::FinWait1 } else { State::Established };
        self.una = self.una.max(self.iss.plus(1));
        self.base = self.iss.plus(1);
        self.wl1 = segment.seq.minus(1);
        self.update_window(segment);
        self.backoff = 0;
        self.stalled = 0;
        self.rtx = None;
        self.events |= POLLOUT;
        self.last_rcvd = cx.now;
        self.arm_keep(cx);
    }

    /// Was that the acknowledgement of our FIN?
    fn on_fin_acked(&mut self, cx: &Cx<'_>) {
        if !self.fin_sent || self.una.lt(self.write_end()) {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.events |= POLLOUT;
                self.rtx = None;
                if self.orphan {
                    self.arm_fin_wait2(cx);
                }
            }
            State::Closing => self.time_wait(cx),
            State::LastAck => self.die(None),
            _ => {}
        }
    }

    /// Everything has been said; late segments are dealt with elsewhere (`time_wait.rs`).
    pub fn time_wait(&mut self, _cx: &Cx<'_>) {
        self.state = State::TimeWait;
        self.rtx = None;
        self.delack = None;
        self.keep = None;
        self.life = None;
        self.ack_now = true;
        self.events |= POLLIN | POLLOUT | POLLHUP | POLLRDHUP;
    }
}
