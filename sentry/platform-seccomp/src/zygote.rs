//! The zygotes: the processes every address space is forked from, one a line, and the start of the platform's own threads.
//!
//! Neighbours: `stub` (the image), `filter` (the BPF program), `reaper` and `parking` (threads), `sandbox` (the result).
//!
//! They are made by the thread that becomes the reaper, which lives as long as the platform: the host ties
//! PR_SET_PDEATHSIG to the thread. Each shares the sentry's descriptor table until it executes the stub, which is how its
//! listener gets into the sentry. Until all are ready no guest code exists, so what they do is continued unseen.

use crate::Process;
use crate::arena::Arena;
use crate::fast;
use crate::filter;
use crate::frame;
use crate::line::{self, Line};
use crate::restart::Made;
use crate::sandbox::{Features, Sandbox};
use crate::space::Space;
use crate::stub::{ARENA_FD, DOORBELL, KICK, SIGACTION, STUB_BASE, STUB_HI, build_image, cmd, code, ctl};
use crate::sys::{self, Listener, Notif};
use crate::task::{Birth, Phase, Task};
use crate::{Config, Options};
use chitin_platform::HostVmaKind;
use chitin_platform_host::SetupError;
use chitin_platform_host::calls::{Call, failed};
use chitin_platform_host::maps;
use chitin_platform_host::memory::{Host, reachable};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

const NEW_LISTENER: u64 = 1 << 3;
const SPEC_ALLOW: u64 = 1 << 2;
const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// What the child tells through shared memory: the listener's number, or a negative errno and the step that failed.
#[repr(C)]
struct Shared {
    listener: AtomicI32,
    step: AtomicI32,
}

fn err(what: &str, errno: i32, remedy: &str) -> SetupError {
    let e = std::io::Error::from_raw_os_error(errno);
    SetupError(format!("platform seccomp: {what}: {e}; {remedy}"))
}

struct Prepared {
    program: Vec<libc::sock_filter>,
    stack: u64,
    killable: bool,
}

/// Starts the zygotes. Called on the thread that will reap; returns the platform and the stubs' process group.
pub fn start(config: Config) -> Result<(Arc<Sandbox>, i32), SetupError> {
    let Options { disable_sync_wake, disable_wait_killable, stack_limit, cpus, eager } = config.options;
    let proc_dir = match config.proc_dir {
        Some(fd) => fd,
        None => sys::open_at(None, c"/proc", libc::O_RDONLY | libc::O_DIRECTORY)
            .map_err(|e| err("open of /proc", e, "mount procfs or pass its descriptor"))?,
    };
    let arena = Arena::new()
        .map_err(|e| err("windows' memory", e, "allow memfd_create and 8 GiB of address space"))?;
    let fsgsbase = sys::auxval(26) & 2 != 0; // AT_HWCAP2, HWCAP2_FSGSBASE
    let image = sys::memfd(c"chitin-stub", true)
        .map_err(|e| err("the stub's memfd", e, "set the sysctl vm.memfd_noexec to 0 or 1"))?;
    let mut image = std::fs::File::from(image);
    image
        .write_all(&build_image(arena.window_size(), fsgsbase))
        .map_err(|e| err("the stub's memfd", e.raw_os_error().unwrap_or(0), "free some memory"))?;
    // A file that is open for writing cannot be executed.
    let path = format!("self/fd/{}", image.as_raw_fd());
    let path = std::ffi::CString::new(path).map_err(|_| SetupError("bad path".into()))?;
    let image = match sys::open_at(Some(proc_dir.as_fd()), &path, libc::O_RDONLY) {
        Ok(ro) => ro,
        Err(_) => OwnedFd::from(image),
    };

    let prep = Prepared {
        program: filter::program(),
        stack: stack_limit.unwrap_or(8 << 20),
        killable: !disable_wait_killable,
    };
    // All at once, so that they start beside each other.
    let mut embryos: Vec<Embryo> = Vec::new();
    for place in 0..line::suitable() {
        let group = embryos.first().map_or(0, |e| e.0.0);
        embryos.push(Embryo::new(&prep, place, group, image.as_raw_fd())?);
    }
    let first = embryos.first().map_or(0, |e| e.0.0);
    let host = Host::new(proc_dir);
    let mut features = Features { wait_killable: true, sync_wake: !disable_sync_wake, fsgsbase };
    let mut lines = Vec::new();
    for (n, embryo) in embryos.iter().enumerate() {
        let (listener, wait_killable) = embryo.listener()?;
        features.wait_killable &= wait_killable;
        features.sync_wake = features.sync_wake && listener.set_sync_wake().is_ok();
        lines.push(Line::new(listener, if n == 0 { host.clone() } else { host.sibling() }));
    }
    tracing::info!(
        ?features,
        window = arena.window_size(),
        zygote = first,
        lines = lines.len(),
        "platform seccomp"
    );
    let temper = if eager { fast::EAGER } else { fast::CALM };
    let sb = Sandbox::new(lines.into(), host, arena, features, temper, cpus.unwrap_or(usize::MAX));
    for (place, (line, embryo)) in sb.lines.iter().zip(&embryos).enumerate() {
        boot(&sb, line, place, embryo.0.0)?;
    }
    reachable(first).map_err(|why| SetupError(format!("platform seccomp: {why}")))?;
    embryos.into_iter().for_each(|e| std::mem::forget(e.0));
    Ok((sb, first))
}

