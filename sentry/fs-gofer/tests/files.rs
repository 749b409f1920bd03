//! Files, names and attributes through the VFS, on the host's side checked by plain system calls.

mod common;

use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_fs_gofer::{Cache, GoferFs, GoferOptions};
use chitin_mm::SliceSource;
use chitin_vfs::ops::Times;
use chitin_vfs::{FileKind, FileSystem, Mappable, NewKind, SetTime};
use common::{Guest, World, read_all};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const BOTH: [Cache; 2] = [Cache::Exclusive, Cache::Shared];

#[test]
fn content_goes_both_ways() {
    for cache in BOTH {
        let world = World::new();
        let guest = world.guest(cache);
        let big: Vec<u8> = (0..700_000u32).map(|i| (i * 7 % 251) as u8).collect();
        guest.put("big", &big);
        assert_eq!(std::fs::read(world.host("big")).unwrap(), big);
        assert_eq!(guest.get("big").unwrap(), big);
        assert_eq!(guest.stat("big").unwrap().size, 700_000);
        assert_eq!(guest.get("none").unwrap_err(), Errno::ENOENT);
        std::fs::write(world.host("theirs"), "from outside").unwrap();
        if cache == Cache::Shared {
            assert_eq!(guest.get("theirs").unwrap(), b"from outside");
        }
        // Positions, holes, truncation.
        let file = guest.open("sparse", O_RDWR | O_CREAT | O_EXCL).unwrap();
        assert_eq!(file.write_at(1 << 20, &mut SliceSource::new(b"end")).unwrap(), 3);
        assert_eq!(file.ops().size().unwrap(), (1 << 20) + 3);
        assert_eq!(file.ops().seek_hole(0, true).unwrap(), 1 << 20);
        assert_eq!(file.ops().seek_hole(0, false).unwrap(), 0);
        assert_eq!(file.ops().seek_hole(1 << 21, true), Err(Errno::ENXIO));
        guest.ctx.set_size(file.inode(), file.path(), 5).unwrap();
        assert_eq!(file.inode().attr().unwrap().size, 5);
        file.ops().fallocate(0, 0, 8192).unwrap();
        assert_eq!(guest.stat("sparse").unwrap().size, 8192);
        file.ops().fsync(true).unwrap();
        guest.fs.sync().unwrap();
        assert_eq!(guest.open("sparse", O_RDWR | O_CREAT | O_EXCL).err(), Some(Errno::EEXIST));
        assert_eq!(file.ops().read(u64::MAX, &mut [0u8; 4].as_mut_slice()), Err(Errno::EINVAL));
    }
}

#[test]
fn appends_do_not_overlap() {
    let world = World::new();
    for (cache, name) in [(Cache::Exclusive, "exclusive"), (Cache::Shared, "shared")] {
        let guest = world.guest(cache);
        guest.put(name, b"head\n");
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let file = guest.open(name, O_WRONLY | O_APPEND).unwrap();
                scope.spawn(move || {
                    for _ in 0..100 {
                        let line = [b'a' + writer; 9];
                        file.write(&mut SliceSource::new(&line)).unwrap();
                        // The position is the end of what this one wrote.
                        assert_eq!((*file.position() - 5) % 9, 0);
                    }
                });
            }
        });
        let content = guest.get(name).unwrap();
        assert_eq!(content.len(), 5 + 4 * 100 * 9);
        assert!(content[5..].chunks(9).all(|line| line.iter().all(|&b| b == line[0])));
        // pwrite of an appending description appends, too.
        let file = guest.open(name, O_RDWR | O_APPEND).unwrap();
        file.write_at(0, &mut SliceSource::new(b"tail")).unwrap();
        assert!(guest.get(name).unwrap().ends_with(b"tail"));
    }
}

