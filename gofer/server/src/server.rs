//! The running gofer: channels, their threads, and which handler answers which request.
//!
//! The client is hostile. A malformed packet is answered with `EPROTO`; descriptors it attaches never
//! reach us; one that does not read its replies blocks its own thread only. The gofer ends when the
//! control channel, the first one, is closed.
//!
//! Locks: `renaming` before `tree`; `tree` and `dirs` are leaves, and no file system call is made under
//! them. `renaming` is held over a rename, so that the host and the table see renames in one order.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chitin_gofer_protocol::transport::{self, TransportError};
use chitin_gofer_protocol::{CHANNELS_MAX, NodeAttr, REPLY_MAX, REQUEST_MAX, Request, begin_error, begin_ok};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use parking_lot::Mutex;

use crate::error::Error;
use crate::host;
use crate::ops::dir::DirCache;
use crate::tree::{Key, Tree};

/// Descriptors that are not for the node cache: channels, opens on their way to the client, logs.
const RESERVED_FDS: usize = 256;
/// Stack of a channel's thread; handlers keep their large buffers on the heap.
const STACK: usize = 256 * 1024;

/// A donated tree (or single file) that is ready to be served.
#[derive(Debug)]
pub struct Root {
    /// `O_PATH` descriptor of its top.
    pub fd: OwnedFd,
    pub readonly: bool,
    pub recursive: bool,
}

/// Bounds on what a client can make the gofer hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nodes, with or without a descriptor.
    pub nodes: usize,
    /// Descriptors cached for nodes; what `RLIMIT_NOFILE` leaves room for, if that is less.
    pub open: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { nodes: 1 << 20, open: 4096 }
    }
}

/// One thread's buffers.
#[derive(Debug, Default)]
pub struct Scratch {
    pub reply: Vec<u8>,
    /// For what is read from the host before it is put into the reply.
    pub data: Vec<u8>,
}

#[derive(Debug)]
pub struct Server {
    pub(crate) roots: Vec<RootInfo>,
    pub(crate) tree: Mutex<Tree>,
    pub(crate) renaming: Mutex<()>,
    pub(crate) dirs: Mutex<DirCache>,
    /// The process's own descriptor directory, see [`Server::open_again`].
    pub(crate) own_fds: OwnedFd,
    pub(crate) own_fds_path: &'static str,
    channels: AtomicUsize,
}

#[derive(Debug)]
pub struct RootInfo {
    pub readonly: bool,
    pub recursive: bool,
    pub key: Key,
}

impl Server {
    /// Prepares to serve `roots`. `own_fds_path` is where `/proc/self/fd` is found.
    pub fn new(roots: Vec<Root>, own_fds_path: &'static str, limits: Limits) -> Result<Arc<Server>, Error> {
        let room = nofile_limit()?.saturating_sub(RESERVED_FDS).saturating_sub(roots.len());
        let mut tree = Tree::new(limits.nodes, limits.open.min(room).max(16));
        let own_fds =
            open(own_fds_path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|errno| {
                    Error::host("open the gofer's own descriptor directory", own_fds_path, errno)
                })?;
        let mut infos = Vec::with_capacity(roots.len());
        for (index, root) in roots.into_iter().enumerate() {
            let attr = host::statx(root.fd.as_fd(), c"")
                .map_err(|errno| Error::host("read the attributes of root", &index.to_string(), errno))?;
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            let key = tree
                .add_root(number, &attr, Arc::new(root.fd))
                .map_err(|errno| Error::host("enter root", &index.to_string(), errno))?;
            infos.push(RootInfo { readonly: root.readonly, recursive: root.recursive, key });
        }
        Ok(Arc::new(Server {
            roots: infos,
            tree: Mutex::new(tree),
            renaming: Mutex::new(()),
            dirs: Mutex::new(DirCache::default()),
            own_fds,
            own_fds_path,
            channels: AtomicUsize::new(0),
        }))
    }

