//! A user's terminal in front of `exec --tty` and `run`: keys, sizes, raw mode, job control, hang-ups and output that is
//! still on its way at the end. `CHITIN_TEST_ENGINE=runc` proves each test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::run;
use chitin_tests::shown::Shown;
use chitin_tests::steps::Steps;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const LIMIT: Duration = Duration::from_secs(30);

/// A terminal with a program in front of it, whose session it is.
struct Terminal {
    keys: File,
    path: String,
    shown: Shown,
    child: Child,
    /// Who reads from the terminal, until it is told to close it.
    reader: Option<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
}

impl Terminal {
    fn with(command: &Command) -> Terminal {
        let pty = nix::pty::openpty(None, None).expect("openpty");
        let number = std::os::fd::AsRawFd::as_raw_fd(&pty.slave);
        let path = std::fs::read_link(format!("/proc/self/fd/{number}")).expect("a name");
        let path = path.to_string_lossy().into_owned();
        let slave: File = pty.slave.into();
        let keys: File = pty.master.into();
        // Nobody else has the master: its end here is the hang-up.
        fcntl(&keys, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("fcntl");
        size(&path, 24, 80);
        let io = || Stdio::from(slave.try_clone().expect("dup"));
        let mut c = Command::new("setsid");
        c.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        c.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let child = c.stdin(io()).stdout(io()).stderr(io()).spawn().expect("setsid starts");
        let (tell, shown) = channel();
        let mut master = keys.try_clone().expect("dup");
        let closing = Arc::new(AtomicBool::new(false));
        let closed = closing.clone();
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while !closed.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
                if !matches!(poll(&mut fds, PollTimeout::from(20u8)), Ok(n) if n > 0) {
                    continue;
                }
                match master.read(&mut chunk) {
                    Ok(n @ 1..) if tell.send(chunk[..n].to_vec()).is_ok() => {}
                    _ => break,
                }
            }
        });
        Terminal { keys, path, shown: Shown::new(shown), child, reader: Some(reader), closing }
    }

    fn exec(s: &Steps, command: &[&str]) -> Terminal {
        let args = [&["exec", "--tty", s.id.as_str()], command].concat();
        Terminal::with(&s.engine.command(&s.root, None, &args))
    }

    fn keys(&mut self, bytes: &[u8]) {
        self.keys.write_all(bytes).expect("the terminal takes keys");
    }

    /// Waits until this is shown, behind what was waited for before.
    fn until(&mut self, what: &str) {
        self.shown.until(what, LIMIT);
    }

    fn code(&mut self) -> Option<i32> {
        run::wait_for(&mut self.child, LIMIT)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(terminal: &str, rows: u16, columns: u16) {
    let (rows, columns) = (rows.to_string(), columns.to_string());
    let set = Command::new("stty").args(["-F", terminal, "rows", &rows, "cols", &columns]).status();
    assert!(set.is_ok_and(|s| s.success()), "stty");
}

fn container(name: &str) -> Steps {
    let s = Steps::busybox(name, "while :; do sleep 1; done");
    s.launch();
    s
}

const TRAPS: &str = "trap 'echo got INT' INT; trap 'echo got QUIT' QUIT; trap 'echo got TSTP' TSTP; \
    trap 'echo got $(stty size)' WINCH; stty size; echo ready; while :; do sleep 0.05; done";

#[test]
fn keys_and_sizes_become_signals() {
    let s = container("consoles-keys");
    let mut t = Terminal::exec(&s, &["sh", "-c", TRAPS]);
    t.until("24 80");
    t.until("ready");
    for (key, signal) in [(b"\x03", "INT"), (b"\x1c", "QUIT"), (b"\x1a", "TSTP"), (b"\x03", "INT")] {
        t.keys(key);
        t.until(&format!("got {signal}"));
    }
    size(&t.path, 41, 102);
    t.until("got 41 102");
    size(&t.path, 12, 34);
    t.until("got 12 34");
}

#[test]
fn a_shell_has_job_control() {
    let s = container("consoles-jobs");
    let mut t = Terminal::exec(&s, &["sh", "-i"]);
    t.keys(b"PS1='> '\n");
    t.until("\n> ");
    t.keys(b"sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    t.keys(b"\x1a");
    t.until("Stopped");
    t.keys(b"jobs; echo jobs-$?\n");
    t.until("Stopped");
    t.until("jobs-0");
    t.keys(b"fg\n");
    t.until("sleep 1000\r\n");
    std::thread::sleep(Duration::from_millis(300));
    t.keys(b"\x03");
    t.keys(b"echo was-$?\n");
    t.until("was-130");
    t.keys(b"exit 7\n");
    assert_eq!(t.code(), Some(7));
}

#[test]
fn raw_mode_passes_every_byte() {
    let s = container("consoles-raw");
    let script = "stty raw -echo; echo ready; head -c 8 | od -An -tx1; stty sane; echo done";
    let mut t = Terminal::exec(&s, &["sh", "-c", script]);
    t.until("ready");
    t.keys(b"\x03\x1a\x1c\x04\x11\x13\r\x7f");
    t.until("03 1a 1c 04 11 13 0d 7f");
    t.until("done");
    assert_eq!(t.code(), Some(0));
}

#[test]
fn a_line_is_edited_and_echoed() {
    let s = container("consoles-line");
    let mut t = Terminal::exec(&s, &["sh", "-c", "echo ready; read line; echo \"[$line]\"; cat; echo end"]);
    t.until("ready");
    t.keys(b"abx\x7fc\r");
    t.until("abx\x08 \x08c\r\n[abc]");
    t.keys(b"\x04");
    t.until("end");
    assert_eq!(t.code(), Some(0));
}

#[test]
fn output_that_is_on_its_way_at_the_end_is_shown() {
    let s = container("consoles-output");
    for code in [0, 5] {
        let mut t = Terminal::exec(&s, &["sh", "-c", &format!("seq 1 60000; exit {code}")]);
        t.until("\n59999\r\n60000\r\n");
        assert_eq!(t.code(), Some(code));
    }
}

#[test]
fn a_hang_up_reaches_the_process() {
    let s = container("consoles-hup");
    let script = "trap 'echo hup >/dev/shm/hup; exit 1' HUP; echo ready; while :; do sleep 0.05; done";
    let mut t = Terminal::exec(&s, &["sh", "-c", script]);
    t.until("ready");
    hang_up(t);
    settle(LIMIT, || match s.exec(&[], &["cat", "/dev/shm/hup"]) {
        o if o.text() == "hup\n" => Ok(()),
        o => Err(o.brief()),
    })
    .unwrap();
}

/// What closing the terminal's window does: the master's last descriptor goes, and the host's kernel hangs up.
fn hang_up(mut t: Terminal) {
    t.closing.store(true, Ordering::Relaxed);
    t.reader.take().expect("it reads").join().expect("it ends");
    let Terminal { keys, child, .. } = &mut t;
    // The number stays taken, by something else.
    *keys = File::open("/dev/null").expect("/dev/null");
    let code = run::wait_for(child, LIMIT);
    assert!(code.is_some(), "who was in front of the terminal stays");
}

/// The one in front of the terminal: a descendant of `setsid`, or `setsid` itself.
fn in_front(t: &Terminal) -> i32 {
    let setsid = t.child.id().cast_signed();
    let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let engine = Engine::under_test().name();
    let all = chitin_tests::leftovers::descendants(setsid).into_iter().chain([setsid]);
    all.into_iter().find(|pid| name(*pid).trim() == engine).unwrap_or(setsid)
}

#[test]
fn signals_are_passed_on_to_the_last() {
    let s = container("consoles-signals");
    let mut names = vec!["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "CONT", "TERM"];
    if s.engine == Engine::Runc {
        // In front of a terminal an interrupt that is no key ends runc itself, with code 0 (its handleInterrupt).
        names.retain(|name| *name != "INT");
    }
    let traps: String = names.iter().map(|n| format!("trap 'echo got {n}' {n}; ")).collect();
    let mut t =
        Terminal::exec(&s, &["sh", "-c", &format!("{traps} echo ready; while :; do sleep 0.05; done")]);
    t.until("ready");
    let pid = nix::unistd::Pid::from_raw(in_front(&t));
    for name in &names {
        let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().expect("a signal");
        nix::sys::signal::kill(pid, signal).expect("it lives");
        t.until(&format!("got {name}"));
    }
    // What nobody catches ends it, and is its exit code.
    let mut t = Terminal::exec(&s, &["sh", "-c", "echo ready; exec sleep 1000"]);
    t.until("ready");
    let pid = nix::unistd::Pid::from_raw(in_front(&t));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).expect("it lives");
    assert_eq!(t.code(), Some(138));
}

#[test]
fn run_attends_its_container_likewise() {
    let s = Steps::busybox("consoles-run", TRAPS);
    s.bundle.clone().set("/process/terminal", serde_json::json!(true)).write();
    let args = ["run", "--bundle", &s.bundle_path(), &s.id];
    let mut t = Terminal::with(&s.engine.command(&s.root, Some(&s.bundle), &args));
    t.until("24 80");
    t.until("ready");
    t.keys(b"\x03");
    t.until("got INT");
    t.keys(b"\x1c");
    t.until("got QUIT");
    size(&t.path, 50, 60);
    t.until("got 50 60");
    s.ok(&["kill", &s.id, "KILL"]);
    assert_eq!(t.code(), Some(137));
}