#[test]
fn names() {
    for cache in BOTH {
        let world = World::new();
        let guest = world.guest(cache);
        let root = guest.root().clone();
        guest.ctx.make(&root, b"d", NewKind::Directory, 0o777).unwrap();
        guest.ctx.make(&root, b"d/sub/", NewKind::Directory, 0o700).unwrap();
        guest.put("d/sub/f", b"1");
        guest.ctx.make(&root, b"d/link", NewKind::Symlink(b"sub/f".to_vec()), 0o777).unwrap();
        guest.ctx.make(&root, b"d/fifo", NewKind::Fifo, 0o600).unwrap();
        guest.ctx.make(&root, b"d/sock", NewKind::Socket, 0o600).unwrap();
        let device = NewKind::Device { kind: FileKind::CharDevice, rdev: 0x103 };
        assert_eq!(guest.ctx.make(&root, b"d/null", device, 0o666).err(), Some(Errno::EPERM));
        assert_eq!(guest.list("d", 1000), ["fifo", "link", "sock", "sub"]);
        assert_eq!(guest.stat("d/fifo").unwrap().kind, FileKind::Fifo);
        assert_eq!(guest.stat("d/sock").unwrap().kind, FileKind::Socket);
        assert_eq!(guest.get("d/link").unwrap(), b"1");
        assert_eq!(std::fs::metadata(world.host("d")).unwrap().mode() & 0o7777, 0o755);
        // link
        let target = guest.target("d/sub/f");
        guest.ctx.link(&target, &root, b"hard").unwrap();
        assert_eq!(guest.stat("hard").unwrap().nlink, 2);
        assert_eq!(guest.stat("d/sub/f").unwrap().ino, guest.stat("hard").unwrap().ino);
        assert!(std::ptr::eq(
            std::sync::Arc::as_ptr(guest.path("hard").unwrap().inode()).cast::<u8>(),
            std::sync::Arc::as_ptr(guest.path("d/sub/f").unwrap().inode()).cast::<u8>()
        ));
        guest.unlink("d/sub/f").unwrap();
        assert_eq!(guest.stat("hard").unwrap().nlink, 1);
        assert_eq!(guest.get("hard").unwrap(), b"1");
        // rename
        guest.rename("hard", "d/sub/g", 0).unwrap();
        assert_eq!(guest.stat("hard").unwrap_err(), Errno::ENOENT);
        assert_eq!(std::fs::read(world.host("d/sub/g")).unwrap(), b"1");
        guest.put("h", b"2");
        assert_eq!(guest.rename("h", "d/sub/g", RENAME_NOREPLACE), Err(Errno::EEXIST));
        guest.rename("h", "d/sub/g", RENAME_EXCHANGE).unwrap();
        assert_eq!((guest.get("h").unwrap(), guest.get("d/sub/g").unwrap()), (b"1".to_vec(), b"2".to_vec()));
        let replaced = guest.open("d/sub/g", O_RDONLY).unwrap();
        guest.rename("h", "d/sub/g", 0).unwrap();
        assert_eq!(read_all(&replaced), b"2");
        assert_eq!(replaced.inode().attr().unwrap().nlink, 0);
        assert_eq!(guest.get("d/sub/g").unwrap(), b"1");
        guest.rename("d/sub", "moved", 0).unwrap();
        assert_eq!(guest.get("moved/g").unwrap(), b"1");
        // removal
        assert_eq!(guest.ctx.rmdir(&root, b"moved"), Err(Errno::ENOTEMPTY));
        guest.unlink("moved/g").unwrap();
        guest.ctx.rmdir(&root, b"moved").unwrap();
        assert_eq!(guest.stat("moved").unwrap_err(), Errno::ENOENT);
        assert!(!world.host("moved").exists());
    }
}

#[test]
fn deleted_files_live_on_while_open() {
    for cache in BOTH {
        let world = World::new();
        let guest = world.guest(cache);
        guest.put("f", b"content");
        let file = guest.open("f", O_RDWR).unwrap();
        guest.unlink("f").unwrap();
        assert_eq!(file.inode().attr().unwrap().nlink, 0);
        assert_eq!(read_all(&file), b"content");
        file.write(&mut SliceSource::new(b"more")).unwrap();
        assert_eq!(file.inode().attr().unwrap().size, 11);
        guest.ctx.set_size(file.inode(), file.path(), 3).unwrap();
        assert_eq!(file.inode().attr().unwrap().size, 3);
        // A new file of that name is another one, even if the host uses the inode number again.
        guest.put("f", b"new");
        assert!(!std::sync::Arc::ptr_eq(file.inode(), guest.path("f").unwrap().inode()));
        assert_eq!(guest.stat("f").unwrap().nlink, 1);
    }
}

