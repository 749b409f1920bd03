//! Framing: one JSON document per line, bounded.
//!
//! [`Decoder`] takes bytes as they come, so that it serves an event loop as well as the blocking [`Client`] and
//! [`Server`] here. The peer is hostile in both directions: a line longer than [`MAX_MESSAGE`] or one that does not
//! parse is an error after which the connection must be closed (the decoder stays failed).
//! [`Client`] sends at most one request at a time.

use std::fmt;
use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::{Request, Response};

/// The longest message in bytes, newline included. An `exec` may carry as much as Linux allows to `execve` by
/// default (2 MiB of arguments and environment), which JSON may double.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Why a message could not be sent or received.
#[derive(Debug)]
pub enum FrameError {
    Io(io::Error),
    /// The message exceeds [`MAX_MESSAGE`].
    TooLong,
    /// The line is no message of the expected type.
    Malformed(serde_json::Error),
    /// The peer closed the connection (in the middle of a message, or instead of an answer).
    Closed,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Io(e) => write!(f, "control connection: {e}"),
            FrameError::TooLong => write!(f, "control message longer than {MAX_MESSAGE} bytes"),
            FrameError::Malformed(e) => write!(f, "malformed control message: {e}"),
            FrameError::Closed => write!(f, "control connection closed by the peer"),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<io::Error> for FrameError {
    fn from(e: io::Error) -> Self {
        FrameError::Io(e)
    }
}

/// The bytes of one message, newline included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    bytes.push(b'\n');
    if bytes.len() > MAX_MESSAGE {
        return Err(FrameError::TooLong);
    }
    Ok(bytes)
}

/// Splits a byte stream into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already searched for a newline.
    searched: usize,
    failed: bool,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that came from the peer. What is held never exceeds [`MAX_MESSAGE`] plus the length of `bytes`,
    /// provided that [`Decoder::next`] is called until it returns `None` after each call.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.failed || self.buffer.len() >= MAX_MESSAGE {
            return self.fail(FrameError::TooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole message, or `None` when more bytes are needed.
    // Not an iterator: it ends and goes on again, and its item type is chosen by the caller.
    #[allow(clippy::should_implement_trait)]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        if self.failed {
            return Err(FrameError::Closed);
        }
        let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(found) = unsearched.iter().position(|b| *b == b'\n') else {
            self.searched = self.buffer.len();
            if self.buffer.len() >= MAX_MESSAGE {
                return self.fail(FrameError::TooLong);
            }
            return Ok(None);
        };
        let end = self.searched.saturating_add(found);
        if end >= MAX_MESSAGE {
            return self.fail(FrameError::TooLong);
        }
        let rest = self.buffer.split_off(end.saturating_add(1));
        let line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        // A message is one line, so the parser must take all of it (white space aside).
        match serde_json::from_slice(&line) {
            Ok(message) => Ok(Some(message)),
            Err(e) => self.fail(FrameError::Malformed(e)),
        }
    }

    /// Whether a message has begun that is not complete.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn fail<T>(&mut self, e: FrameError) -> Result<T, FrameError> {
        self.failed = true;
        self.buffer = Vec::new();
        self.searched = 0;
        Err(e)
    }
}

/// Reads until a message is there; `None` at a clean end of the stream.
fn receive<S: Read, T: DeserializeOwned>(
    stream: &mut S,
    decoder: &mut Decoder,
) -> Result<Option<T>, FrameError> {
    loop {
        if let Some(message) = decoder.next()? {
            return Ok(Some(message));
        }
        let mut chunk = [0u8; 4096];
        match stream.read(&mut chunk) {
            Ok(0) if decoder.is_partial() => return Err(FrameError::Closed),
            Ok(0) => return Ok(None),
            Ok(n) => decoder.push(chunk.get(..n).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The runtime's side of a control connection.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    decoder: Decoder,
}

impl<S: Read + Write> Client<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::new() }
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, request: &Request) -> Result<Response, FrameError> {
        self.stream.write_all(&encode(request)?)?;
        self.receive()
    }

    /// Waits for the answer to a request that was sent by other means (with descriptors).
    pub fn receive(&mut self) -> Result<Response, FrameError> {
        receive(&mut self.stream, &mut self.decoder)?.ok_or(FrameError::Closed)
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }
}

/// The sentry's side of a control connection, for a blocking stream.
#[derive(Debug)]
pub struct Server<S> {
    stream: S,
    decoder: Decoder,
}

