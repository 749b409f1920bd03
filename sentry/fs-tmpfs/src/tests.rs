//! Tests of content, limits, directories and seals.

use crate::host_store::HostStore;
use crate::model::{self, Model, Rng, content, list, put};
use crate::*;
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::mman::{MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL};
use chitin_host::filestore;
use chitin_mm::{SliceSource, VecSink};
use chitin_vfs::{FileSystem, Inode, Mappable, NewInode, NewKind, SetAttr, WriteAt};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const PAGE: u64 = 4096;

fn new(kind: NewKind) -> NewInode {
    NewInode { kind, perm: 0o644, uid: 0, gid: 0 }
}

fn tmpfs(options: &str) -> (Arc<TmpFs>, Arc<dyn Inode>) {
    let fs = TmpFs::new(Storage::Memory, options.as_bytes(), 1 << 30).unwrap();
    let root = fs.root();
    (fs, root)
}

fn read_all(data: &FileData) -> Vec<u8> {
    let mut sink = VecSink { data: Vec::new(), limit: 1 << 24 };
    data.read(0, &mut sink).unwrap();
    sink.data
}

fn host(mappable: Mappable) -> Arc<OwnedFd> {
    match mappable {
        Mappable::Host(fd) => fd,
        Mappable::Anonymous => panic!("no host file"),
    }
}

/// A directory for unnamed files, on whatever holds the temporary files.
fn dir_storage() -> Storage {
    Storage::Dir(Arc::new(std::fs::File::open(std::env::temp_dir()).unwrap().into()))
}

#[test]
fn content_against_a_model() {
    for (seed, storage) in [(1, Storage::Memory), (2, Storage::Memory), (3, dir_storage())] {
        let mut rng = Rng(seed * 7919);
        let space = Space::new(storage, 64 << 20, 0);
        for round in 0..12 {
            let data = FileData::new(space.clone(), F_SEAL_SEAL);
            let mut wanted: Vec<u8> = Vec::new();
            // Small rounds stay in the heap, large ones do not.
            let scale = if round % 2 == 0 { 20_000 } else { 150_000 };
            for _ in 0..60 {
                let pos = rng.below(scale) as usize;
                let len = 1 + rng.below(scale / 2) as usize;
                match rng.below(8) {
                    0..3 => {
                        let bytes = rng.bytes(len);
                        let at = if rng.below(4) == 0 { WriteAt::End } else { WriteAt::At(pos as u64) };
                        let pos = if at == WriteAt::End { wanted.len() } else { pos };
                        let done = data.write(at, &mut SliceSource::new(&bytes)).unwrap();
                        assert_eq!((done.count, done.end), (len, (pos + len) as u64));
                        wanted.resize(wanted.len().max(pos + len), 0);
                        wanted[pos..pos + len].copy_from_slice(&bytes);
                    }
                    3 => {
                        data.truncate(pos as u64).unwrap();
                        wanted.resize(pos, 0);
                    }
                    op @ 4..6 => {
                        let mode = if op == 4 { FALLOC_FL_PUNCH_HOLE } else { FALLOC_FL_ZERO_RANGE };
                        data.fallocate(mode | FALLOC_FL_KEEP_SIZE, pos as u64, len as u64).unwrap();
                        let end = (pos + len).min(wanted.len());
                        if pos < end {
                            wanted[pos..end].fill(0);
                        }
                    }
                    6 => {
                        let keep = if rng.below(2) == 0 { FALLOC_FL_KEEP_SIZE } else { 0 };
                        data.fallocate(keep, pos as u64, len as u64).unwrap();
                        if keep == 0 {
                            wanted.resize(wanted.len().max(pos + len), 0);
                        }
                    }
                    _ => {
                        let mut part = VecSink { data: Vec::new(), limit: len };
                        let count = data.read(pos as u64, &mut part).unwrap();
                        let end = (pos + len).min(wanted.len());
                        assert!(part.data == wanted.get(pos..end).unwrap_or_default());
                        assert_eq!(count, part.data.len());
                    }
                }
                assert_eq!(data.size(), wanted.len() as u64);
                // What SEEK_HOLE calls a hole is zero.
                if let Ok(hole) = data.seek_hole(0, false) {
                    let end = data.seek_hole(hole, true).unwrap_or(wanted.len() as u64);
                    assert!(wanted[hole as usize..end.max(hole) as usize].iter().all(|b| *b == 0));
                }
            }
            assert!(read_all(&data) == wanted);
            let fd = host(data.mmap(true).unwrap());
            let mut through = vec![0; wanted.len()];
            let mut done = 0;
            while done < through.len() {
                done += filestore::pread(fd.as_fd(), &mut through[done..], done as u64).unwrap();
            }
            assert!(through == wanted, "the host file has the same content at the same offsets");
            assert_eq!(space.used_pages(), data.blocks() / 8);
        }
        assert_eq!(space.used_pages(), 0, "everything was given back");
    }
}

