//! The sentry's side of the control socket, spoken to directly: further processes with their descriptors, terminals,
//! the end of a connection, further containers of a pod, and what the host may kill.
//!
//! Only for chitin: other runtimes have no such socket. What users see of it is tested through the commands.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::leftovers::settle;
use chitin_tests::run::{self, Outcome};
use chitin_tests::{paths, skip};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const LOOP: &str = "exec sleep 777777";

/// A sandbox, and what was made beside it.
struct Pod {
    root: PathBuf,
    id: String,
    more: Vec<String>,
}

impl Pod {
    fn call(&self, args: &[&str]) -> Outcome {
        run::quick(Engine::Chitin.command(&self.root, None, args), LIMIT)
    }
    fn ok(&self, args: &[&str]) -> Outcome {
        let o = self.call(args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o
    }
    /// `create`, whose container keeps its output files open.
    fn make(&self, id: &str, bundle: &Bundle) {
        bundle.write();
        self.ok(&["create", "--bundle", &bundle.dir.to_string_lossy(), id]);
    }
    /// A started sandbox; none for other runtimes.
    fn new() -> Option<Pod> {
        if Engine::under_test() != Engine::Chitin {
            skip("control", "only chitin has a control socket");
            return None;
        }
        let pod = Pod { root: state_root("control"), id: unique_id(), more: Vec::new() };
        pod.make(&pod.id, &annotated("sandbox", &pod.id, LOOP));
        Some(pod)
    }
    fn started() -> Option<Pod> {
        let pod = Pod::new()?;
        pod.ok(&["start", &pod.id]);
        settle(LIMIT, || match pod.commands(&pod.id) {
            found if found == ["sleep 777777"] => Ok(()),
            found => Err(format!("{found:?}")),
        })
        .unwrap();
        Some(pod)
    }
    fn connect(&self) -> Connection {
        let stream =
            UnixStream::connect(self.root.join(&self.id).join("control.sock")).expect("control.sock");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Connection { stream, rest: Vec::new() }
    }
    fn processes(&self, id: &str) -> Vec<Value> {
        let answer = self.connect().call(&json!({ "op": "processes", "container": id }));
        answer["processes"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    }
    fn commands(&self, id: &str) -> Vec<String> {
        let text = |p: &Value| p["command"].as_str().unwrap_or_default().to_owned();
        self.processes(id).iter().map(text).collect()
    }
    fn sentry(&self) -> i32 {
        let state: Value =
            serde_json::from_slice(&fs::read(self.root.join(&self.id).join("state.json")).expect("state"))
                .expect("JSON");
        i32::try_from(state["sentry"]["pid"].as_i64().expect("a pid")).expect("a pid")
    }
    /// Runs a program to its end: its status and output.
    fn exec(&self, process: &Value) -> (Value, String) {
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let null = fs::File::open("/dev/null").expect("/dev/null");
        let mut c = self.connect();
        let started = c.exec(&self.id, process, [null.as_raw_fd(), write.as_raw_fd(), write.as_raw_fd()]);
        drop(write);
        if started["re"] != "started" {
            return (started, String::new());
        }
        let end = c.call(&json!({ "op": "waitexec", "container": self.id, "pid": started["pid"] }));
        let mut text = String::new();
        read.read_to_string(&mut text).expect("text");
        (end["status"].clone(), text)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for id in self.more.iter().chain([&self.id]) {
            let _ = self.call(&["delete", "--force", id]);
        }
    }
}

fn annotated(kind: &str, sandbox: &str, script: &str) -> Bundle {
    let annotations = json!({
        "io.kubernetes.cri.container-type": kind,
        "io.kubernetes.cri.sandbox-id": sandbox,
    });
    Bundle::new("control", &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
        .set("/annotations", annotations)
}

struct Connection {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Connection {
    fn send(&mut self, request: &Value, fds: &[RawFd]) {
        let mut bytes = serde_json::to_vec(request).expect("JSON");
        bytes.push(b'\n');
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let (fd, flags) = (self.stream.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
        let sent = sendmsg::<()>(fd, &[IoSlice::new(&bytes)], rights, flags, None).expect("sendmsg");
        self.stream.write_all(&bytes[sent..]).expect("the rest");
    }
    fn receive(&mut self) -> Value {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return serde_json::from_slice(&line).expect("an answer");
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).expect("an answer in time");
            assert_ne!(count, 0, "the sentry closed the connection");
            self.rest.extend_from_slice(&chunk[..count]);
        }
    }
    fn call(&mut self, request: &Value) -> Value {
        self.send(request, &[]);
        self.receive()
    }
    fn exec(&mut self, id: &str, process: &Value, fds: [RawFd; 3]) -> Value {
        self.send(&json!({ "op": "exec", "container": id, "process": process }), &fds);
        self.receive()
    }
}

fn process(args: &[&str]) -> Value {
    json!({
        "args": args,
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        "cwd": "/",
        "uid": 0,
        "gid": 0,
        "additional_gids": [],
        "umask": null,
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "inheritable": [],
            "permitted": ["CAP_KILL"], "ambient": [],
        },
        "rlimits": [],
        "no_new_privileges": false,
        "oom_score_adj": null,
        "terminal": false,
        "console_size": null,
        "stdio": [0, 1, 2],
    })
}

fn with(mut process: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        process[key] = value.clone();
    }
    process
}

#[test]
fn a_process_is_what_was_asked_for() {
    let Some(pod) = Pod::started() else { return };
    let script = "id -u; id -G; pwd; umask; ulimit -n; echo $PPID; cat; grep -E 'CapEff|NoNewPrivs' /proc/self/status; exit 7";
    let asked = json!({
        "uid": 1000, "gid": 1000, "additional_gids": [5, 7], "cwd": "/tmp", "umask": 0o27,
        "no_new_privileges": true, "rlimits": [{ "name": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }],
    });
    let (status, text) = pod.exec(&with(process(&["sh", "-c", script]), asked));
    assert_eq!(status, json!({ "exited": 7 }), "{text}");
    let want = "1000\n1000 5 7\n/tmp\n0027\n77\n0\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n";
    assert_eq!(text, want);
    let (status, _) = pod.exec(&process(&["sh", "-c", "kill -9 $$"]));
    assert_eq!(status, json!({ "signaled": 9 }));
}

#[test]
fn errors_are_in_the_words_of_runc() {
    let Some(pod) = Pod::new() else { return };
    let say = |process: Value| pod.exec(&process).0["message"].as_str().unwrap_or_default().to_owned();
    // As with runc: hooks may run something before init does.
    assert_eq!(pod.exec(&process(&["echo", "early"])), (json!({ "exited": 0 }), "early\n".into()));
    pod.ok(&["start", &pod.id]);
    for (op, words) in [("pause", "paused container"), ("resume", "")] {
        let answer = pod.connect().call(&json!({ "op": op, "container": pod.id }));
        assert_eq!(answer, json!({ "re": "ok" }));
        let said = say(process(&["true"]));
        assert!(said.contains(words) && said.is_empty() == words.is_empty(), "{op}: {said}");
        let again = pod.connect().call(&json!({ "op": op, "container": pod.id }));
        assert_eq!(again["re"], "error", "{op}: {again}");
    }
    for (program, words) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/nope", "exec: \"/nope\": stat /nope: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory"),
    ] {
        let said = say(process(&[program]));
        assert!(said.contains(words), "{said}");
    }
    let said = say(with(process(&["true"]), json!({ "cwd": "/nope" })));
    assert!(
        said.contains("chdir to cwd (\"/nope\")") && said.contains("no such file or directory"),
        "{said}"
    );
    let said = say(with(process(&["true"]), json!({ "stdio": [0, 1, 9] })));
    assert!(said.contains("did not come with the message"), "{said}");
    // All of that has left the sandbox as it was.
    assert_eq!(pod.exec(&process(&["echo", "x"])), (json!({ "exited": 0 }), "x\n".into()));
}

