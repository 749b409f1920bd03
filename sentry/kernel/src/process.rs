//! A process: a thread group and what its threads share.

use crate::cgroup::Cgroup;
use crate::loader::DenyWrite;
use crate::pid::{Pid, PidNs};
use crate::result::ExitStatus;
use crate::signal::{GroupSignals, SharedSignals, SigHand};
use crate::time::ProcessTimers;
use crate::tty::Tty;
use crate::{Container, Kernel, Task};
use chitin_abi::resource::{RLIM_NLIMITS, Rlimit, Rusage};
use chitin_vfs::{Path, WaitQueue};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};
use std::sync::{Arc, Weak};

/// A thread group.
pub struct Process {
    pub kernel: Weak<Kernel>,
    /// Its identity: the number in its own PID namespace and those above.
    pub id: Arc<Pid>,
    /// Made by the runtime: it has no parent, and stays a zombie until [`Kernel::forget`].
    pub(crate) from_outside: bool,
    /// The container it belongs to, from its parent.
    pub container: Arc<Container>,
    /// Changed with `Kernel::tree` locked.
    pub(crate) cgroup: RwLock<Arc<Cgroup>>,
    /// The signal its parent gets at its end (0: none).
    pub exit_signal: AtomicI32,
    /// Relations to other processes; written only with `Kernel::tree` locked.
    pub(crate) links: Mutex<Links>,
    /// Living threads, the leader first while it lives.
    pub(crate) threads: Mutex<Vec<Arc<Task>>>,
    pub(crate) handlers: RwLock<Arc<SigHand>>,
    pub(crate) signals: Mutex<SharedSignals>,
    pub(crate) rlimits: Mutex<[Rlimit; RLIM_NLIMITS as usize]>,
    /// wait4 in this process sleeps here; woken when a child changes state.
    pub(crate) child_events: WaitQueue,
    /// pidfd polls and the like: woken at this process's end.
    pub exit_events: WaitQueue,
    /// The program, as /proc/PID/exe shows it.
    pub(crate) exe: Mutex<Option<Path>>,
    /// Keeps the program from being written to while it runs (ETXTBSY); shared by forked children.
    pub(crate) text: Mutex<Option<Arc<DenyWrite>>>,
    pub timers: ProcessTimers,
    /// Times of waited-for children, and of this process's dead threads.
    pub(crate) usage: Mutex<Usage>,
    pub started_ns: u64,
    pub(crate) dumpable: AtomicI32,
    pub(crate) child_subreaper: AtomicBool,
    pub oom_score_adj: AtomicI32,
    /// Who logged in, and in which session (audit's /proc/PID/loginuid); u32::MAX: not set.
    pub loginuid: AtomicU32,
    pub sessionid: AtomicU32,
    pub personality: AtomicU64,
    /// Signals to many processes that this one was among.
    pub(crate) group_signals: GroupSignals,
    /// Name and credentials of the leader (or the last thread) as it ended, for /proc.
    pub(crate) epitaph: Mutex<Option<crate::inspect::Epitaph>>,
    /// Whether it has executed a program since its fork (setpgid's rule).
    pub(crate) has_execed: AtomicBool,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) children: Rusage,
    pub(crate) dead_threads_user_ns: u64,
    pub(crate) dead_threads_system_ns: u64,
    pub(crate) dead_threads_switches: u64,
}

/// Family, group, session, end.
pub(crate) struct Links {
    /// Gone: the parent was the outside world (init's).
    pub(crate) parent: Weak<Process>,
    pub(crate) children: Vec<Arc<Process>>,
    pub(crate) pgrp: Arc<Pid>,
    pub(crate) session: Arc<Pid>,
    pub(crate) tty: Option<Arc<Tty>>,
    /// Set when the last thread is gone; the process is a zombie until waited for.
    pub(crate) zombie: Option<ExitStatus>,
    /// Stop and continue events not yet fetched by wait4.
    pub(crate) stop_event: Option<u32>,
    pub(crate) continue_event: bool,
    /// CPU time at the end.
    pub(crate) final_times: (u64, u64),
}

