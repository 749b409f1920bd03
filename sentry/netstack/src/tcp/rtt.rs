//! Round trip times and the retransmission timeout (RFC 6298 with Linux's bounds).

use crate::env::{MILLI, Nanos, SECOND};

pub(crate) const RTO_MIN: Nanos = 200 * MILLI;
pub(crate) const RTO_MAX: Nanos = 120 * SECOND;
pub(crate) const RTO_INIT: Nanos = SECOND;
/// How long the least round trip time holds.
const MIN_LIFE: Nanos = 300 * SECOND;

#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    /// 0 until there is a sample.
    pub srtt: Nanos,
    pub var: Nanos,
    pub rto: Nanos,
    pub min: Nanos,
    min_since: Nanos,
    pub latest: Nanos,
}

impl Default for Rtt {
    fn default() -> Rtt {
        Rtt { srtt: 0, var: 0, rto: RTO_INIT, min: Nanos::MAX, min_since: 0, latest: 0 }
    }
}

impl Rtt {
    pub fn sample(&mut self, rtt: Nanos, now: Nanos) {
        let rtt = rtt.max(1000);
        self.latest = rtt;
        if rtt <= self.min || now.saturating_sub(self.min_since) > MIN_LIFE {
            self.min = rtt;
            self.min_since = now;
        }
        if self.srtt == 0 {
            self.srtt = rtt;
            self.var = rtt / 2;
        } else {
            let off = self.srtt.abs_diff(rtt);
            self.var = (self.var * 3 + off) / 4;
            self.srtt = (self.srtt * 7 + rtt) / 8;
        }
        self.rto = (self.srtt + (self.var * 4).max(RTO_MIN)).min(RTO_MAX);
    }

    /// After so many timeouts in a row.
    pub fn backed_off(&self, times: u32) -> Nanos {
        self.rto.saturating_mul(1 << times.min(16)).min(RTO_MAX)
    }
}
