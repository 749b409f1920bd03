//! Calls that are not notified: each is made once and gets its own answer, whatever interrupts the thread meanwhile.
//!
//! The machine's workers hand events to another thread; here they answer themselves, as the kernel does.

use chitin_platform::*;
use chitin_platform_seccomp::{Config, Options, SeccompPlatform};
use chitin_platform_tests::*;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Where the second thread's code is.
const SCRIBBLE: u64 = 0x8000;
/// The mailbox in the first thread's window.
const MAILBOX: u64 = 0x7000_0010_0000 + 0xc80;

/// A guest that calls getppid in a loop and stores the answers.
struct Caller {
    task: Arc<dyn PlatformTask>,
    space: Arc<dyn AddressSpace>,
    /// Calls so far; the last answer was this number.
    calls: AtomicU64,
    /// Answered by another thread, or with a frame.
    late: AtomicU64,
    framed: AtomicU64,
    interrupted: AtomicU64,
    ended: AtomicBool,
    /// It does as it likes with its window.
    hostile: bool,
}

impl Caller {
    fn last_answer(&self) -> Option<u64> {
        let mut word = [0; 8];
        self.space.read(DATA, &mut word).ok()?;
        Some(u64::from_le_bytes(word))
    }

    fn handle(self: &Arc<Self>, kind: EventKind) {
        match kind {
            EventKind::Syscall { nr, ip, .. } => {
                assert!(self.hostile || nr == 110, "call {nr} at {ip:#x}");
                let n = self.calls.fetch_add(1, Ordering::SeqCst);
                assert!(self.hostile || self.last_answer() == Some(n), "call {n} before the last answer");
                let answer = Resume::Return(n as i64 + 1);
                match n % 97 {
                    13 => {
                        self.late.fetch_add(1, Ordering::Relaxed);
                        let me = self.clone();
                        std::thread::spawn(move || {
                            std::thread::sleep(Duration::from_micros(n % 300));
                            me.task.resume(answer);
                        });
                    }
                    29 => {
                        if wait(self.task.ensure_frame()).is_ok() {
                            self.framed.fetch_add(1, Ordering::Relaxed);
                            let rip = self.task.registers().map(|r| r.rip).unwrap_or(ip);
                            assert!(self.hostile || rip == ip, "{rip:#x}, not {ip:#x}");
                            self.task.resume(answer);
                        }
                    }
                    _ => self.task.resume(answer),
                }
            }
            EventKind::Interrupted => {
                self.interrupted.fetch_add(1, Ordering::Relaxed);
                let regs = self.task.registers();
                let inside =
                    regs.as_ref().is_ok_and(|r| (CODE..CODE + 0x10000).contains(&r.rip) && r.gs_base == 0);
                assert!(self.hostile || inside, "{regs:x?}");
                self.task.resume(Resume::Frame);
            }
            EventKind::Exited { .. } | EventKind::Fault { .. } => {
                assert!(self.hostile, "{kind:?}");
                self.ended.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// A platform of this test's own, which polls at once.
fn eager() -> Option<Arc<SeccompPlatform>> {
    let options = Options { eager: true, ..Options::default() };
    let platform = Arc::new(SeccompPlatform::new(Config { proc_dir: None, options }).expect("platform"));
    if platform.not_notified().is_none() {
        println!("SKIP: needs several CPUs, FSGSBASE and WAIT_KILLABLE_RECV");
        return None;
    }
    for _ in 0..4 {
        let platform = platform.clone();
        std::thread::spawn(move || {
            loop {
                let event = platform.next_event(&|| {});
                if let Ok(caller) = event.owner.downcast::<OnceLock<Arc<Caller>>>() {
                    if let Some(caller) = caller.get() {
                        caller.handle(event.kind);
                    }
                }
            }
        });
    }
    Some(platform)
}

fn start(platform: &Arc<SeccompPlatform>, hostile: bool) -> Arc<Caller> {
    let Spawned { task, space } = wait(platform.new_space()).expect("new_space");
    let mut code = image();
    code.resize(SCRIBBLE as usize, 0xcc);
    // movabs rdi, MAILBOX; 1: mov [rdi], rax; mov [rdi + 8], rax; inc rax; jmp 1b
    code.extend_from_slice(&[0x48, 0xbf]);
    code.extend_from_slice(&MAILBOX.to_le_bytes());
    code.extend_from_slice(&[0x48, 0x89, 0x07, 0x48, 0x89, 0x47, 0x08, 0x48, 0xff, 0xc0, 0xeb, 0xf4]);
    code.resize(0x10000, 0xcc);
    let file: Arc<OwnedFd> = Arc::new(temp_file(&code).into());
    let map = |addr, len, prot, flags, file| HostOp::Mmap { addr, len, prot, flags, file };
    let ops = vec![
        map(CODE, 0x10000, 5, 0x12, Some((file, 0))),
        map(DATA, 0x10000, 3, 0x32, None),
        map(STACK_TOP - 0x10000, 0x10000, 3, 0x32, None),
    ];
    wait(space.apply(task.clone(), ops)).expect("apply");
    let mut regs = task.registers().expect("registers");
    regs.rip = entry!(g_getppid);
    regs.rsp = STACK_TOP - 0x100;
    task.set_registers(&regs).expect("set_registers");
    let zero = || AtomicU64::new(0);
    let caller = Arc::new(Caller {
        task: task.clone(),
        space,
        calls: zero(),
        late: zero(),
        framed: zero(),
        interrupted: zero(),
        ended: AtomicBool::new(false),
        hostile,
    });
    let owner = Arc::new(OnceLock::new());
    let _ = owner.set(caller.clone());
    task.set_owner(owner);
    if hostile {
        let Spawned { task: second, .. } = wait(task.spawn(Spawn::Thread)).expect("thread");
        let mut regs = second.registers().expect("registers");
        regs.rip = CODE + SCRIBBLE;
        second.set_registers(&regs).expect("set_registers");
        let owner = Arc::new(OnceLock::new());
        let _ = owner.set(caller.clone());
        second.set_owner(owner);
        task.resume(Resume::Frame);
        // The site is patched before another thread runs.
        std::thread::sleep(Duration::from_millis(100));
        second.resume(Resume::Frame);
    } else {
        task.resume(Resume::Frame);
    }
    caller
}

/// Each call once, with its own answer, under a storm of interrupts.
pub fn exactly_once(_: &Machine) {
    let Some(platform) = eager() else { return };
    let caller = start(&platform, false);
    let end = Instant::now() + Duration::from_millis(1500);
    let mut pause = 7u64;
    while Instant::now() < end {
        pause = pause.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let us = if pause >> 62 == 0 { 3000 } else { pause >> 56 };
        std::thread::sleep(Duration::from_micros(us));
        caller.task.interrupt();
    }
    let [calls, late, framed, interrupted] =
        [&caller.calls, &caller.late, &caller.framed, &caller.interrupted].map(|n| n.load(Ordering::SeqCst));
    let polled = platform.not_notified().unwrap_or(0);
    println!(
        "# {calls} calls, {polled} not notified, {late} late, {framed} framed, {interrupted} interrupts"
    );
    assert!(calls > 1000 && late > 5 && framed > 5 && interrupted > 100);
    assert!(polled > 500, "{polled}");
    caller.task.kill_process();
}

/// A guest that scribbles over its own mailbox harms nobody else.
pub fn forged_requests(_: &Machine) {
    let Some(platform) = eager() else { return };
    let hostile = start(&platform, true);
    let honest = start(&platform, false);
    let before = honest.calls.load(Ordering::SeqCst);
    for i in 0..300 {
        std::thread::sleep(Duration::from_millis(2));
        if i % 3 == 0 {
            hostile.task.interrupt();
        }
    }
    let calls = honest.calls.load(Ordering::SeqCst) - before;
    assert!(calls > 100, "{calls} calls beside it");
    hostile.task.kill_process();
    honest.task.kill_process();
    // And new programs start.
    let next = start(&platform, false);
    std::thread::sleep(Duration::from_millis(100));
    assert!(next.calls.load(Ordering::SeqCst) > 10);
    next.task.kill_process();
}
