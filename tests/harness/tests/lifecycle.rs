//! What engines and shells rely on: the commands, their JSON, exit codes, stdio, signals, ttys, and clean failures.
//! `CHITIN_TEST_ENGINE=runc` (or crun) proves each test against an established runtime.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, chitin_do, state_root, unique_id};
use chitin_tests::leftovers::{mounts, nothing_left, settle};
use chitin_tests::run::{self, Outcome};
use chitin_tests::steps::Steps;
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn busybox(name: &str, script: &str) -> Bundle {
    Bundle::new(name, &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
}

fn go(script: &str, stdin: &[u8]) -> Outcome {
    Engine::under_test().run(&busybox("go", script), stdin, LIMIT)
}

#[test]
fn steps_of_a_container() {
    let before = mounts();
    let s = Steps::busybox("steps", "echo up >/dev/null; while :; do sleep 1; done");
    s.create();
    let st = s.state();
    assert_eq!(st["status"], "created", "{st}");
    assert_eq!(st["id"], s.id.as_str(), "{st}");
    assert_eq!(st["bundle"].as_str().map(Path::new), Some(s.bundle.dir.as_path()), "{st}");
    assert!(st["ociVersion"].is_string(), "{st}");
    let pid = st["pid"].as_i64().expect("pid is a number");
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "pid {pid} is no host process");
    s.ok(&["start", &s.id]);
    s.until("running");
    assert_ne!(s.call(&["start", &s.id]).code, Some(0), "a second start must fail");
    assert_ne!(s.call(&["delete", &s.id]).code, Some(0), "deleting a running container must fail");
    let list: Value =
        serde_json::from_slice(&s.ok(&["list", "--format=json"]).stdout).expect("list prints JSON");
    let me =
        list.as_array().expect("an array").iter().find(|c| c["id"] == s.id.as_str()).expect("listed").clone();
    assert_eq!(me["status"], "running", "{me}");
    assert_eq!(me["pid"].as_i64(), Some(pid), "{me}");
    assert!(me["bundle"].is_string() && me["created"].is_string(), "{me}");
    s.ok(&["kill", &s.id, "KILL"]);
    s.until("stopped");
    s.ok(&["delete", &s.id]);
    assert_ne!(s.call(&["state", &s.id]).code, Some(0));
    assert_ne!(s.call(&["delete", &s.id]).code, Some(0));
    s.ok(&["delete", "--force", &s.id]);
    settle(LIMIT, || nothing_left(&s.id, &s.id, &s.root, &before)).unwrap();
}

#[test]
fn kill_takes_names_and_numbers() {
    for sig in ["TERM", "SIGTERM", "15"] {
        let s = Steps::busybox("steps", "trap 'exit 0' TERM; while :; do sleep 0.05; done");
        s.create();
        s.ok(&["start", &s.id]);
        std::thread::sleep(Duration::from_millis(300));
        s.ok(&["kill", &s.id, sig]);
        s.until("stopped");
        s.ok(&["delete", &s.id]);
    }
    let s = Steps::busybox("steps", "sleep 100");
    s.create();
    assert_ne!(s.call(&["kill", &s.id, "NOSUCH"]).code, Some(0));
    assert_ne!(s.call(&["kill", "no-such-container", "TERM"]).code, Some(0));
}

#[test]
fn pid_file_names_a_host_process() {
    let s = Steps::busybox("steps", "sleep 100");
    let f = s.bundle.dir.join("pid");
    let (b, p) = (s.bundle.dir.to_string_lossy().into_owned(), f.to_string_lossy().into_owned());
    s.ok(&["create", "--pid-file", &p, "--bundle", &b, &s.id]);
    let pid: i64 = std::fs::read_to_string(&f).expect("pid file").trim().parse().expect("a bare number");
    assert_eq!(s.state()["pid"].as_i64(), Some(pid));
}

