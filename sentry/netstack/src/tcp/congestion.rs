//! Congestion windows: CUBIC (RFC 9438) and Reno, in bytes, with integers.

use super::options::Congestion;
use crate::env::{MILLI, Nanos};

/// RFC 6928.
const INITIAL: u32 = 10;
/// A window never grows beyond this.
const MAX: u32 = 1 << 30;

#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub algorithm: Congestion,
    pub mss: u32,
    pub cwnd: u32,
    pub ssthresh: u32,
    /// Reno's and CUBIC's counting of bytes.
    acked: u32,
    /// CUBIC: the window before the last reduction, and when this curve began.
    w_max: u32,
    epoch: Option<Nanos>,
    /// Milliseconds until the curve is back at `origin`.
    k: u64,
    origin: u32,
    /// What Reno would have.
    w_est: u32,
}

impl Window {
    pub fn new(algorithm: Congestion, mss: u32) -> Window {
        Window {
            algorithm,
            mss,
            cwnd: INITIAL * mss,
            ssthresh: u32::MAX,
            acked: 0,
            w_max: 0,
            epoch: None,
            k: 0,
            origin: 0,
            w_est: 0,
        }
    }
    pub fn slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }
    pub fn initial(&self) -> u32 {
        INITIAL * self.mss
    }

    /// Bytes have been acknowledged while the window was what limited.
    pub fn grow(&mut self, mut acked: u32, srtt: Nanos, now: Nanos) {
        if self.slow_start() {
            let room = self.ssthresh - self.cwnd;
            let now = acked.min(room);
            self.cwnd = self.cwnd.saturating_add(now).min(MAX);
            acked -= now;
            if acked == 0 {
                return;
            }
        }
        match self.algorithm {
            Congestion::Reno => self.grow_reno(acked),
            Congestion::Cubic => self.grow_cubic(acked, srtt, now),
            Congestion::Bbr => {}
        }
    }

    fn grow_reno(&mut self, acked: u32) {
        self.acked = self.acked.saturating_add(acked);
        if self.acked >= self.cwnd {
            self.acked -= self.cwnd;
            self.cwnd = self.cwnd.saturating_add(self.mss).min(MAX);
        }
    }

    fn grow_cubic(&mut self, acked: u32, srtt: Nanos, now: Nanos) {
        let mss = u64::from(self.mss.max(1));
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                self.w_est = self.cwnd;
                self.origin = self.w_max.max(self.cwnd);
                // K = cbrt((W_max - cwnd) / C), C = 0.4 segments per second cubed.
                let gap = u64::from(self.origin - self.cwnd) / mss;
                self.k = cbrt(gap.saturating_mul(2_500_000_000));
                self.epoch = Some(now);
                now
            }
        };
        let t = now.saturating_sub(epoch).saturating_add(srtt) / MILLI;
        let off = t.abs_diff(self.k).min(1_000_000);
        // 0.4 * off^3 in segments, off in milliseconds.
        let delta = (u128::from(off).pow(3) * 2 * u128::from(mss) / 5_000_000_000).min(u128::from(MAX));
        let delta = u32::try_from(delta).unwrap_or(MAX);
        let target =
            if t < self.k { self.origin.saturating_sub(delta) } else { self.origin.saturating_add(delta) };
        // Never less than Reno would have: alpha = 3 * (1 - beta) / (1 + beta) = 0.53.
        let add = u64::from(acked) * mss * 53 / 100 / u64::from(self.w_est.max(1));
        self.acked = self.acked.saturating_add(u32::try_from(add * 100).unwrap_or(u32::MAX));
        self.w_est = self.w_est.saturating_add(self.acked / 100).min(MAX);
        self.acked %= 100;
        let target = target.max(self.w_est).min(self.cwnd.saturating_add(self.cwnd / 2));
        if target > self.cwnd {
            let step = u64::from(acked) * u64::from(target - self.cwnd) / u64::from(self.cwnd.max(1));
            let step = u32::try_from(step).unwrap_or(u32::MAX).min(acked / 2);
            self.cwnd = self.cwnd.saturating_add(step.max(1)).min(MAX);
        }
    }

    /// What the window shall be after a loss; remembers where it was.
    pub fn reduced(&mut self) -> u32 {
        let floor = 2 * self.mss;
        match self.algorithm {
            Congestion::Reno => (self.cwnd / 2).max(floor),
            Congestion::Bbr => self.cwnd,
            Congestion::Cubic => {
                self.epoch = None;
                // Fast convergence: leave room for others.
                let cut = u64::from(self.cwnd) * (1024 + 717) / 2048;
                let cut = u32::try_from(cut).unwrap_or(self.cwnd);
                self.w_max = if self.cwnd < self.w_max { cut } else { self.cwnd };
                let reduced = u64::from(self.cwnd) * 717 / 1024;
                u32::try_from(reduced).unwrap_or(self.cwnd).max(floor)
            }
        }
    }

    /// Nothing has been sent for a while: what was known of the path is not worth as much (RFC 2861).
    pub fn idle(&mut self, time: Nanos, rto: Nanos) {
        self.epoch = None;
        self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        let mut left = time;
        while left > rto && self.cwnd > self.initial() {
            self.cwnd = (self.cwnd / 2).max(self.initial());
            left -= rto;
        }
    }

    /// Another segment size; the window stays what it is in bytes.
    pub fn set_mss(&mut self, mss: u32) {
        self.mss = mss;
        self.cwnd = self.cwnd.max(2 * mss);
    }
}

/// The integer cube root.
fn cbrt(n: u64) -> u64 {
    let mut low = 0_u64;
    let mut high = 2_642_245;
    while low < high {
        let mid = (low + high).div_ceil(2);
        if mid.pow(3) <= n { low = mid } else { high = mid - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SECOND;

    #[test]
    fn roots() {
        for n in [0_u64, 1, 7, 8, 26, 27, 1_000_000_000, u64::MAX] {
            let root = cbrt(n);
            assert!(root.pow(3) <= n && (root + 1).checked_pow(3).is_none_or(|more| more > n), "{n}");
        }
    }

    #[test]
    fn cubic_comes_back_to_where_it_was_and_goes_on() {
        let mut w = Window::new(Congestion::Cubic, 1000);
        w.cwnd = 1_000_000;
        w.ssthresh = w.reduced();
        w.cwnd = w.ssthresh;
        assert!((690_000..710_000).contains(&w.cwnd), "{}", w.cwnd);
        let rtt = 50 * MILLI;
        let mut now = SECOND;
        let mut back = None;
        for round in 0..400 {
            for _ in 0..10 {
                w.grow(w.cwnd / 10, rtt, now);
            }
            now += rtt;
            if back.is_none() && w.cwnd >= 990_000 {
                back = Some(round);
            }
        }
        // K = cbrt(300 / 0.4) = 9.1 s: flat there, steep later.
        let back = back.expect("it comes back");
        assert!((80..200).contains(&back), "{back}");
        assert!(w.cwnd > 1_300_000, "{}", w.cwnd);
    }

    #[test]
    fn slow_start_doubles_and_reno_adds() {
        let mut w = Window::new(Congestion::Reno, 1000);
        w.grow(10_000, MILLI, 0);
        assert_eq!(w.cwnd, 20_000);
        w.ssthresh = 20_000;
        for _ in 0..20 {
            w.grow(1000, MILLI, 0);
        }
        assert_eq!(w.cwnd, 21_000);
        assert_eq!(w.reduced(), 10_500);
    }
}
