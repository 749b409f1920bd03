//! sendfile(2), copy_file_range(2): copies through a buffer of the sentry's.

use super::{Place, Tried, ended, pipe_of, read_to_pipe};
use crate::Args;
use crate::args::fd_file;
use crate::io::{drop_suid, limit_size, raise};
use chitin_abi::Errno;
use chitin_abi::fcntl::O_APPEND;
use chitin_abi::signal::SIGPIPE;
use chitin_kernel::lane::STEP;
use chitin_kernel::{Outcome, SysError, Task};
use chitin_mm::{MAX_RW_COUNT, SliceSource, VecSink};
use chitin_vfs::{File, FileKind, WriteAt};
use parking_lot::Mutex;
use std::sync::Arc;

/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

/// A copy under way.
struct Copy {
    from: Arc<File>,
    to: Arc<File>,
    from_place: Place,
    to_place: Place,
    len: usize,
    done: usize,
}

impl Copy {
    /// Copies what can be copied now, as far as a step. EAGAIN also after a part: `done` counts.
    fn step(&mut self, task: &Arc<Task>) -> Result<Tried, Errno> {
        let before = self.done;
        match self.go_on(task) {
            Ok(()) if self.done < self.len && self.done.saturating_sub(before) >= STEP => Ok(Tried::Step),
            result => self.count(task, result).map(Tried::Done),
        }
    }

    fn go_on(&mut self, task: &Arc<Task>) -> Result<(), Errno> {
        let Copy { from, to, from_place, to_place, len, done } = self;
        if to.inode().kind() == FileKind::Regular {
            drop_suid(task, to)?;
        }
        let end = done.saturating_add(STEP).min(*len);
        while *done < end {
            let want = (end - *done).min(CHUNK);
            let (from_pos, to_pos) = (from_place.pos(from), to_place.pos(to));
            let mut chunk = VecSink { data: Vec::new(), limit: want };
            from.ops().read(from_pos, &mut chunk)?;
            if chunk.data.is_empty() {
                break;
            }
            let moved = write(task, to, to_pos, &chunk.data)?;
            // The source moves by what the target took.
            from_place.advance(from, from_pos, moved);
            to_place.advance(to, to_pos, moved);
            if moved == 0 {
                break;
            }
            *done += moved;
        }
        Ok(())
    }

    /// What counts after [`Copy::go_on`]: a part, but for what is to be waited for.
    fn count(&self, task: &Arc<Task>, result: Result<(), Errno>) -> Result<usize, Errno> {
        if result == Err(Errno::EPIPE) && self.done > 0 {
            raise(task, SIGPIPE);
        }
        match result {
            Err(error) if self.done == 0 || error == Errno::EAGAIN => Err(error),
            _ => Ok(self.done),
        }
    }
}

