//! The core of poll(2) and select(2): waiting for one of many files.

use crate::wait::{Notify, Registration};
use crate::{File, PollTable};
use chitin_abi::poll::{POLLERR, POLLHUP, POLLNVAL};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What a slot asks about.
pub enum PollTarget {
    File(Arc<File>),
    /// A negative descriptor: never ready.
    Ignored,
    /// A descriptor that is not open: POLLNVAL at once.
    Bad,
}

/// One descriptor of a poll(2) or select(2).
pub struct PollEntry {
    pub target: PollTarget,
    /// The bits that count; poll(2) always adds POLLERR and POLLHUP.
    pub events: u32,
    /// What there was at the last look.
    pub revents: u32,
}

impl PollEntry {
    /// An entry of poll(2).
    pub fn poll(target: PollTarget, events: u16) -> PollEntry {
        PollEntry { target, events: u32::from(events) | POLLERR | POLLHUP, revents: 0 }
    }

    /// An entry of select(2): `events` is the union of POLLIN_SET, POLLOUT_SET, POLLEX_SET, and nothing else counts.
    pub fn select(file: Arc<File>, events: u32) -> PollEntry {
        PollEntry { target: PollTarget::File(file), events, revents: 0 }
    }

    fn look(&mut self, table: Option<&mut PollTable>) -> bool {
        self.revents = match &self.target {
            PollTarget::File(file) => file.ops().poll(table) & self.events,
            PollTarget::Ignored => 0,
            PollTarget::Bad => POLLNVAL,
        };
        self.revents != 0
    }
}

/// Wakes whatever future polled last.
#[derive(Default)]
struct Shared {
    waker: Mutex<Option<Waker>>,
}

impl Notify for Shared {
    fn notify(&self, _events: u32) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

/// Waits until at least one entry is ready; its output is how many are. Poll it by reference and take the results from
/// `entries`; to give up (time-out), drop it or call [`PollMany::finish`].
pub struct PollMany {
    pub entries: Vec<PollEntry>,
    shared: Arc<Shared>,
    registered: bool,
    registrations: Vec<Registration>,
}

impl PollMany {
    pub fn new(entries: Vec<PollEntry>) -> PollMany {
        PollMany { entries, shared: Arc::default(), registered: false, registrations: Vec::new() }
    }

    /// One look without waiting (time-out 0, or the last look after a time-out): how many are ready.
    pub fn scan(&mut self) -> usize {
        self.entries.iter_mut().map(|entry| usize::from(entry.look(None))).sum()
    }

    /// Stops waiting; `entries` keep the results of the last look.
    pub fn finish(&mut self) {
        self.registered = false;
        self.registrations.clear();
    }
}

impl Future for PollMany {
    type Output = usize;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<usize> {
        let this = &mut *self;
        // The old waker goes after the lock is released: it may be the last to hold a task.
        let _old = this.shared.waker.lock().replace(cx.waker().clone());
        let mut ready = 0;
        if this.registered {
            ready = this.scan();
        } else {
            let mut table = PollTable::new(this.shared.clone());
            for entry in &mut this.entries {
                // With something ready there will be no waiting, so the rest need not be registered.
                let table = (ready == 0).then_some(&mut table);
                ready += usize::from(entry.look(table));
            }
            this.registrations = table.into_registrations();
            this.registered = true;
        }
        if ready > 0 {
            this.finish();
            return Poll::Ready(ready);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventfd::EventFd;
    use crate::testing::Run;
    use chitin_abi::poll::{POLLIN, POLLOUT, POLLPRI};

    fn event(count: u32) -> (Arc<EventFd>, Arc<File>) {
        let event = EventFd::new(count, 0);
        (event.clone(), File::anon(event, "[eventfd]", chitin_abi::fcntl::O_RDWR))
    }

    #[test]
    fn waits_for_any() {
        let (first, a) = event(0);
        let (second, b) = event(0);
        let mut many = PollMany::new(vec![
            PollEntry::poll(PollTarget::File(a), POLLIN as u16),
            PollEntry::poll(PollTarget::Ignored, POLLIN as u16),
            PollEntry::poll(PollTarget::File(b), POLLIN as u16),
        ]);
        let run = Run::new();
        assert_eq!(run.poll(&mut many), None);
        assert_eq!(run.wakes(), 0);
        second.signal();
        assert_eq!(run.wakes(), 1);
        assert_eq!(run.poll(&mut many), Some(1));
        assert_eq!(many.entries.iter().map(|e| e.revents).collect::<Vec<_>>(), [0, 0, POLLIN]);
        // Nothing is registered any more.
        first.signal();
        assert_eq!(run.wakes(), 1);
        assert_eq!(many.scan(), 2);
    }

    #[test]
    fn another_task_may_poll_it_on() {
        let (signal, file) = event(0);
        let mut many = PollMany::new(vec![PollEntry::select(file, POLLIN)]);
        let (one, two) = (Run::new(), Run::new());
        assert_eq!(one.poll(&mut many), None);
        assert_eq!(two.poll(&mut many), None);
        signal.signal();
        assert_eq!((one.wakes(), two.wakes()), (0, 1));
    }

    #[test]
    fn bad_and_masked() {
        let (_event, file) = event(1);
        let mut many = PollMany::new(vec![
            PollEntry::poll(PollTarget::Bad, 0),
            PollEntry::select(file.clone(), POLLPRI),
            PollEntry::poll(PollTarget::File(file), (POLLIN | POLLOUT) as u16),
        ]);
        assert_eq!(Run::new().poll(&mut many), Some(2));
        let seen: Vec<u32> = many.entries.iter().map(|e| e.revents).collect();
        assert_eq!(seen, [POLLNVAL, 0, POLLIN | POLLOUT]);
    }
}
