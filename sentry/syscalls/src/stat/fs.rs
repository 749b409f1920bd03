//! statfs(2), ustat(2).

use crate::{Args, unit};
use chitin_abi::Errno;
use chitin_abi::mount::*;
use chitin_abi::stat::*;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::walk::Walk;
use chitin_vfs::{File, FileKind, Mount};
use std::sync::Arc;

/// calculate_f_flags()
fn flags_of(mount: &Mount) -> u64 {
    let mut flags = ST_VALID;
    let pairs = [
        (MS_RDONLY, ST_RDONLY),
        (MS_NOSUID, ST_NOSUID),
        (MS_NODEV, ST_NODEV),
        (MS_NOEXEC, ST_NOEXEC),
        (MS_NOATIME, ST_NOATIME),
        (MS_NODIRATIME, ST_NODIRATIME),
        (MS_NOSYMFOLLOW, ST_NOSYMFOLLOW),
    ];
    for (mount_flag, shown) in pairs {
        if mount.has(mount_flag) {
            flags |= shown;
        }
    }
    // What mount(2) takes for granted.
    if !mount.has(MS_NOATIME) && !mount.has(MS_STRICTATIME) {
        flags |= ST_RELATIME;
    }
    flags
}

fn of_mount(mount: &Mount) -> Result<Statfs, Errno> {
    let mut out = mount.fs().statfs()?;
    out.f_flags = flags_of(mount);
    Ok(out)
}

/// Pipes, sockets and the like live on file systems that nobody sees (simple_statfs()).
fn of_anonymous(file: &File) -> Statfs {
    let f_type = match file.inode().kind() {
        FileKind::Fifo => PIPEFS_MAGIC,
        FileKind::Socket => SOCKFS_MAGIC,
        _ => ANON_INODE_FS_MAGIC,
    };
    Statfs { f_type, f_bsize: 4096, f_namelen: 255, f_frsize: 4096, f_flags: ST_VALID, ..Statfs::default() }
}

pub(crate) fn statfs(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let mm = task.mm();
        let path = mm.read_path(args.u64(0))?;
        let ctx = task.context();
        let found = ctx.walk(&ctx.cwd, &path, Walk::FOLLOW)?;
        mm.write(args.u64(1), &of_mount(&found.mount)?)
    })())
}

pub(crate) fn fstatfs(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let file = task.file(args.i32(0))?;
        let out = match file.path() {
            Some(path) => of_mount(&path.mount)?,
            None => of_anonymous(&file),
        };
        task.mm().write(args.u64(1), &out)
    })())
}

pub(crate) fn ustat(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let dev = u64::from(args.u32(0));
        let mounts = task.fs().ns().mounts();
        let mount = mounts.iter().find(|mount| mount.fs().dev() == dev).ok_or(Errno::EINVAL)?;
        let stat = mount.fs().statfs()?;
        // struct ustat: free blocks, free inodes, two names that nobody fills in.
        let mut out = [0u64; 4];
        out[0] = u64::from(u32::try_from(stat.f_bfree).unwrap_or(i32::MAX as u32));
        out[1] = stat.f_ffree;
        task.mm().write(args.u64(1), &out)
    })())
}
