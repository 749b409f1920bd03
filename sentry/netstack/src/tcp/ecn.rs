//! Explicit congestion notification (RFC 3168): routers mark packets instead of losing them, and the receiver says so until
//! the sender has said that it has understood.

use super::congestion::Window;
use super::segment::{Header, Segment};
use super::seq::Seq;
use super::tcb::{Repair, State, Tcb};
use crate::wire::{CWR, ECE, SYN};

/// The bits in the IP header.
const ECT0: u8 = 2;
const CE: u8 = 3;
pub(super) const MASK: u8 = 3;

/// A connection's part.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ecn {
    /// Both sides can.
    pub ok: bool,
    /// A packet came that could have been marked.
    pub seen: bool,
    /// A mark came, and the sender has not answered yet.
    owed: bool,
    /// The next new data says that the window has been reduced.
    reduced: bool,
    /// What was under way at the last reduction: marks on it have been obeyed.
    until: Option<Seq>,
    /// Segments acknowledged with the news of a mark (tcpi_delivered_ce).
    pub marked: u32,
}

impl Ecn {
    /// The marks of a segment that goes out (tcp_ecn_send()). `fresh`: it brings data for the first time.
    pub fn mark(&mut self, header: &mut Header<'_>, fresh: bool) {
        if !self.ok {
            return;
        }
        if fresh {
            header.tos = header.tos & !MASK | ECT0;
            if std::mem::take(&mut self.reduced) {
                header.flags |= CWR;
            }
        }
        if self.owed {
            header.flags |= ECE;
        }
    }
}

/// Whether a SYN asks for it, and comes from somebody whose packets are not marked already (tcp_ecn_create_request()).
pub(super) fn asked(segment: &Segment<'_>) -> bool {
    segment.has(SYN) && segment.flags & (ECE | CWR) == ECE | CWR && segment.ecn == 0
}

impl Tcb {
    /// What our SYN says, and its answer.
    pub fn ecn_syn(&self, wanted: bool) -> u8 {
        match self.state {
            // A SYN that got lost is perhaps not liked as it is (tcp_ecn_fallback).
            State::SynSent if wanted && self.backoff == 0 => ECE | CWR,
            State::SynRecv if self.ecn.ok => ECE,
            _ => 0,
        }
    }

    /// What the peer's SYN says, or its answer to ours. `setting`: tcp_ecn.
    pub fn ecn_negotiate(&mut self, segment: &Segment<'_>, setting: i64) {
        let answer = segment.flags & (ECE | CWR) == ECE && segment.has(crate::wire::ACK);
        self.ecn.ok = match self.state {
            State::SynSent => setting == 1 && (answer || asked(segment)),
            // What was asked for has been promised.
            _ => asked(segment),
        };
    }

    /// Data that comes in (tcp_ecn_accept_cwr(), tcp_data_ecn_check()).
    pub fn ecn_data(&mut self, segment: &Segment<'_>) {
        if !self.ecn.ok {
            return;
        }
        if segment.has(CWR) {
            self.ecn.owed = false;
            self.ack_now = true;
        }
        match segment.ecn {
            0 => {
                // Sent again, most likely.
                if self.ecn.seen {
                    self.quick = self.quick.max(2);
                }
                return;
            }
            CE if !self.ecn.owed => {
                self.ecn.owed = true;
                self.ack_now = true;
                self.quick = self.quick.max(2);
            }
            _ => {}
        }
        self.ecn.seen = true;
    }

    /// An acknowledgement of so many bytes; one that tells of a mark makes the window smaller, once per round trip.
    pub fn ecn_ack(&mut self, segment: &Segment<'_>, delivered: usize) {
        if !self.ecn.ok {
            return;
        }
        self.ecn.until = self.ecn.until.filter(|until| segment.ack.le(*until));
        if !segment.has(ECE) || segment.has(SYN) {
            return;
        }
        let segments = crate::wire::len32(delivered / self.mss.max(1));
        self.ecn.marked = self.ecn.marked.wrapping_add(segments);
        if self.ecn.until.is_some() || self.repair != Repair::Open || self.board.is_empty() {
            return;
        }
        // BBR keeps to what it measures.
        if self.bbr.is_none() {
            let Window { mss, .. } = self.window;
            self.window.ssthresh = self.window.reduced();
            self.window.cwnd = self.window.cwnd.min(self.window.ssthresh).max(2 * mss);
        }
        self.ecn_reduced();
    }

    /// The window is smaller, for whatever reason.
    pub fn ecn_reduced(&mut self) {
        self.ecn.reduced = self.ecn.ok;
        self.ecn.until = self.ecn.ok.then_some(self.nxt);
    }
}
