//! Tests over a tmpfs as the lower file system.

use crate::listing::Child;
use crate::model::{self, Model, Rng, content, find, list, put};
use crate::{Node, OverlayFs, OverlayOptions};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::stat::OVERLAYFS_SUPER_MAGIC;
use chitin_fs_tmpfs::{Storage, TmpFs};
use chitin_host::filestore;
use chitin_mm::{SliceSource, VecSink};
use chitin_vfs::{FileKind, FileSystem, Inode, Mappable, NewInode, NewKind, SetAttr, WriteAt};
use std::any::Any;
use std::os::fd::AsFd;
use std::sync::Arc;

fn new(kind: NewKind) -> NewInode {
    NewInode { kind, perm: 0o644, uid: 3, gid: 4 }
}

fn lower() -> Arc<TmpFs> {
    TmpFs::new(Storage::Memory, b"mode=755", 1 << 30).unwrap()
}

fn over(lower: &Arc<TmpFs>) -> (Arc<OverlayFs>, Arc<dyn Inode>) {
    let options = OverlayOptions { size: 1 << 28, nr_inodes: 0 };
    let fs = OverlayFs::new(lower.clone(), Storage::Memory, options);
    let root = fs.root();
    (fs, root)
}

fn create(dir: &Arc<dyn Inode>, name: &str, kind: NewKind) -> Arc<dyn Inode> {
    dir.dir().unwrap().create(name.as_bytes(), &new(kind)).unwrap()
}

fn file(dir: &Arc<dyn Inode>, name: &str, data: &[u8]) -> Arc<dyn Inode> {
    let inode = create(dir, name, NewKind::Regular);
    put(&inode, WriteAt::End, data);
    inode
}

fn get(dir: &Arc<dyn Inode>, name: &str) -> Result<Arc<dyn Inode>, Errno> {
    dir.dir().unwrap().lookup(name.as_bytes())
}

fn node(inode: &Arc<dyn Inode>) -> Arc<Node> {
    let any: Arc<dyn Any + Send + Sync> = inode.clone();
    any.downcast().unwrap()
}

fn names(dir: &Arc<dyn Inode>) -> Vec<String> {
    let mut names: Vec<_> =
        list(dir, 3).into_iter().map(|entry| String::from_utf8(entry.0).unwrap()).collect();
    names.sort();
    names
}

/// Nothing is left of a dropped overlay: no cycle holds a node, and all space was given back.
fn gone(fs: Arc<OverlayFs>, root: Arc<dyn Inode>) {
    let shared = fs.shared().clone();
    drop((fs, root));
    assert_eq!(Arc::strong_count(&shared), 1, "nodes leak");
    assert_eq!((shared.space.used_pages(), shared.space.used_inodes()), (0, 0));
}

#[test]
fn tree_against_a_model() {
    for seed in 1..9 {
        let lower = lower();
        let lower_root = lower.root();
        let mut below = Model::default();
        let mut rng = Rng(seed * 15_485_863);
        model::run(&lower_root, &mut below, &mut rng, 400);
        let (fs, root) = over(&lower);
        let mut above = below.clone();
        model::verify(&root, &above, 2);
        for _ in 0..6 {
            model::run(&root, &mut above, &mut rng, 150);
            model::verify(&root, &above, 1 + rng.below(5) as usize);
        }
        model::verify(&lower_root, &below, 3);
        gone(fs, root);
    }
}

#[test]
fn the_lower_is_never_written() {
    let lower = lower();
    let below = file(&lower.root(), "f", b"below");
    let (fs, root) = over(&lower);
    assert_eq!(fs.statfs().unwrap().f_type, OVERLAYFS_SUPER_MAGIC);
    let f = get(&root, "f").unwrap();
    assert_eq!((f.ino(), f.attr().unwrap().dev), (below.ino(), fs.dev()));
    let early = f.clone().open(O_RDONLY).unwrap();
    let before = f.attr().unwrap();
    put(&f, WriteAt::At(0), b"above");
    assert_eq!(content(&below), b"below");
    assert!(f.attr().unwrap().mtime > before.mtime);
    assert_eq!(f.attr().unwrap().ino, before.ino);
    // Opened before the copy-up, reads after it.
    let mut sink = VecSink { data: Vec::new(), limit: 100 };
    early.read(0, &mut sink).unwrap();
    assert_eq!(sink.data, b"above");
    assert_eq!(early.size(), Ok(5));
    assert_eq!(fs.space().used_pages(), 1);
    drop((f, early));
    gone(fs, root);
}

