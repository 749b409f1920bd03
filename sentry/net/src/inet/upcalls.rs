//! The two seams to the protocol engine below: what it needs from the world, and what it tells the sockets.

use super::addr::Endpoint;
use super::datagram::{Failure, ORIGIN_ICMP, ORIGIN_ICMP6};
use super::{datagram, packet, raw, udp};
use crate::NetNs;
use chitin_abi::inet::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP};
use chitin_host::clock::now_ns;
use chitin_netstack::{Datagram, Env, FrameIn, IcmpError, IpPacket, Sockets, TcpListener};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

const CLOCK_MONOTONIC: i32 = 1;

/// Sets the stack's timer to a monotonic time in nanoseconds.
pub type Arm = Box<dyn Fn(u64) + Send + Sync>;

/// Time, randomness, and the timer that boot lends.
#[derive(Default)]
pub(crate) struct World {
    pub arm: OnceLock<Arm>,
}

impl Env for World {
    fn now(&self) -> u64 {
        now_ns(CLOCK_MONOTONIC)
    }
    fn random(&self) -> u64 {
        super::ports::random()
    }
    fn arm(&self, at: u64) {
        if let Some(arm) = self.arm.get() {
            arm(at);
        }
    }
}

/// What arrives goes to the sockets of the namespace.
pub(crate) struct Upcalls(pub Weak<NetNs>);

fn endpoint(addr: SocketAddr) -> Endpoint {
    Endpoint::new(addr.ip(), addr.port())
}

impl Sockets for Upcalls {
    fn tcp_listener(&self, link: u32, local: SocketAddr, remote: SocketAddr) -> Option<Arc<dyn TcpListener>> {
        let ns = self.0.upgrade()?;
        Some(ns.inet.find_listener(link, &endpoint(local), &endpoint(remote))?)
    }

    fn udp(&self, datagram: &Datagram<'_>) -> bool {
        let Some(ns) = self.0.upgrade() else { return true };
        let datagram = datagram::Datagram {
            data: datagram.payload.into(),
            from: Endpoint { scope: scope(datagram.src, datagram.link), ..endpoint(datagram.src) },
            to: endpoint(datagram.dst),
            index: datagram.link,
            ttl: datagram.ttl,
            tos: datagram.tos,
            segment: if datagram.payload.len() > datagram.gso_size.into() { datagram.gso_size } else { 0 },
            at: 0,
        };
        udp::deliver(&ns, false, datagram)
    }

    fn raw(&self, packet: &IpPacket<'_>) -> bool {
        let Some(ns) = self.0.upgrade() else { return true };
        raw::deliver(&ns, packet)
    }

    fn icmp_error(&self, error: &IcmpError<'_>) {
        let Some(ns) = self.0.upgrade() else { return };
        let failure = Failure {
            errno: error.errno,
            origin: if error.from.is_ipv4() { ORIGIN_ICMP } else { ORIGIN_ICMP6 },
            kind: error.icmp_type,
            code: error.icmp_code,
            info: error.info,
            offender: error.from,
            dest: endpoint(error.dst),
            data: error.payload.into(),
        };
        match u32::from(error.proto) {
            IPPROTO_UDP => udp::failed(&ns, &endpoint(error.src), failure, error.fatal),
            IPPROTO_ICMP | IPPROTO_ICMPV6 => raw::failed(&ns, error, failure),
            _ => {}
        }
    }

    fn packet(&self, frame: &FrameIn<'_>) {
        if let Some(ns) = self.0.upgrade() {
            ns.show_taps(frame);
            packet::deliver(&ns, frame);
        }
    }
}

/// The interface, for addresses that mean nothing without.
fn scope(addr: SocketAddr, link: u32) -> u32 {
    if super::addr::link_scoped(addr.ip()) { link } else { 0 }
}
