//! The intrusive structures of [`Tree`]: slots with a free list, the hash index, the two lists by use.
//!
//! All links are slot numbers that this module alone writes; a number that leads nowhere ends a walk
//! instead of panicking.

use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::{Evicted, Key, NIL, Node, Place, Recent, Tree};

impl Tree {
    pub(super) fn slot(&self, slot: u32) -> Option<&Node> {
        self.nodes.get(slot as usize)
    }

    pub(super) fn slot_mut(&mut self, slot: u32) -> Option<&mut Node> {
        self.nodes.get_mut(slot as usize)
    }

    /// The node of a key if it still exists.
    pub(super) fn existing(&self, key: Key) -> Option<&Node> {
        self.slot(key.slot)
            .filter(|node| node.generation == key.generation && (node.lookups > 0 || node.children > 0))
    }

    pub(super) fn existing_mut(&mut self, key: Key) -> Option<&mut Node> {
        self.slot_mut(key.slot)
            .filter(|node| node.generation == key.generation && (node.lookups > 0 || node.children > 0))
    }

    pub(super) fn key(&self, slot: u32) -> Option<Key> {
        self.slot(slot).map(|node| Key { slot, generation: node.generation })
    }

    pub(super) fn allocate(&mut self, mut node: Node) -> Result<u32, Errno> {
        if self.live >= self.max_nodes {
            return Err(Errno::ENFILE);
        }
        let slot = self.free;
        let slot = if let Some(old) = self.slot_mut(slot) {
            let next = old.chain;
            node.generation = old.generation;
            *old = node;
            self.free = next;
            slot
        } else {
            let slot = u32::try_from(self.nodes.len()).map_err(|_| Errno::ENFILE)?;
            node.generation = 1;
            self.nodes.push(node);
            slot
        };
        self.live = self.live.saturating_add(1);
        Ok(slot)
    }

    /// Puts a slot on the free list; its id becomes invalid.
    pub(super) fn release(&mut self, slot: u32) {
        let free = self.free;
        if let Some(node) = self.slot_mut(slot) {
            // After 2^32 lives of one slot an id repeats; it would only confuse the client that did it.
            node.generation = node.generation.wrapping_add(1);
            node.chain = free;
            node.parent = NIL;
            self.free = slot;
            self.live = self.live.saturating_sub(1);
        }
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    pub(super) fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let mut slot = *self.index.get(&self.hash(parent, name))?;
        loop {
            let node = self.slot(slot)?;
            if node.parent == parent && *node.name == *name {
                return Some(slot);
            }
            slot = node.chain;
        }
    }

    /// Enters a node into the index under its parent and name.
    pub(super) fn link(&mut self, slot: u32) {
        let Some(node) = self.slot(slot) else { return };
        let hash = self.hash(node.parent, &node.name);
        let next = self.index.insert(hash, slot).unwrap_or(NIL);
        if let Some(node) = self.slot_mut(slot) {
            node.chain = next;
        }
    }

    /// Takes a node out of the index, if it is in it.
    pub(super) fn unlink(&mut self, slot: u32) {
        let Some(node) = self.slot(slot) else { return };
        if node.place != Place::Named {
            return;
        }
        let next = node.chain;
        let hash = self.hash(node.parent, &node.name);
        let Some(&first) = self.index.get(&hash) else { return };
        if first == slot {
            if next == NIL {
                self.index.remove(&hash);
            } else {
                self.index.insert(hash, next);
            }
        } else {
            let mut at = first;
            while let Some(node) = self.slot_mut(at) {
                if node.chain == slot {
                    node.chain = next;
                    break;
                }
                at = node.chain;
            }
        }
        if let Some(node) = self.slot_mut(slot) {
            node.chain = NIL;
        }
    }

    /// The list a node with a descriptor belongs to; roots are in none.
    fn list(&mut self, place: Place) -> Option<&mut Recent> {
        match place {
            Place::Root => None,
            Place::Named => Some(&mut self.named),
            Place::Detached => Some(&mut self.detached),
        }
    }

    pub(super) fn push_newest(&mut self, slot: u32) {
        let Some(place) = self.slot(slot).map(|node| node.place) else { return };
        let Some(list) = self.list(place) else { return };
        let before = std::mem::replace(&mut list.newest, slot);
        if list.oldest == NIL {
            list.oldest = slot;
        }
        list.len = list.len.saturating_add(1);
        if let Some(node) = self.slot_mut(before) {
            node.newer = slot;
        }
        if let Some(node) = self.slot_mut(slot) {
            node.older = before;
            node.newer = NIL;
        }
    }

    pub(super) fn unlist(&mut self, slot: u32) {
        let Some(node) = self.slot_mut(slot) else { return };
        let place = node.place;
        let (newer, older) = (node.newer, node.older);
        node.newer = NIL;
        node.older = NIL;
        if let Some(node) = self.slot_mut(newer) {
            node.older = older;
        }
        if let Some(node) = self.slot_mut(older) {
            node.newer = newer;
        }
        let Some(list) = self.list(place) else { return };
        if list.newest == slot {
            list.newest = older;
        }
        if list.oldest == slot {
            list.oldest = newer;
        }
        list.len = list.len.saturating_sub(1);
    }

    pub(super) fn touch(&mut self, slot: u32) {
        let newest = match self.slot(slot).map(|node| node.place) {
            Some(Place::Named) => self.named.newest,
            Some(Place::Detached) => self.detached.newest,
            _ => return,
        };
        if newest != slot {
            self.unlist(slot);
            self.push_newest(slot);
        }
    }

    /// Evicts the oldest descriptor of the list `slot` is in, if the list is too long.
    pub(super) fn evict_over(&mut self, slot: u32) -> Evicted {
        let place = self.slot(slot)?.place;
        let list = self.list(place)?;
        if list.len <= list.max {
            return None;
        }
        let oldest = list.oldest;
        self.evict(oldest)
    }

    pub(super) fn evict(&mut self, slot: u32) -> Option<Arc<OwnedFd>> {
        self.slot(slot)?.fd.as_ref()?;
        self.unlist(slot);
        self.slot_mut(slot)?.fd.take()
    }
}
