//! The boot sequence.

use crate::control::Control;
use crate::factory::{TmpfsMemfds, Types};
use crate::filter::FilterOptions;
use crate::mounts::{Mounter, working_directory};
use crate::{confine, filter, lifeline, log, process};
use chitin_control::{BootConfig, ContainerConfig, Medium, NetworkMode, PlatformChoice};
use chitin_fs_tmpfs::Storage;
use chitin_gofer_protocol::Client;
use chitin_kernel::clone::{InitRequest, make_init};
use chitin_kernel::hostfile::HostFile;
use chitin_kernel::kernel::{Machine, Uts};
use chitin_kernel::reactor::Reactor;
use chitin_kernel::tty::Tty;
use chitin_kernel::tty::console::{self, ConsoleTty};
use chitin_kernel::{ExitStatus, FdTable, FsState, Kernel, run};
use chitin_platform::Platform;
use chitin_platform_seccomp::{Config, Options, SeccompPlatform};
use chitin_syscalls::{Strace, Table};
use chitin_vfs::factory::{FileSystems, Memfds};
use nix::sys::signal::{SigSet, Signal};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

/// Worker threads at the start; one per CPU is enough, since blocked calls hold none.
const MAX_WORKERS: u32 = 8;
/// Handlers are shallow, but path walks and copies keep buffers on the stack.
const WORKER_STACK: usize = 512 << 10;

/// A booted sandbox.
pub struct Sandbox {
    kernel: Arc<Kernel>,
}

impl Sandbox {
    /// Waits for init's end; the exit code is its.
    pub fn wait(self) -> ExitCode {
        let status = chitin_kernel::wait::block_until(&self.kernel.init_events, || self.kernel.init_status());
        let code = match status {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled { signal, .. } => 128u8.saturating_add(signal as u8),
        };
        tracing::info!(?status, "init has ended");
        // The answers to waiting control connections go out before the process does.
        crate::control::settle();
        ExitCode::from(code)
    }
}

fn take(number: i32, what: &str) -> Result<OwnedFd, String> {
    chitin_host::inherit::take(number)
        .map_err(|error| format!("descriptor {number} ({what}) is not open: {error}"))
}

/// Boots. An error's text is for the user.
pub fn boot(config: BootConfig) -> Result<Sandbox, String> {
    let logfile = log::start(&config)?;
    if let Some(number) = config.fds.lifeline {
        lifeline::watch(take(number, "lifeline")?)?;
    }
    // Before there are threads: all of them inherit it. What follows window sizes takes it by sigwait.
    let resized = SigSet::from(Signal::SIGWINCH);
    resized.thread_block().map_err(|error| format!("cannot block SIGWINCH: {error}"))?;
    let listener = take(config.fds.control, "control socket")?;
    let container = config.containers.first().ok_or("the configuration names no container")?.clone();
    let overlay_dir = match config.overlay.medium {
        Medium::Memory => None,
        Medium::Dir(number) => Some(Arc::new(take(number, "overlay directory")?)),
    };
    if config.network == NetworkMode::Host {
        return Err("--network=host is not supported yet; use --network=sandbox or none".into());
    }
    chitin_host::limits::raise_nofile();
    let proc_fd = confine::enter_empty_root()?;
    confine::no_new_privs()?;
    confine::drop_capabilities()?;
    let proc_dir = proc_fd.try_clone().map_err(|error| format!("cannot keep procfs: {error}"))?;
    let proc_fds = [proc_fd.as_raw_fd(), proc_dir.as_raw_fd()];
    let platform = make_platform(config.platform, proc_dir)?;
    let options = FilterOptions { proc_fds, overlay_dir: overlay_dir.as_ref().map(|dir| dir.as_raw_fd()) };
    chitin_host::filestore::set_proc_dir(proc_fd.into_fd());
    let reactor = Reactor::start().map_err(|error| format!("cannot start the reactor: {error}"))?;
    filter::install(options, filter::Rules::default())?;
    let kernel = make_kernel(&config, &container, platform, reactor, logfile);
    let storage = overlay_dir.map_or(Storage::Memory, Storage::Dir);
    start_workers(&kernel)?;
    let task = make_container(&kernel, &config, &container, storage)?;
    Control::new(kernel.clone(), task, container.id.clone()).serve(listener, config.start)?;
    Ok(Sandbox { kernel })
}

