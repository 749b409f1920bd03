//! Token buckets: so many per second, and a burst of so many at once.
//!
//! Whoever takes may go into debt, once, so that what is larger than the burst gets through as well; until the debt is
//! paid nobody gets anything.

use parking_lot::Mutex;

const SECOND: u128 = 1_000_000_000;

#[derive(Debug)]
pub struct Bucket {
    /// Per second, at least 1.
    rate: u64,
    burst: i128,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// In billionths, so that no time is lost to rounding.
    tokens: i128,
    at: u64,
}

impl Bucket {
    pub fn new(rate: u64, burst: u64, now: u64) -> Bucket {
        let burst = i128::from(burst.max(1)).saturating_mul(1_000_000_000);
        Bucket { rate: rate.max(1), burst, state: Mutex::new(State { tokens: burst, at: now }) }
    }

    fn fill(&self, state: &mut State, now: u64) {
        let passed = u128::from(now.saturating_sub(state.at));
        let more = passed.saturating_mul(self.rate.into()).min(u128::from(u64::MAX) * SECOND);
        state.tokens = state.tokens.saturating_add(i128::try_from(more).unwrap_or(i128::MAX)).min(self.burst);
        state.at = state.at.max(now);
    }

    /// Takes `count`, if anything is there.
    pub fn take(&self, count: u64, now: u64) -> bool {
        let mut state = self.state.lock();
        self.fill(&mut state, now);
        let there = state.tokens > 0;
        if there {
            state.tokens = state.tokens.saturating_sub(i128::from(count).saturating_mul(1_000_000_000));
        }
        there
    }

    /// How long nobody gets anything, in nanoseconds.
    pub fn wait(&self, now: u64) -> u64 {
        let mut state = self.state.lock();
        self.fill(&mut state, now);
        let debt = 1i128.saturating_sub(state.tokens);
        if debt <= 0 {
            return 0;
        }
        let rate = i128::from(self.rate);
        u64::try_from(debt.saturating_add(rate).saturating_sub(1) / rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_per_second() {
        let second = 1_000_000_000;
        let bucket = Bucket::new(1000, 500, 7);
        assert!(bucket.take(400, 7) && bucket.take(400, 7) && !bucket.take(1, 7));
        // 300 in debt.
        assert_eq!(bucket.wait(7), 300_000_001);
        assert!(!bucket.take(1, 7 + 300_000_000) && bucket.take(1, 7 + 300_000_001 + 1_000_000));
        // No more than the burst is saved up, and time does not go backwards.
        assert!(bucket.take(500, 100 * second) && !bucket.take(1, 100 * second) && !bucket.take(1, 3));
        let mut sent = 0;
        for ms in 0..10_000u64 {
            sent += if bucket.take(64, 200 * second + ms * 1_000_000) { 64 } else { 0 };
        }
        assert!((10_000..=10_700).contains(&sent), "{sent}");
        assert!(Bucket::new(u64::MAX, u64::MAX, 0).take(u64::MAX, u64::MAX));
    }
}
