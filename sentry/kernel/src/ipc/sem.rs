//! Semaphores (ipc/sem.c). Operations that have to wait stand in their set's list, in order; whoever changes values
//! carries out those that have become possible.
//!
//! SEM_UNDO adjustments belong to a process. (CLONE_SYSVSEM between processes has no effect.)

use super::ids::{Ids, Perm, PermChange};
use super::now;
use crate::time::{Deadline, with_timeout};
use crate::{SysError, SysResult, Task};
use chitin_abi::Errno;
use chitin_abi::ipc::*;
use chitin_vfs::bounds::UNDO_ENTRIES;
use chitin_vfs::{Creds, WaitQueue};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// All semaphores of the sandbox together (the second number of kernel.sem).
const MAX_TOTAL: usize = 1_024_000;

#[derive(Clone, Copy, Default)]
struct Sem {
    value: u16,
    pid: i32,
}

/// An operation that waits.
struct Waiter {
    ops: Arc<[Sembuf]>,
    pid: i32,
    /// Which of `ops` could not be done.
    blocking: usize,
    shared: Arc<Answer>,
}

/// What a waiter is told.
#[derive(Default)]
struct Answer {
    result: Mutex<Option<Result<(), Errno>>>,
    queue: WaitQueue,
}

impl Answer {
    fn tell(&self, result: Result<(), Errno>) {
        *self.result.lock() = Some(result);
        self.queue.wake(0);
    }
}

struct State {
    perm: Perm,
    otime: i64,
    ctime: i64,
    sems: Vec<Sem>,
    /// By arrival.
    waiting: BTreeMap<u64, Waiter>,
    /// What is to be added at a process's end, by pid and semaphore; no zeroes.
    undo: HashMap<i32, BTreeMap<u16, i16>>,
    removed: bool,
}

/// A set of semaphores.
struct Set {
    id: i32,
    state: Mutex<State>,
}

/// All sets.
pub struct Table {
    ids: Mutex<Ids<Set>>,
    next_ticket: AtomicU64,
    /// Whether SEM_UNDO was ever used.
    undoing: AtomicBool,
}

impl Default for Table {
    fn default() -> Self {
        let ids = Mutex::new(Ids::new(SEMMNI));
        Table { ids, next_ticket: AtomicU64::new(0), undoing: AtomicBool::new(false) }
    }
}

/// How an attempt came out.
enum Attempt {
    Done,
    /// The operation of this index has to wait.
    Wait(usize),
    Failed(Errno),
}

impl Drop for State {
    fn drop(&mut self) {
        self.forget_undo();
    }
}

impl State {
    fn forget_undo(&mut self) {
        UNDO_ENTRIES.give(self.undo.values().map(BTreeMap::len).sum());
        self.undo.clear();
    }

