//! Directories: looking up, listing, and changing names.

use crate::error::from_gofer;
use crate::fds::make_room;
use crate::inode::GoferInode;
use crate::listing::{Entry, LISTING_MAX, Listing};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_RDWR, RENAME_EXCHANGE};
use chitin_abi::stat::{S_IFCHR, S_IFIFO, S_IFSOCK};
use chitin_gofer_protocol::{NodeAttr, WALK_MAX, WalkEnd};
use chitin_vfs::{DirEntry, DirSink, Directory, FileKind, Inode, NewInode, NewKind};
use std::any::Any;
use std::sync::Arc;

/// unlinkat(2)'s flag for directories.
const AT_REMOVEDIR: u32 = 0x200;
/// The largest cookies, which no file system gives to anything but the end (positions are these plus 2).
const END: u64 = i64::MAX as u64 - 2;

fn ours(inode: &Arc<dyn Inode>) -> Option<&GoferInode> {
    (&**inode as &dyn Any).downcast_ref::<GoferInode>()
}

impl GoferInode {
    /// Several names, one below the other: at least the first, or its error.
    fn walk(&self, names: &[&[u8]]) -> Result<Vec<Arc<GoferInode>>, Errno> {
        let names = names.get(..names.len().min(WALK_MAX)).unwrap_or_default();
        let walk = self.with_node(|client, node| client.walk(node, names))?;
        // Every node must get an owner before an error may end this.
        let steps: Vec<_> = walk.steps.into_iter().map(|step| self.core.intern(step)).collect();
        match walk.end {
            WalkEnd::Symlink(target) => {
                if let Some(Ok(link)) = steps.last()
                    && link.kind() == FileKind::Symlink
                {
                    let _ = link.target.set(target.into_boxed_slice());
                }
            }
            WalkEnd::Errno(raw) if steps.is_empty() => {
                return Err(from_gofer(chitin_gofer_protocol::GoferError::Errno(raw)));
            }
            WalkEnd::Errno(_) | WalkEnd::Complete | WalkEnd::NotDirectory => {}
        }
        let mut found = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Ok(inode) => found.push(inode),
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        if found.is_empty() { Err(Errno::ENOENT) } else { Ok(found) }
    }

    /// What a name leads to, if it is needed for upkeep only.
    fn find(&self, name: &[u8]) -> Option<Arc<GoferInode>> {
        self.walk(&[name]).ok()?.into_iter().next()
    }

    /// One batch of entries after `cookie`; empty at the end.
    fn batch(&self, cookie: u64) -> Result<Vec<Entry>, Errno> {
        let mut batch = self.with_node(|client, node| client.readdir(node, cookie, false))?;
        if batch.iter().any(|entry| entry.kind == 0) {
            // A file system that does not tell types in listings.
            batch = self.with_node(|client, node| client.readdir(node, cookie, true))?;
        }
        let dev = self.key().0;
        let entry = |entry: chitin_gofer_protocol::DirEntry<'_>| {
            let mode = entry.attr.map_or(u32::from(entry.kind) << 12, |attr| attr.mode);
            Entry {
                name: entry.name.into(),
                ino: self.core.guest_ino(dev, entry.ino),
                kind: FileKind::from_mode(mode).unwrap_or(FileKind::Regular),
                next: entry.next,
            }
        };
        Ok(batch.iter().map(entry).collect())
    }

    /// The whole listing from the cache or the gofer; `Err` with as much as was read when it is too large to keep.
    fn whole(&self) -> Result<Result<Arc<Listing>, Vec<Entry>>, Errno> {
        if let Some(known) = self.listing.lock().clone() {
            return Ok(Ok(known));
        }
        let version = self.cached.lock().version;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let batch = self.batch(entries.last().map_or(0, |entry| entry.next))?;
            if batch.is_empty() {
                break;
            }
            entries.extend(batch);
            if entries.len() > LISTING_MAX {
                return Ok(Err(entries));
            }
        }
        let listing = Arc::new(Listing::new(entries));
        self.keep_listing(listing.clone(), version);
        Ok(Ok(listing))
    }

    /// A new regular file, with the descriptor it comes with.
    fn create_regular(&self, name: &[u8], new: &NewInode) -> Result<Arc<GoferInode>, Errno> {
        let create =
            || self.with_node(|client, node| client.create(node, name, O_RDWR, new.perm, new.uid, new.gid));
        let made = match create() {
            Err(Errno::ENFILE) => {
                make_room();
                match create() {
                    // The file was made, only its descriptor found no room.
                    Err(Errno::EEXIST) => {
                        self.changed();
                        return self.find(name).ok_or(Errno::ENFILE);
                    }
                    outcome => outcome,
                }
            }
            outcome => outcome,
        };
        match made {
            Ok((made, fd)) => {
                let inode = self.made(Ok(made))?;
                inode.created_with(fd);
                Ok(inode)
            }
            Err(error) => self.made(Err(error)),
        }
    }

    /// Makes the inode of something new.
    fn made(&self, made: Result<NodeAttr, Errno>) -> Result<Arc<GoferInode>, Errno> {
        self.changed();
        self.core.intern(made?)
    }
}

