//! The sentry's end: a pool of channels behind `&self` methods.
//!
//! The first channel is kept for control (it asks for further ones), so that a new channel can be had
//! while all others wait for slow files. Idle channels are taken last in, first out: a quiet container
//! keeps one gofer thread warm. A channel whose conversation broke off is never used again.
//!
//! Locks: `pool`, `control` and `forgotten` are leaves; only `pool` and `control` may be held one in
//! the other (control first). None is held while a call waits on an ordinary channel.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};

use crate::error::{GoferError, Result};
use crate::reply::ReplyHead;
use crate::request::{Nodes, Request};
use crate::transport::{self, Inbox, TransportError};
use crate::wire::{Malformed, Reader};
use crate::{CHANNELS_MAX, CLOSE_MAX, NodeId};

/// How many forgotten nodes are gathered before they are sent.
const FORGET_BATCH: usize = 64;

/// A connection to one container's gofer.
pub struct Client {
    control: Mutex<Channel>,
    pool: Mutex<Pool>,
    returned: Condvar,
    forgotten: Mutex<Vec<NodeId>>,
}

struct Pool {
    idle: Vec<Channel>,
    /// Channels that exist apart from the control channel, idle or in use.
    total: usize,
    limit: usize,
    gone: bool,
}

struct Channel {
    socket: OwnedFd,
    outbox: Vec<u8>,
    inbox: Inbox,
}

impl Channel {
    fn new(socket: OwnedFd) -> Self {
        Channel { socket, outbox: Vec::new(), inbox: Inbox::default() }
    }

    /// One request and its reply. The outer error means that the channel is not usable any more.
    fn converse<T>(
        &mut self,
        request: &Request<'_>,
        parse: impl FnOnce(&mut Reader<'_>, Option<OwnedFd>) -> std::result::Result<T, Malformed>,
    ) -> std::result::Result<Result<T>, GoferError> {
        if request.encode(&mut self.outbox).is_err() {
            return Ok(Err(GoferError::Protocol("a request larger than its fields admit")));
        }
        transport::send(self.socket.as_fd(), &self.outbox, None)?;
        let (packet, fd) = match self.inbox.recv(self.socket.as_fd()) {
            // The reply was taken off, only its descriptor could not be installed.
            Err(TransportError::Errno(Errno::EMFILE)) => return Ok(Err(GoferError::Errno(libc::EMFILE))),
            received => received?,
        };
        match ReplyHead::decode(packet)? {
            Err(errno) => Ok(Err(GoferError::Errno(errno))),
            Ok(mut body) => {
                let value = parse(&mut body, fd)?;
                body.end()?;
                Ok(Ok(value))
            }
        }
    }
}

impl From<Malformed> for GoferError {
    fn from(error: Malformed) -> Self {
        GoferError::Protocol(error.0)
    }
}

impl From<TransportError> for GoferError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Closed => GoferError::Gone,
            TransportError::Truncated => GoferError::Protocol("a reply larger than agreed"),
            // The descriptor table or memory of this process is exhausted; nothing else is expected.
            TransportError::Errno(errno) => GoferError::Errno(errno as i32),
        }
    }
}

impl Client {
    /// Starts to talk over the control channel, one end of the socketpair the gofer was started with.
    pub fn new(socket: OwnedFd) -> Client {
        Client::with_channels(socket, CHANNELS_MAX.saturating_sub(1))
    }

    /// The same with at most `channels` conversations at a time.
    pub fn with_channels(socket: OwnedFd, channels: usize) -> Client {
        let limit = channels.clamp(1, CHANNELS_MAX.saturating_sub(1));
        Client {
            control: Mutex::new(Channel::new(socket)),
            pool: Mutex::new(Pool { idle: Vec::new(), total: 0, limit, gone: false }),
            returned: Condvar::new(),
            forgotten: Mutex::new(Vec::new()),
        }
    }

    /// Whether the gofer is known to be dead.
    pub fn is_gone(&self) -> bool {
        self.pool.lock().gone
    }

