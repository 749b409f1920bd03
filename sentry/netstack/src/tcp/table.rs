//! Who has which pair of addresses: connections, handshakes that are not connections yet, and what is left of old ones.
//!
//! Locks: a connection's own → a shard here. Lookups take a shard for reading and let go of it before the connection is
//! locked.

use super::listen::Request;
use super::memory::Memory;
use super::time_wait::{TimeWait, Waiting};
use super::{TcpConn, Tuple};
use crate::env::Env;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHARDS: usize = 64;
/// What all connections' buffers may take, unless told otherwise.
const MEMORY: usize = 256 << 20;

#[derive(Clone)]
pub(crate) enum Entry {
    Conn(Arc<TcpConn>),
    Request(Arc<Request>),
    TimeWait(Arc<TimeWait>),
}

pub(crate) type Shard = RwLock<HashMap<Tuple, Entry>>;

/// TCP's part of a stack.
pub(crate) struct Tcp {
    shards: Vec<Shard>,
    pub memory: Arc<Memory>,
    /// Handshakes by the address that was called.
    pub requests: Mutex<HashMap<SocketAddr, u32>>,
    pub waiting: Mutex<Waiting>,
    pub orphans: AtomicUsize,
    /// When a cookie was last sent; 0: never.
    pub cookies: AtomicU64,
}

fn low_bits(addr: &SocketAddr) -> usize {
    let ip = match addr.ip() {
        IpAddr::V4(a) => usize::from(a.octets().iter().fold(0, |x, b| x ^ b)),
        IpAddr::V6(a) => usize::from(a.octets().iter().fold(0, |x, b| x ^ b)),
    };
    ip ^ usize::from(addr.port())
}

impl Tcp {
    pub fn new(_env: &dyn Env) -> Tcp {
        let memory = Memory::default();
        memory.limit.store(MEMORY, Ordering::Relaxed);
        Tcp {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            memory: Arc::new(memory),
            requests: Mutex::default(),
            waiting: Mutex::default(),
            orphans: AtomicUsize::new(0),
            cookies: AtomicU64::new(0),
        }
    }

    /// None only if there are no shards, which never is.
    pub fn shard(&self, tuple: &Tuple) -> Option<&Shard> {
        let (local, remote) = tuple;
        self.shards.get((low_bits(local) ^ low_bits(remote)) % SHARDS)
    }
    pub fn find(&self, tuple: &Tuple) -> Option<Entry> {
        self.shard(tuple)?.read().get(tuple).cloned()
    }
    /// Puts an entry in unless there is one that `may_go` does not let go.
    pub fn insert(&self, tuple: Tuple, entry: Entry, may_go: impl FnOnce(&Entry) -> bool) -> bool {
        let Some(shard) = self.shard(&tuple) else { return false };
        let mut shard = shard.write();
        if shard.get(&tuple).is_some_and(|old| !may_go(old)) {
            return false;
        }
        shard.insert(tuple, entry);
        true
    }
    /// Takes an entry out, if it is the one that is meant.
    pub fn remove(&self, tuple: &Tuple, meant: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let mut shard = self.shard(tuple)?.write();
        if !meant(shard.get(tuple)?) {
            return None;
        }
        let gone = shard.remove(tuple);
        // Not for ever as large as in a flood.
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to_fit();
        }
        gone
    }
    pub fn all(&self) -> Vec<(Tuple, Entry)> {
        let of = |shard: &Shard| {
            let shard = shard.read();
            shard.iter().map(|(tuple, entry)| (*tuple, entry.clone())).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of).collect()
    }
}
