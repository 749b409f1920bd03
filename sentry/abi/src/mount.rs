//! Mounting: the flags of `mount`, `umount2`, `move_mount`, `open_tree`, `fsopen`, `mount_setattr`
//! and `statmount`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// `mount` flags.
pub const MS_RDONLY: u64 = 1;
pub const MS_NOSUID: u64 = 2;
pub const MS_NODEV: u64 = 4;
pub const MS_NOEXEC: u64 = 8;
pub const MS_SYNCHRONOUS: u64 = 16;
pub const MS_REMOUNT: u64 = 32;
pub const MS_MANDLOCK: u64 = 64;
pub const MS_DIRSYNC: u64 = 128;
pub const MS_NOSYMFOLLOW: u64 = 256;
pub const MS_NOATIME: u64 = 1024;
pub const MS_NODIRATIME: u64 = 2048;
pub const MS_BIND: u64 = 4096;
pub const MS_MOVE: u64 = 8192;
pub const MS_REC: u64 = 16384;
pub const MS_VERBOSE: u64 = 32768;
pub const MS_SILENT: u64 = 32768;
pub const MS_POSIXACL: u64 = 1 << 16;
pub const MS_UNBINDABLE: u64 = 1 << 17;
pub const MS_PRIVATE: u64 = 1 << 18;
pub const MS_SLAVE: u64 = 1 << 19;
pub const MS_SHARED: u64 = 1 << 20;
pub const MS_RELATIME: u64 = 1 << 21;
pub const MS_KERNMOUNT: u64 = 1 << 22;
pub const MS_I_VERSION: u64 = 1 << 23;
pub const MS_STRICTATIME: u64 = 1 << 24;
pub const MS_LAZYTIME: u64 = 1 << 25;
pub const MS_SUBMOUNT: u64 = 1 << 26;
pub const MS_NOREMOTELOCK: u64 = 1 << 27;
pub const MS_NOSEC: u64 = 1 << 28;
pub const MS_BORN: u64 = 1 << 29;
pub const MS_ACTIVE: u64 = 1 << 30;
pub const MS_NOUSER: u64 = 0xffffffff80000000;
pub const MS_RMT_MASK: u64 = 0x0280_0051;
pub const MS_MGC_VAL: u64 = 0xc0ed_0000;
pub const MS_MGC_MSK: u64 = 0xffff_0000;

// `umount2`.
pub const MNT_FORCE: u32 = 1;
pub const MNT_DETACH: u32 = 2;
pub const MNT_EXPIRE: u32 = 4;
pub const UMOUNT_NOFOLLOW: u32 = 8;
pub const UMOUNT_UNUSED: u32 = 0x8000_0000;

// `open_tree`.
pub const OPEN_TREE_CLONE: u32 = 1;
pub const OPEN_TREE_CLOEXEC: u32 = 0o2000000;

// `move_mount`.
pub const MOVE_MOUNT_F_SYMLINKS: u32 = 0x0000_0001;
pub const MOVE_MOUNT_F_AUTOMOUNTS: u32 = 0x0000_0002;
pub const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x0000_0004;
pub const MOVE_MOUNT_T_SYMLINKS: u32 = 0x0000_0010;
pub const MOVE_MOUNT_T_AUTOMOUNTS: u32 = 0x0000_0020;
pub const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x0000_0040;
pub const MOVE_MOUNT_SET_GROUP: u32 = 0x0000_0100;
pub const MOVE_MOUNT_BENEATH: u32 = 0x0000_0200;

pub const MOVE_MOUNT__MASK: u32 = 0x0000_0377;

// `fsopen`, `fspick`, `fsmount`.
pub const FSOPEN_CLOEXEC: u32 = 0x0000_0001;
pub const FSPICK_CLOEXEC: u32 = 0x0000_0001;
pub const FSPICK_SYMLINK_NOFOLLOW: u32 = 0x0000_0002;
pub const FSPICK_NO_AUTOMOUNT: u32 = 0x0000_0004;
pub const FSPICK_EMPTY_PATH: u32 = 0x0000_0008;
pub const FSMOUNT_CLOEXEC: u32 = 0x0000_0001;

// `fsconfig` commands.
pub const FSCONFIG_SET_FLAG: u32 = 0;
pub const FSCONFIG_SET_STRING: u32 = 1;
pub const FSCONFIG_SET_BINARY: u32 = 2;
pub const FSCONFIG_SET_PATH: u32 = 3;
pub const FSCONFIG_SET_PATH_EMPTY: u32 = 4;
pub const FSCONFIG_SET_FD: u32 = 5;
pub const FSCONFIG_CMD_CREATE: u32 = 6;
pub const FSCONFIG_CMD_RECONFIGURE: u32 = 7;
pub const FSCONFIG_CMD_CREATE_EXCL: u32 = 8;

// Mount attributes.
pub const MOUNT_ATTR_RDONLY: u64 = 0x0000_0001;
pub const MOUNT_ATTR_NOSUID: u64 = 0x0000_0002;
pub const MOUNT_ATTR_NODEV: u64 = 0x0000_0004;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x0000_0008;
pub const MOUNT_ATTR__ATIME: u64 = 0x0000_0070;
pub const MOUNT_ATTR_RELATIME: u64 = 0x0000_0000;
pub const MOUNT_ATTR_NOATIME: u64 = 0x0000_0010;
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x0000_0020;
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x0000_0080;
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

// Smallest `mount_setattr` structure.
pub const MOUNT_ATTR_SIZE_VER0: usize = 32;

// `statmount` masks.
pub const STATMOUNT_SB_BASIC: u64 = 0x01;
pub const STATMOUNT_MNT_BASIC: u64 = 0x02;
pub const STATMOUNT_PROPAGATE_FROM: u64 = 0x04;
pub const STATMOUNT_MNT_ROOT: u64 = 0x08;
pub const STATMOUNT_MNT_POINT: u64 = 0x10;
pub const STATMOUNT_FS_TYPE: u64 = 0x20;
pub const STATMOUNT_MNT_NS_ID: u64 = 0x40;
pub const STATMOUNT_MNT_OPTS: u64 = 0x80;
pub const LSMT_ROOT: u64 = u64::MAX;

/// Argument of `mount_setattr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MountAttr {
    pub attr_set: u64,
    pub attr_clr: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// Argument of `statmount` and `listmount`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MntIdReq {
    pub size: u32,
    pub spare: u32,
    pub mnt_id: u64,
    pub param: u64,
    pub mnt_ns_id: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layouts() {
        assert_eq!(size_of::<MountAttr>(), MOUNT_ATTR_SIZE_VER0);
        assert_eq!(size_of::<MntIdReq>(), 32);
    }
}
