//! Waiting for many files: poll and ppoll here, [`mod@select`] and [`mod@epoll`] beside it (fs/select.c).
//!
//! Neighbours: `vfs::poll` waits, the kernel's timers end the waiting.

mod epoll;
mod select;

pub(crate) use epoll::{epoll_create, epoll_create1, epoll_ctl, epoll_pwait, epoll_pwait2, epoll_wait};
pub(crate) use select::{pselect6, select};

use crate::Args;
use chitin_abi::Errno;
use chitin_abi::num::low16;
use chitin_abi::poll::PollFd;
use chitin_abi::signal::SigSet;
use chitin_abi::time::{NSEC_PER_MSEC, NSEC_PER_USEC, Timespec};
use chitin_kernel::result::Interrupted;
use chitin_kernel::signalfd::SignalFd;
use chitin_kernel::time::{Deadline, from_timespec, to_timespec, with_timeout};
use chitin_kernel::{Outcome, Restart, SysError, SysResult, Task};
use chitin_vfs::File;
use chitin_vfs::bounds::{POLL_ENTRIES, Share};
use chitin_vfs::poll::{PollEntry, PollMany, PollTarget};
use std::sync::Arc;

/// A file as poll, select and epoll take it: O_PATH descriptors are EBADF.
fn pollable(task: &Arc<Task>, fd: i32) -> Result<Arc<File>, Errno> {
    let file = task.io_file(fd)?;
    used(task, &file);
    Ok(file)
}

/// A file is looked at for `task`: some show what is the task's.
fn used(task: &Arc<Task>, file: &File) {
    if let Some(signals) = file.downcast::<SignalFd>() {
        signals.used_by(task);
    }
}

/// How long to wait.
#[derive(Clone, Copy)]
enum Limit {
    Never,
    /// Only look.
    Zero,
    At(Deadline),
}

impl Limit {
    fn after(ns: u64) -> Limit {
        if ns == 0 { Limit::Zero } else { Limit::At(Deadline::after(ns)) }
    }

    /// A timeout in milliseconds: below 0 it never comes.
    fn millis(ms: i32) -> Limit {
        match u64::try_from(ms) {
            Ok(ms) => Limit::after(ms * NSEC_PER_MSEC as u64),
            Err(_) => Limit::Never,
        }
    }

    fn timespec(task: &Task, addr: u64) -> Result<Limit, Errno> {
        if addr == 0 {
            return Ok(Limit::Never);
        }
        from_timespec(&task.mm().read::<Timespec>(addr)?).map(Limit::after)
    }

    fn deadline(self) -> Option<Deadline> {
        match self {
            Limit::At(deadline) => Some(deadline),
            Limit::Never | Limit::Zero => None,
        }
    }
}

/// Sets the mask of a p-call: EINVAL for a wrong size, EFAULT; `false` without a mask (set_user_sigmask()).
fn set_mask(task: &Arc<Task>, addr: u64, size: u64) -> Result<bool, Errno> {
    if addr == 0 {
        return Ok(false);
    }
    if size != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    task.set_temporary_mask(task.mm().read::<SigSet>(addr)?);
    Ok(true)
}

/// Waits until an entry is ready or the limit comes: how many are ready.
async fn wait_many(task: &Arc<Task>, many: &mut PollMany, limit: Limit) -> Result<usize, Interrupted> {
    let timers = task.kernel.reactor.timers();
    let result = task.interruptible(with_timeout(timers, &mut *many, limit.deadline())).await;
    many.finish();
    Ok(result?.unwrap_or(0))
}

/// A look without waiting, where that is enough: something is ready, or there is no time. Interrupted where a signal
/// is pending and nothing is ready.
fn look(task: &Task, many: &mut PollMany, limit: Limit) -> Option<Result<usize, Interrupted>> {
    match many.scan() {
        0 if task.signal_pending() => Some(Err(Interrupted)),
        0 if matches!(limit, Limit::Zero) => Some(Ok(0)),
        0 => None,
        ready => Some(Ok(ready)),
    }
}

/// Where the rest of a timeout is written back.
#[derive(Clone, Copy)]
enum Rest {
    Nowhere,
    Timespec(u64),
    Timeval(u64),
}

impl Rest {
    /// What is to be written, and where: seconds and their fraction.
    fn told(self, limit: Limit) -> Option<(u64, [i64; 2])> {
        let left = || limit.deadline().map(|deadline| to_timespec(deadline.left()));
        match self {
            Rest::Nowhere => None,
            Rest::Timespec(addr) => left().map(|left| (addr, [left.tv_sec, left.tv_nsec])),
            Rest::Timeval(addr) => left().map(|left| (addr, [left.tv_sec, left.tv_nsec / NSEC_PER_USEC])),
        }
    }
}

/// poll_select_finish(): the mask comes back unless a handler may run first, the rest of the time is told.
fn finish(task: &Arc<Task>, result: SysResult, masked: bool, limit: Limit, rest: Rest) -> SysResult {
    let interrupted = matches!(result, Err(SysError::Restart(_)));
    if masked && !interrupted {
        task.restore_mask();
    }
    match rest.told(limit).map(|(addr, left)| task.mm().write(addr, &left)) {
        // Without the rest the call cannot be made again.
        Some(Err(_)) if interrupted => Err(Errno::EINTR.into()),
        _ => result,
    }
}

