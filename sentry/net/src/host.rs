//! AF_INET and AF_INET6 of `--network=host`: each guest socket is a socket of the host, and calls are passed on one to one.
//!
//! Only here can a guest reach the host's network stack, and only TCP, UDP and ping sockets of it; options and control
//! messages pass by lists ([`options`]). What the host refuses the sentry's user (nobody) it refuses the guest, ports
//! below 1024 among it. Neighbours: boot registers [`HostFamily`] in that mode and brings what watches descriptors
//! ([`Watcher`], the kernel's reactor); `host::socket` makes the calls.
//!
//! Nothing waits: host sockets are non-blocking, and the reactor wakes `queue` at each change of readiness.

mod options;
mod segments;
mod sieve;

pub(crate) use options::{for_host as option_for_host, may_set};

use crate::guard::{Guard, Leave};
use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{Family, SocketOps};
use crate::{NetNs, SockAddr, control};
use chitin_abi::Errno;
use chitin_abi::ioctl::{SIOCATMARK, SIOCINQ, SIOCOUTQ};
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_host::bounce::{BOUNCE, Bounce};
use chitin_host::socket as host;
use chitin_mm::{Mm, Sink, Source};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, PollTable, WaitQueue};
use parking_lot::Mutex;
use segments::Sifted;
use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Has a callback run at each change of a host descriptor's readiness, with POLL* bits, until what is returned is dropped.
pub trait Watcher: Send + Sync {
    fn watch(&self, fd: Arc<OwnedFd>, on_ready: Box<dyn Fn(u32) + Send + Sync>) -> io::Result<Watch>;
    fn alarm(&self, on_due: Box<dyn Fn() + Send + Sync>) -> Box<dyn Alarm>;
}

/// Calls back, once each time it is armed.
pub trait Alarm: Send + Sync {
    /// In so many nanoseconds, in place of what was said before.
    fn arm(&self, after: u64);
}

pub type Watch = Box<dyn Any + Send + Sync>;

const IPPROTO_ICMP: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_ICMPV6: u32 = 58;
/// A datagram is sent in one piece.
const MAX_DATAGRAM: usize = 65_535;
const SEND_FLAGS: u32 = MSG_OOB | MSG_DONTROUTE | MSG_MORE | MSG_CONFIRM | MSG_EOR;
const RECEIVE_FLAGS: u32 = MSG_OOB | MSG_PEEK | MSG_TRUNC | MSG_ERRQUEUE;
/// What a message's flags tell the guest.
const OUT_FLAGS: u32 = MSG_OOB | MSG_EOR | MSG_TRUNC | MSG_ERRQUEUE;

/// The host's error as the guest's.
fn errno(error: io::Error) -> Errno {
    match error.raw_os_error().and_then(Errno::from_raw) {
        // A limit of the sentry, not of the guest.
        Some(Errno::EMFILE) => Errno::ENFILE,
        Some(errno) => errno,
        None => Errno::EIO,
    }
}

/// Makes the sockets.
pub struct HostFamily {
    family: u32,
    watcher: Arc<dyn Watcher>,
}

impl HostFamily {
    /// `family`: AF_INET or AF_INET6.
    pub fn new(family: u32, watcher: Arc<dyn Watcher>) -> HostFamily {
        HostFamily { family, watcher }
    }
}

