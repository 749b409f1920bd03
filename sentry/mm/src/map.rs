//! The mmap family: checks of what Linux checks before it touches the page tables, then the platform.

use crate::{MMAP_MIN_ADDR, Mm};
use chitin_abi::Errno;
use chitin_abi::limits::PAGE_SIZE;
use chitin_abi::mman::*;
use chitin_platform::{BoxFuture, HostOp, MapCall, MapFile, Native, PlatformTask};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What `execve` placed where, for `/proc/PID/{stat,cmdline,environ,auxv,maps}` and prctl(PR_SET_MM).
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_stack: u64,
    /// The mapping reserved for the main thread's stack.
    pub stack: std::ops::Range<u64>,
    pub arg: std::ops::Range<u64>,
    pub env: std::ops::Range<u64>,
    pub auxv: Vec<u8>,
}

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) layout: Layout,
    brk_start: u64,
    brk: u64,
    /// The end of what may be mapped above the break: where a change of it is under way, or was when a copy of the
    /// memory was made or its thread was killed.
    brk_mapped: u64,
}

/// A file mapping's other half: what the descriptor table knew.
pub struct MmapRequest<'a> {
    pub addr: u64,
    pub len: u64,
    pub prot: u32,
    pub flags: u32,
    pub file: Option<MapFile<'a>>,
    pub offset: u64,
}

/// Flags a guest may pass through to the host. Huge pages, locking and growing stacks are the host's to grant.
const MMAP_FLAGS: u32 = MAP_SHARED
    | MAP_PRIVATE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_GROWSDOWN
    | MAP_DENYWRITE
    | MAP_EXECUTABLE
    | MAP_LOCKED
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_NONBLOCK
    | MAP_STACK
    | MAP_FIXED_NOREPLACE
    | MAP_32BIT;

