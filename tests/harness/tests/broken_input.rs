//! Broken input of more than twenty kinds: each ends with a non-zero code and one line on stderr that names the cause and
//! the remedy, and leaves no process, mount, cgroup or state. What the line must hold is asked of chitin only; that the
//! input is refused at all, of runc and crun too (where they do refuse it).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::leftovers::{mounts, nothing_left, settle};
use chitin_tests::run::{self, Outcome};
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn busybox() -> Bundle {
    Bundle::new("broken", &paths::rootfs("busybox"), &["/bin/sh", "-c", "sleep 5"])
}

/// One attempt: the bundle as written, the verb's arguments (the bundle and the id are added), the state root.
struct Attempt {
    bundle: Bundle,
    flags: Vec<String>,
    root: PathBuf,
    id: String,
    /// Words one of which the error must name.
    names: Vec<&'static str>,
    /// Do runc and crun refuse it as well?
    everywhere: bool,
    /// Overwrites config.json with this.
    raw: Option<&'static str>,
}

impl Attempt {
    fn new(names: &[&'static str]) -> Attempt {
        Attempt {
            bundle: busybox(),
            flags: Vec::new(),
            root: state_root("broken"),
            id: unique_id(),
            names: names.to_vec(),
            everywhere: true,
            raw: None,
        }
    }
    fn set(mut self, pointer: &str, v: Value) -> Attempt {
        self.bundle = self.bundle.set(pointer, v);
        self
    }
    fn mount(mut self, m: Value) -> Attempt {
        self.bundle.config["mounts"].as_array_mut().expect("mounts").push(m);
        self
    }
    fn flag(mut self, f: &str) -> Attempt {
        self.flags.push(f.to_owned());
        self
    }
    fn raw(mut self, text: &'static str) -> Attempt {
        self.raw = Some(text);
        self
    }
    fn chitin_only(mut self) -> Attempt {
        self.everywhere = false;
        self
    }

    fn command(&self, verb: &str, wrap: &[&str]) -> Command {
        self.bundle.write();
        if let Some(text) = self.raw {
            std::fs::write(self.bundle.dir.join("config.json"), text).expect("scratch is writable");
        }
        let b = self.bundle.dir.to_string_lossy().into_owned();
        let mut args = vec![verb, "--bundle", &b];
        args.extend(self.flags.iter().map(String::as_str));
        args.push(&self.id);
        // A root that is missing has no overlay either.
        let missing =
            !self.bundle.rootfs.exists() || self.bundle.config["root"]["path"] != json!(self.bundle.rootfs);
        let inner = Engine::under_test().command(&self.root, (!missing).then_some(&self.bundle), &args);
        let Some((first, rest)) = wrap.split_first() else { return inner };
        let mut c = Command::new(first);
        c.args(rest).arg(inner.get_program()).args(inner.get_args());
        for (k, v) in inner.get_envs() {
            c.env(k, v.unwrap_or_default());
        }
        c
    }

    fn judge(&self, o: &Outcome) -> Result<(), String> {
        let engine = Engine::under_test();
        // crun 1.8 reads most of what it does not understand as nothing.
        if engine != Engine::Chitin && (!self.everywhere || engine == Engine::Crun && o.code == Some(0)) {
            return Ok(());
        }
        match o.code {
            None => return Err(format!("hangs: {}", o.brief())),
            Some(0) => return Err(format!("succeeds: {}", o.brief())),
            Some(c) if (129..=192).contains(&c) => return Err(format!("dies: {}", o.brief())),
            Some(_) => {}
        }
        if engine != Engine::Chitin {
            return if o.stderr.trim().is_empty() { Err("fails without a word".into()) } else { Ok(()) };
        }
        let lines: Vec<&str> = o.stderr.lines().filter(|l| !l.contains("level=warning")).collect();
        if lines.len() != 1 {
            return Err(format!("{} lines, want one: {:?}", lines.len(), o.stderr));
        }
        if !self.names.iter().any(|n| lines[0].contains(n)) {
            return Err(format!("names none of {:?}: {}", self.names, lines[0]));
        }
        Ok(())
    }
}

/// Tries by `create` (and `run` where nothing else is said), and looks for what is left.
fn refused(what: &str, make: impl Fn() -> Attempt) {
    let mut bad = Vec::new();
    for verb in ["create", "run"] {
        let (a, before) = (make(), mounts());
        let o = run::quick(a.command(verb, &[]), LIMIT);
        if Engine::under_test() == Engine::Crun && o.code.is_none() {
            continue;
        }
        bad.extend(a.judge(&o).err().map(|e| format!("{verb}: {what}: {e}")));
        clean(what, &a, &before, &mut bad);
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

fn clean(what: &str, a: &Attempt, before: &std::collections::BTreeSet<String>, bad: &mut Vec<String>) {
    let engine = Engine::under_test();
    let check = || nothing_left(&a.id, &a.id, &a.root, before);
    if engine == Engine::Chitin || (a.everywhere && engine == Engine::Runc) {
        bad.extend(settle(Duration::from_secs(10), check).err().map(|e| format!("{what}: {e}")));
    }
    let del = Engine::under_test().command(&a.root, None, &["delete", "--force", &a.id]);
    let _ = run::quick(del, LIMIT);
}

const GONE: &str = "/no/such/place";

#[test]
fn missing_rootfs() {
    refused("root file system", || Attempt::new(&[GONE]).set("/root/path", json!(GONE)));
}

#[test]
fn rootfs_is_a_file() {
    refused("a file as root", || Attempt::new(&["passwd"]).set("/root/path", json!("/etc/passwd")));
}

#[test]
fn bad_json() {
    refused("no JSON", || Attempt::new(&["config.json"]).raw("{ not json"));
    refused("empty", || Attempt::new(&["config.json"]).raw(""));
}

#[test]
fn wrong_types() {
    refused("args as a string", || Attempt::new(&["args"]).set("/process/args", json!("one")));
    refused("root as a number", || Attempt::new(&["root"]).set("/root", json!(7)));
}

#[test]
fn wrong_version() {
    for v in ["99.0.0", "banana"] {
        refused("version", || Attempt::new(&["ociVersion"]).set("/ociVersion", json!(v)).chitin_only());
    }
}

#[test]
fn unknown_hook_program() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let hooks = json!({ kind: [{ "path": "/no/such/hook" }] });
        refused(kind, || Attempt::new(&["/no/such/hook"]).set("/hooks", hooks.clone()));
    }
}

#[test]
fn a_hook_path_must_be_absolute() {
    refused("relative hook", || {
        Attempt::new(&["hook"])
            .set("/hooks", json!({ "createRuntime": [{ "path": "bin/true" }] }))
            .chitin_only()
    });
}

#[test]
fn console_socket_that_is_dead() {
    let dir = paths::scratch("dead");
    let path = dir.join("s").to_string_lossy().into_owned();
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind")); // the name stays, nobody listens
    for p in [path.as_str(), GONE] {
        let a = Attempt::new(&["console", GONE])
            .set("/process/terminal", json!(true))
            .flag("--console-socket")
            .flag(p);
        let before = mounts();
        let o = run::quick(a.command("create", &[]), LIMIT);
        let mut bad: Vec<String> = a.judge(&o).err().into_iter().collect();
        clean("console", &a, &before, &mut bad);
        assert!(bad.is_empty(), "{p}: {}", bad.join("\n"));
    }
}

#[test]
fn console_socket_without_a_terminal_and_the_reverse() {
    let one = |a: Attempt| {
        let before = mounts();
        let o = run::quick(a.command("create", &[]), LIMIT);
        let mut bad: Vec<String> = a.judge(&o).err().into_iter().collect();
        clean("console", &a, &before, &mut bad);
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    };
    one(Attempt::new(&["console", "terminal"]).set("/process/terminal", json!(true)));
}

#[test]
fn full_disk() {
    let dir = paths::scratch("full");
    let d = dir.to_string_lossy().into_owned();
    let script = format!(
        "mount -t tmpfs -o size=4k tmpfs {d} && mkdir {d}/state && dd if=/dev/zero of={d}/fill bs=1k 2>/dev/null; \"$@\"; rc=$?; ls {d}/state >&3; exit $rc"
    );
    let mut a = Attempt::new(&["space", "full"]);
    a.root = dir.join("state");
    let before = mounts();
    let list = paths::scratch("list").join("left");
    let wrapped = format!("exec 3>{}; {script}", list.display());
    let o = run::quick(
        a.command("create", &["unshare", "-m", "--propagation", "private", "sh", "-c", &wrapped, "sh"]),
        LIMIT,
    );
    let mut bad: Vec<String> = a.judge(&o).err().into_iter().collect();
    let left = std::fs::read_to_string(&list).unwrap_or_default();
    if left.contains(&a.id) && Engine::under_test() == Engine::Chitin {
        bad.push(format!("state left: {left:?}"));
    }
    clean("full disk", &a, &before, &mut bad);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn id_taken_and_id_bad() {
    let first = Attempt::new(&[]);
    let o = run::quick(first.command("create", &[]), LIMIT);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    let mut second = Attempt::new(&["exists"]);
    second.id.clone_from(&first.id);
    second.root.clone_from(&first.root);
    let o = run::quick(second.command("create", &[]), LIMIT);
    let taken = second.judge(&o);
    let end =
        run::quick(Engine::under_test().command(&first.root, None, &["delete", "--force", &first.id]), LIMIT);
    assert_eq!(end.code, Some(0), "{}", end.brief());
    taken.unwrap();
    let mut a = Attempt::new(&["a/b"]);
    a.id = "a/b".into();
    let o = run::quick(a.command("create", &[]), LIMIT);
    a.judge(&o).unwrap();
}

#[test]
fn no_permission_for_the_state() {
    if !nix::unistd::geteuid().is_root() {
        return skip("no_permission_for_the_state", "needs root to become somebody else");
    }
    // A state directory of root's, and a caller who is not root.
    let mut a = Attempt::new(&["ermission", "denied"]);
    let dir = paths::scratch("locked");
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
    a.root = dir.join("state");
    let b = a.bundle.dir.clone();
    a.bundle.write();
    let mut c = Command::new("setpriv");
    c.args(["--reuid=1000", "--regid=1000", "--clear-groups"]).arg(super_name());
    c.arg("--root").arg(&a.root).args(["create", "--bundle"]).arg(&b).arg(&a.id);
    let o = run::quick(c, LIMIT);
    a.judge(&o).unwrap();
}

fn super_name() -> PathBuf {
    match Engine::under_test() {
        Engine::Chitin => paths::chitin(),
        e => PathBuf::from(e.name()),
    }
}

#[test]
fn a_cgroup_that_cannot_be() {
    // Some file of the hierarchy in the way of a directory.
    refused("cgroup path", || Attempt::new(&["cgroup"]).set("/linux/cgroupsPath", json!("/cgroup.procs/x")));
}

#[test]
fn bundles_that_are_none() {
    for (dir, names) in [
        (GONE.to_owned(), GONE),
        ("/etc/passwd".to_owned(), "passwd"),
        (paths::scratch("none").to_string_lossy().into_owned(), "config.json"),
    ] {
        for verb in ["create", "run"] {
            let a = Attempt::new(&[]);
            let o = run::quick(
                Engine::under_test().command(&a.root, None, &[verb, "--bundle", &dir, &a.id]),
                LIMIT,
            );
            Attempt { names: vec![names], ..a }.judge(&o).unwrap_or_else(|e| panic!("{verb} {dir}: {e}"));
        }
    }
}

#[test]
fn programs_that_are_none() {
    let of = |verb: &'static str, args: Value, names: &'static [&'static str]| {
        let a = Attempt::new(names).set("/process/args", args);
        let before = mounts();
        let mut o = run::quick(a.command(verb, &[]), LIMIT);
        if verb == "create" && o.code == Some(0) {
            // It may be found out at start.
            o = run::quick(Engine::under_test().command(&a.root, None, &["start", &a.id]), LIMIT);
            let del = Engine::under_test().command(&a.root, None, &["delete", "--force", &a.id]);
            assert_eq!(run::quick(del, LIMIT).code, Some(0));
        }
        let mut bad: Vec<String> = a.judge(&o).err().into_iter().collect();
        clean("program", &a, &before, &mut bad);
        assert!(bad.is_empty(), "{verb} {names:?}: {}", bad.join("\n"));
    };
    for verb in ["create", "run"] {
        of(verb, json!([]), &["args"]);
        of(verb, json!(["/etc/passwd"]), &["/etc/passwd"]);
        of(verb, json!(["/no/such/program"]), &["/no/such/program"]);
        of(verb, json!(["no-such-program"]), &["no-such-program"]);
        of(verb, json!(["/etc"]), &["/etc"]);
    }
}

#[test]
fn cwd_that_cannot_be() {
    refused("relative cwd", || Attempt::new(&["cwd"]).set("/process/cwd", json!("tmp")).chitin_only());
    let a = Attempt::new(&["cwd", "/etc/passwd"]).set("/process/cwd", json!("/etc/passwd"));
    let o = run::quick(a.command("run", &[]), LIMIT);
    a.judge(&o).unwrap();
}

#[test]
fn a_user_that_cannot_be() {
    refused("uid as text", || {
        Attempt::new(&["uid"]).set("/process/user", json!({ "uid": "root", "gid": 0 }))
    });
    refused("negative uid", || Attempt::new(&["uid"]).set("/process/user", json!({ "uid": -5, "gid": 0 })));
}

#[test]
fn mounts_that_cannot_be() {
    refused("bind source", || {
        Attempt::new(&[GONE])
            .mount(json!({ "destination": "/m", "type": "bind", "source": GONE, "options": ["bind"] }))
    });
    refused("mount type", || {
        Attempt::new(&["nosuchfs"]).mount(json!({ "destination": "/m", "type": "nosuchfs", "source": "x" }))
    });
    refused("mount option", || {
        Attempt::new(&["nosuchoption"]).mount(
            json!({ "destination": "/m", "type": "tmpfs", "source": "x", "options": ["nosuchoption=7"] }),
        )
    });
    refused("no destination", || {
        Attempt::new(&["destination"]).mount(json!({ "type": "tmpfs", "source": "x" })).chitin_only()
    });
}

#[test]
fn rlimits_that_cannot_be() {
    refused("rlimit type", || {
        Attempt::new(&["RLIMIT_NOPE"])
            .set("/process/rlimits", json!([{ "type": "RLIMIT_NOPE", "hard": 1, "soft": 1 }]))
    });
    refused("soft above hard", || {
        Attempt::new(&["rlimits"])
            .set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "hard": 1, "soft": 100 }]))
    });
}

