use super::*;
use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;

const AT: u64 = 0x10_0000;
const PAGES: u64 = 48;
const FILE_PAGES: u64 = 20;

/// A small generator: the same sequence for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Source {
    Private(u64),
    /// Of the file, not written to yet.
    FilePrivate(u64),
    Shared(u64, u64),
    File(u64),
}

#[derive(Clone, Copy, Debug)]
struct Page {
    prot: u32,
    source: Source,
}

#[derive(Default, Clone)]
struct Model(BTreeMap<u64, Page>);

#[derive(Default)]
struct Common {
    shared: HashMap<(u64, u64), u64>,
    file: Vec<u64>,
    objects: u64,
}

impl Model {
    fn read(&self, page: u64, c: &Common) -> Option<u64> {
        let p = self.0.get(&page).filter(|p| p.prot != 0)?;
        match p.source {
            Source::Private(v) => Some(v),
            Source::FilePrivate(i) | Source::File(i) => c.file.get(i as usize).copied(),
            Source::Shared(o, i) => Some(c.shared.get(&(o, i)).copied().unwrap_or(0)),
        }
    }

    fn write(&mut self, page: u64, value: u64, c: &mut Common) -> bool {
        let Some(p) = self.0.get_mut(&page).filter(|p| p.prot & WRITE != 0) else { return false };
        match p.source {
            Source::FilePrivate(i) if i >= FILE_PAGES => return false,
            Source::Private(_) | Source::FilePrivate(_) => p.source = Source::Private(value),
            Source::File(i) => match c.file.get_mut(i as usize) {
                Some(v) => *v = value,
                None => return false,
            },
            Source::Shared(o, i) => {
                c.shared.insert((o, i), value);
            }
        }
        true
    }
}

fn world() -> Arc<World> {
    let phys = Phys::new(None, 256 << 20, 46, 509).expect("memory");
    World::new(Arc::new(phys), 0, None, true)
}

fn file() -> Arc<OwnedFd> {
    let mut f = crate::host::memfd(0).expect("memfd");
    for i in 0..FILE_PAGES {
        f.seek(std::io::SeekFrom::Start(i * PAGE)).expect("seek");
        f.write_all(&(i + 1000).to_le_bytes()).expect("write");
    }
    f.set_len(FILE_PAGES * PAGE).expect("length");
    Arc::new(f.into())
}

fn read(space: &Space, page: u64) -> Option<u64> {
    let mut b = [0; 8];
    space.read_at(AT + page * PAGE, &mut b).ok().map(|()| u64::from_le_bytes(b))
}

fn compare(space: &Space, model: &Model, c: &Common, what: &str) {
    for page in 0..PAGES * 2 {
        assert_eq!(read(space, page), model.read(page, c), "page {page} after {what}");
    }
}

