//! Device numbers and what opens them.

use crate::walk::Caller;
use crate::{FileKind, FileOps, Inode, Path};
use chitin_abi::Errno;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// A driver: opens device nodes of its numbers.
pub trait Device: Send + Sync {
    /// `path` is where the node was found; `flags` are O_*.
    fn open(
        &self,
        rdev: u64,
        inode: &Arc<dyn Inode>,
        path: &Path,
        flags: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn FileOps>, Errno>;
}

/// The drivers by type and number; whole majors too (minor `None`).
#[derive(Default)]
pub struct DeviceTable {
    drivers: RwLock<HashMap<(FileKind, u32, Option<u32>), Arc<dyn Device>>>,
}

impl DeviceTable {
    pub fn register(&self, kind: FileKind, major: u32, minor: Option<u32>, driver: Arc<dyn Device>) {
        self.drivers.write().insert((kind, major, minor), driver);
    }

    /// The driver of a node: ENXIO if there is none.
    pub fn get(&self, kind: FileKind, rdev: u64) -> Result<Arc<dyn Device>, Errno> {
        let (major, minor) = (chitin_abi::stat::major(rdev), chitin_abi::stat::minor(rdev));
        let drivers = self.drivers.read();
        drivers
            .get(&(kind, major, Some(minor)))
            .or_else(|| drivers.get(&(kind, major, None)))
            .cloned()
            .ok_or(Errno::ENXIO)
    }
}
