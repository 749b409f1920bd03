//! A private world for an engine: namespaces of its own, so that whatever its daemon, shims and containers leave ends with
//! the world's init, and mounts and `/run` are nobody else's.
//!
//! Invariants: the init holds the read end of our pipe as its lifeline, so the world also ends when the test process is
//! killed. Every cgroup made inside carries the world's cookie in its path and is removed at the end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::run::{self, Outcome};

/// Which cgroups the engines see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// The machine's.
    Own,
    /// A plain cgroup2 mount: for runtimes that refuse hybrid hierarchies.
    V2,
}

impl Cgroups {
    /// What a runtime can work with here: crun refuses hybrids, everybody else takes what the machine has.
    pub fn for_engine(e: Engine) -> Cgroups {
        let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
        if e == Engine::Crun && hybrid { Cgroups::V2 } else { Cgroups::Own }
    }
}

#[derive(Debug)]
pub struct World {
    /// Scratch for the engine's root, state, logs.
    pub dir: PathBuf,
    /// In the path of every cgroup made here.
    pub cookie: String,
    init: i32,
    outer: Child,
}

impl World {
    pub fn start(name: &str, cgroups: Cgroups) -> Result<World, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("engines need root; run the tests as root".into());
        }
        let dir = crate::paths::scratch(name);
        let cookie = format!("chitin-{name}-{}", std::process::id());
        let log = File::create(dir.join("world.log")).map_err(|e| format!("world.log: {e}"))?;
        let mode = if cgroups == Cgroups::V2 { "v2" } else { "own" };
        let mut outer = Command::new("sh")
            .arg(crate::paths::repo().join("tests/harness/src/engines/world.sh"))
            .args([&cookie, mode])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|e| format!("sh: {e}"))?;
        let mut first = String::new();
        let said = outer.stdout.take().map(|o| BufReader::new(o).read_line(&mut first));
        if !matches!(said, Some(Ok(_))) || first.trim() != "ready" {
            let why = std::fs::read_to_string(dir.join("world.log")).unwrap_or_default();
            run::kill_tree(&mut outer);
            return Err(format!("namespaces of its own: {}", why.trim()));
        }
        // outer sh → unshare → init
        let pid = outer.id().cast_signed();
        let child = |of: i32| {
            let kids = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
            kids.split_whitespace().next().and_then(|k| k.parse::<i32>().ok())
        };
        let init = child(pid).and_then(child).ok_or("the world's init is not to be found")?;
        Ok(World { dir, cookie, init, outer })
    }

    /// A command inside the world.
    pub fn command(&self, program: &str) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["-t", &self.init.to_string(), "--mount", "--pid", "--net", "--", program]);
        c
    }

    pub fn run(&self, args: &[&str], limit: Duration) -> Outcome {
        self.run_with(args, b"", limit)
    }

    pub fn run_with(&self, args: &[&str], stdin: &[u8], limit: Duration) -> Outcome {
        let (program, rest) = args.split_first().expect("a program");
        let mut c = self.command(program);
        c.args(rest);
        run::run(c, stdin, &crate::paths::scratch("w"), limit)
    }

    /// Do the cgroups seen inside count and limit memory?
    pub fn limits_memory(&self) -> bool {
        let v2 = || {
            let list =
                self.run(&["cat", "/sys/fs/cgroup/cgroup.controllers"], Duration::from_secs(10)).text();
            list.split_whitespace().any(|c| c == "memory")
        };
        self.run(&["test", "-d", "/sys/fs/cgroup/memory"], Duration::from_secs(10)).code == Some(0) || v2()
    }

    /// Starts a daemon whose output goes to `<name>.log`.
    pub fn daemon(&self, name: &str, mut command: Command) -> Result<Daemon, String> {
        let path = self.dir.join(format!("{name}.log"));
        let log =
            File::options().append(true).create(true).open(&path).map_err(|e| format!("{name}.log: {e}"))?;
        let copy = log.try_clone().map_err(|e| format!("{name}.log: {e}"))?;
        command.stdin(Stdio::null()).stdout(copy).stderr(log).process_group(0);
        let child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        Ok(Daemon { child, log: path })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.outer.stdin.take());
        if run::wait_for(&mut self.outer, Duration::from_secs(20)).is_none() {
            run::kill_tree(&mut self.outer);
        }
    }
}

#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// The process itself: nsenter's only child.
    fn pid(&self) -> Option<i32> {
        let of = self.child.id();
        let kids = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
        kids.split_whitespace().next()?.parse().ok()
    }

    /// Waits until it answers.
    pub fn ready(&mut self, limit: Duration, mut answers: impl FnMut() -> bool) -> Result<(), String> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if answers() {
                return Ok(());
            }
            if let Ok(Some(s)) = self.child.try_wait() {
                return Err(format!("ended with {s}: {}", self.tail()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("does not answer within {limit:?}: {}", self.tail()))
    }

    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }

    /// Ends it: politely, and after the limit for good. What it started goes on.
    pub fn stop(mut self, limit: Duration) -> Result<(), String> {
        use nix::sys::signal::{Signal, kill};
        let pid = self.pid().ok_or("it has ended before")?;
        let signal = |s: Signal| kill(nix::unistd::Pid::from_raw(pid), s).map_err(|e| format!("{s}: {e}"));
        signal(Signal::SIGTERM)?;
        if run::wait_for(&mut self.child, limit).is_some() {
            return Ok(());
        }
        signal(Signal::SIGKILL)?;
        run::wait_for(&mut self.child, limit).map(drop).ok_or("it does not even end by SIGKILL".to_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let (Some(pid), Ok(None)) = (self.pid(), self.child.try_wait()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
            let _ = run::wait_for(&mut self.child, Duration::from_secs(5));
        }
    }
}
