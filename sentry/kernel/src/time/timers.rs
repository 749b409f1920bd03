//! All deadlines of the sandbox in one ordered set.
//!
//! Whoever waits holds a [`Sleep`] (a future) or a [`Timer`] (a callback). Deadlines on CLOCK_REALTIME and
//! CLOCK_BOOTTIME are kept as they were given, beside the monotonic time they amount to at the moment, which is worked
//! out anew when the host's clock is set.
//!
//! Lock: `inner`, a leaf; not held while anything is woken or called.

use chitin_abi::time::{CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_REALTIME};
use chitin_vfs::WaitQueue;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

/// Expired entries handled before host descriptors get a turn.
const BATCH: usize = 256;

/// The clocks that deadlines are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Monotonic,
    Realtime,
    Boottime,
}

impl Base {
    pub fn clock(self) -> i32 {
        match self {
            Base::Monotonic => CLOCK_MONOTONIC,
            Base::Realtime => CLOCK_REALTIME,
            Base::Boottime => CLOCK_BOOTTIME,
        }
    }

    pub fn now(self) -> u64 {
        super::now(self.clock())
    }
}

/// A moment; `ns` of `u64::MAX` never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    pub base: Base,
    pub ns: u64,
}

impl Deadline {
    pub fn monotonic(ns: u64) -> Deadline {
        Deadline { base: Base::Monotonic, ns }
    }

    /// So long from now.
    pub fn after(ns: u64) -> Deadline {
        Deadline::monotonic(super::monotonic().saturating_add(ns))
    }

    pub fn passed(&self) -> bool {
        self.ns != u64::MAX && self.base.now() >= self.ns
    }

    /// Nanoseconds that are left.
    pub fn left(&self) -> u64 {
        self.ns.saturating_sub(self.base.now())
    }

    /// The monotonic time it comes at, by the clocks as they stand.
    fn as_monotonic(&self) -> u64 {
        match self.base {
            _ if self.ns == u64::MAX => u64::MAX,
            Base::Monotonic => self.ns,
            _ => super::monotonic().saturating_add(self.left()),
        }
    }
}

/// What a [`Timer`] calls.
pub trait Expire: Send + Sync {
    /// Runs on the reactor thread and must not block. The deadline may have been changed meanwhile: look again.
    fn expired(self: Arc<Self>);
}

struct Callback(Box<dyn Fn() + Send + Sync>);

impl Expire for Callback {
    fn expired(self: Arc<Self>) {
        (self.0)();
    }
}

enum Target {
    Waker(Waker),
    Call(Weak<dyn Expire>),
}

struct Entry {
    at: u64,
    deadline: Deadline,
    target: Target,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<u64, Entry>,
    order: BTreeSet<(u64, u64)>,
    /// What the reactor sleeps until; 0 when it is awake and will look by itself.
    asleep_until: u64,
}

impl Inner {
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.order.remove(&(entry.at, id));
        Some(entry)
    }

    fn insert(&mut self, id: u64, entry: Entry) -> Option<Entry> {
        let at = entry.at;
        let old = self.remove(id);
        self.entries.insert(id, entry);
        self.order.insert((at, id));
        old
    }
}

/// The service; see the module.
pub struct Timers {
    inner: Mutex<Inner>,
    next_id: AtomicU64,
    /// Wakes the thread that serves the timers.
    ring: Box<dyn Fn() + Send + Sync>,
    clock_sets: AtomicU64,
    /// Woken when the real-time clock has been set (TFD_TIMER_CANCEL_ON_SET).
    pub clock_set_queue: WaitQueue,
}

