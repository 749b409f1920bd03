//! Futexes and robust lists.

use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) fn futex(task: &Arc<Task>, args: Args) -> Outcome {
    chitin_kernel::futex::futex(task, args.0)
}

pub(crate) fn futex_waitv(task: &Arc<Task>, args: Args) -> Outcome {
    let [a, b, c, d, e, _] = args.0;
    chitin_kernel::futex::futex_waitv(task, [a, b, c, d, e])
}

/// The size of `struct robust_list_head`.
const HEAD_SIZE: u64 = 24;

pub(crate) fn set_robust_list(task: &Arc<Task>, args: Args) -> Outcome {
    if args.u64(1) != HEAD_SIZE {
        return Outcome::error(Errno::EINVAL);
    }
    task.robust_list.store(args.u64(0), Ordering::Relaxed);
    Outcome::value(0)
}

pub(crate) fn get_robust_list(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let other = match args.i32(0) {
            0 => task.clone(),
            tid => task.find_task(tid).ok_or(Errno::ESRCH)?,
        };
        crate::misc::may_access(task, &other)?;
        task.mm().write(args.u64(2), &HEAD_SIZE)?;
        task.mm().write(args.u64(1), &other.robust_list.load(Ordering::Relaxed))
    };
    unit(work())
}