/// One random operation on both.
fn step(r: &mut Random, space: &Arc<Space>, model: &mut Model, c: &mut Common, fd: &Arc<OwnedFd>) -> String {
    let page = r.next(PAGES);
    let n = 1 + r.next(PAGES - page);
    let (addr, len) = (AT + page * PAGE, n * PAGE);
    let prots = [0, READ, READ | WRITE, READ | WRITE, READ | EXEC];
    let prot = prots[r.next(5) as usize];
    match r.next(12) {
        0 | 1 => {
            let kind = r.next(4);
            let off = r.next(FILE_PAGES);
            let shared = kind % 2 == 1;
            let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE } | libc::MAP_FIXED;
            let backing = (kind >= 2).then(|| (fd.clone(), off * PAGE));
            assert_eq!(space.mmap(addr, len, prot, flags as u32, backing), Ok(addr));
            c.objects += 1;
            for i in 0..n {
                let source = match kind {
                    0 => Source::Private(0),
                    1 => Source::Shared(c.objects, i),
                    2 => Source::FilePrivate(off + i),
                    _ => Source::File(off + i),
                };
                model.0.insert(page + i, Page { prot, source });
            }
            format!("mmap {page}+{n} kind {kind} prot {prot} off {off}")
        }
        2 => {
            assert_eq!(space.munmap(addr, len), Ok(()));
            model.0.retain(|p, _| !(page..page + n).contains(p));
            format!("munmap {page}+{n}")
        }
        3 | 4 => {
            let holes = (page..page + n).any(|p| !model.0.contains_key(&p));
            let want = if holes { Err(libc::ENOMEM) } else { Ok(()) };
            assert_eq!(space.mprotect(addr, len, prot), want);
            (page..page + n).filter_map(|p| model.0.get_mut(&p).map(|m| m.prot = prot)).count();
            format!("mprotect {page}+{n} {prot}")
        }
        5 => {
            let _ = space.madvise(addr, len, libc::MADV_DONTNEED as u32);
            for p in page..page + n {
                let Some(m) = model.0.get_mut(&p) else { continue };
                if let Source::Private(_) = m.source {
                    // What was a file's before is so again; the list of mappings knows.
                    let (start, vma) = space
                        .inner
                        .lock()
                        .vmas
                        .find(AT + p * PAGE)
                        .map(|(s, v)| (s, v.clone()))
                        .expect("mapped");
                    m.source = match &vma.back {
                        Back::File(..) => Source::FilePrivate(vma.offset(start, AT + p * PAGE) / PAGE),
                        _ => Source::Private(0),
                    };
                }
            }
            format!("dontneed {page}+{n}")
        }
        6 => {
            // Moves one mapping, or a part of one, elsewhere.
            let found = space.inner.lock().vmas.find(addr).map(|(_, v)| v.end);
            let Some(end) = found else { return "nothing".into() };
            let n = n.min((end - addr) / PAGE);
            let to = PAGES + r.next(PAGES - n + 1);
            let flags = 3;
            assert_eq!(space.mremap(addr, n * PAGE, n * PAGE, flags, AT + to * PAGE), Ok(AT + to * PAGE));
            for i in 0..n {
                let moved = model.0.remove(&(page + i)).expect("mapped");
                model.0.insert(to + i, moved);
            }
            format!("mremap {page}+{n} to {to}")
        }
        _ => {
            let (page, value) = (r.next(PAGES * 2), r.next(u64::MAX));
            let wrote = space.write_at(AT + page * PAGE, &value.to_le_bytes()).is_ok();
            assert_eq!(wrote, model.write(page, value, c), "write to page {page}");
            format!("write {page}")
        }
    }
}

#[test]
fn behaves_as_the_model_does() {
    let world = world();
    for seed in 1..30u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let fd = file();
        let mut c = Common { file: (0..FILE_PAGES).map(|i| i + 1000).collect(), ..Common::default() };
        let mut spaces = vec![(Space::new(&world, seed).expect("space"), Model::default())];
        for i in 0..400 {
            let which = r.next(spaces.len() as u64) as usize;
            let what = {
                let (space, model) = &mut spaces[which];
                step(&mut r, space, model, &mut c, &fd)
            };
            let what = format!("{what} (seed {seed}, step {i}, space {which})");
            if r.next(8) == 0 {
                spaces.iter().for_each(|(space, model)| compare(space, model, &c, &what));
            }
            match r.next(40) {
                0 if spaces.len() < 5 => {
                    let (space, model) = &spaces[which];
                    let child = (space.fork().expect("fork"), model.clone());
                    spaces.push(child);
                }
                1 if spaces.len() > 1 => drop(spaces.swap_remove(which)),
                _ => {}
            }
        }
        spaces.iter().for_each(|(space, model)| compare(space, model, &c, "all"));
        drop(spaces);
        assert_eq!(world.phys.used(), 0, "frames are lost");
    }
}

