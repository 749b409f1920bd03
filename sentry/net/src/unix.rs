//! AF_UNIX (unix(7)): streams, datagrams and sequenced packets between guests.
//!
//! A socket's receive queue is a ring of messages, each in a buffer of its own that the sender filled before it locked
//! anything; the receiver copies from there to the guest. Memory is charged to the sender's SO_SNDBUF as Linux does it,
//! overhead included, so that a queue is full where Linux's is.
//!
//! Modules: [`message`] buffers and charges, [`name`] binding and finding, [`link`] connections, [`send`], [`recv`],
//! [`gc`] descriptors on their way.
//!
//! Locks: `UnixSock::bind_lock` → `State`. Two states are locked in the order of their addresses ([`lock_pair`]). The
//! queue of a socket is only touched under its state's lock; files are dropped with nothing locked.

mod gc;
mod link;
pub(crate) mod list;
mod message;
mod name;
mod recv;
mod send;

pub use gc::in_flight;
pub use list::proc_net_unix;

use crate::msg::{RecvMsg, SendMsg, WaitOn};
use crate::options::Common;
use crate::socket::{Family, PeerCred, SocketOps, sender_cred};
use crate::{NetNs, SockAddr, UnixAddr};
use chitin_abi::Errno;
use chitin_abi::poll::*;
use chitin_abi::socket::*;
use chitin_vfs::bounds::{Share, UNIX_SOCKETS};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Context, File, FileOps, Path, PollTable, WaitQueue};
use message::{Message, Shared};
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

const IN: u32 = POLLIN | POLLRDNORM;
const OUT: u32 = POLLOUT | POLLWRNORM | POLLWRBAND;
const ALL: u32 = IN | OUT | POLLRDHUP | POLLHUP | POLLERR;

/// Bits of `State::shutdown`.
const RCV: u32 = 1;
const SEND: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Listening,
    Connected,
}

/// An AF_UNIX socket.
pub struct UnixSock {
    common: Common,
    me: Weak<UnixSock>,
    /// What its messages keep of it: its name, its send budget, who waits on it.
    shared: Arc<Shared>,
    /// Who waits for room in its queue or its backlog (Linux's peer_wait).
    room: WaitQueue,
    /// Serialises bind(2).
    bind_lock: Mutex<()>,
    _counted: Share,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// Released: nobody has it open.
    dead: bool,
    peer: Option<Arc<UnixSock>>,
    shutdown: u32,
    error: Option<Errno>,
    queue: VecDeque<Message>,
    /// Connections to be accepted.
    pending: VecDeque<Arc<UnixSock>>,
    /// Messages (or connections) beyond which it counts as full (sk_max_ack_backlog).
    backlog: usize,
    /// Where it is bound in the file system: keeps the inode.
    place: Option<Path>,
    peer_cred: Option<PeerCred>,
}

type Guard<'a> = MutexGuard<'a, State>;

/// Locks two sockets' states in a fixed order; the second is `None` if they are one.
fn lock_pair<'a>(a: &'a UnixSock, b: &'a UnixSock) -> (Guard<'a>, Option<Guard<'a>>) {
    if std::ptr::eq(a, b) {
        return (a.state.lock(), None);
    }
    if std::ptr::from_ref(a) < std::ptr::from_ref(b) {
        let first = a.state.lock();
        (first, Some(b.state.lock()))
    } else {
        let second = b.state.lock();
        (a.state.lock(), Some(second))
    }
}

fn is_peer(peer: &Option<Arc<UnixSock>>, of: &UnixSock) -> bool {
    peer.as_ref().is_some_and(|peer| std::ptr::eq(&**peer, of))
}

impl UnixSock {
    /// ENFILE when there are too many.
    fn new(ns: &Arc<NetNs>, kind: u32, creator: Ucred) -> Result<Arc<UnixSock>, Errno> {
        let counted = UNIX_SOCKETS.share(1).ok_or(Errno::ENFILE)?;
        let common = Common::new(ns, AF_UNIX, kind, 0, creator);
        let shared = Arc::new(Shared::new(common.sndbuf.clone()));
        let backlog = ns.stack.sysctls.max_dgram_qlen.size();
        let cookie = common.cookie();
        let sock = Arc::new_cyclic(|me| UnixSock {
            common,
            me: me.clone(),
            shared,
            room: WaitQueue::new(),
            bind_lock: Mutex::new(()),
            _counted: counted,
            state: Mutex::new(State {
                phase: Phase::Closed,
                dead: false,
                peer: None,
                shutdown: 0,
                error: None,
                queue: VecDeque::new(),
                pending: VecDeque::new(),
                backlog,
                place: None,
                peer_cred: None,
            }),
        });
        ns.unix.lock().insert(cookie, Arc::downgrade(&sock));
        Ok(sock)
    }

