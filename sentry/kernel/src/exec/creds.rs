//! Credentials after execve: set-id bits, file capabilities, root (bprm_fill_uid(), cap_bprm_creds_from_file()).

use chitin_abi::Errno;
use chitin_abi::capability::*;
use chitin_abi::stat::{S_ISGID, S_ISUID, S_IXGRP};
use chitin_vfs::{Caps, Creds, File, UserNs};

/// What execve makes of credentials.
pub(crate) struct ExecCreds {
    pub(crate) creds: Creds,
    /// AT_SECURE: more privilege than whoever executes it had.
    pub(crate) secure: bool,
    /// The ids or capabilities grew or changed: no core dumps, no death signal of the parent.
    pub(crate) changed: bool,
}

/// What an executable file's attribute gives.
struct FileCaps {
    permitted: Caps,
    inheritable: Caps,
    effective: bool,
    /// Whose power they are part of: root of the namespace that they count in.
    root: u32,
}

/// Credentials after executing `file`. EPERM when the file's capabilities cannot all be had, EINVAL for a bad attribute.
pub(crate) fn after_exec(old: &Creds, file: &File) -> Result<ExecCreds, Errno> {
    let mut new = old.clone();
    let attr = file.inode().attr()?;
    let nosuid = file.path().is_none_or(|path| !path.mount.may_suid(old));
    let root = old.user_ns.root_uid();
    // Bits of owners that are unknown here count for nothing.
    if !nosuid && !old.no_new_privs && old.user_ns.knows(attr.uid, attr.gid) {
        if attr.perm & S_ISUID != 0 {
            new.euid = attr.uid;
        }
        if attr.perm & S_ISGID != 0 && attr.perm & S_IXGRP != 0 {
            new.egid = attr.gid;
        }
    }
    let caps = if nosuid { None } else { file_caps(file, &old.user_ns)? };
    new.permitted = Caps::EMPTY;
    let mut effective = false;
    if let Some(caps) = &caps {
        new.permitted = (old.bounding & caps.permitted) | (old.inheritable & caps.inheritable);
        effective = caps.effective;
        // A program that does not ask in its code needs all of them.
        if effective && !caps.permitted.subset_of(new.permitted) {
            return Err(Errno::EPERM);
        }
    }
    let suid_root_with_caps = caps.is_some() && new.uid != root && new.euid == root;
    if old.securebits & SECBIT_NOROOT == 0 && !suid_root_with_caps {
        if new.euid == root || new.uid == root {
            new.permitted = old.bounding | old.inheritable;
        }
        effective |= new.euid == root;
    }
    let mut set_id = new.euid != old.uid || new.egid != old.gid;
    if (set_id || !new.permitted.subset_of(old.permitted)) && old.no_new_privs {
        new.euid = new.uid;
        new.egid = new.gid;
        new.permitted = new.permitted & old.permitted;
    }
    new.suid = new.euid;
    new.fsuid = new.euid;
    new.sgid = new.egid;
    new.fsgid = new.egid;
    if caps.is_some() || set_id {
        new.ambient = Caps::EMPTY;
    }
    new.permitted = new.permitted | new.ambient;
    new.effective = if effective { new.permitted } else { new.ambient };
    new.securebits &= !SECBIT_KEEP_CAPS;
    set_id |= new.euid != new.uid || new.egid != new.gid;
    let gained = effective || !new.permitted.subset_of(new.ambient);
    let secure = set_id || (new.uid != root && gained);
    let changed = new.euid != old.euid
        || new.egid != old.egid
        || new.fsuid != old.fsuid
        || new.fsgid != old.fsgid
        || !new.permitted.subset_of(old.permitted)
        || new.euid != new.uid
        || new.egid != new.gid;
    Ok(ExecCreds { creds: new, secure, changed })
}

/// The file's capabilities (get_vfs_caps_from_disk()); `None`: it has none, or none that count here.
fn file_caps(file: &File, ns: &UserNs) -> Result<Option<FileCaps>, Errno> {
    let Some(xattrs) = file.inode().xattrs() else { return Ok(None) };
    match xattrs.get(b"security.capability") {
        Ok(value) => Ok(parse(&value)?.filter(|caps| owns(ns, caps.root))),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether a user is root of a namespace or of one above it (rootid_owns_currentns()).
fn owns(ns: &UserNs, root: u32) -> bool {
    let mut at = Some(ns);
    while let Some(ns) = at {
        if ns.uid(root) == Some(0) {
            return true;
        }
        at = ns.parent().map(|parent| &**parent);
    }
    false
}

fn parse(value: &[u8]) -> Result<Option<FileCaps>, Errno> {
    let word = |index: usize| {
        let bytes = value.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or(Errno::EINVAL)
    };
    let magic = word(0)?;
    let (words, size) = match magic & VFS_CAP_REVISION_MASK {
        VFS_CAP_REVISION_1 => (1, 12),
        VFS_CAP_REVISION_2 => (2, 20),
        VFS_CAP_REVISION_3 => (2, 24),
        _ => return Err(Errno::EINVAL),
    };
    if value.len() != size {
        return Err(Errno::EINVAL);
    }
    let root = if magic & VFS_CAP_REVISION_MASK == VFS_CAP_REVISION_3 { word(5)? } else { 0 };
    let (mut permitted, mut inheritable) = (0u64, 0u64);
    for index in 0..words {
        permitted |= u64::from(word(1 + 2 * index)?) << (32 * index);
        inheritable |= u64::from(word(2 + 2 * index)?) << (32 * index);
    }
    Ok(Some(FileCaps {
        permitted: Caps(permitted) & Caps::ALL,
        inheritable: Caps(inheritable) & Caps::ALL,
        effective: magic & VFS_CAP_FLAGS_EFFECTIVE != 0,
        root,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn attributes_of_all_revisions() {
        let caps = parse(&value(&[VFS_CAP_REVISION_2 | 1, 1 << 13, 0, 1 << 6, 2])).unwrap().unwrap();
        assert_eq!(caps.permitted, Caps::EMPTY.with(13).with(38));
        assert_eq!(caps.inheritable, Caps::EMPTY.with(33));
        assert!(caps.effective);
        let caps = parse(&value(&[VFS_CAP_REVISION_1, 1, u32::MAX])).unwrap().unwrap();
        assert_eq!((caps.permitted.0, caps.inheritable.0, caps.effective), (1, 0xffff_ffff, false));
        assert!(parse(&value(&[VFS_CAP_REVISION_3, 1, 0, 0, 0, 0])).unwrap().is_some());
        let root = parse(&value(&[VFS_CAP_REVISION_3, 1, 0, 0, 0, 1000])).unwrap().map(|caps| caps.root);
        assert_eq!(root, Some(1000));
        assert!(owns(UserNs::initial(), 0) && !owns(UserNs::initial(), 1000));
        let unknown = parse(&value(&[VFS_CAP_REVISION_2, u32::MAX, 0, u32::MAX, 0])).unwrap().unwrap();
        assert_eq!(unknown.permitted, Caps::ALL);
    }

    #[test]
    fn what_is_malformed_fails() {
        for bad in [vec![], vec![1, 2, 3], value(&[VFS_CAP_REVISION_2, 1, 0, 0]), value(&[0x0500_0000, 1, 1])]
        {
            assert!(matches!(parse(&bad), Err(Errno::EINVAL)), "{bad:?}");
        }
    }
}
