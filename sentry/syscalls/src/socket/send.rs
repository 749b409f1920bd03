//! sendto, sendmsg, sendmmsg, and write(2) on sockets.

use super::many::{Messages, Writes};
use super::wait::Patience;
use super::{MAX_ADDR, lookup, read_addr};
use crate::Args;
use crate::io::raise;
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use chitin_abi::limits::IOV_MAX;
use chitin_abi::num::low32;
use chitin_abi::signal::SIGPIPE;
use chitin_abi::socket::*;
use chitin_kernel::task::count;
use chitin_kernel::{Outcome, SysError, SysResult, Task};
use chitin_mm::{Mm, Source, UserIo};
use chitin_net::{Control, SendMsg, SockAddr, SocketFile, WaitOn, trash};
use chitin_vfs::{Context, Creds, File};
use std::mem::offset_of;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Control messages of one call, in bytes (net.core.optmem_max).
const OPTMEM_MAX: u64 = 131_072;
/// A flag of the kernel's own.
const MSG_CMSG_COMPAT: u32 = 0x8000_0000;

/// One message on its way.
struct Sending {
    file: Arc<File>,
    src: UserIo,
    control: Control,
    dest: Option<SockAddr>,
    flags: u32,
    /// `None`: nobody asks.
    ctx: Option<Context>,
    rights_limit: usize,
    patience: Patience,
    sent: usize,
    /// A connection is being made for it.
    opening: bool,
}

