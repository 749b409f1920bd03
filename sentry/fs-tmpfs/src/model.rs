//! Random operations on a file system beside a plain model of one; the overlay's tests include this file too.

use chitin_abi::Errno;
use chitin_abi::fcntl::{O_RDWR, RENAME_EXCHANGE, RENAME_NOREPLACE};
use chitin_mm::{SliceSource, VecSink};
use chitin_vfs::walk::Caller;
use chitin_vfs::{DirEntry, DirSink, FileKind, Inode, LinkTarget, NewInode, NewKind, SetAttr, WriteAt};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// xorshift64*: the same sequence every time.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.next();
        (0..len).map(|i| (seed.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9) >> 16) as u8).collect()
    }
}

#[derive(Clone, Debug)]
pub enum Thing {
    Dir(BTreeMap<Vec<u8>, u64>),
    File(Vec<u8>),
    Link(Vec<u8>),
}

/// What the file system should look like. Thing 0 is the root.
#[derive(Clone, Debug)]
pub struct Model {
    pub things: HashMap<u64, Thing>,
    pub perms: HashMap<u64, u32>,
    pub xattrs: HashMap<u64, BTreeMap<Vec<u8>, Vec<u8>>>,
    next: u64,
}

impl Default for Model {
    fn default() -> Self {
        let things = HashMap::from([(0, Thing::Dir(BTreeMap::new()))]);
        Model { things, perms: HashMap::new(), xattrs: HashMap::new(), next: 1 }
    }
}

type Names = Vec<Vec<u8>>;

fn perm_of(thing: &Thing) -> u32 {
    match thing {
        Thing::Dir(_) => 0o755,
        Thing::File(_) => 0o644,
        Thing::Link(_) => 0o777,
    }
}

impl Model {
    fn dir(&self, id: u64) -> &BTreeMap<Vec<u8>, u64> {
        match &self.things[&id] {
            Thing::Dir(map) => map,
            _ => panic!("no directory"),
        }
    }
    fn dir_mut(&mut self, id: u64) -> &mut BTreeMap<Vec<u8>, u64> {
        match self.things.get_mut(&id).unwrap() {
            Thing::Dir(map) => map,
            _ => panic!("no directory"),
        }
    }
    fn is_dir(&self, id: u64) -> bool {
        matches!(self.things[&id], Thing::Dir(_))
    }
    fn nlink(&self, id: u64) -> u32 {
        let names: usize = self
            .things
            .values()
            .map(|t| if let Thing::Dir(map) = t { map.values().filter(|v| **v == id).count() } else { 0 })
            .sum();
        names as u32
    }
    fn dir_nlink(&self, id: u64) -> u32 {
        2 + self.dir(id).values().filter(|v| self.is_dir(**v)).count() as u32
    }
    /// A random directory: its id and path.
    fn some_dir(&self, rng: &mut Rng) -> (u64, Names) {
        let (mut id, mut path) = (0, Names::new());
        loop {
            let dirs: Vec<_> = self.dir(id).iter().filter(|(_, v)| self.is_dir(**v)).collect();
            if dirs.is_empty() || rng.below(3) == 0 {
                return (id, path);
            }
            let (name, child) = dirs[rng.below(dirs.len() as u64) as usize];
            path.push(name.clone());
            id = *child;
        }
    }
    /// A random entry: directory id, its path, name, and what it leads to.
    fn some_entry(&self, rng: &mut Rng) -> Option<(u64, Names, Vec<u8>, u64)> {
        let (dir, path) = self.some_dir(rng);
        let map = self.dir(dir);
        let (name, id) = map.iter().nth(rng.below(map.len().max(1) as u64) as usize)?;
        Some((dir, path, name.clone(), *id))
    }
    fn within(&self, id: u64, ancestor: u64) -> bool {
        if id == ancestor {
            return true;
        }
        match &self.things[&ancestor] {
            Thing::Dir(map) => map.values().any(|child| self.is_dir(*child) && self.within(id, *child)),
            _ => false,
        }
    }
    fn forget_if_gone(&mut self, id: u64) {
        if self.nlink(id) == 0 {
            self.things.remove(&id);
            self.perms.remove(&id);
            self.xattrs.remove(&id);
        }
    }
}

