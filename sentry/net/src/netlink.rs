//! AF_NETLINK (netlink(7)): NETLINK_ROUTE ([`rt`]), NETLINK_SOCK_DIAG ([`diag`]), NETLINK_KOBJECT_UEVENT (which has nothing
//! to tell: devices do not come and go) and NETLINK_USERSOCK.
//!
//! Requests are answered while they are sent, into the queue of the socket that sent them. A dump is made at once but
//! handed out packet by packet, beside the socket's receive buffer; one at a time, as on Linux. Events go to sockets that
//! have joined their group.
//!
//! Locks: `NetlinkSock::state` is a leaf but for the wait queue and the tables of [`NetNs`].

mod diag;
#[cfg(test)]
mod fuzz;
mod message;
mod rt;
#[cfg(test)]
mod tests;

use crate::filter::Packet;
use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::{Common, OptValue};
use crate::socket::{Family, SocketFile, SocketOps, sender_cred};
use crate::{NetNs, SockAddr};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_NET_ADMIN;
use chitin_abi::netlink::*;
use chitin_abi::num::{low16, low32};
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_netstack::Change;
use chitin_vfs::bounds::{NETLINK_BYTES, Share};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, File, PollTable, WaitQueue};
use message::{HEAD, Message, align};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use zerocopy::FromBytes;

/// The longest request taken.
const REQUEST_MAX: usize = 1 << 16;
/// A dump's packets are about as long as this.
const PACKET: usize = 16384;
/// What a packet costs besides its bytes.
const OVERHEAD: usize = 64;
/// So much each socket may have waiting, whatever others have.
const SMALL: usize = 4096;

/// Who asks.
pub(crate) struct Asker {
    port: u32,
    /// CAP_NET_ADMIN.
    admin: bool,
    /// Switches of SOL_NETLINK.
    options: u32,
}

/// What a request is answered with, beside an acknowledgement.
pub(crate) enum Reply {
    Nothing,
    One(Vec<u8>),
    Dump(Vec<Vec<u8>>),
}

/// A packet that waits to be received.
struct Queued {
    bytes: Vec<u8>,
    _share: Option<Share>,
}

impl Queued {
    /// None: too much waits already. `first`: nothing does in this queue, so that something small may in any case.
    fn new(bytes: Vec<u8>, first: bool) -> Option<Queued> {
        let share = NETLINK_BYTES.share(bytes.len().saturating_add(OVERHEAD));
        let fits = share.is_some() || first && bytes.len() <= SMALL;
        fits.then_some(Queued { bytes, _share: share })
    }
}

/// A netlink socket.
pub(crate) struct NetlinkSock {
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
    answers: VecDeque<Queued>,
    queued: usize,
    /// Packets of a dump, to be received before what came later.
    dump: VecDeque<Queued>,
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

    fn push(&self, mut packet: Vec<u8>) {
        if self.common.filters() {
            let shown = Packet { bytes: &packet, ..Packet::default() };
            let Some(kept) = self.common.admit(&shown) else { return };
            packet.truncate(kept);
        }
        {
            let mut state = self.state.lock();
            let queued = state.queued.saturating_add(packet.len());
            let room = queued <= self.common.rcvbuf() && !state.shutdown;
            let first = state.answers.is_empty();
            match room.then(|| Queued::new(packet, first)).flatten() {
                Some(packet) => {
                    state.queued = queued;
                    state.answers.push_back(packet);
                }
                // NETLINK_NO_ENOBUFS: the loss is not told.
                None if state.options & 1 << NETLINK_NO_ENOBUFS == 0 => state.error = Some(Errno::ENOBUFS),
                None => {}
            }
        }
        self.queue.wake(POLLIN | POLLRDNORM);
    }

    /// Starts a dump: EBUSY while another one is being received, ENOBUFS if there is no room for it.
    fn dump(&self, head: &NlMsgHdr, asker: &Asker, messages: Vec<Vec<u8>>) -> Result<(), Errno> {
        let mut dump = VecDeque::new();
        let mut small = true;
        let mut add = |packet: Vec<u8>| {
            small &= packet.len() <= SMALL / 2;
            let queued = Queued::new(packet, small).ok_or(Errno::ENOBUFS)?;
            dump.push_back(queued);
            small &= dump.len() < 2;
            Ok(())
        };
        let mut packet = Vec::new();
        for message in messages {
            if !packet.is_empty() && packet.len().saturating_add(message.len()) > PACKET {
                add(std::mem::take(&mut packet))?;
            }
            packet.extend(message);
        }
        if !packet.is_empty() {
            add(packet)?;
        }
        let done = Message::new(NLMSG_DONE, NLM_F_MULTI, head.nlmsg_seq, asker.port);
        add(done.bytes(&0i32.to_ne_bytes()).finish())?;
        {
            let mut state = self.state.lock();
            if !state.dump.is_empty() {
                return Err(Errno::EBUSY);
            }
            state.dump = dump;
        }
        self.queue.wake(POLLIN | POLLRDNORM);
        Ok(())
    }

