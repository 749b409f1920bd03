//! Requests: sentry to gofer.
//!
//! A request borrows its strings, both when it is built and when it is parsed. Parsing checks shape
//! and bounds only; what names and flags mean is the server's business to refuse.

use crate::attr::SetAttr;
use crate::wire::{Malformed, Overflow, Reader, Writer};
use crate::{CLOSE_MAX, NAME_MAX, NodeId, PATH_MAX, REQUEST_MAX, WALK_MAX, XATTR_MAX};

/// Longest extended attribute name.
const XATTR_NAME_MAX: usize = 255;
/// Longest path of an AF_UNIX address.
const SUN_PATH_MAX: usize = 108;

/// Names to walk, either to be sent or as received.
#[derive(Clone, Copy, Debug)]
pub enum Names<'a> {
    List(&'a [&'a [u8]]),
    /// Checked by the parser: `count` strings and nothing else.
    Packed {
        count: u16,
        bytes: &'a [u8],
    },
}

impl<'a> Names<'a> {
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (list, mut packed) = match *self {
            Names::List(list) => (list, Reader::new(&[])),
            Names::Packed { bytes, .. } => (&[][..], Reader::new(bytes)),
        };
        list.iter().copied().chain(std::iter::from_fn(move || packed.bytes(NAME_MAX).ok()))
    }

    pub fn len(&self) -> usize {
        match *self {
            Names::List(list) => list.len(),
            Names::Packed { count, .. } => usize::from(count),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Names<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Nodes to close, either to be sent or as received.
#[derive(Clone, Copy, Debug)]
pub enum Nodes<'a> {
    List(&'a [NodeId]),
    Packed(&'a [u8]),
}

impl<'a> Nodes<'a> {
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + use<'a> {
        let (list, mut packed) = match *self {
            Nodes::List(list) => (list, Reader::new(&[])),
            Nodes::Packed(bytes) => (&[][..], Reader::new(bytes)),
        };
        list.iter().copied().chain(std::iter::from_fn(move || packed.u64().ok()))
    }
}

impl PartialEq for Nodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// What a client may ask. The reply of each is documented at the method of [`crate::Client`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Request<'a> {
    /// A further channel; its descriptor comes with the reply.
    Channel,
    Attach {
        root: u32,
    },
    Walk {
        node: NodeId,
        names: Names<'a>,
    },
    Open {
        node: NodeId,
        flags: u32,
    },
    Create {
        parent: NodeId,
        name: &'a [u8],
        flags: u32,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Mkdir {
        parent: NodeId,
        name: &'a [u8],
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Symlink {
        parent: NodeId,
        name: &'a [u8],
        target: &'a [u8],
        uid: u32,
        gid: u32,
    },
    Mknod {
        parent: NodeId,
        name: &'a [u8],
        mode: u32,
        rdev: u64,
        uid: u32,
        gid: u32,
    },
    Link {
        node: NodeId,
        parent: NodeId,
        name: &'a [u8],
    },
    Rename {
        from: NodeId,
        from_name: &'a [u8],
        to: NodeId,
        to_name: &'a [u8],
        flags: u32,
    },
    Unlink {
        parent: NodeId,
        name: &'a [u8],
        flags: u32,
    },
    SetAttr {
        node: NodeId,
        attr: SetAttr,
    },
    GetAttr {
        node: NodeId,
    },
    ReadLink {
        node: NodeId,
    },
    StatFs {
        node: NodeId,
    },
    GetXattr {
        node: NodeId,
        name: &'a [u8],
    },
    SetXattr {
        node: NodeId,
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
    },
    ListXattr {
        node: NodeId,
    },
    RemoveXattr {
        node: NodeId,
        name: &'a [u8],
    },
    ReadDir {
        node: NodeId,
        cookie: u64,
        attrs: bool,
    },
    Close {
        nodes: Nodes<'a>,
    },
    Fsync {
        node: NodeId,
        data_only: bool,
    },
    /// Bind an AF_UNIX socket at a name; refused for now.
    Bind {
        parent: NodeId,
        name: &'a [u8],
    },
    /// Connect to an AF_UNIX socket of the host; refused for now.
    Connect {
        node: NodeId,
    },
}

mod op {
    pub const CHANNEL: u16 = 1;
    pub const ATTACH: u16 = 2;
    pub const WALK: u16 = 3;
    pub const OPEN: u16 = 4;
    pub const CREATE: u16 = 5;
    pub const MKDIR: u16 = 6;
    pub const SYMLINK: u16 = 7;
    pub const MKNOD: u16 = 8;
    pub const LINK: u16 = 9;
    pub const RENAME: u16 = 10;
    pub const UNLINK: u16 = 11;
    pub const SETATTR: u16 = 12;
    pub const GETATTR: u16 = 13;
    pub const READLINK: u16 = 14;
    pub const STATFS: u16 = 15;
    pub const GETXATTR: u16 = 16;
    pub const SETXATTR: u16 = 17;
    pub const LISTXATTR: u16 = 18;
    pub const REMOVEXATTR: u16 = 19;
    pub const READDIR: u16 = 20;
    pub const CLOSE: u16 = 21;
    pub const FSYNC: u16 = 22;
    pub const BIND: u16 = 23;
    pub const CONNECT: u16 = 24;
}

impl<'a> Request<'a> {
    /// Writes the packet into `out`, replacing its content.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Overflow> {
        let mut w = Writer::new(out, REQUEST_MAX);
        match *self {
            Request::Channel => w.u16(op::CHANNEL),
            Request::Attach { root } => {
                w.u16(op::ATTACH);
                w.u32(root);
            }
            Request::Walk { node, names } => {
                if names.len() > WALK_MAX {
                    return Err(Overflow);
                }
                w.u16(op::WALK);
                w.u64(node);
                w.u16(u16::try_from(names.len()).map_err(|_| Overflow)?);
                names.iter().for_each(|name| w.bytes(name, NAME_MAX));
            }
            Request::Open { node, flags } => {
                w.u16(op::OPEN);
                w.u64(node);
                w.u32(flags);
            }
            Request::Create { parent, name, flags, mode, uid, gid } => {
                w.u16(op::CREATE);
                w.u64(parent);
                w.bytes(name, NAME_MAX);
                [flags, mode, uid, gid].into_iter().for_each(|v| w.u32(v));
            }
            Request::Mkdir { parent, name, mode, uid, gid } => {
                w.u16(op::MKDIR);
                w.u64(parent);
                w.bytes(name, NAME_MAX);
                [mode, uid, gid].into_iter().for_each(|v| w.u32(v));
            }
            Request::Symlink { parent, name, target, uid, gid } => {
                w.u16(op::SYMLINK);
                w.u64(parent);
                w.bytes(name, NAME_MAX);
                w.bytes(target, PATH_MAX);
                [uid, gid].into_iter().for_each(|v| w.u32(v));
            }
            Request::Mknod { parent, name, mode, rdev, uid, gid } => {
                w.u16(op::MKNOD);
                w.u64(parent);
                w.bytes(name, NAME_MAX);
                w.u32(mode);
                w.u64(rdev);
                [uid, gid].into_iter().for_each(|v| w.u32(v));
            }
            Request::Link { node, parent, name } => {
                w.u16(op::LINK);
                w.u64(node);
                w.u64(parent);
                w.bytes(name, NAME_MAX);
            }
            Request::Rename { from, from_name, to, to_name, flags } => {
                w.u16(op::RENAME);
                w.u64(from);
                w.bytes(from_name, NAME_MAX);
                w.u64(to);
                w.bytes(to_name, NAME_MAX);
                w.u32(flags);
            }
            Request::Unlink { parent, name, flags } => {
                w.u16(op::UNLINK);
                w.u64(parent);
                w.bytes(name, NAME_MAX);
                w.u32(flags);
            }
            Request::SetAttr { node, attr } => {
                w.u16(op::SETATTR);
                w.u64(node);
                attr.encode(&mut w);
            }
            Request::GetAttr { node } => op_node(&mut w, op::GETATTR, node),
            Request::ReadLink { node } => op_node(&mut w, op::READLINK, node),
            Request::StatFs { node } => op_node(&mut w, op::STATFS, node),
            Request::GetXattr { node, name } => {
                op_node(&mut w, op::GETXATTR, node);
                w.bytes(name, XATTR_NAME_MAX);
            }
            Request::SetXattr { node, name, value, flags } => {
                op_node(&mut w, op::SETXATTR, node);
                w.bytes(name, XATTR_NAME_MAX);
                w.bytes(value, XATTR_MAX);
                w.u32(flags);
            }
            Request::ListXattr { node } => op_node(&mut w, op::LISTXATTR, node),
            Request::RemoveXattr { node, name } => {
                op_node(&mut w, op::REMOVEXATTR, node);
                w.bytes(name, XATTR_NAME_MAX);
            }
            Request::ReadDir { node, cookie, attrs } => {
                op_node(&mut w, op::READDIR, node);
                w.u64(cookie);
                w.u8(u8::from(attrs));
            }
            Request::Close { nodes } => {
                if nodes.iter().count() > CLOSE_MAX {
                    return Err(Overflow);
                }
                w.u16(op::CLOSE);
                nodes.iter().for_each(|node| w.u64(node));
            }
            Request::Fsync { node, data_only } => {
                op_node(&mut w, op::FSYNC, node);
                w.u8(u8::from(data_only));
            }
            Request::Bind { parent, name } => {
                op_node(&mut w, op::BIND, parent);
                w.bytes(name, SUN_PATH_MAX);
            }
            Request::Connect { node } => op_node(&mut w, op::CONNECT, node),
        }
        w.finish()
    }

    /// Parses a packet from an untrusted client.
    pub fn decode(packet: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut r = Reader::new(packet);
        let request = match r.u16()? {
            op::CHANNEL => Request::Channel,
            op::ATTACH => Request::Attach { root: r.u32()? },
            op::WALK => {
                let node = r.u64()?;
                let count = r.u16()?;
                if usize::from(count) > WALK_MAX {
                    return Err(Malformed("a walk of too many names"));
                }
                let bytes = r.rest();
                let mut check = Reader::new(bytes);
                for _ in 0..count {
                    check.bytes(NAME_MAX)?;
                }
                check.end()?;
                Request::Walk { node, names: Names::Packed { count, bytes } }
            }
            op::OPEN => Request::Open { node: r.u64()?, flags: r.u32()? },
            op::CREATE => Request::Create {
                parent: r.u64()?,
                name: r.bytes(NAME_MAX)?,
                flags: r.u32()?,
                mode: r.u32()?,
                uid: r.u32()?,
                gid: r.u32()?,
            },
            op::MKDIR => Request::Mkdir {
                parent: r.u64()?,
                name: r.bytes(NAME_MAX)?,
                mode: r.u32()?,
                uid: r.u32()?,
                gid: r.u32()?,
            },
            op::SYMLINK => Request::Symlink {
                parent: r.u64()?,
                name: r.bytes(NAME_MAX)?,
                target: r.bytes(PATH_MAX)?,
                uid: r.u32()?,
                gid: r.u32()?,
            },
            op::MKNOD => Request::Mknod {
                parent: r.u64()?,
                name: r.bytes(NAME_MAX)?,
                mode: r.u32()?,
                rdev: r.u64()?,
                uid: r.u32()?,
                gid: r.u32()?,
            },
            op::LINK => Request::Link { node: r.u64()?, parent: r.u64()?, name: r.bytes(NAME_MAX)? },
            op::RENAME => Request::Rename {
                from: r.u64()?,
                from_name: r.bytes(NAME_MAX)?,
                to: r.u64()?,
                to_name: r.bytes(NAME_MAX)?,
                flags: r.u32()?,
            },
            op::UNLINK => Request::Unlink { parent: r.u64()?, name: r.bytes(NAME_MAX)?, flags: r.u32()? },
            op::SETATTR => Request::SetAttr { node: r.u64()?, attr: SetAttr::decode(&mut r)? },
            op::GETATTR => Request::GetAttr { node: r.u64()? },
            op::READLINK => Request::ReadLink { node: r.u64()? },
            op::STATFS => Request::StatFs { node: r.u64()? },
            op::GETXATTR => Request::GetXattr { node: r.u64()?, name: r.bytes(XATTR_NAME_MAX)? },
            op::SETXATTR => Request::SetXattr {
                node: r.u64()?,
                name: r.bytes(XATTR_NAME_MAX)?,
                value: r.bytes(XATTR_MAX)?,
                flags: r.u32()?,
            },
            op::LISTXATTR => Request::ListXattr { node: r.u64()? },
            op::REMOVEXATTR => Request::RemoveXattr { node: r.u64()?, name: r.bytes(XATTR_NAME_MAX)? },
            op::READDIR => Request::ReadDir { node: r.u64()?, cookie: r.u64()?, attrs: r.flag()? },
            op::CLOSE => {
                let bytes = r.rest();
                if !bytes.len().is_multiple_of(size_of::<NodeId>()) {
                    return Err(Malformed("a list of nodes with a fraction of a node"));
                }
                if bytes.len() / size_of::<NodeId>() > CLOSE_MAX {
                    return Err(Malformed("a list of too many nodes"));
                }
                Request::Close { nodes: Nodes::Packed(bytes) }
            }
            op::FSYNC => Request::Fsync { node: r.u64()?, data_only: r.flag()? },
            op::BIND => Request::Bind { parent: r.u64()?, name: r.bytes(SUN_PATH_MAX)? },
            op::CONNECT => Request::Connect { node: r.u64()? },
            _ => return Err(Malformed("an unknown request")),
        };
        r.end()?;
        Ok(request)
    }
}

fn op_node(w: &mut Writer<'_>, op: u16, node: NodeId) {
    w.u16(op);
    w.u64(node);
}

#[cfg(test)]
mod tests;
