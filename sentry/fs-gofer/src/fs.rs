//! A root of the gofer as a file system: attaching, identities, statfs, sync.

use crate::error::from_gofer;
use crate::inode::GoferInode;
use crate::listing::Listings;
use chitin_abi::Errno;
use chitin_abi::stat::{ST_RDONLY, ST_VALID, Statfs};
use chitin_gofer_protocol::{Client, NodeAttr};
use chitin_vfs::{FileKind, FileSystem, Inode};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Who else may change the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Nobody: everything is cached.
    Exclusive,
    /// The host: nothing is.
    Shared,
}

/// How a root is presented.
#[derive(Clone, Debug)]
pub struct GoferOptions {
    pub cache: Cache,
    /// The gofer refuses changes to this root, and so do we.
    pub readonly: bool,
    /// What /proc/mounts shows as the type.
    pub fs_type: &'static str,
    /// What statfs(2) answers as f_type; `None`: what the host says.
    pub magic: Option<u64>,
}

impl Default for GoferOptions {
    fn default() -> Self {
        GoferOptions { cache: Cache::Exclusive, readonly: false, fs_type: "gofer", magic: None }
    }
}

/// What all inodes of one file system share.
pub struct Core {
    pub client: Arc<Client>,
    pub options: GoferOptions,
    pub dev: u64,
    /// Inodes by host device and number.
    table: Mutex<HashMap<(u64, u64), Weak<GoferInode>>>,
    /// Host devices in the order they appeared; the first is the root's.
    devices: Mutex<Vec<u64>>,
    pub listings: Listings,
    /// Files written to since the last sync, by address.
    dirty: Mutex<HashMap<usize, Weak<GoferInode>>>,
}

impl Core {
    pub fn shared(&self) -> bool {
        self.options.cache == Cache::Shared
    }

