//! What the files look like, beside the host's own where they are there: the same keys in the same order.

mod common;

use chitin_abi::Errno;
use chitin_kernel::inspect::{NetFiles, ProcNet, Tunable, TunableValue};
use chitin_kernel::ns::Stack;
use common::{Guest, read_all};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The keys of "Key: value" lines.
fn keys(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(key, _)| key.trim().to_string()).collect()
}

/// All of `ours` are keys of the host, in its order; at least `most` of the host's are ours.
fn same_shape(name: &str, ours: &str, host: &str, missing: &[&str]) {
    let (ours, host) = (keys(ours), keys(host));
    let shown: Vec<&String> = host.iter().filter(|key| ours.contains(key)).collect();
    assert_eq!(shown, ours.iter().collect::<Vec<_>>(), "{name}: unknown keys or another order");
    let left: Vec<&String> =
        host.iter().filter(|key| !ours.contains(key) && !missing.contains(&key.as_str())).collect();
    assert!(left.is_empty(), "{name}: missing {left:?}");
}

/// Of processors with shadow stacks, which guests do not get.
const SHADOW_STACK: [&str; 2] = ["x86_Thread_features", "x86_Thread_features_locked"];

#[test]
fn shapes_of_the_host() {
    let guest = Guest::new();
    let host = |path: &str| std::fs::read_to_string(path).unwrap();
    same_shape("status", &guest.read("/proc/self/status"), &host("/proc/self/status"), &SHADOW_STACK);
    // What depends on the host's configuration.
    let optional =
        ["CmaTotal", "CmaFree", "Unaccepted", "Balloon", "DirectMap2M", "DirectMap1G", "HardwareCorrupted"];
    same_shape("meminfo", &guest.read("/proc/meminfo"), &host("/proc/meminfo"), &optional);
    same_shape("io", &guest.read("/proc/self/io"), &host("/proc/self/io"), &[]);
    let fields = |text: String| text.rsplit_once(')').unwrap().1.split_whitespace().count();
    assert_eq!(fields(guest.read("/proc/self/stat")), fields(host("/proc/self/stat")));
    assert_eq!(guest.read("/proc/self/statm").split_whitespace().count(), 7);
    let limits =
        |text: String| text.lines().map(|line| line.get(..25).unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(limits(guest.read("/proc/self/limits")), limits(host("/proc/self/limits")));
    for path in ["/proc/uptime", "/proc/loadavg"] {
        assert_eq!(
            guest.read(path).split([' ', '/']).count(),
            host(path).split([' ', '/']).count(),
            "{path}"
        );
    }
    for path in ["/proc/net/tcp", "/proc/net/udp", "/proc/net/dev", "/proc/swaps", "/proc/net/route"] {
        assert_eq!(guest.read(path).lines().next(), host(path).lines().next(), "{path}");
    }
    let words = |text: String| {
        let line = text.lines().find(|line| line.starts_with("cpu0 ")).unwrap().to_string();
        line.split_whitespace().count()
    };
    assert_eq!(words(guest.read("/proc/stat")), words(host("/proc/stat")));
}

#[test]
fn own_process() {
    let guest = Guest::new();
    assert_eq!(guest.readlink("/proc/self").unwrap(), "1");
    assert_eq!(guest.readlink("/proc/thread-self").unwrap(), "1/task/1");
    assert_eq!(guest.read("/proc/1/cmdline"), "/prog\0one\0two\0");
    assert_eq!(guest.read("/proc/1/environ"), "A=b\0");
    assert_eq!(guest.read("/proc/1/comm"), "prog\n");
    assert_eq!(guest.readlink("/proc/1/exe").unwrap(), "/prog");
    assert_eq!(guest.readlink("/proc/self/cwd").unwrap(), "/");
    assert!(guest.readlink("/proc/self/ns/mnt").unwrap().starts_with("mnt:["));
    assert!(guest.read("/proc/1/stat").starts_with("1 (prog) "));
    assert!(guest.read("/proc/1/task/1/stat").starts_with("1 (prog) "));
    assert_eq!(guest.write("/proc/self/comm", "other\0x"), Ok(7));
    assert_eq!(guest.read("/proc/1/comm"), "other\n");
    assert_eq!(guest.write("/proc/self/oom_score_adj", "500\n"), Ok(4));
    assert_eq!(guest.read("/proc/self/oom_score_adj"), "500\n");
    assert_eq!(guest.write("/proc/self/oom_score_adj", "1001"), Err(Errno::EINVAL));
    assert_eq!(guest.open("/proc/2/stat", 0).err(), Some(Errno::ENOENT));
    assert_eq!(guest.open("/proc/01/stat", 0).err(), Some(Errno::ENOENT));
    assert_eq!(guest.open("/proc/self/nothing", 0).err(), Some(Errno::ENOENT));
    // The exe link leads to the file itself.
    let program = read_all(&guest.open("/proc/self/exe", 0).unwrap()).unwrap();
    assert!(program.starts_with(b"\x7fELF"));
}

#[test]
fn maps() {
    let guest = Guest::new();
    let text = guest.read("/proc/self/maps");
    let stack = text.lines().find(|line| line.ends_with("[stack]")).unwrap();
    assert_eq!(stack.find("[stack]"), Some(73));
    assert!(stack.contains(" rw-p 00000000 00:00 0 "), "{stack}");
    let smaps = guest.read("/proc/self/smaps");
    let host = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let block = |text: &str| keys(text).into_iter().filter(|key| !key.contains('-')).collect::<Vec<_>>();
    let expected: Vec<String> = block(&host).into_iter().take_while(|key| key != "ProtectionKey").collect();
    let first: Vec<String> = block(&smaps).into_iter().take_while(|key| key != "VmFlags").collect();
    assert_eq!(first, expected.into_iter().take_while(|key| key != "VmFlags").collect::<Vec<_>>());
    assert!(guest.read("/proc/self/smaps_rollup").contains("[rollup]\nRss: "));
    // The stack holds argv where mem says it does.
    let fields: Vec<u64> =
        guest.read("/proc/self/stat").split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let start = fields[fields.len() - 5];
    let mem = guest.open("/proc/self/mem", 2).unwrap();
    let mut sink = chitin_mm::VecSink { data: Vec::new(), limit: 5 };
    assert_eq!(mem.read_at(start, &mut sink), Ok(5));
    assert_eq!(sink.data, b"/prog");
    assert_eq!(mem.read_at(0, &mut chitin_mm::VecSink { data: Vec::new(), limit: 5 }), Err(Errno::EIO));
    mem.write_at(start, &mut chitin_mm::SliceSource::new(b"/PROG")).unwrap();
    assert!(guest.read("/proc/self/cmdline").starts_with("/PROG\0"));
}

#[test]
fn mounts() {
    let guest = Guest::new();
    let text = guest.read("/proc/mounts");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("root\\040fs / tmpfs rw"), "{text}");
    assert_eq!(lines[1], "proc /proc proc rw,nosuid,nodev,noexec 0 0");
    let info = guest.read("/proc/self/mountinfo");
    for line in info.lines() {
        let (left, right) = line.split_once(" - ").unwrap();
        assert!(left.split(' ').count() >= 6 && right.split(' ').count() == 3, "{line}");
    }
}

