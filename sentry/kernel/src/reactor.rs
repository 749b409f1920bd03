//! The reactor: one thread that waits for host descriptors and timers on behalf of everybody.
//!
//! Neighbours: `time::timers` holds the timers and rings the doorbell when an earlier one is set; whoever waits for a
//! host descriptor (sockets of the host network, the gofer's channel, the control socket) holds a [`HostFdWatch`].
//!
//! Invariant: callbacks and wakers run on the reactor thread with none of its locks held, and must not block; after each
//! batch the tasks they woke are worked off ([`crate::run::drain`]).
//!
//! Locks: `watches` (leaf).

use crate::time::Timers;
use chitin_host::clock::now_ns;
use chitin_host::epoll::{ChildSignals, ClockSteps, Doorbell, Epoll, Events};
use chitin_vfs::WaitQueue;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

const DOORBELL: u64 = 0;
const CHILDREN: u64 = 1;
const CLOCK_STEPS: u64 = 2;
const FIRST_WATCH: u64 = 16;

/// Events taken from the host at a time.
const BATCH: usize = 128;

/// What is run on an event of a host descriptor, with the POLL* bits it showed.
pub type OnReady = Box<dyn Fn(u32) + Send + Sync>;

/// What is run when children of the sentry have changed state.
pub type OnChild = Box<dyn Fn() + Send + Sync>;

pub struct Reactor {
    epoll: Epoll,
    bell: Arc<Doorbell>,
    timers: Arc<Timers>,
    watches: Mutex<HashMap<u64, Weak<HostFdWatch>>>,
    next_token: AtomicU64,
    children: Mutex<Option<(ChildSignals, Arc<OnChild>)>>,
    steps: Option<ClockSteps>,
    stopping: AtomicBool,
}

/// A host descriptor under watch, until this is dropped.
pub struct HostFdWatch {
    fd: Arc<OwnedFd>,
    token: u64,
    /// Woken with POLL* bits at every change of readiness.
    pub queue: WaitQueue,
    on_ready: Option<OnReady>,
    reactor: Weak<Reactor>,
}

impl HostFdWatch {
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// What is ready now, of `events`; POLLERR and POLLHUP always.
    pub fn current(&self, events: u32) -> u32 {
        chitin_host::epoll::ready(self.fd.as_fd(), events)
    }
}

impl AsFd for HostFdWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for HostFdWatch {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.upgrade() {
            reactor.watches.lock().remove(&self.token);
            // The descriptor is open and was added, so this cannot fail.
            let _ = reactor.epoll.delete(self.fd.as_fd());
        }
    }
}

impl Reactor {
    /// Makes a reactor and starts its thread.
    pub fn start() -> io::Result<Arc<Reactor>> {
        let reactor = Reactor::new()?;
        let own = reactor.clone();
        std::thread::Builder::new().name("reactor".into()).spawn(move || own.run())?;
        Ok(reactor)
    }

    fn new() -> io::Result<Arc<Reactor>> {
        let epoll = Epoll::new()?;
        let bell = Arc::new(Doorbell::new()?);
        epoll.add_input(bell.as_fd(), DOORBELL)?;
        let steps = match ClockSteps::new() {
            Ok(steps) => {
                epoll.add_input(steps.as_fd(), CLOCK_STEPS)?;
                Some(steps)
            }
            Err(error) => {
                tracing::warn!(%error, "steps of the host's clock go unnoticed: timerfd_settime failed");
                None
            }
        };
        let ring = bell.clone();
        Ok(Arc::new(Reactor {
            epoll,
            bell,
            timers: Timers::new(Box::new(move || ring.ring())),
            watches: Mutex::default(),
            next_token: AtomicU64::new(FIRST_WATCH),
            children: Mutex::default(),
            steps,
            stopping: AtomicBool::new(false),
        }))
    }

    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Watches a host descriptor through a wait queue. EEXIST when the same descriptor number is already watched,
    /// EPERM for files that are always ready.
    pub fn watch(self: &Arc<Self>, fd: Arc<OwnedFd>) -> io::Result<Arc<HostFdWatch>> {
        self.add_watch(fd, None)
    }

    /// As [`Reactor::watch`], with a callback that the reactor thread runs.
    pub fn watch_with(self: &Arc<Self>, fd: Arc<OwnedFd>, on_ready: OnReady) -> io::Result<Arc<HostFdWatch>> {
        self.add_watch(fd, Some(on_ready))
    }

