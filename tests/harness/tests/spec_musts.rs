//! The MUSTs of the OCI runtime specification's `runtime.md` and of `config.md`, one test each; each quotes what it holds
//! the runtime to. `CHITIN_TEST_ENGINE=runc|crun` proves them. Neighbour: `spec_musts_linux.rs` for `config-linux.md`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::leftovers::{mounts, nothing_left, settle};
use chitin_tests::paths;
use chitin_tests::run::Outcome;
use chitin_tests::skip;
use chitin_tests::steps::{LIMIT, Steps};
use serde_json::{Value, json};

fn busybox(script: &str) -> Bundle {
    Bundle::new("musts", &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
}

fn run(b: &Bundle) -> Outcome {
    Engine::under_test().run(b, b"", LIMIT)
}

/// A bundle with a directory that host and container share at /shared.
fn sharing(script: &str) -> (Bundle, std::path::PathBuf) {
    let dir = paths::scratch("shared");
    (busybox(script).bind(&dir, "/shared", &["rw"]), dir)
}

fn appears(file: &Path) {
    settle(LIMIT, || if file.exists() { Ok(()) } else { Err(format!("{} does not appear", file.display())) })
        .unwrap();
}

fn fails(b: &Bundle) -> Outcome {
    let o = run(b);
    assert!(o.code.is_some_and(|c| c != 0) && !o.stderr.trim().is_empty(), "must be refused: {}", o.brief());
    o
}

/// "The state of a container includes … ociVersion … id … status … pid (int, REQUIRED when status is created or running
/// on Linux) … bundle … the absolute path to the container's bundle directory … annotations".
#[test]
fn state_has_its_fields() {
    let s = Steps::new(busybox("sleep 100").set("/annotations", json!({ "org.example.key": "value" })));
    s.create();
    let st = s.state();
    let version = st["ociVersion"].as_str().unwrap_or_default();
    assert_eq!(
        version.split('.').filter(|p| p.chars().next().is_some_and(|c| c.is_ascii_digit())).count(),
        3,
        "{st}"
    );
    assert_eq!((st["id"].as_str(), st["status"].as_str()), (Some(s.id.as_str()), Some("created")), "{st}");
    let pid = st["pid"].as_i64().unwrap_or(0);
    assert!(pid > 1 && Path::new(&format!("/proc/{pid}")).exists(), "{st}");
    assert!(
        st["bundle"].as_str().is_some_and(|b| Path::new(b).is_absolute() && Path::new(b) == s.bundle.dir),
        "{st}"
    );
    assert_eq!(st["annotations"]["org.example.key"], "value", "{st}");
}

/// "status … created: the runtime has finished the create operation, and the container process has neither exited nor
/// executed the user-specified program; running: … has executed …; stopped: the container process has exited".
#[test]
fn status_follows_the_lifecycle() {
    let (b, dir) = sharing("touch /shared/ran; until [ -e /shared/go ]; do sleep 0.05; done");
    let s = Steps::new(b);
    s.create();
    assert_eq!(s.state()["status"], "created");
    s.start();
    assert_eq!(s.state()["status"], "running");
    appears(&dir.join("ran"));
    std::fs::write(dir.join("go"), "").unwrap();
    s.until("stopped");
    s.ok(&["delete", &s.id]);
    s.fails(&["state", &s.id]);
}

/// "While the resources requested in the config.json MUST be created, the user-specified program MUST NOT be run at this time."
#[test]
fn create_does_not_run_the_program() {
    let (b, dir) = sharing("touch /shared/ran; sleep 100");
    let s = Steps::new(b);
    s.create();
    std::thread::sleep(Duration::from_millis(400));
    assert!(!dir.join("ran").exists(), "it ran before start");
    s.start();
    appears(&dir.join("ran"));
}

/// "Any updates to config.json after this step MUST NOT affect the container."
#[test]
fn changes_after_create_have_no_effect() {
    let (b, dir) = sharing("echo $WHICH >/shared/tmp; mv /shared/tmp /shared/which; sleep 100");
    let mut s = Steps::new(b.env("WHICH=first"));
    s.create();
    s.bundle = s.bundle.clone().env("WHICH=second").set("/process/args", json!(["/bin/false"]));
    s.bundle.write();
    s.start();
    appears(&dir.join("which"));
    assert_eq!(std::fs::read_to_string(dir.join("which")).unwrap(), "first\n");
}

/// "Attempting to query a container that does not exist MUST generate an error."
#[test]
fn state_of_nothing_is_an_error() {
    let s = Steps::new(busybox("true"));
    let o = s.fails(&["state", &s.id]);
    assert!(!o.stderr.trim().is_empty());
}

/// "This operation MUST generate an error if it is not provided the ID of a container": state, start, kill, delete; and
/// create "if it is not provided a path to the bundle and the container ID".
#[test]
fn operations_need_an_id() {
    let s = Steps::new(busybox("true"));
    for op in ["state", "start", "kill", "delete"] {
        s.fails(&[op]);
    }
    s.fails(&["create", "--bundle", &s.bundle_path()]);
}

/// "If the ID provided is not unique across all containers within the scope of the runtime, or is not valid in any other
/// way, the implementation MUST generate an error and a new container MUST NOT be created."
#[test]
fn ids_are_unique_and_valid() {
    let s = Steps::new(busybox("sleep 100"));
    s.create();
    let pid = s.state()["pid"].as_i64();
    assert_ne!(s.try_create().code, Some(0));
    assert_eq!(
        (s.state()["pid"].as_i64(), s.state()["status"].as_str().map(str::to_owned)),
        (pid, Some("created".into()))
    );
    for bad in ["", "a/b", "../up"] {
        s.fails(&["create", "--bundle", &s.bundle_path(), bad]);
    }
    let list: Value = serde_json::from_slice(&s.ok(&["list", "--format=json"]).stdout).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
}

/// "If the runtime cannot apply a property as specified in the configuration, it MUST generate an error and a new container
/// MUST NOT be created."
#[test]
fn what_cannot_be_applied_makes_no_container() {
    let before = mounts();
    for (pointer, value) in [
        ("/process/rlimits", json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }])),
        ("/linux/namespaces", json!([{ "type": "nonsense" }])),
        ("/linux/sysctl", json!({ "kernel.no_such_thing": "1" })),
        ("/root/path", json!("/no/such/root")),
    ] {
        let mut b = busybox("sleep 100").set(pointer, value);
        if pointer == "/root/path" {
            b.rootfs = Default::default();
        }
        let s = Steps::new(b);
        assert_ne!(s.try_create().code, Some(0), "{pointer}");
        s.fails(&["state", &s.id]);
        if s.engine != Engine::Crun {
            // crun 1.8 leaves the cgroup of what it could not create.
            settle(LIMIT, || nothing_left(&s.id, &s.id, &s.root, &before)).unwrap();
        }
    }
}

