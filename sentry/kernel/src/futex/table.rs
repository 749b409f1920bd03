//! The waiters of all futexes.

use super::key::Key;
use chitin_abi::Errno;
use chitin_abi::num::to_usize;
use chitin_mm::Mm;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::task::{Poll, Waker};

const BUCKETS: usize = 256;

#[derive(Default)]
pub(super) struct Bucket {
    queues: HashMap<Key, VecDeque<Arc<Waiter>>>,
}

/// A thread that waits for a lock with an owner.
#[derive(Clone, Copy)]
pub(super) struct PiWaiter {
    /// What the word will hold: its number in its own namespace.
    pub(super) nr: i32,
    /// Its kernel id.
    pub(super) kid: i32,
}

/// Somebody who waits.
pub(super) struct Waiter {
    pub(super) bitset: u32,
    /// For locks with an owner: the waiting thread.
    pub(super) pi: Option<PiWaiter>,
    /// Counted in `FutexTable::shared`.
    shared: AtomicBool,
    /// Keeps the address that keys are made of from being used again.
    _mm: Arc<Mm>,
    slot: Mutex<Slot>,
}

struct Slot {
    key: Key,
    woken: bool,
    /// For locks with an owner: who holds the lock that this waits for, by kernel id.
    pi_owner: i32,
    waker: Option<Waker>,
}

/// All futexes of the sandbox.
pub struct FutexTable {
    buckets: Box<[Mutex<Bucket>; BUCKETS]>,
    hasher: RandomState,
    /// Waiters on shared words: with none, a waker need not find out whether its word is shared.
    shared: AtomicUsize,
    /// Waiters for locks with an owner.
    pi: AtomicUsize,
}

impl Default for FutexTable {
    fn default() -> Self {
        let buckets = Box::new(std::array::from_fn(|_| Mutex::default()));
        FutexTable {
            buckets,
            hasher: RandomState::new(),
            shared: AtomicUsize::new(0),
            pi: AtomicUsize::new(0),
        }
    }
}

/// Wakers to call once no lock is held.
#[derive(Default)]
pub(super) struct Wakes(Vec<Waker>);

impl Wakes {
    pub(super) fn run(self) {
        for waker in self.0 {
            waker.wake();
        }
    }
}

impl Bucket {
    /// Marks a waiter as woken; it is out of its queue already.
    fn release(waiter: &Waiter, wakes: &mut Wakes) {
        let mut slot = waiter.slot.lock();
        slot.woken = true;
        wakes.0.extend(slot.waker.take());
    }

    /// Wakes up to `count` waiters that match, first come first.
    pub(super) fn wake(&mut self, key: &Key, count: usize, bitset: u32, wakes: &mut Wakes) -> usize {
        let Some(queue) = self.queues.get_mut(key) else { return 0 };
        let mut woken = 0;
        let mut at = 0;
        while woken < count
            && let Some(waiter) = queue.get(at)
        {
            if waiter.bitset & bitset == 0 || waiter.pi.is_some() {
                at += 1;
                continue;
            }
            if let Some(waiter) = queue.remove(at) {
                Self::release(&waiter, wakes);
                woken += 1;
            }
        }
        self.tidy(key);
        woken
    }

    fn tidy(&mut self, key: &Key) {
        if self.queues.get(key).is_some_and(VecDeque::is_empty) {
            self.queues.remove(key);
        }
    }

    fn push(&mut self, key: Key, waiter: Arc<Waiter>) {
        self.queues.entry(key).or_default().push_back(waiter);
    }

    /// Whether somebody waits on the word for something else than a lock with an owner, or the other way round.
    pub(super) fn has(&self, key: &Key, pi: bool) -> bool {
        self.queues.get(key).is_some_and(|queue| queue.iter().any(|waiter| waiter.pi.is_some() == pi))
    }

    /// The thread that gets a lock with an owner next.
    pub(super) fn next_pi(&self, key: &Key) -> Option<i32> {
        self.queues.get(key)?.iter().find_map(|waiter| waiter.pi).map(|pi| pi.nr)
    }

