//! What flags of runc and crun do that engines use seldom. `CHITIN_TEST_ENGINE=runc|crun` proves each test with the one that
//! has the flag. Neighbours: `command_line.rs` (which flags there are), `commands.rs`, `exec.rs`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use chitin_tests::engine::{Engine, unique_id};
use chitin_tests::leftovers::{cgroups, settle};
use chitin_tests::steps::{LIMIT, Steps};
use chitin_tests::{paths, run, skip};
use serde_json::json;

const WAITS: &str = "while :; do sleep 1; done";

/// Whether the engine under test has a flag of crun's.
fn like_crun(test: &str) -> bool {
    let has = Engine::under_test() != Engine::Runc;
    if !has {
        skip(test, "runc does not have it");
    }
    has
}

#[test]
fn regular_expressions_name_containers() {
    if !like_crun("regular_expressions_name_containers") {
        return;
    }
    let (a, b) = (Steps::busybox("regex", WAITS), Steps::busybox("regex", WAITS));
    let names = |s: &Steps| s.ok(&["list", "-q"]).text().lines().map(str::to_owned).collect::<Vec<_>>();
    a.launch();
    // One of another name below the same root.
    let other = format!("other-{}", b.id);
    a.ok(&["create", "--bundle", &b.bundle_path(), &other]);
    a.ok(&["kill", "--regex", "^t-[0-9]+-[0-9]+$", "KILL"]);
    a.until("stopped");
    a.ok(&["delete", "--regex", "^t-"]);
    assert_eq!(names(&a), std::slice::from_ref(&other));
    a.ok(&["delete", "--force", "--regex", "ther-"]);
    assert!(names(&a).is_empty());
    if a.engine == Engine::Chitin {
        // crun finds none that it matches.
        a.fails(&["delete", "--regex", "("]);
    }
}

#[test]
fn the_configuration_may_have_another_name() {
    if !like_crun("the_configuration_may_have_another_name") {
        return;
    }
    let s = Steps::busybox("config-name", "exit 7");
    let other = s.bundle.dir.join("other.json");
    std::fs::rename(s.bundle.dir.join("config.json"), &other).unwrap();
    let o = s.call(&["run", "--bundle", &s.bundle_path(), "--config", &other.to_string_lossy(), &s.id]);
    assert_eq!(o.code, Some(7), "{}", o.brief());
    s.ok(&["spec", "--bundle", &s.bundle_path(), "--file", "third.json"]);
    assert!(s.bundle.dir.join("third.json").exists());
}

/// Who listens for a pidfd (`programs/pidfd.py`).
struct Listener {
    path: std::path::PathBuf,
    program: Child,
    orders: ChildStdin,
    lines: BufReader<std::process::ChildStdout>,
}

impl Listener {
    fn new() -> Listener {
        // Short: a unix socket's path has 107 bytes.
        let path = std::env::temp_dir().join(format!("pidfd-{}", unique_id()));
        let mut c = Command::new("timeout");
        c.arg("60")
            .arg("python3")
            .arg(paths::repo().join("tests/harness/tests/programs/pidfd.py"))
            .arg(&path);
        let mut program = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let (orders, lines) = (program.stdin.take().expect("piped"), program.stdout.take().expect("piped"));
        let mut listener = Listener { path, program, orders, lines: BufReader::new(lines) };
        assert_eq!(listener.line(), "listening");
        listener
    }

    fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("it speaks");
        line.trim_end().to_owned()
    }

    fn send(&mut self, signal: i32) {
        writeln!(self.orders, "{signal}").expect("it listens");
        assert_eq!(self.line(), "sent");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// runc has it since 1.2.
#[test]
fn a_pidfd_is_handed_over() {
    let s = Steps::busybox("pidfd", "trap 'exit 0' USR1; while :; do sleep 0.05; done");
    if s.engine == Engine::Crun || s.engine == Engine::Runc && !run_help(&s).contains("--pidfd-socket") {
        return skip("a_pidfd_is_handed_over", "this engine does not have the flag");
    }
    let mut l = Listener::new();
    s.ok(&["create", "--bundle", &s.bundle_path(), "--pidfd-socket", &l.path(), &s.id]);
    assert_eq!(l.line(), format!("standard {}", s.state()["pid"]));
    s.start();
    s.until("running");
    let mut e = Listener::new();
    let file = s.bundle.dir.join("exec.pid");
    let flags = ["--detach", "--pid-file", &file.to_string_lossy(), "--pidfd-socket", &e.path()];
    let o = s.exec(&flags, &["sleep", "1000"]);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    assert_eq!(e.line(), format!("setns {}", std::fs::read_to_string(&file).expect("the pid file")));
    e.send(9);
    let gone =
        |sleepers: &str| if sleepers.contains("sleep 1000") { Err(sleepers.to_owned()) } else { Ok(()) };
    settle(LIMIT, || gone(&s.exec(&[], &["ps"]).text())).unwrap();
    l.send(9);
    s.until("stopped");
    // Nobody listens.
    let other = Steps::busybox("pidfd-dead", WAITS);
    other.fails(&[
        "create",
        "--bundle",
        &other.bundle_path(),
        "--pidfd-socket",
        "/no/such/socket",
        &other.id,
    ]);
    other.fails(&["state", &other.id]);
}

fn run_help(s: &Steps) -> String {
    s.call(&["run", "--help"]).text()
}

/// A cgroup that the container has made below its own.
#[test]
fn a_process_in_a_cgroup_below_the_containers() {
    let script =
        "mkdir /sys/fs/cgroup/deep /sys/fs/cgroup/deep/er; echo >/tmp/ready; while :; do sleep 1; done";
    let s = with_cgroups("sub-cgroup", script);
    if s.try_create().code != Some(0) {
        return skip(
            "a_process_in_a_cgroup_below_the_containers",
            "no cgroup of its own for this engine here",
        );
    }
    s.start();
    let ready = || {
        if s.exec(&[], &["test", "-e", "/tmp/ready"]).code == Some(0) { Ok(()) } else { Err("no".to_owned()) }
    };
    settle(LIMIT, ready).unwrap();
    let o = s.exec(&["--cgroup", "deep/er"], &["cat", "/proc/self/cgroup"]);
    assert!(o.text().trim_end().ends_with("/deep/er"), "{}", o.brief());
    let o = s.exec(&["--cgroup", "/"], &["cat", "/proc/self/cgroup"]);
    assert!(o.code == Some(0) && !o.text().contains("deep"), "{}", o.brief());
    if s.engine != Engine::Crun {
        // crun makes it.
        assert_ne!(s.exec(&["--cgroup", "nope"], &["true"]).code, Some(0));
        assert_ne!(s.exec(&["--cgroup", "../.."], &["true"]).code, Some(0));
    }
}

/// With a cgroup of its own that is shown, writable, at the usual place.
fn with_cgroups(name: &str, script: &str) -> Steps {
    let mut s = Steps::busybox(name, script);
    s.bundle.config["linux"]["cgroupsPath"] = format!("/{}", s.id).into();
    s.bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces")
        .push(json!({ "type": "cgroup" }));
    let mount =
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] });
    s.bundle.config["mounts"].as_array_mut().expect("mounts").push(mount);
    s.bundle.write();
    s
}

/// `--ignore-paused`: the process is there, and begins when the pause ends.
#[test]
fn a_process_in_a_paused_container_waits() {
    if Engine::under_test() == Engine::Crun {
        return skip("a_process_in_a_paused_container_waits", "crun does not have it");
    }
    let s = with_cgroups("ignore-paused", WAITS);
    s.launch();
    s.ok(&["pause", &s.id]);
    assert_ne!(s.exec(&[], &["true"]).code, Some(0));
    // runc itself waits with it.
    let mut command =
        s.engine.command(&s.root, None, &["exec", "--ignore-paused", &s.id, "sh", "-c", "exit 9"]);
    let mut child = command.stdin(Stdio::null()).spawn().expect("it starts");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("our child").is_none(), "it has not waited");
    s.ok(&["resume", &s.id]);
    let code = run::wait_for(&mut child, LIMIT);
    if code.is_none() {
        run::kill_tree(&mut child);
    }
    assert_eq!(code, Some(9));
}

/// crun's global flags for what runc says otherwise.
#[test]
fn a_cgroup_manager_and_a_log_level() {
    if !like_crun("a_cgroup_manager_and_a_log_level") {
        return;
    }
    let s = Steps::busybox("manager", WAITS);
    let path = s.bundle_path();
    s.ok(&["--cgroup-manager=disabled", "create", "--bundle", &path, &s.id]);
    assert!(cgroups(&s.id).is_empty(), "{:?}", cgroups(&s.id));
    s.ok(&["delete", "--force", &s.id]);
    s.fails(&["--cgroup-manager=nonsense", "list"]);
    if s.engine == Engine::Chitin {
        // A warning is no error: nobody joins the host's mounts.
        s.bundle.clone().set("/linux/rootfsPropagation", json!("shared")).write();
        let said = |level: &str| {
            let o = s.ok(&[level, "create", "--bundle", &path, &s.id]);
            s.ok(&["delete", "--force", &s.id]);
            o.stderr
        };
        assert!(said("--log-level=warning").contains("rootfsPropagation"));
        assert_eq!(said("--log-level=error"), "");
        assert!(said("--log-level=debug").contains("rootfsPropagation"));
    }
}
