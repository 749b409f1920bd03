//! Descriptors that a process was started with, known by their numbers.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes an inherited descriptor over and marks it close-on-exec. Each number may be taken once.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD touches no memory; a number that is not open is an error.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open, as just seen, and the configuration names each number once, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
