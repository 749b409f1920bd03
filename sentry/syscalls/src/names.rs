//! Changes of names: mkdir, mknod, symlink, link, unlink, rename; and readlink (fs/namei.c).

use crate::args::{at_start, at_target};
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_DAC_READ_SEARCH;
use chitin_abi::fcntl::*;
use chitin_abi::limits::PATH_MAX;
use chitin_abi::stat::S_IFMT;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::{Context, FileKind, Inode, LinkTarget, NewKind, Path};
use std::sync::Arc;

/// A path argument: its text, who walks, and where from.
fn prepare(task: &Task, dirfd: i32, path: u64) -> Result<(Context, Path, Vec<u8>), Errno> {
    let path = task.mm().read_path(path)?;
    let ctx = task.context();
    let start = at_start(task, &ctx, dirfd, &path)?.into_owned();
    Ok((ctx, start, path))
}

fn make(task: &Task, dirfd: i32, path: u64, kind: NewKind, perm: u32) -> Result<(), Errno> {
    let (ctx, start, path) = prepare(task, dirfd, path)?;
    ctx.make(&start, &path, kind, perm).map(|_| ())
}

pub(crate) fn mkdir(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make(task, AT_FDCWD, args.u64(0), NewKind::Directory, args.u32(1)))
}

pub(crate) fn mkdirat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make(task, args.i32(0), args.u64(1), NewKind::Directory, args.u32(2)))
}

/// may_mknod(): EPERM for directories, EINVAL for what no node can be.
fn node_kind(mode: u32, rdev: u32) -> Result<NewKind, Errno> {
    if mode & S_IFMT == 0 {
        return Ok(NewKind::Regular);
    }
    let kind = FileKind::from_mode(mode).ok_or(Errno::EINVAL)?;
    Ok(match kind {
        FileKind::Regular => NewKind::Regular,
        FileKind::Fifo => NewKind::Fifo,
        FileKind::Socket => NewKind::Socket,
        FileKind::CharDevice | FileKind::BlockDevice => NewKind::Device { rdev: u64::from(rdev), kind },
        FileKind::Directory => return Err(Errno::EPERM),
        FileKind::Symlink => return Err(Errno::EINVAL),
    })
}

fn make_node(task: &Task, dirfd: i32, path: u64, mode: u32, rdev: u32) -> Result<(), Errno> {
    make(task, dirfd, path, node_kind(mode, rdev)?, mode & !S_IFMT)
}

pub(crate) fn mknod(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_node(task, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2)))
}

pub(crate) fn mknodat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_node(task, args.i32(0), args.u64(1), args.u32(2), args.u32(3)))
}

fn make_symlink(task: &Task, text: u64, dirfd: i32, path: u64) -> Result<(), Errno> {
    let text = task.mm().read_path(text)?;
    if text.is_empty() {
        return Err(Errno::ENOENT);
    }
    make(task, dirfd, path, NewKind::Symlink(text), 0o777)
}

pub(crate) fn symlink(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_symlink(task, args.u64(0), AT_FDCWD, args.u64(1)))
}

pub(crate) fn symlinkat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_symlink(task, args.u64(0), args.i32(1), args.u64(2)))
}

fn make_link(task: &Task, old: (i32, u64), new: (i32, u64), flags: u32) -> Result<(), Errno> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let old_path = task.mm().read_path(old.1)?;
    let (ctx, start, path) = prepare(task, new.0, new.1)?;
    let empty = flags & AT_EMPTY_PATH != 0;
    if empty && old_path.is_empty() && !ctx.creds().capable(CAP_DAC_READ_SEARCH) {
        return Err(Errno::ENOENT);
    }
    let old = at_target(task, &ctx, old.0, &old_path, flags & AT_SYMLINK_FOLLOW != 0, empty)?;
    ctx.link(&old, &start, &path)
}

pub(crate) fn link(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_link(task, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0))
}

pub(crate) fn linkat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_link(task, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4)))
}

fn remove(task: &Task, dirfd: i32, path: u64, dir: bool) -> Result<(), Errno> {
    let (ctx, start, path) = prepare(task, dirfd, path)?;
    if dir { ctx.rmdir(&start, &path) } else { ctx.unlink(&start, &path) }
}

