//! Directory operations.
//!
//! The VFS has checked permissions and types and keeps others out of the directories involved. Whatever may ask the
//! lower file system happens before the tree is locked.

use crate::listing::Dir;
use crate::node::{Node, known};
use chitin_abi::Errno;
use chitin_abi::fcntl::{RENAME_EXCHANGE, RENAME_NOREPLACE};
use chitin_fs_tmpfs::Meta;
use chitin_vfs::{DirSink, Directory, FileKind, Inode, NewInode, NewKind};
use parking_lot::RwLockWriteGuard;
use std::any::Any;
use std::sync::Arc;

impl Node {
    /// A node of this same file system, as what it is.
    fn own(&self, inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        let node = any.downcast::<Node>().map_err(|_| Errno::EXDEV)?;
        if Arc::ptr_eq(&node.shared, &self.shared) { Ok(node) } else { Err(Errno::EXDEV) }
    }

    fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The node a name leads to, if the directory knows without asking the lower one.
    fn known_child(&self, name: &[u8]) -> Result<Option<Arc<Node>>, Errno> {
        let dir = self.dir_state()?.read();
        match known(&dir, name)? {
            None if dir.dead || self.lower.is_none() => Err(Errno::ENOENT),
            found => Ok(found),
        }
    }

    fn child(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        if let Some(node) = self.known_child(name)? {
            return Ok(node);
        }
        let lower = self.lower_dir().ok_or(Errno::ENOENT)?.lookup(name)?;
        self.adopt(name, lower)
    }

    /// A directory has come into this one. A lower file system that counts no directories keeps to that.
    fn gains_dir(&self) -> Result<(), Errno> {
        self.with_meta(|meta| if meta.nlink >= 2 { meta.add_link() } else { Ok(()) })?
    }

    fn loses_dir(&self) -> Result<(), Errno> {
        self.with_meta(|meta| {
            if meta.nlink > 2 {
                meta.drop_link();
            }
        })
    }

    /// This directory was removed from `parent`; the tree is locked.
    fn lost_directory(&self, parent: &Node) -> Result<(), Errno> {
        self.leave_place();
        self.with_meta(|meta| {
            meta.nlink = 0;
            meta.touch_inode();
        })?;
        parent.loses_dir()
    }
}

/// One or two locked directories.
struct Locked<'a> {
    old: RwLockWriteGuard<'a, Dir>,
    /// `None`: the same as `old`.
    new: Option<RwLockWriteGuard<'a, Dir>>,
}

impl<'a> Locked<'a> {
    fn new(old: &'a Node, new: &'a Node) -> Result<Locked<'a>, Errno> {
        let (a, b) = (old.dir_state()?, new.dir_state()?);
        if std::ptr::eq(a, b) {
            return Ok(Locked { old: a.write(), new: None });
        }
        if std::ptr::from_ref(a) < std::ptr::from_ref(b) {
            let old = a.write();
            Ok(Locked { old, new: Some(b.write()) })
        } else {
            let new = b.write();
            Ok(Locked { old: a.write(), new: Some(new) })
        }
    }

    fn target(&mut self) -> &mut Dir {
        match &mut self.new {
            Some(new) => new,
            None => &mut self.old,
        }
    }
}