/// Hands entries over; the cookie after the last, or `None` when there was no more room.
fn emit(entries: &[Entry], mut cookie: u64, sink: &mut dyn DirSink) -> Option<u64> {
    for Entry { name, ino, kind, next } in entries {
        if !sink.entry(&DirEntry { name, ino: *ino, kind: *kind, next: *next }) {
            return None;
        }
        cookie = *next;
    }
    Some(cookie)
}

impl Directory for GoferInode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let found = self.walk(&[name])?;
        found.into_iter().next().map(|inode| inode as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }

    fn lookup_chain(&self, names: &[&[u8]]) -> Result<Vec<Arc<dyn Inode>>, Errno> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.walk(names)?.into_iter().map(|inode| inode as Arc<dyn Inode>).collect())
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let mut cookie = cookie;
        if !self.core.shared() {
            let known = if cookie == 0 { Some(self.whole()?) } else { self.listing.lock().clone().map(Ok) };
            match known {
                Some(Ok(listing)) => {
                    if let Some(entries) = listing.after(cookie) {
                        emit(entries, cookie, sink);
                        return Ok(());
                    }
                }
                Some(Err(start)) => match emit(&start, cookie, sink) {
                    Some(next) => cookie = next,
                    None => return Ok(()),
                },
                None => {}
            }
        }
        while cookie < END {
            let batch = self.batch(cookie)?;
            if batch.is_empty() {
                break;
            }
            match emit(&batch, cookie, sink) {
                Some(next) => cookie = next,
                None => break,
            }
        }
        Ok(())
    }

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        self.core.writable()?;
        let NewInode { kind, perm, uid, gid } = new;
        let (perm, uid, gid) = (*perm, *uid, *gid);
        let made = match kind {
            NewKind::Regular => return Ok(self.create_regular(name, new)?),
            NewKind::Directory => self.with_node(|client, node| client.mkdir(node, name, perm, uid, gid)),
            NewKind::Symlink(target) => {
                let made = self.with_node(|client, node| client.symlink(node, name, target, uid, gid));
                let link = self.made(made)?;
                let _ = link.target.set(target.clone().into_boxed_slice());
                return Ok(link);
            }
            NewKind::Fifo => {
                self.with_node(|client, node| client.mknod(node, name, S_IFIFO | perm, 0, uid, gid))
            }
            NewKind::Socket => {
                self.with_node(|client, node| client.mknod(node, name, S_IFSOCK | perm, 0, uid, gid))
            }
            NewKind::Device { kind, rdev } => {
                if *kind != FileKind::CharDevice || *rdev != 0 {
                    // Device nodes on the host are not for guests to make.
                    return Err(Errno::EPERM);
                }
                self.with_node(|client, node| client.mknod(node, name, S_IFCHR | perm, 0, uid, gid))
            }
        };
        Ok(self.made(made)?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.core.writable()?;
        let target = ours(target).filter(|target| Arc::ptr_eq(&target.core, &self.core));
        let target = target.ok_or(Errno::EXDEV)?;
        let made = self.with_node(|_, parent| {
            target
                .with_node(|client, node| client.link(node, parent, name))
                .map_err(|errno| chitin_gofer_protocol::GoferError::Errno(errno.raw()))
        });
        self.changed();
        target.changed();
        let NodeAttr { node, attr } = made?;
        target.found_again(node, attr);
        Ok(())
    }

    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.core.writable()?;
        let outcome = self.with_node(|client, node| client.unlink(node, name, 0));
        self.changed();
        outcome?;
        if let Some(victim) = ours(victim) {
            victim.unlinked();
        }
        Ok(())
    }

    fn rmdir(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.core.writable()?;
        let outcome = self.with_node(|client, node| client.unlink(node, name, AT_REMOVEDIR));
        self.changed();
        outcome?;
        if let Some(victim) = ours(victim) {
            victim.unlinked();
        }
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<(), Errno> {
        self.core.writable()?;
        let new_dir = ours(new_dir).filter(|dir| Arc::ptr_eq(&dir.core, &self.core)).ok_or(Errno::EXDEV)?;
        // Those whose attributes change with it.
        let moved = self.find(old);
        let replaced = new_dir.find(new);
        let outcome = self.with_node(|_, from| {
            new_dir
                .with_node(|client, to| client.rename(from, old, to, new, flags))
                .map_err(|errno| chitin_gofer_protocol::GoferError::Errno(errno.raw()))
        });
        self.changed();
        new_dir.changed();
        if let Some(moved) = &moved {
            moved.cached.lock().changed();
        }
        outcome?;
        match (moved, replaced) {
            (Some(moved), Some(replaced)) if Arc::ptr_eq(&moved, &replaced) => {}
            (_, Some(replaced)) if flags & RENAME_EXCHANGE != 0 => replaced.cached.lock().changed(),
            (_, Some(replaced)) => replaced.unlinked(),
            _ => {}
        }
        Ok(())
    }
}
