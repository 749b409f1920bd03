//! Platform `ptrace`: guest instructions run natively in stub processes whose system calls stop them for the sentry by
//! PTRACE_SYSEMU.
//!
//! Neighbours: implements the traits of `chitin-platform`, with `platform-host`; only the boot crate names it.
//!
//! How the parts fit: `zygote` starts a tiny process under `filter`'s BPF program from `stub`'s image; every guest address
//! space (`space`) is a fork of it, every guest thread (`task`) a host thread that one of our `tracer` threads traces.
//! Tracers turn stops into `events`, for which workers wait; `control` is what the kernel calls; `calls` has a task make
//! host calls, `fault` finds out about faults; `spawn` clones; `group` forks further zygotes; `xstate` converts FPU state.
//!
//! Invariants: without the sentry's consent a guest thread completes no host call; that holds for whatever instruction
//! makes it (SYSCALL, INT 0x80, SYSENTER, the vsyscall page), from wherever, and whatever filters an outer container has
//! installed, since SYSEMU comes before them. A guest whose tracer is gone is killed (EXITKILL), and until then the filter
//! refuses all its calls.
//!
//! Lock order: a task's `st` → `Process::inner`, the memory's `readers`, tracers' inboxes, `events`, tables; nothing is
//! taken under those. (A child's `st` may be held while its maker's is taken.) No lock is held while a waker or the kernel's code runs.

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

mod calls;
mod control;
mod events;
mod fault;
mod filter;
mod sandbox;
mod space;
mod spawn;
mod stub;
mod sys;
mod task;
mod tracer;
mod wait;
mod xstate;
mod zygote;

pub use chitin_platform_host::SetupError;

use chitin_platform::{BoxFuture, Event, OnLost, Platform, PlatformError, SpaceGroup, Spawned};
use chitin_platform_host::group;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};

/// Its address space is ours, its threads are our tasks.
type Process = chitin_platform_host::process::Process<space::Space, task::Task>;

/// Choices, mostly for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The stubs' RLIMIT_STACK, which bounds MAP_GROWSDOWN mappings and places the mmap base; 8 MiB if unset.
    pub stack_limit: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Config {
    /// A procfs of the sentry's PID namespace; /proc if unset.
    pub proc_dir: Option<OwnedFd>,
    pub options: Options,
}

/// The ptrace requests that a running platform makes, for the sentry's seccomp list.
pub const REQUESTS: &[u32] = &sys::REQUESTS;

/// The platform. Dropping it kills every guest process.
pub struct PtracePlatform {
    sb: Arc<sandbox::Sandbox>,
    pgid: i32,
    /// The parent thread ends with it.
    _parent: Sender<()>,
}

impl PtracePlatform {
    /// Starts the zygote and three threads (its parent, its tracer, a watcher of the workers). Call it early: before the
    /// sentry's own seccomp filter.
    pub fn new(config: Config) -> Result<PtracePlatform, SetupError> {
        let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(64 << 10);
        let no_thread = |e: std::io::Error| {
            SetupError(format!("platform ptrace: a thread: {e}; raise the process limit"))
        };
        let gone = |_| SetupError("platform ptrace: a thread died; see the log".into());

        let (forked, embryo) = channel();
        let (parent, end) = channel::<()>();
        thread("chitin-parent")
            .spawn(move || {
                let _ = forked.send(zygote::fork(config));
                // The stubs' parent: they die with this thread.
                let _ = end.recv();
            })
            .map_err(no_thread)?;
        let embryo = embryo.recv().map_err(gone)??;

        let (booted, platform) = channel();
        thread("chitin-tracer")
            .spawn(move || match zygote::boot(embryo) {
                Err(e) => drop(booted.send(Err(e))),
                Ok((sb, pid, regs)) => {
                    let sb = Arc::new(sb);
                    let tracer = sb.pool.first();
                    let proc = Process::new(pid, space::Space::new(&sb));
                    let zygote = task::Task::new(&sb, &proc, pid, tracer.clone(), task::Phase::Stopped, regs);
                    let _ = sb.zygote.set(zygote.clone());
                    let _ = booted.send(Ok((sb, pid)));
                    tracer.run(Some(zygote));
                }
            })
            .map_err(no_thread)?;
        let (sb, pgid) = platform.recv().map_err(gone)??;
        let watched = sb.clone();
        thread("chitin-watch").spawn(move || watched.events.watch()).map_err(no_thread)?;
        tracing::info!(zygote = pgid, fpstate = sb.form.len, "platform ptrace");
        Ok(PtracePlatform { sb, pgid, _parent: parent })
    }

    /// The process group of all stubs, for a last-resort kill.
    pub fn process_group(&self) -> i32 {
        self.pgid
    }
}

impl Platform for PtracePlatform {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn next_event(&self, between: &dyn Fn()) -> Event {
        self.sb.events.next(between)
    }

    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        match self.sb.zygote.get() {
            Some(zygote) => Box::pin(spawn::new_space(zygote.clone())),
            None => Box::pin(std::future::ready(Err(PlatformError::Gone))),
        }
    }

    fn new_group(&self, lost: OnLost) -> BoxFuture<Result<Arc<dyn SpaceGroup>, PlatformError>> {
        let first = self.sb.zygote.get().cloned();
        Box::pin(async move { group::make(first.ok_or(PlatformError::Gone)?, lost).await })
    }

    fn on_starved(&self, more: Box<dyn Fn() + Send + Sync>) {
        self.sb.events.on_starved(more);
    }

    fn on_lost(&self, lost: OnLost) {
        self.sb.origins.lock().insert(self.pgid, lost);
    }
}

impl Drop for PtracePlatform {
    fn drop(&mut self) {
        self.sb.closing.store(true, Ordering::Relaxed);
        let _ = sys::kill(-self.pgid, libc::SIGKILL);
        self.sb.events.close();
        self.sb.pool.close();
    }
}
