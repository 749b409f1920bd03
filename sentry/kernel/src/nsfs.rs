//! Files that stand for namespaces (fs/nsfs.c): what /proc/PID/ns/* lead to, setns(2) takes and bind mounts keep alive.
//!
//! Each is the only file of a file system of its own, so that it can be opened and mounted like any other.

use crate::ipc::Ipc;
use crate::ns::NetNs;
use crate::pid::PidNs;
use crate::time::ns::TimeNs;
use crate::{CgroupNs, Task, UtsNs};
use chitin_abi::Errno;
use chitin_abi::sched::*;
use chitin_abi::stat::{NSFS_MAGIC, Statfs};
use chitin_vfs::{
    Attr, File, FileKind, FileOps, FileSystem, Inode, InodeState, Mount, MountNs, Path, SetAttr, UserNs,
};
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// A namespace of any kind.
#[derive(Clone)]
pub enum Namespace {
    Pid(Arc<PidNs>),
    Uts(Arc<UtsNs>),
    Ipc(Arc<Ipc>),
    Cgroup(Arc<CgroupNs>),
    Mnt(Arc<MountNs>),
    User(Arc<UserNs>),
    Net(Arc<NetNs>),
    Time(Arc<TimeNs>),
}

impl Namespace {
    /// A task's, by the name of its file; `None` for an unknown name, and for children's PID namespace while that has no
    /// process.
    pub fn of(task: &Task, name: &str) -> Option<Namespace> {
        let own = task.namespaces();
        Some(match name {
            "pid" => Namespace::Pid(task.pid_ns().clone()),
            "pid_for_children" => Namespace::Pid(own.pid_for_children.clone()).populated()?,
            "uts" => Namespace::Uts(own.uts.clone()),
            "ipc" => Namespace::Ipc(own.ipc.clone()),
            "cgroup" => Namespace::Cgroup(own.cgroup.clone()),
            "mnt" => Namespace::Mnt(task.fs().ns()),
            "user" => Namespace::User(task.creds().user_ns.clone()),
            "net" => Namespace::Net(own.net.clone()),
            "time" => Namespace::Time(own.time.clone()),
            "time_for_children" => Namespace::Time(own.time_for_children.clone()),
            _ => return None,
        })
    }

    fn populated(self) -> Option<Namespace> {
        match &self {
            Namespace::Pid(ns) if ns.is_empty() => None,
            _ => Some(self),
        }
    }

    /// Its CLONE_NEW* flag.
    pub fn kind(&self) -> u64 {
        match self {
            Namespace::Pid(_) => CLONE_NEWPID,
            Namespace::Uts(_) => CLONE_NEWUTS,
            Namespace::Ipc(_) => CLONE_NEWIPC,
            Namespace::Cgroup(_) => CLONE_NEWCGROUP,
            Namespace::Mnt(_) => CLONE_NEWNS,
            Namespace::User(_) => CLONE_NEWUSER,
            Namespace::Net(_) => CLONE_NEWNET,
            Namespace::Time(_) => CLONE_NEWTIME,
        }
    }

    /// Who has power over it; for a user namespace where it was made, `None` for the initial one.
    pub fn owner(&self) -> Option<Arc<UserNs>> {
        Some(match self {
            Namespace::Pid(ns) => ns.user_ns.clone(),
            Namespace::Uts(ns) => ns.user_ns.clone(),
            Namespace::Ipc(ns) => ns.user_ns.clone(),
            Namespace::Cgroup(ns) => ns.user_ns.clone(),
            Namespace::Mnt(ns) => ns.user_ns.clone(),
            Namespace::User(ns) => return ns.parent().cloned(),
            Namespace::Net(ns) => ns.user_ns.clone(),
            Namespace::Time(ns) => ns.user_ns.clone(),
        })
    }

    fn inum(&self) -> u64 {
        match self {
            Namespace::Pid(ns) => ns.inum,
            Namespace::Uts(ns) => ns.inum,
            Namespace::Ipc(ns) => ns.inum,
            Namespace::Cgroup(ns) => ns.inum,
            Namespace::Mnt(ns) => ns.id(),
            Namespace::User(ns) => ns.inum,
            Namespace::Time(ns) => ns.inum,
            Namespace::Net(ns) => ns.inum,
        }
    }

    /// As its link shows it: `uts:[4026531838]`.
    pub fn text(&self) -> String {
        let name = match self {
            Namespace::Pid(_) => "pid",
            Namespace::Uts(_) => "uts",
            Namespace::Ipc(_) => "ipc",
            Namespace::Cgroup(_) => "cgroup",
            Namespace::Mnt(_) => "mnt",
            Namespace::User(_) => "user",
            Namespace::Net(_) => "net",
            Namespace::Time(_) => "time",
        };
        format!("{name}:[{}]", self.inum())
    }

    /// Its file.
    pub fn path(self) -> Path {
        let fs = Arc::new(NsFs(Arc::new(NsInode { namespace: self, state: InodeState::default() })));
        let mount = Mount::new(fs, b"nsfs", 0);
        Path { dentry: mount.root().clone(), mount }
    }

    /// The namespace that an inode stands for.
    pub fn behind(inode: &Arc<dyn Inode>) -> Option<Namespace> {
        let inode: Arc<dyn Any + Send + Sync> = inode.clone();
        inode.downcast::<NsInode>().ok().map(|inode| inode.namespace.clone())
    }

    /// The namespace that a file stands for.
    pub fn of_file(file: &File) -> Option<Namespace> {
        Namespace::behind(file.inode())
    }
}

struct NsFs(Arc<NsInode>);

/// One device number for all of them, so that numbers of files can be compared.
fn dev() -> u64 {
    static DEV: OnceLock<u64> = OnceLock::new();
    *DEV.get_or_init(chitin_vfs::inode::anon_dev)
}

impl FileSystem for NsFs {
    fn fs_type(&self) -> &'static str {
        "nsfs"
    }
    fn dev(&self) -> u64 {
        dev()
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.0.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Ok(Statfs { f_type: NSFS_MAGIC, f_bsize: 4096, f_frsize: 4096, f_namelen: 255, ..Statfs::default() })
    }
}

struct NsInode {
    namespace: Namespace,
    state: InodeState,
}

impl Inode for NsInode {
    fn ino(&self) -> u64 {
        self.namespace.inum()
    }
    fn kind(&self) -> FileKind {
        FileKind::Regular
    }
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(Attr::plain(dev(), self.ino(), FileKind::Regular, 0o444))
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(Arc::new(NsFile))
    }
    fn anon_text(&self) -> Option<Vec<u8>> {
        Some(self.namespace.text().into_bytes())
    }
}

/// Nothing can be read or written.
struct NsFile;

impl FileOps for NsFile {}
