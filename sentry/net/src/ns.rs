//! A network namespace: what its sockets share.
//!
//! Locks: each table has its own leaf lock; none is held while a socket's state is locked.

use crate::iface::{IfaceAddr, Interface};
use crate::inet::route::LOOPBACK;
use crate::inet::upcalls::{Arm, Upcalls, World};
use crate::netlink::NetlinkSock;
use crate::socket::Family;
use crate::unix::UnixSock;
use chitin_abi::netdevice::IFF_UP;
use chitin_egress::Engine;
use chitin_netstack::config::LinkChange;
use chitin_netstack::{FrameIn, Link, Stack};
use chitin_vfs::{Cap, Creds, UserNs};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What the abstract names of AF_UNIX are looked up by: the socket type belongs to them.
pub(crate) type AbstractKey = (u32, Vec<u8>);

/// Is shown all frames that the stack sends and receives, with locks of it held: queue, and do not call it.
pub trait Tap: Send + Sync {
    fn show(&self, frame: &FrameIn<'_>);
}

const MAX_TAPS: usize = 8;

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
    /// Netlink sockets, for what is told to groups of them.
    pub(crate) netlink: Mutex<Vec<Weak<NetlinkSock>>>,
    pid_of: OnceLock<PidOf>,
    owner: OnceLock<Arc<UserNs>>,
    pub(crate) stack: Arc<Stack>,
    world: Arc<World>,
    egress: OnceLock<Arc<Engine>>,
    /// Who wants to see frames, beside packet sockets.
    taps: RwLock<Vec<Arc<dyn Tap>>>,
    /// Ports and connections of TCP/IP.
    pub(crate) inet: crate::inet::Tables,
}

/// A process's own number, by the id that callers are known by.
pub type PidOf = Box<dyn Fn(i32) -> i32 + Send + Sync>;

impl NetNs {
    /// Says which user namespace has power over it; once.
    pub fn set_owner(&self, owner: &Arc<UserNs>) {
        let first = self.owner.set(owner.clone()).is_ok();
        debug_assert!(first, "a namespace has one owner");
    }
    /// Whether credentials give this power over it.
    pub(crate) fn allows(&self, creds: &Creds, cap: Cap) -> bool {
        creds.capable_in(self.owner.get().unwrap_or(UserNs::initial()), cap)
    }
    /// Says how processes number themselves, for the ports of their netlink sockets; once.
    pub fn name_ports(&self, pid_of: PidOf) {
        let first = self.pid_of.set(pid_of).is_ok();
        debug_assert!(first, "the table of numbers is installed once");
    }
    /// The port that a process's first netlink socket gets.
    pub(crate) fn port_for(&self, tgid: i32) -> u32 {
        let pid = self.pid_of.get().map_or(tgid, |pid_of| pid_of(tgid));
        u32::try_from(pid).unwrap_or(0)
    }

    /// A namespace with nothing but `lo`. `lo_up`: as container runtimes leave it, rather than the bare kernel.
    pub fn new(lo_up: bool) -> Arc<NetNs> {
        let world = Arc::new(World::default());
        let stack = Stack::new(world.clone());
        if lo_up {
            let up = LinkChange { flags: (IFF_UP, IFF_UP), ..LinkChange::default() };
            let done = stack.config.link_change(LOOPBACK, &up);
            debug_assert!(done.is_ok(), "lo can be brought up");
        }
        NetNs::with(world, stack)
    }

    /// A further namespace beside the sandbox's first one, as the bare kernel makes it.
    pub fn further(first: &NetNs) -> Arc<NetNs> {
        let world = Arc::new(World::default());
        let stack = Stack::further(world.clone(), &first.stack);
        NetNs::with(world, stack)
    }

    fn with(world: Arc<World>, stack: Arc<Stack>) -> Arc<NetNs> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let ns = Arc::new(NetNs {
            cookie: NEXT.fetch_add(1, Ordering::Relaxed),
            abstracts: Mutex::default(),
            unix: Mutex::default(),
            autobind: AtomicU32::new(0),
            families: RwLock::default(),
            pid_of: OnceLock::new(),
            owner: OnceLock::new(),
            netlink_ports: Mutex::default(),
            netlink: Mutex::default(),
            stack: stack.clone(),
            world,
            egress: OnceLock::new(),
            taps: RwLock::default(),
            inet: crate::inet::Tables::new(),
        });
        stack.install(Arc::new(Upcalls(Arc::downgrade(&ns))));
        let weak = Arc::downgrade(&ns);
        stack.config.listen(move |change| {
            if let Some(ns) = weak.upgrade() {
                crate::netlink::tell(&ns, change);
            }
        });
        ns
    }

    /// The protocol engine: links, addresses, routes, settings.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// Lends the stack a timer: `arm` sets it to a monotonic time, and when it goes off, [`Stack::on_timer`] is called
    /// and the timer set to what that answers. Once.
    pub fn lend_timer(&self, arm: Arm) {
        let first = self.world.arm.set(arm).is_ok();
        debug_assert!(first, "the timer is lent once");
    }

    /// Has an egress policy apply to its sockets; once. (Its devices ask for themselves.)
    pub fn guard(&self, engine: Arc<Engine>) {
        let first = self.egress.set(engine).is_ok();
        debug_assert!(first, "the engine is installed once");
    }
    /// The engine, while there is a policy.
    pub(crate) fn egress(&self) -> Option<&Arc<Engine>> {
        self.egress.get().filter(|engine| engine.is_on())
    }

    /// Has frames shown. False: there are too many who want that.
    pub fn add_tap(&self, tap: Arc<dyn Tap>) -> bool {
        {
            let mut taps = self.taps.write();
            if taps.len() >= MAX_TAPS {
                return false;
            }
            taps.push(tap);
        }
        self.show_frames();
        true
    }
    pub fn remove_tap(&self, tap: &Arc<dyn Tap>) {
        self.taps.write().retain(|other| !Arc::ptr_eq(other, tap));
        self.show_frames();
    }
    pub(crate) fn show_taps(&self, frame: &FrameIn<'_>) {
        self.taps.read().iter().for_each(|tap| tap.show(frame));
    }
    /// Has the stack show frames while anybody wants to see them.
    pub(crate) fn show_frames(&self) {
        let socks = self.inet.packet.lock();
        self.stack.want_frames(!socks.is_empty() || !self.taps.read().is_empty());
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
        let addresses = self.stack.config.addresses();
        let of = |link: &Link| {
            let own = addresses.iter().filter(|addr| addr.link == link.index);
            own.map(|addr| IfaceAddr { addr: addr.addr, prefix: addr.prefix }).collect()
        };
        let show = |link: &Link| Interface {
            index: link.index,
            name: link.name.clone(),
            flags: link.flags,
            mtu: link.mtu,
            hw_type: link.hw_type,
            hw_addr: link.hw_addr,
            tx_queue_len: link.tx_queue_len,
            addrs: of(link),
        };
        self.stack.config.links().iter().map(show).collect()
    }
}
