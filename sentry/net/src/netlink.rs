//! AF_NETLINK (netlink(7)): NETLINK_ROUTE, as far as reading interfaces and addresses goes. That is what the C library's
//! getaddrinfo(3), getifaddrs(3) and if_nameindex(3) ask for; [`rt`] answers.
//!
//! Requests are answered while they are sent, into the queue of the socket that sent them. There are no events: the
//! interfaces of a running sandbox do not change.
//!
//! Locks: `NetlinkSock::state` is a leaf but for the wait queue and the tables of [`NetNs`].

mod rt;

use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{Family, SocketFile, SocketOps, sender_cred};
use crate::{NetNs, SockAddr};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_NET_ADMIN;
use chitin_abi::num::{low16, low32};
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, File, PollTable, WaitQueue};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

/// The longest request taken.
const REQUEST_MAX: usize = 1 << 16;
/// Groups of NETLINK_ROUTE (RTNLGRP_MAX).
const GROUPS: u32 = 40;

/// A netlink socket.
struct NetlinkSock {
    common: Common,
    queue: WaitQueue,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The port it is bound to; 0: none yet.
    port: u32,
    groups: u64,
    /// Where connect(2) set it to send: port and groups.
    dest: (u32, u32),
    answers: VecDeque<Vec<u8>>,
    queued: usize,
    error: Option<Errno>,
    /// Switches of SOL_NETLINK, bits by option.
    options: u32,
    shutdown: bool,
}

impl NetlinkSock {
    /// Gives it a port: the process's id if it is free, as nlmsg_pid of most programs expects.
    fn autobind(&self, tgid: u32) -> Result<u32, Errno> {
        let mut state = self.state.lock();
        if state.port != 0 {
            return Ok(state.port);
        }
        let mut ports = self.common.ns.netlink_ports.lock();
        let others = (0..1 << 16).map(|n| 0xffff_f000u32.wrapping_sub(n));
        let port = std::iter::once(tgid)
            .chain(others)
            .find(|&port| port != 0 && !ports.contains(&(self.common.protocol, port)))
            .ok_or(Errno::EADDRINUSE)?;
        ports.insert((self.common.protocol, port));
        state.port = port;
        Ok(port)
    }

    fn answer(&self, packets: Vec<Vec<u8>>) {
        {
            let mut state = self.state.lock();
            for packet in packets {
                if state.queued.saturating_add(packet.len()) > self.common.rcvbuf() {
                    state.error = Some(Errno::ENOBUFS);
                    break;
                }
                state.queued += packet.len();
                state.answers.push_back(packet);
            }
        }
        self.queue.wake(POLLIN | POLLRDNORM);
    }
}

/// Puts a packet of the kernel's own into a netlink socket (netlink_sendskb()): EINVAL for other files.
pub fn deliver(file: &File, packet: &[u8]) -> Result<(), Errno> {
    let ops: Arc<dyn Any + Send + Sync> = SocketFile::of(file).map_err(|_| Errno::EINVAL)?.ops().clone();
    let socket = ops.downcast::<NetlinkSock>().map_err(|_| Errno::EINVAL)?;
    socket.answer(vec![packet.to_vec()]);
    Ok(())
}

/// Whether a file is a netlink socket.
pub fn is_netlink(file: &File) -> bool {
    SocketFile::of(file).is_ok_and(|socket| socket.common().family == AF_NETLINK)
}

