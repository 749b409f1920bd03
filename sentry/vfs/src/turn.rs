//! Turns at a file: a lock that is kept from one step of a long transfer to the next, and that parks whoever waits.
//!
//! Linux holds a file's position (f_pos_lock) and, for writing, its content (i_rwsem) during a whole call. A call here
//! is cut into steps, between which its thread serves others; so these two are [`Turn`]s. Who comes first is served
//! first: an end hands the turn over, and the next call goes on in the run queue of the thread that gave it.
//!
//! Lock: `waiting` is a leaf; wakers run with it unlocked. The state leaves and enters [`WANTED`] with it locked only.
//! Order of turns: position, then content.

use crate::{File, Inode};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Taken, and somebody waits.
const WANTED: u32 = 2;

/// One at a time; see the module.
#[derive(Default)]
pub struct Turn {
    state: AtomicU32,
    /// Made when it is first needed: every inode has a turn, few are ever waited for.
    #[expect(clippy::box_collection, reason = "a third of the size, in every inode")]
    waiting: Mutex<Option<Box<VecDeque<Arc<Waiter>>>>>,
}

struct Waiter {
    granted: AtomicBool,
    waker: Mutex<Waker>,
}

impl Turn {
    fn take(&self) -> bool {
        self.state.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The turn for the length of a borrow, if it is free.
    pub fn try_take(&self) -> Option<Brief<'_>> {
        self.take().then(|| Brief(self))
    }

    /// Takes it or queues.
    fn enqueue(&self, waker: &Waker) -> Option<Arc<Waiter>> {
        let mut waiting = self.waiting.lock();
        loop {
            if self.take() {
                return None;
            }
            let wanted =
                self.state.compare_exchange(TAKEN, WANTED, Ordering::Relaxed, Ordering::Relaxed).err();
            if matches!(wanted, None | Some(WANTED)) {
                break;
            }
        }
        let waiter = Arc::new(Waiter { granted: AtomicBool::new(false), waker: Mutex::new(waker.clone()) });
        waiting.get_or_insert_default().push_back(waiter.clone());
        Some(waiter)
    }

    fn give(&self) {
        if self.state.compare_exchange(TAKEN, FREE, Ordering::Release, Ordering::Relaxed).is_ok() {
            return;
        }
        let mut waiting = self.waiting.lock();
        let next = waiting.as_mut().and_then(|queue| queue.pop_front());
        if waiting.as_ref().is_none_or(|queue| queue.is_empty()) {
            *waiting = None;
            self.state.store(if next.is_some() { TAKEN } else { FREE }, Ordering::Release);
        }
        let Some(next) = next else { return };
        next.granted.store(true, Ordering::Release);
        drop(waiting);
        let waker = next.waker.lock().clone();
        waker.wake();
    }

    /// Waits no longer; gives on what was granted meanwhile.
    fn cancel(&self, waiter: &Arc<Waiter>) {
        let mut waiting = self.waiting.lock();
        if waiter.granted.load(Ordering::Acquire) {
            drop(waiting);
            self.give();
        } else if let Some(queue) = waiting.as_mut() {
            queue.retain(|other| !Arc::ptr_eq(other, waiter));
        }
    }
}

/// A turn that is given on at the end of a scope.
pub struct Brief<'a>(&'a Turn);

impl Drop for Brief<'_> {
    fn drop(&mut self) {
        self.0.give();
    }
}

/// What a turn is at.
#[derive(Clone)]
enum What {
    Position(Arc<File>),
    Content(Arc<dyn Inode>),
}

impl What {
    fn turn(&self) -> &Turn {
        match self {
            What::Position(file) => file.turn(),
            What::Content(inode) => inode.state().turn(),
        }
    }
}

/// A turn that is given on when this is dropped.
pub struct Held(What);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.turn().give();
    }
}

/// Waits for a turn.
pub struct Taking {
    what: What,
    waiter: Option<Arc<Waiter>>,
}

/// The turn at an open file description's position.
pub fn position(file: &Arc<File>) -> Taking {
    Taking { what: What::Position(file.clone()), waiter: None }
}

/// The turn at changing an inode's content.
pub fn content(inode: &Arc<dyn Inode>) -> Taking {
    Taking { what: What::Content(inode.clone()), waiter: None }
}

impl Future for Taking {
    type Output = Held;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Held> {
        match &self.waiter {
            None => match self.what.turn().enqueue(cx.waker()) {
                None => Poll::Ready(Held(self.what.clone())),
                Some(waiter) => {
                    self.waiter = Some(waiter);
                    Poll::Pending
                }
            },
            Some(waiter) => {
                // First the waker, then the look: a grant in between is told to the new one or seen here.
                waiter.waker.lock().clone_from(cx.waker());
                if !waiter.granted.load(Ordering::Acquire) {
                    return Poll::Pending;
                }
                self.waiter = None;
                Poll::Ready(Held(self.what.clone()))
            }
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.what.turn().cancel(&waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventfd::EventFd;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn first_come_first_served() {
        let file = EventFd::open(0, 0).unwrap();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let brief = file.turn().try_take().unwrap();
        assert!(file.turn().try_take().is_none());
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(position(&file))).collect();
        for wait in &mut waits {
            assert!(wait.as_mut().poll(&mut cx).is_pending());
        }
        drop(brief);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        // Handed over: it was never free in between, and the others still wait.
        assert!(file.turn().try_take().is_none());
        assert!(waits[1].as_mut().poll(&mut cx).is_pending());
        let Poll::Ready(first) = waits[0].as_mut().poll(&mut cx) else { panic!("not granted") };
        // One that gives up is passed over, whether it was granted already or not.
        drop(waits.remove(1));
        drop(first);
        drop(waits);
        assert!(file.turn().try_take().is_some());
    }

    #[test]
    fn the_turns_of_a_file_are_two() {
        let file = EventFd::open(0, 0).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(_position) = pin!(position(&file)).poll(&mut cx) else { panic!("taken") };
        let Poll::Ready(_content) = pin!(content(file.inode())).poll(&mut cx) else { panic!("taken") };
        assert!(file.turn().try_take().is_none() && file.inode().state().turn().try_take().is_none());
    }

    #[test]
    fn nobody_is_forgotten() {
        let file = EventFd::open(0, 0).unwrap();
        let inside = AtomicUsize::new(0);
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (file, inside) = (&file, &inside);
                scope.spawn(move || {
                    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                    let mut cx = Context::from_waker(&waker);
                    for round in 0..2000 {
                        let mut wait = pin!(position(file));
                        let held = loop {
                            match wait.as_mut().poll(&mut cx) {
                                Poll::Ready(held) => break Some(held),
                                Poll::Pending if worker == 0 && round % 3 == 0 => break None,
                                Poll::Pending => std::thread::park(),
                            }
                        };
                        if held.is_some() {
                            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(file.turn().try_take().is_some());
    }
}
