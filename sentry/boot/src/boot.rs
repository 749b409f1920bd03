//! The boot sequence.

use crate::containers::{self, Containers, Record};
use crate::control::Control;
use crate::factory::{TmpfsMemfds, Types};
use crate::filter::FilterOptions;
use crate::net::Network;
use crate::platforms::{self, Chosen};
use crate::{confine, filter, lifeline, log, netview, oom};
use chitin_abi::num::low8;
use chitin_control::{BootConfig, Medium, NetworkMode, OverlayMode, PlatformChoice};
use chitin_fs_tmpfs::Storage;
use chitin_kernel::kernel::Machine;
use chitin_kernel::ns::NetMaker;
use chitin_kernel::reactor::Reactor;
use chitin_kernel::{ExitStatus, Kernel, Process, ProcessHandle, run};
use chitin_platform::Platform;
use chitin_platform_host::reserve;
use chitin_syscalls::{Strace, Table};
use chitin_vfs::factory::{FileSystems, Memfds};
use nix::sys::signal::{SigSet, Signal};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Worker threads beside one a CPU: blocked calls hold none and long ones go to a lane, so these are spares for handlers that
/// the host or the gofer holds up.
const SPARE_WORKERS: u32 = 3;
const MAX_WORKERS: u32 = 8;
/// As many more are added, one by one, while all are held up.
const MORE_WORKERS: u32 = 16;
/// Handlers are shallow, but path walks and copies keep buffers on the stack.
const WORKER_STACK: usize = 512 << 10;

/// A booted sandbox.
pub struct Sandbox {
    init: Arc<Process>,
    containers: Arc<Containers>,
    first: Arc<Record>,
    network: Arc<Network>,
}

/// What further containers are made with as the first one was.
pub struct Settings {
    pub overlay: OverlayMode,
    pub storage: Storage,
    pub hostname: String,
    pub domainname: String,
}

impl Sandbox {
    /// Waits for init's end; the exit code is its.
    pub fn wait(self) -> ExitCode {
        let status = ProcessHandle::of(&self.init).wait_blocking();
        let code = match status {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled { signal, .. } => 128u8.saturating_add(low8(signal)),
        };
        self.first.show_rest();
        self.containers.tear_down(&self.first, status);
        self.network.finish();
        // The answers to waiting control connections go out before the process does.
        crate::control::settle();
        ExitCode::from(code)
    }
}

pub(crate) fn take(number: i32, what: &str) -> Result<OwnedFd, String> {
    chitin_host::inherit::take(number)
        .map_err(|error| format!("descriptor {number} ({what}) is not open: {error}"))
}

/// Boots. An error's text is for the user.
pub fn boot(config: BootConfig) -> Result<Sandbox, String> {
    let logfile = log::start(&config)?;
    // Before there are threads: all of them inherit it. What follows window sizes takes it by sigwait, and gets it only
    // if no other thread would.
    let resized = SigSet::from(Signal::SIGWINCH);
    resized.thread_block().map_err(|error| format!("cannot block SIGWINCH: {error}"))?;
    let listener = take(config.fds.control, "control socket")?;
    let container = config.containers.first().ok_or("the configuration names no container")?.clone();
    let overlay_dir = match config.overlay.medium {
        Medium::Memory => None,
        Medium::Dir(number) => Some(Arc::new(take(number, "overlay directory")?)),
    };
    chitin_host::limits::raise_nofile();
    let limit = container.limits.memory.filter(|&bytes| bytes != u64::MAX);
    let score = oom::Score::raise(limit);
    let shadow = crate::kvm::has_shadow_tables();
    let labels = confine::Labels::open(&config.labels)?;
    let proc_fd = confine::enter_empty_root()?;
    if let Some(number) = config.fds.view {
        confine::cover_root(take(number, "view")?.as_fd())?;
    }
    labels.take_on()?;
    confine::no_new_privs()?;
    confine::drop_capabilities()?;
    // The first thread beside this one: it has what this one has, and no more.
    if let Some(number) = config.fds.lifeline {
        lifeline::watch(take(number, "lifeline")?)?;
    }
    let proc_dir = proc_fd.try_clone().map_err(|error| format!("cannot keep procfs: {error}"))?;
    // Asked before the filter, which does not have the call.
    let memory_bytes = chitin_host::limits::memory_bytes();
    let outer_filters = platforms::filtered(&proc_fd.read("thread-self/status")?);
    let Chosen { platform, rules, proc_fd: platform_fd, .. } = match config.platform {
        PlatformChoice::Kvm => {
            // We are the first process of our namespace.
            let maps =
                proc_fd.open("1/maps").map_err(|error| format!("cannot read our own mappings: {error}"))?;
            crate::kvm::make(&config, memory_bytes, shadow, maps)?
        }
        // What polls is taken off the same quota of time as what the guests do.
        choice => {
            let cpus = if config.patch_calls { config.cpus as usize } else { 0 };
            platforms::start(choice, cpus, outer_filters, &proc_dir)?
        }
    };
    drop(proc_dir);
    let proc_fds = [proc_fd.as_raw_fd(), platform_fd.unwrap_or(proc_fd.as_raw_fd())];
    if let Some(score) = score {
        score.lower();
    }
    // On kvm the guests' memory is the sentry's own.
    if limit.is_some() && !matches!(config.platform, PlatformChoice::Kvm) {
        reserve::keep();
    }
    let network = match config.network {
        NetworkMode::None => filter::Network::None,
        NetworkMode::Sandbox => filter::Network::Packets,
        NetworkMode::Host => filter::Network::Sockets,
    };
    let overlay_fd = overlay_dir.as_ref().map(|dir| dir.as_raw_fd());
    let options = FilterOptions { proc_fds, overlay_dir: overlay_fd, network };
    chitin_host::filestore::set_proc_dir(proc_fd.into_fd());
    let reactor = Reactor::start().map_err(|error| format!("cannot start the reactor: {error}"))?;
    filter::install(options, rules)?;
    let machine = Machine { cpus: config.cpus.max(1), memory_bytes };
    let kernel = make_kernel(&config, machine, platform, reactor, logfile);
    let storage = overlay_dir.map_or(Storage::Memory, Storage::Dir);
    start_workers(&kernel)?;
    let settings = Settings {
        overlay: config.overlay.mode,
        storage,
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
    };
    let containers = Containers::new(&kernel, settings);
    let first = containers.make_first(&container)?;
    containers::follow_first_terminal(&first)?;
    let network = Arc::new(Network::new(&kernel, config.network)?);
    Control::new(kernel.clone(), containers.clone(), network.clone()).serve(listener)?;
    if config.start {
        containers.start(&first)?;
    }
    Ok(Sandbox { init: first.process(None)?, containers, first, network })
}

