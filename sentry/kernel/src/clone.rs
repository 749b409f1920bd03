//! New tasks: clone, fork, vfork, and the first process (kernel/fork.c).

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
use chitin_vfs::{Creds, WaitQueue};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
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

/// Namespaces other than the mount namespace.
const CLONE_NEW: u64 =
    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

fn check(task: &Task, request: &CloneRequest) -> Result<(), Errno> {
    let flags = request.flags;
    let has = |flag| flags & flag != 0;
    if (has(CLONE_NEWNS) && has(CLONE_FS))
        || (has(CLONE_THREAD) && !has(CLONE_SIGHAND))
        || (has(CLONE_SIGHAND) && !has(CLONE_VM))
        || (has(CLONE_PIDFD) && has(CLONE_PARENT_SETTID) && request.pidfd == request.parent_tid)
        || request.exit_signal > 64
    {
        return Err(Errno::EINVAL);
    }
    if flags & (CLONE_NEW | CLONE_NEWNS | CLONE_NEWTIME) != 0 {
        let privileged = task.creds().capable(CAP_SYS_ADMIN);
        if !privileged && flags & CLONE_NEWUSER == 0 {
            return Err(Errno::EPERM);
        }
        // As a kernel built without these name spaces.
        if flags & (CLONE_NEW | CLONE_NEWTIME) != 0 {
            return Err(Errno::EINVAL);
        }
    }
    if has(CLONE_PARENT) && task.process.pid == 1 {
        return Err(Errno::EINVAL);
    }
    Ok(())
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
        if too_many_tasks(&task) {
            return Err(Errno::EAGAIN.into());
        }
        let group_signals = task.process.group_signals.load(Ordering::Relaxed);
        let kind = if flags & CLONE_THREAD != 0 {
            Spawn::Thread
        } else if flags & CLONE_VM != 0 {
            Spawn::SharedProcess
        } else {
            Spawn::Fork
        };
        let platform = task.platform();
        let spawned = platform.spawn(kind).await.map_err(|error| {
            tracing::debug!(%error, "spawn failed");
            SysError::Errno(Errno::EAGAIN)
        })?;
        let mm = if flags & CLONE_VM != 0 { task.mm() } else { task.mm().forked(spawned.space) };
        if flags & CLONE_VM == 0 {
            task.kernel.ipc.forked(&task.mm(), &mm);
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
                    task.kernel.ipc.left(&task.kernel, &memory, 0);
                }
                return Err(error);
            }
        };
        let tid = child.tid();
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
    let tid = kernel.tree.lock().allocate().ok_or(SysError::Errno(Errno::EAGAIN))?;
    let process =
        if flags & CLONE_THREAD != 0 { task.process.clone() } else { child_process(task, request, tid) };
    let fs = match (flags & CLONE_FS != 0, flags & CLONE_NEWNS != 0) {
        (true, _) => task.fs(),
        (false, false) => task.fs().copy(),
        (false, true) => task.fs().with_new_namespace(),
    };
    let (mask, altstack) = {
        let signals = task.signals.lock();
        let keeps_stack = flags & CLONE_VM == 0 || flags & CLONE_VFORK != 0;
        (signals.mask, if keeps_stack { signals.altstack } else { disabled_stack() })
    };
    let child = Task::build(&kernel, tid, process.clone(), platform, mm, files, fs, task.creds());
    {
        let mut signals = child.signals.lock();
        signals.mask = mask;
        signals.altstack = altstack;
    }
    child.set_name(&task.name());
    child.nice.store(task.nice.load(Ordering::Relaxed), Ordering::Relaxed);
    if flags & CLONE_CHILD_CLEARTID != 0 {
        child.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
    }
    if flags & CLONE_CHILD_SETTID != 0 {
        // As in Linux, a bad address is the child's problem.
        let _ = child.mm().write(request.child_tid, &tid);
    }
    if flags & CLONE_PARENT_SETTID != 0 {
        let _ = task.mm().write(request.parent_tid, &tid);
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
    if let Some(error) = overtaken(task, flags, group_signals) {
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
        if let Some(parent) = process.links.lock().parent.upgrade() {
            parent.links.lock().children.push(process.clone());
        }
        tree.insert_process(process.clone());
    }
    tree.insert_task(tid, child.clone());
    drop(tree);
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
fn overtaken(task: &Task, flags: u64, group_signals: u64) -> Option<SysError> {
    if task.work.load(Ordering::Acquire) & crate::run::WORK_EXIT != 0 {
        return Some(SysError::Errno(Errno::EINTR));
    }
    let met = task.process.group_signals.load(Ordering::Relaxed) != group_signals;
    (met && flags & CLONE_THREAD == 0).then_some(SysError::Restart(Restart::NoIntr))
}

fn disabled_stack() -> StackT {
    StackT { ss_flags: SS_DISABLE, ..StackT::default() }
}

fn child_process(task: &Arc<Task>, request: &CloneRequest, pid: i32) -> Arc<Process> {
    let from = &task.process;
    let flags = request.flags;
    let parent = if flags & CLONE_PARENT != 0 { from.parent() } else { Some(from.clone()) };
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
            parent: parent.as_ref().map_or_else(Weak::new, Arc::downgrade),
            children: Vec::new(),
            pgid: links.pgid,
            sid: links.sid,
            tty: links.tty.clone(),
            zombie: None,
            stop_event: None,
            continue_event: false,
            final_times: (0, 0),
        }
    };
    let process = Process {
        kernel: Arc::downgrade(&task.kernel),
        pid,
        container: from.container.clone(),
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
        group_signals: AtomicU64::new(0),
        has_execed: AtomicBool::new(false),
    };
    Arc::new(process)
}