#[test]
fn tunables() {
    let guest = Guest::new();
    assert_eq!(guest.read("/proc/sys/kernel/hostname"), "box\n");
    guest.write("/proc/sys/kernel/hostname", "new\n").unwrap();
    assert_eq!(guest.task.uts().names.read().hostname, b"new");
    assert_eq!(guest.write("/proc/sys/vm/swappiness", "201"), Err(Errno::EINVAL));
    assert_eq!(guest.write("/proc/sys/vm/swappiness", "0x10\n"), Ok(5));
    assert_eq!(guest.read("/proc/sys/vm/swappiness"), "16\n");
    guest.write("/proc/sys/kernel/sem", "32000 5000").unwrap();
    assert_eq!(guest.read("/proc/sys/kernel/sem"), "32000\t5000\t500\t32000\n");
    // Fixed ones refuse root too.
    assert_eq!(guest.open("/proc/sys/kernel/osrelease", 1).err(), Some(Errno::EACCES));
    let set = |name, value: &[u8]| guest.proc.set_sysctl(&guest.task.uts(), &guest.task.net(), name, value);
    set("kernel.msgmax", b"128").unwrap();
    assert_eq!(guest.read("/proc/sys/kernel/msgmax"), "128\n");
    assert_eq!(set("kernel.osrelease", b"1"), Err(Errno::EACCES));
    assert_eq!(set("kernel.nothing", b"1"), Err(Errno::ENOENT));
    let id = guest.read("/proc/sys/kernel/random/boot_id");
    assert_eq!((id.len(), id == guest.read("/proc/sys/kernel/random/boot_id")), (37, true));
    assert_ne!(guest.read("/proc/sys/kernel/random/uuid"), guest.read("/proc/sys/kernel/random/uuid"));
}

