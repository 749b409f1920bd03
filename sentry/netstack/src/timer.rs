//! Deadlines of everything in a stack, in order.
//!
//! Each object has at most one entry here: it notes its [`Key`] and moves it only when it must be woken earlier (a timer
//! that is put off is looked at when it was due, and armed anew). So there are few changes, and no stale entries.
//!
//! Lock: a leaf.

use crate::env::{Alarm, Env, Nanos};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Weak;

/// What is to be done.
#[derive(Clone)]
pub(crate) enum Due {
    Conn(Weak<crate::tcp::TcpConn>),
    /// A handshake without a connection yet, by its key's hash.
    Request(crate::tcp::Tuple),
    TimeWait,
    Neighbour(u32, IpAddr),
    Fragments,
    Groups(u32),
    Alarm(Weak<dyn Alarm>),
}

pub(crate) type Key = (Nanos, u64);

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Key, Due>,
    next: u64,
}

#[derive(Default)]
pub(crate) struct Timers(Mutex<Inner>);

impl Timers {
    pub(crate) fn arm(&self, env: &dyn Env, at: Nanos, due: Due) -> Key {
        let (key, first) = {
            let mut inner = self.0.lock();
            inner.next = inner.next.wrapping_add(1);
            let key = (at, inner.next);
            inner.entries.insert(key, due);
            (key, inner.entries.first_key_value().is_some_and(|(first, _)| *first == key))
        };
        if first {
            env.arm(at);
        }
        key
    }

    pub(crate) fn cancel(&self, key: Key) {
        self.0.lock().entries.remove(&key);
    }

    /// Takes up to a handful of entries that are due.
    pub(crate) fn pop(&self, now: Nanos, out: &mut Vec<(Key, Due)>) {
        let mut inner = self.0.lock();
        while out.len() < 64 {
            match inner.entries.first_entry() {
                Some(entry) if entry.key().0 <= now => out.push(entry.remove_entry()),
                _ => break,
            }
        }
    }

    pub(crate) fn next(&self) -> Option<Nanos> {
        self.0.lock().entries.first_key_value().map(|((at, _), _)| *at)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().entries.len()
    }
}
