//! Two stacks on one wire, in virtual time: frames get lost, doubled, delayed and reordered as a seed has it.

use crate::device::{Device, DeviceInfo, RxFrame, TxFrame};
use crate::*;
use chitin_abi::netdevice::*;
pub use chitin_fuzz::Rng;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Time that stands until it is moved.
pub struct TestEnv {
    pub time: Arc<AtomicU64>,
    rng: Mutex<Rng>,
}

impl Env for TestEnv {
    fn now(&self) -> u64 {
        self.time.load(Ordering::Relaxed)
    }
    fn random(&self) -> u64 {
        let mut rng = self.rng.lock();
        rng.number() << 32 ^ rng.number()
    }
    fn arm(&self, _at: u64) {}
}

/// What a wire does to frames.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Percent.
    pub loss: f64,
    pub double: f64,
    pub reorder: f64,
    /// Of IPv4's and IPv6's packets that can be marked (ECN).
    pub marks: f64,
    /// Nanoseconds, one way; and how much it may vary (without reordering by itself).
    pub delay: u64,
    /// Bits per second; 0: no limit. Frames that would wait longer than `queue` are dropped.
    pub rate: u64,
    pub queue: u64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            loss: 0.0,
            double: 0.0,
            reorder: 0.0,
            marks: 0.0,
            delay: 100_000,
            rate: 0,
            queue: 50_000_000,
        }
    }
}

type InFlight = Reverse<(u64, u64, bool, Vec<u8>, u16)>;

/// Frames under way in both directions.
pub struct Wire {
    time: Arc<AtomicU64>,
    rng: Mutex<Rng>,
    pub faults: Mutex<Faults>,
    flying: Mutex<BinaryHeap<InFlight>>,
    serial: AtomicU64,
    free: [AtomicU64; 2],
    pub sent: AtomicU64,
    pub bytes: AtomicU64,
    pub lost: AtomicU64,
    /// Whoever receives comes also without a frame.
    pub comes: AtomicBool,
    /// Called with each frame, if set; not for frames that it causes.
    pub aside: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// Keeps what goes by, if set.
    pub record: Mutex<Option<Vec<Vec<u8>>>>,
    /// Keeps what B sends, if set.
    pub tap: Mutex<Option<Vec<Tapped>>>,
}

/// A frame as it was given to the device.
#[derive(Clone, Debug)]
pub struct Tapped {
    pub data: Vec<u8>,
    pub csum: Option<crate::device::Csum>,
    pub gso: Option<crate::device::Gso>,
}

impl Wire {
    fn fly(&self, to_b: bool, frame: &TxFrame<'_>) {
        if let Some(aside) = self.aside.try_lock().as_mut().and_then(|aside| aside.as_mut()) {
            aside();
        }
        let now = self.time.load(Ordering::Relaxed);
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        let mut data = Vec::new();
        frame.copy_to(&mut data);
        if let Some(record) = self.record.lock().as_mut() {
            record.push(data.clone());
        }
        if let Some(tap) = self.tap.lock().as_mut().filter(|_| !to_b) {
            tap.push(Tapped { data: data.clone(), csum: frame.csum, gso: frame.gso });
        }
        let faults = self.faults.lock().clone();
        let mut rng = self.rng.lock();
        if rng.chance(faults.loss) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if faults.marks > 0.0 && rng.chance(faults.marks) {
            mark(&mut data);
        }
        let mut at = now + faults.delay;
        if faults.rate > 0 {
            let free = &self.free[usize::from(to_b)];
            let start = free.load(Ordering::Relaxed).max(now);
            if start - now > faults.queue {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let nanos_per_byte = 8e9 / faults.rate as f64;
            let end = start + (data.len() as f64 * nanos_per_byte) as u64;
            free.store(end, Ordering::Relaxed);
            at = end + faults.delay;
        }
        if rng.chance(faults.reorder) {
            at += rng.below(faults.delay * 2 + 1000);
        }
        let gso = frame.gso.map_or(0, |gso| gso.size);
        let copies = if rng.chance(faults.double) { 2 } else { 1 };
        for _ in 0..copies {
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            self.flying.lock().push(Reverse((at, serial, to_b, data.clone(), gso)));
        }
    }
}

/// A link that is up.
pub fn veth(index: u32, name: &str, mtu: u32, hw_addr: [u8; 6]) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: LinkKind::Veth,
        flags: IFF_BROADCAST | IFF_MULTICAST | IFF_UP | IFF_RUNNING | IFF_LOWER_UP,
        mtu,
        hw_type: ARPHRD_ETHER,
        hw_addr,
        ..Link::loopback()
    }
}

