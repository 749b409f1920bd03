//! What all parts of one running platform share: lines, arena, tables, and the dispatch of notifications.
//!
//! Neighbours: `task` handles a known thread's notifications, `spawn` those of new-born threads, `reaper` deaths.
//!
//! Locks: all here are leaves but none is held across a host call that can block. The table maps a host tid to the task
//! that owns it until the task is ended or its process found dead.

use crate::Process;
use crate::arena::Arena;
use crate::fast::{Fast, Temper};
use crate::frame::Layout;
use crate::line::Line;
use crate::seats::{Place, Standbys};
use crate::spawn::Pending;
use crate::stub::{DOORBELL, STUB_BASE, WIN_BASE, code};
use crate::sys::{self, Notif};
use crate::task::Task;
use chitin_platform::{Event, OnLost, PlatformError};
use chitin_platform_host::memory::Host;
use chitin_platform_host::table::TidTable;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// What the host's kernel offers, as found at the start.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// A received notification is not interrupted by signals (Linux 5.19).
    pub wait_killable: bool,
    /// The answer runs the guest on the answering CPU at once (Linux 6.6).
    pub sync_wake: bool,
    /// The stub may read and write the segment bases itself.
    pub fsgsbase: bool,
}

pub struct Sandbox {
    pub lines: Box<[Arc<Line>]>,
    pub arena: Arc<Arena>,
    pub features: Features,
    pub host: Arc<Host>,
    /// PID 1 of its namespace: the host kills every stub with it.
    pub is_init: bool,
    /// The CPUs that the sentry may use, and so every stub to begin with: a bit mask.
    pub cpus: Vec<u8>,
    pub layout: OnceLock<Layout>,
    /// What to call when the host ends a zygote, by pid.
    pub origins: Mutex<HashMap<i32, OnLost>>,
    pub table: TidTable<Arc<Task>>,
    pub procs: Mutex<HashMap<i32, Arc<Process>>>,
    pub pending: Mutex<HashMap<u64, Arc<Pending>>>,
    pub parking: crate::parking::Parking,
    pub standbys: Standbys,
    pub fast: Fast,
    /// The platform is being dropped.
    pub closing: AtomicBool,
    events: Mutex<VecDeque<Event>>,
    events_len: AtomicUsize,
}

impl Sandbox {
    pub fn new(
        lines: Box<[Arc<Line>]>,
        host: Arc<Host>,
        arena: Arc<Arena>,
        features: Features,
        temper: Temper,
        worth: usize,
    ) -> Arc<Sandbox> {
        let cpus = sys::get_affinity(0).unwrap_or_default();
        let usable = features.fsgsbase && features.wait_killable;
        let fast = Fast::new(usable, temper, sys::count_cpus(&cpus).min(worth));
        Arc::new(Sandbox {
            lines,
            arena,
            features,
            host,
            is_init: std::process::id() == 1,
            cpus,
            layout: OnceLock::new(),
            origins: Mutex::default(),
            table: TidTable::default(),
            procs: Mutex::default(),
            pending: Mutex::default(),
            parking: crate::parking::Parking::default(),
            standbys: Standbys::default(),
            fast,
            closing: AtomicBool::new(false),
            events: Mutex::default(),
            events_len: AtomicUsize::new(0),
        })
    }

    pub fn window_addr(&self, index: u64) -> u64 {
        WIN_BASE + index * self.arena.window_size()
    }

    pub fn layout(&self) -> Layout {
        self.layout.get().copied().unwrap_or_default()
    }

    /// Waits for the next event.
    pub fn next_event(self: &Arc<Self>, between: &dyn Fn()) -> Event {
        loop {
            if self.events_len.load(Ordering::Acquire) > 0 {
                if let Some(e) = self.pop() {
                    return e;
                }
            }
            if let Some(e) = self.poll() {
                return e;
            }
            let line = match self.standbys.sit(&self.lines) {
                Place::Seat(line) => line,
                Place::Poller => {
                    self.start_polling();
                    continue;
                }
            };
            let got = line.listener.recv();
            self.standbys.leave(line);
            match got {
                Ok(n) => {
                    if let Some(e) = self.dispatch(line, &n) {
                        return e;
                    }
                    between();
                }
                // The notifying thread died first, or we were interrupted.
                Err(libc::ENOENT | libc::EINTR) => {}
                Err(errno) => {
                    tracing::error!(errno, "the notification listener failed; retrying");
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
    }

    fn pop(&self) -> Option<Event> {
        let mut q = self.events.lock();
        let e = q.pop_front();
        self.events_len.store(q.len(), Ordering::Release);
        let more = !q.is_empty();
        drop(q);
        if more {
            self.ring();
        }
        e
    }

    /// Queues an event that no notification carries, and has some worker look at the queue.
    pub fn push_event(&self, e: Event) {
        let mut q = self.events.lock();
        q.push_back(e);
        self.events_len.store(q.len(), Ordering::Release);
        drop(q);
        self.ring();
    }

    fn ring(&self) {
        if let Some(z) = self.lines.first().and_then(|l| l.zygote.get()) {
            z.ring();
        }
    }

    fn dispatch(self: &Arc<Self>, line: &Arc<Line>, n: &Notif) -> Option<Event> {
        if n.ip & !0xfff == STUB_BASE {
            let token = match n.nr as u64 {
                9 => n.args[4],
                DOORBELL if n.args[0] == code::CHILD => n.args[2],
                _ => 0,
            };
            if token >> 32 != 0 {
                let pending = self.pending.lock().get(&token).cloned();
                if let Some(p) = pending {
                    if p.announce(self, n) {
                        return None;
                    }
                }
            }
        }
        match self.table.get(n.pid) {
            Some(t) => t.on_notif(n),
            None => {
                self.stranger(line, n);
                None
            }
        }
    }

    /// A thread nobody expects: a child whose maker gave up, or one that died while we looked.
    pub fn stranger(&self, line: &Line, n: &Notif) {
        if n.nr as i64 == libc::SYS_exit && !self.features.wait_killable {
            // One that has been let go already; the host had wound its call back.
            let _ = line.listener.go_on(n.id);
            return;
        }
        if line.listener.id_valid(n.id) {
            tracing::warn!(tid = n.pid, nr = n.nr, "unexpected stub thread; killing its process");
            let _ = sys::kill(n.pid as i32, libc::SIGKILL);
        }
    }

    /// Registers a new host process; the caller adds its first task.
    pub fn register(&self, p: &Arc<Process>) {
        self.procs.lock().insert(p.pid, p.clone());
    }

    /// Children of a dead or killed process will not come.
    pub fn fail_pending(&self, pid: i32) {
        let lost: Vec<Arc<Pending>> = {
            let mut all = self.pending.lock();
            let tokens: Vec<u64> = all.iter().filter(|(_, p)| p.parent == pid).map(|(t, _)| *t).collect();
            tokens.iter().filter_map(|t| all.remove(t)).collect()
        };
        for p in lost {
            p.complete(Err(PlatformError::Gone));
        }
    }
}
