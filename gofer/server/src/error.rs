//! Why a gofer could not start.

use std::fmt;

use nix::errno::Errno;

/// A step that failed, why, and what to do about it; displays as one line.
#[derive(Debug)]
pub struct Error {
    step: String,
    cause: String,
    remedy: &'static str,
}

impl Error {
    pub(crate) fn new(step: impl Into<String>, cause: impl fmt::Display, remedy: &'static str) -> Error {
        Error { step: step.into(), cause: cause.to_string(), remedy }
    }

    /// A host call that failed with an errno whose usual cause the remedy is derived from.
    pub(crate) fn host(step: &str, what: &str, errno: Errno) -> Error {
        let remedy = match errno {
            Errno::EPERM | Errno::EACCES => {
                "start the gofer as root, or rootless in a user namespace of its own with a mount namespace"
            }
            Errno::ENOSYS => {
                "run on Linux 5.12 or later, and let the calling container's seccomp profile admit it"
            }
            Errno::ENOENT | Errno::ENOTDIR => "check the path in the container's configuration",
            Errno::EMFILE | Errno::ENFILE => "raise the limit of open files (ulimit -n)",
            Errno::ENOMEM => "give the host or the container's cgroup more memory",
            _ => "see the errno in the kernel's documentation and the host's kernel log",
        };
        Error::new(format!("{step} {what}"), errno.desc(), remedy)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gofer: cannot {}: {}; {}", self.step, self.cause, self.remedy)
    }
}

impl std::error::Error for Error {}
