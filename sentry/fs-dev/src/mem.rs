//! /dev/null, /dev/zero, /dev/full, /dev/random and /dev/urandom (drivers/char/mem.c, random.c).

use chitin_abi::Errno;
use chitin_abi::ioctl::{
    RNDADDENTROPY, RNDADDTOENTCNT, RNDCLEARPOOL, RNDGETENTCNT, RNDRESEEDCRNG, RNDZAPENTCNT,
};
use chitin_abi::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use chitin_abi::stat::minor;
use chitin_mm::{Mm, Sink, Source};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Device, FileOps, Inode, Mappable, Path, PollTable, WriteAt, Written};
use std::sync::Arc;

/// The driver of major 1.
pub struct MemDevices;

impl Device for MemDevices {
    fn open(
        &self,
        rdev: u64,
        _inode: &Arc<dyn Inode>,
        _path: &Path,
        _flags: u32,
        _caller: &Caller,
    ) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(match minor(rdev) {
            3 => Arc::new(Null),
            5 => Arc::new(Zero),
            7 => Arc::new(Full),
            8 | 9 => Arc::new(Random),
            _ => return Err(Errno::ENXIO),
        })
    }
}

/// A write that goes nowhere: all of it is taken, without a look.
fn swallow(at: WriteAt, src: &mut dyn Source) -> Written {
    let count = src.left();
    src.skip(count);
    let pos = if let WriteAt::At(pos) = at { pos } else { 0 };
    Written { count, end: pos.saturating_add(count as u64) }
}

/// A read of zeroes, to the end of the buffer or what can be stored of it.
fn zeroes(dst: &mut dyn Sink) -> Result<usize, Errno> {
    const ZEROES: &[u8] = &[0; 64 << 10];
    let mut done = 0;
    while dst.room() > 0 {
        match dst.put(ZEROES) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

struct Null;

impl FileOps for Null {
    fn read(&self, _pos: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Ok(0)
    }
    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        Ok(swallow(at, src))
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(0)
    }
}

struct Zero;

impl FileOps for Zero {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        zeroes(dst)
    }
    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        Ok(swallow(at, src))
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(0)
    }
    fn mmap(&self, _writable: bool) -> Result<Mappable, Errno> {
        Ok(Mappable::Anonymous)
    }
}

struct Full;

impl FileOps for Full {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        zeroes(dst)
    }
    fn write(&self, _at: WriteAt, _src: &mut dyn Source) -> Result<Written, Errno> {
        Err(Errno::ENOSPC)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(0)
    }
}

struct Random;

/// The most one read answers, so that none keeps a thread of the sentry for long.
const RANDOM_MAX: usize = (32 << 20) - 1;

impl FileOps for Random {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let mut buf = vec![0; dst.room().min(64 << 10)];
        let mut done = 0;
        while dst.room() > 0 && done < RANDOM_MAX {
            let want = dst.room().min(buf.len());
            let part = buf.get_mut(..want).unwrap_or_default();
            chitin_host::random::fill(part).map_err(|_| Errno::EIO)?;
            match dst.put(part) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
    /// Anybody may stir the pool; it is the host's, which needs no stirring.
    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        Ok(swallow(at, src))
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(0)
    }
    fn poll(&self, _table: Option<&mut PollTable>) -> u32 {
        POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM
    }
    fn pollable(&self) -> bool {
        true
    }
    fn ioctl(&self, _caller: &Caller, cmd: u32, arg: u64, mm: &Arc<Mm>) -> Result<i64, Errno> {
        match cmd {
            RNDGETENTCNT => {
                // POOL_READY_BITS: always full.
                mm.write(arg, &256i32)?;
                Ok(0)
            }
            // The host's pool is not the sandbox's to administer.
            RNDADDTOENTCNT | RNDADDENTROPY | RNDZAPENTCNT | RNDCLEARPOOL | RNDRESEEDCRNG => Err(Errno::EPERM),
            _ => Err(Errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_mm::{SliceSource, VecSink};

    fn read(ops: &dyn FileOps, limit: usize) -> Vec<u8> {
        let mut sink = VecSink { data: Vec::new(), limit };
        let count = ops.read(0, &mut sink).unwrap();
        assert_eq!(count, sink.data.len());
        sink.data
    }

    #[test]
    fn reads_and_writes() {
        assert!(read(&Null, 10).is_empty());
        assert_eq!(read(&Zero, 200_000), vec![0; 200_000]);
        assert_eq!(read(&Full, 10), [0; 10]);
        let random = read(&Random, 100_000);
        assert_eq!(random.len(), 100_000);
        assert!(random.chunks(1000).all(|part| part.iter().any(|&b| b != 0)));
        for ops in [&Null as &dyn FileOps, &Zero, &Random] {
            let mut src = SliceSource::new(&[1; 300]);
            assert_eq!(ops.write(WriteAt::At(5), &mut src), Ok(Written { count: 300, end: 305 }));
            assert_eq!(src.left(), 0);
        }
        assert_eq!(Full.write(WriteAt::End, &mut SliceSource::new(b"x")), Err(Errno::ENOSPC));
    }
}