/// "Attempting to start a container that is not created MUST have no effect on the container and MUST generate an error."
#[test]
fn only_the_created_are_started() {
    let (b, dir) = sharing("echo x >>/shared/runs; until [ -e /shared/go ]; do sleep 0.05; done");
    let s = Steps::new(b);
    s.fails(&["start", &s.id]);
    s.create();
    s.start();
    appears(&dir.join("runs"));
    s.fails(&["start", &s.id]);
    assert_eq!(s.state()["status"], "running");
    std::fs::write(dir.join("go"), "").unwrap();
    s.until("stopped");
    s.fails(&["start", &s.id]);
    assert_eq!(s.state()["status"], "stopped");
    assert_eq!(std::fs::read_to_string(dir.join("runs")).unwrap(), "x\n", "ran once");
}

/// start "MUST generate an error if process was not set."
#[test]
fn start_needs_a_process() {
    let mut b = busybox("true");
    b.config.as_object_mut().expect("an object").remove("process");
    let s = Steps::new(b);
    // runc and crun say so at create already, which "if the runtime cannot apply" lets them.
    if s.try_create().code == Some(0) {
        s.fails(&["start", &s.id]);
    }
}

/// "Attempting to send a signal to a container that is neither created nor running MUST have no effect on the container and
/// MUST generate an error."
#[test]
fn only_the_living_are_signalled() {
    let s = Steps::new(busybox("exit 0"));
    s.fails(&["kill", &s.id, "TERM"]);
    s.create();
    s.start();
    s.until("stopped");
    s.fails(&["kill", &s.id, "TERM"]);
    assert_eq!(s.state()["status"], "stopped");
}

