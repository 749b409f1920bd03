//! Guests that attack their stub: nothing may run on the host without the sentry's consent, and nothing may stop it.

use crate::common::*;
use crate::entry;
use chitin_platform::*;
use std::time::Duration;

const STUB: u64 = 0x7000_0000_0000;
const WINDOW: u64 = STUB + 0x10_0000;

fn status(g: &Guest, key: &str) -> Option<String> {
    let s = std::fs::read_to_string(format!("/proc/{}/status", g.task.debug_id())).ok()?;
    s.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_string())
}

/// Every number, with odd arguments, from the guest's own code: always reported, never run.
pub fn every_number(m: &Machine) {
    let g = m.load(entry!(g_syscall));
    let mut regs = g.task.registers().expect("registers");
    let mut at_start = true;
    // uretprobe and uprobe: Linux 6.12 and 6.17 pass them by every filter; outside of a probe's trampoline they only
    // raise SIGILL or fail, which is what the guest is to see anyway.
    let unfiltered = [335, 336];
    for nr in (0..1024u64).chain([0x3fff_ffff, 0x0c71_7100]).filter(|nr| !unfiltered.contains(nr)) {
        for (a, b, c, d) in [(0, 0, 0, 0), (STUB, u64::MAX, STUB, 8), (STUB + 0xf00, 0, 0, 8)] {
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
fn forged_frame(g: &Guest, uc: u64, rip: u64) {
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
fn endure(m: &Machine, g: &Guest) {
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
    assert_ne!(status(g, "Umask:").as_deref(), Some("0123"), "a host call ran without consent");
    g.task.kill_process();
}

/// Jumps to every byte of the stub with registers that would hurt.
pub fn jumps_into_the_stub(m: &Machine) {
    let g = m.load(entry!(g_jump));
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
        (r.rbx, r.rbp, r.rip, r.rsp) = (STUB + off, 0x101, entry!(g_jump), forged);
        if off % 2 == 1 {
            (r.r12, r.r13, r.rsp) = (WINDOW, WINDOW + 0x3000, WINDOW + 0x2800);
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
    let g = m.load(entry!(g_call6));
    let t = &*g.task;
    let s = &g.space;
    for addr in [STUB, WINDOW, WINDOW + 0x1000, STUB + 0xffff_f000, STUB - 4096] {
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
    let hint = HostOp::Mmap { addr: WINDOW, len: 8192, prot: 3, flags: 0x22, file: None };
    let r = wait(s.apply(g.task.clone(), vec![hint])).expect("apply");
    assert!(!s.reserved().contains(&r[0]));
    g.task.resume(Resume::Frame);
    m.syscall(&g, 0);
}

/// A guest that masks every signal by a forged rt_sigreturn can still be killed, and hurts nobody else.
pub fn forged_mask(m: &Machine) {
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
