//! A network namespace: what its sockets share.
//!
//! Locks: each table has its own leaf lock; none is held while a socket's state is locked.

use crate::iface::Interface;
use crate::socket::Family;
use crate::unix::UnixSock;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What the abstract names of AF_UNIX are looked up by: the socket type belongs to them.
pub(crate) type AbstractKey = (u32, Vec<u8>);

/// A network namespace.
pub struct NetNs {
    cookie: u64,
    pub(crate) abstracts: Mutex<HashMap<AbstractKey, Weak<UnixSock>>>,
    /// All its AF_UNIX sockets in the order they were made (/proc/net/unix).
    pub(crate) unix: Mutex<BTreeMap<u64, Weak<UnixSock>>>,
    /// Where the next automatic abstract name is tried.
    pub(crate) autobind: AtomicU32,
    /// Families beyond those of this crate's own, by AF_*.
    pub(crate) families: RwLock<HashMap<u32, Arc<dyn Family>>>,
    /// Ports of netlink sockets, by protocol.
    pub(crate) netlink_ports: Mutex<HashSet<(u32, u32)>>,
    interfaces: RwLock<Vec<Interface>>,
    /// net.unix.max_dgram_qlen.
    pub max_dgram_qlen: AtomicU32,
    /// net.core.somaxconn.
    pub somaxconn: AtomicU32,
}

impl NetNs {
    /// A namespace with nothing but `lo`. `lo_up`: as container runtimes leave it, rather than the bare kernel.
    pub fn new(lo_up: bool) -> Arc<NetNs> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(NetNs {
            cookie: NEXT.fetch_add(1, Ordering::Relaxed),
            abstracts: Mutex::default(),
            unix: Mutex::default(),
            autobind: AtomicU32::new(0),
            families: RwLock::default(),
            netlink_ports: Mutex::default(),
            interfaces: RwLock::new(vec![Interface::loopback(lo_up)]),
            max_dgram_qlen: AtomicU32::new(10),
            somaxconn: AtomicU32::new(chitin_abi::socket::SOMAXCONN),
        })
    }

    /// SO_NETNS_COOKIE.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Gives a family its sockets; the TCP/IP stack comes in here.
    pub fn add_family(&self, family: u32, ops: Arc<dyn Family>) {
        self.families.write().insert(family, ops);
    }

    /// A snapshot of the interfaces, by index.
    pub fn interfaces(&self) -> Vec<Interface> {
        self.interfaces.read().clone()
    }

    /// Replaces what is known of the interfaces.
    pub fn set_interfaces(&self, interfaces: Vec<Interface>) {
        *self.interfaces.write() = interfaces;
    }
}