/// Congestion experienced: as a router marks what can be marked.
fn mark(frame: &mut [u8]) {
    match frame[14] >> 4 {
        4 if frame[15] & 3 != 0 => {
            frame[15] |= 3;
            frame[24..26].fill(0);
            let sum = crate::wire::Sum::default().put(&frame[14..34]).finish();
            frame[24..26].copy_from_slice(&sum.to_bytes());
        }
        6 if frame[15] & 0x30 != 0 => frame[15] |= 0x30,
        _ => {}
    }
}

struct End {
    wire: Arc<Wire>,
    to_b: bool,
    info: DeviceInfo,
}

impl Device for End {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }
    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize {
        for frame in frames {
            assert!(frame.gso.is_some() || frame.len() <= self.info.mtu as usize + 14, "longer than the MTU");
            assert!(self.info.tso || frame.gso.is_none(), "not asked for");
            assert!(self.info.csum || frame.csum.is_none(), "not asked for");
            self.wire.fly(self.to_b, frame);
        }
        frames.len()
    }
    fn comes(&self) -> bool {
        self.wire.comes.load(Ordering::Relaxed)
    }
}

impl Stack {
    /// Bytes that others can make it hold, about.
    pub fn held(&self) -> usize {
        let conns = self.tcp_list().into_iter().filter_map(|entry| entry.conn);
        let tcp = conns.map(|conn| conn.held()).sum::<usize>() + self.tcp_memory();
        let neighbours = self.all_ports().iter().map(|port| port.neighbours.held()).sum::<usize>();
        tcp + neighbours + self.reassembly.held() + self.backlog.held() + self.timers.len() * 128
    }
    /// Handshakes, connections in TIME_WAIT, orphans.
    pub fn tcp_leftovers(&self) -> (u32, usize, usize) {
        let handshakes = self.tcp.requests.lock().values().sum();
        (handshakes, self.tcp.waiting.lock().len(), self.tcp.orphans.load(Ordering::Relaxed))
    }
}

/// Two stacks, 10.0.0.1 and fd00::1 here, 10.0.0.2 and fd00::2 there.
pub struct World {
    pub a: Arc<Stack>,
    pub b: Arc<Stack>,
    pub wire: Arc<Wire>,
    pub time: Arc<AtomicU64>,
}

/// The link to the other one.
pub const ETH0: u32 = 2;

impl World {
    pub fn new(seed: u64, faults: Faults) -> World {
        World::with(seed, faults, false, 1500)
    }

    pub fn with(seed: u64, faults: Faults, offload: bool, mtu: u32) -> World {
        let time = Arc::new(AtomicU64::new(1_000_000_000));
        let wire = Arc::new(Wire {
            time: time.clone(),
            rng: Mutex::new(Rng::new(seed)),
            faults: Mutex::new(faults),
            flying: Mutex::default(),
            serial: AtomicU64::new(0),
            free: Default::default(),
            sent: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            comes: AtomicBool::new(false),
            aside: Mutex::new(None),
            record: Mutex::new(None),
            tap: Mutex::new(None),
        });
        let stack = |n: u8| {
            let env = TestEnv { time: time.clone(), rng: Mutex::new(Rng::new(seed + u64::from(n) * 77)) };
            let stack = Stack::new(Arc::new(env));
            let up = config::LinkChange { flags: (IFF_UP, IFF_UP), ..Default::default() };
            stack.config.link_change(config::LO, &up).unwrap();
            let hw_addr = [2, 0, 0, 0, 0, n];
            let link = Link { broadcast: [0xff; 6], ..veth(ETH0, "eth0", mtu, hw_addr) };
            stack.config.link_add(link).unwrap();
            let info =
                DeviceInfo { mtu, hw_type: ARPHRD_ETHER, hw_addr, csum: offload, tso: offload, uso: offload };
            let end = End { wire: wire.clone(), to_b: n == 1, info };
            stack.add_device(ETH0, Arc::new(end)).unwrap();
            for (addr, prefix) in
                [(format!("10.0.0.{n}"), 24), (format!("fd00::{n}"), 64), (format!("fe80::{n}"), 64)]
            {
                stack.config.addr_add(Address::new(ETH0, ip(&addr), prefix), false).unwrap();
            }
            stack
        };
        World { a: stack(1), b: stack(2), wire, time }
    }

