//! A hostile host on the link, which knows the protocols: it makes connections, and sends segments, fragments and messages
//! that are right but for one thing or another, with checksums that hold. Beside it a well-meaning host transfers data.
//!
//! Whatever comes: nothing panics or goes on for ever, what the stack holds is bounded and goes away, what it sends is well
//! formed and goes where it may, and the transfer arrives unharmed.

mod steps;
mod wire;

use self::wire::*;
use crate::config::Proxy;
use crate::testing::*;
use crate::wire::*;
use crate::*;
use chitin_abi::netdevice::*;
use chitin_abi::rtnetlink::NUD_PERMANENT;
use chitin_fuzz::{Bytes, Fuzz, Seen, Step};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zerocopy::IntoBytes;

const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];
const EVIL: [u8; 6] = [2, 0x66, 0, 0, 0, 1];
/// Of the transfer, which is left alone.
const OWN_PORT: u16 = 20_001;
const OWN_BYTES: usize = 150_000;
/// TCP's buffers; the others are bounded apart.
const TCP_MEMORY: usize = 8 << 20;
const HELD: usize = TCP_MEMORY + (12 << 20);
/// Events in one go.
const EVENTS: usize = 200_000;
const KINDS: u8 = 16;

/// A connection as the hostile side sees it.
#[derive(Clone, Debug, Default)]
struct Session {
    v6: bool,
    here: u16,
    there: u16,
    seq: u32,
    ack: u32,
    /// The first that the other side has not been told to have arrived.
    una: u32,
    ts: bool,
    ts_echo: u32,
}

struct Attack<'s> {
    world: World,
    forwards: bool,
    told: Arc<Told>,
    listener: Arc<Listener>,
    flow: Flow,
    done: bool,
    sessions: [Session; 4],
    conns: Vec<Arc<TcpConn>>,
    /// What was sent last to the hostile side, and by it.
    heard: Vec<Vec<u8>>,
    said: Vec<Vec<u8>>,
    kind: u8,
    seen: &'s mut Seen,
}

