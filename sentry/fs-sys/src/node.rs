//! Inodes of sysfs (kernfs).

use chitin_abi::Errno;
use chitin_abi::fcntl::{O_ACCMODE, O_RDONLY};
use chitin_kernel::container::Container;
use chitin_kernel::{Kernel, time};
use chitin_mm::Sink;
use chitin_vfs::{
    Attr, Caller, DirEntry, DirSink, Directory, FileKind, FileOps, Inode, InodeState, LinkTarget, SetAttr,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes a file's text.
pub(crate) type Show = fn(&Kernel, &Container) -> String;

/// What an open file's text comes from.
pub(crate) type TextFn = Box<dyn Fn() -> Result<String, Errno> + Send + Sync>;

/// What a name stands for, before it has an inode.
pub(crate) enum Item {
    Dir(BTreeMap<String, Item>),
    Text(String),
    Made(Show),
    Link(String),
    /// A directory that has one.
    Known(Arc<dyn Inode>),
}

enum Body {
    Dir(BTreeMap<Vec<u8>, Arc<dyn Inode>>),
    Text(String),
    Made(Show),
    Link(String),
}

pub(crate) struct Node {
    kernel: Arc<Kernel>,
    container: Arc<Container>,
    dev: u64,
    ino: u64,
    booted: u64,
    body: Body,
    state: InodeState,
}

/// When everything here was made.
pub(crate) fn booted(kernel: &Kernel) -> u64 {
    let up = time::monotonic().saturating_sub(kernel.boot_ns);
    time::realtime().saturating_sub(up)
}

/// Makes the inodes of a tree.
pub(crate) fn build(
    kernel: &Arc<Kernel>,
    container: &Arc<Container>,
    dev: u64,
    item: Item,
) -> Arc<dyn Inode> {
    node((kernel, container), dev, booted(kernel), &mut 1, item)
}

fn node(
    of: (&Arc<Kernel>, &Arc<Container>),
    dev: u64,
    booted: u64,
    next: &mut u64,
    item: Item,
) -> Arc<dyn Inode> {
    let ino = *next;
    *next = next.saturating_add(1);
    let body = match item {
        Item::Dir(items) => Body::Dir(
            items
                .into_iter()
                .map(|(name, item)| (name.into_bytes(), node(of, dev, booted, next, item)))
                .collect(),
        ),
        Item::Text(text) => Body::Text(text),
        Item::Made(show) => Body::Made(show),
        Item::Link(text) => Body::Link(text),
        Item::Known(inode) => return inode,
    };
    let (kernel, container) = (of.0.clone(), of.1.clone());
    Arc::new(Node { kernel, container, dev, ino, booted, body, state: InodeState::default() })
}

/// Attributes of a file of this kind; `dirs`: how many directories are in it.
pub(crate) fn attr(dev: u64, ino: u64, kind: FileKind, booted: u64, dirs: usize) -> Attr {
    let perm = match kind {
        FileKind::Directory => 0o755,
        FileKind::Symlink => 0o777,
        _ => 0o444,
    };
    let mut attr = Attr::plain(dev, ino, kind, perm);
    let at = time::to_timespec(booted);
    (attr.atime, attr.mtime, attr.ctime) = (at, at, at);
    match kind {
        FileKind::Directory => attr.nlink = u32::try_from(dirs).unwrap_or(u32::MAX).saturating_add(2),
        // As Linux has it: one page, whatever there is to read.
        FileKind::Regular => attr.size = 4096,
        _ => {}
    }
    attr
}

/// An open file, read-only: kernfs_fop_open() lets nobody write what takes no writes.
pub(crate) fn open(flags: u32, text: TextFn) -> Result<Arc<dyn FileOps>, Errno> {
    if flags & O_ACCMODE == O_RDONLY { Ok(Arc::new(Open(text))) } else { Err(Errno::EACCES) }
}

impl Node {
    fn text(&self) -> Result<String, Errno> {
        match &self.body {
            Body::Text(text) => Ok(text.clone()),
            Body::Made(show) => Ok(show(&self.kernel, &self.container)),
            Body::Dir(_) | Body::Link(_) => Err(Errno::EINVAL),
        }
    }
}

impl Inode for Node {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        match self.body {
            Body::Dir(_) => FileKind::Directory,
            Body::Text(_) | Body::Made(_) => FileKind::Regular,
            Body::Link(_) => FileKind::Symlink,
        }
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let dirs = match &self.body {
            Body::Dir(children) => {
                children.values().filter(|child| child.kind() == FileKind::Directory).count()
            }
            _ => 0,
        };
        Ok(attr(self.dev, self.ino, self.kind(), self.booted, dirs))
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        if let Body::Dir(_) = self.body { Some(self) } else { None }
    }
    fn link_target(&self, _caller: &Caller) -> Result<LinkTarget, Errno> {
        match &self.body {
            Body::Link(text) => Ok(LinkTarget::Text(text.clone().into_bytes())),
            _ => Err(Errno::EINVAL),
        }
    }
    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        open(flags, Box::new(move || self.text()))
    }
}

impl Directory for Node {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let Body::Dir(children) = &self.body else { return Err(Errno::ENOTDIR) };
        children.get(name).cloned().ok_or(Errno::ENOENT)
    }
    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let Body::Dir(children) = &self.body else { return Err(Errno::ENOTDIR) };
        for ((name, child), next) in children.iter().zip(1u64..) {
            if next > cookie && !sink.entry(&DirEntry { name, ino: child.ino(), kind: child.kind(), next }) {
                break;
            }
        }
        Ok(())
    }
}

/// An open file; texts are short and made anew for each read.
struct Open(TextFn);

impl FileOps for Open {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let text = (self.0)()?;
        let from = usize::try_from(pos).unwrap_or(usize::MAX);
        match text.as_bytes().get(from..) {
            Some(rest) if !rest.is_empty() => dst.put(rest),
            _ => Ok(0),
        }
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(4096)
    }
    fn pollable(&self) -> bool {
        true
    }
}
