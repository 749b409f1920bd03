//! Options of IP and IPv6 (ip(7), ipv6(7)), alike for all sockets of both families. An AF_INET6 socket has both sets.
//!
//! Locks: `IpOptions::state` is a leaf; what datagrams look at on their way is atomic.

mod groups;

pub use groups::Group;

use super::route;
use crate::NetNs;
use crate::options::OptValue;
use crate::socket::SocketOps;
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_NET_ADMIN, CAP_NET_RAW};
use chitin_abi::inet::*;
use chitin_abi::num::low8;
use chitin_abi::socket::*;
use chitin_vfs::Creds;
use chitin_vfs::walk::Caller;
use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Switches of IPPROTO_IP.
const SWITCHES: [u32; 14] = [
    IP_RECVOPTS,
    IP_RETOPTS,
    IP_PKTINFO,
    IP_RECVERR,
    IP_RECVTTL,
    IP_RECVTOS,
    IP_FREEBIND,
    IP_PASSSEC,
    IP_RECVORIGDSTADDR,
    IP_CHECKSUM,
    IP_BIND_ADDRESS_NO_PORT,
    IP_RECVERR_RFC4884,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_ALL,
];
/// Switches of IPPROTO_IPV6.
const SWITCHES6: [u32; 22] = [
    IPV6_2292PKTINFO,
    IPV6_2292HOPOPTS,
    IPV6_2292DSTOPTS,
    IPV6_2292RTHDR,
    IPV6_2292HOPLIMIT,
    IPV6_FLOWINFO,
    IPV6_MULTICAST_LOOP,
    IPV6_RECVERR,
    IPV6_MULTICAST_ALL,
    IPV6_RECVERR_RFC4884,
    IPV6_FLOWINFO_SEND,
    IPV6_RECVPKTINFO,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVHOPOPTS,
    IPV6_RECVRTHDR,
    IPV6_RECVDSTOPTS,
    IPV6_RECVPATHMTU,
    IPV6_DONTFRAG,
    IPV6_RECVTCLASS,
    IPV6_AUTOFLOWLABEL,
    IPV6_RECVORIGDSTADDR,
    IPV6_FREEBIND,
];

/// Options of a socket.
pub struct IpOptions {
    v6only: AtomicBool,
    /// Switches by option number, those of IPv6 in two words.
    on: AtomicU64,
    on6: [AtomicU64; 2],
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    tos: u8,
    /// `None`: the namespace's.
    ttl: Option<u8>,
    mc_ttl: u8,
    mtu_discover: i32,
    min_ttl: u8,
    mc_index: u32,
    mc_addr: Ipv4Addr,
    unicast_if: u32,
    port_range: u32,
    hops: Option<u8>,
    mc_hops: u8,
    tclass: u8,
    mtu_discover6: i32,
    min_hops: u8,
    mc_index6: u32,
    unicast_if6: u32,
    mtu6: i32,
    preferences: u32,
    groups: Vec<Group>,
}

fn bit(name: u32) -> u64 {
    1u64.checked_shl(name).unwrap_or(0)
}

/// An int, or as many bytes of one as there are (IPPROTO_IP takes single bytes).
fn short_int(value: &[u8]) -> i32 {
    match value.first_chunk::<4>() {
        Some(raw) => i32::from_ne_bytes(*raw),
        None => value.first().copied().map_or(0, i32::from),
    }
}

fn int(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)
}

/// A number in a range, as a byte; -1 stands for the default.
fn byte_or_default(value: i32, low: i32) -> Result<Option<u8>, Errno> {
    match value {
        -1 => Ok(None),
        _ if (low..=255).contains(&value) => Ok(u8::try_from(value).ok()),
        _ => Err(Errno::EINVAL),
    }
}

impl IpOptions {
    pub fn new(ns: &NetNs, v6: bool) -> IpOptions {
        let state = State {
            tos: 0,
            ttl: None,
            mc_ttl: 1,
            mtu_discover: IP_PMTUDISC_WANT.cast_signed(),
            min_ttl: 0,
            mc_index: 0,
            mc_addr: Ipv4Addr::UNSPECIFIED,
            unicast_if: 0,
            port_range: 0,
            hops: None,
            mc_hops: 1,
            tclass: 0,
            mtu_discover6: IPV6_PMTUDISC_WANT.cast_signed(),
            min_hops: 0,
            mc_index6: 0,
            unicast_if6: 0,
            mtu6: 0,
            preferences: 0,
            groups: Vec::new(),
        };
        IpOptions {
            v6only: AtomicBool::new(v6 && ns.stack.sysctls.bindv6only.on()),
            // As it happens, sockets of AF_INET6 begin without the second one.
            on: AtomicU64::new(bit(IP_MULTICAST_LOOP) | if v6 { 0 } else { bit(IP_MULTICAST_ALL) }),
            on6: [AtomicU64::new(bit(IPV6_MULTICAST_LOOP) | bit(IPV6_MULTICAST_ALL)), AtomicU64::new(0)],
            state: Mutex::new(state),
        }
    }

