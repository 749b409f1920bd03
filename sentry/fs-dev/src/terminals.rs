//! The drivers of terminal devices: /dev/tty, /dev/console, ptmx, slaves of pseudo-terminals.

use crate::pts::{DevPts, tty_of};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::stat::minor;
use chitin_kernel::Kernel;
use chitin_vfs::walk::Caller;
use chitin_vfs::{Device, FileOps, Inode, Path};
use std::any::Any;
use std::sync::{Arc, Weak};

/// Major 5: tty (0), console (1), ptmx (2).
pub struct Terminals {
    pub kernel: Weak<Kernel>,
}

impl Device for Terminals {
    fn open(
        &self,
        rdev: u64,
        _inode: &Arc<dyn Inode>,
        path: &Path,
        flags: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn FileOps>, Errno> {
        let privileged = caller.creds.capable(CAP_SYS_ADMIN);
        match minor(rdev) {
            0 => {
                let process = self.kernel.upgrade().and_then(|kernel| kernel.process_by_kid(caller.tgid));
                let tty = process.and_then(|process| process.tty()).ok_or(Errno::ENXIO)?;
                tty.open_slave(flags, privileged)
            }
            1 => {
                let process = self.kernel.upgrade().and_then(|kernel| kernel.process_by_kid(caller.tgid));
                let console = process.and_then(|process| process.container.console());
                console.ok_or(Errno::ENODEV)?.open_slave(flags, privileged)
            }
            2 => self.devpts_of(path, caller)?.open_ptmx(flags, caller),
            _ => Err(Errno::ENXIO),
        }
    }
}

impl Terminals {
    /// The devpts that a ptmx node belongs to: its own file system, or the one on "pts" beside it.
    fn devpts_of(&self, path: &Path, caller: &Caller) -> Result<Arc<DevPts>, Errno> {
        let own: Arc<dyn Any + Send + Sync> = path.mount.fs().clone();
        if let Ok(own) = own.downcast::<DevPts>() {
            return Ok(own);
        }
        let process = self.kernel.upgrade().and_then(|kernel| kernel.process_by_kid(caller.tgid));
        let ns =
            process.and_then(|process| process.leader()).map(|task| task.fs().ns()).ok_or(Errno::ENODEV)?;
        let parent = path.parent();
        let dentry = parent.dentry.lookup(&[b"pts"])?.ok_or(Errno::ENODEV)?;
        let found = ns.follow(Path { mount: parent.mount, dentry });
        let beside: Arc<dyn Any + Send + Sync> = found.mount.fs().clone();
        beside.downcast::<DevPts>().map_err(|_| Errno::ENODEV)
    }
}

/// Majors 136 to 143: slaves.
pub struct Slaves;

impl Device for Slaves {
    fn open(
        &self,
        _rdev: u64,
        inode: &Arc<dyn Inode>,
        _path: &Path,
        flags: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn FileOps>, Errno> {
        // A node of such a number elsewhere leads nowhere, as on Linux.
        let tty = tty_of(inode).ok_or(Errno::EIO)?;
        tty.open_slave(flags, caller.creds.capable(CAP_SYS_ADMIN))
    }
}
