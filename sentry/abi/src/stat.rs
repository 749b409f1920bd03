//! File attributes: `stat`, `statx`, `statfs`, file modes, device numbers and directory entries.

use crate::num::{low16, low32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// File types within a mode.
pub const S_IFMT: u32 = 0o170000;
pub const S_IFSOCK: u32 = 0o140000;
pub const S_IFLNK: u32 = 0o120000;
pub const S_IFREG: u32 = 0o100000;
pub const S_IFBLK: u32 = 0o60000;
pub const S_IFDIR: u32 = 0o40000;
pub const S_IFCHR: u32 = 0o20000;
pub const S_IFIFO: u32 = 0o10000;

// Permission bits.
pub const S_ISUID: u32 = 0o4000;
pub const S_ISGID: u32 = 0o2000;
pub const S_ISVTX: u32 = 0o1000;
pub const S_IRWXU: u32 = 0o700;
pub const S_IRUSR: u32 = 0o400;
pub const S_IWUSR: u32 = 0o200;
pub const S_IXUSR: u32 = 0o100;
pub const S_IRWXG: u32 = 0o70;
pub const S_IRGRP: u32 = 0o40;
pub const S_IWGRP: u32 = 0o20;
pub const S_IXGRP: u32 = 0o10;
pub const S_IRWXO: u32 = 0o7;
pub const S_IROTH: u32 = 0o4;
pub const S_IWOTH: u32 = 0o2;
pub const S_IXOTH: u32 = 0o1;
pub const S_IRWXUGO: u32 = 0o777;
pub const S_IALLUGO: u32 = 0o7777;

// `statx` mask.
pub const STATX_TYPE: u32 = 0x0000_0001;
pub const STATX_MODE: u32 = 0x0000_0002;
pub const STATX_NLINK: u32 = 0x0000_0004;
pub const STATX_UID: u32 = 0x0000_0008;
pub const STATX_GID: u32 = 0x0000_0010;
pub const STATX_ATIME: u32 = 0x0000_0020;
pub const STATX_MTIME: u32 = 0x0000_0040;
pub const STATX_CTIME: u32 = 0x0000_0080;
pub const STATX_INO: u32 = 0x0000_0100;
pub const STATX_SIZE: u32 = 0x0000_0200;
pub const STATX_BLOCKS: u32 = 0x0000_0400;
pub const STATX_BTIME: u32 = 0x0000_0800;
pub const STATX_DIOALIGN: u32 = 0x0000_2000;
pub const STATX_ALL: u32 = 0x0000_0fff;
pub const STATX_BASIC_STATS: u32 = 0x0000_07ff;
pub const STATX_MNT_ID: u32 = 0x0000_1000;
pub const STATX__RESERVED: u32 = 0x8000_0000;
pub const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
pub const STATX_SUBVOL: u32 = 0x8000;
pub const STATX_WRITE_ATOMIC: u32 = 0x0001_0000;
pub const STATX_DIO_READ_ALIGN: u32 = 0x0002_0000;

// `statx` attributes.
pub const STATX_ATTR_COMPRESSED: u64 = 0x0000_0004;
pub const STATX_ATTR_IMMUTABLE: u64 = 0x0000_0010;
pub const STATX_ATTR_APPEND: u64 = 0x0000_0020;
pub const STATX_ATTR_NODUMP: u64 = 0x0000_0040;
pub const STATX_ATTR_ENCRYPTED: u64 = 0x0000_0800;
pub const STATX_ATTR_AUTOMOUNT: u64 = 0x0000_1000;
pub const STATX_ATTR_MOUNT_ROOT: u64 = 0x0000_2000;
pub const STATX_ATTR_VERITY: u64 = 0x0010_0000;
pub const STATX_ATTR_DAX: u64 = 0x0020_0000;
pub const STATX_ATTR_WRITE_ATOMIC: u64 = 0x0040_0000;

// `d_type` of a directory entry.
pub const DT_UNKNOWN: u8 = 0;
pub const DT_FIFO: u8 = 1;
pub const DT_CHR: u8 = 2;
pub const DT_DIR: u8 = 4;
pub const DT_BLK: u8 = 6;
pub const DT_REG: u8 = 8;
pub const DT_LNK: u8 = 10;
pub const DT_SOCK: u8 = 12;
pub const DT_WHT: u8 = 14;

// `statfs` flags.
pub const ST_RDONLY: u64 = 0x0001;
pub const ST_NOSUID: u64 = 0x0002;
pub const ST_NODEV: u64 = 0x0004;
pub const ST_NOEXEC: u64 = 0x0008;
pub const ST_SYNCHRONOUS: u64 = 0x0010;
pub const ST_VALID: u64 = 0x0020;
pub const ST_MANDLOCK: u64 = 0x0040;
pub const ST_NOATIME: u64 = 0x0400;
pub const ST_NODIRATIME: u64 = 0x0800;
pub const ST_RELATIME: u64 = 0x1000;
pub const ST_NOSYMFOLLOW: u64 = 0x2000;

// File system magic numbers.
pub const ADFS_SUPER_MAGIC: u64 = 0xadf5;
pub const AFFS_SUPER_MAGIC: u64 = 0xadff;
pub const AFS_SUPER_MAGIC: u64 = 0x5346_414f;
pub const AUTOFS_SUPER_MAGIC: u64 = 0x0187;
pub const CEPH_SUPER_MAGIC: u64 = 0x00c3_6400;
pub const CODA_SUPER_MAGIC: u64 = 0x7375_7245;
pub const CRAMFS_MAGIC: u64 = 0x28cd_3d45;
pub const DEBUGFS_MAGIC: u64 = 0x6462_6720;
pub const SECURITYFS_MAGIC: u64 = 0x7363_6673;
pub const SELINUX_MAGIC: u64 = 0xf97c_ff8c;
pub const SMACK_MAGIC: u64 = 0x4341_5d53;
pub const RAMFS_MAGIC: u64 = 0x8584_58f6;
pub const TMPFS_MAGIC: u64 = 0x0102_1994;
pub const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
pub const SQUASHFS_MAGIC: u64 = 0x7371_7368;
pub const ECRYPTFS_SUPER_MAGIC: u64 = 0xf15f;
pub const EFS_SUPER_MAGIC: u64 = 0x0041_4a53;
pub const EXT2_SUPER_MAGIC: u64 = 0xef53;
pub const EXT3_SUPER_MAGIC: u64 = 0xef53;
pub const XENFS_SUPER_MAGIC: u64 = 0xabba_1974;
pub const EXT4_SUPER_MAGIC: u64 = 0xef53;
pub const BTRFS_SUPER_MAGIC: u64 = 0x9123_683e;
pub const NILFS_SUPER_MAGIC: u64 = 0x3434;
pub const F2FS_SUPER_MAGIC: u64 = 0xf2f5_2010;
pub const HPFS_SUPER_MAGIC: u64 = 0xf995_e849;
pub const ISOFS_SUPER_MAGIC: u64 = 0x9660;
pub const JFFS2_SUPER_MAGIC: u64 = 0x72b6;
pub const XFS_SUPER_MAGIC: u64 = 0x5846_5342;
pub const PSTOREFS_MAGIC: u64 = 0x6165_676c;
pub const EFIVARFS_MAGIC: u64 = 0xde5e_81e4;
pub const HOSTFS_SUPER_MAGIC: u64 = 0x00c0_ffee;
pub const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
pub const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
pub const MINIX_SUPER_MAGIC: u64 = 0x137f;
pub const MINIX2_SUPER_MAGIC: u64 = 0x2468;
pub const MINIX3_SUPER_MAGIC: u64 = 0x4d5a;
pub const MSDOS_SUPER_MAGIC: u64 = 0x4d44;
pub const EXFAT_SUPER_MAGIC: u64 = 0x2011_bab0;
pub const NCP_SUPER_MAGIC: u64 = 0x564c;
pub const NFS_SUPER_MAGIC: u64 = 0x6969;
pub const OCFS2_SUPER_MAGIC: u64 = 0x7461_636f;
pub const OPENPROM_SUPER_MAGIC: u64 = 0x9fa1;
pub const QNX4_SUPER_MAGIC: u64 = 0x002f;
pub const QNX6_SUPER_MAGIC: u64 = 0x6819_1122;
pub const AFS_FS_MAGIC: u64 = 0x6b41_4653;
pub const REISERFS_SUPER_MAGIC: u64 = 0x5265_4973;
pub const SMB_SUPER_MAGIC: u64 = 0x517b;
pub const CIFS_SUPER_MAGIC: u64 = 0xff53_4d42;
pub const SMB2_SUPER_MAGIC: u64 = 0xfe53_4d42;
pub const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
pub const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
pub const RDTGROUP_SUPER_MAGIC: u64 = 0x0765_5821;
pub const TRACEFS_MAGIC: u64 = 0x7472_6163;
pub const V9FS_MAGIC: u64 = 0x0102_1997;
pub const BDEVFS_MAGIC: u64 = 0x6264_6576;
pub const DAXFS_MAGIC: u64 = 0x6464_6178;
pub const BINFMTFS_MAGIC: u64 = 0x4249_4e4d;
pub const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
pub const BINDERFS_SUPER_MAGIC: u64 = 0x6c6f_6f70;
pub const FUTEXFS_SUPER_MAGIC: u64 = 0x0bad_1dea;
pub const PIPEFS_MAGIC: u64 = 0x5049_5045;
pub const PROC_SUPER_MAGIC: u64 = 0x9fa0;
pub const SOCKFS_MAGIC: u64 = 0x534f_434b;
pub const SYSFS_MAGIC: u64 = 0x6265_6572;
pub const USBDEVICE_SUPER_MAGIC: u64 = 0x9fa2;
pub const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
pub const BTRFS_TEST_MAGIC: u64 = 0x7372_7279;
pub const NSFS_MAGIC: u64 = 0x6e73_6673;
pub const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
pub const AAFS_MAGIC: u64 = 0x5a3c_69f0;
pub const ZONEFS_MAGIC: u64 = 0x5a4f_4653;
pub const UDF_SUPER_MAGIC: u64 = 0x1501_3346;
pub const DMA_BUF_MAGIC: u64 = 0x444d_4142;
pub const DEVMEM_MAGIC: u64 = 0x454d_444d;
pub const SECRETMEM_MAGIC: u64 = 0x5345_434d;
pub const PID_FS_MAGIC: u64 = 0x5049_4446;
pub const MQUEUE_MAGIC: u64 = 0x1980_0202;

pub const fn S_ISLNK(mode: u32) -> bool {
    mode & S_IFMT == S_IFLNK
}

pub const fn S_ISREG(mode: u32) -> bool {
    mode & S_IFMT == S_IFREG
}

pub const fn S_ISDIR(mode: u32) -> bool {
    mode & S_IFMT == S_IFDIR
}

pub const fn S_ISCHR(mode: u32) -> bool {
    mode & S_IFMT == S_IFCHR
}

pub const fn S_ISBLK(mode: u32) -> bool {
    mode & S_IFMT == S_IFBLK
}

pub const fn S_ISFIFO(mode: u32) -> bool {
    mode & S_IFMT == S_IFIFO
}

pub const fn S_ISSOCK(mode: u32) -> bool {
    mode & S_IFMT == S_IFSOCK
}

/// The `d_type` that goes with a mode.
pub const fn mode_to_dt(mode: u32) -> u8 {
    ((mode & S_IFMT) >> 12) as u8
}

/// A device number in the encoding that `stat` and `mknod` show (`new_encode_dev`).
pub const fn makedev(major: u32, minor: u32) -> u64 {
    ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)) as u64
}

