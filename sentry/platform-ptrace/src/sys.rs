//! The host calls that only this platform makes, one safe wrapper each, beside those of all host-side platforms.
//!
//! Neighbours: everything in this crate. Nothing here keeps state.

use chitin_abi::elf::NT_X86_XSTATE;
use chitin_abi::ptrace::*;
pub use chitin_abi::ptrace::{
    PTRACE_CONT as CONT, PTRACE_SINGLESTEP as SINGLESTEP, PTRACE_SYSCALL as SYSCALL, PTRACE_SYSEMU as SYSEMU,
    UserRegsStruct as UserRegs,
};
pub use chitin_platform_host::sys::*;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What [`siginfo`] tells.
#[derive(Clone, Copy, Debug)]
pub struct FaultInfo {
    pub code: i32,
    pub addr: u64,
}

/// Of them that executes there is only the zygote.
const OPTIONS: u32 = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL;

// As wait statuses have them.
pub const EVENT_EXEC: i32 = PTRACE_EVENT_EXEC.cast_signed();
pub const EVENT_SECCOMP: i32 = PTRACE_EVENT_SECCOMP.cast_signed();
pub const EVENT_STOP: i32 = PTRACE_EVENT_STOP.cast_signed();

fn ptrace(request: u32, tid: i32, addr: usize, data: usize) -> Result<i64, i32> {
    // SAFETY: callers pass pointers to memory of the size that the request reads or writes, or plain numbers.
    check(unsafe { libc::ptrace(request, tid, addr, data) })
}

/// Traces `tid` from this thread.
pub fn seize(tid: i32) -> Result<(), i32> {
    ptrace(PTRACE_SEIZE, tid, 0, OPTIONS as usize).map(drop)
}

/// Has a running tracee stop with [`EVENT_STOP`].
pub fn interrupt(tid: i32) -> Result<(), i32> {
    ptrace(PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped tracee go on in one of the ways above, with a signal.
pub fn go(how: u32, tid: i32, signal: i32) -> Result<(), i32> {
    ptrace(how, tid, 0, signal as usize).map(drop)
}

pub fn get_regs(tid: i32) -> Result<UserRegs, i32> {
    let mut regs = UserRegs::default();
    ptrace(PTRACE_GETREGS, tid, 0, &raw mut regs as usize)?;
    Ok(regs)
}

pub fn set_regs(tid: i32, regs: &UserRegs) -> Result<(), i32> {
    ptrace(PTRACE_SETREGS, tid, 0, std::ptr::from_ref(regs) as usize).map(drop)
}

/// The FPU state, as much as there is of it.
pub fn get_xstate(tid: i32, buf: &mut Vec<u8>) -> Result<(), i32> {
    buf.resize(XSTATE_MAX, 0);
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE as usize, &raw mut iov as usize)?;
    buf.truncate(iov.iov_len);
    Ok(())
}

/// More than the XSAVE area of any processor (AMX has 8 KiB of tiles).
const XSTATE_MAX: usize = 16 << 10;

pub fn set_xstate(tid: i32, buf: &[u8]) -> Result<(), i32> {
    let mut iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE as usize, &raw mut iov as usize).map(drop)
}

/// The signal that a tracee stopped for.
pub fn siginfo(tid: i32) -> Result<FaultInfo, i32> {
    // SAFETY: siginfo_t is plain data, all-zero is a value of it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    ptrace(PTRACE_GETSIGINFO, tid, 0, &raw mut info as usize)?;
    // SAFETY: for other signals than faults these bytes mean something else, but they are there.
    let addr = unsafe { info.si_addr() };
    Ok(FaultInfo { code: info.si_code, addr: addr as u64 })
}

/// The AUDIT_ARCH_* of the system call that a tracee stopped at (Linux 5.3).
pub fn syscall_arch(tid: i32) -> Result<u32, i32> {
    let mut info = [0u64; 11];
    ptrace(PTRACE_GET_SYSCALL_INFO, tid, size_of_val(&info), info.as_mut_ptr() as usize)?;
    // op, three bytes of padding, arch.
    Ok(info.first().map_or(0, |first| (first >> 32) as u32))
}

/// `struct ptrace_rseq_configuration`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rseq {
    pub pointer: u64,
    pub size: u32,
    pub signature: u32,
    flags: u32,
    pad: u32,
}

/// The restartable-sequences area that a tracee has registered (Linux 5.13).
pub fn rseq(tid: i32) -> Option<Rseq> {
    let mut r = Rseq::default();
    ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, size_of::<Rseq>(), &raw mut r as usize).ok()?;
    (r.pointer != 0).then_some(r)
}

