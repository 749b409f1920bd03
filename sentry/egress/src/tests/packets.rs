//! Packets of well-behaved and of other guests.

use super::support::*;
use crate::{Engine, Fate, Pieces, TCP, UDP};
use std::net::Ipv4Addr;
use std::sync::Arc;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 53);
const POLICY: &str = "dns 10.0.0.53; allow *.example.org tcp:443; allow 10.0.1.0/24 udp";
const SYN: u8 = 2;
const ACK: u8 = 16;
const RST: u8 = 4;

fn out(engine: &Engine, frame: &[u8]) -> Fate {
    engine.outgoing(&Pieces([frame, &[], &[]]), true)
}

fn resolve(engine: &Engine, name: &str, address: &str) {
    assert_eq!(out(engine, &ipv4(HOST, RESOLVER, UDP, 0, &udp(5000, 53, b"?"))), Fate::Pass);
    engine.incoming(&ipv4(RESOLVER, HOST, UDP, 0, &udp(53, 5000, &answer(name, &[], &[address]))), true);
}

struct Client {
    engine: Arc<Engine>,
    port: u16,
    next: u32,
}

impl Client {
    fn say(&mut self, data: &[u8]) -> Fate {
        let fate = self.at(self.next, ACK, data);
        self.next = self.next.wrapping_add(u32::try_from(data.len()).unwrap());
        fate
    }
    fn at(&self, seq: u32, flags: u8, data: &[u8]) -> Fate {
        out(&self.engine, &ipv4(HOST, SERVER, TCP, 0, &tcp(self.port, 443, flags, seq, 1, data)))
    }
    fn hear(&self, flags: u8, ack: u32) {
        self.engine.incoming(&ipv4(SERVER, HOST, TCP, 0, &tcp(443, self.port, flags, 700, ack, &[])), true);
    }
}

fn connect(engine: &Arc<Engine>, port: u16) -> Client {
    let mut client = Client { engine: engine.clone(), port, next: u32::MAX - 20 };
    assert_eq!(client.at(client.next, SYN, &[]), Fate::Pass);
    client.next = client.next.wrapping_add(1);
    client.hear(SYN | ACK, client.next);
    client
}

#[test]
fn a_domain_and_its_neighbours() {
    let (engine, noted) = engine(POLICY);
    assert_eq!(out(&engine, &ipv4(HOST, SERVER, TCP, 0, &tcp(1, 443, SYN, 0, 0, &[]))), Fate::Drop);
    assert_eq!(noted.events(), ["deny  [default deny]"]);
    resolve(&engine, "www.example.org", "10.0.0.9");
    noted.events();
    let mut client = connect(&engine, 2);
    for part in hello("www.example.org").chunks(500) {
        assert_eq!(client.say(part), Fate::Pass);
    }
    assert_eq!(client.say(b"and so on"), Fate::Pass);
    assert_eq!(noted.events(), ["open www.example.org [allow *.example.org tcp:443]"]);
    // Another name of the same address: its last part does not leave, nor does anything after it.
    let mut client = connect(&engine, 3);
    let data = hello("other.org");
    assert_eq!(client.say(&data[..100]), Fate::Pass);
    assert_eq!(client.say(&data[100..]), Fate::Drop);
    assert_eq!((client.say(b"more"), client.at(client.next, RST, &[])), (Fate::Drop, Fate::Pass));
    assert_eq!(noted.resets.lock().len(), 1);
    assert_eq!(noted.events()[1], "reset other.org [default deny]");
    // Without TLS the address is all there is.
    assert_eq!(connect(&engine, 4).say(b"hello"), Fate::Pass);
    // At its end, and at all others'.
    client.hear(RST, 0);
    noted.wait(432_001);
    engine.sweep();
    let events = noted.events();
    assert_eq!(events.iter().filter(|e| e.starts_with("close www.example.org")).count(), 2, "{events:?}");
    assert_eq!(engine.load(), (0, 0));
}

