//! The state of a directory: what differs from the lower one, and the merged listing.
//!
//! Cookies: the number of the next entry of the lower directory, or [`UPPER`] plus the id of a new entry. Lower
//! directories do not change, and ids are never used twice, so a cookie stays good whatever is made or removed.

use crate::node::Node;
use chitin_abi::Errno;
use chitin_vfs::{DirEntry, DirSink, Directory, FileKind};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

/// Cookies of new entries start here.
pub(crate) const UPPER: u64 = 1 << 62;

/// What is known about a name. A name that is not known is the lower directory's, if there is one.
pub(crate) enum Child {
    /// A lower file, unchanged, in use as long as somebody does.
    Seen(Weak<Node>),
    /// A lower file, changed, in its place.
    Kept(Arc<Node>),
    /// Something new under this name; `over`: the lower directory has the name too.
    New { node: Arc<Node>, id: u64, over: bool },
    /// The lower directory's name was removed.
    Whiteout,
}

/// An entry of the lower directory.
pub(crate) struct LowerEntry {
    pub(crate) name: Box<[u8]>,
    pub(crate) ino: u64,
    pub(crate) kind: FileKind,
}

#[derive(Default)]
pub(crate) struct Dir {
    pub(crate) children: HashMap<Arc<[u8]>, Child>,
    /// The names of new entries, by id.
    pub(crate) order: BTreeMap<u64, Arc<[u8]>>,
    next_id: u64,
    /// `Seen` entries added since the dead ones were last dropped.
    seen: usize,
    /// The lower listing, while somebody reads through it.
    pub(crate) listing: Option<Arc<Vec<LowerEntry>>>,
    /// Removed: nothing can be made in it any more.
    pub(crate) dead: bool,
}

impl Dir {
    /// Notes an unchanged lower file.
    pub(crate) fn see(&mut self, name: &[u8], node: &Arc<Node>) {
        self.seen += 1;
        if self.seen > 64 + self.children.len() / 2 {
            self.seen = 0;
            self.children.retain(|_, child| !matches!(child, Child::Seen(node) if node.strong_count() == 0));
        }
        self.children.insert(name.into(), Child::Seen(Arc::downgrade(node)));
    }

    /// Whether a name is free; the VFS knows that it is not the lower directory's alone.
    pub(crate) fn is_free(&self, name: &[u8]) -> bool {
        matches!(self.children.get(name), None | Some(Child::Whiteout))
    }

    /// Makes `name` lead to `node`, whatever it was before.
    pub(crate) fn place(&mut self, name: &[u8], node: Arc<Node>) {
        let over = match self.children.get(name) {
            Some(Child::New { id, over, .. }) => {
                self.order.remove(id);
                *over
            }
            Some(_) => true,
            None => false,
        };
        let name: Arc<[u8]> = name.into();
        let id = self.next_id;
        self.next_id += 1;
        self.order.insert(id, name.clone());
        self.children.insert(name, Child::New { node, id, over });
    }

    /// Removes `name`, with a whiteout where the lower directory has it.
    pub(crate) fn take(&mut self, name: &[u8]) {
        let white = match self.children.remove(name) {
            Some(Child::New { id, over, .. }) => {
                self.order.remove(&id);
                over
            }
            Some(_) => true,
            None => false,
        };
        if white {
            self.children.insert(name.into(), Child::Whiteout);
        }
    }

    /// Whether a lower entry shows: not removed, nor covered by a new one.
    fn shows(&self, entry: &LowerEntry) -> bool {
        !matches!(self.children.get(&*entry.name), Some(Child::Whiteout | Child::New { .. }))
    }

    pub(crate) fn is_empty(&self, lower: &[LowerEntry]) -> bool {
        self.order.is_empty() && !lower.iter().any(|entry| self.shows(entry))
    }
}

/// Everything in a lower directory.
pub(crate) fn read_lower(dir: &dyn Directory) -> Result<Vec<LowerEntry>, Errno> {
    struct Collect {
        entries: Vec<LowerEntry>,
        next: u64,
    }
    impl DirSink for Collect {
        fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
            self.next = entry.next;
            self.entries.push(LowerEntry { name: entry.name.into(), ino: entry.ino, kind: entry.kind });
            true
        }
    }
    let mut all = Collect { entries: Vec::new(), next: 0 };
    loop {
        let before = all.entries.len();
        dir.read_dir(all.next, &mut all)?;
        if all.entries.len() == before {
            return Ok(all.entries);
        }
    }
}

impl Node {
    /// The lower directory's entries, kept until a reader has come to their end.
    pub(crate) fn lower_entries(&self) -> Result<Arc<Vec<LowerEntry>>, Errno> {
        let Some(lower) = self.lower_dir() else { return Ok(Arc::default()) };
        if let Some(listing) = &self.dir_state()?.read().listing {
            return Ok(listing.clone());
        }
        let listing = Arc::new(read_lower(lower)?);
        self.dir_state()?.write().listing = Some(listing.clone());
        Ok(listing)
    }

    pub(crate) fn forget_listing(&self) -> Result<(), Errno> {
        if self.dir_state()?.read().listing.is_some() {
            self.dir_state()?.write().listing = None;
        }
        Ok(())
    }

    pub(crate) fn list(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        const BATCH: usize = 128;
        let state = self.dir_state()?;
        if cookie < UPPER && self.lower.is_some() {
            let lower = self.lower_entries()?;
            let mut at = usize::try_from(cookie).unwrap_or(usize::MAX);
            while let Some(part) = lower.get(at..).filter(|part| !part.is_empty()) {
                let part = part.get(..BATCH.min(part.len())).unwrap_or(part);
                // The sink is not called under the lock.
                let shown: Vec<bool> = {
                    let dir = state.read();
                    part.iter().map(|entry| dir.shows(entry)).collect()
                };
                for (entry, shown) in part.iter().zip(shown) {
                    at += 1;
                    let next = if at == lower.len() { UPPER } else { at as u64 };
                    let entry = DirEntry { name: &entry.name, ino: entry.ino, kind: entry.kind, next };
                    if shown && !sink.entry(&entry) {
                        return Ok(());
                    }
                }
            }
            self.forget_listing()?;
        }
        let mut id = cookie.saturating_sub(UPPER);
        loop {
            let batch: Vec<(u64, Arc<[u8]>, u64, FileKind)> = {
                let dir = state.read();
                let entry = |(id, name): (&u64, &Arc<[u8]>)| match dir.children.get(name) {
                    Some(Child::New { node, .. }) => Some((*id, name.clone(), node.ino, node.kind)),
                    _ => None,
                };
                dir.order.range(id..).filter_map(entry).take(BATCH).collect()
            };
            for (at, name, ino, kind) in &batch {
                id = at.saturating_add(1);
                let next = UPPER.saturating_add(id);
                if !sink.entry(&DirEntry { name, ino: *ino, kind: *kind, next }) {
                    return Ok(());
                }
            }
            if batch.len() < BATCH {
                return Ok(());
            }
        }
    }
}
