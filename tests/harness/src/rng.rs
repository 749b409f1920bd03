//! Random tests, each of which can be repeated from its seed.

pub use chitin_fuzz::Rng;

/// The run's seed: `CHITIN_TEST_SEED`, or a fixed one.
pub fn seed() -> u64 {
    std::env::var("CHITIN_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_250_601)
}
