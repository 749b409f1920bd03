//! New tasks: clone, fork, vfork, and the first process (kernel/fork.c).

use crate::ns::{self, NsProxy};
use crate::pid::{self, Pid, PidNs};
use crate::process::{Links, Usage};
use crate::result::{Outcome, Restart, SysError};
use crate::run::Run;
use crate::signal::{SharedSignals, SigHand, TaskSignals};
use crate::{FdTable, FsState, Kernel, Process, Task, time};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use chitin_abi::num::sign_extend;
use chitin_abi::resource::*;
use chitin_abi::sched::*;
use chitin_abi::signal::*;
use chitin_mm::Mm;
use chitin_platform::{PlatformTask, Spawn};
use chitin_vfs::{Creds, UserNs, WaitQueue};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What clone, clone3, fork and vfork ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneRequest {
    /// CLONE_*, without the exit signal in the low byte.
    pub flags: u64,
    pub exit_signal: u32,
    /// The child's stack pointer; 0: the parent's.
    pub stack: u64,
    pub tls: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    /// Where the pidfd goes (CLONE_PIDFD).
    pub pidfd: u64,
}

fn check(task: &Task, request: &CloneRequest) -> Result<(), Errno> {
    let flags = request.flags;
    let has = |flag| flags & flag != 0;
    if ((has(CLONE_NEWNS) || has(CLONE_NEWUSER)) && has(CLONE_FS))
        || (has(CLONE_THREAD) && !has(CLONE_SIGHAND))
        || (has(CLONE_SIGHAND) && !has(CLONE_VM))
        || (has(CLONE_PIDFD) && has(CLONE_PARENT_SETTID) && request.pidfd == request.parent_tid)
        || request.exit_signal > 64
    {
        return Err(Errno::EINVAL);
    }
    // What init left behind would have to be reaped by its parent.
    if has(CLONE_PARENT) && task.process.is_unkillable() {
        return Err(Errno::EINVAL);
    }
    // Threads live in the namespace of their process.
    let elsewhere = || !Arc::ptr_eq(task.pid_ns(), &task.namespaces().pid_for_children);
    if has(CLONE_THREAD) && (has(CLONE_NEWPID | CLONE_NEWUSER) || elsewhere()) {
        return Err(Errno::EINVAL);
    }
    let needs_power = flags & (ns::CLONE_OURS | CLONE_NEWNS) != 0 && !has(CLONE_NEWUSER);
    if needs_power && !task.creds().capable_here(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if has(CLONE_NEWIPC) && has(CLONE_SYSVSEM) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Credentials in a new user namespace, for clone and unshare: EPERM under chroot, and for who is nobody where it is.
pub fn creds_in_new_user_ns(task: &Task) -> Result<Arc<Creds>, Errno> {
    let place = task.fs().place();
    if !place.root.is(&place.ns.root()) {
        return Err(Errno::EPERM);
    }
    let old = task.creds();
    Ok(Arc::new(Creds::in_new_ns(&old, UserNs::new_child(&old)?)))
}

/// Whether the sandbox has too many tasks, or the user as many as RLIMIT_NPROC lets it have (not root, and not whoever
/// may exceed limits). Counting is only needed where everybody's tasks together are too many for the user.
fn too_many_tasks(task: &Task) -> bool {
    let all = task.kernel.thread_count();
    if all >= crate::tree::THREADS_MAX {
        return true;
    }
    let limit = usize::try_from(task.process.rlimit(RLIMIT_NPROC).rlim_cur).unwrap_or(usize::MAX);
    let creds = task.creds();
    if all < limit || creds.uid == 0 || creds.capable(CAP_SYS_RESOURCE) || creds.capable(CAP_SYS_ADMIN) {
        return false;
    }
    let threads = task.kernel.processes().into_iter().flat_map(|process| process.threads());
    threads.filter(|thread| thread.creds().uid == creds.uid).count() >= limit
}

/// clone(2) and its relatives.
pub fn clone(task: &Arc<Task>, request: CloneRequest) -> Outcome {
    if let Err(errno) = check(task, &request) {
        return Outcome::error(errno);
    }
    let task = task.clone();
    Outcome::block(async move {
        let flags = request.flags;
        if too_many_tasks(&task) || task.process.cgroup().is_full() {
            return Err(Errno::EAGAIN.into());
        }
        let kind = if flags & CLONE_THREAD != 0 {
            Spawn::Thread
        } else if flags & CLONE_VM != 0 {
            Spawn::SharedProcess
        } else {
            Spawn::Fork
        };
        let group_signals = match kind {
            Spawn::Thread => 0,
            _ => task.process.group_signals.settle().await,
        };
        let platform = task.platform();
        let spawned = platform.spawn(kind).await.map_err(|error| {
            tracing::debug!(%error, "spawn failed");
            SysError::Errno(Errno::EAGAIN)
        })?;
        let mm = if flags & CLONE_VM != 0 { task.mm() } else { task.mm().forked(spawned.space) };
        if flags & CLONE_VM == 0 {
            task.kernel.each_ipc(|ipc| ipc.forked(&task.mm(), &mm));
        }
        let (host, memory) = (spawned.task.clone(), mm.clone());
        let child = match make_child(&task, &request, spawned.task, mm, group_signals) {
            Ok(child) => child,
            Err(error) => {
                if kind == Spawn::Thread {
                    host.exit_thread();
                } else {
                    host.kill_process();
                }
                if flags & CLONE_VM == 0 {
                    task.kernel.memory_left(&memory, 0);
                }
                return Err(error);
            }
        };
        let tid = child.tid_in(task.pid_ns());
        if flags & CLONE_VFORK != 0 {
            let waiter = child.clone();
            child.start();
            let done = || waiter.vfork.done.load(Ordering::Acquire).then_some(());
            // Killed while waiting: the child keeps the memory alive by itself.
            let _ = task.killable(waiter.vfork.queue.wait_until(done)).await;
        } else {
            child.start();
        }
        Ok(sign_extend(tid))
    })
}

/// Builds the child's kernel side and enters it into the tree.
fn make_child(
    task: &Arc<Task>,
    request: &CloneRequest,
    platform: Arc<dyn PlatformTask>,
    mm: Arc<Mm>,
    group_signals: u64,
) -> Result<Arc<Task>, SysError> {
    let flags = request.flags;
    let broken = |_| SysError::Errno(Errno::EAGAIN);
    let mut regs = platform.registers().map_err(broken)?;
    regs.rax = 0;
    if request.stack != 0 {
        regs.rsp = request.stack;
    }
    if flags & CLONE_SETTLS != 0 {
        regs.fs_base = request.tls;
    }
    platform.set_registers(&regs).map_err(broken)?;
    let kernel = task.kernel.clone();
    let files = if flags & CLONE_FILES != 0 { task.files() } else { task.files().copy()? };
    let creds = if flags & CLONE_NEWUSER != 0 { creds_in_new_user_ns(task)? } else { task.creds() };
    let namespaces = match flags & ns::CLONE_OURS {
        0 => task.namespaces(),
        _ => Arc::new(ns::changed(task, flags, &creds)?),
    };
    let id = Reserved::new(&kernel, &namespaces.pid_for_children)?;
    let process = if flags & CLONE_THREAD != 0 {
        task.process.clone()
    } else {
        child_process(task, request, id.pid.clone())
    };
    let fs = match (flags & CLONE_FS != 0, flags & CLONE_NEWNS != 0) {
        (true, _) => task.fs(),
        (false, false) => task.fs().copy(),
        (false, true) => task.fs().with_new_namespace(&creds.user_ns),
    };
    let (mask, altstack) = {
        let signals = task.signals.lock();
        let keeps_stack = flags & CLONE_VM == 0 || flags & CLONE_VFORK != 0;
        (signals.mask, if keeps_stack { signals.altstack } else { disabled_stack() })
    };
    let child =
        Task::build(&kernel, id.pid.clone(), namespaces, process.clone(), platform, mm, files, fs, creds);
    // Who shares memory shares its view of time.
    if flags & CLONE_VM == 0 {
        child.enter_time_ns();
    }
    {
        let mut signals = child.signals.lock();
        signals.mask = mask;
        signals.altstack = altstack;
    }
    child.set_name(&task.name());
    let (nice, policy) = (task.nice.load(Ordering::Relaxed), task.policy.load(Ordering::Relaxed));
    let reset = policy & SCHED_RESET_ON_FORK != 0 && nice < 0;
    child.policy.store(policy & !SCHED_RESET_ON_FORK, Ordering::Relaxed);
    child.nice.store(if reset { 0 } else { nice }, Ordering::Relaxed);
    if reset {
        let _ = child.platform().set_nice(0);
    }
    if flags & CLONE_CHILD_CLEARTID != 0 {
        child.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
    }
    if flags & CLONE_CHILD_SETTID != 0 {
        // As in Linux, a bad address is the child's problem.
        let _ = child.mm().write(request.child_tid, &child.tid());
    }
    if flags & CLONE_PARENT_SETTID != 0 {
        let _ = task.mm().write(request.parent_tid, &child.tid_in(task.pid_ns()));
    }
    let pidfd = if flags & CLONE_PIDFD != 0 {
        let file = crate::pidfd::open(&process, 0);
        let fd = task.files().add(file, true, 0, task.process.nofile())?;
        let _ = task.mm().write(request.pidfd, &fd);
        Some(fd)
    } else {
        None
    };
    child.platform().set_owner(child.clone());
    let mut tree = kernel.tree.lock();
    if let Some(error) = overtaken(task, child.pid_ns(), flags, group_signals) {
        drop(tree);
        if let Some(fd) = pidfd {
            // Nobody was told its number.
            let _ = task.files().remove(fd);
        }
        return Err(error);
    }
    // Under the tree's lock: another thread may be giving its filters to all of the process.
    child.seccomp.inherit(&task.seccomp);
    if flags & CLONE_THREAD != 0 {
        process.threads.lock().push(child.clone());
    } else {
        process.threads.lock().push(child.clone());
        let parent =
            if flags & CLONE_PARENT != 0 { task.process.parent() } else { Some(task.process.clone()) };
        process.links.lock().parent = parent.as_ref().map_or_else(Weak::new, Arc::downgrade);
        if let Some(parent) = parent {
            parent.links.lock().children.push(process.clone());
        }
        // Its parent may have been moved since.
        *process.cgroup.write() = task.process.cgroup();
        tree.insert_process(process.clone());
    }
    tree.insert_task(child.clone());
    drop(tree);
    if process.is_frozen() {
        child.add_work(crate::run::WORK_FREEZE);
    }
    // What befell the process while its new thread was in the making and so on nobody's list. Whoever ends or stops
    // threads marks the process first and takes the list second.
    let (ending, stopping) = {
        let shared = process.signals.lock();
        (shared.group_exit.is_some() || shared.execing.is_some(), shared.stop.is_some())
    };
    if ending {
        child.add_work(crate::run::WORK_EXIT);
    }
    if stopping {
        child.add_work(crate::run::WORK_STOP);
    }
    Ok(child)
}

/// Whether what came meanwhile forbids the child. The process tree is locked, so that who ends or signals many processes
/// finds either the child or, here, its traces.
fn overtaken(task: &Task, ns: &PidNs, flags: u64, group_signals: u64) -> Option<SysError> {
    if ns.is_closed() {
        return Some(SysError::Errno(Errno::ENOMEM));
    }
    if task.work.load(Ordering::Acquire) & crate::run::WORK_EXIT != 0 {
        return Some(SysError::Errno(Errno::EINTR));
    }
    let met = flags & CLONE_THREAD == 0 && task.process.group_signals.met(group_signals);
    met.then_some(SysError::Restart(Restart::NoIntr))
}

fn disabled_stack() -> StackT {
    StackT { ss_flags: SS_DISABLE, ..StackT::default() }
}

/// A new identity; unless it gets a user, its numbers are free again when this goes.
struct Reserved<'a> {
    kernel: &'a Kernel,
    pid: Arc<Pid>,
}

impl<'a> Reserved<'a> {
    fn new(kernel: &'a Kernel, ns: &Arc<PidNs>) -> Result<Reserved<'a>, Errno> {
        let _tree = kernel.tree.lock();
        let pid = pid::allocate(&kernel.root_pid_ns, ns)?;
        Ok(Reserved { kernel, pid })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let _tree = self.kernel.tree.lock();
        pid::give_back(&self.kernel.root_pid_ns, &self.pid);
    }
}

fn child_process(task: &Arc<Task>, request: &CloneRequest, id: Arc<Pid>) -> Arc<Process> {
    let from = &task.process;
    let flags = request.flags;
    let exit_signal = if flags & CLONE_PARENT != 0 {
        from.exit_signal.load(Ordering::Relaxed)
    } else {
        request.exit_signal.cast_signed()
    };
    let handlers = if flags & CLONE_SIGHAND != 0 {
        from.handlers()
    } else if flags & CLONE_CLEAR_SIGHAND != 0 {
        from.handlers().reset()
    } else {
        from.handlers().copy()
    };
    let links = {
        let links = from.links.lock();
        Links {
            // As it is entered into the tree.
            parent: Weak::new(),
            children: Vec::new(),
            pgrp: links.pgrp.clone(),
            session: links.session.clone(),
            tty: links.tty.clone(),
            zombie: None,
            stop_event: None,
            continue_event: false,
            final_times: (0, 0),
        }
    };
    let process = Process {
        kernel: Arc::downgrade(&task.kernel),
        id,
        from_outside: false,
        container: from.container.clone(),
        cgroup: RwLock::new(from.cgroup()),
        exit_signal: AtomicI32::new(exit_signal),
        links: Mutex::new(links),
        threads: Mutex::default(),
        handlers: RwLock::new(handlers),
        signals: Mutex::new(SharedSignals::default()),
        rlimits: Mutex::new(*from.rlimits.lock()),
        child_events: WaitQueue::new(),
        exit_events: WaitQueue::new(),
        exe: Mutex::new(from.exe()),
        text: Mutex::new(from.text.lock().clone()),
        timers: Default::default(),
        usage: Mutex::new(Usage::default()),
        started_ns: time::monotonic(),
        dumpable: AtomicI32::new(from.dumpable.load(Ordering::Relaxed)),
        child_subreaper: AtomicBool::new(false),
        oom_score_adj: AtomicI32::new(from.oom_score_adj.load(Ordering::Relaxed)),
        personality: AtomicU64::new(from.personality.load(Ordering::Relaxed)),
        loginuid: AtomicU32::new(from.loginuid.load(Ordering::Relaxed)),
        sessionid: AtomicU32::new(from.sessionid.load(Ordering::Relaxed)),
        epitaph: Mutex::default(),
        group_signals: Default::default(),
        has_execed: AtomicBool::new(false),
    };
    Arc::new(process)
}

impl Task {
    #[allow(clippy::too_many_arguments, reason = "a constructor of independent parts")]
    fn build(
        kernel: &Arc<Kernel>,
        id: Arc<Pid>,
        namespaces: Arc<NsProxy>,
        process: Arc<Process>,
        platform: Arc<dyn PlatformTask>,
        mm: Arc<Mm>,
        files: Arc<FdTable>,
        fs: Arc<FsState>,
        creds: Arc<Creds>,
    ) -> Arc<Task> {
        Arc::new_cyclic(|me| Task {
            kernel: kernel.clone(),
            kid: AtomicI32::new(id.kid()),
            tid: AtomicI32::new(id.nr()),
            id: RwLock::new(id),
            namespaces: RwLock::new(namespaces),
            process,
            me: me.clone(),
            platform: RwLock::new(platform),
            mm: RwLock::new(mm),
            files: RwLock::new(files),
            fs: RwLock::new(fs),
            creds: RwLock::new(creds),
            seccomp: Default::default(),
            signals: Mutex::new(TaskSignals { altstack: disabled_stack(), ..TaskSignals::default() }),
            run: Mutex::new(Run::default()),
            work: AtomicU32::new(0),
            queued: AtomicBool::new(false),
            hop: AtomicU8::new(crate::lane::NOWHERE),
            in_lane: AtomicBool::new(false),
            name: Mutex::default(),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            parent_death_signal: AtomicU32::new(0),
            vfork: Default::default(),
            started_ns: time::monotonic(),
            counters: Default::default(),
            last_times: OnceLock::new(),
            nice: AtomicI32::new(0),
            policy: AtomicU32::new(SCHED_OTHER),
            last_fault: Mutex::default(),
            in_syscall: AtomicU64::new(u64::MAX),
        })
    }
}

/// What a process starts with whose parent is outside: a container's first one, or a further one in it.
pub struct InitRequest {
    /// It lives in `pid_for_children`, and is the init of that namespace if it is the first there.
    pub namespaces: NsProxy,
    pub container: Arc<crate::Container>,
    pub fs: Arc<FsState>,
    pub files: Arc<FdTable>,
    pub creds: Creds,
    pub rlimits: [Rlimit; RLIM_NLIMITS as usize],
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    /// The controlling terminal, if its standard input is one.
    pub tty: Option<Arc<crate::tty::Tty>>,
}

/// Makes such a process: loads its program and enters it into the tree, stopped before its first instruction. ENOMEM if
/// the init of its PID namespace has ended. [`crate::ProcessHandle`] tells its end.
pub async fn make_init(kernel: &Arc<Kernel>, request: InitRequest) -> Result<Arc<Task>, Errno> {
    let id = Reserved::new(kernel, &request.namespaces.pid_for_children)?;
    let process = Arc::new(Process {
        kernel: Arc::downgrade(kernel),
        id: id.pid.clone(),
        from_outside: true,
        container: request.container.clone(),
        cgroup: RwLock::new(request.container.cgroup.clone()),
        exit_signal: AtomicI32::new(0),
        links: Mutex::new(Links {
            parent: Weak::new(),
            children: Vec::new(),
            pgrp: id.pid.clone(),
            session: id.pid.clone(),
            tty: None,
            zombie: None,
            stop_event: None,
            continue_event: false,
            final_times: (0, 0),
        }),
        threads: Mutex::default(),
        handlers: RwLock::new(SigHand::new()),
        signals: Mutex::default(),
        rlimits: Mutex::new(request.rlimits),
        child_events: WaitQueue::new(),
        exit_events: WaitQueue::new(),
        exe: Mutex::default(),
        text: Mutex::default(),
        timers: Default::default(),
        usage: Mutex::new(Usage::default()),
        started_ns: time::monotonic(),
        dumpable: AtomicI32::new(1),
        child_subreaper: AtomicBool::new(false),
        oom_score_adj: AtomicI32::new(0),
        personality: AtomicU64::new(0),
        loginuid: AtomicU32::new(u32::MAX),
        sessionid: AtomicU32::new(u32::MAX),
        epitaph: Mutex::default(),
        group_signals: Default::default(),
        has_execed: AtomicBool::new(true),
    });
    let (loaded, creds) = crate::exec::load_first(kernel, &process, &request).await?;
    let creds = Arc::new(creds);
    let task = Task::build(
        kernel,
        id.pid.clone(),
        Arc::new(request.namespaces),
        process.clone(),
        loaded.task.clone(),
        loaded.mm.clone(),
        request.files,
        request.fs,
        creds,
    );
    task.set_name(&loaded.name);
    process.set_exe(loaded.exe.clone());
    process.set_text(Some(Arc::new(loaded.text)));
    task.platform().set_owner(task.clone());
    let mut tree = kernel.tree.lock();
    if process.pid_ns().is_closed() {
        drop(tree);
        task.platform().kill_process();
        return Err(Errno::ENOMEM);
    }
    process.threads.lock().push(task.clone());
    tree.insert_process(process.clone());
    tree.insert_task(task.clone());
    drop(tree);
    if process.is_frozen() {
        task.add_work(crate::run::WORK_FREEZE);
    }
    if let Some(tty) = request.tty {
        crate::tty::adopt(&tty, &process);
    }
    Ok(task)
}

/// Lets init run.
pub fn start_init(task: &Arc<Task>) {
    task.start();
    crate::run::drain();
}
