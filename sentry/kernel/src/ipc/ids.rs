//! Identifiers, keys and permissions of IPC objects (ipc/util.c).

use chitin_abi::Errno;
use chitin_abi::capability::{CAP_IPC_OWNER, CAP_SYS_ADMIN};
use chitin_abi::ipc::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE, IpcPerm};
use chitin_abi::num::low16;
use chitin_vfs::{Creds, UserNs};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The bits of an identifier that are its index; the rest is a sequence number.
const INDEX_BITS: u32 = 15;
const INDEX_MASK: i32 = (1 << INDEX_BITS) - 1;
/// Sequence numbers run below this.
const SEQ_MAX: u32 = 1 << (31 - INDEX_BITS);
/// Indices are given out in turn over at least so many, so that an old identifier is not soon valid again.
const MIN_CYCLE: u32 = 64;

/// Who may do what with an object (`struct kern_ipc_perm`).
#[derive(Clone, Copy, Debug)]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
}

/// What IPC_SET changes.
#[derive(Clone, Copy, Debug)]
pub struct PermChange {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl PermChange {
    /// From what somebody in `ns` asks for: EINVAL for ids that there are not.
    pub fn new(ns: &UserNs, perm: &IpcPerm) -> Result<PermChange, Errno> {
        let uid = ns.kuid(perm.uid).ok_or(Errno::EINVAL)?;
        Ok(PermChange { uid, gid: ns.kgid(perm.gid).ok_or(Errno::EINVAL)?, mode: perm.mode })
    }
}

impl Perm {
    pub(super) fn new(key: i32, flags: u32, creds: &Creds, id: i32) -> Perm {
        let seq = low16((id >> INDEX_BITS).cast_unsigned());
        let (uid, gid) = (creds.euid, creds.egid);
        Perm { key, uid, gid, cuid: uid, cgid: gid, mode: flags & 0o777, seq }
    }

