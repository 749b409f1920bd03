//! Descriptors inherited from the host that others share: streams that must not block us, positions, terminals.
//!
//! Neighbour: the kernel's `hostfile` and console. O_NONBLOCK is never set, since it would belong to all who share the
//! open file description.

use crate::epoll::ready;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Whence;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A write of at most this many bytes to a pipe that polls writable does not block (PIPE_BUF).
const CHUNK: usize = 4096;

/// Reads what is there from a stream: `WouldBlock` if nothing is.
pub fn read_nowait(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    loop {
        // SAFETY: one iovec that describes a live mutable slice. Offset -1: the descriptor's own.
        let r = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_NOWAIT) };
        match usize::try_from(r) {
            Ok(count) => return Ok(count),
            Err(_) => match Errno::last() {
                Errno::EINTR => {}
                // Terminals, and pipes before Linux 6.5.
                Errno::EOPNOTSUPP | Errno::ESPIPE => break,
                errno => return Err(errno.into()),
            },
        }
    }
    loop {
        if ready(fd, libc::POLLIN as u32) == 0 {
            return Err(Errno::EAGAIN.into());
        }
        match nix::unistd::read(fd, buf) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Writes what fits to a stream: `WouldBlock` if nothing does. EPIPE without a signal, which Rust programs ignore.
pub fn write_nowait(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    loop {
        // SAFETY: one iovec that describes a live slice, which the call only reads. Offset -1: the descriptor's own.
        let r = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_NOWAIT) };
        match usize::try_from(r) {
            Ok(count) => return Ok(count),
            Err(_) => match Errno::last() {
                Errno::EINTR => {}
                Errno::EOPNOTSUPP | Errno::ESPIPE => break,
                errno => return Err(errno.into()),
            },
        }
    }
    let part = buf.get(..buf.len().min(CHUNK)).unwrap_or_default();
    loop {
        if ready(fd, libc::POLLOUT as u32) == 0 {
            return Err(Errno::EAGAIN.into());
        }
        match nix::unistd::write(fd, part) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Access mode and status flags (F_GETFL).
pub fn flags(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(fcntl(fd, FcntlArg::F_GETFL)?.cast_unsigned())
}

/// Makes the open file description non-blocking: only for one that nobody else uses.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The device number of a device node.
pub fn rdev(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_rdev)
}

/// The offset of a seekable file, which all who share the description move.
pub fn offset(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(u64::try_from(nix::unistd::lseek(fd, 0, Whence::SeekCur)?).unwrap_or(0))
}

pub fn set_offset(fd: BorrowedFd<'_>, pos: u64) -> io::Result<()> {
    let pos = i64::try_from(pos).map_err(|_| io::Error::from(Errno::EINVAL))?;
    nix::unistd::lseek(fd, pos, Whence::SeekSet)?;
    Ok(())
}

fn ioctl<T>(fd: BorrowedFd<'_>, request: u32, arg: &mut T) -> io::Result<()> {
    // SAFETY: the callers below pass an argument of the size that the request has.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(request), std::ptr::from_mut(arg)) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bytes that a read would answer now (FIONREAD).
pub fn readable_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    ioctl(fd, 0x541b, &mut count)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// A terminal's settings, as the kernel's `struct termios2`: ENOTTY for other files.
pub fn termios(fd: BorrowedFd<'_>) -> io::Result<[u8; 44]> {
    let mut bytes = [0; 44];
    ioctl(fd, 0x802c_542a, &mut bytes)?;
    Ok(bytes)
}

/// Sets a terminal's settings at once (TCSETS2).
pub fn set_termios(fd: BorrowedFd<'_>, mut settings: [u8; 44]) -> io::Result<()> {
    ioctl(fd, 0x402c_542b, &mut settings)
}

/// A terminal's rows, columns, width and height in pixels (TIOCGWINSZ).
pub fn winsize(fd: BorrowedFd<'_>) -> io::Result<[u16; 4]> {
    let mut size = [0; 4];
    ioctl(fd, 0x5413, &mut size)?;
    Ok(size)
}

/// Sets a terminal's size (TIOCSWINSZ).
pub fn set_winsize(fd: BorrowedFd<'_>, mut size: [u16; 4]) -> io::Result<()> {
    ioctl(fd, 0x5414, &mut size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn would_block<T>(result: io::Result<T>) -> bool {
        result.err().is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn pipes_never_block() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut buf = [0; 8192];
        assert!(would_block(read_nowait(read.as_fd(), &mut buf)));
        let mut total = 0;
        while let Ok(count) = write_nowait(write.as_fd(), &[7; 8192]) {
            total += count;
        }
        assert_eq!(total, 65536);
        assert_eq!(readable_bytes(read.as_fd()).unwrap(), 65536);
        assert_eq!(read_nowait(read.as_fd(), &mut buf).unwrap(), 8192);
        drop(write);
        while read_nowait(read.as_fd(), &mut buf).unwrap() > 0 {}
        let (read, write) = nix::unistd::pipe().unwrap();
        drop(read);
        assert_eq!(write_nowait(write.as_fd(), b"x").unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn terminals_never_block() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let mut buf = [0; 16];
        assert!(would_block(read_nowait(pair.slave.as_fd(), &mut buf)));
        assert_eq!(write_nowait(pair.master.as_fd(), b"ab\n").unwrap(), 3);
        assert_eq!(read_nowait(pair.slave.as_fd(), &mut buf).unwrap(), 3);
        let mut settings = termios(pair.slave.as_fd()).unwrap();
        settings[12] &= !8;
        set_termios(pair.slave.as_fd(), settings).unwrap();
        assert_eq!(termios(pair.slave.as_fd()).unwrap(), settings);
        set_winsize(pair.slave.as_fd(), [1, 2, 3, 4]).unwrap();
        assert_eq!(winsize(pair.master.as_fd()).unwrap(), [1, 2, 3, 4]);
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert_eq!(termios(read.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
