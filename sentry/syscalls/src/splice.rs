//! splice, tee, vmsplice here; [`copy`] has sendfile and copy_file_range (fs/splice.c, fs/read_write.c).
//!
//! Bytes between a pipe and a file go straight from one to the other. What waits is [`transfer`]: one attempt after the
//! other, woken by the files that are waited for.

mod copy;

pub(crate) use copy::{copy_file_range, sendfile};

use crate::Args;
use crate::args::fd_file;
use crate::io::{drop_suid, limit_size, raise};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::inotify::{IN_ACCESS, IN_MODIFY};
use chitin_abi::signal::SIGPIPE;
use chitin_kernel::{Outcome, SysError, SysResult, Task};
use chitin_mm::{MAX_RW_COUNT, UserIo};
use chitin_vfs::pipe::{self, PipeEnd};
use chitin_vfs::{File, FileKind, PollTable, WriteAt};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

const SPLICE_FLAGS: u32 = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;

/// Where one side of a transfer is in its file.
enum Place {
    /// Streams, pipes.
    None,
    /// The file's own position.
    Current,
    /// A variable of the guest's, written back at the end.
    User { addr: u64, pos: u64 },
}

impl Place {
    /// An offset argument: EFAULT. Negative offsets are EINVAL.
    fn user(task: &Task, addr: u64) -> Result<Place, Errno> {
        let pos = u64::try_from(task.mm().read::<i64>(addr)?).map_err(|_| Errno::EINVAL)?;
        Ok(Place::User { addr, pos })
    }

    fn pos(&self, file: &File) -> u64 {
        match self {
            Place::None => 0,
            Place::Current => *file.position(),
            Place::User { pos, .. } => *pos,
        }
    }

    /// Moves on. The file position is not held meanwhile, as in Linux: two files are involved, in any order.
    fn advance(&mut self, file: &File, from: u64, count: usize) {
        let to = from.saturating_add(count as u64);
        match self {
            Place::None => {}
            Place::Current => *file.position() = to,
            Place::User { pos, .. } => *pos = to,
        }
    }

    fn store(&self, task: &Task) -> Result<(), Errno> {
        match self {
            Place::User { addr, pos } => task.mm().write(*addr, &pos.cast_signed()),
            Place::None | Place::Current => Ok(()),
        }
    }
}

/// What an attempt at a transfer came to.
enum Tried {
    /// All that goes, so many bytes.
    Done(usize),
    /// A step, after which there is more.
    Step,
}

/// Tries `attempt` until it is done, in steps where it wants to; woken by `files` after EAGAIN, which stays where `wait`
/// is not set.
fn transfer(
    task: &Arc<Task>,
    files: [Arc<File>; 2],
    wait: bool,
    mut attempt: impl FnMut(&Arc<Task>) -> Result<Tried, Errno> + Send + 'static,
    finish: impl FnOnce(&Arc<Task>, Result<usize, SysError>) -> SysResult + Send + 'static,
) -> Outcome {
    let mut stepped = false;
    match attempt(task) {
        Err(Errno::EAGAIN) if wait => {}
        Ok(Tried::Step) => stepped = true,
        Ok(Tried::Done(count)) => return Outcome::Done(finish(task, Ok(count))),
        Err(error) => return Outcome::Done(finish(task, Err(SysError::Errno(error)))),
    }
    let task = task.clone();
    Outcome::block(async move {
        let result = loop {
            if stepped {
                task.next_step().await;
            }
            let mut held = Vec::new();
            let tries = poll_fn(|cx| {
                let mut table = PollTable::for_waker(cx.waker());
                for file in &files {
                    file.ops().poll(Some(&mut table));
                }
                held = table.into_registrations();
                match attempt(&task) {
                    Err(Errno::EAGAIN) if wait => Poll::Pending,
                    result => Poll::Ready(result),
                }
            });
            match task.interruptible(tries).await {
                Ok(Ok(Tried::Step)) => stepped = true,
                Ok(Ok(Tried::Done(count))) => break Ok(count),
                Ok(Err(error)) => break Err(SysError::Errno(error)),
                Err(interrupted) => break Err(interrupted.into()),
            }
        };
        finish(&task, result)
    })
}