#[test]
fn only_what_changes_is_copied() {
    let lower = lower();
    let below = file(&lower.root(), "f", &[7; 200_000]);
    let (fs, root) = over(&lower);
    let f = get(&root, "f").unwrap();
    f.set_attr(&SetAttr { perm: Some(0o600), uid: Some(9), ..SetAttr::default() }).unwrap();
    let attr = f.attr().unwrap();
    assert_eq!((attr.perm, attr.uid, attr.size), (0o600, 9, 200_000));
    assert_eq!(fs.space().used_pages(), 0, "attributes alone");
    let ops = f.clone().open(O_RDWR).unwrap();
    let stat = |mappable| match mappable {
        Mappable::Host(fd) => filestore::stat(AsFd::as_fd(&fd)).unwrap(),
        Mappable::Anonymous => panic!("no host file"),
    };
    let below_stat = stat(below.clone().open(O_RDWR).unwrap().mmap(false).unwrap());
    assert_eq!(stat(ops.mmap(false).unwrap()).ino, below_stat.ino, "maps the lower file");
    assert_ne!(stat(ops.mmap(true).unwrap()).ino, below_stat.ino);
    assert_eq!(fs.space().used_pages(), 49);
    assert_ne!(stat(ops.mmap(false).unwrap()).ino, below_stat.ino);
    assert!(content(&f) == [7; 200_000]);
    // A truncation copies only what stays.
    let g = file(&lower.root(), "g", &[8; 200_000]);
    let above = get(&root, "g").unwrap();
    above.set_attr(&SetAttr { size: Some(5000), ..SetAttr::default() }).unwrap();
    assert_eq!(fs.space().used_pages(), 49 + 2);
    assert!(content(&above) == [8; 5000]);
    assert_eq!(g.attr().unwrap().size, 200_000);
}

#[test]
fn changes_survive_their_users() {
    let lower = lower();
    let d = create(&lower.root(), "d", NewKind::Directory);
    let e = create(&d, "e", NewKind::Directory);
    file(&e, "f", b"1");
    file(&e, "g", b"2");
    let (fs, root) = over(&lower);
    {
        let f = find(&root, &[b"d".to_vec(), b"e".to_vec(), b"f".to_vec()], true);
        put(&f, WriteAt::At(0), b"x");
    }
    let e = find(&root, &[b"d".to_vec(), b"e".to_vec()], false);
    assert_eq!(content(&get(&e, "f").unwrap()), b"x");
    assert_eq!(content(&get(&e, "g").unwrap()), b"2");
    // What is not changed is not kept.
    let weak = Arc::downgrade(&node(&get(&e, "g").unwrap()));
    assert!(weak.upgrade().is_none());
    drop(e);
    gone(fs, root);
}

#[test]
fn unused_nodes_do_not_pile_up() {
    let lower = lower();
    for i in 0..3000 {
        create(&lower.root(), &format!("{i}"), NewKind::Regular);
    }
    let (_fs, root) = over(&lower);
    for i in 0..3000 {
        get(&root, &format!("{i}")).unwrap();
    }
    let root_node = node(&root);
    assert!(root_node.dir_state().unwrap().read().children.len() < 300);
    list(&root, 50);
    assert!(root_node.dir_state().unwrap().read().listing.is_none(), "the listing goes at its end");
}

