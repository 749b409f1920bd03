//! The containers of the sandbox: the first one, whose end is the sandbox's, and further ones of its pod.
//!
//! Neighbours: `boot` makes the first, `control` does what the runtime asks for by [`Containers`]; `exec` makes their
//! processes, `mounts` their file systems.
//!
//! Life of a record: prepared (a family of address spaces, nothing else) → created (file systems and a stopped init) →
//! running → stopped (nothing left but the status). The end of init ends all processes of its container. The end of a
//! container's gofer ends the container, and that of the first one the sandbox.
//!
//! Locks: `Containers::table` → `Record::inner`; neither is held while processes are made or ended.

use crate::boot::Settings;
use crate::exec::{self, Execed, Role};
use crate::factory::Types;
use crate::mounts::Mounter;
use crate::profile::Profile;
use crate::stdio::{self, Descriptors};
use crate::view;
use chitin_abi::Errno;
use chitin_abi::poll::{POLLERR, POLLHUP};
use chitin_abi::signal::SIGKILL;
use chitin_abi::time::Timespec;
use chitin_control::{ContainerConfig, IdMapping, Limits, Namespace, ProcessConfig, Status};
use chitin_fs_proc::ProcFs;
use chitin_gofer_protocol::Client;
use chitin_kernel::clone::start_init;
use chitin_kernel::container::{Container, Spaces};
use chitin_kernel::kernel::{Machine, Uts};
use chitin_kernel::reactor::HostFdWatch;
use chitin_kernel::time::Base;
use chitin_kernel::time::ns::{Offsets, checked};
use chitin_kernel::tty::{ConsoleTty, Tty};
use chitin_kernel::wait::{block_on, block_until};
use chitin_kernel::{CgroupNs, ExitStatus, Kernel, NsProxy, Process, Task, run};
use chitin_platform::SpaceGroup;
use chitin_vfs::userns::{Extent, IdMap};
use chitin_vfs::{MountNs, UserNs, WaitQueue};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// The most containers a sandbox has.
const MAX_CONTAINERS: usize = 256;
/// How long `pause` waits for the last task to stop.
const PAUSE_PATIENCE_MS: u32 = 2000;

/// One container.
pub struct Record {
    pub id: String,
    pub first: bool,
    pub container: Arc<Container>,
    /// Set when it is made.
    profile: OnceLock<Profile>,
    namespaces: OnceLock<NsProxy>,
    user_ns: OnceLock<Arc<UserNs>>,
    inner: Mutex<Inner>,
    /// Woken at its end.
    pub ended: WaitQueue,
}

#[derive(Default)]
struct Inner {
    stage: Stage,
    paused: bool,
    /// Init's process for good, and its task until its end.
    init: Option<Arc<Process>>,
    task: Option<Arc<Task>>,
    tty: Option<Arc<Tty>>,
    ns: Option<Arc<MountNs>>,
    gofer: Option<Arc<HostFdWatch>>,
    view: Option<Arc<HostFdWatch>>,
    execs: BTreeMap<i32, Arc<Execed>>,
    exit: Option<ExitStatus>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Prepared,
    Creating,
    Created,
    Running,
    Stopped,
}

impl Record {
    fn new(id: &str, first: bool, container: Arc<Container>) -> Arc<Record> {
        Arc::new(Record {
            id: id.to_owned(),
            first,
            container,
            profile: OnceLock::new(),
            namespaces: OnceLock::new(),
            user_ns: OnceLock::new(),
            inner: Mutex::default(),
            ended: WaitQueue::new(),
        })
    }

    /// What its configuration says about every process.
    pub fn profile(&self) -> &Profile {
        self.profile.get_or_init(Profile::default)
    }

    /// Where its processes live, once it is made.
    pub fn namespaces(&self) -> Result<NsProxy, String> {
        self.namespaces.get().cloned().ok_or_else(|| format!("container {} has not been created", self.id))
    }

    /// Where its processes' ids are numbers.
    pub fn user_ns(&self) -> &Arc<UserNs> {
        self.user_ns.get_or_init(|| UserNs::initial().clone())
    }

