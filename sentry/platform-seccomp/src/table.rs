//! Host thread id → task: a two-level table of small locks, so that the hot path neither allocates nor shares a lock.

use parking_lot::Mutex;
use std::sync::OnceLock;

const LEAF: usize = 1024;
const ROOT: usize = 4096; // PID_MAX_LIMIT / LEAF

type Leaf<T> = Box<[Mutex<Option<T>>]>;

pub struct TidTable<T> {
    root: Box<[OnceLock<Leaf<T>>]>,
}

impl<T: Clone> TidTable<T> {
    pub fn new() -> Self {
        TidTable { root: (0..ROOT).map(|_| OnceLock::new()).collect() }
    }

    pub fn get(&self, tid: u32) -> Option<T> {
        let leaf = self.root.get(tid as usize / LEAF)?.get()?;
        leaf.get(tid as usize % LEAF)?.lock().clone()
    }

    /// Stores a task; what was there before is returned.
    pub fn insert(&self, tid: u32, v: T) -> Option<T> {
        let leaf = self.root.get(tid as usize / LEAF)?;
        let leaf = leaf.get_or_init(|| (0..LEAF).map(|_| Mutex::new(None)).collect());
        leaf.get(tid as usize % LEAF)?.lock().replace(v)
    }

    /// Removes the entry if `is` says it is the one meant.
    pub fn remove_if(&self, tid: u32, is: impl FnOnce(&T) -> bool) {
        let Some(slot) =
            self.root.get(tid as usize / LEAF).and_then(|l| l.get()).and_then(|l| l.get(tid as usize % LEAF))
        else {
            return;
        };
        let mut slot = slot.lock();
        let old = if slot.as_ref().is_some_and(is) { slot.take() } else { None };
        drop(slot);
        drop(old);
    }
}
