//! A flat file system in memory and contexts on it, for tests of sockets with names.

#![allow(dead_code)]

use chitin_abi::Errno;
use chitin_abi::stat::Statfs;
use chitin_net::{NetNs, create, create_pair};
use chitin_vfs::inode::{DirSink, anon_dev};
use chitin_vfs::walk::Caller;
use chitin_vfs::*;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

struct Node {
    ino: u64,
    new: NewInode,
    names: Mutex<HashMap<Vec<u8>, Arc<dyn Inode>>>,
    perm: Mutex<u32>,
    state: InodeState,
}

fn node(new: NewInode) -> Arc<Node> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let perm = Mutex::new(new.perm);
    let ino = NEXT.fetch_add(1, Ordering::Relaxed);
    Arc::new(Node { ino, new, names: Mutex::default(), perm, state: InodeState::default() })
}

impl Inode for Node {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        match &self.new.kind {
            NewKind::Regular => FileKind::Regular,
            NewKind::Directory => FileKind::Directory,
            NewKind::Symlink(_) => FileKind::Symlink,
            NewKind::Fifo => FileKind::Fifo,
            NewKind::Socket => FileKind::Socket,
            NewKind::Device { kind, .. } => *kind,
        }
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = Attr::plain(1, self.ino, self.kind(), *self.perm.lock());
        (attr.uid, attr.gid) = (self.new.uid, self.new.gid);
        Ok(attr)
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if let Some(perm) = change.perm {
            *self.perm.lock() = perm;
        }
        Ok(())
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        matches!(self.new.kind, NewKind::Directory).then_some(self)
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Err(Errno::ENXIO)
    }
}

impl Directory for Node {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.names.lock().get(name).cloned().ok_or(Errno::ENOENT)
    }
    fn read_dir(&self, _cookie: u64, _sink: &mut dyn DirSink) -> Result<(), Errno> {
        Ok(())
    }
    fn create(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        let inode: Arc<dyn Inode> = node(new.clone());
        self.names.lock().insert(name.to_vec(), inode.clone());
        Ok(inode)
    }
    fn unlink(&self, name: &[u8], _victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.names.lock().remove(name);
        Ok(())
    }
}

struct MemFs {
    dev: u64,
    root: Arc<Node>,
}

impl FileSystem for MemFs {
    fn fs_type(&self) -> &'static str {
        "memfs"
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Err(Errno::ENOSYS)
    }
}

/// A guest with root's rights in an empty directory.
pub fn context() -> Context {
    let root = node(NewInode { kind: NewKind::Directory, perm: 0o755, uid: 0, gid: 0 });
    let ns = MountNs::new(Mount::new(Arc::new(MemFs { dev: anon_dev(), root }), b"mem", 0));
    let caller = Caller { tgid: 10, tid: 10, creds: Arc::new(Creds::root()) };
    Context::new(Place::top(Arc::default(), ns, 0o022), caller)
}

/// The same guest as another user without capabilities.
pub fn as_user(ctx: &Context, uid: u32, tgid: i32) -> Context {
    let mut creds = Creds::root();
    (creds.uid, creds.euid, creds.suid, creds.fsuid) = (uid, uid, uid, uid);
    (creds.gid, creds.egid, creds.sgid, creds.fsgid) = (uid, uid, uid, uid);
    creds.groups = vec![uid, 77];
    (creds.permitted, creds.effective) = (Caps::EMPTY, Caps::EMPTY);
    let mut ctx = ctx.clone();
    ctx.caller = Caller { tgid, tid: tgid, creds: Arc::new(creds) };
    ctx
}

pub fn socket(ns: &Arc<NetNs>, ctx: &Context, kind: u32) -> Arc<File> {
    create(ns, 1, kind, 0, &ctx.caller).unwrap()
}

pub fn pair(ns: &Arc<NetNs>, ctx: &Context, kind: u32) -> [Arc<File>; 2] {
    create_pair(ns, 1, kind, 0, &ctx.caller).unwrap()
}

pub fn weak(file: &Arc<File>) -> Weak<File> {
    Arc::downgrade(file)
}