#[test]
fn mappings_are_the_file() {
    let data = FileData::new(Space::new(Storage::Memory, 0, 0), F_SEAL_SEAL);
    data.write(WriteAt::End, &mut SliceSource::new(b"hello")).unwrap();
    let writable = host(data.mmap(true).unwrap());
    let readable = host(data.mmap(false).unwrap());
    filestore::pwrite(writable.as_fd(), b"J", 0).unwrap();
    assert_eq!(read_all(&data), b"Jello");
    data.write(WriteAt::At(1), &mut SliceSource::new(b"E")).unwrap();
    let mut buf = [0; 5];
    filestore::pread(readable.as_fd(), &mut buf, 0).unwrap();
    assert_eq!(&buf, b"JEllo");
    assert!(filestore::pwrite(readable.as_fd(), b"x", 0).is_err(), "a read-only mapping stays so");
}

#[test]
fn a_huge_hole_takes_nothing() {
    let space = Space::new(Storage::Memory, 1 << 20, 0);
    let data = FileData::new(space.clone(), F_SEAL_SEAL);
    data.truncate(1 << 50).unwrap();
    data.write(WriteAt::At(1 << 45), &mut SliceSource::new(b"x")).unwrap();
    assert_eq!(space.used_pages(), 1);
    assert_eq!(data.seek_hole(0, true), Ok(1 << 45));
    assert_eq!(data.seek_hole(1 << 45, false), Ok((1 << 45) + PAGE));
    assert_eq!(data.seek_hole((1 << 45) + PAGE, true), Err(Errno::ENXIO));
    let fd = host(data.mmap(true).unwrap());
    assert_eq!(filestore::stat(fd.as_fd()).unwrap().size, 1 << 50);
    assert_eq!(data.seek_hole(0, true), Ok(1 << 45));
    assert_eq!(space.used_pages(), 1);
    // Pages that a mapping makes are found and counted.
    filestore::pwrite(fd.as_fd(), &[1; 8192], 0).unwrap();
    assert_eq!(data.blocks(), 24);
    assert_eq!(space.used_pages(), 3);
}

