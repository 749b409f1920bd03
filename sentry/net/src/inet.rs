//! AF_INET and AF_INET6: the sockets of the TCP/IP stack.
//!
//! [`tcp`], [`udp`], [`raw`] and [`packet`] are the protocols; [`ports`] says who may have which port, [`ip`] has the options of
//! IP, [`route`] says where packets go, [`addr`] what endpoints are, [`list`] shows all sockets to procfs and netlink.
//! What stays within the namespace takes the direct path from socket to socket, without packets.
//!
//! Locks: a socket's state → [`Tables`], each of which is a leaf.

pub(crate) mod addr;
mod ancillary;
pub(crate) mod datagram;
pub(crate) mod ip;
pub mod list;
pub(crate) mod packet;
pub(crate) mod ports;
pub(crate) mod raw;
pub(crate) mod route;
pub(crate) mod tcp;
pub(crate) mod udp;
pub(crate) mod upcalls;

use crate::NetNs;
use crate::socket::{Family, SocketOps};
use addr::{Endpoint, link_scoped};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_NET_BIND_SERVICE, CAP_NET_RAW};
use chitin_abi::inet::*;
use chitin_abi::socket::*;
use chitin_vfs::Context;
use chitin_vfs::walk::Caller;
use ip::IpOptions;
use packet::PacketSock;
use parking_lot::Mutex;
use ports::{Ports, Proto};
use raw::RawSock;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use tcp::TcpSock;
use tcp::seat::Connections;
use udp::UdpSock;

/// What the sockets of both families share in a namespace.
pub(crate) struct Tables {
    pub tcp_ports: Ports,
    pub udp_ports: Ports,
    pub lite_ports: Ports,
    pub connections: Connections,
    listeners: Mutex<HashMap<u16, Vec<Weak<TcpSock>>>>,
    /// All TCP sockets in the order they were made.
    pub tcp: Mutex<BTreeMap<u64, Weak<TcpSock>>>,
    /// UDP and UDP-Lite sockets by their port, in the order they were bound.
    pub udp: Mutex<HashMap<u16, Vec<Weak<UdpSock>>>>,
    pub lite: Mutex<HashMap<u16, Vec<Weak<UdpSock>>>>,
    /// Raw and ping sockets in the order they were made.
    pub raw: Mutex<BTreeMap<u64, Weak<RawSock>>>,
    pub packet: Mutex<BTreeMap<u64, Weak<PacketSock>>>,
}

impl Tables {
    pub fn new() -> Tables {
        Tables {
            tcp_ports: Ports::new(Proto::Tcp),
            udp_ports: Ports::new(Proto::Udp),
            lite_ports: Ports::new(Proto::UdpLite),
            connections: Connections::default(),
            listeners: Mutex::default(),
            tcp: Mutex::default(),
            udp: Mutex::default(),
            lite: Mutex::default(),
            raw: Mutex::default(),
            packet: Mutex::default(),
        }
    }

    pub fn ports(&self, proto: Proto) -> &Ports {
        match proto {
            Proto::Tcp => &self.tcp_ports,
            Proto::Udp => &self.udp_ports,
            Proto::UdpLite => &self.lite_ports,
        }
    }

    pub fn add_listener(&self, port: u16, sock: &Weak<TcpSock>) {
        self.listeners.lock().entry(port).or_default().push(sock.clone());
    }

    pub fn remove_listener(&self, sock: &Weak<TcpSock>) {
        let mut listeners = self.listeners.lock();
        for list in listeners.values_mut() {
            list.retain(|other| !Weak::ptr_eq(other, sock));
        }
        listeners.retain(|_, list| !list.is_empty());
    }

    /// Who listens at `to` for a connection from `from`: the one that is bound most closely; among those of a
    /// SO_REUSEPORT group, one by the endpoints.
    pub fn find_listener(&self, link: u32, to: &Endpoint, from: &Endpoint) -> Option<Arc<TcpSock>> {
        let candidates = self.listeners.lock().get(&to.port)?.clone();
        let mut best = Vec::new();
        let mut score = 0;
        for sock in candidates.iter().filter_map(Weak::upgrade) {
            let Some(own) = sock.listens_at(link, to) else { continue };
            if own > score {
                (score, best) = (own, vec![sock]);
            } else if own == score {
                best.push(sock);
            }
        }
        let group = best.first().is_some_and(|sock| sock.common().flag(SO_REUSEPORT));
        let count = if group { best.len() as u64 } else { 1 };
        let which = ports::keyed(&(to, from)) % count.max(1);
        best.into_iter().nth(usize::try_from(which).unwrap_or(0))
    }
}

