//! Docker's name server, which listens on the host's side of a container's network namespace, at 127.0.0.11.
//!
//! It is there from the start for containers in networks that a user has made; for others it comes when `docker network
//! connect` puts one there, when nothing of ours is left outside the sandbox that could make a socket to it. So a small
//! process waits in the namespace ([`chitin_stand_in::names`]): nobody, without capabilities, under a short list of calls,
//! and the address is all that it connects to. Docker has the runtime make the namespace; in those that a configuration
//! names, as those of pods, there is no such server unless it is there at the start.
//!
//! Neighbours: the sentry's broker asks it as it asks the network proxy ([`proxy`](super::proxy)).

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use chitin_control::{Open, OutboundConfig};
use chitin_sentry::filter::{Rules, all, is};
use chitin_stand_in::layout::names::ADDRESS;
use chitin_stand_in::names::{Order, PROGRAM};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::{Attached, namespace_of};
use crate::cgroup::Cgroups;
use crate::sandbox::launch::{self, Role};
use crate::sandbox::{NOBODY, role};
use crate::util::{Context, Result, dev_null, duplicate};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);

/// Whether it listens in the namespace of this thread. It is on the loopback interface of the host's stack there, out of reach
/// for the sandbox's; what leads from port 53 to its own are rules of that stack, too.
pub fn are_served() -> bool {
    // The address as it stands in memory.
    let own = format!("{:08X}:", u32::from_ne_bytes([127, 0, 0, 11]));
    let sockets = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    sockets.lines().filter_map(|line| line.split_ascii_whitespace().nth(1)).any(|at| at.starts_with(&own))
}

/// Starts the process in the network namespace of the sentry `pid`, and adds it to what has been attached.
pub fn with_proxy(id: &str, mut attached: Attached, pid: i32, cgroups: &Cgroups) -> Result<Attached> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (asks, asked) = pair.context(failed)?;
    let (asks, asked) = (duplicate(asks)?, duplicate(asked)?);
    let network = namespace_of(pid)?;
    let own = std::fs::metadata("/proc/self/ns/net").context(failed)?.ino();
    // Into the own one not even its owner may go without privileges.
    let elsewhere = network.metadata().context(failed)?.ino() != own;
    let network = elsewhere.then(|| duplicate(network)).transpose()?;
    // The rootless may not even look.
    let mounts = File::open(format!("/proc/{pid}/ns/mnt")).ok().map(duplicate).transpose()?;
    let filter = launch::filter_bytes(&filter()?);
    let order = Order {
        socket: asked.as_fd(),
        network: network.as_ref().map(AsFd::as_fd),
        mounts: mounts.as_ref().map(AsFd::as_fd),
        user: nix::unistd::geteuid().is_root().then_some(NOBODY),
        to: address(),
        filter: &filter,
    };
    let mut config = role::empty_memfd()?;
    role::fill_memfd(&mut config, &order.encode())?;
    let program = launch::program(c"chitin-name-proxy", PROGRAM)?;
    let null = duplicate(dev_null()?)?;
    let inherited = [Some(&asked), network.as_ref(), mounts.as_ref()];
    let mut child = launch::spawn(
        program.as_fd(),
        &Role {
            name: c"name-proxy",
            id,
            config: config.as_fd(),
            namespaces: 0,
            stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
            inherited: inherited.into_iter().flatten().map(AsRawFd::as_raw_fd).collect(),
            terminal: None,
            namespace_root: false,
            cgroups: Some(cgroups),
            memory: None,
        },
    )?;
    child.go()?;
    attached.config.outbound = Some(OutboundConfig {
        asked: u32::try_from(attached.fds.len()).context(failed)?,
        published: None,
        everything: false,
        resolvers: vec![SERVER],
    });
    attached.fds.push(asks);
    attached.proxy = Some(child);
    Ok(attached)
}

fn failed() -> String {
    "cannot prepare the process that reaches Docker's name server".to_owned()
}

/// As it stands in a request.
fn address() -> [u8; ADDRESS] {
    let request = Open { stream: false, protocol: 0, to: SERVER }.encode();
    request.last_chunk().copied().unwrap_or([0; ADDRESS])
}

