//! Against a peer of our own that speaks D-Bus as far as systemd's manager does.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::wire::{self, Header, Reader};
use super::*;

/// A call as it came: method, signature, and the texts it begins with.
type Call = (String, String, Vec<String>);

struct Peer {
    socket: PathBuf,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Peer {
    /// `exists`: how many starts fail because the unit exists. `result`: how jobs end.
    fn start(name: &str, mut exists: u32, result: &'static str) -> Self {
        let socket = std::env::temp_dir().join(format!("chitin-bus-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&calls);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(&stream, &noted, &mut exists, result);
            }
        });
        Self { socket, calls }
    }

    fn unit(&self, path: &str, resources: Option<serde_json::Value>) -> (Unit, PathBuf) {
        let resources = resources.map(|r| serde_json::from_value(r).unwrap());
        let addresses = vec![Address { socket: self.socket.clone(), is_bus: true }];
        Unit::planned(Some(Path::new(path)), "c", false, Some(addresses), resources.as_ref()).unwrap()
    }

    fn methods(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(|(method, ..)| method.clone()).collect()
    }
}

fn serve(stream: &UnixStream, noted: &Mutex<Vec<Call>>, exists: &mut u32, result: &str) {
    let mut writer = stream;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let uid: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
    assert_eq!(line, format!("\0AUTH EXTERNAL {uid}\r\n"));
    writer.write_all(b"OK 0123\r\n").unwrap();
    line.clear();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "BEGIN\r\n");
    let mut start = [0; 16];
    while reader.read_exact(&mut start).is_ok() {
        let (header, body) = wire::message_length(&start).unwrap();
        let mut message = start.to_vec();
        message.resize(header + body, 0);
        reader.read_exact(&mut message[16..]).unwrap();
        let (header, body) = wire::decode(&message).unwrap();
        let mut fields = Reader::new(&body);
        let texts =
            header.signature.chars().take_while(|c| *c == 's').filter_map(|_| fields.text()).collect();
        noted.lock().unwrap().push((header.member.clone(), header.signature.clone(), texts));
        let mut answer =
            Header { kind: wire::METHOD_RETURN, serial: 9, reply_to: header.serial, ..Header::default() };
        let mut payload = Body::default();
        let mut ended = None;
        match header.member.as_str() {
            "StartTransientUnit" if *exists > 0 => {
                *exists -= 1;
                answer.kind = wire::ERROR;
                answer.error_name = "org.freedesktop.systemd1.UnitExists".into();
                payload = payload.text("Unit c.scope was already loaded or has a fragment file.");
            }
            "StartTransientUnit" | "StopUnit" => {
                payload = payload.text("/job/1");
                // Somebody else's job first; and ours before the answer, as may happen.
                ended = Some("/job/1");
            }
            "Get" => {
                payload.bytes = b"\x01s\0\0\x05\0\0\x00252.1\0".to_vec();
                payload.signature = "v".into();
            }
            _ => {}
        }
        for job in ["/job/other"].into_iter().chain(ended) {
            let mut signal = Header { kind: wire::SIGNAL, serial: 8, ..Header::default() };
            (signal.path, signal.interface) = ("/m".into(), "org.freedesktop.systemd1.Manager".into());
            (signal.member, signal.signature) = ("JobRemoved".into(), "uoss".into());
            let mut body = Body { bytes: 7_u32.to_le_bytes().to_vec(), ..Body::default() };
            body = body.text(job).text("c.scope").text(result);
            writer.write_all(&wire::encode(&signal, &body.bytes)).unwrap();
        }
        answer.signature = payload.signature;
        writer.write_all(&wire::encode(&answer, &payload.bytes)).unwrap();
    }
}

#[test]
fn a_scope_lives_and_dies() {
    let peer = Peer::start("life", 0, "done");
    let (unit, path) =
        peer.unit("a-b.slice:cri:c", Some(json!({"memory": {"limit": 5}, "cpu": {"cpus": "0"}})));
    assert_eq!(path, Path::new("/a.slice/a-b.slice/cri-c.scope"));
    assert_eq!(unit.start(42, true), Ok(true));
    assert_eq!(unit.start(43, true), Ok(false), "it runs");
    unit.attach(43).unwrap();
    unit.update(&serde_json::from_value(json!({"pids": {"limit": 3}})).unwrap(), true).unwrap();
    unit.stop().unwrap();
    let calls = peer.calls.lock().unwrap().clone();
    let hello = || "Hello".to_owned();
    let expected = [
        hello(),
        "Get".into(),
        "AddMatch".into(),
        "Subscribe".into(),
        "StartTransientUnit".into(),
        hello(),
        "AttachProcessesToUnit".into(),
        hello(),
        "SetUnitProperties".into(),
        hello(),
        "AddMatch".into(),
        "Subscribe".into(),
        "StopUnit".into(),
        "ResetFailedUnit".into(),
    ];
    let methods: Vec<_> = calls.iter().map(|(method, ..)| method.clone()).collect();
    assert_eq!(methods, expected);
    let start = &calls[4];
    assert_eq!(start.1, "ssa(sv)a(sa(sv))");
    assert_eq!(start.2, ["cri-c.scope", "replace"]);
    assert_eq!(calls[6].1, "ssau");
    assert_eq!(calls[8].1, "sba(sv)");
}

