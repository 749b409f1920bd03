//! sendmsg(2) of datagrams (udp_sendmsg()).

use super::{Core, SEND, UdpSock, deliver};
use crate::SockAddr;
use crate::inet::addr::Endpoint;
use crate::inet::ancillary::Ancillary;
use crate::inet::datagram::{Datagram, Failure, ORIGIN_ICMP, ORIGIN_ICMP6};
use crate::inet::route::{self, LOOPBACK};
use crate::msg::SendMsg;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::rtnetlink::RTN_BROADCAST;
use chitin_abi::socket::*;
use chitin_egress::UDP;
use chitin_mm::Source;
use chitin_netstack::{Route, SendOpts};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

/// The longest payloads: a packet has 65,535 bytes, of which IPv4 counts its own header.
const MAX_V4: usize = 65_507;
const MAX_V6: usize = 65_527;
/// UDP_MAX_SEGMENTS
const MAX_SEGMENTS: usize = 128;

/// The way of a datagram.
pub(super) struct DatagramWay {
    pub source: IpAddr,
    pub route: Route,
}

impl DatagramWay {
    pub fn broadcast(&self) -> bool {
        self.route.kind == RTN_BROADCAST
    }
    /// From socket to socket, without packets.
    fn is_direct(&self) -> bool {
        self.route.is_local() || self.route.link == LOOPBACK
    }
}

impl UdpSock {
    /// A destination for connect(2) or sendto(2). AF_INET6 sockets take both families' addresses.
    pub(super) fn parse_dest(&self, addr: &SockAddr, only_v6: Errno) -> Result<Endpoint, Errno> {
        let dest = match (self.v6, addr) {
            (true, SockAddr::Inet(addr)) => Endpoint::of_v4(addr),
            _ => Endpoint::parse(self.v6, addr)?,
        };
        if self.v6 && dest.ip.is_ipv4() && self.ip.v6only() {
            return Err(if matches!(addr, SockAddr::Inet(_)) { only_v6 } else { Errno::ENETUNREACH });
        }
        Ok(dest)
    }

    /// Where a datagram to `dest` goes out and comes from. `told`: the interface and source of a control message.
    pub(super) fn way(
        &self,
        core: &Core,
        dest: IpAddr,
        told: Option<&Ancillary>,
    ) -> Result<DatagramWay, Errno> {
        let own = (!core.local.ip.is_unspecified()).then_some(core.local.ip);
        let own = told.and_then(|told| told.source).or(own).filter(|ip| !ip.is_multicast());
        let (mut source, mut link) = (own, told.map_or(0, |told| told.index));
        if dest.is_multicast() {
            let (index, from) = self.ip.multicast_from(dest.is_ipv6());
            link = if link == 0 { index } else { link };
            source = source.or(from);
        }
        if link == 0 {
            link = self.common.device_index();
        }
        let route = route::find(&self.common.ns, dest, source, link, self.common.mark())?;
        Ok(DatagramWay { source: source.unwrap_or(route.src), route })
    }

    pub(super) fn send(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        let len = msg.data.left();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let told = Ancillary::parse(&msg.control.other, self.v6)?;
        let mut core = self.core.lock();
        self.autobind(&mut core)?;
        let mut dest = match &msg.dest {
            Some(SockAddr::Unspec) if !self.v6 => return Err(Errno::EAFNOSUPPORT),
            Some(SockAddr::Unspec) => return Err(Errno::EINVAL),
            Some(addr) => {
                let dest = self.parse_dest(addr, Errno::ENETUNREACH)?;
                if dest.port == 0 {
                    return Err(Errno::EINVAL);
                }
                dest
            }
            None => core.remote.ok_or(Errno::EDESTADDRREQ)?,
        };
        dest.ip = route::self_if_any(dest.ip);
        if let Some(error) = self.inbox.take_error() {
            return Err(error);
        }
        if core.shutdown & SEND != 0 {
            return Err(Errno::EPIPE);
        }
        let way = self.way(&core, dest.ip, Some(&told))?;
        if way.broadcast() && !self.common.flag(SO_BROADCAST) {
            return Err(Errno::EACCES);
        }
        let from = Endpoint { ip: way.source, port: core.local.port, scope: dest.scope };
        let limit = if dest.ip.is_ipv4() { MAX_V4 } else { MAX_V6 };
        let segment = told.segment.unwrap_or(self.segment.load(Ordering::Relaxed));
        let pending = core.pending.as_ref().map_or(0, |(_, data)| data.len());
        if len.saturating_add(pending) > limit {
            return Err(Errno::EMSGSIZE);
        }
        if segment != 0
            && (usize::from(segment) > limit || len > usize::from(segment).saturating_mul(MAX_SEGMENTS))
        {
            return Err(Errno::EINVAL);
        }
        let data = take(msg.data, len)?;
        if core.pending.is_some() || core.corked || msg.flags & MSG_MORE != 0 {
            let (_, collected) = core.pending.get_or_insert_with(|| (dest, Vec::new()));
            collected.extend_from_slice(&data);
            if core.corked || msg.flags & MSG_MORE != 0 {
                return Ok(len);
            }
            drop(core);
            self.push_pending()?;
            return Ok(len);
        }
        drop(core);
        if !way.is_direct() {
            self.transmit(&way, from, dest, &data, segment, &told)?;
            return Ok(len);
        }
        let datagram = Datagram {
            data,
            from,
            to: dest,
            index: way.route.link,
            ttl: told.ttl.unwrap_or_else(|| self.ip.ttl_for(&self.common.ns, dest.ip, way.route.link)),
            tos: told.tos.unwrap_or(self.ip.tos_for(dest.ip)),
            segment: if len > usize::from(segment) { segment } else { 0 },
            at: 0,
        };
        self.dispatch(datagram);
        Ok(len)
    }

