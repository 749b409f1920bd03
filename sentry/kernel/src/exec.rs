//! execve(2): from a file to a running program (fs/exec.c).

mod creds;

use crate::clone::InitRequest;
use crate::loader::{self, LoadRequest, Loaded, Program};
use crate::result::Outcome;
use crate::run::{WORK_EXIT, WORK_STOP};
use crate::time::ns::{Offsets, TimeNs};
use crate::{Kernel, Process, Task, exit, futex};
use chitin_abi::Errno;
use chitin_abi::resource::RLIMIT_STACK;
use chitin_abi::signal::{SS_DISABLE, StackT};
use chitin_platform::PlatformTask;
use chitin_vfs::{Creds, File};
use creds::{ExecCreds, after_exec};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a task wants to execute.
pub struct ExecRequest {
    /// Opened and checked for execution.
    pub file: Arc<File>,
    /// The path as the caller gave it (AT_EXECFN, scripts' arguments).
    pub path: Vec<u8>,
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    /// The path leads through a descriptor that will be closed: an interpreter could not open it.
    pub inaccessible: bool,
}

fn load_request(process: &Process, time: &TimeNs, creds: &Creds, secure: bool) -> LoadRequest {
    LoadRequest {
        stack_limit: process.rlimit(RLIMIT_STACK).rlim_cur,
        no_randomize: process.personality.load(Ordering::Relaxed) & 0x0040_0000 != 0,
        uid: creds.user_ns.show_uid(creds.uid),
        euid: creds.user_ns.show_uid(creds.euid),
        gid: creds.user_ns.show_gid(creds.gid),
        egid: creds.user_ns.show_gid(creds.egid),
        own_time: time.offsets() != Offsets::default(),
        secure,
    }
}

/// Loads init's program; the credentials are those it starts with.
pub(crate) async fn load_first(
    kernel: &Arc<Kernel>,
    process: &Arc<Process>,
    request: &InitRequest,
) -> Result<(Loaded, Creds), Errno> {
    let creds = Arc::new(request.creds.clone());
    let caller = chitin_vfs::Caller { tgid: process.kid(), tid: process.kid(), creds };
    let ctx = chitin_vfs::Context { place: request.fs.place(), caller };
    let path = request.args.first().cloned().ok_or(Errno::EINVAL)?;
    let path = loader::find_in_path(&ctx, &path, &request.env)?;
    let file = ctx.open_exec(&ctx.cwd, &path, chitin_vfs::walk::Walk::FOLLOW)?;
    let program = Program { file, path, args: request.args.clone(), env: request.env.clone() };
    // What the runtime set up is in force before the program is executed, as with runc.
    let program = loader::resolve(&ctx, program)?;
    let after = after_exec(&request.creds, &program.file)?;
    let options = load_request(process, &request.namespaces.time, &after.creds, after.secure);
    let loaded = loader::load(ctx, request.container.new_space(kernel), program, options).await?;
    Ok((loaded, after.creds))
}

/// execve(2) and execveat(2), for a task in its system call.
pub fn execve(task: &Arc<Task>, request: ExecRequest) -> Outcome {
    let task = task.clone();
    Outcome::block_outcome(async move {
        match replace(&task, request).await {
            Ok(()) => Outcome::Frame,
            Err(errno) => Outcome::error(errno),
        }
    })
}

