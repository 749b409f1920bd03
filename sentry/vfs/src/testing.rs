//! What the tests of this crate share: a way to poll futures by hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A task that only counts how often it is woken.
pub(crate) struct Run {
    count: Arc<Count>,
    waker: Waker,
}

impl Run {
    pub(crate) fn new() -> Run {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        Run { waker: Waker::from(count.clone()), count }
    }

    pub(crate) fn wakes(&self) -> usize {
        self.count.0.load(Ordering::SeqCst)
    }

    pub(crate) fn poll<F: Future + Unpin>(&self, future: &mut F) -> Option<F::Output> {
        match Pin::new(future).poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }
}
