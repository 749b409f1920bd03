//! Neighbours: who has which hardware address on a link, and whether that still holds (RFC 4861's states, for ARP, too).
//!
//! A packet to a neighbour that is fresh costs two atomic loads. Otherwise the entry's lock is taken: a stale entry is
//! used and checked later, an unknown one keeps a few packets and is asked for.
//!
//! Locks: `table` → a neighbour's `state` → devices.

use super::{Flat, Out, Port};
use crate::config::{Change, Neighbour};
use crate::env::{Nanos, SECOND};
use crate::stack::Stack;
use crate::timer::{Due, Key};
use chitin_abi::Errno;
use chitin_abi::rtnetlink::*;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// net.ipv4.neigh.default.gc_thresh3.
const MAX_NEIGHBOURS: usize = 1024;
/// What may wait for an answer, per neighbour.
const MAX_WAITING: usize = 64;
const MAX_WAITING_BYTES: usize = 212_992;
/// What may wait on a link, for all of its neighbours.
const MAX_LINK_BYTES: usize = 4 << 20;
/// What a packet that waits costs besides its bytes.
const OVERHEAD: usize = 128;
const REACHABLE: Nanos = 30 * SECOND;
const DELAY: Nanos = 5 * SECOND;
const RETRANS: Nanos = SECOND;
const PROBES: u8 = 3;

/// The neighbours of a link.
#[derive(Default)]
pub(crate) struct Neighbours {
    table: Mutex<HashMap<IpAddr, Arc<Neigh>>>,
    /// Bytes of packets that wait.
    waiting: Arc<AtomicUsize>,
}

#[cfg(test)]
impl Neighbours {
    pub fn held(&self) -> usize {
        let of = |neigh: &Arc<Neigh>| {
            let state = neigh.state.lock();
            let waiting: usize =
                state.waiting.iter().map(|flat| flat.packet.capacity() + size_of::<Flat>()).sum();
            size_of::<Neigh>() + waiting
        };
        self.table.lock().values().map(of).sum()
    }
}

pub(crate) struct Neigh {
    pub addr: IpAddr,
    /// The hardware address, valid while `fresh` is in the future.
    mac: AtomicU64,
    fresh: AtomicU64,
    used: AtomicU64,
    state: Mutex<State>,
}

struct State {
    nud: u16,
    flags: u8,
    mac: Option<[u8; 6]>,
    probes: u8,
    confirmed: Nanos,
    updated: Nanos,
    timer: Option<Key>,
    waiting: Vec<Flat>,
    bytes: usize,
    /// [`Neighbours::waiting`].
    total: Arc<AtomicUsize>,
}

impl State {
    /// Room for so many bytes, if need be by giving up what has waited longest. Whether there is.
    fn make_room(&mut self, more: usize) -> bool {
        let full = |state: &State| {
            state.waiting.len() >= MAX_WAITING
                || state.bytes + more > MAX_WAITING_BYTES
                || state.total.load(Ordering::Relaxed).saturating_add(more) > MAX_LINK_BYTES
        };
        while full(self) {
            if self.waiting.is_empty() {
                return false;
            }
            let cost = self.waiting.remove(0).packet.len() + OVERHEAD;
            self.bytes = self.bytes.saturating_sub(cost);
            self.total.fetch_sub(cost, Ordering::Relaxed);
        }
        true
    }

    fn take_waiting(&mut self) -> Vec<Flat> {
        self.total.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        std::mem::take(&mut self.waiting)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.take_waiting();
    }
}

