//! Making the two processes of a sandbox: clone into fresh namespaces, then exec of this same binary in a role.
//!
//! This is the runtime's only module with `unsafe` code. What runs in a cloned child before exec makes system calls
//! only: everything that allocates is prepared before. A child begins by entering its cgroups and waits then for one byte
//! on its sync socket, by when the parent has written its id maps; if the parent dies instead, so does it.
//! Every descriptor but the ones that a role is given is closed by exec, also those that our own caller leaked.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use seccompiler::{BpfProgram, sock_filter};

use crate::cgroup::{Cgroups, Entrances};
use crate::spec::MemoryPolicy;
use crate::util::{Context, Result};

/// What a child says once it is in its cgroups; no step's number.
const JOINED: u8 = 0xff;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Takes over a descriptor that a call outside this module has returned for us alone.
pub fn own_fd(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the callers pass numbers that the kernel has just returned to them.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that our caller has left open for us, by its number.
pub fn borrow_inherited(fd: RawFd) -> io::Result<BorrowedFd<'static>> {
    // SAFETY: an integer; a number without a descriptor is an error.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and nobody here owns a number that was open before this program began.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// What a new process shall be.
#[derive(Debug)]
pub struct Role<'a> {
    /// The hidden subcommand.
    pub name: &'static CStr,
    /// Shown in `ps` behind it.
    pub id: &'a str,
    /// The memfd with its configuration.
    pub config: BorrowedFd<'a>,
    /// `CLONE_NEW*`.
    pub namespaces: libc::c_int,
    /// Its 0, 1 and 2 (numbers above 2).
    pub stdio: [BorrowedFd<'a>; 3],
    /// Other descriptors that it shall have, under the same numbers.
    pub inherited: Vec<RawFd>,
    /// The terminal that becomes its controlling one.
    pub terminal: Option<BorrowedFd<'a>>,
    /// Become user 0 of the new user namespace, without supplementary groups if that is allowed.
    pub namespace_root: bool,
    /// Where it is from its first instruction on.
    pub cgroups: Option<&'a Cgroups>,
    /// Where it and all that it forks get their memory from.
    pub memory: Option<&'a MemoryPolicy>,
}

/// What the child needs between clone and exec, all allocated before.
struct Prepared<'a> {
    exe: RawFd,
    argv: [*const libc::c_char; 5],
    sync: RawFd,
    parents_sync: RawFd,
    /// Where it enters its cgroups.
    tasks: Vec<RawFd>,
    role: &'a Role<'a>,
}

/// A child process. Unless released it is killed and collected on drop.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    sync: UnixStream,
    status: Option<WaitStatus>,
    released: bool,
    joined: bool,
}

/// Steps in the child that can fail, by the number that is sent to the parent.
const STEPS: [&str; 10] = [
    "entering the container's cgroup (tasks)",
    "clearing groups",
    "becoming group 0",
    "becoming user 0",
    "setsid",
    "dup2",
    "close_range",
    "fcntl",
    "execveat",
    "set_mempolicy (linux.memoryPolicy: name nodes that the host has, /sys/devices/system/node/online)",
];

/// This binary, in a form that an unprivileged user can execute.
pub fn executable() -> Result<OwnedFd> {
    let failed = || "cannot open /proc/self/exe (is /proc mounted?)".to_owned();
    let mut file = File::open("/proc/self/exe").context(failed)?;
    let mode = file.metadata().context(failed)?.permissions().mode();
    if mode & 0o005 == 0o005 {
        return Ok(file.into());
    }
    // Installed for root only, but the sentry runs as nobody.
    let failed =
        || "cannot copy this binary for the sentry (or make it readable and executable by all)".to_owned();
    memory_file(c"chitin", &mut file).context(failed)
}

/// A program in memory, to be executed.
pub fn program(name: &CStr, bytes: &[u8]) -> Result<OwnedFd> {
    memory_file(name, &mut &*bytes).context(|| format!("cannot make the program {}", name.to_string_lossy()))
}

fn memory_file(name: &CStr, from: &mut impl Read) -> io::Result<OwnedFd> {
    let mut copy = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    io::copy(from, &mut copy)?;
    copy.set_permissions(fs::Permissions::from_mode(0o555))?;
    // A file that is open for writing cannot be executed.
    File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).map(OwnedFd::from)
}