impl SocketOps for NetlinkSock {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        let SockAddr::Netlink(addr) = addr else { return Err(Errno::EINVAL) };
        if addr.nl_pid == 0 {
            self.autobind(self.common.ns.port_for(ctx.caller.tgid))?;
        } else {
            let mut state = self.state.lock();
            if state.port != 0 && state.port != addr.nl_pid {
                return Err(Errno::EINVAL);
            }
            if state.port == 0 {
                let mut ports = self.common.ns.netlink_ports.lock();
                if !ports.insert((self.common.protocol, addr.nl_pid)) {
                    return Err(Errno::EADDRINUSE);
                }
                state.port = addr.nl_pid;
            }
        }
        let mut state = self.state.lock();
        state.groups = state.groups & !u64::from(u32::MAX) | u64::from(addr.nl_groups);
        Ok(())
    }

    fn connect(self: Arc<Self>, ctx: &Context, addr: &SockAddr, _: &mut WaitOn) -> Result<(), Errno> {
        let dest = match addr {
            SockAddr::Unspec => (0, 0),
            SockAddr::Netlink(addr) => {
                let foreign = addr.nl_pid != 0 || addr.nl_groups != 0;
                if foreign && !ctx.creds().capable(CAP_NET_ADMIN) {
                    return Err(Errno::EPERM);
                }
                self.autobind(self.common.ns.port_for(ctx.caller.tgid))?;
                (addr.nl_pid, addr.nl_groups)
            }
            _ => return Err(Errno::EINVAL),
        };
        self.state.lock().dest = dest;
        Ok(())
    }

    fn sendmsg(self: Arc<Self>, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (port, options) = {
            let state = self.state.lock();
            let dest = match &msg.dest {
                None => state.dest,
                Some(SockAddr::Netlink(addr)) => (addr.nl_pid, addr.nl_groups),
                Some(_) => return Err(Errno::EINVAL),
            };
            if dest.1 != 0 && !msg.ctx.is_some_and(|ctx| ctx.creds().capable(CAP_NET_ADMIN)) {
                return Err(Errno::EPERM);
            }
            if dest.0 != 0 {
                // Only the kernel is there to talk to.
                return Err(Errno::ECONNREFUSED);
            }
            (state.port, state.options)
        };
        let tgid = msg.ctx.map_or(self.common.creator.pid, |ctx| ctx.caller.tgid);
        let port = if port == 0 { self.autobind(self.common.ns.port_for(tgid))? } else { port };
        let len = msg.data.left();
        if len > REQUEST_MAX || len > self.common.sndbuf().saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        let mut request = vec![0; len];
        let mut done = 0;
        while done < len {
            match msg.data.take(request.get_mut(done..).unwrap_or_default())? {
                0 => return Err(Errno::EFAULT),
                count => done += count,
            }
        }
        let admin = msg.ctx.is_some_and(|ctx| ctx.creds().capable(CAP_NET_ADMIN));
        let from = rt::Asker { port, admin, options };
        self.answer(rt::handle(&self.common.ns, &request, &from));
        Ok(len)
    }

    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        if msg.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let packet = {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let next = match msg.flags & MSG_PEEK {
                0 => state.answers.pop_front(),
                _ => state.answers.front().cloned(),
            };
            let Some(packet) = next else {
                if state.shutdown && msg.flags & MSG_DONTWAIT == 0 {
                    msg.done = true;
                    return Ok(0);
                }
                return Err(Errno::EAGAIN);
            };
            if msg.flags & MSG_PEEK == 0 {
                state.queued = state.queued.saturating_sub(packet.len());
            }
            packet
        };
        msg.done = true;
        let wanted = packet.len().min(msg.data.room());
        let mut done = 0;
        while done < wanted {
            match msg.data.put(packet.get(done..wanted).unwrap_or_default())? {
                0 => return Err(Errno::EFAULT),
                count => done += count,
            }
        }
        msg.count = wanted;
        msg.addr =
            Some(SockAddr::Netlink(SockaddrNl { nl_family: low16(AF_NETLINK), ..SockaddrNl::default() }));
        if self.common.passcred() {
            msg.control.creds = Some(Ucred::default());
        }
        if wanted < packet.len() {
            msg.out_flags |= MSG_TRUNC;
        }
        Ok(if msg.flags & MSG_TRUNC != 0 { packet.len() } else { wanted })
    }

    fn shutdown(&self, _how: u32) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        let state = self.state.lock();
        let addr = SockaddrNl {
            nl_family: low16(AF_NETLINK),
            nl_pad: 0,
            nl_pid: state.port,
            nl_groups: low32(state.groups),
        };
        Ok(SockAddr::Netlink(addr))
    }
    fn getpeername(&self) -> Result<SockAddr, Errno> {
        let (nl_pid, nl_groups) = self.state.lock().dest;
        Ok(SockAddr::Netlink(SockaddrNl { nl_family: low16(AF_NETLINK), nl_pad: 0, nl_pid, nl_groups }))
    }

    fn setsockopt(&self, level: u32, name: u32, value: &[u8], _caller: &Caller) -> Result<(), Errno> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let number = value.first_chunk().map(|raw| u32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)?;
        let mut state = self.state.lock();
        match name {
            NETLINK_ADD_MEMBERSHIP | NETLINK_DROP_MEMBERSHIP => {
                if !(1..=GROUPS).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                let bit = 1u64 << (number - 1);
                state.groups =
                    if name == NETLINK_ADD_MEMBERSHIP { state.groups | bit } else { state.groups & !bit };
                Ok(())
            }
            NETLINK_BROADCAST_ERROR
            | NETLINK_NO_ENOBUFS
            | NETLINK_CAP_ACK
            | NETLINK_EXT_ACK
            | NETLINK_GET_STRICT_CHK => {
                state.options =
                    if number != 0 { state.options | 1 << name } else { state.options & !(1 << name) };
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn getsockopt(&self, level: u32, name: u32, room: usize) -> Result<OptValue, Errno> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let state = self.state.lock();
        match name {
            NETLINK_BROADCAST_ERROR
            | NETLINK_NO_ENOBUFS
            | NETLINK_CAP_ACK
            | NETLINK_EXT_ACK
            | NETLINK_GET_STRICT_CHK => {
                if room < size_of::<u32>() {
                    return Err(Errno::EINVAL);
                }
                let on = u32::from(state.options & 1 << name != 0);
                Ok(OptValue::Value(on.to_ne_bytes().to_vec()))
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue);
        }
        let state = self.state.lock();
        let mut mask = POLLOUT | POLLWRNORM | POLLWRBAND;
        if !state.answers.is_empty() {
            mask |= POLLIN | POLLRDNORM;
        }
        if state.error.is_some() {
            mask |= POLLERR;
        }
        mask
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    fn release(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.shutdown = true;
        state.answers.clear();
        self.common.ns.netlink_ports.lock().remove(&(self.common.protocol, state.port));
    }
}

/// Makes AF_NETLINK sockets.
pub struct NetlinkFamily;

impl Family for NetlinkFamily {
    fn create(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno> {
        if kind != SOCK_RAW && kind != SOCK_DGRAM {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if protocol != NETLINK_ROUTE {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let common = Common::new(ns, AF_NETLINK, kind, protocol, sender_cred(caller));
        Ok(Arc::new(NetlinkSock { common, queue: WaitQueue::new(), state: Mutex::default() }))
    }
}
