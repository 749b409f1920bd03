//! [`AddressSpace`] for a [`Space`], and what /proc shows of it.

use crate::space::{Fault, Space, USER};
use crate::vma::{Back, EXEC, Vma};
use chitin_platform::{
    AddressSpace, BoxFuture, CopyFault, HostOp, HostVma, HostVmaKind, MapCall, Native, PlatformError,
    PlatformTask, SpaceUsage,
};
use std::ops::Range;
use std::sync::Arc;

/// Device number of shared anonymous memory (major 0, as Linux' shmem).
const SHARED_DEV: u64 = 1;

fn host(errno: i32) -> PlatformError {
    if errno == libc::ESRCH { PlatformError::Gone } else { PlatformError::Host { op: "mapping", errno } }
}

impl From<Fault> for PlatformError {
    fn from(fault: Fault) -> PlatformError {
        let errno = if fault == Fault::NoMemory { libc::ENOMEM } else { libc::EFAULT };
        PlatformError::Host { op: "page tables", errno }
    }
}

impl Space {
    fn run(&self, op: HostOp) -> Result<u64, i32> {
        match op {
            HostOp::Mmap { addr, len, prot, flags, file } => self.mmap(addr, len, prot, flags, file),
            HostOp::Munmap { addr, len } => self.munmap(addr, len).map(|()| 0),
            HostOp::Mprotect { addr, len, prot } => self.mprotect(addr, len, prot).map(|()| 0),
            HostOp::Mremap { old, old_len, new_len, flags, new } => {
                self.mremap(old, old_len, new_len, flags, new)
            }
            HostOp::Madvise { addr, len, advice } => self.madvise(addr, len, advice).map(|()| 0),
            HostOp::SetBit { addr, bit } => self.set_bit(addr, 1 << (bit & 31)),
        }
    }
}

impl Space {
    /// Gives up when guests keep changing the word.
    fn set_bit(&self, addr: u64, mask: u32) -> Result<u64, i32> {
        let mut old = 0;
        for _ in 0..10_000 {
            match self.compare_exchange_u32(addr, old, old | mask) {
                Ok(seen) if seen == old => return Ok(0),
                Ok(seen) => old = seen,
                Err(_) => return Err(libc::EFAULT),
            }
        }
        Err(libc::EAGAIN)
    }
}

fn describe(space: &Space, start: u64, vma: &Vma) -> HostVma {
    let image = space.world.clock.map_or(0, |clock| clock.image);
    let (dev, ino, offset, kind) = match &vma.back {
        Back::Anonymous => (0, 0, 0, HostVmaKind::Anonymous),
        Back::Shared(memory, off) => (SHARED_DEV, memory.id, *off, HostVmaKind::File),
        Back::File(file, off) => (file.dev, file.ino, *off, HostVmaKind::File),
        Back::Clock(off) if *off >= image => (0, 0, 0, HostVmaKind::Vdso),
        Back::Clock(_) => (0, 0, 0, HostVmaKind::Vvar),
    };
    HostVma { range: start..vma.end, prot: vma.prot, shared: vma.shared, offset, dev, ino, kind, rss_kb: 0 }
}

impl AddressSpace for Space {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        self.read_at(addr, buf)
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        self.write_at(addr, data)
    }

    fn read_vectored(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> Result<(), CopyFault> {
        self.readv_at(ranges, buf)
    }

    fn write_vectored(&self, ranges: &[(u64, usize)], data: &[u8]) -> Result<(), CopyFault> {
        self.writev_at(ranges, data)
    }

    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        self.cmpxchg_at(addr, old, new)
    }

    fn map_call(&self, _task: &dyn PlatformTask, call: &MapCall<'_>) -> Result<Native, i32> {
        let done = match *call {
            MapCall::Mmap { addr, len, prot, flags, file, offset } => {
                let file = match file {
                    Some(file) => {
                        let fd = file.host.try_clone_to_owned().map_err(|_| libc::ENFILE)?;
                        Some((Arc::new(fd), offset))
                    }
                    None => None,
                };
                self.mmap(addr, len, prot, flags, file)
            }
            MapCall::Munmap { addr, len } => self.munmap(addr, len).map(|()| 0),
            MapCall::Mprotect { addr, len, prot } => self.mprotect(addr, len, prot).map(|()| 0),
            MapCall::Mremap { old, old_len, new_len, flags, new } => {
                self.mremap(old, old_len, new_len, flags, new)
            }
            MapCall::Madvise { addr, len, advice } => self.madvise(addr, len, advice).map(|()| 0),
            // What it is about the call's number tells: `native` does it.
            MapCall::Range { .. } => return Ok(Native::Host),
        };
        done.map(Native::Done)
    }

    fn apply(
        &self,
        _task: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, PlatformError)>> {
        let mut out = Vec::with_capacity(ops.len());
        let mut failed = None;
        for (i, op) in ops.into_iter().enumerate() {
            match self.run(op) {
                Ok(value) => out.push(value),
                Err(errno) => {
                    failed = Some((i, host(errno)));
                    break;
                }
            }
        }
        Box::pin(std::future::ready(failed.map_or(Ok(out), Err)))
    }

    fn mappings(&self, rss: bool) -> Result<Vec<HostVma>, PlatformError> {
        let mut inner = self.locked().map_err(host)?;
        let mut list: Vec<HostVma> =
            inner.vmas.iter().map(|(start, vma)| describe(self, start, vma)).collect();
        for vma in list.iter_mut().filter(|_| rss) {
            let mut pages = 0;
            inner.table.edit(self.phys(), vma.range.clone(), |_, leaf| {
                pages += 1;
                Some(leaf)
            });
            vma.rss_kb = pages * 4;
        }
        Ok(list)
    }

    fn mapping_at(&self, addr: u64) -> Result<Option<HostVma>, PlatformError> {
        let inner = self.locked().map_err(host)?;
        Ok(inner.vmas.find(addr).map(|(start, vma)| describe(self, start, vma)))
    }

    fn usage(&self) -> SpaceUsage {
        let Ok(inner) = self.locked() else { return SpaceUsage::default() };
        let (mut text, mut data, mut shared_anon) = (0, 0, 0);
        for (start, vma) in inner.vmas.iter() {
            let len = vma.end - start;
            match (&vma.back, vma.prot & EXEC != 0, vma.shared) {
                (Back::File(..), true, _) => text += len,
                (Back::Anonymous, ..) => data += len,
                (Back::Shared(..), ..) => shared_anon += len,
                (_, _, false) => data += len,
                _ => {}
            }
        }
        let pages = inner.anon + inner.file;
        SpaceUsage {
            virt: inner.vmas.total(),
            resident: pages * 4096,
            shared: (inner.file * 4096 + shared_anon).min(pages * 4096),
            text,
            data,
        }
    }

    fn user_range(&self) -> Range<u64> {
        USER
    }

    fn reserved(&self) -> Range<u64> {
        USER.end..USER.end
    }

    fn vdso(&self) -> Option<u64> {
        self.image()
    }
}
