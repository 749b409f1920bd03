//! Reassembly of fragments: bounded in memory (net.ipv4.ipfrag_high_thresh for both families), in time and in number.
//! Fragments that overlap spoil their packet, as Linux and RFC 5722 have it.
//!
//! Lock: a leaf.

use super::Meta;
use crate::env::{Nanos, SECOND};
use crate::stack::Stack;
use crate::timer::Due;
use crate::wire::{IPV6_LEN, len16};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// What a length field holds.
const MAX_PACKET: usize = 65535;
/// Pieces of one packet.
const MAX_PIECES: usize = 128;
/// What all fragments may take, whatever a guest sets.
const MAX_BYTES: usize = 32 << 20;
/// What an entry costs besides its bytes.
const OVERHEAD: usize = 512;

/// A fragment, as its header has it.
pub(super) struct Fragment<'a> {
    pub id: u32,
    pub offset: usize,
    pub more: bool,
    /// The header that the whole packet will have.
    pub head: &'a [u8],
}

type Key = (IpAddr, IpAddr, u32, u8, u32);

struct Entry {
    key: Key,
    serial: u64,
    since: Nanos,
    /// Payload, with gaps.
    data: Vec<u8>,
    /// What has come, in order: start and end.
    pieces: Vec<(usize, usize)>,
    total: Option<usize>,
    head: Option<Vec<u8>>,
    spoilt: bool,
}

impl Entry {
    fn cost(&self) -> usize {
        let head = self.head.as_ref().map_or(0, Vec::capacity);
        self.data.capacity() + self.pieces.capacity() * size_of::<(usize, usize)>() + head + OVERHEAD
    }
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// Oldest first; those without an entry of the same number are over.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    serial: u64,
    armed: bool,
}

#[derive(Default)]
pub(crate) struct Reassembly(Mutex<Inner>);

#[cfg(test)]
impl Reassembly {
    pub(crate) fn held(&self) -> usize {
        let inner = self.0.lock();
        let of = |entry: &Entry| {
            let head = entry.head.as_ref().map_or(0, Vec::capacity);
            size_of::<Entry>()
                + entry.data.capacity()
                + entry.pieces.capacity() * size_of::<(usize, usize)>()
                + head
        };
        inner.entries.values().map(of).sum::<usize>() + inner.order.capacity() * size_of::<(Key, u64)>()
    }
}

impl Inner {
    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes = self.bytes.saturating_sub(entry.cost());
        Some(entry)
    }

    /// Makes room by giving up the oldest.
    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some((key, serial)) = self.order.pop_front() else { return };
            if self.entries.get(&key).is_some_and(|entry| entry.serial == serial) {
                self.remove(&key);
            }
        }
        if self.order.len() > 64 && self.order.len() > self.entries.len() * 2 {
            let entries = &self.entries;
            self.order.retain(|(key, serial)| entries.get(key).is_some_and(|e| e.serial == *serial));
        }
    }
}

impl Entry {
    /// Puts a piece in. False: the packet is spoilt.
    fn put(&mut self, meta: &Meta<'_>, fragment: &Fragment<'_>) -> bool {
        let (start, end) = (fragment.offset, fragment.offset.saturating_add(meta.payload.len()));
        // IPv6 does not count its own header.
        let most = MAX_PACKET + if meta.src.is_ipv6() { IPV6_LEN } else { 0 };
        let bad = meta.payload.is_empty()
            || end + fragment.head.len() > most
            || fragment.more && meta.payload.len() % 8 != 0
            || self.total.is_some_and(|total| end > total || !fragment.more && end != total)
            || !fragment.more && self.pieces.last().is_some_and(|(_, last)| *last > end)
            || self.pieces.len() >= MAX_PIECES;
        if bad {
            return false;
        }
        let at = self.pieces.partition_point(|(s, _)| *s < start);
        // The very same piece once more is no harm.
        if self.pieces.get(at) == Some(&(start, end)) {
            return true;
        }
        let before = at.checked_sub(1).and_then(|at| self.pieces.get(at)).is_some_and(|(_, e)| *e > start);
        let after = self.pieces.get(at).is_some_and(|(s, _)| *s < end);
        if before || after {
            return false;
        }
        self.pieces.insert(at, (start, end));
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        if let Some(room) = self.data.get_mut(start..end) {
            room.copy_from_slice(meta.payload);
        }
        if !fragment.more {
            self.total = Some(end);
        }
        if start == 0 {
            self.head = Some(fragment.head.to_vec());
        }
        true
    }

