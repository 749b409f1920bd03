//! Staying with a container (`run`, `do`) or with a process in one (`exec`) until it ends.
//!
//! Signals that we get are passed on: to a container's init through the control socket, to another process through the
//! one that stands for it. All of these are in sessions of their own, so what is typed at our terminal signals us alone
//! and reaches the guest exactly once. With a pty of ours the user's terminal is raw and its bytes are relayed; then
//! keys are the guest's.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use chitin_control::Request;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;

use super::Sandbox;
use super::console::{RawTerminal, copy_size};
use super::launch::Child;
use super::link::Link;
use crate::util::{Context, Result};

/// Signals that are ours (or about ourselves) and not passed on.
const OWN: [Signal; 9] = [
    Signal::SIGCHLD,
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGPIPE,
];

/// Signals caught from before the container exists, so that none is lost.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    pub fn catch() -> Result<Self> {
        let failed = || "cannot set up signals".to_owned();
        let mut set = SigSet::all();
        for signal in OWN {
            set.remove(signal);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).context(failed)?;
        let fd =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context(failed)?;
        Ok(Self(fd))
    }

    /// The next signal that is there, and whether the host's kernel sent it (and not somebody's kill(2)).
    pub fn next(&self) -> Option<(i32, bool)> {
        while let Ok(Some(info)) = self.0.read_signal() {
            // A pipe that we wrote to without a reader.
            if info.ssi_pid != std::process::id() || info.ssi_code > 0 {
                return Some((i32::try_from(info.ssi_signo).unwrap_or(0), info.ssi_code > 0));
            }
        }
        None
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How long nothing may be shown after the end until that is taken for all.
const LAST_OUTPUT_MS: u8 = 100;

/// Who is attended.
pub trait Attended {
    /// Readable at its end.
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// Passes a signal on.
    fn forward(&mut self, signal: i32);
    /// Its exit code, once it has ended.
    fn end(&mut self) -> Result<u8>;
}

/// The exit code of a process whose end is known.
pub fn exit_code(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Exited(_, code) => code.to_le_bytes()[0],
        WaitStatus::Signaled(_, signal, _) => 128u8.saturating_add((signal as i32).to_le_bytes()[0]),
        _ => 255,
    }
}

/// Waits for the end and returns the exit code.
pub fn attend(attended: &mut dyn Attended, signals: &Signals, master: Option<OwnedFd>) -> Result<u8> {
    let stdin = std::io::stdin();
    let mut relay = match master {
        None => None,
        Some(master) => {
            let terminal = RawTerminal::enter(stdin.as_fd())?;
            if terminal.is_some() {
                copy_size(stdin.as_fd(), master.as_fd());
            }
            Some(Relay::new(master, terminal.is_some())?).map(|relay| (relay, terminal))
        }
    };
    loop {
        let mut fds = vec![
            PollFd::new(attended.pidfd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some((relay, _)) = &relay {
            relay.interests(stdin.as_fd(), &mut fds);
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let (ended, signalled) = (fds.first().is_some_and(ready), fds.get(1).is_some_and(ready));
        drop(fds);
        while signalled && let Some((signal, _)) = signals.next() {
            match &relay {
                Some((relay, Some(_))) if signal == libc::SIGWINCH => {
                    copy_size(stdin.as_fd(), relay.master.as_fd());
                }
                _ if signal == libc::SIGWINCH || signal == libc::SIGURG => {}
                _ => attended.forward(signal),
            }
        }
        if let Some((relay, _)) = &mut relay {
            relay.turn(stdin.as_fd());
        }
        if ended {
            break;
        }
    }
    if let Some((relay, _)) = &mut relay {
        relay.drain();
    }
    drop(relay);
    attended.end()
}

/// A sandbox of ours, with the connection that signals go over once there is one.
#[derive(Debug)]
pub struct Whole<'a> {
    sandbox: &'a mut Sandbox,
    link: Option<Link>,
}

impl<'a> Whole<'a> {
    pub fn new(sandbox: &'a mut Sandbox) -> Self {
        Self { sandbox, link: None }
    }
}

impl Attended for Whole<'_> {
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.sandbox.sentry_pidfd()
    }

    /// If the sentry cannot be reached, a signal that asks for an end gets one.
    fn forward(&mut self, signal: i32) {
        let container = self.sandbox.state().id.clone();
        // Keys reach all processes in front, not only the first one; a command of `do` has no terminal to see to that.
        let all = self.sandbox.is_plain_command() && matches!(signal, libc::SIGINT | libc::SIGQUIT);
        let request = Request::Signal { container, signal, all, pid: None };
        let sent = match &mut self.link {
            Some(link) => link.order(&request),
            None => self.sandbox.link().and_then(|new| self.link.insert(new).order(&request)),
        };
        if let Err(e) = sent {
            self.link = None;
            if [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(&signal) {
                crate::log::warn(&format!(
                    "signal {signal} could not be passed on ({e}): killing the container"
                ));
                self.sandbox.kill();
            }
        }
    }

    fn end(&mut self) -> Result<u8> {
        let status = self.sandbox.wait()?;
        if let Some(what) = self.sandbox.disturbed() {
            crate::log::error(&what);
        }
        Ok(exit_code(status))
    }
}

/// The stand-in of a process in a container.
impl Attended for Child {
    fn pidfd(&self) -> BorrowedFd<'_> {
        Child::pidfd(self)
    }

    fn forward(&mut self, signal: i32) {
        self.signal(signal);
    }

    fn end(&mut self) -> Result<u8> {
        self.wait().map(exit_code)
    }
}

