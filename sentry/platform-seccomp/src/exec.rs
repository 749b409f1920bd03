//! The little asynchronous machinery the platform needs itself: a lock held across awaits, and operations that nobody
//! awaits (a resume that takes several steps).
//!
//! Invariant: no lock of this crate is held while a waker is called, since wakers run the sentry's code on the spot.

use chitin_platform::BoxFuture;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A fair lock for async code.
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

const IDLE: u8 = 0;
const POLLING: u8 = 1;
const AGAIN: u8 = 2;

struct Detached {
    fut: Mutex<Option<BoxFuture<()>>>,
    state: AtomicU8,
}

impl Wake for Detached {
    fn wake(self: Arc<Self>) {
        if self.state.fetch_max(POLLING, Ordering::AcqRel) != IDLE {
            // Somebody polls: have them poll again. If they just finished, take over.
            let seen = self.state.compare_exchange(POLLING, AGAIN, Ordering::AcqRel, Ordering::Acquire);
            match seen {
                Ok(_) | Err(AGAIN) => return,
                Err(_) => return self.wake(),
            }
        }
        loop {
            let waker = Waker::from(self.clone());
            let mut slot = self.fut.lock();
            if let Some(f) = slot.as_mut() {
                if f.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *slot = None;
                }
            }
            drop(slot);
            match self.state.compare_exchange(POLLING, IDLE, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(_) => self.state.store(POLLING, Ordering::Release),
            }
        }
    }
}

/// Runs `fut` to its end on whatever threads wake it.
pub fn detach(fut: BoxFuture<()>) {
    Arc::new(Detached { fut: Mutex::new(Some(fut)), state: AtomicU8::new(IDLE) }).wake();
}
