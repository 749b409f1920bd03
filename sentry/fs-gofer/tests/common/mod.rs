//! A gofer in threads of the test, over a directory of its own, and a guest's view on it.
#![allow(dead_code)]

use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_fs_gofer::{Cache, GoferFs, GoferOptions};
use chitin_gofer::{Limits, Root, Server};
use chitin_gofer_protocol::{Client, transport};
use chitin_mm::{SliceSource, VecSink};
use chitin_vfs::ops::{OpenHow, Opened};
use chitin_vfs::walk::{Target, Vfs, Walk};
use chitin_vfs::{Attr, Caller, Context, Creds, DirEntry, DirSink, File, Mount, MountNs, Path, Place};
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct World {
    pub dir: PathBuf,
    pub server: Arc<Server>,
    pub client: Arc<Client>,
}

static NUMBER: AtomicUsize = AtomicUsize::new(0);

impl World {
    /// Root 0 is the directory, root 1 the same read-only.
    pub fn new() -> World {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("chitin-fs-gofer-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let top = || -> OwnedFd {
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            OpenOptions::new().read(true).custom_flags(flags).open(&dir).unwrap().into()
        };
        let roots = vec![
            Root { fd: top(), readonly: false, recursive: false },
            Root { fd: top(), readonly: true, recursive: false },
        ];
        let server = Server::new(roots, "/proc/self/fd", Limits::default()).unwrap();
        let (ours, theirs) = transport::channel().unwrap();
        let serving = server.clone();
        std::thread::spawn(move || serving.serve(ours));
        World { dir, server, client: Arc::new(Client::new(theirs)) }
    }

    pub fn fs(&self, cache: Cache) -> Arc<GoferFs> {
        let options = GoferOptions { cache, ..GoferOptions::default() };
        GoferFs::attach(self.client.clone(), 0, options).unwrap()
    }

    pub fn guest(&self, cache: Cache) -> Guest {
        Guest::new(self.fs(cache))
    }

    pub fn host(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A root process whose root directory is the file system.
pub struct Guest {
    pub fs: Arc<GoferFs>,
    pub ctx: Context,
}

impl Guest {
    pub fn new(fs: Arc<GoferFs>) -> Guest {
        let ns = MountNs::new(Mount::new(fs.clone(), b"root", 0));
        let caller = Caller { tgid: 1, tid: 1, creds: Arc::new(Creds::root()) };
        let ctx = Context::new(Place::top(Arc::new(Vfs::default()), ns, 0o022), caller);
        Guest { fs, ctx }
    }

    pub fn root(&self) -> &Path {
        &self.ctx.root
    }

    pub fn open(&self, path: &str, flags: u32) -> Result<Arc<File>, Errno> {
        let how = OpenHow { flags, perm: 0o666, walk: Walk::FOLLOW };
        match self.ctx.open(self.root(), path.as_bytes(), &how)? {
            Opened::File(file) => Ok(file),
            Opened::Fifo { .. } => Err(Errno::ENXIO),
        }
    }

    pub fn path(&self, path: &str) -> Result<Path, Errno> {
        self.ctx.walk(self.root(), path.as_bytes(), Walk::NOFOLLOW)
    }

    pub fn target(&self, path: &str) -> Target {
        Target::Path(self.path(path).unwrap())
    }

    pub fn stat(&self, path: &str) -> Result<Attr, Errno> {
        self.path(path)?.inode().attr()
    }

    pub fn put(&self, path: &str, content: &[u8]) {
        let file = self.open(path, O_WRONLY | O_CREAT | O_TRUNC).unwrap();
        assert_eq!(file.write(&mut SliceSource::new(content)).unwrap(), content.len());
    }

    pub fn get(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self.open(path, O_RDONLY)?;
        Ok(read_all(&file))
    }

    pub fn unlink(&self, path: &str) -> Result<(), Errno> {
        self.ctx.unlink(self.root(), path.as_bytes())
    }

    pub fn rename(&self, old: &str, new: &str, flags: u32) -> Result<(), Errno> {
        self.ctx.rename(self.root(), old.as_bytes(), self.root(), new.as_bytes(), flags)
    }

    /// Names of a directory, read `room` entries at a time; each cookie is used to go on.
    pub fn list(&self, path: &str, room: usize) -> Vec<String> {
        let inode =
            if path == "/" { self.root().inode().clone() } else { self.path(path).unwrap().inode().clone() };
        let mut names = Vec::new();
        let mut cookie = 0;
        loop {
            let mut some = Batch { names: Vec::new(), room, next: cookie };
            inode.dir().unwrap().read_dir(cookie, &mut some).unwrap();
            if some.names.is_empty() {
                names.sort();
                return names;
            }
            cookie = some.next;
            names.append(&mut some.names);
        }
    }
}

struct Batch {
    names: Vec<String>,
    room: usize,
    next: u64,
}

impl DirSink for Batch {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        if self.names.len() >= self.room {
            return false;
        }
        self.names.push(String::from_utf8(entry.name.to_vec()).unwrap());
        self.next = entry.next;
        true
    }
}

/// All that is left from the file position on.
pub fn read_all(file: &File) -> Vec<u8> {
    let mut sink = VecSink { data: Vec::new(), limit: 1 << 24 };
    while file.read(&mut sink).unwrap() > 0 {}
    sink.data
}
