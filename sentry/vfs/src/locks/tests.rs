use super::*;
use crate::testing::Run;
use crate::{AnonInode, FileKind, FileOps, Inode};
use std::future::Future;

struct Disk;
impl FileOps for Disk {
    fn seekable(&self) -> bool {
        true
    }
}

fn disk() -> Arc<dyn Inode> {
    AnonInode::alone(FileKind::Regular, 0o644, "[disk]")
}

fn open(inode: &Arc<dyn Inode>, flags: u32) -> Arc<File> {
    File::new(Arc::new(Disk), inode.clone(), None, flags)
}

fn posix(owner: u64) -> Owner {
    Owner::Posix(LockOwner(owner))
}

fn req(l_type: i16, l_start: i64, l_len: i64) -> Flock {
    Flock { l_type, l_start, l_len, ..Flock::default() }
}

fn held(file: &File) -> Vec<(u64, u64, LockKind)> {
    let table = table(file);
    let held = table.held.lock();
    let mut all: Vec<_> = held.records.all().iter().map(|l| (l.range.start, l.range.end, l.kind)).collect();
    all.sort_by_key(|lock| lock.0);
    all
}

fn pinned<'a, F: Future<Output = Result<(), Errno>> + 'a>(
    future: F,
) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Errno>> + 'a>> {
    Box::pin(future)
}

use LockKind::{Read, Write};

#[test]
fn splits_and_merges() {
    let file = open(&disk(), O_RDWR);
    let me = posix(1001);
    set(&file, me, 1, &req(F_WRLCK, 10, 10)).unwrap();
    set(&file, me, 1, &req(F_WRLCK, 20, 5)).unwrap();
    assert_eq!(held(&file), [(10, 24, Write)]);
    set(&file, me, 1, &req(F_RDLCK, 12, 3)).unwrap();
    assert_eq!(held(&file), [(10, 11, Write), (12, 14, Read), (15, 24, Write)]);
    set(&file, me, 1, &req(F_UNLCK, 13, 4)).unwrap();
    assert_eq!(held(&file), [(10, 11, Write), (12, 12, Read), (17, 24, Write)]);
    set(&file, me, 1, &req(F_WRLCK, 0, 0)).unwrap();
    assert_eq!(held(&file), [(0, OFFSET_MAX, Write)]);
    set(&file, me, 1, &req(F_UNLCK, 5, 0)).unwrap();
    assert_eq!(held(&file), [(0, 4, Write)]);
    release_owner(&file, LockOwner(1001));
    assert_eq!(held(&file), []);
}

/// Against a model that knows every byte.
#[test]
fn agrees_with_a_byte_map() {
    let file = open(&disk(), O_RDWR);
    let mut model = [[None::<LockKind>; 40]; 2];
    let mut seed = 12345u32;
    let mut random = |limit: u32| {
        seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
        (seed >> 16) % limit
    };
    for _ in 0..3000 {
        let who = random(2) as usize;
        let start = random(39) as usize;
        let len = 1 + random(39 - start as u32 + 1) as usize;
        let len = len.min(40 - start);
        let (l_type, want) =
            [(F_RDLCK, Some(Read)), (F_WRLCK, Some(Write)), (F_UNLCK, None)][random(3) as usize];
        let others = &model[1 - who][start..start + len];
        let conflict = match want {
            Some(Write) => others.iter().any(Option::is_some),
            Some(Read) => others.contains(&Some(Write)),
            None => false,
        };
        let result = set(&file, posix(2000 + who as u64), 1, &req(l_type, start as i64, len as i64));
        assert_eq!(result, if conflict { Err(Errno::EAGAIN) } else { Ok(()) });
        if !conflict {
            model[who][start..start + len].fill(want);
        }
        for (who, bytes) in model.iter().enumerate() {
            let mut seen = [None; 40];
            let table = table(&file);
            let held = table.held.lock();
            let mut pieces = 0;
            for lock in held.records.all().iter().filter(|l| l.owner == posix(2000 + who as u64)) {
                pieces += 1;
                for byte in &mut seen[lock.range.start as usize..=lock.range.end as usize] {
                    assert_eq!(*byte, None);
                    *byte = Some(lock.kind);
                }
            }
            assert_eq!(&seen, bytes);
            let runs = bytes.chunk_by(|a, b| a == b).filter(|run| run[0].is_some()).count();
            assert_eq!(pieces, runs);
        }
    }
}

