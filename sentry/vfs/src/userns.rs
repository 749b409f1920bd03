//! User namespaces: which ids there are, and who has power over what (kernel/user_namespace.c, user_namespaces(7)).
//!
//! Inside the sentry every user and group id is a *kernel id*, the number in the initial namespace; [`crate::Creds`],
//! attributes and objects hold those. System calls translate at their edge: what a guest names ([`UserNs::kuid`]) and
//! what it is shown ([`UserNs::uid`]). The initial namespace maps every id to itself and does so without a look-up.
//!
//! A container with mappings of its own lives in a child of the initial namespace ([`UserNs::of_container`]). Its ids are
//! kernel ids as they are, since its gofer lives in a host namespace with the same mapping and translates; the host's
//! numbers are only remembered to be shown in /proc/PID/uid_map.
//!
//! Locks: none; a map is set once.

use crate::bounds::{Bound, Share};
use crate::{Cap, Creds};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SETFCAP;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

/// What ids without a mapping are shown as (fs.overflowuid, fs.overflowgid).
pub const OVERFLOW_ID: u32 = 65534;
/// No id.
pub const INVALID_ID: u32 = u32::MAX;
/// How deep namespaces go, the initial one's level being 0.
const MAX_LEVEL: u32 = 33;
/// The most lines of a map (UID_GID_MAP_MAX_EXTENTS).
const MAX_EXTENTS: usize = 340;

/// User namespaces of guests (user.max_user_namespaces): ENOSPC.
pub static USER_NAMESPACES: Bound = Bound::new(4096);

/// A range of ids: `count` from `first` on are, outside, those from `lower` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub first: u32,
    pub lower: u32,
    pub count: u32,
}

impl Extent {
    fn down(&self, id: u32) -> Option<u32> {
        let at = id.checked_sub(self.first).filter(|at| *at < self.count)?;
        self.lower.checked_add(at)
    }
    fn up(&self, id: u32) -> Option<u32> {
        let at = id.checked_sub(self.lower).filter(|at| *at < self.count)?;
        self.first.checked_add(at)
    }
}

/// Ids of one kind, inside and outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap(Vec<Extent>);

impl IdMap {
    /// EINVAL for none, too many, empty or overlapping ranges, and such that go beyond the last id.
    pub fn new(extents: Vec<Extent>) -> Result<IdMap, Errno> {
        if extents.is_empty() || extents.len() > MAX_EXTENTS {
            return Err(Errno::EINVAL);
        }
        let fits = |start: u32, count: u32| count > 0 && start.checked_add(count).is_some();
        let overlap = |a: u32, b: u32, x: &Extent, y: &Extent| {
            u64::from(a) < u64::from(b) + u64::from(y.count)
                && u64::from(b) < u64::from(a) + u64::from(x.count)
        };
        for (index, extent) in extents.iter().enumerate() {
            if !fits(extent.first, extent.count) || !fits(extent.lower, extent.count) {
                return Err(Errno::EINVAL);
            }
            let before = extents.get(..index).unwrap_or_default();
            if before.iter().any(|other| {
                overlap(extent.first, other.first, extent, other)
                    || overlap(extent.lower, other.lower, extent, other)
            }) {
                return Err(Errno::EINVAL);
            }
        }
        Ok(IdMap(extents))
    }

    pub fn extents(&self) -> &[Extent] {
        &self.0
    }
    /// From inside to outside.
    pub fn down(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| extent.down(id))
    }
    /// From outside to inside.
    pub fn up(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| extent.up(id))
    }

    /// The same ids in terms of kernel ids, if `parent` has every range in one piece.
    fn through(&self, parent: &UserNs, kind: IdKind) -> Option<IdMap> {
        let whole = |extent: &Extent| {
            let (first, last) = (extent.lower, extent.lower.checked_add(extent.count.checked_sub(1)?)?);
            let start = parent.kernel_id(kind, first)?;
            let in_one = parent.initial
                || parent
                    .map(kind)?
                    .0
                    .iter()
                    .any(|own| own.down(first).is_some() && own.down(last).is_some());
            in_one.then_some(Extent { lower: start, ..*extent })
        };
        self.0.iter().map(whole).collect::<Option<_>>().map(IdMap)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    User,
    Group,
    Project,
}