impl Family for HostFamily {
    fn create(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno> {
        let ping = if self.family == AF_INET { IPPROTO_ICMP } else { IPPROTO_ICMPV6 };
        let protocol = match (kind, protocol) {
            (SOCK_STREAM, 0 | IPPROTO_TCP) => IPPROTO_TCP,
            (SOCK_DGRAM, 0 | IPPROTO_UDP) => IPPROTO_UDP,
            (SOCK_DGRAM, asked) if asked == ping => asked,
            (SOCK_STREAM | SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
            (SOCK_RAW, _) => return Err(Errno::EPERM),
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        };
        let fd = host::socket(self.family.cast_signed(), kind.cast_signed(), protocol.cast_signed());
        let common = Common::new(ns, self.family, kind, protocol, crate::socket::sender_cred(caller));
        HostSocket::new(common, fd.map_err(errno)?, &self.watcher, WaitQueue::new())
            .map(|socket| socket as Arc<dyn SocketOps>)
    }
}

/// A socket of the host.
pub struct HostSocket {
    common: Common,
    watcher: Arc<dyn Watcher>,
    fd: Arc<OwnedFd>,
    queue: WaitQueue,
    listening: AtomicBool,
    /// Its own name and its peer's, where the guest is shown others than the host's.
    names: OnceLock<(SockAddr, SockAddr)>,
    /// Until the last descriptor is gone.
    watch: Mutex<Option<Watch>>,
    guard: Guard,
    /// Datagrams are tried against the filter and taken by one at a time.
    sieve: Mutex<()>,
    /// There is a filter, or was; and what of a stream has got through.
    sifts: AtomicBool,
    sifted: Mutex<Sifted>,
}

impl HostSocket {
    /// `queue` is woken at each change of readiness.
    pub(crate) fn new(
        common: Common,
        fd: OwnedFd,
        watcher: &Arc<dyn Watcher>,
        queue: WaitQueue,
    ) -> Result<Arc<HostSocket>, Errno> {
        HostSocket::with_guard(common, fd, watcher, queue, Guard::default())
    }

    /// One that has been let out already.
    pub(crate) fn with_guard(
        common: Common,
        fd: OwnedFd,
        watcher: &Arc<dyn Watcher>,
        queue: WaitQueue,
        guard: Guard,
    ) -> Result<Arc<HostSocket>, Errno> {
        let fd = Arc::new(fd);
        let bell = queue.clone();
        let watch = watcher.watch(fd.clone(), Box::new(move |events| bell.wake(events))).map_err(errno)?;
        Ok(Arc::new(HostSocket {
            common,
            watcher: watcher.clone(),
            fd,
            queue,
            listening: AtomicBool::new(false),
            names: OnceLock::new(),
            watch: Mutex::new(Some(watch)),
            guard,
            sieve: Mutex::default(),
            sifts: AtomicBool::new(false),
            sifted: Mutex::default(),
        }))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn is_stream(&self) -> bool {
        self.common.kind == SOCK_STREAM
    }

    fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Whether a filter is shown what a stream receives.
    fn sifts(&self) -> bool {
        self.sifts.load(Ordering::Relaxed) && self.is_stream()
    }

    /// Has the filter that another socket has.
    pub(crate) fn share_filter(&self, from: &Common) {
        if from.filters() || self.common.filters() {
            self.common.share_filter(from);
            self.filter_changed();
        }
    }

    /// Only addresses of TCP/IP pass; whether they are right is the host's to say.
    fn address(&self, address: &SockAddr) -> Result<Vec<u8>, Errno> {
        match address {
            SockAddr::Inet(_) | SockAddr::Inet6(_) => Ok(address.encode()),
            SockAddr::Unspec => Ok(vec![0; size_of::<SockaddrIn>()]),
            SockAddr::Invalid => Err(Errno::EINVAL),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    fn send_stream(&self, msg: &mut SendMsg<'_>, to: Option<&[u8]>, flags: i32) -> Result<usize, Errno> {
        let leave = self.guard.leave_stream()?;
        // Not all of a second's worth at once, if there is a rate.
        let most = if matches!(leave, Leave::Ticket(_)) { MAX_DATAGRAM } else { BOUNCE };
        let mut bounce = Bounce::take();
        let mut sent = 0;
        loop {
            let wanted = msg.data.left().min(most);
            let chunk = fill(msg.data, bounce.get_mut(..wanted).unwrap_or_default());
            let taken = match chunk {
                Ok(taken) => taken,
                Err(error) => return if sent > 0 { Ok(sent) } else { Err(error) },
            };
            let offered = bounce.get(..taken).unwrap_or_default();
            if let Err(error) = self.may_say(&leave, offered) {
                msg.data.untake(taken);
                return if sent > 0 { Ok(sent) } else { Err(error) };
            }
            let result = host::send(self.fd(), offered, to, flags);
            if let Leave::Ticket(ticket) = &leave {
                let count = result.as_ref().map_or(0, |count| *count);
                ticket.sent(offered, count);
                ticket.spend(count);
            }
            match result {
                Ok(count) => {
                    msg.data.untake(taken.saturating_sub(count));
                    sent += count;
                    if count < taken || taken < wanted || msg.data.left() == 0 {
                        return Ok(sent);
                    }
                }
                Err(error) => {
                    msg.data.untake(taken);
                    return if sent > 0 { Ok(sent) } else { Err(errno(error)) };
                }
            }
        }
    }

    /// Whether the policy lets bytes of a stream pass: EAGAIN while the rate is used up, ECONNRESET once it has cut it off.
    fn may_say(&self, leave: &Leave, bytes: &[u8]) -> Result<(), Errno> {
        let Leave::Ticket(ticket) = leave else { return Ok(()) };
        if self.throttled() {
            return Err(Errno::EAGAIN);
        }
        if ticket.sending(bytes) {
            return Ok(());
        }
        if self.guard.cut() {
            // With nothing to linger for, closing resets; until then the other end sees an end.
            let _ = self.set_host_option(SOL_SOCKET, SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]);
            let _ = host::shutdown(self.fd(), SHUT_RDWR.cast_signed());
            self.queue.wake(POLLIN | POLLOUT | POLLERR | POLLHUP);
        }
        Err(Errno::ECONNRESET)
    }

    /// What its own address turned out to be, for the log.
    pub(crate) fn tell_name(&self) {
        if self.common.ns.egress().is_some()
            && let Ok(raw) = host::name(self.fd())
            && let Some(local) = SockAddr::parse(&raw).inet()
        {
            self.guard.named(local);
        }
    }

    fn throttled(&self) -> bool {
        let engine = self.common.ns.egress();
        engine.is_some_and(|engine| self.guard.must_wait(engine, &self.watcher, &self.queue))
    }

    fn protocol(&self) -> u8 {
        u8::try_from(self.common.protocol).unwrap_or(0)
    }

    fn send_datagram(
        &self,
        msg: &mut SendMsg<'_>,
        dest: Option<SocketAddr>,
        to: Option<&[u8]>,
        flags: i32,
    ) -> Result<usize, Errno> {
        let length = msg.data.left();
        if length > MAX_DATAGRAM {
            return Err(Errno::EMSGSIZE);
        }
        let leave = self.guard.leave_datagram(&self.common.ns, self.protocol(), dest)?;
        if matches!(leave, Leave::Ticket(_)) && self.throttled() {
            return Err(Errno::EAGAIN);
        }
        let mut bounce = Bounce::take();
        let taken = fill(msg.data, bounce.get_mut(..length).unwrap_or_default())?;
        if taken < length {
            msg.data.untake(taken);
            return Err(Errno::EFAULT);
        }
        let data = bounce.get(..taken).unwrap_or_default();
        if matches!(&leave, Leave::Ticket(ticket) if !ticket.may_ask(data)) {
            msg.data.untake(taken);
            return Err(Errno::EPERM);
        }
        let sent = host::send(self.fd(), data, to, flags).map_err(|error| {
            msg.data.untake(taken);
            errno(error)
        })?;
        if let Leave::Ticket(ticket) = leave {
            ticket.sent(data, sent);
            ticket.spend(sent);
        }
        Ok(sent)
    }
}

/// Fills `room` as far as there is something.
fn fill(data: &mut dyn Source, room: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = room.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match data.take(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Hands out as much as there is room for.
fn hand_out(data: &[u8], sink: &mut dyn Sink) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty() && sink.room() > 0) {
        match sink.put(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// All of it, or EFAULT: the bytes are gone, as with Linux's datagrams. Of a stream only memory that vanished meanwhile does this.
fn hand_all(data: &[u8], sink: &mut dyn Sink) -> Result<(), Errno> {
    if hand_out(data, sink).is_ok_and(|put| put == data.len()) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// What came beside so many bytes.
fn tell(msg: &mut RecvMsg<'_>, got: &host::Incoming, count: usize) {
    if !got.address.is_empty() {
        msg.addr = Some(SockAddr::parse(&got.address));
    }
    msg.out_flags |= got.flags.cast_unsigned() & OUT_FLAGS;
    for message in control::messages(&got.control).flatten() {
        if options::may_receive(message.level, message.kind) {
            msg.control.other.push((message.level, message.kind, message.data.to_vec()));
        }
    }
    msg.done |= msg.flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE) != 0;
    msg.count = msg.count.saturating_add(count);
}

impl SocketOps for HostSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, _ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        host::bind(self.fd(), &self.address(addr)?).map_err(errno)
    }

    fn connect(self: Arc<Self>, _ctx: &Context, addr: &SockAddr, _wait_on: &mut WaitOn) -> Result<(), Errno> {
        let raw = self.address(addr)?;
        let to = addr.inet();
        if !self.is_stream() {
            host::connect(self.fd(), &raw).map_err(errno)?;
            self.guard.connected(to);
            return Ok(());
        }
        if let Some(to) = to {
            self.guard.connect(&self.common.ns, self.protocol(), to)?;
        }
        let connected = host::connect(self.fd(), &raw).map_err(errno);
        self.tell_name();
        connected
    }

    fn listen(&self, backlog: u32, _caller: &Caller) -> Result<(), Errno> {
        host::listen(self.fd(), i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(errno)?;
        self.listening.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn accept(&self) -> Result<Arc<dyn SocketOps>, Errno> {
        let fd = if self.sifts() { self.accept_sifted()? } else { host::accept(self.fd()).map_err(errno)? };
        let own = &self.common;
        let common = Common::new(&own.ns, own.family, own.kind, own.protocol, own.creator);
        let socket = HostSocket::new(common, fd, &self.watcher, WaitQueue::new())?;
        socket.share_filter(own);
        if own.flag(SO_LOCK_FILTER) {
            socket.common.set_flag(SO_LOCK_FILTER, true);
        }
        Ok(socket)
    }

    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        let to = msg.dest.as_ref().map(|dest| self.address(dest)).transpose()?;
        let flags = (msg.flags & SEND_FLAGS).cast_signed();
        if self.is_stream() {
            self.send_stream(msg, to.as_deref(), flags)
        } else {
            let dest = msg.dest.as_ref().and_then(SockAddr::inet);
            self.send_datagram(msg, dest, to.as_deref(), flags)
        }
    }

    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        if self.guard.is_cut() {
            return Err(Errno::ECONNRESET);
        }
        let mut bounce = Bounce::take();
        if self.common.filters() && !self.is_stream() && msg.flags & MSG_ERRQUEUE == 0 {
            return self.receive_kept(msg, &mut bounce);
        }
        let is_sifted =
            self.common.filters() && self.is_stream() && msg.flags & (MSG_ERRQUEUE | MSG_OOB) == 0;
        let mut turn = is_sifted.then(|| self.sifted.lock());
        if let Some(turn) = &mut turn {
            self.let_through(turn)?;
        }
        let most = turn.as_ref().map_or(BOUNCE, |turn| turn.most());
        let wanted = msg.data.room().min(BOUNCE).min(most);
        let room = bounce.get_mut(..wanted).unwrap_or_default();
        // On a stream MSG_TRUNC throws data away, which costs the host nothing and us neither.
        let got = host::receive(self.fd(), room, (msg.flags & RECEIVE_FLAGS).cast_signed()).map_err(errno)?;
        if let Some(mut turn) = turn.filter(|_| msg.flags & MSG_PEEK == 0) {
            turn.took(got.count);
        }
        let discards = self.is_stream() && msg.flags & MSG_TRUNC != 0;
        let there = if discards { 0 } else { got.count.min(wanted) };
        if msg.flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB) == 0 {
            // First: what a name server has answered must be known before the guest acts on it.
            let from = SockAddr::parse(&got.address).inet();
            self.guard.received(from, bounce.get(..there).unwrap_or_default());
        }
        hand_all(bounce.get(..there).unwrap_or_default(), msg.data)?;
        tell(msg, &got, there);
        Ok(got.count)
    }

    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        host::shutdown(self.fd(), how.cast_signed()).map_err(errno)?;
        if how != SHUT_WR && self.sifts() {
            self.sifted_shutdown();
        }
        Ok(())
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        if let Some((own, _)) = self.names.get() {
            return Ok(own.clone());
        }
        host::name(self.fd()).map(|raw| SockAddr::parse(&raw)).map_err(errno)
    }

    fn getpeername(&self) -> Result<SockAddr, Errno> {
        let real = host::peer_name(self.fd()).map_err(errno)?;
        Ok(self.names.get().map_or_else(|| SockAddr::parse(&real), |(_, peer)| peer.clone()))
    }

    fn set_socket_option(&self, name: u32, value: &[u8]) -> Result<(), Errno> {
        match options::for_host(name, value)? {
            Some(value) => self.set_host_option(SOL_SOCKET, name, value),
            None => Ok(()),
        }
    }

    fn filter_changed(&self) {
        if self.is_stream() {
            self.sifts.store(true, Ordering::Relaxed);
            self.segments_filter_changed();
        }
    }

    fn setsockopt(&self, level: u32, name: u32, value: &[u8], _caller: &Caller) -> Result<(), Errno> {
        if !options::may_set(level, name) {
            return Err(Errno::ENOPROTOOPT);
        }
        self.set_host_option(level, name, value)
    }

    fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        if !options::may_get(level, name) {
            return Err(Errno::ENOPROTOOPT);
        }
        let room = room.min(options::LONGEST);
        let value = host::option(self.fd(), level.cast_signed(), name.cast_signed(), room);
        value.map(OptValue::Value).map_err(errno)
    }

    fn ioctl(&self, cmd: u32, arg: u64, mm: &Arc<Mm>) -> Option<Result<i64, Errno>> {
        let answer = || {
            if cmd == SIOCINQ && self.sifts() {
                let queued = i32::try_from(self.sifted_queued()?).unwrap_or(i32::MAX);
                return mm.write(arg, &queued).map(|()| 0);
            }
            let value = host::number(self.fd(), cmd).map_err(errno)?;
            mm.write(arg, &value).map(|()| 0)
        };
        matches!(cmd, SIOCINQ | SIOCOUTQ | SIOCATMARK).then(answer)
    }

    fn input_queued(&self) -> Result<usize, Errno> {
        if self.sifts() {
            return self.sifted_queued();
        }
        host::number(self.fd(), SIOCINQ).map(|count| usize::try_from(count).unwrap_or(0)).map_err(errno)
    }

    fn output_queued(&self) -> Result<usize, Errno> {
        host::number(self.fd(), SIOCOUTQ).map(|count| usize::try_from(count).unwrap_or(0)).map_err(errno)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue);
        }
        let mut ready = chitin_host::epoll::ready(self.fd(), options::POLLED);
        if self.sifts() {
            ready = self.sifted_readiness(ready);
        } else if self.common.filters() && ready & POLLIN != 0 {
            ready = self.sift(ready);
        }
        self.guard.readiness(&self.common.ns, ready, &self.watcher, &self.queue)
    }

