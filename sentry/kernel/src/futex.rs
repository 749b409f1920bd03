//! Futexes (futex(2)): words in guest memory that threads wait on.
//!
//! - [`key`]: which word is meant, over processes that share memory;
//! - [`table`]: waiters in hashed buckets, waking and requeueing;
//! - [`call`]: the system calls; [`pi`]: locks with an owner; [`exit`]: what the end of a thread does.
//!
//! The rule that loses no wake-up is Linux's: a waiter compares the word and queues itself under the lock of the word's
//! bucket; whoever wakes has changed the word before, and takes the same lock.
//!
//! Locks: buckets by ascending index (two at most) → a waiter's `slot`. No waker is called with either held.

mod call;
mod exit;
mod key;
mod pi;
mod table;
#[cfg(test)]
mod tests;

pub use call::{futex, futex_waitv};
pub use exit::{exit_robust_list, mm_release};
pub use key::Key;
pub use table::{FutexTable, Queued};
