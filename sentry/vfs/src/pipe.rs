//! Pipes and FIFOs (pipe(7), fifo(7)), and the pipe side of splice(2) and tee(2).
//!
//! Neighbours: [`crate::file::state::InodeState::fifo`] keeps the pipe of a FIFO inode; syscalls reach the pipe of a
//! descriptor by `file.downcast::<PipeEnd>()`. EPIPE from `write` is what raises SIGPIPE, in the caller.
//!
//! Locks: `Pipe::state` is held while bytes move between it and user memory or a file (splice), never while waking.
//! Two pipes are locked in the order of their addresses.

mod quota;
mod ring;
#[cfg(test)]
mod tests;

use crate::{AnonInode, File, FileKind, FileOps, Inode, PollTable, WaitQueue, WriteAt, Written};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::num::to_usize;
use chitin_abi::poll::*;
use chitin_mm::{Sink, Source};
use parking_lot::Mutex;
use quota::{DEFAULT_SLOTS, Quota};
pub use quota::{PipeUser, SOFT_PAGES};
use ring::{Buffer, PAGE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What an unprivileged F_SETPIPE_SZ may ask for (/proc/sys/fs/pipe-max-size).
pub const MAX_SIZE: usize = 1 << 20;
/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    /// Who waits for bytes, or for the writers to go.
    readable: WaitQueue,
    /// Who waits for room, or for the readers to go.
    writable: WaitQueue,
    /// Who waits in open(2) for the other side.
    opened: WaitQueue,
}

struct State {
    buffer: Buffer,
    max_slots: usize,
    /// Its pages, while anybody has it open.
    quota: Option<Quota>,
    readers: usize,
    writers: usize,
    /// How often each side was opened, ever: an open(2) waits for a change, so that a partner that came and left counts.
    reads_opened: u64,
    writes_opened: u64,
    /// Made by pipe(2): opening it anew never waits.
    anonymous: bool,
}

impl State {
    fn full(&self) -> bool {
        self.buffer.slots() >= self.max_slots
    }

    /// Has its pages counted, if nobody has it open yet.
    fn admit(&mut self, user: PipeUser) -> Result<(), Errno> {
        if self.quota.is_none() {
            let quota = Quota::new(user)?;
            self.max_slots = quota.slots;
            self.quota = Some(quota);
        }
        Ok(())
    }
}

const IN: u32 = POLLIN | POLLRDNORM;
const OUT: u32 = POLLOUT | POLLWRNORM;