    pub fn exit(&self) -> Option<ExitStatus> {
        self.inner.lock().exit
    }

    /// Status, exit status and init's pid, as `state` shows them.
    pub fn state(&self) -> (Status, Option<ExitStatus>, i32) {
        let inner = self.inner.lock();
        let status = match inner.stage {
            Stage::Prepared | Stage::Creating => Status::Creating,
            Stage::Stopped => Status::Stopped,
            Stage::Created | Stage::Running if inner.paused => Status::Paused,
            Stage::Created => Status::Created,
            Stage::Running => Status::Running,
        };
        (status, inner.exit, inner.init.as_ref().map_or(0, |init| init.pid()))
    }

    /// Whether it has an init, which may have ended.
    pub fn is_made(&self) -> bool {
        self.inner.lock().init.is_some()
    }

    /// Whether init waits for its start.
    pub fn is_created(&self) -> bool {
        self.inner.lock().stage == Stage::Created
    }

    /// Init, or what `exec` started under this pid.
    pub fn process(&self, pid: Option<i32>) -> Result<Arc<Process>, String> {
        let inner = self.inner.lock();
        let process = match pid {
            None => inner.init.as_ref(),
            Some(pid) => inner.execs.get(&pid).map(|exec| &exec.task.process),
        };
        process.cloned().ok_or_else(|| match pid {
            None => format!("container {} has not been created", self.id),
            Some(pid) => format!("container {} has no process {pid} that exec started", self.id),
        })
    }

    /// The terminal of one of them.
    pub fn tty(&self, pid: Option<i32>) -> Result<Arc<Tty>, String> {
        let inner = self.inner.lock();
        let tty = match pid {
            None => inner.tty.clone(),
            Some(pid) => inner.execs.get(&pid).and_then(|exec| exec.tty.clone()),
        };
        tty.ok_or_else(|| format!("the process of container {} has no terminal", self.id))
    }

    /// After init's end: lets its last output reach the host's terminal.
    pub fn show_rest(&self) {
        if let Ok(tty) = self.tty(None) {
            ConsoleTty::show_rest(&tty);
        }
    }

    pub fn limit(&self, limits: Limits, machine: Machine) {
        if let Some(cpus) = limits.cpus {
            self.container.set_cpus(cpus.min(machine.cpus));
        }
        if let Some(memory) = limits.memory {
            self.container.set_memory(memory.min(machine.memory_bytes));
        }
        let some = |value: u64| (value != u64::MAX).then_some(value);
        let mut told = self.container.told.lock();
        if let Some((quota, period)) = limits.quota {
            told.quota = some(quota).map(|quota| (quota, period));
        }
        if let Some(pids) = limits.pids {
            told.pids = some(pids);
        }
    }
}

/// The table.
pub struct Containers {
    kernel: Arc<Kernel>,
    settings: Settings,
    table: Mutex<BTreeMap<String, Arc<Record>>>,
}

impl Containers {
    pub fn new(kernel: &Arc<Kernel>, settings: Settings) -> Arc<Containers> {
        Arc::new(Containers { kernel: kernel.clone(), settings, table: Mutex::default() })
    }

    pub fn find(&self, id: &str) -> Result<Arc<Record>, String> {
        let found = self.table.lock().get(id).cloned();
        found.ok_or_else(|| format!("no container {id} in this sandbox"))
    }

    /// Makes the sandbox's first container, as the boot configuration says.
    pub fn make_first(self: &Arc<Self>, config: &ContainerConfig) -> Result<Arc<Record>, String> {
        let record = Record::new(&config.id, true, self.kernel.container.clone());
        self.table.lock().insert(config.id.clone(), record.clone());
        self.make(&record, config, &mut Descriptors::Inherited)?;
        Ok(record)
    }

