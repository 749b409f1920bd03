//! SIGIO and SIGURG: signals about descriptors that become ready (O_ASYNC, F_SETOWN, F_SETSIG; fs/fcntl.c).
//!
//! A description that has an owner to tell listens at its object's wait queues. What it hears, with locks of that object held,
//! is only noted; the signals are sent by [`flush`] once nothing is locked, and before the call that caused the event is answered.
//!
//! Locks: `ELSEWHERE`, a leaf. [`flush`] runs with none held.

use crate::signal::{send_to_process, send_to_task};
use crate::{Kernel, Process, Task};
use chitin_abi::fcntl::{F_OWNER_PGRP, F_OWNER_TID, FASYNC};
use chitin_abi::poll::*;
use chitin_abi::siginfo::SigInfo;
use chitin_abi::signal::*;
use chitin_vfs::file::FileOwner;
use chitin_vfs::wait::Notify;
use chitin_vfs::{Creds, File, FileKind};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// What a description hears.
struct Ear {
    me: Weak<Ear>,
    kernel: Weak<Kernel>,
    file: Weak<File>,
    /// POLL* bits of what has happened since it was last looked at.
    events: AtomicU32,
    noted: AtomicBool,
}

thread_local! {
    /// What this thread has to look at before it goes on.
    static HERE: RefCell<Vec<Arc<Ear>>> = const { RefCell::new(Vec::new()) };
}
/// The same of threads that never do so.
static ELSEWHERE: Mutex<Vec<Arc<Ear>>> = Mutex::new(Vec::new());
static ANY_ELSEWHERE: AtomicBool = AtomicBool::new(false);

impl Notify for Ear {
    fn notify(&self, events: u32) {
        self.events.fetch_or(if events == 0 { !0 } else { events }, Ordering::AcqRel);
        if self.noted.swap(true, Ordering::AcqRel) {
            return;
        }
        let (Some(me), Some(kernel)) = (self.me.upgrade(), self.kernel.upgrade()) else { return };
        if crate::run::drains() {
            HERE.with_borrow_mut(|here| here.push(me));
        } else {
            ELSEWHERE.lock().push(me);
            ANY_ELSEWHERE.store(true, Ordering::Release);
            kernel.reactor.ring();
        }
    }
}

/// Sends what this thread has caused, and what threads have that do not come here.
pub(crate) fn flush() {
    // Looked at first: only who writes takes the line from other threads.
    if ANY_ELSEWHERE.load(Ordering::Relaxed) && ANY_ELSEWHERE.swap(false, Ordering::AcqRel) {
        let others = std::mem::take(&mut *ELSEWHERE.lock());
        others.iter().for_each(|ear| ear.tell());
    }
    while HERE.with_borrow(|here| !here.is_empty()) {
        let here = HERE.with_borrow_mut(std::mem::take);
        here.iter().for_each(|ear| ear.tell());
    }
}

/// To be called after O_ASYNC or the owner of a description has changed.
pub fn changed(kernel: &Arc<Kernel>, file: &Arc<File>) {
    let owned = file.owner.lock().id != 0;
    // SIGURG needs no more than an owner.
    let listens = owned
        && file.ops().signals()
        && (file.flags() & FASYNC != 0 || file.inode().kind() == FileKind::Socket);
    let ear = listens.then(|| {
        Arc::new_cyclic(|me| Ear {
            me: me.clone(),
            kernel: Arc::downgrade(kernel),
            file: Arc::downgrade(file),
            events: AtomicU32::new(0),
            noted: AtomicBool::new(false),
        })
    });
    file.listen(ear.map(|ear| ear as Arc<dyn Notify>));
}

impl Ear {
    fn tell(&self) {
        self.noted.store(false, Ordering::Release);
        let events = self.events.swap(0, Ordering::AcqRel);
        let (Some(kernel), Some(file)) = (self.kernel.upgrade(), self.file.upgrade()) else { return };
        let owner = *file.owner.lock();
        let shown = file.ops().poll(None) & (events | POLLERR | POLLHUP);
        let socket = file.inode().kind() == FileKind::Socket;
        if socket && shown & POLLPRI != 0 {
            send(&kernel, &owner, SigInfo::kernel(SIGURG));
            if file.flags() & FASYNC != 0 && owner.signal != 0 {
                send(&kernel, &owner, about(&owner, POLL_PRI));
            }
        }
        if file.flags() & FASYNC == 0 {
            return;
        }
        let reason = match () {
            () if socket && shown & POLLERR != 0 => POLL_ERR,
            () if socket && shown & POLLHUP != 0 => POLL_HUP,
            () if shown & (POLLIN | POLLHUP) != 0 => POLL_IN,
            () if shown & (POLLOUT | POLLERR) != 0 => POLL_OUT,
            () => return,
        };
        send(&kernel, &owner, about(&owner, reason));
    }
}

/// send_sigio_to_task(): a signal that was chosen says what happened; SIGIO by default only that something did.
fn about(owner: &FileOwner, reason: i32) -> SigInfo {
    let signal = match u32::try_from(owner.signal) {
        Ok(signal) if signal > 0 => signal,
        _ => return SigInfo::kernel(SIGIO),
    };
    let band = match reason {
        POLL_IN => POLLIN | POLLRDNORM,
        POLL_OUT => POLLOUT | POLLWRNORM | POLLWRBAND,
        POLL_PRI => POLLPRI | POLLRDBAND,
        POLL_HUP => POLLHUP | POLLERR,
        _ => POLLERR,
    };
    // Codes mean something else there.
    let own_codes = matches!(signal, SIGILL | SIGFPE | SIGSEGV | SIGBUS | SIGTRAP | SIGCHLD | SIGSYS);
    SigInfo::poll(signal, if own_codes { SI_SIGIO } else { reason }, band.into(), owner.fd)
}

/// To whom it may be sent of those the owner stands for.
fn send(kernel: &Arc<Kernel>, owner: &FileOwner, info: SigInfo) {
    match owner.kind {
        F_OWNER_TID => {
            if let Some(task) = kernel.task_by_kid(owner.id)
                && may(owner, &task.creds())
                && !send_to_task(&task, info)
            {
                send_to_task(&task, SigInfo::kernel(SIGIO));
            }
        }
        F_OWNER_PGRP => {
            for process in kernel.signal_targets(|process| process.pgid() == owner.id).iter() {
                send_to(owner, process, info);
            }
        }
        _ => {
            if let Some(process) = kernel.process_by_kid(owner.id) {
                send_to(owner, &process, info);
            }
        }
    }
}

fn send_to(owner: &FileOwner, process: &Arc<Process>, info: SigInfo) {
    let leader: Option<Arc<Task>> = process.threads().into_iter().next();
    // Where there is no room for one more, SIGIO says that some were lost.
    if leader.is_some_and(|task| may(owner, &task.creds())) && !send_to_process(process, info) {
        send_to_process(process, SigInfo::kernel(SIGIO));
    }
}

/// sigio_perm(): root and oneself.
fn may(owner: &FileOwner, target: &Creds) -> bool {
    owner.euid == 0 || [owner.euid, owner.uid].iter().any(|id| [target.suid, target.uid].contains(id))
}
