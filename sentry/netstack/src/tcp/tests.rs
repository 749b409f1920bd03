use super::segment::Header;
use super::seq::Seq;
use super::*;
use crate::testing::*;
use crate::*;
use chitin_abi::inet::*;
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

/// A frame from A to B with a segment made by hand.
fn frame(from: SocketAddr, to: SocketAddr, header: &Header<'_>, data: &[u8]) -> Vec<u8> {
    let header = Header { ttl: 64, ..*header };
    let (head, ..) = header.write(&(from, to), [data, &[]], false, None);
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend_from_slice(head.packet());
    frame.extend_from_slice(data);
    frame
}

/// B, with a peer at A that is played by the test: nothing is said at A but what the test sends.
struct Solo {
    world: World,
    listener: Arc<Listener>,
}

/// What B has sent: flags, sequence number, acknowledgement, window, data's length, options' length.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Heard {
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    len: usize,
    to: u16,
}

impl Solo {
    fn new(backlog: u32) -> Solo {
        let world = World::new(61, Faults::default());
        // A's stack is deaf; B knows A's hardware address.
        let down = config::LinkChange { flags: (1, 0), ..Default::default() };
        world.a.config.link_change(ETH0, &down).unwrap();
        let neighbour = Neighbour {
            link: ETH0,
            addr: ip(A),
            hw_addr: Some([2, 0, 0, 0, 0, 1]),
            state: chitin_abi::rtnetlink::NUD_PERMANENT,
            flags: 0,
            confirmed: 0,
            used: 0,
            updated: 0,
        };
        world.b.neighbour_set(&neighbour).unwrap();
        let listener = listen(&told(&world.b, &[]), backlog);
        *world.wire.record.lock() = Some(Vec::new());
        Solo { world, listener }
    }

    fn say(&self, port: u16, header: &Header<'_>, data: &[u8]) -> Vec<Heard> {
        let (from, to) = (SocketAddr::new(ip(A), port), SocketAddr::new(ip(B), 80));
        let frame = frame(from, to, header, data);
        self.world.b.receive(ETH0, &[RxFrame { data: &frame, ..RxFrame::default() }]);
        self.heard()
    }

    /// What B has sent since.
    fn heard(&self) -> Vec<Heard> {
        let frames = std::mem::take(self.world.wire.record.lock().as_mut().unwrap());
        let tcp = frames.iter().filter(|f| f.len() >= 54 && f[12..14] == [8, 0] && f[23] == 6);
        tcp.map(|f| {
            let word = |at: usize| u32::from_be_bytes(f[at..at + 4].try_into().unwrap());
            let total = usize::from(u16::from_be_bytes([f[16], f[17]]));
            Heard {
                flags: f[47],
                seq: word(38),
                ack: word(42),
                window: u16::from_be_bytes([f[48], f[49]]),
                len: total - 20 - usize::from(f[46] >> 4) * 4,
                to: u16::from_be_bytes([f[36], f[37]]),
            }
        })
        .collect()
    }

    /// A handshake from a port; B's sequence number behind its SYN.
    fn shake(&self, port: u16) -> u32 {
        let syn = Header { seq: Seq(1000), flags: SYN, window: 65_535, mss: Some(1460), ..Header::default() };
        let answer = self.say(port, &syn, &[]);
        assert_eq!(answer.len(), 1, "{answer:?}");
        assert_eq!((answer[0].flags, answer[0].ack), (SYN | ACK, 1001));
        let next = answer[0].seq.wrapping_add(1);
        let ack = Header { seq: Seq(1001), ack: Seq(next), flags: ACK, window: 65_535, ..Header::default() };
        assert_eq!(self.say(port, &ack, &[]), []);
        next
    }

    fn established(&self, port: u16) -> (Arc<TcpConn>, u32) {
        let next = self.shake(port);
        (self.listener.accepted.lock().pop().expect("accepted"), next)
    }
}

fn segment(seq: u32, ack: u32, flags: u8) -> Header<'static> {
    Header { seq: Seq(seq), ack: Seq(ack), flags, window: 65_535, ..Header::default() }
}

