//! File descriptors and opening: `open`, `openat2`, `fcntl`, `flock`, `fallocate`, `fadvise`,
//! `splice` and the other calls that take a descriptor and flags.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// `open` flags.
pub const O_ACCMODE: u32 = 0o3;
pub const O_RDONLY: u32 = 0;
pub const O_WRONLY: u32 = 0o1;
pub const O_RDWR: u32 = 0o2;
pub const O_CREAT: u32 = 0o100;
pub const O_EXCL: u32 = 0o200;
pub const O_NOCTTY: u32 = 0o400;
pub const O_TRUNC: u32 = 0o1000;
pub const O_APPEND: u32 = 0o2000;
pub const O_NONBLOCK: u32 = 0o4000;
pub const O_DSYNC: u32 = 0o10000;
pub const O_DIRECT: u32 = 0o40000;
pub const O_LARGEFILE: u32 = 0o100000;
pub const O_DIRECTORY: u32 = 0o200000;
pub const O_NOFOLLOW: u32 = 0o400000;
pub const O_NOATIME: u32 = 0o1000000;
pub const O_CLOEXEC: u32 = 0o2000000;
pub const O_SYNC: u32 = 0x0010_1000;
pub const O_PATH: u32 = 0o10000000;
pub const O_TMPFILE: u32 = 0x0041_0000;
pub const O_NDELAY: u32 = 2048;
pub const __O_SYNC: u32 = 0o4000000;
pub const __O_TMPFILE: u32 = 0o20000000;
pub const VALID_OPEN_FLAGS: u32 = O_ACCMODE
    | O_CREAT
    | O_EXCL
    | O_NOCTTY
    | O_TRUNC
    | O_APPEND
    | O_NONBLOCK
    | O_DSYNC
    | FASYNC
    | O_DIRECT
    | O_LARGEFILE
    | O_DIRECTORY
    | O_NOFOLLOW
    | O_NOATIME
    | O_CLOEXEC
    | O_SYNC
    | O_PATH
    | O_TMPFILE;
pub const FASYNC: u32 = 0o20000;

// `fcntl` commands.
pub const F_DUPFD: u32 = 0;
pub const F_GETFD: u32 = 1;
pub const F_SETFD: u32 = 2;
pub const F_GETFL: u32 = 3;
pub const F_SETFL: u32 = 4;
pub const F_GETLK: u32 = 5;
pub const F_SETLK: u32 = 6;
pub const F_SETLKW: u32 = 7;
pub const F_SETOWN: u32 = 8;
pub const F_GETOWN: u32 = 9;
pub const F_SETSIG: u32 = 10;
pub const F_GETSIG: u32 = 11;
pub const F_SETOWN_EX: u32 = 15;
pub const F_GETOWN_EX: u32 = 16;
pub const F_GETOWNER_UIDS: u32 = 17;
pub const F_OFD_GETLK: u32 = 36;
pub const F_OFD_SETLK: u32 = 37;
pub const F_OFD_SETLKW: u32 = 38;
pub const F_SETLEASE: u32 = 1024;
pub const F_GETLEASE: u32 = 1025;
pub const F_CANCELLK: u32 = 1029;
pub const F_DUPFD_CLOEXEC: u32 = 1030;
pub const F_NOTIFY: u32 = 1026;
pub const F_SETPIPE_SZ: u32 = 1031;
pub const F_GETPIPE_SZ: u32 = 1032;
pub const F_ADD_SEALS: u32 = 1033;
pub const F_GET_SEALS: u32 = 1034;
pub const F_GET_RW_HINT: u32 = 1035;
pub const F_SET_RW_HINT: u32 = 1036;
pub const F_GET_FILE_RW_HINT: u32 = 1037;
pub const F_SET_FILE_RW_HINT: u32 = 1038;
pub const F_DUPFD_QUERY: u32 = 1027;
pub const F_CREATED_QUERY: u32 = 1028;

// Descriptor flag.
pub const FD_CLOEXEC: u32 = 1;

// Lock types, as in `Flock::l_type`.
pub const F_RDLCK: i16 = 0;
pub const F_WRLCK: i16 = 1;
pub const F_UNLCK: i16 = 2;

// Owner kinds of `FOwnerEx`.
pub const F_OWNER_TID: i32 = 0;
pub const F_OWNER_PID: i32 = 1;
pub const F_OWNER_PGRP: i32 = 2;

// Seals.
pub const F_SEAL_SEAL: u32 = 0x0001;
pub const F_SEAL_SHRINK: u32 = 0x0002;
pub const F_SEAL_GROW: u32 = 0x0004;
pub const F_SEAL_WRITE: u32 = 0x0008;
pub const F_SEAL_FUTURE_WRITE: u32 = 0x0010;
pub const F_SEAL_EXEC: u32 = 0x0020;