/// A seccomp list as the host's kernel takes it.
pub fn filter_bytes(program: &BpfProgram) -> Vec<u8> {
    let head = |i: &sock_filter| [i.code.to_ne_bytes(), [i.jt, i.jf]].concat();
    program.iter().flat_map(|i| head(i).into_iter().chain(i.k.to_ne_bytes())).collect()
}

/// Clones a process for `role`. It waits for [`Child::go`].
pub fn spawn(exe: BorrowedFd<'_>, role: &Role<'_>) -> Result<Child> {
    let what = || format!("cannot start the {}", role.name.to_string_lossy());
    let (ours, theirs) = UnixStream::pair().context(what)?;
    let entrances = role.cgroups.and_then(Cgroups::entrances);
    let config = CString::new(format!("--config-fd={}", role.config.as_raw_fd())).context(what)?;
    let id = CString::new(role.id).context(what)?;
    let prepared = Prepared {
        exe: exe.as_raw_fd(),
        argv: [c"chitin".as_ptr(), role.name.as_ptr(), config.as_ptr(), id.as_ptr(), std::ptr::null()],
        sync: theirs.as_raw_fd(),
        parents_sync: ours.as_raw_fd(),
        tasks: entrances.map(Entrances::tasks).unwrap_or_default(),
        role,
    };

    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_PIDFD | role.namespaces;
    // SAFETY: clone_args is plain data for which zero means "nothing asked".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    let into = entrances.and_then(Entrances::v2);
    if let Some(fd) = into {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.cast_unsigned());
    }
    let mut pid = clone_into(&mut args, &prepared);
    // A limit of that cgroup's, or a rule about moving to it: as a process that moves from outside it may still get in.
    let cloned_inside = pid >= 0 || into.is_none();
    if !cloned_inside {
        args.flags &= !CLONE_INTO_CGROUP;
        args.cgroup = 0;
        pid = clone_into(&mut args, &prepared);
    }
    if pid < 0 {
        return Err(clone_error(&what(), role.namespaces, io::Error::last_os_error()));
    }
    let pid = i32::try_from(pid).context(what)?;
    let pidfd = own_fd(pidfd).context(what)?;
    let child = Child { pid, pidfd, sync: ours, status: None, released: false, joined: false };
    match role.cgroups {
        Some(cgroups) if entrances.is_none() => cgroups.add(pid)?,
        Some(cgroups) if !cloned_inside => cgroups.add_to_v2(pid)?,
        _ => {}
    }
    Ok(child)
}

/// clone3(2) of a child that goes its own way.
fn clone_into(args: &mut libc::clone_args, prepared: &Prepared<'_>) -> libc::c_long {
    // SAFETY: without CLONE_VM this is a fork: the child gets a copy of this single-threaded process and only makes
    // system calls before exec. The kernel writes to the pidfd's place only.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(args), size_of::<libc::clone_args>()) };
    if pid == 0 {
        become_role(prepared);
    }
    pid
}

fn clone_error(what: &str, namespaces: libc::c_int, e: io::Error) -> String {
    let remedy = match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => {
            "a limit of namespaces is reached: raise /proc/sys/user/max_*_namespaces"
        }
        Some(libc::EPERM) if namespaces & libc::CLONE_NEWUSER != 0 => {
            "user namespaces are not allowed here: enable them (kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns, or the seccomp profile of the container around us)"
        }
        Some(libc::ENOSYS) => "clone3(2) needs Linux 5.3 and a container around us that allows it",
        Some(libc::EAGAIN) => "a limit of processes is reached (ulimit -u, pids.max)",
        _ => "new namespaces need root or user namespaces",
    };
    format!("{what}: {e}; {remedy}")
}

