//! Packets out: headers, fragments, and copies for this host's own group members.

use super::v4::Head4;
use super::v6::Head6;
use super::{FRAGMENT, UDP, cut};
use crate::config::Route;
use crate::device::{Csum, Gso};
use crate::link::{Head, Out};
use crate::sockets::SendOpts;
use crate::stack::Stack;
use crate::wire::*;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::netdevice::{ETH_P_IP, ETH_P_IPV6};
use chitin_abi::num::low16;
use chitin_abi::rtnetlink::*;
use std::net::IpAddr;
use zerocopy::{FromBytes, IntoBytes};

/// Something to be sent in a packet of its own.
#[derive(Clone, Copy)]
pub(crate) struct Send<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    /// The header above IP's, and what follows.
    pub l4: &'a [u8],
    pub body: &'a [u8],
    /// Offsets count from the header above IP's.
    pub csum: Option<Csum>,
    pub gso: Option<Gso>,
    pub ttl: Option<u8>,
    pub tos: u8,
    pub flow: u32,
    pub pmtudisc: u32,
    pub options: &'a [u8],
    /// Members on this host get it, too.
    pub to_self: bool,
}

impl<'a> Send<'a> {
    pub fn new(src: IpAddr, dst: IpAddr, proto: u8, l4: &'a [u8], body: &'a [u8]) -> Send<'a> {
        Send {
            src,
            dst,
            proto,
            l4,
            body,
            csum: None,
            gso: None,
            ttl: None,
            tos: 0,
            flow: 0,
            pmtudisc: IP_PMTUDISC_DONT,
            options: &[],
            to_self: false,
        }
    }
    fn len(&self) -> usize {
        self.l4.len() + self.body.len()
    }
}

impl Stack {
    /// The hop limit of a packet.
    pub(crate) fn ttl(&self, route: &Route, wanted: Option<u8>) -> u8 {
        let usual = || match (route.kind, route.dst.is_ipv4()) {
            (RTN_MULTICAST, _) => 1,
            (_, true) => self.sysctls.ip_default_ttl.byte(),
            _ => self.config.hop_limit(route.link),
        };
        wanted.or(route.hoplimit).unwrap_or_else(usual)
    }

