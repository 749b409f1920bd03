//! What has been sent and not yet acknowledged: when, how often, what the peer has, what seems lost.
//!
//! Entries lie in the order of the sequence space and adjoin; an entry is what was sent at once, up to 64 KiB, and is cut
//! where an acknowledgement or a retransmission needs it.

use super::rate::{Newest, Stamp};
use super::seq::{Ranges, Seq};
use crate::env::Nanos;
use std::collections::VecDeque;

/// Entries that a connection may have in any case; beyond them it is one for so many bytes.
const FREE_ENTRIES: usize = 256;
const BYTES_PER_ENTRY: usize = 48;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub seq: Seq,
    pub end: Seq,
    pub at: Nanos,
    pub sacked: bool,
    pub lost: bool,
    /// The last retransmission is on its way.
    pub again: bool,
    pub retransmitted: bool,
    pub stamp: Stamp,
}

impl Sent {
    fn len(&self) -> usize {
        self.end.from(self.seq)
    }
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// Bytes that left the network: acknowledged or told of for the first time.
    pub delivered: usize,
    /// When the newest of those that were sent once was sent.
    pub once: Option<Nanos>,
    /// Something arrived behind what was sent later.
    pub reordered: bool,
    /// Something that had been retransmitted is among them.
    pub retransmitted: bool,
    /// The most recently sent of them.
    pub newest: Option<Newest>,
}

/// The most recently sent of what has been delivered (RFC 8985).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rack {
    pub at: Nanos,
    pub end: Seq,
    pub rtt: Nanos,
    /// Whether there is anything.
    pub valid: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Board {
    queue: VecDeque<Sent>,
    pub sacked: Ranges,
    pub sacked_out: usize,
    pub lost_out: usize,
    pub again_out: usize,
    /// Nothing before it waits to be sent again.
    hint: Seq,
    pub rack: Rack,
    /// The least round trip time there was.
    pub min_rtt: Nanos,
    /// The highest that is known to have arrived.
    fack: Seq,
}

