//! What containers of one pod share: a directory with all that is more than bytes in it.
//! `CHITIN_TEST_ENGINE=runc` (or crun) proves each test against an established runtime, where two plain containers do.

use std::path::PathBuf;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::paths;
use chitin_tests::run::Outcome;
use chitin_tests::steps::Steps;
use serde_json::json;

const WAITS: &str = "while :; do sleep 1; done";

/// Two containers of a pod with one directory at /shared.
struct Pair {
    // The sandbox goes last.
    second: Steps,
    first: Steps,
}

impl Pair {
    fn up(name: &str) -> Pair {
        Pair::with(name, |_, bundle| bundle)
    }

    fn with(name: &str, change: impl Fn(&str, Bundle) -> Bundle) -> Pair {
        let shared: PathBuf = paths::scratch(&format!("{name}-shared"));
        let bundle = |which: &str| {
            let program = ["/bin/sh", "-c", WAITS];
            let name = format!("{name}-{which}");
            let bundle = Bundle::new(&name, &paths::rootfs("bookworm"), &program);
            change(which, bundle.bind(&shared, "/shared", &[]))
        };
        let mut first = Steps::new(bundle("first"));
        let mut second = Steps::new(bundle("second"));
        if first.engine == Engine::Chitin {
            let annotations = |kind: &str, sandbox: &str| json!({"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": sandbox});
            first.bundle = first.bundle.clone().set("/annotations", annotations("sandbox", &first.id));
            second.bundle = second.bundle.clone().set("/annotations", annotations("container", &first.id));
            second.root = first.root.clone();
            first.bundle.write();
            second.bundle.write();
        }
        first.launch();
        second.launch();
        Pair { second, first }
    }
}

fn python(s: &Steps, script: &str) -> Outcome {
    s.exec(&[], &["/usr/bin/python3", "-c", script])
}

/// Starts it in the background; what it prints is read from a file in /shared.
fn behind(s: &Steps, script: &str) {
    let line = format!("/usr/bin/python3 -c '{script}' >/shared/behind 2>&1 &");
    let o = s.exec(&["--detach"], &["/bin/sh", "-c", &line]);
    assert_eq!(o.code, Some(0), "{}", o.brief());
}

fn said(s: &Steps, want: &str) {
    settle(Duration::from_secs(20), || {
        let text = s.exec(&[], &["cat", "/shared/behind"]).text();
        if text == want { Ok(()) } else { Err(format!("{text:?}")) }
    })
    .unwrap();
}

#[test]
fn fifos_and_sockets_connect_containers() {
    let pair = Pair::up("pods-fifo");
    let o = pair.first.exec(&[], &["mkfifo", "/shared/fifo"]);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    behind(&pair.first, "print(open(\"/shared/fifo\").read())");
    let o = python(&pair.second, "open('/shared/fifo', 'w').write('through the pipe')");
    assert_eq!(o.code, Some(0), "{}", o.brief());
    said(&pair.first, "through the pipe\n");

    let server = "import socket; s = socket.socket(socket.AF_UNIX); s.bind(\"/shared/socket\"); s.listen(); \
        c = s.accept()[0]; print(c.recv(99).decode()); c.send(b\"answer\")";
    behind(&pair.second, server);
    let client = "import socket, time
for _ in range(200):
    try:
        s = socket.socket(socket.AF_UNIX); s.connect('/shared/socket'); break
    except OSError as e: time.sleep(0.05)
s.send(b'question'); print(s.recv(99).decode())";
    let o = python(&pair.first, client);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "answer\n"), "{}", o.brief());
    said(&pair.second, "question\n");
}