impl Task {
    #[allow(clippy::too_many_arguments, reason = "a constructor of independent parts")]
    fn build(
        kernel: &Arc<Kernel>,
        tid: i32,
        process: Arc<Process>,
        platform: Arc<dyn PlatformTask>,
        mm: Arc<Mm>,
        files: Arc<FdTable>,
        fs: Arc<FsState>,
        creds: Arc<Creds>,
    ) -> Arc<Task> {
        Arc::new_cyclic(|me| Task {
            kernel: kernel.clone(),
            tid: AtomicI32::new(tid),
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
            name: Mutex::default(),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            parent_death_signal: AtomicU32::new(0),
            vfork: Default::default(),
            started_ns: time::monotonic(),
            counters: Default::default(),
            last_times: OnceLock::new(),
            nice: AtomicI32::new(0),
            last_fault: Mutex::default(),
            in_syscall: AtomicU64::new(u64::MAX),
        })
    }
}

/// What the first process starts with.
pub struct InitRequest {
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

/// Makes init: loads its program and enters it into the tree, stopped before its first instruction.
pub async fn make_init(kernel: &Arc<Kernel>, request: InitRequest) -> Result<Arc<Task>, Errno> {
    let pid = kernel.tree.lock().allocate().ok_or(Errno::EAGAIN)?;
    let process = Arc::new(Process {
        kernel: Arc::downgrade(kernel),
        pid,
        container: request.container.clone(),
        exit_signal: AtomicI32::new(0),
        links: Mutex::new(Links {
            parent: Weak::new(),
            children: Vec::new(),
            pgid: pid,
            sid: pid,
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
        group_signals: AtomicU64::new(0),
        has_execed: AtomicBool::new(true),
    });
    let (loaded, creds) = crate::exec::load_first(kernel, &process, &request).await?;
    let creds = Arc::new(creds);
    let task = Task::build(
        kernel,
        pid,
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
    process.threads.lock().push(task.clone());
    tree.insert_process(process.clone());
    tree.insert_task(pid, task.clone());
    drop(tree);
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
