//! Host terminals: the pty behind a container with `terminal: true`, and the user's own terminal in raw mode.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::isatty;

use super::launch::{set_window_size, window_size};
use crate::util::{Context, Result};

/// A pseudo terminal of the host.
#[derive(Debug)]
pub struct Pty {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

impl Pty {
    pub fn open(size: Option<Winsize>) -> Result<Self> {
        let failed = || "cannot make a pseudo terminal (is /dev/pts mounted?)".to_owned();
        let pair = openpty(size.as_ref(), None).context(failed)?;
        for fd in [&pair.master, &pair.slave] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context(failed)?;
        }
        Ok(Self { master: pair.master, slave: pair.slave })
    }

    /// Gives the master to whoever listens on `socket`, with its name as the message, as runc does.
    pub fn send_master(&self, socket: &Path) -> Result<()> {
        let name = nix::unistd::ttyname(&self.slave).unwrap_or_else(|_| "/dev/ptmx".into());
        hand_over(socket, "--console-socket", name.as_os_str().as_bytes(), self.master.as_fd())
    }
}

/// Gives a descriptor to whoever listens on `socket`, with a message that says what it is. `flag` named the socket.
pub fn hand_over(socket: &Path, flag: &str, message: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let failed = || format!("cannot send a descriptor to {} ({flag})", socket.display());
    let stream = UnixStream::connect(socket).context(failed)?;
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(message)], &rights, MsgFlags::empty(), None)
        .context(failed)?;
    Ok(())
}

/// The user's terminal, in raw mode until this is dropped.
#[derive(Debug)]
pub struct RawTerminal<'a> {
    fd: BorrowedFd<'a>,
}

/// The mode to go back to, also for the panic hook.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

impl<'a> RawTerminal<'a> {
    /// `None` when `fd` is no terminal.
    pub fn enter(fd: BorrowedFd<'a>) -> Result<Option<Self>> {
        if !isatty(fd).unwrap_or(false) {
            return Ok(None);
        }
        let failed = || "cannot put the terminal into raw mode".to_owned();
        let before = tcgetattr(fd).context(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(before);
        }
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore(std::io::stdin().as_fd());
            previous(info);
        }));
        let terminal = Self { fd };
        tcsetattr(fd, SetArg::TCSANOW, &raw).context(failed)?;
        Ok(Some(terminal))
    }
}

impl Drop for RawTerminal<'_> {
    fn drop(&mut self) {
        restore(self.fd);
    }
}

fn restore(fd: BorrowedFd<'_>) {
    if let Ok(mut saved) = SAVED.try_lock()
        && let Some(before) = saved.take()
    {
        let _ = tcsetattr(fd, SetArg::TCSADRAIN, &before);
    }
}

/// The size of the user's terminal, if standard input is one.
pub fn own_size() -> Option<Winsize> {
    window_size(std::io::stdin().as_fd())
}

/// Gives a terminal the size of another one.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Some(size) = window_size(from) {
        set_window_size(to, &size);
    }
}