/// What every transfer ends with: SIGPIPE, events, offsets.
fn ended(
    task: &Arc<Task>,
    (from, from_place): (&File, &Place),
    (to, to_place): (&File, &Place),
    result: Result<usize, SysError>,
) -> SysResult {
    if matches!(result, Err(SysError::Errno(Errno::EPIPE))) {
        raise(task, SIGPIPE);
    }
    let count = result?;
    if count > 0 {
        from.inode().state().notify(from.path(), IN_ACCESS);
        to.inode().state().notify(to.path(), IN_MODIFY);
    }
    from_place.store(task)?;
    to_place.store(task)?;
    Ok(count as u64)
}

fn pipe_of(file: &File) -> Option<&PipeEnd> {
    file.downcast::<PipeEnd>()
}

/// Writes what a pipe holds to a file at a position: the RLIMIT_FSIZE and setuid rules of a write.
fn write_from_pipe(
    task: &Arc<Task>,
    from: &File,
    to: &File,
    place: &mut Place,
    len: usize,
) -> Result<usize, Errno> {
    let end = pipe_of(from).ok_or(Errno::EINVAL)?;
    let pos = place.pos(to);
    let mut len = len;
    if to.inode().kind() == FileKind::Regular {
        len = limit_size(task, pos, len)?;
        drop_suid(task, to)?;
    }
    // `write` may take less than there is; the rest has its turn while there is something.
    let mut moved = 0;
    while moved < len {
        let at = WriteAt::At(pos.saturating_add(moved as u64));
        match end.splice_out(len - moved, |source| to.ops().write(at, source).map(|written| written.count)) {
            Ok(0) => break,
            Ok(count) => moved += count,
            Err(_) if moved > 0 => break,
            Err(error) => return Err(error),
        }
    }
    place.advance(to, pos, moved);
    Ok(moved)
}

/// Fills a pipe from a file.
fn read_to_pipe(from: &File, place: &mut Place, to: &File, len: usize) -> Result<usize, Errno> {
    let end = pipe_of(to).ok_or(Errno::EINVAL)?;
    let pos = place.pos(from);
    let count = end.splice_in(len, |sink| from.ops().read(pos, sink))?;
    place.advance(from, pos, count);
    Ok(count)
}

/// Where the non-pipe side of a splice is: EINVAL for offsets into streams.
fn place(task: &Task, file: &File, addr: u64) -> Result<Place, Errno> {
    match (file.ops().seekable(), addr) {
        (true, 0) => Ok(Place::Current),
        (false, 0) => Ok(Place::None),
        (true, addr) => Place::user(task, addr),
        (false, _) => Err(Errno::EINVAL),
    }
}

pub(crate) fn splice(task: &Arc<Task>, args: Args) -> Outcome {
    let (off_in, off_out, flags) = (args.u64(1), args.u64(3), args.u32(5));
    if args.u64(4) == 0 {
        return Outcome::value(0);
    }
    if flags & !SPLICE_FLAGS != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    let len = usize::try_from(args.u64(4)).unwrap_or(usize::MAX).min(MAX_RW_COUNT);
    (|| {
        let from = fd_file(task, args.i32(0))?;
        let to = fd_file(task, args.i32(2))?;
        let (from_pipe, to_pipe) = (pipe_of(&from), pipe_of(&to));
        if (from_pipe.is_some() && off_in != 0) || (to_pipe.is_some() && off_out != 0) {
            return Err(Errno::ESPIPE);
        }
        if !from.readable() || !to.writable() {
            return Err(Errno::EBADF);
        }
        let files = [from.clone(), to.clone()];
        let mut wait = flags & SPLICE_F_NONBLOCK == 0;
        match (from_pipe, to_pipe) {
            (Some(input), Some(output)) => {
                if Arc::ptr_eq(input.pipe(), output.pipe()) {
                    return Err(Errno::EINVAL);
                }
                wait &= !from.nonblocking() && !to.nonblocking();
                let (source, target) = (from.clone(), to.clone());
                let attempt = move |_: &Arc<Task>| match (pipe_of(&source), pipe_of(&target)) {
                    (Some(input), Some(output)) => pipe::splice(input, output, len).map(Tried::Done),
                    _ => Err(Errno::EINVAL),
                };
                let finish = move |task: &Arc<Task>, result| {
                    ended(task, (&from, &Place::None), (&to, &Place::None), result)
                };
                Ok(transfer(task, files, wait, attempt, finish))
            }
            (Some(_), None) => {
                if to.flags() & O_APPEND != 0 {
                    return Err(Errno::EINVAL);
                }
                let place = Arc::new(parking_lot::Mutex::new(place(task, &to, off_out)?));
                wait &= !from.nonblocking();
                let (source, target, at) = (from.clone(), to.clone(), place.clone());
                let attempt = move |task: &Arc<Task>| {
                    write_from_pipe(task, &source, &target, &mut at.lock(), len).map(Tried::Done)
                };
                let finish = move |task: &Arc<Task>, result| {
                    ended(task, (&from, &Place::None), (&to, &place.lock()), result)
                };
                Ok(transfer(task, files, wait, attempt, finish))
            }
            (None, Some(_)) => {
                let place = Arc::new(parking_lot::Mutex::new(place(task, &from, off_in)?));
                wait &= !to.nonblocking() && !from.nonblocking();
                let (source, target, at) = (from.clone(), to.clone(), place.clone());
                let attempt =
                    move |_: &Arc<Task>| read_to_pipe(&source, &mut at.lock(), &target, len).map(Tried::Done);
                let finish = move |task: &Arc<Task>, result| {
                    ended(task, (&from, &place.lock()), (&to, &Place::None), result)
                };
                Ok(transfer(task, files, wait, attempt, finish))
            }
            (None, None) => Err(Errno::EINVAL),
        }
    })()
    .unwrap_or_else(Outcome::error)
}

