//! Signals to many processes at a time, and the forks they meet.
//!
//! Linux keeps the list of processes locked while it signals a group: a fork comes before, and its child is signalled as
//! well, or after, and the signal comes first. Here the list is made first and worked off afterwards, because an end
//! needs the list itself. So whoever is on it does not fork until it has got its signal, and a fork that was under
//! way when the list was made starts over.

use crate::{Kernel, Process};
use chitin_vfs::WaitQueue;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A process's part.
#[derive(Default)]
pub(crate) struct GroupSignals {
    /// Lists that it is on and that are being worked off, and all that ever were; counted in this order.
    under_way: AtomicUsize,
    count: AtomicU64,
    settled: WaitQueue,
}

impl GroupSignals {
    /// Before a fork: waits until none is under way, and answers what [`GroupSignals::met`] wants.
    pub(crate) async fn settle(&self) -> u64 {
        let settled = || {
            let count = self.count.load(Ordering::SeqCst);
            (self.under_way.load(Ordering::SeqCst) == 0).then_some(count)
        };
        match settled() {
            Some(count) => count,
            None => self.settled.wait_until(settled).await,
        }
    }

    /// Whether one has come since; `Kernel::tree` is locked.
    pub(crate) fn met(&self, since: u64) -> bool {
        self.count.load(Ordering::SeqCst) != since
    }

    fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        if self.under_way.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.settled.wake(0);
        }
    }
}

/// The living processes that a signal to many goes to. Dropped once all of them have got it.
pub struct Targets(Vec<Arc<Process>>);

impl Deref for Targets {
    type Target = [Arc<Process>];
    fn deref(&self) -> &[Arc<Process>] {
        &self.0
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.0.iter().for_each(|process| process.group_signals.end());
    }
}

impl Kernel {
    /// The processes that a signal to many goes to: none of them forks until the answer is dropped.
    pub fn signal_targets(&self, pick: impl Fn(&Process) -> bool) -> Targets {
        let tree = self.tree.lock();
        let mut found = tree.processes();
        found.retain(|process| !process.is_zombie() && pick(process));
        found.iter().for_each(|process| process.group_signals.begin());
        Targets(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now_or_never;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn forks_wait_for_signals_under_way_and_notice_those_that_come() {
        let signals = GroupSignals::default();
        let since = now_or_never(signals.settle());
        assert!(!signals.met(since));
        signals.begin();
        signals.begin();
        assert!(signals.met(since));
        let mut fork = pin!(signals.settle());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert!(fork.as_mut().poll(&mut cx).is_pending());
            signals.end();
        }
        let std::task::Poll::Ready(since) = fork.as_mut().poll(&mut cx) else { panic!("it still waits") };
        assert!(!signals.met(since));
    }
}
