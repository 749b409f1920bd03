//! Addresses: prefixes, kinds and scopes.

use chitin_abi::rtnetlink::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A prefix. The bits below it are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    pub addr: IpAddr,
    pub len: u8,
}

pub fn max_len(addr: &IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl Prefix {
    /// The prefix of an address; a length that is too large is the largest.
    pub fn of(addr: IpAddr, len: u8) -> Prefix {
        let len = len.min(max_len(&addr));
        let addr = match addr {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & mask4(len)).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & mask6(len)).into(),
        };
        Prefix { addr, len }
    }
    pub fn host(addr: IpAddr) -> Prefix {
        Prefix { addr, len: max_len(&addr) }
    }
    /// The default route's.
    pub fn any(v4: bool) -> Prefix {
        Prefix { addr: any(v4), len: 0 }
    }
    pub fn contains(&self, addr: &IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(net), IpAddr::V4(a)) => (net.to_bits() ^ a.to_bits()) & mask4(self.len) == 0,
            (IpAddr::V6(net), IpAddr::V6(a)) => (net.to_bits() ^ a.to_bits()) & mask6(self.len) == 0,
            _ => false,
        }
    }
    /// The last address of an IPv4 prefix.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.addr {
            IpAddr::V4(net) => Some(Ipv4Addr::from_bits(net.to_bits() | !mask4(self.len))),
            IpAddr::V6(_) => None,
        }
    }
}

fn mask4(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
}

fn mask6(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

pub fn any(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Addresses that belong to one link, so that a link must be named with them.
pub fn is_link_local(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => {
            a.is_unicast_link_local() || a.is_multicast() && matches!(a.octets(), [_, s, ..] if s & 0xf <= 2)
        }
    }
}

/// RT_SCOPE_* of an address by what it is.
pub fn scope(addr: &IpAddr) -> u8 {
    match addr {
        a if a.is_loopback() => RT_SCOPE_HOST,
        a if is_link_local(a) => RT_SCOPE_LINK,
        _ => RT_SCOPE_UNIVERSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let p = Prefix::of("10.1.2.3".parse().unwrap(), 24);
        assert_eq!(p.addr, "10.1.2.0".parse::<IpAddr>().unwrap());
        assert!(p.contains(&"10.1.2.255".parse().unwrap()));
        assert!(!p.contains(&"10.1.3.0".parse().unwrap()));
        assert!(!p.contains(&"::ffff:10.1.2.3".parse().unwrap()));
        assert_eq!(p.broadcast(), Some(Ipv4Addr::new(10, 1, 2, 255)));
        assert!(Prefix::any(true).contains(&"1.2.3.4".parse().unwrap()));
        assert!(Prefix::any(false).contains(&"fe80::1".parse().unwrap()));
        assert_eq!(Prefix::of("fe80::1".parse().unwrap(), 200).len, 128);
        assert_eq!(scope(&"fe80::1".parse().unwrap()), RT_SCOPE_LINK);
        assert_eq!(scope(&"127.1.1.1".parse().unwrap()), RT_SCOPE_HOST);
    }
}
