//! ioctl(2): what holds for all files (do_vfs_ioctl()); the rest is the object's.

use super::control::{is_sized, set_flag};
use crate::args::fd_file;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::fcntl::{FASYNC, O_APPEND, O_NONBLOCK};
use chitin_abi::ioctl::*;
use chitin_abi::num::low32;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::{File, FileKind};
use std::sync::Arc;

/// Requests to terminals that depend on the task: `None` for other files and requests.
fn terminal(task: &Arc<Task>, file: &Arc<File>, cmd: u32, arg: u64) -> Option<Outcome> {
    chitin_kernel::tty::ioctl(task, file, cmd, arg).map(Outcome::Done)
}

pub(crate) fn ioctl(task: &Arc<Task>, args: Args) -> Outcome {
    let (fd, cmd, arg) = (args.i32(0), args.u32(1), args.u64(2));
    let file = match fd_file(task, fd) {
        Ok(file) => file,
        Err(error) => return Outcome::error(error),
    };
    if let Some(outcome) = terminal(task, &file, cmd, arg) {
        return outcome;
    }
    if let Some(outcome) = chitin_kernel::seccomp::notify::ioctl(task, &file, cmd, arg) {
        return outcome;
    }
    if let Some(result) = crate::namespaces::ioctl(task, &file, cmd, arg) {
        return done(result);
    }
    match common(task, fd, &file, cmd, arg) {
        Some(result) => unit(result),
        None => match file.ops().ioctl(&task.caller(), cmd, arg, &task.mm()) {
            Ok(value) => Outcome::value(value.cast_unsigned()),
            Err(error) => Outcome::error(error),
        },
    }
}

/// The requests that the VFS answers; `None`: the object's turn.
fn common(task: &Arc<Task>, fd: i32, file: &Arc<File>, cmd: u32, arg: u64) -> Option<Result<(), Errno>> {
    let mm = task.mm();
    Some(match cmd {
        FIOCLEX => task.files().set_cloexec(fd, true),
        FIONCLEX => task.files().set_cloexec(fd, false),
        FIONBIO => mm.read::<i32>(arg).and_then(|on| set_flag(task, fd, file, O_NONBLOCK, on != 0)),
        FIOASYNC => mm.read::<i32>(arg).and_then(|on| set_flag(task, fd, file, FASYNC, on != 0)),
        FIOQSIZE => match file.inode().kind() {
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => {
                file.inode().attr().and_then(|attr| {
                    mm.write(arg, &i64::try_from(attr.blocks.saturating_mul(512)).unwrap_or(i64::MAX))
                })
            }
            _ => Err(Errno::ENOTTY),
        },
        FIGETBSZ => file
            .inode()
            .attr()
            .and_then(|attr| i32::try_from(attr.blksize).map_err(|_| Errno::EINVAL))
            .and_then(|size| mm.write(arg, &size)),
        FIONREAD if is_sized(file) => readable_size(file).and_then(|size| mm.write(arg, &size)),
        FIONREAD => match file.ops().readable_bytes() {
            Ok(bytes) => mm.write(arg, &i32::try_from(bytes).unwrap_or(i32::MAX)),
            Err(Errno::ENOTTY) => return None,
            Err(error) => Err(error),
        },
        FIFREEZE | FITHAW => {
            Err(if task.creds().capable(CAP_SYS_ADMIN) { Errno::EOPNOTSUPP } else { Errno::EPERM })
        }
        FS_IOC_FIEMAP | FIDEDUPERANGE => Err(Errno::EOPNOTSUPP),
        FICLONE => clone_from(task, file, low32(arg).cast_signed()),
        FICLONERANGE => mm
            .read::<FileCloneRange>(arg)
            .and_then(|range| clone_from(task, file, i32::try_from(range.src_fd).unwrap_or(-1))),
        _ => return crate::socket::ioctl(task, file, cmd, arg),
    })
}

/// From the position to the end of a regular file.
fn readable_size(file: &File) -> Result<i32, Errno> {
    let pos = *file.position();
    let size = file.inode().attr()?.size;
    // As in Linux the int is cut, and negative past the end.
    Ok(low32(size.wrapping_sub(pos)).cast_signed())
}

/// FICLONE: no file system here shares blocks, but what is wrong with the request is told first.
fn clone_from(task: &Task, to: &Arc<File>, from: i32) -> Result<(), Errno> {
    let from = task.io_file(from)?;
    if from.inode().attr()?.dev != to.inode().attr()?.dev {
        return Err(Errno::EXDEV);
    }
    for file in [&from, to] {
        match file.inode().kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    if !from.readable() || !to.writable() || to.flags() & O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    Err(Errno::EOPNOTSUPP)
}
