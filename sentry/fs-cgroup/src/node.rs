//! Inodes: a cgroup's directory, and its files.

use crate::Shared;
use crate::files::{Entry, FILES, View};
use chitin_abi::Errno;
use chitin_abi::poll::*;
use chitin_kernel::cgroup::Cgroup;
use chitin_kernel::time;
use chitin_mm::{Sink, Source};
use chitin_vfs::{
    Attr, Caller, DirEntry, DirSink, Directory, FileKind, FileOps, Inode, InodeState, NewInode, NewKind,
    PollTable, SetAttr, WriteAt, Written,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Inode numbers of one cgroup: its directory and its files.
const PER_CGROUP: u64 = 64;
/// What one write may hold (PAGE_SIZE, as kernfs has it).
const WRITE_MAX: usize = 4096;

pub(crate) struct Node {
    shared: Arc<Shared>,
    cgroup: Arc<Cgroup>,
    /// The file and its place in the table; `None`: the directory.
    file: Option<(u32, &'static Entry)>,
    state: InodeState,
}

impl Node {
    pub(crate) fn dir(shared: &Arc<Shared>, cgroup: Arc<Cgroup>) -> Arc<Node> {
        Arc::new(Node { shared: shared.clone(), cgroup, file: None, state: InodeState::default() })
    }

    fn file(&self, at: u32, entry: &'static Entry) -> Arc<Node> {
        let (shared, cgroup) = (self.shared.clone(), self.cgroup.clone());
        Arc::new(Node { shared, cgroup, file: Some((at, entry)), state: InodeState::default() })
    }

    fn view(&self) -> View<'_> {
        View { shared: &self.shared, cgroup: &self.cgroup }
    }

    fn is_events(&self) -> bool {
        self.file.is_some_and(|(_, entry)| entry.name == "cgroup.events")
    }

    /// Its place among the cgroup's inodes; the directory's is 0.
    fn place(&self) -> u32 {
        self.file.map_or(0, |(at, _)| at.saturating_add(1))
    }
}

fn ino(cgroup: &Cgroup, place: u32) -> u64 {
    cgroup.id.wrapping_mul(PER_CGROUP).wrapping_add(u64::from(place))
}

/// The files that a cgroup has now, with their places.
fn files<'a>(view: &'a View<'_>) -> impl Iterator<Item = (u32, &'static Entry)> + 'a {
    (0u32..).zip(FILES).filter(|(_, entry)| entry.is_in(view))
}

impl Inode for Node {
    fn ino(&self) -> u64 {
        ino(&self.cgroup, self.place())
    }
    fn kind(&self) -> FileKind {
        if self.file.is_some() { FileKind::Regular } else { FileKind::Directory }
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let perm = self.file.map_or(0o755, |(_, entry)| entry.perm());
        let mut attr = Attr::plain(self.shared.dev, self.ino(), self.kind(), perm);
        if let Some((perm, uid, gid)) = self.cgroup.owners.lock().get(&self.place()) {
            (attr.perm, attr.uid, attr.gid) = (*perm, *uid, *gid);
        }
        if self.file.is_none() {
            let below = u32::try_from(self.cgroup.children().len()).unwrap_or(u32::MAX);
            attr.nlink = below.saturating_add(2);
        }
        let at = time::to_timespec(self.shared.mounted_ns);
        (attr.atime, attr.mtime, attr.ctime) = (at, at, at);
        Ok(attr)
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        let now = self.attr()?;
        let SetAttr { perm, uid, gid, .. } = *change;
        if perm.is_some() || uid.is_some() || gid.is_some() {
            let own = (perm.unwrap_or(now.perm), uid.unwrap_or(now.uid), gid.unwrap_or(now.gid));
            self.cgroup.owners.lock().insert(self.place(), own);
        }
        Ok(())
    }
    fn state(&self) -> &InodeState {
        // Watches of cgroup.events are told by the cgroup, whatever inode they were set on.
        if self.is_events() { &self.cgroup.events } else { &self.state }
    }
    fn dir(&self) -> Option<&dyn Directory> {
        if self.file.is_none() { Some(self) } else { None }
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Err(Errno::EISDIR)
    }
    fn open_as(self: Arc<Self>, _flags: u32, caller: &Caller) -> Result<Arc<dyn FileOps>, Errno> {
        let (_, entry) = self.file.ok_or(Errno::EISDIR)?;
        let seen = AtomicU64::new(self.cgroup.version.load(Ordering::Acquire));
        Ok(Arc::new(Open { node: self, entry, opener: caller.clone(), seen }))
    }
}

