//! Open regular files of a tmpfs.

use crate::FileData;
use crate::inode::TmpInode;
use chitin_abi::Errno;
use chitin_abi::fcntl::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, O_NOATIME};
use chitin_mm::{Sink, Source};
use chitin_vfs::{FileOps, Mappable, WriteAt, Written};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct TmpFile {
    inode: Arc<TmpInode>,
    flags: AtomicU32,
}

impl TmpFile {
    pub(crate) fn new(inode: Arc<TmpInode>, flags: u32) -> Arc<TmpFile> {
        Arc::new(TmpFile { inode, flags: AtomicU32::new(flags) })
    }

    pub fn inode(&self) -> &Arc<TmpInode> {
        &self.inode
    }

    fn data(&self) -> Result<&FileData, Errno> {
        self.inode.data().ok_or(Errno::EIO)
    }

    fn accessed(&self) {
        if self.flags.load(Ordering::Relaxed) & O_NOATIME == 0 {
            self.inode.meta.lock().accessed();
        }
    }
}

impl FileOps for TmpFile {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let count = self.data()?.read(pos, dst)?;
        self.accessed();
        Ok(count)
    }

    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let written = self.data()?.write(at, src)?;
        if written.count > 0 {
            self.inode.meta.lock().touch();
        }
        Ok(written)
    }

    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(self.data()?.size())
    }
    fn seek_hole(&self, pos: u64, data: bool) -> Result<u64, Errno> {
        self.data()?.seek_hole(pos, data)
    }

    fn mmap(&self, writable: bool) -> Result<Mappable, Errno> {
        let mappable = self.data()?.mmap(writable)?;
        if writable {
            // Writes through the mapping happen unseen; this is the last time we are told.
            self.inode.meta.lock().touch();
        }
        self.accessed();
        Ok(mappable)
    }

    fn fsync(&self, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        if mode & !(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let data = self.data()?;
        let before = data.size();
        data.fallocate(mode, offset, len)?;
        let mut meta = self.inode.meta.lock();
        if mode & FALLOC_FL_PUNCH_HOLE != 0 || data.size() != before {
            meta.touch();
        } else {
            meta.touch_inode();
        }
        Ok(())
    }

    fn seals(&self) -> Result<u32, Errno> {
        self.inode.seals()
    }

    fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        self.inode.add_seals(seals)
    }

    fn flags_changed(&self, flags: u32) -> Result<(), Errno> {
        self.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }
}
