//! The container's console: a terminal above the slave of a host pseudo-terminal that the runtime made for us alone.
//!
//! The host's side is put into raw mode, so that all bytes pass and our own line discipline is the only one; nobody has
//! to restore it, since that pseudo-terminal goes with the container. What is typed comes by the reactor.
//!
//! Guests know it as a pseudo-terminal of their devpts, as if its master were somewhere outside, or, where there is no
//! devpts, as /dev/console alone.
//!
//! Neighbours: `boot` starts one for each process with `terminal: true`, opens its stdio by its name or by [`open_file`],
//! and passes on what happens to the host's terminal ([`Tty::set_winsize`], [`ConsoleTty::signal`]).

use super::{CONSOLE_DEV, OnRelease, State, TYPED_LIMIT, Tty};
use crate::Kernel;
use crate::reactor::HostFdWatch;
use chitin_abi::Errno;
use chitin_abi::fcntl::O_RDWR;
use chitin_abi::poll::*;
use chitin_abi::signal::{SIGHUP, SIGWINCH};
use chitin_abi::stat::makedev;
use chitin_abi::termios::*;
use chitin_host::stdio;
use chitin_vfs::{Attr, File, FileKind, FileOps, Inode, InodeState, SetAttr};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// How long the last output waits for somebody to read it.
const STALLED_MS: u32 = 2000;

/// The host's side of a console.
pub(super) struct Host {
    fd: Arc<OwnedFd>,
    watch: OnceLock<Arc<HostFdWatch>>,
}

/// Makes consoles.
pub struct ConsoleTty;

impl ConsoleTty {
    /// Takes a host terminal over, for /dev/console only. ENOTTY when it is none.
    pub fn start(kernel: &Arc<Kernel>, fd: Arc<OwnedFd>) -> io::Result<Arc<Tty>> {
        ConsoleTty::make(kernel, fd, None)
    }

    /// The same as a pseudo-terminal with a number, which `on_release` gets back in the end.
    pub fn start_pty(
        kernel: &Arc<Kernel>,
        fd: Arc<OwnedFd>,
        index: u32,
        on_release: OnRelease,
    ) -> io::Result<Arc<Tty>> {
        ConsoleTty::make(kernel, fd, Some((index, on_release)))
    }

    fn make(
        kernel: &Arc<Kernel>,
        fd: Arc<OwnedFd>,
        number: Option<(u32, OnRelease)>,
    ) -> io::Result<Arc<Tty>> {
        let settings = stdio::termios(fd.as_fd())?;
        let mut raw =
            Termios2::read_from_bytes(&settings).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let Termios2 { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc, .. } = raw;
        let ours = Termios { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc };
        (raw.c_iflag, raw.c_oflag, raw.c_lflag) = (0, 0, 0);
        raw.c_cc[VMIN] = 1;
        raw.c_cc[VTIME] = 0;
        let mut bytes = [0; 44];
        raw.write_to(&mut bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        stdio::set_termios(fd.as_fd(), bytes)?;
        // Nobody else uses this description.
        stdio::set_nonblocking(fd.as_fd())?;
        let mut tty = match number {
            None => Tty::new(kernel, 0, CONSOLE_DEV, ours),
            Some((index, on_release)) => {
                let mut tty = Tty::new(kernel, index, makedev(136, index), ours);
                tty.on_release = Some(on_release);
                tty
            }
        };
        tty.console = Some(Host { fd: fd.clone(), watch: OnceLock::new() });
        let tty = tty.with_timer(kernel);
        ConsoleTty::refresh(&tty);
        let weak = Arc::downgrade(&tty);
        let on_ready = Box::new(move |bits| {
            if let Some(tty) = weak.upgrade() {
                tty.host_ready(bits);
            }
        });
        let watch = kernel.reactor.watch_with(fd, on_ready)?;
        if let Some(host) = &tty.console {
            let _only_once = host.watch.set(watch);
        }
        Ok(tty)
    }

    /// Takes over the host terminal's window size (after the host's SIGWINCH).
    pub fn refresh(tty: &Tty) {
        let Some(host) = &tty.console else { return };
        if let Ok([ws_row, ws_col, ws_xpixel, ws_ypixel]) = stdio::winsize(host.fd.as_fd()) {
            tty.set_winsize(Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel });
        }
    }

    /// Gives it a size, and the host's terminal the same.
    pub fn resize(tty: &Tty, size: Winsize) {
        tty.set_winsize(size);
        tty.tell_host_size(size);
    }

