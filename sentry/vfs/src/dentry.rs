//! Dentries: the cached tree of names of one file system, and [`Path`], a dentry seen through a mount.
//!
//! A dentry is positive and keeps its inode for life; names known not to exist are kept as negative entries in their
//! directory's map. The map of a directory mirrors the file system as long as [`crate::FileSystem::revalidates`] is false.
//!
//! Locks: `dir_lock` serialises look-ups that miss and all changes of one directory; `children` and `place` are short.

use crate::{Caller, FileSystem, Inode, Mount};
use chitin_abi::Errno;
use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// Unreferenced dentries kept per file system.
const CACHE_LIMIT: usize = 32768;
/// Negative entries kept per directory.
const NEGATIVE_LIMIT: usize = 1024;

/// A file system instance with its dentry cache (Linux's super block).
pub struct SuperBlock {
    fs: Arc<dyn FileSystem>,
    revalidates: bool,
    /// Dentries in the order they came, for second-chance eviction.
    clock: Mutex<VecDeque<Weak<Dentry>>>,
}

/// One name of the tree.
pub struct Dentry {
    sb: Arc<SuperBlock>,
    inode: Arc<dyn Inode>,
    place: RwLock<Place>,
    children: Mutex<Children>,
    dir_lock: Mutex<()>,
    /// How many mounts sit on it, in all namespaces.
    pub(crate) mounted: AtomicU32,
    dead: AtomicBool,
    used: AtomicBool,
}

struct Place {
    name: Box<[u8]>,
    parent: Option<Arc<Dentry>>,
}

#[derive(Default)]
struct Children {
    map: HashMap<Box<[u8]>, Option<Arc<Dentry>>, RandomState>,
    negative: usize,
    /// The other directories that this one is for some ([`Inode::seen_by`]), beside it in the tree.
    others: Vec<(u64, Weak<Dentry>)>,
}

impl SuperBlock {
    /// The root dentry of a file system.
    pub fn root_of(fs: Arc<dyn FileSystem>) -> Arc<Dentry> {
        let inode = fs.root();
        let revalidates = fs.revalidates();
        let sb = Arc::new(SuperBlock { fs, revalidates, clock: Mutex::default() });
        Dentry::make(&sb, inode, Place { name: Box::default(), parent: None })
    }

    /// Keeps the cache bounded: looks at a few of the oldest dentries and drops what nobody uses.
    fn shrink(&self) {
        let mut victims = Vec::new();
        {
            let mut clock = self.clock.lock();
            let mut looks = 64;
            while clock.len() > CACHE_LIMIT && looks > 0 {
                looks -= 1;
                let Some(weak) = clock.pop_front() else { break };
                let Some(dentry) = weak.upgrade() else { continue };
                // One reference is the parent's map's, one is ours.
                let idle = Arc::strong_count(&dentry) <= 2 && !dentry.used.swap(false, Ordering::Relaxed);
                if idle && dentry.mounted.load(Ordering::Relaxed) == 0 {
                    victims.push(dentry);
                } else {
                    clock.push_back(weak);
                }
            }
        }
        for dentry in victims {
            dentry.evict();
        }
    }
}