/// The child's way to exec. System calls only.
fn become_role(prepared: &Prepared<'_>) -> ! {
    let step = prepare_and_exec(prepared);
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let report = [step, errno.to_le_bytes()[0]];
    // SAFETY: two bytes that are there.
    unsafe { libc::write(prepared.sync, report.as_ptr().cast(), report.len()) };
    // SAFETY: ends this process without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

/// Returns the number of the step that failed, its error in errno.
fn prepare_and_exec(prepared: &Prepared<'_>) -> u8 {
    let role = prepared.role;
    // SAFETY: the child's copy; with it open we would never see the parent's end.
    unsafe { libc::close(prepared.parents_sync) };
    for fd in &prepared.tasks {
        // SAFETY: a constant byte.
        if unsafe { libc::write(*fd, c"0".as_ptr().cast(), 1) } != 1 {
            return 0;
        }
    }
    let mut byte = JOINED;
    // SAFETY: one byte of our own.
    unsafe { libc::write(prepared.sync, (&raw const byte).cast(), 1) };
    // SAFETY: one byte of our own.
    while unsafe { libc::read(prepared.sync, (&raw mut byte).cast(), 1) } != 1 {
        if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        // SAFETY: as above.
        unsafe { libc::_exit(126) };
    }

    if role.namespace_root {
        // SAFETY: an empty list. Not allowed to the rootless, whose groups stay.
        if unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) } != 0
            && io::Error::last_os_error().raw_os_error() != Some(libc::EPERM)
        {
            return 1;
        }
        // SAFETY: integers only. The raw calls, because the C library would look for other threads.
        if unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) } != 0 {
            return 2;
        }
        // SAFETY: as above.
        if unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) } != 0 {
            return 3;
        }
    }
    // A session of its own: keys typed at our terminal signal us alone, and we pass them on once.
    // SAFETY: no arguments.
    if unsafe { libc::setsid() } < 0 {
        return 4;
    }
    if let Some(terminal) = role.terminal {
        // SAFETY: an integer argument. A failure means that it is no terminal, which the sentry finds out itself.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    }
    for (number, fd) in (0..).zip(&role.stdio) {
        // SAFETY: replaces one of our numbers 0 to 2.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return 5;
        }
    }
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } != 0 {
        return 6;
    }
    for fd in role.inherited.iter().copied().chain([role.config.as_raw_fd()]) {
        // SAFETY: integers only.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
            return 7;
        }
    }
    if let Some(policy) = role.memory {
        let (nodes, most) = match policy.nodes.len() {
            0 => (std::ptr::null(), 0),
            // The kernel counts one bit more than it reads.
            words => (policy.nodes.as_ptr(), words * 64 + 1),
        };
        // SAFETY: the words are there, and the kernel reads no more of them than that many bits.
        if unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, nodes, most) } != 0 {
            return 9;
        }
    }
    settle();
    let envp: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: the arrays end in null and their strings in NUL.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            prepared.exe,
            c"".as_ptr(),
            prepared.argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    8
}

/// Of a process that is about to execute another program; safe after a fork.
fn unblock_signals() {
    let mask = 0u64;
    // SAFETY: the kernel's signal set is 8 bytes; an empty one unblocks all.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null::<u64>(),
            8usize,
        )
    };
}

