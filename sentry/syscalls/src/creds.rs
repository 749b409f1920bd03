//! User and group ids, groups, capabilities (kernel/sys.c, kernel/groups.c, kernel/capability.c).

use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::*;
use chitin_abi::limits::NGROUPS_MAX;
use chitin_abi::nr::{SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getuid};
use chitin_abi::num::low32;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::{Caps, Creds};
use std::sync::Arc;

/// The ids of a namespace without maps change once these are written, by whomever.
fn shown_user(task: &Task, nr: u64, which: impl Fn(&Creds) -> u32) -> Outcome {
    let creds = task.creds();
    let lasts = creds.user_ns.has_user_map();
    let uid = creds.user_ns.show_uid(which(&creds));
    if lasts {
        task.lasts(nr, uid);
    }
    Outcome::value(uid.into())
}
fn shown_group(task: &Task, nr: u64, which: impl Fn(&Creds) -> u32) -> Outcome {
    let creds = task.creds();
    let lasts = creds.user_ns.has_group_map();
    let gid = creds.user_ns.show_gid(which(&creds));
    if lasts {
        task.lasts(nr, gid);
    }
    Outcome::value(gid.into())
}

pub(crate) fn getuid(task: &Arc<Task>, _args: Args) -> Outcome {
    shown_user(task, SYS_getuid, |creds| creds.uid)
}
pub(crate) fn geteuid(task: &Arc<Task>, _args: Args) -> Outcome {
    shown_user(task, SYS_geteuid, |creds| creds.euid)
}
pub(crate) fn getgid(task: &Arc<Task>, _args: Args) -> Outcome {
    shown_group(task, SYS_getgid, |creds| creds.gid)
}
pub(crate) fn getegid(task: &Arc<Task>, _args: Args) -> Outcome {
    shown_group(task, SYS_getegid, |creds| creds.egid)
}

/// The kernel id behind an id of the caller's: EINVAL if there is none.
fn user(task: &Task, uid: u32) -> Result<u32, Errno> {
    task.creds().user_ns.kuid(uid).ok_or(Errno::EINVAL)
}
fn group(task: &Task, gid: u32) -> Result<u32, Errno> {
    task.creds().user_ns.kgid(gid).ok_or(Errno::EINVAL)
}
/// The same where -1 leaves an id alone.
fn user_or_none(task: &Task, uid: u32) -> Result<Option<u32>, Errno> {
    if uid == u32::MAX { Ok(None) } else { user(task, uid).map(Some) }
}
fn group_or_none(task: &Task, gid: u32) -> Result<Option<u32>, Errno> {
    if gid == u32::MAX { Ok(None) } else { group(task, gid).map(Some) }
}

/// What changed ids do to capabilities (cap_emulate_setxuid()).
fn adjust_caps(old: &Creds, new: &mut Creds) {
    if old.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
        return;
    }
    let root = old.user_ns.root_uid();
    let had_root = old.uid == root || old.euid == root || old.suid == root;
    let has_root = new.uid == root || new.euid == root || new.suid == root;
    if had_root && !has_root {
        if old.securebits & SECBIT_KEEP_CAPS == 0 {
            new.permitted = Caps::EMPTY;
            new.effective = Caps::EMPTY;
        }
        new.ambient = Caps::EMPTY;
    }
    if old.euid == root && new.euid != root {
        new.effective = Caps::EMPTY;
    }
    if old.euid != root && new.euid == root {
        new.effective = new.permitted;
    }
}

/// Capabilities that go with the file system uid (cap_safe_nice() apart).
const CAP_FS: [u32; 8] = [
    CAP_CHOWN,
    CAP_MKNOD,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_LINUX_IMMUTABLE,
    CAP_MAC_OVERRIDE,
];

fn change(task: &Arc<Task>, edit: impl FnOnce(&Creds, &mut Creds) -> Result<(), Errno>) -> Outcome {
    let old = task.creds();
    let mut new = (*old).clone();
    let work = edit(&old, &mut new).map(|()| {
        adjust_caps(&old, &mut new);
        if new.euid != old.euid || new.egid != old.egid {
            task.process.set_dumpable(0);
        }
        task.set_creds(new);
    });
    unit(work)
}

pub(crate) fn setuid(task: &Arc<Task>, args: Args) -> Outcome {
    change(task, |old, new| {
        let uid = user(task, args.u32(0))?;
        if old.capable_here(CAP_SETUID) {
            new.uid = uid;
            new.suid = uid;
        } else if uid != old.uid && uid != old.suid {
            return Err(Errno::EPERM);
        }
        new.euid = uid;
        new.fsuid = uid;
        Ok(())
    })
}

pub(crate) fn setgid(task: &Arc<Task>, args: Args) -> Outcome {
    change(task, |old, new| {
        let gid = group(task, args.u32(0))?;
        if old.capable_here(CAP_SETGID) {
            new.gid = gid;
            new.sgid = gid;
        } else if gid != old.gid && gid != old.sgid {
            return Err(Errno::EPERM);
        }
        new.egid = gid;
        new.fsgid = gid;
        Ok(())
    })
}