impl Pipe {
    /// An empty pipe that nobody has open.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<Pipe> {
        let state = State {
            buffer: Buffer::default(),
            max_slots: DEFAULT_SLOTS,
            quota: None,
            readers: 0,
            writers: 0,
            reads_opened: 0,
            writes_opened: 0,
            anonymous: false,
        };
        Arc::new(Pipe {
            state: Mutex::new(state),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
            opened: WaitQueue::new(),
        })
    }

    /// pipe2(2): the read end and the write end. `flags`: O_NONBLOCK, O_DIRECT (O_CLOEXEC is the caller's).
    pub fn pair(flags: u32) -> Result<(Arc<File>, Arc<File>), Errno> {
        Pipe::pair_owned(flags, PipeUser::default(), 0, 0)
    }

    /// As [`Pipe::pair`], with whom the pages are counted to and the owner that fstat(2) shows.
    pub fn pair_owned(
        flags: u32,
        user: PipeUser,
        uid: u32,
        gid: u32,
    ) -> Result<(Arc<File>, Arc<File>), Errno> {
        let inode = AnonInode::new(FileKind::Fifo, 0o600, uid, gid, "pipe");
        // On the inode, so that opening it anew through /proc/PID/fd finds it.
        let pipe = inode.state().fifo().clone();
        let flags = flags & (O_NONBLOCK | O_DIRECT);
        let (read, write) = {
            let mut state = pipe.state.lock();
            state.anonymous = true;
            state.admit(user)?;
            let read = PipeEnd::attach_locked(&pipe, &mut state, O_RDONLY | (flags & O_NONBLOCK), 0);
            (read, PipeEnd::attach_locked(&pipe, &mut state, O_WRONLY | flags, 0))
        };
        Ok((
            File::new(read, inode.clone(), None, O_RDONLY | (flags & O_NONBLOCK)),
            File::new(write, inode, None, O_WRONLY | flags),
        ))
    }

    /// open(2) of a FIFO: ENXIO for a non-blocking writer without readers; otherwise an open that may have to wait.
    /// ENFILE when there are too many pipes.
    /// Also opens a pipe of pipe(2) anew (through /proc/PID/fd), which never waits.
    pub fn open_fifo(pipe: &Arc<Pipe>, flags: u32, user: PipeUser) -> Result<FifoOpen, Errno> {
        let nonblocking = flags & O_NONBLOCK != 0;
        let mut state = pipe.state.lock();
        let fifo = !state.anonymous;
        if flags & O_ACCMODE == O_WRONLY && fifo && nonblocking && state.readers == 0 {
            return Err(Errno::ENXIO);
        }
        state.admit(user)?;
        match flags & O_ACCMODE {
            O_RDONLY => {
                let waits = fifo && state.writers == 0 && !nonblocking;
                // A reader that did not wait sees no hang-up before it has seen a writer.
                let unseen =
                    if fifo && state.writers == 0 && nonblocking { state.writes_opened + 1 } else { 0 };
                let before = state.writes_opened;
                let end = PipeEnd::attach_locked(pipe, &mut state, flags, unseen);
                drop(state);
                pipe.opened.wake(OUT);
                Ok(FifoOpen { end, partner: waits.then_some(Partner::Writer(before)) })
            }
            O_WRONLY => {
                let waits = fifo && state.readers == 0;
                let before = state.reads_opened;
                let end = PipeEnd::attach_locked(pipe, &mut state, flags, 0);
                drop(state);
                pipe.opened.wake(IN);
                Ok(FifoOpen { end, partner: waits.then_some(Partner::Reader(before)) })
            }
            O_RDWR => {
                let end = PipeEnd::attach_locked(pipe, &mut state, flags, 0);
                drop(state);
                pipe.opened.wake(IN | OUT);
                Ok(FifoOpen { end, partner: None })
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Bytes it can hold (F_GETPIPE_SZ).
    pub fn size(&self) -> usize {
        self.state.lock().max_slots * PAGE
    }

    /// F_SETPIPE_SZ: answers the new size. `privileged`: CAP_SYS_RESOURCE.
    pub fn set_size(&self, size: u64, privileged: bool) -> Result<usize, Errno> {
        // The argument is an unsigned int.
        let size = to_usize(size & u64::from(u32::MAX));
        if size > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let size = size.max(PAGE).next_power_of_two();
        let slots = size / PAGE;
        let mut state = self.state.lock();
        if slots > state.max_slots {
            if size > MAX_SIZE && !privileged {
                return Err(Errno::EPERM);
            }
        }
        if slots < state.buffer.slots() {
            return Err(Errno::EBUSY);
        }
        let was_full = state.full();
        if let Some(quota) = &mut state.quota {
            quota.resize(slots, privileged)?;
        }
        state.max_slots = slots;
        state.buffer.fit(slots * PAGE);
        let roomy = was_full && !state.full();
        drop(state);
        if roomy {
            self.writable.wake(OUT);
        }
        Ok(size)
    }

    fn read(&self, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.room() == 0 {
            return Ok(0);
        }
        let mut state = self.state.lock();
        if state.buffer.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.full();
        let result = state.buffer.read(dst);
        let roomy = was_full && !state.full();
        drop(state);
        if roomy {
            self.writable.wake(OUT);
        }
        result
    }

    fn write(&self, src: &mut dyn Source, packet: bool) -> Result<usize, Errno> {
        if src.left() == 0 {
            return Ok(0);
        }
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let slots = state.max_slots;
        let result = state.buffer.write(src, slots, packet).ok_or(Errno::EAGAIN)?;
        drop(state);
        if result.is_ok() {
            // Also where there was something before: whoever watches for edges wants to know of every write.
            self.readable.wake(IN);
        }
        result
    }

    /// Tells writers when room has come.
    fn after_splice(&self, was_full: bool, full: bool) {
        if was_full && !full {
            self.writable.wake(OUT);
        }
    }
}

/// An open end (or for O_RDWR, both) of a pipe: the operations of one open file description.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// O_DIRECT: writes are packets.
    packet: AtomicBool,
    /// One more than the count of writers' opens at which there was no hang-up yet; 0: it counts at once.
    unseen: u64,
}

impl PipeEnd {
    fn attach_locked(pipe: &Arc<Pipe>, state: &mut State, flags: u32, unseen: u64) -> Arc<PipeEnd> {
        let mode = flags & O_ACCMODE;
        let (reads, writes) = (mode == O_RDONLY || mode == O_RDWR, mode == O_WRONLY || mode == O_RDWR);
        state.readers += usize::from(reads);
        state.reads_opened += u64::from(reads);
        state.writers += usize::from(writes);
        state.writes_opened += u64::from(writes);
        let packet = AtomicBool::new(flags & O_DIRECT != 0);
        Arc::new(PipeEnd { pipe: pipe.clone(), reads, writes, packet, unseen })
    }

    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// splice(2) out of the pipe: `write` gets up to `max` bytes as a source and answers how many went. EAGAIN when
    /// there is nothing yet, 0 at the end. `write` runs with the pipe locked: it must not touch a pipe (that is what
    /// [`splice`] is for).
    pub fn splice_out(
        &self,
        max: usize,
        write: impl FnOnce(&mut dyn Source) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if !self.reads {
            return Err(Errno::EBADF);
        }
        if max == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.buffer.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.full();
        let mut source = state.buffer.source(max);
        let count = write(&mut source)?;
        source.finish(count);
        let full = state.full();
        drop(state);
        self.pipe.after_splice(was_full, full);
        Ok(count)
    }

    /// splice(2) into the pipe: `read` gets the room for up to `max` bytes as a sink. EAGAIN when it is full, EPIPE
    /// without readers; 0 at the end of the file. `read` runs with the pipe locked, as above.
    pub fn splice_in(
        &self,
        max: usize,
        read: impl FnOnce(&mut dyn Sink) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        if max == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        if state.full() {
            return Err(Errno::EAGAIN);
        }
        let slots = state.max_slots;
        let mut sink = state.buffer.sink(max, slots);
        let result = read(&mut sink);
        let put = sink.put();
        drop(state);
        if put > 0 {
            self.pipe.readable.wake(IN);
            return Ok(put);
        }
        result
    }
}

/// splice(2) between two pipes: moves up to `max` bytes. EINVAL for the same pipe; EAGAIN when `from` is empty or `to`
/// full; 0 when `from` is at its end; EPIPE when nobody reads `to`.
pub fn splice(from: &PipeEnd, to: &PipeEnd, max: usize) -> Result<usize, Errno> {
    transfer(from, to, max, false)
}

/// tee(2): as [`splice`], but the bytes stay in `from`.
pub fn tee(from: &PipeEnd, to: &PipeEnd, max: usize) -> Result<usize, Errno> {
    transfer(from, to, max, true)
}

fn transfer(from: &PipeEnd, to: &PipeEnd, max: usize, copy: bool) -> Result<usize, Errno> {
    if !from.reads || !to.writes {
        return Err(Errno::EBADF);
    }
    if Arc::ptr_eq(&from.pipe, &to.pipe) {
        return Err(Errno::EINVAL);
    }
    if max == 0 {
        return Ok(0);
    }
    let (mut source, mut target);
    if Arc::as_ptr(&from.pipe) < Arc::as_ptr(&to.pipe) {
        source = from.pipe.state.lock();
        target = to.pipe.state.lock();
    } else {
        target = to.pipe.state.lock();
        source = from.pipe.state.lock();
    }
    if target.readers == 0 {
        return Err(Errno::EPIPE);
    }
    if source.buffer.is_empty() {
        return if source.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
    }
    if target.full() {
        return Err(Errno::EAGAIN);
    }
    let was_full = source.full();
    let slots = target.max_slots;
    let count = source.buffer.transfer(&mut target.buffer, slots, max, copy);
    let full = source.full();
    drop(target);
    drop(source);
    from.pipe.after_splice(was_full, full);
    to.pipe.readable.wake(IN);
    Ok(count)
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.reads);
        state.writers -= usize::from(self.writes);
        let (readers, writers) = (state.readers, state.writers);
        if readers == 0 && writers == 0 {
            // A FIFO that nobody has open holds nothing.
            state.buffer.clear();
            state.quota = None;
        }
        drop(state);
        if (readers == 0) != (writers == 0) {
            self.pipe.readable.wake(IN | POLLERR | POLLHUP);
            self.pipe.writable.wake(OUT | POLLERR | POLLHUP);
        }
    }
}

