//! Copies between the sentry and a guest address space.
//!
//! Invariants: copies are fallible and exact (`CopyFault::done` counts to the first inaccessible byte), respect page
//! protections, and never touch the platform's own range.
//!
//! The protections are the machine's: a page that may be written may be read, and so may one that may be executed where
//! there are no protection keys. `process_vm_readv` goes by the mapping's flags alone, so what it refuses is looked at
//! once more ([`Memory::unmarked`]).

use crate::layout::{STUB_BASE, STUB_HI};
use crate::maps;
use crate::memory::Memory;
use crate::sys;
use chitin_platform::CopyFault;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::os::fd::AsFd;
use std::sync::LazyLock;

const PAGE: u64 = 4096;
const BATCH: usize = 64;

/// Whether the host gives PROT_EXEC alone a protection key of its own: with OSPKE (CPUID 7, ECX bit 4) it does.
static EXECUTE_ONLY: LazyLock<bool> = LazyLock::new(|| {
    let leaves = __cpuid(0).eax;
    leaves >= 7 && __cpuid_count(7, 0).ecx & (1 << 4) != 0
});

/// How much of a range lies before the platform's own one.
fn allowed(addr: u64, len: usize) -> usize {
    let end = addr.saturating_add(len as u64);
    let limit = if addr < STUB_BASE {
        end.min(STUB_BASE)
    } else if addr >= STUB_HI {
        end
    } else {
        addr
    };
    (limit - addr) as usize
}

fn iov(addr: u64, len: usize) -> libc::iovec {
    libc::iovec { iov_base: addr as *mut _, iov_len: len }
}

impl Memory {
    fn with_pid(&self, mut f: impl FnMut(i32) -> Result<usize, i32>) -> Result<usize, i32> {
        let pids = self.readers.read();
        for pid in pids.iter() {
            match f(*pid) {
                Err(libc::ESRCH) => {}
                r => return r,
            }
        }
        Err(libc::ESRCH)
    }

    fn copy(
        &self,
        addr: u64,
        len: usize,
        mut step: impl FnMut(i32, usize, usize) -> Result<usize, i32>,
    ) -> Result<(), CopyFault> {
        let ok = allowed(addr, len);
        let mut done = 0;
        while done < ok {
            let left = ok - done;
            match self.with_pid(|pid| step(pid, done, left)) {
                Ok(n) if n > 0 => {
                    done += n;
                    continue;
                }
                _ => {}
            }
            // Find the exact end page by page.
            let in_page = (PAGE - (addr + done as u64) % PAGE) as usize;
            if in_page >= left {
                return Err(CopyFault { done });
            }
            match self.with_pid(|pid| step(pid, done, in_page)) {
                Ok(n) if n > 0 => done += n,
                _ => return Err(CopyFault { done }),
            }
        }
        if done == len { Ok(()) } else { Err(CopyFault { done }) }
    }

    pub fn read_at(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        let mut done = 0;
        loop {
            let rest = buf.get_mut(done..).unwrap_or_default();
            let from = addr.saturating_add(done as u64);
            let fault = match self.read_marked(from, rest) {
                Ok(()) => return Ok(()),
                Err(fault) => fault.done,
            };
            done += fault;
            let rest = rest.get_mut(fault..).unwrap_or_default();
            match self.unmarked(from.saturating_add(fault as u64), rest) {
                0 => return Err(CopyFault { done }),
                n => done += n,
            }
            if done == buf.len() {
                return Ok(());
            }
        }
    }

    /// Reads what is mapped for reading.
    fn read_marked(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        self.copy(addr, buf.len(), |pid, at, n| {
            let local = buf.get_mut(at..at + n).ok_or(libc::EFAULT)?;
            sys::vm_read(pid, local, &[iov(addr + at as u64, n)])
        })
    }

    /// Reads on where the mapping is not marked readable and the machine could read it nevertheless: how many bytes.
    /// The guest may change the mapping between the look and the read; it gets at its own memory in any case.
    fn unmarked(&self, addr: u64, buf: &mut [u8]) -> usize {
        const WRITE: u32 = libc::PROT_WRITE.cast_unsigned();
        const EXEC: u32 = libc::PROT_EXEC.cast_unsigned();
        let Ok(Some(vma)) = self.find_mapping(addr) else { return 0 };
        if vma.prot & WRITE == 0 && (vma.prot != EXEC || *EXECUTE_ONLY) {
            return 0;
        }
        let left = usize::try_from(vma.range.end.saturating_sub(addr)).unwrap_or(usize::MAX);
        let len = allowed(addr, buf.len().min(left));
        let Some(local) = buf.get_mut(..len) else { return 0 };
        let dir = &self.host.proc_dir;
        self.with_pid(|pid| maps::read_memory(dir.as_fd(), pid, addr, local)).unwrap_or(0)
    }

