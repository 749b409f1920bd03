//! The network proxy: the only process that makes sockets for a sandbox without a network namespace of its own.
//!
//! `chitin net-proxy`, one per sandbox, in the network namespace whose sockets are wanted, otherwise as confined as a
//! sentry: an empty root, no capabilities, a seccomp list of its own. The sentry asks it for a connected socket; it decides
//! whether the destination may be reached ([`Policy`]), connects without waiting and hands the socket over. It listens at
//! published ports and hands over what is accepted there; datagrams of published UDP ports it passes on
//! ([`relay`](super::relay)). It ends with the sentry's socket.
//!
//! The host's loopback is out of reach, with the exception of name servers that the host itself uses there.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use chitin_control::{Arrived, Open, PROXY_MESSAGE};
use chitin_sentry::confine;
use chitin_sentry::filter::{Rules, all, is, only_bits};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, accept4,
    connect, getpeername, recv, sendmsg, socket,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde::{Deserialize, Serialize};

use super::relay::Relay;
use crate::sandbox::launch::own_fd;
use crate::util::{Context, Result};

/// What it is told. Descriptors are numbers in its own process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Boot {
    /// Where it is asked for sockets.
    pub asked: RawFd,
    /// Where it brings connections.
    pub brings: RawFd,
    /// Where datagrams of published ports go and come from.
    pub relayed: RawFd,
    /// Listening sockets, and the guest's port that each stands for.
    pub published: Vec<(RawFd, u16)>,
    /// The same of UDP.
    pub published_udp: Vec<(RawFd, u16)>,
    pub policy: Policy,
}

/// What may be reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Name servers on loopback addresses; beside them, anything outside this machine.
    pub resolvers: Vec<SocketAddr>,
}

impl Policy {
    fn allows(&self, to: SocketAddr) -> bool {
        if self.resolvers.contains(&to) {
            return true;
        }
        let ip = to.ip().to_canonical();
        let special = match ip {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
            // Without a scope nobody could say on which link.
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !special && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
    }
}

/// The role.
pub fn run(boot: Boot) -> Result<ExitCode> {
    let failed = || "network proxy".to_owned();
    let asked = own_fd(boot.asked).context(failed)?;
    let brings = own_fd(boot.brings).context(failed)?;
    let mut listeners = Vec::new();
    for (fd, port) in &boot.published {
        listeners.push((own_fd(*fd).context(failed)?, *port));
    }
    let mut relay = Relay::of(&boot).context(failed)?;
    drop(confine::enter_empty_root()?);
    confine::no_new_privs()?;
    confine::drop_capabilities()?;
    install_filter()?;
    loop {
        let mut fds = vec![PollFd::new(asked.as_fd(), PollFlags::POLLIN)];
        fds.extend(listeners.iter().map(|(fd, _)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let listening = fds.len();
        fds.extend(relay.fds());
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        if ready.first() == Some(&true) && !answer(&asked, &boot.policy) {
            return Ok(ExitCode::SUCCESS);
        }
        relay.serve(ready.get(listening..).unwrap_or_default());
        for ((listener, port), ready) in listeners.iter().zip(ready.iter().skip(1)) {
            if *ready {
                bring(&brings, listener, *port);
            }
        }
    }
}

/// Answers one request; false when there will be no more.
fn answer(asked: &OwnedFd, policy: &Policy) -> bool {
    let mut request = [0; PROXY_MESSAGE + 1];
    let count = match recv(asked.as_raw_fd(), &mut request, MsgFlags::MSG_DONTWAIT) {
        Ok(0) => return false,
        Ok(count) => count,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return true,
        Err(_) => return false,
    };
    let outcome = match Open::decode(request.get(..count).unwrap_or_default()) {
        None => Err(nix::Error::EINVAL),
        Some(open) if !policy.allows(open.to) => Err(nix::Error::EHOSTUNREACH),
        Some(open) => connected(open),
    };
    let (number, fd) = match outcome {
        Ok(fd) => (0, Some(fd)),
        Err(error) => (error as i32, None),
    };
    send_with(asked, &number.to_ne_bytes(), fd.as_ref())
}

/// A socket on its way to be connected.
fn connected(open: Open) -> nix::Result<OwnedFd> {
    let v4 = open.to.is_ipv4();
    let protocol = match (open.stream, i32::from(open.protocol)) {
        (true, libc::IPPROTO_TCP) => SockProtocol::Tcp,
        (false, libc::IPPROTO_UDP) => SockProtocol::Udp,
        (false, libc::IPPROTO_ICMP) if v4 => SockProtocol::Icmp,
        (false, libc::IPPROTO_ICMPV6) if !v4 => SockProtocol::IcmpV6,
        _ => return Err(nix::Error::EPROTONOSUPPORT),
    };
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if open.stream { SockType::Stream } else { SockType::Datagram };
    let fd = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, protocol)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(open.to)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(fd),
        Err(error) => Err(error),
    }
}

/// Takes one connection and hands it over.
fn bring(brings: &OwnedFd, listener: &OwnedFd, port: u16) {
    let Ok(raw) = accept4(listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC) else {
        return;
    };
    let Ok(fd) = own_fd(raw) else { return };
    let Ok(peer) = getpeername::<SockaddrStorage>(fd.as_raw_fd()) else { return };
    let v4 = peer.as_sockaddr_in().map(|a| SocketAddr::from((a.ip(), a.port())));
    let v6 = peer.as_sockaddr_in6().map(|a| SocketAddr::from((a.ip(), a.port())));
    if let Some(peer) = v4.or(v6) {
        send_with(brings, &Arrived { port, peer }.encode(), Some(&fd));
    }
}

fn send_with(to: &OwnedFd, bytes: &[u8], fd: Option<&OwnedFd>) -> bool {
    let numbers: Vec<RawFd> = fd.map(AsRawFd::as_raw_fd).into_iter().collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
    let parts = [std::io::IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(to.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::Error::EINTR) => {}
            sent => return sent.is_ok(),
        }
    }
}

