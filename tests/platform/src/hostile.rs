//! Guests that attack the platform's own range: nothing may run on the host without the sentry's consent, and nothing may
//! stop it.

use crate::*;
use chitin_platform::*;
use std::time::Duration;

/// The begin of the platform's own range, and a place behind its code.
fn own(g: &Guest) -> (u64, u64) {
    let stub = g.space.reserved().start;
    (stub, stub + 0x10_0000)
}

pub fn status(g: &Guest, key: &str) -> Option<String> {
    let s = std::fs::read_to_string(format!("/proc/{}/status", g.task.debug_id())).ok()?;
    s.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_string())
}

/// Every number, with odd arguments, from the guest's own code: always reported, never run.
pub fn every_number(m: &Machine) {
    let g = m.load(entry!(g_syscall));
    let stub = g.space.reserved().start;
    let mut regs = g.task.registers().expect("registers");
    let mut at_start = true;
    // uretprobe and uprobe: Linux 6.12 and 6.17 pass them by every filter; outside of a probe's trampoline they only
    // raise SIGILL or fail, which is what the guest is to see anyway.
    let unfiltered = [335, 336];
    for nr in (0..1024u64).chain([0x3fff_ffff, 0x0c71_7100]).filter(|nr| !unfiltered.contains(nr)) {
        for (a, b, c, d) in [(0, 0, 0, 0), (stub, u64::MAX, stub, 8), (stub + 0xf00, 0, 0, 8)] {
            if !at_start {
                wait(g.task.ensure_frame()).expect("frame");
            }
            at_start = false;
            (regs.rax, regs.rdi, regs.rsi, regs.rdx, regs.r10) = (nr, a, b, c, d);
            (regs.r8, regs.r9, regs.rip) = (1, 2, entry!(g_syscall));
            g.task.set_registers(&regs).expect("set");
            g.task.resume(Resume::Frame);
            let args = m.syscall(&g, nr);
            assert_eq!(args, [a, b, c, d, 1, 2]);
            g.task.resume(Resume::Return(-12345));
            assert_eq!(m.syscall(&g, 39)[0] as i64, -12345);
        }
    }
    for nr in unfiltered {
        wait(g.task.ensure_frame()).expect("frame");
        (regs.rax, regs.rip) = (nr, entry!(g_syscall));
        g.task.set_registers(&regs).expect("set");
        g.task.resume(Resume::Frame);
        match m.event().kind {
            EventKind::Fault { signal: libc::SIGILL, .. } => {}
            EventKind::Syscall { nr: 39, args, .. } => assert!((args[0] as i64) < 0),
            EventKind::Syscall { nr: n, .. } if n == nr => {}
            k => panic!("{k:?}"),
        }
    }
    regs.rip = entry!(g_syscall);
    // x32 numbers and -1 are reported, as the host takes them: 32 bits, with a sign.
    for nr in [0x4000_0000u64 + 39, u64::MAX, u64::MAX >> 32] {
        wait(g.task.ensure_frame()).expect("frame");
        regs.rax = nr;
        g.task.set_registers(&regs).expect("set");
        g.task.resume(Resume::Frame);
        m.syscall(&g, nr as i32 as u64);
        g.task.resume(Resume::Return(-38));
        assert_eq!(m.syscall(&g, 39)[0] as i64, -38);
    }
}

/// A signal frame that masks everything and takes the alternate stack away.
pub fn forged_frame(g: &Guest, uc: u64, rip: u64) {
    let mut f = vec![0u8; 304];
    let mut put = |o: usize, v: u64| f[o..o + 8].copy_from_slice(&v.to_le_bytes());
    put(24, 2); // SS_DISABLE
    put(160, STACK_TOP - 0x100);
    put(168, rip);
    put(176, 0x202);
    put(184, 0x33 | 0x2b << 48);
    put(296, u64::MAX);
    g.space.write(uc, &f).expect("forge");
}

