//! msgget, msgsnd, msgrcv, msgctl.

use super::{change, not_negative, shown_perm};
use crate::{Args, done};
use chitin_abi::Errno;
use chitin_abi::ipc::*;
use chitin_abi::num::sign_extend;
use chitin_kernel::ipc::msg::{Wanted, receive, send};
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

/// Bytes of the type before the text.
const TYPE: u64 = 8;

pub(crate) fn msgget(task: &Arc<Task>, args: Args) -> Outcome {
    done(task.ipc().msg.get(&task.ipc_creds(), args.i32(0), args.u32(1)).map(sign_extend))
}

pub(crate) fn msgsnd(task: &Arc<Task>, args: Args) -> Outcome {
    let (id, at, flags) = (args.i32(0), args.u64(1), args.u32(3));
    let prepare = || {
        let mm = task.mm();
        let kind = mm.read::<i64>(at)?;
        let len =
            usize::try_from(args.u64(2)).ok().filter(|&len| len <= MSGMAX as usize).ok_or(Errno::EINVAL)?;
        not_negative(id)?;
        if kind < 1 {
            return Err(Errno::EINVAL);
        }
        Ok((kind, mm.read_vec(at.wrapping_add(TYPE), len)?))
    };
    match prepare() {
        Err(error) => Outcome::error(error),
        Ok((kind, text)) => {
            let task = task.clone();
            Outcome::block(async move {
                send(&task, id, kind, text, flags).await?;
                Ok(0)
            })
        }
    }
}

pub(crate) fn msgrcv(task: &Arc<Task>, args: Args) -> Outcome {
    let (id, at, kind, flags) = (args.i32(0), args.u64(1), args.i64(3), args.u32(4));
    let prepare = || {
        not_negative(id)?;
        let room = i64::try_from(args.u64(2)).map_err(|_| Errno::EINVAL)?;
        if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
            return Err(Errno::EINVAL);
        }
        Ok(Wanted { kind, room: usize::try_from(room).unwrap_or(usize::MAX), flags })
    };
    let wanted = match prepare() {
        Ok(wanted) => wanted,
        Err(error) => return Outcome::error(error),
    };
    let task = task.clone();
    Outcome::block(async move {
        let message = receive(&task, id, wanted).await?;
        let mm = task.mm();
        let text = message.text.get(..wanted.room.min(message.text.len())).unwrap_or_default();
        mm.write(at, &message.kind)?;
        mm.write_bytes(at.wrapping_add(TYPE), text)?;
        Ok(text.len() as u64)
    })
}

pub(crate) fn msgctl(task: &Arc<Task>, args: Args) -> Outcome {
    done(control(task, args.i32(0), args.u32(1), args.u64(2)).map(sign_extend))
}

/// With the pids that the caller sees.
fn shown(task: &Task, stat: MsqidDs) -> MsqidDs {
    let msg_perm = shown_perm(task, stat.msg_perm);
    MsqidDs { msg_perm, msg_lspid: task.nr_of(stat.msg_lspid), msg_lrpid: task.nr_of(stat.msg_lrpid), ..stat }
}

fn control(task: &Task, id: i32, cmd: u32, at: u64) -> Result<i32, Errno> {
    let id = not_negative(id)?;
    let ipc = task.ipc();
    let (mm, creds, table) = (task.mm(), task.ipc_creds(), &ipc.msg);
    match cmd {
        IPC_INFO | MSG_INFO => {
            let (info, highest) = table.info(cmd == MSG_INFO);
            mm.write(at, &info)?;
            Ok(highest)
        }
        IPC_STAT => {
            mm.write(at, &shown(task, table.stat(&creds, id)?))?;
            Ok(0)
        }
        MSG_STAT | MSG_STAT_ANY => {
            let (stat, id) = table.stat_index((cmd == MSG_STAT).then_some(&*creds), id)?;
            mm.write(at, &shown(task, stat))?;
            Ok(id)
        }
        IPC_SET => {
            let wanted = mm.read::<MsqidDs>(at)?;
            table.set(&creds, id, &change(task, &wanted.msg_perm)?, wanted.msg_qbytes).map(|()| 0)
        }
        IPC_RMID => table.remove(&creds, id).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