async fn replace(task: &Arc<Task>, request: ExecRequest) -> Result<(), Errno> {
    let process = task.process.clone();
    let ctx = task.context();
    let (given, inaccessible) = (request.file.id(), request.inaccessible);
    let program = Program { file: request.file, path: request.path, args: request.args, env: request.env };
    // Credentials follow from the program that runs in the end: a script's own bits count for nothing.
    let program = loader::resolve(&ctx, program)?;
    if inaccessible && program.file.id() != given {
        return Err(Errno::ENOENT);
    }
    let ExecCreds { creds, secure, changed } = after_exec(&task.creds(), &program.file)?;
    let options = load_request(&process, &task.namespaces().time_for_children, &creds, secure);
    let loaded = loader::load(ctx, process.container.new_space(&task.kernel), program, options).await?;
    if Arc::strong_count(&task.files()) > 2 {
        // Shared: there must be room for one of its own.
        drop(task.files().copy()?);
    }
    // The point of no return.
    if !end_other_threads(task).await {
        loaded.task.kill_process();
        return Err(Errno::EAGAIN);
    }
    futex::exit_robust_list(task);
    futex::mm_release(task);
    take_leadership(task);
    task.enter_time_ns();
    loaded.task.set_owner(task.clone());
    // First: who sees the new command line in /proc must find that setpgid(2) is over, too.
    process.has_execed.store(true, Ordering::Release);
    let left = task.mm();
    let old = task.replace_memory(loaded.mm, loaded.task);
    task.vfork_done();
    {
        // The new host process counts from 0.
        let times = old.cpu_times();
        let mut usage = process.usage.lock();
        usage.dead_threads_user_ns = usage.dead_threads_user_ns.saturating_add(times.user_ns);
        usage.dead_threads_system_ns = usage.dead_threads_system_ns.saturating_add(times.system_ns);
    }
    keep_scheduling(task, &*old);
    old.kill_process();
    task.kernel.memory_left(&left, process.kid());
    let files = task.files();
    let files = if Arc::strong_count(&files) > 2 {
        let own = files.copy_in_any_case();
        task.set_files(own.clone());
        own
    } else {
        files
    };
    for file in files.take_where(|_, fd| fd.cloexec) {
        // As in Linux, errors of these closes have nobody to go to.
        let _ = files.close_file(file);
    }
    let reset = process.handlers().reset();
    *process.handlers.write() = reset;
    task.set_altstack(StackT { ss_flags: SS_DISABLE, ..StackT::default() });
    process.timers.exec();
    process.set_exe(loaded.exe);
    process.set_text(Some(Arc::new(loaded.text)));
    process.exit_signal.store(chitin_abi::signal::SIGCHLD.cast_signed(), Ordering::Relaxed);
    process.dumpable.store(i32::from(!changed), Ordering::Relaxed);
    if secure || changed {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    task.set_name(&loaded.name);
    task.set_creds(creds);
    Ok(())
}

/// What a program does not change: the CPUs and the nice value, which the new host process knows nothing of.
fn keep_scheduling(task: &Task, old: &dyn PlatformTask) {
    let new = task.platform();
    if let (Ok(had), Ok(has)) = (old.affinity(None), new.affinity(None))
        && had != has
    {
        let _gone = new.affinity(Some(&had));
    }
    let nice = task.nice.load(Ordering::Relaxed);
    if nice != 0 {
        // As in setpriority(2): what the host does not grant stays the guest's number.
        let _ = new.set_nice(nice);
    }
}

/// Ends all other threads of the process. `false`: the process is ending as a whole.
async fn end_other_threads(task: &Arc<Task>) -> bool {
    let process = task.process.clone();
    let first = {
        let mut shared = process.signals.lock();
        if shared.group_exit.is_some() {
            return false;
        }
        let first = shared.execing.is_none();
        if first {
            shared.execing = Some(task.kid());
            shared.stop = None;
        }
        first
    };
    if !first {
        // Another thread's execve ends this one; it must not get back to its program before that.
        let _ = task.killable(std::future::pending::<()>()).await;
        return false;
    }
    task.work.fetch_and(!WORK_STOP, Ordering::AcqRel);
    for other in process.threads() {
        if !Arc::ptr_eq(&other, task) {
            other.add_work(WORK_EXIT);
            exit::end_if_idle(&other);
        }
    }
    let gone = || (process.threads.lock().len() <= 1).then_some(());
    let ended = task.killable(process.exit_events.wait_until(gone)).await;
    let mut shared = process.signals.lock();
    shared.execing = None;
    ended.is_ok() && shared.group_exit.is_none()
}

/// A thread other than the leader that executes a program takes over the leader's id.
fn take_leadership(task: &Arc<Task>) {
    if task.is_leader() {
        return;
    }
    let mut tree = task.kernel.tree.lock();
    tree.remove_task(task);
    task.set_id(task.process.id.clone());
    tree.insert_task(task.clone());
    task.forget_answers();
}
