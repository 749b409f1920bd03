//! stat, statx, access (fs/stat.c, fs/open.c); [`fs`] has statfs, [`dirents`] getdents.

mod dirents;
mod fs;

pub(crate) use dirents::{getdents, getdents64};
pub(crate) use fs::{fstatfs, statfs, ustat};

use crate::args::at_target;
use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::num::low16;
use chitin_abi::stat::*;
use chitin_abi::time::Timespec;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::walk::Target;
use chitin_vfs::{Attr, Caps, Context, Creds, Inode, UserNs};
use std::sync::Arc;

/// SECBIT_NO_SETUID_FIXUP
const NO_SETUID_FIXUP: u32 = 1 << 2;

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What an inode's mode looks like: anonymous inodes have no type.
fn mode(inode: &dyn Inode, attr: &Attr) -> u32 {
    if inode.is_untyped() { attr.perm } else { attr.mode() }
}

/// Attributes as who is in `ns` sees them.
fn seen(inode: &dyn Inode, ns: &UserNs) -> Result<Attr, Errno> {
    let mut attr = inode.attr()?;
    if !ns.is_initial() {
        (attr.uid, attr.gid) = (ns.show_uid(attr.uid), ns.show_gid(attr.gid));
    }
    Ok(attr)
}

/// struct stat of an inode.
fn stat_of(inode: &dyn Inode, ns: &UserNs) -> Result<Stat, Errno> {
    let attr = seen(inode, ns)?;
    Ok(Stat { st_mode: mode(inode, &attr), ..stat_from(&attr) })
}

/// struct statx of an inode, without what belongs to the mount.
fn statx_of(inode: &dyn Inode, ns: &UserNs) -> Result<Statx, Errno> {
    let attr = seen(inode, ns)?;
    Ok(Statx { stx_mode: low16(mode(inode, &attr)), ..statx_from(&attr) })
}

fn stat_from(attr: &Attr) -> Stat {
    Stat {
        st_dev: attr.dev,
        st_ino: attr.ino,
        st_nlink: u64::from(attr.nlink),
        st_mode: attr.mode(),
        st_uid: attr.uid,
        st_gid: attr.gid,
        st_rdev: attr.rdev,
        st_size: to_i64(attr.size),
        st_blksize: i64::from(attr.blksize),
        st_blocks: to_i64(attr.blocks),
        st_atime: attr.atime.tv_sec,
        st_atime_nsec: attr.atime.tv_nsec,
        st_mtime: attr.mtime.tv_sec,
        st_mtime_nsec: attr.mtime.tv_nsec,
        st_ctime: attr.ctime.tv_sec,
        st_ctime_nsec: attr.ctime.tv_nsec,
        ..Stat::default()
    }
}

fn stamp(time: Timespec) -> StatxTimestamp {
    let tv_nsec = u32::try_from(time.tv_nsec).unwrap_or(0);
    StatxTimestamp { tv_sec: time.tv_sec, tv_nsec, __reserved: 0 }
}

fn statx_from(attr: &Attr) -> Statx {
    let has_btime = attr.btime != Timespec::default();
    Statx {
        stx_mask: STATX_BASIC_STATS | if has_btime { STATX_BTIME } else { 0 },
        stx_blksize: attr.blksize,
        stx_nlink: attr.nlink,
        stx_uid: attr.uid,
        stx_gid: attr.gid,
        stx_mode: low16(attr.mode()),
        stx_ino: attr.ino,
        stx_size: attr.size,
        stx_blocks: attr.blocks,
        stx_attributes_mask: STATX_ATTR_AUTOMOUNT | STATX_ATTR_DAX | STATX_ATTR_MOUNT_ROOT,
        stx_atime: stamp(attr.atime),
        stx_btime: stamp(attr.btime),
        stx_ctime: stamp(attr.ctime),
        stx_mtime: stamp(attr.mtime),
        stx_rdev_major: major(attr.rdev),
        stx_rdev_minor: minor(attr.rdev),
        stx_dev_major: major(attr.dev),
        stx_dev_minor: minor(attr.dev),
        ..Statx::default()
    }
}

pub(crate) fn fstat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(stat_open(task, args.i32(0), args.u64(1)))
}

fn stat_open(task: &Task, fd: i32, out: u64) -> Result<(), Errno> {
    let stat = stat_of(&**task.file(fd)?.inode(), &task.creds().user_ns)?;
    task.own_mm().write(out, &stat)
}

fn stat_path(task: &Task, dirfd: i32, path: u64, out: u64, follow: bool) -> Result<(), Errno> {
    let path = task.own_mm().read_path(path)?;
    let ctx = task.context();
    let target = at_target(task, &ctx, dirfd, &path, follow, false)?;
    let stat = stat_of(&**target.inode(), &ctx.creds().user_ns)?;
    task.own_mm().write(out, &stat)
}

pub(crate) fn stat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(stat_path(task, AT_FDCWD, args.u64(0), args.u64(1), true))
}

pub(crate) fn lstat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(stat_path(task, AT_FDCWD, args.u64(0), args.u64(1), false))
}

