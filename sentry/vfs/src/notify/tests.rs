use super::*;
use crate::AnonInode;
use crate::testing::Run;
use crate::wait;
use chitin_mm::VecSink;

type Seen = (i32, u32, u32, String);

fn read(inotify: &Inotify) -> Vec<Seen> {
    let mut sink = VecSink { data: Vec::new(), limit: 1 << 20 };
    match inotify.read(0, &mut sink) {
        Ok(count) => assert_eq!(count, sink.data.len()),
        Err(error) => assert_eq!(error, Errno::EAGAIN),
    }
    let mut rest = &sink.data[..];
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
        let len = word(12) as usize;
        assert_eq!(len % 16, 0);
        let name = &rest[16..16 + len];
        let end = name.iter().position(|b| *b == 0).unwrap_or(0);
        assert!(name[end..].iter().all(|b| *b == 0));
        let name = String::from_utf8(name[..end].to_vec()).unwrap();
        seen.push((word(0) as i32, word(4), word(8), name));
        rest = &rest[16 + len..];
    }
    seen
}

fn inode(kind: FileKind) -> Arc<dyn Inode> {
    AnonInode::alone(kind, 0o755, "[test]")
}

fn none(wd: i32, mask: u32) -> Seen {
    (wd, mask, 0, String::new())
}

#[test]
fn watches_tell_what_was_asked() {
    let inotify = Inotify::new().unwrap();
    let dir = inode(FileKind::Directory);
    let wd = inotify.add_watch(&dir, IN_CREATE | IN_MOVE | IN_OPEN).unwrap();
    assert_eq!(wd, 1);
    dir_event(&dir, b"a", IN_CREATE | IN_ISDIR, 0);
    dir_event(&dir, b"a", IN_DELETE, 0);
    dir_event(&dir, b"sixteen-letters!", IN_MOVED_FROM, 9);
    inode_event(dir.state(), None, IN_OPEN);
    assert_eq!(inotify.readable_bytes(), Ok((16 + 16) + (16 + 32) + 16));
    let expected = [
        (wd, IN_CREATE | IN_ISDIR, 0, "a".to_string()),
        (wd, IN_MOVED_FROM, 9, "sixteen-letters!".to_string()),
        none(wd, IN_OPEN),
    ];
    assert_eq!(read(&inotify), expected);
    assert_eq!(inotify.readable_bytes(), Ok(0));
    assert_eq!(inotify.rm_watch(wd), Ok(()));
    assert_eq!(inotify.rm_watch(wd), Err(Errno::EINVAL));
    dir_event(&dir, b"b", IN_CREATE, 0);
    assert_eq!(read(&inotify), [none(wd, IN_IGNORED)]);
    assert_eq!(inotify.add_watch(&dir, IN_CREATE), Ok(2));
}

#[test]
fn repeated_events_are_one() {
    let inotify = Inotify::new().unwrap();
    let file = inode(FileKind::Regular);
    let wd = inotify.add_watch(&file, IN_ALL_EVENTS).unwrap();
    for event in [IN_MODIFY, IN_MODIFY, IN_ACCESS, IN_MODIFY] {
        inode_event(file.state(), None, event);
    }
    assert_eq!(read(&inotify), [none(wd, IN_MODIFY), none(wd, IN_ACCESS), none(wd, IN_MODIFY)]);
}

#[test]
fn masks() {
    let inotify = Inotify::new().unwrap();
    let file = inode(FileKind::Regular);
    assert_eq!(inotify.add_watch(&file, 0), Err(Errno::EINVAL));
    assert_eq!(inotify.add_watch(&file, 0x0080_0000 | IN_OPEN), Err(Errno::EINVAL));
    assert_eq!(inotify.add_watch(&file, IN_MASK_ADD | IN_MASK_CREATE | IN_OPEN), Err(Errno::EINVAL));
    let wd = inotify.add_watch(&file, IN_OPEN | IN_MASK_CREATE).unwrap();
    assert_eq!(inotify.add_watch(&file, IN_OPEN | IN_MASK_CREATE), Err(Errno::EEXIST));
    assert_eq!(inotify.add_watch(&file, IN_MODIFY | IN_MASK_ADD), Ok(wd));
    assert_eq!(inotify.watches()[0].mask, IN_OPEN | IN_MODIFY);
    assert_eq!(inotify.add_watch(&file, IN_ACCESS), Ok(wd));
    inode_event(file.state(), None, IN_OPEN);
    inode_event(file.state(), None, IN_ACCESS);
    assert_eq!(read(&inotify), [none(wd, IN_ACCESS)]);
}

#[test]
fn one_shot() {
    let inotify = Inotify::new().unwrap();
    let file = inode(FileKind::Regular);
    let wd = inotify.add_watch(&file, IN_OPEN | IN_ONESHOT).unwrap();
    inode_event(file.state(), None, IN_ACCESS);
    inode_event(file.state(), None, IN_OPEN);
    inode_event(file.state(), None, IN_OPEN);
    assert_eq!(read(&inotify), [none(wd, IN_OPEN), none(wd, IN_IGNORED)]);
    assert_eq!(inotify.watches(), []);
}