/// Every file can be read, and listings and look-ups agree on numbers and types.
/// A network with two tunables, one of them a link's whose name has a dot.
#[derive(Default)]
struct Net(Mutex<BTreeMap<&'static str, Vec<i64>>>);

impl NetFiles for Net {
    fn text(&self, _: &Stack, _: &str) -> Option<Vec<u8>> {
        None
    }
    fn tunables_in(&self, _: &Stack, dir: &str) -> BTreeMap<String, bool> {
        let paths = self.0.lock().unwrap();
        let below = paths.keys().filter_map(|path| match dir {
            "" => Some(*path),
            _ => path.strip_prefix(dir)?.strip_prefix('/'),
        });
        let names = below.map(|rest| rest.split_once('/').map_or((rest, false), |(name, _)| (name, true)));
        names.map(|(name, is_dir)| (name.to_owned(), is_dir)).collect()
    }
    fn tunable(&self, _: &Stack, path: &str) -> Option<Tunable> {
        let values = self.0.lock().unwrap().get(path)?.clone();
        Some(Tunable {
            value: TunableValue::Numbers { values, min: 0, max: 99 },
            writable: !path.ends_with("ro"),
        })
    }
    fn tune(&self, _: &Stack, path: &str, numbers: &[i64]) -> Result<(), Errno> {
        let mut known = self.0.lock().unwrap();
        let values = known.get_mut(path).ok_or(Errno::ENOENT)?;
        values.iter_mut().zip(numbers).for_each(|(value, new)| *value = *new);
        Ok(())
    }
    fn tune_words(&self, _: &Stack, _: &str, _: &str) -> Result<(), Errno> {
        Err(Errno::ENOENT)
    }
}

#[test]
fn tunables_of_the_network() {
    let guest = Guest::new();
    assert_eq!(guest.open("/proc/sys/net/core/some", 0).err(), Some(Errno::ENOENT));
    let files = [("core/some", vec![1, 2]), ("core/ro", vec![3]), ("ipv4/conf/nic.1/one", vec![4])];
    guest.kernel.extend(Arc::new(ProcNet(Box::new(Net(Mutex::new(files.into()))))));
    assert_eq!(guest.read("/proc/sys/net/core/some"), "1\t2\n");
    guest.write("/proc/sys/net/core/some", "0x10\n").unwrap();
    assert_eq!(guest.read("/proc/sys/net/core/some"), "16\t2\n");
    for bad in ["100", "1 -1", "x", ""] {
        assert_eq!(guest.write("/proc/sys/net/core/some", bad), Err(Errno::EINVAL), "{bad}");
    }
    assert_eq!(guest.open("/proc/sys/net/core/ro", 1).err(), Some(Errno::EACCES));
    let set = |name| guest.proc.set_sysctl(&guest.task.uts(), &guest.task.net(), name, b"7");
    assert_eq!(set("net.core.ro"), Err(Errno::EACCES));
    assert_eq!(set("net.core.none"), Err(Errno::ENOENT));
    for name in ["net.ipv4.conf.nic/1.one", "net/ipv4/conf/nic.1/one"] {
        guest.write("/proc/sys/net/ipv4/conf/nic.1/one", "1").unwrap();
        set(name).unwrap();
        assert_eq!(guest.read("/proc/sys/net/ipv4/conf/nic.1/one"), "7\n", "{name}");
    }
}

#[test]
fn everything_reads() {
    struct Names(Vec<(Vec<u8>, u64, chitin_vfs::FileKind)>);
    impl chitin_vfs::DirSink for Names {
        fn entry(&mut self, entry: &chitin_vfs::DirEntry<'_>) -> bool {
            self.0.push((entry.name.to_vec(), entry.ino, entry.kind));
            true
        }
    }
    fn visit(guest: &Guest, path: &str, numbers: &mut std::collections::HashSet<u64>) {
        let ctx = guest.task.context();
        let walk = chitin_vfs::walk::Walk::NOFOLLOW;
        let inode = ctx.walk(&ctx.cwd, path.as_bytes(), walk).unwrap().inode().clone();
        let mut names = Names(Vec::new());
        inode.dir().unwrap().read_dir(0, &mut names).unwrap();
        for (name, ino, kind) in names.0 {
            let path = format!("{path}/{}", String::from_utf8(name).unwrap());
            let found = ctx.walk(&ctx.cwd, path.as_bytes(), walk).unwrap().inode().clone();
            assert_eq!((found.ino(), found.kind()), (ino, kind), "{path}");
            assert_eq!(found.attr().unwrap().ino, ino, "{path}");
            assert!(numbers.insert(ino), "{path}: number used twice");
            match kind {
                chitin_vfs::FileKind::Directory => visit(guest, &path, numbers),
                chitin_vfs::FileKind::Regular if !path.ends_with("/mem") => drop(guest.read(&path)),
                _ => {}
            }
        }
    }
    let guest = Guest::new();
    guest.task.files().add(guest.open("/prog", 0).unwrap(), false, 0, 10).unwrap();
    guest.task.files().add(chitin_vfs::eventfd::EventFd::open(5, 0).unwrap(), true, 0, 10).unwrap();
    visit(&guest, "/proc", &mut Default::default());
    assert_eq!(guest.readlink("/proc/self/fd/0").unwrap(), "/prog");
    assert_eq!(guest.readlink("/proc/self/fd/1").unwrap(), "anon_inode:[eventfd]");
    assert!(guest.read("/proc/self/fdinfo/1").contains("eventfd-count:                5\n"));
    assert!(guest.read("/proc/self/fdinfo/1").contains("flags:\t02000002\n"));
}

#[test]
fn zombie() {
    let guest = Guest::new();
    guest.write("/proc/self/comm", "gone").unwrap();
    let open = guest.open("/proc/1/stat", 0).unwrap();
    guest.task.files().add(guest.open("/prog", 0).unwrap(), false, 0, 10).unwrap();
    chitin_kernel::exit::exit_group(&guest.task, 3);
    let stat = String::from_utf8(read_all(&open).unwrap()).unwrap();
    assert!(stat.starts_with("1 (gone) Z 0 1 1 "), "{stat}");
    // 3 << 8, the status that wait(2) shows.
    assert!(stat.ends_with(" 768\n"), "{stat}");
    assert!(guest.read("/proc/1/status").contains("State:\tZ (zombie)\n"));
    assert!(!guest.read("/proc/1/status").contains("VmSize"));
    for path in ["cmdline", "maps", "environ", "task/1/cmdline"] {
        assert_eq!(guest.read(&format!("/proc/1/{path}")), "", "{path}");
    }
    assert_eq!(guest.readlink("/proc/1/exe"), Err(Errno::ENOENT));
    assert_eq!(guest.readlink("/proc/1/cwd"), Err(Errno::ENOENT));
    assert_eq!(guest.open("/proc/1/fd/0", 0).err(), Some(Errno::ENOENT));
    assert_eq!(guest.read("/proc/1/comm"), "gone\n");
}

#[test]
fn strangers_see_less() {
    let guest = Guest::new();
    let mut ctx = guest.task.context();
    let mut creds = chitin_vfs::Creds::root();
    (creds.uid, creds.euid, creds.suid, creds.fsuid) = (1000, 1000, 1000, 1000);
    (creds.permitted, creds.effective) = Default::default();
    ctx.caller = chitin_vfs::Caller { tgid: 77, tid: 77, creds: creds.into() };
    let open = |path: &str, flags: u32| {
        let how = chitin_vfs::ops::OpenHow { flags, ..Default::default() };
        match ctx.open(&ctx.cwd, path.as_bytes(), &how) {
            Ok(chitin_vfs::ops::Opened::File(file)) => Ok(file),
            Ok(_) => panic!("no FIFO"),
            Err(error) => Err(error),
        }
    };
    for path in ["environ", "maps", "mem", "smaps", "io", "fd", "fdinfo", "exe", "cwd", "auxv"] {
        assert_eq!(open(&format!("/proc/1/{path}"), 0).err(), Some(Errno::EACCES), "{path}");
    }
    assert_eq!(open("/proc/1/comm", 1).err(), Some(Errno::EACCES));
    assert_eq!(open("/proc/sys/kernel/hostname", 1).err(), Some(Errno::EACCES));
    let stat = String::from_utf8(read_all(&open("/proc/1/stat", 0).unwrap()).unwrap()).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split_whitespace().collect();
    // start_code, end_code, start_stack; start_data to exit_code.
    assert_eq!(fields[23..26], ["1", "1", "0"]);
    assert!(fields[42..].iter().all(|field| *field == "0"), "{stat}");
}
