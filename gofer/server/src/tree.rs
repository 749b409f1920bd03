//! The table of nodes: which file each number means, without a descriptor for each.
//!
//! A node is a place (parent node and name) and an identity (device, inode, type). Descriptors
//! (`O_PATH`) are a cache over it: [`Tree`] keeps the most recently used ones, and [`crate::resolve`]
//! opens a lost one again by walking down from the nearest ancestor that has one, comparing identities.
//! Renames through the gofer move nodes. A node whose place is lost (deleted, overwritten, replaced)
//! is *detached*: it works as long as its descriptor is kept, in a list of its own so that ordinary use
//! does not evict it; afterwards it is `ESTALE`.
//!
//! Invariants: one node per (parent, name), found through `index`; a node exists while the client holds
//! references to it (`lookups`) or nodes below it exist (`children`); parents form no cycle. Ids carry a
//! generation, so a freed id is never taken for its slot's next owner.
//!
//! Locks: none here; the server wraps the whole table in one mutex and makes no file system call under
//! it. Closing evicted descriptors is therefore left to the caller, who gets them returned.

use std::collections::HashMap;
use std::hash::RandomState;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use chitin_gofer_protocol::{Attr, NodeId};
use nix::errno::Errno;

const NIL: u32 = u32::MAX;

/// A node's slot and generation: the parsed form of a [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    pub fn from_id(id: NodeId) -> Key {
        Key { slot: (id & 0xffff_ffff) as u32, generation: (id >> 32) as u32 }
    }

    pub fn id(self) -> NodeId {
        (u64::from(self.generation) << 32) | u64::from(self.slot)
    }
}

/// What makes a file the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
    /// `S_IFMT` bits: an inode number may be used again for a file of another type.
    pub kind: u32,
}

impl From<&Attr> for Identity {
    fn from(attr: &Attr) -> Self {
        Identity { dev: attr.dev, ino: attr.ino, kind: attr.file_type() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// An attached root: its descriptor is never evicted.
    Root,
    /// At (parent, name), in the index.
    Named,
    /// Nowhere any more.
    Detached,
}

#[derive(Debug)]
struct Node {
    generation: u32,
    lookups: u32,
    children: u32,
    parent: u32,
    /// Next node of the same hash in the index, or next free slot.
    chain: u32,
    newer: u32,
    older: u32,
    root: u32,
    place: Place,
    identity: Identity,
    name: Box<[u8]>,
    fd: Option<Arc<OwnedFd>>,
}

/// Nodes with descriptors, by last use. Which of the two lists a node is in follows from its place.
#[derive(Debug)]
struct Recent {
    newest: u32,
    oldest: u32,
    len: usize,
    max: usize,
}

impl Recent {
    fn new(max: usize) -> Self {
        Recent { newest: NIL, oldest: NIL, len: 0, max }
    }
}

/// What a handler needs to know of a node.
#[derive(Debug)]
pub struct View {
    pub root: u32,
    pub kind: u32,
    pub fd: Option<Arc<OwnedFd>>,
}

/// The way down to a node from an ancestor whose descriptor is open.
#[derive(Debug)]
pub struct Route {
    pub from: Arc<OwnedFd>,
    pub down: Vec<(Key, Box<[u8]>, Identity)>,
    /// Value of [`Tree::renames`] this route belongs to.
    pub renames: u64,
}

/// A descriptor that was evicted, to be dropped after the lock.
pub type Evicted = Option<Arc<OwnedFd>>;

#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    free: u32,
    live: usize,
    max_nodes: usize,
    index: HashMap<u64, u32>,
    hasher: RandomState,
    named: Recent,
    detached: Recent,
    renames: u64,
}

impl Tree {
    /// A table of at most `max_nodes` nodes and about `max_open` descriptors.
    pub fn new(max_nodes: usize, max_open: usize) -> Tree {
        let pinned = (max_open / 4).max(1);
        Tree {
            nodes: Vec::new(),
            free: NIL,
            live: 0,
            max_nodes: max_nodes.min(NIL as usize),
            index: HashMap::new(),
            hasher: RandomState::new(),
            named: Recent::new(max_open.saturating_sub(pinned).max(1)),
            detached: Recent::new(pinned),
            renames: 0,
        }
    }

    /// Counts renames and removals, for those who walk outside of the lock.
    pub fn renames(&self) -> u64 {
        self.renames
    }

    /// Number of nodes that exist.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Number of descriptors that are kept, roots apart.
    pub fn open(&self) -> usize {
        self.named.len.saturating_add(self.detached.len)
    }

