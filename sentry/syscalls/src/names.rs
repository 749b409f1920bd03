//! Changes of names: mkdir, mknod, link, symlink, unlink, rename, and readlink.

use crate::Args;
use chitin_abi::Errno;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn readlink(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn readlinkat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn mkdir(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn mkdirat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn rmdir(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn mknod(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn mknodat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn symlink(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn symlinkat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn link(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn linkat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn unlink(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn unlinkat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn rename(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn renameat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn renameat2(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}
