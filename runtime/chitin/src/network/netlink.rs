//! A small rtnetlink client: dumps, and single requests with their acknowledgement.
//!
//! It speaks to the kernel of the network namespace that the calling thread is in.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};

use chitin_control::rtnetlink::{HEADER, Message, i32_at};

use crate::util::{Context, Result};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
/// The kernel never sends more at a time.
const BUFFER: usize = 64 << 10;

/// What the sandbox wants to hear of: links, addresses and routes (RTMGRP_*).
const NEWS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Bytes of news that may wait.
const NEWS_ROOM: usize = 1 << 20;

/// A socket that hears what changes in the namespace of the calling thread.
pub fn news() -> Result<OwnedFd> {
    let failed = || "cannot listen for changes of the network namespace".to_owned();
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .context(failed)?;
    if setsockopt(&socket, sockopt::RcvBufForce, &NEWS_ROOM).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &NEWS_ROOM).context(failed)?;
    }
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, NEWS)).context(failed)?;
    Ok(socket)
}

pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> Result<Self> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        Ok(Self { socket: socket.context(|| "cannot open a netlink socket".into())?, sequence: 0 })
    }

    /// All objects of a kind: the bodies of the answers. `head` is the request's fixed part.
    pub fn dump(&mut self, kind: u16, head: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        self.talk(kind, NLM_F_DUMP, head, &mut |body| found.push(body.to_vec()))?;
        Ok(found)
    }

    /// One request that changes something, or makes it.
    pub fn order(&mut self, kind: u16, body: &[u8]) -> Result<()> {
        self.talk(kind, NLM_F_ACK | NLM_F_CREATE, body, &mut |_| {})
    }

    fn talk(&mut self, kind: u16, flags: u16, body: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let failed = || "netlink".to_owned();
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).context(failed)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(body);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty()).context(failed)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                other => other.context(failed)?,
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some(message) = Message::split(&mut rest) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    // NLMSG_ERROR (0 is the acknowledgement) and NLMSG_DONE.
                    2 | 3 => {
                        let code = i32_at(message.body, 0).unwrap_or(0);
                        return match code {
                            0 => Ok(()),
                            code => Err(std::io::Error::from_raw_os_error(code.wrapping_neg()).to_string()),
                        };
                    }
                    _ => each(message.body),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_control::rtnetlink::attributes;

    #[test]
    fn the_kernel_answers() {
        let mut netlink = Netlink::open().unwrap();
        // RTM_GETLINK: there is at least `lo`.
        let links = netlink.dump(18, &[0; 16]).unwrap();
        assert!(links.iter().any(|link| attributes(link.get(16..).unwrap()).any(|a| a == (3, b"lo\0"))));
        // RTM_DELLINK of an index that nobody has.
        let mut head = [0; 16];
        head[4..8].copy_from_slice(&0x7fff_fff0u32.to_ne_bytes());
        assert!(netlink.order(17, &head).is_err());
    }
}