    fn kind(&self) -> u32 {
        self.common.kind
    }
    fn connection_based(&self) -> bool {
        self.kind() != SOCK_DGRAM
    }
    fn addr(&self) -> Option<&UnixAddr> {
        self.shared.addr.get()
    }
    fn sockaddr(&self) -> SockAddr {
        SockAddr::Unix(self.addr().cloned().unwrap_or(UnixAddr::Unnamed))
    }
    /// Tells who waits on this socket.
    fn wake(&self, events: u32) {
        self.shared.queue.wake(events);
    }

    /// Whether nothing more fits for those that are not its peer.
    fn full(state: &State) -> bool {
        match state.phase {
            Phase::Listening => state.pending.len() > state.backlog,
            _ => state.queue.len() > state.backlog,
        }
    }

    /// unix_release_sock(). `embryo`: it was never accepted.
    fn close(self: Arc<Self>, embryo: bool) {
        let (peer, queue, pending, place, unread);
        {
            let mut state = self.state.lock();
            if state.dead {
                return;
            }
            state.dead = true;
            state.shutdown = RCV | SEND;
            state.phase = Phase::Closed;
            peer = state.peer.take();
            queue = std::mem::take(&mut state.queue);
            pending = std::mem::take(&mut state.pending);
            place = state.place.take();
            unread = !queue.is_empty() || embryo;
        }
        self.forget_name();
        self.common.ns.unix.lock().remove(&self.common.cookie());
        self.room.wake(ALL);
        self.wake(ALL);
        if let Some(peer) = peer
            && self.connection_based()
        {
            {
                let mut state = peer.state.lock();
                state.shutdown = RCV | SEND;
                if unread && !state.dead {
                    state.error = Some(Errno::ECONNRESET);
                }
            }
            peer.wake(ALL);
            peer.room.wake(ALL);
        }
        for embryo in pending {
            embryo.close(true);
        }
        drop(queue);
        drop(place);
        gc::hint();
    }
}

impl SocketOps for UnixSock {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(self: Arc<Self>, ctx: &Context, addr: &SockAddr) -> Result<(), Errno> {
        self.bind_to(ctx, addr)
    }
    fn connect(self: Arc<Self>, ctx: &Context, addr: &SockAddr, wait_on: &mut WaitOn) -> Result<(), Errno> {
        match self.kind() {
            SOCK_DGRAM => self.connect_datagram(ctx, addr),
            _ => self.connect_stream(ctx, addr, wait_on),
        }
    }
    fn listen(&self, backlog: u32, caller: &Caller) -> Result<(), Errno> {
        self.start_listening(backlog, caller)
    }
    fn accept(&self) -> Result<Arc<dyn SocketOps>, Errno> {
        Ok(self.accept_one()?)
    }
    fn sendmsg(&self, msg: &mut SendMsg<'_>) -> Result<usize, Errno> {
        match self.kind() {
            SOCK_STREAM => self.send_stream(msg),
            SOCK_SEQPACKET => self.send_packet(msg),
            _ => self.send_datagram(msg),
        }
    }
    fn recvmsg(&self, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        match self.kind() {
            SOCK_STREAM => self.recv_stream(msg),
            _ => self.recv_datagram(msg),
        }
    }

