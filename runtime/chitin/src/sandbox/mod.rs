//! Sandboxes: one gofer and one sentry each, launched together and ended together.
//!
//! [`Sandbox::create`] either returns a sandbox that is ready or leaves nothing behind: processes, cgroups and the
//! state directory are owned by values whose drop undoes them, until [`Sandbox::detach`] or the end of the
//! container. Should this command itself be killed, the sentry sees its lifeline end and ends, the gofer sees its
//! socket end and ends, and the directory without processes counts as a leftover.

pub mod console;
pub mod exec;
pub mod extra;
pub mod foreground;
mod gofer;
pub mod hooks;
mod ids;
pub mod launch;
pub mod link;
pub mod pod;
pub mod role;
pub mod stand_in;
pub mod start;
mod view;

use std::fs::OpenOptions;
use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chitin_control::{
    BootConfig, BootReport, Decoder, LogFormat, LogLevel, Medium, NetworkMode, OverlayConfig, OverlayMode,
    PlatformChoice, Request, Response, SandboxFds, Status,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use oci_spec::runtime::{Hooks, IOPriorityClass, Spec};

use crate::cgroup::{self, Cgroups};
use crate::container::{Directory, HostProcess, State};
use crate::egress::Egress;
use crate::network::outbound::Publish;
use crate::network::{self, Attachment};
use crate::spec::{self, Network, Plan};
use crate::util::{Context, Result, acts_for_user, dev_null, duplicate, now_rfc3339, write_atomically};
use extra::Extra;
use gofer::{Gofer, Streams};
use hooks::{Kind, Told};
use launch::{Child, Role};
use view::View;

/// How long a sandbox may take to become ready.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Namespaces that both processes have of their own; others depend on what is asked for.
const OWN_NAMESPACES: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
/// The host user that sentries of root's containers run as: nobody.
pub const NOBODY: u32 = 65534;

/// Where the overlay's writes go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OverlayMedium {
    #[default]
    Memory,
    Dir(PathBuf),
}

/// What the global flags say.
#[derive(Clone, Debug)]
pub struct Options {
    pub root: PathBuf,
    pub platform: PlatformChoice,
    pub patch_calls: bool,
    pub network: NetworkMode,
    pub overlay: OverlayMode,
    pub medium: OverlayMedium,
    pub log_format: LogFormat,
    pub debug: bool,
    pub debug_log: Option<PathBuf>,
    pub strace: bool,
    pub systemd_cgroup: bool,
    /// Containers have no cgroups on the host.
    pub no_cgroups: bool,
    /// Our user has no power over the host: what sandboxes need of it they have in user namespaces of theirs.
    pub rootless: bool,
    /// Cgroups that nobody lets us make are done without, as by every rootless runtime.
    pub lenient_cgroups: bool,
    /// Ports of the host that lead into the sandbox.
    pub publish: Vec<Publish>,
    /// What may be connected to, as the flag has it.
    pub egress: Option<String>,
}

/// A sandbox to be made.
#[derive(Debug)]
pub struct Creation<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    /// Run init at once.
    pub start: bool,
    pub ephemeral: bool,
    /// Keys like ^C end it, though it is process 1 (see [`chitin_control::ContainerConfig`]).
    pub plain_command: bool,
    /// The slave of the container's pty; without it the container gets our own standard input, output and error.
    pub terminal: Option<OwnedFd>,
    pub pid_file: Option<&'a Path>,
    /// Where a pidfd of that process is to go.
    pub pidfd_socket: Option<&'a Path>,
    /// Descriptors 3 and on.
    pub extra: Extra,
}

