//! The open ends of a terminal.

use super::ldisc::Out;
use super::{State, TYPED_LIMIT, Tty};
use crate::time::{Deadline, monotonic};
use chitin_abi::Errno;
use chitin_abi::fcntl::O_NONBLOCK;
use chitin_abi::ioctl::TIOCPKT_DATA;
use chitin_abi::poll::*;
use chitin_abi::termios::{VMIN, VTIME};
use chitin_mm::{Sink, Source};
use chitin_vfs::{FileOps, PollTable, WriteAt, Written};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes taken from a writer at a time.
const CHUNK: usize = 4096;
/// A wait for VTIME that ended longer ago than this belonged to a read that a signal cut off.
const STALE_NS: u64 = 50_000_000;

/// An open file of a terminal: its slave side, or a pseudo-terminal's master.
pub struct TtyFile {
    tty: Arc<Tty>,
    master: bool,
    /// `State::hangups` when it was opened.
    hangups: u64,
    nonblocking: AtomicBool,
    /// When the wait of a read with VMIN 0 ends.
    deadline: Mutex<Option<u64>>,
}

impl TtyFile {
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }
    pub fn is_master(&self) -> bool {
        self.master
    }
    /// The terminal hung up since this was opened.
    pub(super) fn hung_up(&self) -> bool {
        self.is_hung_up(&self.tty.state.lock())
    }
    fn is_hung_up(&self, state: &State) -> bool {
        !self.master && self.hangups != state.hangups
    }
}

impl Tty {
    fn file(self: &Arc<Tty>, master: bool, flags: u32, hangups: u64) -> Arc<TtyFile> {
        Arc::new(TtyFile {
            tty: self.clone(),
            master,
            hangups,
            nonblocking: AtomicBool::new(flags & O_NONBLOCK != 0),
            deadline: Mutex::new(None),
        })
    }

    /// The master's only file: its end hangs the terminal up.
    pub fn open_master(self: &Arc<Tty>, flags: u32) -> Arc<dyn FileOps> {
        self.file(true, flags, 0)
    }

    /// The slave side. EIO while it is locked or when the master is gone; EBUSY in exclusive mode unless `privileged`.
    pub fn open_slave(self: &Arc<Tty>, flags: u32, privileged: bool) -> Result<Arc<dyn FileOps>, Errno> {
        let hangups = {
            let mut state = self.state.lock();
            if state.locked || !state.master_open {
                return Err(Errno::EIO);
            }
            if state.exclusive && !privileged {
                return Err(Errno::EBUSY);
            }
            state.slaves = state.slaves.saturating_add(1);
            state.left_alone = false;
            state.hangups
        };
        Ok(self.file(false, flags, hangups))
    }

    /// Reads what programs show.
    fn read_master(&self, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let room = dst.room();
        if room == 0 {
            return Ok(0);
        }
        let data: Vec<u8> = {
            let mut state = self.state.lock();
            if state.packet && state.status != 0 {
                vec![std::mem::take(&mut state.status)]
            } else if state.shown.is_empty() {
                return Err(if state.left_alone { Errno::EIO } else { Errno::EAGAIN });
            } else {
                let head = state.packet.then_some(TIOCPKT_DATA);
                let count = room.saturating_sub(head.iter().len()).min(state.shown.len());
                let data = head.into_iter().chain(state.shown.drain(..count)).collect();
                let State { ldisc, shown, .. } = &mut *state;
                ldisc.show_echo(&mut Out { queue: shown, limit: self.shown_limit() });
                data
            }
        };
        self.slave_queue.wake(POLLOUT | POLLWRNORM);
        dst.put(&data)
    }

    /// Shows a program's output.
    fn write_slave(&self, data: &[u8]) -> usize {
        let count = {
            let mut state = self.state.lock();
            let mut total = 0;
            // A host terminal that takes all makes room again.
            loop {
                let State { ldisc, shown, .. } = &mut *state;
                let mut out = Out { queue: shown, limit: self.shown_limit() };
                let count = ldisc.write(data.get(total..).unwrap_or_default(), &mut out);
                total += count;
                self.flush_host(&mut state);
                if count == 0 || total >= data.len() || !self.is_console() {
                    break;
                }
            }
            total
        };
        self.master_queue.wake(POLLIN | POLLRDNORM);
        count
    }
}

impl TtyFile {
    fn read_slave(&self, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let tty = &*self.tty;
        if dst.room() == 0 {
            return Ok(0);
        }
        let mut state = tty.state.lock();
        if self.is_hung_up(&state) {
            return Ok(0);
        }
        let before = tty.pump(&mut state);
        let result = self.take_input(&mut state, dst.room());
        let after = tty.pump(&mut state);
        let pgrp = state.pgrp;
        let room = state.typed.len() < TYPED_LIMIT;
        drop(state);
        let took = result.is_ok();
        for fx in [before, after] {
            // Reading makes room, and what was typed meanwhile may hold an interrupt.
            if !fx.signals.is_empty() || fx.started {
                tty.after_input(fx, pgrp);
            }
        }
        if took && room {
            tty.master_queue.wake(POLLOUT | POLLWRNORM | POLLIN);
            tty.fetch_host();
        }
        dst.put(&result?)
    }

