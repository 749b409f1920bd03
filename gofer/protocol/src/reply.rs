//! Replies: gofer to sentry.
//!
//! A reply begins with an errno (0: success) and goes on with what the request asked for. Whether a
//! descriptor comes along is part of the request's contract and checked by the client.

use crate::attr::Attr;
use crate::wire::{Malformed, Reader, Writer};
use crate::{NAME_MAX, NodeId, PATH_MAX, REPLY_MAX, StatFs, WALK_MAX, XATTR_MAX};

/// Starts a successful reply in `out`.
pub fn begin_ok(out: &mut Vec<u8>) -> Writer<'_> {
    let mut w = Writer::new(out, REPLY_MAX);
    w.i32(0);
    w
}

/// Makes `out` the reply that says `errno`.
pub fn begin_error(out: &mut Vec<u8>, errno: i32) {
    let mut w = Writer::new(out, REPLY_MAX);
    w.i32(if errno > 0 { errno } else { libc::EIO });
}

/// The head every reply has.
#[derive(Debug)]
pub struct ReplyHead;

impl ReplyHead {
    /// Takes the head off: the reader of the body, or the errno.
    pub fn decode(packet: &[u8]) -> Result<Result<Reader<'_>, i32>, Malformed> {
        let mut r = Reader::new(packet);
        match r.i32()? {
            0 => Ok(Ok(r)),
            errno @ 1..=4095 => {
                r.end()?;
                Ok(Err(errno))
            }
            _ => Err(Malformed("a reply whose errno is out of range")),
        }
    }
}

/// A node together with its attributes at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAttr {
    pub node: NodeId,
    pub attr: Attr,
}

impl NodeAttr {
    pub fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.node);
        self.attr.encode(w);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<NodeAttr, Malformed> {
        Ok(NodeAttr { node: r.u64()?, attr: Attr::decode(r)? })
    }
}

/// One component that was found.
pub type WalkStep = NodeAttr;

/// Why a walk ended after its last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// Every name was found.
    Complete,
    /// The last step is a symbolic link (whether or not names remain); this is its target.
    Symlink(Vec<u8>),
    /// The last step is neither a directory nor a symbolic link, and names remain.
    NotDirectory,
    /// The name after the last step could not be looked up: `ENOENT` and the like.
    Errno(i32),
}

/// What became of a walk: one step per component found, each holding a reference to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    pub steps: Vec<WalkStep>,
    pub end: WalkEnd,
}

/// Tags of [`WalkEnd`] on the wire; steps are tagged too, so that the server streams them.
pub mod end_tag {
    pub const COMPLETE: u8 = 0;
    pub const SYMLINK: u8 = 1;
    pub const NOT_DIRECTORY: u8 = 2;
    pub const ERRNO: u8 = 3;
    pub const STEP: u8 = 4;
}

impl Walk {
    pub(crate) fn decode(r: &mut Reader<'_>, asked: usize) -> Result<Walk, Malformed> {
        let asked = asked.min(WALK_MAX);
        let mut steps = Vec::with_capacity(asked);
        let end = loop {
            match r.u8()? {
                end_tag::STEP if steps.len() < asked => steps.push(NodeAttr::decode(r)?),
                end_tag::STEP => return Err(Malformed("a walk of more steps than names")),
                end_tag::COMPLETE if steps.len() == asked => break WalkEnd::Complete,
                end_tag::COMPLETE => return Err(Malformed("a complete walk that lacks steps")),
                end_tag::SYMLINK => break WalkEnd::Symlink(r.bytes(PATH_MAX)?.to_vec()),
                end_tag::NOT_DIRECTORY => break WalkEnd::NotDirectory,
                end_tag::ERRNO => break WalkEnd::Errno(errno(r)?),
                _ => return Err(Malformed("an unknown end of a walk")),
            }
        };
        if steps.is_empty() && matches!(end, WalkEnd::Symlink(_) | WalkEnd::NotDirectory) {
            return Err(Malformed("a walk that ends at a step it lacks"));
        }
        Ok(Walk { steps, end })
    }
}

fn errno(r: &mut Reader<'_>) -> Result<i32, Malformed> {
    match r.i32()? {
        errno @ 1..=4095 => Ok(errno),
        _ => Err(Malformed("an errno out of range")),
    }
}

/// One entry of a directory; `.` and `..` are never among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    /// `DT_*`.
    pub kind: u8,
    /// Cookie to go on after this entry.
    pub next: u64,
    /// Attributes, if they were asked for and the file was still there.
    pub attr: Option<Attr>,
}

impl DirEntry<'_> {
    pub fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.ino);
        w.u64(self.next);
        w.u8(self.kind);
        w.u8(u8::from(self.attr.is_some()));
        if let Some(attr) = &self.attr {
            attr.encode(w);
        }
        w.bytes(self.name, NAME_MAX);
    }

    fn decode<'a>(r: &mut Reader<'a>) -> Result<DirEntry<'a>, Malformed> {
        let (ino, next, kind) = (r.u64()?, r.u64()?, r.u8()?);
        let attr = if r.flag()? { Some(Attr::decode(r)?) } else { None };
        Ok(DirEntry { ino, next, kind, attr, name: r.bytes(NAME_MAX)? })
    }
}

/// A batch of directory entries, parsed while it is iterated. Empty means: the directory is at its end.
#[derive(Clone, Debug, Default)]
pub struct DirEntries {
    count: usize,
    packed: Vec<u8>,
}

impl DirEntries {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<DirEntries, Malformed> {
        let count = usize::try_from(r.u32()?).unwrap_or(usize::MAX);
        let packed = r.rest();
        let mut check = Reader::new(packed);
        for _ in 0..count {
            let entry = DirEntry::decode(&mut check)?;
            if entry.name.is_empty() || entry.name.iter().any(|b| matches!(b, 0 | b'/')) {
                return Err(Malformed("a directory entry whose name is no name"));
            }
        }
        check.end()?;
        Ok(DirEntries { count, packed: packed.to_vec() })
    }

    pub fn iter(&self) -> impl Iterator<Item = DirEntry<'_>> {
        let mut r = Reader::new(&self.packed);
        std::iter::from_fn(move || DirEntry::decode(&mut r).ok()).take(self.count)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Runs every parser of a reply over a packet, for fuzzing: must return, whatever the bytes.
pub fn parse_as_any_reply(packet: &[u8]) {
    let Ok(Ok(body)) = ReplyHead::decode(packet) else { return };
    for asked in [0, 1, WALK_MAX] {
        drop(Walk::decode(&mut body.clone(), asked));
    }
    if let Ok(entries) = DirEntries::decode(&mut body.clone()) {
        // What was accepted as so many entries yields so many.
        assert_eq!(entries.iter().count(), entries.len());
    }
    let _ = (NodeAttr::decode(&mut body.clone()), StatFs::decode(&mut body.clone()));
    let _ = body.clone().bytes(XATTR_MAX);
}

#[cfg(test)]
mod tests;
