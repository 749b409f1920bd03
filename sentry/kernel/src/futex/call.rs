//! futex(2) and futex_waitv(2).

use super::key::Key;
use super::pi;
use super::table::{FutexTable, Queued, Wakes};
use crate::Task;
use crate::result::{Blocking, Outcome, Restart, SysError};
use crate::time::clock::from_timespec;
use crate::time::{Base, Deadline, with_timeout};
use chitin_abi::Errno;
use chitin_abi::futex::*;
use chitin_abi::num::low32;
use chitin_abi::time::{CLOCK_MONOTONIC, CLOCK_REALTIME, Timespec};
use chitin_mm::Mm;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// futex(2). `args` are the call's six: uaddr, op, val, timeout or val2, uaddr2, val3.
pub fn futex(task: &Arc<Task>, args: [u64; 6]) -> Outcome {
    match start(task, args) {
        Ok(outcome) => outcome,
        Err(errno) => Outcome::error(errno),
    }
}

fn start(task: &Arc<Task>, args: [u64; 6]) -> Result<Outcome, Errno> {
    let [addr, op, val, time, addr2, val3] = args;
    // All of these are 32 bits wide.
    let (op, val, val2, val3) = (low32(op), low32(val), low32(time), low32(val3));
    let command = op & FUTEX_CMD_MASK;
    let private = op & FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & FUTEX_CLOCK_REALTIME != 0;
    if realtime && !matches!(command, FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2) {
        return Err(Errno::ENOSYS);
    }
    let mm = task.mm();
    let table = &task.kernel.futexes;
    let base = match command {
        FUTEX_LOCK_PI => Base::Realtime,
        _ if realtime => Base::Realtime,
        _ => Base::Monotonic,
    };
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let deadline = deadline(task, time, base, command == FUTEX_WAIT)?;
            let bitset = if command == FUTEX_WAIT { FUTEX_BITSET_MATCH_ANY } else { val3 };
            wait(task, &mm, Wait { addr, private, value: val, bitset, deadline })
        }
        FUTEX_WAKE => wake(table, &mm, addr, private, val, FUTEX_BITSET_MATCH_ANY).map(value),
        FUTEX_WAKE_BITSET => wake(table, &mm, addr, private, val, val3).map(value),
        FUTEX_REQUEUE => requeue(table, &mm, (addr, addr2), private, (val, val2), None).map(value),
        FUTEX_CMP_REQUEUE => requeue(table, &mm, (addr, addr2), private, (val, val2), Some(val3)).map(value),
        FUTEX_WAKE_OP => wake_op(table, &mm, (addr, addr2), private, (val, val2), val3).map(value),
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => {
            let deadline = deadline(task, time, base, false)?;
            pi::lock(task, &mm, addr, private, deadline)
        }
        FUTEX_TRYLOCK_PI => Ok(pi::try_lock(task, &mm, addr, private)),
        FUTEX_UNLOCK_PI => pi::unlock(task, &mm, addr, private).map(value),
        // FUTEX_FD is gone since 2.6.26; requeueing to locks with an owner is not offered, as without CONFIG_FUTEX_PI.
        _ => Err(Errno::ENOSYS),
    }
}