// Write-life hints.
pub const RWH_WRITE_LIFE_NOT_SET: u64 = 0;
pub const RWH_WRITE_LIFE_NONE: u64 = 1;
pub const RWH_WRITE_LIFE_SHORT: u64 = 2;
pub const RWH_WRITE_LIFE_MEDIUM: u64 = 3;
pub const RWH_WRITE_LIFE_LONG: u64 = 4;
pub const RWH_WRITE_LIFE_EXTREME: u64 = 5;
pub const RWF_WRITE_LIFE_NOT_SET: u64 = 0;

// Directory notification.
pub const DN_ACCESS: u32 = 0x0000_0001;
pub const DN_MODIFY: u32 = 0x0000_0002;
pub const DN_CREATE: u32 = 0x0000_0004;
pub const DN_DELETE: u32 = 0x0000_0008;
pub const DN_RENAME: u32 = 0x0000_0010;
pub const DN_ATTRIB: u32 = 0x0000_0020;
pub const DN_MULTISHOT: u32 = 0x8000_0000;

// Directory descriptor standing for the working directory.
pub const AT_FDCWD: i32 = -100;

// Flags of the `*at` calls.
pub const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
pub const AT_EACCESS: u32 = 0x200;
pub const AT_REMOVEDIR: u32 = 0x200;
pub const AT_SYMLINK_FOLLOW: u32 = 0x400;
pub const AT_NO_AUTOMOUNT: u32 = 0x800;
pub const AT_EMPTY_PATH: u32 = 0x1000;
pub const AT_STATX_SYNC_TYPE: u32 = 0x6000;
pub const AT_STATX_SYNC_AS_STAT: u32 = 0x0000;
pub const AT_STATX_FORCE_SYNC: u32 = 0x2000;
pub const AT_STATX_DONT_SYNC: u32 = 0x4000;
pub const AT_RECURSIVE: u32 = 0x8000;
pub const AT_HANDLE_FID: u32 = 0x200;
pub const AT_HANDLE_MNT_ID_UNIQUE: u32 = 0x001;
pub const AT_RENAME_NOREPLACE: u32 = 0x0001;
pub const AT_RENAME_EXCHANGE: u32 = 0x0002;
pub const AT_RENAME_WHITEOUT: u32 = 0x0004;
pub const AT_EXECVE_CHECK: u32 = 0x10000;

// `renameat2`.
pub const RENAME_NOREPLACE: u32 = 1 << 0;
pub const RENAME_EXCHANGE: u32 = 1 << 1;
pub const RENAME_WHITEOUT: u32 = 1 << 2;

// `lseek`.
pub const SEEK_SET: u32 = 0;
pub const SEEK_CUR: u32 = 1;
pub const SEEK_END: u32 = 2;
pub const SEEK_DATA: u32 = 3;
pub const SEEK_HOLE: u32 = 4;

// `openat2`.
pub const RESOLVE_NO_XDEV: u64 = 0x01;
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;
pub const RESOLVE_IN_ROOT: u64 = 0x10;
pub const RESOLVE_CACHED: u64 = 0x20;

// `close_range`.
pub const CLOSE_RANGE_UNSHARE: u32 = 1 << 1;
pub const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;

// `fallocate`.
pub const FALLOC_FL_KEEP_SIZE: u32 = 0x01;
pub const FALLOC_FL_PUNCH_HOLE: u32 = 0x02;
pub const FALLOC_FL_NO_HIDE_STALE: u32 = 0x04;
pub const FALLOC_FL_COLLAPSE_RANGE: u32 = 0x08;
pub const FALLOC_FL_ZERO_RANGE: u32 = 0x10;
pub const FALLOC_FL_INSERT_RANGE: u32 = 0x20;
pub const FALLOC_FL_UNSHARE_RANGE: u32 = 0x40;
pub const FALLOC_FL_WRITE_ZEROES: u32 = 0x80;

// `fadvise64`.
pub const POSIX_FADV_NORMAL: u32 = 0;
pub const POSIX_FADV_RANDOM: u32 = 1;
pub const POSIX_FADV_SEQUENTIAL: u32 = 2;
pub const POSIX_FADV_WILLNEED: u32 = 3;
pub const POSIX_FADV_DONTNEED: u32 = 4;
pub const POSIX_FADV_NOREUSE: u32 = 5;

// `sync_file_range`.
pub const SYNC_FILE_RANGE_WAIT_BEFORE: u32 = 1;
pub const SYNC_FILE_RANGE_WRITE: u32 = 2;
pub const SYNC_FILE_RANGE_WAIT_AFTER: u32 = 4;
pub const SYNC_FILE_RANGE_WRITE_AND_WAIT: u32 = 7;

