//! Extended attributes: `user.*`, file capabilities, POSIX ACLs. Everything else stays the host's.

use std::ffi::CString;

use chitin_gofer_protocol::wire::Writer;
use chitin_gofer_protocol::{NodeId, XATTR_MAX};
use nix::errno::Errno;

use crate::host;
use crate::server::Server;

/// What is reachable apart from `user.*`.
const SYSTEM: [&[u8]; 3] = [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];

fn is_served(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && name.len() > b"user.".len()) || SYSTEM.contains(&name)
}

/// Checks a name; `trusted` is the errno for that family, which differs between reading and writing.
fn check(name: &[u8], trusted: Errno) -> Result<CString, Errno> {
    if name.is_empty() {
        return Err(Errno::ERANGE);
    }
    if name.starts_with(b"trusted.") {
        return Err(trusted);
    }
    if !is_served(name) {
        return Err(Errno::EOPNOTSUPP);
    }
    CString::new(name).map_err(|_| Errno::EINVAL)
}

impl Server {
    pub(super) fn getxattr(
        &self,
        id: NodeId,
        name: &[u8],
        data: &mut Vec<u8>,
        w: &mut Writer<'_>,
    ) -> Result<(), Errno> {
        let name = check(name, Errno::ENODATA)?;
        let node = self.node(id)?;
        let path = self.path_of(node.fd());
        data.resize(XATTR_MAX, 0);
        let len = host::getxattr(&path, &name, data)?;
        w.bytes(data.get(..len).ok_or(Errno::ERANGE)?, XATTR_MAX);
        Ok(())
    }

    pub(super) fn setxattr(&self, id: NodeId, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        let name = check(name, Errno::EPERM)?;
        let flags = i32::try_from(flags)
            .ok()
            .filter(|flags| matches!(*flags, 0 | libc::XATTR_CREATE | libc::XATTR_REPLACE))
            .ok_or(Errno::EINVAL)?;
        let node = self.node(id)?;
        self.writable(&node)?;
        host::setxattr(&self.path_of(node.fd()), &name, value, flags)
    }

    pub(super) fn listxattr(&self, id: NodeId, data: &mut Vec<u8>, w: &mut Writer<'_>) -> Result<(), Errno> {
        let node = self.node(id)?;
        let path = self.path_of(node.fd());
        data.resize(XATTR_MAX, 0);
        let len = host::listxattr(&path, data)?;
        let all = data.get(..len).ok_or(Errno::ERANGE)?;
        let mut served = Vec::with_capacity(len);
        for name in all.split_inclusive(|b| *b == 0) {
            if name.strip_suffix(b"\0").is_some_and(is_served) {
                served.extend_from_slice(name);
            }
        }
        w.bytes(&served, XATTR_MAX);
        Ok(())
    }

    pub(super) fn removexattr(&self, id: NodeId, name: &[u8]) -> Result<(), Errno> {
        let name = check(name, Errno::EPERM)?;
        let node = self.node(id)?;
        self.writable(&node)?;
        host::removexattr(&self.path_of(node.fd()), &name)
    }
}