fn make_kernel(
    config: &BootConfig,
    machine: Machine,
    platform: Arc<dyn Platform>,
    reactor: Arc<Reactor>,
    logfile: Option<Arc<File>>,
) -> Arc<Kernel> {
    chitin_vfs::bounds::configure(machine.memory_bytes);
    let kernel = Kernel::new(platform, reactor, machine);
    let strace = logfile.filter(|_| config.strace).map(|file| {
        Strace::new(Arc::new(move |line: &str| {
            // A log that cannot be written is no reason to stop.
            let _ = (&*file).write_all(format!("{line}\n").as_bytes());
        }))
    });
    kernel.set_dispatch(Box::new(Table::new(strace)));
    kernel.extend(Arc::new(Memfds(Box::new(TmpfsMemfds))));
    kernel.extend(Arc::new(FileSystems(Box::new(Types::new(&kernel, Storage::Memory, None)))));
    let weak = Arc::downgrade(&kernel);
    // `lo` is as container runtimes leave it, rather than the bare kernel.
    let net = network(&kernel, chitin_net::NetNs::new(true));
    if config.network == NetworkMode::Host {
        crate::net::use_host_sockets(&net, &kernel.reactor);
    }
    netview::connect(&kernel);
    kernel.extend(net.clone());
    let first = net;
    kernel.extend(Arc::new(NetMaker(Box::new(move |owner| {
        let Some(kernel) = weak.upgrade() else { return Arc::new(()) };
        let net = network(&kernel, chitin_net::NetNs::further(&first));
        net.set_owner(owner);
        net
    }))));
    chitin_fs_dev::register_drivers(&kernel);
    kernel.platform.on_lost(Box::new(|signal| {
        tracing::error!(signal, "the sandbox's zygote died");
        crate::last_words(
            "the process that programs are started from was killed (out of memory, perhaps: see dmesg); the sandbox was ended",
        );
        std::process::exit(137);
    }));
    kernel
}

/// A network namespace that the reactor drives.
fn network(kernel: &Arc<Kernel>, net: Arc<chitin_net::NetNs>) -> Arc<chitin_net::NetNs> {
    let weak = Arc::downgrade(kernel);
    // Programs expect a netlink socket's port to be their pid.
    net.name_ports(Box::new(move |kid| {
        weak.upgrade().and_then(|kernel| kernel.process_by_kid(kid)).map_or(0, |process| process.pid())
    }));
    crate::net::lend_timer(&net, &kernel.reactor);
    net
}

fn start_worker(kernel: &Arc<Kernel>, index: u32) -> std::io::Result<()> {
    let kernel = kernel.clone();
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .stack_size(WORKER_STACK)
        .spawn(move || run::worker(&kernel))
        .map(drop)
}

fn start_workers(kernel: &Arc<Kernel>) -> Result<(), String> {
    let no_thread = |error| format!("cannot start a worker thread: {error}; raise the limit on processes");
    chitin_kernel::lane::start(kernel.machine.cpus).map_err(no_thread)?;
    let first = kernel.machine.cpus.saturating_add(SPARE_WORKERS).min(MAX_WORKERS);
    for index in 0..first {
        start_worker(kernel, index).map_err(no_thread)?;
    }
    let (weak, next) = (Arc::downgrade(kernel), AtomicU32::new(first));
    kernel.platform.on_starved(Box::new(move || {
        let Some(kernel) = weak.upgrade() else { return };
        // One thread calls this, so the number is right.
        let index = next.load(Ordering::Relaxed);
        if index < first + MORE_WORKERS && start_worker(&kernel, index).is_ok() {
            next.store(index + 1, Ordering::Relaxed);
        }
    }));
    Ok(())
}
