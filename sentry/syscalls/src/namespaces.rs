//! unshare(2), setns(2), and the ioctls of namespace files. The kernel makes the namespaces; here is who may ask for which.

use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_CHROOT};
use chitin_abi::fcntl::O_RDONLY;
use chitin_abi::ioctl::*;
use chitin_abi::num::{low32, sign_extend};
use chitin_abi::sched::*;
use chitin_kernel::ns::CLONE_OURS;
use chitin_kernel::pidfd::PidFd;
use chitin_kernel::{FsState, Namespace, Outcome, Task, clone, ns};
use chitin_vfs::ops::Opened;
use chitin_vfs::{Creds, File, Place, UserNs};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// All flags that Linux knows.
const UNSHARE: u64 = CLONE_THREAD
    | CLONE_FS
    | CLONE_NEWNS
    | CLONE_SIGHAND
    | CLONE_VM
    | CLONE_FILES
    | CLONE_SYSVSEM
    | CLONE_OURS
    | CLONE_NEWUSER;

pub(crate) fn unshare(task: &Arc<Task>, args: Args) -> Outcome {
    unit(unshare_flags(task, args.u64(0)))
}

fn unshare_flags(task: &Arc<Task>, flags: u64) -> Result<(), Errno> {
    let has = |flag| flags & flag != 0;
    if flags & !UNSHARE != 0 {
        return Err(Errno::EINVAL);
    }
    if has(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWUSER) && task.process.threads().len() > 1 {
        return Err(Errno::EINVAL);
    }
    let creds = if has(CLONE_NEWUSER) { clone::creds_in_new_user_ns(task)? } else { task.creds() };
    if has(CLONE_NEWNS | CLONE_OURS) && !creds.capable_here(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    // Whatever can fail comes before the first change.
    let namespaces = if has(CLONE_OURS) { Some(ns::changed(task, flags, &creds)?) } else { None };
    let files = if has(CLONE_FILES) { Some(task.files().copy()?) } else { None };
    let fs = if has(CLONE_NEWNS) {
        Some(task.fs().with_new_namespace(&creds.user_ns))
    } else {
        has(CLONE_FS | CLONE_NEWUSER).then(|| task.fs().copy())
    };
    if let Some(namespaces) = namespaces {
        ns::switch(task, namespaces);
    }
    if let Some(fs) = fs {
        task.set_fs(fs);
    }
    if let Some(files) = files {
        task.set_files(files);
    }
    if has(CLONE_NEWUSER) {
        enter_user_ns(task, (*creds).clone());
    }
    Ok(())
}

/// commit_creds(): power beyond what the task had over the namespace already is not for its like to look into.
fn enter_user_ns(task: &Task, creds: Creds) {
    let old = task.creds();
    let mut at = Some(&creds.user_ns);
    let owned = loop {
        let Some((ns, parent)) = at.and_then(|ns| Some((ns, ns.parent()?))) else { break false };
        if *parent == old.user_ns && ns.owner() == old.euid {
            break true;
        }
        at = Some(parent);
    };
    if !owned {
        task.process.set_dumpable(0);
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    task.set_creds(creds);
}

/// What setns(2) may change by a pidfd.
const SETNS: u64 = CLONE_NEWNS | CLONE_OURS | CLONE_NEWUSER;

pub(crate) fn setns(task: &Arc<Task>, args: Args) -> Outcome {
    unit(set_namespaces(task, args.i32(0), u64::from(args.u32(1))))
}

fn set_namespaces(task: &Arc<Task>, fd: i32, flags: u64) -> Result<(), Errno> {
    let file = task.io_file(fd)?;
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

/// All of them or none. A user namespace comes first: it gives the power to enter the others.
fn enter(task: &Arc<Task>, namespaces: &[Namespace]) -> Result<(), Errno> {
    let mut creds = task.creds();
    let mut new = (*task.namespaces()).clone();
    let (mut mounts, mut user) = (None, false);
    let alone = || task.process.threads().len() <= 1;
    for namespace in namespaces {
        let owner = match namespace {
            Namespace::User(ns) => ns.clone(),
            other => other.owner().unwrap_or_else(|| UserNs::initial().clone()),
        };
        if let Namespace::User(ns) = namespace {
            // One's own cannot be entered again, which would bring back capabilities.
            if *ns == creds.user_ns || !alone() || is_shared(&task.fs()) {
                return Err(Errno::EINVAL);
            }
        }
        let admin = creds.capable_in(&owner, CAP_SYS_ADMIN);
        if !admin || !(matches!(namespace, Namespace::User(_)) || creds.capable_here(CAP_SYS_ADMIN)) {
            return Err(Errno::EPERM);
        }
        match namespace.clone() {
            Namespace::Uts(uts) => new.uts = uts,
            Namespace::Ipc(ipc) => new.ipc = ipc,
            Namespace::Cgroup(cgroup) => new.cgroup = cgroup,
            Namespace::Net(net) => new.net = net,
            // Down is allowed, up and sideways is not.
            Namespace::Pid(pid) if !pid.is_within(task.pid_ns()) => return Err(Errno::EINVAL),
            Namespace::Pid(pid) => new.pid_for_children = pid,
            Namespace::Mnt(_) if !creds.capable_here(CAP_SYS_CHROOT) => return Err(Errno::EPERM),
            Namespace::Mnt(_) if is_shared(&task.fs()) => return Err(Errno::EINVAL),
            Namespace::Mnt(mnt) => mounts = Some(mnt),
            Namespace::Time(_) if !alone() => return Err(Errno::EUSERS),
            Namespace::Time(time) => {
                time.enter();
                (new.time, new.time_for_children) = (time.clone(), time);
            }
            Namespace::User(ns) => {
                creds = Arc::new(Creds::in_new_ns(&creds, ns));
                user = true;
            }
        }
    }
    ns::switch(task, new);
    if let Some(mounts) = mounts {
        let umask = task.fs().umask();
        task.set_fs(FsState::new(Place::top(task.kernel.vfs.clone(), mounts, umask)));
    }
    if user {
        enter_user_ns(task, (*creds).clone());
    }
    Ok(())
}

/// Others that share root and working directory would be moved along: the task's own reference and ours.
fn is_shared(fs: &Arc<FsState>) -> bool {
    Arc::strong_count(fs) > 2
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
    // What lies above the caller's own is not for it to see (ns_get_owner()).
    let seen = |ns: &Arc<UserNs>| ns.is_within(&task.creds().user_ns);
    let owner = || match namespace.owner().filter(&seen) {
        Some(owner) => open(Namespace::User(owner)),
        None => Err(Errno::EPERM),
    };
    let Namespace::Pid(pid_ns) = &namespace else {
        return Some(match (cmd, &namespace) {
            (NS_GET_USERNS, _) | (NS_GET_PARENT, Namespace::User(_)) => owner(),
            (NS_GET_NSTYPE, _) => Ok(namespace.kind()),
            (NS_GET_OWNER_UID, Namespace::User(ns)) => {
                task.mm().write(arg, &task.creds().user_ns.show_uid(ns.owner())).map(|()| 0)
            }
            (NS_GET_PARENT | NS_GET_OWNER_UID, _) => Err(Errno::EINVAL),
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
        NS_GET_USERNS => owner(),
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
