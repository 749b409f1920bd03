//! UDP over the loopback interface.

use super::inet::{ANY, INET, INET6, LO, LO6, port_of, shown, v4, v6};
use super::*;

const ON: [u8; 4] = [1, 0, 0, 0];

/// What was received, without the port it came from.
fn got(result: Res<Got>) -> Res<Got> {
    result.map(|mut got| {
        if let Some(addr) = &mut got.addr {
            addr[2..4].fill(0xff);
        }
        got
    })
}

fn bound(k: &mut dyn Kernel) -> (Fd, u16) {
    let s = k.socket(INET, DGRAM, 0).unwrap();
    k.bind(s, &v4(LO, 0)).unwrap();
    let port = port_of(k, s);
    (s, port)
}

#[test]
fn datagrams() {
    same(|k, out| {
        let a = k.socket(INET, DGRAM, 0).unwrap();
        log!(
            out,
            k.poll(a),
            k.name(a, false),
            k.name(a, true),
            k.recv(a, 9, 0, 0),
            k.send(a, b"x", 0, None, &[]),
            k.listen(a, 1),
            k.accept(a)
        );
        let (b, port) = bound(k);
        log!(
            out,
            k.send(a, b"hello", 0, Some(&v4(LO, port)), &[]),
            shown(k.name(a, false)),
            k.poll(b),
            k.queued(b, false)
        );
        log!(
            out,
            got(k.recv(b, 2, 2, 0)),
            k.recv(b, 2, 0x20, 0).map(|g| (g.count, g.flags)),
            k.recv(b, 9, 0, 0),
            k.poll(b)
        );
        log!(
            out,
            k.send(a, b"", 0, Some(&v4(LO, port)), &[]),
            k.poll(b),
            k.queued(b, false),
            got(k.recv(b, 9, 0, 0))
        );
        log!(
            out,
            k.send(a, b"x", 0, Some(&v4(LO, 0)), &[]),
            k.send(a, b"x", 0, Some(&[2, 0, 1]), &[]),
            k.send(a, b"x", 1, Some(&v4(LO, port)), &[])
        );
        log!(
            out,
            k.send(a, b"x", 0, Some(&v6(LO6, port)), &[]),
            k.send(a, &[0; 65_508], 0, Some(&v4(LO, port)), &[]),
            k.send(a, &[0; 70_000], 0, Some(&v4(LO, port)), &[])
        );
        log!(
            out,
            k.send(a, &[1; 65_507], 0, Some(&v4(LO, port)), &[]),
            k.recv(b, 70_000, 0, 0).map(|g| g.count)
        );
        log!(
            out,
            k.connect(a, &v4(LO, port)),
            shown(k.name(a, false)),
            shown(k.name(a, true)),
            k.send(a, b"c", 0, None, &[]),
            got(k.recv(b, 9, 0, 0))
        );
        let (c, other) = bound(k);
        let at = port_of(k, a);
        log!(
            out,
            k.send(c, b"stray", 0, Some(&v4(LO, at)), &[]),
            k.poll(a),
            k.send(b, b"mine", 0, Some(&v4(LO, at)), &[]),
            got(k.recv(a, 9, 0, 0))
        );
        log!(
            out,
            k.send(a, b"to c", 0, Some(&v4(LO, other)), &[]),
            got(k.recv(c, 9, 0, 0)),
            k.get(c, 1, 4, 4),
            k.poll(c)
        );
        log!(
            out,
            k.connect(a, &[0; 16]),
            shown(k.name(a, false)),
            k.name(a, true),
            k.send(a, b"x", 0, None, &[])
        );
        log!(
            out,
            k.send(a, b"more", 0x8000, Some(&v4(LO, port)), &[]),
            k.poll(b),
            k.send(a, b" of it", 0, Some(&v4(LO, port)), &[]),
            got(k.recv(b, 20, 0, 0))
        );
        log!(
            out,
            k.set(a, 17, 1, &ON),
            k.send(a, b"cork", 0, Some(&v4(LO, port)), &[]),
            k.poll(b),
            k.set(a, 17, 1, &[0; 4]),
            got(k.recv(b, 20, 0, 0))
        );
    });
}