    fn complete(&self) -> bool {
        let mut end = 0;
        self.pieces.iter().all(|(s, e)| *s == std::mem::replace(&mut end, *e)) && self.total == Some(end)
    }

    /// The whole packet, its header mended.
    fn whole(self) -> Option<Vec<u8>> {
        let mut packet = self.head?;
        let head = packet.len();
        packet.extend_from_slice(&self.data);
        let v4 = self.key.0.is_ipv4();
        let (at, len) = if v4 { (2, packet.len()) } else { (4, packet.len().checked_sub(40)?) };
        packet.get_mut(at..at + 2)?.copy_from_slice(len16(len).as_ref());
        if v4 {
            packet.get_mut(6..8)?.fill(0);
            packet.get_mut(10..12)?.fill(0);
            let sum = crate::wire::Sum::default().put(packet.get(..head)?).finish();
            packet.get_mut(10..12)?.copy_from_slice(sum.as_ref());
        }
        Some(packet)
    }
}

impl Stack {
    /// Keeps a fragment; the whole packet, if it was the last one missing.
    pub(super) fn reassemble(&self, now: Nanos, meta: &Meta<'_>, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let limit = self.sysctls.ipfrag_high_thresh.size().min(MAX_BYTES);
        let key = (meta.src, meta.dst, fragment.id, meta.proto, meta.port.index);
        let mut inner = self.reassembly.0.lock();
        inner.serial = inner.serial.wrapping_add(1);
        let serial = inner.serial;
        let mut entry = match inner.remove(&key) {
            Some(entry) => entry,
            None => {
                inner.order.push_back((key, serial));
                Entry {
                    key,
                    serial,
                    since: now,
                    data: Vec::new(),
                    pieces: Vec::new(),
                    total: None,
                    head: None,
                    spoilt: false,
                }
            }
        };
        if !entry.spoilt && !entry.put(meta, fragment) {
            // It stays, so that what is still to come does not begin it anew.
            entry = Entry { data: Vec::new(), pieces: Vec::new(), head: None, spoilt: true, ..entry };
        }
        if !entry.spoilt && entry.complete() {
            return entry.whole();
        }
        inner.bytes = inner.bytes.saturating_add(entry.cost());
        inner.entries.insert(key, entry);
        inner.shrink(limit);
        if !inner.armed {
            inner.armed = true;
            let at = now.saturating_add(self.frag_time());
            self.timers.arm(&*self.env, at, Due::Fragments);
        }
        None
    }

    fn frag_time(&self) -> Nanos {
        self.sysctls.ipfrag_time.get().max(1).unsigned_abs().saturating_mul(SECOND)
    }

    /// Gives up what is too old; the senders of first fragments are told.
    pub(crate) fn fragments_due(&self, now: Nanos) {
        let life = self.frag_time();
        let mut old = Vec::new();
        {
            let mut inner = self.reassembly.0.lock();
            inner.armed = false;
            while let Some((key, serial)) = inner.order.front().copied() {
                let since = inner.entries.get(&key).filter(|entry| entry.serial == serial).map(|e| e.since);
                if let Some(until) = since.map(|since| since.saturating_add(life)) {
                    if until > now {
                        inner.armed = true;
                        self.timers.arm(&*self.env, until, Due::Fragments);
                        break;
                    }
                    old.extend(inner.remove(&key));
                }
                inner.order.pop_front();
            }
        }
        for entry in old {
            let Some(mut packet) = entry.head.clone() else { continue };
            packet.extend(entry.data.iter().take(512));
            self.reassembly_failed(now, entry.key.4, &packet);
        }
    }

    /// Bytes held (/proc/net/sockstat).
    pub fn fragment_bytes(&self) -> usize {
        self.reassembly.0.lock().bytes
    }
}