impl Process {
    pub fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.upgrade()
    }
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.threads.lock().clone()
    }
    /// The leader, or any living thread.
    pub fn leader(&self) -> Option<Arc<Task>> {
        let threads = self.threads.lock();
        threads.iter().find(|task| task.is_leader()).or_else(|| threads.first()).cloned()
    }
    /// The kernel id: unique in the sandbox, never shown to guests.
    pub fn kid(&self) -> i32 {
        self.id.kid()
    }
    /// The number in its own namespace (getpid(2)).
    pub fn pid(&self) -> i32 {
        self.id.nr()
    }
    pub fn pid_ns(&self) -> &Arc<PidNs> {
        self.id.ns()
    }
    /// The number as seen from `ns`; 0 if it is not visible there.
    pub fn pid_in(&self, ns: &PidNs) -> i32 {
        self.id.nr_in(ns)
    }
    /// Whether it is the init of its namespace.
    pub fn is_ns_init(&self) -> bool {
        self.pid_ns().is_init(self.kid())
    }
    /// Its user, by kernel id; also after its end.
    pub fn user(&self) -> u32 {
        let dead = || self.epitaph().map_or(0, |epitaph| epitaph.creds.uid);
        self.leader().map_or_else(dead, |leader| leader.creds().uid)
    }
    /// A user's number where its own user is at home.
    pub fn shows_uid(&self, kuid: u32) -> u32 {
        self.leader().map_or(kuid, |leader| leader.creds().user_ns.show_uid(kuid))
    }
    /// Its group.
    pub fn pgrp(&self) -> Arc<Pid> {
        self.links.lock().pgrp.clone()
    }
    /// Its session.
    pub fn session(&self) -> Arc<Pid> {
        self.links.lock().session.clone()
    }
    /// The kernel id of its group.
    pub fn pgid(&self) -> i32 {
        self.links.lock().pgrp.kid()
    }
    /// The kernel id of its session.
    pub fn sid(&self) -> i32 {
        self.links.lock().session.kid()
    }
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.links.lock().parent.upgrade()
    }
    /// The parent's number as seen from `ns`; 0 for one outside, and for none.
    pub fn ppid_in(&self, ns: &PidNs) -> i32 {
        self.parent().map_or(0, |parent| parent.pid_in(ns))
    }
    /// The same from its own namespace (getppid(2)).
    pub fn ppid(&self) -> i32 {
        self.ppid_in(self.pid_ns())
    }
    pub fn children(&self) -> Vec<Arc<Process>> {
        self.links.lock().children.clone()
    }
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.links.lock().zombie
    }
    pub fn is_zombie(&self) -> bool {
        self.exit_status().is_some()
    }
    pub fn tty(&self) -> Option<Arc<Tty>> {
        self.links.lock().tty.clone()
    }
    pub fn handlers(&self) -> Arc<SigHand> {
        self.handlers.read().clone()
    }
    pub fn exe(&self) -> Option<Path> {
        self.exe.lock().clone()
    }
    pub(crate) fn set_exe(&self, exe: Option<Path>) {
        let old = std::mem::replace(&mut *self.exe.lock(), exe);
        drop(old);
    }
    pub(crate) fn set_text(&self, text: Option<Arc<DenyWrite>>) {
        let old = std::mem::replace(&mut *self.text.lock(), text);
        drop(old);
    }
    /// A resource limit: RLIMIT_*.
    pub fn rlimit(&self, which: u32) -> Rlimit {
        self.rlimits.lock().get(which as usize).copied().unwrap_or(Rlimit {
            rlim_cur: chitin_abi::resource::RLIM_INFINITY,
            rlim_max: chitin_abi::resource::RLIM_INFINITY,
        })
    }
    /// Changes a limit under the lock; `edit` sees the old value and answers the new one or an error.
    pub fn edit_rlimit<E>(
        &self,
        which: u32,
        edit: impl FnOnce(Rlimit) -> Result<Rlimit, E>,
    ) -> Result<Rlimit, E> {
        let mut limits = self.rlimits.lock();
        let fallback = Rlimit::default();
        let old = limits.get(which as usize).copied().unwrap_or(fallback);
        let new = edit(old)?;
        if let Some(slot) = limits.get_mut(which as usize) {
            *slot = new;
        }
        Ok(old)
    }
    pub fn nofile(&self) -> u64 {
        self.rlimit(chitin_abi::resource::RLIMIT_NOFILE).rlim_cur
    }
}
