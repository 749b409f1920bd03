//! Platform `kvm`: guest instructions run in ring 3 of a virtual machine whose memory and page tables are the sentry's.
//!
//! Neighbours: implements the traits of `chitin-platform`; only the boot crate names it.
//!
//! How the parts fit: `phys` is the VM's memory, `ring0` the little that runs there in ring 0, `cpuid` what guests see of
//! the processor. An address space (`space`) is a list of mappings (`vma`) and page tables (`table`); pages come into being
//! when they are touched; `remap` has the mmap family, `window` shows host files to the VM, `copy` and `listing` are the
//! kernel's way to it. `vcpu` enters and leaves ring 3, `trap` says what an exception is, `machine` schedules tasks
//! (`task`, `fpu`) over processors (`cpus`), `native` makes the calls that are the platform's. Some calls ring 0 answers (`answers`).
//!
//! Invariants:
//! - Ring 0 of the VM does nothing but enter, leave, and answer calls whose answers the kernel has said; every exception,
//!   and every other call, leaves the VM.
//! - A right that is taken away is gone from every processor before its page goes elsewhere (`space`).
//!
//! The vDSO is the host's (`clock`). Restartable sequences are ours (`rseq`).
//!
//! Lock order: `Proc::tasks` → `Task::st` → `Task::fpu`; `Space::inner` → `Shared`, `FileMap`, `Files` → `Phys`; the
//! scheduler's queue is a leaf. No lock is held while the guest runs.

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

mod answers;
mod clock;
mod copy;
mod cpuid;
mod cpus;
mod fpu;
mod host;
mod kick;
mod listing;
mod machine;
mod native;
mod phys;
mod remap;
mod ring0;
mod rseq;
mod runs;
mod setup;
mod space;
mod table;
mod task;
mod trap;
mod vcpu;
mod vma;
mod window;

pub use host::SetupError;
pub use setup::{Config, has_shadow_tables, open, seccomp_ioctls};

use chitin_platform::{BoxFuture, Event, OnLost, Platform, PlatformError, SpaceGroup, Spawned};
use std::future::ready;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The platform. Dropping it stops its helper; guests end with the process.
pub struct KvmPlatform {
    machine: Arc<machine::Machine>,
}

impl KvmPlatform {
    /// Makes the VM with all its processors, and starts one thread.
    pub fn new(config: Config) -> Result<KvmPlatform, SetupError> {
        let machine = setup::machine(config)?;
        let helper = machine.clone();
        std::thread::Builder::new()
            .name("chitin-ticker".into())
            .stack_size(256 << 10)
            .spawn(move || helper.keep_time())
            .map_err(|e| SetupError(format!("platform kvm: a thread: {e}; raise the process limit")))?;
        Ok(KvmPlatform { machine })
    }
}

fn new_space(machine: &Arc<machine::Machine>) -> Result<Spawned, PlatformError> {
    let random = chitin_host::random::number().unwrap_or(0);
    let space = space::Space::new(&machine.world, random)?;
    space.map_clock();
    Ok(task::spawned(task::Task::first(machine, space)))
}

/// Spaces that the host cannot tell apart: all are in this process.
struct Group(Arc<machine::Machine>);

impl SpaceGroup for Group {
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(ready(new_space(&self.0)))
    }

    fn origin(&self) -> Result<Option<OwnedFd>, PlatformError> {
        Ok(None)
    }
}

impl Platform for KvmPlatform {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn next_event(&self, between: &dyn Fn()) -> Event {
        self.machine.next_event(between)
    }

    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(ready(new_space(&self.machine)))
    }

    fn new_group(&self, _lost: OnLost) -> BoxFuture<Result<Arc<dyn SpaceGroup>, PlatformError>> {
        let group: Arc<dyn SpaceGroup> = Arc::new(Group(self.machine.clone()));
        Box::pin(ready(Ok(group)))
    }

    fn on_starved(&self, more: Box<dyn Fn() + Send + Sync>) {
        self.machine.on_starved(more);
    }
}

impl Drop for KvmPlatform {
    fn drop(&mut self) {
        self.machine.close();
    }
}
