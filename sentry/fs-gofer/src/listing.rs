//! Cached directory listings of exclusive trees, bounded per directory and per file system.
//!
//! A listing keeps the gofer's cookies, so that a reader can go on with or without it.

use crate::inode::GoferInode;
use chitin_vfs::FileKind;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Entries of the largest listing that is kept.
pub const LISTING_MAX: usize = 4096;
/// Bytes of all listings of one file system.
const BYTES_MAX: usize = 8 << 20;

pub struct Entry {
    pub name: Box<[u8]>,
    pub ino: u64,
    pub kind: FileKind,
    pub next: u64,
}

/// A directory's entries, from the first to the last.
pub struct Listing {
    pub entries: Vec<Entry>,
    bytes: usize,
}

impl Listing {
    pub fn new(entries: Vec<Entry>) -> Listing {
        let names: usize = entries.iter().map(|entry| entry.name.len()).sum();
        let bytes = entries.len().saturating_mul(size_of::<Entry>() + 16).saturating_add(names);
        Listing { entries, bytes }
    }

    /// The entries after a cookie; `None` for one that is not of this listing.
    pub fn after(&self, cookie: u64) -> Option<&[Entry]> {
        if cookie == 0 {
            return Some(&self.entries);
        }
        let at = self.entries.iter().position(|entry| entry.next == cookie)?;
        self.entries.get(at.saturating_add(1)..)
    }
}

/// The listings of one file system, oldest first.
#[derive(Default)]
pub struct Listings {
    queue: Mutex<VecDeque<Weak<GoferInode>>>,
    bytes: AtomicUsize,
}

impl GoferInode {
    /// Keeps a listing that was read while the directory was at `version`.
    pub(crate) fn keep_listing(&self, listing: Arc<Listing>, version: u64) {
        let listings = &self.core.listings;
        {
            // Under the lock that changes take: a listing is stored before a change drops it, or not at all.
            let cached = self.cached.lock();
            if cached.version != version {
                return;
            }
            listings.bytes.fetch_add(listing.bytes, Ordering::Relaxed);
            let old = self.listing.lock().replace(listing);
            if let Some(old) = old {
                listings.bytes.fetch_sub(old.bytes, Ordering::Relaxed);
            }
        }
        listings.queue.lock().push_back(self.me.clone());
        loop {
            let oldest = {
                let mut queue = listings.queue.lock();
                let over = listings.bytes.load(Ordering::Relaxed) > BYTES_MAX || queue.len() > 4096;
                if over { queue.pop_front() } else { None }
            };
            let Some(oldest) = oldest else { return };
            if let Some(inode) = oldest.upgrade() {
                inode.drop_listing();
            }
        }
    }

    pub(crate) fn drop_listing(&self) {
        let old = self.listing.lock().take();
        if let Some(old) = old {
            self.core.listings.bytes.fetch_sub(old.bytes, Ordering::Relaxed);
        }
    }
}
