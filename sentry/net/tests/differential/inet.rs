//! TCP over the loopback interface.

use super::*;

pub const INET: i32 = 2;
pub const INET6: i32 = 10;

pub fn v4(ip: [u8; 4], port: u16) -> Vec<u8> {
    let mut raw = vec![2, 0];
    raw.extend(port.to_be_bytes());
    raw.extend(ip);
    raw.extend([0; 8]);
    raw
}

pub fn v6(ip: [u8; 16], port: u16) -> Vec<u8> {
    let mut raw = vec![10, 0];
    raw.extend(port.to_be_bytes());
    raw.extend([0; 4]);
    raw.extend(ip);
    raw.extend([0; 4]);
    raw
}

pub const LO: [u8; 4] = [127, 0, 0, 1];
pub const ANY: [u8; 4] = [0; 4];
pub const LO6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

pub fn port_of(k: &mut dyn Kernel, fd: Fd) -> u16 {
    let raw = k.name(fd, false).unwrap();
    u16::from_be_bytes([raw[2], raw[3]])
}

/// A name without its port.
pub fn shown(name: Res<Vec<u8>>) -> Res<Vec<u8>> {
    name.map(|mut raw| {
        if raw[2..4] != [0, 0] {
            raw[2..4].fill(0xff);
        }
        raw
    })
}

fn listener(k: &mut dyn Kernel, backlog: i32) -> (Fd, u16) {
    let l = k.socket(INET, STREAM, 0).unwrap();
    k.bind(l, &v4(LO, 0)).unwrap();
    k.listen(l, backlog).unwrap();
    let port = port_of(k, l);
    (l, port)
}

/// Listener, client and accepted socket.
fn connected(k: &mut dyn Kernel) -> (Fd, Fd, Fd) {
    let (l, port) = listener(k, 5);
    let c = k.socket(INET, STREAM, 0).unwrap();
    let _ = k.connect(c, &v4(LO, port));
    let s = k.accept(l).unwrap();
    let _ = k.connect(c, &v4(LO, port));
    (l, c, s)
}

#[test]
fn states_of_a_connection() {
    same(|k, out| {
        let c = k.socket(INET, STREAM, 0).unwrap();
        log!(out, k.poll(c), k.name(c, false), k.name(c, true), k.recv(c, 10, 0, 0), k.shutdown(c, 2));
        log!(
            out,
            k.poll(c),
            k.accept(c),
            k.queued(c, false),
            k.queued(c, true),
            k.send(c, b"x", 0, None, &[])
        );
        let (l, port) = listener(k, 5);
        log!(
            out,
            k.poll(l),
            k.accept(l),
            k.queued(l, false),
            k.queued(l, true),
            k.recv(l, 9, 0, 0),
            shown(k.name(l, false))
        );
        log!(out, k.name(l, true), k.connect(l, &v4(LO, port)), k.send(l, b"x", 0, None, &[]));
        let c = k.socket(INET, STREAM, 0).unwrap();
        log!(out, k.connect(c, &v4(LO, port)), k.poll(c), k.poll(l), k.connect(c, &v4(LO, port)));
        log!(out, k.connect(c, &v4(LO, port)), k.send(c, b"hello", 0, None, &[]), k.queued(c, true));
        let s = k.accept(l).unwrap();
        log!(
            out,
            shown(k.name(s, false)),
            shown(k.name(s, true)),
            shown(k.name(c, false)),
            shown(k.name(c, true))
        );
        log!(
            out,
            k.poll(s),
            k.queued(s, false),
            k.recv(s, 3, 0, 0),
            k.recv(s, 9, 2, 0),
            k.recv(s, 9, 0x20, 0).map(|got| got.count),
            k.recv(s, 9, 0, 0)
        );
        log!(out, k.poll(s), k.shutdown(c, 1), k.poll(c), k.poll(s), k.recv(s, 9, 0, 0), k.recv(s, 9, 0, 0));
        log!(out, k.send(c, b"no", 0, None, &[]), k.send(s, b"back", 0, None, &[]), k.recv(c, 9, 0, 0));
        log!(out, k.shutdown(c, 1), k.shutdown(s, 1), k.poll(c), k.poll(s), k.name(c, true), k.name(s, true));
        log!(
            out,
            k.shutdown(c, 1),
            k.recv(c, 9, 0, 0),
            k.send(c, b"x", 0, None, &[]),
            k.connect(c, &v4(LO, port))
        );
        log!(out, shown(k.name(c, false)), k.listen(c, 1));
    });
}

