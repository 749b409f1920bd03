//! A command on a terminal of its own, driven by what it prints.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::run;

#[derive(Debug)]
pub struct Session {
    child: Child,
    master: File,
    slave: File,
    seen: Vec<u8>,
    /// Where the next `expect` starts to look.
    at: usize,
}

impl Session {
    /// Starts the command as a session leader whose controlling terminal is 33 rows by 77 columns.
    pub fn start(inner: &Command) -> Session {
        let size = nix::pty::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&size), None).expect("openpty");
        let slave: File = pty.slave.into();
        let mut c = Command::new("setsid");
        c.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        for (k, v) in inner.get_envs() {
            c.env(k, v.unwrap_or_default());
        }
        let io = || slave.try_clone().expect("dup");
        c.stdin(io()).stdout(io()).stderr(io()).process_group(0);
        let child = c.spawn().expect("setsid starts");
        Session { child, master: pty.master.into(), slave, seen: Vec::new(), at: 0 }
    }

    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// The terminal's new size, as a terminal emulator would set it.
    pub fn resize(&self, rows: u16, cols: u16) {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.slave));
        let (r, c) = (rows.to_string(), cols.to_string());
        let ok = Command::new("stty")
            .arg("-F")
            .arg(std::fs::read_link(path).expect("a pts"))
            .args(["rows", &r, "cols", &c])
            .status();
        assert!(ok.is_ok_and(|s| s.success()), "stty");
    }

    fn read_for(&mut self, limit: Duration) -> bool {
        let ms = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, ms), Ok(n) if n > 0) {
            return false;
        }
        let mut buf = [0; 4096];
        match self.master.read(&mut buf) {
            Ok(n) if n > 0 => {
                self.seen.extend_from_slice(&buf[..n]);
                true
            }
            _ => false,
        }
    }

    /// Reads until the text appears after what was expected before.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        loop {
            let rest = &self.seen[self.at..];
            if let Some(i) = rest.windows(text.len()).position(|w| w == text.as_bytes()) {
                self.at += i + text.len();
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no {text:?} within {limit:?} in {:?}", self.seen()));
            }
            self.read_for(left.min(Duration::from_millis(100)));
            if let Ok(Some(s)) = self.child.try_wait() {
                while self.read_for(Duration::from_millis(50)) {}
                if !self.seen[self.at..].windows(text.len()).any(|w| w == text.as_bytes()) {
                    return Err(format!("ended ({s}) before {text:?}: {:?}", self.seen()));
                }
            }
        }
    }

    /// Whether it ends within the time.
    pub fn ended(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            self.read_for(Duration::from_millis(20));
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
        }
        false
    }

    /// Waits for the end; the exit code and everything that was printed.
    pub fn finish(mut self, limit: Duration) -> (Option<i32>, String) {
        let end = Instant::now() + limit;
        let mut code = None;
        while code.is_none() && Instant::now() < end {
            self.read_for(Duration::from_millis(20));
            code = self.child.try_wait().ok().flatten().map(run::code_of);
        }
        if code.is_none() {
            run::kill_tree(&mut self.child);
        }
        while self.read_for(Duration::from_millis(50)) {}
        (code, self.seen())
    }
}
