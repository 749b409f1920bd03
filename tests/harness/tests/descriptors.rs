//! Descriptors beside the standard streams that a caller gives to a container: `--preserve-fds` and socket activation.
//! `CHITIN_TEST_ENGINE=runc` proves each test against an established runtime.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::run::{self, Outcome};
use chitin_tests::steps::Steps;
use chitin_tests::{bundle::Bundle, paths};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

const LIMIT: Duration = Duration::from_secs(30);

/// The engine's command line behind a shell that opens descriptors first (one that knows numbers above 9).
fn with(opening: &str, command: &Command) -> Command {
    let mut c = Command::new("bash");
    c.args(["-c", &format!("{opening}\nexec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        c.env(name, value.unwrap_or_default());
    }
    c
}

fn bundle(script: &str) -> Bundle {
    let b = Bundle::new("descriptors", &paths::rootfs("busybox"), &["/bin/sh", "-c", script]);
    b.write();
    b
}

fn run_with(opening: &str, flags: &[&str], b: &Bundle) -> Outcome {
    let (engine, root, id) = (Engine::under_test(), state_root("descriptors"), unique_id());
    let dir = b.dir.to_string_lossy().into_owned();
    let args = [&["run", "--bundle", &dir], flags, &[id.as_str()]].concat();
    let scratch = paths::scratch("descriptors-run");
    let o = run::run(with(opening, &engine.command(&root, Some(b), &args)), b"", &scratch, LIMIT);
    run::quick(engine.command(&root, None, &["delete", "--force", &id]), LIMIT);
    o
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn files_and_pipes_are_what_they_were() {
    let b =
        bundle("read a <&3; read b <&3; echo \"$a$b\"; echo written >&4; cat <&5; ls /proc/self/fd | wc -l");
    let (input, output) = (b.dir.join("input"), b.dir.join("output"));
    std::fs::write(&input, "skipped\none\ntwo\n").unwrap();
    std::fs::write(&output, "there\n").unwrap();
    let opening = format!(
        "exec 3<{} 4>>{}; read skipped <&3; exec 5<<E\npiped\nE\n",
        input.display(),
        output.display()
    );
    let o = run_with(&opening, &["--preserve-fds", "3"], &b);
    // The position is shared, as is the file; ls has 0 to 5 and the directory.
    assert_eq!((o.code, o.text().as_str()), (Some(0), "onetwo\npiped\n7\n"), "{}", o.brief());
    assert_eq!(text(&output), "there\nwritten\n");
}

#[test]
fn what_is_not_asked_for_stays_outside() {
    let b = bundle("ls /proc/self/fd | wc -l; (echo >&4) 2>/dev/null || echo closed");
    let o = run_with("exec 3</etc/passwd 4</etc/passwd 7</etc/passwd", &["--preserve-fds", "1"], &b);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "5\nclosed\n"), "{}", o.brief());
}

#[test]
fn a_number_without_a_descriptor_is_an_error() {
    let b = bundle("true");
    // Far beyond what a runtime has open itself.
    let o = run_with("exec 3</etc/passwd", &["--preserve-fds", "60"], &b);
    assert_ne!(o.code, Some(0), "{}", o.brief());
    if Engine::under_test() != Engine::Crun {
        assert!(o.stderr.contains("unable to stat preserved-fd "), "{}", o.brief());
    }
}

#[test]
fn socket_activation_is_passed_on() {
    let b = bundle("echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4");
    std::fs::write(b.dir.join("a"), "first\n").unwrap();
    std::fs::write(b.dir.join("b"), "second\n").unwrap();
    let open = format!("exec 3<{0}/a 4<{0}/b", b.dir.display());
    let o = run_with(&format!("{open}; export LISTEN_FDS=2 LISTEN_PID=$$"), &[], &b);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "2 1\nfirst\nsecond\n"), "{}", o.brief());
    // Preserved ones follow.
    let both = format!("{open}; export LISTEN_FDS=1 LISTEN_PID=$$");
    let o = run_with(&both, &["--preserve-fds", "1"], &b);
    assert_eq!((o.code, o.text().as_str()), (Some(0), "1 1\nfirst\nsecond\n"), "{}", o.brief());
    // Meant for another process.
    if Engine::under_test() != Engine::Crun {
        let o = run_with(&format!("{open}; export LISTEN_FDS=2 LISTEN_PID=1"), &[], &b);
        assert!(o.text().starts_with("\n"), "{}", o.brief());
    }
}

#[test]
fn exec_has_them_too() {
    let s = Steps::busybox("descriptors-exec", "while :; do sleep 1; done");
    s.launch();
    let file = s.bundle.dir.join("log");
    let args = ["exec", "--preserve-fds", "1", &s.id, "sh", "-c", "echo line >&3; echo ${LISTEN_FDS-none}"];
    let opening = format!("exec 3>>{}", file.display());
    let scratch = paths::scratch("descriptors-exec");
    let o = run::run(with(&opening, &s.engine.command(&s.root, None, &args)), b"", &scratch, LIMIT);
    assert_eq!(
        (o.code, o.text().as_str(), text(&file).as_str()),
        (Some(0), "none\n", "line\n"),
        "{}",
        o.brief()
    );
    let args = ["exec", "--preserve-fds", "60", &s.id, "true"];
    let o = run::run(s.engine.command(&s.root, None, &args), b"", &scratch, LIMIT);
    assert!(!matches!(o.code, None | Some(0)), "{}", o.brief());
    if s.engine != Engine::Crun {
        assert_eq!(o.code, Some(255), "{}", o.brief());
        assert!(o.stderr.contains("exec failed: unable to stat preserved-fd "), "{}", o.brief());
    }
}

/// The same under a number that shells do not use, for programs that are executed, too.
fn passed_on(fd: impl AsFd) -> OwnedFd {
    let copies: Vec<OwnedFd> =
        (0..20).map(|_| fd.as_fd().try_clone_to_owned().expect("a duplicate")).collect();
    let kept = copies.into_iter().max_by_key(AsRawFd::as_raw_fd).expect("some");
    fcntl(&kept, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    kept
}

#[test]
fn connected_sockets_carry_bytes_both_ways() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let b = bundle("read line <&3; echo \"got $line\" >&3");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let theirs = passed_on(theirs);
    ours.write_all(b"hello\n").unwrap();
    let n = theirs.as_raw_fd();
    let o = run_with(&format!("exec 3<&{n}"), &["--preserve-fds", "1"], &b);
    drop(theirs);
    let mut said = String::new();
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    ours.read_to_string(&mut said).unwrap();
    assert_eq!((o.code, said.as_str()), (Some(0), "got hello\n"), "{}", o.brief());
}

/// Ours alone: what a sandbox cannot take is refused with the reason.
#[test]
fn what_cannot_be_passed_on_is_refused() {
    if Engine::under_test() != Engine::Chitin {
        return;
    }
    let b = bundle("true");
    let o = run_with("exec 3</etc", &["--preserve-fds", "1"], &b);
    assert!(o.code == Some(1) && o.stderr.contains("mount it instead"), "{}", o.brief());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = passed_on(listener);
    let n = listener.as_raw_fd();
    let o = run_with(&format!("exec 3<&{n}"), &["--preserve-fds", "1"], &b);
    assert!(o.code == Some(1) && o.stderr.contains("listening socket"), "{}", o.brief());
}