#[test]
fn resets() {
    same(|k, out| {
        let (_l, c, s) = connected(k);
        // Unread data at close is a reset.
        log!(out, k.send(c, b"unread", 0, None, &[]));
        k.close(s);
        log!(
            out,
            k.poll(c),
            k.recv(c, 9, 0, 0),
            k.poll(c),
            k.recv(c, 9, 0, 0),
            k.send(c, b"x", 0, None, &[])
        );
        log!(out, k.get(c, 1, 4, 4), k.name(c, true), k.shutdown(c, 2));
        let (_l, c, s) = connected(k);
        // No time to linger.
        log!(out, k.send(s, b"data", 0, None, &[]), k.set(s, 1, 13, &[1, 0, 0, 0, 0, 0, 0, 0]));
        k.close(s);
        log!(out, k.poll(c), k.recv(c, 9, 0, 0), k.get(c, 1, 4, 4), k.recv(c, 9, 0, 0), k.get(c, 1, 4, 4));
        let (_l, c, s) = connected(k);
        // Data to a socket that is gone.
        k.close(s);
        log!(out, k.poll(c), k.send(c, b"one", 0, None, &[]), k.poll(c), k.recv(c, 9, 0, 0));
        log!(
            out,
            k.send(c, b"two", 0, None, &[]),
            k.send(c, b"three", 0, None, &[]),
            k.get(c, 1, 4, 4),
            k.poll(c)
        );
        let (_l, c, s) = connected(k);
        // Data to one that has shut down both ways.
        log!(
            out,
            k.shutdown(s, 2),
            k.poll(s),
            k.poll(c),
            k.send(c, b"one", 0, None, &[]),
            k.poll(c),
            k.poll(s)
        );
        log!(out, k.recv(s, 9, 0, 0), k.get(c, 1, 4, 4), k.get(s, 1, 4, 4), k.recv(c, 9, 0, 0));
        let (_l, c, s) = connected(k);
        // To one that does not receive.
        log!(
            out,
            k.shutdown(s, 0),
            k.poll(s),
            k.send(c, b"one", 0, None, &[]),
            k.recv(s, 9, 0, 0),
            k.recv(s, 9, 0, 0),
            k.poll(c)
        );
        let (l, c, _s) = connected(k);
        // Never accepted.
        let d = k.socket(INET, STREAM, 0).unwrap();
        let port = port_of(k, l);
        log!(out, k.connect(d, &v4(LO, port)), k.connect(d, &v4(LO, port)));
        k.close(l);
        log!(out, k.poll(d), k.recv(d, 9, 0, 0), k.poll(d), k.poll(c), k.connect(d, &v4(LO, port)));
        let (_l, c, s) = connected(k);
        // Dissolved.
        log!(
            out,
            k.connect(c, &[0; 16]),
            k.poll(c),
            k.poll(s),
            k.recv(s, 9, 0, 0),
            k.name(c, true),
            shown(k.name(c, false))
        );
    });
}

