//! Where packets go, as the stack's configuration says.

use crate::NetNs;
use chitin_abi::Errno;
use chitin_netstack::Route;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The index of `lo`.
pub const LOOPBACK: u32 = 1;

/// Whether an address is the namespace's own.
pub fn is_local(ns: &NetNs, ip: IpAddr) -> bool {
    ns.stack.config.is_local(ip)
}

/// The way to `dst`; the wildcard is this host. `link`: the interface it must go through, 0 for any.
pub fn find(ns: &NetNs, dst: IpAddr, src: Option<IpAddr>, link: u32, mark: u32) -> Result<Route, Errno> {
    ns.stack.config.route(self_if_any(dst), src, link, mark)
}

/// "This host" has an address like any other.
pub fn self_if_any(dst: IpAddr) -> IpAddr {
    match dst {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => dst,
    }
}

/// The MTU towards a destination, for IP_MTU.
pub fn mtu(ns: &NetNs, dst: IpAddr) -> u32 {
    let mtu = find(ns, dst, None, 0, 0).map_or(1500, |route| route.mtu);
    if dst.is_ipv4() { mtu.min(65_535) } else { mtu }
}
