//! Nodes: the overlay's inodes. How they are kept is told in the crate's documentation.

use crate::file::OverlayFile;
use crate::listing::{Child, Dir};
use chitin_abi::Errno;
use chitin_fs_tmpfs::{FileData, INODE_COST, Meta, Space, XattrMap};
use chitin_vfs::walk::Caller;
use chitin_vfs::{
    Attr, Directory, FileKind, FileOps, FileSystem, Inode, InodeState, LinkTarget, NewInode, NewKind,
    SetAttr, Xattrs,
};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Inode numbers of new files start here: above those of usual lower file systems, and exact in a double.
const FIRST_INO: u64 = 1 << 48;

/// A lower file with several names: found by its device and inode number, so that all names lead to one node.
pub(crate) type IndexKey = (u64, u64);

pub(crate) enum Indexed {
    Seen(Weak<Node>),
    Kept(Arc<Node>),
}

impl Indexed {
    fn node(&self) -> Option<Arc<Node>> {
        match self {
            Indexed::Seen(node) => node.upgrade(),
            Indexed::Kept(node) => Some(node.clone()),
        }
    }
}

/// What all nodes of one file system share.
pub(crate) struct Shared {
    pub(crate) dev: u64,
    pub(crate) lower: Arc<dyn FileSystem>,
    pub(crate) space: Arc<Space>,
    next_ino: AtomicU64,
    /// Held over every change of the tree's shape.
    pub(crate) tree: Mutex<()>,
    pub(crate) index: Mutex<HashMap<IndexKey, Indexed>>,
}

impl Shared {
    pub(crate) fn new(lower: Arc<dyn FileSystem>, space: Arc<Space>) -> Arc<Shared> {
        Arc::new(Shared {
            dev: chitin_vfs::inode::anon_dev(),
            lower,
            space,
            next_ino: AtomicU64::new(FIRST_INO),
            tree: Mutex::default(),
            index: Mutex::default(),
        })
    }
}

/// A directory and a name in it.
type Place = (Arc<Node>, Arc<[u8]>);

pub struct Node {
    me: Weak<Node>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ino: u64,
    pub(crate) kind: FileKind,
    state: InodeState,
    pub(crate) lower: Option<Arc<dyn Inode>>,
    pub(crate) index_key: Option<IndexKey>,
    /// Kept by the tree (or the index), or without a place in it for good.
    pinned: AtomicBool,
    /// Where an unpinned lower file was found.
    link: Mutex<Option<Place>>,
    /// The attributes once they differ from the lower file's.
    meta: Mutex<Option<Box<Meta>>>,
    xattrs: Mutex<Option<XattrMap>>,
    body: Body,
}

enum Body {
    Regular(RwLock<Content>),
    Directory(RwLock<Dir>),
    /// The text of a new link; a lower one is asked.
    Symlink(Option<Vec<u8>>),
    /// The device number of a new node.
    Special(Option<u64>),
}

enum Content {
    /// The lower file's, opened once for all who have it open.
    Lower(Option<Weak<dyn FileOps>>),
    Upper(Arc<FileData>),
}

impl Body {
    fn lower(kind: FileKind) -> Body {
        match kind {
            FileKind::Regular => Body::Regular(RwLock::new(Content::Lower(None))),
            FileKind::Directory => Body::Directory(RwLock::default()),
            FileKind::Symlink => Body::Symlink(None),
            _ => Body::Special(None),
        }
    }
}

impl Node {
    fn make(
        shared: &Arc<Shared>,
        ino: u64,
        kind: FileKind,
        body: Body,
        edit: impl FnOnce(&mut Node),
    ) -> Arc<Node> {
        Arc::new_cyclic(|me| {
            let mut node = Node {
                me: me.clone(),
                shared: shared.clone(),
                ino,
                kind,
                state: InodeState::default(),
                lower: None,
                index_key: None,
                pinned: AtomicBool::new(true),
                link: Mutex::default(),
                meta: Mutex::default(),
                xattrs: Mutex::default(),
                body,
            };
            edit(&mut node);
            node
        })
    }

    pub(crate) fn root(shared: &Arc<Shared>, lower: Arc<dyn Inode>) -> Arc<Node> {
        let body = Body::lower(FileKind::Directory);
        Node::make(shared, lower.ino(), FileKind::Directory, body, |node| node.lower = Some(lower))
    }