#[test]
fn refusals_and_repetitions() {
    same(|k, out| {
        let (l, port) = listener(k, 5);
        k.close(l);
        let c = k.socket(INET, STREAM, 0).unwrap();
        log!(
            out,
            k.connect(c, &v4(LO, port)),
            k.poll(c),
            k.get(c, 1, 4, 4),
            k.poll(c),
            k.connect(c, &v4(LO, port))
        );
        log!(out, k.connect(c, &v4(LO, port)), k.connect(c, &v4(LO, port)), k.connect(c, &v4(LO, port)));
        log!(out, k.poll(c), k.recv(c, 9, 0, 0), k.recv(c, 9, 0, 0));
        let c = k.socket(INET, STREAM, 0).unwrap();
        log!(
            out,
            k.connect(c, &v6(LO6, port)),
            k.connect(c, &v4(LO, 0)),
            k.connect(c, &[2, 0, 1]),
            k.connect(c, &v4([255; 4], 5))
        );
        let c = k.socket(INET6, STREAM, 0).unwrap();
        log!(out, k.connect(c, &v4(LO, port)), k.connect(c, &v6([0xff; 16], 1)), k.bind(c, &v4(LO, 0)));
        log!(
            out,
            k.bind(c, &v6([0x20; 16], 0)),
            k.bind(c, &v6(LO6, 0)),
            k.bind(c, &v6(LO6, 0)),
            shown(k.name(c, false))
        );
        let c = k.socket(INET, STREAM, 0).unwrap();
        log!(
            out,
            k.bind(c, &v6(LO6, 0)),
            k.bind(c, &v4([192, 0, 2, 77], 0)),
            k.bind(c, &v4([224, 0, 0, 5], 0))
        );
        log!(
            out,
            k.socket(INET, DGRAM, 6),
            k.socket(INET, STREAM, 17),
            k.socket(INET, SEQ, 0),
            k.socket(INET, 7, 0)
        );
    });
}

#[test]
fn ports_and_reuse() {
    const ON: [u8; 4] = [1, 0, 0, 0];
    same(|k, out| {
        let (l, port) = listener(k, 5);
        for (family, addr) in [
            (INET, v4(LO, port)),
            (INET, v4(ANY, port)),
            (INET, v4([127, 0, 0, 2], port)),
            (INET6, v6([0; 16], port)),
            (INET6, v6(LO6, port)),
        ] {
            for options in [&[][..], &[2], &[15], &[2, 15]] {
                let s = k.socket(family, STREAM, 0).unwrap();
                for &option in options {
                    k.set(s, 1, option, &ON).unwrap();
                }
                log!(out, k.bind(s, &addr), k.listen(s, 1));
                k.close(s);
                if family == INET6 {
                    let s = k.socket(family, STREAM, 0).unwrap();
                    log!(out, k.set(s, 41, 26, &ON), k.bind(s, &addr), k.listen(s, 1));
                    k.close(s);
                }
            }
        }
        k.close(l);
        // Both willing: one may listen.
        let a = k.socket(INET, STREAM, 0).unwrap();
        let b = k.socket(INET, STREAM, 0).unwrap();
        k.set(a, 1, 2, &ON).unwrap();
        k.set(b, 1, 2, &ON).unwrap();
        log!(
            out,
            k.bind(a, &v4(LO, port)),
            k.bind(b, &v4(LO, port)),
            k.listen(a, 1),
            k.listen(b, 1),
            k.listen(a, 7)
        );
        k.close(a);
        log!(out, k.listen(b, 1));
        k.close(b);
        // A group.
        let a = k.socket(INET, STREAM, 0).unwrap();
        let b = k.socket(INET, STREAM, 0).unwrap();
        k.set(a, 1, 15, &ON).unwrap();
        k.set(b, 1, 15, &ON).unwrap();
        log!(out, k.bind(a, &v4(LO, port)), k.bind(b, &v4(LO, port)), k.listen(a, 1), k.listen(b, 1));
        k.close(a);
        k.close(b);
        // What TIME_WAIT keeps busy.
        for (reuse, reuse_later) in [(false, false), (false, true), (true, false), (true, true)] {
            let l = k.socket(INET, STREAM, 0).unwrap();
            k.set(l, 1, 2, &[reuse.into(), 0, 0, 0]).unwrap();
            k.bind(l, &v4(LO, 0)).unwrap();
            k.listen(l, 5).unwrap();
            let port = port_of(k, l);
            let c = k.socket(INET, STREAM, 0).unwrap();
            let _ = k.connect(c, &v4(LO, port));
            let s = k.accept(l).unwrap();
            k.close(l);
            k.close(s);
            k.close(c);
            let l = k.socket(INET, STREAM, 0).unwrap();
            k.set(l, 1, 2, &[reuse_later.into(), 0, 0, 0]).unwrap();
            log!(out, k.bind(l, &v4(LO, port)), k.bind(l, &v4(ANY, port)));
        }
        // The port that connect(2) chose can be used again only after the connection.
        let (l, port) = listener(k, 5);
        let c = k.socket(INET, STREAM, 0).unwrap();
        let _ = k.connect(c, &v4(LO, port));
        let own = port_of(k, c);
        let other = k.socket(INET, STREAM, 0).unwrap();
        log!(out, k.bind(other, &v4(LO, own)));
        let s = k.accept(l).unwrap();
        k.close(s);
        k.close(c);
        log!(out, k.bind(other, &v4(LO, own)));
    });
}

