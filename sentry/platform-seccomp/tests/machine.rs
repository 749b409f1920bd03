//! Tests of the platform on the real host: each case runs in a process (and PID namespace) of its own under a watchdog.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod common;
mod hostile;

use chitin_platform::*;
use chitin_platform_seccomp::Options;
use common::*;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Case = (&'static str, fn(&Machine));

const CASES: &[Case] = &[
    ("getppid_and_copies", getppid_and_copies),
    ("brk_traps", brk_traps),
    ("fork_copies", fork_copies),
    ("thread_shares", thread_shares),
    ("shared_process", shared_process),
    ("faults", faults),
    ("kick_running", kick_running),
    ("kick_in_syscall", kick_in_syscall),
    ("frame_on_demand", frame_on_demand),
    ("native_mmap", native_mmap),
    ("file_mmap", file_mmap),
    ("high_fd_mmap", high_fd_mmap),
    ("exit_and_kill", exit_and_kill),
    ("unexpected_death", unexpected_death),
    ("fpu_and_bases", fpu_and_bases),
    ("mappings_hide_ours", mappings_hide_ours),
    ("forks_200", forks_200),
    ("threads_200", threads_200),
    ("parking_many", parking_many),
    ("leader_exits_first", leader_exits_first),
    ("copy_faults", copy_faults),
    ("apply_files", apply_files),
    ("interrupt_storm", interrupt_storm),
    ("families", families),
    ("lost_origin", lost_origin),
    ("hostile_numbers", hostile::every_number),
    ("hostile_jumps", hostile::jumps_into_the_stub),
    ("hostile_window", hostile::window_calls),
    ("hostile_mask", hostile::forged_mask),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, mode] = &args[..] {
        if flag == "--case" {
            let case = CASES.iter().find(|c| c.0 == name).expect("case");
            watchdog();
            let options = Options {
                disable_wait_killable: mode == "old",
                disable_sync_wake: mode == "old",
                ..Options::default()
            };
            if std::env::var_os("CASE_LOG").is_some() {
                tracing_subscriber::fmt()
                    .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
                    .init();
            }
            let m = Machine::new(options);
            let group = m.plat.process_group();
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (case.1)(&m)));
            unsafe { libc::kill(-group, libc::SIGKILL) };
            std::process::exit(i32::from(r.is_err()));
        }
    }
    let filter = args.iter().find(|a| !a.starts_with('-'));
    let exe = std::env::current_exe().expect("exe");
    let mut bad = Vec::new();
    let namespaces =
        Command::new("unshare").args(["-pf", "--mount-proc", "true"]).status().is_ok_and(|s| s.success());
    if !namespaces {
        eprintln!("SKIP: PID namespaces cannot be made here; cases run in plain processes");
    }
    for (name, _) in CASES {
        if filter.is_some_and(|f| !name.contains(f.as_str())) {
            continue;
        }
        for mode in ["new", "old", "plain"] {
            let mut c = if namespaces && mode != "plain" {
                let mut c = Command::new("unshare");
                c.args(["-pf", "--mount-proc", "--kill-child"]).arg(&exe);
                c
            } else {
                Command::new(&exe)
            };
            if mode == "plain" && *name != "fork_copies" {
                continue;
            }
            let start = Instant::now();
            let ok = c.args(["--case", name, mode]).status().expect("spawn").success();
            let ms = start.elapsed().as_millis();
            println!("{} {name} ({mode}) {ms} ms", if ok { "ok  " } else { "FAIL" });
            if !ok {
                bad.push(format!("{name} ({mode})"));
            }
        }
    }
    if !bad.is_empty() {
        eprintln!("failed: {}", bad.join(", "));
        std::process::exit(1);
    }
}

fn watchdog() {
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(20));
        eprintln!("watchdog: the case hangs");
        // The zygote's group: our only children.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        std::process::exit(3);
    });
}

fn getppid_and_copies(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    for i in 0..100i64 {
        m.syscall(&g, 110);
        assert!(!g.task.has_frame());
        if i > 0 {
            assert_eq!(word(&g, DATA), (i - 1) as u64 + 7);
        }
        g.task.resume(Resume::Return(i + 7));
    }
    m.syscall(&g, 110);
    g.space.write(DATA + 100, b"hello").expect("write");
    let mut b = [0; 5];
    g.space.read(DATA + 100, &mut b).expect("read");
    assert_eq!(&b, b"hello");
    assert_eq!(g.space.compare_exchange_u32(DATA + 8, 0, 5), Ok(0));
    assert_eq!(g.space.compare_exchange_u32(DATA + 8, 0, 6), Ok(5));
    g.task.resume(Resume::Return(-38));
    m.syscall(&g, 110);
    assert_eq!(word(&g, DATA) as i64, -38);
}