#[test]
fn the_end_of_the_connection_ends_the_process() {
    let Some(pod) = Pod::started() else { return };
    let null = fs::File::open("/dev/null").expect("/dev/null");
    let fds = [null.as_raw_fd(); 3];
    let sleeps = || pod.commands(&pod.id).iter().filter(|c| c.contains("sleep 1000")).count();
    for waiting in [false, true] {
        let mut c = pod.connect();
        let started = c.exec(&pod.id, &process(&["sleep", "1000"]), fds);
        assert_eq!(started["re"], "started", "{started}");
        if waiting {
            c.send(&json!({ "op": "waitexec", "container": pod.id, "pid": started["pid"] }), &[]);
        }
        assert_eq!(sleeps(), 1);
        drop(c);
        settle(LIMIT, || if sleeps() == 0 { Ok(()) } else { Err("it lives".into()) }).unwrap();
    }
    let mut c = pod.connect();
    let started = c.exec(&pod.id, &process(&["sleep", "1000"]), fds);
    let pid = &started["pid"];
    c.send(&json!({ "op": "waitexec", "container": pod.id, "pid": pid }), &[]);
    let signal = json!({ "op": "signal", "container": pod.id, "signal": 15, "all": false, "pid": pid });
    assert_eq!(pod.connect().call(&signal), json!({ "re": "ok" }));
    assert_eq!(c.receive(), json!({ "re": "exited", "status": { "signaled": 15 } }));
}

