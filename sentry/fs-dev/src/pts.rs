//! devpts: pseudo-terminals by number, and ptmx (fs/devpts/inode.c).
//!
//! Neighbours: `kernel::tty` has the terminals; the `terminals` drivers open what is here. Each mount is an instance of
//! its own, as on Linux since 4.7.
//!
//! Locks: `Shared::ptys` (leaf), then each inode's `meta`.

use chitin_abi::Errno;
use chitin_abi::fcntl::O_NONBLOCK;
use chitin_abi::limits::{NAME_MAX, PAGE_SIZE};
use chitin_abi::stat::{DEVPTS_SUPER_MAGIC, Statfs, makedev};
use chitin_fs_tmpfs::Meta;
use chitin_kernel::Kernel;
use chitin_kernel::tty::{ConsoleTty, OnRelease, Tty};
use chitin_vfs::walk::Caller;
use chitin_vfs::{
    Attr, DirEntry, DirSink, Directory, FileKind, FileOps, FileSystem, Inode, InodeState, NewInode, NewKind,
    SetAttr,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

/// kernel.pty.max less its reserve: what a sandbox may have.
const PTY_MAX: u32 = 4096;
const PTMX_INO: u64 = 2;

/// Mount options.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    mode: u32,
    ptmxmode: u32,
    uid: Option<u32>,
    gid: Option<u32>,
    max: u32,
}

impl Options {
    fn parse(data: &[u8]) -> Result<Options, Errno> {
        let mut options = Options { mode: 0o600, ptmxmode: 0, uid: None, gid: None, max: PTY_MAX };
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.trim_end_matches('\0');
        for option in text.split(',').filter(|option| !option.is_empty()) {
            options.one(option).ok_or(Errno::EINVAL)?;
        }
        Ok(options)
    }

    fn one(&mut self, option: &str) -> Option<()> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let id = || value.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        let octal = || u32::from_str_radix(value, 8).ok().map(|mode| mode & 0o7777);
        match key {
            "mode" => self.mode = octal()? & 0o777,
            "ptmxmode" => self.ptmxmode = octal()? & 0o777,
            "uid" => self.uid = Some(id()?),
            "gid" => self.gid = Some(id()?),
            "max" => self.max = value.parse().ok()?,
            // Always so.
            "newinstance" if value.is_empty() => {}
            _ => return None,
        }
        Some(())
    }
}

/// What the inodes of an instance share.
struct Shared {
    dev: u64,
    options: Mutex<Options>,
    ptys: Mutex<BTreeMap<u32, Pty>>,
}

/// A number that was given out: its inode stays the same over all its terminals.
struct Pty {
    node: Arc<Node>,
    in_use: bool,
}

pub struct DevPts {
    kernel: Weak<Kernel>,
    shared: Arc<Shared>,
    root: Arc<Root>,
}

struct Root {
    shared: Arc<Shared>,
    ptmx: Arc<Node>,
    meta: Mutex<Meta>,
    state: InodeState,
}

/// ptmx, or a slave.
struct Node {
    dev: u64,
    ino: u64,
    rdev: u64,
    meta: Mutex<Meta>,
    state: InodeState,
    /// Weak: the terminal lives as long as somebody has it open.
    tty: Mutex<Weak<Tty>>,
}

fn meta(perm: u32, uid: u32, gid: u32, nlink: u32) -> Mutex<Meta> {
    Mutex::new(Meta::new(&NewInode { kind: NewKind::Regular, perm, uid, gid }, nlink))
}

impl DevPts {
    /// Mounts an instance: mode=, ptmxmode=, uid=, gid=, max=, newinstance.
    pub fn new(kernel: &Arc<Kernel>, data: &[u8]) -> Result<Arc<DevPts>, Errno> {
        let options = Options::parse(data)?;
        let dev = chitin_vfs::inode::anon_dev();
        let ptmx = Arc::new(Node {
            dev,
            ino: PTMX_INO,
            rdev: makedev(5, 2),
            meta: meta(options.ptmxmode, 0, 0, 1),
            state: InodeState::default(),
            tty: Mutex::default(),
        });
        let shared = Arc::new(Shared { dev, options: Mutex::new(options), ptys: Mutex::default() });
        let root = Arc::new(Root {
            shared: shared.clone(),
            ptmx,
            meta: meta(0o755, 0, 0, 2),
            state: InodeState::default(),
        });
        Ok(Arc::new(DevPts { kernel: Arc::downgrade(kernel), shared, root }))
    }

