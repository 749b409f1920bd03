//! The stack: what its parts share, and the ways in.

use crate::config::{Change, Config, LO};
use crate::device::{Device, RxFrame, TxFrame};
use crate::env::{Alarm, AlarmKey, Env, Nanos};
use crate::ip::{Groups, Limiter, Pmtu, Reassembly};
use crate::link::{Backlog, Dummy, LINK_LEN, Loopback, Neighbours, Port, Proxies};
use crate::sockets::{Cast, FrameKind, Sockets};
use crate::sysctl::Sysctls;
use crate::tcp::{Tcp, TcpConn};
use crate::timer::{Due, Timers};
use crate::wire::{Eth, header};
use chitin_abi::Errno;
use chitin_abi::netdevice::*;
use chitin_abi::num::low32;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, hash_map::RandomState};
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The protocols of one network namespace.
pub struct Stack {
    pub config: Config,
    pub sysctls: Sysctls,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) this: Weak<Stack>,
    pub(crate) timers: Timers,
    pub(crate) reassembly: Reassembly,
    pub(crate) groups: Groups,
    pub(crate) proxies: Proxies,
    pub(crate) pmtu: Pmtu,
    pub(crate) limiter: Limiter,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) tcp: Tcp,
    /// Numbers of IP packets.
    pub(crate) ids: AtomicU32,
    ports: RwLock<HashMap<u32, Arc<Port>>>,
    hasher: RandomState,
    /// Connections that have something to send, but nothing that cannot wait for whoever receives next.
    late: Mutex<Vec<Arc<TcpConn>>>,
    sockets: OnceLock<Arc<dyn Sockets>>,
    want_raw: AtomicBool,
    want_frames: AtomicBool,
}

/// Frames being taken in, and what waits until all of them have been.
pub(crate) struct Batch {
    pub now: Nanos,
    /// The last destination looked up, and what it is here.
    pub last: Option<(IpAddr, u8)>,
    /// IPv6: where the number of the protocol stands.
    pub next_header: usize,
    /// Connections that have something to send or to tell.
    pub touched: Vec<Arc<TcpConn>>,
}

impl Stack {
    /// A stack with nothing but `lo`, which is down.
    pub fn new(env: Arc<dyn Env>) -> Arc<Stack> {
        Stack::make(env, None)
    }

    /// The stack of a further namespace, whose settings begin as those of `first` allow.
    pub fn further(env: Arc<dyn Env>, first: &Stack) -> Arc<Stack> {
        Stack::make(env, Some(first))
    }

    fn make(env: Arc<dyn Env>, first: Option<&Stack>) -> Arc<Stack> {
        let backlog = Arc::<Backlog>::default();
        let ids = AtomicU32::new(low32(env.random()));
        let tcp = Tcp::new(&*env);
        let stack = Arc::new_cyclic(|own: &Weak<Stack>| {
            let config = Config::new(first.map(|first| &first.config));
            let this = own.clone();
            // What the data path must know of links follows their configuration.
            config.listen(move |change| {
                if let (Change::Link(link, there), Some(stack)) = (change, this.upgrade()) {
                    stack.follow(link, *there);
                }
            });
            Stack {
                config,
                sysctls: first.map(|first| first.sysctls.further()).unwrap_or_default(),
                env,
                this: own.clone(),
                timers: Timers::default(),
                reassembly: Reassembly::default(),
                groups: Groups::default(),
                proxies: Proxies::default(),
                pmtu: Pmtu::default(),
                limiter: Limiter::default(),
                backlog: backlog.clone(),
                tcp,
                ids,
                ports: RwLock::default(),
                hasher: RandomState::new(),
                late: Mutex::default(),
                sockets: OnceLock::new(),
                want_raw: AtomicBool::new(false),
                want_frames: AtomicBool::new(false),
            }
        });
        let lo = stack.add_device(LO, Arc::new(Loopback(backlog)));
        debug_assert!(lo.is_ok(), "lo is configured");
        stack
    }

    pub fn env(&self) -> &Arc<dyn Env> {
        &self.env
    }
    pub fn now(&self) -> Nanos {
        self.env.now()
    }
    /// A number that nobody outside can foresee.
    pub(crate) fn hash(&self, what: &impl Hash) -> u64 {
        self.hasher.hash_one(what)
    }