#[test]
fn removed_names_stay_removed() {
    let lower = lower();
    file(&lower.root(), "f", b"1");
    let d = create(&lower.root(), "d", NewKind::Directory);
    file(&d, "x", b"2");
    let (fs, root) = over(&lower);
    let dir = root.dir().unwrap();
    let f = get(&root, "f").unwrap();
    let open = f.clone().open(O_RDWR).unwrap();
    dir.unlink(b"f", &f).unwrap();
    assert_eq!(get(&root, "f").err(), Some(Errno::ENOENT));
    assert_eq!(names(&root), ["d"]);
    assert_eq!(f.attr().unwrap().nlink, 0);
    // The open file lives on, and can be written.
    open.write(WriteAt::End, &mut SliceSource::new(b"!")).unwrap();
    assert_eq!(content(&f), b"1!");
    // A new directory of the same name is empty.
    let d = get(&root, "d").unwrap();
    assert_eq!(dir.rmdir(b"d", &d), Err(Errno::ENOTEMPTY));
    d.dir().unwrap().unlink(b"x", &get(&d, "x").unwrap()).unwrap();
    dir.rmdir(b"d", &d).unwrap();
    assert_eq!(d.dir().unwrap().create(b"y", &new(NewKind::Regular)).err(), Some(Errno::ENOENT));
    let again = create(&root, "d", NewKind::Directory);
    assert!(names(&again).is_empty());
    assert_eq!(get(&again, "x").err(), Some(Errno::ENOENT));
    assert!(again.ino() >= 1 << 48);
    assert_eq!(root.attr().unwrap().nlink, 3);
    drop((f, open, d, again));
    gone(fs, root);
}

#[test]
fn temporary_names_leave_nothing() {
    let lower = lower();
    file(&lower.root(), "f", b"1");
    let (fs, root) = over(&lower);
    for i in 0..500 {
        let name = format!("tmp{i}");
        file(&root, &name, b"x");
        root.dir().unwrap().rename(name.as_bytes(), &root, b"f", 0).unwrap();
        let g = file(&root, "g", b"y");
        root.dir().unwrap().unlink(b"g", &g).unwrap();
    }
    assert_eq!(node(&root).dir_state().unwrap().read().children.len(), 1);
    assert_eq!(fs.space().used_pages(), 1);
    root.dir().unwrap().unlink(b"f", &get(&root, "f").unwrap()).unwrap();
    let state = node(&root);
    let state = state.dir_state().unwrap().read();
    assert!(matches!(state.children.get(&b"f"[..]), Some(Child::Whiteout)));
}

#[test]
fn lower_directories_move() {
    let lower = lower();
    let a = create(&lower.root(), "a", NewKind::Directory);
    let b = create(&a, "b", NewKind::Directory);
    file(&b, "f", b"deep");
    create(&lower.root(), "z", NewKind::Directory);
    let (fs, root) = over(&lower);
    let z = get(&root, "z").unwrap();
    let a_ino = get(&root, "a").unwrap().ino();
    let held = find(&root, &[b"a".to_vec(), b"b".to_vec(), b"f".to_vec()], true);
    root.dir().unwrap().rename(b"a", &z, b"moved", 0).unwrap();
    assert_eq!(names(&root), ["z"]);
    assert_eq!((root.attr().unwrap().nlink, z.attr().unwrap().nlink), (3, 3));
    let moved = get(&z, "moved").unwrap();
    assert_eq!(moved.ino(), a_ino);
    let path = [b"z".to_vec(), b"moved".to_vec(), b"b".to_vec(), b"f".to_vec()];
    for chain in [false, true] {
        let f = find(&root, &path, chain);
        assert!(Arc::ptr_eq(&f, &held));
    }
    put(&held, WriteAt::End, b"er");
    drop((held, moved));
    assert_eq!(content(&find(&root, &path, true)), b"deeper");
    assert_eq!(content(&find(&lower.root(), &[b"a".to_vec(), b"b".to_vec(), b"f".to_vec()], true)), b"deep");
    drop(z);
    gone(fs, root);
}

