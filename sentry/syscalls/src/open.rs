//! open, openat2, pipe, memfd_create (fs/open.c).

use crate::args::at_start;
use crate::fd::install;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use chitin_abi::fcntl::*;
use chitin_abi::inotify::IN_OPEN;
use chitin_abi::limits::PAGE_SIZE;
use chitin_abi::mman::*;
use chitin_abi::num::{low32, to_usize};
use chitin_abi::stat::S_IALLUGO;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::factory::Memfds;
use chitin_vfs::ops::{OpenHow as HowToOpen, Opened};
use chitin_vfs::pipe::{Pipe, PipeUser};
use chitin_vfs::walk::Walk;
use chitin_vfs::{Context, Creds, File, FileKind, Inode, Path};
use std::borrow::Cow;
use std::sync::Arc;

const O_PATH_FLAGS: u32 = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC;
const VALID_RESOLVE: u64 = RESOLVE_NO_XDEV
    | RESOLVE_NO_MAGICLINKS
    | RESOLVE_NO_SYMLINKS
    | RESOLVE_BENEATH
    | RESOLVE_IN_ROOT
    | RESOLVE_CACHED;

/// A terminal opened without O_NOCTTY may become the controlling terminal of a session leader that has none.
fn adopt_terminal(task: &Arc<Task>, file: &Arc<File>, flags: u32) {
    chitin_kernel::tty::opened(task, file, flags);
}

fn creates(flags: u32) -> bool {
    flags & (O_CREAT | __O_TMPFILE) != 0
}

/// build_open_how(): open and openat ignore what they do not know.
fn lenient(flags: u32, mode: u32) -> OpenHow {
    let mut flags = flags & VALID_OPEN_FLAGS;
    if flags & O_PATH != 0 {
        flags &= O_PATH_FLAGS;
    }
    let mode = if creates(flags) { mode & S_IALLUGO } else { 0 };
    OpenHow { flags: u64::from(flags), mode: u64::from(mode), resolve: 0 }
}

/// build_open_flags(): the checks that openat2 makes of everything.
fn checked(how: &OpenHow) -> Result<HowToOpen, Errno> {
    let flags = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    if flags & !VALID_OPEN_FLAGS != 0 || how.resolve & !VALID_RESOLVE != 0 {
        return Err(Errno::EINVAL);
    }
    let scoped = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
    if how.resolve & scoped == scoped {
        return Err(Errno::EINVAL);
    }
    let allowed = if creates(flags) { u64::from(S_IALLUGO) } else { 0 };
    if how.mode & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & (O_DIRECTORY | O_CREAT) == O_DIRECTORY | O_CREAT {
        return Err(Errno::EINVAL);
    }
    if flags & __O_TMPFILE != 0 && (flags & O_DIRECTORY == 0 || flags & O_ACCMODE == O_RDONLY) {
        return Err(Errno::EINVAL);
    }
    if flags & O_PATH != 0 && flags & !O_PATH_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if how.resolve & RESOLVE_CACHED != 0 {
        // "Not in the cache" is always an allowed answer; callers try again without the flag.
        return Err(Errno::EAGAIN);
    }
    let mut flags = flags;
    if flags & __O_SYNC != 0 {
        flags |= O_DSYNC;
    }
    if flags & O_PATH == 0 {
        flags |= O_LARGEFILE;
    }
    let has = |flag: u64| how.resolve & flag != 0;
    let walk = Walk {
        follow: true,
        no_symlinks: has(RESOLVE_NO_SYMLINKS),
        no_magiclinks: has(RESOLVE_NO_MAGICLINKS) || has(RESOLVE_NO_SYMLINKS),
        no_xdev: has(RESOLVE_NO_XDEV),
        beneath: has(RESOLVE_BENEATH),
        in_root: has(RESOLVE_IN_ROOT),
    };
    Ok(HowToOpen { flags, perm: low32(how.mode), walk })
}