/// Undoes what the process inherits from us or our caller beside descriptors. Nothing of it can fail badly.
fn settle() {
    // SAFETY: a constant string.
    unsafe { libc::chdir(c"/".as_ptr()) };
    // SAFETY: integers only.
    unsafe { libc::umask(0o077) };
    // SAFETY: integers only.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    unblock_signals();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: an initialised structure.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

impl Child {
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sets the maps of its user namespace, in lines of `/proc/PID/uid_map`.
    pub fn write_maps(&self, uids: &str, gids: &str, deny_setgroups: bool) -> io::Result<()> {
        let file = |name: &str| format!("/proc/{}/{name}", self.pid);
        if deny_setgroups {
            fs::write(file("setgroups"), "deny")?;
        }
        fs::write(file("gid_map"), gids)?;
        fs::write(file("uid_map"), uids)
    }

    /// Its user namespace.
    pub fn user_namespace(&self) -> io::Result<OwnedFd> {
        File::open(format!("/proc/{}/ns/user", self.pid)).map(OwnedFd::from)
    }

    /// Waits until it is in its cgroups, for those who look at it there; it does not run before in any case.
    pub fn joined(&mut self) {
        let mut byte = [0u8];
        // Without a byte it has died, which its end tells.
        self.joined |= self.sync.read_exact(&mut byte).is_ok() && byte == [JOINED];
    }

    /// Lets it run.
    pub fn go(&mut self) -> Result<()> {
        self.sync.write_all(&[1]).context(|| format!("process {} has died", self.pid))
    }

    /// Why it never came to exec, if that is so. To be asked after its end.
    pub fn startup_failure(&mut self) -> Option<String> {
        let mut report = [0u8; 2];
        self.sync.read_exact(report.first_chunk_mut::<1>()?).ok()?;
        if !self.joined && report.first() == Some(&JOINED) {
            self.sync.read_exact(report.first_chunk_mut::<1>()?).ok()?;
        }
        self.sync.read_exact(report.last_chunk_mut::<1>()?).ok()?;
        let step = STEPS.get(usize::from(report[0]))?;
        Some(format!("{step}: {}", io::Error::from_raw_os_error(report[1].into())))
    }

    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Sends a signal, which does nothing once it has ended.
    pub fn signal(&self, signal: i32) {
        let _ = send_signal(self.pidfd.as_fd(), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<WaitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        loop {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED) {
                Ok(status) => {
                    self.status = Some(status);
                    return Ok(status);
                }
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(format!("cannot wait for process {}: {e}", self.pid)),
            }
        }
    }

    /// Lets it outlive this value.
    pub fn release(&mut self) {
        self.released = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.released && self.status.is_none() {
            self.kill();
            let _ = self.wait();
        }
    }
}

fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: integers, and null for "as kill(2) would".
    let r = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor of a process that is no child of ours.
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { own_fd(RawFd::try_from(fd).unwrap_or(-1)) }
}

/// Which kind of namespace an open file names (CLONE_NEW*), if it does (ioctl_ns(2)).
pub fn namespace_kind(file: BorrowedFd<'_>) -> Option<i32> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    (kind > 0).then_some(kind)
}

/// Kills `process` and waits until it is gone (or a zombie that its parent has yet to collect).
pub fn kill_and_wait(process: &crate::container::HostProcess, patience: Duration) -> Result<()> {
    let Ok(pidfd) = open_process(process.pid) else { return Ok(()) };
    // The descriptor names one process for good, so the check cannot be outrun.
    if !process.is_alive() {
        return Ok(());
    }
    match send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
            return Err(format!("cannot kill process {}: {e}", process.pid));
        }
        _ => {}
    }
    wait_gone(pidfd.as_fd(), patience)
        .and_then(|gone| if gone { Ok(()) } else { Err(format!("process {} does not die", process.pid)) })
}

/// Whether the process ends within `patience`.
pub fn wait_gone(pidfd: BorrowedFd<'_>, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
    }
}

/// Prepares a hook: a process group of its own, no signals blocked, and `namespaces`, where what it mounts stays.
pub fn before_hook(command: &mut std::process::Command, namespaces: Option<&Vec<(OwnedFd, libc::c_int)>>) {
    let join: Vec<(RawFd, libc::c_int)> =
        namespaces.into_iter().flatten().map(|(fd, flag)| (fd.as_raw_fd(), *flag)).collect();
    let enter = move || {
        // SAFETY: integers only.
        if unsafe { libc::setpgid(0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        unblock_signals();
        for (fd, flag) in &join {
            // SAFETY: integers only.
            if unsafe { libc::setns(*fd, *flag) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let null = std::ptr::null();
        let how = libc::MS_REC | libc::MS_SLAVE;
        // SAFETY: constant strings, and null where nothing is meant.
        if !join.is_empty() && unsafe { libc::mount(null, c"/".as_ptr(), null, how, null.cast()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, enter) };
}

/// ioprio_set(2) of one thread.
pub fn set_io_priority(pid: i32, class: i32, priority: i64) -> io::Result<()> {
    const WHO_PROCESS: i32 = 1;
    let value = i64::from(class) << 13 | priority;
    // SAFETY: integers only.
    let r = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, value) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The size of a terminal; `None` when `fd` is none.
pub fn window_size(fd: BorrowedFd<'_>) -> Option<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills the structure.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (r == 0).then_some(size)
}

/// Sets the size of a terminal, if `fd` is one.
pub fn set_window_size(fd: BorrowedFd<'_>, size: &libc::winsize) {
    // SAFETY: the kernel reads the structure.
    unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(size)) };
}