#[test]
fn lower_hard_links_stay_one_file() {
    let lower = lower();
    let one = file(&lower.root(), "one", b"same");
    let d = create(&lower.root(), "d", NewKind::Directory);
    d.dir().unwrap().link(b"two", &one).unwrap();
    let (fs, root) = over(&lower);
    put(&get(&root, "one").unwrap(), WriteAt::End, b"!");
    // Nobody held either name; the second was not even looked up yet.
    let d = get(&root, "d").unwrap();
    let two = get(&d, "two").unwrap();
    assert_eq!(content(&two), b"same!");
    assert_eq!(two.attr().unwrap().nlink, 2);
    root.dir().unwrap().unlink(b"one", &get(&root, "one").unwrap()).unwrap();
    drop(two);
    let two = get(&d, "two").unwrap();
    assert_eq!(two.attr().unwrap().nlink, 1);
    root.dir().unwrap().link(b"three", &two).unwrap();
    d.dir().unwrap().unlink(b"two", &two).unwrap();
    assert_eq!(content(&get(&root, "three").unwrap()), b"same!");
    root.dir().unwrap().unlink(b"three", &two).unwrap();
    assert!(fs.shared().index.lock().is_empty());
    assert_eq!(two.attr().unwrap().nlink, 0);
    drop((two, d));
    gone(fs, root);
}

#[test]
fn extended_attributes_are_copied_once() {
    let lower = lower();
    let f = file(&lower.root(), "f", b"");
    f.xattrs().unwrap().set(b"user.a", b"1", 0).unwrap();
    f.xattrs().unwrap().set(b"security.capability", b"cap", 0).unwrap();
    let (fs, root) = over(&lower);
    {
        let above = get(&root, "f").unwrap();
        let xattrs = above.xattrs().unwrap();
        assert_eq!(xattrs.get(b"user.a"), Ok(b"1".to_vec()));
        assert_eq!(xattrs.set(b"user.a", b"2", XATTR_CREATE), Err(Errno::EEXIST));
        xattrs.remove(b"user.a").unwrap();
        xattrs.set(b"user.b", b"3", 0).unwrap();
    }
    let above = get(&root, "f").unwrap();
    assert_eq!(above.xattrs().unwrap().get(b"user.a"), Err(Errno::ENODATA));
    assert_eq!(above.xattrs().unwrap().get(b"security.capability"), Ok(b"cap".to_vec()));
    assert_eq!(above.xattrs().unwrap().list().unwrap().len(), 2);
    assert_eq!(f.xattrs().unwrap().get(b"user.a"), Ok(b"1".to_vec()));
    drop(above);
    gone(fs, root);
}

#[test]
fn every_kind_of_lower_file() {
    let lower = lower();
    let device = NewKind::Device { kind: FileKind::CharDevice, rdev: 0x103 };
    let kinds = [NewKind::Fifo, NewKind::Socket, device, NewKind::Symlink(b"to/where".to_vec())];
    for (i, kind) in kinds.iter().enumerate() {
        create(&lower.root(), &format!("k{i}"), kind.clone());
    }
    let (_fs, root) = over(&lower);
    for dir in [&lower.root(), &root] {
        let kinds: Vec<_> = (0..4).map(|i| get(dir, &format!("k{i}")).unwrap().kind()).collect();
        use FileKind::*;
        assert_eq!(kinds, [Fifo, Socket, CharDevice, Symlink]);
    }
    let node = get(&root, "k2").unwrap();
    node.set_attr(&SetAttr { perm: Some(0o600), ..SetAttr::default() }).unwrap();
    assert_eq!((node.attr().unwrap().rdev, node.attr().unwrap().perm), (0x103, 0o600));
    let link = get(&root, "k3").unwrap();
    assert_eq!(link.link_text(&model::caller()), Ok(b"to/where".to_vec()));
    assert_eq!(link.attr().unwrap().size, 8);
}