/// Bytes between the user's terminal and the pty.
struct Relay {
    master: OwnedFd,
    to_master: Vec<u8>,
    stdin_open: bool,
    master_open: bool,
    /// Standard input is a terminal; its end is then a hang-up, not an end of file for the container.
    interactive: bool,
}

impl Relay {
    fn new(master: OwnedFd, interactive: bool) -> Result<Self> {
        // The master's file description is ours alone, so this changes nothing for others.
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
            .context(|| "cannot set up the console".into())?;
        Ok(Self { master, to_master: Vec::new(), stdin_open: true, master_open: true, interactive })
    }

    fn interests<'a>(&'a self, stdin: BorrowedFd<'a>, fds: &mut Vec<PollFd<'a>>) {
        if self.master_open {
            let mut events = PollFlags::POLLIN;
            if !self.to_master.is_empty() {
                events |= PollFlags::POLLOUT;
            }
            fds.push(PollFd::new(self.master.as_fd(), events));
        }
        if self.stdin_open && self.to_master.is_empty() {
            fds.push(PollFd::new(stdin, PollFlags::POLLIN));
        }
    }

    /// Moves what can be moved without waiting for the container.
    fn turn(&mut self, stdin: BorrowedFd<'_>) {
        if self.stdin_open && self.to_master.is_empty() && readable(stdin) {
            let mut chunk = [0u8; 4096];
            match nix::unistd::read(stdin, &mut chunk) {
                Ok(0) | Err(nix::Error::EIO) => {
                    self.stdin_open = false;
                    if !self.interactive {
                        // ^D at the start of a line is how a terminal says that the input is over.
                        self.to_master.push(4);
                    }
                }
                Ok(n) => self.to_master.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
                Err(_) => self.stdin_open = false,
            }
        }
        if self.master_open && !self.to_master.is_empty() {
            match nix::unistd::write(&self.master, &self.to_master) {
                Ok(n) => drop(self.to_master.drain(..n.min(self.to_master.len()))),
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(_) => self.to_master.clear(),
            }
        }
        self.output();
    }

    /// Shows one buffer of output. False when there is none.
    fn output(&mut self) -> bool {
        if !self.master_open {
            return false;
        }
        let mut chunk = [0u8; 16384];
        match nix::unistd::read(&self.master, &mut chunk) {
            Ok(n) if n > 0 => {
                let mut stdout = std::io::stdout().lock();
                let shown =
                    stdout.write_all(chunk.get(..n).unwrap_or_default()).and_then(|()| stdout.flush());
                if shown.is_err() {
                    // Nobody reads any more: a hang-up for the container.
                    self.master_open = false;
                }
                true
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => false,
            // The last slave is closed.
            _ => {
                self.master_open = false;
                false
            }
        }
    }

    /// Shows what is left after the container's end. What is on its way through the host's terminal comes before the end
    /// of its last slave; somebody else may keep that open.
    fn drain(&mut self) {
        while self.master_open {
            if self.output() {
                continue;
            }
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if matches!(poll(&mut fds, PollTimeout::from(LAST_OUTPUT_MS)), Ok(0)) {
                return;
            }
        }
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}

/// Reads the sentry's one line of report, which is bounded.
pub fn read_report(mut pipe: impl Read, into: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = [0u8; 4096];
    let n = pipe.read(&mut chunk)?;
    into.extend_from_slice(chunk.get(..n).unwrap_or_default());
    Ok(n == 0 || into.last() == Some(&b'\n') || into.len() > 65536)
}
