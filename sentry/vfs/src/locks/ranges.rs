//! The record locks of one inode as ranges: conflicts, splitting and merging.

use super::{LockKind, Owner};

/// The greatest offset (OFFSET_MAX): a range that ends here reaches to the end of the file, however long it gets.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// Bytes `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    pub(super) fn overlaps(&self, other: &Range) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Overlapping or side by side.
    fn touches(&self, other: &Range) -> bool {
        self.start <= other.end.saturating_add(1) && other.start <= self.end.saturating_add(1)
    }
}

/// A record lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLock {
    pub range: Range,
    pub kind: LockKind,
    pub owner: Owner,
    /// Who took it, as reported by F_GETLK; -1 for OFD locks.
    pub pid: i32,
}

/// The locks, in no particular order.
#[derive(Default)]
pub(super) struct Records {
    locks: Vec<RecordLock>,
}

impl Records {
    pub(super) fn all(&self) -> &[RecordLock] {
        &self.locks
    }

    pub(super) fn len(&self) -> usize {
        self.locks.len()
    }

    /// The first lock of another owner that excludes `wanted`.
    pub(super) fn conflict(&self, wanted: &RecordLock) -> Option<RecordLock> {
        let excludes = |lock: &&RecordLock| {
            lock.owner != wanted.owner
                && (lock.kind == LockKind::Write || wanted.kind == LockKind::Write)
                && lock.range.overlaps(&wanted.range)
        };
        self.locks.iter().filter(excludes).min_by_key(|lock| lock.range.start).copied()
    }

    /// Gives the owner a lock on the range, over whatever it held there. There is no conflict.
    pub(super) fn insert(&mut self, new: RecordLock) {
        let mut merged = new;
        self.locks.retain(|lock| {
            let joins = lock.owner == new.owner && lock.kind == new.kind && lock.range.touches(&new.range);
            if joins {
                merged.range.start = merged.range.start.min(lock.range.start);
                merged.range.end = merged.range.end.max(lock.range.end);
            }
            !joins
        });
        self.remove(new.owner, &new.range);
        self.locks.push(merged);
    }

    /// Takes the range from what an owner holds; whether it held something there.
    pub(super) fn remove(&mut self, owner: Owner, range: &Range) -> bool {
        let mut pieces = Vec::new();
        let before = self.locks.len();
        self.locks.retain(|lock| {
            if lock.owner != owner || !lock.range.overlaps(range) {
                return true;
            }
            if lock.range.start < range.start {
                let range = Range { start: lock.range.start, end: range.start - 1 };
                pieces.push(RecordLock { range, ..*lock });
            }
            if lock.range.end > range.end {
                let range = Range { start: range.end + 1, end: lock.range.end };
                pieces.push(RecordLock { range, ..*lock });
            }
            false
        });
        let changed = self.locks.len() != before;
        self.locks.append(&mut pieces);
        changed
    }
}
