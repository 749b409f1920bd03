//! Directory operations of a tmpfs.
//!
//! The VFS has checked permissions and types and keeps others out of the directories involved; what could break the
//! tree is checked again here.

use crate::inode::{Body, DirState, TmpInode};
use crate::space::INODE_COST;
use chitin_abi::Errno;
use chitin_abi::fcntl::{F_SEAL_SEAL, RENAME_EXCHANGE, RENAME_NOREPLACE};
use chitin_vfs::{DirEntry, DirSink, Directory, FileKind, Inode, NewInode, NewKind};
use parking_lot::RwLockWriteGuard;
use std::any::Any;
use std::sync::Arc;

/// Entries handed out per lock of the directory.
const BATCH: usize = 128;

impl TmpInode {
    /// An inode of this same file system, as what it is.
    fn own(&self, inode: &Arc<dyn Inode>) -> Result<Arc<TmpInode>, Errno> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        let inode = any.downcast::<TmpInode>().map_err(|_| Errno::EXDEV)?;
        if Arc::ptr_eq(&inode.shared, &self.shared) { Ok(inode) } else { Err(Errno::EXDEV) }
    }

    fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    /// Takes `name` out, which must lead to `victim`.
    fn remove_entry(&self, state: &mut DirState, name: &[u8], victim: &Arc<TmpInode>) -> Result<(), Errno> {
        match state.entries.get(name) {
            Some(found) if Arc::ptr_eq(found, victim) => {}
            Some(_) => return Err(Errno::ESTALE),
            None => return Err(Errno::ENOENT),
        }
        state.entries.remove(name);
        self.meta.lock().touch();
        Ok(())
    }

    /// A name of this non-directory is gone.
    fn lost_name(&self) {
        let mut meta = self.meta.lock();
        if meta.nlink > 1 {
            // Links beyond the first were charged like inodes.
            self.shared.space.uncharge_inode(INODE_COST);
        }
        meta.drop_link();
    }

    /// This empty directory is gone from `parent`.
    fn lost_directory(&self, parent: &TmpInode) {
        {
            let mut meta = self.meta.lock();
            meta.nlink = 0;
            meta.touch_inode();
        }
        parent.meta.lock().drop_link();
    }
}

/// One or two locked directories.
struct Locked<'a> {
    old: RwLockWriteGuard<'a, DirState>,
    /// `None`: the same as `old`.
    new: Option<RwLockWriteGuard<'a, DirState>>,
}

impl<'a> Locked<'a> {
    fn new(old: &'a TmpInode, new: &'a TmpInode) -> Result<Locked<'a>, Errno> {
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

    fn target(&mut self) -> &mut DirState {
        match &mut self.new {
            Some(new) => new,
            None => &mut self.old,
        }
    }
}