#[test]
fn both_families() {
    same(|k, out| {
        let l = k.socket(INET6, STREAM, 0).unwrap();
        log!(out, k.get(l, 41, 26, 4), k.bind(l, &v6([0; 16], 0)), k.listen(l, 3), shown(k.name(l, false)));
        let port = port_of(k, l);
        let c = k.socket(INET, STREAM, 0).unwrap();
        log!(out, k.set(l, 41, 26, &[1, 0, 0, 0]), k.connect(c, &v4(LO, port)));
        let s = k.accept(l).unwrap();
        log!(
            out,
            shown(k.name(s, false)),
            shown(k.name(s, true)),
            shown(k.name(c, false)),
            shown(k.name(c, true))
        );
        let c = k.socket(INET6, STREAM, 0).unwrap();
        let mut mapped = [0; 16];
        mapped[10..12].fill(0xff);
        mapped[12..].copy_from_slice(&LO);
        log!(out, k.connect(c, &v6(mapped, port)), shown(k.name(c, false)), shown(k.name(c, true)));
        let c = k.socket(INET6, STREAM, 0).unwrap();
        log!(out, k.connect(c, &v6([0; 16], port)), shown(k.name(c, false)), shown(k.name(c, true)));
        let c = k.socket(INET, STREAM, 0).unwrap();
        log!(out, k.connect(c, &v4([127, 3, 4, 5], port)), shown(k.name(c, false)), shown(k.name(c, true)));
        let c = k.socket(INET6, STREAM, 0).unwrap();
        log!(
            out,
            k.set(c, 41, 26, &[1, 0, 0, 0]),
            k.connect(c, &v6(mapped, port)),
            k.bind(c, &v6(mapped, 0))
        );
        // The closest binding gets the connection.
        let near = k.socket(INET, STREAM, 0).unwrap();
        log!(out, k.bind(near, &v4([127, 0, 0, 9], port)));
        let own = k.socket(INET, STREAM, 0).unwrap();
        k.bind(own, &v4(LO, 0)).unwrap();
        let own = port_of(k, own);
        log!(out, own > 1024);
    });
}

