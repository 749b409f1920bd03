//! Making files: create, mkdir, symlink, mknod, link.
//!
//! A file is made first and given its owner afterwards; if that fails it is removed again. Between the
//! two, it belongs to the gofer, so nobody else on the host gains access by it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use chitin_gofer_protocol::{Attr, NodeAttr, NodeId};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::walk::open_flags;
use crate::host;
use crate::resolve::{Name, Node, number};
use crate::server::Server;
use crate::tree::Identity;

/// Owner and group; `u32::MAX` leaves what the host gives.
type Owner = (u32, u32);

impl Server {
    pub(super) fn create(
        &self,
        parent: NodeId,
        name: &[u8],
        flags: u32,
        mode: u32,
        owner: Owner,
    ) -> Result<(NodeAttr, OwnedFd), Errno> {
        let name = Name::check(name)?;
        let flags = open_flags(flags)?.difference(OFlag::O_TRUNC);
        let mode = permissions(mode);
        let parent = self.writable_dir(parent)?;
        let how = self
            .beneath(parent.root)
            .flags(flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .mode(mode);
        let file = self.with_room(|| openat2(parent.fd(), name.c_str(), how))?;
        let attr = self.finish_file(&file, mode, owner).and_then(|attr| {
            let node = self.enter(&parent, &name, &attr, None)?;
            Ok(NodeAttr { node, attr })
        });
        match attr {
            Ok(created) => Ok((created, file)),
            Err(errno) => {
                remove(&parent, &name, UnlinkatFlags::NoRemoveDir);
                Err(errno)
            }
        }
    }

    fn finish_file(&self, file: &OwnedFd, mode: Mode, owner: Owner) -> Result<Attr, Errno> {
        let attr = host::statx(file.as_fd(), c"")?;
        let mut changed = give(file.as_fd(), &attr, owner)?;
        // Changing the owner clears the set-id bits.
        if special(mode) != 0 && (changed || special(mode) & !attr.mode != 0) {
            fchmod(file, mode)?;
            changed = true;
        }
        if changed { host::statx(file.as_fd(), c"") } else { Ok(attr) }
    }

    pub(super) fn mkdir(
        &self,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        owner: Owner,
    ) -> Result<NodeAttr, Errno> {
        let name = Name::check(name)?;
        let mode = permissions(mode);
        let parent = self.writable_dir(parent)?;
        mkdirat(parent.fd(), name.c_str(), mode)?;
        self.adopt(&parent, &name, libc::S_IFDIR, Some(mode), owner)
    }

    pub(super) fn symlink(
        &self,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<NodeAttr, Errno> {
        let name = Name::check(name)?;
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let parent = self.writable_dir(parent)?;
        symlinkat(target, parent.fd(), name.c_str())?;
        self.adopt(&parent, &name, libc::S_IFLNK, None, owner)
    }

    pub(super) fn mknod(
        &self,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        rdev: u64,
        owner: Owner,
    ) -> Result<NodeAttr, Errno> {
        let name = Name::check(name)?;
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => SFlag::S_IFIFO,
            libc::S_IFSOCK => SFlag::S_IFSOCK,
            libc::S_IFREG | 0 => SFlag::S_IFREG,
            // The whiteout of an overlay, which nothing can be opened through.
            libc::S_IFCHR if rdev == 0 => SFlag::S_IFCHR,
            libc::S_IFCHR | libc::S_IFBLK => return Err(Errno::EPERM),
            _ => return Err(Errno::EINVAL),
        };
        let permissions = permissions(mode);
        let parent = self.writable_dir(parent)?;
        mknodat(parent.fd(), name.c_str(), kind, permissions, 0)?;
        self.adopt(&parent, &name, kind.bits(), Some(permissions), owner)
    }

    pub(super) fn link(&self, id: NodeId, parent: NodeId, name: &[u8]) -> Result<NodeAttr, Errno> {
        let name = Name::check(name)?;
        let node = self.node(id)?;
        let parent = self.writable_dir(parent)?;
        if node.root != parent.root {
            return Err(Errno::EXDEV);
        }
        if node.kind == libc::S_IFDIR {
            return Err(Errno::EPERM);
        }
        // Through the descriptor directory: needs no capability, unlike AT_EMPTY_PATH.
        let from = number(node.fd());
        linkat(&self.own_fds, from.as_c_str(), parent.fd(), name.c_str(), AtFlags::AT_SYMLINK_FOLLOW)?;
        let attr = host::statx(node.fd(), c"")?;
        let node = self.enter(&parent, &name, &attr, None)?;
        Ok(NodeAttr { node, attr })
    }

    /// Gives what was just made its owner and mode, and makes it a node.
    fn adopt(
        &self,
        parent: &Node,
        name: &Name,
        kind: u32,
        mode: Option<Mode>,
        owner: Owner,
    ) -> Result<NodeAttr, Errno> {
        let (fd, attr) = self.look(parent.fd(), parent.root, name)?;
        if attr.file_type() != kind {
            // Somebody on the host has put something else there; it is not ours to change.
            return Err(Errno::ESTALE);
        }
        let outcome = self.finish_node(&fd, attr, mode, owner).and_then(|attr| {
            let node = self.enter(parent, name, &attr, Some(fd))?;
            Ok(NodeAttr { node, attr })
        });
        outcome.inspect_err(|_| {
            let how =
                if kind == libc::S_IFDIR { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
            remove(parent, name, how);
        })
    }

    fn finish_node(&self, fd: &OwnedFd, attr: Attr, mode: Option<Mode>, owner: Owner) -> Result<Attr, Errno> {
        let mut changed = give(fd.as_fd(), &attr, owner)?;
        if let Some(mode) = mode.filter(|mode| special(*mode) != 0)
            && (changed || special(mode) & !attr.mode != 0)
        {
            // mkdir ignores the set-id bits, and changing the owner clears them.
            let path = number(fd.as_fd());
            fchmodat(&self.own_fds, path.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
            changed = true;
        }
        if changed { host::statx(fd.as_fd(), c"") } else { Ok(attr) }
    }

    /// Makes a node of what lies at a place.
    fn enter(&self, parent: &Node, name: &Name, attr: &Attr, fd: Option<OwnedFd>) -> Result<NodeId, Errno> {
        let fd = fd.map(std::sync::Arc::new);
        let (key, evicted) = self.tree.lock().add(parent.key, name.bytes(), Identity::from(attr), fd)?;
        drop(evicted);
        Ok(key.id())
    }
}

/// Sets the owner if it is not yet right; tells whether it had to.
fn give(fd: BorrowedFd<'_>, attr: &Attr, (uid, gid): Owner) -> Result<bool, Errno> {
    let uid = (uid != u32::MAX && uid != attr.uid).then(|| Uid::from_raw(uid));
    let gid = (gid != u32::MAX && gid != attr.gid).then(|| Gid::from_raw(gid));
    if uid.is_none() && gid.is_none() {
        return Ok(false);
    }
    fchownat(fd, c"", uid, gid, AtFlags::AT_EMPTY_PATH).map_err(|errno| match errno {
        // An id without a mapping; creating a file with one fails with this in a user namespace.
        Errno::EINVAL => Errno::EOVERFLOW,
        other => other,
    })?;
    Ok(true)
}

/// Takes back what was made when it could not be finished.
fn remove(parent: &Node, name: &Name, how: UnlinkatFlags) {
    if let Err(errno) = unlinkat(parent.fd(), name.c_str(), how) {
        tracing::warn!(%errno, "a file whose creation failed half-way could not be removed again");
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

/// The set-id bits of a mode; they need setting again after the owner has changed.
fn special(mode: Mode) -> u32 {
    mode.bits() & (libc::S_ISUID | libc::S_ISGID)
}