fn value(count: usize) -> Outcome {
    Outcome::value(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Reads a timeout argument; a null pointer is none.
fn deadline(task: &Task, addr: u64, base: Base, relative: bool) -> Result<Option<Deadline>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let ns = from_timespec(&task.mm().read::<Timespec>(addr)?)?;
    Ok(Some(if relative { Deadline::after(ns) } else { task.moment(base, ns) }))
}

#[derive(Clone, Copy)]
struct Wait {
    addr: u64,
    private: bool,
    value: u32,
    bitset: u32,
    deadline: Option<Deadline>,
}

fn wait(task: &Arc<Task>, mm: &Arc<Mm>, wait: Wait) -> Result<Outcome, Errno> {
    if wait.bitset == 0 {
        return Err(Errno::EINVAL);
    }
    // Most calls that cannot wait are found out here, without a future: a word that has changed.
    super::key::check(mm, wait.addr)?;
    if mm.read::<u32>(wait.addr)? != wait.value {
        return Err(Errno::EAGAIN);
    }
    Ok(Outcome::Block(wait_future(task.clone(), mm.clone(), wait)))
}

fn wait_future(task: Arc<Task>, mm: Arc<Mm>, wait: Wait) -> Blocking {
    Box::pin(async move {
        let kernel = task.kernel.clone();
        let table = &kernel.futexes;
        let queued = table
            .wait_key(&mm, wait.addr, wait.private)
            .and_then(|key| table.enqueue(&mm, wait.addr, key, wait.value, wait.bitset));
        let queued = match queued {
            Ok(queued) => queued,
            Err(errno) => return Outcome::error(errno),
        };
        let timers = kernel.reactor.timers();
        let ended = task.interruptible(with_timeout(timers, queued.woken(), wait.deadline)).await;
        if queued.cancel() {
            return Outcome::value(0);
        }
        match ended {
            Ok(_) => Outcome::error(Errno::ETIMEDOUT),
            Err(_) if wait.deadline.is_none() => Outcome::Done(Err(SysError::Restart(Restart::Sys))),
            Err(_) => {
                drop(queued);
                let again = wait_future(task.clone(), mm.clone(), wait);
                Outcome::Done(Err(SysError::Restart(Restart::Block(again))))
            }
        }
    })
}

/// How many to wake: as in Linux at least one, whatever the guest says.
fn wake_count(count: u32) -> usize {
    usize::try_from(count.cast_signed()).unwrap_or(1).max(1)
}

pub(super) fn wake(
    table: &FutexTable,
    mm: &Arc<Mm>,
    addr: u64,
    private: bool,
    count: u32,
    bitset: u32,
) -> Result<usize, Errno> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = table.wake_key(mm, addr, private)?;
    let mut wakes = Wakes::default();
    let woken = {
        let mut bucket = table.lock(&key);
        let woken = bucket.wake(&key, wake_count(count), bitset, &mut wakes);
        if woken == 0 && bucket.has(&key, true) {
            return Err(Errno::EINVAL);
        }
        woken
    };
    wakes.run();
    Ok(woken)
}

fn requeue(
    table: &FutexTable,
    mm: &Arc<Mm>,
    addrs: (u64, u64),
    private: bool,
    counts: (u32, u32),
    expected: Option<u32>,
) -> Result<usize, Errno> {
    let count = |count: u32| usize::try_from(count.cast_signed()).map_err(|_| Errno::EINVAL);
    let counts = (count(counts.0)?, count(counts.1)?);
    let from = table.wake_key(mm, addrs.0, private)?;
    // Waiters are moved there, so its true key is needed.
    let to = table.wait_key(mm, addrs.1, private)?;
    let mut wakes = Wakes::default();
    let done = {
        let mut locked = table.lock_two(&from, &to);
        if let Some(expected) = expected
            && mm.read::<u32>(addrs.0)? != expected
        {
            return Err(Errno::EAGAIN);
        }
        table.requeue(&mut locked, (&from, &to), counts, &mut wakes)
    };
    wakes.run();
    Ok(done)
}

/// The operation and comparison of FUTEX_WAKE_OP, decoded.
struct WakeOp {
    op: u32,
    arg: u32,
    cmp: u32,
    cmp_arg: i32,
}

impl WakeOp {
    fn decode(encoded: u32) -> Result<WakeOp, Errno> {
        let op = encoded >> 28 & 7;
        let shift = encoded >> 28 & FUTEX_OP_OPARG_SHIFT != 0;
        let cmp = encoded >> 24 & 15;
        let sign_extend = |value: u32| (value << 20).cast_signed() >> 20;
        let arg = sign_extend(encoded >> 12 & 0xfff).cast_unsigned();
        let cmp_arg = sign_extend(encoded & 0xfff);
        if op > FUTEX_OP_XOR || cmp > FUTEX_OP_CMP_GE {
            return Err(Errno::ENOSYS);
        }
        // As in Linux, a shift out of range counts modulo 32.
        let arg = if shift { 1u32 << (arg & 31) } else { arg };
        Ok(WakeOp { op, arg, cmp, cmp_arg })
    }