#[test]
fn limits_of_size() {
    for premap in [false, true] {
        let space = Space::new(Storage::Memory, 10 * PAGE, 0);
        let data = FileData::new(space.clone(), F_SEAL_SEAL);
        if premap {
            data.mmap(true).unwrap();
        }
        let done = data.write(WriteAt::At(100), &mut SliceSource::new(&[7; 100_000])).unwrap();
        assert_eq!(space.used_pages(), 10, "{premap}");
        assert_eq!(done.count as u64, 10 * PAGE - 100, "as much as there is room for");
        let more = data.write(WriteAt::End, &mut SliceSource::new(b"x"));
        assert_eq!(more, Err(Errno::ENOSPC));
        // Overwriting needs no room.
        assert!(data.write(WriteAt::At(0), &mut SliceSource::new(&[1; 5000])).is_ok());
        assert_eq!(data.fallocate(0, 0, 11 * PAGE), Err(Errno::ENOSPC));
        data.fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE).unwrap();
        assert_eq!(space.used_pages(), 9);
        assert_eq!(data.write(WriteAt::End, &mut SliceSource::new(b"x")).unwrap().count, 1);
        let hole = data.write(WriteAt::At(PAGE), &mut SliceSource::new(b"x"));
        assert_eq!(hole, Err(Errno::ENOSPC), "filling a hole takes a page");
        drop(data);
        assert_eq!(space.used_pages(), 0);
    }
    let data = FileData::new(Space::new(Storage::Memory, 0, 0), F_SEAL_SEAL);
    assert_eq!(data.write(WriteAt::At(MAX_SIZE), &mut SliceSource::new(b"x")), Err(Errno::EFBIG));
    assert_eq!(data.truncate(MAX_SIZE + 1), Err(Errno::EFBIG));
    let last = data.write(WriteAt::At(MAX_SIZE - 1), &mut SliceSource::new(b"xyz")).unwrap();
    assert_eq!((last.count, last.end), (1, MAX_SIZE));
    assert_eq!(data.write(WriteAt::At(5), &mut SliceSource::new(b"")).unwrap().count, 0);
}

#[test]
fn a_faulting_source_keeps_what_came() {
    struct Faulty(usize);
    impl chitin_mm::Source for Faulty {
        fn left(&self) -> usize {
            1 << 20
        }
        fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
            if self.0 == 0 {
                return Err(Errno::EFAULT);
            }
            let count = self.0.min(buf.len());
            self.0 -= count;
            buf[..count].fill(9);
            Ok(count)
        }
        fn untake(&mut self, _count: usize) {}
    }
    let data = FileData::new(Space::new(Storage::Memory, 0, 0), F_SEAL_SEAL);
    assert_eq!(data.write(WriteAt::End, &mut Faulty(0)), Err(Errno::EFAULT));
    assert_eq!(data.size(), 0);
    assert_eq!(data.write(WriteAt::End, &mut Faulty(300_000)).unwrap().count, 300_000);
    assert_eq!(data.size(), 300_000);
}

#[test]
fn tree_against_a_model() {
    for seed in 1..6 {
        let (fs, root) = tmpfs("");
        let mut model = Model::default();
        let mut rng = Rng(seed * 104_729);
        for _ in 0..8 {
            model::run(&root, &mut model, &mut rng, 150);
            model::verify(&root, &model, 1 + rng.below(5) as usize);
        }
        let space = fs.space().clone();
        drop((root, fs));
        assert_eq!((space.used_pages(), space.used_inodes()), (0, 0), "everything was given back");
    }
}

#[test]
fn reading_a_changing_directory() {
    let (_fs, root) = tmpfs("");
    let dir = root.dir().unwrap();
    for i in 0..300 {
        dir.create(format!("f{i}").as_bytes(), &new(NewKind::Regular)).unwrap();
    }
    // rm -r with a small buffer: every name comes exactly once although those read vanish.
    let mut seen = std::collections::BTreeSet::new();
    let mut cookie = 0;
    loop {
        struct Some10(Vec<(Vec<u8>, u64)>);
        impl chitin_vfs::DirSink for Some10 {
            fn entry(&mut self, e: &chitin_vfs::DirEntry<'_>) -> bool {
                if self.0.len() == 10 {
                    return false;
                }
                self.0.push((e.name.to_vec(), e.next));
                true
            }
        }
        let mut sink = Some10(Vec::new());
        dir.read_dir(cookie, &mut sink).unwrap();
        let Some(last) = sink.0.last() else { break };
        cookie = last.1;
        for (name, _) in &sink.0 {
            assert!(seen.insert(name.clone()));
            let victim = dir.lookup(name).unwrap();
            dir.unlink(name, &victim).unwrap();
        }
    }
    assert_eq!(seen.len(), 300);
    assert_eq!(root.attr().unwrap().size, 40);
}