/// kill "MUST send the specified signal to the container process"; a created one can be signalled too.
#[test]
fn signals_are_the_specified_ones() {
    let (b, dir) = sharing(
        "for s in HUP USR1 USR2 TERM WINCH; do trap \"echo $s >>/shared/got\" $s; done; touch /shared/up; while :; do sleep 0.05; done",
    );
    let s = Steps::new(b);
    s.create();
    s.start();
    appears(&dir.join("up"));
    let mut want = String::new();
    for sig in ["HUP", "SIGUSR1", "12", "TERM", "WINCH"] {
        s.ok(&["kill", &s.id, sig]);
        want += &format!("{}\n", sig.trim_start_matches("SIG").replace("12", "USR2"));
        settle(LIMIT, || match std::fs::read_to_string(dir.join("got")) {
            Ok(got) if got == want => Ok(()),
            got => Err(format!("{got:?}, want {want:?}")),
        })
        .unwrap();
    }
    let created = Steps::new(busybox("sleep 100"));
    created.create();
    created.ok(&["kill", &created.id, "KILL"]);
    created.until("stopped");
}

/// "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error."
#[test]
fn the_running_are_not_deleted() {
    let s = Steps::new(busybox("sleep 100"));
    s.create();
    s.start();
    let pid = s.state()["pid"].as_i64();
    s.fails(&["delete", &s.id]);
    let st = s.state();
    assert_eq!((st["pid"].as_i64(), st["status"].as_str()), (pid, Some("running")));
}

/// "Deleting a container MUST delete the resources that were created during the create step. Note that resources associated
/// with the container, but not created by this container, MUST NOT be deleted. Once a container is deleted its ID MAY be
/// used by a subsequent container."
#[test]
fn delete_undoes_create() {
    let before = mounts();
    let (b, dir) = sharing("echo kept >/shared/kept");
    let s = Steps::new(b);
    for _ in 0..2 {
        s.create();
        s.start();
        s.until("stopped");
        s.ok(&["delete", &s.id]);
        s.fails(&["delete", &s.id]);
        settle(LIMIT, || nothing_left(&s.id, &s.id, &s.root, &before)).unwrap();
        assert!(s.bundle.dir.join("config.json").exists() && s.bundle.rootfs.join("bin/busybox").exists());
        assert_eq!(std::fs::read_to_string(dir.join("kept")).unwrap(), "kept\n");
    }
}