#[test]
fn conflicts_and_getlk() {
    let inode = disk();
    let file = open(&inode, O_RDWR);
    set(&file, posix(3001), 77, &req(F_RDLCK, 100, 50)).unwrap();
    set(&file, posix(3002), 78, &req(F_RDLCK, 120, 50)).unwrap();
    assert_eq!(set(&file, posix(3002), 78, &req(F_WRLCK, 120, 50)), Err(Errno::EAGAIN));
    let found = get(&file, posix(3003), &req(F_WRLCK, 0, 0)).unwrap();
    assert_eq!((found.l_type, found.l_start, found.l_len, found.l_pid), (F_RDLCK, 100, 50, 77));
    let found = get(&file, posix(3003), &req(F_RDLCK, 0, 0)).unwrap();
    assert_eq!(found.l_type, F_UNLCK);
    assert_eq!(get(&file, posix(3003), &req(F_UNLCK, 0, 0)).err(), Some(Errno::EINVAL));
    // OFD and POSIX locks exclude each other.
    let ofd = Owner::Ofd(file.id());
    assert_eq!(set(&file, ofd, 0, &req(F_WRLCK, 149, 1)), Err(Errno::EAGAIN));
    set(&file, ofd, 0, &req(F_WRLCK, 500, 0)).unwrap();
    let found = get(&file, posix(3001), &req(F_RDLCK, 0, 0)).unwrap();
    assert_eq!((found.l_type, found.l_start, found.l_len, found.l_pid), (F_WRLCK, 500, 0, -1));
    assert_eq!(get(&file, ofd, &req(F_UNLCK, 0, 0)).unwrap().l_start, 500);
    assert_eq!(set(&file, ofd, 0, &Flock { l_pid: 1, ..req(F_WRLCK, 0, 1) }), Err(Errno::EINVAL));
    let mine = all_locks().into_iter().filter(|lock| lock.ino == inode.ino()).count();
    assert_eq!(mine, 3);
}

#[test]
fn ranges_and_rights() {
    let inode = disk();
    let file = open(&inode, O_RDONLY);
    let me = posix(4001);
    assert_eq!(set(&file, me, 1, &req(F_WRLCK, 0, 1)), Err(Errno::EBADF));
    assert_eq!(set(&open(&inode, O_WRONLY), me, 1, &req(F_RDLCK, 0, 1)), Err(Errno::EBADF));
    assert_eq!(set(&file, me, 1, &req(F_RDLCK, -1, 1)), Err(Errno::EINVAL));
    assert_eq!(set(&file, me, 1, &req(7, 0, 1)), Err(Errno::EINVAL));
    assert_eq!(set(&file, me, 1, &Flock { l_whence: 9, ..req(F_RDLCK, 0, 1) }), Err(Errno::EINVAL));
    assert_eq!(set(&file, me, 1, &req(F_RDLCK, 10, -11)), Err(Errno::EINVAL));
    assert_eq!(set(&file, me, 1, &req(F_RDLCK, i64::MAX, 2)), Err(Errno::EOVERFLOW));
    *file.position() = 100;
    let current = Flock { l_whence: SEEK_CUR as i16, ..req(F_RDLCK, -10, -20) };
    set(&file, me, 1, &current).unwrap();
    assert_eq!(held(&file), [(70, 89, Read)]);
    assert_eq!(set(&file, me, 1, &Flock { l_start: i64::MAX, ..current }), Err(Errno::EOVERFLOW));
    set(&file, me, 1, &req(F_RDLCK, i64::MAX, 1)).unwrap();
    assert_eq!(held(&file).len(), 2);
}