impl Creation<'_> {
    /// The sentry runs init as soon as it can; what comes between, hooks and the network, is ours to do.
    fn starts_at_once(&self, network: Attachment) -> bool {
        let hooks = Kind::StartContainer.of(self.spec.hooks().as_ref());
        self.start && hooks.is_empty() && network == Attachment::None
    }

    /// Of the new container, created.
    fn state(&self, rootfs: PathBuf, sentry: HostProcess, gofer: HostProcess) -> State {
        State {
            oci_version: self.spec.version().clone(),
            id: self.id.to_owned(),
            bundle: self.bundle.to_owned(),
            rootfs,
            annotations: self.spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            created: now_rfc3339(),
            owner: nix::unistd::geteuid().as_raw(),
            sentry,
            gofer,
            sandbox: None,
            stand_in: None,
            network: Attachment::None,
            namespace: None,
            publish: Vec::new(),
            egress: None,
            started: false,
            paused: false,
            ephemeral: self.ephemeral,
        }
    }

    fn net_devices(&self) -> Vec<(String, String)> {
        self.spec.linux().as_ref().map(spec::net_devices).unwrap_or_default()
    }

    /// There are hooks of the time of creation.
    fn has_hooks(&self) -> bool {
        let hooks = self.spec.hooks().as_ref();
        [Kind::Prestart, Kind::CreateRuntime, Kind::CreateContainer].iter().any(|k| !k.of(hooks).is_empty())
    }
}

/// A state directory that is removed on drop, unless it is kept.
#[derive(Debug)]
struct Reserved {
    directory: Option<Directory>,
    /// Once hooks have begun: the poststop hooks, which follow the removal.
    farewell: Option<(Hooks, Told)>,
}

impl Reserved {
    fn keep(&mut self) -> Option<Directory> {
        self.directory.take()
    }

    fn directory(&self) -> Result<&Directory> {
        self.directory.as_ref().ok_or_else(|| "the state directory is gone".into())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            let _ = directory.remove();
            if let Some((hooks, told)) = self.farewell.take() {
                hooks::run_leniently(Kind::Poststop, Some(&hooks), &told.stopped());
            }
        }
    }
}

/// A sandbox whose processes are our children.
#[derive(Debug)]
pub struct Sandbox {
    // Dropped in this order: processes, then what they were in.
    launched: Launched,
    cgroups: Option<Cgroups>,
    reserved: Reserved,
    state: State,
    plain_command: bool,
}

impl Sandbox {
    pub fn create(options: &Options, creation: Creation<'_>) -> Result<Self> {
        for warning in spec::check(creation.spec, creation.bundle)? {
            crate::log::warn(&format!("config.json: {warning}"));
        }
        let egress = Egress::chosen(options, &creation)?;
        let plan = spec::translate(creation.id, creation.spec, creation.bundle, options.overlay)?;
        let network = attachment(options, &creation, &plan.network);
        let at_once = creation.starts_at_once(network);
        let namespace = match &plan.network {
            Network::Path(path) if network == Attachment::Namespace => Some(network::claim::Named::at(path)?),
            _ => None,
        };
        let directory = Directory::create(&options.root, creation.id)?;
        let listener = link::listen(&directory);
        let path = directory.path().to_owned();
        let mut reserved = Reserved { directory: Some(directory), farewell: None };
        let listener = listener?;
        spec::store(creation.spec, &path)?;
        let cgroups = make_cgroups(options, &creation, &plan, &reserved)?;
        let rootfs = plan.rootfs.clone();
        let mut launched = launch(options, &creation, plan, listener.as_fd(), (cgroups.as_ref(), at_once))?;
        let pid = launched.sentry.pid();
        for (from, to) in creation.net_devices() {
            network::devices::move_in(&from, &to, pid)?;
        }
        if creation.has_hooks() {
            launched.sentry.joined();
            launched.gofer.child.joined();
        }
        run_creation_hooks(options, &creation, (&mut launched.gofer.child, pid, pid), &mut reserved)?;
        launched.sentry.go()?;
        drop(listener);
        // While nobody has waited for them: a short command may have ended before its report is read.
        let (sentry, gofer) =
            (HostProcess::of(launched.sentry.pid())?, HostProcess::of(launched.gofer.child.pid())?);
        launched.wait_ready()?;

        let mut state = creation.state(rootfs, sentry, gofer);
        state.network = network;
        state.namespace = namespace;
        state.publish = options.publish.clone();
        state.egress = egress;
        state.started = at_once;
        state.save(&path)?;
        if let Some(path) = creation.pid_file {
            write_atomically(path, launched.sentry.pid().to_string().as_bytes())?;
        }
        if let Some(socket) = creation.pidfd_socket {
            console::hand_over(socket, "--pidfd-socket", b"standard", launched.sentry.pidfd())?;
        }
        if at_once {
            start::started(&state, creation.spec)?;
        } else if creation.start {
            start::start(reserved.directory()?, &mut state, creation.spec)?;
        }
        reserved.directory()?.unlock()?;
        Ok(Self { launched, cgroups, reserved, state, plain_command: creation.plain_command })
    }