#[test]
fn attributes() {
    for cache in BOTH {
        let world = World::new();
        let guest = world.guest(cache);
        guest.put("f", b"x");
        let target = guest.target("f");
        guest.ctx.chmod(&target, 0o4751).unwrap();
        assert_eq!(guest.stat("f").unwrap().perm, 0o4751);
        assert_eq!(std::fs::metadata(world.host("f")).unwrap().permissions().mode() & 0o7777, 0o4751);
        guest.ctx.chown(&target, Some(1234), Some(2345)).unwrap();
        let attr = guest.stat("f").unwrap();
        assert_eq!((attr.uid, attr.gid, attr.perm), (1234, 2345, 0o751));
        let at = |sec| Some(SetTime::At(chitin_abi::time::Timespec { tv_sec: sec, tv_nsec: 5 }));
        guest.ctx.set_times(&target, Times { atime: at(1000), mtime: at(2000) }).unwrap();
        let attr = guest.stat("f").unwrap();
        assert_eq!((attr.atime.tv_sec, attr.mtime.tv_sec, attr.mtime.tv_nsec), (1000, 2000, 5));
        // A write shows in the times at once.
        let file = guest.open("f", O_RDWR).unwrap();
        file.write(&mut SliceSource::new(b"yz")).unwrap();
        let attr = guest.stat("f").unwrap();
        assert!(attr.mtime.tv_sec > 1_000_000 && attr.size == 2 && attr.uid == 1234);
        let host = std::fs::metadata(world.host("f")).unwrap();
        assert_eq!((attr.mtime.tv_sec, attr.mtime.tv_nsec), (host.mtime(), host.mtime_nsec()));
        // A read shows in the access time (relatime: it was before the modification).
        guest.get("f").unwrap();
        assert_eq!(
            guest.stat("f").unwrap().atime.tv_sec,
            std::fs::metadata(world.host("f")).unwrap().atime()
        );
        // New names show in their directory.
        let before = guest.root().inode().attr().unwrap();
        guest.ctx.make(guest.root(), b"sub", NewKind::Directory, 0o755).unwrap();
        let after = guest.root().inode().attr().unwrap();
        assert!(after.nlink != before.nlink || after.mtime.tv_nsec != before.mtime.tv_nsec);
        let host = std::fs::metadata(&world.dir).unwrap();
        assert_eq!((after.mtime.tv_nsec, u64::from(after.nlink)), (host.mtime_nsec(), host.nlink()));
        // Nothing of the host's numbering but the inode number.
        assert_eq!(attr.dev, guest.fs.dev());
        assert_ne!(attr.dev, host.dev());
        let space = guest.fs.statfs().unwrap();
        assert!(space.f_blocks > 0 && space.f_namelen > 0);
    }
}

#[test]
fn extended_attributes() {
    for cache in BOTH {
        let world = World::new();
        let guest = world.guest(cache);
        guest.put("f", b"x");
        let target = guest.target("f");
        let get = |name: &[u8]| guest.ctx.getxattr(&target, name);
        if guest.ctx.setxattr(&target, b"user.a", b"1", 0) == Err(Errno::EOPNOTSUPP) {
            eprintln!("SKIPPED: the temporary directory's file system has no user.* attributes");
            return;
        }
        assert_eq!(get(b"user.a").unwrap(), b"1");
        assert_eq!(get(b"user.b"), Err(Errno::ENODATA));
        guest.ctx.setxattr(&target, b"user.b", b"2", 1).unwrap();
        assert_eq!(get(b"user.b").unwrap(), b"2");
        assert_eq!(guest.ctx.setxattr(&target, b"user.b", b"3", 1), Err(Errno::EEXIST));
        guest.ctx.setxattr(&target, b"user.b", b"3", 2).unwrap();
        assert_eq!(get(b"user.b").unwrap(), b"3");
        let mut names = guest.ctx.listxattr(&target).unwrap();
        names.retain(|name| name.starts_with(b"user."));
        names.sort();
        assert_eq!(names, [b"user.a", b"user.b"]);
        guest.ctx.removexattr(&target, b"user.a").unwrap();
        assert_eq!(get(b"user.a"), Err(Errno::ENODATA));
        assert_eq!(get(b"trusted.overlay.opaque"), Err(Errno::ENODATA));
    }
}