#[test]
fn cookies_survive_the_first_change() {
    let lower = lower();
    for i in 0..100 {
        create(&lower.root(), &format!("f{i}"), NewKind::Regular);
    }
    let (_fs, root) = over(&lower);
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
    let dir = root.dir().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut cookie = 0;
    loop {
        let mut sink = Some10(Vec::new());
        dir.read_dir(cookie, &mut sink).unwrap();
        let Some(last) = sink.0.last() else { break };
        cookie = last.1;
        for (name, _) in &sink.0 {
            assert!(seen.insert(name.clone()), "once each");
            dir.unlink(name, &dir.lookup(name).unwrap()).unwrap();
        }
        if seen.len() == 50 {
            create(&root, "new", NewKind::Regular);
        }
    }
    assert_eq!(seen.len(), 101);
    assert!(names(&root).is_empty());
}

#[test]
fn deep_lower_trees_go_without_deep_stacks() {
    let lower = TmpFs::new(Storage::Memory, b"nr_inodes=0", 1 << 30).unwrap();
    let mut at = lower.root();
    for _ in 0..100_000 {
        at = create(&at, "d", NewKind::Directory);
    }
    // Unchanged nodes hold their parents, changed ones their children.
    for change in [false, true] {
        let (fs, root) = over(&lower);
        let path = vec![b"d".to_vec(); 100_000];
        let end = find(&root, &path, true);
        if change {
            create(&end, "f", NewKind::Regular);
        }
        drop(end);
        gone(fs, root);
    }
}

#[test]
fn no_room_to_copy_up() {
    let lower = lower();
    let f = file(&lower.root(), "f", &[1; 100_000]);
    let options = OverlayOptions { size: 40960, nr_inodes: 0 };
    let fs = OverlayFs::new(lower.clone(), Storage::Memory, options);
    let above = get(&fs.root(), "f").unwrap();
    let ops = above.clone().open(O_RDWR).unwrap();
    assert_eq!(ops.write(WriteAt::End, &mut SliceSource::new(b"x")), Err(Errno::ENOSPC));
    assert_eq!(fs.space().used_pages(), 0, "a failed copy-up leaves nothing");
    assert!(content(&above) == content(&f));
}

#[test]
fn many_at_once() {
    // Harsher than the VFS, which locks directories: whatever the order, nothing hangs, panics or leaks.
    let lower = lower();
    let mut below = Model::default();
    model::run(&lower.root(), &mut below, &mut Rng(77), 500);
    let (fs, root) = over(&lower);
    let work = |seed: u64| {
        let mut rng = Rng(seed * 7_919);
        let mut at = root.clone();
        for _ in 0..3000 {
            let Some(dir) = at.dir() else {
                at = root.clone();
                continue;
            };
            let name = format!("n{}", rng.below(12));
            let name = name.as_bytes();
            match rng.below(9) {
                0 => drop(dir.create(name, &new(NewKind::Regular))),
                1 => drop(dir.create(name, &new(NewKind::Directory))),
                2 => {
                    if let Ok(victim) = dir.lookup(name) {
                        let _ = if victim.dir().is_some() {
                            dir.rmdir(name, &victim)
                        } else {
                            dir.unlink(name, &victim)
                        };
                    }
                }
                3 => drop(dir.rename(name, &at, format!("n{}", rng.below(12)).as_bytes(), 0)),
                4 => {
                    if let Ok(inode) = dir.lookup(name)
                        && let Ok(ops) = inode.open(O_RDWR)
                    {
                        let _ = ops.write(WriteAt::End, &mut SliceSource::new(b"data"));
                        let _ = ops.read(0, &mut VecSink { data: Vec::new(), limit: 1000 });
                    }
                }
                5 => drop(dir.lookup(name).and_then(|f| dir.link(b"n1", &f))),
                6 => drop(list(&at, 5)),
                7 => at = root.clone(),
                _ => {
                    if let Ok(next) = dir.lookup(name) {
                        let _ = next.attr();
                        at = next;
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 1..5 {
            scope.spawn(move || work(seed));
        }
    });
    model::verify(&lower.root(), &below, 5);
    gone(fs, root);
}
