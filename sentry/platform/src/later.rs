//! Work that is put off until there is more of it, or nothing better to do.
//!
//! A thread that takes one call after the other may leave for a moment what costs the same for several of them as for one
//! (packets to the host, above all, which wake somebody each time). It says so, and sees to it that it catches up: when who
//! called waits, when nobody calls, and after a while in any case. Should it be held up itself, others can: the work is everybody's.
//!
//! Neighbours: platforms whose workers poll; the sentry's network devices.
//!
//! Lock: `BEHIND` is a leaf; work is done with nothing of this module locked.

use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

thread_local! {
    static PUTS_OFF: Cell<bool> = const { Cell::new(false) };
}

/// What has been put off.
static BEHIND: Mutex<Vec<Arc<dyn Later>>> = Mutex::new(Vec::new());
static ANY: AtomicBool = AtomicBool::new(false);
/// How often something has been put off while nothing was.
static TIMES: AtomicU64 = AtomicU64::new(0);

/// Something that can be put off.
pub trait Later: Send + Sync {
    /// Does what there is to do.
    fn catch_up(&self);
}

/// Says that this thread catches up soon, or no more.
pub fn set_puts_off(puts_off: bool) {
    PUTS_OFF.set(puts_off);
}

/// Whether this thread may leave something for a moment.
pub fn puts_off() -> bool {
    PUTS_OFF.get()
}

/// Leaves this work, once however much there is of it, to whoever catches up.
pub fn put_off(work: Arc<dyn Later>) {
    let mut behind = BEHIND.lock();
    if behind.is_empty() {
        TIMES.fetch_add(1, Ordering::Relaxed);
    }
    behind.push(work);
    ANY.store(true, Ordering::Release);
}

/// How often something had been put off when the oldest of what there is to do was; `None`: there is nothing.
pub fn behind() -> Option<u64> {
    ANY.load(Ordering::Relaxed).then(|| TIMES.load(Ordering::Relaxed))
}

/// Does what has been put off, whoever did.
pub fn catch_up() {
    if ANY.load(Ordering::Relaxed) {
        let mut behind = BEHIND.lock();
        ANY.store(false, Ordering::Relaxed);
        let works = std::mem::take(&mut *behind);
        drop(behind);
        works.iter().for_each(|work| work.catch_up());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn others_catch_up() {
        struct Count(AtomicUsize);
        impl Later for Count {
            fn catch_up(&self) {
                // Nothing is locked.
                assert!(behind().is_none());
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        set_puts_off(true);
        std::thread::spawn(|| assert!(!puts_off(), "each thread says so itself")).join().unwrap();
        let mut before = None;
        for n in 1..=3 {
            assert!(behind().is_none());
            put_off(count.clone());
            let first = behind();
            assert!(first.is_some() && first != before);
            put_off(count.clone());
            assert_eq!(behind(), first, "what is to be done is as old as before");
            std::thread::spawn(catch_up).join().unwrap();
            catch_up();
            assert_eq!(count.0.load(Ordering::Relaxed), 2 * n);
            before = first;
        }
        set_puts_off(false);
    }
}