impl NetNs {
    /// Whether a UDP socket has this port.
    pub fn has_udp_port(&self, port: u16) -> bool {
        self.inet.udp.lock().get(&port).is_some_and(|socks| socks.iter().any(|sock| sock.strong_count() > 0))
    }
}

/// A datagram that comes from elsewhere than the wire.
pub(crate) fn deliver_udp(ns: &NetNs, from: SocketAddr, to: SocketAddr, data: &[u8]) {
    let endpoint = |at: SocketAddr| Endpoint::new(at.ip(), at.port());
    let index = ns.stack.config.addresses().iter().find(|own| own.addr == to.ip()).map_or(0, |own| own.link);
    let datagram = datagram::Datagram {
        data: data.into(),
        from: endpoint(from),
        to: endpoint(to),
        index,
        ttl: 64,
        tos: 0,
        segment: 0,
        at: 0,
    };
    // Who sends to where nobody listens is not told: the host's socket is there.
    let _ = udp::deliver(ns, false, datagram);
}

/// How closely a socket bound to `own` fits packets to `to`; `None`: not at all.
pub(crate) fn fit(v6: bool, v6only: bool, own: IpAddr, to: IpAddr) -> Option<u32> {
    let family = if v6 { 0 } else { 1 };
    match (own, to) {
        _ if own == to => Some(4 + family),
        (IpAddr::V4(own), IpAddr::V4(_)) if own.is_unspecified() => Some(1 + family),
        (IpAddr::V6(own), IpAddr::V4(_)) if own.is_unspecified() && !v6only => Some(1),
        (IpAddr::V6(own), IpAddr::V6(_)) if own.is_unspecified() => Some(1),
        _ => None,
    }
}

/// What bind(2) has to see to before a port is looked for (__inet_bind()). `groups`: multicast addresses are welcome.
pub(crate) fn check_bind(
    ns: &NetNs,
    options: &IpOptions,
    v6: bool,
    at: &Endpoint,
    ctx: &Context,
    groups: bool,
) -> Result<(), Errno> {
    if v6 && at.ip.is_ipv4() && options.v6only() {
        return Err(Errno::EINVAL);
    }
    if link_scoped(at.ip) && at.scope == 0 && !at.ip.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let broadcast = matches!(at.ip, IpAddr::V4(ip) if ip.is_broadcast());
    let own = at.ip.is_unspecified() || route::is_local(ns, at.ip);
    // Linux lets IPv4 streams be bound to groups, where nothing ever comes; those of IPv6 not.
    let group = (at.ip.is_multicast() && (groups || at.ip.is_ipv4())) || broadcast;
    let sysctls = &ns.stack.sysctls;
    let foreign = if at.ip.is_ipv4() { &sysctls.ip_nonlocal_bind } else { &sysctls.ip6_nonlocal_bind };
    if !own && !group && !options.free_bind() && !foreign.on() {
        return Err(Errno::EADDRNOTAVAIL);
    }
    let privileged = at.port != 0 && u32::from(at.port) < ns.stack.sysctls.ip_unprivileged_port_start.u32();
    if privileged && !ns.allows(ctx.creds(), CAP_NET_BIND_SERVICE) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// Makes the sockets of a family.
pub struct InetFamily {
    pub v6: bool,
}

impl InetFamily {
    fn raw(
        &self,
        ns: &Arc<NetNs>,
        ping: bool,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno> {
        let allowed = if ping { raw::may_ping(ns, caller) } else { ns.allows(&caller.creds, CAP_NET_RAW) };
        match (allowed, ping) {
            (true, _) => Ok(RawSock::new(ns, self.v6, ping, protocol, caller)?),
            (false, true) => Err(Errno::EACCES),
            (false, false) => Err(Errno::EPERM),
        }
    }
}

impl Family for InetFamily {
    fn create(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno> {
        match (kind, protocol) {
            // IPPROTO_MAX
            (_, 263..) => Err(Errno::EINVAL),
            (SOCK_STREAM, 0 | IPPROTO_TCP) => Ok(TcpSock::new(ns, self.v6, caller)?),
            (SOCK_DGRAM, 0 | IPPROTO_UDP) => Ok(UdpSock::new(ns, self.v6, false, caller)?),
            (SOCK_DGRAM, IPPROTO_UDPLITE) => Ok(UdpSock::new(ns, self.v6, true, caller)?),
            (SOCK_DGRAM, IPPROTO_ICMP) if !self.v6 => self.raw(ns, true, protocol, caller),
            (SOCK_DGRAM, IPPROTO_ICMPV6) if self.v6 => self.raw(ns, true, protocol, caller),
            (SOCK_RAW, 0) => Err(Errno::EPROTONOSUPPORT),
            (SOCK_RAW, 1..=255) => self.raw(ns, false, protocol, caller),
            (SOCK_STREAM | SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }
}
