//! Terminals: pseudo-terminals and the container's console.
//!
//! A [`Tty`] is the slave side: line discipline, settings, job control state. Its other end is a master (`/dev/ptmx`) or
//! a terminal of the host that the runtime made for us ([`console`]), which is kept in raw mode.
//!
//! Neighbours: `fs-dev` opens terminals by device node; `syscalls` calls [`check_read`], [`check_write`], [`ioctl`] and
//! [`opened`] where the caller matters, since file operations take no task.
//!
//! Invariant: signals are sent and queues woken with no lock of a terminal held.
//!
//! Locks: `Kernel::tree` → `Tty::state` (leaf).

pub mod console;
mod file;
mod ioctl;
mod job;
mod ldisc;
#[cfg(test)]
mod pair_tests;
mod speed;
#[cfg(test)]
mod tests;

pub use console::ConsoleTty;
pub use file::TtyFile;
pub use ioctl::ioctl;
pub use job::{adopt, check_read, check_write, opened, session_leader_exits};

use crate::Kernel;
use crate::signal::send_to_group;
use crate::time::Timer;
use chitin_abi::ioctl::*;
use chitin_abi::poll::*;
use chitin_abi::signal::SigInfo;
use chitin_abi::stat::makedev;
use chitin_abi::termios::*;
use chitin_vfs::{File, Inode, WaitQueue};
use ldisc::{Effects, Ldisc, Out};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

/// Typed bytes that wait for the line discipline (the limit of a pty's flip buffers).
const TYPED_LIMIT: usize = 8192;
/// Shown bytes that wait for the master: flip buffers and the master's own reading buffer.
const SHOWN_LIMIT: usize = 8192 + 4095;

/// What /dev/console is without a pseudo-terminal.
const CONSOLE_DEV: u64 = makedev(5, 1);

/// Called with the number of a pseudo-terminal whose master is gone.
pub type OnRelease = Box<dyn Fn(u32) + Send + Sync>;

/// A terminal: line discipline and job control state.
pub struct Tty {
    /// The number in /dev/pts; 0 for a console that has none.
    index: u32,
    dev: u64,
    console: Option<console::Host>,
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    /// Who waits at the slave's side, and at the master's.
    slave_queue: WaitQueue,
    master_queue: WaitQueue,
    /// Ends waits for VTIME.
    timer: Option<Timer>,
    on_release: Option<OnRelease>,
    slave_inode: OnceLock<Weak<dyn Inode>>,
}

struct State {
    ldisc: Ldisc,
    typed: VecDeque<u8>,
    shown: VecDeque<u8>,
    /// The session it controls and its foreground group, by kernel id; 0: none.
    session: i32,
    pgrp: i32,
    winsize: Winsize,
    speeds: (u32, u32),
    /// TIOCSPTLCK: the slave cannot be opened yet.
    locked: bool,
    exclusive: bool,
    packet: bool,
    /// TIOCPKT_* bits for the next read of a master in packet mode.
    status: u8,
    master_open: bool,
    slaves: usize,
    /// The last slave was closed, and none opened since.
    left_alone: bool,
    /// Counts hang-ups: files opened before one are dead.
    hangups: u64,
    /// When something was last typed (monotonic).
    last_input: u64,
}

impl Tty {
    fn new(kernel: &Arc<Kernel>, index: u32, dev: u64, termios: Termios) -> Tty {
        Tty {
            index,
            dev,
            console: None,
            kernel: Arc::downgrade(kernel),
            state: Mutex::new(State {
                ldisc: Ldisc::new(termios),
                typed: VecDeque::new(),
                shown: VecDeque::new(),
                session: 0,
                pgrp: 0,
                winsize: Winsize::default(),
                speeds: (38400, 38400),
                locked: false,
                exclusive: false,
                packet: false,
                status: 0,
                master_open: true,
                slaves: 0,
                left_alone: false,
                hangups: 0,
                last_input: 0,
            }),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
            timer: None,
            on_release: None,
            slave_inode: OnceLock::new(),
        }
    }

    /// A pseudo-terminal; locked until its maker unlocks it (unlockpt(3)).
    pub fn new_pty(kernel: &Arc<Kernel>, index: u32, on_release: OnRelease) -> Arc<Tty> {
        let mut tty = Tty::new(kernel, index, makedev(136, index), Termios::PTY_SLAVE);
        tty.state.get_mut().locked = true;
        tty.on_release = Some(on_release);
        tty.with_timer(kernel)
    }

    fn with_timer(mut self, kernel: &Arc<Kernel>) -> Arc<Tty> {
        let queue = self.slave_queue.clone();
        self.timer = Some(Timer::with_fn(kernel.reactor.timers(), move || queue.wake(POLLIN)));
        Arc::new(self)
    }

    pub fn index(&self) -> u32 {
        self.index
    }
    /// The device number, as /proc/PID/stat shows it.
    pub fn dev(&self) -> u64 {
        self.dev
    }
    /// Whether its other end is on the host.
    pub fn is_console(&self) -> bool {
        self.console.is_some()
    }
    /// Whether it has a name in /dev/pts.
    pub fn is_pty(&self) -> bool {
        self.dev != CONSOLE_DEV
    }
    /// The kernel id of the session it controls (0: none).
    pub fn session(&self) -> i32 {
        self.state.lock().session
    }
    /// The foreground process group (0: none).
    pub fn foreground(&self) -> i32 {
        self.state.lock().pgrp
    }
    /// What TIOCGPTPEER opens.
    pub fn set_slave_inode(&self, inode: &Arc<dyn Inode>) {
        let _first_wins = self.slave_inode.set(Arc::downgrade(inode));
    }

