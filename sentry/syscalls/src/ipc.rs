//! IPC (ipc/): the guest's registers and structures around `kernel::ipc`.

mod mq;
mod msg;
mod sem;
mod shm;

pub(crate) use mq::{mq_getsetattr, mq_notify, mq_open, mq_timedreceive, mq_timedsend, mq_unlink};
pub(crate) use msg::{msgctl, msgget, msgrcv, msgsnd};
pub(crate) use sem::{semctl, semget, semop, semtimedop};
pub(crate) use shm::{shmat, shmctl, shmdt, shmget};

use chitin_abi::Errno;
use chitin_abi::ipc::IpcPerm;
use chitin_kernel::Task;
use chitin_kernel::ipc::PermChange;

/// The structure at the head of all three kinds' IPC_SET argument is what they change.
fn change(task: &Task, perm: &IpcPerm) -> Result<PermChange, Errno> {
    PermChange::new(&task.creds().user_ns, perm)
}

/// Permissions with the ids that the caller knows.
fn shown_perm(task: &Task, perm: IpcPerm) -> IpcPerm {
    let ns = task.creds().user_ns.clone();
    let (uid, gid) = (ns.show_uid(perm.uid), ns.show_gid(perm.gid));
    IpcPerm { uid, gid, cuid: ns.show_uid(perm.cuid), cgid: ns.show_gid(perm.cgid), ..perm }
}

/// Identifiers and lengths are C ints that may not be negative.
fn not_negative(value: i32) -> Result<i32, Errno> {
    if value < 0 { Err(Errno::EINVAL) } else { Ok(value) }
}
