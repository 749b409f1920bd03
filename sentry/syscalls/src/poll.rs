//! poll, select, epoll.

use crate::Args;
use chitin_abi::Errno;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn poll(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn ppoll(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn select(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn pselect6(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn epoll_create(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn epoll_create1(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn epoll_ctl(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn epoll_wait(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn epoll_pwait(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}

pub(crate) fn epoll_pwait2(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::ENOSYS)
}