#[test]
fn closed_ports_reset() {
    let solo = Solo::new(10);
    let (from, to) = (SocketAddr::new(ip(A), 5), SocketAddr::new(ip(B), 81));
    let send = |header: &Header<'_>, data: &[u8]| {
        let frame = frame(from, to, header, data);
        solo.world.b.receive(ETH0, &[RxFrame { data: &frame, ..RxFrame::default() }]);
        solo.heard()
    };
    let heard = send(&segment(7, 0, SYN), &[]);
    assert_eq!((heard[0].flags, heard[0].seq, heard[0].ack), (RST | ACK, 0, 8));
    let heard = send(&segment(7, 99, ACK), b"abc");
    assert_eq!((heard[0].flags, heard[0].seq), (RST, 99));
    assert_eq!(send(&segment(7, 0, RST), &[]), []);
    assert_eq!(send(&segment(7, 0, FIN), b"x")[0].ack, 9);
    let conn = Pair::new(World::new(62, Faults::default()));
    let refused = {
        let (local, remote) = (at("10.0.0.1:77"), at("10.0.0.2:81"));
        let ears = Arc::new(Ears::default());
        conn.world.a.tcp_connect(local, remote, TcpOptions::default(), ears).unwrap()
    };
    conn.world.idle(0.5);
    assert_eq!(refused.take_error(), Some(Errno::ECONNREFUSED));
    assert_eq!(refused.state(), TCP_CLOSE);
}

#[test]
fn resets_must_be_exact() {
    let solo = Solo::new(10);
    let (conn, next) = solo.established(5);
    // In the window, but not the next: a challenge, and only now and then (RFC 5961).
    let heard = solo.say(5, &segment(1500, next, RST), &[]);
    assert_eq!((heard.len(), heard[0].flags, heard[0].ack), (1, ACK, 1001));
    assert_eq!(solo.say(5, &segment(1501, next, RST), &[]), []);
    // Outside: nothing at all.
    solo.world.idle(1.0);
    assert_eq!(solo.say(5, &segment(1000, next, RST), &[]), []);
    assert_eq!(solo.say(5, &segment(900_000, next, RST), &[]), []);
    // A SYN in the window: a challenge, too.
    assert_eq!(solo.say(5, &segment(1001, next, SYN), &[])[0].flags, ACK);
    // An acknowledgement of what was never sent.
    solo.world.idle(1.0);
    assert_eq!(solo.say(5, &segment(1001, next.wrapping_add(5), ACK), &[])[0].flags, ACK);
    assert_eq!(conn.state(), TCP_ESTABLISHED);
    // The next one.
    assert_eq!(solo.say(5, &segment(1001, 0, RST), &[]), []);
    assert_eq!((conn.state(), conn.take_error()), (TCP_CLOSE, Some(Errno::ECONNRESET)));
    assert!(solo.world.b.tcp_list().is_empty());
}

#[test]
fn data_out_of_order_is_told_by_sack() {
    let solo = Solo::new(10);
    let syn = Header { sack_ok: true, mss: Some(1460), ..segment(1000, 0, SYN) };
    let next = solo.say(5, &syn, &[])[0].seq.wrapping_add(1);
    solo.say(5, &segment(1001, next, ACK), &[]);
    let conn = solo.listener.accepted.lock().pop().unwrap();
    // Offsets 10..20, 30..40, then the first ten: each answered at once.
    assert_eq!(solo.say(5, &segment(1011, next, ACK), &[2; 10])[0].ack, 1001);
    assert_eq!(solo.say(5, &segment(1031, next, ACK), &[4; 10])[0].ack, 1001);
    assert_eq!(conn.recv(&mut [0; 50]), Err(Errno::EAGAIN));
    assert_eq!(solo.say(5, &segment(1001, next, ACK), &[1; 10])[0].ack, 1021);
    // All of it again and more, with a FIN behind.
    assert_eq!(solo.say(5, &segment(1001, next, ACK | FIN), &[9; 50])[0].ack, 1052);
    let mut buf = [0; 60];
    assert_eq!(conn.recv(&mut buf), Ok(50));
    // What is in order counts, as in Linux.
    let expected = [[1; 10], [2; 10], [9; 10], [9; 10], [9; 10]].concat();
    assert_eq!(buf[..50], expected);
    assert_eq!(conn.recv(&mut buf), Ok(0));
    assert_eq!(conn.state(), TCP_CLOSE_WAIT);
}

