//! Extended attributes by path. The path is always one of the gofer's own descriptor directory, so
//! that following it reaches exactly the file the descriptor names, be it a symbolic link.

use std::ffi::CStr;

use nix::errno::Errno;

fn length(done: libc::ssize_t) -> nix::Result<usize> {
    Ok(usize::try_from(Errno::result(done)?).unwrap_or(0))
}

pub fn getxattr(path: &CStr, name: &CStr, value: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: both strings end in NUL; pointer and length describe the slice.
    length(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) })
}

pub fn listxattr(path: &CStr, list: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: the string ends in NUL; pointer and length describe the slice.
    length(unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) })
}

pub fn setxattr(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> nix::Result<()> {
    // SAFETY: both strings end in NUL; pointer and length describe the slice, which is only read.
    let done =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    Errno::result(done).map(drop)
}

pub fn removexattr(path: &CStr, name: &CStr) -> nix::Result<()> {
    // SAFETY: both strings end in NUL.
    Errno::result(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}