fn pack(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn unpack(mac: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = mac.to_be_bytes();
    [a, b, c, d, e, f]
}

impl Neigh {
    fn new(addr: IpAddr, now: Nanos, total: &Arc<AtomicUsize>) -> Neigh {
        let state = State {
            nud: NUD_NONE,
            flags: 0,
            mac: None,
            probes: 0,
            confirmed: now,
            updated: now,
            timer: None,
            waiting: Vec::new(),
            bytes: 0,
            total: total.clone(),
        };
        Neigh {
            addr,
            mac: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            used: AtomicU64::new(now),
            state: Mutex::new(state),
        }
    }

    fn show(&self, link: u32) -> Neighbour {
        let state = self.state.lock();
        Neighbour {
            link,
            addr: self.addr,
            hw_addr: state.mac,
            state: state.nud,
            flags: state.flags,
            confirmed: state.confirmed,
            used: self.used.load(Ordering::Relaxed),
            updated: state.updated,
        }
    }

    /// Something above has proof that the neighbour gets what is sent.
    pub fn confirm(&self, now: Nanos) {
        let fresh = self.fresh.load(Ordering::Relaxed);
        // Once a second is enough.
        if fresh < now.saturating_add(REACHABLE - SECOND) && fresh != u64::MAX {
            let mut state = self.state.lock();
            if state.mac.is_some() && state.nud & (NUD_PERMANENT | NUD_NOARP) == 0 {
                state.nud = NUD_REACHABLE;
                state.confirmed = now;
                self.fresh.store(now.saturating_add(REACHABLE), Ordering::Release);
            }
        }
    }
}

impl Stack {
    /// A link's entry for an address, made if need be; None if there are too many.
    pub(crate) fn neighbour(&self, port: &Port, addr: IpAddr) -> Option<Arc<Neigh>> {
        let mut table = port.neighbours.table.lock();
        if let Some(neigh) = table.get(&addr) {
            return Some(neigh.clone());
        }
        if table.len() >= MAX_NEIGHBOURS && !self.make_room(&mut table) {
            return None;
        }
        let neigh = Arc::new(Neigh::new(addr, self.now(), &port.neighbours.waiting));
        table.insert(addr, neigh.clone());
        Some(neigh)
    }

    /// Drops the eighth that was used longest ago among those that nobody needs.
    fn make_room(&self, table: &mut HashMap<IpAddr, Arc<Neigh>>) -> bool {
        let idle = |n: &Arc<Neigh>| {
            Arc::strong_count(n) == 1 && n.state.lock().nud & (NUD_PERMANENT | NUD_NOARP) == 0
        };
        let old = table.values().filter(|n| idle(n)).map(|n| (n.used.load(Ordering::Relaxed), n.addr));
        let mut old: Vec<_> = old.collect();
        old.sort_unstable();
        old.truncate(MAX_NEIGHBOURS / 8);
        for (_, addr) in &old {
            if let Some(gone) = table.remove(addr) {
                if let Some(timer) = gone.state.lock().timer.take() {
                    self.timers.cancel(timer);
                }
            }
        }
        !old.is_empty()
    }

    /// The hardware address to use now, if there is one.
    pub(crate) fn resolve(&self, port: &Port, neigh: &Neigh) -> Option<[u8; 6]> {
        let now = self.now();
        if now < neigh.fresh.load(Ordering::Acquire) {
            return Some(unpack(neigh.mac.load(Ordering::Relaxed)));
        }
        neigh.used.store(now, Ordering::Relaxed);
        let mut state = neigh.state.lock();
        let mac = state.mac?;
        if matches!(state.nud, NUD_REACHABLE | NUD_STALE) {
            state.nud = NUD_DELAY;
            self.arm(port, neigh, &mut state, now.saturating_add(DELAY));
        }
        Some(mac)
    }

    fn arm(&self, port: &Port, neigh: &Neigh, state: &mut State, at: Nanos) {
        if let Some(old) = state.timer.take() {
            self.timers.cancel(old);
        }
        state.timer = Some(self.timers.arm(&*self.env, at, Due::Neighbour(port.index, neigh.addr)));
    }

    /// Keeps a packet until the neighbour has answered, and asks it. False: there is no room.
    pub(crate) fn enqueue(&self, port: &Port, neigh: &Neigh, proto: u16, out: &Out<'_>) -> bool {
        let flat = Flat::of(proto, out);
        let now = self.now();
        let ask = {
            let mut state = neigh.state.lock();
            let cost = flat.packet.len() + OVERHEAD;
            if !state.make_room(cost) {
                return false;
            }
            state.bytes += cost;
            state.total.fetch_add(cost, Ordering::Relaxed);
            state.waiting.push(flat);
            let ask = state.nud & NUD_INCOMPLETE == 0;
            if ask {
                state.nud = NUD_INCOMPLETE;
                state.probes = 1;
                self.arm(port, neigh, &mut state, now.saturating_add(RETRANS));
            }
            ask
        };
        if ask {
            self.solicit(port, neigh.addr, None);
        }
        true
    }

    /// A neighbour has told its address. `solicited`: it answered us. `known`: only if we knew of it before.
    /// `replace`: also where another address is still good.
    pub(crate) fn learned(
        &self,
        port: &Port,
        addr: IpAddr,
        mac: [u8; 6],
        solicited: bool,
        known: bool,
        replace: bool,
    ) {
        if mac[0] & 1 != 0 || mac == [0; 6] || addr.is_unspecified() || addr.is_multicast() {
            return;
        }
        let found = port.neighbours.table.lock().get(&addr).cloned();
        let neigh = match found {
            Some(neigh) => neigh,
            None if known => return,
            None => match self.neighbour(port, addr) {
                Some(neigh) => neigh,
                None => return,
            },
        };
        let now = self.now();
        let (waiting, news) = {
            let mut state = neigh.state.lock();
            if state.nud & (NUD_PERMANENT | NUD_NOARP) != 0 {
                return;
            }
            let changed = state.mac != Some(mac);
            // Linux keeps an address for a second against those that compete for it (locktime), and IPv6 says which.
            let fought = state.mac.is_some() && changed && now < state.updated.saturating_add(SECOND);
            if changed && state.mac.is_some() && !replace || fought && !solicited {
                return;
            }
            if changed {
                state.mac = Some(mac);
                state.updated = now;
                neigh.mac.store(pack(mac), Ordering::Relaxed);
                neigh.fresh.store(0, Ordering::Release);
            }
            if solicited {
                state.nud = NUD_REACHABLE;
                state.confirmed = now;
                neigh.fresh.store(now.saturating_add(REACHABLE), Ordering::Release);
            } else if changed || state.nud & (NUD_NONE | NUD_INCOMPLETE | NUD_FAILED) != 0 || state.nud == 0 {
                state.nud = NUD_STALE;
            }
            if let (Some(timer), NUD_REACHABLE | NUD_STALE) = (state.timer, state.nud) {
                self.timers.cancel(timer);
                state.timer = None;
            }
            (state.take_waiting(), changed)
        };
        waiting.iter().for_each(|flat| self.emit_flat(port, mac, flat));
        if news {
            self.config.tell(&[Change::Neighbour(neigh.show(port.index), true)]);
        }
    }

    /// A neighbour's timer.
    pub(crate) fn neighbour_due(&self, link: u32, addr: IpAddr, key: Key) {
        let Some(port) = self.port(link) else { return };
        let Some(neigh) = port.neighbours.table.lock().get(&addr).cloned() else { return };
        let now = self.now();
        let mut failed = Vec::new();
        let ask = {
            let mut state = neigh.state.lock();
            if state.timer != Some(key) {
                return;
            }
            state.timer = None;
            if now < neigh.fresh.load(Ordering::Acquire) {
                return;
            }
            match state.nud {
                NUD_DELAY => {
                    state.nud = NUD_PROBE;
                    state.probes = 0;
                }
                NUD_PROBE | NUD_INCOMPLETE => {}
                _ => return,
            }
            if state.probes >= PROBES {
                state.nud = NUD_FAILED;
                state.mac = None;
                state.updated = now;
                failed = state.take_waiting();
                None
            } else {
                state.probes = state.probes.saturating_add(1);
                self.arm(&port, &neigh, &mut state, now.saturating_add(RETRANS));
                Some(state.mac)
            }
        };
        match ask {
            Some(mac) => self.solicit(&port, addr, mac),
            None => {
                self.config.tell(&[Change::Neighbour(neigh.show(link), true)]);
                // Whoever waited learns that the host cannot be reached.
                failed.iter().take(4).for_each(|flat| self.unreachable_neighbour(&port, &flat.packet));
            }
        }
    }

    pub fn neighbours(&self) -> Vec<Neighbour> {
        let ports = self.all_ports();
        let of = |port: &Arc<Port>| {
            let all: Vec<_> = port.neighbours.table.lock().values().cloned().collect();
            let mut shown: Vec<_> = all.iter().map(|neigh| neigh.show(port.index)).collect();
            shown.sort_by_key(|neigh| neigh.addr);
            shown
        };
        ports.iter().flat_map(of).filter(|neigh| neigh.state != NUD_NONE).collect()
    }

    /// Sets an entry (RTM_NEWNEIGH, or what a namespace came with).
    pub fn neighbour_set(&self, wanted: &Neighbour) -> Result<(), Errno> {
        let port = self.port(wanted.link).ok_or(Errno::ENODEV)?;
        if !port.is_ether() {
            return Err(Errno::EINVAL);
        }
        let now = self.now();
        let neigh = self.neighbour(&port, wanted.addr).ok_or(Errno::ENOBUFS)?;
        let (waiting, mac) = {
            let mut state = neigh.state.lock();
            state.mac = wanted.hw_addr.or(state.mac);
            state.nud = if state.mac.is_some() { wanted.state } else { NUD_NONE };
            state.flags = wanted.flags;
            state.updated = now;
            state.confirmed = now;
            neigh.mac.store(pack(state.mac.unwrap_or_default()), Ordering::Relaxed);
            let fresh = match state.nud {
                NUD_PERMANENT | NUD_NOARP => u64::MAX,
                NUD_REACHABLE => now.saturating_add(REACHABLE),
                _ => 0,
            };
            neigh.fresh.store(fresh, Ordering::Release);
            if let Some(timer) = state.timer.take() {
                self.timers.cancel(timer);
            }
            (state.take_waiting(), state.mac)
        };
        // What waited for the address may go; without one, nobody asks for it any more.
        if let Some(mac) = mac {
            waiting.iter().for_each(|flat| self.emit_flat(&port, mac, flat));
        }
        self.config.tell(&[Change::Neighbour(neigh.show(port.index), true)]);
        Ok(())
    }

    /// Deletes an entry.
    pub fn neighbour_del(&self, link: u32, addr: IpAddr) -> Result<(), Errno> {
        let port = self.port(link).ok_or(Errno::ENODEV)?;
        let gone = port.neighbours.table.lock().remove(&addr).ok_or(Errno::ENOENT)?;
        gone.fresh.store(0, Ordering::Release);
        let mut shown = gone.show(link);
        shown.state = NUD_FAILED;
        let timer = {
            let mut state = gone.state.lock();
            state.mac = None;
            state.nud = NUD_NONE;
            state.timer.take()
        };
        if let Some(timer) = timer {
            self.timers.cancel(timer);
        }
        // Connections that hold it look for their way again.
        self.config.touch();
        self.config.tell(&[Change::Neighbour(shown, false)]);
        Ok(())
    }
}
