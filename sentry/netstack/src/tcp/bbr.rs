//! BBR (version 1, as Linux's tcp_bbr.c): what may be under way, and how fast it is sent, by the path's bandwidth and its least
//! round trip time; losses do not matter to it as they do to CUBIC. Rates are bytes per second, gains are of 256.
//!
//! Not here: Linux's guess at policers (`lt_bw`).

use super::rate::Rate;
use crate::env::{MILLI, Nanos, SECOND};
use crate::wire::len32;

const UNIT: u64 = 256;
/// 2 / ln 2: doubles the rate each round.
const HIGH: u64 = UNIT * 2885 / 1000 + 1;
const DRAIN: u64 = UNIT * 1000 / 2885;
const CYCLE: [u64; 8] = [UNIT * 5 / 4, UNIT * 3 / 4, UNIT, UNIT, UNIT, UNIT, UNIT, UNIT];
/// Rounds a bandwidth counts.
const ROUNDS: usize = 10;
const MIN_RTT_LIFE: Nanos = 10 * SECOND;
const PROBE_RTT: Nanos = 200 * MILLI;
/// Segments under way at least.
const FLOOR: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    ProbeBw,
    ProbeRtt,
}

/// What a connection tells with an acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    pub now: Nanos,
    pub rate: Rate,
    pub rtt: Option<Nanos>,
    pub srtt: Nanos,
    /// Bytes delivered, and lost, by this one.
    pub acked: usize,
    pub lost: usize,
    /// Bytes under way, before and after.
    pub before: usize,
    pub in_flight: usize,
    /// Delivered ever.
    pub total: u64,
    pub mending: bool,
    pub pace_at: Nanos,
    pub mss: u32,
    pub random: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Bbr {
    mode: Mode,
    /// The greatest bandwidth of each of the last rounds, up to that of the last that had one.
    bandwidths: [u64; ROUNDS],
    round: u64,
    last: u64,
    round_start: bool,
    next_round: u64,
    min_rtt: Nanos,
    min_rtt_at: Nanos,
    probe_until: Option<Nanos>,
    probe_round: bool,
    cycle: usize,
    cycle_at: Nanos,
    full_bw: u64,
    full_count: u32,
    full: bool,
    idle_restart: bool,
    prior_cwnd: u32,
    conserve: bool,
    was_mending: bool,
    pacing_gain: u64,
    cwnd_gain: u64,
    seen_rtt: bool,
    /// What acknowledgements bring at once above the bandwidth, in two windows of five rounds.
    extra: [u64; 2],
    extra_at: usize,
    extra_rounds: u32,
    epoch: Nanos,
    epoch_acked: u64,
    /// Bytes per second.
    pub pacing: u64,
    /// The application has too little to send until so much is delivered: set while probing the round trip time.
    pub lacking: bool,
}

impl Bbr {
    pub fn new(cwnd: u32, srtt: Nanos, now: Nanos) -> Bbr {
        let mut bbr = Bbr {
            mode: Mode::Startup,
            bandwidths: [0; ROUNDS],
            round: 0,
            last: 0,
            round_start: false,
            next_round: 0,
            min_rtt: Nanos::MAX,
            min_rtt_at: now,
            probe_until: None,
            probe_round: false,
            cycle: 0,
            cycle_at: 0,
            full_bw: 0,
            full_count: 0,
            full: false,
            idle_restart: false,
            prior_cwnd: 0,
            conserve: false,
            was_mending: false,
            pacing_gain: HIGH,
            cwnd_gain: HIGH,
            seen_rtt: false,
            extra: [0; 2],
            extra_at: 0,
            extra_rounds: 0,
            epoch: now,
            epoch_acked: 0,
            pacing: 0,
            lacking: false,
        };
        bbr.first_pacing(cwnd, srtt);
        bbr
    }

    /// Before the bandwidth is known: by the window.
    fn first_pacing(&mut self, cwnd: u32, srtt: Nanos) {
        self.seen_rtt = srtt != 0;
        let rtt = if srtt == 0 { MILLI } else { srtt.max(1000) };
        self.pacing = scale(rate(u64::from(cwnd), rtt), HIGH);
    }

