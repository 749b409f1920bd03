//! From a node to a descriptor, and from a parent and a name to a descriptor.
//!
//! Every lookup is one component below a descriptor we hold, with `openat2` and `RESOLVE_BENEATH`,
//! no symbolic links, no magic links, and no mount crossings unless the root is recursive. A lost
//! descriptor is opened again down the chain of parents; each step must still be the very same file,
//! otherwise the node is `ESTALE`.

use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use chitin_gofer_protocol::{Attr, NAME_MAX, NodeId};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

use crate::host;
use crate::server::Server;
use crate::tree::{Identity, Key};

/// How often a lookup is repeated when renames get in its way.
const RETRIES: usize = 8;

/// A node a request names, with its descriptor open.
#[derive(Debug)]
pub struct Node {
    pub key: Key,
    pub root: u32,
    /// `S_IFMT` bits.
    pub kind: u32,
    pub fd: Arc<OwnedFd>,
}

impl Node {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A checked file name: one component, as a C string.
#[derive(Debug)]
pub struct Name {
    buffer: [u8; NAME_MAX + 1],
    len: usize,
}

impl Name {
    /// Refuses what is not the name of a directory entry.
    pub fn check(name: &[u8]) -> Result<Name, Errno> {
        if name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(Errno::EINVAL);
        }
        let mut buffer = [0; NAME_MAX + 1];
        buffer
            .get_mut(..name.len())
            .filter(|_| name.len() <= NAME_MAX)
            .ok_or(Errno::ENAMETOOLONG)?
            .copy_from_slice(name);
        Ok(Name { buffer, len: name.len() })
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    pub fn c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.buffer).unwrap_or_default()
    }
}

impl Server {
    /// The node of an id from the client.
    pub fn node(&self, id: NodeId) -> Result<Node, Errno> {
        let key = Key::from_id(id);
        let view = self.tree.lock().get(key)?;
        let fd = match view.fd {
            Some(fd) => fd,
            None => self.reopen(key)?,
        };
        Ok(Node { key, root: view.root, kind: view.kind, fd })
    }

    /// The same for a directory.
    pub fn dir(&self, id: NodeId) -> Result<Node, Errno> {
        let node = self.node(id)?;
        if node.kind == libc::S_IFDIR { Ok(node) } else { Err(Errno::ENOTDIR) }
    }

    /// `EROFS` unless the root of the node may be written.
    pub fn writable(&self, node: &Node) -> Result<(), Errno> {
        match self.roots.get(node.root as usize) {
            Some(root) if !root.readonly => Ok(()),
            _ => Err(Errno::EROFS),
        }
    }

    /// The directory of an id, if things may be changed in it.
    pub fn writable_dir(&self, id: NodeId) -> Result<Node, Errno> {
        let node = self.dir(id)?;
        self.writable(&node)?;
        Ok(node)
    }

    /// Opens the descriptor of a node again.
    pub fn reopen(&self, key: Key) -> Result<Arc<OwnedFd>, Errno> {
        let mut outcome = Err(Errno::ESTALE);
        for _ in 0..RETRIES {
            let (route, root) = {
                let tree = self.tree.lock();
                let route = tree.route(key)?;
                // A node that only its children keep alive has no view; they share its root.
                let root = tree.root_of(key).ok_or(Errno::ESTALE)?;
                (route, root)
            };
            let mut at = route.from;
            outcome = Ok(());
            for (step, name, identity) in &route.down {
                match self.descend(&at, root, name, *identity) {
                    Ok(fd) => {
                        at = Arc::new(fd);
                        let evicted = self.tree.lock().keep(*step, Arc::clone(&at));
                        drop(evicted);
                    }
                    Err(errno) => {
                        outcome = Err(errno);
                        break;
                    }
                }
            }
            match outcome {
                Ok(()) => return Ok(at),
                // Something was renamed meanwhile: the route may have been out of date.
                Err(Errno::ESTALE) if self.tree.lock().renames() != route.renames => {}
                Err(errno) => return Err(errno),
            }
        }
        outcome.and(Err(Errno::ESTALE))
    }

    /// One step of [`Server::reopen`].
    fn descend(&self, parent: &OwnedFd, root: u32, name: &[u8], was: Identity) -> Result<OwnedFd, Errno> {
        let name = Name::check(name)?;
        let (fd, attr) = self.look(parent.as_fd(), root, &name).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV => Errno::ESTALE,
            other => other,
        })?;
        if Identity::from(&attr) == was { Ok(fd) } else { Err(Errno::ESTALE) }
    }

    /// Opens one name below a directory as `O_PATH`, without following it.
    pub fn look(&self, parent: BorrowedFd<'_>, root: u32, name: &Name) -> Result<(OwnedFd, Attr), Errno> {
        let how = self.beneath(root).flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let fd = self.with_room(|| openat2(parent, name.c_str(), how))?;
        let attr = host::statx(fd.as_fd(), c"")?;
        Ok((fd, attr))
    }

    /// How names are resolved below a root.
    pub fn beneath(&self, root: u32) -> OpenHow {
        let mut resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_SYMLINKS;
        if !self.roots.get(root as usize).is_some_and(|root| root.recursive) {
            resolve |= ResolveFlag::RESOLVE_NO_XDEV;
        }
        OpenHow::new().resolve(resolve)
    }

    /// Opens the very file of an `O_PATH` descriptor for use, through the descriptor directory: no name
    /// is resolved, so that no link or mount can be put in the way. Regular files and directories only.
    pub fn open_again(&self, fd: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd, Errno> {
        let number = number(fd);
        self.with_room(|| openat(&self.own_fds, number.as_c_str(), flags | OFlag::O_CLOEXEC, Mode::empty()))
    }

    /// The path that leads to the file of a descriptor, for calls that know paths only.
    pub fn path_of(&self, fd: BorrowedFd<'_>) -> CString {
        let mut path = Vec::with_capacity(self.own_fds_path.len().saturating_add(12));
        // Writing to a vector does not fail.
        let _ = write!(path, "{}/{}", self.own_fds_path, fd.as_raw_fd());
        CString::new(path).unwrap_or_default()
    }

    /// Runs something that opens a descriptor; if the table is full, gives up half of the cached ones
    /// and tries once more.
    pub fn with_room<T>(&self, open: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
        match open() {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                let evicted = {
                    let mut tree = self.tree.lock();
                    let half = (tree.open() / 2).max(1);
                    tree.shrink(half)
                };
                drop(evicted);
                open()
            }
            outcome => outcome,
        }
    }
}

/// The name of a descriptor in the descriptor directory.
pub fn number(fd: BorrowedFd<'_>) -> CString {
    CString::new(fd.as_raw_fd().to_string()).unwrap_or_default()
}