#[test]
fn nothing_beyond_the_window_is_taken() {
    let solo = Solo::new(10);
    let (conn, next) = solo.established(5);
    for n in 0..200_u32 {
        solo.say(5, &segment(1001 + n * 1000, next, ACK), &[1; 1000]);
    }
    let have = conn.queued_in();
    assert!((60_000..=66_000).contains(&have), "{have}");
    let heard = solo.say(5, &segment(1001 + have as u32, next, ACK), &[]);
    assert_eq!(heard, []);
    // Far out of order: bounded as well.
    let mut buf = vec![0; 100_000];
    assert_eq!(conn.recv(&mut buf), Ok(have));
    for n in 1..30_000_u32 {
        solo.say(5, &segment(1001 + have as u32 + n * 2, next, ACK), &[1; 1]);
    }
    assert!(solo.world.b.tcp_memory() <= 1 << 18, "{}", solo.world.b.tcp_memory());
    assert_eq!(conn.queued_in(), 0);
}

/// Sends until the other side has no room left; how much that is.
fn fill(pair: &Pair, from: &TcpConn) -> usize {
    let mut sent = 0;
    while let Ok(n) = from.send(&[1; 10_000], SendFlags::default()) {
        sent += n;
        pair.world.idle(0.01);
    }
    pair.world.idle(10.0);
    assert_eq!(from.info().tcpi_snd_wnd, 0);
    sent
}

#[test]
fn who_receives_acknowledges_for_who_reads() {
    let pair = Pair::new(World::new(71, Faults::default()));
    let (a, b) = pair.connect(false, TcpOptions::default());
    let sent = fill(&pair, &a);
    pair.world.wire.comes.store(true, Ordering::Relaxed);
    let frames = || pair.world.wire.sent.load(Ordering::Relaxed);
    let mut buf = vec![0; 1 << 20];
    let before = frames();
    let mut got = b.recv(&mut buf).unwrap();
    assert_eq!(frames(), before);
    pair.world.b.receive(ETH0, &[]);
    assert_eq!(frames(), before + 1);
    pair.world.run(130.0, || {
        while let Ok(n) = b.recv(&mut buf) {
            got += n;
        }
        pair.world.b.receive(ETH0, &[]);
        got == sent
    });
}

/// Reads on in a stream of [`pattern`], from `got` to `end`.
fn read_on(pair: &Pair, from: &TcpConn, got: &mut usize, end: usize) {
    let mut buf = vec![0; 1 << 20];
    pair.world.run(60.0, || {
        while let Ok(n) = from.recv(&mut buf) {
            assert!(buf[..n].iter().enumerate().all(|(i, byte)| *byte == pattern(*got + i)));
            *got += n;
        }
        *got == end
    });
    pair.world.idle(0.1);
}

#[test]
fn a_connection_is_at_hand_while_it_sends() {
    for (size, offload) in [(1000, false), (1000, true), (40_000, false), (40_000, true)] {
        let pair = Pair::new(World::with(73, Faults::default(), offload, 1500));
        let (a, b) = pair.connect(false, TcpOptions::default());
        let stream: Vec<u8> = (0..20 * size).map(pattern).collect();
        let (len, queued) = (stream.len(), Arc::new(AtomicUsize::new(0)));
        let (conn, at) = (a.clone(), queued.clone());
        let write = move || {
            let rest = &stream[at.load(Ordering::Relaxed)..];
            if let Ok(n) = conn.send(&rest[..rest.len().min(size)], SendFlags::default()) {
                at.fetch_add(n, Ordering::Relaxed);
            }
        };
        write();
        *pair.world.wire.aside.lock() = Some(Box::new(write));
        read_on(&pair, &b, &mut 0, len);
        assert_eq!(queued.load(Ordering::Relaxed), len);
        // It holds the connection, which holds the wire.
        *pair.world.wire.aside.lock() = None;
    }
}

#[test]
fn who_writes_much_shares_the_sending() {
    let pair = Pair::new(World::with(74, Faults::default(), true, 1500));
    let (a, b) = pair.connect(false, TcpOptions::default());
    let stream: Vec<u8> = (0..8 << 20).map(pattern).collect();
    let (mut queued, mut got) = (0, 0);
    let mut write = |len| {
        let n = a.send(&stream[queued..queued + len], SendFlags::default()).unwrap();
        queued += n;
        queued
    };
    while a.info().tcpi_snd_cwnd < 300 {
        let end = write(a.info().tcpi_snd_cwnd as usize * 2000);
        read_on(&pair, &b, &mut got, end);
    }
    let frames = || pair.world.wire.sent.load(Ordering::Relaxed);
    // Nobody else is there to do it.
    let end = write(200_000);
    assert_eq!(a.unsent(), 0);
    read_on(&pair, &b, &mut got, end);
    pair.world.wire.comes.store(true, Ordering::Relaxed);
    let before = frames();
    let end = write(200_000);
    assert_eq!(frames(), before + 1);
    assert!(a.unsent() > 100_000);
    // The next one does not wait for that.
    let end = end.max(write(50_000));
    assert_eq!(frames(), before + 2);
    pair.world.a.receive(ETH0, &[]);
    assert!(a.unsent() < 1448, "but for what Nagle holds back");
    read_on(&pair, &b, &mut got, end);
    // Little is sent at once.
    let end = write(1000);
    assert_eq!(a.unsent(), 0);
    read_on(&pair, &b, &mut got, end);
}

