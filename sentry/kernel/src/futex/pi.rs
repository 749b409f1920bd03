//! Locks with an owner: the word holds the owner's thread id, FUTEX_WAITERS and FUTEX_OWNER_DIED.
//!
//! Waiters get the lock in the order they came; priorities are not passed on to the owner.
//!
//! User space takes a lock by changing 0 to its thread id, and gives it back by changing that to 0. It does neither to a
//! word with FUTEX_WAITERS in it, so from then on only calls change it, under the bucket's lock. The sentry cannot set that
//! bit without the risk to overwrite what a guest thread stores at the same instant: the caller's own thread sets it
//! ([`mark`]), and what the word says is looked at afterwards.

use super::call::update;
use super::key::Key;
use super::table::{PiWaiter, Wakes};
use crate::Task;
use crate::result::{Outcome, Restart, SysError};
use crate::time::{Deadline, with_timeout};
use chitin_abi::Errno;
use chitin_abi::futex::*;
use chitin_mm::Mm;
use chitin_platform::HostOp;
use std::sync::Arc;

/// What an attempt to take a lock found.
enum Attempt {
    Taken,
    /// The owner's kernel id.
    HeldBy(i32),
    /// User space may change the word: to be marked first.
    Unmarked,
}

/// A lock that gets rid of its mark so often is not waited for.
const MARKS: usize = 1024;
/// The number of the bit FUTEX_WAITERS.
const WAITERS_BIT: u32 = FUTEX_WAITERS.trailing_zeros();

fn own_bits(task: &Task) -> u32 {
    u32::try_from(task.tid()).unwrap_or(0) & FUTEX_TID_MASK
}

/// Takes the lock if it is marked and nobody has it; the bucket is locked.
fn attempt(task: &Task, mm: &Mm, addr: u64, waited_for: bool) -> Result<Attempt, Errno> {
    let old = mm.read::<u32>(addr)?;
    let owner = old & FUTEX_TID_MASK;
    if owner == own_bits(task) {
        return Err(Errno::EDEADLK);
    }
    if old & FUTEX_WAITERS == 0 {
        return Ok(Attempt::Unmarked);
    }
    if owner == 0 {
        // OWNER_DIED stays, for the new owner to clean up.
        let waiters = if waited_for { FUTEX_WAITERS } else { 0 };
        mm.write(addr, &(own_bits(task) | (old & FUTEX_OWNER_DIED) | waiters))?;
        return Ok(Attempt::Taken);
    }
    let owner = i32::try_from(owner).map_err(|_| Errno::ESRCH)?;
    Ok(Attempt::HeldBy(task.find_task(owner).ok_or(Errno::ESRCH)?.kid()))
}

/// Has the task's thread mark the word as waited for.
async fn mark(task: &Task, mm: &Mm, addr: u64) -> Result<(), Errno> {
    let op = HostOp::SetBit { addr, bit: WAITERS_BIT };
    mm.apply(task.platform(), vec![op]).await.map(|_| ()).map_err(|_| Errno::EFAULT)
}

/// FUTEX_LOCK_PI.
pub(super) fn lock(
    task: &Arc<Task>,
    mm: &Arc<Mm>,
    addr: u64,
    private: bool,
    deadline: Option<Deadline>,
) -> Result<Outcome, Errno> {
    let (task, mm) = (task.clone(), mm.clone());
    Ok(Outcome::block(async move {
        let kernel = task.kernel.clone();
        let table = &kernel.futexes;
        let key = table.wait_key(&mm, addr, private)?;
        let mut marks = 0;
        let queued = loop {
            {
                let mut bucket = table.lock(&key);
                if bucket.has(&key, false) {
                    return Err(Errno::EINVAL.into());
                }
                match attempt(&task, &mm, addr, bucket.has(&key, true))? {
                    Attempt::Taken => return Ok(0),
                    Attempt::HeldBy(owner) => {
                        let by = PiWaiter { nr: task.tid(), kid: task.kid() };
                        break table.enqueue_pi(&mut bucket, &mm, key, by, owner);
                    }
                    Attempt::Unmarked if marks == MARKS => return Err(Errno::EAGAIN.into()),
                    Attempt::Unmarked => marks += 1,
                }
            }
            mark(&task, &mm, addr).await?;
        };
        let timers = kernel.reactor.timers();
        let ended = task.interruptible(with_timeout(timers, queued.woken(), deadline)).await;
        if queued.cancel() {
            // The lock was handed over: the word names this thread already.
            return Ok(0);
        }
        match ended {
            Ok(_) => Err(Errno::ETIMEDOUT.into()),
            Err(_) => Err(SysError::Restart(Restart::NoIntr)),
        }
    }))
}

/// FUTEX_TRYLOCK_PI: EAGAIN when somebody holds it.
pub(super) fn try_lock(task: &Arc<Task>, mm: &Arc<Mm>, addr: u64, private: bool) -> Outcome {
    let (task, mm) = (task.clone(), mm.clone());
    Outcome::block(async move {
        let kernel = task.kernel.clone();
        let table = &kernel.futexes;
        let key = table.wait_key(&mm, addr, private)?;
        for _ in 0..MARKS {
            {
                let bucket = table.lock(&key);
                match attempt(&task, &mm, addr, bucket.has(&key, true))? {
                    Attempt::Taken => return Ok(0),
                    Attempt::HeldBy(_) => break,
                    Attempt::Unmarked => {}
                }
            }
            mark(&task, &mm, addr).await?;
        }
        Err(Errno::EAGAIN.into())
    })
}

/// FUTEX_UNLOCK_PI: EPERM for anyone but the owner.
pub(super) fn unlock(task: &Arc<Task>, mm: &Arc<Mm>, addr: u64, private: bool) -> Result<usize, Errno> {
    let table = &task.kernel.futexes;
    super::key::check(mm, addr)?;
    if mm.read::<u32>(addr)? & FUTEX_TID_MASK != own_bits(task) {
        return Err(Errno::EPERM);
    }
    let key = table.wait_key(mm, addr, private)?;
    pass_on(task, mm, addr, &key, 0)?;
    Ok(0)
}

/// Gives a lock to the next waiter, or frees it; `mark` is added to the word.
pub(super) fn pass_on(task: &Task, mm: &Mm, addr: u64, key: &Key, mark: u32) -> Result<(), Errno> {
    let table = &task.kernel.futexes;
    let mut wakes = Wakes::default();
    {
        let mut bucket = table.lock(key);
        let next =
            bucket.next_pi(key).and_then(|tid| u32::try_from(tid).ok()).map(|tid| tid & FUTEX_TID_MASK);
        let new = next.map_or(0, |tid| tid | FUTEX_WAITERS) | mark;
        update(mm, addr, |_| new)?;
        if next.is_some() {
            bucket.hand_over(key, &mut wakes);
        }
    }
    wakes.run();
    Ok(())
}
