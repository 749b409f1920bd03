//! Who waits for whom with POSIX record locks, over all inodes: EDEADLK instead of a wait that could not end.
//!
//! OFD and flock locks are not looked at, as on Linux: their owners are not threads of control.

use super::LockOwner;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// One wait: by whom, for whom, on which inode's locks.
#[derive(Clone, Copy)]
struct Edge {
    waiter: LockOwner,
    holder: LockOwner,
    table: u64,
}

#[derive(Default)]
struct Waits {
    next: u64,
    edges: HashMap<u64, Edge>,
    /// A file table's threads may wait for several locks.
    by_waiter: HashMap<LockOwner, HashSet<u64>>,
}

impl Waits {
    fn remove(&mut self, id: u64) {
        let Some(edge) = self.edges.remove(&id) else { return };
        if let Some(ids) = self.by_waiter.get_mut(&edge.waiter) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_waiter.remove(&edge.waiter);
            }
        }
    }
}

/// Leaf lock.
static WAITS: Mutex<Option<Waits>> = Mutex::new(None);

/// A waiter's entry; dropping it withdraws it.
#[derive(Default)]
pub(super) struct Wait {
    id: Option<u64>,
}

impl Wait {
    /// Enters (or renews) the wait. `false`: it would close a circle, so it was not entered.
    pub(super) fn enter(&mut self, waiter: LockOwner, holder: LockOwner, table: u64) -> bool {
        let mut waits = WAITS.lock();
        let waits = waits.get_or_insert_default();
        if let Some(id) = self.id.take() {
            waits.remove(id);
        }
        let mut seen = HashSet::new();
        let mut open = vec![holder];
        while let Some(owner) = open.pop() {
            if owner == waiter {
                return false;
            }
            if seen.insert(owner) {
                let ids = waits.by_waiter.get(&owner).into_iter().flatten();
                open.extend(ids.filter_map(|id| waits.edges.get(id)).map(|edge| edge.holder));
            }
        }
        waits.next += 1;
        waits.edges.insert(waits.next, Edge { waiter, holder, table });
        waits.by_waiter.entry(waiter).or_default().insert(waits.next);
        self.id = Some(waits.next);
        true
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && let Some(waits) = WAITS.lock().as_mut()
        {
            waits.remove(id);
        }
    }
}

/// Locks of this inode changed: its waits are void until the waiters, who are woken, look again.
pub(super) fn void(table: u64) {
    if let Some(waits) = WAITS.lock().as_mut() {
        let gone: Vec<u64> =
            waits.edges.iter().filter(|(_, edge)| edge.table == table).map(|(id, _)| *id).collect();
        for id in gone {
            waits.remove(id);
        }
    }
}
