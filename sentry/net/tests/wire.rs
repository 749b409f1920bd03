//! Two namespaces with a cable between them: sockets over the protocol engine.

#[path = "support/mod.rs"]
mod support;

use chitin_abi::Errno;
use chitin_abi::netdevice::*;
use chitin_mm::{SliceSource, VecSink};
use chitin_net::*;
use chitin_netstack::{Address, Device, DeviceInfo, Link, LinkKind, RxFrame, TxFrame};
use chitin_vfs::{Context, File};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;

const STREAM: u32 = 1;
const DGRAM: u32 = 2;

/// One direction of the cable.
struct Cable {
    mac: u8,
    frames: Mutex<Vec<Vec<u8>>>,
}

impl Device for Cable {
    fn info(&self) -> DeviceInfo {
        let hw_addr = [2, 0, 0, 0, 0, self.mac];
        DeviceInfo { mtu: 1500, hw_type: ARPHRD_ETHER, hw_addr, csum: false, tso: false, uso: false }
    }
    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize {
        let mut queue = self.frames.lock();
        for frame in frames {
            let mut raw = Vec::new();
            frame.copy_to(&mut raw);
            queue.push(raw);
        }
        frames.len()
    }
}

struct Host {
    ns: Arc<NetNs>,
    link: u32,
    out: Arc<Cable>,
}

impl Host {
    fn new(number: u8) -> Host {
        let ns = NetNs::new(true);
        let out = Arc::new(Cable { mac: number, frames: Mutex::default() });
        let config = &ns.stack().config;
        let link = Link {
            index: 0,
            name: "eth0".into(),
            kind: LinkKind::Veth,
            flags: IFF_BROADCAST | IFF_MULTICAST | IFF_UP | IFF_RUNNING | IFF_LOWER_UP,
            mtu: 1500,
            max_mtu: 1500,
            hw_type: ARPHRD_ETHER,
            hw_addr: [2, 0, 0, 0, 0, number],
            broadcast: [0xff; 6],
            ..Link::loopback()
        };
        let link = config.link_add(link).unwrap();
        ns.stack().add_device(link, out.clone()).unwrap();
        config.addr_add(Address::new(link, IpAddr::from([10, 0, 0, number]), 24), false).unwrap();
        Host { ns, link, out }
    }
}

struct World {
    hosts: [Host; 2],
    ctx: Context,
}

type Sock = Arc<File>;

fn v4(ip: [u8; 4], port: u16) -> SockAddr {
    let mut raw = vec![2, 0];
    raw.extend(port.to_be_bytes());
    raw.extend(ip);
    raw.extend([0; 8]);
    SockAddr::parse(&raw)
}

fn port_of(sock: &Sock) -> u16 {
    let SockAddr::Inet(addr) = of(sock).getsockname().unwrap() else { panic!("no address of IPv4") };
    u16::from_be_bytes(addr.sin_port)
}

fn of(sock: &Sock) -> &SocketFile {
    SocketFile::of(sock).unwrap()
}

fn send(sock: &Sock, data: &[u8]) -> Result<usize, Errno> {
    of(sock).sendmsg(&mut SendMsg::new(&mut SliceSource::new(data), 0))
}

fn recv(sock: &Sock, room: usize) -> Result<Vec<u8>, Errno> {
    let mut sink = VecSink { data: Vec::new(), limit: room };
    of(sock).recvmsg(&mut RecvMsg::new(&mut sink, 0x40))?;
    Ok(sink.data)
}

impl World {
    fn new() -> World {
        World { hosts: [Host::new(1), Host::new(2)], ctx: support::context() }
    }

    fn socket(&self, host: usize, kind: u32, protocol: i32) -> Sock {
        create(&self.hosts[host].ns, 2, kind | 0o4000, protocol, &self.ctx.caller).unwrap()
    }
    fn bound(&self, host: usize, kind: u32) -> (Sock, u16) {
        let sock = self.socket(host, kind, 0);
        of(&sock).bind(&self.ctx, &v4([0; 4], 0)).unwrap();
        let port = port_of(&sock);
        (sock, port)
    }
    fn connect(&self, sock: &Sock, to: SockAddr) -> Result<(), Errno> {
        of(sock).connect(&self.ctx, &to, &mut None)
    }