    /// Installs the sockets layer; once.
    pub fn install(&self, sockets: Arc<dyn Sockets>) {
        let first = self.sockets.set(sockets).is_ok();
        debug_assert!(first, "the sockets layer is installed once");
    }
    pub(crate) fn sockets(&self) -> Option<&Arc<dyn Sockets>> {
        self.sockets.get()
    }

    /// Whether raw sockets exist, so that packets are shown to [`Sockets::raw`].
    pub fn want_raw(&self, wanted: bool) {
        self.want_raw.store(wanted, Ordering::Release);
    }
    pub(crate) fn raw_wanted(&self) -> bool {
        self.want_raw.load(Ordering::Relaxed)
    }
    /// Whether AF_PACKET sockets exist, so that frames are shown to [`Sockets::packet`].
    pub fn want_frames(&self, wanted: bool) {
        self.want_frames.store(wanted, Ordering::Release);
    }
    pub(crate) fn frames_wanted(&self) -> bool {
        self.want_frames.load(Ordering::Relaxed)
    }

    pub(crate) fn port(&self, link: u32) -> Option<Arc<Port>> {
        self.ports.read().get(&link).cloned()
    }
    pub(crate) fn all_ports(&self) -> Vec<Arc<Port>> {
        self.ports.read().values().cloned().collect()
    }

    /// Gives a configured link its device, or another one.
    pub fn add_device(&self, link: u32, device: Arc<dyn Device>) -> Result<(), Errno> {
        let link = self.config.link(link).ok_or(Errno::ENODEV)?;
        let info = device.info();
        let port = Port {
            index: link.index,
            device,
            info,
            stats: link.stats.clone(),
            conf: link.conf.clone(),
            up: AtomicBool::new(link.is_up()),
            mtu: AtomicU32::new(link.mtu),
            noarp: AtomicBool::new(link.flags & IFF_NOARP != 0),
            neighbours: Neighbours::default(),
        };
        self.ports.write().insert(link.index, Arc::new(port));
        self.config.touch();
        Ok(())
    }

    fn follow(&self, link: &crate::config::Link, there: bool) {
        let known = || self.port(link.index).is_some_and(|port| port.info.hw_addr == link.hw_addr);
        if !there || !link.is_up() {
            self.proxies.gone(link.index);
        }
        if !there {
            self.ports.write().remove(&link.index);
        } else if link.is_own() && link.index != LO && !known() {
            // One that is gone already needs none.
            let _ = self.add_device(link.index, Arc::new(Dummy(link.hw_addr)));
        } else if let Some(port) = self.port(link.index) {
            port.up.store(link.is_up(), Ordering::Relaxed);
            port.mtu.store(link.mtu, Ordering::Relaxed);
            port.noarp.store(link.flags & IFF_NOARP != 0, Ordering::Relaxed);
        }
    }