/// The hooks' script: notes its name, and keeps what came on stdin. The directory is the host's, shared at /shared.
fn hook(dir: &Path, name: &str, inside: bool, tail: &str) -> Value {
    let at = if inside { "/shared" } else { &*dir.to_string_lossy() };
    let script = format!("cat >{at}/state.{name}; echo {name} >>{at}/order; {tail}");
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

fn order(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(dir.join("order")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// "The prestart hooks MUST be invoked … The createRuntime hooks MUST be invoked … createContainer … [start] …
/// startContainer … poststart … [delete] … The poststop hooks MUST be invoked"; "the state of the container MUST be passed
/// to hooks over stdin"; "hooks MUST be called in the listed order".
#[test]
fn hooks_run_in_order_with_the_state() {
    let (b, dir) = sharing("echo program >>/shared/order; sleep 100");
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    // runc 1.1 stops at the first poststop hook that fails.
    let fail = if Engine::under_test() == Engine::Runc { "" } else { "exit 3" };
    let b = b.set(
        "/hooks",
        json!({
            "prestart": [hook(&dir, "prestart1", false, ""), hook(&dir, "prestart2", false, "")],
            "createRuntime": [hook(&dir, "createRuntime", false, "")],
            "createContainer": [hook(&dir, "createContainer", false, "")],
            "startContainer": [hook(&dir, "startContainer", true, "")],
            "poststart": [hook(&dir, "poststart", false, "")],
            "poststop": [hook(&dir, "poststop1", false, fail), hook(&dir, "poststop2", false, "")],
        }),
    );
    let s = Steps::new(b);
    // When poststart comes, only chitin gets right: runc calls it at the end of create, crun before startContainer.
    let strict = s.engine == Engine::Chitin;
    let now = || order(&dir).into_iter().filter(|n| strict || n != "poststart").collect::<Vec<_>>();
    s.create();
    assert_eq!(now(), ["prestart1", "prestart2", "createRuntime", "createContainer"]);
    s.start();
    settle(LIMIT, || if order(&dir).len() == 7 { Ok(()) } else { Err(format!("{:?}", order(&dir))) })
        .unwrap();
    let mut after = now().split_off(4);
    assert_eq!(after.remove(0), "startContainer", "before the program");
    after.sort();
    assert!(after == ["poststart", "program"] || !strict && after == ["program"], "{after:?}");
    s.ok(&["kill", &s.id, "KILL"]);
    s.until("stopped");
    s.ok(&["delete", &s.id]);
    // "If any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue".
    assert_eq!(order(&dir).split_off(7), ["poststop1", "poststop2"]);
    for (name, status) in [
        ("prestart1", ""),
        ("createRuntime", ""),
        ("createContainer", ""),
        ("startContainer", ""),
        ("poststart", if strict { "running" } else { "" }),
        ("poststop2", "stopped"),
    ] {
        let text = std::fs::read_to_string(dir.join(format!("state.{name}"))).unwrap_or_default();
        let st: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name} got {text:?}: {e}"));
        assert!(
            st["id"] == s.id.as_str() && st["bundle"].is_string() && st["ociVersion"].is_string(),
            "{name}: {st}"
        );
        assert!(status.is_empty() || st["status"] == status, "{name}: {st}");
    }
}

/// "If any prestart hook fails, the runtime MUST generate an error, stop the container, and continue the lifecycle at step
/// 12" (and createRuntime, createContainer alike): destroyed, and the poststop hooks run.
#[test]
fn a_failing_hook_of_create_ends_it() {
    for which in ["prestart", "createRuntime", "createContainer"] {
        let before = mounts();
        let (b, dir) = sharing("echo program >>/shared/order");
        let b = b.set(
            "/hooks",
            json!({ which: [hook(&dir, "bad", false, "exit 3"), hook(&dir, "never", false, "")] }),
        );
        let s = Steps::new(b);
        let o = s.try_create();
        assert!(o.code.is_some_and(|c| c != 0) && !o.stderr.trim().is_empty(), "{which}: {}", o.brief());
        assert_eq!(order(&dir), ["bad"], "{which}");
        s.fails(&["state", &s.id]);
        settle(LIMIT, || nothing_left(&s.id, &s.id, &s.root, &before)).unwrap();
    }
}

/// "If any startContainer hook fails, the runtime MUST generate an error, stop the container".
#[test]
fn a_failing_hook_of_start_ends_it() {
    let (b, dir) = sharing("echo program >>/shared/order; sleep 100");
    let b = b.set("/hooks", json!({ "startContainer": [hook(&dir, "bad", true, "exit 3")] }));
    let s = Steps::new(b);
    s.create();
    // runc's start may have said all was well before the hook ran inside; the container stops in any case.
    let o = s.call(&["start", &s.id]);
    assert!(s.engine != Engine::Chitin || o.code != Some(0), "{}", o.brief());
    settle(LIMIT, || match s.call(&["state", &s.id]) {
        o if o.code != Some(0) || o.text().contains("\"stopped\"") => Ok(()),
        o => Err(o.brief()),
    })
    .unwrap();
    assert_eq!(order(&dir), ["bad"], "the program must not run");
}

/// "timeout (int, OPTIONAL) is the number of seconds before aborting the hook."
#[test]
fn a_hook_s_time_is_limited() {
    let (b, dir) = sharing("true");
    let mut slow = hook(&dir, "slow", false, "exec sleep 60");
    slow["timeout"] = json!(1);
    let s = Steps::new(b.set("/hooks", json!({ "createRuntime": [slow] })));
    let o = s.try_create();
    assert!(o.code.is_some_and(|c| c != 0) && o.elapsed < Duration::from_secs(20), "{}", o.brief());
}

/// "path … MUST be absolute", and of what cannot be run the hook fails: "the runtime MUST generate an error".
#[test]
fn a_hook_s_path_is_absolute() {
    for which in ["prestart", "createRuntime", "createContainer"] {
        let (b, _dir) = sharing("true");
        let s = Steps::new(b.set("/hooks", json!({ which: [{ "path": "no/such/hook" }] })));
        assert_ne!(s.try_create().code, Some(0), "{which}");
        s.fails(&["state", &s.id]);
    }
}

/// "The createContainer hooks' path MUST resolve in the runtime namespace … MUST be executed in the container namespace"; those
/// of createRuntime "MUST be executed in the runtime namespace"; those of startContainer resolve and run in the container's.
#[test]
fn hooks_run_in_their_namespaces() {
    let (b, dir) = sharing("echo program >>/shared/order; sleep 100");
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    let noting = |at: &str, name: &str| {
        let script = format!(
            "readlink /proc/self/ns/mnt >{at}/ns.{name}; [ -e /etc/debian_version ]; echo $? >{at}/host.{name}"
        );
        json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
    };
    let out = dir.to_string_lossy().into_owned();
    let s = Steps::new(b.set(
        "/hooks",
        json!({
            "createRuntime": [noting(&out, "createRuntime")],
            "createContainer": [noting(&out, "createContainer")],
            "startContainer": [noting("/shared", "startContainer")],
        }),
    ));
    s.create();
    s.start();
    appears(&dir.join("order"));
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let all = ["createRuntime", "createContainer", "startContainer"].map(|name| read(&format!("ns.{name}")));
    assert!(all.iter().all(|ns| ns.starts_with("mnt:[")), "{all:?}");
    assert_ne!(all[0], all[1], "createContainer in the container's");
    // Programs are found before the root is changed, and afterwards in it.
    let host = Path::new("/etc/debian_version").exists();
    assert_eq!(read("host.createContainer").trim() == "0", host);
    assert_ne!(read("host.startContainer").trim(), "0", "the container's files, not the host's");
}

/// "If timeout is set, [it] MUST be greater than zero"; "Values [of annotations] MUST be strings"; "Runtimes MUST generate an
/// error when invalid or unsupported values are encountered."
#[test]
fn invalid_values_are_errors() {
    fails(&busybox("true").set("/annotations", json!({ "org.example.key": 7 })));
    fails(&busybox("true").set("/process/user", json!({ "uid": -1, "gid": 0 })));
    fails(&busybox("true").set("/process/cwd", json!(7)));
    if Engine::under_test() == Engine::Chitin {
        // runc 1.1 and crun 1.8 take it for no time at all, or for any.
        fails(&busybox("true").set("/hooks", json!({ "prestart": [{ "path": "/bin/true", "timeout": 0 }] })));
    }
}

/// config.md: "[a runtime] MUST NOT generate an error if [it] encounter[s] an unknown property. Instead, they MUST ignore
/// unknown properties"; "[they] MUST NOT generate an error if they encounter an unknown annotation key."
#[test]
fn unknown_properties_are_ignored() {
    let b = busybox("echo fine")
        .set("/noSuchProperty", json!({ "deep": [1, 2] }))
        .set("/process/noSuchProperty", json!("x"))
        .set("/linux/noSuchProperty", json!(7))
        .set("/annotations", json!({ "com.example.unknown": "1" }));
    let o = run(&b);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "fine\n"), "{}", o.brief());
}

