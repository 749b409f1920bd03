//! Wait queues: how whoever waits learns that an object may have become ready.
//!
//! The protocol is Linux's: a waiter *first* registers (by calling an object's `poll` with a [`PollTable`]), *then*
//! looks at the state; an event *first* changes the state, *then* notifies. So no wake-up is lost.
//!
//! Locks: a queue's list is a leaf but for what [`Notify::notify`] takes. Implementations of `notify` must be short and
//! must not call back into the object that notifies: task wakers only queue the task on the current thread's run queue,
//! epoll only marks its item.

use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use crate::FileOps;

/// Who gets told.
pub trait Notify: Send + Sync {
    /// `events`: the POLL* bits that may have become true (a hint; 0 or all bits when unknown).
    fn notify(&self, events: u32);
}

struct WakerNotify(Waker);

impl Notify for WakerNotify {
    fn notify(&self, _events: u32) {
        self.0.wake_by_ref();
    }
}

/// Waiters in the order of their ids. One that leaves from the middle leaves a gap, so that thousands can leave one queue
/// in any order without moving the others each time.
#[derive(Default)]
struct List {
    next_id: u64,
    entries: Vec<(u64, Option<Arc<dyn Notify>>)>,
    gaps: usize,
}

impl List {
    /// Takes a waiter out; it is dropped by the caller.
    fn remove(&mut self, id: u64) -> Option<Arc<dyn Notify>> {
        let at = self.entries.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let gone = self.entries.get_mut(at)?.1.take();
        self.gaps += 1;
        while matches!(self.entries.last(), Some((_, None))) {
            self.entries.pop();
            self.gaps = self.gaps.saturating_sub(1);
        }
        if self.gaps > 8 && self.gaps > self.entries.len() / 2 {
            self.entries.retain(|(_, target)| target.is_some());
            self.gaps = 0;
        }
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = Vec::new();
        }
        gone
    }
}

#[derive(Default)]
struct Shared {
    list: Mutex<List>,
    /// Whether there are entries in the list; changes under its lock.
    any: AtomicBool,
}

/// The waiters of one object.
#[derive(Clone, Default)]
pub struct WaitQueue {
    shared: Arc<Shared>,
}

impl WaitQueue {
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    /// Tells all waiters. The state must have been changed before.
    pub fn wake(&self, events: u32) {
        let list = self.shared.list.lock();
        for target in list.entries.iter().filter_map(|(_, target)| target.as_ref()) {
            target.notify(events);
        }
    }

    /// As [`WaitQueue::wake`], without a lock where nobody waits: for states that are changed, and looked at by whoever has
    /// registered, under one lock. If who waits looks first, the registration is seen here; if not, the change is seen there.
    pub fn wake_if_any(&self, events: u32) {
        if self.shared.any.load(Ordering::Relaxed) {
            self.wake(events);
        }
    }

    /// Registers until the registration is dropped.
    pub fn register(&self, target: Arc<dyn Notify>) -> Registration {
        let mut list = self.shared.list.lock();
        let id = list.next_id;
        list.next_id += 1;
        list.entries.push((id, Some(target)));
        self.shared.any.store(true, Ordering::Relaxed);
        Registration { queue: Arc::downgrade(&self.shared), id }
    }

    /// Registers a future's waker.
    pub fn register_waker(&self, waker: &Waker) -> Registration {
        self.register(Arc::new(WakerNotify(waker.clone())))
    }

    /// Waits until `check` answers something; `check` runs after each wake-up, with the waiter registered.
    pub fn wait_until<T, F: FnMut() -> Option<T>>(&self, check: F) -> WaitUntil<'_, F> {
        WaitUntil { queue: self, check, registration: None }
    }

    pub fn has_waiters(&self) -> bool {
        {
            let list = self.shared.list.lock();
            list.entries.len() > list.gaps
        }
    }
}

/// A place in a wait queue; dropping it leaves the queue.
pub struct Registration {
    queue: Weak<Shared>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.upgrade() {
            // Dropped with the list unlocked.
            let _gone = {
                let mut list = queue.list.lock();
                let gone = list.remove(self.id);
                queue.any.store(!list.entries.is_empty(), Ordering::Relaxed);
                gone
            };
        }
    }
}

/// Collects registrations over one or many objects (Linux's poll_table).
pub struct PollTable {
    target: Arc<dyn Notify>,
    registrations: Vec<Registration>,
}

impl PollTable {
    pub fn new(target: Arc<dyn Notify>) -> PollTable {
        PollTable { target, registrations: Vec::new() }
    }

    pub fn for_waker(waker: &Waker) -> PollTable {
        PollTable::new(Arc::new(WakerNotify(waker.clone())))
    }

    /// Called by an object's `poll` for each queue that its readiness depends on.
    pub fn add(&mut self, queue: &WaitQueue) {
        self.registrations.push(queue.register(self.target.clone()));
    }

    pub fn into_registrations(self) -> Vec<Registration> {
        self.registrations
    }
}

/// See [`WaitQueue::wait_until`].
pub struct WaitUntil<'a, F> {
    queue: &'a WaitQueue,
    check: F,
    registration: Option<Registration>,
}

impl<T, F: FnMut() -> Option<T> + Unpin> Future for WaitUntil<'_, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        this.registration = Some(this.queue.register_waker(cx.waker()));
        match (this.check)() {
            Some(value) => {
                this.registration = None;
                Poll::Ready(value)
            }
            None => Poll::Pending,
        }
    }
}

/// Waits until `ops.poll` shows one of `events` (POLLERR and POLLHUP always count). Answers what it showed.
pub fn ready<'a>(ops: &'a Arc<dyn FileOps>, events: u32) -> Ready<'a> {
    Ready { ops, events, registrations: Vec::new() }
}

/// See [`ready`].
pub struct Ready<'a> {
    ops: &'a Arc<dyn FileOps>,
    events: u32,
    registrations: Vec<Registration>,
}

impl Future for Ready<'_> {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u32> {
        use chitin_abi::poll::{POLLERR, POLLHUP};
        let mut table = PollTable::for_waker(cx.waker());
        let shown = self.ops.poll(Some(&mut table));
        let wanted = shown & (self.events | POLLERR | POLLHUP);
        if wanted != 0 {
            self.registrations.clear();
            return Poll::Ready(wanted);
        }
        self.registrations = table.into_registrations();
        Poll::Pending
    }
}