#[test]
fn waits_until_released() {
    let inode = disk();
    let (a, b) = (open(&inode, O_RDWR), open(&inode, O_RDWR));
    set(&a, posix(5001), 1, &req(F_WRLCK, 0, 10)).unwrap();
    let run = Run::new();
    let wanted = req(F_RDLCK, 5, 10);
    let mut waiting = pinned(set_wait(&b, posix(5002), 2, &wanted));
    assert_eq!(run.poll(&mut waiting), None);
    set(&a, posix(5001), 1, &req(F_UNLCK, 0, 6)).unwrap();
    assert_eq!(run.wakes(), 1);
    assert_eq!(run.poll(&mut waiting), None);
    // From write to read is room enough.
    set(&a, posix(5001), 1, &req(F_RDLCK, 0, 10)).unwrap();
    assert_eq!(run.wakes(), 2);
    assert_eq!(run.poll(&mut waiting), Some(Ok(())));
}

#[test]
fn deadlocks_are_found() {
    let (one, two) = (disk(), disk());
    let (one, two) = (open(&one, O_RDWR), open(&two, O_RDWR));
    let (a, b, c) = (posix(6001), posix(6002), posix(6003));
    let first = req(F_WRLCK, 0, 1);
    let second = req(F_WRLCK, 1, 1);
    set(&one, a, 1, &first).unwrap();
    set(&two, b, 2, &first).unwrap();
    set(&one, c, 3, &second).unwrap();
    let run = Run::new();
    let mut a_waits = pinned(set_wait(&two, a, 1, &first));
    assert_eq!(run.poll(&mut a_waits), None);
    let mut b_waits = pinned(set_wait(&one, b, 2, &second));
    assert_eq!(run.poll(&mut b_waits), None);
    // c → a → b → c.
    let mut c_waits = pinned(set_wait(&one, c, 3, &first));
    assert_eq!(run.poll(&mut c_waits), Some(Err(Errno::EDEADLK)));
    // Without b's wait there is no circle.
    drop(b_waits);
    let mut c_waits = pinned(set_wait(&one, c, 3, &first));
    assert_eq!(run.poll(&mut c_waits), None);
    // What was released is no reason any more, even before the waiter has run.
    release_owner(&two, LockOwner(6002));
    let mut b_waits = pinned(set_wait(&one, b, 2, &first));
    assert_eq!(run.poll(&mut b_waits), None);
    assert_eq!(run.poll(&mut a_waits), Some(Ok(())));
}

#[test]
fn flock_semantics() {
    let inode = disk();
    let (a, b) = (open(&inode, O_RDONLY), open(&inode, O_RDONLY));
    flock(&a, LOCK_SH | LOCK_NB, 1).unwrap();
    flock(&b, LOCK_SH, 2).unwrap();
    assert_eq!(flock(&a, 0, 1), Err(Errno::EINVAL));
    assert_eq!(flock(&a, LOCK_SH | LOCK_EX, 1), Err(Errno::EINVAL));
    // The failing conversion loses what was held.
    assert_eq!(flock(&a, LOCK_EX, 1), Err(Errno::EAGAIN));
    flock(&b, LOCK_EX, 2).unwrap();
    let run = Run::new();
    let mut waiting = pinned(flock_wait(&a, LOCK_SH, 1));
    assert_eq!(run.poll(&mut waiting), None);
    drop(b);
    assert_eq!(run.wakes(), 1);
    assert_eq!(run.poll(&mut waiting), Some(Ok(())));
    // Record locks and flock do not see each other.
    let c = open(&inode, O_RDWR);
    set(&c, Owner::Ofd(c.id()), 0, &req(F_WRLCK, 0, 0)).unwrap();
    drop(waiting);
    flock(&a, LOCK_UN, 1).unwrap();
    flock(&c, LOCK_EX | LOCK_NB, 1).unwrap();
    drop(c);
    let d = open(&inode, O_RDWR);
    set(&d, posix(7001), 0, &req(F_WRLCK, 0, 0)).unwrap();
    flock(&d, LOCK_EX, 1).unwrap();
}

#[test]
fn there_is_a_limit() {
    let file = open(&disk(), O_RDWR);
    let mut result = Ok(());
    let mut count = 0i64;
    while result.is_ok() && count < 100_000 {
        result = set(&file, posix(8001), 1, &req(F_RDLCK, count * 2, 1));
        count += 1;
    }
    assert_eq!(result, Err(Errno::ENOLCK));
    release_owner(&file, LockOwner(8001));
    assert_eq!(held(&file), []);
}