#[test]
fn deletion_ends_the_watch() {
    let inotify = Inotify::new().unwrap();
    let file = inode(FileKind::Regular);
    let other = inode(FileKind::Regular);
    let wd = inotify.add_watch(&file, IN_ATTRIB | IN_DELETE_SELF).unwrap();
    let second = inotify.add_watch(&other, IN_OPEN).unwrap();
    self_event(&file, IN_ATTRIB | IN_DELETE_SELF);
    self_event(&other, IN_UNMOUNT);
    let expected = [
        none(wd, IN_ATTRIB),
        none(wd, IN_DELETE_SELF),
        none(wd, IN_IGNORED),
        none(second, IN_UNMOUNT),
        none(second, IN_IGNORED),
    ];
    assert_eq!(read(&inotify), expected);
}

#[test]
fn reads_take_whole_events_only() {
    let inotify = Inotify::new().unwrap();
    let dir = inode(FileKind::Directory);
    inotify.add_watch(&dir, IN_CREATE | IN_DELETE).unwrap();
    let mut small = [0; 31];
    assert_eq!(inotify.read(0, &mut small.as_mut_slice()), Err(Errno::EAGAIN));
    dir_event(&dir, b"x", IN_CREATE, 0);
    dir_event(&dir, b"x", IN_DELETE, 0);
    assert_eq!(inotify.read(0, &mut small.as_mut_slice()), Err(Errno::EINVAL));
    let mut middling = [0; 63];
    assert_eq!(inotify.read(0, &mut middling.as_mut_slice()), Ok(32));
    assert_eq!(read(&inotify).len(), 1);
}

#[test]
fn overflow_is_told_once() {
    let mut queue = Queue::new(3);
    for n in 0..10 {
        queue.push(n, IN_OPEN, 0, b"");
    }
    let mut sink = VecSink { data: Vec::new(), limit: 1000 };
    assert_eq!(queue.read(&mut sink), Ok(4 * 16));
    assert_eq!(&sink.data[48..56], [(-1i32).to_ne_bytes(), IN_Q_OVERFLOW.to_ne_bytes()].concat());
    for n in 0..10 {
        queue.push(n, IN_OPEN, 0, b"");
    }
    assert_eq!(queue.bytes(), 64);
}

#[test]
fn readers_are_woken_and_closing_leaves_nothing() {
    let inotify = Inotify::new().unwrap();
    let file = inode(FileKind::Regular);
    inotify.add_watch(&file, IN_OPEN).unwrap();
    let ops: Arc<dyn FileOps> = inotify.clone();
    let run = Run::new();
    let mut ready = wait::ready(&ops, POLLIN);
    assert_eq!(run.poll(&mut ready), None);
    inode_event(file.state(), None, IN_OPEN);
    assert_eq!(run.wakes(), 1);
    assert_eq!(run.poll(&mut ready), Some(POLLIN));
    drop(ready);
    drop((ops, inotify));
    assert!(file.state().extras().watches.list.lock().is_empty());
}

/// A file system that is only its root.
struct Bare {
    root: Arc<dyn Inode>,
}

impl crate::FileSystem for Bare {
    fn fs_type(&self) -> &'static str {
        "bare"
    }
    fn dev(&self) -> u64 {
        1
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<chitin_abi::stat::Statfs, Errno> {
        Err(Errno::ENOSYS)
    }
}

#[test]
fn the_directory_hears_of_its_files() {
    let (dir, file) = (inode(FileKind::Directory), inode(FileKind::Regular));
    let mount = crate::Mount::new(Arc::new(Bare { root: dir.clone() }), b"bare", 0);
    let root = mount.root().clone();
    let path = Path { mount, dentry: root.adopt(b"name", file.clone()) };
    let inotify = Inotify::new().unwrap();
    let on_dir = inotify.add_watch(&dir, IN_OPEN | IN_ATTRIB).unwrap();
    let on_file = inotify.add_watch(&file, IN_OPEN).unwrap();
    inode_event(file.state(), Some(&path), IN_OPEN);
    let in_dir = |event| (on_dir, event, 0, "name".to_string());
    assert_eq!(read(&inotify), [in_dir(IN_OPEN), none(on_file, IN_OPEN)]);
    // The root itself lies in no directory.
    let root = Path { mount: path.mount.clone(), dentry: path.mount.root().clone() };
    inode_event(dir.state(), Some(&root), IN_OPEN);
    assert_eq!(read(&inotify), [none(on_dir, IN_OPEN | IN_ISDIR)]);
    // With IN_EXCL_UNLINK not after the name is gone.
    path.mount.root().removed(b"name");
    inode_event(file.state(), Some(&path), IN_ATTRIB);
    assert_eq!(read(&inotify), [in_dir(IN_ATTRIB)]);
    inotify.add_watch(&dir, IN_OPEN | IN_ATTRIB | IN_EXCL_UNLINK).unwrap();
    inode_event(file.state(), Some(&path), IN_ATTRIB);
    assert_eq!(read(&inotify), []);
}
