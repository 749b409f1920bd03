//! read, write and their relatives (fs/read_write.c).
//!
//! A transfer is first tried on the spot, without a future; only what has to wait is parked. What is longer than a
//! [`STEP`] is cut into steps, so that it keeps no worker from others; its turns at the file ([`chitin_vfs::turn`]) keep it
//! in one piece. Neighbours: [`position`] (lseek), [`sync`] (fsync, fallocate and advice); `splice` shares the write checks.

mod position;
mod sync;

pub(crate) use position::lseek;
pub(crate) use sync::{fadvise64, fallocate, fdatasync, fsync, readahead, sync, sync_file_range, syncfs};

use crate::{Args, socket};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_FSETID;
use chitin_abi::fcntl::*;
use chitin_abi::inotify::{IN_ACCESS, IN_MODIFY};
use chitin_abi::resource::{RLIM_INFINITY, RLIMIT_FSIZE};
use chitin_abi::signal::{SIGPIPE, SIGXFSZ};
use chitin_abi::stat::{S_ISGID, S_ISUID};
use chitin_kernel::lane::STEP;
use chitin_kernel::signalfd::SignalFd;
use chitin_kernel::task::count;
use chitin_kernel::tty::{self, TtyFile};
use chitin_kernel::{Outcome, SysError, SysResult, Task};
use chitin_mm::{Source, UserIo};
use chitin_vfs::turn::{self, Brief};
use chitin_vfs::wait::Registration;
use chitin_vfs::{File, FileKind, FileOps, PollTable, SetAttr, WriteAt, Written};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// What sets one transfer apart from a plain read or write.
#[derive(Clone, Copy, Default)]
pub(crate) struct How {
    /// At this offset, leaving the file position alone.
    pub(crate) at: Option<u64>,
    /// RWF_*.
    pub(crate) flags: u32,
}

/// Flags of preadv2 and pwritev2 that are honoured.
const RWF_KNOWN: u32 = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND;

/// Tries until `attempt` answers something, woken by the file's wait queues. Spurious readiness costs a try, no loop.
pub(crate) async fn until<T>(
    task: &Arc<Task>,
    file: &Arc<File>,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let mut held: Vec<Registration> = Vec::new();
    poll_fn(|cx| {
        let mut table = PollTable::for_waker(cx.waker());
        file.ops().poll(Some(&mut table));
        if file.downcast::<SignalFd>().is_some() {
            // It reads the signals of whoever reads, not of its maker.
            table.add(&task.signal_arrivals().1);
        }
        held = table.into_registrations();
        match attempt() {
            Some(value) => {
                held.clear();
                Poll::Ready(value)
            }
            None => Poll::Pending,
        }
    })
    .await
}

/// Job control of a terminal: whether the task may read (or write) it now.
fn check_terminal(task: &Arc<Task>, file: &File, write: bool) -> Result<(), SysError> {
    match file.downcast::<TtyFile>().filter(|end| !end.is_master()) {
        Some(end) if write => tty::check_write(task, end.tty()),
        Some(end) => tty::check_read(task, end.tty()),
        None => Ok(()),
    }
}

/// The signal that a failed transfer raises in its thread, as send_sig(…, 0) makes it.
pub(crate) fn raise(task: &Arc<Task>, signal: u32) {
    let info = crate::signals::kill_info(task, signal);
    chitin_kernel::signal::send_to_task(task, info);
}

/// rw_verify_area(): offsets and counts stay within loff_t.
fn verify_area(pos: u64, count: usize) -> Result<(), Errno> {
    let end = pos.checked_add(count as u64).filter(|&end| i64::try_from(end).is_ok());
    end.map(|_| ()).ok_or(Errno::EINVAL)
}

/// The user's only buffer, checked as access_ok() does.
fn buffer(task: &Task, addr: u64, len: u64) -> Result<UserIo, Errno> {
    let mm = task.own_mm();
    if !mm.range_ok(addr, len) {
        return Err(Errno::EFAULT);
    }
    Ok(UserIo::single(&mm, addr, len))
}

// Reading.

fn try_read(task: &Arc<Task>, file: &File, at: Option<u64>, dst: &mut UserIo) -> Result<usize, Errno> {
    let ops = file.ops();
    if let Some(pos) = at {
        verify_area(pos, dst.rest())?;
        return ops.read(pos, dst);
    }
    if !ops.seekable() {
        return match file.downcast::<SignalFd>() {
            Some(signals) => signals.read_for(task, dst),
            None => ops.read(0, dst),
        };
    }
    let mut pos = file.position();
    verify_area(*pos, dst.rest())?;
    let count = ops.read(*pos, dst)?;
    *pos = pos.saturating_add(count as u64);
    Ok(count)
}

