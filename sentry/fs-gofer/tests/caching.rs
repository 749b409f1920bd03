//! What is cached and what is not, node accounting, many files, a dead gofer.

mod common;

use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_fs_gofer::Cache;
use chitin_gofer_protocol::{Client, transport};
use chitin_mm::SliceSource;
use chitin_vfs::{FileSystem, NewKind};
use common::{World, read_all};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn exclusive_trees_ask_once() {
    let mut world = World::new();
    for i in 0..20 {
        std::fs::write(world.host(&format!("f{i:02}")), "x").unwrap();
    }
    std::os::unix::fs::symlink("f00", world.host("link")).unwrap();
    let counted = Counted::over(&mut world);
    let guest = world.guest(Cache::Exclusive);
    let round = || {
        for i in 0..20 {
            let name = format!("f{i:02}");
            assert_eq!(guest.stat(&name).unwrap().size, 1);
            assert_eq!(guest.get(&name).unwrap(), b"x");
            assert_eq!(guest.stat(&name).unwrap().size, 1);
            assert!(matches!(
                guest.ctx.getxattr(&guest.target(&name), b"security.capability"),
                Err(Errno::ENODATA | Errno::EOPNOTSUPP)
            ));
        }
        assert_eq!(guest.get("link").unwrap(), b"x");
        assert_eq!(guest.stat("missing").unwrap_err(), Errno::ENOENT);
        assert_eq!(guest.list("/", 7).len(), 21);
    };
    round();
    let first = counted.get();
    // Per file: a walk, an open, an attribute; then the link, the missing name and two requests for the listing.
    assert!(first <= 3 * 20 + 6, "{first} requests");
    round();
    assert_eq!(counted.get(), first);
    // Our own changes are seen without asking for everything again.
    guest.put("f00", b"longer");
    assert_eq!(guest.stat("f00").unwrap().size, 6);
    // One request, for a descriptor that can write.
    assert_eq!(counted.get(), first + 1);
    guest.put("new", b"n");
    assert_eq!(guest.list("/", 1000).len(), 22);
    guest.unlink("f01").unwrap();
    assert_eq!(guest.list("/", 1000).len(), 21);
    assert_eq!(guest.stat("f01").unwrap_err(), Errno::ENOENT);
}

#[test]
fn shared_trees_see_the_host() {
    let world = World::new();
    let guest = world.guest(Cache::Shared);
    let settle = || std::thread::sleep(Duration::from_millis(1));
    assert_eq!(guest.stat("f").unwrap_err(), Errno::ENOENT);
    std::fs::write(world.host("f"), "one").unwrap();
    assert_eq!(guest.get("f").unwrap(), b"one");
    let old = guest.open("f", O_RDONLY).unwrap();
    std::fs::write(world.host("f"), "longer").unwrap();
    settle();
    assert_eq!(guest.stat("f").unwrap().size, 6);
    assert_eq!(old.inode().attr().unwrap().size, 6);
    assert_eq!(old.ops().size().unwrap(), 6);
    // Replaced by another file, as editors do.
    std::fs::write(world.host("g"), "replaced").unwrap();
    std::fs::rename(world.host("g"), world.host("f")).unwrap();
    settle();
    assert_eq!(guest.get("f").unwrap(), b"replaced");
    assert_eq!(read_all(&old), b"longer");
    std::fs::remove_file(world.host("f")).unwrap();
    settle();
    assert_eq!(guest.get("f").unwrap_err(), Errno::ENOENT);
    assert_eq!(guest.list("/", 100), Vec::<String>::new());
    // A directory moved by the host is found by its new name; what was open stays usable.
    std::fs::create_dir_all(world.host("d/e")).unwrap();
    std::fs::write(world.host("d/e/f"), "in").unwrap();
    let inner = guest.path("d/e").unwrap();
    std::fs::rename(world.host("d"), world.host("moved")).unwrap();
    settle();
    assert_eq!(guest.get("moved/e/f").unwrap(), b"in");
    assert_eq!(guest.stat("d").unwrap_err(), Errno::ENOENT);
    settle();
    assert_eq!(inner.inode().attr().unwrap().ino, guest.stat("moved/e").unwrap().ino);
    // Appending of host and guest together.
    std::fs::write(world.host("log"), "").unwrap();
    let log = guest.open("log", O_WRONLY | O_APPEND).unwrap();
    let mut theirs = std::fs::OpenOptions::new().append(true).open(world.host("log")).unwrap();
    for _ in 0..10 {
        log.write(&mut SliceSource::new(b"guest\n")).unwrap();
        std::io::Write::write_all(&mut theirs, b"host\n").unwrap();
    }
    assert_eq!(std::fs::read(world.host("log")).unwrap(), b"guest\nhost\n".repeat(10));
}