    /// Opens ptmx: a new pseudo-terminal's master. ENOSPC when there are too many.
    pub fn open_ptmx(&self, flags: u32, caller: &Caller) -> Result<Arc<dyn FileOps>, Errno> {
        let kernel = self.kernel.upgrade().ok_or(Errno::EIO)?;
        let make = |index, released| Ok(Tty::new_pty(&kernel, index, released));
        let tty = self.add(caller.creds.fsuid, caller.creds.fsgid, make)?;
        Ok(tty.open_master(flags & O_NONBLOCK))
    }

    /// A terminal of the host under a number of its own, for a process that the runtime starts.
    pub fn add_console(&self, host: Arc<OwnedFd>, uid: u32, gid: u32) -> Result<Arc<Tty>, Errno> {
        let kernel = self.kernel.upgrade().ok_or(Errno::EIO)?;
        self.add(uid, gid, |index, released| {
            ConsoleTty::start_pty(&kernel, host, index, released)
                .map_err(|error| error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO))
        })
    }

    /// Gives a number to the terminal that `make` makes.
    fn add(
        &self,
        uid: u32,
        gid: u32,
        make: impl FnOnce(u32, OnRelease) -> Result<Arc<Tty>, Errno>,
    ) -> Result<Arc<Tty>, Errno> {
        let options = self.shared.options.lock().clone();
        let (index, node) = {
            let mut ptys = self.shared.ptys.lock();
            let mut numbers = 0..options.max.min(PTY_MAX);
            let index =
                numbers.find(|index| !ptys.get(index).is_some_and(|pty| pty.in_use)).ok_or(Errno::ENOSPC)?;
            let pty = ptys.entry(index).or_insert_with(|| {
                let node = Node {
                    dev: self.shared.dev,
                    ino: u64::from(index) + 3,
                    rdev: makedev(136, index),
                    meta: meta(0, 0, 0, 1),
                    state: InodeState::default(),
                    tty: Mutex::default(),
                };
                Pty { node: Arc::new(node), in_use: false }
            });
            pty.in_use = true;
            *pty.node.tty.lock() = Weak::new();
            (index, pty.node.clone())
        };
        let shared = Arc::downgrade(&self.shared);
        let released = move |index| release(&shared, index);
        let tty =
            make(index, Box::new(released)).inspect_err(|_| release(&Arc::downgrade(&self.shared), index))?;
        let (uid, gid) = (options.uid.unwrap_or(uid), options.gid.unwrap_or(gid));
        *node.meta.lock() = meta(options.mode, uid, gid, 1).into_inner();
        *node.tty.lock() = Arc::downgrade(&tty);
        let inode: Arc<dyn Inode> = node;
        tty.set_slave_inode(&inode);
        Ok(tty)
    }
}

/// A number may be given out again.
fn release(shared: &Weak<Shared>, index: u32) {
    if let Some(shared) = shared.upgrade()
        && let Some(pty) = shared.ptys.lock().get_mut(&index)
    {
        pty.in_use = false;
    }
}

