//! Root directory, working directory and umask (`fs_struct`); shared by CLONE_FS.

use chitin_vfs::{MountNs, Path, Place, UserNs};
use parking_lot::RwLock;
use std::sync::Arc;

/// Lock: a leaf.
pub struct FsState {
    place: RwLock<Arc<Place>>,
}

impl FsState {
    pub fn new(place: Place) -> Arc<FsState> {
        Arc::new(FsState { place: RwLock::new(Arc::new(place)) })
    }
    /// For clone without CLONE_FS.
    pub fn copy(&self) -> Arc<FsState> {
        Arc::new(FsState { place: RwLock::new(self.place()) })
    }
    /// For CLONE_NEWNS: a copy of the mount namespace, with root and working directory in it, for `user_ns` to have power
    /// over.
    pub fn with_new_namespace(&self, user_ns: &Arc<UserNs>) -> Arc<FsState> {
        let old = self.place();
        let (ns, copies) = old.ns.copy(user_ns);
        let translate = |path: &Path| match copies.get(&path.mount.id()) {
            Some(mount) => Path { mount: mount.clone(), dentry: path.dentry.clone() },
            None => ns.root(),
        };
        let (root, cwd) = (translate(&old.root), translate(&old.cwd));
        FsState::new(Place { vfs: old.vfs.clone(), root, cwd, umask: old.umask, ns })
    }
    /// All of it as of one moment.
    pub fn place(&self) -> Arc<Place> {
        self.place.read().clone()
    }
    pub fn ns(&self) -> Arc<MountNs> {
        self.place.read().ns.clone()
    }
    pub fn root(&self) -> Path {
        self.place.read().root.clone()
    }
    pub fn cwd(&self) -> Path {
        self.place.read().cwd.clone()
    }
    pub fn umask(&self) -> u32 {
        self.place.read().umask
    }
    /// Changes it for all who share it; what it was goes away with nothing locked.
    fn change<R>(&self, change: impl FnOnce(&mut Place) -> R) -> R {
        let mut slot = self.place.write();
        let mut place = Place::clone(&slot);
        let answer = change(&mut place);
        let old = std::mem::replace(&mut *slot, Arc::new(place));
        drop(slot);
        drop(old);
        answer
    }
    /// Sets the umask; answers the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.change(|place| std::mem::replace(&mut place.umask, umask & 0o777))
    }
    pub fn set_cwd(&self, cwd: Path) {
        self.change(|place| place.cwd = cwd);
    }
    pub fn set_root(&self, root: Path) {
        self.change(|place| place.root = root);
    }
}
