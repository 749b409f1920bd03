//! Descriptors that come and go with the bytes of a unix stream socket (SCM_RIGHTS).
//!
//! Neighbour: the sentry's control server.

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors that a message's control buffer has room for; the host closes what does not fit.
const ROOM: usize = 16;

/// Receives bytes and the descriptors that come with them, which are added to `fds` as long as it has fewer than
/// `limit`; surplus ones are closed. 0: the end of the stream.
pub fn receive(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    limit: usize,
) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([RawFd; ROOM]);
    let mut parts = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::Error::EINTR) => {}
            other => break other?,
        }
    };
    for control in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(numbers) = control else { continue };
        for number in numbers {
            // SAFETY: the host has just made this descriptor for us, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            if fds.len() < limit {
                fds.push(fd);
            }
        }
    }
    Ok(message.bytes)
}

/// Sends bytes, with a descriptor; answers how many bytes were taken (the descriptor went with the first one).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let numbers = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&numbers)];
    loop {
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &rights, flags, None) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_cross_and_surplus_is_closed() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut read, write) = io::pipe().unwrap();
        for _ in 0..3 {
            assert_eq!(send(a.as_fd(), b"x", write.as_fd()).unwrap(), 1);
        }
        drop(write);
        let (mut fds, mut buf) = (Vec::new(), [0; 8]);
        let mut total = 0;
        while total < 3 {
            total += receive(b.as_fd(), &mut buf, &mut fds, 2).unwrap();
        }
        assert_eq!(fds.len(), 2);
        std::fs::File::from(fds.pop().unwrap()).write_all(b"y").unwrap();
        fds.clear();
        // All copies of the write end are closed, so the stream ends.
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "y");
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut buf, &mut fds, 2).unwrap(), 0);
    }
}
