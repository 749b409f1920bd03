//! Attributes and extended attributes that a file system keeps in memory; tmpfs and the overlay share them.
//!
//! No locks: their owner has one around them.

use crate::space::Space;
use chitin_abi::Errno;
use chitin_abi::fcntl::{XATTR_CREATE, XATTR_REPLACE};
use chitin_abi::time::Timespec;
use chitin_vfs::{Attr, FileKind, NewInode, SetAttr, SetTime};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time that files are stamped with.
pub fn now() -> Timespec {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(time) => Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        },
        Err(_) => Timespec::default(),
    }
}

/// The changeable attributes of an inode.
#[derive(Clone, Debug)]
pub struct Meta {
    pub perm: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    pub btime: Timespec,
}

impl Meta {
    pub fn new(new: &NewInode, nlink: u32) -> Meta {
        let now = now();
        let NewInode { perm, uid, gid, .. } = *new;
        Meta { perm: perm & 0o7777, nlink, uid, gid, atime: now, mtime: now, ctime: now, btime: now }
    }

    pub fn from_attr(attr: &Attr) -> Meta {
        Meta {
            perm: attr.perm,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
        }
    }

    /// The attributes; size, blocks and rdev are the caller's to add.
    pub fn attr(&self, dev: u64, ino: u64, kind: FileKind) -> Attr {
        Attr {
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            ..Attr::plain(dev, ino, kind, self.perm)
        }
    }

    /// Takes over a change; the size is the caller's, but stamps the times here.
    pub fn apply(&mut self, change: &SetAttr) {
        let now = now();
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        if let Some(perm) = change.perm {
            self.perm = perm & 0o7777;
        }
        if let Some(uid) = change.uid {
            self.uid = uid;
        }
        if let Some(gid) = change.gid {
            self.gid = gid;
        }
        if change.size.is_some() {
            self.mtime = now;
        }
        if let Some(set) = change.atime {
            self.atime = time(set);
        }
        if let Some(set) = change.mtime {
            self.mtime = time(set);
        }
        self.ctime = now;
    }

    /// The content, or a directory's entries, changed.
    pub fn touch(&mut self) {
        self.mtime = now();
        self.ctime = self.mtime;
    }

    /// The inode changed.
    pub fn touch_inode(&mut self) {
        self.ctime = now();
    }

    /// A read, by the rule of the mount option relatime.
    pub fn accessed(&mut self) {
        let now = now();
        if self.atime <= self.mtime
            || self.atime <= self.ctime
            || now.tv_sec.saturating_sub(self.atime.tv_sec) >= 24 * 3600
        {
            self.atime = now;
        }
    }

    pub fn add_link(&mut self) -> Result<(), Errno> {
        self.nlink = self.nlink.checked_add(1).ok_or(Errno::EMLINK)?;
        self.touch_inode();
        Ok(())
    }

    pub fn drop_link(&mut self) {
        self.nlink = self.nlink.saturating_sub(1);
        self.touch_inode();
    }
}

/// Extended attributes, charged to the inode budget.
#[derive(Debug, Default)]
pub struct XattrMap {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    charged: u64,
}

fn cost(name: &[u8], value: &[u8]) -> u64 {
    (name.len() + value.len() + 64) as u64
}

impl XattrMap {
    pub fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.map.get(name).cloned().ok_or(Errno::ENODATA)
    }

    pub fn list(&self) -> Vec<Vec<u8>> {
        self.map.keys().cloned().collect()
    }

    pub fn set(&mut self, space: &Space, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        let old = self.map.get(name);
        if old.is_some() && flags & XATTR_CREATE != 0 {
            return Err(Errno::EEXIST);
        }
        if old.is_none() && flags & XATTR_REPLACE != 0 {
            return Err(Errno::ENODATA);
        }
        let freed = old.map_or(0, |old| cost(name, old));
        let needed = cost(name, value);
        space.charge_inode(needed)?;
        space.uncharge_inode(freed);
        self.charged = self.charged.saturating_add(needed).saturating_sub(freed);
        self.map.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    pub fn remove(&mut self, space: &Space, name: &[u8]) -> Result<(), Errno> {
        let old = self.map.remove(name).ok_or(Errno::ENODATA)?;
        let freed = cost(name, &old);
        space.uncharge_inode(freed);
        self.charged = self.charged.saturating_sub(freed);
        Ok(())
    }

    /// Forgets everything, with the inode.
    pub fn clear(&mut self, space: &Space) {
        self.map.clear();
        space.uncharge_inode(std::mem::take(&mut self.charged));
    }
}