#[test]
fn mappings_get_descriptors_of_the_right_mode() {
    for cache in BOTH {
        let world = World::new();
        let guest = world.guest(cache);
        guest.put("f", b"mapped");
        let mode = |mappable| match mappable {
            Mappable::Host(fd) => {
                let link = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
                let info = std::fs::read_to_string(link).unwrap();
                let flags =
                    info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
                u32::from_str_radix(&flags, 8).unwrap() & O_ACCMODE
            }
            Mappable::Anonymous => panic!("no host file"),
        };
        let file = guest.open("f", O_RDONLY).unwrap();
        assert_eq!(mode(file.ops().mmap(false).unwrap()), O_RDONLY);
        assert_eq!(file.ops().mmap(true).err(), Some(Errno::EACCES));
        let file = guest.open("f", O_RDWR).unwrap();
        assert_eq!(mode(file.ops().mmap(false).unwrap()), O_RDONLY);
        assert_eq!(mode(file.ops().mmap(true).unwrap()), O_RDWR);
    }
}

#[test]
fn read_only_roots() {
    let world = World::new();
    std::fs::write(world.host("f"), "x").unwrap();
    // Whether or not we are told: the gofer refuses, too.
    for readonly in [true, false] {
        let options = GoferOptions { readonly, ..GoferOptions::default() };
        let guest = Guest::new(GoferFs::attach(world.client.clone(), 1, options).unwrap());
        assert_eq!(guest.get("f").unwrap(), b"x");
        assert_eq!(guest.open("f", O_RDWR).err(), Some(Errno::EROFS));
        assert_eq!(guest.open("f", O_RDONLY | O_TRUNC).err(), Some(Errno::EROFS));
        assert_eq!(guest.open("g", O_WRONLY | O_CREAT).err(), Some(Errno::EROFS));
        assert_eq!(guest.unlink("f"), Err(Errno::EROFS));
        assert_eq!(guest.rename("f", "g", 0), Err(Errno::EROFS));
        assert_eq!(guest.ctx.chmod(&guest.target("f"), 0o777), Err(Errno::EROFS));
        assert_eq!(guest.ctx.setxattr(&guest.target("f"), b"user.a", b"", 0), Err(Errno::EROFS));
        assert_eq!(guest.ctx.make(guest.root(), b"d", NewKind::Directory, 0o777).err(), Some(Errno::EROFS));
    }
    assert_eq!(std::fs::read(world.host("f")).unwrap(), b"x");
}

#[test]
fn links_and_deep_paths() {
    let world = World::new();
    std::fs::create_dir_all(world.host("a/b/c/d/e")).unwrap();
    std::fs::write(world.host("a/b/c/d/e/f"), "deep").unwrap();
    symlink("/a/b", world.host("abs")).unwrap();
    symlink("../../..", world.host("a/b/up")).unwrap();
    symlink("loop", world.host("loop")).unwrap();
    symlink("/etc/passwd", world.host("escape")).unwrap();
    let guest = world.guest(Cache::Exclusive);
    assert_eq!(guest.get("a/b/c/d/e/f").unwrap(), b"deep");
    assert_eq!(guest.get("abs/c/d/../d/e/f").unwrap(), b"deep");
    assert_eq!(guest.get("a/b/up/a/b/c/d/e/f").unwrap(), b"deep");
    assert_eq!(guest.get("loop").unwrap_err(), Errno::ELOOP);
    assert_eq!(guest.get("escape").unwrap_err(), Errno::ENOENT);
    assert_eq!(guest.get("a/b/c/d/e/f/g").unwrap_err(), Errno::ENOTDIR);
    assert_eq!(guest.get("a/b/none/d").unwrap_err(), Errno::ENOENT);
}

#[test]
fn host_devices_are_never_opened() {
    let world = World::new();
    let node = std::ffi::CString::new(world.host("null").into_os_string().into_encoded_bytes()).unwrap();
    if !make_device(&node) {
        eprintln!("SKIPPED: no permission to make device nodes");
        return;
    }
    let guest = world.guest(Cache::Exclusive);
    let attr = guest.stat("null").unwrap();
    assert_eq!((attr.kind, attr.rdev), (FileKind::CharDevice, chitin_abi::stat::makedev(1, 3)));
    // The guest has no driver of that number here.
    assert_eq!(guest.open("null", O_RDWR).err(), Some(Errno::ENXIO));
    let inode = guest.path("null").unwrap().inode().clone();
    assert_eq!(inode.open(O_RDWR).err(), Some(Errno::ENXIO));
}

#[allow(unsafe_code)]
fn make_device(path: &std::ffi::CStr) -> bool {
    // SAFETY: a path that outlives the call.
    unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) == 0 }
}
