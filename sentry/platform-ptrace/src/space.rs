//! A guest address space, and [`AddressSpace`]: mapping calls of the guest and of the sentry, and the rest by delegation.
//!
//! Neighbours: `platform-host` (guest memory, checks of calls), `calls` (host calls in the stub), `fault` (slots).
//!
//! Locks: `files` is held across awaits while a file is open in the stub, and while its process forks: so the number that a
//! file gets there is known.

use crate::sandbox::Sandbox;
use crate::stub::{FRAMES, STUB_BASE, STUB_HI};
use crate::task::Task;
use chitin_platform::{
    AddressSpace, AsyncLock, BoxFuture, CopyFault, HostOp, HostVma, MapCall, Native, PlatformError,
    PlatformTask, SpaceUsage,
};
use chitin_platform_host::calls::{check, failed, forbidden, host_call};
use chitin_platform_host::detach::to_the_end;
use chitin_platform_host::layout::{USER_LO, USER_TOP};
use chitin_platform_host::memory::Memory;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Space {
    sb: Arc<Sandbox>,
    pub(crate) mem: Memory,
    pub(crate) files: Arc<AsyncLock>,
    /// Which slots for signal frames are in use.
    slots: AtomicU32,
}

impl AsRef<Memory> for Space {
    fn as_ref(&self) -> &Memory {
        &self.mem
    }
}

impl Space {
    pub fn new(sb: &Arc<Sandbox>) -> Arc<Space> {
        let mem = Memory::new(&sb.host);
        Arc::new(Space { sb: sb.clone(), mem, files: Arc::default(), slots: AtomicU32::new(0) })
    }

    fn task_of(&self, t: &dyn PlatformTask) -> Option<Arc<Task>> {
        let found = self.sb.table.get(u32::try_from(t.debug_id()).ok()?)?;
        std::ptr::addr_eq(t, Arc::as_ptr(&found)).then_some(found)
    }

    pub(crate) fn take_slot(&self) -> Option<u32> {
        let free = |old: u32| {
            let bit = (!old).trailing_zeros();
            (u64::from(bit) < FRAMES).then(|| old | 1 << bit)
        };
        self.slots
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, free)
            .ok()
            .map(|old| (!old).trailing_zeros())
    }

    pub(crate) fn put_slot(&self, slot: u32) {
        self.slots.fetch_and(!(1 << slot), Ordering::AcqRel);
    }
}

async fn run_ops(task: Arc<Task>, ops: Vec<HostOp>) -> Result<Vec<u64>, (usize, PlatformError)> {
    let host = |errno| PlatformError::Host { op: "mapping in the guest", errno };
    let mut calls = Vec::with_capacity(ops.len());
    for (i, op) in ops.iter().enumerate() {
        calls.push(host_call(op, &forbidden).map_err(|e| (i, host(e)))?);
    }
    let mut done = Vec::with_capacity(ops.len());
    let mut calls = calls.into_iter().zip(ops).peekable();
    while let Some((call, op)) = calls.next() {
        let first = done.len();
        let results = match op {
            HostOp::Mmap { file: Some((fd, _)), .. } => {
                let _turn = task.proc.space.files.lock().await;
                vec![task.run_with_file(call, 4, fd).await.map_err(|e| (first, e))?]
            }
            _ => {
                // As many as follow without a file.
                let mut batch = vec![call];
                let plain = |op: &HostOp| !matches!(op, HostOp::Mmap { file: Some(_), .. });
                while let Some((call, _)) = calls.next_if(|(_, op)| plain(op)) {
                    batch.push(call);
                }
                task.run(batch).await.map_err(|e| (first, e))?
            }
        };
        for result in results {
            match failed(result) {
                Some(errno) => return Err((done.len(), host(errno))),
                None => done.push(result as u64),
            }
        }
    }
    Ok(done)
}

impl AddressSpace for Space {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        self.mem.read_at(addr, buf)
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        self.mem.write_at(addr, data)
    }

    fn read_vectored(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> Result<(), CopyFault> {
        self.mem.readv_at(ranges, buf)
    }

    fn write_vectored(&self, ranges: &[(u64, usize)], data: &[u8]) -> Result<(), CopyFault> {
        self.mem.writev_at(ranges, data)
    }

    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        self.mem.cmpxchg_at(addr, old, new)
    }

    fn map_call(&self, task: &dyn PlatformTask, call: &MapCall<'_>) -> Result<Native, i32> {
        check(call, &forbidden)?;
        if let MapCall::Mmap { file: Some(file), .. } = call {
            let task = self.task_of(task).ok_or(libc::EINTR)?;
            let dup = file.host.try_clone_to_owned().map_err(|_| libc::ENFILE)?;
            task.st.lock().native_fd = Some(Arc::new(dup));
        }
        Ok(Native::Host)
    }

    fn apply(
        &self,
        task: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, PlatformError)>> {
        let found = self.task_of(&*task);
        Box::pin(async move {
            let task = found.ok_or((0, PlatformError::Gone))?;
            to_the_end(task.clone().whole(run_ops(task, ops)), drop).await
        })
    }

    fn mappings(&self, rss: bool) -> Result<Vec<HostVma>, PlatformError> {
        self.mem.list_mappings(rss)
    }

    fn mapping_at(&self, addr: u64) -> Result<Option<HostVma>, PlatformError> {
        self.mem.find_mapping(addr)
    }

    fn usage(&self) -> SpaceUsage {
        self.mem.read_usage()
    }

    fn user_range(&self) -> Range<u64> {
        USER_LO..USER_TOP
    }

    fn reserved(&self) -> Range<u64> {
        STUB_BASE..STUB_HI
    }

    fn vdso(&self) -> Option<u64> {
        self.sb.host.vdso_start()
    }
}