#[test]
fn nothing_is_said_twice_or_early() {
    let (engine, _) = engine(POLICY);
    resolve(&engine, "www.example.org", "10.0.0.9");
    let (good, bad) = (hello("www.example.org"), hello("www.example.com"));
    // Before the connection is there, with the SYN, and out of order.
    let client = Client { engine: engine.clone(), port: 1, next: 100 };
    assert_eq!((client.at(100, SYN, b"x"), client.at(100, SYN, &[])), (Fate::Drop, Fate::Pass));
    assert_eq!(client.at(101, ACK, &good), Fate::Drop);
    client.hear(SYN | ACK, 101);
    assert_eq!(client.at(102, ACK, &good), Fate::Drop);
    // A part of it differently, while it is looked at and while it may not have arrived.
    assert_eq!(client.at(101, ACK, &good[..300]), Fate::Pass);
    assert_eq!((client.at(101, ACK, &bad[..50]), client.at(101, ACK, &bad)), (Fate::Pass, Fate::Drop));
    assert_eq!((client.at(101, ACK, &good), client.at(101, ACK, &bad)), (Fate::Pass, Fate::Drop));
    client.hear(ACK, 101 + u32::try_from(good.len()).unwrap());
    assert_eq!(client.at(101 + u32::try_from(good.len()).unwrap(), ACK, b"later"), Fate::Pass);
    // A SYN that nobody answers begins nothing anew.
    let mut client = connect(&engine, 2);
    assert_eq!(client.at(5000, SYN, &[]), Fate::Pass);
    assert_eq!(client.at(5001, ACK, &good), Fate::Drop);
    assert_eq!(client.say(&bad), Fate::Drop);
    // Nor does another connection from the same port inherit.
    let mut client = connect(&engine, 3);
    assert_eq!(client.say(&good), Fate::Pass);
    let mut client = connect(&engine, 3);
    assert_eq!(client.say(&bad), Fate::Drop);
}

#[test]
fn no_way_round() {
    let (engine, noted) = engine(POLICY);
    let far = Ipv4Addr::new(10, 0, 2, 1);
    let near = Ipv4Addr::new(10, 0, 1, 1);
    // In pieces: the first decides.
    let first = |dst| ipv4(HOST, dst, UDP, 0x2000, &udp(1, 2, &[0; 64]));
    let second = |dst| ipv4(HOST, dst, UDP, 9, &[0; 64]);
    assert_eq!((out(&engine, &second(near)), out(&engine, &first(near))), (Fate::Drop, Fate::Pass));
    assert_eq!((out(&engine, &second(near)), out(&engine, &first(far))), (Fate::Pass, Fate::Drop));
    assert_eq!(out(&engine, &second(far)), Fate::Drop);
    // Source routes, tags, other protocols, echoes that nobody asked for.
    let mut routed = ipv4(HOST, near, UDP, 0, &[&[131, 7, 4, 1, 2, 3, 4, 0][..], &udp(1, 2, b"x")].concat());
    routed[14] = 0x47;
    assert_eq!(out(&engine, &routed), Fate::Drop);
    let mut tagged = ipv4(HOST, near, UDP, 0, &udp(1, 2, b"x"));
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(out(&engine, &tagged), Fate::Drop);
    assert_eq!(out(&engine, &ipv4(HOST, near, 47, 0, &[0; 40])), Fate::Drop);
    assert_eq!(out(&engine, &ipv4(HOST, near, 1, 0, &[0, 0, 0, 0, 0, 5, 0, 1])), Fate::Drop);
    assert_eq!(out(&engine, &ipv4(HOST, near, UDP, 0, &udp(1, 2, b"x"))[..30]), Fate::Drop);
    // An answer from somebody who is no name server here.
    out(&engine, &ipv4(HOST, near, UDP, 0, &udp(7, 53, b"?")));
    engine
        .incoming(&ipv4(near, HOST, UDP, 0, &udp(53, 7, &answer("a.example.org", &[], &["10.0.0.9"]))), true);
    // And one from the right one that nobody has asked.
    engine.incoming(
        &ipv4(RESOLVER, HOST, UDP, 0, &udp(53, 77, &answer("a.example.org", &[], &["10.0.0.9"]))),
        true,
    );
    assert_eq!(out(&engine, &ipv4(HOST, SERVER, TCP, 0, &tcp(1, 443, SYN, 0, 0, &[]))), Fate::Drop);
    // In the middle of what has never begun.
    resolve(&engine, "a.example.org", "10.0.0.9");
    assert_eq!(out(&engine, &ipv4(HOST, SERVER, TCP, 0, &tcp(9, 443, ACK, 0, 0, b"data"))), Fate::Drop);
    assert!(noted.events().iter().any(|e| e.contains("source route")));
}

