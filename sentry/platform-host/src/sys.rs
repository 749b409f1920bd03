//! The host calls that host-side platforms make, one safe wrapper each; errors are plain errno numbers.
//!
//! Neighbours: everything in this crate, and the platforms. Nothing here keeps state.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The result of a host call as libc gives it.
pub fn check(r: i64) -> Result<i64, i32> {
    if r < 0 { Err(errno()) } else { Ok(r) }
}

pub fn tgkill(tgid: i32, tid: i32, sig: i32) -> Result<(), i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, sig) }).map(drop)
}

/// A pidfd of a child of ours.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, i32> {
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub fn kill(pid: i32, sig: i32) -> Result<(), i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, sig) }.into()).map(drop)
}

pub fn memfd(name: &std::ffi::CStr, exec: bool) -> Result<OwnedFd, i32> {
    let exec_flag: u32 = if exec { 0x10 } else { 0x8 }; // MFD_EXEC, MFD_NOEXEC_SEAL (Linux 6.3)
    for flags in [libc::MFD_CLOEXEC | exec_flag, libc::MFD_CLOEXEC] {
        // SAFETY: `name` is a C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: the descriptor is new and nobody else's.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        if errno() != libc::EINVAL {
            break;
        }
    }
    Err(errno())
}

pub fn truncate(fd: BorrowedFd<'_>, len: u64) -> Result<(), i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), len as i64) }.into()).map(drop)
}

pub fn punch_hole(fd: BorrowedFd<'_>, off: u64, len: u64) -> Result<(), i32> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is involved.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, off as i64, len as i64) }.into()).map(drop)
}

/// A clock in nanoseconds; 0 if there is no such clock.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills one timespec.
    let r = unsafe { libc::clock_gettime(clock, &raw mut t) };
    if r == 0 { (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64) } else { 0 }
}

pub fn random_u64() -> u64 {
    let mut v = 0u64;
    // SAFETY: eight bytes are written to `v`.
    let n = unsafe { libc::getrandom((&raw mut v).cast(), 8, 0) };
    if n == 8 {
        return v;
    }
    // SAFETY: the instruction reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub fn auxval(kind: u64) -> u64 {
    // SAFETY: reads the process's own auxiliary vector.
    unsafe { libc::getauxval(kind) }
}

pub fn open_at(dir: Option<BorrowedFd<'_>>, path: &std::ffi::CStr, flags: i32) -> Result<OwnedFd, i32> {
    let dir = dir.map_or(libc::AT_FDCWD, |d| d.as_raw_fd());
    // SAFETY: `path` is a C string.
    let fd = unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC) };
    check(fd.into())?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `process_vm_readv` into one local buffer.
pub fn vm_read(pid: i32, local: &mut [u8], remote: &[libc::iovec]) -> Result<usize, i32> {
    let l = libc::iovec { iov_base: local.as_mut_ptr().cast(), iov_len: local.len() };
    // SAFETY: the kernel writes at most `local.len()` bytes to `local`.
    let r = unsafe { libc::process_vm_readv(pid, &raw const l, 1, remote.as_ptr(), remote.len() as u64, 0) };
    check(r as i64).map(|n| n as usize)
}

/// `process_vm_writev` from one local buffer.
pub fn vm_write(pid: i32, local: &[u8], remote: &[libc::iovec]) -> Result<usize, i32> {
    let l = libc::iovec { iov_base: local.as_ptr().cast_mut().cast(), iov_len: local.len() };
    // SAFETY: the kernel only reads `local`.
    let r = unsafe { libc::process_vm_writev(pid, &raw const l, 1, remote.as_ptr(), remote.len() as u64, 0) };
    check(r as i64).map(|n| n as usize)
}

pub fn get_affinity(tid: i32) -> Result<Vec<u8>, i32> {
    let mut buf = vec![0u8; 1024];
    // SAFETY: the kernel writes at most 1024 bytes.
    let n = check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, buf.len(), buf.as_mut_ptr()) })?;
    buf.truncate(n as usize);
    Ok(buf)
}

pub fn set_affinity(tid: i32, mask: &[u8]) -> Result<(), i32> {
    // SAFETY: the kernel reads `mask.len()` bytes.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) }).map(drop)
}

/// The CPU that the caller runs on just now.
pub fn current_cpu() -> Option<usize> {
    // SAFETY: no memory is involved.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// How many CPUs a mask has.
pub fn count_cpus(mask: &[u8]) -> usize {
    mask.iter().map(|byte| byte.count_ones() as usize).sum()
}

/// The mask of one CPU.
pub fn only_cpu(cpu: usize) -> Vec<u8> {
    let mut mask = vec![0; cpu / 8];
    mask.push(1 << (cpu % 8));
    mask
}

/// A mask without one CPU, if anything is left of it.
pub fn without_cpu(mask: &[u8], cpu: usize) -> Option<Vec<u8>> {
    let mut rest = mask.to_vec();
    if let Some(byte) = rest.get_mut(cpu / 8) {
        *byte &= !(1 << (cpu % 8));
    }
    (count_cpus(&rest) > 0).then_some(rest)
}

/// Keeps the calling thread, which may run where `mask` says, off one of these CPUs; answers whether it could.
pub fn keep_off(mask: &[u8], cpu: usize) -> bool {
    without_cpu(mask, cpu).is_some_and(|rest| set_affinity(0, &rest).is_ok())
}

pub fn set_nice(tid: i32, nice: i32) -> Result<(), i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as u32, nice) }.into()).map(drop)
}
