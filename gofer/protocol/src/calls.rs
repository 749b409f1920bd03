//! The calls of [`Client`], one per request.
//!
//! All block until the gofer has answered. Errors are the host's errnos for the operation; besides,
//! `EBADF`: not a node; `ESTALE`: the file was moved or replaced behind the gofer's back (or was deleted
//! long ago), walk again; `EROFS`: the root is read-only; `EINVAL`: a name or flag that is never valid.
//!
//! The client orders its own operations: a walk to a name that runs concurrently with a rename or
//! unlink of that name may yield a node that turns stale.

use std::os::fd::OwnedFd;

use crate::attr::{Attr, SetAttr, StatFs};
use crate::client::{Client, no_fd};
use crate::error::Result;
use crate::reply::{DirEntries, NodeAttr, Walk};
use crate::request::{Names, Request};
use crate::wire::Malformed;
use crate::{NodeId, PATH_MAX, XATTR_MAX};

impl Client {
    /// A node for root number `root`, in the order of the gofer's configuration. `ENOENT`: no such root.
    pub fn attach(&self, root: u32) -> Result<NodeAttr> {
        self.call(&Request::Attach { root }, no_fd(NodeAttr::decode))
    }

    /// Looks up to [`crate::WALK_MAX`] names up, one below the other. Symbolic links are not followed:
    /// the walk ends there and tells the target. `.`, `..` and empty names are refused (`EINVAL`).
    pub fn walk(&self, node: NodeId, names: &[&[u8]]) -> Result<Walk> {
        self.call(&Request::Walk { node, names: Names::List(names) }, no_fd(|r| Walk::decode(r, names.len())))
    }

    /// Opens a regular file: `flags` are an access mode and possibly `O_TRUNC`, `O_SYNC`, `O_DSYNC`,
    /// `O_DIRECT`, `O_NOATIME`. `EISDIR`, `ELOOP` for directories and links, `ENXIO` for everything else.
    pub fn open(&self, node: NodeId, flags: u32) -> Result<OwnedFd> {
        self.call(&Request::Open { node, flags }, |_, fd| fd.ok_or(Malformed("an open without a descriptor")))
    }

    /// Creates a regular file that must not exist and opens it with `flags` (as in [`Client::open`]).
    pub fn create(
        &self,
        parent: NodeId,
        name: &[u8],
        flags: u32,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<(NodeAttr, OwnedFd)> {
        self.call(&Request::Create { parent, name, flags, mode, uid, gid }, |r, fd| {
            Ok((NodeAttr::decode(r)?, fd.ok_or(Malformed("a create without a descriptor"))?))
        })
    }

    pub fn mkdir(&self, parent: NodeId, name: &[u8], mode: u32, uid: u32, gid: u32) -> Result<NodeAttr> {
        self.call(&Request::Mkdir { parent, name, mode, uid, gid }, no_fd(NodeAttr::decode))
    }

    pub fn symlink(
        &self,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
        uid: u32,
        gid: u32,
    ) -> Result<NodeAttr> {
        self.call(&Request::Symlink { parent, name, target, uid, gid }, no_fd(NodeAttr::decode))
    }

    /// Makes a FIFO, a socket node, an empty regular file, or an overlay whiteout (character device
    /// 0:0). Other devices: `EPERM`.
    pub fn mknod(
        &self,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        rdev: u64,
        uid: u32,
        gid: u32,
    ) -> Result<NodeAttr> {
        self.call(&Request::Mknod { parent, name, mode, rdev, uid, gid }, no_fd(NodeAttr::decode))
    }

    /// Makes `parent`/`name` a further name of `node`; returns a node for that name.
    pub fn link(&self, node: NodeId, parent: NodeId, name: &[u8]) -> Result<NodeAttr> {
        self.call(&Request::Link { node, parent, name }, no_fd(NodeAttr::decode))
    }

    /// Renames; `flags` are 0, `RENAME_NOREPLACE` or `RENAME_EXCHANGE`. Nodes below go along.
    pub fn rename(
        &self,
        from: NodeId,
        from_name: &[u8],
        to: NodeId,
        to_name: &[u8],
        flags: u32,
    ) -> Result<()> {
        self.call(&Request::Rename { from, from_name, to, to_name, flags }, no_fd(|_| Ok(())))
    }

    /// Removes a name; `flags` are 0 or `AT_REMOVEDIR`. Nodes of the removed file stay usable while the
    /// gofer can keep them open, which it does for the thousand or so last removed.
    pub fn unlink(&self, parent: NodeId, name: &[u8], flags: u32) -> Result<()> {
        self.call(&Request::Unlink { parent, name, flags }, no_fd(|_| Ok(())))
    }

    /// Changes attributes and returns the new ones.
    pub fn setattr(&self, node: NodeId, attr: SetAttr) -> Result<Attr> {
        self.call(&Request::SetAttr { node, attr }, no_fd(Attr::decode))
    }

    pub fn getattr(&self, node: NodeId) -> Result<Attr> {
        self.call(&Request::GetAttr { node }, no_fd(Attr::decode))
    }

    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        self.call(&Request::ReadLink { node }, no_fd(|r| Ok(r.bytes(PATH_MAX)?.to_vec())))
    }

    pub fn statfs(&self, node: NodeId) -> Result<StatFs> {
        self.call(&Request::StatFs { node }, no_fd(StatFs::decode))
    }

    /// The value of an extended attribute. `trusted.*` is refused (`EPERM`), `system.*` other than
    /// ACLs and `security.*` other than capabilities do not exist (`EOPNOTSUPP`).
    pub fn getxattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        self.call(&Request::GetXattr { node, name }, no_fd(|r| Ok(r.bytes(XATTR_MAX)?.to_vec())))
    }

    /// Sets one; `flags` are 0, `XATTR_CREATE` or `XATTR_REPLACE`.
    pub fn setxattr(&self, node: NodeId, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.call(&Request::SetXattr { node, name, value, flags }, no_fd(|_| Ok(())))
    }

    /// Names of the extended attributes that [`Client::getxattr`] would answer for, each ending in NUL.
    pub fn listxattr(&self, node: NodeId) -> Result<Vec<u8>> {
        self.call(&Request::ListXattr { node }, no_fd(|r| Ok(r.bytes(XATTR_MAX)?.to_vec())))
    }

    pub fn removexattr(&self, node: NodeId, name: &[u8]) -> Result<()> {
        self.call(&Request::RemoveXattr { node, name }, no_fd(|_| Ok(())))
    }

    /// The directory's entries from `cookie` (0, or [`crate::DirEntry::next`]) on, as many as one packet
    /// holds; with `attrs`, each with its attributes. Empty: the end.
    pub fn readdir(&self, node: NodeId, cookie: u64, attrs: bool) -> Result<DirEntries> {
        self.call(&Request::ReadDir { node, cookie, attrs }, no_fd(DirEntries::decode))
    }

    /// Flushes a regular file or directory to the host's disk.
    pub fn fsync(&self, node: NodeId, data_only: bool) -> Result<()> {
        self.call(&Request::Fsync { node, data_only }, no_fd(|_| Ok(())))
    }

    /// Binds an AF_UNIX socket of the host at a name: not supported, `EOPNOTSUPP`.
    pub fn bind(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        self.call(&Request::Bind { parent, name }, no_fd(|_| Ok(())))
    }

    /// Connects to an AF_UNIX socket of the host: not supported, `EOPNOTSUPP`.
    pub fn connect(&self, node: NodeId) -> Result<()> {
        self.call(&Request::Connect { node }, no_fd(|_| Ok(())))
    }
}