fn page_up(len: u64) -> Option<u64> {
    Some(len.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}

impl Mm {
    pub fn layout(&self) -> Layout {
        self.state.lock().layout.clone()
    }

    pub fn set_layout(&self, layout: Layout) {
        self.state.lock().layout = layout;
    }

    pub fn edit_layout(&self, edit: impl FnOnce(&mut Layout)) {
        edit(&mut self.state.lock().layout)
    }

    /// Where the heap starts; nothing is mapped there yet.
    pub fn set_brk_start(&self, start: u64) {
        let mut state = self.state.lock();
        state.brk_start = start;
        state.brk = start;
        state.brk_mapped = start;
    }

    pub fn brk_range(&self) -> std::ops::Range<u64> {
        let state = self.state.lock();
        state.brk_start..state.brk
    }

    /// The user part of the address space that `[addr, addr + len)` must lie in.
    pub fn range_ok(&self, addr: u64, len: u64) -> bool {
        addr.checked_add(len).is_some_and(|end| end <= self.space().user_range().end)
    }

    /// mmap(2), as the thread `task` called it.
    pub fn mmap(&self, task: &dyn PlatformTask, request: &MmapRequest<'_>) -> Result<Native, Errno> {
        let MmapRequest { addr, len, prot, flags, file, offset } = *request;
        if len == 0 || offset % PAGE_SIZE != 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        if len > self.space().user_range().end {
            return Err(Errno::ENOMEM);
        }
        offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        let kind = flags & MAP_TYPE;
        if kind != MAP_SHARED && kind != MAP_PRIVATE && kind != MAP_SHARED_VALIDATE {
            return Err(Errno::EINVAL);
        }
        if kind == MAP_SHARED_VALIDATE && (flags & !(MAP_TYPE | MMAP_FLAGS)) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags & MAP_HUGETLB != 0 {
            // No huge page pool is granted to guests: as on a host whose nr_hugepages is 0.
            return Err(Errno::ENOMEM);
        }
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            if addr % PAGE_SIZE != 0 {
                return Err(Errno::EINVAL);
            }
            if !self.range_ok(addr, len) {
                return Err(Errno::ENOMEM);
            }
            if addr < MMAP_MIN_ADDR {
                return Err(Errno::EPERM);
            }
        }
        self.call(task, &MapCall::Mmap { addr, len, prot, flags, file, offset })
    }

    pub fn munmap(&self, task: &dyn PlatformTask, addr: u64, len: u64) -> Result<Native, Errno> {
        let len = page_up(len).filter(|&len| len != 0).ok_or(Errno::EINVAL)?;
        if addr % PAGE_SIZE != 0 || !self.range_ok(addr, len) {
            return Err(Errno::EINVAL);
        }
        self.call(task, &MapCall::Munmap { addr, len })
    }

    pub fn mprotect(&self, task: &dyn PlatformTask, addr: u64, len: u64, prot: u32) -> Result<Native, Errno> {
        if addr % PAGE_SIZE != 0 {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(Native::Done(0));
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        if !self.range_ok(addr, len) {
            return Err(Errno::ENOMEM);
        }
        self.call(task, &MapCall::Mprotect { addr, len, prot })
    }

    pub fn mremap(
        &self,
        task: &dyn PlatformTask,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<Native, Errno> {
        if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) != 0 || old % PAGE_SIZE != 0 {
            return Err(Errno::EINVAL);
        }
        let (old_len, new_len) =
            (page_up(old_len).ok_or(Errno::EINVAL)?, page_up(new_len).ok_or(Errno::EINVAL)?);
        if new_len == 0 || !self.range_ok(old, old_len) {
            return Err(if new_len == 0 { Errno::EINVAL } else { Errno::EFAULT });
        }
        if flags & MREMAP_FIXED != 0 && (new % PAGE_SIZE != 0 || !self.range_ok(new, new_len)) {
            return Err(Errno::EINVAL);
        }
        self.call(task, &MapCall::Mremap { old, old_len, new_len, flags, new })
    }

    /// madvise(2). Only advice that stays inside the guest's own pages is let through.
    pub fn madvise(
        &self,
        task: &dyn PlatformTask,
        addr: u64,
        len: u64,
        advice: u32,
    ) -> Result<Native, Errno> {
        let known = matches!(
            advice,
            MADV_NORMAL
                | MADV_RANDOM
                | MADV_SEQUENTIAL
                | MADV_WILLNEED
                | MADV_DONTNEED
                | MADV_FREE
                | MADV_REMOVE
                | MADV_DONTFORK
                | MADV_DOFORK
                | MADV_HUGEPAGE
                | MADV_NOHUGEPAGE
                | MADV_DONTDUMP
                | MADV_DODUMP
                | MADV_WIPEONFORK
                | MADV_KEEPONFORK
                | MADV_COLD
                | MADV_PAGEOUT
                | MADV_POPULATE_READ
                | MADV_POPULATE_WRITE
                | MADV_COLLAPSE
        );
        if !known || addr % PAGE_SIZE != 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(Native::Done(0));
        }
        if !self.range_ok(addr, len) {
            return Err(Errno::ENOMEM);
        }
        self.call(task, &MapCall::Madvise { addr, len, advice })
    }

    /// mlock(2), munlock(2), msync(2): calls on a range that change no mapping.
    pub fn range_call(&self, task: &dyn PlatformTask, addr: u64, len: u64) -> Result<Native, Errno> {
        if !self.range_ok(addr, len) {
            return Err(Errno::ENOMEM);
        }
        self.call(task, &MapCall::Range { addr, len })
    }

    fn call(&self, task: &dyn PlatformTask, call: &MapCall<'_>) -> Result<Native, Errno> {
        self.space().map_call(task, call).map_err(|errno| Errno::from_raw(errno).unwrap_or(Errno::EINVAL))
    }

    /// Runs mapping operations of the kernel's own on a stopped task.
    pub fn apply(
        &self,
        task: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, chitin_platform::PlatformError)>> {
        self.space().apply(task, ops)
    }

    /// Maps for the kernel (shmat, special files): the address the host chose, or a Linux errno.
    pub async fn map_host(
        &self,
        task: Arc<dyn PlatformTask>,
        addr: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<(Arc<OwnedFd>, u64)>,
    ) -> Result<u64, Errno> {
        let ops = vec![HostOp::Mmap { addr, len, prot, flags, file }];
        let results = self.apply(task, ops).await.map_err(|(_, error)| host_errno(&error))?;
        results.first().copied().ok_or(Errno::ENOMEM)
    }

    /// brk(2): grows or shrinks the heap; answers the new break, or the old one on failure. `limit` is RLIMIT_DATA.
    /// Threads that share the memory change it one after the other.
    pub async fn brk(&self, task: Arc<dyn PlatformTask>, new: u64, limit: u64) -> u64 {
        let _one_at_a_time = self.growing.lock().await;
        let (start, old, mapped) = {
            let state = self.state.lock();
            (state.brk_start, state.brk, state.brk_mapped)
        };
        if new < start || new.saturating_sub(start) > limit {
            return old;
        }
        let (Some(old_end), Some(new_end)) = (page_up(old), page_up(new)) else { return old };
        if new_end > self.space().user_range().end {
            return old;
        }
        let op = match new_end.cmp(&old_end) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(HostOp::Mmap {
                addr: old_end,
                len: new_end - old_end,
                prot: PROT_READ | PROT_WRITE,
                // What a change that was cut off left there is replaced.
                flags: MAP_PRIVATE
                    | MAP_ANONYMOUS
                    | if mapped > old_end { MAP_FIXED } else { MAP_FIXED_NOREPLACE },
                file: None,
            }),
            std::cmp::Ordering::Less => Some(HostOp::Munmap { addr: new_end, len: old_end - new_end }),
        };
        // A shrinking heap loses its pages first: whoever sees the memory meanwhile must not count on them.
        self.set_brk(new.min(old), mapped.max(old_end).max(new_end));
        if let Some(op) = op
            && self.apply(task, vec![op]).await.is_err()
        {
            self.set_brk(old, mapped.max(old_end));
            return old;
        }
        self.set_brk(new, if mapped > old_end.max(new_end) { mapped } else { new_end });
        new
    }

    fn set_brk(&self, brk: u64, mapped: u64) {
        let mut state = self.state.lock();
        (state.brk, state.brk_mapped) = (brk, mapped);
    }
}

/// A platform failure as the guest sees it.
pub fn host_errno(error: &chitin_platform::PlatformError) -> Errno {
    match error {
        chitin_platform::PlatformError::Host { errno, .. } => {
            Errno::from_raw(*errno).unwrap_or(Errno::ENOMEM)
        }
        _ => Errno::ENOMEM,
    }
}
