//! Every message, against what the host's file system then shows.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use chitin_gofer::Limits;
use chitin_gofer_protocol::{SetAttr, TimeSet, Timestamp, WalkEnd};
use common::{Gofer, errno};

const KEEP: u32 = u32::MAX;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn walks_tell_every_component_and_why_they_end() {
    let g = Gofer::new(Limits::default());
    fs::create_dir_all(g.dir.join("a/b")).unwrap();
    fs::write(g.dir.join("a/b/f"), "12345").unwrap();
    symlink("b/f", g.dir.join("a/link")).unwrap();
    let root = g.root();
    let walk = |names: &[&[u8]]| g.client.walk(root, names).unwrap();

    let w = walk(&[b"a", b"b", b"f"]);
    assert_eq!((w.steps.len(), &w.end), (3, &WalkEnd::Complete));
    let host = fs::metadata(g.dir.join("a/b/f")).unwrap();
    let attr = w.steps[2].attr;
    assert_eq!((attr.ino, attr.size, attr.mode), (host.ino(), 5, host.mode()));
    assert_eq!((attr.dev, attr.mtime.sec, attr.nlink), (host.dev(), host.mtime(), 1));

    let w = walk(&[b"a", b"nothing", b"f"]);
    assert_eq!((w.steps.len(), w.end), (1, WalkEnd::Errno(libc::ENOENT)));
    let w = walk(&[b"a", b"b", b"f", b"below"]);
    assert_eq!((w.steps.len(), w.end), (3, WalkEnd::NotDirectory));
    let w = walk(&[b"a", b"link", b"below"]);
    assert_eq!((w.steps.len(), w.end), (2, WalkEnd::Symlink(b"b/f".to_vec())));
    assert!(w.steps[1].attr.is_symlink());
    // Known by now, and answered the short way.
    let w = walk(&[b"a", b"link"]);
    assert_eq!(w.end, WalkEnd::Symlink(b"b/f".to_vec()));
    assert_eq!(g.client.readlink(w.steps[1].node).unwrap(), b"b/f");
    let w = walk(&[]);
    assert_eq!((w.steps.len(), w.end), (0, WalkEnd::Complete));
    assert_eq!(errno(g.client.attach(77)), libc::ENOENT);
}

