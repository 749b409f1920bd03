//! The inode of everything below /proc/PID.

use super::access::{self, Access};
use super::table::{PidEntry, PidKind};
use super::{Subject, Who, dirs, fds, links, memory};
use crate::fs::{Shared, keep_attr};
use crate::text::{Text, TextFile};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_ACCMODE, O_RDONLY};
use chitin_abi::num::low32;
use chitin_abi::stat::{S_IRWXU, S_IXUSR};
use chitin_vfs::{
    Attr, Caller, Directory, FileKind, FileOps, Inode, InodeState, LinkTarget, MountNs, NewInode, SetAttr,
};
use std::sync::Arc;

/// Which entry.
#[derive(Clone, Copy)]
pub(super) enum PidNode {
    /// /proc/PID or /proc/PID/task/TID.
    Root,
    /// /proc/PID/task.
    Tasks,
    Fds,
    FdInfos,
    Namespaces,
    /// A directory of a static table: number in the table above, entries.
    Entry(&'static PidEntry, u8),
    Fd(u32),
    FdInfo(u32),
    Namespace(usize),
}

pub(super) const ROOT_KIND: u8 = 1;
const FIRST_ENTRY_KIND: u8 = 16;

impl PidNode {
    fn kind_number(&self) -> (u8, u32) {
        match *self {
            PidNode::Root => (ROOT_KIND, 0),
            PidNode::Tasks => (2, 0),
            PidNode::Fds => (3, 0),
            PidNode::FdInfos => (4, 0),
            PidNode::Namespaces => (5, 0),
            PidNode::Fd(fd) => (6, fd),
            PidNode::FdInfo(fd) => (7, fd),
            PidNode::Namespace(at) => (8, low32(at as u64)),
            PidNode::Entry(_, number) => (FIRST_ENTRY_KIND.saturating_add(number), 0),
        }
    }

    /// The inode number of an entry that need not exist as an inode.
    pub(super) fn ino(&self, shared: &Shared, who: &Who) -> u64 {
        let (kind, sub) = self.kind_number();
        who.ino(shared, kind, sub)
    }

    pub(super) fn file_kind(&self) -> FileKind {
        match self {
            PidNode::Root | PidNode::Tasks | PidNode::Fds | PidNode::FdInfos | PidNode::Namespaces => {
                FileKind::Directory
            }
            PidNode::Entry(entry, _) => match entry.kind {
                PidKind::Link(_) => FileKind::Symlink,
                PidKind::Dir(_) | PidKind::Special(_) => FileKind::Directory,
                PidKind::Text(..) | PidKind::Memory => FileKind::Regular,
            },
            PidNode::FdInfo(_) => FileKind::Regular,
            PidNode::Fd(_) | PidNode::Namespace(_) => FileKind::Symlink,
        }
    }

    fn perm(&self, subject: &Subject) -> u32 {
        match self {
            PidNode::Root | PidNode::Tasks | PidNode::FdInfos => 0o555,
            PidNode::Fds => 0o500,
            PidNode::Namespaces => 0o511,
            PidNode::Entry(entry, _) => entry.perm,
            PidNode::Fd(fd) => fds::link_perm(subject, *fd),
            PidNode::FdInfo(_) => 0o444,
            PidNode::Namespace(_) => 0o777,
        }
    }
}

pub(super) struct PidInode {
    pub(super) shared: Arc<Shared>,
    pub(super) who: Who,
    pub(super) node: PidNode,
    ino: u64,
    state: InodeState,
}

impl PidInode {
    pub(super) fn new(shared: &Arc<Shared>, who: Who, node: PidNode) -> Arc<PidInode> {
        let ino = node.ino(shared, &who);
        Arc::new(PidInode { shared: shared.clone(), who, node, ino, state: InodeState::default() })
    }