/// The descriptors of one poll(2).
struct Fds {
    addr: u64,
    fds: Vec<PollFd>,
    many: PollMany,
    /// What many entries take of what all calls may have.
    _share: Option<Share>,
}

impl Fds {
    fn read(task: &Arc<Task>, addr: u64, count: u32) -> Result<Fds, Errno> {
        if u64::from(count) > task.process.nofile() {
            return Err(Errno::EINVAL);
        }
        let share = match count {
            0..=64 => None,
            _ => Some(POLL_ENTRIES.share(usize::try_from(count).unwrap_or(usize::MAX)).ok_or(Errno::ENOMEM)?),
        };
        let fds = task.mm().read_array::<PollFd>(addr, count as usize)?;
        let entry = |slot: &PollFd| {
            let target = match slot.fd {
                ..0 => PollTarget::Ignored,
                fd => pollable(task, fd).map_or(PollTarget::Bad, PollTarget::File),
            };
            PollEntry::poll(target, slot.events)
        };
        let many = PollMany::new(fds.iter().map(entry).collect());
        Ok(Fds { addr, fds, many, _share: share })
    }

    /// Writes the results back; they are written after an interruption too.
    fn answer(
        &mut self,
        task: &Task,
        result: Result<usize, Interrupted>,
    ) -> Result<Result<u64, Interrupted>, Errno> {
        for (slot, entry) in self.fds.iter_mut().zip(&self.many.entries) {
            slot.revents = if result.is_ok() { low16(entry.revents) } else { 0 };
        }
        task.mm().write_array(self.addr, &self.fds)?;
        Ok(result.map(|count| count as u64))
    }
}

/// The parked part of poll(2), which goes on with the time left after an interruption without a handler.
fn poll_on(task: Arc<Task>, mut fds: Fds, limit: Limit) -> chitin_kernel::result::Blocking {
    Box::pin(async move {
        let result = wait_many(&task, &mut fds.many, limit).await;
        poll_done(&task, fds, limit, result)
    })
}

fn poll_done(task: &Arc<Task>, mut fds: Fds, limit: Limit, result: Result<usize, Interrupted>) -> Outcome {
    match fds.answer(task, result) {
        Ok(Ok(count)) => Outcome::value(count),
        Ok(Err(Interrupted)) => {
            let again = match limit {
                Limit::Zero => Limit::At(Deadline::after(0)),
                limit => limit,
            };
            Outcome::Done(Err(SysError::Restart(Restart::Block(poll_on(task.clone(), fds, again)))))
        }
        Err(error) => Outcome::error(error),
    }
}

pub(crate) fn poll(task: &Arc<Task>, args: Args) -> Outcome {
    let limit = Limit::millis(args.i32(2));
    let mut fds = match Fds::read(task, args.u64(0), args.u32(1)) {
        Ok(fds) => fds,
        Err(error) => return Outcome::error(error),
    };
    match look(task, &mut fds.many, limit) {
        Some(result) => poll_done(task, fds, limit, result),
        None => Outcome::Block(poll_on(task.clone(), fds, limit)),
    }
}

/// As a call that goes on without its handler only: ERESTARTNOHAND.
fn no_hand(result: Result<u64, Interrupted>) -> SysResult {
    result.map_err(|Interrupted| SysError::Restart(Restart::NoHand))
}

pub(crate) fn ppoll(task: &Arc<Task>, args: Args) -> Outcome {
    let rest = args.opt::<Timespec>(2).map_or(Rest::Nowhere, |addr| Rest::Timespec(addr.addr()));
    let prepared = Limit::timespec(task, args.u64(2))
        .and_then(|limit| Ok((limit, set_mask(task, args.u64(3), args.u64(4))?)));
    let (limit, masked) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::error(error),
    };
    let answer = move |task: &Arc<Task>, mut fds: Fds, result| {
        let result = fds.answer(task, result).map_err(SysError::Errno).and_then(no_hand);
        finish(task, result, masked, limit, rest)
    };
    let mut fds = match Fds::read(task, args.u64(0), args.u32(1)) {
        Ok(fds) => fds,
        Err(error) => return Outcome::Done(finish(task, Err(error.into()), masked, limit, rest)),
    };
    if let Some(result) = look(task, &mut fds.many, limit) {
        return Outcome::Done(answer(task, fds, result));
    }
    let task = task.clone();
    Outcome::block(async move {
        let result = wait_many(&task, &mut fds.many, limit).await;
        answer(&task, fds, result)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert!(matches!(Limit::millis(-1), Limit::Never));
        assert!(matches!(Limit::millis(0), Limit::Zero));
        let Limit::At(deadline) = Limit::millis(i32::MAX) else { panic!("a time") };
        let left = deadline.left();
        assert!(left <= 2_147_483_647_000_000 && left > 2_147_480_000_000_000);
    }
}
