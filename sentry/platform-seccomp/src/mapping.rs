//! [`AddressSpace`]: mapping calls of the guest and of the sentry, and the rest by delegation.
//!
//! Neighbours: `copy` and `maps` (guest memory, /proc), `calls` (host calls in the stub).
//!
//! Invariant: no call that reaches the host names a byte of the platform's own range, and none of them reads guest memory
//! through a pointer.

use crate::calls::{Call, close_call, failed};
use crate::space::Space;
use crate::stub::{PRIVATE_FD, STUB_BASE, STUB_HI};
use crate::task::{Phase, Task};
use chitin_platform::{
    AddressSpace, BoxFuture, CopyFault, HostOp, HostVma, MapCall, Native, PlatformError, PlatformTask,
    SpaceUsage,
};
use std::ops::Range;
use std::sync::Arc;

const MREMAP_FIXED: u32 = 2;
/// Top of user addresses with four-level page tables.
const USER_TOP: u64 = 0x7fff_ffff_f000;

/// Whether the range wraps around or meets the platform's own one.
fn forbidden(addr: u64, len: u64) -> bool {
    match addr.checked_add(len.max(1)).and_then(|end| end.checked_next_multiple_of(4096)) {
        Some(end) => addr < STUB_HI && end > STUB_BASE,
        None => true,
    }
}

fn fixed(flags: u32) -> bool {
    flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u32 != 0
}

/// The host call for a mapping operation of the sentry's own, less its descriptor.
fn host_call(op: &HostOp) -> Result<Call, i32> {
    let bad = |addr, len| if forbidden(addr, len) { Err(libc::EINVAL) } else { Ok(()) };
    Ok(match *op {
        HostOp::Mmap { addr, len, prot, flags, ref file } => {
            if fixed(flags) {
                bad(addr, len)?;
            }
            let off = file.as_ref().map_or(0, |f| f.1);
            Call::new(libc::SYS_mmap, [addr, len, prot.into(), flags.into(), u64::from(u32::MAX), off])
        }
        HostOp::Munmap { addr, len } => {
            bad(addr, len)?;
            Call::new(libc::SYS_munmap, [addr, len, 0, 0, 0, 0])
        }
        HostOp::Mprotect { addr, len, prot } => {
            bad(addr, len)?;
            Call::new(libc::SYS_mprotect, [addr, len, prot.into(), 0, 0, 0])
        }
        HostOp::Mremap { old, old_len, new_len, flags, new } => {
            bad(old, old_len)?;
            if flags & MREMAP_FIXED != 0 {
                bad(new, new_len)?;
            }
            Call::new(libc::SYS_mremap, [old, old_len, new_len, flags.into(), new, 0])
        }
        HostOp::Madvise { addr, len, advice } => {
            bad(addr, len)?;
            Call::new(libc::SYS_madvise, [addr, len, advice.into(), 0, 0, 0])
        }
    })
}

impl Space {
    fn task_of(&self, t: &dyn PlatformTask) -> Option<Arc<Task>> {
        let found = self.sb.table.get(u32::try_from(t.debug_id()).ok()?)?;
        std::ptr::addr_eq(t, Arc::as_ptr(&found)).then_some(found)
    }
}

/// Puts the descriptors into the calls; numbers taken so far are returned also on failure.
fn add_files(space: &Space, ops: &[HostOp], calls: &mut [Call]) -> (Vec<u32>, Result<(), (usize, i32)>) {
    let mut taken = Vec::new();
    for (i, (op, call)) in ops.iter().zip(calls).enumerate() {
        let HostOp::Mmap { file: Some((fd, _)), .. } = op else { continue };
        let Some(at) = space.take_fd() else { return (taken, Err((i, libc::EMFILE))) };
        taken.push(at);
        call.args[4] = at.into();
        call.file = Some((fd.clone(), at));
    }
    (taken, Ok(()))
}

