//! Names of the machine, random bytes, other processes' memory and what fits nowhere else.

use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYSLOG};
use chitin_abi::limits::IOV_MAX;
use chitin_abi::num::to_usize;
use chitin_abi::random::{GRND_INSECURE, GRND_NONBLOCK, GRND_RANDOM};
use chitin_abi::uio::Iovec;
use chitin_abi::utsname::{Sysinfo, Utsname};
use chitin_kernel::kernel::{RELEASE, VERSION};
use chitin_kernel::lane::STEP;
use chitin_kernel::{Outcome, Task, time};
use chitin_mm::Mm;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Copies a text into a NUL-terminated field.
fn field(text: &[u8]) -> [u8; 65] {
    let mut out = [0; 65];
    for (to, from) in out.iter_mut().take(64).zip(text) {
        *to = *from;
    }
    out
}

pub(crate) fn uname(task: &Arc<Task>, args: Args) -> Outcome {
    let uts = task.uts().names.read().clone();
    let linux32 = task.process.personality.load(Ordering::Relaxed) & 0xff == PER_LINUX32;
    let names = Utsname {
        sysname: field(b"Linux"),
        nodename: field(&uts.hostname),
        release: field(RELEASE.as_bytes()),
        version: field(VERSION.as_bytes()),
        machine: field(if linux32 { b"i686" } else { b"x86_64" }),
        domainname: field(&uts.domainname),
    };
    unit(task.mm().write(args.u64(0), &names))
}

