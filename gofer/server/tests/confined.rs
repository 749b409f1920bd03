//! The gofer as it runs for real: a process of its own, confined by [`chitin_gofer::run`].
//!
//! Without a test harness, because the gofer process (this executable again) must have one thread.
//! Needs root, or a host that lets users make user namespaces; otherwise it says that it was skipped.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chitin_gofer::{GoferConfig, Limits, RootConfig, run};
use chitin_gofer_protocol::{Client, SetAttr, TimeSet, WalkEnd, transport};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

const ROLE: &str = "CHITIN_TEST_GOFER_ROLE";
const KEEP: u32 = u32::MAX;

fn main() {
    match std::env::var(ROLE) {
        Ok(role) => gofer(role == "user", &PathBuf::from(std::env::args_os().nth(1).unwrap())),
        Err(_) if nix::unistd::geteuid().is_root() => {
            with_gofer(false);
            with_gofer(true);
            fails_closed();
            println!("confined: ok");
        }
        Err(_) => println!("confined: SKIPPED, needs root"),
    }
}

/// The child: namespaces, which are the launcher's work otherwise, and then the real thing.
fn gofer(user: bool, dir: &Path) {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    if user {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).unwrap();
    if user {
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", "0 0 1").unwrap();
        fs::write("/proc/self/gid_map", "0 0 1").unwrap();
    }
    let root = |path: PathBuf, readonly, recursive| RootConfig {
        path,
        readonly,
        recursive,
        noexec: false,
        id_mapped: None,
    };
    let roots = vec![
        root(dir.join("tree"), false, false),
        root(dir.join("tree"), true, true),
        root(dir.join("tree/hosts"), false, false),
    ];
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    if let Err(error) =
        run(GoferConfig { roots, socket, limits: Limits::default(), user_ns: None, label: None })
    {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn start(role: &str, dir: &Path) -> (Child, Client) {
    let (ours, theirs) = transport::channel().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .arg(dir)
        .env(ROLE, role)
        .stdin(Stdio::from(theirs))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, Client::new(ours))
}

fn with_gofer(user: bool) {
    let dir = std::env::temp_dir().join(format!("chitin-gofer-confined-{}-{user}", std::process::id()));
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("sub/below")).unwrap();
    fs::write(tree.join("hosts"), "127.0.0.1 localhost").unwrap();
    fs::write(dir.join("secret"), "").unwrap();
    mount(Some("t"), &tree.join("sub"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(tree.join("sub/mounted"), "yes").unwrap();

    let (mut child, client) = start(if user { "user" } else { "root" }, &dir);
    // Let a failure to start tell its reason.
    if client.attach(0).is_err() {
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        panic!("the gofer (user namespace: {user}) did not start: {:?} {text}", child.wait());
    }
    works(&client, &tree, user);
    is_confined(&child);
    drop(client);
    assert!(child.wait().unwrap().success(), "the gofer ends with its client, without an error");
    umount(&tree.join("sub")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
}

fn works(c: &Client, tree: &Path, user: bool) {
    let root = c.attach(0).unwrap().node;
    // All families of calls, so that the seccomp list is known to be long enough.
    let (f, fd) = c.create(root, b"f", libc::O_RDWR as u32, 0o4755, KEEP, KEEP).unwrap();
    fs::File::from(fd).write_all(b"hello").unwrap();
    assert_eq!(fs::read(tree.join("f")).unwrap(), b"hello");
    c.open(f.node, (libc::O_RDWR | libc::O_TRUNC) as u32).unwrap();
    let all = SetAttr {
        mode: Some(0o2711),
        size: Some(3),
        mtime: TimeSet::Now,
        uid: Some(0),
        ..SetAttr::default()
    };
    assert_eq!(c.setattr(f.node, all).unwrap().size, 3);
    c.mkdir(root, b"d", 0o2755, KEEP, KEEP).unwrap();
    c.symlink(root, b"l", b"target", KEEP, KEEP).unwrap();
    c.mknod(root, b"p", libc::S_IFIFO | 0o600, 0, KEEP, KEEP).unwrap();
    c.link(f.node, root, b"f2").unwrap();
    c.rename(root, b"f2", root, b"f3", 0).unwrap();
    c.unlink(root, b"f3", 0).unwrap();
    c.fsync(f.node, false).unwrap();
    c.statfs(root).unwrap();
    match c.setxattr(f.node, b"user.x", b"1", 0) {
        Ok(()) => {
            assert_eq!(c.getxattr(f.node, b"user.x").unwrap(), b"1");
            c.removexattr(f.node, b"user.x").unwrap();
        }
        Err(error) => assert_eq!(error.errno(), libc::EOPNOTSUPP),
    }
    c.listxattr(f.node).unwrap();
    let names = c.readdir(root, 0, true).unwrap();
    assert!(names.iter().any(|e| e.name == b"hosts" && e.attr.is_some()));
    let l = c.walk(root, &[b"l"]).unwrap();
    assert_eq!(l.end, WalkEnd::Symlink(b"target".to_vec()));
    // Threads.
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| (0..20).for_each(|_| drop(c.walk(root, &[b"d"]).unwrap())));
        }
    });
    // Owners: any for root, mapped ones in a user namespace.
    let owned = c.create(root, b"owned", 0, 0o600, 1000, 1000).map(drop);
    if user {
        assert_eq!(owned.unwrap_err().errno(), libc::EOVERFLOW);
        assert!(!tree.join("owned").exists());
    } else {
        owned.unwrap();
    }
    // Mounts below: only with the recursive root, which is read-only down there too.
    let below = c.walk(root, &[b"sub", b"mounted"]).unwrap();
    let reached = matches!(below.end, WalkEnd::Complete);
    assert!(!reached, "{below:?}");
    let readonly = c.attach(1).unwrap().node;
    let below = c.walk(readonly, &[b"sub", b"mounted"]).unwrap();
    assert_eq!(below.end, WalkEnd::Complete);
    let node = below.steps[1].node;
    c.open(node, 0).unwrap();
    assert_eq!(c.open(node, libc::O_RDWR as u32).unwrap_err().errno(), libc::EROFS);
    // A single file.
    let mut text = String::new();
    let hosts = c.attach(2).unwrap();
    fs::File::from(c.open(hosts.node, 0).unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "127.0.0.1 localhost");
}

fn is_confined(child: &Child) {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name}"))
            .trim()
            .to_owned()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapEff:", "CapPrm:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0x0800_001f, "{set}");
    }
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(field("CapAmb:"), "0000000000000000");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
    for line in mounts.lines() {
        let at = line.split(' ').nth(4).unwrap();
        assert!(at == "/" || at == "/fd" || at.starts_with("/roots/"), "{line}");
        let options = line.split(' ').nth(5).unwrap();
        assert!(options.contains("nosuid") && options.contains("nodev"), "{line}");
    }
}

/// A path that does not exist: an error with cause and remedy, and nothing is served.
fn fails_closed() {
    let (mut child, client) = start("root", Path::new("/nonexistent"));
    assert!(client.attach(0).is_err());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(text.contains("/nonexistent/tree") && text.contains("check the path"), "{text}");
}