/// Whether the path is a null pointer or empty (vfs_empty_path()).
fn is_empty(task: &Task, path: u64) -> Result<bool, Errno> {
    Ok(path == 0 || task.own_mm().read::<u8>(path)? == 0)
}

/// What the stat calls with AT_* flags name.
fn stat_target(task: &Task, dirfd: i32, path: u64, flags: u32) -> Result<Target, Errno> {
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let empty = flags & AT_EMPTY_PATH != 0 && is_empty(task, path)?;
    let path = if empty { Vec::new() } else { task.own_mm().read_path(path)? };
    at_target(task, &task.context(), dirfd, &path, follow, empty)
}

pub(crate) fn newfstatat(task: &Arc<Task>, args: Args) -> Outcome {
    let (dirfd, path, out, flags) = (args.i32(0), args.u64(1), args.u64(2), args.u32(3));
    unit((|| {
        // fstat in the C library's disguise: no walk, no context.
        if flags == AT_EMPTY_PATH && dirfd >= 0 && is_empty(task, path)? {
            return stat_open(task, dirfd, out);
        }
        let target = stat_target(task, dirfd, path, flags)?;
        let stat = stat_of(&**target.inode(), &task.creds().user_ns)?;
        task.own_mm().write(out, &stat)
    })())
}

pub(crate) fn statx(task: &Arc<Task>, args: Args) -> Outcome {
    let (flags, mask) = (args.u32(2), args.u32(3));
    unit((|| {
        if mask & STATX__RESERVED != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
            return Err(Errno::EINVAL);
        }
        let target = stat_target(task, args.i32(0), args.u64(1), flags)?;
        let mut out = statx_of(&**target.inode(), &task.creds().user_ns)?;
        if let Target::Path(path) = &target {
            out.stx_mnt_id = path.mount.id();
            out.stx_mask |= if mask & STATX_MNT_ID_UNIQUE != 0 { STATX_MNT_ID_UNIQUE } else { STATX_MNT_ID };
            if path.is_mount_root() {
                out.stx_attributes |= STATX_ATTR_MOUNT_ROOT;
            }
        }
        task.own_mm().write(args.u64(4), &out)
    })())
}

/// access_override_creds(): the real ids, and the capabilities that go with them.
fn real_creds(creds: &Creds) -> Creds {
    let mut real = creds.clone();
    real.fsuid = creds.uid;
    real.fsgid = creds.gid;
    if creds.securebits & NO_SETUID_FIXUP == 0 {
        real.effective = if creds.uid == creds.user_ns.root_uid() { creds.permitted } else { Caps::EMPTY };
    }
    real
}

fn access_at(task: &Task, dirfd: i32, path: u64, mode: u32, flags: u32) -> Result<(), Errno> {
    if mode & !(R_OK | W_OK | X_OK) != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = task.own_mm().read_path(path)?;
    let mut ctx: Context = task.context();
    let creds = ctx.creds().clone();
    if flags & AT_EACCESS == 0 && (creds.fsuid != creds.uid || creds.fsgid != creds.gid || creds.uid != 0) {
        ctx.caller.creds = Arc::new(real_creds(&creds));
    }
    let (follow, empty) = (flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0);
    let target = at_target(task, &ctx, dirfd, &path, follow, empty)?;
    ctx.access(&target, mode, ctx.creds())
}

pub(crate) fn access(task: &Arc<Task>, args: Args) -> Outcome {
    unit(access_at(task, AT_FDCWD, args.u64(0), args.u32(1), 0))
}

pub(crate) fn faccessat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(access_at(task, args.i32(0), args.u64(1), args.u32(2), 0))
}

pub(crate) fn faccessat2(task: &Arc<Task>, args: Args) -> Outcome {
    unit(access_at(task, args.i32(0), args.u64(1), args.u32(2), args.u32(3)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_vfs::FileKind;

    #[test]
    fn attributes_are_shown() {
        let mut attr = Attr::plain(makedev(8, 300), 7, FileKind::CharDevice, 0o620);
        attr.rdev = makedev(136, 5);
        attr.size = u64::MAX;
        let stat = stat_from(&attr);
        assert_eq!((stat.st_mode, stat.st_ino, stat.st_size), (S_IFCHR | 0o620, 7, i64::MAX));
        let statx = statx_from(&attr);
        assert_eq!((statx.stx_dev_major, statx.stx_dev_minor), (8, 300));
        assert_eq!((statx.stx_rdev_major, statx.stx_rdev_minor), (136, 5));
        assert_eq!(statx.stx_mask, STATX_BASIC_STATS);
        attr.btime.tv_sec = 1;
        assert_eq!(statx_from(&attr).stx_mask, STATX_BASIC_STATS | STATX_BTIME);
    }

    #[test]
    fn access_asks_for_the_real_user() {
        let mut creds = Creds::root();
        creds.uid = 1000;
        creds.gid = 1001;
        let real = real_creds(&creds);
        assert_eq!((real.fsuid, real.fsgid, real.effective), (1000, 1001, Caps::EMPTY));
        creds.securebits = NO_SETUID_FIXUP;
        assert_eq!(real_creds(&creds).effective, Caps::ALL);
    }
}