/// A user namespace.
pub struct UserNs {
    pub inum: u64,
    parent: Option<Arc<UserNs>>,
    level: u32,
    initial: bool,
    /// Who made it, as kernel ids.
    owner: u32,
    group: u32,
    /// Its maker could set file capabilities above, so root above may be mapped.
    parent_could_setfcap: bool,
    maps: [OnceLock<IdMap>; 3],
    /// A container's maps as the host has them.
    host: Option<[IdMap; 2]>,
    /// setgroups(2) is denied for good.
    denies_setgroups: AtomicBool,
    _share: Option<Share>,
}

impl fmt::Debug for UserNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user:[{}]", self.inum)
    }
}

/// A namespace is only the same as itself.
impl PartialEq for UserNs {
    fn eq(&self, other: &UserNs) -> bool {
        std::ptr::eq(self, other)
    }
}
impl Eq for UserNs {}

static INITIAL: LazyLock<Arc<UserNs>> = LazyLock::new(|| {
    Arc::new(UserNs {
        // PROC_USER_INIT_INO
        inum: 0xefff_fffd,
        parent: None,
        level: 0,
        initial: true,
        owner: 0,
        group: 0,
        parent_could_setfcap: false,
        maps: Default::default(),
        host: None,
        denies_setgroups: AtomicBool::new(false),
        _share: None,
    })
});