    pub fn is_plain_command(&self) -> bool {
        self.plain_command
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn sentry_pidfd(&self) -> BorrowedFd<'_> {
        self.launched.sentry.pidfd()
    }

    /// A connection to the sentry.
    pub fn link(&self) -> Result<link::Link> {
        link::Link::open(self.reserved.directory()?)
    }

    pub fn kill(&self) {
        self.launched.sentry.kill();
    }

    /// Waits for the sentry's end, which is the container's.
    pub fn wait(&mut self) -> Result<WaitStatus> {
        self.launched.sentry.wait()
    }

    /// After the sentry's end: what has ended the container other than its own process.
    pub fn disturbed(&mut self) -> Option<String> {
        let ended = self.launched.sentry.wait();
        if let Ok(WaitStatus::Signaled(_, signal, _)) = ended {
            let remedy = match signal {
                Signal::SIGSYS => "for a system call that its seccomp list does not have; dmesg shows which",
                Signal::SIGKILL => "if that was nobody's wish, memory may have run out: see dmesg",
                _ => "--debug-log=FILE tells more",
            };
            return Some(format!("the sentry was killed by {signal}, and the container with it: {remedy}"));
        }
        // What the sentry ends with when it loses its gofer; the container may as well have ended before.
        if !matches!(ended, Ok(WaitStatus::Exited(_, 137))) {
            return None;
        }
        let gofer = &mut self.launched.gofer.child;
        if !launch::wait_gone(gofer.pidfd(), Duration::ZERO).unwrap_or(false) {
            return None;
        }
        match gofer.wait() {
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(format!(
                "the gofer was killed by {signal}: the container was ended, as it had lost its files"
            )),
            _ => None,
        }
    }

    /// Keeps the state directory after the container's end, for `state` and `delete`.
    pub fn keep(mut self) {
        self.reserved.keep();
        if let Some(cgroups) = self.cgroups.take() {
            cgroups.keep();
        }
    }

    /// Lets the sandbox outlive this command.
    pub fn detach(mut self) -> Result<()> {
        self.launched.lifeline.write_all(&[1]).context(|| "the sandbox has died".into())?;
        self.launched.sentry.release();
        self.launched.gofer.child.release();
        self.keep();
        Ok(())
    }
}

/// Whether a container that seems to run is about to be gone: the sentry tells of its end before the process that stands for
/// it on the host (or the sentry itself) has followed. Waits for that.
pub fn ends(directory: &Directory, state: &State) -> bool {
    let asked = link::Link::to(directory, state)
        .and_then(|mut link| link.call(&Request::State { container: state.id.clone() }));
    let ended = match asked {
        Ok(Response::State { status, .. }) => status == Status::Stopped,
        // The sentry does not listen any more, or never will again.
        _ => !state.is_alive(),
    };
    ended
        && launch::open_process(state.init().pid).map_or(true, |process| {
            launch::wait_gone(process.as_fd(), Duration::from_secs(1)).unwrap_or(false)
        })
}

