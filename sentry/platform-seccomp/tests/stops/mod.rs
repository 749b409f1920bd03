//! The host interrupts a stub for reasons of its own (SIGSTOP here; the cgroup freezer, a suspend and a debugger do the
//! same): a call that waits for its answer is wound back and made again. Nothing may be lost, or done twice.

use chitin_platform::*;
use chitin_platform_tests::*;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Stops and continues a process again and again until it is dropped.
struct Storm {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Storm {
    fn upon(g: &Guest) -> Storm {
        Storm::upon_process(g.task.debug_id() as i32)
    }

    fn upon_process(pid: i32) -> Storm {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            let mut round = 0u32;
            while !seen.load(Ordering::Relaxed) {
                round += 1;
                unsafe { libc::kill(pid, libc::SIGSTOP) };
                (0..round % 300).for_each(|_| std::hint::spin_loop());
                unsafe { libc::kill(pid, libc::SIGCONT) };
                (0..round * 7 % 900).for_each(|_| std::hint::spin_loop());
            }
        });
        Storm { over, thread: Some(thread) }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("storm");
        }
    }
}

/// Waits until the process is stopped, or continued.
fn send(g: &Guest, signal: i32) {
    unsafe { libc::kill(g.task.debug_id() as i32, signal) };
    if signal == libc::SIGSTOP {
        // One that waits killably stops later.
        for _ in 0..20 {
            match status(g, "State:") {
                Some(s) if s.starts_with('T') => return,
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

/// Answers while the process is stopped, and before and after: each arrives, once.
pub fn answered(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 110);
    for i in 0..30 {
        send(&g, libc::SIGSTOP);
        match i % 3 {
            0 => {}
            1 => g.task.interrupt(),
            _ => send(&g, libc::SIGCONT),
        }
        g.task.resume(Resume::Return(i));
        send(&g, libc::SIGCONT);
        if i % 3 == 1 {
            m.interrupted(&g);
            assert_eq!(g.task.registers().expect("registers").rax, i as u64);
            g.task.resume(Resume::Frame);
        }
        m.syscall(&g, 110);
        assert_eq!(word(&g, DATA), i as u64);
    }
    // A frame that is wanted of a stopped one.
    for i in 0..10 {
        send(&g, libc::SIGSTOP);
        let asked = g.task.ensure_frame();
        send(&g, libc::SIGCONT);
        wait(asked).expect("frame");
        send(&g, libc::SIGSTOP);
        g.task.resume(Resume::Return(i));
        send(&g, libc::SIGCONT);
        m.syscall(&g, 110);
        assert_eq!(word(&g, DATA), i as u64);
    }
}

pub fn storm(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    let _storm = Storm::upon(&g);
    g.task.resume(Resume::Frame);
    let killable = crate::platform().features().wait_killable;
    let (mut calls, mut twice) = (0i64, 0);
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        let e = m.event();
        assert_eq!(guest_of(&e).id, g.id, "{:?}", e.kind);
        match e.kind {
            EventKind::Syscall { nr: 110, .. } => {
                let last = word(&g, DATA) as i64;
                if calls > 0 && last != calls + 100 {
                    // The host's own gap without WAIT_KILLABLE_RECV (see the crate's `restart`).
                    assert!(!killable, "{last} instead of {}: the call before was made twice", calls + 100);
                    twice += 1;
                    g.task.resume(Resume::Return(calls + 100));
                    continue;
                }
                calls += 1;
                match calls % 8 {
                    1 => g.task.interrupt(),
                    3 => wait(g.task.ensure_frame()).expect("frame"),
                    5 => fork(m, &g, calls),
                    7 => thread(m, &g, calls),
                    _ => {}
                }
                g.task.resume(Resume::Return(calls + 100));
            }
            EventKind::Interrupted => g.task.resume(Resume::Frame),
            k => panic!("{k:?}"),
        }
    }
    assert!(calls > 20 && twice < calls / 10, "{calls} calls, {twice} of them twice");
    println!("# {calls} calls, {twice} of them twice");
}

fn fork(m: &Machine, g: &Guest, n: i64) {
    let child = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
    child.task.resume(Resume::Return(-n));
    m.syscall(&child, 110);
    assert_eq!(word(&child, DATA) as i64, -n);
    child.task.kill_process();
}

/// A thread that makes a call, and ends.
fn thread(m: &Machine, g: &Guest, n: i64) {
    let t = m.adopt(wait(g.task.spawn(Spawn::Thread)).expect("thread"));
    t.task.resume(Resume::Return(-n));
    m.syscall(&t, 110);
    assert_eq!(word(&t, DATA) as i64, -n);
    t.task.exit_thread();
    g.space.write(DATA, &(n + 99).to_le_bytes()).expect("write");
}

/// The process that all others are forked from.
pub fn zygote(m: &Machine) {
    let _storm = Storm::upon_process(crate::platform().process_group());
    let end = Instant::now() + Duration::from_millis(1000);
    let mut made = 0;
    while Instant::now() < end {
        let g = m.load(entry!(g_getppid));
        g.task.resume(Resume::Frame);
        m.syscall(&g, 110);
        g.task.kill_process();
        made += 1;
    }
    assert!(made > 3, "{made} made");
}

/// A descriptor that is being installed when the call is wound back.
pub fn file_maps(m: &Machine) {
    let g = m.load(entry!(g_call6));
    let file = temp_file(&[0x77; 4096]);
    let _storm = Storm::upon(&g);
    let end = Instant::now() + Duration::from_millis(1000);
    let mut maps = 0;
    m.arm(&g, 9, [0, 0x1000, 1, 2, 7, 0]);
    g.task.resume(Resume::Frame);
    let map = |file| MapCall::Mmap { addr: 0, len: 0x1000, prot: 1, flags: 2, file, offset: 0 };
    while Instant::now() < end {
        // Either call may come twice without WAIT_KILLABLE_RECV (see above).
        match m.event().kind {
            EventKind::Syscall { nr: 9, .. } => {
                let file = MapFile { guest_fd: 7, host: file.as_fd() };
                assert_eq!(g.space.map_call(&*g.task, &map(Some(file))), Ok(Native::Host));
                g.task.resume(Resume::Native);
            }
            EventKind::Syscall { nr: 39, .. } => {
                let at = word(&g, DATA);
                assert!((at as i64) > 0, "{at}");
                assert_eq!(word(&g, at), 0x7777_7777_7777_7777);
                maps += 1;
                g.task.resume(Resume::Return(0));
            }
            k => panic!("{k:?}"),
        }
    }
    assert!(maps > 10, "{maps} maps");
}
