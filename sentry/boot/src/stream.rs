//! A control connection: requests with their descriptors in, responses out.
//!
//! Neighbour: `control` serves one per client. A client has at most one request under way, so what has come of
//! descriptors when a request is complete belongs to it. Their number is bounded; surplus ones are closed.

use chitin_control::{Decoder, FrameError, Request, Response, encode};
use chitin_host::fdpass;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The most descriptors that a request has: a gofer's socket, standard streams and further ones, one for each interface;
/// as many as one message takes along (SCM_MAX_FD).
const MAX_FDS: usize = 253;
const CHUNK: usize = 16 << 10;

pub struct Stream {
    socket: UnixStream,
    decoder: Decoder,
    fds: Vec<OwnedFd>,
}

impl Stream {
    pub fn new(socket: UnixStream) -> Stream {
        Stream { socket, decoder: Decoder::new(), fds: Vec::new() }
    }

    /// The next request; `None` when the client is done.
    pub fn receive(&mut self) -> Result<Option<(Request, Vec<OwnedFd>)>, FrameError> {
        loop {
            if let Some(request) = self.decoder.next()? {
                return Ok(Some((request, std::mem::take(&mut self.fds))));
            }
            let mut chunk = [0; CHUNK];
            match fdpass::receive(self.socket.as_fd(), &mut chunk, &mut self.fds, MAX_FDS)? {
                0 if self.decoder.is_partial() => return Err(FrameError::Closed),
                0 => return Ok(None),
                count => self.decoder.push(chunk.get(..count).unwrap_or_default())?,
            }
        }
    }

    pub fn answer(&mut self, response: &Response, fd: Option<BorrowedFd<'_>>) -> Result<(), FrameError> {
        let bytes = encode(response)?;
        let sent = match fd {
            Some(fd) => fdpass::send(self.socket.as_fd(), &bytes, fd)?,
            None => 0,
        };
        self.socket.write_all(bytes.get(sent..).unwrap_or_default())?;
        Ok(())
    }

    /// A second descriptor of the connection, for who watches for its end.
    pub fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_with_its_descriptors_only() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(b);
        let (read, _write) = std::io::pipe().unwrap();
        let bytes = encode(&Request::Destroy).unwrap();
        // More than the socket holds at a time.
        let sender = std::thread::spawn(move || {
            for _ in 0..2 * MAX_FDS {
                fdpass::send(a.as_fd(), b" ", read.as_fd()).unwrap();
            }
            (&a).write_all(&bytes).unwrap();
            (&a).write_all(&bytes).unwrap();
            a
        });
        let (request, fds) = stream.receive().unwrap().unwrap();
        assert_eq!((request, fds.len()), (Request::Destroy, MAX_FDS));
        let (request, fds) = stream.receive().unwrap().unwrap();
        assert_eq!((request, fds.len()), (Request::Destroy, 0));
        let mut a = sender.join().unwrap();
        a.write_all(b"{").unwrap();
        drop(a);
        assert!(matches!(stream.receive(), Err(FrameError::Closed)));
    }
}
