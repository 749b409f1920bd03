//! Working directory, root directory and mounts (fs/namespace.c).

use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_CHROOT};
use chitin_abi::limits::{PAGE_SIZE, PATH_MAX};
use chitin_abi::mount::*;
use chitin_abi::num::{low32, to_usize};
use chitin_kernel::{Namespace, Outcome, Task};
use chitin_mm::Mm;
use chitin_vfs::creds::MAY_EXEC;
use chitin_vfs::factory::FileSystems;
use chitin_vfs::walk::Walk;
use chitin_vfs::{Context, Creds, FileKind, Mount, Path, Propagation};
use std::sync::Arc;

pub(crate) fn getcwd(task: &Arc<Task>, args: Args) -> Outcome {
    done((|| {
        let ctx = task.context();
        if ctx.cwd.dentry.is_dead() {
            return Err(Errno::ENOENT);
        }
        let (mut text, reachable) = ctx.ns.text(&ctx.root, &ctx.cwd);
        if !reachable {
            text.splice(0..0, *b"(unreachable)");
        }
        text.push(0);
        if text.len() > PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let len = text.len() as u64;
        if len > args.u64(1) {
            return Err(Errno::ERANGE);
        }
        task.mm().write_bytes(args.u64(0), &text)?;
        Ok(len)
    })())
}

/// A directory that may be entered.
fn directory(task: &Task, ctx: &Context, path: u64) -> Result<Path, Errno> {
    let path = task.mm().read_path(path)?;
    let found = ctx.walk(&ctx.cwd, &path, Walk::FOLLOW)?;
    if found.inode().kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    ctx.may(found.inode(), MAY_EXEC)?;
    Ok(found)
}

pub(crate) fn chdir(task: &Arc<Task>, args: Args) -> Outcome {
    unit(directory(task, &task.context(), args.u64(0)).map(|found| task.fs().set_cwd(found)))
}

pub(crate) fn fchdir(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        // O_PATH descriptors will do.
        let file = task.file(args.i32(0))?;
        if file.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let path = file.path().cloned().ok_or(Errno::ENOTDIR)?;
        task.context().may(path.inode(), MAY_EXEC)?;
        task.fs().set_cwd(path);
        Ok(())
    })())
}

pub(crate) fn chroot(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let ctx = task.context();
        let found = directory(task, &ctx, args.u64(0))?;
        if !ctx.creds().capable_here(CAP_SYS_CHROOT) {
            return Err(Errno::EPERM);
        }
        task.fs().set_root(found);
        Ok(())
    })())
}

/// copy_mount_string(): a null pointer is no string.
fn string(mm: &Mm, addr: u64) -> Result<Option<Vec<u8>>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    mm.read_cstr(addr, to_usize(PAGE_SIZE) - 1)?.map(Some).ok_or(Errno::EINVAL)
}

/// copy_mount_options(): up to a page, as much of it as there is; the options end at the first NUL.
fn options(mm: &Mm, addr: u64) -> Result<Vec<u8>, Errno> {
    if addr == 0 {
        return Ok(Vec::new());
    }
    let in_page = PAGE_SIZE - addr % PAGE_SIZE;
    let mut data = mm.read_vec(addr, to_usize(in_page))?;
    if !data.contains(&0)
        && let Ok(rest) = mm.read_vec(addr.wrapping_add(in_page), to_usize(PAGE_SIZE - in_page))
    {
        data.extend_from_slice(&rest);
    }
    let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len().min(to_usize(PAGE_SIZE) - 1));
    data.truncate(end);
    Ok(data)
}

/// Flags that say what kind of call it is, and those it ignores.
const COMMANDS: u64 = MS_REMOUNT
    | MS_BIND
    | MS_MOVE
    | MS_REC
    | MS_SILENT
    | MS_POSIXACL
    | MS_UNBINDABLE
    | MS_PRIVATE
    | MS_SLAVE
    | MS_SHARED
    | MS_KERNMOUNT
    | MS_I_VERSION;

const PROPAGATION: u64 = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;

/// The flags of the mount itself. On a remount without any of its own, the old way of access times stays.
fn mount_flags(flags: u64, old: Option<u32>) -> u32 {
    const ATIME: u64 = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME;
    let mut new = flags & !COMMANDS;
    match old {
        Some(old) if flags & ATIME == 0 => new |= u64::from(old) & ATIME,
        _ if flags & (MS_NOATIME | MS_STRICTATIME) == 0 => new |= MS_RELATIME,
        _ => {}
    }
    if new & MS_STRICTATIME != 0 {
        new &= !(MS_RELATIME | MS_NOATIME);
    }
    low32(new)
}

