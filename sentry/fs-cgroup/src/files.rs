//! What files a cgroup has.

use crate::{Shared, controllers, core};
use chitin_abi::Errno;
use chitin_kernel::cgroup::Cgroup;
use chitin_vfs::Caller;
use std::sync::Arc;

/// A cgroup seen through a mount.
pub(crate) struct View<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) cgroup: &'a Arc<Cgroup>,
}

impl View<'_> {
    /// The container's own cgroup, whose limits are set outside.
    pub(crate) fn is_top(&self) -> bool {
        self.cgroup.is_root()
    }
    /// The root of the namespace.
    pub(crate) fn is_ns_root(&self) -> bool {
        Arc::ptr_eq(self.cgroup, &self.shared.root)
    }
    /// Whether it has the pids controller.
    fn has_pids(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.cgroup.parent().is_none_or(|parent| parent.pids_below.load(Relaxed))
    }
}

pub(crate) type Show = fn(&View<'_>, &Caller) -> Result<String, Errno>;
/// Works on what was written, without the white space around it; the caller is who opened the file.
pub(crate) type Store = fn(&View<'_>, &Caller, &str) -> Result<(), Errno>;

/// Where a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Everywhere,
    /// With the pids controller.
    Pids,
    /// With the other controllers, which the container's own cgroup has.
    Top,
}

/// A file.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    place: Place,
    pub(crate) show: Option<Show>,
    pub(crate) store: Option<Store>,
    /// May be written at the root of a namespace (CFTYPE_NS_DELEGATABLE).
    pub(crate) delegated: bool,
}

impl Entry {
    pub(crate) fn perm(&self) -> u32 {
        let read = if self.show.is_some() { 0o444 } else { 0 };
        read | if self.store.is_some() { 0o200 } else { 0 }
    }
    pub(crate) fn is_in(&self, view: &View<'_>) -> bool {
        match self.place {
            Place::Everywhere => true,
            Place::Pids => view.has_pids(),
            Place::Top => view.is_top(),
        }
    }
}

const fn read(name: &'static str, place: Place, show: Show) -> Entry {
    Entry { name, place, show: Some(show), store: None, delegated: false }
}
const fn both(name: &'static str, place: Place, show: Show, store: Store) -> Entry {
    Entry { name, place, show: Some(show), store: Some(store), delegated: false }
}
const fn delegated(name: &'static str, show: Show, store: Store) -> Entry {
    Entry { name, place: Place::Everywhere, show: Some(show), store: Some(store), delegated: true }
}

/// A limit that is only told.
const fn told(name: &'static str, show: Show) -> Entry {
    both(name, Place::Top, show, |_, _, _| Err(Errno::EPERM))
}

use Place::{Everywhere, Pids, Top};

/// All of them; their places here are part of their inode numbers.
pub(crate) static FILES: &[Entry] = &[
    read("cgroup.controllers", Everywhere, core::controllers),
    read("cgroup.events", Everywhere, core::events),
    both("cgroup.freeze", Everywhere, core::freeze, core::set_freeze),
    Entry { name: "cgroup.kill", place: Everywhere, show: None, store: Some(core::kill), delegated: false },
    both("cgroup.max.depth", Everywhere, core::max_depth, core::set_max_depth),
    both("cgroup.max.descendants", Everywhere, core::max_descendants, core::set_max_descendants),
    delegated("cgroup.procs", core::procs, core::move_process),
    read("cgroup.stat", Everywhere, core::stat),
    delegated("cgroup.subtree_control", core::subtree_control, core::set_subtree_control),
    delegated("cgroup.threads", core::threads, core::move_thread),
    both("cgroup.type", Everywhere, core::kind, core::set_kind),
    told("cpu.max", controllers::cpu_max),
    read("cpu.stat", Everywhere, controllers::cpu_stat),
    told("cpu.weight", controllers::hundred),
    told("cpuset.cpus", controllers::empty),
    read("cpuset.cpus.effective", Top, controllers::cpus),
    told("cpuset.mems", controllers::empty),
    read("cpuset.mems.effective", Top, controllers::mems),
    read("memory.current", Top, controllers::memory_current),
    read("memory.events", Top, controllers::memory_events),
    told("memory.high", controllers::unlimited),
    told("memory.low", controllers::zero),
    told("memory.max", controllers::memory_max),
    told("memory.min", controllers::zero),
    told("memory.oom.group", controllers::zero),
    read("memory.stat", Top, controllers::memory_stat),
    read("memory.swap.current", Top, controllers::zero),
    told("memory.swap.max", controllers::zero),
    read("pids.current", Pids, controllers::pids_current),
    read("pids.events", Pids, controllers::pids_events),
    both("pids.max", Pids, controllers::pids_max, controllers::set_pids_max),
    read("pids.peak", Pids, controllers::pids_peak),
];
