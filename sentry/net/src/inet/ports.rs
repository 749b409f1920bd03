//! Ports: who may have which (inet_csk_get_port(), udp_lib_get_port()).
//!
//! A socket's hold on a port is a [`Claim`]; dropping the last reference gives it up. What a claim says of its socket is
//! kept current by the socket (SO_REUSEADDR and the like count as they are when somebody else binds).
//!
//! Locks: `Ports::buckets` is a leaf. Claims are not dropped while it is held.

use super::addr::Endpoint;
use crate::NetNs;
use crate::options::Common;
use chitin_abi::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    Tcp,
    Udp,
    UdpLite,
}

/// Bits of [`Claim::reuse`].
pub const REUSE_ADDR: u32 = 1;
pub const REUSE_PORT: u32 = 2;

/// A socket's hold on a port.
pub struct Claim {
    ns: Weak<NetNs>,
    proto: Proto,
    pub id: u64,
    pub port: u16,
    /// The socket's family, and what it is bound to there.
    pub v6: bool,
    pub ip: IpAddr,
    pub v6only: bool,
    pub uid: u32,
    pub device: u32,
    /// Shared with the socket.
    pub reuse: Arc<AtomicU32>,
    pub listening: AtomicBool,
    /// Only the past of a connection: nobody's any more.
    pub waiting: AtomicBool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(ns) = self.ns.upgrade() {
            ns.inet.ports(self.proto).remove(self.port, self.id);
        }
    }
}

/// What a claim is made of.
pub struct Wish<'a> {
    pub proto: Proto,
    pub common: &'a Common,
    pub v6: bool,
    pub v6only: bool,
    pub uid: u32,
    pub at: Endpoint,
}

impl Wish<'_> {
    /// Whether a port is given only to who names it.
    fn reserved(&self, port: u16) -> bool {
        let ranges = self.common.ns.stack.sysctls.reserved();
        ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    fn claim(&self, port: u16) -> Arc<Claim> {
        Arc::new(Claim {
            ns: Arc::downgrade(&self.common.ns),
            proto: self.proto,
            id: next_id(),
            port,
            v6: self.v6,
            ip: self.at.ip,
            v6only: self.v6only,
            uid: self.uid,
            device: self.common.device_index(),
            reuse: self.common.reuse.clone(),
            listening: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        })
    }
}

fn next_id() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Default)]
struct Bucket {
    claims: HashMap<u64, Weak<Claim>>,
    /// Made by connect(2) alone: others may connect from the same port to elsewhere (fastreuse -1).
    shared: bool,
}

impl Bucket {
    fn live(&self) -> impl Iterator<Item = Arc<Claim>> {
        self.claims.values().filter_map(Weak::upgrade)
    }
}

/// The ports of one protocol.
pub struct Ports {
    proto: Proto,
    buckets: Mutex<HashMap<u16, Bucket>>,
}

/// inet_rcv_saddr_equal(): whether two sockets would get the same packets.
fn overlap(a: &Claim, b: &Claim) -> bool {
    let any_v6 = |claim: &Claim| claim.v6 && matches!(claim.ip, IpAddr::V6(ip) if ip.is_unspecified());
    match (a.ip, b.ip) {
        (IpAddr::V4(x), IpAddr::V4(y)) => x == y || x.is_unspecified() || y.is_unspecified(),
        (IpAddr::V6(x), IpAddr::V6(y)) => x == y || x.is_unspecified() || y.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(_)) => any_v6(b) && !b.v6only,
        (IpAddr::V6(_), IpAddr::V4(_)) => any_v6(a) && !a.v6only,
    }
}

/// How strictly claims are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strict {
    /// A port that the caller named.
    Named,
    /// One that we choose: nobody else may have it, whatever they allow.
    Chosen,
}

impl Proto {
    fn conflict(self, new: &Claim, old: &Claim, strict: Strict) -> bool {
        if new.id == old.id || (new.device != 0 && old.device != 0 && new.device != old.device) {
            return false;
        }
        if !overlap(new, old) {
            return false;
        }
        let (mine, theirs) = (new.reuse.load(Ordering::Relaxed), old.reuse.load(Ordering::Relaxed));
        let both = mine & theirs;
        let same_user = new.uid == old.uid;
        match self {
            Proto::Tcp => {
                let past = old.waiting.load(Ordering::Relaxed);
                if both & REUSE_ADDR != 0 && !old.listening.load(Ordering::Relaxed) {
                    return strict == Strict::Chosen;
                }
                let group = both & REUSE_PORT != 0 && (past || same_user);
                strict == Strict::Chosen || !group
            }
            Proto::Udp | Proto::UdpLite => {
                if both & REUSE_ADDR != 0 {
                    return false;
                }
                !(both & REUSE_PORT != 0 && same_user)
            }
        }
    }
}

impl Ports {
    pub fn new(proto: Proto) -> Ports {
        Ports { proto, buckets: Mutex::default() }
    }

    fn remove(&self, port: u16, id: u64) {
        let mut buckets = self.buckets.lock();
        if let Some(bucket) = buckets.get_mut(&port) {
            bucket.claims.remove(&id);
            if bucket.claims.is_empty() {
                buckets.remove(&port);
            }
        }
    }