impl FileOps for PipeEnd {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if !self.reads {
            return Err(Errno::EBADF);
        }
        self.pipe.read(dst)
    }

    fn write(&self, _at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        if !self.writes {
            return Err(Errno::EBADF);
        }
        let count = self.pipe.write(src, self.packet.load(Ordering::Relaxed))?;
        Ok(Written { count, end: 0 })
    }

    fn signals(&self) -> bool {
        true
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            if self.reads {
                table.add(&self.pipe.readable);
            }
            if self.writes {
                table.add(&self.pipe.writable);
            }
        }
        let state = self.pipe.state.lock();
        let mut mask = 0;
        if self.reads {
            if !state.buffer.is_empty() {
                mask |= IN;
            }
            if state.writers == 0 && self.unseen != state.writes_opened + 1 {
                mask |= POLLHUP;
            }
        }
        if self.writes {
            if !state.full() {
                mask |= OUT;
            }
            if state.readers == 0 {
                mask |= POLLERR;
            }
        }
        mask
    }

    fn flags_changed(&self, flags: u32) -> Result<(), Errno> {
        self.packet.store(flags & O_DIRECT != 0, Ordering::Relaxed);
        Ok(())
    }

    fn readable_bytes(&self) -> Result<u64, Errno> {
        Ok(self.pipe.state.lock().buffer.len() as u64)
    }
}

/// Whose open(2) a FIFO's open waits for: until the count differs.
#[derive(Clone, Copy)]
enum Partner {
    Reader(u64),
    Writer(u64),
}

/// A FIFO's open(2) under way. While it waits it counts as a reader or writer; dropping it gives up.
pub struct FifoOpen {
    end: Arc<PipeEnd>,
    partner: Option<Partner>,
}

impl FifoOpen {
    fn complete(&self) -> bool {
        let state = self.end.pipe.state.lock();
        match self.partner {
            None => true,
            Some(Partner::Reader(before)) => state.reads_opened != before,
            Some(Partner::Writer(before)) => state.writes_opened != before,
        }
    }

    /// The end, if nothing needs to be waited for.
    pub fn try_finish(self) -> Result<Arc<PipeEnd>, FifoOpen> {
        if self.complete() { Ok(self.end) } else { Err(self) }
    }

    /// Waits for the other side.
    pub async fn wait(self) -> Arc<PipeEnd> {
        if !self.complete() {
            self.end.pipe.opened.wait_until(|| self.complete().then_some(())).await;
        }
        self.end
    }
}
