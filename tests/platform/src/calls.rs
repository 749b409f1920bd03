//! System calls, faults and interrupts.

use crate::*;
use chitin_platform::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub fn getppid_and_copies(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    for i in 0..100i64 {
        m.syscall(&g, 110);
        assert!(!m.traits.lazy_frames || !g.task.has_frame());
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

pub fn brk_traps(m: &Machine) {
    let g = m.load(entry!(g_brk));
    g.task.resume(Resume::Frame);
    let args = m.syscall(&g, 12);
    wait(g.task.ensure_frame()).expect("frame");
    assert_eq!(args[0], 0x1234);
    let r = g.task.registers().expect("registers");
    assert_eq!(r.rdi, 0x1234);
    g.task.resume(Resume::Return(0x5678));
    assert_eq!(m.syscall(&g, 60)[0], 0x5678);
    g.task.exit_thread();
    m.no_event(50);
}

pub fn faults(m: &Machine) {
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

pub fn kick_running(m: &Machine) {
    let g = m.load(entry!(g_spin));
    g.task.resume(Resume::Frame);
    let mut last = 0;
    for round in 0..50 {
        while word(&g, DATA) == last {
            // What came after the last report was owed: it is another one.
            if let Ok(e) = m.events.try_recv() {
                assert!(matches!(e.kind, EventKind::Interrupted), "{:?}", e.kind);
                g.task.resume(Resume::Frame);
            }
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
        if round % 2 == 0 {
            g.task.interrupt();
            g.task.resume(Resume::Frame);
            m.interrupted(&g);
            assert_eq!(word(&g, DATA), last, "it runs though an interrupt was owed");
        }
        g.task.resume(Resume::Frame);
    }
}

pub fn kick_in_syscall(m: &Machine) {
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
    // Elsewhere the platform makes calls that are its own, and refuses others.
    assert!((r.rax as i64) >= 0 || !m.traits.host_side);
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

pub fn frame_on_demand(m: &Machine) {
    let g = m.load(entry!(g_getppid));
    g.task.resume(Resume::Frame);
    for i in 0..20u64 {
        m.syscall(&g, 110);
        assert!(!m.traits.lazy_frames || !g.task.has_frame());
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

pub fn fpu_and_bases(m: &Machine) {
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

/// A thread that is interrupted before it has run again where another one has been keeps its base all the same.
pub fn bases_after_interrupts(m: &Machine) {
    let a = m.load(entry!(g_bases));
    let base = |g: &Guest, at: u64| {
        let mut r = g.task.registers().expect("registers");
        r.fs_base = at;
        g.task.set_registers(&r).expect("set");
        g.space.write(at, &at.to_le_bytes()).expect("write");
    };
    base(&a, DATA);
    a.task.resume(Resume::Frame);
    assert_eq!(m.syscall(&a, 39)[0], DATA);
    let b = m.adopt(wait(a.task.spawn(Spawn::Thread)).expect("thread"));
    base(&b, DATA + 64);
    // On one processor, where a platform has any.
    let mut mask = a.task.affinity(None).expect("mask");
    let mut found = false;
    for byte in &mut mask {
        *byte = if found { 0 } else { *byte & byte.wrapping_neg() };
        found |= *byte != 0;
    }
    for g in [&a, &b] {
        g.task.affinity(Some(&mask)).expect("set");
    }
    for _ in 0..20 {
        for (g, at) in [(&a, DATA), (&b, DATA + 64)] {
            g.task.interrupt();
            g.task.resume(Resume::Return(0));
            m.interrupted(g);
            g.task.resume(Resume::Frame);
            assert_eq!(m.syscall(g, 39)[0], at, "the base of another thread");
        }
    }
}

pub fn interrupt_storm(m: &Machine) {
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
    let (end, last) = (Instant::now() + Duration::from_millis(700), Instant::now() + Duration::from_secs(10));
    // Where a call takes long (a nested virtual machine) few come through between two interrupts; but they must.
    while Instant::now() < end || (calls <= 50 && Instant::now() < last) {
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
