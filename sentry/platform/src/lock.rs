//! A lock that is held across awaits, for operations on an address space that take several steps of a guest's thread.
//!
//! Invariants: dropping a future that waits for it, or that holds its guard, leaves it usable. Wakers run with the
//! lock's own state unlocked, since they run the sentry's code on the spot.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// A lock for async code.
#[derive(Default)]
pub struct AsyncLock {
    state: Mutex<(bool, VecDeque<Waker>)>,
}

pub struct AsyncGuard(Arc<AsyncLock>);

impl AsyncLock {
    pub async fn lock(self: &Arc<Self>) -> AsyncGuard {
        poll_fn(|cx| {
            let mut s = self.state.lock();
            if s.0 {
                s.1.push_back(cx.waker().clone());
                return Poll::Pending;
            }
            s.0 = true;
            Poll::Ready(())
        })
        .await;
        AsyncGuard(self.clone())
    }

    /// Whether somebody has it just now.
    pub fn is_locked(&self) -> bool {
        self.state.lock().0
    }
}

impl Drop for AsyncGuard {
    fn drop(&mut self) {
        let mut s = self.0.state.lock();
        s.0 = false;
        // All of them: a waiter that was dropped must not swallow the wake-up.
        let waiters = std::mem::take(&mut s.1);
        drop(s);
        waiters.into_iter().for_each(Waker::wake);
    }
}