fn brk_traps(m: &Machine) {
    let g = m.load(entry!(g_brk));
    g.task.resume(Resume::Frame);
    let args = m.syscall(&g, 12);
    assert!(g.task.has_frame());
    assert_eq!(args[0], 0x1234);
    let r = g.task.registers().expect("registers");
    assert_eq!((r.rax, r.rdi), (12, 0x1234));
    g.task.resume(Resume::Return(0x5678));
    assert_eq!(m.syscall(&g, 60)[0], 0x5678);
    g.task.exit_thread();
    m.no_event(50);
}

fn fork_copies(m: &Machine) {
    let g = m.load(entry!(g_store));
    let mut r = g.task.registers().expect("registers");
    r.r15 = DATA;
    r.r14 = 11;
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    assert_eq!(m.syscall(&g, 39)[0], 11);
    let child = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
    let mut r = child.task.registers().expect("child registers");
    assert_eq!(r.r14, 11);
    r.r14 = 22;
    child.task.set_registers(&r).expect("set");
    child.task.resume(Resume::Return(1));
    assert_eq!(m.syscall(&child, 39)[0], 22);
    assert_eq!(word(&child, DATA), 22);
    assert_eq!(word(&g, DATA), 11);
    g.task.resume(Resume::Return(2));
    assert_eq!(m.syscall(&g, 39)[0], 11);
    // A grandchild, from the child.
    let grand = m.adopt(wait(child.task.spawn(Spawn::Fork)).expect("fork"));
    grand.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&grand, 39)[0], 22);
}

fn thread_shares(m: &Machine) {
    let g = m.load(entry!(g_store));
    let mut r = g.task.registers().expect("registers");
    (r.r15, r.r14) = (DATA, 11);
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
    let mut r = t.task.registers().expect("registers");
    (r.r15, r.r14, r.fs_base) = (DATA + 64, 33, DATA);
    t.task.set_registers(&r).expect("set");
    t.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&t, 39)[0], 33);
    assert_eq!(word(&g, DATA + 64), 33);
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 39);
    // The thread can be kicked, forks and has a frame of its own.
    wait(t.task.ensure_frame()).expect("frame");
    assert_eq!(t.task.registers().expect("registers").fs_base, DATA);
    let f = m.adopt(wait(t.task.spawn(Spawn::Fork)).expect("fork from a thread"));
    f.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&f, 39)[0], 33);
    let ft = m.adopt(wait(f.task.spawn(Spawn::Thread)).expect("thread in the fork"));
    ft.task.resume(Resume::Return(0));
    m.syscall(&ft, 39);
    t.task.exit_thread();
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 39);
}

fn shared_process(m: &Machine) {
    let g = m.load(entry!(g_store));
    let mut r = g.task.registers().expect("registers");
    (r.r15, r.r14) = (DATA, 11);
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    let v = m.adopt(wait(g.task.spawn(Spawn::SharedProcess)).expect("vfork"));
    let mut r = v.task.registers().expect("registers");
    (r.r15, r.r14) = (DATA + 8, 44);
    v.task.set_registers(&r).expect("set");
    v.task.resume(Resume::Return(0));
    assert_eq!(m.syscall(&v, 39)[0], 44);
    assert_eq!(word(&g, DATA + 8), 44);
    v.task.kill_process();
    std::thread::sleep(Duration::from_millis(20));
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 39);
    // The other way round: the maker dies, the copy goes on and can be read.
    let v = m.adopt(wait(g.task.spawn(Spawn::SharedProcess)).expect("vfork"));
    g.task.kill_process();
    std::thread::sleep(Duration::from_millis(20));
    v.task.resume(Resume::Return(0));
    m.syscall(&v, 39);
    assert_eq!(word(&v, DATA + 8), 44);
    m.no_event(20);
}

