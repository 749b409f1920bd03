//! Waiting, waking and requeueing on words in fake memory.

use super::Key;
use super::call::{update, wake};
use super::exit::disown;
use super::table::{FutexTable, PiWaiter, Queued, Wakes};
use crate::testing::memory;
use chitin_abi::Errno;
use chitin_abi::futex::{FUTEX_BITSET_MATCH_ANY as ANY, FUTEX_OWNER_DIED, FUTEX_WAITERS};
use chitin_mm::Mm;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

const A: u64 = 0x10000;
const B: u64 = 0x20000;

struct Count(AtomicUsize);
impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn enqueue<'a>(
    table: &'a FutexTable,
    mm: &Arc<Mm>,
    addr: u64,
    value: u32,
    bits: u32,
) -> Result<Queued<'a>, Errno> {
    let key = table.wait_key(mm, addr, false)?;
    table.enqueue(mm, addr, key, value, bits)
}

fn is_woken(queued: &Queued<'_>) -> bool {
    pin!(queued.woken()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn compares_the_word_and_wakes_in_order() {
    let (mm, _) = memory();
    let table = FutexTable::default();
    mm.write(A, &5u32).unwrap();
    assert_eq!(enqueue(&table, &mm, A, 4, ANY).err(), Some(Errno::EAGAIN));
    assert_eq!(enqueue(&table, &mm, A + 2, 5, ANY).err(), Some(Errno::EINVAL));
    assert_eq!(enqueue(&table, &mm, 0x30000, 5, ANY).err(), Some(Errno::EFAULT));
    assert_eq!(enqueue(&table, &mm, u64::MAX - 3, 5, ANY).err(), Some(Errno::EFAULT));
    assert_eq!(table.waiters(), 0);
    let waiters: Vec<_> = (0..4).map(|_| enqueue(&table, &mm, A, 5, ANY).unwrap()).collect();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    assert!(pin!(waiters[0].woken()).poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(wake(&table, &mm, A, true, 2, ANY), Ok(2));
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(waiters.iter().map(is_woken).collect::<Vec<_>>(), [true, true, false, false]);
    // One that leaves is not woken, and tells whether it had been.
    assert!(waiters[1].cancel() && !waiters[2].cancel());
    assert_eq!(wake(&table, &mm, A, false, u32::MAX, ANY), Ok(1));
    assert_eq!(table.waiters(), 0);
    // As on Linux, a count of 0 wakes one.
    let waiter = enqueue(&table, &mm, A, 5, ANY).unwrap();
    assert_eq!(wake(&table, &mm, A, false, 0, ANY), Ok(1));
    assert!(is_woken(&waiter));
    assert_eq!(wake(&table, &mm, A, false, 1, 0), Err(Errno::EINVAL));
}

#[test]
fn bitsets() {
    let (mm, _) = memory();
    let table = FutexTable::default();
    let one = enqueue(&table, &mm, A, 0, 1).unwrap();
    let two = enqueue(&table, &mm, A, 0, 2).unwrap();
    assert_eq!(wake(&table, &mm, A, true, 9, 4), Ok(0));
    assert_eq!(wake(&table, &mm, A, true, 9, 2), Ok(1));
    assert!(!is_woken(&one) && is_woken(&two));
    drop(one);
    assert_eq!(wake(&table, &mm, A, true, 9, ANY), Ok(0));
}

#[test]
fn requeued_waiters_follow_the_new_word() {
    let (mm, _) = memory();
    let table = FutexTable::default();
    for _ in 0..50 {
        let waiters: Vec<_> = (0..5).map(|_| enqueue(&table, &mm, A, 0, ANY).unwrap()).collect();
        let (from, to) = (Key::private(&mm, A), Key::private(&mm, B));
        let mut wakes = Wakes::default();
        let done = table.requeue(&mut table.lock_two(&from, &to), (&from, &to), (1, 3), &mut wakes);
        wakes.run();
        assert_eq!(done, 4);
        assert!(is_woken(&waiters[0]));
        assert!(!waiters[1].cancel());
        assert_eq!(wake(&table, &mm, A, true, 9, ANY), Ok(1));
        assert_eq!(wake(&table, &mm, B, true, 9, ANY), Ok(2));
        assert_eq!(waiters.iter().map(is_woken).collect::<Vec<_>>(), [true, false, true, true, true]);
        // To the same word: nobody moves.
        drop(waiters);
        let waiter = enqueue(&table, &mm, A, 0, ANY).unwrap();
        let done =
            table.requeue(&mut table.lock_two(&from, &from), (&from, &from), (0, 1), &mut Wakes::default());
        assert_eq!((done, is_woken(&waiter)), (0, false));
    }
}

#[test]
fn shared_words_are_found_over_memories() {
    let (one, one_space) = memory();
    let (two, two_space) = memory();
    let table = FutexTable::default();
    one_space.shared.lock().push(A..A + 4096);
    two_space.shared.lock().push(B..B + 4096);
    let waiter = enqueue(&table, &one, A + 8, 0, ANY).unwrap();
    assert_eq!(wake(&table, &two, B + 4, false, 1, ANY), Ok(0));
    assert_eq!(wake(&table, &two, B + 8, true, 1, ANY), Ok(0));
    assert_eq!(wake(&table, &two, B + 8, false, 1, ANY), Ok(1));
    assert!(is_woken(&waiter));
    // A waiter that came for a private word is found on the shared one it was moved to.
    let moved = enqueue(&table, &one, B, 0, ANY).unwrap();
    let (from, to) = (Key::private(&one, B), table.wait_key(&one, A, false).unwrap());
    let done = table.requeue(&mut table.lock_two(&from, &to), (&from, &to), (0, 1), &mut Wakes::default());
    assert_eq!(done, 1);
    drop(waiter);
    assert_eq!(wake(&table, &two, B, false, 1, ANY), Ok(1));
    assert!(is_woken(&moved));
    // Private words of different memories do not meet.
    let _private = enqueue(&table, &one, B, 0, ANY).unwrap();
    assert_eq!(wake(&table, &two, A, false, 1, ANY), Ok(0));
}

#[test]
fn no_wake_up_is_lost() {
    let (mm, _) = memory();
    let table = FutexTable::default();
    const ROUNDS: u32 = 2000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                // Waits until the other side has counted on.
                while mm.read::<u32>(A).unwrap() == round {
                    if let Ok(queued) = enqueue(&table, &mm, A, round, ANY) {
                        while !is_woken(&queued) {
                            std::thread::yield_now();
                        }
                    }
                }
                assert!(mm.read::<u32>(A).unwrap() > round);
                mm.write(B, &(round + 1)).unwrap();
            }
        });
        for round in 0..ROUNDS {
            update(&mm, A, |old| old + 1).unwrap();
            wake(&table, &mm, A, false, 1, ANY).unwrap();
            while mm.read::<u32>(B).unwrap() <= round {
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(table.waiters(), 0);
}

#[test]
fn locks_pass_on_in_order() {
    let (mm, _) = memory();
    let table = FutexTable::default();
    let key = Key::private(&mm, A);
    let (first, second) = {
        let mut bucket = table.lock(&key);
        let first = table.enqueue_pi(&mut bucket, &mm, key, PiWaiter { nr: 11, kid: 11 }, 10);
        (first, table.enqueue_pi(&mut bucket, &mm, key, PiWaiter { nr: 12, kid: 12 }, 10))
    };
    // An ordinary wake-up on such a word is an error.
    assert_eq!(wake(&table, &mm, A, true, 1, ANY), Err(Errno::EINVAL));
    assert_eq!(table.owned_by(10), [key]);
    assert_eq!(table.lock(&key).next_pi(&key), Some(11));
    let mut wakes = Wakes::default();
    assert!(table.lock(&key).hand_over(&key, &mut wakes));
    wakes.run();
    assert!(is_woken(&first) && !is_woken(&second));
    assert!(table.owned_by(10).is_empty());
    assert_eq!(table.owned_by(11), [key]);
    assert!(!table.lock(&key).hand_over(&key, &mut Wakes::default()));
    drop((first, second));
    assert!(table.owned_by(12).is_empty());
}

#[test]
fn a_waiter_whose_bit_is_lost_is_woken() {
    let (mm, _) = memory();
    let table = FutexTable::default();
    let held = 7 | FUTEX_WAITERS;
    mm.write(A, &held).unwrap();
    let waiters: Vec<_> = (0..2).map(|_| enqueue(&table, &mm, A, held, ANY).unwrap()).collect();
    // As if the word had been read before the waiters marked it.
    mm.write(A, &7u32).unwrap();
    disown(&table, &mm, A).unwrap();
    assert_eq!(mm.read::<u32>(A).unwrap(), FUTEX_OWNER_DIED | FUTEX_WAITERS);
    assert_eq!(waiters.iter().map(is_woken).collect::<Vec<_>>(), [true, false]);
    // Who comes too late does not wait.
    assert_eq!(enqueue(&table, &mm, A, held, ANY).err(), Some(Errno::EAGAIN));
}
