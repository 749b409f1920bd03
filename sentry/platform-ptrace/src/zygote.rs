//! The zygote: the process every address space is forked from.
//!
//! Neighbours: `stub` (the image), `filter` (the BPF program), `tracer` (what the thread that boots it becomes).
//!
//! It is forked by a thread that does nothing else and lives as long as the platform: the host makes that thread the parent
//! of all stubs, so its wait would see the stops of all of them. Another one, the first tracer, traces the zygote before it
//! executes the stub, and prepares it step by step.

use crate::sandbox::Sandbox;
use crate::stub::{
    AFTER_CALL, CALL, KICK, SCRATCH, SCRATCH_LEN, SIGACTION, SOCKET_FD, STUB_BASE, STUB_HI, build_image,
};
use crate::sys::{self, UserRegs};
use crate::{Config, filter, xstate};
use chitin_platform::{AsyncLock, HostVmaKind};
use chitin_platform_host::SetupError;
use chitin_platform_host::calls::failed;
use chitin_platform_host::maps;
use chitin_platform_host::memory::{Host, reachable};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

const SPEC_ALLOW: u64 = 1 << 2;

/// What parent and child tell each other.
#[repr(C)]
struct Shared {
    /// 1: it is traced; the child may go on.
    traced: AtomicI32,
    /// The step that failed, and its errno.
    step: AtomicI32,
    errno: AtomicI32,
}

pub(crate) fn err(what: &str, errno: i32, remedy: &str) -> SetupError {
    let e = std::io::Error::from_raw_os_error(errno);
    SetupError(format!("platform ptrace: {what}: {e}; {remedy}"))
}

/// A forked zygote that waits to be traced.
pub struct Embryo {
    pub pid: i32,
    shared: &'static Shared,
    host: Arc<Host>,
    files: [OwnedFd; 2],
}

/// Forks it. Called on the thread that stays its parent.
pub fn fork(config: Config) -> Result<Embryo, SetupError> {
    let proc_dir = match config.proc_dir {
        Some(fd) => fd,
        None => sys::open_at(None, c"/proc", libc::O_RDONLY | libc::O_DIRECTORY)
            .map_err(|e| err("open of /proc", e, "mount procfs or pass its descriptor"))?,
    };
    let image = sys::memfd(c"chitin-stub", true)
        .map_err(|e| err("the stub's memfd", e, "set the sysctl vm.memfd_noexec to 0 or 1"))?;
    let mut image = std::fs::File::from(image);
    image
        .write_all(&build_image())
        .map_err(|e| err("the stub's memfd", e.raw_os_error().unwrap_or(0), "free some memory"))?;
    // A file that is open for writing cannot be executed.
    let path = std::ffi::CString::new(format!("self/fd/{}", image.as_raw_fd()))
        .map_err(|_| SetupError("bad path".into()))?;
    let image = match sys::open_at(Some(proc_dir.as_fd()), &path, libc::O_RDONLY) {
        Ok(ro) => ro,
        Err(_) => OwnedFd::from(image),
    };
    let files = sys::socket_pair().map_err(|e| err("a socket pair", e, "raise the limit on open files"))?;
    let shared = map_shared()?;
    let program = filter::program();
    let stack = config.options.stack_limit.unwrap_or(8 << 20);
    let socket = files.get(1).map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the child only makes direct system calls on memory prepared here, and ends in exec or _exit.
    let pid = match unsafe { sys::fork() } {
        Ok(0) => child(shared, &program, stack, socket, image.as_raw_fd()),
        Ok(pid) => pid,
        Err(e) => return Err(err("fork of the zygote", e, "raise the process limit")),
    };
    Ok(Embryo { pid, shared, host: Host::new(proc_dir), files })
}

fn map_shared() -> Result<&'static Shared, SetupError> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        return Err(err("a shared page", sys::errno(), "free some memory"));
    }
    // SAFETY: zeroed memory of sufficient size and alignment that is never unmapped.
    Ok(unsafe { &*p.cast::<Shared>() })
}

