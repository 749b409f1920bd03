//! The file system object and its root directory.

use crate::pid;
use crate::tree::{self, Branch};
use chitin_abi::Errno;
use chitin_abi::limits::{NAME_MAX, PAGE_SIZE};
use chitin_abi::stat::{PROC_SUPER_MAGIC, Statfs};
use chitin_abi::time::Timespec;
use chitin_kernel::container::Container;
use chitin_kernel::ns::NetNs;
use chitin_kernel::{Kernel, PidNs, UtsNs, time};
use chitin_vfs::{
    Attr, Caller, DirEntry, DirSink, Directory, FileKind, FileOps, FileSystem, Inode, InodeState, NewInode,
    SetAttr,
};
use std::collections::hash_map::RandomState;
use std::sync::Arc;

/// What all inodes of one instance share.
pub(crate) struct Shared {
    pub(crate) kernel: Arc<Kernel>,
    /// Whose limits it shows.
    pub(crate) container: Arc<Container>,
    /// Whose processes it shows, by their numbers there.
    pub(crate) ns: Arc<PidNs>,
    pub(crate) dev: u64,
    /// Wall-clock time at boot, in nanoseconds: the times of files that belong to no process.
    pub(crate) booted: u64,
    /// Makes inode numbers that nobody outside can foresee.
    pub(crate) hasher: RandomState,
}

/// Truncation (O_TRUNC) is accepted and means nothing; nothing else of a file here can be changed.
pub(crate) fn keep_attr(change: &SetAttr) -> Result<(), Errno> {
    let SetAttr { perm, uid, gid, .. } = change;
    if perm.is_some() || uid.is_some() || gid.is_some() { Err(Errno::EPERM) } else { Ok(()) }
}

impl Shared {
    /// Attributes of a file whose times are `monotonic`, a moment of CLOCK_MONOTONIC.
    pub(crate) fn attr(&self, ino: u64, kind: FileKind, perm: u32, monotonic: u64) -> Attr {
        let mut attr = Attr::plain(self.dev, ino, kind, perm);
        let at = self.booted.saturating_add(monotonic.saturating_sub(self.kernel.boot_ns));
        let at = time::to_timespec(at);
        (attr.atime, attr.mtime, attr.ctime) = (at, at, at);
        attr.btime = Timespec::default();
        attr.blksize = 1024;
        if kind == FileKind::Directory {
            attr.nlink = 2;
        }
        attr
    }
}

/// An instance of proc.
pub struct ProcFs {
    shared: Arc<Shared>,
    root: Arc<Root>,
}

impl ProcFs {
    /// An instance that shows the processes of `ns` and the limits of `container`.
    pub fn new(kernel: &Arc<Kernel>, container: &Arc<Container>, ns: &Arc<PidNs>) -> Arc<ProcFs> {
        let now = time::realtime();
        let booted = now.saturating_sub(time::monotonic().saturating_sub(kernel.boot_ns));
        let shared = Arc::new(Shared {
            kernel: kernel.clone(),
            container: container.clone(),
            ns: ns.clone(),
            dev: chitin_vfs::inode::anon_dev(),
            booted,
            hasher: RandomState::new(),
        });
        let tree = tree::build(&shared);
        let root = Arc::new(Root { shared: shared.clone(), tree, state: InodeState::default() });
        Arc::new(ProcFs { shared, root })
    }

    /// Sets a tunable by its dotted name ("net.core.somaxconn"), as the container's configuration asks for it: ENOENT
    /// for an unknown one, EACCES for one that cannot be set, EINVAL for a bad value.
    pub fn set_sysctl(&self, uts: &UtsNs, net: &NetNs, name: &str, value: &[u8]) -> Result<(), Errno> {
        crate::sysctl::set_by_name(&self.shared.kernel, uts, net, name, value)
    }
}

impl FileSystem for ProcFs {
    fn fs_type(&self) -> &'static str {
        "proc"
    }
    fn dev(&self) -> u64 {
        self.shared.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Ok(Statfs {
            f_type: PROC_SUPER_MAGIC,
            f_bsize: PAGE_SIZE.cast_signed(),
            f_frsize: PAGE_SIZE.cast_signed(),
            f_namelen: (NAME_MAX as u64).cast_signed(),
            ..Statfs::default()
        })
    }
    fn revalidates(&self) -> bool {
        true
    }
}

/// /proc itself: the static tree's top, then the processes.
struct Root {
    shared: Arc<Shared>,
    tree: Arc<Branch>,
    state: InodeState,
}

const ROOT_INO: u64 = 1;
/// Cookies of processes start here (FIRST_PROCESS_ENTRY).
const FIRST_PROCESS: u64 = 256;

/// A process or thread id as a name: digits without leading zeroes.
pub(crate) fn parse_id(name: &[u8]) -> Option<i32> {
    let digits = name.iter().all(u8::is_ascii_digit) && !name.starts_with(b"0");
    if !digits {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

impl Inode for Root {
    fn ino(&self) -> u64 {
        ROOT_INO
    }
    fn kind(&self) -> FileKind {
        FileKind::Directory
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = self.shared.attr(ROOT_INO, FileKind::Directory, 0o555, self.shared.kernel.boot_ns);
        let dirs = self.tree.children().iter().filter(|child| child.kind() == FileKind::Directory).count();
        let processes = self.shared.kernel.processes_in(&self.shared.ns).len();
        attr.nlink = u32::try_from(dirs.saturating_add(processes).saturating_add(2)).unwrap_or(u32::MAX);
        Ok(attr)
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        Some(self)
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Err(Errno::EISDIR)
    }
    fn permission(&self, _caller: &Caller, _mask: u32) -> Result<(), Errno> {
        Ok(())
    }
}

impl Directory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if let Some(id) = parse_id(name) {
            return pid::lookup(&self.shared, id);
        }
        self.tree.child(name)
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        if !self.tree.list(cookie, sink) {
            return Ok(());
        }
        for process in self.shared.kernel.processes_in(&self.shared.ns) {
            let pid = process.pid_in(&self.shared.ns);
            let at = FIRST_PROCESS.saturating_add(u64::try_from(pid).unwrap_or(0));
            if at < cookie {
                continue;
            }
            let name = pid.to_string();
            let ino = pid::process_ino(&self.shared, &process);
            let next = at.saturating_add(1);
            if !sink.entry(&DirEntry { name: name.as_bytes(), ino, kind: FileKind::Directory, next }) {
                break;
            }
        }
        Ok(())
    }
    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOENT)
    }
}