pub const fn major(dev: u64) -> u32 {
    ((dev & 0xf_ff00) >> 8) as u32
}

pub const fn minor(dev: u64) -> u32 {
    low32((dev & 0xff) | ((dev >> 12) & 0xf_ff00))
}

/// `struct stat`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stat {
    pub st_dev: u64,
    pub st_ino: u64,
    pub st_nlink: u64,
    pub st_mode: u32,
    pub st_uid: u32,
    pub st_gid: u32,
    pub __pad0: u32,
    pub st_rdev: u64,
    pub st_size: i64,
    pub st_blksize: i64,
    pub st_blocks: i64,
    pub st_atime: i64,
    pub st_atime_nsec: i64,
    pub st_mtime: i64,
    pub st_mtime_nsec: i64,
    pub st_ctime: i64,
    pub st_ctime_nsec: i64,
    pub __unused: [i64; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StatxTimestamp {
    pub tv_sec: i64,
    pub tv_nsec: u32,
    pub __reserved: i32,
}

/// `struct statx`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Statx {
    pub stx_mask: u32,
    pub stx_blksize: u32,
    pub stx_attributes: u64,
    pub stx_nlink: u32,
    pub stx_uid: u32,
    pub stx_gid: u32,
    pub stx_mode: u16,
    pub __spare0: u16,
    pub stx_ino: u64,
    pub stx_size: u64,
    pub stx_blocks: u64,
    pub stx_attributes_mask: u64,
    pub stx_atime: StatxTimestamp,
    pub stx_btime: StatxTimestamp,
    pub stx_ctime: StatxTimestamp,
    pub stx_mtime: StatxTimestamp,
    pub stx_rdev_major: u32,
    pub stx_rdev_minor: u32,
    pub stx_dev_major: u32,
    pub stx_dev_minor: u32,
    pub stx_mnt_id: u64,
    pub stx_dio_mem_align: u32,
    pub stx_dio_offset_align: u32,
    pub stx_subvol: u64,
    pub stx_atomic_write_unit_min: u32,
    pub stx_atomic_write_unit_max: u32,
    pub stx_atomic_write_segments_max: u32,
    pub stx_dio_read_offset_align: u32,
    pub __spare3: [u64; 9],
}