    /// perform_atomic_semop(): all of the operations or none.
    fn attempt(&mut self, ops: &[Sembuf], pid: i32) -> Attempt {
        // Values and adjustments as they would be.
        let mut values: BTreeMap<u16, i32> = BTreeMap::new();
        let mut undo: BTreeMap<u16, i32> = BTreeMap::new();
        let own = self.undo.get(&pid);
        for (at, op) in ops.iter().enumerate() {
            let Some(sem) = self.sems.get(usize::from(op.sem_num)) else {
                return Attempt::Failed(Errno::EFBIG);
            };
            let value = values.entry(op.sem_num).or_insert(i32::from(sem.value));
            let step = i32::from(op.sem_op);
            if (step == 0 && *value != 0) || *value + step < 0 {
                let nowait = u32::from(op.sem_flg.cast_unsigned()) & IPC_NOWAIT != 0;
                return if nowait { Attempt::Failed(Errno::EAGAIN) } else { Attempt::Wait(at) };
            }
            if *value + step > SEMVMX.cast_signed() {
                return Attempt::Failed(Errno::ERANGE);
            }
            *value += step;
            if u32::from(op.sem_flg.cast_unsigned()) & SEM_UNDO != 0 {
                let known = || own.and_then(|own| own.get(&op.sem_num)).copied().map_or(0, i32::from);
                let adjust = undo.entry(op.sem_num).or_insert_with(known);
                *adjust -= step;
                if !(-SEMAEM.cast_signed() - 1..=SEMAEM.cast_signed()).contains(adjust) {
                    return Attempt::Failed(Errno::ERANGE);
                }
            }
        }
        let known = |num: &u16| own.is_some_and(|own| own.contains_key(num));
        let new = undo.iter().filter(|(num, adjust)| **adjust != 0 && !known(num)).count();
        if new > 0 && !UNDO_ENTRIES.take(new) {
            return Attempt::Failed(Errno::ENOMEM);
        }
        for (num, value) in values {
            if let (Some(sem), Ok(value)) = (self.sems.get_mut(usize::from(num)), u16::try_from(value)) {
                *sem = Sem { value, pid };
            }
        }
        if !undo.is_empty() {
            let own = self.undo.entry(pid).or_default();
            for (num, adjust) in undo {
                match i16::try_from(adjust) {
                    Ok(0) | Err(_) => UNDO_ENTRIES.give(usize::from(own.remove(&num).is_some())),
                    Ok(adjust) => drop(own.insert(num, adjust)),
                }
            }
            if own.is_empty() {
                self.undo.remove(&pid);
            }
        }
        self.otime = now();
        Attempt::Done
    }

    /// Values have changed: carries out what has become possible, in order of arrival, until nothing more is.
    fn update(&mut self) {
        loop {
            let mut altered = false;
            let tickets: Vec<u64> = self.waiting.keys().copied().collect();
            for ticket in tickets {
                let Some(waiter) = self.waiting.get(&ticket) else { continue };
                let (ops, pid) = (waiter.ops.clone(), waiter.pid);
                let result = match self.attempt(&ops, pid) {
                    Attempt::Wait(at) => {
                        if let Some(waiter) = self.waiting.get_mut(&ticket) {
                            waiter.blocking = at;
                        }
                        continue;
                    }
                    Attempt::Done => Ok(()),
                    Attempt::Failed(error) => Err(error),
                };
                if let Some(waiter) = self.waiting.remove(&ticket) {
                    waiter.shared.tell(result);
                }
                if result.is_ok() && ops.iter().any(|op| op.sem_op != 0) {
                    altered = true;
                    break;
                }
            }
            if !altered {
                return;
            }
        }
    }

    fn sem(&self, num: i32) -> Result<Sem, Errno> {
        let at = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
        self.sems.get(at).copied().ok_or(Errno::EINVAL)
    }

    /// How many wait for a semaphore to rise, or to become zero.
    fn count(&self, num: i32, zero: bool) -> usize {
        let waits = |waiter: &&Waiter| {
            let op = waiter.ops.get(waiter.blocking);
            op.is_some_and(|op| i32::from(op.sem_num) == num && (op.sem_op == 0) == zero)
        };
        self.waiting.values().filter(waits).count()
    }

    fn stat(&self) -> SemidDs {
        SemidDs {
            sem_perm: self.perm.abi(),
            sem_otime: self.otime,
            sem_ctime: self.ctime,
            sem_nsems: self.sems.len() as u64,
            ..SemidDs::default()
        }
    }
}

impl Table {
    fn find(&self, id: i32) -> Result<Arc<Set>, Errno> {
        self.ids.lock().get(id)
    }

