//! `--systemd-cgroup` against a real systemd, which the test boots in namespaces of its own. `CHITIN_TEST_ENGINE=runc|crun`
//! proves it. Neighbour: `cgroup/systemd/tests.rs` of the runtime, for what goes over the wire.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::unique_id;
use chitin_tests::engines::runtime;
use chitin_tests::leftovers::settle;
use chitin_tests::run::{self, Outcome};
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

struct Systemd {
    outer: Child,
    pid: String,
}

impl Systemd {
    fn boot() -> Result<Systemd, String> {
        let v2 = [Path::new("/sys/fs/cgroup/unified"), Path::new("/sys/fs/cgroup")];
        let top =
            v2.into_iter().find(|p| p.join("cgroup.procs").exists() && p.join("cgroup.controllers").exists());
        let top: PathBuf = top.ok_or("no cgroup v2 here")?.join(format!("chitin-systemd-{}", unique_id()));
        if !Path::new("/lib/systemd/systemd").exists() {
            return Err("systemd is not installed".into());
        }
        let script = paths::repo().join("tests/harness/src/engines/systemd.sh");
        let log = std::fs::File::create(paths::scratch("systemd").join("log")).map_err(|e| e.to_string())?;
        let mut c = Command::new("sh");
        c.arg(script).arg(top).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut outer = c.spawn().map_err(|e| e.to_string())?;
        let mut said = String::new();
        let _ = outer.stdout.take().map(|o| BufReader::new(o).read_line(&mut said));
        let pid = said.trim().strip_prefix("pid ").filter(|p| !p.is_empty()).unwrap_or_default().to_owned();
        let s = Systemd { outer, pid };
        if s.pid.is_empty() {
            return Err("no namespaces of its own".into());
        }
        settle(Duration::from_secs(30), || {
            let o = s.call(&["systemctl", "is-active", "test.target"]);
            if o.text().trim() == "active" { Ok(()) } else { Err(o.brief()) }
        })?;
        Ok(s)
    }

    fn call(&self, args: &[&str]) -> Outcome {
        let mut c = Command::new("nsenter");
        c.args(["-t", &self.pid, "--mount", "--pid", "--cgroup", "--net", "--uts", "--ipc", "--"]).args(args);
        run::quick(c, LIMIT)
    }

    fn ok(&self, args: &[&str]) -> String {
        let o = self.call(args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o.text()
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&["systemctl", "show", unit, "--property", name, "--value"]).trim().to_owned()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        drop(self.outer.stdin.take());
        if run::wait_for(&mut self.outer, Duration::from_secs(20)).is_none() {
            run::kill_tree(&mut self.outer);
        }
    }
}

#[test]
fn a_container_is_a_scope() {
    let s = match Systemd::boot() {
        Ok(s) => s,
        Err(why) => return skip("a_container_is_a_scope", &format!("systemd does not boot here: {why}")),
    };
    let id = unique_id();
    let b =
        Bundle::new("systemd", &paths::rootfs("busybox"), &["/bin/sh", "-c", "while :; do sleep 1; done"])
            .set("/root/readonly", json!(true))
            .set("/linux/cgroupsPath", json!(format!("some-part.slice:made:{id}")));
    b.write();
    let (bin, dir) = (runtime().to_string_lossy().into_owned(), b.dir.to_string_lossy().into_owned());
    let call =
        |args: &[&str]| s.call(&[&[bin.as_str(), "--root", "/run/state", "--systemd-cgroup"], args].concat());
    let ok = |args: &[&str]| {
        let o = call(args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o
    };
    let unit = format!("made-{id}.scope");
    ok(&["create", "--bundle", &dir, &id]);
    ok(&["start", &id]);
    assert_eq!(s.property(&unit, "ActiveState"), "active");
    assert_eq!(s.property(&unit, "Slice"), "some-part.slice");
    assert_eq!(s.property(&unit, "Delegate"), "yes");
    // All that the container consists of is there.
    let group = format!("/sys/fs/cgroup/some.slice/some-part.slice/{unit}");
    let inside =
        || s.ok(&["sh", "-c", &format!("cat {group}/cgroup.procs {group}/*/cgroup.procs 2>/dev/null; true")]);
    let state: Value = serde_json::from_slice(&ok(&["state", &id]).stdout).expect("JSON");
    let pid = state["pid"].to_string();
    assert!(inside().lines().any(|l| l == pid), "{pid} is not in {group}: {}", inside());
    let before = inside().lines().count();
    assert_eq!(ok(&["exec", &id, "echo", "inside"]).text(), "inside\n");
    ok(&["exec", "--detach", &id, "sleep", "1000"]);
    assert!(inside().lines().count() > before, "exec's processes are there, too: {}", inside());
    assert_eq!(ok(&["ps", "--format", "json", &id]).code, Some(0));
    // Where v1 has the controllers, v2 can limit nothing.
    if s.call(&["test", "-e", &format!("{group}/pids.max")]).code == Some(0) {
        ok(&["update", "--pids-limit", "77", &id]);
        assert_eq!(s.property(&unit, "TasksMax"), "77");
    } else {
        skip("update by systemd", "the controllers are v1's here");
    }
    // A second one of the same name is refused, and the first one stays.
    let o = call(&["create", "--bundle", &dir, &format!("{id}-2")]);
    assert!(o.code.is_some_and(|c| c != 0) && !o.stderr.trim().is_empty(), "{}", o.brief());
    assert_eq!(s.property(&unit, "ActiveState"), "active");
    ok(&["delete", "--force", &id]);
    settle(LIMIT, || match s.property(&unit, "LoadState").as_str() {
        "not-found" => Ok(()),
        other => Err(format!("{unit} is {other}")),
    })
    .unwrap();
    assert!(s.call(&["test", "-d", &group]).code != Some(0), "{group} is left");
}