#[test]
fn urgent_data() {
    same(|k, out| {
        for inline in [0u8, 1] {
            let (_l, c, s) = connected(k);
            k.set(s, 1, 10, &[inline, 0, 0, 0]).unwrap();
            log!(out, k.recv(s, 9, 1, 0), k.send(c, b"abc", 0, None, &[]), k.send(c, b"de", 1, None, &[]));
            log!(out, k.poll(s), k.queued(s, false), k.send(c, b"fg", 0, None, &[]), k.queued(s, false));
            log!(
                out,
                k.recv(s, 9, 3, 0),
                k.recv(s, 9, 0, 0),
                k.poll(s),
                k.queued(s, false),
                k.recv(s, 9, 1, 0),
                k.recv(s, 9, 1, 0)
            );
            log!(
                out,
                k.poll(s),
                k.recv(s, 9, 2, 0),
                k.recv(s, 9, 0, 0),
                k.recv(s, 9, 0, 0),
                k.poll(s),
                k.recv(s, 9, 1, 0)
            );
            log!(
                out,
                k.send(c, b"1", 1, None, &[]),
                k.poll(s),
                k.send(c, b"2", 1, None, &[]),
                k.poll(s),
                k.queued(s, false)
            );
            log!(out, k.recv(s, 9, 1, 0), k.recv(s, 9, 0, 0), k.recv(s, 9, 0, 0));
            log!(
                out,
                k.send(c, b"xyz", 1, None, &[]),
                k.recv(s, 1, 0, 0),
                k.recv(s, 9, 0, 0),
                k.recv(s, 9, 0, 0),
                k.recv(s, 9, 1, 0)
            );
        }
    });
}

#[test]
fn option_values() {
    same(|k, out| {
        let (_l, c, s) = connected(k);
        let fresh = k.socket(INET, STREAM, 0).unwrap();
        let fresh6 = k.socket(INET6, STREAM, 0).unwrap();
        for fd in [fresh, fresh6, c, s] {
            for name in [1, 2, 3, 5, 6, 7, 8, 9, 10, 13, 15, 18, 30, 36, 38, 39] {
                // What a connection's send buffer grows to depends on the host's congestion control.
                if name == 7 && (fd == c || fd == s) {
                    continue;
                }
                log!(out, (name, k.get(fd, 1, name, 8)));
            }
            for name in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 18, 19, 23, 25, 27, 30, 31, 34, 36, 37] {
                log!(out, (name, k.get(fd, 6, name, 16)));
            }
            for name in [1, 2, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 20, 21, 24, 32, 33, 34, 49, 50] {
                log!(out, (name, k.get(fd, 0, name, 4)), k.get(fd, 0, name, 2));
            }
            for name in
                [1, 16, 17, 18, 19, 23, 24, 25, 26, 29, 33, 49, 51, 56, 58, 60, 62, 66, 67, 73, 76, 78]
            {
                log!(out, (name, k.get(fd, 41, name, 4)));
            }
            log!(out, k.get(fd, 77, 1, 4), k.get(fd, 17, 1, 4));
        }
        let values: [i32; 9] = [-2, -1, 0, 1, 2, 60, 200, 300, 40_000];
        for value in values {
            let raw = value.to_ne_bytes();
            for name in [2, 4, 5, 6, 7, 8, 9, 10, 18, 23, 27, 36] {
                log!(out, (name, value, k.set(fresh, 6, name, &raw)), k.get(fresh, 6, name, 4));
            }
            for name in [1, 2, 10, 21, 33, 34, 49, 24, 15] {
                log!(out, (name, value, k.set(fresh, 0, name, &raw)), k.get(fresh, 0, name, 4));
            }
            for name in [16, 18, 19, 23, 24, 67, 26, 70, 62, 73] {
                log!(out, (name, value, k.set(fresh6, 41, name, &raw)), k.get(fresh6, 41, name, 4));
            }
        }
        log!(
            out,
            k.set(fresh, 6, 13, b"reno"),
            k.get(fresh, 6, 13, 16),
            k.set(fresh, 6, 13, b"nope"),
            k.set(fresh, 6, 1, &[1])
        );
        log!(
            out,
            k.set(fresh, 41, 26, &[1, 0, 0, 0]),
            k.set(fresh, 0, 1, &[0x10]),
            k.get(fresh, 0, 1, 4),
            k.set(fresh, 0, 99, &[0; 4])
        );
    });
}