impl<'s> Attack<'s> {
    fn new(how: u8, seen: &'s mut Seen) -> Attack<'s> {
        let world = World::with(7, Faults::default(), how & 1 != 0, 1500);
        told(&world.a, &[]);
        let told = told(&world.b, &[9]);
        let listener = listen(&told, 8);
        world.b.want_raw(how & 2 != 0);
        world.b.want_frames(how & 4 != 0);
        world.b.tcp_memory_limit(TCP_MEMORY);
        let forwards = how & 32 != 0;
        if forwards {
            world.b.tune("ipv4/ip_forward", &[1]).unwrap();
            world.b.tune("ipv6/conf/all/forwarding", &[1]).unwrap();
            world.b.tune("ipv6/conf/all/proxy_ndp", &[1]).unwrap();
            // Of those that are asked for (`ndp`).
            for addr in ["fd00::107", "fd00::10f", "fd00::117"].map(ip) {
                world.b.proxy_set(Proxy { link: ETH0, addr, flags: how, protocol: 0 }).unwrap();
            }
        }
        let know = |stack: &Stack, addr: IpAddr, mac: [u8; 6]| {
            let neighbour = Neighbour {
                link: ETH0,
                addr,
                hw_addr: Some(mac),
                state: NUD_PERMANENT,
                flags: 0,
                confirmed: 0,
                used: 0,
                updated: 0,
            };
            stack.neighbour_set(&neighbour).unwrap();
        };
        know(&world.a, target(false), MAC_B);
        know(&world.b, ip("10.0.0.1"), MAC_A);
        know(&world.b, evil(false), EVIL);
        know(&world.b, evil(true), EVIL);
        let options = TcpOptions {
            congestion: if how & 8 != 0 { Congestion::Bbr } else { Congestion::Cubic },
            ..TcpOptions::default()
        };
        let (local, remote) = (SocketAddr::new(ip("10.0.0.1"), OWN_PORT), SocketAddr::new(target(false), 80));
        let conn = world.a.tcp_connect(local, remote, options, Arc::new(Ears::default())).unwrap();
        world.run(5.0, || !listener.accepted.lock().is_empty());
        let accepted = listener.accepted.lock().remove(0);
        // Data goes both to the stack under attack and from it.
        let flow = if how & 16 != 0 {
            Flow::new(&accepted, &conn, OWN_BYTES)
        } else {
            Flow::new(&conn, &accepted, OWN_BYTES)
        };
        *world.wire.tap.lock() = Some(Vec::new());
        Attack {
            world,
            forwards,
            told,
            listener,
            flow,
            done: false,
            sessions: Default::default(),
            conns: Vec::new(),
            heard: Vec::new(),
            said: Vec::new(),
            kind: 0,
            seen,
        }
    }

    fn note(&mut self, what: impl Hash) {
        self.seen.note((self.kind, what));
    }

    /// Lets time pass, with an end to what may happen in it.
    fn idle(&mut self, nanos: u64) {
        let until = self.world.now() + nanos;
        let mut events = 0;
        while self.world.step(until) {
            events += 1;
            assert!(events < EVENTS, "it does not come to rest");
            if !self.done && events % 16 == 0 {
                self.done = self.flow.turn();
            }
        }
        self.world.time.store(until, Ordering::Relaxed);
        self.look();
    }

    /// Hands a frame to the stack, changed as the step's last bytes say.
    fn inject(&mut self, mut data: Vec<u8>, mut how: Bytes<'_>) {
        let flags = how.u8();
        let (value, at, cut) = (how.u8(), usize::from(how.u8()), usize::from(how.u8()));
        if flags & 0xc0 == 0xc0 && data.len() > 14 {
            let spot = 14 + at % (data.len() - 14).min(128);
            data[spot] = value;
            if flags & 1 != 0 {
                mend_packet(&mut data[14..]);
            }
            if flags & 2 != 0 {
                data.truncate(data.len() * cut / 256);
            }
            if flags & 4 != 0 {
                data.resize(data.len() + cut, value);
            }
        }
        let gso_size = if flags & 0x10 != 0 { u16::from_be_bytes([value, cut as u8]) } else { 0 };
        let csum_ok = flags & 8 != 0;
        // Who knows the transfer's ports is somebody else.
        let own = OWN_PORT.to_be_bytes();
        if data.windows(2).any(|w| w == own) {
            return;
        }
        self.said.push(data.clone());
        if self.said.len() > 8 {
            self.said.remove(0);
        }
        let dropped = || {
            let stats = self.world.b.config.link(ETH0).unwrap().stats;
            stats.rx_dropped.load(Ordering::Relaxed)
        };
        let before = dropped();
        self.world.b.receive(ETH0, &[RxFrame { data: &data, csum_ok, gso_size, ..RxFrame::default() }]);
        let taken = dropped() == before;
        self.note((taken, csum_ok));
        self.look();
    }

    fn send(&mut self, packet: &[u8], how: &Bytes<'_>) {
        self.inject(ip_frame(packet), how.clone());
    }

    /// Looks at what the stack has sent.
    fn look(&mut self) {
        let frames = self.world.wire.tap.lock().replace(Vec::new()).unwrap();
        assert!(frames.len() < 20_000, "{} frames at once", frames.len());
        for tapped in frames {
            self.check(&tapped);
            if tapped.data[..6] != EVIL || self.was_passed_on(&tapped.data) {
                continue;
            }
            let packet = &tapped.data[14..];
            if let Some((_, _, 6, at, false)) = parts(packet) {
                self.heard_segment(&packet[at..]);
            }
            self.heard.push(tapped.data);
            if self.heard.len() > 8 {
                self.heard.remove(0);
            }
        }
    }

    fn heard_segment(&mut self, segment: &[u8]) {
        let (tcp, _) = header::<Tcp>(segment).expect("a TCP header");
        let head = usize::from(tcp.off >> 4) * 4;
        let len =
            segment.len() - head + usize::from(tcp.flags & SYN != 0) + usize::from(tcp.flags & FIN != 0);
        self.note((tcp.flags, head, segment.len() > head));
        for session in &mut self.sessions {
            if session.here == tcp.dst.get() && session.there == tcp.src.get() {
                let end = tcp.seq.get().wrapping_add(len as u32);
                if tcp.flags & SYN != 0 || end.wrapping_sub(session.ack).cast_signed() > 0 {
                    session.ack = end;
                }
                if tcp.flags & SYN != 0 {
                    session.una = tcp.seq.get();
                }
                if let Some(ts) = segment[TCP_LEN..head].windows(10).find(|w| w[..2] == [8, 10]) {
                    session.ts_echo = u32::from_be_bytes([ts[2], ts[3], ts[4], ts[5]]);
                }
            }
        }
    }

    /// Whether an IP packet is somebody else's, whose form is his affair.
    fn was_passed_on(&self, frame: &[u8]) -> bool {
        let from = match frame[12..14] {
            [8, 0] => ip4(frame[26..30].try_into().unwrap()),
            [0x86, 0xdd] => ip6(frame[22..38].try_into().unwrap()),
            _ => return false,
        };
        self.forwards && !self.world.b.config.is_local(from) && !from.is_unspecified()
    }

    /// Everything that is sent is well formed, and goes where it may.
    fn check(&self, tapped: &Tapped) {
        let data = &tapped.data;
        let (eth, packet) = header::<Eth>(data).expect("an Ethernet header");
        assert_eq!(eth.src, MAC_B);
        let to_many = eth.dst[0] & 1 != 0;
        match eth.proto.get() {
            ETH_P_ARP => {
                let (arp, _) = header::<Arp>(packet).expect("an ARP message");
                assert!(arp.src == [10, 0, 0, 2] && arp.src_hw == MAC_B, "{arp:?}");
                return;
            }
            ETH_P_IP => {
                let (ip, _) = header::<Ipv4>(packet).expect("a header");
                assert_eq!(usize::from(ip.len.get()), packet.len());
                assert!(Sum::default().put(&packet[..usize::from(ip.vihl & 15) * 4]).ok(), "its checksum");
            }
            ETH_P_IPV6 => {
                let (ip, _) = header::<Ipv6>(packet).expect("a header");
                assert_eq!(usize::from(ip.len.get()) + IPV6_LEN, packet.len());
            }
            other => panic!("protocol {other:x}"),
        }
        if self.was_passed_on(data) {
            assert!(!to_many && tapped.gso.is_none_or(|gso| gso.size > 0), "passed on");
            return;
        }
        let (src, dst, proto, at, fragment) = parts(packet).expect("its headers");
        let own = ["10.0.0.2", "fd00::2", "fe80::2"].map(ip).contains(&src);
        // Who reports groups may have no address.
        assert!(own || src.is_unspecified() && matches!(proto, 2 | 58), "from {src} to {dst}");
        let kind = packet.get(at).copied().unwrap_or(0);
        let group = match proto {
            2 => true,
            58 => matches!(kind, 135 | 136 | 143),
            17 => true,
            _ => false,
        };
        assert!(group || !to_many && !dst.is_multicast() && dst != ip("10.0.0.255"), "{proto} to {dst}");
        if let Some(gso) = tapped.gso {
            let header = usize::from(gso.header);
            assert!(
                gso.size > 0 && header > 14 + at && data.len() > header + usize::from(gso.size),
                "{gso:?}"
            );
        }
        let payload = &packet[at..];
        match (tapped.csum, fragment) {
            (Some(csum), _) => {
                assert_eq!(
                    (usize::from(csum.start), Some(usize::from(csum.offset))),
                    (14 + at, csum_at(proto))
                );
                let stored = payload[usize::from(csum.offset)..][..2].to_vec();
                let partial = Sum::default().pseudo(&src, &dst, proto, payload.len()).partial();
                assert_eq!(stored, partial.as_bytes(), "a sum over addresses");
            }
            (None, true) => {}
            (None, false) if proto == 17 && payload[6..8] == [0, 0] => assert!(src.is_ipv4()),
            (None, false) => assert!(sum(&src, &dst, proto, payload).ok(), "{proto}'s checksum"),
        }
    }

    fn session(&mut self, which: u8) -> &mut Session {
        &mut self.sessions[usize::from(which & 3)]
    }

    /// A segment of a session, with what is said of it.
    fn segment(&self, s: &Session, tcp: (u8, u32, u32, u16, u16), options: &[u8], data: &[u8]) -> Vec<u8> {
        let (flags, seq, ack, window, urgent) = tcp;
        let mut options = options.to_vec();
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let head = Tcp {
            src: s.here.into(),
            dst: s.there.into(),
            seq: seq.into(),
            ack: ack.into(),
            off: ((TCP_LEN + options.len()) << 2) as u8,
            flags,
            window: window.into(),
            csum: 0.into(),
            urgent: urgent.into(),
        };
        let mut payload = [head.as_bytes(), &options, data].concat();
        mend(&evil(s.v6), &target(s.v6), 6, &mut payload);
        packet(evil(s.v6), target(s.v6), 6, 64, (1, IP_DF), &payload)
    }

    fn clock(&self) -> u32 {
        (self.world.now() / 1_000_000) as u32
    }

    fn timestamp(&self, value: u32, echo: u32) -> Vec<u8> {
        [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
    }

    fn handshake(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let which = args.u8();
        let what = args.u8();
        let mss = args.pick(&[1460_u16, 0, 1, 48, 64, 88, 536, 8960, 65535]);
        let scale = args.pick(&[7_u8, 0, 1, 14, 15, 255]);
        let window = args.pick(&[65535_u16, 0, 1, 100, 1460, 30_000]);
        let seq = args.pick(&[1000_u32, u32::MAX, u32::MAX - 2000, i32::MAX as u32, 0]);
        let data = usize::from(args.u8());
        let port = 30_000 + u16::from(which & 3) * 64 + u16::from(args.u8() % 8);
        let mut options = vec![2, 4];
        options.extend_from_slice(&mss.to_be_bytes());
        if what & 1 == 0 {
            options.extend_from_slice(&[1, 3, 3, scale]);
        }
        if what & 2 == 0 {
            options.extend_from_slice(&[1, 1, 4, 2]);
        }
        if what & 4 == 0 {
            options.extend(self.timestamp(self.clock(), 0));
        }
        let v6 = which & 4 != 0;
        let fresh = Session { v6, here: port, there: 80, seq, ts: what & 4 == 0, ..Session::default() };
        *self.session(which) = fresh.clone();
        let body = vec![7; if what & 8 != 0 { data } else { 0 }];
        let syn = self.segment(&fresh, (SYN, seq, 0, window, 0), &options, &body);
        self.send(&syn, how);
        if what & 16 == 0 {
            self.session(which).seq = seq.wrapping_add(1);
            let s = self.session(which).clone();
            let options = if s.ts { self.timestamp(self.clock(), s.ts_echo) } else { Vec::new() };
            let body = vec![8; data];
            let ack = self.segment(&s, (ACK, s.seq, s.ack, window, 0), &options, &body);
            self.send(&ack, how);
            self.session(which).seq = s.seq.wrapping_add(data as u32);
        }
        self.take_accepted();
    }

    fn take_accepted(&mut self) {
        let all = std::mem::take(&mut *self.listener.accepted.lock());
        self.conns.extend(all);
        while self.conns.len() > 12 {
            self.conns.remove(0).abort();
        }
    }

    fn tcp(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let which = args.u8();
        let flags =
            args.pick(&[ACK, ACK | PSH, ACK | FIN, ACK | RST, RST, SYN, SYN | ACK, ACK | URG, 0, FIN, 255]);
        let len = match args.u8() {
            n if n < 128 => usize::from(n),
            n if n < 250 => 1448,
            n => usize::from(n - 249) * 10_000,
        };
        let count = usize::from(args.u8() % 16) + 1;
        let s = self.session(which).clone();
        let off = |n: i64| (i64::from(s.seq) + n) as u32;
        let seq_choice = args.u8() % 16;
        let step = args.u8();
        let seq = match seq_choice {
            0..=5 => s.seq,
            6 => off(1),
            7 => off(-1),
            8 => off(1448 * i64::from(step)),
            9 => off(-(i64::from(step) * 100)),
            10 => off(65_535),
            11 => off(1 << 20),
            12 => off(1 << 30),
            13 => off(1 << 31),
            14 => off(i64::from(step)),
            _ => off(i64::from(step) << 16),
        };
        let flight = s.ack.wrapping_sub(s.una);
        let ack_choice = args.u8() % 12;
        let ack = match ack_choice {
            0..=4 => s.ack,
            5 => s.una,
            6 => s.una.wrapping_add(flight / 2),
            7 => s.una.wrapping_add(1),
            8 => s.ack.wrapping_add(1),
            9 => s.ack.wrapping_sub(1 << 20),
            10 => s.ack.wrapping_add(1 << 31),
            _ => s.una.wrapping_add(u32::from(step) * 52),
        };
        let window = match args.u8() {
            n if n < 200 => 60_000,
            n => [0, 1, 2, 50, 65_535, 100, 1460, 3000][usize::from(n & 7)],
        };
        let choice = args.u8();
        let mut options =
            if s.ts && choice & 1 == 0 { self.timestamp(self.clock(), s.ts_echo) } else { Vec::new() };
        let step32 = u32::from(step);
        match choice >> 1 & 15 {
            1 | 2 => {
                // Ranges of what is under way: neat, tiny, overlapping.
                options.extend_from_slice(&[1, 1, 5, 26]);
                for n in 0..3_u32 {
                    let from = s.una.wrapping_add((step32 + n * 3) * if choice & 32 != 0 { 1 } else { 1448 });
                    options.extend_from_slice(&from.to_be_bytes());
                    let to = from.wrapping_add(if choice & 64 != 0 { 1 } else { 1448 });
                    options.extend_from_slice(&to.to_be_bytes());
                }
            }
            3 => {
                options.extend_from_slice(&[5, 10]);
                options.extend_from_slice(&s.una.wrapping_sub(step32).to_be_bytes());
                options.extend_from_slice(&s.ack.wrapping_add(step32 << 8).to_be_bytes());
            }
            4 => options = self.timestamp(self.clock().wrapping_sub(step32 << 20), step32),
            5 => {
                options = self
                    .timestamp(self.clock().wrapping_add(step32 << 23), s.ts_echo.wrapping_sub(step32 << 12))
            }
            6 => options.extend_from_slice(&[5, step, 1, 2, 3, 4, 5]),
            7 => options.extend_from_slice(&[step, choice, 0, 0, 2, 4, 0, 1, 3, 3, 14]),
            _ => {}
        }
        let urgent = if flags & URG != 0 { u16::from(step) << (choice & 8) } else { 0 };
        let body: Vec<u8> = vec![step; len];
        for n in 0..count {
            let seq = seq.wrapping_add((n * len) as u32);
            let one = self.segment(&s, (flags, seq, ack, window, urgent), &options, &body);
            self.send(&one, how);
        }
        let session = self.session(which);
        if seq_choice < 6 {
            session.seq = seq.wrapping_add((count * len) as u32).wrapping_add(u32::from(flags & FIN != 0));
        }
        if (0..=4).contains(&ack_choice) || ack_choice == 6 {
            session.una = ack;
        }
    }

    /// What the applications on the stack do.
    fn application(&mut self, mut args: Bytes<'_>) {
        self.take_accepted();
        let (what, which, amount) = (args.u8(), args.u8(), args.u16());
        let value = args.u32();
        if what % 14 == 0 {
            // A connection to the hostile side, which may answer as it likes.
            let which = which & 3;
            let v6 = amount & 1 != 0;
            let (here, there) = (7000 + u16::from(which), 40_000 + u16::from(amount.to_le_bytes()[1] % 16));
            let (local, remote) = (SocketAddr::new(target(v6), there), SocketAddr::new(evil(v6), here));
            let fresh = Session { v6, here, there, seq: value, ..Session::default() };
            let made =
                self.world.b.tcp_connect(local, remote, TcpOptions::default(), Arc::new(Ears::default()));
            if let Ok(conn) = made {
                self.conns.push(conn);
                *self.session(which) = fresh;
                self.look();
            }
            return;
        }
        let Some(conn) = self.conns.get(usize::from(which) % self.conns.len().max(1)).cloned() else {
            return;
        };
        let state = conn.state();
        let done = match what % 14 {
            1 => conn.send(&vec![which; usize::from(amount)], SendFlags::default()).is_ok(),
            2 => conn.send(&vec![which; 200_000], SendFlags::default()).is_ok(),
            3 => {
                // Many small segments.
                conn.configure(&mut |options| options.nodelay = true);
                (0..amount & 0x3ff).all(|_| conn.send(&[1], SendFlags::default()).is_ok())
            }
            4 => conn.send(&[1], SendFlags { oob: true, more: false }).is_ok(),
            5 => conn.recv(&mut vec![0; usize::from(amount)]).is_ok(),
            6 => conn.recv_oob(amount & 1 != 0).is_ok(),
            7 => conn.recv_with(100, Some(usize::from(amount)), &mut |piece| Ok(piece.len())).is_ok(),
            8 => conn.shutdown(u32::from(amount) % 3).is_ok(),
            9 => {
                conn.close();
                true
            }
            10 => {
                conn.abort();
                true
            }
            11 => {
                conn.configure(&mut |options| match amount & 15 {
                    0 => options.cork = value & 1 != 0,
                    1 => {
                        options.congestion =
                            [Congestion::Bbr, Congestion::Reno, Congestion::Cubic][(value % 3) as usize]
                    }
                    2 => options.sndbuf = value & 0x3f_ffff,
                    3 => options.rcvbuf = value & 0x3f_ffff,
                    4 => (options.keepalive, options.keep_idle) = (true, value & 0x7fff),
                    5 => (options.keep_intvl, options.keep_cnt) = (value & 0x7fff, value >> 16 & 127),
                    6 => options.user_timeout = value & 0xffff,
                    7 => options.linger2 = value.cast_signed() % 100,
                    8 => options.no_quickack = value & 1 != 0,
                    9 => options.oob_inline = value & 1 != 0,
                    10 => options.max_seg = value as u16,
                    11 => options.notsent_lowat = value,
                    12 => options.pmtudisc = value % 6,
                    _ => options.nodelay = value & 1 != 0,
                });
                true
            }
            12 => {
                let _ =
                    (conn.readiness(), conn.unsent(), conn.queued_in(), conn.queued_out(), conn.at_mark());
                conn.take_error().is_none()
            }
            _ => conn.info().tcpi_snd_mss > 0,
        };
        self.note((what % 14, state, conn.state(), done));
        self.look();
    }

    fn step(&mut self, step: &Step) {
        self.kind = step[0] % KINDS;
        let (args, how) = (Bytes(&step[1..12]), Bytes(&step[12..]));
        match self.kind {
            0 | 13 => self.handshake(args, &how),
            1 | 2 => self.tcp(args, &how),
            3 => self.fragments(args, &how),
            4 => self.arp(args, &how),
            5 => self.ndp(args, &how),
            6 => self.icmp_step(args, &how),
            7 => self.groups(args, &how),
            8 => self.extensions(args, &how),
            9 => self.application(args),
            10 => self.idle(1 << (u32::from(step[1]) % 38)),
            11 => self.udp(args, &how),
            12 => self.setting(args),
            14 => match step[1] & 3 {
                0 => self.listener.room.store(step[2] & 1 != 0, Ordering::Relaxed),
                1 => self.listener.options.lock().defer_accept = u32::from(step[2]),
                2 => self.listener.options.lock().rcvbuf = u32::from(step[2]) << 10,
                _ => self.shout(Bytes(&step[2..])),
            },
            _ => self.replay(args, &how),
        }
        if !self.done {
            self.done = self.flow.turn();
        }
        self.idle(200_000);
        self.told.udp.lock().clear();
        self.told.raw.lock().clear();
        self.told.errors.lock().clear();
        self.told.frames.lock().clear();
        let held = self.world.b.held();
        assert!(held <= HELD, "{held} bytes are held");
        let states: Vec<_> =
            self.conns.iter().map(|conn| (conn.state(), conn.info().tcpi_ca_state)).collect();
        states.into_iter().for_each(|state| self.note(state));
    }

    /// Everything ends: the transfer well, the rest at all.
    fn end(mut self) {
        let mut turns = 0;
        while !self.done {
            self.idle(10_000_000);
            self.done = self.done || self.flow.turn();
            turns += 1;
            assert!(turns < 20_000, "the transfer stands still: {} of {OWN_BYTES}", self.flow.got);
        }
        self.take_accepted();
        for (n, conn) in std::mem::take(&mut self.conns).into_iter().enumerate() {
            if n % 2 == 0 { conn.close() } else { conn.abort() }
        }
        self.flow.from.close();
        self.flow.to.close();
        // What is still in the handshake may be told of later.
        for _ in 0..30 {
            self.idle(100_000_000_000);
            self.take_accepted();
            std::mem::take(&mut self.conns).iter().for_each(|conn| conn.abort());
        }
        let b = &self.world.b;
        let left = b.tcp_list();
        assert!(left.is_empty(), "still there: {left:?}");
        assert_eq!(b.tcp_memory(), 0, "bytes of connections that are gone");
        assert_eq!(b.tcp_leftovers(), (0, 0, 0), "handshakes, TIME_WAIT, orphans");
        assert_eq!(b.fragment_bytes(), 0);
        assert_eq!(b.timers.len(), 0, "timers of nothing");
    }
}

fn attack(steps: &[Step], seen: &mut Seen) {
    let how = steps.first().map_or(0, |step| step[15].rotate_left(3));
    let mut attack = Attack::new(how, seen);
    steps.iter().for_each(|step| attack.step(step));
    attack.end();
}

#[test]
fn a_hostile_neighbour_does_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    Fuzz { name: "packets", corpus: &corpus, inputs: 4000, kinds: KINDS }.run(attack);
}