#[test]
fn nobody_there() {
    same(|k, out| {
        let (b, port) = bound(k);
        let a = k.socket(INET, DGRAM, 0).unwrap();
        // While the port is taken: the port that this socket gets now must be another one.
        k.send(a, b"early", 0, Some(&v4(LO, port)), &[]).unwrap();
        k.close(b);
        log!(
            out,
            k.send(a, b"x", 0, Some(&v4(LO, port)), &[]),
            k.poll(a),
            k.send(a, b"x", 0, Some(&v4(LO, port)), &[])
        );
        log!(
            out,
            k.connect(a, &v4(LO, port)),
            k.send(a, b"x", 0, None, &[]),
            k.poll(a),
            k.send(a, b"x", 0, None, &[]),
            k.poll(a)
        );
        log!(
            out,
            k.send(a, b"x", 0, None, &[]),
            k.recv(a, 9, 0, 0),
            k.poll(a),
            k.send(a, b"x", 0, None, &[]),
            k.get(a, 1, 4, 4),
            k.get(a, 1, 4, 4)
        );
        // What came back, on the error queue.
        let a = k.socket(INET, DGRAM, 0).unwrap();
        log!(
            out,
            k.set(a, 0, 11, &ON),
            k.send(a, b"lost", 0, Some(&v4(LO, port)), &[]),
            k.poll(a),
            k.recv(a, 9, 0, 0)
        );
        log!(out, got(k.recv(a, 9, 0x2000, 100)), k.poll(a), k.recv(a, 9, 0x2000, 100), k.recv(a, 9, 0, 0));
        let a = k.socket(INET6, DGRAM, 0).unwrap();
        log!(
            out,
            k.set(a, 41, 25, &ON),
            k.send(a, b"lost", 0, Some(&v6(LO6, port)), &[]),
            k.poll(a),
            got(k.recv(a, 2, 0x2000, 200)),
            k.poll(a)
        );
    });
}

#[test]
fn shut_down_sockets() {
    same(|k, out| {
        let (a, _) = bound(k);
        log!(out, k.shutdown(a, 0), k.poll(a), k.recv(a, 9, 0, 0), k.shutdown(a, 1), k.poll(a));
        let (b, port) = bound(k);
        let a = k.socket(INET, DGRAM, 0).unwrap();
        log!(
            out,
            k.connect(a, &v4(LO, port)),
            k.shutdown(a, 1),
            k.poll(a),
            k.send(a, b"x", 0, None, &[]),
            k.shutdown(a, 2),
            k.poll(a)
        );
        let at = port_of(k, a);
        log!(out, k.send(b, b"late", 0, Some(&v4(LO, at)), &[]), k.poll(a), got(k.recv(a, 9, 0, 0)));
    });
}

#[test]
fn ports_of_datagrams() {
    same(|k, out| {
        let (a, port) = bound(k);
        for (family, addr) in [
            (INET, v4(LO, port)),
            (INET, v4(ANY, port)),
            (INET, v4([127, 0, 0, 2], port)),
            (INET6, v6([0; 16], port)),
            (INET6, v6(LO6, port)),
        ] {
            for options in [&[][..], &[2], &[15], &[2, 15]] {
                let s = k.socket(family, DGRAM, 0).unwrap();
                for &option in options {
                    k.set(s, 1, option, &ON).unwrap();
                }
                log!(out, k.bind(s, &addr), k.bind(s, &addr));
                k.close(s);
            }
        }
        k.set(a, 1, 2, &ON).unwrap();
        let b = k.socket(INET, DGRAM, 0).unwrap();
        k.set(b, 1, 2, &ON).unwrap();
        let c = k.socket(INET, DGRAM, 0).unwrap();
        log!(
            out,
            k.bind(b, &v4(LO, port)),
            k.send(c, b"last", 0, Some(&v4(LO, port)), &[]),
            k.poll(a),
            k.poll(b)
        );
        k.close(b);
        log!(
            out,
            k.send(c, b"first", 0, Some(&v4(LO, port)), &[]),
            k.poll(a),
            k.bind(c, &v4([224, 0, 0, 9], 0)),
            shown(k.name(c, false))
        );
    });
}

