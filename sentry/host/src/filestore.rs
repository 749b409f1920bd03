//! Host files that hold the content of guest files: memfds, and unnamed files in a directory.
//!
//! Neighbours: the file systems that store content themselves (tmpfs, overlay). Everything works on descriptors; the
//! only paths ever opened are `self/fd/N` below the procfs directory given to [`set_proc_dir`], and "." below a storage
//! directory.

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag};
use nix::sys::memfd::MFdFlags;
use nix::sys::stat::Mode;
use nix::unistd::Whence;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

static PROC_DIR: OnceLock<OwnedFd> = OnceLock::new();

/// Keeps a directory descriptor of our own procfs for [`reopen_read_only`], which otherwise uses the path /proc.
/// The first call wins.
pub fn set_proc_dir(dir: OwnedFd) {
    // A second procfs would serve as well as the first: nothing is lost with it.
    let _ = PROC_DIR.set(dir);
}

/// The directory given to [`set_proc_dir`].
pub fn proc_dir() -> Option<BorrowedFd<'static>> {
    PROC_DIR.get().map(AsFd::as_fd)
}

/// A new memfd that can be sealed.
pub fn memfd(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    // Not "executable" as a file, whatever vm.memfd_noexec says; that does not limit mmap(PROT_EXEC).
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let noexec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match nix::sys::memfd::memfd_create(name, flags | noexec) {
        // Before Linux 6.3.
        Err(Errno::EINVAL) => Ok(nix::sys::memfd::memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

/// A new file without a name in the directory `dir`.
pub fn tmpfile(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(dir, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?)
}

/// Another descriptor of the same file that cannot write.
pub fn reopen_read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let path = format!("self/fd/{}", fd.as_raw_fd());
    Ok(match PROC_DIR.get() {
        Some(dir) => nix::fcntl::openat(dir, path.as_str(), flags, Mode::empty())?,
        None => nix::fcntl::open(format!("/proc/{path}").as_str(), flags, Mode::empty())?,
    })
}

/// What a host descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostStat {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
}

pub fn stat(fd: BorrowedFd<'_>) -> io::Result<HostStat> {
    let st = nix::sys::stat::fstat(fd)?;
    Ok(HostStat {
        dev: st.st_dev,
        ino: st.st_ino,
        size: u64::try_from(st.st_size).unwrap_or(0),
        blocks: u64::try_from(st.st_blocks).unwrap_or(0),
    })
}

/// Size and free space of the file system behind a descriptor, in bytes, and its inodes.
#[derive(Clone, Copy, Debug)]
pub struct HostSpace {
    pub total: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
}

pub fn space(fd: BorrowedFd<'_>) -> io::Result<HostSpace> {
    let st = nix::sys::statfs::fstatfs(fd)?;
    let unit = u64::try_from(st.block_size()).unwrap_or(0);
    Ok(HostSpace {
        total: st.blocks().saturating_mul(unit),
        free: st.blocks_available().saturating_mul(unit),
        files: st.files(),
        files_free: st.files_free(),
    })
}

fn offset(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| Errno::EFBIG.into())
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

pub fn pread(fd: BorrowedFd<'_>, buf: &mut [u8], pos: u64) -> io::Result<usize> {
    let pos = offset(pos)?;
    retry(|| nix::sys::uio::pread(fd, buf, pos))
}

pub fn pwrite(fd: BorrowedFd<'_>, buf: &[u8], pos: u64) -> io::Result<usize> {
    let pos = offset(pos)?;
    retry(|| nix::sys::uio::pwrite(fd, buf, pos))
}

pub fn truncate(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let size = offset(size)?;
    retry(|| nix::unistd::ftruncate(fd, size))
}

/// Frees the blocks of a range, which then reads as zeroes; the size stays.
pub fn punch_hole(fd: BorrowedFd<'_>, pos: u64, len: u64) -> io::Result<()> {
    let (pos, len) = (offset(pos)?, offset(len)?);
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    retry(|| nix::fcntl::fallocate(fd, flags, pos, len))
}

/// Gets blocks for a range without changing the size.
pub fn allocate(fd: BorrowedFd<'_>, pos: u64, len: u64) -> io::Result<()> {
    let (pos, len) = (offset(pos)?, offset(len)?);
    retry(|| nix::fcntl::fallocate(fd, FallocateFlags::FALLOC_FL_KEEP_SIZE, pos, len))
}

/// The next data (`data`) or hole from `pos` on; `None` when there is none before the end.
pub fn seek_hole(fd: BorrowedFd<'_>, pos: u64, data: bool) -> io::Result<Option<u64>> {
    let whence = if data { Whence::SeekData } else { Whence::SeekHole };
    match nix::unistd::lseek(fd, offset(pos)?, whence) {
        Ok(found) => Ok(Some(u64::try_from(found).unwrap_or(0))),
        Err(Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Adds F_SEAL_* to a memfd.
pub fn add_seals(fd: BorrowedFd<'_>, seals: u32) -> io::Result<()> {
    let seals = nix::fcntl::SealFlag::from_bits_retain(seals.cast_signed());
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// Copies between two files in the host kernel (sharing blocks where the file system can): 0 at the source's end.
pub fn copy_range(
    from: BorrowedFd<'_>,
    from_pos: u64,
    to: BorrowedFd<'_>,
    to_pos: u64,
    len: usize,
) -> io::Result<usize> {
    let (mut from_pos, mut to_pos) = (offset(from_pos)?, offset(to_pos)?);
    retry(|| {
        // SAFETY: both offsets are live variables of this frame, the descriptors are borrowed for the call.
        let r = unsafe {
            libc::copy_file_range(from.as_raw_fd(), &mut from_pos, to.as_raw_fd(), &mut to_pos, len, 0)
        };
        usize::try_from(r).map_err(|_| Errno::last())
    })
}

/// The soft limit of open descriptors.
pub fn nofile_limit() -> u64 {
    match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_descriptors_cannot_write() {
        let fd = memfd(c"test").unwrap();
        assert_eq!(pwrite(fd.as_fd(), b"abc", 5000).unwrap(), 3);
        let ro = reopen_read_only(fd.as_fd()).unwrap();
        let mut buf = [0; 8];
        assert_eq!(pread(ro.as_fd(), &mut buf, 5000).unwrap(), 3);
        assert_eq!(&buf[..3], b"abc");
        assert_eq!(pwrite(ro.as_fd(), b"x", 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(stat(ro.as_fd()).unwrap().ino, stat(fd.as_fd()).unwrap().ino);
    }

    #[test]
    fn holes() {
        let fd = memfd(c"test").unwrap();
        truncate(fd.as_fd(), 1 << 20).unwrap();
        pwrite(fd.as_fd(), &[1; 8192], 65536).unwrap();
        assert_eq!(seek_hole(fd.as_fd(), 0, true).unwrap(), Some(65536));
        assert_eq!(seek_hole(fd.as_fd(), 65536, false).unwrap(), Some(65536 + 8192));
        assert_eq!(seek_hole(fd.as_fd(), 65536 + 8192, true).unwrap(), None);
        assert_eq!(stat(fd.as_fd()).unwrap().blocks, 16);
        punch_hole(fd.as_fd(), 65536, 4096).unwrap();
        assert_eq!(stat(fd.as_fd()).unwrap().blocks, 8);
        allocate(fd.as_fd(), 0, 4096).unwrap();
        assert_eq!(stat(fd.as_fd()).unwrap().blocks, 16);
    }
}