pub fn caller() -> Caller {
    Caller { tgid: 1, tid: 1, creds: Arc::new(chitin_vfs::Creds::root()) }
}

/// Walks down, sometimes by single look-ups, sometimes in one go.
pub fn find(root: &Arc<dyn Inode>, path: &[Vec<u8>], chain: bool) -> Arc<dyn Inode> {
    let mut at = root.clone();
    let mut rest: Vec<&[u8]> = path.iter().map(|name| name.as_slice()).collect();
    while !rest.is_empty() {
        let dir = at.dir().expect("a directory");
        let found = if chain { dir.lookup_chain(&rest) } else { dir.lookup(rest[0]).map(|i| vec![i]) };
        let found = found.expect("an existing name");
        assert!(!found.is_empty() && found.len() <= rest.len());
        rest.drain(..found.len());
        at = found.last().unwrap().clone();
    }
    at
}

struct Take {
    entries: Vec<(Vec<u8>, u64, FileKind, u64)>,
    room: usize,
}

impl DirSink for Take {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        if self.entries.len() == self.room {
            return false;
        }
        self.entries.push((entry.name.to_vec(), entry.ino, entry.kind, entry.next));
        true
    }
}

/// All entries, read `batch` at a time.
pub fn list(dir: &Arc<dyn Inode>, batch: usize) -> Vec<(Vec<u8>, u64, FileKind, u64)> {
    let mut all = Vec::new();
    let mut cookie = 0;
    loop {
        let mut sink = Take { entries: Vec::new(), room: batch };
        dir.dir().unwrap().read_dir(cookie, &mut sink).unwrap();
        let Some(last) = sink.entries.last() else { return all };
        cookie = last.3;
        all.append(&mut sink.entries);
    }
}

pub fn content(inode: &Arc<dyn Inode>) -> Vec<u8> {
    let file = inode.clone().open(O_RDWR).unwrap();
    let mut sink = VecSink { data: Vec::new(), limit: 1 << 24 };
    file.read(0, &mut sink).unwrap();
    sink.data
}

pub fn put(inode: &Arc<dyn Inode>, at: WriteAt, data: &[u8]) {
    let file = inode.clone().open(O_RDWR).unwrap();
    let written = file.write(at, &mut SliceSource::new(data)).unwrap();
    assert_eq!(written.count, data.len());
}

/// Compares everything.
pub fn verify(root: &Arc<dyn Inode>, model: &Model, batch: usize) {
    verify_thing(root, model, 0, batch);
}

fn verify_thing(inode: &Arc<dyn Inode>, model: &Model, id: u64, batch: usize) {
    let attr = inode.attr().unwrap();
    assert_eq!(attr.ino, inode.ino());
    assert_eq!(attr.kind, inode.kind());
    if id != 0 {
        assert_eq!(attr.perm, *model.perms.get(&id).unwrap_or(&perm_of(&model.things[&id])));
    }
    let xattrs = inode.xattrs().unwrap();
    let wanted = model.xattrs.get(&id).cloned().unwrap_or_default();
    let mut names = xattrs.list().unwrap();
    names.sort();
    assert_eq!(names, wanted.keys().cloned().collect::<Vec<_>>());
    for (name, value) in &wanted {
        assert_eq!(&xattrs.get(name).unwrap(), value);
    }
    match &model.things[&id] {
        Thing::Dir(map) => {
            assert_eq!(attr.kind, FileKind::Directory);
            assert_eq!(attr.nlink, model.dir_nlink(id), "links of a directory");
            let mut entries = list(inode, batch);
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let names: Vec<_> = entries.iter().map(|e| e.0.clone()).collect();
            assert_eq!(names, map.keys().cloned().collect::<Vec<_>>());
            for ((name, child_id), (_, ino, kind, _)) in map.iter().zip(&entries) {
                let child = inode.dir().unwrap().lookup(name).unwrap();
                let again = inode.dir().unwrap().lookup(name).unwrap();
                assert!(Arc::ptr_eq(&child, &again), "the same inode twice");
                assert_eq!((child.ino(), child.kind()), (*ino, *kind));
                verify_thing(&child, model, *child_id, batch);
            }
            assert_eq!(inode.dir().unwrap().lookup(b"no-such-name").err(), Some(Errno::ENOENT));
        }
        Thing::File(data) => {
            assert_eq!(attr.nlink, model.nlink(id), "links of a file");
            assert_eq!(attr.size, data.len() as u64);
            assert!(content(inode) == *data, "content differs");
        }
        Thing::Link(text) => match inode.link_target(&caller()).unwrap() {
            LinkTarget::Text(found) => assert_eq!(&found, text),
            _ => panic!("no text"),
        },
    }
}

