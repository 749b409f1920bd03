//! `chitin debug --pcap`: the packets of a sandbox's interfaces, as pcapng, until somebody interrupts it.
//!
//! The sentry writes to a pipe; the file is this process's, so that the sentry needs no right to it, and what it says is
//! bounded by the time that the capture takes.

use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use chitin_control::{Request, Response};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sandbox::link::{Link, misfit};
use crate::util::{Context, Result};

/// How long the sentry may take to hand over what it has seen, once it was told to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// Captures to `path` (`-`: standard output) until a signal comes, or for `duration`.
pub fn capture(mut link: Link, path: &Path, snaplen: u32, duration: Option<Duration>) -> Result<()> {
    let failed = || "cannot prepare the capture".to_owned();
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context(failed)?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context(failed)?;
    let mut out: Box<dyn Write> = match path.to_str() {
        Some("-") => Box::new(stdout()),
        _ => Box::new(File::create(path).context(|| format!("cannot write {}", path.display()))?),
    };
    let (mut packets, writer) = pipe().context(failed)?;
    match link.call_with(&Request::Capture { snaplen }, &[writer.as_fd()])? {
        Response::Ok => {}
        other => return Err(misfit(&other)),
    }
    drop(writer);
    let mut link = Some(link);
    let mut end = duration.map(|duration| Instant::now() + duration);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // Up to a whole millisecond, or it would be asked for in vain.
        let wait = left.map(|left| left.saturating_add(Duration::from_micros(999)));
        let timeout =
            wait.map_or(PollTimeout::NONE, |w| PollTimeout::try_from(w).unwrap_or(PollTimeout::MAX));
        let mut fds = [
            PollFd::new(packets.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
        let [some, stop] = fds.map(|fd| fd.any().unwrap_or(false));
        if some && !pass_on(&mut packets, &mut out).context(|| format!("cannot write {}", path.display()))? {
            return out.flush().context(|| format!("cannot write {}", path.display()));
        }
        let over = end.is_some_and(|end| Instant::now() >= end);
        if stop {
            let _ = signals.read_signal();
        }
        if link.is_some() && (stop || over) {
            // The end of the connection is that of the capture; the rest comes through the pipe.
            link = None;
            end = Some(Instant::now() + PATIENCE);
        } else if stop || over {
            return Err("the sentry does not end the capture; the file may lack packets".into());
        }
    }
}

/// False at the end.
fn pass_on(packets: &mut PipeReader, out: &mut dyn Write) -> std::io::Result<bool> {
    let mut chunk = [0; 64 << 10];
    let count = packets.read(&mut chunk)?;
    out.write_all(chunk.get(..count).unwrap_or_default())?;
    Ok(count > 0)
}