fn faults(m: &Machine) {
    let g = m.load(entry!(g_fault));
    g.task.resume(Resume::Frame);
    let skip = |n: u64| {
        let mut r = g.task.registers().expect("registers");
        r.rip += n;
        g.task.set_registers(&r).expect("set");
        g.task.resume(Resume::Frame);
    };
    let fault = || match m.event().kind {
        EventKind::Fault { signal, code, addr, trap_no, .. } => (signal, code, addr, trap_no),
        k => panic!("{k:?}"),
    };
    assert_eq!(fault(), (libc::SIGSEGV, 1, 0x1234_5678_9000, 14));
    skip(3);
    let (s, c, a, t) = fault();
    assert_eq!((s, c, t), (libc::SIGILL, 2, 6));
    assert_eq!(a, g.task.registers().expect("registers").rip);
    skip(2);
    let (s, _, _, t) = fault();
    assert_eq!((s, t), (libc::SIGTRAP, 3));
    skip(0);
    let (s, c, _, t) = fault();
    assert_eq!((s, c, t), (libc::SIGFPE, 1, 0));
    skip(2);
    let (s, c, _, t) = fault();
    assert_eq!((s, c, t), (libc::SIGSEGV, 128, 13));
}

fn kick_running(m: &Machine) {
    let g = m.load(entry!(g_spin));
    g.task.resume(Resume::Frame);
    let mut last = 0;
    for _ in 0..50 {
        while word(&g, DATA) == last {
            std::thread::yield_now();
        }
        g.task.interrupt();
        g.task.interrupt();
        m.interrupted(&g);
        let r = g.task.registers().expect("registers");
        assert!((entry!(g_spin)..entry!(g_spin) + 16).contains(&r.rip), "{:x}", r.rip);
        last = word(&g, DATA);
        std::thread::sleep(Duration::from_micros(200));
        assert_eq!(word(&g, DATA), last, "it runs while stopped");
        g.task.resume(Resume::Frame);
    }
}

fn kick_in_syscall(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.interrupt();
    g.task.resume(Resume::Frame);
    m.interrupted(&g);
    assert_eq!(g.task.registers().expect("registers").rip, entry!(g_getppid));
    g.task.resume(Resume::Frame);
    for i in 0..50 {
        m.syscall(&g, 110);
        g.task.interrupt();
        m.no_event(1);
        g.task.resume(Resume::Return(1000 + i));
        m.interrupted(&g);
        let r = g.task.registers().expect("registers");
        assert_eq!(r.rax as i64, 1000 + i);
        assert_eq!(r.rip, entry!(g_getppid) + 7);
        g.task.resume(Resume::Frame);
    }
    // Native with an interrupt owed.
    m.syscall(&g, 110);
    g.task.interrupt();
    g.task.resume(Resume::Native);
    m.interrupted(&g);
    let r = g.task.registers().expect("registers");
    assert!((r.rax as i64) >= 0);
    assert_eq!(r.rip, entry!(g_getppid) + 7);
    // On a trapped call.
    let b = m.load(entry!(g_brk));
    b.task.resume(Resume::Frame);
    m.syscall(&b, 12);
    b.task.interrupt();
    b.task.resume(Resume::Return(77));
    m.interrupted(&b);
    assert_eq!(b.task.registers().expect("registers").rax, 77);
    b.task.resume(Resume::Frame);
    assert_eq!(m.syscall(&b, 60)[0], 77);
}

fn frame_on_demand(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    for i in 0..20u64 {
        m.syscall(&g, 110);
        assert!(!g.task.has_frame());
        wait(g.task.ensure_frame()).expect("frame");
        assert!(g.task.has_frame());
        let r = g.task.registers().expect("registers");
        assert_eq!(r.rip, entry!(g_getppid) + 7);
        if i % 2 == 0 {
            g.task.interrupt();
        }
        g.task.resume(Resume::Return(i as i64));
        if i % 2 == 0 {
            m.interrupted(&g);
            g.task.resume(Resume::Frame);
        }
        m.syscall(&g, 110);
        assert_eq!(word(&g, DATA), i);
        // Native with a frame: the stub makes the call.
        wait(g.task.ensure_frame()).expect("frame");
        g.task.resume(Resume::Native);
    }
    m.syscall(&g, 110);
}

