//! Ends: of a thread, of a thread group; zombies and orphans (kernel/exit.c).

use crate::pid::{Pid, PidNs};
use crate::result::{ExitStatus, Outcome};
use crate::run::{State, WORK_EXIT};
use crate::signal::send_to_process;
use crate::tree::Tree;
use crate::{FdTable, Kernel, Process, Task, futex};
use chitin_abi::signal::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// exit(2): ends the calling thread.
pub fn exit_thread(task: &Arc<Task>, code: u8) -> Outcome {
    let process = &task.process;
    let alone = process.threads.lock().len() <= 1;
    if alone {
        return exit_group(task, code);
    }
    finish(task, true, ExitStatus::Exited(code));
    Outcome::Gone
}

/// exit_group(2): ends the caller's whole process.
pub fn exit_group(task: &Arc<Task>, code: u8) -> Outcome {
    group_exit(&task.process, ExitStatus::Exited(code));
    finish_ended(task);
    Outcome::Gone
}

/// Ends the calling thread as if by a signal; `status` is the process's if this was its last thread.
pub(crate) fn kill_thread(task: &Arc<Task>, status: ExitStatus) {
    if task.process.threads.lock().len() <= 1 {
        group_exit(&task.process, status);
        finish_ended(task);
    } else {
        finish(task, true, status);
    }
}

/// Ends a process from anywhere. The first status wins.
pub fn group_exit(process: &Arc<Process>, status: ExitStatus) {
    {
        let mut shared = process.signals.lock();
        if shared.group_exit.is_some() {
            return;
        }
        shared.group_exit = Some(status);
    }
    let threads = process.threads();
    for task in &threads {
        task.work.fetch_or(WORK_EXIT, Ordering::AcqRel);
    }
    for task in &threads {
        // While its memory can still be reached.
        futex::exit_robust_list(task);
        futex::mm_release(task);
        task.last_times.get_or_init(|| task.platform().cpu_times());
    }
    if let Some(task) = threads.first() {
        task.platform().kill_process();
    }
    for task in &threads {
        end_if_idle(task);
    }
}

/// Ends a thread that nobody is working on; one that is being worked on ends itself on its way back.
pub(crate) fn end_if_idle(task: &Arc<Task>) {
    let call = {
        let mut run = task.run.lock();
        match std::mem::replace(&mut run.state, State::Handling) {
            State::Guest | State::Stopped | State::Frozen => None,
            State::Blocked(call) => Some(call),
            other => {
                if let State::Polling { .. } = other {
                    // Whoever polls sees the bit and comes back to it.
                    run.state = State::Polling { woken: true };
                } else {
                    run.state = other;
                }
                return;
            }
        }
    };
    drop(call);
    finish_ended(task);
}

/// The last steps of a thread whose end was decided; its caller works on it.
pub(crate) fn finish_ended(task: &Arc<Task>) {
    task.platform().set_aside();
    // In an execve by another thread only this thread's host side ends, together with the old host process.
    let whole = task.process.signals.lock().group_exit.is_some();
    let alone = !whole && task.process.signals.lock().execing.is_none();
    finish(task, alone, ExitStatus::Exited(0));
}

/// `status` is the process's, should this be its last thread and nothing else have decided.
fn finish(task: &Arc<Task>, end_host_thread: bool, status: ExitStatus) {
    {
        let mut run = task.run.lock();
        if matches!(run.state, State::Dead) {
            return;
        }
        run.state = State::Dead;
        run.back = None;
    }
    let process = task.process.clone();
    futex::exit_robust_list(task);
    futex::mm_release(task);
    task.vfork_done();
    let platform = task.platform();
    let times = *task.last_times.get_or_init(|| platform.cpu_times());
    {
        let mut usage = process.usage.lock();
        usage.dead_threads_user_ns = usage.dead_threads_user_ns.saturating_add(times.user_ns);
        usage.dead_threads_system_ns = usage.dead_threads_system_ns.saturating_add(times.system_ns);
        let switches = task.counters.voluntary_switches.swap(0, Ordering::Relaxed);
        usage.dead_threads_switches = usage.dead_threads_switches.saturating_add(switches);
    }
    if end_host_thread {
        platform.exit_thread();
    }
    task.set_files(FdTable::new());
    task.seccomp.release();
    process.write_epitaph(task);
    let last = {
        let mut tree = task.kernel.tree.lock();
        tree.remove_task(task);
        let mut threads = process.threads.lock();
        threads.retain(|known| !Arc::ptr_eq(known, task));
        threads.is_empty()
    };
    process.exit_events.wake(0);
    if !last {
        // The others may have stopped already and only this one was missing.
        crate::signal::tell_if_all_stopped(&process);
    }
    if last {
        process.signals.lock().group_exit.get_or_insert(status);
        platform.kill_process();
        task.kernel.memory_left(&task.mm(), process.kid());
        task.kernel.each_ipc(|ipc| ipc.process_ended(process.kid()));
        end_process(&task.kernel, &process);
    }
}

