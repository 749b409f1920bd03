//! seccomp(2) and prctl's two requests about it: arguments from guest memory; the kernel crate does the rest.

use crate::{Args, done};
use chitin_abi::Errno;
use chitin_abi::seccomp::*;
use chitin_kernel::seccomp::install;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn seccomp(task: &Arc<Task>, args: Args) -> Outcome {
    done(operation(task, args.u32(0), args.u32(1), args.u64(2)))
}

fn operation(task: &Arc<Task>, op: u32, flags: u32, at: u64) -> Result<u64, Errno> {
    match op {
        SECCOMP_SET_MODE_STRICT if flags == 0 && at == 0 => install::set_strict(task).map(|()| 0),
        SECCOMP_SET_MODE_FILTER => set_filter(task, flags, at),
        SECCOMP_GET_ACTION_AVAIL if flags == 0 => match task.mm().read::<u32>(at)? {
            SECCOMP_RET_KILL_PROCESS
            | SECCOMP_RET_KILL_THREAD
            | SECCOMP_RET_TRAP
            | SECCOMP_RET_ERRNO
            | SECCOMP_RET_USER_NOTIF
            | SECCOMP_RET_TRACE
            | SECCOMP_RET_LOG
            | SECCOMP_RET_ALLOW => Ok(0),
            _ => Err(Errno::EOPNOTSUPP),
        },
        SECCOMP_GET_NOTIF_SIZES if flags == 0 => {
            let sizes = SeccompNotifSizes {
                seccomp_notif: u16::try_from(size_of::<SeccompNotif>()).unwrap_or(u16::MAX),
                seccomp_notif_resp: u16::try_from(size_of::<SeccompNotifResp>()).unwrap_or(u16::MAX),
                seccomp_data: u16::try_from(size_of::<SeccompData>()).unwrap_or(u16::MAX),
            };
            task.mm().write(at, &sizes).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_filter(task: &Arc<Task>, flags: u32, at: u64) -> Result<u64, Errno> {
    install::check_flags(flags)?;
    let program: SockFprog = task.mm().read(at)?;
    let len = usize::from(program.len);
    if len == 0 || len > BPF_MAXINSNS {
        return Err(Errno::EINVAL);
    }
    install::check_privilege(task)?;
    let code = task.mm().read_array::<SockFilter>(program.filter, len)?;
    install::set_filter(task, flags, code)
}

/// PR_SET_SECCOMP.
pub(crate) fn prctl_set(task: &Arc<Task>, mode: u64, filter: u64) -> Result<u64, Errno> {
    match u32::try_from(mode) {
        Ok(SECCOMP_MODE_STRICT) => operation(task, SECCOMP_SET_MODE_STRICT, 0, 0),
        Ok(SECCOMP_MODE_FILTER) => operation(task, SECCOMP_SET_MODE_FILTER, 0, filter),
        _ => Err(Errno::EINVAL),
    }
}
