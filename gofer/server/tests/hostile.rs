//! A client that breaks the rules, a host that changes under the gofer, and tight limits.

mod common;

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chitin_gofer::Limits;
use chitin_gofer_protocol::transport::{self, Inbox};
use chitin_gofer_protocol::{NodeId, REQUEST_MAX, ReplyHead, WalkEnd};
use common::{Gofer, errno};

const KEEP: u32 = u32::MAX;

#[test]
fn ids_that_were_never_given_out_are_refused() {
    let g = Gofer::new(Limits::default());
    let root = g.root();
    let f = g.find("single").node;
    g.client.close(&[f, f, f, 12345, u64::MAX]).unwrap();
    for id in [f, 0, 3, u64::MAX, root ^ (1 << 32), root + 1, root + 2, root + 1000] as [NodeId; 8] {
        assert_eq!(errno(g.client.getattr(id)), libc::EBADF, "{id:#x}");
        assert_eq!(errno(g.client.open(id, 0)), libc::EBADF);
        assert_eq!(errno(g.client.walk(id, &[b"single"])), libc::EBADF);
        assert_eq!(errno(g.client.unlink(id, b"single", 0)), libc::EBADF);
    }
    assert!(g.client.getattr(root).is_ok());
    // Closing a root as often as one likes does not take it from later attaches.
    g.client.close(&[root; 50]).unwrap();
    assert_eq!(errno(g.client.getattr(root)), libc::EBADF);
    assert!(g.client.getattr(g.root()).is_ok());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let g = Gofer::new(Limits::default());
    let root = g.root();
    let c = &g.client;
    for name in
        [&b".."[..], b".", b"", b"a/b", b"/etc/passwd", b"../chitin-gofer-escaped", b"nul\0", b"single/"]
    {
        assert_eq!(c.walk(root, &[name]).unwrap().end, WalkEnd::Errno(libc::EINVAL));
        assert_eq!(errno(c.create(root, name, 0, 0o644, KEEP, KEEP).map(drop)), libc::EINVAL);
        assert_eq!(errno(c.mkdir(root, name, 0o755, KEEP, KEEP)), libc::EINVAL);
        assert_eq!(errno(c.symlink(root, name, b"t", KEEP, KEEP)), libc::EINVAL);
        assert_eq!(errno(c.mknod(root, name, libc::S_IFIFO, 0, KEEP, KEEP)), libc::EINVAL);
        assert_eq!(errno(c.link(root, root, name)), libc::EINVAL);
        assert_eq!(errno(c.rename(root, name, root, b"y", 0)), libc::EINVAL);
        assert_eq!(errno(c.rename(root, b"single", root, name, 0)), libc::EINVAL);
        assert_eq!(errno(c.unlink(root, name, 0)), libc::EINVAL);
    }
    assert!(!g.dir.with_file_name("chitin-gofer-escaped").exists());
}

#[test]
fn symbolic_links_are_never_followed() {
    let g = Gofer::new(Limits::default());
    symlink("/", g.dir.join("slash")).unwrap();
    symlink("/etc/hostname", g.dir.join("file")).unwrap();
    let (root, c) = (g.root(), &g.client);
    let w = c.walk(root, &[b"slash", b"etc"]).unwrap();
    assert_eq!((w.steps.len(), &w.end), (1, &WalkEnd::Symlink(b"/".to_vec())));
    let slash = w.steps[0].node;
    assert_eq!(errno(c.walk(slash, &[b"etc"])), libc::ENOTDIR);
    assert_eq!(errno(c.readdir(slash, 0, false)), libc::ENOTDIR);
    assert_eq!(errno(c.mkdir(slash, b"x", 0o755, KEEP, KEEP)), libc::ENOTDIR);
    assert_eq!(errno(c.open(g.find("file").node, 0)), libc::ELOOP);
}