fn count_read(task: &Task, file: &File, result: Result<usize, Errno>) -> SysResult {
    count(&task.counters.read_calls, 1);
    let read = result? as u64;
    if read > 0 {
        count(&task.counters.read_chars, read);
        file.inode().state().notify(file.path(), IN_ACCESS);
    }
    Ok(read)
}

/// Whether the call moves the file position, for which it needs a turn.
fn moves(file: &File, how: How) -> bool {
    how.at.is_none() && file.ops().seekable()
}

/// Whether a transfer that long has to be cut into steps. Streams have bounds of their own, and the sizes of what they
/// are given mean something to some.
fn is_long(file: &File, io: &UserIo) -> bool {
    io.rest() > STEP && (file.ops().seekable() || file.inode().kind() == FileKind::CharDevice)
}

fn read_file(task: &Arc<Task>, file: Arc<File>, mut dst: UserIo, how: How) -> Outcome {
    if socket::is_socket(&file) {
        return socket::read_file(task, file, dst, how.flags & RWF_NOWAIT != 0);
    }
    if let Err(error) = check_terminal(task, &file, false) {
        return Outcome::Done(Err(error));
    }
    let wait = !file.nonblocking() && how.flags & RWF_NOWAIT == 0;
    let turn = moves(&file, how).then(|| file.turn().try_take());
    if matches!(turn, Some(None)) || is_long(&file, &dst) {
        drop(turn);
        return read_in_steps(task, file, dst, how, wait);
    }
    match try_read(task, &file, how.at, &mut dst) {
        Err(Errno::EAGAIN) if wait => {}
        result => return Outcome::Done(count_read(task, &file, result)),
    }
    drop(turn);
    let task = task.clone();
    Outcome::block(async move {
        let attempt = || match try_read(&task, &file, how.at, &mut dst) {
            Err(Errno::EAGAIN) => None,
            result => Some(result),
        };
        let result = task.interruptible(until(&task, &file, attempt)).await?;
        count_read(&task, &file, result)
    })
}

/// Between two steps, after others. Answers whether the call goes on: nothing but the end stops a transfer of a regular
/// file, any signal that of a device, as in Linux.
async fn goes_on(task: &Arc<Task>, file: &File) -> bool {
    task.next_step().await;
    file.inode().kind() == FileKind::Regular || !task.signal_pending()
}

fn read_in_steps(task: &Arc<Task>, file: Arc<File>, mut dst: UserIo, how: How, wait: bool) -> Outcome {
    let task = task.clone();
    Outcome::block(async move {
        let _turn = match moves(&file, how) {
            true => Some(task.killable(turn::position(&file)).await?),
            false => None,
        };
        let step = if is_long(&file, &dst) { STEP } else { dst.rest() };
        let result = loop {
            dst.step(step);
            let at = how.at.map(|at| at.saturating_add(dst.done() as u64));
            let result = match try_read(&task, &file, at, &mut dst) {
                Err(Errno::EAGAIN) if wait && dst.done() == 0 => {
                    let attempt = || match try_read(&task, &file, at, &mut dst) {
                        Err(Errno::EAGAIN) => None,
                        result => Some(result),
                    };
                    task.interruptible(until(&task, &file, attempt)).await?
                }
                result => result,
            };
            match result {
                Ok(_) if dst.has_next_step() && goes_on(&task, &file).await => {}
                Err(error) if dst.done() == 0 => break Err(error),
                _ => break Ok(dst.done()),
            }
        };
        count_read(&task, &file, result)
    })
}

fn readable(task: &Task, fd: i32) -> Result<Arc<File>, Errno> {
    let file = task.file(fd)?;
    if file.readable() { Ok(file) } else { Err(Errno::EBADF) }
}

// Writing.

