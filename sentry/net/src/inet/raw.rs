//! Raw sockets (raw(7)) and ping sockets (icmp(7)): packets above IP, made and taken by programs themselves.
//!
//! A ping socket is a datagram socket of ICMP that may only send echo requests; the identifier of its requests is its
//! port, and the replies to those are its.
//!
//! Locks: `RawSock::core`, a leaf but for the table of raw sockets.

mod send;

use super::addr::Endpoint;
use super::datagram::{Datagram, Failure, Inbox};
use super::ip::IpOptions;
use super::list::Entry;
use super::{check_bind, ports, route};
use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{SocketOps, sender_cred};
use crate::{NetNs, SockAddr};
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::num::low16;
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_netstack::{IcmpError, IpPacket};
use chitin_vfs::bounds::{INET_SOCKETS, Share};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, PollTable};
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// Bits of `shutdown`.
const RCV: u32 = 1;
const SEND: u32 = 2;

/// A raw or ping socket.
pub struct RawSock {
    pub(super) common: Common,
    v6: bool,
    ping: bool,
    ip: IpOptions,
    me: Weak<RawSock>,
    inbox: Inbox,
    /// IP_HDRINCL.
    header: AtomicBool,
    /// ICMP_FILTER: types not wanted; ICMPV6_FILTER: likewise, in eight words.
    filter: [AtomicU32; 8],
    /// Offset of a checksum to be filled in (IPV6_CHECKSUM); -1: none.
    checksum: Mutex<i32>,
    core: Mutex<Core>,
    _counted: Share,
}

struct Core {
    local: Endpoint,
    remote: Option<Endpoint>,
    shutdown: u32,
}

impl RawSock {
    pub fn new(
        ns: &Arc<NetNs>,
        v6: bool,
        ping: bool,
        protocol: u32,
        creator: &Caller,
    ) -> Result<Arc<RawSock>, Errno> {
        let counted = INET_SOCKETS.share(1).ok_or(Errno::ENFILE)?;
        let family = if v6 { AF_INET6 } else { AF_INET };
        let kind = if ping { SOCK_DGRAM } else { SOCK_RAW };
        let common = Common::new(ns, family, kind, protocol, sender_cred(creator));
        let cookie = common.cookie();
        // ICMPv6 needs its checksum filled in, at byte 2; programs leave it to us.
        let checksum = if v6 && protocol == IPPROTO_ICMPV6 { 2 } else { -1 };
        let sock = Arc::new_cyclic(|me| RawSock {
            common,
            v6,
            ping,
            ip: IpOptions::new(ns, v6),
            me: me.clone(),
            inbox: Inbox::new(),
            header: AtomicBool::new(!v6 && protocol == IPPROTO_RAW),
            filter: Default::default(),
            checksum: Mutex::new(checksum),
            core: Mutex::new(Core { local: Endpoint::any(v6), remote: None, shutdown: 0 }),
            _counted: counted,
        });
        let mut table = ns.inet.raw.lock();
        table.insert(cookie, sock.me.clone());
        drop(table);
        RawSock::count(ns);
        Ok(sock)
    }

    /// The stack shows packets only while somebody wants to see them.
    fn count(ns: &NetNs) {
        let socks: Vec<_> = ns.inet.raw.lock().values().filter_map(Weak::upgrade).collect();
        ns.stack.want_raw(socks.iter().any(|sock| !sock.ping));
    }

    /// A ping socket's identifier.
    fn identify(&self, core: &mut Core, wanted: u16) -> Result<(), Errno> {
        if !self.ping || core.local.port != 0 {
            return Ok(());
        }
        let others: Vec<_> = self.common.ns.inet.raw.lock().values().filter_map(Weak::upgrade).collect();
        let taken = |id: u16| {
            let mine =
                |other: &&Arc<RawSock>| !std::ptr::eq(&***other, self) && other.ping && other.v6 == self.v6;
            others.iter().filter(mine).any(|other| other.core.lock().local.port == id)
        };
        let id = match wanted {
            0 => {
                let start = low16(u32::try_from(ports::random() & 0xffff).unwrap_or(1));
                let tries = (0..=u16::MAX).map(|step| start.wrapping_add(step)).filter(|&id| id != 0);
                tries.into_iter().find(|&id| !taken(id)).ok_or(Errno::EAGAIN)?
            }
            id if taken(id) => return Err(Errno::EADDRINUSE),
            id => id,
        };
        core.local.port = id;
        Ok(())
    }

    fn fits(&self, packet: &IpPacket<'_>) -> bool {
        if self.v6 != packet.dst.is_ipv6() || self.common.protocol != u32::from(packet.proto) {
            return false;
        }
        let device = self.common.device_index();
        let core = self.core.lock();
        let here = core.local.ip.is_unspecified() || core.local.ip == packet.dst;
        let there = core.remote.is_none_or(|remote| remote.ip == packet.src);
        here && there && (device == 0 || device == packet.link) && core.shutdown & RCV == 0
    }

