//! epoll (fs/eventpoll.c).

use super::{set_mask, used};
use crate::fd::install;
use crate::io::until;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::epoll::{EPOLL_CLOEXEC, EPOLL_CTL_DEL, EpollEvent};
use chitin_abi::time::{NSEC_PER_MSEC, Timespec};
use chitin_kernel::time::{Deadline, from_timespec, with_timeout};
use chitin_kernel::{Outcome, SysError, SysResult, Task};
use chitin_vfs::File;
use chitin_vfs::epoll::Epoll;
use std::cell::Cell;
use std::sync::Arc;

/// The most events one call may ask for (EP_MAX_EVENTS).
const MAX_EVENTS: usize = i32::MAX as usize / size_of::<EpollEvent>();
/// The most that one call answers.
const MAX_ANSWER: usize = 4096;

thread_local! {
    /// Room for events that each thread keeps.
    static EVENTS: Cell<Vec<EpollEvent>> = const { Cell::new(Vec::new()) };
}

fn create(task: &Task, flags: u32) -> Result<u64, Errno> {
    install(task, Epoll::open(flags)?, flags & EPOLL_CLOEXEC != 0)
}

pub(crate) fn epoll_create(task: &Arc<Task>, args: Args) -> Outcome {
    if args.i32(0) <= 0 {
        return Outcome::error(Errno::EINVAL);
    }
    done(create(task, 0))
}

pub(crate) fn epoll_create1(task: &Arc<Task>, args: Args) -> Outcome {
    done(create(task, args.u32(0)))
}

pub(crate) fn epoll_ctl(task: &Arc<Task>, args: Args) -> Outcome {
    let (op, fd) = (args.u32(1), args.i32(2));
    unit((|| {
        let event =
            if op == EPOLL_CTL_DEL { EpollEvent::default() } else { task.own_mm().read(args.u64(3))? };
        let [epoll, file] = task.io_files([args.i32(0), fd])?;
        used(task, &file);
        if !file.ops().pollable() {
            return Err(Errno::EPERM);
        }
        epoll.downcast::<Epoll>().ok_or(Errno::EINVAL)?.ctl(op, fd, &file, event)
    })())
}

/// Where the events go, and how many at most.
#[derive(Clone, Copy)]
struct Room {
    addr: u64,
    max: usize,
}

fn prepare(task: &Task, args: Args) -> Result<(Arc<File>, Room), Errno> {
    let max =
        usize::try_from(args.i32(2)).ok().filter(|&max| max > 0 && max <= MAX_EVENTS).ok_or(Errno::EINVAL)?;
    let addr = args.u64(1);
    if !task.own_mm().range_ok(addr, (max * size_of::<EpollEvent>()) as u64) {
        return Err(Errno::EFAULT);
    }
    let file = task.io_file(args.i32(0))?;
    file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    Ok((file, Room { addr, max: max.min(MAX_ANSWER) }))
}

/// Takes what is ready and stores it; `None`: nothing is.
fn take(task: &Task, file: &File, room: Room) -> Option<Result<u64, Errno>> {
    let epoll = file.downcast::<Epoll>()?;
    let mut events = EVENTS.take();
    events.clear();
    epoll.collect(room.max, &mut events);
    let result = if events.is_empty() { None } else { Some(store(task, epoll, room.addr, &events)) };
    EVENTS.set(events);
    result
}

/// Writes events to the guest: how many.
fn store(task: &Task, epoll: &Epoll, addr: u64, events: &[EpollEvent]) -> Result<u64, Errno> {
    let mm = task.own_mm();
    if mm.write_array(addr, events).is_ok() {
        return Ok(events.len() as u64);
    }
    // One after the other, up to the fault.
    let mut stored = 0;
    for event in events {
        let addr = addr.wrapping_add((stored * size_of::<EpollEvent>()) as u64);
        if mm.write(addr, event).is_err() {
            break;
        }
        stored += 1;
    }
    epoll.put_back(events.get(stored..).unwrap_or_default());
    if stored > 0 { Ok(stored as u64) } else { Err(Errno::EFAULT) }
}

/// The mask comes back unless a handler may run first.
fn finish(task: &Arc<Task>, result: SysResult, masked: bool) -> SysResult {
    if masked && !matches!(result, Err(SysError::Errno(Errno::EINTR))) {
        task.restore_mask();
    }
    result
}

/// A timeout in nanoseconds; `None` never comes.
type Timeout = Option<u64>;

fn millis(ms: i32) -> Timeout {
    u64::try_from(ms).ok().map(|ms| ms * NSEC_PER_MSEC as u64)
}

fn timespec(task: &Task, addr: u64) -> Result<Timeout, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    from_timespec(&task.own_mm().read::<Timespec>(addr)?).map(Some)
}

fn wait(task: &Arc<Task>, args: Args, timeout: Timeout, masked: bool) -> Outcome {
    let (file, room) = match prepare(task, args) {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::Done(finish(task, Err(error.into()), masked)),
    };
    let ready = match (take(task, &file, room), timeout) {
        (Some(result), _) => Some(result),
        (None, Some(0)) => Some(Ok(0)),
        (None, _) => None,
    };
    if let Some(result) = ready {
        return Outcome::Done(finish(task, result.map_err(SysError::Errno), masked));
    }
    let task = task.clone();
    // The clock is asked by who waits only.
    let deadline = timeout.map(Deadline::after);
    Outcome::block(async move {
        let timers = task.kernel.reactor.timers();
        let events = until(&task, &file, || take(&task, &file, room));
        let result = match task.interruptible(with_timeout(timers, events, deadline)).await {
            Ok(events) => events.unwrap_or(Ok(0)).map_err(SysError::Errno),
            Err(_) => Err(Errno::EINTR.into()),
        };
        finish(&task, result, masked)
    })
}

pub(crate) fn epoll_wait(task: &Arc<Task>, args: Args) -> Outcome {
    wait(task, args, millis(args.i32(3)), false)
}

pub(crate) fn epoll_pwait(task: &Arc<Task>, args: Args) -> Outcome {
    match set_mask(task, args.u64(4), args.u64(5)) {
        Ok(masked) => wait(task, args, millis(args.i32(3)), masked),
        Err(error) => Outcome::error(error),
    }
}

pub(crate) fn epoll_pwait2(task: &Arc<Task>, args: Args) -> Outcome {
    let prepared = timespec(task, args.u64(3))
        .and_then(|timeout| Ok((timeout, set_mask(task, args.u64(4), args.u64(5))?)));
    match prepared {
        Ok((timeout, masked)) => wait(task, args, timeout, masked),
        Err(error) => Outcome::error(error),
    }
}
