//! Datagrams of published UDP ports, between the host's sockets and the sentry.
//!
//! The sentry does not get the sockets: with one that is not connected it could send to anybody. What it sends goes out only
//! to who has sent to the same port before, among the last [`MAX_PEERS`] that did. Nothing waits: what does not fit is lost, as
//! datagrams are.
//!
//! Neighbours: `proxy` polls; `sentry/boot`'s broker is the other end.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use chitin_control::{PROXY_DATAGRAM, PROXY_MESSAGE, Relayed};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recv, recvfrom, send, sendto};

use super::proxy::Boot;
use crate::sandbox::launch::own_fd;

/// Per port; beyond it, who has been silent longest is forgotten.
const MAX_PEERS: usize = 1024;
/// Datagrams in a row, before others have their turn.
const BATCH: usize = 64;

struct Port {
    socket: OwnedFd,
    guest: u16,
    /// The last that sent stands at the end.
    peers: VecDeque<SocketAddr>,
}

pub struct Relay {
    sentry: OwnedFd,
    ports: Vec<Port>,
    /// One message.
    room: Vec<u8>,
}

impl Relay {
    pub fn of(boot: &Boot) -> io::Result<Relay> {
        let port = |(socket, guest): &(i32, u16)| {
            Ok(Port { socket: own_fd(*socket)?, guest: *guest, peers: VecDeque::new() })
        };
        let ports = boot.published_udp.iter().map(port).collect::<io::Result<_>>()?;
        Ok(Relay { sentry: own_fd(boot.relayed)?, ports, room: vec![0; PROXY_MESSAGE + PROXY_DATAGRAM] })
    }

    /// What is to be polled: the sentry's end first, while there is a port.
    pub fn fds(&self) -> Vec<PollFd<'_>> {
        let sentry = self.ports.first().map(|_| self.sentry.as_fd());
        let all = sentry.into_iter().chain(self.ports.iter().map(|port| port.socket.as_fd()));
        all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect()
    }

    pub fn serve(&mut self, ready: &[bool]) {
        let Some((sentry, ports)) = ready.split_first() else { return };
        if *sentry {
            self.send_out();
        }
        for (port, ready) in self.ports.iter_mut().zip(ports) {
            if *ready {
                port.take_in(&self.sentry, &mut self.room);
            }
        }
    }

    fn send_out(&mut self) {
        for _ in 0..BATCH {
            let Ok(count @ 1..) = recv(self.sentry.as_raw_fd(), &mut self.room, MsgFlags::MSG_DONTWAIT)
            else {
                return;
            };
            let message = self.room.get(..count).unwrap_or_default();
            let Some((Relayed { port, peer }, payload)) = Relayed::decode(message) else { continue };
            let known = |p: &&Port| p.guest == port && p.peers.contains(&peer);
            if let Some(port) = self.ports.iter().find(known) {
                let to = SockaddrStorage::from(peer);
                let _ = sendto(
                    port.socket.as_raw_fd(),
                    payload,
                    &to,
                    MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                );
            }
        }
    }
}

impl Port {
    fn take_in(&mut self, sentry: &OwnedFd, room: &mut [u8]) {
        for _ in 0..BATCH {
            let Some((head, payload)) = room.split_first_chunk_mut::<PROXY_MESSAGE>() else { return };
            // An error of an earlier datagram's (nobody there any more) is told once, and is nobody's here.
            let Ok((count, from)) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), payload) else {
                return;
            };
            let v4 =
                from.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| SocketAddr::from((a.ip(), a.port())));
            let v6 =
                from.as_ref().and_then(|a| a.as_sockaddr_in6()).map(|a| SocketAddr::from((a.ip(), a.port())));
            let Some(peer) = v4.or(v6) else { continue };
            self.remember(peer);
            *head = Relayed { port: self.guest, peer }.encode();
            let message = room.get(..PROXY_MESSAGE.saturating_add(count)).unwrap_or_default();
            let _ = send(sentry.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
    }

    fn remember(&mut self, peer: SocketAddr) {
        if self.peers.back() == Some(&peer) {
            return;
        }
        if let Some(at) = self.peers.iter().position(|other| *other == peer) {
            self.peers.remove(at);
        } else if self.peers.len() >= MAX_PEERS {
            self.peers.pop_front();
        }
        self.peers.push_back(peer);
    }
}