    /// semget(2).
    pub fn get(&self, creds: &Creds, key: i32, count: i32, flags: u32) -> Result<i32, Errno> {
        let count = usize::try_from(count).ok().filter(|&n| n <= SEMMSL as usize).ok_or(Errno::EINVAL)?;
        let mut ids = self.ids.lock();
        if let Some(set) = ids.find(key, flags)? {
            let state = set.state.lock();
            if count > state.sems.len() {
                return Err(Errno::EINVAL);
            }
            state.perm.check(creds, flags)?;
            return Ok(set.id);
        }
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        let total: usize = ids.all().iter().map(|set| set.state.lock().sems.len()).sum();
        if total.saturating_add(count) > MAX_TOTAL {
            return Err(Errno::ENOSPC);
        }
        let make = |id| {
            let state = State {
                perm: Perm::new(key, flags, creds, id),
                otime: 0,
                ctime: now(),
                sems: vec![Sem::default(); count],
                waiting: BTreeMap::new(),
                undo: HashMap::new(),
                removed: false,
            };
            Ok(Set { id, state: Mutex::new(state) })
        };
        Ok(ids.insert(key, make)?.0)
    }

    /// At a process's end.
    pub(super) fn undo(&self, pid: i32) {
        if !self.undoing.load(Ordering::Acquire) {
            return;
        }
        let all = self.ids.lock().all();
        for set in all {
            let mut state = set.state.lock();
            let Some(adjustments) = state.undo.remove(&pid) else { continue };
            UNDO_ENTRIES.give(adjustments.len());
            for (num, adjust) in adjustments {
                if let Some(sem) = state.sems.get_mut(usize::from(num)) {
                    let value = (i32::from(sem.value) + i32::from(adjust)).clamp(0, SEMVMX.cast_signed());
                    *sem = Sem { value: u16::try_from(value).unwrap_or(0), pid };
                }
            }
            state.otime = now();
            state.update();
        }
    }

    /// IPC_INFO, and SEM_INFO with what is in use.
    pub fn info(&self, usage: bool) -> (SemInfo, i32) {
        let ids = self.ids.lock();
        let total: usize = ids.all().iter().map(|set| set.state.lock().sems.len()).sum();
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let info = SemInfo {
            semmap: int(MAX_TOTAL),
            semmni: SEMMNI.cast_signed(),
            semmns: int(MAX_TOTAL),
            semmnu: int(MAX_TOTAL),
            semmsl: SEMMSL.cast_signed(),
            semopm: SEMOPM.cast_signed(),
            semume: SEMUME.cast_signed(),
            semusz: if usage { int(ids.len()) } else { SEMUSZ.cast_signed() },
            semvmx: SEMVMX.cast_signed(),
            semaem: if usage { int(total) } else { SEMAEM.cast_signed() },
        };
        (info, ids.highest())
    }

    pub fn stat(&self, creds: &Creds, id: i32) -> Result<SemidDs, Errno> {
        let set = self.find(id)?;
        let state = set.state.lock();
        state.perm.check(creds, 0o444)?;
        Ok(state.stat())
    }

    /// SEM_STAT and SEM_STAT_ANY (`creds` is `None`): the id too.
    pub fn stat_index(&self, creds: Option<&Creds>, index: i32) -> Result<(SemidDs, i32), Errno> {
        let (id, set) = self.ids.lock().at_index(index)?;
        let state = set.state.lock();
        if let Some(creds) = creds {
            state.perm.check(creds, 0o444)?;
        }
        Ok((state.stat(), id))
    }

    pub fn set(&self, creds: &Creds, id: i32, change: &PermChange) -> Result<(), Errno> {
        let set = self.find(id)?;
        let mut state = set.state.lock();
        state.perm.check_control(creds)?;
        state.perm.change(change)?;
        state.ctime = now();
        Ok(())
    }

    /// IPC_RMID: whoever waits gets EIDRM.
    pub fn remove(&self, creds: &Creds, id: i32) -> Result<(), Errno> {
        let mut ids = self.ids.lock();
        let set = ids.get(id)?;
        let mut state = set.state.lock();
        state.perm.check_control(creds)?;
        ids.remove(state.perm.key, id);
        state.removed = true;
        for (_, waiter) in std::mem::take(&mut state.waiting) {
            waiter.shared.tell(Err(Errno::EIDRM));
        }
        Ok(())
    }