/// "root.readonly: If true then the root filesystem MUST be read-only inside the container".
#[test]
fn a_read_only_root() {
    let o = run(&busybox("touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo fine")
        .set("/root/readonly", json!(true)));
    assert_eq!(o.text(), "refused\nfine\n", "{}", o.brief());
}

/// "A directory MUST exist at the path declared by the field [root.path]"; a relative one is "relative to the bundle".
#[test]
fn a_relative_root() {
    // Both lie in the cache: .cache/run/BUNDLE and .cache/rootfs/busybox.
    let b = busybox("echo here").set("/root/path", json!("../../rootfs/busybox"));
    let o = run(&b);
    assert_eq!(o.text(), "here\n", "{}", o.brief());
}

/// "destination … MAY be a relative path, in which case it MUST be interpreted as relative to "/""; a bind mount's source is
/// "either absolute or relative to the bundle".
#[test]
fn relative_paths_of_mounts() {
    let mut b = busybox("cat /mnt/deep/file");
    std::fs::create_dir(b.dir.join("beside")).unwrap();
    std::fs::write(b.dir.join("beside/file"), "found\n").unwrap();
    let mount =
        json!({ "destination": "mnt/deep", "type": "bind", "source": "beside", "options": ["rbind"] });
    b.config["mounts"].as_array_mut().expect("mounts").push(mount);
    let o = run(&b);
    assert_eq!(o.text(), "found\n", "{}", o.brief());
}