#[test]
fn directories_count_as_linux_does() {
    let (_fs, root) = tmpfs("mode=0755,uid=7,gid=8");
    let dir = root.dir().unwrap();
    let attr = root.attr().unwrap();
    assert_eq!((attr.perm, attr.uid, attr.gid, attr.nlink, attr.size), (0o755, 7, 8, 2, 40));
    let a = dir.create(b"a", &new(NewKind::Directory)).unwrap();
    let before = root.attr().unwrap();
    assert_eq!((before.nlink, before.size), (3, 60));
    let f = a.dir().unwrap().create(b"f", &new(NewKind::Regular)).unwrap();
    assert_eq!(dir.rmdir(b"a", &a), Err(Errno::ENOTEMPTY));
    a.dir().unwrap().unlink(b"f", &f).unwrap();
    dir.rmdir(b"a", &a).unwrap();
    assert_eq!(root.attr().unwrap().nlink, 2);
    assert_eq!(a.dir().unwrap().create(b"x", &new(NewKind::Regular)).err(), Some(Errno::ENOENT));
    assert!(root.attr().unwrap().mtime >= before.mtime);
}

#[test]
fn times_follow_what_happens() {
    let (_fs, root) = tmpfs("");
    let f = root.dir().unwrap().create(b"f", &new(NewKind::Regular)).unwrap();
    let old = chitin_abi::time::Timespec { tv_sec: 1000, tv_nsec: 5 };
    let reset = || {
        let at = Some(chitin_vfs::SetTime::At(old));
        f.set_attr(&SetAttr { atime: at, mtime: at, ..SetAttr::default() }).unwrap();
    };
    reset();
    let attr = f.attr().unwrap();
    assert_eq!((attr.atime, attr.mtime), (old, old));
    assert!(attr.ctime > old && attr.btime > old);
    put(&f, WriteAt::End, b"x");
    assert!(f.attr().unwrap().mtime > old);
    assert_eq!(f.attr().unwrap().atime, old);
    content(&f);
    assert!(f.attr().unwrap().atime > old, "relatime: older than mtime");
    reset();
    let quiet = f.clone().open(O_RDONLY | O_NOATIME).unwrap();
    quiet.read(0, &mut VecSink { data: Vec::new(), limit: 10 }).unwrap();
    assert_eq!(f.attr().unwrap().atime, old);
}

#[test]
fn inodes_and_links_are_limited() {
    let (fs, root) = tmpfs("nr_inodes=4");
    let dir = root.dir().unwrap();
    let f = dir.create(b"f", &new(NewKind::Regular)).unwrap();
    dir.link(b"g", &f).unwrap();
    dir.create(b"h", &new(NewKind::Fifo)).unwrap();
    assert_eq!(dir.create(b"i", &new(NewKind::Regular)).err(), Some(Errno::ENOSPC));
    assert_eq!(dir.link(b"i", &f), Err(Errno::ENOSPC));
    assert_eq!(fs.statfs().unwrap().f_ffree, 0);
    dir.unlink(b"g", &f).unwrap();
    dir.create(b"i", &new(NewKind::Regular)).unwrap();
    assert_eq!(f.attr().unwrap().nlink, 1);
}

#[test]
fn unnamed_files_get_names() {
    let (_fs, root) = tmpfs("");
    let f = root.dir().unwrap().tmpfile(&new(NewKind::Regular)).unwrap();
    assert_eq!(f.attr().unwrap().nlink, 0);
    put(&f, WriteAt::End, b"abc");
    root.dir().unwrap().link(b"f", &f).unwrap();
    assert_eq!(f.attr().unwrap().nlink, 1);
    assert_eq!(content(&root.dir().unwrap().lookup(b"f").unwrap()), b"abc");
}

#[test]
fn deep_trees_go_without_deep_stacks() {
    let (fs, root) = tmpfs("nr_inodes=0");
    let mut at = root.clone();
    for _ in 0..200_000 {
        at = at.dir().unwrap().create(b"d", &new(NewKind::Directory)).unwrap();
    }
    let space = fs.space().clone();
    drop((root, at, fs));
    assert_eq!(space.used_inodes(), 0);
}