impl<S: Read + Write> Server<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::new() }
    }

    /// The next request, or `None` when the client is done.
    pub fn receive(&mut self) -> Result<Option<Request>, FrameError> {
        receive(&mut self.stream, &mut self.decoder)
    }

    pub fn answer(&mut self, response: &Response) -> Result<(), FrameError> {
        self.stream.write_all(&encode(response)?)?;
        Ok(())
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ExitStatus;
    use std::os::unix::net::UnixStream;

    /// Spoilt lines, in pieces: an error or a message, and after an error nothing more.
    #[test]
    fn noise() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % limit as u64) as usize
        };
        let mut good = encode(&Request::Wait { container: "a\nb\u{1f980}".into() }).unwrap();
        good.extend(encode(&Request::Destroy).unwrap());
        good.extend(encode(&Response::Exited { status: ExitStatus::Signaled(9) }).unwrap());
        let (mut messages, mut errors) = (0, 0);
        for _ in 0..50_000 {
            let mut raw = good.clone();
            for _ in 0..next(4) {
                let at = next(raw.len());
                match next(4) {
                    0 => raw.truncate(at.max(1)),
                    1 => raw.insert(at, next(256) as u8),
                    _ => raw[at] = next(256) as u8,
                }
            }
            let mut decoder = Decoder::new();
            'all: for piece in raw.chunks(1 + next(64)) {
                if decoder.push(piece).is_err() {
                    break;
                }
                loop {
                    match decoder.next::<Request>() {
                        Ok(Some(_)) => messages += 1,
                        Ok(None) => break,
                        Err(_) => {
                            errors += 1;
                            assert!(decoder.next::<Request>().is_err());
                            break 'all;
                        }
                    }
                }
            }
        }
        assert!(messages > 10_000 && errors > 10_000, "{messages} messages, {errors} errors");
    }

    #[test]
    fn requests_and_answers_cross_a_socket() {
        let (a, b) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut server = Server::new(b);
            let mut seen = Vec::new();
            while let Some(request) = server.receive().unwrap() {
                seen.push(request);
                server.answer(&Response::Exited { status: ExitStatus::Signaled(9) }).unwrap();
            }
            seen
        });
        let mut client = Client::new(a);
        let wait = Request::Wait { container: "a\nb\u{1f980}".into() };
        assert_eq!(client.call(&wait).unwrap(), Response::Exited { status: ExitStatus::Signaled(9) });
        assert_eq!(
            client.call(&Request::Destroy).unwrap(),
            Response::Exited { status: ExitStatus::Signaled(9) }
        );
        drop(client);
        assert_eq!(server.join().unwrap(), vec![wait, Request::Destroy]);
    }

    #[test]
    fn messages_may_come_in_any_pieces() {
        let wait = Request::Wait { container: "c".into() };
        let mut bytes = encode(&wait).unwrap();
        bytes.extend(encode(&Request::Destroy).unwrap());
        let mut decoder = Decoder::new();
        let mut seen: Vec<Request> = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]).unwrap();
            while let Some(request) = decoder.next().unwrap() {
                seen.push(request);
            }
        }
        assert_eq!(seen, vec![wait, Request::Destroy]);
        assert!(!decoder.is_partial());
    }

    #[test]
    fn garbage_is_an_error_and_stays_one() {
        let lines: [&[u8]; 8] = [
            b"\n",
            b"null\n",
            b"{}\n",
            b"{\"op\":\"fly\"}\n",
            b"{\"op\":\"wait\",\"container\":\"x\",\"more\":1}\n",
            b"{\"op\":\"signal\",\"container\":\"x\",\"signal\":99999999999,\"all\":false}\n",
            b"\xff\xfe\x00\n",
            b"{\"op\":\"destroy\"}{\"op\":\"destroy\"}\n",
        ];
        for line in lines {
            let mut decoder = Decoder::new();
            decoder.push(line).unwrap();
            assert!(matches!(decoder.next::<Request>(), Err(FrameError::Malformed(_))), "{line:?}");
            assert!(decoder.push(b"{\"op\":\"destroy\"}\n").is_err());
            assert!(decoder.next::<Request>().is_err());
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut line = vec![b'['; 1 << 20];
        line.push(b'\n');
        let mut decoder = Decoder::new();
        decoder.push(&line).unwrap();
        assert!(matches!(decoder.next::<Request>(), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn length_is_bounded_both_ways() {
        let mut decoder = Decoder::new();
        let chunk = [b' '; 65536];
        let mut pushed = 0;
        let error = loop {
            if let Err(e) = decoder.push(&chunk).and_then(|()| decoder.next::<Request>().map(|_| ())) {
                break e;
            }
            pushed += chunk.len();
            assert!(pushed <= MAX_MESSAGE);
        };
        assert!(matches!(error, FrameError::TooLong));
        let long = Response::Error { message: "x".repeat(MAX_MESSAGE) };
        assert!(matches!(encode(&long), Err(FrameError::TooLong)));
    }

    #[test]
    fn a_cut_message_is_not_a_clean_end() {
        let mut cut: &[u8] = b"{\"op\":\"destroy\"}";
        assert!(matches!(receive::<_, Request>(&mut cut, &mut Decoder::new()), Err(FrameError::Closed)));
        let mut empty: &[u8] = b"";
        assert!(matches!(receive::<_, Request>(&mut empty, &mut Decoder::new()), Ok(None)));
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(ExitStatus::Exited(3).code(), 3);
        assert_eq!(ExitStatus::Signaled(9).code(), 137);
        assert_eq!(ExitStatus::Signaled(255).code(), 255);
    }
}