/// Where the walk starts; with RESOLVE_IN_ROOT absolute paths start at `dirfd` too.
fn start<'a>(
    task: &Task,
    ctx: &'a Context,
    dirfd: i32,
    path: &[u8],
    walk: &Walk,
) -> Result<Cow<'a, Path>, Errno> {
    if !(walk.in_root || walk.beneath) || dirfd == AT_FDCWD {
        return at_start(task, ctx, dirfd, path);
    }
    let file = task.file(dirfd)?;
    if file.inode().kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    file.path().cloned().map(Cow::Owned).ok_or(Errno::ENOTDIR)
}

fn open_at(task: &Arc<Task>, dirfd: i32, path: u64, how: &OpenHow) -> Result<Outcome, Errno> {
    let how = checked(how)?;
    let path = task.own_mm().read_path(path)?;
    let ctx = task.context();
    let start = start(task, &ctx, dirfd, &path, &how.walk)?;
    let cloexec = how.flags & O_CLOEXEC != 0;
    match ctx.open(&start, &path, &how)? {
        Opened::File(file) => {
            adopt_terminal(task, &file, how.flags);
            install(task, file, cloexec).map(Outcome::value)
        }
        Opened::Fifo { pipe, path, inode, flags } => open_fifo(task, &pipe, path, inode, flags, cloexec),
    }
}

/// Waits for the other side, where it has to.
fn open_fifo(
    task: &Arc<Task>,
    pipe: &Arc<Pipe>,
    path: Option<Path>,
    inode: Arc<dyn Inode>,
    flags: u32,
    cloexec: bool,
) -> Result<Outcome, Errno> {
    let opened = move |end, path: Option<Path>, inode: Arc<dyn Inode>| {
        inode.state().notify(path.as_ref(), IN_OPEN);
        File::new(end, inode, path, flags)
    };
    match Pipe::open_fifo(pipe, flags, pipe_user(&task.creds()))?.try_finish() {
        Ok(end) => install(task, opened(end, path, inode), cloexec).map(Outcome::value),
        Err(waiting) => {
            let task = task.clone();
            Ok(Outcome::block(async move {
                let end = task.interruptible(waiting.wait()).await?;
                Ok(install(&task, opened(end, path, inode), cloexec)?)
            }))
        }
    }
}

pub(crate) fn open(task: &Arc<Task>, args: Args) -> Outcome {
    open_at(task, AT_FDCWD, args.u64(0), &lenient(args.u32(1), args.u32(2))).unwrap_or_else(Outcome::error)
}

pub(crate) fn creat(task: &Arc<Task>, args: Args) -> Outcome {
    let how = lenient(O_CREAT | O_WRONLY | O_TRUNC, args.u32(1));
    open_at(task, AT_FDCWD, args.u64(0), &how).unwrap_or_else(Outcome::error)
}

pub(crate) fn openat(task: &Arc<Task>, args: Args) -> Outcome {
    let how = lenient(args.u32(2), args.u32(3));
    open_at(task, args.i32(0), args.u64(1), &how).unwrap_or_else(Outcome::error)
}