    /// A new file without a name yet.
    pub(crate) fn fresh(shared: &Arc<Shared>, new: &NewInode, nlink: u32) -> Result<Arc<Node>, Errno> {
        let (kind, body) = match &new.kind {
            NewKind::Regular => {
                let data = Arc::new(FileData::new(shared.space.clone(), 0));
                (FileKind::Regular, Body::Regular(RwLock::new(Content::Upper(data))))
            }
            NewKind::Directory => (FileKind::Directory, Body::Directory(RwLock::default())),
            NewKind::Symlink(text) => (FileKind::Symlink, Body::Symlink(Some(text.clone()))),
            NewKind::Fifo => (FileKind::Fifo, Body::Special(Some(0))),
            NewKind::Socket => (FileKind::Socket, Body::Special(Some(0))),
            NewKind::Device { kind, rdev } => (*kind, Body::Special(Some(*rdev))),
        };
        let mut meta = Meta::new(new, nlink);
        if kind == FileKind::Symlink {
            meta.perm = 0o777;
        }
        shared.space.charge_inode(INODE_COST)?;
        let ino = shared.next_ino.fetch_add(1, Ordering::Relaxed);
        Ok(Node::make(shared, ino, kind, body, |node| {
            node.meta = Mutex::new(Some(Box::new(meta)));
            node.xattrs = Mutex::new(Some(XattrMap::default()));
        }))
    }

    /// The node for the lower file `name` of `self`, which the directory does not know yet.
    pub(crate) fn adopt(&self, name: &[u8], lower: Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let kind = lower.kind();
        let index_key = match kind {
            FileKind::Directory => None,
            _ => {
                let attr = lower.attr()?;
                (attr.nlink > 1).then_some((attr.dev, attr.ino))
            }
        };
        let parent = self.me.upgrade().ok_or(Errno::ENOENT)?;
        let mut dir = self.dir_state()?.write();
        if let Some(known) = known(&dir, name)? {
            return Ok(known);
        }
        if dir.dead {
            return Err(Errno::ENOENT);
        }
        let shared = &self.shared;
        let ino = lower.ino();
        let node = match index_key {
            None => Node::make(shared, ino, kind, Body::lower(kind), |node| {
                node.lower = Some(lower);
                node.pinned = AtomicBool::new(false);
                node.link = Mutex::new(Some((parent, name.into())));
            }),
            Some(key) => {
                let mut index = shared.index.lock();
                match index.get(&key).and_then(Indexed::node) {
                    Some(node) => node,
                    None => {
                        let node = Node::make(shared, ino, kind, Body::lower(kind), |node| {
                            node.lower = Some(lower);
                            node.index_key = Some(key);
                            node.pinned = AtomicBool::new(false);
                        });
                        if index.len() == index.capacity() {
                            index.retain(|_, known| known.node().is_some());
                        }
                        index.insert(key, Indexed::Seen(Arc::downgrade(&node)));
                        node
                    }
                }
            }
        };
        dir.see(name, &node);
        Ok(node)
    }

