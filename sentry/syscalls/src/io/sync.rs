//! fsync, sync, fallocate, and advice about coming accesses.

use super::limit_size;
use crate::args::fd_file;
use crate::{Args, held_up, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::inotify::IN_MODIFY;
use chitin_kernel::lane::STEP;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::{File, FileKind, turn};
use std::sync::Arc;

/// Syncs, where it is not the host that takes its time.
fn sync_file(task: &Arc<Task>, file: Arc<File>, data_only: bool) -> Outcome {
    if !file.ops().sync_waits() {
        return unit(file.ops().fsync(data_only));
    }
    held_up(task, move |_| file.ops().fsync(data_only))
}

pub(crate) fn fsync(task: &Arc<Task>, args: Args) -> Outcome {
    fd_file(task, args.i32(0)).map_or_else(Outcome::error, |file| sync_file(task, file, false))
}

pub(crate) fn fdatasync(task: &Arc<Task>, args: Args) -> Outcome {
    fd_file(task, args.i32(0)).map_or_else(Outcome::error, |file| sync_file(task, file, true))
}

pub(crate) fn sync(task: &Arc<Task>, _args: Args) -> Outcome {
    held_up(task, |task| {
        for mount in task.fs().ns().mounts() {
            // sync(2) has no way to tell of failures; a later fsync does.
            let _untold = mount.fs().sync();
        }
        Ok(())
    })
}

pub(crate) fn syncfs(task: &Arc<Task>, args: Args) -> Outcome {
    match fd_file(task, args.i32(0)) {
        Ok(file) => held_up(task, move |_| match file.path() {
            Some(path) => path.mount.fs().sync(),
            None => Ok(()),
        }),
        Err(error) => Outcome::error(error),
    }
}

pub(crate) fn sync_file_range(task: &Arc<Task>, args: Args) -> Outcome {
    const KNOWN: u32 = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    let (offset, len, flags) = (args.i64(1), args.i64(2), args.u32(3));
    (|| {
        let file = fd_file(task, args.i32(0))?;
        if flags & !KNOWN != 0 || offset < 0 || offset.checked_add(len).is_none_or(|end| end < offset) {
            return Err(Errno::EINVAL);
        }
        match file.inode().kind() {
            FileKind::Regular | FileKind::BlockDevice | FileKind::Directory | FileKind::Symlink => {}
            _ => return Err(Errno::ESPIPE),
        }
        Ok(if flags == 0 { Outcome::value(0) } else { sync_file(task, file, true) })
    })()
    .unwrap_or_else(Outcome::error)
}

/// Whether fallocate(2) knows the mode, by its exclusive operations.
fn mode_is_known(mode: u32) -> bool {
    let keep = mode & FALLOC_FL_KEEP_SIZE != 0;
    match mode & !FALLOC_FL_KEEP_SIZE {
        0 | FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_ZERO_RANGE => true,
        FALLOC_FL_PUNCH_HOLE => keep,
        FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE => !keep,
        _ => false,
    }
}

/// With the turn at the content.
fn allocate(task: &Arc<Task>, file: &File, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
    super::drop_suid(task, file)?;
    file.ops().fallocate(mode, offset, len)?;
    file.inode().state().notify(file.path(), IN_MODIFY);
    Ok(())
}

pub(crate) fn fallocate(task: &Arc<Task>, args: Args) -> Outcome {
    let mode = args.u32(1);
    (|| {
        let file = fd_file(task, args.i32(0))?;
        let offset = u64::try_from(args.i64(2)).map_err(|_| Errno::EINVAL)?;
        let len = u64::try_from(args.i64(3)).ok().filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        if !mode_is_known(mode) {
            return Err(Errno::EOPNOTSUPP);
        }
        if !file.writable() {
            return Err(Errno::EBADF);
        }
        match file.inode().kind() {
            FileKind::Regular | FileKind::BlockDevice => {}
            FileKind::Fifo => return Err(Errno::ESPIPE),
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::ENODEV),
        }
        if !file.ops().seekable() {
            // eventfd and the like.
            return Err(Errno::ENODEV);
        }
        let end = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok()).ok_or(Errno::EFBIG)?;
        if mode & FALLOC_FL_KEEP_SIZE == 0 && file.ops().size()? < end {
            // inode_newsize_ok(): the last byte must lie below the limit.
            limit_size(task, end - 1, 1)?;
        }
        let brief = if len <= STEP as u64 { file.inode().state().turn().try_take() } else { None };
        if brief.is_some() {
            return Ok(unit(allocate(task, &file, mode, offset, len)));
        }
        let (task, target) = (task.clone(), file.clone());
        Ok(Outcome::block(async move {
            let _turn = task.killable(turn::content(target.inode())).await?;
            task.may_wait().await;
            allocate(&task, &target, mode, offset, len)?;
            Ok(0)
        }))
    })()
    .unwrap_or_else(Outcome::error)
}

pub(crate) fn fadvise64(task: &Arc<Task>, args: Args) -> Outcome {
    unit(fd_file(task, args.i32(0)).and_then(|file| {
        if file.inode().kind() == FileKind::Fifo {
            return Err(Errno::ESPIPE);
        }
        if args.i64(2) < 0 || args.u32(3) > POSIX_FADV_NOREUSE {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }))
}

pub(crate) fn readahead(task: &Arc<Task>, args: Args) -> Outcome {
    unit(task.file(args.i32(0)).and_then(|file| {
        if !file.readable() {
            return Err(Errno::EBADF);
        }
        let kind = file.inode().kind();
        let cached = matches!(kind, FileKind::Regular | FileKind::BlockDevice) && file.ops().seekable();
        if cached { Ok(()) } else { Err(Errno::EINVAL) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_fallocate() {
        assert!(mode_is_known(0) && mode_is_known(FALLOC_FL_KEEP_SIZE));
        assert!(
            mode_is_known(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) && !mode_is_known(FALLOC_FL_PUNCH_HOLE)
        );
        assert!(!mode_is_known(FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_KEEP_SIZE));
        assert!(!mode_is_known(FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE));
        assert!(!mode_is_known(1 << 20));
    }
}
