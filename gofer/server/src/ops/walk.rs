//! Lookup, opening and closing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use chitin_gofer_protocol::wire::Writer;
use chitin_gofer_protocol::{Attr, Names, NodeAttr, NodeId, Nodes, PATH_MAX, end_tag};
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use std::os::unix::ffi::OsStringExt;

use crate::host;
use crate::resolve::{Name, Node};
use crate::server::Server;
use crate::tree::{Identity, Key};

/// What a client may ask for besides the access mode. The sentry does `O_APPEND` and non-blocking
/// reads itself; the rest has no meaning for a descriptor that is handed over.
const OPEN_FLAGS: OFlag =
    OFlag::O_TRUNC.union(OFlag::O_SYNC).union(OFlag::O_DSYNC).union(OFlag::O_DIRECT).union(OFlag::O_NOATIME);

impl Server {
    /// Walks; only an unusable first node is an error, the rest is told by the reply.
    pub(super) fn walk(&self, id: NodeId, names: Names<'_>, w: &mut Writer<'_>) -> Result<(), Errno> {
        let start = self.node(id)?;
        if start.kind != libc::S_IFDIR && !names.is_empty() {
            return Err(Errno::ENOTDIR);
        }
        let mut taken = Vec::with_capacity(names.len());
        let outcome = self.walk_down(start, names, w, &mut taken);
        if !w.fits() {
            // The client will not learn of these nodes, so it must not hold them.
            self.release(taken.into_iter());
            return Err(Errno::EMSGSIZE);
        }
        outcome
    }

    fn walk_down(
        &self,
        start: Node,
        names: Names<'_>,
        w: &mut Writer<'_>,
        taken: &mut Vec<Key>,
    ) -> Result<(), Errno> {
        let root = start.root;
        let mut at = At { key: start.key, kind: start.kind, fd: Some(start.fd) };
        for name in names.iter() {
            if at.kind != libc::S_IFDIR {
                w.u8(end_tag::NOT_DIRECTORY);
                return Ok(());
            }
            match Name::check(name).and_then(|name| self.step(&mut at, root, &name)) {
                Ok(attr) => {
                    taken.push(at.key);
                    w.u8(end_tag::STEP);
                    NodeAttr { node: at.key.id(), attr }.encode(w);
                }
                Err(errno) => {
                    w.u8(end_tag::ERRNO);
                    w.i32(errno as i32);
                    return Ok(());
                }
            }
            if at.kind == libc::S_IFLNK {
                match self.fd_of(&at).and_then(|fd| read_link(&fd)) {
                    Ok(target) => {
                        w.u8(end_tag::SYMLINK);
                        w.bytes(&target, PATH_MAX);
                    }
                    Err(errno) => {
                        w.u8(end_tag::ERRNO);
                        w.i32(errno as i32);
                    }
                }
                return Ok(());
            }
        }
        w.u8(end_tag::COMPLETE);
        Ok(())
    }

    /// Looks one name up below `at` and moves there, with a reference for the client.
    fn step(&self, at: &mut At, root: u32, name: &Name) -> Result<Attr, Errno> {
        let parent = self.fd_of(at)?;
        let known = self.tree.lock().child(at.key, name.bytes());
        if let Some((_, identity)) = known {
            // A file we know: one call tells its attributes and that it is still the same.
            let attr = host::statx(parent.as_fd(), name.c_str())?;
            if Identity::from(&attr) == identity {
                let (key, evicted) = self.tree.lock().add(at.key, name.bytes(), identity, None)?;
                drop(evicted);
                *at = At { key, kind: identity.kind, fd: None };
                return Ok(attr);
            }
        }
        let (fd, attr) = self.look(parent.as_fd(), root, name)?;
        let fd = Arc::new(fd);
        let identity = Identity::from(&attr);
        let (key, evicted) = self.tree.lock().add(at.key, name.bytes(), identity, Some(Arc::clone(&fd)))?;
        drop(evicted);
        *at = At { key, kind: identity.kind, fd: Some(fd) };
        Ok(attr)
    }

    fn fd_of(&self, at: &At) -> Result<Arc<OwnedFd>, Errno> {
        match &at.fd {
            Some(fd) => Ok(Arc::clone(fd)),
            None => {
                let known = self.tree.lock().get(at.key)?.fd;
                known.map_or_else(|| self.reopen(at.key), Ok)
            }
        }
    }

    /// Opens a regular file for the client to read and write by itself.
    pub(super) fn open(&self, id: NodeId, flags: u32) -> Result<OwnedFd, Errno> {
        let node = self.node(id)?;
        match node.kind {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::EISDIR),
            libc::S_IFLNK => return Err(Errno::ELOOP),
            // FIFOs and sockets belong to the sentry's kernel, devices of the host to nobody.
            _ => return Err(Errno::ENXIO),
        }
        let flags = open_flags(flags)?;
        if flags.intersects(OFlag::O_TRUNC) || flags & OFlag::O_ACCMODE != OFlag::O_RDONLY {
            self.writable(&node)?;
        }
        self.open_again(node.fd(), flags | OFlag::O_NOCTTY)
    }

    pub(super) fn close(&self, nodes: Nodes<'_>) {
        self.forget_streams(nodes.iter().map(Key::from_id));
        self.release(nodes.iter().map(Key::from_id));
    }

    pub(super) fn release(&self, keys: impl Iterator<Item = Key>) {
        let mut closed = Vec::new();
        {
            let mut tree = self.tree.lock();
            keys.for_each(|key| tree.close(key, &mut closed));
        }
        // Outside of the lock: the last close of a deleted file may take its time.
        drop(closed);
    }
}

/// Where a walk has come to.
struct At {
    key: Key,
    kind: u32,
    fd: Option<Arc<OwnedFd>>,
}

/// Checks flags from a client against the allow-list.
pub(super) fn open_flags(flags: u32) -> Result<OFlag, Errno> {
    let flags = i32::try_from(flags).ok().and_then(OFlag::from_bits).ok_or(Errno::EINVAL)?;
    let access = flags & OFlag::O_ACCMODE;
    if access == OFlag::O_ACCMODE || !OPEN_FLAGS.contains(flags.difference(OFlag::O_ACCMODE)) {
        return Err(Errno::EINVAL);
    }
    Ok(flags)
}

/// The target of the symbolic link an `O_PATH` descriptor names.
pub(super) fn read_link(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let target = readlinkat(fd.as_fd(), c"")?.into_vec();
    if target.len() > PATH_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(target) }
}