    fn bandwidth(&self) -> u64 {
        self.bandwidths.iter().copied().max().unwrap_or(0)
    }

    /// Takes in a bandwidth. What is older than the window goes only when there is something newer.
    fn learn(&mut self, bw: u64) {
        let slot = |round: u64| usize::try_from(round % ROUNDS as u64).unwrap_or(0);
        for round in self.last + 1..=self.round.min(self.last + ROUNDS as u64) {
            if let Some(old) = self.bandwidths.get_mut(slot(round)) {
                *old = 0;
            }
        }
        self.last = self.round;
        if let Some(best) = self.bandwidths.get_mut(slot(self.round)) {
            *best = bw.max(*best);
        }
    }

    /// Bytes in a piece: a millisecond's worth.
    fn piece(&self, mss: u64) -> u64 {
        let least = if self.pacing < 150_000 { 1 } else { 2 };
        ((self.pacing >> 10) / mss).clamp(least, 44) * mss
    }

    /// Bytes under way at a gain, with room for what is cut, collected and delayed.
    fn inflight(&self, gain: u64, mss: u64) -> u64 {
        if self.min_rtt == Nanos::MAX {
            return 10 * mss;
        }
        let product = u128::from(self.bandwidth()) * u128::from(self.min_rtt) / u128::from(SECOND);
        let bdp = scale(u64::try_from(product).unwrap_or(u64::MAX / 1024), gain);
        let even = (bdp + 3 * self.piece(mss)).div_ceil(2 * mss).saturating_mul(2 * mss);
        even + if self.mode == Mode::ProbeBw && self.cycle == 0 { 2 * mss } else { 0 }
    }

    fn save(&mut self, cwnd: u32) {
        let first = !self.was_mending && self.mode != Mode::ProbeRtt;
        self.prior_cwnd = if first { cwnd } else { self.prior_cwnd.max(cwnd) };
    }

    /// Recovery begins.
    pub fn on_recovery(&mut self, cwnd: u32) {
        self.save(cwnd);
    }

    /// A timeout.
    pub fn on_timeout(&mut self, cwnd: u32) {
        self.save(cwnd);
        self.was_mending = true;
        self.full_bw = 0;
        self.round_start = true;
    }

    /// Nothing was lost after all.
    pub fn on_undo(&mut self) {
        (self.full_bw, self.full_count) = (0, 0);
    }

    /// Sending begins again after a pause that the application made.
    pub fn on_restart(&mut self, cwnd: &mut u32, now: Nanos) {
        self.idle_restart = true;
        (self.epoch, self.epoch_acked) = (now, 0);
        match self.mode {
            Mode::ProbeBw => self.pace(UNIT),
            Mode::ProbeRtt => self.end_probe_rtt(cwnd, now, 0),
            _ => {}
        }
    }

    fn pace(&mut self, gain: u64) {
        // A hundredth less, so that queues drain.
        let want = scale(self.bandwidth(), gain) / 100 * 99;
        if self.full || want > self.pacing {
            self.pacing = want.max(1);
        }
    }

    pub fn on_ack(&mut self, cwnd: &mut u32, s: &Acked) {
        self.update_bandwidth(s);
        self.update_extra(*cwnd, s);
        self.update_cycle(s);
        self.check_full(s);
        self.check_drain(s);
        self.update_min_rtt(cwnd, s);
        (self.pacing_gain, self.cwnd_gain) = match self.mode {
            Mode::Startup => (HIGH, HIGH),
            Mode::Drain => (DRAIN, HIGH),
            Mode::ProbeBw => (CYCLE.get(self.cycle).copied().unwrap_or(UNIT), 2 * UNIT),
            Mode::ProbeRtt => (UNIT, UNIT),
        };
        if !self.seen_rtt && s.srtt != 0 {
            self.first_pacing(*cwnd, s.srtt);
        }
        self.pace(self.pacing_gain);
        self.set_cwnd(cwnd, s);
    }