impl Board {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.queue.capacity() * size_of::<Sent>() + self.sacked.len() * 8
    }
    pub fn entries(&self) -> usize {
        self.queue.len()
    }
    pub fn front(&self) -> Option<&Sent> {
        self.queue.front()
    }
    /// The last that the peer is not known to have.
    pub fn last_missing(&self) -> Option<&Sent> {
        self.queue.iter().rev().find(|sent| !sent.sacked)
    }
    pub fn outstanding(&self) -> usize {
        match (self.queue.front(), self.queue.back()) {
            (Some(first), Some(last)) => last.end.from(first.seq),
            _ => 0,
        }
    }
    /// Bytes in the network.
    pub fn pipe(&self) -> usize {
        (self.outstanding() + self.again_out).saturating_sub(self.sacked_out + self.lost_out)
    }

    pub fn push(&mut self, seq: Seq, end: Seq, now: Nanos, stamp: Stamp) {
        if self.queue.is_empty() {
            self.fack = seq;
            self.hint = seq;
        }
        self.queue.push_back(Sent {
            seq,
            end,
            at: now,
            sacked: false,
            lost: false,
            again: false,
            retransmitted: false,
            stamp,
        });
    }

    fn find(&self, seq: Seq) -> usize {
        self.queue.partition_point(|sent| sent.end.le(seq))
    }

    /// Whether there are more entries than the bytes they stand for are worth.
    pub fn crowded(&self) -> bool {
        self.queue.len() > FREE_ENTRIES + self.outstanding() / BYTES_PER_ENTRY
    }
    fn cuts(&self, seq: Seq) -> bool {
        self.queue.get(self.find(seq)).is_some_and(|sent| sent.seq.lt(seq))
    }

    /// Cuts the entry around `seq` so that one begins there; its index.
    fn cut(&mut self, seq: Seq) -> usize {
        let at = self.find(seq);
        let Some(sent) = self.queue.get_mut(at).filter(|sent| sent.seq.lt(seq)) else { return at };
        let rest = Sent { seq, ..*sent };
        sent.end = seq;
        self.queue.insert(at + 1, rest);
        at + 1
    }

    fn left(&mut self, sent: &Sent, now: Nanos, news: &mut News) {
        let len = sent.len();
        if sent.sacked {
            self.sacked_out = self.sacked_out.saturating_sub(len);
            return;
        }
        self.arrived(sent, now, news);
        if sent.lost {
            self.lost_out = self.lost_out.saturating_sub(len);
        }
        if sent.again {
            self.again_out = self.again_out.saturating_sub(len);
        }
    }

    /// An entry is known to have arrived, for the first time.
    fn arrived(&mut self, sent: &Sent, now: Nanos, news: &mut News) {
        news.delivered += sent.len();
        let later = |n: &Newest| (sent.at, sent.end.since(n.end)) > (n.at, 0) && sent.at >= n.at;
        if news.newest.as_ref().is_none_or(later) {
            news.newest = Some(Newest { stamp: sent.stamp, at: sent.at, end: sent.end });
        }
        news.retransmitted |= sent.retransmitted;
        if !sent.retransmitted {
            news.once = news.once.max(Some(sent.at));
            news.reordered |= sent.end.lt(self.fack);
        }
        self.fack = self.fack.max(sent.end);
        let rtt = now.saturating_sub(sent.at);
        // What comes back faster than anything can was the original's answer.
        if sent.retransmitted && rtt < self.min_rtt {
            return;
        }
        let later = (sent.at, sent.end.since(self.rack.end)) > (self.rack.at, 0);
        if !self.rack.valid || later {
            self.rack = Rack { at: sent.at, end: sent.end, rtt, valid: true };
        }
    }

    /// Everything before `una` has arrived.
    pub fn ack(&mut self, una: Seq, now: Nanos, news: &mut News) {
        while let Some(first) = self.queue.front().copied() {
            if first.end.le(una) {
                self.queue.pop_front();
                self.left(&first, now, news);
            } else if first.seq.lt(una) {
                self.left(&Sent { end: una, ..first }, now, news);
                if let Some(first) = self.queue.front_mut() {
                    first.seq = una;
                }
                break;
            } else {
                break;
            }
        }
        self.sacked.trim(una);
        self.hint = self.hint.max(una);
    }

    /// The peer has a range. It lies within what has been sent.
    pub fn sack(&mut self, start: Seq, end: Seq, now: Nanos, news: &mut News) {
        if self.sacked.covers(start, end) {
            return;
        }
        // A peer that tells of single bytes must not make an entry of each. What is passed over is acknowledged later.
        if self.crowded() && (self.cuts(start) || self.cuts(end)) {
            return;
        }
        self.sacked.insert(start, end);
        let mut at = self.cut(start);
        self.cut(end);
        while let Some(sent) = self.queue.get(at).copied().filter(|sent| sent.end.le(end)) {
            if !sent.sacked {
                self.arrived(&sent, now, news);
                let len = sent.len();
                self.sacked_out += len;
                if sent.lost {
                    self.lost_out = self.lost_out.saturating_sub(len);
                }
                if sent.again {
                    self.again_out = self.again_out.saturating_sub(len);
                }
                if let Some(sent) = self.queue.get_mut(at) {
                    sent.sacked = true;
                    sent.lost = false;
                    sent.again = false;
                }
            }
            at += 1;
        }
    }

    /// Marks an entry as lost, unless the peer is known to have it: what is `sacked` is neither lost nor on its way again.
    fn lose(&mut self, at: usize) -> usize {
        let Some(sent) = self.queue.get_mut(at).filter(|sent| !sent.sacked) else { return 0 };
        let len = sent.len();
        let (was_lost, was_again) = (sent.lost, sent.again);
        sent.lost = true;
        sent.again = false;
        self.hint = self.hint.min(sent.seq);
        if was_again {
            self.again_out = self.again_out.saturating_sub(len);
        }
        if !was_lost {
            self.lost_out += len;
        }
        if was_lost && !was_again { 0 } else { len }
    }

    /// Marks what was sent so much before the most recently sent of what has arrived that it must be lost. Answers the
    /// bytes, and how long until the next one would be.
    pub fn detect(&mut self, reo: Nanos, now: Nanos) -> (usize, Option<Nanos>) {
        let rack = self.rack;
        if !rack.valid {
            return (0, None);
        }
        let (mut lost, mut wait) = (0, None::<Nanos>);
        for at in 0..self.queue.len() {
            let Some(sent) = self.queue.get(at) else { break };
            let before = (rack.at, rack.end.since(sent.end)) > (sent.at, 0) && rack.at >= sent.at;
            if !before {
                if sent.retransmitted {
                    continue;
                }
                // What was sent once was sent in order.
                break;
            }
            if sent.sacked || sent.lost && !sent.again {
                continue;
            }
            let due = sent.at.saturating_add(rack.rtt).saturating_add(reo);
            if due <= now {
                lost += self.lose(at);
            } else {
                let left = due - now;
                wait = Some(wait.map_or(left, |w| w.max(left)));
            }
        }
        (lost, wait)
    }

    /// Everything that is not known to have arrived is lost (a timeout). `reneged`: also what the peer said it has.
    pub fn lose_all(&mut self, reneged: bool) {
        if reneged {
            self.sacked.clear();
            self.sacked_out = 0;
            self.queue.iter_mut().for_each(|sent| sent.sacked = false);
        }
        for at in 0..self.queue.len() {
            self.lose(at);
        }
        self.rack.valid = false;
    }

    /// The first entry is lost (peers without SACK); cut to `mss`.
    pub fn lose_head(&mut self, mss: usize) {
        if let Some(first) = self.queue.front().copied() {
            if first.len() > mss {
                self.cut(first.seq.plus(mss));
            }
            self.lose(0);
        }
    }

    /// A device did not take something, or it is sent again to see whether it is missing.
    pub fn lose_from(&mut self, seq: Seq, end: Seq) {
        let mut at = self.cut(seq);
        self.cut(end);
        while self.queue.get(at).is_some_and(|sent| sent.end.le(end)) {
            self.lose(at);
            at += 1;
        }
    }

    /// Nothing was lost after all.
    pub fn unlose(&mut self) {
        self.queue.iter_mut().for_each(|sent| sent.lost &= sent.again);
        self.lost_out = self.queue.iter().filter(|sent| sent.lost).map(Sent::len).sum();
    }

    /// What is to be sent again next.
    pub fn next_lost(&mut self) -> Option<Sent> {
        if self.lost_out <= self.again_out {
            return None;
        }
        let from = self.find(self.hint);
        let found = self.queue.range(from..).find(|sent| sent.lost && !sent.again).copied();
        self.hint = found.map_or(self.queue.back()?.end, |sent| sent.seq);
        found
    }

    /// Something is sent again.
    pub fn resent(&mut self, seq: Seq, end: Seq, now: Nanos, stamp: Stamp) {
        let mut at = self.cut(seq);
        self.cut(end);
        while let Some(sent) = self.queue.get_mut(at).filter(|sent| sent.end.le(end)) {
            let len = sent.len();
            if !sent.lost {
                sent.lost = true;
                self.lost_out += len;
            }
            if !sent.again {
                self.again_out += len;
            }
            sent.again = true;
            sent.retransmitted = true;
            sent.at = now;
            sent.stamp = stamp;
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(board: &Board) {
        let sum =
            |f: &dyn Fn(&Sent) -> bool| board.queue.iter().filter(|s| f(s)).map(Sent::len).sum::<usize>();
        assert_eq!(board.sacked_out, sum(&|s| s.sacked));
        assert_eq!(board.lost_out, sum(&|s| s.lost));
        assert_eq!(board.again_out, sum(&|s| s.again));
        assert!(board.queue.iter().all(|s| s.seq.lt(s.end) && !(s.sacked && (s.lost || s.again))));
        let adjoin = board.queue.iter().zip(board.queue.iter().skip(1)).all(|(a, b)| a.end == b.seq);
        assert!(adjoin);
    }

    /// Each byte told of by itself would cost a hundred times what it is worth.
    #[test]
    fn entries_are_worth_their_bytes() {
        let mut board = Board::default();
        let size = 1 << 20;
        for n in 0..size / 65_536 {
            board.push(Seq(n * 65_536), Seq((n + 1) * 65_536), 1, Stamp::default());
        }
        for at in (1..size).step_by(2) {
            board.sack(Seq(at), Seq(at + 1), 2, &mut News::default());
        }
        check(&board);
        let most = FREE_ENTRIES + size as usize / BYTES_PER_ENTRY + 3;
        assert!((1000..most).contains(&board.entries()), "{}", board.entries());
        // Whole entries are taken note of in any case.
        let last = board.queue.back().copied().unwrap();
        board.sack(last.seq, last.end, 3, &mut News::default());
        assert!(board.sacked.covers(last.seq, last.end));
    }

    #[test]
    fn counts_hold_whatever_happens() {
        let mut rng = crate::testing::Rng::new(9);
        let (mut una, mut nxt) = (Seq(u32::MAX - 3000), Seq(u32::MAX - 3000));
        let mut board = Board::default();
        for now in 0..20_000 {
            let span = nxt.from(una) as u64;
            let mut news = News::default();
            match rng.below(9) {
                0 | 1 if span < 50_000 => {
                    let len = 1 + rng.below(3000) as usize;
                    board.push(nxt, nxt.plus(len), now, Stamp::default());
                    nxt = nxt.plus(len);
                }
                2 => {
                    una = una.plus(rng.below(span / 3 + 1) as usize);
                    board.ack(una, now, &mut news);
                }
                3 if span > 2 => {
                    let start = una.plus(rng.below(span - 1) as usize);
                    let end = start.plus(1 + rng.below(nxt.from(start) as u64) as usize).min(nxt);
                    board.sack(start, end, now, &mut news);
                    assert!(board.sacked.covers(start, end));
                }
                4 => {
                    board.detect(rng.below(20), now);
                }
                5 => {
                    while let Some(lost) = board.next_lost().filter(|_| rng.chance(80.0)) {
                        let end = lost.end.min(lost.seq.plus(1448));
                        board.resent(lost.seq, end, now, Stamp::default());
                        check(&board);
                    }
                }
                6 if rng.chance(10.0) => board.lose_all(rng.chance(30.0)),
                7 if span > 2 => {
                    let start = una.plus(rng.below(span - 1) as usize);
                    board.lose_from(
                        start,
                        start.plus(1 + rng.below(nxt.from(start) as u64) as usize).min(nxt),
                    );
                }
                8 if rng.chance(10.0) => board.unlose(),
                _ => {}
            }
            check(&board);
            assert_eq!(board.outstanding(), nxt.from(una));
        }
    }
}