fn mmap_call(m: &Machine, g: &Guest, args: [u64; 6], file: Option<MapFile<'_>>) -> i64 {
    m.arm(g, 9, args);
    g.task.resume(if g.task.has_frame() { Resume::Frame } else { Resume::Return(0) });
    assert_eq!(m.syscall(g, 9), args);
    let call = MapCall::Mmap {
        addr: args[0],
        len: args[1],
        prot: args[2] as u32,
        flags: args[3] as u32,
        file,
        offset: args[5],
    };
    match g.space.map_call(&*g.task, &call) {
        Ok(Native::Host) => g.task.resume(Resume::Native),
        Ok(Native::Done(v)) => g.task.resume(Resume::Return(v as i64)),
        Err(e) => g.task.resume(Resume::Return(-i64::from(e))),
    }
    m.syscall(g, 39);
    word(g, DATA) as i64
}

fn native_mmap(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let r = mmap_call(m, &g, [0, 0x3000, 3, 0x22, u64::MAX, 0], None);
    assert!(r > 0 && r % 4096 == 0, "{r}");
    g.space.write(r as u64, b"x").expect("write to the new mapping");
    let v = g.space.mapping_at(r as u64 + 0x1000).expect("mapping_at").expect("there");
    assert_eq!((v.prot, v.shared, v.kind), (3, false, HostVmaKind::Anonymous));
    let own = g.space.reserved();
    for addr in [own.start, own.start - 0x1000, own.start + 0x10_0000, own.end - 0x1000] {
        let r = mmap_call(m, &g, [addr, 0x2000, 3, 0x32, u64::MAX, 0], None);
        assert_eq!(r, -i64::from(libc::ENOMEM));
    }
    let over = MapCall::Munmap { addr: 0x1000, len: u64::MAX - 0x1000 };
    assert_eq!(g.space.map_call(&*g.task, &over), Err(libc::EINVAL));
    let over = MapCall::Munmap { addr: 0x1000, len: 0x7000_0000_0000 };
    assert_eq!(g.space.map_call(&*g.task, &over), Err(libc::EINVAL));
}

fn temp_file(data: &[u8]) -> std::fs::File {
    use std::io::Write;
    let path = std::env::temp_dir().join(format!("t-seccomp-{}-{}", std::process::id(), data.len()));
    std::fs::write(&path, b"").expect("temp file");
    let mut f = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
    f.write_all(data).expect("write");
    std::fs::remove_file(&path).expect("unlink");
    f
}

fn file_mmap(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let f = temp_file(&[0x5a; 8192]);
    let file = MapFile { guest_fd: 5, host: f.as_fd() };
    let r = mmap_call(m, &g, [0, 0x2000, 1, 2, 5, 0], Some(file));
    assert!(r > 0, "{r}");
    assert_eq!(word(&g, r as u64 + 4096), 0x5a5a_5a5a_5a5a_5a5a);
    assert_eq!(g.space.write(r as u64, b"x"), Err(CopyFault { done: 0 }));
    let v = g.space.mapping_at(r as u64).expect("mapping_at").expect("there");
    assert!(v.ino != 0 && v.kind == HostVmaKind::File);
    let list = g.space.mappings(true).expect("mappings");
    let w = list.iter().find(|x| x.range.contains(&(r as u64))).expect("listed");
    assert_eq!((w.dev, w.ino, w.offset), (v.dev, v.ino, v.offset));
}

fn high_fd_mmap(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let f = temp_file(&[0x6b; 4096]);
    for fd in [1000u64, 1023, 5000, 0x7fff_ffff] {
        let file = MapFile { guest_fd: fd as i32, host: f.as_fd() };
        let r = mmap_call(m, &g, [0, 0x1000, 1, 2, fd, 0], Some(file));
        assert!(r > 0, "{r}");
        assert_eq!(word(&g, r as u64), 0x6b6b_6b6b_6b6b_6b6b);
    }
}

fn alive(g: &Guest) -> bool {
    unsafe { libc::kill(g.task.debug_id() as i32, 0) == 0 }
}

fn gone(g: &Guest) {
    for _ in 0..500 {
        if !alive(g) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("the host process stays");
}

fn exit_and_kill(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    g.task.exit_thread();
    gone(&g);
    assert!(matches!(g.task.registers(), Err(PlatformError::Gone)));
    assert!(g.space.read(DATA, &mut [0; 4]).is_err());
    let g = m.load(entry!(g_spin));
    g.task.resume(Resume::Frame);
    assert!(alive(&g));
    g.task.kill_process();
    gone(&g);
    let g = m.load(entry!(g_brk));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 12);
    let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
    t.task.resume(Resume::Return(5));
    assert_eq!(m.syscall(&t, 60)[0], 5);
    t.task.exit_thread();
    gone(&t);
    assert!(alive(&g));
    g.task.kill_process();
    gone(&g);
    m.no_event(20);
}