    /// Gives the lock to that thread and wakes it; the others wait for the new owner. Whether there are others.
    pub(super) fn hand_over(&mut self, key: &Key, wakes: &mut Wakes) -> bool {
        let Some(queue) = self.queues.get_mut(key) else { return false };
        let Some(at) = queue.iter().position(|waiter| waiter.pi.is_some()) else { return false };
        let owner = queue.remove(at);
        if let Some(waiter) = &owner {
            Self::release(waiter, wakes);
        }
        let owner = owner.and_then(|waiter| waiter.pi).map_or(0, |pi| pi.kid);
        let mut others = false;
        for waiter in queue.iter().filter(|waiter| waiter.pi.is_some()) {
            waiter.slot.lock().pi_owner = owner;
            others = true;
        }
        self.tidy(key);
        others
    }
}

/// The locks of one or two buckets.
pub(super) struct Locked<'a> {
    first: MutexGuard<'a, Bucket>,
    second: Option<MutexGuard<'a, Bucket>>,
    swapped: bool,
}

impl Locked<'_> {
    /// The bucket of the first key.
    pub(super) fn one(&mut self) -> &mut Bucket {
        match &mut self.second {
            Some(second) if self.swapped => second,
            _ => &mut self.first,
        }
    }
    /// The bucket of the second key.
    pub(super) fn two(&mut self) -> &mut Bucket {
        match &mut self.second {
            Some(second) if !self.swapped => second,
            _ => &mut self.first,
        }
    }
}

impl FutexTable {
    fn index(&self, key: &Key) -> usize {
        to_usize(self.hasher.hash_one(key) % BUCKETS as u64)
    }

