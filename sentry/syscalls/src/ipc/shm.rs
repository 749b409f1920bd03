//! shmget, shmat, shmdt, shmctl.

use super::{change, not_negative, shown_perm};
use crate::{Args, done};
use chitin_abi::Errno;
use chitin_abi::ipc::*;
use chitin_abi::num::sign_extend;
use chitin_kernel::ipc::shm::{attach, detach};
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn shmget(task: &Arc<Task>, args: Args) -> Outcome {
    let ipc = task.ipc();
    let table = &ipc.shm;
    done(table.get(&task.caller(), args.i32(0), args.u64(1), args.u32(2)).map(sign_extend))
}

pub(crate) fn shmat(task: &Arc<Task>, args: Args) -> Outcome {
    let (id, addr, flags) = (args.i32(0), args.u64(1), args.u32(2));
    let task = task.clone();
    Outcome::block(async move { Ok(attach(&task, id, addr, flags).await?) })
}

pub(crate) fn shmdt(task: &Arc<Task>, args: Args) -> Outcome {
    let (task, addr) = (task.clone(), args.u64(0));
    Outcome::block(async move {
        detach(&task, addr).await?;
        Ok(0)
    })
}

pub(crate) fn shmctl(task: &Arc<Task>, args: Args) -> Outcome {
    done(control(task, args.i32(0), args.u32(1), args.u64(2)).map(sign_extend))
}

/// With the pids and users that the caller sees.
fn shown(task: &Task, stat: ShmidDs) -> ShmidDs {
    let shm_perm = shown_perm(task, stat.shm_perm);
    ShmidDs { shm_perm, shm_cpid: task.nr_of(stat.shm_cpid), shm_lpid: task.nr_of(stat.shm_lpid), ..stat }
}

fn control(task: &Task, id: i32, cmd: u32, at: u64) -> Result<i32, Errno> {
    let id = not_negative(id)?;
    let ipc = task.ipc();
    let (mm, creds, table) = (task.mm(), task.ipc_creds(), &ipc.shm);
    match cmd {
        IPC_INFO => {
            let (info, highest) = table.limits();
            mm.write(at, &info)?;
            Ok(highest)
        }
        SHM_INFO => {
            let (info, highest) = table.info();
            mm.write(at, &info)?;
            Ok(highest)
        }
        IPC_STAT => {
            mm.write(at, &shown(task, table.stat(&creds, id)?))?;
            Ok(0)
        }
        SHM_STAT | SHM_STAT_ANY => {
            let (stat, id) = table.stat_index((cmd == SHM_STAT).then_some(&*creds), id)?;
            mm.write(at, &shown(task, stat))?;
            Ok(id)
        }
        IPC_SET => {
            let wanted = mm.read::<ShmidDs>(at)?;
            table.set(&creds, id, &change(task, &wanted.shm_perm)?).map(|()| 0)
        }
        IPC_RMID => table.remove(&creds, id).map(|()| 0),
        SHM_LOCK | SHM_UNLOCK => table.lock(task, id, cmd == SHM_LOCK).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
