//! Bounded runs of host commands. Output goes to files, so that a stray descendant holding a pipe cannot hang a test.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit code, 128+n for a signal, `None` when the time ran out.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    /// One line for a failed assertion.
    pub fn brief(&self) -> String {
        let t = |s: &str| s.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect::<String>();
        format!(
            "exit {:?} after {:.1?}; stdout …{:?}; stderr …{:?}",
            self.code,
            self.elapsed,
            t(&self.text()),
            t(&self.stderr)
        )
    }
}

pub fn code_of(s: ExitStatus) -> i32 {
    s.code().or_else(|| s.signal().map(|n| 128 + n)).unwrap_or(-1)
}

/// Waits, at most until the deadline.
pub fn wait_for(child: &mut Child, limit: Duration) -> Option<i32> {
    let end = Instant::now() + limit;
    let mut nap = Duration::from_millis(1);
    loop {
        match child.try_wait().expect("wait for own child") {
            Some(s) => return Some(code_of(s)),
            None if Instant::now() >= end => return None,
            None => std::thread::sleep(nap),
        }
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

/// Kills the child and its process group (it was started as a group of its own), and reaps the child.
pub fn kill_tree(child: &mut Child) {
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.kill();
    let _ = child.wait();
}

/// How long a run may take; how long it may show nothing before it is asked about, if that matters.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub limit: Duration,
    pub quiet: Option<Duration>,
}

impl From<Duration> for Patience {
    fn from(limit: Duration) -> Patience {
        Patience { limit, quiet: None }
    }
}

/// How often a run is looked at whose silence matters.
const LOOK: Duration = Duration::from_secs(1);

/// Runs to the end or to the limit. `dir` takes the output files.
pub fn run(cmd: Command, stdin: &[u8], dir: &Path, limit: Duration) -> Outcome {
    run_or_ask(cmd, stdin, dir, limit.into(), &String::new)
}

/// The same; a run that exceeds the limit is asked about by `ask`, too, before it is killed. One that is quiet for too long
/// is asked about once, and goes on.
pub fn run_or_ask(
    mut cmd: Command,
    stdin: &[u8],
    dir: &Path,
    patience: Patience,
    ask: &dyn Fn() -> String,
) -> Outcome {
    let (i, o, e) = (dir.join("stdin"), dir.join("stdout"), dir.join("stderr"));
    std::fs::write(&i, stdin).expect("scratch is writable");
    let file = |p: &Path| File::create(p).expect("scratch is writable");
    cmd.stdin(File::open(&i).expect("just written")).stdout(file(&o)).stderr(file(&e)).process_group(0);
    let start = Instant::now();
    let mut child = cmd.spawn().unwrap_or_else(|err| panic!("{:?}: {err}", cmd.get_program()));
    let mut stuck = String::new();
    let mut tell = |child: &Child, why: &str| {
        let told =
            format!("{why} after {:.1?}:\n{}{}\n", start.elapsed(), ask(), crate::stuck::report(child.id()));
        eprintln!("{told}");
        stuck += &told;
    };
    let mut heard = Some((0, start));
    let code = loop {
        let left = patience.limit.saturating_sub(start.elapsed());
        let step = if patience.quiet.is_some() { left.min(LOOK) } else { left };
        let code = wait_for(&mut child, step);
        if code.is_some() || left.is_zero() {
            break code;
        }
        if let (Some(quiet), Some((length, since))) = (patience.quiet, heard) {
            let now = std::fs::metadata(&o).map_or(0, |m| m.len());
            if now != length {
                heard = Some((now, Instant::now()));
            } else if since.elapsed() > quiet {
                heard = None;
                tell(&child, "quiet");
            }
        }
    };
    let elapsed = start.elapsed();
    if code.is_none() {
        tell(&child, "not done");
        kill_tree(&mut child);
    }
    let stderr = String::from_utf8_lossy(&std::fs::read(&e).unwrap_or_default()).into_owned() + &stuck;
    Outcome { code, stdout: std::fs::read(&o).unwrap_or_default(), stderr, elapsed }
}

/// The same with no input and discarded files' location chosen here.
pub fn quick(cmd: Command, limit: Duration) -> Outcome {
    run(cmd, b"", &crate::paths::scratch("quick"), limit)
}

/// Is a program on PATH?
pub fn have(program: &str) -> bool {
    let mut c = Command::new("sh");
    c.args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).stderr(Stdio::null());
    c.status().is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: u64, quiet: Option<u64>) -> Outcome {
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        let patience = Patience { limit: Duration::from_secs(limit), quiet: quiet.map(Duration::from_secs) };
        run_or_ask(c, b"", &crate::paths::scratch("patience"), patience, &|| "asked\n".into())
    }

    #[test]
    fn silence_is_asked_about_once_and_the_end_of_patience_ends() {
        let out = sh("sleep 4.5; echo done", 60, Some(1));
        assert_eq!((out.code, out.text().as_str()), (Some(0), "done\n"), "{}", out.brief());
        assert_eq!(out.stderr.matches("asked").count(), 1, "{}", out.stderr);
        assert!(out.stderr.contains(" sleep: "), "{}", out.stderr);
        let out = sh("for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done", 60, Some(2));
        assert!(out.code == Some(0) && out.stderr.is_empty(), "{}", out.brief());
        let out = sh("sleep 60", 1, None);
        assert!(out.code.is_none() && out.stderr.contains("asked"), "{}", out.brief());
    }
}