    pub fn now(&self) -> u64 {
        self.time.load(Ordering::Relaxed)
    }

    /// The next thing that happens, unless it is later than `until`. False: nothing.
    pub fn step(&self, until: u64) -> bool {
        let flying = self.wire.flying.lock().peek().map(|Reverse((at, ..))| *at);
        let next = [flying, self.a.timers.next(), self.b.timers.next()].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until) else { return false };
        let now = next.max(self.now());
        self.time.store(now, Ordering::Relaxed);
        loop {
            let mut flying = self.wire.flying.lock();
            if flying.peek().is_none_or(|Reverse((at, ..))| *at > now) {
                break;
            }
            let Reverse((_, _, to_b, data, gso_size)) = flying.pop().unwrap();
            drop(flying);
            let end = if to_b { &self.b } else { &self.a };
            // With offloads, checksums may be partial, as on a veth.
            let csum_ok = end.port(ETH0).is_some_and(|port| port.info.csum);
            end.receive(ETH0, &[RxFrame { data: &data, csum_ok, gso_size, ..RxFrame::default() }]);
        }
        self.a.on_timer(now);
        self.b.on_timer(now);
        true
    }

    /// Lets things happen until it is true; fails after so much virtual time.
    pub fn run(&self, seconds: f64, mut done: impl FnMut() -> bool) {
        let until = self.now() + (seconds * 1e9) as u64;
        while !done() {
            assert!(self.step(until), "nothing more happens, or not in time ({seconds} s)");
        }
    }

    /// Lets time go by.
    pub fn idle(&self, seconds: f64) {
        let until = self.now() + (seconds * 1e9) as u64;
        while self.step(until) {}
        self.time.store(until, Ordering::Relaxed);
    }
}

/// What a sockets layer was told.
#[derive(Default)]
pub struct Told {
    pub udp: Mutex<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
    pub raw: Mutex<Vec<(IpAddr, u8, Vec<u8>)>>,
    pub errors: Mutex<Vec<(SocketAddr, SocketAddr, chitin_abi::Errno, u32)>>,
    pub frames: Mutex<Vec<(u16, usize)>>,
    /// UDP ports that somebody listens on.
    pub udp_ports: Mutex<Vec<u16>>,
    pub listener: Mutex<Option<Arc<dyn TcpListener>>>,
}

impl Sockets for Told {
    fn tcp_listener(&self, _: u32, local: SocketAddr, _: SocketAddr) -> Option<Arc<dyn TcpListener>> {
        self.listener.lock().clone().filter(|_| local.port() == 80)
    }
    fn udp(&self, d: &Datagram<'_>) -> bool {
        let open = self.udp_ports.lock().contains(&d.dst.port());
        if open {
            self.udp.lock().push((d.src, d.dst, d.payload.to_vec()));
        }
        open
    }
    fn raw(&self, p: &IpPacket<'_>) -> bool {
        self.raw.lock().push((p.src, p.proto, p.payload.to_vec()));
        p.proto == 200
    }
    fn icmp_error(&self, e: &IcmpError<'_>) {
        self.errors.lock().push((e.src, e.dst, e.errno, e.info));
    }
    fn packet(&self, f: &FrameIn<'_>) {
        self.frames.lock().push((f.protocol, f.pieces.iter().map(|p| p.len()).sum()));
    }
}

/// Gives a stack sockets that only listen.
pub fn told(stack: &Stack, udp_ports: &[u16]) -> Arc<Told> {
    let told = Arc::new(Told::default());
    *told.udp_ports.lock() = udp_ports.to_vec();
    stack.install(told.clone());
    told
}

/// Counts what a connection tells.
#[derive(Default)]
pub struct Ears(pub AtomicU64);

impl TcpEvents for Ears {
    fn notify(&self, events: u32) {
        self.0.fetch_or(u64::from(events), Ordering::Relaxed);
    }
}

