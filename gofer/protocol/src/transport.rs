//! Packets over `SOCK_SEQPACKET`, with descriptors from the server to the client.
//!
//! The server receives with [`recv`], which gives the kernel no room for descriptors: what a hostile
//! client attaches is dropped by the kernel and never enters the gofer's descriptor table.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, getsockopt, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};

use crate::{REPLY_MAX, REQUEST_MAX};

/// Why a packet did not come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The other side has closed its end.
    Closed,
    /// The packet is larger than the buffer.
    Truncated,
    Errno(Errno),
}

const LARGEST: usize = if REPLY_MAX > REQUEST_MAX { REPLY_MAX } else { REQUEST_MAX };

/// Makes a channel: two connected ends, close-on-exec, with buffers for the largest packets. `ENOBUFS`:
/// the host's `net.core.wmem_max` does not admit such buffers.
pub fn channel() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    for end in [&a, &b] {
        // The kernel doubles the value for its own bookkeeping and caps it at wmem_max.
        setsockopt(end, sockopt::SndBuf, &(2 * LARGEST))?;
        if getsockopt(end, sockopt::SndBuf)? < LARGEST + 4096 {
            // net.core.wmem_max is set too low for a packet to go in one piece.
            return Err(Errno::ENOBUFS);
        }
    }
    Ok((a, b))
}

/// Sends one packet and at most one descriptor.
pub fn send(to: BorrowedFd<'_>, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), TransportError> {
    let raw = fd.map(|fd| [fd.as_raw_fd()]);
    let rights = raw.as_ref().map(|fds| ControlMessage::ScmRights(fds));
    loop {
        let sent = sendmsg::<()>(
            to.as_raw_fd(),
            &[IoSlice::new(packet)],
            rights.as_slice(),
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => return Err(TransportError::Closed),
            Err(errno) => return Err(TransportError::Errno(errno)),
        }
    }
}

/// Receives one packet without descriptors; an empty one is the end of the channel.
pub fn recv<'b>(from: BorrowedFd<'_>, buffer: &'b mut [u8]) -> Result<&'b [u8], TransportError> {
    let len = loop {
        match nix::sys::socket::recv(from.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
            Ok(0) | Err(Errno::ECONNRESET | Errno::ENOTCONN) => return Err(TransportError::Closed),
            Ok(len) => break len,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(TransportError::Errno(errno)),
        }
    };
    // MSG_TRUNC makes the kernel report the packet's real length.
    buffer.get(..len).ok_or(TransportError::Truncated)
}

/// The client's receiving side: buffers that are allocated once per channel (the pages of the packet
/// buffer are only touched as far as replies reach).
#[derive(Debug)]
pub struct Inbox {
    packet: Vec<u8>,
    control: Vec<u8>,
}

impl Default for Inbox {
    fn default() -> Self {
        // Room for more than the one descriptor that is ever sent, so that a surplus is seen and closed.
        Inbox { packet: vec![0; REPLY_MAX], control: nix::cmsg_space!([RawFd; 4]) }
    }
}

impl Inbox {
    /// Receives one packet and at most one descriptor; further descriptors are closed and an error.
    pub fn recv(&mut self, from: BorrowedFd<'_>) -> Result<(&[u8], Option<OwnedFd>), TransportError> {
        let (len, flags, mut fds) = {
            let mut iov = [IoSliceMut::new(&mut self.packet)];
            let message = loop {
                let flags = MsgFlags::MSG_CMSG_CLOEXEC;
                match recvmsg::<()>(from.as_raw_fd(), &mut iov, Some(&mut self.control), flags) {
                    Ok(message) => break message,
                    Err(Errno::EINTR) => {}
                    Err(Errno::ECONNRESET | Errno::ENOTCONN) => return Err(TransportError::Closed),
                    Err(errno) => return Err(TransportError::Errno(errno)),
                }
            };
            let mut fds = Vec::new();
            if let Ok(cmsgs) = message.cmsgs() {
                for cmsg in cmsgs {
                    if let ControlMessageOwned::ScmRights(raw) = cmsg {
                        fds.extend(raw.into_iter().map(own));
                    }
                }
            }
            (message.bytes, message.flags, fds)
        };
        if len == 0 {
            return Err(TransportError::Closed);
        }
        if flags.contains(MsgFlags::MSG_TRUNC) || fds.len() > 1 {
            return Err(TransportError::Truncated);
        }
        if flags.contains(MsgFlags::MSG_CTRUNC) {
            // The packet is whole, but this process has no room for another descriptor.
            return Err(TransportError::Errno(Errno::EMFILE));
        }
        let packet = self.packet.get(..len).ok_or(TransportError::Truncated)?;
        Ok((packet, fds.pop()))
    }
}

/// Takes a descriptor that the kernel has just installed for an `SCM_RIGHTS` message.
#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: recvmsg has just created this descriptor for us; nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
