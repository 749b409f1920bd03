//! `exec`: what engines and people rely on when they run another process in a container.
//! `CHITIN_TEST_ENGINE=runc` (or crun) proves each test against an established runtime.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::run;
use chitin_tests::steps::Steps;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
const WAITS: &str = "echo up >/tmp/up; while :; do sleep 1; done";

fn running(name: &str) -> Steps {
    let s = Steps::busybox(name, WAITS);
    s.launch();
    s
}

#[test]
fn output_code_and_input() {
    let s = running("exec-io");
    let o = s.exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((o.code, o.text().as_str(), o.stderr.as_str()), (Some(7), "out\n", "err\n"), "{}", o.brief());
    let o = s.call_with(&["exec", &s.id, "cat"], b"byte\0exact\r\n");
    assert_eq!((o.code, o.stdout.as_slice()), (Some(0), &b"byte\0exact\r\n"[..]), "{}", o.brief());
    let o = s.exec(&[], &["sh", "-c", "kill -9 $$"]);
    assert_eq!(o.code, Some(137), "{}", o.brief());
    // It is in the same container: the same files and processes.
    let o = s.exec(&[], &["sh", "-c", "cat /tmp/up; ls /proc/1/root >/dev/null && hostname"]);
    assert_eq!(o.text(), "up\nchitin-test\n", "{}", o.brief());
}

#[test]
fn flags_shape_the_process() {
    if Engine::under_test() == Engine::Crun {
        // Its --env replaces the whole environment, and it lacks --additional-gids.
        return;
    }
    let s = running("exec-flags");
    let flags = ["--user", "7:8", "--env", "A=b c", "--cwd", "/tmp"];
    let o = s.exec(&flags, &["sh", "-c", "id -u; id -g; echo $A; pwd"]);
    assert_eq!(o.text(), "7\n8\nb c\n/tmp\n", "{}", o.brief());
    let o = s.exec(&["--user", "7:8", "--additional-gids", "9"], &["id", "-G"]);
    assert_eq!(o.text(), "8 9\n", "{}", o.brief());
    let o = s.exec(&["--cap", "CAP_SYS_TIME"], &["grep", "CapBnd", "/proc/self/status"]);
    let with = u64::from_str_radix(o.text().split_whitespace().nth(1).unwrap_or(""), 16).expect("a number");
    assert_eq!(with & (1 << 25), 1 << 25, "{}", o.brief());
    let o = s.exec(&["--no-new-privs"], &["grep", "NoNewPrivs", "/proc/self/status"]);
    assert_eq!(o.text().split_whitespace().nth(1), Some("1"), "{}", o.brief());
}

#[test]
fn a_process_file_says_it_all() {
    let s = running("exec-process");
    let file = s.bundle.dir.join("process.json");
    let process = json!({
        "args": ["sh", "-c", "id -u; pwd; echo $X; ulimit -n"], "cwd": "/proc", "user": {"uid": 3, "gid": 4},
        "env": ["PATH=/bin:/usr/bin", "X=y"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}],
    });
    std::fs::write(&file, process.to_string()).unwrap();
    let o = s.call(&["exec", "--process", &file.to_string_lossy(), &s.id]);
    assert_eq!(o.text(), "3\n/proc\ny\n77\n", "{}", o.brief());
}

#[test]
fn failures_are_told_in_the_words_that_engines_look_for() {
    let s = running("exec-fail");
    let o = s.exec(&[], &["no-such-program"]);
    assert!(
        o.stderr.contains("executable file not found in $PATH") || s.engine == Engine::Crun,
        "{}",
        o.brief()
    );
    assert_ne!(o.code, Some(0));
    let o = s.exec(&[], &["/etc"]);
    let denied = o.stderr.to_lowercase().contains("permission denied") || o.stderr.contains("is a directory");
    assert!(denied || s.engine == Engine::Crun, "{}", o.brief());
    assert_ne!(o.code, Some(0));
    if s.engine != Engine::Crun {
        assert_eq!(o.code, Some(255), "{}", o.brief());
    }
    let o = s.exec(&["--cwd", "/not/there"], &["true"]);
    assert_ne!(o.code, Some(0), "{}", o.brief());
    assert_ne!(s.call(&["exec", "no-such-container", "true"]).code, Some(0));
    s.ok(&["kill", &s.id, "KILL"]);
    s.until("stopped");
    assert_ne!(s.exec(&[], &["true"]).code, Some(0), "exec in a stopped container");
}

#[test]
fn the_same_works_before_the_start() {
    let s = Steps::busybox("exec-created", WAITS);
    s.create();
    let o = s.exec(&[], &["sh", "-c", "echo early"]);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "early\n"), "{}", o.brief());
    assert_eq!(s.state()["status"], "created");
    s.ok(&["start", &s.id]);
    s.until("running");
}

/// A detached process, as the engine sees it: a pid, and its end.
fn detached(s: &Steps, script: &str) -> i32 {
    let file = s.bundle.dir.join("exec.pid");
    let o = s.exec(&["--detach", "--pid-file", &file.to_string_lossy()], &["sh", "-c", script]);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    std::fs::read_to_string(&file).expect("the pid file").trim().parse().expect("a bare number")
}