#[test]
fn zero_windows_are_probed_and_reopened() {
    let pair = Pair::new(World::new(63, Faults::default()));
    let (a, b) = pair.connect(false, TcpOptions::default());
    let sent = fill(&pair, &a);
    assert!(a.info().tcpi_probes > 2);
    let before = pair.world.wire.sent.load(Ordering::Relaxed);
    pair.world.idle(600.0);
    let probes = pair.world.wire.sent.load(Ordering::Relaxed) - before;
    assert!((4..60).contains(&probes), "{probes}");
    assert_eq!(a.state(), TCP_ESTABLISHED, "a peer that answers is alive");
    let mut got = 0;
    let mut buf = vec![0; 1 << 20];
    pair.world.run(130.0, || {
        while let Ok(n) = b.recv(&mut buf) {
            got += n;
        }
        got == sent
    });
    // A reader that takes little at a time does not make for small segments.
    let (a, b) = pair.connect(false, TcpOptions::default());
    let mut left = 400_000;
    let before = a.info().tcpi_data_segs_out;
    let mut small = [0; 300];
    let mut got = 0;
    for _ in 0..10_000 {
        if let Ok(n) = a.send(&vec![1; left], SendFlags::default()) {
            left -= n;
        }
        if let Ok(n) = b.recv(&mut small) {
            got += n;
        }
        pair.world.idle(0.000_2);
    }
    assert_eq!(got, 400_000);
    let segments = a.info().tcpi_data_segs_out - before;
    assert!(segments < 450, "{segments}");
}

#[test]
fn both_may_close_and_time_wait_holds() {
    let pair = Pair::new(World::new(64, Faults::default()));
    let (a, b) = pair.connect(false, TcpOptions::default());
    // Half closed: the other direction goes on.
    a.shutdown(SHUT_WR).unwrap();
    pair.world.idle(0.1);
    assert_eq!((a.state(), b.state()), (TCP_FIN_WAIT2, TCP_CLOSE_WAIT));
    assert_eq!(a.send(b"x", SendFlags::default()), Err(Errno::EPIPE));
    assert!(b.readiness().eof && b.readiness().peer_closed);
    b.send(b"still", SendFlags::default()).unwrap();
    pair.world.idle(0.1);
    assert_eq!(a.recv(&mut [0; 10]), Ok(5));
    let tuple = (a.local(), a.remote());
    b.close();
    pair.world.idle(0.1);
    assert_eq!(a.state(), TCP_CLOSE);
    assert_eq!(a.take_error(), None);
    let list = pair.world.a.tcp_list();
    assert_eq!((list.len(), list[0].state), (1, TCP_TIME_WAIT));
    assert!(pair.world.b.tcp_list().is_empty());
    // The pair is taken, unless it may be used again.
    assert!(!pair.world.a.tcp_port_free(tuple.0, tuple.1));
    let ears = Arc::new(Ears::default());
    let again = pair.world.a.tcp_connect(tuple.0, tuple.1, TcpOptions::default(), ears.clone());
    assert_eq!(again.map(|_| ()), Err(Errno::EADDRNOTAVAIL));
    pair.world.a.sysctls.tcp_tw_reuse.set(1);
    pair.world.idle(2.0);
    assert!(pair.world.a.tcp_port_free(tuple.0, tuple.1));
    let again = pair.world.a.tcp_connect(tuple.0, tuple.1, TcpOptions::default(), ears).unwrap();
    pair.world.idle(0.1);
    assert_eq!(again.state(), TCP_ESTABLISHED);
    // The other side has it in TIME_WAIT: a new SYN may take it.
    let b = pair.listener.accepted.lock().pop().unwrap();
    b.shutdown(SHUT_WR).unwrap();
    pair.world.idle(0.1);
    again.close();
    pair.world.idle(0.1);
    assert_eq!(pair.world.b.tcp_list()[0].state, TCP_TIME_WAIT);
    let ears = Arc::new(Ears::default());
    let third = pair.world.a.tcp_connect(tuple.0, tuple.1, TcpOptions::default(), ears).unwrap();
    pair.world.idle(0.1);
    assert_eq!(third.state(), TCP_ESTABLISHED);
    pair.world.idle(61.0);
    assert_eq!(pair.world.b.tcp_list().len(), 1);
}

