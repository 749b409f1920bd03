//! Attributes: the cached copy of an inode and the translation from the protocol's to the guest's.
//!
//! Who changes a file on the host calls [`Cached::changed`] afterwards, which counts `version` up. An answer that was
//! asked for before a change is recognised by the version it was asked at, and not kept.

use chitin_abi::stat::makedev;
use chitin_abi::time::{CLOCK_MONOTONIC, Timespec};
use chitin_gofer_protocol::{Attr as HostAttr, TimeSet, Timestamp};
use chitin_vfs::{Attr, FileKind, SetTime};

/// How long attributes of a shared tree serve: about one system call, which asks for them several times over.
const SHARED_REUSE_NS: u64 = 100_000;

/// The last known attributes of an inode.
#[derive(Debug)]
pub struct Cached {
    pub attr: HostAttr,
    pub version: u64,
    stale: bool,
    /// When they were asked, for shared trees.
    at: u64,
}

impl Cached {
    pub fn new(attr: HostAttr, shared: bool) -> Cached {
        Cached { attr, version: 0, stale: false, at: if shared { now() } else { 0 } }
    }

    pub fn fresh(&self, shared: bool) -> bool {
        !self.stale && (!shared || now().saturating_sub(self.at) < SHARED_REUSE_NS)
    }

    /// Keeps an answer asked for at `version`.
    pub fn store(&mut self, attr: HostAttr, version: u64, shared: bool) {
        if self.version == version {
            self.attr = attr;
            self.stale = false;
            self.at = if shared { now() } else { 0 };
        }
    }

    /// The file was changed: what is known, and what is being asked right now, is out of date.
    pub fn changed(&mut self) {
        self.version = self.version.wrapping_add(1);
        self.stale = true;
    }
}

fn now() -> u64 {
    chitin_host::clock::now_ns(CLOCK_MONOTONIC)
}

fn time(at: Timestamp) -> Timespec {
    Timespec { tv_sec: at.sec, tv_nsec: i64::from(at.nsec) }
}

/// What the guest sees of a host file.
pub fn guest_attr(attr: &HostAttr, kind: FileKind, dev: u64, ino: u64) -> Attr {
    Attr {
        dev,
        ino,
        kind,
        perm: attr.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: makedev(chitin_abi::stat::major(attr.rdev), chitin_abi::stat::minor(attr.rdev)),
        size: attr.size,
        blocks: attr.blocks,
        blksize: attr.blksize,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        btime: time(attr.btime),
    }
}

pub fn time_set(set: Option<SetTime>) -> TimeSet {
    match set {
        None => TimeSet::Omit,
        Some(SetTime::Now) => TimeSet::Now,
        Some(SetTime::At(at)) => {
            let nsec = u32::try_from(at.tv_nsec).unwrap_or(0);
            TimeSet::At(Timestamp { sec: at.tv_sec, nsec })
        }
    }
}

/// Takes over what fstat(2) in this process tells; owner, numbers and birth time stay, as they mean something else here.
pub fn refresh(attr: &mut HostAttr, host: &chitin_host::hostfile::HostAttr) {
    let stamp = |(sec, nsec): (i64, u32)| Timestamp { sec, nsec };
    attr.mode = host.mode;
    attr.nlink = host.nlink;
    attr.size = host.size;
    attr.blocks = host.blocks;
    attr.atime = stamp(host.atime);
    attr.mtime = stamp(host.mtime);
    attr.ctime = stamp(host.ctime);
}