pub(crate) fn setreuid(task: &Arc<Task>, args: Args) -> Outcome {
    change(task, |old, new| {
        let ruid = user_or_none(task, args.u32(0))?;
        let euid = user_or_none(task, args.u32(1))?;
        let privileged = old.capable_here(CAP_SETUID);
        if let Some(ruid) = ruid {
            if !privileged && ruid != old.uid && ruid != old.euid {
                return Err(Errno::EPERM);
            }
            new.uid = ruid;
        }
        if let Some(euid) = euid {
            if !privileged && euid != old.uid && euid != old.euid && euid != old.suid {
                return Err(Errno::EPERM);
            }
            new.euid = euid;
        }
        if ruid.is_some() || euid.is_some_and(|euid| euid != old.uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        Ok(())
    })
}

pub(crate) fn setregid(task: &Arc<Task>, args: Args) -> Outcome {
    change(task, |old, new| {
        let rgid = group_or_none(task, args.u32(0))?;
        let egid = group_or_none(task, args.u32(1))?;
        let privileged = old.capable_here(CAP_SETGID);
        if let Some(rgid) = rgid {
            if !privileged && rgid != old.gid && rgid != old.egid {
                return Err(Errno::EPERM);
            }
            new.gid = rgid;
        }
        if let Some(egid) = egid {
            if !privileged && egid != old.gid && egid != old.egid && egid != old.sgid {
                return Err(Errno::EPERM);
            }
            new.egid = egid;
        }
        if rgid.is_some() || egid.is_some_and(|egid| egid != old.gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

pub(crate) fn setresuid(task: &Arc<Task>, args: Args) -> Outcome {
    change(task, |old, new| {
        let ruid = user_or_none(task, args.u32(0))?;
        let euid = user_or_none(task, args.u32(1))?;
        let suid = user_or_none(task, args.u32(2))?;
        let known = |value: &u32| *value == old.uid || *value == old.euid || *value == old.suid;
        if !old.capable_here(CAP_SETUID) && ![ruid, euid, suid].iter().flatten().all(known) {
            return Err(Errno::EPERM);
        }
        new.uid = ruid.unwrap_or(old.uid);
        new.euid = euid.unwrap_or(old.euid);
        new.suid = suid.unwrap_or(old.suid);
        new.fsuid = new.euid;
        Ok(())
    })
}

pub(crate) fn setresgid(task: &Arc<Task>, args: Args) -> Outcome {
    change(task, |old, new| {
        let rgid = group_or_none(task, args.u32(0))?;
        let egid = group_or_none(task, args.u32(1))?;
        let sgid = group_or_none(task, args.u32(2))?;
        let known = |value: &u32| *value == old.gid || *value == old.egid || *value == old.sgid;
        if !old.capable_here(CAP_SETGID) && ![rgid, egid, sgid].iter().flatten().all(known) {
            return Err(Errno::EPERM);
        }
        new.gid = rgid.unwrap_or(old.gid);
        new.egid = egid.unwrap_or(old.egid);
        new.sgid = sgid.unwrap_or(old.sgid);
        new.fsgid = new.egid;
        Ok(())
    })
}

fn write_three(task: &Task, args: Args, values: [u32; 3]) -> Outcome {
    let work = || {
        for (index, value) in values.iter().enumerate() {
            task.mm().write(args.u64(index), value)?;
        }
        Ok(())
    };
    unit(work())
}

pub(crate) fn getresuid(task: &Arc<Task>, args: Args) -> Outcome {
    let creds = task.creds();
    write_three(task, args, [creds.uid, creds.euid, creds.suid].map(|uid| creds.user_ns.show_uid(uid)))
}

pub(crate) fn getresgid(task: &Arc<Task>, args: Args) -> Outcome {
    let creds = task.creds();
    write_three(task, args, [creds.gid, creds.egid, creds.sgid].map(|gid| creds.user_ns.show_gid(gid)))
}

/// Answers the old id, whether or not it could be changed.
pub(crate) fn setfsuid(task: &Arc<Task>, args: Args) -> Outcome {
    let old = task.creds();
    let shown = Outcome::value(old.user_ns.show_uid(old.fsuid).into());
    let Ok(uid) = user(task, args.u32(0)) else { return shown };
    let allowed = [old.uid, old.euid, old.suid, old.fsuid].contains(&uid) || old.capable_here(CAP_SETUID);
    if allowed {
        let root = old.user_ns.root_uid();
        let mut new = (*old).clone();
        new.fsuid = uid;
        if old.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
            for cap in CAP_FS {
                if old.fsuid == root && uid != root {
                    new.effective = new.effective.without(cap);
                } else if old.fsuid != root && uid == root && new.permitted.has(cap) {
                    new.effective = new.effective.with(cap);
                }
            }
        }
        task.set_creds(new);
    }
    shown
}

pub(crate) fn setfsgid(task: &Arc<Task>, args: Args) -> Outcome {
    let old = task.creds();
    let shown = Outcome::value(old.user_ns.show_gid(old.fsgid).into());
    let Ok(gid) = group(task, args.u32(0)) else { return shown };
    let allowed = [old.gid, old.egid, old.sgid, old.fsgid].contains(&gid) || old.capable_here(CAP_SETGID);
    if allowed {
        let mut new = (*old).clone();
        new.fsgid = gid;
        task.set_creds(new);
    }
    shown
}

pub(crate) fn getgroups(task: &Arc<Task>, args: Args) -> Outcome {
    let creds = task.creds();
    let work = || {
        let size = usize::try_from(args.i32(0)).map_err(|_| Errno::EINVAL)?;
        if size > 0 {
            if size < creds.groups.len() {
                return Err(Errno::EINVAL);
            }
            let shown: Vec<u32> = creds.groups.iter().map(|gid| creds.user_ns.show_gid(*gid)).collect();
            task.mm().write_array(args.u64(1), &shown)?;
        }
        Ok(creds.groups.len() as u64)
    };
    done(work())
}

pub(crate) fn setgroups(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let mut creds = (*task.creds()).clone();
        if !creds.capable_here(CAP_SETGID) || !creds.user_ns.may_setgroups() {
            return Err(Errno::EPERM);
        }
        let count = usize::try_from(args.u32(0)).map_err(|_| Errno::EINVAL)?;
        if count > NGROUPS_MAX {
            return Err(Errno::EINVAL);
        }
        let groups: Vec<u32> = task.mm().read_array(args.u64(1), count)?;
        let known = groups.iter().map(|gid| creds.user_ns.kgid(*gid).ok_or(Errno::EINVAL));
        let mut groups = known.collect::<Result<Vec<_>, _>>()?;
        groups.sort_unstable();
        creds.groups = groups;
        task.set_creds(creds);
        Ok(())
    };
    unit(work())
}

/// Reads the header; an unknown version is answered with the newest one and EINVAL. How many data words follow.
fn cap_header(task: &Task, at: u64) -> Result<(CapUserHeader, usize), Errno> {
    let mm = task.mm();
    let mut header: CapUserHeader = mm.read(at)?;
    match header.version {
        _LINUX_CAPABILITY_VERSION_1 => Ok((header, 1)),
        _LINUX_CAPABILITY_VERSION_2 | _LINUX_CAPABILITY_VERSION_3 => Ok((header, 2)),
        _ => {
            header.version = _LINUX_CAPABILITY_VERSION_3;
            mm.write(at, &header)?;
            Err(Errno::EINVAL)
        }
    }
}

pub(crate) fn capget(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let (header, words) = match cap_header(task, args.u64(0)) {
            // A null data pointer only asks for the version.
            Err(Errno::EINVAL) if args.u64(1) == 0 => return Ok(()),
            header => header?,
        };
        if header.pid < 0 {
            return Err(Errno::EINVAL);
        }
        if args.u64(1) == 0 {
            return Ok(());
        }
        let creds = match header.pid {
            0 => task.creds(),
            pid => task.find_task(pid).ok_or(Errno::ESRCH)?.creds(),
        };
        for word in 0..words {
            let part = |caps: Caps| low32(caps.0 >> (32 * word));
            let data = CapUserData {
                effective: part(creds.effective),
                permitted: part(creds.permitted),
                inheritable: part(creds.inheritable),
            };
            task.mm().write(args.ptr::<CapUserData>(1).at(word as u64), &data)?;
        }
        Ok(())
    };
    unit(work())
}

pub(crate) fn capset(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let (header, words) = cap_header(task, args.u64(0))?;
        if header.pid != 0 && header.pid != task.tid() {
            return Err(Errno::EPERM);
        }
        let (mut effective, mut permitted, mut inheritable) = (0u64, 0u64, 0u64);
        for word in 0..words {
            let data: CapUserData = task.mm().read(args.ptr::<CapUserData>(1).at(word as u64))?;
            effective |= u64::from(data.effective) << (32 * word);
            permitted |= u64::from(data.permitted) << (32 * word);
            inheritable |= u64::from(data.inheritable) << (32 * word);
        }
        let all = Caps::ALL;
        let (effective, permitted, inheritable) =
            (Caps(effective) & all, Caps(permitted) & all, Caps(inheritable) & all);
        let mut creds = (*task.creds()).clone();
        let inherit_limit = if creds.capable_here(CAP_SETPCAP) {
            creds.inheritable | creds.bounding
        } else {
            creds.inheritable | creds.permitted
        };
        if !permitted.subset_of(creds.permitted)
            || !effective.subset_of(permitted)
            || !inheritable.subset_of(inherit_limit)
            || !inheritable.subset_of(creds.inheritable | creds.bounding)
        {
            return Err(Errno::EPERM);
        }
        creds.effective = effective;
        creds.permitted = permitted;
        creds.inheritable = inheritable;
        creds.ambient = creds.ambient & permitted & inheritable;
        task.set_creds(creds);
        Ok(())
    };
    unit(work())
}
