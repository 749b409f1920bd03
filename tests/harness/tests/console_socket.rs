//! The console-socket protocol, as shims and conmon speak it: the master of a pty comes over a unix socket, and from then on
//! size, keys, modes and the hang-up are the engine's to give. `CHITIN_TEST_ENGINE=runc` proves each test.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::leftovers::settle;
use chitin_tests::shown::Shown;
use chitin_tests::steps::Steps;
use chitin_tests::{engine, paths, run};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// An engine's end of a terminal (`programs/console.py`), at first a socket that somebody will connect to.
struct Console {
    path: PathBuf,
    engine: Child,
    orders: Option<ChildStdin>,
    shown: Shown,
}

impl Console {
    fn listen() -> Console {
        // Short: a unix socket's path has 107 bytes.
        let path = std::env::temp_dir().join(format!("console-{}", engine::unique_id()));
        let mut c = Command::new("python3");
        c.arg(paths::repo().join("tests/harness/tests/programs/console.py")).arg(&path);
        let mut engine = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let (tell, shown) = channel();
        let mut output = engine.stdout.take().expect("piped");
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut chunk) {
                if tell.send(chunk[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let orders = engine.stdin.take();
        let mut console = Console { path, engine, orders, shown: Shown::new(shown) };
        console.until("listening\n");
        console
    }

    fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn until(&mut self, what: &str) {
        self.shown.until(what, LIMIT);
    }

    fn order(&mut self, line: &str) {
        let pipe = self.orders.as_mut().expect("not closed");
        pipe.write_all(format!("{line}\n").as_bytes()).expect("it listens");
    }

    fn keys(&mut self, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.order(&format!("k {hex}"));
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        self.order(&format!("s {rows} {columns}"));
    }

    /// Closes the master, as an engine that goes.
    fn close(mut self) {
        drop(self.orders.take());
        assert_eq!(run::wait_for(&mut self.engine, LIMIT), Some(0));
    }

    /// The terminal's own end.
    fn end(mut self) {
        assert_eq!(run::wait_for(&mut self.engine, LIMIT), Some(0), "no end: {:?}", self.shown.seen());
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.engine.kill();
        let _ = self.engine.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A container with a terminal of 33 by 77, created.
fn created(name: &str, script: &str) -> (Steps, Console) {
    let bundle = Bundle::new(name, &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 33, "width": 77}));
    let s = Steps::new(bundle);
    let mut console = Console::listen();
    s.ok(&["create", "--bundle", &s.bundle_path(), "--console-socket", &console.path(), &s.id]);
    console.until("master 33 77\n");
    (s, console)
}

#[test]
fn size_keys_and_resize_of_a_container() {
    let script = "trap 'echo got INT' INT; trap 'echo got $(stty size)' WINCH; tty; stty size; echo ready; \
                  while :; do sleep 0.05; done";
    let (s, mut c) = created("console-init", script);
    s.start();
    c.until("/dev/pts/0");
    c.until("33 77");
    c.until("ready");
    c.resize(41, 102);
    c.until("got 41 102");
    c.keys(b"\x03");
    c.until("got INT");
}

/// Waits for the file that the container's programs write at a hang-up.
fn has_hung_up(s: &Steps) {
    settle(LIMIT, || match s.exec(&[], &["cat", "/dev/shm/hup"]) {
        o if o.text() == "hup\n" => Ok(()),
        o => Err(o.brief()),
    })
    .unwrap();
}

/// Waits for the end of a process on the host.
fn is_over(pid: i32) {
    settle(LIMIT, || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) if !stat.contains(") Z ") => Err(stat),
        _ => Ok(()),
    })
    .unwrap();
}

#[test]
fn closing_the_master_hangs_up_on_init() {
    let script = "trap 'echo hup >/dev/shm/hup' HUP; echo ready; while :; do sleep 0.05; done";
    let (s, mut c) = created("console-hangup", script);
    s.start();
    c.until("ready");
    c.close();
    has_hung_up(&s);
}

/// A detached shell with these arguments in the container, with its terminal and its pid on the host.
fn shell(s: &Steps, more: &[&str]) -> (Console, i32) {
    let (mut console, file) = (Console::listen(), s.root.join("exec.pid"));
    let pid_file = file.to_string_lossy().into_owned();
    let flags = [
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        &console.path(),
        "--pid-file",
        &pid_file,
        &s.id,
        "sh",
    ];
    s.ok(&[&flags, more].concat());
    console.until("master ");
    let pid = std::fs::read_to_string(&file).expect("a pid file").trim().parse().expect("a pid");
    (console, pid)
}

fn running(name: &str) -> Steps {
    let s = Steps::busybox(name, "while :; do sleep 1; done");
    s.launch();
    s
}

#[test]
fn a_detached_shell_to_its_end() {
    let s = running("console-exec");
    let (mut c, pid) = shell(&s, &[]);
    c.keys(b"PS1='> '; echo $((6 * 7))\n");
    c.until("\n42");
    c.keys(b"sleep 1000\n");
    c.until("sleep 1000");
    settle(LIMIT, || match s.exec(&[], &["pidof", "sleep"]).text().split_whitespace().count() {
        0 | 1 => Err("it does not sleep yet".into()),
        _ => Ok(()),
    })
    .unwrap();
    c.keys(b"\x03echo was-$?\n");
    c.until("was-130");
    // Raw: every byte goes through, and nothing comes back by itself.
    c.keys(b"stty raw -echo; echo rea''dy; head -c 6 | od -An -tx1; stty sane\n");
    c.until("ready");
    c.keys(b"\x03\x1a\x04\x11\r\x7f");
    c.until("03 1a 04 11 0d 7f");
    c.resize(21, 43);
    c.keys(b"stty size\n");
    c.until("21 43");
    c.keys(b"exit\n");
    c.end();
    is_over(pid);
    assert_eq!(s.state()["status"], "running");
}

#[test]
fn closing_the_master_hangs_up_on_a_shell() {
    let s = running("console-exec-hangup");
    let script = "trap 'echo hup >/dev/shm/hup; exit 1' HUP; echo ready; while :; do sleep 0.05; done";
    let (mut c, pid) = shell(&s, &["-c", script]);
    c.until("ready");
    c.close();
    has_hung_up(&s);
    is_over(pid);
}

#[test]
fn a_dead_socket_fails_the_exec_alone() {
    let s = running("console-dead");
    let dead = std::env::temp_dir().join(format!("console-{}", engine::unique_id()));
    drop(UnixListener::bind(&dead).expect("bind")); // the name stays, nobody listens
    let dead = dead.to_string_lossy().into_owned();
    for path in [dead.as_str(), "/no/such/socket"] {
        let o = s.exec(&["--tty", "--detach", "--console-socket", path], &["sh"]);
        assert!(o.code.is_some_and(|c| c != 0) && !o.stderr.trim().is_empty(), "{}", o.brief());
    }
    std::fs::remove_file(&dead).expect("ours");
    assert_eq!(s.state()["status"], "running");
    assert_eq!(s.exec(&[], &["pidof", "sh"]).text().trim(), "1", "no shell is left");
}
