//! What a call to the gofer can fail with.

use std::fmt;

use nix::errno::Errno;

/// `Result` of the client's calls.
pub type Result<T> = std::result::Result<T, GoferError>;

/// Failure of a call to the gofer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoferError {
    /// The gofer answered with this errno (a Linux number, as the file operation itself gives it).
    Errno(i32),
    /// What was said breaks the protocol: a reply that does not parse, or a request that does not fit.
    Protocol(&'static str),
    /// The gofer is dead; no call will succeed any more.
    Gone,
}

impl GoferError {
    /// The errno a guest sees: its own for [`GoferError::Errno`], `EIO` for the rest.
    pub fn errno(self) -> i32 {
        match self {
            GoferError::Errno(errno) => errno,
            GoferError::Protocol(_) | GoferError::Gone => libc::EIO,
        }
    }
}

impl fmt::Display for GoferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GoferError::Errno(errno) => write!(f, "the gofer answered: {}", Errno::from_raw(*errno).desc()),
            GoferError::Protocol(what) => write!(
                f,
                "the gofer and the sentry disagree ({what}): both must be the same chitin executable; \
                 restart the container"
            ),
            GoferError::Gone => write!(
                f,
                "the container's gofer has died, its files are unreachable: see the gofer's log for the \
                 cause and restart the container"
            ),
        }
    }
}

impl std::error::Error for GoferError {}
