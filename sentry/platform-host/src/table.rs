//! Host thread id → task, in many small locked maps: host thread ids wander through the whole of the host's `pid_max`
//! range, so the table must not keep memory for those that are gone; and the hot path must not share a lock.

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;

const SHARDS: usize = 128;
/// An empty map above this size gives its memory back.
const KEEP: usize = 64;

pub struct TidTable<T> {
    shards: Box<[Mutex<HashMap<u32, T, RandomState>>]>,
}

impl<T> Default for TidTable<T> {
    fn default() -> Self {
        TidTable { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl<T: Clone> TidTable<T> {
    fn shard(&self, tid: u32) -> Option<&Mutex<HashMap<u32, T, RandomState>>> {
        self.shards.get(tid as usize % SHARDS)
    }

    pub fn get(&self, tid: u32) -> Option<T> {
        self.shard(tid)?.lock().get(&tid).cloned()
    }

    /// Stores a task; what was there before is returned.
    pub fn insert(&self, tid: u32, v: T) -> Option<T> {
        self.shard(tid)?.lock().insert(tid, v)
    }

    /// Removes the entry if `is` says it is the one meant.
    pub fn remove_if(&self, tid: u32, is: impl FnOnce(&T) -> bool) {
        let Some(shard) = self.shard(tid) else { return };
        let old = {
            let mut map = shard.lock();
            let old = if map.get(&tid).is_some_and(is) { map.remove(&tid) } else { None };
            if map.is_empty() && map.capacity() > KEEP {
                map.shrink_to_fit();
            }
            old
        };
        // Its end may do work.
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn keeps_only_what_is_there() {
        let table = TidTable::default();
        for tid in 0..300_000 {
            assert!(table.insert(tid, Arc::new(tid)).is_none());
            table.remove_if(tid, |known| **known == tid + 1);
            assert_eq!(table.get(tid).as_deref(), Some(&tid));
            table.remove_if(tid, |known| **known == tid);
            assert!(table.get(tid).is_none());
        }
        let room: usize = table.shards.iter().map(|shard| shard.lock().capacity()).sum();
        assert!(room <= SHARDS * KEEP, "room for {room} is kept");
    }

    #[test]
    fn replaces_and_tells() {
        let table = TidTable::default();
        assert_eq!(table.insert(4_194_304, 1), None);
        assert_eq!(table.insert(4_194_304, 2), Some(1));
        assert_eq!(table.get(4_194_304), Some(2));
        assert_eq!(table.get(4_194_304 - SHARDS as u32), None);
    }
}