    /// Waits, after the end of the console's process, until the host has taken what it has shown: for as long as somebody
    /// reads there. On Linux the terminal keeps it; ours goes with the process.
    pub fn show_rest(tty: &Tty) {
        let (mut before, mut stalled) = (usize::MAX, 0u32);
        while stalled < STALLED_MS {
            let left = tty.state.lock().shown.len();
            if left == 0 {
                return;
            }
            stalled = if left < before { 0 } else { stalled.saturating_add(1) };
            before = left;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A signal that the host's terminal made for whoever has it as the controlling one there.
    pub fn signal(tty: &Arc<Tty>, signal: u32) {
        match signal {
            SIGWINCH => ConsoleTty::refresh(tty),
            SIGHUP => tty.host_gone(),
            signal => tty.signal_group(tty.foreground(), signal),
        }
    }
}

/// A file on the console, for a process's stdio: without a path.
pub fn open_file(tty: &Arc<Tty>) -> Result<Arc<File>, Errno> {
    let ops = tty.open_slave(O_RDWR, true)?;
    let inode = Arc::new(ConsoleInode {
        tty: Arc::downgrade(tty),
        changes: Mutex::default(),
        state: InodeState::default(),
    });
    Ok(File::new(ops, inode, None, O_RDWR))
}

impl Tty {
    fn host_ready(self: &Arc<Tty>, bits: u32) {
        if bits & POLLOUT != 0 {
            self.restarted();
        }
        if bits & (POLLIN | POLLHUP | POLLERR) != 0 {
            self.fetch_host();
        }
        if bits & (POLLHUP | POLLERR) != 0 {
            self.host_gone();
        }
    }

    /// The other side of the host's pseudo-terminal was closed.
    fn host_gone(self: &Arc<Tty>) {
        let first = std::mem::replace(&mut self.state.lock().master_open, false);
        if first {
            self.hangup();
        }
    }

    /// Reads what was typed on the host, as far as there is room for it.
    pub(super) fn fetch_host(&self) {
        let Some(host) = &self.console else { return };
        let mut buf = [0; 4096];
        loop {
            let room = TYPED_LIMIT.saturating_sub(self.state.lock().typed.len()).min(buf.len());
            let part = buf.get_mut(..room).unwrap_or_default();
            if part.is_empty() {
                return;
            }
            match stdio::read_nowait(host.fd.as_fd(), part) {
                Ok(count) if count > 0 => {
                    self.typed(part.get(..count).unwrap_or_default());
                }
                _ => return,
            }
        }
    }

    /// Hands the host what is to be shown, as far as it takes it.
    pub(super) fn flush_host(&self, state: &mut State) {
        let Some(host) = &self.console else { return };
        while !state.shown.is_empty() {
            let (data, _) = state.shown.as_slices();
            match stdio::write_nowait(host.fd.as_fd(), data) {
                Ok(count) if count > 0 => {
                    state.shown.drain(..count.min(state.shown.len()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => state.shown.clear(),
            }
        }
    }

    pub(super) fn tell_host_size(&self, size: Winsize) {
        let Some(host) = &self.console else { return };
        let size = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
        // The guest has its new size; a host terminal that is gone needs none.
        let _ = stdio::set_winsize(host.fd.as_fd(), size);
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // Without a master of ours, nobody has given the number back before.
        if self.console.is_some()
            && let Some(on_release) = &self.on_release
        {
            on_release(self.index);
        }
    }
}

/// The console as a file of no file system.
struct ConsoleInode {
    tty: Weak<Tty>,
    changes: Mutex<SetAttr>,
    state: InodeState,
}

impl Inode for ConsoleInode {
    fn ino(&self) -> u64 {
        1
    }
    fn kind(&self) -> FileKind {
        FileKind::CharDevice
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let changes = *self.changes.lock();
        let plain = Attr::plain(makedev(0, 15), 1, FileKind::CharDevice, changes.perm.unwrap_or(0o620));
        Ok(Attr {
            rdev: makedev(5, 1),
            uid: changes.uid.unwrap_or(0),
            gid: changes.gid.unwrap_or(5),
            ..plain
        })
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        let mut changes = self.changes.lock();
        changes.perm = change.perm.or(changes.perm);
        changes.uid = change.uid.or(changes.uid);
        changes.gid = change.gid.or(changes.gid);
        Ok(())
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        self.tty.upgrade().ok_or(Errno::EIO)?.open_slave(flags, true)
    }
    fn anon_text(&self) -> Option<Vec<u8>> {
        Some(b"/dev/console".to_vec())
    }
}