    /// GETVAL, GETPID, GETNCNT, GETZCNT.
    pub fn read(&self, creds: &Creds, id: i32, num: i32, cmd: u32) -> Result<i32, Errno> {
        let set = self.find(id)?;
        let state = set.state.lock();
        state.perm.check(creds, 0o444)?;
        let sem = state.sem(num)?;
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Ok(match cmd {
            GETVAL => i32::from(sem.value),
            GETPID => sem.pid,
            GETNCNT => int(state.count(num, false)),
            GETZCNT => int(state.count(num, true)),
            _ => return Err(Errno::EINVAL),
        })
    }

    /// GETALL.
    pub fn values(&self, creds: &Creds, id: i32) -> Result<Vec<u16>, Errno> {
        let set = self.find(id)?;
        let state = set.state.lock();
        state.perm.check(creds, 0o444)?;
        Ok(state.sems.iter().map(|sem| sem.value).collect())
    }

    /// How many values SETALL reads; checks that it may set them.
    pub fn settable(&self, creds: &Creds, id: i32) -> Result<usize, Errno> {
        let set = self.find(id)?;
        let state = set.state.lock();
        state.perm.check(creds, 0o222)?;
        Ok(state.sems.len())
    }

    /// SETVAL.
    pub fn set_value(&self, caller: (&Creds, i32), id: i32, num: i32, value: i32) -> Result<(), Errno> {
        let value = u16::try_from(value).ok().filter(|&v| u32::from(v) <= SEMVMX).ok_or(Errno::ERANGE)?;
        let set = self.find(id)?;
        let mut state = set.state.lock();
        state.sem(num)?;
        state.perm.check(caller.0, 0o222)?;
        let num = u16::try_from(num).map_err(|_| Errno::EINVAL)?;
        for own in state.undo.values_mut() {
            UNDO_ENTRIES.give(usize::from(own.remove(&num).is_some()));
        }
        state.undo.retain(|_, own| !own.is_empty());
        if let Some(sem) = state.sems.get_mut(usize::from(num)) {
            *sem = Sem { value, pid: caller.1 };
        }
        state.ctime = now();
        state.update();
        Ok(())
    }

    /// SETALL.
    pub fn set_values(&self, caller: (&Creds, i32), id: i32, values: &[u16]) -> Result<(), Errno> {
        if values.iter().any(|&value| u32::from(value) > SEMVMX) {
            return Err(Errno::ERANGE);
        }
        let set = self.find(id)?;
        let mut state = set.state.lock();
        state.perm.check(caller.0, 0o222)?;
        if state.removed {
            return Err(Errno::EIDRM);
        }
        for (sem, &value) in state.sems.iter_mut().zip(values) {
            *sem = Sem { value, pid: caller.1 };
        }
        state.forget_undo();
        state.ctime = now();
        state.update();
        Ok(())
    }

    /// First attempt of semop(2). `None`: done.
    fn begin(
        &self,
        set: &Set,
        creds: &Creds,
        pid: i32,
        ops: &Arc<[Sembuf]>,
    ) -> Result<Option<(u64, Arc<Answer>)>, Errno> {
        let mut state = set.state.lock();
        if ops.iter().any(|op| usize::from(op.sem_num) >= state.sems.len()) {
            return Err(Errno::EFBIG);
        }
        let alters = ops.iter().any(|op| op.sem_op != 0);
        state.perm.check(creds, if alters { 0o222 } else { 0o444 })?;
        if state.removed {
            return Err(Errno::EIDRM);
        }
        if ops.iter().any(|op| u32::from(op.sem_flg.cast_unsigned()) & SEM_UNDO != 0) {
            self.undoing.store(true, Ordering::Release);
        }
        match state.attempt(ops, pid) {
            Attempt::Failed(error) => Err(error),
            Attempt::Done => {
                if alters {
                    state.update();
                }
                Ok(None)
            }
            Attempt::Wait(blocking) => {
                let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
                let shared: Arc<Answer> = Arc::default();
                let waiter = Waiter { ops: ops.clone(), pid, blocking, shared: shared.clone() };
                state.waiting.insert(ticket, waiter);
                Ok(Some((ticket, shared)))
            }
        }
    }