/// The host ended a thread that we had not ended: the whole process is lost.
pub(crate) fn host_death(task: &Arc<Task>, signal: i32) {
    let signal = u32::try_from(signal).ok().filter(|signal| (1..=64).contains(signal)).unwrap_or(SIGKILL);
    tracing::warn!(pid = task.kid(), signal, "the host ended a guest process");
    if signal == SIGKILL {
        task.process.container.oom_kills.fetch_add(1, Ordering::Relaxed);
    }
    group_exit(&task.process, ExitStatus::Signaled { signal, core: false });
}

/// The last thread is gone. Of a PID namespace's init, the end is only told once nothing lives in it.
fn end_process(kernel: &Arc<Kernel>, process: &Arc<Process>) {
    process.timers.clear();
    process.set_exe(None);
    process.set_text(None);
    if process.sid() == process.kid() {
        crate::tty::session_leader_exits(kernel, process);
    }
    let init = process.is_ns_init();
    let orphaned = {
        let tree = kernel.tree.lock();
        if init {
            process.pid_ns().close();
        }
        let heir = heir_of(process);
        let children = std::mem::take(&mut process.links.lock().children);
        for child in &children {
            child.links.lock().parent = heir.as_ref().map_or_else(std::sync::Weak::new, Arc::downgrade);
        }
        if let Some(heir) = &heir {
            heir.links.lock().children.extend(children.iter().cloned());
        }
        drop(tree);
        children
    };
    for child in orphaned {
        child.threads().iter().for_each(|task| task.forget_answers());
        after_reparent(kernel, &child);
    }
    if init {
        let ns = process.pid_ns();
        let others = |other: &Process| other.kid() != process.kid() && other.pid_in(ns) != 0;
        kernel.kill_where(others, ExitStatus::Signaled { signal: SIGKILL, core: false });
        let tree = kernel.tree.lock();
        if lives(&tree, ns, process.kid()) {
            // The last of them goes on with this one's end.
            ns.set_dying(process.clone());
            return;
        }
    }
    become_zombie(kernel, process);
}

/// Whether a namespace has a living process other than its init.
fn lives(tree: &Tree, ns: &PidNs, init: i32) -> bool {
    let living = |pid: &Arc<Pid>| tree.process(pid.kid()).is_some_and(|process| !process.is_zombie());
    ns.all().iter().any(|pid| pid.kid() != init && living(pid))
}

fn become_zombie(kernel: &Arc<Kernel>, process: &Arc<Process>) {
    let status = process.group_exit().unwrap_or(ExitStatus::Exited(0));
    let (user, system) = process.cpu_ns();
    crate::cgroup::account(process, (user, system));
    let (parent, waiting) = {
        let mut tree = kernel.tree.lock();
        let parent = {
            let mut links = process.links.lock();
            links.zombie = Some(status);
            links.final_times = (user, system);
            links.tty = None;
            links.parent.upgrade()
        };
        if parent.is_none() && !process.from_outside {
            // Nobody is left to reap it.
            tree.remove_process(process);
        }
        // An init that waited for this one, the innermost first.
        let last_of =
            |ns: &&Arc<PidNs>| ns.is_dying() && ns.init().is_some_and(|init| !lives(&tree, ns, init.kid()));
        let waiting: Vec<_> =
            process.id.namespaces().filter(last_of).filter_map(|ns| ns.take_dying()).collect();
        (parent, waiting)
    };
    process.exit_events.wake(0);
    if process.is_ns_init() {
        process.pid_ns().ended(status);
    }
    if let Some(parent) = parent {
        tell_parent(kernel, process, &parent, status);
    }
    for init in waiting.iter().rev() {
        become_zombie(kernel, init);
    }
}