#[test]
fn closing_at_once_and_calling_at_once() {
    let pair = Pair::new(World::new(65, Faults::default()));
    let (a, b) = pair.connect(true, TcpOptions::default());
    a.shutdown(SHUT_WR).unwrap();
    b.shutdown(SHUT_WR).unwrap();
    pair.world.idle(0.2);
    assert_eq!((a.state(), b.state()), (TCP_CLOSE, TCP_CLOSE));
    assert_eq!(pair.world.a.tcp_list().len() + pair.world.b.tcp_list().len(), 2, "both wait");
    // Both call each other (RFC 9293, 3.5).
    let (x, y) = (at("10.0.0.1:900"), at("10.0.0.2:901"));
    let ears = || Arc::new(Ears::default());
    let a = pair.world.a.tcp_connect(x, y, TcpOptions::default(), ears()).unwrap();
    let b = pair.world.b.tcp_connect(y, x, TcpOptions::default(), ears()).unwrap();
    pair.world.idle(0.5);
    assert_eq!((a.state(), b.state()), (TCP_ESTABLISHED, TCP_ESTABLISHED));
    let mut flows = [Flow::new(&a, &b, 300_000), Flow::new(&b, &a, 300_000)];
    let mut done = [false; 2];
    pair.world.run(20.0, || {
        flows.iter_mut().zip(&mut done).for_each(|(flow, done)| *done = *done || flow.turn());
        done == [true; 2]
    });
}

#[test]
fn close_with_unread_data_resets_and_so_does_late_data() {
    let pair = Pair::new(World::new(66, Faults::default()));
    let (a, b) = pair.connect(false, TcpOptions::default());
    a.send(b"unread", SendFlags::default()).unwrap();
    pair.world.idle(0.1);
    b.close();
    pair.world.idle(0.1);
    assert_eq!((a.state(), a.take_error()), (TCP_CLOSE, Some(Errno::ECONNRESET)));
    let (a, b) = pair.connect(false, TcpOptions::default());
    b.close();
    pair.world.idle(0.1);
    assert_eq!(a.state(), TCP_CLOSE_WAIT);
    a.send(b"nobody", SendFlags::default()).unwrap();
    pair.world.idle(0.1);
    assert_eq!((a.state(), a.take_error()), (TCP_CLOSE, Some(Errno::EPIPE)));
    let (a, b) = pair.connect(false, TcpOptions::default());
    a.abort();
    pair.world.idle(0.1);
    assert_eq!(b.take_error(), Some(Errno::ECONNRESET));
    assert!(pair.world.a.tcp_list().is_empty() && pair.world.b.tcp_list().is_empty());
    assert_eq!(pair.world.b.tcp.orphans.load(Ordering::Relaxed), 0);
    // Nobody holds it, and the peer never says FIN.
    let (a, b) = pair.connect(false, TcpOptions::default());
    a.close();
    pair.world.idle(1.0);
    assert_eq!((a.state(), b.state()), (TCP_FIN_WAIT2, TCP_CLOSE_WAIT));
    pair.world.idle(61.0);
    assert_eq!(a.state(), TCP_CLOSE);
    assert_eq!(pair.world.a.tcp.orphans.load(Ordering::Relaxed), 0);
}

#[test]
fn calls_into_the_void_end() {
    let pair = Pair::new(World::new(67, Faults::default()));
    pair.connect(false, TcpOptions::default());
    pair.world.wire.faults.lock().loss = 100.0;
    let options = TcpOptions { syn_count: 3, ..TcpOptions::default() };
    let conn = pair.dial(false, options);
    pair.world.idle(14.0);
    assert_eq!(conn.state(), TCP_SYN_SENT);
    pair.world.idle(2.0);
    assert_eq!((conn.state(), conn.take_error()), (TCP_CLOSE, Some(Errno::ETIMEDOUT)));
    assert!(pair.world.a.tcp_list().iter().all(|e| e.state == TCP_ESTABLISHED));
    // An established one: by the user's timeout, or a quarter of an hour.
    pair.world.wire.faults.lock().loss = 0.0;
    let (quick, _) = pair.connect(false, TcpOptions { user_timeout: 5_000, ..TcpOptions::default() });
    let (slow, _) = pair.connect(false, TcpOptions::default());
    pair.world.wire.faults.lock().loss = 100.0;
    quick.send(b"x", SendFlags::default()).unwrap();
    slow.send(b"x", SendFlags::default()).unwrap();
    pair.world.idle(12.0);
    assert_eq!((quick.state(), quick.take_error()), (TCP_CLOSE, Some(Errno::ETIMEDOUT)));
    pair.world.idle(850.0);
    assert_eq!(slow.state(), TCP_ESTABLISHED);
    pair.world.idle(250.0);
    // Its neighbour has not answered either, which is the better reason.
    assert_eq!(slow.state(), TCP_CLOSE);
    assert!(matches!(slow.take_error(), Some(Errno::EHOSTUNREACH | Errno::ETIMEDOUT)));
}