    fn bucket(&self, index: usize) -> MutexGuard<'_, Bucket> {
        // An index is always below the number of buckets.
        let [first, ..] = &*self.buckets;
        self.buckets.get(index).unwrap_or(first).lock()
    }

    pub(super) fn lock(&self, key: &Key) -> MutexGuard<'_, Bucket> {
        self.bucket(self.index(key))
    }

    pub(super) fn lock_two(&self, one: &Key, two: &Key) -> Locked<'_> {
        let (a, b) = (self.index(one), self.index(two));
        if a == b {
            return Locked { first: self.bucket(a), second: None, swapped: false };
        }
        let (low, high) = (a.min(b), a.max(b));
        let first = self.bucket(low);
        let second = Some(self.bucket(high));
        Locked { first, second, swapped: a > b }
    }

    /// The key of a word for waking: shared words are looked up only while somebody waits on one.
    pub(super) fn wake_key(&self, mm: &Arc<Mm>, addr: u64, private: bool) -> Result<Key, Errno> {
        super::key::check(mm, addr)?;
        if private {
            return Ok(Key::private(mm, addr));
        }
        // Pairs with the one in `enqueue`: either this sees the waiter, or the waiter sees the changed word.
        fence(Ordering::SeqCst);
        if self.shared.load(Ordering::SeqCst) == 0 { Ok(Key::private(mm, addr)) } else { Key::find(mm, addr) }
    }

    /// The key of a word for waiting.
    pub(super) fn wait_key(&self, mm: &Arc<Mm>, addr: u64, private: bool) -> Result<Key, Errno> {
        super::key::check(mm, addr)?;
        if private { Ok(Key::private(mm, addr)) } else { Key::find(mm, addr) }
    }

    /// Waits on a word if it holds `value`: EAGAIN otherwise.
    pub(super) fn enqueue(
        &self,
        mm: &Arc<Mm>,
        addr: u64,
        key: Key,
        value: u32,
        bitset: u32,
    ) -> Result<Queued<'_>, Errno> {
        let queued = self.new_waiter(mm, key, bitset, None);
        fence(Ordering::SeqCst);
        {
            let mut bucket = self.lock(&key);
            if mm.read::<u32>(addr)? == value {
                bucket.push(key, queued.waiter.clone());
                return Ok(queued);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// A waiter that is in no queue yet.
    fn new_waiter(&self, mm: &Arc<Mm>, key: Key, bitset: u32, pi: Option<(PiWaiter, i32)>) -> Queued<'_> {
        let shared = key.is_shared();
        if shared {
            self.shared.fetch_add(1, Ordering::SeqCst);
        }
        if pi.is_some() {
            self.pi.fetch_add(1, Ordering::SeqCst);
        }
        let slot = Slot { key, woken: false, pi_owner: pi.map_or(0, |(_, owner)| owner), waker: None };
        let pi = pi.map(|(waiter, _)| waiter);
        let shared = AtomicBool::new(shared);
        let waiter = Arc::new(Waiter { bitset, pi, shared, _mm: mm.clone(), slot: Mutex::new(slot) });
        Queued { table: self, waiter }
    }

    /// Waits for a lock that `owner` holds; the caller has the bucket locked.
    pub(super) fn enqueue_pi(
        &self,
        bucket: &mut Bucket,
        mm: &Arc<Mm>,
        key: Key,
        by: PiWaiter,
        owner: i32,
    ) -> Queued<'_> {
        let queued = self.new_waiter(mm, key, u32::MAX, Some((by, owner)));
        bucket.push(key, queued.waiter.clone());
        queued
    }

    /// Moves waiters from one word to another, after waking some: how many were woken or moved.
    pub(super) fn requeue(
        &self,
        locked: &mut Locked<'_>,
        keys: (&Key, &Key),
        counts: (usize, usize),
        wakes: &mut Wakes,
    ) -> usize {
        let (from, to) = keys;
        let (wake, move_) = counts;
        let mut done = locked.one().wake(from, wake, u32::MAX, wakes);
        if done < wake || from == to {
            return done;
        }
        let Some(queue) = locked.one().queues.get_mut(from) else { return done };
        let mut moved = Vec::new();
        let mut at = 0;
        while moved.len() < move_
            && let Some(waiter) = queue.get(at)
        {
            if waiter.pi.is_some() {
                at += 1;
            } else if let Some(waiter) = queue.remove(at) {
                moved.push(waiter);
            }
        }
        locked.one().tidy(from);
        done += moved.len();
        for waiter in moved {
            waiter.slot.lock().key = *to;
            if to.is_shared() && !waiter.shared.swap(true, Ordering::SeqCst) {
                self.shared.fetch_add(1, Ordering::SeqCst);
            }
            locked.two().push(*to, waiter);
        }
        done
    }

    /// Words whose locks a thread held when it ended and somebody waits for; with the waiters' memory.
    pub(super) fn owned_by(&self, owner: i32) -> Vec<Key> {
        let mut keys = Vec::new();
        if self.pi.load(Ordering::SeqCst) == 0 {
            return keys;
        }
        for bucket in self.buckets.iter() {
            for (key, queue) in &bucket.lock().queues {
                let waits =
                    |waiter: &Arc<Waiter>| waiter.pi.is_some() && waiter.slot.lock().pi_owner == owner;
                if queue.iter().any(waits) {
                    keys.push(*key);
                }
            }
        }
        keys
    }

    /// Threads that wait on any futex.
    pub fn waiters(&self) -> usize {
        self.buckets
            .iter()
            .map(|bucket| bucket.lock().queues.values().map(VecDeque::len).sum::<usize>())
            .sum()
    }
}

/// A place in a queue; dropping it leaves the queue.
pub struct Queued<'a> {
    table: &'a FutexTable,
    waiter: Arc<Waiter>,
}

impl Queued<'_> {
    /// Ready once woken.
    pub(super) fn woken(&self) -> impl Future<Output = ()> {
        poll_fn(|cx| {
            let mut slot = self.waiter.slot.lock();
            if slot.woken {
                return Poll::Ready(());
            }
            slot.waker = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    /// Leaves the queue: whether it had been woken before.
    pub(super) fn cancel(&self) -> bool {
        loop {
            let key = {
                let slot = self.waiter.slot.lock();
                if slot.woken {
                    return true;
                }
                slot.key
            };
            let mut bucket = self.table.lock(&key);
            {
                let mut slot = self.waiter.slot.lock();
                if slot.woken {
                    return true;
                }
                if slot.key != key {
                    // Requeued meanwhile.
                    continue;
                }
                slot.waker = None;
            }
            if let Some(queue) = bucket.queues.get_mut(&key) {
                queue.retain(|other| !Arc::ptr_eq(other, &self.waiter));
            }
            bucket.tidy(&key);
            return false;
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.cancel();
        if self.waiter.shared.load(Ordering::SeqCst) {
            self.table.shared.fetch_sub(1, Ordering::SeqCst);
        }
        if self.waiter.pi.is_some() {
            self.table.pi.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