/// copy_struct_from_user(): E2BIG where bytes that are not known are set.
fn read_how(task: &Task, addr: u64, size: u64) -> Result<OpenHow, Errno> {
    const KNOWN: u64 = OPEN_HOW_SIZE_VER0 as u64;
    if size < KNOWN {
        return Err(Errno::EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let mm = task.mm();
    let rest = mm.read_vec(addr.wrapping_add(KNOWN), to_usize(size - KNOWN))?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    mm.read::<OpenHow>(addr)
}

pub(crate) fn openat2(task: &Arc<Task>, args: Args) -> Outcome {
    read_how(task, args.u64(2), args.u64(3))
        .and_then(|how| open_at(task, args.i32(0), args.u64(1), &how))
        .unwrap_or_else(Outcome::error)
}

fn pipe_user(creds: &Creds) -> PipeUser {
    let privileged = creds.capable(CAP_SYS_RESOURCE) || creds.capable(CAP_SYS_ADMIN);
    PipeUser { uid: creds.uid, privileged }
}

/// Two descriptors, or none if the numbers cannot be told.
fn make_pipe(task: &Arc<Task>, addr: u64, flags: u32) -> Result<(), Errno> {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT | O_EXCL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & O_EXCL != 0 {
        // O_NOTIFICATION_PIPE, as a kernel without watch queues answers.
        return Err(Errno::ENOPKG);
    }
    let creds = task.creds();
    let (read, write) = Pipe::pair_owned(flags, pipe_user(&creds), creds.fsuid, creds.fsgid)?;
    let (files, limit) = (task.files(), task.process.nofile());
    let cloexec = flags & O_CLOEXEC != 0;
    let first = files.add(read, cloexec, 0, limit)?;
    let told = files.add(write, cloexec, 0, limit).and_then(|second| {
        task.mm().write(addr, &[first, second]).inspect_err(|_| drop(files.remove(second)))
    });
    told.inspect_err(|_| drop(files.remove(first)))
}

pub(crate) fn pipe(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_pipe(task, args.u64(0), 0))
}

pub(crate) fn pipe2(task: &Arc<Task>, args: Args) -> Outcome {
    unit(make_pipe(task, args.u64(0), args.u32(1)))
}

/// Longest name of a memfd (MFD_NAME_MAX_LEN).
const MEMFD_NAME_MAX: usize = 249;

pub(crate) fn memfd_create(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(1);
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
    if flags & MFD_HUGETLB == 0 && flags & !known != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    done((|| {
        let name = task.mm().read_cstr(args.u64(0), MEMFD_NAME_MAX)?.ok_or(Errno::EINVAL)?;
        let memfds = task.kernel.extension::<Memfds>().ok_or(Errno::ENOSYS)?;
        let creds = task.creds();
        let file = memfds.0.make(&name, flags, creds.fsuid, creds.fsgid)?;
        install(task, file, flags & MFD_CLOEXEC != 0)
    })())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(flags: u32, mode: u64, resolve: u64) -> Result<HowToOpen, Errno> {
        checked(&OpenHow { flags: u64::from(flags), mode, resolve })
    }

    #[test]
    fn open_ignores_what_openat2_refuses() {
        let unknown = 1 << 31;
        assert_eq!(how(unknown, 0, 0).err(), Some(Errno::EINVAL));
        assert_eq!(lenient(unknown | O_RDWR, 0).flags, u64::from(O_RDWR));
        assert_eq!(how(O_RDONLY, 0o600, 0).err(), Some(Errno::EINVAL));
        assert_eq!(lenient(O_RDONLY, 0o600).mode, 0);
        assert_eq!(lenient(O_CREAT, 0o170_644).mode, 0o644);
        assert_eq!(how(O_PATH | O_RDWR, 0, 0).err(), Some(Errno::EINVAL));
        assert_eq!(lenient(O_PATH | O_RDWR | O_CREAT, 0o600).flags, u64::from(O_PATH));
    }

    #[test]
    fn checks() {
        assert_eq!(how(O_CREAT | O_DIRECTORY, 0, 0).err(), Some(Errno::EINVAL));
        assert_eq!(how(O_TMPFILE, 0o600, 0).err(), Some(Errno::EINVAL));
        assert!(how(O_TMPFILE | O_RDWR, 0o600, 0).is_ok());
        assert_eq!(how(__O_TMPFILE | O_RDWR, 0, 0).err(), Some(Errno::EINVAL));
        assert_eq!(how(0, 0, 0x40).err(), Some(Errno::EINVAL));
        assert_eq!(how(0, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT).err(), Some(Errno::EINVAL));
        assert_eq!(how(0, 0, RESOLVE_CACHED).err(), Some(Errno::EAGAIN));
        let beneath = how(O_SYNC, 0, RESOLVE_BENEATH).unwrap();
        assert!(beneath.walk.beneath && beneath.flags & O_DSYNC != 0 && beneath.flags & O_LARGEFILE != 0);
    }
}