#[test]
fn told_beside() {
    same(|k, out| {
        let (b, port) = bound(k);
        let a = k.socket(INET, DGRAM, 0).unwrap();
        for option in [8, 12, 13, 20] {
            log!(
                out,
                k.set(b, 0, option, &ON),
                k.send(a, b"x", 0, Some(&v4(LO, port)), &[]),
                got(k.recv(b, 9, 0, 200))
            );
        }
        log!(
            out,
            k.set(a, 0, 2, &[9, 0, 0, 0]),
            k.set(a, 0, 1, &[0x20, 0, 0, 0]),
            k.send(a, b"x", 0, Some(&v4(LO, port)), &[]),
            k.recv(b, 9, 0, 40).map(|g| (g.flags, g.control))
        );
        log!(
            out,
            k.set(b, 1, 29, &ON),
            k.send(a, b"x", 0, Some(&v4(LO, port)), &[]),
            k.recv(b, 9, 0, 200).map(|g| (g.flags, g.control))
        );
        let b = k.socket(INET6, DGRAM, 0).unwrap();
        log!(out, k.bind(b, &v6([0; 16], 0)));
        let port = port_of(k, b);
        let c = k.socket(INET6, DGRAM, 0).unwrap();
        for option in [49, 51, 66, 74] {
            log!(
                out,
                k.set(b, 41, option, &ON),
                k.send(a, b"4", 0, Some(&v4(LO, port)), &[]),
                got(k.recv(b, 9, 0, 200)),
                k.send(c, b"6", 0, Some(&v6(LO6, port)), &[]),
                got(k.recv(b, 9, 0, 200))
            );
        }
        log!(
            out,
            k.send(c, b"4", 0, Some(&v4(LO, port)), &[]),
            got(k.recv(b, 9, 0, 0)),
            k.connect(c, &v4(LO, port)),
            shown(k.name(c, true))
        );
        log!(out, k.set(c, 41, 26, &ON));
        let c = k.socket(INET6, DGRAM, 0).unwrap();
        log!(
            out,
            k.set(c, 41, 26, &ON),
            k.send(c, b"4", 0, Some(&v4(LO, port)), &[]),
            k.connect(c, &v4(LO, port)),
            k.send(c, b"4", 0, None, &[])
        );
    });
}

