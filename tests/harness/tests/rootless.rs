//! The lifecycle as a user without privileges: a single mapped id, and a range of subordinate ids where `newuidmap` and
//! /etc/subuid offer one. A confinement step that cannot be had fails closed and says which.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, unique_id};
use chitin_tests::leftovers::settle;
use chitin_tests::run::{self, Outcome};
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const USER: &str = "1000";

/// A directory tree that the user owns, outside of what only root may enter; removed at the end.
struct Home(PathBuf);

impl Home {
    fn new(test: &str) -> Option<Home> {
        if !nix::unistd::geteuid().is_root() {
            skip(test, "needs root to become a user without privileges");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("chitin-rootless-{}", unique_id()));
        std::fs::create_dir_all(dir.join("state")).expect("the temporary directory is writable");
        if Engine::under_test() == Engine::Crun && Path::new("/sys/fs/cgroup/unified").exists() {
            skip(test, "crun 1.8 refuses hybrid cgroups, and a user cannot mount others");
            return None;
        }
        // The binary and the root file system, where the user can reach them.
        let engine = Engine::under_test();
        let from = if engine == Engine::Chitin {
            paths::chitin()
        } else {
            chitin_tests::engines::which(engine.name()).expect("installed")
        };
        std::fs::copy(from, dir.join("runtime")).expect("copy of the runtime");
        let copied =
            Command::new("cp").arg("-a").arg(paths::rootfs("busybox")).arg(dir.join("rootfs")).status();
        assert!(copied.is_ok_and(|s| s.success()), "cp");
        let own = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(&dir).status();
        assert!(own.is_ok_and(|s| s.success()), "chown");
        std::fs::set_permissions(dir.join("runtime"), PermissionsExt::from_mode(0o755)).expect("own file");
        Some(Home(dir))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// The runtime, called by the user.
    fn command(&self, wrap: &[&str], args: &[&str]) -> Command {
        let mut c = Command::new("setpriv");
        c.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--inh-caps=-all"])
            .args(wrap);
        c.arg(self.path("runtime")).arg("--root").arg(self.path("state")).args(args);
        c.env("HOME", &self.0).env("XDG_RUNTIME_DIR", &self.0).current_dir(&self.0);
        c
    }

    fn call(&self, args: &[&str]) -> Outcome {
        run::quick(self.command(&[], args), LIMIT)
    }

    fn ok(&self, args: &[&str]) -> Outcome {
        let o = self.call(args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o
    }

    /// A bundle with a user namespace of one id, as `spec --rootless` makes it.
    fn bundle(&self, script: &str, host: u32) -> String {
        let mut b = Bundle::new("rootless", Path::new(&self.path("rootfs")), &["/bin/sh", "-c", script]);
        b.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": host, "size": 1 }]);
        b = b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        for m in b.config["mounts"].as_array_mut().expect("mounts") {
            if let Some(o) = m["options"].as_array_mut() {
                o.retain(|o| o != "gid=5"); // no such id in there
            }
        }
        // sysfs needs a network namespace of the user's own; a new one is listed.
        let dir = self.0.join(unique_id());
        std::fs::create_dir(&dir).expect("own directory");
        std::fs::write(dir.join("config.json"), b.config.to_string()).expect("own directory");
        let own = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(&dir).status();
        assert!(own.is_ok_and(|s| s.success()), "chown");
        dir.to_string_lossy().into_owned()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let list: Value =
            serde_json::from_slice(&self.call(&["list", "--format=json"]).stdout).unwrap_or_default();
        for c in list.as_array().into_iter().flatten() {
            let _ = self.call(&["delete", "--force", c["id"].as_str().unwrap_or_default()]);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn run_as_a_user() {
    let Some(h) = Home::new("rootless run") else { return };
    let o = h.call(&[
        "run",
        "--bundle",
        &h.bundle("id -u; echo x >/tmp/f && cat /tmp/f; exit 7", 1000),
        &unique_id(),
    ]);
    assert_eq!((o.code, o.text().as_str()), (Some(7), "0\nx\n"), "{}", o.brief());
}

#[test]
fn steps_as_a_user() {
    let Some(h) = Home::new("rootless steps") else { return };
    let id = unique_id();
    h.ok(&["create", "--bundle", &h.bundle("sleep 100", 1000), &id]);
    let state = || -> Value { serde_json::from_slice(&h.ok(&["state", &id]).stdout).expect("JSON") };
    assert_eq!(state()["status"], "created");
    h.ok(&["start", &id]);
    let o = h.call(&["exec", &id, "/bin/sh", "-c", "echo inside; exit 5"]);
    assert_eq!((o.code, o.text().as_str()), (Some(5), "inside\n"), "{}", o.brief());
    h.ok(&["kill", &id, "KILL"]);
    settle(LIMIT, || if state()["status"] == "stopped" { Ok(()) } else { Err("not stopped".into()) })
        .unwrap();
    h.ok(&["delete", &id]);
    assert_ne!(h.call(&["state", &id]).code, Some(0));
}

#[test]
fn do_as_a_user() {
    if Engine::under_test() != Engine::Chitin {
        return skip("do_as_a_user", "`do` is chitin's own");
    }
    let Some(h) = Home::new("rootless do") else { return };
    let o = h.call(&["do", "--rootfs", &h.path("rootfs"), "--", "/bin/sh", "-c", "id -u; exit 3"]);
    assert_eq!((o.code, o.text().as_str()), (Some(3), "0\n"), "{}", o.brief());
}

#[test]
fn without_user_namespaces_it_fails_closed() {
    let Some(h) = Home::new("rootless without user namespaces") else { return };
    // An outer user namespace whose own limit is 0: nothing of the host's is changed.
    let wrap = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        "echo 0 >/proc/sys/user/max_user_namespaces || exit 77; exec \"$@\"",
        "sh",
    ];
    let o = run::quick(h.command(&wrap, &["run", "--bundle", &h.bundle("echo ran", 0), &unique_id()]), LIMIT);
    if o.code == Some(77) {
        return skip("without_user_namespaces", "the limit cannot be set in a user namespace here");
    }
    assert!(
        o.code.is_some_and(|c| c != 0) && o.stdout.is_empty() && !o.stderr.trim().is_empty(),
        "{}",
        o.brief()
    );
    if Engine::under_test() == Engine::Chitin {
        assert!(o.stderr.contains("namespaces"), "{}", o.brief());
    }
}