    /// ipcperms(): whether the access whose bits stand anywhere in `flags` (as in a mode) is granted. EACCES.
    pub fn check(&self, creds: &Creds, flags: u32) -> Result<(), Errno> {
        let wanted = (flags >> 6 | flags >> 3 | flags) & 7;
        let granted = if creds.euid == self.cuid || creds.euid == self.uid {
            self.mode >> 6
        } else if creds.in_group(self.cgid) || creds.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted == 0 || creds.capable_here(CAP_IPC_OWNER) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Whether the caller is owner or creator.
    pub fn is_owner(&self, creds: &Creds) -> bool {
        creds.euid == self.cuid || creds.euid == self.uid
    }

    /// Who may change and remove: EPERM for others.
    pub fn check_control(&self, creds: &Creds) -> Result<(), Errno> {
        if self.is_owner(creds) || creds.capable_here(CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// IPC_SET.
    pub(super) fn change(&mut self, change: &PermChange) -> Result<(), Errno> {
        self.uid = change.uid;
        self.gid = change.gid;
        self.mode = self.mode & !0o777 | change.mode & 0o777;
        Ok(())
    }

    /// With kernel ids.
    pub fn abi(&self) -> IpcPerm {
        IpcPerm {
            key: self.key,
            uid: self.uid,
            gid: self.gid,
            cuid: self.cuid,
            cgid: self.cgid,
            mode: self.mode,
            seq: self.seq,
            ..IpcPerm::default()
        }
    }
}

/// Objects of one kind, by index and by key.
pub(super) struct Ids<T> {
    objects: BTreeMap<u32, (i32, Arc<T>)>,
    keys: HashMap<i32, u32>,
    last: Option<u32>,
    seq: u32,
    max: u32,
}

impl<T> Ids<T> {
    /// At most `max` objects.
    pub(super) fn new(max: u32) -> Ids<T> {
        Ids {
            objects: BTreeMap::new(),
            keys: HashMap::new(),
            last: None,
            seq: 0,
            max: max.min(1 << INDEX_BITS),
        }
    }

    /// EINVAL for a number that no object has.
    pub(super) fn get(&self, id: i32) -> Result<Arc<T>, Errno> {
        let index = u32::try_from(id).map_err(|_| Errno::EINVAL)? & INDEX_MASK as u32;
        let (known, object) = self.objects.get(&index).ok_or(Errno::EINVAL)?;
        if *known == id { Ok(object.clone()) } else { Err(Errno::EINVAL) }
    }

    /// By index alone (the *_STAT commands of ipcs).
    pub(super) fn at_index(&self, index: i32) -> Result<(i32, Arc<T>), Errno> {
        let index = u32::try_from(index).map_err(|_| Errno::EINVAL)? & INDEX_MASK as u32;
        self.objects.get(&index).cloned().ok_or(Errno::EINVAL)
    }

    /// ipcget(): the object of a key, or a new one. `None`: the caller makes it with [`Ids::insert`].
    pub(super) fn find(&self, key: i32, flags: u32) -> Result<Option<Arc<T>>, Errno> {
        let found = if key == IPC_PRIVATE { None } else { self.keys.get(&key).copied() };
        match found.and_then(|index| self.objects.get(&index)) {
            Some(_) if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL => Err(Errno::EEXIST),
            Some((_, object)) => Ok(Some(object.clone())),
            None if key == IPC_PRIVATE || flags & IPC_CREAT != 0 => Ok(None),
            None => Err(Errno::ENOENT),
        }
    }

    /// A number for a new object: ENOSPC if there is none. Nothing is taken before [`Ids::insert`].
    fn next(&mut self) -> Result<u32, Errno> {
        let used = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
        if used >= self.max {
            return Err(Errno::ENOSPC);
        }
        let cycle = used.saturating_mul(3).saturating_div(2).max(MIN_CYCLE).min(self.max);
        let after = self.last.map_or(0, |last| last.saturating_add(1));
        let free = |index: &u32| !self.objects.contains_key(index);
        let index =
            (after..cycle).find(free).or_else(|| (0..cycle).find(free)).or_else(|| (0..self.max).find(free));
        let index = index.ok_or(Errno::ENOSPC)?;
        if self.last.is_some_and(|last| index <= last) {
            self.seq = (self.seq + 1) % SEQ_MAX;
        }
        self.last = Some(index);
        Ok(index)
    }

    /// Enters the object that `make` makes for its number.
    pub(super) fn insert(
        &mut self,
        key: i32,
        make: impl FnOnce(i32) -> Result<T, Errno>,
    ) -> Result<(i32, Arc<T>), Errno> {
        let index = self.next()?;
        let id = i32::try_from(self.seq << INDEX_BITS | index).map_err(|_| Errno::ENOSPC)?;
        let object = Arc::new(make(id)?);
        self.objects.insert(index, (id, object.clone()));
        if key != IPC_PRIVATE {
            self.keys.insert(key, index);
        }
        Ok((id, object))
    }

    /// The object is no longer found by its key.
    pub(super) fn forget_key(&mut self, key: i32, id: i32) {
        if key != IPC_PRIVATE && self.keys.get(&key) == Some(&(id & INDEX_MASK).cast_unsigned()) {
            self.keys.remove(&key);
        }
    }

    pub(super) fn remove(&mut self, key: i32, id: i32) -> Option<Arc<T>> {
        let index = (id & INDEX_MASK).cast_unsigned();
        if self.objects.get(&index)?.0 != id {
            return None;
        }
        self.forget_key(key, id);
        self.objects.remove(&index).map(|(_, object)| object)
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// The highest index in use, 0 for none: what the *_INFO commands answer.
    pub(super) fn highest(&self) -> i32 {
        self.objects.last_key_value().map_or(0, |(&index, _)| index.cast_signed())
    }

    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.objects.values().map(|(_, object)| object.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_vfs::Caps;

    #[test]
    fn numbers_come_in_turn_and_are_not_soon_valid_again() {
        let mut ids = Ids::new(4096);
        let add = |ids: &mut Ids<i32>, key| ids.insert(key, Ok).unwrap().0;
        let first = add(&mut ids, 7);
        assert_eq!((first, add(&mut ids, IPC_PRIVATE)), (0, 1));
        assert!(ids.remove(7, first).is_some() && ids.remove(7, first).is_none());
        assert_eq!(ids.get(first).err(), Some(Errno::EINVAL));
        assert_eq!(ids.find(7, 0).err(), Some(Errno::ENOENT));
        let mut last = 1;
        for _ in 0..63 {
            last = add(&mut ids, IPC_PRIVATE);
            ids.remove(IPC_PRIVATE, last).unwrap();
        }
        // The first index again, with the next sequence number.
        assert_eq!(last, 1 << INDEX_BITS);
        assert_eq!((ids.len(), ids.highest()), (1, 1));
        assert_eq!(ids.get(-1).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn keys_and_limits() {
        let mut ids: Ids<i32> = Ids::new(2);
        ids.insert(5, Ok).unwrap();
        assert_eq!(ids.find(5, IPC_CREAT | IPC_EXCL).err(), Some(Errno::EEXIST));
        assert!(ids.find(5, IPC_CREAT).unwrap().is_some());
        assert!(ids.find(IPC_PRIVATE, 0).unwrap().is_none());
        ids.insert(6, Ok).unwrap();
        assert_eq!(ids.insert(7, Ok).err(), Some(Errno::ENOSPC));
        assert_eq!(ids.highest(), 1);
        ids.forget_key(6, 1);
        assert_eq!(ids.find(6, 0).err(), Some(Errno::ENOENT));
        assert!(ids.get(1).is_ok());
    }

    #[test]
    fn permissions() {
        let mut creds = Creds::root();
        let perm = Perm::new(1, 0o640, &creds, 3 << INDEX_BITS | 2);
        assert_eq!(perm.seq, 3);
        assert!(perm.check(&creds, 0o777).is_ok());
        creds.effective = Caps::EMPTY;
        assert!(perm.check(&creds, 0o600).is_ok());
        assert_eq!(perm.check(&creds, 0o100), Err(Errno::EACCES));
        creds.euid = 5;
        assert!(perm.check(&creds, 0o444).is_ok());
        assert_eq!(perm.check(&creds, 0o222), Err(Errno::EACCES));
        assert_eq!(perm.check_control(&creds), Err(Errno::EPERM));
        creds.fsgid = 5;
        assert_eq!(perm.check(&creds, 0o444), Err(Errno::EACCES));
    }
}
