//! Sockets: what the families implement ([`SocketOps`], [`Family`]), the open file around it ([`SocketFile`]) and how
//! sockets are made.
//!
//! Nothing here waits. EAGAIN says "not now": wait with [`chitin_vfs::wait::ready`] on the file's operations, or on
//! `wait_on` where an operation names something else. EPIPE is what raises SIGPIPE, in the caller.

use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{self, Common, OptValue};
use crate::{NetNs, SockAddr, iface, inet, netlink, unix};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_NONBLOCK, O_RDWR};
use chitin_abi::ioctl::{SIOCINQ, SIOCOUTQ};
use chitin_abi::seccomp::SockFilter;
use chitin_abi::socket::*;
use chitin_mm::{Mm, Sink, Source};
use chitin_vfs::walk::Caller;
use chitin_vfs::{
    AnonInode, Context, File, FileKind, FileOps, Inode, PollTable, WaitQueue, WriteAt, Written,
};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Who is (or was, when it connected or listened) at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCred {
    pub ucred: Ucred,
    pub groups: Vec<u32>,
}

impl PeerCred {
    /// SO_PEERCRED has the effective ids.
    pub fn of(caller: &Caller) -> PeerCred {
        let creds = &caller.creds;
        let ucred = Ucred { pid: caller.tgid, uid: creds.euid, gid: creds.egid };
        PeerCred { ucred, groups: creds.groups.clone() }
    }
}

/// SCM_CREDENTIALS has the real ids.
pub(crate) fn sender_cred(caller: &Caller) -> Ucred {
    Ucred { pid: caller.tgid, uid: caller.creds.uid, gid: caller.creds.gid }
}