    /// The first step of a further container; answers its zygote, where the platform has such.
    pub fn prepare(self: &Arc<Self>, id: &str) -> Result<Option<OwnedFd>, String> {
        let taken = || format!("container {id} exists in this sandbox already");
        if self.table.lock().contains_key(id) {
            return Err(taken());
        }
        let me: Weak<Containers> = Arc::downgrade(self);
        let name = id.to_owned();
        let lost = Box::new(move |signal| {
            let found = me.upgrade().and_then(|me| Some((me.find(&name).ok()?, me)));
            if let Some((record, me)) = found {
                tracing::error!(
                    container = name,
                    signal,
                    "the container's zygote was killed; the container ends"
                );
                me.kill(&record, SIGKILL);
            }
        });
        let cannot = |error| format!("cannot prepare container {id}: {error}; raise the limit on processes");
        let group: Arc<dyn SpaceGroup> = block_on(self.kernel.platform.new_group(lost)).map_err(cannot)?;
        let origin = group.origin().map_err(cannot)?;
        let machine = self.kernel.machine;
        let container = Container::new(id, Spaces::Own(group), machine.cpus, machine.memory_bytes);
        let mut table = self.table.lock();
        if table.len() >= MAX_CONTAINERS {
            return Err(format!("the sandbox has {MAX_CONTAINERS} containers already; delete one"));
        }
        if table.contains_key(id) {
            return Err(taken());
        }
        table.insert(id.to_owned(), Record::new(id, false, container));
        Ok(origin)
    }

    /// Makes a prepared container.
    pub fn create(self: &Arc<Self>, config: &ContainerConfig, fds: &mut Descriptors) -> Result<(), String> {
        let record = self.find(&config.id)?;
        {
            let mut inner = record.inner.lock();
            if inner.stage != Stage::Prepared {
                return Err(format!("container {} has been created already", config.id));
            }
            inner.stage = Stage::Creating;
        }
        self.make(&record, config, fds)
            .and_then(|()| self.watch_end(&record))
            .inspect_err(|_| self.tear_down(&record, ExitStatus::Signaled { signal: SIGKILL, core: false }))
    }

    fn make(
        self: &Arc<Self>,
        record: &Arc<Record>,
        config: &ContainerConfig,
        fds: &mut Descriptors,
    ) -> Result<(), String> {
        let kernel = &self.kernel;
        record.limit(config.limits, kernel.machine);
        let gofer = fds.take(config.gofer_fd, "gofer socket")?;
        let watch = self.watch_gofer(record, &gofer)?;
        let storage = self.settings.storage.clone();
        let ids = self.ids(record, config)?;
        let user_ns = record.user_ns.get_or_init(|| ids).clone();
        if record.first {
            let net =
                kernel.extension::<chitin_net::NetNs>().ok_or("the kernel has no network; this is a bug")?;
            net.set_owner(&user_ns);
            kernel.set_net(net, &user_ns);
        }
        let made = self.namespaces(record, config, &user_ns)?;
        let namespaces = record.namespaces.get_or_init(|| made).clone();
        let types = Types::new(kernel, storage.clone(), Some((namespaces.clone(), record.container.clone())));
        let mounter = Mounter {
            kernel,
            overlay: self.settings.overlay,
            container: config,
            client: Arc::new(Client::new(gofer)),
            storage,
            types: &types,
            user_ns: &user_ns,
        };
        let ns = mounter.build()?;
        set_sysctls(kernel, &namespaces, &config.sysctl)?;
        record.profile.get_or_init(|| Profile::new(config));
        let init = exec::make(kernel, record, &ns, &config.process, fds, Role::Init)?;
        let view = config.view_fd.map(|number| {
            view::show(kernel, &ns, config.id_mappings.clone(), fds.take(number, "view of the files")?)
        });
        let view = view.transpose()?;
        let mut inner = record.inner.lock();
        inner.stage = Stage::Created;
        inner.init = Some(init.task.process.clone());
        inner.task = Some(init.task);
        inner.tty = init.tty;
        inner.ns = Some(ns);
        inner.gofer = Some(watch);
        inner.view = view;
        Ok(())
    }

