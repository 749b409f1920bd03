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

    /// A bundle with a user namespace of one id, as `spec --rootless` makes it.
    fn bundle(&self, script: &str, host: u32) -> String {
        self.bundle_with(script, json!([{ "containerID": 0, "hostID": host, "size": 1 }]))
    }

    fn bundle_with(&self, script: &str, map: Value) -> String {
        let mut b = Bundle::new("rootless", Path::new(&self.path("rootfs")), &["/bin/sh", "-c", script]);
        b.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
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

impl Home {
    /// Called by the user in a mount namespace where /etc grants it subordinate ids.
    fn granted(&self, args: &[&str], ids: &str) -> Outcome {
        let file = |name: &str, text: String| std::fs::write(self.0.join(name), text).expect("own directory");
        file("subid", format!("sub:{ids}\n"));
        file(
            "passwd",
            format!("root:x:0:0::/root:/bin/sh\nsub:x:{USER}:{USER}::{}:/bin/sh\n", self.0.display()),
        );
        file("group", format!("root:x:0:\nsub:x:{USER}:\n"));
        let script = "for f in passwd group; do mount --bind $f /etc/$f || exit 77; done; \
                      for f in subuid subgid; do touch /etc/$f; mount --bind subid /etc/$f || exit 77; done; exec \"$@\"";
        let mut c = Command::new("unshare");
        c.args(["--mount", "--propagation=private", "sh", "-c", script, "sh", "setpriv"])
            .args([
                &format!("--reuid={USER}"),
                &format!("--regid={USER}"),
                "--clear-groups",
                "--inh-caps=-all",
            ])
            .arg(self.path("runtime"))
            .arg("--root")
            .arg(self.path("state"))
            .args(args);
        c.env("HOME", &self.0).env("XDG_RUNTIME_DIR", &self.0).current_dir(&self.0);
        run::quick(c, LIMIT)
    }
}

/// Own id as root, then a range of the granted.
fn ranges() -> Value {
    json!([{ "containerID": 0, "hostID": 1000, "size": 1 }, { "containerID": 1, "hostID": 200_000, "size": 1000 }])
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
fn only_ones_own_id() {
    let Some(h) = Home::new("rootless single id") else { return };
    let script = "echo $(cat /proc/self/uid_map); cat /proc/self/setgroups; touch /tmp/f; chown 5 /tmp/f 2>/dev/null || echo no such id";
    let o = h.call(&["run", "--bundle", &h.bundle(script, 1000), &unique_id()]);
    assert_eq!(o.text(), "0 1000 1\ndeny\nno such id\n", "{}", o.brief());
    // Another's id is not the user's to give.
    let o = h.call(&["run", "--bundle", &h.bundle("echo ran", 0), &unique_id()]);
    assert!(o.code != Some(0) && o.stdout.is_empty() && !o.stderr.trim().is_empty(), "{}", o.brief());
}

#[test]
fn a_range_of_subordinate_ids() {
    let Some(h) = Home::new("rootless with subordinate ids") else { return };
    if chitin_tests::engines::which("newuidmap").is_none() {
        return skip("a_range_of_subordinate_ids", "newuidmap is not installed (Debian: uidmap)");
    }
    let script = "echo $(cat /proc/self/uid_map); cat /proc/self/setgroups; touch /data/f; chown 5:6 /data/f; stat -c %u:%g /data/f";
    let dir = h.bundle_with(script, ranges());
    let data = h.path("data");
    std::fs::create_dir(&data).expect("own directory");
    std::os::unix::fs::chown(&data, Some(1000), Some(1000)).expect("root");
    let file = Path::new(&dir).join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("config")).expect("JSON");
    let mount = json!({ "destination": "/data", "type": "bind", "source": data, "options": ["rbind"] });
    config["mounts"].as_array_mut().expect("mounts").push(mount);
    std::fs::write(&file, config.to_string()).expect("own directory");
    let o = h.granted(&["run", "--bundle", &dir, &unique_id()], "200000:1000");
    if o.code == Some(77) {
        return skip("a_range_of_subordinate_ids", "no private mounts here");
    }
    assert_eq!(o.text(), "0 1000 1 1 200000 1000\nallow\n5:6\n", "{}", o.brief());
    use std::os::unix::fs::MetadataExt;
    let made = std::fs::metadata(Path::new(&data).join("f")).expect("made inside");
    assert_eq!((made.uid(), made.gid()), (200_004, 200_005));
    // What nobody has granted.
    let o = h.granted(&["run", "--bundle", &dir, &unique_id()], "300000:1000");
    assert!(o.code != Some(0) && o.stdout.is_empty(), "{}", o.brief());
    if Engine::under_test() == Engine::Chitin {
        assert!(o.stderr.contains("subgid") || o.stderr.contains("subuid"), "{}", o.brief());
    }
}

/// create, state, start, exec, kill, delete.
fn steps(call: &dyn Fn(&[&str]) -> Outcome, bundle: &str) {
    let id = unique_id();
    let ok = |args: &[&str]| {
        let o = call(args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o
    };
    ok(&["create", "--bundle", bundle, &id]);
    let state = || -> Value { serde_json::from_slice(&ok(&["state", &id]).stdout).expect("JSON") };
    assert_eq!(state()["status"], "created");
    ok(&["start", &id]);
    assert_eq!(state()["status"], "running");
    let o = call(&["exec", &id, "/bin/sh", "-c", "echo inside; exit 5"]);
    assert_eq!((o.code, o.text().as_str()), (Some(5), "inside\n"), "{}", o.brief());
    assert_ne!(call(&["delete", &id]).code, Some(0), "it runs");
    ok(&["kill", &id, "KILL"]);
    settle(LIMIT, || if state()["status"] == "stopped" { Ok(()) } else { Err("not stopped".into()) })
        .unwrap();
    ok(&["delete", &id]);
    assert_ne!(call(&["state", &id]).code, Some(0));
}

#[test]
fn steps_as_a_user() {
    let Some(h) = Home::new("rootless steps") else { return };
    steps(&|args| h.call(args), &h.bundle("sleep 100", 1000));
}

#[test]
fn steps_with_a_range_of_ids() {
    let Some(h) = Home::new("rootless steps with subordinate ids") else { return };
    if chitin_tests::engines::which("newuidmap").is_none() {
        return skip("steps_with_a_range_of_ids", "newuidmap is not installed (Debian: uidmap)");
    }
    steps(&|args| h.granted(args, "200000:1000"), &h.bundle_with("sleep 100", ranges()));
}

impl Home {
    /// A bundle with a cgroup and limits; the directory of the bundle.
    fn limited(&self, script: &str, cgroup: &str, resources: Value) -> String {
        let dir = self.bundle(script, 1000);
        let file = Path::new(&dir).join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("config")).expect("JSON");
        config["linux"]["cgroupsPath"] = json!(cgroup);
        config["linux"]["resources"] = resources;
        std::fs::write(&file, config.to_string()).expect("own directory");
        dir
    }
}

/// A directory of the user's in every hierarchy, as systemd delegates one; the test's processes begin in it on v2.
struct Delegated {
    name: String,
    tops: Vec<PathBuf>,
}

impl Delegated {
    fn new() -> Delegated {
        let name = format!("chitin-rootless-{}", unique_id());
        let top = Path::new("/sys/fs/cgroup");
        let plain = top.join("cgroup.procs").exists();
        let below = std::fs::read_dir(top).into_iter().flatten().flatten().map(|e| e.path());
        let all: Vec<PathBuf> = if plain { vec![top.into()] } else { below.filter(|p| p.is_dir()).collect() };
        let tops: Vec<PathBuf> =
            all.into_iter().map(|p| p.join(&name)).filter(|p| std::fs::create_dir_all(p).is_ok()).collect();
        for dir in &tops {
            if dir.join("cgroup.subtree_control").exists() {
                let _ = std::fs::create_dir(dir.join("init"));
            } else if dir.join("cpuset.cpus").exists() {
                for f in ["cpuset.cpus", "cpuset.mems"] {
                    let all = std::fs::read(dir.join("..").join(f)).unwrap_or_default();
                    let _ = std::fs::write(dir.join(f), all);
                }
            }
            let own = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(dir).status();
            assert!(own.is_ok_and(|s| s.success()), "chown");
        }
        Delegated { name, tops }
    }

    fn of(&self, controller: &str) -> Option<PathBuf> {
        self.tops.iter().find(|t| t.ancestors().nth(1).is_some_and(|p| p.ends_with(controller))).cloned()
    }

    /// The user's call from within what is delegated to him.
    fn call(&self, h: &Home, args: &[&str]) -> Outcome {
        let inner = h.command(&[], args);
        let mut c = Command::new("sh");
        c.args(["-c", "for d in $D; do echo 0 >$d/init/cgroup.procs; done; exec \"$@\"", "sh"]);
        c.arg(inner.get_program()).args(inner.get_args()).current_dir(&h.0);
        c.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let v2 =
            self.tops.iter().filter(|t| t.join("init").exists()).map(|t| t.to_string_lossy().into_owned());
        c.env("D", v2.collect::<Vec<_>>().join(" "));
        run::quick(c, LIMIT)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for dir in &self.tops {
            let _ = settle(Duration::from_secs(5), || {
                let below =
                    std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
                below.for_each(|e| drop(std::fs::remove_dir(e.path())));
                std::fs::remove_dir(dir).map_err(|e| e.to_string())
            });
        }
    }
}

#[test]
fn limits_of_a_delegated_cgroup() {
    if Engine::under_test() == Engine::Crun {
        return skip("limits_of_a_delegated_cgroup", "crun 1.8 refuses hybrid cgroups");
    }
    let Some(h) = Home::new("rootless cgroups") else { return };
    let d = Delegated::new();
    let (Some(memory), Some(pids)) = (d.of("memory"), d.of("pids")) else {
        return skip("limits_of_a_delegated_cgroup", "no v1 hierarchies of memory and pids to delegate here");
    };
    let resources = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 60}});
    let dir = h.limited("sleep 100", &format!("/{}/c", d.name), resources);
    let id = unique_id();
    let ok = |args: &[&str]| {
        let o = d.call(&h, args);
        assert_eq!(o.code, Some(0), "{args:?}: {}", o.brief());
        o
    };
    ok(&["create", "--bundle", &dir, &id]);
    ok(&["start", &id]);
    let read = |dir: &Path, file: &str| std::fs::read_to_string(dir.join("c").join(file)).unwrap_or_default();
    assert_eq!(read(&memory, "memory.limit_in_bytes").trim(), "67108864");
    assert_eq!(read(&pids, "pids.max").trim(), "60");
    let state: Value = serde_json::from_slice(&ok(&["state", &id]).stdout).expect("JSON");
    let pid = state["pid"].to_string();
    for dir in &d.tops {
        assert!(read(dir, "cgroup.procs").lines().any(|l| l == pid), "{pid} is not in {}", dir.display());
    }
    // What exec adds is inside, and bounded by the host.
    let inside = ok(&["exec", &id, "sh", "-c", "sleep 100 & echo started"]);
    assert_eq!(inside.text(), "started\n");
    let o = d.call(&h, &["exec", &id, "sh", "-c", "head -c 200000000 /dev/zero | tail | wc -c"]);
    assert!(!o.text().contains("200000000"), "the memory is not limited: {}", o.brief());
    assert!(read(&memory, "memory.oom_control").contains("oom_kill "), "no count of kills");
    assert!(
        !read(&memory, "memory.oom_control").contains("oom_kill 0"),
        "{}",
        read(&memory, "memory.oom_control")
    );
    ok(&["delete", "--force", &id]);
    for dir in &d.tops {
        assert!(!dir.join("c").exists(), "{} is left", dir.display());
    }
}

#[test]
fn without_a_delegated_cgroup_it_runs_all_the_same() {
    if Engine::under_test() != Engine::Chitin {
        return skip(
            "without_a_delegated_cgroup",
            "runc refuses a path that it may not make, crun goes on as chitin does",
        );
    }
    let Some(h) = Home::new("rootless without cgroups") else { return };
    let path = format!("/chitin-rootless-none-{}", unique_id());
    // Where no limit is asked for nothing is lost, and nothing is said.
    let o = h.call(&["run", "--bundle", &h.limited("echo ran", &path, json!({})), &unique_id()]);
    assert_eq!((o.code, o.text().as_str(), o.stderr.as_str()), (Some(0), "ran\n", ""), "{}", o.brief());
    let limit = json!({"pids": {"limit": 50}});
    let o = h.call(&["run", "--bundle", &h.limited("echo ran", &path, limit), &unique_id()]);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "ran\n"), "{}", o.brief());
    assert!(o.stderr.contains("no cgroup and no limits"), "{}", o.brief());
    steps(&|args| h.call(args), &h.limited("sleep 100", &path, json!({})));
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