    /// Adds the node of a root. It is never freed.
    pub fn add_root(&mut self, root: u32, attr: &Attr, fd: Arc<OwnedFd>) -> Result<Key, Errno> {
        let slot = self.allocate(Node {
            generation: 0,
            lookups: 0,
            children: 1,
            parent: NIL,
            chain: NIL,
            newer: NIL,
            older: NIL,
            root,
            place: Place::Root,
            identity: attr.into(),
            name: Box::default(),
            fd: Some(fd),
        })?;
        self.key(slot).ok_or(Errno::ESTALE)
    }

    /// Takes a further reference to a node that is known to exist.
    pub fn reference(&mut self, key: Key) -> Result<(), Errno> {
        let node = self.existing_mut(key).ok_or(Errno::ESTALE)?;
        node.lookups = node.lookups.checked_add(1).ok_or(Errno::ENOMEM)?;
        Ok(())
    }

    /// Looks at a node the client names, which must hold a reference to it.
    pub fn get(&mut self, key: Key) -> Result<View, Errno> {
        let node = self.existing(key).filter(|node| node.lookups > 0).ok_or(Errno::EBADF)?;
        let view = View { root: node.root, kind: node.identity.kind, fd: node.fd.clone() };
        if view.fd.is_some() {
            self.touch(key.slot);
        }
        Ok(view)
    }

    /// The root a node lies below.
    pub fn root_of(&self, key: Key) -> Option<u32> {
        self.existing(key).map(|node| node.root)
    }

    /// How to reach a node that has no descriptor.
    pub fn route(&self, key: Key) -> Result<Route, Errno> {
        let mut down = Vec::new();
        let mut at = key.slot;
        let mut node = self.existing(key).ok_or(Errno::ESTALE)?;
        loop {
            if let Some(fd) = &node.fd {
                down.reverse();
                return Ok(Route { from: Arc::clone(fd), down, renames: self.renames });
            }
            if node.place != Place::Named || down.len() > self.live {
                return Err(Errno::ESTALE);
            }
            let here = Key { slot: at, generation: node.generation };
            down.push((here, node.name.clone(), node.identity));
            at = node.parent;
            node = self.slot(at).ok_or(Errno::ESTALE)?;
        }
    }

    /// Keeps a descriptor that was opened for a node.
    pub fn keep(&mut self, key: Key, fd: Arc<OwnedFd>) -> Evicted {
        match self.existing_mut(key) {
            Some(node) if node.fd.is_none() => {
                node.fd = Some(fd);
                self.push_newest(key.slot);
                self.evict_over(key.slot)
            }
            _ => Some(fd),
        }
    }

    /// The node at a place, if it is known.
    pub fn child(&self, parent: Key, name: &[u8]) -> Option<(Key, Identity)> {
        self.existing(parent)?;
        let slot = self.find(parent.slot, name)?;
        Some((self.key(slot)?, self.slot(slot)?.identity))
    }

    /// Whether the client holds references to a node.
    pub fn is_referenced(&self, key: Key) -> bool {
        self.existing(key).is_some_and(|node| node.lookups > 0)
    }

    /// Records that `identity` was found at a place, with a reference for the client.
    pub fn add(
        &mut self,
        parent: Key,
        name: &[u8],
        identity: Identity,
        fd: Option<Arc<OwnedFd>>,
    ) -> Result<(Key, Evicted), Errno> {
        let root = self.existing(parent).ok_or(Errno::ESTALE)?.root;
        if let Some(slot) = self.find(parent.slot, name) {
            let node = self.slot_mut(slot).ok_or(Errno::ESTALE)?;
            if node.identity == identity {
                node.lookups = node.lookups.checked_add(1).ok_or(Errno::ENOMEM)?;
                let key = self.key(slot).ok_or(Errno::ESTALE)?;
                let evicted = match fd {
                    Some(fd) => self.keep(key, fd),
                    None => None,
                };
                return Ok((key, evicted));
            }
            // Another file took the place behind our back.
            let stale = self.detach(slot);
            drop(stale);
        }
        let slot = self.allocate(Node {
            generation: 0,
            lookups: 1,
            children: 0,
            parent: parent.slot,
            chain: NIL,
            newer: NIL,
            older: NIL,
            root,
            place: Place::Named,
            identity,
            name: name.into(),
            fd: None,
        })?;
        if let Some(parent) = self.slot_mut(parent.slot) {
            parent.children = parent.children.saturating_add(1);
        }
        self.link(slot);
        let key = self.key(slot).ok_or(Errno::ESTALE)?;
        let evicted = match fd {
            Some(fd) => self.keep(key, fd),
            None => None,
        };
        Ok((key, evicted))
    }

