//! Extended attributes: name spaces and their permissions (xattr(7)).

use crate::creds::{MAY_READ, MAY_WRITE};
use crate::walk::Target;
use crate::{Context, FileKind, Inode};
use chitin_abi::Errno;
use chitin_abi::capability::*;
use chitin_abi::inotify::IN_ATTRIB;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Longest value (XATTR_SIZE_MAX) and longest list (XATTR_LIST_MAX).
pub const XATTR_SIZE_MAX: usize = 65536;
pub const XATTR_LIST_MAX: usize = 65536;

const CAPABILITY: &[u8] = b"security.capability";

/// Whether a value may be stored as a file's capabilities (cap_convert_nscap()): the newer two revisions, whole.
fn is_capability(value: &[u8]) -> bool {
    let revision = value.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    match revision.map(|magic| magic & VFS_CAP_REVISION_MASK) {
        Some(VFS_CAP_REVISION_2) => value.len() == size_of::<VfsCapData>(),
        Some(VFS_CAP_REVISION_3) => value.len() == size_of::<VfsNsCapData>(),
        _ => false,
    }
}

/// A file whose content or owner changes loses its capabilities (cap_inode_killpriv()).
pub fn drop_capabilities(inode: &Arc<dyn Inode>) -> Result<(), Errno> {
    let known = &inode.state().no_caps;
    if known.load(Ordering::Acquire) {
        return Ok(());
    }
    if inode.kind() == FileKind::Regular
        && let Some(xattrs) = inode.xattrs()
        && xattrs.get(CAPABILITY).is_ok()
    {
        match xattrs.remove(CAPABILITY) {
            // On a file of the host, the host takes them away with the change itself.
            Ok(()) | Err(Errno::EPERM | Errno::EACCES) => {}
            Err(errno) => return Err(errno),
        }
    }
    known.store(true, Ordering::Release);
    Ok(())
}

impl Context {
    /// Checks the name space's rules; `write`: set or remove.
    fn xattr_allowed(&self, target: &Target, name: &[u8], write: bool) -> Result<(), Errno> {
        let inode = target.inode();
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::ERANGE);
        }
        if write && let Target::Path(path) = target {
            path.mount.writable()?;
        }
        let admin = self.creds().capable(CAP_SYS_ADMIN);
        if let Some(rest) = name.strip_prefix(b"trusted.") {
            if rest.is_empty() {
                return Err(Errno::EINVAL);
            }
            return if admin { Ok(()) } else { Err(if write { Errno::EPERM } else { Errno::ENODATA }) };
        }
        if name.starts_with(b"security.") {
            let privileged = if name == CAPABILITY { self.creds().capable(CAP_SETFCAP) } else { admin };
            return if !write || privileged { Ok(()) } else { Err(Errno::EPERM) };
        }
        if name == b"system.posix_acl_access" || name == b"system.posix_acl_default" {
            return if !write || self.is_owner(inode)? { Ok(()) } else { Err(Errno::EPERM) };
        }
        if let Some(rest) = name.strip_prefix(b"user.") {
            if rest.is_empty() {
                return Err(Errno::EINVAL);
            }
            if !matches!(inode.kind(), FileKind::Regular | FileKind::Directory) {
                return Err(if write { Errno::EPERM } else { Errno::ENODATA });
            }
            if write && inode.kind() == FileKind::Directory {
                let attr = inode.attr()?;
                if attr.perm & chitin_abi::stat::S_ISVTX != 0 && !self.creds().owns(&attr) {
                    return Err(Errno::EPERM);
                }
            }
            return self.may(inode, if write { MAY_WRITE } else { MAY_READ });
        }
        Err(Errno::EOPNOTSUPP)
    }

    pub fn getxattr(&self, target: &Target, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattr_allowed(target, name, false)?;
        target.inode().xattrs().ok_or(Errno::EOPNOTSUPP)?.get(name)
    }

    pub fn setxattr(&self, target: &Target, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        if flags & !3 != 0 {
            return Err(Errno::EINVAL);
        }
        if name == CAPABILITY && !is_capability(value) {
            return Err(Errno::EINVAL);
        }
        self.xattr_allowed(target, name, true)?;
        if name == CAPABILITY {
            target.inode().state().no_caps.store(false, Ordering::Release);
        }
        target.inode().xattrs().ok_or(Errno::EOPNOTSUPP)?.set(name, value, flags)?;
        crate::notify::self_event(target.inode(), IN_ATTRIB);
        Ok(())
    }

    pub fn removexattr(&self, target: &Target, name: &[u8]) -> Result<(), Errno> {
        self.xattr_allowed(target, name, true)?;
        target.inode().xattrs().ok_or(Errno::EOPNOTSUPP)?.remove(name)?;
        crate::notify::self_event(target.inode(), IN_ATTRIB);
        Ok(())
    }

    /// Names the caller may see.
    pub fn listxattr(&self, target: &Target) -> Result<Vec<Vec<u8>>, Errno> {
        let Some(xattrs) = target.inode().xattrs() else { return Ok(Vec::new()) };
        let mut names = xattrs.list()?;
        if !self.creds().capable(CAP_SYS_ADMIN) {
            names.retain(|name| !name.starts_with(b"trusted."));
        }
        Ok(names)
    }
}
