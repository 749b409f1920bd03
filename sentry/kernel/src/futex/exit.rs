//! What the end of a thread (or its execve) does to futexes: robust lists, locks it owned, CLONE_CHILD_CLEARTID.

use super::call::wake;
use super::key::Key;
use super::pi;
use super::table::{FutexTable, Wakes};
use crate::Task;
use chitin_abi::Errno;
use chitin_abi::futex::*;
use chitin_mm::Mm;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Marks the locks on the thread's robust list as orphaned and wakes a waiter each (exit_robust_list()).
pub fn exit_robust_list(task: &Arc<Task>) {
    let head = task.robust_list.swap(0, Ordering::AcqRel);
    let mm = task.mm();
    if head != 0 {
        // A list that cannot be read any further ends there, as in Linux.
        let _ = walk(task, &mm, head);
    }
    orphan_owned(task, &mm);
}

fn walk(task: &Task, mm: &Arc<Mm>, head: u64) -> Result<(), Errno> {
    let list = mm.read::<RobustListHead>(head)?;
    let word = |entry: u64| (entry & !1).wrapping_add_signed(list.futex_offset);
    let pending = list.list_op_pending;
    let mut entry = list.list_next;
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry & !1 == head {
            break;
        }
        // The next one first: its waiter may free the entry.
        let next = mm.read::<u64>(entry & !1);
        if entry & !1 != pending & !1 {
            orphan(task, mm, word(entry), entry & 1 != 0, false)?;
        }
        entry = next?;
    }
    if pending & !1 != 0 {
        orphan(task, mm, word(pending), pending & 1 != 0, true)?;
    }
    Ok(())
}

/// handle_futex_death(): `pending`: the lock was just being taken or given back.
fn orphan(task: &Task, mm: &Arc<Mm>, addr: u64, pi: bool, pending: bool) -> Result<(), Errno> {
    super::key::check(mm, addr)?;
    let own = u32::try_from(task.tid()).unwrap_or(0) & FUTEX_TID_MASK;
    let table = &task.kernel.futexes;
    let old = mm.read::<u32>(addr)?;
    if pending && !pi && old & FUTEX_TID_MASK == 0 {
        // Given back already, but the waiter not yet woken.
        wake(table, mm, addr, false, 1, FUTEX_BITSET_MATCH_ANY)?;
        return Ok(());
    }
    if old & FUTEX_TID_MASK != own {
        return Ok(());
    }
    if pi {
        let key = table.wake_key(mm, addr, false)?;
        return pi::pass_on(task, mm, addr, &key, FUTEX_OWNER_DIED);
    }
    disown(table, mm, addr)
}

/// Writes that the owner has died, and wakes a waiter.
///
/// All that others do to a word with an owner is to set FUTEX_WAITERS, and then to wait while the word says so. Whose bit
/// is overwritten here either waits already, and counts, or finds another word once it gets at the bucket.
pub(super) fn disown(table: &FutexTable, mm: &Arc<Mm>, addr: u64) -> Result<(), Errno> {
    let key = table.wait_key(mm, addr, false)?;
    let mut wakes = Wakes::default();
    {
        let mut bucket = table.lock(&key);
        let waiters = mm.read::<u32>(addr)? & FUTEX_WAITERS;
        let queued = if bucket.has(&key, false) { FUTEX_WAITERS } else { 0 };
        mm.write(addr, &(waiters | queued | FUTEX_OWNER_DIED))?;
        bucket.wake(&key, 1, FUTEX_BITSET_MATCH_ANY, &mut wakes);
    }
    wakes.run();
    Ok(())
}

/// Locks with an owner that others wait for pass on, robust or not (exit_pi_state_list()). Those in shared memory are
/// left to the robust list, since the dying thread's address of them is not known.
fn orphan_owned(task: &Task, mm: &Arc<Mm>) {
    for key in task.kernel.futexes.owned_by(task.kid()) {
        if let Key::Private { mm: id, addr } = key
            && id == Arc::as_ptr(mm).addr()
        {
            // The word may have become unreadable; then nobody can use it.
            let _ = pi::pass_on(task, mm, addr, &key, FUTEX_OWNER_DIED);
        }
    }
}

/// The thread leaves its memory: CLONE_CHILD_CLEARTID's word is cleared and a waiter woken (mm_release()).
pub fn mm_release(task: &Arc<Task>) {
    let addr = task.clear_child_tid.swap(0, Ordering::AcqRel);
    let mm = task.mm();
    // This function and the task itself; with no other user nobody can look.
    if addr == 0 || Arc::strong_count(&mm) <= 2 {
        return;
    }
    if mm.write(addr, &0u32).is_ok() {
        // An address that cannot be a futex has no waiters.
        let _ = wake(&task.kernel.futexes, &mm, addr, false, 1, FUTEX_BITSET_MATCH_ANY);
    }
}
