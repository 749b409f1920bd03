//! Open regular files: every call goes to where the content is by then.
//!
//! A mapping made before a copy-up keeps the lower file's pages, as on Linux.

use crate::node::Node;
use chitin_abi::Errno;
use chitin_abi::fcntl::{
    FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, O_ACCMODE, O_NOATIME, O_TRUNC, O_WRONLY,
};
use chitin_abi::num::to_usize;
use chitin_fs_tmpfs::FileData;
use chitin_host::bounce::Bounce;
use chitin_mm::{Sink, SliceSource, Source};
use chitin_vfs::{FileOps, Mappable, WriteAt, Written};
use parking_lot::Mutex;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) struct OverlayFile {
    node: Arc<Node>,
    flags: AtomicU32,
    /// The open lower file, until a copy-up is noticed.
    lower: Mutex<Option<Arc<dyn FileOps>>>,
}

/// Where the content is.
enum At {
    Lower(Arc<dyn FileOps>),
    Upper(Arc<FileData>),
}

impl OverlayFile {
    pub(crate) fn open(node: Arc<Node>, flags: u32) -> Result<Arc<OverlayFile>, Errno> {
        // What is truncated or only written need not be opened below.
        let reads = flags & O_TRUNC == 0 && flags & O_ACCMODE != O_WRONLY;
        let lower = if reads && node.upper().is_none() { Some(node.lower_ops()?) } else { None };
        Ok(Arc::new(OverlayFile { node, flags: AtomicU32::new(flags), lower: Mutex::new(lower) }))
    }

    fn at(&self) -> Result<At, Errno> {
        let mut lower = self.lower.lock();
        match (self.node.upper(), &*lower) {
            (Some(data), _) => {
                *lower = None;
                Ok(At::Upper(data))
            }
            (None, Some(ops)) => Ok(At::Lower(ops.clone())),
            (None, None) => {
                let ops = self.node.lower_ops()?;
                *lower = Some(ops.clone());
                Ok(At::Lower(ops))
            }
        }
    }

    fn accessed(&self) {
        if self.flags.load(Ordering::Relaxed) & O_NOATIME == 0 {
            self.node.accessed();
        }
    }

    fn for_writing(&self) -> Result<Arc<FileData>, Errno> {
        self.node.copy_up(u64::MAX)
    }
}

/// Copies the first `size` bytes of an open file into an empty one.
pub(crate) fn copy(from: &dyn FileOps, to: &FileData, size: u64) -> Result<(), Errno> {
    if let Ok(Mappable::Host(fd)) = from.mmap(false) {
        return to.import(fd.as_fd(), size);
    }
    let mut bounce = Bounce::take();
    let mut pos = 0;
    while pos < size {
        let chunk = to_usize((size - pos).min(bounce.len() as u64));
        let mut room = bounce.get_mut(..chunk).ok_or(Errno::EIO)?;
        let count = from.read(pos, &mut room)?;
        if count == 0 {
            break;
        }
        let mut source = SliceSource::new(bounce.get(..count).unwrap_or_default());
        let written = to.write(WriteAt::At(pos), &mut source)?;
        if written.count < count {
            return Err(Errno::ENOSPC);
        }
        pos = written.end;
    }
    to.truncate(size)
}

impl FileOps for OverlayFile {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let count = match self.at()? {
            At::Lower(ops) => ops.read(pos, dst)?,
            At::Upper(data) => data.read(pos, dst)?,
        };
        self.accessed();
        Ok(count)
    }

    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        if src.left() == 0 {
            let end = match at {
                WriteAt::At(pos) => pos,
                WriteAt::End => self.size()?,
            };
            return Ok(Written { count: 0, end });
        }
        let written = self.for_writing()?.write(at, src)?;
        self.node.touch()?;
        Ok(written)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64, Errno> {
        match self.at()? {
            At::Lower(ops) => ops.size(),
            At::Upper(data) => Ok(data.size()),
        }
    }

    fn seek_hole(&self, pos: u64, data: bool) -> Result<u64, Errno> {
        match self.at()? {
            At::Lower(ops) => ops.seek_hole(pos, data),
            At::Upper(content) => content.seek_hole(pos, data),
        }
    }

    fn mmap(&self, writable: bool) -> Result<Mappable, Errno> {
        self.accessed();
        if writable {
            let data = self.for_writing()?;
            self.node.touch()?;
            return data.mmap(true);
        }
        match self.at()? {
            At::Lower(ops) => ops.mmap(false),
            At::Upper(data) => data.mmap(false),
        }
    }

    fn fsync(&self, _data_only: bool) -> Result<(), Errno> {
        // The layer goes with the sentry: there is nothing to make stable.
        Ok(())
    }

    fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        if mode & !(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.for_writing()?.fallocate(mode, offset, len)?;
        self.node.touch()
    }

    fn flags_changed(&self, flags: u32) -> Result<(), Errno> {
        self.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }
}