    fn next_id(&self) -> u32 {
        self.ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Bytes that a packet to a destination may have, and whether that is what routers said or the link's own.
    pub(crate) fn path_mtu(&self, route: &Route, pmtudisc: u32) -> usize {
        let mtu = match pmtudisc {
            IP_PMTUDISC_PROBE | IP_PMTUDISC_INTERFACE | IP_PMTUDISC_OMIT => route.mtu,
            _ => self.pmtu.of(&route.dst, route.mtu, self.now()),
        };
        mtu as usize
    }

    /// Sends a packet, in fragments if it must be and may be.
    pub(crate) fn ip_output(&self, route: &Route, send: &Send<'_>) -> Result<(), Errno> {
        let v4 = send.dst.is_ipv4();
        let header = if v4 { IPV4_LEN + send.options.len() } else { IPV6_LEN };
        let most = if v4 { 65535 - header } else { 65535 };
        if send.len() > most {
            return Err(Errno::EMSGSIZE);
        }
        let hop =
            self.hop(route.link, route.next_hop(), route.kind == RTN_BROADCAST).ok_or(Errno::ENOBUFS)?;
        let mtu = self.path_mtu(route, send.pmtudisc);
        let fits = header + send.len() <= mtu || send.gso.is_some();
        let whole = send.pmtudisc == IP_PMTUDISC_DO || send.pmtudisc == IP_PMTUDISC_PROBE;
        if !fits && (whole || send.pmtudisc == IP_PMTUDISC_INTERFACE) {
            return Err(Errno::EMSGSIZE);
        }
        if !fits {
            return self.fragment(route, &hop, mtu, send);
        }
        let dont = v4 && (whole || send.pmtudisc == IP_PMTUDISC_WANT);
        let mut head = Head::new();
        // What is never cut needs no number of its own.
        let id = if dont { 0 } else { low16(self.next_id()) };
        self.ip_head(&mut head, route, send, send.proto, send.len(), id, if dont { IP_DF } else { 0 });
        head.push(send.l4);
        let add = |n: u16| len16(usize::from(n) + header).get();
        let mut out = Out::new(head, send.body);
        out.csum = send.csum.map(|c| Csum { start: add(c.start), ..c });
        out.gso = send.gso.map(|g| Gso { header: add(g.header), ..g });
        if send.to_self {
            let mut copy = out.head.packet().to_vec();
            copy.extend_from_slice(send.body);
            self.backlog.push(route.link, copy);
        }
        self.emit(&hop, if v4 { ETH_P_IP } else { ETH_P_IPV6 }, &mut [out]);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn ip_head(
        &self,
        head: &mut Head,
        route: &Route,
        send: &Send<'_>,
        proto: u8,
        len: usize,
        id: u16,
        frag: u16,
    ) {
        let ttl = self.ttl(route, send.ttl);
        match (send.src, send.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (tos, options) = (send.tos, send.options);
                Head4 { src, dst, proto, tos, ttl, id, frag, options, len }.write(head);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (tos, flow) = (send.tos, send.flow);
                Head6 { src, dst, next: proto, tos, flow, hops: ttl, len }.write(head);
            }
            _ => {}
        }
    }

    fn fragment(
        &self,
        route: &Route,
        hop: &crate::link::Hop,
        mtu: usize,
        send: &Send<'_>,
    ) -> Result<(), Errno> {
        let v4 = send.dst.is_ipv4();
        let mut data = Vec::with_capacity(send.len());
        data.extend_from_slice(send.l4);
        data.extend_from_slice(send.body);
        if let Some(csum) = send.csum {
            complete(&mut data, csum);
        }
        let id = self.next_id();
        let mut outs = Vec::new();
        if v4 {
            let mut head = Head::new();
            self.ip_head(&mut head, route, send, send.proto, data.len(), low16(id), 0);
            outs = cut::fragments(head.packet(), &data, mtu).ok_or(Errno::EMSGSIZE)?;
        } else {
            let header = IPV6_LEN + size_of::<Frag6>();
            let step = Some(mtu.saturating_sub(header) & !7).filter(|step| *step != 0);
            let step = step.ok_or(Errno::EMSGSIZE)?;
            let last = data.len().saturating_sub(1) / step;
            for (n, piece) in data.chunks(step).enumerate() {
                let mut head = Head::new();
                let len = size_of::<Frag6>() + piece.len();
                self.ip_head(&mut head, route, send, FRAGMENT, len, 0, 0);
                let off = len16(n * step).get() | u16::from(n < last);
                let frag = Frag6 { next: send.proto, reserved: 0, off: off.into(), id: id.into() };
                head.push(frag.as_bytes());
                outs.push(Out::new(head, piece));
            }
        }
        if send.to_self {
            for Out { head, body: [piece, _], .. } in &outs {
                self.backlog.push(route.link, [head.packet(), piece].concat());
            }
        }
        self.emit(hop, if v4 { ETH_P_IP } else { ETH_P_IPV6 }, &mut outs);
        Ok(())
    }

    /// Whether this host is to get its own copy of a packet along a route.
    pub(crate) fn loops_back(&self, route: &Route, opts: &SendOpts<'_>) -> bool {
        match route.kind {
            RTN_MULTICAST => opts.multicast_loop && self.groups.has(route.link, &route.dst),
            RTN_BROADCAST => route.link != crate::config::LO,
            _ => false,
        }
    }

    /// Sends a packet of any protocol (raw and ping sockets): the IP header is made here, checksums above it are not.
    pub fn ip_send(
        &self,
        route: &Route,
        src: IpAddr,
        proto: u8,
        payload: &[u8],
        opts: &SendOpts<'_>,
    ) -> Result<(), Errno> {
        if route.kind == RTN_BROADCAST && !opts.broadcast {
            return Err(Errno::EACCES);
        }
        let send = Send {
            ttl: opts.ttl,
            tos: opts.tos,
            flow: opts.flow,
            pmtudisc: opts.pmtudisc,
            options: opts.options,
            to_self: self.loops_back(route, opts),
            ..Send::new(src, route.dst, proto, &[], payload)
        };
        let sent = self.ip_output(route, &send);
        self.drain();
        sent
    }

    /// Sends a packet with its IP header (IP_HDRINCL); its checksum, length and, if zero, id and source are filled in.
    /// It is not cut: EMSGSIZE.
    pub fn packet_send(&self, route: &Route, packet: &[u8], opts: &SendOpts<'_>) -> Result<(), Errno> {
        if route.kind == RTN_BROADCAST && !opts.broadcast {
            return Err(Errno::EACCES);
        }
        if packet.len() > route.mtu as usize {
            return Err(Errno::EMSGSIZE);
        }
        let hop =
            self.hop(route.link, route.next_hop(), route.kind == RTN_BROADCAST).ok_or(Errno::ENOBUFS)?;
        let mut head = Head::new();
        let (proto, body) = if route.dst.is_ipv4() {
            let (ip, rest) = Ipv4::read_from_prefix(packet).map_err(|_| Errno::EINVAL)?;
            let options = usize::from(ip.vihl & 0xf).checked_sub(5).ok_or(Errno::EINVAL)? * 4;
            let (options, body) = rest.split_at_checked(options).ok_or(Errno::EINVAL)?;
            let mut ip = Ipv4 { len: len16(packet.len()), csum: 0.into(), ..ip };
            if ip.id.get() == 0 {
                ip.id = low16(self.next_id()).into();
            }
            if let ([0, 0, 0, 0], IpAddr::V4(src)) = (ip.src, route.src) {
                ip.src = src.octets();
            }
            ip.csum = Sum::default().put(ip.as_bytes()).put(options).finish();
            head.push(ip.as_bytes());
            head.push(options);
            (ETH_P_IP, body)
        } else {
            let (ip, body) = packet.split_at_checked(IPV6_LEN).ok_or(Errno::EINVAL)?;
            head.push(ip);
            (ETH_P_IPV6, body)
        };
        self.emit(&hop, proto, &mut [Out::new(head, body)]);
        self.drain();
        Ok(())
    }

    /// Sends a UDP datagram, or several of `segment` bytes each.
    pub fn udp_send(
        &self,
        route: &Route,
        src: std::net::SocketAddr,
        dst: std::net::SocketAddr,
        payload: &[u8],
        opts: &SendOpts<'_>,
    ) -> Result<(), Errno> {
        if route.kind == RTN_BROADCAST && !opts.broadcast {
            return Err(Errno::EACCES);
        }
        let sent = self.udp_output(route, src, dst, payload, opts);
        self.drain();
        sent
    }

    fn udp_output(
        &self,
        route: &Route,
        src: std::net::SocketAddr,
        dst: std::net::SocketAddr,
        payload: &[u8],
        opts: &SendOpts<'_>,
    ) -> Result<(), Errno> {
        let v4 = route.dst.is_ipv4();
        let header = UDP_LEN + if v4 { IPV4_LEN + opts.options.len() } else { IPV6_LEN };
        if payload.len() > 65535 - UDP_LEN - if v4 { IPV4_LEN } else { 0 } {
            return Err(Errno::EMSGSIZE);
        }
        let device = self.port(route.link).map(|port| port.info.clone()).ok_or(Errno::ENETDOWN)?;
        let mtu = self.path_mtu(route, opts.pmtudisc);
        let segment = usize::from(opts.segment);
        if segment != 0
            && payload.len() > segment
            && (header + segment > mtu || payload.len().div_ceil(segment) > 128)
        {
            return Err(if header + segment > mtu { Errno::EMSGSIZE } else { Errno::EINVAL });
        }
        let base = Send {
            ttl: opts.ttl,
            tos: opts.tos,
            flow: opts.flow,
            pmtudisc: opts.pmtudisc,
            options: opts.options,
            to_self: self.loops_back(route, opts),
            ..Send::new(src.ip(), route.dst, UDP, &[], &[])
        };
        let at_once = segment != 0 && payload.len() > segment && device.uso && !base.to_self;
        let step = if segment == 0 || at_once { payload.len().max(1) } else { segment };
        let mut rest = payload;
        loop {
            let (now, later) = rest.split_at_checked(step).unwrap_or((rest, &[]));
            let len = UDP_LEN + now.len();
            let mut udp =
                Udp { src: src.port().into(), dst: dst.port().into(), len: len16(len), csum: 0.into() };
            let sum = Sum::default().pseudo(&base.src, &base.dst, UDP, len);
            // A device sums up single packets, not what has been cut.
            let offload = device.csum && (at_once || header + now.len() <= mtu) && !base.to_self;
            let mut csum = None;
            if opts.no_check {
            } else if offload {
                udp.csum = sum.partial();
                csum = Some(Csum { start: 0, offset: 6 });
            } else {
                udp.csum = sum.put(udp.as_bytes()).put(now).finish_udp();
            }
            let gso = at_once.then_some(Gso {
                kind: crate::device::GsoKind::Udp,
                size: opts.segment,
                header: len16(UDP_LEN).get(),
            });
            self.ip_output(route, &Send { l4: udp.as_bytes(), body: now, csum, gso, ..base })?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }
}

/// Completes a checksum that a device would have.
pub(crate) fn complete(data: &mut [u8], csum: Csum) {
    let start = usize::from(csum.start);
    let at = start + usize::from(csum.offset);
    let sum = Sum::default().put(data.get(start..).unwrap_or_default()).finish_udp();
    if let Some(room) = data.get_mut(at..at + 2) {
        room.copy_from_slice(sum.as_bytes());
    }
}
