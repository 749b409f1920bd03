//! unshare(2). The kernel makes the namespaces; here is who may ask for which.

use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::sched::*;
use chitin_kernel::{Outcome, Task, ns};
use std::sync::Arc;

/// All flags that Linux knows.
const UNSHARE: u64 = CLONE_THREAD
    | CLONE_FS
    | CLONE_NEWNS
    | CLONE_SIGHAND
    | CLONE_VM
    | CLONE_FILES
    | CLONE_SYSVSEM
    | NAMESPACES
    | CLONE_NEWUSER
    | CLONE_NEWNET
    | CLONE_NEWTIME;
/// Those whose namespaces there are.
const NAMESPACES: u64 = CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWCGROUP;

pub(crate) fn unshare(task: &Arc<Task>, args: Args) -> Outcome {
    unit(unshare_flags(task, args.u64(0)))
}

fn unshare_flags(task: &Arc<Task>, flags: u64) -> Result<(), Errno> {
    let has = |flag| flags & flag != 0;
    if flags & !UNSHARE != 0 {
        return Err(Errno::EINVAL);
    }
    if has(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) && task.process.threads().len() > 1 {
        return Err(Errno::EINVAL);
    }
    // As a kernel built without user namespaces.
    if has(CLONE_NEWUSER) {
        return Err(Errno::EINVAL);
    }
    let privileged = task.creds().capable(CAP_SYS_ADMIN);
    if has(CLONE_NEWNS | NAMESPACES | CLONE_NEWNET | CLONE_NEWTIME) && !privileged {
        return Err(Errno::EPERM);
    }
    // And without these.
    if has(CLONE_NEWNET | CLONE_NEWTIME) {
        return Err(Errno::EINVAL);
    }
    if has(NAMESPACES) {
        ns::unshare(task, flags)?;
    }
    if has(CLONE_NEWNS) {
        task.set_fs(task.fs().with_new_namespace());
    } else if has(CLONE_FS) {
        task.set_fs(task.fs().copy());
    }
    if has(CLONE_FILES) {
        task.set_files(task.files().copy());
    }
    Ok(())
}
