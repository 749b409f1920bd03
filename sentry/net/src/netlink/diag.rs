//! sock_diag(7): what sockets there are, for ss(8).

use super::Reply;
use super::message::{Message, split};
use super::rt::Request;
use crate::inet::list::{self, Entry};
use crate::unix::list as unix;
use chitin_abi::Errno;
use chitin_abi::inet::{IPPROTO_ICMP, IPPROTO_RAW, IPPROTO_TCP, IPPROTO_UDP};
use chitin_abi::netlink::*;
use chitin_abi::num::{low8, low32};
use chitin_abi::socket::{AF_INET, AF_INET6, AF_UNIX};
use std::net::IpAddr;

pub(super) fn answer(request: &Request<'_>) -> Result<Reply, Errno> {
    if request.head.nlmsg_type != SOCK_DIAG_BY_FAMILY {
        return Err(Errno::EINVAL);
    }
    // Linux says so when a dump begins; here one is made at once, and would be for nothing.
    if is_dump(request) && request.busy {
        return Err(Errno::EBUSY);
    }
    let family = request.body.first().copied().map(u32::from).ok_or(Errno::EINVAL)?;
    match family {
        AF_INET | AF_INET6 => inet(request, family == AF_INET6),
        AF_UNIX => unix_sockets(request),
        // As without the module of a family.
        _ => Err(Errno::ENOENT),
    }
}

fn is_dump(request: &Request<'_>) -> bool {
    request.head.nlmsg_flags & NLM_F_DUMP != 0
}

fn raw(ip: &IpAddr) -> [u8; 16] {
    let mut all = [0; 16];
    match ip {
        IpAddr::V4(v4) => all.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from),
        IpAddr::V6(v6) => all = v6.octets(),
    }
    all
}

fn halves(cookie: u64) -> [u32; 2] {
    [low32(cookie), low32(cookie >> 32)]
}

fn inet(request: &Request<'_>, v6: bool) -> Result<Reply, Errno> {
    let (wanted, _) = split::<InetDiagReqV2>(request.body)?;
    let ns = request.ns;
    let mut all = match u32::from(wanted.protocol) {
        IPPROTO_TCP => list::tcp(ns),
        IPPROTO_UDP => list::udp(ns),
        IPPROTO_RAW => list::raw(ns, false),
        IPPROTO_ICMP => list::raw(ns, true),
        _ => return Err(Errno::ENOENT),
    };
    all.retain(|entry| entry.v6 == v6);
    if is_dump(request) {
        let (sport, dport) = (u16::from_be_bytes(wanted.id.sport), u16::from_be_bytes(wanted.id.dport));
        all.retain(|entry| {
            wanted.states & 1u32.checked_shl(entry.state).unwrap_or(0) != 0
                && (sport == 0 || entry.local.port == sport)
                && (dport == 0 || entry.remote.port == dport)
        });
        return Ok(Reply::Dump(all.iter().map(|e| show(e, NLM_F_MULTI, request)).collect()));
    }
    let found = all.iter().find(|entry| {
        entry.local.port.to_be_bytes() == wanted.id.sport
            && entry.remote.port.to_be_bytes() == wanted.id.dport
            && raw(&entry.local.ip) == wanted.id.src
            && raw(&entry.remote.ip) == wanted.id.dst
    });
    Ok(Reply::One(show(found.ok_or(Errno::ENOENT)?, 0, request)))
}

fn show(entry: &Entry, flags: u16, request: &Request<'_>) -> Vec<u8> {
    let cut = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let info = InetDiagMsg {
        family: low8(if entry.v6 { AF_INET6 } else { AF_INET }),
        state: low8(entry.state),
        timer: if entry.timer.is_some() { 3 } else { 0 },
        retrans: 0,
        id: InetDiagSockId {
            sport: entry.local.port.to_be_bytes(),
            dport: entry.remote.port.to_be_bytes(),
            src: raw(&entry.local.ip),
            dst: raw(&entry.remote.ip),
            interface: entry.local.scope,
            cookie: halves(entry.cookie),
        },
        // Milliseconds.
        expires: entry.timer.map_or(0, |left| u32::try_from(left / 1_000_000).unwrap_or(u32::MAX)),
        rqueue: cut(entry.receive_queue),
        wqueue: cut(entry.send_queue),
        uid: entry.uid,
        inode: low32(entry.inode),
    };
    request.message(SOCK_DIAG_BY_FAMILY, flags).body(&info).u8(INET_DIAG_SHUTDOWN, 0).finish()
}

fn unix_sockets(request: &Request<'_>) -> Result<Reply, Errno> {
    let (wanted, _) = split::<UnixDiagReq>(request.body)?;
    if wanted.protocol != 0 {
        return Err(Errno::EINVAL);
    }
    let mut all = unix::entries(request.ns);
    if is_dump(request) {
        all.retain(|entry| wanted.states & 1u32.checked_shl(entry.state).unwrap_or(0) != 0);
        let shown = all.iter().map(|entry| unix_show(entry, &wanted, NLM_F_MULTI, request));
        return Ok(Reply::Dump(shown.collect()));
    }
    let found = all.iter().find(|entry| low32(entry.ino) == wanted.ino).ok_or(Errno::ENOENT)?;
    Ok(Reply::One(unix_show(found, &wanted, 0, request)))
}

fn unix_show(entry: &unix::Entry, wanted: &UnixDiagReq, flags: u16, request: &Request<'_>) -> Vec<u8> {
    let info = UnixDiagMsg {
        family: low8(AF_UNIX),
        kind: low8(entry.kind),
        state: low8(entry.state),
        ino: low32(entry.ino),
        cookie: halves(entry.cookie),
        ..UnixDiagMsg::default()
    };
    let asked = |what: u32| wanted.show & what != 0;
    let name = entry.name.as_ref().filter(|_| asked(UDIAG_SHOW_NAME)).map(|name| name.text());
    // An abstract name begins with a zero, which the text shows as '@'.
    let name = name.map(|mut text| {
        if let Some(first) = text.first_mut().filter(|first| **first == b'@') {
            *first = 0;
        }
        text
    });
    let queue = asked(UDIAG_SHOW_RQLEN).then_some([entry.queued, entry.backlog]);
    let message: Message = request.message(SOCK_DIAG_BY_FAMILY, flags).body(&info);
    message
        .maybe(name.as_deref(), |message, name| message.attr(UNIX_DIAG_NAME, name))
        .maybe(entry.peer.filter(|_| asked(UDIAG_SHOW_PEER)), |message, peer| {
            message.u32(UNIX_DIAG_PEER, low32(peer))
        })
        .maybe(queue, |message, [queued, backlog]| {
            let cut = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes();
            message.attr(UNIX_DIAG_RQLEN, &[cut(queued), cut(backlog)].concat())
        })
        .u8(UNIX_DIAG_SHUTDOWN, 0)
        .finish()
}