fn unexpected_death(m: &Machine) {
    let g = m.load(entry!(g_spin));
    g.task.resume(Resume::Frame);
    unsafe { libc::kill(g.task.debug_id() as i32, libc::SIGKILL) };
    let e = m.event();
    assert!(matches!(e.kind, EventKind::Exited { signal: libc::SIGKILL }), "{:?}", e.kind);
    assert_eq!(guest_of(&e).id, g.id);
    gone(&g);
    // The platform still works.
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
}

fn fpu_and_bases(m: &Machine) {
    let g = m.load(entry!(g_fpu));
    let mut fp = Vec::new();
    g.task.read_fpstate(&mut fp).expect("fpstate");
    assert_eq!(fp.len(), g.task.fpstate_len());
    assert_eq!(u16::from_le_bytes([fp[0], fp[1]]), 0x37f);
    assert_eq!(u32::from_le_bytes([fp[24], fp[25], fp[26], fp[27]]), 0x1f80);
    fp[160..168].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    fp[512] |= 3; // XSTATE_BV: x87 and SSE
    g.task.write_fpstate(&fp).expect("write fpstate");
    g.space.write(DATA, &0xfeedu64.to_le_bytes()).expect("write");
    let mut r = g.task.registers().expect("registers");
    r.fs_base = DATA;
    g.task.set_registers(&r).expect("set");
    g.task.resume(Resume::Frame);
    m.syscall(&g, 39);
    wait(g.task.ensure_frame()).expect("frame");
    assert_eq!(g.task.registers().expect("registers").fs_base, DATA);
    g.task.resume(Resume::Return(0));
    let a = m.syscall(&g, 60);
    assert_eq!((a[0], a[1]), (0x1122_3344_5566_7788, 0xfeed));
    wait(g.task.ensure_frame()).expect("frame");
    let mut bad = fp.clone();
    bad[27] = 0xff;
    assert!(g.task.write_fpstate(&bad).is_err());
    assert!(g.task.write_fpstate(&fp[8..]).is_err());
    g.task.write_fpstate(&[]).expect("reset");
}

fn mappings_hide_ours(m: &Machine) {
    let g = m.load(entry!(g_spin));
    let list = g.space.mappings(false).expect("mappings");
    let own = g.space.reserved();
    for v in &list {
        assert!(v.range.end <= own.start || v.range.start >= own.end, "{v:x?}");
    }
    let anon: Vec<_> = list.iter().filter(|v| v.kind == HostVmaKind::Anonymous).collect();
    assert_eq!(anon.len(), 3, "{list:x?}");
    assert!(list.iter().any(|v| v.kind == HostVmaKind::Vdso && Some(v.range.start) == g.space.vdso()));
    let u = g.space.usage();
    assert!(u.virt >= 0x30000 && u.virt < 0x100000, "{u:?}");
    assert_eq!(g.space.mapping_at(own.start).expect("mapping_at"), None);
    assert!(g.space.read(own.start, &mut [0; 8]).is_err());
    let h = m.load(entry!(g_spin));
    let at = |g: &Guest| {
        let op = HostOp::Mmap { addr: 0, len: 4096, prot: 1, flags: 0x22, file: None };
        wait(g.space.apply(g.task.clone(), vec![op])).expect("apply")[0]
    };
    assert_ne!(at(&g), at(&h), "mmap bases are randomised");
}

fn forks_200(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let mut kids = Vec::new();
    for i in 0..200 {
        let c = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
        c.task.resume(Resume::Return(i));
        m.syscall(&c, 110);
        assert_eq!(word(&c, DATA), i as u64);
        kids.push(c);
        if i % 2 == 0 {
            kids.remove(0).task.kill_process();
        }
    }
    assert_eq!(word(&g, DATA), 0);
    kids.iter().for_each(|k| k.task.exit_thread());
    kids.iter().for_each(|k| gone(k));
    g.task.resume(Resume::Return(1));
    m.syscall(&g, 110);
}

