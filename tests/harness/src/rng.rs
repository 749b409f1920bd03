//! A small seeded generator (xorshift64*), so that every random test can be repeated from its seed.

#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next_u64() >> 16) % n
    }
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).expect("below the length")]
    }
}

/// The run's seed: `CHITIN_TEST_SEED`, or a fixed one.
pub fn seed() -> u64 {
    std::env::var("CHITIN_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_250_601)
}
