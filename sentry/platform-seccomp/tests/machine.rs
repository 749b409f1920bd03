//! The platform suite, and what only this platform has.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod fast;
mod stops;

use chitin_platform::*;
use chitin_platform_seccomp::{Config, Options, SeccompPlatform};
use chitin_platform_tests::*;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const STUB: u64 = 0x7000_0000_0000;

/// The platform of this process's case.
static PLATFORM: OnceLock<Arc<SeccompPlatform>> = OnceLock::new();

fn main() {
    let modes = [("new", Place::Namespace), ("old", Place::Namespace), ("plain", Place::Plain)];
    chitin_platform_tests::main(
        &modes,
        make,
        &[
            ("parking_many", parking_many),
            ("lines_share", lines_share),
            ("hostile_mask", forged_mask),
            ("fast_exactly_once", fast::exactly_once),
            ("fast_forged", fast::forged_requests),
            ("stop_answered", stops::answered),
            ("stop_storm", stops::storm),
            ("stop_file_maps", stops::file_maps),
            ("stop_zygote", stops::zygote),
        ],
    );
}

fn make(mode: &str) -> Subject {
    let old = mode == "old";
    let options = Options { disable_wait_killable: old, disable_sync_wake: old, ..Options::default() };
    let platform = SeccompPlatform::new(Config { proc_dir: None, options }).expect("platform");
    let platform = PLATFORM.get_or_init(|| Arc::new(platform)).clone();
    let group = platform.process_group();
    Subject {
        platform,
        traits: Traits { host_side: true, lazy_frames: true, kept_fds: 1 },
        kill: Box::new(move || {
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }),
    }
}

fn platform() -> &'static SeccompPlatform {
    PLATFORM.get().expect("platform")
}

fn outstanding() -> usize {
    platform().outstanding()
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
    let end = Instant::now() + Duration::from_secs(5);
    while outstanding() > 60 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(outstanding() <= 60, "{} outstanding", outstanding());
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
    kids.iter().for_each(|k| gone(m, k));
    g.task.resume(Resume::Return(0));
    m.syscall(&g, 110);
}

/// New programs go to the line with the fewest; what they fork stays with them, and holds their place when they end.
fn lines_share(m: &Machine) {
    let counts = || platform().programs();
    let wait_for = |want: &[usize]| {
        let end = Instant::now() + Duration::from_secs(5);
        while counts() != want && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(counts(), want);
    };
    let lines = counts().len();
    assert_eq!(lines, std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4));
    let mut all: Vec<_> = (0..2 * lines).map(|_| m.load(entry!(g_getppid))).collect();
    assert_eq!(counts(), vec![2; lines]);
    for g in &all {
        g.task.resume(Resume::Frame);
        m.syscall(g, 110);
        g.task.resume(Resume::Return(0));
        m.syscall(g, 110);
    }
    let first = all.remove(0);
    let child = m.adopt(wait(first.task.spawn(Spawn::Fork)).expect("fork"));
    assert_eq!(counts(), vec![2; lines]);
    first.task.kill_process();
    gone(m, &first);
    drop(first);
    assert_eq!(counts(), vec![2; lines]);
    child.task.kill_process();
    gone(m, &child);
    drop(child);
    let mut want = vec![2; lines];
    want[0] = 1;
    wait_for(&want);
    let again = m.load(entry!(g_getppid));
    assert_eq!(counts(), vec![2; lines]);
    all.push(again);
    all.iter().for_each(|g| g.task.kill_process());
    all.iter().for_each(|g| gone(m, g));
    all.clear();
    wait_for(&vec![0; lines]);
}

/// A guest that masks every signal by a forged rt_sigreturn can still be killed, and hurts nobody else.
fn forged_mask(m: &Machine) {
    for target in [entry!(g_spin), entry!(g_brk), entry!(g_fault), entry!(g_getppid)] {
        let g = m.load(entry!(g_spin));
        forged_frame(&g, DATA + 0x800, target);
        // The stub's own rt_sigreturn: `mov rsp, r13; mov eax, 15; syscall`.
        let mut page = Vec::new();
        let path = format!("/proc/{}/mem", g.task.debug_id());
        let f = std::fs::File::open(path).expect("mem");
        page.resize(0x1000, 0);
        std::os::unix::fs::FileExt::read_at(&f, &mut page, STUB).expect("read the stub");
        let code = [0x4c, 0x89, 0xec, 0xb8, 15, 0, 0, 0, 0x0f, 0x05];
        let at = page.windows(code.len()).position(|w| w == code).expect("the stub's sigreturn");
        let mut r = g.task.registers().expect("registers");
        (r.rip, r.r13) = (STUB + at as u64, DATA + 0x800);
        g.task.set_registers(&r).expect("set");
        g.task.resume(Resume::Frame);
        std::thread::sleep(Duration::from_millis(5));
        g.task.interrupt();
        endure(m, &g);
        for _ in 0..500 {
            if status(&g, "State:").is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(status(&g, "State:"), None, "the host process stays");
    }
    while m.events.try_recv().is_ok() {}
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
}
