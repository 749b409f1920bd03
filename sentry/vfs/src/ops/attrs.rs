//! chmod, chown, utimensat, truncate, access.

use crate::creds::MAY_WRITE;
use crate::walk::Target;
use crate::{Attr, Context, Creds, FileKind, Inode, Path, SetAttr, SetTime};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_CHOWN, CAP_FSETID};
use chitin_abi::inotify::{IN_ATTRIB, IN_MODIFY};
use chitin_abi::stat::{S_ISGID, S_ISUID, S_IXGRP};
use std::sync::Arc;

/// The two times of utimensat(2); `None` leaves one alone (UTIME_OMIT).
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

fn mount_of(target: &Target) -> Option<&Path> {
    match target {
        Target::Path(path) => Some(path),
        Target::File(file) => file.path(),
    }
}

fn writable(target: &Target) -> Result<(), Errno> {
    mount_of(target).map_or(Ok(()), |path| path.mount.writable())
}

impl Context {
    fn change(&self, target: &Target, change: &SetAttr) -> Result<(), Errno> {
        target.inode().set_attr(change)?;
        target.inode().state().notify(mount_of(target), IN_ATTRIB);
        Ok(())
    }

    /// chmod(2).
    pub fn chmod(&self, target: &Target, perm: u32) -> Result<(), Errno> {
        writable(target)?;
        if target.inode().kind() == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        let attr = target.inode().attr()?;
        if !self.creds().owns(&attr) {
            return Err(Errno::EPERM);
        }
        let mut perm = perm & 0o7777;
        if !self.creds().in_group(attr.gid) && !self.creds().capable_over(&attr, CAP_FSETID) {
            perm &= !S_ISGID;
        }
        self.change(target, &SetAttr { perm: Some(perm), ..SetAttr::default() })
    }

    /// chown(2): `None` leaves an id alone (-1).
    pub fn chown(&self, target: &Target, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        writable(target)?;
        let attr = target.inode().attr()?;
        let creds = self.creds();
        let may_chown = creds.capable_over(&attr, CAP_CHOWN);
        let owner = creds.fsuid == attr.uid;
        if uid.is_some_and(|uid| !may_chown && (!owner || uid != attr.uid)) {
            return Err(Errno::EPERM);
        }
        if gid.is_some_and(|gid| !may_chown && (!owner || (gid != attr.gid && !creds.in_group(gid)))) {
            return Err(Errno::EPERM);
        }
        let mut change = SetAttr { uid, gid, ..SetAttr::default() };
        if attr.kind != FileKind::Directory {
            change.perm = without_suid(&attr);
            super::xattrs::drop_capabilities(target.inode())?;
        }
        self.change(target, &change)
    }

    /// utimensat(2).
    pub fn set_times(&self, target: &Target, times: Times) -> Result<(), Errno> {
        let Times { atime, mtime } = times;
        if atime.is_none() && mtime.is_none() {
            return Ok(());
        }
        writable(target)?;
        let attr = target.inode().attr()?;
        let both_now = matches!((atime, mtime), (Some(SetTime::Now), Some(SetTime::Now)));
        if !self.creds().owns(&attr) {
            if !both_now {
                return Err(Errno::EPERM);
            }
            self.may(target.inode(), MAY_WRITE)?;
        }
        self.change(target, &SetAttr { atime, mtime, ..SetAttr::default() })
    }

    /// truncate(2).
    pub fn truncate(&self, path: &Path, size: u64) -> Result<(), Errno> {
        let inode = path.inode();
        match inode.kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        path.mount.writable()?;
        self.may(inode, MAY_WRITE)?;
        inode.state().start_write()?;
        let done = self.set_size(inode, Some(path), size);
        inode.state().end_write();
        done
    }

    /// The common part of truncate and ftruncate, after permission checks.
    pub fn set_size(&self, inode: &Arc<dyn Inode>, path: Option<&Path>, size: u64) -> Result<(), Errno> {
        let perm = self.drops_suid(inode)?;
        super::xattrs::drop_capabilities(inode)?;
        inode.set_attr(&SetAttr { size: Some(size), perm, ..SetAttr::default() })?;
        inode.state().notify(path, IN_MODIFY);
        Ok(())
    }

    /// A write by anyone without CAP_FSETID takes setuid and setgid away: the new permission bits, if they change.
    pub fn drops_suid(&self, inode: &Arc<dyn Inode>) -> Result<Option<u32>, Errno> {
        if self.creds().capable(CAP_FSETID) {
            return Ok(None);
        }
        Ok(without_suid(&inode.attr()?))
    }

    /// access(2), faccessat2(2): `creds` are the ids to check with.
    pub fn access(&self, target: &Target, mask: u32, creds: &Creds) -> Result<(), Errno> {
        if mask == 0 {
            return Ok(());
        }
        let inode = target.inode();
        if mask & MAY_WRITE != 0
            && matches!(inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink)
        {
            writable(target)?;
        }
        if mask & crate::creds::MAY_EXEC != 0
            && inode.kind() == FileKind::Regular
            && mount_of(target).is_some_and(|path| path.mount.has(chitin_abi::mount::MS_NOEXEC))
        {
            return Err(Errno::EACCES);
        }
        self.may_as(creds, inode, mask)
    }

    /// Whether these credentials may act as the file's owner.
    pub fn is_owner(&self, inode: &Arc<dyn Inode>) -> Result<bool, Errno> {
        Ok(self.creds().owns(&inode.attr()?))
    }
}

/// The permission bits without setuid and (where executable by the group) setgid, if that is a change.
fn without_suid(attr: &Attr) -> Option<u32> {
    let mut perm = attr.perm & !S_ISUID;
    if perm & S_IXGRP != 0 {
        perm &= !S_ISGID;
    }
    (perm != attr.perm).then_some(perm)
}
