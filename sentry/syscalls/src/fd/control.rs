//! fcntl(2).

use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_RESOURCE;
use chitin_abi::fcntl::*;
use chitin_abi::num::{low32, sign_extend};
use chitin_kernel::{Outcome, Task, sigio};
use chitin_vfs::locks::{self, LockOwner, Owner};
use chitin_vfs::pipe::PipeEnd;
use chitin_vfs::{File, FileKind};
use std::sync::Arc;

/// What O_PATH descriptors may be asked.
fn allowed_for_paths(cmd: u32) -> bool {
    matches!(cmd, F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL | F_DUPFD_QUERY)
}

pub(crate) fn fcntl(task: &Arc<Task>, args: Args) -> Outcome {
    let (fd, cmd) = (args.i32(0), args.u32(1));
    let files = task.files();
    let file = match files.get(fd) {
        Ok(file) if file.is_path_only() && !allowed_for_paths(cmd) => return Outcome::error(Errno::EBADF),
        Ok(file) => file,
        Err(error) => return Outcome::error(error),
    };
    let arg = args.u64(2);
    match cmd {
        F_DUPFD | F_DUPFD_CLOEXEC => done(duplicate(task, file, low32(arg), cmd == F_DUPFD_CLOEXEC)),
        F_GETFD => done(files.get_fd(fd).map(|fd| u64::from(fd.cloexec))),
        F_SETFD => unit(files.set_cloexec(fd, arg & u64::from(FD_CLOEXEC) != 0)),
        F_GETFL => Outcome::value(u64::from(file.flags())),
        F_SETFL => unit(set_flags(task, fd, &file, low32(arg))),
        F_GETLK | F_OFD_GETLK => unit(get_lock(task, &file, cmd, arg)),
        F_SETLK | F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => set_lock(task, file, cmd, arg),
        F_GETOWN => Outcome::value(i64::from(signed_owner(task, &file)).cast_unsigned()),
        F_SETOWN => unit(set_owner_by_sign(task, &file, low32(arg).cast_signed())),
        F_GETOWN_EX => {
            let owner = *file.owner.lock();
            unit(task.mm().write(arg, &FOwnerEx { r#type: owner.kind, pid: task.nr_of(owner.id) }))
        }
        F_SETOWN_EX => unit(
            task.mm().read::<FOwnerEx>(arg).and_then(|owner| set_owner(task, &file, owner.r#type, owner.pid)),
        ),
        F_GETSIG => Outcome::value(sign_extend(file.owner.lock().signal)),
        F_SETSIG => {
            if arg > u64::from(chitin_kernel::signal::NSIG) {
                return Outcome::error(Errno::EINVAL);
            }
            file.owner.lock().signal = low32(arg).cast_signed();
            Outcome::value(0)
        }
        F_GETLEASE => Outcome::value(F_UNLCK as u64),
        F_SETLEASE => unit(locks::set_lease()),
        F_GETPIPE_SZ => done(pipe(&file).map(|end| end.pipe().size() as u64)),
        F_SETPIPE_SZ => {
            let privileged = task.creds().capable(CAP_SYS_RESOURCE);
            done(pipe(&file).and_then(|end| end.pipe().set_size(arg, privileged)).map(|size| size as u64))
        }
        F_GET_SEALS => done(file.ops().seals().map(u64::from)),
        F_ADD_SEALS => unit(add_seals(&file, low32(arg))),
        F_DUPFD_QUERY => {
            done(files.get(low32(arg).cast_signed()).map(|other| u64::from(Arc::ptr_eq(&other, &file))))
        }
        _ => Outcome::error(Errno::EINVAL),
    }
}

fn duplicate(task: &Task, file: Arc<File>, min: u32, cloexec: bool) -> Result<u64, Errno> {
    let limit = task.process.nofile();
    if u64::from(min) >= limit {
        return Err(Errno::EINVAL);
    }
    let min = i32::try_from(min).map_err(|_| Errno::EINVAL)?;
    task.files().add(file, cloexec, min, limit).map(sign_extend)
}

/// setfl()
fn set_flags(task: &Task, fd: i32, file: &Arc<File>, flags: u32) -> Result<(), Errno> {
    if flags & O_NOATIME != 0 && file.flags() & O_NOATIME == 0 && !task.creds().owns(&file.inode().attr()?) {
        return Err(Errno::EPERM);
    }
    change_flags(task, fd, file, flags)
}

/// With what O_ASYNC brings along.
fn change_flags(task: &Task, fd: i32, file: &Arc<File>, flags: u32) -> Result<(), Errno> {
    let before = file.flags();
    file.set_flags(flags)?;
    if (before ^ file.flags()) & FASYNC != 0 {
        file.owner.lock().fd = fd;
        sigio::changed(&task.kernel, file);
    }
    Ok(())
}

fn pipe(file: &File) -> Result<&PipeEnd, Errno> {
    file.downcast::<PipeEnd>().ok_or(Errno::EBADF)
}

fn add_seals(file: &File, seals: u32) -> Result<(), Errno> {
    // Whether it can be sealed at all comes first.
    file.ops().seals()?;
    if !file.writable() {
        return Err(Errno::EPERM);
    }
    file.ops().add_seals(seals)
}

/// F_GETOWN: process groups are negative.
pub(crate) fn signed_owner(task: &Task, file: &File) -> i32 {
    let owner = *file.owner.lock();
    let id = task.nr_of(owner.id);
    if owner.kind == F_OWNER_PGRP { id.wrapping_neg() } else { id }
}

/// F_SETOWN: process groups are negative.
pub(crate) fn set_owner_by_sign(task: &Task, file: &Arc<File>, id: i32) -> Result<(), Errno> {
    if id >= 0 {
        return set_owner(task, file, F_OWNER_PID, id);
    }
    set_owner(task, file, F_OWNER_PGRP, id.checked_neg().ok_or(Errno::EINVAL)?)
}

/// ESRCH for an id that nobody has; 0 means nobody.
fn set_owner(task: &Task, file: &Arc<File>, kind: i32, id: i32) -> Result<(), Errno> {
    let found = match kind {
        F_OWNER_TID => task.find_task(id).map(|thread| thread.kid()),
        F_OWNER_PID => task.find_process(id).map(|process| process.kid()),
        F_OWNER_PGRP => task.kid_of(id).filter(|&kid| task.kernel.group_exists(kid)),
        _ => return Err(Errno::EINVAL),
    };
    let kid = if id == 0 { 0 } else { found.ok_or(Errno::ESRCH)? };
    let creds = task.creds();
    {
        let mut owner = file.owner.lock();
        (owner.kind, owner.id) = (kind, kid);
        (owner.uid, owner.euid) = (creds.uid, creds.euid);
    }
    sigio::changed(&task.kernel, file);
    Ok(())
}

fn lock_owner(task: &Task, file: &File, cmd: u32) -> Owner {
    match cmd {
        F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => Owner::Ofd(file.id()),
        _ => Owner::Posix(LockOwner(task.files().lock_owner())),
    }
}

fn get_lock(task: &Task, file: &File, cmd: u32, addr: u64) -> Result<(), Errno> {
    let flock = task.mm().read::<Flock>(addr)?;
    let mut found = locks::get(file, lock_owner(task, file, cmd), &flock)?;
    if found.l_type != F_UNLCK && found.l_pid > 0 {
        found.l_pid = task.nr_of(found.l_pid);
    }
    task.mm().write(addr, &found)
}

fn set_lock(task: &Arc<Task>, file: Arc<File>, cmd: u32, addr: u64) -> Outcome {
    let flock = match task.mm().read::<Flock>(addr) {
        Ok(flock) => flock,
        Err(error) => return Outcome::error(error),
    };
    let (owner, pid) = (lock_owner(task, &file, cmd), task.process.kid());
    match locks::set(&file, owner, pid, &flock) {
        Err(Errno::EAGAIN) if matches!(cmd, F_SETLKW | F_OFD_SETLKW) => {}
        result => return unit(result),
    }
    let task = task.clone();
    Outcome::block(async move {
        task.interruptible(locks::set_wait(&file, owner, pid, &flock)).await??;
        Ok(0)
    })
}

/// FIOASYNC and FIONBIO: one flag on or off. ENOTTY where O_ASYNC means nothing.
pub(super) fn set_flag(task: &Task, fd: i32, file: &Arc<File>, flag: u32, on: bool) -> Result<(), Errno> {
    let flags = file.flags();
    if flag == FASYNC && on != (flags & FASYNC != 0) && !file.ops().signals() {
        return Err(Errno::ENOTTY);
    }
    change_flags(task, fd, file, if on { flags | flag } else { flags & !flag })
}

/// Whether a file has a size that FIONREAD and FIOQSIZE tell.
pub(super) fn is_sized(file: &File) -> bool {
    file.inode().kind() == FileKind::Regular && file.ops().seekable()
}
