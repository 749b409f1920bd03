//! recvfrom, recvmsg, recvmmsg, and read(2) on sockets.

use super::many::{Batch, Messages, Writes};
use super::send::read_header;
use super::wait::Patience;
use super::{lookup, write_addr};
use crate::Args;
use chitin_abi::Errno;
use chitin_abi::socket::*;
use chitin_abi::time::Timespec;
use chitin_kernel::task::count;
use chitin_kernel::time::{from_timespec, monotonic, to_timespec};
use chitin_kernel::{FdTable, Outcome, SysError, SysResult, Task};
use chitin_mm::{Mm, Sink, UserIo, VecSink};
use chitin_net::{Received, SockAddr, SocketFile, WaitOn, trash};
use chitin_vfs::File;
use std::mem::offset_of;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// One message being received.
struct Receiving<S> {
    file: Arc<File>,
    dst: S,
    got: Received,
    patience: Patience,
    /// A stream's call is over with so many bytes.
    target: usize,
    /// What the family answered: more than was put where MSG_TRUNC asked for the true length.
    len: usize,
}

impl<S: Sink + Send + 'static> Receiving<S> {
    fn new(file: Arc<File>, dst: S, flags: u32) -> Result<Receiving<S>, Errno> {
        let socket = SocketFile::of(&file)?;
        let patience = Patience::new(&file, flags, socket.timeouts().0);
        let target = socket.common().recv_target(dst.room(), flags & MSG_WAITALL != 0);
        let flags = if patience.waits() { flags } else { flags | MSG_DONTWAIT };
        Ok(Receiving { file, dst, got: Received::new(flags), patience, target, len: 0 })
    }

    /// `None`: it has to wait.
    fn attempt(&mut self) -> Option<Result<(), Errno>> {
        let socket = match SocketFile::of(&self.file) {
            Ok(socket) => socket,
            Err(error) => return Some(Err(error)),
        };
        loop {
            match self.got.attempt(&mut self.dst, |msg| socket.recvmsg(msg)) {
                Ok(count) => {
                    self.len = self.len.saturating_add(count);
                    let got = &self.got;
                    let over = got.done || count == 0 || self.dst.room() == 0 || got.count >= self.target;
                    if !socket.is_stream() || over {
                        return Some(Ok(()));
                    }
                }
                Err(Errno::EAGAIN) if self.patience.waits() => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// What was received counts more than why no more was.
    fn finish(&self, result: Result<(), SysError>) -> Result<u64, SysError> {
        if self.len > 0 { Ok(self.len as u64) } else { result.map(|()| 0) }
    }

    async fn run(&mut self, task: &Arc<Task>) -> SysResult {
        let (patience, file) = (self.patience.clone(), self.file.clone());
        let attempt = |_: &mut WaitOn| self.attempt().transpose();
        let result = patience.wait(task, &file, attempt).await;
        self.finish(result)
    }

    /// Tries on the spot first; `hand_out` gets what came.
    fn start<F>(mut self, task: &Arc<Task>, hand_out: F) -> Outcome
    where
        F: FnOnce(&Arc<Task>, &mut Received, SysResult) -> SysResult + Send + 'static,
    {
        if let Some(result) = self.attempt() {
            let result = self.finish(result.map_err(SysError::Errno));
            return Outcome::Done(hand_out(task, &mut self.got, result));
        }
        let task = task.clone();
        Outcome::block(async move {
            let result = self.run(&task).await;
            hand_out(&task, &mut self.got, result)
        })
    }
}

/// read(2) and its relatives on a socket. `nowait`: RWF_NOWAIT.
pub(crate) fn read_file(task: &Arc<Task>, file: Arc<File>, dst: UserIo, nowait: bool) -> Outcome {
    if dst.room() == 0 {
        return Outcome::value(0);
    }
    match Receiving::new(file, dst, if nowait { MSG_DONTWAIT } else { 0 }) {
        Err(error) => Outcome::error(error),
        Ok(receiving) => receiving.start(task, |task, _, result| {
            count(&task.counters.read_calls, 1);
            let read = result?;
            count(&task.counters.read_chars, read);
            Ok(read)
        }),
    }
}

pub(crate) fn recvfrom(task: &Arc<Task>, args: Args) -> Outcome {
    let (flags, addr, len_at) = (args.u32(3), args.u64(4), args.u64(5));
    let prepare = || {
        let mm = task.own_mm();
        if !mm.range_ok(args.u64(1), args.u64(2)) {
            return Err(Errno::EFAULT);
        }
        let dst = UserIo::single(&mm, args.u64(1), args.u64(2));
        Receiving::new(lookup(task, args.i32(0))?, dst, flags)
    };
    match prepare() {
        Err(error) => Outcome::error(error),
        Ok(receiving) => receiving.start(task, move |task, got, result| {
            let count = result?;
            if addr != 0 {
                write_addr(&task.mm(), got.addr.as_ref(), addr, len_at)?;
            }
            Ok(count)
        }),
    }
}

/// Prepares for the message whose head is at `at`.
fn scatter(task: &Task, file: Arc<File>, at: u64, flags: u32) -> Result<(Receiving<UserIo>, MsgHdr), Errno> {
    let mm = task.mm();
    let head = read_header(&mm, at)?;
    let dst = UserIo::vectored(&mm, head.msg_iov, head.msg_iovlen)?;
    Ok((Receiving::new(file, dst, flags)?, head))
}

/// Descriptors given to the guest, taken back unless [`Installed::keep`] says so.
struct Installed {
    table: Arc<FdTable>,
    fds: Vec<i32>,
}

impl Installed {
    fn keep(mut self) {
        self.fds.clear();
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // One that another thread has closed meanwhile is gone already.
        let files = self.fds.iter().filter_map(|&fd| self.table.remove(fd).ok()).collect();
        trash::discard(files);
    }
}

/// Writes what came beside the data: control messages, the sender's address, the flags; `count` for recvmmsg(2).
fn hand_out(
    task: &Task,
    got: &mut Received,
    head: &MsgHdr,
    at: u64,
    count: Option<u32>,
) -> Result<(), Errno> {
    let mut writes = Writes::default();
    note(task, got, head, at, count, &mut writes);
    writes.all(&task.mm())
}

/// The same, to be written later but for control messages.
fn note(task: &Task, got: &mut Received, head: &MsgHdr, at: u64, count: Option<u32>, writes: &mut Writes) {
    let mut flags = got.out_flags | (got.flags & MSG_CMSG_CLOEXEC);
    let control_len = write_control(task, got, head, &mut flags);
    if head.msg_name != 0 {
        // move_addr_to_user(): as much as fits, and the whole length.
        let raw = got.addr.as_ref().map(SockAddr::encode).unwrap_or_default();
        let room = usize::try_from(head.msg_namelen).unwrap_or(0);
        writes.add(head.msg_name, raw.get(..room.min(raw.len())).unwrap_or_default());
        let len = u32::try_from(raw.len()).unwrap_or(0);
        writes.add(at.wrapping_add(offset_of!(MsgHdr, msg_namelen) as u64), len.as_bytes());
    }
    // These adjoin.
    let tail = MMsgHdr {
        msg_hdr: MsgHdr { msg_controllen: control_len, msg_flags: flags, ..*head },
        msg_len: count.unwrap_or(0),
        _pad0: 0,
    };
    let from = offset_of!(MsgHdr, msg_controllen);
    let to = match count {
        Some(_) => offset_of!(MMsgHdr, _pad0),
        None => offset_of!(MsgHdr, _pad1),
    };
    writes.add(at.wrapping_add(from as u64), tail.as_bytes().get(from..to).unwrap_or_default());
}

/// The bytes of control messages written. As on Linux, those that cannot be are lost without an error.
fn write_control(task: &Task, got: &mut Received, head: &MsgHdr, flags: &mut u32) -> u64 {
    let room = if head.msg_control == 0 { 0 } else { head.msg_controllen };
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut control = std::mem::take(&mut got.control);
    if control.is_empty() {
        return 0;
    }
    if let Some(creds) = &mut control.creds {
        creds.pid = task.nr_of(creds.pid);
        let ns = task.creds().user_ns.clone();
        (creds.uid, creds.gid) = (ns.show_uid(creds.uid), ns.show_gid(creds.gid));
    }
    let cloexec = got.flags & MSG_CMSG_CLOEXEC != 0;
    let limit = task.process.nofile();
    let mut installed = Installed { table: task.files(), fds: Vec::new() };
    let (raw, cut) = control.encode(room, &mut |file| {
        let fd = installed.table.add(file, cloexec, 0, limit)?;
        installed.fds.push(fd);
        Ok(fd)
    });
    *flags |= cut;
    if task.mm().write_bytes(head.msg_control, &raw).is_ok() {
        installed.keep();
        return raw.len() as u64;
    }
    if !installed.fds.is_empty() {
        *flags |= MSG_CTRUNC;
    }
    0
}

pub(crate) fn recvmsg(task: &Arc<Task>, args: Args) -> Outcome {
    let at = args.u64(1);
    match lookup(task, args.i32(0)).and_then(|file| scatter(task, file, at, args.u32(2))) {
        Err(error) => Outcome::error(error),
        Ok((receiving, head)) => receiving.start(task, move |task, got, result| {
            let count = result?;
            hand_out(task, got, &head, at, None)?;
            Ok(count)
        }),
    }
}

/// Receives one message of recvmmsg(2); whether it was out of band. Nothing is kept back while it waits.
async fn one_of_many(
    task: &Arc<Task>,
    file: &Arc<File>,
    messages: &mut Messages,
    n: u64,
    flags: u32,
    batch: &mut Batch,
) -> Result<bool, SysError> {
    let (head, dst) = messages.get(&task.mm(), n)?;
    let at = messages.address(n);
    // A message in one piece can be written with others; what is not all taken of a stream's must be known.
    let single = messages.single(n).filter(|_| SocketFile::of(file).is_ok_and(|socket| !socket.is_stream()));
    let Some(buffer) = single else {
        batch.flush(&task.mm())?;
        let mut receiving = Receiving::new(file.clone(), dst, flags)?;
        let count = receiving.run(task).await?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        hand_out(task, &mut receiving.got, &head, at, Some(count))?;
        batch.done = batch.done.saturating_add(1);
        return Ok(receiving.got.out_flags & MSG_OOB != 0);
    };
    let dst = VecSink { data: Vec::new(), limit: dst.room() };
    let mut receiving = Receiving::new(file.clone(), dst, flags)?;
    let count = match receiving.attempt() {
        Some(result) => receiving.finish(result.map_err(SysError::Errno))?,
        None => {
            batch.flush(&task.mm())?;
            receiving.run(task).await?
        }
    };
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if !receiving.got.control.is_empty() {
        // Descriptors are the guest's at once, so all before them must be.
        batch.flush(&task.mm())?;
    }
    batch.writes.add(buffer.iov_base, &receiving.dst.data);
    note(task, &mut receiving.got, &head, at, Some(count), &mut batch.writes);
    batch.end();
    if batch.is_full() {
        batch.flush(&task.mm())?;
    }
    Ok(receiving.got.out_flags & MSG_OOB != 0)
}

/// The deadline of recvmmsg(2), which is looked at only between messages.
fn read_timeout(mm: &Mm, at: u64) -> Result<Option<u64>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let timeout = from_timespec(&mm.read::<Timespec>(at)?)?;
    Ok(Some(monotonic().saturating_add(timeout)))
}

pub(crate) fn recvmmsg(task: &Arc<Task>, args: Args) -> Outcome {
    let (at, count, timeout_at) = (args.u64(1), args.u32(2), args.u64(4));
    let mut flags = args.u32(3);
    let prepare = || {
        let deadline = read_timeout(&task.mm(), timeout_at)?;
        let file = lookup(task, args.i32(0))?;
        match SocketFile::of(&file)?.ops().take_error() {
            Some(error) if flags & MSG_ERRQUEUE == 0 => Err(error),
            _ => Ok((file, deadline)),
        }
    };
    let (file, deadline) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::error(error),
    };
    let task = task.clone();
    Outcome::block(async move {
        let mut received = 0u64;
        let mut result = Ok(0);
        let mut messages = Messages::new(at, count);
        let mut batch = Batch::default();
        while received < messages.count() {
            let flags_now = flags & !MSG_WAITFORONE;
            match one_of_many(&task, &file, &mut messages, received, flags_now, &mut batch).await {
                Err(error) => {
                    result = Err(error);
                    break;
                }
                Ok(out_of_band) => {
                    received += 1;
                    if out_of_band || deadline.is_some_and(|deadline| monotonic() >= deadline) {
                        break;
                    }
                }
            }
            if flags & MSG_WAITFORONE != 0 {
                flags |= MSG_DONTWAIT;
            }
        }
        if let Err(error) = batch.flush(&task.mm()) {
            result = Err(error.into());
        }
        let received = batch.done;
        if received == 0 {
            return result;
        }
        if let Some(deadline) = deadline {
            let left = deadline.saturating_sub(monotonic());
            task.mm().write(timeout_at, &to_timespec(left))?;
        }
        Ok(received)
    })
}