fn new_name(task: &Task, args: Args) -> Result<Vec<u8>, Errno> {
    if !task.creds().capable_in(&task.uts().user_ns, CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(args.i32(1)).ok().filter(|&len| len <= 64).ok_or(Errno::EINVAL)?;
    task.mm().read_vec(args.u64(0), len)
}

pub(crate) fn sethostname(task: &Arc<Task>, args: Args) -> Outcome {
    unit(new_name(task, args).map(|name| task.uts().names.write().hostname = name))
}

pub(crate) fn setdomainname(task: &Arc<Task>, args: Args) -> Outcome {
    unit(new_name(task, args).map(|name| task.uts().names.write().domainname = name))
}

pub(crate) fn sysinfo(task: &Arc<Task>, args: Args) -> Outcome {
    let kernel = &task.kernel;
    let container = &task.process.container;
    let total = container.memory();
    let up = time::monotonic().saturating_sub(kernel.boot_ns);
    let up = time::ns::shifted(up, task.time_offset(time::Base::Boottime));
    let info = Sysinfo {
        uptime: (up / 1_000_000_000).cast_signed(),
        totalram: total,
        freeram: total.saturating_sub(kernel.memory_in_cgroup(&container.cgroup)),
        procs: u16::try_from(kernel.thread_count()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::default()
    };
    unit(task.mm().write(args.u64(0), &info))
}

/// Random bytes from `at` on, as far as a step; `false`: that was the last one.
fn random_step(task: &Task, addr: u64, at: &mut u64, len: u64) -> Result<bool, Errno> {
    let end = len.min(at.saturating_add(STEP as u64));
    let mut buffer = [0u8; 4096];
    while *at < end {
        let step = to_usize((end - *at).min(buffer.len() as u64));
        let part = buffer.get_mut(..step).unwrap_or_default();
        chitin_host::random::fill(part).map_err(|_| Errno::EIO)?;
        match task.mm().write_bytes(addr.wrapping_add(*at), part) {
            Err(_) if *at == 0 => return Err(Errno::EFAULT),
            Err(_) => return Ok(false),
            Ok(()) => *at += step as u64,
        }
        if task.signal_pending() {
            return Ok(false);
        }
    }
    Ok(*at < len)
}

pub(crate) fn getrandom(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(2);
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0
        || flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE
    {
        return Outcome::error(Errno::EINVAL);
    }
    let (addr, len) = (args.u64(0), args.u64(1).min(i32::MAX as u64));
    let mut at = 0;
    match random_step(task, addr, &mut at, len) {
        Ok(true) => {}
        result => return done(result.map(|_| at)),
    }
    let task = task.clone();
    Outcome::block(async move {
        loop {
            task.next_step().await;
            if task.signal_pending() || !random_step(&task, addr, &mut at, len)? {
                return Ok(at);
            }
        }
    })
}

/// The personality of programs that want to believe in a 32-bit machine.
const PER_LINUX32: u64 = 8;

/// Only asks, as personality(2) has it.
const PERSONALITY_QUERY: u64 = 0xffff_ffff;

pub(crate) fn personality(task: &Arc<Task>, args: Args) -> Outcome {
    let old = task.process.personality.load(Ordering::Relaxed);
    let new = args.u64(0) & 0xffff_ffff;
    if new != PERSONALITY_QUERY {
        task.process.personality.store(new, Ordering::Relaxed);
    }
    Outcome::value(old)
}

pub(crate) fn syslog(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || match args.i32(0) {
        // The size of the log, and reading all of it.
        10 => Ok(16384),
        3 if task.creds().capable(CAP_SYSLOG) => {
            if args.u64(1) == 0 || args.i32(2) < 0 {
                Err(Errno::EINVAL)
            } else {
                Ok(0)
            }
        }
        0..=9 => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    };
    done(work())
}

pub(crate) fn vhangup(_task: &Arc<Task>, _args: Args) -> Outcome {
    Outcome::error(Errno::EPERM)
}

/// ptrace_may_access(): the same ids, or CAP_SYS_PTRACE; and the target is dumpable.
pub(crate) fn may_access(task: &Arc<Task>, other: &Arc<Task>) -> Result<(), Errno> {
    if Arc::ptr_eq(&task.process, &other.process) {
        return Ok(());
    }
    let (own, target) = (task.creds(), other.creds());
    if own.capable_in(&target.user_ns, CAP_SYS_PTRACE) {
        return Ok(());
    }
    let uids = [target.uid, target.euid, target.suid].iter().all(|&uid| uid == own.fsuid);
    let gids = [target.gid, target.egid, target.sgid].iter().all(|&gid| gid == own.fsgid);
    let less = target.user_ns == own.user_ns && target.permitted.subset_of(own.permitted);
    if uids && gids && less && other.process.dumpable() == 1 { Ok(()) } else { Err(Errno::EPERM) }
}

pub(crate) fn process_vm_readv(task: &Arc<Task>, args: Args) -> Outcome {
    process_vm(task, args, false)
}

pub(crate) fn process_vm_writev(task: &Arc<Task>, args: Args) -> Outcome {
    process_vm(task, args, true)
}

fn vectors(task: &Task, at: u64, count: u64) -> Result<Vec<Iovec>, Errno> {
    if count > IOV_MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let vectors = task.mm().read_array::<Iovec>(at, to_usize(count))?;
    if vectors.iter().any(|vector| i64::try_from(vector.iov_len).is_err()) {
        return Err(Errno::EINVAL);
    }
    Ok(vectors)
}

/// A copy between this process and another, range by range.
struct VmCopy {
    here: Arc<Mm>,
    there: Arc<Mm>,
    write: bool,
    /// Ranges that are not empty, the next ones last.
    local: Vec<Iovec>,
    remote: Vec<Iovec>,
    total: u64,
}

impl VmCopy {
    fn new(task: &Arc<Task>, args: Args, write: bool) -> Result<VmCopy, Errno> {
        if args.u64(5) != 0 {
            return Err(Errno::EINVAL);
        }
        let mut local = vectors(task, args.u64(1), args.u64(2))?;
        let mut remote = vectors(task, args.u64(3), args.u64(4))?;
        let other = task.find_task(args.i32(0)).ok_or(Errno::ESRCH)?;
        may_access(task, &other)?;
        for list in [&mut local, &mut remote] {
            list.retain(|range| range.iov_len > 0);
            list.reverse();
        }
        Ok(VmCopy { here: task.mm(), there: other.mm(), write, local, remote, total: 0 })
    }

    /// Copies as far as a step; `false`: that was the last one.
    fn step(&mut self) -> Result<bool, Errno> {
        let mut buffer = vec![0u8; 65536];
        let mut moved = 0;
        while let (Some(mine), Some(theirs)) = (self.local.last_mut(), self.remote.last_mut()) {
            if moved >= STEP {
                return Ok(true);
            }
            let step = to_usize(mine.iov_len.min(theirs.iov_len).min(buffer.len() as u64));
            let part = buffer.get_mut(..step).unwrap_or_default();
            let (source, source_at, sink, sink_at) = if self.write {
                (&self.here, mine.iov_base, &self.there, theirs.iov_base)
            } else {
                (&self.there, theirs.iov_base, &self.here, mine.iov_base)
            };
            let copied = source.read_bytes(source_at, part).and_then(|()| sink.write_bytes(sink_at, part));
            match copied {
                Err(errno) if self.total == 0 => return Err(errno),
                Err(_) => return Ok(false),
                Ok(()) => self.total += step as u64,
            }
            moved += step;
            for range in [&mut *mine, &mut *theirs] {
                range.iov_base = range.iov_base.wrapping_add(step as u64);
                range.iov_len -= step as u64;
            }
            for list in [&mut self.local, &mut self.remote] {
                list.pop_if(|range| range.iov_len == 0);
            }
        }
        Ok(false)
    }
}

fn process_vm(task: &Arc<Task>, args: Args, write: bool) -> Outcome {
    let mut copy = match VmCopy::new(task, args, write) {
        Ok(copy) => copy,
        Err(error) => return Outcome::error(error),
    };
    match copy.step() {
        Ok(true) => {}
        result => return done(result.map(|_| copy.total)),
    }
    let task = task.clone();
    Outcome::block(async move {
        loop {
            task.next_step().await;
            if !copy.step()? {
                return Ok(copy.total);
            }
        }
    })
}

/// kcmp(2): orders two tasks' resources by identity.
pub(crate) fn kcmp(task: &Arc<Task>, args: Args) -> Outcome {
    const KCMP_FILE: i32 = 0;
    const KCMP_VM: i32 = 1;
    const KCMP_FILES: i32 = 2;
    const KCMP_FS: i32 = 3;
    const KCMP_SIGHAND: i32 = 4;
    let work = || {
        let one = task.find_task(args.i32(0)).ok_or(Errno::ESRCH)?;
        let two = task.find_task(args.i32(1)).ok_or(Errno::ESRCH)?;
        may_access(task, &one)?;
        may_access(task, &two)?;
        let (a, b) = match args.i32(2) {
            KCMP_FILE => {
                let a = one.file(args.i32(3))?.id();
                (a, two.file(args.i32(4))?.id())
            }
            KCMP_VM => (Arc::as_ptr(&one.mm()) as u64, Arc::as_ptr(&two.mm()) as u64),
            KCMP_FILES => (Arc::as_ptr(&one.files()) as u64, Arc::as_ptr(&two.files()) as u64),
            KCMP_FS => (Arc::as_ptr(&one.fs()) as u64, Arc::as_ptr(&two.fs()) as u64),
            KCMP_SIGHAND => {
                (Arc::as_ptr(&one.process.handlers()) as u64, Arc::as_ptr(&two.process.handlers()) as u64)
            }
            _ => return Err(Errno::EINVAL),
        };
        Ok(match a.cmp(&b) {
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Greater => 2,
        })
    };
    done(work())
}
