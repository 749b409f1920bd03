//! The sentry's seccomp list: what a sentry that a guest has taken over could still ask of the host kernel.
//!
//! An allow-list: anything else kills the process at once. Two programs are installed, because a program has one
//! action for what it matches: the first answers ENOSYS to the calls that libraries make in passing and survive
//! ([`refused`]), the second allows the list and kills ([`allowed`]). The stricter verdict wins.
//!
//! Neighbours: `confine` lists the boot order; the platform brings its own rules (`extra`). Stub processes must have
//! been forked from a zygote that is older than the filter. Nothing here may ever gain: opening by path, sockets
//! (but with `--network=host`), exec, executable memory, new processes, mounts, namespaces, ptrace (but for the ptrace
//! platform's own rules).

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// Rules by syscall number; an empty vector allows a call whatever its arguments are.
pub type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What the list depends on.
#[derive(Clone, Copy, Debug)]
pub struct FilterOptions {
    /// Directories in which files may be opened for reading: our own procfs, the platform's descriptor of it and ours.
    pub proc_fds: [RawFd; 2],
    /// The directory of `--overlay=…:dir=`, in which unnamed files may be made.
    pub overlay_dir: Option<RawFd>,
    pub network: Network,
}

/// What the sandbox's network needs of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing.
    None,
    /// Packets and connected sockets, on descriptors that runtime and network proxy hand over.
    Packets,
    /// Sockets (`--network=host`).
    Sockets,
}

/// Puts every thread of the process under the list plus `extra`. Needs `no_new_privs`.
pub fn install(options: FilterOptions, extra: Rules) -> Result<(), String> {
    for program in programs(options, extra)? {
        apply_filter_all_threads(&program).map_err(|e| {
            format!(
                "cannot install the sentry's seccomp filter: {e}; the host kernel needs CONFIG_SECCOMP_FILTER"
            )
        })?;
    }
    Ok(())
}

fn programs(options: FilterOptions, extra: Rules) -> Result<[BpfProgram; 2], String> {
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let refused = refused().map_err(bug)?;
    let mut rules = allowed(options).map_err(bug)?;
    // What the first program refuses has to pass the second one.
    for (nr, alternatives) in refused.iter().chain(extra.iter()) {
        merge(&mut rules, *nr, alternatives.clone());
    }
    Ok([
        compile(refused, SeccompAction::Allow, enosys)?,
        compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)?,
    ])
}

