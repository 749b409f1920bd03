//! Attributes, symbolic link targets, filesystem statistics, fsync.

use std::os::fd::AsFd;

use chitin_gofer_protocol::{Attr, NodeId, SetAttr, StatFs, TimeSet};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::statfs::fstatfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, fdatasync, fsync, ftruncate};

use super::walk::read_link;
use crate::host;
use crate::resolve::{Node, number};
use crate::server::Server;

impl Server {
    pub(super) fn getattr(&self, id: NodeId) -> Result<Attr, Errno> {
        host::statx(self.node(id)?.fd(), c"")
    }

    pub(super) fn setattr(&self, id: NodeId, change: &SetAttr) -> Result<Attr, Errno> {
        let node = self.node(id)?;
        self.writable(&node)?;
        if change.uid.is_some() || change.gid.is_some() {
            let uid = change.uid.map(Uid::from_raw);
            let gid = change.gid.map(Gid::from_raw);
            fchownat(node.fd(), c"", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            self.set_mode(&node, Mode::from_bits_truncate(mode & 0o7777))?;
        }
        if let Some(size) = change.size {
            self.set_size(&node, size)?;
        }
        if change.atime != TimeSet::Omit || change.mtime != TimeSet::Omit {
            // The descriptor directory leads to the file itself, be it a symbolic link.
            let path = number(node.fd());
            utimensat(
                &self.own_fds,
                path.as_c_str(),
                &time(change.atime)?,
                &time(change.mtime)?,
                UtimensatFlags::FollowSymlink,
            )?;
        }
        host::statx(node.fd(), c"")
    }

    fn set_mode(&self, node: &Node, mode: Mode) -> Result<(), Errno> {
        if node.kind == libc::S_IFLNK {
            return Err(Errno::EOPNOTSUPP);
        }
        let path = number(node.fd());
        fchmodat(&self.own_fds, path.as_c_str(), mode, FchmodatFlags::FollowSymlink)
    }

    fn set_size(&self, node: &Node, size: u64) -> Result<(), Errno> {
        match node.kind {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
        let file = self.open_again(node.fd(), OFlag::O_WRONLY)?;
        ftruncate(&file, size)
    }

    pub(super) fn readlink(&self, id: NodeId) -> Result<Vec<u8>, Errno> {
        let node = self.node(id)?;
        if node.kind != libc::S_IFLNK {
            return Err(Errno::EINVAL);
        }
        read_link(&node.fd)
    }

    pub(super) fn statfs(&self, id: NodeId) -> Result<StatFs, Errno> {
        let node = self.node(id)?;
        let stat = fstatfs(node.fd())?;
        let bsize = u64::try_from(stat.block_size()).unwrap_or(4096);
        Ok(StatFs {
            fstype: u64::try_from(stat.filesystem_type().0).unwrap_or(0),
            bsize,
            blocks: stat.blocks(),
            bfree: stat.blocks_free(),
            bavail: stat.blocks_available(),
            files: stat.files(),
            ffree: stat.files_free(),
            namelen: u64::try_from(stat.maximum_name_length()).unwrap_or(255),
            frsize: bsize,
            flags: stat.flags().bits(),
        })
    }

    pub(super) fn fsync(&self, id: NodeId, data_only: bool) -> Result<(), Errno> {
        let node = self.node(id)?;
        let how = match node.kind {
            libc::S_IFREG => OFlag::O_RDONLY,
            libc::S_IFDIR => OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            _ => return Err(Errno::EINVAL),
        };
        let file = self.open_again(node.fd(), how)?;
        if data_only { fdatasync(file.as_fd()) } else { fsync(file.as_fd()) }
    }
}

fn time(set: TimeSet) -> Result<TimeSpec, Errno> {
    Ok(match set {
        TimeSet::Omit => TimeSpec::UTIME_OMIT,
        TimeSet::Now => TimeSpec::UTIME_NOW,
        TimeSet::At(at) => TimeSpec::new(at.sec, i64::from(at.nsec)),
    })
}