#[test]
fn keepalive_finds_dead_peers_only() {
    let pair = Pair::new(World::new(68, Faults::default()));
    let options =
        TcpOptions { keepalive: true, keep_idle: 10, keep_intvl: 2, keep_cnt: 3, ..TcpOptions::default() };
    let (a, b) = pair.connect(false, options);
    pair.world.idle(95.0);
    assert_eq!((a.state(), b.state()), (TCP_ESTABLISHED, TCP_ESTABLISHED));
    assert!(a.info().tcpi_segs_out >= 10);
    pair.world.wire.faults.lock().loss = 100.0;
    pair.world.idle(10.0);
    assert_eq!(a.state(), TCP_ESTABLISHED);
    pair.world.idle(3.0);
    assert_eq!(a.state(), TCP_CLOSE);
    assert!(a.take_error().is_some());
}

#[test]
fn urgent_data() {
    let pair = Pair::new(World::new(69, Faults::default()));
    let (a, b) = pair.connect(false, TcpOptions::default());
    a.send(b"before", SendFlags::default()).unwrap();
    a.send(b"!", SendFlags { oob: true, ..SendFlags::default() }).unwrap();
    a.send(b"after", SendFlags::default()).unwrap();
    pair.world.idle(0.2);
    assert!(b.readiness().urgent && !b.at_mark());
    assert_eq!(b.recv_oob(true), Ok(b'!'));
    let mut buf = [0; 20];
    assert_eq!(b.recv(&mut buf), Ok(6));
    assert!(b.at_mark());
    assert_eq!(b.recv_oob(false), Ok(b'!'));
    assert_eq!(b.recv_oob(false), Err(Errno::EINVAL));
    assert_eq!(b.recv(&mut buf), Ok(5));
    assert_eq!(&buf[..5], b"after");
    // In line.
    b.configure(&mut |options| options.oob_inline = true);
    a.send(b"x!", SendFlags { oob: true, ..SendFlags::default() }).unwrap();
    pair.world.idle(0.2);
    assert_eq!(b.recv(&mut buf), Ok(1));
    assert!(b.at_mark());
    assert_eq!(b.recv(&mut buf), Ok(1));
    assert_eq!(buf[0], b'!');
}

#[test]
fn small_writes_nagle_cork_and_delayed_acks() {
    let faults = || Faults { delay: 10_000_000, ..Faults::default() };
    let count = |options: TcpOptions, more: bool| {
        let pair = Pair::new(World::new(70, faults()));
        let (a, b) = pair.connect(false, options);
        let before = a.info().tcpi_data_segs_out;
        for _ in 0..50 {
            a.send(&[1; 100], SendFlags { more, ..SendFlags::default() }).unwrap();
            pair.world.idle(0.001);
        }
        pair.world.idle(1.0);
        assert_eq!(b.queued_in(), 5000);
        a.info().tcpi_data_segs_out - before
    };
    let nagle = count(TcpOptions::default(), false);
    assert!((3..12).contains(&nagle), "{nagle}");
    assert_eq!(count(TcpOptions { nodelay: true, ..TcpOptions::default() }, false), 50);
    assert_eq!(count(TcpOptions { cork: true, ..TcpOptions::default() }, false), 4);
    assert_eq!(count(TcpOptions::default(), true), 4);
    // A cork taken out lets go at once.
    let pair = Pair::new(World::new(71, faults()));
    let (a, b) = pair.connect(false, TcpOptions { cork: true, ..TcpOptions::default() });
    a.send(b"held", SendFlags::default()).unwrap();
    pair.world.idle(0.1);
    assert_eq!(b.queued_in(), 0);
    a.configure(&mut |options| options.cork = false);
    pair.world.idle(0.02);
    assert_eq!(b.queued_in(), 4);
    // Bulk data is acknowledged every second segment at most.
    let (a, b) = pair.connect(false, TcpOptions::default());
    let mut flow = Flow::new(&a, &b, 3_000_000);
    pair.world.run(30.0, || flow.turn());
    let (data, acks) = (a.info().tcpi_data_segs_out, b.info().tcpi_segs_out);
    assert!(acks < data / 2 + 100, "{acks} for {data}");
}