    fn apply(&self, old: u32) -> u32 {
        match self.op {
            FUTEX_OP_SET => self.arg,
            FUTEX_OP_ADD => old.wrapping_add(self.arg),
            FUTEX_OP_OR => old | self.arg,
            FUTEX_OP_ANDN => old & !self.arg,
            _ => old ^ self.arg,
        }
    }

    fn holds(&self, old: u32) -> bool {
        let old = old.cast_signed();
        match self.cmp {
            FUTEX_OP_CMP_EQ => old == self.cmp_arg,
            FUTEX_OP_CMP_NE => old != self.cmp_arg,
            FUTEX_OP_CMP_LT => old < self.cmp_arg,
            FUTEX_OP_CMP_LE => old <= self.cmp_arg,
            FUTEX_OP_CMP_GT => old > self.cmp_arg,
            _ => old >= self.cmp_arg,
        }
    }
}

/// Changes a word atomically: the value before. Gives up with EAGAIN when the guest keeps changing it too.
pub(super) fn update(mm: &Mm, addr: u64, change: impl Fn(u32) -> u32) -> Result<u32, Errno> {
    let mut old = mm.read::<u32>(addr)?;
    for _ in 0..128 {
        let seen = mm.space().compare_exchange_u32(addr, old, change(old)).map_err(|_| Errno::EFAULT)?;
        if seen == old {
            return Ok(old);
        }
        old = seen;
    }
    Err(Errno::EAGAIN)
}

fn wake_op(
    table: &FutexTable,
    mm: &Arc<Mm>,
    addrs: (u64, u64),
    private: bool,
    counts: (u32, u32),
    encoded: u32,
) -> Result<usize, Errno> {
    let one = table.wake_key(mm, addrs.0, private)?;
    let two = table.wake_key(mm, addrs.1, private)?;
    let op = WakeOp::decode(encoded)?;
    let mut wakes = Wakes::default();
    let woken = {
        let mut locked = table.lock_two(&one, &two);
        let old = update(mm, addrs.1, |old| op.apply(old))?;
        let mut woken = locked.one().wake(&one, wake_count(counts.0), FUTEX_BITSET_MATCH_ANY, &mut wakes);
        if op.holds(old) {
            woken += locked.two().wake(&two, wake_count(counts.1), FUTEX_BITSET_MATCH_ANY, &mut wakes);
        }
        woken
    };
    wakes.run();
    Ok(woken)
}

/// futex_waitv(2). `args`: waiters, their number, flags, timeout (absolute), clock.
pub fn futex_waitv(task: &Arc<Task>, args: [u64; 5]) -> Outcome {
    match start_waitv(task, args) {
        Ok(outcome) => outcome,
        Err(errno) => Outcome::error(errno),
    }
}

fn start_waitv(task: &Arc<Task>, args: [u64; 5]) -> Result<Outcome, Errno> {
    let [waiters, count, flags, timeout, clock] = args;
    if low32(flags) != 0 {
        return Err(Errno::EINVAL);
    }
    let count = usize::try_from(low32(count)).map_err(|_| Errno::EINVAL)?;
    if count == 0 || count > FUTEX_WAITV_MAX || waiters == 0 {
        return Err(Errno::EINVAL);
    }
    let mm = task.mm();
    let deadline = if timeout == 0 {
        None
    } else {
        let base = match low32(clock).cast_signed() {
            CLOCK_REALTIME => Base::Realtime,
            CLOCK_MONOTONIC => Base::Monotonic,
            _ => return Err(Errno::EINVAL),
        };
        deadline(task, timeout, base, false)?
    };
    let waits = mm.read_array::<FutexWaitv>(waiters, count)?;
    for wait in &waits {
        if wait.flags & !(FUTEX2_SIZE_MASK | FUTEX2_PRIVATE) != 0
            || wait.flags & FUTEX2_SIZE_MASK != FUTEX2_SIZE_U32
            || wait.__reserved != 0
            || u32::try_from(wait.val).is_err()
        {
            return Err(Errno::EINVAL);
        }
    }
    let task = task.clone();
    Ok(Outcome::Block(Box::pin(async move {
        match wait_many(&task, &mm, &waits, deadline).await {
            Ok(index) => value(index),
            Err(error) => Outcome::Done(Err(error)),
        }
    })))
}