#[test]
fn namespaces_that_cannot_be() {
    refused("type", || Attempt::new(&["nonsense"]).set("/linux/namespaces", json!([{ "type": "nonsense" }])));
    refused("path", || {
        Attempt::new(&[GONE]).set(
            "/linux/namespaces",
            json!([{ "type": "pid" }, { "type": "mount" }, { "type": "network", "path": GONE }]),
        )
    });
}

#[test]
fn sysctls_that_cannot_be() {
    refused("unknown sysctl", || {
        Attempt::new(&["kernel.nonsense"]).set("/linux/sysctl", json!({ "kernel.nonsense": "1" }))
    });
}

#[test]
fn pid_file_that_cannot_be_written() {
    refused("pid file", || Attempt::new(&["pid"]).flag("--pid-file").flag("/no/such/place/pid"));
}

#[test]
fn seccomp_that_cannot_be() {
    let filter = |action: &str| json!({ "defaultAction": action, "syscalls": [] });
    refused("seccomp action", || {
        Attempt::new(&["SCMP_ACT_NONSENSE"]).set("/linux/seccomp", filter("SCMP_ACT_NONSENSE"))
    });
}

#[test]
fn flags_and_commands_that_are_none() {
    let root = state_root("flags");
    for (args, names) in [
        (vec!["frobnicate"], "frobnicate"),
        (vec!["create", "--frobnicate", "x"], "frobnicate"),
        (vec!["kill", "nobody", "NOSUCHSIGNAL"], "NOSUCHSIGNAL"),
        (vec!["start", "nobody"], "nobody"),
    ] {
        let a = Attempt { names: vec![names, "does not exist"], ..Attempt::new(&[]) };
        let o = run::quick(Engine::under_test().command(&root, None, &args), LIMIT);
        if Engine::under_test() == Engine::Chitin {
            a.judge(&o).unwrap_or_else(|e| panic!("{args:?}: {e}"));
        } else {
            assert!(o.code.is_some(), "{args:?}: {}", o.brief());
        }
    }
}