impl Dentry {
    fn make(sb: &Arc<SuperBlock>, inode: Arc<dyn Inode>, place: Place) -> Arc<Dentry> {
        Arc::new(Dentry {
            sb: sb.clone(),
            inode,
            place: RwLock::new(place),
            children: Mutex::default(),
            dir_lock: Mutex::new(()),
            mounted: AtomicU32::new(0),
            dead: AtomicBool::new(false),
            used: AtomicBool::new(false),
        })
    }

    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.sb.fs
    }
    pub fn same_fs(&self, other: &Dentry) -> bool {
        Arc::ptr_eq(&self.sb, &other.sb)
    }
    pub fn name(&self) -> Box<[u8]> {
        self.place.read().name.clone()
    }
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }
    /// Name and parent as of one moment.
    pub fn place(&self) -> (Box<[u8]>, Option<Arc<Dentry>>) {
        let place = self.place.read();
        (place.name.clone(), place.parent.clone())
    }
    /// Something is mounted on it, in some namespace.
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::Acquire) > 0
    }
    /// Unlinked or removed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
    /// Serialises changes of this directory.
    pub fn lock_dir(&self) -> MutexGuard<'_, ()> {
        self.dir_lock.lock()
    }

    /// Looks up `names[0]`; what comes along for the following names is cached. `None`: there is no such name.
    pub fn lookup(self: &Arc<Dentry>, names: &[&[u8]]) -> Result<Option<Arc<Dentry>>, Errno> {
        let Some(name) = names.first() else { return Err(Errno::ENOENT) };
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        let _guard = self.dir_lock.lock();
        self.lookup_locked(names)
    }

    /// As [`Dentry::lookup`], with the directory locked by the caller.
    pub fn lookup_locked(self: &Arc<Dentry>, names: &[&[u8]]) -> Result<Option<Arc<Dentry>>, Errno> {
        let Some(name) = names.first() else { return Err(Errno::ENOENT) };
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        if self.is_dead() {
            return Ok(None);
        }
        let dir = self.inode.dir().ok_or(Errno::ENOTDIR)?;
        let names = if self.sb.revalidates { names.get(..1).unwrap_or_default() } else { names };
        let found = match dir.lookup_chain(names) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                self.forget(name);
                if !self.sb.revalidates {
                    self.add_negative(name);
                }
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut chain = found.into_iter().zip(names);
        let Some((inode, name)) = chain.next() else { return Ok(None) };
        let first = self.adopt(name, inode);
        let mut at = first.clone();
        for (inode, name) in chain {
            // Somebody may work in that directory right now; then the extra knowledge is dropped.
            let Some(_guard) = at.dir_lock.try_lock() else { break };
            let next = at.adopt(name, inode);
            drop(_guard);
            at = next;
        }
        Ok(Some(first))
    }

    /// This, or what stands here for `caller`.
    pub fn seen_by(self: Arc<Dentry>, caller: &Caller) -> Arc<Dentry> {
        if !self.sb.revalidates {
            return self;
        }
        let Some((key, inode)) = self.inode.seen_by(caller) else { return self };
        let mut children = self.children.lock();
        children.others.retain(|(_, other)| other.strong_count() > 0);
        let known = children.others.iter().find(|(other, _)| *other == key);
        if let Some(known) = known.and_then(|(_, dentry)| dentry.upgrade()) {
            return known;
        }
        let (name, parent) = self.place();
        let dentry = Dentry::make(&self.sb, inode, Place { name, parent });
        children.others.push((key, Arc::downgrade(&dentry)));
        dentry
    }

    /// The cached answer, if there is one that holds: a dentry, or the knowledge that there is none.
    pub(crate) fn known(&self, name: &[u8]) -> Option<Option<Arc<Dentry>>> {
        if self.sb.revalidates {
            return None;
        }
        let children = self.children.lock();
        let known = children.map.get(name)?;
        if let Some(dentry) = known {
            dentry.used.store(true, Ordering::Relaxed);
        }
        Some(known.clone())
    }

    /// Records that `name` leads to `inode`; the directory is locked. An existing dentry of the same inode stays.
    pub fn adopt(self: &Arc<Dentry>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let (dentry, old) = {
            let mut children = self.children.lock();
            if let Some(Some(known)) = children.map.get(name)
                && same_inode(&known.inode, &inode)
            {
                return known.clone();
            }
            let place = Place { name: name.into(), parent: Some(self.clone()) };
            let dentry = Dentry::make(&self.sb, inode, place);
            let old = children.map.insert(name.into(), Some(dentry.clone()));
            if let Some(None) = old {
                children.negative = children.negative.saturating_sub(1);
            }
            (dentry, old)
        };
        if let Some(Some(old)) = old {
            old.dead.store(true, Ordering::Release);
        }
        self.sb.clock.lock().push_back(Arc::downgrade(&dentry));
        self.sb.shrink();
        dentry
    }

    /// A dentry for an inode without a name (O_TMPFILE), as if it lay in this directory and were unlinked.
    pub fn unnamed(self: &Arc<Dentry>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let place = Place { name: name.into(), parent: Some(self.clone()) };
        let dentry = Dentry::make(&self.sb, inode, place);
        dentry.dead.store(true, Ordering::Release);
        dentry
    }

    fn add_negative(&self, name: &[u8]) {
        let mut children = self.children.lock();
        if children.negative >= NEGATIVE_LIMIT {
            children.map.retain(|_, child| child.is_some());
            children.negative = 0;
        }
        if children.map.insert(name.into(), None).is_none() {
            children.negative += 1;
        }
    }

    /// Drops what is known of `name`.
    fn forget(&self, name: &[u8]) {
        let old = self.children.lock().map.remove(name);
        if let Some(Some(old)) = old {
            old.dead.store(true, Ordering::Release);
        }
    }

    /// The name was removed from the file system; the directory is locked.
    pub fn removed(&self, name: &[u8]) {
        self.forget(name);
        if !self.sb.revalidates {
            self.add_negative(name);
        }
    }

    /// `child` moved from here (`old`) to `new_parent` as `new`; both directories are locked.
    pub fn moved(&self, old: &[u8], child: &Arc<Dentry>, new_parent: &Arc<Dentry>, new: &[u8]) {
        self.children.lock().map.remove(old);
        if !self.sb.revalidates {
            self.add_negative(old);
        }
        let replaced = {
            let mut children = new_parent.children.lock();
            let replaced = children.map.insert(new.into(), Some(child.clone()));
            if let Some(None) = replaced {
                children.negative = children.negative.saturating_sub(1);
            }
            replaced
        };
        if let Some(Some(replaced)) = replaced {
            replaced.dead.store(true, Ordering::Release);
        }
        *child.place.write() = Place { name: new.into(), parent: Some(new_parent.clone()) };
    }

    /// Two dentries swapped their places; both directories are locked.
    pub fn exchanged(a: &Arc<Dentry>, b: &Arc<Dentry>) {
        let (a_place, b_place) = (a.place(), b.place());
        for (child, (name, parent)) in [(a, b_place), (b, a_place)] {
            if let Some(parent) = &parent {
                parent.children.lock().map.insert(name.clone(), Some(child.clone()));
            }
            *child.place.write() = Place { name, parent };
        }
    }

    /// Whether `self` is `other` or lies below it.
    pub fn is_within(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(self.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(&dentry, other) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// Leaves its parent's map if still unused.
    fn evict(self: Arc<Dentry>) {
        let (name, parent) = self.place();
        let Some(parent) = parent else { return };
        let mut children = parent.children.lock();
        let ours = matches!(children.map.get(&name), Some(Some(known)) if Arc::ptr_eq(known, &self));
        if ours && Arc::strong_count(&self) <= 2 && self.children.lock().map.values().all(Option::is_none) {
            children.map.remove(&name);
        }
    }

    /// Drops all cached names below that nobody uses (umount, drop_caches).
    pub fn prune(self: &Arc<Dentry>) {
        let mut stack = vec![self.clone()];
        let mut order = Vec::new();
        while let Some(dentry) = stack.pop() {
            let children = dentry.children.lock();
            stack.extend(children.map.values().flatten().cloned());
            stack.extend(children.others.iter().filter_map(|(_, other)| other.upgrade()));
            drop(children);
            order.push(dentry);
        }
        while let Some(dentry) = order.pop() {
            if dentry.mounted.load(Ordering::Relaxed) == 0 {
                dentry.evict();
            }
        }
    }
}

impl Drop for Dentry {
    /// A chain of parents that nobody else holds goes one by one: its length is the guest's choice.
    fn drop(&mut self) {
        if *self.dead.get_mut() {
            self.inode.state().released(&self.inode);
        }
        let mut above = self.place.get_mut().parent.take();
        while let Some(parent) = above {
            above = match Arc::into_inner(parent) {
                Some(mut last) => last.place.get_mut().parent.take(),
                None => None,
            };
        }
    }
}

fn same_inode(a: &Arc<dyn Inode>, b: &Arc<dyn Inode>) -> bool {
    Arc::ptr_eq(a, b) || (a.ino() == b.ino() && a.kind() == b.kind() && a.ino() != 0)
}

/// The text of a path from its names, innermost first.
pub fn path_text(names: &[Box<[u8]>]) -> Vec<u8> {
    let mut text = Vec::new();
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    text
}

/// A file as a path names it: a dentry seen through a mount.
#[derive(Clone)]
pub struct Path {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl Path {
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    pub fn is(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, self.mount.root())
    }

    /// One step up, through mount points; the root of everything is its own parent.
    pub fn parent(&self) -> Path {
        let mut at = self.clone();
        while at.is_mount_root() {
            match at.mount.mountpoint() {
                Some(point) => at = point,
                None => return at,
            }
        }
        match at.dentry.parent() {
            Some(parent) => Path { mount: at.mount, dentry: parent },
            None => at,
        }
    }

    /// The inode number that ".." shows.
    pub fn parent_ino(&self) -> u64 {
        self.parent().inode().ino()
    }
}