/// A listening socket.
pub struct Listener {
    pub options: Mutex<TcpOptions>,
    pub backlog: u32,
    pub room: std::sync::atomic::AtomicBool,
    pub accepted: Mutex<Vec<Arc<TcpConn>>>,
}

impl TcpListener for Listener {
    fn options(&self) -> TcpOptions {
        self.options.lock().clone()
    }
    fn room(&self) -> bool {
        self.room.load(Ordering::Relaxed)
    }
    fn backlog(&self) -> u32 {
        self.backlog
    }
    fn established(&self, conn: Arc<TcpConn>) -> bool {
        conn.set_events(Arc::new(Ears::default()));
        self.accepted.lock().push(conn);
        true
    }
}

/// Has port 80 of a stack listened on.
pub fn listen(told: &Told, backlog: u32) -> Arc<Listener> {
    let listener = Arc::new(Listener {
        options: Mutex::default(),
        backlog,
        room: true.into(),
        accepted: Mutex::default(),
    });
    *told.listener.lock() = Some(listener.clone());
    listener
}

/// Two stacks with sockets, B listening.
pub struct Pair {
    pub world: World,
    pub listener: Arc<Listener>,
    next_port: AtomicU64,
}

impl Pair {
    pub fn new(world: World) -> Pair {
        told(&world.a, &[]);
        let listener = listen(&told(&world.b, &[]), 128);
        Pair { world, listener, next_port: AtomicU64::new(10_000) }
    }

    pub fn dial(&self, v6: bool, options: TcpOptions) -> Arc<TcpConn> {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed) as u16;
        let (local, remote) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let local = SocketAddr::new(ip(local), port);
        let remote = SocketAddr::new(ip(remote), 80);
        self.world.a.tcp_connect(local, remote, options, Arc::new(Ears::default())).unwrap()
    }

    /// Both ends of a connection: A's, B's.
    pub fn connect(&self, v6: bool, options: TcpOptions) -> (Arc<TcpConn>, Arc<TcpConn>) {
        let conn = self.dial(v6, options);
        self.world.run(60.0, || conn.state() == 1 && !self.listener.accepted.lock().is_empty());
        let mut accepted = self.listener.accepted.lock();
        let at = accepted.iter().position(|c| c.remote() == conn.local()).expect("accepted");
        (conn, accepted.remove(at))
    }
}

/// The byte at a place of a stream.
pub fn pattern(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// One direction of a transfer.
pub struct Flow {
    pub from: Arc<TcpConn>,
    pub to: Arc<TcpConn>,
    pub total: usize,
    pub sent: usize,
    pub got: usize,
    pub closed: bool,
}

impl Flow {
    pub fn new(from: &Arc<TcpConn>, to: &Arc<TcpConn>, total: usize) -> Flow {
        Flow { from: from.clone(), to: to.clone(), total, sent: 0, got: 0, closed: false }
    }
    /// Moves what can be moved; true at the end.
    pub fn turn(&mut self) -> bool {
        while self.sent < self.total {
            let (mut at, total) = (self.sent, self.total);
            let sent = self.from.send_with(total - at, SendFlags::default(), &mut |room| {
                room.iter_mut().enumerate().for_each(|(n, b)| *b = pattern(at + n));
                at += room.len();
                Ok(room.len())
            });
            match sent {
                Ok(n) => self.sent += n,
                Err(chitin_abi::Errno::EAGAIN) => break,
                Err(error) => panic!("send: {error}"),
            }
        }
        if self.sent == self.total && !self.closed {
            self.closed = true;
            self.from.shutdown(chitin_abi::socket::SHUT_WR).unwrap();
        }
        loop {
            let mut at = self.got;
            let got = self.to.recv_with(usize::MAX, None, &mut |piece| {
                for (n, b) in piece.iter().enumerate() {
                    assert_eq!(*b, pattern(at + n), "byte {}", at + n);
                }
                at += piece.len();
                Ok(piece.len())
            });
            match got {
                Ok(0) => {
                    assert_eq!(self.got, self.total, "the end came early");
                    return true;
                }
                Ok(n) => self.got += n,
                Err(chitin_abi::Errno::EAGAIN) => return false,
                Err(error) => panic!("recv: {error} after {}", self.got),
            }
        }
    }
}