impl Directory for TmpInode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let state = self.dir_state()?.read();
        let inode = state.entries.get(name).ok_or(Errno::ENOENT)?;
        Ok(inode.clone())
    }

    fn lookup_chain(&self, names: &[&[u8]]) -> Result<Vec<Arc<dyn Inode>>, Errno> {
        let mut found: Vec<Arc<dyn Inode>> = Vec::with_capacity(names.len());
        for name in names {
            let result = match found.last() {
                None => self.lookup(name),
                Some(last) => match last.dir() {
                    Some(dir) => dir.lookup(name),
                    None => break,
                },
            };
            match result {
                Ok(inode) => found.push(inode),
                Err(e) if found.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(found)
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let state = self.dir_state()?;
        self.meta.lock().accessed();
        let mut cookie = cookie;
        loop {
            let batch: Vec<(u64, Arc<[u8]>, u64, FileKind)> = state
                .read()
                .entries
                .from(cookie)
                .take(BATCH)
                .map(|(cookie, name, inode)| (cookie, name.clone(), inode.ino(), inode.kind()))
                .collect();
            for (at, name, ino, kind) in &batch {
                cookie = at.saturating_add(1);
                if !sink.entry(&DirEntry { name, ino: *ino, kind: *kind, next: cookie }) {
                    return Ok(());
                }
            }
            if batch.len() < BATCH {
                return Ok(());
            }
        }
    }

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        let mut state = self.dir_state()?.write();
        if state.dead {
            return Err(Errno::ENOENT);
        }
        if state.entries.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let is_dir = matches!(new.kind, NewKind::Directory);
        let inode = TmpInode::make(&self.shared, new, if is_dir { 2 } else { 1 }, F_SEAL_SEAL)?;
        {
            let mut meta = self.meta.lock();
            if is_dir {
                meta.add_link()?;
            }
            meta.touch();
        }
        state.entries.insert(name.into(), inode.clone());
        Ok(inode)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        let target = self.own(target)?;
        if target.is_dir() {
            return Err(Errno::EPERM);
        }
        let mut state = self.dir_state()?.write();
        if state.dead {
            return Err(Errno::ENOENT);
        }
        if state.entries.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        {
            let mut meta = target.meta.lock();
            if meta.nlink > 0 {
                self.shared.space.charge_inode(INODE_COST)?;
            }
            meta.add_link()?;
        }
        state.entries.insert(name.into(), target);
        self.meta.lock().touch();
        Ok(())
    }

    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let victim = self.own(victim)?;
        if victim.is_dir() {
            return Err(Errno::EISDIR);
        }
        self.remove_entry(&mut self.dir_state()?.write(), name, &victim)?;
        victim.lost_name();
        Ok(())
    }

    fn rmdir(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let victim = self.own(victim)?;
        if std::ptr::eq(Arc::as_ptr(&victim), self) {
            return Err(Errno::EINVAL);
        }
        let mut state = self.dir_state()?.write();
        {
            let mut inner = victim.dir_state()?.write();
            if !inner.entries.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            self.remove_entry(&mut state, name, &victim)?;
            inner.dead = true;
        }
        victim.lost_directory(self);
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<(), Errno> {
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 {
            return Err(Errno::EINVAL);
        }
        let target_dir = self.own(new_dir)?;
        let target_dir = &*target_dir;
        let mut locked = Locked::new(self, target_dir)?;
        let moved = locked.old.entries.get(old).cloned().ok_or(Errno::ENOENT)?;
        let replaced = locked.target().entries.get(new).cloned();
        let across = locked.new.is_some();
        if locked.target().dead {
            return Err(Errno::ENOENT);
        }

        if flags & RENAME_EXCHANGE != 0 {
            let replaced = replaced.ok_or(Errno::ENOENT)?;
            if let Some(slot) = locked.old.entries.get_mut(old) {
                *slot = replaced.clone();
            }
            if let Some(slot) = locked.target().entries.get_mut(new) {
                *slot = moved.clone();
            }
            if across && moved.is_dir() != replaced.is_dir() {
                let (gains, loses) = if moved.is_dir() { (target_dir, self) } else { (self, target_dir) };
                gains.meta.lock().add_link()?;
                loses.meta.lock().drop_link();
            }
            replaced.meta.lock().touch_inode();
        } else {
            match &replaced {
                None => {}
                Some(_) if flags & RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
                // Two names of one file: nothing happens.
                Some(victim) if Arc::ptr_eq(victim, &moved) => return Ok(()),
                Some(victim) if victim.is_dir() => {
                    if !moved.is_dir() {
                        return Err(Errno::EISDIR);
                    }
                    let is = |dir: &TmpInode| std::ptr::eq(Arc::as_ptr(victim), dir);
                    // One of the two directories itself: it holds what is being moved.
                    if is(self) || is(target_dir) {
                        return Err(Errno::ENOTEMPTY);
                    }
                    let mut inner = victim.dir_state()?.write();
                    if !inner.entries.is_empty() {
                        return Err(Errno::ENOTEMPTY);
                    }
                    inner.dead = true;
                }
                Some(_) if moved.is_dir() => return Err(Errno::ENOTDIR),
                Some(_) => {}
            }
            locked.old.entries.remove(old);
            locked.target().entries.insert(new.into(), moved.clone());
            if across && moved.is_dir() {
                self.meta.lock().drop_link();
                target_dir.meta.lock().add_link()?;
            }
            match replaced {
                Some(victim) if victim.is_dir() => victim.lost_directory(target_dir),
                Some(victim) => victim.lost_name(),
                None => {}
            }
        }
        moved.meta.lock().touch_inode();
        self.meta.lock().touch();
        target_dir.meta.lock().touch();
        Ok(())
    }

    fn tmpfile(&self, new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        if self.dir_state()?.read().dead {
            return Err(Errno::ENOENT);
        }
        Ok(TmpInode::make(&self.shared, new, 0, F_SEAL_SEAL)?)
    }
}