impl FileSystem for DevPts {
    fn fs_type(&self) -> &'static str {
        "devpts"
    }
    fn dev(&self) -> u64 {
        self.shared.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Ok(Statfs {
            f_type: DEVPTS_SUPER_MAGIC,
            f_bsize: PAGE_SIZE.cast_signed(),
            f_frsize: PAGE_SIZE.cast_signed(),
            f_namelen: (NAME_MAX as u64).cast_signed(),
            ..Statfs::default()
        })
    }
    /// Slaves come and go by themselves.
    fn revalidates(&self) -> bool {
        true
    }
    fn show_options(&self) -> String {
        use std::fmt::Write as _;
        let options = self.shared.options.lock();
        let mut text = String::new();
        // Writing to a string does not fail.
        if let Some(uid) = options.uid {
            let _ = write!(text, ",uid={uid}");
        }
        if let Some(gid) = options.gid {
            let _ = write!(text, ",gid={gid}");
        }
        let _ = write!(text, ",mode={:03o},ptmxmode={:03o}", options.mode, options.ptmxmode);
        if options.max < PTY_MAX {
            let _ = write!(text, ",max={}", options.max);
        }
        text
    }
    fn remount(&self, data: &[u8]) -> Result<(), Errno> {
        let options = Options::parse(data)?;
        self.root.ptmx.meta.lock().perm = options.ptmxmode;
        *self.shared.options.lock() = options;
        Ok(())
    }
}

impl Inode for Root {
    fn ino(&self) -> u64 {
        1
    }
    fn kind(&self) -> FileKind {
        FileKind::Directory
    }
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(self.meta.lock().attr(self.shared.dev, 1, FileKind::Directory))
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.meta.lock().apply(change);
        Ok(())
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
}

impl Directory for Root {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if name == b"ptmx" {
            return Ok(self.ptmx.clone());
        }
        let number: Option<u32> = std::str::from_utf8(name).ok().and_then(|text| text.parse().ok());
        // "+1" and "01" are no names of 1.
        let index = number.filter(|index| index.to_string().as_bytes() == name).ok_or(Errno::ENOENT)?;
        let ptys = self.shared.ptys.lock();
        let found = ptys.get(&index).filter(|pty| pty.in_use).ok_or(Errno::ENOENT)?;
        Ok(found.node.clone())
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let kind = FileKind::CharDevice;
        if cookie == 0 && !sink.entry(&DirEntry { name: b"ptmx", ino: PTMX_INO, kind, next: 1 }) {
            return Ok(());
        }
        // The cookie of pseudo-terminal n is n + 1, and goes on at n.
        let from = u32::try_from(cookie.saturating_sub(1)).unwrap_or(u32::MAX);
        let ptys = self.shared.ptys.lock();
        let numbers: Vec<u32> =
            ptys.range(from..).filter(|(_, pty)| pty.in_use).map(|(index, _)| *index).collect();
        drop(ptys);
        for index in numbers {
            let (name, at) = (index.to_string(), u64::from(index));
            if !sink.entry(&DirEntry { name: name.as_bytes(), ino: at + 3, kind, next: at + 2 }) {
                break;
            }
        }
        Ok(())
    }
}

impl Inode for Node {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        FileKind::CharDevice
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let attr = self.meta.lock().attr(self.dev, self.ino, FileKind::CharDevice);
        Ok(Attr { rdev: self.rdev, blksize: 1024, ..attr })
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        self.meta.lock().apply(change);
        Ok(())
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    /// A reopening of a slave without a path; nodes are opened by their drivers.
    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        let tty = self.tty.lock().upgrade().ok_or(Errno::EIO)?;
        tty.open_slave(flags, false)
    }
}

/// The terminal of a slave's inode.
pub(crate) fn tty_of(inode: &Arc<dyn Inode>) -> Option<Arc<Tty>> {
    let any: &dyn std::any::Any = &**inode;
    any.downcast_ref::<Node>().and_then(|node| node.tty.lock().upgrade())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parse = |text: &str| Options::parse(text.as_bytes());
        let options = parse("newinstance,ptmxmode=0666,mode=0620,gid=5").unwrap();
        assert_eq!((options.ptmxmode, options.mode, options.gid, options.uid), (0o666, 0o620, Some(5), None));
        for bad in ["mode=9", "gid=x", "newinstance=1", "nosuch", "max=-1"] {
            assert_eq!(parse(bad), Err(Errno::EINVAL), "{bad}");
        }
    }
}
