//! Changes of attributes: modes, owners, sizes, the umask (fs/open.c); [`times`] and [`xattrs`] have files of their own.

mod times;
mod xattrs;

pub(crate) use times::{futimesat, utime, utimensat, utimes};
pub(crate) use xattrs::{
    fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, lgetxattr, listxattr, llistxattr, lremovexattr,
    lsetxattr, removexattr, setxattr,
};

use crate::args::{at_target, fd_file, file_target};
use crate::io::limit_size;
use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::walk::{Target, Walk};
use chitin_vfs::{Context, File, FileKind, turn};
use std::sync::Arc;

/// What a (dirfd, path, AT_*) triple names, of the flags AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH.
fn target(task: &Task, ctx: &Context, dirfd: i32, path: u64, flags: u32) -> Result<Target, Errno> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = task.mm().read_path(path)?;
    at_target(task, ctx, dirfd, &path, flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0)
}

fn change_mode(task: &Task, dirfd: i32, path: u64, mode: u32, flags: u32) -> Result<(), Errno> {
    let ctx = task.context();
    ctx.chmod(&target(task, &ctx, dirfd, path, flags)?, mode)
}

pub(crate) fn chmod(task: &Arc<Task>, args: Args) -> Outcome {
    unit(change_mode(task, AT_FDCWD, args.u64(0), args.u32(1), 0))
}

pub(crate) fn fchmod(task: &Arc<Task>, args: Args) -> Outcome {
    unit(fd_file(task, args.i32(0)).and_then(|file| task.context().chmod(&file_target(&file), args.u32(1))))
}

pub(crate) fn fchmodat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(change_mode(task, args.i32(0), args.u64(1), args.u32(2), 0))
}

pub(crate) fn fchmodat2(task: &Arc<Task>, args: Args) -> Outcome {
    unit(change_mode(task, args.i32(0), args.u64(1), args.u32(2), args.u32(3)))
}

/// -1 leaves an id alone.
fn id(value: u32) -> Option<u32> {
    (value != u32::MAX).then_some(value)
}

/// Changes owners that the caller has named in its own terms: EINVAL for ids that there are not.
fn change_owner_of(ctx: &Context, target: &Target, owner: (u32, u32)) -> Result<(), Errno> {
    let ns = &ctx.creds().user_ns;
    let uid = id(owner.0).map(|uid| ns.kuid(uid).ok_or(Errno::EINVAL)).transpose()?;
    let gid = id(owner.1).map(|gid| ns.kgid(gid).ok_or(Errno::EINVAL)).transpose()?;
    ctx.chown(target, uid, gid)
}

fn change_owner(task: &Task, dirfd: i32, path: u64, owner: (u32, u32), flags: u32) -> Result<(), Errno> {
    let ctx = task.context();
    change_owner_of(&ctx, &target(task, &ctx, dirfd, path, flags)?, owner)
}

pub(crate) fn chown(task: &Arc<Task>, args: Args) -> Outcome {
    unit(change_owner(task, AT_FDCWD, args.u64(0), (args.u32(1), args.u32(2)), 0))
}

pub(crate) fn lchown(task: &Arc<Task>, args: Args) -> Outcome {
    unit(change_owner(task, AT_FDCWD, args.u64(0), (args.u32(1), args.u32(2)), AT_SYMLINK_NOFOLLOW))
}

pub(crate) fn fchown(task: &Arc<Task>, args: Args) -> Outcome {
    unit(
        fd_file(task, args.i32(0)).and_then(|file| {
            change_owner_of(&task.context(), &file_target(&file), (args.u32(1), args.u32(2)))
        }),
    )
}

pub(crate) fn fchownat(task: &Arc<Task>, args: Args) -> Outcome {
    unit(change_owner(task, args.i32(0), args.u64(1), (args.u32(2), args.u32(3)), args.u32(4)))
}

/// inode_newsize_ok(): growing past RLIMIT_FSIZE is EFBIG.
fn allow_size(task: &Arc<Task>, old: u64, new: u64) -> Result<(), Errno> {
    if new > old {
        limit_size(task, new - 1, 1)?;
    }
    Ok(())
}

pub(crate) fn truncate(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let size = u64::try_from(args.i64(1)).map_err(|_| Errno::EINVAL)?;
        let path = task.mm().read_path(args.u64(0))?;
        let ctx = task.context();
        let found = ctx.walk(&ctx.cwd, &path, Walk::FOLLOW)?;
        if found.inode().kind() == FileKind::Regular {
            ctx.may(found.inode(), chitin_vfs::creds::MAY_WRITE)?;
            allow_size(task, found.inode().attr()?.size, size)?;
        }
        ctx.truncate(&found, size)
    })())
}

/// More than this to give back takes the host its time.
const MUCH: u64 = 64 << 20;

pub(crate) fn ftruncate(task: &Arc<Task>, args: Args) -> Outcome {
    (|| {
        let size = u64::try_from(args.i64(1)).map_err(|_| Errno::EINVAL)?;
        let file = fd_file(task, args.i32(0))?;
        if file.inode().kind() != FileKind::Regular || !file.ops().seekable() || !file.writable() {
            return Err(Errno::EINVAL);
        }
        let old = file.inode().attr()?.size;
        allow_size(task, old, size)?;
        let set =
            move |task: &Arc<Task>, file: &File| task.context().set_size(file.inode(), file.path(), size);
        let much = old.saturating_sub(size) > MUCH;
        if let Some(_turn) = file.inode().state().turn().try_take().filter(|_| !much) {
            return Ok(unit(set(task, &file)));
        }
        let (task, target) = (task.clone(), file.clone());
        Ok(Outcome::block(async move {
            let _turn = task.killable(turn::content(target.inode())).await?;
            if much {
                task.may_wait().await;
            }
            set(&task, &target)?;
            Ok(0)
        }))
    })()
    .unwrap_or_else(Outcome::error)
}

pub(crate) fn umask(task: &Arc<Task>, args: Args) -> Outcome {
    Outcome::value(u64::from(task.fs().set_umask(args.u32(0))))
}