/// Answers whatever a hostile guest does for a while, then kills it.
pub fn endure(m: &Machine, g: &Guest) {
    let mut kicked = false;
    for _ in 0..10 {
        let Ok(e) = m.events.recv_timeout(Duration::from_millis(3)) else {
            if kicked {
                break;
            }
            kicked = true;
            g.task.interrupt();
            continue;
        };
        if guest_of(&e).id != g.id {
            continue; // a straggler of the one before
        }
        match e.kind {
            EventKind::Syscall { .. } => g.task.resume(Resume::Return(-38)),
            EventKind::Interrupted => g.task.resume(Resume::Frame),
            EventKind::Fault { .. } => break,
            EventKind::Exited { signal } => {
                assert_ne!(signal, 0, "the guest ended itself: a host call ran without consent");
                return;
            }
        }
    }
    let umask = if m.traits.host_side { status(g, "Umask:") } else { None };
    assert_ne!(umask.as_deref(), Some("0123"), "a host call ran without consent");
    g.task.kill_process();
}

/// Jumps to every byte of the stub with registers that would hurt.
pub fn jumps_into_the_stub(m: &Machine) {
    if !m.traits.host_side {
        return;
    }
    let g = m.load(entry!(g_jump));
    let (stub, window) = own(&g);
    let forged = DATA + 0x800;
    forged_frame(&g, forged, entry!(g_brk));
    let calls = [95u64, 231, 60, 11, 128, 15];
    for off in (0..0x300u64).chain((0x300..0x1000).step_by(61)) {
        let c = m.adopt(wait(g.task.spawn(Spawn::Fork)).expect("fork"));
        let mut r = c.task.registers().expect("registers");
        let nr = calls[off as usize % calls.len()];
        (r.rax, r.rdi, r.rsi, r.rdx) = (nr, 0o123, 0x4000, 0);
        (r.r10, r.r8, r.r9) = (8, 1023, 0);
        (r.r12, r.r13, r.r14, r.r15) = (DATA, forged, 2, DATA + 64);
        (r.rbx, r.rbp, r.rip, r.rsp) = (stub + off, 0x101, entry!(g_jump), forged);
        if off % 2 == 1 {
            (r.r12, r.r13, r.rsp) = (window, window + 0x3000, window + 0x2800);
        }
        c.task.set_registers(&r).expect("set");
        // Forged lists, in case the jump lands in the loop.
        let mut list = Vec::new();
        for v in [2u64, 1, 0, 0, 0, 0, 0, 0, 95, 0o123, 0, 0, 0, 0, 0, 0, 231, 0, 0, 0, 0, 0, 0, 0] {
            list.extend(v.to_le_bytes());
        }
        c.space.write(DATA, &list).expect("write");
        c.task.resume(Resume::Frame);
        endure(m, &c);
    }
    g.task.resume(Resume::Frame);
}

/// Unmapping, protecting or replacing the window through calls that the kernel would continue natively.
pub fn window_calls(m: &Machine) {
    if !m.traits.host_side {
        return;
    }
    let g = m.load(entry!(g_call6));
    let (stub, window) = own(&g);
    let t = &*g.task;
    let s = &g.space;
    for addr in [stub, window, window + 0x1000, stub + 0xffff_f000, stub - 4096] {
        let len = 8192;
        let fixed = (libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;
        let refused = [
            MapCall::Munmap { addr, len },
            MapCall::Mprotect { addr, len, prot: 7 },
            MapCall::Madvise { addr, len, advice: 4 },
            MapCall::Range { addr, len },
            MapCall::Mmap { addr, len, prot: 7, flags: fixed, file: None, offset: 0 },
            MapCall::Mremap { old: addr, old_len: len, new_len: 4096, flags: 1, new: 0 },
            MapCall::Mremap { old: DATA, old_len: 4096, new_len: len, flags: 3, new: addr },
        ];
        for c in refused {
            assert!(s.map_call(t, &c).is_err(), "{c:x?}");
        }
        let op = HostOp::Munmap { addr, len };
        assert!(wait(s.apply(g.task.clone(), vec![op])).is_err());
        assert!(s.write(addr, &[0; 8192]).is_err());
    }
    // A hint is only a hint: the host finds another place.
    let hint = HostOp::Mmap { addr: window, len: 8192, prot: 3, flags: 0x22, file: None };
    let r = wait(s.apply(g.task.clone(), vec![hint])).expect("apply");
    assert!(!s.reserved().contains(&r[0]));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 0);
}
