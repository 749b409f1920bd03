//! Operations on paths, as the syscalls of fs/namei.c, fs/open.c, fs/attr.c and fs/xattr.c do them: walking, permission
//! checks, read-only mounts, dentry upkeep and notifications around what a file system does.

mod attrs;
mod names;
mod open;
mod xattrs;

pub use attrs::Times;
pub use open::{OpenHow, Opened};
pub use xattrs::{XATTR_LIST_MAX, XATTR_SIZE_MAX, drop_capabilities};

use crate::{Context, Creds, Inode, Path};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH};
use std::sync::Arc;

impl Context {
    /// `inode_permission()`: mode bits, capabilities, and what the file system adds. `mask` is of MAY_*.
    pub fn may(&self, inode: &Arc<dyn Inode>, mask: u32) -> Result<(), Errno> {
        self.may_as(self.creds(), inode, mask)
    }

    /// As [`Context::may`], for other credentials (access(2)'s real ids).
    pub fn may_as(&self, creds: &Creds, inode: &Arc<dyn Inode>, mask: u32) -> Result<(), Errno> {
        inode.permission(&self.caller, mask)?;
        if inode.has_own_rules() {
            return Ok(());
        }
        let directory = inode.kind() == crate::FileKind::Directory;
        if directory && creds.capable(CAP_DAC_OVERRIDE) && creds.capable(CAP_DAC_READ_SEARCH) {
            return Ok(());
        }
        creds.check(&inode.attr()?, mask)
    }

    /// Whether the file system knows who would own a new file (fsuidgid_has_mapping()): EOVERFLOW.
    fn may_own(&self, dir: &Path) -> Result<(), Errno> {
        let creds = self.creds();
        if dir.mount.user_ns().knows(creds.fsuid, creds.fsgid) { Ok(()) } else { Err(Errno::EOVERFLOW) }
    }

    /// Write and search permission on a directory whose names are to change, on a writable mount.
    fn may_change(&self, dir: &Path) -> Result<(), Errno> {
        dir.mount.writable()?;
        self.may(dir.inode(), crate::creds::MAY_WRITE | crate::creds::MAY_EXEC)
    }
}