impl Directory for Node {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if let Some(child) = self.cgroup.child(name) {
            return Ok(Node::dir(&self.shared, child));
        }
        let view = self.view();
        let found = files(&view).find(|(_, entry)| entry.name.as_bytes() == name);
        found.map(|(at, entry)| self.file(at, entry) as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }

    /// Files first, then cgroups in the order they were made.
    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let view = self.view();
        for (at, entry) in files(&view) {
            let next = u64::from(at).saturating_add(1);
            let number = ino(&self.cgroup, at.saturating_add(1));
            let kind = FileKind::Regular;
            if next > cookie
                && !sink.entry(&DirEntry { name: entry.name.as_bytes(), ino: number, kind, next })
            {
                return Ok(());
            }
        }
        let mut children = self.cgroup.children();
        children.sort_by_key(|(_, child)| child.id);
        for (name, child) in children {
            let next = PER_CGROUP.saturating_add(child.id);
            let number = ino(&child, 0);
            if next > cookie
                && !sink.entry(&DirEntry { name: &name, ino: number, kind: FileKind::Directory, next })
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        if !matches!(new.kind, NewKind::Directory) {
            return Err(Errno::EPERM);
        }
        // "do not allow control characters": a newline would make /proc/PID/cgroup ambiguous.
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        if files(&self.view()).any(|(_, entry)| entry.name.as_bytes() == name) {
            return Err(Errno::EEXIST);
        }
        let child = self.cgroup.add(name)?;
        if (new.uid, new.gid) != (0, 0) {
            let view = View { shared: &self.shared, cgroup: &child };
            let mut owners = child.owners.lock();
            owners.insert(0, (new.perm, new.uid, new.gid));
            for (at, entry) in files(&view) {
                owners.insert(at.saturating_add(1), (entry.perm(), new.uid, new.gid));
            }
        }
        Ok(Node::dir(&self.shared, child))
    }

    fn rmdir(&self, name: &[u8], _victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.shared.kernel.remove_cgroup(&self.cgroup, name)
    }
}

struct Open {
    node: Arc<Node>,
    entry: &'static Entry,
    opener: Caller,
    /// The version of cgroup.events that was read last.
    seen: AtomicU64,
}

impl FileOps for Open {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let show = self.entry.show.ok_or(Errno::EINVAL)?;
        if pos == 0 {
            self.seen.store(self.node.cgroup.version.load(Ordering::Acquire), Ordering::Release);
        }
        let text = show(&self.node.view(), &self.opener)?;
        match usize::try_from(pos).ok().and_then(|from| text.as_bytes().get(from..)) {
            Some(rest) if !rest.is_empty() => dst.put(rest),
            _ => Ok(0),
        }
    }

    fn write(&self, _at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let store = self.entry.store.ok_or(Errno::EINVAL)?;
        let mut buf = [0; WRITE_MAX];
        let len = src.left();
        let room = buf.get_mut(..len).ok_or(Errno::E2BIG)?;
        let count = src.take(room)?;
        let view = self.node.view();
        // Namespaces bound what is delegated.
        if view.is_ns_root() && !self.entry.delegated {
            return Err(Errno::EPERM);
        }
        let text = std::str::from_utf8(buf.get(..count).unwrap_or_default()).map_err(|_| Errno::EINVAL)?;
        store(&view, &self.opener, text.trim())?;
        Ok(Written { count, end: count as u64 })
    }

    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(0)
    }
    fn pollable(&self) -> bool {
        true
    }
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.node.cgroup.changes);
        }
        let plain = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
        let version = self.node.cgroup.version.load(Ordering::Acquire);
        let news = self.node.is_events() && version != self.seen.load(Ordering::Acquire);
        if news { plain | POLLERR | POLLPRI } else { plain }
    }
}
