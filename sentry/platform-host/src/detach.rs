//! The little asynchronous machinery the platform needs itself: operations that nobody awaits (a resume that takes
//! several steps).
//!
//! Invariant: no lock of this crate is held while a waker is called, since wakers run the sentry's code on the spot.

use chitin_platform::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Wake, Waker};

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
