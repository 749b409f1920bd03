//! Handshakes from outside. Until a peer has answered, there is only a [`Request`]; when there are too many of these, there
//! is nothing at all but a cookie in the sequence number.

use super::conn::TcpConn;
use super::input::Verdict;
use super::segment::{Header, Segment};
use super::seq::Seq;
use super::table::Entry;
use super::tcb::{Cx, Tcb};
use super::{Tuple, millis, own_mss, scale_for};
use crate::env::{Nanos, SECOND};
use crate::ip::Meta;
use crate::sockets::TcpListener;
use crate::stack::{Batch, Stack};
use crate::timer::{Due, Key};
use crate::wire::{ACK, CWR, ECE, RST, SYN, len16};
use chitin_abi::num::low32;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Handshakes at a time, whoever listens.
const MAX_REQUESTS: u32 = 65_536;
const MINUTE: Nanos = 60 * SECOND;
/// Segment sizes that cookies can tell, as Linux's.
const COOKIE_MSS: [u16; 4] = [536, 1220, 1440, 1460];
const COOKIE_MSS6: [u16; 4] = [1220, 1420, 1440, 8940];
/// Low bits of a timestamp that hold what a cookie cannot.
const TS_BITS: u32 = 6;

/// What a SYN said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    irs: Seq,
    window: u16,
    mss: u16,
    wscale: Option<u8>,
    sack_ok: bool,
    ts: Option<u32>,
    /// It asks for ECN, and gets it.
    ecn: bool,
}

/// A handshake.
pub(crate) struct Request {
    pub iss: Seq,
    offer: Offer,
    link: u32,
    ts_offset: u32,
    state: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    key: Option<Key>,
    retries: u32,
    ts_recent: u32,
    /// The answer has come, but data is waited for (TCP_DEFER_ACCEPT).
    deferred: bool,
    since: Nanos,
    last_answer: Nanos,
}

impl Offer {
    fn of(segment: &Segment<'_>, v4: bool, ecn: bool) -> Offer {
        let usual = if v4 { 536 } else { 1220 };
        Offer {
            irs: segment.seq,
            window: segment.window,
            mss: segment.mss.unwrap_or(usual),
            wscale: segment.wscale,
            sack_ok: segment.sack_ok,
            ts: segment.ts.map(|(value, _)| value),
            ecn: ecn && super::ecn::asked(segment),
        }
    }
}

impl Stack {
    /// A SYN for nothing that exists. `beyond`: the least sequence number of ours (after TIME_WAIT).
    pub(super) fn on_syn(
        &self,
        meta: &Meta<'_>,
        tuple: Tuple,
        segment: &Segment<'_>,
        beyond: Option<Seq>,
    ) -> Option<()> {
        let listener = self.listener(meta, &tuple);
        let Some(listener) = listener else {
            self.refuse(meta, &tuple, segment);
            return None;
        };
        listener.admit(&meta.raw(self.now()))?;
        if !listener.room() {
            return None;
        }
        let offer = Offer::of(segment, tuple.0.is_ipv4(), self.sysctls.tcp_ecn.on());
        let now = self.now();
        let mut counts = self.tcp.requests.lock();
        let total: u32 = if counts.len() > 1 { counts.values().sum() } else { 0 };
        let mine = counts.get(&tuple.0).copied().unwrap_or(0);
        let most = listener.backlog().max(8).min(self.sysctls.tcp_max_syn_backlog.u32().max(8));
        if mine >= most || total >= MAX_REQUESTS {
            drop(counts);
            if !self.sysctls.tcp_syncookies.on() {
                return None;
            }
            self.tcp.cookies.store(now.max(1), Ordering::Relaxed);
            self.send_cookie(meta, &tuple, &offer, &*listener);
            return Some(());
        }
        *counts.entry(tuple.0).or_default() += 1;
        drop(counts);
        let iss = match beyond {
            Some(least) => least,
            None => self.initial_seq(&tuple),
        };
        let request = Request {
            iss,
            offer,
            link: meta.port.index,
            ts_offset: self.ts_offset(&tuple),
            state: Mutex::new(Progress {
                ts_recent: offer.ts.unwrap_or(0),
                since: now,
                ..Progress::default()
            }),
        };
        let request = Arc::new(request);
        // TIME_WAIT gives way; anything else has come in between.
        let entry = Entry::Request(request.clone());
        if !self.tcp.insert(tuple, entry, |old| matches!(old, Entry::TimeWait(_))) {
            self.uncount(&tuple);
            return None;
        }
        self.send_syn_ack(&tuple, &request, &*listener);
        self.arm_request(&tuple, &request, &mut request.state.lock());
        Some(())
    }

