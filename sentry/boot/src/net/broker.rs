//! The sentry's side of the network proxy: asking for host sockets, and taking in connections to published ports.
//!
//! The proxy is another process that the runtime started (`chitin net-proxy`); it decides what may be reached. Its answer
//! comes at once, since it waits for nothing itself, so whoever asks waits for it as one waits for the gofer.

use chitin_abi::Errno;
use chitin_abi::socket::SOCK_STREAM;
use chitin_control::{Arrived, Open, PROXY_MESSAGE};
use chitin_host::fdpass;
use chitin_net::outbound::{Broker, Outbound};
use nix::sys::socket::{MsgFlags, send};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

const STACK_SIZE: usize = 256 << 10;

/// The socket on which host sockets are asked for.
pub struct Proxy(Mutex<OwnedFd>);

impl Proxy {
    pub fn new(socket: OwnedFd) -> Proxy {
        Proxy(Mutex::new(socket))
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
            let socket = self.0.lock();
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
