//! mkdir, mknod, symlink, link, unlink, rmdir, rename: changes of names.

use crate::creds::MAY_EXEC;
use crate::walk::{Last, ParentOf, Target, Walk};
use crate::{Context, Dentry, FileKind, Inode, NewInode, NewKind, Path};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_MKNOD;
use chitin_abi::fcntl::{RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT};
use chitin_abi::inotify::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

impl Context {
    /// The parent and the plain name of something to be made; `directory` allows a trailing slash.
    fn new_name(&self, start: &Path, path: &[u8], directory: bool) -> Result<(Path, Vec<u8>), Errno> {
        let parent = self.walk_parent(start, path, Walk::FOLLOW)?;
        let ParentOf { dir, last: Last::Name(name), slash } = parent else { return Err(Errno::EEXIST) };
        self.may(dir.inode(), MAY_EXEC)?;
        if slash && !directory {
            return Err(if self.child(&dir, &name)?.is_some() { Errno::EEXIST } else { Errno::ENOENT });
        }
        Ok((dir, name))
    }

    /// Makes a file of any type (mkdir, mknod, symlink). `perm` is before the umask; symlinks pass 0o777.
    pub fn make(&self, start: &Path, path: &[u8], kind: NewKind, perm: u32) -> Result<Path, Errno> {
        let is_dir = matches!(kind, NewKind::Directory);
        let (dir, name) = self.new_name(start, path, is_dir)?;
        if let NewKind::Device { rdev, kind } = &kind {
            // An overlay whiteout (character device 0:0) needs no privilege, as in Linux.
            let whiteout = *kind == FileKind::CharDevice && *rdev == 0;
            if !whiteout && !self.creds().capable(CAP_MKNOD) {
                return Err(Errno::EPERM);
            }
        }
        let guard = dir.dentry.lock_dir();
        if dir.dentry.lookup_locked(&[&name])?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.may_change(&dir)?;
        self.may_own(&dir)?;
        if dir.dentry.is_dead() {
            return Err(Errno::ENOENT);
        }
        let ops = dir.inode().dir().ok_or(Errno::ENOTDIR)?;
        let perm = match kind {
            NewKind::Symlink(_) => 0o777,
            NewKind::Directory => perm & 0o1777 & !self.umask,
            _ => perm & 0o7777 & !self.umask,
        };
        let (gid, perm) = self.creds().new_owner(&dir.inode().attr()?, perm, is_dir);
        let new = NewInode { kind, perm, uid: self.creds().fsuid, gid };
        let inode = ops.create(&name, &new)?;
        let dentry = dir.dentry.adopt(&name, inode);
        drop(guard);
        crate::notify::dir_event(dir.inode(), &name, IN_CREATE | if is_dir { IN_ISDIR } else { 0 }, 0);
        Ok(Path { mount: dir.mount, dentry })
    }

    /// link(2): a new name for `old`.
    pub fn link(&self, old: &Target, start: &Path, path: &[u8]) -> Result<(), Errno> {
        let (dir, name) = self.new_name(start, path, false)?;
        let inode = old.inode().clone();
        match old {
            Target::Path(old) if Arc::ptr_eq(&old.mount, &dir.mount) => {}
            Target::Path(_) | Target::File(_) => return Err(Errno::EXDEV),
        }
        let guard = dir.dentry.lock_dir();
        if dir.dentry.lookup_locked(&[&name])?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.may_change(&dir)?;
        if inode.kind() == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        dir.inode().dir().ok_or(Errno::ENOTDIR)?.link(&name, &inode)?;
        dir.dentry.adopt(&name, inode.clone());
        drop(guard);
        crate::notify::dir_event(dir.inode(), &name, IN_CREATE, 0);
        crate::notify::self_event(&inode, IN_ATTRIB);
        Ok(())
    }

    /// What a name to be removed leads to; checks permissions, the sticky bit and mount points. The directory is locked.
    fn victim(&self, dir: &Path, name: &[u8]) -> Result<Arc<Dentry>, Errno> {
        let victim = dir.dentry.lookup_locked(&[name])?.ok_or(Errno::ENOENT)?;
        self.may_change(dir)?;
        self.may_take(dir.inode(), victim.inode())?;
        if victim.is_mountpoint() {
            return Err(Errno::EBUSY);
        }
        Ok(victim)
    }