impl Timers {
    /// `ring` is called when an earlier deadline than the one slept for is set; it must not block.
    pub fn new(ring: Box<dyn Fn() + Send + Sync>) -> Arc<Timers> {
        Arc::new(Timers {
            inner: Mutex::default(),
            next_id: AtomicU64::new(1),
            ring,
            clock_sets: AtomicU64::new(0),
            clock_set_queue: WaitQueue::new(),
        })
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn set(&self, id: u64, deadline: Deadline, target: Target) {
        let at = deadline.as_monotonic();
        let (old, ring) = {
            let mut inner = self.inner.lock();
            let old = inner.insert(id, Entry { at, deadline, target });
            let ring = at < inner.asleep_until;
            if ring {
                inner.asleep_until = at;
            }
            (old, ring)
        };
        drop(old);
        if ring {
            (self.ring)();
        }
    }

    fn cancel(&self, id: u64) {
        let old = self.inner.lock().remove(id);
        drop(old);
    }

    /// A future that is ready at the deadline; dropping it leaves nothing behind.
    pub fn sleep_until(self: &Arc<Self>, deadline: Deadline) -> Sleep {
        Sleep { timers: self.clone(), deadline, id: None }
    }

    /// How often the real-time clock has been set since the start.
    pub fn clock_sets(&self) -> u64 {
        self.clock_sets.load(Ordering::Acquire)
    }

    /// How many sleeps and timers are pending.
    pub fn pending(&self) -> usize {
        self.inner.lock().entries.len()
    }

    /// The next deadline; from now on an earlier one rings.
    pub(crate) fn before_wait(&self) -> Option<u64> {
        let mut inner = self.inner.lock();
        let next = inner.order.first().map(|&(at, _)| at).filter(|&at| at != u64::MAX);
        inner.asleep_until = next.unwrap_or(u64::MAX);
        next
    }

    pub(crate) fn after_wait(&self) {
        self.inner.lock().asleep_until = 0;
    }

    /// Wakes and calls what is due.
    pub(crate) fn expire(&self) {
        let mut due = Vec::new();
        {
            let mut inner = self.inner.lock();
            let now = super::monotonic();
            let mut early = Vec::new();
            while let Some(&(at, id)) = inner.order.first()
                && at <= now
                && due.len() + early.len() < BATCH
            {
                let Some(mut entry) = inner.remove(id) else { break };
                if entry.deadline.base == Base::Monotonic || entry.deadline.passed() {
                    due.push(entry.target);
                } else {
                    // Its clock was set back, or runs a little slower.
                    entry.at = entry.deadline.as_monotonic().max(now.saturating_add(1));
                    early.push((id, entry));
                }
            }
            for (id, entry) in early {
                inner.insert(id, entry);
            }
        }
        for target in due {
            match target {
                Target::Waker(waker) => waker.wake(),
                Target::Call(target) => {
                    if let Some(target) = target.upgrade() {
                        target.expired();
                    }
                }
            }
        }
    }

    /// The real-time clock has been set: deadlines on it are worked out anew.
    pub(crate) fn clock_was_set(&self) {
        {
            let mut inner = self.inner.lock();
            let moved: Vec<u64> = inner
                .entries
                .iter()
                .filter(|(_, entry)| entry.deadline.base != Base::Monotonic)
                .map(|(&id, _)| id)
                .collect();
            for id in moved {
                if let Some(mut entry) = inner.remove(id) {
                    entry.at = entry.deadline.as_monotonic();
                    inner.insert(id, entry);
                }
            }
        }
        self.clock_sets.fetch_add(1, Ordering::AcqRel);
        self.clock_set_queue.wake(chitin_abi::poll::POLLIN);
    }
}

/// See [`Timers::sleep_until`].
pub struct Sleep {
    timers: Arc<Timers>,
    deadline: Deadline,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline.passed() {
            if let Some(id) = self.id.take() {
                self.timers.cancel(id);
            }
            return Poll::Ready(());
        }
        let id = self.id.unwrap_or_else(|| self.timers.id());
        self.id = Some(id);
        self.timers.set(id, self.deadline, Target::Waker(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.timers.cancel(id);
        }
    }
}

/// Waits for a future until a deadline (`None`: without end). `None`: the deadline came first.
pub async fn with_timeout<F: Future>(
    timers: &Arc<Timers>,
    future: F,
    deadline: Option<Deadline>,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut sleep = deadline.map(|deadline| timers.sleep_until(deadline));
    poll_fn(move |cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        match &mut sleep {
            Some(sleep) => Pin::new(sleep).poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// A one-shot timer that calls back; it can be armed again, also from its own callback.
pub struct Timer {
    timers: Arc<Timers>,
    id: u64,
    target: Weak<dyn Expire>,
    _own: Option<Arc<dyn Expire>>,
}

impl Timer {
    /// Calls `target` as long as it lives.
    pub fn new(timers: &Arc<Timers>, target: Weak<dyn Expire>) -> Timer {
        Timer { timers: timers.clone(), id: timers.id(), target, _own: None }
    }

    /// Calls a closure as long as the timer lives.
    pub fn with_fn(timers: &Arc<Timers>, call: impl Fn() + Send + Sync + 'static) -> Timer {
        let own: Arc<dyn Expire> = Arc::new(Callback(Box::new(call)));
        let target = Arc::downgrade(&own);
        Timer { timers: timers.clone(), id: timers.id(), target, _own: Some(own) }
    }

    /// Sets the deadline, in place of the present one.
    pub fn arm(&self, deadline: Deadline) {
        self.timers.set(self.id, deadline, Target::Call(self.target.clone()));
    }

    /// A callback that is just running is not waited for.
    pub fn disarm(&self) {
        self.timers.cancel(self.id);
    }

    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn counter() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        (count.clone(), Waker::from(count))
    }
    fn get(count: &Arc<Count>) -> usize {
        count.0.load(Ordering::SeqCst)
    }
    fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(waker))
    }
    fn service() -> (Arc<Count>, Arc<Timers>) {
        let rings = Arc::new(Count(AtomicUsize::new(0)));
        let own = rings.clone();
        (rings, Timers::new(Box::new(move || own.wake_by_ref())))
    }

    #[test]
    fn sleeps_in_order_and_leaves_nothing_behind() {
        let (_, timers) = service();
        let (count, waker) = counter();
        let mut past = timers.sleep_until(Deadline::monotonic(1));
        assert!(poll(&mut past, &waker).is_ready());
        let mut soon = timers.sleep_until(Deadline::after(2_000_000));
        let mut late = timers.sleep_until(Deadline::after(60_000_000_000));
        assert!(poll(&mut soon, &waker).is_pending() && poll(&mut late, &waker).is_pending());
        assert!(poll(&mut soon, &waker).is_pending());
        assert_eq!(timers.pending(), 2);
        timers.expire();
        assert_eq!(get(&count), 0);
        std::thread::sleep(std::time::Duration::from_millis(3));
        timers.expire();
        assert_eq!(get(&count), 1);
        assert!(poll(&mut soon, &waker).is_ready() && poll(&mut late, &waker).is_pending());
        drop(late);
        assert_eq!(timers.pending(), 0);
    }

    #[test]
    fn rings_only_for_earlier_deadlines() {
        let (rings, timers) = service();
        let (_, waker) = counter();
        let mut sleeps = Vec::new();
        let mut sleep = |ns| {
            let mut sleep = timers.sleep_until(Deadline::monotonic(ns));
            assert!(poll(&mut sleep, &waker).is_pending());
            sleeps.push(sleep);
        };
        let base = crate::time::monotonic() + 1_000_000_000_000;
        sleep(base);
        assert_eq!(get(&rings), 0);
        assert_eq!(timers.before_wait(), Some(base));
        sleep(base + 1);
        assert_eq!(get(&rings), 0);
        sleep(base - 5);
        assert_eq!(get(&rings), 1);
        sleep(base - 4);
        assert_eq!(get(&rings), 1);
        timers.after_wait();
        sleep(base - 6);
        assert_eq!(get(&rings), 1);
        assert_eq!(timers.before_wait(), Some(base - 6));
    }

    #[test]
    fn real_time_deadlines_follow_their_clock() {
        let (_, timers) = service();
        let (count, waker) = counter();
        let real = Deadline { base: Base::Realtime, ns: Base::Realtime.now() + 1_000_000 };
        let mut sleep = timers.sleep_until(real);
        assert!(poll(&mut sleep, &waker).is_pending());
        // As if the clock had been set since: the entry stands at a wrong time.
        {
            let mut inner = timers.inner.lock();
            let id = sleep.id.unwrap();
            let mut entry = inner.remove(id).unwrap();
            entry.at = 1;
            inner.insert(id, entry);
        }
        timers.expire();
        assert_eq!((get(&count), timers.pending()), (0, 1));
        timers.clock_was_set();
        assert_eq!(timers.clock_sets(), 1);
        std::thread::sleep(std::time::Duration::from_millis(2));
        timers.expire();
        assert_eq!((get(&count), timers.pending()), (1, 0));
    }

    #[test]
    fn callbacks_may_arm_again() {
        let (_, timers) = service();
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = calls.clone();
        let timer = Timer::with_fn(&timers, move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        timer.arm(Deadline::monotonic(1));
        timer.arm(Deadline::monotonic(2));
        timers.expire();
        timers.expire();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        timer.arm(Deadline::monotonic(2));
        timer.disarm();
        timers.expire();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        timer.arm(Deadline::monotonic(u64::MAX));
        assert_eq!(timers.before_wait(), None);
        drop(timer);
        assert_eq!(timers.pending(), 0);
    }

    #[test]
    fn timeouts() {
        let (_, timers) = service();
        let (_, waker) = counter();
        let never = std::future::pending::<()>();
        let mut late = Box::pin(with_timeout(&timers, never, Some(Deadline::monotonic(1))));
        assert_eq!(poll(&mut late, &waker), Poll::Ready(None));
        let mut done = Box::pin(with_timeout(&timers, std::future::ready(5), Some(Deadline::monotonic(1))));
        assert_eq!(poll(&mut done, &waker), Poll::Ready(Some(5)));
        let mut open = Box::pin(with_timeout(&timers, std::future::pending::<()>(), None));
        assert!(poll(&mut open, &waker).is_pending());
    }

    #[test]
    fn many_are_cheap() {
        let (_, timers) = service();
        let (count, waker) = counter();
        let mut sleeps: Vec<_> =
            (0..20_000).map(|n| timers.sleep_until(Deadline::after(3_000_000 + n))).collect();
        for sleep in &mut sleeps {
            let _ = poll(sleep, &waker);
        }
        std::thread::sleep(std::time::Duration::from_millis(4));
        while timers.pending() > 0 {
            timers.expire();
        }
        assert!(get(&count) <= 20_000);
        for sleep in &mut sleeps {
            assert!(poll(sleep, &waker).is_ready());
        }
    }
}
