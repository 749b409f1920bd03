//! `statx` and `getdents64`.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use chitin_gofer_protocol::{Attr, Timestamp};
use nix::errno::Errno;

/// Attributes of `name` in `dir`, or of `dir` itself with an empty name. Symbolic links are not
/// followed, automounts not triggered.
pub fn statx(dir: BorrowedFd<'_>, name: &CStr) -> nix::Result<Attr> {
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the name ends in NUL and the buffer has room for the one struct the kernel writes.
    let done = unsafe {
        libc::statx(
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT,
            libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            buffer.as_mut_ptr(),
        )
    };
    Errno::result(done)?;
    // SAFETY: zeroed before and filled by the kernel; every bit pattern is a valid statx.
    let stat = unsafe { buffer.assume_init() };
    let time = |t: libc::statx_timestamp| Timestamp { sec: t.tv_sec, nsec: t.tv_nsec.min(999_999_999) };
    Ok(Attr {
        dev: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        mode: u32::from(stat.stx_mode),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: libc::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        blksize: stat.stx_blksize,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        btime: if stat.stx_mask & libc::STATX_BTIME != 0 {
            time(stat.stx_btime)
        } else {
            Timestamp::default()
        },
    })
}

/// Fills `buffer` with raw entries of the directory; 0 bytes mean its end.
pub fn getdents(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: pointer and length describe the slice; the kernel writes no more than that.
    let len =
        unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    let len = Errno::result(len)?;
    Ok(usize::try_from(len).unwrap_or(0))
}

/// One raw entry.
#[derive(Debug)]
pub struct Dirent<'a> {
    pub ino: u64,
    pub next: u64,
    pub kind: u8,
    pub name: &'a CStr,
}

/// Parses what [`getdents`] has filled in; stops at anything malformed.
#[derive(Debug)]
pub struct DirentIter<'a>(pub &'a [u8]);

impl<'a> Iterator for DirentIter<'a> {
    type Item = Dirent<'a>;

    fn next(&mut self) -> Option<Dirent<'a>> {
        // struct linux_dirent64: u64 ino, i64 off, u16 reclen, u8 type, NUL-terminated name.
        let ino = u64::from_ne_bytes(self.0.get(0..8)?.try_into().ok()?);
        let next = u64::from_ne_bytes(self.0.get(8..16)?.try_into().ok()?);
        let len = u16::from_ne_bytes(self.0.get(16..18)?.try_into().ok()?);
        let kind = *self.0.get(18)?;
        let (entry, rest) = self.0.split_at_checked(usize::from(len))?;
        let name = CStr::from_bytes_until_nul(entry.get(19..)?).ok()?;
        self.0 = rest;
        Some(Dirent { ino, next, kind, name })
    }
}