    /// Serves the channel on the calling thread until the client closes it.
    pub fn serve(self: &Arc<Self>, socket: OwnedFd) {
        self.channels.fetch_add(1, Ordering::Relaxed);
        self.converse(&socket);
        self.channels.fetch_sub(1, Ordering::Relaxed);
    }

    /// Nodes and cached descriptors that exist at this moment.
    pub fn usage(&self) -> (usize, usize) {
        let tree = self.tree.lock();
        (tree.len(), tree.open())
    }

    fn converse(self: &Arc<Self>, socket: &OwnedFd) {
        let mut request = vec![0; REQUEST_MAX];
        let mut scratch = Scratch::default();
        loop {
            let outcome = match transport::recv(socket.as_fd(), &mut request) {
                Ok(packet) => match Request::decode(packet) {
                    Ok(request) => self.answer(&request, &mut scratch),
                    Err(malformed) => {
                        tracing::warn!(rule = malformed.0, "malformed request from the sentry refused");
                        Err(Errno::EPROTO)
                    }
                },
                Err(TransportError::Truncated) => Err(Errno::EPROTO),
                Err(TransportError::Closed) => return,
                Err(TransportError::Errno(errno)) => {
                    tracing::error!(%errno, "a channel to the sentry failed and is closed");
                    return;
                }
            };
            let fd = outcome.unwrap_or_else(|errno| {
                begin_error(&mut scratch.reply, errno as i32);
                None
            });
            let fd = fd.as_ref().map(AsFd::as_fd);
            match transport::send(socket.as_fd(), &scratch.reply, fd) {
                Ok(()) => {}
                Err(TransportError::Errno(
                    errno @ (Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM),
                )) => {
                    // Too many descriptors under way, or no memory: the client may try again.
                    begin_error(&mut scratch.reply, errno as i32);
                    if transport::send(socket.as_fd(), &scratch.reply, None).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Carries a request out and writes its reply into `scratch`; on an error the caller does.
    fn answer(
        self: &Arc<Self>,
        request: &Request<'_>,
        scratch: &mut Scratch,
    ) -> Result<Option<OwnedFd>, Errno> {
        if let Request::Channel = request {
            let fd = self.add_channel()?;
            begin_ok(&mut scratch.reply).finish().map_err(|_| Errno::EMSGSIZE)?;
            return Ok(Some(fd));
        }
        self.handle(request, scratch)
    }

    /// Starts a thread for a further channel and returns the client's end.
    fn add_channel(self: &Arc<Self>) -> Result<OwnedFd, Errno> {
        let taken = self.channels.fetch_add(1, Ordering::Relaxed);
        let started = if taken >= CHANNELS_MAX { Err(Errno::EAGAIN) } else { self.start_channel() };
        if started.is_err() {
            self.channels.fetch_sub(1, Ordering::Relaxed);
        }
        started
    }

    fn start_channel(self: &Arc<Self>) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = self.with_room(transport::channel)?;
        let server = Arc::clone(self);
        std::thread::Builder::new()
            .name("channel".into())
            .stack_size(STACK)
            .spawn(move || {
                server.converse(&ours);
                server.channels.fetch_sub(1, Ordering::Relaxed);
            })
            .map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))?;
        Ok(theirs)
    }

    pub(crate) fn attach(&self, root: u32) -> Result<NodeAttr, Errno> {
        let info = self.roots.get(root as usize).ok_or(Errno::ENOENT)?;
        let fd = {
            let mut tree = self.tree.lock();
            tree.reference(info.key)?;
            tree.get(info.key)?.fd.ok_or(Errno::ESTALE)?
        };
        let attr = host::statx(fd.as_fd(), c"")?;
        Ok(NodeAttr { node: info.key.id(), attr })
    }
}

/// How many descriptors this process may have.
fn nofile_limit() -> Result<usize, Error> {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map_err(|errno| Error::host("read the limit of open files", "RLIMIT_NOFILE", errno))?;
    Ok(usize::try_from(soft).unwrap_or(usize::MAX))
}

const _: () = assert!(REPLY_MAX < 128 * 1024, "a reply must fit the default socket buffer in one piece");