    /// What a connection gets of its listener's; memberships stay there.
    pub fn inherit(&self, from: &IpOptions) {
        self.v6only.store(from.v6only(), Ordering::Relaxed);
        self.on.store(from.on.load(Ordering::Relaxed), Ordering::Relaxed);
        for (to, from) in self.on6.iter().zip(&from.on6) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let state = from.state.lock().clone();
        // The multicast TTL becomes that of the SYN.
        *self.state.lock() = State { groups: Vec::new(), mc_ttl: 64, ..state };
    }

    pub fn v6only(&self) -> bool {
        self.v6only.load(Ordering::Relaxed)
    }
    /// A switch of IPPROTO_IP.
    pub fn on(&self, name: u32) -> bool {
        self.on.load(Ordering::Relaxed) & bit(name) != 0
    }
    /// A switch of IPPROTO_IPV6.
    pub fn on6(&self, name: u32) -> bool {
        let [low, high] = &self.on6;
        let (word, name) = if name < 64 { (low, name) } else { (high, name - 64) };
        word.load(Ordering::Relaxed) & bit(name) != 0
    }
    fn switch(&self, name: u32, on: bool) {
        let _ = match on {
            true => self.on.fetch_or(bit(name), Ordering::Relaxed),
            false => self.on.fetch_and(!bit(name), Ordering::Relaxed),
        };
    }
    fn switch6(&self, name: u32, on: bool) {
        let [low, high] = &self.on6;
        let (word, name) = if name < 64 { (low, name) } else { (high, name - 64) };
        let _ = match on {
            true => word.fetch_or(bit(name), Ordering::Relaxed),
            false => word.fetch_and(!bit(name), Ordering::Relaxed),
        };
    }
    /// Whether anything at all is to be told of a datagram beside its data.
    pub fn tells(&self) -> bool {
        const BESIDE: u64 = 1 << IP_MULTICAST_LOOP | 1 << IP_MULTICAST_ALL;
        let [low, high] = &self.on6;
        self.on.load(Ordering::Relaxed) & !BESIDE != 0
            || low.load(Ordering::Relaxed) & !(1 << IPV6_MULTICAST_LOOP | 1 << IPV6_MULTICAST_ALL) != 0
            || high.load(Ordering::Relaxed) != 0
    }
    pub fn bind_no_port(&self) -> bool {
        self.on(IP_BIND_ADDRESS_NO_PORT)
    }
    pub fn free_bind(&self) -> bool {
        self.on(IP_FREEBIND)
            || self.on6(IPV6_FREEBIND)
            || self.on(IP_TRANSPARENT)
            || self.on6(IPV6_TRANSPARENT)
    }
    /// Where ports of our choice come from.
    pub fn port_range(&self, ns: &NetNs) -> (u16, u16) {
        let port = |n: i64| u16::try_from(n).unwrap_or(u16::MAX);
        let sysctls = &ns.stack.sysctls;
        let (low, high) = (port(sysctls.port_min.get()), port(sysctls.port_max.get()));
        let own = self.state.lock().port_range;
        let own_low = u16::try_from(own & 0xffff).unwrap_or(0);
        let own_high = u16::try_from(own >> 16).unwrap_or(0);
        let in_range = |port: u16| port != 0 && (low..=high).contains(&port);
        (if in_range(own_low) { own_low } else { low }, if in_range(own_high) { own_high } else { high })
    }
    /// TTL or hop limit for a destination, if the socket has one of its own.
    pub fn own_ttl(&self, to: IpAddr) -> Option<u8> {
        let state = self.state.lock();
        match to {
            IpAddr::V4(ip) if ip.is_multicast() => Some(state.mc_ttl),
            IpAddr::V4(_) => state.ttl,
            IpAddr::V6(ip) if ip.is_multicast() => Some(state.mc_hops),
            IpAddr::V6(_) => state.hops,
        }
    }
    /// TTL or hop limit for a destination by a link.
    pub fn ttl_for(&self, ns: &NetNs, to: IpAddr, link: u32) -> u8 {
        self.own_ttl(to).unwrap_or_else(|| match to {
            IpAddr::V4(_) => ns.stack.sysctls.ip_default_ttl.byte(),
            IpAddr::V6(_) => ns.stack.config.hop_limit(link),
        })
    }
    /// TOS or traffic class.
    pub fn tos_for(&self, to: IpAddr) -> u8 {
        let state = self.state.lock();
        if to.is_ipv4() { state.tos } else { state.tclass }
    }
    pub fn multicast_loops(&self, v6: bool) -> bool {
        if v6 { self.on6(IPV6_MULTICAST_LOOP) } else { self.on(IP_MULTICAST_LOOP) }
    }
    /// IP_PMTUDISC_* of a family.
    pub fn pmtudisc(&self, v6: bool) -> u32 {
        let state = self.state.lock();
        (if v6 { state.mtu_discover6 } else { state.mtu_discover }).cast_unsigned()
    }
    /// IP_MULTICAST_IF: the interface and the address to send from.
    pub fn multicast_from(&self, v6: bool) -> (u32, Option<IpAddr>) {
        let state = self.state.lock();
        let addr = (!state.mc_addr.is_unspecified()).then_some(IpAddr::V4(state.mc_addr));
        if v6 { (state.mc_index6, None) } else { (state.mc_index, addr) }
    }