fn new_inum() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0xf400_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl UserNs {
    pub fn initial() -> &'static Arc<UserNs> {
        &INITIAL
    }

    /// A container's, with the host's ids behind its own; `allow_setgroups` unless the host denies it.
    pub fn of_container(users: IdMap, groups: IdMap, allow_setgroups: bool) -> Arc<UserNs> {
        let own = |map: &IdMap| IdMap(map.0.iter().map(|e| Extent { lower: e.first, ..*e }).collect());
        let maps = [own(&users).into(), own(&groups).into(), OnceLock::new()];
        Arc::new(UserNs {
            inum: new_inum(),
            parent: Some(INITIAL.clone()),
            level: 1,
            initial: false,
            owner: INVALID_ID,
            group: INVALID_ID,
            parent_could_setfcap: true,
            maps,
            host: Some([users, groups]),
            denies_setgroups: AtomicBool::new(!allow_setgroups),
            _share: None,
        })
    }

    /// create_user_ns(): a child for who has `creds`. EPERM if the maker's own ids are not known where it is.
    pub fn new_child(creds: &Creds) -> Result<Arc<UserNs>, Errno> {
        let parent = &creds.user_ns;
        if parent.level >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let share = USER_NAMESPACES.share(1).ok_or(Errno::ENOSPC)?;
        if parent.uid(creds.euid).is_none() || parent.gid(creds.egid).is_none() {
            return Err(Errno::EPERM);
        }
        Ok(Arc::new(UserNs {
            inum: new_inum(),
            parent: Some(parent.clone()),
            level: parent.level.saturating_add(1),
            initial: false,
            owner: creds.euid,
            group: creds.egid,
            parent_could_setfcap: creds.effective.has(CAP_SETFCAP),
            maps: Default::default(),
            host: None,
            denies_setgroups: AtomicBool::new(parent.denies_setgroups.load(Ordering::Acquire)),
            _share: Some(share),
        }))
    }

    pub fn is_initial(&self) -> bool {
        self.initial
    }
    /// The namespace above; `None` where guests see none.
    pub fn parent(&self) -> Option<&Arc<UserNs>> {
        self.parent.as_ref()
    }
    /// Its maker's kernel id.
    pub fn owner(&self) -> u32 {
        self.owner
    }
    pub fn owner_group(&self) -> u32 {
        self.group
    }
    /// Whether it is `above` or lies below it (in_userns()).
    pub fn is_within(&self, above: &UserNs) -> bool {
        let mut at = self;
        while at.level > above.level {
            let Some(parent) = &at.parent else { return false };
            at = parent;
        }
        at == above
    }

    fn map(&self, kind: IdKind) -> Option<&IdMap> {
        let [users, groups, projects] = &self.maps;
        match kind {
            IdKind::User => users,
            IdKind::Group => groups,
            IdKind::Project => projects,
        }
        .get()
    }

    /// The kernel id behind an id of this namespace (make_kuid()).
    pub fn kernel_id(&self, kind: IdKind, id: u32) -> Option<u32> {
        if self.initial {
            return (id != INVALID_ID).then_some(id);
        }
        self.map(kind)?.down(id)
    }
    /// The id that a kernel id has here (from_kuid()).
    pub fn id(&self, kind: IdKind, kernel_id: u32) -> Option<u32> {
        if self.initial {
            return (kernel_id != INVALID_ID).then_some(kernel_id);
        }
        self.map(kind)?.up(kernel_id)
    }

    pub fn kuid(&self, uid: u32) -> Option<u32> {
        self.kernel_id(IdKind::User, uid)
    }
    pub fn kgid(&self, gid: u32) -> Option<u32> {
        self.kernel_id(IdKind::Group, gid)
    }
    pub fn uid(&self, kuid: u32) -> Option<u32> {
        self.id(IdKind::User, kuid)
    }
    pub fn gid(&self, kgid: u32) -> Option<u32> {
        self.id(IdKind::Group, kgid)
    }
    /// As it is shown (from_kuid_munged()).
    pub fn show_uid(&self, kuid: u32) -> u32 {
        if self.initial { kuid } else { self.uid(kuid).unwrap_or(OVERFLOW_ID) }
    }
    pub fn show_gid(&self, kgid: u32) -> u32 {
        if self.initial { kgid } else { self.gid(kgid).unwrap_or(OVERFLOW_ID) }
    }
    /// The kernel id of its root; [`INVALID_ID`] if it has none.
    pub fn root_uid(&self) -> u32 {
        if self.initial { 0 } else { self.kuid(0).unwrap_or(INVALID_ID) }
    }
    /// Whether both ids of a file are known here.
    pub fn knows(&self, kuid: u32, kgid: u32) -> bool {
        self.initial || (self.uid(kuid).is_some() && self.gid(kgid).is_some())
    }

    /// Whether its user ids are what they will be.
    pub fn has_user_map(&self) -> bool {
        self.initial || self.map(IdKind::User).is_some()
    }
    pub fn has_group_map(&self) -> bool {
        self.initial || self.map(IdKind::Group).is_some()
    }
    /// Whether setgroups(2) is allowed at all (userns_may_setgroups()).
    pub fn may_setgroups(&self) -> bool {
        self.has_group_map() && self.allows_setgroups()
    }
    /// What /proc/PID/setgroups says.
    pub fn allows_setgroups(&self) -> bool {
        !self.denies_setgroups.load(Ordering::Acquire)
    }
    /// Writing "allow" or "deny" there: EPERM once it is settled.
    pub fn set_setgroups(&self, allow: bool) -> Result<(), Errno> {
        if allow {
            return if self.allows_setgroups() { Ok(()) } else { Err(Errno::EPERM) };
        }
        if self.has_group_map() {
            return Err(Errno::EPERM);
        }
        self.denies_setgroups.store(true, Ordering::Release);
        Ok(())
    }

    /// The lines of a map as a reader in namespace `reader` sees them.
    pub fn shown_map(&self, kind: IdKind, reader: &UserNs) -> Vec<Extent> {
        if self.initial {
            return vec![Extent { first: 0, lower: 0, count: u32::MAX }];
        }
        let own = std::ptr::eq(self, reader);
        if let (true, Some([users, groups])) = (own, &self.host) {
            return match kind {
                IdKind::User => users.0.clone(),
                IdKind::Group => groups.0.clone(),
                IdKind::Project => Vec::new(),
            };
        }
        let lower = if own { self.parent.as_deref().unwrap_or(reader) } else { reader };
        let extents = self.map(kind).map(|map| map.0.as_slice()).unwrap_or_default();
        let seen = |e: &Extent| Extent { lower: lower.id(kind, e.lower).unwrap_or(INVALID_ID), ..*e };
        extents.iter().map(seen).collect()
    }

    /// map_write(): sets a map once. `writer` opened the file.
    pub fn set_map(&self, kind: IdKind, writer: &Creds, map: &IdMap) -> Result<(), Errno> {
        let parent = self.parent.as_ref().ok_or(Errno::EPERM)?;
        if !self.permits(kind, writer, parent, map) {
            return Err(Errno::EPERM);
        }
        let map = map.through(parent, kind).ok_or(Errno::EPERM)?;
        let [users, groups, projects] = &self.maps;
        let slot = match kind {
            IdKind::User => users,
            IdKind::Group => groups,
            IdKind::Project => projects,
        };
        slot.set(map).map_err(|_| Errno::EPERM)
    }

    /// What a writer needs before its text is looked at: EPERM.
    pub fn may_write_map(self: &Arc<UserNs>, kind: IdKind, writer: &Creds) -> Result<(), Errno> {
        use chitin_abi::capability::CAP_SYS_ADMIN;
        let parent = self.parent.as_ref().ok_or(Errno::EPERM)?;
        let near = writer.user_ns == *self || writer.user_ns == *parent;
        let admin = kind == IdKind::Project || writer.capable_in(self, CAP_SYS_ADMIN);
        if !near || self.map(kind).is_some() || !admin { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// new_idmap_permitted()
    fn permits(&self, kind: IdKind, writer: &Creds, parent: &Arc<UserNs>, map: &IdMap) -> bool {
        use chitin_abi::capability::{CAP_SETGID, CAP_SETUID};
        let maps_root = map.0.iter().any(|extent| extent.lower == 0);
        if kind == IdKind::User && maps_root {
            let may = if writer.user_ns.as_ref() == self {
                self.parent_could_setfcap
            } else {
                writer.capable_in(parent, CAP_SETFCAP)
            };
            if !may {
                return false;
            }
        }
        if let [Extent { lower, count: 1, .. }] = map.0.as_slice()
            && self.owner == writer.euid
        {
            let id = parent.kernel_id(kind, *lower);
            match kind {
                IdKind::User if id == Some(writer.euid) => return true,
                IdKind::Group if !self.allows_setgroups() && id == Some(writer.egid) => return true,
                _ => {}
            }
        }
        match kind {
            IdKind::User => writer.capable_in(parent, CAP_SETUID),
            IdKind::Group => writer.capable_in(parent, CAP_SETGID),
            IdKind::Project => true,
        }
    }
}

/// Whether `creds` have a capability over what `ns` owns (cap_capable()).
pub(crate) fn capable_in(creds: &Creds, ns: &UserNs, cap: Cap) -> bool {
    let own = &creds.user_ns;
    let mut at = ns;
    loop {
        if std::ptr::eq(at, Arc::as_ptr(own)) {
            return creds.effective.has(cap);
        }
        if at.level <= own.level {
            return false;
        }
        let Some(parent) = &at.parent else { return false };
        // Who made a namespace has all power over it from where it was made.
        if parent == own && at.owner == creds.euid {
            return true;
        }
        at = parent;
    }
}

#[cfg(test)]
mod tests;
