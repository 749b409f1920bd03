//! Creation, names, connections and streams.

use super::*;

#[test]
fn creation() {
    same(|k, out| {
        for kind in [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 15, 0x10001, 1 | 0o4000, 1 | 0o2000000] {
            log!(out, k.socket(1, kind, 0), k.socket(1, kind, 1), k.socket(1, kind, 7));
        }
        log!(out, k.socket(-1, 1, 0), k.socket(46, 1, 0), k.socket(1000, 1, 0), k.socket(0, 1, 0));
        let fd = k.socket(1, 3, 1).unwrap();
        for option in [3, 38, 39, 30] {
            log!(out, k.get(fd, 1, option, 4));
        }
    });
}

#[test]
fn binding() {
    let dir = std::env::temp_dir().join(format!("chitin-net-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    std::env::set_current_dir(&dir).unwrap();
    same(|k, out| {
        let a = k.socket(1, STREAM, 0).unwrap();
        log!(out, k.name(a, false), k.name(a, true), k.listen(a, 1));
        log!(out, k.bind(a, &[1]), k.bind(a, &[]), k.bind(a, &un(&[b'x'; 109])), k.bind(a, &[2, 0, b'x']));
        log!(out, k.bind(a, &un(b"no/s")), k.bind(a, &un(b"s1/")));
        log!(
            out,
            k.bind(a, &un(b"s1\0junk")),
            k.name(a, false),
            k.bind(a, &un(b"s1")),
            k.bind(a, &un(b"s2"))
        );
        log!(out, k.bind(a, &name("bind")), k.bind(a, &[1, 0]));
        let b = k.socket(1, STREAM, 0).unwrap();
        log!(out, k.connect(b, &un(b"s2")), k.connect(b, &un(b"s1")), k.connect(b, &un(b"gone")));
        log!(out, k.connect(b, &[1, 0]), k.connect(b, &[1]), k.connect(b, &[2, 0, 1]), k.connect(b, &[0, 0]));
        log!(out, k.listen(a, 1), k.connect(b, &un(b"s1")), k.name(b, false), k.name(b, true));
        let c = k.accept(a).unwrap();
        log!(out, k.name(c, false), k.name(c, true));
        let d = k.socket(1, DGRAM, 0).unwrap();
        let e = k.socket(1, SEQ, 0).unwrap();
        log!(out, k.connect(d, &un(b"s1")), k.connect(e, &un(b"s1")), k.listen(d, 1));
        log!(out, k.send(d, b"x", 0, Some(&un(b"s1")), &[]));
        k.close(a);
        log!(out, k.name(b, true), k.name(c, false));
        let f = k.socket(1, STREAM, 0).unwrap();
        log!(
            out,
            k.connect(f, &un(b"s1")),
            k.bind(f, &un(b"s1")),
            k.bind(f, &un(&[b'y'; 108])),
            k.name(f, false)
        );
        // Abstract names belong to a type, and are free once their owner is gone.
        let n = name("abs");
        let (g, h, i) = (
            k.socket(1, STREAM, 0).unwrap(),
            k.socket(1, DGRAM, 0).unwrap(),
            k.socket(1, STREAM, 0).unwrap(),
        );
        log!(out, k.bind(g, &n), k.bind(h, &n), k.bind(i, &n), k.name(g, false).map(|n| n.len()));
        log!(out, k.connect(i, &n), k.connect(e, &n));
        k.close(g);
        log!(out, k.connect(i, &n), k.bind(i, &n));
        let j = k.socket(1, DGRAM, 0).unwrap();
        log!(out, k.bind(j, &[1, 0]), k.name(j, false).map(|n| n.len()), k.bind(j, &[1, 0]));
    });
    std::env::set_current_dir("/").unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn connecting() {
    same(|k, out| {
        for kind in [STREAM, SEQ] {
            let n = name(&format!("conn{kind}"));
            let a = k.socket(1, kind, 0).unwrap();
            k.bind(a, &n).unwrap();
            log!(
                out,
                k.poll(a),
                k.accept(a),
                k.connect(a, &n),
                k.send(a, b"x", 0, None, &[]),
                k.recv(a, 9, 0, 0)
            );
            log!(
                out,
                k.listen(a, 1),
                k.poll(a),
                k.accept(a),
                k.connect(a, &n),
                k.queued(a, false),
                k.queued(a, true)
            );
            log!(out, k.recv(a, 1, 0, 0), k.send(a, b"x", 0, None, &[]), k.get(a, 1, 30, 4));
            let s: Vec<Fd> = (0..4).map(|_| k.socket(1, kind, 0).unwrap()).collect();
            log!(
                out,
                k.poll(s[0]),
                k.connect(s[0], &n),
                k.poll(s[0]),
                k.connect(s[1], &n),
                k.connect(s[2], &n)
            );
            log!(out, k.connect(s[0], &n), k.poll(a), k.send(s[0], b"early", 0, None, &[]), k.bind(s[0], &n));
            let c = k.accept(a).unwrap();
            log!(
                out,
                k.poll(c),
                k.recv(c, 9, 0, 0),
                k.connect(s[0], &n),
                k.listen(s[0], 1),
                k.connect(s[2], &n)
            );
            log!(out, k.send(c, b"x", 0, Some(&n), &[]), k.recv(s[0], 9, 0, 0));
            k.close(a);
            log!(
                out,
                k.poll(s[1]),
                k.send(s[1], b"x", 0, None, &[]),
                k.recv(s[1], 9, 0, 0),
                k.recv(s[1], 9, 0, 0)
            );
            log!(out, k.get(s[2], 1, 4, 4), k.get(s[2], 1, 4, 4), k.connect(s[3], &n), k.poll(s[3]));
            log!(
                out,
                k.send(s[3], b"x", 0, Some(&n), &[]),
                k.send(s[3], b"x", 0, None, &[]),
                k.recv(s[3], 9, 0, 0)
            );
            let l = k.socket(1, kind, 0).unwrap();
            k.bind(l, &n).unwrap();
            k.listen(l, 5).unwrap();
            log!(out, k.shutdown(l, 0), k.accept(l), k.poll(l), k.connect(s[3], &n));
        }
    });
}

#[test]
fn streams() {
    same(|k, out| {
        let (a, b) = k.pair(STREAM);
        log!(
            out,
            k.poll(a),
            k.recv(b, 4, 0, 0),
            k.send(a, b"hello", 0, None, &[]),
            k.send(a, b"world", 0, None, &[])
        );
        log!(out, k.queued(b, false), k.queued(a, true), k.poll(b), k.recv(b, 3, 2, 0), k.recv(b, 20, 2, 0));
        log!(
            out,
            k.recv(b, 7, 0, 0),
            k.recv(b, 0, 0, 0),
            k.recv(b, 20, 0x20, 0),
            k.recv(b, 20, 0, 0),
            k.queued(a, true)
        );
        log!(out, k.send(a, b"", 0, None, &[]), k.recv(b, 1, 0, 0), k.recv(b, 0, 0, 0), k.recv(b, 0, 2, 0));
        log!(out, k.send(a, b"x", 0, Some(&un(b"y")), &[]), k.send(a, b"x", 0, Some(&[9]), &[]));
        // Descriptors end a read, after the bytes before and with them.
        log!(
            out,
            k.send(a, b"1", 0, None, &[]),
            k.send(a, b"22", 0, None, &[a, b]),
            k.send(a, b"3", 0, None, &[])
        );
        log!(out, k.recv(b, 20, 2, 64), k.recv(b, 20, 0, 64), k.recv(b, 20, 0, 64));
        log!(out, k.send(a, b"1", 0, None, &[a, b, a]), k.recv(b, 20, 0, 24));
        log!(out, k.send(a, b"12", 0, None, &[a, b, a]), k.recv(b, 1, 0, 0), k.recv(b, 1, 0, 64));
        log!(
            out,
            k.send(a, b"1", 0, None, &[a]),
            k.send(a, b"2", 0, None, &[b]),
            k.recv(b, 9, 0, 64),
            k.recv(b, 9, 0, 64)
        );
        log!(out, k.send(a, b"", 0, None, &[a]), k.recv(b, 9, 0, 64), k.recv(b, 9, 0, 20));
        // SO_PEEK_OFF.
        k.send(a, b"0123456789", 0, None, &[]).unwrap();
        k.set(b, 1, 42, &2i32.to_ne_bytes()).unwrap();
        log!(
            out,
            k.recv(b, 3, 2, 0),
            k.recv(b, 3, 2, 0),
            k.recv(b, 1, 0, 0),
            k.recv(b, 9, 2, 0),
            k.recv(b, 9, 2, 0)
        );
        log!(out, k.get(b, 1, 42, 4), k.recv(b, 90, 0, 0), k.get(b, 1, 42, 4));
        k.set(b, 1, 42, &(-1i32).to_ne_bytes()).unwrap();
        // Shutting down.
        log!(out, k.shutdown(a, 3), k.shutdown(a, -1), k.shutdown(a, 1), k.poll(a), k.poll(b));
        log!(
            out,
            k.send(a, b"x", 0, None, &[]),
            k.send(a, b"", 0, None, &[]),
            k.recv(b, 1, 0, 0),
            k.send(b, b"y", 0, None, &[])
        );
        log!(
            out,
            k.recv(a, 9, 0, 0),
            k.shutdown(a, 0),
            k.poll(a),
            k.poll(b),
            k.send(b, b"y", 0, None, &[]),
            k.recv(a, 9, 0, 0)
        );
        // Unread bytes at close.
        let (a, b) = k.pair(STREAM);
        k.send(a, b"lost", 0, None, &[]).unwrap();
        k.send(b, b"kept", 0, None, &[]).unwrap();
        k.close(b);
        log!(
            out,
            k.poll(a),
            k.send(a, b"x", 0, None, &[]),
            k.recv(a, 2, 0, 0),
            k.recv(a, 9, 0, 0),
            k.recv(a, 9, 0, 0)
        );
        log!(out, k.recv(a, 9, 0, 0), k.poll(a), k.name(a, true));
        let (a, b) = k.pair(STREAM);
        k.close(b);
        log!(out, k.poll(a), k.recv(a, 9, 0, 0), k.send(a, b"x", 0, None, &[]), k.get(a, 1, 4, 4));
    });
}