    fn listener(&self, meta: &Meta<'_>, tuple: &Tuple) -> Option<Arc<dyn TcpListener>> {
        self.sockets()?.tcp_listener(meta.port.index, tuple.0, tuple.1)
    }

    fn uncount(&self, tuple: &Tuple) {
        let mut counts = self.tcp.requests.lock();
        if let Some(count) = counts.get_mut(&tuple.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&tuple.0);
            }
        }
    }

    fn arm_request(&self, tuple: &Tuple, request: &Request, state: &mut Progress) {
        let _ = request;
        let wait = SECOND.saturating_mul(1 << state.retries.min(6));
        let at = self.now().saturating_add(wait);
        state.key = Some(self.timers.arm(&*self.env, at, Due::Request(*tuple)));
    }

    /// A handshake's timer: the answer goes once more, or it is over.
    pub(crate) fn request_due(&self, tuple: &Tuple, key: Key, now: Nanos) {
        let Some(Entry::Request(request)) = self.tcp.find(tuple) else { return };
        let mut state = request.state.lock();
        if state.key != Some(key) {
            return;
        }
        state.key = None;
        let listener = self
            .port(request.link)
            .and_then(|port| self.sockets()?.tcp_listener(port.index, tuple.0, tuple.1));
        let mut most = self.sysctls.tcp_synack_retries.u32();
        let defer = listener.as_ref().map_or(0, |listener| listener.options().defer_accept);
        let held = state.deferred && now.saturating_sub(state.since) < Nanos::from(defer) * SECOND;
        if held {
            most = most.max(state.retries + 1);
        }
        match listener.filter(|_| state.retries < most) {
            Some(listener) => {
                state.retries += 1;
                self.arm_request(tuple, &request, &mut state);
                drop(state);
                if !held {
                    self.send_syn_ack(tuple, &request, &*listener);
                }
            }
            None => {
                drop(state);
                self.drop_request(tuple, &request);
            }
        }
    }

    /// Whether it was there.
    fn drop_request(&self, tuple: &Tuple, request: &Arc<Request>) -> bool {
        let same = |entry: &Entry| matches!(entry, Entry::Request(r) if Arc::ptr_eq(r, request));
        let gone = self.tcp.remove(tuple, same).is_some();
        if gone {
            self.uncount(tuple);
        }
        if let Some(key) = request.state.lock().key.take() {
            self.timers.cancel(key);
        }
        gone
    }

    fn syn_ack(
        &self,
        tuple: &Tuple,
        offer: &Offer,
        listener: &dyn TcpListener,
        iss: Seq,
        clock: u32,
    ) -> Option<()> {
        let opts = listener.options();
        let sysctls = &self.sysctls;
        let route = self.config.route(tuple.1.ip(), Some(tuple.0.ip()), opts.device, opts.mark).ok()?;
        let mtu = self.path_mtu(&route, chitin_abi::inet::IP_PMTUDISC_WANT);
        // As the connection will have it (`Tcb::new`, `Tcb::negotiate`).
        let limit = super::first_window(sysctls, &opts);
        let most = if opts.rcvbuf == 0 { sysctls.tcp_rmem_max.size() } else { limit };
        let scale = offer.wscale.filter(|_| sysctls.tcp_window_scaling.on()).map(|_| scale_for(most));
        let ts = offer.ts.filter(|_| sysctls.tcp_timestamps.on());
        let header = Header {
            seq: iss,
            ack: offer.irs.plus(1),
            flags: SYN | ACK | if offer.ecn { ECE } else { 0 },
            window: len16(limit.min(65_535)).get(),
            mss: Some(own_mss(mtu, tuple, opts.max_seg)),
            wscale: scale,
            sack_ok: offer.sack_ok && sysctls.tcp_sack.on(),
            ts: ts.map(|value| (clock, value)),
            tos: opts.tos & !super::ecn::MASK,
            ttl: opts.ttl,
            df: true,
            ..Header::default()
        };
        self.send_alone(tuple, &header, opts.device, opts.mark);
        Some(())
    }

    fn send_syn_ack(&self, tuple: &Tuple, request: &Request, listener: &dyn TcpListener) {
        let clock = millis(self.now()).wrapping_add(request.ts_offset);
        self.syn_ack(tuple, &request.offer, listener, request.iss, clock);
    }

    /// A segment for a handshake.
    pub(super) fn on_request(
        &self,
        batch: &mut Batch,
        meta: &Meta<'_>,
        tuple: &Tuple,
        request: &Arc<Request>,
        segment: &Segment<'_>,
    ) -> Option<()> {
        let expected = request.offer.irs.plus(1);
        let kept = match self.listener(meta, tuple) {
            Some(listener) => listener.admit(&meta.raw(batch.now))?,
            None => usize::MAX,
        };
        let segment = &segment.kept(kept, meta);
        if let (Some(_), Some((value, _))) = (request.offer.ts, segment.ts) {
            let recent = request.state.lock().ts_recent;
            if value.wrapping_sub(recent).cast_signed() < 0 && !segment.has(RST) {
                return None;
            }
        }
        if segment.has(SYN) && segment.seq == request.offer.irs && !segment.has(ACK | RST) {
            // Our answer was lost.
            let listener = self.listener(meta, tuple)?;
            self.send_syn_ack(tuple, request, &*listener);
            return Some(());
        }
        let window = super::first_window(&self.sysctls, &Default::default()).min(65_535);
        if segment.seq.lt(expected) || expected.plus(window).lt(segment.seq) {
            // A peer that has begun anew answers this with a reset, and may call again.
            let now = self.now();
            let mut state = request.state.lock();
            if !segment.has(RST) && now.saturating_sub(state.last_answer) >= SECOND / 2 {
                state.last_answer = now;
                drop(state);
                let clock = millis(now).wrapping_add(request.ts_offset);
                let ts = request.offer.ts.map(|value| (clock, value));
                let (seq, ack) = (request.iss.plus(1), expected);
                let header = Header { seq, ack, flags: ACK, ts, df: true, ..Header::default() };
                self.send_alone(tuple, &header, 0, 0);
            }
            return None;
        }
        if segment.has(RST) {
            if segment.seq == expected {
                self.drop_request(tuple, request);
            }
            return Some(());
        }
        if segment.has(SYN) || !segment.has(ACK) {
            return None;
        }
        if segment.ack != request.iss.plus(1) {
            self.refuse(meta, tuple, segment);
            return None;
        }
        let Some(listener) = self.listener(meta, tuple) else {
            self.drop_request(tuple, request);
            self.refuse(meta, tuple, segment);
            return None;
        };
        let opts = listener.options();
        {
            let mut state = request.state.lock();
            let waits = Nanos::from(opts.defer_accept) * SECOND;
            let early = self.now().saturating_sub(state.since) < waits;
            if opts.defer_accept > 0 && early && segment.len() == 0 {
                state.deferred = true;
                return Some(());
            }
        }
        if !listener.room() {
            if self.sysctls.tcp_abort_on_overflow.on() {
                self.drop_request(tuple, request);
                self.refuse(meta, tuple, segment);
            }
            return None;
        }
        // One of those who bring the answer makes the connection.
        if !self.drop_request(tuple, request) {
            return None;
        }
        let (iss, offset) = (request.iss, request.ts_offset);
        self.accept(batch, meta, *tuple, &*listener, &request.offer, iss, offset, segment)
    }

    /// Makes the connection that a handshake was for.
    #[expect(clippy::too_many_arguments, reason = "all of a handshake")]
    fn accept(
        &self,
        batch: &mut Batch,
        meta: &Meta<'_>,
        tuple: Tuple,
        listener: &dyn TcpListener,
        offer: &Offer,
        iss: Seq,
        ts_offset: u32,
        segment: &Segment<'_>,
    ) -> Option<()> {
        let cx = Cx { stack: self, tuple: &tuple, now: batch.now };
        let mut tcb = Tcb::new(self, listener.options(), iss, ts_offset);
        let syn = Segment {
            seq: offer.irs,
            flags: SYN | if offer.ecn { ECE | CWR } else { 0 },
            ecn: 0,
            window: offer.window,
            mss: Some(offer.mss),
            wscale: offer.wscale,
            sack_ok: offer.sack_ok,
            ts: offer.ts.map(|value| (value, 0)),
            data: &[],
            ..*segment
        };
        tcb.negotiate(&cx, &syn);
        tcb.una = iss.plus(1);
        tcb.nxt = iss.plus(1);
        tcb.state = super::tcb::State::SynRecv;
        if let Some((_, echo)) = segment.ts.filter(|(_, echo)| tcb.ts_ok && *echo != 0) {
            let ago = tcb.clock(batch.now).wrapping_sub(echo);
            if ago < 1 << 16 {
                tcb.rtt.sample(Nanos::from(ago) * crate::env::MILLI, batch.now);
            }
        }
        tcb.established(&cx, segment);
        let conn = TcpConn::new(self, tuple, tcb);
        if !self.tcp.insert(tuple, Entry::Conn(conn.clone()), |_| false) {
            return None;
        }
        if !listener.established(conn.clone()) {
            conn.abort();
            return None;
        }
        let _ = meta;
        self.to_conn(batch, meta, &tuple, &conn, segment)
    }

    /// A segment goes to its connection; what follows waits until the batch is done.
    pub(super) fn to_conn(
        &self,
        batch: &mut Batch,
        meta: &Meta<'_>,
        tuple: &Tuple,
        conn: &Arc<TcpConn>,
        segment: &Segment<'_>,
    ) -> Option<()> {
        let cx = Cx { stack: self, tuple, now: batch.now };
        let verdict = conn.input(&cx, batch, segment);
        if verdict == Verdict::Reset {
            self.refuse(meta, tuple, segment);
        }
        Some(())
    }

    fn cookie_parts(&self, tuple: &Tuple, minute: u64) -> (u32, u32) {
        (low32(self.hash(&(tuple, 1_u8))), low32(self.hash(&(tuple, minute, 2_u8))))
    }

    fn send_cookie(&self, meta: &Meta<'_>, tuple: &Tuple, offer: &Offer, listener: &dyn TcpListener) {
        let now = self.now();
        let minute = now / MINUTE;
        let table = if meta.src.is_ipv4() { COOKIE_MSS } else { COOKIE_MSS6 };
        let index = table.iter().rposition(|mss| *mss <= offer.mss).unwrap_or(0);
        let (fixed, timed) = self.cookie_parts(tuple, minute);
        let low = timed.wrapping_add(low32(index as u64)) & 0x00ff_ffff;
        let iss = fixed.wrapping_add(offer.irs.0).wrapping_add(low32(minute) << 24).wrapping_add(low);
        // The options are remembered by the peer, in the timestamp it echoes.
        let clock = millis(now).wrapping_add(self.ts_offset(tuple));
        let flags = u32::from(offer.sack_ok) << 4 | u32::from(offer.ecn) << 5;
        let kept = u32::from(offer.wscale.unwrap_or(15)) | flags;
        let clock = (clock >> TS_BITS << TS_BITS | kept).wrapping_sub(1 << TS_BITS);
        let mut offer = *offer;
        if offer.ts.is_none() || !self.sysctls.tcp_timestamps.on() {
            offer = Offer { wscale: None, sack_ok: false, ts: None, ecn: false, ..offer };
        }
        self.syn_ack(tuple, &offer, listener, Seq(iss), clock);
    }

    /// An ACK for nothing that exists: does it bring a cookie back?
    pub(super) fn on_stray(
        &self,
        batch: &mut Batch,
        meta: &Meta<'_>,
        tuple: Tuple,
        segment: &Segment<'_>,
    ) -> Option<()> {
        let sent = self.tcp.cookies.load(Ordering::Relaxed);
        let recent = sent != 0 && batch.now.saturating_sub(sent) < 2 * MINUTE;
        let offer = (recent && segment.has(ACK) && !segment.has(RST | SYN))
            .then(|| self.cookie(&tuple, segment, batch.now));
        let listener = offer.flatten().and_then(|offer| Some((offer, self.listener(meta, &tuple)?)));
        let Some((offer, listener)) = listener else {
            self.refuse(meta, &tuple, segment);
            return None;
        };
        listener.admit(&meta.raw(batch.now))?;
        if !listener.room() {
            return None;
        }
        let iss = segment.ack.minus(1);
        let offset = self.ts_offset(&tuple);
        self.accept(batch, meta, tuple, &*listener, &offer, iss, offset, segment)
    }

    fn cookie(&self, tuple: &Tuple, segment: &Segment<'_>, now: Nanos) -> Option<Offer> {
        let minute = now / MINUTE;
        let irs = segment.seq.minus(1);
        let (fixed, _) = self.cookie_parts(tuple, minute);
        let value = segment.ack.0.wrapping_sub(1).wrapping_sub(fixed).wrapping_sub(irs.0);
        // The low part may have carried into the count of minutes: both are tried.
        for age in 0..=2_u64 {
            let then = minute.checked_sub(age)?;
            let (_, timed) = self.cookie_parts(tuple, then);
            let low = value.wrapping_sub(low32(then) << 24);
            if low > 0x00ff_ffff {
                continue;
            }
            let index = low.wrapping_sub(timed) & 0x00ff_ffff;
            let table = if tuple.0.is_ipv4() { COOKIE_MSS } else { COOKIE_MSS6 };
            let Some(mss) = table.get(index as usize) else { continue };
            let kept = segment.ts.map(|(_, echo)| echo & ((1 << TS_BITS) - 1));
            let wscale = kept.map(|kept| kept & 15).filter(|scale| *scale <= 14);
            return Some(Offer {
                irs,
                window: segment.window,
                mss: *mss,
                wscale: wscale.and_then(|scale| u8::try_from(scale).ok()),
                sack_ok: kept.is_some_and(|kept| kept & 16 != 0),
                ecn: kept.is_some_and(|kept| kept & 32 != 0),
                ts: segment.ts.map(|(value, _)| value),
            });
        }
        None
    }
}
