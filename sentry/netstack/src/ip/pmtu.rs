//! What routers have said about packet sizes, per destination, for ten minutes.
//!
//! Lock: a leaf, and only taken if anything is known at all.

use crate::env::{Nanos, SECOND};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

const MAX: usize = 2048;
const LIFE: Nanos = 600 * SECOND;
/// net.ipv4.route.min_pmtu.
const MIN4: u32 = 552;
const MIN6: u32 = 1280;

#[derive(Default)]
pub(crate) struct Pmtu {
    known: Mutex<HashMap<IpAddr, (u32, Nanos)>>,
    count: AtomicUsize,
}

impl Pmtu {
    /// The size for a destination whose route allows `mtu`.
    pub fn of(&self, dst: &IpAddr, mtu: u32, now: Nanos) -> u32 {
        if self.count.load(Ordering::Relaxed) == 0 {
            return mtu;
        }
        let known = self.known.lock();
        known.get(dst).filter(|(_, until)| *until > now).map_or(mtu, |(size, _)| mtu.min(*size))
    }

    /// Learns a size; what it is now, if that is news.
    pub fn learn(&self, dst: IpAddr, size: u32, mtu: u32, now: Nanos) -> Option<u32> {
        let size = size.max(if dst.is_ipv4() { MIN4 } else { MIN6 });
        if size >= self.of(&dst, mtu, now) {
            return None;
        }
        let mut known = self.known.lock();
        if known.len() >= MAX && !known.contains_key(&dst) {
            known.retain(|_, (_, until)| *until > now);
            if known.len() >= MAX {
                known.clear();
            }
        }
        known.insert(dst, (size, now.saturating_add(LIFE)));
        self.count.store(known.len(), Ordering::Relaxed);
        Some(size)
    }
}