#[test]
fn regular_files_come_as_descriptors_with_the_access_asked_for() {
    let g = Gofer::new(Limits::default());
    fs::write(g.dir.join("f"), "old").unwrap();
    fs::create_dir(g.dir.join("d")).unwrap();
    symlink("f", g.dir.join("l")).unwrap();
    nix::unistd::mkfifo(&g.dir.join("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let open = |name: &str, flags: i32| g.client.open(g.find(name).node, flags as u32);

    let mut text = String::new();
    fs::File::from(open("f", libc::O_RDONLY).unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    assert!(fs::File::from(open("f", libc::O_RDONLY).unwrap()).write(b"x").is_err());
    fs::File::from(open("f", libc::O_RDWR | libc::O_TRUNC).unwrap()).write_all(b"new!").unwrap();
    assert_eq!(fs::read(g.dir.join("f")).unwrap(), b"new!");
    assert_eq!(errno(open("d", libc::O_RDONLY)), libc::EISDIR);
    assert_eq!(errno(open("l", libc::O_RDONLY)), libc::ELOOP);
    assert_eq!(errno(open("p", libc::O_RDONLY)), libc::ENXIO);
    for bad in [libc::O_CREAT, libc::O_PATH, libc::O_DIRECTORY, libc::O_APPEND, libc::O_ACCMODE, i32::MIN] {
        assert_eq!(errno(open("f", bad)), libc::EINVAL, "{bad:#x}");
    }
}

#[test]
fn files_are_made_with_owner_and_mode() {
    let g = Gofer::new(Limits::default());
    let root = g.root();
    let (uid, gid) = if is_root() { (1234, 5678) } else { (KEEP, KEEP) };
    let c = &g.client;
    let stat = |name: &str| fs::symlink_metadata(g.dir.join(name)).unwrap();
    let owned = |name: &str| uid == KEEP || (stat(name).uid(), stat(name).gid()) == (uid, gid);

    let (made, fd) = c.create(root, b"f", libc::O_RDWR as u32, 0o4755, uid, gid).unwrap();
    fs::File::from(fd).write_all(b"abc").unwrap();
    assert_eq!((stat("f").mode(), stat("f").size()), (0o104755, 3));
    assert_eq!((made.attr.mode, made.attr.ino), (0o104755, stat("f").ino()));
    assert!(owned("f"));
    // A node without a descriptor of its own so far.
    assert_eq!(c.getattr(made.node).unwrap().size, 3);
    assert_eq!(errno(c.create(root, b"f", 0, 0o644, uid, gid).map(drop)), libc::EEXIST);

    c.mkdir(root, b"d", 0o2750, uid, gid).unwrap();
    assert!(stat("d").is_dir() && owned("d"));
    assert_eq!(stat("d").mode() & 0o7777, 0o2750);
    let link = c.symlink(root, b"l", b"/outside/of it", uid, gid).unwrap();
    assert_eq!(c.readlink(link.node).unwrap(), b"/outside/of it");
    assert!(owned("l"));
    c.mknod(root, b"p", libc::S_IFIFO | 0o640, 0, uid, gid).unwrap();
    assert!(stat("p").file_type().is_fifo() && owned("p"));
    c.mknod(root, b"s", libc::S_IFSOCK | 0o640, 0, uid, gid).unwrap();
    assert!(stat("s").file_type().is_socket());
    assert_eq!(
        errno(c.mknod(root, b"null", libc::S_IFCHR | 0o666, libc::makedev(1, 3), uid, gid)),
        libc::EPERM
    );
    assert_eq!(errno(c.mknod(root, b"sda", libc::S_IFBLK | 0o666, 0, uid, gid)), libc::EPERM);
    if is_root() {
        let white = c.mknod(root, b"w", libc::S_IFCHR, 0, KEEP, KEEP).unwrap();
        assert_eq!((white.attr.file_type(), white.attr.rdev), (libc::S_IFCHR, 0));
        assert_eq!(errno(c.open(white.node, 0)), libc::ENXIO);
    }
    let again = c.link(made.node, root, b"hard").unwrap();
    assert_eq!((again.attr.ino, again.attr.nlink), (stat("f").ino(), 2));
    c.link(link.node, root, b"hard link to link").unwrap();
    assert!(stat("hard link to link").is_symlink());
}

#[test]
fn names_move_and_go_and_nodes_follow() {
    let g = Gofer::new(Limits::default());
    let (root, c) = (g.root(), &g.client);
    fs::create_dir_all(g.dir.join("a/b")).unwrap();
    fs::write(g.dir.join("a/b/f"), "1").unwrap();
    fs::write(g.dir.join("x"), "22").unwrap();
    let (f, x, b) = (g.find("a/b/f"), g.find("x"), g.find("a/b"));

    c.rename(root, b"a", root, b"z", 0).unwrap();
    assert!(g.dir.join("z/b/f").exists());
    assert_eq!(errno(c.rename(root, b"x", b.node, b"f", libc::RENAME_NOREPLACE)), libc::EEXIST);
    c.rename(root, b"x", b.node, b"f", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(g.dir.join("x")).unwrap(), b"1");
    assert_eq!(errno(c.rename(root, b"x", root, b"y", libc::RENAME_WHITEOUT)), libc::EINVAL);
    c.rename(root, b"x", b.node, b"f", 0).unwrap();
    // x's file was overwritten: its node still works, as an open file would.
    assert_eq!(c.getattr(x.node).unwrap().nlink, 0);
    assert_eq!(c.getattr(f.node).unwrap().size, 1);

    assert_eq!(errno(c.unlink(b.node, b"f", libc::AT_REMOVEDIR as u32)), libc::ENOTDIR);
    c.unlink(b.node, b"f", 0).unwrap();
    assert_eq!(c.getattr(f.node).unwrap().nlink, 0);
    let z = g.find("z");
    assert_eq!(errno(c.unlink(z.node, b"b", 0)), libc::EISDIR);
    c.unlink(z.node, b"b", libc::AT_REMOVEDIR as u32).unwrap();
    assert!(!g.dir.join("z/b").exists());
    assert_eq!(errno(c.unlink(z.node, b"b", 0)), libc::ENOENT);
    assert_eq!(errno(c.mkdir(b.node, b"in the void", 0o755, KEEP, KEEP)), libc::ENOENT);
}

#[test]
fn attributes_change() {
    let g = Gofer::new(Limits::default());
    fs::write(g.dir.join("f"), "12345").unwrap();
    symlink("nowhere", g.dir.join("l")).unwrap();
    let (f, l, c) = (g.find("f").node, g.find("l").node, &g.client);
    let set = |node, change| c.setattr(node, change);

    assert_eq!(set(f, SetAttr { mode: Some(0o7601), ..SetAttr::default() }).unwrap().mode, 0o107601);
    assert_eq!(set(f, SetAttr { size: Some(2), ..SetAttr::default() }).unwrap().size, 2);
    assert_eq!(fs::read(g.dir.join("f")).unwrap(), b"12");
    let at = TimeSet::At(Timestamp { sec: 1_000_000, nsec: 7 });
    let attr = set(f, SetAttr { mtime: at, ..SetAttr::default() }).unwrap();
    assert_eq!((attr.mtime.sec, attr.mtime.nsec), (1_000_000, 7));
    assert!(attr.atime.sec > 1_000_000);
    let attr = set(f, SetAttr { mtime: TimeSet::Now, ..SetAttr::default() }).unwrap();
    assert!(attr.mtime.sec > 1_000_000);
    // A symbolic link itself, not what it points to.
    assert_eq!(set(l, SetAttr { mtime: at, ..SetAttr::default() }).unwrap().mtime.sec, 1_000_000);
    assert_eq!(errno(set(l, SetAttr { mode: Some(0), ..SetAttr::default() })), libc::EOPNOTSUPP);
    assert_eq!(errno(set(g.root(), SetAttr { size: Some(0), ..SetAttr::default() })), libc::EISDIR);
    if is_root() {
        let attr = set(l, SetAttr { uid: Some(5), gid: Some(6), ..SetAttr::default() }).unwrap();
        assert_eq!((attr.uid, attr.gid), (5, 6));
        let attr = set(f, SetAttr { uid: Some(5), mode: Some(0o4711), ..SetAttr::default() }).unwrap();
        assert_eq!((attr.uid, attr.mode), (5, 0o104711));
    }
    c.fsync(f, false).unwrap();
    c.fsync(g.root(), true).unwrap();
    assert_eq!(errno(c.fsync(l, true)), libc::EINVAL);
    let fs = c.statfs(f).unwrap();
    assert!(fs.blocks > 0 && fs.bsize >= 512 && fs.namelen >= 255, "{fs:?}");
}

#[test]
fn extended_attributes_of_the_user_only() {
    let g = Gofer::new(Limits::default());
    fs::write(g.dir.join("f"), "").unwrap();
    let (f, c) = (g.find("f").node, &g.client);
    match c.setxattr(f, b"user.a", b"value", libc::XATTR_CREATE as u32) {
        Err(error) if error.errno() == libc::EOPNOTSUPP => {
            eprintln!("SKIPPED: the temporary directory's filesystem has no user.* attributes");
            return;
        }
        outcome => outcome.unwrap(),
    }
    assert_eq!(c.getxattr(f, b"user.a").unwrap(), b"value");
    assert_eq!(errno(c.setxattr(f, b"user.a", b"", libc::XATTR_CREATE as u32)), libc::EEXIST);
    assert_eq!(errno(c.setxattr(f, b"user.a", b"", 3)), libc::EINVAL);
    assert_eq!(c.listxattr(f).unwrap(), b"user.a\0");
    c.removexattr(f, b"user.a").unwrap();
    assert_eq!(errno(c.getxattr(f, b"user.a")), libc::ENODATA);
    assert_eq!(errno(c.setxattr(f, b"trusted.overlay.opaque", b"y", 0)), libc::EPERM);
    assert_eq!(errno(c.getxattr(f, b"trusted.x")), libc::ENODATA);
    assert_eq!(errno(c.setxattr(f, b"security.selinux", b"y", 0)), libc::EOPNOTSUPP);
    assert_eq!(errno(c.setxattr(f, b"user.a\0b", b"y", 0)), libc::EINVAL);
}

#[test]
fn directories_are_read_in_batches_and_from_any_cookie() {
    let g = Gofer::new(Limits::default());
    fs::create_dir(g.dir.join("d")).unwrap();
    for i in 0..1000 {
        fs::write(g.dir.join(format!("d/file number {i}")), vec![0; i % 7]).unwrap();
    }
    let (d, c) = (g.find("d").node, &g.client);
    let mut all = Vec::new();
    let (mut cookie, mut batches) = (0, 0);
    loop {
        let batch = c.readdir(d, cookie, true).unwrap();
        let Some(last) = batch.iter().last() else { break };
        cookie = last.next;
        batches += 1;
        all.extend(batch.iter().map(|e| (e.name.to_vec(), e.next, e.ino, e.attr.unwrap())));
    }
    assert!(batches > 1);
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(all.len(), 1000);
    for (name, _, ino, attr) in &all {
        let host = fs::metadata(g.dir.join("d").join(std::str::from_utf8(name).unwrap())).unwrap();
        assert_eq!((*ino, attr.ino, attr.size), (host.ino(), host.ino(), host.size()));
    }
    // In the middle of a batch, which needs a seek.
    let whole = c.readdir(d, 0, false).unwrap();
    let whole: Vec<_> = whole.iter().map(|e| (e.name.to_vec(), e.next)).collect();
    let rest = c.readdir(d, whole[9].1, false).unwrap();
    assert_eq!(rest.iter().next().unwrap().name, &whole[10].0[..]);
    assert!(rest.iter().all(|e| e.attr.is_none() && e.kind == libc::DT_REG));
    fs::create_dir(g.dir.join("empty")).unwrap();
    assert!(c.readdir(g.find("empty").node, 0, true).unwrap().is_empty());
    assert_eq!(errno(c.readdir(g.find("single").node, 0, true)), libc::ENOTDIR);
}

#[test]
fn a_read_only_root_refuses_every_change() {
    let g = Gofer::new(Limits::default());
    fs::set_permissions(g.dir.join("single"), fs::Permissions::from_mode(0o666)).unwrap();
    let c = &g.client;
    let root = c.attach(1).unwrap().node;
    let f = c.walk(root, &[b"single"]).unwrap().steps[0].node;
    assert!(c.open(f, libc::O_RDONLY as u32).is_ok());
    let refused = [
        c.open(f, libc::O_RDWR as u32).map(drop),
        c.open(f, libc::O_WRONLY as u32).map(drop),
        c.open(f, (libc::O_RDONLY | libc::O_TRUNC) as u32).map(drop),
        c.create(root, b"n", 0, 0o644, KEEP, KEEP).map(drop),
        c.mkdir(root, b"n", 0o755, KEEP, KEEP).map(drop),
        c.symlink(root, b"n", b"t", KEEP, KEEP).map(drop),
        c.mknod(root, b"n", libc::S_IFIFO, 0, KEEP, KEEP).map(drop),
        c.link(f, root, b"n").map(drop),
        c.rename(root, b"single", root, b"n", 0),
        c.unlink(root, b"single", 0),
        c.setattr(f, SetAttr { mode: Some(0), ..SetAttr::default() }).map(drop),
        c.setxattr(f, b"user.a", b"", 0),
        c.removexattr(f, b"user.a"),
    ];
    for (i, outcome) in refused.into_iter().enumerate() {
        assert_eq!(errno(outcome), libc::EROFS, "change {i}");
    }
    // Nor is it a way to write that the same directory is also a writable root.
    assert_eq!(errno(c.rename(root, b"single", g.root(), b"n", 0)), libc::EROFS);
    assert_eq!(errno(c.link(f, g.root(), b"n")), libc::EXDEV);
    assert_eq!(fs::read(g.dir.join("single")).unwrap(), b"one file");
}

#[test]
fn a_single_file_can_be_a_root() {
    let g = Gofer::new(Limits::default());
    let root = g.client.attach(2).unwrap();
    assert!(root.attr.is_file());
    let mut text = String::new();
    fs::File::from(g.client.open(root.node, 0).unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "one file");
    assert_eq!(errno(g.client.walk(root.node, &[b"x"])), libc::ENOTDIR);
    assert_eq!(errno(g.client.bind(g.root(), b"sock")), libc::EOPNOTSUPP);
    assert_eq!(errno(g.client.connect(root.node)), libc::EOPNOTSUPP);
}

#[test]
fn calls_run_in_parallel_over_a_bounded_number_of_channels() {
    let g = Gofer::new(Limits::default());
    fs::write(g.dir.join("f"), "").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                for _ in 0..25 {
                    g.client.forget(g.find("f").node);
                }
            });
        }
    });
    g.client.flush_forgotten().unwrap();
    // The roots remain; f is closed by everybody.
    assert_eq!(g.server.usage().0, 3);
}

#[test]
fn a_dead_gofer_is_reported_as_gone() {
    let (ours, theirs) = chitin_gofer_protocol::transport::channel().unwrap();
    drop(ours);
    let client = chitin_gofer_protocol::Client::new(theirs);
    assert_eq!(client.attach(0).unwrap_err(), chitin_gofer_protocol::GoferError::Gone);
    assert!(client.is_gone());
}