#[test]
fn exit_codes() {
    for code in [0, 1, 42, 125, 255] {
        let o = go(&format!("exit {code}"), b"");
        assert_eq!(o.code, Some(code), "{}", o.brief());
    }
    let o = go("sh -c 'kill -9 $$'; echo $?; sh -c 'kill -15 $$'; echo $?; false; echo $?", b"");
    assert_eq!(o.text(), "137\n143\n1\n");
}

#[test]
fn stdin_and_stdout_are_byte_exact() {
    let mut data: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    data.extend_from_slice(b"\r\n\0\x1b[0m no newline at the end");
    let o = go("cat", &data);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    assert!(o.stdout == data, "{} bytes in, {} out", data.len(), o.stdout.len());
    let o = go("echo out; echo err >&2", b"");
    assert_eq!((o.text().as_str(), o.stderr.as_str()), ("out\n", "err\n"));
}

/// Starts `run` with the given stdio.
fn spawn(b: &Bundle, root: &Path, id: &str, before: &[&str], io: [Stdio; 3]) -> Child {
    b.write();
    let dir = b.dir.to_string_lossy().into_owned();
    let inner = Engine::under_test().command(root, Some(b), &["run", "--bundle", &dir, id]);
    let mut c = if before.is_empty() {
        inner
    } else {
        let mut c = Command::new(before[0]);
        c.args(&before[1..]).arg(inner.get_program()).args(inner.get_args());
        for (k, v) in inner.get_envs() {
            c.env(k, v.unwrap_or_default());
        }
        c
    };
    let [i, o, e] = io;
    c.stdin(i).stdout(o).stderr(e).process_group(0).spawn().expect("engine starts")
}

fn finish(mut c: Child) -> Option<i32> {
    let code = run::wait_for(&mut c, LIMIT);
    if code.is_none() {
        run::kill_tree(&mut c);
    }
    code
}

#[test]
fn regular_files_keep_offset_and_append() {
    let b = busybox(
        "offsets",
        "dd bs=4 count=1 2>/dev/null; echo :; dd bs=2 count=1 2>/dev/null; echo; (echo child)",
    );
    let (i, o) = (b.dir.join("in"), b.dir.join("out"));
    std::fs::write(&i, "skip!0123456789").unwrap();
    std::fs::write(&o, "already here\n").unwrap();
    let mut input = File::open(&i).unwrap();
    input.seek(SeekFrom::Start(5)).unwrap();
    let out = OpenOptions::new().append(true).open(&o).unwrap();
    let io = [input.try_clone().unwrap().into(), out.try_clone().unwrap().into(), out.into()];
    assert_eq!(finish(spawn(&b, &state_root("offsets"), &unique_id(), &[], io)), Some(0));
    assert_eq!(std::fs::read_to_string(&o).unwrap(), "already here\n0123:\n45\nchild\n");
    assert_eq!(input.stream_position().unwrap(), 11, "the file offset is shared with the caller");
}

#[test]
fn pipes_and_dev_null() {
    let b = busybox("pipe", "read x; echo got $x; cat >/dev/null; echo eof");
    let mut c =
        spawn(&b, &state_root("pipe"), &unique_id(), &[], [Stdio::piped(), Stdio::piped(), Stdio::inherit()]);
    let mut stdin = c.stdin.take().unwrap();
    stdin.write_all(b"line\n").unwrap();
    let mut stdout = c.stdout.take().unwrap();
    let mut first = [0; 9];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"got line\n", "answers before its input ends");
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "eof\n");
    assert_eq!(finish(c), Some(0));
    let b = busybox("null", "cat; echo nobody; [ -c /proc/self/fd/0 ]");
    let io = [Stdio::null(), Stdio::null(), Stdio::null()];
    assert_eq!(finish(spawn(&b, &state_root("null"), &unique_id(), &[], io)), Some(0));
}

