//! A gofer without confinement, in a thread of the test, over a directory of its own.
#![allow(dead_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chitin_gofer::{Limits, Root, Server};
use chitin_gofer_protocol::{Client, GoferError, NodeAttr, WalkEnd, transport};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

pub struct Gofer {
    pub dir: PathBuf,
    pub server: Arc<Server>,
    pub client: Client,
}

static NUMBER: AtomicUsize = AtomicUsize::new(0);

impl Gofer {
    /// Root 0 is the directory, root 1 the same read-only, root 2 the file `single` in it.
    pub fn new(limits: Limits) -> Gofer {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("chitin-gofer-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("single"), "one file").unwrap();
        let root = |path: &Path, readonly| Root { fd: o_path(path), readonly, recursive: false };
        let roots = vec![root(&dir, false), root(&dir, true), root(&dir.join("single"), false)];
        let server = Server::new(roots, "/proc/self/fd", limits).unwrap();
        let (ours, theirs) = transport::channel().unwrap();
        let serving = Arc::clone(&server);
        std::thread::spawn(move || serving.serve(ours));
        Gofer { dir, server, client: Client::new(theirs) }
    }

    pub fn root(&self) -> u64 {
        self.client.attach(0).unwrap().node
    }

    /// Walks to a path below the writable root, all of which must exist; keeps the last node only.
    pub fn find(&self, path: &str) -> NodeAttr {
        let names: Vec<_> = path.split('/').map(str::as_bytes).collect();
        let root = self.root();
        let mut walk = self.client.walk(root, &names).unwrap();
        assert!(matches!(walk.end, WalkEnd::Complete | WalkEnd::Symlink(_)), "{path}: {:?}", walk.end);
        let last = walk.steps.pop().unwrap();
        let mut close: Vec<_> = walk.steps.iter().map(|step| step.node).collect();
        close.push(root);
        self.client.close(&close).unwrap();
        last
    }
}

impl Drop for Gofer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn o_path(path: &Path) -> OwnedFd {
    open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

/// The errno a call failed with.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(outcome: Result<T, GoferError>) -> i32 {
    match outcome {
        Err(GoferError::Errno(errno)) => errno,
        other => panic!("not an errno: {other:?}"),
    }
}