/// A zygote on its way.
struct Embryo(Killer, &'static Shared);

impl Embryo {
    /// `place`: among the zygotes; `group`: the process group, 0 for one of its own.
    fn new(prep: &Prepared, place: usize, group: i32, image: RawFd) -> Result<Embryo, SetupError> {
        let shared = map_shared()?;
        // SAFETY: the child only makes direct system calls on memory prepared here, and ends in exec or _exit.
        match unsafe { sys::fork_sharing_files() } {
            Ok(0) => child(prep, place, group, shared, image),
            Ok(pid) => {
                // It does so itself, but the next one may look for the group before.
                // SAFETY: no memory is involved.
                unsafe { libc::setpgid(pid, if group == 0 { pid } else { group }) };
                Ok(Embryo(Killer(pid), shared))
            }
            Err(e) => Err(err("fork of the zygote", e, "raise the process limit")),
        }
    }

    /// Its listener, and whether that has WAIT_KILLABLE_RECV.
    fn listener(&self) -> Result<(Listener, bool), SetupError> {
        let shared = self.1;
        let deadline = Instant::now() + Duration::from_secs(10);
        let fd = loop {
            let v = shared.listener.load(Ordering::Acquire);
            if v > 0 {
                break v;
            }
            if v < 0 {
                return Err(setup_failure(shared.step.load(Ordering::Acquire), -v));
            }
            if Instant::now() > deadline {
                return Err(err("start of the zygote", libc::ETIMEDOUT, "the host is overloaded; try again"));
            }
            std::thread::sleep(Duration::from_micros(50));
        };
        // SAFETY: the child made the descriptor in the table it shared with us, and has left it to us.
        let listener = Listener::new(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        if !listener.has_add_fd() {
            return Err(err(
                "SECCOMP_IOCTL_NOTIF_ADDFD",
                libc::ENOSYS,
                "use Linux 5.9 or newer, or --platform=ptrace",
            ));
        }
        Ok((listener, shared.step.load(Ordering::Acquire) == 1))
    }
}

/// Kills and reaps the zygote when its start fails.
struct Killer(i32);

impl Drop for Killer {
    fn drop(&mut self) {
        let _ = sys::kill(self.0, libc::SIGKILL);
        sys::wait_reap(self.0);
    }
}

fn setup_failure(step: i32, errno: i32) -> SetupError {
    match (step, errno) {
        (_, libc::EBUSY) => err(
            "installing the filter",
            errno,
            "another seccomp user-notify listener already supervises this process; start it without one, or use \
             --platform=ptrace",
        ),
        (3, _) => err("executing the stub", errno, "allow execution of memfds (sysctl vm.memfd_noexec)"),
        (1, _) => err("the zygotes' process group", errno, "try again"),
        (2, libc::EPERM | libc::EACCES) => err(
            "installing the filter",
            errno,
            "the seccomp profile of an outer container forbids seccomp user notification: give it none (docker: \
             --security-opt seccomp=unconfined), or use --platform=ptrace",
        ),
        (2, _) => err(
            "installing the filter",
            errno,
            "needs seccomp user notification (Linux 5.9, CONFIG_SECCOMP_FILTER); use --platform=ptrace",
        ),
        _ => err("preparing the zygote", errno, "needs RLIMIT_NOFILE of at least 1024"),
    }
}

fn map_shared() -> Result<&'static Shared, SetupError> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if p == libc::MAP_FAILED {
        return Err(err("a shared page", sys::errno(), "free some memory"));
    }
    // SAFETY: zeroed memory of sufficient size and alignment that is never unmapped.
    Ok(unsafe { &*p.cast::<Shared>() })
}