async fn run_ops(task: Arc<Task>, ops: &[HostOp]) -> Result<Vec<u64>, (usize, PlatformError)> {
    let host = |errno| PlatformError::Host { op: "mapping in the guest", errno };
    let mut calls = Vec::with_capacity(ops.len() + 1);
    for (i, op) in ops.iter().enumerate() {
        calls.push(host_call(op).map_err(|e| (i, host(e)))?);
    }
    let space = task.proc.space.clone();
    let (taken, files) = add_files(&space, ops, &mut calls);
    let r = match files {
        Err((i, e)) => Err((i, host(e))),
        Ok(()) => {
            calls.extend(taken.iter().map(|at| close_call(*at)));
            task.run(calls).await.map_err(|e| (0, e))
        }
    };
    let n = ops.len();
    let out = match r {
        Ok(results) => {
            let bad = results.iter().take(n).position(|r| failed(*r).is_some());
            let stopped = bad.or((results.len() < n).then_some(results.len()));
            match stopped {
                None => Ok(results.iter().take(n).map(|r| *r as u64).collect()),
                Some(i) => {
                    // The list stopped before its closes.
                    let _ = task.run(taken.iter().map(|at| close_call(*at)).collect()).await;
                    Err((i, host(results.get(i).and_then(|r| failed(*r)).unwrap_or(libc::EIO))))
                }
            }
        }
        Err(e) => Err(e),
    };
    taken.into_iter().for_each(|at| space.put_fd(at));
    out
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

    fn map_call(&self, task: &dyn PlatformTask, call: &MapCall<'_>) -> Result<Native, i32> {
        match *call {
            MapCall::Mmap { addr, len, flags, ref file, .. } => {
                if fixed(flags) && forbidden(addr, len) {
                    let no_replace = flags & libc::MAP_FIXED_NOREPLACE as u32 != 0;
                    return Err(if no_replace { libc::EEXIST } else { libc::ENOMEM });
                }
                let Some(file) = file else { return Ok(Native::Host) };
                let task = self.task_of(task).ok_or(libc::EINTR)?;
                let mut st = task.st.lock();
                let at = u32::try_from(file.guest_fd).ok().filter(|n| *n < PRIVATE_FD);
                if let (Phase::Stopped, None, Some(at)) = (st.phase, st.frame, at) {
                    let id = st.id;
                    drop(st);
                    match self.sb.listener.add_fd(id, file.host, at) {
                        Ok(()) => return Ok(Native::Host),
                        Err(libc::ENOENT) => return Ok(Native::Host), // killed, or parked: see below
                        Err(libc::EMFILE | libc::EBADF) => {}
                        Err(e) => return Err(e),
                    }
                    st = task.st.lock();
                }
                // A number that the stub's table should not grow to, or a task with a frame: the stub is told to
                // make the call with a descriptor of its own.
                let dup = file.host.try_clone_to_owned().map_err(|_| libc::ENFILE)?;
                st.native_fd = Some(Arc::new(dup));
                Ok(Native::Host)
            }
            MapCall::Munmap { addr, len } if forbidden(addr, len) => Err(libc::EINVAL),
            MapCall::Mprotect { addr, len, .. } if forbidden(addr, len) => Err(libc::ENOMEM),
            MapCall::Madvise { addr, len, .. } if forbidden(addr, len) => Err(libc::ENOMEM),
            MapCall::Range { addr, len } if forbidden(addr, len) => Err(libc::ENOMEM),
            MapCall::Mremap { old, old_len, .. } if forbidden(old, old_len) => Err(libc::EFAULT),
            MapCall::Mremap { new, new_len, flags, .. }
                if flags & MREMAP_FIXED != 0 && forbidden(new, new_len) =>
            {
                Err(libc::EINVAL)
            }
            _ => Ok(Native::Host),
        }
    }

    fn apply(
        &self,
        task: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, PlatformError)>> {
        let found = self.task_of(&*task);
        Box::pin(async move {
            let task = found.ok_or((0, PlatformError::Gone))?;
            task.frame_up().await.map_err(|e| (0, e))?;
            // No more descriptors at once than the stub has private numbers for.
            let mut out = Vec::with_capacity(ops.len());
            for part in ops.chunks(8) {
                match run_ops(task.clone(), part).await {
                    Ok(r) => out.extend(r),
                    Err((i, e)) => {
                        task.op_over();
                        return Err((out.len() + i, e));
                    }
                }
            }
            task.op_over();
            Ok(out)
        })
    }

    fn mappings(&self, rss: bool) -> Result<Vec<HostVma>, PlatformError> {
        self.list_mappings(rss)
    }

    fn mapping_at(&self, addr: u64) -> Result<Option<HostVma>, PlatformError> {
        self.find_mapping(addr)
    }

    fn usage(&self) -> SpaceUsage {
        self.read_usage()
    }

    fn user_range(&self) -> Range<u64> {
        0x1_0000..USER_TOP
    }

    fn reserved(&self) -> Range<u64> {
        STUB_BASE..STUB_HI
    }

    fn vdso(&self) -> Option<u64> {
        self.sb.vdso.get()?.as_ref().map(|r| r.start)
    }
}
