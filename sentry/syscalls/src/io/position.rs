//! lseek(2).

use crate::{Args, done};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::{AnonInode, File, FileKind, turn};
use std::any::Any;
use std::sync::Arc;

/// eventfd, timerfd and the like take every lseek and stay at 0 (noop_llseek()); pipes and sockets do not.
fn ignores_seeks(file: &File) -> bool {
    file.inode().kind() == FileKind::Regular && (&**file.inode() as &dyn Any).is::<AnonInode>()
}

/// A new position: EINVAL below 0.
fn checked(base: u64, offset: i64) -> Result<u64, Errno> {
    let base = i64::try_from(base).map_err(|_| Errno::EINVAL)?;
    let pos = base.wrapping_add(offset);
    u64::try_from(pos).map_err(|_| Errno::EINVAL)
}

fn seek(file: &File, offset: i64, whence: u32) -> Result<u64, Errno> {
    if whence > SEEK_HOLE {
        return Err(Errno::EINVAL);
    }
    let ops = file.ops();
    if !ops.seekable() {
        return if ignores_seeks(file) { Ok(0) } else { Err(Errno::ESPIPE) };
    }
    let mut pos = file.position();
    let new = match whence {
        SEEK_SET => checked(0, offset)?,
        SEEK_CUR => checked(*pos, offset)?,
        SEEK_END => checked(ops.size()?, offset)?,
        _ => {
            let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            ops.seek_hole(from, whence == SEEK_DATA)?
        }
    };
    *pos = new;
    Ok(new)
}

pub(crate) fn lseek(task: &Arc<Task>, args: Args) -> Outcome {
    let file = match task.io_file(args.i32(0)) {
        Ok(file) => file,
        Err(error) => return Outcome::error(error),
    };
    if let Some(_turn) = file.turn().try_take() {
        return done(seek(&file, args.i64(1), args.u32(2)));
    }
    let task = task.clone();
    Outcome::block(async move {
        let _turn = task.killable(turn::position(&file)).await?;
        Ok(seek(&file, args.i64(1), args.u32(2))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_vfs::eventfd::EventFd;
    use chitin_vfs::pipe::Pipe;

    #[test]
    fn positions() {
        assert_eq!(checked(0, 5), Ok(5));
        assert_eq!(checked(5, -5), Ok(0));
        assert_eq!(checked(5, -6), Err(Errno::EINVAL));
        assert_eq!(checked(i64::MAX as u64, 1), Err(Errno::EINVAL));
        assert_eq!(checked(1, i64::MIN), Err(Errno::EINVAL));
    }

    #[test]
    fn what_has_no_positions() {
        let event = EventFd::open(0, 0).unwrap();
        assert_eq!(seek(&event, 77, SEEK_SET), Ok(0));
        assert_eq!(seek(&event, 0, 5), Err(Errno::EINVAL));
        let (read, _write) = Pipe::pair(0).unwrap();
        assert_eq!(seek(&read, 0, SEEK_CUR), Err(Errno::ESPIPE));
    }
}