    /// The container whose namespace is meant; `None`: its own.
    fn other(&self, record: &Record, which: &Namespace) -> Result<Option<Arc<Record>>, String> {
        Ok(match which {
            Namespace::New => None,
            Namespace::Sandbox if record.first => None,
            Namespace::Sandbox => {
                let first = self.table.lock().values().find(|known| known.first).cloned();
                Some(first.ok_or("the sandbox has no first container")?)
            }
            Namespace::Container(id) => Some(self.find(id)?),
        })
    }

    /// Its user namespace: one with its mappings, another container's, or that of who runs the sandbox.
    fn ids(&self, record: &Record, config: &ContainerConfig) -> Result<Arc<UserNs>, String> {
        if let Some(other) = self.other(record, &config.namespaces.user)? {
            return Ok(other.user_ns().clone());
        }
        let maps = config.id_mappings.as_ref().or(config.inherited_ids.as_ref());
        let Some(maps) = maps else { return Ok(UserNs::initial().clone()) };
        let map = |name, ranges: &[IdMapping]| {
            let extent = |r: &IdMapping| Extent { first: r.container, lower: r.host, count: r.size };
            IdMap::new(ranges.iter().map(extent).collect())
                .map_err(|_| format!("linux.{name}: makes no sense"))
        };
        let (uids, gids) = (map("uidMappings", &maps.uids)?, map("gidMappings", &maps.gids)?);
        Ok(UserNs::of_container(uids, gids, !config.no_setgroups))
    }

    /// New namespaces, and those of other containers that the configuration names.
    fn namespaces(
        &self,
        record: &Record,
        config: &ContainerConfig,
        user_ns: &Arc<UserNs>,
    ) -> Result<NsProxy, String> {
        let bytes = |text: &str| text.to_owned().into_bytes();
        let hostname = bytes(config.hostname.as_ref().unwrap_or(&self.settings.hostname));
        let domainname = bytes(config.domainname.as_ref().unwrap_or(&self.settings.domainname));
        let mut own = self.kernel.new_namespaces(Uts { hostname, domainname }, user_ns, offsets(config)?);
        own.pid_for_children.plain_init.store(config.plain_command, Ordering::Relaxed);
        let other = |which| self.other(record, which)?.map(|other| other.namespaces()).transpose();
        own.cgroup = CgroupNs::new(record.container.cgroup.clone(), user_ns);
        if let Some(other) = other(&config.namespaces.pid)? {
            own.pid_for_children = other.pid_for_children;
        }
        if let Some(other) = other(&config.namespaces.uts)? {
            own.uts = other.uts;
        }
        if let Some(other) = other(&config.namespaces.ipc)? {
            own.ipc = other.ipc;
        }
        Ok(own)
    }

    /// Lets init run.
    pub fn start(&self, record: &Record) -> Result<(), String> {
        let init = {
            let mut inner = record.inner.lock();
            match (inner.stage, &inner.task) {
                (Stage::Created, Some(init)) => {
                    let init = init.clone();
                    inner.stage = Stage::Running;
                    init
                }
                (Stage::Stopped, _) => return Err(format!("container {} has ended", record.id)),
                (Stage::Prepared | Stage::Creating, _) => {
                    return Err(format!("container {} has not been created", record.id));
                }
                _ => return Err(format!("container {} has been started already", record.id)),
            }
        };
        start_init(&init);
        Ok(())
    }

    /// Runs another process in a container.
    pub fn exec(
        &self,
        record: &Arc<Record>,
        settings: &ProcessConfig,
        fds: &mut Descriptors,
    ) -> Result<Arc<Execed>, String> {
        let ns = {
            let inner = record.inner.lock();
            match (inner.stage, &inner.task) {
                (Stage::Created | Stage::Running, _) if inner.paused && !settings.even_paused => {
                    return Err("cannot exec in a paused container; resume it first".into());
                }
                // Where init is now. It may have yet to be started: startContainer hooks run before it.
                (Stage::Created | Stage::Running, Some(init)) => init.fs().ns(),
                (Stage::Stopped, _) => return Err("cannot exec in a stopped container".into()),
                _ => return Err("cannot exec in a container that has not been created".into()),
            }
        };
        let made = Arc::new(exec::make(&self.kernel, record, &ns, settings, fds, Role::Further)?);
        let stage = {
            let mut inner = record.inner.lock();
            inner.execs.insert(made.task.pid(), made.clone());
            inner.stage
        };
        if matches!(stage, Stage::Created | Stage::Running) {
            start_init(&made.task);
        } else {
            // It ended meanwhile, with whatever was in it then.
            let process = &made.task.process;
            kill(process);
            block_until(&process.exit_events, || process.exit_status());
            self.forget_exec(record, &made);
            return Err("cannot exec in a stopped container".into());
        }
        Ok(made)
    }