#[test]
fn groups() {
    fn mreq(group: [u8; 4], addr: [u8; 4]) -> Vec<u8> {
        [group, addr].concat()
    }
    same(|k, out| {
        let group = [239, 1, 2, 3];
        let (a, b) = (k.socket(INET, DGRAM, 0).unwrap(), k.socket(INET, DGRAM, 0).unwrap());
        log!(out, k.bind(b, &v4(ANY, 0)));
        let port = port_of(k, b);
        log!(
            out,
            k.set(b, 0, 35, &mreq(group, LO)),
            k.set(b, 0, 35, &mreq(group, LO)),
            k.set(b, 0, 35, &mreq([1, 2, 3, 4], LO)),
            k.set(b, 0, 35, &[1, 2])
        );
        log!(
            out,
            k.set(b, 0, 35, &mreq(group, [192, 0, 2, 9])),
            k.set(a, 0, 32, &LO),
            k.get(a, 0, 32, 4),
            k.set(a, 0, 32, &[192, 0, 2, 9])
        );
        log!(out, k.send(a, b"all", 0, Some(&v4(group, port)), &[]), got(k.recv(b, 9, 0, 0)));
        log!(
            out,
            k.set(a, 0, 34, &[0]),
            k.send(a, b"not", 0, Some(&v4(group, port)), &[]),
            got(k.recv(b, 9, 0, 0)),
            k.set(a, 0, 34, &[1])
        );
        log!(
            out,
            k.set(b, 0, 36, &mreq([239, 9, 9, 9], LO)),
            k.set(b, 0, 36, &mreq(group, LO)),
            k.set(b, 0, 36, &mreq(group, LO))
        );
        log!(
            out,
            k.set(b, 0, 49, &[0; 4]),
            k.send(a, b"gone", 0, Some(&v4(group, port)), &[]),
            k.recv(b, 9, 0, 0)
        );
        let mreq6 = |index: u8| {
            [&[0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[index, 0, 0, 0]].concat()
        };
        let c = k.socket(INET6, DGRAM, 0).unwrap();
        log!(
            out,
            k.set(c, 41, 20, &mreq6(1)),
            k.set(c, 41, 20, &mreq6(1)),
            k.set(c, 41, 20, &mreq6(99)),
            k.set(c, 41, 21, &mreq6(1)),
            k.set(c, 41, 21, &mreq6(1))
        );
        let t = k.socket(INET, STREAM, 0).unwrap();
        log!(out, k.set(t, 0, 35, &mreq(group, LO)), k.set(t, 0, 32, &LO), k.set(t, 0, 33, &[3]));
    });
}

#[test]
fn options_of_datagrams() {
    same(|k, out| {
        let a = k.socket(INET, DGRAM, 0).unwrap();
        let b = k.socket(INET6, DGRAM, 0).unwrap();
        for fd in [a, b] {
            for name in [1, 2, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 20, 21, 24, 32, 33, 34, 49, 50, 52] {
                log!(out, (name, k.get(fd, 0, name, 4)));
            }
            for name in [16, 17, 18, 19, 23, 24, 25, 26, 29, 33, 49, 51, 56, 58, 60, 62, 66, 67, 73, 76, 78] {
                log!(out, (name, k.get(fd, 41, name, 4)));
            }
            for name in [7, 8, 3, 38, 39, 6, 29, 35, 40, 45] {
                log!(out, (name, k.get(fd, 1, name, 4)));
            }
            log!(
                out,
                k.get(fd, 17, 1, 4),
                k.get(fd, 17, 103, 4),
                k.set(fd, 17, 103, &[0, 0, 1, 0]),
                k.set(fd, 17, 103, &[5, 0, 0, 0]),
                k.get(fd, 17, 103, 4),
                k.get(fd, 17, 99, 4),
                k.set(fd, 6, 1, &ON),
                k.get(fd, 6, 1, 4)
            );
        }
        // One call, several datagrams.
        let (r, port) = bound(k);
        log!(out, k.send(a, b"12345abcdeZ", 0, Some(&v4(LO, port)), &[]));
        for _ in 0..4 {
            log!(out, got(k.recv(r, 20, 0, 0)));
        }
    });
}

#[test]
fn pings() {
    same(|k, out| {
        let mut request = vec![8, 0, 0, 0, 0, 0, 0, 7];
        request.extend(b"payload");
        // The host lets root make them or not; ours is asked for what it always allows.
        let r = k.socket(INET, 3, 1).unwrap();
        request[4..6].copy_from_slice(&[0x12, 0x34]);
        let sum = {
            let words = request.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
            let mut sum: u32 = words.sum();
            while sum >> 16 != 0 {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            (!(sum as u16)).to_be_bytes()
        };
        request[2..4].copy_from_slice(&sum);
        log!(out, k.poll(r), k.name(r, false), k.send(r, &request, 0, Some(&v4(LO, 0)), &[]), k.poll(r));
        for _ in 0..2 {
            let got = k.recv(r, 100, 0, 0).map(|mut got| {
                // The number and sum of the IP header differ.
                got.data[4..6].fill(0);
                got.data[10..12].fill(0);
                got
            });
            log!(out, got);
        }
        log!(
            out,
            k.recv(r, 100, 0, 0),
            k.socket(INET, 3, 0),
            k.socket(INET, 3, 300),
            k.get(r, 0, 3, 4),
            k.get(r, 255, 1, 4)
        );
        log!(
            out,
            k.set(r, 255, 1, &[1, 1, 0, 0]),
            k.get(r, 255, 1, 4),
            k.send(r, &request, 0, Some(&v4(LO, 0)), &[]),
            k.recv(r, 100, 0, 0).is_err()
        );
        log!(out, k.send(r, b"x", 0, None, &[]), k.connect(r, &v4(LO, 5)), k.name(r, true), k.name(r, false));
    });
}