/// Writes as much of `data` as goes.
fn write(task: &Arc<Task>, to: &File, pos: u64, data: &[u8]) -> Result<usize, Errno> {
    let regular = to.inode().kind() == FileKind::Regular;
    let allowed = if regular { limit_size(task, pos, data.len())? } else { data.len() };
    let mut source = SliceSource::new(data.get(..allowed).unwrap_or_default());
    let mut moved = 0;
    while moved < allowed {
        match to.ops().write(WriteAt::At(pos.saturating_add(moved as u64)), &mut source) {
            Ok(written) if written.count == 0 => break,
            Ok(written) => moved += written.count,
            Err(_) if moved > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(moved)
}

fn clamp(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).min(MAX_RW_COUNT)
}

fn own_place(file: &File) -> Place {
    if file.ops().seekable() { Place::Current } else { Place::None }
}

pub(crate) fn sendfile(task: &Arc<Task>, args: Args) -> Outcome {
    (|| {
        // The offset is read before anything else is looked at.
        let offset =
            args.opt::<i64>(2).map(|addr| task.mm().read(addr).map(|pos| (addr.addr(), pos))).transpose()?;
        let from = fd_file(task, args.i32(1))?;
        if !from.readable() {
            return Err(Errno::EBADF);
        }
        if offset.is_some() && !from.ops().seekable() {
            return Err(Errno::ESPIPE);
        }
        let from_place = match offset {
            Some((addr, pos)) => Place::User { addr, pos: u64::try_from(pos).map_err(|_| Errno::EINVAL)? },
            None => own_place(&from),
        };
        let to = fd_file(task, args.i32(0))?;
        if !to.writable() {
            return Err(Errno::EBADF);
        }
        if i64::try_from(args.u64(3)).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = clamp(args.u64(3));
        // Not from streams: what was read and cannot be written would be lost.
        if !from.ops().seekable() || from.inode().kind() == FileKind::Directory {
            return Err(Errno::EINVAL);
        }
        let wait = !to.nonblocking();
        if pipe_of(&to).is_some() {
            return Ok(into_pipe(task, from, from_place, to, len));
        }
        if to.flags() & O_APPEND != 0 {
            return Err(Errno::EINVAL);
        }
        let to_place = own_place(&to);
        let files = [to.clone(), to.clone()];
        let copy = Arc::new(Mutex::new(Copy { from, to, from_place, to_place, len, done: 0 }));
        let trying = copy.clone();
        let attempt = move |task: &Arc<Task>| trying.lock().step(task);
        Ok(super::transfer(task, files, wait, attempt, move |task: &Arc<Task>, result| {
            let copy = copy.lock();
            // A part counts, whatever ended it.
            let waited = matches!(result, Err(SysError::Restart(_) | SysError::Errno(Errno::EAGAIN)));
            let result = if waited && copy.done > 0 { Ok(copy.done) } else { result };
            ended(task, (&copy.from, &copy.from_place), (&copy.to, &copy.to_place), result)
        }))
    })()
    .unwrap_or_else(Outcome::error)
}

/// sendfile(2) to a pipe is a splice.
fn into_pipe(task: &Arc<Task>, from: Arc<File>, place: Place, to: Arc<File>, len: usize) -> Outcome {
    let wait = !to.nonblocking();
    let files = [to.clone(), to.clone()];
    let place = Arc::new(Mutex::new(place));
    let (source, target, at) = (from.clone(), to.clone(), place.clone());
    let attempt = move |_: &Arc<Task>| read_to_pipe(&source, &mut at.lock(), &target, len).map(Tried::Done);
    super::transfer(task, files, wait, attempt, move |task: &Arc<Task>, result| {
        ended(task, (&from, &place.lock()), (&to, &Place::None), result)
    })
}

/// generic_file_rw_checks()
fn check_files(from: &File, to: &File) -> Result<(), Errno> {
    let kinds = [from.inode().kind(), to.inode().kind()];
    if kinds.contains(&FileKind::Directory) {
        return Err(Errno::EISDIR);
    }
    if kinds != [FileKind::Regular; 2] || !from.ops().seekable() || !to.ops().seekable() {
        return Err(Errno::EINVAL);
    }
    if !from.readable() || !to.writable() || to.flags() & O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    Ok(())
}

/// Whether two ranges of the same length share bytes.
fn overlap(a: u64, b: u64, len: u64) -> bool {
    a.abs_diff(b) < len
}

pub(crate) fn copy_file_range(task: &Arc<Task>, args: Args) -> Outcome {
    (|| {
        let from = fd_file(task, args.i32(0))?;
        let to = fd_file(task, args.i32(2))?;
        let offset = |index| match args.u64(index) {
            0 => Ok(Place::Current),
            addr => Place::user(task, addr),
        };
        let (from_place, to_place) = (offset(1)?, offset(3)?);
        if args.u32(5) != 0 {
            return Err(Errno::EINVAL);
        }
        check_files(&from, &to)?;
        let (from_attr, to_attr) = (from.inode().attr()?, to.inode().attr()?);
        if from_attr.dev != to_attr.dev {
            return Err(Errno::EXDEV);
        }
        let (from_pos, to_pos) = (from_place.pos(&from), to_place.pos(&to));
        let len = args.u64(4);
        let fits = |pos: u64| pos.checked_add(len).is_some_and(|end| i64::try_from(end).is_ok());
        if !fits(from_pos) || !fits(to_pos) {
            return Err(Errno::EOVERFLOW);
        }
        let len = len.min(from_attr.size.saturating_sub(from_pos));
        if len == 0 {
            return Ok(Outcome::value(0));
        }
        let len = limit_size(task, to_pos, clamp(len))?;
        if Arc::ptr_eq(from.inode(), to.inode()) && overlap(from_pos, to_pos, len as u64) {
            return Err(Errno::EINVAL);
        }
        let files = [to.clone(), to.clone()];
        let copy = Arc::new(Mutex::new(Copy { from, to, from_place, to_place, len, done: 0 }));
        let trying = copy.clone();
        let attempt = move |task: &Arc<Task>| trying.lock().step(task);
        Ok(super::transfer(task, files, false, attempt, move |task: &Arc<Task>, result| {
            let copy = copy.lock();
            ended(task, (&copy.from, &copy.from_place), (&copy.to, &copy.to_place), result)
        }))
    })()
    .unwrap_or_else(Outcome::error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert!(overlap(0, 5, 6) && overlap(5, 0, 6) && overlap(3, 3, 1));
        assert!(!overlap(0, 5, 5) && !overlap(9, 0, 9));
        assert_eq!(clamp(u64::MAX), MAX_RW_COUNT);
    }
}