#[test]
fn every_node_is_given_back() {
    let world = World::new();
    for cache in [Cache::Exclusive, Cache::Shared] {
        let before = world.server.usage().0;
        {
            let guest = world.guest(cache);
            let root = guest.root().clone();
            guest.ctx.make(&root, b"d", NewKind::Directory, 0o755).unwrap();
            for i in 0..300 {
                let name = format!("d/f{i}");
                guest.put(&name, b"x");
                guest.stat(&name).unwrap();
                if i % 3 == 0 {
                    guest.ctx.link(&guest.target(&name), &root, format!("l{i}").as_bytes()).unwrap();
                    guest.rename(&name, &format!("r{i}"), 0).unwrap();
                } else if i % 3 == 1 {
                    guest.unlink(&name).unwrap();
                } else {
                    guest.rename(&name, "d/same", 0).unwrap();
                }
                let _ = guest.stat("d/none/deeper");
            }
            assert_eq!(guest.list("d", 100), ["same"]);
            guest.ctx.make(&root, b"s", NewKind::Symlink(b"d/same".to_vec()), 0o777).unwrap();
            guest.get("s").unwrap();
            assert!(guest.fs.live_inodes() >= 1);
            for i in (0..300).step_by(3) {
                guest.unlink(&format!("l{i}")).unwrap();
                guest.unlink(&format!("r{i}")).unwrap();
            }
            guest.unlink("s").unwrap();
            guest.unlink("d/same").unwrap();
            guest.ctx.rmdir(&root, b"d").unwrap();
            guest.fs.statfs().unwrap();
        }
        world.client.flush_forgotten().unwrap();
        assert_eq!(world.server.usage().0, before, "nodes are left at the gofer ({cache:?})");
    }
}

#[test]
fn ten_thousand_files() {
    let world = World::new();
    let guest = world.guest(Cache::Exclusive);
    let shared = world.guest(Cache::Shared);
    let names: BTreeSet<String> = (0..10_000).map(|i| format!("file-{i:05}")).collect();
    for name in &names {
        drop(guest.open(name, O_WRONLY | O_CREAT | O_EXCL).unwrap());
    }
    for room in [13, 5000, 100_000] {
        assert!(guest.list("/", room).iter().eq(&names), "exclusive, {room} at a time");
        assert!(shared.list("/", room).iter().eq(&names), "shared, {room} at a time");
    }
    // Kept descriptors are bounded, whatever is used.
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 8000, "{open} descriptors are open");
    for name in &names {
        guest.unlink(name).unwrap();
    }
    assert!(guest.list("/", 1000).is_empty());
    assert!(guest.fs.live_inodes() < 100);
}

#[test]
fn concurrent_use() {
    let world = World::new();
    for cache in [Cache::Exclusive, Cache::Shared] {
        let guest = world.guest(cache);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let guest = &guest;
                scope.spawn(move || {
                    for i in 0..60 {
                        let name = format!("t{thread}-{i}");
                        guest.put(&name, name.as_bytes());
                        assert_eq!(guest.get(&name).unwrap(), name.as_bytes());
                        assert_eq!(guest.stat(&name).unwrap().size, name.len() as u64);
                        guest.put("common", &[b'x'; 100]);
                        guest.rename(&name, "target", 0).unwrap();
                        let size = guest.stat("common").unwrap().size;
                        assert!(size == 0 || size == 100);
                    }
                });
            }
        });
        assert_eq!(guest.list("/", 100), ["common", "target"]);
        assert_eq!(guest.stat("common").unwrap().size, 100);
        guest.unlink("common").unwrap();
        guest.unlink("target").unwrap();
    }
}