/// The child up to exec. Nothing here allocates or locks.
fn child(p: &Prepared, place: usize, group: i32, shared: &Shared, image: RawFd) -> ! {
    let fail = |step: i32| -> ! {
        let e = sys::errno();
        shared.step.store(step, Ordering::Release);
        shared.listener.store(-e, Ordering::Release);
        // SAFETY: ends this process.
        unsafe { libc::_exit(1) }
    };
    // SAFETY: no memory is involved.
    if unsafe { libc::setpgid(0, group) } != 0 {
        fail(1);
    }
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    let none = 0u64;
    let null = std::ptr::null::<u8>();
    // SAFETY: the kernel reads one eight-byte signal set.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, null, 8) };
    for (what, want) in [(libc::RLIMIT_STACK, p.stack), (libc::RLIMIT_CORE, 0), (libc::RLIMIT_NOFILE, 1024)] {
        let mut l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel fills one rlimit.
        unsafe { libc::getrlimit(what, &raw mut l) };
        l.rlim_cur = want.min(l.rlim_max);
        // SAFETY: the kernel reads one rlimit.
        unsafe { libc::setrlimit(what, &raw const l) };
        if what == libc::RLIMIT_NOFILE && l.rlim_cur < 1024 {
            fail(0);
        }
    }
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let prog = libc::sock_fprog { len: p.program.len() as u16, filter: p.program.as_ptr().cast_mut() };
    let mut killable = p.killable;
    let fd = loop {
        let flags = NEW_LISTENER | SPEC_ALLOW | if killable { WAIT_KILLABLE_RECV } else { 0 };
        // SAFETY: the program is valid memory and only read.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, 1, flags, &raw const prog) };
        if fd >= 0 {
            break fd;
        }
        if !killable {
            fail(2);
        }
        killable = false;
    };
    shared.step.store(i32::from(killable), Ordering::Release);
    shared.listener.store(fd as i32, Ordering::Release);
    // Their number tells the stub which chunk of the arena is its own.
    let mut argv = [std::ptr::null(); line::MOST + 1];
    argv.iter_mut().take(place + 1).for_each(|a| *a = c"chitin-stub".as_ptr());
    let envp = [std::ptr::null::<libc::c_char>()];
    let (a, e) = (argv.as_ptr(), envp.as_ptr());
    // SAFETY: C strings and null-terminated arrays.
    unsafe { libc::syscall(libc::SYS_execveat, image, c"".as_ptr(), a, e, libc::AT_EMPTY_PATH) };
    // SAFETY: ends this process.
    unsafe { libc::_exit(2) }
}

/// Takes the next notification of the zygote during its start.
fn next(line: &Line) -> Result<Notif, SetupError> {
    for _ in 0..100 {
        if !line.listener.poll(100) {
            continue;
        }
        match line.listener.recv() {
            Ok(n) => return Ok(n),
            Err(libc::EINTR | libc::ENOENT) => {}
            Err(e) => {
                return Err(err("the zygote's start", e, "see the host's log for seccomp or memfd limits"));
            }
        }
    }
    Err(err(
        "the zygote's start",
        libc::ETIMEDOUT,
        "executing a memfd may be forbidden (sysctl vm.memfd_noexec)",
    ))
}

/// Continues whatever the zygote does until it rings with `what`; returns the doorbell.
fn until(sb: &Sandbox, line: &Line, what: u64) -> Result<Notif, SetupError> {
    loop {
        let n = next(line)?;
        if n.ip & !0xfff == STUB_BASE && n.nr as u64 == DOORBELL && n.args[0] == what {
            return Ok(n);
        }
        if n.nr as i64 == libc::SYS_exit_group {
            let _ = line.listener.go_on(n.id);
            return Err(err(
                "executing the stub",
                libc::EACCES,
                "allow execution of memfds (sysctl vm.memfd_noexec)",
            ));
        }
        if n.nr as i64 == libc::SYS_mmap && n.args[4] == u64::from(ARENA_FD) {
            line.listener
                .add_fd(n.id, sb.arena.fd(), ARENA_FD)
                .map_err(|e| err("handing the windows to the zygote", e, "raise RLIMIT_NOFILE to 1024"))?;
        }
        line.listener.go_on(n.id).map_err(|e| err("the zygote's start", e, "try again"))?;
    }
}