/// The host swaps a file, a directory and links into the outside at one name, as fast as it can. What the
/// gofer opens must be the inside file each time.
#[test]
fn a_symlink_swap_race_never_leads_outside() {
    let g = Gofer::new(Limits { open: 16, ..Limits::default() });
    let outside = g.dir.with_extension("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), "SECRET").unwrap();
    fs::create_dir(g.dir.join("d")).unwrap();
    fs::write(g.dir.join("d/f"), "inside").unwrap();
    symlink(&outside, g.dir.join("other")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, dir) = (Arc::clone(&stop), common::o_path(&g.dir));
        std::thread::spawn(move || {
            use nix::fcntl::{RenameFlags, renameat2};
            let mut swaps = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                renameat2(&dir, "d", &dir, "other", RenameFlags::RENAME_EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        })
    };
    let root = g.root();
    let (mut opened, mut stopped) = (0, 0);
    for round in 0..3000 {
        let w = g.client.walk(root, &[b"d", b"f"]).unwrap();
        if let (WalkEnd::Complete, Some(f)) = (&w.end, w.steps.get(1)) {
            match g.client.open(f.node, 0) {
                Ok(fd) => {
                    let mut text = String::new();
                    fs::File::from(fd).read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside");
                    opened += 1;
                }
                Err(error) => assert_eq!(error.errno(), libc::ESTALE),
            }
        } else {
            stopped += 1;
        }
        if round % 10 == 0 {
            // Lets descriptors be evicted, so that places are resolved again during the race.
            for i in 0..16 {
                let _ = g.client.mkdir(root, format!("e{i}").as_bytes(), 0o755, KEEP, KEEP);
                let _ = g.client.walk(root, &[format!("e{i}").as_bytes()]);
            }
        }
        let nodes: Vec<_> = w.steps.iter().map(|s| s.node).collect();
        if round % 3 == 0 {
            g.client.close(&nodes).unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swapper.join().unwrap();
    fs::remove_dir_all(&outside).unwrap();
    assert!(
        opened > 0 && stopped > 0,
        "the race did not happen: {opened} opened, {stopped} not, {swaps} swaps"
    );
}

#[test]
fn malformed_packets_are_answered_and_do_no_harm() {
    let g = Gofer::new(Limits::default());
    let (ours, theirs) = transport::channel().unwrap();
    let server = Arc::clone(&g.server);
    let thread = std::thread::spawn(move || server.serve(ours));
    let mut inbox = Inbox::default();
    let mut state = 42_u64;
    let mut refused = 0;
    for round in 0..3000_usize {
        let len = if round == 0 { REQUEST_MAX } else { 1 + round % 90 };
        let mut packet: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 24) as u8
            })
            .collect();
        // A known request, mostly; but no new channels, which would be real.
        packet[0] = 2 + (round % 24) as u8;
        if let Some(high) = packet.get_mut(1) {
            *high = 0;
        }
        // With a descriptor, which the gofer must not take in.
        transport::send(theirs.as_fd(), &packet, Some(theirs.as_fd())).unwrap();
        let (reply, fd) = inbox.recv(theirs.as_fd()).unwrap();
        assert!(fd.is_none());
        refused += u32::from(matches!(ReplyHead::decode(reply).unwrap(), Err(libc::EPROTO)));
    }
    assert!(refused > 1000, "{refused}");
    transport::send(theirs.as_fd(), &vec![3; REQUEST_MAX + 1], None).unwrap();
    let (reply, _) = inbox.recv(theirs.as_fd()).unwrap();
    assert_eq!(ReplyHead::decode(reply).unwrap().unwrap_err(), libc::EPROTO);
    drop(theirs);
    thread.join().unwrap();
    assert_eq!(fs::read(g.dir.join("single")).unwrap(), b"one file");
}

