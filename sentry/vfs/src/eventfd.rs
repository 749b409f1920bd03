//! eventfd(2): a counter as a file.
//!
//! Locks: `count` (leaf), not held while waking.

use crate::{File, FileOps, PollTable, WaitQueue, WriteAt, Written};
use chitin_abi::Errno;
use chitin_abi::eventfd::EFD_SEMAPHORE;
use chitin_abi::fcntl::{O_NONBLOCK, O_RDWR};
use chitin_abi::poll::{POLLERR, POLLIN, POLLOUT};
use chitin_mm::{Sink, Source};
use parking_lot::Mutex;
use std::sync::Arc;

/// The counter.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    /// `flags` are EFD_*, already checked.
    pub fn new(count: u32, flags: u32) -> Arc<EventFd> {
        Arc::new(EventFd {
            count: Mutex::new(u64::from(count)),
            semaphore: flags & EFD_SEMAPHORE != 0,
            queue: WaitQueue::new(),
        })
    }

    /// eventfd2(2): an open file. EINVAL for unknown flags.
    pub fn open(count: u32, flags: u32) -> Result<Arc<File>, Errno> {
        use chitin_abi::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};
        if flags & !(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE) != 0 {
            return Err(Errno::EINVAL);
        }
        let ops = EventFd::new(count, flags);
        Ok(File::anon(ops, "[eventfd]", O_RDWR | (flags & O_NONBLOCK)))
    }

    /// Adds one from within the kernel; stops at the overflow mark, which shows as POLLERR.
    pub fn signal(&self) {
        {
            let mut count = self.count.lock();
            *count = count.saturating_add(1);
        }
        self.queue.wake(POLLIN);
    }

    /// The counter, for fdinfo.
    pub fn count(&self) -> u64 {
        *self.count.lock()
    }

    pub fn is_semaphore(&self) -> bool {
        self.semaphore
    }
}

impl FileOps for EventFd {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.room() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = {
            let mut count = self.count.lock();
            if *count == 0 {
                return Err(Errno::EAGAIN);
            }
            let value = if self.semaphore { 1 } else { *count };
            *count -= value;
            value
        };
        self.queue.wake(POLLOUT);
        // As on Linux the count is gone even if it cannot be stored.
        match dst.put(&value.to_ne_bytes())? {
            8 => Ok(8),
            _ => Err(Errno::EFAULT),
        }
    }

    fn write(&self, _at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        if src.left() != 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if src.take(&mut bytes)? != 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            src.untake(8);
            return Err(Errno::EINVAL);
        }
        {
            let mut count = self.count.lock();
            if u64::MAX - *count <= value {
                src.untake(8);
                return Err(Errno::EAGAIN);
            }
            *count += value;
        }
        self.queue.wake(POLLIN);
        Ok(Written { count: 8, end: 0 })
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue);
        }
        let count = *self.count.lock();
        let mut mask = 0;
        if count > 0 {
            mask |= POLLIN;
        }
        if count == u64::MAX {
            mask |= POLLERR;
        }
        if count < u64::MAX - 1 {
            mask |= POLLOUT;
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_mm::SliceSource;

    fn write(file: &EventFd, value: u64) -> Result<usize, Errno> {
        let bytes = value.to_ne_bytes();
        file.write(WriteAt::End, &mut SliceSource::new(&bytes)).map(|written| written.count)
    }

    fn read(file: &EventFd) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        let count = file.read(0, &mut bytes.as_mut_slice())?;
        assert_eq!(count, 8);
        Ok(u64::from_ne_bytes(bytes))
    }

    #[test]
    fn counts_and_overflows() {
        let file = EventFd::new(3, 0);
        assert_eq!(read(&file), Ok(3));
        assert_eq!(read(&file), Err(Errno::EAGAIN));
        assert_eq!(file.poll(None), POLLOUT);
        assert_eq!(write(&file, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(write(&file, u64::MAX - 1), Ok(8));
        assert_eq!(file.poll(None), POLLIN);
        assert_eq!(write(&file, 1), Err(Errno::EAGAIN));
        assert_eq!(write(&file, 0), Ok(8));
        file.signal();
        file.signal();
        assert_eq!(file.poll(None), POLLIN | POLLERR);
        assert_eq!(read(&file), Ok(u64::MAX));
        assert_eq!(file.count(), 0);
    }

    #[test]
    fn a_write_that_must_wait_gives_its_bytes_back() {
        let file = EventFd::new(1, 0);
        let bytes = (u64::MAX - 1).to_ne_bytes();
        let mut source = SliceSource::new(&bytes);
        assert_eq!(file.write(WriteAt::End, &mut source), Err(Errno::EAGAIN));
        assert_eq!(source.left(), 8);
        assert_eq!(read(&file), Ok(1));
        assert_eq!(file.write(WriteAt::End, &mut source).map(|w| w.count), Ok(8));
    }

    #[test]
    fn semaphore_takes_one_at_a_time() {
        let file = EventFd::new(2, EFD_SEMAPHORE);
        assert_eq!(read(&file), Ok(1));
        assert_eq!(read(&file), Ok(1));
        assert_eq!(read(&file), Err(Errno::EAGAIN));
    }

    #[test]
    fn sizes() {
        let file = EventFd::new(1, 0);
        let mut short = [0; 7];
        assert_eq!(file.read(0, &mut short.as_mut_slice()), Err(Errno::EINVAL));
        for len in [0, 7, 9, 16] {
            let bytes = vec![0; len];
            let result = file.write(WriteAt::End, &mut SliceSource::new(&bytes));
            assert_eq!(result, Err(Errno::EINVAL), "{len}");
        }
        assert_eq!(file.count(), 1);
        assert!(EventFd::open(0, 0x10).is_err());
    }
}