#[test]
fn another_file_system_is_another_device() {
    let (_a, root_a) = tmpfs("");
    let (_b, root_b) = tmpfs("");
    let f = root_a.dir().unwrap().create(b"f", &new(NewKind::Regular)).unwrap();
    assert_eq!(root_b.dir().unwrap().link(b"f", &f), Err(Errno::EXDEV));
    assert_eq!(root_a.dir().unwrap().rename(b"f", &root_b, b"f", 0), Err(Errno::EXDEV));
    assert_ne!(root_a.attr().unwrap().dev, root_b.attr().unwrap().dev);
}

#[test]
fn remounting() {
    let (fs, root) = tmpfs("size=64k,nr_inodes=10,mode=700");
    assert_eq!(fs.show_options(), ",size=64k,nr_inodes=10,mode=700,inode64");
    let f = root.dir().unwrap().create(b"f", &new(NewKind::Regular)).unwrap();
    put(&f, WriteAt::End, &[1; 20_000]);
    assert_eq!(fs.remount(b"size=16k"), Err(Errno::EINVAL));
    fs.remount(b"size=20k").unwrap();
    assert_eq!(fs.statfs().unwrap().f_bfree, 0);
    assert_eq!(fs.remount(b"bogus"), Err(Errno::EINVAL));
}

#[test]
fn seals() {
    // Before and after the content has become a host file.
    for premap in [false, true] {
        let file = memfd_file(b"x", MFD_ALLOW_SEALING, 0, 0).unwrap();
        let inode = file.inode().clone();
        assert_eq!(crate::seals(&file), Ok(0));
        put(&inode, WriteAt::End, &[3; 5000]);
        if premap {
            host(file.ops().mmap(true).unwrap());
        }
        add_seals(&file, F_SEAL_SHRINK | F_SEAL_GROW).unwrap();
        let size = |size| inode.set_attr(&SetAttr { size: Some(size), ..SetAttr::default() });
        assert_eq!(size(4999), Err(Errno::EPERM));
        assert_eq!(size(5001), Err(Errno::EPERM));
        assert_eq!(size(5000), Ok(()));
        let append = file.ops().write(WriteAt::End, &mut SliceSource::new(b"x"));
        assert_eq!(append, Err(Errno::EPERM));
        put(&inode, WriteAt::At(1), b"ok");
        add_seals(&file, F_SEAL_WRITE).unwrap();
        let write = file.ops().write(WriteAt::At(0), &mut SliceSource::new(b"x"));
        assert_eq!(write, Err(Errno::EPERM));
        assert_eq!(file.ops().fallocate(FALLOC_FL_PUNCH_HOLE | 1, 0, 10), Err(Errno::EPERM));
        // The host keeps the seal too: no writable shared mapping of this can be made.
        let fd = host(file.ops().mmap(true).unwrap());
        assert!(filestore::pwrite(fd.as_fd(), b"x", 0).is_err());
        add_seals(&file, F_SEAL_SEAL).unwrap();
        assert_eq!(add_seals(&file, F_SEAL_GROW), Err(Errno::EPERM));
        assert_eq!(add_seals(&file, 0x4000), Err(Errno::EINVAL));
        assert_eq!(crate::seals(&file), Ok(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL));
    }
    let plain = memfd_file(b"x", 0, 0, 0).unwrap();
    assert_eq!(crate::seals(&plain), Ok(F_SEAL_SEAL));
    assert_eq!(add_seals(&plain, F_SEAL_GROW), Err(Errno::EPERM));
    let quiet = memfd_file(b"x", MFD_NOEXEC_SEAL, 0, 0).unwrap();
    let attr = quiet.inode().attr().unwrap();
    assert_eq!((attr.perm, attr.nlink), (0o666, 0));
    let exec = quiet.inode().set_attr(&SetAttr { perm: Some(0o777), ..SetAttr::default() });
    assert_eq!(exec, Err(Errno::EPERM));
    assert_eq!(memfd_inode(0x4000_0000, 0, 0).err(), Some(Errno::EINVAL));
}