/// Ends what is left of a container's processes, removes everything that was made for it and runs its poststop hooks.
pub fn clean_up(directory: Directory, state: &State) -> Result<()> {
    if state.paused {
        // What is frozen does not go.
        let cgroups = directory.cgroups()?;
        if !cgroups.is_empty()
            && let Err(e) = cgroups.thaw()
        {
            crate::log::debug(&format!("thawing before the end: {e}"));
        }
    }
    if state.sandbox.is_some() {
        pod::remove(&directory, state)?;
    } else {
        launch::kill_and_wait(&state.sentry, KILL_PATIENCE)?;
    }
    launch::kill_and_wait(&state.gofer, KILL_PATIENCE)?;
    let spec = spec::load(directory.path());
    let cgroups = directory.cgroups()?;
    if !cgroups.is_empty() {
        // Whatever else is inside: stubs on their way out, or what was moved in.
        cgroups.kill()?;
    }
    // The cgroups, too: all of them were noted there.
    directory.remove()?;
    let hooks = spec.ok().and_then(|s| s.hooks().clone());
    hooks::run_leniently(Kind::Poststop, hooks.as_ref(), &Told::of(state, "stopped"));
    Ok(())
}

/// The hooks that run while the processes exist and wait, and the gofer's start after them. `pid` is the container's on
/// the host.
fn run_creation_hooks(
    options: &Options,
    creation: &Creation<'_>,
    (gofer, sentry, pid): (&mut Child, i32, i32),
    reserved: &mut Reserved,
) -> Result<()> {
    let Some(hooks) = creation.spec.hooks() else { return Ok(()) };
    let told = Told::creating(creation.id, creation.spec, creation.bundle, pid);
    reserved.farewell = Some((hooks.clone(), told.clone()));
    if !creation.has_hooks() {
        return Ok(());
    }
    hooks::run(Kind::Prestart, Some(hooks), &told, None)?;
    hooks::run(Kind::CreateRuntime, Some(hooks), &told, None)?;
    let namespaces = hooks::container_namespaces(gofer.pid(), sentry, options.rootless)?;
    hooks::run(Kind::CreateContainer, Some(hooks), &told, Some(&namespaces))?;
    gofer.go()
}

fn make_cgroups(
    options: &Options,
    creation: &Creation<'_>,
    plan: &Plan,
    reserved: &Reserved,
) -> Result<Option<Cgroups>> {
    let Creation { id, spec, .. } = *creation;
    let request = cgroup::Request {
        // Without a path: one of the container's name.
        path: plan.cgroup.as_deref(),
        id,
        systemd: options.systemd_cgroup,
        lenient: options.lenient_cgroups,
        user: acts_for_user(),
        resources: spec.linux().as_ref().and_then(|l| l.resources().as_ref()),
        intel_rdt: spec.linux().as_ref().and_then(|l| l.intel_rdt().as_ref()),
    };
    if options.no_cgroups {
        if request.limits() {
            crate::log::warn("linux.resources: no limits without a cgroup (--cgroup-manager=disabled)");
        }
        return Ok(None);
    }
    let asked = plan.cgroup.is_some() || request.limits();
    if !asked && (creation.plain_command || options.rootless) {
        return Ok(None);
    }
    let mut journal = |lines: &str| reserved.directory()?.note_cgroups(lines);
    match Cgroups::create(&request, &mut journal) {
        // Nobody asked for one, and root of a user namespace may not make any.
        Err(e) if !asked => {
            journal(&format!("{}\n", cgroup::NONE))?;
            crate::log::warn(&format!("no cgroup for this container: {e}"));
            Ok(None)
        }
        made => made.map(Some),
    }
}

/// The two processes, while or after they become ready.
#[derive(Debug)]
struct Launched {
    sentry: Child,
    gofer: Gofer,
    lifeline: PipeWriter,
    ready: Option<PipeReader>,
}

