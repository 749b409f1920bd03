//! prctl(2).

use crate::{Args, done};
use chitin_abi::Errno;
use chitin_abi::capability::*;
use chitin_abi::num::{low32, sign_extend};
use chitin_abi::prctl::*;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::Caps;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) fn prctl(task: &Arc<Task>, args: Args) -> Outcome {
    done(control(task, args))
}

fn control(task: &Arc<Task>, args: Args) -> Result<u64, Errno> {
    let (a2, a3, a4, a5) = (args.u64(1), args.u64(2), args.u64(3), args.u64(4));
    let process = &task.process;
    match args.u32(0) {
        PR_SET_PDEATHSIG => {
            if a2 > 64 {
                return Err(Errno::EINVAL);
            }
            task.parent_death_signal.store(low32(a2), Ordering::Relaxed);
        }
        PR_GET_PDEATHSIG => {
            let signal = task.parent_death_signal.load(Ordering::Relaxed).cast_signed();
            task.mm().write(a2, &signal)?;
        }
        PR_GET_DUMPABLE => return Ok(sign_extend(process.dumpable())),
        PR_SET_DUMPABLE => {
            if a2 > 1 {
                return Err(Errno::EINVAL);
            }
            process.set_dumpable(low32(a2).cast_signed());
        }
        PR_SET_NAME => {
            let mut name = task.mm().read_cstr(a2, 4096)?.unwrap_or_default();
            name.truncate(15);
            task.set_name(&name);
        }
        PR_GET_NAME => {
            let mut name = [0u8; 16];
            for (to, from) in name.iter_mut().zip(task.name()) {
                *to = from;
            }
            task.mm().write_bytes(a2, &name)?;
        }
        PR_GET_KEEPCAPS => return Ok(u64::from(task.creds().securebits & SECBIT_KEEP_CAPS != 0)),
        PR_SET_KEEPCAPS => {
            let mut creds = (*task.creds()).clone();
            match a2 {
                0 => creds.securebits &= !SECBIT_KEEP_CAPS,
                1 => creds.securebits |= SECBIT_KEEP_CAPS,
                _ => return Err(Errno::EINVAL),
            }
            task.set_creds(creds);
        }
        PR_GET_SECUREBITS => return Ok(u64::from(task.creds().securebits)),
        PR_SET_SECUREBITS => {
            let mut creds = (*task.creds()).clone();
            if !creds.capable_here(CAP_SETPCAP) {
                return Err(Errno::EPERM);
            }
            creds.securebits = low32(a2);
            task.set_creds(creds);
        }
        PR_CAPBSET_READ => {
            if a2 > u64::from(CAP_LAST_CAP) {
                return Err(Errno::EINVAL);
            }
            return Ok(u64::from(task.creds().bounding.has(low32(a2))));
        }
        PR_CAPBSET_DROP => {
            let mut creds = (*task.creds()).clone();
            if !creds.capable_here(CAP_SETPCAP) {
                return Err(Errno::EPERM);
            }
            if a2 > u64::from(CAP_LAST_CAP) {
                return Err(Errno::EINVAL);
            }
            creds.bounding = creds.bounding.without(low32(a2));
            task.set_creds(creds);
        }
        PR_CAP_AMBIENT => return ambient(task, a2, a3, a4, a5),
        PR_SET_NO_NEW_PRIVS => {
            if a2 != 1 || a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(Errno::EINVAL);
            }
            let mut creds = (*task.creds()).clone();
            creds.no_new_privs = true;
            task.set_creds(creds);
        }
        PR_GET_NO_NEW_PRIVS => {
            if a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0 {
                return Err(Errno::EINVAL);
            }
            return Ok(u64::from(task.creds().no_new_privs));
        }
        PR_SET_CHILD_SUBREAPER => process.set_child_subreaper(a2 != 0),
        PR_GET_CHILD_SUBREAPER => {
            let value = i32::from(process.is_child_subreaper());
            task.mm().write(a2, &value)?;
        }
        PR_GET_TIMERSLACK => return Ok(50_000),
        PR_SET_TIMERSLACK => {}
        PR_GET_TIMING => return Ok(0),
        PR_SET_TIMING if a2 == 0 => {}
        PR_GET_SECCOMP => return Ok(task.seccomp.mode().into()),
        PR_SET_SECCOMP => return crate::seccomp::prctl_set(task, a2, a3),
        PR_GET_THP_DISABLE => return Ok(0),
        PR_GET_TID_ADDRESS => {
            let address = task.clear_child_tid.load(Ordering::Relaxed);
            task.mm().write(a2, &address)?;
        }
        PR_SET_VMA if a2 == PR_SET_VMA_ANON_NAME.into() => {
            // Names of anonymous memory need a kernel built for them; without, this is the answer.
            return Err(Errno::EINVAL);
        }
        PR_SET_MM => return set_mm(task, a2, a3),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn ambient(task: &Arc<Task>, op: u64, cap: u64, a4: u64, a5: u64) -> Result<u64, Errno> {
    let mut creds = (*task.creds()).clone();
    if a4 != 0 || a5 != 0 {
        return Err(Errno::EINVAL);
    }
    if op == u64::from(PR_CAP_AMBIENT_CLEAR_ALL) {
        if cap != 0 {
            return Err(Errno::EINVAL);
        }
        creds.ambient = Caps::EMPTY;
        task.set_creds(creds);
        return Ok(0);
    }
    if cap > u64::from(CAP_LAST_CAP) {
        return Err(Errno::EINVAL);
    }
    let cap = low32(cap);
    match low32(op) {
        PR_CAP_AMBIENT_IS_SET => return Ok(u64::from(creds.ambient.has(cap))),
        PR_CAP_AMBIENT_RAISE => {
            let forbidden = creds.securebits & SECBIT_NO_CAP_AMBIENT_RAISE != 0;
            if !creds.permitted.has(cap) || !creds.inheritable.has(cap) || forbidden {
                return Err(Errno::EPERM);
            }
            creds.ambient = creds.ambient.with(cap);
        }
        PR_CAP_AMBIENT_LOWER => creds.ambient = creds.ambient.without(cap),
        _ => return Err(Errno::EINVAL),
    }
    task.set_creds(creds);
    Ok(0)
}

/// The fields of PR_SET_MM that programs which rename themselves set.
fn set_mm(task: &Arc<Task>, field: u64, value: u64) -> Result<u64, Errno> {
    if !task.creds().capable(CAP_SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    let mm = task.mm();
    match low32(field) {
        PR_SET_MM_ARG_START => mm.edit_layout(|layout| layout.arg.start = value),
        PR_SET_MM_ARG_END => mm.edit_layout(|layout| layout.arg.end = value),
        PR_SET_MM_ENV_START => mm.edit_layout(|layout| layout.env.start = value),
        PR_SET_MM_ENV_END => mm.edit_layout(|layout| layout.env.end = value),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