#[test]
fn answers_to_others_pass() {
    let (engine, noted) = engine("default deny");
    let them = Ipv4Addr::new(10, 9, 9, 9);
    engine.incoming(&ipv4(them, HOST, TCP, 0, &tcp(4000, 80, SYN, 5, 0, &[])), true);
    assert_eq!(out(&engine, &ipv4(HOST, them, TCP, 0, &tcp(80, 4000, SYN | ACK, 1, 6, &[]))), Fate::Pass);
    assert_eq!(out(&engine, &ipv4(HOST, them, TCP, 0, &tcp(80, 4000, ACK, 2, 6, b"page"))), Fate::Pass);
    assert_eq!(out(&engine, &ipv4(HOST, them, TCP, 0, &tcp(81, 4000, ACK, 2, 6, b"page"))), Fate::Drop);
    engine.incoming(&ipv4(them, HOST, 1, 0, &[8, 0, 0, 0, 0, 5, 0, 1]), true);
    assert_eq!(out(&engine, &ipv4(HOST, them, 1, 0, &[0, 0, 0, 0, 0, 5, 0, 1])), Fate::Pass);
    // Nobody listens there: the error is about a packet that came.
    let came = ipv4(them, HOST, UDP, 0, &udp(1, 2, b"x"));
    engine.incoming(&came, true);
    let error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &came[14..]].concat();
    assert_eq!(out(&engine, &ipv4(HOST, them, 1, 0, &error)), Fate::Pass);
    assert_eq!(out(&engine, &ipv4(HOST, Ipv4Addr::new(10, 9, 9, 8), 1, 0, &error)), Fate::Drop);
    assert_eq!(noted.events().len(), 2);
}

#[test]
fn another_policy_and_a_rate() {
    let (engine, noted) = engine("allow 10.0.0.0/8; rate 1000 burst 1000");
    let mut client = connect(&engine, 1);
    assert_eq!(client.say(&[0; 1400]), Fate::Pass);
    assert_eq!(client.at(client.next, ACK, &[0; 100]), Fate::Later);
    assert!(engine.wait() > 0);
    noted.wait(1);
    assert_eq!(client.say(&[0; 100]), Fate::Pass);
    let policy = |text: &str| vec![crate::Policy::parse(text).unwrap()];
    engine.set(policy("deny 10.0.0.9; default allow"), true).unwrap();
    assert_eq!((client.say(b"x"), noted.resets.lock().len()), (Fate::Drop, 1));
    assert_eq!(noted.events().last().unwrap(), "reset  [deny 10.0.0.9]");
    engine.set(Vec::new(), false).unwrap();
    assert!(!engine.is_on());
    // Two policies: both have to agree, and names count for whoever trusts the server.
    engine.set([policy(POLICY), policy("dns any; allow *.org; allow any udp")].concat(), true).unwrap();
    assert_eq!(out(&engine, &ipv4(HOST, Ipv4Addr::new(10, 0, 1, 7), UDP, 0, &udp(9, 53, b"?"))), Fate::Pass);
    let lie = answer("www.example.org", &[], &["10.0.0.9"]);
    engine.incoming(&ipv4(Ipv4Addr::new(10, 0, 1, 7), HOST, UDP, 0, &udp(53, 9, &lie)), true);
    assert!(!engine.may_connect("10.0.0.2:9".parse().unwrap(), "10.0.0.9:443".parse().unwrap()));
    resolve(&engine, "www.example.org", "10.0.0.9");
    assert!(engine.may_connect("10.0.0.2:9".parse().unwrap(), "10.0.0.9:443".parse().unwrap()));
}

