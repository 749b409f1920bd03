//! What file systems do with descriptors of host files that others may use too: attributes, appending, flushing.
//!
//! Neighbour: `fs-gofer`. `filestore` has the plain reads and writes.

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::unistd::Whence;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What fstat(2) tells; ids as this process's user namespace shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAttr {
    pub mode: u32,
    pub nlink: u32,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    /// Seconds and nanoseconds.
    pub atime: (i64, u32),
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
}

pub fn attr(fd: BorrowedFd<'_>) -> io::Result<HostAttr> {
    let st = nix::sys::stat::fstat(fd)?;
    let nsec = |value: i64| u32::try_from(value).unwrap_or(0);
    Ok(HostAttr {
        mode: st.st_mode,
        nlink: u32::try_from(st.st_nlink).unwrap_or(u32::MAX),
        size: u64::try_from(st.st_size).unwrap_or(0),
        blocks: u64::try_from(st.st_blocks).unwrap_or(0),
        atime: (st.st_atime, nsec(st.st_atime_nsec)),
        mtime: (st.st_mtime, nsec(st.st_mtime_nsec)),
        ctime: (st.st_ctime, nsec(st.st_ctime_nsec)),
    })
}

/// Writes at the end of the file, atomically towards all writers of the host. Answers how many bytes were written and
/// where they end. Moves the descriptor's offset: no two calls on one descriptor at a time.
pub fn append(fd: BorrowedFd<'_>, buf: &[u8]) -> io::Result<(usize, u64)> {
    let iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    let count = loop {
        // SAFETY: one iovec that describes a live slice, which the call only reads. Offset -1: the descriptor's own.
        let r = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_APPEND) };
        match usize::try_from(r) {
            Ok(count) => break count,
            Err(_) => match Errno::last() {
                Errno::EINTR => {}
                errno => return Err(errno.into()),
            },
        }
    };
    let end = nix::unistd::lseek(fd, 0, Whence::SeekCur)?;
    Ok((count, u64::try_from(end).unwrap_or(0)))
}

/// fallocate(2) with any mode (FALLOC_FL_*).
pub fn fallocate(fd: BorrowedFd<'_>, mode: u32, offset: u64, len: u64) -> io::Result<()> {
    let to_i64 = |value: u64| i64::try_from(value).map_err(|_| io::Error::from(Errno::EFBIG));
    let (offset, len) = (to_i64(offset)?, to_i64(len)?);
    let flags = FallocateFlags::from_bits_retain(mode.cast_signed());
    loop {
        match nix::fcntl::fallocate(fd, flags, offset, len) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// fsync(2) or fdatasync(2).
pub fn sync(fd: BorrowedFd<'_>, data_only: bool) -> io::Result<()> {
    let done = if data_only { nix::unistd::fdatasync(fd) } else { nix::unistd::fsync(fd) };
    Ok(done?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filestore;
    use std::os::fd::AsFd;

    #[test]
    fn appends_and_tells_the_end() {
        let fd = filestore::memfd(c"test").unwrap();
        filestore::pwrite(fd.as_fd(), b"0123456789", 0).unwrap();
        assert_eq!(append(fd.as_fd(), b"abc").unwrap(), (3, 13));
        filestore::truncate(fd.as_fd(), 4).unwrap();
        assert_eq!(append(fd.as_fd(), b"de").unwrap(), (2, 6));
        let got = attr(fd.as_fd()).unwrap();
        assert_eq!((got.size, got.mode & libc::S_IFMT, got.nlink), (6, libc::S_IFREG, 0));
        fallocate(fd.as_fd(), 0, 0, 8192).unwrap();
        assert_eq!(attr(fd.as_fd()).unwrap().size, 8192);
        sync(fd.as_fd(), true).unwrap();
        let ro = filestore::reopen_read_only(fd.as_fd()).unwrap();
        assert_eq!(append(ro.as_fd(), b"x").unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