fn compile(rules: Rules, mismatch: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, String> {
    SeccompFilter::new(rules, mismatch, matched, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(|e| format!("the sentry's seccomp rules do not compile: {e}; this is a bug"))
}

/// Adds alternatives before those that are there: the platform's own, which are the most frequent, are looked at first. A
/// call that is allowed unconditionally stays so.
fn merge(rules: &mut Rules, nr: i64, alternatives: Vec<SeccompRule>) {
    match rules.get_mut(&nr) {
        None => {
            rules.insert(nr, alternatives);
        }
        Some(there) if there.is_empty() || alternatives.is_empty() => there.clear(),
        Some(there) => drop(there.splice(0..0, alternatives)),
    }
}

type Built<T> = Result<T, seccompiler::Error>;

/// One alternative: all its conditions hold.
pub fn all(conditions: Vec<SeccompCondition>) -> Built<SeccompRule> {
    Ok(SeccompRule::new(conditions)?)
}

/// The low 32 bits of argument `arg` are `value`.
pub fn is(arg: u8, value: u32) -> Built<SeccompCondition> {
    Ok(SeccompCondition::new(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value))?)
}

/// All 64 bits of argument `arg` are zero.
fn is_null(arg: u8) -> Built<SeccompCondition> {
    Ok(SeccompCondition::new(arg, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?)
}

/// No bits but `bits` are set in argument `arg`.
pub fn only_bits(arg: u8, bits: c_int) -> Built<SeccompCondition> {
    let others = u64::from(!bits.cast_unsigned());
    Ok(SeccompCondition::new(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(others), 0)?)
}

/// The bits `bits` are all set in argument `arg`.
fn has_bits(arg: u8, bits: c_int) -> Built<SeccompCondition> {
    let bits = u64::from(bits.cast_unsigned());
    Ok(SeccompCondition::new(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), bits)?)
}

/// One alternative for each value of argument `arg`.
fn one_of(arg: u8, values: &[u32]) -> Built<Vec<SeccompRule>> {
    values.iter().map(|v| all(vec![is(arg, *v)?])).collect()
}

/// What platform `seccomp` does with its listener: receive, answer, check, put a descriptor into a stub.
pub fn notification_rules() -> Result<Rules, String> {
    let ioctls = [
        0xc050_2100, // SECCOMP_IOCTL_NOTIF_RECV
        0xc018_2101, // SECCOMP_IOCTL_NOTIF_SEND
        0x4008_2102, // SECCOMP_IOCTL_NOTIF_ID_VALID
        0x4018_2103, // SECCOMP_IOCTL_NOTIF_ADDFD
        0x4008_2104, // SECCOMP_IOCTL_NOTIF_SET_FLAGS: who is woken need not run here
    ];
    Ok(Rules::from([(libc::SYS_ioctl, one_of(1, &ioctls).map_err(bug)?)]))
}

/// What platform `ptrace` asks of its stubs, which are the only processes there are to trace.
pub fn ptrace_rules(requests: &[u32]) -> Result<Rules, String> {
    Ok(Rules::from([(libc::SYS_ptrace, one_of(0, requests).map_err(bug)?)]))
}

fn bug(error: seccompiler::Error) -> String {
    format!("the sentry's seccomp rules do not compile: {error}; this is a bug")
}

/// Calls that are answered with ENOSYS.
fn refused() -> Built<Rules> {
    let mut rules = Rules::new();
    // glibc tries clone3, whose flags a filter cannot see, and then takes clone, whose flags it can.
    rules.insert(libc::SYS_clone3, vec![]);
    // glibc's malloc looks at /proc/sys/vm/overcommit_memory when it trims; it takes a failure for an answer.
    rules.insert(libc::SYS_openat, vec![all(vec![is(0, libc::AT_FDCWD.cast_unsigned())?])?]);
    rules.insert(libc::SYS_open, vec![]);
    // The environment's probes of library code (getrandom fallbacks, terminal tests) by path.
    rules.insert(libc::SYS_readlink, vec![]);
    rules.insert(libc::SYS_access, vec![]);
    Ok(rules)
}

/// Calls that are allowed whatever their arguments are: they act on our own memory, our own threads or on
/// descriptors that we hold, and can make nothing new.
const UNCONDITIONAL: &[c_long] = &[
    // Guest files that the gofer handed over and memfd arenas (`host::filestore`, `hostfile`); host pipes and ttys of
    // stdio (`host::stdio`); event and signal descriptors of the reactor; control connections; the log on stderr.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_pwrite64,
    // glibc's last words when it aborts.
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    // Descriptors that go: Rust's `OwnedFd`.
    libc::SYS_close,
    // Our own address space: the allocator, thread stacks, buffers (what could make code is below).
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    // Guest memory (`platform-host::copy`): the stubs are the only other processes in our pid namespace.
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // Waiting and waking: locks, the reactor's epoll, its doorbell and timers, looks at one descriptor
    // (`host::epoll`), the notification listener (`platform-seccomp::sys`), a resized terminal (`boot::stdio`).
    libc::SYS_futex,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait2,
    libc::SYS_poll,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_signalfd4,
    libc::SYS_rt_sigtimedwait,
    // `thread::sleep` of the platform's tickers, and how the host goes on with it after a stop.
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // Spinning locks.
    libc::SYS_sched_yield,
    // Time where the vDSO does not answer: CPU clocks of stubs, and every clock on hosts without a vDSO clock.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    // Hash seeds, AT_RANDOM, /dev/urandom.
    libc::SYS_getrandom,
    // abort(3) and thread names.
    libc::SYS_getpid,
    libc::SYS_gettid,
    // On behalf of guest threads, which are children of ours: sched_setaffinity(2), setpriority(2), and a worker that polls for
    // them has them run one after the other.
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    // sched_getcpu(3) where neither rseq nor the vDSO answers.
    libc::SYS_getcpu,
    libc::SYS_setpriority,
    // Ending and kicking stubs, and learning that they ended; our pid namespace holds nothing else.
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_waitid,
    // Signals of our own threads: what thread start, abort(3) and Rust's stack guard do.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Threads: their start and end (clone itself is below).
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The gofer's channels and control connections. No call here makes or names a socket: descriptors arrive by
    // SCM_RIGHTS from the gofer (files) and with exec requests (stdio).
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_accept4,
];

/// ioctl requests.
const IOCTLS: &[u32] = &[
    0xc068_6611, // PROCMAP_QUERY: which mapping holds an address of a stub (`platform-host::maps`)
    // The host tty behind the container's terminal (`host::stdio`): mode and size. Never TIOCSTI or TIOCSCTTY.
    0x802c_542a, // TCGETS2
    0x402c_542b, // TCSETS2
    0x5413,      // TIOCGWINSZ
    0x5414,      // TIOCSWINSZ
    0x541b,      // FIONREAD: how much a host pipe or tty has to read
];

/// The same of sockets of the host: what waits to be sent, and the urgent mark.
const SOCKET_IOCTLS: &[u32] = &[0x5411, 0x8905];

/// fcntl commands.
const FCNTLS: &[c_int] = &[
    // Rust's debug builds look whether a descriptor is open before they close it.
    libc::F_GETFD,
    // Flags of stdio, which becomes non-blocking where it is a tty (`host::stdio`).
    libc::F_GETFL,
    libc::F_SETFL,
    // `try_clone`: control connections, gofer sockets of containers, files about to be mapped.
    libc::F_DUPFD_CLOEXEC,
    // memfd arenas cannot be made executable or shrunk under us (`host::filestore`).
    libc::F_ADD_SEALS,
];

/// What glibc's pthread_create passes to clone: a thread of ours, in no new namespace and with no exit signal.
const THREAD_FLAGS: c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// What opening a file of our procfs may ask for: to read it.
const PROC_OPEN: c_int = libc::O_RDONLY
    | libc::O_CLOEXEC
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NONBLOCK
    | libc::O_LARGEFILE;

const PR_SET_NAME: u32 = 15;

/// What preadv2 and pwritev2 are for: not to wait on a host pipe, and to append to a file.
const RWF_NOWAIT: u32 = 8;
const RWF_APPEND: u32 = 0x10;

fn allowed(options: FilterOptions) -> Built<Rules> {
    let mut rules: Rules = UNCONDITIONAL.iter().map(|nr| (*nr, vec![])).collect();

    // Memory is never executable, neither new nor changed.
    for nr in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(nr, vec![all(vec![only_bits(2, libc::PROT_READ | libc::PROT_WRITE)?])?]);
    }
    // Threads, and nothing else.
    rules.insert(libc::SYS_clone, vec![all(vec![is(0, THREAD_FLAGS.cast_unsigned())?])?]);
    // Reading in our procfs; unnamed files for the overlay.
    let mut openat = Vec::new();
    for fd in options.proc_fds {
        openat.push(all(vec![is(0, fd.cast_unsigned())?, only_bits(2, PROC_OPEN)?])?);
    }
    if let Some(dir) = options.overlay_dir {
        let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC | libc::O_EXCL | libc::O_LARGEFILE;
        openat.push(all(vec![
            is(0, dir.cast_unsigned())?,
            has_bits(2, libc::O_TMPFILE)?,
            only_bits(2, flags)?,
        ])?);
    }
    rules.insert(libc::SYS_openat, openat);
    // Attributes of descriptors (what glibc makes of fstat).
    rules.insert(libc::SYS_newfstatat, vec![all(vec![has_bits(3, libc::AT_EMPTY_PATH)?])?]);
    rules.insert(libc::SYS_statx, vec![all(vec![has_bits(2, libc::AT_EMPTY_PATH)?])?]);
    // Arenas for file pages; never MFD_EXEC, nor huge pages, which are a resource of the host.
    let memfd = (libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL).cast_signed();
    rules.insert(libc::SYS_memfd_create, vec![all(vec![only_bits(1, memfd)?])?]);
    let sockets = options.network != Network::None;
    let socket_ioctls = if sockets { SOCKET_IOCTLS } else { &[] };
    rules.insert(libc::SYS_ioctl, one_of(1, &[IOCTLS, socket_ioctls].concat())?);
    let commands: Vec<u32> = FCNTLS.iter().map(|c| c.cast_unsigned()).collect();
    let mut fcntl = one_of(1, &commands)?;
    // What the runtime left open for us goes to nobody else (`host::inherit`).
    fcntl.push(all(vec![is(1, libc::F_SETFD.cast_unsigned())?, is(2, libc::FD_CLOEXEC.cast_unsigned())?])?);
    rules.insert(libc::SYS_fcntl, fcntl);
    // On connected sockets only: no destination address.
    rules.insert(libc::SYS_sendto, vec![all(vec![is_null(4)?])?]);
    // Names of worker threads.
    rules.insert(libc::SYS_prctl, one_of(0, &[PR_SET_NAME])?);
    // A zygote's, for the runtime to place it in a container's cgroup. Flags make it no more than that.
    rules.insert(libc::SYS_pidfd_open, vec![all(vec![is(1, 0)?])?]);
    // Looking at our own limits (how many files the overlay may keep open): no other process, no new value.
    rules.insert(libc::SYS_prlimit64, vec![all(vec![is(0, 0)?, is_null(2)?])?]);
    // Host pipes and ttys without waiting, and appending (`host::stdio`, `hostfile`).
    rules.insert(libc::SYS_preadv2, one_of(5, &[RWF_NOWAIT])?);
    rules.insert(libc::SYS_pwritev2, one_of(5, &[RWF_NOWAIT, RWF_APPEND])?);
    // Copying up in the overlay's directory (`host::filestore`): the host defines no flags.
    rules.insert(libc::SYS_copy_file_range, one_of(5, &[0])?);
    // Memory that the allocator or an ended thread gives back. Nothing that would change how pages are backed.
    rules.insert(
        libc::SYS_madvise,
        one_of(2, &[libc::MADV_DONTNEED, libc::MADV_FREE].map(c_int::cast_unsigned))?,
    );
    match options.network {
        Network::None => {}
        Network::Packets => rules.extend(packets()?),
        Network::Sockets => rules.extend(sockets_of_host()?),
    }
    Ok(rules)
}