fn there(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn gone(pid: i32) {
    settle(LIMIT, || if there(pid) { Err(format!("process {pid} is still there")) } else { Ok(()) }).unwrap();
}

#[test]
fn a_detached_one_is_a_host_process_that_takes_signals() {
    let s = running("exec-detached");
    let pid = detached(
        &s,
        "trap 'echo got >/tmp/term; exit 5' TERM; echo >/tmp/ready; while :; do sleep 0.1; done",
    );
    assert!(there(pid));
    settle(LIMIT, || match s.exec(&[], &["test", "-e", "/tmp/ready"]).code {
        Some(0) => Ok(()),
        c => Err(format!("not ready: {c:?}")),
    })
    .unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    gone(pid);
    assert_eq!(s.exec(&[], &["cat", "/tmp/term"]).text(), "got\n");
    // The end of the one is the end of the other, also when nothing can be passed on.
    let pid = detached(&s, "echo $$ >/tmp/pid; exec sleep 1000");
    settle(LIMIT, || match s.exec(&[], &["sh", "-c", "kill -0 $(cat /tmp/pid)"]).code {
        Some(0) => Ok(()),
        c => Err(format!("not up: {c:?}")),
    })
    .unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    settle(LIMIT, || match s.exec(&[], &["sh", "-c", "kill -0 $(cat /tmp/pid) 2>/dev/null"]).code {
        Some(0) => Err("the process has outlived its host process".into()),
        _ => Ok(()),
    })
    .unwrap();
    let pid = detached(&s, "sleep 1000");
    s.ok(&["kill", &s.id, "KILL"]);
    gone(pid);
}

/// A child subreaper gets the exit status, as an engine's shim does.
#[test]
fn the_engine_collects_the_exit_status() {
    let s = running("exec-status");
    let file = s.bundle.dir.join("exec.pid");
    let script = concat!(
        "import ctypes, os, subprocess, sys\n",
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n",
        "file, rest = sys.argv[1], sys.argv[2:]\n",
        "assert subprocess.call(rest) == 0\n",
        "pid = int(open(file).read())\n",
        "_, status = os.waitpid(pid, 0)\n",
        "print(os.waitstatus_to_exitcode(status))\n",
    );
    let pid_file = file.to_string_lossy().into_owned();
    for (command, expected) in [("exit 42", "42\n"), ("kill -9 $$", "137\n")] {
        let args = ["exec", "--detach", "--pid-file", &pid_file, &s.id, "sh", "-c", command];
        let inner = s.engine.command(&s.root, None, &args);
        let mut outer = Command::new("python3");
        outer.args(["-c", script, &pid_file]).arg(inner.get_program()).args(inner.get_args());
        for (k, v) in inner.get_envs() {
            outer.env(k, v.unwrap_or_default());
        }
        let o = run::quick(outer, LIMIT);
        let got = o.text().replace("-9\n", "137\n");
        assert_eq!(got, expected, "{command}: {}", o.brief());
    }
}

#[test]
fn a_foreground_one_passes_signals_on() {
    let s = running("exec-signals");
    let script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut command = s.engine.command(&s.root, None, &["exec", &s.id, "sh", "-c", script]);
    let out = s.bundle.dir.join("out");
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).process_group(0);
    let mut child = command.spawn().unwrap();
    let text = || std::fs::read_to_string(&out).unwrap_or_default();
    settle(LIMIT, || if text() == "ready\n" { Ok(()) } else { Err(text()) }).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let code = run::wait_for(&mut child, LIMIT);
    if code.is_none() {
        run::kill_tree(&mut child);
    }
    assert_eq!((code, text().as_str()), (Some(3), "ready\ncaught\n"));
}

#[test]
fn a_terminal_of_its_own() {
    let s = running("exec-tty");
    // script(1) gives the engine a terminal to attend.
    if !run::have("script") {
        return chitin_tests::skip("a_terminal_of_its_own", "no script(1)");
    }
    let inner = s.engine.command(
        &s.root,
        None,
        &["exec", "-t", &s.id, "sh", "-c", "tty; sleep 1; stty size; test -t 0 && echo yes; exit 4"],
    );
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|w| format!("'{}'", w.to_string_lossy().replace('\'', r"'\''")))
        .collect();
    let mut outer = Command::new("script");
    outer.args(["-qec", &format!("stty rows 33 cols 44; {}", words.join(" ")), "/dev/null"]);
    for (k, v) in inner.get_envs() {
        outer.env(k, v.unwrap_or_default());
    }
    let o = run::quick(outer, LIMIT);
    let text = o.text().replace('\r', "");
    assert!(text.contains("/dev/pts/") || text.contains("/dev/console"), "{}", o.brief());
    assert!(text.contains("33 44") && text.contains("yes"), "{}", o.brief());
    assert_eq!(o.code, Some(4), "{}", o.brief());
    assert_ne!(s.exec(&["--tty", "--detach"], &["true"]).code, Some(0), "a tty that nobody attends");
    assert!(Path::new(&s.root).exists());
}