async fn wait_many(
    task: &Arc<Task>,
    mm: &Arc<Mm>,
    waits: &[FutexWaitv],
    deadline: Option<Deadline>,
) -> Result<usize, SysError> {
    let kernel = task.kernel.clone();
    let table = &kernel.futexes;
    let mut keys: Vec<Key> = Vec::with_capacity(waits.len());
    for wait in waits {
        keys.push(table.wait_key(mm, wait.uaddr, wait.flags & FUTEX2_PRIVATE != 0)?);
    }
    let mut queued: Vec<Queued<'_>> = Vec::with_capacity(waits.len());
    for (wait, key) in waits.iter().zip(keys) {
        let value = u32::try_from(wait.val).map_err(|_| Errno::EINVAL)?;
        match table.enqueue(mm, wait.uaddr, key, value, FUTEX_BITSET_MATCH_ANY) {
            Ok(waiter) => queued.push(waiter),
            // A wake-up of one of those before counts more than a word that has changed.
            Err(errno) => return cancel_all(&queued).ok_or(SysError::Errno(errno)),
        }
    }
    let any = poll_fn(|cx| {
        let mut woken = false;
        for waiter in &queued {
            let mut one = std::pin::pin!(waiter.woken());
            woken |= one.as_mut().poll(cx).is_ready();
        }
        if woken { Poll::Ready(()) } else { Poll::Pending }
    });
    let ended = task.interruptible(with_timeout(kernel.reactor.timers(), any, deadline)).await;
    match cancel_all(&queued) {
        Some(index) => Ok(index),
        None if ended.is_ok() => Err(Errno::ETIMEDOUT.into()),
        None => Err(SysError::Restart(Restart::Sys)),
    }
}

/// Leaves all queues: the index of a waiter that had been woken.
fn cancel_all(queued: &[Queued<'_>]) -> Option<usize> {
    let mut found = None;
    for (index, waiter) in queued.iter().enumerate() {
        if waiter.cancel() {
            found = Some(index);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(op: u32, cmp: u32, oparg: u32, cmparg: u32) -> u32 {
        op << 28 | cmp << 24 | (oparg & 0xfff) << 12 | cmparg & 0xfff
    }

    #[test]
    fn wake_op_words() {
        let op = WakeOp::decode(encode(FUTEX_OP_ADD, FUTEX_OP_CMP_LT, 0xfff, 0xffe)).unwrap();
        assert_eq!((op.arg.cast_signed(), op.cmp_arg), (-1, -2));
        assert_eq!(op.apply(0), u32::MAX);
        assert!(op.holds(3u32.wrapping_neg()) && !op.holds(5));
        let op = WakeOp::decode(encode(FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT, FUTEX_OP_CMP_EQ, 31, 0)).unwrap();
        assert_eq!(op.apply(1), 0x8000_0001);
        let op =
            WakeOp::decode(encode(FUTEX_OP_SET | FUTEX_OP_OPARG_SHIFT, FUTEX_OP_CMP_GE, 0xfff, 1)).unwrap();
        assert_eq!(op.apply(7), 1 << 31);
        assert_eq!(WakeOp::decode(encode(5, 0, 0, 0)).err(), Some(Errno::ENOSYS));
        assert_eq!(WakeOp::decode(encode(0, 6, 0, 0)).err(), Some(Errno::ENOSYS));
        for (op, wanted) in [(FUTEX_OP_ANDN, 0b1000), (FUTEX_OP_XOR, 0b1001), (FUTEX_OP_SET, 0b0011)] {
            assert_eq!(WakeOp::decode(encode(op, 0, 3, 0)).unwrap().apply(0b1010), wanted);
        }
    }
}