#[test]
fn a_terminal_of_its_own() {
    let Some(pod) = Pod::started() else { return };
    let pty = nix::pty::openpty(None, None).expect("a pty");
    let script = "trap 'echo size $(stty size)' WINCH; trap 'echo int' INT; trap 'exit 3' HUP; \
                  tty; [ -c $(tty) ] && echo there; stty size; echo up; while :; do sleep 0.1; done";
    let asked = json!({ "terminal": true, "console_size": { "rows": 33, "cols": 77 } });
    let mut c = pod.connect();
    let started = c.exec(&pod.id, &with(process(&["sh", "-c", script]), asked), [pty.slave.as_raw_fd(); 3]);
    assert_eq!(started["re"], "started", "{started}");
    drop(pty.slave);
    let mut screen = Screen { master: pty.master.into(), seen: String::new() };
    screen.until("up");
    assert!(screen.seen.contains("/dev/pts/0\r\nthere\r\n33 77\r\n"), "{}", screen.seen);
    let row = pod.processes(&pod.id).into_iter().find(|p| p["pid"] == started["pid"]).expect("its row");
    assert_eq!(row["tty"], "pts/0");
    let mut other = pod.connect();
    let mut signal = |number: i32| {
        let request =
            json!({ "op": "terminal", "container": pod.id, "signal": number, "pid": started["pid"] });
        assert_eq!(other.call(&request), json!({ "re": "ok" }));
    };
    signal(libc::SIGINT);
    screen.until("int");
    screen.master.write_all(b"\x03").expect("typing");
    screen.until("^Cint");
    let status = std::process::Command::new("stty")
        .args(["rows", "44", "cols", "99"])
        .stdin(screen.master.try_clone().expect("a copy"))
        .status();
    assert!(status.expect("stty").success());
    signal(libc::SIGWINCH);
    screen.until("size 44 99");
    c.send(&json!({ "op": "waitexec", "container": pod.id, "pid": started["pid"] }), &[]);
    signal(libc::SIGHUP);
    assert_eq!(c.receive(), json!({ "re": "exited", "status": { "exited": 3 } }));
}

struct Screen {
    master: fs::File,
    seen: String,
}