#[test]
fn closed_reader_breaks_the_pipe() {
    let b = busybox("epipe", "trap '' PIPE; while echo data; do :; done 2>/dev/null; exit 9");
    let mut c =
        spawn(&b, &state_root("epipe"), &unique_id(), &[], [Stdio::null(), Stdio::piped(), Stdio::null()]);
    let mut one = [0; 5];
    c.stdout.as_mut().unwrap().read_exact(&mut one).unwrap();
    drop(c.stdout.take());
    assert_eq!(finish(c), Some(9));
}

#[test]
fn sigterm_reaches_the_container() {
    let b = busybox("term", "trap 'echo terminated; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    let mut c =
        spawn(&b, &state_root("term"), &unique_id(), &[], [Stdio::null(), Stdio::piped(), Stdio::inherit()]);
    let mut out = c.stdout.take().unwrap();
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(c.id().cast_signed()), nix::sys::signal::SIGTERM)
        .unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), finish(c)), ("terminated\n", Some(7)));
}

fn tty_run(script: &str, drive: impl FnOnce(&mut File, &dyn Fn(&[&str]))) -> (Option<i32>, String) {
    let pty = nix::pty::openpty(None, None).expect("openpty");
    let slave_path =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pty.slave))).unwrap();
    let stty = |args: &[&str]| {
        assert!(Command::new("stty").arg("-F").arg(&slave_path).args(args).status().unwrap().success())
    };
    stty(&["rows", "33", "cols", "77"]);
    let b = busybox("tty", script).set("/process/terminal", json!(true));
    let s: File = pty.slave.into();
    let io = [s.try_clone().unwrap().into(), s.try_clone().unwrap().into(), s.try_clone().unwrap().into()];
    let c = spawn(&b, &state_root("tty"), &unique_id(), &["setsid", "--ctty", "--wait"], io);
    let mut master: File = pty.master.into();
    drive(&mut master, &stty);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut buf = [0; 4096];
        while let Ok(n) = master.read(&mut buf) {
            if n == 0 {
                break;
            }
            all.extend_from_slice(&buf[..n]);
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    let code = finish(c);
    drop(s); // the last slave: the reader sees the hang-up
    (code, reader.join().expect("reader"))
}

fn read_until(master: &mut File, what: &str) -> String {
    let mut got = Vec::new();
    let mut b = [0; 1];
    while !String::from_utf8_lossy(&got).contains(what) {
        match master.read(&mut b) {
            Ok(1) => got.push(b[0]),
            other => panic!("the tty ended ({other:?}) before {what:?}: {:?}", String::from_utf8_lossy(&got)),
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}

#[test]
fn tty_size_and_name() {
    let (code, out) =
        tty_run("tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; exit 4", |_, _| {});
    assert_eq!(code, Some(4), "{out}");
    assert!(out.contains("/dev/pts/0") || out.contains("/dev/console"), "{out}");
    assert!(out.contains("33 77\r\n"), "{out}");
    assert!(out.contains("all\r\n"), "{out}");
}

#[test]
fn tty_interrupt_and_echo() {
    let (code, out) =
        tty_run("trap 'echo INT; exit 3' INT; echo ready; while :; do sleep 0.05; done", |m, _| {
            read_until(m, "ready");
            m.write_all(b"\x03").unwrap();
        });
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("INT"), "{out}");
    let (code, out) = tty_run("echo ready; read x; echo got:$x", |m, _| {
        read_until(m, "ready");
        m.write_all(b"hello\n").unwrap();
    });
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("hello\r\n") && out.contains("got:hello"), "{out:?}");
}

#[test]
fn tty_window_change() {
    let (code, out) = tty_run(
        "echo ready; while [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; stty size",
        |m, stty| {
            read_until(m, "ready");
            stty(&["rows", "50", "cols", "120"]);
        },
    );
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("50 120"), "{out}");
}

