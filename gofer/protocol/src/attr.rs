//! File and filesystem attributes as both sides exchange them.

use crate::wire::{Malformed, Reader, Writer};

/// A point in time since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

/// What `statx` tells of a file. Ids are those seen in the gofer's user namespace (unmapped: 65534);
/// `dev` and `ino` are the host's and must not reach a guest unmapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    pub dev: u64,
    pub ino: u64,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Zero where the filesystem keeps none.
    pub btime: Timestamp,
}

impl Attr {
    /// The file type bits, `S_IFMT` applied.
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    pub fn is_dir(&self) -> bool {
        self.file_type() == libc::S_IFDIR
    }

    pub fn is_file(&self) -> bool {
        self.file_type() == libc::S_IFREG
    }

    pub fn is_symlink(&self) -> bool {
        self.file_type() == libc::S_IFLNK
    }

    pub fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.dev);
        w.u64(self.ino);
        w.u32(self.mode);
        w.u32(self.nlink);
        w.u32(self.uid);
        w.u32(self.gid);
        w.u64(self.rdev);
        w.u64(self.size);
        w.u64(self.blocks);
        w.u32(self.blksize);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            time.encode(w);
        }
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<Attr, Malformed> {
        Ok(Attr {
            dev: r.u64()?,
            ino: r.u64()?,
            mode: r.u32()?,
            nlink: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
            rdev: r.u64()?,
            size: r.u64()?,
            blocks: r.u64()?,
            blksize: r.u32()?,
            atime: Timestamp::decode(r)?,
            mtime: Timestamp::decode(r)?,
            ctime: Timestamp::decode(r)?,
            btime: Timestamp::decode(r)?,
        })
    }
}

impl Timestamp {
    fn encode(self, w: &mut Writer<'_>) {
        w.i64(self.sec);
        w.u32(self.nsec);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
        let time = Timestamp { sec: r.i64()?, nsec: r.u32()? };
        if time.nsec >= 1_000_000_000 {
            return Err(Malformed("a timestamp with too many nanoseconds"));
        }
        Ok(time)
    }
}

/// One of the two times `utimensat` sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeSet {
    /// Leave it.
    #[default]
    Omit,
    /// The host's present time.
    Now,
    At(Timestamp),
}

impl TimeSet {
    fn encode(self, w: &mut Writer<'_>) {
        let (tag, time) = match self {
            TimeSet::Omit => (0, Timestamp::default()),
            TimeSet::Now => (1, Timestamp::default()),
            TimeSet::At(time) => (2, time),
        };
        w.u8(tag);
        time.encode(w);
    }

    fn decode(r: &mut Reader<'_>) -> Result<TimeSet, Malformed> {
        let tag = r.u8()?;
        let time = Timestamp::decode(r)?;
        match tag {
            0 => Ok(TimeSet::Omit),
            1 => Ok(TimeSet::Now),
            2 => Ok(TimeSet::At(time)),
            _ => Err(Malformed("an unknown way to set a time")),
        }
    }
}

/// A change of attributes; what is `None` stays. Applied in the order owner, mode, size, times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits, type bits are ignored.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: TimeSet,
    pub mtime: TimeSet,
}

impl SetAttr {
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        for field in [self.mode, self.uid, self.gid] {
            w.u8(u8::from(field.is_some()));
            w.u32(field.unwrap_or(0));
        }
        w.u8(u8::from(self.size.is_some()));
        w.u64(self.size.unwrap_or(0));
        self.atime.encode(w);
        self.mtime.encode(w);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<SetAttr, Malformed> {
        let mut word = || -> Result<Option<u32>, Malformed> {
            let set = r.flag()?;
            let value = r.u32()?;
            Ok(set.then_some(value))
        };
        let (mode, uid, gid) = (word()?, word()?, word()?);
        let sized = r.flag()?;
        let size = r.u64()?;
        Ok(SetAttr {
            mode,
            uid,
            gid,
            size: sized.then_some(size),
            atime: TimeSet::decode(r)?,
            mtime: TimeSet::decode(r)?,
        })
    }
}

/// What `statfs` tells of the filesystem a node lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    pub fstype: u64,
    pub bsize: u64,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub namelen: u64,
    pub frsize: u64,
    /// `ST_*` mount flags.
    pub flags: u64,
}

impl StatFs {
    pub fn encode(&self, w: &mut Writer<'_>) {
        for field in [
            self.fstype,
            self.bsize,
            self.blocks,
            self.bfree,
            self.bavail,
            self.files,
            self.ffree,
            self.namelen,
            self.frsize,
            self.flags,
        ] {
            w.u64(field);
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<StatFs, Malformed> {
        Ok(StatFs {
            fstype: r.u64()?,
            bsize: r.u64()?,
            blocks: r.u64()?,
            bfree: r.u64()?,
            bavail: r.u64()?,
            files: r.u64()?,
            ffree: r.u64()?,
            namelen: r.u64()?,
            frsize: r.u64()?,
            flags: r.u64()?,
        })
    }
}