/// `struct statfs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Statfs {
    pub f_type: u64,
    pub f_bsize: i64,
    pub f_blocks: u64,
    pub f_bfree: u64,
    pub f_bavail: u64,
    pub f_files: u64,
    pub f_ffree: u64,
    pub f_fsid: [i32; 2],
    pub f_namelen: i64,
    pub f_frsize: i64,
    pub f_flags: u64,
    pub f_spare: [i64; 4],
}

/// The fixed head of `struct linux_dirent64`. The name follows at once (offset 19, in the head's
/// own tail in C), then a zero byte, then zeroes up to `d_reclen`.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LinuxDirent64 {
    pub d_ino: u64,
    pub d_off: i64,
    pub d_reclen: u16,
    pub d_type: u8,
}

impl LinuxDirent64 {
    /// The record length for a name of `name_len` bytes: zero-terminated and a multiple of 8.
    /// `None` if it does not fit the `d_reclen` field.
    pub const fn reclen(name_len: usize) -> Option<u16> {
        if name_len > 65_000 { None } else { Some(low16((19 + low32(name_len as u64) + 1 + 7) & !7)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<Stat>(), size_of::<libc::stat>());
        assert_eq!(offset_of!(Stat, st_rdev), offset_of!(libc::stat, st_rdev));
        assert_eq!(offset_of!(Stat, st_ctime_nsec), offset_of!(libc::stat, st_ctime_nsec));
        assert_eq!(size_of::<Statx>(), 256);
        assert_eq!(offset_of!(Statx, stx_ino), offset_of!(libc::statx, stx_ino));
        assert_eq!(offset_of!(Statx, stx_mtime), offset_of!(libc::statx, stx_mtime));
        assert_eq!(offset_of!(Statx, stx_mnt_id), offset_of!(libc::statx, stx_mnt_id));
        assert_eq!(offset_of!(Statx, stx_subvol), 0xa0);
        assert_eq!(size_of::<Statfs>(), 120);
        assert_eq!(offset_of!(Statfs, f_frsize), offset_of!(libc::statfs, f_frsize));
        assert_eq!(offset_of!(Statfs, f_flags), 80);
        assert_eq!(size_of::<LinuxDirent64>(), offset_of!(libc::dirent64, d_name));
    }

    #[test]
    fn device_numbers() {
        for (ma, mi) in [(0, 0), (1, 3), (5, 2), (136, 255), (259, 256), (0xfff, 0xf_ffff), (8, 0x1_2345)] {
            let dev = makedev(ma, mi);
            assert_eq!((major(dev), minor(dev)), (ma, mi));
            assert_eq!(dev, libc::makedev(ma, mi));
        }
    }

    #[test]
    fn directory_entries() {
        assert_eq!(LinuxDirent64::reclen(1), Some(24));
        assert_eq!(LinuxDirent64::reclen(4), Some(24));
        assert_eq!(LinuxDirent64::reclen(5), Some(32));
        assert_eq!(LinuxDirent64::reclen(usize::MAX), None);
        assert_eq!(mode_to_dt(S_IFSOCK | 0o777), DT_SOCK);
        assert_eq!(mode_to_dt(S_IFLNK), DT_LNK);
        assert!(S_ISDIR(S_IFDIR | 0o755) && !S_ISREG(S_IFDIR) && S_ISFIFO(S_IFIFO));
    }
}