    /// Carries frames to and fro until there are none, and lets timers go off that are due.
    fn settle(&self) {
        for _ in 0..10_000 {
            let mut any = false;
            for (from, to) in [(0, 1), (1, 0)] {
                let frames = std::mem::take(&mut *self.hosts[from].out.frames.lock());
                any |= !frames.is_empty();
                let to = &self.hosts[to];
                let frames: Vec<_> = frames
                    .iter()
                    .map(|data| RxFrame { data, csum_ok: false, gso_size: 0, ..RxFrame::default() })
                    .collect();
                to.ns.stack().receive(to.link, &frames);
                let stack = to.ns.stack();
                stack.on_timer(stack.env().now());
            }
            if !any {
                return;
            }
        }
        panic!("the cable is never quiet");
    }

    /// A listener of host 1, a client of host 0 and the accepted socket.
    fn connected(&self) -> (Sock, Sock, Sock) {
        let (listener, port) = self.bound(1, STREAM);
        of(&listener).listen(5, &self.ctx.caller).unwrap();
        let client = self.socket(0, STREAM, 0);
        assert_eq!(self.connect(&client, v4([10, 0, 0, 2], port)), Err(Errno::EINPROGRESS));
        assert_eq!(self.connect(&client, v4([10, 0, 0, 2], port)), Err(Errno::EALREADY));
        assert_eq!(send(&client, b"x"), Err(Errno::EAGAIN));
        self.settle();
        assert_eq!(client.ops().poll(None) & 0x1f, 4);
        assert_eq!(self.connect(&client, v4([10, 0, 0, 2], port)), Ok(()));
        assert_eq!(self.connect(&client, v4([10, 0, 0, 2], port)), Err(Errno::EISCONN));
        assert_eq!(listener.ops().poll(None) & 1, 1);
        let server = of(&listener).accept(0o4000, &self.ctx.caller).unwrap();
        (listener, client, server)
    }
}

#[test]
fn streams() {
    let world = World::new();
    let (_listener, client, server) = world.connected();
    let SockAddr::Inet(peer) = of(&server).getpeername().unwrap() else { panic!("no peer") };
    assert_eq!((peer.sin_addr, u16::from_be_bytes(peer.sin_port)), ([10, 0, 0, 1], port_of(&client)));
    assert_eq!(recv(&server, 10), Err(Errno::EAGAIN));
    assert_eq!(send(&client, b"hello"), Ok(5));
    world.settle();
    assert_eq!(server.ops().poll(None) & 1, 1);
    assert_eq!(of(&server).ops().input_queued(), Ok(5));
    assert_eq!(recv(&server, 10).unwrap(), b"hello");
    // More than any buffer holds.
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..100_000 {
        if sent < data.len()
            && let Ok(count) = send(&client, &data[sent..])
        {
            sent += count;
        }
        world.settle();
        while let Ok(part) = recv(&server, 100_000) {
            got.extend(part);
        }
        if got.len() == data.len() {
            break;
        }
    }
    assert!(got == data, "{} of {} bytes came", got.len(), data.len());
    // Half closed, then wholly.
    of(&client).shutdown(1).unwrap();
    world.settle();
    assert_eq!(recv(&server, 10).unwrap(), b"");
    assert_eq!(server.ops().poll(None) & 0x2001, 0x2001);
    assert_eq!(send(&server, b"still"), Ok(5));
    world.settle();
    assert_eq!(recv(&client, 10).unwrap(), b"still");
    drop(server);
    world.settle();
    assert_eq!(recv(&client, 10).unwrap(), b"");
    assert_eq!(client.ops().poll(None) & 0x10, 0x10);
}

#[test]
fn resets_and_refusals() {
    let world = World::new();
    let client = world.socket(0, STREAM, 0);
    assert_eq!(world.connect(&client, v4([10, 0, 0, 2], 9)), Err(Errno::EINPROGRESS));
    world.settle();
    assert_eq!(client.ops().poll(None) & 0x18, 0x18);
    assert_eq!(world.connect(&client, v4([10, 0, 0, 2], 9)), Err(Errno::ECONNREFUSED));
    let (_listener, client, server) = world.connected();
    send(&client, b"unread").unwrap();
    world.settle();
    drop(server);
    world.settle();
    assert_eq!(recv(&client, 10), Err(Errno::ECONNRESET));
    assert_eq!(recv(&client, 10).unwrap(), b"");
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));
    // A namespace without a way.
    let far = world.socket(0, STREAM, 0);
    assert_eq!(world.connect(&far, v4([192, 0, 2, 1], 9)), Err(Errno::ENETUNREACH));
}

