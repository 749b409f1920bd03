//! What sentry and network proxy say to each other, over SOCK_SEQPACKET sockets: one message per packet, in fixed forms.
//!
//! A third socket carries datagrams of published UDP ports both ways ([`Relayed`] and the payload behind it).
//! On the one socket the sentry asks for sockets ([`Open`]) and gets, in order, an error number or a descriptor with 0. On
//! the other the proxy brings connections to published ports ([`Arrived`]), a descriptor with each. Both ends treat the
//! other as hostile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The proxy shall open a socket that is connected to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// A stream; else datagrams.
    pub stream: bool,
    /// IPPROTO_*.
    pub protocol: u8,
    pub to: SocketAddr,
}

/// A connection to the guest's `port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub port: u16,
    pub peer: SocketAddr,
}

/// A datagram from or to `peer`, at the guest's `port`; its payload follows in the same message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    pub port: u16,
    pub peer: SocketAddr,
}

/// Bytes of a message, without a payload.
pub const PROXY_MESSAGE: usize = 24;
/// The longest payload.
pub const PROXY_DATAGRAM: usize = 65_507;

fn pack(head: [u8; 4], at: SocketAddr) -> [u8; PROXY_MESSAGE] {
    let mut raw = [0; PROXY_MESSAGE];
    let (family, address) = match at.ip() {
        IpAddr::V4(v4) => (4, v4.to_ipv6_mapped().octets()),
        IpAddr::V6(v6) => (6, v6.octets()),
    };
    let bytes = head.into_iter().chain(at.port().to_be_bytes()).chain([family, 0]).chain(address);
    raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    raw
}

fn unpack(raw: &[u8]) -> Option<([u8; 4], SocketAddr)> {
    let (head, rest) = raw.split_first_chunk::<4>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let ([family, _], address) = rest.split_first_chunk::<2>()?;
    let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?);
    let ip: IpAddr = match family {
        4 => v6.to_ipv4_mapped().map(Ipv4Addr::into)?,
        6 => v6.into(),
        _ => return None,
    };
    Some((*head, SocketAddr::new(ip, u16::from_be_bytes(*port))))
}

impl Open {
    pub fn encode(&self) -> [u8; PROXY_MESSAGE] {
        pack([1, self.stream.into(), self.protocol, 0], self.to)
    }

    pub fn decode(raw: &[u8]) -> Option<Self> {
        let ([1, stream @ (0 | 1), protocol, 0], to) = unpack(raw)? else { return None };
        Some(Self { stream: stream == 1, protocol, to })
    }
}

impl Arrived {
    pub fn encode(&self) -> [u8; PROXY_MESSAGE] {
        let [high, low] = self.port.to_be_bytes();
        pack([2, high, low, 0], self.peer)
    }

    pub fn decode(raw: &[u8]) -> Option<Self> {
        let ([2, high, low, 0], peer) = unpack(raw)? else { return None };
        Some(Self { port: u16::from_be_bytes([high, low]), peer })
    }
}

impl Relayed {
    pub fn encode(&self) -> [u8; PROXY_MESSAGE] {
        let [high, low] = self.port.to_be_bytes();
        pack([3, high, low, 0], self.peer)
    }

    /// The head, and the payload.
    pub fn decode(raw: &[u8]) -> Option<(Self, &[u8])> {
        let (head, payload) = raw.split_at_checked(PROXY_MESSAGE)?;
        let ([3, high, low, 0], peer) = unpack(head)? else { return None };
        Some((Self { port: u16::from_be_bytes([high, low]), peer }, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a proxy or a sentry that was taken over sends: what is accepted says what its bytes say.
    #[test]
    fn noise() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut accepted = 0;
        for _ in 0..300_000 {
            let mut raw: Vec<u8> = (0..next() % 40).map(|_| next().to_le_bytes()[0]).collect();
            // Mostly the heads that exist.
            if let (Some(kind), true) = (raw.first_mut(), next() % 8 > 0) {
                *kind = 1 + (next() % 3) as u8;
            }
            for (at, limit) in [(1, 2), (3, 1), (6, 7)] {
                if let (Some(byte), true) = (raw.get_mut(at), next() % 8 > 0) {
                    *byte = (next() % limit) as u8;
                }
            }
            if let Some(open) = Open::decode(&raw) {
                assert_eq!(Open::decode(&open.encode()), Some(open));
                accepted += 1;
            }
            if let Some(arrived) = Arrived::decode(&raw) {
                assert_eq!(Arrived::decode(&arrived.encode()), Some(arrived));
                accepted += 1;
            }
            if let Some((relayed, payload)) = Relayed::decode(&raw) {
                assert_eq!(payload.len(), raw.len() - PROXY_MESSAGE);
                assert_eq!(Relayed::decode(&relayed.encode()), Some((relayed, &[][..])));
                accepted += 1;
            }
        }
        assert!(accepted > 1000, "the noise hardly reaches the parser: {accepted}");
    }

    #[test]
    fn messages_survive() {
        for to in ["192.0.2.1:80", "[2001:db8::1]:65535", "[::ffff:192.0.2.1]:1"] {
            let to: SocketAddr = to.parse().unwrap();
            let open = Open { stream: true, protocol: 6, to };
            assert_eq!(Open::decode(&open.encode()), Some(open));
            let arrived = Arrived { port: 8080, peer: to };
            assert_eq!(Arrived::decode(&arrived.encode()), Some(arrived));
            assert_eq!(Arrived::decode(&open.encode()), None);
            let relayed = Relayed { port: 53, peer: to };
            let whole = [&relayed.encode()[..], b"abc"].concat();
            assert_eq!(Relayed::decode(&whole), Some((relayed, &b"abc"[..])));
            assert_eq!(Relayed::decode(&whole[..23]).or(Relayed::decode(&arrived.encode())), None);
        }
        let good = Open { stream: false, protocol: 17, to: "1.2.3.4:5".parse().unwrap() }.encode();
        for cut in 0..good.len() {
            assert_eq!(Open::decode(&good[..cut]), None);
        }
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 0x55;
            // Anything may come out but a panic.
            let _ = (Open::decode(&bad), Arrived::decode(&bad));
        }
    }
}