#[test]
fn name_servers_by_tcp() {
    let (engine, _) = engine(POLICY);
    let query = |flags, seq, data: &[u8]| ipv4(HOST, RESOLVER, TCP, 0, &tcp(6, 53, flags, seq, 0, data));
    let reply =
        |flags, seq, ack, data: &[u8]| ipv4(RESOLVER, HOST, TCP, 0, &tcp(53, 6, flags, seq, ack, data));
    out(&engine, &query(SYN, 10, &[]));
    engine.incoming(&reply(SYN | ACK, 500, 11, &[]), true);
    assert_eq!(out(&engine, &query(ACK, 11, b"\0\x04????")), Fate::Pass);
    let message = answer("www.example.org", &["x.net"], &["10.0.0.9"]);
    let stream = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    let (a, b) = stream.split_at(20);
    engine.incoming(&reply(ACK, 501, 17, a), true);
    engine.incoming(&reply(ACK, 501, 17, a), true);
    engine.incoming(&reply(ACK, 521, 17, b), true);
    assert_eq!(connect(&engine, 8).say(&hello("www.example.org")), Fate::Pass);
}

#[test]
fn strict_questions() {
    let (engine, noted) = engine("dns 10.0.0.53 strict; allow *.example.org tcp:443; allow 10.0.1.0/24");
    let ask = |to: Ipv4Addr, message: &[u8]| out(&engine, &ipv4(HOST, to, UDP, 0, &udp(9, 53, message)));
    let edns = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 2, 7, 7];
    assert_eq!(ask(RESOLVER, &question("A.example.org", 0, &[])), Fate::Pass);
    assert_eq!(ask(RESOLVER, &question("a.example.org", 1, &edns)), Fate::Pass);
    noted.events();
    for message in [
        question("secret.evil.org", 0, &[]),
        question("example.org", 0, &[]),
        // What travels along.
        question("a.example.org", 0, b"secret"),
        question("a.example.org", 1, &[&edns[..], b"secret"].concat()),
        b"secret".to_vec(),
        Vec::new(),
    ] {
        assert_eq!(ask(RESOLVER, &message), Fate::Drop, "{message:?}");
    }
    assert_eq!(noted.events()[0], "deny secret.evil.org [dns strict]");
    // In pieces, or in a stream; others are asked as rules have it.
    let whole = udp(9, 53, &question("a.example.org", 0, &[]));
    assert_eq!(out(&engine, &ipv4(HOST, RESOLVER, UDP, 0x2000, &whole)), Fate::Drop);
    assert_eq!(out(&engine, &ipv4(HOST, RESOLVER, TCP, 0, &tcp(1, 53, SYN, 0, 0, &[]))), Fate::Drop);
    assert_eq!(ask(Ipv4Addr::new(10, 0, 1, 3), b"anything"), Fate::Pass);
    let ticket = engine.ticket(UDP, "10.0.0.53:53".parse().unwrap()).unwrap();
    assert!(
        ticket.may_ask(&question("a.example.org", 0, &[])) && !ticket.may_ask(&question("b.org", 0, &[]))
    );
}

#[test]
fn tickets() {
    let (engine, noted) = engine(POLICY);
    let at = "10.0.0.9:443".parse().unwrap();
    assert!(engine.ticket(TCP, at).is_none());
    let asked = engine.ticket(UDP, "10.0.0.53:53".parse().unwrap()).unwrap();
    asked.received(&answer("www.example.org", &[], &["10.0.0.9"]));
    drop(asked);
    let good = hello("www.example.org");
    let ticket = engine.ticket(TCP, at).unwrap();
    ticket.at("192.0.2.7:3000".parse().unwrap());
    // A part is not taken, and comes again.
    assert!(ticket.sending(&good[..100]));
    ticket.sent(&good[..100], 60);
    assert!(ticket.sending(&good[60..]));
    ticket.sent(&good[60..], good.len() - 60);
    drop(ticket);
    assert!(noted.lines.lock().last().unwrap().contains("\"local\":\"192.0.2.7\",\"local_port\":3000"));
    let ticket = engine.ticket(TCP, at).unwrap();
    assert!(!ticket.sending(&hello("evil.org")) && !ticket.sending(b"more"));
    assert_eq!(engine.load().1, 0);
}
