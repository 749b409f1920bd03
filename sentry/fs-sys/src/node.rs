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

/// What a name stands for, before it has an inode.
pub(crate) enum Item {
    Dir(BTreeMap<String, Item>),
    Text(String),
    Made(Show),
    Link(String),
}

enum Body {
    Dir(BTreeMap<Vec<u8>, Arc<Node>>),
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

/// Makes the inodes of a tree.
pub(crate) fn build(kernel: &Arc<Kernel>, container: &Arc<Container>, dev: u64, item: Item) -> Arc<Node> {
    let up = time::monotonic().saturating_sub(kernel.boot_ns);
    let booted = time::realtime().saturating_sub(up);
    let mut next = 1;
    node((kernel, container), dev, booted, &mut next, item)
}

fn node(of: (&Arc<Kernel>, &Arc<Container>), dev: u64, booted: u64, next: &mut u64, item: Item) -> Arc<Node> {
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
    };
    let (kernel, container) = (of.0.clone(), of.1.clone());
    Arc::new(Node { kernel, container, dev, ino, booted, body, state: InodeState::default() })
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
        let perm = match self.body {
            Body::Dir(_) => 0o755,
            Body::Text(_) | Body::Made(_) => 0o444,
            Body::Link(_) => 0o777,
        };
        let mut attr = Attr::plain(self.dev, self.ino, self.kind(), perm);
        let at = time::to_timespec(self.booted);
        (attr.atime, attr.mtime, attr.ctime) = (at, at, at);
        match &self.body {
            Body::Dir(children) => {
                let dirs = children.values().filter(|child| matches!(child.body, Body::Dir(_))).count();
                attr.nlink = u32::try_from(dirs).unwrap_or(u32::MAX).saturating_add(2);
            }
            // As Linux has it: one page, whatever there is to read.
            Body::Text(_) | Body::Made(_) => attr.size = 4096,
            Body::Link(_) => {}
        }
        Ok(attr)
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
        // kernfs_fop_open(): nothing takes writes, whoever asks.
        if flags & O_ACCMODE != O_RDONLY {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(Open(self)))
    }
}

impl Directory for Node {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let Body::Dir(children) = &self.body else { return Err(Errno::ENOTDIR) };
        children.get(name).map(|child| child.clone() as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }
    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let Body::Dir(children) = &self.body else { return Err(Errno::ENOTDIR) };
        for ((name, child), next) in children.iter().zip(1u64..) {
            if next > cookie && !sink.entry(&DirEntry { name, ino: child.ino, kind: child.kind(), next }) {
                break;
            }
        }
        Ok(())
    }
}

/// An open file; texts are short and made anew for each read.
struct Open(Arc<Node>);

impl FileOps for Open {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let text = self.0.text()?;
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