    fn update_bandwidth(&mut self, s: &Acked) {
        self.round_start = false;
        if s.rate.interval == 0 {
            return;
        }
        if s.rate.prior >= self.next_round {
            self.next_round = s.total;
            self.round += 1;
            self.round_start = true;
            self.conserve = false;
        }
        let bw = rate(s.rate.delivered, s.rate.interval);
        if !s.rate.limited || bw >= self.bandwidth() {
            self.learn(bw);
        }
    }

    fn update_extra(&mut self, cwnd: u32, s: &Acked) {
        if s.acked == 0 || s.rate.interval == 0 {
            return;
        }
        if self.round_start {
            self.extra_rounds += 1;
            if self.extra_rounds >= 5 {
                self.extra_rounds = 0;
                self.extra_at ^= 1;
                if let Some(extra) = self.extra.get_mut(self.extra_at) {
                    *extra = 0;
                }
            }
        }
        let time = s.now.saturating_sub(self.epoch);
        let expect = u128::from(self.bandwidth()) * u128::from(time) / u128::from(SECOND);
        let mut expect = u64::try_from(expect).unwrap_or(u64::MAX);
        if self.epoch_acked <= expect || self.epoch_acked >= 1 << 30 {
            (self.epoch, self.epoch_acked, expect) = (s.now, 0, 0);
        }
        self.epoch_acked += s.acked as u64;
        let more = (self.epoch_acked - expect).min(u64::from(cwnd));
        if let Some(extra) = self.extra.get_mut(self.extra_at) {
            *extra = more.max(*extra);
        }
    }

    /// What will be under way when the next piece goes.
    fn at_next(&self, in_flight: usize, s: &Acked) -> u64 {
        let wait = s.pace_at.saturating_sub(s.now);
        let gone = u128::from(self.bandwidth()) * u128::from(wait) / u128::from(SECOND);
        let piece = if self.pacing_gain > UNIT { self.piece(u64::from(s.mss)) } else { 0 };
        (in_flight as u64 + piece).saturating_sub(u64::try_from(gone).unwrap_or(u64::MAX))
    }

    fn update_cycle(&mut self, s: &Acked) {
        if self.mode != Mode::ProbeBw {
            return;
        }
        let whole = s.now.saturating_sub(self.cycle_at) > self.min_rtt;
        let mss = u64::from(s.mss);
        let next = if self.pacing_gain == UNIT {
            whole
        } else if self.pacing_gain > UNIT {
            whole && (s.lost > 0 || self.at_next(s.before, s) >= self.inflight(self.pacing_gain, mss))
        } else {
            whole || self.at_next(s.before, s) <= self.inflight(UNIT, mss)
        };
        if next {
            self.cycle = (self.cycle + 1) % CYCLE.len();
            self.cycle_at = s.now;
        }
    }

    /// Three rounds without a quarter more: the pipe is full.
    fn check_full(&mut self, s: &Acked) {
        if self.full || !self.round_start || s.rate.limited {
            return;
        }
        let bw = self.bandwidth();
        if bw >= self.full_bw.saturating_mul(5) / 4 && bw > 0 {
            (self.full_bw, self.full_count) = (bw, 0);
            return;
        }
        self.full_count += 1;
        self.full = self.full_count >= 3;
    }

    fn check_drain(&mut self, s: &Acked) {
        if self.mode == Mode::Startup && self.full {
            self.mode = Mode::Drain;
        }
        let drained = || self.at_next(s.in_flight, s) <= self.inflight(UNIT, u64::from(s.mss));
        if self.mode == Mode::Drain && drained() {
            self.probe_bandwidth(s.now, s.random);
        }
    }

    fn probe_bandwidth(&mut self, now: Nanos, random: u64) {
        self.mode = Mode::ProbeBw;
        // Anywhere but where less is sent.
        self.cycle = (8 - usize::try_from(random % 7).unwrap_or(0)) % CYCLE.len();
        self.cycle_at = now;
    }