fn launch(
    options: &Options,
    creation: &Creation<'_>,
    plan: Plan,
    control: BorrowedFd<'_>,
    (cgroups, at_once): (Option<&Cgroups>, bool),
) -> Result<Launched> {
    let failed = || "cannot prepare the sandbox".to_owned();
    let exe = launch::executable()?;
    let null = OwnedFd::from(dev_null()?);
    let null = duplicate(null.as_fd())?;
    let log = open_debug_log(options, creation.id)?;
    let (ready_read, ready_write) = pipe().context(failed)?;
    let (lifeline_read, lifeline_write) = pipe().context(failed)?;
    let stdio = match &creation.terminal {
        Some(slave) => [duplicate(slave)?, duplicate(slave)?, duplicate(slave)?],
        None => [duplicate(std::io::stdin())?, duplicate(std::io::stdout())?, duplicate(std::io::stderr())?],
    };
    // Last words of a process that dies: into the log, else where the container's own errors go. Never into the
    // standard error of an engine that waits for its end.
    let last_words = match (&log, &creation.terminal) {
        (Some(log), _) => log.as_fd(),
        (None, Some(_)) => null.as_fd(),
        (None, None) => stdio[2].as_fd(),
    };
    let overlay_dir = match &options.medium {
        OverlayMedium::Memory => None,
        OverlayMedium::Dir(path) => {
            let dir =
                OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(path);
            Some(
                dir.context(|| {
                    format!("cannot open the overlay's directory {} (--overlay)", path.display())
                })?,
            )
        }
    };

    // Here, where the host's files are in sight and ours to open.
    let kvm = match options.platform {
        PlatformChoice::Kvm => Some(chitin_sentry::kvm_device()?),
        _ => None,
    };

    let selinux = spec::selinux_label(creation.spec);
    let streams = Streams { null: null.as_fd(), last_words, log: log.is_some(), selinux };
    let ids = plan.container.id_mappings.as_ref();
    let mut gofer = Gofer::launch(exe.as_fd(), options, creation.id, (plan.roots, ids), streams, cgroups)?;
    // Hooks may still change what it will see (see `run_creation_hooks`).
    if !creation.has_hooks() {
        gofer.child.go()?;
    }

    // Who starts a container by hand has no engine that would look.
    let view = if creation.start { None } else { View::mount(options) };
    let mut container = plan.container;
    container.plain_command = creation.plain_command;
    container.inherited_ids = ids::inherited(creation)?;
    container.no_setgroups = ids::without_setgroups(&container);
    container.gofer_fd = gofer.socket.as_raw_fd();
    container.view_fd = view.as_ref().map(|view| view.device.as_raw_fd());
    container.process.stdio = [stdio[0].as_raw_fd(), stdio[1].as_raw_fd(), stdio[2].as_raw_fd()];
    container.process.extra = creation.extra.numbers();
    creation.extra.announce(&mut container.process.env);
    let extra = container.process.extra.clone();
    let oom_score_adj = container.process.oom_score_adj;
    // The machine that a sandbox shows is its first container's part of it.
    let seen = container.limits.cpus.map_or(cpus(), |count| count.min(cpus()));
    let boot = BootConfig {
        sandbox_id: creation.id.to_owned(),
        platform: options.platform,
        patch_calls: options.patch_calls,
        network: options.network,
        overlay: OverlayConfig {
            mode: options.overlay,
            medium: overlay_dir.as_ref().map_or(Medium::Memory, |d| Medium::Dir(d.as_raw_fd())),
        },
        debug_log_fd: log.as_ref().map(AsRawFd::as_raw_fd),
        log_format: options.log_format,
        log_level: if options.debug { LogLevel::Debug } else { LogLevel::Info },
        strace: options.strace,
        hostname: container.hostname.clone().unwrap_or_else(host_name),
        domainname: container.domainname.clone().unwrap_or_else(|| "(none)".into()),
        cpus: seen,
        labels: spec::host_labels(creation.spec),
        start: at_once,
        containers: vec![container],
        fds: SandboxFds {
            control: control.as_raw_fd(),
            ready: ready_write.as_raw_fd(),
            lifeline: Some(lifeline_read.as_raw_fd()),
            kvm: kvm.as_ref().map(AsRawFd::as_raw_fd),
            view: view.as_ref().map(|view| view.mount.as_raw_fd()),
        },
    };
    let boot_config = role::config_memfd(&boot)?;
    let mut left = None;
    let network = match (options.network, &plan.network) {
        (NetworkMode::None, _) | (_, Network::New) | (NetworkMode::Sandbox, Network::Callers) => {
            libc::CLONE_NEWNET
        }
        (NetworkMode::Host, Network::Callers) => 0,
        (_, Network::Path(path)) => {
            left = Some(network::Elsewhere::enter(path)?);
            0
        }
    };
    let inherited = [
        Some(gofer.socket.as_raw_fd()),
        Some(boot.fds.control),
        Some(boot.fds.ready),
        boot.fds.lifeline,
        boot.fds.kvm,
        boot.fds.view,
        boot.containers.first().and_then(|c| c.view_fd),
        boot.debug_log_fd,
        overlay_dir.as_ref().map(AsRawFd::as_raw_fd),
    ];
    let sentry = launch::spawn(
        exe.as_fd(),
        &Role {
            name: c"sentry",
            id: creation.id,
            config: boot_config.as_fd(),
            // Always in a user namespace of its own, so that it is nobody on the host.
            namespaces: OWN_NAMESPACES | network | libc::CLONE_NEWUSER,
            stdio: [null.as_fd(), null.as_fd(), last_words],
            inherited: inherited
                .into_iter()
                .flatten()
                .chain(stdio.iter().map(AsRawFd::as_raw_fd))
                .chain(extra)
                .collect(),
            terminal: creation.terminal.as_ref().map(AsFd::as_fd),
            namespace_root: true,
            cgroups,
            memory: plan.memory_policy.as_ref(),
        },
    )?;
    if let Some(left) = left {
        left.leave()?;
    }
    map_ids(&sentry)?;
    set_io_priority(creation.spec, &[sentry.pid(), gofer.child.pid()])?;
    if let Some(adj) = oom_score_adj
        && let Err(e) = std::fs::write(format!("/proc/{}/oom_score_adj", sentry.pid()), adj.to_string())
    {
        crate::log::warn(&format!("process.oomScoreAdj: cannot set {adj}: {e}"));
    }
    Ok(Launched { sentry, gofer, lifeline: lifeline_write, ready: Some(ready_read) })
}