    /// Works off the requests in a buffer.
    fn handle(&self, mut raw: &[u8], asker: &Asker) {
        // What is cut short is passed over, as netlink_rcv_skb() does.
        while let Ok((head, _)) = NlMsgHdr::read_from_prefix(raw) {
            let len = usize::try_from(head.nlmsg_len).unwrap_or(usize::MAX);
            let Some(request) = raw.get(..len).filter(|_| len >= HEAD) else { break };
            let mut acknowledge = head.nlmsg_flags & NLM_F_ACK != 0;
            let mut result = Ok(());
            if head.nlmsg_flags & NLM_F_REQUEST != 0 && head.nlmsg_type >= NLMSG_MIN_TYPE {
                let body = request.get(HEAD..).unwrap_or_default();
                let busy = !self.state.lock().dump.is_empty();
                let request = rt::Request { ns: &self.common.ns, head, body, asker, busy };
                let reply = match self.common.protocol {
                    NETLINK_ROUTE => rt::answer(&request),
                    NETLINK_SOCK_DIAG => diag::answer(&request),
                    _ => Ok(Reply::Nothing),
                };
                result = reply.and_then(|reply| match reply {
                    Reply::Nothing => Ok(()),
                    Reply::One(packet) => {
                        self.push(packet);
                        Ok(())
                    }
                    Reply::Dump(messages) => {
                        // Its end is its acknowledgement.
                        acknowledge = false;
                        self.dump(&head, asker, messages)
                    }
                });
            }
            if result.is_err() || acknowledge {
                self.push(error(&head, request, result, asker));
            }
            raw = raw.get(align(len)..).unwrap_or_default();
        }
    }

    /// Whether it has joined a group.
    fn hears(&self, group: u32) -> bool {
        self.state.lock().groups & group_bit(group) != 0
    }
}

fn group_bit(group: u32) -> u64 {
    group.checked_sub(1).and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

/// NLMSG_ERROR, also as an acknowledgement.
fn error(head: &NlMsgHdr, request: &[u8], result: Result<(), Errno>, asker: &Asker) -> Vec<u8> {
    let code = result.map_or_else(|error| -error.raw(), |()| 0);
    let capped = asker.options & 1 << NETLINK_CAP_ACK != 0 || code == 0;
    let flags = if capped { NLM_F_CAPPED } else { 0 };
    let quoted = if capped { request.get(..HEAD) } else { Some(request) };
    let message = Message::new(NLMSG_ERROR, flags, head.nlmsg_seq, asker.port);
    message.bytes(&code.to_ne_bytes()).bytes(quoted.unwrap_or_default()).finish()
}

/// Tells a change of the stack's configuration to the sockets of its group.
pub(crate) fn tell(ns: &NetNs, change: &Change) {
    let sockets: Vec<_> = {
        let mut all = ns.netlink.lock();
        all.retain(|socket| socket.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).filter(|s| s.common.protocol == NETLINK_ROUTE).collect()
    };
    if sockets.is_empty() {
        return;
    }
    let (group, packet) = rt::event(change);
    for socket in sockets.iter().filter(|socket| socket.hears(group)) {
        socket.push(packet.clone());
    }
}

/// Puts a packet of the kernel's own into a netlink socket (netlink_sendskb()): EINVAL for other files.
pub fn deliver(file: &File, packet: &[u8]) -> Result<(), Errno> {
    let ops: Arc<dyn Any + Send + Sync> = SocketFile::of(file).map_err(|_| Errno::EINVAL)?.ops().clone();
    let socket = ops.downcast::<NetlinkSock>().map_err(|_| Errno::EINVAL)?;
    socket.push(packet.to_vec());
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
                if foreign && !self.common.ns.allows(ctx.creds(), CAP_NET_ADMIN) {
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

    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
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
            if dest.1 != 0 && !msg.ctx.is_some_and(|ctx| self.common.ns.allows(ctx.creds(), CAP_NET_ADMIN)) {
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
        let admin = msg.ctx.is_some_and(|ctx| self.common.ns.allows(ctx.creds(), CAP_NET_ADMIN));
        self.handle(&request, &Asker { port, admin, options });
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
            let dumping = !state.dump.is_empty();
            let queue = if dumping { &mut state.dump } else { &mut state.answers };
            let next = match msg.flags & MSG_PEEK {
                0 => queue.pop_front().map(|queued| queued.bytes),
                _ => queue.front().map(|queued| queued.bytes.clone()),
            };
            let Some(packet) = next else {
                if state.shutdown && msg.flags & MSG_DONTWAIT == 0 {
                    msg.done = true;
                    return Ok(0);
                }
                return Err(Errno::EAGAIN);
            };
            if msg.flags & MSG_PEEK == 0 && !dumping {
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
                if !(1..=RTNLGRP_MAX).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                let bit = group_bit(number);
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
        if !state.answers.is_empty() || !state.dump.is_empty() {
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
        state.dump.clear();
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
        let known = [NETLINK_ROUTE, NETLINK_USERSOCK, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT];
        if !known.contains(&protocol) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let common = Common::new(ns, AF_NETLINK, kind, protocol, sender_cred(caller));
        let socket = Arc::new(NetlinkSock { common, queue: WaitQueue::new(), state: Mutex::default() });
        let mut all = ns.netlink.lock();
        all.retain(|socket| socket.strong_count() > 0);
        all.push(Arc::downgrade(&socket));
        Ok(socket)
    }
}