    pub fn write_at(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        self.copy(addr, data.len(), |pid, at, n| {
            let local = data.get(at..at + n).ok_or(libc::EFAULT)?;
            sys::vm_write(pid, local, &[iov(addr + at as u64, n)])
        })
    }

    /// Runs batches of ranges through `batch`, and finishes a batch that stopped early through `single`. Both get the
    /// offset in the local buffer.
    fn vectored(&self, ranges: &[(u64, usize)], space: usize, buf: &mut dyn VecBuf) -> Result<(), CopyFault> {
        let mut done = 0usize;
        for part in ranges.chunks(BATCH) {
            let mut iovs = [iov(0, 0); BATCH];
            let mut total = 0usize;
            let mut clean = true;
            for (v, (addr, len)) in iovs.iter_mut().zip(part) {
                let len = (*len).min(space - done - total);
                clean &= allowed(*addr, len) == len;
                *v = iov(*addr, len);
                total += len;
            }
            let used = iovs.get(..part.len()).unwrap_or_default();
            let mut n = 0;
            if clean && total > 0 {
                n = self.with_pid(|pid| buf.batch(pid, done, total, used)).unwrap_or(0);
            }
            if n < total {
                let mut skip = n;
                for v in used {
                    let s = skip.min(v.iov_len);
                    skip -= s;
                    if s == v.iov_len {
                        continue;
                    }
                    match buf.single(self, done + n, v.iov_base as u64 + s as u64, v.iov_len - s) {
                        Ok(()) => n += v.iov_len - s,
                        Err(f) => return Err(CopyFault { done: done + n + f.done }),
                    }
                }
            }
            done += total;
        }
        Ok(())
    }

    pub fn readv_at(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> Result<(), CopyFault> {
        let space = buf.len();
        self.vectored(ranges, space, &mut Gather(buf))
    }

    pub fn writev_at(&self, ranges: &[(u64, usize)], data: &[u8]) -> Result<(), CopyFault> {
        self.vectored(ranges, data.len(), &mut Scatter(data))
    }

    pub fn cmpxchg_at(&self, addr: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        let stripe = (addr >> 2) as usize % self.host.words.len();
        let _g = self.host.words.get(stripe).map(parking_lot::Mutex::lock);
        let mut b = [0u8; 4];
        self.read_at(addr, &mut b)?;
        let seen = u32::from_le_bytes(b);
        // A futex word must be writable even when it is not exchanged: the caller decides; we write only on a match.
        if seen == old {
            self.write_at(addr, &new.to_le_bytes())?;
        }
        Ok(seen)
    }
}

trait VecBuf {
    fn batch(&mut self, pid: i32, at: usize, len: usize, iovs: &[libc::iovec]) -> Result<usize, i32>;
    fn single(&mut self, s: &Memory, at: usize, addr: u64, len: usize) -> Result<(), CopyFault>;
}

struct Gather<'a>(&'a mut [u8]);
struct Scatter<'a>(&'a [u8]);

impl VecBuf for Gather<'_> {
    fn batch(&mut self, pid: i32, at: usize, len: usize, iovs: &[libc::iovec]) -> Result<usize, i32> {
        sys::vm_read(pid, self.0.get_mut(at..at + len).ok_or(libc::EFAULT)?, iovs)
    }

    fn single(&mut self, s: &Memory, at: usize, addr: u64, len: usize) -> Result<(), CopyFault> {
        s.read_at(addr, self.0.get_mut(at..at + len).ok_or(CopyFault { done: 0 })?)
    }
}

impl VecBuf for Scatter<'_> {
    fn batch(&mut self, pid: i32, at: usize, len: usize, iovs: &[libc::iovec]) -> Result<usize, i32> {
        sys::vm_write(pid, self.0.get(at..at + len).ok_or(libc::EFAULT)?, iovs)
    }

    fn single(&mut self, s: &Memory, at: usize, addr: u64, len: usize) -> Result<(), CopyFault> {
        s.write_at(addr, self.0.get(at..at + len).ok_or(CopyFault { done: 0 })?)
    }
}
