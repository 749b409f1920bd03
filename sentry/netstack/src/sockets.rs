//! The seam to the sockets layer: what it is told, and the forms of datagrams.

use crate::tcp::{TcpConn, TcpOptions};
use chitin_abi::Errno;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// To whom a packet was sent on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Cast {
    #[default]
    Unicast,
    Broadcast,
    Multicast,
}

/// A UDP datagram that has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The link's index.
    pub link: u32,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub payload: &'a [u8],
    pub cast: Cast,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv6: flow label.
    pub flow: u32,
    /// IPv4: options.
    pub options: &'a [u8],
    /// Payload bytes per datagram where several have been put together (UDP_GRO); 0 otherwise.
    pub gso_size: u16,
    /// Monotonic time of arrival.
    pub time: u64,
}

/// An IP packet for raw and ping sockets: whole, headers and all, reassembled.
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    pub link: u32,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// IPPROTO_* of the payload (behind IPv6's extension headers).
    pub proto: u8,
    pub packet: &'a [u8],
    /// What is behind the IP header(s).
    pub payload: &'a [u8],
    pub cast: Cast,
    pub ttl: u8,
    pub tos: u8,
    pub flow: u32,
    pub time: u64,
}

/// PACKET_HOST and its kind, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Host = 0,
    Broadcast = 1,
    Multicast = 2,
    OtherHost = 3,
    Outgoing = 4,
}

/// A frame for AF_PACKET.
#[derive(Clone, Copy, Debug)]
pub struct FrameIn<'a> {
    pub link: u32,
    /// The frame with its link header, in up to three pieces.
    pub pieces: [&'a [u8]; 3],
    /// Bytes of link header.
    pub header: usize,
    /// EtherType.
    pub protocol: u16,
    pub kind: FrameKind,
    pub time: u64,
}

/// An ICMP error about something that this host has sent.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError<'a> {
    /// Who told it: a router, the destination, or ourselves.
    pub from: IpAddr,
    pub link: u32,
    pub icmp_type: u8,
    pub icmp_code: u8,
    /// The MTU, for errors about sizes.
    pub info: u32,
    /// What Linux makes of it.
    pub errno: Errno,
    /// Whether it ends connections (as against soft errors).
    pub fatal: bool,
    /// The offending packet: addresses and ports (ICMP: the identifier as the source's port).
    pub proto: u8,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// As much of the offending packet's payload behind its transport header as was quoted.
    pub payload: &'a [u8],
    /// The offending packet from its IP header on, for raw sockets.
    pub packet: &'a [u8],
}

/// How a datagram is to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendOpts<'a> {
    /// TTL or hop limit; the default one if there is none.
    pub ttl: Option<u8>,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv6: flow label.
    pub flow: u32,
    /// IP_PMTUDISC_*; larger packets are then refused with EMSGSIZE or not cut.
    pub pmtudisc: u32,
    /// UDP_SEGMENT: bytes of payload per datagram; 0: one datagram.
    pub segment: u16,
    /// UDP: no checksum (SO_NO_CHECK, UDP_NO_CHECK6_TX).
    pub no_check: bool,
    /// Multicast: whether members on this host get it, too.
    pub multicast_loop: bool,
    /// IPv4 options to be put in, padded to words.
    pub options: &'a [u8],
    /// SO_MARK.
    pub mark: u32,
    /// May the packet go to a broadcast address (SO_BROADCAST)? Otherwise EACCES.
    pub broadcast: bool,
}

/// The sockets layer. No lock of the stack is held in its calls, and it may call the stack.
pub trait Sockets: Send + Sync {
    /// Who listens for a connection from `remote` to `local`? Called for each SYN and for the ACK that ends a handshake.
    fn tcp_listener(&self, link: u32, local: SocketAddr, remote: SocketAddr) -> Option<Arc<dyn TcpListener>>;
    /// Delivers to all it concerns; whether there was anybody. If not, ICMP says so to the sender.
    fn udp(&self, datagram: &Datagram<'_>) -> bool;
    /// For raw sockets, and replies for ping sockets. Called for each packet for this host while
    /// [`Stack::want_raw`](crate::Stack::want_raw) is set, and for ICMP replies always. Whether anybody took it: if
    /// nobody did and the protocol is unknown, ICMP says so.
    fn raw(&self, packet: &IpPacket<'_>) -> bool;
    /// Tells the socket that sent. TCP on the wire has handled it already.
    fn icmp_error(&self, error: &IcmpError<'_>);
    /// Frames in both directions, while [`Stack::want_frames`](crate::Stack::want_frames) is set. Outgoing ones are
    /// told with locks held: queue, and do not call the stack.
    fn packet(&self, frame: &FrameIn<'_>);
}

/// A listening socket.
pub trait TcpListener: Send + Sync {
    /// What its connections start with.
    fn options(&self) -> TcpOptions;
    /// Whether another connection fits into the accept queue.
    fn room(&self) -> bool;
    /// How many may be in the handshake; beyond it, cookies are used.
    fn backlog(&self) -> u32;
    /// How many bytes of a segment, from its TCP header on, its filter keeps; `None`: it is lost.
    fn admit(&self, _packet: &IpPacket<'_>) -> Option<usize> {
        Some(usize::MAX)
    }
    /// A connection has been made. It must be given its [`TcpEvents`] here. False: it could not be kept.
    fn established(&self, conn: Arc<TcpConn>) -> bool;
}

/// Who is told about a connection. Hints: look at [`TcpConn::readiness`]. No lock of the stack is held.
pub trait TcpEvents: Send + Sync {
    /// `events`: POLL* bits that may have become true.
    fn notify(&self, events: u32);
    /// As [`TcpListener::admit`], where the connection's settings have a filter.
    fn admit(&self, _packet: &IpPacket<'_>) -> Option<usize> {
        Some(usize::MAX)
    }
}