#[test]
fn sockets_do_not_stay() {
    let world = World::new();
    let (listener, client, server) = world.connected();
    let alive = [support::weak(&listener), support::weak(&client), support::weak(&server)];
    let ops = Arc::downgrade(of(&client).ops());
    drop((listener, client, server));
    world.settle();
    assert!(alive.iter().all(|file| file.upgrade().is_none()));
    assert!(ops.upgrade().is_none(), "the engine keeps the connection only");
}

#[test]
fn datagrams() {
    let world = World::new();
    let (server, port) = world.bound(1, DGRAM);
    let client = world.socket(0, DGRAM, 0);
    world.connect(&client, v4([10, 0, 0, 2], port)).unwrap();
    assert_eq!(send(&client, &[7; 5000]), Ok(5000));
    world.settle();
    assert_eq!(recv(&server, 9000).unwrap(), [7; 5000]);
    let mut source = SliceSource::new(b"back");
    let mut msg = SendMsg::new(&mut source, 0);
    msg.dest = Some(v4([10, 0, 0, 1], port_of(&client)));
    assert_eq!(of(&server).sendmsg(&mut msg), Ok(4));
    world.settle();
    assert_eq!(recv(&client, 10).unwrap(), b"back");
    // Nobody there: the other host says so.
    drop(server);
    assert_eq!(send(&client, b"x"), Ok(1));
    world.settle();
    assert_eq!(recv(&client, 10), Err(Errno::ECONNREFUSED));
}

#[test]
fn echoes() {
    let world = World::new();
    let raw = world.socket(0, 3, 1);
    let mut request = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum = !(0x0800u16 + 0x1234 + 1);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    world.connect(&raw, v4([10, 0, 0, 2], 0)).unwrap();
    assert_eq!(send(&raw, &request), Ok(8));
    world.settle();
    let reply = recv(&raw, 100).unwrap();
    assert_eq!((reply.len(), &reply[12..20]), (28, &[10, 0, 0, 2, 10, 0, 0, 1][..]));
    assert_eq!((reply[20], &reply[24..]), (0, &request[4..]));
}

#[test]
fn frames() {
    let world = World::new();
    // ETH_P_ALL, in network order.
    let all = create(&world.hosts[1].ns, 17, 3 | 0o4000, 0x0300, &world.ctx.caller).unwrap();
    let arp = create(&world.hosts[1].ns, 17, 2 | 0o4000, 0x0608, &world.ctx.caller).unwrap();
    let client = world.socket(0, DGRAM, 0);
    world.connect(&client, v4([10, 0, 0, 2], 9)).unwrap();
    send(&client, b"hello").unwrap();
    world.settle();
    // The question, the answer, the datagram, and the complaint.
    let seen: Vec<_> = std::iter::from_fn(|| recv(&all, 2000).ok()).collect();
    let kinds: Vec<u16> = seen.iter().map(|frame| u16::from_be_bytes([frame[12], frame[13]])).collect();
    assert_eq!(kinds, [0x0806, 0x0806, 0x0800, 0x0800]);
    assert!(seen[2].ends_with(b"hello"));
    // Only what came in, without its Ethernet header.
    let question = recv(&arp, 2000).unwrap();
    assert_eq!((question.len() >= 28, &question[..8]), (true, &[0, 1, 8, 0, 6, 4, 0, 1][..]));
    assert_eq!(recv(&arp, 2000), Err(Errno::EAGAIN));
    // A frame of one's own.
    let own = create(&world.hosts[0].ns, 17, 3 | 0o4000, 0x0300, &world.ctx.caller).unwrap();
    let mut name = vec![17, 0, 3, 0];
    name.extend(world.hosts[0].link.to_ne_bytes());
    name.extend([0; 12]);
    of(&own).bind(&world.ctx, &SockAddr::parse(&name)).unwrap();
    let frame = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5][..], b"experiment"].concat();
    assert_eq!(send(&own, &frame), Ok(frame.len()));
    world.settle();
    assert_eq!(recv(&all, 2000).unwrap(), frame);
}
