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

/// Tasks move between threads, so whatever they wait on must.
#[test]
fn waits_are_send() {
    fn send<T: Send>(_: T) {}
    let file = crate::eventfd::EventFd::open(0, 0).unwrap();
    let flock = chitin_abi::fcntl::Flock::default();
    send(crate::locks::set_wait(&file, crate::locks::Owner::Ofd(1), 0, &flock));
    send(crate::locks::flock_wait(&file, 0, 0));
    let pipe = crate::pipe::Pipe::new();
    send(crate::pipe::Pipe::open_fifo(&pipe, 0, Default::default()).unwrap().wait());
    send(crate::poll::PollMany::new(Vec::new()));
    send(crate::wait::ready(file.ops(), 0));
}