#[test]
fn a_left_over_unit_is_reset_once() {
    let peer = Peer::start("left", 1, "done");
    let (unit, _) = peer.unit(":p:c", None);
    assert_eq!(unit.start(42, true), Ok(true));
    let methods = peer.methods();
    let count = |m: &str| methods.iter().filter(|x| *x == m).count();
    assert_eq!((count("StartTransientUnit"), count("ResetFailedUnit")), (2, 1), "{methods:?}");
    let peer = Peer::start("left2", 9, "done");
    let (unit, _) = peer.unit(":p:c", None);
    let e = unit.start(42, true).unwrap_err();
    assert!(e.starts_with("unable to start unit \"p-c.scope\": Unit c.scope was already loaded"), "{e}");
    // A slice may be there.
    let (unit, path) = peer.unit("a.slice:x:a-b.slice", None);
    assert_eq!((path.to_str(), unit.start(-1, true)), (Some("/a.slice/a-b.slice"), Ok(true)));
}

#[test]
fn a_failed_job_is_an_error() {
    let peer = Peer::start("fail", 0, "failed");
    let (unit, _) = peer.unit(":p:c", None);
    let e = unit.start(42, true).unwrap_err();
    assert!(e.contains("\"failed\"") && e.contains("journalctl"), "{e}");
    assert!(peer.methods().ends_with(&["ResetFailedUnit".to_owned()]));
}

#[test]
fn nobody_there() {
    let gone = vec![Address { socket: "/nonexistent/bus".into(), is_bus: true }];
    let (unit, _) = Unit::planned(None, "c", false, Some(gone), None).unwrap();
    assert_eq!(unit.name, "chitin-c.scope");
    let e = unit.start(1, true).unwrap_err();
    assert!(e.contains("/nonexistent/bus") && e.contains("--systemd-cgroup"), "{e}");
}

#[test]
fn names_and_paths() {
    let planned =
        |p: &str| Unit::planned(Some(Path::new(p)), "c", false, Some(vec![]), None).map(|(_, path)| path);
    assert_eq!(planned("user-1.slice:cri:abc"), Ok("/user.slice/user-1.slice/cri-abc.scope".into()));
    assert_eq!(planned(":docker:abc"), Ok("/system.slice/docker-abc.scope".into()));
    assert_eq!(planned("-.slice:x:abc"), Ok("/x-abc.scope".into()));
    for wrong in ["/a/b", "a:b", "a--b.slice:x:y", "x:y:z", "a/b.slice:x:y", "a.slice:x:y/z", "a.slice:x:"] {
        assert!(planned(wrong).is_err(), "{wrong}");
    }
}

/// The bus checks every message against its signature and drops who sends a malformed one.
#[test]
fn a_real_bus_takes_our_messages() {
    let socket = std::env::temp_dir().join(format!("chitin-real-bus-{}", std::process::id()));
    let address = format!("--address=unix:path={}", socket.display());
    let mut command = std::process::Command::new("dbus-daemon");
    command.args(["--session", "--nofork", "--nopidfile", &address]);
    let Ok(mut daemon) = command.stderr(std::process::Stdio::null()).spawn() else {
        eprintln!("SKIPPED: no dbus-daemon here (apt-get install dbus)");
        return;
    };
    for _ in 0..500 {
        if socket.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let checked = std::panic::catch_unwind(|| {
        let address = Address { socket: socket.clone(), is_bus: true };
        let mut bus = Bus::connect(&[address]).unwrap();
        let all = [
            ("Description", Value::Text("x".into())),
            ("Wants", Value::Texts(vec!["a.slice".into(), "b.slice".into()])),
            ("PIDs", Value::U32s(vec![1, 2, 3])),
            ("AllowedCPUs", Value::Bytes(vec![1, 2, 3])),
            ("Delegate", Value::Bool(true)),
            ("MemoryMax", Value::U64(u64::MAX)),
        ];
        let body = Body::default().text("a.scope").text("replace").properties(&all).no_further_units();
        let attach = Body::default().text("a.scope").text("").u32s(&[1]);
        let set = Body::default().text("a.scope").boolean(true).properties(&all[..2]);
        for body in [body, attach, set] {
            // Nobody has that name; before it says so, the bus has looked at the whole message.
            match bus.call("Something", &body) {
                Err(Failure::Answered(name, _)) => {
                    assert!(name.ends_with(".ServiceUnknown") || name.contains(".Spawn."), "{name}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let _ = std::fs::remove_file(&socket);
    checked.unwrap();
}