/// do_change_type(): exactly one kind, and of other flags only MS_REC and MS_SILENT.
fn propagation_kind(flags: u64) -> Result<Propagation, Errno> {
    match flags & !(MS_REC | MS_SILENT) {
        MS_SHARED => Ok(Propagation::Shared),
        MS_SLAVE => Ok(Propagation::Slave),
        MS_PRIVATE => Ok(Propagation::Private),
        MS_UNBINDABLE => Ok(Propagation::Unbindable),
        _ => Err(Errno::EINVAL),
    }
}

fn is_dir(path: &Path) -> bool {
    path.inode().kind() == FileKind::Directory
}

/// The other file of a bind or move: EINVAL without one, ENOENT for an empty name.
fn other(ctx: &Context, source: Option<Vec<u8>>, follow: bool) -> Result<Path, Errno> {
    let source = source.filter(|source| !source.is_empty()).ok_or(Errno::EINVAL)?;
    ctx.walk(&ctx.cwd, &source, Walk::following(follow))
}

/// A mount sits on a directory exactly if its root is one.
fn matches(root_is_dir: bool, point: &Path) -> Result<(), Errno> {
    if root_is_dir == is_dir(point) { Ok(()) } else { Err(Errno::ENOTDIR) }
}

/// mount_capable(): who may make a file system of a type. Most are about the machine, some about a namespace.
fn may_make(task: &Task, creds: &Creds, fstype: &str) -> Result<(), Errno> {
    let own = task.namespaces();
    let able = match fstype {
        "tmpfs" | "ramfs" | "devpts" | "overlay" => creds.capable_here(CAP_SYS_ADMIN),
        "proc" => creds.capable_in(&own.pid_for_children.user_ns, CAP_SYS_ADMIN),
        "sysfs" => creds.capable_in(&own.net.user_ns, CAP_SYS_ADMIN),
        "mqueue" => creds.capable_in(&own.ipc.user_ns, CAP_SYS_ADMIN),
        "cgroup2" => creds.capable_in(&own.cgroup.user_ns, CAP_SYS_ADMIN),
        _ => creds.capable(CAP_SYS_ADMIN),
    };
    if able { Ok(()) } else { Err(Errno::EPERM) }
}

fn new_mount(
    task: &Task,
    ctx: &Context,
    point: Path,
    fstype: Option<Vec<u8>>,
    source: Option<Vec<u8>>,
    flags: u64,
    data: &[u8],
) -> Result<(), Errno> {
    let fstype = fstype.ok_or(Errno::EINVAL)?;
    let fstype = str::from_utf8(&fstype).map_err(|_| Errno::ENODEV)?;
    let factory = task.kernel.extension::<FileSystems>().ok_or(Errno::ENODEV)?;
    may_make(task, ctx.creds(), fstype)?;
    let source = source.unwrap_or_else(|| b"none".to_vec());
    let fs = factory.0.mount(fstype, &source, flags, data, ctx)?;
    let mount = Mount::new_in(fs, &source, mount_flags(flags, None), &ctx.creds().user_ns);
    ctx.ns.may_reveal(fstype, &mount)?;
    matches(mount.root().inode().kind() == FileKind::Directory, &point)?;
    ctx.ns.attach(mount, point)
}

pub(crate) fn mount(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let mm = task.mm();
        let fstype = string(&mm, args.u64(2))?;
        let source = string(&mm, args.u64(0))?;
        let data = options(&mm, args.u64(4))?;
        let mut flags = args.u64(3);
        if flags & MS_MGC_MSK == MS_MGC_VAL {
            flags &= !MS_MGC_MSK;
        }
        let path = mm.read_path(args.u64(1))?;
        let ctx = task.context();
        let point = ctx.walk(&ctx.cwd, &path, Walk::FOLLOW)?;
        if flags & MS_NOUSER != 0 {
            return Err(Errno::EINVAL);
        }
        if !ctx.ns.may_mount(ctx.creds()) {
            return Err(Errno::EPERM);
        }
        if flags & MS_REMOUNT != 0 {
            if !point.is_mount_root() {
                return Err(Errno::EINVAL);
            }
            let mount = &point.mount;
            let new = mount_flags(flags, Some(mount.flags()));
            mount.may_change_flags(new)?;
            if flags & MS_BIND == 0 {
                // The file system's own options are for who has mounted it.
                if !ctx.creds().capable_in(mount.user_ns(), CAP_SYS_ADMIN) {
                    return Err(Errno::EPERM);
                }
                mount.fs().remount(&data)?;
            }
            mount.set_flags(new);
            return Ok(());
        }
        if flags & MS_BIND != 0 {
            let from = other(&ctx, source, true)?;
            matches(is_dir(&from), &point)?;
            // A mount namespace must not keep itself alive, nor an older one (mnt_ns_loop()).
            if matches!(Namespace::behind(from.inode()), Some(Namespace::Mnt(ns)) if ns.id() <= ctx.ns.id()) {
                return Err(Errno::EINVAL);
            }
            return ctx.ns.bind(&from, point, flags & MS_REC != 0);
        }
        if flags & PROPAGATION != 0 {
            return ctx.ns.set_propagation(&point, propagation_kind(flags)?, flags & MS_REC != 0);
        }
        if flags & MS_MOVE != 0 {
            let from = other(&ctx, source, true)?;
            if !from.is_mount_root() || from.mount.mountpoint().is_none() {
                return Err(Errno::EINVAL);
            }
            matches(is_dir(&from), &point).map_err(|_| Errno::EINVAL)?;
            return ctx.ns.move_mount(&from, point);
        }
        new_mount(task, &ctx, point, fstype, source, flags, &data)
    })())
}