    /// /proc/sysvipc/sem.
    pub(super) fn text(&self) -> String {
        let mut text = String::from(
            "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
        );
        let all = self.ids.lock().all();
        for set in all {
            let ds = set.state.lock().stat();
            let perm = ds.sem_perm;
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
                perm.key,
                set.id,
                perm.mode,
                ds.sem_nsems,
                perm.uid,
                perm.gid,
                perm.cuid,
                perm.cgid,
                ds.sem_otime,
                ds.sem_ctime,
            );
        }
        text
    }
}

/// A place in a set's list, given up when dropped.
struct Place<'a> {
    set: &'a Set,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.set.state.lock().waiting.remove(&self.ticket);
        drop(left);
    }
}

/// semop(2) and semtimedop(2); `timeout` in nanoseconds.
pub async fn operate(task: &Arc<Task>, id: i32, ops: Arc<[Sembuf]>, timeout: Option<u64>) -> SysResult {
    let ipc = task.ipc();
    let table = &ipc.sem;
    let deadline = timeout.map(Deadline::after);
    let set = table.find(id)?;
    let Some((ticket, answer)) = table.begin(&set, &task.ipc_creds(), task.process.kid(), &ops)? else {
        return Ok(0);
    };
    let place = Place { set: &set, ticket };
    let told = answer.queue.wait_until(|| *answer.result.lock());
    let waited = task.interruptible(with_timeout(task.kernel.reactor.timers(), told, deadline)).await;
    // No longer in the list: what it was told until now holds.
    drop(place);
    if let Some(result) = *answer.result.lock() {
        return Ok(result.map(|()| 0)?);
    }
    // semop(2) is never made again by itself.
    Err(SysError::Errno(if waited.is_ok() { Errno::EAGAIN } else { Errno::EINTR }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(num: u16, step: i16, flags: u32) -> Sembuf {
        Sembuf { sem_num: num, sem_op: step, sem_flg: flags as i16 }
    }

    fn begin(table: &Table, id: i32, pid: i32, ops: &[Sembuf]) -> Result<Option<Arc<Answer>>, Errno> {
        let set = table.find(id).unwrap();
        Ok(table.begin(&set, &Creds::root(), pid, &ops.into())?.map(|(_, answer)| answer))
    }

    fn value(table: &Table, id: i32, num: i32) -> i32 {
        table.read(&Creds::root(), id, num, GETVAL).unwrap()
    }

    #[test]
    fn operations_are_all_or_none() {
        let table = Table::default();
        let root = Creds::root();
        assert_eq!(table.get(&root, 1, 0, IPC_CREAT), Err(Errno::EINVAL));
        let id = table.get(&root, 1, 2, IPC_CREAT | 0o600).unwrap();
        assert_eq!(table.get(&root, 1, 3, 0), Err(Errno::EINVAL));
        assert_eq!(begin(&table, id, 5, &[op(2, 1, 0)]).err(), Some(Errno::EFBIG));
        let nowait = IPC_NOWAIT;
        assert_eq!(begin(&table, id, 5, &[op(0, 3, 0), op(1, -1, nowait)]).err(), Some(Errno::EAGAIN));
        assert_eq!(value(&table, id, 0), 0);
        assert!(begin(&table, id, 5, &[op(0, 3, 0), op(0, -2, 0)]).unwrap().is_none());
        assert_eq!((value(&table, id, 0), table.read(&root, id, 0, GETPID)), (1, Ok(5)));
        assert_eq!(begin(&table, id, 5, &[op(0, i16::MAX, 0)]).err(), Some(Errno::ERANGE));
        assert_eq!(table.set_value((&root, 5), id, 0, 40000), Err(Errno::ERANGE));
        assert_eq!(table.set_value((&root, 5), id, 2, 1), Err(Errno::EINVAL));
    }

    #[test]
    fn waiters_are_served_in_order() {
        let table = Table::default();
        let root = Creds::root();
        let id = table.get(&root, IPC_PRIVATE, 1, 0o600).unwrap();
        let first = begin(&table, id, 1, &[op(0, -2, 0)]).unwrap().unwrap();
        let second = begin(&table, id, 2, &[op(0, -1, 0)]).unwrap().unwrap();
        assert_eq!(table.read(&root, id, 0, GETNCNT), Ok(2));
        begin(&table, id, 3, &[op(0, 1, 0)]).unwrap();
        // The first still lacks one, so the second gets it.
        assert_eq!((*first.result.lock(), *second.result.lock()), (None, Some(Ok(()))));
        let zero = begin(&table, id, 4, &[op(0, 1, 0), op(0, 0, 0)]).unwrap().unwrap();
        assert_eq!(table.read(&root, id, 0, GETZCNT), Ok(1));
        begin(&table, id, 3, &[op(0, 2, 0)]).unwrap();
        assert_eq!((*first.result.lock(), value(&table, id, 0)), (Some(Ok(())), 0));
        table.remove(&root, id).unwrap();
        assert_eq!(*zero.result.lock(), Some(Err(Errno::EIDRM)));
    }

    #[test]
    fn undo_at_the_end() {
        let table = Table::default();
        let root = Creds::root();
        let id = table.get(&root, IPC_PRIVATE, 1, 0o600).unwrap();
        table.set_value((&root, 1), id, 0, 3).unwrap();
        begin(&table, id, 7, &[op(0, -2, SEM_UNDO)]).unwrap();
        let waiter = begin(&table, id, 8, &[op(0, -3, 0)]).unwrap().unwrap();
        table.undo(7);
        assert_eq!((*waiter.result.lock(), value(&table, id, 0)), (Some(Ok(())), 0));
        begin(&table, id, 7, &[op(0, 5, SEM_UNDO)]).unwrap();
        begin(&table, id, 7, &[op(0, -4, 0)]).unwrap();
        table.undo(7);
        assert_eq!(value(&table, id, 0), 0);
        begin(&table, id, 7, &[op(0, 5, SEM_UNDO)]).unwrap();
        table.set_values((&root, 1), id, &[1]).unwrap();
        table.undo(7);
        assert_eq!(value(&table, id, 0), 1);
        assert_eq!(table.info(true).0.semaem, 1);
        // No other test keeps adjustments, so the bound is this one's.
        let limit = UNDO_ENTRIES.limit();
        UNDO_ENTRIES.set_limit(0);
        assert_eq!(begin(&table, id, 7, &[op(0, 1, SEM_UNDO)]).err(), Some(Errno::ENOMEM));
        begin(&table, id, 7, &[op(0, 1, SEM_UNDO), op(0, -1, SEM_UNDO)]).unwrap();
        UNDO_ENTRIES.set_limit(1);
        begin(&table, id, 7, &[op(0, 1, SEM_UNDO)]).unwrap();
        begin(&table, id, 7, &[op(0, 1, SEM_UNDO)]).unwrap();
        assert_eq!(begin(&table, id, 8, &[op(0, 1, SEM_UNDO)]).err(), Some(Errno::ENOMEM));
        table.undo(7);
        begin(&table, id, 8, &[op(0, 1, SEM_UNDO)]).unwrap();
        table.set_value((&root, 1), id, 0, 1).unwrap();
        assert_eq!(UNDO_ENTRIES.used(), 0);
        UNDO_ENTRIES.set_limit(limit);
        assert_eq!(table.text().lines().count(), 2);
    }
}
