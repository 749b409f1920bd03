//! The file system `mqueue`: one directory, whose files are the queues.

use super::queue::{Limits, Maker, Queue};
use chitin_abi::Errno;
use chitin_abi::ipc::DFLT_QUEUESMAX;
use chitin_abi::stat::{MQUEUE_MAGIC, Statfs};
use chitin_vfs::{
    Attr, DirEntry, DirSink, Directory, FileKind, FileOps, FileSystem, Inode, InodeState, NewInode, NewKind,
    SetAttr,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct MqueueFs {
    root: Arc<Root>,
}

impl MqueueFs {
    pub(super) fn new() -> Arc<MqueueFs> {
        let dev = chitin_vfs::inode::anon_dev();
        let mut attr = Attr::plain(dev, 1, FileKind::Directory, 0o1777);
        let now = crate::time::to_timespec(crate::time::realtime());
        (attr.nlink, attr.atime, attr.mtime, attr.ctime) = (2, now, now, now);
        let names = Names { next: 1, ..Names::default() };
        let root =
            Root { dev, attr: Mutex::new(attr), names: Mutex::new(names), state: InodeState::default() };
        Arc::new(MqueueFs { root: Arc::new(root) })
    }

    pub(super) fn create(
        &self,
        name: &[u8],
        perm: u32,
        limits: Limits,
        maker: &Maker,
    ) -> Result<Arc<Queue>, Errno> {
        self.root.add(name, perm, limits, maker)
    }
}

impl FileSystem for MqueueFs {
    fn fs_type(&self) -> &'static str {
        "mqueue"
    }
    fn dev(&self) -> u64 {
        self.root.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Ok(Statfs {
            f_type: MQUEUE_MAGIC,
            f_bsize: 4096,
            f_frsize: 4096,
            f_namelen: 255,
            ..Statfs::default()
        })
    }
    /// Several mounts show the same queues.
    fn revalidates(&self) -> bool {
        true
    }
}

/// Queues by name, and their places in a listing.
#[derive(Default)]
struct Names {
    by_name: BTreeMap<Box<[u8]>, (u64, Arc<Queue>)>,
    by_place: BTreeMap<u64, Box<[u8]>>,
    next: u64,
}

struct Root {
    dev: u64,
    attr: Mutex<Attr>,
    names: Mutex<Names>,
    state: InodeState,
}

impl Root {
    fn add(&self, name: &[u8], perm: u32, limits: Limits, maker: &Maker) -> Result<Arc<Queue>, Errno> {
        let mut names = self.names.lock();
        if names.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if names.by_name.len() >= DFLT_QUEUESMAX as usize && !maker.unbounded {
            return Err(Errno::ENOSPC);
        }
        let place = names.next.saturating_add(1);
        let queue = Queue::new(self.dev, place, perm, limits, maker)?;
        names.next = place;
        names.by_name.insert(name.into(), (place, queue.clone()));
        names.by_place.insert(place, name.into());
        drop(names);
        self.touch();
        Ok(queue)
    }

    fn touch(&self) {
        let mut attr = self.attr.lock();
        let now = crate::time::to_timespec(crate::time::realtime());
        (attr.mtime, attr.ctime) = (now, now);
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
        let count = self.names.lock().by_name.len() as u64;
        // DIRENT_SIZE.
        Ok(Attr { size: count.saturating_mul(20), ..*self.attr.lock() })
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        let mut attr = self.attr.lock();
        attr.perm = change.perm.unwrap_or(attr.perm);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
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
        let names = self.names.lock();
        let (_, queue) = names.by_name.get(name).ok_or(Errno::ENOENT)?;
        Ok(queue.clone())
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let names = self.names.lock();
        for (&place, name) in names.by_place.range(cookie.saturating_add(1)..) {
            let entry = DirEntry { name, ino: place, kind: FileKind::Regular, next: place };
            if !sink.entry(&entry) {
                break;
            }
        }
        Ok(())
    }

    /// open(2) with O_CREAT makes a queue of the usual size.
    fn create(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        if !matches!(new.kind, NewKind::Regular) {
            return Err(Errno::EPERM);
        }
        let maker = Maker {
            user: new.uid,
            uid: new.uid,
            gid: new.gid,
            allowed: u64::from(chitin_abi::ipc::MQ_BYTES_MAX),
            unbounded: false,
        };
        Ok(self.add(name, new.perm, Limits::default(), &maker)?)
    }

    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let mut names = self.names.lock();
        match names.by_name.get(name) {
            Some((place, queue)) if queue.ino() == victim.ino() => {
                let place = *place;
                names.by_place.remove(&place);
            }
            Some(_) => return Err(Errno::ESTALE),
            None => return Err(Errno::ENOENT),
        }
        let gone = names.by_name.remove(name);
        drop(names);
        drop(gone);
        self.touch();
        Ok(())
    }
}