    fn may_take(&self, dir: &Arc<dyn Inode>, victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let dir = dir.attr()?;
        if dir.perm & chitin_abi::stat::S_ISVTX != 0 && self.creds().sticky_forbids(&dir, &victim.attr()?) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// unlink(2).
    pub fn unlink(&self, start: &Path, path: &[u8]) -> Result<(), Errno> {
        let ParentOf { dir, last, slash } = self.walk_parent(start, path, Walk::FOLLOW)?;
        let Last::Name(name) = last else { return Err(Errno::EISDIR) };
        self.may(dir.inode(), MAY_EXEC)?;
        let guard = dir.dentry.lock_dir();
        let victim = self.victim(&dir, &name)?;
        let inode = victim.inode();
        if inode.kind() == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        if slash {
            return Err(Errno::ENOTDIR);
        }
        dir.inode().dir().ok_or(Errno::ENOTDIR)?.unlink(&name, inode)?;
        dir.dentry.removed(&name);
        drop(guard);
        crate::notify::dir_event(dir.inode(), &name, IN_DELETE, 0);
        let gone = inode.attr().map_or(true, |attr| attr.nlink == 0);
        crate::notify::self_event(inode, IN_ATTRIB);
        if gone {
            inode.state().unlinked();
        }
        Ok(())
    }

    /// rmdir(2).
    pub fn rmdir(&self, start: &Path, path: &[u8]) -> Result<(), Errno> {
        let ParentOf { dir, last, .. } = self.walk_parent(start, path, Walk::FOLLOW)?;
        let name = match last {
            Last::Name(name) => name,
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Root => return Err(Errno::EBUSY),
        };
        self.may(dir.inode(), MAY_EXEC)?;
        let guard = dir.dentry.lock_dir();
        let victim = self.victim(&dir, &name)?;
        let inode = victim.inode();
        if inode.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        {
            let _inside = victim.lock_dir();
            dir.inode().dir().ok_or(Errno::ENOTDIR)?.rmdir(&name, inode)?;
            dir.dentry.removed(&name);
        }
        drop(guard);
        crate::notify::dir_event(dir.inode(), &name, IN_DELETE | IN_ISDIR, 0);
        inode.state().unlinked();
        Ok(())
    }

    /// renameat2(2).
    pub fn rename(
        &self,
        old_start: &Path,
        old_path: &[u8],
        new_start: &Path,
        new_path: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0
            || flags == RENAME_NOREPLACE | RENAME_EXCHANGE
            || flags & RENAME_WHITEOUT != 0
        {
            return Err(Errno::EINVAL);
        }
        let old = self.walk_parent(old_start, old_path, Walk::FOLLOW)?;
        let new = self.walk_parent(new_start, new_path, Walk::FOLLOW)?;
        if !Arc::ptr_eq(&old.dir.mount, &new.dir.mount) {
            return Err(Errno::EXDEV);
        }
        let Last::Name(old_name) = &old.last else { return Err(Errno::EBUSY) };
        let Last::Name(new_name) = &new.last else {
            return Err(if flags & RENAME_NOREPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY });
        };
        self.may(old.dir.inode(), MAY_EXEC)?;
        self.may(new.dir.inode(), MAY_EXEC)?;
        let vfs = self.vfs.clone();
        let same_dir = Arc::ptr_eq(&old.dir.dentry, &new.dir.dentry);
        let _rename = (!same_dir).then(|| vfs.rename_lock.lock());
        let _dirs = lock_two(&old.dir.dentry, &new.dir.dentry);
        let source = old.dir.dentry.lookup_locked(&[old_name])?.ok_or(Errno::ENOENT)?;
        let target = new.dir.dentry.lookup_locked(&[new_name])?;
        let source_is_dir = source.inode().kind() == FileKind::Directory;
        let target_is_dir =
            target.as_ref().is_some_and(|target| target.inode().kind() == FileKind::Directory);
        if flags & RENAME_NOREPLACE != 0 && target.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags & RENAME_EXCHANGE != 0 && target.is_none() {
            return Err(Errno::ENOENT);
        }
        if (old.slash && !source_is_dir) || (new.slash && !source_is_dir && flags & RENAME_EXCHANGE == 0) {
            return Err(Errno::ENOTDIR);
        }
        if let Some(target) = &target
            && Arc::ptr_eq(&source, target)
        {
            return Ok(());
        }
        // A directory must not move below itself, nor over one of its ancestors.
        if source_is_dir && new.dir.dentry.is_within(&source) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target
            && target_is_dir
            && old.dir.dentry.is_within(target)
        {
            return Err(if flags & RENAME_EXCHANGE != 0 { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        self.may_change(&old.dir)?;
        self.may_change(&new.dir)?;
        self.may_take(old.dir.inode(), source.inode())?;
        if new.dir.dentry.is_dead() {
            return Err(Errno::ENOENT);
        }
        if let Some(target) = &target {
            self.may_take(new.dir.inode(), target.inode())?;
            if flags & RENAME_EXCHANGE == 0 {
                match (source_is_dir, target_is_dir) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    _ => {}
                }
            }
            // Two names of one file: nothing happens.
            if Arc::ptr_eq(source.inode(), target.inode()) && !source_is_dir && flags & RENAME_EXCHANGE == 0 {
                return Ok(());
            }
            if target.is_mountpoint() {
                return Err(Errno::EBUSY);
            }
        }
        if source.is_mountpoint() {
            return Err(Errno::EBUSY);
        }
        let ops = old.dir.inode().dir().ok_or(Errno::ENOTDIR)?;
        ops.rename(old_name, new.dir.inode(), new_name, flags)?;
        if flags & RENAME_EXCHANGE != 0 {
            if let Some(target) = &target {
                Dentry::exchanged(&source, target);
            }
        } else {
            old.dir.dentry.moved(old_name, &source, &new.dir.dentry, new_name);
        }
        self.rename_events(&old, &new, &source, target.as_ref(), flags);
        Ok(())
    }

    fn rename_events(
        &self,
        old: &ParentOf,
        new: &ParentOf,
        source: &Arc<Dentry>,
        target: Option<&Arc<Dentry>>,
        flags: u32,
    ) {
        static COOKIE: AtomicU32 = AtomicU32::new(1);
        let (Last::Name(old_name), Last::Name(new_name)) = (&old.last, &new.last) else { return };
        let moved = |inode: &Arc<dyn Inode>, from: &Path, from_name: &[u8], to: &Path, to_name: &[u8]| {
            let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
            let dir = if inode.kind() == FileKind::Directory { IN_ISDIR } else { 0 };
            crate::notify::dir_event(from.inode(), from_name, IN_MOVED_FROM | dir, cookie);
            crate::notify::dir_event(to.inode(), to_name, IN_MOVED_TO | dir, cookie);
            crate::notify::self_event(inode, IN_MOVE_SELF);
        };
        moved(source.inode(), &old.dir, old_name, &new.dir, new_name);
        match target {
            Some(target) if flags & RENAME_EXCHANGE != 0 => {
                moved(target.inode(), &new.dir, new_name, &old.dir, old_name);
            }
            Some(target) => {
                let gone = target.inode().attr().map_or(true, |attr| attr.nlink == 0);
                crate::notify::self_event(target.inode(), IN_ATTRIB);
                if gone {
                    target.inode().state().unlinked();
                }
            }
            None => {}
        }
    }
}

type Guard<'a> = parking_lot::MutexGuard<'a, ()>;

/// Locks two directories: an ancestor before its descendant, else by address.
fn lock_two<'a>(a: &'a Arc<Dentry>, b: &'a Arc<Dentry>) -> (Guard<'a>, Option<Guard<'a>>) {
    if Arc::ptr_eq(a, b) {
        return (a.lock_dir(), None);
    }
    let a_first = if b.is_within(a) {
        true
    } else if a.is_within(b) {
        false
    } else {
        Arc::as_ptr(a) < Arc::as_ptr(b)
    };
    if a_first {
        let first = a.lock_dir();
        (first, Some(b.lock_dir()))
    } else {
        let first = b.lock_dir();
        (first, Some(a.lock_dir()))
    }
}
