//! The mmap family and thread-pointer registers.

use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_ACCMODE, O_RDWR};
use chitin_abi::limits::PAGE_SIZE;
use chitin_abi::mman::*;
use chitin_abi::mount::MS_NOEXEC;
use chitin_abi::prctl::{ARCH_GET_FS, ARCH_GET_GS, ARCH_SET_FS, ARCH_SET_GS};
use chitin_abi::resource::{RLIM_INFINITY, RLIMIT_AS, RLIMIT_DATA};
use chitin_kernel::result::SysError;
use chitin_kernel::{Outcome, Task};
use chitin_mm::{MappedFile, MmapRequest};
use chitin_platform::{MapFile, Native};
use chitin_vfs::{File, Mappable};
use std::os::fd::AsFd;
use std::sync::Arc;

/// What a mapping call came to.
fn native(result: Result<Native, Errno>) -> Outcome {
    match result {
        Ok(Native::Host) => Outcome::Native,
        Ok(Native::Done(value)) => Outcome::value(value),
        Err(errno) => Outcome::error(errno),
    }
}

/// The same for a task whose call came with a frame, where the host cannot run it in place.
pub(crate) fn mmap(task: &Arc<Task>, args: Args) -> Outcome {
    let (addr, len, prot, flags) = (args.u64(0), args.u64(1), args.u32(2), args.u32(3));
    let (fd, offset) = (args.i32(4), args.u64(5));
    let request = MmapRequest { addr, len, prot, flags, file: None, offset };
    if let Err(errno) = may_grow(task, len) {
        return Outcome::error(errno);
    }
    if flags & MAP_ANONYMOUS != 0 {
        return native(task.mm().mmap(&*task.platform(), &request));
    }
    // Linux' order: the offset, the descriptor, the length, then what the file allows.
    if offset % PAGE_SIZE != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    let checked = task.io_file(fd).and_then(|file| {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        may_map(&file, prot, flags).map(|()| file)
    });
    let file = match checked {
        Ok(file) => file,
        Err(errno) => return Outcome::error(errno),
    };
    let shared = matches!(flags & MAP_TYPE, MAP_SHARED | MAP_SHARED_VALIDATE);
    match file.ops().mmap(shared && file.flags() & O_ACCMODE == O_RDWR) {
        Err(errno) => Outcome::error(errno),
        Ok(Mappable::Host(host)) => {
            name(task, &file, &host);
            let map_file = MapFile { guest_fd: fd, host: host.as_fd() };
            let result = task.mm().mmap(&*task.platform(), &MmapRequest { file: Some(map_file), ..request });
            // A descriptor number the platform cannot use: the sentry has the host map it.
            if result == Err(Errno::EMFILE) {
                return map_by_hand(task, request, Some(host));
            }
            native(result)
        }
        Ok(Mappable::Anonymous) => map_by_hand(task, request, None),
    }
}

/// Maps through the sentry's own operation: for files that are not what the guest's arguments say.
fn map_by_hand(
    task: &Arc<Task>,
    request: MmapRequest<'_>,
    host: Option<Arc<std::os::fd::OwnedFd>>,
) -> Outcome {
    let MmapRequest { addr, len, prot, flags, offset, .. } = request;
    if len == 0 || offset % PAGE_SIZE != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    let task = task.clone();
    Outcome::block(async move {
        let flags = if host.is_none() { flags | MAP_ANONYMOUS } else { flags };
        let mm = task.mm();
        let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
        if fixed && (addr % PAGE_SIZE != 0 || !mm.range_ok(addr, len)) {
            return Err(SysError::Errno(Errno::EINVAL));
        }
        let len = len.checked_add(PAGE_SIZE - 1).ok_or(SysError::Errno(Errno::ENOMEM))? & !(PAGE_SIZE - 1);
        let file = host.map(|host| (host, offset));
        Ok(mm.map_host(task.platform(), addr, len, prot, flags, file).await?)
    })
}

/// RLIMIT_AS. What a fixed mapping would replace is not taken off.
fn may_grow(task: &Task, more: u64) -> Result<(), Errno> {
    let limit = task.process.rlimit(RLIMIT_AS).rlim_cur;
    if limit == RLIM_INFINITY || task.mm().space().usage().virt.saturating_add(more) <= limit {
        return Ok(());
    }
    Err(Errno::ENOMEM)
}

