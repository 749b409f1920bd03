//! The little asynchronous machinery the platform needs itself: operations that nobody awaits (a resume that takes
//! several steps).
//!
//! Invariant: no lock of this crate is held while a waker is called, since wakers run the sentry's code on the spot.

use chitin_platform::BoxFuture;
use parking_lot::Mutex;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

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

/// Runs `fut` to its end even if who waits for it ends first; what it makes then goes to `unwanted`.
pub async fn to_the_end<T: Send + 'static>(
    fut: impl Future<Output = T> + Send + 'static,
    unwanted: fn(T),
) -> T {
    let order =
        Order { slot: Arc::new(Mutex::new(Slot { made: None, waker: None, cancelled: false })), unwanted };
    let slot = order.slot.clone();
    detach(Box::pin(async move {
        let made = fut.await;
        let mut slot = slot.lock();
        if slot.cancelled {
            drop(slot);
            return unwanted(made);
        }
        slot.made = Some(made);
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }));
    poll_fn(|cx| {
        let mut slot = order.slot.lock();
        match slot.made.take() {
            Some(made) => Poll::Ready(made),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

struct Slot<T> {
    made: Option<T>,
    waker: Option<Waker>,
    cancelled: bool,
}

/// Whoever waits for it.
struct Order<T> {
    slot: Arc<Mutex<Slot<T>>>,
    unwanted: fn(T),
}

impl<T> Drop for Order<T> {
    fn drop(&mut self) {
        let mut slot = self.slot.lock();
        slot.cancelled = true;
        let made = slot.made.take();
        drop(slot);
        if let Some(made) = made {
            (self.unwanted)(made);
        }
    }
}
