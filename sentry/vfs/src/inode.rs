//! What a file system implements: [`FileSystem`], [`Inode`], [`Directory`], and where it has them, [`Xattrs`].
//!
//! Permission checks, name checks, locks and notifications are the VFS's; an implementation only does the thing.
//! A file system hands out the *same* `Arc<dyn Inode>` for the same file as long as somebody holds it, since locks,
//! watches and pipes hang on [`InodeState`].

use crate::walk::Caller;
use crate::{Attr, FileKind, FileOps, Path, SetAttr};
use chitin_abi::Errno;
use chitin_abi::num::low32;
use chitin_abi::stat::Statfs;
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

pub use crate::file::state::InodeState;

/// A mounted (or internal) file system.
pub trait FileSystem: Any + Send + Sync {
    /// The type, as mount(8) shows it.
    fn fs_type(&self) -> &'static str;
    /// The guest's device number of its files.
    fn dev(&self) -> u64;
    fn root(&self) -> Arc<dyn Inode>;
    fn statfs(&self) -> Result<Statfs, Errno>;
    /// Names may appear and vanish without the VFS's doing (proc, shared bind mounts): every lookup asks the file system.
    fn revalidates(&self) -> bool {
        false
    }
    /// Extra options for /proc/mounts, starting with a comma if not empty.
    fn show_options(&self) -> String {
        String::new()
    }
    /// Applies new options (mount -o remount).
    fn remount(&self, _data: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
    /// Flushes what is not yet stable (syncfs).
    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// The next device number for a file system without a real device (major 0), as Linux's get_anon_bdev().
pub fn anon_dev() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(20);
    chitin_abi::stat::makedev(0, low32(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Where a symbolic link leads.
pub enum LinkTarget {
    /// Text to walk on with.
    Text(Vec<u8>),
    /// A magic link of /proc: straight to the object.
    Magic(Path),
    /// A magic link to an open file description that has no path (pipes, sockets): opening it reopens the file.
    File(Arc<crate::File>),
}

/// A file of any type.
pub trait Inode: Any + Send + Sync {
    fn ino(&self) -> u64;
    fn kind(&self) -> FileKind;
    fn attr(&self) -> Result<Attr, Errno>;
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno>;
    /// Locks, watches, the FIFO's pipe, the bound socket.
    fn state(&self) -> &InodeState;

    /// Directory operations; `Some` exactly for directories.
    fn dir(&self) -> Option<&dyn Directory> {
        None
    }
    /// Extended attributes, where the file system has them.
    fn xattrs(&self) -> Option<&dyn Xattrs> {
        None
    }
    /// For symbolic links. `caller` matters to /proc/self only.
    fn link_target(&self, _caller: &Caller) -> Result<LinkTarget, Errno> {
        Err(Errno::EINVAL)
    }
    /// The text that readlink(2) shows, where it differs from what is walked (magic links).
    fn link_text(&self, caller: &Caller) -> Result<Vec<u8>, Errno> {
        match self.link_target(caller)? {
            LinkTarget::Text(text) => Ok(text),
            LinkTarget::Magic(_) | LinkTarget::File(_) => Err(Errno::EINVAL),
        }
    }
    /// Opens a regular file, or any virtual file with operations of its own. `flags` are O_*; access was checked.
    /// FIFOs, sockets, directories and device nodes are opened by the VFS unless this answers for them.
    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno>;

    /// As [`Inode::open`], for file systems whose files depend on who opened them (proc).
    fn open_as(self: Arc<Self>, flags: u32, _caller: &Caller) -> Result<Arc<dyn FileOps>, Errno> {
        self.open(flags)
    }

    /// What readlink of /proc/PID/fd/N shows for a file without a path.
    fn anon_text(&self) -> Option<Vec<u8>> {
        None
    }
    /// stat shows its mode without a file type, as Linux does for its one anonymous inode.
    fn is_untyped(&self) -> bool {
        false
    }

    /// A permission check of its own on top of the mode bits (e.g. /proc/PID/*).
    fn permission(&self, _caller: &Caller, _mask: u32) -> Result<(), Errno> {
        Ok(())
    }
    /// [`Inode::permission`] is all there is, and the mode bits are only shown (proc_sys_permission()).
    fn has_own_rules(&self) -> bool {
        false
    }

    /// The directory that stands here for `caller`, if that is another one (/proc/sys/net), and what it is told apart
    /// by. In file systems that revalidate only.
    fn seen_by(&self, _caller: &Caller) -> Option<(u64, Arc<dyn Inode>)> {
        None
    }
}

/// What to make.
#[derive(Clone, Debug)]
pub enum NewKind {
    Regular,
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    Device { kind: FileKind, rdev: u64 },
}

/// A new inode's first attributes; the mode has the umask applied.
#[derive(Clone, Debug)]
pub struct NewInode {
    pub kind: NewKind,
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
}

/// One directory entry.
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    pub kind: FileKind,
    /// The cookie that goes on after this entry; never 0.
    pub next: u64,
}

/// Takes directory entries.
pub trait DirSink {
    /// `false`: no room, this entry was not taken; stop.
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool;
}

/// Directory operations. Names hold no '/' and no NUL, are not empty, ".", "..", nor longer than NAME_MAX.
pub trait Directory {
    /// ENOENT if there is none.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno>;

    /// Looks up `names[0]`, `names[1]` in it and so on as far as cheap, in one go. Answers at least the first (or its
    /// error), and stops early at anything that is no directory or fails.
    fn lookup_chain(&self, names: &[&[u8]]) -> Result<Vec<Arc<dyn Inode>>, Errno> {
        match names.first() {
            Some(name) => Ok(vec![self.lookup(name)?]),
            None => Ok(Vec::new()),
        }
    }

    /// Lists entries other than "." and ".." from `cookie` on (0: from the start).
    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno>;

    /// Makes a file that does not exist yet.
    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EPERM)
    }
    /// A hard link to `target`, an inode of this file system.
    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Removes a name that leads to `victim`, no directory.
    fn unlink(&self, _name: &[u8], _victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Removes an empty directory: ENOTEMPTY if it is not.
    fn rmdir(&self, _name: &[u8], _victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Renames within one file system; an existing target is replaced (types were checked; ENOTEMPTY is the file
    /// system's) unless `flags` has RENAME_NOREPLACE; RENAME_EXCHANGE swaps.
    fn rename(&self, _old: &[u8], _new_dir: &Arc<dyn Inode>, _new: &[u8], _flags: u32) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// An unnamed regular file (O_TMPFILE), that `link` can give a name.
    fn tmpfile(&self, _new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
}

/// Extended attributes. Name space permissions were checked by the VFS.
pub trait Xattrs {
    /// ENODATA if there is none.
    fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno>;
    fn list(&self) -> Result<Vec<Vec<u8>>, Errno>;
    /// `flags`: XATTR_CREATE (1), XATTR_REPLACE (2).
    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno>;
    fn remove(&self, name: &[u8]) -> Result<(), Errno>;
}

/// An inode without a name in any directory: pipes, sockets, eventfd and the like.
pub struct AnonInode {
    ino: u64,
    kind: FileKind,
    perm: u32,
    uid: u32,
    gid: u32,
    label: &'static str,
    /// One of those that are a single inode on Linux (eventfd and the like).
    shared: bool,
    state: InodeState,
}

impl AnonInode {
    /// `label` as in /proc/PID/fd: "pipe", "socket" (shown as `pipe:[ino]`), or what follows "anon_inode:".
    pub fn new(kind: FileKind, perm: u32, uid: u32, gid: u32, label: &'static str) -> Arc<AnonInode> {
        static NEXT: AtomicU64 = AtomicU64::new(1000);
        let ino = NEXT.fetch_add(1, Ordering::Relaxed);
        let shared = kind == FileKind::Regular;
        Arc::new(AnonInode { ino, kind, perm, uid, gid, label, shared, state: InodeState::default() })
    }

    /// An inode of its own whatever its kind, for tests that need a plain file.
    #[cfg(test)]
    pub(crate) fn alone(kind: FileKind, perm: u32, label: &'static str) -> Arc<AnonInode> {
        let inode = AnonInode::new(kind, perm, 0, 0, label);
        let AnonInode { ino, kind, perm, uid, gid, label, .. } = *inode;
        Arc::new(AnonInode { ino, kind, perm, uid, gid, label, shared: false, state: InodeState::default() })
    }

    /// What readlink of /proc/PID/fd/N shows.
    pub fn text(&self) -> Vec<u8> {
        match self.label {
            "pipe" | "socket" => format!("{}:[{}]", self.label, self.ino).into_bytes(),
            label => format!("anon_inode:{label}").into_bytes(),
        }
    }
}

impl Inode for AnonInode {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        self.kind
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = Attr::plain(chitin_abi::stat::makedev(0, 13), self.ino, self.kind, self.perm);
        attr.uid = self.uid;
        attr.gid = self.gid;
        Ok(attr)
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn state(&self) -> &InodeState {
        // Linux has one inode for all of these: locks on one of them are locks on all.
        static SHARED: LazyLock<InodeState> = LazyLock::new(InodeState::default);
        if self.is_untyped() { &SHARED } else { &self.state }
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Err(Errno::ENXIO)
    }
    fn anon_text(&self) -> Option<Vec<u8>> {
        Some(self.text())
    }
    fn is_untyped(&self) -> bool {
        self.shared
    }
}