    /// ICMP_FILTER and ICMPV6_FILTER.
    fn filtered(&self, packet: &IpPacket<'_>) -> bool {
        let Some(&kind) = packet.payload.first() else { return false };
        let icmp = matches!(self.common.protocol, IPPROTO_ICMP | IPPROTO_ICMPV6);
        let word = self.filter.get(usize::from(kind >> 5)).map_or(0, |word| word.load(Ordering::Relaxed));
        icmp && word & 1u32.checked_shl(u32::from(kind & 31)).unwrap_or(0) != 0
    }

    fn take(&self, packet: &IpPacket<'_>) {
        let whole = !self.v6 && !self.ping;
        let data = if whole { packet.packet } else { packet.payload };
        let scope = if super::addr::link_scoped(packet.src) { packet.link } else { 0 };
        self.inbox.push(
            &self.common,
            Datagram {
                data: data.into(),
                from: Endpoint { ip: packet.src, port: 0, scope },
                to: Endpoint::new(packet.dst, 0),
                index: packet.link,
                ttl: packet.ttl,
                tos: packet.tos,
                segment: 0,
                at: 0,
            },
        );
    }

    pub(super) fn entry(&self) -> Entry {
        let core = self.core.lock();
        let port = if self.ping { core.local.port } else { low16(self.common.protocol) };
        Entry {
            v6: self.v6,
            protocol: self.common.protocol,
            state: if core.remote.is_some() { TCP_ESTABLISHED } else { TCP_CLOSE },
            local: Endpoint { port, ..core.local },
            remote: core.remote.unwrap_or(Endpoint::any(self.v6)),
            send_queue: 0,
            receive_queue: self.inbox.queued().1,
            uid: self.common.creator.uid,
            inode: self.common.ino(),
            cookie: self.common.cookie(),
            timer: None,
        }
    }
    pub(super) fn is_ping(&self) -> bool {
        self.ping
    }
}

/// The identifier of an echo reply.
fn reply_to(packet: &IpPacket<'_>) -> Option<u16> {
    let reply = match u32::from(packet.proto) {
        IPPROTO_ICMP => ICMP_ECHOREPLY,
        IPPROTO_ICMPV6 => ICMPV6_ECHO_REPLY,
        _ => return None,
    };
    match packet.payload {
        [kind, _, _, _, high, low, ..] if u32::from(*kind) == reply => {
            Some(u16::from_be_bytes([*high, *low]))
        }
        _ => None,
    }
}

/// Gives a packet to all raw sockets of its protocol, and a reply to the ping socket that asked.
pub(super) fn deliver(ns: &NetNs, packet: &IpPacket<'_>) -> bool {
    let socks: Vec<_> = ns.inet.raw.lock().values().filter_map(Weak::upgrade).collect();
    let id = reply_to(packet);
    let mut any = false;
    for sock in socks.iter().filter(|sock| sock.fits(packet)) {
        if sock.ping {
            if id != Some(sock.core.lock().local.port) {
                continue;
            }
        } else if sock.filtered(packet) {
            any = true;
            continue;
        }
        sock.take(packet);
        any = true;
    }
    any
}

/// An error about a packet that a ping socket has sent.
pub(super) fn failed(ns: &NetNs, error: &IcmpError<'_>, failure: Failure) {
    let socks: Vec<_> = ns.inet.raw.lock().values().filter_map(Weak::upgrade).collect();
    let asked = |sock: &&Arc<RawSock>| sock.ping && sock.core.lock().local.port == error.src.port();
    if let Some(sock) = socks.iter().find(asked) {
        let wants = if sock.v6 { sock.ip.on6(IPV6_RECVERR) } else { sock.ip.on(IP_RECVERR) };
        let connected = sock.core.lock().remote.is_some();
        if wants || (error.fatal && connected) {
            sock.inbox.fail(error.errno, wants.then_some(failure));
        }
    }
}

