//! Job control: stopping and continuing whole processes.

use super::send::drop_pending;
use super::send_to_process;
use crate::run::{State, WORK_STOP};
use crate::{Process, Task};
use chitin_abi::signal::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Starts to stop the process: its threads stop as they come by.
pub(super) fn begin(task: &Arc<Task>, signal: u32) {
    let process = &task.process;
    {
        let mut shared = process.signals.lock();
        if shared.group_exit.is_some() {
            return;
        }
        if shared.stop.is_none() {
            shared.stop = Some(signal);
            shared.stop_told = false;
        }
    }
    for thread in process.threads() {
        thread.work.fetch_or(WORK_STOP, Ordering::AcqRel);
        if !Arc::ptr_eq(&thread, task) {
            thread.kick();
        }
    }
}

/// A thread has just stopped: when it was the last one, the parent is told.
pub(crate) fn stopped(task: &Arc<Task>) {
    // SIGCONT may have come between the decision and the stop.
    if !still_stopped(task) {
        std::task::Wake::wake_by_ref(task);
        return;
    }
    tell_if_all_stopped(&task.process);
}

/// Tells the parent of a stop once no thread runs any more; also called when a thread of a stopping process has ended.
pub(crate) fn tell_if_all_stopped(process: &Arc<Process>) {
    let all =
        process.threads().iter().all(|task| matches!(task.run.lock().state, State::Stopped | State::Dead));
    if !all {
        return;
    }
    let signal = {
        let mut shared = process.signals.lock();
        let Some(signal) = shared.stop else { return };
        if shared.stop_told || shared.group_exit.is_some() {
            return;
        }
        shared.stop_told = true;
        signal
    };
    {
        let mut links = process.links.lock();
        links.stop_event = Some(signal);
        links.continue_event = false;
    }
    tell_parent(process, CLD_STOPPED, signal);
}

/// Whether the thread has to stay stopped.
pub(crate) fn still_stopped(task: &Task) -> bool {
    let shared = task.process.signals.lock();
    shared.stop.is_some() && shared.group_exit.is_none() && shared.execing.is_none()
}

/// SIGCONT was sent: goes on, whatever becomes of the signal itself.
pub(super) fn continue_process(process: &Arc<Process>) {
    drop_pending(process, SigSet::STOP);
    let was_told = {
        let mut shared = process.signals.lock();
        if shared.stop.take().is_none() {
            return;
        }
        std::mem::take(&mut shared.stop_told)
    };
    // Each thread takes its own mark off as it comes by: here it might be the mark of the next stop.
    for task in process.threads() {
        task.kick();
    }
    if was_told {
        {
            let mut links = process.links.lock();
            links.continue_event = true;
            links.stop_event = None;
        }
        tell_parent(process, CLD_CONTINUED, SIGCONT);
    }
}

/// SIGCHLD for a stop or continue (unless SA_NOCLDSTOP), and waking of wait4.
fn tell_parent(process: &Arc<Process>, code: i32, signal: u32) {
    let Some(parent) = process.parent() else { return };
    if parent.handlers().get(SIGCHLD).sa_flags & SA_NOCLDSTOP == 0 {
        let uid = parent.shows_uid(process.user());
        let (user, system) = process.cpu_ticks();
        send_to_process(
            &parent,
            SigInfo::child(code, process.pid_in(parent.pid_ns()), uid, signal.cast_signed(), user, system),
        );
    }
    parent.child_events.wake(0);
}