/// Reaps a tracee or child of ours that is dead.
pub fn reap(tid: i32) {
    let options = libc::WEXITED | libc::__WALL | libc::WNOHANG;
    // SAFETY: a null siginfo is allowed.
    let _ = unsafe { libc::waitid(libc::P_PID, tid as u32, std::ptr::null_mut(), options) };
}

/// Takes the report of a stop that was looked at.
pub fn take_stop(tid: i32) -> bool {
    // SAFETY: siginfo_t is plain data, all-zero is a value of it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WSTOPPED | libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    // SAFETY: the kernel fills `info`.
    let r = unsafe { libc::waitid(libc::P_PID, tid as u32, &raw mut info, options) };
    // SAFETY: waitid fills the SIGCHLD fields, or leaves them zero.
    r == 0 && unsafe { info.si_pid() } == tid
}

/// A pair of connected sockets that keep messages apart.
pub fn socket_pair() -> Result<[OwnedFd; 2], i32> {
    let mut fds = [0i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel fills two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    // SAFETY: new descriptors that nobody else knows.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Room for one descriptor in a control message.
#[repr(C, align(8))]
struct Control([u8; 24]);

/// Sends one descriptor and a byte.
pub fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<(), i32> {
    let mut byte = 0u8;
    let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = Control([0; 24]);
    // struct cmsghdr: length, SOL_SOCKET, SCM_RIGHTS; then the descriptor.
    let words = [20u64.to_le_bytes(), [1, 0, 0, 0, 1, 0, 0, 0]];
    for (to, from) in control.0.iter_mut().zip(words.iter().flatten().chain(&fd.as_raw_fd().to_le_bytes())) {
        *to = *from;
    }
    // SAFETY: msghdr is plain data, all-zero is a value of it.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &raw mut iov;
    m.msg_iovlen = 1;
    m.msg_control = (&raw mut control).cast();
    m.msg_controllen = 24;
    // SAFETY: the message points at memory that outlives the call.
    check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const m, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) }
        as i64)
    .map(drop)
}

/// Throws messages away until there is none.
pub fn drain(socket: BorrowedFd<'_>) {
    loop {
        let mut byte = 0u8;
        let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        // SAFETY: msghdr is plain data, all-zero is a value of it. Without room for it the kernel drops the descriptor.
        let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
        m.msg_iov = &raw mut iov;
        m.msg_iovlen = 1;
        // SAFETY: the message points at memory that outlives the call.
        if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut m, libc::MSG_DONTWAIT) } <= 0 {
            return;
        }
    }
}

/// This thread's id.
pub fn gettid() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::gettid() }
}

/// Forks. Returns 0 in the child.
///
/// # Safety
/// The child may only make async-signal-safe calls and must not return.
pub unsafe fn fork() -> Result<i32, i32> {
    // SAFETY: without CLONE_VM this is fork; the caller keeps to what a child may do.
    check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }).map(|r| r as i32)
}

/// What a child did.
pub enum Child {
    Stopped(i32),
    Ended,
}

/// Looks once whether a child of ours has stopped or ended, and takes the report.
pub fn poll_child(pid: i32) -> Option<Child> {
    // SAFETY: siginfo_t is plain data, all-zero is a value of it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WSTOPPED | libc::WEXITED | libc::__WALL | libc::WNOHANG;
    // SAFETY: the kernel fills `info`.
    let r = unsafe { libc::waitid(libc::P_PID, pid as u32, &raw mut info, options) };
    if r != 0 {
        return Some(Child::Ended);
    }
    // SAFETY: waitid fills the SIGCHLD fields, or leaves them zero.
    let found = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    match info.si_code {
        _ if found == 0 => None,
        libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED => Some(Child::Ended),
        _ => Some(Child::Stopped(status)),
    }
}

/// Every request that this crate makes.
pub const REQUESTS: [u32; 13] = [
    CONT,
    SINGLESTEP,
    SYSCALL,
    SYSEMU,
    PTRACE_GETREGS,
    PTRACE_SETREGS,
    PTRACE_GETSIGINFO,
    PTRACE_GETREGSET,
    PTRACE_SETREGSET,
    PTRACE_SEIZE,
    PTRACE_INTERRUPT,
    PTRACE_GET_SYSCALL_INFO,
    PTRACE_GET_RSEQ_CONFIGURATION,
];
