//! [`AddressSpace`]: mapping calls of the guest and of the sentry, and the rest by delegation.
//!
//! Neighbours: `platform-host` (guest memory, /proc, checks of calls), `calls` (host calls in the stub).

use crate::parcel;
use crate::restart::wound_back;
use crate::space::Space;
use crate::stub::{ARENA_FD, PRIVATE_FD, STUB_BASE, STUB_HI};
use crate::task::{Phase, Task};
use chitin_platform::{
    AddressSpace, BoxFuture, CopyFault, HostOp, HostVma, MapCall, Native, PlatformError, PlatformTask,
    SpaceUsage,
};
use chitin_platform_host::calls::{Call, check, failed, host_call};
use chitin_platform_host::layout::{USER_LO, USER_TOP};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Space {
    fn task_of(&self, t: &dyn PlatformTask) -> Option<Arc<Task>> {
        let found = self.sb.table.get(u32::try_from(t.debug_id()).ok()?)?;
        std::ptr::addr_eq(t, Arc::as_ptr(&found)).then_some(found)
    }
}

/// Operations that go into one list, and no more files at once than the stub has private numbers for.
const PART: usize = 32;
const FILES: usize = 8;

fn file_of(op: &HostOp) -> Option<&Arc<OwnedFd>> {
    match op {
        HostOp::Mmap { file: Some((file, _)), .. } => Some(file),
        _ => None,
    }
}

/// How many of the operations make the next list.
fn part_of(ops: &[HostOp]) -> usize {
    let mut files: Vec<&Arc<OwnedFd>> = Vec::new();
    for (i, op) in ops.iter().enumerate().take(PART) {
        if let Some(file) = file_of(op).filter(|file| !files.iter().any(|f| Arc::ptr_eq(f, file))) {
            if files.len() == FILES {
                return i;
            }
            files.push(file);
        }
    }
    ops.len().min(PART)
}

/// Puts the descriptors into the calls, each file's once; numbers taken so far are returned also on failure.
fn add_files(space: &Space, ops: &[HostOp], calls: &mut [Call]) -> (Vec<u32>, Result<(), (usize, i32)>) {
    let (mut taken, mut files) = (Vec::new(), Vec::new());
    for (i, (op, call)) in ops.iter().zip(calls).enumerate() {
        let Some(file) = file_of(op) else { continue };
        let known = files.iter().find(|(f, _)| Arc::ptr_eq(f, file)).map(|(_, at)| *at);
        let Some(at) = known.or_else(|| space.take_fd()) else { return (taken, Err((i, libc::EMFILE))) };
        call.args[4] = at.into();
        if known.is_none() {
            taken.push(at);
            files.push((file.clone(), at));
            call.file = Some((file.clone(), at));
        }
    }
    (taken, Ok(()))
}

/// Closes private descriptors of the stub, neighbours by one call.
fn close_calls(taken: &[u32]) -> Vec<Call> {
    let mut sorted = taken.to_vec();
    sorted.sort_unstable();
    sorted
        .chunk_by(|a, b| b - a == 1)
        .filter_map(|run| Some((*run.first()?, *run.last()?)))
        .map(|(from, to)| Call::new(libc::SYS_close_range, [from.into(), to.into(), 0, 0, 0, 0]))
        .collect()
}

async fn run_ops(task: Arc<Task>, ops: &[HostOp]) -> Result<Vec<u64>, (usize, PlatformError)> {
    let host = |errno| PlatformError::Host { op: "mapping in the guest", errno };
    let space = task.proc.space.clone();
    let own = |addr, len| space.taken(addr, len);
    let mut calls = Vec::with_capacity(ops.len() + 1);
    for (i, op) in ops.iter().enumerate() {
        calls.push(host_call(op, &own).map_err(|e| (i, host(e)))?);
    }
    let (taken, files) = add_files(&space, ops, &mut calls);
    let r = match files {
        Err((i, e)) => Err((i, host(e))),
        Ok(()) => {
            calls.extend(close_calls(&taken));
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
                    let _ = task.run(close_calls(&taken)).await;
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
        if parcel::read(self, addr, buf) {
            return Ok(());
        }
        self.mem.read_at(addr, buf)
    }

    fn read_text(&self, addr: u64, buf: &mut [u8]) -> Result<usize, CopyFault> {
        if let Some(len) = parcel::read_text(self, addr, buf) {
            return Ok(len);
        }
        self.read(addr, buf).map(|()| buf.len())
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        if parcel::write(self, addr, data) {
            return Ok(());
        }
        self.mem.write_at(addr, data)
    }

    fn read_vectored(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> Result<(), CopyFault> {
        if parcel::read_vectored(self, ranges, buf) {
            return Ok(());
        }
        parcel::leave(self);
        self.mem.readv_at(ranges, buf)
    }

    fn write_vectored(&self, ranges: &[(u64, usize)], data: &[u8]) -> Result<(), CopyFault> {
        parcel::leave(self);
        self.mem.writev_at(ranges, data)
    }

    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        self.mem.cmpxchg_at(addr, old, new)
    }

    fn map_call(&self, task: &dyn PlatformTask, call: &MapCall<'_>) -> Result<Native, i32> {
        check(call, &|addr, len| self.taken(addr, len))?;
        let MapCall::Mmap { file: Some(file), .. } = call else { return Ok(Native::Host) };
        let task = self.task_of(task).ok_or(libc::EINTR)?;
        let mut st = task.st.lock();
        let at = u32::try_from(file.guest_fd).ok().filter(|n| *n < PRIVATE_FD && *n != ARENA_FD);
        if let (Phase::Stopped, None, Some(at)) = (st.phase, st.frame, at) {
            let id = st.id;
            drop(st);
            match self.line.listener.add_fd(id, file.host, at) {
                Ok(()) => return Ok(Native::Host),
                Err(errno) if wound_back(errno) => {} // Or killed, or parked meanwhile.
                Err(libc::EMFILE | libc::EBADF) => {}
                Err(e) => return Err(e),
            }
            st = task.st.lock();
        }
        // A number that the stub's table should not grow to, or a task with a frame (or soon with one): the stub is
        // told to make the call with a descriptor of its own.
        let dup = file.host.try_clone_to_owned().map_err(|_| libc::ENFILE)?;
        st.native_fd = Some(Arc::new(dup));
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
            task.frame_up().await.map_err(|e| (0, e))?;
            let mut out = Vec::with_capacity(ops.len());
            while let Some((part, _)) =
                ops.get(out.len()..).and_then(|rest| rest.split_at_checked(part_of(rest)))
            {
                if part.is_empty() {
                    break;
                }
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
        self.line.host.vdso_start()
    }
}
