//! Errors of the gofer and of the host as the guest sees them.

use chitin_abi::Errno;
use chitin_gofer_protocol::GoferError;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The guest's error for one of the gofer.
pub fn from_gofer(error: GoferError) -> Errno {
    match error {
        GoferError::Errno(raw) => match Errno::from_raw(raw) {
            // A table of the sentry or the gofer is full, not the guest's.
            Some(Errno::EMFILE) => Errno::ENFILE,
            // A node that the gofer does not know: nothing the guest's descriptors have to do with.
            Some(Errno::EBADF) => Errno::ESTALE,
            Some(errno) => errno,
            None => Errno::EIO,
        },
        GoferError::Gone | GoferError::Protocol(_) => {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Ordering::Relaxed) {
                tracing::error!("{error}");
            }
            Errno::EIO
        }
    }
}

/// The guest's error for one of the host's.
pub fn from_host(error: io::Error) -> Errno {
    match error.raw_os_error().and_then(Errno::from_raw) {
        Some(Errno::EMFILE) => Errno::ENFILE,
        Some(errno) => errno,
        None => Errno::EIO,
    }
}