/// Gives processes that have one thread yet the configured priority of their I/O, which all that they make inherit.
fn set_io_priority(spec: &Spec, pids: &[i32]) -> Result<()> {
    let Some(wanted) = spec.process().as_ref().and_then(|p| *p.io_priority()) else { return Ok(()) };
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    for pid in pids {
        launch::set_io_priority(*pid, class, wanted.priority()).map_err(|e| {
            format!("process.ioPriority: {e}; the class IOPRIO_CLASS_RT needs CAP_SYS_NICE, choose IOPRIO_CLASS_BE")
        })?;
    }
    Ok(())
}

/// Makes a process nobody on the host, or us if we may not choose.
pub fn map_ids(child: &Child) -> Result<()> {
    let nobody = format!("0 {NOBODY} 1");
    if !nix::unistd::geteuid().is_root() {
        return ids::map(child, &ids::own());
    }
    child.write_maps(&nobody, &nobody, false).or_else(|e| {
        // We are root of a user namespace that has no nobody.
        crate::log::debug(&format!("mapping a process to host user {NOBODY}: {e}; taking our own id"));
        ids::map(child, &ids::own())
    })
}

/// What the start has to do about the network.
fn attachment(options: &Options, creation: &Creation<'_>, namespace: &Network) -> Attachment {
    let root = nix::unistd::geteuid().is_root();
    match (options.network, namespace) {
        (NetworkMode::Sandbox, Network::Path(_)) => Attachment::Namespace,
        (NetworkMode::Host, _) => Attachment::Shown,
        // Nobody has had the time to put anything into a new one, or the right.
        (NetworkMode::Sandbox, Network::New)
            if root && (!creation.start || creation.has_hooks() || !creation.net_devices().is_empty()) =>
        {
            Attachment::Namespace
        }
        (NetworkMode::Sandbox, Network::Callers) => Attachment::Outbound,
        _ => Attachment::None,
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |n| n.to_string_lossy().into_owned())
}