    pub(crate) fn dir_state(&self) -> Result<&RwLock<Dir>, Errno> {
        match &self.body {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The lower directory that shows through.
    pub(crate) fn lower_dir(&self) -> Option<&dyn Directory> {
        self.lower.as_ref()?.dir()
    }

    /// Something about this file is about to change: it must outlive its users.
    fn pin(&self) {
        if !self.pinned.load(Ordering::Acquire) {
            let _tree = self.shared.tree.lock();
            self.pin_locked();
        }
    }

    /// As [`Node::pin`], with the tree locked by the caller.
    pub(crate) fn pin_locked(&self) {
        let Some(mut node) = self.me.upgrade() else { return };
        while !node.pinned.swap(true, Ordering::AcqRel) {
            if let Some(key) = node.index_key {
                // Its names find it there.
                self.shared.index.lock().insert(key, Indexed::Kept(node));
                return;
            }
            let Some((parent, name)) = node.link.lock().take() else { return };
            if let Body::Directory(dir) = &parent.body
                && let Some(child) = dir.write().children.get_mut(&name)
                && matches!(child, Child::Seen(seen) if std::ptr::eq(seen.as_ptr(), Arc::as_ptr(&node)))
            {
                *child = Child::Kept(node);
            }
            node = parent;
        }
    }

    /// The file left the only place it was found at; the tree is locked.
    pub(crate) fn leave_place(&self) {
        if self.index_key.is_none() {
            self.pinned.store(true, Ordering::Release);
            let place = self.link.lock().take();
            drop(place);
        }
    }

    /// Makes sure that the attributes are here, so that changing them cannot fail.
    pub(crate) fn load_meta(&self) -> Result<(), Errno> {
        if self.meta.lock().is_some() {
            return Ok(());
        }
        let attr = self.lower.as_ref().ok_or(Errno::EIO)?.attr()?;
        self.meta.lock().get_or_insert_with(|| Box::new(Meta::from_attr(&attr)));
        Ok(())
    }

    /// Changes the attributes that [`Node::load_meta`] has got; the caller pins.
    pub(crate) fn with_meta<T>(&self, edit: impl FnOnce(&mut Meta) -> T) -> Result<T, Errno> {
        self.meta.lock().as_mut().map(|meta| edit(meta)).ok_or(Errno::EIO)
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Meta) -> T) -> Result<T, Errno> {
        self.load_meta()?;
        self.pin();
        self.with_meta(edit)
    }

    /// Content changed.
    pub(crate) fn touch(&self) -> Result<(), Errno> {
        self.edit(Meta::touch)
    }

    /// A read. The lower file's access time is left alone.
    pub(crate) fn accessed(&self) {
        if let Some(meta) = self.meta.lock().as_mut() {
            meta.accessed();
        }
    }

    /// A name of this non-directory is gone, the tree is locked.
    pub(crate) fn lost_name(&self) -> Result<(), Errno> {
        self.leave_place();
        let left = self.with_meta(|meta| {
            meta.drop_link();
            meta.nlink
        })?;
        if let Some(key) = self.index_key {
            if left > 0 {
                self.pin_locked();
            } else {
                self.pinned.store(true, Ordering::Release);
                let gone = self.shared.index.lock().remove(&key);
                drop(gone);
            }
        }
        Ok(())
    }

    fn content(&self) -> Result<&RwLock<Content>, Errno> {
        match &self.body {
            Body::Regular(content) => Ok(content),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The content, where it was copied up.
    pub(crate) fn upper(&self) -> Option<Arc<FileData>> {
        match &*self.content().ok()?.read() {
            Content::Upper(data) => Some(data.clone()),
            Content::Lower(_) => None,
        }
    }

    /// The lower file, opened for reading.
    pub(crate) fn lower_ops(&self) -> Result<Arc<dyn FileOps>, Errno> {
        let mut content = self.content()?.write();
        self.open_lower(&mut content)
    }

    fn open_lower(&self, content: &mut Content) -> Result<Arc<dyn FileOps>, Errno> {
        if let Content::Lower(Some(ops)) = content
            && let Some(ops) = ops.upgrade()
        {
            return Ok(ops);
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let ops = lower.clone().open(chitin_abi::fcntl::O_RDONLY)?;
        if let Content::Lower(slot) = content {
            *slot = Some(Arc::downgrade(&ops));
        }
        Ok(ops)
    }

    /// The content for writing: copies up the first `limit` bytes of the lower file if that was not done yet.
    pub(crate) fn copy_up(&self, limit: u64) -> Result<Arc<FileData>, Errno> {
        if let Some(data) = self.upper() {
            return Ok(data);
        }
        self.load_meta()?;
        self.pin();
        let mut content = self.content()?.write();
        if let Content::Upper(data) = &*content {
            return Ok(data.clone());
        }
        let size = self.lower.as_ref().ok_or(Errno::EIO)?.attr()?.size.min(limit);
        let data = FileData::new(self.shared.space.clone(), 0);
        if size > 0 {
            let ops = self.open_lower(&mut content)?;
            crate::file::copy(&*ops, &data, size)?;
        }
        let data = Arc::new(data);
        *content = Content::Upper(data.clone());
        Ok(data)
    }

    /// The own map of extended attributes, filled from the lower file the first time.
    fn own_xattrs<T>(
        &self,
        edit: impl FnOnce(&mut XattrMap, &Space) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.load_meta()?;
        let mut copied = XattrMap::default();
        if self.xattrs.lock().is_none()
            && let Some(lower) = self.lower.as_ref().and_then(|lower| lower.xattrs())
        {
            let space = &self.shared.space;
            for name in lower_list(lower)? {
                let taken = match lower.get(&name) {
                    Ok(value) => copied.set(space, &name, &value, 0),
                    Err(Errno::ENODATA) => Ok(()),
                    Err(e) => Err(e),
                };
                taken.inspect_err(|_| copied.clear(space))?;
            }
        }
        self.pin();
        let mut own = self.xattrs.lock();
        match &mut *own {
            // Somebody was faster.
            Some(_) => copied.clear(&self.shared.space),
            None => *own = Some(copied),
        }
        let result = edit(own.as_mut().ok_or(Errno::EIO)?, &self.shared.space)?;
        drop(own);
        self.with_meta(Meta::touch_inode)?;
        Ok(result)
    }
}

/// What a directory knows about `name`: a live node; ENOENT when it was removed; `None`: ask the lower one.
pub(crate) fn known(dir: &Dir, name: &[u8]) -> Result<Option<Arc<Node>>, Errno> {
    match dir.children.get(name) {
        Some(Child::New { node, .. } | Child::Kept(node)) => Ok(Some(node.clone())),
        Some(Child::Seen(node)) => Ok(node.upgrade()),
        Some(Child::Whiteout) => Err(Errno::ENOENT),
        None => Ok(None),
    }
}

fn lower_list(lower: &dyn Xattrs) -> Result<Vec<Vec<u8>>, Errno> {
    match lower.list() {
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        other => other,
    }
}

impl Inode for Node {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let shared = &self.shared;
        let upper = self.upper();
        let own = self.meta.lock().as_ref().map(|meta| meta.attr(shared.dev, self.ino, self.kind));
        let mut attr = match (own, &self.lower) {
            (None, Some(lower)) => Attr { dev: shared.dev, ino: self.ino, ..lower.attr()? },
            (None, None) => return Err(Errno::EIO),
            (Some(own), lower) => match (&self.body, lower) {
                (Body::Regular(_), _) if upper.is_some() => own,
                // Sizes and device numbers are not changed by a change of attributes.
                (_, Some(lower)) => {
                    let Attr { size, blocks, rdev, blksize, .. } = lower.attr()?;
                    Attr { size, blocks, rdev, blksize, ..own }
                }
                (Body::Symlink(Some(text)), None) => Attr { size: text.len() as u64, ..own },
                (Body::Special(Some(rdev)), None) => Attr { rdev: *rdev, ..own },
                (Body::Directory(_), None) => Attr { size: 4096, blocks: 8, ..own },
                _ => own,
            },
        };
        if let Some(data) = &upper {
            attr.size = data.size();
            attr.blocks = data.blocks();
        }
        Ok(attr)
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = change.size {
            match &self.body {
                Body::Regular(_) => self.copy_up(size)?.truncate(size)?,
                Body::Directory(_) => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
        }
        self.edit(|meta| meta.apply(change))
    }

    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        match self.body {
            Body::Directory(_) => Some(self),
            _ => None,
        }
    }
    fn xattrs(&self) -> Option<&dyn Xattrs> {
        Some(self)
    }

    fn link_target(&self, caller: &Caller) -> Result<LinkTarget, Errno> {
        match (&self.body, &self.lower) {
            (Body::Symlink(Some(text)), _) => {
                self.accessed();
                Ok(LinkTarget::Text(text.clone()))
            }
            (Body::Symlink(None), Some(lower)) => lower.link_target(caller),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        match &self.body {
            Body::Regular(_) => Ok(OverlayFile::open(self, flags)?),
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::Symlink(_) => Err(Errno::ELOOP),
            Body::Special(_) => Err(Errno::ENXIO),
        }
    }
}

impl Xattrs for Node {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if let Some(own) = &*self.xattrs.lock() {
            return own.get(name);
        }
        self.lower.as_ref().and_then(|lower| lower.xattrs()).ok_or(Errno::ENODATA)?.get(name)
    }
    fn list(&self) -> Result<Vec<Vec<u8>>, Errno> {
        if let Some(own) = &*self.xattrs.lock() {
            return Ok(own.list());
        }
        self.lower.as_ref().and_then(|lower| lower.xattrs()).map_or(Ok(Vec::new()), lower_list)
    }
    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        self.own_xattrs(|own, space| own.set(space, name, value, flags))
    }
    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        self.own_xattrs(|own, space| own.remove(space, name))
    }
}

impl Node {
    /// What dropping this node would drop in turn.
    fn take_held(&mut self, held: &mut Vec<Arc<Node>>) {
        held.extend(self.link.get_mut().take().map(|(parent, _)| parent));
        if let Body::Directory(dir) = &mut self.body {
            let children = std::mem::take(&mut dir.get_mut().children);
            held.extend(children.into_values().filter_map(|child| match child {
                Child::New { node, .. } | Child::Kept(node) => Some(node),
                Child::Seen(_) | Child::Whiteout => None,
            }));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let space = self.shared.space.clone();
        if let Some(xattrs) = self.xattrs.get_mut() {
            xattrs.clear(&space);
        }
        if self.lower.is_none() {
            space.uncharge_inode(INODE_COST);
        }
        // Not by recursion: a tree may be deeper than the stack.
        let mut doomed = Vec::new();
        self.take_held(&mut doomed);
        while let Some(node) = doomed.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                node.take_held(&mut doomed);
            }
        }
    }
}