    /// Frames that have arrived on a link, in order; perhaps none ([`Device::comes`]).
    pub fn receive(&self, link: u32, frames: &[RxFrame<'_>]) {
        let mut batch = self.batch();
        if let Some(port) = self.port(link).filter(|port| port.is_up()) {
            frames.iter().for_each(|frame| self.frame_input(&mut batch, &port, frame));
        }
        batch.touched.append(&mut self.late.lock());
        self.finish(batch);
        self.drain();
    }

    /// `conn`, which is marked as touched, sends when somebody receives: at once, if nobody is there to.
    pub(crate) fn send_late(&self, conn: Arc<TcpConn>, device: &dyn Device) {
        self.late.lock().push(conn);
        if !device.comes() {
            let mut batch = self.batch();
            batch.touched.append(&mut self.late.lock());
            self.finish(batch);
            self.drain();
        }
    }

    pub(crate) fn batch(&self) -> Batch {
        Batch { now: self.now(), last: None, next_header: 6, touched: Vec::new() }
    }

    /// Takes in what waits to come back to this host.
    pub(crate) fn drain(&self) {
        self.backlog.drain(|link, packet| {
            let Some(port) = self.port(link).filter(|port| port.is_up()) else { return };
            let mut batch = self.batch();
            let frame = RxFrame { data: packet, csum_ok: true, ..RxFrame::default() };
            if link == LO {
                self.show(&port, packet, (0, 0), FrameKind::Host, batch.now);
            }
            if packet.first().is_some_and(|first| first >> 4 == 4) {
                self.ipv4_input(&mut batch, &port, &frame, Cast::Unicast);
            } else {
                self.ipv6_input(&mut batch, &port, &frame, Cast::Unicast);
            }
            self.finish(batch);
        });
    }

    /// Does what is due. Answers when there is more, if at all.
    pub fn on_timer(&self, now: Nanos) -> Option<Nanos> {
        let mut due = Vec::new();
        let mut alarms = Vec::new();
        let mut batch = self.batch();
        loop {
            self.timers.pop(now, &mut due);
            if due.is_empty() {
                break;
            }
            for (key, what) in due.drain(..) {
                match what {
                    Due::Conn(conn) => {
                        if let Some(conn) = conn.upgrade() {
                            conn.on_timer(self, &mut batch, key);
                        }
                    }
                    Due::Request(tuple) => self.request_due(&tuple, key, now),
                    Due::TimeWait => self.time_wait_due(now),
                    Due::Neighbour(link, addr) => self.neighbour_due(link, addr, key),
                    Due::Fragments => self.fragments_due(now),
                    Due::Groups(link) => self.groups_due(link, now),
                    Due::Alarm(who) => alarms.extend(who.upgrade()),
                }
            }
        }
        self.finish(batch);
        self.drain();
        for alarm in alarms {
            alarm.ring(now);
        }
        self.timers.next()
    }

    /// Has `who` called at `at`. Who no longer wants to be says so ([`Stack::call_off`]): entries do not go by themselves.
    pub fn call_at(&self, at: Nanos, who: Weak<dyn Alarm>) -> AlarmKey {
        self.timers.arm(&*self.env, at, Due::Alarm(who))
    }
    pub fn call_off(&self, key: AlarmKey) {
        self.timers.cancel(key);
    }

    /// Sends a frame as it is (AF_PACKET with SOCK_RAW). ENETDOWN if the link is down, EMSGSIZE if it is too long.
    pub fn frame_send(&self, link: u32, frame: &[u8]) -> Result<(), Errno> {
        let port = self.port(link).ok_or(Errno::ENXIO)?;
        if !port.is_up() {
            return Err(Errno::ENETDOWN);
        }
        // On `lo` there is a header as well, which means nothing.
        let frame = if link == LO { frame.get(LINK_LEN..).ok_or(Errno::EINVAL)? } else { frame };
        let (proto, head) = match header::<Eth>(frame) {
            Some((eth, _)) if port.is_ether() => (eth.proto.get(), LINK_LEN),
            _ if port.is_ether() => return Err(Errno::EINVAL),
            _ if frame.first().is_some_and(|first| first >> 4 == 6) => (ETH_P_IPV6, 0),
            _ => (ETH_P_IP, 0),
        };
        if frame.len() > port.mtu() + head {
            return Err(Errno::EMSGSIZE);
        }
        let (head, body) = frame.split_at_checked(head).ok_or(Errno::EINVAL)?;
        let shift = head.len();
        let frame = TxFrame { head, body: [body, &[]], csum: None, gso: None };
        let taken = self.emit_frames(&port, proto, shift, &[frame]);
        self.drain();
        if taken == 0 { Err(Errno::ENOBUFS) } else { Ok(()) }
    }

    /// Sends a packet to a hardware address (AF_PACKET with SOCK_DGRAM).
    pub fn frame_send_to(&self, link: u32, dst: [u8; 6], proto: u16, packet: &[u8]) -> Result<(), Errno> {
        let port = self.port(link).ok_or(Errno::ENXIO)?;
        let mut frame = Vec::with_capacity(LINK_LEN + packet.len());
        if port.is_ether() || link == LO {
            frame.extend_from_slice(&dst);
            frame.extend_from_slice(&port.info.hw_addr);
            frame.extend_from_slice(&proto.to_be_bytes());
        }
        frame.extend_from_slice(packet);
        self.frame_send(link, &frame)
    }
}