#[test]
fn floods_of_syns_leave_room_for_others() {
    let solo = Solo::new(64);
    for n in 0..50_000_u32 {
        let (from, to) = (
            SocketAddr::new(IpAddr::V4((0x0a00_0100 + n / 200).into()), 1 + (n % 200) as u16),
            at("10.0.0.2:80"),
        );
        let syn = Header { mss: Some(1460), ..segment(n, 0, SYN) };
        let frame = frame(from, to, &syn, &[]);
        solo.world.b.receive(ETH0, &[RxFrame { data: &frame, ..RxFrame::default() }]);
    }
    assert!(solo.world.b.tcp_list().len() <= 64);
    assert!(solo.world.b.timers.len() < 5000, "{}", solo.world.b.timers.len());
    solo.heard();
    // With a cookie, all options.
    let syn = Header {
        sack_ok: true,
        wscale: Some(7),
        ts: Some((5000, 0)),
        mss: Some(1400),
        ..segment(1000, 0, SYN)
    };
    solo.world.wire.record.lock().as_mut().unwrap().clear();
    let (from, to) = (SocketAddr::new(ip(A), 5), at("10.0.0.2:80"));
    let first = frame(from, to, &syn, &[]);
    solo.world.b.receive(ETH0, &[RxFrame { data: &first, ..RxFrame::default() }]);
    let raw = solo.world.wire.record.lock().as_ref().unwrap().last().unwrap().clone();
    // The timestamp stands behind MSS and SACK-permitted.
    let clock = u32::from_be_bytes(raw[62..66].try_into().unwrap());
    let next = solo.heard()[0].seq.wrapping_add(1);
    let before = solo.world.b.tcp_list().len();
    let ack = Header { ts: Some((5001, clock)), ..segment(1001, next, ACK) };
    assert_eq!(solo.say(5, &Header { ack: Seq(next.wrapping_add(77)), ..ack }, &[])[0].flags, RST);
    assert_eq!(solo.say(5, &ack, b"hello").len(), 1);
    assert_eq!(solo.world.b.tcp_list().len(), before + 1);
    let conn = solo.listener.accepted.lock().pop().unwrap();
    let info = conn.info();
    assert_eq!(info.tcpi_options, TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE);
    assert_eq!((info.tcpi_wscale & 15, info.tcpi_snd_mss), (7, 1220 - 12));
    assert_eq!(conn.recv(&mut [0; 9]), Ok(5));
    // The rest is over after a while.
    solo.world.idle(130.0);
    assert_eq!(solo.world.b.tcp_list().len(), 1);
    assert!(solo.world.b.tcp.requests.lock().is_empty());
}

#[test]
fn full_accept_queues_and_deferred_accepts() {
    let pair = Pair::new(World::new(72, Faults::default()));
    pair.listener.room.store(false, Ordering::Relaxed);
    let conn = pair.dial(false, TcpOptions::default());
    pair.world.idle(2.5);
    assert_eq!(conn.state(), TCP_SYN_SENT, "dropped, not refused");
    pair.listener.room.store(true, Ordering::Relaxed);
    pair.world.idle(5.0);
    assert_eq!(conn.state(), TCP_ESTABLISHED);
    pair.listener.accepted.lock().clear();
    pair.listener.options.lock().defer_accept = 5;
    let conn = pair.dial(false, TcpOptions::default());
    pair.world.idle(0.5);
    assert_eq!(conn.state(), TCP_ESTABLISHED);
    assert!(pair.listener.accepted.lock().is_empty());
    conn.send(b"data", SendFlags::default()).unwrap();
    pair.world.idle(0.5);
    let other = pair.listener.accepted.lock().pop().unwrap();
    assert_eq!(other.queued_in(), 4);
}