fn boot(sb: &Arc<Sandbox>, line: &Arc<Line>, place: usize, pid: i32) -> Result<(), SetupError> {
    let no_mem = || err("windows", libc::ENOMEM, "free some memory");
    let chunk = sb.arena.alloc().ok_or_else(no_mem)?;
    if chunk.offset() != place as u64 * sb.arena.chunk_len() {
        return Err(SetupError("platform seccomp: the windows are not in the zygotes' order".into()));
    }
    let (space, win) = Space::new(sb, line, chunk, 0);
    let proc = Process::new(pid, space);
    sb.register(&proc);
    let n = until(sb, line, code::START)?;

    // Everything but the stub and the vDSO goes.
    let all = maps::all(sb.host.proc_dir.as_fd(), pid, false).map_err(|e| {
        err("reading the zygote's maps", e, "pass a procfs of the sentry's own PID namespace")
    })?;
    let mut calls = vec![
        Call::new(libc::SYS_close_range, [0, u64::from(ARENA_FD) - 1, 0, 0, 0, 0]),
        Call::new(libc::SYS_close_range, [u64::from(ARENA_FD) + 1, u64::from(u32::MAX), 0, 0, 0, 0]),
    ];
    let (mut vdso, mut vvar) = (None, Vec::new());
    for v in all {
        match v.kind {
            HostVmaKind::Vdso => vdso = Some(v.range.clone()),
            HostVmaKind::Vvar => vvar.push(v.range.clone()),
            HostVmaKind::Vsyscall => {}
            _ if v.range.start >= STUB_BASE && v.range.end <= STUB_HI => {}
            _ => calls
                .push(Call::new(libc::SYS_munmap, [v.range.start, v.range.end - v.range.start, 0, 0, 0, 0])),
        }
    }
    let _ = line.host.vdso.set(vdso);
    let _ = line.host.vvar.set(vvar);
    let scratch = win.vaddr + ctl::SCRATCH as u64;
    win.put(ctl::SCRATCH, win.vaddr + ctl::PAGE as u64);
    win.put(ctl::SCRATCH + 8, 0);
    win.put(ctl::SCRATCH + 16, (win.size() - ctl::PAGE) as u64);
    win.copy_in(ctl::SCRATCH + 24, b"chitin-stub\0");
    calls.push(Call::new(libc::SYS_sigaltstack, [scratch, 0, 0, 0, 0, 0]));
    calls.push(Call::new(libc::SYS_prctl, [libc::PR_SET_NAME as u64, scratch + 24, 0, 0, 0, 0]));
    let handled =
        [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, KICK];
    for sig in handled {
        calls.push(Call::new(libc::SYS_rt_sigaction, [sig as u64, SIGACTION, 0, 8, 0, 0]));
    }
    for (i, c) in calls.iter().enumerate() {
        let at = ctl::CALLS + i * ctl::CALL_SIZE;
        win.put(at, c.nr);
        for (j, a) in c.args.iter().enumerate() {
            win.put(at + 8 + j * 8, *a);
        }
    }
    win.put(ctl::COUNT, calls.len() as u64);
    line.listener.answer(n.id, cmd::LIST).map_err(|e| err("the zygote's start", e, "try again"))?;
    let n = until(sb, line, code::DONE)?;
    for (i, c) in calls.iter().enumerate() {
        let r = win.get(ctl::CALLS + i * ctl::CALL_SIZE + 56) as i64;
        if let Some(e) = failed(r) {
            let what = format!("call {} in the zygote", c.nr);
            return Err(err(&what, e, "needs Linux 5.9 or newer"));
        }
    }

    // One real signal, so that the zygote (and every fork of it) sits in a frame the host made.
    sys::tgkill(pid, pid, KICK).map_err(|e| err("the zygote's first signal", e, "try again"))?;
    let _ = line.listener.answer(n.id, cmd::AGAIN);
    let n = until(sb, line, KICK as u64)?;
    let bad = || {
        SetupError(
            "platform seccomp: the host's signal frame has an unknown form; use --platform=ptrace".into(),
        )
    };
    let uc = frame::locate(&win, n.args[1]).ok_or_else(bad)?;
    let layout = frame::learn(&win, uc).ok_or_else(bad)?;
    let _ = sb.layout.set(layout);
    let (fs, gs) = (n.args[3], n.args[4]);
    let birth = Birth {
        tid: pid,
        index: 0,
        win,
        phase: Phase::Stopped,
        id: n.id,
        frame: Some(uc),
        fs,
        gs,
        bases_dirty: false,
        newborn: false,
        made: Some(Made::of(&n)),
        affinity: None,
    };
    let _ = line.zygote.set(Task::new(sb, &proc, birth));
    Ok(())
}
