//! The events that wait to be read from an inotify instance.

use crate::bounds::EVENT_BYTES;
use chitin_abi::Errno;
use chitin_abi::inotify::{IN_IGNORED, IN_Q_OVERFLOW};
use chitin_mm::Sink;
use std::collections::VecDeque;

/// sizeof(struct inotify_event); names are padded to multiples of it.
const HEADER: usize = 16;
/// What an event takes up here beside its name.
const COST: usize = 64;

#[derive(Debug, PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Box<[u8]>,
}

impl Event {
    fn size(&self) -> usize {
        HEADER + self.padded()
    }

    fn cost(name: &[u8]) -> usize {
        COST + name.len()
    }

    /// The length of the name with its NUL and padding, 0 without a name.
    fn padded(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        out.extend_from_slice(&self.wd.to_ne_bytes());
        out.extend_from_slice(&self.mask.to_ne_bytes());
        out.extend_from_slice(&self.cookie.to_ne_bytes());
        out.extend_from_slice(&u32::try_from(self.padded()).unwrap_or(0).to_ne_bytes());
        out.extend_from_slice(&self.name);
        out.resize(self.size(), 0);
        out
    }
}

/// The queue, bounded: past `limit`, or when all queues hold too much, one overflow event says that others are missing.
pub(super) struct Queue {
    events: VecDeque<Event>,
    bytes: u64,
    limit: usize,
    overflowed: bool,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Queue {
        Queue { events: VecDeque::new(), bytes: 0, limit, overflowed: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes a read of everything would take (FIONREAD).
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Queues an event unless it repeats the last one; whether something was queued.
    pub(super) fn push(&mut self, wd: i32, mask: u32, cookie: u32, name: &[u8]) -> bool {
        if let Some(last) = self.events.back()
            && last.mask & IN_IGNORED == 0
            && (last.wd, last.mask, &*last.name) == (wd, mask, name)
        {
            return false;
        }
        let event = if self.events.len() < self.limit && EVENT_BYTES.take(Event::cost(name)) {
            Event { wd, mask, cookie, name: name.into() }
        } else if self.overflowed {
            return false;
        } else {
            self.overflowed = true;
            Event { wd: -1, mask: IN_Q_OVERFLOW, cookie: 0, name: Box::default() }
        };
        self.bytes += event.size() as u64;
        self.events.push_back(event);
        true
    }

    /// read(2): as many whole events as there is room for. EAGAIN without events, EINVAL when not even one fits.
    pub(super) fn read(&mut self, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let mut count = 0;
        while let Some(event) = self.events.front() {
            let size = event.size();
            if size > dst.room() {
                return if count == 0 { Err(Errno::EINVAL) } else { Ok(count) };
            }
            let bytes = event.bytes();
            match event.mask & IN_Q_OVERFLOW {
                0 => EVENT_BYTES.give(Event::cost(&event.name)),
                _ => self.overflowed = false,
            }
            self.bytes -= size as u64;
            self.events.pop_front();
            // As on Linux an event that cannot be stored is lost.
            if dst.put(&bytes)? != size {
                return Err(Errno::EFAULT);
            }
            count += size;
        }
        if count == 0 { Err(Errno::EAGAIN) } else { Ok(count) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let kept = self.events.iter().filter(|event| event.mask & IN_Q_OVERFLOW == 0);
        EVENT_BYTES.give(kept.map(|event| Event::cost(&event.name)).sum());
    }
}