    fn add(buckets: &mut HashMap<u16, Bucket>, claim: &Arc<Claim>, shared: bool) {
        let bucket = buckets.entry(claim.port).or_insert_with(|| Bucket { shared, ..Bucket::default() });
        bucket.shared &= shared;
        bucket.claims.insert(claim.id, Arc::downgrade(claim));
    }

    /// Claims left alone while the lock is held are dropped by the caller.
    fn conflicts(
        &self,
        buckets: &HashMap<u16, Bucket>,
        claim: &Claim,
        strict: Strict,
        held: &mut Vec<Arc<Claim>>,
    ) -> bool {
        let Some(bucket) = buckets.get(&claim.port) else { return false };
        for old in bucket.live() {
            let conflict = self.proto.conflict(claim, &old, strict);
            held.push(old);
            if conflict {
                return true;
            }
        }
        false
    }

    /// bind(2): the port named, or one of our choice. EADDRINUSE.
    pub fn bind(&self, wish: &Wish<'_>, range: (u16, u16)) -> Result<Arc<Claim>, Errno> {
        let mut held = Vec::new();
        if wish.at.port != 0 {
            let claim = wish.claim(wish.at.port);
            let mut buckets = self.buckets.lock();
            let taken = self.conflicts(&buckets, &claim, Strict::Named, &mut held);
            if !taken {
                Ports::add(&mut buckets, &claim, false);
            }
            drop(buckets);
            return if taken { Err(Errno::EADDRINUSE) } else { Ok(claim) };
        }
        for port in candidates(range, 1, random()).filter(|port| !wish.reserved(*port)) {
            held.clear();
            let claim = wish.claim(port);
            let mut buckets = self.buckets.lock();
            if !self.conflicts(&buckets, &claim, Strict::Chosen, &mut held) {
                Ports::add(&mut buckets, &claim, false);
                drop(buckets);
                return Ok(claim);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    /// connect(2) without a port: one from which `free` says that the connection is new. EADDRNOTAVAIL.
    pub fn connect(
        &self,
        wish: &Wish<'_>,
        range: (u16, u16),
        seed: u64,
        free: &mut dyn FnMut(u16) -> bool,
    ) -> Result<Arc<Claim>, Errno> {
        for port in candidates(range, 0, seed).filter(|port| !wish.reserved(*port)) {
            if self.buckets.lock().get(&port).is_some_and(|bucket| !bucket.shared) || !free(port) {
                continue;
            }
            let claim = wish.claim(port);
            let mut buckets = self.buckets.lock();
            if buckets.get(&port).is_none_or(|bucket| bucket.shared) {
                Ports::add(&mut buckets, &claim, true);
                drop(buckets);
                return Ok(claim);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// What an accepted connection holds of its listener's port.
    pub fn inherit(&self, wish: &Wish<'_>) -> Arc<Claim> {
        let claim = wish.claim(wish.at.port);
        Ports::add(&mut self.buckets.lock(), &claim, false);
        claim
    }

    /// listen(2) looks again: a socket that listens shares its port with fewer.
    pub fn may_listen(&self, claim: &Claim) -> bool {
        let mut held = Vec::new();
        let buckets = self.buckets.lock();
        let taken = self.conflicts(&buckets, claim, Strict::Named, &mut held);
        drop(buckets);
        !taken
    }
}

/// The ports of a range, from somewhere on: first those whose distance from its start is `parity`, then the others.
/// connect(2) takes even ones and bind(2) odd ones, so that they do not meet.
fn candidates(range: (u16, u16), parity: u32, seed: u64) -> impl Iterator<Item = u16> {
    let (low, high) = (u32::from(range.0), u32::from(range.1.max(range.0)));
    let count = high - low + 1;
    let half = count.div_ceil(2);
    let start = u32::try_from(seed % u64::from(half.max(1))).unwrap_or(0);
    (0..2u32).flat_map(move |turn| {
        (0..half).filter_map(move |step| {
            let at = ((start + step) % half) * 2 + (parity ^ turn);
            (at < count).then(|| u16::try_from(low + at).unwrap_or(u16::MAX))
        })
    })
}

/// Numbers that guests cannot foresee: the hasher's keys come from the host's random numbers.
pub fn random() -> u64 {
    keyed(&next_id())
}

/// The same for equal values, otherwise as [`random`].
pub fn keyed(value: &impl Hash) -> u64 {
    static KEYS: std::sync::OnceLock<std::collections::hash_map::RandomState> = std::sync::OnceLock::new();
    KEYS.get_or_init(Default::default).hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_comes_once() {
        for (range, parity) in [((10, 19), 0), ((10, 20), 1), ((7, 7), 1)] {
            let mut ports: Vec<u16> = candidates(range, parity, 12345).collect();
            let first = ports[0];
            assert!(ports.len() == 1 || u32::from(first - range.0) % 2 == parity);
            ports.sort_unstable();
            assert_eq!(ports, (range.0..=range.1).collect::<Vec<_>>());
        }
    }
}
