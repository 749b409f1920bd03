//! The table of connections: which pairs of endpoints are taken, and for how long after the end (TIME_WAIT).
//!
//! A live connection's entry belongs to a [`Seat`]; what the end leaves behind expires by itself: whoever adds an entry
//! clears away those whose time is over.
//!
//! Locks: `Connections::table` is a leaf; claims are dropped after it is released.

use super::TcpSock;
use crate::NetNs;
use crate::inet::addr::Endpoint;
use crate::inet::ports::Claim;
use chitin_host::clock::now_ns;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// TCP_TIMEWAIT_LEN, and net.ipv4.tcp_fin_timeout.
const TIME_WAIT: u64 = 60_000_000_000;
/// A new connection between the same endpoints may begin after this (net.ipv4.tcp_tw_reuse = 2: on the loopback).
const REUSE_AFTER: u64 = 1_000_000_000;
/// net.ipv4.tcp_max_tw_buckets.
const MAX_WAITING: usize = 32_768;
const CLOCK_MONOTONIC: i32 = 1;

pub type Key = (Endpoint, Endpoint);

struct Entry {
    id: u64,
    sock: Weak<TcpSock>,
    /// When it goes by itself.
    until: Option<u64>,
    /// The port it keeps busy meanwhile.
    claim: Option<Arc<Claim>>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    expiring: VecDeque<(u64, Key, u64)>,
    next: u64,
}

/// All connections of a namespace, by local and remote endpoint.
#[derive(Default)]
pub struct Connections {
    table: Mutex<Table>,
}

/// How old a connection's end is to be for another to take its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// connect(2): it is in TIME_WAIT, and not just so.
    Old,
    /// A SYN that arrives: whatever there was.
    Any,
}

/// What a listing shows of a connection that is only waited for.
pub struct Waiting {
    pub local: Endpoint,
    pub remote: Endpoint,
    pub left: u64,
}

impl Table {
    /// Takes out what has expired; the caller drops it.
    fn expire(&mut self, now: u64) -> Vec<Entry> {
        let mut gone = Vec::new();
        while let Some((until, key, id)) = self.expiring.front().copied()
            && (until <= now || self.expiring.len() > MAX_WAITING)
        {
            self.expiring.pop_front();
            if self.entries.get(&key).is_some_and(|entry| entry.id == id && entry.until == Some(until)) {
                gone.extend(self.entries.remove(&key));
            }
        }
        gone
    }
}

fn now() -> u64 {
    now_ns(CLOCK_MONOTONIC)
}

impl Connections {
    /// Clears away what is over, so that its ports are free.
    pub fn expire(&self) {
        let _gone = self.table.lock().expire(now());
    }

    /// Whether a connection could begin.
    pub fn is_free(&self, key: &Key) -> bool {
        let now = now();
        match self.table.lock().entries.get(key) {
            None => true,
            Some(entry) => {
                entry.sock.strong_count() == 0
                    && entry.until.is_some_and(|until| now.saturating_add(TIME_WAIT - REUSE_AFTER) >= until)
            }
        }
    }

    pub fn add(&self, key: Key, sock: &Arc<TcpSock>, claim: Arc<Claim>, replace: Replace) -> Option<Seat> {
        if replace == Replace::Old && !self.is_free(&key) {
            return None;
        }
        let mut table = self.table.lock();
        let gone = table.expire(now());
        table.next += 1;
        let id = table.next;
        let entry = Entry { id, sock: Arc::downgrade(sock), until: None, claim: None };
        let old = table.entries.insert(key, entry);
        drop(table);
        drop((gone, old));
        Some(Seat { ns: Arc::downgrade(&sock.common.ns), key, id, claim: Some(claim) })
    }

    pub fn find(&self, key: &Key) -> Option<Arc<TcpSock>> {
        let found = self.table.lock().entries.get(key).map(|entry| entry.sock.clone());
        found?.upgrade()
    }

    /// Those in TIME_WAIT and the like, for listings.
    pub fn waiting(&self) -> Vec<Waiting> {
        let now = now();
        let table = self.table.lock();
        let left = |entry: &Entry| entry.until.and_then(|until| until.checked_sub(now));
        let shown = table
            .entries
            .iter()
            .filter_map(|(&(local, remote), entry)| Some(Waiting { local, remote, left: left(entry)? }));
        shown.collect()
    }
}

/// A connection's entry.
pub struct Seat {
    ns: Weak<NetNs>,
    key: Key,
    id: u64,
    claim: Option<Arc<Claim>>,
}

impl Seat {
    /// The connection is over. `first`: its FIN was, so that the pair stays taken for a while.
    pub fn leave(mut self, first: bool) {
        if first {
            let claim = self.claim.take();
            if let Some(claim) = &claim {
                claim.waiting.store(true, Ordering::Relaxed);
            }
            self.linger(claim);
        }
    }

    /// Nobody has this side open, and the other has not closed: it goes in a while, whatever the other does.
    pub fn orphan(&mut self) {
        let claim = self.claim.clone();
        self.linger(claim);
    }

    fn linger(&mut self, claim: Option<Arc<Claim>>) {
        let Some(ns) = self.ns.upgrade() else { return };
        let until = now().saturating_add(TIME_WAIT);
        let mut table = ns.inet.connections.table.lock();
        let mut old = None;
        if let Some(entry) = table.entries.get_mut(&self.key).filter(|entry| entry.id == self.id) {
            entry.until = Some(until);
            old = std::mem::replace(&mut entry.claim, claim);
            table.expiring.push_back((until, self.key, self.id));
        }
        let gone = table.expire(now());
        drop(table);
        drop((old, gone));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(ns) = self.ns.upgrade() else { return };
        let mut table = ns.inet.connections.table.lock();
        let mine = |entry: &Entry| entry.id == self.id && (entry.until.is_none() || self.claim.is_some());
        let gone = match table.entries.get(&self.key) {
            Some(entry) if mine(entry) => table.entries.remove(&self.key),
            _ => None,
        };
        drop(table);
        drop(gone);
    }
}