// `flock`.
pub const LOCK_SH: u32 = 1;
pub const LOCK_EX: u32 = 2;
pub const LOCK_NB: u32 = 4;
pub const LOCK_UN: u32 = 8;
pub const LOCK_MAND: u32 = 32;
pub const LOCK_READ: u32 = 64;
pub const LOCK_WRITE: u32 = 128;
pub const LOCK_RW: u32 = 192;

// `preadv2` and `pwritev2`.
pub const RWF_HIPRI: u32 = 1;
pub const RWF_DSYNC: u32 = 2;
pub const RWF_SYNC: u32 = 4;
pub const RWF_NOWAIT: u32 = 8;
pub const RWF_APPEND: u32 = 16;
pub const RWF_SUPPORTED: u32 = 31;
pub const RWF_NOAPPEND: u32 = 0x20;
pub const RWF_ATOMIC: u32 = 0x40;
pub const RWF_DONTCACHE: u32 = 0x80;

// `splice`, `tee`, `vmsplice`.
pub const SPLICE_F_MOVE: u32 = 1;
pub const SPLICE_F_NONBLOCK: u32 = 2;
pub const SPLICE_F_MORE: u32 = 4;
pub const SPLICE_F_GIFT: u32 = 8;

// `access`.
pub const F_OK: u32 = 0;
pub const X_OK: u32 = 1;
pub const W_OK: u32 = 2;
pub const R_OK: u32 = 4;

// Inode flags of `FS_IOC_GETFLAGS`.
pub const FS_SECRM_FL: u32 = 0x0000_0001;
pub const FS_UNRM_FL: u32 = 0x0000_0002;
pub const FS_COMPR_FL: u32 = 0x0000_0004;
pub const FS_SYNC_FL: u32 = 0x0000_0008;
pub const FS_IMMUTABLE_FL: u32 = 0x0000_0010;
pub const FS_APPEND_FL: u32 = 0x0000_0020;
pub const FS_NODUMP_FL: u32 = 0x0000_0040;
pub const FS_NOATIME_FL: u32 = 0x0000_0080;
pub const FS_DIRTY_FL: u32 = 0x0000_0100;
pub const FS_COMPRBLK_FL: u32 = 0x0000_0200;
pub const FS_NOCOMP_FL: u32 = 0x0000_0400;
pub const FS_ENCRYPT_FL: u32 = 0x0000_0800;
pub const FS_BTREE_FL: u32 = 0x0000_1000;
pub const FS_INDEX_FL: u32 = 0x0000_1000;
pub const FS_IMAGIC_FL: u32 = 0x0000_2000;
pub const FS_JOURNAL_DATA_FL: u32 = 0x0000_4000;
pub const FS_NOTAIL_FL: u32 = 0x0000_8000;
pub const FS_DIRSYNC_FL: u32 = 0x0001_0000;
pub const FS_TOPDIR_FL: u32 = 0x0002_0000;
pub const FS_HUGE_FILE_FL: u32 = 0x0004_0000;
pub const FS_EXTENT_FL: u32 = 0x0008_0000;
pub const FS_VERITY_FL: u32 = 0x0010_0000;
pub const FS_EA_INODE_FL: u32 = 0x0020_0000;
pub const FS_EOFBLOCKS_FL: u32 = 0x0040_0000;
pub const FS_NOCOW_FL: u32 = 0x0080_0000;
pub const FS_DAX_FL: u32 = 0x0200_0000;
pub const FS_INLINE_DATA_FL: u32 = 0x1000_0000;
pub const FS_PROJINHERIT_FL: u32 = 0x2000_0000;
pub const FS_CASEFOLD_FL: u32 = 0x4000_0000;
pub const FS_RESERVED_FL: u32 = 0x8000_0000;

// `setxattr`.
pub const XATTR_CREATE: u32 = 0x1;
pub const XATTR_REPLACE: u32 = 0x2;

/// Record lock of `F_SETLK` and its kin.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Flock {
    pub l_type: i16,
    pub l_whence: i16,
    pub _pad0: u32,
    pub l_start: i64,
    pub l_len: i64,
    pub l_pid: i32,
    pub _pad1: u32,
}

/// Owner of `F_SETOWN_EX`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FOwnerEx {
    pub r#type: i32,
    pub pid: i32,
}

/// Argument of `openat2`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OpenHow {
    pub flags: u64,
    pub mode: u64,
    pub resolve: u64,
}

/// Smallest `OpenHow` a caller may pass.
pub const OPEN_HOW_SIZE_VER0: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<Flock>(), size_of::<libc::flock>());
        assert_eq!(offset_of!(Flock, l_start), offset_of!(libc::flock, l_start));
        assert_eq!(offset_of!(Flock, l_pid), offset_of!(libc::flock, l_pid));
        assert_eq!(size_of::<FOwnerEx>(), 8);
        assert_eq!(size_of::<OpenHow>(), OPEN_HOW_SIZE_VER0);
    }
}