pub(crate) fn rmdir(task: &Arc<Task>, args: Args) -> Outcome {
    unit(remove(task, AT_FDCWD, args.u64(0), true))
}

pub(crate) fn unlink(task: &Arc<Task>, args: Args) -> Outcome {
    unit(remove(task, AT_FDCWD, args.u64(0), false))
}

pub(crate) fn unlinkat(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(2);
    if flags & !AT_REMOVEDIR != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    unit(remove(task, args.i32(0), args.u64(1), flags & AT_REMOVEDIR != 0))
}

fn rename_at(task: &Task, old: (i32, u64), new: (i32, u64), flags: u32) -> Result<(), Errno> {
    let known = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
    let alone = flags & RENAME_EXCHANGE != 0 && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) != 0;
    if flags & !known != 0 || alone {
        return Err(Errno::EINVAL);
    }
    let (ctx, old_start, old_path) = prepare(task, old.0, old.1)?;
    let new_path = task.mm().read_path(new.1)?;
    let new_start = at_start(task, &ctx, new.0, &new_path)?;
    ctx.rename(&old_start, &old_path, &new_start, &new_path, flags)
}

pub(crate) fn rename(task: &Arc<Task>, args: Args) -> Outcome {
    unit(rename_at(task, (AT_FDCWD, args.u64(0)), (AT_FDCWD, args.u64(1)), 0))
}

pub(crate) fn renameat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(rename_at(task, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), 0))
}

pub(crate) fn renameat2(task: &Arc<Task>, args: Args) -> Outcome {
    unit(rename_at(task, (args.i32(0), args.u64(1)), (args.i32(2), args.u64(3)), args.u32(4)))
}

fn link_text(task: &Task, args: Args, dirfd: i32, path: u64, first: usize) -> Result<u64, Errno> {
    let size = usize::try_from(args.i32(first + 1)).ok().filter(|&size| size > 0).ok_or(Errno::EINVAL)?;
    let mm = task.mm();
    let path = mm.read_path(path)?;
    let ctx = task.context();
    // An empty path is the link that an O_PATH descriptor names.
    let target = at_target(task, &ctx, dirfd, &path, false, dirfd != AT_FDCWD)?;
    let inode: &Arc<dyn Inode> = target.inode();
    if inode.kind() != FileKind::Symlink {
        return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    inode.permission(&ctx.caller, 0)?;
    let text = match inode.link_text(&ctx.caller) {
        // A magic link without a text of its own shows the path as this caller sees it.
        Err(Errno::EINVAL) => match inode.link_target(&ctx.caller)? {
            LinkTarget::Text(text) => text,
            LinkTarget::Magic(path) => ctx.text(&path),
            LinkTarget::File(file) => file.anon_text(),
        },
        text => text?,
    };
    let count = text.len().min(size).min(PATH_MAX);
    mm.write_bytes(args.u64(first), text.get(..count).unwrap_or_default())?;
    Ok(count as u64)
}

pub(crate) fn readlink(task: &Arc<Task>, args: Args) -> Outcome {
    done(link_text(task, args, AT_FDCWD, args.u64(0), 1))
}

pub(crate) fn readlinkat(task: &Arc<Task>, args: Args) -> Outcome {
    done(link_text(task, args, args.i32(0), args.u64(1), 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_abi::stat::*;

    #[test]
    fn what_mknod_makes() {
        assert!(matches!(node_kind(0o644, 0), Ok(NewKind::Regular)));
        assert!(matches!(node_kind(S_IFSOCK, 0), Ok(NewKind::Socket)));
        assert!(matches!(node_kind(S_IFIFO | 0o600, 9), Ok(NewKind::Fifo)));
        let device = node_kind(S_IFCHR, 0x103);
        assert!(matches!(device, Ok(NewKind::Device { rdev: 0x103, kind: FileKind::CharDevice })));
        assert_eq!(node_kind(S_IFDIR, 0).err(), Some(Errno::EPERM));
        assert_eq!(node_kind(S_IFLNK, 0).err(), Some(Errno::EINVAL));
        assert_eq!(node_kind(S_IFMT, 0).err(), Some(Errno::EINVAL));
    }
}
