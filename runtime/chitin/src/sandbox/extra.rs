//! Further descriptors of our caller that a container's process gets from number 3 on: `--preserve-fds`, and what
//! systemd's socket activation passes (LISTEN_FDS).
//!
//! They are taken stock of before this command opens anything itself, so that no file of ours is mistaken for one. In the
//! sandbox they are host files like standard input: read, written, polled, seeked and mapped by way of the host's own
//! descriptor. What could not work like that is refused here: a directory would need a gofer, a listening socket a
//! network of the host.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};

use super::launch::borrow_inherited;
use crate::util::{Context, Result};

/// The first number.
const FIRST: RawFd = 3;
/// As many fit into one message to the sentry.
const MOST: u32 = 200;

/// Descriptors in the order of their numbers.
#[derive(Debug, Default)]
pub struct Extra {
    fds: Vec<BorrowedFd<'static>>,
    /// How many of them are those of socket activation, which come first.
    listen: usize,
}

impl Extra {
    /// `count` descriptors behind those of socket activation, which `activated` takes.
    pub fn take(count: u32, activated: bool) -> Result<Self> {
        let listen = if activated { activation() } else { 0 };
        let total = listen.saturating_add(count);
        if total > MOST {
            return Err(format!("{total} further descriptors are too many: at most {MOST} can be passed on"));
        }
        let mut fds = Vec::new();
        for (at, number) in (0..total).zip(FIRST..) {
            let what = || match at.checked_sub(listen) {
                Some(at) => format!("unable to stat preserved-fd {at} (of {count})"),
                None => format!("LISTEN_FDS names descriptor {number}"),
            };
            let fd = borrow_inherited(number).context(what)?;
            if let Some(why) = unfit(fd, number) {
                return Err(format!(
                    "descriptor {number} (--preserve-fds, LISTEN_FDS) cannot be passed on: {why}"
                ));
            }
            fds.push(fd);
        }
        Ok(Self { fds, listen: usize::try_from(listen).unwrap_or(0) })
    }

    /// Numbers in this process.
    pub fn numbers(&self) -> Vec<RawFd> {
        self.fds.iter().map(AsRawFd::as_raw_fd).collect()
    }

    pub fn as_fds(&self) -> &[BorrowedFd<'static>] {
        &self.fds
    }

    /// Tells the container's process of them, in runc's words.
    pub fn announce(&self, env: &mut Vec<String>) {
        if self.listen > 0 {
            env.push(format!("LISTEN_FDS={}", self.listen));
            env.push("LISTEN_PID=1".into());
        }
    }
}

/// How many descriptors systemd has passed to this very process (sd_listen_fds(3)).
fn activation() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

/// Why a descriptor has no use in a sandbox.
fn unfit(fd: BorrowedFd<'_>, number: RawFd) -> Option<&'static str> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain).unwrap_or(OFlag::empty());
    if flags.contains(OFlag::O_PATH) {
        return Some("it was opened with O_PATH");
    }
    let kind = fs::metadata(format!("/proc/self/fd/{number}")).ok()?.file_type();
    if kind.is_dir() {
        return Some("it is a directory of the host; mount it instead");
    }
    if kind.is_socket() {
        let listens = getsockopt(&fd, AcceptConn).unwrap_or(false);
        return listens
            .then_some("it is a listening socket of the host, and a sandbox has a network of its own");
    }
    let streams = kind.is_file() || kind.is_fifo() || kind.is_char_device() || kind.is_block_device();
    (!streams).then_some("it is no file, pipe, socket or device")
}