pub(crate) fn tee(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(3);
    if flags & !SPLICE_FLAGS != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    let len = usize::try_from(args.u64(2)).unwrap_or(usize::MAX).min(MAX_RW_COUNT);
    if len == 0 {
        return Outcome::value(0);
    }
    (|| {
        let from = fd_file(task, args.i32(0))?;
        let to = fd_file(task, args.i32(1))?;
        if !from.readable() || !to.writable() {
            return Err(Errno::EBADF);
        }
        let (input, output) = (pipe_of(&from).ok_or(Errno::EINVAL)?, pipe_of(&to).ok_or(Errno::EINVAL)?);
        if Arc::ptr_eq(input.pipe(), output.pipe()) {
            return Err(Errno::EINVAL);
        }
        let wait = flags & SPLICE_F_NONBLOCK == 0 && !from.nonblocking() && !to.nonblocking();
        let (source, target) = (from.clone(), to.clone());
        let attempt = move |_: &Arc<Task>| match (pipe_of(&source), pipe_of(&target)) {
            (Some(input), Some(output)) => pipe::tee(input, output, len).map(Tried::Done),
            _ => Err(Errno::EINVAL),
        };
        let files = [from.clone(), to.clone()];
        let finish =
            move |task: &Arc<Task>, result| ended(task, (&from, &Place::None), (&to, &Place::None), result);
        Ok(transfer(task, files, wait, attempt, finish))
    })()
    .unwrap_or_else(Outcome::error)
}

pub(crate) fn vmsplice(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(3);
    if flags & !SPLICE_FLAGS != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    (|| {
        let file = fd_file(task, args.i32(0))?;
        let writes = file.writable();
        if !writes && !file.readable() {
            return Err(Errno::EBADF);
        }
        let mut io = UserIo::vectored(&task.mm(), args.u64(1), args.u64(2))?;
        if io.total() == 0 {
            return Ok(Outcome::value(0));
        }
        pipe_of(&file).ok_or(Errno::EBADF)?;
        let wait = flags & SPLICE_F_NONBLOCK == 0;
        let end = file.clone();
        let attempt = move |_: &Arc<Task>| {
            if writes {
                end.ops().write(WriteAt::End, &mut io).map(|written| Tried::Done(written.count))
            } else {
                end.ops().read(0, &mut io).map(Tried::Done)
            }
        };
        let files = [file.clone(), file.clone()];
        let finish =
            move |task: &Arc<Task>, result| ended(task, (&file, &Place::None), (&file, &Place::None), result);
        Ok(transfer(task, files, wait, attempt, finish))
    })()
    .unwrap_or_else(Outcome::error)
}
