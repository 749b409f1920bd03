//! TIME_WAIT: what is kept of a connection that has ended, for a minute, so that late segments do no harm.
//!
//! All wait equally long, so they queue in the order in which they end; one timer serves the first.

use super::segment::{Header, Segment};
use super::seq::Seq;
use super::table::Entry;
use super::tcb::Tcb;
use super::{Tuple, millis};
use crate::env::{Nanos, SECOND};
use crate::stack::Stack;
use crate::timer::Due;
use crate::wire::{ACK, FIN, RST, SYN};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const LIFE: Nanos = 60 * SECOND;
/// Whatever a guest sets.
const MOST: usize = 65_536;

pub(crate) struct TimeWait {
    pub nxt: Seq,
    rcv_nxt: Seq,
    window: u16,
    ts_ok: bool,
    ts_recent: AtomicU32,
    ts_offset: u32,
    since: AtomicU64,
    last_answer: AtomicU64,
    tos: u8,
    device: u32,
    mark: u32,
}

#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<(Nanos, Tuple, Arc<TimeWait>)>,
    armed: bool,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

/// What to do with a segment for something in TIME_WAIT.
pub(super) enum Late {
    Done,
    /// A new connection may take its place, with a sequence number beyond this one.
    New(Seq),
}

impl TimeWait {
    pub fn of(tcb: &Tcb, now: Nanos) -> TimeWait {
        let room = tcb.rcv_limit.saturating_sub(tcb.rcv.len()) >> tcb.rcv_scale;
        TimeWait {
            nxt: tcb.nxt,
            rcv_nxt: tcb.rcv_nxt,
            window: u16::try_from(room).unwrap_or(u16::MAX),
            ts_ok: tcb.ts_ok,
            ts_recent: AtomicU32::new(tcb.ts_recent),
            ts_offset: tcb.ts_offset,
            since: AtomicU64::new(now),
            last_answer: AtomicU64::new(0),
            tos: tcb.opts.tos,
            device: tcb.opts.device,
            mark: tcb.opts.mark,
        }
    }

    /// Whether a connection from this side may use the pair again.
    pub fn reusable(&self, now: Nanos) -> bool {
        self.ts_ok && now.saturating_sub(self.since.load(Ordering::Relaxed)) > SECOND
    }
}

impl Stack {
    /// Keeps the rest of a connection; if there are too many, it is forgotten right away, as Linux does.
    pub(super) fn keep_waiting(&self, tuple: Tuple, rest: TimeWait) -> bool {
        let now = self.now();
        let rest = Arc::new(rest);
        let mut waiting = self.tcp.waiting.lock();
        if waiting.len() >= self.sysctls.tcp_max_tw_buckets.size().min(MOST) {
            return false;
        }
        waiting.queue.push_back((now.saturating_add(LIFE), tuple, rest.clone()));
        if !waiting.armed {
            waiting.armed = true;
            self.timers.arm(&*self.env, now.saturating_add(LIFE), Due::TimeWait);
        }
        drop(waiting);
        self.tcp.insert(tuple, Entry::TimeWait(rest), |_| true)
    }

    pub(crate) fn time_wait_due(&self, now: Nanos) {
        let mut over = Vec::new();
        {
            let mut waiting = self.tcp.waiting.lock();
            waiting.armed = false;
            while let Some((at, tuple, rest)) = waiting.queue.pop_front() {
                if at > now {
                    waiting.armed = true;
                    self.timers.arm(&*self.env, at, Due::TimeWait);
                    waiting.queue.push_front((at, tuple, rest));
                    break;
                }
                // Stirred up meanwhile: it waits once more.
                let again = rest.since.load(Ordering::Relaxed).saturating_add(LIFE);
                if again > now {
                    waiting.queue.push_back((now.saturating_add(LIFE), tuple, rest));
                } else {
                    over.push((tuple, rest));
                }
            }
        }
        for (tuple, rest) in over {
            self.tcp.remove(&tuple, |entry| matches!(entry, Entry::TimeWait(tw) if Arc::ptr_eq(tw, &rest)));
        }
    }

    /// A segment for something that is over (tcp_timewait_state_process()).
    pub(super) fn late_segment(&self, tuple: &Tuple, rest: &Arc<TimeWait>, segment: &Segment<'_>) -> Late {
        let now = self.now();
        let recent = rest.ts_recent.load(Ordering::Relaxed);
        let newer = segment.ts.map(|(value, _)| value.wrapping_sub(recent).cast_signed());
        let stale = rest.ts_ok && newer.is_some_and(|age| age < 0);
        if segment.has(RST) {
            // Exactly the next one ends it (RFC 1337 notwithstanding, as Linux).
            if segment.seq == rest.rcv_nxt && !self.sysctls.tcp_rfc1337.on() && !stale {
                self.tcp.remove(tuple, |entry| matches!(entry, Entry::TimeWait(tw) if Arc::ptr_eq(tw, rest)));
            }
            return Late::Done;
        }
        let fresh = rest.rcv_nxt.lt(segment.seq) || rest.ts_ok && newer.is_some_and(|age| age > 0);
        if segment.has(SYN) && !segment.has(ACK) && !stale && fresh {
            return Late::New(rest.nxt.plus(65_535 + 2));
        }
        // A FIN that comes again begins the minute anew.
        if segment.has(FIN) && !stale {
            rest.since.store(now, Ordering::Relaxed);
        }
        let acknowledges = segment.len() > 0 || stale || segment.seq != rest.rcv_nxt;
        let last = rest.last_answer.load(Ordering::Relaxed);
        if acknowledges && (last == 0 || now.saturating_sub(last) > SECOND / 2 || segment.has(FIN)) {
            rest.last_answer.store(now, Ordering::Relaxed);
            let clock = millis(now).wrapping_add(rest.ts_offset);
            let header = Header {
                seq: rest.nxt,
                ack: rest.rcv_nxt,
                flags: ACK,
                window: rest.window,
                ts: rest.ts_ok.then_some((clock, recent)),
                tos: rest.tos,
                df: true,
                ..Header::default()
            };
            self.send_alone(tuple, &header, rest.device, rest.mark);
        }
        Late::Done
    }
}
