//! A guest address space.
//!
//! On host-side platforms the host process's mm *is* the guest's address space: mapping calls whose arguments are all in
//! registers are checked and then run by the host as the guest made them ([`Native::Host`]); what the sentry itself
//! wants mapped goes through [`AddressSpace::apply`]. Elsewhere the platform has the list of mappings and does the calls
//! itself ([`Native::Done`]); its "host" is what it emulates.

use crate::{BoxFuture, PlatformError, PlatformTask};
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A copy stopped early: `done` bytes were copied before the first inaccessible one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFault {
    pub done: usize,
}

/// How a mapping call that the guest made gets done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    /// Answer the task with [`crate::Resume::Native`], which finishes the call.
    Host,
    /// It is done already; this is the call's result.
    Done(u64),
}

/// The file behind a guest's mmap.
#[derive(Clone, Copy, Debug)]
pub struct MapFile<'a> {
    /// The descriptor number that the guest passed.
    pub guest_fd: i32,
    /// The host file that holds the pages at the same offsets.
    pub host: BorrowedFd<'a>,
}

/// A mapping call as the guest made it, checked by `mm` (alignment, flags, permissions) but for the platform's own range.
#[derive(Clone, Copy, Debug)]
pub enum MapCall<'a> {
    Mmap {
        addr: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<MapFile<'a>>,
        offset: u64,
    },
    Munmap {
        addr: u64,
        len: u64,
    },
    Mprotect {
        addr: u64,
        len: u64,
        prot: u32,
    },
    Mremap {
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    },
    Madvise {
        addr: u64,
        len: u64,
        advice: u32,
    },
    /// Calls that take a range and change no mapping (mlock, munlock, mincore's check, msync).
    Range {
        addr: u64,
        len: u64,
    },
}

/// An operation on a guest's mappings, or its memory, that the sentry itself asks for.
#[derive(Clone, Debug)]
pub enum HostOp {
    /// `addr` with MAP_FIXED or MAP_FIXED_NOREPLACE in `flags`, or a hint (0: the host chooses).
    Mmap {
        addr: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<(Arc<OwnedFd>, u64)>,
    },
    Munmap {
        addr: u64,
        len: u64,
    },
    Mprotect {
        addr: u64,
        len: u64,
        prot: u32,
    },
    Mremap {
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    },
    Madvise {
        addr: u64,
        len: u64,
        advice: u32,
    },
    /// Changes a word: the task itself sets one bit (0..32) in it, atomically against its other threads.
    SetBit {
        addr: u64,
        bit: u32,
    },
}

/// One mapping, as the host sees it, less the platform's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVma {
    pub range: Range<u64>,
    pub prot: u32,
    pub shared: bool,
    pub offset: u64,
    /// Host device and inode of the file behind it (0, 0: anonymous).
    pub dev: u64,
    pub ino: u64,
    pub kind: HostVmaKind,
    /// Resident, proportional and private dirty kilobytes where asked for (smaps), else 0.
    pub rss_kb: u64,
}

pub use kind::HostVmaKind;
mod kind {
    /// What the host calls the mapping.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum HostVmaKind {
        Anonymous,
        File,
        Vdso,
        Vvar,
        Vsyscall,
    }
}

/// Memory use in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceUsage {
    pub virt: u64,
    pub resident: u64,
    pub shared: u64,
    pub text: u64,
    pub data: u64,
}

/// A guest address space. Copies never block on another guest thread and never touch the platform's own range.
pub trait AddressSpace: Send + Sync {
    /// Copies from the guest; on a fault `buf[..done]` is valid.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault>;

    /// As [`AddressSpace::read`] of a string: where its end is known already it may copy no more than that. The bytes copied,
    /// at least one.
    fn read_text(&self, addr: u64, buf: &mut [u8]) -> Result<usize, CopyFault> {
        self.read(addr, buf).map(|()| buf.len())
    }

    /// Copies to the guest; on a fault `data[..done]` has been written. Respects page protections.
    fn write(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault>;

    /// Gathers several guest ranges into `buf` in one step; `done` counts bytes over all of them.
    fn read_vectored(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> Result<(), CopyFault>;

    /// Scatters `data` over several guest ranges in one step.
    fn write_vectored(&self, ranges: &[(u64, usize)], data: &[u8]) -> Result<(), CopyFault>;

    /// Compares and exchanges an aligned word; returns what was there. On host-side spaces this is not atomic against
    /// guest threads that store at the same instant, only against other callers of this method.
    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<u32, CopyFault>;

    /// Checks a mapping call that the guest's thread `task` made against the platform's own range, and has it done.
    /// Errors are Linux errnos the guest is to see (EINVAL, ENOMEM, EPERM …), as positive numbers.
    fn map_call(&self, task: &dyn PlatformTask, call: &MapCall<'_>) -> Result<Native, i32>;

    /// Runs operations of the sentry's own in order, on a stopped task of this space (which gets a frame if it has none).
    /// Stops at the first failure: its index and host errno. Returns the results (addresses) of all.
    fn apply(
        &self,
        task: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, PlatformError)>>;

    /// The mappings, in address order; with `rss` also resident sizes (slower).
    fn mappings(&self, rss: bool) -> Result<Vec<HostVma>, PlatformError>;

    /// The mapping that holds `addr`.
    fn mapping_at(&self, addr: u64) -> Result<Option<HostVma>, PlatformError>;

    fn usage(&self) -> SpaceUsage;

    /// Lowest and highest address a guest may map.
    fn user_range(&self) -> Range<u64>;

    /// The platform's own range inside it, invisible to the guest.
    fn reserved(&self) -> Range<u64>;

    /// Where the vDSO image is, for AT_SYSINFO_EHDR.
    fn vdso(&self) -> Option<u64>;
}
