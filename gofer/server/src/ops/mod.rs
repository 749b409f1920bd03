//! One handler per request, by family; this file is the dispatch.
//!
//! A handler looks its nodes up, refuses what the root or the protocol forbids, makes the host calls,
//! and writes the reply's body. It never answers success in part: if the reply cannot be written, the
//! client gets an errno.

mod attr;
mod create;
pub mod dir;
mod names;
mod walk;
mod xattr;

use std::os::fd::OwnedFd;

use chitin_gofer_protocol::wire::Writer;
use chitin_gofer_protocol::{PATH_MAX, Request, begin_ok};
use nix::errno::Errno;

use crate::server::{Scratch, Server};

impl Server {
    pub(crate) fn handle(
        &self,
        request: &Request<'_>,
        scratch: &mut Scratch,
    ) -> Result<Option<OwnedFd>, Errno> {
        let mut fd = None;
        let Scratch { reply, data } = scratch;
        let mut w = begin_ok(reply);
        match *request {
            Request::Channel => return Err(Errno::EINVAL),
            Request::Attach { root } => self.attach(root)?.encode(&mut w),
            Request::Walk { node, names } => self.walk(node, names, &mut w)?,
            Request::Open { node, flags } => fd = Some(self.open(node, flags)?),
            Request::Create { parent, name, flags, mode, uid, gid } => {
                let (created, file) = self.create(parent, name, flags, mode, (uid, gid))?;
                created.encode(&mut w);
                fd = Some(file);
            }
            Request::Mkdir { parent, name, mode, uid, gid } => {
                self.mkdir(parent, name, mode, (uid, gid))?.encode(&mut w);
            }
            Request::Symlink { parent, name, target, uid, gid } => {
                self.symlink(parent, name, target, (uid, gid))?.encode(&mut w);
            }
            Request::Mknod { parent, name, mode, rdev, uid, gid } => {
                self.mknod(parent, name, mode, rdev, (uid, gid))?.encode(&mut w);
            }
            Request::Link { node, parent, name } => self.link(node, parent, name)?.encode(&mut w),
            Request::Rename { from, from_name, to, to_name, flags } => {
                self.rename(from, from_name, to, to_name, flags)?;
            }
            Request::Unlink { parent, name, flags } => self.unlink(parent, name, flags)?,
            Request::SetAttr { node, attr } => self.setattr(node, &attr)?.encode(&mut w),
            Request::GetAttr { node } => self.getattr(node)?.encode(&mut w),
            Request::ReadLink { node } => w.bytes(&self.readlink(node)?, PATH_MAX),
            Request::StatFs { node } => self.statfs(node)?.encode(&mut w),
            Request::GetXattr { node, name } => self.getxattr(node, name, data, &mut w)?,
            Request::SetXattr { node, name, value, flags } => self.setxattr(node, name, value, flags)?,
            Request::ListXattr { node } => self.listxattr(node, data, &mut w)?,
            Request::RemoveXattr { node, name } => self.removexattr(node, name)?,
            Request::ReadDir { node, cookie, attrs } => self.readdir(node, cookie, attrs, data, &mut w)?,
            Request::Close { nodes } => self.close(nodes),
            Request::Fsync { node, data_only } => self.fsync(node, data_only)?,
            // Sockets of the host would be a way around the container's network; not offered so far.
            Request::Bind { .. } | Request::Connect { .. } => return Err(Errno::EOPNOTSUPP),
        }
        finish(w)?;
        Ok(fd)
    }
}

fn finish(w: Writer<'_>) -> Result<(), Errno> {
    w.finish().map_err(|_| Errno::EMSGSIZE)
}