/// A socket of some family. Nothing waits.
pub trait SocketOps: Any + Send + Sync {
    fn common(&self) -> &Common;
    fn bind(self: Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno>;
    /// EAGAIN sets `wait_on` (the backlog is full: try again); EINPROGRESS: wait for POLLOUT, then look at SO_ERROR.
    fn connect(self: Arc<Self>, ctx: &Context, addr: &SockAddr, wait_on: &mut WaitOn) -> Result<(), Errno>;
    /// `backlog` is within somaxconn.
    fn listen(&self, _backlog: u32, _caller: &Caller) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn accept(&self) -> Result<Arc<dyn SocketOps>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sends some of a stream, or a whole message; counts the bytes sent by this attempt.
    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno>;
    /// Receives; counts the bytes received by this attempt (with MSG_TRUNC of a datagram, its whole length).
    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno>;
    /// `how`: SHUT_*, valid.
    fn shutdown(&self, how: u32) -> Result<(), Errno>;
    fn getsockname(&self) -> Result<SockAddr, Errno>;
    fn getpeername(&self) -> Result<SockAddr, Errno>;
    /// The peer's address for accept(2), whatever has become of the connection since.
    fn accepted_name(&self) -> Result<SockAddr, Errno> {
        self.getpeername()
    }
    /// An option of SOL_SOCKET has been set, for who has to pass it on.
    fn set_socket_option(&self, _name: u32, _value: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
    /// Levels other than SOL_SOCKET.
    fn setsockopt(&self, _level: u32, _name: u32, _value: &[u8], _caller: &Caller) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn getsockopt(&self, _level: u32, _name: u32, _room: usize) -> Result<OptValue, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// `None`: not the family's; the device requests come next.
    fn ioctl(&self, _cmd: u32, _arg: u64, _mm: &Arc<Mm>) -> Option<Result<i64, Errno>> {
        None
    }
    /// Bytes to read (SIOCINQ).
    fn input_queued(&self) -> Result<usize, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Bytes sent and not yet consumed (SIOCOUTQ).
    fn output_queued(&self) -> Result<usize, Errno> {
        Err(Errno::ENOTTY)
    }
    fn poll(&self, table: Option<&mut PollTable>) -> u32;
    /// The queue that `poll` registers in, if it is but one: for a socket around this one that has more to tell.
    fn waiters(&self) -> Option<&WaitQueue> {
        None
    }
    /// The pending error, which is thereby reported.
    fn take_error(&self) -> Option<Errno>;
    fn listening(&self) -> bool {
        false
    }
    fn peer_cred(&self) -> Option<PeerCred> {
        None
    }
    /// Memory that waits to be received and that was sent (SO_MEMINFO).
    fn memory(&self) -> (usize, usize) {
        (0, 0)
    }
    /// Whether SO_ZEROCOPY is known here, and somebody to be woken when a send is complete.
    fn copies(&self) -> bool {
        false
    }
    fn completed(&self) {}
    fn buffers_changed(&self) {}
    /// A filter was attached or detached.
    fn filter_changed(&self) {}
    /// The descriptor exists from now on, with this inode and (weakly) this file.
    fn attached(&self, _file: &Arc<File>) {}
    /// The last descriptor is gone.
    fn release(self: Arc<Self>);
}

/// Makes the sockets of a family.
pub trait Family: Send + Sync {
    /// `kind` is SOCK_* without flags. ESOCKTNOSUPPORT and EPROTONOSUPPORT are its to give.
    fn create(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno>;
    fn pair(
        &self,
        _ns: &Arc<NetNs>,
        _kind: u32,
        _protocol: u32,
        _caller: &Caller,
    ) -> Result<[Arc<dyn SocketOps>; 2], Errno> {
        Err(Errno::EOPNOTSUPP)
    }
}

/// Checks what socket(2) got and finds the family.
fn family_of(
    ns: &NetNs,
    family: i32,
    kind: u32,
    protocol: i32,
) -> Result<(Arc<dyn Family>, u32, u32, u32), Errno> {
    if kind & !SOCK_TYPE_MASK & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let family = u32::try_from(family).ok().filter(|&f| f < AF_MAX).ok_or(Errno::EAFNOSUPPORT)?;
    let bare = kind & SOCK_TYPE_MASK;
    // SOCK_MAX.
    if bare >= 11 {
        return Err(Errno::EINVAL);
    }
    let registered = ns.families.read().get(&family).cloned();
    let found: Arc<dyn Family> = match family {
        _ if registered.is_some() => registered.ok_or(Errno::EAFNOSUPPORT)?,
        AF_UNIX => Arc::new(unix::UnixFamily),
        AF_NETLINK => Arc::new(netlink::NetlinkFamily),
        AF_INET => Arc::new(inet::InetFamily { v6: false }),
        AF_INET6 => Arc::new(inet::InetFamily { v6: true }),
        AF_PACKET => Arc::new(inet::packet::PacketFamily),
        // Others are registered with `NetNs::add_family`.
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let protocol = u32::try_from(protocol).map_err(|_| Errno::EPROTONOSUPPORT)?;
    Ok((found, bare, protocol, kind & SOCK_NONBLOCK))
}

/// socket(2). SOCK_CLOEXEC in `kind` is the caller's.
pub fn create(
    ns: &Arc<NetNs>,
    family: i32,
    kind: u32,
    protocol: i32,
    caller: &Caller,
) -> Result<Arc<File>, Errno> {
    let (family, bare, protocol, flags) = family_of(ns, family, kind, protocol)?;
    Ok(SocketFile::open(family.create(ns, bare, protocol, caller)?, flags, caller))
}

/// socketpair(2).
pub fn create_pair(
    ns: &Arc<NetNs>,
    family: i32,
    kind: u32,
    protocol: i32,
    caller: &Caller,
) -> Result<[Arc<File>; 2], Errno> {
    let (family, bare, protocol, flags) = family_of(ns, family, kind, protocol)?;
    let pair = family.pair(ns, bare, protocol, caller)?;
    Ok(pair.map(|ops| SocketFile::open(ops, flags, caller)))
}

/// The operations of a socket's open file.
pub struct SocketFile {
    ops: Arc<dyn SocketOps>,
}

impl SocketFile {
    /// A descriptor's file for a socket. `flags`: SOCK_NONBLOCK counts.
    pub fn open(ops: Arc<dyn SocketOps>, flags: u32, caller: &Caller) -> Arc<File> {
        let creds = &caller.creds;
        let inode = AnonInode::new(FileKind::Socket, 0o777, creds.fsuid, creds.fsgid, "socket");
        ops.common().ino.store(inode.ino(), Ordering::Relaxed);
        ops.common().nonblocking.store(flags & O_NONBLOCK != 0, Ordering::Relaxed);
        let socket = Arc::new(SocketFile { ops: ops.clone() });
        let file = File::new(socket, inode, None, O_RDWR | (flags & O_NONBLOCK));
        ops.attached(&file);
        file
    }

    /// The socket behind a descriptor: ENOTSOCK if it is none.
    pub fn of(file: &File) -> Result<&SocketFile, Errno> {
        file.downcast::<SocketFile>().ok_or(Errno::ENOTSOCK)
    }

    pub fn ops(&self) -> &Arc<dyn SocketOps> {
        &self.ops
    }
    pub fn common(&self) -> &Common {
        self.ops.common()
    }
    /// SO_RCVTIMEO and SO_SNDTIMEO: `None` waits for ever, zero not at all.
    pub fn timeouts(&self) -> (Option<Duration>, Option<Duration>) {
        self.common().timeouts()
    }
    /// Whether messages say who sends them, or go by paths: [`SendMsg::ctx`] and [`SendMsg::rights_limit`] are looked at.
    pub fn asks_who_sends(&self) -> bool {
        !matches!(self.common().family, AF_INET | AF_INET6)
    }
    /// Whether one call may take several attempts to send or receive all it was asked to.
    pub fn is_stream(&self) -> bool {
        self.common().kind == SOCK_STREAM
    }

    pub fn bind(&self, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        self.ops.clone().bind(ctx, addr)
    }
    pub fn connect(&self, ctx: &Context, addr: &SockAddr, wait_on: &mut WaitOn) -> Result<(), Errno> {
        self.ops.clone().connect(ctx, addr, wait_on)
    }
    /// MSG_FASTOPEN: whether what is sent begins with a connection (tcp_sendmsg_fastopen()). Nobody has cookies here, so the data
    /// goes once there is one.
    pub fn opens_fast(&self, dest: Option<&SockAddr>) -> Result<bool, Errno> {
        let common = self.common();
        match (common.kind, common.family, dest) {
            (SOCK_STREAM, AF_INET | AF_INET6, Some(SockAddr::Unspec)) => Err(Errno::EOPNOTSUPP),
            (SOCK_STREAM, AF_INET | AF_INET6, _) if !common.fast_open() => Err(Errno::EOPNOTSUPP),
            (SOCK_STREAM, AF_INET | AF_INET6, Some(_)) => Ok(true),
            (SOCK_STREAM, AF_INET | AF_INET6, None) if self.ops.getpeername().is_ok() => Err(Errno::EISCONN),
            (SOCK_STREAM, AF_INET | AF_INET6, None) => Err(Errno::EINVAL),
            _ => Ok(false),
        }
    }
    pub fn listen(&self, backlog: i32, caller: &Caller) -> Result<(), Errno> {
        // Negative ones are huge.
        let backlog = backlog.cast_unsigned().min(self.common().ns.stack.sysctls.somaxconn.u32());
        self.ops.listen(backlog, caller)
    }
    /// The new socket's file; its peer's address is its `getpeername`. `flags`: SOCK_NONBLOCK, SOCK_CLOEXEC; EINVAL else.
    pub fn accept(&self, flags: u32, caller: &Caller) -> Result<Arc<File>, Errno> {
        if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(SocketFile::open(self.ops.accept()?, flags, caller))
    }
    pub fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        self.ops.sendmsg(msg)
    }
    pub fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        self.ops.recvmsg(msg)
    }
    pub fn shutdown(&self, how: i32) -> Result<(), Errno> {
        let how = u32::try_from(how).ok().filter(|&how| how <= SHUT_RDWR).ok_or(Errno::EINVAL)?;
        self.ops.shutdown(how)
    }
    pub fn getsockname(&self) -> Result<SockAddr, Errno> {
        self.ops.getsockname()
    }
    pub fn getpeername(&self) -> Result<SockAddr, Errno> {
        self.ops.getpeername()
    }
    /// `value`: optlen bytes, or as many of them as any option has use for (64).
    pub fn setsockopt(&self, level: u32, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        if level == SOL_SOCKET {
            options::set(&*self.ops, name, value, caller)?;
            return self.ops.set_socket_option(name, value);
        }
        self.ops.setsockopt(level, name, value, caller)
    }
    /// SO_ATTACH_FILTER; `code` reads the program.
    pub fn attach_filter(&self, code: impl FnOnce() -> Result<Vec<SockFilter>, Errno>) -> Result<(), Errno> {
        options::attach(&*self.ops, code)
    }
    /// A call has sent something with MSG_ZEROCOPY.
    pub fn sent_zerocopy(&self) {
        if self.common().flag(SO_ZEROCOPY) {
            self.common().completions.add();
            self.ops.completed();
        }
    }
    /// `room`: optlen, not negative.
    pub fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        if level == SOL_SOCKET {
            return options::get(&*self.ops, name, room);
        }
        self.ops.getsockopt(level, name, room)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.ops.clone().release();
    }
}

impl FileOps for SocketFile {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.room() == 0 {
            return Ok(0);
        }
        let quick = self.common().nonblocking.load(Ordering::Relaxed);
        let flags = if quick { MSG_DONTWAIT } else { 0 };
        let mut msg = RecvMsg::new(dst, flags);
        let result = self.ops.recvmsg(&mut msg);
        // Descriptors that came along are dropped, once nothing is locked.
        crate::trash::discard(std::mem::take(&mut msg.control.rights));
        result
    }

    fn write(&self, _at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let mut msg = SendMsg::new(src, 0);
        let count = self.ops.sendmsg(&mut msg)?;
        Ok(Written { count, end: 0 })
    }

    fn signals(&self) -> bool {
        true
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        self.ops.poll(table)
    }

    fn ioctl(&self, caller: &Caller, cmd: u32, arg: u64, mm: &Arc<Mm>) -> Result<i64, Errno> {
        if let Some(result) = self.ops.ioctl(cmd, arg, mm) {
            return result;
        }
        let count = match cmd {
            SIOCINQ => self.ops.input_queued()?,
            SIOCOUTQ => self.ops.output_queued()?,
            _ => return iface::ioctl(self.common(), caller, (cmd, arg), mm),
        };
        mm.write(arg, &i32::try_from(count).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn flags_changed(&self, flags: u32) -> Result<(), Errno> {
        self.common().nonblocking.store(flags & O_NONBLOCK != 0, Ordering::Relaxed);
        Ok(())
    }

    fn readable_bytes(&self) -> Result<u64, Errno> {
        Ok(self.ops.input_queued()? as u64)
    }
}
