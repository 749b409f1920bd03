//! The runtime's connection to a sentry's control socket.
//!
//! The socket is named through the descriptor of the state directory, because a socket's path may have 107 bytes
//! only. The sentry is not trusted: answers are bounded in size (by the protocol crate) and in time (here).

use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use chitin_control::{Client, Decoder, FrameError, Request, Response, encode};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::launch::own_fd;
use crate::container::{Directory, State};
use crate::util::{Context, Result};

const SOCKET: &str = "control.sock";
const PATIENCE: Duration = Duration::from_secs(10);
/// The start of a process reads files and may have to wait for a busy machine.
const EXEC_PATIENCE: Duration = Duration::from_secs(60);

/// The socket of the sandbox that `directory`'s container belongs to, named through a descriptor of that directory.
fn path(directory: RawFd, sandbox: Option<&str>) -> String {
    match sandbox {
        None => format!("/proc/self/fd/{directory}/{SOCKET}"),
        Some(id) => format!("/proc/self/fd/{directory}/../{id}/{SOCKET}"),
    }
}

/// Makes the socket in a new container's directory.
pub fn listen(directory: &Directory) -> Result<UnixListener> {
    UnixListener::bind(path(directory.file().as_raw_fd(), None))
        .context(|| format!("cannot make {SOCKET} in {}", directory.path().display()))
}

#[derive(Debug)]
pub struct Link {
    client: Client<UnixStream>,
}

impl Link {
    /// To the sentry of a sandbox that `directory` belongs to.
    pub fn open(directory: &Directory) -> Result<Self> {
        Self::connect(directory.file().as_raw_fd(), None)
    }

    /// To the sentry that runs this container, be it its own or its pod's.
    pub fn to(directory: &Directory, state: &State) -> Result<Self> {
        Self::connect(directory.file().as_raw_fd(), state.sandbox.as_deref())
    }

    /// The same through any descriptor of the state directory.
    pub fn connect(directory: RawFd, sandbox: Option<&str>) -> Result<Self> {
        let failed = || "cannot reach the sentry".to_owned();
        let stream = UnixStream::connect(path(directory, sandbox)).context(failed)?;
        let link = Self { client: Client::new(stream) };
        link.be_patient(Some(PATIENCE))?;
        Ok(link)
    }

    /// How long to wait for answers from now on; none for ever.
    pub fn be_patient(&self, patience: Option<Duration>) -> Result<()> {
        let failed = || "cannot set up the connection to the sentry".to_owned();
        self.client.stream().set_read_timeout(patience).context(failed)?;
        self.client.stream().set_write_timeout(patience).context(failed)
    }

    /// Sends a request and waits for its answer; an error that the sentry reports is an error.
    pub fn call(&mut self, request: &Request) -> Result<Response> {
        good(self.client.call(request))
    }

    /// Sends a request whose only good answer is "ok".
    pub fn order(&mut self, request: &Request) -> Result<()> {
        match self.call(request)? {
            Response::Ok => Ok(()),
            other => Err(misfit(&other)),
        }
    }

    /// Sends a request to a sentry that is stopped: it reads it when it goes on, so there is no answer.
    pub fn post(&mut self, request: &Request) -> Result<()> {
        let failed = || "cannot send to the sentry".to_owned();
        self.client.stream().write_all(&encode(request).context(failed)?).context(failed)
    }

    /// The same as [`Self::call`] for a request that comes with descriptors.
    pub fn call_with(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response> {
        self.be_patient(Some(EXEC_PATIENCE))?;
        let failed = || "cannot send to the sentry".to_owned();
        let bytes = encode(request).context(failed)?;
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = sendmsg::<()>(
            self.client.stream().as_raw_fd(),
            &[IoSlice::new(&bytes)],
            &[ControlMessage::ScmRights(&numbers)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .context(failed)?;
        let mut stream = self.client.stream();
        stream.write_all(bytes.get(sent..).unwrap_or_default()).context(failed)?;
        let answer = good(self.client.receive());
        self.be_patient(Some(PATIENCE))?;
        answer
    }

    /// Sends a request whose answer comes with a descriptor.
    pub fn call_for_fd(&mut self, request: &Request) -> Result<(Response, Option<OwnedFd>)> {
        let failed = || "cannot send to the sentry".to_owned();
        let mut stream = self.client.stream();
        stream.write_all(&encode(request).context(failed)?).context(failed)?;
        let mut decoder = Decoder::new();
        let mut received = None;
        loop {
            let mut chunk = [0u8; 4096];
            let mut space = nix::cmsg_space!([RawFd; 4]);
            let mut parts = [IoSliceMut::new(&mut chunk)];
            let message =
                recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
                    .context(silent)?;
            for control in message.cmsgs().context(silent)? {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    // All of them become ours, so that none leaks; one is expected.
                    for fd in fds {
                        received = Some(own_fd(fd).context(silent)?);
                    }
                }
            }
            let length = message.bytes;
            if length == 0 {
                return Err("the sentry does not answer: it has closed the connection".into());
            }
            decoder.push(chunk.get(..length).unwrap_or_default()).context(silent)?;
            if let Some(response) = decoder.next().context(silent)? {
                return good(Ok(response)).map(|response| (response, received));
            }
        }
    }

    /// The connection itself, for a process that shall inherit it.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.stream().as_fd()
    }
}

fn silent() -> String {
    "the sentry does not answer".into()
}

fn good(answer: std::result::Result<Response, FrameError>) -> Result<Response> {
    match answer {
        Ok(Response::Error { message }) => Err(message),
        Ok(other) => Ok(other),
        Err(e) => Err(format!("the sentry does not answer: {e}")),
    }
}

/// An answer of the wrong kind.
pub fn misfit(answer: &Response) -> String {
    format!("the sentry gave an answer that does not fit: {answer:?}")
}