impl SocketOps for RawSock {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        let at = Endpoint::parse(self.v6, addr)?;
        // What would be a port elsewhere may be anything here.
        check_bind(&self.common.ns, &self.ip, self.v6, &Endpoint { port: 0, ..at }, ctx, true)?;
        let mut core = self.core.lock();
        self.identify(&mut core, at.port)?;
        core.local = Endpoint { port: core.local.port, ..at };
        Ok(())
    }

    fn connect(self: Arc<Self>, _ctx: &Context, addr: &SockAddr, _: &mut WaitOn) -> Result<(), Errno> {
        let mut core = self.core.lock();
        if matches!(addr, SockAddr::Unspec) {
            core.remote = None;
            return Ok(());
        }
        let mut remote = Endpoint::parse(self.v6, addr)?;
        remote.ip = route::self_if_any(remote.ip);
        self.identify(&mut core, 0)?;
        let way = route::find(&self.common.ns, remote.ip, None, self.common.device_index(), 0)?;
        if core.local.ip.is_unspecified() {
            core.local.ip = way.src;
        }
        core.remote = Some(remote);
        Ok(())
    }

    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        self.send(msg)
    }
    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        let ended = self.core.lock().shutdown & RCV != 0;
        self.inbox.receive(&self.common, &self.ip, msg, ended)
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let mut core = self.core.lock();
        core.shutdown |= (how + 1) & (RCV | SEND);
        if core.remote.is_some() { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        let core = self.core.lock();
        let port = if self.ping { core.local.port } else { low16(self.common.protocol) };
        Ok(Endpoint { port, ..core.local }.encode(self.v6))
    }
    fn getpeername(&self) -> Result<SockAddr, Errno> {
        Ok(self.core.lock().remote.ok_or(Errno::ENOTCONN)?.encode(self.v6))
    }

    fn setsockopt(&self, level: u32, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        let words = value.as_chunks::<4>().0;
        match (level, name) {
            (SOL_IP, IP_HDRINCL) if !self.ping && !self.v6 => {
                let on = value.iter().take(4).any(|&b| b != 0);
                self.header.store(on, Ordering::Relaxed);
                Ok(())
            }
            (SOL_RAW, ICMP_FILTER) | (SOL_ICMPV6, ICMPV6_FILTER) if !self.ping => {
                let icmp = matches!(self.common.protocol, IPPROTO_ICMP | IPPROTO_ICMPV6);
                if !icmp {
                    return Err(Errno::EOPNOTSUPP);
                }
                for (word, raw) in self.filter.iter().zip(words) {
                    word.store(u32::from_ne_bytes(*raw), Ordering::Relaxed);
                }
                Ok(())
            }
            (SOL_RAW | SOL_IPV6, IPV6_CHECKSUM) if self.v6 && !self.ping => {
                let offset = words.first().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)?;
                if self.common.protocol == IPPROTO_ICMPV6 || (offset > 0 && offset & 1 != 0) {
                    return Err(Errno::EINVAL);
                }
                *self.checksum.lock() = offset.max(-1);
                Ok(())
            }
            _ => self.ip.set(self, level, name, value, caller),
        }
    }
    fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        let raw: Vec<u8> = match (level, name) {
            (SOL_IP, IP_HDRINCL) if !self.ping && !self.v6 => {
                i32::from(self.header.load(Ordering::Relaxed)).to_ne_bytes().to_vec()
            }
            (SOL_RAW, ICMP_FILTER) if !self.ping && !self.v6 => self
                .filter
                .iter()
                .take(1)
                .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
                .collect(),
            (SOL_ICMPV6, ICMPV6_FILTER) if !self.ping && self.v6 => {
                self.filter.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
            }
            (SOL_RAW | SOL_IPV6, IPV6_CHECKSUM) if self.v6 && !self.ping => {
                self.checksum.lock().to_ne_bytes().to_vec()
            }
            _ => return self.ip.get(self, level, name, room),
        };
        Ok(OptValue::Value(raw.into_iter().take(room).collect()))
    }

    fn input_queued(&self) -> Result<usize, Errno> {
        Ok(self.inbox.queued().0)
    }
    fn output_queued(&self) -> Result<usize, Errno> {
        Ok(0)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.inbox.queue);
        }
        let shutdown = self.core.lock().shutdown;
        let mut mask = self.inbox.mask();
        if shutdown & RCV != 0 {
            mask |= POLLRDHUP | POLLIN | POLLRDNORM;
        }
        if shutdown == RCV | SEND {
            mask |= POLLHUP;
        }
        mask
    }

    fn take_error(&self) -> Option<Errno> {
        self.inbox.take_error()
    }
    fn memory(&self) -> (usize, usize) {
        (self.inbox.queued().1, 0)
    }
    fn release(self: Arc<Self>) {
        self.common.ns.inet.raw.lock().remove(&self.common.cookie());
        self.ip.leave_groups(&self.common.ns);
        self.inbox.close();
        RawSock::count(&self.common.ns);
    }
}

/// Who may make ping sockets (net.ipv4.ping_group_range).
pub(super) fn may_ping(ns: &NetNs, caller: &Caller) -> bool {
    let sysctls = &ns.stack.sysctls;
    let range = sysctls.ping_group_min.get()..=sysctls.ping_group_max.get();
    let creds = &caller.creds;
    std::iter::once(&creds.egid).chain(&creds.groups).any(|&gid| range.contains(&i64::from(gid)))
}

/// The address of a destination.
fn ip_of(addr: &SockAddr, v6: bool) -> Result<IpAddr, Errno> {
    Ok(Endpoint::parse(v6, addr)?.ip)
}
