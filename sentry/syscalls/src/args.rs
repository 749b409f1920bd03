//! Raw arguments and the conversions that all handlers share.

use chitin_abi::Errno;
use chitin_abi::fcntl::AT_FDCWD;
use chitin_abi::num::low32;
use chitin_kernel::Task;
use chitin_mm::UserPtr;
use chitin_vfs::walk::{Target, Walk};
use chitin_vfs::{Context, File, FileKind, Path};
use std::borrow::Cow;
use std::sync::Arc;

/// The six argument registers. The conversions cut to the C type's width, as the ABI has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args(pub [u64; 6]);

impl Args {
    pub(crate) fn u64(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }
    pub(crate) fn i64(&self, index: usize) -> i64 {
        self.u64(index).cast_signed()
    }
    pub(crate) fn u32(&self, index: usize) -> u32 {
        low32(self.u64(index))
    }
    pub(crate) fn i32(&self, index: usize) -> i32 {
        low32(self.u64(index)).cast_signed()
    }
    pub(crate) fn ptr<T>(&self, index: usize) -> UserPtr<T> {
        UserPtr::new(self.u64(index))
    }
    /// `None` for a null pointer.
    pub(crate) fn opt<T>(&self, index: usize) -> Option<UserPtr<T>> {
        self.ptr(index).optional()
    }
}

/// The file behind descriptor argument `index`; EBADF also for O_PATH.
pub(crate) fn fd_file(task: &Task, fd: i32) -> Result<Arc<File>, Errno> {
    task.io_file(fd)
}

/// Where a relative path starts for a dirfd argument. Absolute paths need no valid dirfd.
pub(crate) fn at_start<'a>(
    task: &Task,
    ctx: &'a Context,
    dirfd: i32,
    path: &[u8],
) -> Result<Cow<'a, Path>, Errno> {
    if dirfd == AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(Cow::Borrowed(&ctx.cwd));
    }
    let file = task.file(dirfd)?;
    if !path.is_empty() && file.inode().kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    file.path().cloned().map(Cow::Owned).ok_or(Errno::ENOTDIR)
}

/// What a (dirfd, path, flags) triple names; an empty path with `empty_ok` (AT_EMPTY_PATH) names dirfd itself.
pub(crate) fn at_target(
    task: &Task,
    ctx: &Context,
    dirfd: i32,
    path: &[u8],
    follow: bool,
    empty_ok: bool,
) -> Result<Target, Errno> {
    if path.is_empty() && empty_ok {
        if dirfd == AT_FDCWD {
            return Ok(Target::Path(ctx.cwd.clone()));
        }
        return Ok(file_target(&task.file(dirfd)?));
    }
    let start = at_start(task, ctx, dirfd, path)?;
    ctx.walk_target(&start, path, Walk::following(follow))
}

/// An open file as the target of an attribute operation.
pub(crate) fn file_target(file: &Arc<File>) -> Target {
    match file.path() {
        Some(path) => Target::Path(path.clone()),
        None => Target::File(file.clone()),
    }
}
