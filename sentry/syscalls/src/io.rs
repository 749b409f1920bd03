//! read, write and their relatives, positions, syncing.

use crate::Args;
use chitin_abi::Errno;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn read(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn write(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn pread64(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn pwrite64(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn readv(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn writev(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn preadv(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn pwritev(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn preadv2(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn pwritev2(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn lseek(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn fsync(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn fdatasync(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn sync(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn syncfs(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn sync_file_range(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn fallocate(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn fadvise64(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn readahead(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}
