//! Namespaces of tasks (kernel/nsproxy.c): what clone, unshare and setns change, and the small ones among them.
//!
//! PID namespaces are in [`crate::pid`], mount and user namespaces in the VFS (a task's are in its `FsState` and its
//! credentials), time namespaces in [`crate::time::ns`]. Every namespace has a user namespace that has power over it: that
//! of who made it. Locks: leaves.

use crate::Task;
use crate::cgroup::Cgroup;
use crate::ipc::Ipc;
use crate::kernel::Uts;
use crate::pid::PidNs;
use crate::time::ns::TimeNs;
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_IPC_LOCK, CAP_IPC_OWNER, CAP_SYS_ADMIN};
use chitin_abi::sched::*;
use chitin_vfs::bounds::{Bound, Share};
use chitin_vfs::{Caps, Creds, UserNs};
use parking_lot::RwLock;
use std::any::Any;
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
    pub user_ns: Arc<UserNs>,
    pub names: RwLock<Uts>,
}

impl UtsNs {
    pub fn new(names: Uts, user_ns: &Arc<UserNs>) -> Arc<UtsNs> {
        Arc::new(UtsNs { inum: new_inum(), user_ns: user_ns.clone(), names: RwLock::new(names) })
    }
    /// For CLONE_NEWUTS: the same names, changed apart from now on.
    pub fn copy(&self, user_ns: &Arc<UserNs>) -> Arc<UtsNs> {
        UtsNs::new(self.names.read().clone(), user_ns)
    }
}

/// The cgroup namespace.
pub struct CgroupNs {
    pub inum: u64,
    pub user_ns: Arc<UserNs>,
    /// What its processes see as `/`.
    pub root: Arc<Cgroup>,
}

impl CgroupNs {
    pub fn new(root: Arc<Cgroup>, user_ns: &Arc<UserNs>) -> Arc<CgroupNs> {
        Arc::new(CgroupNs { inum: new_inum(), user_ns: user_ns.clone(), root })
    }
}

/// Network namespaces of guests (user.max_net_namespaces): ENOSPC.
pub static NET_NAMESPACES: Bound = Bound::new(1024);

/// What is in a network namespace.
pub type Stack = Arc<dyn Any + Send + Sync>;

/// A network namespace; what is in it is known to the network's crates.
pub struct NetNs {
    pub inum: u64,
    pub user_ns: Arc<UserNs>,
    pub stack: Stack,
    _share: Option<Share>,
}

impl NetNs {
    pub fn new(stack: Stack, user_ns: &Arc<UserNs>, share: Option<Share>) -> Arc<NetNs> {
        Arc::new(NetNs { inum: new_inum(), user_ns: user_ns.clone(), stack, _share: share })
    }
}

/// Makes what is in a new network namespace: an extension of the kernel's.
pub struct NetMaker(pub Box<dyn Fn(&Arc<UserNs>) -> Stack + Send + Sync>);

/// The namespaces of a task (`struct nsproxy`), but for mounts. Its own PID namespace is `task.pid_ns()`, for life.
#[derive(Clone)]
pub struct NsProxy {
    /// Where its children go.
    pub pid_for_children: Arc<PidNs>,
    pub uts: Arc<UtsNs>,
    pub ipc: Arc<Ipc>,
    pub cgroup: Arc<CgroupNs>,
    pub net: Arc<NetNs>,
    pub time: Arc<TimeNs>,
    /// Where its children, and it itself after an execve, go.
    pub time_for_children: Arc<TimeNs>,
}

/// The namespaces of [`NsProxy`].
pub const CLONE_OURS: u64 =
    CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP | CLONE_NEWNET | CLONE_NEWTIME;

/// A task's namespaces with new ones as `flags` ask, for `creds` to have power over: EPERM without CAP_SYS_ADMIN.
pub fn changed(task: &Task, flags: u64, creds: &Creds) -> Result<NsProxy, Errno> {
    let user_ns = &creds.user_ns;
    if flags & CLONE_OURS != 0 && !creds.capable_here(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let mut namespaces = (*task.namespaces()).clone();
    if flags & CLONE_NEWPID != 0 {
        if !Arc::ptr_eq(task.pid_ns(), &namespaces.pid_for_children) {
            return Err(Errno::EINVAL);
        }
        if !user_ns.is_within(&task.pid_ns().user_ns) {
            return Err(Errno::EINVAL);
        }
        namespaces.pid_for_children = task.pid_ns().new_child(user_ns)?;
    }
    if flags & CLONE_NEWUTS != 0 {
        namespaces.uts = namespaces.uts.copy(user_ns);
    }
    if flags & CLONE_NEWIPC != 0 {
        namespaces.ipc = task.kernel.new_ipc_ns(user_ns);
    }
    if flags & CLONE_NEWCGROUP != 0 {
        namespaces.cgroup = CgroupNs::new(task.process.cgroup(), user_ns);
    }
    if flags & CLONE_NEWNET != 0 {
        let maker = task.kernel.extension::<NetMaker>().ok_or(Errno::EINVAL)?;
        let share = NET_NAMESPACES.share(1).ok_or(Errno::ENOSPC)?;
        namespaces.net = NetNs::new((maker.0)(user_ns), user_ns, Some(share));
    }
    if flags & CLONE_NEWTIME != 0 {
        namespaces.time_for_children = namespaces.time_for_children.copy(user_ns)?;
    }
    Ok(namespaces)
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
    pub fn net(&self) -> Arc<NetNs> {
        self.namespaces.read().net.clone()
    }
    /// Its credentials with what power they give over its IPC namespace as theirs.
    pub fn ipc_creds(&self) -> Arc<Creds> {
        let creds = self.creds();
        let owner = &self.ipc().user_ns;
        if creds.user_ns == *owner {
            return creds;
        }
        let mut seen = (*creds).clone();
        seen.effective = if creds.user_ns.is_within(owner) {
            Caps::EMPTY
        } else if creds.capable_in(owner, CAP_SYS_ADMIN) {
            creds.effective | Caps::EMPTY.with(CAP_SYS_ADMIN).with(CAP_IPC_OWNER).with(CAP_IPC_LOCK)
        } else {
            creds.effective
        };
        Arc::new(seen)
    }
    /// It goes on in the time namespace of its children (timens_on_fork()): at its start, and after execve.
    pub(crate) fn enter_time_ns(&self) {
        let own = self.namespaces();
        if !Arc::ptr_eq(&own.time, &own.time_for_children) {
            own.time_for_children.enter();
            self.set_namespaces(NsProxy { time: own.time_for_children.clone(), ..(*own).clone() });
        }
    }
    pub(crate) fn set_namespaces(&self, namespaces: NsProxy) {
        let old = std::mem::replace(&mut *self.namespaces.write(), Arc::new(namespaces));
        drop(old);
    }
}
