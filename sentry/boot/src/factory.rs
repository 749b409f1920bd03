//! What only concrete file systems can make: memfds, and the types of mount(2).

use chitin_abi::Errno;
use chitin_fs_cgroup::CgroupFs;
use chitin_fs_dev::{DevPts, DevTmpFs};
use chitin_fs_proc::ProcFs;
use chitin_fs_sys::SysFs;
use chitin_fs_tmpfs::{Storage, TmpFs};
use chitin_kernel::{Container, Kernel, NsProxy};
use chitin_vfs::factory::{FsFactory, MemfdMaker};
use chitin_vfs::{Context, Creds, File, FileSystem};
use std::sync::{Arc, Weak};

/// memfd_create(2).
pub struct TmpfsMemfds;

impl MemfdMaker for TmpfsMemfds {
    fn make(&self, name: &[u8], flags: u32, uid: u32, gid: u32) -> Result<Arc<File>, Errno> {
        chitin_fs_tmpfs::memfd_file(name, flags, uid, gid)
    }
}

/// The file system types that guests and the OCI configuration can mount.
pub struct Types {
    kernel: Weak<Kernel>,
    storage: Storage,
    /// The container that asks, and its namespaces: what proc, sysfs, mqueue and cgroup2 show.
    asker: Option<(NsProxy, Arc<Container>)>,
}

impl Types {
    pub fn new(kernel: &Arc<Kernel>, storage: Storage, asker: Option<(NsProxy, Arc<Container>)>) -> Types {
        Types { kernel: Arc::downgrade(kernel), storage, asker }
    }

    /// Makes a file system by type name: ENODEV for an unknown one.
    pub fn make(&self, fstype: &str, data: &[u8]) -> Result<Arc<dyn FileSystem>, Errno> {
        let kernel = self.kernel.upgrade().ok_or(Errno::ENODEV)?;
        let memory = kernel.machine.memory_bytes;
        let asker = || self.asker.as_ref().ok_or(Errno::ENODEV);
        Ok(match fstype {
            "tmpfs" | "ramfs" => TmpFs::new(self.storage.clone(), data, memory)?,
            "mqueue" => asker()?.0.ipc.mq.file_system(),
            "proc" => {
                let (namespaces, container) = asker()?;
                ProcFs::new(&kernel, container, &namespaces.pid_for_children)
            }
            "sysfs" => {
                let (namespaces, container) = asker()?;
                SysFs::new(&kernel, container, &namespaces.net)
            }
            "devpts" => DevPts::new(&kernel, data)?,
            "devtmpfs" => DevTmpFs::new(&chitin_fs_dev::default_nodes(true), data, memory)?,
            "cgroup2" => {
                let (namespaces, container) = asker()?;
                CgroupFs::new(&kernel, container, &namespaces.cgroup.root)
            }
            _ => return Err(Errno::ENODEV),
        })
    }
}

impl FsFactory for Types {
    fn mount(
        &self,
        fstype: &str,
        _source: &[u8],
        _flags: u64,
        data: &[u8],
        ctx: &Context,
    ) -> Result<Arc<dyn FileSystem>, Errno> {
        match fstype {
            // Of the namespace that the caller's children go to.
            "proc" | "sysfs" | "mqueue" | "cgroup2" => {
                let kernel = self.kernel.upgrade().ok_or(Errno::ENODEV)?;
                let task = kernel.task_by_kid(ctx.caller.tid).ok_or(Errno::ESRCH)?;
                let asker = Some(((*task.namespaces()).clone(), task.process.container.clone()));
                Types { asker, kernel: self.kernel.clone(), storage: self.storage.clone() }.make(fstype, data)
            }
            fstype => self.make(fstype, &with_kernel_ids(fstype, data, ctx.creds())?),
        }
    }
}

/// Options with kernel ids instead of the mounter's: EINVAL for those that there are not. A tmpfs is its mounter's.
fn with_kernel_ids(fstype: &str, data: &[u8], creds: &Creds) -> Result<Vec<u8>, Errno> {
    let own = matches!(fstype, "tmpfs" | "ramfs") && (creds.fsuid, creds.fsgid) != (0, 0);
    if !matches!(fstype, "tmpfs" | "ramfs" | "devpts") || !own && creds.user_ns.is_initial() {
        return Ok(data.to_vec());
    }
    let text = str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let id = |text: &str| text.parse::<u32>().map_err(|_| Errno::EINVAL);
    let mut options = Vec::new();
    if own {
        options.extend([format!("uid={}", creds.fsuid), format!("gid={}", creds.fsgid)]);
    }
    for option in text.split(',').filter(|option| !option.is_empty()) {
        options.push(match option.split_once('=') {
            Some(("uid", uid)) => format!("uid={}", creds.user_ns.kuid(id(uid)?).ok_or(Errno::EINVAL)?),
            Some(("gid", gid)) => format!("gid={}", creds.user_ns.kgid(id(gid)?).ok_or(Errno::EINVAL)?),
            _ => option.to_owned(),
        });
    }
    Ok(options.join(",").into_bytes())
}
