//! Host system calls that `nix` has no safe wrapper for. The only unsafe code of the gofer.
//!
//! Everything here is stateless and takes descriptors as `BorrowedFd`, paths as `CStr`, buffers as
//! slices; a raw number or pointer never leaves a function.
#![allow(unsafe_code)]

mod fs;
mod process;
mod xattr;

pub use fs::{DirentIter, getdents, statx};
pub use process::{
    clear_ambient_capabilities, drop_bounding_capability, map_mount_ids, mount_setattr, move_mount,
    open_tree, permitted_capabilities, set_capabilities,
};
pub use xattr::{getxattr, listxattr, removexattr, setxattr};
