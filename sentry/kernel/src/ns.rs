//! Namespaces of tasks (kernel/nsproxy.c): what clone, unshare and setns change, and the small ones among them.
//!
//! PID namespaces are in [`crate::pid`], mount namespaces in the VFS (a task's is in its `FsState`).
//! Locks: leaves.

use crate::Task;
use crate::cgroup::Cgroup;
use crate::ipc::Ipc;
use crate::kernel::Uts;
use crate::pid::PidNs;
use chitin_abi::Errno;
use chitin_abi::sched::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWUTS};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of a new namespace, as its file shows it. Mount namespaces count from 0xf000_0000.
pub(crate) fn new_inum() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0xf800_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Host and domain name.
pub struct UtsNs {
    pub inum: u64,
    pub names: RwLock<Uts>,
}

impl UtsNs {
    pub fn new(names: Uts) -> Arc<UtsNs> {
        Arc::new(UtsNs { inum: new_inum(), names: RwLock::new(names) })
    }
    /// For CLONE_NEWUTS: the same names, changed apart from now on.
    pub fn copy(&self) -> Arc<UtsNs> {
        UtsNs::new(self.names.read().clone())
    }
}

/// The cgroup namespace.
pub struct CgroupNs {
    pub inum: u64,
    /// What its processes see as `/`.
    pub root: Arc<Cgroup>,
}

impl CgroupNs {
    pub fn new(root: Arc<Cgroup>) -> Arc<CgroupNs> {
        Arc::new(CgroupNs { inum: new_inum(), root })
    }
}

/// The namespaces of a task (`struct nsproxy`), but for mounts. Its own PID namespace is `task.pid_ns()`, for life.
#[derive(Clone)]
pub struct NsProxy {
    /// Where its children go.
    pub pid_for_children: Arc<PidNs>,
    pub uts: Arc<UtsNs>,
    pub ipc: Arc<Ipc>,
    pub cgroup: Arc<CgroupNs>,
}

/// The namespaces of [`NsProxy`].
pub const CLONE_OURS: u64 = CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP;

/// A task's namespaces with new ones as `flags` ask; the caller has checked privilege.
pub(crate) fn changed(task: &Task, flags: u64) -> Result<NsProxy, Errno> {
    let mut namespaces = (*task.namespaces()).clone();
    if flags & CLONE_NEWPID != 0 {
        if !Arc::ptr_eq(task.pid_ns(), &namespaces.pid_for_children) {
            return Err(Errno::EINVAL);
        }
        namespaces.pid_for_children = task.pid_ns().new_child()?;
    }
    if flags & CLONE_NEWUTS != 0 {
        namespaces.uts = namespaces.uts.copy();
    }
    if flags & CLONE_NEWIPC != 0 {
        namespaces.ipc = task.kernel.new_ipc_ns();
    }
    if flags & CLONE_NEWCGROUP != 0 {
        namespaces.cgroup = CgroupNs::new(task.process.cgroup());
    }
    Ok(namespaces)
}

/// unshare(2)'s part in them; the caller has checked privilege.
pub fn unshare(task: &Task, flags: u64) -> Result<(), Errno> {
    let new = changed(task, flags)?;
    switch(task, new);
    Ok(())
}

/// Changes a task's namespaces. What it noted for its end in an IPC namespace that it leaves is carried out.
pub fn switch(task: &Task, new: NsProxy) {
    let old = task.ipc();
    if !Arc::ptr_eq(&old, &new.ipc) && task.process.threads().len() <= 1 {
        old.process_ended(task.process.kid());
    }
    task.set_namespaces(new);
}

impl Task {
    pub fn namespaces(&self) -> Arc<NsProxy> {
        self.namespaces.read().clone()
    }
    pub fn uts(&self) -> Arc<UtsNs> {
        self.namespaces.read().uts.clone()
    }
    pub fn ipc(&self) -> Arc<Ipc> {
        self.namespaces.read().ipc.clone()
    }
    pub(crate) fn set_namespaces(&self, namespaces: NsProxy) {
        let old = std::mem::replace(&mut *self.namespaces.write(), Arc::new(namespaces));
        drop(old);
    }
}
