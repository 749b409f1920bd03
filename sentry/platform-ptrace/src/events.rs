//! What waits for workers: events, and wakers of operations that are done.
//!
//! Neighbours: `tracer` and `task` push from the tracers' threads, which must not run the sentry's code; workers take.
//!
//! Locks: `queue` is a leaf.

use chitin_platform::Event;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::task::Waker;
use std::time::Duration;

/// How long what waits may wait until there is to be one more worker.
const STARVED: Duration = Duration::from_millis(3);

enum Item {
    Event(Event),
    Wake(Waker),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Workers that wait.
    idle: usize,
    /// How many items have been taken so far.
    taken: u64,
    /// The watcher looks on.
    watched: bool,
    closed: bool,
}

#[derive(Default)]
pub struct Events {
    queue: Mutex<Queue>,
    bell: Condvar,
    watcher: Condvar,
    more: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Events {
    pub fn event(&self, event: Event) {
        self.push(Item::Event(event));
    }

    pub fn wake(&self, waker: Waker) {
        self.push(Item::Wake(waker));
    }

    fn push(&self, item: Item) {
        let mut q = self.queue.lock();
        q.items.push_back(item);
        if q.idle > 0 {
            self.bell.notify_one();
        } else if !q.watched {
            q.watched = true;
            self.watcher.notify_one();
        }
    }

    /// Waits for the next event; `between` is called after wakers.
    pub fn next(&self, between: &dyn Fn()) -> Event {
        let mut q = self.queue.lock();
        loop {
            match q.items.pop_front() {
                Some(item) => {
                    q.taken += 1;
                    drop(q);
                    match item {
                        Item::Event(event) => return event,
                        Item::Wake(waker) => waker.wake(),
                    }
                    between();
                    q = self.queue.lock();
                }
                None => {
                    q.idle += 1;
                    self.bell.wait(&mut q);
                    q.idle = q.idle.saturating_sub(1);
                }
            }
        }
    }

    /// What to do when all workers are held up.
    pub fn on_starved(&self, more: Box<dyn Fn() + Send + Sync>) {
        let _once = self.more.set(more);
    }

    /// The watcher's thread: asks for a worker whenever nothing is taken for some time although something waits.
    pub fn watch(&self) {
        let mut q = self.queue.lock();
        loop {
            while !q.watched && !q.closed {
                self.watcher.wait(&mut q);
            }
            if q.closed {
                return;
            }
            let before = q.taken;
            self.watcher.wait_for(&mut q, STARVED);
            if q.items.is_empty() {
                q.watched = false;
            } else if q.taken == before {
                drop(q);
                if let Some(more) = self.more.get() {
                    more();
                }
                q = self.queue.lock();
            }
        }
    }

    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.watcher.notify_one();
    }
}
