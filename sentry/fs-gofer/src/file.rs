//! Open regular files: content moves between the host's descriptor and the guest, without the gofer.

use crate::error::from_host;
use crate::inode::GoferInode;
use chitin_abi::Errno;
use chitin_host::bounce::{BOUNCE, Bounce};
use chitin_host::{filestore, hostfile};
use chitin_mm::{Sink, Source};
use chitin_vfs::{FileOps, Mappable, WriteAt, Written};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

pub struct GoferFile {
    inode: Arc<GoferInode>,
    fd: Arc<OwnedFd>,
    writes: bool,
}

impl GoferFile {
    pub(crate) fn new(inode: Arc<GoferInode>, fd: Arc<OwnedFd>, writes: bool) -> Arc<GoferFile> {
        Arc::new(GoferFile { inode, fd, writes })
    }

    /// The host's descriptor, for copies between files.
    pub fn host_fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    pub fn inode(&self) -> &Arc<GoferInode> {
        &self.inode
    }

    /// Moves content by one function that writes a piece and answers its length and end.
    fn copy_in(
        &self,
        src: &mut dyn Source,
        start: u64,
        mut put: impl FnMut(&[u8], u64) -> std::io::Result<(usize, u64)>,
    ) -> Result<Written, Errno> {
        let mut bounce = Bounce::take();
        let mut done = Written { count: 0, end: start };
        loop {
            let got = match src.take(&mut bounce) {
                Ok(0) => return Ok(done),
                Ok(got) => got,
                Err(error) if done.count == 0 => return Err(error),
                Err(_) => return Ok(done),
            };
            let piece = bounce.get(..got).unwrap_or_default();
            match put(piece, done.end) {
                Ok((count, end)) => {
                    let count = count.min(got);
                    done = Written { count: done.count.saturating_add(count), end };
                    if count < got {
                        src.untake(got.saturating_sub(count));
                        // The disk is full or a limit reached: the next call says which.
                        return Ok(done);
                    }
                }
                Err(error) => {
                    src.untake(got);
                    return if done.count == 0 { Err(from_host(error)) } else { Ok(done) };
                }
            }
        }
    }
}

impl FileOps for GoferFile {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if i64::try_from(pos).is_err() {
            return Err(Errno::EINVAL);
        }
        let mut done = 0usize;
        if dst.room() == 0 {
            return Ok(0);
        }
        let mut bounce = Bounce::take();
        while dst.room() > 0 {
            let want = dst.room().min(BOUNCE);
            let buffer = bounce.get_mut(..want).unwrap_or_default();
            let at = pos.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            let got = match filestore::pread(self.fd.as_fd(), buffer, at) {
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(error) => return Err(from_host(error)),
            };
            if got == 0 {
                break;
            }
            let taken = match dst.put(buffer.get(..got).unwrap_or_default()) {
                Ok(taken) => taken,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            done = done.saturating_add(taken);
            if taken < got || got < want {
                break;
            }
        }
        drop(bounce);
        self.inode.accessed();
        Ok(done)
    }

    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let fd = self.fd.as_fd();
        let written = match at {
            WriteAt::At(pos) => self.copy_in(src, pos, |piece, pos| {
                let count = filestore::pwrite(fd, piece, pos)?;
                Ok((count, pos.saturating_add(u64::try_from(count).unwrap_or(0))))
            })?,
            WriteAt::End => {
                if src.left() == 0 {
                    return Ok(Written { count: 0, end: self.size()? });
                }
                // The host appends atomically; the lock keeps guests' appends in one piece, and guards the
                // descriptor's offset, which tells where one ended.
                let _order = self.inode.appending.lock();
                self.copy_in(src, 0, |piece, _| hostfile::append(fd, piece))?
            }
        };
        if written.count > 0 {
            self.inode.written();
        }
        Ok(written)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(filestore::stat(self.fd.as_fd()).map_err(from_host)?.size)
    }

    fn seek_hole(&self, pos: u64, data: bool) -> Result<u64, Errno> {
        // Moves the descriptor's offset, which means nothing but to an append.
        let _order = self.inode.appending.lock();
        filestore::seek_hole(self.fd.as_fd(), pos, data).map_err(from_host)?.ok_or(Errno::ENXIO)
    }

    fn mmap(&self, writable: bool) -> Result<Mappable, Errno> {
        if writable && !self.writes {
            return Err(Errno::EACCES);
        }
        let mappable = Mappable::Host(self.inode.descriptor(writable)?);
        if writable {
            self.inode.set_mapped();
        } else {
            self.inode.accessed();
        }
        Ok(mappable)
    }

    fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        hostfile::sync(self.fd.as_fd(), data_only).map_err(from_host)
    }

    fn sync_waits(&self) -> bool {
        true
    }

    fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        hostfile::fallocate(self.fd.as_fd(), mode, offset, len).map_err(from_host)?;
        self.inode.written();
        Ok(())
    }
}
