//! FUSE messages (include/uapi/linux/fuse.h, protocol 7.31), as bytes.

use super::nodes::ROOT;
use chitin_abi::Errno;
use chitin_abi::num::low32;
use chitin_abi::stat::Statfs;
use chitin_vfs::Attr;

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const READLINK: u32 = 5;
pub const SYMLINK: u32 = 6;
pub const MKNOD: u32 = 8;
pub const MKDIR: u32 = 9;
pub const UNLINK: u32 = 10;
pub const RMDIR: u32 = 11;
pub const RENAME: u32 = 12;
pub const LINK: u32 = 13;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const STATFS: u32 = 17;
pub const RELEASE: u32 = 18;
pub const FSYNC: u32 = 20;
pub const SETXATTR: u32 = 21;
pub const GETXATTR: u32 = 22;
pub const LISTXATTR: u32 = 23;
pub const REMOVEXATTR: u32 = 24;
pub const OPENDIR: u32 = 27;
pub const READDIR: u32 = 28;
pub const RELEASEDIR: u32 = 29;
pub const FSYNCDIR: u32 = 30;
pub const CREATE: u32 = 35;
pub const INTERRUPT: u32 = 36;
pub const BATCH_FORGET: u32 = 42;
pub const RENAME2: u32 = 45;

/// What SETATTR changes.
pub const SET_MODE: u32 = 1;
pub const SET_UID: u32 = 1 << 1;
pub const SET_GID: u32 = 1 << 2;
pub const SET_SIZE: u32 = 1 << 3;
pub const SET_ATIME: u32 = 1 << 4;
pub const SET_MTIME: u32 = 1 << 5;
pub const SET_ATIME_NOW: u32 = 1 << 7;
pub const SET_MTIME_NOW: u32 = 1 << 8;

/// Sizes are no promise (/proc), and nobody but us knows when content changes: the host keeps no pages.
const DIRECT_IO: u32 = 1;

const HEADER: usize = 40;

/// The head of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
}

impl Header {
    pub fn split(request: &[u8]) -> Result<(Header, Args<'_>), Errno> {
        let (head, args) = request.split_at_checked(HEADER).ok_or(Errno::EINVAL)?;
        let mut head = Args(head);
        head.u32()?;
        let (opcode, unique, node) = (head.u32()?, head.u64()?, head.u64()?);
        Ok((Header { opcode, unique, node, uid: head.u32()?, gid: head.u32()? }, Args(args)))
    }
}

/// The rest of a request, taken from the front.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(*head)
    }
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn skip(&mut self, count: usize) -> Result<(), Errno> {
        self.0 = self.0.get(count..).ok_or(Errno::EINVAL)?;
        Ok(())
    }
    /// A text that ends in NUL.
    pub fn text(&mut self) -> Result<&'a [u8], Errno> {
        let length = self.0.iter().position(|b| *b == 0).ok_or(Errno::EINVAL)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Errno::EINVAL)?;
        self.0 = rest.get(1..).ok_or(Errno::EINVAL)?;
        Ok(text)
    }
    /// One name of a directory.
    pub fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.text()?;
        match name {
            b"" | b"." | b".." => Err(Errno::EINVAL),
            name if name.contains(&b'/') => Err(Errno::EINVAL),
            name => Ok(name),
        }
    }
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A whole reply; `error` is zero or a negative number.
pub fn reply(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len().saturating_add(16)).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(body.len().saturating_add(16));
    out.extend(length.to_le_bytes());
    out.extend(error.to_le_bytes());
    out.extend(unique.to_le_bytes());
    out.extend(body);
    out
}

fn numbers64(out: &mut Vec<u8>, numbers: &[u64]) {
    out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
}

fn numbers32(out: &mut Vec<u8>, numbers: &[u32]) {
    out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
}