/// Does `steps` random things to both.
pub fn run(root: &Arc<dyn Inode>, model: &mut Model, rng: &mut Rng, steps: usize) {
    for _ in 0..steps {
        step(root, model, rng);
    }
}

fn step(root: &Arc<dyn Inode>, model: &mut Model, rng: &mut Rng) {
    let chain = rng.below(2) == 0;
    match rng.below(13) {
        0..4 => {
            let (dir, path) = model.some_dir(rng);
            let name = format!("n{}", rng.below(12)).into_bytes();
            let (thing, kind) = match rng.below(4) {
                0 => (Thing::Dir(BTreeMap::new()), NewKind::Directory),
                1 => {
                    let text = rng.bytes(1 + rng.0 as usize % 200);
                    (Thing::Link(text.clone()), NewKind::Symlink(text))
                }
                _ => (Thing::File(Vec::new()), NewKind::Regular),
            };
            let parent = find(root, &path, chain);
            if model.dir(dir).contains_key(&name) {
                assert!(parent.dir().unwrap().lookup(&name).is_ok());
                return;
            }
            assert_eq!(parent.dir().unwrap().lookup(&name).err(), Some(Errno::ENOENT));
            let new = NewInode { kind, perm: perm_of(&thing), uid: 1, gid: 2 };
            parent.dir().unwrap().create(&name, &new).unwrap();
            let id = model.next;
            model.next += 1;
            model.things.insert(id, thing);
            model.dir_mut(dir).insert(name, id);
        }
        4..6 => {
            let Some((_, mut path, name, id)) = model.some_entry(rng) else { return };
            path.push(name);
            let Some(Thing::File(data)) = model.things.get_mut(&id) else { return };
            let inode = find(root, &path, chain);
            let most = if rng.below(8) == 0 { 100_000 } else { 6000 };
            let len = 1 + rng.below(most) as usize;
            let bytes = rng.bytes(len);
            let pos = rng.below(data.len() as u64 + 5000) as usize;
            let pos = if rng.below(3) == 0 { data.len() } else { pos };
            let at = if pos == data.len() { WriteAt::End } else { WriteAt::At(pos as u64) };
            put(&inode, at, &bytes);
            if data.len() < pos + len {
                data.resize(pos + len, 0);
            }
            data[pos..pos + len].copy_from_slice(&bytes);
        }
        6 => {
            let Some((_, mut path, name, id)) = model.some_entry(rng) else { return };
            path.push(name);
            let Some(Thing::File(data)) = model.things.get_mut(&id) else { return };
            let size = rng.below(data.len() as u64 * 3 / 2 + 100);
            let change = SetAttr { size: Some(size), ..SetAttr::default() };
            find(root, &path, chain).set_attr(&change).unwrap();
            data.resize(size as usize, 0);
        }
        7 => {
            let Some((_, mut path, name, id)) = model.some_entry(rng) else { return };
            path.push(name);
            let inode = find(root, &path, chain);
            if rng.below(2) == 0 {
                let perm = rng.below(0o10000) as u32;
                inode.set_attr(&SetAttr { perm: Some(perm), ..SetAttr::default() }).unwrap();
                model.perms.insert(id, perm);
            } else {
                let name = format!("user.x{}", rng.below(3)).into_bytes();
                let map = model.xattrs.entry(id).or_default();
                if rng.below(3) == 0 {
                    let wanted = map.remove(&name).map(|_| ()).ok_or(Errno::ENODATA);
                    assert_eq!(inode.xattrs().unwrap().remove(&name), wanted);
                } else {
                    let value = rng.bytes(20);
                    inode.xattrs().unwrap().set(&name, &value, 0).unwrap();
                    map.insert(name, value);
                }
            }
        }
        8 => {
            let Some((_, mut path, name, id)) = model.some_entry(rng) else { return };
            path.push(name);
            let (dir, dir_path) = model.some_dir(rng);
            let inode = find(root, &path, chain);
            let parent = find(root, &dir_path, chain);
            let new = format!("n{}", rng.below(12)).into_bytes();
            if model.dir(dir).contains_key(&new) {
                return;
            }
            let result = parent.dir().unwrap().link(&new, &inode);
            if model.is_dir(id) {
                assert_eq!(result, Err(Errno::EPERM));
            } else {
                result.unwrap();
                model.dir_mut(dir).insert(new, id);
            }
        }
        9..11 => {
            let Some((dir, path, name, id)) = model.some_entry(rng) else { return };
            let parent = find(root, &path, chain);
            let victim = parent.dir().unwrap().lookup(&name).unwrap();
            if model.is_dir(id) {
                let result = parent.dir().unwrap().rmdir(&name, &victim);
                if !model.dir(id).is_empty() {
                    assert_eq!(result, Err(Errno::ENOTEMPTY));
                    return;
                }
                result.unwrap();
                assert_eq!(victim.attr().unwrap().nlink, 0);
            } else {
                parent.dir().unwrap().unlink(&name, &victim).unwrap();
            }
            model.dir_mut(dir).remove(&name);
            if let (Thing::File(data), 0) = (&model.things[&id], model.nlink(id)) {
                assert!(content(&victim) == *data, "an unlinked file reads on");
                assert_eq!(victim.attr().unwrap().nlink, 0);
            }
            model.forget_if_gone(id);
        }
        _ => rename(root, model, rng, chain),
    }
}

