//! Endpoints: an address and a port, alike for both families.
//!
//! An IPv4 address that an AF_INET6 socket names as `::ffff:a.b.c.d` is kept as the IPv4 address it is; the family of the
//! socket decides how it is shown.

use crate::SockAddr;
use chitin_abi::Errno;
use chitin_abi::num::low16;
use chitin_abi::socket::{AF_INET, AF_INET6, SockaddrIn, SockaddrIn6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Where packets come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    /// The interface of a link-local address; 0 for others.
    pub scope: u32,
}

/// As [`IpAddr`], without mapped addresses.
pub fn canonical(ip: Ipv6Addr) -> IpAddr {
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
}

/// fe80::/10 and multicast of link scope: addresses that mean nothing without an interface.
pub fn link_scoped(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || matches!(ip.octets(), [0xff, low, ..] if matches!(low & 0xf, 1 | 2))
        }
    }
}

impl Endpoint {
    pub fn new(ip: IpAddr, port: u16) -> Endpoint {
        Endpoint { ip, port, scope: 0 }
    }
    pub fn of(addr: SocketAddr) -> Endpoint {
        let scope = match addr {
            SocketAddr::V6(addr) if link_scoped(IpAddr::V6(*addr.ip())) => addr.scope_id(),
            _ => 0,
        };
        Endpoint { ip: addr.ip(), port: addr.port(), scope }
    }
    pub fn socket_addr(&self) -> SocketAddr {
        match self.ip {
            IpAddr::V4(_) => SocketAddr::new(self.ip, self.port),
            IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, self.port, 0, self.scope)),
        }
    }
    /// The wildcard of a family.
    pub fn any(v6: bool) -> Endpoint {
        let ip = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        Endpoint::new(ip, 0)
    }

    /// What bind(2) and connect(2) got for a socket of a family. AF_UNSPEC is the caller's.
    pub fn parse(v6: bool, addr: &SockAddr) -> Result<Endpoint, Errno> {
        match (v6, addr) {
            (false, SockAddr::Inet(addr)) => Ok(Endpoint::of_v4(addr)),
            (true, SockAddr::Inet6(addr)) => {
                let ip = canonical(Ipv6Addr::from(addr.sin6_addr));
                let scope = if link_scoped(ip) { addr.sin6_scope_id } else { 0 };
                Ok(Endpoint { ip, port: u16::from_be_bytes(addr.sin6_port), scope })
            }
            // Too short for the longer one, whose length is looked at first.
            (_, SockAddr::Invalid) | (true, SockAddr::Inet(_)) => Err(Errno::EINVAL),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    pub fn of_v4(addr: &SockaddrIn) -> Endpoint {
        Endpoint::new(IpAddr::V4(Ipv4Addr::from(addr.sin_addr)), u16::from_be_bytes(addr.sin_port))
    }

    /// As a socket of a family shows it.
    pub fn encode(&self, v6: bool) -> SockAddr {
        let port = self.port.to_be_bytes();
        match (v6, self.ip) {
            (false, IpAddr::V4(ip)) => SockAddr::Inet(SockaddrIn {
                sin_family: low16(AF_INET),
                sin_port: port,
                sin_addr: ip.octets(),
                ..SockaddrIn::default()
            }),
            (_, ip) => SockAddr::Inet6(SockaddrIn6 {
                sin6_family: low16(AF_INET6),
                sin6_port: port,
                sin6_addr: as_v6(ip).octets(),
                sin6_scope_id: self.scope,
                ..SockaddrIn6::default()
            }),
        }
    }
}

/// An address in the longer form.
pub fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
