//! Locks with an owner: the word holds the owner's thread id, FUTEX_WAITERS and FUTEX_OWNER_DIED.
//!
//! Waiters get the lock in the order they came; priorities are not passed on to the owner.

use super::call::update;
use super::key::Key;
use super::table::{PiWaiter, Wakes};
use crate::Task;
use crate::result::{Outcome, Restart, SysError};
use crate::time::{Deadline, with_timeout};
use chitin_abi::Errno;
use chitin_abi::futex::*;
use chitin_mm::Mm;
use std::sync::Arc;

/// What an attempt to take a lock found.
enum Attempt {
    Taken,
    /// The owner's kernel id.
    HeldBy(i32),
}

fn own_bits(task: &Task) -> u32 {
    u32::try_from(task.tid()).unwrap_or(0) & FUTEX_TID_MASK
}

/// Takes the lock if nobody has it, else marks it as waited for; the bucket is locked.
fn attempt(task: &Task, mm: &Mm, addr: u64, waited_for: bool) -> Result<Attempt, Errno> {
    let own = own_bits(task);
    let mut old = mm.read::<u32>(addr)?;
    for _ in 0..128 {
        let owner = old & FUTEX_TID_MASK;
        if owner == own {
            return Err(Errno::EDEADLK);
        }
        let mut holder = None;
        let new = if owner == 0 {
            // OWNER_DIED stays, for the new owner to clean up.
            own | (old & FUTEX_OWNER_DIED) | if waited_for { FUTEX_WAITERS } else { 0 }
        } else {
            let tid = i32::try_from(owner).map_err(|_| Errno::ESRCH)?;
            holder = Some(task.find_task(tid).ok_or(Errno::ESRCH)?.kid());
            old | FUTEX_WAITERS
        };
        let seen = mm.space().compare_exchange_u32(addr, old, new).map_err(|_| Errno::EFAULT)?;
        if seen == old {
            return Ok(holder.map_or(Attempt::Taken, Attempt::HeldBy));
        }
        old = seen;
    }
    Err(Errno::EAGAIN)
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
        let queued = {
            let mut bucket = table.lock(&key);
            if bucket.has(&key, false) {
                return Err(Errno::EINVAL.into());
            }
            match attempt(&task, &mm, addr, bucket.has(&key, true))? {
                Attempt::Taken => return Ok(0),
                Attempt::HeldBy(owner) => {
                    let by = PiWaiter { nr: task.tid(), kid: task.kid() };
                    table.enqueue_pi(&mut bucket, &mm, key, by, owner)
                }
            }
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
pub(super) fn try_lock(task: &Arc<Task>, mm: &Arc<Mm>, addr: u64, private: bool) -> Result<usize, Errno> {
    let table = &task.kernel.futexes;
    let key = table.wait_key(mm, addr, private)?;
    let bucket = table.lock(&key);
    match attempt(task, mm, addr, bucket.has(&key, true))? {
        Attempt::Taken => Ok(0),
        Attempt::HeldBy(_) => Err(Errno::EAGAIN),
    }
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
