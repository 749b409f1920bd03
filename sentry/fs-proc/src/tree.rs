//! The part of the tree that belongs to no process: directories, files and links from static tables.

use crate::fs::{Shared, keep_attr};
use crate::netsys::NetSys;
use crate::sysctl::{self, Sysctl};
use crate::text::{Text, TextFile};
use chitin_abi::Errno;
use chitin_kernel::Kernel;
use chitin_vfs::{
    Attr, Caller, DirEntry, DirSink, Directory, FileKind, FileOps, Inode, InodeState, LinkTarget, NewInode,
    SetAttr,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a file's text.
pub(crate) type Show = fn(&Shared, &mut Vec<u8>) -> Result<(), Errno>;
/// The same for what depends on the instance's namespace or on who reads.
pub(crate) type ShowOwn = fn(&Shared, &Caller, &mut Vec<u8>) -> Result<(), Errno>;
/// Works on what was written to a file; the caller is who opened it.
pub(crate) type Store = fn(&Arc<Kernel>, &Caller, &[u8]) -> Result<(), Errno>;

#[derive(Clone, Copy)]
pub(crate) enum Node {
    Dir(&'static [Entry]),
    File(Show, Option<Store>),
    Own(ShowOwn, Option<Store>),
    Link(&'static str),
    /// The caller's process, the caller's thread.
    SelfLink,
    ThreadSelf,
    Sysctl(&'static Sysctl),
    /// /proc/sys/net, which is another directory for each network namespace.
    Net,
}

/// A row of a table.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) perm: u32,
    pub(crate) node: Node,
}

pub(crate) const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, perm: 0o555, node: Node::Dir(entries) }
}
pub(crate) const fn file(name: &'static str, show: Show) -> Entry {
    Entry { name, perm: 0o444, node: Node::File(show, None) }
}
pub(crate) const fn secret(name: &'static str, show: Show) -> Entry {
    Entry { name, perm: 0o400, node: Node::File(show, None) }
}
pub(crate) const fn writable(name: &'static str, show: Show, store: Store) -> Entry {
    Entry { name, perm: 0o644, node: Node::File(show, Some(store)) }
}
pub(crate) const fn own(name: &'static str, show: ShowOwn) -> Entry {
    Entry { name, perm: 0o444, node: Node::Own(show, None) }
}
pub(crate) const fn own_writable(name: &'static str, show: ShowOwn, store: Store) -> Entry {
    Entry { name, perm: 0o644, node: Node::Own(show, Some(store)) }
}
pub(crate) const fn link(name: &'static str, text: &'static str) -> Entry {
    Entry { name, perm: 0o777, node: Node::Link(text) }
}

/// Inode numbers of this part (PROC_DYNAMIC_FIRST).
const FIRST_INO: u64 = 0xf000_0000;

/// An inode of the static tree.
pub(crate) struct Branch {
    shared: Arc<Shared>,
    name: &'static str,
    perm: u32,
    node: &'static Node,
    ino: u64,
    /// Below /proc/sys, where capabilities do not help against the mode bits.
    in_sys: bool,
    children: Vec<Arc<Branch>>,
    state: InodeState,
}

static TOP: Node = Node::Dir(crate::system::ROOT);

/// Makes the inodes of the whole tree.
pub(crate) fn build(shared: &Arc<Shared>) -> Arc<Branch> {
    let next = AtomicU64::new(FIRST_INO);
    branch(shared, &next, "", 0o555, &TOP, false)
}

fn branch(
    shared: &Arc<Shared>,
    next: &AtomicU64,
    name: &'static str,
    perm: u32,
    node: &'static Node,
    in_sys: bool,
) -> Arc<Branch> {
    let ino = next.fetch_add(1, Ordering::Relaxed);
    let in_sys = in_sys || name == "sys";
    let entries: &'static [Entry] = if let Node::Dir(entries) = node { entries } else { &[] };
    let children = entries
        .iter()
        .map(|entry| branch(shared, next, entry.name, entry.perm, &entry.node, in_sys))
        .collect();
    let shared = shared.clone();
    Arc::new(Branch { shared, name, perm, node, ino, in_sys, children, state: InodeState::default() })
}

impl Branch {
    /// The number of a kernel id in the instance's namespace, or ENOENT.
    fn nr(&self, kid: i32) -> Result<i32, Errno> {
        match self.shared.kernel.nr_in(kid, &self.shared.ns) {
            0 => Err(Errno::ENOENT),
            nr => Ok(nr),
        }
    }

    pub(crate) fn children(&self) -> &[Arc<Branch>] {
        &self.children
    }

    pub(crate) fn child(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let found = self.children.iter().find(|child| child.name.as_bytes() == name);
        found.map(|child| child.clone() as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }

    /// Lists the children from `cookie` on; `false` if the sink is full.
    pub(crate) fn list(&self, cookie: u64, sink: &mut dyn DirSink) -> bool {
        for (child, at) in self.children.iter().zip(0u64..) {
            if at < cookie {
                continue;
            }
            let next = at.saturating_add(1);
            let entry = DirEntry { name: child.name.as_bytes(), ino: child.ino, kind: child.kind(), next };
            if !sink.entry(&entry) {
                return false;
            }
        }
        true
    }
}

impl Inode for Branch {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        match self.node {
            Node::Dir(_) | Node::Net => FileKind::Directory,
            Node::File(..) | Node::Own(..) | Node::Sysctl(_) => FileKind::Regular,
            Node::Link(_) | Node::SelfLink | Node::ThreadSelf => FileKind::Symlink,
        }
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = self.shared.attr(self.ino, self.kind(), self.perm, self.shared.kernel.boot_ns);
        let dirs = self.children.iter().filter(|child| child.kind() == FileKind::Directory).count();
        attr.nlink = attr.nlink.saturating_add(u32::try_from(dirs).unwrap_or(0));
        if let Node::Link(text) = self.node {
            attr.size = text.len() as u64;
        }
        Ok(attr)
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        keep_attr(change)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        match self.node {
            Node::Dir(_) | Node::Net => Some(self),
            _ => None,
        }
    }

    fn link_target(&self, caller: &Caller) -> Result<LinkTarget, Errno> {
        match self.node {
            Node::Link(text) => Ok(LinkTarget::Text(text.as_bytes().to_vec())),
            // A caller that the instance does not show has no own directory.
            Node::SelfLink => Ok(LinkTarget::Text(self.nr(caller.tgid)?.to_string().into_bytes())),
            Node::ThreadSelf => {
                let (pid, tid) = (self.nr(caller.tgid)?, self.nr(caller.tid)?);
                Ok(LinkTarget::Text(format!("{pid}/task/{tid}").into_bytes()))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        // Only who opens as somebody gets here; see `open_as`.
        Err(Errno::EACCES)
    }

    fn open_as(self: Arc<Self>, _flags: u32, caller: &Caller) -> Result<Arc<dyn FileOps>, Errno> {
        match self.node {
            Node::File(..) | Node::Own(..) | Node::Sysctl(_) => Ok(TextFile::open(StaticText(self), caller)),
            _ => Err(Errno::EACCES),
        }
    }

    /// sysctl files know root and others, and no capabilities (proc_sys_permission()).
    fn permission(&self, caller: &Caller, mask: u32) -> Result<(), Errno> {
        if !self.in_sys || self.kind() == FileKind::Directory {
            return Ok(());
        }
        sysctl::test_perm(&caller.creds, self.perm, mask)
    }
    fn has_own_rules(&self) -> bool {
        self.in_sys && self.kind() != FileKind::Directory
    }
    fn seen_by(&self, caller: &Caller) -> Option<(u64, Arc<dyn Inode>)> {
        match self.node {
            Node::Net => NetSys::root(&self.shared, caller, self.ino),
            _ => None,
        }
    }
}

impl Directory for Branch {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.child(name)
    }
    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        self.list(cookie, sink);
        Ok(())
    }
    /// The look-up's answer: nothing here can be made, so the name stays unknown.
    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOENT)
    }
}

struct StaticText(Arc<Branch>);

impl Text for StaticText {
    fn show(&self, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
        let kernel = &self.0.shared.kernel;
        match self.0.node {
            Node::File(show, _) => show(&self.0.shared, out),
            Node::Own(show, _) => show(&self.0.shared, opener, out),
            Node::Sysctl(sysctl) => sysctl::show(kernel, sysctl, out),
            _ => Err(Errno::EINVAL),
        }
    }
    fn write(&self, opener: &Caller, data: &[u8]) -> Result<(), Errno> {
        let kernel = &self.0.shared.kernel;
        match self.0.node {
            Node::File(_, Some(store)) | Node::Own(_, Some(store)) => store(kernel, opener, data),
            Node::Sysctl(sysctl) => sysctl::store(kernel, sysctl, data),
            _ => Err(Errno::EIO),
        }
    }
    fn pollable(&self) -> bool {
        true
    }
}