#[test]
fn locks_and_watches_hold_across_containers() {
    let pair = Pair::up("pods-locks");
    let holder = "import fcntl, time, os; f = open(\"/shared/lock\", \"w\"); fcntl.flock(f, fcntl.LOCK_EX); \
        g = open(\"/shared/record\", \"w\"); fcntl.lockf(g, fcntl.LOCK_EX); print(\"held\", flush=True); \
        [time.sleep(0.05) for _ in iter(lambda: os.path.exists(\"/shared/go\"), True)]";
    behind(&pair.first, holder);
    said(&pair.first, "held\n");
    let probe = "import fcntl
for name, lock in ('lock', fcntl.flock), ('record', fcntl.lockf):
    try: lock(open('/shared/' + name, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')
    except BlockingIOError: print('taken')";
    let o = python(&pair.second, probe);
    assert_eq!(o.text(), "taken\ntaken\n", "{}", o.brief());
    pair.first.exec(&[], &["touch", "/shared/go"]);
    settle(Duration::from_secs(20), || match python(&pair.second, probe).text() {
        text if text == "free\nfree\n" => Ok(()),
        text => Err(text),
    })
    .unwrap();

    let watcher = "import ctypes, os; c = ctypes.CDLL(None); n = c.inotify_init(); \
        c.inotify_add_watch(n, b\"/shared\", 0x100); print(\"watching\", flush=True); \
        print(os.read(n, 999)[16:].rstrip(b\"\\0\").decode())";
    let file = "/tmp/seen";
    let line = format!("/usr/bin/python3 -c '{watcher}' >{file} 2>&1 &");
    pair.first.exec(&["--detach"], &["/bin/sh", "-c", &line]);
    let seen = |want: &str| {
        settle(Duration::from_secs(20), || match pair.first.exec(&[], &["cat", file]).text() {
            text if text == want => Ok(()),
            text => Err(text),
        })
        .unwrap();
    };
    seen("watching\n");
    pair.second.exec(&[], &["touch", "/shared/new"]);
    seen("watching\nnew\n");
}

/// By its pid on the host each container shows its own files, whatever the other one's process is.
#[test]
fn each_shows_its_own_files_to_the_host() {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
        chitin_tests::skip("pods view", "entering mount namespaces needs root, and the view /dev/fuse");
        return;
    }
    let pair = Pair::up("pods-view");
    for (s, name) in [(&pair.first, "first"), (&pair.second, "second")] {
        let o = s.exec(&[], &["/bin/sh", "-c", &format!("echo {name} >/dev/shm/mine")]);
        assert_eq!(o.code, Some(0), "{}", o.brief());
    }
    for (s, name) in [(&pair.first, "first\n"), (&pair.second, "second\n")] {
        let pid = s.state()["pid"].as_i64().expect("a pid");
        let read = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            let ns = std::fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNS)?;
            std::fs::read_to_string("/dev/shm/mine")
        });
        assert_eq!(read.join().expect("no panic").expect("the file is seen"), name);
    }
}

/// /proc and /sys show each container its own limits, and what it uses of them.
#[test]
fn each_sees_its_own_limits() {
    if Engine::under_test() != Engine::Chitin || !chitin_tests::limited::v1_host("pods limits") {
        return;
    }
    let pair = Pair::with("pods-limits", |which, bundle| {
        let limit = if which == "first" { 256u64 << 20 } else { 64 << 20 };
        let cpu = if which == "first" { json!({}) } else { json!({"quota": 50_000, "period": 100_000}) };
        let path = format!("/chitin-tests-{}-{which}", chitin_tests::engine::unique_id());
        let resources = json!({"memory": {"limit": limit}, "cpu": cpu});
        bundle.set("/linux/cgroupsPath", json!(path)).set("/linux/resources", resources)
    });
    let show = "grep MemTotal: /proc/meminfo; head -1 /sys/devices/system/node/node0/meminfo; nproc; \
        grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online; \
        grep -c ^cpu[0-9] /proc/stat; grep Cpus_allowed_list /proc/self/status | tr -d '\\t'";
    let shown = |s: &Steps| {
        let o = s.exec(&[], &["/bin/bash", "-c", show]);
        assert_eq!(o.code, Some(0), "{}", o.brief());
        o.text()
    };
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let last = if cpus == 1 { "0".into() } else { format!("0-{}", cpus - 1) };
    assert_eq!(
        shown(&pair.first),
        format!(
            "MemTotal:         262144 kB\nNode 0 MemTotal:         262144 kB\n{cpus}\n{cpus}\n{last}\n{cpus}\nCpus_allowed_list:{last}\n"
        )
    );
    assert_eq!(
        shown(&pair.second),
        "MemTotal:          65536 kB\nNode 0 MemTotal:          65536 kB\n1\n1\n0\n1\nCpus_allowed_list:0\n"
    );
    // What the first one uses is not the second one's.
    let hog = "import time; x = bytearray(100 << 20); print('up', flush=True); time.sleep(1000)";
    behind(&pair.first, hog.replace('\'', "\"").as_str());
    said(&pair.first, "up\n");
    let free = "grep MemFree: /proc/meminfo | tr -dc 0-9";
    let kb = |s: &Steps| s.exec(&[], &["/bin/bash", "-c", free]).text().parse::<u64>().expect("a number");
    let (first, second) = (kb(&pair.first), kb(&pair.second));
    assert!(first < (256 - 100) << 10 && second > 32 << 10, "{first} {second}");
}
