//! The parsers against what they must survive: every cut, every flipped byte, and noise.

use super::support::*;
use crate::dns::{answer as parse, framed, question as asked};
use crate::hello::{Hello, LONGEST, look};
use crate::{Engine, Fate, Pieces, Policy};

/// A generator that needs nothing (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
    fn spoil(&mut self, data: &[u8]) -> Vec<u8> {
        let mut data = data.to_vec();
        for _ in 0..=self.below(4) {
            let (at, value) = (self.below(data.len()), self.next().to_le_bytes()[0]);
            match self.below(4) {
                0 => data.truncate(at.max(1)),
                1 => data.insert(at, value),
                _ => data[at] = value,
            }
        }
        data
    }
}

#[test]
fn answers() {
    let good = answer("WWW.Example.org", &["a.cdn.net", "b.cdn.net"], &["1.2.3.4", "2001:db8::1"]);
    let found = parse(&good).unwrap();
    assert_eq!(found.names, ["www.example.org", "a.cdn.net", "b.cdn.net"]);
    assert_eq!(found.addresses, [(ip("1.2.3.4"), 60), (ip("2001:db8::1"), 60)]);
    // A record that is nobody's in the chain does not count.
    let mut foreign = answer("a.org", &[], &["1.2.3.4"]);
    let owner = foreign.len() - 16;
    foreign[owner + 1] = 14;
    assert_eq!(parse(&foreign), None);
    // A question, an error, a truncated one.
    for (at, value) in [(2, 0x01), (3, 0x83), (2, 0x83), (5, 2)] {
        let mut other = good.clone();
        other[at] = value;
        assert_eq!(parse(&other), None, "{at}");
    }
    // Pointers to themselves and forward.
    let mut looped = good.clone();
    looped[12..14].copy_from_slice(&[0xc0, 12]);
    assert_eq!(parse(&looped), None);
    for cut in 0..good.len() {
        let _ = parse(&good[..cut]);
    }
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for _ in 0..200_000 {
        if let Some(found) = parse(&noise.spoil(&good)) {
            assert!(found.names.len() <= 16 && found.names.iter().all(|n| n.len() <= 253));
        }
    }
    let good = question("www.example.org", 0, &[]);
    assert_eq!(asked(&good).as_deref(), Some("www.example.org"));
    assert!((0..good.len()).all(|cut| asked(&good[..cut]).is_none()));
    for _ in 0..50_000 {
        let _ = asked(&noise.spoil(&good));
    }
    let stream = [&[0, 3][..], b"abc", &[0, 9, 1]].concat();
    assert_eq!(framed(&stream), Some((&b"abc"[..], &[0, 9, 1][..])));
    assert_eq!(framed(&[0, 9, 1]), None);
}

#[test]
fn hellos() {
    let good = hello("WWW.example.org");
    assert_eq!(look(&good), Hello::Name("www.example.org".into()));
    for cut in 0..good.len() {
        assert_eq!(look(&good[..cut]), Hello::More, "{cut}");
    }
    // However it is cut into records.
    for size in [1, 2, 3, 5, 100] {
        assert_eq!(look(&records(&handshake(&["a.org"]), size)), Hello::Name("a.org".into()));
    }
    assert_eq!(look(&records(&handshake(&[]), 9999)), Hello::Nobody);
    // Two names: it depends on the server which one counts.
    assert_eq!(look(&records(&handshake(&["a.org", "b.org"]), 9999)), Hello::Nobody);
    assert_eq!(look(&records(&handshake(&["a b"]), 9999)), Hello::Nobody);
    for other in [&b"GET / HTTP/1.1"[..], b"SSH-2.0-x", &[22, 2, 0, 0], &[0x80, 1, 2, 3, 4]] {
        assert_eq!(look(other), Hello::Other, "{other:?}");
    }
    assert_eq!(look(&[0x80, 0x2e, 1, 3, 1]), Hello::Nobody);
    // It has to come to an end.
    let mut endless = vec![22, 3, 1, 0, 4, 1, 0, 0x43, 0];
    while endless.len() < LONGEST {
        endless.extend([22, 3, 1, 0, 1, 7]);
    }
    assert_eq!(look(&endless), Hello::Nobody);
    let mut noise = Noise(7);
    for _ in 0..50_000 {
        let spoilt = noise.spoil(&good);
        if let Hello::Name(name) = look(&spoilt) {
            assert!(name.len() <= 253);
        }
        let short: Vec<u8> = (0..noise.below(64)).map(|_| noise.next().to_le_bytes()[0]).collect();
        let _ = (look(&short), parse(&short));
    }
}

#[test]
fn frames_and_policies() {
    let (engine, _) = engine("dns any; allow *.org; allow 10.0.0.0/8; rate 1G");
    let frames = [
        ipv4(HOST, [10, 1, 1, 1].into(), 6, 0, &tcp(1, 443, 2, 1, 0, &[])),
        ipv4(HOST, [10, 1, 1, 1].into(), 6, 0, &tcp(1, 443, 16, 2, 0, &hello("a.org"))),
        ipv4([9, 9, 9, 9].into(), HOST, 17, 0, &udp(53, 9, &answer("a.org", &[], &["1.2.3.4"]))),
        ipv4(
            HOST,
            [9, 9, 9, 9].into(),
            1,
            0,
            &[3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 99, 0, 0, 0, 0, 1, 17, 0, 0],
        ),
        [
            &[2; 12][..],
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 0, 64],
            &[9; 32],
            &[44, 0, 0, 0, 0, 0, 0, 0],
            &[0; 16],
        ]
        .concat(),
    ];
    let mut noise = Noise(99);
    for _ in 0..100_000 {
        let spoilt = noise.spoil(&frames[noise.0 as usize % frames.len()]);
        let cut = noise.below(spoilt.len());
        let (a, b) = spoilt.split_at(cut);
        let _: Fate = engine.outgoing(&Pieces([a, b, &[]]), true);
        engine.incoming(&spoilt, true);
    }
    let (flows, held) = engine.load();
    assert!(flows <= 16 * 2048 && held <= 9 << 20, "{flows} {held}");
    engine.finish();
    assert_eq!(engine.load(), (0, 0));
    let words = [
        "allow",
        "deny",
        "any",
        "tcp:80",
        "10.0.0.0/8",
        "::/0",
        ";",
        "\n",
        "#",
        "*.a.b",
        "rate",
        "dns",
        ":",
        "é",
    ];
    for _ in 0..50_000 {
        let text: Vec<&str> = (0..noise.below(9)).map(|_| words[noise.below(words.len())]).collect();
        if let Err(error) = Policy::parse(&text.join(" ")) {
            assert!(!error.contains('\n'), "{error}");
        }
    }
    let _: &Engine = &engine;
}
