//! semget, semop, semtimedop, semctl.

use super::{change, not_negative, shown_perm};
use crate::{Args, done};
use chitin_abi::Errno;
use chitin_abi::ipc::*;
use chitin_abi::num::{low32, sign_extend};
use chitin_abi::time::Timespec;
use chitin_kernel::ipc::sem::operate;
use chitin_kernel::time::from_timespec;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn semget(task: &Arc<Task>, args: Args) -> Outcome {
    let ipc = task.ipc();
    let table = &ipc.sem;
    done(table.get(&task.ipc_creds(), args.i32(0), args.i32(1), args.u32(2)).map(sign_extend))
}

pub(crate) fn semop(task: &Arc<Task>, args: Args) -> Outcome {
    start(task, args, 0)
}

pub(crate) fn semtimedop(task: &Arc<Task>, args: Args) -> Outcome {
    start(task, args, args.u64(3))
}

fn start(task: &Arc<Task>, args: Args, timeout_at: u64) -> Outcome {
    let (id, count) = (args.i32(0), args.u32(2));
    let prepare = || {
        let mm = task.mm();
        let timeout = match timeout_at {
            0 => None,
            at => Some(from_timespec(&mm.read::<Timespec>(at)?)?),
        };
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        not_negative(id)?;
        if count > SEMOPM {
            return Err(Errno::E2BIG);
        }
        Ok((mm.read_array::<Sembuf>(args.u64(1), count as usize)?, timeout))
    };
    match prepare() {
        Err(error) => Outcome::error(error),
        Ok((ops, timeout)) => {
            let task = task.clone();
            Outcome::block(async move { operate(&task, id, ops.into(), timeout).await })
        }
    }
}

pub(crate) fn semctl(task: &Arc<Task>, args: Args) -> Outcome {
    done(control(task, args.i32(0), args.i32(1), args.u32(2), args.u64(3)).map(sign_extend))
}

/// `arg` is union semun.
/// With the users that the caller sees.
fn shown(task: &Task, stat: SemidDs) -> SemidDs {
    SemidDs { sem_perm: shown_perm(task, stat.sem_perm), ..stat }
}

fn control(task: &Task, id: i32, num: i32, cmd: u32, arg: u64) -> Result<i32, Errno> {
    let id = not_negative(id)?;
    let ipc = task.ipc();
    let (mm, creds, table) = (task.mm(), task.ipc_creds(), &ipc.sem);
    match cmd {
        IPC_INFO | SEM_INFO => {
            let (info, highest) = table.info(cmd == SEM_INFO);
            mm.write(arg, &info)?;
            Ok(highest)
        }
        IPC_STAT => {
            mm.write(arg, &shown(task, table.stat(&creds, id)?))?;
            Ok(0)
        }
        SEM_STAT | SEM_STAT_ANY => {
            let (stat, id) = table.stat_index((cmd == SEM_STAT).then_some(&*creds), id)?;
            mm.write(arg, &shown(task, stat))?;
            Ok(id)
        }
        IPC_SET => {
            let wanted = mm.read::<SemidDs>(arg)?;
            table.set(&creds, id, &change(task, &wanted.sem_perm)?).map(|()| 0)
        }
        IPC_RMID => table.remove(&creds, id).map(|()| 0),
        GETPID => table.read(&creds, id, num, cmd).map(|kid| task.nr_of(kid)),
        GETVAL | GETNCNT | GETZCNT => table.read(&creds, id, num, cmd),
        GETALL => {
            mm.write_array(arg, &table.values(&creds, id)?)?;
            Ok(0)
        }
        // The value is an int in the union.
        SETVAL => {
            table.set_value((&creds, task.process.kid()), id, num, low32(arg).cast_signed()).map(|()| 0)
        }
        SETALL => {
            let values = mm.read_array::<u16>(arg, table.settable(&creds, id)?)?;
            table.set_values((&creds, task.process.kid()), id, &values).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}
