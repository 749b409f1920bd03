//! What the host's kernel knows by number: files it has looked up (nodes, counted) and files it has opened (handles).

use chitin_abi::Errno;
use chitin_vfs::{File, Path};
use std::collections::HashMap;
use std::sync::Arc;

/// The number of the container's root, by the protocol.
pub const ROOT: u64 = 1;
/// More nodes than this are not given out: each holds a dentry.
const MAX_NODES: usize = 65_536;
const MAX_HANDLES: usize = 1024;

struct Node {
    path: Path,
    lookups: u64,
}

pub struct Nodes {
    root: Path,
    by_number: HashMap<u64, Node>,
    /// A file has one number as long as it has any; keyed by the addresses of mount and dentry, which the node holds.
    by_file: HashMap<(usize, usize), u64>,
    handles: HashMap<u64, Arc<File>>,
    last: u64,
}

fn key(path: &Path) -> (usize, usize) {
    (Arc::as_ptr(&path.mount).addr(), Arc::as_ptr(&path.dentry).addr())
}

impl Nodes {
    pub fn new(root: Path) -> Nodes {
        let (by_number, by_file, handles) = (HashMap::new(), HashMap::new(), HashMap::new());
        Nodes { root, by_number, by_file, handles, last: ROOT }
    }

    fn next(&mut self) -> u64 {
        self.last = self.last.wrapping_add(1).max(2);
        self.last
    }

    pub fn path(&self, number: u64) -> Result<Path, Errno> {
        if number == ROOT {
            return Ok(self.root.clone());
        }
        self.by_number.get(&number).map(|node| node.path.clone()).ok_or(Errno::ESTALE)
    }

    /// The number of a file that was looked up once more.
    pub fn count(&mut self, path: &Path) -> Result<u64, Errno> {
        if let Some(number) = self.by_file.get(&key(path))
            && let Some(node) = self.by_number.get_mut(number)
        {
            node.lookups = node.lookups.saturating_add(1);
            return Ok(*number);
        }
        if self.by_number.len() >= MAX_NODES {
            return Err(Errno::ENFILE);
        }
        let number = self.next();
        self.by_file.insert(key(path), number);
        self.by_number.insert(number, Node { path: path.clone(), lookups: 1 });
        Ok(number)
    }

    /// The host has forgotten `count` look-ups. What is returned is to be dropped without the lock.
    pub fn forget(&mut self, number: u64, count: u64) -> Option<Path> {
        let node = self.by_number.get_mut(&number)?;
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return None;
        }
        let node = self.by_number.remove(&number)?;
        self.by_file.remove(&key(&node.path));
        Some(node.path)
    }

    pub fn open(&mut self, file: Arc<File>) -> Result<u64, Errno> {
        if self.handles.len() >= MAX_HANDLES {
            return Err(Errno::ENFILE);
        }
        let number = self.next();
        self.handles.insert(number, file);
        Ok(number)
    }

    pub fn file(&self, handle: u64) -> Result<Arc<File>, Errno> {
        self.handles.get(&handle).cloned().ok_or(Errno::EBADF)
    }

    pub fn close(&mut self, handle: u64) -> Option<Arc<File>> {
        self.handles.remove(&handle)
    }
}
