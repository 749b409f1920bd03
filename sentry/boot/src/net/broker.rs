//! The sentry's side of the network proxy: asking for host sockets, and taking in connections to published ports.
//!
//! The proxy is another process that the runtime started (`chitin net-proxy`, or the name proxy); it decides what may
//! be reached. Its answer comes at once, since it waits for nothing itself, so whoever asks waits for it as one waits
//! for the gofer.

use chitin_abi::Errno;
use chitin_abi::socket::SOCK_STREAM;
use chitin_control::{Arrived, Open, PROXY_DATAGRAM, PROXY_MESSAGE, Relayed};
use chitin_host::fdpass;
use chitin_net::NetNs;
use chitin_net::outbound::{Broker, Outbound};
use nix::sys::socket::{MsgFlags, send};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

const STACK_SIZE: usize = 256 << 10;

/// The sockets on which host sockets are asked for, and on which answers to datagrams go out, if ports are published.
pub struct Proxy {
    asked: Mutex<OwnedFd>,
    relays: Option<Arc<OwnedFd>>,
}

impl Proxy {
    pub fn new(asked: OwnedFd, relays: Option<Arc<OwnedFd>>) -> Proxy {
        Proxy { asked: Mutex::new(asked), relays }
    }
}

impl Broker for Proxy {
    fn open(&self, kind: u32, protocol: u32, to: SocketAddr) -> Result<OwnedFd, Errno> {
        let protocol = u8::try_from(protocol).map_err(|_| Errno::EPROTONOSUPPORT)?;
        let request = Open { stream: kind == SOCK_STREAM, protocol, to }.encode();
        let gone = |_| Errno::ENETDOWN;
        let mut answer = [0; 4];
        let mut fds = Vec::new();
        {
            let socket = self.asked.lock();
            send(socket.as_raw_fd(), &request, MsgFlags::MSG_NOSIGNAL).map_err(gone)?;
            let count =
                fdpass::receive(socket.as_fd(), &mut answer, &mut fds, 1).map_err(|_| Errno::ENETDOWN)?;
            if count != answer.len() {
                return Err(Errno::ENETDOWN);
            }
        }
        match (Errno::from_raw(i32::from_ne_bytes(answer)), fds.pop()) {
            (Some(errno), _) => Err(errno),
            (None, Some(fd)) => Ok(fd),
            (None, None) => Err(Errno::ENETDOWN),
        }
    }

    fn reply(&self, port: u16, peer: SocketAddr, data: &[u8]) -> Result<(), Errno> {
        if data.len() > PROXY_DATAGRAM {
            return Err(Errno::EMSGSIZE);
        }
        let relays = self.relays.as_ref().ok_or(Errno::ENETDOWN)?;
        let message = [&Relayed { port, peer }.encode()[..], data].concat();
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(relays.as_raw_fd(), &message, flags) {
            // A queue that is full loses datagrams.
            Ok(_) | Err(nix::Error::EAGAIN) => Ok(()),
            Err(_) => Err(Errno::ENETDOWN),
        }
    }
}

/// Takes in datagrams to published ports, in a thread of its own, until the proxy ends.
pub fn relay(socket: Arc<OwnedFd>, ns: Arc<NetNs>, outbound: Arc<Outbound>) -> std::io::Result<()> {
    std::thread::Builder::new().name("net-relay".into()).stack_size(STACK_SIZE).spawn(move || {
        let mut room = vec![0; PROXY_MESSAGE + PROXY_DATAGRAM];
        loop {
            let count = match fdpass::receive(socket.as_fd(), &mut room, &mut Vec::new(), 0) {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            if let Some((Relayed { port, peer }, data)) =
                Relayed::decode(room.get(..count).unwrap_or_default())
            {
                outbound.datagram(&ns, port, peer, data);
                chitin_kernel::run::drain();
            }
        }
    })?;
    Ok(())
}

/// Takes in connections to published ports, in a thread of its own, until the proxy ends.
pub fn take_in(socket: OwnedFd, outbound: Arc<Outbound>) -> std::io::Result<()> {
    std::thread::Builder::new().name("net-published".into()).stack_size(STACK_SIZE).spawn(move || {
        loop {
            let mut message = [0; PROXY_MESSAGE];
            let mut fds = Vec::new();
            match fdpass::receive(socket.as_fd(), &mut message, &mut fds, 1) {
                Ok(PROXY_MESSAGE) => {}
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
            // What nobody listens for is closed, which the other end sees as a reset or an end.
            if let (Some(arrived), Some(fd)) = (Arrived::decode(&message), fds.pop()) {
                outbound.arrived(arrived.port, fd, arrived.peer);
                chitin_kernel::run::drain();
            }
        }
    })?;
    Ok(())
}
