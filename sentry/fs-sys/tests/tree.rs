//! The tree beside the host's, and what cannot be done to it.

use chitin_abi::Errno;
use chitin_fs_sys::SysFs;
use chitin_kernel::Kernel;
use chitin_kernel::inspect::{NetFiles, NetLink, ProcNet, Tunable};
use chitin_kernel::kernel::Machine;
use chitin_kernel::ns::{NetNs, Stack};
use chitin_kernel::reactor::Reactor;
use chitin_mm::VecSink;
use chitin_platform::{BoxFuture, Event, Platform, PlatformError, Spawned};
use chitin_vfs::{Caller, Creds, DirEntry, DirSink, FileKind, FileSystem, Inode, LinkTarget, UserNs};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

struct NoPlatform;

impl Platform for NoPlatform {
    fn name(&self) -> &'static str {
        "none"
    }
    fn next_event(&self, _: &dyn Fn()) -> Event {
        unreachable!("nothing runs here")
    }
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(std::future::ready(Err(PlatformError::Gone)))
    }
}

/// A namespace with `lo`.
struct Lo;

impl NetFiles for Lo {
    fn text(&self, _: &Stack, _: &str) -> Option<Vec<u8>> {
        None
    }
    fn links(&self, _: &Stack) -> Vec<NetLink> {
        vec![NetLink {
            name: "lo".into(),
            index: 1,
            peer: 1,
            mtu: 65536,
            kind: 772,
            flags: 0x1_0049,
            tx_queue_len: 1000,
            counters: vec![("rx_packets", 7)],
            ..NetLink::default()
        }]
    }
    fn tunables_in(&self, _: &Stack, _: &str) -> BTreeMap<String, bool> {
        BTreeMap::new()
    }
    fn tunable(&self, _: &Stack, _: &str) -> Option<Tunable> {
        None
    }
    fn tune(&self, _: &Stack, _: &str, _: &[i64]) -> Result<(), Errno> {
        Err(Errno::ENOENT)
    }
    fn tune_words(&self, _: &Stack, _: &str, _: &str) -> Result<(), Errno> {
        Err(Errno::ENOENT)
    }
}

fn tree(cpus: u32) -> Arc<SysFs> {
    let machine = Machine { cpus, memory_bytes: 1 << 30 };
    let kernel = Kernel::new(Arc::new(NoPlatform), Reactor::start().unwrap(), machine);
    kernel.extend(Arc::new(ProcNet(Box::new(Lo))));
    let net = NetNs::new(Arc::new(()), UserNs::initial(), None);
    let fs = SysFs::new(&kernel, &kernel.container, &net);
    // It does not keep its namespace.
    std::mem::forget(net);
    fs
}

struct Names(Vec<(String, u64, FileKind)>);
impl DirSink for Names {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        self.0.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.ino, entry.kind));
        true
    }
}

fn names(dir: &Arc<dyn Inode>) -> Vec<(String, u64, FileKind)> {
    let mut names = Names(Vec::new());
    dir.dir().unwrap().read_dir(0, &mut names).unwrap();
    names.0
}

fn walk(fs: &Arc<SysFs>, path: &str) -> Result<Arc<dyn Inode>, Errno> {
    let mut at = fs.root();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = at.dir().ok_or(Errno::ENOTDIR)?.lookup(name.as_bytes())?;
    }
    Ok(at)
}

fn read(fs: &Arc<SysFs>, path: &str) -> String {
    let ops = walk(fs, path).unwrap().open(0).unwrap();
    let mut sink = VecSink { data: Vec::new(), limit: 4096 };
    ops.read(0, &mut sink).unwrap();
    String::from_utf8(sink.data).unwrap()
}

#[test]
fn everything_is_consistent() {
    let fs = tree(3);
    let (mut numbers, mut links) = (HashSet::from([fs.root().ino()]), HashMap::new());
    let mut left = vec![(String::new(), fs.root())];
    while let Some((path, dir)) = left.pop() {
        for (name, ino, kind) in names(&dir) {
            let path = format!("{path}/{name}");
            let found = dir.dir().unwrap().lookup(name.as_bytes()).unwrap();
            assert_eq!((found.ino(), found.kind()), (ino, kind), "{path}");
            assert!(numbers.insert(ino), "{path}: number used twice");
            match kind {
                FileKind::Directory => left.push((path, found)),
                FileKind::Regular => drop(read(&fs, &path)),
                _ => drop(links.insert(path, found)),
            }
        }
    }
    // Every link leads to a directory of the tree.
    let caller = Caller { tgid: 1, tid: 1, creds: Arc::new(Creds::root()) };
    assert!(links.len() >= 5);
    for (path, link) in links {
        let LinkTarget::Text(text) = link.link_target(&caller).unwrap() else { panic!("{path}: text") };
        let mut parts: Vec<&str> = path.split('/').collect();
        parts.pop();
        let text = String::from_utf8(text).unwrap();
        for part in text.split('/') {
            if part == ".." {
                let _up = parts.pop();
            } else {
                parts.push(part);
            }
        }
        assert_eq!(walk(&fs, &parts.join("/")).unwrap().kind(), FileKind::Directory, "{path} -> {text}");
    }
}

#[test]
fn as_on_the_host() {
    let cpus = std::thread::available_parallelism().unwrap().get() as u32;
    let fs = tree(cpus);
    for path in ["class/net/lo/mtu", "class/net/lo/type", "class/net/lo/flags", "class/net/lo/address"] {
        let ours = path.replace("class/net", "devices/virtual/net");
        assert_eq!(read(&fs, &ours), std::fs::read_to_string(format!("/sys/{path}")).unwrap(), "{path}");
    }
    for path in ["cpu/cpu0/topology/core_cpus_list", "cpu/cpu0/topology/core_siblings", "node/node0/distance"]
    {
        let host = std::fs::read_to_string(format!("/sys/devices/system/{path}"));
        let Ok(host) = host else { continue };
        let ours = read(&fs, &format!("devices/system/{path}"));
        // Values are the machine's; the notation is what must agree.
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit() || "-,\n".contains(c));
        assert!(digits(&ours) && digits(&host), "{path}: {ours:?} {host:?}");
    }
}

#[test]
fn many_cpus() {
    let fs = tree(40);
    assert_eq!(read(&fs, "devices/system/cpu/online"), "0-39\n");
    assert_eq!(read(&fs, "devices/system/cpu/cpu39/topology/core_cpus"), "80,00000000\n");
    assert_eq!(read(&fs, "devices/system/cpu/cpu0/topology/core_siblings"), "ff,ffffffff\n");
    assert_eq!(walk(&fs, "devices/system/cpu/cpu40").err(), Some(Errno::ENOENT));
    assert_eq!(read(&tree(1), "devices/system/cpu/online"), "0\n");
}

#[test]
fn read_only() {
    let fs = tree(1);
    let file = walk(&fs, "kernel/mm/transparent_hugepage/enabled").unwrap();
    assert_eq!(file.clone().open(1).err(), Some(Errno::EACCES));
    assert_eq!(file.set_attr(&Default::default()), Err(Errno::EPERM));
    assert!(names(&walk(&fs, "fs/cgroup").unwrap()).is_empty());
    assert_eq!(fs.statfs().unwrap().f_type, 0x6265_6572);
}