    fn add_watch(
        self: &Arc<Self>,
        fd: Arc<OwnedFd>,
        on_ready: Option<OnReady>,
    ) -> io::Result<Arc<HostFdWatch>> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let reactor = Arc::downgrade(self);
        let watch = Arc::new(HostFdWatch { fd, token, queue: WaitQueue::new(), on_ready, reactor });
        self.watches.lock().insert(token, Arc::downgrade(&watch));
        if let Err(error) = self.epoll.add(watch.fd.as_fd(), token) {
            self.watches.lock().remove(&token);
            // Not added: its drop must not take out a registration of the same number by somebody else.
            return Err(match Arc::try_unwrap(watch) {
                Ok(mut watch) => {
                    watch.reactor = Weak::new();
                    error
                }
                Err(_) => error,
            });
        }
        Ok(watch)
    }

    /// Calls `hook` on the reactor thread whenever children of this process may have changed state. SIGCHLD must be
    /// blocked in all threads. Once per process.
    pub fn watch_children(&self, hook: OnChild) -> io::Result<()> {
        let signals = ChildSignals::new()?;
        self.epoll.add_input(signals.as_fd(), CHILDREN)?;
        *self.children.lock() = Some((signals, Arc::new(hook)));
        Ok(())
    }

    /// Makes the thread take a turn, to work off tasks that a thread without a run queue has woken.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Ends the thread soon.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.bell.ring();
    }

    fn run(&self) {
        let mut events = Events::new(BATCH);
        while !self.stopping.load(Ordering::Acquire) {
            self.turn(&mut events);
        }
    }

    /// One wait and what follows from it.
    fn turn(&self, events: &mut Events) {
        let timeout = self.timers.before_wait().map(|deadline| {
            Duration::from_nanos(deadline.saturating_sub(now_ns(chitin_abi::time::CLOCK_MONOTONIC)))
        });
        if let Err(error) = self.epoll.wait(events, timeout) {
            tracing::error!(%error, "epoll_pwait2 failed; host descriptors are not served");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.timers.after_wait();
        for (token, shown) in events.iter() {
            match token {
                DOORBELL => self.bell.clear(),
                CHILDREN => self.child_signal(),
                CLOCK_STEPS => {
                    if self.steps.as_ref().is_some_and(ClockSteps::take) {
                        self.timers.clock_was_set();
                    }
                }
                _ => {
                    let watch = self.watches.lock().get(&token).and_then(Weak::upgrade);
                    if let Some(watch) = watch {
                        watch.queue.wake(shown);
                        if let Some(on_ready) = &watch.on_ready {
                            on_ready(shown);
                        }
                    }
                }
            }
        }
        self.timers.expire();
        crate::run::drain();
    }

    fn child_signal(&self) {
        let hook = match self.children.lock().as_mut() {
            Some((signals, hook)) => {
                signals.take();
                hook.clone()
            }
            None => return,
        };
        hook();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_abi::poll::{POLLIN, POLLOUT};
    use std::io::{Read, Write};
    use std::sync::mpsc;

    struct Stop(Arc<Reactor>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.stop();
        }
    }

    #[test]
    fn reports_edges_until_dropped() {
        let reactor = Reactor::start().unwrap();
        let _stop = Stop(reactor.clone());
        let (mut a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut reader = b.try_clone().unwrap();
        let (send, receive) = mpsc::channel();
        let fd: Arc<OwnedFd> = Arc::new(b.into());
        let watch = reactor.watch_with(fd.clone(), Box::new(move |bits| send.send(bits).unwrap())).unwrap();
        let limit = Duration::from_secs(5);
        assert_eq!(receive.recv_timeout(limit).unwrap() & (POLLIN | POLLOUT), POLLOUT);
        assert_eq!(watch.current(POLLIN), 0);
        for _ in 0..3 {
            a.write_all(b"x").unwrap();
            assert_eq!(receive.recv_timeout(limit).unwrap() & POLLIN, POLLIN);
            assert_eq!(watch.current(POLLIN | POLLOUT), POLLIN | POLLOUT);
        }
        let mut byte = [0; 3];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(watch.current(POLLIN), 0);
        // The same number twice is refused and leaves the first registration alone.
        assert!(reactor.watch(fd.clone()).is_err());
        a.write_all(b"x").unwrap();
        assert_eq!(receive.recv_timeout(limit).unwrap() & POLLIN, POLLIN);
        drop(watch);
        assert!(receive.recv_timeout(limit).is_err());
        assert!(reactor.watches.lock().is_empty());
        assert!(reactor.watch(fd).is_ok());
    }

    #[test]
    fn files_are_refused() {
        let reactor = Reactor::new().unwrap();
        let file = chitin_host::filestore::memfd(c"test").unwrap();
        let error = reactor.watch(Arc::new(file)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(reactor.watches.lock().is_empty());
    }
}