impl Directory for Node {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.child(name)?)
    }

    /// Walks known nodes by itself, and from the first unknown name on asks the lower file system once: whatever lies
    /// below a name that is not known is unchanged.
    fn lookup_chain(&self, names: &[&[u8]]) -> Result<Vec<Arc<dyn Inode>>, Errno> {
        let mut found: Vec<Arc<Node>> = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            let at = found.last().map_or(self, |node| &**node);
            if !at.is_dir() {
                break;
            }
            match at.known_child(name) {
                Ok(Some(node)) => found.push(node),
                Err(e) if i == 0 => return Err(e),
                Err(_) => break,
                Ok(None) => {
                    let chain = at.lower_dir().ok_or(Errno::ENOENT);
                    let chain = chain.and_then(|dir| dir.lookup_chain(names.get(i..).unwrap_or_default()));
                    let chain = match chain {
                        Ok(chain) => chain,
                        Err(e) if i == 0 => return Err(e),
                        Err(_) => break,
                    };
                    for (lower, name) in chain.into_iter().zip(names.get(i..).unwrap_or_default()) {
                        let at = found.last().map_or(self, |node| &**node);
                        let expected = lower.clone();
                        match at.adopt(name, lower) {
                            Ok(node) => {
                                let same = node.lower.as_ref().is_some_and(|l| l.ino() == expected.ino());
                                found.push(node);
                                // Changed just now: the rest of the chain is another directory's.
                                if !same {
                                    break;
                                }
                            }
                            Err(e) if found.is_empty() => return Err(e),
                            Err(_) => break,
                        }
                    }
                    break;
                }
            }
        }
        Ok(found.into_iter().map(|node| -> Arc<dyn Inode> { node }).collect())
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        self.accessed();
        self.list(cookie, sink)
    }

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        self.load_meta()?;
        let is_dir = matches!(new.kind, NewKind::Directory);
        let node = Node::fresh(&self.shared, new, if is_dir { 2 } else { 1 })?;
        let _tree = self.shared.tree.lock();
        self.pin_locked();
        let mut dir = self.dir_state()?.write();
        if dir.dead {
            return Err(Errno::ENOENT);
        }
        if !dir.is_free(name) {
            return Err(Errno::EEXIST);
        }
        if is_dir {
            self.gains_dir()?;
        }
        self.with_meta(Meta::touch)?;
        dir.place(name, node.clone());
        Ok(node)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        let target = self.own(target)?;
        if target.is_dir() {
            return Err(Errno::EPERM);
        }
        self.load_meta()?;
        target.load_meta()?;
        let _tree = self.shared.tree.lock();
        self.pin_locked();
        target.pin_locked();
        let mut dir = self.dir_state()?.write();
        if dir.dead {
            return Err(Errno::ENOENT);
        }
        if !dir.is_free(name) {
            return Err(Errno::EEXIST);
        }
        target.with_meta(Meta::add_link)??;
        self.with_meta(Meta::touch)?;
        dir.place(name, target);
        Ok(())
    }

    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let victim = self.own(victim)?;
        if victim.is_dir() {
            return Err(Errno::EISDIR);
        }
        if !Arc::ptr_eq(&self.child(name)?, &victim) {
            return Err(Errno::ESTALE);
        }
        self.load_meta()?;
        victim.load_meta()?;
        let _tree = self.shared.tree.lock();
        self.pin_locked();
        self.dir_state()?.write().take(name);
        victim.lost_name()?;
        self.with_meta(Meta::touch)
    }

    fn rmdir(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let victim = self.own(victim)?;
        if std::ptr::eq(Arc::as_ptr(&victim), self) {
            return Err(Errno::EINVAL);
        }
        if !Arc::ptr_eq(&self.child(name)?, &victim) {
            return Err(Errno::ESTALE);
        }
        self.load_meta()?;
        victim.load_meta()?;
        let lower = victim.lower_entries()?;
        victim.forget_listing()?;
        let _tree = self.shared.tree.lock();
        {
            let mut inner = victim.dir_state()?.write();
            if !inner.is_empty(&lower) {
                return Err(Errno::ENOTEMPTY);
            }
            inner.dead = true;
        }
        self.pin_locked();
        self.dir_state()?.write().take(name);
        victim.lost_directory(self)?;
        self.with_meta(Meta::touch)
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<(), Errno> {
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 {
            return Err(Errno::EINVAL);
        }
        let target_dir = self.own(new_dir)?;
        let target_dir = &*target_dir;
        let moved = self.child(old)?;
        let replaced = match target_dir.child(new) {
            Ok(node) => Some(node),
            Err(Errno::ENOENT) => None,
            Err(e) => return Err(e),
        };
        for node in [Some(self), Some(target_dir), Some(&*moved), replaced.as_deref()].into_iter().flatten() {
            node.load_meta()?;
        }
        let exchange = flags & RENAME_EXCHANGE != 0;
        let mut inside = None;
        match &replaced {
            None if exchange => return Err(Errno::ENOENT),
            None => {}
            Some(_) if exchange => {}
            Some(_) if flags & RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
            // Two names of one file: nothing happens.
            Some(victim) if Arc::ptr_eq(victim, &moved) => return Ok(()),
            Some(victim) if victim.is_dir() => {
                if !moved.is_dir() {
                    return Err(Errno::EISDIR);
                }
                inside = Some(victim.lower_entries()?);
                victim.forget_listing()?;
            }
            Some(_) if moved.is_dir() => return Err(Errno::ENOTDIR),
            Some(_) => {}
        }

        let _tree = self.shared.tree.lock();
        self.pin_locked();
        target_dir.pin_locked();
        let mut locked = Locked::new(self, target_dir)?;
        let across = locked.new.is_some();
        if locked.target().dead {
            return Err(Errno::ENOENT);
        }
        if let (Some(victim), Some(lower)) = (&replaced, &inside) {
            let is = |dir: &Node| std::ptr::eq(Arc::as_ptr(victim), dir);
            // One of the two directories itself: it holds what is being moved.
            if is(self) || is(target_dir) {
                return Err(Errno::ENOTEMPTY);
            }
            let mut inner = victim.dir_state()?.write();
            if !inner.is_empty(lower) {
                return Err(Errno::ENOTEMPTY);
            }
            inner.dead = true;
        }
        if let (true, Some(other)) = (exchange, &replaced) {
            locked.old.place(old, other.clone());
            locked.target().place(new, moved.clone());
            drop(locked);
            other.leave_place();
            other.pin_locked();
            if across && moved.is_dir() != other.is_dir() {
                let (gains, loses) = if moved.is_dir() { (target_dir, self) } else { (self, target_dir) };
                gains.gains_dir()?;
                loses.loses_dir()?;
            }
            other.with_meta(Meta::touch_inode)?;
        } else {
            locked.old.take(old);
            locked.target().place(new, moved.clone());
            drop(locked);
            if across && moved.is_dir() {
                self.loses_dir()?;
                target_dir.gains_dir()?;
            }
            match replaced {
                Some(victim) if victim.is_dir() => victim.lost_directory(target_dir)?,
                Some(victim) => victim.lost_name()?,
                None => {}
            }
        }
        moved.leave_place();
        moved.pin_locked();
        moved.with_meta(Meta::touch_inode)?;
        self.with_meta(Meta::touch)?;
        target_dir.with_meta(Meta::touch)
    }

    fn tmpfile(&self, new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        if self.dir_state()?.read().dead {
            return Err(Errno::ENOENT);
        }
        Ok(Node::fresh(&self.shared, new, 0)?)
    }
}