#[test]
fn old_duplicates_are_kept_out() {
    let solo = Solo::new(10);
    let syn = Header { ts: Some((5000, 0)), ..segment(1000, 0, SYN) };
    let next = solo.say(5, &syn, &[])[0].seq.wrapping_add(1);
    let ts = |value| Some((value, 0));
    solo.say(5, &Header { ts: ts(5001), ..segment(1001, next, ACK) }, &[]);
    let conn = solo.listener.accepted.lock().pop().unwrap();
    // From before the wrap of the sequence space (PAWS): answered, not taken.
    let heard = solo.say(5, &Header { ts: ts(4000), ..segment(1001, next, ACK) }, b"old");
    assert_eq!(heard[0].ack, 1001);
    assert_eq!(conn.queued_in(), 0);
    solo.say(5, &Header { ts: ts(5002), ..segment(1001, next, ACK) }, b"new");
    assert_eq!(conn.queued_in(), 3);
}

#[test]
fn memory_is_bounded_for_all_together() {
    let pair = Pair::new(World::new(73, Faults::default()));
    pair.world.b.tcp_memory_limit(2 << 20);
    pair.world.a.tcp_memory_limit(2 << 20);
    let ends: Vec<_> = (0..200).map(|_| pair.connect(false, TcpOptions::default())).collect();
    for _ in 0..20 {
        for (a, _) in &ends {
            let _ = a.send(&[1; 50_000], SendFlags::default());
        }
        pair.world.idle(0.05);
        for stack in [&pair.world.a, &pair.world.b] {
            assert!(stack.tcp_memory() <= (2 << 20) + 200 * 4096 + (1 << 18), "{}", stack.tcp_memory());
        }
    }
    // All make progress nevertheless.
    let mut got = vec![0_u64; ends.len()];
    let mut buf = vec![0; 1 << 16];
    for _ in 0..100 {
        for ((_, b), got) in ends.iter().zip(&mut got) {
            while let Ok(n) = b.recv(&mut buf) {
                *got += n as u64;
            }
        }
        pair.world.idle(0.3);
    }
    assert!(got.iter().all(|got| *got > 1000), "{:?}", got.iter().min());
}

#[test]
fn mtus_shrink_on_the_way() {
    let pair = Pair::new(World::new(74, Faults::default()));
    let (a, b) = pair.connect(false, TcpOptions::default());
    let mut flow = Flow::new(&a, &b, 2_000_000);
    for _ in 0..200 {
        flow.turn();
        pair.world.step(u64::MAX);
    }
    // A router says that 900 bytes are the most.
    assert_eq!(a.info().tcpi_snd_mss, 1448);
    let una = a.look(|tcb| tcb.una.0);
    let stack = &pair.world.a;
    assert!(
        stack.tcp_error(a.local(), a.remote(), una.wrapping_sub(9), Errno::EMSGSIZE, Some(900)).is_none()
    );
    assert_eq!(a.info().tcpi_snd_mss, 1448, "what cannot be about ours is not believed");
    assert!(stack.tcp_error(a.local(), a.remote(), una, Errno::EMSGSIZE, Some(900)).is_some());
    assert_eq!(a.info().tcpi_snd_mss, 848);
    pair.world.run(60.0, || flow.turn());
}

#[test]
fn events_tell_what_happens() {
    let pair = Pair::new(World::new(75, Faults::default()));
    let ears = Arc::new(Ears::default());
    let (local, remote) = (at("10.0.0.1:555"), at("10.0.0.2:80"));
    let conn = pair.world.a.tcp_connect(local, remote, TcpOptions::default(), ears.clone()).unwrap();
    let told = || ears.0.swap(0, Ordering::Relaxed) as u32;
    assert_eq!(told(), 0);
    assert_eq!(conn.send(b"early", SendFlags::default()), Err(Errno::EAGAIN));
    pair.world.idle(0.1);
    assert_ne!(told() & POLLOUT, 0);
    let other = pair.listener.accepted.lock().pop().unwrap();
    other.send(b"x", SendFlags::default()).unwrap();
    pair.world.idle(0.1);
    assert_ne!(told() & POLLIN, 0);
    while conn.send(&[0; 100_000], SendFlags::default()).is_ok() {}
    told();
    pair.world.idle(1.0);
    let mut buf = vec![0; 1 << 20];
    pair.world.run(20.0, || {
        while other.recv(&mut buf).is_ok() {}
        told() & POLLOUT != 0
    });
    other.shutdown(SHUT_WR).unwrap();
    pair.world.idle(0.1);
    assert_ne!(told() & POLLRDHUP, 0);
    conn.close();
    other.close();
    pair.world.idle(1.0);
}
