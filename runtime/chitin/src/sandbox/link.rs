//! The runtime's connection to a sentry's control socket.
//!
//! The socket is named through the descriptor of the state directory, because a socket's path may have 107 bytes
//! only. The sentry is not trusted: answers are bounded in size (by the protocol crate) and in time (here).

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use chitin_control::{Client, Request, Response};

use crate::container::Directory;
use crate::util::{Context, Result};

const SOCKET: &str = "control.sock";
const PATIENCE: Duration = Duration::from_secs(10);

fn path(directory: &Directory) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", directory.file().as_raw_fd())
}

/// Makes the socket in a new container's directory.
pub fn listen(directory: &Directory) -> Result<UnixListener> {
    UnixListener::bind(path(directory))
        .context(|| format!("cannot make {SOCKET} in {}", directory.path().display()))
}

#[derive(Debug)]
pub struct Link {
    client: Client<UnixStream>,
}

impl Link {
    pub fn open(directory: &Directory) -> Result<Self> {
        let failed = || "cannot reach the sentry".to_owned();
        let stream = UnixStream::connect(path(directory)).context(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).context(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).context(failed)?;
        Ok(Self { client: Client::new(stream) })
    }

    /// Sends a request whose only good answer is "ok".
    pub fn order(&mut self, request: &Request) -> Result<()> {
        match self.client.call(request) {
            Ok(Response::Ok) => Ok(()),
            Ok(Response::Error { message }) => Err(message),
            Ok(other) => Err(format!("the sentry gave an answer that does not fit: {other:?}")),
            Err(e) => Err(format!("the sentry does not answer: {e}")),
        }
    }
}
