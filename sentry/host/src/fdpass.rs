//! Descriptors that come and go with the bytes of a unix stream socket (SCM_RIGHTS).
//!
//! Neighbour: the sentry's control server.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that one message can bring (SCM_MAX_FD).
const MOST: usize = 253;
/// A control buffer for them: a header and the numbers, in words, as its alignment wants it.
const ROOM: usize = (size_of::<libc::cmsghdr>() + MOST * size_of::<RawFd>()).div_ceil(8);

/// Receives bytes and the descriptors that come with them, which are added to `fds` as long as it has fewer than
/// `limit`; surplus ones are closed. 0: the end of the stream.
pub fn receive(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    limit: usize,
) -> io::Result<usize> {
    let mut control = [0u64; ROOM];
    let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: a structure of numbers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let count = loop {
        // SAFETY: buffer and control buffer are valid for writing over their stated lengths.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(got) {
            Ok(count) => break count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    };
    // Also of a message that was cut off: what is there is ours to close.
    // SAFETY: the host has filled in the header and the control buffer, which lives on.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !at.is_null() {
        // SAFETY: not null, so a whole header within the control buffer.
        let header = unsafe { at.read() };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: pointer arithmetic on a header within the control buffer.
            let data = unsafe { libc::CMSG_DATA(at) }.cast::<RawFd>();
            let bytes = header.cmsg_len.saturating_sub(size_of::<libc::cmsghdr>());
            for index in 0..bytes / size_of::<RawFd>() {
                // SAFETY: below the length that the header states, within the control buffer.
                let place = unsafe { data.add(index) };
                // SAFETY: the host has filled it in; the buffer need not be aligned for it.
                let number = unsafe { place.read_unaligned() };
                // SAFETY: the host has just made this descriptor for us, and nobody else knows it.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                if fds.len() < limit {
                    fds.push(fd);
                }
            }
        }
        // SAFETY: as for the first one.
        at = unsafe { libc::CMSG_NXTHDR(&raw const message, at) };
    }
    Ok(count)
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
        // As many as fit, and more than are wanted.
        let (mut read, write) = io::pipe().unwrap();
        let many = [write.as_raw_fd(); MOST];
        let rights = [ControlMessage::ScmRights(&many)];
        sendmsg::<()>(a.as_raw_fd(), &[IoSlice::new(b"z")], &rights, MsgFlags::empty(), None).unwrap();
        drop(write);
        assert_eq!((receive(b.as_fd(), &mut buf, &mut fds, 3).unwrap(), fds.len()), (1, 3));
        fds.clear();
        assert_eq!(read.read_to_string(&mut text).unwrap(), 0);
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut buf, &mut fds, 2).unwrap(), 0);
    }
}
