//! Which options and control messages pass between guest and host, by allow-list. The seccomp list is made from the same
//! tables.

use chitin_abi::Errno;
use chitin_abi::poll::*;
use chitin_abi::socket::*;

/// The longest value that is handed out (`struct tcp_info`).
pub const LONGEST: usize = 512;

/// What a socket's readiness consists of.
pub const POLLED: u32 =
    POLLIN | POLLPRI | POLLOUT | POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLRDHUP;

/// Of SOL_SOCKET: the sentry keeps all of them, the host needs to know these. Nothing that needs privileges there, and
/// not SO_RCVTIMEO and its kind, since the host never waits.
const SOCKET: &[u32] = &[
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_KEEPALIVE,
    SO_BROADCAST,
    SO_OOBINLINE,
    SO_LINGER,
    SO_SNDBUF,
    SO_RCVBUF,
    SO_RCVLOWAT,
    SO_DONTROUTE,
    SO_NO_CHECK,
    SO_TIMESTAMP_OLD,
    SO_TIMESTAMPNS_OLD,
];

/// TCP_NODELAY, MAXSEG, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER_ACCEPT, WINDOW_CLAMP, QUICKACK,
/// USER_TIMEOUT, NOTSENT_LOWAT.
const TCP: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 18, 25];
/// TCP_INFO and TCP_CONGESTION, to be read only.
const TCP_READ: &[u32] = &[11, 13];
/// UDP_CORK, UDP_SEGMENT, UDP_GRO.
const UDP: &[u32] = &[1, 103, 104];
/// IP_TOS, TTL, PKTINFO, MTU_DISCOVER, RECVERR, RECVTTL, RECVTOS, MULTICAST_IF, MULTICAST_TTL, MULTICAST_LOOP,
/// ADD_MEMBERSHIP, DROP_MEMBERSHIP, BIND_ADDRESS_NO_PORT, MULTICAST_ALL.
const IP: &[u32] = &[1, 2, 8, 10, 11, 12, 13, 24, 32, 33, 34, 35, 36, 49];
/// IP_MTU.
const IP_READ: &[u32] = &[14];
/// IPV6_UNICAST_HOPS, MULTICAST_IF, MULTICAST_HOPS, MULTICAST_LOOP, ADD_MEMBERSHIP, DROP_MEMBERSHIP, MTU_DISCOVER, RECVERR,
/// V6ONLY, RECVPKTINFO, RECVHOPLIMIT, RECVTCLASS, TCLASS, DONTFRAG.
const IPV6: &[u32] = &[16, 17, 18, 19, 20, 21, 23, 25, 26, 49, 51, 62, 66, 67];
/// IPV6_MTU.
const IPV6_READ: &[u32] = &[24];

fn levels() -> [(u32, &'static [u32]); 4] {
    [(SOL_TCP, TCP), (SOL_UDP, UDP), (SOL_IP, IP), (SOL_IPV6, IPV6)]
}

fn pairs(level: u32, names: &'static [u32]) -> impl Iterator<Item = (u32, u32)> {
    names.iter().map(move |name| (level, *name))
}

/// All that may be set on the host.
pub fn settable() -> impl Iterator<Item = (u32, u32)> {
    pairs(SOL_SOCKET, SOCKET).chain(levels().into_iter().flat_map(|(level, names)| pairs(level, names)))
}

/// All that may be read from it.
pub fn readable() -> impl Iterator<Item = (u32, u32)> {
    levels()
        .into_iter()
        .flat_map(|(level, names)| pairs(level, names))
        .chain(pairs(SOL_TCP, TCP_READ))
        .chain(pairs(SOL_IP, IP_READ))
        .chain(pairs(SOL_IPV6, IPV6_READ))
        .chain([(SOL_SOCKET, SO_ERROR)])
}

pub fn may_set(level: u32, name: u32) -> bool {
    level != SOL_SOCKET && settable().any(|pair| pair == (level, name))
}

pub fn may_get(level: u32, name: u32) -> bool {
    level != SOL_SOCKET && readable().any(|pair| pair == (level, name))
}

/// An option of SOL_SOCKET, as far as the host is concerned.
pub fn for_host(name: u32, value: &[u8]) -> Result<Option<&[u8]>, Errno> {
    if !SOCKET.contains(&name) {
        return Ok(None);
    }
    if name == SO_LINGER {
        // close(2) would wait in the host, and with it a thread of the sentry: only the abortive close passes.
        let field = |at: usize| {
            value.get(at..).and_then(|rest| rest.first_chunk()).map(|raw| i32::from_ne_bytes(*raw))
        };
        let (on, seconds) = (field(0).ok_or(Errno::EINVAL)?, field(4).ok_or(Errno::EINVAL)?);
        return Ok((on == 0 || seconds == 0).then_some(value));
    }
    Ok(Some(value))
}

/// Control messages that the host may hand to the guest: addresses, TTL, TOS, time stamps, errors.
pub fn may_receive(level: u32, kind: u32) -> bool {
    match level {
        SOL_SOCKET => matches!(kind, SO_TIMESTAMP_OLD | SO_TIMESTAMPNS_OLD),
        SOL_IP => matches!(kind, 1 | 2 | 8 | 11),
        SOL_IPV6 => matches!(kind, 25 | 50 | 52 | 67),
        SOL_UDP => kind == 104,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert!(may_set(SOL_TCP, 1) && may_get(SOL_TCP, 11) && !may_set(SOL_TCP, 11));
        // TCP_REPAIR, IP_TRANSPARENT, SO_MARK and SO_BINDTODEVICE stay with us.
        assert!(!may_set(SOL_TCP, 19) && !may_set(SOL_IP, 19));
        assert_eq!(for_host(SO_MARK, &[0; 4]), Ok(None));
        assert_eq!(for_host(SO_BINDTODEVICE, b"eth0"), Ok(None));
    }

    #[test]
    fn no_close_waits_in_the_host() {
        let linger = |on: i32, seconds: i32| [on.to_ne_bytes(), seconds.to_ne_bytes()].concat();
        assert_eq!(for_host(SO_LINGER, &linger(1, 5)), Ok(None));
        assert!(for_host(SO_LINGER, &linger(1, 0)).unwrap().is_some());
        assert!(for_host(SO_LINGER, &linger(0, 5)).unwrap().is_some());
        assert_eq!(for_host(SO_LINGER, &[1]), Err(Errno::EINVAL));
    }
}