/// "The runtime MUST mount entries in the listed order."
#[test]
fn mounts_in_the_listed_order() {
    let (a, b) = (paths::scratch("a"), paths::scratch("b"));
    std::fs::create_dir(a.join("sub")).unwrap();
    std::fs::write(a.join("sub/hidden"), "").unwrap();
    std::fs::write(b.join("shown"), "").unwrap();
    let o = run(&busybox("ls /mnt /mnt/sub").bind(&a, "/mnt", &[]).bind(&b, "/mnt/sub", &[]));
    assert_eq!(o.text(), "/mnt:\nsub\n\n/mnt/sub:\nshown\n", "{}", o.brief());
}

/// "cwd … is the working directory that will be set for the executable. This value MUST be an absolute path."
#[test]
fn cwd_is_absolute() {
    assert_eq!(run(&busybox("pwd").set("/process/cwd", json!("/var/tmp"))).text(), "/var/tmp\n");
    if Engine::under_test() == Engine::Crun {
        return; // crun takes it from the root
    }
    fails(&busybox("pwd").set("/process/cwd", json!("var/tmp")));
}

/// "args … at least one entry is REQUIRED … used as in execvp", found along the PATH of `env`.
#[test]
fn args_are_as_in_execvp() {
    let b = busybox("")
        .set("/process/args", json!(["prog", "one two"]))
        .set("/process/env", json!(["PATH=/no:/shared"]));
    let dir = paths::scratch("bin");
    std::fs::write(dir.join("prog"), "#!/bin/busybox sh\necho \"$0|$1|$#|$PATH\"\n").unwrap();
    std::fs::set_permissions(dir.join("prog"), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(run(&b.bind(&dir, "/shared", &[])).text(), "/shared/prog|one two|1|/no:/shared\n");
    fails(&busybox("").set("/process/args", json!([])));
}

/// "The runtime MUST generate an error for any values which cannot be mapped to a relevant kernel interface"; "If rlimits
/// contains duplicated entries with same type, the runtime MUST generate an error."
#[test]
fn rlimits_hold() {
    let of = |v: Value| busybox("ulimit -n; ulimit -Hn; ulimit -c").set("/process/rlimits", v);
    let o = run(&of(
        json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]),
    ));
    assert_eq!(o.text(), "100\n200\n0\n", "{}", o.brief());
    fails(&of(json!([{ "type": "RLIMIT_FOO", "soft": 1, "hard": 1 }])));
    if Engine::under_test() == Engine::Chitin {
        // runc 1.1 and crun 1.8 let the last one win.
        fails(&of(
            json!([{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 9 }, { "type": "RLIMIT_NOFILE", "soft": 2, "hard": 9 }]),
        ));
    }
}

/// "capabilities … effective, bounding, inheritable, permitted, ambient … arrays of capabilities that are kept".
#[test]
fn capabilities_are_the_listed_ones() {
    let c = json!(["CAP_CHOWN", "CAP_NET_RAW"]);
    let b = busybox("grep ^Cap /proc/self/status | tr -d '\\t'").set(
        "/process/capabilities",
        json!({ "bounding": c, "effective": c, "permitted": c, "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"] }),
    );
    let want = "CapInh:0000000000000001\nCapPrm:0000000000002001\nCapEff:0000000000002001\nCapBnd:0000000000002001\nCapAmb:0000000000000001\n";
    // Root's execve gives the bounding set back.
    assert_eq!(run(&b).text(), want);
    let b = b.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let want = "CapInh:0000000000000001\nCapPrm:0000000000000001\nCapEff:0000000000000001\nCapBnd:0000000000002001\nCapAmb:0000000000000001\n";
    assert_eq!(run(&b).text(), want);
}

