//! What sendmsg(2) and recvmsg(2) carry between the system calls and the families.
//!
//! Both are kept by the caller over the attempts of one call: an operation that had to wait goes on where it was, since
//! the source, the sink and what was collected so far live here.

use crate::{Control, SockAddr};
use chitin_abi::Errno;
use chitin_abi::socket::{MSG_OOB, MSG_TRUNC};
use chitin_mm::{Sink, Source};
use chitin_vfs::{Context, FileOps};
use std::sync::Arc;

/// What is waited for with POLLOUT when it is not the socket itself.
pub type WaitOn = Option<Arc<dyn FileOps>>;

/// A message to send.
pub struct SendMsg<'a> {
    pub data: &'a mut dyn Source,
    /// Taken by the first attempt that sends anything.
    pub control: Control,
    pub dest: Option<SockAddr>,
    /// MSG_*.
    pub flags: u32,
    /// Who sends, where that matters ([`crate::SocketFile::asks_who_sends`]); `None` there: whoever made the socket, and
    /// `dest` must be `None`.
    pub ctx: Option<&'a Context>,
    /// RLIMIT_NOFILE of the sender, or `usize::MAX` with CAP_SYS_RESOURCE or CAP_SYS_ADMIN: how many descriptors may be
    /// on the way for its user (ETOOMANYREFS).
    pub rights_limit: usize,
    /// Bytes that earlier attempts of this call have sent.
    pub sent: usize,
    /// Set with EAGAIN when the receiver's queue is full: wait for POLLOUT of this instead of the socket.
    pub wait_on: WaitOn,
}

impl<'a> SendMsg<'a> {
    pub fn new(data: &'a mut dyn Source, flags: u32) -> SendMsg<'a> {
        SendMsg {
            data,
            control: Control::default(),
            dest: None,
            flags,
            ctx: None,
            rights_limit: usize::MAX,
            sent: 0,
            wait_on: None,
        }
    }
}

/// A message to receive, and what came so far.
pub struct RecvMsg<'a> {
    pub data: &'a mut dyn Sink,
    /// MSG_* asked for. MSG_DONTWAIT: the caller will not wait (set it for O_NONBLOCK too).
    pub flags: u32,
    /// Bytes put into `data`, over all attempts.
    pub count: usize,
    pub addr: Option<SockAddr>,
    pub control: Control,
    /// MSG_TRUNC and the like, for msg_flags.
    pub out_flags: u32,
    /// The call is over however much was asked for: end of stream, a boundary, ancillary data.
    pub done: bool,
    /// Credentials that all bytes of this call must share.
    pub(crate) same_creds: Option<Option<chitin_abi::socket::Ucred>>,
}

impl<'a> RecvMsg<'a> {
    pub fn new(data: &'a mut dyn Sink, flags: u32) -> RecvMsg<'a> {
        RecvMsg {
            data,
            flags,
            count: 0,
            addr: None,
            control: Control::default(),
            out_flags: 0,
            done: false,
            same_creds: None,
        }
    }

    /// Puts the urgent byte of a stream, which MSG_OOB asked for; answers how many bytes that is, room or not (tcp_recv_urg()).
    pub(crate) fn put_urgent(&mut self, byte: u8) -> Result<usize, Errno> {
        self.done = true;
        self.out_flags |= MSG_OOB;
        if self.data.room() == 0 {
            self.out_flags |= MSG_TRUNC;
            return Ok(0);
        }
        if self.flags & MSG_TRUNC == 0 {
            self.data.put(&[byte])?;
        }
        self.count = 1;
        Ok(1)
    }
}

/// What a [`RecvMsg`] holds beside its sink, between the attempts of a call that waits.
#[derive(Default)]
pub struct Received {
    /// As in [`RecvMsg`], like all that follows.
    pub flags: u32,
    pub count: usize,
    pub addr: Option<SockAddr>,
    pub control: Control,
    pub out_flags: u32,
    pub done: bool,
    same_creds: Option<Option<chitin_abi::socket::Ucred>>,
}

impl Received {
    /// Nothing yet.
    pub fn new(flags: u32) -> Received {
        let mut received = Received::default();
        received.flags = flags;
        received
    }

    /// One attempt that goes on where the last one left off.
    pub fn attempt<T>(&mut self, data: &mut dyn Sink, attempt: impl FnOnce(&mut RecvMsg<'_>) -> T) -> T {
        let mut msg = RecvMsg {
            data,
            flags: self.flags,
            count: self.count,
            addr: self.addr.take(),
            control: std::mem::take(&mut self.control),
            out_flags: self.out_flags,
            done: self.done,
            same_creds: self.same_creds.take(),
        };
        let answer = attempt(&mut msg);
        let RecvMsg { data: _, flags, count, addr, control, out_flags, done, same_creds } = msg;
        (self.flags, self.count, self.addr, self.control) = (flags, count, addr, control);
        (self.out_flags, self.done, self.same_creds) = (out_flags, done, same_creds);
        answer
    }
}

/// Descriptors that nobody took are dropped, once nothing is locked.
impl Drop for Received {
    fn drop(&mut self) {
        crate::trash::discard(std::mem::take(&mut self.control.rights));
    }
}