/// The descriptor's access mode and the mount against what is asked for (do_mmap()).
fn may_map(file: &File, prot: u32, flags: u32) -> Result<(), Errno> {
    let shared = matches!(flags & MAP_TYPE, MAP_SHARED | MAP_SHARED_VALIDATE);
    if shared && prot & PROT_WRITE != 0 && !file.writable() {
        return Err(Errno::EACCES);
    }
    if !file.readable() {
        return Err(Errno::EACCES);
    }
    if prot & PROT_EXEC != 0 && file.path().is_some_and(|path| path.mount.has(MS_NOEXEC)) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Remembers what guest file the host file is, for /proc/PID/maps.
fn name(task: &Task, file: &File, host: &Arc<std::os::fd::OwnedFd>) {
    let Ok(host) = chitin_host::filestore::stat(host.as_fd()) else { return };
    let id = (host.dev, host.ino);
    let mm = task.mm();
    if mm.file_name(id).is_some() {
        return;
    }
    let Ok(attr) = file.inode().attr() else { return };
    let path = match file.path() {
        Some(path) => task.context().text(path),
        None => file.anon_text(),
    };
    mm.name_file(id, MappedFile { dev: attr.dev, ino: attr.ino, path: path.into() });
}

pub(crate) fn munmap(task: &Arc<Task>, args: Args) -> Outcome {
    native(task.mm().munmap(&*task.platform(), args.u64(0), args.u64(1)))
}

pub(crate) fn mprotect(task: &Arc<Task>, args: Args) -> Outcome {
    native(task.mm().mprotect(&*task.platform(), args.u64(0), args.u64(1), args.u32(2)))
}

pub(crate) fn mremap(task: &Arc<Task>, args: Args) -> Outcome {
    if let Err(errno) = may_grow(task, args.u64(2).saturating_sub(args.u64(1))) {
        return Outcome::error(errno);
    }
    let mm = task.mm();
    native(mm.mremap(&*task.platform(), args.u64(0), args.u64(1), args.u64(2), args.u32(3), args.u64(4)))
}

pub(crate) fn madvise(task: &Arc<Task>, args: Args) -> Outcome {
    native(task.mm().madvise(&*task.platform(), args.u64(0), args.u64(1), args.u32(2)))
}

pub(crate) fn brk(task: &Arc<Task>, args: Args) -> Outcome {
    let (mm, new) = (task.mm(), args.u64(0));
    let range = mm.brk_range();
    if new == 0 || new < range.start || new == range.end {
        return Outcome::value(range.end);
    }
    let task = task.clone();
    Outcome::block(async move {
        let limit = task.process.rlimit(RLIMIT_DATA).rlim_cur;
        let range = mm.brk_range();
        if may_grow(&task, new.saturating_sub(range.end)).is_err() {
            return Ok(range.end);
        }
        Ok(mm.brk(task.platform(), new, limit).await)
    })
}

/// A call on a range that the host may run as it stands, since all its arguments are numbers.
fn range(task: &Arc<Task>, args: Args) -> Outcome {
    native(task.mm().range_call(&*task.platform(), args.u64(0), args.u64(1)))
}

pub(crate) fn msync(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(2);
    if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
        || flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC
        || args.u64(0) % PAGE_SIZE != 0
    {
        return Outcome::error(Errno::EINVAL);
    }
    range(task, args)
}

pub(crate) fn mincore(task: &Arc<Task>, args: Args) -> Outcome {
    let (addr, len, out) = (args.u64(0), args.u64(1), args.u64(2));
    let work = || {
        if addr % PAGE_SIZE != 0 {
            return Err(Errno::EINVAL);
        }
        let mm = task.mm();
        if !mm.range_ok(addr, len) {
            return Err(Errno::ENOMEM);
        }
        let end = addr.saturating_add(len);
        let mut at = addr;
        while at < end {
            let vma = mm.space().mapping_at(at).map_err(|_| Errno::ENOMEM)?.ok_or(Errno::ENOMEM)?;
            let stop = vma.range.end.min(end);
            let mut pages = stop.saturating_sub(at).div_ceil(PAGE_SIZE);
            let mut to = out.wrapping_add((at - addr) / PAGE_SIZE);
            while pages > 0 {
                let step = pages.min(4096);
                mm.write_bytes(to, &vec![1u8; step as usize])?;
                to = to.wrapping_add(step);
                pages -= step;
            }
            at = vma.range.end;
        }
        Ok(())
    };
    unit(work())
}

/// Locking needs the host's own limits to be raised, which a guest may not cause: the range is checked, the pages
/// stay as swappable as all the sandbox's.
fn check_mapped(task: &Arc<Task>, addr: u64, len: u64) -> Result<(), Errno> {
    let mm = task.mm();
    let start = addr & !(PAGE_SIZE - 1);
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    let mut at = start;
    while at < end {
        let vma = mm.space().mapping_at(at).map_err(|_| Errno::ENOMEM)?.ok_or(Errno::ENOMEM)?;
        at = vma.range.end;
    }
    Ok(())
}

pub(crate) fn mlock(task: &Arc<Task>, args: Args) -> Outcome {
    unit(check_mapped(task, args.u64(0), args.u64(1)))
}

pub(crate) fn mlock2(task: &Arc<Task>, args: Args) -> Outcome {
    if args.u32(2) & !1 != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    mlock(task, args)
}

pub(crate) fn munlock(task: &Arc<Task>, args: Args) -> Outcome {
    mlock(task, args)
}

pub(crate) fn mlockall(_task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(0);
    if flags == 0 || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 || flags == MCL_ONFAULT {
        return Outcome::error(Errno::EINVAL);
    }
    Outcome::value(0)
}

pub(crate) fn munlockall(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::value(0)
}

/// Orders memory between the threads of one address space; the host does it where the guest's threads run.
pub(crate) fn membarrier(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::Native
}

/// Restartable sequences concern the host's scheduling of this very thread: registered there as the guest asks.
pub(crate) fn rseq(task: &Arc<Task>, args: Args) -> Outcome {
    native(task.mm().range_call(&*task.platform(), args.u64(0), args.u64(1) & 0xffff_ffff))
}

pub(crate) fn arch_prctl(task: &Arc<Task>, args: Args) -> Outcome {
    let user_end = task.mm().space().user_range().end;
    match args.u32(0) {
        ARCH_SET_FS | ARCH_SET_GS if args.u64(1) >= user_end => Outcome::error(Errno::EPERM),
        // The registers are the thread's own.
        ARCH_SET_FS | ARCH_SET_GS => Outcome::Native,
        ARCH_GET_FS | ARCH_GET_GS => {
            let (task, which, to) = (task.clone(), args.u32(0), args.u64(1));
            Outcome::block(async move {
                let platform = task.platform();
                platform.ensure_frame().await.map_err(|_| SysError::Errno(Errno::EFAULT))?;
                let regs = platform.registers().map_err(|_| SysError::Errno(Errno::EFAULT))?;
                let value = if which == ARCH_GET_FS { regs.fs_base } else { regs.gs_base };
                task.mm().write(to, &value)?;
                Ok(0)
            })
        }
        _ => done(Err(Errno::EINVAL)),
    }
}
