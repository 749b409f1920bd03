//! Deaths of stub processes.
//!
//! Neighbours: `process` and `space` (who used the pid), `zygote` (starts the thread).
//!
//! All stubs are children of the sentry in one process group of their own, so waiting for that group disturbs nobody else's
//! children. Order: mark every task dead under its lock, take the pid from the copies, only then reap, then recycle the
//! windows. The sentry must not ignore SIGCHLD (SIG_IGN or SA_NOCLDWAIT), which would free pids behind our back.

use crate::sandbox::Sandbox;
use crate::sys::{self, Death};
use crate::task::Phase;
use chitin_platform::{Event, EventKind, PlatformError};
use chitin_platform_host::reserve;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long deaths may wait for company: ends that the kernel wanted are known to it already, and each wake-up of this
/// thread would delay the guest that waits for the child.
const PAUSE: Duration = Duration::from_millis(1);

/// Handles deaths until no stub is left.
pub fn run(sb: &Arc<Sandbox>, pgid: i32) {
    let mut block = true;
    loop {
        match sys::wait_peek(pgid, block) {
            Ok(Some(d)) => {
                bury(sb, d);
                block = false;
            }
            Ok(None) => {
                std::thread::sleep(PAUSE);
                block = true;
            }
            Err(libc::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn bury(sb: &Arc<Sandbox>, d: Death) {
    let proc = sb.procs.lock().get(&d.pid).cloned();
    let Some(proc) = proc else {
        // A child that died before it said who it is.
        sys::wait_reap(d.pid);
        let lost: Vec<_> = {
            let all = sb.pending.lock();
            all.values().filter(|p| p.claimed(d.pid)).cloned().collect()
        };
        lost.iter().for_each(|p| p.complete(Err(PlatformError::Gone)));
        return;
    };
    let wanted = proc.set_dead();
    let given_up = (!wanted && d.signal == libc::SIGKILL).then(reserve::give_up);
    let tasks = proc.tasks();
    let mut exited = Vec::new();
    for t in &tasks {
        let st = t.st.lock();
        if st.phase == Phase::Dead {
            continue;
        }
        if let Some(owner) = t.bury(st) {
            if !wanted {
                exited.push(owner);
            }
        }
    }
    sb.fail_pending(d.pid);
    let shared = proc.space.mem.remove_reader(d.pid);
    sb.procs.lock().remove(&d.pid);
    sys::wait_reap(d.pid);
    if shared {
        tasks.iter().for_each(|t| t.release_window());
    } else {
        proc.space.release();
    }
    drop(given_up);
    let lost = sb.origins.lock().remove(&d.pid);
    if let Some(lost) = lost.filter(|_| !wanted && !sb.closing.load(Ordering::Relaxed)) {
        lost(d.signal);
    }
    for owner in exited {
        sb.push_event(Event { owner, kind: EventKind::Exited { signal: d.signal } });
    }
}
