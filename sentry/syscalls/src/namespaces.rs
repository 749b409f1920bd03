//! unshare(2), setns(2), and the ioctls of namespace files. The kernel makes the namespaces; here is who may ask for which.

use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_CHROOT};
use chitin_abi::fcntl::O_RDONLY;
use chitin_abi::ioctl::*;
use chitin_abi::num::{low32, sign_extend};
use chitin_abi::sched::*;
use chitin_kernel::pidfd::PidFd;
use chitin_kernel::{FsState, Namespace, Outcome, Task, ns};
use chitin_vfs::File;
use chitin_vfs::ops::Opened;
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
        task.set_files(task.files().copy()?);
    }
    Ok(())
}

/// What setns(2) may change by a pidfd.
const SETNS: u64 = CLONE_NEWNS | NAMESPACES | CLONE_NEWNET | CLONE_NEWUSER | CLONE_NEWTIME;

pub(crate) fn setns(task: &Arc<Task>, args: Args) -> Outcome {
    unit(set_namespaces(task, args.i32(0), u64::from(args.u32(1))))
}

fn set_namespaces(task: &Arc<Task>, fd: i32, flags: u64) -> Result<(), Errno> {
    let file = task.files().get_io(fd)?;
    if let Some(namespace) = Namespace::of_file(&file) {
        if flags != 0 && flags != namespace.kind() {
            return Err(Errno::EINVAL);
        }
        return enter(task, &[namespace]);
    }
    let pidfd = file.downcast::<PidFd>().ok_or(Errno::EINVAL)?;
    if flags == 0 || flags & !SETNS != 0 {
        return Err(Errno::EINVAL);
    }
    let other = pidfd.process().leader().ok_or(Errno::ESRCH)?;
    crate::misc::may_access(task, &other)?;
    let all = ["user", "mnt", "uts", "ipc", "pid", "cgroup", "net", "time"];
    let of = all.iter().filter_map(|name| Namespace::of(&other, name));
    let chosen: Vec<Namespace> = of.filter(|namespace| flags & namespace.kind() != 0).collect();
    enter(task, &chosen)
}

/// All of them or none.
fn enter(task: &Arc<Task>, namespaces: &[Namespace]) -> Result<(), Errno> {
    let creds = task.creds();
    let mut new = (*task.namespaces()).clone();
    let mut mounts = None;
    for namespace in namespaces {
        // One's own user namespace cannot be entered again.
        if let Namespace::User = namespace {
            return Err(Errno::EINVAL);
        }
        if !creds.capable(CAP_SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        match namespace.clone() {
            Namespace::Uts(uts) => new.uts = uts,
            Namespace::Ipc(ipc) => new.ipc = ipc,
            Namespace::Cgroup(cgroup) => new.cgroup = cgroup,
            // Down is allowed, up and sideways is not.
            Namespace::Pid(pid) if !pid.is_within(task.pid_ns()) => return Err(Errno::EINVAL),
            Namespace::Pid(pid) => new.pid_for_children = pid,
            Namespace::Mnt(_) if !creds.capable(CAP_SYS_CHROOT) => return Err(Errno::EPERM),
            // Others that share root and working directory would be moved along: the task's own and ours.
            Namespace::Mnt(_) if Arc::strong_count(&task.fs()) > 2 => return Err(Errno::EINVAL),
            Namespace::Mnt(mnt) => mounts = Some(mnt),
            Namespace::Time if task.process.threads().len() > 1 => return Err(Errno::EUSERS),
            // There is no other.
            Namespace::Net | Namespace::Time | Namespace::User => {}
        }
    }
    ns::switch(task, new);
    if let Some(mounts) = mounts {
        let umask = task.fs().umask();
        task.set_fs(FsState::new(mounts, umask));
    }
    Ok(())
}

/// ioctls of namespace files (ns_ioctl()); `None`: another file.
pub(crate) fn ioctl(task: &Task, file: &File, cmd: u32, arg: u64) -> Option<Result<u64, Errno>> {
    let namespace = Namespace::of_file(file)?;
    let open = |namespace: Namespace| {
        let Opened::File(opened) = task.context().open_path(namespace.path(), O_RDONLY, false)? else {
            return Err(Errno::ENXIO);
        };
        Ok(sign_extend(task.files().add(opened, true, 0, task.process.nofile())?))
    };
    let Namespace::Pid(pid_ns) = &namespace else {
        return Some(match cmd {
            NS_GET_USERNS if !matches!(namespace, Namespace::User) => open(Namespace::User),
            NS_GET_NSTYPE => Ok(namespace.kind()),
            // The first one's parent is beyond what anybody here may see.
            NS_GET_USERNS | NS_GET_PARENT if matches!(namespace, Namespace::User) => Err(Errno::EPERM),
            NS_GET_OWNER_UID if matches!(namespace, Namespace::User) => {
                task.mm().write(arg, &0u32).map(|()| 0)
            }
            NS_GET_PARENT | NS_GET_OWNER_UID => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        });
    };
    let nr = |nr: i32| if nr == 0 { Err(Errno::ESRCH) } else { Ok(sign_extend(nr)) };
    let inner = |thread: bool| {
        // A number of that namespace, as the caller sees it.
        let kid = pid_ns.find(low32(arg).cast_signed()).ok_or(Errno::ESRCH)?.kid();
        let kid = if thread { kid } else { task.kernel.task_by_kid(kid).ok_or(Errno::ESRCH)?.process.kid() };
        nr(task.nr_of(kid))
    };
    let outer = |thread: bool| {
        let other = task.find_task(low32(arg).cast_signed()).ok_or(Errno::ESRCH)?;
        nr(if thread { other.tid_in(pid_ns) } else { other.process.pid_in(pid_ns) })
    };
    Some(match cmd {
        NS_GET_USERNS => open(Namespace::User),
        NS_GET_NSTYPE => Ok(namespace.kind()),
        NS_GET_PARENT => match pid_ns.parent() {
            Some(parent) if parent.is_within(task.pid_ns()) => open(Namespace::Pid(parent.clone())),
            _ => Err(Errno::EPERM),
        },
        NS_GET_OWNER_UID => Err(Errno::EINVAL),
        NS_GET_PID_FROM_PIDNS => inner(true),
        NS_GET_TGID_FROM_PIDNS => inner(false),
        NS_GET_PID_IN_PIDNS => outer(true),
        NS_GET_TGID_IN_PIDNS => outer(false),
        _ => Err(Errno::ENOTTY),
    })
}