    /// n_tty_read() without the waiting.
    fn take_input(&self, state: &mut State, room: usize) -> Result<Vec<u8>, Errno> {
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        let ldisc = &mut state.ldisc;
        let decisecond = 100_000_000;
        let (min, time) = (usize::from(ldisc.cc(VMIN)), u64::from(ldisc.cc(VTIME)) * decisecond);
        let mut deadline = self.deadline.lock();
        if ldisc.available(false) {
            if !ldisc.canonical() && !nonblocking && ldisc.len() < min.min(room) {
                if time == 0 {
                    return Err(Errno::EAGAIN);
                }
                // Between two characters.
                let end = state.last_input.saturating_add(time);
                if monotonic() < end {
                    self.tty.wake_at(end);
                    return Err(Errno::EAGAIN);
                }
            }
            *deadline = None;
            return Ok(state.ldisc.read(room));
        }
        if ldisc.canonical() || min != 0 {
            return Err(Errno::EAGAIN);
        }
        if time == 0 {
            return Ok(Vec::new());
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        let now = monotonic();
        match *deadline {
            Some(end) if now >= end && now < end.saturating_add(STALE_NS) => {
                *deadline = None;
                Ok(Vec::new())
            }
            Some(end) if now < end => {
                self.tty.wake_at(end);
                Err(Errno::EAGAIN)
            }
            _ => {
                let end = now.saturating_add(time);
                *deadline = Some(end);
                self.tty.wake_at(end);
                Err(Errno::EAGAIN)
            }
        }
    }
}

impl Tty {
    fn wake_at(&self, end: u64) {
        if let Some(timer) = &self.timer {
            timer.arm(Deadline::monotonic(end));
        }
    }

    fn poll_slave(&self, state: &State) -> u32 {
        let mut bits = 0;
        if state.ldisc.available(true) {
            bits |= POLLIN | POLLRDNORM;
        }
        if !state.ldisc.held() && state.shown.len() < self.shown_limit() {
            bits |= POLLOUT | POLLWRNORM;
        }
        bits
    }

    fn poll_master(&self, state: &State) -> u32 {
        let mut bits = 0;
        if !state.shown.is_empty() {
            bits |= POLLIN | POLLRDNORM;
        }
        if state.packet && state.status != 0 {
            bits |= POLLIN | POLLRDNORM | POLLPRI;
        }
        if state.left_alone {
            bits |= POLLHUP;
        }
        if state.typed.len() < TYPED_LIMIT {
            bits |= POLLOUT | POLLWRNORM;
        }
        bits
    }
}

impl FileOps for TtyFile {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if self.master { self.tty.read_master(dst) } else { self.read_slave(dst) }
    }

    fn write(&self, _at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        if self.hung_up() {
            return Err(Errno::EIO);
        }
        let mut buf = vec![0; src.left().min(CHUNK)];
        let taken = src.take(&mut buf)?;
        let data = buf.get(..taken).unwrap_or_default();
        let count = if self.master { self.tty.typed(data) } else { self.tty.write_slave(data) };
        src.untake(taken.saturating_sub(count));
        if count == 0 && taken > 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(Written { count, end: 0 })
    }

    fn signals(&self) -> bool {
        true
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        let tty = &*self.tty;
        if let Some(table) = table {
            table.add(if self.master { &tty.master_queue } else { &tty.slave_queue });
        }
        let state = tty.state.lock();
        if self.is_hung_up(&state) {
            return POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM;
        }
        if self.master { tty.poll_master(&state) } else { tty.poll_slave(&state) }
    }

    fn flags_changed(&self, flags: u32) -> Result<(), Errno> {
        self.nonblocking.store(flags & O_NONBLOCK != 0, Ordering::Relaxed);
        Ok(())
    }

    fn readable_bytes(&self) -> Result<u64, Errno> {
        let state = self.tty.state.lock();
        if self.is_hung_up(&state) {
            return Err(Errno::EIO);
        }
        Ok(if self.master { state.shown.len() } else { state.ldisc.readable() } as u64)
    }
}

impl Drop for TtyFile {
    fn drop(&mut self) {
        let tty = &self.tty;
        if self.master {
            tty.state.lock().master_open = false;
            if let Some(on_release) = &tty.on_release {
                on_release(tty.index);
            }
            tty.hangup();
            return;
        }
        let alone = {
            let mut state = tty.state.lock();
            if self.is_hung_up(&state) {
                return;
            }
            state.slaves = state.slaves.saturating_sub(1);
            state.left_alone = state.slaves == 0;
            state.left_alone
        };
        if alone {
            tty.master_queue.wake(POLLHUP | POLLIN);
        }
    }
}