/// `struct fuse_attr`, with owners as the host has them.
fn attr(out: &mut Vec<u8>, attr: &Attr, (uid, gid): (u32, u32)) {
    let seconds = |t: chitin_abi::time::Timespec| t.tv_sec.cast_unsigned();
    let nanos = |t: chitin_abi::time::Timespec| low32(t.tv_nsec.cast_unsigned());
    // One device for the host, many for the container: programs that look for hard links must not find false ones.
    let ino = attr.ino ^ attr.dev.rotate_left(40);
    let times = [seconds(attr.atime), seconds(attr.mtime), seconds(attr.ctime)];
    numbers64(out, &[ino.max(ROOT), attr.size, attr.blocks]);
    numbers64(out, &times);
    numbers32(out, &[nanos(attr.atime), nanos(attr.mtime), nanos(attr.ctime)]);
    numbers32(out, &[attr.mode(), attr.nlink, uid, gid, low32(attr.rdev), attr.blksize, 0]);
}

/// `struct fuse_attr_out`, valid for no time.
pub fn attr_out(of: &Attr, owner: (u32, u32)) -> Vec<u8> {
    let mut out = vec![0; 16];
    attr(&mut out, of, owner);
    out
}

/// `struct fuse_entry_out`, valid for no time.
pub fn entry_out(node: u64, of: &Attr, owner: (u32, u32)) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    numbers64(&mut out, &[node, 0, 0, 0, 0]);
    attr(&mut out, of, owner);
    out
}

/// `struct fuse_open_out`.
pub fn open_out(handle: u64, directory: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    numbers64(&mut out, &[handle]);
    numbers32(&mut out, &[if directory { 0 } else { DIRECT_IO }, 0]);
    out
}

/// `struct fuse_write_out` and `struct fuse_getxattr_out`.
pub fn count_out(count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    numbers32(&mut out, &[u32::try_from(count).unwrap_or(u32::MAX), 0]);
    out
}

/// `struct fuse_statfs_out`.
pub fn statfs_out(s: &Statfs) -> Vec<u8> {
    let small = |n: i64| u32::try_from(n).unwrap_or(4096);
    let mut out = Vec::with_capacity(80);
    numbers64(&mut out, &[s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree]);
    numbers32(&mut out, &[small(s.f_bsize), small(s.f_namelen), small(s.f_frsize), 0, 0, 0, 0, 0, 0, 0]);
    out
}

/// `struct fuse_dirent`; `false` when it is more than `room` in all.
pub fn dirent(out: &mut Vec<u8>, room: usize, (ino, next, kind): (u64, u64, u8), name: &[u8]) -> bool {
    let length = 24usize.saturating_add(name.len()).next_multiple_of(8);
    let end = out.len().saturating_add(length);
    if end > room {
        return false;
    }
    numbers64(out, &[ino, next]);
    numbers32(out, &[u32::try_from(name.len()).unwrap_or(0), u32::from(kind)]);
    out.extend(name);
    out.resize(end, 0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_vfs::FileKind;

    #[test]
    fn sizes_are_the_protocols() {
        let a = Attr::plain(1, 2, FileKind::Regular, 0o644);
        assert_eq!(attr_out(&a, (0, 0)).len(), 104);
        assert_eq!(entry_out(5, &a, (0, 0)).len(), 128);
        assert_eq!((open_out(1, true).len(), count_out(1).len()), (16, 8));
        assert_eq!(reply(9, -2, b"abc").len(), 19);
    }

    #[test]
    fn requests_are_taken_apart_with_checks() {
        assert!(Header::split(&[0; 39]).is_err());
        let mut request = vec![0; 40];
        request[4] = 1;
        request.extend(b"name\0rest");
        let (header, mut args) = Header::split(&request).unwrap();
        assert_eq!((header.opcode, args.name()), (1, Ok(&b"name"[..])));
        assert_eq!(args.text(), Err(Errno::EINVAL));
        for bad in [&b"a/b\0"[..], b"..\0", b"\0", b"x"] {
            assert!(Args(bad).name().is_err(), "{bad:?}");
        }
        assert!(Args(&[1, 2, 3]).u32().is_err());
    }

    #[test]
    fn entries_are_padded_and_bounded() {
        let mut out = Vec::new();
        assert!(dirent(&mut out, 64, (1, 2, 8), b"abc"));
        assert_eq!(out.len(), 32);
        assert!(dirent(&mut out, 64, (1, 2, 8), b"12345678"));
        assert!(!dirent(&mut out, 64, (1, 2, 8), b""));
        assert_eq!(out.len(), 64);
    }
}