#[test]
fn backlogs() {
    same(|k, out| {
        let (l, port) = listener(k, 1);
        let clients: Vec<Fd> = (0..4).map(|_| k.socket(INET, STREAM, 0).unwrap()).collect();
        for &c in &clients {
            let _ = k.connect(c, &v4(LO, port));
            log!(out, k.poll(c), k.connect(c, &v4(LO, port)));
        }
        log!(
            out,
            k.send(clients[3], b"x", 0, None, &[]),
            k.recv(clients[3], 1, 0, 0),
            k.name(clients[3], true)
        );
        log!(
            out,
            k.accept(l).is_ok(),
            k.accept(l).is_ok(),
            k.shutdown(l, 1),
            k.shutdown(l, 0),
            k.poll(l),
            k.accept(l)
        );
        log!(out, k.listen(l, 3), k.poll(l), k.accept(l));
    });
}

#[test]
fn connects_to_itself() {
    same(|k, out| {
        let s = k.socket(INET, STREAM, 0).unwrap();
        k.bind(s, &v4(LO, 0)).unwrap();
        let port = port_of(k, s);
        log!(
            out,
            k.connect(s, &v4(LO, port)),
            k.poll(s),
            k.connect(s, &v4(LO, port)),
            k.send(s, b"me", 0, None, &[])
        );
        log!(
            out,
            k.recv(s, 9, 0, 0),
            k.name(s, false) == k.name(s, true),
            k.shutdown(s, 1),
            k.recv(s, 9, 0, 0),
            k.poll(s)
        );
        // Two that meet.
        let (a, b) = (k.socket(INET, STREAM, 0).unwrap(), k.socket(INET, STREAM, 0).unwrap());
        k.bind(a, &v4(LO, 0)).unwrap();
        k.bind(b, &v4(LO, 0)).unwrap();
        let (at, bt) = (port_of(k, a), port_of(k, b));
        log!(out, k.connect(a, &v4(LO, bt)), k.connect(b, &v4(LO, at)), k.poll(a));
    });
}

/// connect(2) to AF_UNSPEC, and what comes after: the socket has parted from its connection for good.
#[test]
fn connects_again() {
    same(|k, out| {
        let (l, c, s) = connected(k);
        let port = port_of(k, l);
        log!(out, k.send(c, b"first", 0, None, &[]), k.send(s, b"lost", 0, None, &[]), k.poll(c));
        log!(out, k.connect(c, &[0; 16]), k.poll(c), k.recv(c, 9, 0, 0), k.recv(c, 9, 0, 0));
        log!(out, k.send(c, b"x", 0, None, &[]), k.poll(c), k.poll(s), k.recv(s, 9, 0, 0));
        log!(out, k.recv(s, 9, 0, 0), k.send(s, b"x", 0, None, &[]), k.poll(s));
        for round in 0..2 {
            log!(out, k.connect(c, &v4(LO, port)), k.poll(c));
            let s = k.accept(l).unwrap();
            log!(out, k.poll(c), k.poll(s), k.connect(c, &v4(LO, port)));
            log!(
                out,
                k.send(c, b"again", 0, None, &[]),
                k.send(s, b"back", 0, None, &[]),
                k.poll(c),
                k.poll(s)
            );
            log!(out, k.recv(c, 9, 0, 0), k.recv(s, 9, 0, 0), k.poll(c), k.poll(s));
            if round == 0 {
                // The error that this leaves is not taken.
                log!(out, k.connect(c, &[0; 16]), k.get(c, 1, 3, 4));
            }
        }
    });
}

#[test]
fn full_buffers() {
    same(|k, out| {
        let (_l, c, s) = connected(k);
        let data = vec![7u8; 1 << 20];
        let mut sent = 0;
        while let Ok(count) = k.send(c, &data, 0, None, &[]) {
            sent += count;
        }
        log!(out, k.send(c, b"x", 0, None, &[]), k.poll(c), sent > 60_000, k.poll(s));
        let mut got = 0;
        while let Ok(part) = k.recv(s, 1 << 20, 0, 0) {
            got += part.count;
        }
        log!(out, got == sent, k.poll(c), k.send(c, b"x", 0, None, &[]));
    });
}