pub(crate) fn umount2(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(1);
    unit((|| {
        if flags & !(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
            return Err(Errno::EINVAL);
        }
        let path = task.mm().read_path(args.u64(0))?;
        let ctx = task.context();
        let found = ctx.walk(&ctx.cwd, &path, Walk::following(flags & UMOUNT_NOFOLLOW == 0))?;
        if !ctx.ns.may_mount(ctx.creds()) {
            return Err(Errno::EPERM);
        }
        if !found.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        if flags & MNT_EXPIRE != 0 {
            // Mounts here do not expire: with other flags EINVAL, else they always look used.
            return Err(if flags & (MNT_FORCE | MNT_DETACH) != 0 { Errno::EINVAL } else { Errno::EAGAIN });
        }
        ctx.ns.detach(&found, flags & MNT_DETACH != 0)
    })())
}

pub(crate) fn pivot_root(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let ctx = task.context();
        if !ctx.ns.may_mount(ctx.creds()) {
            return Err(Errno::EPERM);
        }
        let new_root = directory(task, &ctx, args.u64(0))?;
        let put_old = directory(task, &ctx, args.u64(1))?;
        let old_root = ctx.root.clone();
        if !new_root.is_mount_root() || !old_root.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        if Arc::ptr_eq(&new_root.mount, &old_root.mount) || Arc::ptr_eq(&put_old.mount, &old_root.mount) {
            return Err(Errno::EBUSY);
        }
        // The old root must come to lie below the new one.
        if !is_below(&put_old, &new_root) {
            return Err(Errno::EINVAL);
        }
        ctx.ns.pivot(&new_root, &put_old)?;
        move_roots(task, &ctx, &old_root, &new_root);
        Ok(())
    })())
}

/// is_path_reachable()
fn is_below(path: &Path, root: &Path) -> bool {
    let mut at = path.clone();
    loop {
        if Arc::ptr_eq(&at.mount, &root.mount) {
            return at.dentry.is_within(&root.dentry);
        }
        match at.mount.mountpoint() {
            Some(point) => at = point,
            None => return false,
        }
    }
}

/// chroot_fs_refs(): whoever of this name space was at the old root is at the new one.
fn move_roots(task: &Arc<Task>, ctx: &Context, old: &Path, new: &Path) {
    for process in task.kernel.processes() {
        for thread in process.threads() {
            let fs = thread.fs();
            if !Arc::ptr_eq(&fs.ns(), &ctx.ns) {
                continue;
            }
            if fs.root().is(old) {
                fs.set_root(new.clone());
            }
            if fs.cwd().is(old) {
                fs.set_cwd(new.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_mount() {
        assert_eq!(u64::from(mount_flags(MS_NOSUID | MS_SILENT, None)), MS_NOSUID | MS_RELATIME);
        assert_eq!(u64::from(mount_flags(MS_NOATIME, None)), MS_NOATIME);
        assert_eq!(u64::from(mount_flags(MS_STRICTATIME | MS_NOATIME, None)), MS_STRICTATIME);
        let old = Some(MS_NOATIME as u32);
        assert_eq!(u64::from(mount_flags(MS_REMOUNT | MS_BIND | MS_RDONLY, old)), MS_RDONLY | MS_NOATIME);
        assert_eq!(u64::from(mount_flags(MS_RELATIME, old)), MS_RELATIME);
    }

    #[test]
    fn kinds_of_propagation() {
        assert_eq!(propagation_kind(MS_PRIVATE | MS_REC), Ok(Propagation::Private));
        assert_eq!(propagation_kind(MS_PRIVATE | MS_SHARED), Err(Errno::EINVAL));
        assert_eq!(propagation_kind(MS_SHARED | MS_RDONLY), Err(Errno::EINVAL));
    }
}