fn rename(root: &Arc<dyn Inode>, model: &mut Model, rng: &mut Rng, chain: bool) {
    let Some((old_dir, old_path, old, id)) = model.some_entry(rng) else { return };
    let (new_dir, new_path) = model.some_dir(rng);
    let new = format!("n{}", rng.below(12)).into_bytes();
    let target = model.dir(new_dir).get(&new).copied();
    let flags = [0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE][rng.below(4) as usize];
    // What the VFS refuses by itself.
    if model.is_dir(id) && model.within(new_dir, id) {
        return;
    }
    if target.is_some_and(|target| model.is_dir(target) && model.within(old_dir, target)) {
        return;
    }
    let from = find(root, &old_path, chain);
    let to = find(root, &new_path, chain);
    let moved = from.dir().unwrap().lookup(&old).unwrap();
    // As the VFS does before it renames.
    let _held = to.dir().unwrap().lookup(&new);
    let result = from.dir().unwrap().rename(&old, &to, &new, flags);
    match target {
        None if flags == RENAME_EXCHANGE => {
            assert_eq!(result, Err(Errno::ENOENT));
            return;
        }
        Some(_) if flags == RENAME_NOREPLACE => {
            assert_eq!(result, Err(Errno::EEXIST));
            return;
        }
        Some(target) if flags == RENAME_EXCHANGE => {
            result.unwrap();
            model.dir_mut(old_dir).insert(old, target);
            model.dir_mut(new_dir).insert(new, id);
            return;
        }
        Some(target) if target == id => {
            result.unwrap();
            return;
        }
        Some(target) => match (model.is_dir(id), model.is_dir(target)) {
            (true, false) => return assert_eq!(result, Err(Errno::ENOTDIR)),
            (false, true) => return assert_eq!(result, Err(Errno::EISDIR)),
            (true, true) if !model.dir(target).is_empty() => {
                return assert_eq!(result, Err(Errno::ENOTEMPTY));
            }
            _ => {}
        },
        None => {}
    }
    result.unwrap();
    model.dir_mut(old_dir).remove(&old);
    model.dir_mut(new_dir).insert(new.clone(), id);
    if let Some(target) = target {
        model.forget_if_gone(target);
    }
    let found = to.dir().unwrap().lookup(&new).unwrap();
    assert_eq!(found.ino(), moved.ino(), "a rename keeps the inode");
}