impl Screen {
    fn until(&mut self, text: &str) {
        let end = std::time::Instant::now() + LIMIT;
        while !self.seen.contains(text) {
            assert!(std::time::Instant::now() < end, "no {text:?} in {:?}", self.seen);
            let mut chunk = [0; 4096];
            let count = self.master.read(&mut chunk).unwrap_or_else(|e| panic!("{e}: {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    }
}

#[test]
fn containers_of_a_pod() {
    let Some(mut pod) = Pod::started() else { return };
    let shared = paths::scratch("emptydir");
    let ids: Vec<String> = (0..2).map(|_| unique_id()).collect();
    pod.more.clone_from(&ids);
    for (id, script) in
        ids.iter().zip([LOOP, "until [ -e /shared/end ]; do sleep 0.1; done; exit $(cat /shared/end)"])
    {
        let bundle = annotated("container", &pod.id, script).bind(&shared, "/shared", &["rw"]);
        pod.make(id, &bundle);
    }
    let run = |id: &str, script: &str| pod.ok(&["exec", id, "sh", "-c", script]).text();
    pod.ok(&["start", &ids[0]]);
    run(&ids[0], "echo one >/shared/file; mkdir /shared/dir; touch /own");
    pod.ok(&["start", &ids[1]]);
    // Each sees what the other does to what they share, and nothing else of it.
    assert_eq!(run(&ids[1], "cat /shared/file; ls /shared; ls /own 2>/dev/null || true"), "one\ndir\nfile\n");
    run(&ids[1], "echo two >>/shared/file; rmdir /shared/dir; mv /shared/file /shared/moved");
    assert_eq!(run(&ids[0], "cat /shared/moved; ls /shared"), "one\ntwo\nmoved\n");
    assert!(pod.commands(&ids[1]).iter().all(|c| !c.contains("777777")), "another container's processes");
    // An end is its container's own.
    let mut waiting = pod.connect();
    waiting.send(&json!({ "op": "wait", "container": ids[1] }), &[]);
    run(&ids[0], "echo 5 >/shared/new; mv /shared/new /shared/end");
    assert_eq!(waiting.receive(), json!({ "re": "exited", "status": { "exited": 5 } }));
    let said = pod.call(&["exec", &ids[1], "true"]);
    assert!(said.stderr.contains("stopped"), "{}", said.brief());
    // Its stand-in on the host ends a moment later, for which `delete` waits.
    pod.ok(&["delete", &ids[1]]);
    assert_eq!(run(&ids[0], "echo here"), "here\n");
    // So is the end of a gofer.
    let state: Value =
        serde_json::from_slice(&fs::read(pod.root.join(&ids[0]).join("state.json")).expect("state")).unwrap();
    let gofer = i32::try_from(state["gofer"]["pid"].as_i64().expect("a pid")).expect("a pid");
    kill(Pid::from_raw(gofer), Signal::SIGKILL).expect("the gofer lives");
    settle(LIMIT, || {
        let state = pod.connect().call(&json!({ "op": "state", "container": ids[0] }));
        if state["status"] == "stopped" { Ok(()) } else { Err(state.to_string()) }
    })
    .unwrap();
    assert_eq!(pod.exec(&process(&["echo", "x"])), (json!({ "exited": 0 }), "x\n".into()));
}

#[test]
fn the_end_of_who_stands_for_a_container_ends_it() {
    let Some(mut pod) = Pod::started() else { return };
    let id = unique_id();
    pod.more = vec![id.clone()];
    pod.make(&id, &annotated("container", &pod.id, LOOP));
    pod.ok(&["start", &id]);
    let mut waiting = pod.connect();
    waiting.send(&json!({ "op": "wait", "container": id }), &[]);
    let state: Value = serde_json::from_str(&pod.ok(&["state", &id]).text()).expect("state is JSON");
    let stand_in = i32::try_from(state["pid"].as_i64().expect("a pid")).expect("a pid");
    kill(Pid::from_raw(stand_in), Signal::SIGKILL).expect("it lives");
    assert_eq!(waiting.receive(), json!({ "re": "exited", "status": { "signaled": 9 } }));
    pod.ok(&["delete", &id]);
    assert_eq!(pod.exec(&process(&["echo", "x"])), (json!({ "exited": 0 }), "x\n".into()));
}

#[test]
fn what_was_only_prepared_goes_with_its_connection() {
    let Some(pod) = Pod::started() else { return };
    let before = children(pod.sentry()).len();
    let mut c = pod.connect();
    assert_eq!(c.call(&json!({ "op": "prepare", "container": "more" })), json!({ "re": "prepared" }));
    let again = pod.connect().call(&json!({ "op": "prepare", "container": "more" }));
    assert_eq!(again["re"], "error", "{again}");
    assert_eq!(children(pod.sentry()).len(), before + 1);
    let start = c.call(&json!({ "op": "start", "container": "more" }));
    assert_eq!(start["re"], "error", "{start}");
    drop(c);
    settle(LIMIT, || {
        let gone = children(pod.sentry()).len() == before;
        if gone { Ok(()) } else { Err("its zygote lives".into()) }
    })
    .unwrap();
    let state = pod.connect().call(&json!({ "op": "state", "container": "more" }));
    assert_eq!(state["re"], "error", "{state}");
}

/// Host pids of the sentry's children by their pids in its namespace.
fn children(sentry: i32) -> BTreeMap<i64, i32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("PPid:") == Some(&sentry.to_string()) && !field("State:").is_some_and(|s| s.starts_with('Z'))
        {
            let last = field("NSpid:").and_then(|ids| ids.split_whitespace().last()?.parse::<i64>().ok());
            let host = field("Pid:").and_then(|id| id.parse::<i32>().ok());
            found.extend(last.zip(host));
        }
    }
    found
}

fn score(pid: i32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a living process");
    text.trim().parse().expect("a number")
}

/// As the host's OOM killer does it.
#[test]
fn a_guest_that_the_host_kills_dies_alone() {
    let Some(pod) = Pod::started() else { return };
    let sentry = pod.sentry();
    for stub in children(sentry).values() {
        assert!(score(*stub) > score(sentry), "the sentry would be killed as willingly as guests");
    }
    // In a call, and running.
    for (work, shown) in [("exec sleep 1000", "sleep 1000"), ("while :; do :; done", "do :; done")] {
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let null = fs::File::open("/dev/null").expect("/dev/null");
        let mut c = pod.connect();
        let script = format!("sh -c '{work}' & wait $!; echo got $?");
        let started = c.exec(
            &pod.id,
            &process(&["sh", "-c", &script]),
            [null.as_raw_fd(), write.as_raw_fd(), null.as_raw_fd()],
        );
        assert_eq!(started["re"], "started", "{started}");
        drop(write);
        let look = || {
            let rows = pod.processes(&pod.id);
            // Once it runs the program: until then it may still change its host process.
            let victim = |p: &&Value| {
                p["ppid"] == started["pid"] && p["command"].as_str().is_some_and(|c| c.ends_with(shown))
            };
            rows.iter().find(victim).and_then(|p| p["stub"].as_i64())
        };
        settled(look);
        // What it is after an execve that was under way.
        std::thread::sleep(Duration::from_millis(100));
        let stub = settled(look);
        let host = settled(|| children(sentry).get(&stub).copied());
        kill(Pid::from_raw(host), Signal::SIGKILL).expect("the stub lives");
        let mut text = String::new();
        read.read_to_string(&mut text).expect("text");
        assert_eq!(text, "got 137\n");
    }
    assert_eq!(pod.exec(&process(&["echo", "x"])), (json!({ "exited": 0 }), "x\n".into()));
    // Without its zygote a sandbox can start nothing more: it ends, and says so.
    let first = children(sentry).into_iter().next().expect("a zygote");
    kill(Pid::from_raw(first.1), Signal::SIGKILL).expect("the zygote lives");
    settle(LIMIT, || {
        let state: Value = serde_json::from_slice(&pod.ok(&["state", &pod.id]).stdout).expect("JSON");
        if state["status"] == "stopped" { Ok(()) } else { Err(state.to_string()) }
    })
    .unwrap();
}

fn settled<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    settle(LIMIT, || {
        found = look();
        if found.is_some() { Ok(()) } else { Err("nothing yet".into()) }
    })
    .unwrap();
    found.expect("just found")
}

#[test]
fn limits_can_change() {
    let Some(pod) = Pod::started() else { return };
    let (_, all) = pod.exec(&process(&["nproc"]));
    let request = json!({ "op": "update", "container": pod.id, "limits": { "cpus": 1, "memory": 64 << 20 } });
    assert_eq!(pod.connect().call(&request), json!({ "re": "ok" }));
    let script = "nproc; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online; \
                  grep MemTotal /proc/meminfo | tr -s ' '";
    let (_, text) = pod.exec(&process(&["sh", "-c", script]));
    assert_eq!(text, "1\n1\n0\nMemTotal: 65536 kB\n", "{all}");
}

/// Descriptors that a request does not use are closed.
#[test]
fn surplus_descriptors_are_closed() {
    let Some(pod) = Pod::started() else { return };
    let (mut read, write) = std::io::pipe().expect("a pipe");
    let write: OwnedFd = write.into();
    let mut c = pod.connect();
    c.send(&json!({ "op": "state", "container": pod.id }), &[write.as_raw_fd(); 100]);
    assert_eq!(c.receive()["status"], "running");
    drop(write);
    let mut text = String::new();
    read.read_to_string(&mut text).expect("the end of the stream");
}