#[test]
fn stacks_grow_as_far_as_they_may() {
    let world = world();
    let space = Space::new(&world, 0).expect("space");
    let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_GROWSDOWN) as u32;
    let top = 0x4000_0000;
    assert_eq!(space.mmap(top - PAGE, PAGE, READ | WRITE, flags, None), Ok(top - PAGE));
    assert_eq!(space.fault(top - 100 * PAGE, Access::Write), Ok(()));
    assert_eq!(space.fault(top - (9 << 20), Access::Write), Err(Fault::Unmapped));
    let fixed = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u32;
    let below = top - 600 * PAGE;
    assert_eq!(space.mmap(below, PAGE, READ, fixed, None), Ok(below));
    assert_eq!(space.fault(below + 20 * PAGE, Access::Write), Err(Fault::Unmapped), "the gap is kept");
    assert_eq!(space.fault(below + 400 * PAGE, Access::Write), Ok(()));
}

#[test]
fn truncated_files_fault() {
    let world = world();
    let space = Space::new(&world, 0).expect("space");
    let fd = file();
    let f = std::fs::File::from(fd.try_clone().expect("dup"));
    let at = space.mmap(0, 4 * PAGE, READ | WRITE, libc::MAP_SHARED as u32, Some((fd, 0))).expect("mmap");
    assert_eq!(space.fault(at + PAGE, Access::Write), Ok(()));
    f.set_len(PAGE).expect("truncate");
    assert!(space.write_at(at + PAGE, b"x").is_err());
    assert!(space.forget_truncated());
    assert!(!space.forget_truncated());
    assert_eq!(space.fault(at + PAGE, Access::Read), Err(Fault::Bus));
    f.set_len(3 * PAGE).expect("grow");
    assert_eq!(space.fault(at + PAGE, Access::Write), Ok(()));
    space.write_at(at + PAGE, b"back").expect("write");
    let mut b = [0; 4];
    std::os::unix::fs::FileExt::read_at(&f, &mut b, PAGE).expect("read");
    assert_eq!(&b, b"back");
}

#[test]
fn tables_are_not_used_twice_before_their_block_is_renewed() {
    let world = world();
    let mut seen = std::collections::HashSet::new();
    // A block holds 4096 tables; each space takes five here.
    for _ in 0..600 {
        let space = Space::new(&world, 0).expect("space");
        space.mmap(AT, PAGE, READ | WRITE, (libc::MAP_PRIVATE | libc::MAP_FIXED) as u32, None).expect("mmap");
        space.fault(AT, Access::Write).expect("fault");
        assert!(seen.insert(space.cr3), "a root came back too early");
    }
}

#[test]
fn gaps_are_found() {
    let world = world();
    let space = Space::new(&world, 1).expect("space");
    let a = space.mmap(0, 8 * PAGE, READ, libc::MAP_PRIVATE as u32, None).expect("mmap");
    let b = space.mmap(0, 8 * PAGE, READ, libc::MAP_PRIVATE as u32, None).expect("mmap");
    assert_eq!(b + 8 * PAGE, a, "downwards, and merged");
    assert_eq!(space.inner.lock().vmas.len(), 1);
    space.munmap(a + PAGE, 2 * PAGE).expect("munmap");
    assert_eq!(space.mmap(0, 2 * PAGE, READ | WRITE, libc::MAP_PRIVATE as u32, None), Ok(a + PAGE));
    let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE) as u32;
    assert_eq!(space.mmap(a, PAGE, READ, flags, None), Err(libc::EEXIST));
    let low = space.mmap(0, PAGE, READ, (libc::MAP_PRIVATE | libc::MAP_32BIT) as u32, None).expect("mmap");
    assert!(low < 1 << 31);
    let hint = 0x1234_5000;
    assert_eq!(space.mmap(hint, PAGE, READ, libc::MAP_PRIVATE as u32, None), Ok(hint));
    assert_eq!(space.mmap(0, 1 << 47, READ, libc::MAP_PRIVATE as u32, None), Err(libc::ENOMEM));
}
