//! Credentials and the permission checks that depend on them (credentials(7), capabilities(7)).

use crate::userns::{self, UserNs};
use crate::{Attr, FileKind};
use chitin_abi::Errno;
use chitin_abi::capability::*;
use chitin_abi::stat::{S_ISGID, S_ISVTX};
use std::sync::Arc;

/// A capability number (CAP_*).
pub type Cap = u32;

/// A capability set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps(pub u64);

impl Caps {
    pub const EMPTY: Caps = Caps(0);
    /// Every capability this kernel knows.
    pub const ALL: Caps = Caps((1u64 << (CAP_LAST_CAP + 1)) - 1);

    pub fn has(self, cap: Cap) -> bool {
        cap < 64 && self.0 & (1 << cap) != 0
    }
    #[must_use]
    pub fn with(self, cap: Cap) -> Caps {
        if cap < 64 { Caps(self.0 | 1 << cap) } else { self }
    }
    #[must_use]
    pub fn without(self, cap: Cap) -> Caps {
        if cap < 64 { Caps(self.0 & !(1 << cap)) } else { self }
    }
    pub fn subset_of(self, other: Caps) -> bool {
        self.0 & !other.0 == 0
    }
}

impl std::ops::BitAnd for Caps {
    type Output = Caps;
    fn bitand(self, other: Caps) -> Caps {
        Caps(self.0 & other.0)
    }
}
impl std::ops::BitOr for Caps {
    type Output = Caps;
    fn bitor(self, other: Caps) -> Caps {
        Caps(self.0 | other.0)
    }
}

/// A thread's credentials; immutable once shared, replaced as a whole (`Arc<Creds>`). Ids are kernel ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creds {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub permitted: Caps,
    pub effective: Caps,
    pub inheritable: Caps,
    pub bounding: Caps,
    pub ambient: Caps,
    pub securebits: u32,
    pub no_new_privs: bool,
    /// What the ids are numbers of for their owner, and what the capabilities are about.
    pub user_ns: Arc<UserNs>,
}

/// Access mask bits, as in access(2).
pub const MAY_EXEC: u32 = 1;
pub const MAY_WRITE: u32 = 2;
pub const MAY_READ: u32 = 4;

impl Creds {
    /// The kernel's own: root with everything.
    pub fn root() -> Creds {
        Creds {
            uid: 0,
            euid: 0,
            suid: 0,
            fsuid: 0,
            gid: 0,
            egid: 0,
            sgid: 0,
            fsgid: 0,
            groups: Vec::new(),
            permitted: Caps::ALL,
            effective: Caps::ALL,
            inheritable: Caps::EMPTY,
            bounding: Caps::ALL,
            ambient: Caps::EMPTY,
            securebits: 0,
            no_new_privs: false,
            user_ns: UserNs::initial().clone(),
        }
    }

    /// All power in a namespace that has just been made or entered (set_cred_user_ns()).
    pub fn in_new_ns(old: &Creds, user_ns: Arc<UserNs>) -> Creds {
        Creds {
            permitted: Caps::ALL,
            effective: Caps::ALL,
            inheritable: Caps::EMPTY,
            bounding: Caps::ALL,
            ambient: Caps::EMPTY,
            securebits: 0,
            user_ns,
            ..old.clone()
        }
    }

    /// Power over the machine: a capability in the initial user namespace.
    pub fn capable(&self, cap: Cap) -> bool {
        self.effective.has(cap) && self.user_ns.is_initial()
    }

    /// Power over what the thread's own user namespace owns.
    pub fn capable_here(&self, cap: Cap) -> bool {
        self.effective.has(cap)
    }

    /// Power over what a user namespace owns (ns_capable()).
    pub fn capable_in(&self, ns: &UserNs, cap: Cap) -> bool {
        userns::capable_in(self, ns, cap)
    }

    /// Power over a file whose owners are known in the thread's user namespace (capable_wrt_inode_uidgid()).
    pub fn capable_over(&self, attr: &Attr, cap: Cap) -> bool {
        self.effective.has(cap) && self.user_ns.knows(attr.uid, attr.gid)
    }

    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// `inode_permission()` for a mask of MAY_*: EACCES when refused.
    pub fn check(&self, attr: &Attr, mask: u32) -> Result<(), Errno> {
        let bits = if self.fsuid == attr.uid {
            attr.perm >> 6
        } else if self.in_group(attr.gid) {
            attr.perm >> 3
        } else {
            attr.perm
        };
        if mask & !bits & 7 == 0 {
            return Ok(());
        }
        if attr.kind == FileKind::Directory {
            if self.capable_over(attr, CAP_DAC_OVERRIDE)
                || (mask & MAY_WRITE == 0 && self.capable_over(attr, CAP_DAC_READ_SEARCH))
            {
                return Ok(());
            }
        } else {
            if mask == MAY_READ && self.capable_over(attr, CAP_DAC_READ_SEARCH) {
                return Ok(());
            }
            if (mask & MAY_EXEC == 0 || attr.perm & 0o111 != 0) && self.capable_over(attr, CAP_DAC_OVERRIDE) {
                return Ok(());
            }
        }
        Err(Errno::EACCES)
    }

    /// Owner of the file, or CAP_FOWNER where the owner is known (inode_owner_or_capable()).
    pub fn owns(&self, attr: &Attr) -> bool {
        self.fsuid == attr.uid || self.effective.has(CAP_FOWNER) && self.user_ns.uid(attr.uid).is_some()
    }

    /// Whether a sticky directory keeps these credentials from removing the victim.
    pub fn sticky_forbids(&self, dir: &Attr, victim: &Attr) -> bool {
        dir.perm & S_ISVTX != 0
            && self.fsuid != victim.uid
            && self.fsuid != dir.uid
            && !self.capable_over(victim, CAP_FOWNER)
    }

    /// Group and mode of a file created in `dir`: setgid directories pass on their group (inode_init_owner()).
    pub fn new_owner(&self, dir: &Attr, perm: u32, is_dir: bool) -> (u32, u32) {
        if dir.perm & S_ISGID == 0 {
            return (self.fsgid, perm);
        }
        let perm = if is_dir {
            perm | S_ISGID
        } else if perm & S_ISGID != 0
            && perm & 0o010 != 0
            && !self.in_group(dir.gid)
            && !self.capable_over(dir, CAP_FSETID)
        {
            perm & !S_ISGID
        } else {
            perm
        };
        (dir.gid, perm)
    }
}