fn cpus() -> u32 {
    std::thread::available_parallelism().ok().and_then(|n| u32::try_from(n.get()).ok()).unwrap_or(1)
}

fn open_debug_log(options: &Options, id: &str) -> Result<Option<OwnedFd>> {
    let Some(path) = &options.debug_log else { return Ok(None) };
    let path = PathBuf::from(path.to_string_lossy().replace("%ID%", id));
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let file = file.context(|| format!("cannot open the log file {} (--debug-log)", path.display()))?;
    duplicate(file).map(Some)
}

impl Launched {
    /// Waits for the sentry's report.
    fn wait_ready(&mut self) -> Result<()> {
        let Some(mut ready) = self.ready.take() else { return Ok(()) };
        let deadline = Instant::now() + BOOT_PATIENCE;
        let mut line = Vec::new();
        let mut gofer_lives = true;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the sandbox was not ready after {} s", BOOT_PATIENCE.as_secs()));
            }
            let gofer_events = if gofer_lives { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut fds = [
                PollFd::new(ready.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.gofer.child.pidfd(), gofer_events),
            ];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(e) => return Err(format!("poll: {e}")),
            }
            let [reported, gofer_ended] = fds.map(|fd| fd.any().unwrap_or(false));
            // If it failed, that is the cause, where the sentry would only say that its gofer is gone. It ends well when
            // the sentry has ended, whose report is to come.
            if gofer_ended && !matches!(self.gofer.child.wait(), Ok(WaitStatus::Exited(_, 0))) {
                return Err(self.why_dead("gofer"));
            }
            gofer_lives = !gofer_ended;
            if reported && foreground::read_report(&mut ready, &mut line).context(|| "ready pipe".into())? {
                break;
            }
        }
        if line.is_empty() {
            return Err(self.why_dead("sentry"));
        }
        let mut decoder = Decoder::new();
        let report = decoder.push(&line).and_then(|()| decoder.next());
        match report.context(|| "the sentry's report".into())? {
            Some(BootReport::Ready) => Ok(()),
            Some(BootReport::Error { message }) => Err(message),
            None => Err("the sentry died in the middle of its report".into()),
        }
    }

    /// What became of a process that should live. The other one may have died of it.
    fn why_dead(&mut self, which: &str) -> String {
        let child = if which == "gofer" { &mut self.gofer.child } else { &mut self.sentry };
        // It has closed its end of the pipe; if it is not on its way out, it has no business to live.
        if !launch::wait_gone(child.pidfd(), Duration::from_secs(1)).unwrap_or(false) {
            child.kill();
        }
        let status = child.wait();
        if which == "gofer"
            && let Some(said) = self.gofer.last_words()
        {
            return said;
        }
        let child = if which == "gofer" { &mut self.gofer.child } else { &mut self.sentry };
        if let Some(step) = child.startup_failure() {
            return format!("the {which} could not be started: {step}");
        }
        let how = match status {
            Ok(WaitStatus::Exited(_, code)) => format!("exited with code {code}"),
            Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => {
                "was killed for a system call that its seccomp list does not have".to_owned()
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
            _ => "ended".to_owned(),
        };
        format!("the {which} {how} before the sandbox was ready; --debug-log=FILE tells more")
    }
}
