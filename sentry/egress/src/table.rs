//! The flows of packets: a bounded table in shards.

use crate::flow::{Flow, Key};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

const SHARDS: usize = 16;
/// Per shard.
const MAX_FLOWS: usize = 2048;

pub type Shard = HashMap<Key, Flow>;

pub struct Table {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

impl Table {
    pub fn new() -> Table {
        Table { shards: Default::default(), hasher: RandomState::new() }
    }

    pub fn shard(&self, key: &Key) -> Option<MutexGuard<'_, Shard>> {
        let hash = usize::try_from(self.hasher.hash_one(key)).unwrap_or(0);
        self.shards.get(hash % SHARDS).map(Mutex::lock)
    }

    pub fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(Mutex::lock)
    }
}

/// Makes room for another flow in a full shard; those that had to go.
pub fn make_room(shard: &mut Shard) -> Vec<(Key, Flow)> {
    if shard.len() < MAX_FLOWS {
        return Vec::new();
    }
    let mut worth: Vec<_> = shard.iter().map(|(key, flow)| (flow.worth(key.proto), *key)).collect();
    worth.sort_unstable_by_key(|(worth, _)| *worth);
    worth.truncate(MAX_FLOWS / 8);
    worth.into_iter().filter_map(|(_, key)| shard.remove_entry(&key)).collect()
}

/// Packets cut in pieces, of which the first has passed.
pub struct Fragments {
    passed: Vec<Piece>,
    next: usize,
}

pub type Piece = (std::net::IpAddr, std::net::IpAddr, u8, u32);

impl Fragments {
    const MAX: usize = 256;

    pub fn new() -> Fragments {
        Fragments { passed: Vec::new(), next: 0 }
    }

    pub fn pass(&mut self, piece: Piece) {
        if self.passed.len() < Fragments::MAX {
            self.passed.push(piece);
        } else if let Some(slot) = self.passed.get_mut(self.next) {
            *slot = piece;
            self.next = (self.next + 1) % Fragments::MAX;
        }
    }

    pub fn has_passed(&self, piece: &Piece) -> bool {
        self.passed.contains(piece)
    }
}