/// The child up to exec. Nothing here allocates or locks.
fn child(shared: &Shared, program: &[libc::sock_filter], stack: u64, socket: RawFd, image: RawFd) -> ! {
    let fail = |step: i32| -> ! {
        shared.errno.store(sys::errno(), Ordering::Release);
        shared.step.store(step, Ordering::Release);
        // SAFETY: ends this process.
        unsafe { libc::_exit(1) }
    };
    // SAFETY: no memory is involved.
    unsafe { libc::setpgid(0, 0) };
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    let none = 0u64;
    let null = std::ptr::null::<u8>();
    // SAFETY: the kernel reads one eight-byte signal set.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, null, 8) };
    let nap = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
    while shared.traced.load(Ordering::Acquire) == 0 {
        // SAFETY: the kernel reads one timespec.
        unsafe { libc::syscall(libc::SYS_nanosleep, &raw const nap, null) };
    }
    for (what, want) in [(libc::RLIMIT_STACK, stack), (libc::RLIMIT_CORE, 0), (libc::RLIMIT_NOFILE, 1024)] {
        let mut l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel fills one rlimit.
        unsafe { libc::getrlimit(what, &raw mut l) };
        l.rlim_cur = want.min(l.rlim_max);
        // SAFETY: the kernel reads one rlimit.
        unsafe { libc::setrlimit(what, &raw const l) };
    }
    // SAFETY: no memory is involved.
    if unsafe { libc::dup2(socket, SOCKET_FD as i32) } < 0 {
        fail(1);
    }
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let prog = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let mut flags = SPEC_ALLOW;
    // SAFETY: the program is valid memory and only read.
    while unsafe { libc::syscall(libc::SYS_seccomp, 1, flags, &raw const prog) } != 0 {
        // SPEC_ALLOW is of Linux 4.17.
        if flags == 0 {
            fail(2);
        }
        flags = 0;
    }
    let argv = [c"chitin-stub".as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    let (a, e) = (argv.as_ptr(), envp.as_ptr());
    // SAFETY: C strings and null-terminated arrays.
    unsafe { libc::syscall(libc::SYS_execveat, image, c"".as_ptr(), a, e, libc::AT_EMPTY_PATH) };
    fail(3)
}

/// Kills the zygote when its start fails.
struct Killer(i32);

impl Drop for Killer {
    fn drop(&mut self) {
        let _ = sys::kill(self.0, libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(1));
        sys::reap(self.0);
    }
}

const NO_TRACING: &str = "allow ptrace(2): the sysctl kernel.yama.ptrace_scope must be 0 or 1, and no security module or \
                          seccomp profile of an outer container may forbid it (docker: --cap-add=SYS_PTRACE); or use \
                          --platform=seccomp or kvm";

/// Traces the zygote from this thread and makes it ready; returns it stopped.
pub fn boot(embryo: Embryo) -> Result<(Sandbox, i32, UserRegs), SetupError> {
    let Embryo { pid, shared, host, files } = embryo;
    let kill = Killer(pid);
    sys::seize(pid).map_err(|e| err("tracing the zygote", e, NO_TRACING))?;
    shared.traced.store(1, Ordering::Release);
    let z = Zygote { pid, shared };
    z.until(|status| status >> 8 == sys::EVENT_EXEC)?;
    // Out of the execve, to where registers can be set.
    sys::interrupt(pid).map_err(|e| err("the zygote's start", e, "try again"))?;
    z.go(sys::CONT)?;
    z.until(|status| status >> 8 == sys::EVENT_STOP)?;
    let regs = sys::get_regs(pid).map_err(|e| err("the zygote's registers", e, "try again"))?;
    z.arrange(&regs, &host)?;
    reachable(pid).map_err(|why| SetupError(format!("platform ptrace: {why}")))?;
    let mut state = Vec::new();
    sys::get_xstate(pid, &mut state).map_err(|e| {
        err("the FPU state", e, "needs a processor and kernel with XSAVE; use --platform=seccomp")
    })?;
    let form = xstate::learn(&state).ok_or_else(|| {
        SetupError("platform ptrace: the host's FPU state has an unknown form; use --platform=seccomp".into())
    })?;
    std::mem::forget(kill);
    let sandbox = Sandbox {
        host,
        form,
        xstate_len: state.len(),
        zygote: Default::default(),
        origins: Default::default(),
        table: Default::default(),
        events: Default::default(),
        pool: Default::default(),
        files,
        files_lock: Arc::<AsyncLock>::default(),
        closing: Default::default(),
    };
    Ok((sandbox, pid, regs))
}

struct Zygote {
    pid: i32,
    shared: &'static Shared,
}

impl Zygote {
    fn go(&self, how: u32) -> Result<(), SetupError> {
        sys::go(how, self.pid, 0).map_err(|e| err("the zygote's start", e, "try again"))
    }

    /// Lets it go on until a stop that is `wanted`.
    fn until(&self, wanted: impl Fn(i32) -> bool) -> Result<i32, SetupError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = match sys::poll_child(self.pid) {
                Some(sys::Child::Stopped(status)) => status,
                Some(sys::Child::Ended) => return Err(self.failure()),
                None if Instant::now() > deadline => {
                    return Err(err(
                        "start of the zygote",
                        libc::ETIMEDOUT,
                        "the host is overloaded; try again",
                    ));
                }
                None => {
                    std::thread::sleep(Duration::from_micros(20));
                    continue;
                }
            };
            if wanted(status) {
                return Ok(status);
            }
            self.go(sys::CONT)?;
        }
    }

    fn failure(&self) -> SetupError {
        let errno = self.shared.errno.load(Ordering::Acquire);
        match self.shared.step.load(Ordering::Acquire) {
            1 => err("preparing the zygote", errno, "needs RLIMIT_NOFILE of at least 1024"),
            2 => err("installing the stubs' filter", errno, "needs Linux 4.8 with CONFIG_SECCOMP_FILTER"),
            3 => err("executing the stub", errno, "allow execution of memfds (sysctl vm.memfd_noexec)"),
            _ => SetupError("platform ptrace: the zygote was killed; see the host's log".into()),
        }
    }

    /// Has it make one call.
    fn call(&self, regs: &UserRegs, nr: i64, args: [u64; 6]) -> Result<i64, SetupError> {
        let lost = |e| err("the zygote's start", e, "try again");
        let mut regs = *regs;
        (regs.rip, regs.rax, regs.orig_rax) = (CALL, nr as u64, u64::MAX);
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        sys::set_regs(self.pid, &regs).map_err(lost)?;
        self.go(sys::CONT)?;
        self.until(|status| status >> 8 == sys::EVENT_SECCOMP)?;
        let seen = sys::get_regs(self.pid).map_err(lost)?;
        if seen.rip != AFTER_CALL {
            return Err(lost(libc::EFAULT));
        }
        self.go(sys::SYSCALL)?;
        self.until(|status| status == 0x85)?;
        sys::get_regs(self.pid).map(|r| r.rax as i64).map_err(lost)
    }

    fn must(&self, regs: &UserRegs, nr: i64, args: [u64; 6]) -> Result<i64, SetupError> {
        let r = self.call(regs, nr, args)?;
        match failed(r) {
            Some(e) => Err(err(&format!("call {nr} in the zygote"), e, "free some memory")),
            None => Ok(r),
        }
    }

    /// Everything but the stub and the vDSO goes; the platform's range is reserved; faults get their handler.
    fn arrange(&self, regs: &UserRegs, host: &Host) -> Result<(), SetupError> {
        let all = maps::all(host.proc_dir.as_fd(), self.pid, false).map_err(|e| {
            err("reading the zygote's maps", e, "pass a procfs of the sentry's own PID namespace")
        })?;
        let (mut vdso, mut vvar) = (None, Vec::new());
        for v in all {
            match v.kind {
                HostVmaKind::Vdso => vdso = Some(v.range.clone()),
                HostVmaKind::Vvar => vvar.push(v.range.clone()),
                HostVmaKind::Vsyscall => {}
                _ if v.range.start >= STUB_BASE && v.range.end <= STUB_HI => {}
                _ => {
                    let len = v.range.end - v.range.start;
                    self.must(regs, libc::SYS_munmap, [v.range.start, len, 0, 0, 0, 0])?;
                }
            }
        }
        let _ = host.vdso.set(vdso);
        let _ = host.vvar.set(vvar);
        let reserve = [STUB_BASE + 0x1000, STUB_HI - STUB_BASE - 0x1000, 0, 0x4032, u64::MAX, 0];
        self.must(regs, libc::SYS_mmap, reserve)?;
        self.must(regs, libc::SYS_mmap, [SCRATCH, SCRATCH_LEN, 3, 0x4032, u64::MAX, 0])?;
        self.close_files(regs, host)?;
        let name = libc::iovec { iov_base: SCRATCH as *mut _, iov_len: 12 };
        if sys::vm_write(self.pid, b"chitin-stub\0", &[name]) == Ok(12) {
            self.call(regs, libc::SYS_prctl, [libc::PR_SET_NAME as u64, SCRATCH, 0, 0, 0, 0])?;
        }
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, KICK] {
            self.must(regs, libc::SYS_rt_sigaction, [signal as u64, SIGACTION, 0, 8, 0, 0])?;
        }
        Ok(())
    }

    fn close_files(&self, regs: &UserRegs, host: &Host) -> Result<(), SetupError> {
        let keep = u64::from(SOCKET_FD);
        let below = self.call(regs, libc::SYS_close_range, [0, keep - 1, 0, 0, 0, 0])?;
        if below == 0 {
            self.must(regs, libc::SYS_close_range, [keep + 1, u64::from(u32::MAX), 0, 0, 0, 0])?;
            return Ok(());
        }
        // Before Linux 5.9.
        let open = maps::descriptors(host.proc_dir.as_fd(), self.pid).map_err(|e| {
            err("listing the zygote's descriptors", e, "pass a procfs of the sentry's PID namespace")
        })?;
        for fd in open.into_iter().filter(|fd| *fd != keep) {
            self.must(regs, libc::SYS_close, [fd, 0, 0, 0, 0, 0])?;
        }
        Ok(())
    }
}