#[test]
fn the_number_of_nodes_and_channels_is_bounded() {
    let g = Gofer::new(Limits { nodes: 40, open: 16 });
    let root = g.root();
    for i in 0..60 {
        fs::write(g.dir.join(format!("f{i}")), "").unwrap();
    }
    let mut full = 0;
    for i in 0..60 {
        match g.client.walk(root, &[format!("f{i}").as_bytes()]).unwrap().end {
            WalkEnd::Complete => {}
            end => {
                assert_eq!(end, WalkEnd::Errno(libc::ENFILE));
                full += 1;
            }
        }
    }
    assert_eq!(full, 23);
    let (nodes, open) = g.server.usage();
    assert!(nodes == 40 && open <= 16, "{nodes} {open}");
    // What cannot become a node is not left behind either.
    assert_eq!(errno(g.client.create(root, b"new", 0, 0o644, KEEP, KEEP).map(drop)), libc::ENFILE);
    assert_eq!(errno(g.client.mkdir(root, b"new", 0o755, KEEP, KEEP)), libc::ENFILE);
    assert!(!g.dir.join("new").exists());

    let (ours, theirs) = transport::channel().unwrap();
    let server = Arc::clone(&g.server);
    std::thread::spawn(move || server.serve(ours));
    let mut held = Vec::new();
    let mut inbox = Inbox::default();
    loop {
        transport::send(theirs.as_fd(), &1_u16.to_le_bytes(), None).unwrap();
        let (reply, fd) = inbox.recv(theirs.as_fd()).unwrap();
        match ReplyHead::decode(reply).unwrap() {
            Ok(_) => held.push(fd.unwrap()),
            Err(errno) => {
                assert_eq!(errno, libc::EAGAIN);
                break;
            }
        }
        assert!(held.len() < 40);
    }
}

#[test]
fn files_without_a_descriptor_are_found_again_or_stale() {
    let g = Gofer::new(Limits { open: 16, ..Limits::default() });
    let (root, c) = (g.root(), &g.client);
    fs::create_dir_all(g.dir.join("a/b/c")).unwrap();
    let mut files = Vec::new();
    for i in 0..200 {
        let name = format!("f{i}");
        fs::write(g.dir.join("a/b/c").join(&name), name.as_bytes()).unwrap();
        files.push((name.clone(), g.find(&format!("a/b/c/{name}")).node));
    }
    assert!(g.server.usage().1 <= 16);
    let read = |node| -> Result<String, i32> {
        let mut text = String::new();
        let fd = c.open(node, 0).map_err(|e| e.errno())?;
        fs::File::from(fd).read_to_string(&mut text).unwrap();
        Ok(text)
    };
    for (name, node) in &files {
        assert_eq!(read(*node).as_ref(), Ok(name));
    }
    // Through the gofer, directories can be renamed: the places are known.
    let a = g.find("a").node;
    c.rename(a, b"b", root, b"moved", 0).unwrap();
    for (name, node) in &files {
        assert_eq!(read(*node).as_ref(), Ok(name));
    }
    // Behind its back they cannot; nor is another file at the place taken for the one that was there.
    let (name, replaced) = files[0].clone();
    fs::rename(g.dir.join("moved/c").join(&name), g.dir.join("aside")).unwrap();
    fs::write(g.dir.join("moved/c").join(&name), "another").unwrap();
    assert_eq!(read(replaced), Err(libc::ESTALE));
    let found = g.find(&format!("moved/c/{name}")).node;
    assert_eq!(read(found).as_deref(), Ok("another"));
    // A deleted file is held on to when it goes.
    let dir = g.find("moved/c").node;
    let (name, gone) = files[1].clone();
    c.unlink(dir, name.as_bytes(), 0).unwrap();
    for (name, node) in &files[2..] {
        assert_eq!(read(*node).as_ref(), Ok(name));
    }
    assert_eq!(read(gone), Ok(name));
    let nodes: Vec<_> = files.iter().map(|f| f.1).chain([found, dir, a, root, root]).collect();
    c.close(&nodes).unwrap();
    assert_eq!(g.server.usage(), (3, 0));
}