/// Chooses and starts the platform, and says in the log which and why.
fn make_platform(choice: PlatformChoice, proc_dir: OwnedFd) -> Result<Arc<dyn Platform>, String> {
    match choice {
        PlatformChoice::Auto | PlatformChoice::Seccomp => {
            let config = Config { proc_dir: Some(proc_dir), options: Options::default() };
            let platform = SeccompPlatform::new(config).map_err(|error| error.to_string())?;
            let why =
                if choice == PlatformChoice::Auto { "the default, and the host has it" } else { "asked for" };
            tracing::info!(platform = "seccomp", why, features = ?platform.features(), "platform chosen");
            Ok(Arc::new(platform))
        }
        PlatformChoice::Ptrace => {
            Err("--platform=ptrace is not supported yet; use --platform=seccomp".into())
        }
        PlatformChoice::Kvm => Err("--platform=kvm is not supported yet; use --platform=seccomp".into()),
    }
}

fn make_kernel(
    config: &BootConfig,
    container: &ContainerConfig,
    platform: Arc<dyn Platform>,
    reactor: Arc<Reactor>,
    logfile: Option<Arc<File>>,
) -> Arc<Kernel> {
    let machine = Machine { cpus: config.cpus.max(1), memory_bytes: chitin_host::limits::memory_bytes() };
    let hostname = container.hostname.as_ref().unwrap_or(&config.hostname);
    let domainname = container.domainname.as_ref().unwrap_or(&config.domainname);
    let uts = Uts { hostname: hostname.clone().into_bytes(), domainname: domainname.clone().into_bytes() };
    let kernel = Kernel::new(platform, reactor, machine, uts);
    let strace = logfile.filter(|_| config.strace).map(|file| {
        Strace::new(Arc::new(move |line: &str| {
            // A log that cannot be written is no reason to stop.
            let _ = (&*file).write_all(format!("{line}\n").as_bytes());
        }))
    });
    kernel.set_dispatch(Box::new(Table::new(strace)));
    kernel.extend(Arc::new(Memfds(Box::new(TmpfsMemfds))));
    kernel.extend(Arc::new(FileSystems(Box::new(Types::new(&kernel, Storage::Memory)))));
    kernel.extend(chitin_net::NetNs::new(true));
    kernel
}