fn tell_parent(kernel: &Arc<Kernel>, process: &Arc<Process>, parent: &Arc<Process>, status: ExitStatus) {
    let handler = parent.handlers().get(SIGCHLD);
    let signal = u32::try_from(process.exit_signal.load(Ordering::Relaxed)).unwrap_or(0);
    let unwanted =
        signal == SIGCHLD && (handler.sa_handler == SIG_IGN || handler.sa_flags & SA_NOCLDWAIT != 0);
    if signal != 0 {
        let uid = parent.shows_uid(process.user());
        let (code, value) = match status {
            ExitStatus::Exited(code) => (CLD_EXITED, i32::from(code)),
            ExitStatus::Signaled { signal, core } => {
                (if core { CLD_DUMPED } else { CLD_KILLED }, signal.cast_signed())
            }
        };
        let (user, system) = process.cpu_ticks();
        let pid = process.pid_in(parent.pid_ns());
        let mut info = SigInfo::child(code, pid, uid, value, user, system);
        info.set_signo(signal);
        send_to_process(parent, info);
    }
    if unwanted {
        crate::wait::reap(kernel, parent, process);
    }
    parent.child_events.wake(0);
}

/// Who inherits a dying process's children: the nearest living subreaper above in its PID namespace, else its init.
fn heir_of(process: &Arc<Process>) -> Option<Arc<Process>> {
    let ns = process.pid_ns();
    let alive = |process: &Arc<Process>| !process.is_zombie() && process.group_exit().is_none();
    let mut above = process.parent().filter(|parent| Arc::ptr_eq(parent.pid_ns(), ns));
    while let Some(candidate) = above {
        if candidate.child_subreaper.load(Ordering::Relaxed) && alive(&candidate) {
            return Some(candidate);
        }
        above = candidate.parent().filter(|parent| Arc::ptr_eq(parent.pid_ns(), ns));
    }
    ns.init().filter(|init| init.kid() != process.kid() && !ns.is_closed())
}

/// A child got a new parent: its death signal, a stopped group that became an orphan, a zombie for the new parent.
fn after_reparent(kernel: &Arc<crate::Kernel>, child: &Arc<Process>) {
    for task in child.threads() {
        let signal = task.parent_death_signal.load(Ordering::Relaxed);
        if signal != 0 {
            crate::signal::send_to_task(&task, SigInfo::kill(signal, SI_USER, 0, 0));
        }
    }
    if child.stopped_by().is_some() && kernel.is_orphaned_group(child) {
        crate::signal::send_to_group(kernel, child.pgid(), SigInfo::kernel(SIGHUP));
        crate::signal::send_to_group(kernel, child.pgid(), SigInfo::kernel(SIGCONT));
    }
    if child.is_zombie()
        && let Some(parent) = child.parent()
    {
        let handler = parent.handlers().get(SIGCHLD);
        send_to_process(&parent, SigInfo::kernel(SIGCHLD));
        if handler.sa_handler == SIG_IGN || handler.sa_flags & SA_NOCLDWAIT != 0 {
            crate::wait::reap(kernel, &parent, child);
        }
        parent.child_events.wake(0);
    } else if child.is_zombie() {
        kernel.tree.lock().remove_process(child);
    }
}

impl Task {
    /// The memory borrowed by vfork is given back.
    pub(crate) fn vfork_done(&self) {
        if !self.vfork.done.swap(true, Ordering::AcqRel) {
            self.vfork.queue.wake(0);
        }
    }
}

impl Process {
    /// User and system CPU time so far, in nanoseconds, dead threads included.
    pub fn cpu_ns(&self) -> (u64, u64) {
        if self.is_zombie() {
            return self.links.lock().final_times;
        }
        let usage = *self.usage.lock();
        let (mut user, mut system) = (usage.dead_threads_user_ns, usage.dead_threads_system_ns);
        for task in self.threads() {
            let times = task.platform().cpu_times();
            user = user.saturating_add(times.user_ns);
            system = system.saturating_add(times.system_ns);
        }
        (user, system)
    }

    /// The same in clock ticks of 1/100 s.
    pub fn cpu_ticks(&self) -> (i64, i64) {
        let (user, system) = self.cpu_ns();
        ((user / 10_000_000).cast_signed(), (system / 10_000_000).cast_signed())
    }
}
