//! Inode attributes and their changes.

use chitin_abi::num::low8;
use chitin_abi::stat::*;
use chitin_abi::time::Timespec;

/// The type of a file, immutable over its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// The S_IFMT bits.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => S_IFREG,
            FileKind::Directory => S_IFDIR,
            FileKind::Symlink => S_IFLNK,
            FileKind::Fifo => S_IFIFO,
            FileKind::Socket => S_IFSOCK,
            FileKind::CharDevice => S_IFCHR,
            FileKind::BlockDevice => S_IFBLK,
        }
    }

    /// From the S_IFMT bits of a mode; `None` for none or an unknown type.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & S_IFMT {
            S_IFREG => FileKind::Regular,
            S_IFDIR => FileKind::Directory,
            S_IFLNK => FileKind::Symlink,
            S_IFIFO => FileKind::Fifo,
            S_IFSOCK => FileKind::Socket,
            S_IFCHR => FileKind::CharDevice,
            S_IFBLK => FileKind::BlockDevice,
            _ => return None,
        })
    }

    /// The d_type of getdents(2).
    pub fn dirent_type(self) -> u8 {
        low8(self.mode_bits() >> 12)
    }
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// The guest's device number of the file system.
    pub dev: u64,
    pub ino: u64,
    pub kind: FileKind,
    /// Permission bits incl. setuid, setgid, sticky (07777).
    pub perm: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// For device nodes.
    pub rdev: u64,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    pub btime: Timespec,
}

impl Attr {
    pub fn mode(&self) -> u32 {
        self.kind.mode_bits() | self.perm
    }

    /// A plain attribute set of a virtual file.
    pub fn plain(dev: u64, ino: u64, kind: FileKind, perm: u32) -> Attr {
        let zero = Timespec::default();
        Attr {
            dev,
            ino,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: zero,
        }
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    Now,
    At(Timespec),
}

/// A change of attributes, already permitted by the VFS. ctime follows by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// New permission bits (07777).
    pub perm: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}