fn threads_200(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    for round in 0..2 {
        let mut kids = Vec::new();
        for i in 0..200 {
            let c = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
            c.task.resume(Resume::Return(i));
            m.syscall(&c, 110);
            assert_eq!(word(&c, DATA), i as u64);
            kids.push(c);
        }
        // A fork of a process with many windows.
        let f = m.adopt(wait(kids[100].task.spawn(Spawn::Fork)).expect("fork"));
        f.task.resume(Resume::Return(1));
        m.syscall(&f, 110);
        let ft = m.adopt(wait(f.task.spawn(Spawn::Thread)).expect("thread of the fork"));
        ft.task.resume(Resume::Return(1));
        m.syscall(&ft, 110);
        f.task.kill_process();
        kids.iter().for_each(|k| k.task.exit_thread());
        kids.iter().for_each(|k| gone(k));
        g.task.resume(Resume::Return(round));
        m.syscall(&g, 110);
    }
}

fn parking_many(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let mut kids = Vec::new();
    for i in 0..300 {
        let c = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
        c.task.resume(Resume::Return(i));
        m.syscall(&c, 110);
        kids.push(c);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(m.plat.outstanding() <= 60, "{} outstanding", m.plat.outstanding());
    m.no_event(5);
    for (i, k) in kids.iter().enumerate() {
        match i % 4 {
            0 => k.task.resume(Resume::Return(i as i64)),
            1 => {
                k.task.interrupt();
                k.task.resume(Resume::Return(i as i64));
                m.interrupted(k);
                let r = k.task.registers().expect("registers");
                assert_eq!((r.rax, r.rip), (i as u64, entry!(g_getppid) + 7));
                k.task.resume(Resume::Frame);
            }
            2 => {
                wait(k.task.ensure_frame()).expect("frame");
                k.task.resume(Resume::Return(i as i64));
            }
            _ => {
                k.task.resume(Resume::Native);
                m.syscall(k, 110);
                continue;
            }
        }
        m.syscall(k, 110);
        assert_eq!(word(k, DATA), i as u64);
    }
    std::thread::sleep(Duration::from_millis(30));
    kids.iter().for_each(|k| k.task.exit_thread());
    kids.iter().for_each(|k| gone(k));
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 110);
}

fn leader_exits_first(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
    g.task.exit_thread();
    t.task.resume(Resume::Return(9));
    m.syscall(&t, 110);
    assert_eq!(word(&t, DATA), 9);
    t.task.exit_thread();
    gone(&g);
    m.no_event(20);
}

fn copy_faults(m: &Machine) {
    let g = m.load(entry!(g_spin));
    let end = DATA + 0x10000;
    let mut b = vec![0u8; 0x3000];
    assert_eq!(g.space.read(end - 0x1234, &mut b), Err(CopyFault { done: 0x1234 }));
    assert_eq!(g.space.write(end - 5, &b), Err(CopyFault { done: 5 }));
    assert_eq!(g.space.read(0, &mut b), Err(CopyFault { done: 0 }));
    assert_eq!(g.space.read(u64::MAX - 5, &mut b), Err(CopyFault { done: 0 }));
    assert_eq!(g.space.read(0xffff_8000_0000_0000, &mut b), Err(CopyFault { done: 0 }));
    g.space.write(DATA, b"abcdefgh").expect("write");
    let mut out = [0u8; 6];
    g.space.read_vectored(&[(DATA, 2), (DATA + 4, 3), (DATA + 7, 1)], &mut out).expect("readv");
    assert_eq!(&out, b"abefgh");
    let ranges: Vec<_> =
        (0..200).map(|i| (DATA + 0x100 + i * 16, 3)).chain([(end - 2, 4), (DATA, 1)]).collect();
    let mut big = vec![7u8; 605];
    assert_eq!(g.space.write_vectored(&ranges, &big), Err(CopyFault { done: 602 }));
    big.fill(0);
    assert_eq!(g.space.read_vectored(&ranges[..200], &mut big[..600]), Ok(()));
    assert!(big[..600].iter().all(|b| *b == 7));
}