fn make_container(
    kernel: &Arc<Kernel>,
    config: &BootConfig,
    container: &ContainerConfig,
    storage: Storage,
) -> Result<Arc<chitin_kernel::Task>, String> {
    let gofer = take(container.gofer_fd, "gofer socket")?;
    watch_gofer(kernel, &gofer)?;
    let client = Client::new(gofer);
    let types = Types::new(kernel, storage.clone());
    let (files, console) = standard_files(kernel, container)?;
    if let Some(console) = &console {
        follow_size(console)?;
    }
    chitin_fs_dev::register_drivers(kernel, console.clone());
    let mounter = Mounter { kernel, config, container, client: Arc::new(client), storage, types: &types };
    let ns = mounter.build()?;
    let settings = &container.process;
    let fs = FsState::new(ns.clone(), settings.umask.unwrap_or(0o022));
    let creds = process::creds(settings);
    let root = ns.root();
    let caller = chitin_vfs::Caller { tgid: 1, tid: 1, creds: Arc::new(chitin_vfs::Creds::root()) };
    let ctx =
        chitin_vfs::Context { vfs: kernel.vfs.clone(), ns, cwd: root.clone(), root, caller, umask: 0o022 };
    let cwd = working_directory(&ctx, &settings.cwd)
        .map_err(|errno| format!("process.cwd: {}: {}", settings.cwd, errno.message()))?;
    fs.set_cwd(cwd);
    let bytes = |texts: &[String]| texts.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>();
    let request = InitRequest {
        fs,
        files,
        creds,
        rlimits: process::rlimits(settings),
        args: bytes(&settings.args),
        env: bytes(&settings.env),
        tty: console,
    };
    let name = settings.args.first().cloned().unwrap_or_default();
    let made = chitin_kernel::wait::block_on(make_init(kernel, request));
    let task = made.map_err(|errno| {
        let hint = match errno {
            chitin_abi::Errno::ENOENT => "no such file in the container (or its interpreter is missing)",
            chitin_abi::Errno::EACCES => "not executable for this user",
            chitin_abi::Errno::ENOEXEC => "not an x86-64 program",
            _ => errno.message(),
        };
        format!("process.args: cannot execute {name:?}: {hint}")
    })?;
    if let Some(adj) = settings.oom_score_adj {
        task.process.oom_score_adj.store(adj, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(task)
}

/// The gofer's end is the sandbox's: files are gone for good.
fn watch_gofer(kernel: &Arc<Kernel>, gofer: &OwnedFd) -> Result<(), String> {
    use chitin_abi::poll::{POLLERR, POLLHUP};
    let copy = gofer.try_clone().map_err(|error| format!("cannot watch the gofer: {error}"))?;
    let on_ready = Box::new(|events: u32| {
        if events & (POLLHUP | POLLERR) != 0 {
            tracing::error!("the gofer has died: the sandbox cannot go on without its files");
            eprintln!("chitin: the gofer process of the sandbox died; the container was ended");
            std::process::exit(137);
        }
    });
    let watch = kernel
        .reactor
        .watch_with(Arc::new(copy), on_ready)
        .map_err(|error| format!("cannot watch the gofer: {error}"))?;
    kernel.extend(watch);
    Ok(())
}

/// Descriptors 0, 1 and 2, and the console where the container has a terminal.
fn standard_files(
    kernel: &Arc<Kernel>,
    container: &ContainerConfig,
) -> Result<(Arc<FdTable>, Option<Arc<Tty>>), String> {
    let table = FdTable::new();
    let mut console = None;
    let mut taken: Vec<(i32, Arc<chitin_vfs::File>)> = Vec::new();
    for (number, host) in container.process.stdio.iter().enumerate() {
        let known = taken.iter().find(|(known, _)| known == host).map(|(_, file)| file.clone());
        let file = match known {
            Some(file) => file,
            None if container.process.terminal && console.is_some() => continue,
            None => {
                let fd = take(*host, "standard stream")?;
                let cannot = |error: &dyn std::fmt::Display| format!("standard stream {number}: {error}");
                if container.process.terminal {
                    let tty = ConsoleTty::start(kernel, Arc::new(fd)).map_err(|error| cannot(&error))?;
                    if let Some(size) = container.process.console_size {
                        tty.set_winsize(winsize(size.rows, size.cols));
                    }
                    let file = console::open_file(&tty).map_err(|errno| cannot(&errno.message()))?;
                    console = Some(tty);
                    file
                } else {
                    HostFile::open(&kernel.reactor, Arc::new(fd)).map_err(|errno| cannot(&errno.message()))?
                }
            }
        };
        taken.push((*host, file));
    }
    let first = taken.first().map(|(_, file)| file.clone());
    for (number, host) in container.process.stdio.iter().enumerate() {
        let file =
            taken.iter().find(|(known, _)| known == host).map(|(_, file)| file.clone()).or(first.clone());
        if let (Some(file), Ok(number)) = (file, i32::try_from(number)) {
            table
                .set(number, file, false, 3)
                .map_err(|errno| format!("standard stream {number}: {}", errno.message()))?;
        }
    }
    Ok((table, console))
}

/// The host terminal is our controlling terminal: the host tells its new size by SIGWINCH, which all threads block.
fn follow_size(console: &Arc<Tty>) -> Result<(), String> {
    let console = Arc::downgrade(console);
    let follow = move || {
        while SigSet::from(Signal::SIGWINCH).wait().is_ok() {
            let Some(console) = console.upgrade() else { return };
            ConsoleTty::refresh(&console);
            run::drain();
        }
    };
    std::thread::Builder::new()
        .name("winsize".into())
        .stack_size(128 << 10)
        .spawn(follow)
        .map(|_| ())
        .map_err(|error| {
            format!("cannot start the window size thread: {error}; raise the limit on processes")
        })
}

/// A terminal's size in characters.
pub fn winsize(rows: u16, cols: u16) -> chitin_abi::termios::Winsize {
    chitin_abi::termios::Winsize { ws_row: rows, ws_col: cols, ..Default::default() }
}

fn start_workers(kernel: &Arc<Kernel>) -> Result<(), String> {
    for index in 0..kernel.machine.cpus.clamp(2, MAX_WORKERS) {
        let kernel = kernel.clone();
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .stack_size(WORKER_STACK)
            .spawn(move || run::worker(&kernel))
            .map_err(|error| {
                format!("cannot start a worker thread: {error}; raise the limit on processes")
            })?;
    }
    Ok(())
}