    fn take_error(&self) -> Option<Errno> {
        let value = host::option(self.fd(), SOL_SOCKET.cast_signed(), SO_ERROR.cast_signed(), 4).ok()?;
        Errno::from_raw(i32::from_ne_bytes(*value.first_chunk()?))
    }

    fn listening(&self) -> bool {
        self.is_listening()
    }

    fn release(self: Arc<Self>) {
        // The watch holds the descriptor, too; it is closed with the last of the two.
        drop(self.watch.lock().take());
        self.guard.end();
    }
}

impl HostSocket {
    /// Has the guest see other names; once.
    pub(crate) fn show(&self, own: SockAddr, peer: SockAddr) {
        let first = self.names.set((own, peer)).is_ok();
        debug_assert!(first, "names are given once");
    }

    pub(crate) fn set_host_option(&self, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
        host::set_option(self.fd(), level.cast_signed(), name.cast_signed(), value).map_err(errno)
    }
}

/// What the sentry's seccomp list lets through in this mode.
pub mod filter {
    use super::*;

    /// Arguments of socket(2), the type without its flags.
    pub const FAMILIES: [u32; 2] = [AF_INET, AF_INET6];
    pub const KINDS: [u32; 2] = [SOCK_STREAM, SOCK_DGRAM];
    pub const PROTOCOLS: [u32; 4] = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6];

    /// Level and name of options.
    pub fn settable() -> Vec<(u32, u32)> {
        options::settable().collect()
    }

    pub fn readable() -> Vec<(u32, u32)> {
        options::readable().collect()
    }
}