/// What is broken, the word the error must name (asked of chitin only), and whether every runtime refuses it.
#[allow(clippy::type_complexity)]
fn broken() -> Vec<(&'static str, &'static str, bool, Box<dyn Fn(Bundle) -> Bundle>)> {
    let set = |p: &'static str, v: Value| -> Box<dyn Fn(Bundle) -> Bundle> {
        Box::new(move |b| b.set(p, v.clone()))
    };
    let gone = "/no/such/place";
    vec![
        ("no arguments", "args", true, set("/process/args", json!([]))),
        ("program missing", "no-such-program", true, set("/process/args", json!(["/no-such-program"]))),
        ("program not executable", "/etc/passwd", true, set("/process/args", json!(["/etc/passwd"]))),
        ("root missing", gone, true, set("/root/path", json!(gone))),
        ("cwd relative", "cwd", false, set("/process/cwd", json!("relative"))),
        (
            "rlimit unknown",
            "RLIMIT_NOPE",
            true,
            set("/process/rlimits", json!([{ "type": "RLIMIT_NOPE", "hard": 1, "soft": 1 }])),
        ),
        ("namespace unknown", "nonsense", true, set("/linux/namespaces", json!([{ "type": "nonsense" }]))),
        ("bind source missing", gone, true, Box::new(move |b| b.bind(Path::new(gone), "/mnt", &[]))),
        ("mount type unknown", "nosuchfs", true, {
            Box::new(|b| {
                let mut b = b;
                let m = json!({ "destination": "/mnt", "type": "nosuchfs", "source": "x" });
                b.config["mounts"].as_array_mut().expect("mounts").push(m);
                b
            })
        }),
        ("version nonsense", "ociVersion", false, set("/ociVersion", json!("nonsense"))),
        ("arguments of a wrong type", "args", true, set("/process/args", json!("one string"))),
        ("root of a wrong type", "root", true, set("/root", json!(7))),
    ]
}

fn fails_cleanly(
    what: &str,
    names: &str,
    args: &dyn Fn(&str) -> Vec<String>,
    root: &Path,
    bundle: Option<&Bundle>,
) -> Option<String> {
    let (engine, id, before) = (Engine::under_test(), unique_id(), mounts());
    let args = args(&id);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let o = run::quick(engine.command(root, bundle, &args), LIMIT);
    if o.code.is_none_or(|c| c == 0) {
        return Some(format!("{what}: must fail, got {}", o.brief()));
    }
    if o.stderr.trim().is_empty() {
        return Some(format!("{what}: fails without a word"));
    }
    if engine == Engine::Chitin && !o.stderr.contains(names) {
        return Some(format!("{what}: the error does not name {names:?}: {}", o.stderr.trim()));
    }
    if engine == Engine::Chitin && o.stderr.contains("panicked") {
        return Some(format!("{what}: panics: {}", o.stderr.trim()));
    }
    settle(Duration::from_secs(5), || nothing_left(&id, &id, root, &before))
        .err()
        .map(|e| format!("{what}: {e}"))
}

