//! Root directory, working directory and umask (`fs_struct`); shared by CLONE_FS.

use chitin_vfs::{MountNs, Path, UserNs};
use parking_lot::RwLock;
use std::sync::Arc;

#[derive(Clone)]
struct Inner {
    root: Path,
    cwd: Path,
    umask: u32,
    ns: Arc<MountNs>,
}

/// Lock: a leaf.
pub struct FsState {
    inner: RwLock<Inner>,
}

impl FsState {
    pub fn new(ns: Arc<MountNs>, umask: u32) -> Arc<FsState> {
        let root = ns.root();
        Arc::new(FsState { inner: RwLock::new(Inner { cwd: root.clone(), root, umask, ns }) })
    }
    /// For clone without CLONE_FS.
    pub fn copy(&self) -> Arc<FsState> {
        Arc::new(FsState { inner: RwLock::new(self.inner.read().clone()) })
    }
    /// For CLONE_NEWNS: a copy of the mount namespace, with root and working directory in it, for `user_ns` to have power
    /// over.
    pub fn with_new_namespace(&self, user_ns: &Arc<UserNs>) -> Arc<FsState> {
        let inner = self.inner.read();
        let (ns, copies) = inner.ns.copy(user_ns);
        let translate = |path: &Path| match copies.get(&path.mount.id()) {
            Some(mount) => Path { mount: mount.clone(), dentry: path.dentry.clone() },
            None => ns.root(),
        };
        let (root, cwd) = (translate(&inner.root), translate(&inner.cwd));
        Arc::new(FsState { inner: RwLock::new(Inner { root, cwd, umask: inner.umask, ns }) })
    }
    /// Namespace, root, cwd and umask as of one moment.
    pub fn snapshot(&self) -> (Arc<MountNs>, Path, Path, u32) {
        let inner = self.inner.read();
        (inner.ns.clone(), inner.root.clone(), inner.cwd.clone(), inner.umask)
    }
    pub fn ns(&self) -> Arc<MountNs> {
        self.inner.read().ns.clone()
    }
    pub fn root(&self) -> Path {
        self.inner.read().root.clone()
    }
    pub fn cwd(&self) -> Path {
        self.inner.read().cwd.clone()
    }
    pub fn umask(&self) -> u32 {
        self.inner.read().umask
    }
    /// Sets the umask; answers the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        std::mem::replace(&mut self.inner.write().umask, umask & 0o777)
    }
    pub fn set_cwd(&self, cwd: Path) {
        let old = std::mem::replace(&mut self.inner.write().cwd, cwd);
        drop(old);
    }
    pub fn set_root(&self, root: Path) {
        let old = std::mem::replace(&mut self.inner.write().root, root);
        drop(old);
    }
}