    /// After a process of `exec` has ended and nobody waits for it any more.
    pub fn forget_exec(&self, record: &Record, exec: &Execed) {
        record.inner.lock().execs.remove(&exec.task.pid());
        self.kernel.forget(&exec.task.process);
    }

    /// Ends a container's processes, started or not, as if by this signal.
    pub fn kill(&self, record: &Record, signal: u32) {
        self.kernel.kill_container(&record.container, signal);
        // Who has not begun ends when it is let go.
        let _ = self.start(record);
        run::drain();
    }

    /// Ends a further container and forgets it.
    pub fn remove(&self, record: &Arc<Record>) -> Result<(), String> {
        if record.first {
            return Err(format!("container {} is the sandbox itself; end the sandbox", record.id));
        }
        self.kill(record, SIGKILL);
        if record.is_made() {
            block_until(&record.ended, || record.exit());
        } else {
            self.tear_down(record, ExitStatus::Signaled { signal: SIGKILL, core: false });
        }
        self.table.lock().remove(&record.id);
        Ok(())
    }

    /// What becomes of one whose maker is gone: it ends, and is forgotten if it was only prepared.
    pub fn abandon(&self, id: &str) {
        let Ok(record) = self.find(id) else { return };
        let made = {
            let inner = record.inner.lock();
            inner.stage != Stage::Prepared && !(inner.stage == Stage::Stopped && inner.init.is_none())
        };
        if made {
            // The process that stood for it on the host is gone; its status stays for who asks.
            return self.kill(&record, SIGKILL);
        }
        if let Err(error) = self.remove(&record) {
            tracing::warn!(container = id, error, "an abandoned container stays");
        }
    }