    /// Sends what MSG_MORE and UDP_CORK have collected.
    pub(super) fn push_pending(self: &UdpSock) -> Result<(), Errno> {
        let (from, dest, way, data) = {
            let mut core = self.core.lock();
            let Some((dest, data)) = core.pending.take() else { return Ok(()) };
            let way = self.way(&core, dest.ip, None)?;
            (Endpoint { ip: way.source, port: core.local.port, scope: dest.scope }, dest, way, data)
        };
        if !way.is_direct() {
            return self.transmit(&way, from, dest, &data, 0, &Ancillary::default());
        }
        let ttl = self.ip.ttl_for(&self.common.ns, dest.ip, way.route.link);
        let tos = self.ip.tos_for(dest.ip);
        let data = data.into_boxed_slice();
        self.dispatch(Datagram { data, from, to: dest, index: way.route.link, ttl, tos, segment: 0, at: 0 });
        Ok(())
    }

    /// Over the wire.
    fn transmit(
        &self,
        way: &DatagramWay,
        from: Endpoint,
        dest: Endpoint,
        data: &[u8],
        segment: u16,
        told: &Ancillary,
    ) -> Result<(), Errno> {
        if self.lite() {
            return Err(Errno::EHOSTUNREACH);
        }
        let ns = &self.common.ns;
        let (own, other) = (from.socket_addr(), dest.socket_addr());
        if ns.egress().is_some_and(|egress| !egress.may_send(UDP, own, other, data)) {
            return Err(Errno::EPERM);
        }
        let v6 = dest.ip.is_ipv6();
        let opts = SendOpts {
            ttl: told.ttl.or_else(|| self.ip.own_ttl(dest.ip)),
            tos: told.tos.unwrap_or(self.ip.tos_for(dest.ip)),
            pmtudisc: self.ip.pmtudisc(v6),
            segment,
            no_check: self.common.flag(SO_NO_CHECK) && !v6,
            multicast_loop: self.ip.multicast_loops(v6),
            mark: self.common.mark(),
            broadcast: self.common.flag(SO_BROADCAST),
            ..SendOpts::default()
        };
        self.common.ns.stack.udp_send(&way.route, from.socket_addr(), dest.socket_addr(), data, &opts)
    }

    /// On its way; nobody there is an error of a later call, if this socket wants to hear of it.
    fn dispatch(&self, datagram: Datagram) {
        let dest = datagram.to;
        let v6 = dest.ip.is_ipv6();
        let wants = if v6 { self.ip.on6(IPV6_RECVERR) } else { self.ip.on(IP_RECVERR) };
        let kept = wants.then(|| datagram.data.clone());
        if deliver(&self.common.ns, self.lite(), datagram) {
            return;
        }
        if let Some(data) = kept {
            let failure = Failure {
                errno: Errno::ECONNREFUSED,
                origin: if v6 { ORIGIN_ICMP6 } else { ORIGIN_ICMP },
                kind: if v6 { 1 } else { 3 },
                code: if v6 { 4 } else { 3 },
                info: 0,
                offender: dest.ip,
                dest,
                data,
            };
            self.inbox.fail(Errno::ECONNREFUSED, Some(failure));
        } else if self.core.lock().remote.is_some() {
            self.inbox.fail(Errno::ECONNREFUSED, None);
        }
    }
}

/// All of a message's bytes, or EFAULT.
pub(crate) fn take(source: &mut dyn Source, len: usize) -> Result<Box<[u8]>, Errno> {
    let mut data = vec![0; len].into_boxed_slice();
    let mut done = 0;
    while done < len {
        match source.take(data.get_mut(done..).unwrap_or_default())? {
            0 => return Err(Errno::EFAULT),
            count => done += count,
        }
    }
    Ok(data)
}