#[test]
fn broken_bundles_leave_nothing() {
    let mut bad = Vec::new();
    for (what, names, everywhere, mutate) in broken() {
        if !everywhere && Engine::under_test() != Engine::Chitin {
            continue;
        }
        let mut b = mutate(busybox("broken", "true"));
        b.write();
        if what == "root missing" {
            b.rootfs = Default::default();
        }
        let dir = b.dir.to_string_lossy().into_owned();
        for verb in ["run", "create"] {
            // What only the program's start can find out, `create` may let pass in some runtimes.
            if verb == "create" && what.starts_with("program") {
                continue;
            }
            let args = |id: &str| vec![verb.into(), "--bundle".into(), dir.clone(), id.into()];
            bad.extend(fails_cleanly(
                &format!("{verb}: {what}"),
                names,
                &args,
                &state_root("broken"),
                Some(&b),
            ));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn broken_calls_leave_nothing() {
    let mut bad = Vec::new();
    let empty = paths::scratch("empty").to_string_lossy().into_owned();
    let b = busybox("calls", "true");
    std::fs::write(b.dir.join("config.json"), "{ not json").unwrap();
    let garbled = b.dir.to_string_lossy().into_owned();
    let sound = busybox("sound", "true");
    sound.write();
    let good = sound.dir.to_string_lossy().into_owned();
    let root = state_root("calls");
    let mut try_ = |what: &str, names: &str, args: &dyn Fn(&str) -> Vec<String>| {
        bad.extend(fails_cleanly(what, names, args, &root, None))
    };
    let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    try_("no config.json", "config.json", &|id| own(&["run", "--bundle", &empty, id]));
    try_("no bundle", "/no/such/bundle", &|id| own(&["run", "--bundle", "/no/such/bundle", id]));
    try_("garbled config", "config.json", &|id| own(&["run", "--bundle", &garbled, id]));
    try_("id with a slash", "a/../b", &|_| own(&["run", "--bundle", &good, "a/../b"]));
    try_("start of nothing", "does not exist", &|_| own(&["start", "nobody"]));
    try_("state of nothing", "does not exist", &|_| own(&["state", "nobody"]));
    try_("kill of nothing", "does not exist", &|_| own(&["kill", "nobody", "TERM"]));
    try_("delete of nothing", "does not exist", &|_| own(&["delete", "nobody"]));
    try_("unknown command", "frobnicate", &|_| own(&["frobnicate"]));
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn an_id_is_used_once() {
    let s = Steps::busybox("steps", "sleep 100");
    s.create();
    let b = s.bundle.dir.to_string_lossy().into_owned();
    let o = s.call(&["create", "--bundle", &b, &s.id]);
    assert_ne!(o.code, Some(0), "{}", o.brief());
    assert_eq!(s.state()["status"], "created", "the first one is untouched");
}

#[test]
fn environment_cwd_and_user() {
    let b = busybox("user", "id -u; id -g; pwd; echo $GREETING; hostname; umask")
        .env("GREETING=hello there")
        .set("/process/cwd", json!("/tmp"))
        .set("/process/user", json!({ "uid": 1000, "gid": 1001, "umask": 0o077, "additionalGids": [5] }));
    let o = Engine::under_test().run(&b, b"", LIMIT);
    assert_eq!(o.text(), "1000\n1001\n/tmp\nhello there\nchitin-test\n0077\n", "{}", o.brief());
}

#[test]
fn mount_options_hold() {
    let b = busybox(
        "mounts",
        "echo x >/ro/f || echo refused; cat /ro/g; echo new >/rw/h; /rw/prog || echo noexec $?",
    );
    let (ro, rw) = (b.dir.join("ro"), b.dir.join("rw"));
    for d in [&ro, &rw] {
        std::fs::create_dir(d).unwrap();
    }
    std::fs::write(ro.join("g"), "from outside\n").unwrap();
    std::fs::write(rw.join("prog"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(rw.join("prog"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let b = b.bind(&ro, "/ro", &["ro"]).bind(&rw, "/rw", &["noexec"]);
    let o = Engine::under_test().run(&b, b"", LIMIT);
    assert_eq!(o.text(), "refused\nfrom outside\nnoexec 126\n", "{}", o.brief());
    assert_eq!(
        std::fs::read_to_string(rw.join("h")).unwrap(),
        "new\n",
        "a writable bind mount reaches the host"
    );
}

#[test]
fn read_only_root() {
    let b = busybox("roroot", "echo x >/etc/new || echo refused").set("/root/readonly", json!(true));
    let o = Engine::under_test().run(&b, b"", LIMIT);
    assert_eq!(o.text(), "refused\n", "{}", o.brief());
}

#[test]
fn root_is_never_written() {
    if Engine::under_test() != Engine::Chitin {
        skip("root_is_never_written", "the copy-on-write root is chitin's own");
        return;
    }
    let mark = format!("/written-{}", unique_id());
    let o = go(&format!("echo x >{mark}; cat {mark}; rm -r /etc; ls /etc 2>/dev/null || echo gone"), b"");
    assert_eq!(o.text(), "x\ngone\n", "{}", o.brief());
    let root = paths::rootfs("busybox");
    assert!(
        !root.join(&mark[1..]).exists() && root.join("etc/passwd").exists(),
        "the lower root file system changed"
    );
}

/// `chitin do` with options, over the busybox root.
fn do_with(options: &[&str], command: &[&str], stdin: &[u8]) -> Outcome {
    let dir = paths::scratch("do");
    let mut c = Command::new(paths::chitin());
    c.arg("--root").arg(dir.join("state")).args(["do", "--rootfs"]).arg(paths::rootfs("busybox"));
    c.args(options).arg("--").args(command);
    run::run(c, stdin, &dir, LIMIT)
}

#[test]
fn do_gives_exit_codes_and_streams() {
    let sh = |script: &str, stdin: &[u8]| {
        chitin_do(&paths::rootfs("busybox"), &["/bin/sh", "-c", script], stdin, LIMIT)
    };
    for (script, code) in [("exit 0", 0), ("exit 77", 77), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let o = sh(script, b"");
        assert_eq!(o.code, Some(code), "{script}: {}", o.brief());
    }
    let data: Vec<u8> = (0..=255u8).cycle().take(200_000).collect();
    let o = sh("cat", &data);
    assert!(o.code == Some(0) && o.stdout == data, "{}", o.brief());
    let o = sh("echo out; echo err >&2", b"");
    assert_eq!((o.text().as_str(), o.stderr.as_str()), ("out\n", "err\n"));
    let o = chitin_do(&paths::rootfs("busybox"), &["no-such-program"], b"", LIMIT);
    assert!(o.code != Some(0) && o.stderr.contains("no-such-program"), "{}", o.brief());
}

#[test]
fn do_changes_nothing_but_volumes() {
    let dir = paths::scratch("volume");
    std::fs::write(dir.join("in"), "given\n").unwrap();
    let volume = |to: &str| format!("{}:{to}", dir.display());
    let script = "pwd; echo $A; cat /ro/in; echo x >/ro/out 2>/dev/null || echo refused; echo back >/rw/out; \
                  echo x >/etc/mark; rm /etc/passwd; [ -e /etc/passwd ] || echo gone";
    let options =
        ["--volume", &volume("/ro:ro"), "--volume", &volume("/rw"), "--env", "A=b c", "--cwd", "/etc"];
    let o = do_with(&options, &["/bin/sh", "-c", script], b"");
    assert_eq!(o.text(), "/etc\nb c\ngiven\nrefused\ngone\n", "{}", o.brief());
    assert_eq!(std::fs::read_to_string(dir.join("out")).unwrap(), "back\n");
    let root = paths::rootfs("busybox");
    assert!(!root.join("etc/mark").exists() && root.join("etc/passwd").exists(), "the root has changed");
    for wrong in ["/no/such/place:/x", "nonsense", "/etc:relative"] {
        let o = do_with(&["--volume", wrong], &["/bin/true"], b"");
        assert!(o.code == Some(1) && o.stderr.contains(wrong), "{wrong}: {}", o.brief());
    }
}

#[test]
fn do_runs_over_the_hosts_own_root() {
    let mark = format!("/etc/mark-{}", unique_id());
    let script = format!(
        "echo x >{mark}; cat {mark}; rm -r /etc; [ -e /etc ] || echo gone; [ -e /proc/1 ] && echo proc"
    );
    let dir = paths::scratch("do");
    let mut c = Command::new(paths::chitin());
    c.arg("--root").arg(dir.join("state")).args(["do", "--", "/bin/sh", "-c", &script]);
    let o = run::run(c, b"", &dir, LIMIT);
    assert_eq!(o.text(), "x\ngone\nproc\n", "{}", o.brief());
    assert!(!Path::new(&mark).exists() && Path::new("/etc/passwd").exists(), "the host has changed");
}

/// What is written goes to the directory's file system (one of 16 MB here), and leaves no name there.
#[test]
fn do_overlays_into_a_directory() {
    let dir = paths::scratch("overlay");
    let full = "dd if=/dev/zero of=/big bs=1M count=32 2>&1 | grep -o 'No space left on device'";
    let script = format!(
        "dd if=/dev/zero of=/a bs=1M count=8 2>/dev/null && sync && md5sum </a; mkdir /d && mv /a /d/b && ln /d/b /c; \
         md5sum </c; {full}; rm /big; dd if=/dev/zero of=/big bs=1M count=6 2>/dev/null && echo again; \
         rm /etc/passwd; [ -e /etc/passwd ] || echo gone"
    );
    let mut c = Command::new("unshare");
    let on_tmpfs = "mount -t tmpfs -o size=16m overlay \"$0\" && \"$@\"; code=$?; ls -A \"$0\"; exit $code";
    c.args(["-m", "sh", "-c", on_tmpfs]).arg(&dir).arg(paths::chitin());
    c.arg("--root").arg(paths::scratch("do").join("state"));
    c.arg("--overlay").arg(format!("root:dir={}", dir.display()));
    c.args(["do", "--rootfs"]).arg(paths::rootfs("busybox")).args(["--", "/bin/sh", "-c", &script]);
    let o = run::run(c, b"", &dir, LIMIT);
    let sum = "96995b58d4cbf6aaa9041b4f00c7f6ae  -\n";
    assert_eq!(o.text(), format!("{sum}{sum}No space left on device\nagain\ngone\n"), "{}", o.brief());
    assert!(paths::rootfs("busybox").join("etc/passwd").exists(), "the root has changed");
    let mut c = Command::new(paths::chitin());
    c.args(["--overlay", "root:dir=/no/such/place", "do", "--", "/bin/true"]);
    let o = run::run(c, b"", &dir, LIMIT);
    assert!(o.code == Some(1) && o.stderr.contains("/no/such/place"), "{}", o.brief());
}

/// The gofer builds its own root on one of the host's directories, which must not come along with what it serves.
#[test]
fn do_sees_what_the_gofer_covers() {
    let dir = paths::scratch("do");
    let file = tempfile_in("/tmp");
    let script = format!("stat -c %a /tmp; cat {file} /vol{}", file.trim_start_matches("/tmp"));
    let mut c = Command::new(paths::chitin());
    c.arg("--root").arg(dir.join("state"));
    c.args(["do", "--volume", "/tmp:/vol:ro", "--", "/bin/sh", "-c", &script]);
    let o = run::run(c, b"", &dir, LIMIT);
    std::fs::remove_file(&file).unwrap();
    let mode = std::fs::metadata("/tmp").map(|m| std::os::unix::fs::MetadataExt::mode(&m) & 0o7777).unwrap();
    assert_eq!(o.text(), format!("{mode:o}\nseen\nseen\n"), "{}", o.brief());
}

fn tempfile_in(dir: &str) -> String {
    let path = format!("{dir}/chitin-tests-{}", unique_id());
    std::fs::write(&path, "seen\n").unwrap();
    path
}

#[test]
fn do_has_the_network_it_is_given() {
    for network in ["none", "sandbox"] {
        let o = do_with(&["--network", network], &["/bin/sh", "-c", "grep -c lo: /proc/net/dev"], b"");
        assert_eq!((o.code, o.text().as_str()), (Some(0), "1\n"), "{network}: {}", o.brief());
    }
}

#[test]
fn do_ends_at_an_interrupt() {
    for (signal, code) in [(nix::sys::signal::SIGINT, 130), (nix::sys::signal::SIGTERM, 143)] {
        let dir = paths::scratch("do");
        let mut c = Command::new(paths::chitin());
        c.arg("--root").arg(dir.join("state")).args(["do", "--rootfs"]).arg(paths::rootfs("busybox"));
        c.args(["--", "/bin/sh", "-c", "echo ready; exec sleep 100"]);
        c.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut c = c.spawn().unwrap();
        let mut ready = [0; 6];
        c.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(c.id().cast_signed()), signal).unwrap();
        assert_eq!(finish(c), Some(code), "{signal}");
        let left = std::fs::read_dir(dir.join("state")).unwrap().count();
        assert_eq!(left, 0, "state left");
    }
}

#[test]
fn a_killed_command_is_swept_away() {
    if Engine::under_test() != Engine::Chitin {
        skip("a_killed_command_is_swept_away", "runc's containers outlive a killed `run`");
        return;
    }
    let b = busybox("swept", "echo ready; exec sleep 100").set("/linux/cgroupsPath", json!(unique_id()));
    let (root, id) = (state_root("swept"), unique_id());
    let mut c = spawn(&b, &root, &id, &[], [Stdio::null(), Stdio::piped(), Stdio::null()]);
    let mut ready = [0; 6];
    c.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    c.kill().unwrap();
    c.wait().unwrap();
    let cgroup = b.config["linux"]["cgroupsPath"].as_str().unwrap_or_default().to_owned();
    settle(LIMIT, || {
        // Any other command finds it and removes what is left.
        let list = run::quick(Engine::Chitin.command(&root, None, &["list", "-q"]), LIMIT);
        match (list.text().is_empty(), root.join(&id).exists(), chitin_tests::leftovers::cgroups(&cgroup)) {
            (true, false, left) if left.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
}

#[test]
fn sysctls_of_the_configuration() {
    let b = busybox("sysctl", "cat /proc/sys/net/core/somaxconn");
    let set = |name: &str| b.clone().set("/linux/sysctl", json!({ name: "128" }));
    let o = Engine::under_test().run(&set("net.core.somaxconn"), b"", LIMIT);
    assert_eq!(o.text(), "128\n", "{}", o.brief());
    let o = Engine::under_test().run(&set("net.core.nonsense"), b"", LIMIT);
    assert!(o.code != Some(0) && o.stderr.contains("net.core.nonsense"), "{}", o.brief());
}

#[test]
fn features_describe_the_runtime() {
    if Engine::under_test() != Engine::Chitin {
        skip("features_describe_the_runtime", "the list of system calls is chitin's own");
        return;
    }
    let features = |args: &[&str]| {
        let mut c = Command::new(paths::chitin());
        c.arg("features").args(args);
        let o = run::quick(c, LIMIT);
        assert_eq!(o.code, Some(0), "{}", o.brief());
        o.text()
    };
    let all: Value = serde_json::from_str(&features(&[])).expect("JSON");
    assert!(all["ociVersionMax"].is_string() && all["mountOptions"].is_array(), "{all}");
    let calls: Value = serde_json::from_str(&features(&["--syscalls", "-f", "json"])).expect("JSON");
    let calls = calls.as_array().expect("an array");
    let of = |name: &str| calls.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!((of("read")["nr"].as_u64(), of("read")["support"].as_str()), (Some(0), Some("full")));
    assert_eq!(features(&["--syscalls"]).lines().count(), calls.len() + 2);
}

/// A guest program by `chitin do`, with options of chitin's.
fn do_guest(options: &[&str], command: &[&str]) -> Outcome {
    let mut c = Command::new(paths::chitin());
    c.args(options).args(["do", "--rootfs"]).arg(paths::rootfs("busybox"));
    c.arg("--volume").arg(format!("{}:/guest:ro", paths::guests().display())).arg("--").args(command);
    run::quick(c, LIMIT)
}

/// Sockets that may also go out through the host's are no less than others.
#[test]
fn do_has_all_options_of_sockets() {
    let o = do_guest(&[], &["/guest/inet_opts"]);
    assert!(o.code == Some(0) && !o.text().contains("not ok"), "{}", o.brief());
}

/// Code that is called often is changed in memory only if that is wanted.
#[test]
fn do_leaves_code_alone_if_told() {
    let o = do_guest(&["--platform=seccomp", "--patch-calls=false"], &["/guest/hot", "--child", "code"]);
    assert!(o.code == Some(0) && o.text().trim() == "b8", "{}", o.brief());
}