/// generic_write_checks(): RLIMIT_FSIZE for a write of what is left in `src` at `pos`. EFBIG and SIGXFSZ past it.
pub(crate) fn limit_size(task: &Arc<Task>, pos: u64, count: usize) -> Result<usize, Errno> {
    let limit = task.process.rlimit(RLIMIT_FSIZE).rlim_cur;
    if limit == RLIM_INFINITY {
        return Ok(count);
    }
    if pos >= limit {
        raise(task, SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(count.min(usize::try_from(limit - pos).unwrap_or(usize::MAX)))
}

/// file_remove_privs(): a write takes setuid, setgid and capabilities away.
pub(crate) fn drop_suid(task: &Task, file: &File) -> Result<(), Errno> {
    chitin_vfs::ops::drop_capabilities(file.inode())?;
    if task.creds().capable(CAP_FSETID) || file.inode().attr()?.perm & (S_ISUID | S_ISGID) == 0 {
        return Ok(());
    }
    match task.context().drops_suid(file.inode())? {
        Some(perm) => file.inode().set_attr(&SetAttr { perm: Some(perm), ..SetAttr::default() }),
        None => Ok(()),
    }
}

fn appends(file: &File, how: How) -> bool {
    how.flags & RWF_APPEND != 0 || (file.flags() & O_APPEND != 0 && how.flags & RWF_NOAPPEND == 0)
}

/// One attempt. What a failed one took has not been written.
fn attempt(ops: &dyn FileOps, at: WriteAt, src: &mut UserIo) -> Result<Written, Errno> {
    let before = src.done();
    ops.write(at, src).inspect_err(|_| src.untake(src.done().saturating_sub(before)))
}

/// Writes what can be written now. EAGAIN, EPIPE and the like also after a part: `src.done()` counts.
fn push(task: &Arc<Task>, file: &File, how: How, src: &mut UserIo) -> Result<(), Errno> {
    let ops = file.ops();
    if !ops.seekable() {
        loop {
            let count = attempt(&**ops, WriteAt::End, src)?.count;
            if count == 0 || src.left() == 0 {
                return Ok(());
            }
        }
    }
    match how.at {
        Some(at) => push_at(task, file, how, src, &mut at.saturating_add(src.done() as u64)),
        None => push_at(task, file, how, src, &mut file.position()),
    }
}

/// As [`push`] at a position, which moves along.
fn push_at(task: &Arc<Task>, file: &File, how: How, src: &mut UserIo, pos: &mut u64) -> Result<(), Errno> {
    let ops = file.ops();
    verify_area(*pos, src.rest())?;
    let append = appends(file, how);
    if file.inode().kind() == FileKind::Regular {
        if src.left() == 0 {
            return Ok(());
        }
        let start = if append { ops.size()? } else { *pos };
        src.truncate(limit_size(task, start, src.rest())?);
        drop_suid(task, file)?;
    }
    loop {
        let at = if append { WriteAt::End } else { WriteAt::At(*pos) };
        let written = attempt(&**ops, at, src)?;
        *pos = written.end;
        if written.count == 0 || src.left() == 0 {
            return Ok(());
        }
    }
}

/// Whether a write is to be stable before it ends.
fn syncs(file: &File, how: How) -> bool {
    file.inode().kind() == FileKind::Regular
        && (file.flags() & O_DSYNC != 0 || how.flags & (RWF_DSYNC | RWF_SYNC) != 0)
}

/// What a write has while it lasts.
struct Turns<'a> {
    _position: Option<Brief<'a>>,
    _content: Option<Brief<'a>>,
}

impl<'a> Turns<'a> {
    /// `None`: somebody else has one of them.
    fn try_take(file: &'a File, how: How) -> Option<Turns<'a>> {
        let position = if moves(file, how) { Some(file.turn().try_take()?) } else { None };
        let regular = file.inode().kind() == FileKind::Regular && file.ops().seekable();
        let content = if regular { Some(file.inode().state().turn().try_take()?) } else { None };
        Some(Turns { _position: position, _content: content })
    }
}

/// The result of a write that moved `done` bytes and then ended so.
fn finish_write(
    task: &Arc<Task>,
    file: &File,
    how: How,
    done: usize,
    result: Result<(), SysError>,
) -> SysResult {
    count(&task.counters.write_calls, 1);
    if matches!(result, Err(SysError::Errno(Errno::EPIPE))) {
        raise(task, SIGPIPE);
    }
    if done == 0 {
        return result.map(|()| 0);
    }
    count(&task.counters.write_chars, done as u64);
    file.inode().state().notify(file.path(), IN_MODIFY);
    if syncs(file, how) {
        let flags = file.flags();
        let data_only = flags & O_SYNC != O_SYNC && how.flags & RWF_SYNC == 0;
        file.ops().fsync(data_only)?;
    }
    Ok(done as u64)
}

fn write_file(task: &Arc<Task>, file: Arc<File>, mut src: UserIo, how: How) -> Outcome {
    if socket::is_socket(&file) {
        return socket::write_file(task, file, src, how.flags & RWF_NOWAIT != 0);
    }
    if let Err(error) = check_terminal(task, &file, true) {
        return Outcome::Done(Err(error));
    }
    let wait = !file.nonblocking() && how.flags & RWF_NOWAIT == 0;
    let Some(turns) = Turns::try_take(&file, how) else {
        if how.flags & RWF_NOWAIT != 0 {
            return Outcome::error(Errno::EAGAIN);
        }
        return write_in_steps(task, file, src, how, wait);
    };
    if is_long(&file, &src) || syncs(&file, how) && file.ops().sync_waits() {
        drop(turns);
        return write_in_steps(task, file, src, how, wait);
    }
    match push(task, &file, how, &mut src) {
        Err(Errno::EAGAIN) if wait => {}
        result => {
            drop(turns);
            let result = result.map_err(SysError::Errno);
            return Outcome::Done(finish_write(task, &file, how, src.done(), result));
        }
    }
    drop(turns);
    let task = task.clone();
    Outcome::block(async move {
        let attempt = || match push(&task, &file, how, &mut src) {
            Err(Errno::EAGAIN) => None,
            result => Some(result),
        };
        let result = match task.interruptible(until(&task, &file, attempt)).await {
            Ok(result) => result.map_err(SysError::Errno),
            Err(interrupted) => Err(interrupted.into()),
        };
        finish_write(&task, &file, how, src.done(), result)
    })
}

fn write_in_steps(task: &Arc<Task>, file: Arc<File>, mut src: UserIo, how: How, wait: bool) -> Outcome {
    let task = task.clone();
    Outcome::block(async move {
        let position = match moves(&file, how) {
            true => Some(task.killable(turn::position(&file)).await?),
            false => None,
        };
        let content = match file.inode().kind() == FileKind::Regular && file.ops().seekable() {
            true => Some(task.killable(turn::content(file.inode())).await?),
            false => None,
        };
        let step = if is_long(&file, &src) { STEP } else { src.rest() };
        let result = loop {
            src.step(step);
            let result = match push(&task, &file, how, &mut src) {
                Err(Errno::EAGAIN) if wait => {
                    let attempt = || match push(&task, &file, how, &mut src) {
                        Err(Errno::EAGAIN) => None,
                        result => Some(result),
                    };
                    match task.interruptible(until(&task, &file, attempt)).await {
                        Ok(result) => result,
                        Err(interrupted) => break Err(interrupted.into()),
                    }
                }
                result => result,
            };
            match result {
                Ok(()) if src.has_next_step() && goes_on(&task, &file).await => {}
                result => break result.map_err(SysError::Errno),
            }
        };
        drop((content, position));
        if src.done() > 0 && syncs(&file, how) && file.ops().sync_waits() {
            task.may_wait().await;
        }
        finish_write(&task, &file, how, src.done(), result)
    })
}

fn writable(task: &Task, fd: i32) -> Result<Arc<File>, Errno> {
    let file = task.file(fd)?;
    if file.writable() { Ok(file) } else { Err(Errno::EBADF) }
}

// The calls.

/// Turns a failed preparation into an answer.
fn run(prepared: Result<Outcome, Errno>) -> Outcome {
    prepared.unwrap_or_else(Outcome::error)
}

pub(crate) fn read(task: &Arc<Task>, args: Args) -> Outcome {
    run((|| {
        let file = readable(task, args.i32(0))?;
        let dst = buffer(task, args.u64(1), args.u64(2))?;
        Ok(read_file(task, file, dst, How::default()))
    })())
}

pub(crate) fn write(task: &Arc<Task>, args: Args) -> Outcome {
    run((|| {
        let file = writable(task, args.i32(0))?;
        let src = buffer(task, args.u64(1), args.u64(2))?;
        Ok(write_file(task, file, src, How::default()))
    })())
}

/// The checks that all calls with an offset share: EINVAL, EBADF, ESPIPE in this order.
fn positioned(task: &Task, fd: i32, offset: i64) -> Result<(Arc<File>, u64), Errno> {
    let pos = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let file = task.io_file(fd)?;
    if !file.ops().seekable() {
        return Err(Errno::ESPIPE);
    }
    Ok((file, pos))
}

pub(crate) fn pread64(task: &Arc<Task>, args: Args) -> Outcome {
    run((|| {
        let (file, pos) = positioned(task, args.i32(0), args.i64(3))?;
        if !file.readable() {
            return Err(Errno::EBADF);
        }
        let dst = buffer(task, args.u64(1), args.u64(2))?;
        Ok(read_file(task, file, dst, How { at: Some(pos), flags: 0 }))
    })())
}

pub(crate) fn pwrite64(task: &Arc<Task>, args: Args) -> Outcome {
    run((|| {
        let (file, pos) = positioned(task, args.i32(0), args.i64(3))?;
        if !file.writable() {
            return Err(Errno::EBADF);
        }
        let src = buffer(task, args.u64(1), args.u64(2))?;
        Ok(write_file(task, file, src, How { at: Some(pos), flags: 0 }))
    })())
}

/// kiocb_set_rw_flags(): EOPNOTSUPP for what is not known.
fn check_flags(flags: u32) -> Result<(), Errno> {
    if flags & !RWF_KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & (RWF_APPEND | RWF_NOAPPEND) == RWF_APPEND | RWF_NOAPPEND {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The vectored calls; `offset` is -1 for the file position where `current` allows it.
fn vectored(task: &Arc<Task>, args: Args, write: bool, offset: Option<i64>, flags: u32) -> Outcome {
    run((|| {
        let fd = args.i32(0);
        let (file, at) = match offset {
            Some(offset) => positioned(task, fd, offset).map(|(file, pos)| (file, Some(pos)))?,
            None => (task.io_file(fd)?, None),
        };
        if !(if write { file.writable() } else { file.readable() }) {
            return Err(Errno::EBADF);
        }
        let mm = task.mm();
        let mut io = UserIo::vectored(&mm, args.u64(1), args.u64(2))?;
        if io.total() == 0 {
            return Ok(Outcome::value(0));
        }
        check_flags(flags)?;
        if write && file.downcast::<chitin_vfs::eventfd::EventFd>().is_some() {
            // Linux writes each range of these on its own; a short count leaves the others to the caller.
            io.truncate(io.first_len());
        }
        let how = How { at, flags };
        Ok(if write { write_file(task, file, io, how) } else { read_file(task, file, io, how) })
    })())
}

pub(crate) fn readv(task: &Arc<Task>, args: Args) -> Outcome {
    vectored(task, args, false, None, 0)
}

pub(crate) fn writev(task: &Arc<Task>, args: Args) -> Outcome {
    vectored(task, args, true, None, 0)
}

pub(crate) fn preadv(task: &Arc<Task>, args: Args) -> Outcome {
    vectored(task, args, false, Some(args.i64(3)), 0)
}

pub(crate) fn pwritev(task: &Arc<Task>, args: Args) -> Outcome {
    vectored(task, args, true, Some(args.i64(3)), 0)
}

/// preadv2 and pwritev2 take -1 for the file position.
fn offset_or_current(offset: i64) -> Option<i64> {
    (offset != -1).then_some(offset)
}

pub(crate) fn preadv2(task: &Arc<Task>, args: Args) -> Outcome {
    vectored(task, args, false, offset_or_current(args.i64(3)), args.u32(5))
}

pub(crate) fn pwritev2(task: &Arc<Task>, args: Args) -> Outcome {
    vectored(task, args, true, offset_or_current(args.i64(3)), args.u32(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas() {
        assert_eq!(verify_area(0, 0), Ok(()));
        assert_eq!(verify_area(i64::MAX as u64, 0), Ok(()));
        assert_eq!(verify_area(i64::MAX as u64, 1), Err(Errno::EINVAL));
        assert_eq!(verify_area(u64::MAX, 1), Err(Errno::EINVAL));
    }

    #[test]
    fn flags() {
        assert_eq!(check_flags(0), Ok(()));
        assert_eq!(check_flags(RWF_NOWAIT | RWF_APPEND), Ok(()));
        assert_eq!(check_flags(RWF_APPEND | RWF_NOAPPEND), Err(Errno::EINVAL));
        assert_eq!(check_flags(RWF_ATOMIC), Err(Errno::EOPNOTSUPP));
        assert_eq!(check_flags(1 << 31), Err(Errno::EOPNOTSUPP));
        assert_eq!((offset_or_current(-1), offset_or_current(-2)), (None, Some(-2)));
    }
}
