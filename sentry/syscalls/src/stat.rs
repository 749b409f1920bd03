//! stat, statx, statfs, access, getdents.

use crate::Args;
use chitin_abi::Errno;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn stat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn lstat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn fstat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn newfstatat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn statx(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn statfs(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn fstatfs(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn ustat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn access(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn faccessat(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn faccessat2(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn getdents(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn getdents64(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}