/// How many descriptors may be on the way for who sends.
fn rights_limit(task: &Task, creds: &Creds) -> usize {
    let unlimited = creds.capable(CAP_SYS_RESOURCE) || creds.capable(CAP_SYS_ADMIN);
    let limit = if unlimited { u64::MAX } else { task.process.nofile() };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Drop for Sending {
    fn drop(&mut self) {
        trash::discard(std::mem::take(&mut self.control.rights));
    }
}

impl Sending {
    fn new(task: &Task, file: Arc<File>, src: UserIo, flags: u32) -> Result<Sending, Errno> {
        let socket = SocketFile::of(&file)?;
        let patience = Patience::new(&file, flags, socket.timeouts().1);
        let asked = socket.asks_who_sends();
        let ctx = (asked || flags & MSG_FASTOPEN != 0).then(|| task.context());
        let rights_limit =
            ctx.as_ref().filter(|_| asked).map_or(usize::MAX, |ctx| rights_limit(task, &ctx.caller.creds));
        let flags = if patience.waits() { flags } else { flags | MSG_DONTWAIT };
        let (control, dest) = (Control::default(), None);
        Ok(Sending { file, src, control, dest, flags, ctx, rights_limit, patience, sent: 0, opening: false })
    }

    /// MSG_FASTOPEN: makes the connection first. `false`: it has to wait for it.
    fn open(&mut self, wait_on: &mut WaitOn) -> Result<bool, Errno> {
        let socket = SocketFile::of(&self.file)?;
        if !self.opening && !socket.opens_fast(self.dest.as_ref())? {
            self.flags &= !MSG_FASTOPEN;
            return Ok(true);
        }
        let (Some(dest), Some(ctx)) = (&self.dest, &self.ctx) else { return Err(Errno::EINVAL) };
        match socket.connect(ctx, dest, wait_on) {
            Ok(()) => {}
            Err(Errno::EINPROGRESS | Errno::EALREADY | Errno::EAGAIN) if self.patience.waits() => {
                self.opening = true;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.flags &= !MSG_FASTOPEN;
        self.dest = None;
        Ok(true)
    }

    /// `None`: it has to wait.
    fn attempt(&mut self, wait_on: &mut WaitOn) -> Option<Result<(), Errno>> {
        if self.flags & MSG_FASTOPEN != 0 {
            match self.open(wait_on) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let socket = match SocketFile::of(&self.file) {
            Ok(socket) => socket,
            Err(error) => return Some(Err(error)),
        };
        loop {
            let mut msg = SendMsg {
                data: &mut self.src,
                control: std::mem::take(&mut self.control),
                dest: self.dest.clone(),
                flags: self.flags,
                ctx: self.ctx.as_ref(),
                rights_limit: self.rights_limit,
                sent: self.sent,
                wait_on: None,
            };
            let result = socket.sendmsg(&mut msg);
            *wait_on = msg.wait_on.take();
            self.control = std::mem::take(&mut msg.control);
            match result {
                Ok(count) => {
                    self.sent = self.sent.saturating_add(count);
                    if count == 0 || !socket.is_stream() || self.src.left() == 0 {
                        return Some(Ok(()));
                    }
                }
                Err(Errno::EAGAIN) if self.patience.waits() => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// What was sent counts more than why no more was.
    fn finish(&self, task: &Arc<Task>, result: Result<(), SysError>) -> SysResult {
        if self.sent > 0 {
            if self.flags & MSG_ZEROCOPY != 0 {
                SocketFile::of(&self.file)?.sent_zerocopy();
            }
            return Ok(self.sent as u64);
        }
        if matches!(result, Err(SysError::Errno(Errno::EPIPE)))
            && self.flags & MSG_NOSIGNAL == 0
            && SocketFile::of(&self.file)?.is_stream()
        {
            raise(task, SIGPIPE);
        }
        result.map(|()| 0)
    }

    /// Sends it, waiting as often as it takes.
    async fn run(&mut self, task: &Arc<Task>) -> SysResult {
        let (patience, file) = (self.patience.clone(), self.file.clone());
        let attempt = |wait_on: &mut WaitOn| self.attempt(wait_on).transpose();
        let result = patience.wait(task, &file, attempt).await;
        self.finish(task, result)
    }

    /// Tries on the spot first.
    fn start(mut self, task: &Arc<Task>, done: fn(&Task, &SysResult)) -> Outcome {
        if let Some(result) = self.attempt(&mut None) {
            let result = self.finish(task, result.map_err(SysError::Errno));
            done(task, &result);
            return Outcome::Done(result);
        }
        let task = task.clone();
        Outcome::block(async move {
            let result = self.run(&task).await;
            done(&task, &result);
            result
        })
    }
}

/// write(2) and its relatives on a socket. `nowait`: RWF_NOWAIT.
pub(crate) fn write_file(task: &Arc<Task>, file: Arc<File>, src: UserIo, nowait: bool) -> Outcome {
    let done = |task: &Task, result: &SysResult| {
        count(&task.counters.write_calls, 1);
        if let Ok(written) = result {
            count(&task.counters.write_chars, *written);
        }
    };
    match Sending::new(task, file, src, if nowait { MSG_DONTWAIT } else { 0 }) {
        Ok(sending) => sending.start(task, done),
        Err(error) => Outcome::error(error),
    }
}

pub(crate) fn sendto(task: &Arc<Task>, args: Args) -> Outcome {
    let (flags, addr) = (args.u32(3), args.u64(4));
    let prepare = || {
        let mm = task.own_mm();
        if !mm.range_ok(args.u64(1), args.u64(2)) {
            return Err(Errno::EFAULT);
        }
        let src = UserIo::single(&mm, args.u64(1), args.u64(2));
        let mut sending = Sending::new(task, lookup(task, args.i32(0))?, src, flags)?;
        if addr != 0 {
            sending.dest = destination(&read_addr(&mm, addr, args.i32(5))?);
        }
        Ok(sending)
    };
    match prepare() {
        Ok(sending) => sending.start(task, |_, _| ()),
        Err(error) => Outcome::error(error),
    }
}

/// An address of no length is none.
fn destination(raw: &[u8]) -> Option<SockAddr> {
    (!raw.is_empty()).then(|| SockAddr::parse(raw))
}

/// The head of a message, checked as copy_msghdr_from_user() does; its name cut to what an address can have.
pub(super) fn read_header(mm: &Mm, at: u64) -> Result<MsgHdr, Errno> {
    check_header(mm.read::<MsgHdr>(at)?)
}

pub(super) fn check_header(mut head: MsgHdr) -> Result<MsgHdr, Errno> {
    if head.msg_name == 0 {
        head.msg_namelen = 0;
    }
    if head.msg_namelen < 0 {
        return Err(Errno::EINVAL);
    }
    head.msg_namelen = head.msg_namelen.min(i32::try_from(MAX_ADDR).unwrap_or(i32::MAX));
    if head.msg_iovlen > IOV_MAX as u64 {
        return Err(Errno::EMSGSIZE);
    }
    Ok(head)
}

/// Collects the message at `at`.
fn gather(task: &Arc<Task>, file: Arc<File>, at: u64, flags: u32) -> Result<Sending, Errno> {
    let mm = task.mm();
    let head = read_header(&mm, at)?;
    let src = UserIo::vectored(&mm, head.msg_iov, head.msg_iovlen)?;
    assemble(task, file, &head, src, flags)
}

/// A message of a head and its buffers.
fn assemble(
    task: &Arc<Task>,
    file: Arc<File>,
    head: &MsgHdr,
    src: UserIo,
    flags: u32,
) -> Result<Sending, Errno> {
    let mm = task.mm();
    let name = read_addr(&mm, head.msg_name, head.msg_namelen)?;
    if head.msg_controllen >= OPTMEM_MAX {
        return Err(Errno::ENOBUFS);
    }
    let raw = mm.read_vec(head.msg_control, usize::try_from(head.msg_controllen).unwrap_or(0))?;
    let mut sending = Sending::new(task, file, src, flags)?;
    sending.dest = destination(&name);
    if !raw.is_empty() {
        let files = task.files();
        let family = SocketFile::of(&sending.file)?.common().family;
        let process = |pid| task.find_process(pid).map(|process| process.kid());
        let mut file = |fd| files.get(fd);
        sending.control = Control::parse(&raw, family, &task.caller(), &mut file, &process)?;
    }
    Ok(sending)
}

pub(crate) fn sendmsg(task: &Arc<Task>, args: Args) -> Outcome {
    let flags = args.u32(2);
    if flags & MSG_CMSG_COMPAT != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    match lookup(task, args.i32(0)).and_then(|file| gather(task, file, args.u64(1), flags)) {
        Ok(sending) => sending.start(task, |_, _| ()),
        Err(error) => Outcome::error(error),
    }
}

pub(crate) fn sendmmsg(task: &Arc<Task>, args: Args) -> Outcome {
    let (at, count, flags) = (args.u64(1), args.u32(2).min(low32(IOV_MAX as u64)), args.u32(3));
    if flags & MSG_CMSG_COMPAT != 0 {
        return Outcome::error(Errno::EINVAL);
    }
    let file = match lookup(task, args.i32(0)) {
        Ok(file) => file,
        Err(error) => return Outcome::error(error),
    };
    let task = task.clone();
    Outcome::block(async move {
        let (mut sent, mut told) = (0, 0);
        let mut result = Ok(0);
        let mut lengths = Writes::default();
        let mut messages = Messages::new(at, count);
        while sent < messages.count() {
            let found = messages.get(&task.mm(), sent);
            let sending = found.and_then(|(head, src)| assemble(&task, file.clone(), &head, src, flags));
            let (one, whole) = match sending {
                Ok(mut sending) => {
                    let one = sending.run(&task).await;
                    (one, sending.src.left() == 0)
                }
                Err(error) => (Err(error.into()), false),
            };
            match one {
                Ok(len) => {
                    let len_at = messages.address(sent).wrapping_add(offset_of!(MMsgHdr, msg_len) as u64);
                    lengths.add(len_at, u32::try_from(len).unwrap_or(u32::MAX).as_bytes());
                    sent += 1;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            // The first one's at once: who gave memory that cannot be written has one message sent.
            if sent == 1 || sent - told >= 32 || !whole {
                told += (lengths.flush(&task.mm()) / 4) as u64;
                if told < sent {
                    result = Err(Errno::EFAULT.into());
                    break;
                }
            }
            if !whole {
                break;
            }
        }
        told += (lengths.flush(&task.mm()) / 4) as u64;
        if told < sent && result.is_ok() {
            result = Err(Errno::EFAULT.into());
        }
        let sent = told;
        if sent > 0 { Ok(sent) } else { result }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_length_is_no_destination() {
        assert!(destination(&[]).is_none());
        assert!(matches!(destination(&[1]), Some(SockAddr::Invalid)));
        assert!(matches!(destination(&[1, 0, 0, b'a']), Some(SockAddr::Unix(_))));
    }
}
