//! Capabilities and mount attributes.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `set` (a bit per capability) the effective and permitted capabilities of the calling thread
/// and empties the inheritable ones.
pub fn set_capabilities(set: u64) -> nix::Result<()> {
    let half = |bits: u64| {
        let bits = (bits & 0xffff_ffff) as u32;
        CapData { effective: bits, permitted: bits, inheritable: 0 }
    };
    let header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    let data = [half(set), half(set >> 32)];
    // SAFETY: version 3 reads one header and two data structs, which are what the pointers refer to.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(done).map(drop)
}

/// The permitted capabilities of the calling thread, a bit per capability.
pub fn permitted_capabilities() -> nix::Result<u64> {
    let mut header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [const { CapData { effective: 0, permitted: 0, inheritable: 0 } }; 2];
    // SAFETY: version 3 writes two data structs, which is what the pointer refers to.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(done)?;
    let [low, high] = data;
    Ok(u64::from(low.permitted) | (u64::from(high.permitted) << 32))
}

/// Takes a capability out of the bounding set. `EINVAL`: the kernel does not know it.
pub fn drop_bounding_capability(capability: u32) -> nix::Result<()> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    Errno::result(done).map(drop)
}

pub fn clear_ambient_capabilities() -> nix::Result<()> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(done).map(drop)
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets `MOUNT_ATTR_*` on the mount at `path`, and on all below it when `recursive`.
pub fn mount_setattr(dir: BorrowedFd<'_>, path: &CStr, set: u64, recursive: bool) -> nix::Result<()> {
    let attr = MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 };
    set_attr(dir, path, &attr, libc::AT_SYMLINK_NOFOLLOW | if recursive { libc::AT_RECURSIVE } else { 0 })
}

/// Translates ids in a tree of [`open_tree`] by a user namespace's maps; below its top, too, for `all`.
pub fn map_mount_ids(tree: BorrowedFd<'_>, user_ns: BorrowedFd<'_>, all: bool) -> nix::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let userns_fd = u64::try_from(user_ns.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let attr = MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd };
    set_attr(tree, c"", &attr, libc::AT_EMPTY_PATH | if all { libc::AT_RECURSIVE } else { 0 })
}

fn set_attr(dir: BorrowedFd<'_>, path: &CStr, attr: &MountAttr, flags: i32) -> nix::Result<()> {
    // SAFETY: the path ends in NUL; the struct is the first version of mount_attr, of the size given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    Errno::result(done).map(drop)
}

/// A copy of the mount that a descriptor is in, from there on, attached nowhere.
pub fn open_tree(at: BorrowedFd<'_>, recursive: bool) -> nix::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let at_flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = flags | at_flags.cast_unsigned();
    // SAFETY: the path is constant and ends in NUL.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a tree of [`open_tree`].
pub fn move_mount(tree: BorrowedFd<'_>, target: &CStr) -> nix::Result<()> {
    // SAFETY: both paths end in NUL.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(done).map(drop)
}