/// What the proxy may still ask of the host kernel; anything else kills it.
fn install_filter() -> Result<()> {
    let failed = || "cannot confine the network proxy".to_owned();
    let unconditional = [
        // Requests, answers and connections. Destinations are what this process is trusted with.
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_connect,
        libc::SYS_accept4,
        libc::SYS_getpeername,
        libc::SYS_poll,
        libc::SYS_close,
        // The allocator.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        // Its end, and last words.
        libc::SYS_write,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
    ];
    let mut rules: Rules = unconditional.iter().map(|nr| (*nr, vec![])).collect();
    let rule = |conditions| all(conditions).context(failed);
    let flags = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).cast_unsigned();
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let family = is(0, family.cast_unsigned()).context(failed)?;
            let kind = is(1, kind.cast_unsigned() | flags).context(failed)?;
            sockets.push(rule(vec![family, kind])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    let data = libc::PROT_READ | libc::PROT_WRITE;
    rules.insert(libc::SYS_mmap, vec![rule(vec![only_bits(2, data).context(failed)?])?]);
    // Debug builds look whether a descriptor is open before they close it.
    let getfd = is(1, libc::F_GETFD.cast_unsigned()).context(failed)?;
    rules.insert(libc::SYS_fcntl, vec![rule(vec![getfd])?]);
    let filter =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64);
    let program = filter.and_then(BpfProgram::try_from).context(failed)?;
    seccompiler::apply_filter(&program).context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_loopback_is_out_of_reach() {
        let resolvers = vec!["127.0.0.53:53".parse().unwrap()];
        let policy = Policy { resolvers };
        let allows = |policy: &Policy, to: &str| policy.allows(to.parse().unwrap());
        for to in ["192.0.2.1:80", "[2001:db8::1]:443", "127.0.0.53:53", "10.0.0.1:1"] {
            assert!(allows(&policy, to), "{to}");
        }
        for to in [
            "127.0.0.1:80",
            "127.0.0.53:54",
            "0.0.0.0:80",
            "[::1]:80",
            "[::]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:0.0.0.0]:1",
            "255.255.255.255:67",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
        ] {
            assert!(!allows(&policy, to), "{to}");
        }
    }
}