    /// Gives back one reference; unknown nodes are ignored. Returns what is to be closed.
    pub fn close(&mut self, key: Key, closed: &mut Vec<Arc<OwnedFd>>) {
        match self.existing_mut(key) {
            Some(node) if node.lookups > 0 => node.lookups = node.lookups.saturating_sub(1),
            _ => return,
        }
        let mut slot = key.slot;
        // A freed node may have been the last one below its parent, and so on upwards.
        while let Some(node) = self.slot(slot) {
            if node.lookups > 0 || node.children > 0 || node.place == Place::Root {
                return;
            }
            let parent = node.parent;
            if node.fd.is_some() {
                self.unlist(slot);
            }
            self.unlink(slot);
            if let Some(node) = self.slot_mut(slot) {
                closed.extend(node.fd.take());
                node.name = Box::default();
            }
            self.release(slot);
            let Some(node) = self.slot_mut(parent) else { return };
            node.children = node.children.saturating_sub(1);
            slot = parent;
        }
    }

    /// Records that a name was removed; `was` is the node that was there before.
    pub fn removed(&mut self, parent: Key, name: &[u8], was: Option<Key>) -> Evicted {
        self.renames = self.renames.wrapping_add(1);
        let slot = self.existing(parent).and_then(|_| self.find(parent.slot, name))?;
        if self.key(slot) == was { self.detach(slot) } else { None }
    }

    /// Records a rename that the host has carried out.
    pub fn renamed(
        &mut self,
        from: Key,
        from_name: &[u8],
        to: Key,
        to_name: &[u8],
        exchange: bool,
    ) -> Evicted {
        self.renames = self.renames.wrapping_add(1);
        self.existing(from)?;
        self.existing(to)?;
        let source = self.find(from.slot, from_name);
        let target = self.find(to.slot, to_name);
        if source.is_some() && source == target {
            return None;
        }
        if exchange {
            let (mut first, mut second) = (None, None);
            source.inspect(|slot| self.unlink(*slot));
            target.inspect(|slot| self.unlink(*slot));
            if let Some(slot) = source {
                first = self.place(slot, to, to_name);
            }
            if let Some(slot) = target {
                second = self.place(slot, from, from_name);
            }
            return first.or(second);
        }
        if let (Some(a), Some(b)) = (source, target)
            && self.slot(a).map(|n| n.identity) == self.slot(b).map(|n| n.identity)
        {
            // Two names of one file: rename(2) does nothing.
            return None;
        }
        let evicted = target.and_then(|slot| self.detach(slot));
        let moved = source.and_then(|slot| {
            self.unlink(slot);
            self.place(slot, to, to_name)
        });
        evicted.or(moved)
    }

    /// Gives up the `count` least recently used descriptors.
    pub fn shrink(&mut self, count: usize) -> Vec<Arc<OwnedFd>> {
        let mut evicted = Vec::new();
        for _ in 0..count {
            let slot = if self.named.len > 0 { self.named.oldest } else { self.detached.oldest };
            match self.evict(slot) {
                Some(fd) => evicted.push(fd),
                None => break,
            }
        }
        evicted
    }

    /// Puts an unlinked node at a new place, or detaches it if that place lies below itself (which
    /// happens only if directories were also moved behind our back).
    fn place(&mut self, slot: u32, parent: Key, name: &[u8]) -> Evicted {
        let mut at = parent.slot;
        let mut steps = 0_usize;
        while let Some(node) = self.slot(at) {
            if at == slot || steps > self.live {
                return self.detach(slot);
            }
            at = node.parent;
            steps = steps.saturating_add(1);
        }
        let old = self.slot(slot)?.parent;
        let root = self.slot(parent.slot)?.root;
        let node = self.slot_mut(slot)?;
        node.parent = parent.slot;
        node.name = name.into();
        node.root = root;
        self.link(slot);
        if let Some(new) = self.slot_mut(parent.slot) {
            new.children = new.children.saturating_add(1);
        }
        if let Some(old) = self.slot_mut(old) {
            // The client holds a reference to it, so that it is not freed here even without children.
            old.children = old.children.saturating_sub(1);
        }
        None
    }

    /// Takes a node's place away. Its descriptor moves to the other list.
    fn detach(&mut self, slot: u32) -> Evicted {
        self.unlink(slot);
        let node = self.slot(slot)?;
        if node.place != Place::Named {
            return None;
        }
        let open = node.fd.is_some();
        if open {
            self.unlist(slot);
        }
        self.slot_mut(slot)?.place = Place::Detached;
        if open {
            self.push_newest(slot);
            return self.evict_over(slot);
        }
        None
    }
}

mod lists;

#[cfg(test)]
mod tests;