    pub fn set(
        &self,
        sock: &dyn SocketOps,
        level: u32,
        name: u32,
        value: &[u8],
        caller: &Caller,
    ) -> Result<(), Errno> {
        let v6 = sock.common().family == AF_INET6;
        match level {
            SOL_IP => self.set_ip(sock, name, value, caller),
            SOL_IPV6 if v6 => self.set_ipv6(sock, name, value, caller),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    pub fn get(&self, sock: &dyn SocketOps, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        let v6 = sock.common().family == AF_INET6;
        match level {
            SOL_IP => self.get_ip(sock, name, room),
            SOL_IPV6 if v6 => self.get_ipv6(sock, name, room),
            _ if !v6 => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_ip(&self, sock: &dyn SocketOps, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        let common = sock.common();
        let number = short_int(value);
        let stream = common.kind == SOCK_STREAM;
        let mut state = self.state.lock();
        match name {
            IP_FREEBIND | IP_BIND_ADDRESS_NO_PORT | IP_MULTICAST_LOOP if value.is_empty() => {
                return Err(Errno::EINVAL);
            }
            IP_MULTICAST_ALL if !matches!(number, 0 | 1) => return Err(Errno::EINVAL),
            IP_TRANSPARENT => {
                if number != 0 && !may_be_transparent(&common.ns, &caller.creds) {
                    return Err(Errno::EPERM);
                }
                self.switch(name, number != 0);
            }
            IP_RECVFRAGSIZE => {
                if stream {
                    return Err(Errno::EINVAL);
                }
                self.switch(name, number != 0);
            }
            _ if SWITCHES.contains(&name) => self.switch(name, number != 0),
            IP_TOS => {
                let tos = low8(number.cast_unsigned());
                // The two bits of ECN are TCP's own.
                state.tos = if stream { (tos & !3) | (state.tos & 3) } else { tos };
            }
            IP_TTL => {
                if value.is_empty() || number == 0 {
                    return Err(Errno::EINVAL);
                }
                state.ttl = byte_or_default(number, 1)?;
            }
            IP_MTU_DISCOVER => {
                if !(0..=IP_PMTUDISC_OMIT.cast_signed()).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                state.mtu_discover = number;
            }
            IP_MINTTL => {
                state.min_ttl = u8::try_from(number).map_err(|_| Errno::EINVAL)?;
            }
            IP_MULTICAST_TTL => {
                if stream || value.is_empty() {
                    return Err(Errno::EINVAL);
                }
                state.mc_ttl = byte_or_default(number, 0)?.unwrap_or(1);
            }
            IP_UNICAST_IF => {
                let index = u32::from_be_bytes(int(value)?.to_ne_bytes());
                if index != 0 && !common.ns.interfaces().iter().any(|iface| iface.index == index) {
                    return Err(Errno::EADDRNOTAVAIL);
                }
                state.unicast_if = index;
            }
            IP_LOCAL_PORT_RANGE => {
                let range = int(value)?.cast_unsigned();
                let (low, high) = (range & 0xffff, range >> 16);
                if low != 0 && high != 0 && low > high {
                    return Err(Errno::EINVAL);
                }
                state.port_range = range;
            }
            IP_MULTICAST_IF
            | IP_ADD_MEMBERSHIP
            | IP_DROP_MEMBERSHIP
            | IP_ADD_SOURCE_MEMBERSHIP
            | IP_DROP_SOURCE_MEMBERSHIP
            | IP_BLOCK_SOURCE
            | IP_UNBLOCK_SOURCE
            | MCAST_JOIN_GROUP
            | MCAST_LEAVE_GROUP => {
                if stream {
                    return Err(if name == IP_MULTICAST_IF { Errno::EINVAL } else { Errno::EPROTO });
                }
                return groups::set_v4(&common.ns, &mut state, name, value);
            }
            IP_OPTIONS if value.is_empty() => {}
            IP_OPTIONS => return Err(Errno::EINVAL),
            IP_HDRINCL | IP_NODEFRAG | IP_ROUTER_ALERT => return Err(Errno::ENOPROTOOPT),
            IP_IPSEC_POLICY | IP_XFRM_POLICY if !common.ns.allows(&caller.creds, CAP_NET_ADMIN) => {
                return Err(Errno::EPERM);
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn get_ip(&self, sock: &dyn SocketOps, name: u32, room: usize) -> Result<OptValue, Errno> {
        let state = self.state.lock().clone();
        let sysctls = &sock.common().ns.stack.sysctls;
        let number = match name {
            _ if SWITCHES.contains(&name) => i32::from(self.on(name)),
            IP_TRANSPARENT | IP_RECVFRAGSIZE => i32::from(self.on(name)),
            IP_TOS => state.tos.into(),
            IP_TTL => state.ttl.unwrap_or(sysctls.ip_default_ttl.byte()).into(),
            IP_MTU_DISCOVER => state.mtu_discover,
            IP_MTU => route::mtu(&sock.common().ns, peer(sock)?).cast_signed(),
            IP_MINTTL => state.min_ttl.into(),
            IP_MULTICAST_TTL => state.mc_ttl.into(),
            IP_UNICAST_IF => i32::from_ne_bytes(state.unicast_if.to_be_bytes()),
            IP_LOCAL_PORT_RANGE => state.port_range.cast_signed(),
            // Where raw sockets have their protocol, others have their port.
            IP_PROTOCOL => bound_port(sock).into(),
            IP_MULTICAST_IF => {
                let mut raw = state.mc_addr.octets().to_vec();
                raw.truncate(room);
                return Ok(OptValue::Value(raw));
            }
            IP_OPTIONS => return Ok(OptValue::Value(Vec::new())),
            IP_HDRINCL | IP_NODEFRAG => 0,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        // A buffer too short for an int gets a byte if that is enough.
        let raw = match u8::try_from(number) {
            Ok(byte) if (1..4).contains(&room) => vec![byte],
            _ => number.to_ne_bytes().into_iter().take(room).collect(),
        };
        Ok(OptValue::Value(raw))
    }

    fn set_ipv6(&self, sock: &dyn SocketOps, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        let common = sock.common();
        let stream = common.kind == SOCK_STREAM;
        let mut state = self.state.lock();
        if matches!(name, IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP | MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP) {
            if stream {
                return Err(Errno::EPROTO);
            }
            return groups::set_v6(&common.ns, &mut state, name, value);
        }
        let known = |index: i32| {
            index == 0 || common.ns.interfaces().iter().any(|iface| iface.index.cast_signed() == index)
        };
        let number = int(value)?;
        let on = number != 0;
        match name {
            IPV6_V6ONLY => {
                drop(state);
                if bound_port(sock) != 0 {
                    return Err(Errno::EINVAL);
                }
                self.v6only.store(on, Ordering::Relaxed);
            }
            IPV6_MULTICAST_LOOP if number & !1 != 0 => return Err(Errno::EINVAL),
            IPV6_MULTICAST_ALL if number & !1 != 0 => return Err(Errno::EINVAL),
            IPV6_TRANSPARENT => {
                if on && !may_be_transparent(&sock.common().ns, &caller.creds) {
                    return Err(Errno::EPERM);
                }
                self.switch6(name, on);
            }
            _ if SWITCHES6.contains(&name) => self.switch6(name, on),
            IPV6_RECVFRAGSIZE => self.switch6(name, on),
            IPV6_UNICAST_HOPS => state.hops = byte_or_default(number, 0)?,
            IPV6_MULTICAST_HOPS => {
                if stream {
                    return Err(Errno::ENOPROTOOPT);
                }
                state.mc_hops = byte_or_default(number, 0)?.unwrap_or(1);
            }
            IPV6_TCLASS => {
                let class = byte_or_default(number, 0)?.unwrap_or(0);
                state.tclass = if stream { class & !3 } else { class };
            }
            IPV6_MTU_DISCOVER => {
                if !(0..=IPV6_PMTUDISC_OMIT.cast_signed()).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                state.mtu_discover6 = number;
            }
            IPV6_MTU => {
                if number != 0 && number < 1280 {
                    return Err(Errno::EINVAL);
                }
                state.mtu6 = number;
            }
            IPV6_MINHOPCOUNT => state.min_hops = u8::try_from(number).map_err(|_| Errno::EINVAL)?,
            IPV6_MULTICAST_IF => {
                if stream {
                    return Err(Errno::ENOPROTOOPT);
                }
                if !known(number) {
                    return Err(Errno::ENODEV);
                }
                state.mc_index6 = number.cast_unsigned();
            }
            IPV6_UNICAST_IF => {
                let index = i32::from_be_bytes(number.to_ne_bytes());
                if !known(index) {
                    return Err(Errno::EADDRNOTAVAIL);
                }
                state.unicast_if6 = index.cast_unsigned();
            }
            IPV6_ADDR_PREFERENCES => state.preferences = number.cast_unsigned(),
            IPV6_ADDRFORM => {
                return Err(if number == AF_INET.cast_signed() { Errno::ENOTCONN } else { Errno::EINVAL });
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn get_ipv6(&self, sock: &dyn SocketOps, name: u32, room: usize) -> Result<OptValue, Errno> {
        let state = self.state.lock().clone();
        let all = &sock.common().ns.stack.config.all;
        let number = match name {
            IPV6_V6ONLY => self.v6only().into(),
            _ if SWITCHES6.contains(&name) => self.on6(name).into(),
            IPV6_TRANSPARENT | IPV6_RECVFRAGSIZE => self.on6(name).into(),
            IPV6_UNICAST_HOPS => state.hops.unwrap_or_else(|| all.hop_limit.byte()).into(),
            IPV6_MULTICAST_HOPS => state.mc_hops.into(),
            IPV6_TCLASS => state.tclass.into(),
            IPV6_MTU_DISCOVER => state.mtu_discover6,
            IPV6_MTU => route::mtu(&sock.common().ns, peer(sock)?).cast_signed(),
            IPV6_MINHOPCOUNT => state.min_hops.into(),
            IPV6_MULTICAST_IF => state.mc_index6.cast_signed(),
            IPV6_UNICAST_IF => i32::from_ne_bytes(state.unicast_if6.to_be_bytes()),
            IPV6_ADDR_PREFERENCES => (state.preferences | IPV6_PREFER_SRC_PUBTMP_DEFAULT).cast_signed(),
            IPV6_ADDRFORM => {
                sock.getpeername().map_err(|_| Errno::ENOTCONN)?;
                sock.common().family.cast_signed()
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(OptValue::Value(number.to_ne_bytes().into_iter().take(room).collect()))
    }
}

/// The address that a socket is connected to.
fn peer(sock: &dyn SocketOps) -> Result<IpAddr, Errno> {
    use crate::SockAddr::*;
    match sock.getpeername().map_err(|_| Errno::ENOTCONN)? {
        Inet(addr) => Ok(IpAddr::from(addr.sin_addr)),
        Inet6(addr) => Ok(super::addr::canonical(addr.sin6_addr.into())),
        _ => Err(Errno::ENOTCONN),
    }
}

fn bound_port(sock: &dyn SocketOps) -> u16 {
    use crate::SockAddr::*;
    match sock.getsockname() {
        Ok(Inet(addr)) => u16::from_be_bytes(addr.sin_port),
        Ok(Inet6(addr)) => u16::from_be_bytes(addr.sin6_port),
        _ => 0,
    }
}

/// IP_TRANSPARENT.
fn may_be_transparent(ns: &NetNs, creds: &Creds) -> bool {
    ns.allows(creds, CAP_NET_RAW) || ns.allows(creds, CAP_NET_ADMIN)
}