fn apply_files(m: &Machine) {
    let g = m.load(entry!(g_spin));
    let f = Arc::new(std::os::fd::OwnedFd::from(temp_file(&[0x77; 16384])));
    let ops: Vec<HostOp> = (0..30)
        .map(|i| HostOp::Mmap {
            addr: 0x1000_0000 + i * 0x4000,
            len: 0x4000,
            prot: 1,
            flags: 0x12,
            file: Some((f.clone(), 0)),
        })
        .collect();
    let r = wait(g.space.apply(g.task.clone(), ops)).expect("apply");
    assert_eq!(r.len(), 30);
    assert_eq!(word(&g, 0x1000_0000 + 29 * 0x4000 + 0x3000), 0x7777_7777_7777_7777);
    let fds = std::fs::read_dir(format!("/proc/{}/fd", g.task.debug_id())).expect("fds").count();
    assert_eq!(fds, 1, "only the windows' descriptor stays");
    let bad = vec![
        HostOp::Mmap { addr: 0, len: 4096, prot: 3, flags: 0x22, file: None },
        HostOp::Mmap { addr: 1, len: 4096, prot: 3, flags: 0x12, file: Some((f.clone(), 0)) },
        HostOp::Munmap { addr: 0x1000_0000, len: 4096 },
    ];
    match wait(g.space.apply(g.task.clone(), bad)) {
        Err((1, PlatformError::Host { errno: libc::EINVAL, .. })) => {}
        r => panic!("{r:?}"),
    }
    assert_eq!(word(&g, 0x1000_0000), 0x7777_7777_7777_7777);
    let fds = std::fs::read_dir(format!("/proc/{}/fd", g.task.debug_id())).expect("fds").count();
    assert_eq!(fds, 1);
}

fn interrupt_storm(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    let t = g.task.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let s = stop.clone();
    let h = std::thread::spawn(move || {
        let mut n = 0;
        while !s.load(std::sync::atomic::Ordering::Relaxed) {
            t.interrupt();
            n += 1;
            for _ in 0..n % 300 {
                std::hint::spin_loop();
            }
        }
    });
    g.task.resume(Resume::Frame);
    let (mut calls, mut ints) = (0u64, 0u64);
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        match m.event().kind {
            EventKind::Syscall { nr: 110, .. } => {
                // What the last call returned must have been stored, whatever interrupted it.
                if calls > 0 {
                    assert_eq!(word(&g, DATA), calls + 100);
                }
                calls += 1;
                g.task.resume(Resume::Return(calls as i64 + 100));
            }
            EventKind::Interrupted => {
                ints += 1;
                g.task.resume(Resume::Frame);
            }
            k => panic!("{k:?}"),
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    h.join().expect("join");
    assert!(calls > 50 && ints > 3, "{calls} calls, {ints} interrupts");
}

fn family(m: &Machine, lost: std::sync::mpsc::Sender<i32>) -> Arc<dyn SpaceGroup> {
    let lost = std::sync::Mutex::new(lost);
    let lost: OnLost =
        Box::new(move |signal| lost.lock().expect("lost").send(signal).expect("the test listens"));
    wait(m.plat.new_group(lost)).expect("group")
}

/// Spaces of a family work like others and outlive it; its wanted end is told to nobody.
fn families(m: &Machine) {
    let (tx, rx) = std::sync::mpsc::channel();
    let group = family(m, tx);
    let g = m.load_from(wait(group.new_space()).expect("space"), entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    drop(group);
    g.task.resume(Resume::Return(100));
    m.syscall(&g, 110);
    assert_eq!(word(&g, DATA), 100);
    let fork = wait(g.task.spawn(Spawn::Fork)).expect("fork");
    fork.task.kill_process();
    std::thread::sleep(Duration::from_millis(100));
    assert!(rx.try_recv().is_err());
}

/// The host ends an origin: who made it hears of it, its family makes no more spaces, and others do.
fn lost_origin(m: &Machine) {
    let (tx, rx) = std::sync::mpsc::channel();
    let group = family(m, tx);
    let pidfd = group.origin().expect("pidfd");
    let g = m.load_from(wait(group.new_space()).expect("space"), entry!(g_getppid));
    // SAFETY: no memory is involved.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 9, 0, 0) };
    assert_eq!(sent, 0);
    assert_eq!(rx.recv_timeout(Duration::from_secs(5)), Ok(9));
    assert!(matches!(wait(group.new_space()), Err(PlatformError::Gone)));
    assert!(matches!(group.origin(), Err(PlatformError::Gone)));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    let other = m.load(entry!(g_getppid));
    other.task.resume(Resume::Frame);
    m.syscall(&other, 110);
}