#[test]
fn a_dead_gofer_is_an_io_error() {
    let (ours, theirs) = transport::channel().unwrap();
    drop(ours);
    let client = Arc::new(Client::new(theirs));
    assert!(chitin_fs_gofer::GoferFs::attach(client, 0, Default::default()).is_err());
    // It dies while in use: what is open goes on, the rest fails and does not hang.
    let mut world = World::new();
    std::fs::write(world.host("f"), "x").unwrap();
    std::fs::write(world.host("g"), "x").unwrap();
    let counted = Counted::over(&mut world);
    let guest = world.guest(Cache::Exclusive);
    let file = guest.open("f", O_RDWR).unwrap();
    counted.1.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(guest.get("g").err(), Some(Errno::EIO));
        assert_eq!(guest.unlink("f").err(), Some(Errno::EIO));
        assert_eq!(guest.open("new", O_RDWR | O_CREAT).err(), Some(Errno::EIO));
    }
    assert_eq!(read_all(&file), b"x");
    assert_eq!(file.inode().attr().unwrap().size, 1);
}

/// Counts the requests between a client and the gofer by standing in the middle.
/// With the second field set it plays dead.
struct Counted(Arc<std::sync::atomic::AtomicUsize>, Arc<std::sync::atomic::AtomicBool>);

impl Counted {
    /// Gives the world a client of one conversation, whose packets are counted on their way.
    fn over(world: &mut World) -> Counted {
        use std::os::fd::AsFd;
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let dead = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let dying = dead.clone();
        let relay = move |count: Arc<std::sync::atomic::AtomicUsize>, inside: std::os::fd::OwnedFd| {
            let (ours, theirs) = transport::channel().unwrap();
            let server = ours;
            let dying = dying.clone();
            std::thread::spawn(move || {
                let mut inbox = transport::Inbox::default();
                let mut buffer = vec![0; chitin_gofer_protocol::REQUEST_MAX];
                while let Ok(packet) = transport::recv(server.as_fd(), &mut buffer) {
                    count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if dying.load(std::sync::atomic::Ordering::SeqCst) {
                        return;
                    }
                    if transport::send(inside.as_fd(), packet, None).is_err() {
                        return;
                    }
                    let Ok((reply, fd)) = inbox.recv(inside.as_fd()) else { return };
                    if transport::send(server.as_fd(), reply, fd.as_ref().map(|fd| fd.as_fd())).is_err() {
                        return;
                    }
                }
            });
            theirs
        };
        let (inside, outside) = transport::channel().unwrap();
        let serving = world.server.clone();
        std::thread::spawn(move || serving.serve(inside));
        // The control channel hands a second channel out; that one is relayed, too.
        let control = relay_control(outside, relay, count.clone());
        world.client = Arc::new(Client::with_channels(control, 1));
        Counted(count, dead)
    }

    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Relays the control channel, and every channel that it hands out through `relay`.
fn relay_control(
    inside: std::os::fd::OwnedFd,
    relay: impl Fn(Arc<std::sync::atomic::AtomicUsize>, std::os::fd::OwnedFd) -> std::os::fd::OwnedFd
    + Send
    + 'static,
    count: Arc<std::sync::atomic::AtomicUsize>,
) -> std::os::fd::OwnedFd {
    use std::os::fd::AsFd;
    let (server, theirs) = transport::channel().unwrap();
    std::thread::spawn(move || {
        let mut inbox = transport::Inbox::default();
        let mut buffer = vec![0; chitin_gofer_protocol::REQUEST_MAX];
        while let Ok(packet) = transport::recv(server.as_fd(), &mut buffer) {
            if transport::send(inside.as_fd(), packet, None).is_err() {
                return;
            }
            let Ok((reply, fd)) = inbox.recv(inside.as_fd()) else { return };
            let fd = fd.map(|fd| relay(count.clone(), fd));
            if transport::send(server.as_fd(), reply, fd.as_ref().map(|fd| fd.as_fd())).is_err() {
                return;
            }
        }
    });
    theirs
}