    fn update_min_rtt(&mut self, cwnd: &mut u32, s: &Acked) {
        let expired = s.now > self.min_rtt_at.saturating_add(MIN_RTT_LIFE);
        if let Some(rtt) = s.rtt.filter(|rtt| *rtt <= self.min_rtt || expired) {
            self.min_rtt = rtt;
            self.min_rtt_at = s.now;
        }
        if expired && !self.idle_restart && self.mode != Mode::ProbeRtt {
            self.save(*cwnd);
            self.mode = Mode::ProbeRtt;
            self.probe_until = None;
        }
        if self.mode == Mode::ProbeRtt {
            self.lacking = true;
            match self.probe_until {
                None if s.in_flight as u64 <= u64::from(FLOOR) * u64::from(s.mss) => {
                    self.probe_until = Some(s.now.saturating_add(PROBE_RTT));
                    self.probe_round = false;
                    self.next_round = s.total;
                }
                None => {}
                Some(_) => {
                    self.probe_round |= self.round_start;
                    if self.probe_round {
                        self.end_probe_rtt(cwnd, s.now, s.random);
                    }
                }
            }
        }
        if s.rate.delivered > 0 {
            self.idle_restart = false;
        }
    }

    fn end_probe_rtt(&mut self, cwnd: &mut u32, now: Nanos, random: u64) {
        if self.probe_until.is_none_or(|until| now <= until) {
            return;
        }
        self.min_rtt_at = now;
        *cwnd = self.prior_cwnd.max(*cwnd);
        if self.full {
            self.probe_bandwidth(now, random);
        } else {
            self.mode = Mode::Startup;
        }
    }

    /// During recovery: first only as much as is delivered. Whether that decides.
    fn mend(&mut self, cwnd: &mut u32, s: &Acked) -> bool {
        let least = len32(s.in_flight.saturating_add(s.acked));
        if s.lost > 0 {
            *cwnd = cwnd.saturating_sub(len32(s.lost)).max(s.mss);
        }
        if s.mending && !self.was_mending {
            self.conserve = true;
            self.next_round = s.total;
            *cwnd = least;
        } else if !s.mending && self.was_mending {
            *cwnd = self.prior_cwnd.max(*cwnd);
            self.conserve = false;
        }
        self.was_mending = s.mending;
        if self.conserve {
            *cwnd = least.max(*cwnd);
        }
        self.conserve
    }

    fn set_cwnd(&mut self, cwnd: &mut u32, s: &Acked) {
        let mss = u64::from(s.mss.max(1));
        if s.acked > 0 && !self.mend(cwnd, s) {
            let extra = self.extra.iter().copied().max().unwrap_or(0);
            let extra = if self.full { extra.min(self.bandwidth() / 10) } else { 0 };
            let target = self.inflight(self.cwnd_gain, mss).saturating_add(extra);
            let grown = u64::from(*cwnd).saturating_add(s.acked as u64);
            let new = if self.full {
                grown.min(target)
            } else if u64::from(*cwnd) < target || s.total < 10 * mss {
                grown
            } else {
                u64::from(*cwnd)
            };
            *cwnd = u32::try_from(new).unwrap_or(u32::MAX).clamp(FLOOR.saturating_mul(s.mss), 1 << 30);
        }
        if self.mode == Mode::ProbeRtt {
            *cwnd = (*cwnd).min(FLOOR.saturating_mul(s.mss));
        }
    }

    /// The bandwidth that is known, for TCP_INFO.
    pub fn known(&self) -> u64 {
        self.bandwidth()
    }
}

fn rate(bytes: u64, time: Nanos) -> u64 {
    let rate = u128::from(bytes) * u128::from(SECOND) / u128::from(time.max(1));
    // Room for gains.
    u64::try_from(rate).unwrap_or(u64::MAX).min(1 << 48)
}

fn scale(value: u64, gain: u64) -> u64 {
    value.saturating_mul(gain) / UNIT
}
