//! Platform `seccomp`: guest instructions run natively in stub processes whose system calls the host hands to the sentry
//! by seccomp user notification.
//!
//! Neighbours: implements the traits of `chitin-platform`, with `platform-host`; only the boot crate names it.
//!
//! How the parts fit: `zygote` starts tiny processes under `filter`'s BPF program from `stub`'s image, each with a listener of
//! its own (`line`); every guest address space (`space`) is a fork of one of them, every guest thread (`task`) a host thread
//! with a window in the `arena`. `sandbox` receives notifications and hands them to the task; `control` is what the kernel
//! calls; `calls` has the stub make host calls; `restart` bears with calls that the host winds back; `spawn` clones, `near`
//! keeps a fork on one CPU; `group` forks further zygotes; `mapping` implements guest memory upon `platform-host`; `reaper`,
//! `parking` and `watcher` are threads of ours; `seats` says which worker waits for which line's notifications.
//!
//! Invariant: without the sentry's consent a guest thread completes no host call but `rt_sigreturn` and the constant
//! parking wait.
//!
//! Lock order: `Process::inner`, the memory's `readers` and `Space::windows` may be taken under a task's `st`; nothing is taken
//! under those. No lock is held while a waker or the kernel's code runs.

#![allow(unsafe_code)]
// Guest data must never panic the sentry; tests may.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod arena;
mod calls;
mod control;
mod fast;
mod filter;
mod frame;
mod line;
mod mapping;
mod near;
mod parcel;
mod parking;
mod poller;
mod reaper;
mod restart;
mod sandbox;
mod seats;
mod sites;
mod space;
mod spawn;
mod stub;
mod sys;
mod task;
mod trampoline;
mod watcher;
mod zygote;

pub use chitin_platform_host::SetupError;
pub use sandbox::Features;

use chitin_platform::{BoxFuture, Event, OnLost, Platform, PlatformError, SpaceGroup, Spawned};
use chitin_platform_host::group;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Its address space is ours, its threads are our tasks.
type Process = chitin_platform_host::process::Process<space::Space, task::Task>;

/// Choices, mostly for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Do not use SYNC_WAKE_UP even if the host has it.
    pub disable_sync_wake: bool,
    /// Behave as on hosts before WAIT_KILLABLE_RECV (Linux 5.19).
    pub disable_wait_killable: bool,
    /// The stubs' RLIMIT_STACK, which bounds MAP_GROWSDOWN mappings and places the mmap base; 8 MiB if unset.
    pub stack_limit: Option<u64>,
    /// How many CPUs' time the guests and who polls for them have in all, if it is less than that of all their CPUs. With less
    /// than two every call is notified.
    pub cpus: Option<usize>,
    /// Poll for whoever makes a few calls.
    pub eager: bool,
}

#[derive(Debug, Default)]
pub struct Config {
    /// A procfs of the sentry's PID namespace; /proc if unset.
    pub proc_dir: Option<OwnedFd>,
    pub options: Options,
}

/// The platform. Dropping it kills every guest process.
pub struct SeccompPlatform {
    sb: Arc<sandbox::Sandbox>,
    pgid: i32,
}

impl SeccompPlatform {
    /// Starts the zygote and three threads (reaper, parking, seats). Call it early: before the sentry's own seccomp filter.
    pub fn new(config: Config) -> Result<SeccompPlatform, SetupError> {
        let (tx, rx) = std::sync::mpsc::channel();
        let thread = |e: std::io::Error| {
            SetupError(format!("platform seccomp: a thread: {e}; raise the process limit"))
        };
        std::thread::Builder::new()
            .name("chitin-reaper".into())
            .stack_size(256 << 10)
            .spawn(move || match zygote::start(config) {
                Ok((sb, pgid)) => {
                    let _ = tx.send(Ok((sb.clone(), pgid)));
                    reaper::run(&sb, pgid);
                }
                Err(e) => drop(tx.send(Err(e))),
            })
            .map_err(thread)?;
        let gone = || SetupError("platform seccomp: the reaper thread died; see the log".into());
        let (sb, pgid) = rx.recv().map_err(|_| gone())??;
        let parker = sb.clone();
        std::thread::Builder::new()
            .name("chitin-parking".into())
            .stack_size(256 << 10)
            .spawn(move || parking::run(&parker))
            .map_err(thread)?;
        let watched = sb.clone();
        std::thread::Builder::new()
            .name("chitin-seats".into())
            .stack_size(128 << 10)
            .spawn(move || watcher::run(&watched))
            .map_err(thread)?;
        Ok(SeccompPlatform { sb, pgid })
    }

    /// What the host's kernel offers.
    pub fn features(&self) -> Features {
        self.sb.features
    }

    /// The process group of all stubs, for a last-resort kill.
    pub fn process_group(&self) -> i32 {
        self.pgid
    }

    /// The programs on each line.
    pub fn programs(&self) -> Vec<usize> {
        self.sb.lines.iter().map(|l| l.programs()).collect()
    }

    /// How many calls have come without a notification; `None`: none do on this host.
    pub fn not_notified(&self) -> Option<u64> {
        self.sb.fast.usable().then(|| self.sb.fast.taken.load(Ordering::Relaxed))
    }

    /// Notifications that wait for an answer now (parked tasks do not count).
    pub fn outstanding(&self) -> usize {
        self.sb.parking.outstanding()
    }
}

impl Platform for SeccompPlatform {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn next_event(&self, between: &dyn Fn()) -> Event {
        self.sb.next_event(between)
    }

    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        match line::least(&self.sb.lines) {
            Some(zygote) => spawn::new_space(zygote),
            None => Box::pin(std::future::ready(Err(PlatformError::Gone))),
        }
    }

    fn new_group(&self, lost: OnLost) -> BoxFuture<Result<Arc<dyn SpaceGroup>, PlatformError>> {
        let first = line::least(&self.sb.lines);
        Box::pin(async move { group::make(first.ok_or(PlatformError::Gone)?, lost).await })
    }

    fn on_starved(&self, more: Box<dyn Fn() + Send + Sync>) {
        self.sb.standbys.on_starved(more);
    }

    fn on_lost(&self, lost: OnLost) {
        // Any of them: no program can be started on its line any more.
        let lost = Arc::new(lost);
        for zygote in self.sb.lines.iter().filter_map(|l| l.zygote.get()) {
            let lost = lost.clone();
            self.sb.origins.lock().insert(zygote.proc.pid, Box::new(move |signal| lost(signal)));
        }
    }
}

impl Drop for SeccompPlatform {
    fn drop(&mut self) {
        self.sb.closing.store(true, Ordering::Relaxed);
        let _ = sys::kill(-self.pgid, libc::SIGKILL);
        self.sb.parking.close();
        self.sb.standbys.close();
    }
}