    pub fn writable(&self) -> Result<(), Errno> {
        if self.options.readonly { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// The inode of a node that a reply brought; its reference is taken care of.
    pub fn intern(self: &Arc<Core>, found: NodeAttr) -> Result<Arc<GoferInode>, Errno> {
        let NodeAttr { node, attr } = found;
        let Some(kind) = FileKind::from_mode(attr.mode) else {
            self.client.forget(node);
            return Err(Errno::EIO);
        };
        let ino = self.guest_ino(attr.dev, attr.ino);
        let key = (attr.dev, attr.ino);
        let known = {
            let mut table = self.table.lock();
            let known = table.get(&key).and_then(Weak::upgrade);
            if !known.as_ref().is_some_and(|known| known.is_same(kind, &attr)) {
                // New, or the host has used the number of a deleted file again.
                let new = GoferInode::new(self, node, ino, kind, attr);
                let old = table.insert(key, Arc::downgrade(&new));
                drop(table);
                drop((old, known));
                return Ok(new);
            }
            known
        };
        let inode = known.ok_or(Errno::EIO)?;
        inode.found_again(node, attr);
        Ok(inode)
    }

    /// A number that is unique in this file system: the host's own on the root's device, tagged on others.
    pub fn guest_ino(&self, dev: u64, ino: u64) -> u64 {
        let index = {
            let mut devices = self.devices.lock();
            match devices.iter().position(|known| *known == dev) {
                Some(index) => index,
                None => {
                    devices.push(dev);
                    devices.len().saturating_sub(1)
                }
            }
        };
        tagged(index, ino)
    }

    /// The file has no name any more: its number may soon mean another file.
    pub fn unlist(&self, inode: &GoferInode) {
        let removed = {
            let mut table = self.table.lock();
            match table.get(&inode.key()) {
                Some(weak) if std::ptr::eq(weak.as_ptr(), inode) => table.remove(&inode.key()),
                _ => None,
            }
        };
        drop(removed);
    }

    /// A file has unsaved content.
    pub fn add_dirty(&self, inode: &Arc<GoferInode>) {
        self.dirty.lock().insert(Arc::as_ptr(inode) as usize, Arc::downgrade(inode));
    }

    pub fn remove_dirty(&self, inode: &GoferInode) {
        let removed = self.dirty.lock().remove(&(std::ptr::from_ref(inode) as usize));
        drop(removed);
    }

    /// Inodes that are held by somebody, for tests.
    fn live(&self) -> usize {
        self.table.lock().len()
    }
}

/// Numbers of the first device stay; those of others get the device's index above 48 bits, where hosts have none.
fn tagged(index: usize, ino: u64) -> u64 {
    match u64::try_from(index).unwrap_or(0) {
        0 => ino,
        // Larger numbers are rare; folding them keeps clashes improbable.
        index => (ino ^ (ino >> 48)) & 0xffff_ffff_ffff | (index << 48),
    }
}

/// One root of the gofer.
pub struct GoferFs {
    core: Arc<Core>,
    root: Arc<GoferInode>,
}

impl GoferFs {
    /// Attaches to root number `root_index` of the gofer's configuration.
    pub fn attach(
        client: Arc<Client>,
        root_index: u32,
        options: GoferOptions,
    ) -> Result<Arc<GoferFs>, chitin_gofer_protocol::GoferError> {
        let found = client.attach(root_index)?;
        let core = Arc::new(Core {
            client,
            options,
            dev: chitin_vfs::inode::anon_dev(),
            table: Mutex::default(),
            devices: Mutex::new(vec![found.attr.dev]),
            listings: Listings::default(),
            dirty: Mutex::default(),
        });
        let root = core.intern(found).map_err(|errno| {
            // Only a file of no known type is refused.
            chitin_gofer_protocol::GoferError::Errno(errno.raw())
        })?;
        Ok(Arc::new(GoferFs { core, root }))
    }

    pub fn root_inode(&self) -> &Arc<GoferInode> {
        &self.root
    }

    /// How many inodes are held.
    pub fn live_inodes(&self) -> usize {
        self.core.live()
    }
}

impl FileSystem for GoferFs {
    fn fs_type(&self) -> &'static str {
        self.core.options.fs_type
    }

    fn dev(&self) -> u64 {
        self.core.dev
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<Statfs, Errno> {
        // Deleted files that the gofer still holds would count as used.
        self.core.client.flush_forgotten().map_err(from_gofer)?;
        let stat = self.root.with_node(|client, node| client.statfs(node))?;
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(Statfs {
            f_type: self.core.options.magic.unwrap_or(stat.fstype),
            f_bsize: signed(stat.bsize),
            f_frsize: signed(stat.frsize),
            f_blocks: stat.blocks,
            f_bfree: stat.bfree,
            f_bavail: stat.bavail,
            f_files: stat.files,
            f_ffree: stat.ffree,
            f_namelen: signed(stat.namelen),
            f_flags: ST_VALID | if self.core.options.readonly { ST_RDONLY } else { 0 },
            ..Statfs::default()
        })
    }

    fn revalidates(&self) -> bool {
        self.core.shared()
    }

    /// Flushes the files written to that somebody still holds, then the root directory (and with it the journal of
    /// the host's file system).
    fn sync(&self) -> Result<(), Errno> {
        let dirty = std::mem::take(&mut *self.core.dirty.lock());
        let mut outcome = Ok(());
        for inode in dirty.values().filter_map(Weak::upgrade) {
            outcome = outcome.and(inode.flush_content());
        }
        if self.root.kind() == FileKind::Directory && !self.core.options.readonly {
            outcome = outcome.and(self.root.with_node(|client, node| client.fsync(node, false)));
        }
        outcome
    }
}

impl Drop for GoferFs {
    fn drop(&mut self) {
        // Nobody waits for the outcome.
        let _ = self.core.client.flush_forgotten();
    }
}

#[cfg(test)]
mod tests {
    use super::tagged;

    #[test]
    fn numbers_of_several_devices_differ() {
        assert_eq!(tagged(0, 2), 2);
        assert_eq!(tagged(0, u64::MAX), u64::MAX);
        let all = [tagged(0, 2), tagged(1, 2), tagged(2, 2), tagged(1, 3), tagged(1, 1 << 50)];
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != one));
        }
    }
}