#[test]
fn fallocate_like_tmpfs() {
    let (_fs, root) = tmpfs("");
    let f = root.dir().unwrap().create(b"f", &new(NewKind::Regular)).unwrap();
    let file = f.clone().open(O_RDWR).unwrap();
    for mode in [FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_INSERT_RANGE] {
        assert_eq!(file.fallocate(mode, 0, PAGE), Err(Errno::EOPNOTSUPP));
    }
    file.fallocate(0, 100, 5000).unwrap();
    let attr = f.attr().unwrap();
    assert_eq!((attr.size, attr.blocks), (5100, 16));
    file.fallocate(FALLOC_FL_KEEP_SIZE, 0, 100_000).unwrap();
    let attr = f.attr().unwrap();
    assert_eq!((attr.size, attr.blocks), (5100, 25 * 8));
    f.set_attr(&SetAttr { size: Some(5100), ..SetAttr::default() }).unwrap();
    assert_eq!(content(&f), vec![0; 5100]);
}

#[test]
fn host_holes_are_counted() {
    let store = HostStore::create(&Storage::Memory).unwrap();
    filestore::truncate(store.fd(), 100 * PAGE).unwrap();
    filestore::pwrite(store.fd(), &[1; 4096 * 3], 10 * PAGE).unwrap();
    filestore::pwrite(store.fd(), b"x", 50 * PAGE).unwrap();
    assert_eq!(store.holes(0, 100), Ok(96));
    assert_eq!(store.holes(11, 51), Ok(37));
    assert_eq!(store.holes(10, 13), Ok(0));
    assert_eq!(store.pages(), Ok(4));
}

#[test]
fn importing_host_files() {
    for storage in [Storage::Memory, dir_storage()] {
        let space = Space::new(storage.clone(), 4 << 20, 0);
        let source = HostStore::create(&storage).unwrap();
        let mut wanted = vec![0u8; 900_000];
        wanted[300_000..700_000].copy_from_slice(&Rng(5).bytes(400_000));
        filestore::truncate(source.fd(), 900_000).unwrap();
        let mut done = 300_000;
        while done < 700_000 {
            done += filestore::pwrite(source.fd(), &wanted[done..700_000], done as u64).unwrap();
        }
        for len in [u64::MAX, 500_000, 100, 0] {
            let data = FileData::new(space.clone(), F_SEAL_SEAL);
            data.import(source.fd(), len).unwrap();
            assert!(read_all(&data) == wanted[..wanted.len().min(len as usize)]);
        }
        let small = Space::new(storage, 10 * PAGE, 0);
        let data = FileData::new(small, F_SEAL_SEAL);
        assert_eq!(data.import(source.fd(), u64::MAX), Err(Errno::ENOSPC));
    }
}

#[test]
fn listing_in_pieces() {
    let (_fs, root) = tmpfs("");
    for i in 0..400 {
        let kind = if i % 2 == 0 { NewKind::Regular } else { NewKind::Directory };
        root.dir().unwrap().create(format!("{i}").as_bytes(), &new(kind)).unwrap();
    }
    assert_eq!(list(&root, 7).len(), 400);
    assert_eq!(list(&root, 1000).len(), 400);
}

#[test]
fn memfds_show_their_name() {
    let file = memfd_file(b"x y", 0, 5, 6).unwrap();
    let path = file.path().unwrap();
    let (fs, root) = tmpfs("");
    let mount = chitin_vfs::Mount::new(fs, b"tmpfs", 0);
    let here = chitin_vfs::Path { dentry: mount.root().clone(), mount: mount.clone() };
    assert_eq!(chitin_vfs::MountNs::new(mount).text(&here, path).0, b"/memfd:x y (deleted)");
    let attr = file.inode().attr().unwrap();
    assert_eq!((attr.uid, attr.gid, attr.nlink), (5, 6, 0));
    // It counts as open for writing, so that it cannot be executed meanwhile.
    assert_eq!(file.inode().state().start_exec(), Err(Errno::ETXTBSY));
    let inode = file.inode().clone();
    drop((file, root));
    assert_eq!(inode.state().start_exec(), Ok(()));
}