    /// Remembers that `node` is no longer needed; it is closed together with others later.
    pub fn forget(&self, node: NodeId) {
        let batch = {
            let mut forgotten = self.forgotten.lock();
            forgotten.push(node);
            if forgotten.len() < FORGET_BATCH {
                return;
            }
            std::mem::take(&mut *forgotten)
        };
        // Nobody waits for the outcome: if the gofer is gone, so are its nodes.
        let _ = self.close(&batch);
    }

    /// A reference to `node` that forgets it when dropped.
    pub fn guard(&self, node: NodeId) -> Forget<'_> {
        Forget { client: self, node: Some(node) }
    }

    /// Closes what [`Client::forget`] has gathered.
    pub fn flush_forgotten(&self) -> Result<()> {
        let batch = std::mem::take(&mut *self.forgotten.lock());
        self.close(&batch)
    }

    /// Gives back one reference per listed node. Unknown nodes are ignored by the gofer.
    pub fn close(&self, nodes: &[NodeId]) -> Result<()> {
        for batch in nodes.chunks(CLOSE_MAX) {
            self.call(&Request::Close { nodes: Nodes::List(batch) }, no_fd(|_| Ok(())))?;
        }
        Ok(())
    }

    /// One call on any free channel.
    pub(crate) fn call<T>(
        &self,
        request: &Request<'_>,
        parse: impl FnOnce(&mut Reader<'_>, Option<OwnedFd>) -> std::result::Result<T, Malformed>,
    ) -> Result<T> {
        let mut channel = self.acquire()?;
        match channel.converse(request, parse) {
            Ok(outcome) => {
                self.release(channel);
                outcome
            }
            Err(error) => {
                drop(channel);
                self.lost(error);
                Err(error)
            }
        }
    }

    fn acquire(&self) -> Result<Channel> {
        let mut pool = self.pool.lock();
        loop {
            if pool.gone {
                return Err(GoferError::Gone);
            }
            if let Some(channel) = pool.idle.pop() {
                return Ok(channel);
            }
            if pool.total < pool.limit {
                pool.total = pool.total.saturating_add(1);
                drop(pool);
                match self.open_channel() {
                    Ok(socket) => return Ok(Channel::new(socket)),
                    Err(error) => {
                        self.lost(error);
                        pool = self.pool.lock();
                        // With other channels about, wait for one of them instead; without any, fail.
                        if pool.total == 0 || !matches!(error, GoferError::Errno(_)) {
                            return Err(error);
                        }
                        pool.limit = pool.total;
                    }
                }
            } else {
                self.returned.wait(&mut pool);
            }
        }
    }

    fn open_channel(&self) -> Result<OwnedFd> {
        let mut control = self.control.lock();
        control
            .converse(&Request::Channel, |_, fd| fd.ok_or(Malformed("a new channel without a descriptor")))?
    }

    fn release(&self, channel: Channel) {
        self.pool.lock().idle.push(channel);
        self.returned.notify_one();
    }

    /// Takes a broken channel out of the count.
    fn lost(&self, error: GoferError) {
        let mut pool = self.pool.lock();
        pool.total = pool.total.saturating_sub(1);
        if error == GoferError::Gone {
            pool.gone = true;
            pool.idle.clear();
            self.returned.notify_all();
        } else {
            self.returned.notify_one();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.pool.lock();
        f.debug_struct("Client")
            .field("channels", &pool.total)
            .field("idle", &pool.idle.len())
            .field("gone", &pool.gone)
            .finish()
    }
}

/// Holds one reference to a node and forgets it when dropped, see [`Client::guard`].
#[derive(Debug)]
pub struct Forget<'a> {
    client: &'a Client,
    node: Option<NodeId>,
}

impl Forget<'_> {
    /// Keeps the reference: the caller is now the one to close it.
    pub fn keep(mut self) -> Option<NodeId> {
        self.node.take()
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.client.forget(node);
        }
    }
}

/// A parser for a reply that must not bring a descriptor.
pub(crate) fn no_fd<T>(
    parse: impl FnOnce(&mut Reader<'_>) -> std::result::Result<T, Malformed>,
) -> impl FnOnce(&mut Reader<'_>, Option<OwnedFd>) -> std::result::Result<T, Malformed> {
    move |r, fd| match fd {
        None => parse(r),
        Some(_) => Err(Malformed("a descriptor that was not asked for")),
    }
}