    /// Succeeds whether connected or not, as Linux's does.
    fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let bits = (how + 1) & (RCV | SEND);
        let peer = {
            let mut state = self.state.lock();
            state.shutdown |= bits;
            state.peer.clone()
        };
        if let Some(peer) = peer
            && self.connection_based()
        {
            let theirs = (bits & RCV) << 1 | (bits & SEND) >> 1;
            peer.state.lock().shutdown |= theirs;
            peer.wake(ALL);
        }
        self.wake(ALL);
        self.room.wake(ALL);
        Ok(())
    }

    fn getsockname(&self) -> Result<SockAddr, Errno> {
        Ok(self.sockaddr())
    }
    fn getpeername(&self) -> Result<SockAddr, Errno> {
        let peer = self.state.lock().peer.clone().ok_or(Errno::ENOTCONN)?;
        Ok(peer.sockaddr())
    }

    fn input_queued(&self) -> Result<usize, Errno> {
        let state = self.state.lock();
        if state.phase == Phase::Listening {
            return Err(Errno::EINVAL);
        }
        let mut lengths = state.queue.iter().map(Message::len);
        Ok(if self.connection_based() { lengths.sum() } else { lengths.next().unwrap_or(0) })
    }
    fn output_queued(&self) -> Result<usize, Errno> {
        Ok(self.shared.used())
    }

    fn poll(&self, mut table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = &mut table {
            table.add(&self.shared.queue);
        }
        let (mut mask, peer) = {
            let state = self.state.lock();
            let mut mask = 0;
            if state.error.is_some() {
                mask |= POLLERR;
            }
            if state.shutdown == RCV | SEND {
                mask |= POLLHUP;
            }
            if state.shutdown & RCV != 0 {
                mask |= POLLRDHUP | IN;
            }
            if !state.queue.is_empty() || !state.pending.is_empty() {
                mask |= IN;
            }
            if self.connection_based() && state.phase == Phase::Closed {
                mask |= POLLHUP;
            }
            if state.phase != Phase::Listening && self.shared.writable() {
                mask |= OUT;
            }
            (mask, if self.connection_based() { None } else { state.peer.clone() })
        };
        if let Some(peer) = peer
            && mask & OUT != 0
            && !std::ptr::eq(&*peer, self)
        {
            if let Some(table) = &mut table {
                table.add(&peer.room);
            }
            let state = peer.state.lock();
            if !state.dead && !is_peer(&state.peer, self) && UnixSock::full(&state) {
                mask &= !OUT;
            }
        }
        mask
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }
    fn listening(&self) -> bool {
        self.state.lock().phase == Phase::Listening
    }
    fn peer_cred(&self) -> Option<PeerCred> {
        self.state.lock().peer_cred.clone()
    }
    fn memory(&self) -> (usize, usize) {
        (0, self.shared.used())
    }
    fn buffers_changed(&self) {
        if self.shared.writable() {
            self.wake(OUT);
        }
    }
    fn release(self: Arc<Self>) {
        self.close(false);
    }
}

/// What a sender or a connecting socket waits on while another socket's queue is full.
struct PeerRoom(Arc<UnixSock>);

impl FileOps for PeerRoom {
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.0.room);
        }
        let state = self.0.state.lock();
        let closed = state.dead || state.shutdown & RCV != 0;
        if closed || !UnixSock::full(&state) { OUT } else { 0 }
    }
}

/// Makes AF_UNIX sockets.
pub struct UnixFamily;

impl UnixFamily {
    fn make(ns: &Arc<NetNs>, kind: u32, protocol: u32, caller: &Caller) -> Result<Arc<UnixSock>, Errno> {
        if protocol != 0 && protocol != AF_UNIX {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let kind = match kind {
            SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET => kind,
            // "Believe it or not BSD has AF_UNIX, SOCK_RAW though nothing uses it."
            SOCK_RAW => SOCK_DGRAM,
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        };
        // Whichever was asked for, SO_PROTOCOL shows 0.
        UnixSock::new(ns, kind, sender_cred(caller))
    }
}

impl Family for UnixFamily {
    fn create(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<Arc<dyn SocketOps>, Errno> {
        Ok(UnixFamily::make(ns, kind, protocol, caller)?)
    }

    fn pair(
        &self,
        ns: &Arc<NetNs>,
        kind: u32,
        protocol: u32,
        caller: &Caller,
    ) -> Result<[Arc<dyn SocketOps>; 2], Errno> {
        let a = UnixFamily::make(ns, kind, protocol, caller)?;
        let b = UnixFamily::make(ns, kind, protocol, caller)?;
        for (one, other) in [(&a, &b), (&b, &a)] {
            let mut state = one.state.lock();
            state.peer = Some(other.clone());
            state.phase = Phase::Connected;
            state.peer_cred = Some(PeerCred::of(caller));
        }
        Ok([a, b])
    }
}

/// The AF_UNIX socket behind a file, if it is one.
fn of_file(file: &File) -> Option<&UnixSock> {
    let socket = file.downcast::<crate::SocketFile>()?;
    (&**socket.ops() as &dyn std::any::Any).downcast_ref()
}
