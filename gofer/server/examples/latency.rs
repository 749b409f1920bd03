//! Round trips to a gofer in another process (unconfined): what a guest's first open of a file costs.
//! `cargo run --release --example latency`

use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use chitin_gofer::{Limits, Root, Server};
use chitin_gofer_protocol::{Client, transport};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

const ROUNDS: u32 = 20_000;

fn main() {
    if let Some(dir) = std::env::args_os().nth(1) {
        let fd = open(dir.as_os_str(), OFlag::O_PATH, Mode::empty()).unwrap();
        let root = Root { fd, readonly: false, recursive: false };
        let server = Server::new(vec![root], "/proc/self/fd", Limits::default()).unwrap();
        server.serve(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
        return;
    }
    let dir = std::env::temp_dir().join(format!("chitin-gofer-latency-{}", std::process::id()));
    fs::create_dir_all(dir.join("usr/lib/python3/dist-packages")).unwrap();
    let path: [&[u8]; 5] = [b"usr", b"lib", b"python3", b"dist-packages", b"file"];
    fs::write(dir.join("usr/lib/python3/dist-packages/file"), "x").unwrap();
    for i in 0..1000 {
        fs::write(dir.join(format!("usr/{i}")), "").unwrap();
    }
    let (ours, theirs) = transport::channel().unwrap();
    let mut child =
        Command::new(std::env::current_exe().unwrap()).arg(&dir).stdin(Stdio::from(theirs)).spawn().unwrap();
    let client = Client::new(ours);
    let root = client.attach(0).unwrap().node;
    let file = client.walk(root, &path).unwrap().steps[4].node;

    time("host: open + close of the path", || {
        drop(fs::File::open(dir.join("usr/lib/python3/dist-packages/file")).unwrap())
    });
    time("getattr", || {
        client.getattr(file).unwrap();
    });
    time("walk of 1, known", || {
        let w = client.walk(root, &path[..1]).unwrap();
        client.forget(w.steps[0].node);
    });
    time("walk of 5, known", || {
        let w = client.walk(root, &path).unwrap();
        w.steps.iter().for_each(|s| client.forget(s.node));
    });
    time("open", || drop(client.open(file, 0).unwrap()));
    time("walk of 5 + open", || {
        let w = client.walk(root, &path).unwrap();
        drop(client.open(w.steps[4].node, 0).unwrap());
        w.steps.iter().for_each(|s| client.forget(s.node));
    });
    let (mut at, names): (usize, Vec<_>) = (0, (0..1000).map(|i| i.to_string()).collect());
    time("walk of 2, the last one new, + open + close", || {
        let w = client.walk(root, &[b"usr", names[at % 1000].as_bytes()]).unwrap();
        drop(client.open(w.steps[1].node, 0).unwrap());
        client.close(&[w.steps[0].node, w.steps[1].node]).unwrap();
        at += 1;
    });
    time("walk of a missing name", || drop(client.walk(root, &[b"missing"]).unwrap()));
    time("host: create + unlink", || {
        drop(fs::File::create_new(dir.join("new")).unwrap());
        fs::remove_file(dir.join("new")).unwrap();
    });
    time("create + unlink", || {
        let (f, fd) = client.create(root, b"new", 2, 0o644, u32::MAX, u32::MAX).unwrap();
        drop(fd);
        client.unlink(root, b"new", 0).unwrap();
        client.forget(f.node);
    });
    let usr = client.walk(root, &path[..1]).unwrap().steps[0].node;
    for attrs in [false, true] {
        let start = Instant::now();
        let mut entries = 0;
        for _ in 0..50 {
            let mut cookie = 0;
            loop {
                let batch = client.readdir(usr, cookie, attrs).unwrap();
                let Some(last) = batch.iter().last() else { break };
                cookie = last.next;
                entries += batch.len();
            }
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / entries as f64;
        println!("{each:8.2} µs  per directory entry, attributes: {attrs}");
    }
    drop(client);
    child.wait().unwrap();
    fs::remove_dir_all(&dir).unwrap();
}

fn time(what: &str, mut call: impl FnMut()) {
    (0..ROUNDS / 10).for_each(|_| call());
    let start = Instant::now();
    (0..ROUNDS).for_each(|_| call());
    println!("{:8.2} µs  {what}", start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}