    /// The process, or `gone`.
    pub(super) fn subject(&self, gone: Errno) -> Result<Subject, Errno> {
        self.who.subject(&self.shared).ok_or(gone)
    }
}

impl Inode for PidInode {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        self.node.file_kind()
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let subject = self.subject(Errno::ENOENT)?;
        let perm = self.node.perm(&subject);
        let mut attr = self.shared.attr(self.ino, self.kind(), perm, subject.process.started_ns);
        // task_dump_owner(): entries of processes that may not be dumped are root's; the directory itself is not.
        if subject.process.dumpable() == 1 || matches!(self.node, PidNode::Root) {
            let creds = subject.creds();
            (attr.uid, attr.gid) = (creds.euid, creds.egid);
        } else if let Some(own) = subject.task.as_ref().map(|task| task.creds().user_ns.clone()) {
            // The root of where it lives, if there is one.
            (attr.uid, attr.gid) = (own.kuid(0).unwrap_or(0), own.kgid(0).unwrap_or(0));
        }
        match self.node {
            PidNode::Root => attr.nlink = 9,
            PidNode::Tasks => {
                let threads = subject.process.threads().len().max(1);
                attr.nlink = u32::try_from(threads).unwrap_or(u32::MAX).saturating_add(2);
            }
            PidNode::Fd(_) => attr.size = 64,
            // As since Linux 6.2: the number of open files.
            PidNode::Fds => attr.size = fds::numbers(&subject).len() as u64,
            _ => {}
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
        if self.kind() == FileKind::Directory { Some(self) } else { None }
    }

    fn link_target(&self, caller: &Caller) -> Result<LinkTarget, Errno> {
        links::target(self, caller)
    }
    fn link_text(&self, caller: &Caller) -> Result<Vec<u8>, Errno> {
        links::text(self, caller)
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        // Only who opens as somebody gets here; see `open_as`.
        Err(Errno::EACCES)
    }

    fn open_as(self: Arc<Self>, flags: u32, caller: &Caller) -> Result<Arc<dyn FileOps>, Errno> {
        let subject = self.subject(Errno::ENOENT)?;
        match self.node {
            PidNode::Entry(entry, _) => {
                if let PidKind::Memory = entry.kind {
                    access::check(caller, &subject, Access::Inspect)?;
                    return memory::open(&subject);
                }
                let PidKind::Text(_, _, access) = entry.kind else { return Err(Errno::EACCES) };
                if flags & O_ACCMODE == O_RDONLY || access == Access::Inspect {
                    access::check(caller, &subject, access)?;
                }
                Ok(TextFile::open(PidText(self), caller))
            }
            PidNode::FdInfo(_) => Ok(TextFile::open(PidText(self), caller)),
            _ => Err(Errno::EACCES),
        }
    }

    fn permission(&self, caller: &Caller, _mask: u32) -> Result<(), Errno> {
        match self.node {
            PidNode::FdInfos | PidNode::FdInfo(_) => {
                access::check(caller, &self.subject(Errno::ESRCH)?, Access::Inspect)
            }
            // proc_pid_permission(); directories of single threads have none.
            PidNode::Root if self.who.is_thread() => Ok(()),
            PidNode::Root | PidNode::Tasks => self.subject(Errno::ESRCH).map(drop),
            _ => Ok(()),
        }
    }
}

impl Directory for PidInode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        dirs::lookup(self, name).map(|inode| inode as Arc<dyn Inode>)
    }
    fn read_dir(&self, cookie: u64, sink: &mut dyn chitin_vfs::DirSink) -> Result<(), Errno> {
        dirs::list(self, cookie, sink)
    }
    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOENT)
    }
}

/// An open text file of a process.
struct PidText(Arc<PidInode>);

impl Text for PidText {
    fn show(&self, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
        let subject = self.0.subject(Errno::ESRCH)?;
        match self.0.node {
            PidNode::FdInfo(fd) => fds::info(&subject, fd, out),
            PidNode::Entry(entry, _) => match entry.kind {
                PidKind::Text(show, _, _) => show(&subject, opener, out),
                _ => Err(Errno::EINVAL),
            },
            _ => Err(Errno::EINVAL),
        }
    }

    fn write(&self, opener: &Caller, data: &[u8]) -> Result<(), Errno> {
        let subject = self.0.subject(Errno::ESRCH)?;
        match self.0.node {
            PidNode::Entry(PidEntry { kind: PidKind::Text(_, Some(store), _), .. }, _) => {
                store(&subject, opener, data)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn pollable(&self) -> bool {
        matches!(self.0.node, PidNode::Entry(entry, _) if entry.name.starts_with("mount"))
    }
    fn mounts(&self) -> Option<Arc<MountNs>> {
        if !self.pollable() {
            return None;
        }
        Some(self.0.subject(Errno::ESRCH).ok()?.task?.fs().ns())
    }
}

/// Mode bits of a descriptor's link: what it is open for.
pub(super) fn link_bits(readable: bool, writable: bool) -> u32 {
    let read = if readable { 0o500 } else { 0 };
    let write = if writable { S_IRWXU & 0o300 } else { 0 };
    // Linux sets the execute bit with either.
    if readable || writable { read | write | S_IXUSR } else { 0 }
}
