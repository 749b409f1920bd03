//! What a stack needs from outside: time, randomness, and somebody who keeps its one timer.

use std::sync::Arc;

/// Monotonic nanoseconds.
pub type Nanos = u64;

pub const MICRO: Nanos = 1_000;
pub const MILLI: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000_000_000;

/// An entry of [`Stack::call_at`](crate::Stack::call_at).
pub type AlarmKey = (Nanos, u64);

/// Who wants to be called at a time.
pub trait Alarm: Send + Sync {
    /// May come late, or although it was called off. Nothing of the stack is locked.
    fn ring(self: Arc<Self>, now: Nanos);
}

/// The world of a stack. All calls are short and must not call back into the stack.
pub trait Env: Send + Sync {
    fn now(&self) -> Nanos;
    /// Bits that nobody can foresee: sequence numbers, identifiers, keys of cookies.
    fn random(&self) -> u64;
    /// The earliest deadline is now `at`, earlier than what was known: [`Stack::on_timer`](crate::Stack::on_timer)
    /// wants to be called then. May be called with locks of the stack held.
    fn arm(&self, at: Nanos);
}
