//! Extended attributes (fs/xattr.c).

use crate::args::{at_target, fd_file, file_target};
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::{AT_FDCWD, XATTR_CREATE, XATTR_REPLACE};
use chitin_abi::limits::XATTR_NAME_MAX;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::Context;
use chitin_vfs::ops::{XATTR_LIST_MAX, XATTR_SIZE_MAX};
use chitin_vfs::walk::Target;
use std::sync::Arc;

/// How the first argument names the file.
#[derive(Clone, Copy)]
enum By {
    Path,
    Link,
    Fd,
}

fn target(task: &Task, ctx: &Context, args: Args, by: By) -> Result<Target, Errno> {
    let follow = match by {
        By::Fd => return Ok(file_target(&fd_file(task, args.i32(0))?)),
        By::Path => true,
        By::Link => false,
    };
    let path = task.mm().read_path(args.u64(0))?;
    at_target(task, ctx, AT_FDCWD, &path, follow, false)
}

/// The name: ERANGE when it is empty or too long.
fn name(task: &Task, args: Args) -> Result<Vec<u8>, Errno> {
    let name = task.mm().read_cstr(args.u64(1), XATTR_NAME_MAX)?;
    name.filter(|name| !name.is_empty()).ok_or(Errno::ERANGE)
}

fn set(task: &Task, args: Args, by: By) -> Result<(), Errno> {
    let flags = args.u32(4);
    if flags & !(XATTR_CREATE | XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = name(task, args)?;
    let size =
        usize::try_from(args.u64(3)).ok().filter(|&size| size <= XATTR_SIZE_MAX).ok_or(Errno::E2BIG)?;
    let value = task.mm().read_vec(args.u64(2), size)?;
    let ctx = task.context();
    ctx.setxattr(&target(task, &ctx, args, by)?, &name, &value, flags)
}

/// Answers `data` as getxattr and listxattr do: the size alone for a size of 0, ERANGE where it does not fit.
fn answer(task: &Task, addr: u64, size: u64, data: &[u8]) -> Result<u64, Errno> {
    let len = data.len() as u64;
    if size == 0 {
        return Ok(len);
    }
    if len > size {
        return Err(Errno::ERANGE);
    }
    task.mm().write_bytes(addr, data)?;
    Ok(len)
}

fn get(task: &Task, args: Args, by: By) -> Result<u64, Errno> {
    let name = name(task, args)?;
    let ctx = task.context();
    let value = ctx.getxattr(&target(task, &ctx, args, by)?, &name)?;
    answer(task, args.u64(2), args.u64(3), &value)
}

fn list(task: &Task, args: Args, by: By) -> Result<u64, Errno> {
    let ctx = task.context();
    let names = ctx.listxattr(&target(task, &ctx, args, by)?)?;
    let text: Vec<u8> = names.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
    if text.len() > XATTR_LIST_MAX {
        return Err(Errno::E2BIG);
    }
    answer(task, args.u64(1), args.u64(2), &text)
}

fn remove(task: &Task, args: Args, by: By) -> Result<(), Errno> {
    let name = name(task, args)?;
    let ctx = task.context();
    ctx.removexattr(&target(task, &ctx, args, by)?, &name)
}

pub(crate) fn setxattr(task: &Arc<Task>, args: Args) -> Outcome {
    unit(set(task, args, By::Path))
}
pub(crate) fn lsetxattr(task: &Arc<Task>, args: Args) -> Outcome {
    unit(set(task, args, By::Link))
}
pub(crate) fn fsetxattr(task: &Arc<Task>, args: Args) -> Outcome {
    unit(set(task, args, By::Fd))
}
pub(crate) fn getxattr(task: &Arc<Task>, args: Args) -> Outcome {
    done(get(task, args, By::Path))
}
pub(crate) fn lgetxattr(task: &Arc<Task>, args: Args) -> Outcome {
    done(get(task, args, By::Link))
}
pub(crate) fn fgetxattr(task: &Arc<Task>, args: Args) -> Outcome {
    done(get(task, args, By::Fd))
}
pub(crate) fn listxattr(task: &Arc<Task>, args: Args) -> Outcome {
    done(list(task, args, By::Path))
}
pub(crate) fn llistxattr(task: &Arc<Task>, args: Args) -> Outcome {
    done(list(task, args, By::Link))
}
pub(crate) fn flistxattr(task: &Arc<Task>, args: Args) -> Outcome {
    done(list(task, args, By::Fd))
}
pub(crate) fn removexattr(task: &Arc<Task>, args: Args) -> Outcome {
    unit(remove(task, args, By::Path))
}
pub(crate) fn lremovexattr(task: &Arc<Task>, args: Args) -> Outcome {
    unit(remove(task, args, By::Link))
}
pub(crate) fn fremovexattr(task: &Arc<Task>, args: Args) -> Outcome {
    unit(remove(task, args, By::Fd))
}