/// "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted otherwise MUST be logged as a
/// warning by the runtime. Runtimes SHOULD NOT fail"; "logging a warning does not change the flow of the operation; it MUST
/// continue as if the warning had not been logged".
#[test]
fn an_unknown_capability_is_a_warning() {
    if Engine::under_test() == Engine::Crun {
        return skip(
            "an_unknown_capability_is_a_warning",
            "crun 1.8 takes it for an error, as older specifications do",
        );
    }
    let c = json!(["CAP_CHOWN", "CAP_FLY"]);
    let b = busybox("grep ^CapBnd /proc/self/status | tr -d '\\t'");
    let o = run(&b.set("/process/capabilities", json!({ "bounding": c, "effective": c, "permitted": c })));
    assert_eq!((o.code, o.text().as_str()), (Some(0), "CapBnd:0000000000000001\n"), "{}", o.brief());
    assert!(o.stderr.contains("CAP_FLY") && o.stderr.contains("warn"), "{}", o.brief());
}

/// "If oomScoreAdj is not set, the runtime MUST NOT change the value of oom_score_adj."
#[test]
fn without_a_score_it_stays() {
    let mut b = busybox("cat /proc/self/oom_score_adj");
    b.config["process"].as_object_mut().expect("an object").remove("oomScoreAdj");
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").expect("procfs");
    assert_eq!(run(&b).text(), own);
    // Whatever it is; raising is always permitted.
    b.write();
    let s = Steps::new(b);
    let c = s.engine.command(&s.root, Some(&s.bundle), &["run", "--bundle", &s.bundle_path(), &s.id]);
    let mut outer = std::process::Command::new("choom");
    outer.args(["--adjust", "600", "--"]).arg(c.get_program()).args(c.get_args());
    outer.envs(c.get_envs().filter_map(|(k, v)| Some((k, v?))));
    if !chitin_tests::run::have("choom") {
        return skip("without_a_score_it_stays (another one)", "no choom(1)");
    }
    let o = chitin_tests::run::quick(outer, LIMIT);
    assert_eq!(o.text(), "600\n", "{}", o.brief());
}

/// "Runtimes MUST ignore consoleSize if terminal is false or unset."
#[test]
fn a_size_without_a_terminal_is_ignored() {
    let b = busybox("test -t 0 || echo none")
        .set("/process/consoleSize", json!({ "height": 70_000, "width": 80 }));
    let o = run(&b);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "none\n"), "{}", o.brief());
}

/// "noNewPrivileges … prevents the process from gaining additional privileges" and "oomScoreAdj … the runtime MUST set
/// oom_score_adj to the given value" (raising is always permitted).
#[test]
fn no_new_privileges_and_oom_score() {
    let b = busybox("grep NoNewPrivs /proc/self/status | tr -d '\\t'; cat /proc/self/oom_score_adj");
    let o =
        run(&b.clone().set("/process/noNewPrivileges", json!(true)).set("/process/oomScoreAdj", json!(777)));
    assert_eq!(o.text(), "NoNewPrivs:1\n777\n", "{}", o.brief());
    let o = run(&b.set("/process/noNewPrivileges", json!(false)));
    assert!(o.text().starts_with("NoNewPrivs:0\n"), "{}", o.brief());
}

/// "user … uid, gid, umask, additionalGids".
#[test]
fn the_user() {
    let b = busybox("id -u; id -g; id -G; umask").set(
        "/process/user",
        json!({ "uid": 1234, "gid": 5678, "umask": 0o027, "additionalGids": [10, 20] }),
    );
    assert_eq!(run(&b).text(), "1234\n5678\n5678 10 20\n0027\n");
}

/// "hostname … domainname specify the container's … as seen by processes running inside".
#[test]
fn hostname_inside_only() {
    let before = nix::unistd::gethostname().expect("gethostname");
    let o = run(&busybox("hostname; cat /proc/sys/kernel/hostname").set("/hostname", json!("must-host")));
    assert_eq!(o.text(), "must-host\nmust-host\n", "{}", o.brief());
    assert_eq!(nix::unistd::gethostname().expect("gethostname"), before);
}

/// "ociVersion MUST be in SemVer v2.0.0 format" of a version the runtime supports.
#[test]
fn the_version_is_checked() {
    for good in ["1.0.0", "1.0.2-dev", "1.1.0"] {
        assert_eq!(run(&busybox("echo fine").set("/ociVersion", json!(good))).text(), "fine\n", "{good}");
    }
    if Engine::under_test() == Engine::Chitin {
        // runc 1.1 and crun 1.8 do not look at it.
        for bad in ["99.0.0", "nonsense", ""] {
            fails(&busybox("true").set("/ociVersion", json!(bad)));
        }
    }
}
