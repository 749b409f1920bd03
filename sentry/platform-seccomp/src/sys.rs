//! The host calls that only this platform makes, one safe wrapper each, beside those of all host-side platforms.
//!
//! Neighbours: everything in this crate. Nothing here keeps state.

pub use chitin_platform_host::sys::*;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Notif {
    pub id: u64,
    pub pid: u32,
    pub flags: u32,
    pub nr: i32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

#[repr(C)]
struct NotifResp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct NotifAddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

const IOCTL_RECV: u64 = 0xc050_2100;
const IOCTL_SEND: u64 = 0xc018_2101;
const IOCTL_ID_VALID: u64 = 0x4008_2102;
const IOCTL_ADDFD: u64 = 0x4018_2103;
const IOCTL_SET_FLAGS: u64 = 0x4008_2104;
const FLAG_CONTINUE: u32 = 1;

/// Wakes the thread of another process that sleeps until the lower half of this word changes.
pub fn futex_wake(word: &AtomicU64) {
    // SAFETY: the host reads no memory of ours, it looks for who waits at this place.
    let _woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// Makes a thread of `SCHED_OTHER` one of `SCHED_BATCH`, which does not preempt when it wakes up, or back; sched(7). Answers
/// whether it did: other policies stay.
pub fn set_patient(tid: i32, patient: bool) -> bool {
    let (from, to) =
        if patient { (libc::SCHED_OTHER, libc::SCHED_BATCH) } else { (libc::SCHED_BATCH, libc::SCHED_OTHER) };
    // SAFETY: no memory is involved.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, tid) };
    let none = 0i32;
    // SAFETY: the kernel reads a `struct sched_param`, which is a number.
    policy == from.into()
        && unsafe { libc::syscall(libc::SYS_sched_setscheduler, tid, to, &raw const none) } == 0
}

/// The user-notification listener.
pub struct Listener {
    fd: OwnedFd,
    sync_wake: AtomicBool,
}

impl Listener {
    pub fn new(fd: OwnedFd) -> Self {
        Listener { fd, sync_wake: AtomicBool::new(false) }
    }

    pub fn recv(&self) -> Result<Notif, i32> {
        let mut n = Notif::default();
        // SAFETY: the kernel fills one `struct seccomp_notif`, which `n` is.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_RECV as _, &raw mut n) }.into())?;
        Ok(n)
    }

    /// Waits until a notification is there; `false`: time out or nobody is left under the filter.
    pub fn poll(&self, ms: i32) -> bool {
        let mut p = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, on this stack.
        let r = unsafe { libc::poll(&raw mut p, 1, ms) };
        r > 0 && p.revents & libc::POLLIN != 0
    }

    fn respond(&self, mut r: NotifResp) -> Result<(), i32> {
        // What another thread answers meanwhile is no worse for it.
        let apart = chitin_platform::goes_on() && self.sync_wake.load(Ordering::Relaxed);
        if apart {
            let _as_it_was = self.set_flags(0);
        }
        // SAFETY: the kernel reads one `struct seccomp_notif_resp`.
        let sent =
            check(unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_SEND as _, &raw mut r) }.into()).map(drop);
        if apart {
            let _as_it_was = self.set_flags(1);
        }
        sent
    }

    fn set_flags(&self, flags: u64) -> Result<(), i32> {
        // SAFETY: the argument is the flags word itself.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_SET_FLAGS as _, flags) }.into()).map(drop)
    }

    /// Answers with a raw value.
    pub fn answer(&self, id: u64, val: i64) -> Result<(), i32> {
        self.respond(NotifResp { id, val, error: 0, flags: 0 })
    }

    /// Lets the host run the call.
    pub fn go_on(&self, id: u64) -> Result<(), i32> {
        self.respond(NotifResp { id, val: 0, error: 0, flags: FLAG_CONTINUE })
    }

    /// Installs `fd` at number `at` in the notified thread's table.
    pub fn add_fd(&self, id: u64, fd: BorrowedFd<'_>, at: u32) -> Result<(), i32> {
        let mut a = NotifAddFd { id, flags: 1, srcfd: fd.as_raw_fd() as u32, newfd: at, newfd_flags: 0 };
        // SAFETY: the kernel reads one `struct seccomp_notif_addfd`.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_ADDFD as _, &raw mut a) }.into()).map(drop)
    }

    /// Whether the notification still waits for its answer.
    pub fn id_valid(&self, id: u64) -> bool {
        let mut id = id;
        // SAFETY: the kernel reads one u64.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_ID_VALID as _, &raw mut id) == 0 }
    }

    /// Whether the kernel knows ADDFD: with an id nobody has, it says ENOENT then, and EINVAL or ENOTTY otherwise.
    pub fn has_add_fd(&self) -> bool {
        let fd = self.fd.as_raw_fd();
        let mut a = NotifAddFd { id: 0, flags: 1, srcfd: fd as u32, newfd: 0, newfd_flags: 0 };
        // SAFETY: as in `add_fd`.
        check(unsafe { libc::ioctl(fd, IOCTL_ADDFD as _, &raw mut a) }.into()) == Err(libc::ENOENT)
    }

    pub fn set_sync_wake(&self) -> Result<(), i32> {
        self.set_flags(1)?;
        self.sync_wake.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// One death, as `waitid` tells it.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub pid: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
}

/// Waits for a death among the children in group `pgid` without reaping it.
pub fn wait_peek(pgid: i32, block: bool) -> Result<Option<Death>, i32> {
    // SAFETY: siginfo_t is plain data, all-zero is a value of it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let mut opts = libc::WEXITED | libc::WNOWAIT;
    if !block {
        opts |= libc::WNOHANG;
    }
    // SAFETY: the kernel fills `info`.
    check(unsafe { libc::waitid(libc::P_PGID, pgid as u32, &raw mut info, opts) }.into())?;
    // SAFETY: waitid fills the SIGCHLD fields, or leaves them zero.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let signal = if info.si_code == libc::CLD_EXITED { 0 } else { status };
    Ok(Some(Death { pid, signal }))
}

/// Reaps a child that `wait_peek` named.
pub fn wait_reap(pid: i32) {
    // SAFETY: a null siginfo is allowed.
    let _ = unsafe { libc::waitid(libc::P_PID, pid as u32, std::ptr::null_mut(), libc::WEXITED) };
}

/// Forks with a shared descriptor table. Returns 0 in the child.
///
/// # Safety
/// The child may only make async-signal-safe calls and must not return.
pub unsafe fn fork_sharing_files() -> Result<i32, i32> {
    // SAFETY: without CLONE_VM this is fork; the caller keeps to what a child may do.
    let r = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) };
    check(r).map(|r| r as i32)
}