/// Batches of packets (`host::packet`). sendmsg and recvmsg, which anybody here may call, can do no less.
fn packets() -> Built<Rules> {
    let (wait, now) = (libc::MSG_WAITFORONE, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    let mut rules = handed_over()?;
    rules.extend(Rules::from([
        (
            libc::SYS_recvmmsg,
            vec![
                all(vec![is(3, wait.cast_unsigned())?, is_null(4)?])?,
                all(vec![is(3, libc::MSG_DONTWAIT.cast_unsigned())?, is_null(4)?])?,
            ],
        ),
        (libc::SYS_sendmmsg, vec![all(vec![is(3, now.cast_unsigned())?])?]),
    ]));
    Ok(rules)
}

/// Sockets that are connected already: what the network proxy hands over (`net::outbound`).
fn handed_over() -> Built<Rules> {
    use chitin_net::host::filter::{readable, settable};
    let options = |list: Vec<(u32, u32)>| -> Built<Vec<SeccompRule>> {
        list.into_iter().map(|(level, name)| all(vec![is(1, level)?, is(2, name)?])).collect()
    };
    Ok(Rules::from([
        (libc::SYS_setsockopt, options(settable())?),
        (libc::SYS_getsockopt, options(readable())?),
        (libc::SYS_shutdown, vec![]),
        (libc::SYS_getsockname, vec![]),
        (libc::SYS_getpeername, vec![]),
    ]))
}

/// TCP, UDP and ping sockets of the network namespace that the user has given the sandbox (`net::host`).
fn sockets_of_host() -> Built<Rules> {
    use chitin_net::host::filter::{FAMILIES, KINDS, PROTOCOLS};
    let flags = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).cast_unsigned();
    let mut socket = Vec::new();
    for family in FAMILIES {
        for kind in KINDS {
            for protocol in PROTOCOLS {
                socket.push(all(vec![is(0, family)?, is(1, kind | flags)?, is(2, protocol)?])?);
            }
        }
    }
    let mut rules = handed_over()?;
    rules.extend(Rules::from([
        (libc::SYS_socket, socket),
        (libc::SYS_bind, vec![]),
        (libc::SYS_connect, vec![]),
        (libc::SYS_listen, vec![]),
    ]));
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    /// Runs the ignored test `name` of this module in a process of its own.
    fn in_child(name: &str) -> ExitStatus {
        let exe = std::env::current_exe().unwrap();
        let test = format!("filter::tests::{name}");
        let output = Command::new(exe).args(["--exact", &test, "--ignored", "--nocapture"]).output().unwrap();
        // A child that never reached the filter would look like one that survived it.
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("filter is on"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        output.status
    }

    fn filter_on(proc_fd: RawFd) {
        filter_with(proc_fd, Network::Packets);
    }

    fn filter_with(proc_fd: RawFd, network: Network) {
        nix::sys::prctl::set_no_new_privs().unwrap();
        let options = FilterOptions { proc_fds: [proc_fd; 2], overlay_dir: None, network };
        // Before: the test harness reads its own files lazily.
        println!("filter is on");
        install(options, Rules::new()).unwrap();
    }

    fn killed(status: ExitStatus) -> bool {
        status.signal() == Some(libc::SIGSYS)
    }

    #[test]
    fn a_worker_lives_under_the_filter() {
        assert!(in_child("child_works").success());
    }

    #[test]
    #[ignore = "run by a_worker_lives_under_the_filter in a process of its own"]
    fn child_works() {
        use std::os::fd::AsRawFd;
        let proc = std::fs::File::open("/proc").unwrap();
        filter_on(proc.as_raw_fd());
        let sum: u64 = std::thread::Builder::new()
            .name("worker".into())
            .spawn(|| vec![1u64; 1 << 20].iter().sum())
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(sum, 1 << 20);
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&proc, "self/statm", flags, nix::sys::stat::Mode::empty()).unwrap();
        let mut text = [0u8; 64];
        assert!(nix::unistd::read(&fd, &mut text).unwrap() > 0);
        // Refused, but survived: opening by path.
        let error = std::fs::File::open("/etc/passwd").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
        std::process::exit(0);
    }

    #[test]
    fn host_mode_has_the_listed_sockets() {
        assert!(in_child("child_host_mode").success());
        assert!(killed(in_child("child_host_mode_raw")));
    }

    #[test]
    #[ignore = "run by host_mode_has_the_listed_sockets in a process of its own"]
    fn child_host_mode() {
        use chitin_host::socket as host;
        use std::os::fd::{AsFd, AsRawFd};
        let proc = std::fs::File::open("/proc").unwrap();
        filter_with(proc.as_raw_fd(), Network::Sockets);
        let socket = host::socket(libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP).unwrap();
        let one = 1i32.to_ne_bytes();
        host::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &one).unwrap();
        host::listen(socket.as_fd(), 1).unwrap();
        assert!(!host::name(socket.as_fd()).unwrap().is_empty());
        std::process::exit(0);
    }

    #[test]
    #[ignore = "run by host_mode_has_the_listed_sockets in a process of its own"]
    fn child_host_mode_raw() {
        use std::os::fd::AsRawFd;
        let proc = std::fs::File::open("/proc").unwrap();
        filter_with(proc.as_raw_fd(), Network::Sockets);
        let _ = chitin_host::socket::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_SCTP);
        std::process::exit(0);
    }

    #[test]
    fn platforms_get_what_they_name_and_no_more() {
        let rules = ptrace_rules(&[7]).unwrap();
        assert_eq!(rules.keys().collect::<Vec<_>>(), [&libc::SYS_ptrace]);
        assert!(rules.values().all(|alternatives| alternatives.len() == 1));
        let ioctl = notification_rules().unwrap();
        assert_eq!(ioctl.keys().collect::<Vec<_>>(), [&libc::SYS_ioctl]);
    }

    macro_rules! deadly {
        ($($test:ident $child:ident $body:expr;)*) => {$(
            #[test]
            fn $test() {
                assert!(killed(in_child(stringify!($child))), "survived");
            }

            #[test]
            #[ignore = "run by its namesake in a process of its own"]
            fn $child() {
                use std::os::fd::AsRawFd;
                let proc = std::fs::File::open("/proc").unwrap();
                let other = std::fs::File::open("/").unwrap();
                filter_on(proc.as_raw_fd());
                #[allow(clippy::redundant_closure_call)]
                let _ = ($body)(&proc, &other);
                std::process::exit(0);
            }
        )*};
    }

    fn open(dir: &std::fs::File, path: &str, flags: nix::fcntl::OFlag) {
        let _ = nix::fcntl::openat(dir, path, flags, nix::sys::stat::Mode::empty());
    }

    deadly! {
        no_socket child_socket |_, _| std::net::UdpSocket::bind("127.0.0.1:0").map(drop);
        no_exec child_exec |_, _| nix::unistd::execv(c"/bin/true", &[c"true"]).map(drop);
        no_open_elsewhere child_open |_, other| open(other, "etc", nix::fcntl::OFlag::O_RDONLY);
        no_open_to_write child_write |proc, _| open(proc, "self/comm", nix::fcntl::OFlag::O_WRONLY);
        no_process child_process |_, _| std::process::Command::new("/bin/true").spawn().map(drop);
        no_tracing child_trace |_, _| nix::sys::ptrace::traceme().map(drop);
        no_mount child_mount |_, _| nix::mount::umount("/").map(drop);
        no_namespace child_unshare |_, _| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map(drop);
        no_terminal_input child_ioctl |_, other: &std::fs::File| {
            // Any request that is not listed; this one exists without unsafe code.
            nix::unistd::tcgetpgrp(other).map(drop)
        };
        no_other_limits child_limits |_, _| {
            let what = nix::sys::resource::Resource::RLIMIT_NOFILE;
            nix::sys::resource::setrlimit(what, 64, 64).map(drop)
        };
        no_pipe_size child_fcntl |_, other: &std::fs::File| {
            nix::fcntl::fcntl(other, nix::fcntl::FcntlArg::F_GETPIPE_SZ).map(drop)
        };
        no_executable_memory child_mmap |_, _| {
            let length = std::num::NonZeroUsize::new(4096).unwrap();
            let prot = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_EXEC;
            executable_memory(length, prot)
        };
    }

    #[allow(unsafe_code)]
    fn executable_memory(length: std::num::NonZeroUsize, prot: nix::sys::mman::ProtFlags) {
        // SAFETY: a new private mapping at an address of the kernel's choice, leaked.
        let _ = unsafe {
            nix::sys::mman::mmap_anonymous(None, length, prot, nix::sys::mman::MapFlags::MAP_PRIVATE)
        };
    }
}