    /// Stops every process of a container where it stands.
    pub fn pause(&self, record: &Record, on: bool) -> Result<(), String> {
        let mut inner = record.inner.lock();
        match (inner.stage, on, inner.paused) {
            (Stage::Created | Stage::Running, true, false)
            | (Stage::Created | Stage::Running, false, true) => {}
            (Stage::Created | Stage::Running, true, true) => {
                return Err(format!("container {} is paused already", record.id));
            }
            (Stage::Created | Stage::Running, false, false) => {
                return Err(format!("container {} is not paused", record.id));
            }
            _ => return Err(format!("container {} is not running", record.id)),
        }
        inner.paused = on;
        drop(inner);
        if on {
            self.kernel.freeze(&record.container);
            run::drain();
            // What the host holds up for longer stops as soon as it comes back.
            for _ in 0..PAUSE_PATIENCE_MS {
                if self.kernel.has_stopped(&record.container) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        } else {
            self.kernel.thaw(&record.container);
            run::drain();
        }
        Ok(())
    }

    /// What follows from the end of init: nothing of the container stays but its status.
    pub fn tear_down(&self, record: &Record, status: ExitStatus) {
        self.kernel.kill_container(&record.container, SIGKILL);
        run::drain();
        let (init, old) = {
            let mut inner = record.inner.lock();
            let files = (inner.ns.take(), inner.gofer.take(), inner.view.take());
            let old = (inner.task.take(), inner.tty.take(), files);
            inner.stage = Stage::Stopped;
            inner.paused = false;
            inner.exit = Some(status);
            (inner.init.clone(), old)
        };
        drop(old);
        if !record.first {
            record.container.close();
            if let Some(init) = init {
                self.kernel.forget(&init);
            }
        }
        record.ended.wake(0);
        tracing::info!(container = record.id, ?status, "container has ended");
    }

    /// A thread that waits for the end of a further container's init.
    fn watch_end(self: &Arc<Self>, record: &Arc<Record>) -> Result<(), String> {
        let init = record.process(None)?;
        let (me, record) = (self.clone(), record.clone());
        std::thread::Builder::new()
            .name("container-end".into())
            .stack_size(128 << 10)
            .spawn(move || {
                let status = block_until(&init.exit_events, || init.exit_status());
                record.show_rest();
                me.tear_down(&record, status);
            })
            .map(|_| ())
            .map_err(|error| format!("cannot start a thread: {error}; raise the limit on processes"))
    }

    /// The gofer's end is its container's: files are gone for good.
    fn watch_gofer(
        self: &Arc<Self>,
        record: &Arc<Record>,
        gofer: &OwnedFd,
    ) -> Result<Arc<HostFdWatch>, String> {
        let cannot = |error: std::io::Error| format!("cannot watch the gofer: {error}");
        let copy = gofer.as_fd().try_clone_to_owned().map_err(cannot)?;
        let (me, id) = (Arc::downgrade(self), Arc::downgrade(record));
        let on_ready = Box::new(move |events: u32| {
            let Some((me, record)) = me.upgrade().zip(id.upgrade()) else { return };
            if events & (POLLHUP | POLLERR) == 0 {
                return;
            }
            if record.first {
                crate::last_words(
                    "the gofer of the sandbox died; the container was ended, as it had lost its files",
                );
                std::process::exit(137);
            }
            tracing::error!(
                container = record.id,
                "the gofer died; the container ends, as it has lost its files"
            );
            me.kill(&record, SIGKILL);
        });
        self.kernel.reactor.watch_with(Arc::new(copy), on_ready).map_err(cannot)
    }
}

/// Ends a process from outside.
pub fn kill(process: &Arc<Process>) {
    chitin_kernel::exit::group_exit(process, ExitStatus::Signaled { signal: SIGKILL, core: false });
    run::drain();
}

/// What its clocks are ahead by: as far as clocks go.
fn offsets(config: &ContainerConfig) -> Result<Offsets, String> {
    let of = |name, base, (tv_sec, nanos): (i64, u32)| {
        let offset = Timespec { tv_sec, tv_nsec: i64::from(nanos) };
        checked(base, &offset)
            .map_err(|_| format!("linux.timeOffsets.{name}: the clock cannot show such a time"))
    };
    Ok(Offsets {
        monotonic: of("monotonic", Base::Monotonic, config.time_offsets.monotonic)?,
        boottime: of("boottime", Base::Boottime, config.time_offsets.boottime)?,
    })
}

/// The tunables of the configuration.
fn set_sysctls(
    kernel: &Arc<Kernel>,
    namespaces: &NsProxy,
    settings: &BTreeMap<String, String>,
) -> Result<(), String> {
    if settings.is_empty() {
        return Ok(());
    }
    // They are the kernel's: any instance shows them.
    let proc = ProcFs::new(kernel, &kernel.container, &namespaces.pid_for_children);
    for (name, value) in settings {
        proc.set_sysctl(&namespaces.uts, &namespaces.net, name, value.as_bytes()).map_err(|errno| {
            let why = match errno {
                Errno::ENOENT => "the sandbox's kernel has no such tunable; remove it".to_owned(),
                Errno::EACCES | Errno::EPERM => "it cannot be set here; remove it".to_owned(),
                Errno::EINVAL => format!("the value {value:?} is not possible"),
                errno => errno.message().to_owned(),
            };
            format!("linux.sysctl[{name:?}]: {why}")
        })?;
    }
    Ok(())
}

/// Passes the sizes of the first container's terminal on, which is the sentry's own.
pub fn follow_first_terminal(record: &Record) -> Result<(), String> {
    match record.tty(None) {
        Ok(tty) => stdio::follow_size(&tty),
        Err(_) => Ok(()),
    }
}
