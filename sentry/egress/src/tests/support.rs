//! Packets, hellos and answers to try the engine with, and a world to do it in.

use crate::{Engine, Policy, World};
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub struct Noted {
    pub now: AtomicU64,
    pub lines: Mutex<Vec<String>>,
    pub resets: Mutex<Vec<(SocketAddr, SocketAddr)>>,
}

pub struct Trial(pub Arc<Noted>);

impl World for Trial {
    fn now(&self) -> u64 {
        self.0.now.load(Ordering::Relaxed)
    }
    fn wall(&self) -> u64 {
        self.now()
    }
    fn line(&self, line: String) -> bool {
        self.0.lines.lock().push(line);
        true
    }
    fn reset(&self, local: SocketAddr, remote: SocketAddr) {
        self.0.resets.lock().push((local, remote));
    }
}

pub fn engine(policy: &str) -> (Arc<Engine>, Arc<Noted>) {
    let noted = Arc::<Noted>::default();
    let engine = Engine::new(Box::new(Trial(noted.clone())));
    engine.set(vec![Policy::parse(policy).unwrap()], true).unwrap();
    (engine, noted)
}

impl Noted {
    pub fn wait(&self, seconds: u64) {
        self.now.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
    }
    /// The lines since the last call, as event, rule and what else is asked for.
    pub fn events(&self) -> Vec<String> {
        let field = |line: &str, name: &str| {
            let start = line.find(&format!("\"{name}\":\"")).map(|at| at + name.len() + 4);
            start.map_or_else(String::new, |at| line[at..].split('"').next().unwrap_or_default().to_owned())
        };
        let lines = std::mem::take(&mut *self.lines.lock());
        lines
            .iter()
            .map(|l| format!("{} {} [{}]", field(l, "event"), field(l, "domain"), field(l, "rule")))
            .collect()
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// An Ethernet frame with an IPv4 packet.
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, frag: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(20 + body.len()).unwrap().to_be_bytes());
    frame.extend([0, 7]);
    frame.extend(frag.to_be_bytes());
    frame.extend([64, proto, 0, 0]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(body);
    frame
}

pub fn udp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let mut body = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    body.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    body.extend([0, 0]);
    body.extend(data);
    body
}

pub fn tcp(sport: u16, dport: u16, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let mut body = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    body.extend(seq.to_be_bytes());
    body.extend(ack.to_be_bytes());
    body.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
    body.extend(data);
    body
}

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

/// A question, with what follows it.
pub fn question(name: &str, more: u8, rest: &[u8]) -> Vec<u8> {
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, more][..], &labels(name), &[0, 1, 0, 1], rest].concat()
}

/// An answer: `name` is an alias of `aliases`, the last of which has the addresses.
pub fn answer(name: &str, aliases: &[&str], addresses: &[&str]) -> Vec<u8> {
    let count = u16::try_from(aliases.len() + addresses.len()).unwrap().to_be_bytes();
    let mut out = vec![0x12, 0x34, 0x81, 0x80, 0, 1, count[0], count[1], 0, 0, 0, 0];
    out.extend(labels(name));
    out.extend([0, 1, 0, 1]);
    let mut owner = vec![0xc0, 12];
    for alias in aliases {
        let data = labels(alias);
        out.extend(&owner);
        out.extend([0, 5, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
        let at = u16::try_from(out.len()).unwrap() | 0xc000;
        out.extend(data);
        owner = at.to_be_bytes().to_vec();
    }
    for address in addresses {
        out.extend(&owner);
        match ip(address) {
            IpAddr::V4(v4) => {
                out.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                out.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                out.extend([0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
                out.extend(v6.octets());
            }
        }
    }
    out
}

fn wide(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap().to_be_bytes()[..], data].concat()
}

/// A client's hello without records. Names: one server_name extension each.
pub fn handshake(names: &[&str]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.push(0);
    body.extend(wide(&[0x13, 1]));
    body.extend([1, 0]);
    let mut extensions = [&[0, 23][..], &wide(&[])].concat();
    for name in names {
        let entry = [&[0][..], &wide(name.as_bytes())].concat();
        extensions.extend([0, 0]);
        extensions.extend(wide(&wide(&entry)));
    }
    // Key shares, which are what makes hellos long.
    extensions.extend([0, 51]);
    extensions.extend(wide(&[5; 1200]));
    body.extend(wide(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]][..], &body].concat()
}

/// The same in records of up to `size` bytes.
pub fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    handshake.chunks(size).flat_map(|part| [&[22, 3, 1][..], &wide(part)].concat()).collect()
}

pub fn hello(name: &str) -> Vec<u8> {
    records(&handshake(&[name]), 1 << 14)
}