/// What the process may ask of the host kernel once it is set up; anything else kills it.
fn filter() -> Result<BpfProgram> {
    let failed = || "the name proxy's seccomp list".to_owned();
    let unconditional = [
        // Requests, answers, and sockets that have been handed over.
        libc::SYS_read,
        libc::SYS_sendmsg,
        libc::SYS_close,
        // How the host goes on with a call after a stop.
        libc::SYS_restart_syscall,
        // Its end.
        libc::SYS_exit_group,
    ];
    let mut rules: Rules = unconditional.iter().map(|nr| (*nr, vec![])).collect();
    let flags = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).cast_unsigned();
    let mut sockets = Vec::new();
    for (kind, protocol) in [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)] {
        let family = is(0, libc::AF_INET.cast_unsigned()).context(failed)?;
        let kind = is(1, kind.cast_unsigned() | flags).context(failed)?;
        let protocol = is(2, protocol.cast_unsigned()).context(failed)?;
        sockets.push(all(vec![family, kind, protocol]).context(failed)?);
    }
    rules.insert(libc::SYS_socket, sockets);
    // The one address is what this process is trusted with.
    let length = is(2, 16).context(failed)?;
    rules.insert(libc::SYS_connect, vec![all(vec![length]).context(failed)?]);
    let filter =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64);
    filter.and_then(BpfProgram::try_from).context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_control::{NetworkConfig, PROXY_MESSAGE};
    use chitin_stand_in::layout::{MAX, names::REQUEST};
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, getpeername, recvmsg, send};
    use nix::sys::wait::WaitStatus;
    use std::io::IoSliceMut;
    use std::os::fd::{OwnedFd, RawFd};

    #[test]
    fn the_program_reads_requests_as_they_are_written() {
        assert_eq!(PROXY_MESSAGE, REQUEST);
        let ours = address();
        assert_eq!((&ours[..2], &ours[16..]), (&[0, 53][..], &[127, 0, 0, 11][..]));
    }

    #[test]
    fn the_list_compiles_and_fits_an_order() {
        let filter = launch::filter_bytes(&filter().unwrap());
        assert!(filter.len() + 64 < MAX && filter.len() % 8 == 0);
    }

    /// The errno of the answer, and the peer of the socket that came along.
    fn ask(asks: &OwnedFd, request: &[u8]) -> (i32, Option<SockaddrIn>) {
        send(asks.as_raw_fd(), request, MsgFlags::empty()).unwrap();
        let mut number = [0; 4];
        let mut space = nix::cmsg_space!(RawFd);
        let mut pieces = [IoSliceMut::new(&mut number)];
        let got = recvmsg::<()>(asks.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
        let fds = got.unwrap().cmsgs().unwrap().find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.map(|fds| launch::own_fd(fds[0]).unwrap());
        (i32::from_ne_bytes(number), fd.map(|fd| getpeername(fd.as_raw_fd()).unwrap()))
    }

    #[test]
    fn the_server_is_all_that_is_reached() {
        let attached =
            Attached { config: NetworkConfig::default(), fds: Vec::new(), proxy: None, ports: None };
        let own = i32::try_from(std::process::id()).unwrap();
        let mut attached = with_proxy("test", attached, own, &Cgroups::default()).unwrap();
        let asks = attached.fds.pop().unwrap();
        let request =
            |protocol, to: &str| Open { stream: protocol == 6, protocol, to: to.parse().unwrap() }.encode();
        let ours = request(17, "127.0.0.11:53");
        let (errno, peer) = ask(&asks, &ours);
        assert_eq!((errno, peer), (0, Some(SockaddrIn::new(127, 0, 0, 11, 53))));
        for to in ["127.0.0.11:54", "127.0.0.1:53", "192.0.2.1:53", "[::1]:53", "[::ffff:127.0.0.11]:53"] {
            assert_eq!(ask(&asks, &request(17, to)), (libc::EHOSTUNREACH, None), "{to}");
            assert_eq!(ask(&asks, &request(6, to)), (libc::EHOSTUNREACH, None), "{to}");
        }
        assert_eq!(ask(&asks, &request(1, "127.0.0.11:53")), (libc::EPROTONOSUPPORT, None));
        for wrong in [&[1][..], &ours[..23], &[&ours[..], &[0]].concat(), &[2; 24]] {
            assert!(matches!(ask(&asks, wrong), (libc::EINVAL | libc::EHOSTUNREACH, None)), "{wrong:?}");
        }
        // It is still there, and ends with whoever asks.
        assert_eq!(ask(&asks, &ours).0, 0);
        drop(asks);
        assert!(matches!(attached.proxy.unwrap().wait(), Ok(WaitStatus::Exited(_, 0))));
    }
}