    /// The name as ps(1) shows it.
    pub fn name(&self) -> String {
        if self.is_pty() { format!("pts/{}", self.index) } else { "console".into() }
    }

    /// Sets the window size; a change tells the foreground group (SIGWINCH).
    pub fn set_winsize(&self, size: Winsize) {
        let pgrp = {
            let mut state = self.state.lock();
            if state.winsize == size {
                return;
            }
            state.winsize = size;
            state.pgrp
        };
        self.signal_group(pgrp, chitin_abi::signal::SIGWINCH);
    }

    pub fn winsize(&self) -> Winsize {
        self.state.lock().winsize
    }

    fn signal_group(&self, pgrp: i32, signal: u32) {
        if let Some(kernel) = self.kernel.upgrade()
            && pgrp > 0
        {
            send_to_group(&kernel, pgrp, SigInfo::kernel(signal));
        }
    }

    /// Something typed arrives. Answers how much was taken.
    fn typed(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        let count = data.len().min(TYPED_LIMIT.saturating_sub(state.typed.len()));
        state.typed.extend(data.get(..count).unwrap_or_default());
        state.last_input = crate::time::monotonic();
        let fx = self.pump(&mut state);
        let pgrp = state.pgrp;
        drop(state);
        self.after_input(fx, pgrp);
        count
    }

    /// Lets the line discipline have what was typed.
    fn pump(&self, state: &mut State) -> Effects {
        let mut fx = Effects::default();
        let State { ldisc, typed, shown, .. } = &mut *state;
        let mut out = Out { queue: shown, limit: self.shown_limit() };
        ldisc.feed(typed, &mut out, &mut fx);
        ldisc.show_echo(&mut out);
        if state.packet {
            if fx.flushed {
                state.status |= TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE;
            }
            state.note_flow(fx.started, fx.stopped);
        }
        self.flush_host(state);
        fx
    }

    /// What follows input, with the lock released.
    fn after_input(&self, fx: Effects, pgrp: i32) {
        for signal in fx.signals {
            self.signal_group(pgrp, signal);
        }
        self.slave_queue.wake(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM);
        self.master_queue.wake(POLLIN | POLLRDNORM | POLLPRI);
    }

    fn shown_limit(&self) -> usize {
        if self.is_console() { 64 << 10 } else { SHOWN_LIMIT }
    }

    /// Goes on after output was stopped (^S, tcflow).
    fn restarted(&self) {
        {
            let mut state = self.state.lock();
            let State { ldisc, shown, .. } = &mut *state;
            ldisc.show_echo(&mut Out { queue: shown, limit: self.shown_limit() });
            self.flush_host(&mut state);
        }
        self.slave_queue.wake(POLLOUT | POLLWRNORM);
        self.master_queue.wake(POLLIN | POLLRDNORM | POLLPRI);
    }

    /// The settings.
    pub fn termios(&self) -> Termios {
        *self.state.lock().ldisc.termios()
    }

    /// tcsetattr(3); `flush`: input that was not read goes.
    fn set_termios(&self, new: Termios, speeds: Option<(u32, u32)>, flush: bool) {
        {
            let mut state = self.state.lock();
            if flush {
                state.flush_input();
            }
            let old = *state.ldisc.termios();
            let mut new = Termios { c_line: old.c_line, ..new };
            if self.is_pty() {
                new.c_cflag = new.c_cflag & !(CSIZE | PARENB) | CS8 | CREAD;
            }
            state.speeds = speeds.unwrap_or_else(|| speed::of(&new, state.speeds));
            let started = state.ldisc.set_termios(new);
            if state.packet {
                let flow = |t: &Termios| {
                    t.c_iflag & IXON != 0
                        && t.c_cc.get(VSTOP) == Some(&0o23)
                        && t.c_cc.get(VSTART) == Some(&0o21)
                };
                if (old.c_lflag ^ new.c_lflag) & EXTPROC != 0 {
                    state.status |= TIOCPKT_IOCTL;
                }
                if flow(&old) != flow(&new) {
                    state.status &= !(TIOCPKT_DOSTOP | TIOCPKT_NOSTOP);
                    state.status |= if flow(&new) { TIOCPKT_DOSTOP } else { TIOCPKT_NOSTOP };
                }
                state.note_flow(started, false);
            }
        }
        self.restarted();
        self.slave_queue.wake(POLLIN | POLLRDNORM);
    }
}

impl State {
    fn flush_input(&mut self) {
        self.typed.clear();
        self.ldisc.flush_input();
        if self.packet {
            self.status |= TIOCPKT_FLUSHREAD;
        }
    }

    fn flush_output(&mut self) {
        self.shown.truncate(ldisc::BUF_SIZE - 1);
        if self.packet {
            self.status |= TIOCPKT_FLUSHWRITE;
        }
    }

    /// Output was started or stopped, in packet mode.
    fn note_flow(&mut self, started: bool, stopped: bool) {
        if !self.packet {
            return;
        }
        if started {
            self.status = self.status & !TIOCPKT_STOP | TIOCPKT_START;
        }
        if stopped {
            self.status = self.status & !TIOCPKT_START | TIOCPKT_STOP;
        }
    }
}

/// The terminal behind a file.
pub fn of_file(file: &File) -> Option<Arc<Tty>> {
    file.downcast::<TtyFile>().map(|file| file.tty().clone())
}
